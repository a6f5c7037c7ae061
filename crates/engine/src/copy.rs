//! Transfer of recovery points: from a snapshot vault into the item's own vault.
//!
//! ```text
//!  point of one vault ─▶ its images, as disks ─▶ backup ─▶ point of another vault
//!                  └─ what differs from the point that was copied before ─┘
//! ```
//!
//! A copy is a backup whose disks are images: it stores no block that the other vault has, and
//! reads nothing that has not changed since the last copy. The copy has the same moment, evidence,
//! tags and checkpoints, but its own id: ids are never used twice.

use std::sync::Arc;

use jiff::Timestamp;
use strongroom_base::{BLOCK_SIZE_U64, ByteRange, Cancel, LEAF_SPAN, PointId, RangeSet};
use strongroom_export::PointDisk;
use strongroom_format::{DiskRecord, Manifest};
use strongroom_image::{Error, Image, diff};
use strongroom_vault::{Vault, VaultError};

use crate::{
    BackupDisk, BackupReport, BackupRequest, CleanCheck, Ending, Progress, backup_with,
    error::{EngineError, Result},
    read_configuration,
};

/// The tag of a copy: the id of the point that it is a copy of, in the vault that it was copied from.
pub const COPY_OF: &str = "copy_of";

/// A copy is begun after its point, but perhaps by another clock. Milliseconds.
const SLACK: u64 = 24 * 60 * 60 * 1000;

/// Maximum number of separate ranges; with more, whole leaves count as changed. (16 bytes each.)
const MAX_RANGES: usize = 1 << 20;

/// A copy of a recovery point.
pub struct CopyRequest {
    /// The item's name in the vault that the point is in.
    pub item: String,
    /// The point.
    pub point: PointId,
    /// The item's name in the vault that it is copied to.
    pub to_item: String,
    /// Until when nobody may delete the copy.
    pub locked_until: Option<Timestamp>,
    /// Threads for hashing and compressing; at least 1.
    pub threads: usize,
    /// Bytes a second to read at most.
    pub limit_rate: Option<u64>,
}

/// The copy of a point that a vault has already, if it has.
pub fn find_copy(vault: &Vault, item: &str, of: PointId) -> Result<Option<Manifest>> {
    let name = of.to_string();
    let since = of.millis().saturating_sub(SLACK);
    Ok(vault.find_point(item, since, |point| point.tags.get(COPY_OF) == Some(&name))?)
}

/// Copies a recovery point into another vault. What was copied before the work was interrupted is not
/// stored again.
pub fn copy_point(
    from: &Arc<Vault>,
    to: &Arc<Vault>,
    request: &CopyRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<BackupReport> {
    let point = from.point(&request.item, request.point)?;
    let last = last_copy(from, to, request)?;
    let disks = point.disks.iter().map(|record| {
        let old =
            last.as_ref().and_then(|(_, old)| old.disks.iter().find(|old| old.name == record.name));
        disk(from, record, old)
    });
    let mut tags = point.tags.clone();
    tags.insert(COPY_OF.to_owned(), point.id.to_string());
    let backup = BackupRequest {
        excluded: point.excluded.clone(),
        tags,
        locked_until: request.locked_until,
        time: Some(point.time),
        consistency: point.consistency,
        best_consistency: point.best_consistency,
        evidence: point.evidence.clone(),
        parent: last.as_ref().map(|(parent, _)| *parent),
        // What could not be read when the point was made is not there to be copied.
        skip_bad_blocks: true,
        threads: request.threads,
        limit_rate: request.limit_rate,
        ..BackupRequest::new(&request.to_item, &point.host, disks.collect::<Result<_>>()?)
    };
    let configuration = read_configuration(from, &point)?;
    backup_with(to, &backup, progress, cancel, |_| {
        Ok(Ending { configuration, ..Ending::default() })
    })
}

/// The newest point of the other vault, if it is a copy of one that is still here: the id of the copy,
/// and the point.
fn last_copy(
    from: &Vault,
    to: &Vault,
    request: &CopyRequest,
) -> Result<Option<(PointId, Manifest)>> {
    let (Some(newest), damaged) = to.newest_readable(&request.to_item)? else { return Ok(None) };
    let Some(id) = newest.tags.get(COPY_OF).and_then(|id| id.parse::<PointId>().ok()) else {
        return Ok(None);
    };
    if !damaged.is_empty() {
        return Ok(None);
    }
    match from.point(&request.item, id) {
        Ok(point) => Ok(Some((newest.id, point))),
        Err(VaultError::PointNotFound { .. }) => Ok(None),
        Err(error) => {
            // Everything is read and compared instead.
            tracing::warn!(%error, point = %id, "the point that was copied last cannot be read");
            Ok(None)
        }
    }
}

/// A disk of a point, to be backed up, and what of it has changed since the point copied before.
fn disk(from: &Arc<Vault>, record: &DiskRecord, old: Option<&DiskRecord>) -> Result<BackupDisk> {
    let size_error = |source| EngineError::Size { name: record.name.clone(), source };
    let image =
        |record: &DiskRecord| Image::new(record.size_bytes, record.root).map_err(size_error);
    let changed = match old {
        // What is zeros in one and was unreadable in the other is no difference between images.
        Some(old) if old.skipped.is_empty() && record.skipped.is_empty() => {
            Some(changed_blocks(from, &record.name, image(old)?, image(record)?)?)
        }
        _ => None,
    };
    let source = PointDisk::new(from, record).map_err(size_error)?;
    Ok(BackupDisk {
        changed,
        clean: CleanCheck::Trust,
        checkpoint: record.source.checkpoint.clone(),
        notes: record.notes.clone(),
        ..BackupDisk::new(&record.name, &record.source.location, Arc::new(source))
    })
}

fn changed_blocks(vault: &Arc<Vault>, name: &str, old: Image, new: Image) -> Result<RangeSet> {
    let mut changes = Changes { ranges: Vec::new(), unit: BLOCK_SIZE_U64, size: new.size() };
    for block in diff(Some(old), new, &**vault, new.bytes()) {
        let block = block.map_err(|source| image_error(name, source))?;
        changes.add(block.block.saturating_mul(BLOCK_SIZE_U64), MAX_RANGES);
    }
    Ok(RangeSet::from_unsorted(changes.ranges))
}

/// What has changed, in ascending order: whole blocks, or whole leaves when there are too many ranges.
struct Changes {
    ranges: Vec<ByteRange>,
    unit: u64,
    size: u64,
}

impl Changes {
    /// The block that begins here has changed.
    fn add(&mut self, at: u64, most: usize) {
        let start = at.saturating_sub(at.checked_rem(self.unit).unwrap_or(0));
        let end = start.saturating_add(self.unit).min(self.size);
        match self.ranges.last_mut() {
            Some(last) if last.end() >= start => {
                *last = ByteRange::between(last.offset(), end.max(last.end()));
            }
            _ => self.ranges.push(ByteRange::between(start, end)),
        }
        if self.ranges.len() > most && self.unit < LEAF_SPAN {
            self.unit = LEAF_SPAN;
            let ranges = RangeSet::from_unsorted(std::mem::take(&mut self.ranges));
            let whole = ByteRange::between(0, self.size);
            let wide = ranges.align_outwards(self.unit);
            self.ranges = wide.iter().map(|range| range.intersect(whole)).collect();
        }
    }
}

fn image_error(name: &str, source: Error<VaultError>) -> EngineError {
    match source {
        Error::Store(error) => EngineError::Vault(error),
        source => EngineError::Image { name: name.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_changes_are_told_by_whole_leaves_and_none_is_left_out() {
        let size = 5 * LEAF_SPAN + 1000;
        let blocks = size.div_ceil(BLOCK_SIZE_U64);
        let changed: Vec<u64> =
            (0..blocks).filter(|block| block % 7 == 3 || block + 1 == blocks).collect();
        for most in [usize::MAX, 1, 10, 100] {
            let mut changes = Changes { ranges: Vec::new(), unit: BLOCK_SIZE_U64, size };
            for block in &changed {
                changes.add(block * BLOCK_SIZE_U64, most);
            }
            let limit = most.saturating_add(6).min(changed.len());
            assert!(changes.ranges.len() <= limit, "{most}: {}", changes.ranges.len());
            let set = RangeSet::from_unsorted(changes.ranges);
            assert_eq!(set.end(), size);
            for block in &changed {
                let start = block * BLOCK_SIZE_U64;
                let range = ByteRange::between(start, (start + BLOCK_SIZE_U64).min(size));
                let told: u64 = set.within(range).map(|part| part.len()).sum();
                assert_eq!(told, range.len(), "{most}: block {block}");
            }
        }
    }
}
