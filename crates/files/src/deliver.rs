//! Files out of a volume into a folder of this machine.
//!
//! Every name comes from a stranger. A file is made by its name in a folder that is open, never by a path; nothing
//! is followed and nothing that exists is overwritten. What could not be delivered is listed, with its reason: a file
//! that cannot be read whole is removed again, never left short.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::fs::{self, AtFlags, Mode, Timespec, Timestamps};
use strongroom_base::{Cancel, Coded as _};

use crate::{
    error::{FilesError, shown},
    source::length,
    target::{Target, ended, open_root},
    tree::{Attributes, Entry, Fault, Kind, Piece, Time, Xattr},
    walk::{Files, Located, child},
    wire::READ_MAX,
};

/// How deep folders may lie in each other.
pub(crate) const DEPTH_MAX: usize = 400;
/// Most problems that are listed; all are counted.
const PROBLEMS_MAX: usize = 10_000;
/// Zeros of this length are left out of files.
const HOLE: usize = 4096;
/// The longest name of a file on this machine.
pub(crate) const NAME_MAX: usize = 255;
/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// What is said of files of which only the log knows who owns them.
pub(crate) const NO_OWNER: &str = "its owner and times are not known";
/// What is said of such devices.
pub(crate) const NO_NUMBER: &str = "the number of the device is not known";

/// What is delivered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Also what gives power over this machine: devices, set-user-id and set-group-id bits, attributes of security.
    pub trusted: bool,
}

/// What could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path in the volume.
    pub path: Vec<u8>,
    /// The name of an error code; none of a part of a file that is there otherwise.
    pub code: Option<&'static str>,
    /// What and why.
    pub reason: String,
}

/// What was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Regular files, each name of a hard link counted.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub links: u64,
    /// Pipes, sockets and devices.
    pub others: u64,
    /// Bytes of files, holes among them.
    pub bytes: u64,
    /// What could not be delivered, the first of them.
    pub problems: Vec<Problem>,
    /// How many could not be delivered, or only in part.
    pub problem_count: u64,
}

/// Delivers a file, or a folder with all that is in it, into a folder: under its own name, or, of the uppermost
/// folder, what is in it. Errors that concern one file are listed; only what stops everything is returned.
pub fn deliver(
    files: &mut Files<'_>,
    what: &Located,
    to: &Path,
    options: Options,
    cancel: &Cancel,
) -> Result<Delivered, FilesError> {
    let root = open_root(to)?;
    let mut work = Work {
        files,
        root: &root,
        to,
        cancel,
        dresser: Dresser::new(options),
        linked: HashMap::new(),
        entered: HashSet::new(),
        buf: vec![0; READ_MAX],
    };
    let made = if let Some(name) = what.name() {
        let attributes = Ok(what.attributes.clone());
        let entry = Entry { name: name.to_vec(), node: what.node, attributes };
        let outside = what.path.get(..what.path.len().saturating_sub(name.len()));
        let outside = outside.unwrap_or(b"/");
        work.entry(Place { folder: root.as_fd(), outside, inside: b"" }, &entry, 0)
    } else {
        let place = Place { folder: root.as_fd(), outside: b"/", inside: b"" };
        work.content(place, what.node, 0)
    };
    ended(made, work.dresser.done)
}

/// A folder that is open here.
#[derive(Clone, Copy)]
struct Place<'a> {
    folder: BorrowedFd<'a>,
    /// Its path in the volume.
    outside: &'a [u8],
    /// Its path under the folder that is delivered to.
    inside: &'a [u8],
}

/// Gives files what they have besides their bytes, as far as they may have it here, and counts.
pub(crate) struct Dresser {
    pub(crate) options: Options,
    pub(crate) done: Delivered,
}

struct Work<'a, 'b> {
    files: &'a mut Files<'b>,
    root: &'a OwnedFd,
    /// Its path, for errors.
    to: &'a Path,
    cancel: &'a Cancel,
    dresser: Dresser,
    /// Where files with several names were delivered, by node.
    linked: HashMap<u64, Vec<u8>>,
    /// Folders that were entered: none has two places.
    entered: HashSet<u64>,
    buf: Vec<u8>,
}

/// Why a name cannot be one of this machine's; none if it can.
pub(crate) fn why_no_name(name: &[u8], most: usize) -> Option<&'static str> {
    match name {
        b"" | b"." | b".." => Some("its name is no name"),
        _ if name.contains(&b'/') || name.contains(&0) => Some("its name has a / or NUL in it"),
        _ if name.len() > most => Some("its name is longer than 255 bytes"),
        _ => None,
    }
}

/// Whether nothing more can be done: the process is gone, or the disk of this machine is full.
pub(crate) fn is_final(error: &FilesError) -> bool {
    match error {
        FilesError::Cancelled => true,
        FilesError::Target { source, .. } => matches!(
            source.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
        ),
        _ => false,
    }
}

impl Work<'_, '_> {
    /// All entries of a folder of the volume.
    fn content(&mut self, place: Place<'_>, node: u64, depth: usize) -> Result<(), FilesError> {
        if !self.entered.insert(node) {
            let fault = Fault::damaged("the folder has two places, or is in itself");
            return Err(FilesError::of_fault(place.outside, fault));
        }
        let entries = self.files.reader().list(place.outside, node)?;
        for entry in entries {
            self.entry(place, &entry, depth)?;
        }
        Ok(())
    }

    /// An entry, with all that is in it. Errors that concern it alone are listed.
    fn entry(&mut self, place: Place<'_>, entry: &Entry, depth: usize) -> Result<(), FilesError> {
        if self.cancel.is_cancelled() {
            return Err(FilesError::Cancelled);
        }
        let path = child(place.outside, &entry.name);
        let made = match (why_no_name(&entry.name, NAME_MAX), &entry.attributes) {
            (Some(reason), _) => Err(FilesError::of_fault(&path, Fault::unsupported(reason))),
            (None, Err(fault)) => Err(FilesError::of_fault(&path, fault.clone())),
            (None, Ok(_)) if depth > DEPTH_MAX => {
                let fault = Fault::unsupported("it lies too deep");
                Err(FilesError::of_fault(&path, fault))
            }
            (None, Ok(attributes)) => self.make(place, entry, attributes, &path, depth),
        };
        match made {
            Err(error) if is_final(&error) || self.files.reader().is_broken() => Err(error),
            Err(error) => {
                self.dresser.refused(&path, &error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn make(
        &mut self,
        place: Place<'_>,
        entry: &Entry,
        attributes: &Attributes,
        path: &[u8],
        depth: usize,
    ) -> Result<(), FilesError> {
        let inside = child(place.inside, &entry.name);
        let name = OsStr::from_bytes(&entry.name);
        let target = Target { to: self.to, inside: &inside, folder: place.folder, name };
        match attributes.kind {
            Kind::Folder => {
                let folder = target.make_folder()?;
                let within = Place { folder: folder.as_fd(), outside: path, inside: &inside };
                let filled = self.content(within, entry.node, depth.saturating_add(1));
                self.dresser.done.folders = self.dresser.done.folders.saturating_add(1);
                // Its times last: files that are made in it change them.
                self.dress(folder.as_fd(), attributes, entry.node, path)?;
                filled
            }
            Kind::File => {
                let again = attributes.may_be_linked();
                if again && let Some(first) = self.linked.get(&entry.node) {
                    target.make_again(self.root, first)?;
                    self.dresser.done.files = self.dresser.done.files.saturating_add(1);
                    self.dresser.say_if_no_owner(attributes, path);
                    return Ok(());
                }
                let (node, size) = (entry.node, attributes.size);
                let file =
                    target.make_file(size, |file| self.fill(file, node, size, path, target))?;
                self.dresser.done.files = self.dresser.done.files.saturating_add(1);
                self.dresser.done.bytes = self.dresser.done.bytes.saturating_add(size);
                self.dress(file.as_fd(), attributes, node, path)?;
                if again {
                    self.linked.insert(entry.node, inside);
                }
                Ok(())
            }
            Kind::Link => {
                let goal = self.files.reader().target(path, entry.node)?;
                target.make_link(goal, path)?;
                self.dresser.done.links = self.dresser.done.links.saturating_add(1);
                self.dresser.dress_by_name(target, attributes, path);
                Ok(())
            }
            Kind::Pipe | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => {
                target.make_special(attributes, self.dresser.options.trusted, path)?;
                self.dresser.done.others = self.dresser.done.others.saturating_add(1);
                self.dresser.dress_by_name(target, attributes, path);
                Ok(())
            }
            Kind::Subvolume => {
                let fault = Fault::unsupported("another file system begins here");
                Err(FilesError::of_fault(path, fault))
            }
        }
    }

    /// Writes the bytes of a file, all of them.
    fn fill(
        &mut self,
        file: &OwnedFd,
        node: u64,
        size: u64,
        path: &[u8],
        target: Target<'_>,
    ) -> Result<(), FilesError> {
        let mut at = 0;
        while at < size {
            if self.cancel.is_cancelled() {
                return Err(FilesError::Cancelled);
            }
            let wanted = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
            let wanted = wanted.min(self.buf.len());
            let buf = self.buf.get_mut(..wanted).unwrap_or_default();
            let done = match self.files.reader().read(path, node, at, buf)? {
                Piece::Data(len) => {
                    let data = buf.get(..len).unwrap_or_default();
                    let (written, len) = (write_sparse(file, at, data), length(data));
                    written.map_err(|error| target.failed("write", error))?;
                    len
                }
                Piece::Hole(len) => len.min(size.saturating_sub(at)),
            };
            if done == 0 {
                let fault = Fault::damaged("fewer bytes than the file's size could be read");
                return Err(FilesError::of_fault(path, fault));
            }
            at = at.saturating_add(done);
        }
        Ok(())
    }

    /// Gives a file or folder what it has besides its bytes.
    fn dress(
        &mut self,
        file: BorrowedFd<'_>,
        attributes: &Attributes,
        node: u64,
        path: &[u8],
    ) -> Result<(), FilesError> {
        let xattrs = match self.files.reader().xattrs(path, node) {
            Err(error) if is_final(&error) => return Err(error),
            xattrs => xattrs,
        };
        let xattrs = xattrs.as_deref();
        let xattrs = xattrs.map_err(|it| format!("its extended attributes: {}", it.with_causes()));
        self.dresser.dress(file, attributes, xattrs, path);
        Ok(())
    }
}

impl Dresser {
    /// Nothing is delivered yet.
    pub(crate) fn new(options: Options) -> Self {
        Self { options, done: Delivered::default() }
    }

    /// Lists what is not delivered.
    pub(crate) fn problem(
        &mut self,
        path: &[u8],
        code: Option<&'static str>,
        reason: impl Into<String>,
    ) {
        self.done.problem_count = self.done.problem_count.saturating_add(1);
        if self.done.problems.len() < PROBLEMS_MAX {
            let reason = reason.into();
            self.done.problems.push(Problem { path: path.to_vec(), code, reason });
        }
    }

    /// Lists something that is not delivered because of an error.
    pub(crate) fn refused(&mut self, path: &[u8], error: &FilesError) {
        let text = error.with_causes();
        let text = text.strip_prefix(&format!("{}: ", shown(path))).unwrap_or(&text);
        self.problem(path, Some(error.code().name), text);
    }

    /// Gives something that is not opened what it has besides its content: owner and times, and the mode of what is no link.
    pub(crate) fn dress_by_name(&mut self, target: Target<'_>, of: &Attributes, path: &[u8]) {
        self.say_if_no_owner(of, path);
        self.owner_by_name(target.folder, target.name, of, path);
        if of.kind != Kind::Link {
            let mode = Mode::from_raw_mode(of.mode.unwrap_or(0o600) & 0o777);
            if let Err(error) = fs::chmodat(target.folder, target.name, mode, AtFlags::empty()) {
                self.problem(path, None, format!("its mode: {error}"));
            }
        }
        self.times_by_name(target.folder, target.name, of, path);
    }

    fn say_if_no_owner(&mut self, of: &Attributes, path: &[u8]) {
        if of.lacks_owner() {
            self.problem(path, None, NO_OWNER);
        }
    }

    fn owner_by_name(&mut self, at: BorrowedFd<'_>, name: &OsStr, of: &Attributes, path: &[u8]) {
        if let Some((uid, gid)) = owner(of) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            if let Err(error) = fs::chownat(at, name, Some(uid), Some(gid), flags) {
                self.problem(path, None, format!("its owner: {error}"));
            }
        }
    }

    fn times_by_name(&mut self, at: BorrowedFd<'_>, name: &OsStr, of: &Attributes, path: &[u8]) {
        if let Some(times) = times(of)
            && let Err(error) = fs::utimensat(at, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        {
            self.problem(path, None, format!("its times: {error}"));
        }
    }

    /// Gives a file or folder its owner, attributes, mode and times.
    pub(crate) fn dress(
        &mut self,
        file: BorrowedFd<'_>,
        attributes: &Attributes,
        xattrs: Result<&[Xattr], String>,
        path: &[u8],
    ) {
        self.say_if_no_owner(attributes, path);
        let mut is_owned = true;
        if let Some((uid, gid)) = owner(attributes)
            && let Err(error) = fs::fchown(file, Some(uid), Some(gid))
        {
            is_owned = false;
            self.problem(path, None, format!("its owner: {error}"));
        }
        match xattrs {
            Ok(xattrs) => self.xattrs(file, xattrs, path),
            Err(reason) => self.problem(path, None, reason),
        }
        if let Some(mode) = attributes.mode {
            // Such a file must not lend the rights of an owner of this machine to a stranger's program.
            let keeps = is_owned && self.options.trusted || attributes.kind == Kind::Folder;
            let kept = if keeps { mode } else { mode & !SET_ID };
            if kept != mode {
                self.problem(
                    path,
                    None,
                    "its set-user-id or set-group-id bit: only with --trusted",
                );
            }
            if let Err(error) = fs::fchmod(file, Mode::from_raw_mode(kept)) {
                self.problem(path, None, format!("its mode: {error}"));
            }
        } else {
            let usual = if attributes.kind == Kind::Folder { 0o755 } else { 0o644 };
            if let Err(error) = fs::fchmod(file, Mode::from_raw_mode(usual)) {
                self.problem(path, None, format!("its mode: {error}"));
            }
        }
        if let Some(times) = times(attributes)
            && let Err(error) = fs::futimens(file, &times)
        {
            self.problem(path, None, format!("its times: {error}"));
        }
    }

    fn xattrs(&mut self, file: BorrowedFd<'_>, xattrs: &[Xattr], path: &[u8]) {
        for (name, value) in xattrs {
            // How btrfs stores a file (compressed, for example) is a matter of the place that it goes to.
            if name.starts_with(b"btrfs.") {
                continue;
            }
            let is_plain = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
            if !is_plain && !self.options.trusted {
                self.problem(path, None, format!("{}: only with --trusted", shown(name)));
                continue;
            }
            let set = CString::new(name.as_slice())
                .map_err(|_| rustix::io::Errno::INVAL)
                .and_then(|name| fs::fsetxattr(file, &*name, value, fs::XattrFlags::empty()));
            if let Err(error) = set {
                self.problem(path, None, format!("its attribute {}: {error}", shown(name)));
            }
        }
    }
}

fn owner(of: &Attributes) -> Option<(fs::Uid, fs::Gid)> {
    // The highest number means "do not change" to the kernel.
    let (uid, gid) = (of.uid.filter(|id| *id != u32::MAX)?, of.gid.filter(|id| *id != u32::MAX)?);
    Some((fs::Uid::from_raw(uid), fs::Gid::from_raw(gid)))
}

fn times(of: &Attributes) -> Option<Timestamps> {
    let spec = |time: Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds.min(999_999_999)),
    };
    let modified = of.modified?;
    let accessed = of.accessed.unwrap_or(modified);
    Some(Timestamps { last_access: spec(accessed), last_modification: spec(modified) })
}

/// Writes what is not zero. The file has its size already, and reads as zeros.
pub(crate) fn write_sparse(file: &OwnedFd, offset: u64, data: &[u8]) -> rustix::io::Result<()> {
    let mut at = offset;
    let mut pending: Option<(u64, usize, usize)> = None;
    let mut start = 0;
    for block in data.chunks(HOLE) {
        let end = start + block.len();
        let is_zero = block.iter().all(|byte| *byte == 0);
        pending = match (pending, is_zero) {
            (None, true) => None,
            (None, false) => Some((at, start, end)),
            (Some((from, first, _)), false) => Some((from, first, end)),
            (Some((from, first, last)), true) => {
                write_all(file, from, data.get(first..last).unwrap_or_default())?;
                None
            }
        };
        at = at.saturating_add(length(block));
        start = end;
    }
    if let Some((from, first, last)) = pending {
        write_all(file, from, data.get(first..last).unwrap_or_default())?;
    }
    Ok(())
}

fn write_all(file: &OwnedFd, mut at: u64, mut data: &[u8]) -> rustix::io::Result<()> {
    while !data.is_empty() {
        let written = rustix::io::pwrite(file, data, at)?;
        let (done, rest) = data.split_at(written.min(data.len()));
        at = at.saturating_add(length(done));
        data = rest;
    }
    Ok(())
}
