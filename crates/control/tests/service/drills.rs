//! Drills: machines of a vault that are booted together.

use strongroom_api::{
    AlertState, BootOutcome, DrillPolicy, DrillWanted, Job, JobKind, JobState, Trigger, VaultUpdate,
};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, on_both_databases};

use crate::world::{DAY, HOUR, World, refusal};

on_both_databases! {
    machines_are_booted_together,
    a_drill_that_fails_is_an_alert_until_one_passes,
    a_vault_has_drills_by_itself,
    what_cannot_be_drilled_is_refused,
}

async fn two(bed: Bed) -> World {
    let world = World::new(bed).await;
    for name in ["db", "web"] {
        world.protected(name).await;
        world.backup(name).await;
    }
    world
}

async fn drill(world: &World, wanted: DrillWanted) -> Job {
    let job = world.control.drill(&world.admin, "main", wanted).await.expect("begins");
    world.settle().await;
    world.job(job).await
}

fn of(items: &[&str]) -> DrillWanted {
    DrillWanted { items: items.iter().map(ToString::to_string).collect(), ..Default::default() }
}

async fn drills(world: &World) -> Vec<Job> {
    world.jobs(JobKind::Drill).await
}

async fn machines_are_booted_together(bed: Bed) {
    let world = two(bed).await;
    let job = drill(&world, of(&["web", "db"])).await;
    assert_eq!((job.state, job.trigger), (JobState::Completed, Trigger::OnDemand));
    assert!(job.report.is_some() && job.item.is_none() && job.host.is_some());
    let newest = |points: Vec<strongroom_api::RecoveryPoint>| points[0].clone();
    let (web, db) = (newest(world.points("web").await), newest(world.points("db").await));
    let booted: Vec<_> = world.shared.outside().booted.iter().map(|(point, _)| *point).collect();
    assert_eq!(booted, [web.id, db.id]);
    for point in [web, db] {
        let boot = point.boot.expect("booted");
        assert_eq!((boot.outcome, boot.job), (BootOutcome::Passed, Some(job.id)));
    }
    // All machines of the vault; of an earlier time.
    let before = Some(world.now());
    world.pass(HOUR);
    world.backup("web").await;
    drill(&world, DrillWanted { before, ..DrillWanted::default() }).await;
    let booted: Vec<_> = world.shared.outside().booted.iter().map(|(point, _)| *point).collect();
    assert_eq!(booted.len(), 4);
    assert!(!booted.contains(&newest(world.points("web").await).id));
}

async fn a_drill_that_fails_is_an_alert_until_one_passes(bed: Bed) {
    let world = two(bed).await;
    world.shared.outside().boots_fail.extend([None, Some("agent: it never answered")]);
    let job = drill(&world, of(&["db", "web"])).await;
    assert_eq!(job.state, JobState::CompletedWithWarnings);
    assert_eq!(job.warnings[0].code, codes::DRILL_FAILED);
    assert!(job.warnings[0].message.ends_with(": web"), "{:?}", job.warnings);
    let firing = |alerts: Vec<strongroom_api::Alert>, rule: &str| {
        let firing = |alert: &&strongroom_api::Alert| alert.state == AlertState::Firing;
        alerts.iter().filter(firing).filter(|alert| alert.rule == rule).count()
    };
    for rule in ["drill_failed", "boot_failed"] {
        assert_eq!(firing(world.alerts().await, rule), 1, "{rule}");
    }
    // The one that failed does not take part.
    assert_eq!(drill(&world, of(&["db"])).await.state, JobState::Completed);
    assert_eq!(firing(world.alerts().await, "drill_failed"), 1);
    assert_eq!(drill(&world, of(&["db", "web"])).await.state, JobState::Completed);
    for rule in ["drill_failed", "boot_failed"] {
        assert_eq!(firing(world.alerts().await, rule), 0, "{rule}");
    }
}

async fn a_vault_has_drills_by_itself(bed: Bed) {
    let world = two(bed).await;
    let set = |every_days| {
        let drill = Some(DrillPolicy { every_days, wanted: DrillWanted::default() });
        VaultUpdate { drill, ..VaultUpdate::default() }
    };
    let changed = world.control.update_vault(&world.admin, "main", None, set(30)).await;
    assert_eq!(changed.expect("changes").value.drill.map(|drill| drill.every_days), Some(30));
    world.settle().await;
    let first = drills(&world).await;
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].trigger, first[0].state), (Trigger::Scheduled, JobState::Completed));
    world.pass(29 * DAY);
    world.settle().await;
    assert_eq!(drills(&world).await.len(), 1);
    world.pass(DAY);
    world.settle().await;
    assert_eq!(drills(&world).await.len(), 2);
    let changed = world.control.update_vault(&world.admin, "main", None, set(0)).await;
    assert_eq!(changed.expect("changes").value.drill, None);
    world.pass(40 * DAY);
    world.settle().await;
    assert_eq!(drills(&world).await.len(), 2);
}

async fn what_cannot_be_drilled_is_refused(bed: Bed) {
    let world = World::new(bed).await;
    let begin = |wanted| world.control.drill(&world.admin, "main", wanted);
    assert_eq!(refusal(begin(DrillWanted::default()).await), "request.invalid");
    assert_eq!(refusal(begin(of(&["nothing"])).await), "item.unknown");
    world.protected("web").await;
    world.backup("web").await;
    let elsewhere = DrillWanted { host: Some("elsewhere".to_owned()), ..of(&["web"]) };
    assert_eq!(refusal(begin(elsewhere).await), "host.unknown");
    let never = DrillWanted { within_seconds: Some(0), ..of(&["web"]) };
    assert_eq!(refusal(begin(never).await), "request.invalid");
    world.vault("other").await;
    let other = world.control.drill(&world.admin, "other", of(&["web"])).await;
    assert_eq!(refusal(other), "request.invalid");
    let drill = Some(DrillPolicy { every_days: 90, wanted: of(&["nothing"]) });
    let change = VaultUpdate { drill, ..VaultUpdate::default() };
    let changed = world.control.update_vault(&world.admin, "main", None, change).await;
    assert_eq!(refusal(changed), "item.unknown");
    assert_eq!(drills(&world).await, []);
}
