//! What a service keeps beside recovery points.

use std::sync::Arc;

use strongroom_base::{Cancel, Coded as _};
use strongroom_objects::{Mirror, ObjectStore};
use strongroom_vault::{ReclaimOptions, UsageOptions, Vault, VaultError, reclaim};
use strongroom_verify::{ObjectKind, VerifyMode, VerifyOptions};

use crate::common::{Place, flip, get, keys, memory, mirror};

fn names(vault: &Vault) -> Vec<String> {
    vault.service_objects().expect("lists").into_iter().map(|object| object.name).collect()
}

#[test]
fn kept_replaced_and_removed() {
    let place = Place::new(memory());
    let vault = &place.vault;
    assert!(names(vault).is_empty());
    let none = vault.load_service_object("catalog").expect_err("nothing");
    assert_eq!(none.code().name, "vault.nothing_kept");
    vault.save_service_object("catalog", b"one").expect("saves");
    vault.save_service_object("catalog", b"two").expect("saves");
    vault.save_service_object("catalog.1", b"").expect("saves");
    assert_eq!(names(vault), ["catalog", "catalog.1"]);
    assert_eq!(keys(&*place.store, "service/catalog/").len(), 1);
    assert_eq!(vault.load_service_object("catalog").expect("loads"), b"two");
    assert_eq!(vault.load_service_object("catalog.1").expect("loads"), b"");
    // Whoever opens it next finds it, also under a new master key.
    let keyring = vault.keys();
    let mut ring = keyring.write().expect("unlocked");
    ring.rotate_master(&*place.store, &**vault.clock(), &**vault.entropy()).expect("rotates");
    drop(ring);
    vault.save_service_object("catalog", b"three").expect("saves");
    assert_eq!(place.open(true).load_service_object("catalog").expect("loads"), b"three");
    vault.remove_service_object("catalog").expect("removes");
    vault.remove_service_object("catalog").expect("removes nothing");
    assert_eq!(names(vault), ["catalog.1"]);
    for bad in ["", "a/b", ".hidden", "ä"] {
        assert_eq!(vault.save_service_object(bad, b"").expect_err(bad).code().name, "item.name");
    }
    let large = vec![0; Vault::MAX_SERVICE_OBJECT + 1];
    assert!(matches!(vault.save_service_object("a", &large), Err(VaultError::Format { .. })));
    vault.save_service_object("a", &large[1..]).expect("as large as can be");
    assert_eq!(vault.load_service_object("a").expect("loads").len(), large.len() - 1);
}

/// Every state that a crash between put and delete leaves, and every damage.
#[test]
fn the_newest_that_opens_counts() {
    let place = Place::new(memory());
    let vault = &place.vault;
    vault.save_service_object("catalog", b"old").expect("saves");
    let old = keys(&*place.store, "service/").remove(0);
    let bytes = get(&*place.store, &old);
    vault.save_service_object("catalog", b"new").expect("saves");
    let new = keys(&*place.store, "service/").remove(0);
    // Not deleted yet.
    place.store.put_new(&old, &bytes).expect("puts");
    assert_eq!(vault.load_service_object("catalog").expect("loads"), b"new");
    assert_eq!(names(vault), ["catalog"]);
    flip(&*place.store, &new, 70);
    assert_eq!(vault.load_service_object("catalog").expect("loads"), b"old");
    flip(&*place.store, &old, 70);
    assert_eq!(vault.load_service_object("catalog").expect_err("bad").code().name, "store.corrupt");
    // One under another's name does not open.
    place.store.replace(&new, &bytes).expect("replaces");
    assert!(vault.load_service_object("catalog").is_err());
    vault.save_service_object("catalog", b"newest").expect("saves");
    assert_eq!(keys(&*place.store, "service/").len(), 1);
    assert_eq!(vault.load_service_object("catalog").expect("loads"), b"newest");
}

#[test]
fn verify_reclaim_and_usage_know_of_it() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    let vault = &place.vault;
    let before = vault.usage(UsageOptions::default(), &Cancel::new()).expect("counts");
    vault.save_service_object("catalog", b"words").expect("saves");
    let after = vault.usage(UsageOptions::default(), &Cancel::new()).expect("counts");
    assert_eq!(after.other_objects, before.other_objects + 1);
    assert_eq!(after.index_objects, before.index_objects);
    reclaim(vault, &ReclaimOptions::default(), &Cancel::new()).expect("reclaims");
    assert_eq!(vault.load_service_object("catalog").expect("loads"), b"words");
    assert!(place.full().clean);

    let object = keys(&*copies[0], "service/").remove(0);
    flip(&*copies[0], &object, 66);
    let report = place.full();
    assert!(!report.clean && report.damaged.len() == 1, "{report:?}");
    assert_eq!(report.damaged[0].kind, ObjectKind::Service);
    let blind = VerifyOptions { mode: VerifyMode::Blind, ..VerifyOptions::default() };
    assert_eq!(place.verify(&blind).damaged.len(), 1);
    assert!(place.repair().clean);
    assert!(place.full().clean);
}

#[test]
fn a_copy_that_was_away_brings_nothing_back() {
    let (store, copies) = mirror();
    let place = Place::new(store);
    place.vault.save_service_object("catalog", b"old").expect("saves");
    // Another process, to which one copy is away.
    let away = vec!["the other disk".to_owned()];
    let half: Arc<dyn ObjectStore> = Arc::new(Mirror::new(vec![Arc::clone(&copies[0])], away));
    let alone = Vault::open(half, &place.key(), place.options()).expect("opens");
    alone.save_service_object("catalog", b"new").expect("saves");
    assert!(matches!(alone.remove_service_object("catalog"), Err(VaultError::Degraded { .. })));
    assert_eq!(place.open(false).load_service_object("catalog").expect("loads"), b"new");
}
