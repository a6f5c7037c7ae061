//! Dirty bitmaps and ranges that leave out what has changed.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use proptest::prelude::*;
use strongroom_base::{ByteRange, PointId};
use strongroom_disk::DiskSource as _;
use strongroom_engine::{CleanCheck, DiskBackupReport};
use strongroom_vault::Vault;

use crate::{
    common::{Place, noise, request},
    tools::{BLOCK, Disk, back_up, code, ranges, restored, source, try_backup},
};

/// Backs up a disk whose bitmap says that these blocks have changed.
fn said(
    vault: &Arc<Vault>,
    disk: &Disk,
    blocks: &[u64],
    clean: CleanCheck,
) -> (PointId, DiskBackupReport, Arc<Disk>) {
    let mut copy = disk.copy();
    copy.bitmap = Some(ranges(blocks));
    let copy = Arc::new(copy);
    let mut part = source("vda", &copy);
    part.clean = clean;
    let report = try_backup(vault, &request("web01", vec![part])).expect("backup");
    (report.recovery_point, report.disks[0].clone(), copy)
}

/// The same, and the point must be right.
fn right(
    vault: &Arc<Vault>,
    disk: &Disk,
    blocks: &[u64],
    clean: CleanCheck,
) -> (DiskBackupReport, Arc<Disk>) {
    let (point, report, copy) = said(vault, disk, blocks, clean);
    restored(vault, point, disk).expect("the disk as it is");
    let point = vault.point("web01", point).expect("point");
    assert_eq!(point.disks[0].unexpected_blocks, report.unexpected_blocks);
    assert_eq!(point.disks[0].notes, report.notes);
    (report, copy)
}

#[test]
fn one_block_that_was_left_out_is_found_where_nothing_is_believed() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 600);
    let (first, _) = right(&vault, &disk, &[], CleanCheck::All);
    assert_eq!((first.changes_from.as_str(), first.checked_blocks), ("all", 0));
    disk.set_block(3, noise(30, 65_536));
    disk.set_block(555, noise(31, 65_536));
    let (report, _) = right(&vault, &disk, &[3], CleanCheck::All);
    assert_eq!((report.checked_blocks, report.unexpected_blocks), (599, 1));
    assert_eq!((report.changes_from.as_str(), report.changed_bytes), ("all", 2 * BLOCK));
    assert_eq!(report.notes, ["1 block had changed that the dirty bitmap had missed"]);
    disk.clear_block(4);
    let (report, _) = right(&vault, &disk, &[], CleanCheck::All);
    assert_eq!(report.unexpected_blocks, 1);
    let (report, _) = right(&vault, &disk, &[], CleanCheck::All);
    assert_eq!((report.unexpected_blocks, report.notes.len()), (0, 0));
    // Where it is believed it is believed.
    disk.set_block(5, noise(32, 65_536));
    let (_, report, _) = said(&vault, &disk, &[], CleanCheck::Trust);
    assert_eq!((report.read_bytes, report.checked_blocks), (0, 0));
}

#[test]
fn a_sample_finds_a_lie_of_many_blocks_and_everything_is_compared() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 2000);
    back_up(&vault, &Arc::new(disk.copy())).expect("backup");
    for block in 0..1000 {
        disk.set_block(block * 2, noise(5_000_000 + block, 65_536));
    }
    let (report, copy) = right(&vault, &disk, &[0, 2], CleanCheck::SAMPLE);
    assert_eq!((report.changes_from.as_str(), report.unexpected_blocks), ("all", 998));
    assert_eq!(report.checked_blocks, 1998);
    assert_eq!(report.allocated_bytes, Some(2000 * BLOCK));
    assert!(report.notes[0].contains("998 blocks"), "{:?}", report.notes);
    assert!(copy.reads.load(Ordering::SeqCst) <= 2000 / 32 + 2000 / 256 + 64 + 8);
    // Caller's ranges as well.
    for block in 0..1000 {
        disk.clear_block(block);
    }
    let mut part = source("vda", &Arc::new(disk.copy()));
    part.changed = Some(ranges(&[0]));
    part.clean = CleanCheck::SAMPLE;
    let report = try_backup(&vault, &request("web01", vec![part])).expect("backup");
    assert_eq!(report.disks[0].unexpected_blocks, 999);
    assert!(report.disks[0].notes[0].contains("the changed ranges had missed"));
    restored(&vault, report.recovery_point, &disk).expect("the disk as it is");
}

#[test]
fn a_disk_cut_off_and_made_longer_again_is_found() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 3000);
    (2000..3000).for_each(|block| disk.clear_block(block));
    disk.set_block(2900, noise(1, 65_536));
    disk.set_block(2901, noise(2, 65_536));
    back_up(&vault, &Arc::new(disk.copy())).expect("backup");
    // One block of many that the bitmap does not know of, but it is the last.
    disk.clear_block(2900);
    disk.set_block(2901, noise(3, 65_536));
    let (report, _) = right(&vault, &disk, &[2901], CleanCheck::SAMPLE);
    assert_eq!((report.changes_from.as_str(), report.unexpected_blocks), ("all", 1));
}

#[test]
fn what_the_bitmap_need_not_tell_is_read() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 1000);
    back_up(&vault, &Arc::new(disk.copy())).expect("backup");
    disk.set_block(7, noise(1, 65_536));
    disk.set_block(500, noise(2, 65_536));
    let mut copy = disk.copy();
    copy.bitmap = Some(ranges(&[7]));
    let copy = Arc::new(copy);
    let mut part = source("vda", &copy);
    part.also_changed = ranges(&[499, 500, 2000]);
    let report = try_backup(&vault, &request("web01", vec![part])).expect("backup");
    assert_eq!(report.disks[0].changed_bytes, 2 * BLOCK);
    assert_eq!(copy.reads.load(Ordering::SeqCst), 2);
    restored(&vault, report.recovery_point, &disk).expect("the disk as it is");
}

#[test]
fn what_appears_in_holes_is_found() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::new(20_000 * BLOCK);
    back_up(&vault, &Arc::new(disk.copy())).expect("backup");
    (9000..9300).for_each(|block| disk.set_block(block, noise(block, 65_536)));
    let (report, _) = right(&vault, &disk, &[], CleanCheck::SAMPLE);
    assert_eq!(report.unexpected_blocks, 300);
    // What the source calls data may be zeros all the same.
    let mut zeros = disk.copy();
    for block in 0..5000 {
        zeros.block_mut(block);
    }
    let (report, _) = right(&vault, &zeros, &[], CleanCheck::SAMPLE);
    assert_eq!((report.unexpected_blocks, report.changes_from.as_str()), (0, "bitmap"));
}

#[test]
fn the_truth_costs_only_the_sample() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 1000);
    back_up(&vault, &Arc::new(disk.copy())).expect("backup");
    for (size, clean, sample) in [
        (1000, CleanCheck::SAMPLE, 64),
        (1000, CleanCheck::Sample { one_in: 5 }, 199),
        (1000, CleanCheck::Sample { one_in: 0 }, 999),
        (1000, CleanCheck::Trust, 0),
        (50, CleanCheck::SAMPLE, 49),
        (1, CleanCheck::SAMPLE, 0),
    ] {
        if size * BLOCK != disk.size() {
            disk = Disk::with_noise(size, size);
            back_up(&vault, &Arc::new(disk.copy())).expect("backup");
        }
        disk.set_block(0, noise(sample + 999 * size, 65_536));
        let (report, copy) = right(&vault, &disk, &[0], clean);
        assert_eq!((report.unexpected_blocks, report.changes_from.as_str()), (0, "bitmap"));
        let close = sample - sample / 4..=sample;
        assert!(close.contains(&report.checked_blocks), "{report:?} of {sample}");
        assert_eq!(report.read_bytes, (1 + report.checked_blocks) * BLOCK);
        assert_eq!(copy.reads.load(Ordering::SeqCst), 1 + report.checked_blocks);
    }
}

#[test]
fn a_sample_of_a_disk_of_256_tib_follows_its_data() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::new(1 << 48);
    for leaf in 0..100 {
        disk.set_block(leaf * (1 << 32) / 100, noise(leaf, 65_536));
    }
    back_up(&vault, &Arc::new(disk.copy())).expect("backup");
    let (report, copy) = right(&vault, &disk, &[7], CleanCheck::SAMPLE);
    assert_eq!((report.unexpected_blocks, report.changes_from.as_str()), (0, "bitmap"));
    assert!((50..=100).contains(&report.checked_blocks), "{report:?}");
    assert!(copy.questions.load(Ordering::SeqCst) < 10_000);
    // Where it is believed, the source is asked about nothing else: a server may have to read
    // tables to tell what is allocated.
    let (_, _, copy) = said(&vault, &disk, &[7, 9, 1 << 31], CleanCheck::Trust);
    let asked = copy.asked.lock().expect("no panic").clone();
    let told =
        [ByteRange::between(7 * BLOCK, 10 * BLOCK), ByteRange::new(1 << 47, BLOCK).expect("fits")];
    assert!(
        asked.iter().all(|range| told.iter().any(|told| told.intersect(*range) == *range)),
        "{asked:?}"
    );
}

#[test]
fn what_cannot_be_read_is_noted_and_not_taken_for_a_change() {
    let place = Place::new();
    let vault = place.open();
    let disk = Disk::with_noise(1, 10);
    back_up(&vault, &Arc::new(disk.copy())).expect("backup");
    let mut broken = disk.copy();
    broken.bitmap = Some(ranges(&[0]));
    broken.bad = vec![ByteRange::between(4 * BLOCK + 512, 4 * BLOCK + 1024)];
    let mut part = source("vda", &Arc::new(broken));
    part.clean = CleanCheck::SAMPLE;
    let mut wish = request("web01", vec![part]);
    let report = try_backup(&vault, &wish).expect("backup");
    assert_eq!((report.disks[0].checked_blocks, report.disks[0].unexpected_blocks), (8, 0));
    assert!(report.disks[0].notes[0].contains("1 block that"), "{report:?}");
    restored(&vault, report.recovery_point, &disk).expect("the parent has it");
    // Who wants to believe nothing must be able to read everything.
    wish.disks[0].clean = CleanCheck::All;
    assert_eq!(code(&try_backup(&vault, &wish).expect_err("bad")), "backup.source_read");
}

/// Where two disks differ.
fn differing(old: &Disk, new: &Disk) -> BTreeSet<u64> {
    let (old, new) = (old.data(), new.data());
    old.keys().chain(new.keys()).filter(|b| old.get(b) != new.get(b)).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Writes that are told of or not, resizes, and parents that are the newest point or not.
    #[test]
    fn every_lie_is_counted_or_there_was_none(
        steps in prop::collection::vec(
            (1_u64..1200, prop::collection::vec((0_u64..1200, 0_u64..4, any::<bool>()), 0..12), any::<bool>(), any::<prop::sample::Index>()),
            2..5,
        )
    ) {
        let place = Place::new();
        let vault = place.open();
        let mut disk = Disk::new(600 * BLOCK);
        (0..600).step_by(3).for_each(|block| disk.set_block(block, noise(block, 65_536)));
        let first = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
        let mut states = vec![(first, disk)];
        for (number, (size, writes, all, parent)) in steps.into_iter().enumerate() {
            let (parent, old) = &states[parent.index(states.len())];
            let mut disk = old.copy();
            disk.resize(size * BLOCK + 512);
            let mut told = vec![];
            for (block, kind, tell) in writes {
                let block = block % (size + 1);
                if block == size || kind == 0 {
                    disk.clear_block(block);
                } else {
                    let seed = u64::try_from(number).expect("small") * 10_000 + block * 4 + kind;
                    disk.set_block(block, noise(seed, 65_536));
                }
                if tell {
                    told.push(block);
                }
            }
            let mut copy = disk.copy();
            copy.bitmap = Some(ranges(&told));
            let mut part = source("vda", &Arc::new(copy));
            part.clean = if all { CleanCheck::All } else { CleanCheck::Sample { one_in: 1 } };
            let mut wish = request("web01", vec![part]);
            wish.parent = Some(*parent);
            let report = try_backup(&vault, &wish).expect("backup");
            // What is resized is known to differ.
            let smaller = old.size().min(disk.size()) / BLOCK;
            let resized = if old.size() == disk.size() { u64::MAX } else { smaller };
            let lies = differing(old, &disk);
            let lies = lies.into_iter().filter(|block| !told.contains(block) && *block < resized);
            let lies = u64::try_from(lies.count()).expect("small");
            let found = &report.disks[0];
            prop_assert_eq!(report.parent, Some(*parent));
            if all || found.changes_from == "all" || lies == 0 {
                prop_assert_eq!(found.unexpected_blocks, lies);
                prop_assert!(restored(&vault, report.recovery_point, &disk).is_ok());
                states.push((report.recovery_point, disk));
            } else {
                // Of a sample nothing is certain; this point is not built upon.
                prop_assert_eq!(found.unexpected_blocks, 0);
            }
        }
    }
}
