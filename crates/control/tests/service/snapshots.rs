//! The snapshot tier: points near their sources, transferred, restored, removed in time.

use strongroom_api::{
    HostCreate, HostUpdate, JobState, PointState, RecoveryPoint, RecoveryPointType as Type,
    Restore, RestoreDisks, TaskState,
};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, on_both_databases};

use crate::world::{DAY, World, refusal};

on_both_databases! {
    a_point_is_in_both_tiers_and_leaves_the_nearer_in_time,
    a_transfer_that_fails_leaves_a_point_and_is_made_up_for,
    a_transfer_that_may_pass_is_tried_again,
    restored_from_the_nearer_and_else_from_the_vault,
    a_server_that_dies_between_the_tiers,
    a_snapshot_that_is_lost_holds_up_no_other,
    deleted_data_is_deleted_in_both,
    a_vault_of_snapshots_is_not_deleted,
    a_vault_of_snapshots_that_is_lost_is_given_up,
}

/// A world whose host has a vault near its disks, and the item `web`.
async fn near(bed: Bed) -> World {
    let world = World::new(bed).await;
    world.vault("near").await;
    use_near(&world, "near").await;
    world.protected("web").await;
    world
}

async fn use_near(world: &World, vault: &str) {
    let change = HostUpdate { snapshot_vault: Some(vault.to_owned()), ..HostUpdate::default() };
    let host = world.control.update_host(&world.admin, "here", None, change).await;
    assert_eq!(host.expect("changes").value.snapshot_vault.is_some(), !vault.is_empty());
}

fn held(world: &World, vault: &str) -> usize {
    world.shared.outside().stores[&format!("/vaults/{vault}")].points.len()
}

fn kinds(points: &[RecoveryPoint]) -> Vec<Type> {
    points.iter().map(|point| point.kind).collect()
}

fn to_folder(host: Option<&str>) -> Restore {
    Restore::Disks(RestoreDisks {
        folder: Some("/restore/web".to_owned()),
        disks: Vec::new(),
        format: Some(strongroom_api::DiskFormat::Raw),
        host: host.map(str::to_owned),
        ..RestoreDisks::default()
    })
}

async fn a_point_is_in_both_tiers_and_leaves_the_nearer_in_time(bed: Bed) {
    let world = near(bed).await;
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::Completed, "{job:?}");
    assert!(job.tasks.iter().all(|task| task.state == TaskState::Completed), "{:?}", job.tasks);
    let points = world.points("web").await;
    assert_eq!(
        (kinds(&points), points[0].state),
        (vec![Type::SnapshotAndVault], PointState::Restorable)
    );
    let point = &points[0];
    assert_eq!(
        (job.recovery_point, world.item("web").await.last_point),
        (Some(point.id), Some(point.id))
    );
    assert!(world.shared.outside().stores["/vaults/main"].points.contains_key(&point.id));
    // The id that it had near its source is understood as well.
    let copy = point.snapshot.clone().expect("a copy near the source");
    assert_ne!(copy.id, point.id);
    let named = world.control.point(&world.admin, "web", &copy.id.to_string()).await;
    assert_eq!(named.expect("found").value.id, point.id);
    // Ten days of the default policy: two days near the source, all in the vault.
    world.days(10).await;
    let points = world.points("web").await;
    assert_eq!(points.len(), 11);
    assert_eq!(held(&world, "main"), 11);
    let near = points.iter().filter(|point| point.snapshot.is_some()).count();
    assert!((2..=4).contains(&near), "{near}");
    assert_eq!(held(&world, "near"), near);
    assert!(points.iter().skip(near).all(|point| point.kind == Type::Vault));
    // The newest stays, as the next transfer starts from it.
    assert_eq!(points[0].snapshot.as_ref().expect("a copy").until, None);
}

async fn a_transfer_that_fails_leaves_a_point_and_is_made_up_for(bed: Bed) {
    let world = near(bed).await;
    world.shared.outside().transfers_fail.push_back(Some(&codes::STORE_DENIED));
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::CompletedWithWarnings);
    assert_eq!(job.warnings[0].code.as_str(), "store.denied");
    let states: Vec<_> = job.tasks.iter().map(|task| task.state).collect();
    assert_eq!(states, [TaskState::Completed, TaskState::Failed, TaskState::Completed]);
    let points = world.points("web").await;
    assert_eq!((kinds(&points), points[0].state), (vec![Type::Snapshot], PointState::Restorable));
    assert_eq!((held(&world, "near"), held(&world, "main")), (1, 0));
    // However long it takes, it stays near its source until it is in the vault.
    let job = {
        let stop =
            strongroom_api::StopProtection { mode: strongroom_api::StopMode::RetainAsPerPolicy };
        world.control.stop_protection(&world.admin, "web", stop).await.expect("stops");
        world.days(20).await;
        assert_eq!(held(&world, "near"), 1);
        let resume = strongroom_api::ResumeProtection::default();
        world.control.resume_protection(&world.admin, "web", resume).await.expect("resumes");
        world.backup("web").await
    };
    assert_eq!(job.state, JobState::Completed, "{job:?}");
    let points = world.points("web").await;
    assert_eq!(kinds(&points), [Type::SnapshotAndVault, Type::SnapshotAndVault]);
    assert!(points.iter().all(|point| point.state == PointState::Restorable));
    assert_eq!(job.recovery_point, Some(points[0].id));
    assert_eq!(held(&world, "main"), 2);
}

async fn a_transfer_that_may_pass_is_tried_again(bed: Bed) {
    let world = near(bed).await;
    world.shared.outside().transfers_fail.push_back(Some(&codes::STORE_UNAVAILABLE));
    let job = world.backup("web").await;
    assert_eq!((job.state, job.attempt), (JobState::Queued, 1));
    world.pass(120);
    world.settle().await;
    let job = world.job(job.id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 2), "{job:?}");
    // The snapshot was not made again.
    assert_eq!((held(&world, "near"), held(&world, "main")), (1, 1));
    // Three times is enough: then there is a point near its source.
    let fails = [Some(&codes::STORE_UNAVAILABLE); 3];
    world.shared.outside().transfers_fail.extend(fails);
    let id = world.backup("web").await.id;
    for _ in 0..3 {
        world.pass(600);
        world.settle().await;
    }
    let job = world.job(id).await;
    assert_eq!((job.state, job.attempt), (JobState::CompletedWithWarnings, 3));
    assert_eq!(kinds(&world.points("web").await), [Type::Snapshot, Type::SnapshotAndVault]);
}

async fn restored_from_the_nearer_and_else_from_the_vault(bed: Bed) {
    let world = near(bed).await;
    world.backup("web").await;
    let other = HostCreate {
        name: "other".to_owned(),
        connect: None,
        max_jobs: None,
        snapshot_vault: None,
    };
    world.control.create_host(&world.admin, other).await.expect("a host");
    let restore = async |host: Option<&str>| {
        let begun = world.control.restore(&world.admin, "web", "latest", to_folder(host)).await;
        world.control.settle().await.expect("settles");
        world.job(begun.expect("begins")).await
    };
    assert_eq!(restore(None).await.state, JobState::Completed);
    assert_eq!(restore(Some("other")).await.state, JobState::Completed);
    world.shared.outside().away = Some("/vaults/near".to_owned());
    let job = restore(None).await;
    assert_eq!(job.state, JobState::CompletedWithWarnings);
    assert_eq!(job.warnings[0].code.as_str(), "store.unavailable");
    let from = std::mem::take(&mut world.shared.outside().restored_from);
    assert_eq!(from, ["/vaults/near", "/vaults/main", "/vaults/main"]);
    // One that was not transferred: from there or not at all.
    world.shared.outside().away = None;
    world.pass(60);
    world.shared.outside().transfers_fail.push_back(Some(&codes::STORE_DENIED));
    world.backup("web").await;
    assert_eq!(restore(None).await.state, JobState::Completed);
    assert_eq!(world.shared.outside().restored_from, ["/vaults/near"]);
    let refused =
        world.control.restore(&world.admin, "web", "latest", to_folder(Some("other"))).await;
    assert_eq!(refusal(refused), "point.snapshot_only");
    world.shared.outside().away = Some("/vaults/near".to_owned());
    let job = restore(None).await;
    assert_eq!(
        (job.state, job.error.expect("fails").code.as_str()),
        (JobState::Failed, "store.unavailable")
    );
}

async fn a_server_that_dies_between_the_tiers(bed: Bed) {
    let mut world = near(bed).await;
    // Once the transfer has not been made when it dies, once it has: nothing is made twice.
    for is_made in [false, true] {
        if is_made {
            world.shared.outside().transfers_unheard = 1;
        } else {
            world.shared.outside().transfers_fail.push_back(Some(&codes::STORE_UNAVAILABLE));
        }
        let before = held(&world, "main");
        let id = world.backup("web").await.id;
        assert_eq!(held(&world, "main"), before + usize::from(is_made));
        world.restart().await;
        world.pass(600);
        world.settle().await;
        let job = world.job(id).await;
        assert_eq!((job.state, job.attempt), (JobState::Completed, 2), "{job:?}");
        assert_eq!(held(&world, "main"), before + 1);
    }
    let points = world.points("web").await;
    assert!(points.iter().all(|point| point.kind == Type::SnapshotAndVault), "{points:?}");
    assert!(points.iter().all(|point| point.state == PointState::Restorable));
    assert_eq!((held(&world, "near"), held(&world, "main")), (2, 2));
}

/// A point is lost that was nowhere else: it is told each time, and holds up no other.
async fn a_snapshot_that_is_lost_holds_up_no_other(bed: Bed) {
    let world = near(bed).await;
    world.shared.outside().transfers_fail.push_back(Some(&codes::STORE_DENIED));
    world.backup("web").await;
    let lost = world.points("web").await[0].id;
    world.shared.outside().away = Some("/vaults/near".to_owned());
    world.vault("other").await;
    use_near(&world, "other").await;
    world.pass(60);
    let job = world.backup("web").await;
    assert_eq!((job.state, job.warnings.len()), (JobState::CompletedWithWarnings, 1), "{job:?}");
    assert_eq!(job.warnings[0].code.as_str(), "vault.not_found");
    assert_eq!(kinds(&world.points("web").await), [Type::SnapshotAndVault, Type::Snapshot]);
    // Whoever gives it up is rid of it, and of its vault.
    let delete = async || world.control.delete_vault(&world.admin, "near", None).await;
    assert_eq!(refusal(delete().await), "vault.not_empty");
    let lost = lost.to_string();
    world.control.delete_point(&world.admin, "web", &lost, None).await.expect("deletes");
    delete().await.expect("deletes");
    world.pass(60);
    let job = world.backup("web").await;
    assert_eq!((job.state, job.warnings), (JobState::Completed, Vec::new()));
}

async fn deleted_data_is_deleted_in_both(bed: Bed) {
    let world = near(bed).await;
    world.backup("web").await;
    world.shared.outside().transfers_fail.push_back(Some(&codes::STORE_DENIED));
    world.backup("web").await;
    assert_eq!((held(&world, "near"), held(&world, "main")), (2, 1));
    let stop = strongroom_api::StopProtection { mode: strongroom_api::StopMode::DeleteData };
    world.control.stop_protection(&world.admin, "web", stop).await.expect("stops");
    world.pass(20 * DAY);
    world.settle().await;
    world.settle().await;
    assert_eq!((held(&world, "near"), held(&world, "main")), (0, 0));
}

async fn a_vault_of_snapshots_is_not_deleted(bed: Bed) {
    let world = near(bed).await;
    world.backup("web").await;
    let delete = async || world.control.delete_vault(&world.admin, "near", None).await;
    assert_eq!(refusal(delete().await), "vault.not_empty");
    world.shared.outside().transfers_fail.push_back(Some(&codes::STORE_DENIED));
    world.pass(60);
    world.backup("web").await;
    use_near(&world, "").await;
    // One is nowhere else.
    assert_eq!(refusal(delete().await), "vault.not_empty");
    // Straight into the vault again, and what waits goes there too.
    world.pass(60);
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(
        kinds(&world.points("web").await),
        [Type::Vault, Type::SnapshotAndVault, Type::SnapshotAndVault]
    );
    world.days(5).await;
    assert_eq!(held(&world, "near"), 0);
    delete().await.expect("deletes");
    let nobody = HostUpdate { snapshot_vault: Some("nothing".to_owned()), ..HostUpdate::default() };
    let refused = world.control.update_host(&world.admin, "here", None, nobody).await;
    assert_eq!(refusal(refused), "vault.unknown");
}

/// Its disk is gone: nothing waits for it for ever.
async fn a_vault_of_snapshots_that_is_lost_is_given_up(bed: Bed) {
    let world = near(bed).await;
    world.backup("web").await;
    world.days(1).await;
    world.shared.outside().away = Some("/vaults/near".to_owned());
    use_near(&world, "").await;
    world.days(4).await;
    let points = world.points("web").await;
    assert!(points.iter().any(|point| point.kind == Type::SnapshotAndVault), "they wait");
    let expired = world.jobs(strongroom_api::JobKind::Expire).await;
    assert!(expired.iter().any(|job| job.error.is_some()), "{expired:?}");
    world.control.delete_vault(&world.admin, "near", None).await.expect("deletes");
    let begun = world.control.restore(&world.admin, "web", "latest", to_folder(None)).await;
    world.control.settle().await.expect("settles");
    let job = world.job(begun.expect("begins")).await;
    assert_eq!((job.state, job.warnings), (JobState::Completed, Vec::new()));
    world.days(1).await;
    assert!(world.points("web").await.iter().all(|point| point.kind == Type::Vault));
}
