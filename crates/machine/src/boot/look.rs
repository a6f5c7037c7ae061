//! What is looked at before a machine is started: the digests of all blocks, and the file systems.

use std::sync::Arc;

use strongroom_base::{Cancel, Stage, Things};
use strongroom_disk::{DiskSource as _, ExtentKind};
use strongroom_engine::Progress;
use strongroom_export::{PointDisk, PointFiles};
use strongroom_files::{FaultKind, FileReader, Files, FilesError, Limits, ReaderCommand, Volume};
use strongroom_format::Manifest;
use strongroom_reports::Rung;
use strongroom_vault::Vault;

use super::{damage::Damages, ladder::Ladder};
use crate::{MachineError, error::Result};

/// Bytes that are read at a time.
const PART: u64 = 4 << 20;

pub(super) fn point_disk(
    vault: &Arc<Vault>,
    point: &Manifest,
    record: &strongroom_format::DiskRecord,
) -> Result<PointDisk> {
    PointDisk::new(vault, record).map_err(|error| MachineError::Configuration {
        point: point.id.to_string(),
        reason: error.to_string(),
    })
}

/// Reads every block, each of which is checked against its digest.
pub(super) fn digests(
    vault: &Arc<Vault>,
    point: &Manifest,
    ladder: &mut Ladder,
    damages: &Damages,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    progress.count(Stage::Reading, Things::Bytes, 0, 0);
    let mut sum = 0_u64;
    for record in &point.disks {
        let disk = point_disk(vault, point, record)?;
        match read(&disk, progress, cancel) {
            Ok(bytes) => sum = sum.saturating_add(bytes),
            Err(MachineError::Disk(error)) => {
                damages.note(&record.name, &error);
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                let cause = cause.unwrap_or_default();
                ladder.miss(Rung::Digests, format!("disk {}: {error}{cause}", record.name));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    let bytes = strongroom_base::words::bytes(sum);
    ladder.reach(Rung::Digests, None, format!("{bytes} were read and are what they should be"));
    Ok(())
}

fn read(disk: &PointDisk, progress: &Progress, cancel: &Cancel) -> Result<u64> {
    let mut buf = vec![0; usize::try_from(PART).unwrap_or(usize::MAX)];
    let (mut at, mut sum) = (0, 0_u64);
    while at < disk.size() {
        if cancel.is_cancelled() {
            return Err(MachineError::Interrupted);
        }
        let extents = disk.extents(strongroom_base::ByteRange::between(at, disk.size()))?;
        let Some(last) = extents.last() else { break };
        let end = last.range.end();
        for extent in extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
            let mut from = extent.range.offset();
            while from < extent.range.end() {
                let len = PART.min(extent.range.end().saturating_sub(from));
                let part = usize::try_from(len).unwrap_or(usize::MAX);
                let part = buf.get_mut(..part).unwrap_or_default();
                disk.read_at(from, part)?;
                sum = sum.saturating_add(len);
                progress.advance(len);
                from = from.saturating_add(len);
            }
        }
        at = end;
    }
    Ok(sum)
}

/// Opens the file systems that there are, and lists the first folder of each.
pub(super) fn file_systems(
    vault: &Arc<Vault>,
    point: &Manifest,
    reader: &ReaderCommand,
    ladder: &mut Ladder,
    damages: &Damages,
) {
    let mut files = match PointFiles::open(vault, point, None, reader, Limits::default()) {
        Ok(files) => files,
        Err(error) => {
            damages.note_files(&error);
            return ladder.miss(Rung::FileSystems, error.with_causes());
        }
    };
    if let Some(error) = files.reader().missed() {
        damages.note_files(&error);
    }
    let (mut opened, mut left) = (Vec::new(), Vec::new());
    for volume in files.volumes().to_vec() {
        let place = files.place(&volume);
        match &volume.refusal {
            Some(fault) if matches!(fault.kind, FaultKind::Damaged | FaultKind::Disk) => {
                return ladder.miss(Rung::FileSystems, format!("{place}: {}", fault.reason));
            }
            Some(fault) => left.push(format!("{place}: {}", fault.reason)),
            None => match listed(files.reader(), &volume) {
                Ok(()) => opened.push(place),
                Err(FilesError::Unsupported { reason, .. }) => {
                    left.push(format!("{place}: {reason}"));
                }
                Err(error) => {
                    damages.note_files(&error);
                    let words = error.with_causes();
                    return ladder.miss(Rung::FileSystems, format!("{place}: {words}"));
                }
            },
        }
    }
    let left =
        if left.is_empty() { String::new() } else { format!("; not read: {}", left.join(", ")) };
    if opened.is_empty() {
        ladder.skip(Rung::FileSystems, format!("there is none that can be read{left}"));
    } else {
        let (count, places) = (opened.len(), opened.join(", "));
        ladder.reach(Rung::FileSystems, None, format!("{count} opened ({places}){left}"));
    }
}

fn listed(reader: &mut FileReader, volume: &Volume) -> std::result::Result<(), FilesError> {
    let mut files = Files::open(reader, volume)?;
    let root = files.locate(b"/")?;
    files.list(&root).map(drop)
}
