//! Recovery points.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{ItemId, JobId, PointId, VaultId};
use utoipa::ToSchema;

use crate::{ConsistencyProved, Trigger, words};

words! {
    /// Where a recovery point's data is.
    RecoveryPointType {
        /// Near its source only.
        Snapshot = "snapshot",
        /// Near its source and in the vault.
        SnapshotAndVault = "snapshot_and_vault",
        /// In the vault only.
        Vault = "vault",
    }
}

words! {
    /// Whether a recovery point can be restored.
    PointState {
        /// It is not validated yet.
        Pending = "pending",
        /// It was validated.
        Restorable = "restorable",
        /// It was found to be damaged.
        Damaged = "damaged",
        /// It is not in its vault any more, and the service has not deleted it.
        Lost = "lost",
        /// It was deleted and can still be brought back.
        SoftDeleted = "soft_deleted",
    }
}

/// A recovery point: one consistent moment of all protected disks of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPoint {
    /// Its id in the vault; as long as it is near its source only, its id there.
    pub id: PointId,
    /// Its item.
    pub item: ItemId,
    /// Its vault.
    pub vault: VaultId,
    /// The moment whose data it is.
    pub time: Timestamp,
    /// When it was complete.
    pub completed: Timestamp,
    /// Where its data is.
    #[serde(rename = "type")]
    pub kind: RecoveryPointType,
    /// Whether it can be restored.
    pub state: PointState,
    /// What was proved of its consistency.
    pub consistency: ConsistencyProved,
    /// Why it was made.
    pub trigger: Trigger,
    /// The job that made it; none if it was found in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Its disks.
    pub disks: Vec<PointDisk>,
    /// Its copy near its source, if there is one: restores use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotCopy>,
    /// Bytes that it added to the vault.
    pub stored_bytes: u64,
    /// Until when it is locked in its vault: nobody can delete it before, and no reclaim frees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
    /// Until when somebody wants it kept, whatever the policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_until: Option<Timestamp>,
    /// When it expires, as things are now; none if it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Which rules keep it: `daily`, `weekly`, `monthly`, `yearly`, `on_demand`, `last_point`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_by: Vec<String>,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// When it can no longer be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_after: Option<Timestamp>,
    /// What people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The copy of a recovery point near its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotCopy {
    /// The vault that it is in.
    pub vault: VaultId,
    /// Its id there.
    pub id: PointId,
    /// Until when it stays there; none as long as it is the item's newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A disk of a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointDisk {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes that differ from the point before.
    pub changed_bytes: u64,
}

/// Changes of a recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PointUpdate {
    /// Until when it is kept, whatever the policy says. An earlier time than before is a shorter
    /// retention.
    #[serde(default)]
    pub retain_until: Option<Timestamp>,
}
