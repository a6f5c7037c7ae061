//! The content of a snapshot to another blob, perhaps of another account: through this process, or by the service
//! of the target itself.

use bytes::Bytes;
use strongroom_azure::{BlobPath, BlobWrite, SnapshotId, SourceUrl};
use strongroom_base::ByteRange;
use strongroom_objects::Rate;

use super::{Counts, Work};
use crate::{
    Client, Held, Pages, RangeQuery, StorageClientError,
    blobs::of_snapshot,
    parallel::in_parallel,
    ranges::{Beside, Listed, Piece, Pieces, of_both, of_kind, without},
};

/// Bytes that are compared, and written if they differ.
const BLOCK: usize = 64 << 10;

/// From where the bytes of a snapshot are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readable {
    pub(crate) blob: BlobPath,
    /// None if it is a copy.
    pub(crate) snapshot: Option<SnapshotId>,
}

/// From a snapshot to a blob.
pub(crate) struct Copying<'a> {
    pub(crate) from: &'a Client,
    pub(crate) source: &'a BlobPath,
    pub(crate) snapshot: SnapshotId,
    pub(crate) to: &'a Client,
    pub(crate) target: &'a BlobPath,
    /// From where the bytes of the snapshot are read.
    pub(crate) readable: &'a Readable,
    /// The length of both.
    pub(crate) size: u64,
    /// With the lease.
    pub(crate) write: &'a BlobWrite,
    pub(crate) held: &'a Held,
    /// Set if the service of the target reads the source itself.
    pub(crate) url: Option<&'a SourceUrl>,
    pub(crate) counts: &'a Counts,
    /// What may move in a second.
    pub(crate) rate: &'a Rate,
    pub(crate) work: &'a Work,
}

/// A thing to do.
pub(crate) enum Step {
    /// Parts are copied.
    Copy(Piece),
    /// Parts are read on both sides and copied where they differ.
    Compare(Piece),
    /// Pages are cleared.
    Clear(ByteRange),
}

impl Copying<'_> {
    /// The pages of the source that have content.
    pub(crate) fn of_source(&self) -> impl Iterator<Item = Listed> {
        let query = RangeQuery { read: of_snapshot(Some(self.snapshot)), ..RangeQuery::default() };
        of_kind(self.from.pages(self.source, query), false, self.size)
    }

    /// The pages of the target that have content.
    pub(crate) fn of_target(&self) -> impl Iterator<Item = Listed> {
        of_kind(self.to.pages(self.target, RangeQuery::default()), false, self.size)
    }

    /// Does what is listed.
    pub(crate) fn run(
        &self,
        steps: impl Iterator<Item = Result<Step, StorageClientError>>,
    ) -> Result<(), StorageClientError> {
        let steps = steps.inspect(|step| {
            if let Ok(Step::Copy(piece) | Step::Compare(piece)) = step {
                self.work.progress.add_total(piece.read.len());
            }
        });
        in_parallel(self.work.parallel, &self.work.cancel, steps, |step| {
            self.held.check()?;
            match step {
                Step::Copy(piece) => self.copy(&piece),
                Step::Compare(piece) => self.compare(&piece),
                Step::Clear(range) => self.clear(range),
            }
        })
    }

    fn read(&self, range: ByteRange) -> Result<Bytes, StorageClientError> {
        self.rate.take(range.len());
        let Readable { blob, snapshot } = self.readable;
        let bytes = self.from.get(blob, &of_snapshot(*snapshot), range)?;
        Counts::add(&self.counts.read_bytes, range.len());
        Ok(bytes)
    }

    fn copy(&self, piece: &Piece) -> Result<(), StorageClientError> {
        let bytes = match self.url {
            Some(_) => Bytes::new(),
            None => self.read(piece.read)?,
        };
        for part in &piece.parts {
            match self.url {
                Some(url) => {
                    self.rate.take(part.len());
                    self.to.put_pages_from(self.target, *part, url, self.write)?;
                    self.written(part.len());
                }
                None => self.write(part.offset(), of_piece(&bytes, piece.read, *part)?)?,
            }
        }
        self.work.progress.advance(piece.read.len());
        Ok(())
    }

    fn compare(&self, piece: &Piece) -> Result<(), StorageClientError> {
        let wanted = self.read(piece.read)?;
        let have = self.to.get(self.target, &of_snapshot(None), piece.read)?;
        for part in &piece.parts {
            let wanted = of_piece(&wanted, piece.read, *part)?;
            let have = of_piece(&have, piece.read, *part)?;
            let mut at = part.offset();
            for (block, other) in wanted.chunks(BLOCK).zip(have.chunks(BLOCK)) {
                if block != other {
                    self.write(at, wanted.slice_ref(block))?;
                }
                at = at.saturating_add(u64::try_from(block.len()).unwrap_or(u64::MAX));
            }
        }
        self.work.progress.advance(piece.read.len());
        Ok(())
    }

    fn write(&self, offset: u64, bytes: Bytes) -> Result<(), StorageClientError> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.to.put_pages(self.target, offset, bytes, self.write)?;
        self.written(length);
        Ok(())
    }

    fn written(&self, bytes: u64) {
        Counts::add(&self.counts.written_bytes, bytes);
        Counts::add(&self.counts.written_ranges, 1);
        self.work.progress.add_stored(bytes);
    }

    fn clear(&self, range: ByteRange) -> Result<(), StorageClientError> {
        self.to.clear_pages(self.target, range, self.write)?;
        Counts::add(&self.counts.cleared_bytes, range.len());
        Counts::add(&self.counts.cleared_ranges, 1);
        Ok(())
    }
}

fn of_piece(bytes: &Bytes, piece: ByteRange, part: ByteRange) -> Result<Bytes, StorageClientError> {
    let outside = StorageClientError::Bug("a part is outside of its piece");
    let start =
        part.offset().checked_sub(piece.offset()).and_then(|start| usize::try_from(start).ok());
    let range = start
        .zip(usize::try_from(part.len()).ok())
        .map(|(start, length)| start..start.saturating_add(length));
    range.filter(|range| range.end <= bytes.len()).map(|range| bytes.slice(range)).ok_or(outside)
}

/// Makes the target equal to the source, by the lists of their pages. Pages that only the source has are copied, pages
/// that only the target has are cleared. Pages of both are compared, unless it is known that they are equal.
pub(crate) fn equalise(copying: &Copying<'_>, are_equal: bool) -> Result<(), StorageClientError> {
    if !are_equal {
        let mut beside = Beside::new(copying.of_target());
        let in_both = each(copying.of_source(), move |range| beside.within(range));
        copying.run(Pieces::new(in_both).map(|piece| piece.map(Step::Compare)))?;
    }
    let mut beside = Beside::new(copying.of_target());
    let missing =
        each(copying.of_source(), move |range| Ok(without(range, &beside.within(range)?)));
    copying.run(Pieces::new(missing).map(|piece| piece.map(Step::Copy)))?;
    let mut beside = Beside::new(copying.of_source());
    let surplus =
        each(copying.of_target(), move |range| Ok(without(range, &beside.within(range)?)));
    copying.run(surplus.map(|range| range.map(Step::Clear)))
}

/// Writes and clears what a difference of the source lists.
pub(crate) fn apply<'c>(
    copying: &Copying<'_>,
    difference: impl Fn() -> Pages<'c>,
) -> Result<(), StorageClientError> {
    let cleared = of_kind(difference(), true, copying.size);
    copying.run(cleared.map(|range| range.map(Step::Clear)))?;
    let written = of_kind(difference(), false, copying.size);
    copying.run(Pieces::new(written).map(|piece| piece.map(Step::Copy)))
}

/// Gives ranges of the target the content of the source, whatever they have.
pub(crate) fn repair<'c>(
    copying: &Copying<'_>,
    ranges: impl Fn() -> Pages<'c>,
) -> Result<(), StorageClientError> {
    let mut beside = Beside::new(copying.of_source());
    let empty = each(of_both(ranges(), copying.size), move |range| {
        Ok(without(range, &beside.within(range)?))
    });
    copying.run(empty.map(|range| range.map(Step::Clear)))?;
    let mut beside = Beside::new(copying.of_source());
    let full = each(of_both(ranges(), copying.size), move |range| beside.within(range));
    copying.run(Pieces::new(full).map(|piece| piece.map(Step::Copy)))
}

/// What a function makes of each range of a list.
fn each(
    list: impl Iterator<Item = Listed>,
    mut parts: impl FnMut(ByteRange) -> Result<Vec<ByteRange>, StorageClientError>,
) -> impl Iterator<Item = Listed> {
    list.flat_map(move |range| match range.and_then(&mut parts) {
        Ok(parts) => parts.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    })
}
