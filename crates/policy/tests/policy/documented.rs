//! The examples of `docs/use/policies.md`, executed.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::{Timestamp, civil::Date};
use serde_json::Value;
use strongroom_policy::{
    Due, History, Keep, PointTimes, Policy, Rule, evaluate, is_shorter, preview,
};

/// The page: its policies by name, and the rows of its tables by the words above their columns.
struct Page {
    policies: BTreeMap<String, Value>,
    tables: BTreeMap<String, Vec<Vec<String>>>,
}

fn page() -> Page {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/use/policies.md");
    let text = fs::read_to_string(file).expect("the page");
    let mut page = Page { policies: BTreeMap::new(), tables: BTreeMap::new() };
    let (mut name, mut json, mut table) = (None, None::<String>, None);
    for line in text.lines() {
        if let Some(block) = &mut json {
            if line == "```" {
                let policy = serde_json::from_str(block).expect("JSON");
                page.policies.insert(name.take().expect("a name above the block"), policy);
                json = None;
            } else {
                block.push_str(line);
            }
        } else if line == "```json" {
            json = Some(String::new());
        } else if let Some(row) = line.strip_prefix("| ").or_else(|| line.strip_prefix("|---")) {
            let cells: Vec<_> =
                row.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            match &table {
                None => table = Some(cells.join(", ")),
                Some(_) if row.starts_with('|') => (),
                Some(head) => page.tables.entry(head.clone()).or_default().push(cells),
            }
        } else {
            table = None;
            if let Some((_, rest)) = line.split_once("**`") {
                name = rest.split_once("`**").map(|(name, _)| name.to_owned());
            }
        }
    }
    page
}

impl Page {
    fn policy(&self, cell: &str) -> Policy {
        let value = self.policies[cell.trim_matches('`')].clone();
        serde_json::from_value(value).expect("a policy")
    }

    fn rows(&self, head: &str, least: usize) -> &[Vec<String>] {
        let rows = &self.tables.get(head).unwrap_or_else(|| panic!("{:?}", self.tables.keys()))[..];
        assert!(rows.len() >= least, "{head}: {rows:?}");
        rows
    }
}

fn moment(policy: &Policy, text: &str) -> Timestamp {
    let clock: jiff::civil::DateTime = text.parse().unwrap_or_else(|_| panic!("{text}"));
    clock.to_zoned(policy.time_zone().clone()).expect("a moment").timestamp()
}

fn shown(policy: &Policy, time: Timestamp, format: &str) -> String {
    time.to_zoned(policy.time_zone().clone()).strftime(format).to_string()
}

fn names() -> impl Iterator<Item = String> {
    (0..50).map(|number| format!("vm{number}"))
}

#[test]
fn backups_are_due_as_documented() {
    let page = page();
    for row in page.rows("policy, from, to, backups are due", 4) {
        let policy = page.policy(&row[0]);
        let from = moment(&policy, &row[1]);
        let end: Date = row[2].parse().expect("a date");
        let to = moment(&policy, &end.tomorrow().expect("a day").to_string());
        let due: Vec<_> = policy
            .occurrences(from, to)
            .map(|occurrence| shown(&policy, occurrence, "%m-%d %H:%M"))
            .collect();
        assert_eq!(due.join(", "), row[3], "{row:?}");
    }
}

#[test]
fn backups_start_as_documented() {
    let page = page();
    for row in page.rows("policy, due, starts", 4) {
        let policy = page.policy(&row[0]);
        let occurrence = moment(&policy, &row[1]);
        assert_eq!(policy.last_occurrence(occurrence), Some(occurrence), "{row:?}");
        let starts: Vec<_> =
            names().map(|name| policy.start_of(occurrence, name.as_bytes())).collect();
        if row[2] == "never" {
            assert!(starts.iter().all(Option::is_none), "{row:?}");
            continue;
        }
        let times = row[2].strip_prefix("from ").expect("two times");
        let (from, before) = times.split_once(", before ").expect("two times");
        let day = &row[1][..10];
        let within =
            moment(&policy, &format!("{day} {from}"))..moment(&policy, &format!("{day} {before}"));
        assert!(starts.iter().all(|start| within.contains(&start.expect("a start"))), "{row:?}");
    }
}

#[test]
fn what_was_missed_is_made_up_for_as_documented() {
    let page = page();
    for row in page.rows("policy, backed up until, back since, now, what happens", 5) {
        let policy = page.policy(&row[0]);
        let [handled, awake, now] = [1, 2, 3].map(|cell| moment(&policy, &row[cell]));
        for name in names() {
            let due = policy.due(handled, awake, now, name.as_bytes());
            match due {
                Due::Nothing => assert_eq!(row[4], "nothing"),
                Due::ClockWentBack { .. } => assert_eq!(row[4], "the clock went back"),
                Due::Run { run, missed } => {
                    let (what, before) = row[4].rsplit_once(", before ").expect("an end");
                    let occurrence = shown(&policy, run.occurrence, "%Y-%m-%d %H:%M");
                    assert_eq!(what, format!("for {occurrence}, {missed} others missed"));
                    assert!(run.start >= awake.max(run.occurrence), "{row:?}");
                    assert!(run.start < moment(&policy, before), "{row:?}");
                }
            }
        }
    }
}

#[test]
fn points_are_kept_as_documented() {
    let page = page();
    for row in page.rows("policy, days, without, point of, kept by, kept through", 10) {
        let policy = page.policy(&row[0]);
        let (first, last) = row[1].split_once(" to ").expect("two days");
        let last: Date = last.parse().expect("a date");
        let from = moment(&policy, first);
        let to = moment(&policy, &last.tomorrow().expect("a day").to_string());
        let day = |time: Timestamp| shown(&policy, time, "%Y-%m-%d");
        let points: Vec<_> = policy
            .occurrences(from, to)
            .filter(|occurrence| !row[2].contains(&day(*occurrence)))
            .filter_map(|occurrence| {
                let start = policy.start_of(occurrence, b"web01")?;
                Some(PointTimes::scheduled(start, occurrence))
            })
            .collect();
        let history = History { points: &points, protected_since: from, keep: Keep::AsPerPolicy };
        let kept = evaluate(&policy, &history);
        let index = points
            .iter()
            .rposition(|point| day(point.occurrence.expect("an occurrence")) == row[3])
            .unwrap_or_else(|| panic!("no point: {row:?}"));
        let rules: Vec<_> = kept[index]
            .rules
            .iter()
            .filter(|rule| !matches!(rule, Rule::Snapshot | Rule::LastPoint))
            .map(|rule| serde_json::to_string(&rule).expect("a name").replace('"', ""))
            .collect();
        assert_eq!(rules.join(", "), row[4], "{row:?}");
        let until = kept[index].until.expect("a time") - jiff::SignedDuration::from_secs(1);
        assert_eq!(day(until), row[5], "{row:?}");
    }
}

#[test]
fn changes_shorten_as_documented() {
    let page = page();
    for row in page.rows("policy, change, can shorten", 10) {
        let old = page.policy(&row[0]);
        let mut changed = page.policies[row[0].trim_matches('`')].clone();
        let (path, value) = row[1].trim_matches('`').split_once("` to `").expect("a change");
        let value: Value = serde_json::from_str(value).expect("a value");
        let (parent, field) = path.rsplit_once('/').expect("a path");
        changed.pointer_mut(parent).expect("what is changed")[field] = value;
        let new: Policy =
            serde_json::from_value(changed).unwrap_or_else(|error| panic!("{error}: {row:?}"));
        assert_eq!(is_shorter(&old, &new), row[2] == "yes", "{row:?}");
        let history =
            History { points: &[], protected_since: Timestamp::MIN, keep: Keep::AsPerPolicy };
        assert!(preview(&old, &new, &history, Timestamp::MIN).removed.is_empty());
    }
}
