//! Damage to one copy of a mirrored vault, and its repair.

use std::sync::Arc;

use strongroom_base::SystemClock;
use strongroom_objects::{Faults, Faulty, MAX_OBJECT_LEN, Mirror, ObjectStore};
use strongroom_vault::Writer;
use strongroom_verify::{CopyState, VerifyMode, VerifyOptions};

use crate::common::{Place, dump, flip, keys, memory, mirror, names};

#[test]
fn a_rotten_copy_is_found_and_repaired() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let good = dump(&*copies[0]);
    assert_eq!(good, dump(&*copies[1]));
    for copy in [&copies[0], &copies[1]] {
        for (at, key) in good.keys().enumerate() {
            flip(&**copy, key, 30 + at);
        }
        let rotten = dump(&**copy);
        let report = place.full();
        assert!(!report.clean && report.damaged_recovery_points == 0, "{report:?}");
        assert_eq!(report.damaged.len(), good.len(), "{:?}", names(&report));
        assert!(dump(&**copy) == rotten, "nothing is repaired unasked");
        let report = place.repair();
        assert!(report.clean, "{report:?}");
        assert_eq!(report.repaired_objects, report.damaged_objects);
        assert!(dump(&**copy) == good, "all is as it was");
        let report = place.full();
        assert!(report.clean && report.damaged.is_empty(), "{report:?}");
    }
}

#[test]
fn a_lost_copy_is_found_and_rebuilt() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let good = dump(&*copies[0]);
    for copy in [&copies[0], &copies[1]] {
        for key in good.keys() {
            copy.delete(key).expect("deletes");
        }
        let report = place.full();
        assert_eq!(report.damaged.len(), good.len(), "{:?}", names(&report));
        let mut copies = report.damaged.iter().flat_map(|damaged| &damaged.copies);
        assert!(copies.all(|copy| copy.state == CopyState::Missing), "{report:?}");
        assert!(dump(&**copy).is_empty(), "nothing is rebuilt unasked");
        let report = place.repair();
        assert!(report.clean, "{report:?}");
        assert!(dump(&**copy) == good);
        assert!(place.full().damaged.is_empty());
    }
}

/// As a process leaves it that could not put or not delete it in one copy.
#[test]
fn the_note_of_a_writer_need_not_be_in_every_copy() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let writer = Writer::begin(&place.vault, "web01", "elsewhere").expect("begins");
    for copy in [&copies[0], &copies[1]] {
        let notes = keys(&**copy, "writers/");
        assert!(!notes.is_empty());
        for note in &notes {
            let bytes = copy.get(note, MAX_OBJECT_LEN).expect("reads");
            copy.delete(note).expect("deletes");
            let report = place.full();
            assert!(report.clean && report.damaged.is_empty(), "{:?}", names(&report));
            copy.put_new(note, &bytes).expect("puts");
        }
    }
    // One that is there must be as it was written, and the other copy knows whose it is.
    for copy in [&copies[0], &copies[1]] {
        let note = keys(&**copy, "writers/").remove(0);
        let good = copy.get(&note, MAX_OBJECT_LEN).expect("reads");
        for bad in [&good[..good.len() / 2], &[0; 200], b""] {
            copy.replace(&note, bad).expect("replaces");
            assert_eq!(names(&place.full()), [note.to_string()]);
            let report = place.repair();
            assert!(
                report.clean && report.repaired_objects == 1,
                "{} bytes: {report:?}",
                bad.len()
            );
            copy.replace(&note, bad).expect("replaces");
            let writers = place.open(true).writers().expect("lists");
            assert!(writers[0].note.is_some(), "{} bytes", bad.len());
            copy.replace(&note, &good).expect("replaces");
        }
    }
    drop(writer);
    assert!(place.full().damaged.is_empty());
}

#[test]
fn a_sample_still_finds_what_is_missing_from_a_copy() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let packs = keys(&*copies[1], "packs/");
    packs.iter().for_each(|pack| copies[1].delete(pack).expect("deletes"));
    let sample = VerifyOptions { sample: Some(0.001), repair: true, ..VerifyOptions::default() };
    let report = place.verify(&sample);
    assert_eq!(report.damaged.len(), packs.len());
    assert!(report.clean && place.full().damaged.is_empty());
}

#[test]
fn a_sample_still_finds_what_no_copy_has_good() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let packs = keys(&*copies[1], "packs/");
    for pack in &packs {
        copies[0].delete(pack).expect("deletes");
        flip(&*copies[1], pack, 100);
    }
    let sample = VerifyOptions { sample: Some(0.001), repair: true, ..VerifyOptions::default() };
    let report = place.verify(&sample);
    assert_eq!((report.damaged.len(), report.repaired_objects), (packs.len(), 0));
    assert!(report.damaged.iter().all(|damaged| damaged.copies.len() == 2));
    assert_eq!(
        dump(&*copies[1]).len(),
        dump(&*copies[0]).len() + packs.len(),
        "nothing is deleted"
    );
}

/// A mirror of which one copy refuses writes from now on.
fn half_read_only(number: usize) -> (Place, [Arc<dyn ObjectStore>; 2]) {
    let inner = [memory(), memory()];
    let faulty = inner
        .each_ref()
        .map(|copy| Arc::new(Faulty::new(Arc::clone(copy), SystemClock, Faults::default())));
    let copies =
        faulty.iter().map(|copy| -> Arc<dyn ObjectStore> { Arc::<Faulty<_>>::clone(copy) });
    let place = Place::new(Arc::new(Mirror::new(copies.collect(), vec![])));
    faulty[number].set(Faults { read_only: true, ..Faults::default() });
    (place, inner)
}

#[test]
fn a_bad_copy_that_is_read_only_is_told_and_the_rest_is_repaired() {
    for read_only in [0, 1] {
        let (place, copies) = half_read_only(read_only);
        let good = dump(&*copies[0]);
        let packs = keys(&*copies[0], "packs/");
        let manifests = keys(&*copies[0], "points/");
        // In the copy that cannot be written some are bad, in the other one others.
        let (stays, mended) = (&copies[read_only], &copies[1 - read_only]);
        flip(&**stays, &packs[0], 100);
        stays.delete(&packs[1]).expect("lost");
        flip(&**mended, &packs[2], 100);
        mended.delete(&manifests[1]).expect("lost");
        flip(&**mended, &manifests[2], 70);
        let bad = dump(&**stays);
        let report = place.repair();
        assert!(!report.clean && report.damaged_recovery_points == 0, "{report:?}");
        assert_eq!((report.damaged_objects, report.repaired_objects), (5, 3), "{report:?}");
        let [failed] = &report.failed_repairs[..] else { panic!("once a copy: {report:?}") };
        assert_eq!(failed.code, "store.read_only");
        for object in &report.damaged {
            let stays = [packs[0].as_str(), packs[1].as_str()].contains(&&*object.object);
            assert_eq!(object.repaired, !stays, "{object:?}");
        }
        assert!(dump(&**stays) == bad, "nothing was written there");
        let now = dump(&**mended);
        assert!(good.iter().all(|(key, body)| now.get(key) == Some(body)), "all is back");
    }
}

#[test]
fn a_vault_that_is_read_only_is_looked_at_to_the_end() {
    let inner = memory();
    let faulty = Arc::new(Faulty::new(Arc::clone(&inner), SystemClock, Faults::default()));
    let store: Arc<dyn ObjectStore> = Arc::<Faulty<_>>::clone(&faulty);
    let place = Place::new(store);
    let index = keys(&*inner, "index/");
    index.iter().for_each(|key| flip(&*inner, key, 70));
    let pack = &keys(&*inner, "packs/data/")[0];
    flip(&*inner, pack, 100);
    faulty.set(Faults { read_only: true, ..Faults::default() });
    let before = dump(&*inner);
    let report = place.repair();
    assert!(!report.clean && names(&report).contains(&pack.to_string()), "{report:?}");
    assert_eq!(report.repaired_objects, 0);
    let codes: Vec<_> = report.failed_repairs.iter().map(|failed| &*failed.code).collect();
    assert_eq!(codes, ["store.read_only"], "{report:?}");
    assert!(dump(&*inner) == before);
}

#[test]
fn blind_repair_needs_no_key() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let packs = keys(&*copies[0], "packs/");
    flip(&*copies[0], &packs[0], 1000);
    copies[1].delete(&packs[1]).expect("deletes");
    let options =
        VerifyOptions { mode: VerifyMode::Blind, repair: true, ..VerifyOptions::default() };
    let verify = || {
        let cancel = strongroom_base::Cancel::new();
        strongroom_verify::verify_blind(&place.store, &place.options(), &options, &|_| {}, &cancel)
            .expect("verifies")
    };
    let report = verify();
    assert_eq!((report.damaged_objects, report.repaired_objects), (2, 2), "{report:?}");
    assert!(verify().damaged.is_empty());
    assert!(place.full().clean);
}
