//! The check of blocks that are reported as unchanged: a sample is compared with the parent point.
//!
//! Dirty bitmaps can be wrong: after a crash, when another program wrote to the image behind QEMU's
//! back, when a caller mixes up files. Such errors concern many blocks, so a small sample finds
//! them, and then the same run compares the whole disk.
//!
//! ```text
//!  a random place ─▶ the next leaf that the parent has (or where the source has data)
//!                 ─▶ some of its blocks that are not said to have changed ─▶ read, digest, compare
//! ```
//!
//! The last block of the parent that is not said to have changed always belongs to the sample: no
//! bitmap tells that a disk was made shorter and then longer again.
//!
//! Leaf by leaf, so that costs follow the sample, whatever the size of the disk.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use strongroom_base::{
    AlignedBuf, BLOCK_SIZE, BLOCK_SIZE_U64, ByteRange, Cancel, Digest, EntropyExt as _, LEAF_SPAN,
    RangeSet, SplitMix64,
};
use strongroom_disk::{DiskError, ExtentKind};
use strongroom_image::{Cursor, Image};
use strongroom_objects::Rate;
use strongroom_vault::Vault;

use super::{
    job::{Job, Sample},
    plan::{leaf_of, mark},
    reader::READERS,
};
use crate::{
    CleanCheck,
    error::{EngineError, Result},
    failure::Failure,
};

/// The least and the most blocks of a sample.
const LEAST: u64 = 64;
const MOST: u64 = 4096;
/// Blocks of one leaf: it costs a read of the vault.
const PER_LEAF: u64 = 8;
/// Leaves that are tried for each that would do if every one had enough blocks to choose from.
const TRIES: u64 = 4;

/// Leaves in which the last block is looked for.
const LAST_LEAVES: usize = 64;

/// Compares samples of the disks for which that was asked, and has everything read of those that
/// differ.
pub(super) fn check(
    vault: &Vault,
    jobs: &mut [Job<'_>],
    rate: &Rate,
    cancel: &Cancel,
) -> Result<()> {
    for job in jobs {
        let CleanCheck::Sample { one_in } = job.disk.clean else { continue };
        let (Some(changed), Some(parent)) = (&job.changed, job.parent) else { continue };
        let sample = Sampler::new(vault, job, parent, changed, one_in).run(rate, cancel)?;
        job.sample = sample;
        if sample.differs {
            tracing::warn!(
                disk = %job.disk.name,
                "blocks have changed that were said to be unchanged: everything is compared"
            );
            job.read_all();
        }
    }
    Ok(())
}

struct Sampler<'a> {
    vault: &'a Vault,
    job: &'a Job<'a>,
    parent: Image,
    changed: &'a RangeSet,
    leaves: u64,
    per_leaf: u64,
    /// One for each leaf that is tried.
    seeds: Vec<u64>,
    next: AtomicUsize,
    chosen: Mutex<Chosen>,
    checked: AtomicU64,
    unreadable: AtomicU64,
    differs: AtomicBool,
}

/// Which blocks belong to the sample.
struct Chosen {
    blocks: HashSet<u64>,
    /// How many more are wanted.
    wanted: u64,
}

impl<'a> Sampler<'a> {
    fn new(
        vault: &'a Vault,
        job: &'a Job<'a>,
        parent: Image,
        changed: &'a RangeSet,
        one_in: u64,
    ) -> Self {
        let clean = job.clean_blocks(changed);
        let share = clean.checked_div(one_in.max(1)).unwrap_or(0);
        let wanted = share.clamp(LEAST, MOST).min(clean);
        let leaves = job.source.size().div_ceil(LEAF_SPAN);
        let per_leaf = wanted.div_ceil(leaves.max(1)).max(PER_LEAF);
        let tries = wanted.div_ceil(per_leaf).saturating_mul(TRIES);
        let seeds = (0..tries).map(|_| u64::from_le_bytes(vault.entropy().array())).collect();
        Self {
            vault,
            job,
            parent,
            changed,
            leaves,
            per_leaf,
            seeds,
            next: AtomicUsize::new(0),
            chosen: Mutex::new(Chosen { blocks: HashSet::new(), wanted }),
            checked: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            differs: AtomicBool::new(false),
        }
    }

    /// Compares with several threads: what is not in a cache is slow to read.
    fn run(&self, rate: &Rate, cancel: &Cancel) -> Result<Sample> {
        let failure = Failure::new(cancel);
        if let Some((block, wanted)) = self.last()? {
            {
                let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
                chosen.blocks.insert(block);
                chosen.wanted = chosen.wanted.saturating_sub(1);
            }
            let mut buffer = AlignedBuf::zeroed(BLOCK_SIZE);
            self.count(self.read(block, &mut buffer)?, wanted);
        }
        std::thread::scope(|scope| {
            for _ in 0..READERS.min(self.seeds.len()) {
                scope.spawn(|| failure.keep(self.work(&failure, rate)));
            }
        });
        failure.into_result()?;
        Ok(Sample {
            checked: self.checked.load(Ordering::Relaxed),
            unreadable: self.unreadable.load(Ordering::Relaxed),
            differs: self.differs.load(Ordering::Relaxed),
        })
    }

    /// The last block that the parent has and that is not said to have changed. A disk that was made
    /// shorter and longer again has zeros from there on, and its bitmap says nothing of that.
    fn last(&self) -> Result<Option<(u64, Digest)>> {
        let mut cursor = Cursor::new(self.parent, self.vault);
        let mut end = self.parent.leaves();
        for _ in 0..LAST_LEAVES {
            let error = |source| self.job.work.image_error(source);
            let Some(leaf) = cursor.last_leaf(end).map_err(error)? else { break };
            for slot in (0..=255).rev() {
                let digest = leaf.node.get(slot);
                let block = leaf.index.saturating_mul(256).saturating_add(u64::from(slot));
                let start = block.saturating_mul(BLOCK_SIZE_U64);
                let range = ByteRange::between(start, start.saturating_add(BLOCK_SIZE_U64));
                let is_changed = self.changed.within(range).next().is_some();
                if !digest.is_hole() && !is_changed && start < self.job.source.size() {
                    return Ok(Some((block, digest)));
                }
            }
            end = leaf.index;
        }
        Ok(None)
    }

    fn work(&self, failure: &Failure<'_>, rate: &Rate) -> Result<()> {
        let mut cursor = Cursor::new(self.parent, self.vault);
        let mut buffer = AlignedBuf::zeroed(BLOCK_SIZE);
        while let Some(seed) = self.seeds.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            // What is chosen must not be foreseen, but is no secret.
            let mut chance = SplitMix64::new(*seed);
            let leaf = self.pick_leaf(&mut chance, &mut cursor)?;
            for (block, wanted, has_data) in self.pick_blocks(leaf, &mut chance, &mut cursor)? {
                if !failure.go_on() || self.differs.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let there = if has_data {
                    rate.take(BLOCK_SIZE_U64);
                    self.read(block, &mut buffer)?
                } else {
                    Some(Digest::HOLE)
                };
                self.count(there, wanted);
            }
        }
        Ok(())
    }

    /// Counts a block of which this is there and that is wanted.
    fn count(&self, there: Option<Digest>, wanted: Digest) {
        let Some(there) = there else {
            self.unreadable.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.checked.fetch_add(1, Ordering::Relaxed);
        if there != wanted {
            self.differs.store(true, Ordering::Relaxed);
        }
    }

    /// A leaf with something in it, most often: of the parent or, for what it should have and has
    /// not, of the source.
    fn pick_leaf(&self, chance: &mut SplitMix64, cursor: &mut Cursor<&'a Vault>) -> Result<u64> {
        let place = chance.below(self.leaves);
        if chance.below(4) == 0 {
            let from = place.saturating_mul(LEAF_SPAN);
            let rest = ByteRange::between(from, self.job.source.size());
            let extents = self.job.source.extents(rest);
            let extents = extents.map_err(|source| self.job.work.disk_error(source))?;
            let data = extents.iter().find(|extent| extent.kind == ExtentKind::Data);
            return Ok(data.map_or(place, |data| leaf_of(data.range.offset())));
        }
        let error = |source| self.job.work.image_error(source);
        for from in [place, 0] {
            let found = cursor.next_leaf(from).map_err(error)?;
            if let Some(leaf) = found.filter(|leaf| leaf.index < self.leaves) {
                return Ok(leaf.index);
            }
        }
        Ok(place)
    }

    /// Blocks of a leaf that are not said to have changed and hold something, in the parent or in
    /// the source: their numbers, what the parent has, and whether the source has data.
    fn pick_blocks(
        &self,
        leaf: u64,
        chance: &mut SplitMix64,
        cursor: &mut Cursor<&'a Vault>,
    ) -> Result<Vec<(u64, Digest, bool)>> {
        let start = leaf.saturating_mul(LEAF_SPAN);
        let end = start.saturating_add(LEAF_SPAN).min(self.job.source.size());
        let span = ByteRange::between(start, end);
        let mut has_data = [false; 256];
        let mut rest = span;
        while !rest.is_empty() {
            let extents = self.job.source.extents(rest);
            let extents = extents.map_err(|source| self.job.work.disk_error(source))?;
            for extent in extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
                mark(&mut has_data, span, extent.range, true);
            }
            let done = extents.last().map(|extent| extent.range.end());
            let done = done.filter(|done| *done > rest.offset());
            let done = done.ok_or(EngineError::Bug("a disk listed no extents"))?;
            rest = ByteRange::between(done, end);
        }
        let mut is_changed = [false; 256];
        for range in self.changed.within(span) {
            mark(&mut is_changed, span, range, true);
        }
        let parent = cursor.leaf(leaf).map_err(|source| self.job.work.image_error(source))?;
        let first = leaf.saturating_mul(256);
        let blocks = span.len().div_ceil(BLOCK_SIZE_U64);
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut candidates = Vec::new();
        for ((slot, has_data), is_changed) in (0_u8..=255).zip(has_data).zip(is_changed) {
            let wanted = parent.as_ref().map_or(Digest::HOLE, |leaf| leaf.node.get(slot));
            let block = first.saturating_add(u64::from(slot));
            let worth = has_data || !wanted.is_hole();
            if u64::from(slot) < blocks && worth && !is_changed && !chosen.blocks.contains(&block) {
                candidates.push((block, wanted, has_data));
            }
        }
        let mut picked = Vec::new();
        for _ in 0..self.per_leaf.min(chosen.wanted) {
            let count = u64::try_from(candidates.len()).unwrap_or(0);
            if count == 0 {
                break;
            }
            let at = usize::try_from(chance.below(count)).unwrap_or(0);
            picked.push(candidates.swap_remove(at));
        }
        chosen.blocks.extend(picked.iter().map(|(block, ..)| *block));
        let count = u64::try_from(picked.len()).unwrap_or(0);
        chosen.wanted = chosen.wanted.saturating_sub(count);
        drop(chosen);
        picked.sort_unstable_by_key(|(block, ..)| *block);
        Ok(picked)
    }

    /// The digest of a block of the source; none if it cannot be read.
    fn read(&self, block: u64, buffer: &mut AlignedBuf) -> Result<Option<Digest>> {
        let work = &self.job.work;
        let start = block.saturating_mul(BLOCK_SIZE_U64);
        match self.job.source.read_at(start, buffer) {
            Ok(()) => {}
            Err(DiskError::Read { .. }) => return Ok(None),
            Err(error) => return Err(work.disk_error(error)),
        }
        let bytes = self.job.source.size().saturating_sub(start).min(BLOCK_SIZE_U64);
        work.read.fetch_add(bytes, Ordering::Relaxed);
        Ok(Some(self.vault.hasher().block(buffer)))
    }
}
