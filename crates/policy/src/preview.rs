//! The effect of a change of policy, before it is made.
//!
//! [`preview`] covers the points that exist; [`is_shorter`] covers all points that could ever
//! exist. Neither changes anything.

use jiff::Timestamp;

use crate::{
    policy::Policy,
    retention::{History, Kept, evaluate},
    rules::{MonthDays, Retention},
};

/// What a change of policy would do to the points that exist. All lists are of indices into the
/// points of the history, ascending, and no point is in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// May be removed at once under the new policy, and not under the old one.
    pub removed: Vec<usize>,
    /// Kept for a shorter time, but not removed at once.
    pub shorter: Vec<usize>,
    /// Kept for a longer time, including points that the old policy would remove now and the new
    /// policy keeps.
    pub longer: Vec<usize>,
    /// Kept as long as before.
    pub unchanged: Vec<usize>,
    /// When the first of the points in `removed` and `shorter` may be removed; `now` if any may be at
    /// once.
    pub first_removal: Option<Timestamp>,
    /// When the last of them may be.
    pub last_removal: Option<Timestamp>,
    /// Until when each point is kept now.
    pub old: Vec<Kept>,
    /// Until when each point would be kept.
    pub new: Vec<Kept>,
}

/// What it would do to the points of an item if its policy became `new` at `now`.
pub fn preview(old: &Policy, new: &Policy, history: &History<'_>, now: Timestamp) -> Preview {
    let mut preview =
        Preview { old: evaluate(old, history), new: evaluate(new, history), ..Preview::default() };
    for (index, (before, after)) in preview.old.iter().zip(&preview.new).enumerate() {
        // The newest point has no time of removal under either policy: its promise decides.
        let (from, to) = (end(before.until), end(after.until));
        if to >= from {
            if to == from { &mut preview.unchanged } else { &mut preview.longer }.push(index);
            continue;
        }
        if after.is_expired(now) && !before.is_expired(now) {
            preview.removed.push(index);
        } else {
            preview.shorter.push(index);
        }
        if let Some(removal) = after.removable_from() {
            let removal = removal.max(now);
            preview.first_removal =
                Some(preview.first_removal.map_or(removal, |it| it.min(removal)));
            preview.last_removal = Some(preview.last_removal.map_or(removal, |it| it.max(removal)));
        }
    }
    preview
}

/// A promise for ever is one to the end of time.
fn end(until: Option<Timestamp>) -> Timestamp {
    until.unwrap_or(Timestamp::MAX)
}

/// Whether `new` could keep any point of any item for a shorter time than `old`.
///
/// `false` is a guarantee: there are no points, existing or to come, that are promised less under
/// `new`. `true` is a suspicion: it may be that no such points exist. It is `false` exactly if
///
/// - both have the same time zone, since another has other days, and
/// - `new` keeps every point (snapshot tier or hourly retention, whichever is longer) for at least as
///   many days, and
/// - each of the daily, weekly, monthly and yearly rules of `old` is covered: `new` has the rule too,
///   for at least as long, with at least the same tagged days named in the same way (by weekday or by
///   day); or the daily rule of `new` is at least as long as the rule of `old` can be, counting 7 days
///   a week, 31 a month and 366 a year.
///
/// The schedule, the spread and the blackouts do not matter: they remove nothing. The snapshot tier
/// by itself does not matter either, as long as the vault keeps the points.
pub fn is_shorter(old: &Policy, new: &Policy) -> bool {
    let same_zone = old.rules().time_zone == new.rules().time_zone;
    let every = new.every_point_days() >= old.every_point_days();
    !(same_zone && every && covers(new.retention(), old.retention()))
}

/// Whether every tag rule of `old` is covered by `new`.
fn covers(new: &Retention, old: &Retention) -> bool {
    let days = new.daily.map_or(0, |daily| u32::from(daily.days));
    let by_daily = |count: u16, unit: u32| days >= u32::from(count).saturating_mul(unit);

    let daily = old.daily.is_none_or(|old| by_daily(old.days, 1));
    let weekly = old.weekly.as_ref().is_none_or(|old| {
        let same = new
            .weekly
            .as_ref()
            .is_some_and(|new| new.weeks >= old.weeks && new.weekdays.is_superset(&old.weekdays));
        same || by_daily(old.weeks, 7)
    });
    let monthly = old.monthly.as_ref().is_none_or(|old| {
        let same = new
            .monthly
            .as_ref()
            .is_some_and(|new| new.months >= old.months && tags_all(&new.on, &old.on));
        same || by_daily(old.months, 31)
    });
    let yearly = old.yearly.as_ref().is_none_or(|old| {
        let same = new.yearly.as_ref().is_some_and(|new| {
            new.years >= old.years
                && new.months.is_superset(&old.months)
                && tags_all(&new.on, &old.on)
        });
        same || by_daily(old.years, 366)
    });
    daily && weekly && monthly && yearly
}

/// Whether `new` tags every day of a month that `old` tags.
fn tags_all(new: &MonthDays, old: &MonthDays) -> bool {
    match (new, old) {
        (
            MonthDays::Weekday { weekdays: new_weekdays, weeks: new_weeks },
            MonthDays::Weekday { weekdays, weeks },
        ) => new_weekdays.is_superset(weekdays) && new_weeks.is_superset(weeks),
        (MonthDays::Day { days: new_days, last: new_last }, MonthDays::Day { days, last }) => {
            new_days.is_superset(days) && (*new_last || !last)
        }
        _ => false,
    }
}
