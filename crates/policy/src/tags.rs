//! Tagged days: the dates that a weekly, monthly or yearly rule tags, and the expiry of each tag.
//!
//! Pure calendar arithmetic; knows neither zones nor points. The tagged days of a rule are computed
//! once: a month's tagged days depend on its length and on its first weekday.
//!
//! Invariants: [`TagRule::newest`] and [`TagRule::next`] never decrease when the day increases, nor
//! does [`TagRule::keeps_through`]; retention relies on this.

use std::collections::BTreeSet;

use crate::{
    calendar::{Day, MonthOfYear},
    rule::Rule,
    rules::{MonthDays, Retention},
    words::{Month, WeekOfMonth, Weekday},
};

/// How many months are searched for a tagged day. 29 February may be missing for eight years.
const MONTHS_SEARCHED: i32 = 12 * 9;

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
    /// Bits from Monday.
    OfWeek(u32),
    OfMonth {
        /// Bits from January.
        months: u32,
        /// The tagged days of a month of 28 to 31 days that begins with a Monday, a Tuesday and so
        /// on: bits from the first at bit 1.
        masks: [[u32; 4]; 7],
    },
}

/// How long a rule keeps.
#[derive(Clone, Copy, Debug)]
enum Span {
    Days(i64),
    Months(i32),
}

impl TagRule {
    /// The rules of a retention that tag days.
    pub(crate) fn of(retention: &Retention) -> Vec<Self> {
        let daily = retention.daily.as_ref().map(|daily| Self {
            rule: Rule::Daily,
            days: Days::All,
            keep: Span::Days(daily.days.into()),
        });
        let weekly = retention.weekly.as_ref().map(|weekly| Self {
            rule: Rule::Weekly,
            days: Days::OfWeek(bits(&Weekday::ALL, &weekly.weekdays)),
            keep: Span::Days(i64::from(weekly.weeks).saturating_mul(7)),
        });
        let monthly = retention.monthly.as_ref().map(|monthly| Self {
            rule: Rule::Monthly,
            days: Days::OfMonth { months: !0, masks: masks(&monthly.on) },
            keep: Span::Months(monthly.months.into()),
        });
        let yearly = retention.yearly.as_ref().map(|yearly| Self {
            rule: Rule::Yearly,
            days: Days::OfMonth {
                months: bits(&Month::ALL, &yearly.months),
                masks: masks(&yearly.on),
            },
            keep: Span::Months(i32::from(yearly.years).saturating_mul(12)),
        });
        [daily, weekly, monthly, yearly].into_iter().flatten().collect()
    }

    /// The newest tagged day that is not after `day`.
    pub(crate) fn newest(&self, day: Day) -> Option<Day> {
        match &self.days {
            Days::All => Some(day),
            Days::OfWeek(weekdays) => {
                (0..7).map(|back: i64| day.plus(-back)).find(|day| has(*weekdays, day.weekday()))
            }
            Days::OfMonth { months, masks } => {
                let (month, of_month) = day.split();
                let newest_of = |month: MonthOfYear, upto: u32| {
                    let (first, tagged) = tagged(*months, masks, month)?;
                    Some(first.plus(highest(tagged & upto)?.saturating_sub(1)))
                };
                let earlier = (1..=MONTHS_SEARCHED).map(|back| month.plus(-back));
                newest_of(month, low_bits(of_month)).or_else(|| {
                    earlier
                        .take_while(|earlier| *earlier < month)
                        .find_map(|earlier| newest_of(earlier, !0))
                })
            }
        }
    }

    /// The first tagged day after `day`.
    pub(crate) fn next(&self, day: Day) -> Option<Day> {
        let found = match &self.days {
            Days::All => Some(day.plus(1)),
            Days::OfWeek(weekdays) => {
                (1..8).map(|ahead| day.plus(ahead)).find(|day| has(*weekdays, day.weekday()))
            }
            Days::OfMonth { months, masks } => {
                let (month, of_month) = day.split();
                let first_of = |month: MonthOfYear, after: u32| {
                    let (first, tagged) = tagged(*months, masks, month)?;
                    Some(first.plus(lowest(tagged & after)?.saturating_sub(1)))
                };
                let later = (1..=MONTHS_SEARCHED).map(|ahead| month.plus(ahead));
                first_of(month, !low_bits(of_month)).or_else(|| {
                    later.take_while(|later| *later > month).find_map(|later| first_of(later, !0))
                })
            }
        };
        found.filter(|found| *found > day)
    }

    /// The last date on which the point of a tagged day is kept. A month is a month of the calendar:
    /// from 31 January it leads to the last day of February.
    pub(crate) fn keeps_through(&self, tagged: Day) -> Day {
        match self.keep {
            Span::Days(days) => tagged.plus(days),
            Span::Months(months) => {
                let (month, of_month) = tagged.split();
                let later = month.plus(months);
                // At the end of the calendar there is no later month.
                if later == month { Day::MAX } else { later.day(of_month) }
            }
        }
    }
}

/// The first day of a month that may have tagged days, and these.
fn tagged(months: u32, masks: &[[u32; 4]; 7], month: MonthOfYear) -> Option<(Day, u32)> {
    if !has(months, month.of_year()) {
        return None;
    }
    let (first, next) = (month.first(), month.next_first());
    let longer =
        usize::try_from(next.number().saturating_sub(first.number())).ok()?.checked_sub(28)?;
    let mask = masks.get(usize::from(first.weekday()))?.get(longer)?;
    Some((first, *mask))
}

fn masks(on: &MonthDays) -> [[u32; 4]; 7] {
    let mut masks = [[0; 4]; 7];
    for (begins, masks) in (0_i32..).zip(&mut masks) {
        for (length, mask) in (28_i32..).zip(masks) {
            *mask = (1..=length)
                .filter(|day| is_tagged(on, *day, length, (begins + day - 1) % 7))
                .fold(0, |mask, day| mask | bit(day));
        }
    }
    masks
}

/// Whether a day of a month is tagged: the `day`th of `length` days, `weekday` days after a Monday.
fn is_tagged(on: &MonthDays, day: i32, length: i32, weekday: i32) -> bool {
    match on {
        MonthDays::Day { days, last } => {
            u8::try_from(day).is_ok_and(|day| days.contains(&day)) || (*last && day == length)
        }
        MonthDays::Weekday { weekdays, weeks } => {
            let in_week = weeks.iter().any(|week| match week {
                WeekOfMonth::First => day <= 7,
                WeekOfMonth::Second => (8..=14).contains(&day),
                WeekOfMonth::Third => (15..=21).contains(&day),
                WeekOfMonth::Fourth => (22..=28).contains(&day),
                WeekOfMonth::Last => day > length - 7,
            });
            let weekday = usize::try_from(weekday).ok().and_then(|index| Weekday::ALL.get(index));
            in_week && weekday.is_some_and(|weekday| weekdays.contains(weekday))
        }
    }
}

/// The places of some words in the list of all.
fn bits<T: Ord>(all: &[T], some: &BTreeSet<T>) -> u32 {
    let places = (0..).zip(all).filter(|(_, word)| some.contains(word));
    places.fold(0, |bits, (place, _)| bits | bit(place))
}

fn has(bits: u32, place: u8) -> bool {
    bits & bit(place.into()) != 0
}

fn bit(place: i32) -> u32 {
    u32::try_from(place).ok().and_then(|place| 1_u32.checked_shl(place)).unwrap_or(0)
}

/// The bits of the days up to and including one.
fn low_bits(day: i32) -> u32 {
    bit(day) | bit(day).saturating_sub(1)
}

fn highest(set: u32) -> Option<i64> {
    set.checked_ilog2().map(i64::from)
}

fn lowest(set: u32) -> Option<i64> {
    (set != 0).then(|| set.trailing_zeros().into())
}
