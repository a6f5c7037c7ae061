//! The calendar types of policies: times of day, weekdays, weeks, months.
//!
//! Invariant: a [`TimeOfDay`] is a whole minute of a day that has 24 hours on the clock, so 00:00
//! to 23:59. Nothing here knows time zones: `zone` converts a time of day on a date to a moment.

use std::{fmt, str::FromStr};

use jiff::civil;
use serde::{Deserialize, Serialize};

/// Minutes in a day that is 24 hours long.
pub(crate) const DAY_MINUTES: u16 = 24 * 60;

/// A time as a clock on the wall shows it, to the minute: `02:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", schema(value_type = String, pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

/// A text is no time of day.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time of day; write hours and minutes, like 02:30")]
pub struct ParseTimeError(String);

impl TimeOfDay {
    /// 00:00.
    pub const MIDNIGHT: Self = Self(0);

    /// `hour` 0 to 23 and `minute` 0 to 59.
    pub fn new(hour: u8, minute: u8) -> Option<Self> {
        let valid = hour < 24 && minute < 60;
        let minutes = u16::from(hour).saturating_mul(60).saturating_add(u16::from(minute));
        valid.then_some(Self(minutes))
    }

    /// The time a number of hours later on the clock, wrapping at midnight.
    #[must_use]
    pub fn plus_hours(self, hours: u16) -> Self {
        let minutes = u32::from(self.0).saturating_add(u32::from(hours).saturating_mul(60));
        Self(u16::try_from(minutes % u32::from(DAY_MINUTES)).unwrap_or(0))
    }

    /// Minutes since midnight, as the clock shows them.
    pub fn minutes(self) -> u16 {
        self.0
    }

    pub(crate) fn on(self, date: civil::Date) -> civil::DateTime {
        let part = |minutes: u16| i8::try_from(minutes).unwrap_or(0);
        date.at(part(self.0 / 60), part(self.0 % 60), 0, 0)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl FromStr for TimeOfDay {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let digits = |part: &str| {
            let plain = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| part.parse::<u8>().ok()).flatten()
        };
        text.split_once(':')
            .and_then(|(hour, minute)| Self::new(digits(hour)?, digits(minute)?))
            .ok_or_else(|| ParseTimeError(text.to_owned()))
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = ParseTimeError;

    fn try_from(text: String) -> Result<Self, ParseTimeError> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Weekday {
    /// Monday to Sunday.
    pub const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    /// The weekday of a date.
    pub fn of(date: civil::Date) -> Self {
        match date.weekday() {
            civil::Weekday::Monday => Self::Monday,
            civil::Weekday::Tuesday => Self::Tuesday,
            civil::Weekday::Wednesday => Self::Wednesday,
            civil::Weekday::Thursday => Self::Thursday,
            civil::Weekday::Friday => Self::Friday,
            civil::Weekday::Saturday => Self::Saturday,
            civil::Weekday::Sunday => Self::Sunday,
        }
    }
}

impl From<Weekday> for civil::Weekday {
    fn from(weekday: Weekday) -> Self {
        match weekday {
            Weekday::Monday => Self::Monday,
            Weekday::Tuesday => Self::Tuesday,
            Weekday::Wednesday => Self::Wednesday,
            Weekday::Thursday => Self::Thursday,
            Weekday::Friday => Self::Friday,
            Weekday::Saturday => Self::Saturday,
            Weekday::Sunday => Self::Sunday,
        }
    }
}

/// Which of a month's Mondays, Tuesdays and so on is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WeekOfMonth {
    /// The 1st to the 7th.
    First,
    /// The 8th to the 14th.
    Second,
    /// The 15th to the 21st.
    Third,
    /// The 22nd to the 28th.
    Fourth,
    /// The month's last seven days. May be the fourth or a fifth.
    Last,
}

/// A month of the year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Month {
    January,
    February,
    March,
    April,
    May,
    June,
    July,
    August,
    September,
    October,
    November,
    December,
}

impl Month {
    /// January to December.
    pub const ALL: [Self; 12] = [
        Self::January,
        Self::February,
        Self::March,
        Self::April,
        Self::May,
        Self::June,
        Self::July,
        Self::August,
        Self::September,
        Self::October,
        Self::November,
        Self::December,
    ];

    /// The month of a date.
    pub fn of(date: civil::Date) -> Self {
        let index = usize::try_from(date.month()).unwrap_or(1).saturating_sub(1);
        Self::ALL.get(index).copied().unwrap_or(Self::December)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_on_a_clock() {
        let time: TimeOfDay = "02:30".parse().unwrap();
        assert_eq!((time.minutes(), time.to_string().as_str()), (150, "02:30"));
        for wrong in ["24:00", "2:30", "02:60", "0230", "02:30:00", "+2:30", "", "ab:cd", "02:3 "] {
            assert!(wrong.parse::<TimeOfDay>().is_err(), "{wrong}");
        }
        assert_eq!(time.plus_hours(23).to_string(), "01:30");
        assert_eq!(TimeOfDay::new(24, 0), None);
    }

    #[test]
    fn dates_know_their_weekday_and_month() {
        assert_eq!(Weekday::of(civil::date(2026, 11, 22)), Weekday::Sunday);
        assert_eq!(Month::of(civil::date(2026, 12, 31)), Month::December);
        assert_eq!(Month::of(civil::date(2026, 1, 1)), Month::January);
        for weekday in Weekday::ALL {
            assert_eq!(
                Weekday::of(
                    civil::date(2026, 3, 1).nth_weekday_of_month(1, weekday.into()).unwrap()
                ),
                weekday
            );
        }
    }
}
