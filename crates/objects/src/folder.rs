//! A store in a folder of a local or network file system.
//!
//! An object is a file; its key is the file's path below the folder.
//!
//! ```text
//!  put:  .tmp/<random> ─ write ─▶ fdatasync ─▶ rename, never replacing ─▶ fsync the directory
//! ```
//!
//! A directory that a put has to make is synced into the one above it before anything is put in it.
//!
//! Invariants: a file under an object's name is whole and durable, whatever was killed when;
//! bodies of 256 KiB and more go past the page cache, so that a backup does not evict what the
//! host needs; nothing outside the folder is touched: below it, symbolic links are not followed.
//! Names that are no [`Key`], `.tmp` among them, are not objects.
//!
//! This module owns the layout of files and their durability. It must not know what an object holds, and believes
//! nothing that others may have put into the folder.

mod read;
mod walk;
mod write;

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    ops::ControlFlow,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use strongroom_base::{AlignedBuf, ByteRange, Entropy, lock};

use self::write::How;
use crate::store::{Entry, Key, ObjectStore, Put, StoreError, check_len, check_prefix};

/// Bodies and reads of at least this many bytes go past the page cache.
const DIRECT_FROM: usize = 256 * 1024;

/// The directory of unfinished files. No key can start with it.
const TEMPORARY: &str = ".tmp";

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;

/// A store in a folder. See the module's head.
pub struct Folder {
    root: OwnedFd,
    path: PathBuf,
    entropy: Arc<dyn Entropy>,
    syncs: AtomicU64,
    open_files: Mutex<read::OpenFiles>,
    bounce: Mutex<Vec<AlignedBuf>>,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Folder {
    /// Opens an existing folder. One that is missing is a [`StoreError::Url`]: it is more often
    /// a disk that is not mounted than a wish for a new store.
    pub fn open(path: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Self {
                root,
                path: path.to_owned(),
                entropy,
                syncs: AtomicU64::new(0),
                open_files: Mutex::default(),
                bounce: Mutex::default(),
            }),
            Err(error) => Err(open_error(path, error.into())),
        }
    }

    /// Opens a folder and makes it, with its parents, if it is missing.
    pub fn create(path: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| open_error(path, error))?;
        // The new folder itself must outlive a power failure, like all that will be put in it.
        for parent in fs::canonicalize(path).unwrap_or_default().ancestors().skip(1) {
            // A parent that cannot be opened was not made here.
            let Ok(directory) = fs::File::open(parent) else { break };
            if directory.sync_all().is_err() {
                break;
            }
        }
        Self::open(path, entropy)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often this store has waited for the disk since it was opened.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Removes unfinished files that are older than a day by the file system's own clock, and
    /// says how many. They are what is left of writers that were killed.
    pub fn sweep_temporary(&self) -> Result<u64, StoreError> {
        self.sweep().map_err(|error| self.error("delete", TEMPORARY, error))
    }

    /// Opens what is at `path` below the folder, without following any symbolic link.
    fn open_beneath(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.root, path, flags, mode, resolve) {
            // Old kernels and containers lack the call; the last segment is still guarded.
            Err(Errno::NOSYS | Errno::PERM) => {
                Ok(rustix::fs::openat(&self.root, path, flags | OFlags::NOFOLLOW, mode)?)
            }
            other => Ok(other?),
        }
    }

    fn open_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    fn bounce(&self) -> MutexGuard<'_, Vec<AlignedBuf>> {
        lock(&self.bounce)
    }

    /// Runs `work` with a buffer of [`BOUNCE_LEN`] bytes; a few are kept for the next time.
    fn with_bounce<T>(&self, work: impl FnOnce(&mut AlignedBuf) -> T) -> T {
        let kept = self.bounce().pop();
        let mut buffer = kept.unwrap_or_else(|| AlignedBuf::zeroed(BOUNCE_LEN));
        let result = work(&mut buffer);
        let mut pool = self.bounce();
        if pool.len() < 4 {
            pool.push(buffer);
        }
        result
    }

    /// What to tell the caller when the system refuses.
    fn error(&self, action: &'static str, what: &str, error: io::Error) -> StoreError {
        let store = self.name();
        // What is no object, such as the folder of unfinished files, can only not be missing.
        match (error.kind(), Key::new(what)) {
            (ErrorKind::NotFound, Ok(key)) if self.is_still_there() => {
                StoreError::Missing { key, store }
            }
            _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                let reason = format!("{what} lies behind a symbolic link, which is not followed");
                StoreError::Protocol { store, reason }
            }
            _ => refused(store, action, what, error),
        }
    }

    /// Whether the folder itself has not been removed.
    fn is_still_there(&self) -> bool {
        rustix::fs::fstat(&self.root).is_ok_and(|stat| stat.st_nlink > 0)
    }
}

/// Bytes of a bounce buffer.
const BOUNCE_LEN: usize = 4 * 1024 * 1024;

fn open_error(path: &Path, error: io::Error) -> StoreError {
    let url = path.display().to_string();
    match error.kind() {
        ErrorKind::NotFound => StoreError::Url {
            url,
            reason: "the folder does not exist; is its disk mounted?".to_owned(),
        },
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            StoreError::Url { url, reason: "it is not a folder".to_owned() }
        }
        _ => refused(url, "open", "the folder", error),
    }
}

/// What the system's refusal means, whatever it was about.
fn refused(store: String, action: &'static str, what: &str, error: io::Error) -> StoreError {
    let what = what.to_owned();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::Full { what, store, source: error.into() }
        }
        ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { what, store, source: error.into() },
        ErrorKind::PermissionDenied => StoreError::Denied { what, store, source: error.into() },
        _ => StoreError::Unavailable { store, action, what, source: error.into() },
    }
}

/// The directory part of a path below the folder; empty for the folder itself.
fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl ObjectStore for Folder {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        check_len(key, body, &self.name())?;
        let put = self.put(key, body, How::New);
        put.map_err(|error| self.error("write", key.as_str(), error))
    }

    fn put_passing(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        if !self.is_of_this_machine() {
            return self.put_new(key, body);
        }
        check_len(key, body, &self.name())?;
        let put = self.put(key, body, How::Passing);
        put.map_err(|error| self.error("write", key.as_str(), error))
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        self.read(key, |have| {
            (have <= max_len).then_some(ByteRange::between(0, have)).ok_or(max_len)
        })
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.read(key, |have| (range.end() <= have).then_some(range).ok_or(range.end()))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        check_prefix(prefix, &self.name())?;
        let start = prefix.trim_end_matches('/');
        let walked = self.walk(start, visit);
        walked.map(|_| ()).map_err(|error| self.error("list", prefix, error))
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.forget_open_file(key);
        self.remove(key, true).map_err(|error| self.error("delete", key.as_str(), error))
    }

    fn delete_passing(&self, key: &Key) -> Result<(), StoreError> {
        self.forget_open_file(key);
        let removed = self.remove(key, !self.is_of_this_machine());
        removed.map_err(|error| self.error("delete", key.as_str(), error))
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), StoreError> {
        let mut keys: Vec<&Key> = keys.iter().collect();
        keys.sort_unstable();
        keys.iter().for_each(|key| self.forget_open_file(key));
        for keys in keys.chunk_by(|a, b| parent_of(a.as_str()) == parent_of(b.as_str())) {
            let Some(first) = keys.first().map(|key| key.as_str()) else { continue };
            self.remove_from(parent_of(first), keys, true)
                .map_err(|error| self.error("delete", first, error))?;
        }
        Ok(())
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        check_len(key, body, &self.name())?;
        self.forget_open_file(key);
        let put = self.put(key, body, How::Over);
        put.map(|_| ()).map_err(|error| self.error("write", key.as_str(), error))
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn sweep(&self) -> Result<u64, StoreError> {
        self.sweep_temporary()
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// Removes the temporary file of a put that failed.
struct Unfinished<'a> {
    folder: &'a Folder,
    path: String,
    published: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) =
                rustix::fs::unlinkat(&self.folder.root, &self.path, AtFlags::empty())
        {
            tracing::debug!(path = self.path, %error, "an unfinished file is left for the sweep");
        }
    }
}

#[cfg(test)]
mod tests;
