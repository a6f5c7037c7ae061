//! Queries on recovery points: find one, compare two.

use std::{collections::BTreeSet, sync::Arc};

use strongroom_base::{BLOCK_SIZE_U64, ByteRange};
use strongroom_format::{DiskRecord, Manifest, SkippedRange};
use strongroom_image::{Image, diff};
use strongroom_vault::{DamagedManifest, PointList, Vault, VaultError};

use crate::{
    DiffReport, DiskDiffReport, PointSelector,
    error::{EngineError, Result},
};

/// Ranges that a report lists at most.
const MAX_RANGES: usize = 100_000;

/// Finds the recovery point of an item that a user means.
pub fn select_point(vault: &Vault, item: &str, selector: PointSelector) -> Result<Manifest> {
    let none = || VaultError::ItemNotFound { item: item.to_owned() };
    match selector {
        PointSelector::Latest => Ok(vault.latest(item)?.ok_or_else(none)?),
        PointSelector::Id(id) => Ok(vault.point(item, id)?),
        PointSelector::At(time) => {
            let PointList { points, damaged } = vault.list_points(Some(item))?;
            let found = points.into_iter().rev().find(|point| point.time <= time);
            if let Some(damaged) =
                damaged.into_iter().find(|d| may_be_meant(d, found.as_ref(), time))
            {
                return Err(damaged.into_error().into());
            }
            found.ok_or_else(|| EngineError::NoneBefore { item: item.to_owned(), time })
        }
    }
}

/// Whether a point that cannot be read may be the newest one at or before a time, rather than the
/// one that was found. Its id says when it was made, unless a clock was ahead: then ids continue from
/// the highest, and the id of the point before it is later than that point's own time.
fn may_be_meant(
    damaged: &DamagedManifest,
    found: Option<&Manifest>,
    time: jiff::Timestamp,
) -> bool {
    // The id is made a moment after the time is taken.
    const SLACK: u64 = 1000;
    let limit = u64::try_from(time.as_millisecond()).unwrap_or(0).saturating_add(SLACK);
    let newer = found.is_none_or(|found| damaged.point > found.id);
    let clock_was_ahead = found.is_some_and(|found| found.id.millis() > limit);
    newer && (damaged.point.millis() <= limit || clock_was_ahead)
}

/// What differs between two points of an item, disk by disk, at a cost that follows the
/// difference.
pub fn diff_points<'a>(
    vault: &Arc<Vault>,
    from: &'a Manifest,
    to: &'a Manifest,
) -> Result<DiffReport> {
    let names: BTreeSet<&str> =
        from.disks.iter().chain(&to.disks).map(|disk| disk.name.as_str()).collect();
    let find =
        |manifest: &'a Manifest, name: &str| manifest.disks.iter().find(|disk| disk.name == name);
    let disks = names
        .into_iter()
        .map(|name| diff_disk(vault, name, find(from, name), find(to, name)))
        .collect::<Result<_>>()?;
    Ok(DiffReport { item: to.item.clone(), from: from.id, to: to.id, disks })
}

/// Bytes of a disk that are not zeros, in whole blocks: what a restore of it writes.
pub fn data_bytes(vault: &Arc<Vault>, disk: &DiskRecord) -> Result<u64> {
    Ok(diff_disk(vault, &disk.name, None, Some(disk))?.changed_bytes)
}

fn diff_disk(
    vault: &Arc<Vault>,
    name: &str,
    old: Option<&DiskRecord>,
    new: Option<&DiskRecord>,
) -> Result<DiskDiffReport> {
    let image = |record: Option<&DiskRecord>| {
        let image = record.map(|record| Image::new(record.size_bytes, record.root));
        image.transpose().map_err(|source| EngineError::Size { name: name.to_owned(), source })
    };
    let mut report = DiskDiffReport {
        name: name.to_owned(),
        old_size_bytes: old.map(|disk| disk.size_bytes),
        new_size_bytes: new.map(|disk| disk.size_bytes),
        changed_bytes: 0,
        cleared_bytes: 0,
        changed: Vec::new(),
        cleared: Vec::new(),
    };
    let Some(new) = image(new)? else { return Ok(report) };
    for block in diff(image(old)?, new, &**vault, new.bytes()) {
        let block = block.map_err(|source| match source {
            strongroom_image::Error::Store(error) => EngineError::Vault(error),
            source => EngineError::Image { name: name.to_owned(), source },
        })?;
        let start = block.block.saturating_mul(BLOCK_SIZE_U64);
        let end = start.saturating_add(BLOCK_SIZE_U64).min(new.size());
        let range = ByteRange::between(start, end);
        if block.new.is_hole() {
            report.cleared_bytes = report.cleared_bytes.saturating_add(range.len());
            add(&mut report.cleared, range);
        } else {
            report.changed_bytes = report.changed_bytes.saturating_add(range.len());
            add(&mut report.changed, range);
        }
    }
    Ok(report)
}

/// Appends a range, joined to the last one where they touch.
fn add(ranges: &mut Vec<SkippedRange>, range: ByteRange) {
    if let Some(last) = ranges.last_mut()
        && last.offset.saturating_add(last.length) == range.offset()
    {
        last.length = last.length.saturating_add(range.len());
    } else if ranges.len() < MAX_RANGES {
        ranges.push(SkippedRange { offset: range.offset(), length: range.len() });
    }
}
