//! Validation of single points: what it notices, and what it costs.

use std::{ops::ControlFlow, sync::Arc};

use strongroom_base::{ByteRange, Cancel, Coded as _, PointId};
use strongroom_objects::{Entry, Key, Memory, ObjectStore, Put, StoreError};
use strongroom_vault::{ValidateOptions, Validated, VaultError};

use crate::common::{Place, cache_of, flip, get, keys, memory, mirror};

/// A store behind a network, of which a vault keeps objects on its host.
struct Distant(Memory);

impl ObjectStore for Distant {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.0.put_new(key, body)
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        self.0.get(key, max_len)
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.0.get_range(key, range)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.0.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.0.delete(key)
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.0.replace(key, body)
    }

    fn name(&self) -> String {
        "distant".to_owned()
    }

    fn is_local(&self) -> bool {
        false
    }
}

fn validate(place: &Place, item: &str, point: PointId) -> Result<Validated, VaultError> {
    let vault = place.open(false);
    vault.validate(item, point, ValidateOptions::default(), &|_| {}, &Cancel::new())
}

/// The codes of what is wrong with the three points, without what was noted of them before.
fn codes(place: &Place) -> Vec<Option<&'static str>> {
    std::fs::remove_dir_all(cache_of(place).join("validated")).ok();
    let items = ["web01", "web01", "db01"].into_iter().zip(&place.points);
    items.map(|(item, point)| Some(validate(place, item, *point).err()?.code().name)).collect()
}

#[test]
fn good_points_cost_what_they_added() {
    let place = Place::new(memory());
    let first = validate(&place, "web01", place.points[0]).expect("good");
    assert_eq!((first.base, first.nodes, first.blocks, first.sampled), (None, 3, 25, 25));
    assert_eq!(first.point.id, place.points[0]);
    // Three blocks of one leaf differ; beside them, blocks of the whole point are read.
    let second = validate(&place, "web01", place.points[1]).expect("good");
    assert_eq!((second.base, second.nodes, second.blocks), (Some(place.points[0]), 2, 3));
    assert!(second.sampled > 3, "{second:?}");
    // Once more is from the beginning.
    let again = validate(&place, "web01", place.points[1]).expect("good");
    assert_eq!((again.base, again.nodes), (None, 3));
    assert_eq!(codes(&place), [None, None, None]);
    assert!(matches!(
        validate(&place, "db01", place.points[0]),
        Err(VaultError::PointNotFound { .. })
    ));
}

#[test]
fn every_pack_is_needed_and_looked_for() {
    let place = Place::new(memory());
    let packs = keys(&*place.store, "packs/");
    assert!(packs.len() >= 5, "{packs:?}");
    let (mut missing, mut short) = (0, 0);
    for pack in packs {
        let good = get(&*place.store, &pack);
        place.store.delete(&pack).expect("deletes");
        let found: Vec<_> = codes(&place).into_iter().flatten().collect();
        assert!(found.iter().all(|code| *code == "store.missing"), "{pack}: {found:?}");
        missing += found.len();
        place.store.put_new(&pack, &good[..good.len() - 1]).expect("puts");
        let found: Vec<_> = codes(&place).into_iter().flatten().collect();
        assert!(found.iter().all(|code| *code == "store.corrupt"), "{pack}: {found:?}");
        short += found.len();
        place.store.replace(&pack, &good).expect("restores");
    }
    assert!(missing >= 5 && short == missing, "{missing} {short}");
    assert_eq!(codes(&place), [None, None, None]);
}

#[test]
fn a_pack_that_went_since_the_last_validation_is_missed() {
    let place = Place::new(memory());
    validate(&place, "web01", place.points[0]).expect("good");
    // What is lost belongs to the first point, and the second shares it.
    let data = keys(&*place.store, "packs/data/");
    let found = data.iter().filter(|pack| {
        let good = get(&*place.store, pack);
        place.store.delete(pack).expect("deletes");
        let found = validate(&place, "web01", place.points[1]).is_err();
        place.store.put_new(pack, &good).expect("restores");
        found
    });
    assert!(found.count() >= 2);
}

#[test]
fn corrupted_packs_and_manifests() {
    find_what_is_corrupted(&Place::new(memory()));
}

/// What this host keeps of the store says nothing about the store.
#[test]
fn corrupted_packs_and_manifests_of_a_distant_store() {
    find_what_is_corrupted(&Place::new(Arc::new(Distant(Memory::default()))));
}

fn find_what_is_corrupted(place: &Place) {
    for kind in ["packs/data/", "packs/node/"] {
        let mut bad = 0;
        for pack in keys(&*place.store, kind) {
            let good = get(&*place.store, &pack);
            for at in (100..good.len()).step_by(good.len() / 4) {
                flip(&*place.store, &pack, at);
                let found: Vec<_> = codes(place).into_iter().flatten().collect();
                assert!(found.iter().all(|code| *code == "store.corrupt"), "{pack}: {found:?}");
                bad += usize::from(!found.is_empty());
                place.store.replace(&pack, &good).expect("restores");
            }
        }
        assert!(bad > 0, "{kind}");
    }
    for manifest in keys(&*place.store, "points/") {
        let good = get(&*place.store, &manifest);
        for bytes in [&good[..good.len() - 1], &good[..70], &good[..3]] {
            place.store.replace(&manifest, bytes).expect("replaces");
            let found: Vec<_> = codes(place).into_iter().flatten().collect();
            assert_eq!(found, ["point.damaged"]);
        }
        place.store.delete(&manifest).expect("deletes");
        let found: Vec<_> = codes(place).into_iter().flatten().collect();
        assert_eq!(found, ["point.not_found"]);
        place.store.put_new(&manifest, &good).expect("restores");
    }
}

#[test]
fn mirrors_heal_and_what_was_deleted_is_no_base() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    validate(&place, "web01", place.points[0]).expect("good");
    for pack in keys(&*copies[0], "packs/") {
        flip(&*copies[0], &pack, 1000);
    }
    validate(&place, "web01", place.points[1]).expect("the other copy is good");
    place.vault.delete_point("web01", place.points[1], "here").expect("deletes");
    let first = validate(&place, "web01", place.points[0]).expect("good");
    assert_eq!(first.base, None);
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = place.vault.validate(
        "web01",
        place.points[0],
        ValidateOptions::default(),
        &|_| {},
        &cancel,
    );
    assert!(matches!(stopped, Err(VaultError::Interrupted)));
}

#[test]
fn a_point_is_found_by_what_it_says() {
    let place = Place::new(memory());
    let is_first = |manifest: &strongroom_format::Manifest| manifest.id == place.points[0];
    let found = place.vault.find_point("web01", 0, is_first).expect("looks");
    assert_eq!(found.map(|point| point.id), Some(place.points[0]));
    let later = place.points[0].millis() + 1;
    assert_eq!(place.vault.find_point("web01", later, is_first).expect("looks"), None);
    assert_eq!(place.vault.find_point("nobody", 0, is_first).expect("looks"), None);
}
