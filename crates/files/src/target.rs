//! A file that is made by its name in a folder that is open: what delivery and unpacking have in common.
//!
//! Nothing is followed, and nothing that exists is overwritten. Names were checked before, and come from strangers all the
//! same: no path of theirs is ever opened, except below the folder that is delivered to and without links.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    deliver::{Delivered, NO_NUMBER},
    error::{FilesError, shown},
    tree::{Attributes, Fault, Kind},
};

/// Opens the folder that is delivered to, which is made if its parent exists.
pub(crate) fn open_root(to: &Path) -> Result<OwnedFd, FilesError> {
    let failed = |action, error: Errno| FilesError::Target {
        action,
        path: to.display().to_string(),
        source: error.into(),
    };
    match fs::mkdir(to, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("make", error)),
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(to, flags, Mode::empty()).map_err(|error| failed("open", error))
}

/// What was done, or why no more was.
pub(crate) fn ended(
    made: Result<(), FilesError>,
    done: Delivered,
) -> Result<Delivered, FilesError> {
    match made {
        Ok(()) => Ok(done),
        Err(FilesError::Target { action, path, source }) => {
            Err(FilesError::Stopped { action, path, files: done.files, source })
        }
        Err(error) => Err(error),
    }
}

/// Where something is made.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The folder that is delivered to, for errors.
    pub(crate) to: &'a Path,
    /// The path below it, for errors.
    pub(crate) inside: &'a [u8],
    /// The folder that it is made in.
    pub(crate) folder: BorrowedFd<'a>,
    /// Its name there.
    pub(crate) name: &'a OsStr,
}

impl Target<'_> {
    /// The error of something that cannot be done with it.
    pub(crate) fn failed(self, action: &'static str, error: Errno) -> FilesError {
        let below = OsStr::from_bytes(self.inside.strip_prefix(b"/").unwrap_or(self.inside));
        let path = shown(self.to.join(below).as_os_str().as_bytes());
        FilesError::Target { action, path, source: io::Error::from(error) }
    }

    /// A folder that only its owner enters, open.
    pub(crate) fn make_folder(self) -> Result<OwnedFd, FilesError> {
        fs::mkdirat(self.folder, self.name, Mode::from_raw_mode(0o700))
            .map_err(|error| self.failed("make", error))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(self.folder, self.name, flags, Mode::empty())
            .map_err(|error| self.failed("open", error))
    }

    /// A file of this size with the bytes that `fill` writes; without all of them it is removed again.
    pub(crate) fn make_file(
        self,
        size: u64,
        fill: impl FnOnce(&OwnedFd) -> Result<(), FilesError>,
    ) -> Result<OwnedFd, FilesError> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(self.folder, self.name, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| self.failed("make", error))?;
        let sized = fs::ftruncate(&file, size).map_err(|error| self.failed("write", error));
        if let Err(error) = sized.and_then(|()| fill(&file)) {
            fs::unlinkat(self.folder, self.name, AtFlags::empty())
                .map_err(|error| self.failed("remove", error))?;
            return Err(error);
        }
        Ok(file)
    }

    /// A symbolic link. `outside` is its path in the volume.
    pub(crate) fn make_link(self, goal: Vec<u8>, outside: &[u8]) -> Result<(), FilesError> {
        let goal = CString::new(goal).map_err(|_| {
            FilesError::of_fault(outside, Fault::damaged("the link's target has a NUL in it"))
        })?;
        fs::symlinkat(&*goal, self.folder, self.name).map_err(|error| self.failed("make", error))
    }

    /// Another name of a file that was delivered below `root`, at the path `first`.
    pub(crate) fn make_again(self, root: &OwnedFd, first: &[u8]) -> Result<(), FilesError> {
        let first = first.strip_prefix(b"/").unwrap_or(first);
        let (above, first) = match first.iter().rposition(|byte| *byte == b'/') {
            Some(cut) => first.split_at(cut),
            None => (&b"."[..], first),
        };
        let first = OsStr::from_bytes(first.strip_prefix(b"/").unwrap_or(first));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        fs::openat2(root.as_fd(), OsStr::from_bytes(above), flags, Mode::empty(), within)
            .and_then(|from| fs::linkat(from, first, self.folder, self.name, AtFlags::empty()))
            .map_err(|error| self.failed("link", error))
    }

    /// A pipe or socket, or a device if that is trusted. `outside` is its path in the volume.
    pub(crate) fn make_special(
        self,
        of: &Attributes,
        is_trusted: bool,
        outside: &[u8],
    ) -> Result<(), FilesError> {
        let refused = |reason: &str| Err(FilesError::of_fault(outside, Fault::unsupported(reason)));
        let (kind, number) = match (of.kind, of.device) {
            (Kind::Pipe, _) => (FileType::Fifo, 0),
            (Kind::Socket, _) => (FileType::Socket, 0),
            (kind, _) if !is_trusted => {
                let words = kind.in_words();
                return refused(&format!("a {words} is delivered only with --trusted"));
            }
            (_, None) => return refused(NO_NUMBER),
            (Kind::BlockDevice, Some((major, minor))) => {
                (FileType::BlockDevice, fs::makedev(major, minor))
            }
            (_, Some((major, minor))) => (FileType::CharacterDevice, fs::makedev(major, minor)),
        };
        let private = Mode::from_raw_mode(0o600);
        fs::mknodat(self.folder, self.name, kind, private, number)
            .map_err(|error| self.failed("make", error))
    }
}
