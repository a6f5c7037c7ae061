//! A store that misbehaves on purpose and on schedule: a test tool.
//!
//! What happens to the n-th operation follows from the seed and n alone, so a run with one
//! thread repeats exactly.

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use strongroom_base::{ByteRange, Clock, SplitMix64, lock};

use crate::store::{Entry, Heal, Key, ObjectStore, Put, Refusal, StoreError};

/// What goes wrong. The default is nothing.
///
/// The numbers `.._one_in` are averages: one operation of N, chosen by the seed; 0 is never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Chooses which operations are hit.
    pub seed: u64,
    /// Operations that fail. Half of the writes among them are done before they fail: a lost
    /// answer.
    pub fail_one_in: u32,
    /// Operations that hang for [`Faults::hang_for`] before they fail.
    pub hang_one_in: u32,
    /// How long.
    pub hang_for: Duration,
    /// Reads that return less than there is.
    pub truncate_one_in: u32,
    /// Reads that return one wrong bit.
    pub flip_one_in: u32,
    /// Reads that return the bytes of another object.
    pub swap_one_in: u32,
    /// The store is full when this many bytes have been put.
    pub capacity: Option<u64>,
    /// Every write is refused.
    pub read_only: bool,
    /// From this operation on, counted from 0 since the store was made, everything fails, as if
    /// the process had been killed. Of a write that is hit itself, the seed says whether it was
    /// done.
    pub crash_at: Option<u64>,
    /// Puts replace what is there, and say that they created it.
    pub ignore_conditions: bool,
}

/// How often each operation was asked for, whatever became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Puts of new objects, and replacements.
    pub puts: u64,
    /// Bytes in them.
    pub put_bytes: u64,
    /// Reads of whole objects.
    pub gets: u64,
    /// Reads of ranges.
    pub ranges: u64,
    /// Bytes returned by both.
    pub got_bytes: u64,
    /// Lists.
    pub lists: u64,
    /// Deletes.
    pub deletes: u64,
}

/// A store with [`Faults`].
pub struct Faulty<S> {
    inner: S,
    clock: Box<dyn Clock>,
    faults: Mutex<Faults>,
    operations: Mutex<Operations>,
    count: AtomicU64,
    stored: AtomicU64,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// What is to happen to one operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Fails without having been done.
    Refused,
    /// Is done, and reports a failure.
    Unanswered,
}

/// The verb of an operation, and how much it writes.
#[derive(Clone, Copy)]
enum Action {
    Read,
    List,
    Delete,
    Write(usize),
}

impl<S: ObjectStore> Faulty<S> {
    /// Wraps a store; hangs sleep on `clock`.
    pub fn new(inner: S, clock: impl Clock + 'static, faults: Faults) -> Self {
        Self {
            inner,
            clock: Box::new(clock),
            faults: Mutex::new(faults),
            operations: Mutex::default(),
            count: AtomicU64::new(0),
            stored: AtomicU64::new(0),
        }
    }

    /// The store itself, which has no faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Changes what goes wrong from the next operation on.
    pub fn set(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// How many operations have begun.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How often each operation was asked for.
    pub fn operations(&self) -> Operations {
        *self.tally()
    }

    fn tally(&self) -> MutexGuard<'_, Operations> {
        lock(&self.operations)
    }

    fn faults(&self) -> Faults {
        lock(&self.faults).clone()
    }

    /// Decides what happens to the next operation, and does the waiting.
    fn begin(&self, action: Action, key: &Key) -> Result<(Draw, Fate), StoreError> {
        let nth = self.count.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults();
        let mut draw = Draw::new(faults.seed, nth);
        let fate = |draw: &mut Draw| {
            let write = matches!(action, Action::Write(_) | Action::Delete);
            if write && draw.one_in(2) { Fate::Unanswered } else { Fate::Refused }
        };
        if let Some(crash_at) = faults.crash_at
            && nth >= crash_at
        {
            let hit = if nth == crash_at { fate(&mut draw) } else { Fate::Refused };
            return Ok((draw, hit));
        }
        if let Action::Write(len) = action {
            let cause = |kind: io::ErrorKind| Box::new(io::Error::from(kind));
            let (what, store) = (key.to_string(), self.name());
            if faults.read_only {
                let source = cause(io::ErrorKind::ReadOnlyFilesystem);
                return Err(StoreError::ReadOnly { what, store, source });
            }
            let len = u64::try_from(len).unwrap_or(u64::MAX);
            let before = self.stored.fetch_add(len, Ordering::Relaxed);
            if faults.capacity.is_some_and(|capacity| before.saturating_add(len) > capacity) {
                self.stored.fetch_sub(len, Ordering::Relaxed);
                let source = cause(io::ErrorKind::StorageFull);
                return Err(StoreError::Full { what, store, source });
            }
        }
        if draw.one_in(faults.hang_one_in) {
            self.clock.sleep(faults.hang_for);
            let hit = fate(&mut draw);
            return Ok((draw, hit));
        }
        if draw.one_in(faults.fail_one_in) {
            let hit = fate(&mut draw);
            return Ok((draw, hit));
        }
        Ok((draw, Fate::Fine))
    }

    fn failure(&self, action: &'static str, what: &str) -> StoreError {
        let source = Box::new(io::Error::other("a fault was injected"));
        StoreError::Unavailable { store: self.name(), action, what: what.to_owned(), source }
    }

    fn write<T>(
        &self,
        action: Action,
        verb: &'static str,
        key: &Key,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.begin(action, key)?.1 {
            Fate::Fine => work(),
            Fate::Refused => Err(self.failure(verb, key.as_str())),
            Fate::Unanswered => {
                work()?;
                Err(self.failure(verb, key.as_str()))
            }
        }
    }

    /// Spoils what was read.
    fn spoil(&self, key: &Key, mut draw: Draw, mut bytes: Vec<u8>) -> Vec<u8> {
        let faults = self.faults();
        if draw.one_in(faults.swap_one_in)
            && let Some(other) = self.another(key)
        {
            return other;
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if len > 0 && draw.one_in(faults.truncate_one_in) {
            bytes.truncate(usize::try_from(draw.below(len)).unwrap_or(0));
        }
        if len > 0 && draw.one_in(faults.flip_one_in) {
            let place = usize::try_from(draw.below(len)).unwrap_or(0);
            let bit = u32::try_from(draw.below(8)).unwrap_or(0);
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1_u8.rotate_left(bit);
            }
        }
        let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut tally = self.tally();
        tally.got_bytes = tally.got_bytes.saturating_add(got);
        bytes
    }

    /// The bytes of some other object of the same directory.
    fn another(&self, key: &Key) -> Option<Vec<u8>> {
        let directory = key.as_str().strip_suffix(key.file_name()).unwrap_or_default();
        let mut other = None;
        let visit = &mut |entry: Entry| {
            if entry.key == *key {
                return ControlFlow::Continue(());
            }
            other = Some(entry.key);
            ControlFlow::Break(())
        };
        self.inner.list(directory, visit).ok()?;
        self.inner.get(&other?, crate::MAX_OBJECT_LEN).ok()
    }
}

impl<S: ObjectStore> ObjectStore for Faulty<S> {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        count_put(&mut self.tally(), body);
        let ignore = self.faults().ignore_conditions;
        self.write(Action::Write(body.len()), "write", key, || {
            if ignore {
                self.inner.replace(key, body).map(|()| Put::Created)
            } else {
                self.inner.put_new(key, body)
            }
        })
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        self.tally().gets += 1;
        match self.begin(Action::Read, key)? {
            (draw, Fate::Fine) => Ok(self.spoil(key, draw, self.inner.get(key, max_len)?)),
            _ => Err(self.failure("read", key.as_str())),
        }
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.tally().ranges += 1;
        let (draw, Fate::Fine) = self.begin(Action::Read, key)? else {
            return Err(self.failure("read", key.as_str()));
        };
        let mut bytes = self.spoil(key, draw, self.inner.get_range(key, range)?);
        let have = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if have < range.len() {
            // A store notices that an answer is too short.
            let (key, store, need) = (key.clone(), self.name(), range.end());
            let have = range.offset().saturating_add(have);
            return Err(StoreError::Length { key, store, have, need });
        }
        bytes.truncate(usize::try_from(range.len()).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.tally().lists += 1;
        let anything = Key::new("list").map_err(|error| StoreError::Protocol {
            store: self.name(),
            reason: error.to_string(),
        })?;
        match self.begin(Action::List, &anything)?.1 {
            Fate::Fine => self.inner.list(prefix, visit),
            _ => Err(self.failure("list", prefix)),
        }
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.tally().deletes += 1;
        if self.faults().read_only {
            let source = Box::new(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
            return Err(StoreError::ReadOnly { what: key.to_string(), store: self.name(), source });
        }
        self.write(Action::Delete, "delete", key, || self.inner.delete(key))
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        count_put(&mut self.tally(), body);
        self.write(Action::Write(body.len()), "write", key, || self.inner.replace(key, body))
    }

    fn heal(&self, key: &Key, check: &dyn Fn(&[u8]) -> bool) -> Result<Heal, StoreError> {
        match self.begin(Action::Read, key)?.1 {
            Fate::Fine => self.inner.heal(key, check),
            _ => Err(self.failure("read", key.as_str())),
        }
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn refusals(&self) -> Vec<Refusal> {
        self.inner.refusals()
    }

    fn degraded(&self) -> Vec<String> {
        self.inner.degraded()
    }

    fn sweep(&self) -> Result<u64, StoreError> {
        self.inner.sweep()
    }
}

fn count_put(tally: &mut Operations, body: &[u8]) {
    tally.puts = tally.puts.saturating_add(1);
    let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
    tally.put_bytes = tally.put_bytes.saturating_add(len);
}

/// The chances of one operation.
struct Draw(SplitMix64);

impl Draw {
    fn new(seed: u64, nth: u64) -> Self {
        Self(SplitMix64::new(seed ^ nth.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    fn next(&mut self) -> u64 {
        self.0.bits()
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    fn one_in(&mut self, n: u32) -> bool {
        // Always drawn, so that switching one fault off does not shift the others.
        let drawn = self.next();
        n > 0 && drawn.checked_rem(u64::from(n)) == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::{Coded, SystemClock, codes};

    use super::*;
    use crate::{
        Memory,
        conformance::{self, Extent},
    };

    fn faulty(faults: Faults) -> Faulty<Memory> {
        Faulty::new(Memory::default(), SystemClock, faults)
    }

    fn key(name: &str) -> Key {
        Key::new(name).expect("a key")
    }

    #[test]
    fn conforms_without_faults_and_not_with_ignored_conditions() {
        conformance::check(&faulty(Faults::default()), "", Extent::default()).expect("a store");
        let store = faulty(Faults { ignore_conditions: true, ..Faults::default() });
        let failure = conformance::check(&store, "", Extent::default()).expect_err("a bad store");
        assert!(failure.to_string().contains("the second put"), "{failure}");
    }

    #[test]
    fn the_same_seed_fails_the_same_operations() {
        let run = |seed| -> Vec<bool> {
            let store = faulty(Faults { seed, fail_one_in: 4, ..Faults::default() });
            (0..200).map(|nth| store.put_new(&key(&format!("k{nth}")), b"x").is_ok()).collect()
        };
        let first = run(7);
        let failed = first.iter().filter(|ok| !**ok).count();
        assert!((25..75).contains(&failed), "{failed} of 200");
        assert_eq!(first, run(7));
        assert_ne!(first, run(8));
    }

    #[test]
    fn half_of_the_failed_writes_are_done() {
        let store = faulty(Faults { seed: 1, fail_one_in: 1, ..Faults::default() });
        let count = 200;
        for nth in 0..count {
            let error = store.put_new(&key(&format!("k{nth}")), b"x").expect_err("a fault");
            assert_eq!(error.code(), &codes::STORE_UNAVAILABLE);
        }
        let done = (0..count).filter(|nth| store.inner().get(&key(&format!("k{nth}")), 1).is_ok());
        let done = done.count();
        assert!((60..140).contains(&done), "{done} of {count}");
    }

    #[test]
    fn reads_are_spoilt_as_asked() {
        let store = faulty(Faults::default());
        let good = vec![0x55; 1000];
        store.put_new(&key("d/a"), &good).expect("a put");
        store.put_new(&key("d/b"), b"other").expect("a put");
        let read = |faults: Faults| {
            store.set(faults);
            store.get(&key("d/a"), 1000).expect("a get")
        };
        assert!(read(Faults { truncate_one_in: 1, ..Faults::default() }).len() < 1000);
        let flipped = read(Faults { flip_one_in: 1, ..Faults::default() });
        let wrong: u32 = flipped.iter().zip(&good).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!((wrong, flipped.len()), (1, 1000));
        assert_eq!(read(Faults { swap_one_in: 1, ..Faults::default() }), b"other");
        store.set(Faults { truncate_one_in: 1, ..Faults::default() });
        let error = store.get_range(&key("d/a"), ByteRange::between(0, 10)).expect_err("short");
        assert_eq!(error.code(), &codes::STORE_CORRUPT);
    }

    #[test]
    fn full_read_only_and_crashed_stores() {
        let store = faulty(Faults { capacity: Some(10), ..Faults::default() });
        store.put_new(&key("a"), b"123456").expect("room");
        let error = store.put_new(&key("b"), b"123456").expect_err("no room");
        assert_eq!(error.code(), &codes::STORE_FULL);
        store.put_new(&key("c"), b"1234").expect("room");

        store.set(Faults { read_only: true, ..Faults::default() });
        for error in [
            store.put_new(&key("d"), b"").expect_err("read-only"),
            store.delete(&key("a")).expect_err("read-only"),
        ] {
            assert_eq!(error.code(), &codes::STORE_READ_ONLY);
        }
        assert_eq!(store.get(&key("c"), 4).expect("a get"), b"1234");

        store.set(Faults { crash_at: Some(store.count() + 1), ..Faults::default() });
        store.get(&key("c"), 4).expect("the last one");
        for _ in 0..3 {
            store.get(&key("c"), 4).expect_err("crashed");
        }
        assert_eq!(store.operations().gets, 5);
    }
}
