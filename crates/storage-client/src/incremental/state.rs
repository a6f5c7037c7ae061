//! What the metadata of both blobs says.

use serde::{Deserialize, Serialize};
use strongroom_azure::{BadSnapshotId, Metadata, SnapshotId};

use super::names::{
    BACKUP, COMPLETE, OLD, Place, RESTORED, RUN, SNAPSHOT, SOURCE, STATE, name, separate,
};
use crate::{StorageClientError, blobs::of_snapshot, snapshots::Taken};

/// A complete backup: a snapshot of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "InJson", try_from = "InJson")]
pub struct BackupSnapshot {
    /// The snapshot of the target.
    pub snapshot: SnapshotId,
    /// The blob that it is a backup of: `ACCOUNT/CONTAINER/BLOB`, percent-encoded.
    pub source: String,
    /// The snapshot of the source that it equals.
    pub source_snapshot: SnapshotId,
    /// Its length in bytes.
    pub size: u64,
}

/// As JSON has it.
#[derive(Serialize, Deserialize)]
struct InJson {
    snapshot: String,
    source: String,
    source_snapshot: String,
    size: u64,
}

impl From<BackupSnapshot> for InJson {
    fn from(backup: BackupSnapshot) -> Self {
        Self {
            snapshot: backup.snapshot.to_string(),
            source: backup.source,
            source_snapshot: backup.source_snapshot.to_string(),
            size: backup.size,
        }
    }
}

impl TryFrom<InJson> for BackupSnapshot {
    type Error = BadSnapshotId;

    fn try_from(json: InJson) -> Result<Self, BadSnapshotId> {
        Ok(Self {
            snapshot: json.snapshot.parse()?,
            source: json.source,
            source_snapshot: json.source_snapshot.parse()?,
            size: json.size,
        })
    }
}

/// The complete backups that a blob has, the oldest first.
pub fn list(target: Place<'_>) -> Result<Vec<BackupSnapshot>, StorageClientError> {
    // That the blob is there is said by its own error.
    target.client.properties(target.blob, &of_snapshot(None))?;
    backups(target)
}

/// A complete backup of a blob.
pub(super) fn find(
    target: Place<'_>,
    snapshot: SnapshotId,
) -> Result<BackupSnapshot, StorageClientError> {
    let found = list(target)?.into_iter().find(|backup| backup.snapshot == snapshot);
    let resource = target.blob.to_string();
    found.ok_or(StorageClientError::NoBackup { resource, snapshot })
}

fn backups(target: Place<'_>) -> Result<Vec<BackupSnapshot>, StorageClientError> {
    Ok(complete(target)?.iter().filter_map(backup).collect())
}

/// The snapshots of a blob that are complete backups, the oldest first.
pub(super) fn complete(target: Place<'_>) -> Result<Vec<Taken>, StorageClientError> {
    let mut taken = target.client.snapshots(target.blob)?;
    taken.retain(|taken| backup(taken).is_some());
    Ok(taken)
}

fn backup(taken: &Taken) -> Option<BackupSnapshot> {
    let value = |name: &str| taken.metadata.get(name);
    if value(STATE) != Some(COMPLETE) || !taken.is_first_hand() {
        return None;
    }
    Some(BackupSnapshot {
        snapshot: taken.id,
        source: value(SOURCE)?.to_owned(),
        source_snapshot: value(SNAPSHOT)?.parse().ok()?,
        size: taken.size,
    })
}

/// A snapshot of the source that was taken for the target.
pub(super) struct Ours {
    pub(super) id: SnapshotId,
    run: String,
    /// On a restored disk: the snapshot of the target that it equals.
    restored: Option<SnapshotId>,
}

/// What is known of both blobs.
pub(super) struct State {
    /// The name of the source.
    pub(super) source: String,
    /// The metadata of the target.
    pub(super) metadata: Metadata,
    /// The complete backups, the oldest first.
    pub(super) backups: Vec<BackupSnapshot>,
    /// Snapshots of the source that were taken for this target, the oldest first.
    pub(super) ours: Vec<Ours>,
}

/// Two snapshots that are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) of_source: SnapshotId,
    pub(super) of_target: SnapshotId,
}

impl State {
    /// Reads the snapshots of both.
    pub(super) fn read(
        source: Place<'_>,
        target: Place<'_>,
        metadata: Metadata,
    ) -> Result<Self, StorageClientError> {
        let of_target = name(target);
        let ours = |taken: Taken| {
            let value = |name: &str| taken.metadata.get(name);
            let is_ours = value(BACKUP) == Some(of_target.as_str()) && taken.is_first_hand();
            is_ours.then(|| Ours {
                id: taken.id,
                run: value(RUN).unwrap_or_default().to_owned(),
                restored: value(RESTORED).and_then(|id| id.parse().ok()),
            })
        };
        let taken = source.client.snapshots(source.blob)?;
        let mut first: Vec<Ours> = Vec::new();
        for ours in taken.into_iter().filter_map(ours) {
            // Of several with the name of a run, only the oldest is its own.
            if first.iter().all(|other| other.run != ours.run) {
                first.push(ours);
            }
        }
        Ok(Self { source: name(source), metadata, backups: backups(target)?, ours: first })
    }

    /// Whether the target is a backup of this source, or of the disk that this one was restored from.
    pub(super) fn is_of_source(&self) -> bool {
        self.metadata.get(SOURCE) == Some(self.source.as_str())
            || self.backups.iter().any(|backup| backup.source == self.source)
            || self.ours.iter().any(|ours| ours.restored.is_some())
    }

    /// The newest snapshot of the source that has a backup.
    pub(super) fn newest(&self) -> Option<SnapshotId> {
        let of_source = self.backups.iter().filter(|backup| backup.source == self.source);
        of_source.map(|backup| backup.source_snapshot).max()
    }

    fn is_backed_up(&self, id: SnapshotId) -> bool {
        self.backups
            .iter()
            .any(|backup| backup.source == self.source && backup.source_snapshot == id)
    }

    /// The snapshot of a run that did not end.
    pub(super) fn pending(&self) -> Option<SnapshotId> {
        let run = self.metadata.get(RUN)?;
        let first = self.ours.iter().find(|ours| ours.run == run && ours.restored.is_none())?;
        (!self.is_backed_up(first.id)).then_some(first.id)
    }

    /// The newest snapshots before this one that are equal on both sides.
    pub(super) fn anchor(&self, before: SnapshotId) -> Option<Anchor> {
        let is_there = |id: SnapshotId| self.ours.iter().any(|ours| ours.id == id);
        let backed_up = self
            .backups
            .iter()
            .filter(|backup| backup.source == self.source && is_there(backup.source_snapshot))
            .map(|backup| Anchor { of_source: backup.source_snapshot, of_target: backup.snapshot });
        let restored = self.ours.iter().filter_map(|ours| {
            let of_target = ours.restored?;
            let is_kept = self.backups.iter().any(|backup| backup.snapshot == of_target);
            is_kept.then_some(Anchor { of_source: ours.id, of_target })
        });
        backed_up
            .chain(restored)
            .filter(|anchor| anchor.of_source < before)
            .max_by_key(|anchor| anchor.of_source)
    }

    /// The snapshots of the source that were certainly taken for this target and are still there: they are recorded in
    /// the target, or are those of a restored disk.
    pub(super) fn recorded(&self) -> Vec<SnapshotId> {
        let recorded: Vec<_> = separate(self.metadata.get(OLD)).collect();
        let is_recorded = |ours: &&Ours| {
            recorded.contains(&ours.id) || self.is_backed_up(ours.id) || ours.restored.is_some()
        };
        self.ours.iter().filter(is_recorded).map(|ours| ours.id).collect()
    }
}
