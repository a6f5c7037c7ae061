//! What differs between recovery points; also the stable JSON of the command line.

use serde::Serialize;
use strongroom_base::PointId;
use strongroom_format::SkippedRange;

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
