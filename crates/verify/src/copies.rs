//! Every copy of an object by itself. Nothing here writes.

use std::{ops::ControlFlow, sync::Arc};

use strongroom_base::{ByteRange, Clock};
use strongroom_objects::{Entry, Key, Limited, ObjectStore, Rate, StoreError};
use strongroom_reports::{CopyState, UnsoundCopy};

use crate::Result;

/// The stores that hold one copy each.
pub(super) struct Copies {
    stores: Vec<Arc<dyn ObjectStore>>,
    names: Vec<String>,
}

/// What the copies of an object are.
#[derive(Default)]
pub(super) struct Seen {
    /// The bytes of a good copy.
    pub(super) good: Option<Vec<u8>>,
    /// How many copies have them.
    pub(super) good_copies: u64,
    /// The bytes of the first copy that is not good but not absent either.
    pub(super) bad: Option<Vec<u8>>,
    /// The copies that are not good.
    pub(super) unsound: Vec<UnsoundCopy>,
    /// Bytes read.
    pub(super) read: u64,
}

impl Seen {
    /// Whether no copy has the object.
    pub(super) fn is_gone(&self) -> bool {
        self.good.is_none() && self.unsound.iter().all(|copy| copy.state == CopyState::Missing)
    }
}

impl Copies {
    pub(super) fn new(
        store: &Arc<dyn ObjectStore>,
        limit_rate: Option<u64>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let mut stores = store.copies();
        if stores.is_empty() {
            stores.push(Arc::clone(store));
        }
        let names = stores.iter().map(|store: &Arc<dyn ObjectStore>| store.name()).collect();
        if let Some(limit) = limit_rate {
            let rate = Rate::new(limit, Arc::clone(clock));
            let limited =
                |store| -> Arc<dyn ObjectStore> { Arc::new(Limited::new(store, rate.clone())) };
            stores = stores.into_iter().map(limited).collect();
        }
        Self { stores, names }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn stores(&self) -> &[Arc<dyn ObjectStore>] {
        &self.stores
    }

    /// Lists every copy; `visit` is called with the one that has an object.
    pub(super) fn list(&self, prefix: &str, mut visit: impl FnMut(usize, Entry)) -> Result<()> {
        let mut failure = None;
        let mut answered = false;
        for (number, store) in self.stores.iter().enumerate() {
            let listed = store.list(prefix, &mut |entry| {
                visit(number, entry);
                ControlFlow::Continue(())
            });
            match listed {
                Ok(()) => answered = true,
                Err(error) => {
                    tracing::warn!(copy = store.name(), %error, "a copy cannot be listed");
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            Some(error) if !answered => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Reads every copy of an object and has each checked. Fails only if no copy can be read at
    /// all for another reason than its absence.
    pub(super) fn look(
        &self,
        key: &Key,
        max_len: u64,
        check: &dyn Fn(&[u8]) -> std::result::Result<(), String>,
    ) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut failure = None;
        for (store, name) in self.stores.iter().zip(&self.names) {
            let mut unsound = |state, reason: String| {
                seen.unsound.push(UnsoundCopy { copy: name.clone(), state, reason });
            };
            let bytes = match store.get(key, max_len) {
                Ok(bytes) => bytes,
                Err(error @ StoreError::Missing { .. }) => {
                    unsound(CopyState::Missing, error.to_string());
                    continue;
                }
                Err(error @ StoreError::Length { .. }) => {
                    unsound(CopyState::Damaged, error.to_string());
                    continue;
                }
                Err(error) => {
                    unsound(CopyState::Unreachable, error.to_string());
                    failure.get_or_insert(error);
                    continue;
                }
            };
            seen.read = seen.read.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            if seen.good.as_ref() == Some(&bytes) {
                seen.good_copies = seen.good_copies.saturating_add(1);
                continue;
            }
            match check(&bytes) {
                Ok(()) if seen.good.is_none() => {
                    seen.good = Some(bytes);
                    seen.good_copies = 1;
                }
                Ok(()) => unsound(
                    CopyState::Conflicting,
                    "it differs from the first good copy".to_owned(),
                ),
                Err(reason) => {
                    unsound(CopyState::Damaged, reason);
                    seen.bad.get_or_insert(bytes);
                }
            }
        }
        match failure {
            Some(error) if seen.good.is_none() && seen.bad.is_none() => Err(error.into()),
            _ => Ok(seen),
        }
    }

    /// Whether some copy has an object of this name, be it empty. Fails if one that might could not
    /// be asked.
    pub(super) fn have(&self, key: &Key) -> Result<bool> {
        let mut failure = None;
        for store in &self.stores {
            match store.get(key, 0) {
                Ok(_) | Err(StoreError::Length { .. }) => return Ok(true),
                Err(StoreError::Missing { .. }) => {}
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(false), |error| Err(error.into()))
    }

    /// Reads part of an object from each copy in turn until `accept` likes what it gets. None if
    /// no copy has it good; fails if a copy that might could not be read.
    pub(super) fn find<T>(
        &self,
        key: &Key,
        range: ByteRange,
        mut accept: impl FnMut(usize, Vec<u8>) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut failure = None;
        for (number, store) in self.stores.iter().enumerate() {
            match store.get_range(key, range) {
                Ok(bytes) => {
                    if let Some(value) = accept(number, bytes) {
                        return Ok(Some(value));
                    }
                }
                Err(StoreError::Missing { .. } | StoreError::Length { .. }) => {}
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(None),
        }
    }
}
