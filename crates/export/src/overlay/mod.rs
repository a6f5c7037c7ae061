//! A disk of a recovery point that can be written: what is written goes to two local files, and the vault is only read.
//!
//! ```text
//!  write ─▶ NAME.data, at the place that it has on the disk ─▶ map in memory: these clusters are ours
//!  flush ─▶ sync NAME.data ─▶ append a batch to NAME.map: these clusters are ours ─▶ sync NAME.map ─▶ answered
//!  read  ─▶ map: ours? NAME.data : zeros? : the point
//! ```
//!
//! Invariants: NAME.map says that a cluster is in NAME.data only after its bytes are on stable storage; a cluster
//! that NAME.map has stays ours for ever. So after a loss of power a cluster holds what it held at the last flush that was
//! answered, or what was written since: what a disk promises. A cluster of which only a part is written is filled up from
//! the point before it becomes ours.
//!
//! After a sync that failed nobody knows what of the writes before is on the disk (Linux drops the pages and says so
//! once): the overlay then refuses every write and flush, until it is opened again and has what its map says.

mod file;
mod format;
mod map;

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with},
    io::Errno,
};
use strongroom_base::{
    ByteRange, Code, Coded, Entropy, EntropyExt as _, Params, codes, lock, params,
};
use strongroom_disk::{DiskSource, ExtentKind};
use strongroom_nbd::server::{Allocation, Exported};

use self::{
    file::Bytes,
    format::{
        BadHeader, CLUSTER, RUNS_MAX, SECTOR, decode_batch, decode_header, encode_batch,
        encode_header,
    },
    map::{Map, Run, State},
};

pub use format::OverlayOf;

/// Runs of one answer of [`Exported::allocation`].
const RUNS_AT_ONCE: usize = 1024;
/// Zeros that are written at once where they must take room.
const ZEROS: usize = 1 << 20;

/// Why an overlay cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// Its files cannot be used.
    #[error("cannot {action} {}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The verb.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// It is of another point or disk.
    #[error("{} holds what was written to recovery point {point}, disk {disk}", path.display())]
    Other {
        /// The map file.
        path: PathBuf,
        /// The point that it is of.
        point: strongroom_base::PointId,
        /// The disk that it is of.
        disk: String,
    },
    /// Another process uses it.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The map file.
        path: PathBuf,
    },
    /// Its files are damaged.
    #[error("the overlay {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that is known.
        reason: String,
    },
}

impl Coded for OverlayError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Local { .. } => &codes::LOCAL_IO,
            Self::Other { .. } => &codes::EXPORT_OVERLAY_OTHER,
            Self::InUse { .. } => &codes::EXPORT_OVERLAY_IN_USE,
            Self::Damaged { .. } => &codes::EXPORT_OVERLAY_DAMAGED,
        }
    }

    fn params(&self) -> Params {
        match self {
            Self::Local { path, action, source: _ } => params!(LOCAL_IO: path, action),
            Self::Other { path, point, disk } => params!(EXPORT_OVERLAY_OTHER: path, point, disk),
            Self::InUse { path } => params!(EXPORT_OVERLAY_IN_USE: path),
            Self::Damaged { path, reason } => params!(EXPORT_OVERLAY_DAMAGED: path, reason),
        }
    }
}

/// See the [module](self).
pub struct Overlay {
    base: Arc<dyn DiskSource>,
    size: u64,
    data: Box<dyn Bytes>,
    map: Mutex<Map>,
    log: Mutex<Log>,
    /// Whole clusters are written beside each other; what fills up clusters or clears them is alone.
    gate: RwLock<()>,
    /// Writes that are in the files, synced or not.
    written: AtomicU64,
    broken: AtomicBool,
    /// Bytes of an unfinished batch that were dropped when it was opened.
    dropped: u64,
}

/// The map file.
struct Log {
    file: Box<dyn Bytes>,
    id: [u8; 16],
    sequence: u64,
    end: u64,
    /// Up to which write everything is on stable storage.
    synced: u64,
}

impl Overlay {
    /// Opens the overlay of a disk in a folder, or makes one. `base` is the disk as the point has it.
    ///
    /// # Errors
    ///
    /// If there is one of another point or disk, one that is in use, or one that is damaged.
    pub fn open(
        folder: &Path,
        of: &OverlayOf,
        base: Arc<dyn DiskSource>,
        entropy: &dyn Entropy,
    ) -> Result<Self, OverlayError> {
        let map_path = folder.join(format!("{}.map", of.disk));
        let data_path = folder.join(format!("{}.data", of.disk));
        let local = |path: &Path, action| {
            let path = path.to_owned();
            move |source| OverlayError::Local { path, action, source }
        };
        std::fs::create_dir_all(folder).map_err(local(folder, "make"))?;
        let is_new = !map_path.try_exists().map_err(local(&map_path, "find"))?;
        let options = |create: bool| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(create).mode(0o600);
            options
        };
        let data = options(is_new).open(&data_path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                OverlayError::Damaged { path: data_path.clone(), reason: "it is gone".to_owned() }
            }
            _ => local(&data_path, "open")(source),
        })?;
        let blocks = data.metadata().map_err(local(&data_path, "read"))?.blocks();
        if is_new && blocks > 0 {
            let reason = format!("it has data, but {} is gone", map_path.display());
            return Err(OverlayError::Damaged { path: data_path, reason });
        }
        if is_new {
            let len = of.size.div_ceil(CLUSTER).saturating_mul(CLUSTER);
            data.set_len(len).and_then(|()| data.sync_all()).map_err(local(&data_path, "make"))?;
            make_map(folder, &map_path, entropy.array(), of).map_err(local(&map_path, "make"))?;
        }
        let map = options(false).open(&map_path).map_err(local(&map_path, "open"))?;
        flock(&map, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| OverlayError::InUse { path: map_path.clone() })?;
        Self::from_files(Box::new(map), Box::new(data), of, base, &map_path)
    }

    fn from_files(
        map: Box<dyn Bytes>,
        data: Box<dyn Bytes>,
        of: &OverlayOf,
        base: Arc<dyn DiskSource>,
        path: &Path,
    ) -> Result<Self, OverlayError> {
        let local =
            |action| move |source| OverlayError::Local { path: path.to_owned(), action, source };
        let damaged = |reason: &str| OverlayError::Damaged {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let len = map.len().map_err(local("read"))?;
        let len = usize::try_from(len).map_err(|_| damaged("it is too long"))?;
        let mut bytes = vec![0; len];
        map.read_at(0, &mut bytes).map_err(local("read"))?;
        let (id, found) = decode_header(&bytes).map_err(|bad| match bad {
            BadHeader::Damaged => damaged("it does not begin as a map does"),
            BadHeader::Version(version) => {
                damaged(&format!("it has version {version}; this program knows version 1"))
            }
        })?;
        if found != *of {
            let OverlayOf { point, disk, .. } = found;
            return Err(OverlayError::Other { path: path.to_owned(), point, disk });
        }
        let clusters = of.size.div_ceil(CLUSTER);
        let (states, sequence, end) = replay(&bytes, &id, clusters)
            .ok_or_else(|| damaged("a batch is damaged, and whole ones follow it"))?;
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        let dropped = u64::try_from(len).unwrap_or(u64::MAX).saturating_sub(end);
        if dropped > 0 {
            map.set_len(end).and_then(|()| map.sync()).map_err(local("write"))?;
        }
        if data.len().map_err(local("read"))? < clusters.saturating_mul(CLUSTER) {
            return Err(damaged("its data file is shorter than the disk"));
        }
        Ok(Self {
            base,
            size: of.size,
            data,
            map: Mutex::new(states),
            log: Mutex::new(Log { file: map, id, sequence, end, synced: 0 }),
            gate: RwLock::default(),
            written: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            dropped,
        })
    }

    /// Bytes of an unfinished batch that were dropped when the overlay was opened: those of a flush that was not
    /// answered.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped
    }

    /// Bytes of the disk that are not as the point has them, at most.
    pub fn own_bytes(&self) -> u64 {
        let own: u64 = lock(&self.map).all().iter().map(|run| run.count).sum();
        own.saturating_mul(CLUSTER).min(self.size)
    }

    /// The clusters that share a byte with a range.
    fn clusters(offset: u64, len: u64) -> Range<u64> {
        offset / CLUSTER..offset.saturating_add(len).div_ceil(CLUSTER)
    }

    /// Where a cluster's bytes are, as far as they lie within the disk.
    fn bytes_of(&self, cluster: u64) -> Range<u64> {
        let start = cluster.saturating_mul(CLUSTER);
        start..start.saturating_add(CLUSTER).min(self.size)
    }

    fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("an earlier write did not reach the overlay's disk"));
        }
        Ok(())
    }

    /// Notes clusters that are in the data file now, or zeros.
    fn note(&self, clusters: Range<u64>, state: State) {
        let mut map = lock(&self.map);
        for run in map.runs(clusters, usize::MAX) {
            if run.state != state {
                map.set(run.first..run.end(), state, true);
            }
        }
    }

    fn wrote(&self) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }

    fn base_read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.base.read_at(offset, buf).map_err(io::Error::other)
    }

    /// Writes a part of one cluster.
    fn write_part(&self, offset: u64, part: &[u8]) -> io::Result<()> {
        let cluster = offset / CLUSTER;
        let bytes = self.bytes_of(cluster);
        let mut whole = vec![0; within(bytes.end.saturating_sub(bytes.start))];
        // Before it is alone: a store may take long, and what the point has never changes.
        if lock(&self.map).state(cluster) == State::Point {
            self.base_read(bytes.start, &mut whole)?;
        }
        let _alone = self.alone();
        let state = lock(&self.map).state(cluster);
        if state == State::Data {
            self.data.write_at(offset, part)?;
            self.wrote();
            return Ok(());
        }
        if state == State::Zero {
            whole.fill(0);
        }
        let at = within(offset.saturating_sub(bytes.start));
        let target = whole.get_mut(at..at.saturating_add(part.len()));
        target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.copy_from_slice(part);
        self.data.write_at(bytes.start, &whole)?;
        self.note(cluster..cluster.saturating_add(1), State::Data);
        self.wrote();
        Ok(())
    }

    /// A range as a part of a cluster, whole clusters, and a part of another cluster; each may be empty.
    fn split(&self, offset: u64, len: u64) -> [Range<u64>; 3] {
        let end = offset.saturating_add(len);
        let start = offset.div_ceil(CLUSTER).saturating_mul(CLUSTER).min(end);
        // The disk may end within a cluster: that is whole then.
        let stop = if end == self.size { end } else { end / CLUSTER * CLUSTER };
        let stop = stop.max(start);
        [offset..start, start..stop, stop..end]
    }

    /// Makes whole clusters zeros.
    fn clear(&self, range: &Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let clusters = Self::clusters(range.start, range.end.saturating_sub(range.start));
        let start = clusters.start.saturating_mul(CLUSTER);
        let len = clusters.end.saturating_mul(CLUSTER).saturating_sub(start);
        let _alone = self.alone();
        self.note(clusters, State::Zero);
        self.wrote();
        self.data.punch(start, len)
    }

    fn write_range(&self, range: &Range<u64>, data: &[u8]) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let _shared = self.shared();
        self.data.write_at(range.start, data)?;
        self.note(Self::clusters(range.start, range.end.saturating_sub(range.start)), State::Data);
        self.wrote();
        Ok(())
    }

    /// Appends batches, and has them on stable storage.
    fn append(&self, log: &mut Log, runs: &[Run]) -> io::Result<()> {
        let (mut end, mut sequence) = (log.end, log.sequence);
        let mut write = || {
            for some in runs.chunks(RUNS_MAX) {
                let batch = encode_batch(&log.id, sequence.saturating_add(1), some);
                log.file.write_at(end, &batch)?;
                sequence = sequence.saturating_add(1);
                end = end.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
            }
            Ok(())
        };
        if let Err(error) = write() {
            // A part of a batch must not stand behind those of the next attempt.
            if log.file.set_len(log.end).is_err() {
                self.broken.store(true, Ordering::SeqCst);
            }
            return Err(error);
        }
        log.file.sync().inspect_err(|_| self.broken.store(true, Ordering::SeqCst))?;
        (log.end, log.sequence) = (end, sequence);
        Ok(())
    }
}

/// The map that batches make, the number of the last one, and where it ends. None if a batch is damaged and
/// later ones are whole: what was lost with it was flushed.
fn replay(bytes: &[u8], id: &[u8; 16], clusters: u64) -> Option<(Map, u64, usize)> {
    let mut map = Map::default();
    let mut sequence = 0_u64;
    let mut at = SECTOR;
    let batch = |at: usize| decode_batch(id, bytes.get(at..).unwrap_or_default(), clusters);
    while let Some((number, runs, len)) = batch(at) {
        if number != sequence.saturating_add(1) {
            return None;
        }
        for run in runs {
            map.set(run.first..run.end(), run.state, false);
        }
        sequence = number;
        at = at.saturating_add(len);
    }
    let follows = (at..bytes.len()).step_by(SECTOR).any(|place| batch(place).is_some());
    (!follows).then_some((map, sequence, at))
}

/// Makes the map file, whole or not at all. If another process was faster, its file stays.
fn make_map(folder: &Path, path: &Path, id: [u8; 16], of: &OverlayOf) -> io::Result<()> {
    let unfinished = folder.join(format!(".new-{:032x}", u128::from_le_bytes(id)));
    let mut file = OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_at(0, &encode_header(id, of))?;
    file.sync_all()?;
    match renameat_with(CWD, &unfinished, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => File::open(folder)?.sync_all(),
        Err(error) => {
            std::fs::remove_file(&unfinished)?;
            if error == Errno::EXIST { Ok(()) } else { Err(error.into()) }
        }
    }
}

fn within(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

impl Exported for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let end = offset.saturating_add(len);
        let runs = lock(&self.map).runs(Self::clusters(offset, len), usize::MAX);
        for run in runs {
            let from = run.first.saturating_mul(CLUSTER).max(offset);
            let to = run.end().saturating_mul(CLUSTER).min(end);
            let part = within(from.saturating_sub(offset))..within(to.saturating_sub(offset));
            let part = buf.get_mut(part).unwrap_or_default();
            match run.state {
                State::Point => self.base_read(from, part)?,
                State::Data => self.data.read_at(from, part)?,
                State::Zero => part.fill(0),
            }
        }
        Ok(())
    }

    fn allocation(&self, offset: u64, len: u64) -> io::Result<Vec<Allocation>> {
        let end = offset.saturating_add(len);
        let runs = lock(&self.map).runs(Self::clusters(offset, len), RUNS_AT_ONCE);
        let mut found: Vec<Allocation> = Vec::new();
        let mut add = |len: u64, is_hole| match found.last_mut() {
            Some(last) if last.is_hole == is_hole => last.len = last.len.saturating_add(len),
            _ => found.push(Allocation { len, is_hole }),
        };
        for run in runs {
            let from = run.first.saturating_mul(CLUSTER).max(offset);
            let to = run.end().saturating_mul(CLUSTER).min(end);
            if run.state != State::Point {
                add(to.saturating_sub(from), run.state == State::Zero);
                continue;
            }
            let range = ByteRange::between(from, to);
            let extents = self.base.extents(range).map_err(io::Error::other)?;
            let mut at = from;
            for extent in extents {
                add(extent.range.len(), extent.kind == ExtentKind::Zero);
                at = extent.range.end();
            }
            if at < to {
                // The point says the rest when it is asked again.
                break;
            }
        }
        Ok(found)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let [head, whole, tail] = self.split(offset, len);
        let part = |range: &Range<u64>| {
            let at = |place: u64| within(place.saturating_sub(offset));
            data.get(at(range.start)..at(range.end)).unwrap_or_default()
        };
        for edge in [&head, &tail].into_iter().filter(|edge| !edge.is_empty()) {
            self.write_part(edge.start, part(edge))?;
        }
        self.write_range(&whole, part(&whole))
    }

    fn zero(&self, offset: u64, len: u64, may_punch: bool) -> io::Result<()> {
        self.check()?;
        let [head, whole, tail] = self.split(offset, len);
        for edge in [head, tail].into_iter().filter(|edge| !edge.is_empty()) {
            let zeros = vec![0; within(edge.end.saturating_sub(edge.start))];
            self.write_part(edge.start, &zeros)?;
        }
        if may_punch {
            return self.clear(&whole);
        }
        // The client wants the room to be taken.
        let zeros = vec![0; ZEROS.min(within(whole.end.saturating_sub(whole.start)))];
        let mut at = whole.start;
        while at < whole.end {
            let step = u64::try_from(zeros.len()).unwrap_or(1).min(whole.end.saturating_sub(at));
            let range = at..at.saturating_add(step);
            self.write_range(&range, zeros.get(..within(step)).unwrap_or_default())?;
            at = range.end;
        }
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check()?;
        // Parts of clusters stay: what they read as is up to the export.
        let [_, whole, _] = self.split(offset, len);
        self.clear(&whole)
    }

    fn flush(&self) -> io::Result<()> {
        let mut log = lock(&self.log);
        self.check()?;
        let written = self.written.load(Ordering::SeqCst);
        if written == log.synced {
            return Ok(());
        }
        let runs = lock(&self.map).take_dirty();
        let synced = self.data.sync();
        let appended = match synced {
            Err(error) => {
                self.broken.store(true, Ordering::SeqCst);
                Err(error)
            }
            Ok(()) if runs.is_empty() => Ok(()),
            Ok(()) => self.append(&mut log, &runs),
        };
        match appended {
            Ok(()) => log.synced = written,
            Err(_) => lock(&self.map).put_back(&runs),
        }
        appended
    }
}

#[cfg(test)]
mod tests;
