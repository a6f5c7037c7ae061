//! A time zone: from moments to the dates and clocks of a place, and back.
//!
//! One rule answers every question of summer time, skipped days and changed laws: **a time on the
//! clock happens at the first moment at which the clock shows that time or a later one.** So a time
//! that the clock skips happens when the clock has jumped over it, a time that the clock shows twice
//! happens the first time, and nothing happens twice or never.
//!
//! Invariants: [`Zone::first_at`] never decreases when its argument increases. The stretches are the
//! zone's offsets from 1970 to 2150, in order; they only make answers faster.

use std::sync::Arc;

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, Offset, TimeZone},
};

use crate::calendar::Day;

/// Seconds in a day of 24 hours.
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// 2150-01-01.
const STRETCHES_END: i64 = 5_680_281_600;

/// A zone of the IANA database.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    tz: TimeZone,
    stretches: Arc<[Stretch]>,
}

/// A time in which the zone's offset does not change: until the next stretch begins.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// In seconds since 1970.
    from: i64,
    /// What the clock is ahead of UTC, in seconds.
    offset: i64,
}

impl Zone {
    pub(crate) fn utc() -> Self {
        Self::of(TimeZone::UTC)
    }

    /// The zone of an IANA name, in whatever case. `None`: there is no such zone.
    ///
    /// The folder of the database has further entries that are no names of zones: `localtime` and
    /// `posixrules` mean something else on every machine, and `posix/` and `right/` are second
    /// copies.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        if ["localtime", "posixrules", "factory"].contains(&lower.as_str())
            || lower.starts_with("posix/")
            || lower.starts_with("right/")
        {
            return None;
        }
        let tz = TimeZone::get(name).ok()?;
        (!tz.is_unknown() && tz.iana_name().is_some()).then(|| Self::of(tz))
    }

    fn of(tz: TimeZone) -> Self {
        let stretch = |time: Timestamp, offset: Offset| Stretch {
            from: time.as_second(),
            offset: i64::from(offset.seconds()),
        };
        let start = Timestamp::UNIX_EPOCH;
        let first = stretch(start, tz.to_offset(start));
        let later = tz.following(start).map(|change| stretch(change.timestamp(), change.offset()));
        let end = Stretch { from: STRETCHES_END, offset: 0 };
        let stretches = std::iter::once(first)
            .chain(later.take_while(|stretch| stretch.from < STRETCHES_END))
            .chain([end])
            .collect();
        Self { tz, stretches }
    }

    /// The name as the database spells it.
    pub(crate) fn name(&self) -> &str {
        self.tz.iana_name().unwrap_or("UTC")
    }

    pub(crate) fn time_zone(&self) -> &TimeZone {
        &self.tz
    }

    /// The date that the calendar shows at a moment.
    pub(crate) fn date(&self, time: Timestamp) -> Date {
        self.tz.to_datetime(time).date()
    }

    /// The date that the calendar shows at a moment, as a number.
    pub(crate) fn day(&self, time: Timestamp) -> Day {
        // Seconds are cut off towards 1970.
        let second = time.as_second().saturating_sub(i64::from(time.subsec_nanosecond() < 0));
        let offset = match self.stretch(second) {
            Some((stretch, _)) => stretch.offset,
            None => i64::from(self.tz.to_offset(time).seconds()),
        };
        Day::clamped(second.saturating_add(offset).div_euclid(DAY_SECONDS))
    }

    /// The stretch that a second is in, and the second at which it ends.
    fn stretch(&self, second: i64) -> Option<(Stretch, i64)> {
        let next = self.stretches.partition_point(|stretch| stretch.from <= second);
        let end = self.stretches.get(next)?.from;
        Some((*self.stretches.get(next.checked_sub(1)?)?, end))
    }

    /// The first moment after a date. After the end of time: that.
    pub(crate) fn end_of(&self, day: Day) -> Timestamp {
        // No clock is a day ahead of or behind UTC: if nothing changes around the midnight of UTC,
        // nothing does at the zone's own.
        let midnight = day.number().saturating_add(1).saturating_mul(DAY_SECONDS);
        if let Some((stretch, end)) = self.stretch(midnight.saturating_sub(2 * DAY_SECONDS))
            && midnight.saturating_add(2 * DAY_SECONDS) < end
        {
            let second = midnight.saturating_sub(stretch.offset);
            return Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        }
        let next = day.date().tomorrow();
        next.map_or(Timestamp::MAX, |next| self.first_at(next.at(0, 0, 0, 0)))
    }

    /// The first moment at which the clock shows `clock` or later.
    pub(crate) fn first_at(&self, clock: DateTime) -> Timestamp {
        match self.tz.to_ambiguous_timestamp(clock).offset() {
            AmbiguousOffset::Unambiguous { offset } => at_offset(clock, offset),
            AmbiguousOffset::Fold { before, .. } => at_offset(clock, before),
            AmbiguousOffset::Gap { before, .. } => self.change_before(at_offset(clock, before)),
        }
    }

    /// The last moment at which the clock shows `clock`; of a skipped time, the moment of the jump.
    pub(crate) fn last_at(&self, clock: DateTime) -> Timestamp {
        match self.tz.to_ambiguous_timestamp(clock).offset() {
            AmbiguousOffset::Fold { after, .. } => at_offset(clock, after),
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => {
                self.first_at(clock)
            }
        }
    }

    /// The newest change of the zone's offset at or before `time`.
    fn change_before(&self, time: Timestamp) -> Timestamp {
        let after = time.checked_add(SignedDuration::from_nanos(1)).unwrap_or(time);
        self.tz.preceding(after).next().map_or(time, |change| change.timestamp())
    }
}

fn at_offset(clock: DateTime, offset: Offset) -> Timestamp {
    let end = if clock.year() > 0 { Timestamp::MAX } else { Timestamp::MIN };
    offset.to_timestamp(clock).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
        "Africa/Casablanca",
        "America/Sao_Paulo",
        "Pacific/Apia",
        "Pacific/Kiritimati",
    ];

    /// Every day of 200 years, so around every change and beyond the stretches.
    #[test]
    fn stretches_change_no_answer() {
        for name in ZONES {
            let zone = Zone::named(name).unwrap();
            for number in -3000..70_000 {
                let day = Day::clamped(number);
                let next = day.date().tomorrow().unwrap();
                assert_eq!(zone.end_of(day), zone.first_at(next.at(0, 0, 0, 0)), "{name} {day:?}");
                let noon = Timestamp::from_second(number * DAY_SECONDS + 43_200).unwrap();
                for time in
                    [noon, zone.end_of(day), zone.end_of(day) - SignedDuration::from_nanos(1)]
                {
                    assert_eq!(zone.day(time).date(), zone.date(time), "{name} {time}");
                }
            }
        }
    }
}
