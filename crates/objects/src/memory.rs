//! A store in memory, for tests and the simulator.
//!
//! It passes the same suite as every store, and must have no abilities that a real store lacks.

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard},
};

use jiff::Timestamp;
use strongroom_base::{ByteRange, Clock, SystemClock, lock};

use crate::store::{Entry, Key, ObjectStore, Put, StoreError, check_len, check_prefix};

/// Objects in memory, listed in the order of their names. Clones share the objects.
#[derive(Clone)]
pub struct Memory {
    objects: Arc<Mutex<BTreeMap<Key, Object>>>,
    clock: Arc<dyn Clock>,
}

struct Object {
    body: Arc<[u8]>,
    modified: Timestamp,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("objects", &self.objects().len()).finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty store whose objects are dated by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Arc::default(), clock }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, Object>> {
        lock(&self.objects)
    }

    fn body(&self, key: &Key) -> Result<Arc<[u8]>, StoreError> {
        let found = self.objects().get(key).map(|object| Arc::clone(&object.body));
        found.ok_or_else(|| StoreError::Missing { key: key.clone(), store: self.name() })
    }

    fn length_error(&self, key: &Key, body: &[u8], need: u64) -> StoreError {
        let have = u64::try_from(body.len()).unwrap_or(u64::MAX);
        StoreError::Length { key: key.clone(), store: self.name(), have, need }
    }
}

impl ObjectStore for Memory {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        check_len(key, body, &self.name())?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(Put::Exists);
        }
        objects.insert(key.clone(), Object { body: body.into(), modified: self.clock.now() });
        Ok(Put::Created)
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        let body = self.body(key)?;
        match u64::try_from(body.len()) {
            Ok(len) if len <= max_len => Ok(body.to_vec()),
            _ => Err(self.length_error(key, &body, max_len)),
        }
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        let body = self.body(key)?;
        let part = usize::try_from(range.offset())
            .ok()
            .zip(usize::try_from(range.end()).ok())
            .and_then(|(start, end)| body.get(start..end));
        part.map(<[u8]>::to_vec).ok_or_else(|| self.length_error(key, &body, range.end()))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        check_prefix(prefix, &self.name())?;
        let entries: Vec<Entry> = self
            .objects()
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, object)| Entry {
                key: key.clone(),
                size: u64::try_from(object.body.len()).unwrap_or(u64::MAX),
                modified: object.modified,
            })
            .collect();
        // The lock is free again: `visit` may use the store.
        let _ = entries.into_iter().try_for_each(visit);
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.objects().remove(key);
        Ok(())
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        check_len(key, body, &self.name())?;
        let object = Object { body: body.into(), modified: self.clock.now() };
        self.objects().insert(key.clone(), object);
        Ok(())
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn is_local(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Extent};

    #[test]
    fn conforms() {
        conformance::check(&Memory::default(), "", Extent::default()).expect("a store");
    }
}
