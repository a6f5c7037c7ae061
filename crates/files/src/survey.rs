//! What is on the disks: partitions and file systems, and whether they can be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    btrfs::Btrfs,
    exfat::Exfat,
    ext::Ext,
    fat::Fat,
    luks,
    lvm::{self, Logical},
    md,
    ntfs::Ntfs,
    partitions,
    probe::{Member, Reader, btrfs_member, probe},
    secret::{Place, Unlocked},
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
    /// Of a file system on several devices: all of them.
    devices: Vec<Arc<dyn ReadAt>>,
}

impl Surveyed {
    const fn new(volume: Volume, bytes: Arc<dyn ReadAt>) -> Self {
        Self { volume, bytes, devices: Vec::new() }
    }

    /// Opens its file system.
    pub fn open(&self) -> Result<Box<dyn Tree>, Fault> {
        if self.devices.is_empty() || self.volume.refusal.is_some() {
            return open(Arc::clone(&self.bytes));
        }
        Ok(Box::new(Btrfs::open_all(&self.devices, self.volume.notes.clone())?))
    }
}

/// The volumes of some disks: of each disk, and after those the logical ones.
pub fn survey(disks: &[Arc<dyn ReadAt>]) -> Vec<Surveyed> {
    survey_with(disks, &[])
}

/// The volumes of some disks, those that are encrypted opened by these keys.
pub(crate) fn survey_with(disks: &[Arc<dyn ReadAt>], keys: &[Unlocked]) -> Vec<Surveyed> {
    let found = (0..).zip(disks).flat_map(|(index, disk)| of_disk(index, disk));
    let mut found: Vec<Surveyed> = found.map(|one| opened(one, keys)).collect();
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
        found.push(opened(one, keys));
    }
    join(&mut found);
    for (index, one) in (0..).zip(&mut found) {
        one.volume.index = index;
    }
    found
}

/// Puts file systems together whose devices are all here: the first of them has its files.
fn join(found: &mut [Surveyed]) {
    let mut groups: BTreeMap<String, Vec<(Member, usize)>> = BTreeMap::new();
    for (index, one) in found.iter().enumerate() {
        if let (Some(uuid), Some("btrfs")) = (&one.volume.uuid, one.volume.file_system.as_deref())
            && let Some(member) = btrfs_member(&*one.bytes)
        {
            groups.entry(uuid.clone()).or_default().push((member, index));
        }
    }
    for mut group in groups.into_values() {
        group.sort_by_key(|(member, _)| member.id);
        let ids: BTreeSet<u64> = group.iter().map(|(member, _)| member.id).collect();
        let count = u64::try_from(group.len()).unwrap_or(0);
        let alike = |of: fn(&Member) -> u64| {
            let all: BTreeSet<u64> = group.iter().map(|(member, _)| of(member)).collect();
            all.len() == 1
        };
        let why_not = if ids.len() != group.len() {
            "a device of it is here several times"
        } else if !alike(|it| it.devices) || group.iter().any(|(it, _)| it.devices != count) {
            "it is on several devices, of which not all are here"
        } else if !alike(|it| it.generation) {
            "it is on several devices, which were not written alike"
        } else {
            ""
        };
        let devices: Vec<_> = group
            .iter()
            .filter_map(|(_, index)| found.get(*index))
            .map(|one| Arc::clone(&one.bytes))
            .collect();
        for (place, (_, index)) in group.iter().enumerate() {
            let Some(one) = found.get_mut(*index) else { continue };
            one.volume.refusal = match (why_not, place) {
                ("", 0) => None,
                ("", _) => {
                    Some(Fault::unsupported("its files are listed with the first of its devices"))
                }
                (reason, _) => Some(Fault::unsupported(reason)),
            };
            if one.volume.refusal.is_none() {
                one.volume.notes.push(format!("it is on {count} devices"));
                one.devices.clone_from(&devices);
            }
        }
    }
}

/// A volume, decrypted if it is encrypted and its key is known.
fn opened(one: Surveyed, keys: &[Unlocked]) -> Surveyed {
    let Surveyed { volume: mut outer, bytes, .. } = one;
    let place = Place::of(&outer);
    let key = keys.iter().find(|it| it.place == place).map(|it| &it.key);
    let (Some(key), Some(luks::KIND)) = (key, outer.file_system.as_deref()) else {
        return Surveyed::new(outer, bytes);
    };
    let none =
        || Fault::unsupported("it is encrypted (LUKS), and no secret that was given opens it");
    let key = key.clone().and_then(|key| key.ok_or_else(none));
    match key.and_then(|key| luks::decrypted(Arc::clone(&bytes), key.bytes())) {
        Ok(bytes) => {
            let inner = volume(outer.disk, bytes, outer.partition, 0, outer.size);
            outer.notes.push("it is encrypted (LUKS)".to_owned());
            outer.notes.extend(inner.volume.notes);
            let volume = Volume {
                file_system: inner.volume.file_system,
                label: inner.volume.label,
                uuid: inner.volume.uuid,
                refusal: inner.volume.refusal,
                ..outer
            };
            Surveyed::new(volume, inner.bytes)
        }
        Err(fault) => {
            outer.refusal = Some(fault);
            Surveyed::new(outer, bytes)
        }
    }
}

/// What is on it is not known, as the disk could not be read there.
fn unread() -> Fault {
    Fault::new(FaultKind::Disk, "could not be read")
}

fn of_disk(index: u32, disk: &Arc<dyn ReadAt>) -> Vec<Surveyed> {
    let index = Some(index);
    let mut whole = volume(index, Arc::clone(disk), None, 0, disk.size());
    // A superblock of the format 0.90 at the end may be that of the last partition.
    let may_be_of_partition = md::member(&**disk).is_some_and(|member| member.version == "0.90");
    if whole.volume.file_system.is_some() && !may_be_of_partition {
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
        volumes.push(Surveyed::new(volume, whole.bytes));
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
    Surveyed::new(volume, bytes)
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
