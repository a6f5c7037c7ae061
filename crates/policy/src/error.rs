//! Errors in the rules of a policy: one variant for each limit that rules can break.

use std::fmt;

use strongroom_base::{Code, Coded, Params, codes, params};

/// Why rules are no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The zone's name is not in the time zone database.
    #[error("there is no time zone `{name}`; use a name like Europe/Berlin or UTC")]
    UnknownTimeZone {
        /// What was given.
        name: String,
    },
    /// An hourly schedule under a standard policy.
    #[error("a standard policy has no hourly schedule; make it an enhanced policy")]
    StandardHourly,
    /// Several times a day under a standard policy.
    #[error("a standard policy has one backup a day, not {given}; make it an enhanced policy")]
    StandardTimes {
        /// How many times were given.
        given: usize,
    },
    /// An interval that an hourly schedule cannot have.
    #[error("an hourly schedule runs every 4, 6, 8, 12 or 24 hours, not every {given}")]
    EveryHours {
        /// What was given.
        given: u8,
    },
    /// A window that an hourly schedule cannot have.
    #[error(
        "the window of an hourly schedule is 4 to 24 hours long and a multiple of its interval \
         ({every_hours}), not {given} hours"
    )]
    WindowHours {
        /// What was given.
        given: u8,
        /// The schedule's interval.
        every_hours: u8,
    },
    /// A schedule without times.
    #[error("the schedule has no time of day")]
    NoTimes,
    /// A schedule with too many times.
    #[error("a schedule has at most 24 times a day, not {given}")]
    TooManyTimes {
        /// How many times were given.
        given: usize,
    },
    /// A set of days, weeks or months is empty, so that what it belongs to would never apply.
    #[error("{of} names no {what}")]
    Empty {
        /// The rule that has the set.
        of: Part,
        /// What the set is of.
        what: &'static str,
    },
    /// A day that no month has.
    #[error("{of} names day {given} of the month; a month has days 1 to 31")]
    DayOfMonth {
        /// The rule that names it.
        of: Part,
        /// What was given.
        given: u8,
    },
    /// Days that exist in none of the named months, such as 30 February.
    #[error("yearly retention tags only days that do not exist in its months")]
    NeverTagged,
    /// A duration of a retention rule is out of range.
    #[error("{of} is for {given} {unit}; allowed are {min} to {max}{}", years(*max))]
    Duration {
        /// The rule.
        of: Part,
        /// What was given.
        given: u16,
        /// Days, weeks, months or years.
        unit: &'static str,
        /// The least that is allowed.
        min: u16,
        /// The most that is allowed.
        max: u16,
    },
    /// Snapshots would be kept too short or too long.
    #[error(
        "snapshots are kept for {given} days; with this kind and schedule, allowed are {min} to {max}"
    )]
    SnapshotDays {
        /// What was given.
        given: u16,
        /// The least that is allowed.
        min: u16,
        /// The most that is allowed.
        max: u16,
    },
    /// Snapshots would outlive what the vault keeps of every point.
    #[error(
        "snapshots are kept for {given} days, longer than the vault keeps points ({vault} days)"
    )]
    SnapshotBeyondVault {
        /// Days in the snapshot tier.
        given: u16,
        /// Days in the vault.
        vault: u16,
    },
    /// A schedule that runs every day needs daily retention.
    #[error("a schedule that runs every day needs daily retention")]
    DailyMissing,
    /// A weekly schedule has no daily points.
    #[error("a weekly schedule has no daily retention; say it in weeks")]
    DailyWithWeekly,
    /// A weekly schedule needs weekly retention.
    #[error("a weekly schedule needs weekly retention")]
    WeeklyMissing,
    /// The days of a weekly schedule and of its retention must be the same: else points of some day
    /// would be kept by no rule, or days would be tagged on which no backup runs.
    #[error("weekly retention must name the same days as the weekly schedule")]
    WeeklyDaysDiffer,
    /// A rule tags a weekday on which the weekly schedule runs no backup.
    #[error("{of} tags a weekday on which the weekly schedule runs no backup")]
    TagWithoutBackup {
        /// The rule.
        of: Part,
    },
    /// The rules would keep more points than an item can have.
    #[error(
        "these rules keep up to {points} recovery points of an item; at most {max} are allowed"
    )]
    TooManyPoints {
        /// How many.
        points: u32,
        /// The most that is allowed.
        max: u32,
    },
    /// Starts would be spread over more than a day.
    #[error("starts are spread over at most 1440 minutes, not {given}")]
    StartSpread {
        /// What was given.
        given: u16,
    },
    /// Too many blackouts.
    #[error("a policy has at most {max} blackouts, not {given}")]
    TooManyBlackouts {
        /// How many were given.
        given: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// The blackouts together leave no minute of the week, so that no backup could ever start.
    #[error("the blackouts cover the whole week, so that no backup could ever start")]
    BlackoutsCoverWeek,
}

fn years(max: u16) -> &'static str {
    if matches!(max, 99 | 1188 | 5165) { " (99 years)" } else { "" }
}

impl Coded for PolicyError {
    fn code(&self) -> &'static Code {
        &codes::POLICY_INVALID
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::UnknownTimeZone { name } => params!(POLICY_INVALID: name),
            Self::StandardTimes { given } => params!(POLICY_INVALID: given),
            Self::EveryHours { given } => params!(POLICY_INVALID: given),
            Self::WindowHours { given, every_hours } => params!(POLICY_INVALID: given, every_hours),
            Self::TooManyTimes { given } => params!(POLICY_INVALID: given),
            Self::Empty { of, what } => params!(POLICY_INVALID: of, what),
            Self::DayOfMonth { of, given } => params!(POLICY_INVALID: of, given),
            Self::Duration { of, given, unit, min, max } => {
                params!(POLICY_INVALID: of, given, unit, min, max)
            }
            Self::SnapshotDays { given, min, max } => params!(POLICY_INVALID: given, min, max),
            Self::SnapshotBeyondVault { given, vault } => params!(POLICY_INVALID: given, vault),
            Self::TagWithoutBackup { of } => params!(POLICY_INVALID: of),
            Self::TooManyPoints { points, max } => params!(POLICY_INVALID: points, max),
            Self::StartSpread { given } => params!(POLICY_INVALID: given),
            Self::TooManyBlackouts { given, max } => params!(POLICY_INVALID: given, max),
            Self::StandardHourly
            | Self::NoTimes
            | Self::NeverTagged
            | Self::DailyMissing
            | Self::DailyWithWeekly
            | Self::WeeklyMissing
            | Self::WeeklyDaysDiffer
            | Self::BlackoutsCoverWeek => Params::none(),
        }
    }
}

/// A part of a policy, in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Part {
    Schedule,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    Blackout,
}

strongroom_base::text_params! { Part }

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schedule => "the schedule",
            Self::Hourly => "hourly retention",
            Self::Daily => "daily retention",
            Self::Weekly => "weekly retention",
            Self::Monthly => "monthly retention",
            Self::Yearly => "yearly retention",
            Self::Blackout => "a blackout",
        })
    }
}
