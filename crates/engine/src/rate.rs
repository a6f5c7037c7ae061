//! A limit on bytes a second.

use std::{sync::Mutex, time::Duration};

use strongroom_base::{Clock, lock};

/// Limits the bytes a second of all threads that share it.
pub(crate) struct Rate<'a> {
    clock: &'a dyn Clock,
    bytes_a_second: Option<u64>,
    /// When the bytes that were let through so far are paid for.
    paid_until: Mutex<Duration>,
}

impl<'a> Rate<'a> {
    pub(crate) fn new(clock: &'a dyn Clock, bytes_a_second: Option<u64>) -> Self {
        let bytes_a_second = bytes_a_second.filter(|rate| *rate > 0);
        Self { clock, bytes_a_second, paid_until: Mutex::new(clock.monotonic()) }
    }

    /// Waits until `bytes` more may pass.
    pub(crate) fn pass(&self, bytes: u64) {
        let Some(rate) = self.bytes_a_second else { return };
        let nanos = u128::from(bytes).saturating_mul(1_000_000_000).checked_div(u128::from(rate));
        let cost = Duration::from_nanos(u64::try_from(nanos.unwrap_or(0)).unwrap_or(u64::MAX));
        let now = self.clock.monotonic();
        let wait = {
            let mut paid = lock(&self.paid_until);
            let start = (*paid).max(now);
            *paid = start.saturating_add(cost);
            start.saturating_sub(now)
        };
        if !wait.is_zero() {
            self.clock.sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Slept(AtomicU64);

    impl Clock for Slept {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
        fn sleep(&self, duration: Duration) {
            self.0.fetch_add(u64::try_from(duration.as_nanos()).expect("small"), Ordering::Relaxed);
        }
    }

    #[test]
    fn ten_megabytes_at_one_a_second_take_nine_seconds_and_the_last_is_on_credit() {
        let clock = Slept(AtomicU64::new(0));
        let rate = Rate::new(&clock, Some(1_000_000));
        (0..10).for_each(|_| rate.pass(1_000_000));
        assert_eq!(clock.monotonic(), Duration::from_secs(9));
        Rate::new(&clock, None).pass(u64::MAX);
        assert_eq!(clock.monotonic(), Duration::from_secs(9));
    }
}
