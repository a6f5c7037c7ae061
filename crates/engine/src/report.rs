//! Reports of finished work; they are also the stable JSON of the command line.

use jiff::Timestamp;
use serde::Serialize;
use strongroom_base::PointId;
use strongroom_format::SkippedRange;

/// One disk of a finished backup.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// A finished backup.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
}

/// One disk of a finished restore.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiskRestoreReport {
    /// The disk's name.
    pub name: String,
    /// Where it is now.
    pub location: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of data in it (the rest is zero).
    pub data_bytes: u64,
    /// Blocks looked at to find what differs (in place only).
    pub compared_blocks: u64,
    /// Blocks written.
    pub written_blocks: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// A finished restore.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RestoreReport {
    /// The recovery point.
    pub recovery_point: PointId,
    /// The item.
    pub item: String,
    /// Seconds in all.
    pub seconds: f64,
    /// Its disks.
    pub disks: Vec<DiskRestoreReport>,
}

/// What differs between two points of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskDiffReport {
    /// The disk's name.
    pub name: String,
    /// Size in the older point; none if it is new.
    pub old_size_bytes: Option<u64>,
    /// Size in the newer point; none if it is gone.
    pub new_size_bytes: Option<u64>,
    /// Bytes in blocks whose content differs and is not zero now.
    pub changed_bytes: u64,
    /// Bytes in blocks that became zero.
    pub cleared_bytes: u64,
    /// The changed blocks as ranges, ascending: offset and length in bytes. Cut to the first
    /// 100,000.
    pub changed: Vec<SkippedRange>,
    /// The cleared blocks as ranges, likewise.
    pub cleared: Vec<SkippedRange>,
}

/// What differs between two points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// The item.
    pub item: String,
    /// The older point.
    pub from: PointId,
    /// The newer point.
    pub to: PointId,
    /// By disk.
    pub disks: Vec<DiskDiffReport>,
}
