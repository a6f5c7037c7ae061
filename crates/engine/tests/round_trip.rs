//! Disks through a real folder vault and back: every state at every point, byte for byte.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails says so by panicking"
)]

mod common;

use std::{fs, os::unix::fs::FileExt as _};

use common::{Place, make_disk, noise};
use proptest::prelude::*;
use strongroom_base::{ByteRange, RangeSet};
use strongroom_engine::diff_points;

const BLOCK: u64 = 65536;

#[test]
fn full_incremental_known_ranges_restore_and_diff() {
    let place = Place::new();
    let size = 40 * (1 << 20) + 512;
    make_disk(&place.path("vda.raw"), size);
    let vault = place.open();
    let first = place.backup(&vault, &[("vda", None)]);
    assert_eq!(first.disks[0].changes_from, "all");
    assert!(first.disks[0].stored_bytes > 0);
    let before = fs::read(place.path("vda.raw")).expect("read");

    // A small change within noise, a new part, a cleared part, the last bytes.
    let file = fs::OpenOptions::new().write(true).open(place.path("vda.raw")).expect("open");
    file.write_all_at(&noise(77, 100), 10_000).expect("write");
    file.write_all_at(&noise(78, 200_000), 2 << 20).expect("write");
    file.write_all_at(&vec![0; 700_000], 6 << 20).expect("write");
    file.write_all_at(&[9; 512], size - 512).expect("write");
    drop(file);
    let after = fs::read(place.path("vda.raw")).expect("read");
    let ranges = [(10_000, 100), (2 << 20, 200_000), (6 << 20, 700_000), (size - 512, 512)];
    let ranges = ranges.map(|(offset, len)| ByteRange::new(offset, len).expect("fits"));
    let changed = RangeSet::from_unsorted(ranges.to_vec());
    let second = place.backup(&vault, &[("vda", Some(changed))]);
    assert_eq!(second.parent, Some(first.recovery_point));
    assert_eq!(second.disks[0].changes_from, "ranges");
    assert_eq!(second.disks[0].delta_blocks, 1);
    assert!(second.disks[0].read_bytes < 2 << 20);

    // The same by comparing everything: nothing is left to store.
    let third = place.backup(&vault, &[("vda", None)]);
    assert_eq!((third.disks[0].changed_bytes, third.disks[0].stored_bytes), (0, 0));

    let vault = place.open();
    for (point, wanted) in [(&first, &before), (&second, &after), (&third, &after)] {
        let to = place.path(&format!("{}.raw", point.recovery_point));
        let report = Place::restore(&vault, point.recovery_point, "vda", &to, false);
        assert!(fs::read(&to).expect("read") == **wanted);
        assert!(report.disks[0].written_bytes < size / 2, "holes are not written");
    }
    // In place, back to the first point: only what differs is written.
    let to = place.path(&format!("{}.raw", second.recovery_point));
    let report = Place::restore(&vault, first.recovery_point, "vda", &to, true);
    assert!(fs::read(&to).expect("read") == before);
    let differing =
        before.chunks(65536).zip(after.chunks(65536)).filter(|(old, new)| old != new).count();
    assert_eq!(report.disks[0].written_blocks, u64::try_from(differing).expect("small"));

    let (old, new) =
        (vault.point("web01", first.recovery_point), vault.point("web01", second.recovery_point));
    let diff = diff_points(&vault, &old.expect("point"), &new.expect("point")).expect("diff");
    let bytes = |ranges: &[strongroom_format::SkippedRange]| {
        ranges.iter().map(|r| r.length.div_ceil(BLOCK)).sum::<u64>()
    };
    assert_eq!(
        bytes(&diff.disks[0].changed) + bytes(&diff.disks[0].cleared),
        u64::try_from(differing).expect("small")
    );
    assert!(diff.disks[0].cleared_bytes > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Random sizes, resizes and writes; ranges known or not; every point restores exactly.
    #[test]
    fn every_point_restores_what_the_disk_was(
        steps in prop::collection::vec((1_u64..80_000, prop::collection::vec((0_u64..40 << 20, 1_usize..400_000, any::<u8>()), 0..6), any::<bool>()), 1..5)
    ) {
        let place = Place::new();
        let path = place.path("vda.raw");
        fs::write(&path, b"").expect("create");
        let mut states = vec![];
        let mut old_size = 0;
        for (sectors, writes, known) in steps {
            let size = sectors * 512;
            let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
            file.set_len(size).expect("size");
            let mut ranges = vec![];
            for (offset, len, kind) in writes {
                let offset = offset % size;
                let len = usize::try_from((size - offset).min(u64::try_from(len).expect("small"))).expect("small");
                let data = match kind % 3 { 0 => vec![0; len], 1 => vec![kind; len], _ => noise(offset, len) };
                file.write_all_at(&data, offset).expect("write");
                ranges.push(ByteRange::new(offset, u64::try_from(len).expect("small")).expect("fits"));
            }
            drop(file);
            let vault = place.open();
            let changed = (known && old_size > 0).then(|| RangeSet::from_unsorted(ranges));
            let report = place.backup(&vault, &[("vda", changed)]);
            states.push((report.recovery_point, fs::read(&path).expect("read")));
            old_size = size;
        }
        let vault = place.open();
        let in_place = place.path("again.raw");
        for (point, wanted) in &states {
            let to = place.path(&format!("{point}.raw"));
            Place::restore(&vault, *point, "vda", &to, false);
            prop_assert!(fs::read(&to).expect("read") == *wanted);
            Place::restore(&vault, *point, "vda", &in_place, true);
            prop_assert!(fs::read(&in_place).expect("read")[..wanted.len()] == **wanted);
        }
    }
}
