//! What is on the disks: partitions and file systems, and whether they can be read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    btrfs::Btrfs,
    ext::Ext,
    fat::Fat,
    partitions,
    probe::{Reader, probe},
    source::{Part, ReadAt},
    tree::{Fault, FaultKind, Tree},
    xfs::Xfs,
};

/// Most volumes of one disk that are looked at.
const VOLUMES_MAX: usize = 256;

/// A partition, or a disk without partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Which disk: its place among those that were given.
    pub disk: u32,
    /// The number of the partition; none if the whole disk is one.
    pub partition: Option<u32>,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// The table that it is in: `gpt` or `mbr`.
    pub scheme: Option<String>,
    /// Its name in the table.
    pub name: Option<String>,
    /// What is on it, as `blkid` calls it; none if that is unknown.
    pub file_system: Option<String>,
    /// The label of the file system.
    pub label: Option<String>,
    /// The id of the file system.
    pub uuid: Option<String>,
    /// Why it is not read; none if it is.
    pub refusal: Option<Fault>,
    /// What somebody should know who looks at it.
    pub notes: Vec<String>,
}

/// The volumes of a disk.
pub fn survey(index: u32, disk: &Arc<dyn ReadAt>) -> Vec<Volume> {
    let whole = volume(index, disk, None, 0, disk.size());
    if whole.file_system.is_some() {
        return vec![whole];
    }
    let Some(table) = partitions::table(&**disk) else { return vec![whole] };
    let mut volumes: Vec<Volume> = table
        .partitions
        .into_iter()
        .take(VOLUMES_MAX)
        .map(|partition| {
            let number = Some(partition.number);
            let mut volume = volume(index, disk, number, partition.offset, partition.size);
            volume.scheme = Some(table.scheme.to_owned());
            volume.name = partition.name;
            volume.notes.extend(table.notes.iter().cloned());
            volume
        })
        .collect();
    if volumes.is_empty() {
        let refusal = Some(Fault::unsupported("its table has no partitions"));
        volumes.push(Volume { refusal, notes: table.notes, ..whole });
    }
    volumes
}

fn volume(
    index: u32,
    disk: &Arc<dyn ReadAt>,
    partition: Option<u32>,
    offset: u64,
    size: u64,
) -> Volume {
    let part = Part::new(Arc::clone(disk), offset, size);
    let found = probe(&part);
    let unknown = || Fault::unsupported("nothing that is known here is on it");
    Volume {
        disk: index,
        partition,
        offset,
        size,
        scheme: None,
        name: None,
        file_system: found.as_ref().map(|found| found.kind.to_owned()),
        label: found.as_ref().and_then(|found| found.label.clone()),
        uuid: found.as_ref().and_then(|found| found.uuid.clone()),
        refusal: match &found {
            Some(found) => found.reader.as_ref().err().cloned(),
            None => Some(unknown()),
        },
        notes: found.map(|found| found.notes).unwrap_or_default(),
    }
}

/// Opens the file system on a part of a disk.
pub fn open(disk: &Arc<dyn ReadAt>, offset: u64, size: u64) -> Result<Box<dyn Tree>, Fault> {
    let part: Arc<dyn ReadAt> = Arc::new(Part::new(Arc::clone(disk), offset, size));
    let Some(found) = probe(&*part) else {
        return Err(Fault::new(FaultKind::Unsupported, "nothing that is known here is on it"));
    };
    Ok(match found.reader? {
        Reader::Ext => Box::new(Ext::open(part, found.notes)?),
        Reader::Fat => Box::new(Fat::open(part, found.notes)?),
        Reader::Btrfs => Box::new(Btrfs::open(part, found.notes)?),
        Reader::Xfs => Box::new(Xfs::open(part, found.notes)?),
    })
}
