//! The pulse: what the service counts of itself while it works, for monitoring.
//!
//! Only numbers that are cheap to keep and cannot be asked of the catalog later. It knows nothing of
//! how they are shown.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use strongroom_base::lock;

/// How the sending of a notice went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// It was confirmed.
    Delivered,
    /// It failed, and is tried again.
    Failed,
    /// It is not tried again.
    GivenUp,
}

impl Delivery {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Delivered, Self::Failed, Self::GivenUp];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// What the service counts of itself.
#[derive(Debug, Default)]
pub struct Pulse {
    /// When the last round of the scheduler ended, in microseconds of the monotonic clock; 0: none did.
    round: AtomicU64,
    writes: AtomicU64,
    write_micros: AtomicU64,
    deliveries: Mutex<BTreeMap<(String, Delivery), u64>>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Pulse {
    /// A round of the scheduler went well.
    pub(crate) fn round_ended(&self, now: Duration) {
        self.round.store(micros(now).max(1), Relaxed);
    }

    /// The catalog was changed.
    pub(crate) fn wrote(&self, took: Duration) {
        self.writes.fetch_add(1, Relaxed);
        self.write_micros.fetch_add(micros(took), Relaxed);
    }

    /// A channel was tried.
    pub(crate) fn delivered(&self, channel: &str, how: Delivery) {
        let mut deliveries = lock(&self.deliveries);
        let count = deliveries.entry((channel.to_owned(), how)).or_default();
        *count = count.saturating_add(1);
    }

    /// How long ago the last round of the scheduler ended well; none: no one did yet.
    pub fn since_round(&self, now: Duration) -> Option<Duration> {
        let round = Some(self.round.load(Relaxed)).filter(|round| *round > 0)?;
        Some(now.saturating_sub(Duration::from_micros(round)))
    }

    /// Changes of the catalog, and how long they took together.
    pub fn writes(&self) -> (u64, Duration) {
        let micros = self.write_micros.load(Relaxed);
        (self.writes.load(Relaxed), Duration::from_micros(micros))
    }

    /// How often each channel was tried, and how it went.
    pub fn deliveries(&self) -> BTreeMap<(String, Delivery), u64> {
        lock(&self.deliveries).clone()
    }
}
