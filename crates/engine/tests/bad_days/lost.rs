//! Objects that were removed or damaged in the store, and caches that were.

use std::{fs, path::PathBuf, sync::Arc};

use strongroom_base::Cancel;
use strongroom_engine::diff_points;
use strongroom_vault::{ReclaimOptions, reclaim};

use crate::{
    common::{Place, noise, request},
    tools::{
        Disk, back_up, bytes_below, chain, code, files, name_of, ranges, restored, source,
        try_backup,
    },
};

/// A vault with two points, with noise in several packs, and text that compresses.
fn two_points(place: &Place) -> [(strongroom_base::PointId, Arc<Disk>); 2] {
    let mut disk = Disk::with_noise(1, 48);
    let old = Arc::new(disk.copy());
    let first = back_up(&place.open(), &old).expect("backup").recovery_point;
    disk.set_block(5, noise(77, 65536));
    disk.block_mut(20)[..3].fill(9);
    let new = Arc::new(disk);
    let second = back_up(&place.open(), &new).expect("backup").recovery_point;
    [(first, old), (second, new)]
}

fn packs(place: &Place, kind: &str) -> Vec<PathBuf> {
    files(&place.vault_path().join("packs").join(kind))
}

fn forget_cache(place: &Place) {
    fs::remove_dir_all(place.path("cache")).expect("a cache");
}

#[test]
fn damaged_packs_are_named_and_never_restored_from() {
    let place = Place::new();
    let points = two_points(&place);
    let all: Vec<PathBuf> = ["data", "node"].iter().flat_map(|kind| packs(&place, kind)).collect();
    assert!(all.len() >= 5);
    let other = fs::read(&all[0]).expect("read");
    let mut hurt = 0;
    for pack in &all {
        let good = fs::read(pack).expect("read");
        for kind in 0..4 {
            let mut bad = good.clone();
            match kind {
                0 => bad.truncate(good.len() / 2),
                1 => (0..bad.len()).step_by(30_011).for_each(|at| bad[at] ^= 0x10),
                2 if *pack == all[0] => bad = fs::read(&all[1]).expect("read"),
                2 => bad.clone_from(&other),
                _ => bad.clear(),
            }
            fs::write(pack, &bad).expect("write");
            let vault = place.open();
            for (point, wanted) in &points {
                if let Err(error) = restored(&vault, *point, wanted) {
                    hurt += 1;
                    assert_eq!(code(&error), "store.corrupt", "{}", chain(&error));
                    assert!(chain(&error).contains(&name_of(pack)), "{}", chain(&error));
                }
            }
        }
        fs::write(pack, &good).expect("write");
    }
    assert!(hurt >= all.len() * 4, "{hurt}");
    points
        .iter()
        .for_each(|(point, wanted)| restored(&place.open(), *point, wanted).expect("fine"));
}

#[test]
fn every_object_may_be_rotten_and_nothing_wrong_comes_out() {
    let place = Place::new();
    let points = two_points(&place);
    for object in files(place.vault_path()) {
        let good = fs::read(&object).expect("read");
        for at in [0, good.len() / 3, good.len().saturating_sub(1)] {
            let mut bad = good.clone();
            let Some(byte) = bad.get_mut(at) else { continue };
            *byte ^= 4;
            fs::write(&object, &bad).expect("write");
            fs::remove_dir_all(place.path("cache")).ok();
            let store: Arc<dyn strongroom_objects::ObjectStore> = Arc::new(place.folder());
            match strongroom_vault::Vault::open(store, &place.key(), place.options()) {
                Ok(vault) => {
                    let vault = Arc::new(vault);
                    for (point, wanted) in &points {
                        if let Err(error) = restored(&vault, *point, wanted) {
                            code(&error);
                        }
                    }
                }
                Err(error) => {
                    use strongroom_base::Coded as _;
                    assert_ne!(error.code().name, "bug", "{error}");
                }
            }
        }
        fs::write(&object, &good).expect("write");
    }
}

#[test]
fn lost_data_is_stored_again_by_the_next_backup_and_heals_older_points() {
    // Each pack in turn: one has the bases of deltas that stay.
    let mut tried = 0;
    for number in 0.. {
        for known in [false, true] {
            let place = Place::new();
            let [(first, old), (second, new)] = two_points(&place);
            let all = bytes_below(&place.vault_path().join("packs"));
            // In the order in which they were written, as the names are of chance.
            let mut data = packs(&place, "data");
            data.sort_by_key(|path| {
                fs::metadata(path).expect("metadata").modified().expect("time")
            });
            let Some(pack) = data.get(number) else {
                assert!(tried >= 3, "{tried} packs");
                return;
            };
            tried += usize::from(known);
            let lost = fs::metadata(pack).expect("metadata").len();
            fs::remove_file(pack).expect("remove");

            let vault = place.open();
            let error = restored(&vault, second, &new).expect_err("a pack is gone");
            assert_eq!(code(&error), "store.missing", "{}", chain(&error));
            assert!(chain(&error).contains(&name_of(pack)), "{}", chain(&error));
            let points = vault.points(Some("web01")).expect("a list");
            diff_points(&vault, &points[0], &points[1]).expect("trees are there");
            // Reclaim does not work on what it cannot see whole.
            let reclaimed = reclaim(&vault, &ReclaimOptions::default(), &Cancel::new());
            reclaimed.expect_err("something needed is gone");

            // Nothing changed, and the caller may even say so: what is lost is stored again.
            let mut disk = source("vda", &new);
            disk.changed = known.then(|| ranges(&[3]));
            let report = try_backup(&vault, &request("web01", vec![disk])).expect("backup");
            assert_eq!(report.disks[0].changes_from, "all");
            let stored = report.stored_bytes;
            assert!(stored < lost + all / 10, "{stored} for {lost} of {all}");
            forget_cache(&place);
            let vault = place.open();
            restored(&vault, report.recovery_point, &new).expect("the new point is whole");
            restored(&vault, second, &new).expect("so is the older one");
            // What only the oldest point had is lost, if it was in that pack.
            if let Err(error) = restored(&vault, first, &old) {
                assert!(chain(&error).contains(&name_of(pack)));
            }
            let next = back_up(&vault, &new).expect("backup");
            assert!(next.stored_bytes < 100_000, "{next:?}");
        }
    }
}

#[test]
fn lost_trees_are_made_again_by_the_next_backup() {
    for known in [false, true] {
        let place = Place::new();
        let [_, (second, new)] = two_points(&place);
        let nodes = packs(&place, "node");
        nodes.iter().for_each(|pack| fs::remove_file(pack).expect("remove"));
        let vault = place.open();
        let error = restored(&vault, second, &new).expect_err("the trees are gone");
        assert_eq!(code(&error), "store.missing", "{}", chain(&error));
        assert!(nodes.iter().any(|pack| chain(&error).contains(&name_of(pack))));
        assert_eq!(vault.points(None).expect("manifests are there").len(), 2);
        let mut disk = source("vda", &new);
        disk.changed = known.then(|| ranges(&[3]));
        let report = try_backup(&vault, &request("web01", vec![disk])).expect("backup");
        assert!(report.stored_bytes < 200_000, "the blocks are still there: {report:?}");
        restored(&place.open(), report.recovery_point, &new).expect("whole");
        restored(&place.open(), second, &new).expect("whole again");
    }
}

#[test]
fn rotten_trees_do_not_stop_backups_for_ever() {
    let place = Place::new();
    let [_, (second, new)] = two_points(&place);
    for pack in packs(&place, "node") {
        let mut bytes = fs::read(&pack).expect("read");
        (0..bytes.len()).step_by(97).for_each(|at| bytes[at] ^= 1);
        fs::write(&pack, bytes).expect("write");
    }
    let vault = place.open();
    assert_eq!(code(&restored(&vault, second, &new).expect_err("rotten")), "store.corrupt");
    let report = back_up(&vault, &new).expect("backup");
    restored(&place.open(), report.recovery_point, &new).expect("whole");
}

#[test]
fn lost_index_objects_cost_time_only() {
    let place = Place::new();
    let points = two_points(&place);
    for index in files(&place.vault_path().join("index")) {
        fs::remove_file(&index).expect("remove");
    }
    forget_cache(&place);
    let vault = place.open();
    restored(&vault, points[1].0, &points[1].1).expect("the packs say what they hold");
    assert_eq!(vault.points(None).expect("manifests are there").len(), 2);
    // The next backup finds the packs again.
    let report = back_up(&vault, &points[1].1).expect("backup");
    assert!(report.stored_bytes < 200_000, "{report:?}");
    forget_cache(&place);
    let vault = place.open();
    points.iter().for_each(|(point, wanted)| restored(&vault, *point, wanted).expect("whole"));
}

#[test]
fn caches_may_vanish_rot_or_belong_to_another_vault() {
    let place = Place::new();
    let points = two_points(&place);
    let fine = |what: &str| {
        let vault = place.open();
        for (point, wanted) in &points {
            let result = restored(&vault, *point, wanted);
            result.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        }
    };
    forget_cache(&place);
    fine("none");
    let segments = || -> Vec<PathBuf> {
        let all = files(&place.path("cache")).into_iter();
        all.filter(|path| path.extension().is_some_and(|e| e == "segment")).collect()
    };
    // A bit at every part of every file; then cut short; then empty.
    for nth in 0..40 {
        for path in segments() {
            let mut bytes = fs::read(&path).expect("read");
            let at = bytes.len() * nth / 40;
            bytes[at] ^= 0x20;
            fs::write(&path, bytes).expect("write");
        }
        fine(&format!("a flipped bit at {nth}/40"));
    }
    for path in segments() {
        let bytes = fs::read(&path).expect("read");
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("write");
    }
    fine("cut short");
    segments().iter().for_each(|path| fs::write(path, b"").expect("write"));
    fine("empty");

    // The files of another vault.
    let other = Place::new();
    let disk = Arc::new(Disk::with_noise(40, 8));
    let strange = back_up(&other.open(), &disk).expect("backup").recovery_point;
    let theirs = files(&other.path("cache"));
    let ours = segments()[0].parent().expect("a folder").to_owned();
    for path in theirs.iter().filter(|path| path.extension().is_some_and(|e| e == "segment")) {
        fs::copy(path, ours.join(name_of(path))).expect("copy");
    }
    fine("another vault's");
    assert!(place.open().point("web01", strange).is_err());
    // And the vault's own, from before its packs were reclaimed.
    let old: Vec<_> = segments().iter().map(|p| (p.clone(), fs::read(p).expect("read"))).collect();
    let vault = place.open();
    vault.delete_point("web01", points[0].0, "here").expect("delete");
    reclaim(&vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaim");
    forget_cache(&place);
    fs::create_dir_all(&ours).expect("folder");
    old.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("write"));
    let report = back_up(&place.open(), &points[0].1).expect("backup");
    forget_cache(&place);
    restored(&place.open(), report.recovery_point, &points[0].1).expect("whole");
    restored(&place.open(), points[1].0, &points[1].1).expect("whole");
}

/// The records of a cache file, by the layout that its module describes.
fn records(bytes: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
    let number = |at: usize| {
        let field = bytes[at..at + 4].try_into().expect("four bytes");
        usize::try_from(u32::from_le_bytes(field)).expect("small")
    };
    let start = 64 + 16 * number(8) + 93 * number(12) + 8 * number(16) + 8 * number(20) + 32;
    let count = number(32);
    bytes[start..].chunks_mut(48).take(count)
}

#[test]
fn a_reclaim_with_a_rotten_cache_deletes_nothing_that_is_needed() {
    for row in 0..4_u8 {
        let place = Place::new();
        let [(first, _), (second, new)] = two_points(&place);
        place.open().delete_point("web01", first, "here").expect("delete");
        // Every block is in one pack, says the cache, so the others are not needed.
        let mut changed = false;
        for path in files(&place.path("cache")) {
            let mut bytes = fs::read(&path).expect("read");
            let before = bytes.clone();
            for record in records(&mut bytes) {
                let kind = record[44] >> 3 & 7;
                if kind < 4 {
                    record[32] = row;
                }
            }
            changed |= bytes != before;
            fs::write(&path, bytes).expect("write");
        }
        assert!(changed);
        let vault = place.open();
        let options = ReclaimOptions { compact_below: 100, ..ReclaimOptions::default() };
        reclaim(&vault, &options, &Cancel::new()).expect("reclaim");
        forget_cache(&place);
        restored(&place.open(), second, &new).expect("whole");
    }
}

#[test]
fn a_rotten_note_of_a_writer_stops_no_backup() {
    let place = Place::new();
    let disk = Arc::new(Disk::with_noise(1, 8));
    let vault = place.open();
    let paused = strongroom_vault::Writer::begin(&vault, "other", "there").expect("a writer");
    for note in files(&place.vault_path().join("writers")) {
        fs::write(&note, b"what is this?").expect("write");
    }
    let report = back_up(&place.open(), &disk).expect("backup");
    restored(&place.open(), report.recovery_point, &disk).expect("whole");
    drop(paused);
}
