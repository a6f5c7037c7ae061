//! Page blobs are backed up by their snapshots.

use std::{fs, sync::Arc};

use strongroom_api::{
    BlobAccess, ConsistencyProved, DiskSelection, Source, TaskName, TaskState, Verdict,
};
use strongroom_azure::{BlobWrite, Metadata, SnapshotId};
use strongroom_base::{Cancel, codes};
use strongroom_orders::{Agent as _, BackupOrder, CheckOrder, Watch};

use crate::{
    accounts::{Accounts, path},
    common::{Lab, once},
};

/// A vault, and the blobs `a` and `b`, each with two blocks of content.
fn lab() -> (Lab, Arc<Accounts>) {
    let accounts = Accounts::serve();
    let mut lab = Lab::new();
    lab.serve_accounts(accounts.clone());
    lab.vault();
    for blob in ["a", "b"] {
        accounts.write(blob, 0, 1);
        accounts.write(blob, 7, 2);
    }
    (lab, accounts)
}

fn source(access: Option<BlobAccess>) -> Source {
    let disk = |(name, blob): (&str, &str)| (name.to_owned(), format!("disks/vms/{blob}"));
    Source::Blobs { disks: [("one", "a"), ("two", "b")].map(disk).into(), access }
}

/// A job that backs both up.
fn order(lab: &Lab) -> BackupOrder {
    BackupOrder { source: source(None), ..lab.order(&[]) }
}

/// The bytes of each disk that a job read and found changed.
fn changed(lab: &Lab, order: &BackupOrder) -> Vec<u64> {
    let done = lab.agent.backup(order, &Watch::silent()).expect("a point");
    done.report.backup().expect("a backup").disks.iter().map(|disk| disk.changed_bytes).collect()
}

#[test]
fn blobs_of_served_accounts_are_of_one_moment_and_only_what_changed_is_read() {
    let (lab, accounts) = lab();
    let of_user = take(&accounts, "a");
    let done = lab.agent.backup(&order(&lab), &Watch::silent()).expect("a point");
    assert_eq!(done.point.consistency, ConsistencyProved::Crash);
    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
    let (a, b) = (accounts.snapshots("a"), accounts.snapshots("b"));
    assert_eq!((a.len(), b.len(), a[0], a[1]), (2, 1, of_user, b[0]));

    accounts.write("a", 3, 9);
    let done = lab.agent.backup(&order(&lab), &Watch::silent()).expect("a point");
    let report = done.report.backup().expect("a backup").clone();
    let disks: Vec<_> =
        report.disks.iter().map(|it| (&*it.changes_from, it.changed_bytes)).collect();
    assert_eq!(disks, [("bitmap", 65536), ("bitmap", 0)]);
    // The sample of what is said to be unchanged has all of these small disks.
    let (later_a, later_b) = (accounts.snapshots("a"), accounts.snapshots("b"));
    assert_eq!((later_a.len(), later_b.len(), later_a[0]), (2, 1, of_user));
    assert!(later_a[1] > a[1], "the older one is dropped");
}

/// A snapshot that a user takes; metadata comes from the blob.
fn take(accounts: &Accounts, blob: &str) -> SnapshotId {
    let client = accounts.of("disks");
    client.snapshot(&path(blob), &Metadata::default(), &BlobWrite::default()).expect("taken")
}

/// A watch that stops the order when its snapshots are taken, as a kill would.
fn stopped_after_snapshots() -> Watch {
    let cancel = Cancel::new();
    let stop = cancel.clone();
    Watch::new(cancel, move |event| {
        if event.task == TaskName::Transfer && event.state == TaskState::InProgress {
            stop.cancel();
        }
    })
}

#[test]
fn a_job_that_was_stopped_resumes_at_the_moment_of_its_snapshots() {
    let (lab, accounts) = lab();
    changed(&lab, &order(&lab));
    let first = accounts.snapshots("a");
    accounts.write("a", 3, 9);
    let job = order(&lab);
    let error = lab.agent.backup(&job, &stopped_after_snapshots()).expect_err("stopped");
    assert_eq!(error.code, codes::INTERRUPTED);
    let left = accounts.snapshots("a");
    assert_eq!((left.len(), left[0]), (2, first[0]));
    // What comes after the moment is for the next point.
    accounts.write("a", 5, 9);
    assert_eq!(changed(&lab, &job), [65536, 0]);
    assert_eq!(accounts.snapshots("a"), left[1..]);
    assert_eq!(changed(&lab, &order(&lab)), [65536, 0]);
}

#[test]
fn what_a_stopped_job_left_is_deleted_by_the_next_one() {
    let (lab, accounts) = lab();
    changed(&lab, &order(&lab));
    accounts.write("a", 3, 9);
    lab.agent.backup(&order(&lab), &stopped_after_snapshots()).expect_err("stopped");
    assert_eq!((accounts.snapshots("a").len(), accounts.snapshots("b").len()), (2, 2));
    assert_eq!(changed(&lab, &order(&lab)), [65536, 0]);
    assert_eq!((accounts.snapshots("a").len(), accounts.snapshots("b").len()), (1, 1));
}

#[test]
fn a_users_snapshot_of_a_promoted_blob_is_never_deleted() {
    let (lab, accounts) = lab();
    changed(&lab, &order(&lab));
    let ours = accounts.of("disks").snapshots(&path("a")).expect("a list").remove(0);
    // The blob becomes the snapshot, with its metadata, and so do snapshots of it.
    let client = accounts.of("disks");
    client.set_metadata(&path("a"), &ours.metadata, &BlobWrite::default()).expect("set");
    let old = Metadata::of(ours.metadata.iter().map(|(name, value)| {
        let is_moment = name == "strongroom_moment";
        (name, if is_moment { "2020-01-01T00:00:00Z" } else { value })
    }));
    let of_user =
        client.snapshot(&path("a"), &old.expect("metadata"), &BlobWrite::default()).expect("taken");
    changed(&lab, &order(&lab));
    assert!(accounts.snapshots("a").contains(&of_user));
}

#[test]
fn blobs_of_other_accounts_are_reached_by_a_file_and_are_not_of_one_moment() {
    let (lab, accounts) = lab();
    let file = lab.path("account.txt");
    fs::write(&file, format!("{}\n", accounts.strings["disks"])).expect("written");
    let access =
        |file: &str| Some(BlobAccess { connection_string_file: lab.text(file), ca_file: None });
    let order = |file| BackupOrder { source: source(access(file)), ..order(&lab) };
    let done = lab.agent.backup(&order("account.txt"), &Watch::silent()).expect("a point");
    assert_eq!(done.point.consistency, ConsistencyProved::Unknown);
    let one = BackupOrder {
        disks: DiskSelection::Include { disks: vec!["one".to_owned()] },
        ..order("account.txt")
    };
    let done = lab.agent.backup(&one, &Watch::silent()).expect("a point");
    assert_eq!(done.point.consistency, ConsistencyProved::Crash);

    // Nothing of a secret is said, whatever is in the file.
    let key = accounts.strings["disks"].split("AccountKey=").nth(1).expect("a key");
    let key = key.split(';').next().expect("a key");
    fs::write(lab.path("other.txt"), &accounts.strings["backups"]).expect("written");
    fs::write(lab.path("bad.txt"), format!("nonsense {key}")).expect("it");
    for (file, code) in [
        ("other.txt", &codes::REQUEST_INVALID),
        ("bad.txt", &codes::USAGE_INVALID),
        ("none.txt", &codes::LOCAL_IO),
    ] {
        let error = lab.agent.backup(&order(file), &Watch::silent()).expect_err(file);
        assert_eq!(error.code, *code, "{file}: {error:?}");
        assert!(!format!("{error:?}").contains(key), "{error:?}");
    }
}

#[test]
fn what_is_no_page_blob_is_found_before_and_what_is_gone_is_missing() {
    let (lab, accounts) = lab();
    let check =
        |source: Source| lab.agent.check(&CheckOrder { order: once(), source }).expect("a check");
    assert_eq!(check(source(None)).verdict, Verdict::Green);
    let named = |blob: &str| Source::Blobs {
        disks: [("one".to_owned(), blob.to_owned())].into(),
        access: None,
    };
    for (blob, id) in
        [("disks/vms/none", "blob.not_found"), ("disks/none/a", "container.not_found")]
    {
        let checked = check(named(blob));
        assert_eq!((checked.verdict, &*checked.findings[0].id), (Verdict::Red, id), "{checked:?}");
    }
    accounts.of("disks").delete(&path("b"), None, None, &BlobWrite::default()).expect("deleted");
    let error = lab.agent.backup(&order(&lab), &Watch::silent()).expect_err("gone");
    assert_eq!(error.code, codes::SOURCE_MISSING);
    assert_eq!(accounts.snapshots("a"), [], "the other one has no snapshot");
}
