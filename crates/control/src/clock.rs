//! Time that may delete: wall-clock time that no jump of the clock can hurry.
//!
//! Nothing is purged before it expires, even if the server's clock is set ahead by a year. So the time
//! by which purges are judged advances only with elapsed time: with the system's count of seconds since
//! boot, which setting the clock does not change. Over a reboot nobody counts; a gap of up to a day is
//! believed, and a longer one only when somebody confirms it. Where it is behind the wall clock,
//! things are kept longer; it is never ahead of it.

use std::{fs, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The name of the setting in which it is kept.
pub const TRUSTED: &str = "trusted_time";

/// How far the clock may be set right without a word.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// The longest gap over a reboot that is believed.
const BELIEVED_GAP: SignedDuration = SignedDuration::from_hours(24);

/// What the system's clocks say at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// Which boot of the system this is.
    pub boot: String,
    /// How long ago it was booted, with the time that it slept.
    pub uptime: Duration,
}

impl Reading {
    /// Reads the system's clocks.
    pub fn of_system(clock: &dyn strongroom_base::Clock) -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let uptime = text("/proc/uptime");
        let seconds = uptime.split('.').next().and_then(|seconds| seconds.parse().ok());
        Self {
            wall: clock.now(),
            boot: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            uptime: seconds.map_or_else(|| clock.monotonic(), Duration::from_secs),
        }
    }
}

/// The time that may delete, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedTime {
    /// What the clocks said last.
    last: Reading,
    /// The trusted time then.
    trusted: Timestamp,
    /// By how much the clock may still be put forward without a word.
    slack: SignedDuration,
}

impl TrustedTime {
    /// The first time: there is nothing yet that could be deleted too early.
    pub fn begin(reading: Reading) -> Self {
        Self { trusted: reading.wall, last: reading, slack: TOLERANCE }
    }

    /// Advances to another reading.
    #[must_use]
    pub fn advance(&self, reading: Reading) -> Self {
        let by_wall = reading.wall.duration_since(self.last.wall);
        let mut slack = self.slack;
        let passed = if reading.boot == self.last.boot && reading.uptime >= self.last.uptime {
            let passed = reading.uptime.saturating_sub(self.last.uptime);
            let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::ZERO);
            // A clock that drifts by less than a thousandth is put right for ever; many small steps
            // are no way around the limit.
            slack = slack.saturating_add(passed / 1000).min(TOLERANCE);
            let ahead = by_wall.saturating_sub(passed);
            if ahead <= slack && ahead >= -TOLERANCE {
                slack = slack.saturating_sub(ahead.max(SignedDuration::ZERO));
                by_wall
            } else {
                passed
            }
        } else if by_wall <= BELIEVED_GAP {
            by_wall
        } else {
            BELIEVED_GAP
        };
        let passed = passed.max(SignedDuration::ZERO);
        let trusted = self.trusted.checked_add(passed).unwrap_or(self.trusted);
        // A clock that was ahead and was set right: what seemed to be over is not.
        Self { trusted: trusted.min(reading.wall), last: reading, slack }
    }

    /// Somebody says that the wall clock is right.
    #[must_use]
    pub fn confirm(&self) -> Self {
        Self { trusted: self.last.wall, last: self.last.clone(), slack: TOLERANCE }
    }

    /// The wall clock when it was read last.
    pub fn wall(&self) -> Timestamp {
        self.last.wall
    }

    /// The trusted time.
    pub fn now(&self) -> Timestamp {
        self.trusted
    }

    /// How far the wall clock is ahead, if it has jumped.
    pub fn behind(&self) -> Option<SignedDuration> {
        let behind = self.last.wall.duration_since(self.trusted);
        (behind > TOLERANCE).then_some(behind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400;

    fn reading(wall: i64, boot: &str, uptime: i64) -> Reading {
        Reading {
            wall: Timestamp::from_second(wall).expect("a time"),
            boot: boot.to_owned(),
            uptime: Duration::from_secs(u64::try_from(uptime).expect("not negative")),
        }
    }

    fn after(readings: &[(i64, &str, i64)]) -> TrustedTime {
        let mut readings = readings.iter().map(|(wall, boot, up)| reading(*wall, boot, *up));
        let first = TrustedTime::begin(readings.next().expect("one"));
        readings.fold(first, |time, reading| time.advance(reading))
    }

    #[test]
    fn follows_a_clock_that_runs_well() {
        let time = after(&[(0, "a", 10), (3600, "a", 3610), (DAY, "a", DAY + 10)]);
        assert_eq!((time.now().as_second(), time.behind()), (DAY, None));
        let corrected = after(&[(0, "a", 0), (3601, "a", 3600)]);
        assert_eq!(corrected.now().as_second(), 3601);
    }

    #[test]
    fn a_jump_ahead_counts_only_when_confirmed() {
        let time = after(&[(0, "a", 0), (400 * DAY, "a", 60), (400 * DAY + 60, "a", 120)]);
        assert_eq!(time.now().as_second(), 120);
        assert!(time.behind().is_some());
        let confirmed = time.confirm();
        assert_eq!((confirmed.now().as_second(), confirmed.behind()), (400 * DAY + 60, None));
    }

    #[test]
    fn a_jump_ahead_while_the_server_is_down_is_seen_too() {
        // The same boot: the system has counted.
        assert_eq!(after(&[(0, "a", 0), (30 * DAY, "a", 600)]).now().as_second(), 600);
        // Another boot: a day is believed.
        assert_eq!(after(&[(0, "a", 0), (DAY / 2, "b", 5)]).now().as_second(), DAY / 2);
        let long = after(&[(0, "a", 0), (30 * DAY, "b", 5)]);
        assert_eq!(long.now().as_second(), DAY);
        assert!(long.behind().is_some());
    }

    #[test]
    fn a_system_that_slept_is_believed() {
        assert_eq!(after(&[(0, "a", 0), (3 * DAY, "a", 3 * DAY)]).now().as_second(), 3 * DAY);
    }

    #[test]
    fn a_clock_that_was_ahead_and_is_set_right() {
        let time = after(&[(500 * DAY, "a", 0), (DAY, "a", 60), (DAY + 60, "a", 120)]);
        assert_eq!((time.now().as_second(), time.behind()), (DAY + 60, None));
    }

    #[test]
    fn many_small_steps_do_not_hurry_it() {
        let steps: Vec<_> = (0..1000).map(|n| (n * 260, "a", n * 60)).collect();
        let time = after(&steps);
        assert!(time.now().as_second() < 1000 * 60 + 600, "{time:?}");
        // A clock that is slow by 50 in a million is put right every day for ten years.
        let drift: Vec<_> = (0..3650).map(|n| (n * (DAY + 4), "a", n * DAY)).collect();
        assert_eq!(after(&drift).behind(), None);
    }

    proptest! {
        /// Whatever the wall clock does on one boot, trusted time is never ahead of it, and never goes on
        /// by more than what has passed and what may be set right.
        #[test]
        fn never_hurried(steps in proptest::collection::vec((0_i64..100_000, -400 * DAY..400 * DAY), 1..50)) {
            let (mut wall, mut up) = (1000 * DAY, 0);
            let mut time = TrustedTime::begin(reading(wall, "a", up));
            for (passed, jump) in steps {
                let before = time.now();
                up += passed;
                wall = (wall + passed + jump).max(0);
                time = time.advance(reading(wall, "a", up));
                prop_assert!(time.now().as_second() <= wall);
                let gained = time.now().duration_since(before).as_secs();
                prop_assert!(gained <= passed + TOLERANCE.as_secs());
            }
        }
    }
}
