//! Starts and catching up: spread, blackouts, downtime, clocks that jump.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use strongroom_policy::{Blackout, Due, Policy, PolicyRules, Run, Weekday};

use crate::tools::{Chance, at, daily_at, enhanced, standard, time};

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

/// Every night at 02:00 UTC, with such blackouts on every day.
fn nightly(spread_minutes: u16, blackouts: &[(&str, &str)]) -> Policy {
    let rules = standard(|rules| {
        rules.start_spread_minutes = spread_minutes;
        for (from, to) in blackouts {
            let weekdays = Weekday::ALL.into();
            rules.blackouts.push(Blackout { weekdays, from: time(from), to: time(to) });
        }
    });
    Policy::try_from(rules).unwrap()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("vm{n:03}")).collect()
}

#[test]
fn the_formula_of_the_spread_never_changes() {
    let policy = nightly(120, &[]);
    let occurrence = at("2026-11-22 02:00[UTC]");
    let starts = ["", "web01", "web02", "3f1c7a52-0f0e-4a0c-9a1e-0a6c6d1c2b11"].map(|item| {
        let start = policy.start_of(occurrence, item.as_bytes()).unwrap();
        start.duration_since(occurrence).as_secs()
    });
    assert_eq!(starts, STARTS);
}

/// Computed once by another program from the documented formula.
const STARTS: [i64; 4] = [6895, 547, 6219, 3935];

#[test]
fn starts_are_spread_evenly_and_each_item_keeps_its_own() {
    let policy = nightly(120, &[]);
    let occurrence = at("2026-11-22 02:00[UTC]");
    let mut quarters = [0; 8];
    for name in names(800) {
        let start = policy.start_of(occurrence, name.as_bytes()).unwrap();
        let offset = start.duration_since(occurrence).as_secs();
        quarters[usize::try_from(offset / 900).unwrap()] += 1;
        let tomorrow = policy.start_of(occurrence + hours(24), name.as_bytes()).unwrap();
        assert_eq!(tomorrow, occurrence + hours(24) + SignedDuration::from_secs(offset));
    }
    assert!(quarters.iter().all(|count| (70..=130).contains(count)), "{quarters:?}");

    let sharp = nightly(0, &[]);
    assert!(
        names(50)
            .iter()
            .all(|name| sharp.start_of(occurrence, name.as_bytes()) == Some(occurrence))
    );
}

#[test]
fn a_start_in_a_blackout_comes_after_it_spread_again() {
    let policy = nightly(120, &[("02:30", "05:00")]);
    let occurrence = at("2026-11-22 02:00[UTC]");
    let starts: Vec<_> = names(200)
        .iter()
        .map(|name| policy.start_of(occurrence, name.as_bytes()).unwrap())
        .collect();
    let (before, after): (Vec<_>, Vec<_>) =
        starts.into_iter().partition(|start| *start < occurrence + minutes(30));
    assert!((30..=70).contains(&before.len()), "{}", before.len());
    let end = occurrence + hours(3);
    assert!(after.iter().all(|start| (end..end + hours(2)).contains(start)));
    let first_minutes = after.iter().filter(|start| **start < end + minutes(10)).count();
    assert!(first_minutes < 40, "{first_minutes} at once");
}

#[test]
fn blackouts_one_behind_the_other_are_one() {
    let policy = nightly(
        60,
        &[("01:00", "03:00"), ("02:30", "04:00"), ("04:00", "04:30"), ("04:40", "06:00")],
    );
    let occurrence = at("2026-11-22 02:00[UTC]");
    for name in names(100) {
        let start = policy.start_of(occurrence, name.as_bytes()).unwrap();
        // In the ten minutes that are free.
        let free = at("2026-11-22 04:30[UTC]")..at("2026-11-22 04:40[UTC]");
        assert!(free.contains(&start), "{start}");
    }
}

#[test]
fn what_a_blackout_outlasts_is_left_to_the_next() {
    // Every 4 hours; nothing in working hours on weekdays, nor at the weekend.
    let weekdays = Weekday::ALL[..5].iter().copied().collect();
    let rules = enhanced(|rules| {
        rules.blackouts = vec![
            Blackout { weekdays, from: time("07:30"), to: time("17:30") },
            Blackout {
                weekdays: [Weekday::Saturday, Weekday::Sunday].into(),
                from: time("00:00"),
                to: time("00:00"),
            },
        ];
    });
    let policy = Policy::try_from(rules).unwrap();
    // A Friday.
    let runs = |from: &str, to: &str| {
        let (mut after, to) = (at(from), at(to));
        let mut starts = Vec::new();
        while let Some(run) = policy.next_start(after, b"web01").filter(|run| run.start < to) {
            starts.push(run.occurrence.strftime("%a %H:%M").to_string());
            after = run.start;
        }
        starts
    };
    assert_eq!(
        runs("2026-11-20 00:00[UTC]", "2026-11-24 07:00[UTC]"),
        // 12:00 on weekdays and all of the weekend but its end are left out.
        [
            "Fri 00:00",
            "Fri 04:00",
            "Fri 16:00",
            "Fri 20:00",
            "Mon 00:00",
            "Mon 04:00",
            "Mon 16:00",
            "Mon 20:00",
            "Tue 00:00",
            "Tue 04:00"
        ]
    );
    let weekend = at("2026-11-21 08:00[UTC]");
    assert_eq!(policy.start_of(weekend, b"web01"), None);
    let now = weekend + minutes(10);
    assert_eq!(policy.due(weekend - hours(1), now - minutes(5), now, b"web01"), Due::Nothing);
}

#[test]
fn a_blackout_keeps_to_the_clock() {
    let rules = standard(|rules| {
        rules.time_zone = "Europe/Berlin".to_owned();
        rules.schedule = daily_at(&["00:30"]);
        let weekdays = [Weekday::Saturday].into();
        rules.blackouts.push(Blackout { weekdays, from: time("22:00"), to: time("02:30") });
        rules.start_spread_minutes = 0;
    });
    let policy = Policy::try_from(rules).unwrap();
    let start = |date: &str| {
        let occurrence = at(&format!("{date} 00:30[Europe/Berlin]"));
        policy.start_of(occurrence, b"web01").unwrap()
    };
    assert_eq!(start("2026-11-22"), at("2026-11-22 02:30[Europe/Berlin]"));
    // 02:30 is skipped, and shown twice.
    assert_eq!(start("2026-03-29"), at("2026-03-29 03:00[Europe/Berlin]"));
    assert_eq!(start("2026-10-25"), at("2026-10-25 02:30+01:00[Europe/Berlin]"));
    assert_eq!(start("2026-11-21"), at("2026-11-21 00:30[Europe/Berlin]"));
}

#[test]
fn protecting_an_item_makes_nothing_due() {
    let policy = nightly(120, &[]);
    let protected = at("2026-11-22 10:00[UTC]");
    assert_eq!(policy.due(protected, protected, protected, b"web01"), Due::Nothing);
    let night = at("2026-11-23 02:00[UTC]");
    let run = policy.next_start(protected, b"web01").unwrap();
    assert_eq!(run.occurrence, night);
    for wait in [0, 1, 60, 23 * 60] {
        let now = night + minutes(wait);
        assert_eq!(policy.due(protected, protected, now, b"web01"), Due::Run { run, missed: 0 });
        assert_eq!(policy.due(night, protected, now, b"web01"), Due::Nothing);
    }
}

#[test]
fn after_years_without_power_everything_runs_once_and_not_at_once() {
    let policy = nightly(120, &[]);
    let handled = at("2016-11-22 02:00[UTC]");
    let awake = at("2026-11-22 12:00[UTC]");
    let mut starts = Vec::new();
    for name in names(500) {
        let first = policy.due(handled, awake, awake, name.as_bytes());
        let Due::Run { run, missed } = first else { panic!("{first:?}") };
        assert_eq!(run.occurrence, at("2026-11-22 02:00[UTC]"));
        assert_eq!(missed, 365 * 10 + 2 - 1);
        // Asking again and again puts nothing off.
        for wait in 0..=13 {
            let now = awake + hours(wait);
            assert_eq!(policy.due(handled, awake, now, name.as_bytes()), first);
        }
        assert_eq!(policy.due(run.occurrence, awake, run.start, name.as_bytes()), Due::Nothing);
        starts.push(run.start);
    }
    starts.sort_unstable();
    assert!(starts.iter().all(|start| (awake..awake + hours(2)).contains(start)));
    let most = (0..120)
        .map(|minute| {
            let from = awake + minutes(minute);
            starts.iter().filter(|start| (from..from + minutes(1)).contains(*start)).count()
        })
        .max();
    assert!(most < Some(15), "{most:?} in one minute");
}

#[test]
fn a_short_sleep_through_ones_own_start_only() {
    let policy = nightly(120, &[]);
    let night = at("2026-11-22 02:00[UTC]");
    let (handled, awake) = (night - hours(24), night + hours(1));
    for name in names(100) {
        let usual = policy.start_of(night, name.as_bytes()).unwrap();
        let due = policy.due(handled, awake, awake, name.as_bytes());
        let Due::Run { run, missed: 0 } = due else { panic!("{due:?}") };
        if usual >= awake {
            assert_eq!(run.start, usual);
        } else {
            assert!((awake..awake + hours(2)).contains(&run.start));
        }
    }
}

#[test]
fn what_is_missed_is_counted_without_what_blackouts_leave_out() {
    let weekdays = [Weekday::Saturday, Weekday::Sunday].into();
    let rules = PolicyRules {
        blackouts: vec![Blackout { weekdays, from: time("00:00"), to: time("00:00") }],
        start_spread_minutes: 0,
        ..PolicyRules::default_standard()
    };
    let policy = Policy::try_from(rules).unwrap();
    // Monday to Monday: Tuesday to Friday are missed, Saturday is left out, Sunday's comes on Monday.
    let (handled, now) = (at("2026-11-16 02:00[UTC]"), at("2026-11-23 09:00[UTC]"));
    let run = Run { occurrence: at("2026-11-23 02:00[UTC]"), start: now };
    assert_eq!(policy.due(handled, now, now, b"web01"), Due::Run { run, missed: 5 });
    let far = Policy::default_enhanced();
    let now = at("2126-11-23 09:00[UTC]");
    let Due::Run { missed, .. } = far.due(handled, now, now, b"web01") else { panic!() };
    assert_eq!(missed, strongroom_policy::MAX_MISSED);
}

#[test]
fn a_clock_that_jumps_makes_no_burst_and_no_silence() {
    let policy = nightly(120, &[]);
    let mut handled = at("2026-11-22 02:00[UTC]");
    // It jumps nine years ahead, and the caller sees it.
    let wrong = at("2035-06-01 12:00[UTC]");
    let Due::Run { run, .. } = policy.due(handled, wrong, wrong, b"web01") else { panic!() };
    assert!(run.start >= wrong);
    handled = run.occurrence;
    assert_eq!(policy.due(handled, wrong, run.start, b"web01"), Due::Nothing);
    // It is set right; the caller may not have seen it.
    let right = at("2026-11-22 15:00[UTC]");
    let back = Due::ClockWentBack { handled_until: right };
    assert_eq!(policy.due(handled, wrong, right, b"web01"), back);
    handled = right;
    assert_eq!(policy.due(handled, wrong, right, b"web01"), Due::Nothing);
    let night = at("2026-11-23 02:00[UTC]");
    let due = policy.due(handled, wrong, night, b"web01");
    let run = Run { occurrence: night, start: policy.start_of(night, b"web01").unwrap() };
    assert_eq!(due, Due::Run { run, missed: 0 });
    // It is set back by minutes, over the occurrence: nothing is repeated.
    assert_eq!(policy.due(night, night, night - minutes(5), b"web01"), Due::Nothing);
}

/// What a host does that asks every few minutes, with a clock that does what it likes.
struct Host {
    handled: Timestamp,
    awake: Timestamp,
    starts: usize,
}

impl Host {
    fn tick(&mut self, policy: &Policy, now: Timestamp) {
        match policy.due(self.handled, self.awake, now, b"vm") {
            Due::ClockWentBack { handled_until } => self.handled = handled_until,
            Due::Run { run, .. } if run.start <= now => {
                self.handled = run.occurrence;
                self.starts += 1;
            }
            Due::Run { .. } | Due::Nothing => (),
        }
    }
}

proptest! {
    #[test]
    fn starts_keep_their_place(seed: u64, item: Vec<u8>, from in 1_200_000_000_i64..1_900_000_000) {
        let policy = Chance::new(seed).policy();
        let from = Timestamp::from_second(from).unwrap();
        let to = from + hours(24 * 30);
        let mut last = from - hours(1);
        let mut previous_skipped = 0;
        for occurrence in policy.occurrences(from, to) {
            let next = policy.next_occurrence(occurrence).unwrap();
            let Some(start) = policy.start_of(occurrence, &item) else {
                previous_skipped += 1;
                continue;
            };
            prop_assert!(occurrence <= start && start < next);
            prop_assert!(start > last);
            prop_assert!(!in_blackout(&policy, start), "{} {:?}", start, policy.rules());
            if last >= from {
                let run = Run { occurrence, start };
                prop_assert_eq!(policy.next_start(last, &item), Some(run));
                prop_assert_eq!(policy.next_start(start - SignedDuration::from_nanos(1), &item), Some(run));
            }
            last = start;
        }
        prop_assert!(last >= from, "never in 30 days: {} skipped", previous_skipped);
    }

    #[test]
    fn downtime_of_any_length_is_made_up_for_once(
        seed: u64,
        from in 1_200_000_000_i64..1_900_000_000,
        down_hours in 0_i64..3000,
        ticks in 1_i64..40,
    ) {
        let policy = Chance::new(seed).policy();
        let handled = Timestamp::from_second(from).unwrap();
        let awake = handled + hours(down_hours);
        let mut host = Host { handled, awake, starts: 0 };
        let limit = policy.next_occurrence(awake).unwrap();
        let mut now = awake;
        while now < limit {
            host.tick(&policy, now);
            now += minutes(ticks);
        }
        prop_assert!(host.starts <= 1);
        let unhandled = policy.last_occurrence(awake).is_some_and(|newest| newest > handled);
        let free = policy.rules().blackouts.is_empty();
        if unhandled && free && limit.duration_since(awake) > hours(8) {
            // The spread is at most 6 hours, and there is a tick after it.
            prop_assert_eq!(host.starts, 1);
        }
        if !unhandled {
            prop_assert_eq!(host.starts, 0);
        }
    }

    #[test]
    fn clocks_that_jump_make_no_burst(seed: u64, jumps in prop::collection::vec(-4000_i64..4000, 1..12)) {
        let mut chance = Chance::new(seed);
        let policy = chance.policy();
        let mut now = Timestamp::from_second(1_700_000_000).unwrap();
        let mut host = Host { handled: now, awake: now, starts: 0 };
        for jump in &jumps {
            now += hours(*jump);
            host.awake = if chance.percent(50) { now } else { host.awake };
            let before = host.starts;
            let limit = policy.next_occurrence(now).unwrap();
            for _ in 0..20 {
                host.tick(&policy, now);
                now += SignedDuration::from_secs(7);
            }
            let crossed = usize::from(now > limit);
            prop_assert!(host.starts - before <= 1 + crossed);
        }
        // And none of them makes it silent: within two occurrences of a steady clock, and what
        // blackouts leave out of a week, there is a backup.
        let before = host.starts;
        let end = now + hours(24 * 15);
        while now < end {
            host.tick(&policy, now);
            now += minutes(30);
        }
        prop_assert!(host.starts > before);
    }
}

fn in_blackout(policy: &Policy, moment: Timestamp) -> bool {
    let shown = moment.to_zoned(policy.time_zone().clone());
    let minute = i32::from(shown.hour()) * 60 + i32::from(shown.minute());
    let today = Weekday::of(shown.date());
    let yesterday = Weekday::of(shown.date().yesterday().unwrap());
    policy.rules().blackouts.iter().any(|blackout| {
        let (from, to) = (i32::from(blackout.from.minutes()), i32::from(blackout.to.minutes()));
        let crosses = to <= from;
        let begun =
            blackout.weekdays.contains(&today) && minute >= from && (crosses || minute < to);
        let left = crosses && blackout.weekdays.contains(&yesterday) && minute < to;
        begun || left
    })
}
