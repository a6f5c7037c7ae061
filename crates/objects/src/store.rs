//! The one trait that every store implements, and its vocabulary.
//!
//! This module owns the contract: what a put, get, list and delete promise, and the errors that all stores share. The
//! suite `conformance` checks it. It must not know any single store.

use std::{ops::ControlFlow, sync::Arc};

use jiff::Timestamp;
use strongroom_base::{ByteRange, Code, Coded, Params, codes, params};

pub use strongroom_base::{Key, KeyError};

/// What a create-only put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is new, complete and durable.
    Created,
    /// There already was an object of this name; it was left as it is.
    Exists,
}

/// The most bytes an object may have: several times the largest pack.
pub const MAX_OBJECT_LEN: u64 = 256 * 1024 * 1024;

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// Its bytes.
    pub size: u64,
    /// When it was written, by the store's clock. Never decides whether data is safe to delete.
    pub modified: Timestamp,
}

/// What [`ObjectStore::heal`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heal {
    /// All copies were good.
    Healthy,
    /// At least one copy was missing or bad and has been replaced by a good one.
    Repaired,
    /// No copy is good.
    Lost,
}

/// A copy of a mirror that is no longer written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub copy: String,
    /// The place of the first error in the catalog.
    pub code: &'static Code,
    /// What was said.
    pub reason: String,
}

/// Why an operation on a store failed.
///
/// Passing faults have been retried before one of these comes out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such object.
    #[error("object {key} does not exist in {store}")]
    Missing {
        /// The object.
        key: Key,
        /// The store, as messages name it.
        store: String,
    },
    /// The object is shorter or longer than what was asked for.
    #[error("object {key} in {store} has {have} bytes where {need} are needed")]
    Length {
        /// The object.
        key: Key,
        /// The store, as messages name it.
        store: String,
        /// Bytes there.
        have: u64,
        /// Bytes needed (or the most that are allowed).
        need: u64,
    },
    /// No room left.
    #[error("{store} is full while writing {what}")]
    Full {
        /// The object, or what belongs to the store itself.
        what: String,
        /// The store, as messages name it.
        store: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not writable.
    #[error("{store} is read-only; {what} cannot be changed")]
    ReadOnly {
        /// The object, or what belongs to the store itself.
        what: String,
        /// The store, as messages name it.
        store: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No right to do this.
    #[error("access to {what} in {store} is denied")]
    Denied {
        /// The object or prefix.
        what: String,
        /// The store, as messages name it.
        store: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does not answer or keeps failing.
    #[error("{store} cannot {action} {what}")]
    Unavailable {
        /// The store, as messages name it.
        store: String,
        /// The verb: read, write, list, delete.
        action: &'static str,
        /// The object or prefix.
        what: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The URL or the settings of the store are not valid.
    #[error("{url:?} is not a usable store: {reason}")]
    Url {
        /// The URL, without secrets.
        url: String,
        /// Why.
        reason: String,
    },
    /// The store does something no store should.
    #[error("{store} sent an answer that is not valid: {reason}")]
    Protocol {
        /// The store, as messages name it.
        store: String,
        /// What it did.
        reason: String,
    },
}

impl Coded for StoreError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Missing { .. } => &codes::STORE_MISSING,
            Self::Length { .. } => &codes::STORE_CORRUPT,
            Self::Full { .. } => &codes::STORE_FULL,
            Self::ReadOnly { .. } => &codes::STORE_READ_ONLY,
            Self::Denied { .. } => &codes::STORE_DENIED,
            Self::Unavailable { .. } => &codes::STORE_UNAVAILABLE,
            Self::Url { .. } => &codes::URL_INVALID,
            Self::Protocol { .. } => &codes::STORE_PROTOCOL,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Missing { key, store } => params!(STORE_MISSING: key, store),
            Self::Length { key, store, have, need } => {
                params!(STORE_CORRUPT: key, store, have, need)
            }
            Self::Full { what, store, source: _ } => params!(STORE_FULL: what, store),
            Self::ReadOnly { what, store, source: _ } => params!(STORE_READ_ONLY: what, store),
            Self::Denied { what, store, source: _ } => params!(STORE_DENIED: what, store),
            Self::Unavailable { store, action, what, source: _ } => {
                params!(STORE_UNAVAILABLE: store, action, what)
            }
            Self::Url { url, reason } => params!(URL_INVALID: url, reason),
            Self::Protocol { store, reason } => params!(STORE_PROTOCOL: store, reason),
        }
    }
}

/// A store of immutable objects.
///
/// All methods may be called from many threads at once. A put or delete is durable when it
/// returns. Lists see every object whose put had returned before the list began (all supported
/// stores give that today); they make no promise about what changes meanwhile.
///
/// After an error of a put or delete nobody knows whether it was done: it may be visible now,
/// later, or never, but never in part.
pub trait ObjectStore: Send + Sync {
    /// Writes a new object of at most [`MAX_OBJECT_LEN`] bytes, all of it or nothing; never
    /// replaces one.
    ///
    /// Of several puts of one key at once, exactly one may return [`Put::Created`]. A retry
    /// after a lost answer that finds an object with these very bytes counts as created. An
    /// object that is answered with [`Put::Exists`] is as durable as a created one.
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError>;

    /// As [`Self::put_new`], for an object that says only that a process of this machine is at work.
    /// Where all who see the store stop with this machine, it may be lost, or torn, when the machine
    /// stops, and is seen by all others at once all the same. Below a first segment of keys all
    /// objects are put so, or none.
    fn put_passing(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.put_new(key, body)
    }

    /// Reads a whole object of at most `max_len` bytes; a longer one is a
    /// [`StoreError::Length`] and is not read.
    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError>;

    /// Reads exactly the bytes of `range`; an object that ends earlier is a
    /// [`StoreError::Length`].
    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError>;

    /// Visits every object whose key starts with `prefix`, in no promised order, until `visit`
    /// breaks. `prefix` is empty or whole segments ending in `/`. Temporary and foreign files
    /// (names that are no [`Key`]) are not shown.
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// As [`Self::list`], but shows only objects whose names come after `after` and not after
    /// `until`, where these are given. A store that [lists by name](Self::lists_by_name) does not go
    /// through the others.
    fn list_between(
        &self,
        prefix: &str,
        after: Option<&Key>,
        until: Option<&Key>,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.list(prefix, &mut |entry| {
            if is_between(&entry.key, after, until) {
                visit(entry)
            } else {
                ControlFlow::Continue(())
            }
        })
    }

    /// Whether a part of a list costs no more than its own objects, so that a long list is sooner
    /// there in several parts at once.
    fn lists_by_name(&self) -> bool {
        false
    }

    /// Removes an object. Removing what is not there succeeds.
    fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// As [`Self::delete`], for what was put with [`Self::put_passing`]: it may be there again after the
    /// machine has stopped.
    fn delete_passing(&self, key: &Key) -> Result<(), StoreError> {
        self.delete(key)
    }

    /// Removes objects, in no promised order, with fewer requests than one for each where the store
    /// can do that. After an error some of them may be gone.
    fn delete_all(&self, keys: &[Key]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// Writes an object in place of whatever is there, at once. Only for putting a good copy in
    /// place of a rotten one; everything else is written once with [`ObjectStore::put_new`].
    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError>;

    /// Looks at every copy of an object with `check`, and replaces missing and bad copies by a
    /// good one. Stores with a single copy only look.
    fn heal(&self, key: &Key, check: &dyn Fn(&[u8]) -> bool) -> Result<Heal, StoreError> {
        match self.get(key, MAX_OBJECT_LEN) {
            Ok(body) if check(&body) => Ok(Heal::Healthy),
            Ok(_) | Err(StoreError::Missing { .. } | StoreError::Length { .. }) => Ok(Heal::Lost),
            Err(error) => Err(error),
        }
    }

    /// The copies that are no longer written since some operation on them failed, and why.
    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }

    /// The store's name for people and messages; free of secrets.
    fn name(&self) -> String;

    /// Whether small reads are cheap (a local disk, not a network).
    fn is_local(&self) -> bool;

    /// The stores that hold one copy each, if this is a [`Mirror`](crate::Mirror); none if it is
    /// a single store. For looking at every copy by itself: what is written to one of them is
    /// missing in the others.
    fn copies(&self) -> Vec<Arc<dyn ObjectStore>> {
        Vec::new()
    }

    /// The names of copies that have failed in this run and are no longer written. While there
    /// are any, nothing may be deleted and no other writer's work may be declared dead: see
    /// [`Mirror`](crate::Mirror).
    fn degraded(&self) -> Vec<String> {
        Vec::new()
    }

    /// Removes temporary files that puts which broke off left behind, and says how many. Stores
    /// without such files have nothing to do.
    fn sweep(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

impl<S: ObjectStore + ?Sized> ObjectStore for Arc<S> {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        (**self).put_new(key, body)
    }

    fn put_passing(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        (**self).put_passing(key, body)
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        (**self).get(key, max_len)
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        (**self).get_range(key, range)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        (**self).list(prefix, visit)
    }

    fn list_between(
        &self,
        prefix: &str,
        after: Option<&Key>,
        until: Option<&Key>,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        (**self).list_between(prefix, after, until, visit)
    }

    fn lists_by_name(&self) -> bool {
        (**self).lists_by_name()
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        (**self).delete(key)
    }

    fn delete_passing(&self, key: &Key) -> Result<(), StoreError> {
        (**self).delete_passing(key)
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), StoreError> {
        (**self).delete_all(keys)
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        (**self).replace(key, body)
    }

    fn heal(&self, key: &Key, check: &dyn Fn(&[u8]) -> bool) -> Result<Heal, StoreError> {
        (**self).heal(key, check)
    }

    fn refusals(&self) -> Vec<Refusal> {
        (**self).refusals()
    }

    fn name(&self) -> String {
        (**self).name()
    }

    fn is_local(&self) -> bool {
        (**self).is_local()
    }

    fn copies(&self) -> Vec<Arc<dyn ObjectStore>> {
        (**self).copies()
    }

    fn degraded(&self) -> Vec<String> {
        (**self).degraded()
    }

    fn sweep(&self) -> Result<u64, StoreError> {
        (**self).sweep()
    }
}

/// Whether a name comes after `after` and not after `until`.
pub(crate) fn is_between(key: &Key, after: Option<&Key>, until: Option<&Key>) -> bool {
    after.is_none_or(|after| key > after) && until.is_none_or(|until| key <= until)
}

/// Stands for a name in the memory of a list; two names never share one in practice.
pub(crate) fn fingerprint(name: &str) -> u128 {
    let mut bytes = [0; 16];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// Checks what every [`ObjectStore::list`] asks of its `prefix`.
pub(crate) fn check_prefix(prefix: &str, store: &str) -> Result<(), StoreError> {
    let good = prefix.is_empty() || prefix.strip_suffix('/').is_some_and(|p| Key::new(p).is_ok());
    if good {
        return Ok(());
    }
    let reason = format!("a list of {prefix:?} was asked for, which is not a prefix of keys");
    Err(StoreError::Protocol { store: store.to_owned(), reason })
}

/// Refuses bodies that no reader would accept.
pub(crate) fn check_len(key: &Key, body: &[u8], store: &str) -> Result<(), StoreError> {
    let have = u64::try_from(body.len()).unwrap_or(u64::MAX);
    if have <= MAX_OBJECT_LEN {
        return Ok(());
    }
    Err(StoreError::Length {
        key: key.clone(),
        store: store.to_owned(),
        have,
        need: MAX_OBJECT_LEN,
    })
}
