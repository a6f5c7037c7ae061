//! What is in a store, and damage to it.

use std::{collections::BTreeMap, ops::ControlFlow};

use strongroom_objects::{Key, MAX_OBJECT_LEN, ObjectStore};

/// The keys below a prefix, sorted.
///
/// # Panics
///
/// If the store does not list.
pub fn keys(store: &dyn ObjectStore, prefix: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    let note = &mut |entry: strongroom_objects::Entry| {
        keys.push(entry.key);
        ControlFlow::Continue(())
    };
    store.list(prefix, note).expect("lists");
    keys.sort();
    keys
}

/// Everything in a store: the bytes of each object.
///
/// # Panics
///
/// If the store does not list, or an object cannot be read.
pub fn dump(store: &dyn ObjectStore) -> BTreeMap<Key, Vec<u8>> {
    let read = |key: Key| {
        let bytes = store.get(&key, MAX_OBJECT_LEN).expect("reads");
        (key, bytes)
    };
    keys(store, "").into_iter().map(read).collect()
}

/// Changes one bit of an object: of its byte `at`, counted on from its start if it is shorter.
///
/// # Panics
///
/// If the object is empty, or cannot be read or replaced.
pub fn flip(store: &dyn ObjectStore, key: &Key, at: usize) {
    let mut bytes = store.get(key, MAX_OBJECT_LEN).expect("reads");
    let at = at % bytes.len();
    bytes[at] ^= 0x10;
    store.replace(key, &bytes).expect("replaces");
}
