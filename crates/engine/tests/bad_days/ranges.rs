//! Changed ranges that are wrong, or refer to something else than the vault has.

use std::sync::Arc;

use strongroom_base::{ByteRange, PointId, RangeSet};

use crate::{
    common::{Place, noise, request},
    tools::{BLOCK, Disk, back_up, code, ranges, restored, source, try_backup},
};

#[test]
fn ranges_beyond_the_disk_and_unknown_parents_are_refused() {
    let place = Place::new();
    let vault = place.open();
    let disk = Arc::new(Disk::with_noise(1, 16));
    let mut part = source("vda", &disk);
    part.changed = Some(RangeSet::from_unsorted(vec![ByteRange::between(0, 16 * BLOCK + 1)]));
    let mut wish = request("web01", vec![part]);
    for _ in 0..2 {
        assert_eq!(code(&try_backup(&vault, &wish).expect_err("beyond")), "ranges.invalid");
        assert!(vault.writers().expect("a list").is_empty());
        back_up(&vault, &disk).expect("backup");
    }
    wish.disks[0].changed = Some(ranges(&[]));
    wish.parent = Some(PointId::from_bytes([1; 16]));
    assert_eq!(code(&try_backup(&vault, &wish).expect_err("no parent")), "point.not_found");
}

#[test]
fn ranges_of_a_first_backup_and_of_a_resized_disk_miss_nothing() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 300);
    let backup = |disk: &Disk, changed: &[u64], from: &str| {
        let copy = Arc::new(disk.copy());
        let mut part = source("vda", &copy);
        part.changed = Some(ranges(changed));
        let report = try_backup(&vault, &request("web01", vec![part])).expect("backup");
        assert_eq!(report.disks[0].changes_from, from);
        restored(&vault, report.recovery_point, disk).expect("the disk as it is");
    };
    backup(&disk, &[3], "all");
    disk.set_block(7, noise(9, 65536));
    disk.resize(500 * BLOCK + 512);
    disk.set_block(400, noise(10, 65536));
    backup(&disk, &[7], "ranges");
    disk.resize(100 * BLOCK + 1024);
    backup(&disk, &[], "ranges");
    // What was cut off does not come back.
    disk.resize(300 * BLOCK);
    backup(&disk, &[], "ranges");
    disk.clear_block(50);
    backup(&disk, &[50], "ranges");
}

#[test]
fn ranges_are_believed_only_upon_a_point_that_they_can_refer_to() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 40);
    let mine = back_up(&vault, &Arc::new(disk.copy())).expect("backup").recovery_point;
    // Another host backs the item up after a failover, with other content.
    let mut theirs = disk.copy();
    theirs.set_block(20, noise(20, 65536));
    let mut wish = request("web01", vec![source("vda", &Arc::new(theirs.copy()))]);
    wish.host = "there".to_owned();
    let other = try_backup(&vault, &wish).expect("backup").recovery_point;

    disk.set_block(3, noise(30, 65536));
    let mut part = source("vda", &Arc::new(disk.copy()));
    part.changed = Some(ranges(&[3]));
    let mut wish = request("web01", vec![part]);
    let report = try_backup(&vault, &wish).expect("backup");
    assert_eq!((report.parent, report.disks[0].changes_from.as_str()), (Some(other), "all"));
    restored(&vault, report.recovery_point, &disk).expect("the disk as it is");
    // Whoever names the parent is believed.
    wish.parent = Some(mine);
    let report = try_backup(&vault, &wish).expect("backup");
    assert_eq!((report.parent, report.disks[0].changes_from.as_str()), (Some(mine), "ranges"));
    restored(&vault, report.recovery_point, &disk).expect("the disk as it is");
    restored(&vault, other, &theirs).expect("theirs as it was");
}
