//! Retention: Azure's rules by example, and what must hold for all policies and points.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use strongroom_policy::{History, Keep, Kept, PointTimes, Policy, Rule, evaluate};

use crate::{
    naive::{self, Calendar},
    tools::{Chance, at, policy},
};

fn history(points: &[PointTimes]) -> History<'_> {
    let protected_since = points.iter().map(|point| point.time).min().unwrap_or(Timestamp::MIN);
    History { points, protected_since, keep: Keep::AsPerPolicy }
}

/// A daily policy in Berlin with such further retention.
fn daily_and(retention: &str) -> Policy {
    policy(&format!(
        r#"{{"kind": "standard", "time_zone": "Europe/Berlin",
             "schedule": {{"daily": {{"times": ["02:00"]}}}},
             "retention": {{"daily": {{"days": 7}} {retention}}}}}"#
    ))
}

/// A point each night from one date to another, without the nights that failed.
fn nights(from: &str, to: &str, failed: &[&str]) -> Vec<PointTimes> {
    let mut date: jiff::civil::Date = from.parse().unwrap();
    let mut points = Vec::new();
    while date <= to.parse().unwrap() {
        if !failed.contains(&date.to_string().as_str()) {
            points.push(PointTimes::at(at(&format!("{date} 02:10[Europe/Berlin]"))));
        }
        date = date.tomorrow().unwrap();
    }
    points
}

/// The points that a rule keeps: their dates, and the last dates on which they are kept.
fn borne(policy: &Policy, points: &[PointTimes], rule: Rule) -> Vec<String> {
    points
        .iter()
        .zip(evaluate(policy, &history(points)))
        .filter(|(_, kept)| kept.rules.contains(rule))
        .map(|(point, kept)| {
            let last = kept.until.unwrap() - SignedDuration::from_secs(1);
            let date = |time: Timestamp| time.to_zoned(policy.time_zone().clone()).date();
            format!("{} through {}", date(point.time), date(last))
        })
        .collect()
}

#[test]
fn a_day_is_kept_to_the_end_of_its_last_day() {
    let policy = daily_and("");
    let points = nights("2026-03-24", "2026-03-26", &[]);
    let kept = evaluate(&policy, &history(&points));
    // The clocks change in between.
    assert_eq!(kept[0].until, Some(at("2026-04-01 00:00+02:00[Europe/Berlin]")));
    assert_eq!(kept[0].snapshot_until, at("2026-03-27 00:00+01:00[Europe/Berlin]"));
    let rules: Vec<_> = kept[0].rules.iter().collect();
    assert_eq!(rules, [Rule::Snapshot, Rule::Daily]);
    assert!(!kept[0].is_expired(kept[0].until.unwrap() - SignedDuration::from_nanos(1)));
    assert!(kept[0].is_expired(kept[0].until.unwrap()));
}

#[test]
fn the_longest_rule_wins() {
    let policy = daily_and(
        r#", "weekly": {"weekdays": ["sunday"], "weeks": 4},
            "monthly": {"on": {"day": {"days": [1]}}, "months": 12},
            "yearly": {"months": ["march"], "on": {"day": {"days": [1]}}, "years": 10}"#,
    );
    // 1 March 2026 is a Sunday.
    let points = nights("2026-02-27", "2026-03-10", &[]);
    assert_eq!(
        borne(&policy, &points, Rule::Weekly),
        ["2026-03-01 through 2036-03-01", "2026-03-08 through 2026-04-05"]
    );
    assert_eq!(borne(&policy, &points, Rule::Monthly), ["2026-03-01 through 2036-03-01"]);
    assert_eq!(borne(&policy, &points, Rule::Yearly), ["2026-03-01 through 2036-03-01"]);
    assert_eq!(borne(&policy, &points, Rule::Daily).len(), points.len());
}

#[test]
fn a_month_is_a_month_and_a_year_is_a_year() {
    let monthly = |on: &str, months: u16| {
        daily_and(&format!(r#", "monthly": {{"on": {{"day": {on}}}, "months": {months}}}"#))
    };
    let points = nights("2027-12-30", "2028-03-02", &[]);
    // Not 372 days: twelve months.
    assert_eq!(
        borne(&monthly(r#"{"days": [1]}"#, 12), &points, Rule::Monthly),
        [
            "2028-01-01 through 2029-01-01",
            "2028-02-01 through 2029-02-01",
            "2028-03-01 through 2029-03-01"
        ]
    );
    assert_eq!(
        borne(&monthly(r#"{"last": true}"#, 1), &points, Rule::Monthly),
        [
            "2027-12-31 through 2028-01-31",
            "2028-01-31 through 2028-02-29",
            "2028-02-29 through 2028-03-29"
        ]
    );
    // February has no 30th, and nothing stands in for a day that there is not.
    assert_eq!(
        borne(&monthly(r#"{"days": [30]}"#, 2), &points, Rule::Monthly),
        ["2027-12-30 through 2028-02-29", "2028-01-30 through 2028-03-30"]
    );
    let leap = daily_and(
        r#", "yearly": {"months": ["february"], "on": {"day": {"days": [29]}}, "years": 1}"#,
    );
    assert_eq!(borne(&leap, &points, Rule::Yearly), ["2028-02-29 through 2029-02-28"]);
}

#[test]
fn weekdays_of_the_month() {
    let policy = daily_and(
        r#", "monthly": {"on": {"weekday": {"weekdays": ["sunday", "monday"],
                                            "weeks": ["first", "fourth", "last"]}}, "months": 24}"#,
    );
    let points = nights("2026-10-31", "2026-12-01", &[]);
    let dates: Vec<_> = borne(&policy, &points, Rule::Monthly)
        .iter()
        .map(|borne| borne.split_once(' ').unwrap().0.to_owned())
        .collect();
    // November 2026 begins with a Sunday, and has five Sundays and five Mondays.
    assert_eq!(
        dates,
        ["2026-11-01", "2026-11-02", "2026-11-22", "2026-11-23", "2026-11-29", "2026-11-30"]
    );
}

#[test]
fn the_last_point_of_a_day_bears_its_tags() {
    let policy = policy(
        r#"{"kind": "enhanced", "time_zone": "UTC", "snapshot_retention_days": 2,
            "schedule": {"hourly": {"every_hours": 8, "window_start": "00:00", "window_hours": 24}},
            "retention": {"daily": {"days": 30}, "weekly": {"weekdays": ["sunday"], "weeks": 10}}}"#,
    );
    let sunday = ["00:01", "08:01", "16:01"]
        .map(|time| PointTimes::at(at(&format!("2026-11-22 {time}[UTC]"))));
    let until = |points: &[PointTimes]| -> Vec<_> {
        evaluate(&policy, &history(points)).iter().map(|kept| kept.until.unwrap()).collect()
    };
    let (two_days, ten_weeks) = (at("2026-11-25 00:00[UTC]"), at("2027-02-01 00:00[UTC]"));
    assert_eq!(until(&sunday[..1]), [ten_weeks]);
    assert_eq!(until(&sunday[..2]), [two_days, ten_weeks]);
    assert_eq!(until(&sunday), [two_days, two_days, ten_weeks]);
    // With hourly retention every point is kept, as long as that says.
    let mut rules = policy.rules().clone();
    rules.retention.hourly = Some(strongroom_policy::HourlyRetention { days: 5 });
    let every = Policy::try_from(rules).unwrap();
    let kept = evaluate(&every, &history(&sunday));
    assert_eq!(kept[0].until, Some(at("2026-11-28 00:00[UTC]")));
    assert_eq!(kept[0].snapshot_until, two_days);
    assert!(kept[0].rules.contains(Rule::Hourly));
}

#[test]
fn a_backup_that_begins_after_midnight_counts_for_its_day() {
    let policy = daily_and(r#", "weekly": {"weekdays": ["sunday"], "weeks": 2}"#);
    let point = |time: &str, occurrence: &str| {
        let at = |text: &str| at(&format!("{text}[Europe/Berlin]"));
        PointTimes::scheduled(at(time), at(occurrence))
    };
    let points = [
        point("2026-11-23 00:40", "2026-11-22 23:30"),
        point("2026-11-23 23:50", "2026-11-23 23:30"),
    ];
    assert_eq!(borne(&policy, &points, Rule::Weekly), ["2026-11-23 through 2026-12-06"]);
    assert_eq!(
        borne(&policy, &points, Rule::Daily),
        ["2026-11-23 through 2026-12-06", "2026-11-23 through 2026-11-30"]
    );
}

#[test]
fn a_failed_night_does_not_cost_the_years_point() {
    let policy = daily_and(
        r#", "weekly": {"weekdays": ["thursday", "sunday"], "weeks": 8},
            "yearly": {"months": ["january"], "on": {"day": {"days": [1]}}, "years": 7}"#,
    );
    // 1 January 2026 is a Thursday. What stands in is kept as long as what it stands for.
    let failed = ["2026-01-01", "2026-01-02"];
    let points = nights("2025-12-29", "2026-01-12", &failed);
    assert_eq!(borne(&policy, &points, Rule::Yearly), ["2026-01-03 through 2033-01-01"]);
    assert_eq!(
        borne(&policy, &points, Rule::Weekly),
        [
            "2026-01-03 through 2033-01-01",
            "2026-01-04 through 2026-03-01",
            "2026-01-08 through 2026-03-05",
            "2026-01-11 through 2026-03-08"
        ]
    );
    // Until the next tagged day: then there is another.
    let failed = ["2026-01-01", "2026-01-02", "2026-01-03"];
    let points = nights("2025-12-29", "2026-01-05", &failed);
    assert_eq!(borne(&policy, &points, Rule::Weekly), ["2026-01-04 through 2033-01-01"]);
}

#[test]
fn nothing_stands_in_for_days_before_protection() {
    let policy = daily_and(r#", "monthly": {"on": {"day": {"days": [1]}}, "months": 6}"#);
    let points = nights("2026-03-10", "2026-03-12", &[]);
    assert!(borne(&policy, &points, Rule::Monthly).is_empty());
    let evaluate_since = |since: Timestamp| {
        let history = History { points: &points, protected_since: since, keep: Keep::AsPerPolicy };
        evaluate(&policy, &history)[0].rules.contains(Rule::Monthly)
    };
    assert!(evaluate_since(at("2026-03-01 23:00[Europe/Berlin]")));
    assert!(!evaluate_since(at("2026-03-02 00:00[Europe/Berlin]")));
    assert!(evaluate_since(Timestamp::MIN));
    // But a point that is older than the protection, and on the day, bears its tag.
    let points = nights("2026-03-01", "2026-03-01", &[]);
    let since = at("2026-04-01 00:00[Europe/Berlin]");
    let history = History { points: &points, protected_since: since, keep: Keep::AsPerPolicy };
    assert!(evaluate(&policy, &history)[0].rules.contains(Rule::Monthly));
}

#[test]
fn on_demand_is_kept_as_long_as_was_asked() {
    let policy = daily_and(r#", "weekly": {"weekdays": ["sunday"], "weeks": 8}"#);
    let sunday = |time: &str| at(&format!("2026-11-22 {time}[Europe/Berlin]"));
    let until = sunday("12:00") + SignedDuration::from_hours(24 * 30);
    let short = sunday("13:00") + SignedDuration::from_hours(1);
    let points = [
        PointTimes::at(sunday("02:10")),
        PointTimes::on_demand(sunday("12:00"), until),
        PointTimes::on_demand(sunday("13:00"), short),
    ];
    let kept = evaluate(&policy, &history(&points));
    assert!(kept[0].rules.contains(Rule::Weekly));
    assert_eq!((kept[1].until, kept[2].until), (Some(until), Some(short)));
    assert_eq!(kept[2].snapshot_until, short);
    assert_eq!(kept[1].rules.iter().collect::<Vec<_>>(), [Rule::OnDemand]);
    // It is the newest, so it stays until there is a newer one.
    assert_eq!(kept[2].removable_from(), None);
    // Without an end of its own, it counts as a point of the schedule.
    let points = [PointTimes::at(sunday("02:10")), PointTimes::at(sunday("12:00"))];
    assert!(evaluate(&policy, &history(&points))[1].rules.contains(Rule::Weekly));
}

#[test]
fn the_newest_good_point_is_never_removed() {
    let policy = daily_and("");
    let mut points = nights("2026-01-01", "2026-01-03", &[]);
    let late = at("2126-01-01 00:00[UTC]");
    let left = |points: &[PointTimes]| {
        let kept = evaluate(&policy, &history(points));
        (0..points.len()).filter(|index| !kept[*index].is_expired(late)).collect::<Vec<_>>()
    };
    assert_eq!(left(&points), [2]);
    points[2].good = false;
    assert_eq!(left(&points), [1]);
    points[0].good = false;
    points[1].good = false;
    assert_eq!(left(&points), [2]);
    points.swap(0, 2);
    assert_eq!(left(&points), [0]);
    assert!(left(&[]).is_empty());
}

#[test]
fn a_bad_point_keeps_its_tag_and_a_good_one_has_it_too() {
    let policy = daily_and(r#", "monthly": {"on": {"day": {"days": [1]}}, "months": 6}"#);
    let mut points = nights("2026-01-30", "2026-02-05", &[]);
    points[2].good = false;
    assert_eq!(
        borne(&policy, &points, Rule::Monthly),
        ["2026-02-01 through 2026-08-01", "2026-02-02 through 2026-08-01"]
    );
}

#[test]
fn for_ever_is_for_ever() {
    let policy = daily_and("");
    let points = nights("2026-01-01", "2026-01-03", &[]);
    let history = History { keep: Keep::ForEver, ..history(&points) };
    for kept in evaluate(&policy, &history) {
        assert_eq!((kept.until, kept.removable_from()), (None, None));
        assert!(kept.rules.contains(Rule::ForEver) && !kept.is_expired(Timestamp::MAX));
        assert!(kept.snapshot_until < at("2026-01-07 00:00[UTC]"));
    }
}

#[test]
fn the_ends_of_time_are_ends() {
    let points = [PointTimes::at(Timestamp::MIN), PointTimes::at(Timestamp::MAX)];
    for policy in [Policy::default_standard(), Policy::default_enhanced()] {
        let kept = evaluate(&policy, &history(&points));
        assert_eq!(kept[1].until, Some(Timestamp::MAX));
        assert!(kept[0].until < Some(at("0000-01-01 00:00[UTC]")));
    }
}

/// Points of some years, hours or days apart, some on demand, some bad.
fn some_points(chance: &mut Chance, count: usize) -> Vec<PointTimes> {
    let mut time = Timestamp::from_second(1_300_000_000).unwrap()
        + SignedDuration::from_mins(i64::try_from(chance.below(10 * 365 * 24 * 60)).unwrap());
    let apart = chance.one(&[6, 24, 24, 24, 50]);
    let mut points = Vec::new();
    for _ in 0..count {
        let minutes = 60 * apart + chance.below(60) - 30;
        let minutes = if chance.percent(5) { minutes * chance.below(60) + 1 } else { minutes };
        let before = time;
        time += SignedDuration::from_mins(i64::try_from(minutes).unwrap());
        let mut point = PointTimes::at(time);
        if chance.percent(30) {
            let back = SignedDuration::from_mins(i64::try_from(chance.below(180)).unwrap());
            point.occurrence = Some((time - back).max(before));
        }
        if chance.percent(8) {
            let hours = SignedDuration::from_hours(i64::try_from(chance.below(2000)).unwrap());
            point.on_demand_until = Some(time + hours);
        }
        point.good = !chance.percent(5);
        points.push(point);
    }
    points
}

/// The day that a point's tags are of.
fn day(policy: &Policy, point: &PointTimes) -> naive::Day {
    naive::day_of(point.occurrence.unwrap_or(point.time), policy.time_zone())
}

fn lasts(kept: &Kept, now: Timestamp) -> Timestamp {
    kept.until.unwrap().max(now)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_later_point_shortens_nothing(seed: u64, count in 1_usize..120, known in 1_usize..120) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let points = some_points(&mut chance, count);
        let known = known.min(count);
        let (before, after) = (
            evaluate(&policy, &history(&points[..known])),
            evaluate(&policy, &history(&points)),
        );
        for index in 0..known {
            // Unless it is of the same day, and takes the day's tags over.
            let same_day = points[known..].iter().any(|later| {
                later.on_demand_until.is_none() && day(&policy, later) == day(&policy, &points[index])
            });
            prop_assert!(same_day || after[index].until >= before[index].until);
        }
    }

    #[test]
    fn expiry_promotes_nobody(seed: u64, count in 1_usize..200, days in 0_i64..1500) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let points = some_points(&mut chance, count);
        let since = points[0].time;
        let whole = History { points: &points, protected_since: since, keep: Keep::AsPerPolicy };
        let all = evaluate(&policy, &whole);
        let now = points[count - 1].time + SignedDuration::from_hours(24 * days);
        let (left, expected): (Vec<_>, Vec<_>) = points
            .iter()
            .zip(&all)
            .filter(|(_, kept)| !kept.is_expired(now))
            .unzip();
        let after = evaluate(&policy, &History { points: &left, ..whole });
        for (after, expected) in after.iter().zip(expected) {
            prop_assert_eq!(lasts(after, now), lasts(expected, now));
            prop_assert!(!after.is_expired(now));
        }
    }

    #[test]
    fn removing_a_point_by_hand_shortens_no_other(seed: u64, count in 2_usize..100, removed: prop::sample::Index) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let points = some_points(&mut chance, count);
        let since = points[0].time;
        let whole = History { points: &points, protected_since: since, keep: Keep::AsPerPolicy };
        let mut before = evaluate(&policy, &whole);
        let mut left = points.clone();
        before.remove(removed.index(count));
        left.remove(removed.index(count));
        let after = evaluate(&policy, &History { points: &left, ..whole });
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(after.until >= before.until);
        }
    }

    #[test]
    fn a_point_that_turns_bad_shortens_no_other(seed: u64, count in 1_usize..100, bad: prop::sample::Index) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let mut points = some_points(&mut chance, count);
        let before = evaluate(&policy, &history(&points));
        let bad = bad.index(count);
        points[bad].good = false;
        let after = evaluate(&policy, &history(&points));
        let others_are_good = points.iter().filter(|point| !point.good).count() == 1;
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            // What stood in for another bad point, and is bad itself now, does so no more.
            let excepted = index == bad && !others_are_good;
            prop_assert!(excepted || after.until >= before.until);
        }
    }

    #[test]
    fn order_does_not_matter(seed: u64, count in 1_usize..100) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let points = some_points(&mut chance, count);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_cached_key(|_| chance.next());
        let mixed: Vec<_> = order.iter().map(|index| points[*index]).collect();
        let (straight, mixed) = (evaluate(&policy, &history(&points)), evaluate(&policy, &history(&mixed)));
        for (place, index) in order.iter().enumerate() {
            prop_assert_eq!(mixed[place], straight[*index]);
        }
    }

    #[test]
    fn what_holds_for_every_point(seed: u64, count in 1_usize..100) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let points = some_points(&mut chance, count);
        let kept = evaluate(&policy, &history(&points));
        let last = kept.iter().filter(|kept| kept.rules.contains(Rule::LastPoint)).count();
        prop_assert_eq!(last, 1);
        for (point, kept) in points.iter().zip(&kept) {
            prop_assert!(Some(kept.snapshot_until) <= kept.until);
            if let Some(until) = point.on_demand_until {
                prop_assert_eq!(kept.until, Some(until));
                continue;
            }
            let days = i64::from(policy.snapshot_retention_days());
            // The skipped day of Samoa is a day.
            let least = point.time + SignedDuration::from_hours(24 * (days - 1) - 1);
            prop_assert!(kept.snapshot_until >= least);
        }
    }

    #[test]
    fn retention_is_what_the_model_says(seed: u64, count in 1_usize..300) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let mut points = some_points(&mut chance, count);
        points.iter_mut().for_each(|point| point.good = true);
        let back = SignedDuration::from_hours(i64::try_from(chance.below(2000)).unwrap());
        let history = History { points: &points, protected_since: points[0].time - back, keep: Keep::AsPerPolicy };
        let expected = naive::evaluate(&Calendar::new(), &policy, &history);
        let found: Vec<_> = evaluate(&policy, &history).iter().map(|kept| kept.until.unwrap()).collect();
        prop_assert_eq!(found, expected);
    }
}
