//! Changes of policy: what they would do, and whether they could take anything away.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use strongroom_policy::{
    DailyRetention, History, HourlyRetention, Keep, MonthDays, PointTimes, Policy, PolicyRules,
    WeekOfMonth, Weekday, WeeklyRetention, evaluate, is_shorter, preview,
};

use crate::tools::{Chance, at, enhanced};

/// The default enhanced policy, changed.
fn changed(change: impl FnOnce(&mut PolicyRules)) -> Policy {
    Policy::try_from(enhanced(change)).unwrap()
}

fn once_a_day(days: u16) -> Policy {
    let rules = PolicyRules {
        retention: strongroom_policy::Retention {
            daily: Some(DailyRetention { days }),
            ..strongroom_policy::Retention::default()
        },
        ..PolicyRules::default_standard()
    };
    Policy::try_from(rules).unwrap()
}

#[test]
fn a_preview_says_what_goes_and_when() {
    let now = at("2026-11-22 12:00[UTC]");
    let points: Vec<_> = (0..20)
        .rev()
        .map(|days| PointTimes::at(now - SignedDuration::from_hours(24 * days + 10)))
        .collect();
    let history =
        History { points: &points, protected_since: points[0].time, keep: Keep::AsPerPolicy };
    let (long, short) = (once_a_day(30), once_a_day(7));
    let shorter = preview(&long, &short, &history, now);
    assert_eq!(shorter.removed, (0..12).collect::<Vec<_>>());
    assert_eq!(shorter.shorter, (12..20).collect::<Vec<_>>());
    assert!(shorter.longer.is_empty() && shorter.unchanged.is_empty());
    assert_eq!(shorter.first_removal, Some(now));
    // The newest is never removed; the one before it goes when its seven days are over.
    assert_eq!(shorter.last_removal, Some(at("2026-11-29 00:00[UTC]")));
    assert_eq!(shorter.new[18].until, shorter.last_removal);
    assert!(is_shorter(&long, &short));

    let longer = preview(&short, &long, &history, now);
    assert_eq!(longer.longer, (0..20).collect::<Vec<_>>());
    assert_eq!((longer.first_removal, longer.last_removal), (None, None));
    assert!(!is_shorter(&short, &long));

    let same = preview(&long, &long, &history, now);
    assert_eq!(same.unchanged.len(), 20);
    assert!(!is_shorter(&long, &long));

    let forever = History { keep: Keep::ForEver, ..history };
    assert_eq!(preview(&long, &short, &forever, now).unchanged.len(), 20);
}

#[test]
fn what_is_shorter() {
    let old = Policy::default_enhanced();
    let shorter = |change: fn(&mut PolicyRules)| is_shorter(&old, &changed(change));
    assert!(shorter(|rules| rules.retention.daily = Some(DailyRetention { days: 179 })));
    assert!(shorter(|rules| rules.retention.monthly = None));
    assert!(shorter(|rules| rules.retention.monthly.as_mut().unwrap().months = 59));
    assert!(shorter(|rules| rules.retention.yearly.as_mut().unwrap().years = 9));
    assert!(shorter(|rules| rules.time_zone = "Europe/Berlin".to_owned()));
    assert!(shorter(|rules| rules.snapshot_retention_days = Some(6)));
    assert!(shorter(|rules| {
        let on = MonthDays::Day { days: (1..=7).collect(), last: false };
        rules.retention.monthly.as_mut().unwrap().on = on;
    }));
    assert!(shorter(|rules| {
        let yearly = rules.retention.yearly.as_mut().unwrap();
        yearly.months = [strongroom_policy::Month::February].into();
    }));
}

#[test]
fn what_is_not_shorter() {
    let old = Policy::default_enhanced();
    let shorter = |change: fn(&mut PolicyRules)| is_shorter(&old, &changed(change));
    assert!(!shorter(|_| ()));
    assert!(!shorter(|rules| {
        rules.schedule = crate::tools::daily_at(&["03:00"]);
        rules.start_spread_minutes = 0;
    }));
    // What the snapshot tier no longer has, the vault still keeps.
    assert!(!shorter(|rules| {
        rules.snapshot_retention_days = Some(2);
        rules.retention.hourly = Some(HourlyRetention { days: 7 });
    }));
    assert!(!shorter(|rules| {
        let on = &mut rules.retention.monthly.as_mut().unwrap().on;
        *on = MonthDays::Weekday {
            weekdays: [Weekday::Sunday, Weekday::Monday].into(),
            weeks: [WeekOfMonth::First, WeekOfMonth::Last].into(),
        };
    }));
    // Days that cover the weeks, and all other rules.
    assert!(!shorter(|rules| rules.retention.weekly.as_mut().unwrap().weeks = 1));
    assert!(!shorter(|rules| {
        rules.retention = strongroom_policy::Retention {
            daily: Some(DailyRetention { days: 10 * 366 }),
            ..strongroom_policy::Retention::default()
        };
    }));
    assert!(!shorter(|rules| {
        let weekdays = Weekday::ALL.into();
        rules.retention.weekly = Some(WeeklyRetention { weekdays, weeks: 12 });
    }));
}

#[test]
fn days_cover_other_rules_if_they_are_as_long_as_these_can_be() {
    let daily = |days: u16, more: &str| {
        crate::tools::policy(&format!(
            r#"{{"kind": "standard", "time_zone": "UTC", "schedule": {{"daily": {{"times": ["02:00"]}}}},
                 "retention": {{"daily": {{"days": {days}}} {more}}}}}"#
        ))
    };
    for (rule, least, first) in [
        (r#", "weekly": {"weekdays": ["thursday"], "weeks": 3}"#, 21, "2026-01-01"),
        (r#", "monthly": {"on": {"day": {"days": [1]}}, "months": 1}"#, 31, "2026-01-01"),
        (
            r#", "yearly": {"months": ["january"], "on": {"day": {"days": [1]}}, "years": 1}"#,
            366,
            "2028-01-01",
        ),
    ] {
        let old = daily(7, rule);
        assert!(is_shorter(&old, &daily(least - 1, "")) && !is_shorter(&old, &daily(least, "")));
        // One day less does take something away.
        let points = [PointTimes::at(at(&format!("{first} 02:00[UTC]")))];
        let history =
            History { points: &points, protected_since: points[0].time, keep: Keep::AsPerPolicy };
        let until = |policy: &Policy| evaluate(policy, &history)[0].until;
        assert_eq!(until(&daily(least, "")), until(&old));
        assert!(until(&daily(least - 1, "")) < until(&old));
    }
}

/// The policy with one thing or another of its retention changed, up or down.
fn varied(chance: &mut Chance, policy: &Policy) -> Policy {
    loop {
        let mut rules = policy.rules().clone();
        let other = chance.policy().rules().clone();
        let retention = &mut rules.retention;
        let up = |chance: &mut Chance, value: &mut u16| {
            *value =
                value.saturating_add(chance.between(0, 20)).saturating_sub(chance.one(&[0, 0, 5]));
        };
        for _ in 0..=chance.below(3) {
            match chance.below(8) {
                0 => retention.daily.iter_mut().for_each(|rule| up(chance, &mut rule.days)),
                1 => retention.weekly.iter_mut().for_each(|rule| up(chance, &mut rule.weeks)),
                2 => retention.monthly.iter_mut().for_each(|rule| up(chance, &mut rule.months)),
                3 => retention.yearly.iter_mut().for_each(|rule| up(chance, &mut rule.years)),
                4 => {
                    if let Some(weekly) = &mut retention.weekly {
                        weekly.weekdays.insert(chance.one(&Weekday::ALL));
                    }
                }
                5 => match retention.monthly.as_mut().map(|monthly| &mut monthly.on) {
                    Some(MonthDays::Day { days, last }) => {
                        days.insert(u8::try_from(chance.between(1, 31)).unwrap());
                        *last |= chance.percent(50);
                    }
                    Some(MonthDays::Weekday { weekdays, .. }) => {
                        weekdays.insert(chance.one(&Weekday::ALL));
                    }
                    None => retention.monthly.clone_from(&other.retention.monthly),
                },
                6 => {
                    let days = chance.one(&[100, 800, 2500]);
                    retention.daily.iter_mut().for_each(|rule| rule.days = days);
                    retention.yearly.clone_from(&other.retention.yearly);
                }
                _ => {
                    rules.snapshot_retention_days = None;
                    retention.hourly = Some(HourlyRetention { days: chance.between(1, 30) });
                }
            }
        }
        if let Ok(policy) = Policy::try_from(rules) {
            return policy;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_not_shorter_keeps_every_point(seed: u64, gaps in prop::collection::vec(1_i64..400, 1..150)) {
        let mut chance = Chance::new(seed);
        let old = chance.policy();
        let new = varied(&mut chance, &old);
        let mut time = Timestamp::from_second(1_700_000_000).unwrap();
        let mut points = Vec::new();
        for gap in gaps {
            // Mostly a day, sometimes weeks.
            let hours = if gap > 380 { 24 * (gap - 350) } else { 6 + gap % 20 };
            time += SignedDuration::from_hours(hours);
            points.push(PointTimes::at(time));
        }
        let history = History { points: &points, protected_since: points[0].time, keep: Keep::AsPerPolicy };
        let (before, after) = (evaluate(&old, &history), evaluate(&new, &history));
        let kept = before.iter().zip(&after).all(|(before, after)| after.until >= before.until);
        prop_assert!(kept || is_shorter(&old, &new));
        let change = preview(&old, &new, &history, time);
        prop_assert!(kept == (change.removed.is_empty() && change.shorter.is_empty()));
        let mut all = [change.removed, change.shorter, change.longer, change.unchanged].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..points.len()).collect::<Vec<_>>());
    }
}

/// The property above is only worth something if there are changes that are not shorter.
#[test]
fn the_property_is_put_to_the_test() {
    let mut chance = Chance::new(7);
    let not_shorter = (0..500)
        .filter(|_| {
            let old = chance.policy();
            let new = varied(&mut chance, &old);
            old.retention() != new.retention() && !is_shorter(&old, &new)
        })
        .count();
    assert!(not_shorter > 100, "{not_shorter}");
}
