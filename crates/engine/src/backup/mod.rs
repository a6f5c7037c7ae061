//! Backup: disks in, one recovery point out.
//!
//! ```text
//!          ┌─ readers (a few a disk) ─┐         ┌─ workers (one a core) ─┐
//!  plan ─▶ │ next unit, pread 2 MiB   │ ─units─▶│ zero? same? known?     │ ─leaves─▶ tree builder
//!          └──────────────────────────┘         │ delta or zstd, seal    │           (one a disk)
//!               ▲ buffers, a fixed number       └────────────────────────┘ ─▶ packs
//!               └──────────────────────────────────────┘
//! ```
//!
//! Memory is bounded by the number of buffers and open packs, whatever the size of the disks.

mod blocks;
mod plan;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use jiff::Timestamp;
use strongroom_base::{
    AlignedBuf, BLOCK_SIZE_U64, ByteRange, Cancel, LEAF_SPAN, PointId, RangeSet,
};
use strongroom_disk::{DiskError, DiskSource};
use strongroom_format::{DiskRecord, Manifest, SkippedRange, SourceRecord, names_are_valid};
use strongroom_image::{Builder, Image, Node};
use strongroom_vault::{Vault, VaultError, Writer};

use self::{
    blocks::Worker,
    plan::{LeafWork, Planner, UNIT_BLOCKS, Unit},
};
use crate::{
    BackupDisk, BackupReport, BackupRequest, Deltas, DiskBackupReport, Ending, Progress,
    configuration,
    error::{EngineError, Result},
    failure::Failure,
    rate::Rate,
};

/// Readers of one disk: enough reads in flight to keep a disk busy that is not in the page cache.
const READERS: usize = 8;

/// One disk during its backup: what it is and what has been counted.
struct DiskWork {
    name: String,
    progress: Progress,
    allocated: Option<AtomicU64>,
    changed_blocks: AtomicU64,
    read: AtomicU64,
    deduplicated_blocks: AtomicU64,
    stored: AtomicU64,
    delta_blocks: AtomicU64,
    skipped: Mutex<Vec<SkippedRange>>,
    done_after: Mutex<Duration>,
}

impl DiskWork {
    fn count_allocated(&self, bytes: u64) {
        if let Some(allocated) = &self.allocated {
            allocated.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn count_changed(&self) {
        self.changed_blocks.fetch_add(1, Ordering::Relaxed);
    }

    fn disk_error(&self, source: DiskError) -> EngineError {
        EngineError::Disk { name: self.name.clone(), source }
    }

    fn image_error(&self, source: strongroom_image::Error<VaultError>) -> EngineError {
        match source {
            strongroom_image::Error::Store(error) => EngineError::Vault(error),
            source => EngineError::Image { name: self.name.clone(), source },
        }
    }
}

/// A disk with what its backup starts from.
struct Job<'a> {
    work: DiskWork,
    disk: &'a BackupDisk,
    source: &'a dyn DiskSource,
    parent: Option<Image>,
    changed: Option<RangeSet>,
    changes_from: &'static str,
}

/// A unit whose bytes are in memory: at the start of its buffer, which is longer. (Buffers keep
/// their length, so that they are cleared once and not for every unit.)
struct Filled<'a> {
    job: &'a Job<'a>,
    leaves: Sender<Arc<LeafWork>>,
    unit: Unit,
    buffer: AlignedBuf,
}

/// Backs up the disks of one item and publishes a recovery point.
pub fn backup(
    vault: &Arc<Vault>,
    request: &BackupRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<BackupReport> {
    backup_with(vault, request, progress, cancel, |_| Ok(Ending::default()))
}

/// Backs up the disks of one item, asks `finish` for what the caller knows only now, and publishes
/// a recovery point.
///
/// `finish` is called once, as soon as the last byte of all disks has been read: the sources are not
/// used any more, and nothing is published yet. If it fails, its error is returned and there is no
/// recovery point; what was stored stays for the next backup to reuse.
pub fn backup_with<E: From<EngineError>>(
    vault: &Arc<Vault>,
    request: &BackupRequest,
    progress: &Progress,
    cancel: &Cancel,
    finish: impl FnOnce(&[DiskBackupReport]) -> Result<Ending, E>,
) -> Result<BackupReport, E> {
    let session = match Session::read(vault, request, progress, cancel, true) {
        Err(error) if is_damage_of_vault(&error) => {
            // By a new writer: of the failed one, not everything that it has claimed is stored.
            tracing::warn!(%error, "{READ_ALL}");
            Session::read(vault, request, progress, cancel, false)
        }
        other => other,
    }?;
    progress.set_stage("finishing");
    let ending = finish(&session.reports)?;
    progress.set_stage("publishing");
    Ok(session.publish(ending, cancel)?)
}

/// A backup whose disks have all been read. Dropping it leaves no recovery point.
struct Session<'a> {
    vault: &'a Arc<Vault>,
    request: &'a BackupRequest,
    /// Goes on showing that it lives, however long the caller takes.
    writer: Writer,
    started: Duration,
    time: Timestamp,
    parent: Option<PointId>,
    images: Vec<Image>,
    reports: Vec<DiskBackupReport>,
}

impl<'a> Session<'a> {
    /// Reads the disks, building upon the parent point or not.
    fn read(
        vault: &'a Arc<Vault>,
        request: &'a BackupRequest,
        progress: &Progress,
        cancel: &Cancel,
        inherit: bool,
    ) -> Result<Self> {
        let started = vault.clock().monotonic();
        let time = request.time.unwrap_or_else(|| vault.clock().now());
        let excluded = request.excluded.iter().map(|disk| disk.name.as_str());
        let names = request.disks.iter().map(|disk| disk.name.as_str()).chain(excluded);
        if request.disks.is_empty() || !names_are_valid(names) {
            return Err(EngineError::Names { item: request.item.clone() });
        }
        progress.set_stage("preparing");
        let writer = Writer::begin(vault, &request.item, &request.host)?;
        let parent = if inherit { find_parent(vault, request)? } else { None };
        let jobs = plan_jobs(request, parent.as_ref(), progress)?;
        progress.set_stage("reading");
        let images = run(vault, &writer, &jobs, request, cancel)?;
        let reports = jobs.iter().map(|job| job.report(started)).collect();
        let parent = parent.map(|parent| parent.manifest.id);
        Ok(Self { vault, request, writer, started, time, parent, images, reports })
    }

    fn publish(mut self, mut ending: Ending, cancel: &Cancel) -> Result<BackupReport> {
        let request = self.request;
        for report in &mut self.reports {
            let last = ending.disks.remove(&report.name).unwrap_or_default();
            report.checkpoint = last.checkpoint.or(report.checkpoint.take());
            report.notes.extend(last.notes);
        }
        if !ending.disks.is_empty() {
            return Err(EngineError::Bug("the end of a disk that was not backed up"));
        }
        let archive = ending.configuration.unwrap_or_default();
        let configuration = configuration::store(self.vault, &self.writer, &archive)?;
        self.writer.finish_packs()?;
        let stored_bytes = self.writer.stored_bytes();
        let point = self.writer.point().ok_or(EngineError::Bug("a backup without a point"))?;
        let mut tags = request.tags.clone();
        tags.extend(ending.tags);
        let disks = request.disks.iter().zip(&self.images).zip(&self.reports);
        let manifest = Manifest {
            format: Manifest::FORMAT,
            id: point,
            item: request.item.clone(),
            time: self.time,
            completed: self.vault.clock().now(),
            consistency: ending.consistency.unwrap_or(request.consistency),
            evidence: request.evidence.iter().cloned().chain(ending.evidence).collect(),
            host: request.host.clone(),
            software: concat!("strongroom ", env!("CARGO_PKG_VERSION")).to_owned(),
            parent: self.parent,
            disks: disks.map(record).collect(),
            excluded: request.excluded.clone(),
            configuration,
            locked_until: None,
            tags,
        };
        if cancel.is_cancelled() {
            return Err(EngineError::Interrupted);
        }
        self.writer.publish(&manifest)?;
        let now = self.vault.clock().monotonic();
        Ok(BackupReport {
            recovery_point: point,
            item: manifest.item,
            time: self.time,
            parent: self.parent,
            stored_bytes,
            configuration_bytes: configuration.map(|record| record.length),
            seconds: now.saturating_sub(self.started).as_secs_f64(),
            disks: self.reports,
        })
    }
}

const READ_ALL: &str =
    "the parent point has lost content: everything is read, and what is lost is stored again";

/// The point that a backup builds upon.
struct Parent {
    manifest: Manifest,
    /// Whether it is the one that the caller means who says what has changed since the last point.
    is_last: bool,
}

/// The point to build upon. None if there is none, or if content of it is gone: it would be missed
/// by the new point as well.
fn find_parent(vault: &Vault, request: &BackupRequest) -> Result<Option<Parent>> {
    let (parent, damaged) = match request.parent {
        Some(point) => (Some(vault.point(&request.item, point)?), Vec::new()),
        None => vault.newest_readable(&request.item)?,
    };
    let is_last = damaged.is_empty();
    for damaged in damaged {
        tracing::warn!(
            object = damaged.object,
            "the newest recovery point is damaged: everything is read and compared with an older one"
        );
    }
    let Some(parent) = parent else { return Ok(None) };
    let image = |disk: &DiskRecord| {
        Image::new(disk.size_bytes, disk.root)
            .map_err(|source| EngineError::Size { name: disk.name.clone(), source })
    };
    let images: Vec<_> = parent.disks.iter().map(image).collect::<Result<_>>()?;
    if vault.holds(&images)? {
        return Ok(Some(Parent { manifest: parent, is_last }));
    }
    tracing::warn!(point = %parent.id, "{READ_ALL}");
    Ok(None)
}

/// Whether a tree that the vault should have cannot be read, and no copy of it helped.
fn is_damage_of_vault(error: &EngineError) -> bool {
    match error {
        EngineError::Vault(error) => strongroom_vault::is_damage(error),
        EngineError::Image { .. } => true,
        _ => false,
    }
}

/// Decides for every disk what it is compared with and what says which parts changed.
fn plan_jobs<'a>(
    request: &'a BackupRequest,
    parent: Option<&Parent>,
    progress: &Progress,
) -> Result<Vec<Job<'a>>> {
    let is_last = parent.is_none_or(|parent| parent.is_last);
    let parent = parent.map(|parent| &parent.manifest);
    let mut jobs = Vec::new();
    for disk in &request.disks {
        let source = &*disk.source;
        let size = source.size();
        let old = parent.and_then(|parent| parent.disks.iter().find(|old| old.name == disk.name));
        let size_error = |source| EngineError::Size { name: disk.name.clone(), source };
        Image::new(size, strongroom_base::Digest::HOLE).map_err(size_error)?;
        let image = old.map(|old| Image::new(old.size_bytes, old.root)).transpose();
        let image = image.map_err(size_error)?;
        // Whoever says what changed means "since the last backup", and means its own: what
        // another host has backed up meanwhile it cannot know of.
        // The same goes for an older point, where the last one cannot be read.
        let own = request.parent.is_some() || parent.is_some_and(|p| p.host == request.host);
        let known = own && is_last;
        if !known
            && is_last
            && parent.is_some()
            && (disk.changed.is_some() || source.changed().is_some())
        {
            tracing::warn!(disk = %disk.name, "the newest point is of another host: everything is compared");
        }
        let (changed, changes_from) =
            match (image.filter(|_| known), &disk.changed, source.changed()) {
                (Some(_), Some(ranges), _) => (Some(ranges), "ranges"),
                (Some(_), None, Some(bitmap)) => (Some(bitmap), "bitmap"),
                (None, _, _) | (Some(_), None, None) => (None, "all"),
            };
        let changed = changed.zip(old).map(|(changed, old)| {
            // What the parent has only as zeros, since it could not be read, is read again.
            let skipped = old.skipped.iter();
            let skipped =
                skipped.filter_map(|range| ByteRange::new(range.offset, range.length).ok());
            let all =
                changed.iter().chain(skipped.map(|r| r.intersect(ByteRange::between(0, size))));
            with_resize(&RangeSet::from_unsorted(all.collect()), old.size_bytes, size)
        });
        if let Some(end) = disk.changed.as_ref().map(RangeSet::end).filter(|end| *end > size) {
            return Err(EngineError::Ranges { name: disk.name.clone(), size, end });
        }
        progress.add_total(
            changed
                .as_ref()
                .map_or(size, |ranges| ranges.align_outwards(BLOCK_SIZE_U64).total_len()),
        );
        jobs.push(Job {
            work: DiskWork {
                name: disk.name.clone(),
                progress: progress.clone(),
                allocated: changed.is_none().then(AtomicU64::default),
                changed_blocks: AtomicU64::new(0),
                read: AtomicU64::new(0),
                deduplicated_blocks: AtomicU64::new(0),
                stored: AtomicU64::new(0),
                delta_blocks: AtomicU64::new(0),
                skipped: Mutex::default(),
                done_after: Mutex::default(),
            },
            disk,
            source,
            parent: image,
            changed,
            changes_from,
        });
    }
    Ok(jobs)
}

/// The changed ranges, and where the disk was resized also its old last block and what is new:
/// of these the parent knows nothing.
fn with_resize(changed: &RangeSet, old_size: u64, new_size: u64) -> RangeSet {
    if old_size == new_size {
        return changed.clone();
    }
    let smaller = old_size.min(new_size);
    let from = smaller.saturating_sub(smaller.checked_rem(BLOCK_SIZE_U64).unwrap_or(0));
    let resized = ByteRange::between(from, new_size);
    RangeSet::from_unsorted(changed.iter().chain([resized]).collect())
}

fn record(((disk, image), report): ((&BackupDisk, &Image), &DiskBackupReport)) -> DiskRecord {
    DiskRecord {
        name: disk.name.clone(),
        size_bytes: image.size(),
        root: image.root(),
        allocated_bytes: report.allocated_bytes,
        changed_bytes: report.changed_bytes,
        read_bytes: report.read_bytes,
        deduplicated_bytes: report.deduplicated_bytes,
        stored_bytes: report.stored_bytes,
        seconds: report.seconds,
        source: SourceRecord {
            location: disk.location.clone(),
            format: disk.source.format().to_owned(),
            changes_from: report.changes_from.clone(),
            checkpoint: report.checkpoint.clone(),
        },
        skipped: report.skipped.clone(),
        unexpected_blocks: 0,
        notes: report.notes.clone(),
    }
}

impl Job<'_> {
    fn report(&self, started: Duration) -> DiskBackupReport {
        let work = &self.work;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut skipped = work.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        skipped.sort_by_key(|range| range.offset);
        skipped.dedup_by(|next, last| {
            let touches = last.offset.saturating_add(last.length) >= next.offset;
            if touches {
                let end = next.offset.saturating_add(next.length);
                last.length = last.length.max(end.saturating_sub(last.offset));
            }
            touches
        });
        let done_after = *work.done_after.lock().unwrap_or_else(PoisonError::into_inner);
        DiskBackupReport {
            name: work.name.clone(),
            size_bytes: self.source.size(),
            allocated_bytes: work.allocated.as_ref().map(load),
            changed_bytes: load(&work.changed_blocks).saturating_mul(BLOCK_SIZE_U64),
            read_bytes: load(&work.read),
            deduplicated_bytes: load(&work.deduplicated_blocks).saturating_mul(BLOCK_SIZE_U64),
            stored_bytes: load(&work.stored),
            delta_blocks: load(&work.delta_blocks),
            changes_from: self.changes_from.to_owned(),
            skipped,
            checkpoint: self.disk.checkpoint.clone(),
            notes: self.disk.notes.clone(),
            seconds: done_after.saturating_sub(started).as_secs_f64(),
        }
    }
}

/// Runs readers, workers and builders until every disk is done.
fn run(
    vault: &Arc<Vault>,
    writer: &Writer,
    jobs: &[Job<'_>],
    request: &BackupRequest,
    cancel: &Cancel,
) -> Result<Vec<Image>> {
    let failure = Failure::new(cancel);
    let clock = Arc::clone(vault.clock());
    let rate = Rate::new(&*clock, request.limit_rate);
    let threads = request.threads.clamp(1, 64);
    let deltas = match request.deltas {
        Deltas::Auto => vault.store().is_local(),
        Deltas::Always => true,
        Deltas::Never => false,
    };
    let readers = READERS.div_ceil(jobs.len().max(1)).max(1);
    let buffer_count = threads.saturating_mul(2).saturating_add(READERS.max(jobs.len()));
    let (give, take) = bounded::<AlignedBuf>(buffer_count);
    for _ in 0..buffer_count {
        let capacity = UNIT_BLOCKS.saturating_mul(strongroom_base::BLOCK_SIZE);
        give.send(AlignedBuf::zeroed(capacity)).map_err(|_| EngineError::Bug("no pool"))?;
    }
    let (units, filled) = bounded::<Filled<'_>>(buffer_count);
    let images: Mutex<BTreeMap<usize, Image>> = Mutex::default();
    std::thread::scope(|scope| {
        let (failure, rate) = (&failure, &rate);
        for (number, job) in jobs.iter().enumerate() {
            let (leaves, done) = unbounded();
            let planner =
                Planner::new(&job.work, job.source, vault, job.parent, job.changed.as_ref());
            let planner = Arc::new(Mutex::new(planner));
            for _ in 0..readers {
                let reader = Reader {
                    job,
                    planner: Arc::clone(&planner),
                    buffers: take.clone(),
                    give: give.clone(),
                    units: units.clone(),
                    leaves: leaves.clone(),
                    skip_bad_blocks: request.skip_bad_blocks,
                };
                scope.spawn(move || failure.keep(reader.run(failure, rate)));
            }
            let (images, clock) = (&images, &clock);
            scope.spawn(move || {
                if let Some(image) = failure.keep(build(vault, writer, job, done, failure)) {
                    images.lock().unwrap_or_else(PoisonError::into_inner).insert(number, image);
                    *job.work.done_after.lock().unwrap_or_else(PoisonError::into_inner) =
                        clock.monotonic();
                }
            });
        }
        drop((units, take));
        for _ in 0..threads {
            let (filled, give) = (filled.clone(), give.clone());
            scope.spawn(move || {
                let mut worker = Worker::new(vault, writer, deltas);
                for mut unit in filled {
                    if failure.go_on() {
                        failure.keep(worker.unit(&mut unit));
                    }
                    finish_unit(unit, &give);
                }
            });
        }
        drop((filled, give));
    });
    failure.into_result()?;
    Ok(images.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
}

/// Hands a leaf on when its last unit is done, and the buffer back.
fn finish_unit(unit: Filled<'_>, give: &Sender<AlignedBuf>) {
    let Filled { leaves, unit, buffer, .. } = unit;
    if unit.leaf.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        // Nobody listens after a failure; then the leaf is of no use.
        leaves.send(unit.leaf).ok();
    }
    give.send(buffer).ok();
}

/// Reads units of one disk into buffers.
struct Reader<'a> {
    job: &'a Job<'a>,
    planner: Arc<Mutex<Planner<'a>>>,
    buffers: Receiver<AlignedBuf>,
    give: Sender<AlignedBuf>,
    units: Sender<Filled<'a>>,
    leaves: Sender<Arc<LeafWork>>,
    skip_bad_blocks: bool,
}

impl Reader<'_> {
    fn run(&self, failure: &Failure<'_>, rate: &Rate<'_>) -> Result<()> {
        while failure.go_on() {
            // The buffer first: units are then handed out in the order in which they are read.
            let Ok(mut buffer) = self.buffers.recv() else { break };
            let unit = self.planner.lock().unwrap_or_else(PoisonError::into_inner).next();
            let unit = unit.and_then(|unit| match unit {
                Some(unit) => self.fill(&unit, &mut buffer, rate).map(|()| Some(unit)),
                None => Ok(None),
            });
            // The buffer goes back whatever happens: others may wait for it.
            let Ok(Some(unit)) = unit else {
                self.give.send(buffer).ok();
                return unit.map(|_| ());
            };
            let leaves = self.leaves.clone();
            let filled = Filled { job: self.job, leaves, unit, buffer };
            if self.units.send(filled).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn fill(&self, unit: &Unit, buffer: &mut AlignedBuf, rate: &Rate<'_>) -> Result<()> {
        let leaf_start = unit.leaf.index.saturating_mul(LEAF_SPAN);
        let mut from = 0_usize;
        for run in &unit.runs {
            let len = run.blocks.saturating_mul(strongroom_base::BLOCK_SIZE);
            let offset =
                leaf_start.saturating_add(u64::from(run.slot).saturating_mul(BLOCK_SIZE_U64));
            let end = from.saturating_add(len);
            let part = buffer
                .get_mut(from..end)
                .ok_or(EngineError::Bug("a unit larger than its buffer"))?;
            from = end;
            let bytes = u64::try_from(len).unwrap_or(u64::MAX);
            rate.pass(bytes);
            self.read(offset, part)?;
            let bytes = bytes.min(self.job.source.size().saturating_sub(offset));
            self.job.work.read.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads; parts that cannot be read are an error, or zeros and a record of it.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let work = &self.job.work;
        let mut at = 0_usize;
        while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let start = offset.saturating_add(u64::try_from(at).unwrap_or(u64::MAX));
            let end = start.saturating_add(u64::try_from(rest.len()).unwrap_or(u64::MAX));
            match self.job.source.read_at(start, rest) {
                Ok(()) => return Ok(()),
                Err(DiskError::Read { range, source, disk }) => {
                    let bad = range.intersect(ByteRange::between(start, end));
                    if !self.skip_bad_blocks || bad.is_empty() {
                        let name = work.name.clone();
                        let source = DiskError::Read { range, source, disk };
                        return Err(EngineError::SourceRead { name, range, source });
                    }
                    let index = |offset: u64| {
                        usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX)
                    };
                    // What lies before the bad part is read again: not every source promises to
                    // have filled it.
                    if let Some(good) =
                        rest.get_mut(..index(bad.offset())).filter(|g| !g.is_empty())
                    {
                        self.job.source.read_at(start, good).map_err(|e| work.disk_error(e))?;
                    }
                    if let Some(zeros) = rest.get_mut(index(bad.offset())..index(bad.end())) {
                        zeros.fill(0);
                    }
                    let skipped = SkippedRange { offset: bad.offset(), length: bad.len() };
                    work.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(skipped);
                    at = at.saturating_add(index(bad.end()));
                }
                Err(error) => return Err(work.disk_error(error)),
            }
        }
        Ok(())
    }
}

/// Puts finished leaves, which come nearly in order, into the tree.
fn build(
    vault: &Vault,
    writer: &Writer,
    job: &Job<'_>,
    done: Receiver<Arc<LeafWork>>,
    failure: &Failure<'_>,
) -> Result<Image> {
    let error = |source| job.work.image_error(source);
    let sink = |digest, encoded: &[u8]| writer.store_node(digest, encoded);
    let mut builder =
        Builder::new(vault.hasher(), job.source.size(), job.parent, vault, sink).map_err(error)?;
    let mut waiting = BTreeMap::new();
    let mut next = 0_u64;
    for leaf in done {
        waiting.insert(leaf.sequence, leaf);
        while let Some(leaf) = waiting.remove(&next) {
            if failure.go_on() {
                let node: Node = leaf.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
                builder.set_leaf(leaf.index, &node).map_err(error)?;
            }
            next = next.saturating_add(1);
        }
    }
    builder.finish().map_err(error)
}
