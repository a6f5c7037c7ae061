//! A maximum number of bytes a second, and a store behind one, so that a backup leaves room for others.
//!
//! This module owns the wait. It passes every call on to another store and must not know which one.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_base::{ByteRange, Clock, lock};

use crate::store::{Entry, Heal, Key, ObjectStore, Put, Refusal, StoreError};

/// Bytes may be moved ahead of the rate for this long, so that small requests need not wait.
const BURST: Duration = Duration::from_millis(250);

/// A rate that several stores may share; clones share it.
#[derive(Clone)]
pub struct Rate {
    /// None: everything passes at once.
    bytes_per_second: Option<u64>,
    clock: Arc<dyn Clock>,
    /// When everything that was let through so far will have been paid for.
    paid_until: Arc<Mutex<Duration>>,
}

impl std::fmt::Debug for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rate")
            .field("bytes_per_second", &self.bytes_per_second)
            .finish_non_exhaustive()
    }
}

impl Rate {
    /// At most this number of bytes per second (at least 1).
    pub fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { bytes_per_second: Some(bytes_per_second.max(1)), clock, paid_until: Arc::default() }
    }

    /// A rate that limits nothing if no number is given, or 0.
    pub fn limited(bytes_per_second: Option<u64>, clock: &Arc<dyn Clock>) -> Self {
        let bytes_per_second = bytes_per_second.filter(|rate| *rate > 0);
        Self { bytes_per_second, clock: Arc::clone(clock), paid_until: Arc::default() }
    }

    /// Waits until `bytes` more may move.
    pub fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let nanoseconds = u128::from(bytes)
            .saturating_mul(1_000_000_000)
            .checked_div(u128::from(rate))
            .unwrap_or(0);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let now = self.clock.monotonic();
        let wait = {
            let mut paid_until = lock(&self.paid_until);
            *paid_until = (*paid_until).max(now.saturating_sub(BURST)).saturating_add(cost);
            paid_until.saturating_sub(now)
        };
        if !wait.is_zero() {
            self.clock.sleep(wait);
        }
    }
}

/// A store behind a [`Rate`]. Object bytes count, in both directions; requests and lists do not.
pub struct Limited<S> {
    inner: S,
    rate: Rate,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Limited<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limited").field("inner", &self.inner).field("rate", &self.rate).finish()
    }
}

impl<S: ObjectStore> Limited<S> {
    /// Puts `inner` behind `rate`.
    pub fn new(inner: S, rate: Rate) -> Self {
        Self { inner, rate }
    }

    fn take(&self, bytes: &[u8]) {
        self.rate.take(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
}

impl<S: ObjectStore> ObjectStore for Limited<S> {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.take(body);
        self.inner.put_new(key, body)
    }

    fn put_passing(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.take(body);
        self.inner.put_passing(key, body)
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.inner.get(key, max_len)?;
        self.take(&bytes);
        Ok(bytes)
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        let bytes = self.inner.get_range(key, range)?;
        self.take(&bytes);
        Ok(bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list(prefix, visit)
    }

    fn list_between(
        &self,
        prefix: &str,
        after: Option<&Key>,
        until: Option<&Key>,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list_between(prefix, after, until, visit)
    }

    fn lists_by_name(&self) -> bool {
        self.inner.lists_by_name()
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key)
    }

    fn delete_passing(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete_passing(key)
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.inner.delete_all(keys)
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.take(body);
        self.inner.replace(key, body)
    }

    fn heal(&self, key: &Key, check: &dyn Fn(&[u8]) -> bool) -> Result<Heal, StoreError> {
        // The check sees every byte that is read.
        self.inner.heal(key, &|bytes| {
            self.take(bytes);
            check(bytes)
        })
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn copies(&self) -> Vec<Arc<dyn ObjectStore>> {
        let limit =
            |copy| -> Arc<dyn ObjectStore> { Arc::new(Limited::new(copy, self.rate.clone())) };
        self.inner.copies().into_iter().map(limit).collect()
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        Memory,
        conformance::{self, Extent},
    };

    /// A clock that moves only by sleeping.
    #[derive(Default)]
    struct Still(Mutex<Duration>);

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock().expect("a lock")
        }

        fn sleep(&self, duration: Duration) {
            *self.0.lock().expect("a lock") += duration;
        }
    }

    #[test]
    fn conforms() {
        let rate = Rate::new(u64::MAX, Arc::new(Still::default()));
        let store = Limited::new(Memory::default(), rate);
        conformance::check(&store, "", Extent::default()).expect("a store");
    }

    #[test]
    fn bytes_take_the_time_they_should() {
        let clock = Arc::new(Still::default());
        let rate = Rate::new(1000, Arc::<Still>::clone(&clock));
        let store = Limited::new(Memory::default(), rate);
        let key = |nth: u32| Key::new(format!("k{nth}")).expect("a key");
        clock.sleep(Duration::from_secs(100));
        let start = clock.monotonic();
        for nth in 0..10 {
            store.put_new(&key(nth), &[0; 1000]).expect("a put");
        }
        store.get(&key(0), 1000).expect("a get");
        // A quarter second of burst is not waited for, and idle time is not saved up.
        assert_eq!(clock.monotonic().saturating_sub(start), Duration::from_millis(10_750));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let clock: Arc<dyn Clock> = Arc::new(Still::default());
        for limit in [None, Some(0)] {
            Rate::limited(limit, &clock).take(u64::MAX);
        }
        assert_eq!(clock.monotonic(), Duration::ZERO);
    }
}
