//! XFS of version 5.
//!
//! Names and bytes are read by `lamxfs`, which replays the log in memory. It tells neither owners nor times: they are
//! read here from the inode on the disk, where the log has no newer one. Whether it has is tried: with a wrong byte in
//! the inode on the disk, the reader finds a wrong check sum, unless its log replaces the inode.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use lamxfs::{BlockRead, Error, Inode, Metadata, Path, Xfs as Reader};

use crate::{
    bytes::Le,
    source::{ReadAt, bytes_at, length},
    tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr},
    walk::child,
};

/// Bytes of an inode before its forks.
const CORE: usize = 176;
/// Where the owner stands in an inode.
const OWNER: u64 = 8;
/// Forks that lie in the inode itself.
const LOCAL: u8 = 1;
/// Flags of an inode (`di_flags2`): times are counted in nanoseconds.
const BIGTIME: u64 = 1 << 3;
/// Extents are counted in more bits.
const LARGE_COUNTS: u64 = 1 << 4;
/// Seconds before 1970 at which those begin.
const BIGTIME_EPOCH: i64 = 1 << 31;
/// No byte is changed.
const NOWHERE: u64 = u64::MAX;

/// A disk, as the reader wants it, with one byte wrong if that is asked for.
struct Device {
    disk: Arc<dyn ReadAt>,
    wrong: Arc<AtomicU64>,
    /// Where the log is.
    log: Range<u64>,
    /// Whether something was read that is neither the log nor the first block: when it is opened, the reader does so
    /// only to replay the log.
    has_read: Arc<AtomicBool>,
}

impl BlockRead for Device {
    type Error = io::Error;

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)?;
        if offset >= FIRST && !self.log.contains(&offset) {
            self.has_read.store(true, Ordering::Relaxed);
        }
        let wrong = self.wrong.load(Ordering::Relaxed);
        if let Some(at) =
            wrong.checked_sub(offset).filter(|at| wrong != NOWHERE && *at < length(buf))
            && let Some(byte) = usize::try_from(at).ok().and_then(|at| buf.get_mut(at))
        {
            *byte ^= 0xff;
        }
        Ok(())
    }
}

/// An open file system.
pub(crate) struct Xfs {
    fs: Reader<Device>,
    disk: Arc<dyn ReadAt>,
    wrong: Arc<AtomicU64>,
    notes: Vec<String>,
    /// Where inodes are.
    layout: Layout,
    /// Where folders and links are, by node.
    paths: HashMap<u64, Vec<u8>>,
    root: u64,
}

/// Bytes of the first block at most.
const FIRST: u64 = 32 << 10;

#[derive(Clone, Copy)]
struct Layout {
    block: u64,
    inode: u64,
    group_blocks: u64,
    group_bits: u32,
    inode_bits: u32,
}

impl Layout {
    /// Where a block begins.
    fn place(self, block: u64) -> Option<u64> {
        let group = block.checked_shr(self.group_bits)?;
        let in_group = block & 1_u64.checked_shl(self.group_bits)?.checked_sub(1)?;
        group.checked_mul(self.group_blocks)?.checked_add(in_group)?.checked_mul(self.block)
    }
}

fn fault(error: &Error) -> Fault {
    let kind = match error {
        Error::Io { .. } => FaultKind::Disk,
        Error::NotFound { .. } => FaultKind::NotFound,
        Error::NotARegularFile | Error::NotASymlink => FaultKind::WrongKind,
        Error::UnsupportedFeature(_) | Error::FileTooLarge { .. } | Error::BadSuperblock(_) => {
            FaultKind::Unsupported
        }
        _ => FaultKind::Damaged,
    };
    Fault::new(kind, error.token())
}

/// Numbers of an inode, which are big-endian.
struct Core<'a>(Le<'a>);

impl Core<'_> {
    fn u16(&self, offset: usize) -> u16 {
        self.0.u16(offset).swap_bytes()
    }

    fn u32(&self, offset: usize) -> u32 {
        self.0.u32(offset).swap_bytes()
    }

    fn u64(&self, offset: usize) -> u64 {
        self.0.u64(offset).swap_bytes()
    }

    fn time(&self, offset: usize) -> Option<Time> {
        if self.u64(120) & BIGTIME != 0 {
            let count = self.u64(offset);
            let seconds = i64::try_from(count / 1_000_000_000).ok()? - BIGTIME_EPOCH;
            let nanoseconds = u32::try_from(count % 1_000_000_000).ok()?;
            return Some(Time { seconds, nanoseconds });
        }
        let seconds = i64::from(self.u32(offset).cast_signed());
        Some(Time { seconds, nanoseconds: self.u32(offset + 4) })
            .filter(|time| time.nanoseconds < 1_000_000_000)
    }
}

impl Xfs {
    pub(crate) fn open(disk: Arc<dyn ReadAt>, mut notes: Vec<String>) -> Result<Self, Fault> {
        let head = bytes_at(&*disk, 0, 512).ok_or_else(|| Fault::damaged("it is too short"))?;
        let head = Core(Le(&head));
        let layout = Layout {
            block: u64::from(head.u32(4)),
            inode: u64::from(head.u16(104)),
            group_blocks: u64::from(head.u32(84)),
            group_bits: u32::from(head.0.u8(124)),
            inode_bits: u32::from(head.0.u8(123)),
        };
        let root = head.u64(56);
        let wrong = Arc::new(AtomicU64::new(NOWHERE));
        let has_read = Arc::new(AtomicBool::new(false));
        let log = layout.place(head.u64(48)).unwrap_or(0);
        let log_len = u64::from(head.u32(96)).saturating_mul(layout.block);
        let device = Device {
            disk: Arc::clone(&disk),
            wrong: Arc::clone(&wrong),
            log: log..log.saturating_add(log_len),
            has_read: Arc::clone(&has_read),
        };
        let fs = Reader::open(device, disk.size()).map_err(|error| fault(&error))?;
        if has_read.load(Ordering::Relaxed) {
            notes.push(
                "it was in use; its log was replayed in memory. Owners, times and extended \
                 attributes that only the log has are not known"
                    .to_owned(),
            );
        }
        notes.push("extended attributes that lie outside of the inode are not read".to_owned());
        let paths = HashMap::from([(root, b"/".to_vec())]);
        Ok(Self { fs, disk, wrong, notes, layout, paths, root })
    }

    fn metadata(&mut self, node: u64) -> Result<Metadata, Fault> {
        self.fs.metadata(&Inode { ino: node }).map_err(|error| fault(&error))
    }

    /// The inode as it is on the disk; none if the log has a newer one.
    fn inode(&mut self, node: u64) -> Option<Vec<u8>> {
        let Layout { block, inode, group_blocks, group_bits, inode_bits } = self.layout;
        if group_bits.checked_add(inode_bits)? >= 64 || !(256..=4096).contains(&inode) {
            return None;
        }
        let group = node >> (group_bits + inode_bits);
        let in_group = (node >> inode_bits) & ((1 << group_bits) - 1);
        let in_block = node & ((1 << inode_bits) - 1);
        let at = group.checked_mul(group_blocks)?.checked_add(in_group)?.checked_mul(block)?;
        let at = at.checked_add(in_block.checked_mul(inode)?)?;
        self.wrong.store(at.checked_add(OWNER)?, Ordering::Relaxed);
        let tried = self.fs.metadata(&Inode { ino: node });
        self.wrong.store(NOWHERE, Ordering::Relaxed);
        if !matches!(tried, Err(Error::BadCrc { .. })) {
            return None;
        }
        let bytes = bytes_at(&*self.disk, at, usize::try_from(inode).ok()?)?;
        let core = Core(Le(&bytes));
        (core.0.has(0, b"IN") && core.u64(152) == node).then_some(bytes)
    }

    fn path(&self, node: u64) -> Result<&Vec<u8>, Fault> {
        let none = || Fault::new(FaultKind::WrongKind, "it is no folder or link that was listed");
        self.paths.get(&node).ok_or_else(none)
    }
}

/// The attributes in an inode's own fork; none if they are elsewhere.
fn local_xattrs(inode: &[u8]) -> Option<Vec<Xattr>> {
    let le = Le(inode);
    let fork = usize::from(le.u8(82)) * 8;
    if fork == 0 {
        return Some(Vec::new());
    }
    if le.u8(83) != LOCAL {
        let core = Core(Le(inode));
        let is_large = core.u64(120) & LARGE_COUNTS != 0;
        let extents = if is_large { core.u32(76) } else { u32::from(core.u16(80)) };
        return (extents == 0).then(Vec::new);
    }
    let mut at = CORE.checked_add(fork)?;
    let count = le.u8(at.checked_add(2)?);
    at = at.checked_add(4)?;
    let mut found = Vec::new();
    for _ in 0..count {
        let (name_len, value_len) = (usize::from(le.u8(at)), usize::from(le.u8(at + 1)));
        let flags = le.u8(at + 2);
        let name_at = at.checked_add(3)?;
        let value_at = name_at.checked_add(name_len)?;
        at = value_at.checked_add(value_len)?;
        let (name, value) = (inode.get(name_at..value_at)?, inode.get(value_at..at)?);
        match (flags & 0xe, name) {
            (0x2, b"SGI_ACL_FILE") => {
                found.push((b"system.posix_acl_access".to_vec(), acl(value)?));
            }
            (0x2, b"SGI_ACL_DEFAULT") => {
                found.push((b"system.posix_acl_default".to_vec(), acl(value)?));
            }
            // Where its parents are, which is no attribute for anybody else.
            (flags, _) if flags & 0x8 != 0 => {}
            (0x2, name) => found.push(([b"trusted.", name].concat(), value.to_vec())),
            (0x4, name) => found.push(([b"security.", name].concat(), value.to_vec())),
            (_, name) => found.push(([b"user.", name].concat(), value.to_vec())),
        }
    }
    Some(found)
}

/// An access control list as Linux gives it, from the form on the disk.
fn acl(stored: &[u8]) -> Option<Vec<u8>> {
    let core = Core(Le(stored));
    let count = usize::try_from(core.u32(0)).ok()?;
    if stored.len() < count.checked_mul(12)?.checked_add(4)? {
        return None;
    }
    let mut value = 2_u32.to_le_bytes().to_vec();
    for at in (0..count).map(|index| 4 + index * 12) {
        let tag = u16::try_from(core.u32(at)).ok()?;
        // Only named users and groups have ids.
        let id = if matches!(tag, 0x02 | 0x08) { core.u32(at + 4) } else { u32::MAX };
        value.extend(tag.to_le_bytes());
        value.extend(core.u16(at + 8).to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Some(value)
}

impl Tree for Xfs {
    fn root(&self) -> u64 {
        self.root
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        let meta = self.metadata(node)?;
        let kind = Kind::of_mode(meta.mode());
        let kind = kind.ok_or_else(|| Fault::damaged("an inode of no known kind"))?;
        let mut attributes = Attributes::bare(kind, meta.size());
        attributes.mode = Some(meta.mode() & 0o7777);
        if let Some(inode) = self.inode(node) {
            let core = Core(Le(&inode));
            attributes.uid = Some(core.u32(8));
            attributes.gid = Some(core.u32(12));
            attributes.links = Some(core.u32(16));
            attributes.accessed = core.time(32);
            attributes.modified = core.time(40);
            if matches!(kind, Kind::CharacterDevice | Kind::BlockDevice) {
                let number = core.u32(CORE);
                attributes.device = Some(((number >> 18) & 0x3fff, number & 0x3_ffff));
            }
        }
        Ok(attributes)
    }

    fn list(&mut self, node: u64) -> Result<Vec<Entry>, Fault> {
        let path = self.path(node)?.clone();
        let listed = self.fs.read_dir(Path::new(&path)).map_err(|error| fault(&error))?;
        let mut entries = Vec::with_capacity(listed.len());
        for entry in listed {
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            let node = entry.inode_number;
            let attributes = self.attributes(node);
            if matches!(&attributes, Ok(found) if matches!(found.kind, Kind::Folder | Kind::Link)) {
                self.paths.insert(node, child(&path, &entry.name));
            }
            entries.push(Entry { name: entry.name, node, attributes });
        }
        Ok(entries)
    }

    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault> {
        let read = self.fs.read_file_at(&Inode { ino: node }, offset, buf);
        read.map(Piece::Data).map_err(|error| fault(&error))
    }

    fn target(&mut self, node: u64) -> Result<Vec<u8>, Fault> {
        let path = self.path(node)?.clone();
        if let Some(inode) = self.inode(node) {
            let core = Core(Le(&inode));
            let end = usize::try_from(core.u64(56)).ok().and_then(|size| size.checked_add(CORE));
            if core.0.u8(5) == LOCAL
                && let Some(target) = end.and_then(|end| inode.get(CORE..end))
            {
                return Ok(target.to_vec());
            }
        }
        self.fs.read_link(Path::new(&path)).map_err(|error| fault(&error))
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Xattr>, Fault> {
        let Some(inode) = self.inode(node) else {
            return Err(Fault::unsupported("they are in the log, which is not read for them"));
        };
        local_xattrs(&inode)
            .ok_or_else(|| Fault::unsupported("XFS keeps them outside of the inode"))
    }
}
