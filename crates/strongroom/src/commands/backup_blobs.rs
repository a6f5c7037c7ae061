//! Page blobs as disks of a backup: their snapshots before it, and after it.
//!
//! ```text
//!  take: a snapshot of each ─▶ disk: what has changed since that of the last point ─▶ the backup
//!    └─▶ it failed: give_up deletes the new ones       it is whole: keep_newest deletes the old ones ◀┘
//! ```
//!
//! The recovery point names the snapshot that it holds as the disk's checkpoint. Snapshots that backups have taken carry
//! the item and the disk as metadata; no other is ever deleted.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use strongroom_azure::{BlobEntry, BlobPath, BlobWrite, Metadata, SnapshotId};
use strongroom_base::PointId;
use strongroom_disk::DiskSource as _;
use strongroom_engine::{BackupDisk, CleanCheck};
use strongroom_format::Manifest;
use strongroom_storage::admin::{Command, Reply};
use strongroom_storage_client::{BlobQuery, Client, SnapshotDisk};
use strongroom_vault::Vault;

use super::{
    storage::DataArgs,
    storage_account::{CaArgs, VARIABLES, blob_of_account},
};
use crate::{
    context::{Context, variable},
    error::{FaceError, Failure},
    values::NamedSource,
};

/// The metadata of a snapshot that a backup has taken: the vault, the item and the disk.
const MARK: &str = "strongroom_backup";

/// How the accounts of blob disks are reached.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Disks that are page blobs")]
pub(crate) struct BlobAccountArgs {
    /// File with the connection string of the account of blob disks; or the variable STRONGROOM_CONNECTION_STRING or
    /// AZURE_STORAGE_CONNECTION_STRING [default: an account that this machine serves from --data-dir]
    #[arg(long, value_name = "FILE")]
    connection_string_file: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    trust: CaArgs,
}

/// The blobs of a backup, each with the snapshot that was taken of it.
#[derive(Default)]
pub(super) struct Blobs {
    taken: Vec<Taken>,
    parent: Option<PointId>,
}

/// A blob that is a disk.
struct Taken {
    name: String,
    client: Client,
    path: BlobPath,
    mark: Metadata,
    snapshot: Option<SnapshotId>,
    /// The snapshot of the parent point.
    since: Option<SnapshotId>,
}

impl Taken {
    fn location(&self) -> String {
        format!("{}/{}", self.client.endpoint(), self.path)
    }

    /// The snapshots that backups of this disk have taken.
    fn ours(&self) -> Result<Vec<SnapshotId>, Failure> {
        let query = BlobQuery {
            prefix: Some(self.path.name.as_str().to_owned()),
            snapshots: true,
            metadata: true,
            ..BlobQuery::default()
        };
        let mut found = Vec::new();
        for entry in self.client.blobs(&self.path.container, query) {
            if let BlobEntry::Blob(listed) = entry?
                && listed.name == self.path.name.as_str()
                && listed.properties.metadata.get(MARK) == self.mark.get(MARK)
            {
                found.extend(listed.snapshot);
            }
        }
        Ok(found)
    }

    fn delete(&self, snapshot: SnapshotId) -> Result<(), Failure> {
        Ok(self.client.delete(&self.path, Some(snapshot), None, &BlobWrite::default())?)
    }
}

impl Blobs {
    /// Takes a snapshot of every blob among the disks.
    pub(super) fn take(
        context: &Context,
        accounts: &BlobAccountArgs,
        vault: &Vault,
        item: &str,
        disks: &[NamedSource],
        parent: Option<PointId>,
    ) -> Result<Self, Failure> {
        let mut blobs = Self { taken: Vec::new(), parent };
        let connection = connection(accounts)?;
        let mut local = Vec::new();
        for source in disks {
            let NamedSource::Blob { name, blob } = source else { continue };
            let (client, path) = blob_of_account(
                context,
                blob,
                connection.as_deref(),
                &accounts.data,
                &accounts.trust,
            )?;
            if blobs
                .taken
                .iter()
                .any(|it| it.path == path && it.client.endpoint() == client.endpoint())
            {
                return Err(Failure::usage(format!("--disk names the blob {blob} twice")));
            }
            let is_local = connection.is_none() && !blob.contains("://");
            local.extend(is_local.then(|| blob.clone()));
            let mark = mark(vault, item, name)?;
            let (name, snapshot, since) = (name.clone(), None, None);
            blobs.taken.push(Taken { name, client, path, mark, snapshot, since });
        }
        if blobs.taken.is_empty() {
            return Ok(blobs);
        }
        let found = match parent {
            Some(id) => Some(vault.point(item, id)?),
            None => vault.latest(item)?,
        };
        if let Some(found) = &found {
            blobs.continue_from(found)?;
        }
        // A set of snapshots has one moment; it needs all blobs in one store.
        if local.len() == blobs.taken.len() {
            blobs.take_together(context, accounts, &local)?;
        } else if let Err(failure) = blobs.take_each() {
            blobs.give_up(context);
            return Err(failure);
        }
        Ok(blobs)
    }

    /// Finds the snapshots of the parent point.
    fn continue_from(&mut self, parent: &Manifest) -> Result<(), Failure> {
        for taken in &mut self.taken {
            let record = parent.disks.iter().find(|disk| disk.name == taken.name);
            let id = record.and_then(|disk| disk.source.checkpoint.as_deref()?.parse().ok());
            taken.since = match id {
                Some(id) if taken.ours()?.contains(&id) => Some(id),
                _ => None,
            };
        }
        // What has changed is what has changed since this point, whichever is made meanwhile.
        self.parent = Some(parent.id);
        Ok(())
    }

    fn take_each(&mut self) -> Result<(), Failure> {
        for taken in &mut self.taken {
            let write = BlobWrite::default();
            taken.snapshot = Some(taken.client.snapshot(&taken.path, &taken.mark, &write)?);
        }
        Ok(())
    }

    fn take_together(
        &mut self,
        context: &Context,
        accounts: &BlobAccountArgs,
        blobs: &[String],
    ) -> Result<(), Failure> {
        let pairs = |mark: &Metadata| {
            mark.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let marked = blobs.iter().zip(&self.taken);
        let marked = marked.map(|(blob, taken)| (blob.clone(), pairs(&taken.mark))).collect();
        let command = Command::Snapshot { blobs: marked };
        let Reply::Snapshot { snapshot } = accounts.data.ask(context, &command)? else {
            return Err(super::storage::other_answer());
        };
        let id = snapshot.parse().map_err(|_| super::storage::other_answer())?;
        self.taken.iter_mut().for_each(|taken| taken.snapshot = Some(id));
        Ok(())
    }

    /// The point that what has changed refers to.
    pub(super) fn parent(&self) -> Option<PointId> {
        self.parent
    }

    /// A blob as a disk of the backup.
    pub(super) fn disk(&self, name: &str, clean: CleanCheck) -> Result<BackupDisk, Failure> {
        let found = self.taken.iter().find(|taken| taken.name == name);
        let Some((taken, snapshot)) = found.and_then(|taken| Some((taken, taken.snapshot?))) else {
            return Err(FaceError::Bug(format!("disk {name} has no snapshot")).into());
        };
        let (client, path) = (taken.client.clone(), taken.path.clone());
        let disk = SnapshotDisk::open(client, path, snapshot, taken.since)?;
        let mut notes = Vec::new();
        if taken.since.is_some() && disk.changed().is_none() {
            notes.push(
                "the service lists no difference from the last snapshot: all was read".to_owned(),
            );
        }
        let location = taken.location();
        Ok(BackupDisk {
            clean,
            notes,
            checkpoint: Some(snapshot.to_string()),
            ..BackupDisk::new(name, location, Arc::new(disk))
        })
    }

    /// Deletes the snapshots of a backup that failed. Those that stay are deleted by the next one.
    pub(super) fn give_up(&self, context: &Context) {
        for taken in &self.taken {
            if let Some(snapshot) = taken.snapshot
                && let Err(failure) = taken.delete(snapshot)
            {
                Self::warn(context, taken, snapshot, &failure);
            }
        }
    }

    /// Deletes the snapshots of earlier backups: the next one needs that of this one.
    pub(super) fn keep_newest(&self, context: &Context) {
        for taken in &self.taken {
            let Some(newest) = taken.snapshot else { continue };
            let old = match taken.ours() {
                Ok(ours) => ours.into_iter().filter(|id| *id < newest).collect(),
                Err(failure) => {
                    Self::warn(context, taken, newest, &failure);
                    Vec::new()
                }
            };
            for snapshot in old {
                if let Err(failure) = taken.delete(snapshot) {
                    Self::warn(context, taken, snapshot, &failure);
                }
            }
        }
    }

    fn warn(context: &Context, taken: &Taken, snapshot: SnapshotId, failure: &Failure) {
        let place = taken.location();
        let reason = failure.message();
        context.out.say(&format!(
            "Warning: the snapshot {snapshot} of {place} could not be deleted; the next backup tries again: {reason}"
        ));
    }
}

/// The connection string of the accounts; none if they are those of this machine.
fn connection(accounts: &BlobAccountArgs) -> Result<Option<String>, Failure> {
    match &accounts.connection_string_file {
        Some(path) => Ok(Some(super::storage_account::read(path)?)),
        None => Ok(VARIABLES.iter().find_map(|name| variable(name))),
    }
}

/// The metadata that names a vault, an item and a disk. Metadata is ASCII.
fn mark(vault: &Vault, item: &str, disk: &str) -> Result<Metadata, Failure> {
    let value =
        format!("{}/{}/{}", vault.config().vault_id, item.escape_default(), disk.escape_default());
    Metadata::of([(MARK, value.as_str())])
        .map_err(|_| Failure::usage("the names of the item and the disk are too long for metadata"))
}
