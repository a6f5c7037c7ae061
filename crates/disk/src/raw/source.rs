//! Raw files and block devices to read.

use strongroom_base::{ByteRange, RangeSet, SECTOR_SIZE};

use super::file::RawFile;
use crate::{
    DiskError, DiskSource, Extent, ExtentKind,
    num::{round_up, to_usize},
};

/// A raw file or block device to read.
#[derive(Debug)]
pub(crate) struct RawSource {
    file: RawFile,
}

impl RawSource {
    /// The disk of an open file.
    pub(crate) const fn of(file: RawFile) -> Self {
        Self { file }
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

/// A part of a raw file or block device, as a disk.
#[derive(Debug)]
pub(crate) struct Part {
    whole: RawSource,
    range: ByteRange,
}

impl Part {
    /// The part `range` of `whole`, if that is so long.
    pub(crate) fn new(whole: RawSource, range: ByteRange, name: &str) -> Result<Self, DiskError> {
        if range.is_empty() || range.end() > whole.file.len() {
            return Err(DiskError::Format {
                disk: name.to_owned(),
                format: "raw".to_owned(),
                reason: "the part of the file that it is ends beyond it".to_owned(),
            });
        }
        Ok(Self { whole, range })
    }

    /// The same range, counted from the beginning of the file.
    fn in_whole(&self, range: ByteRange) -> ByteRange {
        let start = self.range.offset();
        ByteRange::between(range.offset().saturating_add(start), range.end().saturating_add(start))
    }

    /// The same range, counted from the beginning of the part.
    fn in_part(&self, range: ByteRange) -> ByteRange {
        let start = self.range.offset();
        ByteRange::between(range.offset().saturating_sub(start), range.end().saturating_sub(start))
    }
}

impl DiskSource for Part {
    fn size(&self) -> u64 {
        round_up(self.range.len(), SECTOR_SIZE)
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        let within = range.intersect(ByteRange::between(0, self.range.len()));
        if within.is_empty() {
            return Ok(vec![Extent { range, kind: ExtentKind::Zero }]);
        }
        let found = self.whole.extents(self.in_whole(within))?;
        let shift = |extent: Extent| Extent { range: self.in_part(extent.range), ..extent };
        Ok(found.into_iter().map(shift).collect())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let have = to_usize(self.range.len().saturating_sub(offset)).min(buf.len());
        let (buf, past_end) = buf.split_at_mut(have);
        past_end.fill(0);
        let read = self.whole.read_at(self.range.offset().saturating_add(offset), buf);
        read.map_err(|error| match error {
            DiskError::Read { disk, range, source } => {
                DiskError::Read { disk, range: self.in_part(range), source }
            }
            other => other,
        })
    }

    fn changed(&self) -> Option<&RangeSet> {
        None
    }

    fn format(&self) -> &'static str {
        "raw"
    }
}
