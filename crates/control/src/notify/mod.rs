//! Notification: alerts reach people and programs outside, by channels such as mail and webhooks.
//!
//! ```text
//!  alert: unsent ─▶ gathered: one notice for each channel ─▶ sent: tried until it is confirmed
//!                   (in one transaction, storms together)     (each try is written down first)
//! ```
//!
//! At least once, and nearly always once: what was sent and not confirmed when the server died is sent
//! again with the same id. While a channel does not work, one notice of it is tried and one more
//! gathers what comes meanwhile. It runs beside all other work and never in a transaction with it, and
//! knows nothing of how a channel sends.

mod deliver;
mod outbox;

use std::{future::Future, pin::Pin, time::Duration};

use jiff::SignedDuration;
use strongroom_api::{Notice, Severity};

/// A way to send alerts.
pub trait Channel: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// What it is: `mail` or `webhook`.
    fn kind(&self) -> &'static str;

    /// The least severity that it sends.
    fn least(&self) -> Severity;

    /// Sends, and waits until what was sent is confirmed.
    fn send<'a>(&'a self, notice: &'a Notice) -> Sending<'a>;
}

/// A sending that is under way.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), Undelivered>> + Send + 'a>>;

/// Why something could not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Undelivered {
    /// Whether the receiver has refused this notice for good, so that a retry cannot succeed.
    pub refused: bool,
    /// Why, for people; never with secrets.
    pub reason: String,
}

impl Undelivered {
    /// It may work later.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self { refused: false, reason: reason.into() }
    }

    /// The receiver does not want it.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { refused: true, reason: reason.into() }
    }
}

/// How long a channel may take to send.
const PATIENCE: Duration = Duration::from_secs(20);

/// After so long a notice is given up. Its alerts are in the list of alerts still.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(24);

/// Failed tries after which a channel is said not to work.
const NOTICED: u32 = 3;

/// Alerts in one notice at most.
const TOGETHER: usize = 500;

/// How long to wait after this number of failed tries: 10 s, twice as long each time, 15 minutes at most.
fn pause(tries: u32) -> SignedDuration {
    let doublings = tries.saturating_sub(1).min(10);
    SignedDuration::from_secs((10_i64 << doublings).min(15 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_quarter_of_an_hour() {
        let pauses: Vec<i64> = (1..=9).map(|tries| pause(tries).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
        assert_eq!(pause(u32::MAX).as_secs(), 900);
    }
}
