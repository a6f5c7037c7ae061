//! Protected items.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{HostId, ItemId, JobId, PointId, PolicyId, VaultId};
use utoipa::ToSchema;

use crate::{DiskPaths, ErrorBody, words};

words! {
    /// How far an item is protected.
    ProtectionState {
        /// It is protected, and the first recovery point is not there yet.
        InitialBackupPending = "initial_backup_pending",
        /// It is protected and was backed up.
        Protected = "protected",
        /// It is protected, and its last backup failed.
        ProtectionError = "protection_error",
        /// Its source is gone: its points are kept and nothing is backed up, until the source is back
        /// or protection is stopped.
        SourceMissing = "source_missing",
        /// It is backed up no more, and its points are kept for ever.
        ProtectionStopped = "protection_stopped",
        /// It is backed up no more, and its points expire as its policy says, but for the last.
        BackupsSuspended = "backups_suspended",
        /// It was deleted with its points and can still be brought back.
        SoftDeleted = "soft_deleted",
    }
}

words! {
    /// The best consistency that is tried for.
    ConsistencyWanted {
        /// Applications are prepared by scripts, or by VSS.
        Application = "application",
        /// File systems are frozen.
        FileSystem = "file_system",
        /// As after a power cut.
        Crash = "crash",
    }
}

words! {
    /// What was proved of a recovery point's consistency.
    ConsistencyProved {
        /// Applications were prepared by scripts, or by VSS.
        Application = "application",
        /// File systems were frozen.
        FileSystem = "file_system",
        /// As after a power cut.
        Crash = "crash",
        /// Nothing: others may have written meanwhile, so that parts may be of different moments.
        Unknown = "unknown",
    }
}

impl From<ConsistencyWanted> for ConsistencyProved {
    fn from(wanted: ConsistencyWanted) -> Self {
        match wanted {
            ConsistencyWanted::Application => Self::Application,
            ConsistencyWanted::FileSystem => Self::FileSystem,
            ConsistencyWanted::Crash => Self::Crash,
        }
    }
}

/// What an item protects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A machine of the host.
    Machine {
        /// Its UUID.
        uuid: String,
        /// Its name.
        name: String,
    },
    /// Disks by path.
    Disks {
        /// Name and place of each.
        disks: DiskPaths,
    },
}

/// Which disks of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "choose", rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskSelection {
    /// All, also those that come later.
    #[default]
    All,
    /// Only that from which it starts.
    OsOnly,
    /// These; those that come later are left out.
    Include {
        /// Their names.
        disks: Vec<String>,
    },
    /// All but these; those that come later are backed up.
    Exclude {
        /// Their names.
        disks: Vec<String>,
    },
}

/// A protected item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// Its id.
    pub id: ItemId,
    /// Its name, which no other item of the vault has.
    pub name: String,
    /// Its vault.
    pub vault: VaultId,
    /// The host that has its source.
    pub host: HostId,
    /// What it protects.
    pub source: Source,
    /// Which disks.
    #[serde(default)]
    pub disks: DiskSelection,
    /// Its policy; none if it is only backed up on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyId>,
    /// How far it is protected.
    pub state: ProtectionState,
    /// Why its last backup failed, or why its source is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// Backups that failed since the last that did not.
    #[serde(default)]
    pub failures: u32,
    /// The job that works on it now; no other is begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// When its last good backup was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Timestamp>,
    /// Its newest recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_point: Option<PointId>,
    /// When the next backup starts, as its policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_backup: Option<Timestamp>,
    /// Disks that a restore has replaced, as long as nobody has accepted or undone that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replaced>,
    /// When it was protected.
    pub created: Timestamp,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// When it can no longer be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_after: Option<Timestamp>,
}

/// Disks of a machine that a restore has replaced. The machine runs on layers over its old images until
/// somebody accepts or undoes the restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replaced {
    /// The host.
    pub host: HostId,
    /// The machine: its name, or its UUID.
    pub machine: String,
    /// The recovery point that its disks are from.
    pub recovery_point: PointId,
    /// The job that replaced them.
    pub job: JobId,
    /// When.
    pub time: Timestamp,
}

words! {
    /// What becomes of disks that a restore has replaced.
    RestoreDecision {
        /// The restored state stays.
        Accept = "accept",
        /// The state before comes back.
        Undo = "undo",
    }
}

/// Protects machines or disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// The vault: its name or id.
    pub vault: String,
    /// The host: its name or id.
    pub host: String,
    /// The policy: its name or id; the vault's policy `default` if not given.
    #[serde(default)]
    pub policy: Option<String>,
    /// What to protect, several at once.
    #[schema(min_items = 1, max_items = 1000)]
    pub sources: Vec<ProtectSource>,
    /// Whether the first backup is begun at once, instead of when the policy says.
    #[serde(default)]
    pub backup_now: bool,
}

/// One thing to protect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectSource {
    /// A machine: its name or UUID. Either this or `paths`.
    #[serde(default)]
    pub machine: Option<String>,
    /// Disks by path: name and place of each, which is below one of the server's `disk_dirs` or is one of
    /// them.
    #[serde(default)]
    pub paths: Option<DiskPaths>,
    /// The item's name; the machine's if not given.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// Which disks of the machine.
    #[serde(default)]
    pub disks: DiskSelection,
}

/// Changes of an item. What is not given stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemUpdate {
    /// Another policy: its name or id.
    #[serde(default)]
    pub policy: Option<String>,
    /// Another choice of disks.
    #[serde(default)]
    pub disks: Option<DiskSelection>,
}

/// A backup on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupNow {
    /// Until when its point is kept; 30 days if not given.
    #[serde(default)]
    pub retain_until: Option<Timestamp>,
}

words! {
    /// What becomes of the points when protection is stopped.
    StopMode {
        /// They are kept for ever.
        RetainForever = "retain_forever",
        /// They expire as the policy says, but for the last.
        RetainAsPerPolicy = "retain_as_per_policy",
        /// They are deleted; softly, if the vault does so.
        DeleteData = "delete_data",
    }
}

/// Stops protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopProtection {
    /// What becomes of the points.
    pub mode: StopMode,
}

/// Resumes protection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeProtection {
    /// Another policy: its name or id; as before if not given.
    #[serde(default)]
    pub policy: Option<String>,
}
