//! What a store really does, found out by trying.
//!
//! Servers that speak S3 often accept the header of a conditional put and ignore it, or are not
//! atomic about it. A vault on such a store may have one writer only, so it has to know.
//!
//! This module owns the trial and its verdict. What a vault does with the verdict is its own matter.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use strongroom_base::{ByteRange, Entropy, EntropyExt};

use crate::store::{Key, ObjectStore, Put, StoreError};

/// What a put of a key that exists does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionalPut {
    /// It is refused, and of many at once exactly one succeeds.
    Honoured,
    /// It replaces the object: several writers would overwrite each other.
    Ignored,
    /// The store knows no such puts and refuses them all.
    Refused,
    /// It is refused, but of many at once several succeed.
    Racy,
}

/// What a store does. Only a store where all is well may have several writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What a put of a key that exists does.
    pub conditional_put: ConditionalPut,
    /// An object can be read, whole and in part, as soon as its put has returned.
    pub read_after_write: bool,
    /// A list shows an object as soon as its put has returned.
    pub list_after_write: bool,
    /// Neither list nor read shows an object whose delete has returned.
    pub gone_after_delete: bool,
}

impl Capabilities {
    /// Whether two writers at once are safe.
    pub fn allow_several_writers(&self) -> bool {
        self.conditional_put == ConditionalPut::Honoured
            && self.read_after_write
            && self.list_after_write
            && self.gone_after_delete
    }
}

/// Writers of one race, and races: a server that is not atomic loses one of these nearly always.
const WRITERS: u8 = 16;
const RACES: u32 = 4;

/// Where stores are tried out. What lies here is left from a probe that broke off.
pub const PROBES: &str = "probe/";

/// Tries a store out below [`PROBES`], and removes what it wrote. An error means that the store
/// cannot be used at all.
pub fn probe(store: &dyn ObjectStore, entropy: &dyn Entropy) -> Result<Capabilities, StoreError> {
    let random = u64::from_le_bytes(entropy.array());
    let prefix = format!("{PROBES}{random:016x}/");
    let result = try_out(store, &prefix);
    let cleaned = clean(store, &prefix);
    let capabilities = result?;
    cleaned?;
    Ok(capabilities)
}

fn key(store: &dyn ObjectStore, prefix: &str, name: &str) -> Result<Key, StoreError> {
    Key::new(format!("{prefix}{name}"))
        .map_err(|error| StoreError::Protocol { store: store.name(), reason: error.to_string() })
}

fn try_out(store: &dyn ObjectStore, prefix: &str) -> Result<Capabilities, StoreError> {
    let one = key(store, prefix, "one")?;
    let first = b"the first put";
    let conditional_put = match store.put_new(&one, first) {
        Ok(Put::Created) => conditional_put(store, prefix, &one)?,
        Ok(Put::Exists) => {
            let reason = format!("it says that {one} exists, which it cannot");
            return Err(StoreError::Protocol { store: store.name(), reason });
        }
        // It works without the condition, so it is the condition that is refused.
        Err(StoreError::Protocol { .. }) if store.replace(&one, first).is_ok() => {
            ConditionalPut::Refused
        }
        Err(error) => return Err(error),
    };
    // Whichever writer won: its bytes are there now.
    store.replace(&one, first)?;
    let whole = store.get(&one, 100)?;
    let part = store.get_range(&one, ByteRange::between(4, 9))?;
    let listed = || -> Result<bool, StoreError> {
        let mut found = false;
        store.list(prefix, &mut |entry| {
            found |= entry.key == one;
            ControlFlow::Continue(())
        })?;
        Ok(found)
    };
    let list_after_write = listed()?;
    store.delete(&one)?;
    let gone = matches!(store.get(&one, 100), Err(StoreError::Missing { .. }));
    Ok(Capabilities {
        conditional_put,
        read_after_write: whole == first && part == b"first",
        list_after_write,
        gone_after_delete: gone && !listed()?,
    })
}

fn conditional_put(
    store: &dyn ObjectStore,
    prefix: &str,
    one: &Key,
) -> Result<ConditionalPut, StoreError> {
    if store.put_new(one, b"the second put")? == Put::Created {
        return Ok(ConditionalPut::Ignored);
    }
    for nth in 0..RACES {
        let key = key(store, prefix, &format!("race-{nth}"))?;
        let results = race(store, &key, WRITERS)?;
        let winners = results.iter().filter(|(_, put)| *put == Put::Created);
        let winners: Vec<_> = winners.map(|(body, _)| body).collect();
        let stored = store.get(&key, 1 << 20)?;
        if winners.as_slice() != [&stored] {
            return Ok(ConditionalPut::Racy);
        }
    }
    Ok(ConditionalPut::Honoured)
}

/// Lets `writers` threads put different bodies of one key at once; what each put, and the answer that it got.
pub(crate) fn race(
    store: &dyn ObjectStore,
    key: &Key,
    writers: u8,
) -> Result<Vec<(Vec<u8>, Put)>, StoreError> {
    let barrier = std::sync::Barrier::new(usize::from(writers));
    let put = |nth: u8| {
        let body = vec![nth; 10_000];
        barrier.wait();
        store.put_new(key, &body).map(|put| (body, put))
    };
    let put = &put;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|nth| scope.spawn(move || put(nth))).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    let reason = "a writer of the race panicked".to_owned();
                    Err(StoreError::Protocol { store: store.name(), reason })
                })
            })
            .collect()
    })
}

fn clean(store: &dyn ObjectStore, prefix: &str) -> Result<(), StoreError> {
    let mut keys = Vec::new();
    store.list(prefix, &mut |entry| {
        keys.push(entry.key);
        ControlFlow::Continue(())
    })?;
    keys.iter().try_for_each(|key| store.delete(key))
}

#[cfg(test)]
mod tests {
    use strongroom_base::{SystemClock, SystemEntropy};

    use super::*;
    use crate::{Faults, Faulty, Memory};

    #[test]
    fn good_and_bad_stores_are_told_apart() {
        let memory = Memory::default();
        let found = probe(&memory, &SystemEntropy).expect("a probe");
        assert!(found.allow_several_writers(), "{found:?}");
        let faults = Faults { ignore_conditions: true, ..Faults::default() };
        let careless = Faulty::new(memory.clone(), SystemClock, faults);
        let found = probe(&careless, &SystemEntropy).expect("a probe");
        assert_eq!(found.conditional_put, ConditionalPut::Ignored);
        assert!(!found.allow_several_writers());
        let mut left = 0;
        let count = &mut |_| {
            left += 1;
            ControlFlow::Continue(())
        };
        memory.list("", count).expect("a list");
        assert_eq!(left, 0);
    }
}
