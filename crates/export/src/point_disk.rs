//! A disk of a recovery point.
//!
//! Every byte that it gives was compared with its digest by the vault's reader when its block was loaded.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use strongroom_base::{BLOCK_SIZE, BLOCK_SIZE_U64, ByteRange, Coded as _, RangeSet, lock};
use strongroom_disk::{DiskError, DiskSource, Extent, ExtentKind};
use strongroom_format::DiskRecord;
use strongroom_image::{Cursor, Error, Image, SizeError, blocks};
use strongroom_vault::{Vault, VaultError};

use crate::{
    ahead::{Streams, pieces},
    cache::{Block, BlockCache, Claim, Failure, Key, Ticket},
    load::{Effort, Shared, load},
};

/// Most stretches of one answer of [`DiskSource::extents`].
const EXTENTS_AT_ONCE: usize = 1024;

/// A disk of a recovery point, as a disk to read. Reads may come from many threads.
pub struct PointDisk {
    vault: Arc<Vault>,
    name: String,
    image: Image,
    format: String,
    /// What could not be read when the point was made.
    skipped: RangeSet,
    /// Blocks of threads that read parts of them.
    spare: Mutex<Vec<Vec<u8>>>,
    cached: Option<Cached>,
}

/// What a disk needs whose blocks are kept in memory.
struct Cached {
    cache: Arc<BlockCache>,
    streams: Mutex<Streams>,
}

/// Blocks that a read has in its hands at a time.
const AT_ONCE: u64 = 32;
/// Blocks that are read ahead of a stream, at most: 4 MiB of a folder, 16 MiB of a store behind a network.
const AHEAD_LOCAL: u64 = 64;
const AHEAD_FAR: u64 = 256;
/// Blocks that are loaded together from a store behind a network when one of them is read out of order.
const AROUND_FAR: u64 = 8;

impl PointDisk {
    /// The disk of this record. Fails if no image can have its size.
    pub fn new(vault: &Arc<Vault>, record: &DiskRecord) -> Result<Self, SizeError> {
        let skipped = record.skipped.iter();
        let skipped = skipped.filter_map(|it| ByteRange::new(it.offset, it.length).ok());
        Ok(Self {
            vault: Arc::clone(vault),
            name: record.name.clone(),
            image: Image::new(record.size_bytes, record.root)?,
            format: record.source.format.clone(),
            skipped: RangeSet::from_unsorted(skipped.collect()),
            spare: Mutex::default(),
            cached: None,
        })
    }

    /// The disk of this record, whose blocks are kept in memory and read ahead. For many clients, and for reads that
    /// come again.
    pub fn cached(
        vault: &Arc<Vault>,
        record: &DiskRecord,
        cache: &Arc<BlockCache>,
    ) -> Result<Self, SizeError> {
        let most = if vault.store().is_local() { AHEAD_LOCAL } else { AHEAD_FAR };
        let streams = Mutex::new(Streams::new(most.min(cache.capacity() / 8)));
        let cached = Some(Cached { cache: Arc::clone(cache), streams });
        Ok(Self { cached, ..Self::new(vault, record)? })
    }

    /// The name of the disk.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loads blocks into memory soon, if they are not there; waits while much else is read ahead. Nothing happens
    /// to a disk without a cache.
    pub fn read_ahead(&self, blocks: Range<u64>) {
        let Some(cached) = &self.cached else { return };
        for piece in pieces(blocks) {
            cached.cache.pool().give(self.work(cached, piece));
        }
    }

    fn work(&self, cached: &Cached, blocks: Range<u64>) -> Box<dyn FnOnce() + Send> {
        let (vault, image) = (Arc::clone(&self.vault), self.image);
        // Work that waits must not keep alive the cache whose threads do it.
        let cache = Arc::downgrade(&cached.cache);
        Box::new(move || {
            let Some(cache) = cache.upgrade() else { return };
            let mut cursor = Cursor::new(image, &*vault);
            let id = vault.config().vault_id;
            let mut tickets = Vec::new();
            for block in blocks {
                // What cannot be read is said to those who need it.
                let Ok(digest) = cursor.block(block) else { break };
                if !digest.is_hole() {
                    tickets.extend(cache.claim_absent(Key { vault: id, digest }));
                }
            }
            if !tickets.is_empty() {
                load(&vault, tickets, Effort::Ahead);
            }
        })
    }

    /// Reads through the cache.
    fn read_cached(
        &self,
        cached: &Cached,
        wanted: ByteRange,
        buf: &mut [u8],
    ) -> Result<(), DiskError> {
        let blocks = wanted.offset() / BLOCK_SIZE_U64..wanted.end().div_ceil(BLOCK_SIZE_U64);
        let ahead = lock(&cached.streams).read(&blocks);
        for piece in ahead.into_iter().flat_map(pieces) {
            let last = self.image.blocks();
            if piece.start < last {
                let work = self.work(cached, piece.start..piece.end.min(last));
                cached.cache.pool().offer(work);
            }
        }
        let mut cursor = Cursor::new(self.image, &*self.vault);
        let mut rest = buf;
        let mut first = blocks.start;
        while first < blocks.end {
            let end = first.saturating_add(AT_ONCE).min(blocks.end);
            let found = self.blocks(cached, &mut cursor, first..end)?;
            for (block, bytes) in (first..end).zip(found) {
                let start = block.saturating_mul(BLOCK_SIZE_U64);
                let skip = wanted.offset().saturating_sub(start);
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                let len = BLOCK_SIZE.saturating_sub(skip).min(rest.len());
                let (part, after) = rest.split_at_mut(len);
                match bytes {
                    None => part.fill(0),
                    Some(bytes) => {
                        let from = bytes.get(skip..skip.saturating_add(len));
                        let from =
                            from.ok_or_else(|| self.vault_error(VaultError::Bug("a short block")))?;
                        part.copy_from_slice(from);
                    }
                }
                rest = after;
            }
            first = end;
        }
        Ok(())
    }

    /// Some neighbouring blocks; nothing for a hole.
    fn blocks(
        &self,
        cached: &Cached,
        cursor: &mut Cursor<&Vault>,
        blocks: Range<u64>,
    ) -> Result<Vec<Option<Block>>, DiskError> {
        let id = self.vault.config().vault_id;
        let mut found = Vec::new();
        let mut tickets = Vec::new();
        let mut missing = Vec::new();
        for block in blocks.clone() {
            let digest = cursor.block(block).map_err(|error| self.image_error(error))?;
            if digest.is_hole() {
                found.push(None);
                continue;
            }
            let key = Key { vault: id, digest };
            let place = found.len();
            match cached.cache.claim(key) {
                Claim::Found(bytes) => found.push(Some(bytes)),
                Claim::Wait(flight) => {
                    found.push(None);
                    missing.push((place, key, flight));
                }
                Claim::Load(ticket) => {
                    found.push(None);
                    missing.push((place, key, ticket.flight()));
                    tickets.push(ticket);
                }
            }
        }
        if !tickets.is_empty() {
            self.load(cached, tickets, &blocks);
        }
        for (place, key, flight) in missing {
            let block = match flight.wait() {
                Some(outcome) => outcome.map_err(|failure| self.shared_error(failure))?,
                None => self.one(&cached.cache, key)?,
            };
            if let Some(slot) = found.get_mut(place) {
                *slot = Some(block);
            }
        }
        Ok(found)
    }

    /// Loads the blocks of a read; from a store behind a network with those around them.
    fn load(&self, cached: &Cached, tickets: Vec<Ticket<'_>>, blocks: &Range<u64>) {
        if !self.vault.store().is_local() {
            let start = blocks.start / AROUND_FAR * AROUND_FAR;
            let end = blocks.end.div_ceil(AROUND_FAR).saturating_mul(AROUND_FAR);
            let around = start..end.min(self.image.blocks());
            cached.cache.pool().offer(self.work(cached, around));
        }
        load(&self.vault, tickets, Effort::Full);
    }

    /// A block that one who read ahead gave up.
    fn one(&self, cache: &BlockCache, key: Key) -> Result<Block, DiskError> {
        loop {
            let outcome = match cache.claim(key) {
                Claim::Found(block) => return Ok(block),
                Claim::Wait(flight) => flight.wait(),
                Claim::Load(ticket) => {
                    let flight = ticket.flight();
                    load(&self.vault, vec![ticket], Effort::Full);
                    flight.wait()
                }
            };
            match outcome {
                Some(Ok(block)) => return Ok(block),
                Some(Err(failure)) => return Err(self.shared_error(failure)),
                None => {}
            }
        }
    }

    fn shared_error(&self, failure: Failure) -> DiskError {
        let code = failure.code();
        DiskError::Point { disk: self.name.clone(), code, source: Box::new(Shared(failure)) }
    }

    fn vault_error(&self, error: VaultError) -> DiskError {
        DiskError::Point { disk: self.name.clone(), code: error.code(), source: Box::new(error) }
    }

    fn image_error(&self, error: Error<VaultError>) -> DiskError {
        match error {
            Error::Store(error) => self.vault_error(error),
            error => {
                let code = error.code();
                DiskError::Point { disk: self.name.clone(), code, source: Box::new(error) }
            }
        }
    }

    fn lost(&self, range: ByteRange) -> DiskError {
        let reason = "it could not be read when the recovery point was made";
        DiskError::Read { disk: self.name.clone(), range, source: std::io::Error::other(reason) }
    }
}

impl DiskSource for PointDisk {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        let mut extents = Extents::new(range);
        // Unreadable parts are zeros in the image, and no zeros.
        let mut skipped = self.skipped.within(range).peekable();
        for block in blocks(self.image, &*self.vault, range) {
            let (block, _) = block.map_err(|error| self.image_error(error))?;
            let start = block.saturating_mul(BLOCK_SIZE_U64);
            while let Some(lost) = skipped.next_if(|lost| lost.offset() < start) {
                extents.data(lost);
            }
            extents.data(ByteRange::between(start, start.saturating_add(BLOCK_SIZE_U64)));
            if extents.list.len() >= EXTENTS_AT_ONCE {
                return Ok(extents.list);
            }
        }
        skipped.for_each(|lost| extents.data(lost));
        Ok(extents.end())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let wanted = ByteRange::between(offset, offset.saturating_add(length));
        if let Some(lost) = self.skipped.within(wanted).next() {
            return Err(self.lost(lost));
        }
        if let Some(cached) = &self.cached {
            return self.read_cached(cached, wanted, buf);
        }
        let mut cursor = Cursor::new(self.image, &*self.vault);
        let mut reader = self.vault.reader();
        let pool = || lock(&self.spare);
        let mut whole = pool().pop().unwrap_or_else(|| vec![0; BLOCK_SIZE]);
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let block = at.checked_div(BLOCK_SIZE_U64).unwrap_or(0);
            let skip = usize::try_from(at.checked_rem(BLOCK_SIZE_U64).unwrap_or(0)).unwrap_or(0);
            let len = BLOCK_SIZE.saturating_sub(skip).min(rest.len());
            let (part, after) = rest.split_at_mut(len);
            let digest = cursor.block(block).map_err(|error| self.image_error(error))?;
            if len == BLOCK_SIZE {
                reader.block(&digest, part).map_err(|error| self.vault_error(error))?;
            } else {
                reader.block(&digest, &mut whole).map_err(|error| self.vault_error(error))?;
                if let Some(bytes) = whole.get(skip..skip.saturating_add(len)) {
                    part.copy_from_slice(bytes);
                }
            }
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
            rest = after;
        }
        pool().push(whole);
        Ok(())
    }

    fn changed(&self) -> Option<&RangeSet> {
        None
    }

    fn format(&self) -> &str {
        &self.format
    }
}

/// Extents that are put together in ascending order.
struct Extents {
    list: Vec<Extent>,
    range: ByteRange,
    at: u64,
}

impl Extents {
    fn new(range: ByteRange) -> Self {
        Self { list: Vec::new(), range, at: range.offset() }
    }

    fn push(&mut self, end: u64, kind: ExtentKind) {
        let range = ByteRange::between(self.at, end.min(self.range.end()));
        if range.is_empty() {
            return;
        }
        self.at = range.end();
        match self.list.last_mut() {
            Some(last) if last.kind == kind => {
                last.range = ByteRange::between(last.range.offset(), range.end());
            }
            _ => self.list.push(Extent { range, kind }),
        }
    }

    /// There is data here; before it, as far as nothing was said, there are zeros.
    fn data(&mut self, range: ByteRange) {
        self.push(range.offset(), ExtentKind::Zero);
        self.push(range.end(), ExtentKind::Data);
    }

    fn end(mut self) -> Vec<Extent> {
        self.push(self.range.end(), ExtentKind::Zero);
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_have_no_gaps_and_join() {
        let mut extents = Extents::new(ByteRange::between(100, 1000));
        for (start, end) in [(0, 150), (150, 200), (300, 400), (350, 500), (900, 2000)] {
            extents.data(ByteRange::between(start, end));
        }
        let found = extents.end();
        let found: Vec<_> =
            found.iter().map(|e| (e.range.offset(), e.range.end(), e.kind)).collect();
        let (data, zero) = (ExtentKind::Data, ExtentKind::Zero);
        assert_eq!(
            found,
            [
                (100, 200, data),
                (200, 300, zero),
                (300, 500, data),
                (500, 900, zero),
                (900, 1000, data)
            ]
        );
    }
}
