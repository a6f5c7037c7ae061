//! Protecting, stopping, resuming, deleting, bringing back.

use strongroom_api::{
    BlobPlace, DiskSelection, ItemUpdate, JobState, ProtectBlobs, ProtectIncrementalBackup,
    ProtectSource, ProtectionState as P, ResumeProtection, StopMode, StopProtection, TaskState,
    Verdict,
};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, on_both_databases};

use crate::world::{DAY, World, refusal, source};

on_both_databases! {
    several_at_once_and_again,
    a_first_backup_makes_an_item_protected,
    what_cannot_be_backed_up_is_refused,
    what_is_less_than_good_is_said_and_is_no_warning,
    stop_and_resume,
    deleted_softly_and_brought_back,
    deleted_for_good_when_its_time_is_over,
    a_source_that_vanishes_and_comes_back,
    page_blobs_are_protected_as_machines_are,
    what_grants_access_to_blobs_is_written_down_nowhere,
    a_blob_is_backed_up_to_another_by_its_policy,
}

async fn several_at_once_and_again(bed: Bed) {
    let world = World::new(bed).await;
    for name in ["a", "b", "c"] {
        world.machine(name);
    }
    let protect = strongroom_api::Protect {
        vault: "main".to_owned(),
        host: "here".to_owned(),
        policy: Some("default".to_owned()),
        sources: ["a", "b", "c"].map(source).into(),
        backup_now: false,
    };
    for round in 0..2 {
        let begun = world.control.protect(&world.admin, protect.clone()).await.expect("begins");
        world.control.settle().await.expect("settles");
        let job = world.job(begun).await;
        assert_eq!(job.state, JobState::Completed);
        assert!(job.tasks.iter().all(|task| task.state == TaskState::Completed));
        let words = if round == 0 { "protected" } else { "was protected already" };
        assert!(job.tasks.iter().all(|task| task.detail.as_deref() == Some(words)), "{job:?}");
    }
    let item = world.item("b").await;
    assert_eq!(item.state, P::InitialBackupPending);
    assert!(item.next_backup.expect("planned") > world.now());
    // The same machine with other disks is another wish.
    let mut other = protect.clone();
    other.sources.truncate(1);
    other.sources[0].disks = DiskSelection::OsOnly;
    let begun = world.control.protect(&world.admin, other).await.expect("begins");
    world.control.settle().await.expect("settles");
    let job = world.job(begun).await;
    assert_eq!(job.error.expect("fails").code.as_str(), "item.exists");
}

async fn a_first_backup_makes_an_item_protected(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    let job = world.backup("web").await;
    assert_eq!(job.state, JobState::Completed);
    assert!(job.tasks.iter().all(|task| task.state == TaskState::Completed), "{:?}", job.tasks);
    let item = world.item("web").await;
    assert_eq!((item.state, item.last_point), (P::Protected, job.recovery_point));
    assert_eq!(item.job, None);
    let points = world.points("web").await;
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].state, strongroom_api::PointState::Restorable);
    assert!(points[0].kept_by.contains(&"on_demand".to_owned()), "{:?}", points[0]);
}

async fn what_cannot_be_backed_up_is_refused(bed: Bed) {
    let world = World::new(bed).await;
    let uuid = world.machine("bad");
    world.shared.outside().machines.get_mut(&uuid).expect("it").verdict = Verdict::Red;
    let protect = strongroom_api::Protect {
        vault: "main".to_owned(),
        host: "here".to_owned(),
        policy: None,
        sources: vec![source("bad"), source("nobody")],
        backup_now: true,
    };
    let begun = world.control.protect(&world.admin, protect).await.expect("begins");
    world.control.settle().await.expect("settles");
    let job = world.job(begun).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.error.expect("an error").code.as_str(), "vm.not_ready");
    assert!(job.tasks.iter().all(|task| task.state == TaskState::Failed));
}

async fn what_is_less_than_good_is_said_and_is_no_warning(bed: Bed) {
    let world = World::new(bed).await;
    let uuid = world.machine("web");
    world.shared.outside().machines.get_mut(&uuid).expect("it").verdict = Verdict::Amber;
    let protect = strongroom_api::Protect {
        vault: "main".to_owned(),
        host: "here".to_owned(),
        policy: None,
        sources: vec![source("web")],
        backup_now: false,
    };
    let begun = world.control.protect(&world.admin, protect).await.expect("begins");
    world.control.settle().await.expect("settles");
    let job = world.job(begun).await;
    assert_eq!((job.state, job.warnings), (JobState::Completed, Vec::new()));
    let said = job.tasks[0].detail.as_deref().unwrap_or_default();
    assert!(said.contains("to be known: it cannot be"), "{said}");
}

async fn stop_and_resume(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    for (mode, state) in [
        (StopMode::RetainForever, P::ProtectionStopped),
        (StopMode::RetainAsPerPolicy, P::BackupsSuspended),
    ] {
        let stop = StopProtection { mode };
        let item = world.control.stop_protection(&world.admin, "web", stop).await.expect("stops");
        assert_eq!((item.value.state, item.value.next_backup), (state, None));
        let now = strongroom_api::BackupNow::default();
        assert_eq!(
            refusal(world.control.backup_now(&world.admin, "web", now).await),
            "item.stopped"
        );
        world.days(2).await;
        assert_eq!(world.points("web").await.len(), 1);
        let resume = ResumeProtection::default();
        let item =
            world.control.resume_protection(&world.admin, "web", resume.clone()).await.expect("it");
        assert_eq!(item.value.state, P::Protected);
        assert!(item.value.next_backup.is_some());
        let again = world.control.resume_protection(&world.admin, "web", resume).await;
        assert_eq!(refusal(again), "item.not_stopped");
    }
    // Kept for ever, on demand or not.
    let stop = StopProtection { mode: StopMode::RetainForever };
    world.control.stop_protection(&world.admin, "web", stop).await.expect("stops");
    world.pass(400 * DAY);
    world.settle().await;
    assert_eq!(world.points("web").await.len(), 1);
}

async fn deleted_softly_and_brought_back(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let stop = StopProtection { mode: StopMode::DeleteData };
    let item = world.control.stop_protection(&world.admin, "web", stop.clone()).await.expect("it");
    assert_eq!(item.value.state, P::SoftDeleted);
    assert_eq!(
        item.value.purge_after.expect("a time").as_second(),
        world.now().as_second() + 14 * DAY
    );
    assert!(world.alerts().await.iter().any(|alert| alert.rule == "delete_backup_data"));
    let change = ItemUpdate { policy: None, disks: Some(DiskSelection::OsOnly) };
    let changed = world.control.update_item(&world.admin, "web", None, change).await;
    assert_eq!(refusal(changed), "item.soft_deleted");
    world.days(13).await;
    assert_eq!(world.stored(), 1);
    let item = world.control.undelete_item(&world.admin, "web").await.expect("comes back").value;
    assert_eq!(item.state, P::ProtectionStopped);
    world.days(30).await;
    assert_eq!((world.stored(), world.points("web").await.len()), (1, 1));
}

async fn deleted_for_good_when_its_time_is_over(bed: Bed) {
    let world = World::new(bed).await;
    world.protected("web").await;
    world.backup("web").await;
    let stop = StopProtection { mode: StopMode::DeleteData };
    world.control.stop_protection(&world.admin, "web", stop).await.expect("stops");
    // The clock jumps: nothing is purged before its time.
    world.jump(100 * DAY);
    world.settle().await;
    assert_eq!(world.stored(), 1);
    assert!(world.alerts().await.iter().any(|alert| alert.rule == "clock_jumped"));
    let status = world.control.status(&world.admin).await.expect("a status");
    assert_eq!(status.server[0].code, codes::SERVER_CLOCK);
    world.days(13).await;
    assert_eq!(world.stored(), 1);
    world.days(2).await;
    assert_eq!(world.stored(), 0);
    assert_eq!(refusal(world.control.item(&world.admin, "web").await), "item.unknown");
    // And the machine can be protected anew.
    world.protected("web").await;
}

async fn a_source_that_vanishes_and_comes_back(bed: Bed) {
    let world = World::new(bed).await;
    let uuid = world.machine("web");
    world.protected("web").await;
    world.days(2).await;
    let before = world.points("web").await.len();
    assert!(before >= 1);
    let machine = world.shared.outside().machines.remove(&uuid).expect("it");
    world.days(20).await;
    let item = world.item("web").await;
    assert_eq!(item.state, P::SourceMissing);
    assert_eq!(item.error.expect("why").code.as_str(), "source.missing");
    let failed = world.jobs(strongroom_api::JobKind::Backup).await;
    let failed = failed.iter().filter(|job| job.state == JobState::Failed).count();
    assert_eq!(failed, 1, "it fails once and not every night");
    let alerts = world.alerts().await;
    let about: Vec<_> = alerts.iter().filter(|alert| alert.rule == "source_missing").collect();
    assert_eq!((about.len(), about[0].count), (1, 1));
    assert!(!world.points("web").await.is_empty(), "its points are kept");
    world.shared.outside().machines.insert(uuid, machine);
    world.days(2).await;
    let item = world.item("web").await;
    assert_eq!((item.state, item.error), (P::Protected, None));
    let alerts = world.alerts().await;
    assert!(alerts.iter().all(|alert| alert.rule != "source_missing"
        || alert.state == strongroom_api::AlertState::Resolved));
}

/// Protects page blobs: what becomes of the request.
async fn protect_blobs(
    world: &World,
    item: &str,
    blobs: &[(&str, &str)],
) -> Result<strongroom_api::Job, String> {
    let disks = blobs.iter().map(|(name, blob)| ((*name).to_owned(), (*blob).to_owned()));
    let blobs = Some(ProtectBlobs { disks: disks.collect(), access: None });
    protect_source(world, ProtectSource { blobs, ..named(item) }).await
}

/// A source that is nothing yet.
fn named(item: &str) -> ProtectSource {
    ProtectSource { machine: None, name: Some(item.to_owned()), ..source("") }
}

fn protect_of(source: ProtectSource) -> strongroom_api::Protect {
    strongroom_api::Protect {
        vault: "main".to_owned(),
        host: "here".to_owned(),
        policy: None,
        sources: vec![source],
        backup_now: false,
    }
}

async fn protect_source(
    world: &World,
    source: ProtectSource,
) -> Result<strongroom_api::Job, String> {
    let begun = world.control.protect(&world.admin, protect_of(source)).await;
    let begun = begun.map_err(|error| error.body().code.as_str().to_owned())?;
    world.control.settle().await.expect("settles");
    Ok(world.job(begun).await)
}

async fn page_blobs_are_protected_as_machines_are(bed: Bed) {
    let world = World::new(bed).await;
    let blobs = [("one", "disks/vms/a"), ("two", "disks/vms/b")];
    let job = protect_blobs(&world, "web", &blobs).await.expect("begins");
    assert_eq!(job.state, JobState::Completed, "{job:?}");
    // Again it is the same, under whichever name; other blobs are not.
    for name in ["web", "other"] {
        let again = protect_blobs(&world, name, &blobs).await.expect("begins");
        assert_eq!(again.tasks[0].detail.as_deref(), Some("was protected already"));
    }
    let refused = protect_blobs(&world, "web", &blobs[..1]).await;
    assert_eq!(refused.expect_err("is refused"), "item.exists");
    let job = protect_blobs(&world, "far", &[("a", "others/vms/a")]).await.expect("begins");
    assert_eq!(job.error.expect("fails").code.as_str(), "place.not_allowed");

    world.days(2).await;
    let item = world.item("web").await;
    assert_eq!((item.state, item.failures), (P::Protected, 0));
    let points = world.points("web").await;
    assert_eq!((points.len(), points[0].disks.len()), (2, 2));
    world.shared.outside().missing_disks.insert("disks/vms/b".to_owned());
    world.days(1).await;
    let item = world.item("web").await;
    assert_eq!(item.state, P::SourceMissing);
    world.shared.outside().missing_disks.clear();
    world.days(1).await;
    assert_eq!(world.item("web").await.state, P::Protected);
}

async fn what_grants_access_to_blobs_is_written_down_nowhere(bed: Bed) {
    let world = World::new(bed).await;
    for secret in [
        "https://disks.blob.example.net/vms/a?sv=1&sig=c2VjcmV0",
        "disks/vms/a?sig=c2VjcmV0",
        "AccountName=disks;AccountKey=c2VjcmV0/vms/a",
    ] {
        let refused = protect_blobs(&world, "web", &[("one", secret)]).await;
        assert_eq!(refused.expect_err("refused"), "request.invalid", "{secret}");
    }
    assert_eq!(protect_blobs(&world, "web", &[]).await.expect_err("none"), "request.invalid");
    let jobs = world.jobs(strongroom_api::JobKind::ConfigureProtection).await;
    assert_eq!(jobs, []);
    let audit = world.control.audit_from(&world.admin, 1).await.expect("the audit log");
    assert!(!format!("{audit:?}").contains("c2VjcmV0"), "{audit:?}");
}

fn incremental(from: &str, to: &str, keep: u32) -> ProtectSource {
    let place = |blob: &str| BlobPlace { blob: blob.to_owned(), access: None };
    let wanted = ProtectIncrementalBackup { from: place(from), to: place(to), keep };
    ProtectSource { incremental_backup: Some(wanted), ..named("far") }
}

async fn a_blob_is_backed_up_to_another_by_its_policy(bed: Bed) {
    let mut world = World::new(bed).await;
    for (from, to, keep, code) in [
        ("disks/vms/a", "disks/vms/a", 3, "request.invalid"),
        ("disks/vms/a", "backups/vms/a", 0, "request.invalid"),
        ("disks/vms/a", "https://backups/vms/a?sig=x", 3, "request.invalid"),
    ] {
        let refused = protect_source(&world, incremental(from, to, keep)).await;
        assert_eq!(refused.expect_err("refused"), code, "{from} {to} {keep}");
    }
    for (from, to) in [("disks/vms/a", "disks/vms/b"), ("backups/vms/a", "backups/vms/b")] {
        let job = protect_source(&world, incremental(from, to, 3)).await.expect("begins");
        assert_eq!(job.error.expect("fails").code.as_str(), "place.not_allowed");
    }
    let wanted = incremental("disks/vms/a", "backups/vms/a", 3);
    let job = protect_source(&world, wanted.clone()).await.expect("begins");
    assert_eq!(job.state, JobState::Completed, "{job:?}");
    let again = protect_source(&world, wanted).await.expect("begins");
    assert_eq!(again.tasks[0].detail.as_deref(), Some("was protected already"));
    let other = incremental("disks/vms/b", "backups/vms/a", 3);
    // A blob has the backups of one other, and an item one source and one target: both are named, at once.
    let other = ProtectSource { name: Some("b".to_owned()), ..other };
    let elsewhere = incremental("disks/vms/a", "backups/vms/c", 3);
    for (wanted, shown) in [
        (other, "b (disks/vms/b to backups/vms/a, 3 backups)"),
        (elsewhere, "far (disks/vms/a to backups/vms/c, 3 backups)"),
        (
            incremental("disks/vms/a", "backups/vms/a", 4),
            "far (disks/vms/a to backups/vms/a, 4 backups)",
        ),
    ] {
        let refused = world.control.protect(&world.admin, protect_of(wanted)).await;
        let body = refused.expect_err("is refused").body();
        assert_eq!(body.code.as_str(), "item.exists");
        let there = "far (disks/vms/a to backups/vms/a, 3 backups)";
        assert!(body.message.contains(shown) && body.message.contains(there), "{}", body.message);
    }

    // By its schedule and on demand, without a recovery point, and nobody misses one.
    world.days(3).await;
    let item = world.item("far").await;
    assert_eq!((item.state, item.failures, item.last_point), (P::Protected, 0, None));
    assert!(item.last_backup.is_some() && item.next_backup.is_some());
    assert_eq!(world.shared.outside().incremental_backups.len(), 3);
    let job = world.backup("far").await;
    assert_eq!((job.state, job.recovery_point), (JobState::Completed, None));
    assert!(world.points("far").await.is_empty() && world.stored() == 0);
    let firing: Vec<_> = world.alerts().await.into_iter().map(|alert| alert.rule).collect();
    assert_eq!(firing, Vec::<String>::new());

    // What fails is an alert, and a server that dies makes no second backup.
    let broken = Some(&codes::BLOB_CONFLICT);
    world.shared.outside().backups_fail = [broken].into();
    assert_eq!(world.backup("far").await.state, JobState::Failed);
    assert_eq!(world.item("far").await.state, P::ProtectionError);
    assert!(world.alerts().await.iter().any(|alert| alert.rule == "backup_failed"));
    world.set(|settings| settings.limit_rate = Some(7 << 20)).await;
    assert_eq!(world.backup("far").await.state, JobState::Completed);
    assert_eq!(world.item("far").await.state, P::Protected);
    // The host is given the rate of all jobs.
    assert_eq!(world.shared.outside().incremental_rate, Some(7 << 20));

    // Without backups, its promise is broken as that of any other.
    world.shared.outside().missing_disks.insert("disks/vms/a".to_owned());
    world.days(3).await;
    let item = world.item("far").await;
    assert_eq!(item.state, P::SourceMissing);
    let behind = world.control.status(&world.admin).await.expect("a status").behind;
    assert_eq!(behind.len(), 1, "{behind:?}");
    world.shared.outside().missing_disks.clear();
    world.days(1).await;
    let stop = StopProtection { mode: StopMode::RetainForever };
    world.control.stop_protection(&world.admin, "far", stop).await.expect("stops");
    let resumed = world
        .control
        .resume_protection(&world.admin, "far", ResumeProtection::default())
        .await
        .expect("resumes");
    assert_eq!(resumed.value.state, P::Protected);
}
