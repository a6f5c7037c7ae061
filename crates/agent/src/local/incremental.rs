//! Backups of page blobs to other page blobs.

use std::num::NonZeroU32;

use strongroom_api::{
    ErrorBody, IncrementalReport, IncrementalSnapshot, Source, TaskName, TaskState,
};
use strongroom_azure::ReadBlob;
use strongroom_base::{codes, message, words};
use strongroom_orders::{IncrementalDone, IncrementalOrder, Result, Watch};
use strongroom_storage_client::{
    incremental::{self, Backup, BackupReport, BackupSnapshot, Method, Place, SnapshotReport},
    transfer::Work,
};

use super::{LocalAgent, sources};
use crate::error::{body, of_source};

impl LocalAgent {
    /// Makes a backup, or finds that the order has made it already.
    pub(super) fn make_incremental_backup(
        &self,
        order: &IncrementalOrder,
        watch: &Watch,
    ) -> Result<IncrementalDone> {
        watch.task(TaskName::Transfer, TaskState::InProgress, None);
        let IncrementalOrder { order: _, from, to, keep, limit_rate } = order;
        let open = |place: &strongroom_api::BlobPlace| {
            self.accounts(place.access.as_ref()).open(&place.blob, &watch.cancel)
        };
        let (source, source_blob) = open(from)?;
        let (target, target_blob) = open(to)?;
        // That the source is gone is something else than that the target's container is.
        let kind = Source::IncrementalBackup { from: from.clone(), to: to.clone(), keep: *keep };
        let kind = sources::of(&kind);
        source
            .properties(&source_blob, &ReadBlob::default())
            .map_err(|error| of_source(&*kind, error))?;
        let options = Backup {
            keep: NonZeroU32::new(*keep),
            run: Some(run_of(order)),
            limit_rate: *limit_rate,
            ..Backup::default()
        };
        let work = Work {
            cancel: watch.cancel.clone(),
            progress: watch.progress.clone(),
            ..Work::default()
        };
        let from = Place { client: &source, blob: &source_blob };
        let to = Place { client: &target, blob: &target_blob };
        let report = incremental::run(from, to, options, &work).map_err(body)?;
        let written = report.backups.iter().map(|made| made.written_bytes);
        let written_bytes = written.fold(0, u64::saturating_add);
        let newest = match report.backups.last() {
            Some(made) => Some(made.backup.source_snapshot),
            // An earlier try has made it.
            None => incremental::list(to).map_err(body)?.last().map(|made| made.source_snapshot),
        };
        let newest = newest.ok_or_else(|| {
            Box::new(ErrorBody::new(&codes::BUG, "a backup was made, and is not there"))
        })?;
        watch.task(TaskName::Transfer, TaskState::Completed, Some(detail(&report, written_bytes)));
        Ok(IncrementalDone {
            time: newest.timestamp(),
            written_bytes,
            warnings: too_soon(&report).into_iter().collect(),
            report: in_api(report).into(),
        })
    }
}

/// That only an earlier backup was finished, as the source's account permits no new snapshot yet.
fn too_soon(report: &BackupReport) -> Option<ErrorBody> {
    let resource = &report.source;
    report.was_too_soon.then(|| {
        ErrorBody::from(message!(
            BLOB_SNAPSHOT_LIMIT,
            "an earlier backup was finished; the account of {resource} permits no new snapshot yet",
            resource
        ))
    })
}

/// The name of a run: that of its order, as metadata has it.
fn run_of(order: &IncrementalOrder) -> String {
    order.order.to_string()
}

fn detail(report: &BackupReport, written: u64) -> String {
    let how = match report.backups.last().map(|made| made.method) {
        None => return "the backup was made before".to_owned(),
        Some(Method::Full) => "all of it",
        Some(Method::Incremental) => "what has changed",
        Some(Method::Compared) => "what differs, as no difference could be listed",
    };
    format!("{how}: {} written", words::bytes(written))
}

/// The report as the API has it: the same fields. A field that one of both gets is missed here by the compiler.
fn in_api(report: BackupReport) -> IncrementalReport {
    let BackupReport {
        source,
        target,
        backups,
        was_too_soon,
        deleted_snapshots,
        kept_snapshots,
        deleted_backups,
        duration_ms,
    } = report;
    IncrementalReport {
        source,
        target,
        backups: backups.into_iter().map(made_in_api).collect(),
        was_too_soon,
        deleted_snapshots,
        kept_snapshots,
        deleted_backups,
        duration_ms,
    }
}

fn made_in_api(made: SnapshotReport) -> IncrementalSnapshot {
    let SnapshotReport {
        backup: BackupSnapshot { snapshot, source, source_snapshot, size },
        method,
        reason,
        was_continued,
        read_bytes,
        written_bytes,
        written_ranges,
        cleared_bytes,
        cleared_ranges,
        duration_ms,
    } = made;
    let method = match method {
        Method::Full => "full",
        Method::Incremental => "incremental",
        Method::Compared => "compared",
    };
    IncrementalSnapshot {
        snapshot: snapshot.to_string(),
        source,
        source_snapshot: source_snapshot.to_string(),
        size,
        method: method.to_owned(),
        reason,
        was_continued,
        read_bytes,
        written_bytes,
        written_ranges,
        cleared_bytes,
        cleared_ranges,
        duration_ms,
    }
}

#[cfg(test)]
mod tests {
    use strongroom_azure::SnapshotId;

    use super::*;

    #[test]
    fn the_service_and_the_command_say_the_same_of_a_backup() {
        let id = |text: &str| text.parse::<SnapshotId>().expect("a snapshot");
        for method in [Method::Full, Method::Incremental, Method::Compared] {
            let made = SnapshotReport {
                backup: BackupSnapshot {
                    snapshot: id("2026-11-30T01:00:00.0000000Z"),
                    source: "a/b/c".to_owned(),
                    source_snapshot: id("2026-11-30T00:59:59.1234567Z"),
                    size: 512,
                },
                method,
                reason: Some("a test".to_owned()),
                was_continued: true,
                read_bytes: 1,
                written_bytes: 2,
                written_ranges: 3,
                cleared_bytes: 4,
                cleared_ranges: 5,
                duration_ms: 6,
            };
            let report = BackupReport {
                source: "a/b/c".to_owned(),
                target: "d/e/f".to_owned(),
                backups: vec![made],
                was_too_soon: true,
                deleted_snapshots: vec!["x".to_owned()],
                kept_snapshots: vec!["y".to_owned()],
                deleted_backups: vec!["z".to_owned()],
                duration_ms: 7,
            };
            let command = serde_json::to_value(&report).expect("JSON");
            assert_eq!(serde_json::to_value(in_api(report)).expect("JSON"), command);
        }
    }
}
