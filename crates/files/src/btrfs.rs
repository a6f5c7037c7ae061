//! btrfs on one device, by `rust-fs-btrfs`: the uppermost subvolume, and all below it as folders.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fs_btrfs::{error::Error, fs::Filesystem, inode::Inode, subvol::FS_TREE_OBJECTID};
use fs_core::BlockRead;

use crate::{
    source::ReadAt,
    tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr},
};

/// Inodes of one tree are numbered below this; a node has the number of its tree above it.
const INODES: u64 = 1 << 40;
/// The inode of the uppermost folder of every tree.
const TOP: u64 = 256;
/// Nodes from here are empty folders, which a snapshot shows where subvolumes of its source were.
const EMPTY: u64 = INODES << 20;
/// Most subvolumes that are entered.
const TREES_MAX: usize = 4096;

/// A disk, as the reader wants it.
struct Device(Arc<dyn ReadAt>);

impl BlockRead for Device {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.0.read_at(offset, buf).map_err(fs_core::Error::Io)
    }

    fn size_bytes(&self) -> u64 {
        self.0.size()
    }
}

/// A subvolume that was entered.
struct Subvolume {
    id: u64,
    fs: Filesystem,
}

/// An open file system.
pub(crate) struct Btrfs {
    notes: Vec<String>,
    trees: Vec<Subvolume>,
    /// Where trees are among those, by id.
    entered: HashMap<u64, u64>,
    /// The nodes of empty folders, by the folder and name of their place.
    empty: HashMap<(u64, Vec<u8>), u64>,
    /// In which folder each of those is.
    empty_in: Vec<u64>,
    /// Where each subvolume is: its parent, its name and its root.
    known: BTreeMap<u64, (u64, Vec<u8>, u64)>,
}

fn fault(error: &Error) -> Fault {
    let kind = match error {
        Error::Io(_) => FaultKind::Disk,
        Error::NotFound => FaultKind::NotFound,
        Error::NotADirectory | Error::NotAFile => FaultKind::WrongKind,
        Error::UnsupportedChecksum(_)
        | Error::UnsupportedFeature(_)
        | Error::UnsupportedProfile(_)
        | Error::DirtyLog => FaultKind::Unsupported,
        _ => FaultKind::Damaged,
    };
    Fault::new(kind, error.to_string())
}

impl Btrfs {
    pub(crate) fn open(disk: Arc<dyn ReadAt>, notes: Vec<String>) -> Result<Self, Fault> {
        let fs = Filesystem::mount(Arc::new(Device(disk)));
        Self::new(fs.map_err(|error| fault(&error))?, notes)
    }

    /// Opens a file system on several devices.
    pub(crate) fn open_all(disks: &[Arc<dyn ReadAt>], notes: Vec<String>) -> Result<Self, Fault> {
        let devices =
            disks.iter().map(|disk| -> Arc<dyn BlockRead> { Arc::new(Device(Arc::clone(disk))) });
        let fs = Filesystem::mount_pool(devices.collect());
        Self::new(fs.map_err(|error| fault(&error))?, notes)
    }

    fn new(fs: Filesystem, notes: Vec<String>) -> Result<Self, Fault> {
        let mut known = BTreeMap::new();
        for subvolume in fs.subvolumes().map_err(|error| fault(&error))? {
            known.insert(subvolume.id, (subvolume.parent, subvolume.name, subvolume.bytenr));
        }
        let entered = HashMap::from([(FS_TREE_OBJECTID, 0)]);
        let trees = vec![Subvolume { id: FS_TREE_OBJECTID, fs }];
        Ok(Self { notes, trees, entered, empty: HashMap::new(), empty_in: Vec::new(), known })
    }

    /// The tree and inode of a node.
    fn place(&self, node: u64) -> Result<(u64, &Subvolume, u64), Fault> {
        let (index, inode) = (node / INODES, node % INODES);
        let tree = usize::try_from(index).ok().and_then(|index| self.trees.get(index));
        let tree = tree.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such node"))?;
        Ok((index, tree, inode))
    }

    fn inode(&self, node: u64) -> Result<(&Filesystem, Inode), Fault> {
        let (_, tree, inode) = self.place(node)?;
        let found = tree.fs.read_inode(inode).map_err(|error| fault(&error))?;
        Ok((&tree.fs, found))
    }

    /// The node of the empty folder of this name in a folder. Each has its own: a folder has one place.
    fn empty_folder(&mut self, folder: u64, name: &[u8]) -> u64 {
        let next = EMPTY.saturating_add(u64::try_from(self.empty_in.len()).unwrap_or(u64::MAX));
        let place = (folder, name.to_vec());
        *self.empty.entry(place).or_insert_with(|| {
            self.empty_in.push(folder);
            next
        })
    }

    /// The attributes of an empty folder: the kernel gives it the owner of the folder that it is in.
    fn empty_attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        let index = node.checked_sub(EMPTY).and_then(|index| usize::try_from(index).ok());
        let folder = index.and_then(|index| self.empty_in.get(index)).copied();
        let none = || Fault::new(FaultKind::NotFound, "there is no such node");
        let of = attributes(&self.inode(folder.ok_or_else(none)?)?.1)?;
        Ok(Attributes { size: 0, mode: Some(0o755), links: Some(1), ..of })
    }

    /// The node of a subvolume's uppermost folder, if the entry of this name in this tree is its place.
    fn enter(&mut self, parent: u64, name: &[u8], id: u64) -> Result<Option<u64>, Fault> {
        let Some((its_parent, its_name, root)) = self.known.get(&id) else { return Ok(None) };
        if (*its_parent, its_name.as_slice()) != (parent, name) {
            return Ok(None);
        }
        if let Some(index) = self.entered.get(&id) {
            return Ok(Some(index * INODES + TOP));
        }
        let first = self.trees.first().filter(|_| self.trees.len() < TREES_MAX);
        let first = first.ok_or_else(|| Fault::unsupported("it has too many subvolumes"))?;
        let fs = first.fs.open_subvolume_at(*root).map_err(|error| fault(&error))?;
        let index = u64::try_from(self.trees.len()).unwrap_or(0);
        self.trees.push(Subvolume { id, fs });
        self.entered.insert(id, index);
        Ok(Some(index * INODES + TOP))
    }
}

fn time(time: fs_btrfs::inode::Timestamp) -> Option<Time> {
    (time.nsec < 1_000_000_000).then_some(Time { seconds: time.sec, nanoseconds: time.nsec })
}

fn attributes(inode: &Inode) -> Result<Attributes, Fault> {
    let kind = Kind::of_mode(inode.mode);
    let kind = kind.ok_or_else(|| Fault::damaged("an inode of no known kind"))?;
    let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
    let number = |number: u64| u32::try_from(number).unwrap_or(0);
    // As the kernel packs it into 64 bits: 12 bits and 20 in the lower half.
    let rdev = inode.rdev;
    let device = (number((rdev >> 20) & 0xfff), number(rdev & 0xf_ffff));
    Ok(Attributes {
        kind,
        size: inode.size,
        mode: Some(inode.mode & 0o7777),
        uid: Some(inode.uid),
        gid: Some(inode.gid),
        links: Some(inode.nlink),
        modified: time(inode.mtime),
        accessed: time(inode.atime),
        device: is_device.then_some(device),
    })
}

impl Tree for Btrfs {
    fn root(&self) -> u64 {
        TOP
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        if node >= EMPTY {
            return self.empty_attributes(node);
        }
        attributes(&self.inode(node)?.1)
    }

    fn list(&mut self, folder: u64) -> Result<Vec<Entry>, Fault> {
        if folder >= EMPTY {
            return Ok(Vec::new());
        }
        let (index, tree, inode) = self.place(folder)?;
        let id = tree.id;
        let listed = tree.fs.read_dir(inode).map_err(|error| fault(&error))?;
        let mut entries = Vec::with_capacity(listed.len());
        for entry in listed {
            let node = if !entry.is_inode() {
                let entered = self.enter(id, &entry.name, entry.ino);
                entered.map(|node| node.unwrap_or_else(|| self.empty_folder(folder, &entry.name)))
            } else if entry.ino < INODES {
                Ok(index * INODES + entry.ino)
            } else {
                Err(Fault::unsupported("inodes have too high numbers"))
            };
            let attributes = node.clone().and_then(|node| self.attributes(node));
            entries.push(Entry { name: entry.name, node: node.unwrap_or(u64::MAX), attributes });
        }
        Ok(entries)
    }

    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault> {
        let (fs, inode) = self.inode(node)?;
        if !inode.is_regular_file() {
            return Err(Fault::new(FaultKind::WrongKind, "it is no file"));
        }
        fs.read_at(inode.ino, offset, buf).map(Piece::Data).map_err(|error| fault(&error))
    }

    fn target(&mut self, node: u64) -> Result<Vec<u8>, Fault> {
        let (fs, inode) = self.inode(node)?;
        fs.read_link(inode.ino).map_err(|error| fault(&error))
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Xattr>, Fault> {
        if node >= EMPTY {
            return Ok(Vec::new());
        }
        let (fs, inode) = self.inode(node)?;
        let found = fs.list_xattrs(inode.ino).map_err(|error| fault(&error))?;
        Ok(found.into_iter().map(|xattr| (xattr.name, xattr.value)).collect())
    }
}
