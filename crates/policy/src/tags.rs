//! Tagged days: which dates a weekly, monthly or yearly rule speaks of, and until when it keeps them.
//!
//! Pure calendar arithmetic on dates; knows neither zones nor points.
//!
//! Invariants: [`TagRule::newest`] and [`TagRule::next`] never decrease when the date increases, nor
//! does [`TagRule::keeps_through`]; the property tests of retention stand on this.

use std::collections::BTreeSet;

use jiff::{Span, ToSpan, civil::Date};

use crate::{
    retention::Rule,
    rules::{MonthDays, Retention},
    words::{Month, WeekOfMonth, Weekday},
};

/// How many months are searched for a tagged day. 29 February may be missing for eight years.
const MONTHS_SEARCHED: usize = 12 * 9;

/// One rule of a policy's retention that tags days.
#[derive(Clone, Debug)]
pub(crate) struct TagRule {
    pub(crate) rule: Rule,
    days: Days,
    keep: Span,
}

/// The dates that a rule tags.
#[derive(Clone, Debug)]
enum Days {
    All,
    OfWeek(BTreeSet<Weekday>),
    OfMonth { months: Option<BTreeSet<Month>>, on: MonthDays },
}

impl TagRule {
    /// The rules of a retention that tag days.
    pub(crate) fn of(retention: &Retention) -> Vec<Self> {
        let daily = retention.daily.as_ref().map(|daily| Self {
            rule: Rule::Daily,
            days: Days::All,
            keep: i64::from(daily.days).days(),
        });
        let weekly = retention.weekly.as_ref().map(|weekly| Self {
            rule: Rule::Weekly,
            days: Days::OfWeek(weekly.weekdays.clone()),
            keep: i64::from(weekly.weeks).weeks(),
        });
        let monthly = retention.monthly.as_ref().map(|monthly| Self {
            rule: Rule::Monthly,
            days: Days::OfMonth { months: None, on: monthly.on.clone() },
            keep: i64::from(monthly.months).months(),
        });
        let yearly = retention.yearly.as_ref().map(|yearly| Self {
            rule: Rule::Yearly,
            days: Days::OfMonth { months: Some(yearly.months.clone()), on: yearly.on.clone() },
            keep: i64::from(yearly.years).years(),
        });
        [daily, weekly, monthly, yearly].into_iter().flatten().collect()
    }

    /// The newest tagged day that is not after `date`.
    pub(crate) fn newest(&self, date: Date) -> Option<Date> {
        match &self.days {
            Days::All => Some(date),
            Days::OfWeek(weekdays) => {
                let back = |days: i64| date.checked_sub(days.days()).ok();
                (0..7).filter_map(back).find(|day| weekdays.contains(&Weekday::of(*day)))
            }
            Days::OfMonth { .. } => {
                let upto = low_bits(date.day());
                if let Some(day) = highest(self.tagged_in(date) & upto) {
                    return date.with().day(day).build().ok();
                }
                let earlier = |month: &Date| month.checked_sub(1.month()).ok();
                std::iter::successors(earlier(&date.first_of_month()), earlier)
                    .take(MONTHS_SEARCHED)
                    .find_map(|month| {
                        month.with().day(highest(self.tagged_in(month))?).build().ok()
                    })
            }
        }
    }

    /// The first tagged day after `date`.
    pub(crate) fn next(&self, date: Date) -> Option<Date> {
        match &self.days {
            Days::All => date.tomorrow().ok(),
            Days::OfWeek(weekdays) => {
                let ahead = |days: i64| date.checked_add(days.days()).ok();
                (1..8).filter_map(ahead).find(|day| weekdays.contains(&Weekday::of(*day)))
            }
            Days::OfMonth { .. } => {
                let after = !low_bits(date.day());
                if let Some(day) = lowest(self.tagged_in(date) & after) {
                    return date.with().day(day).build().ok();
                }
                let later = |month: &Date| month.checked_add(1.month()).ok();
                std::iter::successors(later(&date.first_of_month()), later)
                    .take(MONTHS_SEARCHED)
                    .find_map(|month| month.with().day(lowest(self.tagged_in(month))?).build().ok())
            }
        }
    }

    /// The last date on which the point of a tagged day is kept. A month is a month of the calendar:
    /// from 31 January it leads to the last day of February.
    pub(crate) fn keeps_through(&self, tagged: Date) -> Date {
        tagged.saturating_add(self.keep)
    }

    /// The tagged days of the month that `date` is in: bit 1 is the first.
    fn tagged_in(&self, date: Date) -> u32 {
        match &self.days {
            Days::All | Days::OfWeek(_) => 0,
            Days::OfMonth { months: Some(months), .. } if !months.contains(&Month::of(date)) => 0,
            Days::OfMonth { on, .. } => days_of_month(on, date),
        }
    }
}

fn days_of_month(on: &MonthDays, date: Date) -> u32 {
    let month = low_bits(date.days_in_month());
    match on {
        MonthDays::Day { days, last } => {
            let named = days.iter().fold(0, |set, day| set | bit(i8::try_from(*day).unwrap_or(0)));
            let last = if *last { bit(date.days_in_month()) } else { 0 };
            (named & month) | last
        }
        MonthDays::Weekday { weekdays, weeks } => {
            let mut set = 0;
            for week in weeks {
                let nth = match week {
                    WeekOfMonth::First => 1,
                    WeekOfMonth::Second => 2,
                    WeekOfMonth::Third => 3,
                    WeekOfMonth::Fourth => 4,
                    WeekOfMonth::Last => -1,
                };
                for weekday in weekdays {
                    let day = date.nth_weekday_of_month(nth, (*weekday).into());
                    set |= day.map_or(0, |day| bit(day.day()));
                }
            }
            set
        }
    }
}

/// The bit of a day of the month. Bit 0 stands for no day and is never set.
fn bit(day: i8) -> u32 {
    u32::try_from(day).ok().and_then(|day| 1_u32.checked_shl(day)).unwrap_or(0) & !1
}

/// The bits of the days up to and including one.
fn low_bits(day: i8) -> u32 {
    (bit(day) | bit(day).saturating_sub(1)) & !1
}

fn highest(set: u32) -> Option<i8> {
    set.checked_ilog2().and_then(|day| i8::try_from(day).ok())
}

fn lowest(set: u32) -> Option<i8> {
    (set != 0).then(|| set.trailing_zeros()).and_then(|day| i8::try_from(day).ok())
}
