//! One document at a time, and conflicts.

use std::{sync::Arc, task::Poll};

use strongroom_base::{Coded as _, SystemClock, codes};
use strongroom_catalog::{
    Catalog, CatalogUrl, Document as _, Error, Filter, Stored, Value,
    testing::{Bed, on_both_databases},
};

use crate::world::{Job, SCHEMA, User, job, user};

on_both_databases! {
    documents_are_kept, versions_guard_changes, unique_values_are_unique,
    an_error_leaves_the_transaction_usable, what_is_not_committed_is_not_there,
    odd_texts_are_kept_or_refused, readers_see_one_moment, many_writers_count_right,
    sums_and_counts, a_dropped_beginning_leaves_nothing_behind,
    a_dropped_writer_lets_the_next_one_in, changes_are_counted_by_kind,
}

async fn documents_are_kept(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let first = Job { host: Some("h".to_owned()), started: Some(-5), bytes: i64::MAX, ..job("a") };
    let mut tx = catalog.write().await.expect("begins");
    assert_eq!(tx.insert(&first).await.expect("inserts"), 1);
    assert_eq!(tx.put(&job("b")).await.expect("puts"), 1);
    assert_eq!(tx.put(&job("b")).await.expect("puts"), 2);
    // A transaction sees what it wrote.
    assert_eq!(tx.get::<Job>("b").await.expect("reads").expect("there").version, 2);
    tx.commit().await.expect("commits");

    let stored = Stored { doc: first.clone(), version: 1 };
    assert_eq!(catalog.get::<Job>("a").await.expect("reads"), Some(stored.clone()));
    assert_eq!(catalog.get::<Job>("z").await.expect("reads"), None);
    catalog.close().await;

    // Also by the next process.
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    assert_eq!(catalog.get::<Job>("a").await.expect("reads"), Some(stored));
    let mut tx = catalog.write().await.expect("begins");
    assert!(tx.delete::<Job>("a", None).await.expect("deletes"));
    assert!(!tx.delete::<Job>("a", None).await.expect("deletes"));
    tx.commit().await.expect("commits");
    assert_eq!(catalog.get::<Job>("a").await.expect("reads"), None);
    let health = catalog.check_deeply().await.expect("sound");
    assert_eq!(health.schema, 3);
    assert!(health.database.starts_with("SQLite 3.") || health.database.starts_with("PostgreSQL "));
}

async fn changes_are_counted_by_kind(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let count = || (catalog.changes(&[Job::KIND]), catalog.changes(&[User::KIND, Job::KIND]));
    assert_eq!(count(), (0, 0));
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    tx.insert(&job("b")).await.expect("inserts");
    assert_eq!(count(), (0, 0), "nobody sees them yet");
    tx.commit().await.expect("commits");
    assert_eq!(count(), (1, 1));
    let mut tx = catalog.write().await.expect("begins");
    tx.put(&user("1", None, "ada", None)).await.expect("puts");
    tx.commit().await.expect("commits");
    assert_eq!(count(), (1, 2));
    for step in 0..4 {
        let before = count().0;
        let mut tx = catalog.write().await.expect("begins");
        match step {
            0 => drop(tx.update(&job("a"), 1).await.expect("updates")),
            1 => drop(tx.delete::<Job>("a", 2).await.expect("deletes")),
            2 => drop(tx.delete_all::<Job>(&Filter::all()).await.expect("deletes")),
            _ => drop(tx.get::<Job>("a").await.expect("reads")),
        }
        tx.commit().await.expect("commits");
        assert_eq!(count().0 - before, u64::from(step < 3), "{step}");
    }
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("c")).await.expect("inserts");
    drop(tx);
    assert_eq!(count().0, 4, "what is undone is no change");
}

async fn versions_guard_changes(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    let changed = Job { state: "done".to_owned(), ..job("a") };
    assert_eq!(tx.update(&changed, 1).await.expect("updates"), 2);
    let conflict = tx.update(&job("a"), 1).await.expect_err("it changed");
    assert!(
        matches!(&conflict, Error::Changed { found: Some(2), expected: 1, .. }),
        "{conflict:?}"
    );
    assert_eq!(conflict.code(), &codes::CATALOG_CONFLICT);
    let conflict = tx.delete::<Job>("a", 1).await.expect_err("it changed");
    assert!(matches!(conflict, Error::Changed { found: Some(2), .. }), "{conflict:?}");
    let conflict = tx.update(&job("b"), 1).await.expect_err("there is none");
    assert!(matches!(conflict, Error::Changed { found: None, .. }), "{conflict:?}");
    let conflict = tx.update(&changed, u64::MAX).await.expect_err("no such version");
    assert!(matches!(conflict, Error::Changed { found: Some(2), .. }), "{conflict:?}");
    assert!(tx.delete::<Job>("a", 2).await.expect("deletes"));
    tx.commit().await.expect("commits");
}

async fn unique_values_are_unique(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&user("1", Some("t"), "ada", Some(7))).await.expect("inserts");
    let taken = |error: &Error, by: &str, columns: &str| matches!(error, Error::Taken { id, key, .. } if id == by && key == columns);
    let error = tx.insert(&user("2", Some("t"), "ada", None)).await.expect_err("taken");
    assert!(taken(&error, "1", "tenant, name"), "{error:?}");
    let error = tx.put(&user("2", None, "bob", Some(7))).await.expect_err("taken");
    assert!(taken(&error, "1", "badge"), "{error:?}");
    let error = tx.insert(&user("1", None, "bob", None)).await.expect_err("exists");
    assert!(matches!(&error, Error::Exists { id, .. } if id == "1"), "{error:?}");
    // Nulls are never the same.
    tx.insert(&user("2", None, "ada", None)).await.expect("inserts");
    tx.insert(&user("3", None, "ada", None)).await.expect("inserts");
    let error = tx.update(&user("3", Some("t"), "ada", None), 1).await.expect_err("taken");
    assert!(taken(&error, "1", "tenant, name"), "{error:?}");
    // Its own value is not another's.
    tx.update(&user("1", Some("t"), "ada", Some(7)), 1).await.expect("updates");
    tx.commit().await.expect("commits");
    let mut tx = catalog.read().await.expect("begins");
    assert_eq!(tx.count::<User>(&Filter::all()).await.expect("counts"), 3);
}

async fn an_error_leaves_the_transaction_usable(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    tx.insert(&job("a")).await.expect_err("exists");
    tx.update(&job("a"), 9).await.expect_err("another version");
    tx.insert(&job("")).await.expect_err("no id");
    tx.insert(&job("b")).await.expect("goes on");
    tx.commit().await.expect("commits");
    let mut tx = catalog.read().await.expect("begins");
    assert_eq!(tx.count::<Job>(&Filter::all()).await.expect("counts"), 2);
}

async fn what_is_not_committed_is_not_there(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    assert_eq!(catalog.get::<Job>("a").await.expect("reads"), None);
    drop(tx);
    let mut tx = catalog.write().await.expect("begins");
    assert_eq!(tx.get::<Job>("a").await.expect("reads"), None);
}

async fn odd_texts_are_kept_or_refused(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    for id in ["'; DROP TABLE jobs; --", "\"", "%_\\", "ä\u{10ffff}", " ", "\n", &"x".repeat(512)]
    {
        let note = format!("\0{id}");
        let odd = Job { state: id.to_owned(), host: Some(id.to_owned()), note, ..job(id) };
        tx.insert(&odd).await.expect("inserts");
        assert_eq!(tx.get::<Job>(id).await.expect("reads").expect("there").doc, odd);
        let same = tx.count::<Job>(&Filter::all().eq("state", id).prefix("host", id)).await;
        assert_eq!(same.expect("counts"), 1, "{id:?}");
    }
    for (id, state) in [("", ""), ("\0", ""), ("y", "\0"), (&"x".repeat(513), "")] {
        let odd = Job { state: state.to_owned(), ..job(id) };
        let error = tx.insert(&odd).await.expect_err("refused");
        assert_eq!(error.code(), &codes::CATALOG_VALUE, "{id:?}");
        assert_eq!(tx.get::<Job>(id).await.expect("reads"), None);
        assert!(!tx.delete::<Job>(id, None).await.expect("deletes"));
    }
    tx.commit().await.expect("commits");
}

async fn readers_see_one_moment(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut reader = catalog.read().await.expect("begins");
    assert_eq!(reader.count::<Job>(&Filter::all()).await.expect("counts"), 0);
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    tx.commit().await.expect("commits");
    assert_eq!(reader.count::<Job>(&Filter::all()).await.expect("counts"), 0);
    drop(reader);
    assert!(catalog.get::<Job>("a").await.expect("reads").is_some());
}

/// Half of the tasks change by version and try again, half read and write in one transaction.
async fn many_writers_count_right(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    tx.commit().await.expect("commits");
    let tasks = (0..16).map(|number| {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let before = catalog.get::<Job>("a").await.expect("reads").expect("there");
                    let mut tx = catalog.write().await.expect("begins");
                    let before = if number % 2 == 0 {
                        before
                    } else {
                        tx.get::<Job>("a").await.expect("reads").expect("there")
                    };
                    let after = Job { bytes: before.doc.bytes + 1, ..before.doc };
                    match tx.update(&after, before.version).await {
                        Ok(_) => break tx.commit().await.expect("commits"),
                        Err(Error::Changed { .. }) if number % 2 == 0 => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("counts");
    }
    let after = catalog.get::<Job>("a").await.expect("reads").expect("there");
    assert_eq!((after.doc.bytes, after.version), (160, 161));
}

async fn sums_and_counts(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    for (number, host) in [Some("b"), None, Some("a"), Some("B"), Some("a")].iter().enumerate() {
        let bytes = i64::try_from(number).expect("small");
        let host = host.map(str::to_owned);
        let started = (number > 2).then_some(bytes * 10);
        let job = Job { host, started, bytes, ..job(number.to_string()) };
        tx.insert(&job).await.expect("inserts");
    }
    let all = Filter::all();
    let text = |text: &str| Value::from(text);
    assert_eq!(
        tx.count_by::<Job>("host", &all).await.expect("counts"),
        [(Value::Null, 1), (text("B"), 1), (text("a"), 2), (text("b"), 1)]
    );
    let some = all.clone().ge("bytes", 3);
    assert_eq!(
        tx.count_by::<Job>("host", &some).await.expect("counts"),
        [(text("B"), 1), (text("a"), 1)]
    );
    assert_eq!(tx.sum::<Job>("bytes", &all).await.expect("sums"), 10);
    assert_eq!(tx.sum::<Job>("started", &all).await.expect("sums"), 70);
    assert_eq!(tx.sum::<Job>("started", &Filter::all().eq("host", "?")).await.expect("sums"), 0);
    let error = tx.sum::<Job>("host", &all).await.expect_err("no number");
    assert_eq!(error.code(), &codes::CATALOG_QUERY);
    assert_eq!(tx.delete_all::<Job>(&some).await.expect("deletes"), 2);
    assert_eq!(tx.count::<Job>(&all).await.expect("counts"), 3);
    tx.commit().await.expect("commits");
}

/// Asks a future this often, then drops it: while it waits for something, or just when that came.
async fn cut_off<T>(work: impl Future<Output = T>, asked: usize, waiting: bool) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut left = asked;
    std::future::poll_fn(move |context| {
        if left > 0 {
            left -= 1;
            let state = work.as_mut().poll(context).map(Some);
            if state.is_ready() || left > 0 || !waiting {
                return state;
            }
        }
        Poll::Ready(None)
    })
    .await
}

/// As when a request's client goes away while its transaction begins: no connection may be left in it,
/// or what is read there later is as old as it.
async fn a_dropped_beginning_leaves_nothing_behind(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let other = Catalog::beside(&bed.url, &SCHEMA, Arc::new(SystemClock)).await.expect("opens");
    let mut tx = other.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    tx.commit().await.expect("commits");
    for round in 0..200_i64 {
        let asked = usize::try_from(round / 4 % 8).expect("small");
        let waiting = round % 2 == 0;
        if round % 4 < 2 {
            cut_off(catalog.read(), asked, waiting).await;
        } else {
            cut_off(catalog.write(), asked, waiting).await;
        }
        let before = catalog.get::<Job>("a").await.expect("reads").expect("there");
        let mut tx = other.write().await.expect("begins");
        tx.put(&Job { bytes: round, ..before.doc }).await.expect("puts");
        tx.commit().await.expect("commits");
        for _ in 0..3 {
            let after = catalog.get::<Job>("a").await.expect("reads").expect("there");
            assert_eq!(after.doc.bytes, round, "asked {asked} times, {waiting}");
        }
    }
}

/// As when a request's client goes away in the middle of it, wherever that is.
async fn a_dropped_writer_lets_the_next_one_in(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let (mut finished, mut undone, mut done) = (0, 0, 0);
    // How often a write is asked until it is done depends on how busy the machine is: again and again.
    for round in 0..2_000 {
        let work = async {
            let mut tx = catalog.write().await.expect("begins");
            for number in 0..5 {
                tx.insert(&job(format!("{number}"))).await.expect("inserts");
            }
            tx.commit().await.expect("commits");
        };
        let end = cut_off(work, round / 2 % 24, round % 2 == 0).await;
        assert!(catalog.get::<Job>("none").await.expect("reads").is_none());
        let mut tx = catalog.write().await.expect("begins");
        match tx.delete_all::<Job>(&Filter::all()).await.expect("deletes") {
            0 if end.is_none() => undone += 1,
            5 => done += 1,
            count => panic!("{count} documents in round {round}, {end:?}"),
        }
        tx.commit().await.expect("commits");
        finished += usize::from(end.is_some());
        if finished >= 6 && undone > 6 && done >= 6 {
            break;
        }
    }
    assert!(finished >= 6 && undone > 6 && done >= 6, "{finished} {undone} {done}");
}

#[tokio::test]
async fn one_process_serves_a_file() {
    let bed = Bed::sqlite().expect("a folder");
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let error = bed.open(&SCHEMA).await.expect_err("in use");
    assert_eq!(error.code(), &codes::CATALOG_IN_USE);
    catalog.close().await;
    bed.open(&SCHEMA).await.expect("opens again");
}

#[tokio::test]
async fn no_error_shows_a_password() {
    let url: CatalogUrl = "postgres://me:sEcReT@127.0.0.1:1/x".parse().expect("a URL");
    let clock = Arc::new(SystemClock);
    let error = Catalog::open(&url, &SCHEMA, clock).await.expect_err("nobody is there");
    assert_eq!(error.code(), &codes::CATALOG_UNAVAILABLE);
    assert!(!format!("{error} {error:?} {url} {url:?}").contains("sEcReT"));
    let source = std::error::Error::source(&error).expect("kept");
    assert!(source.to_string().contains("refused"), "{source}");
}

#[tokio::test]
async fn a_file_that_is_no_catalog_is_left_alone() {
    let bed = Bed::sqlite().expect("a folder");
    let path = bed.url.to_string().replace("sqlite:", "");
    let text = "This is a letter, not a database. ".repeat(200);
    std::fs::write(&path, &text).expect("written");
    let error = bed.open(&SCHEMA).await.expect_err("no database");
    assert_eq!(error.code(), &codes::CATALOG_CORRUPT, "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), text);
}

/// Servers run on many threads.
#[test]
fn all_can_be_sent_to_another_thread() {
    fn sendable<T: Send>() {}
    sendable::<Catalog>();
    sendable::<strongroom_catalog::Tx>();
    sendable::<strongroom_catalog::ReadTx>();
    sendable::<strongroom_catalog::Dump>();
    sendable::<strongroom_catalog::Load>();
}
