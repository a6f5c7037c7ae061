//! Jobs: durable units of work.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{HostId, ItemId, JobId, PointId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, Report, words};

words! {
    /// The kind of a job.
    JobKind {
        /// Lists the machines of a host.
        Discover = "discover",
        /// Gives machines or disks to a vault and a policy.
        ConfigureProtection = "configure_protection",
        /// Makes a recovery point.
        Backup = "backup",
        /// Restores a machine or disks.
        Restore = "restore",
        /// Accepts or undoes a restore that has replaced a machine's disks.
        FinishRestore = "finish_restore",
        /// Stops protection.
        DisableProtection = "disable_protection",
        /// Deletes an item's recovery points.
        DeleteBackupData = "delete_backup_data",
        /// Restores a deleted item.
        Undelete = "undelete",
        /// Removes expired recovery points.
        Expire = "expire",
        /// Frees the space that no recovery point needs.
        Reclaim = "reclaim",
        /// Verifies what a vault holds.
        Verify = "verify",
        /// Starts a machine from a recovery point in isolation, to see whether it boots.
        VerifyBoot = "verify_boot",
        /// Boots machines together from their recovery points, to see when each works.
        Drill = "drill",
        /// Measures what a vault holds.
        MeasureUsage = "measure_usage",
        /// Changes a vault's key.
        RotateKey = "rotate_key",
        /// Saves a sealed copy of the catalog in a vault.
        SaveCatalog = "save_catalog",
    }
}

words! {
    /// The state of a job.
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
        /// It is done, with warnings.
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
            Self::VerifyBoot => "the boot verification",
            Self::Drill => "the drill",
            Self::MeasureUsage => "the measurement",
            Self::RotateKey => "the change of the key",
            Self::SaveCatalog => "the copy of the catalog",
        }
    }
}

impl Job {
    /// Number of the present or last try; 0 before the first.
    pub const fn current_try(&self) -> u32 {
        self.attempt.saturating_sub(self.interruptions)
    }
}

impl JobState {
    /// Whether the job has ended.
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
        /// The service's own housekeeping.
        System = "system",
    }
}

words! {
    /// The state of a part of a job.
    TaskState {
        /// It has not begun.
        Pending = "pending",
        /// It is at work.
        InProgress = "in_progress",
        /// It is done.
        Completed = "completed",
        /// It is done, with warnings.
        CompletedWithWarnings = "completed_with_warnings",
        /// It failed.
        Failed = "failed",
        /// It was not needed.
        Skipped = "skipped",
        /// The job was cancelled.
        Cancelled = "cancelled",
    }
}

macro_rules! task_names {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// The name of a part of a job.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum TaskName {
            $($(#[doc = $doc])* $variant,)*
            /// Another: a source that is being protected, by its name, or a part of a newer server.
            Other(String),
        }

        impl TaskName {
            /// As it is written.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<String> for TaskName {
            fn from(name: String) -> Self {
                match name.as_str() {
                    $($name => Self::$variant,)*
                    _ => Self::Other(name),
                }
            }
        }
    };
}

task_names! {
    /// The disks as they are at one instant.
    Snapshot = "snapshot",
    /// What is read goes into the vault that keeps it.
    Transfer = "transfer",
    /// What is in the vault can be restored.
    Validate = "validate",
    /// A restore finds out what it will do.
    Prepare = "prepare",
    /// What is read from the vault goes to its place.
    Restore = "restore",
    /// A restore is accepted or undone.
    Finish = "finish",
    /// A host says what it has.
    Discover = "discover",
    /// Recovery points are deleted.
    Delete = "delete",
    /// Space is freed.
    Reclaim = "reclaim",
    /// What the vault holds is verified.
    Verify = "verify",
    /// A machine is started from a recovery point, and watched.
    Boot = "boot",
    /// Machines are started together from recovery points, and watched.
    Drill = "drill",
    /// What the vault holds is measured.
    Measure = "measure",
    /// The vault's key is changed.
    Rotate = "rotate",
    /// The catalog is saved in the vault.
    Save = "save",
}

impl From<TaskName> for String {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::Other(name) => name,
            known => known.as_str().to_owned(),
        }
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A part of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its name: `snapshot`, `transfer`, `validate`, ...
    #[schema(value_type = String)]
    pub name: TaskName,
    /// Its state.
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

/// The progress of a job in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Bytes processed.
    pub done_bytes: u64,
    /// Total bytes to process, as far as known; may grow.
    pub total_bytes: u64,
    /// Bytes written to the vault or the target.
    pub stored_bytes: u64,
    /// Recent rate, in bytes a second.
    pub bytes_per_second: u64,
    /// Seconds left at this rate; none if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// A job: one durable unit of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// Its state.
    pub state: JobState,
    /// Why it began.
    pub trigger: Trigger,
    /// Who started it: a user's name, or `system`.
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
    /// Its progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Warnings about parts that were not done as requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<ErrorBody>,
    /// Why it failed, or why it will be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// Number of starts. A start that an orderly stop of the server has cut short does not count.
    pub attempt: u32,
    /// Number of times that the server died while the job ran: those starts use up no tries.
    #[serde(default)]
    pub interruptions: u32,
    /// Maximum number of tries after failures that may be temporary.
    #[serde(default)]
    pub max_tries: u32,
    /// When it was created.
    pub created: Timestamp,
    /// The earliest start: the job waits for its next try, or for its offset in a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When it first began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The recovery point that it made or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<PointId>,
    /// Its result, as the JSON of the command that does the same; see `docs/use/json.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub report: Option<Report>,
}

/// The answer to a request that begins a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobBegun {
    /// The job.
    pub job: JobId,
    /// The path of its progress.
    pub link: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tasks_are_texts_in_json() {
        for (name, text) in [
            (TaskName::Snapshot, "snapshot"),
            (TaskName::Save, "save"),
            (TaskName::Other("web 1".to_owned()), "web 1"),
        ] {
            assert_eq!(serde_json::to_value(&name).expect("JSON"), text);
            assert_eq!(serde_json::from_value::<TaskName>(text.into()).expect("a name"), name);
        }
    }
}
