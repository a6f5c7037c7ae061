//! Raw files and block devices to read.

use strongroom_base::{ByteRange, RangeSet, SECTOR_SIZE};

use super::{file::RawFile, locks};
use crate::{DiskError, DiskSource, Extent, num::round_up};

/// A raw file or block device to read.
#[derive(Debug)]
pub(crate) struct RawSource {
    file: RawFile,
}

impl RawSource {
    /// A disk of an open file; one that somebody may write to by QEMU's locks is busy, unless
    /// `even_if_in_use`.
    pub(crate) fn of(file: RawFile, name: &str, even_if_in_use: bool) -> Result<Self, DiskError> {
        // A file system without locks cannot tell; QEMU does without them there as well.
        if !even_if_in_use && locks::has_writer(file.file()).unwrap_or(false) {
            let reason = locks::BY_A_MACHINE.to_owned();
            return Err(DiskError::Busy { disk: name.to_owned(), reason });
        }
        Ok(Self { file })
    }
}

impl DiskSource for RawSource {
    fn size(&self) -> u64 {
        round_up(self.file.len(), SECTOR_SIZE)
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.file.extents(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.file.read(offset, buf)
    }

    fn changed(&self) -> Option<&RangeSet> {
        None
    }

    fn format(&self) -> &'static str {
        "raw"
    }
}
