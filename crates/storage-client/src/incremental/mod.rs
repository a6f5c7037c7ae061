//! Incremental backups of a page blob to another one, by snapshots of both.
//!
//! ```text
//!  source  ──snapshot S1───────────snapshot S2──────────▶
//!              │ all pages           │ pages that differ from S1
//!              ▼                     ▼
//!  target  ──snapshot T1 = S1──────snapshot T2 = S2──────▶
//! ```
//!
//! A backup is a snapshot of the target whose metadata says which snapshot of which source it equals. The blob itself
//! is never one: it may be half written. Everything that a run needs to know is in metadata, so that it may be killed
//! at any moment and simply run again:
//!
//! | where | metadata | meaning |
//! |---|---|---|
//! | snapshot of the target | `strongroom_state` | `complete` |
//! | | `strongroom_source`, `strongroom_snapshot` | the source, and its snapshot that this one equals |
//! | | `strongroom_run` | the run that took it |
//! | every snapshot | `strongroom_moment` | the time of the service before it was taken. A later snapshot with the same value has its metadata from a blob that was made of the first, and says nothing |
//! | target | `strongroom_source` | the source that is backed up to it |
//! | | `strongroom_run` | the run that is under way, or was the last |
//! | | `strongroom_old` | snapshots of the source that may be deleted after the next backup |
//! | | `strongroom_filling` | the snapshot of the source from which the empty blob is being filled |
//! | snapshot of the source | `strongroom_backup` | the target for which it was taken |
//! | | `strongroom_run` | the run that took it |
//! | | `strongroom_restored` | set on a restored disk: the snapshot of the target that it equals |
//!
//! A run that finds the snapshot of an earlier run, and no backup of it, finishes that backup first. What the target
//! has changed since its own snapshot is found by its own difference, and is written again: so it does not matter what
//! an interrupted run has written. Where a difference cannot be listed, both blobs are compared.
//!
//! Only one run at a time has the lease on the target.
//!
//! A restored disk gets a snapshot that says which snapshot of the target it equals. The next backup of that disk to
//! the same target begins there, wherever the target is meanwhile.

mod names;
mod report;
mod restore;
mod run;
mod staging;
mod state;

use strongroom_azure::{BlobPath, SnapshotId};

pub use report::{BackupReport, Method, RestoreReport, SnapshotReport};
pub use restore::{Restore, restore};
pub use run::{Backup, Through, run};
pub(crate) use staging::Readable;
pub use state::BackupSnapshot;

use crate::{Client, StorageClientError};

/// A blob of an account.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The account.
    pub client: &'a Client,
    /// The blob.
    pub blob: &'a BlobPath,
}

/// The complete backups that a blob has, the oldest first.
pub fn list(target: Place<'_>) -> Result<Vec<BackupSnapshot>, StorageClientError> {
    // That the blob is there is said by its own error.
    target.client.properties(target.blob, &crate::blobs::of_snapshot(None))?;
    state::backups(target)
}

/// A complete backup of a blob.
fn find(target: Place<'_>, snapshot: SnapshotId) -> Result<BackupSnapshot, StorageClientError> {
    let found = list(target)?.into_iter().find(|backup| backup.snapshot == snapshot);
    let resource = target.blob.to_string();
    found.ok_or(StorageClientError::NoBackup { resource, snapshot })
}
