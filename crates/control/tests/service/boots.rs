//! Boot verifications: asked for, begun by policies, and what follows from how far a machine came.

use strongroom_api::{
    AlertState, BackupNow, BootOutcome, BootPolicy, BootStep, BootWanted, BootWhen, Job, JobKind,
    JobState, PointState, PolicyUpdate, RecoveryPoint, Restore, RestoreMachine, StopMode,
    StopProtection, Trigger,
};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::BootSight;

use crate::world::{DAY, HOUR, World, refusal};

on_both_databases! {
    a_point_is_booted_and_says_so,
    a_point_that_does_not_boot_is_an_alert_until_a_newer_one_boots,
    each_verification_is_carried_out,
    a_pass_of_which_less_was_asked_ends_no_alert,
    a_new_point_or_policy_is_not_waited_for,
    points_that_cannot_be_booted_do_not_take_turns,
    what_is_deleted_is_not_booted,
    a_policy_boots_every_point_in_order,
    a_policy_boots_the_newest_only,
    a_policy_boots_once_a_week,
    a_verification_that_cannot_be_made_is_not_repeated_at_once,
    a_backup_does_not_wait_for_a_verification,
    a_point_whose_data_is_damaged_is_damaged,
    what_cannot_be_booted_is_refused,
}

async fn boots(world: &World) -> Vec<Job> {
    let mut jobs = world.jobs(JobKind::VerifyBoot).await;
    jobs.sort_by_key(|job| job.created);
    jobs
}

/// The points that were booted, oldest order first.
fn booted(world: &World) -> Vec<String> {
    world.shared.outside().booted.iter().map(|(point, _)| point.to_string()).collect()
}

async fn newest(world: &World) -> RecoveryPoint {
    world.points("web").await.remove(0)
}

async fn boot(world: &World, wanted: BootWanted) -> Job {
    let job = world.control.verify_boot(&world.admin, "web", "latest", wanted).await;
    let job = job.expect("begins");
    world.settle().await;
    world.job(job).await
}

async fn policy(world: &World, when: BootWhen) {
    let wanted = BootWanted { ports: vec![22], ..BootWanted::default() };
    let boot = Some(BootPolicy { when, wanted });
    let change = PolicyUpdate { boot, ..PolicyUpdate::default() };
    let changed = world.control.update_policy(&world.admin, "main", "default", None, change).await;
    let kept = changed.expect("changes").value.boot.map(|boot| boot.when);
    assert_eq!(kept, Some(when).filter(|when| *when != BootWhen::Never));
}

/// Lets the service look after its house, and do what comes of it.
async fn house(world: &World) {
    world.control.keep_house().await.expect("looks");
    world.settle().await;
}

async fn firing(world: &World) -> usize {
    let alerts = world.alerts().await.into_iter();
    alerts.filter(|alert| alert.rule == "boot_failed" && alert.state == AlertState::Firing).count()
}

async fn a_point_is_booted_and_says_so(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    assert_eq!(newest(&world).await.boot, None);
    let report = world.control.boot_report(&world.admin, "web", "latest").await;
    assert_eq!(refusal(report), "boot.not_found");

    let wanted = BootWanted { expect: Some(BootStep::Agent), ..BootWanted::default() };
    let job = boot(&world, wanted.clone()).await;
    assert_eq!((job.state, job.trigger), (JobState::Completed, Trigger::OnDemand));
    let point = newest(&world).await;
    assert_eq!((job.recovery_point, job.item), (Some(point.id), Some(point.item)));
    assert_eq!(world.shared.outside().booted, [(point.id, wanted)]);
    let known = point.boot.expect("booted");
    assert_eq!((known.outcome, known.job), (BootOutcome::Passed, Some(job.id)));
    assert_eq!((known.reached, known.reached_ms), (Some(BootStep::Agent), Some(6500)));
    assert_eq!(job.report.expect("a report"), {
        let report = world.control.boot_report(&world.admin, "web", "latest").await;
        report.expect("kept")
    });
    let sight = |what| world.control.boot_sight(&world.admin, "web", "latest", what);
    let picture = sight(BootSight::Screenshot).await.expect("a picture");
    assert_eq!(picture, ("image/png".to_owned(), vec![1, 2, 3]));
    let console = sight(BootSight::Console).await.expect("a text");
    assert_eq!(console.1, b"a line\n");
    assert_eq!(firing(&world).await, 0);
}

async fn a_point_that_does_not_boot_is_an_alert_until_a_newer_one_boots(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let reason = "agent: it never answered";
    world.shared.outside().boots_fail.push_back(Some(reason));
    let job = boot(&world, BootWanted::default()).await;
    // The job has done what it is for.
    assert_eq!(job.state, JobState::CompletedWithWarnings);
    assert_eq!(job.warnings[0].code, codes::BOOT_FAILED);
    assert!(job.warnings[0].message.contains(reason), "{:?}", job.warnings);
    assert!(job.report.is_some());
    let bad = newest(&world).await;
    let known = bad.boot.expect("booted");
    assert_eq!((known.outcome, known.reason.as_deref()), (BootOutcome::Failed, Some(reason)));
    assert_eq!(firing(&world).await, 1);

    // Who restores it is warned.
    let restore = Restore::Machine(RestoreMachine::default());
    let begun =
        world.control.restore(&world.admin, "web", "latest", restore).await.expect("begins");
    world.settle().await;
    let restored = world.job(begun).await;
    assert_eq!(restored.state, JobState::CompletedWithWarnings);
    assert_eq!(restored.warnings[0].code, codes::BOOT_FAILED);

    world.pass(HOUR);
    world.backup("web").await;
    boot(&world, BootWanted::default()).await;
    assert_eq!(firing(&world).await, 0);
    // The older one fails again: the newest is good, and that is what counts.
    world.shared.outside().boots_fail.push_back(Some(reason));
    let old = bad.id.to_string();
    let again = world.control.verify_boot(&world.admin, "web", &old, BootWanted::default()).await;
    again.expect("begins");
    world.settle().await;
    assert_eq!(firing(&world).await, 0);
    assert_eq!(boots(&world).await.len(), 3);
}

async fn each_verification_is_carried_out(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let ask = |port| BootWanted { ports: vec![port], ..BootWanted::default() };
    for port in [1, 2] {
        let begun = world.control.verify_boot(&world.admin, "web", "latest", ask(port)).await;
        begun.expect("begins");
    }
    world.settle().await;
    let mut ports: Vec<_> =
        world.shared.outside().booted.iter().map(|(_, wanted)| wanted.ports[0]).collect();
    ports.sort_unstable();
    assert_eq!(ports, [1, 2]);
}

async fn a_pass_of_which_less_was_asked_ends_no_alert(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    world.shared.outside().boots_fail.push_back(Some("agent: it never answered"));
    boot(&world, BootWanted::default()).await;
    assert_eq!(firing(&world).await, 1);
    let little = BootWanted { expect: Some(BootStep::PowerOn), ..BootWanted::default() };
    world.pass(60);
    boot(&world, little.clone()).await;
    assert_eq!(firing(&world).await, 1);
    world.pass(60);
    boot(&world, BootWanted::default()).await;
    assert_eq!(firing(&world).await, 0);
}

async fn a_new_point_or_policy_is_not_waited_for(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    policy(&world, BootWhen::Newest).await;
    let fail = |code| world.shared.outside().host_fails = code;
    for again in [false, true] {
        world.pass(60);
        world.backup("web").await;
        fail(Some(&codes::HOST_UNAVAILABLE));
        house(&world).await;
        fail(None);
        house(&world).await;
        // Of a point that could not be booted now nothing is tried.
        assert_eq!(booted(&world).len(), usize::from(again));
        if again {
            world.backup("web").await;
        } else {
            world.pass(60);
            policy(&world, BootWhen::Newest).await;
        }
        house(&world).await;
        assert_eq!(booted(&world).len(), usize::from(again) + 1);
    }
}

async fn points_that_cannot_be_booted_do_not_take_turns(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    policy(&world, BootWhen::EveryPoint).await;
    for _ in 0..2 {
        world.pass(60);
        world.backup("web").await;
    }
    world.shared.outside().host_fails = Some(&codes::HOST_UNAVAILABLE);
    for _ in 0..4 {
        house(&world).await;
    }
    let jobs = boots(&world).await;
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    assert!(jobs.iter().all(|job| job.state == JobState::Failed), "{jobs:?}");
}

async fn what_is_deleted_is_not_booted(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    world.shared.outside().boots_fail.push_back(Some("agent: it never answered"));
    let begun =
        world.control.verify_boot(&world.admin, "web", "latest", BootWanted::default()).await;
    begun.expect("begins");
    let stop = StopProtection { mode: StopMode::DeleteData };
    world.control.stop_protection(&world.admin, "web", stop).await.expect("stops");
    world.settle().await;
    assert_eq!(firing(&world).await, 0);
    let begun =
        world.control.verify_boot(&world.admin, "web", "latest", BootWanted::default()).await;
    assert_eq!(refusal(begun), "item.soft_deleted");
}

async fn a_policy_boots_every_point_in_order(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    world.pass(HOUR);
    policy(&world, BootWhen::EveryPoint).await;
    house(&world).await;
    // It was complete before somebody asked for this.
    assert_eq!(boots(&world).await, []);

    let mut points = Vec::new();
    for _ in 0..2 {
        world.pass(HOUR);
        world.backup("web").await;
        points.push(newest(&world).await.id.to_string());
    }
    house(&world).await;
    assert_eq!(booted(&world), points);
    house(&world).await;
    let jobs = boots(&world).await;
    assert_eq!(jobs.len(), 2);
    assert!(jobs.iter().all(|job| job.trigger == Trigger::Scheduled), "{jobs:?}");
    assert_eq!(world.shared.outside().booted[0].1.ports, [22]);

    policy(&world, BootWhen::Never).await;
    world.pass(HOUR);
    world.backup("web").await;
    house(&world).await;
    assert_eq!(boots(&world).await.len(), 2);
}

async fn a_policy_boots_the_newest_only(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    policy(&world, BootWhen::Newest).await;
    for _ in 0..3 {
        world.pass(HOUR);
        world.backup("web").await;
    }
    house(&world).await;
    house(&world).await;
    assert_eq!(booted(&world), [newest(&world).await.id.to_string()]);
}

async fn a_policy_boots_once_a_week(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    policy(&world, BootWhen::Weekly).await;
    world.backup("web").await;
    house(&world).await;
    assert_eq!(booted(&world).len(), 1);
    for _ in 0..6 {
        world.pass(DAY);
        world.backup("web").await;
        house(&world).await;
    }
    assert_eq!(booted(&world).len(), 1);
    world.pass(DAY);
    house(&world).await;
    assert_eq!(booted(&world).len(), 2);
    assert!(booted(&world)[1] > booted(&world)[0]);
}

async fn a_verification_that_cannot_be_made_is_not_repeated_at_once(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    policy(&world, BootWhen::Newest).await;
    world.backup("web").await;
    world.shared.outside().host_fails = Some(&codes::HOST_UNAVAILABLE);
    house(&world).await;
    world.shared.outside().host_fails = None;
    house(&world).await;
    let jobs = boots(&world).await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].state, JobState::Failed);
    assert_eq!(newest(&world).await.boot, None);
    world.pass(7 * HOUR);
    house(&world).await;
    assert_eq!((boots(&world).await.len(), booted(&world).len()), (2, 1));
}

async fn a_backup_does_not_wait_for_a_verification(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let begun =
        world.control.verify_boot(&world.admin, "web", "latest", BootWanted::default()).await;
    begun.expect("begins");
    assert_eq!(world.item("web").await.job, None);
    let backup = world.control.backup_now(&world.admin, "web", BackupNow::default()).await;
    backup.expect("it is free");
    world.settle().await;
    assert_eq!((boots(&world).await.len(), booted(&world).len()), (1, 1));
}

async fn a_point_whose_data_is_damaged_is_damaged(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    world.shared.outside().boot_damage = Some(&codes::STORE_CORRUPT);
    let job = boot(&world, BootWanted::default()).await;
    assert_eq!(job.state, JobState::CompletedWithWarnings);
    assert_eq!(job.warnings[0].code, codes::STORE_CORRUPT);
    assert_eq!(newest(&world).await.state, PointState::Damaged);
}

async fn what_cannot_be_booted_is_refused(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let begin = |point, wanted| world.control.verify_boot(&world.admin, "web", point, wanted);
    assert_eq!(refusal(begin("latest", BootWanted::default()).await), "point.not_found");
    world.backup("web").await;
    let wanted = BootWanted { processors: Some(0), ..BootWanted::default() };
    assert_eq!(refusal(begin("latest", wanted.clone()).await), "request.invalid");
    let boot = Some(BootPolicy { when: BootWhen::Weekly, wanted });
    let change = PolicyUpdate { boot, ..PolicyUpdate::default() };
    let changed = world.control.update_policy(&world.admin, "main", "default", None, change).await;
    assert_eq!(refusal(changed), "request.invalid");
    assert_eq!(boots(&world).await, []);
}
