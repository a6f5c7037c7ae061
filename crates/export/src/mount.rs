//! Mounts over FUSE, only to be read: disks as files `NAME.raw` of a folder, and the files of a volume ([`FileTree`]).
//!
//! It speaks to /dev/fuse itself. The superuser mounts without help; everybody else by `fusermount3`, which has the rights
//! for it.

use std::{
    cell::RefCell,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, Request, SessionACL,
};
use strongroom_base::{ByteRange, Code, Coded, Environment, Params, codes, params};
use strongroom_disk::{DiskSource, ExtentKind};

use crate::FileTree;

/// Threads that answer the kernel.
const THREADS: usize = 4;
/// How long the kernel remembers attributes, which never change.
const TTL: Duration = Duration::from_hours(1);
/// How far the kernel reads ahead.
const READ_AHEAD: u32 = 1 << 20;
const BLOCK: u64 = 512;

thread_local! {
    /// What a thread answers with: fresh memory for each answer would cost as much as the copying.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A disk with the name of its file.
#[derive(Clone)]
pub struct DiskFile {
    /// The name of the disk; the file is `NAME.raw`.
    pub name: String,
    /// The disk.
    pub disk: Arc<dyn DiskSource>,
}

/// Why disks cannot be mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The folder has a mount whose process is gone.
    #[error("{} still has the mount of a process that is gone", path.display())]
    Stale {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is not there, or is no empty folder.
    #[error("{} is not an empty folder", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The system does not let us.
    #[error("cannot mount at {}: {reason}", path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Coded for MountError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Stale { .. } => &codes::MOUNT_STALE,
            Self::Folder { .. } => &codes::MOUNT_FOLDER,
            Self::Refused { .. } => &codes::MOUNT_REFUSED,
        }
    }

    fn params(&self) -> Params {
        match self {
            Self::Stale { path } => params!(MOUNT_STALE: path),
            Self::Folder { path } => params!(MOUNT_FOLDER: path),
            Self::Refused { path, reason } => params!(MOUNT_REFUSED: path, reason),
        }
    }
}

/// Disks that are mounted. Dropping it unmounts them.
pub struct Mount {
    session: BackgroundSession,
    folder: PathBuf,
}

impl Mount {
    /// Mounts disks in an empty folder. With `everybody`, other users may read them too.
    ///
    /// # Errors
    ///
    /// If the folder is none, has a stale mount, or the system refuses.
    pub fn start(
        folder: &Path,
        disks: Vec<DiskFile>,
        time: SystemTime,
        everybody: bool,
    ) -> Result<Self, MountError> {
        let user = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let files = Files { disks, time, user, perm: if everybody { 0o444 } else { 0o400 } };
        Self::spawn(folder, files, everybody, true)
    }

    /// Mounts the files of a volume in an empty folder. With `everybody`, other users may read what the modes of the files
    /// let them; else the user who mounts them may read all.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_tree(folder: &Path, tree: FileTree, everybody: bool) -> Result<Self, MountError> {
        Self::spawn(folder, tree, everybody, everybody)
    }

    fn spawn(
        folder: &Path,
        files: impl Filesystem + 'static,
        everybody: bool,
        checks_modes: bool,
    ) -> Result<Self, MountError> {
        check(folder)?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("strongroom".to_owned()),
            MountOption::Subtype("strongroom".to_owned()),
            MountOption::RO,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
        ];
        if checks_modes {
            config.mount_options.push(MountOption::DefaultPermissions);
        }
        config.acl = if everybody { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(files, folder, &config);
        let folder = folder.to_owned();
        session.map(|session| Self { session, folder: folder.clone() }).map_err(|error| {
            MountError::Refused {
                path: folder.clone(),
                reason: reason(&error, Path::new("/dev/fuse").exists()),
            }
        })
    }

    /// Whether somebody else has unmounted it.
    pub fn is_gone(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Unmounts, unless a file or the folder is in use. Whether it did; if not, everything is served as before.
    ///
    /// # Errors
    ///
    /// If the program that unmounts cannot be started.
    pub fn try_unmount(&self) -> io::Result<bool> {
        self.unmount_by(&[], &["-u"])
    }

    /// Unmounts by the program that has the rights for it, with these options. Whether it did.
    fn unmount_by(&self, of_root: &[&str], of_others: &[&str]) -> io::Result<bool> {
        let (program, words) = if rustix::process::geteuid().is_root() {
            ("umount", of_root)
        } else {
            ("fusermount3", of_others)
        };
        let mut command = Command::new(program);
        command.env_clear().envs(Environment::given().path()).args(words).arg("--");
        let output = command.arg(&self.folder).stdin(Stdio::null()).output()?;
        Ok(output.status.success())
    }

    /// Takes the mount away at once, also from those who use it. Files that are open are served until the process ends, which then
    /// leaves no mount behind.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn detach(self) -> io::Result<()> {
        let done = self.unmount_by(&["-l"], &["-u", "-z"])?;
        if !done {
            // It says what is wrong, or that there is nothing left.
            return self.stop();
        }
        // It would unmount what is there then, and wait for those who have a file open.
        std::mem::forget(self.session);
        Ok(())
    }

    /// Unmounts. If a file is open, it stays for those who have it open.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn stop(self) -> io::Result<()> {
        self.session.umount_and_join()
    }
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mount")
    }
}

/// Why the system does not let us mount, for people.
fn reason(error: &io::Error, has_device: bool) -> String {
    match error.kind() {
        _ if !has_device => "this system has no /dev/fuse".to_owned(),
        io::ErrorKind::NotFound => {
            "only the superuser mounts without fusermount3, which is not installed".to_owned()
        }
        _ => error.to_string().trim().to_owned(),
    }
}

fn check(folder: &Path) -> Result<(), MountError> {
    let path = || folder.to_owned();
    match std::fs::read_dir(folder).map(Iterator::count) {
        Ok(0) => Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            Err(MountError::Stale { path: path() })
        }
        Ok(_) | Err(_) => Err(MountError::Folder { path: path() }),
    }
}

/// The file system: a folder with a file for each disk.
struct Files {
    disks: Vec<DiskFile>,
    time: SystemTime,
    user: (u32, u32),
    perm: u16,
}

/// Files have the numbers from 2 on.
const FIRST: u64 = 2;

impl Files {
    fn number(place: usize) -> INodeNo {
        INodeNo(u64::try_from(place).unwrap_or(u64::MAX).saturating_add(FIRST))
    }

    fn disk(&self, file: INodeNo) -> Option<&DiskFile> {
        let place = u64::from(file).checked_sub(FIRST)?;
        self.disks.get(usize::try_from(place).ok()?)
    }

    fn attributes(&self, file: INodeNo) -> Option<FileAttr> {
        let is_folder = file == INodeNo::ROOT;
        let size = if is_folder { 0 } else { self.disk(file)?.disk.size() };
        Some(FileAttr {
            ino: file,
            size,
            // Fewer than the size says: what copies looks for holes then. How much is data is not known.
            blocks: (size / BLOCK).saturating_sub(1),
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            crtime: self.time,
            kind: if is_folder { FileType::Directory } else { FileType::RegularFile },
            perm: if is_folder { self.perm | self.perm >> 2 } else { self.perm },
            nlink: if is_folder { 2 } else { 1 },
            uid: self.user.0,
            gid: self.user.1,
            rdev: 0,
            blksize: 1 << 16,
            flags: 0,
        })
    }

    /// The next place from `offset` on that is of this kind; the end of the file is a hole.
    fn seek(&self, file: INodeNo, offset: u64, kind: ExtentKind) -> Result<u64, Errno> {
        let disk = &self.disk(file).ok_or(Errno::ENOENT)?.disk;
        let size = disk.size();
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let mut at = offset;
        while at < size {
            let extents = disk.extents(ByteRange::between(at, size)).map_err(|_| Errno::EIO)?;
            if let Some(found) = extents.iter().find(|extent| extent.kind == kind) {
                return Ok(found.range.offset());
            }
            at = extents.last().map_or(size, |last| last.range.end());
        }
        if kind == ExtentKind::Zero { Ok(size) } else { Err(Errno::ENXIO) }
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What the kernel does not allow stays at what it allows.
        if let Err(most) = config.set_max_readahead(READ_AHEAD) {
            config.set_max_readahead(most).ok();
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let is_it = |disk: &DiskFile| OsStr::new(&file_name(&disk.name)) == name;
        let place = self.disks.iter().position(is_it).filter(|_| parent == INodeNo::ROOT);
        match place.and_then(|place| self.attributes(Self::number(place))) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(file) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
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
        let Some(DiskFile { disk, name }) = self.disk(file) else {
            return reply.error(Errno::ENOENT);
        };
        let left = disk.size().saturating_sub(offset).min(u64::from(size));
        let left = usize::try_from(left).unwrap_or(0);
        ROOM.with_borrow_mut(|room| {
            room.resize(room.len().max(left), 0);
            let bytes = room.get_mut(..left).unwrap_or_default();
            match disk.read_at(offset, bytes) {
                Ok(()) => reply.data(bytes),
                Err(error) => {
                    tracing::warn!(disk = name, offset, %error, "a mounted disk cannot be read");
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is written.
        reply.ok();
    }

    fn lseek(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // SEEK_DATA and SEEK_HOLE; the kernel does the others itself.
        let kind = match whence {
            3 => ExtentKind::Data,
            4 => ExtentKind::Zero,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.seek(file, offset, kind).map(i64::try_from) {
            Ok(Ok(found)) => reply.offset(found),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        folder: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if folder != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let own = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name.to_owned()));
        let files = self.disks.iter().enumerate().map(|(place, disk)| {
            (Self::number(place), FileType::RegularFile, file_name(&disk.name))
        });
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (number, kind, name)) in (1..).zip(own.into_iter().chain(files)).skip(skip) {
            if reply.add(number, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// The file of a disk.
fn file_name(disk: &str) -> String {
    format!("{disk}.raw")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_not_is_said_in_words() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert!(reason(&missing, true).contains("fusermount3, which is not installed"));
        assert!(reason(&missing, false).contains("/dev/fuse"));
        assert_eq!(reason(&io::Error::other("no\n"), true), "no");
    }

    #[test]
    fn only_an_empty_folder_will_do() {
        let dir = tempfile::tempdir().expect("temp");
        check(dir.path()).expect("it is empty");
        std::fs::write(dir.path().join("a"), b"a").expect("a file");
        for path in [dir.path().to_owned(), dir.path().join("a"), dir.path().join("b")] {
            let error = check(&path).expect_err("no empty folder");
            assert_eq!(error.code().name, "mount.folder");
        }
    }
}
