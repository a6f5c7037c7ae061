//! Key objects with their copies.
//!
//! Every key object exists twice: a vault must not be lost with one small object. The first name is the
//! one that counts when objects are created.

use std::{collections::BTreeSet, ops::ControlFlow};

use strongroom_base::{SlotId, VaultId};
use strongroom_format::{
    FormatError,
    names::{self, KeyObject},
    ring::Ring,
    slot::Slot,
};
use strongroom_objects::{Key, ObjectStore, StoreError};

use super::{KeyError, crypto::sha256};

/// An object and its copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) main: Key,
    pub(super) copy: Key,
    pub(super) max_len: u64,
}

/// What is wrong with an object's bytes.
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) source: Option<FormatError>,
}

impl From<&'static str> for Fault {
    fn from(reason: &'static str) -> Self {
        Self { reason, source: None }
    }
}

impl From<FormatError> for Fault {
    fn from(source: FormatError) -> Self {
        Self { reason: "it cannot be read", source: Some(source) }
    }
}

impl Fault {
    pub(super) fn of(self, key: &Key) -> KeyError {
        KeyError::Damaged { key: key.clone(), reason: self.reason, source: self.source }
    }
}

/// What a listing of the key objects shows.
#[derive(Debug, Default)]
pub(super) struct Present {
    pub(super) rings: BTreeSet<u32>,
    pub(super) ring_copies: BTreeSet<u32>,
    pub(super) slots: BTreeSet<SlotId>,
    pub(super) slot_copies: BTreeSet<SlotId>,
}

impl Present {
    /// The newest generation. A copy counts as well: it is only made of a ring that exists.
    pub(super) fn newest(&self) -> Option<u32> {
        self.rings.last().max(self.ring_copies.last()).copied()
    }
}

fn pair(main: Key, max_len: u64) -> Result<Pair, KeyError> {
    let copy = names::key_copy(&main)
        .ok_or(KeyError::Bug { what: "a key object whose copy has no name" })?;
    Ok(Pair { main, copy, max_len })
}

/// The objects of a ring.
pub(super) fn ring(vault: VaultId, generation: u32) -> Result<Pair, KeyError> {
    pair(names::key_ring(vault, generation), Ring::MAX_LEN)
}

/// The objects of a slot.
pub(super) fn slot(vault: VaultId, slot: SlotId) -> Result<Pair, KeyError> {
    pair(names::key_slot(vault, slot), Slot::MAX_LEN)
}

/// Lists all key objects of a vault. Foreign names are left out.
pub(super) fn list(store: &dyn ObjectStore, vault: VaultId) -> Result<Present, KeyError> {
    let mut present = Present::default();
    store.list(&names::keys_of(vault), &mut |entry| {
        let (rings, slots, object) = match names::parse_key_object(vault, &entry.key) {
            Some((object, true)) => (&mut present.ring_copies, &mut present.slot_copies, object),
            Some((object, false)) => (&mut present.rings, &mut present.slots, object),
            None => return ControlFlow::Continue(()),
        };
        match object {
            KeyObject::Ring(generation) => rings.insert(generation),
            KeyObject::Slot(slot) => slots.insert(slot),
        };
        ControlFlow::Continue(())
    })?;
    Ok(present)
}

/// Reads one object; `None` if it is missing or longer than it may be.
pub(super) fn read(
    store: &dyn ObjectStore,
    key: &Key,
    max_len: u64,
) -> Result<Option<Vec<u8>>, KeyError> {
    match store.get(key, max_len) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::Missing { .. } | StoreError::Length { .. }) => Ok(None),
        Err(source) => Err(source.into()),
    }
}

/// Reads an object, or its copy where the object is missing or fails `check`.
pub(super) fn read_good<T>(
    store: &dyn ObjectStore,
    pair: &Pair,
    mut check: impl FnMut(&[u8]) -> Result<T, Fault>,
) -> Result<T, KeyError> {
    let mut fault = Fault::from("it is missing");
    for (key, last) in [(&pair.main, false), (&pair.copy, true)] {
        let Some(bytes) = read(store, key, pair.max_len)? else { continue };
        match check(&bytes) {
            Ok(good) => {
                if last {
                    tracing::warn!(object = %pair.main, "a key object is damaged; its copy is good");
                }
                return Ok(good);
            }
            Err(found) => fault = found,
        }
    }
    Err(fault.of(&pair.main))
}

/// Makes the copy of an object whose bytes are good; a copy that exists is left as it is.
pub(super) fn put_copy(store: &dyn ObjectStore, pair: &Pair, bytes: &[u8]) -> Result<(), KeyError> {
    store.put_new(&pair.copy, bytes)?;
    Ok(())
}

/// Removes an object and its copy.
pub(super) fn delete(store: &dyn ObjectStore, pair: &Pair) -> Result<(), KeyError> {
    store.delete(&pair.main)?;
    store.delete(&pair.copy)?;
    Ok(())
}

/// Checks an object's digest.
pub(super) fn has_digest(bytes: &[u8], digest: &[u8; 32]) -> Result<(), Fault> {
    if sha256(bytes) == *digest { Ok(()) } else { Err(Fault::from("its digest is another")) }
}
