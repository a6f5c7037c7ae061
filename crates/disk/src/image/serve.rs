//! A child `qemu-nbd` that serves an image to us alone.
//!
//! It listens on a socket in a folder that only we can enter, ends with its last connection (so
//! it ends if we die), may use little memory, and inherits nothing of our environment. If we are killed
//! before the first connection, it waits for one and keeps the image locked; the next process that needs the
//! image ends it.

use std::{
    fs::{self, File, Permissions},
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Resource, Rlimit, prlimit},
};
use serde_json::Value;
use strongroom_base::{ByteRange, Clock as _, Environment, RangeSet, SECTOR_SIZE, SystemClock};
use tempfile::TempDir;

use super::chain;
use crate::{
    DiskError, DiskSource, Extent, ImageFormat, Layout, NbdUrl,
    nbd::{NbdDisk, NbdOptions},
    num::round_up,
    raw::{Access, RawFile},
    within::pinned,
};

/// The program.
const QEMU_NBD: &str = "qemu-nbd";

/// What a child says of an image that it can find and that QEMU does not take.
const REFUSED: &str = "Failed to blk_new_open";

/// What the names of folders begin with in which children have their sockets. Nobody else's may.
const FOLDER: &str = "strongroom-nbd-";

/// A child's socket, in its folder.
const SOCKET: &str = "nbd";

/// What a child says, in its folder.
const SAID: &str = "said";

/// The file in it that is locked as long as the child's parent lives.
const LOCK: &str = "lock";

/// The most memory a child may map, bytes. QEMU uses a tenth of it for sane images.
const MAX_MEMORY: u64 = 2 << 30;

/// The most that is shown of what a child says.
const MAX_SAID: u64 = 2000;

/// How long to wait for the end of the process that holds an image. When work is killed, the child that
/// served its image ends some moments later, and the next attempt must not fail because of it.
const RELEASE: Duration = Duration::from_secs(3);

/// How long until an image that is in use is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How long a child may take to listen.
const START: Duration = Duration::from_secs(20);

/// How long a child whose socket is there may take to answer.
const LISTEN: Duration = Duration::from_secs(5);

/// How long a child may take to write what it holds when its last connection has ended.
const END: Duration = Duration::from_mins(1);

/// How often a child is looked at.
const STEP: Duration = Duration::from_millis(2);

/// How an image is served.
pub(super) struct Service<'a> {
    /// The image, open: this is what is served.
    pub(super) file: &'a File,
    /// Where it is, which names in it are relative to.
    pub(super) path: &'a Path,
    pub(super) name: &'a str,
    pub(super) format: ImageFormat,
    pub(super) allowed: &'a [PathBuf],
    /// What a machine's definition says of it.
    pub(super) layout: Option<&'a Layout>,
    pub(super) even_if_in_use: bool,
    /// The dirty bitmap to serve as well.
    pub(super) bitmap: Option<&'a str>,
    pub(super) write: bool,
    pub(super) blank: bool,
    pub(super) timeout: Duration,
}

/// A served image. Its fields are dropped in this order: the connections, the child, its folder.
#[derive(Debug)]
pub(super) struct Served {
    disk: NbdDisk,
    _child: Running,
    /// The files that the child has opened, or opens again.
    _files: Vec<File>,
    _folder: Folder,
}

impl Served {
    /// The disk.
    pub(super) const fn disk(&self) -> &NbdDisk {
        &self.disk
    }

    /// Checks the image and starts a child that serves it.
    pub(super) fn start(service: &Service<'_>) -> Result<Self, DiskError> {
        let begun = SystemClock.monotonic();
        loop {
            match Self::attempt(service) {
                Err(DiskError::Busy { .. })
                    if SystemClock.monotonic().saturating_sub(begun) < RELEASE =>
                {
                    Folder::end_orphans();
                    SystemClock.sleep(RETRY);
                }
                done => return done,
            }
        }
    }

    fn attempt(service: &Service<'_>) -> Result<Self, DiskError> {
        let Service { path, name, format, .. } = *service;
        let Service { file, allowed, layout, .. } = *service;
        let chain = chain::inspect(file, path, name, format, allowed, layout)?;
        let tool =
            |reason: String| DiskError::Tool { tool: QEMU_NBD, disk: name.to_owned(), reason };
        let folder =
            Folder::new().map_err(|error| tool(format!("no folder for its socket: {error}")))?;
        let socket = folder.dir.path().join(SOCKET);
        let said = folder.dir.path().join(SAID);
        let child =
            spawn(service, &chain.node, &socket, &said).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => tool("it is not installed".to_owned()),
                _ => tool(error.to_string()),
            })?;
        let mut child = Running { child, patience: Duration::ZERO };
        let options = NbdOptions {
            name: name.to_owned(),
            format: format.to_string(),
            write: service.write,
            blank: service.blank,
            timeout: service.timeout,
            patience: STEP,
            connections: None,
        };
        let opened = match child.wait_for(&socket) {
            Ok(()) => {
                let dirty_bitmap = service.bitmap.map(str::to_owned);
                let url = NbdUrl { dirty_bitmap, ..NbdUrl::unix(&socket, "") };
                let start = SystemClock.monotonic();
                // The socket is there some moments before it is listened to, and before the image
                // is opened, which may fail.
                loop {
                    match NbdDisk::open(&url, options.clone()) {
                        Err(_)
                            if matches!(child.child.try_wait(), Ok(None))
                                && SystemClock.monotonic().saturating_sub(start) < LISTEN =>
                        {
                            SystemClock.sleep(STEP);
                        }
                        done => break done,
                    }
                }
            }
            Err(reason) => Err(tool(reason)),
        };
        let disk = opened.map_err(|error| {
            // A child that cannot open the image says why and ends; that tells more.
            match child.last_words(&said).map(|said| chain.with_names(said)) {
                Some(said) if said.contains("\" lock") => {
                    DiskError::Busy { disk: name.to_owned(), reason: said }
                }
                Some(reason) if reason.to_ascii_lowercase().contains("bitmap") => {
                    let bitmap = service.bitmap.unwrap_or_default().to_owned();
                    DiskError::Bitmap { disk: name.to_owned(), bitmap, reason }
                }
                Some(said) if said.contains(REFUSED) => DiskError::Format {
                    disk: name.to_owned(),
                    format: format.to_string(),
                    // What follows the node, which is long and was made by us.
                    reason: said.rsplit("': ").next().unwrap_or(&said).to_owned(),
                },
                Some(said) => tool(said),
                None => error,
            }
        })?;
        if let Some(size) = chain.size
            && round_up(size, SECTOR_SIZE) != round_up(disk.len(), SECTOR_SIZE)
        {
            return Err(DiskError::Format {
                disk: name.to_owned(),
                format: format.to_string(),
                reason: format!("its header says {size} bytes, QEMU says {}", disk.len()),
            });
        }
        if service.write {
            child.patience = END;
        }
        Ok(Self { disk, _child: child, _files: chain.files, _folder: folder })
    }
}

/// Whether the page cache can be passed by.
fn supports_direct(file: &File) -> bool {
    RawFile::open_file(&pinned(file), Access::Read, rustix::fs::OFlags::DIRECT).is_ok()
}

fn spawn(
    service: &Service<'_>,
    node: &Value,
    socket: &Path,
    said: &Path,
) -> std::io::Result<Child> {
    let mut node = node.clone();
    if let Some(map) = node.as_object_mut().filter(|_| service.even_if_in_use) {
        map.insert("force-share".to_owned(), Value::Bool(true));
    }
    let cache = if supports_direct(service.file) { "none" } else { "writeback" };
    let mut command = Command::new(QEMU_NBD);
    command
        .env_clear()
        .envs(Environment::given().path())
        .arg("--socket")
        .arg(socket)
        .args(["--shared=4", "--discard=unmap"])
        .arg(format!("--cache={cache}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(said)?);
    if !service.write {
        command.arg("--read-only");
    }
    if let Some(bitmap) = service.bitmap {
        command.arg(format!("--bitmap={bitmap}"));
    }
    let child = command.arg(format!("json:{node}")).spawn()?;
    let limit = Rlimit { current: Some(MAX_MEMORY), maximum: Some(MAX_MEMORY) };
    // A child that has ended already is found when it is waited for.
    prlimit(Some(Pid::from_child(&child)), Resource::As, limit).ok();
    Ok(child)
}

/// The folder of a child's socket, which is its owner's as long as that lives.
#[derive(Debug)]
struct Folder {
    dir: TempDir,
    /// Locked. The kernel unlocks it when we die.
    _lock: File,
}

impl Folder {
    fn new() -> std::io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(FOLDER)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(Environment::given().temporary_folder())?;
        let made = dir.path().join("new");
        let lock = File::create_new(&made)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        // Under its name it was never unlocked.
        fs::rename(made, dir.path().join(LOCK))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Ends the children of processes that have died: for those that never had a connection, the
    /// first is the last.
    fn end_orphans() {
        let found =
            fs::read_dir(Environment::given().temporary_folder()).into_iter().flatten().flatten();
        let ours = |entry: &fs::DirEntry| {
            entry.file_name().as_encoded_bytes().starts_with(FOLDER.as_bytes())
        };
        found.filter(ours).for_each(|entry| Self::end_orphan(&entry.path()));
    }

    /// The folder for temporary files is everybody's: what is not exactly what [`Self::new`] makes is not
    /// touched, and nothing is removed but what a child's folder has.
    fn end_orphan(folder: &Path) {
        let user = rustix::process::geteuid().as_raw();
        let is_made_here = folder.symlink_metadata().is_ok_and(|about| {
            about.is_dir() && about.uid() == user && about.mode() & 0o777 == 0o700
        });
        let known = |entry: std::io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| {
                [SOCKET, SAID, LOCK].iter().any(|name| entry.file_name() == *name)
            })
        };
        if !is_made_here || !fs::read_dir(folder).is_ok_and(|mut files| files.all(known)) {
            return;
        }
        let Ok(lock) = File::open(folder.join(LOCK)) else { return };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        tracing::info!(folder = %folder.display(), "a process has died and left a qemu-nbd");
        let options = NbdOptions {
            name: folder.display().to_string(),
            format: String::new(),
            write: false,
            blank: false,
            timeout: LISTEN,
            patience: Duration::ZERO,
            connections: None,
        };
        // It counts once both have agreed. One that has ended already refuses.
        drop(NbdDisk::open(&NbdUrl::unix(folder.join(SOCKET), ""), options));
        for name in [SOCKET, SAID, LOCK] {
            fs::remove_file(folder.join(name)).ok();
        }
        // Only if it is empty.
        fs::remove_dir(folder).ok();
    }
}

/// A child process that ends with this value.
#[derive(Debug)]
struct Running {
    child: Child,
    /// How long it may take to end by itself before it is killed.
    patience: Duration,
}

impl Running {
    /// Waits until the child listens.
    fn wait_for(&mut self, socket: &Path) -> Result<(), String> {
        let start = SystemClock.monotonic();
        while !socket.exists() {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return Err("it has ended".to_owned());
            }
            if SystemClock.monotonic().saturating_sub(start) > START {
                return Err("it does not start".to_owned());
            }
            SystemClock.sleep(STEP);
        }
        Ok(())
    }

    /// Waits for the child to end by itself; whether it has.
    fn ended_within(&mut self, patience: Duration) -> bool {
        let start = SystemClock.monotonic();
        while matches!(self.child.try_wait(), Ok(None)) {
            if SystemClock.monotonic().saturating_sub(start) > patience {
                return false;
            }
            SystemClock.sleep(STEP);
        }
        true
    }

    /// What the child has said, if it has ended.
    fn last_words(&mut self, said: &Path) -> Option<String> {
        if !self.ended_within(Duration::from_secs(1)) {
            return None;
        }
        let mut text = String::new();
        File::open(said).ok()?.take(MAX_SAID).read_to_string(&mut text).ok()?;
        let words = text.lines().map(|line| line.trim_start_matches("qemu-nbd: ").trim());
        let words = words.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        Some(if words.is_empty() { "it has ended without a word".to_owned() } else { words })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that writes ends after its last connection, when it has written what it holds.
        if !self.ended_within(self.patience) && !self.patience.is_zero() {
            tracing::warn!("qemu-nbd does not end and is killed");
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An image to read.
#[derive(Debug)]
pub(crate) struct ImageSource(Served);

impl ImageSource {
    /// Opens an image, which is at `path`.
    pub(crate) fn open(
        file: &File,
        path: &Path,
        name: &str,
        format: ImageFormat,
        options: &crate::OpenOptions,
    ) -> Result<Self, DiskError> {
        let service = Service {
            file,
            path,
            name,
            format,
            allowed: &options.allow_backing,
            layout: options.layout.as_ref(),
            even_if_in_use: options.even_if_in_use,
            bitmap: options.bitmap.as_deref(),
            write: false,
            blank: false,
            timeout: options.timeout,
        };
        Served::start(&service).map(Self)
    }
}

impl DiskSource for ImageSource {
    fn size(&self) -> u64 {
        DiskSource::size(self.0.disk())
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        DiskSource::extents(self.0.disk(), range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        DiskSource::read_at(self.0.disk(), offset, buf)
    }

    fn changed(&self) -> Option<&RangeSet> {
        self.0.disk().changed()
    }

    fn format(&self) -> &str {
        self.0.disk().format()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_left_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = |name: &str, mode: u32, files: &[&str]| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).expect("made");
            for file in files {
                fs::write(folder.join(file), "").expect("written");
            }
            fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("set");
            folder
        };
        let left = place("left", 0o700, &[SAID, LOCK]);
        // The data of a server that is off has such a file, too.
        let data = place("data", 0o700, &[LOCK, "catalog.sqlite"]);
        let open = place("open", 0o755, &[LOCK]);
        let unlocked = place("unlocked", 0o700, &[SAID]);
        let held = place("held", 0o700, &[LOCK]);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&held, &link).expect("linked");
        let lock = File::open(held.join(LOCK)).expect("there");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("locked");
        for folder in [&left, &data, &open, &unlocked, &held, &link] {
            Folder::end_orphan(folder);
        }
        assert!(!left.exists());
        assert!(data.join(LOCK).exists() && data.join("catalog.sqlite").exists());
        assert!(open.join(LOCK).exists() && unlocked.join(SAID).exists());
        assert!(held.join(LOCK).exists());
        drop(lock);
        Folder::end_orphan(&link);
        assert!(held.join(LOCK).exists(), "a link is no folder of ours");
        Folder::end_orphan(&held);
        assert!(!held.exists());
    }
}
