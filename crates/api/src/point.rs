//! Recovery points.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{ItemId, JobId, PointId, Suspicion, VaultId};
use utoipa::ToSchema;

use crate::{ConsistencyProved, PointBoot, Trigger, words};

words! {
    /// Where a recovery point's data is.
    RecoveryPointType {
        /// Only in the snapshot vault.
        Snapshot = "snapshot",
        /// In the snapshot vault and in the vault.
        SnapshotAndVault = "snapshot_and_vault",
        /// Only in the vault.
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
        /// It is damaged.
        Damaged = "damaged",
        /// It is missing from its vault, and the service has not deleted it.
        Lost = "lost",
        /// It is deleted and can still be restored.
        SoftDeleted = "soft_deleted",
    }
}

/// A recovery point: one consistent moment of all protected disks of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPoint {
    /// Its id in the vault; until it is transferred, its id in the snapshot vault.
    pub id: PointId,
    /// Its item.
    pub item: ItemId,
    /// Its vault.
    pub vault: VaultId,
    /// The moment of its data.
    pub time: Timestamp,
    /// When it was complete.
    pub completed: Timestamp,
    /// Where its data is.
    #[serde(rename = "type")]
    pub kind: RecoveryPointType,
    /// Whether it can be restored.
    pub state: PointState,
    /// The consistency that was proved.
    pub consistency: ConsistencyProved,
    /// Why it was made.
    pub trigger: Trigger,
    /// The job that made it; none if it was found in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Its disks.
    pub disks: Vec<PointDisk>,
    /// Its copy in the snapshot vault, if it has one: restores use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotCopy>,
    /// Bytes that it added to the vault.
    pub stored_bytes: u64,
    /// When its lock in the vault expires: until then nobody can delete it, and no reclaim frees
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
    /// The expiry that somebody has set, whatever the policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_until: Option<Timestamp>,
    /// When it expires by the present rules; none if it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The rules that keep it: `daily`, `weekly`, `monthly`, `yearly`, `on_demand`, `last_point`,
    /// ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_by: Vec<String>,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// Until when it can be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_after: Option<Timestamp>,
    /// Notes for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why ransomware may have encrypted the item before it; none if nothing speaks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<Suspicion>,
    /// Whether its machine boots, if that was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<PointBoot>,
}

/// The copy of a recovery point in the snapshot vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotCopy {
    /// The vault that it is in.
    pub vault: VaultId,
    /// Its id there.
    pub id: PointId,
    /// Until when it stays there; none while it is the item's newest point.
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
    /// Bytes in blocks that were new to the vault; none in a disk's first backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
    /// Bytes of them that do not compress, as encrypted content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incompressible_bytes: Option<u64>,
}

/// Changes of a recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PointUpdate {
    /// The new expiry, whatever the policy says. An earlier time than before shortens the
    /// retention.
    #[serde(default)]
    pub retain_until: Option<Timestamp>,
}
