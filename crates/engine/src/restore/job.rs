//! A disk during its restore: its target, its image, and its counters.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use strongroom_base::{BLOCK_SIZE_U64, ByteRange, Digest};
use strongroom_disk::{DiskError, DiskTarget};
use strongroom_image::Image;
use strongroom_vault::VaultError;

use crate::{
    DiskRestoreReport, Overwrite,
    error::{EngineError, Result},
};

/// Bytes of a hole that are made zero with one call at most.
const CLEAR_AT_ONCE: u64 = 64 << 30;

/// Blocks by digest: a block that occurs several times is fetched once a window.
pub(super) type Wanted = BTreeMap<Digest, Vec<u64>>;

/// One disk during its restore.
pub(super) struct Job<'a> {
    pub(super) name: &'a str,
    pub(super) location: &'a str,
    pub(super) target: &'a dyn DiskTarget,
    pub(super) image: Image,
    pub(super) overwrite: Overwrite,
    pub(super) data_blocks: AtomicU64,
    pub(super) compared_blocks: AtomicU64,
    pub(super) written_blocks: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

impl Job<'_> {
    pub(super) fn disk_error(&self, source: DiskError) -> EngineError {
        EngineError::Disk { name: self.name.to_owned(), source }
    }

    pub(super) fn image_error(&self, source: strongroom_image::Error<VaultError>) -> EngineError {
        match source {
            strongroom_image::Error::Store(error) => EngineError::Vault(error),
            source => EngineError::Image { name: self.name.to_owned(), source },
        }
    }

    /// Whether the target is read before it is written.
    pub(super) fn compares(&self) -> bool {
        self.overwrite != Overwrite::All
    }

    /// The bytes of this number of blocks, as far as they lie within the disk.
    pub(super) fn range(&self, block: u64, blocks: u64) -> ByteRange {
        let start = block.saturating_mul(BLOCK_SIZE_U64);
        let end = start.saturating_add(blocks.saturating_mul(BLOCK_SIZE_U64));
        ByteRange::between(start, end.min(self.image.size()))
    }

    /// Makes blocks zero on a target that is not known to be.
    pub(super) fn clear(&self, block: u64, blocks: u64) -> Result<()> {
        let range = self.range(block, blocks);
        self.target.write_zeroes(range).map_err(|source| self.disk_error(source))?;
        self.written_blocks.fetch_add(blocks, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a large hole zero, piece by piece: a target may need a while for each.
    pub(super) fn clear_range(&self, range: ByteRange) -> Result<()> {
        let mut start = range.offset();
        while start < range.end() {
            let end = start.saturating_add(CLEAR_AT_ONCE).min(range.end());
            let piece = ByteRange::between(start, end);
            self.target.write_zeroes(piece).map_err(|source| self.disk_error(source))?;
            start = end;
        }
        let blocks = range.len().div_ceil(BLOCK_SIZE_U64);
        self.written_blocks.fetch_add(blocks, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn report(&self, seconds: f64) -> DiskRestoreReport {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskRestoreReport {
            name: self.name.to_owned(),
            location: self.location.to_owned(),
            size_bytes: self.image.size(),
            data_bytes: load(&self.data_blocks).saturating_mul(BLOCK_SIZE_U64),
            compared_blocks: load(&self.compared_blocks),
            written_blocks: load(&self.written_blocks),
            written_bytes: load(&self.written_bytes),
            seconds,
        }
    }
}
