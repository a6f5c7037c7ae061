//! Targets that are too small, too long, not blank, or that fail; and restores that break off.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use strongroom_base::{ByteRange, Cancel};
use strongroom_disk::DiskError;

use crate::{
    common::Place,
    tools::{BLOCK, Disk, Target, back_up, chain, code, restore_to},
};

/// Noise with holes in between and at the end.
fn holey() -> Disk {
    let mut disk = Disk::with_noise(1, 200);
    (0..200).filter(|block| block % 7 < 3).for_each(|block| disk.clear_block(block));
    disk.resize(300 * BLOCK + 512);
    disk
}

#[test]
fn a_target_that_is_too_small_is_left_alone() {
    let place = Place::new();
    let vault = place.open();
    let point = back_up(&vault, &Arc::new(holey())).expect("backup").recovery_point;
    let target = Arc::new(Target::garbage(300 * BLOCK));
    let error = restore_to(&vault, "web01", point, &target, false, &Cancel::new());
    assert_eq!(code(&error.expect_err("512 bytes too small")), "disk.too_small");
    assert_eq!(target.calls.load(Ordering::Relaxed), 0);
}

#[test]
fn a_target_with_old_content_has_the_point_and_nothing_else() {
    let place = Place::new();
    let vault = place.open();
    let disk = holey();
    let size = 300 * BLOCK + 512;
    let point = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
    for compare in [false, true] {
        // Longer than the disk: what is beyond stays.
        for target in [size, 310 * BLOCK] {
            let target = Arc::new(Target::garbage(target));
            restore_to(&vault, "web01", point, &target, compare, &Cancel::new()).expect("restore");
            assert!(target.data(size) == disk.data(), "compare: {compare}");
            if let Some(beyond) = target.raw_block(305) {
                assert!(beyond.iter().all(|byte| *byte == 0xab));
                assert!(target.raw_block(300).expect("there")[512..].iter().all(|b| *b == 0xab));
            }
        }
    }
    let target = Arc::new(Target::holding(&disk));
    let report =
        restore_to(&vault, "web01", point, &target, true, &Cancel::new()).expect("restore");
    assert_eq!((report.disks[0].written_blocks, target.writes.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn failing_targets_are_named() {
    let place = Place::new();
    let vault = place.open();
    let disk = holey();
    let size = 300 * BLOCK + 512;
    let point = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
    for full in [false, true] {
        let mut target = Target::blank(size);
        target.on_write = Some(Box::new(move |nth| {
            let range = ByteRange::between(0, 4096);
            let disk = "the target".to_owned();
            let source = io::Error::from_raw_os_error(5);
            match nth {
                0 => Ok(()),
                _ if full => Err(DiskError::Full { disk, range }),
                _ => Err(DiskError::Write { disk, range, source }),
            }
        }));
        let error = restore_to(&vault, "web01", point, &Arc::new(target), false, &Cancel::new());
        let error = error.expect_err("it fails");
        assert_eq!(code(&error), if full { "disk.full" } else { "disk.io" });
        assert!(chain(&error).contains("vda"), "{}", chain(&error));
    }
    let mut target = Target::garbage(size);
    target.fail_reads = true;
    let error = restore_to(&vault, "web01", point, &Arc::new(target), true, &Cancel::new());
    assert_eq!(code(&error.expect_err("it cannot be compared")), "disk.io");
}

#[test]
fn a_restore_that_was_stopped_goes_on_where_it_was() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 1600);
    (0..1600).filter(|block| block % 9 == 3).for_each(|block| disk.clear_block(block));
    let point = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
    let cancel = Cancel::new();
    let mut target = Target::garbage(1600 * BLOCK);
    let stop = cancel.clone();
    target.on_write = Some(Box::new(move |nth| {
        if nth == 60 {
            stop.cancel();
        }
        Ok(())
    }));
    let target = Arc::new(target);
    let error = restore_to(&vault, "web01", point, &target, false, &cancel).expect_err("stopped");
    assert_eq!(code(&error), "interrupted");
    let before = target.written.swap(0, Ordering::Relaxed);
    let all: u64 = u64::try_from(disk.data().len()).expect("small") * BLOCK;
    assert!(before > 0 && before < all, "{before} of {all}");
    let report =
        restore_to(&vault, "web01", point, &target, true, &Cancel::new()).expect("the same again");
    assert!(target.data(1600 * BLOCK) == disk.data());
    assert_eq!(report.disks[0].written_bytes, all - before, "only the rest");
    assert_eq!(target.written.load(Ordering::Relaxed), all - before);
}
