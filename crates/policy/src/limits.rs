//! The limits of policies, and the check of rules against them.
//!
//! The limits are those of Azure Backup, except where a constant says otherwise. No other module
//! decides which rules are valid.

use std::collections::BTreeSet;

use crate::{
    error::{Part, PolicyError},
    rules::{Blackout, MonthDays, PolicyKind, PolicyRules, Retention, Schedule, YearlyRetention},
    words::{DAY_MINUTES, Month, TimeOfDay, Weekday},
};

/// The most recovery points that the rules may keep of one item.
pub const MAX_POINTS: u32 = 9999;

/// The most times a day of one schedule.
pub const MAX_TIMES: usize = 24;

/// The most blackouts of a policy. Ours.
pub const MAX_BLACKOUTS: usize = 64;

/// The longest spread of starts: a day. Ours.
pub const MAX_START_SPREAD_MINUTES: u16 = DAY_MINUTES;

/// The most that any rule may say, whatever its unit.
const MAX_COUNT: u16 = 9999;

/// 99 years, the longest that a point is kept, in the units of the rules.
const MAX_WEEKS: u16 = 5165;
const MAX_MONTHS: u16 = 99 * 12;
const MAX_YEARS: u16 = 99;

/// Minutes in a week.
const WEEK_MINUTES: u32 = 7 * 24 * 60;

/// The first rule that is broken, if any. `Ok` has how many days snapshots are kept.
pub(crate) fn check(rules: &PolicyRules) -> Result<u16, PolicyError> {
    check_schedule(rules.kind, &rules.schedule)?;
    check_retention(&rules.retention)?;
    check_together(&rules.schedule, &rules.retention)?;
    let snapshot_days = check_snapshots(rules)?;
    let points = most_points(rules, snapshot_days);
    if points > MAX_POINTS {
        return Err(PolicyError::TooManyPoints { points, max: MAX_POINTS });
    }
    if rules.start_spread_minutes > MAX_START_SPREAD_MINUTES {
        return Err(PolicyError::StartSpread { given: rules.start_spread_minutes });
    }
    check_blackouts(&rules.blackouts)?;
    Ok(snapshot_days)
}

fn check_schedule(kind: PolicyKind, schedule: &Schedule) -> Result<(), PolicyError> {
    let times = match schedule {
        Schedule::Hourly { every_hours, window_hours, .. } => {
            let (every_hours, given) = (*every_hours, *window_hours);
            if kind == PolicyKind::Standard {
                return Err(PolicyError::StandardHourly);
            }
            if !matches!(every_hours, 4 | 6 | 8 | 12 | 24) {
                return Err(PolicyError::EveryHours { given: every_hours });
            }
            if !(4..=24).contains(&given) || !given.is_multiple_of(every_hours) {
                return Err(PolicyError::WindowHours { given, every_hours });
            }
            return Ok(());
        }
        Schedule::Daily { times } => times,
        Schedule::Weekly { weekdays, times } => {
            not_empty(weekdays, Part::Schedule, "weekday")?;
            times
        }
    };
    match times.len() {
        0 => Err(PolicyError::NoTimes),
        given if given > MAX_TIMES => Err(PolicyError::TooManyTimes { given }),
        given if given > 1 && kind == PolicyKind::Standard => {
            Err(PolicyError::StandardTimes { given })
        }
        _ => Ok(()),
    }
}

fn check_retention(retention: &Retention) -> Result<(), PolicyError> {
    if let Some(hourly) = &retention.hourly {
        in_range(Part::Hourly, hourly.days, "days", 1, MAX_COUNT)?;
    }
    if let Some(daily) = &retention.daily {
        in_range(Part::Daily, daily.days, "days", 7, MAX_COUNT)?;
    }
    if let Some(weekly) = &retention.weekly {
        not_empty(&weekly.weekdays, Part::Weekly, "weekday")?;
        in_range(Part::Weekly, weekly.weeks, "weeks", 1, MAX_WEEKS)?;
    }
    if let Some(monthly) = &retention.monthly {
        check_month_days(&monthly.on, Part::Monthly)?;
        in_range(Part::Monthly, monthly.months, "months", 1, MAX_MONTHS)?;
    }
    if let Some(yearly) = &retention.yearly {
        not_empty(&yearly.months, Part::Yearly, "month")?;
        check_month_days(&yearly.on, Part::Yearly)?;
        check_exists(yearly)?;
        in_range(Part::Yearly, yearly.years, "years", 1, MAX_YEARS)?;
    }
    Ok(())
}

fn in_range(
    of: Part,
    given: u16,
    unit: &'static str,
    min: u16,
    max: u16,
) -> Result<(), PolicyError> {
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(PolicyError::Duration { of, given, unit, min, max })
    }
}

fn not_empty<T>(set: &BTreeSet<T>, of: Part, what: &'static str) -> Result<(), PolicyError> {
    if set.is_empty() { Err(PolicyError::Empty { of, what }) } else { Ok(()) }
}

fn check_month_days(on: &MonthDays, of: Part) -> Result<(), PolicyError> {
    match on {
        MonthDays::Weekday { weekdays, weeks } => {
            not_empty(weekdays, of, "weekday")?;
            not_empty(weeks, of, "week of the month")
        }
        MonthDays::Day { days, last } => {
            if let Some(given) = days.iter().copied().find(|day| !(1..=31).contains(day)) {
                return Err(PolicyError::DayOfMonth { of, given });
            }
            if *last { Ok(()) } else { not_empty(days, of, "day of the month") }
        }
    }
}

/// Some month of the yearly rule has some of its days, in leap years at least.
fn check_exists(yearly: &YearlyRetention) -> Result<(), PolicyError> {
    let MonthDays::Day { days, last: false } = &yearly.on else { return Ok(()) };
    let longest = |month: &Month| match month {
        Month::February => 29,
        Month::April | Month::June | Month::September | Month::November => 30,
        _ => 31,
    };
    let longest = yearly.months.iter().map(longest).max().unwrap_or(0);
    let exists = days.first().is_some_and(|first| *first <= longest);
    if exists { Ok(()) } else { Err(PolicyError::NeverTagged) }
}

fn check_together(schedule: &Schedule, retention: &Retention) -> Result<(), PolicyError> {
    let Schedule::Weekly { weekdays, .. } = schedule else {
        return retention.daily.map(|_| ()).ok_or(PolicyError::DailyMissing);
    };
    if retention.daily.is_some() {
        return Err(PolicyError::DailyWithWeekly);
    }
    let weekly = retention.weekly.as_ref().ok_or(PolicyError::WeeklyMissing)?;
    if weekly.weekdays != *weekdays {
        return Err(PolicyError::WeeklyDaysDiffer);
    }
    let monthly = retention.monthly.as_ref().map(|monthly| (&monthly.on, Part::Monthly));
    let yearly = retention.yearly.as_ref().map(|yearly| (&yearly.on, Part::Yearly));
    for (on, of) in monthly.into_iter().chain(yearly) {
        if let MonthDays::Weekday { weekdays: tagged, .. } = on
            && !tagged.is_subset(weekdays)
        {
            return Err(PolicyError::TagWithoutBackup { of });
        }
    }
    Ok(())
}

/// How many days snapshots are kept, after checking them.
fn check_snapshots(rules: &PolicyRules) -> Result<u16, PolicyError> {
    let weekly = matches!(rules.schedule, Schedule::Weekly { .. });
    let (min, default, max) = match (rules.kind, weekly) {
        (PolicyKind::Standard, false) => (1, 2, 5),
        (PolicyKind::Standard, true) => (5, 5, 5),
        (PolicyKind::Enhanced, true) => (5, 7, 20),
        (PolicyKind::Enhanced, false) => (1, 7, snapshot_days_by_frequency(&rules.schedule)),
    };
    let vault = match (&rules.retention.daily, &rules.retention.weekly) {
        (Some(daily), _) => daily.days,
        (None, Some(weekly)) => weekly.weeks.saturating_mul(7),
        (None, None) => 0,
    };
    let given = rules.snapshot_retention_days.unwrap_or_else(|| default.min(vault).min(max));
    if !(min..=max).contains(&given) {
        return Err(PolicyError::SnapshotDays { given, min, max });
    }
    if given > vault {
        return Err(PolicyError::SnapshotBeyondVault { given, vault });
    }
    Ok(given)
}

/// The longest snapshot retention of an enhanced policy: the more snapshots a day, the fewer days.
///
/// Azure documents 6 a day (17 days), 4 (22) and up to 2 (30). Between them, and beyond 6 a day where
/// Azure has nothing, the numbers are ours: at no frequency more than 102 snapshots, Azure's most.
fn snapshot_days_by_frequency(schedule: &Schedule) -> u16 {
    match times_a_day(schedule) {
        0..=2 => 30,
        3 => 26,
        4 => 22,
        5 | 6 => 17,
        more => 102_u16.checked_div(more).unwrap_or(1),
    }
}

/// How many backups a day that has backups has.
fn times_a_day(schedule: &Schedule) -> u16 {
    match schedule {
        Schedule::Hourly { every_hours, window_hours, .. } => {
            u16::from(window_hours.checked_div(*every_hours).unwrap_or(0))
        }
        Schedule::Daily { times } | Schedule::Weekly { times, .. } => {
            u16::try_from(times.len()).unwrap_or(u16::MAX)
        }
    }
}

/// How many scheduled points of an item the rules can keep at once: never less than they do, and
/// more by what weekly, monthly and yearly tags have in common beyond the daily points.
pub(crate) fn most_points(rules: &PolicyRules, snapshot_days: u16) -> u32 {
    let retention = &rules.retention;
    let daily = retention.daily.map_or(0, |daily| daily.days);
    let every = snapshot_days.max(retention.hourly.map_or(0, |hourly| hourly.days));
    // What is older than the daily points: all that a rule keeps except the time they cover.
    let beyond = |count: u16, days: u16, tags: usize| {
        let count = count.saturating_sub(daily.checked_div(days).unwrap_or(0));
        u32::from(count).saturating_mul(u32::try_from(tags).unwrap_or(u32::MAX))
    };
    let weekly = retention.weekly.as_ref();
    let monthly = retention.monthly.as_ref();
    let yearly = retention.yearly.as_ref();
    let others = u32::from(times_a_day(&rules.schedule).saturating_sub(1));
    [
        u32::from(every).saturating_mul(others),
        // Where no rule is daily, every point of the last days counts by itself.
        u32::from(if retention.daily.is_some() { daily.max(every) } else { every }),
        weekly.map_or(0, |rule| beyond(rule.weeks, 7, rule.weekdays.len())),
        monthly.map_or(0, |rule| beyond(rule.months, 31, tags_a_month(&rule.on))),
        yearly.map_or(0, |rule| {
            beyond(rule.years, 366, tags_a_month(&rule.on).saturating_mul(rule.months.len()))
        }),
    ]
    .into_iter()
    .fold(0, u32::saturating_add)
}

fn tags_a_month(on: &MonthDays) -> usize {
    match on {
        MonthDays::Weekday { weekdays, weeks } => weekdays.len().saturating_mul(weeks.len()),
        MonthDays::Day { days, last } => days.len().saturating_add(usize::from(*last)),
    }
}

fn check_blackouts(blackouts: &[Blackout]) -> Result<(), PolicyError> {
    if blackouts.len() > MAX_BLACKOUTS {
        let given = blackouts.len();
        return Err(PolicyError::TooManyBlackouts { given, max: MAX_BLACKOUTS });
    }
    let mut covered = Vec::new();
    for blackout in blackouts {
        not_empty(&blackout.weekdays, Part::Blackout, "weekday")?;
        let length = u32::from(blackout_minutes(blackout.from, blackout.to));
        for (index, weekday) in (0_u32..).zip(Weekday::ALL) {
            if blackout.weekdays.contains(&weekday) {
                let start = index
                    .saturating_mul(u32::from(DAY_MINUTES))
                    .saturating_add(u32::from(blackout.from.minutes()));
                let end = start.saturating_add(length);
                covered.push((start, end));
                // The same a week earlier: what crosses the end of Sunday also covers Monday.
                covered.push((0, end.saturating_sub(WEEK_MINUTES)));
            }
        }
    }
    covered.sort_unstable();
    let reached = covered
        .into_iter()
        .fold(0, |reached, (start, end)| if start <= reached { reached.max(end) } else { reached });
    if reached >= WEEK_MINUTES { Err(PolicyError::BlackoutsCoverWeek) } else { Ok(()) }
}

/// How long a blackout is on the clock: up to and including a whole day.
fn blackout_minutes(from: TimeOfDay, to: TimeOfDay) -> u16 {
    let (from, to) = (from.minutes(), to.minutes());
    if to > from {
        to.saturating_sub(from)
    } else {
        DAY_MINUTES.saturating_sub(from).saturating_add(to)
    }
}
