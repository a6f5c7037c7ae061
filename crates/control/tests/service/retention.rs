//! Retention: what goes, what stays, and what comes back.

use strongroom_api::{
    Immutability, PointState, PointUpdate, PolicyUpdate, StopMode, StopProtection, VaultUpdate,
};
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_policy::{DailyRetention, PolicyRules};

use crate::world::{DAY, World, refusal};

on_both_databases! {
    old_points_go_and_the_last_stays,
    a_shorter_policy_cuts_softly,
    an_immutable_vault_keeps_all,
    a_point_can_be_kept_longer_and_deleted,
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
