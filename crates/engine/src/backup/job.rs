//! A disk during its backup: its parent, and its counters.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use strongroom_base::{BLOCK_SIZE_U64, ByteRange, NewContent, RangeSet};
use strongroom_disk::{DiskError, DiskSource};
use strongroom_format::SkippedRange;
use strongroom_image::Image;
use strongroom_vault::VaultError;

use super::parent::Parent;
use crate::{
    BackupDisk, BackupRequest, CleanCheck, DiskBackupReport, Progress,
    error::{EngineError, Result},
};

/// One disk during its backup: what it is and what has been counted.
pub(super) struct DiskWork {
    pub(super) name: String,
    pub(super) progress: Progress,
    pub(super) allocated: Option<AtomicU64>,
    pub(super) changed_blocks: AtomicU64,
    pub(super) read: AtomicU64,
    pub(super) deduplicated_blocks: AtomicU64,
    pub(super) stored: AtomicU64,
    pub(super) delta_blocks: AtomicU64,
    /// Bytes in blocks that are new to the vault, and those of them that hardly compress.
    new: AtomicU64,
    incompressible: AtomicU64,
    pub(super) skipped: Mutex<Vec<SkippedRange>>,
    pub(super) done_after: Mutex<Duration>,
    /// The ranges that are reported as changed, although everything is compared.
    doubted: Option<RangeSet>,
    unexpected_blocks: AtomicU64,
}

impl DiskWork {
    pub(super) fn count_allocated(&self, bytes: u64) {
        if let Some(allocated) = &self.allocated {
            allocated.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts a block that differs from the parent's.
    pub(super) fn count_changed(&self, block: u64) {
        self.changed_blocks.fetch_add(1, Ordering::Relaxed);
        let start = block.saturating_mul(BLOCK_SIZE_U64);
        let range = ByteRange::between(start, start.saturating_add(BLOCK_SIZE_U64));
        if self.doubted.as_ref().is_some_and(|said| said.within(range).next().is_none()) {
            self.unexpected_blocks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts blocks of one record: their bytes, and what of them the record has.
    pub(super) fn count_new(&self, plain: usize, payload: usize) {
        let [plain, payload] = [plain, payload].map(|len| u64::try_from(len).unwrap_or(u64::MAX));
        self.new.fetch_add(plain, Ordering::Relaxed);
        if NewContent::is_incompressible(plain, payload) {
            self.incompressible.fetch_add(plain, Ordering::Relaxed);
        }
    }

    pub(super) fn disk_error(&self, source: DiskError) -> EngineError {
        EngineError::Disk { name: self.name.clone(), source }
    }

    pub(super) fn image_error(&self, source: strongroom_image::Error<VaultError>) -> EngineError {
        match source {
            strongroom_image::Error::Store(error) => EngineError::Vault(error),
            source => EngineError::Image { name: self.name.clone(), source },
        }
    }
}

/// What a sample of the blocks that are reported as unchanged has found.
#[derive(Clone, Copy, Default)]
pub(super) struct Sample {
    /// Blocks that were compared.
    pub(super) checked: u64,
    /// Blocks that could not be read. The parent point has them, so that is no failure.
    pub(super) unreadable: u64,
    /// Whether a block differed.
    pub(super) differs: bool,
}

/// A disk with what its backup starts from.
pub(super) struct Job<'a> {
    pub(super) work: DiskWork,
    pub(super) disk: &'a BackupDisk,
    pub(super) source: &'a dyn DiskSource,
    pub(super) parent: Option<Image>,
    /// What is read: what may have changed, in whole blocks; none: everything.
    pub(super) changed: Option<RangeSet>,
    pub(super) changes_from: &'static str,
    /// What a sample of everything else has found.
    pub(super) sample: Sample,
    /// What said which ranges had changed, for people.
    said_by: &'static str,
}

/// Decides for every disk what it is compared with and what says which parts changed.
pub(super) fn plan_jobs<'a>(
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
        // A caller who says what changed means "since the last backup", and means its own: what
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
        let (changed, changes_from, said_by) =
            match (image.filter(|_| known), &disk.changed, source.changed()) {
                (Some(_), Some(ranges), _) => (Some(ranges), "ranges", "the changed ranges"),
                (Some(_), None, Some(bitmap)) => (Some(bitmap), "bitmap", "the dirty bitmap"),
                (None, _, _) | (Some(_), None, None) => (None, "all", ""),
            };
        let changed = changed.zip(old).map(|(changed, old)| {
            // What the parent has only as zeros, since it could not be read, is read again.
            let skipped = old.skipped.iter();
            let skipped =
                skipped.filter_map(|range| ByteRange::new(range.offset, range.length).ok());
            let others = skipped.chain(disk.also_changed.iter());
            let all =
                changed.iter().chain(others.map(|r| r.intersect(ByteRange::between(0, size))));
            with_resize(&RangeSet::from_unsorted(all.collect()), old.size_bytes, size)
                .align_outwards(BLOCK_SIZE_U64)
        });
        if let Some(end) = disk.changed.as_ref().map(RangeSet::end).filter(|end| *end > size) {
            return Err(EngineError::Ranges { name: disk.name.clone(), size, end });
        }
        progress.add_total(changed.as_ref().map_or(size, RangeSet::total_len));
        let mut job = Job {
            work: DiskWork {
                name: disk.name.clone(),
                progress: progress.clone(),
                allocated: changed.is_none().then(AtomicU64::default),
                changed_blocks: AtomicU64::new(0),
                read: AtomicU64::new(0),
                deduplicated_blocks: AtomicU64::new(0),
                stored: AtomicU64::new(0),
                delta_blocks: AtomicU64::new(0),
                new: AtomicU64::new(0),
                incompressible: AtomicU64::new(0),
                skipped: Mutex::default(),
                done_after: Mutex::default(),
                doubted: None,
                unexpected_blocks: AtomicU64::new(0),
            },
            disk,
            source,
            parent: image,
            changed,
            changes_from,
            sample: Sample::default(),
            said_by,
        };
        if disk.clean == CleanCheck::All {
            job.read_all();
        }
        jobs.push(job);
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

impl Job<'_> {
    /// Has everything read and compared, whatever is said to have changed.
    pub(super) fn read_all(&mut self) {
        let Some(said) = self.changed.take() else { return };
        let rest = self.source.size().saturating_sub(said.total_len());
        self.work.progress.add_total(rest);
        self.work.allocated = Some(AtomicU64::new(0));
        self.work.doubted = Some(said);
        self.changes_from = "all";
    }

    /// Blocks that are not said to have changed.
    pub(super) fn clean_blocks(&self, said: &RangeSet) -> u64 {
        let blocks = self.source.size().div_ceil(BLOCK_SIZE_U64);
        blocks.saturating_sub(said.total_len().div_ceil(BLOCK_SIZE_U64))
    }

    /// What people should know.
    fn notes(&self, unexpected: u64) -> Vec<String> {
        let said_by = self.said_by;
        let mut notes = self.disk.notes.clone();
        if self.sample.differs {
            notes.push(format!(
                "a sample showed that {said_by} had missed changes: everything was read and compared, and {} had been missed",
                blocks(unexpected)
            ));
        } else if unexpected > 0 {
            notes.push(format!("{} had changed that {said_by} had missed", blocks(unexpected)));
        }
        if self.sample.unreadable > 0 {
            notes.push(format!(
                "{} that {said_by} left out could not be read when they were checked",
                blocks(self.sample.unreadable)
            ));
        }
        notes
    }

    /// What is new to the vault. Without a parent everything is, which says nothing.
    pub(super) fn new_content(&self) -> Option<NewContent> {
        self.parent.map(|_| NewContent {
            bytes: self.work.new.load(Ordering::Relaxed),
            incompressible_bytes: self.work.incompressible.load(Ordering::Relaxed),
        })
    }

    pub(super) fn report(&self, started: Duration) -> DiskBackupReport {
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
            new_bytes: self.new_content().map(|new| new.bytes),
            incompressible_bytes: self.new_content().map(|new| new.incompressible_bytes),
            changes_from: self.changes_from.to_owned(),
            skipped,
            checkpoint: self.disk.checkpoint.clone(),
            checked_blocks: work
                .doubted
                .as_ref()
                .map_or(self.sample.checked, |said| self.clean_blocks(said)),
            unexpected_blocks: load(&work.unexpected_blocks),
            notes: self.notes(load(&work.unexpected_blocks)),
            seconds: done_after.saturating_sub(started).as_secs_f64(),
        }
    }
}

/// Some blocks, for people.
fn blocks(count: u64) -> String {
    if count == 1 { "1 block".to_owned() } else { format!("{count} blocks") }
}
