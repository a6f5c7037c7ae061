//! A disk that is read, as an export of an NBD server.

use std::{io, sync::Arc};

use strongroom_base::ByteRange;
use strongroom_disk::{DiskError, DiskSource, ExtentKind};
use strongroom_nbd::server::{Allocation, Exported};

/// Shows a disk to NBD clients, read-only. What cannot be read is an I/O error to them, never zeros.
pub struct Shown(Arc<dyn DiskSource>);

impl Shown {
    /// Shows this disk.
    pub fn new(disk: Arc<dyn DiskSource>) -> Self {
        Self(disk)
    }
}

/// The client's kind of error, with our words.
fn of_disk(error: DiskError) -> io::Error {
    io::Error::other(error)
}

impl Exported for Shown {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf).map_err(of_disk)
    }

    fn allocation(&self, offset: u64, len: u64) -> io::Result<Vec<Allocation>> {
        let range = ByteRange::new(offset, len).map_err(io::Error::other)?;
        let extents = self.0.extents(range).map_err(of_disk)?;
        let stretch = |extent: strongroom_disk::Extent| Allocation {
            len: extent.range.len(),
            is_hole: extent.kind == ExtentKind::Zero,
        };
        Ok(extents.into_iter().map(stretch).collect())
    }
}
