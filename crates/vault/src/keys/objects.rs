//! Names of key objects, and reading them with their copies.
//!
//! Every key object exists twice, under `keys/<vault id>/` and under `keys/<vault id>/copies/`: a
//! vault must not be lost with one small object. The first name is the one that counts when
//! objects are created.

use std::{collections::BTreeSet, ops::ControlFlow};

use strongroom_base::{SlotId, VaultId};
use strongroom_format::{FormatError, ring::Ring, slot::Slot};
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

/// Prefix of all key objects of a vault.
pub(super) fn prefix(vault: VaultId) -> String {
    format!("keys/{vault}/")
}

fn pair(vault: VaultId, name: &str, max_len: u64) -> Result<Pair, KeyError> {
    let key = |name: String| {
        Key::new(name).map_err(|_| KeyError::Bug { what: "a key object without a good name" })
    };
    let prefix = prefix(vault);
    Ok(Pair {
        main: key(format!("{prefix}{name}"))?,
        copy: key(format!("{prefix}copies/{name}"))?,
        max_len,
    })
}

/// The objects of a ring.
pub(super) fn ring(vault: VaultId, generation: u32) -> Result<Pair, KeyError> {
    pair(vault, &format!("rings/{generation:08}.json"), Ring::MAX_LEN)
}

/// The objects of a slot.
pub(super) fn slot(vault: VaultId, slot: SlotId) -> Result<Pair, KeyError> {
    pair(vault, &format!("slots/{slot}.json"), Slot::MAX_LEN)
}

/// Lists all key objects of a vault. Foreign names are left out.
pub(super) fn list(store: &dyn ObjectStore, vault: VaultId) -> Result<Present, KeyError> {
    let prefix = prefix(vault);
    let mut present = Present::default();
    store.list(&prefix, &mut |entry| {
        let name = entry.key.as_str().strip_prefix(&prefix).unwrap_or_default();
        let (rings, slots, name) = match name.strip_prefix("copies/") {
            Some(name) => (&mut present.ring_copies, &mut present.slot_copies, name),
            None => (&mut present.rings, &mut present.slots, name),
        };
        if let Some(id) = name.strip_prefix("slots/").and_then(|name| name.strip_suffix(".json")) {
            slots.extend(id.parse::<SlotId>().ok());
        } else if let Some(number) =
            name.strip_prefix("rings/").and_then(|name| name.strip_suffix(".json"))
        {
            let generation = number.parse::<u32>().ok();
            rings.extend(generation.filter(|generation| format!("{generation:08}") == number));
        }
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
