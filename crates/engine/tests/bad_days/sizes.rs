//! Very large disks, little memory, and long lines of small changes.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use strongroom_base::Cancel;
use strongroom_vault::{ReclaimOptions, reclaim};

use crate::{
    common::{Place, noise, request},
    tools::{BLOCK, Disk, Target, back_up, ranges, restore_to, restored, source, try_backup},
};

const TIB: u64 = 1 << 40;

#[test]
fn costs_of_a_disk_of_256_tib_follow_its_data() {
    let started = Instant::now();
    let place = Place::new();
    let vault = place.open();
    let size = 256 * TIB;
    let mut disk = Disk::new(size);
    let last = size / BLOCK - 1;
    let spots = [0, 1, 100_000, 1 << 20, 3 << 28, (1 << 31) + 77, last - 1, last];
    spots.iter().for_each(|block| disk.set_block(*block, noise(*block, 65536)));
    let first = Arc::new(disk.copy());
    let point = back_up(&vault, &first).expect("backup").recovery_point;
    assert!(first.reads.load(Ordering::Relaxed) <= 16, "{:?}", first.reads);
    assert!(first.questions.load(Ordering::Relaxed) <= 64, "{:?}", first.questions);

    disk.block_mut(3 << 28)[..4].fill(1);
    disk.clear_block(1);
    disk.set_block(77 << 20, noise(5, 65536));
    let second = Arc::new(disk.copy());
    let mut part = source("vda", &second);
    part.changed = Some(ranges(&[1, 3 << 28, 77 << 20]));
    let report = try_backup(&vault, &request("web01", vec![part])).expect("backup");
    assert_eq!(report.disks[0].read_bytes, 2 * BLOCK);
    assert!(report.stored_bytes < 300_000, "{report:?}");
    // All of it compared, nothing stored.
    let third = Arc::new(disk.copy());
    let again = back_up(&vault, &third).expect("backup");
    assert_eq!(again.disks[0].changed_bytes, 0);

    restored(&vault, point, &first).expect("restore");
    restored(&vault, report.recovery_point, &second).expect("restore");
    // In place, upon what the first point left; and over something that is not blank.
    for compare in [true, false] {
        let target = Arc::new(Target::holding(&first).not_blank());
        let point = report.recovery_point;
        let done = restore_to(&vault, "web01", point, &target, compare, &Cancel::new());
        let done = done.expect("restore");
        assert!(target.data(size) == second.data());
        if compare {
            assert_eq!(done.disks[0].written_blocks, 3, "{done:?}");
        }
        assert!(target.calls.load(Ordering::Relaxed) < 50_000, "{:?}", target.calls);
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn generations_of_small_changes_restore_exactly_with_and_without_the_older_ones() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 40);
    let mut points = vec![];
    for generation in 0..12_u64 {
        // The same blocks each time: deltas against the first version, never upon each other.
        for block in 0..20 {
            let at = usize::try_from(generation * 100 + block).expect("small");
            disk.block_mut(block)[at..at + 8].copy_from_slice(&(generation + 1).to_le_bytes());
        }
        let report = back_up(&vault, &Arc::new(disk.copy())).expect("backup");
        if generation > 0 {
            assert_eq!(report.disks[0].delta_blocks, 20, "{report:?}");
            assert!(report.disks[0].stored_bytes < 20 * 4096, "{report:?}");
        }
        points.push((report.recovery_point, disk.copy()));
    }
    for (point, wanted) in &points {
        restored(&vault, *point, wanted).expect("every generation");
    }
    let options = ReclaimOptions { compact_below: 90, ..ReclaimOptions::default() };
    for (point, _) in points.drain(0..10) {
        vault.delete_point("web01", point, "here").expect("delete");
        if point.to_bytes()[15] % 3 == 0 {
            reclaim(&vault, &options, &Cancel::new()).expect("reclaim");
        }
    }
    reclaim(&vault, &options, &Cancel::new()).expect("reclaim");
    fs::remove_dir_all(place.path("cache")).expect("a cache");
    for (point, wanted) in &points {
        restored(&place.open(), *point, wanted).expect("their bases are kept");
    }
}

/// The child of the next test: backs up and restores in a process of its own.
#[test]
fn child_that_backs_up_a_large_sparse_file() {
    if std::env::var_os("STRONGROOM_TEST_CHILD").is_none() {
        return; // it is the child of the next test
    }
    let place = Place::new();
    let file = fs::File::create(place.path("vda.raw")).expect("create");
    file.set_len(64 << 30).expect("size");
    for part in 0..150_u64 {
        let data = noise(part, 1 << 20);
        file.write_all_at(&data, part * 433_000_000).expect("write");
    }
    drop(file);
    let vault = {
        // Packs of the usual size: their buffers are most of the memory.
        let options = strongroom_vault::VaultOptions {
            pack_size: strongroom_vault::VaultOptions::default().pack_size,
            ..place.options()
        };
        let store: Arc<dyn strongroom_objects::ObjectStore> = Arc::new(place.folder());
        Arc::new(strongroom_vault::Vault::open(store, &place.key(), options).expect("opens"))
    };
    let point = place.backup(&vault, &[("vda", None)]).recovery_point;
    let to = place.path("again.raw");
    Place::restore(&vault, point, "vda", &to, false);
    let again = fs::File::open(&to).expect("open");
    for part in 0..150_u64 {
        let mut data = vec![0; 1 << 20];
        again.read_exact_at(&mut data, part * 433_000_000).expect("read");
        assert!(data == noise(part, 1 << 20));
    }
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).expect("VmHWM");
    println!("peak={}", peak.split_whitespace().nth(1).expect("a number"));
}

#[test]
fn memory_does_not_follow_the_size_of_the_disk() {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "sizes::child_that_backs_up_a_large_sparse_file", "--nocapture"])
        .env("STRONGROOM_TEST_CHILD", "1")
        .output()
        .expect("a child");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said} {}", String::from_utf8_lossy(&child.stderr));
    let peak = said.lines().find_map(|line| line.split("peak=").nth(1)).expect("a figure");
    let peak: u64 = peak.trim().parse().expect("a number");
    println!("{peak} KiB at most");
    // Of the child also the making of its own input and check.
    assert!(peak < 400 * 1024, "{peak} KiB");
}
