//! Retention: what goes, what stays, and what comes back.

use strongroom_api::{
    AlertState, Immutability, JobKind, JobState, PointState, PointUpdate, PolicyUpdate, StopMode,
    StopProtection, VaultUpdate,
};
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_policy::{DailyRetention, PolicyRules};

use crate::world::{DAY, HOUR, World, refusal};

on_both_databases! {
    old_points_go_and_the_last_stays,
    a_shorter_policy_cuts_softly,
    an_immutable_vault_keeps_all,
    a_point_can_be_kept_longer_and_deleted,
    notes_of_others_are_not_executed_and_raise_an_alert,
    points_of_a_locked_vault_are_locked_as_long_as_promised,
    points_that_are_gone_from_their_vault_are_lost,
}

async fn rules(world: &World) -> PolicyRules {
    let policy = world.control.policy(&world.admin, "main", "default").await.expect("a policy");
    policy.value.rules
}

async fn set_days(world: &World, days: u16) -> strongroom_control::Result<()> {
    let mut rules = rules(world).await;
    rules.retention.daily = Some(DailyRetention { days });
    let change = PolicyUpdate { rules: Some(rules), ..Default::default() };
    world.control.update_policy(&world.admin, "main", "default", None, change).await.map(drop)
}

async fn old_points_go_and_the_last_stays(bed: Bed) {
    let world = World::new(bed).await;
    let uuid = world.machine("web");
    world.protected("web").await;
    set_days(&world, 7).await.expect("changes");
    world.days(12).await;
    let points = world.points("web").await;
    assert!((7..=9).contains(&points.len()), "{}", points.len());
    assert_eq!(world.stored(), points.len());
    // No more backups: all but the last go.
    world.shared.outside().machines.remove(&uuid);
    world.days(20).await;
    let points = world.points("web").await;
    assert_eq!((points.len(), world.stored()), (1, 1));
    assert!(points[0].kept_by.contains(&"last_point".to_owned()));
    assert_eq!(points[0].expires, None);
}

async fn a_shorter_policy_cuts_softly(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.days(20).await;
    assert_eq!(world.points("web").await.len(), 20);
    let mut shorter = rules(&world).await;
    shorter.retention.daily = Some(DailyRetention { days: 7 });
    let preview = world
        .control
        .preview_policy(&world.admin, "main", "default", shorter)
        .await
        .expect("a preview");
    assert!(preview.shorter && preview.removed_now > 0, "{preview:?}");
    set_days(&world, 7).await.expect("changes");
    world.settle().await;
    let points = world.points("web").await;
    let cut: Vec<_> = points.iter().filter(|p| p.state == PointState::SoftDeleted).collect();
    assert_eq!(u64::try_from(cut.len()).expect("few"), preview.removed_now);
    assert_eq!(world.stored(), 20, "softly");
    assert!(world.alerts().await.iter().any(|alert| alert.rule == "shorter_retention"));
    // One of them comes back by being kept longer.
    let until = world.now().checked_add(jiff::SignedDuration::from_hours(24 * 365)).expect("it");
    let change = PointUpdate { retain_until: Some(until) };
    let id = cut[0].id.to_string();
    let kept =
        world.control.update_point(&world.admin, "web", &id, None, change).await.expect("keeps");
    assert_eq!(kept.value.state, PointState::Restorable);
    // What was made under the longer promise goes softly too, when the shorter one is over.
    world.days(7 + 14 + 1).await;
    let points = world.points("web").await;
    assert!(points.iter().any(|point| point.id.to_string() == id));
    assert!(points.iter().filter(|p| p.state == PointState::SoftDeleted).count() == 0);
    assert!(world.stored() <= 11, "{}", world.stored());
}

async fn an_immutable_vault_keeps_all(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.days(5).await;
    let set = |immutability| VaultUpdate { immutability: Some(immutability), ..Default::default() };
    let update =
        async |change| world.control.update_vault(&world.admin, "main", None, change).await;
    update(set(Immutability::Unlocked)).await.expect("changes");
    assert_eq!(refusal(set_days(&world, 7).await), "vault.immutable");
    let stop = StopProtection { mode: StopMode::DeleteData };
    let stopped = world.control.stop_protection(&world.admin, "web", stop).await;
    assert_eq!(refusal(stopped), "vault.immutable");
    let deleted = world.control.delete_point(&world.admin, "web", "latest", None).await;
    assert_eq!(refusal(deleted), "vault.immutable");
    set_days(&world, 60).await.expect("longer is allowed");
    update(set(Immutability::Disabled)).await.expect("unlocked can be turned off");
    update(set(Immutability::Locked)).await.expect("locks");
    for weaker in [Immutability::Disabled, Immutability::Unlocked] {
        assert_eq!(refusal(update(set(weaker)).await), "vault.irreversible");
    }
    // What expires by itself goes nevertheless.
    world.days(70).await;
    assert!(world.points("web").await.len() < 70);
}

async fn a_point_can_be_kept_longer_and_deleted(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let (control, admin) = (&world.control, &world.admin);
    assert_eq!(refusal(control.delete_point(admin, "web", "latest", None).await), "point.last");
    world.pass(60);
    world.backup("web").await;
    let deleted = control.delete_point(admin, "web", "latest", None).await.expect("deletes").value;
    assert_eq!(deleted.state, PointState::SoftDeleted);
    assert_eq!(world.stored(), 2);
    world.pass(15 * DAY);
    world.settle().await;
    assert_eq!(world.points("web").await.iter().filter(|p| p.id == deleted.id).count(), 0);
}

/// The names of the rules whose alerts hold.
async fn firing(world: &World) -> Vec<String> {
    let alerts = world.alerts().await.into_iter();
    alerts.filter(|alert| alert.state == AlertState::Firing).map(|alert| alert.rule).collect()
}

async fn reclaim(world: &World) {
    world.pass(2 * HOUR);
    world.settle().await;
    let jobs = world.jobs(JobKind::Reclaim).await;
    assert!(jobs.iter().all(|job| job.state == JobState::Completed), "{jobs:#?}");
}

async fn notes_of_others_are_not_executed_and_raise_an_alert(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.reclaim_every_hours = 1).await;
    world.protected("web").await;
    world.backup("web").await;
    world.pass(60);
    world.backup("web").await;
    let points = world.points("web").await;
    let deleted = points[1].id;
    // Somebody with the key puts a note.
    world.shared.outside().stores.get_mut("/vaults/main").expect("it").hidden.insert(deleted);
    reclaim(&world).await;
    assert_eq!(world.stored(), 2, "it is kept");
    let alerts = world.alerts().await;
    let alert = alerts.iter().find(|alert| alert.rule == "foreign_deletion").expect("an alert");
    let error = alert.error.as_ref().expect("an error");
    assert_eq!(error.code.as_str(), "point.foreign_deletion");
    assert!(error.message.contains(&deleted.to_string()), "{}", error.message);
    // It can be restored, as the list says.
    assert!(world.points("web").await.iter().all(|point| point.state == PointState::Restorable));
    // What the service itself has given up goes.
    let id = points[0].id.to_string();
    world.control.delete_point(&world.admin, "web", &id, None).await.expect("deletes");
    world.days(15).await;
    assert!(!world.points("web").await.iter().any(|point| point.id == points[0].id));
    // The note is taken back.
    world.shared.outside().stores.get_mut("/vaults/main").expect("it").hidden.clear();
    reclaim(&world).await;
    assert!(!firing(&world).await.contains(&"foreign_deletion".to_owned()));
}

async fn points_of_a_locked_vault_are_locked_as_long_as_promised(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.reclaim_every_hours = 1).await;
    world.protected("web").await;
    world.backup("web").await;
    assert_eq!(world.points("web").await[0].locked_until, None);
    let lock = VaultUpdate { immutability: Some(Immutability::Locked), ..Default::default() };
    world.control.update_vault(&world.admin, "main", None, lock).await.expect("locks");
    world.pass(60);
    world.backup("web").await;
    let points = world.points("web").await;
    let (new, old) = (&points[0], &points[1]);
    // The new one by its manifest, the old one by a lock of its own.
    assert!(new.locked_until.is_some() && new.locked_until >= new.expires, "{new:#?}");
    assert!(old.locked_until.is_some(), "{old:#?}");
    let locks = world.shared.outside().stores["/vaults/main"].locks.clone();
    assert_eq!(locks.len(), 2);
    // A longer promise extends the lock.
    let until = world.now().checked_add(jiff::SignedDuration::from_hours(24 * 90)).expect("it");
    let change = PointUpdate { retain_until: Some(until) };
    let id = new.id.to_string();
    world.control.update_point(&world.admin, "web", &id, None, change).await.expect("longer");
    reclaim(&world).await;
    let longer = world.shared.outside().stores["/vaults/main"].locks.clone();
    assert!(longer[&new.id] > locks[&new.id], "{longer:?}");
    // What expires goes although it was locked, not earlier.
    world.days(62).await;
    assert!(!world.points("web").await.iter().any(|point| point.id == old.id));
}

async fn points_that_are_gone_from_their_vault_are_lost(bed: Bed) {
    let mut world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let first = world.points("web").await[0].id;
    let rolled_back = world.shared.outside().stores["/vaults/main"].points.clone();
    world.pass(60);
    world.backup("web").await;
    let second = world.points("web").await[0].id;
    let newer = world.shared.outside().stores["/vaults/main"].points.clone();
    let set = |points| {
        world.shared.outside().stores.get_mut("/vaults/main").expect("it").points = points;
    };
    let lost = |points: Vec<strongroom_api::RecoveryPoint>| -> Vec<_> {
        let lost = points.into_iter().filter(|point| point.state == PointState::Lost);
        lost.map(|point| point.id).collect()
    };
    // A verification notices it, as the vault itself does not tell, and that it is back.
    for (points, gone) in [(&rolled_back, &[second][..]), (&newer, &[])] {
        set(points.clone());
        let (control, admin) = (&world.control, &world.admin);
        control.begin_in_vault(admin, "main", JobKind::Verify).await.expect("begins");
        world.settle().await;
        assert_eq!(lost(world.points("web").await), gone);
        let firing = world
            .alerts()
            .await
            .into_iter()
            .any(|alert| alert.rule == "points_missing" && alert.state == AlertState::Firing);
        assert_eq!(firing, !gone.is_empty());
    }
    set(rolled_back.clone());
    // The next backup notices it.
    world.pass(60);
    world.backup("web").await;
    assert_eq!(lost(world.points("web").await), [second]);
    let alerts = world.alerts().await;
    let alert = alerts.iter().find(|alert| alert.rule == "points_missing").expect("an alert");
    let error = alert.error.as_ref().expect("an error");
    assert!(error.code.as_str() == "point.lost" && error.message.contains(&second.to_string()));
    assert!(!error.message.contains(&first.to_string()));
    let restore = serde_json::from_str(r#"{"mode":"disks","folder":"/restore"}"#).expect("it");
    let id = second.to_string();
    let refused = world.control.restore(&world.admin, "web", &id, restore).await;
    assert_eq!(refusal(refused), "point.not_restorable");
    // It is found again.
    let third = world.shared.outside().stores["/vaults/main"].points.clone();
    set(third.into_iter().chain(newer).collect());
    world.set(|settings| settings.measure_every_hours = 1).await;
    world.pass(2 * HOUR);
    world.settle().await;
    assert_eq!(lost(world.points("web").await), []);
    assert!(!firing(&world).await.contains(&"points_missing".to_owned()));
}
