//! ext2, ext3 and ext4.
//!
//! The structures are read by `rust-fs-ext4`, which replays a journal in memory. What it leaves out is here: folders
//! that are mapped by blocks (ext2, ext3), holes, devices, and access control lists in the form that Linux gives.

use std::{collections::HashMap, sync::Arc};

use fs_ext4::{
    Filesystem,
    block_io::BlockDevice,
    dir::DirBlockIter,
    error::Error,
    extent::{self, Extent, ExtentVerifyCtx},
    features::Incompat,
    file_io, indirect,
    inode::Inode,
    xattr,
};

use crate::{
    bytes::Le,
    source::ReadAt,
    tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr},
};

/// The uppermost folder's inode.
const ROOT: u64 = 2;
/// Most entries of a folder.
const ENTRIES_MAX: usize = 1 << 20;
/// Most maps of files that are kept.
const MAPS_MAX: usize = 64;

/// A disk, as the reader wants it.
struct Device(Arc<dyn ReadAt>);

impl BlockDevice for Device {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.0.read_at(offset, buf).map_err(Error::Io)
    }

    fn size_bytes(&self) -> u64 {
        self.0.size()
    }
}

/// An open file system.
pub(crate) struct Ext {
    fs: Filesystem,
    notes: Vec<String>,
    /// Extents of files that were read, by inode.
    maps: HashMap<u64, Arc<[Extent]>>,
}

fn fault(error: &Error) -> Fault {
    let kind = match error {
        Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => FaultKind::Damaged,
        Error::Io(_) => FaultKind::Disk,
        Error::NotFound => FaultKind::NotFound,
        Error::NotADirectory | Error::IsADirectory | Error::InvalidArgument(_) => {
            FaultKind::WrongKind
        }
        Error::Unsupported(_) | Error::UnsupportedIncompat(_) | Error::UnsupportedRoCompat(_) => {
            FaultKind::Unsupported
        }
        _ => FaultKind::Damaged,
    };
    Fault::new(kind, error.to_string())
}

impl Ext {
    pub(crate) fn open(disk: Arc<dyn ReadAt>, notes: Vec<String>) -> Result<Self, Fault> {
        let fs = Filesystem::mount(Arc::new(Device(disk))).map_err(|error| fault(&error))?;
        Ok(Self { fs, notes, maps: HashMap::new() })
    }

    fn inode(&self, node: u64) -> Result<(Inode, Vec<u8>), Fault> {
        let number = u32::try_from(node).map_err(|_| Fault::damaged("no inode has this number"))?;
        let (inode, raw) = self.fs.read_inode_verified(number).map_err(|error| fault(&error))?;
        if inode.mode == 0 || inode.links_count == 0 {
            return Err(Fault::damaged(format!("inode {number} is not in use")));
        }
        Ok((inode, raw))
    }

    fn block_size(&self) -> u64 {
        u64::from(self.fs.sb.block_size())
    }

    /// Entries of a folder whose blocks are mapped one by one.
    fn mapped_folder(&self, inode: &Inode) -> Result<Vec<fs_ext4::dir::DirEntry>, Fault> {
        let has_type = self.fs.sb.feature_incompat & Incompat::FILETYPE.bits() != 0;
        let size = self.fs.sb.block_size();
        let mut cache = indirect::IndirectCache::new();
        let mut buf = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut entries = Vec::new();
        for logical in 0..inode.size.div_ceil(u64::from(size)) {
            let device = self.fs.dev.as_ref();
            let block = indirect::lookup(&inode.block, device, size, logical, &mut cache);
            // A folder has no holes; a size that says otherwise must not make this loop long.
            let block = block.map_err(|error| fault(&error))?;
            let block = block.ok_or_else(|| Fault::damaged("a folder has a hole"))?;
            let at = block.checked_mul(u64::from(size));
            let at = at.ok_or_else(|| Fault::damaged("a block lies beyond every disk"))?;
            device.read_at(at, &mut buf).map_err(|error| fault(&error))?;
            for entry in DirBlockIter::new(&buf, has_type) {
                entries.push(entry.map_err(|error| fault(&error))?);
            }
            if entries.len() > ENTRIES_MAX {
                return Err(Fault::unsupported("the folder has more than a million entries"));
            }
        }
        Ok(entries)
    }

    /// The extents of a file, in order and without overlaps.
    fn map(&mut self, node: u64, inode: &Inode) -> Result<Arc<[Extent]>, Fault> {
        if let Some(map) = self.maps.get(&node) {
            return Ok(Arc::clone(map));
        }
        let (device, size) = (self.fs.dev.as_ref(), self.fs.sb.block_size());
        let extents =
            extent::collect_all(&inode.block, device, size).map_err(|error| fault(&error))?;
        let check = ExtentVerifyCtx {
            ino: u32::try_from(node).unwrap_or(0),
            generation: inode.generation,
            csum: &self.fs.csum,
        };
        let mut end = 0;
        for extent in &extents {
            let first = u64::from(extent.logical_block);
            if first < end {
                return Err(Fault::damaged("extents of a file overlap"));
            }
            end = first.saturating_add(u64::from(extent.length));
            // Collecting checks no sums of the nodes above; looking up does.
            let found = extent::lookup_verified(&inode.block, device, size, first, Some(&check));
            if found.map_err(|error| fault(&error))?.map(|found| found.physical_block)
                != Some(extent.physical_block)
            {
                return Err(Fault::damaged("extents of a file are out of order"));
            }
        }
        if self.maps.len() >= MAPS_MAX {
            self.maps.clear();
        }
        let map: Arc<[Extent]> = extents.into();
        self.maps.insert(node, Arc::clone(&map));
        Ok(map)
    }

    fn read_extents(
        &mut self,
        node: u64,
        inode: &Inode,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<Piece, Fault> {
        let size = self.block_size();
        let map = self.map(node, inode)?;
        let rest = inode.size.saturating_sub(offset);
        let block = offset.checked_div(size).unwrap_or(0);
        let next = map.partition_point(|extent| {
            u64::from(extent.logical_block).saturating_add(u64::from(extent.length)) <= block
        });
        let Some(extent) = map.get(next) else { return Ok(Piece::Hole(rest)) };
        let first = u64::from(extent.logical_block).saturating_mul(size);
        if offset < first {
            return Ok(Piece::Hole(rest.min(first.saturating_sub(offset))));
        }
        let len = u64::from(extent.length).saturating_mul(size);
        let there = first.saturating_add(len).saturating_sub(offset).min(rest);
        if extent.uninitialized {
            return Ok(Piece::Hole(there));
        }
        let len = buf.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let at = extent.physical_block.checked_mul(size);
        let at = at.and_then(|at| at.checked_add(offset.saturating_sub(first)));
        let at = at.ok_or_else(|| Fault::damaged("an extent lies beyond every disk"))?;
        let part = buf.get_mut(..len).unwrap_or_default();
        self.fs.dev.read_at(at, part).map_err(|error| fault(&error))?;
        Ok(Piece::Data(len))
    }
}

/// Major and minor number, of which the old form has eight bits each.
fn device(inode: &Inode) -> (u32, u32) {
    let le = Le(&inode.block);
    let (old, new) = (le.u32(0), le.u32(4));
    if old != 0 {
        return ((old >> 8) & 0xff, old & 0xff);
    }
    ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xfff00))
}

fn attributes(inode: &Inode) -> Result<Attributes, Fault> {
    let mode = u32::from(inode.mode);
    let kind = Kind::of_mode(mode).ok_or_else(|| Fault::damaged("an inode of no known kind"))?;
    let time = |seconds, nanoseconds: u32| Some(Time { seconds, nanoseconds });
    let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
    Ok(Attributes {
        kind,
        size: inode.size,
        mode: Some(mode & 0o7777),
        uid: Some(inode.uid),
        gid: Some(inode.gid),
        links: Some(u32::from(inode.links_count)),
        modified: time(inode.mtime, inode.mtime_nsec),
        accessed: time(inode.atime, inode.atime_nsec),
        device: is_device.then(|| device(inode)),
    })
}

/// An access control list as Linux gives it, from the form on the disk, which leaves out ids that say nothing.
fn acl(stored: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for entry in fs_ext4::acl::decode(stored).map_err(|error| fault(&error))? {
        let tag: u16 = match entry.tag {
            fs_ext4::acl::AclTag::UserObj => 0x01,
            fs_ext4::acl::AclTag::User => 0x02,
            fs_ext4::acl::AclTag::GroupObj => 0x04,
            fs_ext4::acl::AclTag::Group => 0x08,
            fs_ext4::acl::AclTag::Mask => 0x10,
            fs_ext4::acl::AclTag::Other => 0x20,
        };
        value.extend(tag.to_le_bytes());
        value.extend(entry.perm.to_le_bytes());
        value.extend(entry.id.unwrap_or(u32::MAX).to_le_bytes());
    }
    Ok(value)
}

impl Tree for Ext {
    fn root(&self) -> u64 {
        ROOT
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        attributes(&self.inode(node)?.0)
    }

    fn list(&mut self, node: u64) -> Result<Vec<Entry>, Fault> {
        let (inode, _) = self.inode(node)?;
        if !inode.is_dir() {
            return Err(Fault::new(FaultKind::WrongKind, "it is no folder"));
        }
        let entries = if inode.has_extents() || inode.has_inline_data() {
            let number = u32::try_from(node).unwrap_or(0);
            self.fs.read_dir_ino(number).map_err(|error| fault(&error))?
        } else {
            self.mapped_folder(&inode)?
        };
        let entries = entries.into_iter().filter(|entry| entry.inode != 0);
        let entries = entries.filter(|entry| entry.name != b"." && entry.name != b"..");
        Ok(entries
            .map(|entry| {
                let node = u64::from(entry.inode);
                Entry { name: entry.name, node, attributes: self.attributes(node) }
            })
            .collect())
    }

    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault> {
        let (inode, raw) = self.inode(node)?;
        if !inode.is_file() {
            return Err(Fault::new(FaultKind::WrongKind, "it is no file"));
        }
        file_io::refuse_encrypted(&inode).map_err(|error| fault(&error))?;
        if offset >= inode.size {
            return Ok(Piece::Data(0));
        }
        if inode.has_extents() {
            return self.read_extents(node, &inode, offset, buf);
        }
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX).min(inode.size);
        let number = u32::try_from(node).unwrap_or(0);
        let part = buf.get_mut(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or_default();
        let read =
            file_io::read_with_raw_verified(&self.fs, &inode, &raw, number, offset, len, part);
        Ok(Piece::Data(usize::try_from(read.map_err(|error| fault(&error))?).unwrap_or(0)))
    }

    fn target(&mut self, node: u64) -> Result<Vec<u8>, Fault> {
        let (inode, raw) = self.inode(node)?;
        let number = u32::try_from(node).unwrap_or(0);
        if inode.is_symlink() && inode.has_inline_data() {
            return file_io::read_inline(&self.fs, &inode, &raw).map_err(|error| fault(&error));
        }
        self.fs.read_link(number).map_err(|error| fault(&error))
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Xattr>, Fault> {
        let (inode, raw) = self.inode(node)?;
        let mut found = Vec::new();
        for entry in
            xattr::read_all_resolved(&self.fs, &inode, &raw).map_err(|error| fault(&error))?
        {
            let value = match entry.name.as_str() {
                // The content of a file, kept where attributes are.
                "system.data" => continue,
                "system.posix_acl_access" | "system.posix_acl_default" => acl(&entry.value)?,
                _ => entry.value,
            };
            found.push((entry.name.into_bytes(), value));
        }
        Ok(found)
    }
}
