//! Source disks with parts that cannot be read.

use std::sync::Arc;

use strongroom_base::ByteRange;
use strongroom_engine::EngineError;

use crate::{
    common::{Place, noise, request},
    tools::{BLOCK, Disk, chain, code, ranges, restored, source, try_backup},
};

/// What a disk is with its bad parts as zeros.
fn zeroed(disk: &Disk) -> Disk {
    let mut zeroed = disk.copy();
    for bad in &disk.bad {
        for at in bad.offset()..bad.end() {
            let block = at / BLOCK;
            zeroed.block_mut(block)[usize::try_from(at % BLOCK).expect("small")] = 0;
        }
    }
    zeroed
}

#[test]
fn bad_sectors_are_named_or_recorded_exactly() {
    let place = Place::new();
    let vault = place.open();
    let mut disk = Disk::with_noise(1, 100);
    let bad =
        [(4096, 512), (3 * BLOCK - 1024, 2048), (40 * BLOCK, 3 * BLOCK), (100 * BLOCK - 512, 512)];
    disk.bad =
        bad.iter().map(|(offset, len)| ByteRange::new(*offset, *len).expect("fits")).collect();
    let wanted = zeroed(&disk);
    let disk = Arc::new(disk);
    let mut wish = request("web01", vec![source("vda", &disk)]);
    let error = try_backup(&vault, &wish).expect_err("bad sectors");
    assert_eq!(code(&error), "backup.source_read");
    let EngineError::SourceRead { name, range, .. } = &error else { panic!("{error:?}") };
    assert_eq!(name, "vda");
    assert!(disk.bad.iter().any(|bad| bad.intersect(*range) == *range), "{range:?}");
    let text = chain(&error);
    assert!(text.contains("vda") && text.contains(&range.offset().to_string()), "{text}");
    assert!(vault.latest("web01").expect("a list").is_none(), "nothing is published");

    wish.skip_bad_blocks = true;
    let report = try_backup(&vault, &wish).expect("the rest");
    let skipped: Vec<_> =
        report.disks[0].skipped.iter().map(|range| (range.offset, range.length)).collect();
    assert_eq!(skipped, bad);
    let manifest = vault.point("web01", report.recovery_point).expect("a point");
    assert_eq!(manifest.disks[0].skipped, report.disks[0].skipped);
    restored(&vault, report.recovery_point, &wanted).expect("zeros where it was bad");

    // The next backup knows what changed: what was skipped is read again, or skipped again.
    let mut next = disk.copy();
    next.bad = disk.bad[..1].to_vec();
    next.set_block(60, noise(600, 65536));
    let wanted = zeroed(&next);
    let mut part = source("vda", &Arc::new(next));
    part.changed = Some(ranges(&[60]));
    let mut wish = request("web01", vec![part]);
    let error = try_backup(&vault, &wish).expect_err("still one bad sector");
    assert_eq!(code(&error), "backup.source_read");
    wish.skip_bad_blocks = true;
    let report = try_backup(&vault, &wish).expect("the rest");
    assert_eq!(report.disks[0].changes_from, "ranges");
    let skipped: Vec<_> =
        report.disks[0].skipped.iter().map(|range| (range.offset, range.length)).collect();
    assert_eq!(skipped, bad[..1]);
    restored(&vault, report.recovery_point, &wanted).expect("the disk as it is now");
}

#[test]
fn disks_that_die_in_the_middle_end_the_backup_at_once() {
    let place = Place::new();
    let vault = place.open();
    // Many disks, so that every buffer is in the hands of a reader that fails.
    for count in [1_u64, 3, 7, 12] {
        let disks: Vec<_> = (0..count)
            .map(|number| {
                let mut disk = Disk::with_noise(number, 96);
                let from = if number == 0 { 40 * BLOCK } else { 0 };
                disk.bad = vec![ByteRange::between(from, 96 * BLOCK)];
                Arc::new(disk)
            })
            .collect();
        let parts = disks.iter().enumerate();
        let parts = parts.map(|(nth, disk)| source(&format!("disk{nth}"), disk)).collect();
        let error = try_backup(&vault, &request("web01", parts)).expect_err("dead disks");
        assert_eq!(code(&error), "backup.source_read");
        assert!(chain(&error).contains("disk"), "{}", chain(&error));
    }
    assert!(vault.latest("web01").expect("a list").is_none());
}
