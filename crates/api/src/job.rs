//! Jobs: durable units of work.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{HostId, ItemId, JobId, PointId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, words};

words! {
    /// What a job does.
    JobKind {
        /// Lists the machines of a host.
        Discover = "discover",
        /// Gives machines or disks to a vault and a policy.
        ConfigureProtection = "configure_protection",
        /// Makes a recovery point.
        Backup = "backup",
        /// Brings back a machine or disks.
        Restore = "restore",
        /// Accepts or undoes a restore that has replaced a machine's disks.
        FinishRestore = "finish_restore",
        /// Stops protection.
        DisableProtection = "disable_protection",
        /// Deletes an item's recovery points.
        DeleteBackupData = "delete_backup_data",
        /// Brings back a deleted item.
        Undelete = "undelete",
        /// Removes recovery points whose time is over.
        Expire = "expire",
        /// Frees what no recovery point needs.
        Reclaim = "reclaim",
        /// Verifies what a vault holds.
        Verify = "verify",
        /// Measures what a vault holds.
        MeasureUsage = "measure_usage",
        /// Changes a vault's key.
        RotateKey = "rotate_key",
        /// Writes what the service knows, sealed, into a vault.
        SaveCatalog = "save_catalog",
    }
}

words! {
    /// How far a job is.
    JobState {
        /// It waits for its turn.
        Queued = "queued",
        /// It is at work.
        InProgress = "in_progress",
        /// It was cancelled and is cleaning up.
        Cancelling = "cancelling",
        /// Somebody cancelled it.
        Cancelled = "cancelled",
        /// It is done.
        Completed = "completed",
        /// It is done, but not as well as it should be.
        CompletedWithWarnings = "completed_with_warnings",
        /// It failed.
        Failed = "failed",
    }
}

impl JobKind {
    /// What a job of this kind is called in a sentence, before `of` and what it is about.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Discover => "the discovery of machines",
            Self::ConfigureProtection => "the protection",
            Self::Backup => "the backup",
            Self::Restore => "the restore",
            Self::FinishRestore => "the end of the restore",
            Self::DisableProtection => "the end of the protection",
            Self::DeleteBackupData => "the deletion of the backup data",
            Self::Undelete => "the undeletion",
            Self::Expire => "the removal of expired recovery points",
            Self::Reclaim => "the reclaim",
            Self::Verify => "the verification",
            Self::MeasureUsage => "the measurement",
            Self::RotateKey => "the change of the key",
            Self::SaveCatalog => "the copy of the catalog",
        }
    }
}

impl Job {
    /// Which try it is, or was last; 0 before the first.
    pub const fn current_try(&self) -> u32 {
        self.attempt.saturating_sub(self.interruptions)
    }
}

impl JobState {
    /// Whether nothing more will happen.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Completed | Self::CompletedWithWarnings | Self::Failed
        )
    }
}

words! {
    /// Why a job was begun.
    Trigger {
        /// Somebody asked for it.
        OnDemand = "on_demand",
        /// A policy's schedule.
        Scheduled = "scheduled",
        /// The service keeps house.
        System = "system",
    }
}

words! {
    /// How far a part of a job is.
    TaskState {
        /// It comes later.
        Pending = "pending",
        /// It is at work.
        InProgress = "in_progress",
        /// It is done.
        Completed = "completed",
        /// It is done, but not as well as it should be.
        CompletedWithWarnings = "completed_with_warnings",
        /// It failed.
        Failed = "failed",
        /// It was not needed.
        Skipped = "skipped",
        /// The job was cancelled.
        Cancelled = "cancelled",
    }
}

/// A part of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its name: `snapshot`, `transfer`, `validate`, ...
    pub name: String,
    /// How far it is.
    pub state: TaskState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// What it found or did, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How far a job has come in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Bytes gone through.
    pub done_bytes: u64,
    /// Bytes to go through in all, as far as known; may grow.
    pub total_bytes: u64,
    /// Bytes written to the vault or the target.
    pub stored_bytes: u64,
    /// Bytes gone through a second, of late.
    pub bytes_per_second: u64,
    /// Seconds that are left at this rate; none if nobody can say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// A job: one durable unit of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// Why it was begun.
    pub trigger: Trigger,
    /// Who asked for it: a user's name, or `system`.
    pub requested_by: String,
    /// What it works on, by name: an item, a host or a vault.
    pub subject: String,
    /// The vault, if it works on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultId>,
    /// The item, if it works on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemId>,
    /// The host, if it works on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Its parts, in order.
    pub tasks: Vec<Task>,
    /// How far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What is not as good as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<ErrorBody>,
    /// Why it failed; or why it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// How often it was begun. A start that an orderly stop of the server has cut short does not count.
    pub attempt: u32,
    /// How often the server died while it was at work: those starts use up no tries.
    #[serde(default)]
    pub interruptions: u32,
    /// How often it is tried at most, if it fails in a way that may pass.
    #[serde(default)]
    pub max_tries: u32,
    /// Since when it exists.
    pub created: Timestamp,
    /// It is not begun before: it waits for a try again, or for its place in a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When it was begun first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The recovery point that it made or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<PointId>,
    /// What it did, in the words of the command that does the same; see `docs/use/json.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub report: Option<serde_json::Value>,
}

/// What is answered when a job was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobBegun {
    /// The job.
    pub job: JobId,
    /// Where to ask how far it is.
    pub link: String,
}
