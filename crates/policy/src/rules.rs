//! A policy as it is written down: plain data, as in JSON, not yet checked.
//!
//! Every set is a set: days and times come out sorted and once, however they were written. Unknown
//! fields are refused, so a typo in a rule's name is never silently ignored. Making a
//! [`Policy`](crate::Policy) checks the rules; this module does not.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::words::{Month, TimeOfDay, WeekOfMonth, Weekday};

/// How long starts are spread when a policy does not say it: two hours, as with Azure.
///
/// Long enough that a hundred machines of a host do not freeze in the same minute, and short enough
/// that "tonight at two" still means tonight.
pub const DEFAULT_START_SPREAD_MINUTES: u16 = 120;

/// All that a policy says, unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyRules {
    /// Standard or enhanced: which schedules and snapshot retentions are allowed.
    pub kind: PolicyKind,
    /// The IANA name of the zone in which all days and times of the policy are meant.
    #[cfg_attr(feature = "schema", schema(min_length = 1, max_length = 100))]
    pub time_zone: String,
    /// When backups are due.
    pub schedule: Schedule,
    /// How many days a recovery point stays in the snapshot tier. Absent: the kind's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 30))]
    pub snapshot_retention_days: Option<u16>,
    /// How long recovery points are kept.
    pub retention: Retention,
    /// Over how many minutes after the scheduled time the starts of different items are spread.
    #[serde(default = "default_start_spread")]
    #[cfg_attr(feature = "schema", schema(maximum = 1440))]
    pub start_spread_minutes: u16,
    /// When no backup may start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(max_items = 64))]
    pub blackouts: Vec<Blackout>,
}

fn default_start_spread() -> u16 {
    DEFAULT_START_SPREAD_MINUTES
}

/// Which family of limits a policy is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// Once a day or on some days of the week; snapshots for up to 5 days.
    Standard,
    /// Also several times a day; snapshots for up to 30 days.
    Enhanced,
}

/// When backups are due, on the clocks of the policy's zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// At a fixed interval within a window that opens every day. Enhanced policies only.
    Hourly {
        /// 4, 6, 8, 12 or 24.
        #[cfg_attr(feature = "schema", schema(minimum = 4, maximum = 24))]
        every_hours: u8,
        /// When the window opens: the time of its first backup.
        window_start: TimeOfDay,
        /// How long the window is: 4 to 24, a multiple of `every_hours`. Its end is not part of it.
        #[cfg_attr(feature = "schema", schema(minimum = 4, maximum = 24))]
        window_hours: u8,
    },
    /// Every day.
    Daily {
        /// One time; under an enhanced policy up to 24.
        #[cfg_attr(feature = "schema", schema(value_type = Vec<TimeOfDay>, min_items = 1, max_items = 24))]
        times: BTreeSet<TimeOfDay>,
    },
    /// On some days of the week.
    Weekly {
        /// The days.
        #[cfg_attr(feature = "schema", schema(value_type = Vec<Weekday>, min_items = 1))]
        weekdays: BTreeSet<Weekday>,
        /// One time; under an enhanced policy up to 24.
        #[cfg_attr(feature = "schema", schema(value_type = Vec<TimeOfDay>, min_items = 1, max_items = 24))]
        times: BTreeSet<TimeOfDay>,
    },
}

/// How long recovery points are kept. The longest rule that applies to a point wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Every point, not only the last of its day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hourly: Option<HourlyRetention>,
    /// The last point of every day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily: Option<DailyRetention>,
    /// The last point of some days of every week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekly: Option<WeeklyRetention>,
    /// The last point of some days of every month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly: Option<MonthlyRetention>,
    /// The last point of some days of some months of every year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yearly: Option<YearlyRetention>,
}

/// Keeps every point for a number of days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HourlyRetention {
    /// 1 to 9999.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 9999))]
    pub days: u16,
}

/// Keeps the last point of every day for a number of days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DailyRetention {
    /// 7 to 9999.
    #[cfg_attr(feature = "schema", schema(minimum = 7, maximum = 9999))]
    pub days: u16,
}

/// Keeps the last point of some weekdays for a number of weeks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WeeklyRetention {
    /// The tagged days.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<Weekday>, min_items = 1))]
    pub weekdays: BTreeSet<Weekday>,
    /// 1 to 9999, and at most 99 years.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 5165))]
    pub weeks: u16,
}

/// Keeps the last point of some days of every month for a number of months.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MonthlyRetention {
    /// The tagged days.
    pub on: MonthDays,
    /// 1 to 9999, and at most 99 years. A month is a month of the calendar.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 1188))]
    pub months: u16,
}

/// Keeps the last point of some days of some months for a number of years.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct YearlyRetention {
    /// The months that have tagged days.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<Month>, min_items = 1))]
    pub months: BTreeSet<Month>,
    /// The tagged days of these months.
    pub on: MonthDays,
    /// 1 to 99. A year is a year of the calendar.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 99))]
    pub years: u16,
}

/// Days of a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MonthDays {
    /// By weekday: each of `weekdays` in each of `weeks`, such as the first Sunday.
    Weekday {
        /// The weekdays.
        #[cfg_attr(feature = "schema", schema(value_type = Vec<Weekday>, min_items = 1))]
        weekdays: BTreeSet<Weekday>,
        /// The weeks of the month.
        #[cfg_attr(feature = "schema", schema(value_type = Vec<WeekOfMonth>, min_items = 1))]
        weeks: BTreeSet<WeekOfMonth>,
    },
    /// By date. A month without a 31st has no such tagged day; `last` is there in every month.
    Day {
        /// 1 to 31.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        #[cfg_attr(feature = "schema", schema(value_type = Vec<DayOfMonth>))]
        days: BTreeSet<u8>,
        /// Whether the month's last day is tagged, whichever date it has.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        last: bool,
    },
}

/// A date in a month, for the description of the API.
#[cfg(feature = "schema")]
#[derive(utoipa::ToSchema)]
#[schema(minimum = 1, maximum = 31)]
#[expect(dead_code, reason = "only its description is of use")]
struct DayOfMonth(u8);

/// A period in which no backup starts. A running backup continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// The days on which it begins.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<Weekday>, min_items = 1))]
    pub weekdays: BTreeSet<Weekday>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends: on the next day if that is not later than `from` on the clock, so that
    /// 00:00 to 00:00 is the whole day.
    pub to: TimeOfDay,
}

impl PolicyRules {
    /// Azure's default policy: every day at 02:00 UTC, kept for 30 days, snapshots for 2 days.
    pub fn default_standard() -> Self {
        Self {
            kind: PolicyKind::Standard,
            time_zone: "UTC".to_owned(),
            schedule: Schedule::Daily { times: TimeOfDay::new(2, 0).into_iter().collect() },
            snapshot_retention_days: Some(2),
            retention: Retention {
                daily: Some(DailyRetention { days: 30 }),
                ..Retention::default()
            },
            start_spread_minutes: DEFAULT_START_SPREAD_MINUTES,
            blackouts: Vec::new(),
        }
    }

    /// Azure's enhanced default: every 4 hours from 08:00 UTC, kept for 180 days, 12 weeks
    /// (Sundays), 60 months and 10 years (first Sundays), snapshots for 7 days.
    pub fn default_enhanced() -> Self {
        let sunday = || BTreeSet::from([Weekday::Sunday]);
        let first_sunday = || MonthDays::Weekday {
            weekdays: sunday(),
            weeks: BTreeSet::from([WeekOfMonth::First]),
        };
        Self {
            kind: PolicyKind::Enhanced,
            time_zone: "UTC".to_owned(),
            schedule: Schedule::Hourly {
                every_hours: 4,
                window_start: TimeOfDay::MIDNIGHT.plus_hours(8),
                window_hours: 24,
            },
            snapshot_retention_days: Some(7),
            retention: Retention {
                hourly: None,
                daily: Some(DailyRetention { days: 180 }),
                weekly: Some(WeeklyRetention { weekdays: sunday(), weeks: 12 }),
                monthly: Some(MonthlyRetention { on: first_sunday(), months: 60 }),
                yearly: Some(YearlyRetention {
                    months: BTreeSet::from([Month::January]),
                    on: first_sunday(),
                    years: 10,
                }),
            },
            start_spread_minutes: DEFAULT_START_SPREAD_MINUTES,
            blackouts: Vec::new(),
        }
    }
}
