//! Files that are what they are taken for: below an allowed folder, or left by ourselves.
//!
//! Who may change the folders of a path may change what it names. So the check looks at the open file, and
//! other programs get `/proc/PID/fd/N`: they open what was checked.
//!
//! This module owns the check. Which folders are allowed is for the caller to say.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::DiskError;

/// Where names of devices are; only root can change what they lead to.
const DEVICES: &str = "/dev";

/// Folders, files and devices at or below which all paths must stay, whatever links there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Within(Vec<PathBuf>);

impl Within {
    /// These.
    pub fn new(allowed: Vec<PathBuf>) -> Self {
        Self(allowed)
    }

    /// Whether a path is one that was allowed by its own name, or the name of an allowed device.
    pub fn is_named(&self, path: &Path) -> bool {
        self.0.iter().any(|allowed| {
            allowed == path || (allowed.starts_with(DEVICES) && path.starts_with(allowed))
        })
    }

    /// Opens what is at a path; links are followed as long as they stay below the allowed folder. What leads
    /// out of it is `EXDEV`.
    pub fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        self.resolve(path, flags, mode, resolve)
    }

    /// Opens what is at a path that has no links below the allowed folder.
    pub(crate) fn open_exactly(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        self.resolve(path, flags, Mode::empty(), resolve)
    }

    fn resolve(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
        resolve: ResolveFlags,
    ) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        let mut refused = Errno::XDEV;
        for allowed in &self.0 {
            let device = allowed.starts_with(DEVICES) && path.starts_with(allowed);
            let folder = if device { Path::new(DEVICES) } else { allowed };
            let Ok(rest) = path.strip_prefix(folder) else { continue };
            if rest.as_os_str().is_empty() {
                return Ok(rustix::fs::open(path, flags, mode)?.into());
            }
            let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(folder, root, Mode::empty())
                .and_then(|root| rustix::fs::openat2(&root, rest, flags, mode, resolve));
            match opened {
                Ok(file) => return Ok(file.into()),
                Err(error) => refused = error,
            }
        }
        Err(refused.into())
    }

    /// Refuses a folder that a link leads out of the allowed ones.
    pub fn check_folder(&self, path: &Path) -> Result<(), DiskError> {
        let opened = self.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        opened.map(drop).map_err(|error| open_error(&path.display().to_string(), error))
    }

    /// Opens a folder; what is missing of it is made.
    pub fn make_folder(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open(path, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        if self.0.iter().any(|allowed| allowed == path) {
            std::fs::create_dir_all(path)?;
            return self.open(path, flags, Mode::empty());
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let parent = self.make_folder(parent)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.open(path, flags, Mode::empty())
    }
}

/// A path for which nothing but this open file is opened, by any process of the same user, as long as it is
/// open.
pub fn pinned(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Why an open file cannot be what an earlier run of ours has left, if it cannot.
pub fn why_not_ours(file: &File) -> io::Result<Option<&'static str>> {
    let data = file.metadata()?;
    Ok(if !data.is_file() {
        Some("it is no regular file")
    } else if data.uid() != rustix::process::geteuid().as_raw() {
        Some("it belongs to another user")
    } else if data.nlink() != 1 {
        Some("it has another name")
    } else if data.mode() & 0o022 != 0 {
        Some("others may write to it")
    } else {
        None
    })
}

/// Opens what an earlier run of ours has left; what it cannot have left is an error.
pub fn open_ours(path: &Path, write: bool) -> io::Result<File> {
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(Errno::LOOP) => return Err(planted("it is a symbolic link")),
        Err(error) => return Err(error.into()),
    };
    match why_not_ours(&file)? {
        None => Ok(file),
        Some(reason) => Err(planted(reason)),
    }
}

/// Opens a folder of this name in an open one; what is missing is made, for its owner alone. A link is not
/// followed.
pub fn folder_in(parent: &File, name: &OsStr) -> io::Result<File> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(folder) => Ok(folder.into()),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(planted("it is a link, or no folder")),
        Err(error) => Err(error.into()),
    }
}

/// As [`folder_in`]; one that somebody else may have put there, or may write to, is refused.
pub fn own_folder(parent: &File, name: &OsStr) -> io::Result<File> {
    let folder = folder_in(parent, name)?;
    let data = folder.metadata()?;
    if data.uid() != rustix::process::geteuid().as_raw() {
        Err(planted("it belongs to another user"))
    } else if data.mode() & 0o022 != 0 {
        Err(planted("others may write to it"))
    } else {
        Ok(folder)
    }
}

/// Makes a file for its owner alone, in place of whatever has the name.
pub fn make_anew(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// What [`open_ours`] says of a file that it refuses.
fn planted(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Planted(reason))
}

#[derive(Debug, thiserror::Error)]
#[error("it was not left by an earlier run: {0}")]
struct Planted(&'static str);

/// An error of opening a disk, in the words of this crate.
pub(crate) fn open_error(name: &str, error: io::Error) -> DiskError {
    let disk = name.to_owned();
    match (
        Errno::from_io_error(&error),
        error.get_ref().and_then(|it| it.downcast_ref::<Planted>()),
    ) {
        (_, Some(Planted(reason))) => DiskError::Planted { disk, reason },
        (Some(Errno::XDEV | Errno::LOOP), _) => DiskError::Outside { disk },
        _ => crate::raw::open_error(name, error),
    }
}
