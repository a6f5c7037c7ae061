//! Leases.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_base::{Clock, Coded as _, codes};
use strongroom_catalog::{
    Catalog, Lease,
    testing::{Bed, on_both_databases},
};

use crate::world::{Job, SCHEMA, job};

on_both_databases! { leases_have_one_holder, a_lease_that_expired_goes_to_another, racers_get_one }

const LONG: Duration = Duration::from_secs(1000);

async fn leases_have_one_holder(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let lease = catalog.acquire_lease("scheduler", "a", LONG).await.expect("asks");
    let lease = lease.expect("free");
    assert_eq!(lease.epoch, 1);
    for owner in ["a", "b"] {
        let other = catalog.acquire_lease("scheduler", owner, LONG).await.expect("asks");
        assert_eq!(other, None, "{owner}");
    }
    assert!(catalog.acquire_lease("other", "b", LONG).await.expect("asks").is_some());
    let renewed = catalog.renew_lease(&lease, LONG * 2).await.expect("held");
    assert!(renewed.expires > lease.expires + 900_000);
    let forged = Lease { owner: "b".to_owned(), ..lease.clone() };
    let error = catalog.renew_lease(&forged, LONG).await.expect_err("not held");
    assert_eq!(error.code(), &codes::CATALOG_LEASE_LOST);
    catalog.release_lease(&lease).await.expect("held");
    let next = catalog.acquire_lease("scheduler", "b", LONG).await.expect("asks");
    assert_eq!(next.expect("free").epoch, 2);
    catalog.release_lease(&lease).await.expect_err("no longer held");
}

async fn a_lease_that_expired_goes_to_another(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let short = Duration::from_millis(50);
    let lease = catalog.acquire_lease("x", "a", short).await.expect("asks").expect("free");
    // Nobody else has taken it, so it can still be renewed; but then it is let go.
    tokio::time::sleep(Duration::from_millis(80)).await;
    let lease = catalog.renew_lease(&lease, short).await.expect("still the last holder");
    tokio::time::sleep(Duration::from_millis(80)).await;
    let mut tx = catalog.write().await.expect("begins");
    let (last, held) = tx.lease("x").await.expect("reads").expect("there");
    assert_eq!((last, held), (lease.clone(), false));
    tx.check_lease(&lease).await.expect_err("expired");
    let other = tx.acquire_lease("x", "b", LONG).await.expect("asks").expect("free");
    assert_eq!(other.epoch, 2);
    tx.commit().await.expect("commits");

    // What the old holder does on waking up changes nothing.
    let mut tx = catalog.write().await.expect("begins");
    tx.insert(&job("from the grave")).await.expect("inserts");
    let error = tx.check_lease(&lease).await.expect_err("lost");
    assert_eq!(error.code(), &codes::CATALOG_LEASE_LOST);
    drop(tx);
    assert_eq!(catalog.get::<Job>("from the grave").await.expect("reads"), None);
    catalog.renew_lease(&lease, LONG).await.expect_err("lost");
    let mut tx = catalog.write().await.expect("begins");
    tx.check_lease(&other).await.expect("held");
}

async fn racers_get_one(bed: Bed) {
    let catalog = bed.open(&SCHEMA).await.expect("opens");
    let racers = (0..8).map(|number| {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            let owner = format!("racer {number}");
            catalog.acquire_lease("x", &owner, LONG).await.expect("asks").is_some()
        })
    });
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        won += usize::from(racer.await.expect("ends"));
    }
    assert_eq!(won, 1);
}

struct Stopped(Mutex<Timestamp>);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("whole")
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) {}
}

#[tokio::test]
async fn with_one_server_the_clock_decides_and_a_restart_frees_all() {
    let bed = Bed::sqlite().expect("a folder");
    let clock = Arc::new(Stopped(Mutex::new(Timestamp::UNIX_EPOCH)));
    let catalog = Catalog::open(&bed.url, &SCHEMA, clock.clone()).await.expect("opens");
    assert!(catalog.acquire_lease("x", "a", LONG).await.expect("asks").is_some());
    *clock.0.lock().expect("whole") += SignedDuration::from_secs(999);
    assert_eq!(catalog.acquire_lease("x", "b", LONG).await.expect("asks"), None);
    *clock.0.lock().expect("whole") += SignedDuration::from_secs(1);
    assert_eq!(catalog.acquire_lease("x", "b", LONG).await.expect("asks").expect("free").epoch, 2);
    catalog.close().await;
    let catalog = Catalog::open(&bed.url, &SCHEMA, clock).await.expect("opens");
    assert_eq!(catalog.acquire_lease("x", "c", LONG).await.expect("asks").expect("free").epoch, 3);
}
