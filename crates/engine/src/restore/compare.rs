//! Finds the parts of a target that are already right, for restores in place and for continued
//! restores.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use strongroom_base::{AlignedBuf, BLOCK_SIZE, ByteRange, Digest, LEAF_SPAN};
use strongroom_disk::{DiskError, ExtentKind};
use strongroom_image::Node;
use strongroom_vault::Vault;

use super::{
    holes::Holes,
    job::{Job, Wanted},
};
use crate::{
    Overwrite,
    error::{EngineError, Result},
};

/// Compares a target with an image, leaf by leaf, with several threads.
pub(super) struct Comparer<'a> {
    vault: &'a Vault,
    job: &'a Job<'a>,
    threads: usize,
}

impl<'a> Comparer<'a> {
    pub(super) fn new(vault: &'a Vault, job: &'a Job<'a>, threads: usize) -> Self {
        Self { vault, job, threads }
    }

    /// Finds the blocks of a window of leaves that differ; clears blocks that must be zero.
    pub(super) fn window(
        &self,
        window: Range<u64>,
        leaves: &[(u64, Arc<Node>)],
        wanted: &mut Wanted,
    ) -> Result<()> {
        let next = AtomicU64::new(window.start);
        let found: Mutex<Vec<(u64, Digest)>> = Mutex::default();
        let error: Mutex<Option<EngineError>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    let mut buffer = AlignedBuf::with_capacity(BLOCK_SIZE.saturating_mul(32));
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= window.end {
                            break;
                        }
                        let node = leaves.iter().find(|(leaf, _)| *leaf == index);
                        let node = node.map(|(_, node)| &**node);
                        match self.leaf(index, node, &mut buffer) {
                            Ok(differing) => found
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .extend(differing),
                            Err(failed) => {
                                next.store(window.end, Ordering::Relaxed);
                                *error.lock().unwrap_or_else(PoisonError::into_inner) =
                                    Some(failed);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_unstable_by_key(|(block, _)| *block);
        let mut holes = Holes::new(self.job);
        for (block, digest) in found {
            if digest.is_hole() {
                holes.add(block)?;
            } else {
                wanted.entry(digest).or_default().push(block);
            }
        }
        holes.close()
    }

    /// The blocks of one leaf that differ, with the digests they should have.
    fn leaf(
        &self,
        index: u64,
        node: Option<&Node>,
        buffer: &mut AlignedBuf,
    ) -> Result<Vec<(u64, Digest)>> {
        let job = self.job;
        let first = index.saturating_mul(256);
        let start = index.saturating_mul(LEAF_SPAN);
        let span = ByteRange::between(start, start.saturating_add(LEAF_SPAN).min(job.image.size()));
        let mut has_data = [false; 256];
        let mut rest = span;
        while !rest.is_empty() {
            let extents = job.target.extents(rest).map_err(|source| job.disk_error(source))?;
            let end = extents.last().map_or(rest.end(), |extent| extent.range.end());
            for extent in extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
                let blocks = job.image.block_range(extent.range.intersect(span));
                let slot = |block: u64| usize::try_from(block.saturating_sub(first)).unwrap_or(256);
                let slots = slot(blocks.start)..slot(blocks.end).min(256);
                has_data.get_mut(slots).into_iter().flatten().for_each(|slot| *slot = true);
            }
            rest = ByteRange::between(end, rest.end());
        }
        let mut differing = Vec::new();
        let mut loaded = None;
        let blocks = (first..job.image.blocks()).zip(0_u8..=255).zip(has_data);
        for (slot, ((block, number), data)) in blocks.enumerate() {
            let wanted = node.map_or(Digest::HOLE, |node| node.get(number));
            let there = if data {
                // Reads are of 32 blocks, at multiples of 32.
                let (group, at) = (slot >> 5, slot & 31);
                if loaded != Some(group) {
                    self.read(block.saturating_sub(u64::try_from(at).unwrap_or(0)), buffer)?;
                    loaded = Some(group);
                }
                let at = at.saturating_mul(BLOCK_SIZE);
                let bytes = buffer.get(at..at.saturating_add(BLOCK_SIZE)).unwrap_or_default();
                self.vault.hasher().block(bytes)
            } else {
                Digest::HOLE
            };
            job.compared_blocks.fetch_add(1, Ordering::Relaxed);
            if !wanted.is_hole() {
                job.data_blocks.fetch_add(1, Ordering::Relaxed);
            }
            if wanted != there {
                if job.overwrite == Overwrite::Nothing {
                    let disk = job.location.to_owned();
                    return Err(job.disk_error(DiskError::NotEmpty { disk }));
                }
                differing.push((block, wanted));
            }
        }
        Ok(differing)
    }

    fn read(&self, block: u64, buffer: &mut AlignedBuf) -> Result<()> {
        let range = self.job.range(block, 32);
        buffer.clear();
        buffer.resize(BLOCK_SIZE.saturating_mul(32));
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let part = buffer.get_mut(..len).unwrap_or_default();
        self.job.target.read_at(range.offset(), part).map_err(|source| self.job.disk_error(source))
    }
}
