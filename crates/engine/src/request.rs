//! Requests to the engine.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use strongroom_base::{PointId, RangeSet};
use strongroom_disk::{DiskSource, DiskTarget};
use strongroom_format::{Consistency, ExcludedDisk};

/// Whether changed blocks may be stored as deltas against their previous version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deltas {
    /// Where the previous version can be had cheaply: from local stores.
    #[default]
    Auto,
    /// From any store.
    Always,
    /// Never.
    Never,
}

/// How far it is believed that a disk is unchanged where it is said to be: by
/// [`BackupDisk::changed`], or by a dirty bitmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanCheck {
    /// As it is said.
    #[default]
    Trust,
    /// One in N blocks that are reported as unchanged, at random, but at least 64 and at most 4096,
    /// is compared with the parent point before anything else. If one differs, the disk is read and
    /// compared as a whole. Blocks that are zeros, then and now, are hardly looked at.
    Sample {
        /// The N.
        one_in: u64,
    },
    /// Not at all: the disk is read and compared as a whole. What is said to have changed only serves
    /// to count what was left out.
    All,
}

impl CleanCheck {
    /// A sample of the usual size.
    pub const SAMPLE: Self = Self::Sample { one_in: 1000 };
}

/// One disk to back up.
pub struct BackupDisk {
    /// Its name within the item.
    pub name: String,
    /// Where it is, for the recovery point; without secrets.
    pub location: String,
    /// The disk.
    pub source: Arc<dyn DiskSource>,
    /// What changed since the parent point, if the caller knows; everything else is taken from
    /// the parent. Without it, and without a dirty bitmap of the source, everything is read.
    pub changed: Option<RangeSet>,
    /// What may have changed besides, where the dirty bitmap does not tell.
    pub also_changed: RangeSet,
    /// Whether the rest is believed to be unchanged.
    pub clean: CleanCheck,
    /// The checkpoint that this state is, for the recovery point: the next backup may ask what has
    /// changed since.
    pub checkpoint: Option<String>,
    /// What people should know of this disk's backup, for the recovery point.
    pub notes: Vec<String>,
}

impl BackupDisk {
    /// A disk of which nothing more is known.
    pub fn new(
        name: impl Into<String>,
        location: impl Into<String>,
        source: Arc<dyn DiskSource>,
    ) -> Self {
        Self {
            name: name.into(),
            location: location.into(),
            source,
            changed: None,
            also_changed: RangeSet::default(),
            clean: CleanCheck::Trust,
            checkpoint: None,
            notes: Vec::new(),
        }
    }
}

/// A backup of one item.
pub struct BackupRequest {
    /// The item's name.
    pub item: String,
    /// Its disks.
    pub disks: Vec<BackupDisk>,
    /// Disks of the item that are left out.
    pub excluded: Vec<ExcludedDisk>,
    /// Labels for the point.
    pub tags: BTreeMap<String, String>,
    /// Until when nobody may delete the point.
    pub locked_until: Option<Timestamp>,
    /// The moment whose data this is; the start of the backup if not given.
    pub time: Option<Timestamp>,
    /// What the caller has proved.
    pub consistency: Consistency,
    /// The best that the guest can have, where that is known to be less than what was asked for.
    pub best_consistency: Option<Consistency>,
    /// How it was proved.
    pub evidence: Vec<String>,
    /// The point that the changed ranges refer to; the newest point if not given.
    pub parent: Option<PointId>,
    /// Name of this host, for the point.
    pub host: String,
    /// Record unreadable parts as zeros instead of failing.
    pub skip_bad_blocks: bool,
    /// Deltas.
    pub deltas: Deltas,
    /// Threads for hashing and compressing; at least 1.
    pub threads: usize,
    /// Bytes a second to read from the sources at most.
    pub limit_rate: Option<u64>,
}

impl BackupRequest {
    /// A backup of these disks as they are after a power cut, by one thread.
    pub fn new(item: impl Into<String>, host: impl Into<String>, disks: Vec<BackupDisk>) -> Self {
        Self {
            item: item.into(),
            disks,
            excluded: Vec::new(),
            tags: BTreeMap::new(),
            locked_until: None,
            time: None,
            consistency: Consistency::Crash,
            best_consistency: None,
            evidence: Vec::new(),
            parent: None,
            host: host.into(),
            skip_bad_blocks: false,
            deltas: Deltas::Auto,
            threads: 1,
            limit_rate: None,
        }
    }
}

/// What a caller knows only when all disks have been read; see [`backup_with`](crate::backup_with).
/// It adds to what the request says.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// What was proved, if not what the request says.
    pub consistency: Option<Consistency>,
    /// How, after what the request says.
    pub evidence: Vec<String>,
    /// More tags; they replace those of the same name.
    pub tags: BTreeMap<String, String>,
    /// By the names of disks of the request.
    pub disks: BTreeMap<String, DiskEnding>,
    /// The machine's configuration, an archive of at most 64 MiB; an empty one is none.
    pub configuration: Option<Vec<u8>>,
}

/// What a caller knows of a disk only when all have been read.
#[derive(Clone, Debug, Default)]
pub struct DiskEnding {
    /// The checkpoint that its state is, if not what the request says.
    pub checkpoint: Option<String>,
    /// What people should know, after what the request says.
    pub notes: Vec<String>,
}

/// Which recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointSelector {
    /// The newest.
    Latest,
    /// This one.
    Id(PointId),
    /// The newest at or before a moment.
    At(Timestamp),
}

/// One disk to restore.
pub struct RestoreDisk {
    /// Its name within the recovery point.
    pub name: String,
    /// Where it goes, for the report.
    pub location: String,
    /// The target, at least as large as the disk.
    pub target: Arc<dyn DiskTarget>,
    /// What is written over what the target holds.
    pub overwrite: Overwrite,
}

/// What a restore writes over what a target holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// All of it, without looking.
    All,
    /// What differs: in place, or to continue an interrupted restore.
    Differences,
    /// Nothing: the target must hold the recovery point already, as it does when a restore was
    /// interrupted after its last step. If it differs, nothing is written to any target.
    Nothing,
}

/// A restore of disks of one recovery point.
pub struct RestoreRequest {
    /// The item's name.
    pub item: String,
    /// The recovery point.
    pub point: PointId,
    /// Disks and targets.
    pub disks: Vec<RestoreDisk>,
    /// Threads for decompressing; at least 1.
    pub threads: usize,
    /// Bytes a second to write to the targets at most.
    pub limit_rate: Option<u64>,
}
