//! What is on the disks: partitions and file systems, and whether they can be read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    btrfs::Btrfs,
    exfat::Exfat,
    ext::Ext,
    fat::Fat,
    lvm::{self, Logical},
    ntfs::Ntfs,
    partitions,
    probe::{Reader, probe},
    source::{Part, ReadAt, Watched},
    tree::{Fault, FaultKind, Tree},
    xfs::Xfs,
};

/// What `blkid` calls a physical volume.
const LVM: &str = "LVM2_member";
/// Most volumes of one disk that are looked at.
const VOLUMES_MAX: usize = 256;

/// A partition, a disk without partitions, or a logical volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its place in the list.
    pub index: u32,
    /// Which disk: its place among those that were given; none of a logical volume.
    pub disk: Option<u32>,
    /// The number of the partition; none if the whole disk is one.
    pub partition: Option<u32>,
    /// `GROUP/NAME` of a logical volume (LVM).
    pub logical: Option<String>,
    /// Where it begins on its disk, in bytes.
    pub offset: Option<u64>,
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

/// A volume and its bytes.
pub struct Surveyed {
    /// What it is.
    pub volume: Volume,
    /// What it has.
    pub bytes: Arc<dyn ReadAt>,
}

/// The volumes of some disks: of each disk, and after those the logical ones.
pub fn survey(disks: &[Arc<dyn ReadAt>]) -> Vec<Surveyed> {
    let mut found: Vec<Surveyed> =
        (0..).zip(disks).flat_map(|(index, disk)| of_disk(index, disk)).collect();
    let is_physical = |it: &&Surveyed| it.volume.file_system.as_deref() == Some(LVM);
    let watched: Vec<_> = found
        .iter()
        .filter(is_physical)
        .map(|it| Arc::new(Watched::new(Arc::clone(&it.bytes))))
        .collect();
    let physical: Vec<Arc<dyn ReadAt>> =
        watched.iter().map(|it| -> Arc<dyn ReadAt> { Arc::<Watched>::clone(it) }).collect();
    let logical = lvm::volumes(&physical);
    let members = found.iter_mut().filter(|it| it.volume.file_system.as_deref() == Some(LVM));
    for (member, watched) in members.zip(&watched) {
        if watched.has_failed() {
            member.volume.refusal = Some(unread());
        }
    }
    for Logical { name, size, bytes } in logical {
        let nothing: Arc<dyn ReadAt> = Arc::new(Part::nothing());
        let (mut one, fault) = match bytes {
            Ok(bytes) => (volume(None, bytes, None, 0, size), None),
            Err(fault) => (volume(None, nothing, None, 0, 0), Some(fault)),
        };
        one.volume.logical = Some(name);
        one.volume.offset = None;
        one.volume.size = size;
        one.volume.refusal = fault.or(one.volume.refusal);
        found.push(one);
    }
    for (index, one) in (0..).zip(&mut found) {
        one.volume.index = index;
    }
    found
}

/// What is on it is not known, as the disk could not be read there.
fn unread() -> Fault {
    Fault::new(FaultKind::Disk, "could not be read")
}

fn of_disk(index: u32, disk: &Arc<dyn ReadAt>) -> Vec<Surveyed> {
    let index = Some(index);
    let mut whole = volume(index, Arc::clone(disk), None, 0, disk.size());
    if whole.volume.file_system.is_some() {
        return vec![whole];
    }
    let watched = Watched::new(Arc::clone(disk));
    let table = partitions::table(&watched);
    if watched.has_failed() {
        whole.volume.refusal = Some(unread());
    }
    let Some(table) = table else { return vec![whole] };
    let mut volumes: Vec<Surveyed> = table
        .partitions
        .into_iter()
        .take(VOLUMES_MAX)
        .map(|partition| {
            let number = Some(partition.number);
            let part = Part::new(Arc::clone(disk), partition.offset, partition.size);
            let mut one = volume(index, Arc::new(part), number, partition.offset, partition.size);
            one.volume.scheme = Some(table.scheme.to_owned());
            one.volume.name = partition.name;
            one.volume.notes.extend(table.notes.iter().cloned());
            one
        })
        .collect();
    if volumes.is_empty() {
        let none = || Fault::unsupported("its table has no partitions");
        let refusal = Some(if watched.has_failed() { unread() } else { none() });
        let volume = Volume { refusal, notes: table.notes, ..whole.volume };
        volumes.push(Surveyed { volume, bytes: whole.bytes });
    }
    volumes
}

fn volume(
    disk: Option<u32>,
    bytes: Arc<dyn ReadAt>,
    partition: Option<u32>,
    offset: u64,
    size: u64,
) -> Surveyed {
    let watched = Watched::new(Arc::clone(&bytes));
    let found = probe(&watched);
    let unknown = || {
        if watched.has_failed() {
            return unread();
        }
        Fault::unsupported("nothing that is known here is on it")
    };
    let volume = Volume {
        index: 0,
        disk,
        partition,
        logical: None,
        offset: Some(offset),
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
    };
    Surveyed { volume, bytes }
}

/// Opens the file system of a volume.
pub fn open(part: Arc<dyn ReadAt>) -> Result<Box<dyn Tree>, Fault> {
    let Some(found) = probe(&*part) else {
        return Err(Fault::new(FaultKind::Unsupported, "nothing that is known here is on it"));
    };
    Ok(match found.reader? {
        Reader::Ext => Box::new(Ext::open(part, found.notes)?),
        Reader::Fat => Box::new(Fat::open(part, found.notes)?),
        Reader::Btrfs => Box::new(Btrfs::open(part, found.notes)?),
        Reader::Xfs => Box::new(Xfs::open(part, found.notes)?),
        Reader::Ntfs => Box::new(Ntfs::open(part, found.notes)?),
        Reader::Exfat => Box::new(Exfat::open(part, found.notes)?),
    })
}
