//! Jobs: one at a time, tried again, cancelled, killed.

use strongroom_api::{
    self as api, AlertState, BackupNow, JobKind, JobState, PointState, ProtectionState as P,
    Severity, TaskName, TaskState,
};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::{AlertFilter, PageRequest, Rule};

use crate::world::{HOUR, World, refusal};

on_both_databases! {
    a_replacement_waits_to_be_accepted_or_undone,
    figures_of_a_finished_job_are_its_results,
    one_operation_at_a_time,
    what_may_pass_is_tried_again,
    a_failure_alerts_once_and_is_resolved,
    alerts_are_listed_by_what_they_are_about,
    cancelled_while_it_waits_and_while_it_runs,
    a_server_that_dies_loses_and_doubles_nothing,
    a_point_is_restorable_only_when_validated,
    restores_go_through,
}

async fn one_operation_at_a_time(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let now = BackupNow::default();
    let first = world.control.backup_now(&world.admin, "web", now.clone()).await.expect("begins");
    let error = world.control.backup_now(&world.admin, "web", now).await.expect_err("busy").body();
    assert_eq!(error.code.as_str(), "item.busy");
    let job = error.params.get("job").map(ToString::to_string);
    assert_eq!((job, error.link), (Some(first.to_string()), None));
    world.settle().await;
    assert_eq!(world.job(first).await.state, JobState::Completed);
    assert_eq!(world.backup("web").await.state, JobState::Completed);
}

async fn what_may_pass_is_tried_again(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let fail = Some(&codes::STORE_UNAVAILABLE);
    world.shared.outside().backups_fail.extend([fail, fail]);
    let job = world.backup("web").await;
    assert_eq!((job.state, job.attempt), (JobState::Queued, 1));
    assert_eq!(job.error.expect("why").code.as_str(), "store.unavailable");
    // Meanwhile the item is busy still.
    assert_eq!(
        refusal(world.control.backup_now(&world.admin, "web", BackupNow::default()).await),
        "item.busy"
    );
    world.pass(HOUR);
    world.settle().await;
    world.pass(HOUR);
    world.settle().await;
    let job = world.job(job.id).await;
    assert_eq!((job.state, job.attempt, job.error), (JobState::Completed, 3, None));
}

async fn a_failure_alerts_once_and_is_resolved(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    for failures in 1..=3 {
        world.shared.outside().backups_fail.push_back(Some(&codes::KEY_WRONG));
        assert_eq!(world.backup("web").await.state, JobState::Failed);
        let item = world.item("web").await;
        assert_eq!((item.state, item.failures), (P::ProtectionError, failures));
    }
    let alerts = world.alerts().await;
    assert_eq!((alerts.len(), alerts[0].count), (1, 3));
    let status = world.control.status(&world.admin).await.expect("a status");
    assert_eq!((status.failing.len(), status.failing[0].failures), (1, 3));
    assert_eq!(status.jobs_24_hours["failed"], 3);
    world.backup("web").await;
    assert_eq!(world.alerts().await[0].state, AlertState::Resolved);
    assert_eq!(world.item("web").await.state, P::Protected);
}

async fn alerts_are_listed_by_what_they_are_about(bed: Bed) {
    let world = World::new(bed).await;
    for name in ["web", "db"] {
        world.protected(name).await;
        world.shared.outside().backups_fail.push_back(Some(&codes::KEY_WRONG));
        world.backup(name).await;
    }
    world.backup("db").await;
    let count = async |which: AlertFilter| {
        let at = PageRequest { limit: Some(1000), token: None };
        world.control.alerts(&world.admin, &which, &at).await.expect("alerts").items.len()
    };
    let all = AlertFilter::default;
    let word = |text: &str| Some(text.to_owned());
    assert_eq!(count(all()).await, 2);
    assert_eq!(count(AlertFilter { state: Some(AlertState::Firing), ..all() }).await, 1);
    assert_eq!(count(AlertFilter { severity: Some(Severity::Error), ..all() }).await, 2);
    assert_eq!(count(AlertFilter { severity: Some(Severity::Critical), ..all() }).await, 0);
    assert_eq!(count(AlertFilter { rule: Some(Rule::BackupFailed), ..all() }).await, 2);
    assert_eq!(count(AlertFilter { rule: Some(Rule::JobFailed), ..all() }).await, 0);
    assert_eq!(count(AlertFilter { item: word("web"), ..all() }).await, 1);
    assert_eq!(count(AlertFilter { vault: word("main"), ..all() }).await, 2);
    let both = AlertFilter { item: word("db"), state: Some(AlertState::Firing), ..all() };
    assert_eq!(count(both).await, 0);
    let nobody = AlertFilter { item: word("nobody"), ..all() };
    let at = PageRequest { limit: None, token: None };
    assert_eq!(refusal(world.control.alerts(&world.admin, &nobody, &at).await), "item.unknown");
}

async fn cancelled_while_it_waits_and_while_it_runs(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let now = BackupNow::default();
    let begun = world.control.backup_now(&world.admin, "web", now.clone()).await.expect("begins");
    let id = begun.to_string();
    let job = world.control.cancel_job(&world.admin, &id).await.expect("cancels");
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!(world.item("web").await.job, None);
    assert_eq!(refusal(world.control.cancel_job(&world.admin, &id).await), "job.finished");

    world.shared.outside().hold = true;
    let begun = world.control.backup_now(&world.admin, "web", now).await.expect("begins");
    let mut events = world.control.job_events();
    let control = std::sync::Arc::clone(&world.control);
    let work = tokio::spawn(async move { control.settle().await });
    loop {
        let job = events.recv().await.expect("an event");
        if job.tasks.iter().any(|task| task.state == TaskState::InProgress) {
            break;
        }
    }
    let job = world.control.cancel_job(&world.admin, &begun.to_string()).await.expect("it");
    assert_eq!(job.state, JobState::Cancelling);
    work.await.expect("ends").expect("settles");
    assert_eq!(world.job(begun).await.state, JobState::Cancelled);
    assert_eq!((world.stored(), world.item("web").await.job), (0, None));
}

async fn a_server_that_dies_loses_and_doubles_nothing(bed: Bed) {
    let mut world = World::new(bed).await;
    world.protected("web").await;
    world.shared.outside().hold = true;
    let begun =
        world.control.backup_now(&world.admin, "web", BackupNow::default()).await.expect("begins");
    let control = std::sync::Arc::clone(&world.control);
    let mut events = world.control.job_events();
    let work = tokio::spawn(async move { control.settle().await });
    let at_work = |job: &strongroom_api::Job| {
        job.tasks.iter().any(|task| task.state == TaskState::InProgress)
    };
    while !at_work(&events.recv().await.expect("an event")) {}
    // The process is gone; what it had told the host goes on to its end, as after a real kill.
    work.abort();
    world.shared.outside().hold = false;
    while world.stored() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    world.restart().await;
    let job = world.job(begun).await;
    assert_eq!(job.state, JobState::Queued);
    assert_eq!(job.error.expect("why").code.as_str(), "job.interrupted");
    world.settle().await;
    let job = world.job(begun).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 2));
    assert_eq!((world.stored(), world.points("web").await.len()), (1, 1));
    assert_eq!(world.item("web").await.job, None);
}

async fn a_point_is_restorable_only_when_validated(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    world.pass(60);
    world.shared.outside().validation_fails = Some(&codes::STORE_CORRUPT);
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::Failed);
    let validate = job.tasks.iter().find(|task| task.name == TaskName::Validate).expect("a task");
    assert_eq!(validate.state, TaskState::Failed);
    let points = world.points("web").await;
    assert_eq!((points[0].state, points[1].state), (PointState::Damaged, PointState::Restorable));
    assert_eq!(world.item("web").await.last_point, Some(points[1].id));
    let restore = strongroom_api::Restore::Machine(strongroom_api::RestoreMachine::default());
    let id = points[0].id.to_string();
    let refused = world.control.restore(&world.admin, "web", &id, restore).await;
    assert_eq!(refusal(refused), "point.not_restorable");
}

async fn restores_go_through(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let to = |folder: &str| {
        strongroom_api::Restore::Disks(strongroom_api::RestoreDisks {
            folder: Some(folder.to_owned()),
            ..Default::default()
        })
    };
    let onto = |path: &str| {
        strongroom_api::Restore::Disks(strongroom_api::RestoreDisks {
            targets: [("vda".to_owned(), path.to_owned())].into(),
            in_place: true,
            ..Default::default()
        })
    };
    let nowhere = strongroom_api::Restore::Disks(strongroom_api::RestoreDisks::default());
    let refused = world.control.restore(&world.admin, "web", "latest", nowhere).await;
    assert_eq!(refusal(refused), "request.invalid");
    for bad in ["/etc", "/restore/../etc", "restore", "/restored"] {
        let refused = world.control.restore(&world.admin, "web", "latest", to(bad)).await;
        assert_eq!(refusal(refused), "place.not_allowed", "{bad}");
        let refused = world.control.restore(&world.admin, "web", "latest", onto(bad)).await;
        assert_eq!(refusal(refused), "place.not_allowed", "{bad}");
    }
    let begun =
        world.control.restore(&world.admin, "web", "latest", to("/restore/x")).await.expect("it");
    world.settle().await;
    let job = world.job(begun).await;
    assert_eq!((job.state, job.kind), (JobState::Completed, JobKind::Restore));
    assert_eq!(world.shared.outside().restores_made, 1);
}

async fn a_replacement_waits_to_be_accepted_or_undone(bed: Bed) {
    let world = World::new(bed).await;
    let (control, admin) = (&world.control, &world.admin);
    world.protected("web").await;
    world.backup("web").await;
    let undo = api::RestoreDecision::Undo;
    assert_eq!(refusal(control.finish_restore(admin, "web", undo).await), "request.not_found");
    let replace = api::Restore::Replace(api::RestoreReplace::default());
    control.restore(admin, "web", "latest", replace).await.expect("begins");
    world.settle().await;
    let replaced = world.item("web").await.replaced.expect("it waits");
    assert_eq!((&*replaced.machine, replaced.time), ("uuid-of-web", world.now()));
    let status = control.status(admin).await.expect("a status");
    assert_eq!(status.open_restores[0].item, "web");
    let reminders = async || {
        let alerts = world.alerts().await.into_iter().filter(|it| it.rule == "restore_open");
        alerts.map(|it| (it.state, it.error.expect("why").code.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(reminders().await, []);
    world.days(2).await;
    assert_eq!(reminders().await, [(AlertState::Firing, "restore.open".to_owned())]);

    // What fails for whatever reason is to be decided still.
    for code in [&codes::VM_UNSUPPORTED, &codes::VM_OPERATION] {
        world.shared.outside().host_fails = Some(code);
        let begun = control.finish_restore(admin, "web", undo).await.expect("begins");
        world.settle().await;
        assert_eq!(world.job(begun).await.state, JobState::Failed);
        assert!(world.item("web").await.replaced.is_some(), "{}", code.name);
    }
    world.shared.outside().host_fails = None;

    let begun = control.finish_restore(admin, "web", undo).await.expect("begins");
    world.settle().await;
    assert_eq!(world.job(begun).await.state, JobState::Completed);
    assert_eq!(world.shared.outside().finished, [("uuid-of-web".to_owned(), undo)]);
    assert_eq!(world.item("web").await.replaced, None);
    assert_eq!(reminders().await, [(AlertState::Resolved, "restore.open".to_owned())]);
    assert_eq!(refusal(control.finish_restore(admin, "web", undo).await), "request.not_found");

    let replace = api::Restore::Replace(api::RestoreReplace::default());
    control.restore(admin, "web", "latest", replace).await.expect("begins");
    world.settle().await;
    world.shared.outside().decided_there = true;
    let begun = control.finish_restore(admin, "web", undo).await.expect("begins");
    world.settle().await;
    let job = world.job(begun).await;
    assert_eq!((job.state, job.warnings.len()), (JobState::CompletedWithWarnings, 1));
    assert_eq!(world.item("web").await.replaced, None);
}

async fn figures_of_a_finished_job_are_its_results(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    // The world's backups count more than there is, as one that reads something twice, and no tick of
    // progress has heard of the rest.
    let job = world.backup("web").await;
    let figures = job.progress.expect("figures");
    assert_eq!((figures.done_bytes, figures.total_bytes), (1 << 30, 1 << 30), "{figures:?}");
    assert_eq!(figures.stored_bytes, world.points("web").await[0].stored_bytes);
    assert_eq!((figures.bytes_per_second, figures.seconds_left), (0, None));
}
