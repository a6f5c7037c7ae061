//! Simulated clocks: one true time, and what each host takes for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_base::Clock;

use crate::{scheduler::Scheduler, store::User};

/// When every run begins: 2026-01-01T00:00:00Z, in seconds.
const BEGIN: i64 = 1_767_225_600;

/// The true time, which the store's clock shows.
pub(crate) fn true_time(scheduler: &Scheduler) -> Timestamp {
    timestamp(scheduler.now(), 0)
}

fn timestamp(since_begin: Duration, wrong_by: i64) -> Timestamp {
    let begin = Timestamp::from_second(BEGIN).unwrap_or(Timestamp::UNIX_EPOCH);
    let passed = SignedDuration::try_from(since_begin).unwrap_or(SignedDuration::ZERO);
    begin
        .saturating_add(passed)
        .and_then(|time| time.saturating_add(SignedDuration::from_secs(wrong_by)))
        .unwrap_or(begin)
}

/// The wall clock of a host: seconds by which it is wrong. Jumps are changes of it.
pub(crate) type WrongBy = Arc<AtomicI64>;

/// The clock of an actor's process.
pub(crate) struct SimClock {
    pub(crate) scheduler: Arc<Scheduler>,
    /// Who waits when it sleeps; outside the interleaving sleeping just lets time pass.
    pub(crate) user: Option<User>,
    pub(crate) wrong_by: WrongBy,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        timestamp(self.scheduler.now(), self.wrong_by.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.scheduler.now()
    }

    fn sleep(&self, duration: Duration) {
        match self.user.as_ref().and_then(User::actor) {
            Some(actor) => self.scheduler.step(actor, duration),
            None => self.scheduler.advance(duration),
        }
    }
}
