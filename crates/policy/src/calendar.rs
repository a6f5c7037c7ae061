//! Dates as numbers, because retention asks thousands of them at a time.
//!
//! The arithmetic is that of the Gregorian calendar in closed form, with years that begin in March, so
//! that the leap day is the last of its year. All numbers are far from the ends of `i32`: a [`Day`] is
//! always a date that [`Date`] has too (years -9999 to 9999), and what would leave that range stays at
//! its end. Tests compare every date with `jiff`'s.

use jiff::civil::Date;

/// Days in the 400 years after which the calendar repeats.
const CYCLE: i32 = 146_097;

/// Days from 1 March of the year 0 to 1 January 1970.
const EPOCH: i32 = 719_468;

/// A date: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(i32);

/// A month of a year: months since January of the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MonthOfYear(i32);

impl Day {
    pub(crate) const MIN: Self = MonthOfYear::MIN.first();
    pub(crate) const MAX: Self = Self(MonthOfYear(MonthOfYear::MAX.0 + 1).first().0 - 1);

    /// The day of that number, or the end of the range that is nearer.
    pub(crate) fn clamped(number: i64) -> Self {
        let number = number.clamp(i64::from(Self::MIN.0), i64::from(Self::MAX.0));
        Self(i32::try_from(number).unwrap_or(0))
    }

    pub(crate) fn number(self) -> i64 {
        i64::from(self.0)
    }

    #[must_use]
    pub(crate) fn plus(self, days: i64) -> Self {
        Self::clamped(self.number().saturating_add(days))
    }

    /// Days since Monday.
    pub(crate) fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        u8::try_from((self.0 + 3).rem_euclid(7)).unwrap_or(0)
    }

    /// The month, and the day of the month from 1.
    pub(crate) fn split(self) -> (MonthOfYear, i32) {
        let days = self.0 + EPOCH;
        let (cycle, day) = (days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
        // Every 4 years have a leap day, but every 100 years, but every 400.
        let year = (day - day / 1460 + day / 36_524 - day / (CYCLE - 1)) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let march = (400 * cycle + year) * 12 + 2;
        (MonthOfYear(march + month), day - (153 * month + 2) / 5 + 1)
    }

    pub(crate) fn date(self) -> Date {
        let (MonthOfYear(month), day) = self.split();
        let part = |number: i32| i8::try_from(number).unwrap_or(1);
        let year = i16::try_from(month.div_euclid(12)).unwrap_or(0);
        Date::new(year, part(month.rem_euclid(12) + 1), part(day)).unwrap_or(Date::MAX)
    }
}

impl MonthOfYear {
    const MIN: Self = Self(-9999 * 12);
    const MAX: Self = Self(9999 * 12 + 11);

    #[must_use]
    pub(crate) fn plus(self, months: i32) -> Self {
        Self(self.0.saturating_add(months)).clamp(Self::MIN, Self::MAX)
    }

    /// Months since January.
    pub(crate) fn of_year(self) -> u8 {
        u8::try_from(self.0.rem_euclid(12)).unwrap_or(0)
    }

    /// How many days it has.
    pub(crate) fn days(self) -> i32 {
        self.next_first().0 - self.first().0
    }

    /// The first day of the next month.
    pub(crate) fn next_first(self) -> Day {
        Self(self.0 + 1).first()
    }

    /// A day of it from 1, or its last day if it has no such day.
    pub(crate) fn day(self, day: i32) -> Day {
        self.first().plus(i64::from(day.min(self.days()) - 1))
    }

    /// Its first day.
    pub(crate) const fn first(self) -> Day {
        let since_march = self.0 - 2;
        let (year, month) = (since_march.div_euclid(12), since_march.rem_euclid(12));
        let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
        let day = 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5;
        Day(cycle * CYCLE + day - EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::words::{Month, Weekday};

    #[test]
    fn every_date_is_jiffs() {
        assert_eq!((Day::MIN.date(), Day::MAX.date()), (Date::MIN, Date::MAX));
        let from = jiff::civil::date(1600, 2, 27);
        let days = from.until(jiff::civil::date(1970, 1, 1)).unwrap().get_days();
        for (number, date) in (-days..).zip(from.series(1.day()).take(1200 * 366)) {
            let day = Day(number);
            assert_eq!(day.date(), date);
            assert_eq!(Weekday::ALL[usize::from(day.weekday())], Weekday::of(date));
            let (month, of_month) = day.split();
            assert_eq!(Month::ALL[usize::from(month.of_year())], Month::of(date));
            assert_eq!((of_month, month.days()), (date.day().into(), date.days_in_month().into()));
            assert_eq!(month.day(of_month), day);
            assert_eq!(month.day(31).date(), date.last_of_month());
        }
    }

    #[test]
    fn the_ends_are_ends() {
        assert_eq!(Day::MAX.plus(1), Day::MAX);
        assert_eq!(Day::MIN.plus(i64::MIN), Day::MIN);
        let last = Day::MAX.split().0;
        assert_eq!((Day::MIN.split().0, last), (MonthOfYear::MIN, MonthOfYear::MAX));
        assert_eq!(last.plus(i32::MAX), last);
        assert_eq!(last.days(), 31);
    }
}
