//! Writing objects: unfinished file, sync, publication, sync of the directories; and removal.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use rustix::{
    fs::{Advice, AtFlags, OFlags, RenameFlags, StatxFlags},
    io::Errno,
};
use strongroom_base::{AlignedBuf, EntropyExt};

use super::{DIRECT_FROM, DIRECTORY_MODE, FILE_MODE, Folder, TEMPORARY, Unfinished, parent_of};
use crate::store::{Key, Put};

/// Directories whose own names, up to the store's folder, this process has synced. One that another
/// process has removed and made again has to be synced anew.
pub(super) type DurableDirectories = HashMap<String, Birth>;

/// What tells a directory from all others that have had its path: inode numbers are used again, so
/// the moment when it was made counts, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    device: (u32, u32),
    inode: u64,
    time: (i64, u32),
}

impl Birth {
    /// None where that cannot be told for certain: the file system does not know when it was made, or
    /// that was just now, so that another one of the same moment might follow.
    fn of(directory: &OwnedFd) -> io::Result<Option<Self>> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::MTIME;
        let stat = match rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, wanted) {
            Ok(stat) => stat,
            Err(Errno::NOSYS | Errno::PERM) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (made, changed) = (stat.stx_btime, stat.stx_mtime);
        let settled = changed.tv_sec > made.tv_sec.saturating_add(1);
        if !settled || stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            time: (made.tv_sec, made.tv_nsec),
        }))
    }
}

/// More directories than a vault has; the limit only bounds memory.
const DURABLE_MAX: usize = 100_000;

/// How often a put may find its directory removed by a delete in another thread.
const ATTEMPTS: usize = 20;

impl Folder {
    /// Writes an object; `over` replaces what is there.
    pub(super) fn put(&self, key: &Key, body: &[u8], over: bool) -> io::Result<Put> {
        let parent = parent_of(key.as_str());
        if !over && self.exists(key)? {
            self.sync_directories(parent)?;
            return Ok(Put::Exists);
        }
        let mut unfinished = self.write_temporary(body)?;
        for attempt in 1.. {
            let published = self
                .make_directories(parent)
                .and_then(|directory| publish(&unfinished, &directory, key.file_name(), over));
            match published {
                Ok(Put::Created) => {
                    unfinished.published = true;
                    break;
                }
                Ok(Put::Exists) => {
                    self.sync_directories(parent)?;
                    return Ok(Put::Exists);
                }
                // A delete took the empty directory away between the two steps.
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
        self.sync_directories(parent)?;
        Ok(Put::Created)
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

    pub(super) fn write_temporary(&self, body: &[u8]) -> io::Result<Unfinished<'_>> {
        let random = u128::from_le_bytes(self.entropy.array());
        let path = format!("{TEMPORARY}/{random:032x}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = match self.open_beneath(&path, flags, FILE_MODE) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_directories(TEMPORARY)?;
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
            file.sync_data()?;
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
        file.sync_data()?;
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
        file.sync_data()
    }

    /// Opens a directory below the folder, and makes it and its parents if they are missing.
    fn make_directories(&self, path: &str) -> io::Result<OwnedFd> {
        match self.open_directory(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_empty() => {}
            other => return other,
        }
        let parent = self.make_directories(parent_of(path))?;
        let name = path.rsplit('/').next().unwrap_or(path);
        match rustix::fs::mkdirat(&parent, name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => self.open_directory(path),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the names in a directory durable, and its own name in its parents.
    fn sync_directories(&self, path: &str) -> io::Result<()> {
        let directory = match self.open_directory(path) {
            // A delete has taken it away, and the object before it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let birth = Birth::of(&directory)?;
        rustix::fs::fsync(&directory)?;
        let is_known = birth.is_some() && self.durable().get(path) == birth.as_ref();
        if path.is_empty() || is_known {
            return Ok(());
        }
        self.sync_directories(parent_of(path))?;
        if let Some(birth) = birth {
            let mut durable = self.durable();
            if durable.len() >= DURABLE_MAX {
                durable.clear();
            }
            durable.insert(path.to_owned(), birth);
        }
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, DurableDirectories> {
        self.durable.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn remove(&self, key: &Key) -> io::Result<()> {
        let mut path = parent_of(key.as_str());
        let removed = self.open_directory(path).and_then(|directory| {
            rustix::fs::unlinkat(&directory, key.file_name(), AtFlags::empty())?;
            Ok(rustix::fs::fsync(&directory)?)
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
            self.durable().remove(path);
            path = parent_of(path);
        }
        Ok(())
    }
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
