//! What policies promise is kept, or somebody hears of it; and what is nobody's business is no alert.

use std::{sync::Arc, time::Duration};

use strongroom_api::{
    Alert, AlertState, BackupNow, HostState, JobState, Protect, StopMode, StopProtection,
};
use strongroom_base::codes;
use strongroom_catalog::{
    Stored,
    testing::{Bed, on_both_databases},
};
use strongroom_control::model::ItemDoc;
use strongroom_orders::ORDERS_VERSION;
use tokio::sync::watch;

use crate::world::{DAY, HOUR, World, refusal, source};

on_both_databases! {
    a_job_that_never_ends_is_told_of,
    points_that_are_no_longer_good_do_not_count,
    without_a_policy_the_default_counts,
    an_item_without_a_policy_is_told_of,
    what_somebody_mistyped_is_no_alert,
    a_host_of_an_unknown_version_of_orders_is_refused,
    a_host_that_does_not_answer_is_not_online,
}

async fn firing(world: &World, rule: &str) -> Vec<Alert> {
    let alerts = world.alerts().await.into_iter();
    alerts.filter(|alert| alert.rule == rule && alert.state == AlertState::Firing).collect()
}

async fn a_job_that_never_ends_is_told_of(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    world.settle().await;
    assert_eq!(firing(&world, "rpo_missed").await, []);
    world.shared.outside().hold = true;
    let begun =
        world.control.backup_now(&world.admin, "web", BackupNow::default()).await.expect("begins");
    let (stopper, stopped) = watch::channel(false);
    let work = tokio::spawn(Arc::clone(&world.control).run(stopped));
    while world.job(begun).await.state != JobState::InProgress {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.pass(2 * DAY);
    while firing(&world, "rpo_missed").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = world.control.status(&world.admin).await.expect("a status");
    let behind: Vec<_> = status.behind.iter().map(|item| (&*item.name, item.job)).collect();
    assert_eq!(behind, [("web", Some(begun))]);
    assert_eq!(world.control.figures().await.expect("figures").behind, 1);
    world.shared.outside().hold = false;
    while !firing(&world, "rpo_missed").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stopper.send_replace(true);
    work.await.expect("ends").expect("stops");
}

async fn points_that_are_no_longer_good_do_not_count(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    // Each backup is made, and is no good.
    world.shared.outside().validation_fails = Some(&codes::STORE_CORRUPT);
    world.days(2).await;
    assert_eq!(firing(&world, "rpo_missed").await.len(), 1);
    // Whoever stops it does not want to hear of it.
    let request = StopProtection { mode: StopMode::RetainForever };
    world.control.stop_protection(&world.admin, "web", request).await.expect("stops");
    assert_eq!(firing(&world, "rpo_missed").await, []);
    world.settle().await;
    assert_eq!(firing(&world, "rpo_missed").await, []);
    // What was not backed up meanwhile is not late when it goes on.
    world.pass(30 * DAY);
    let resume = strongroom_api::ResumeProtection { policy: None };
    world.control.resume_protection(&world.admin, "web", resume).await.expect("resumes");
    world.settle().await;
    assert_eq!(firing(&world, "rpo_missed").await, []);
}

fn protect(machine: &str, policy: Option<&str>) -> Protect {
    Protect {
        vault: "main".to_owned(),
        host: "here".to_owned(),
        policy: policy.map(str::to_owned),
        sources: vec![source(machine)],
        backup_now: false,
    }
}

async fn without_a_policy_the_default_counts(bed: Bed) {
    let world = World::new(bed).await;
    world.machine("web");
    world.control.protect(&world.admin, protect("web", None)).await.expect("begins");
    world.settle().await;
    let item = world.item("web").await;
    assert!(item.policy.is_some() && item.next_backup.is_some(), "{item:?}");
    // A vault that has none called so wants one to be named.
    let name = strongroom_api::PolicyUpdate {
        name: Some("nightly".to_owned()),
        ..strongroom_api::PolicyUpdate::default()
    };
    let changed = world.control.update_policy(&world.admin, "main", "default", None, name).await;
    changed.expect("renamed");
    let refused = world.control.protect(&world.admin, protect("web", None)).await;
    assert_eq!(refusal(refused), "policy.not_found");
}

async fn an_item_without_a_policy_is_told_of(bed: Bed) {
    let world = World::new(bed).await;
    let item = world.protected("web").await;
    // As earlier versions made them.
    let mut tx = world.control.catalog().write().await.expect("begins");
    let found = tx.get::<ItemDoc>(&item.id.to_string()).await.expect("reads").expect("there");
    let Stored { mut doc, version } = found;
    let policy = doc.item.policy.take();
    tx.update(&doc, version).await.expect("updates");
    tx.commit().await.expect("commits");
    world.settle().await;
    assert_eq!(firing(&world, "no_schedule").await.len(), 1);
    let status = world.control.status(&world.admin).await.expect("a status");
    assert_eq!((status.unscheduled, status.behind), (1, vec![]));
    assert_eq!(world.control.figures().await.expect("figures").unscheduled, 1);
    let change =
        strongroom_api::ItemUpdate { policy: policy.map(|policy| policy.to_string()), disks: None };
    world.control.update_item(&world.admin, "web", None, change).await.expect("changes");
    world.settle().await;
    assert_eq!(firing(&world, "no_schedule").await, []);
}

async fn what_somebody_mistyped_is_no_alert(bed: Bed) {
    let world = World::new(bed).await;
    let begun = world.control.protect(&world.admin, protect("wbe", None)).await.expect("begins");
    world.settle().await;
    let job = world.job(begun).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.error.expect("why").code.as_str(), "vm.not_found");
    world.shared.outside().host_fails = Some(&codes::HOST_UNAVAILABLE);
    let begun = world.control.discover(&world.admin, "here").await.expect("begins");
    world.settle().await;
    assert_eq!(world.job(begun).await.state, JobState::Failed);
    assert_eq!(world.alerts().await, []);
}

async fn a_host_of_an_unknown_version_of_orders_is_refused(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let state = async || world.control.host(&world.admin, "here").await.expect("a host").value;
    let discover = async || {
        let job = world.control.discover(&world.admin, "here").await.expect("begins");
        world.settle().await;
        world.job(job).await
    };
    for orders in [0, ORDERS_VERSION + 1] {
        world.shared.outside().host_orders = Some(orders);
        let job = discover().await;
        assert_eq!(job.state, JobState::Failed);
        let error = job.error.expect("why");
        assert_eq!(error.code, codes::HOST_VERSION);
        let found = error.params.get("found").map(ToString::to_string);
        assert_eq!(found, Some(orders.to_string()));
        let host = state().await;
        assert_eq!(host.state, HostState::Unreachable);
        assert_eq!(host.error.expect("why").code, codes::HOST_VERSION);
        // It gets no orders either until it was asked again.
        let job = world.backup("web").await;
        assert_eq!(job.state, JobState::Failed);
        assert_eq!(job.error.expect("why").code, codes::HOST_VERSION);
    }
    world.shared.outside().host_orders = None;
    assert_eq!(discover().await.state, JobState::Completed);
    assert_eq!((state().await.state, state().await.error), (HostState::Online, None));
    assert_eq!(world.backup("web").await.state, JobState::Completed);
}

async fn a_host_that_does_not_answer_is_not_online(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let state = async || world.control.host(&world.admin, "here").await.expect("a host").value;
    assert_eq!(state().await.state, HostState::Online);
    world.shared.outside().host_fails = Some(&codes::HOST_UNAVAILABLE);
    let job = world.backup("web").await;
    // It says at once why it waits, which try that was, and when the next is.
    assert_eq!((job.state, job.current_try(), job.max_tries), (JobState::Queued, 1, 3));
    assert_eq!(job.error.expect("why").code.as_str(), "host.unavailable");
    assert!(job.not_before.is_some());
    let host = state().await;
    assert_eq!(host.state, HostState::Unreachable);
    assert_eq!(host.error.expect("why").code.as_str(), "host.unavailable");
    world.shared.outside().host_fails = None;
    world.pass(HOUR);
    world.settle().await;
    assert_eq!(world.job(job.id).await.state, JobState::Completed);
    let host = state().await;
    assert_eq!((host.state, host.error), (HostState::Online, None));
}
