//! Reclaims.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::PointId;

/// What a reclaim did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Deleted points whose manifests were removed.
    pub points_removed: u64,
    /// Those points; with a dry run those that would be removed.
    pub removed: Vec<RemovedPoint>,
    /// Deleted points that stay, and why.
    pub held: Vec<HeldPoint>,
    /// Packs that exist.
    pub packs: u64,
    /// Bytes of them.
    pub pack_bytes: u64,
    /// Bytes in them that some recovery point needs.
    pub live_bytes: u64,
    /// Packs of which nothing was needed.
    pub packs_dead: u64,
    /// Packs whose needed part was copied into new packs.
    pub packs_compacted: u64,
    /// Packs removed.
    pub packs_removed: u64,
    /// Bytes of the removed packs.
    pub removed_bytes: u64,
    /// Bytes copied into new packs.
    pub copied_bytes: u64,
    /// Bytes freed in all: removed less copied.
    pub freed_bytes: u64,
    /// Packs of which all full blocks were compressed once more.
    pub recompressed_packs: u64,
    /// Bytes of these blocks before; with a dry run of those that would be compressed once more.
    pub recompressed_bytes: u64,
    /// Bytes of the packs that they are in now, which count among those copied.
    pub recompressed_to_bytes: u64,
    /// Bytes of blocks that the next recompression will take.
    pub recompression_left_bytes: u64,
    /// Tree nodes read.
    pub nodes_read: u64,
    /// Writers that had gone silent and were stopped from publishing.
    pub writers_expired: u64,
    /// Who they were.
    pub gave_up: Vec<String>,
    /// How far this host's clock is ahead of the store's, negative if it is behind: if it is off by
    /// minutes. Ages are reckoned by the store's.
    pub clock_ahead_seconds: Option<i64>,
    /// Backups that were still running when the wait was over: what was condemned is removed by
    /// the next reclaim.
    pub waiting_for: Vec<String>,
}

/// A deleted point that a reclaim removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedPoint {
    /// Its item's name; none if its manifest cannot be read.
    pub item: Option<String>,
    /// The point.
    pub recovery_point: PointId,
    /// The moment whose data it is.
    pub time: Option<Timestamp>,
}

/// Why a deleted point stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyHeld {
    /// It is locked.
    Locked,
    /// Its note is too young.
    Young,
    /// Who keeps the catalog has not given it up.
    NotGivenUp,
}

/// A deleted point that a reclaim leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPoint {
    /// Its item's name; none if its manifest cannot be read.
    pub item: Option<String>,
    /// The point.
    pub recovery_point: PointId,
    /// The moment whose data it is.
    pub time: Option<Timestamp>,
    /// Why it stays.
    pub why: WhyHeld,
    /// From when on that does not hold any more, if that is known.
    pub until: Option<Timestamp>,
}
