//! Points that may hold what ransomware has encrypted: each is an alert, which a person resolves.

use strongroom_api::{Alert, AlertState, BackupNow, HostUpdate, JobState, RecoveryPoint, Severity};
use strongroom_base::{Jump, JumpKind, LastBefore, Param, Suspicion, codes};
use strongroom_catalog::testing::{Bed, on_both_databases};

use crate::world::{HOUR, World};

on_both_databases! {
    a_suspect_point_is_an_alert_that_names_the_last_point_before,
    a_suspect_point_of_both_tiers_is_one_alert,
}

fn suspicion(before: &RecoveryPoint) -> Suspicion {
    let jump = Jump {
        disk: "vda".to_owned(),
        kind: JumpKind::Incompressible,
        bytes: 25 << 30,
        usual_bytes: 1 << 20,
        most_bytes: 3 << 20,
        points: 9,
    };
    Suspicion { jumps: vec![jump], last_before: LastBefore { id: before.id, time: before.time } }
}

/// The newest point, of an hour in which there is one.
async fn newest(world: &World) -> RecoveryPoint {
    world.points("web").await.remove(0)
}

async fn suspect_alerts(world: &World) -> Vec<Alert> {
    let alerts = world.alerts().await;
    alerts.into_iter().filter(|alert| alert.rule == "point_suspect").collect()
}

async fn a_suspect_point_is_an_alert_that_names_the_last_point_before(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let before = newest(&world).await;
    world.pass(HOUR);
    assert_eq!((before.suspicion.as_ref(), suspect_alerts(&world).await), (None, Vec::new()));

    world.shared.outside().suspicion = Some(suspicion(&before));
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::CompletedWithWarnings);
    assert_eq!(job.warnings[0].code, codes::POINT_SUSPECT);
    let point = newest(&world).await;
    assert_eq!(point.suspicion, Some(suspicion(&before)));
    let [alert] = &suspect_alerts(&world).await[..] else { panic!("one alert") };
    assert_eq!((alert.severity, alert.state), (Severity::Critical, AlertState::Firing));
    assert_eq!((alert.subject.as_str(), alert.item), ("web", Some(point.item)));
    assert_eq!(alert.job, Some(job.id));
    let error = alert.error.as_ref().expect("why");
    assert_eq!(error.code, codes::POINT_SUSPECT);
    let param = |name| error.params.get(name).cloned();
    let text = |value: &dyn ToString| Some(Param::Text(value.to_string()));
    assert_eq!((param("item"), param("point")), (text(&"web"), text(&point.id)));
    assert_eq!((param("before"), param("time")), (text(&before.id), text(&before.time)));
    assert_eq!(param("bytes"), Some(Param::Number(25 << 30)));

    // Backups that are as usual again resolve nothing; another suspect one is an alert of its own.
    world.backup("web").await;
    world.shared.outside().suspicion = Some(suspicion(&before));
    world.backup("web").await;
    let alerts = suspect_alerts(&world).await;
    let firing = |alert: &&Alert| alert.state == AlertState::Firing;
    assert_eq!((alerts.len(), alerts.iter().filter(firing).count()), (2, 2));
    let resolved = world.control.set_alert(&world.admin, alert.id, AlertState::Resolved).await;
    assert_eq!(resolved.expect("resolves").state, AlertState::Resolved);
}

async fn a_suspect_point_of_both_tiers_is_one_alert(bed: Bed) {
    let world = World::new(bed).await;
    world.vault("near").await;
    let change = HostUpdate { snapshot_vault: Some("near".to_owned()), ..HostUpdate::default() };
    world.control.update_host(&world.admin, "here", None, change).await.expect("changes");
    world.protected("web").await;
    world.backup("web").await;
    let before = newest(&world).await;
    world.pass(HOUR);
    world.shared.outside().suspicion = Some(suspicion(&before));
    world.shared.outside().transfers_fail.push_back(Some(&codes::KEY_WRONG));
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::CompletedWithWarnings, "{job:?}");
    let [alert] = &suspect_alerts(&world).await[..] else { panic!("one alert") };
    let snapshot = newest(&world).await.id;
    let named = alert.error.as_ref().expect("why").params.get("point").cloned();
    assert_eq!(named, Some(Param::Text(snapshot.to_string())));

    // It is transferred with the next backup.
    world.pass(HOUR);
    let now = BackupNow::default();
    world.control.backup_now(&world.admin, "web", now).await.expect("begins");
    world.settle().await;
    let points = world.points("web").await;
    assert!(points.iter().all(|point| point.id != snapshot), "it has the id of its copy");
    assert_eq!(points.iter().filter(|point| point.suspicion.is_some()).count(), 1);
    assert_eq!(suspect_alerts(&world).await.len(), 1);
}
