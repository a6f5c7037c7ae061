//! Writing objects: unfinished file, sync, publication, sync of the directories; and removal.

use std::{
    fs::File,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::atomic::Ordering,
};

use rustix::{
    fs::{Advice, AtFlags, OFlags, RawDir, RenameFlags},
    io::Errno,
};
use strongroom_base::{AlignedBuf, EntropyExt};

use super::{DIRECT_FROM, DIRECTORY_MODE, FILE_MODE, Folder, TEMPORARY, Unfinished, parent_of};
use crate::store::{Key, Put};

/// How an object is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Durably, unless there is one.
    New,
    /// Durably, in place of what is there.
    Over,
    /// Unless there is one; it may be lost when the machine stops.
    Passing,
}

/// An open directory.
struct Place {
    directory: OwnedFd,
    /// The directory that has its name, if that name may not be durable yet.
    unsettled: Option<OwnedFd>,
}

/// How often a put may find its directory removed by a delete in another thread.
const ATTEMPTS: usize = 20;

impl Folder {
    /// Writes an object.
    pub(super) fn put(&self, key: &Key, body: &[u8], how: How) -> io::Result<Put> {
        let parent = parent_of(key.as_str());
        let durable = how != How::Passing;
        if how != How::Over && self.exists(key)? {
            return self.say_exists(parent, durable);
        }
        // Made before the body is synced: a journal has both in one piece then, and the sync of the
        // directory's own name finds nothing left to do.
        let mut place = self.place(parent, durable);
        let mut unfinished = self.write_temporary(body, durable)?;
        let mut attempt = 1;
        loop {
            let published = place.and_then(|place| {
                self.settle(&place)?;
                let over = how == How::Over;
                let put = publish(&unfinished, &place.directory, key.file_name(), over)?;
                Ok((put, place.directory))
            });
            match published {
                Ok((Put::Created, directory)) => {
                    unfinished.published = true;
                    if durable {
                        self.sync_directory(&directory)?;
                    }
                    return Ok(Put::Created);
                }
                Ok((Put::Exists, _)) => return self.say_exists(parent, durable),
                // A delete took the empty directory away between the two steps.
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < ATTEMPTS => {
                    place = self.place(parent, durable);
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes sure that an object which somebody else has put is as durable as an own one.
    fn say_exists(&self, parent: &str, durable: bool) -> io::Result<Put> {
        if durable {
            match self.open_directory(parent) {
                // A delete has taken it away, and the object before it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => self.sync_directory(&other?)?,
            }
        }
        Ok(Put::Exists)
    }

    fn sync_directory(&self, directory: &OwnedFd) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(rustix::fs::fsync(directory)?)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync_data()
    }

    fn exists(&self, key: &Key) -> io::Result<bool> {
        let found = self.open_directory(parent_of(key.as_str())).and_then(|directory| {
            Ok(rustix::fs::statat(directory, key.file_name(), AtFlags::SYMLINK_NOFOLLOW)?)
        });
        match found {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write_temporary(&self, body: &[u8], durable: bool) -> io::Result<Unfinished<'_>> {
        let random = u128::from_le_bytes(self.entropy.array());
        let path = format!("{TEMPORARY}/{random:032x}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = match self.open_beneath(&path, flags, FILE_MODE) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.place(TEMPORARY, false)?;
                self.open_beneath(&path, flags, FILE_MODE)?
            }
            other => other?,
        };
        let unfinished = Unfinished { folder: self, path, published: false };
        let file = File::from(file);
        if body.len() >= DIRECT_FROM {
            self.write_past_the_cache(&file, body)?;
        } else {
            file.write_all_at(body, 0)?;
            if durable {
                self.sync_data(&file)?;
            }
        }
        Ok(unfinished)
    }

    fn write_past_the_cache(&self, file: &File, body: &[u8]) -> io::Result<()> {
        // Set after opening: an open with both O_CREAT and O_DIRECT that fails for lack of
        // O_DIRECT leaves the file behind.
        let direct = rustix::fs::fcntl_setfl(file, OFlags::DIRECT).is_ok();
        if direct {
            match self.write_direct(file, body) {
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    rustix::fs::fcntl_setfl(file, OFlags::empty())?;
                }
                other => return other,
            }
        }
        file.write_all_at(body, 0)?;
        self.sync_data(file)?;
        // Only advice: a file system may ignore it.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        Ok(())
    }

    fn write_direct(&self, file: &File, body: &[u8]) -> io::Result<()> {
        let tail_len = body.len() % AlignedBuf::ALIGNMENT;
        let (whole, tail) = body.split_at(body.len().saturating_sub(tail_len));
        if whole.as_ptr().align_offset(AlignedBuf::ALIGNMENT) == 0 {
            file.write_all_at(whole, 0)?;
        } else {
            self.with_bounce(|buffer| {
                let mut offset = 0;
                for chunk in whole.chunks(super::BOUNCE_LEN) {
                    let Some(bounce) = buffer.get_mut(..chunk.len()) else { break };
                    bounce.copy_from_slice(chunk);
                    file.write_all_at(bounce, offset)?;
                    offset = offset.saturating_add(length(chunk));
                }
                io::Result::Ok(())
            })?;
        }
        if !tail.is_empty() {
            let mut last = AlignedBuf::with_capacity(AlignedBuf::ALIGNMENT);
            let fits = last.append(tail);
            debug_assert!(fits, "a tail is shorter than a page");
            last.resize(AlignedBuf::ALIGNMENT);
            file.write_all_at(&last, length(whole))?;
            file.set_len(length(body))?;
        }
        self.sync_data(file)
    }

    /// Opens a directory below the folder, and makes it and its parents if they are missing.
    ///
    /// If it is to be `durable`, nothing is put in a directory, neither an object nor a directory,
    /// before the directory's own name is durable. So one that has something in it needs no sync of
    /// the directories above it, whichever process made it.
    fn place(&self, path: &str, durable: bool) -> io::Result<Place> {
        let directory = match self.open_directory(path) {
            Ok(directory) if path.is_empty() || !durable || !is_empty(&directory)? => {
                return Ok(Place { directory, unsettled: None });
            }
            Ok(directory) => Some(directory),
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_empty() => None,
            Err(error) => return Err(error),
        };
        let above = self.place(parent_of(path), durable)?;
        self.settle(&above)?;
        let directory = if let Some(directory) = directory {
            directory
        } else {
            let name = path.rsplit('/').next().unwrap_or(path);
            match rustix::fs::mkdirat(&above.directory, name, DIRECTORY_MODE) {
                Ok(()) | Err(Errno::EXIST) => self.open_directory(path)?,
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Place { directory, unsettled: durable.then_some(above.directory) })
    }

    /// Makes a directory's own name durable.
    fn settle(&self, place: &Place) -> io::Result<()> {
        place.unsettled.as_ref().map_or(Ok(()), |above| self.sync_directory(above))
    }

    /// Removes an object.
    pub(super) fn remove(&self, key: &Key, durable: bool) -> io::Result<()> {
        self.remove_from(parent_of(key.as_str()), &[key], durable)
    }

    /// Removes objects of one directory.
    pub(super) fn remove_from(
        &self,
        mut path: &str,
        keys: &[&Key],
        durable: bool,
    ) -> io::Result<()> {
        let removed = self.open_directory(path).and_then(|directory| {
            let mut any = false;
            for key in keys {
                match rustix::fs::unlinkat(&directory, key.file_name(), AtFlags::empty()) {
                    Ok(()) => any = true,
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if durable && any { self.sync_directory(&directory) } else { Ok(()) }
        });
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_still_there() => {
                return Ok(());
            }
            other => other?,
        }
        // Directories that became empty would slow every list down for ever.
        while !path.is_empty() {
            let Ok(parent) = self.open_directory(parent_of(path)) else { break };
            let name = path.rsplit('/').next().unwrap_or(path);
            if rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            path = parent_of(path);
        }
        Ok(())
    }

    /// Whether all who write here are processes of this machine, so that they end when it stops: the
    /// file system is of a kind that only one machine at a time can have mounted.
    pub(super) fn is_of_this_machine(&self) -> bool {
        const KINDS: [u32; 8] = [
            0xef53,      // ext2, ext3, ext4
            0x5846_5342, // XFS
            0x9123_683e, // btrfs
            0x2fc1_2fc1, // ZFS
            0xf2f5_2010, // F2FS
            0xca45_1a4e, // bcachefs
            0x0102_1994, // tmpfs
            0x794c_7630, // overlayfs
        ];
        let kind = rustix::fs::fstatfs(&self.root).ok().map(|about| about.f_type);
        kind.and_then(|kind| u32::try_from(kind).ok()).is_some_and(|kind| KINDS.contains(&kind))
    }
}

/// Whether a directory that was just opened has nothing in it.
fn is_empty(directory: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

fn publish(
    unfinished: &Unfinished<'_>,
    directory: &OwnedFd,
    name: &str,
    over: bool,
) -> io::Result<Put> {
    let root = &unfinished.folder.root;
    let flags = if over { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match rustix::fs::renameat_with(root, &unfinished.path, directory, name, flags) {
        Ok(()) => return Ok(Put::Created),
        Err(Errno::EXIST) => return Ok(Put::Exists),
        // Network file systems know no rename that never replaces; a hard link never does.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !over => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::linkat(root, &unfinished.path, directory, name, AtFlags::empty()) {
        Ok(()) => {
            rustix::fs::unlinkat(root, &unfinished.path, AtFlags::empty())?;
            Ok(Put::Created)
        }
        Err(Errno::EXIST) => Ok(Put::Exists),
        Err(error) => Err(error.into()),
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
