//! Processes that are killed, servers that go away.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use serde_json::json;
use strongroom_base::{Coded as _, SystemClock, codes};
use strongroom_catalog::{
    AuditRecord, Catalog, CatalogUrl, Filter, Query,
    testing::{Bed, Postgres, Settings},
};

use crate::world::{Job, SCHEMA, job};

/// Whom the database does not let in is told so, and not that it is away.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_denied() {
    let bed = Bed::postgres().await.expect("PostgreSQL");
    bed.run_sql("CREATE ROLE intruder LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC")
        .await
        .expect("runs");
    let url = bed.url.to_string().replace("user=postgres", "user=intruder");
    let url: CatalogUrl = url.parse().expect("a URL");
    let denied = Catalog::open(&url, &SCHEMA, Arc::new(SystemClock)).await;
    let denied = denied.expect_err("it may make nothing there");
    assert_eq!(denied.code(), &codes::CATALOG_DENIED, "{denied:?}");
}

/// Names the file to the process that shall be killed.
const VICTIM: &str = "STRONGROOM_TEST_VICTIM";

/// One round of [`committed_changes_survive_a_kill`]: writes until it is killed, and says what it
/// has committed. On its own this does nothing.
#[tokio::test]
async fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let url = CatalogUrl::sqlite(path);
    let catalog = Catalog::open(&url, &SCHEMA, Arc::new(SystemClock)).await.expect("opens");
    let mut tx = catalog.read().await.expect("begins");
    let first = tx.count::<Job>(&Filter::all()).await.expect("counts");
    drop(tx);
    for number in first / 3.. {
        let mut tx = catalog.write().await.expect("begins");
        for part in 0..3 {
            let note = "x".repeat(2000);
            let new = Job { note, ..job(format!("{number:09}-{part}")) };
            tx.insert(&new).await.expect("inserts");
        }
        let detail = json!({ "number": number });
        let (actor, action, target, outcome) = ("victim", "write", "", "ok");
        let record = AuditRecord { actor, action, target, outcome, detail: &detail };
        tx.audit(record).await.expect("records");
        tx.commit().await.expect("commits");
        println!("committed {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_changes_survive_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("catalog.db");
    for round in 0..12_u64 {
        let last = tokio::task::spawn_blocking({
            let path = path.clone();
            move || run_and_kill(&path, round)
        });
        let last = last.await.expect("runs");
        let url = CatalogUrl::sqlite(&path);
        let catalog = Catalog::open(&url, &SCHEMA, Arc::new(SystemClock)).await.expect("opens");
        catalog.check_deeply().await.expect("sound");
        let report = catalog.verify_chain(&[]).await.expect("reads");
        assert_eq!(report.broken, None);
        let committed = report.head.seq;
        assert!(committed > last, "{last} was committed, there are {committed}");
        let mut tx = catalog.read().await.expect("begins");
        let count = tx.count::<Job>(&Filter::all()).await.expect("counts");
        assert_eq!(count, committed * 3, "all or nothing");
        drop(tx);
        catalog.close().await;
    }
}

/// The last number that the victim said it had committed before it was killed.
fn run_and_kill(path: &Path, round: u64) -> u64 {
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "chaos::victim", "--nocapture"])
        .env(VICTIM, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(victim.stdout.take().expect("a pipe")).lines();
    let mut last = None;
    let numbers = lines.by_ref().filter_map(|line| {
        let line = line.expect("text");
        // The test runner writes before the first of them, on the same line.
        line.rsplit_once("committed ").and_then(|(_, number)| number.parse::<u64>().ok())
    });
    for number in numbers {
        let first = *last.get_or_insert(number);
        if number >= first + round * 7 {
            last = Some(number);
            break;
        }
    }
    victim.kill().expect("killed");
    // What it said between.
    for line in lines.map_while(Result::ok) {
        if let Some((_, number)) = line.rsplit_once("committed ") {
            last = number.parse().ok().or(last);
        }
    }
    victim.wait().expect("ends");
    last.expect("something was committed")
}

/// Also that the server goes with the test: its folder is removed when it is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_unavailable() {
    let server = Postgres::start(Settings { durable: true }).expect("PostgreSQL");
    let url = server.database().await.expect("a database");
    let clock = Arc::new(SystemClock);
    let catalog = Catalog::open(&url, &SCHEMA, clock).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    let shown = url.to_string();
    let folder = shown.split("host=").nth(1).and_then(|rest| rest.split('&').next());
    let folder = Path::new(folder.expect("a folder")).to_owned();
    assert!(folder.exists());
    drop(server);
    for _ in 0..200 {
        if !folder.exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!folder.exists(), "the guard has cleaned up");
    let error = tx.insert(&job("b")).await.expect_err("gone");
    assert_eq!(error.code(), &codes::CATALOG_UNAVAILABLE, "{error:?}");
    let error = tx.commit().await.expect_err("gone");
    assert_eq!(error.code(), &codes::CATALOG_UNAVAILABLE, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_cut_are_made_anew() {
    let bed = Bed::postgres().await.expect("PostgreSQL");
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    bed.run_sql(cut).await.expect("cut");
    tx.insert(&job("b")).await.expect_err("cut");
    drop(tx);
    for _ in 0..10 {
        assert_eq!(catalog.get::<Job>("a").await.expect("reads"), None);
    }
    bed.run_sql(cut).await.expect("cut");
    for _ in 0..10 {
        assert_eq!(catalog.list::<Job>(&Query::default()).await.expect("reads").items, []);
    }
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("a")).await.expect("inserts");
    tx.commit().await.expect("commits");
}
