//! What stands under the names of points: manifests, voids, and what disks make of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use strongroom_base::{Cancel, Coded as _, PointId};
use strongroom_objects::{Key, ObjectStore};
use strongroom_vault::{ReclaimOptions, ReclaimReport, Vault, VaultError, Writer, reclaim};
use strongroom_verify::verify;

use crate::common::{Content, Place, dump, flip, get, keys, memory, mirror, noise};

fn run_reclaim(vault: &Arc<Vault>) -> Result<ReclaimReport, VaultError> {
    let options = ReclaimOptions { wait: Duration::ZERO, ..ReclaimOptions::default() };
    reclaim(vault, &options, &Cancel::new())
}

fn name_of(store: &dyn ObjectStore, point: PointId) -> Key {
    let named = |key: &Key| key.file_name() == point.to_string();
    keys(store, "points/").into_iter().find(named).expect("listed")
}

/// What disks and copying tools leave of an object.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Empty,
    OneByte,
    Half,
    Flipped,
    Missing,
}

const HARMS: [Harm; 5] = [Harm::Empty, Harm::OneByte, Harm::Half, Harm::Flipped, Harm::Missing];

fn harm(store: &dyn ObjectStore, key: &Key, harm: Harm) {
    let good = get(store, key);
    match harm {
        Harm::Empty => store.replace(key, b"").expect("cut"),
        Harm::OneByte => store.replace(key, &good[..1]).expect("cut"),
        Harm::Half => store.replace(key, &good[..good.len() / 2]).expect("cut"),
        Harm::Flipped => flip(store, key, good.len() - 5),
        Harm::Missing => store.delete(key).expect("lost"),
    }
}

/// Makes a void of a point, as a person may whose disk has lost the manifest.
fn make_void(place: &Place, item: &str, point: PointId) {
    place.store.replace(&name_of(&*place.store, point), b"").expect("cut");
    place.vault.give_up_point(item, point).expect("given up");
}

#[test]
fn whatever_is_left_of_a_manifest_is_a_damaged_point() {
    let place = Place::new(memory());
    let [older, newest, _] = place.points[..] else { panic!("three points") };
    let name = name_of(&*place.store, newest);
    let good = get(&*place.store, &name);
    for damage in &HARMS[..4] {
        harm(&*place.store, &name, *damage);
        let before = dump(&*place.store);
        let list = place.vault.list_points(Some("web01")).expect("a list");
        assert_eq!(list.damaged.len(), 1, "{damage:?}");
        assert_eq!((list.damaged[0].point, &*list.damaged[0].object), (newest, name.as_str()));
        assert_eq!(list.points.iter().map(|point| point.id).collect::<Vec<_>>(), [older]);
        let error = place.vault.latest("web01").expect_err("not an older one unawares");
        assert_eq!(error.code().name, "point.damaged", "{damage:?}: {error}");
        place.vault.point("web01", older).expect("named by its id");
        let report = place.repair();
        assert!(!report.clean && report.damaged_recovery_points == 1, "{report:?}");
        let error = run_reclaim(&place.vault).expect_err("who knows what the point needs");
        assert_eq!(error.code().name, "point.damaged", "{damage:?}: {error}");
        assert_eq!(dump(&*place.store), before, "{damage:?}: nothing was touched");
        place.store.replace(&name, &good).expect("put back");
        assert!(place.full().clean);
    }
    run_reclaim(&place.vault).expect("reclaims");
    assert_eq!(place.full().recovery_points, 3);
}

#[test]
fn in_a_mirror_the_manifest_wins_whichever_copy_is_hurt() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let newest = place.points[1];
    let name = name_of(&*copies[0], newest);
    let good = dump(&*copies[0]);
    for (hurt, copy) in copies.iter().enumerate() {
        for damage in HARMS {
            let what = format!("copy {hurt}, {damage:?}");
            let missing = matches!(damage, Harm::Missing);
            harm(&**copy, &name, damage);
            if !missing {
                let error = run_reclaim(&place.vault).expect_err("the copies differ");
                assert_eq!(error.code().name, "point.damaged", "{what}: {error}");
            }
            let report = place.full();
            assert_eq!(crate::common::names(&report), [name.as_str()], "{what}");
            assert_eq!(report.damaged[0].good_copies, 1, "{what}: {report:?}");
            assert!(!report.clean && report.damaged_recovery_points == 0, "{what}");
            let report = place.repair();
            assert!(report.clean && report.repaired_objects == 1, "{what}: {report:?}");
            assert!(dump(&**copy) == good, "{what}");
            // Reading alone finds the good one, too.
            harm(&**copy, &name, damage);
            let latest = place.vault.latest("web01").expect("a point").expect("a point");
            assert_eq!(latest.id, newest, "{what}");
            place.repair();
            assert!(dump(&*copies[0]) == good && dump(&*copies[1]) == good, "{what}");
            run_reclaim(&place.vault).expect("reclaims");
            assert_eq!(place.full().recovery_points, 3, "{what}");
        }
    }
}

#[test]
fn in_a_mirror_a_void_loses_against_a_manifest_and_nothing_is_deleted_meanwhile() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let point = place.points[1];
    let name = name_of(&*copies[0], point);
    let manifest = get(&*copies[0], &name);
    let void = {
        copies.iter().for_each(|copy| copy.replace(&name, b"").expect("cut"));
        place.vault.give_up_point("web01", point).expect("given up");
        get(&*copies[0], &name)
    };
    for (hurt, copy) in copies.iter().enumerate() {
        for mend in [true, false] {
            copies.iter().for_each(|copy| copy.replace(&name, &manifest).expect("put back"));
            copy.replace(&name, &void).expect("a void");
            let error = run_reclaim(&place.vault).expect_err("the copies differ");
            assert_eq!(error.code().name, "point.damaged", "copy {hurt}: {error}");
            let report = if mend { place.repair() } else { place.full() };
            assert_eq!(report.clean, mend, "copy {hurt}: {report:?}");
            assert_eq!(report.recovery_points, 3, "copy {hurt}");
            assert_eq!(place.vault.latest("web01").expect("read").map(|read| read.id), Some(point));
            place.repair();
            assert!(copies.iter().all(|copy| get(&**copy, &name) == manifest), "copy {hurt}");
        }
    }
    // Two who gave it up: any of the voids will do.
    copies.iter().for_each(|copy| copy.replace(&name, b"").expect("cut"));
    place.vault.give_up_point("web01", point).expect("given up");
    copies[1].replace(&name, &void).expect("another void");
    assert_ne!(get(&*copies[0], &name), void);
    assert!(place.repair().clean);
    assert_eq!(get(&*copies[0], &name), get(&*copies[1], &name));
    assert!(place.full().clean);
}

#[test]
fn a_point_is_given_up_only_at_a_persons_word() {
    let mut place = Place::new(memory());
    let [older, newest, _] = place.points[..] else { panic!("three points") };
    let error = place.vault.give_up_point("web01", newest).expect_err("it is whole");
    assert_eq!(error.code().name, "usage.invalid", "{error}");
    let nobody = PointId::from_bytes([9; 16]);
    let error = place.vault.give_up_point("web01", nobody).expect_err("there is none");
    assert_eq!(error.code().name, "point.not_found", "{error}");
    // What earlier programs left of writers that were given up looks like this, too.
    make_void(&place, "web01", newest);
    let latest = place.vault.latest("web01").expect("read").expect("a point");
    assert_eq!(latest.id, older);
    place.vault.point("web01", newest).expect_err("it never will be");
    let error = place.vault.give_up_point("web01", newest).expect_err("once is enough");
    assert_eq!(error.code().name, "point.not_found", "{error}");
    let report = place.full();
    assert!(report.clean && report.recovery_points == 2, "{report:?}");
    let report = run_reclaim(&place.vault).expect("reclaims");
    assert!(report.packs_removed > 0, "{report:?}");
    name_of(&*place.store, newest); // for ever
    assert!(place.full().clean);
    place.backup("web01", &Content::from([(7, noise(5))]));
    assert_eq!(place.vault.list_points(Some("web01")).expect("a list").points.len(), 2);
}

#[test]
fn a_writer_that_was_given_up_does_not_publish() {
    let place = Place::new(memory());
    let writer = Writer::begin(&place.vault, "db01", "here").expect("begins");
    let point = writer.point().expect("a point");
    let says = place.vault.point("db01", place.points[2]).expect("read");
    let folder = name_of(&*place.store, place.points[2]);
    let (folder, _) = folder.as_str().rsplit_once('/').expect("a folder");
    let name = Key::new(format!("{folder}/{point}")).expect("a name");
    place.store.put_new(&name, b"").expect("as earlier programs did");
    place.vault.give_up_point("db01", point).expect("settled");
    let says = strongroom_format::Manifest { id: point, ..says };
    let error = writer.publish(&says).expect_err("too late");
    assert_eq!(error.code().name, "backup.expired", "{error}");
    assert!(place.full().clean);
}

/// These objects in a store of their own.
fn copy_of(whole: &BTreeMap<Key, Vec<u8>>) -> Arc<dyn ObjectStore> {
    let copy = memory();
    for (key, body) in whole {
        copy.put_new(key, body).expect("copied");
    }
    copy
}

/// Whatever single object rots or vanishes, in all copies: neither a repair nor a reclaim makes it
/// worse. When it is put back, everything is there.
#[test]
fn no_rotten_object_makes_a_reclaim_delete_what_is_needed() {
    let mut place = Place::new(memory());
    place.backup("db01", &Content::from([(1, noise(200)), (2, noise(201))]));
    place.vault.delete_point("db01", place.points[2], "here").expect("deletes");
    let writer = Writer::begin(&place.vault, "web01", "here").expect("begins");
    let whole = dump(&*place.store);
    drop(writer);
    let mut tried = 0;
    for (key, good) in &whole {
        // Opening needs these; that a manifest has vanished, nothing in the vault can tell.
        if key.as_str().starts_with("keys/") || key.as_str() == "strongroom.json" {
            continue;
        }
        for damage in [Harm::Empty, Harm::Half, Harm::Missing] {
            if matches!(damage, Harm::Missing) && key.as_str().starts_with("points/") {
                continue;
            }
            let what = format!("{key}: {damage:?}");
            let copy = copy_of(&whole);
            harm(&*copy, key, damage);
            let mut options = place.options();
            options.cache_dir = None;
            let vault = Vault::open(copy, &place.key(), options).expect("opens");
            let vault = Arc::new(vault);
            let repair = strongroom_verify::VerifyOptions { repair: true, ..Default::default() };
            verify(&vault, &repair, &|_| {}, &Cancel::new()).expect("verifies");
            if let Err(error) = run_reclaim(&vault) {
                assert_eq!(error.code().kind.exit_code(), 6, "{what}: {error}");
            }
            let store = vault.store();
            if matches!(damage, Harm::Missing) {
                store.put_new(key, good).expect("put back");
            } else if keys(&**store, "").contains(key) {
                store.replace(key, good).expect("put back");
            }
            let mut options = place.options();
            options.cache_dir = None;
            let vault = Vault::open(Arc::clone(store), &place.key(), options).expect("opens");
            let options = strongroom_verify::VerifyOptions::default();
            let report =
                verify(&Arc::new(vault), &options, &|_| {}, &Cancel::new()).expect("verifies");
            assert_eq!(report.damaged_recovery_points, 0, "{what}: {report:?}");
            assert!(report.recovery_points >= 3 && report.lost_blocks == 0, "{what}: {report:?}");
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
}

/// Locks a point from now on for so many hours.
fn lock(place: &Place, item: &str, point: PointId, hours: i64) {
    let until = place.vault.clock().now() + jiff::SignedDuration::from_hours(hours);
    place.vault.lock_point(item, point, until, "here").expect("locks");
}

/// A deletion note hides a point; if it is locked it is promised all the same.
#[test]
fn a_locked_point_is_verified_whoever_has_put_a_note() {
    for hours in [72, -1] {
        let counts = hours > 0;
        let mut place = Place::new(memory());
        let before = keys(&*place.store, "packs/");
        place.backup("gone", &Content::from([(1, noise(900))]));
        let point = place.points[3];
        place.vault.delete_point("gone", point, "here").expect("deletes");
        assert_eq!(place.full().recovery_points, 3, "it is nobody's any more");
        lock(&place, "gone", point, hours);
        let report = place.full();
        assert!(report.clean && report.recovery_points == 3 + u64::from(counts), "{report:?}");
        // Its data.
        let mut packs = keys(&*place.store, "packs/");
        packs.retain(|pack| !before.contains(pack));
        assert_eq!(packs.len(), 2, "{packs:?}");
        for pack in packs {
            flip(&*place.store, &pack, 70);
            let report = place.full();
            assert_eq!(report.damaged_recovery_points, u64::from(counts), "{pack}: {report:?}");
            assert!(report.damaged_points.iter().all(|it| it.recovery_point == point));
            flip(&*place.store, &pack, 70);
        }
        // Its manifest. An object of its own says that it is locked.
        let name = name_of(&*place.store, point);
        flip(&*place.store, &name, 70);
        let report = place.full();
        assert_eq!(report.damaged_objects, 1, "{report:?}");
        assert_eq!(report.damaged_recovery_points, u64::from(counts), "{report:?}");
    }
}

#[test]
fn the_manifest_of_a_locked_point_is_repaired_in_a_mirror() {
    for (hours, repairs) in [(72, true), (-1, false)] {
        let (store, copies) = mirror();
        let place = Place::new(store);
        let point = place.points[0];
        place.vault.delete_point("web01", point, "here").expect("deletes");
        lock(&place, "web01", point, hours);
        let name = name_of(&*copies[0], point);
        let good = get(&*copies[0], &name);
        for copy in &copies {
            copy.delete(&name).expect("lost");
            let report = place.full();
            // Whoever removes a deleted point removes one copy after the other.
            assert_eq!(report.damaged_objects, u64::from(repairs), "{report:?}");
            let report = place.repair();
            assert!(report.clean, "{report:?}");
            let other = keys(&**copy, "points/").contains(&name);
            assert_eq!(other, repairs, "brought back");
            copy.put_new(&name, &good).expect("put back");
        }
    }
}
