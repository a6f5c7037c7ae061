//! The files of a volume as a folder, over FUSE, only to be read.
//!
//! The kernel asks; a file system is parsed by the process that [`FileReader`] has, one question after the other. So what
//! a stranger has made is never parsed by the kernel, which sees names, attributes and bytes. They are checked as
//! everything that process says.
//!
//! Numbers of files are those of the file system, moved behind the two that the kernel reserves. Nothing is kept of a
//! file between two questions.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
};
use strongroom_base::lock;
use strongroom_files::{Attributes, Entry, FileReader, FilesError, Kind, Piece, Time, Xattr};

/// How long the kernel remembers names and attributes, which never change.
const TTL: Duration = Duration::from_hours(1);
/// How far the kernel reads ahead.
const READ_AHEAD: u32 = 1 << 20;
/// Numbers that the kernel has a meaning for: none, and the uppermost folder.
const RESERVED: u64 = 2;
const BLOCK: u64 = 512;

/// Why the files of a volume cannot be read any more, once that is so: the process that reads has ended. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ReaderEnd(Arc<Mutex<Option<FilesError>>>);

impl ReaderEnd {
    /// Whether it has ended.
    pub fn is_there(&self) -> bool {
        lock(&self.0).is_some()
    }

    /// Why. It is given once.
    pub fn take(&self) -> Option<FilesError> {
        lock(&self.0).take()
    }
}

/// A volume whose files are shown.
pub struct FileTree {
    reader: Mutex<FileReader>,
    end: ReaderEnd,
    /// The node of its uppermost folder.
    root: u64,
    /// Whom files belong to of which the file system does not know it.
    user: (u32, u32),
    /// When there is no time in the file system.
    time: SystemTime,
    /// Listings of folders that are open.
    open: Mutex<HashMap<u64, Arc<Vec<Entry>>>>,
    next: AtomicU64,
    /// Listings by name, of the folders that were asked last: to find a name costs a reader as much as to list all.
    recent: Mutex<Vec<(u64, Names)>>,
}

/// The entries of a folder by name.
type Names = Arc<HashMap<Vec<u8>, Entry>>;

/// How many listings are kept, and how many entries all of them have.
const RECENT: usize = 16;
const RECENT_ENTRIES: usize = 200_000;

impl std::fmt::Debug for FileTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileTree").field("root", &self.root).finish_non_exhaustive()
    }
}

impl FileTree {
    /// The tree below this node, which the reader has opened. `time` is shown where the file system has none.
    pub fn new(reader: FileReader, root: u64, time: SystemTime) -> Self {
        let user = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let (open, next, recent) = (Mutex::default(), AtomicU64::new(1), Mutex::default());
        let end = ReaderEnd::default();
        Self { reader: Mutex::new(reader), end, root, user, time, open, next, recent }
    }

    /// Where it is seen that nothing more can be read, so that the mount is to end. Numbers of files are not the same in
    /// another process for every file system: none takes over.
    pub fn end(&self) -> ReaderEnd {
        self.end.clone()
    }

    fn node(&self, file: INodeNo) -> u64 {
        if file == INodeNo::ROOT { self.root } else { u64::from(file).wrapping_sub(RESERVED) }
    }

    fn number(&self, node: u64) -> Result<INodeNo, Errno> {
        if node == self.root {
            return Ok(INodeNo::ROOT);
        }
        node.checked_add(RESERVED).map(INodeNo).ok_or(Errno::EOVERFLOW)
    }

    /// Asks the reader, and says to the log what the kernel has no words for.
    fn ask<T>(
        &self,
        node: u64,
        question: impl FnOnce(&mut FileReader, &[u8]) -> Result<T, FilesError>,
    ) -> Result<T, Errno> {
        let path = format!("file {node}");
        let mut reader = lock(&self.reader);
        let was_broken = reader.is_broken();
        question(&mut reader, path.as_bytes()).map_err(|error| match error {
            error if reader.is_broken() => {
                if !was_broken {
                    tracing::warn!(node, %error, "the process that reads the mounted files has ended");
                    lock(&self.end.0).get_or_insert(error);
                }
                Errno::EIO
            }
            FilesError::NotFound { .. } => Errno::ENOENT,
            FilesError::Unsupported { reason, .. } => {
                tracing::warn!(
                    node,
                    reason,
                    "a mounted file cannot be read right, and is not read"
                );
                Errno::EOPNOTSUPP
            }
            error => {
                tracing::warn!(node, %error, "a mounted file cannot be read");
                Errno::EIO
            }
        })
    }

    fn attributes(&self, file: INodeNo) -> Result<FileAttr, Errno> {
        let node = self.node(file);
        let attributes = self.ask(node, |reader, path| reader.attributes(path, node))?;
        Ok(self.shown(file, &attributes))
    }

    fn shown(&self, file: INodeNo, attributes: &Attributes) -> FileAttr {
        let kind = kind_of(attributes.kind);
        let usual = if kind == FileType::Directory { 0o755 } else { 0o644 };
        let mode = attributes.mode.unwrap_or(usual) & 0o7777;
        let modified = attributes.modified.map_or(self.time, moment);
        let (major, minor) = attributes.device.unwrap_or_default();
        FileAttr {
            ino: file,
            size: attributes.size,
            blocks: attributes.size.div_ceil(BLOCK),
            atime: attributes.accessed.map_or(modified, moment),
            mtime: modified,
            ctime: modified,
            crtime: modified,
            kind,
            perm: u16::try_from(mode).unwrap_or_default(),
            nlink: attributes.links.unwrap_or(1),
            uid: attributes.uid.unwrap_or(self.user.0),
            gid: attributes.gid.unwrap_or(self.user.1),
            rdev: device(major, minor),
            blksize: 1 << 16,
            flags: 0,
        }
    }

    fn find(&self, folder: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let node = self.node(folder);
        let listed = self.listing(node)?.get(name.as_bytes()).cloned();
        let entry = if let Some(entry) = listed {
            entry
        } else {
            // Some file systems find names in other capitals.
            let found =
                |reader: &mut FileReader, path: &[u8]| reader.find(path, node, name.as_bytes());
            self.ask(node, found)?.ok_or(Errno::ENOENT)?
        };
        let file = self.number(entry.node)?;
        match &entry.attributes {
            Ok(attributes) => Ok(self.shown(file, attributes)),
            Err(fault) => {
                tracing::warn!(
                    node = entry.node,
                    reason = fault.reason,
                    "a mounted file cannot be read"
                );
                Err(Errno::EIO)
            }
        }
    }

    /// The entries of a folder by name, from an earlier question if there was one.
    fn listing(&self, node: u64) -> Result<Names, Errno> {
        if let Some((_, found)) = lock(&self.recent).iter().find(|(other, _)| *other == node) {
            return Ok(Arc::clone(found));
        }
        let entries = self.ask(node, |reader, path| reader.list(path, node))?;
        Ok(self.remember(node, &entries))
    }

    fn remember(&self, node: u64, entries: &[Entry]) -> Names {
        let named = entries.iter().map(|entry| (entry.name.clone(), entry.clone()));
        let named: Names = Arc::new(named.collect());
        let mut recent = lock(&self.recent);
        recent.retain(|(other, _)| *other != node);
        recent.push((node, Arc::clone(&named)));
        let many = |recent: &[(u64, Names)]| {
            let sum: usize = recent.iter().map(|(_, entries)| entries.len()).sum();
            recent.len() > RECENT || sum > RECENT_ENTRIES
        };
        while recent.len() > 1 && many(&recent) {
            recent.remove(0);
        }
        named
    }

    fn bytes(&self, file: INodeNo, mut offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let node = self.node(file);
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        let mut bytes = vec![0; size];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let piece = self.ask(node, |reader, path| reader.read(path, node, offset, rest))?;
            let len = match piece {
                Piece::Data(0) => break,
                Piece::Data(len) => len,
                Piece::Hole(len) => {
                    let len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
                    rest.get_mut(..len).unwrap_or_default().fill(0);
                    len
                }
            };
            done = done.saturating_add(len);
            offset = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn xattrs(&self, file: INodeNo) -> Result<Vec<Xattr>, Errno> {
        let node = self.node(file);
        self.ask(node, |reader, path| reader.xattrs(path, node))
    }
}

fn kind_of(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Folder | Kind::Subvolume => FileType::Directory,
        Kind::Link => FileType::Symlink,
        Kind::Pipe => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// A time as the system has it. One that it cannot have is 1970.
fn moment(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let part = Duration::from_nanos(u64::from(time.nanoseconds));
    whole.and_then(|whole| whole.checked_add(part)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The number of a device, as FUSE has it (`new_encode_dev` of Linux).
fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// Answers with bytes whose length may only be asked for.
fn give(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(len),
        size if len <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for FileTree {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What the kernel does not allow stays at what it allows.
        if let Err(most) = config.set_max_readahead(READ_AHEAD) {
            config.set_max_readahead(most).ok();
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(file) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, file: INodeNo, reply: ReplyData) {
        let node = self.node(file);
        match self.ask(node, |reader, path| reader.target(path, node)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() == OpenAccMode::O_RDONLY {
            // A point never changes: what the kernel has of it stays right.
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        } else {
            reply.error(Errno::EROFS);
        }
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.bytes(file, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is written.
        reply.ok();
    }

    fn opendir(&self, _: &Request, folder: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let node = self.node(folder);
        match self.ask(node, |reader, path| reader.list(path, node)) {
            Ok(entries) => {
                self.remember(node, &entries);
                let handle = self.next.fetch_add(1, Ordering::Relaxed);
                lock(&self.open).insert(handle, Arc::new(entries));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        folder: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(entries) = lock(&self.open).get(&u64::from(handle)).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let own = [".", ".."].map(|name| (folder, FileType::Directory, OsStr::new(name)));
        let listed = entries.iter().filter_map(|entry| {
            // Of one that cannot be read the name is there, and the kernel asks for the rest.
            let kind =
                entry.attributes.as_ref().map_or(FileType::RegularFile, |it| kind_of(it.kind));
            Some((self.number(entry.node).ok()?, kind, OsStr::from_bytes(&entry.name)))
        });
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (number, kind, name)) in (1..).zip(own.into_iter().chain(listed)).skip(skip) {
            if reply.add(number, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.open).remove(&u64::from(handle));
        reply.ok();
    }

    fn getxattr(&self, _: &Request, file: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.xattrs(file) {
            Ok(all) => match all.iter().find(|(other, _)| other == name.as_bytes()) {
                Some((_, value)) => give(reply, size, value),
                None => reply.error(Errno::ENODATA),
            },
            Err(error) => reply.error(error),
        }
    }

    fn listxattr(&self, _: &Request, file: INodeNo, size: u32, reply: ReplyXattr) {
        match self.xattrs(file) {
            Ok(all) => {
                let names = all.iter().flat_map(|(name, _)| name.iter().copied().chain([0]));
                give(reply, size, &names.collect::<Vec<u8>>());
            }
            Err(error) => reply.error(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_devices_are_those_of_linux() {
        let time = |seconds, nanoseconds| moment(Time { seconds, nanoseconds });
        assert_eq!(time(0, 5), SystemTime::UNIX_EPOCH + Duration::from_nanos(5));
        let before = SystemTime::UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(time(-1, 500_000_000), before);
        // The last one that there is.
        assert!(time(i64::MAX, 999_999_999) > SystemTime::UNIX_EPOCH);
        assert_eq!(device(8, 1), 0x801);
        assert_eq!(device(0x123, 0x456), 0x41_2356);
    }
}
