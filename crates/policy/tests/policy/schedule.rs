//! Occurrences: summer time, skipped days, changed laws; and every minute of years, looked at.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use strongroom_policy::{Policy, PolicyKind, Schedule, Weekday};

use crate::{
    naive,
    tools::{Chance, ZONES, at, daily_at, enhanced, local, time},
};

fn scheduled(zone: &str, schedule: Schedule) -> Policy {
    let weekly = matches!(schedule, Schedule::Weekly { .. });
    let rules = enhanced(|rules| {
        rules.time_zone = zone.to_owned();
        rules.snapshot_retention_days = None;
        if weekly {
            rules.retention.daily = None;
            rules.retention.monthly = None;
            rules.retention.yearly = None;
        }
        if let Schedule::Weekly { weekdays, .. } = &schedule {
            rules.retention.weekly.as_mut().unwrap().weekdays.clone_from(weekdays);
        }
        rules.schedule = schedule;
    });
    Policy::try_from(rules).unwrap()
}

/// The occurrences of some days, as the zone's clock shows them.
fn shown(zone: &str, schedule: Schedule, from: &str, to: &str) -> Vec<String> {
    let at_midnight = |date: &str| at(&format!("{date} 00:00[{zone}]"));
    let policy = scheduled(zone, schedule);
    policy
        .occurrences(at_midnight(from), at_midnight(to))
        .map(|occurrence| local(occurrence, zone))
        .collect()
}

#[test]
fn a_time_that_is_skipped_comes_when_the_clock_has_jumped() {
    assert_eq!(
        shown("Europe/Berlin", daily_at(&["02:30"]), "2026-03-28", "2026-03-31"),
        ["2026-03-28 02:30+01:00", "2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"]
    );
    assert_eq!(
        shown("America/New_York", daily_at(&["02:00"]), "2026-03-08", "2026-03-09"),
        ["2026-03-08 03:00-04:00"]
    );
    // Half an hour of summer time.
    assert_eq!(
        shown("Australia/Lord_Howe", daily_at(&["02:15"]), "2026-10-03", "2026-10-06"),
        ["2026-10-03 02:15+10:30", "2026-10-04 02:30+11:00", "2026-10-05 02:15+11:00"]
    );
    // Midnight itself was skipped.
    assert_eq!(
        shown("America/Sao_Paulo", daily_at(&["00:00"]), "2018-11-03", "2018-11-05"),
        ["2018-11-03 00:00-03:00", "2018-11-04 01:00-02:00"]
    );
}

#[test]
fn times_that_are_skipped_together_are_one() {
    assert_eq!(
        shown("Europe/Berlin", daily_at(&["02:00", "02:30", "03:00"]), "2026-03-29", "2026-03-30"),
        ["2026-03-29 03:00+02:00"]
    );
}

#[test]
fn a_time_that_is_shown_twice_comes_once() {
    assert_eq!(
        shown("Europe/Berlin", daily_at(&["02:30"]), "2026-10-24", "2026-10-27"),
        ["2026-10-24 02:30+02:00", "2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"]
    );
    assert_eq!(
        shown("Australia/Lord_Howe", daily_at(&["01:45"]), "2026-04-05", "2026-04-06"),
        ["2026-04-05 01:45+11:00"]
    );
    // 23:30 of the day before was shown again.
    assert_eq!(
        shown("America/Sao_Paulo", daily_at(&["23:30"]), "2018-02-17", "2018-02-19"),
        ["2018-02-17 23:30-02:00", "2018-02-18 23:30-03:00"]
    );
}

#[test]
fn hourly_windows_keep_to_the_clock() {
    let every_4 =
        Schedule::Hourly { every_hours: 4, window_start: time("08:00"), window_hours: 24 };
    assert_eq!(
        shown("Europe/Berlin", every_4.clone(), "2026-03-29", "2026-03-30"),
        [
            "2026-03-29 00:00+01:00",
            "2026-03-29 04:00+02:00",
            "2026-03-29 08:00+02:00",
            "2026-03-29 12:00+02:00",
            "2026-03-29 16:00+02:00",
            "2026-03-29 20:00+02:00"
        ]
    );
    assert_eq!(shown("Europe/Berlin", every_4.clone(), "2026-10-25", "2026-10-26").len(), 6);
    assert_eq!(shown("Asia/Tokyo", every_4, "2026-01-01", "2027-01-01").len(), 6 * 365);
    // A window of 12 hours has its end not in it.
    let window = Schedule::Hourly { every_hours: 4, window_start: time("20:00"), window_hours: 12 };
    assert_eq!(
        shown("UTC", window, "2026-01-01", "2026-01-02"),
        ["2026-01-01 00:00+00:00", "2026-01-01 04:00+00:00", "2026-01-01 20:00+00:00"]
    );
}

#[test]
fn ramadan_moves_the_clocks_of_morocco() {
    // Back by an hour on 15 February 2026, forward again on 22 March.
    assert_eq!(
        shown("Africa/Casablanca", daily_at(&["02:30"]), "2026-02-14", "2026-02-17"),
        ["2026-02-14 02:30+01:00", "2026-02-15 02:30+01:00", "2026-02-16 02:30+00:00"]
    );
    assert_eq!(
        shown("Africa/Casablanca", daily_at(&["02:30"]), "2026-03-22", "2026-03-23"),
        ["2026-03-22 03:00+01:00"]
    );
}

#[test]
fn brazil_has_given_summer_time_up() {
    let shown = shown("America/Sao_Paulo", daily_at(&["00:30"]), "2018-01-01", "2022-01-01");
    assert_eq!(shown.len(), 365 * 4 + 1);
    let moved: Vec<_> = shown.iter().filter(|shown| !shown.contains(" 00:30")).collect();
    assert_eq!(moved, ["2018-11-04 01:00-02:00"]);
}

#[test]
fn samoa_had_no_30_december_2011() {
    // The skipped day's backup comes when the calendar has jumped over it; nothing is lost.
    assert_eq!(
        shown("Pacific/Apia", daily_at(&["02:00"]), "2011-12-29", "2012-01-01"),
        ["2011-12-29 02:00-10:00", "2011-12-31 00:00+14:00", "2011-12-31 02:00+14:00"]
    );
    // It was a Friday.
    let fridays =
        Schedule::Weekly { weekdays: [Weekday::Friday].into(), times: [time("02:00")].into() };
    assert_eq!(
        shown("Pacific/Apia", fridays, "2011-12-20", "2012-01-08"),
        ["2011-12-23 02:00-10:00", "2011-12-31 00:00+14:00", "2012-01-06 02:00+14:00"]
    );
}

#[test]
fn the_ends_of_time_are_ends() {
    for policy in [Policy::default_standard(), Policy::default_enhanced()] {
        assert!(policy.last_occurrence(Timestamp::MIN).is_none_or(|it| it == Timestamp::MIN));
        assert_eq!(policy.next_occurrence(Timestamp::MAX), None);
        assert!(policy.next_occurrence(Timestamp::MIN).is_some());
        assert!(policy.last_occurrence(Timestamp::MAX).is_some());
        assert_eq!(policy.next_start(Timestamp::MAX, b"vm"), None);
        assert_eq!(policy.occurrences(Timestamp::MAX, Timestamp::MIN).next(), None);
    }
}

/// Every minute of the years in which something happened, in every zone.
#[test]
fn schedules_are_what_the_clock_shows() {
    let mut chance = Chance::new(1);
    let mut occurrences = 0;
    for zone in ZONES {
        for (from, to) in [
            ("2011-12-01", "2012-05-01"),
            ("2018-01-15", "2018-12-01"),
            ("2026-01-01", "2027-01-01"),
        ] {
            let schedule = chance.schedule(PolicyKind::Enhanced);
            let night = daily_at(&["00:00", "00:30", "01:45", "02:00", "02:30", "23:30"]);
            for schedule in [schedule, night] {
                let policy = scheduled(zone, schedule);
                let [from, to] = [from, to].map(|date| at(&format!("{date} 00:00[UTC]")));
                let expected = naive::occurrences(&policy, from, to);
                let found: Vec<_> = policy.occurrences(from, to).collect();
                assert_eq!(found, expected, "{zone} {:?}", policy.schedule());
                occurrences += found.len();
            }
        }
    }
    println!("{occurrences} occurrences in {} zones are what the clock showed", ZONES.len());
}

proptest! {
    #[test]
    fn occurrences_are_the_same_from_everywhere(seed: u64, from in 1_200_000_000_i64..1_900_000_000) {
        let policy = Chance::new(seed).policy();
        let from = Timestamp::from_second(from).unwrap();
        let to = from + SignedDuration::from_hours(24 * 40);
        let all: Vec<_> = policy.occurrences(from, to).collect();
        prop_assert!(all.len() >= 5);
        prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        let nano = SignedDuration::from_nanos(1);
        prop_assert_eq!(policy.next_occurrence(from - nano), Some(all[0]));
        for pair in all.windows(2) {
            prop_assert_eq!(policy.next_occurrence(pair[0]), Some(pair[1]));
            prop_assert_eq!(policy.next_occurrence(pair[1] - nano), Some(pair[1]));
            prop_assert_eq!(policy.last_occurrence(pair[1] - nano), Some(pair[0]));
            prop_assert_eq!(policy.last_occurrence(pair[1]), Some(pair[1]));
            let middle = policy.occurrences(pair[0], pair[1] + nano).collect::<Vec<_>>();
            prop_assert_eq!(middle, pair);
        }
    }
}
