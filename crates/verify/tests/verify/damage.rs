//! Damage to a vault with a single copy.

use strongroom_objects::ObjectStore;
use strongroom_verify::{CopyState, LostRange, ObjectKind};

use crate::common::{Place, dump, flip, get, keys, memory, names};

const BLOCK: u64 = 65536;

#[test]
fn a_good_vault_is_clean() {
    let place = Place::new(memory());
    let before = dump(&*place.store);
    let report = place.full();
    assert!(report.clean && !report.interrupted, "{report:?}");
    assert_eq!((report.recovery_points, report.damaged_objects, report.lost_blocks), (3, 0, 0));
    assert_eq!(report.packs, report.verified_packs);
    // 25 blocks, 3 deltas, one more block; the nodes of three trees.
    assert!(report.verified_records > 29 + 6, "{report:?}");
    assert_eq!(dump(&*place.store), before, "nothing is written");
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let mut place = Place::new(memory());
    place.vault.delete_point("db01", place.points[2], "here").expect("deletes");
    place.points.pop();
    let mut kinds = vec![];
    for key in keys(&*place.store, "") {
        let good = get(&*place.store, &key);
        let step = good.len().div_ceil(16).max(1);
        let ends = [0, 9, 20, 63, good.len() - 1, good.len() - 20];
        for at in (0..good.len()).step_by(step).chain(ends) {
            flip(&*place.store, &key, at);
            let report = place.full();
            assert!(!report.clean, "{key} at {at}");
            let found = report.damaged.iter().find(|damaged| damaged.object == key.as_str());
            let found = found.unwrap_or_else(|| panic!("{key} at {at}: {report:?}"));
            assert!(!found.repaired);
            assert_eq!(report.damaged.len(), 1, "{key} at {at}: {:?}", names(&report));
            kinds.push(found.kind);
            place.store.replace(&key, &good).expect("restores");
        }
    }
    kinds.dedup();
    kinds.sort();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            ObjectKind::Description,
            ObjectKind::Key,
            ObjectKind::Index,
            ObjectKind::Manifest,
            ObjectKind::DeletionNote,
            ObjectKind::DataPack,
            ObjectKind::NodePack,
        ]
    );
    assert!(place.full().clean);
}

#[test]
fn a_truncated_object_is_found() {
    let place = Place::new(memory());
    for key in keys(&*place.store, "") {
        let good = get(&*place.store, &key);
        // The description ends with a line break that nobody would miss.
        for len in [good.len() - 2, good.len() / 2, 10, 1, 0] {
            place.store.replace(&key, &good[..len]).expect("cuts");
            let report = place.full();
            assert_eq!(names(&report), [key.as_str()], "cut to {len}");
        }
        place.store.replace(&key, &good).expect("restores");
    }
}

#[test]
fn exchanged_objects_are_found() {
    let place = Place::new(memory());
    for prefix in ["packs/data/", "packs/node/", "points/", "index/"] {
        let all = keys(&*place.store, prefix);
        let (a, b) = (&all[0], &all[1]);
        let (in_a, in_b) = (get(&*place.store, a), get(&*place.store, b));
        place.store.replace(a, &in_b).expect("exchanges");
        place.store.replace(b, &in_a).expect("exchanges");
        let report = place.full();
        assert_eq!(names(&report), [a.as_str(), b.as_str()], "{prefix}");
        assert!(report.damaged.iter().all(|d| d.copies[0].state == CopyState::Damaged));
        let expects_loss = prefix != "index/";
        assert_eq!(report.damaged_recovery_points > 0, expects_loss, "{prefix}: {report:?}");
        place.store.replace(a, &in_a).expect("restores");
        place.store.replace(b, &in_b).expect("restores");
    }
}

#[test]
fn what_a_rotten_record_costs_is_said_to_the_block() {
    let place = Place::new(memory());
    // The very first record of the very first pack is block 0, which both points of web01 have.
    let lost: Vec<_> = keys(&*place.store, "packs/data/")
        .into_iter()
        .filter_map(|pack| {
            let good = get(&*place.store, &pack);
            flip(&*place.store, &pack, 100);
            let report = place.full();
            place.store.replace(&pack, &good).expect("restores");
            let damaged = &report.damaged[0];
            assert_eq!(damaged.lost_records, Some(1), "{damaged:?}");
            assert!(damaged.readable_records.is_some());
            let point =
                report.damaged_points.iter().find(|p| p.recovery_point == place.points[0])?;
            let ranges = &point.disks[0].ranges;
            Some((report.clone(), ranges.clone()))
        })
        .collect();
    let block_0 = LostRange { offset: 0, length: BLOCK };
    let (report, _) = lost.iter().find(|(_, ranges)| ranges[0] == block_0).expect("block 0");
    assert_eq!((report.lost_blocks, report.lost_nodes, report.damaged_recovery_points), (1, 0, 2));
    for point in &report.damaged_points {
        assert_eq!(point.item.as_deref(), Some("web01"));
        assert_eq!(point.disks[0].lost_bytes, BLOCK);
        assert_eq!(point.disks[0].ranges, [block_0]);
        assert!(point.disks[0].complete);
    }
}

#[test]
fn a_lost_base_costs_its_deltas() {
    let place = Place::new(memory());
    let base = place.vault.hasher().block(&crate::common::noise(1));
    let home = place.vault.index().find(&base).expect("reads")[0];
    let key = keys(&*place.store, "packs/data/")
        .into_iter()
        .find(|key| key.file_name() == home.pack.to_string())
        .expect("listed");
    flip(&*place.store, &key, usize::try_from(home.entry.offset).expect("small") + 5);
    let report = place.full();
    // The base in the older point, and what the newer one has in its place.
    assert_eq!((report.lost_blocks, report.damaged_recovery_points), (2, 2), "{report:?}");
    let at_block_20 = LostRange { offset: 20 * BLOCK, length: BLOCK };
    assert!(report.damaged_points.iter().all(|point| point.disks[0].ranges == [at_block_20]));
}

#[test]
fn deleted_packs_are_missed_where_they_are_needed() {
    let place = Place::new(memory());
    for prefix in ["packs/data/", "packs/node/"] {
        for key in keys(&*place.store, prefix) {
            let good = get(&*place.store, &key);
            place.store.delete(&key).expect("deletes");
            let report = place.full();
            let missing = report.damaged.iter().find(|damaged| damaged.object == key.as_str());
            let missing = missing.unwrap_or_else(|| panic!("{key}: {report:?}"));
            assert_eq!(missing.copies[0].state, CopyState::Missing);
            assert!(report.damaged_recovery_points > 0 && !report.clean);
            assert!(report.lost_nodes + report.lost_blocks > 0);
            place.store.put_new(&key, &good).expect("restores");
        }
    }
    // Without any node every disk is lost from its beginning to its end.
    for key in keys(&*place.store, "packs/node/") {
        place.store.delete(&key).expect("deletes");
    }
    let report = place.full();
    assert_eq!(report.damaged_recovery_points, 3);
    let whole = LostRange { offset: 0, length: crate::common::DISK };
    assert!(report.damaged_points.iter().all(|point| point.disks[0].ranges == [whole]));
}

#[test]
fn a_lost_manifest_is_a_lost_point() {
    let place = Place::new(memory());
    let key = &keys(&*place.store, "points/")[0];
    flip(&*place.store, key, 70);
    let report = place.full();
    assert_eq!((report.damaged_recovery_points, report.recovery_points), (1, 2));
    assert_eq!(report.damaged_points[0].recovery_point.to_string(), key.file_name());
}
