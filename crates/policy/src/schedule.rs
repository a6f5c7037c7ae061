//! Occurrences: the moments at which a policy's schedule falls due, for every item the same.
//!
//! An occurrence is a date and a time of the policy, and happens at the first moment at which the
//! clock of the policy's zone shows that time or a later one (see `zone`). Times that fall on one
//! moment, because the clock skipped them together, are one occurrence.
//!
//! Invariant: the occurrences of a policy are strictly increasing moments, the same whichever way and
//! from wherever they are listed. Knows nothing of items, spreading and blackouts: that is `start`.

use jiff::{Timestamp, ToSpan, civil::Date};

use crate::{policy::Policy, words::Weekday};

/// How many days before and after a moment its occurrences are searched: a week, and what a change
/// of the zone's offset, which may skip a whole day, can move.
const SEARCH_DAYS: i64 = 10;

impl Policy {
    /// The occurrences from `from` on that are before `to`, in order.
    pub fn occurrences(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> impl Iterator<Item = Timestamp> + '_ {
        // The day before: its times may have been skipped up to today.
        let first = self.zone().date(from).saturating_sub(1.day());
        let mut last = None;
        std::iter::successors(Some(first), |date| date.tomorrow().ok())
            .flat_map(|date| self.occurrences_of(date))
            .skip_while(move |occurrence| *occurrence < from)
            .take_while(move |occurrence| *occurrence < to)
            .filter(move |occurrence| last.replace(*occurrence) != Some(*occurrence))
    }

    /// The first occurrence after `after`. `None`: there is none before the end of time.
    pub fn next_occurrence(&self, after: Timestamp) -> Option<Timestamp> {
        let first = self.zone().date(after).saturating_sub(1.day());
        let days = |days: i64| first.checked_add(days.days()).ok();
        (0..SEARCH_DAYS)
            .map_while(days)
            .flat_map(|date| self.occurrences_of(date))
            .find(|occurrence| *occurrence > after)
    }

    /// The newest occurrence that is not after `at`. `None`: there is none since the beginning of
    /// time.
    pub fn last_occurrence(&self, at: Timestamp) -> Option<Timestamp> {
        let first = self.zone().date(at).saturating_add(1.day());
        let days = |days: i64| first.checked_sub(days.days()).ok();
        (0..SEARCH_DAYS)
            .map_while(days)
            .flat_map(|date| self.occurrences_of(date).rev())
            .find(|occurrence| *occurrence <= at)
    }

    /// The occurrences of a date, in order; several may be one moment.
    fn occurrences_of(&self, date: Date) -> impl DoubleEndedIterator<Item = Timestamp> + '_ {
        let due = self.weekdays().contains(&Weekday::of(date));
        let times = if due { self.times() } else { &[] };
        times.iter().map(move |time| self.zone().first_at(time.on(date)))
    }
}
