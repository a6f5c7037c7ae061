//! Vaults: one place once, deleted when empty, found again.

use strongroom_api::{
    AlertState, JobKind, JobState, Redundancy, Severity, SoftDelete, SoftDeleteState, StopMode,
    StopProtection, VaultState, VaultUpdate,
};
use strongroom_catalog::testing::{Bed, Fault, on_both_databases};
use strongroom_control::{PageRequest, jobs::JobFilter};
use strongroom_orders::VerifyDepth;

use crate::world::{DAY, World, refusal};

on_both_databases! {
    deleted_when_empty_and_brought_back,
    soft_delete_has_limits_and_can_be_fixed,
    regions_are_refused,
    measured_with_a_forecast,
    the_first_figures_come_after_an_hour,
    verified_every_day_and_read_within_a_month,
    damage_is_an_alert_until_all_is_read_and_well,
    a_vault_that_is_not_verified_is_an_alert,
    the_catalog_is_kept_in_the_vault,
    changes_need_the_version_that_is_there,
    a_vault_and_its_key_are_enough,
    a_vault_that_is_made_again_after_a_crash_can_be_opened,
    a_key_that_is_changed_fails_nobody,
}

async fn deleted_when_empty_and_brought_back(bed: Bed) {
    let world = World::new(bed).await;
    let (control, admin) = (&world.control, &world.admin);
    world.protected("web").await;
    assert_eq!(refusal(control.delete_vault(admin, "main", None).await), "vault.not_empty");
    let stop = StopProtection { mode: StopMode::DeleteData };
    control.stop_protection(admin, "web", stop).await.expect("stops");
    let deleted = control.delete_vault(admin, "main", None).await.expect("deletes").value;
    assert_eq!(deleted.state, VaultState::SoftDeleted);
    assert_eq!(refusal(control.delete_vault(admin, "main", None).await), "vault.soft_deleted");
    let back = control.undelete_vault(admin, "main").await.expect("comes back").value;
    assert_eq!(back.state, VaultState::Active);
    assert_eq!(refusal(control.undelete_vault(admin, "main").await), "vault.not_deleted");
    control.delete_vault(admin, "main", None).await.expect("deletes");
    world.pass(DAY);
    world.settle().await;
    control.vault(admin, "main").await.expect("it is there still");
    world.days(15).await;
    world.settle().await;
    assert_eq!(refusal(control.vault(admin, "main").await), "vault.unknown");
}

async fn soft_delete_has_limits_and_can_be_fixed(bed: Bed) {
    let world = World::new(bed).await;
    let update = async |state, retention_days| {
        let soft_delete = Some(SoftDelete { state, retention_days });
        let change = VaultUpdate { soft_delete, ..Default::default() };
        world.control.update_vault(&world.admin, "main", None, change).await
    };
    for days in [0, 13, 181] {
        assert_eq!(refusal(update(SoftDeleteState::Enabled, days).await), "request.invalid");
    }
    update(SoftDeleteState::Enabled, 180).await.expect("longer");
    update(SoftDeleteState::AlwaysOn, 30).await.expect("fixed");
    assert_eq!(refusal(update(SoftDeleteState::Enabled, 30).await), "vault.irreversible");
    assert_eq!(refusal(update(SoftDeleteState::Disabled, 30).await), "vault.irreversible");
}

async fn regions_are_refused(bed: Bed) {
    let world = World::new(bed).await;
    let change = VaultUpdate { redundancy: Some(Redundancy::ReadAccessGeo), ..Default::default() };
    let refused = world.control.update_vault(&world.admin, "main", None, change).await;
    assert_eq!(refusal(refused), "feature.missing");
}

async fn measured_with_a_forecast(bed: Bed) {
    let world = World::new(bed).await;
    let (control, admin) = (&world.control, &world.admin);
    world.protected("web").await;
    for _ in 0..2 {
        world.days(2).await;
        control.begin_in_vault(admin, "main", JobKind::MeasureUsage).await.expect("begins");
        world.settle().await;
    }
    let usage = control.usage(admin, "main").await.expect("measured");
    assert_eq!(usage.growth_bytes_per_day, Some(1 << 20));
    assert_eq!(usage.forecast_bytes_30_days, Some(usage.stored_bytes + (30 << 20)));
    assert_eq!((usage.instance_units, usage.items.len()), (2, 1));
    assert_eq!(usage.items[0].item, Some(world.item("web").await.id));
}

async fn the_first_figures_come_after_an_hour(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.measure_every_hours = 24).await;
    let measured = async |world: &World| {
        world.settle().await;
        let which = JobFilter { kind: Some(JobKind::MeasureUsage), ..JobFilter::default() };
        let jobs = world.control.jobs(&world.admin, &which, &PageRequest::default()).await;
        jobs.expect("listed").items.len()
    };
    for (seconds, count) in [(3599, 0), (1, 1), (23 * 3600, 1), (3600, 2)] {
        world.pass(seconds);
        assert_eq!(measured(&world).await, count, "{seconds}");
    }
}

async fn verified_every_day_and_read_within_a_month(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| (settings.verify_every_hours, settings.verify_all_days) = (24, 5)).await;
    for _ in 0..12 {
        world.pass(DAY);
        world.settle().await;
    }
    let looked = world.shared.outside().verified.clone();
    let structure = looked.iter().filter(|depth| **depth == VerifyDepth::Structure).count();
    assert_eq!(structure, 12, "{looked:?}");
    let parts = looked.iter().filter_map(|depth| match depth {
        VerifyDepth::Part { of } => Some(*of),
        _ => None,
    });
    assert_eq!(parts.collect::<Vec<_>>(), [5, 4, 3, 2, 1, 4, 3, 2, 1, 4, 3, 2]);
    let status = world.control.status(&world.admin).await.expect("a status");
    let verified = status.vaults[0].verified.clone().expect("it was verified");
    assert_eq!(verified.structure, Some(world.now()));
    assert!(verified.whole.is_some() && verified.damaged_objects == 0, "{verified:?}");
}

async fn damage_is_an_alert_until_all_is_read_and_well(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| (settings.verify_every_hours, settings.verify_all_days) = (24, 5)).await;
    let firing = async |world: &World| {
        let alerts = world.alerts().await.into_iter();
        let damage = alerts.filter(|alert| alert.rule == "vault_damaged");
        let mut damage = damage.filter(|alert| alert.state == AlertState::Firing);
        damage.next().map(|alert| (alert.severity, alert.error.expect("why").code.to_string()))
    };
    world.shared.outside().is_damaged = true;
    world.pass(DAY);
    world.settle().await;
    let wanted = Some((Severity::Critical, "verify.damaged".to_owned()));
    assert_eq!(firing(&world).await, wanted);
    let jobs = world.jobs(JobKind::Verify).await;
    assert_eq!(jobs[0].state, JobState::CompletedWithWarnings, "{jobs:?}");
    // Another part that is well says nothing of what was found.
    world.shared.outside().is_damaged = false;
    world.pass(DAY);
    world.settle().await;
    assert_eq!(firing(&world).await, wanted);
    world.control.begin_in_vault(&world.admin, "main", JobKind::Verify).await.expect("begins");
    world.settle().await;
    assert_eq!(firing(&world).await, None);
}

async fn a_vault_that_is_not_verified_is_an_alert(bed: Bed) {
    let mut world = World::new(bed).await;
    world.set(|settings| settings.verify_every_hours = 24).await;
    world.shared.outside().away = Some("/vaults/main".to_owned());
    let late = async |world: &World| {
        let alerts = world.alerts().await.into_iter();
        let late = alerts.filter(|alert| alert.rule == "verify_late");
        late.map(|alert| (alert.state, alert.error.expect("why").code.to_string()))
            .collect::<Vec<_>>()
    };
    world.days(2).await;
    assert_eq!(late(&world).await, []);
    world.days(2).await;
    assert_eq!(late(&world).await, [(AlertState::Firing, "verify.late".to_owned())]);
    world.shared.outside().away = None;
    world.days(1).await;
    assert_eq!(late(&world).await, [(AlertState::Resolved, "verify.late".to_owned())]);
}

async fn the_catalog_is_kept_in_the_vault(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let begun = world
        .control
        .begin_in_vault(&world.admin, "main", JobKind::SaveCatalog)
        .await
        .expect("begins");
    world.settle().await;
    assert_eq!(world.job(begun).await.state, JobState::Completed);
    let outside = world.shared.outside();
    let saved = &outside.stores["/vaults/main"].saved;
    let read =
        |name: &str| serde_json::from_slice::<serde_json::Value>(&saved[name]).expect("JSON");
    let head = read("catalog");
    assert_eq!((&head["format"], head["policies"].as_array().map(Vec::len)), (&2.into(), Some(1)));
    let chunk = read(head["chunks"][0].as_str().expect("a name"));
    assert_eq!(chunk["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(chunk["points"].as_array().map(Vec::len), Some(1));
    assert_eq!(saved.len(), 2);
}

async fn changes_need_the_version_that_is_there(bed: Bed) {
    let world = World::new(bed).await;
    let (control, admin) = (&world.control, &world.admin);
    let seen = control.vault(admin, "main").await.expect("a vault").version;
    let tag = |value: &str| VaultUpdate {
        tags: Some([("a".to_owned(), value.to_owned())].into()),
        ..Default::default()
    };
    control.update_vault(admin, "main", Some(seen), tag("1")).await.expect("changes");
    let late = control.update_vault(admin, "main", Some(seen), tag("2")).await;
    assert_eq!(refusal(late), "request.changed");
}

/// Everything but the vault is lost; a new service takes the vault over.
async fn a_vault_and_its_key_are_enough(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.days(3).await;
    world.control.begin_in_vault(&world.admin, "main", JobKind::SaveCatalog).await.expect("it");
    world.settle().await;
    // One more, which the copy of the catalog does not know.
    world.days(1).await;
    let before = (world.item("web").await, world.points("web").await);
    assert_eq!(before.1.len(), 4);

    let new = World::new(Bed::sqlite().expect("a folder")).await;
    let store = world.shared.outside().stores.remove("/vaults/main").expect("a vault");
    new.shared.outside().stores.insert("/vaults/old".to_owned(), store);
    new.vault("old").await;
    let (item, points) = (new.item("web").await, new.points("web").await);
    assert_eq!((item.id, &item.source), (before.0.id, &before.0.source));
    assert_eq!((item.policy, item.last_point), (before.0.policy, before.0.last_point));
    let ids = |points: &[strongroom_api::RecoveryPoint]| {
        points.iter().map(|point| point.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&points), ids(&before.1));
    let restore = strongroom_api::Restore::Machine(strongroom_api::RestoreMachine::default());
    let begun =
        new.control.restore(&new.admin, "web", "latest", restore).await.expect("restores at once");
    new.settle().await;
    assert_eq!(new.job(begun).await.state, JobState::Completed);
}

async fn a_vault_that_is_made_again_after_a_crash_can_be_opened(bed: Bed) {
    let world = World::new(bed).await;
    let request = || strongroom_api::VaultCreate {
        name: "second".to_owned(),
        url: Some("/vaults/second".to_owned()),
        redundancy: None,
        mirrors: Vec::new(),
        // The service makes the key.
        key: None,
        soft_delete: None,
        immutability: None,
        recompress: None,
        single_writer: false,
        tags: std::collections::BTreeMap::new(),
    };
    let made = || world.shared.outside().stores["/vaults/second"].key.clone();
    // It is made, and the catalog does not come to know of it.
    world.control.catalog().faults().fail(2, Fault::Refused);
    world.control.create_vault(&world.admin, request()).await.expect_err("the catalog fails");
    let key = made().expect("a key");
    let vault = world.control.create_vault(&world.admin, request()).await.expect("made").value;
    assert_eq!(made(), Some(key.clone()));
    assert!(format!("{key:?}").contains(&vault.encryption.key), "{key:?} {:?}", vault.encryption);
    // Nothing is remembered of it any more: the next one has a key of its own.
    world.shared.outside().stores.remove("/vaults/second");
    world.control.delete_vault(&world.admin, "second", None).await.expect("deletes");
    world.days(15).await;
    world.settle().await;
    world.control.create_vault(&world.admin, request()).await.expect("made");
    assert_ne!(made(), Some(key));
}

async fn a_key_that_is_changed_fails_nobody(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let (admin, control) = (&world.admin, std::sync::Arc::clone(&world.control));
    world.shared.outside().hold = true;
    world.shared.outside().hold_rotation = true;
    let now = strongroom_api::BackupNow::default();
    let backup = world.control.backup_now(admin, "web", now).await.expect("begins");
    let new = strongroom_api::KeyReference::File("/other".to_owned());
    let key = Some(new.clone());
    let rotation = world.control.rotate_key(admin, "main", key).await.expect("begins");
    let work = tokio::spawn(async move { control.settle().await });
    let pause = || tokio::time::sleep(std::time::Duration::from_millis(5));
    // The vault has the new key, the catalog does not know it, and the backup has the old one.
    while world.shared.outside().stores["/vaults/main"].key != Some(new.clone()) {
        pause().await;
    }
    while world.job(backup).await.tasks[0].started.is_none() {
        pause().await;
    }
    world.shared.outside().hold = false;
    pause().await;
    world.shared.outside().hold_rotation = false;
    work.await.expect("ends").expect("settles");
    for job in [backup, rotation] {
        assert_eq!(world.job(job).await.state, JobState::Completed, "{:?}", world.job(job).await);
    }
    assert_eq!(world.alerts().await, []);
}
