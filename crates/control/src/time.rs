//! The trusted time of a running server: kept in memory, written down once a minute.
//!
//! The stored time may lag, never lead. After a crash on the same boot nothing of it is lost, as
//! the system has counted on; over a reboot the gap is what the wall clock says, up to a day. A time
//! that lags deletes later, never earlier. Before anything is deleted for good, the time that says
//! so is written down first.

use std::sync::MutexGuard;

use strongroom_base::lock;

use jiff::{SignedDuration, Timestamp};

use crate::{
    clock::{TRUSTED, TrustedTime},
    error::Result,
    rights::{Caller, Operation, Target, forbidden},
    service::Control,
};

/// How far the clock may be set back before all schedules are planned again.
const WENT_BACK: SignedDuration = SignedDuration::from_mins(30);

/// How often the time is written down.
const STORE: SignedDuration = SignedDuration::from_mins(1);

/// The time in memory, and as it was written down last.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    time: Option<TrustedTime>,
    stored: Option<TrustedTime>,
}

impl Trusted {
    /// Advances to what the clocks say now; returns whether the wall clock went back.
    fn advance(&mut self, reading: crate::clock::Reading) -> bool {
        let before = self.time.take();
        let back = |before: &TrustedTime| reading.wall.duration_since(before.wall()) < -WENT_BACK;
        let went_back = before.as_ref().is_some_and(back);
        self.time = Some(match before {
            Some(before) => before.advance(reading),
            None => TrustedTime::begin(reading),
        });
        went_back
    }

    /// Whether it is time to write it down: once a minute, and when a jump was seen or has ended.
    fn is_due(&self) -> bool {
        let (Some(time), Some(stored)) = (&self.time, &self.stored) else { return true };
        time.wall().duration_since(stored.wall()).abs() >= STORE
            || time.behind().is_some() != stored.behind().is_some()
    }
}

impl Control {
    fn trusted(&self) -> MutexGuard<'_, Trusted> {
        lock(&self.trusted)
    }

    /// Continues with the trusted time, and writes it down from time to time. A jump raises an alert.
    pub(crate) async fn advance_time(&self) -> Result<()> {
        self.read_time().await?;
        let (went_back, is_due) = {
            let mut trusted = self.trusted();
            let went_back = trusted.advance((self.readings)());
            (went_back, trusted.is_due())
        };
        if is_due {
            self.store_time().await?;
        }
        if went_back {
            self.plan_all().await?;
        }
        Ok(())
    }

    /// Knows the trusted time before the service runs, or beside a server that does: nothing is written.
    pub async fn trust_time(&self) -> Result<()> {
        if self.read_time().await? {
            self.trusted().advance((self.readings)());
        }
        Ok(())
    }

    /// Reads the time that was written down last, unless it is known already: whether it was not.
    async fn read_time(&self) -> Result<bool> {
        if self.trusted().time.is_some() {
            return Ok(false);
        }
        let kept = in_read!(self, tx => { Self::setting::<TrustedTime>(tx, TRUSTED).await })?;
        let mut trusted = self.trusted();
        trusted.time = trusted.time.take().or(kept);
        Ok(true)
    }

    /// Writes the trusted time down, as it is in memory. A caller that deletes something for
    /// good because it has expired does this first.
    pub(crate) async fn store_time(&self) -> Result<()> {
        let Some(time) = self.trusted().time.clone() else { return Ok(()) };
        let now = self.now();
        in_write!(self, tx => {
            Self::set(tx, TRUSTED, &time).await?;
            crate::alerts::clock(self, tx, time.behind(), now).await
        })?;
        self.trusted().stored = Some(time);
        Ok(())
    }

    /// Believes the wall clock, because somebody says that it is right.
    pub async fn confirm_clock(&self, caller: &Caller) -> Result<()> {
        let operation = Operation::ManageServer;
        self.check(caller, operation, Target::Server, || forbidden(caller, operation))?;
        self.advance_time().await?;
        let confirmed = self.trusted().time.as_ref().map(TrustedTime::confirm);
        let Some(confirmed) = confirmed else { return Ok(()) };
        in_write!(self, tx => {
            Self::set(tx, TRUSTED, &confirmed).await?;
            let detail = serde_json::json!({ "wall": self.now() });
            crate::audit::record(tx, caller, operation, "clock", detail).await
        })?;
        *self.trusted() = Trusted { time: Some(confirmed), stored: None };
        self.advance_time().await
    }

    /// The time that purges, and the ends of tokens, are judged by.
    pub(crate) fn trusted_now(&self) -> Timestamp {
        self.trusted().time.as_ref().map_or_else(|| self.now(), TrustedTime::now)
    }

    /// How far the wall clock is ahead of what has passed, if it has jumped.
    pub(crate) fn clock_is_ahead(&self) -> Option<SignedDuration> {
        self.trusted().time.as_ref().and_then(TrustedTime::behind)
    }
}
