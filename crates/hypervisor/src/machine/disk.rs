//! A machine's disks.

use std::fmt;

use roxmltree::Node;

use super::{SecretRef, Source};
use crate::{
    error::Result,
    xml::{attribute, attribute_of, child, children, parsed, text_of, wrong},
};

/// Layers of a chain that are read; QEMU itself allows 200.
const MAX_CHAIN: usize = 250;

/// What a disk is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A hard disk.
    Disk,
    /// A CD or DVD drive.
    Cdrom,
    /// A floppy drive.
    Floppy,
    /// A SCSI device whose commands are passed through.
    Lun,
}

/// How QEMU drives a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// The format: `qcow2`, `raw`, ...
    pub format: Option<String>,
    /// Mode of the host's cache.
    pub cache: Option<String>,
    /// How input and output is done.
    pub io: Option<String>,
    /// What becomes of the guest's discards.
    pub discard: Option<String>,
}

/// One image under a disk's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its format.
    pub format: Option<String>,
    /// Where it is.
    pub source: Source,
    /// The number that QEMU's names for it have.
    pub index: Option<u32>,
    /// The file that its bytes are in, if that is another.
    pub data_file: Option<Source>,
    /// The part of its source that it is, if not all.
    pub slice: Option<Slice>,
}

/// A part of a file or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its first byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Encryption of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// `luks`, `luks2`, `qcow`, ...
    pub format: String,
    /// The secret that it is opened with.
    pub secret: Option<SecretRef>,
    /// Who does it: `qemu` or `librbd`.
    pub engine: Option<String>,
}

/// A block job that copies a disk elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `copy` or `active-commit`.
    pub job: Option<String>,
    /// Whether it has come so far that it can end at any time.
    pub ready: bool,
    /// The file that it copies to.
    pub path: Option<String>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one of libvirt's elements")]
pub struct Disk {
    /// Its name in the machine, such as `vda`.
    pub target: String,
    /// What it is connected to: `virtio`, `scsi`, `sata`, ...
    pub bus: Option<String>,
    /// What it is to the guest.
    pub device: Device,
    /// Where its bytes are.
    pub source: Source,
    /// The number that QEMU's names for it have; only of a running machine.
    pub index: Option<u32>,
    /// How QEMU drives it.
    pub driver: Driver,
    /// The guest cannot write to it.
    pub readonly: bool,
    /// Other machines may write to it as well.
    pub shareable: bool,
    /// What the guest writes is thrown away when it ends.
    pub transient: bool,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its world wide name.
    pub wwn: Option<String>,
    /// libvirt's name for the device.
    pub alias: Option<String>,
    /// Its place in the order of booting.
    pub boot_order: Option<u32>,
    /// The images under its own, as far as libvirt knows them.
    pub chain: Vec<Layer>,
    /// Whether nothing is under the last of them (or under its own, if there are none), whatever that
    /// image's header says.
    pub chain_ends: bool,
    /// The file that its bytes are in, if its image only describes them.
    pub data_file: Option<Source>,
    /// A job that copies it.
    pub mirror: Option<Mirror>,
    /// Its encryption.
    pub encryption: Option<Encryption>,
    /// The part of its source that it is, if not all.
    pub slice: Option<Slice>,
    /// Whether the machine starts without it if its file is not there.
    pub is_optional: bool,
    /// Whether and how snapshots have it (`no`, `internal`, `external`, `manual`).
    pub snapshot: Option<String>,
}

/// What a backup does with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupKind {
    /// It is backed up.
    Protect,
    /// It is left out.
    Skip(SkipReason),
}

/// Why a disk is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// A CD or DVD.
    Cdrom,
    /// A floppy.
    Floppy,
    /// The guest cannot write to it.
    ReadOnly,
    /// What the guest writes to it ends with the machine's run; QEMU backs no such disk up.
    Transient,
    /// Its file is not there, and the machine starts without it.
    Absent,
    /// There is nothing in it.
    Empty,
    /// The guest talks to the device, past QEMU.
    Passthrough,
    /// Another process or device serves it, past QEMU.
    Vhost,
    /// It is a folder of the host.
    Folder,
    /// libvirt's kind of source is newer than this program.
    Unknown,
}

/// What is to be known of a disk that is backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskNote {
    /// Its format cannot hold bitmaps, so each backup reads all of it and keeps what differs.
    NoBitmaps,
    /// Others may write to it during a backup.
    Shareable,
    /// A block job is at work on it.
    BlockJob,
    /// It is encrypted on the host; backups are taken of what the guest sees, unless ciphertext is
    /// asked for.
    Encrypted,
    /// Its image has others under it; backups are taken of what the guest sees.
    Chain,
    /// Its bytes are in a file beside its image.
    DataFile,
}

impl Disk {
    /// Whether it is backed up, and why not.
    pub fn backup_kind(&self) -> BackupKind {
        let reason = match (self.device, &self.source) {
            (Device::Cdrom, _) => SkipReason::Cdrom,
            (Device::Floppy, _) => SkipReason::Floppy,
            (Device::Lun, _) => SkipReason::Passthrough,
            (_, Source::None) => SkipReason::Empty,
            (_, Source::VhostUser { .. } | Source::VhostVdpa { .. }) => SkipReason::Vhost,
            (_, Source::Dir { .. }) => SkipReason::Folder,
            (_, Source::Other { .. }) => SkipReason::Unknown,
            _ if self.readonly => SkipReason::ReadOnly,
            _ if self.transient => SkipReason::Transient,
            _ => return BackupKind::Protect,
        };
        BackupKind::Skip(reason)
    }

    /// Whether its format can hold bitmaps of changes. That of version 2 of qcow2 cannot, which its
    /// description does not tell.
    pub fn can_hold_bitmaps(&self) -> bool {
        self.driver.format.as_deref() == Some("qcow2")
    }

    /// What is to be known of it, if it is backed up.
    pub fn notes(&self) -> Vec<DiskNote> {
        [
            (!self.can_hold_bitmaps(), DiskNote::NoBitmaps),
            (self.shareable, DiskNote::Shareable),
            (self.mirror.is_some(), DiskNote::BlockJob),
            (self.encryption.is_some(), DiskNote::Encrypted),
            (!self.chain.is_empty(), DiskNote::Chain),
            (self.data_file.is_some(), DiskNote::DataFile),
        ]
        .into_iter()
        .filter_map(|(applies, note)| applies.then_some(note))
        .collect()
    }
}

/// Reads all disks.
pub(super) fn parse(devices: Node<'_, '_>, what: &str) -> Result<Vec<Disk>> {
    let mut disks: Vec<Disk> = Vec::new();
    for node in children(devices, "disk") {
        let disk = disk(node).ok_or_else(|| wrong(what, "a disk has no target"))?;
        if disks.iter().any(|other| other.target == disk.target) {
            return Err(wrong(what, format!("two disks are called {:?}", disk.target)));
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn disk(node: Node<'_, '_>) -> Option<Disk> {
    let source = child(node, "source");
    let driver = child(node, "driver").map(driver).unwrap_or_default();
    let boot = child(node, "boot");
    let mirror = child(node, "mirror");
    Some(Disk {
        target: attribute_of(node, "target", "dev")?,
        bus: attribute_of(node, "target", "bus"),
        device: match attribute(node, "device").as_deref() {
            Some("cdrom") => Device::Cdrom,
            Some("floppy") => Device::Floppy,
            Some("lun") => Device::Lun,
            _ => Device::Disk,
        },
        source: Source::parse(node),
        index: source.and_then(|source| parsed(source, "index")),
        driver,
        readonly: child(node, "readonly").is_some(),
        shareable: child(node, "shareable").is_some(),
        transient: child(node, "transient").is_some(),
        serial: text_of(node, "serial"),
        wwn: text_of(node, "wwn"),
        alias: attribute_of(node, "alias", "name"),
        boot_order: boot.and_then(|boot| parsed(boot, "order")),
        chain: chain(node),
        chain_ends: chain_ends(node),
        data_file: data_file(node),
        mirror: mirror.map(|mirror| Mirror {
            job: attribute(mirror, "job"),
            ready: attribute(mirror, "ready").is_some(),
            path: attribute_of(mirror, "source", "file").or_else(|| attribute(mirror, "file")),
        }),
        encryption: encryption(node),
        slice: source.and_then(slice),
        is_optional: source.and_then(|source| attribute(source, "startupPolicy")).as_deref()
            == Some("optional"),
        snapshot: attribute(node, "snapshot"),
    })
}

fn driver(node: Node<'_, '_>) -> Driver {
    Driver {
        format: attribute(node, "type"),
        cache: attribute(node, "cache"),
        io: attribute(node, "io"),
        discard: attribute(node, "discard"),
    }
}

/// The images under a disk's, from `<backingStore>` in `<backingStore>`.
fn chain(disk: Node<'_, '_>) -> Vec<Layer> {
    let under =
        |node| child(node, "backingStore").filter(|store| child(*store, "source").is_some());
    std::iter::successors(under(disk), |store| under(*store))
        .take(MAX_CHAIN)
        .map(|store| Layer {
            format: attribute_of(store, "format", "type"),
            source: Source::parse(store),
            index: parsed(store, "index"),
            data_file: data_file(store),
            slice: child(store, "source").and_then(slice),
        })
        .collect()
}

/// Whether the last `<backingStore>` is an empty one, which ends the chain.
fn chain_ends(disk: Node<'_, '_>) -> bool {
    let under = |node| child(node, "backingStore");
    let last = std::iter::successors(under(disk), |store| under(*store)).take(MAX_CHAIN).last();
    last.is_some_and(|store| child(store, "source").is_none())
}

/// The part of a source that is of use.
fn slice(source: Node<'_, '_>) -> Option<Slice> {
    let slices = child(source, "slices")?;
    let storage = |node: &Node<'_, '_>| attribute(*node, "type").as_deref() == Some("storage");
    let node = children(slices, "slice").find(storage)?;
    Some(Slice { offset: parsed(node, "offset")?, size: parsed(node, "size")? })
}

/// Where the bytes are of the image that `parent` describes, if not in itself.
fn data_file(parent: Node<'_, '_>) -> Option<Source> {
    let store = child(child(parent, "source")?, "dataStore")?;
    Some(Source::parse(store))
}

/// Its place was below the disk before it was below the source.
fn encryption(disk: Node<'_, '_>) -> Option<Encryption> {
    let in_source = child(disk, "source").and_then(|source| child(source, "encryption"));
    let node = in_source.or_else(|| child(disk, "encryption"))?;
    Some(Encryption {
        format: attribute(node, "format")?,
        secret: SecretRef::parse(node),
        engine: attribute(node, "engine"),
    })
}

impl fmt::Display for DiskNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBitmaps => "its format holds no bitmaps: each backup reads all of it",
            Self::Shareable => "other machines may write to it during a backup",
            Self::BlockJob => "a block job is at work on it",
            Self::Encrypted => {
                "it is encrypted on the host; backups have what the guest sees, unless you choose ciphertext"
            }
            Self::Chain => "its image has others under it; backups have what the guest sees",
            Self::DataFile => "its bytes are in a file beside its image",
        })
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cdrom => "a CD or DVD drive",
            Self::Floppy => "a floppy drive",
            Self::ReadOnly => "read-only",
            Self::Transient => "transient: its writes are lost when the machine stops",
            Self::Absent => "not there, and the machine starts without it",
            Self::Empty => "empty",
            Self::Passthrough => "passed through to the guest, past QEMU",
            Self::Vhost => "served by another process or device, past QEMU",
            Self::Folder => "a folder of the host",
            Self::Unknown => "of a kind that is not known",
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Cdrom => "cdrom",
            Self::Floppy => "floppy",
            Self::Lun => "lun",
        })
    }
}
