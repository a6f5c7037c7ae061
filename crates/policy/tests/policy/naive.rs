//! The model: what policies mean, said a second time, slowly and in other words.
//!
//! Occurrences are found by looking at the clock every minute. Tagged days are found by asking every
//! day whether it is one, and bearers by walking on day by day, with all points that there ever were.
//! Dates are numbers; the calendar is computed here and not by the library.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use strongroom_policy::{
    History, MonthDays, PointTimes, Policy, Rule, Schedule, WeekOfMonth, Weekday,
};

/// Days since 1970-01-01.
pub(crate) type Day = i64;

pub(crate) fn leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

pub(crate) fn month_length(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The calendar from 1970 to 2100, one entry a day.
pub(crate) struct Calendar(Vec<(i64, i64, i64)>);

impl Calendar {
    pub(crate) fn new() -> Self {
        let mut days = Vec::new();
        for year in 1970..2100 {
            for month in 1..=12 {
                for day in 1..=month_length(year, month) {
                    days.push((year, month, day));
                }
            }
        }
        Self(days)
    }

    fn date(&self, day: Day) -> (i64, i64, i64) {
        self.0[usize::try_from(day).unwrap()]
    }

    fn day(&self, date: (i64, i64, i64)) -> Day {
        i64::try_from(self.0.binary_search(&date).expect("a date")).unwrap()
    }

    pub(crate) fn weekday(day: Day) -> Weekday {
        // The first day of 1970 was a Thursday.
        Weekday::ALL[usize::try_from((day + 3) % 7).unwrap()]
    }

    fn in_month_days(&self, on: &MonthDays, day: Day) -> bool {
        let (year, month, of_month) = self.date(day);
        let length = month_length(year, month);
        match on {
            MonthDays::Day { days, last } => {
                days.contains(&u8::try_from(of_month).unwrap()) || (*last && of_month == length)
            }
            MonthDays::Weekday { weekdays, weeks } => {
                let nth = [
                    WeekOfMonth::First,
                    WeekOfMonth::Second,
                    WeekOfMonth::Third,
                    WeekOfMonth::Fourth,
                ];
                let week = nth.get(usize::try_from((of_month - 1) / 7).unwrap());
                weekdays.contains(&Self::weekday(day))
                    && (week.is_some_and(|week| weeks.contains(week))
                        || (weeks.contains(&WeekOfMonth::Last) && of_month + 7 > length))
            }
        }
    }

    /// Whether a rule tags a day.
    fn tags(&self, policy: &Policy, rule: Rule, day: Day) -> bool {
        let retention = policy.retention();
        match rule {
            Rule::Daily => retention.daily.is_some(),
            Rule::Weekly => retention
                .weekly
                .as_ref()
                .is_some_and(|weekly| weekly.weekdays.contains(&Self::weekday(day))),
            Rule::Monthly => retention
                .monthly
                .as_ref()
                .is_some_and(|monthly| self.in_month_days(&monthly.on, day)),
            Rule::Yearly => retention.yearly.as_ref().is_some_and(|yearly| {
                let month = usize::try_from(self.date(day).1).unwrap();
                yearly.months.iter().any(|it| *it == strongroom_policy::Month::ALL[month - 1])
                    && self.in_month_days(&yearly.on, day)
            }),
            _ => false,
        }
    }

    /// The last day on which a rule keeps what a day's tag is for.
    fn through(&self, policy: &Policy, rule: Rule, day: Day) -> Day {
        let retention = policy.retention();
        let months = match rule {
            Rule::Daily => return day + i64::from(retention.daily.unwrap().days),
            Rule::Weekly => {
                return day + 7 * i64::from(retention.weekly.as_ref().unwrap().weeks);
            }
            Rule::Monthly => i64::from(retention.monthly.as_ref().unwrap().months),
            Rule::Yearly => 12 * i64::from(retention.yearly.as_ref().unwrap().years),
            _ => unreachable!("tags no days"),
        };
        let (year, month, of_month) = self.date(day);
        let later = year * 12 + month - 1 + months;
        let (year, month) = (later / 12, later % 12 + 1);
        self.day((year, month, of_month.min(month_length(year, month))))
    }
}

/// The date of a moment, as a number.
pub(crate) fn day_of(time: Timestamp, zone: &TimeZone) -> Day {
    let offset = i64::from(zone.to_offset(time).seconds());
    (time.as_second() + offset).div_euclid(24 * 60 * 60)
}

/// The moment at which a day is over: the first minute that is of a later day.
pub(crate) fn end_of(day: Day, zone: &TimeZone) -> Timestamp {
    // No place is more than a day ahead of or behind UTC.
    let from = Timestamp::from_second(day * 24 * 60 * 60).unwrap();
    let mut low = from - SignedDuration::from_hours(26);
    let mut high = from + SignedDuration::from_hours(24 + 26);
    // Days do not go back but when clocks are set back across midnight; look around there by minutes.
    while high.duration_since(low) > SignedDuration::from_hours(5) {
        let middle = low + high.duration_since(low) / 2;
        if day_of(middle, zone) > day { high = middle } else { low = middle }
    }
    let low = Timestamp::from_second(low.as_second().div_euclid(60) * 60).unwrap()
        - SignedDuration::from_hours(3);
    (0..24 * 60)
        .map(|minute| low + SignedDuration::from_mins(minute))
        .find(|minute| day_of(*minute, zone) > day)
        .unwrap()
}

/// Until when each point is kept, given all points that there ever were.
pub(crate) fn evaluate(
    calendar: &Calendar,
    policy: &Policy,
    history: &History<'_>,
) -> Vec<Timestamp> {
    let through = through(calendar, policy, history);
    let until = |(point, day): (&PointTimes, Day)| {
        point.on_demand_until.unwrap_or_else(|| end_of(day, policy.time_zone()))
    };
    history.points.iter().zip(through).map(until).collect()
}

/// The last day on which each point is kept; of those that were made on demand it says nothing.
pub(crate) fn through(calendar: &Calendar, policy: &Policy, history: &History<'_>) -> Vec<Day> {
    let zone = policy.time_zone();
    let snapshot = policy.snapshot_retention_days();
    let every = policy.retention().hourly.map_or(0, |hourly| hourly.days).max(snapshot);
    let mut through: Vec<Day> = Vec::new();
    let mut last_of: BTreeMap<Day, usize> = BTreeMap::new();
    for (index, point) in history.points.iter().enumerate() {
        through.push(day_of(point.time, zone) + i64::from(every));
        if point.on_demand_until.is_none() {
            let day = day_of(point.occurrence.unwrap_or(point.time), zone);
            let last = last_of.entry(day).or_insert(index);
            if history.points[*last].time <= point.time {
                *last = index;
            }
        }
    }
    let since = day_of(history.protected_since, zone);
    let first = last_of.keys().next().map_or(since, |first| since.min(*first));
    let end = last_of.keys().next_back().copied().unwrap_or(first);
    for rule in [Rule::Daily, Rule::Weekly, Rule::Monthly, Rule::Yearly] {
        for tagged in first..=end {
            if !calendar.tags(policy, rule, tagged) {
                continue;
            }
            let mut day = tagged;
            let bearer = loop {
                if let Some(bearer) = last_of.get(&day) {
                    break Some(*bearer);
                }
                day += 1;
                if tagged < since || day > end || calendar.tags(policy, rule, day) {
                    break None;
                }
            };
            if let Some(bearer) = bearer {
                let until = calendar.through(policy, rule, tagged);
                through[bearer] = through[bearer].max(until);
            }
        }
    }
    through
}

/// The occurrences from `from` until before `to`: each date's times, when the clock first shows them
/// or a later time, found by looking every minute.
pub(crate) fn occurrences(policy: &Policy, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let zone = policy.time_zone();
    let times: Vec<i64> = match policy.schedule() {
        Schedule::Hourly { every_hours, window_start, window_hours } => (0..24 * 60)
            .filter(|minute: &i64| {
                let since = (minute - i64::from(window_start.minutes())).rem_euclid(24 * 60);
                since % (60 * i64::from(*every_hours)) == 0 && since < 60 * i64::from(*window_hours)
            })
            .collect(),
        Schedule::Daily { times } | Schedule::Weekly { times, .. } => {
            times.iter().map(|time| i64::from(time.minutes())).collect()
        }
    };
    let due = |clock: i64| {
        let (day, minute) = (clock.div_euclid(24 * 60), clock.rem_euclid(24 * 60));
        let on_day = match policy.schedule() {
            Schedule::Weekly { weekdays, .. } => weekdays.contains(&Calendar::weekday(day)),
            _ => true,
        };
        on_day && times.contains(&minute)
    };
    let clock = |time: Timestamp| {
        (time.as_second() + i64::from(zone.to_offset(time).seconds())).div_euclid(60)
    };
    let start = from - SignedDuration::from_hours(48);
    let mut shown = clock(start);
    let mut found = Vec::new();
    let mut now = start;
    while now < to {
        let clock = clock(now);
        if (shown + 1..=clock).any(due) && now >= from {
            found.push(now);
        }
        shown = shown.max(clock);
        now += SignedDuration::from_mins(1);
    }
    found
}
