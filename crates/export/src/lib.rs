//! A recovery point as a disk.
//!
//! ```text
//!  manifest ─▶ PointDisk ─▶ DiskSource: extents, read_at ─▶ a copy of the point, and whatever else reads disks
//!                  └─ tree nodes, blocks ◀── vault::Reader                 └─▶ Shown: an export of an NBD server
//! ```
//!
//! Code that shows a point to others (over NBD, as a file system, as a machine's disk) reads it here. What could
//! not be read when the point was made cannot be read from it either: it is no zeros.
//!
//! This crate knows vaults and what a disk is; it knows neither jobs nor who reads.

mod serve;
mod shown;

use std::sync::{Arc, Mutex};

use strongroom_base::{BLOCK_SIZE, BLOCK_SIZE_U64, ByteRange, Coded as _, RangeSet, lock};
use strongroom_disk::{DiskError, DiskSource, Extent, ExtentKind};
use strongroom_format::DiskRecord;
use strongroom_image::{Cursor, Error, Image, SizeError, blocks};
use strongroom_vault::{Vault, VaultError};

pub use serve::{Endpoint, Export, Serving, serve_disks};
pub use shown::Shown;
pub use strongroom_nbd::server::Owner;

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
}

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
        })
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
