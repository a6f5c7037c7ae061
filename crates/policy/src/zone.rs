//! A time zone: from moments to the dates and clocks of a place, and back.
//!
//! One rule answers every question of summer time, skipped days and changed laws: **a time on the
//! clock happens at the first moment at which the clock shows that time or a later one.** So a time
//! that the clock skips happens when the clock has jumped over it, a time that the clock shows twice
//! happens the first time, and nothing happens twice or never.
//!
//! Invariant: [`Zone::first_at`] never decreases when its argument increases.

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, Offset, TimeZone},
};

/// A zone of the IANA database.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    tz: TimeZone,
}

impl Zone {
    pub(crate) const UTC: Self = Self { tz: TimeZone::UTC };

    /// The zone of an IANA name, in whatever case. `None`: there is no such zone.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let tz = TimeZone::get(name).ok()?;
        (!tz.is_unknown() && tz.iana_name().is_some()).then_some(Self { tz })
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

    /// The first moment after a date. After the end of time: that.
    pub(crate) fn end_of(&self, date: Date) -> Timestamp {
        date.tomorrow().map_or(Timestamp::MAX, |next| self.first_at(next.at(0, 0, 0, 0)))
    }

    /// The newest change of the zone's offset at or before `time`.
    fn change_before(&self, time: Timestamp) -> Timestamp {
        let after = time.checked_add(jiff::SignedDuration::from_nanos(1)).unwrap_or(time);
        self.tz.preceding(after).next().map_or(time, |change| change.timestamp())
    }
}

fn at_offset(clock: DateTime, offset: Offset) -> Timestamp {
    let end = if clock.year() > 0 { Timestamp::MAX } else { Timestamp::MIN };
    offset.to_timestamp(clock).unwrap_or(end)
}
