//! Lists, counts and sums of anything, against a list in memory that is filtered and sorted.

use std::cmp::Ordering;

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use strongroom_catalog::{
    Filter, Query, Value,
    testing::{Bed, on_both_databases},
};
use tokio::runtime::Handle;

use crate::world::{Job, SCHEMA, job};

on_both_databases! { queries_are_as_in_memory }

/// Few values, so that there are equals; in an order that no language has.
const TEXTS: [&str; 12] =
    ["", "a", "A", "ab", "aB", "b", "ä", "a\u{10ffff}", "\u{e000}", "\u{d7ff}x", "_", "Z%"];

#[derive(Clone, Debug)]
enum Test {
    Compare(&'static str, Value),
    OneOf(Vec<Value>),
    Prefix(&'static str),
    Contains(&'static str),
    Null(bool),
}

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    let one = (
        select(&TEXTS[..]),
        option::of(select(&TEXTS[..])),
        option::of(-2_i64..3),
        select(vec![i64::MIN, -1, 0, 1, 2, i64::MAX]),
    );
    vec(one, 0..40).prop_map(|all| {
        let jobs = all.into_iter().enumerate().map(|(number, (state, host, started, bytes))| Job {
            state: state.to_owned(),
            host: host.map(str::to_owned),
            started,
            bytes,
            // Ids that do not sort as numbers do.
            ..job(format!("{}-{number}", TEXTS[number % TEXTS.len()]))
        });
        jobs.collect()
    })
}

fn conditions() -> impl Strategy<Value = Vec<(&'static str, Test)>> {
    let signs = select(vec!["=", "<>", "<", "<=", ">", ">="]);
    let text = select(&TEXTS[..]);
    let value = select(&TEXTS[..]).prop_map(Value::from);
    let number = (-3_i64..3).prop_map(Value::from);
    let texts = prop_oneof![
        (signs.clone(), value.clone()).prop_map(|(sign, value)| Test::Compare(sign, value)),
        vec(value, 0..6).prop_map(Test::OneOf),
        text.clone().prop_map(Test::Prefix),
        text.prop_map(Test::Contains),
        any::<bool>().prop_map(Test::Null),
    ];
    let numbers = prop_oneof![
        (signs, number.clone()).prop_map(|(sign, value)| Test::Compare(sign, value)),
        vec(number, 0..6).prop_map(Test::OneOf),
        any::<bool>().prop_map(Test::Null),
    ];
    let one = prop_oneof![
        (select(vec!["id", "state", "host"]), texts),
        (select(vec!["started", "bytes"]), numbers),
    ];
    vec(one, 0..3)
}

fn value(job: &Job, column: &str) -> Value {
    match column {
        "id" => job.id.as_str().into(),
        "state" => job.state.as_str().into(),
        "host" => job.host.clone().into(),
        "started" => job.started.into(),
        _ => job.bytes.into(),
    }
}

fn holds(job: &Job, (column, test): &(&'static str, Test)) -> bool {
    let found = value(job, column);
    let text =
        |holds: fn(&str, &str) -> bool, with| found.as_text().is_some_and(|t| holds(t, with));
    match test {
        Test::Null(null) => (found == Value::Null) == *null,
        Test::Prefix(prefix) => text(|t, with| t.starts_with(with), prefix),
        Test::Contains(part) => text(|t, with| t.contains(with), part),
        Test::OneOf(values) => found != Value::Null && values.contains(&found),
        Test::Compare(..) if found == Value::Null => false,
        Test::Compare(sign, with) => match *sign {
            "=" => found == *with,
            "<>" => found != *with,
            "<" => found < *with,
            "<=" => found <= *with,
            ">" => found > *with,
            _ => found >= *with,
        },
    }
}

fn filter(conditions: &[(&'static str, Test)]) -> Filter {
    conditions.iter().cloned().fold(Filter::all(), |filter, (column, test)| match test {
        Test::Null(true) => filter.is_null(column),
        Test::Null(false) => filter.not_null(column),
        Test::Prefix(prefix) => filter.prefix(column, prefix),
        Test::Contains(part) => filter.contains(column, part),
        Test::OneOf(values) => filter.one_of(column, values),
        Test::Compare("=", value) => filter.eq(column, value),
        Test::Compare("<>", value) => filter.ne(column, value),
        Test::Compare("<", value) => filter.lt(column, value),
        Test::Compare("<=", value) => filter.le(column, value),
        Test::Compare(">", value) => filter.gt(column, value),
        Test::Compare(_, value) => filter.ge(column, value),
    })
}

async fn queries_are_as_in_memory(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let handle = Handle::current();
    let cases = if std::env::var_os("STRONGROOM_LONG").is_some() { 2000 } else { 150 };
    let order =
        (select(vec!["id", "state", "host", "started", "bytes"]), any::<bool>(), 1_usize..9);
    let groups = option::of(vec(conditions(), 0..3));
    let input = (jobs(), vec((conditions(), groups, order), 8));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = move || {
        TestRunner::new(config).run(&input, |(jobs, queries)| {
            handle.block_on(async {
                let mut tx = catalog.write().await.expect("begins");
                for job in &jobs {
                    tx.insert(job).await.expect("inserts");
                }
                for (conditions, groups, (column, descending, limit)) in queries {
                    let mut filter = filter(&conditions);
                    if let Some(groups) = &groups {
                        filter = filter.any(groups.iter().map(|group| self::filter(group)));
                    }
                    let all = |job: &Job, of: &[_]| of.iter().all(|test| holds(job, test));
                    let mut expected: Vec<_> = jobs
                        .iter()
                        .filter(|job| all(job, &conditions))
                        .filter(|job| {
                            let one = |groups: &Vec<Vec<_>>| groups.iter().any(|of| all(job, of));
                            groups.as_ref().is_none_or(one)
                        })
                        .collect();
                    expected.sort_by(|a, b| {
                        let order = (value(a, column), &a.id).cmp(&(value(b, column), &b.id));
                        if descending { order.reverse() } else { order }
                    });
                    let query = Query::new(filter.clone()).limit(limit);
                    let query =
                        if descending { query.descending(column) } else { query.ascending(column) };
                    let mut found = Vec::new();
                    let mut after = None;
                    loop {
                        let page =
                            tx.list::<Job>(&query.clone().after(after)).await.expect("lists");
                        prop_assert!(page.items.len() == limit || page.next.is_none());
                        found.extend(page.items.into_iter().map(|stored| stored.doc));
                        after = page.next;
                        if after.is_none() {
                            break;
                        }
                    }
                    prop_assert!(found.iter().eq(expected.iter().copied()), "{query:?}: {found:?}");
                    let count = tx.count::<Job>(&filter).await.expect("counts");
                    prop_assert_eq!(usize::try_from(count).expect("small"), expected.len());
                    let sum: i64 = expected.iter().filter_map(|job| job.started).sum();
                    prop_assert_eq!(tx.sum::<Job>("started", &filter).await.expect("sums"), sum);
                    let counts = tx.count_by::<Job>(column, &filter).await.expect("counts");
                    let mut values: Vec<_> =
                        expected.iter().map(|job| value(job, column)).collect();
                    values.sort_by(Value::cmp);
                    let runs = values.chunk_by(|a, b| a.cmp(b) == Ordering::Equal);
                    let runs: Vec<(_, u64)> =
                        runs.map(|run| (run[0].clone(), run.iter().map(|_| 1).sum())).collect();
                    prop_assert_eq!(counts, runs);
                }
                Ok(())
            })
        })
    };
    tokio::task::spawn_blocking(run).await.expect("runs").expect("the same");
}
