//! The whole at a small scale, with the vault crate in the program's place.

use strongroom_base::Cancel;
use strongroom_vault::{ReclaimOptions, reclaim};

use super::{
    check,
    churn::Disk,
    generate::{self, ITEM, Place},
    scale::{RECORD_BYTES, Scale, bytes},
};

fn small() -> Scale {
    let disk = 1 << 31;
    let stored = (disk / 65_536 + 9 * 300) * RECORD_BYTES;
    Scale::new(10, disk, stored, 2, 4).expect("a scale")
}

#[test]
fn sizes_have_units_and_impossible_ones_are_refused() {
    assert_eq!(bytes("2T").expect("a size"), 2_000_000_000_000);
    assert_eq!(bytes("512").expect("a size"), 512);
    assert!(bytes("T").is_err() && bytes("99999999T").is_err());
    let default = Scale::new(1000, 1_000_000_000_000, 1_000_000_000_000, 1, 100).expect("a scale");
    assert_eq!((default.changed, default.fresh), (152_588, 14_756));
    assert!(Scale::new(1000, 1 << 40, 1 << 39, 1, 100).is_err());
    assert!(Scale::new(3, 1 << 40, 1 << 40, 1, 2).is_err());
}

#[test]
fn as_many_blocks_change_as_were_asked_for() {
    let scale = small();
    let mut disk = Disk::new(&scale);
    let whole = |disk: &Disk| -> Vec<u32> {
        (0..scale.blocks.div_ceil(256)).flat_map(|leaf| disk.leaf(leaf).to_vec()).collect()
    };
    for _ in 0..5 {
        let before = whole(&disk);
        let leaves = disk.next();
        let after = whole(&disk);
        let places = before.iter().zip(&after).zip(0_u64..).filter(|((old, new), _)| old != new);
        let changed: Vec<u64> = places.map(|(_, block)| block).collect();
        assert_eq!(u64::try_from(changed.len()).expect("few"), scale.changed);
        assert!(changed.iter().all(|block| leaves.binary_search(&(block / 256)).is_ok()));
    }
}

#[test]
fn the_vault_is_sound_before_and_after_a_reclaim() {
    let folder = tempfile::tempdir().expect("a folder");
    let (place, scale) = (Place::new(&folder.path().join("big")).expect("a place"), small());
    let made = generate::generate(&place, &scale).expect("generates");
    place.forget_index().expect("removes the index");
    let (packs, stored) = place.packs().expect("packs");
    let wanted = (scale.blocks + 9 * scale.fresh) * RECORD_BYTES;
    assert!(stored.abs_diff(wanted) < wanted / 20, "{stored} bytes instead of {wanted}");
    assert!(place.disk_bytes().expect("a size") < stored / 20);

    let vault = place.open().expect("opens");
    let rebuilt = vault.rebuild_index(&|_, _| {}, &Cancel::new()).expect("rebuilds");
    assert_eq!(rebuilt.packs, packs);
    assert_eq!(rebuilt.records, scale.blocks + 9 * scale.fresh + made.nodes);
    assert_eq!(vault.points(Some(ITEM)).expect("points").len(), 10);
    drop(vault);
    let before = check::check(&place).expect("is whole");
    assert!(before.nodes > 2 * scale.blocks / 256 && before.blocks > 0);

    generate::delete(&place, &scale).expect("deletes");
    let vault = place.open().expect("opens");
    let report = reclaim(&vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaims");
    assert_eq!(report.points_removed, 4);
    // Each deleted point's own data, in one pack each at this scale; the nodes are compacted.
    assert!(report.freed_bytes > 4 * scale.fresh * RECORD_BYTES * 9 / 10);
    assert!(report.copied_bytes > 0 && report.copied_bytes < stored / 20);
    assert!(report.nodes_read >= before.nodes / 2);
    let left = vault.points(Some(ITEM)).expect("points");
    assert_eq!(left.len(), 6);
    drop(vault);
    let after = check::check(&place).expect("is whole");
    assert_eq!(after.nodes, before.nodes);
    let again = place.open().expect("opens");
    let report = reclaim(&again, &ReclaimOptions::default(), &Cancel::new()).expect("reclaims");
    assert_eq!((report.points_removed, report.packs_dead, report.removed_bytes), (0, 0, 0));
}
