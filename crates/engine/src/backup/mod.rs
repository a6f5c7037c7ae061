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
mod clean;
mod job;
mod parent;
mod plan;
mod reader;
mod suspect;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use jiff::Timestamp;
use strongroom_base::{AlignedBuf, Cancel, PointId, Stage};
use strongroom_format::{DiskRecord, Manifest, SourceRecord, names_are_valid};
use strongroom_image::{Builder, Image, Node};
use strongroom_objects::Rate;
use strongroom_reports::SuspicionReport;
use strongroom_vault::{Vault, Writer};

use self::{
    blocks::Worker,
    job::{Job, plan_jobs},
    parent::{READ_ALL, find_parent},
    plan::{LeafWork, Planner, UNIT_BLOCKS},
    reader::{Filled, READERS, Reader},
};
use crate::{
    BackupDisk, BackupReport, BackupRequest, Deltas, DiskBackupReport, Ending, Progress,
    configuration,
    error::{EngineError, Result},
    failure::Failure,
};

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
    progress.set_stage(Stage::Finishing);
    let ending = finish(&session.reports)?;
    progress.set_stage(Stage::Publishing);
    Ok(session.publish(ending, cancel)?)
}

/// A backup whose disks have all been read. Dropping it leaves no recovery point.
struct Session<'a> {
    vault: &'a Arc<Vault>,
    request: &'a BackupRequest,
    /// Continues to show that it lives, however long the caller takes.
    writer: Writer,
    started: Duration,
    time: Timestamp,
    parent: Option<(PointId, Timestamp)>,
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
        progress.set_stage(Stage::Preparing);
        let writer = Writer::begin(vault, &request.item, &request.host)?;
        let parent = if inherit { find_parent(vault, &writer, request)? } else { None };
        let mut jobs = plan_jobs(request, parent.as_ref(), progress)?;
        progress.set_stage(Stage::Checking);
        let rate = Rate::limited(request.limit_rate, vault.clock());
        clean::check(vault, &mut jobs, &rate, cancel)?;
        progress.set_stage(Stage::Reading);
        let images = run(vault, &writer, &jobs, (request, &rate), cancel)?;
        let reports = jobs.iter().map(|job| job.report(started)).collect();
        let parent = parent.map(|parent| (parent.manifest.id, parent.manifest.time));
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
        let mut manifest = Manifest {
            format: Manifest::FORMAT,
            id: point,
            item: request.item.clone(),
            time: self.time,
            completed: self.vault.clock().now(),
            consistency: ending.consistency.unwrap_or(request.consistency),
            best_consistency: request.best_consistency,
            evidence: request.evidence.iter().cloned().chain(ending.evidence).collect(),
            host: request.host.clone(),
            software: concat!("strongroom ", env!("CARGO_PKG_VERSION")).to_owned(),
            parent: self.parent.map(|(id, _)| id),
            disks: disks.map(record).collect(),
            excluded: request.excluded.clone(),
            configuration,
            locked_until: request.locked_until,
            suspicion: None,
            tags,
        };
        manifest.suspicion = suspect::judge(self.vault, &manifest);
        if cancel.is_cancelled() {
            return Err(EngineError::Interrupted);
        }
        self.writer.publish(&manifest)?;
        let now = self.vault.clock().monotonic();
        let item = manifest.item;
        Ok(BackupReport {
            recovery_point: point,
            suspicion: manifest
                .suspicion
                .map(|suspicion| SuspicionReport::new(suspicion, &item, point)),
            item,
            time: self.time,
            parent: self.parent.map(|(id, _)| id),
            parent_time: self.parent.map(|(_, time)| time),
            stored_bytes,
            configuration_bytes: configuration.map(|record| record.length),
            seconds: now.saturating_sub(self.started).as_secs_f64(),
            disks: self.reports,
            made_before: false,
        })
    }
}

/// Whether a tree that the vault should have cannot be read, and no copy of it helped.
fn is_damage_of_vault(error: &EngineError) -> bool {
    match error {
        EngineError::Vault(error) => strongroom_vault::is_damage(error),
        EngineError::Image { .. } => true,
        _ => false,
    }
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
        new_content: report.new_content(),
        seconds: report.seconds,
        source: SourceRecord {
            location: disk.location.clone(),
            format: disk.source.format().to_owned(),
            changes_from: report.changes_from.clone(),
            checkpoint: report.checkpoint.clone(),
        },
        skipped: report.skipped.clone(),
        unexpected_blocks: report.unexpected_blocks,
        notes: report.notes.clone(),
    }
}

/// Runs readers, workers and builders until every disk is done.
fn run(
    vault: &Arc<Vault>,
    writer: &Writer,
    jobs: &[Job<'_>],
    (request, rate): (&BackupRequest, &Rate),
    cancel: &Cancel,
) -> Result<Vec<Image>> {
    let failure = Failure::new(cancel);
    let clock = Arc::clone(vault.clock());
    let threads = request.threads.clamp(1, 64);
    let deltas = match request.deltas {
        Deltas::Auto => vault.store().is_local(),
        Deltas::Always => true,
        Deltas::Never => false,
    };
    let readers = READERS.div_ceil(jobs.len().max(1)).max(1);
    let buffer_count = threads.saturating_add(READERS.max(jobs.len()));
    let (give, take) = bounded::<AlignedBuf>(buffer_count);
    for _ in 0..buffer_count {
        let capacity = UNIT_BLOCKS.saturating_mul(strongroom_base::BLOCK_SIZE);
        give.send(AlignedBuf::zeroed(capacity)).map_err(|_| EngineError::Bug("no pool"))?;
    }
    let (units, filled) = bounded::<Filled<'_>>(buffer_count);
    let images: Mutex<BTreeMap<usize, Image>> = Mutex::default();
    std::thread::scope(|scope| {
        let failure = &failure;
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
