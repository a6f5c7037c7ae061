//! Snapshots that cannot be read: premium accounts of Azure list the pages of a snapshot, and do not give its bytes.
//! The account copies such a snapshot to a blob beside it, from which it is read, and which is deleted at the end.

use std::time::Duration;

use strongroom_azure::{
    BlobName, BlobPath, BlobWrite, CopyStatus, DeleteSnapshots, Metadata, SnapshotId,
};
use strongroom_base::{ByteRange, Cancel};

use super::{
    Place,
    names::{BACKUP, RUN},
};
use crate::{Client, RangeQuery, StorageClientError, blobs::of_snapshot};

/// What the name of such a blob ends with.
const ENDING: &str = ".strongroom-staging";
/// How often it is looked whether a copy has ended.
const LOOK: Duration = Duration::from_secs(1);

/// From where the bytes of a snapshot are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readable {
    pub(crate) blob: BlobPath,
    /// None if it is a copy.
    pub(crate) snapshot: Option<SnapshotId>,
}

/// Finds out whether a snapshot can be read, and has it copied if it cannot. `backup` is the name of the target, `run`
/// that of the run.
pub(super) fn readable(
    source: Place<'_>,
    snapshot: SnapshotId,
    backup: &str,
    run: &str,
    cancel: &Cancel,
) -> Result<Readable, StorageClientError> {
    let itself = Readable { blob: source.blob.clone(), snapshot: Some(snapshot) };
    let read = of_snapshot(Some(snapshot));
    let query = RangeQuery { read: read.clone(), ..RangeQuery::default() };
    let Some(first) = source.client.pages(source.blob, query).next().transpose()? else {
        return Ok(itself);
    };
    let start = first.range.offset();
    match source.client.get(
        source.blob,
        &read,
        ByteRange::between(start, start.saturating_add(512)),
    ) {
        Ok(_) => return Ok(itself),
        Err(error) if error.refused().is_some_and(|refused| refused.failure.status == 400) => {
            tracing::info!("{error}; the snapshot is copied, to be read");
        }
        Err(error) => return Err(error),
    }
    let blob = staging(source.blob)?;
    remove(source.client, &blob, backup)?;
    let pairs = [(BACKUP, backup), (RUN, run)];
    let metadata = Metadata::of(pairs)
        .map_err(|_| StorageClientError::Bug("the names of blobs are not metadata"))?;
    let url = source.client.own_url(source.blob, snapshot)?;
    source.client.copy(&url, &blob, &metadata, &BlobWrite::default())?;
    wait(source.client, &blob, cancel)?;
    Ok(Readable { blob, snapshot: None })
}

fn staging(of: &BlobPath) -> Result<BlobPath, StorageClientError> {
    let name = BlobName::new(&format!("{}{ENDING}", of.name)).map_err(|_| {
        StorageClientError::Settings(
            "the name of the source is so long that no copy of it can be named".to_owned(),
        )
    })?;
    Ok(BlobPath { container: of.container.clone(), name })
}

/// Deletes the copy of a run that has ended or was killed. A blob of somebody else is left, and is an error.
fn remove(client: &Client, blob: &BlobPath, backup: &str) -> Result<(), StorageClientError> {
    let Some(found) = client.find(blob, None)? else { return Ok(()) };
    if found.metadata.get(BACKUP) != Some(backup) {
        return Err(StorageClientError::Foreign {
            resource: blob.to_string(),
            reason: "it is not a copy that a backup has made",
        });
    }
    let copy = found.copy.filter(|copy| copy.status == CopyStatus::Pending);
    if let Some(copy) = copy {
        match client.abort_copy(blob, &copy.id, None) {
            Err(error) if error.refused().is_none_or(|refused| refused.failure.status != 409) => {
                return Err(error);
            }
            _ => {}
        }
    }
    match client.delete(blob, None, Some(DeleteSnapshots::Include), &BlobWrite::default()) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn wait(client: &Client, blob: &BlobPath, cancel: &Cancel) -> Result<(), StorageClientError> {
    loop {
        let copy = client.properties(blob, &of_snapshot(None))?.copy;
        match copy.map(|copy| copy.status) {
            Some(CopyStatus::Success) => return Ok(()),
            Some(CopyStatus::Pending) if !cancel.is_cancelled() => client.clock.sleep(LOOK),
            Some(CopyStatus::Pending) => return Err(StorageClientError::Interrupted),
            _ => {
                return Err(StorageClientError::Unsuitable {
                    resource: blob.to_string(),
                    reason: "the copy of the snapshot, from which it would be read, has failed",
                });
            }
        }
    }
}

/// Deletes the copy that was read from, if there was one.
pub(super) fn finish(
    client: &Client,
    readable: &Readable,
    backup: &str,
) -> Result<(), StorageClientError> {
    match readable.snapshot {
        Some(_) => Ok(()),
        None => remove(client, &readable.blob, backup),
    }
}
