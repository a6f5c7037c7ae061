use std::sync::Arc;

use jiff::Timestamp;
use strongroom_base::{Clock as _, Coded as _, PointId, SystemClock, SystemEntropy};
use strongroom_format::{Conditional, Manifest, names, sealed::SealedKind};
use strongroom_objects::Memory;

use crate::{Vault, VaultOptions};
use strongroom_keys::{KeySource, generate_key_file};

pub(crate) fn vault(dir: &std::path::Path) -> Vault {
    let key = dir.join("key");
    generate_key_file(&key, &SystemEntropy).expect("a key");
    Vault::create(
        Arc::new(Memory::default()),
        &KeySource::File(key),
        "test",
        Conditional::Honoured,
        Vec::new(),
        VaultOptions::default(),
    )
    .expect("a vault")
}

fn manifest(item: &str, id: PointId) -> Manifest {
    strongroom_testing::manifest(id, item, Timestamp::UNIX_EPOCH, Vec::new())
}

/// Puts what a manifest says under the name of a point that may be another.
fn put(vault: &Vault, (item, id): (&str, PointId), says: &Manifest) {
    let name = names::point(vault.item_key(item).expect("a name"), id);
    let plain = says.encode().expect("encodes");
    vault.put_sealed(SealedKind::Manifest, &name, &plain).expect("put");
}

/// A point without disks.
pub(crate) fn put_point(vault: &Vault, item: &str, id: PointId, locked_until: Option<Timestamp>) {
    put(vault, (item, id), &Manifest { locked_until, ..manifest(item, id) });
}

#[test]
fn a_manifest_under_another_points_name_is_damage_and_no_bug() {
    let dir = tempfile::tempdir().expect("temp");
    let vault = vault(dir.path());
    let [one, two] = [[1; 16], [2; 16]].map(PointId::from_bytes);
    put(&vault, ("web", one), &manifest("web", two));
    put(&vault, ("db", two), &manifest("web", two));
    for (item, point) in [("web", one), ("db", two)] {
        let key = vault.item_key(item).expect("a name");
        let error = vault.manifest(key, point).expect_err("another point's");
        assert_eq!(error.code().name, "store.corrupt", "{error}");
        assert!(error.to_string().contains(&point.to_string()), "{error}");
    }
}

#[test]
fn a_locked_point_stays_until_its_time_is_over() {
    let dir = tempfile::tempdir().expect("temp");
    let vault = vault(dir.path());
    let now = SystemClock.now();
    let hour = jiff::SignedDuration::from_hours(1);
    let [locked, over] = [[1; 16], [2; 16]].map(PointId::from_bytes);
    for (id, until) in [(locked, now + hour), (over, now - hour)] {
        let says = Manifest { locked_until: Some(until), ..manifest("web", id) };
        put(&vault, ("web", id), &says);
    }
    let refused = vault.delete_point("web", locked, "here").expect_err("too early");
    assert_eq!(refused.code().name, "point.locked", "{refused}");
    vault.point("web", locked).expect("it is there still");
    vault.delete_point("web", over, "here").expect("its time is over");
    vault.point("web", over).expect_err("it is gone");
}
