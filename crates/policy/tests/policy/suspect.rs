//! Which points are suspect: days of servers that nobody must be alarmed about, and days of ransomware.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use strongroom_base::{JumpKind, LastBefore, NewContent, PointId, Suspicion};
use strongroom_policy::{Measured, MeasuredDisk, is_worth_judging, judge};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The points of an item, each an hour or a day after the one before.
struct Item {
    points: Vec<Measured>,
    used: u64,
    now: Timestamp,
}

impl Item {
    /// A new item of one disk with 30 GiB in use: everything is new in its first point.
    fn new() -> Self {
        let used = 30 * GIB;
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut item = Self { points: Vec::new(), used, now };
        let first = item.measured(vec![MeasuredDisk { new_content: None, ..item.disk(0, 0) }]);
        item.points.push(first);
        item
    }

    fn disk(&self, new: u64, incompressible: u64) -> MeasuredDisk {
        MeasuredDisk {
            name: "vda".to_owned(),
            size_bytes: 100 * GIB,
            allocated_bytes: Some(self.used),
            new_content: Some(NewContent { bytes: new, incompressible_bytes: incompressible }),
        }
    }

    fn measured(&self, disks: Vec<MeasuredDisk>) -> Measured {
        let number = u128::try_from(self.points.len()).unwrap() + 1;
        let id = PointId::from_bytes(number.to_be_bytes());
        Measured { id, time: self.now, disks, suspect_after: None }
    }

    /// A backup so many hours later.
    fn after(&mut self, hours: i64, new: u64, incompressible: u64) -> Option<Suspicion> {
        self.now += SignedDuration::from_hours(hours);
        let mut point = self.measured(vec![self.disk(new, incompressible)]);
        let found = judge(&point, &self.points);
        assert!(found.is_none() || is_worth_judging(&point.disks));
        point.suspect_after = found.as_ref().map(|suspicion| suspicion.last_before);
        self.points.push(point);
        found
    }

    fn day(&mut self, new: u64, incompressible: u64) -> Option<Suspicion> {
        self.after(24, new, incompressible)
    }

    fn quiet_days(&mut self, days: u64) {
        for day in 0..days {
            assert_eq!(self.day(200 * MIB + day * MIB, (day % 7) * 3 * MIB), None, "day {day}");
        }
    }
}

#[test]
fn a_disk_encrypted_in_one_night_is_suspect_and_the_point_before_is_named() {
    let mut item = Item::new();
    item.quiet_days(10);
    let last = item.points.last().unwrap().clone();
    let found = item.day(26 * GIB, 25 * GIB).expect("suspect");
    assert_eq!(found.last_before, LastBefore { id: last.id, time: last.time });
    let [jump] = &found.jumps[..] else { panic!("{found:?}") };
    assert_eq!((jump.disk.as_str(), jump.kind), ("vda", JumpKind::Incompressible));
    assert_eq!(
        (jump.bytes, jump.usual_bytes, jump.most_bytes, jump.points),
        (25 * GIB, 6 * MIB, 18 * MIB, 10)
    );
}

#[test]
fn a_part_of_a_disk_is_enough_if_it_is_an_eighth_of_what_is_in_use() {
    for (amount, suspect) in [(3 * GIB, false), (4 * GIB, true)] {
        let mut item = Item::new();
        item.quiet_days(10);
        assert_eq!(item.day(amount, amount).is_some(), suspect, "{amount}");
    }
}

#[test]
fn ransomware_that_works_for_nights_names_the_point_before_the_first() {
    let mut item = Item::new();
    item.quiet_days(10);
    let last = item.points.last().unwrap().id;
    assert_eq!(item.day(5 * GIB, 5 * GIB).expect("suspect").last_before.id, last);
    assert_eq!(item.day(12 * GIB, 12 * GIB).expect("suspect").last_before.id, last);
}

#[test]
fn the_first_points_are_never_suspect() {
    let mut item = Item::new();
    for _ in 0..7 {
        assert_eq!(item.day(200 * MIB, 2 * MIB), None);
        let mut other = Item { points: item.points[1..].to_vec(), ..Item::new() };
        other.now = item.now;
        assert_eq!(other.day(30 * GIB, 30 * GIB).is_some(), other.points.len() > 7);
    }
    // A disk that was added has no history of its own.
    let mut point = item.measured(vec![item.disk(0, 0)]);
    point.disks.push(MeasuredDisk { name: "vdb".to_owned(), ..item.disk(30 * GIB, 30 * GIB) });
    assert_eq!(judge(&point, &item.points), None);
}

#[test]
fn an_upgrade_of_the_system_is_not_suspect() {
    let mut item = Item::new();
    item.quiet_days(10);
    // A third of it are packages that were loaded; what they install compresses.
    assert_eq!(item.day(9 * GIB, 3 * GIB), None);
    // Also where it is more than an eighth of the disk, it is less than half of what is new.
    assert_eq!(item.day(20 * GIB, 8 * GIB), None);
}

#[test]
fn a_database_that_never_compresses_is_judged_by_its_amount() {
    let mut item = Item::new();
    for _ in 0..10 {
        assert_eq!(item.day(2 * GIB, 2 * GIB), None);
    }
    assert_eq!(item.day(5 * GIB, 5 * GIB), None, "a busy day");
    let found = item.day(24 * GIB, 24 * GIB).expect("suspect");
    assert_eq!(found.jumps[0].kind, JumpKind::Amount);
}

#[test]
fn jobs_that_were_seen_are_not_suspect() {
    // A compressed dump each Sunday, of a growing database, and hourly backups between.
    let mut item = Item::new();
    for hour in 0..5 * 7 * 24_u64 {
        let dump = if hour % 168 == 100 { 6 * GIB + hour * MIB } else { 0 };
        let found = item.after(1, 20 * MIB + dump, MIB + dump);
        assert_eq!(found.is_some(), hour == 100, "hour {hour}: only the first one: {found:?}");
    }
    assert!(item.after(1, 28 * GIB, 28 * GIB).is_some(), "much more than the dumps");
}

#[test]
fn what_came_together_while_no_backups_were_made_is_not_suspect() {
    let mut item = Item::new();
    for _ in 0..20 {
        assert_eq!(item.day(GIB, GIB / 2), None);
    }
    assert_eq!(item.after(24 * 12, 12 * GIB, 6 * GIB), None);
    let mut item = Item::new();
    for _ in 0..20 {
        assert_eq!(item.day(GIB, GIB / 2), None);
    }
    assert!(item.after(24, 12 * GIB, 6 * GIB).is_some(), "in one day it is");
}

#[test]
fn a_small_noisy_disk_is_not_suspect() {
    let mut item = Item { used: 100 * MIB, ..Item::new() };
    for _ in 0..10 {
        assert_eq!(item.day(MIB, 0), None);
    }
    assert_eq!(item.day(63 * MIB, 63 * MIB), None);
}

#[test]
fn an_item_that_is_backed_up_monthly_has_a_history_too() {
    let mut item = Item::new();
    for _ in 0..8 {
        assert_eq!(item.after(24 * 30, 4 * GIB, 100 * MIB), None);
    }
    assert!(item.after(24 * 30, 28 * GIB, 27 * GIB).is_some());
}

#[test]
fn points_of_earlier_programs_are_no_history() {
    let mut item = Item::new();
    item.quiet_days(10);
    for point in &mut item.points {
        point.disks[0].new_content = None;
    }
    assert_eq!(item.day(28 * GIB, 28 * GIB), None);
}

#[test]
fn all_disks_that_jumped_are_named_the_largest_first() {
    let mut item = Item::new();
    let two = |item: &Item, amounts: [u64; 2]| {
        let [vda, vdb] = amounts.map(|amount| item.disk(amount, amount));
        vec![vda, MeasuredDisk { name: "vdb".to_owned(), ..vdb }]
    };
    for _ in 0..10 {
        item.now += SignedDuration::from_hours(24);
        let point = item.measured(two(&item, [MIB, MIB]));
        item.points.push(point);
    }
    item.now += SignedDuration::from_hours(24);
    let point = item.measured(two(&item, [10 * GIB, 20 * GIB]));
    let found = judge(&point, &item.points).expect("suspect");
    let names: Vec<&str> = found.jumps.iter().map(|jump| jump.disk.as_str()).collect();
    assert_eq!(names, ["vdb", "vda"]);
}

fn new_content() -> impl Strategy<Value = Option<NewContent>> {
    proptest::option::weighted(0.9, (0..40 * GIB, 0..=100_u64)).prop_map(|new| {
        let (bytes, percent) = new?;
        Some(NewContent { bytes, incompressible_bytes: bytes / 100 * percent })
    })
}

/// Histories of one disk, with pauses of hours.
fn history() -> impl Strategy<Value = Vec<(i64, Option<NewContent>)>> {
    proptest::collection::vec((0..200_i64, new_content()), 0..60)
}

fn points_of(history: &[(i64, Option<NewContent>)]) -> Item {
    let mut item = Item::new();
    for (hours, new_content) in history {
        item.now += SignedDuration::from_hours(*hours);
        let disk = MeasuredDisk { new_content: *new_content, ..item.disk(0, 0) };
        let point = item.measured(vec![disk]);
        item.points.push(point);
    }
    item
}

proptest! {
    /// Whatever the history: what was there before at that size is never suspect, nor is a small amount.
    #[test]
    fn what_was_seen_in_the_last_weeks_is_not_suspect(past in history(), pause in 0..200_i64) {
        let mut item = points_of(&past);
        item.now += SignedDuration::from_hours(pause);
        let recent = |point: &&Measured| item.now.duration_since(point.time) <= SignedDuration::from_hours(40 * 24);
        let seen: Vec<NewContent> = item.points.iter().filter(recent).filter_map(|point| point.disks[0].new_content).collect();
        let most = seen.iter().map(|new| new.incompressible_bytes).max().unwrap_or(0);
        for amount in [most, 64 * MIB - 1] {
            let point = item.measured(vec![item.disk(amount, amount)]);
            prop_assert_eq!(judge(&point, &item.points), None);
        }
    }

    /// All that is in use, new and not compressible, is suspect, if no point before had nearly that much.
    #[test]
    fn a_disk_that_is_encrypted_whole_is_suspect(
        past in proptest::collection::vec((24..=24_i64, 0..2 * GIB, 0..=100_u64), 7..60),
    ) {
        let past: Vec<_> = past.into_iter().map(|(hours, bytes, percent)| {
            (hours, Some(NewContent { bytes, incompressible_bytes: bytes / 100 * percent }))
        }).collect();
        let mut item = points_of(&past);
        let last = item.points.last().unwrap().id;
        let found = item.day(30 * GIB, 30 * GIB);
        prop_assert_eq!(found.map(|found| found.last_before.id), Some(last));
    }

    /// More is never less suspect.
    #[test]
    fn more_is_never_less_suspect(past in history(), amount in 0..60 * GIB, more in 0..60 * GIB) {
        let mut item = points_of(&past);
        item.now += SignedDuration::from_hours(24);
        let judged = |amount| judge(&item.measured(vec![item.disk(amount, amount)]), &item.points).is_some();
        prop_assert!(!judged(amount) || judged(amount + more));
    }

    /// Whatever a manifest says, there is a verdict.
    #[test]
    fn no_figures_are_too_strange(
        values in proptest::collection::vec((any::<i32>(), any::<[u64; 4]>()), 1..30),
    ) {
        let mut item = Item::new();
        for (seconds, [size_bytes, allocated, bytes, incompressible_bytes]) in values {
            let start = Timestamp::from_second(1_800_000_000).unwrap();
            item.now = start + SignedDuration::from_secs(seconds.into());
            let new_content = Some(NewContent { bytes, incompressible_bytes });
            let disk = MeasuredDisk { name: "vda".to_owned(), size_bytes, allocated_bytes: Some(allocated), new_content };
            let point = item.measured(vec![disk]);
            drop(judge(&point, &item.points));
            item.points.push(point);
        }
    }
}
