//! No job vanishes: whatever commit fails, whatever drives a job dies, however the server is stopped.

use std::{sync::Arc, time::Duration};

use strongroom_api::{AlertState, BackupNow, Job, JobState, TaskState};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, Fault, on_both_databases};
use tokio::sync::watch;

use crate::world::{HOUR, World};

on_both_databases! {
    a_driver_that_panics_ends_its_job,
    an_orderly_stop_fails_nothing,
    cancelled_just_when_it_begins,
}

/// The `n`th commit of a scheduled backup fails: a day later there is a newer point, or an alert. Whether
/// there was an `n`th.
async fn is_lost(n: u64, fault: Fault) -> bool {
    let world = World::new(Bed::sqlite().expect("a folder")).await;
    let item = world.protected("web").await;
    let due = item.next_backup.expect("a plan");
    world.pass(due.duration_since(world.now()).as_secs() + 1);
    let armed = world.now();
    world.control.catalog().faults().fail(n, fault);
    for _ in 0..3 {
        // What fails is said in the log; the next round goes on.
        world.control.settle().await.ok();
    }
    let was_hit = !world.control.catalog().faults().clear();
    for _ in 0..8 {
        world.pass(3 * HOUR);
        world.control.settle().await.expect("nothing fails any more");
    }
    let item = world.item("web").await;
    let is_newer = item.last_backup.is_some_and(|last| last >= armed);
    let alerts = world.alerts().await;
    let is_told = alerts.iter().any(|alert| alert.state == AlertState::Firing);
    assert!(is_newer || is_told, "commit {n} {fault:?}: {item:?}");
    assert_eq!(item.job, None, "commit {n} {fault:?}");
    // Nothing is done twice.
    assert_eq!(world.stored(), world.points("web").await.len(), "commit {n} {fault:?}");
    was_hit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_commit_that_fails_loses_a_backup() {
    for fault in [Fault::Refused, Fault::Unheard] {
        let mut n = 1;
        while is_lost(n, fault).await {
            n += 1;
        }
        assert!(n > 6, "a backup has more than {n} commits");
    }
}

async fn a_driver_that_panics_ends_its_job(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.shared.outside().panics = true;
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.error.expect("why").code, codes::BUG);
    assert_eq!(world.alerts().await.len(), 1);
    world.shared.outside().panics = false;
    assert_eq!(world.backup("web").await.state, JobState::Completed);
}

fn is_at_work(job: &Job) -> bool {
    job.tasks.iter().any(|task| task.state == TaskState::InProgress)
}

async fn an_orderly_stop_fails_nothing(bed: Bed) {
    let mut world = World::new(bed).await;
    world.protected("web").await;
    world.shared.outside().hold = true;
    let begun =
        world.control.backup_now(&world.admin, "web", BackupNow::default()).await.expect("begins");
    // More often than it may be tried.
    for round in 0..4 {
        let mut events = world.control.job_events();
        let (stopper, stopped) = watch::channel(false);
        let work = tokio::spawn(Arc::clone(&world.control).run(stopped));
        while !is_at_work(&events.recv().await.expect("an event")) {}
        if round == 2 {
            // This time the process is killed, and what goes on there is an attempt of its own.
            work.abort();
            world.shared.outside().hold = false;
            work.await.expect_err("it is killed");
            // What tells of alerts beside it.
            stopper.send_replace(true);
            while world.stored() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            world.shared.outside().hold = true;
        } else {
            stopper.send_replace(true);
            work.await.expect("ends").expect("stops");
            let job = world.job(begun).await;
            assert_eq!(job.state, JobState::Queued, "{job:?}");
            assert_eq!(job.error.expect("why").code.as_str(), "job.interrupted");
        }
        world.restart().await;
    }
    world.shared.outside().hold = false;
    world.settle().await;
    let job = world.job(begun).await;
    assert_eq!((job.state, job.current_try(), job.interruptions), (JobState::Completed, 1, 1));
    assert_eq!((world.stored(), world.points("web").await.len()), (1, 1));
    assert_eq!(world.alerts().await, []);
}

async fn cancelled_just_when_it_begins(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.shared.outside().hold = true;
    let begun =
        world.control.backup_now(&world.admin, "web", BackupNow::default()).await.expect("begins");
    let mut events = world.control.job_events();
    let control = Arc::clone(&world.control);
    let work = tokio::spawn(async move { control.settle().await });
    // The first that is heard of it: it was written down as begun, and nothing else has happened.
    while events.recv().await.expect("an event").state != JobState::InProgress {}
    world.control.cancel_job(&world.admin, &begun.to_string()).await.expect("cancels");
    work.await.expect("ends").expect("settles");
    assert_eq!(world.job(begun).await.state, JobState::Cancelled);
    assert_eq!(world.item("web").await.job, None);
}
