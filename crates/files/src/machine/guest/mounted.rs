//! A file system that the machine has mounted, as a tree.
//!
//! A node is a name in a folder; names of one file have one node. Files are opened from the uppermost folder,
//! below which each step stays: no link is followed.

use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    fs::File,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::FileExt as _},
    },
    path::PathBuf,
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, SeekFrom, Statx, StatxAttributes,
        StatxFlags, openat, openat2, readlinkat, seek, statx,
    },
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use crate::tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr};

/// Where it is mounted.
pub(super) const MOUNT: &str = "/mnt";
/// How long a path may be that is opened at once.
const PATH_MAX: usize = 3500;
/// How deep folders may lie.
const DEPTH_MAX: usize = 8192;
/// Most bytes of an extended attribute, and of a list of their names, that Linux gives.
const XATTR_MAX: usize = 64 << 10;
const BELOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A mounted file system.
pub(super) struct Mounted {
    root: Option<OwnedFd>,
    has_owners: bool,
    notes: Vec<String>,
    /// By node: the folder, and the name in it.
    places: Vec<(usize, Arc<[u8]>)>,
    nodes: HashMap<(usize, Arc<[u8]>), usize>,
    /// Nodes of files that have several names, by device and inode.
    linked: HashMap<(u32, u32, u64), usize>,
    /// The folder that was opened last.
    folder: Option<(usize, OwnedFd)>,
    /// The file that was opened last, with its size.
    file: Option<(usize, File, u64)>,
}

impl Mounted {
    /// What is mounted at [`MOUNT`].
    pub(super) fn new(has_owners: bool, notes: Vec<String>) -> Result<Self, Fault> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, MOUNT, flags, Mode::empty()).map_err(fault)?;
        let top: Arc<[u8]> = b".".as_slice().into();
        Ok(Self {
            root: Some(root),
            has_owners,
            notes,
            places: vec![(0, top)],
            nodes: HashMap::new(),
            linked: HashMap::new(),
            folder: None,
            file: None,
        })
    }

    fn place(&self, node: u64) -> Result<(usize, usize, Arc<[u8]>), Fault> {
        let node = usize::try_from(node).unwrap_or(usize::MAX);
        let place = self.places.get(node);
        let (folder, name) =
            place.ok_or_else(|| Fault::new(FaultKind::NotFound, "there is no such node"))?;
        Ok((node, *folder, Arc::clone(name)))
    }

    /// The node of a name in a folder.
    fn node(&mut self, folder: usize, name: &[u8], found: &Statx) -> usize {
        let kind = Kind::of_mode(u32::from(found.stx_mode));
        let is_linked = self.has_owners && found.stx_nlink > 1 && kind != Some(Kind::Folder);
        let file = (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
        if is_linked && let Some(node) = self.linked.get(&file) {
            return *node;
        }
        let name: Arc<[u8]> = name.into();
        let key = (folder, name);
        if let Some(node) = self.nodes.get(&key) {
            return *node;
        }
        let node = self.places.len();
        self.places.push(key.clone());
        self.nodes.insert(key, node);
        if is_linked {
            self.linked.insert(file, node);
        }
        node
    }

    /// Opens a folder, by way of those above it.
    fn open_folder(&mut self, node: usize) -> Result<&OwnedFd, Fault> {
        let gone = || Fault::new(FaultKind::Reader, "the file system is closed");
        if self.folder.as_ref().is_none_or(|(open, _)| *open != node) {
            let mut names = Vec::new();
            let mut at = node;
            while at != 0 {
                let (folder, name) = self.places.get(at).ok_or_else(gone)?;
                names.push(Arc::clone(name));
                at = *folder;
                if names.len() > DEPTH_MAX {
                    return Err(Fault::unsupported("it lies too deep"));
                }
            }
            let root = self.root.as_ref().ok_or_else(gone)?;
            let mut open = below(root, b".")?;
            let mut path: Vec<u8> = Vec::new();
            while let Some(name) = names.pop() {
                if path.len().saturating_add(name.len()) > PATH_MAX {
                    open = below(&open, &path)?;
                    path.clear();
                }
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
            }
            if !path.is_empty() {
                open = below(&open, &path)?;
            }
            self.folder = Some((node, open));
        }
        self.folder.as_ref().map(|(_, open)| open).ok_or_else(gone)
    }

    fn look(&mut self, folder: usize, name: &[u8]) -> Result<Statx, Fault> {
        look(self.open_folder(folder)?, name)
    }

    fn attributes_of(&self, found: &Statx) -> Result<Attributes, Fault> {
        let mode = u32::from(found.stx_mode);
        let kind = Kind::of_mode(mode).ok_or_else(|| Fault::damaged("it has no kind"))?;
        if found.stx_attributes.contains(StatxAttributes::ENCRYPTED) {
            return Err(Fault::unsupported("it is encrypted"));
        }
        let time = |time: rustix::fs::StatxTimestamp| Time {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        };
        let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
        let known = StatxFlags::from_bits_retain(found.stx_mask);
        let given = |flag, moment| known.contains(flag).then(|| time(moment));
        Ok(Attributes {
            kind,
            size: found.stx_size,
            mode: self.has_owners.then_some(mode & 0o7777),
            uid: self.has_owners.then_some(found.stx_uid),
            gid: self.has_owners.then_some(found.stx_gid),
            links: self.has_owners.then_some(found.stx_nlink),
            modified: given(StatxFlags::MTIME, found.stx_mtime),
            accessed: given(StatxFlags::ATIME, found.stx_atime),
            device: is_device.then_some((found.stx_rdev_major, found.stx_rdev_minor)),
        })
    }

    /// Opens a regular file, if it is not open.
    fn open_file(&mut self, node: u64) -> Result<(&File, u64), Fault> {
        let (node, folder, name) = self.place(node)?;
        if self.file.as_ref().is_none_or(|(open, ..)| *open != node) {
            let found = self.look(folder, &name)?;
            if self.attributes_of(&found)?.kind != Kind::File {
                return Err(Fault::new(FaultKind::WrongKind, "it is no file"));
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let folder = self.open_folder(folder)?;
            let file = openat2(folder, os(&name), flags, Mode::empty(), BELOW).map_err(fault)?;
            self.file = Some((node, File::from(file), found.stx_size));
        }
        let gone = || Fault::new(FaultKind::Reader, "the file is closed");
        self.file.as_ref().map(|(_, file, size)| (file, *size)).ok_or_else(gone)
    }

    /// A path by which calls without folders find a file without following it.
    fn path(&mut self, node: u64) -> Result<PathBuf, Fault> {
        let (_, folder, name) = self.place(node)?;
        let folder = self.open_folder(folder)?.as_raw_fd();
        Ok(PathBuf::from(format!("/proc/self/fd/{folder}")).join(os(&name)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        (self.file, self.folder, self.root) = (None, None, None);
        unmount(MOUNT, UnmountFlags::empty()).ok();
    }
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// Opens a folder below another.
fn below(folder: impl AsFd, path: &[u8]) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(folder, os(path), flags, Mode::empty(), BELOW).map_err(fault)
}

fn look(folder: impl AsFd, name: &[u8]) -> Result<Statx, Fault> {
    statx(folder, os(name), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).map_err(fault)
}

/// What a failure of the driver means.
pub(super) fn fault(error: Errno) -> Fault {
    let words = std::io::Error::from(error).to_string();
    let kind = match error {
        Errno::NOENT => FaultKind::NotFound,
        Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::INVAL => FaultKind::WrongKind,
        Errno::NOKEY | Errno::OPNOTSUPP => FaultKind::Unsupported,
        // What the disk itself could not read is known before this is.
        Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::ILSEQ | Errno::NAMETOOLONG => {
            FaultKind::Damaged
        }
        _ => FaultKind::Reader,
    };
    Fault::new(kind, words)
}

impl Tree for Mounted {
    fn root(&self) -> u64 {
        0
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn attributes(&mut self, node: u64) -> Result<Attributes, Fault> {
        let (_, folder, name) = self.place(node)?;
        let found = self.look(folder, &name)?;
        self.attributes_of(&found)
    }

    fn list(&mut self, node: u64) -> Result<Vec<Entry>, Fault> {
        let (node, above, name) = self.place(node)?;
        let own = self.look(above, &name)?;
        if self.attributes_of(&own)?.kind != Kind::Folder {
            return Err(Fault::new(FaultKind::WrongKind, "it is no folder"));
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in Dir::read_from(self.open_folder(node)?).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let found = self.look(node, &name);
            let (node, attributes) = match found {
                Ok(found) => (self.node(node, &name, &found), self.attributes_of(&found)),
                Err(fault) => (usize::MAX, Err(fault)),
            };
            let node = u64::try_from(node).unwrap_or(u64::MAX);
            entries.push(Entry { name, node, attributes });
        }
        Ok(entries)
    }

    fn read(&mut self, node: u64, offset: u64, buf: &mut [u8]) -> Result<Piece, Fault> {
        let (file, size) = self.open_file(node)?;
        if offset >= size {
            return Ok(Piece::Data(0));
        }
        let rest = size.saturating_sub(offset);
        let data = match seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(Piece::Hole(rest)),
            // Not every driver knows.
            Err(_) => offset,
        };
        if data > offset {
            return Ok(Piece::Hole(data.saturating_sub(offset).min(rest)));
        }
        let end = seek(file, SeekFrom::Hole(offset)).unwrap_or(size).clamp(offset, size);
        let most = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..most).unwrap_or_default();
        let failed = |error: std::io::Error| {
            Errno::from_io_error(&error)
                .map_or_else(|| Fault::new(FaultKind::Reader, error.to_string()), fault)
        };
        Ok(Piece::Data(file.read_at(buf, offset).map_err(failed)?))
    }

    fn target(&mut self, node: u64) -> Result<Vec<u8>, Fault> {
        let (_, folder, name) = self.place(node)?;
        let folder = self.open_folder(folder)?;
        Ok(readlinkat(folder, os(&name), Vec::new()).map_err(fault)?.into_bytes())
    }

    fn folded(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(name).ok().filter(|_| !self.has_owners)?;
        Some(text.to_lowercase().into_bytes())
    }

    fn xattrs(&mut self, node: u64) -> Result<Vec<Xattr>, Fault> {
        if !self.has_owners {
            return Ok(Vec::new());
        }
        let path = self.path(node)?;
        let mut space = vec![MaybeUninit::uninit(); XATTR_MAX];
        let names = match rustix::fs::llistxattr(&path, space.as_mut_slice()) {
            Ok((names, _)) => names.to_vec(),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(fault(error)),
        };
        let mut xattrs = Vec::new();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let (value, _) =
                rustix::fs::lgetxattr(&path, name, space.as_mut_slice()).map_err(fault)?;
            xattrs.push((name.to_bytes().to_vec(), value.to_vec()));
        }
        Ok(xattrs)
    }
}
