//! What backups and restores did.

use serde::{Deserialize, Serialize};

use super::state::BackupSnapshot;

/// How a backup found what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The target was empty: all pages with content were copied.
    Full,
    /// What differs from the backup before was copied.
    Incremental,
    /// Both blobs were read and compared, because no difference could be listed.
    Compared,
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// The backup.
    #[serde(flatten)]
    pub backup: BackupSnapshot,
    /// How it was found what to write.
    pub method: Method,
    /// Why both blobs were compared, if they were.
    pub reason: Option<String>,
    /// Whether an earlier run had taken the snapshot of the source, and had not ended.
    pub was_continued: bool,
    /// Bytes that were read from the source by this process.
    pub read_bytes: u64,
    /// Bytes that were written to the target.
    pub written_bytes: u64,
    /// Ranges that were written to the target.
    pub written_ranges: u64,
    /// Bytes of the target that were cleared.
    pub cleared_bytes: u64,
    /// Ranges of the target that were cleared.
    pub cleared_ranges: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What a run of incremental backups did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The source: `ACCOUNT/CONTAINER/BLOB`, percent-encoded.
    pub source: String,
    /// The target.
    pub target: String,
    /// The backups, in the order in which they were made: one; two if an earlier run was finished first.
    pub backups: Vec<SnapshotReport>,
    /// Whether the source's account did not permit a new snapshot yet, so that only the backup of the earlier run was
    /// finished.
    pub was_too_soon: bool,
    /// Old snapshots of the source that were deleted.
    pub deleted_snapshots: Vec<String>,
    /// Old snapshots of the source that could not be deleted; the next run tries again.
    pub kept_snapshots: Vec<String>,
    /// Old backups that were deleted, as only some are kept.
    #[serde(default)]
    pub deleted_backups: Vec<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The backup that was restored.
    #[serde(flatten)]
    pub backup: BackupSnapshot,
    /// The restored blob: `ACCOUNT/CONTAINER/BLOB`, percent-encoded.
    pub restored: String,
    /// The snapshot of the restored blob from which the next backup continues.
    pub restored_snapshot: String,
    /// Whether an earlier restore that had not ended was continued.
    pub was_continued: bool,
    /// Bytes that were read from the backup by this process.
    pub read_bytes: u64,
    /// Bytes that were written to the restored blob.
    pub written_bytes: u64,
    /// Ranges that were written.
    pub written_ranges: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}
