//! What happens to one block: is it zero, unchanged, known, a small delta, or new?

use std::sync::{PoisonError, atomic::Ordering};

use strongroom_base::{BLOCK_SIZE, BLOCK_SIZE_U64, Digest};
use strongroom_format::{
    codec::{Encoder, Encoding},
    pack::RecordKind,
};
use strongroom_vault::{Reader, Vault, Writer, is_damage};

use super::{job::DiskWork, plan::UNIT_BLOCKS, reader::Filled};
use crate::error::{EngineError, Result};

/// A delta below this is taken without looking at what full compression would give.
const SMALL_DELTA: usize = 8 * 1024;
/// No delta is larger: beyond about half a block it is stored in full again.
const MAX_DELTA: usize = BLOCK_SIZE / 2;
/// Deltas that fail in a row before only every eighth block tries one: a rewritten file gains
/// nothing, a changed database nearly always.
const GIVE_UP_AFTER: u32 = 4;

/// Hashes, compresses and stores blocks; one for each thread.
pub(super) struct Worker<'a> {
    vault: &'a Vault,
    writer: &'a Writer,
    encoder: Encoder,
    reader: Reader<'a>,
    base: Vec<u8>,
    deltas: bool,
    misses: u32,
    /// New blocks that will share a record, one behind the other, and their digests.
    together: Vec<u8>,
    waiting: Vec<Digest>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(vault: &'a Vault, writer: &'a Writer, deltas: bool) -> Self {
        Self {
            vault,
            writer,
            encoder: Encoder::new(),
            reader: vault.reader(),
            base: Vec::new(),
            deltas,
            misses: 0,
            together: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Works through the blocks of a unit and notes their digests in its leaf.
    pub(super) fn unit(&mut self, filled: &mut Filled<'_>) -> Result<()> {
        let work = &filled.job.work;
        let leaf = &filled.unit.leaf;
        let mut updates = Vec::with_capacity(UNIT_BLOCKS);
        self.misses = 0;
        let mut blocks = filled.buffer.as_chunks::<BLOCK_SIZE>().0.iter();
        for run in &filled.unit.runs {
            for (slot, block) in (run.slot..=255).zip(blocks.by_ref().take(run.blocks)) {
                let old = leaf.parent.as_ref().map_or(Digest::HOLE, |node| node.get(slot));
                let digest = self.vault.hasher().block(block);
                if digest != old {
                    let first = leaf.index.saturating_mul(256);
                    work.count_changed(first.saturating_add(u64::from(slot)));
                    if !digest.is_hole() {
                        self.changed(work, digest, old, block)?;
                    }
                    updates.push((slot, digest));
                }
                work.progress.advance(BLOCK_SIZE_U64);
            }
        }
        self.store_waiting(work)?;
        let mut node = leaf.node.lock().unwrap_or_else(PoisonError::into_inner);
        updates.into_iter().for_each(|(slot, digest)| node.set(slot, digest));
        Ok(())
    }

    fn changed(
        &mut self,
        work: &DiskWork,
        digest: Digest,
        old: Digest,
        block: &[u8; BLOCK_SIZE],
    ) -> Result<()> {
        if !self.writer.claim(&digest)? {
            work.deduplicated_blocks.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        match self.delta_base(&old)? {
            Some(base) => self.store_best(work, digest, base, block),
            None => self.store_full(work, digest, block),
        }
    }

    fn count_stored(work: &DiskWork, stored: u32) {
        let stored = u64::from(stored);
        work.stored.fetch_add(stored, Ordering::Relaxed);
        work.progress.add_stored(stored);
    }

    /// The full block that the new one can be a delta against, read into `self.base`.
    fn delta_base(&mut self, old: &Digest) -> Result<Option<Digest>> {
        let worth = self.misses < GIVE_UP_AFTER || self.misses.is_multiple_of(8);
        if !self.deltas || old.is_hole() {
            return Ok(None);
        }
        if !worth {
            self.misses = self.misses.saturating_add(1);
            return Ok(None);
        }
        match self.writer.delta_base(&mut self.reader, old, &mut self.base) {
            Ok(base) => Ok(base),
            // A damaged old version must not stop the new one from being stored in full.
            Err(error) if !is_damage(&error) => Err(EngineError::Vault(error)),
            Err(error) => {
                tracing::warn!(%error, "no delta: the previous version of a block cannot be read");
                Ok(None)
            }
        }
    }

    fn store_best(
        &mut self,
        work: &DiskWork,
        digest: Digest,
        base: Digest,
        block: &[u8; BLOCK_SIZE],
    ) -> Result<()> {
        let delta = self.encoder.delta(block, &self.base, MAX_DELTA).map(<[u8]>::to_vec);
        let Some(delta) = delta else {
            self.misses = self.misses.saturating_add(1);
            return self.store_full(work, digest, block);
        };
        if delta.len() > SMALL_DELTA {
            // A delta binds its base, so it must save a good part.
            let (_, full) = self.encoder.full(block);
            if full.len().saturating_mul(3) < delta.len().saturating_mul(4) {
                self.misses = self.misses.saturating_add(1);
                return self.store_full(work, digest, block);
            }
        }
        self.misses = 0;
        work.delta_blocks.fetch_add(1, Ordering::Relaxed);
        let kind = RecordKind::of_block(Encoding::Delta);
        work.count_new(BLOCK_SIZE, delta.len());
        let stored = self.writer.store_block(kind, digest, BLOCK_SIZE, Some(base), &delta)?;
        Self::count_stored(work, stored);
        Ok(())
    }

    /// Stores a block in full: by itself, or together with the next ones.
    fn store_full(
        &mut self,
        work: &DiskWork,
        digest: Digest,
        block: &[u8; BLOCK_SIZE],
    ) -> Result<()> {
        self.together.extend_from_slice(block);
        self.waiting.push(digest);
        if self.waiting.len() < self.writer.unit_blocks() {
            Ok(())
        } else {
            self.store_waiting(work)
        }
    }

    /// Stores what waits to be stored together.
    fn store_waiting(&mut self, work: &DiskWork) -> Result<()> {
        if self.waiting.len() > 1
            && let Some(payload) = self.encoder.unit(&self.together)
            && self.writer.takes_unit(self.waiting.len(), payload)
        {
            work.count_new(self.together.len(), payload.len());
            let stored = self.writer.store_unit(&self.waiting, payload)?;
            Self::count_stored(work, stored);
        } else {
            for (digest, block) in self.waiting.iter().zip(self.together.chunks(BLOCK_SIZE)) {
                let (encoding, payload) = self.encoder.full(block);
                let kind = RecordKind::of_block(encoding);
                work.count_new(BLOCK_SIZE, payload.len());
                let stored = self.writer.store_block(kind, *digest, BLOCK_SIZE, None, payload)?;
                Self::count_stored(work, stored);
            }
        }
        self.together.clear();
        self.waiting.clear();
        Ok(())
    }
}
