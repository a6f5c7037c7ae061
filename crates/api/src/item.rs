//! Protected items: their source, their disks, and the requests to protect, stop, resume and back up.
//!
//! Must not know how a source is backed up, nor when an item is due. Fields are added, never removed or
//! renamed; requests refuse unknown fields.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{HostId, ItemId, JobId, PointId, PolicyId, VaultId};
use utoipa::ToSchema;

use crate::{DiskPaths, ErrorBody, words};

words! {
    /// The state of an item's protection.
    ProtectionState {
        /// It is protected, and has no recovery point yet.
        InitialBackupPending = "initial_backup_pending",
        /// It is protected and was backed up.
        Protected = "protected",
        /// It is protected, and its last backup failed.
        ProtectionError = "protection_error",
        /// Its source is missing: its points are kept and backups are suspended, until the source
        /// is back or protection is stopped.
        SourceMissing = "source_missing",
        /// Its protection is stopped, and its points are kept for ever.
        ProtectionStopped = "protection_stopped",
        /// Its protection is stopped, and its points expire as its policy says, except the last.
        BackupsSuspended = "backups_suspended",
        /// It is deleted with its points, and can still be restored.
        SoftDeleted = "soft_deleted",
    }
}

words! {
    /// The best consistency to try for.
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
    /// The proved consistency of a recovery point.
    ConsistencyProved {
        /// Applications were prepared by scripts, or by VSS.
        Application = "application",
        /// File systems were frozen.
        FileSystem = "file_system",
        /// As after a power cut.
        Crash = "crash",
        /// Nothing was proved: others may have written during the backup, so parts may be of
        /// different moments.
        Unknown = "unknown",
    }
}

impl ConsistencyProved {
    /// Whether it is at least what was wanted.
    pub const fn reaches(self, wanted: ConsistencyWanted) -> bool {
        match wanted {
            ConsistencyWanted::Application => matches!(self, Self::Application),
            ConsistencyWanted::FileSystem => matches!(self, Self::Application | Self::FileSystem),
            ConsistencyWanted::Crash => !matches!(self, Self::Unknown),
        }
    }
}

/// The source of an item.
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
    /// Page blobs of storage accounts.
    Blobs {
        /// Name and blob of each disk: `ACCOUNT/CONTAINER/BLOB`.
        disks: DiskPaths,
        /// How their account is reached; none: they are in accounts that the server serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        access: Option<BlobAccess>,
    },
    /// A page blob that is backed up to another one, by snapshots of both. Its backups are snapshots of the other blob, not
    /// recovery points of the vault.
    IncrementalBackup {
        /// The blob that is backed up.
        from: BlobPlace,
        /// The blob that has the backups.
        to: BlobPlace,
        /// The number of backups that are kept.
        keep: u32,
    },
}

/// A page blob, and how its account is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobPlace {
    /// The blob: `ACCOUNT/CONTAINER/BLOB`.
    pub blob: String,
    /// How its account is reached; none: the server serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<BlobAccess>,
}

/// How a storage account is reached that the server does not serve itself. Its secrets are in files of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobAccess {
    /// File with the account's connection string, or its URL with a shared access signature: a path of the host, below one
    /// of the server's `key_dirs`.
    pub connection_string_file: String,
    /// File with certificates (PEM) that are believed instead of the system's: a path of the host, below one of the
    /// server's `key_dirs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// The protected disks of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "choose", rename_all = "snake_case", deny_unknown_fields)]
pub enum DiskSelection {
    /// All disks, also disks that are added later.
    #[default]
    All,
    /// Only the disk from which it starts.
    OsOnly,
    /// Only these disks; disks that are added later are left out.
    Include {
        /// Their names.
        disks: Vec<String>,
    },
    /// All disks except these; disks that are added later are backed up.
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
    /// Number of failed backups since the last good one.
    #[serde(default)]
    pub failures: u32,
    /// The job that works on it now; no other job can begin.
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
    /// Disks that a restore has replaced, until somebody accepts or undoes the restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replaced>,
    /// When it was protected.
    pub created: Timestamp,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// Until when it can be restored.
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
    /// The decision about disks that a restore has replaced.
    RestoreDecision {
        /// The restored state stays.
        Accept = "accept",
        /// The state before is restored.
        Undo = "undo",
    }
}

/// Protects machines, disks or page blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// The vault: its name or id.
    pub vault: String,
    /// The host: its name or id.
    pub host: String,
    /// The policy: its name or id; the default is the vault's policy `default`.
    #[serde(default)]
    pub policy: Option<String>,
    /// The sources to protect.
    #[schema(min_items = 1, max_items = 1000)]
    pub sources: Vec<ProtectSource>,
    /// Whether the first backup begins at once, not at the policy's scheduled time.
    #[serde(default)]
    pub backup_now: bool,
}

/// A source to protect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectSource {
    /// A machine: its name or UUID. Either this, `paths`, `blobs` or `incremental_backup`.
    #[serde(default)]
    pub machine: Option<String>,
    /// Disks by path: name and place of each, which is below one of the server's `disk_dirs` or is one of
    /// them.
    #[serde(default)]
    pub paths: Option<DiskPaths>,
    /// Page blobs of storage accounts, of which one recovery point is made.
    #[serde(default)]
    pub blobs: Option<ProtectBlobs>,
    /// A page blob that is backed up to another one.
    #[serde(default)]
    pub incremental_backup: Option<ProtectIncrementalBackup>,
    /// The item's name; the default is the machine's name.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// Which disks of the machine.
    #[serde(default)]
    pub disks: DiskSelection,
}

/// Page blobs to protect. Those of accounts that the server serves get their snapshots at the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectBlobs {
    /// Name and blob of each disk: `ACCOUNT/CONTAINER/BLOB`. The server's `blob_accounts` name the accounts that it serves
    /// and that items may protect.
    pub disks: DiskPaths,
    /// How their account is reached; none: they are in accounts that the server serves.
    #[serde(default)]
    pub access: Option<BlobAccess>,
}

/// A page blob to back up to another one: a backup is a snapshot of the target, and writes only what has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectIncrementalBackup {
    /// The blob that is backed up. The server's `blob_accounts` name the accounts that it serves and that items may protect.
    pub from: BlobPlace,
    /// The blob that has the backups; the first one creates it. The server's `blob_target_accounts` name the accounts that
    /// it serves and that items may write to.
    pub to: BlobPlace,
    /// The number of backups that are kept.
    #[serde(default = "ProtectIncrementalBackup::keep")]
    #[schema(minimum = 1, maximum = 9999, default = 30)]
    pub keep: u32,
}

impl ProtectIncrementalBackup {
    /// The number of backups that are kept if nothing is said.
    const fn keep() -> u32 {
        30
    }
}

/// Changes of an item. Omitted fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemUpdate {
    /// Another policy: its name or id.
    #[serde(default)]
    pub policy: Option<String>,
    /// A new choice of disks.
    #[serde(default)]
    pub disks: Option<DiskSelection>,
}

/// A backup on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupNow {
    /// When its point expires; the default is in 30 days.
    #[serde(default)]
    pub retain_until: Option<Timestamp>,
}

words! {
    /// The fate of the points when protection is stopped.
    StopMode {
        /// They are kept for ever.
        RetainForever = "retain_forever",
        /// They expire as the policy says, except the last.
        RetainAsPerPolicy = "retain_as_per_policy",
        /// They are deleted; with soft delete they can be restored for some days.
        DeleteData = "delete_data",
    }
}

/// Stops protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopProtection {
    /// The fate of the points.
    pub mode: StopMode,
}

/// Resumes protection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeProtection {
    /// The policy: its name or id; the default is the last one.
    #[serde(default)]
    pub policy: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consistency_reaches_itself_and_what_is_less() {
        use ConsistencyProved as P;
        let proved = [P::Unknown, P::Crash, P::FileSystem, P::Application];
        for (least, wanted) in [
            (1, ConsistencyWanted::Crash),
            (2, ConsistencyWanted::FileSystem),
            (3, ConsistencyWanted::Application),
        ] {
            for (rank, had) in proved.into_iter().enumerate() {
                assert_eq!(had.reaches(wanted), rank >= least, "{had:?} {wanted:?}");
            }
        }
    }
}
