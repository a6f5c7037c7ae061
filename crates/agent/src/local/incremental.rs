//! Backups of page blobs to other page blobs.

use std::num::NonZeroU32;

use strongroom_api::{ErrorBody, IncrementalReport, Source, TaskName, TaskState};
use strongroom_azure::ReadBlob;
use strongroom_base::{codes, message, words};
use strongroom_orders::{IncrementalDone, IncrementalOrder, Result, Watch};
use strongroom_storage_client::{
    incremental::{self, Backup, BackupReport, Method, Place},
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
        let IncrementalOrder { from, to, keep, .. } = order;
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
        let options =
            Backup { keep: NonZeroU32::new(*keep), run: Some(run_of(order)), ..Backup::default() };
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
            report: in_api(&report)?.into(),
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

/// The report as the API has it: the same fields.
fn in_api(report: &BackupReport) -> Result<IncrementalReport> {
    let read = serde_json::to_value(report).and_then(serde_json::from_value);
    read.map_err(|error| {
        let message =
            message!(BUG, "the report has another form: {error}", error = error.to_string());
        Box::new(ErrorBody::from(message))
    })
}
