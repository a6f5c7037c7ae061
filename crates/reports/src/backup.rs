//! Backups, and transfers of recovery points, which are backups as well.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{Consistency, NewContent, PointId, SkippedRange, Suspicion};

/// One disk of a finished backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskBackupReport {
    /// The disk's name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of it that the source says are allocated; none if only changed ranges were looked at.
    pub allocated_bytes: Option<u64>,
    /// Bytes in blocks that differ from the parent point.
    pub changed_bytes: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Changed bytes that the vault had already.
    pub deduplicated_bytes: u64,
    /// Bytes added to the vault, sealed.
    pub stored_bytes: u64,
    /// Bytes in blocks that were new to the vault; none in a disk's first backup.
    #[serde(default)]
    pub new_bytes: Option<u64>,
    /// Bytes of them that do not compress, as encrypted content.
    #[serde(default)]
    pub incompressible_bytes: Option<u64>,
    /// Blocks stored as deltas.
    pub delta_blocks: u64,
    /// What said which ranges had changed: `all`, `ranges` or `bitmap`.
    pub changes_from: String,
    /// Parts that could not be read and were recorded as zeros.
    pub skipped: Vec<SkippedRange>,
    /// The checkpoint that the point records.
    pub checkpoint: Option<String>,
    /// Blocks that were said not to have changed and were compared with the parent point.
    pub checked_blocks: u64,
    /// Blocks that had changed although they were said not to have.
    pub unexpected_blocks: u64,
    /// What people should know of this disk's backup.
    pub notes: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
}

impl DiskBackupReport {
    /// What was new to the vault.
    pub fn new_content(&self) -> Option<NewContent> {
        let (bytes, incompressible_bytes) = self.new_bytes.zip(self.incompressible_bytes)?;
        Some(NewContent { bytes, incompressible_bytes })
    }
}

/// That a recovery point is suspect, as a message and as values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspicionReport {
    /// The code: `point.suspect`.
    pub code: String,
    /// The message.
    pub message: String,
    /// What jumped, and the last point before.
    #[serde(flatten)]
    pub suspicion: Suspicion,
}

impl SuspicionReport {
    /// That this point of an item is suspect.
    pub fn new(suspicion: Suspicion, item: &str, point: PointId) -> Self {
        let message = suspicion.message(item, point);
        Self { code: message.code.name.to_owned(), message: message.text, suspicion }
    }
}

/// A finished backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The new recovery point.
    pub recovery_point: PointId,
    /// The item.
    pub item: String,
    /// The moment whose data it is.
    pub time: Timestamp,
    /// The point it was built upon.
    pub parent: Option<PointId>,
    /// The moment of that point's data.
    #[serde(skip)]
    pub parent_time: Option<Timestamp>,
    /// Bytes added to the vault in all: data, tree nodes and index, sealed.
    pub stored_bytes: u64,
    /// Bytes of the machine's configuration, if it was backed up.
    pub configuration_bytes: Option<u64>,
    /// Seconds in all.
    pub seconds: f64,
    /// Its disks.
    pub disks: Vec<DiskBackupReport>,
    /// Why ransomware may have encrypted the item; none if nothing speaks for it.
    #[serde(default)]
    pub suspicion: Option<SuspicionReport>,
    /// Whether an earlier run of the same order has made the point; it says no more than the point does then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub made_before: bool,
}

/// A finished backup of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineBackupReport {
    /// The machine.
    pub machine: String,
    /// Its UUID.
    pub uuid: String,
    /// What it was doing.
    pub state: String,
    /// What was proved: `application`, `file_system` or `crash`.
    pub consistency: Consistency,
    /// How it was proved, step by step.
    pub evidence: Vec<String>,
    /// Seconds for which the guest's file systems were frozen; none if they were not.
    pub frozen_seconds: Option<f64>,
    /// Seconds that QEMU's transaction took; none if the machine was off.
    pub transaction_seconds: Option<f64>,
    /// The most bytes of scratch space that were seen in use.
    pub scratch_bytes: u64,
    /// The checkpoint that the next backup builds on, if there is one.
    pub checkpoint: Option<String>,
    /// What people should know.
    pub notes: Vec<String>,
    /// The recovery point.
    #[serde(flatten)]
    pub point: BackupReport,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}
