//! Disks in memory that can be told to fail, and what all these tests do.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_base::{ByteRange, Cancel, Clock, Coded, PointId, RangeSet, SystemClock};
use strongroom_disk::{DiskError, DiskSource, DiskTarget, Extent, ExtentKind};
use strongroom_engine::{
    BackupDisk, BackupReport, BackupRequest, EngineError, Overwrite, Progress, RestoreDisk,
    RestoreReport, RestoreRequest, backup, restore,
};
use strongroom_vault::Vault;

use crate::common::{noise, request};

pub(crate) const BLOCK: u64 = 65536;

/// A disk in memory, of any size, of which only some blocks have data.
pub(crate) struct Disk {
    size: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    /// Sectors that cannot be read.
    pub(crate) bad: Vec<ByteRange>,
    pub(crate) reads: AtomicU64,
    pub(crate) questions: AtomicU64,
    /// Whose extents were asked for.
    pub(crate) asked: Mutex<Vec<ByteRange>>,
    /// What it says has changed.
    pub(crate) bitmap: Option<RangeSet>,
    /// Called before every read.
    pub(crate) on_read: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            blocks: BTreeMap::new(),
            bad: vec![],
            bitmap: None,
            reads: AtomicU64::new(0),
            questions: AtomicU64::new(0),
            asked: Mutex::default(),
            on_read: None,
        }
    }

    /// With so many blocks of noise, one next to the other.
    pub(crate) fn with_noise(seed: u64, blocks: u64) -> Self {
        let mut disk = Self::new(blocks * BLOCK);
        (0..blocks).for_each(|block| disk.set_block(block, noise(seed * 1_000_000 + block, 65536)));
        disk
    }

    pub(crate) fn set_block(&mut self, block: u64, data: Vec<u8>) {
        self.blocks.insert(block, data);
    }

    pub(crate) fn clear_block(&mut self, block: u64) {
        self.blocks.remove(&block);
    }

    pub(crate) fn block_mut(&mut self, block: u64) -> &mut Vec<u8> {
        self.blocks.entry(block).or_insert_with(|| vec![0; 65536])
    }

    pub(crate) fn resize(&mut self, size: u64) {
        self.size = size;
        self.blocks.retain(|block, _| block * BLOCK < size);
        if let Some(last) = self.blocks.get_mut(&(size / BLOCK)) {
            last[usize::try_from(size % BLOCK).expect("small")..].fill(0);
        }
    }

    /// The same content, without faults.
    pub(crate) fn copy(&self) -> Self {
        Self { blocks: self.blocks.clone(), ..Self::new(self.size) }
    }

    pub(crate) fn data(&self) -> BTreeMap<u64, Vec<u8>> {
        let mut blocks = self.blocks.clone();
        blocks.retain(|_, block| block.iter().any(|byte| *byte != 0));
        blocks
    }
}

/// Extents of blocks that are or are not there; two at most.
fn extents(blocks: &BTreeMap<u64, Vec<u8>>, range: ByteRange) -> Vec<Extent> {
    let first = range.offset() / BLOCK;
    let next = blocks.range(first..).next().map(|(block, _)| *block);
    let data = next.filter(|next| next * BLOCK < range.end());
    let start = data.map_or(range.end(), |block| (block * BLOCK).max(range.offset()));
    let zero = ByteRange::between(range.offset(), start);
    let mut found = vec![];
    if !zero.is_empty() {
        found.push(Extent { range: zero, kind: ExtentKind::Zero });
    }
    if let Some(mut block) = data {
        while blocks.contains_key(&block) {
            block += 1;
        }
        let range = ByteRange::between(start, (block * BLOCK).min(range.end()));
        found.push(Extent { range, kind: ExtentKind::Data });
    }
    found
}

fn read(blocks: &BTreeMap<u64, Vec<u8>>, offset: u64, buf: &mut [u8]) {
    buf.fill(0);
    let end = offset + u64::try_from(buf.len()).expect("fits");
    for (block, data) in blocks.range(offset / BLOCK..) {
        let start = block * BLOCK;
        if start >= end {
            break;
        }
        let part = ByteRange::between(offset.max(start), end.min(start + BLOCK));
        let at = |offset: u64| usize::try_from(offset).expect("small");
        buf[at(part.offset() - offset)..at(part.end() - offset)]
            .copy_from_slice(&data[at(part.offset() - start)..at(part.end() - start)]);
    }
}

impl DiskSource for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.asked.lock().expect("no panic").push(range);
        Ok(extents(&self.blocks, range))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        if let Some(on_read) = &self.on_read {
            on_read();
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let wanted = ByteRange::between(offset, offset + u64::try_from(buf.len()).expect("fits"));
        let hit = self.bad.iter().map(|bad| bad.intersect(wanted)).find(|hit| !hit.is_empty());
        if let Some(hit) = hit {
            buf.fill(0xee);
            // The sectors that failed first: one page of them at a time.
            let range = ByteRange::between(hit.offset(), hit.end().min(hit.offset() + 4096));
            let source = io::Error::from_raw_os_error(5);
            return Err(DiskError::Read { disk: "the broken disk".to_owned(), range, source });
        }
        read(&self.blocks, offset, buf);
        Ok(())
    }

    fn changed(&self) -> Option<&RangeSet> {
        self.bitmap.as_ref()
    }

    fn format(&self) -> &'static str {
        "raw"
    }
}

/// What happens at a write, by its number.
type OnWrite = Box<dyn Fn(u64) -> Result<(), DiskError> + Send + Sync>;

/// A target in memory.
pub(crate) struct Target {
    size: u64,
    blank: bool,
    blocks: Mutex<BTreeMap<u64, Vec<u8>>>,
    pub(crate) fail_reads: bool,
    pub(crate) on_write: Option<OnWrite>,
    pub(crate) writes: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) calls: AtomicU64,
}

impl Target {
    pub(crate) fn blank(size: u64) -> Self {
        Self {
            size,
            blank: true,
            blocks: Mutex::default(),
            fail_reads: false,
            on_write: None,
            writes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// With what a disk holds.
    pub(crate) fn holding(disk: &Disk) -> Self {
        let blocks = Mutex::new(disk.blocks.clone());
        Self { blank: false, blocks, ..Self::blank(disk.size) }
    }

    /// Full of something else.
    pub(crate) fn garbage(size: u64) -> Self {
        let blocks = (0..size.div_ceil(BLOCK)).map(|block| (block, vec![0xab; 65536])).collect();
        Self { blank: false, blocks: Mutex::new(blocks), ..Self::blank(size) }
    }

    pub(crate) fn not_blank(mut self) -> Self {
        self.blank = false;
        self
    }

    /// Nonzero blocks, as far as they lie within `size`.
    pub(crate) fn data(&self, size: u64) -> BTreeMap<u64, Vec<u8>> {
        let mut blocks = self.blocks.lock().expect("no panic").clone();
        blocks.retain(|block, data| {
            let start = block * BLOCK;
            if start < size && start + BLOCK > size {
                data[usize::try_from(size - start).expect("small")..].fill(0);
            }
            start < size && data.iter().any(|byte| *byte != 0)
        });
        blocks
    }

    pub(crate) fn raw_block(&self, block: u64) -> Option<Vec<u8>> {
        self.blocks.lock().expect("no panic").get(&block).cloned()
    }

    fn put(&self, range: ByteRange, data: &dyn Fn(usize) -> u8) {
        let mut blocks = self.blocks.lock().expect("no panic");
        let mut at = range.offset();
        while at < range.end() {
            let block = at / BLOCK;
            let end = range.end().min((block + 1) * BLOCK);
            let slot = blocks.entry(block).or_insert_with(|| vec![0; 65536]);
            for offset in at..end {
                slot[usize::try_from(offset % BLOCK).expect("small")] =
                    data(usize::try_from(offset - range.offset()).expect("small"));
            }
            at = end;
        }
    }
}

impl DiskTarget for Target {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_blank(&self) -> bool {
        self.blank
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let nth = self.writes.fetch_add(1, Ordering::Relaxed);
        if let Some(on_write) = &self.on_write {
            on_write(nth)?;
        }
        let len = u64::try_from(data.len()).expect("fits");
        assert!(offset + len <= self.size, "a write beyond the end");
        self.written.fetch_add(len, Ordering::Relaxed);
        self.put(ByteRange::between(offset, offset + len), &|at| data[at]);
        Ok(())
    }

    fn write_zeroes(&self, range: ByteRange) -> Result<(), DiskError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        assert!(range.end() <= self.size, "zeros beyond the end");
        let whole = range.offset().div_ceil(BLOCK)..range.end() / BLOCK;
        self.blocks.lock().expect("no panic").retain(|block, _| !whole.contains(block));
        if whole.is_empty() {
            self.put(range, &|_| 0);
        } else {
            self.put(ByteRange::between(range.offset(), whole.start * BLOCK), &|_| 0);
            self.put(ByteRange::between(whole.end * BLOCK, range.end()), &|_| 0);
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.fail_reads {
            let range =
                ByteRange::between(offset, offset + u64::try_from(buf.len()).expect("fits"));
            let source = io::Error::from_raw_os_error(5);
            return Err(DiskError::Read { disk: "the target".to_owned(), range, source });
        }
        read(&self.blocks.lock().expect("no panic"), offset, buf);
        Ok(())
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(extents(&self.blocks.lock().expect("no panic"), range))
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

pub(crate) fn source(name: &str, source: &Arc<Disk>) -> BackupDisk {
    let source: Arc<dyn DiskSource> = Arc::clone(source) as _;
    BackupDisk::new(name, "memory", source)
}

/// The ranges of whole blocks.
pub(crate) fn ranges(blocks: &[u64]) -> RangeSet {
    let range = |block: &u64| ByteRange::between(block * BLOCK, (block + 1) * BLOCK);
    RangeSet::from_unsorted(blocks.iter().map(range).collect())
}

pub(crate) fn try_backup(
    vault: &Arc<Vault>,
    request: &BackupRequest,
) -> Result<BackupReport, EngineError> {
    backup(vault, request, &Progress::new(), &Cancel::new())
}

/// Backs up one disk as the item `web01`.
pub(crate) fn back_up(vault: &Arc<Vault>, disk: &Arc<Disk>) -> Result<BackupReport, EngineError> {
    try_backup(vault, &request("web01", vec![source("vda", disk)]))
}

pub(crate) fn restore_to(
    vault: &Arc<Vault>,
    item: &str,
    point: PointId,
    target: &Arc<Target>,
    compare: bool,
    cancel: &Cancel,
) -> Result<RestoreReport, EngineError> {
    let request = RestoreRequest {
        item: item.to_owned(),
        point,
        disks: vec![RestoreDisk {
            name: "vda".to_owned(),
            location: "memory".to_owned(),
            target: Arc::clone(target) as _,
            overwrite: if compare { Overwrite::Differences } else { Overwrite::All },
        }],
        threads: 2,
        limit_rate: None,
    };
    restore(vault, &request, &Progress::new(), cancel)
}

/// Restores disk `vda` of `web01` and compares: an error is fine, wrong bytes never are.
pub(crate) fn restored(
    vault: &Arc<Vault>,
    point: PointId,
    wanted: &Disk,
) -> Result<(), EngineError> {
    restored_item(vault, "web01", point, wanted)
}

pub(crate) fn restored_item(
    vault: &Arc<Vault>,
    item: &str,
    point: PointId,
    wanted: &Disk,
) -> Result<(), EngineError> {
    let target = Arc::new(Target::blank(wanted.size()));
    restore_to(vault, item, point, &target, false, &Cancel::new())?;
    assert!(target.data(wanted.size) == wanted.data(), "a restore that succeeded is wrong");
    Ok(())
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The stable name of an error's code, which is never that of a defect.
pub(crate) fn code(error: &EngineError) -> &'static str {
    let name = error.code().name;
    assert_ne!(name, "bug", "{}", chain(error));
    name
}

/// A clock that is ahead of the machine's by some seconds, or behind.
#[derive(Clone, Default)]
pub(crate) struct Shifted(Arc<Mutex<SignedDuration>>);

impl Shifted {
    pub(crate) fn by_hours(hours: i64) -> Self {
        let clock = Self::default();
        clock.set(hours);
        clock
    }

    pub(crate) fn set(&self, hours: i64) {
        *self.0.lock().expect("no panic") = SignedDuration::from_hours(hours);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        SystemClock.now() + *self.0.lock().expect("no panic")
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration);
    }
}

/// All files below a folder of the vault, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found.into_iter().collect()
}

pub(crate) fn bytes_below(dir: &Path) -> u64 {
    files(dir).iter().map(|path| fs::metadata(path).expect("metadata").len()).sum()
}

pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}
