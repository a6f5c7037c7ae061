//! Ten years of five hundred machines, each with a policy of its own, on hosts that fail.
//!
//! Every machine's backups are asked for as a scheduler would; hosts are down for hours or weeks, and
//! backups fail. Every day what has expired is removed. Afterwards the naive model, which knows all
//! points that there ever were, says of each whether it was there on each day: it must have been
//! exactly then.

use std::{thread, time::Instant};

use jiff::{SignedDuration, Timestamp};
use strongroom_policy::{Due, History, Keep, PointTimes, Policy, Rule, Schedule, evaluate};

use crate::{
    naive::{self, Calendar},
    tools::Chance,
};

const ITEMS: u64 = 500;
const DAYS: i64 = 3653;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What was seen, to be printed, and to show that something was tested.
#[derive(Default, Debug)]
struct Counts {
    occurrences: usize,
    on_time: usize,
    late: usize,
    missed: usize,
    left_out: usize,
    failed: usize,
    points: usize,
    evaluated: usize,
    removed: usize,
    stood_in: usize,
    most_points: usize,
}

/// A point that was made, and when it was removed.
struct Made {
    times: PointTimes,
    removed: Option<Timestamp>,
}

struct Machine<'a> {
    policy: &'a Policy,
    name: String,
    chance: Chance,
    /// When its host is down.
    outages: Vec<(Timestamp, Timestamp)>,
    begun: Timestamp,
    /// The next time that what has expired is removed.
    cleaning: Timestamp,
    made: Vec<Made>,
    /// The points that exist, and their places in `made`.
    points: Vec<PointTimes>,
    places: Vec<usize>,
    counts: Counts,
}

impl<'a> Machine<'a> {
    fn new(policy: &'a Policy, number: u64) -> Self {
        let mut chance = Chance::new(number.wrapping_mul(77));
        let minutes = |minutes: u64| SignedDuration::from_mins(i64::try_from(minutes).unwrap());
        let begun =
            Timestamp::from_second(1_450_000_000).unwrap() + minutes(chance.below(400 * 24 * 60));
        let mut outages = Vec::new();
        let mut time = begun;
        while time < begun + DAY * i32::try_from(DAYS).unwrap() {
            let from = time + minutes(1 + chance.below(120 * 24 * 60));
            let longest = chance.one(&[60, 12 * 60, 12 * 60, 3 * 24 * 60, 40 * 24 * 60]);
            time = from + minutes(1 + chance.below(longest));
            outages.push((from, time));
        }
        Self {
            policy,
            name: format!("vm{number:03}"),
            chance,
            outages,
            begun,
            cleaning: begun + DAY,
            made: Vec::new(),
            points: Vec::new(),
            places: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn end(&self) -> Timestamp {
        self.begun + DAY * i32::try_from(DAYS).unwrap()
    }

    /// The outage that covers some of the time from `from` through `to`.
    fn outage(&self, from: Timestamp, to: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let index = self.outages.partition_point(|(_, end)| *end <= from);
        self.outages.get(index).copied().filter(|(begin, _)| *begin <= to)
    }

    /// Lives for ten years, as its scheduler has it.
    fn live(&mut self) {
        let (mut now, mut handled, mut awake) = (self.begun, self.begun, self.begun);
        let mut runs = Vec::new();
        while now < self.end() {
            let due = self.policy.due(handled, awake, now, self.name.as_bytes());
            let (until, run) = match due {
                Due::Run { run, missed } => (run.start.max(now), Some((run, missed))),
                Due::Nothing => (self.policy.next_occurrence(now).expect("a next one"), None),
                Due::ClockWentBack { .. } => panic!("it did not"),
            };
            if let Some((_, end)) = self.outage(now, until) {
                (now, awake) = (end, end);
                self.clean_until(now);
                continue;
            }
            self.clean_until(until);
            now = until;
            let Some((run, missed)) = run else { continue };
            // A run may have come due that replaces this one.
            if self.policy.last_occurrence(now) != Some(run.occurrence) {
                continue;
            }
            assert!(run.occurrence > handled, "each occurrence once");
            self.counts.missed += usize::try_from(missed).unwrap();
            handled = run.occurrence;
            runs.push((run.occurrence, now));
            if self.chance.percent(4) {
                self.counts.failed += 1;
            } else {
                let minutes = i64::try_from(self.chance.below(20)).unwrap();
                let time = (now + SignedDuration::from_mins(minutes)).min(self.cleaning);
                self.keep(PointTimes::scheduled(time, run.occurrence));
            }
        }
        self.check_runs(&runs);
    }

    fn keep(&mut self, times: PointTimes) {
        self.points.push(times);
        self.places.push(self.made.len());
        self.made.push(Made { times, removed: None });
        self.counts.most_points = self.counts.most_points.max(self.points.len());
    }

    /// Removes once a day what has expired.
    fn clean_until(&mut self, now: Timestamp) {
        while self.cleaning <= now.min(self.end()) {
            let history = History {
                points: &self.points,
                protected_since: self.begun,
                keep: Keep::AsPerPolicy,
            };
            let kept = evaluate(self.policy, &history);
            self.counts.evaluated += kept.len();
            for index in (0..kept.len()).rev() {
                if kept[index].is_expired(self.cleaning) {
                    self.points.remove(index);
                    let place = self.places.remove(index);
                    self.made[place].removed = Some(self.cleaning);
                    self.counts.removed += 1;
                }
            }
            if self.chance.percent(1) {
                let time = self.cleaning + SignedDuration::from_secs(1);
                let days = i32::from(self.chance.between(1, 60));
                self.keep(PointTimes::on_demand(time, time + DAY * days));
            }
            self.cleaning += DAY;
        }
    }

    /// What was up when its start came was backed up then; what was not, not more than once.
    fn check_runs(&mut self, runs: &[(Timestamp, Timestamp)]) {
        let mut found = runs.iter().copied().peekable();
        for occurrence in self.policy.occurrences(self.begun, self.end()) {
            if occurrence == self.begun {
                continue;
            }
            self.counts.occurrences += 1;
            let began =
                found.next_if(|(made_for, _)| *made_for == occurrence).map(|(_, began)| began);
            let Some(start) = self.policy.start_of(occurrence, self.name.as_bytes()) else {
                assert_eq!(began, None, "a blackout left it out");
                self.counts.left_out += 1;
                continue;
            };
            let next = self.policy.next_occurrence(occurrence).unwrap();
            if start < self.end() && self.outage(occurrence, start).is_none() {
                assert_eq!(began, Some(start), "{occurrence} of {}", self.name);
                self.counts.on_time += 1;
            } else if let Some(began) = began {
                assert!(occurrence <= began && began < next);
                self.counts.late += 1;
            }
        }
        assert_eq!(found.next(), None, "runs without an occurrence");
    }

    /// Every point was there on exactly the days on which the model has it.
    fn check_retention(&mut self, calendar: &Calendar) {
        self.made.sort_by_key(|made| made.times.time);
        let points: Vec<_> = self.made.iter().map(|made| made.times).collect();
        let history =
            History { points: &points, protected_since: self.begun, keep: Keep::AsPerPolicy };
        let through = naive::through(calendar, self.policy, &history);
        let zone = self.policy.time_zone();
        let last_cleaning = self.cleaning - DAY;
        for (index, made) in self.made.iter().enumerate() {
            let expired = |now: Timestamp| {
                let newest = points.get(index + 1).is_none_or(|newer| newer.time > now);
                let over = match made.times.on_demand_until {
                    Some(until) => until <= now,
                    None => naive::day_of(now, zone) > through[index],
                };
                over && !newest
            };
            let before = made.removed.map_or(last_cleaning, |removed| removed - DAY);
            let what = || format!("{} of {}: {:?}", made.times.time, self.name, self.policy);
            assert!(made.removed.is_none_or(expired), "removed too early: {}", what());
            let there = made.times.time > before || !expired(before);
            assert!(there, "removed too late, or not: {}", what());
        }
        self.counts.points += points.len();
        self.counts.stood_in += evaluate(self.policy, &history)
            .iter()
            .zip(&points)
            .filter(|(kept, point)| {
                kept.rules.contains(Rule::Weekly) && stands_in(self.policy, point)
            })
            .count();
    }
}

/// Whether a point that bears a weekly tag is of no day that has one.
fn stands_in(policy: &Policy, point: &PointTimes) -> bool {
    let day = naive::day_of(point.occurrence.unwrap_or(point.time), policy.time_zone());
    let weekly = policy.retention().weekly.as_ref();
    weekly.is_some_and(|weekly| !weekly.weekdays.contains(&Calendar::weekday(day)))
}

/// A policy for ten years: most are for one backup a day or less, as most policies are.
fn some_policy(number: u64) -> Policy {
    let mut chance = Chance::new(number);
    loop {
        let policy = chance.policy();
        let often = match policy.schedule() {
            Schedule::Hourly { .. } => true,
            Schedule::Daily { times } | Schedule::Weekly { times, .. } => times.len() > 1,
        };
        if !often || chance.percent(30) {
            return policy;
        }
    }
}

#[test]
fn ten_years_of_five_hundred_machines() {
    let started = Instant::now();
    let calendar = Calendar::new();
    let live = |numbers: Vec<u64>| {
        let live = |number: &u64| {
            let policy = some_policy(*number);
            let mut machine = Machine::new(&policy, *number);
            machine.live();
            machine.check_retention(&calendar);
            machine.counts
        };
        numbers.iter().map(live).collect::<Vec<_>>()
    };
    let all: Vec<Counts> = thread::scope(|scope| {
        let halves = [0, 1].map(|half| (0..ITEMS).filter(|n| n % 2 == half).collect::<Vec<_>>());
        let threads = halves.map(|half| scope.spawn(|| live(half)));
        threads.into_iter().flat_map(|thread| thread.join().expect("all well")).collect()
    });
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    println!("{ITEMS} machines, {DAYS} days each, in {:.1} s:", started.elapsed().as_secs_f64());
    println!(
        "  {} occurrences: {} on time, {} caught up, {} missed, {} left out by blackouts",
        sum(|it| it.occurrences),
        sum(|it| it.on_time),
        sum(|it| it.late),
        sum(|it| it.missed),
        sum(|it| it.left_out),
    );
    println!(
        "  {} points made, {} backups failed, {} points removed, {} times a point stood in for a week's",
        sum(|it| it.points),
        sum(|it| it.failed),
        sum(|it| it.removed),
        sum(|it| it.stood_in),
    );
    println!(
        "  {} times a point was evaluated; at most {} points of one machine",
        sum(|it| it.evaluated),
        all.iter().map(|it| it.most_points).max().unwrap_or(0),
    );
    assert!(sum(|it| it.late) > 5_000 && sum(|it| it.missed) > 10_000);
    assert!(sum(|it| it.left_out) > 5_000 && sum(|it| it.stood_in) > 1_000);
    assert!(sum(|it| it.removed) > 1_000_000);
}
