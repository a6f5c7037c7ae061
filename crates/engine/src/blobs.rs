//! Page blobs as disks of a backup: their snapshots before it, and after it.
//!
//! ```text
//!  take: a snapshot of each ─▶ disk: what has changed since that of the last point ─▶ the backup
//!    └─▶ it failed: give_up deletes the new ones       it is whole: keep_newest deletes the old ones ◀┘
//! ```
//!
//! The recovery point names the snapshot that it holds as the disk's checkpoint. Snapshots that backups have taken carry
//! the vault, the item, the disk and the moment as metadata; no other is ever deleted. A backup may be killed at any moment:
//! the next one deletes what is left of it, and one that is the same run again uses it.

use std::sync::Arc;

use strongroom_azure::{BlobPath, BlobWrite, Metadata, SnapshotId};
use strongroom_base::{Code, Coded, Params, PointId};
use strongroom_disk::DiskSource as _;
use strongroom_format::{Consistency, Manifest};
use strongroom_storage_client::{
    Client, SnapshotDisk, StorageClientError,
    snapshots::{MOMENT, Taken},
};
use strongroom_vault::Vault;

use crate::{BackupDisk, CleanCheck};

/// The metadata of a snapshot that a backup has taken: the vault, the item and the disk.
const MARK: &str = "strongroom_backup";
/// The metadata that names the run which has taken it.
const RUN: &str = "strongroom_run";

/// Why snapshots of blobs cannot be backed up.
#[derive(Debug, thiserror::Error)]
pub enum BlobsError {
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] strongroom_vault::VaultError),
    /// The service of the blobs failed.
    #[error(transparent)]
    Storage(#[from] StorageClientError),
}

impl Coded for BlobsError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Vault(error) => error.code(),
            Self::Storage(error) => error.code(),
        }
    }

    fn params(&self) -> Params {
        match self {
            Self::Vault(error) => error.params(),
            Self::Storage(error) => error.params(),
        }
    }
}

/// A page blob that is a disk.
#[derive(Clone, Debug)]
pub struct BlobDisk {
    /// The disk's name within the item.
    pub name: String,
    /// Its account.
    pub client: Client,
    /// The blob.
    pub path: BlobPath,
}

/// A snapshot that could not be deleted; the next backup tries again.
#[derive(Debug)]
pub struct LeftBehind {
    /// Where the blob is.
    pub blob: String,
    /// The snapshot, or the last one, if snapshots could not be listed.
    pub snapshot: SnapshotId,
    /// Why.
    pub error: StorageClientError,
}

/// The blobs of a backup, each with the snapshot that was taken of it.
#[derive(Debug, Default)]
pub struct BlobDisks {
    blobs: Vec<Blob>,
    parent: Option<PointId>,
}

#[derive(Debug)]
struct Blob {
    disk: BlobDisk,
    mark: Metadata,
    snapshot: Option<SnapshotId>,
    /// The snapshot of the parent point.
    since: Option<SnapshotId>,
}

impl Blob {
    fn location(&self) -> String {
        format!("{}/{}", self.disk.client.endpoint(), self.disk.path)
    }

    /// The snapshots that backups of this disk have taken, the oldest first.
    fn ours(&self) -> Result<Vec<Taken>, StorageClientError> {
        let mut taken = self.disk.client.snapshots(&self.disk.path)?;
        let is_ours = |it: &Taken| it.metadata.get(MARK) == self.mark.get(MARK);
        taken.retain(|it| is_ours(it) && it.is_first_hand());
        Ok(taken)
    }

    fn delete(&self, snapshot: SnapshotId) -> Result<(), StorageClientError> {
        let BlobDisk { client, path, .. } = &self.disk;
        match client.delete(path, Some(snapshot), None, &BlobWrite::default()) {
            Err(error) if error.is_not_found() => Ok(()),
            deleted => deleted,
        }
    }

    fn left_behind(&self, snapshot: SnapshotId, error: StorageClientError) -> LeftBehind {
        LeftBehind { blob: self.location(), snapshot, error }
    }
}

impl BlobDisks {
    /// The blobs of an item's next backup into a vault. What has changed refers to `parent`, or to the item's newest point.
    /// A backup with a `run` uses the snapshots that a killed backup of the same run has taken.
    pub fn new(
        vault: &Vault,
        item: &str,
        parent: Option<PointId>,
        run: Option<&str>,
        disks: Vec<BlobDisk>,
    ) -> Result<Self, BlobsError> {
        let mut all = Self { parent, ..Self::default() };
        if disks.is_empty() {
            return Ok(all);
        }
        for disk in disks {
            let moment = disk.client.moment(&disk.path)?;
            let mark = mark(vault, item, &disk.name, run, &moment)?;
            all.blobs.push(Blob { disk, mark, snapshot: None, since: None });
        }
        let found = match parent {
            Some(id) => Some(vault.point(item, id)?),
            None => vault.latest(item)?,
        };
        all.find(found.as_ref(), run)?;
        Ok(all)
    }

    /// Finds the snapshots of the parent point, and those of the run.
    fn find(&mut self, parent: Option<&Manifest>, run: Option<&str>) -> Result<(), BlobsError> {
        for blob in &mut self.blobs {
            let ours = blob.ours()?;
            let record = parent
                .and_then(|parent| parent.disks.iter().find(|disk| disk.name == blob.disk.name));
            let id = record.and_then(|disk| disk.source.checkpoint.as_deref()?.parse().ok());
            blob.since = id.filter(|id| ours.iter().any(|taken| taken.id == *id));
            let of_run = |taken: &&Taken| run.is_some() && taken.metadata.get(RUN) == run;
            blob.snapshot = ours.iter().rfind(of_run).map(|taken| taken.id);
        }
        // All of a run, or none: a part of them is of another moment than the rest will be.
        if self.blobs.iter().any(|blob| blob.snapshot.is_none()) {
            self.blobs.iter_mut().for_each(|blob| blob.snapshot = None);
        }
        // What has changed is what has changed since this point, whichever is made meanwhile.
        self.parent = parent.map(|parent| parent.id);
        Ok(())
    }

    /// Whether snapshots are to be taken: there are blobs, and an earlier try of the run has not taken them.
    pub fn are_due(&self) -> bool {
        self.blobs.iter().any(|blob| blob.snapshot.is_none())
    }

    /// The metadata of each blob's snapshot, in the order of the disks.
    pub fn marks(&self) -> impl Iterator<Item = &Metadata> {
        self.blobs.iter().map(|blob| &blob.mark)
    }

    /// Takes a snapshot of one blob after the other. If one fails, none is left.
    ///
    /// # Errors
    ///
    /// If the service refuses one.
    pub fn take_each(&mut self) -> Result<(), StorageClientError> {
        for blob in &mut self.blobs {
            let BlobDisk { client, path, .. } = &blob.disk;
            match client.snapshot(path, &blob.mark, &BlobWrite::default()) {
                Ok(snapshot) => blob.snapshot = Some(snapshot),
                Err(error) => {
                    self.give_up();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Somebody else has taken the snapshots, with the marks, all at this moment.
    pub fn taken_together(&mut self, snapshot: SnapshotId) {
        self.blobs.iter_mut().for_each(|blob| blob.snapshot = Some(snapshot));
    }

    /// The point that what has changed refers to.
    pub fn parent(&self) -> Option<PointId> {
        self.parent
    }

    /// What is proved of the snapshots, and how: one is a moment, several are only if they have the same. None if there
    /// are no blobs.
    pub fn consistency(&self) -> Option<(Consistency, String)> {
        let mut taken = self.blobs.iter().filter_map(|blob| blob.snapshot);
        let first = taken.next()?;
        Some(match (taken.all(|it| it == first), self.blobs.len()) {
            (true, 1) => (Consistency::Crash, format!("a snapshot of the blob: {first}")),
            (true, _) => {
                (Consistency::Crash, format!("snapshots of the blobs of one moment: {first}"))
            }
            (false, _) => {
                let evidence = "snapshots of the blobs, taken one after the other";
                (Consistency::Unknown, evidence.to_owned())
            }
        })
    }

    /// A blob as a disk of the backup.
    ///
    /// # Errors
    ///
    /// If its snapshot is gone, or the service fails.
    pub fn disk(&self, name: &str, clean: CleanCheck) -> Result<BackupDisk, BlobsError> {
        let found = self.blobs.iter().find(|blob| blob.disk.name == name);
        let Some((blob, snapshot)) = found.and_then(|blob| Some((blob, blob.snapshot?))) else {
            return Err(StorageClientError::Bug("a blob has no snapshot").into());
        };
        let (client, path) = (blob.disk.client.clone(), blob.disk.path.clone());
        let disk = SnapshotDisk::open(client, path, snapshot, blob.since)?;
        let mut notes = Vec::new();
        if blob.since.is_some() && disk.changed().is_none() {
            notes.push(
                "the service lists no difference from the last snapshot: all was read".to_owned(),
            );
        }
        Ok(BackupDisk {
            clean,
            notes,
            checkpoint: Some(snapshot.to_string()),
            ..BackupDisk::new(name, blob.location(), Arc::new(disk))
        })
    }

    /// Deletes the snapshots of a backup that failed. Those that are left are deleted by the next one.
    pub fn give_up(&self) -> Vec<LeftBehind> {
        let taken = self.blobs.iter().filter_map(|blob| Some((blob, blob.snapshot?)));
        let failed = |(blob, snapshot): (&Blob, SnapshotId)| {
            blob.delete(snapshot).err().map(|error| blob.left_behind(snapshot, error))
        };
        taken.filter_map(failed).collect()
    }

    /// Deletes the snapshots of earlier backups: the next one needs that of this one.
    pub fn keep_newest(&self) -> Vec<LeftBehind> {
        let mut left = Vec::new();
        for blob in &self.blobs {
            let Some(newest) = blob.snapshot else { continue };
            match blob.ours() {
                Ok(ours) => {
                    for old in ours.iter().filter(|taken| taken.id < newest) {
                        let deleted = blob.delete(old.id);
                        left.extend(deleted.err().map(|error| blob.left_behind(old.id, error)));
                    }
                }
                Err(error) => left.push(blob.left_behind(newest, error)),
            }
        }
        left
    }
}

/// The metadata that names a vault, an item and a disk. Metadata is ASCII.
fn mark(
    vault: &Vault,
    item: &str,
    disk: &str,
    run: Option<&str>,
    moment: &str,
) -> Result<Metadata, StorageClientError> {
    let value =
        format!("{}/{}/{}", vault.config().vault_id, item.escape_default(), disk.escape_default());
    let own = [(MARK, value.as_str()), (MOMENT, moment)];
    let run = run.map(|run| (RUN, run));
    Metadata::of(own.into_iter().chain(run)).map_err(|_| {
        let reason = "the names of the item and the disk are too long for metadata";
        StorageClientError::Settings(reason.to_owned())
    })
}
