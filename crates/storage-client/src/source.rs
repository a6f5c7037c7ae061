//! A snapshot of a page blob as a disk to read, and what has changed since an earlier snapshot.

use std::num::NonZeroU32;

use strongroom_azure::{BlobPath, ReadBlob, SnapshotId};
use strongroom_base::{ByteRange, Coded as _, RangeSet};
use strongroom_disk::{DiskError, DiskSource, Extent, ExtentKind};

use crate::{Client, RangeQuery, StorageClientError};

/// The most bytes of one read: the service checks no more by a checksum.
const MAX_READ: usize = 4 << 20;
/// The most ranges of one answer of [`DiskSource::extents`].
const RANGES: NonZeroU32 = NonZeroU32::new(5000).unwrap();

/// A snapshot of a page blob. Reads may come from many threads; each takes up to 4 MiB of memory.
#[derive(Debug)]
pub struct SnapshotDisk {
    client: Client,
    path: BlobPath,
    snapshot: SnapshotId,
    size: u64,
    changed: Option<RangeSet>,
}

impl SnapshotDisk {
    /// Opens a snapshot. With `since`, an earlier snapshot of the same blob, it knows what has changed; where the service
    /// lists no difference (the blob was created again, or the snapshot is gone), it knows nothing, and all is read.
    pub fn open(
        client: Client,
        path: BlobPath,
        snapshot: SnapshotId,
        since: Option<SnapshotId>,
    ) -> Result<Self, StorageClientError> {
        let read = ReadBlob { snapshot: Some(snapshot), ..ReadBlob::default() };
        let size = client.properties(&path, &read)?.length;
        if size == 0 {
            let reason = "it has no bytes";
            return Err(StorageClientError::Unsuitable { resource: path.to_string(), reason });
        }
        let changed = match since {
            None => None,
            Some(since) => difference(&client, &path, snapshot, since, size)?,
        };
        Ok(Self { client, path, snapshot, size, changed })
    }

    fn read_of(&self) -> ReadBlob {
        ReadBlob { snapshot: Some(self.snapshot), ..ReadBlob::default() }
    }

    fn failed(&self, error: StorageClientError) -> DiskError {
        DiskError::Point {
            disk: format!("{}@{}", self.path, self.snapshot),
            code: error.code(),
            source: Box::new(error),
        }
    }
}

/// What differs between two snapshots; `None` if the service cannot list it.
fn difference(
    client: &Client,
    path: &BlobPath,
    snapshot: SnapshotId,
    since: SnapshotId,
    size: u64,
) -> Result<Option<RangeSet>, StorageClientError> {
    let Some(earlier) = client.find(path, Some(since))? else { return Ok(None) };
    // Its lists do not name what was cleared.
    if client.is_azurite() {
        return Ok(None);
    }
    let query = RangeQuery {
        read: ReadBlob { snapshot: Some(snapshot), ..ReadBlob::default() },
        previous: Some(since),
        ..RangeQuery::default()
    };
    let mut ranges = Vec::new();
    for range in client.pages(path, query) {
        match range {
            Ok(listed) => ranges.push(listed.range),
            // The blob was created again, or the service has no differences.
            Err(error)
                if matches!(error.refused().map(|it| it.failure.status), Some(409 | 501)) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    // What the blob has grown by is new, whatever was written there.
    if earlier.length < size {
        ranges.push(ByteRange::between(earlier.length, size));
    }
    Ok(Some(RangeSet::from_unsorted(ranges)))
}

impl DiskSource for SnapshotDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        let mut found = Vec::new();
        if range.is_empty() {
            return Ok(found);
        }
        let query = RangeQuery {
            read: self.read_of(),
            within: Some(range),
            page: Some(RANGES),
            ..RangeQuery::default()
        };
        let mut at = range.offset();
        let mut push = |end: u64, kind: ExtentKind| {
            if at < end {
                found.push(Extent { range: ByteRange::between(at, end), kind });
                at = end;
            }
        };
        let most = usize::try_from(RANGES.get()).unwrap_or(usize::MAX);
        let mut count = 0_usize;
        for listed in self.client.pages(&self.path, query) {
            let listed = listed.map_err(|error| self.failed(error))?.range;
            push(listed.offset().clamp(range.offset(), range.end()), ExtentKind::Zero);
            push(listed.end().min(range.end()), ExtentKind::Data);
            count = count.saturating_add(1);
            if count >= most {
                return Ok(found);
            }
        }
        push(range.end(), ExtentKind::Zero);
        Ok(found)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let mut at = offset;
        for part in buf.chunks_mut(MAX_READ) {
            let wanted = u64::try_from(part.len()).unwrap_or(u64::MAX);
            let range = ByteRange::between(at, at.saturating_add(wanted).min(self.size));
            let read = self.client.get(&self.path, &self.read_of(), range);
            let read = read.map_err(|error| self.failed(error))?;
            let (now, behind) = part.split_at_mut_checked(read.len()).unwrap_or_default();
            now.copy_from_slice(&read);
            // What lies behind the end reads as zeros.
            behind.fill(0);
            at = at.saturating_add(wanted);
        }
        Ok(())
    }

    fn changed(&self) -> Option<&RangeSet> {
        self.changed.as_ref()
    }

    fn format(&self) -> &'static str {
        "blob"
    }
}
