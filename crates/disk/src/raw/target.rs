//! Raw files and block devices to write.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, OFlags},
    io::Errno,
};
use strongroom_base::ByteRange;

use super::{
    file::{Access, RawFile, open_error},
    locks,
};
use crate::{
    DiskError, DiskTarget, Extent,
    num::to_usize,
    within::{self, open_ours},
};

/// Zeros that are written where a range cannot be made a hole.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// What is done with a target that holds something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is refused.
    #[default]
    Refuse,
    /// Its content is kept, to be compared and overwritten where it differs, or to
    /// continue an interrupted restore.
    Keep,
    /// It is kept if an earlier run of ours can have left it: a regular file of our user with one name, no
    /// link, that nobody else may write to. Else it is refused.
    Ours,
}

/// What is done with a name that is a symbolic link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// It is followed: the user who named it knows where it leads.
    #[default]
    Followed,
    /// It is refused.
    Refused,
}

/// Opens what has the name of a target.
pub(crate) fn open_existing(
    path: &Path,
    name: &str,
    existing: Existing,
    links: Links,
) -> Result<File, DiskError> {
    if existing == Existing::Ours {
        return open_ours(path, true).map_err(|error| within::open_error(name, error));
    }
    let data = path.metadata();
    let device = data.is_ok_and(|data| data.file_type().is_block_device());
    let access = if device { Access::WriteAlone } else { Access::Write };
    let flags = if links == Links::Refused { OFlags::NOFOLLOW } else { OFlags::empty() };
    let file = RawFile::open_file(path, access, flags);
    let file = file.map_err(|error| within::open_error(name, error))?;
    let kind = file.metadata().map_err(|error| open_error(name, error))?.file_type();
    if kind.is_block_device() && !device {
        let reason = "it became a device while it was opened".to_owned();
        return Err(DiskError::Spec { disk: name.to_owned(), reason });
    }
    // Nobody has said that this very file is meant: its owner would own the disk.
    if existing == Existing::Refuse && kind.is_file() {
        let reason = not_meant(&file, path).map_err(|error| open_error(name, error))?;
        if let Some(reason) = reason {
            return Err(DiskError::Planted { disk: name.to_owned(), reason });
        }
    }
    Ok(file)
}

/// Why a file that has the name of a new one cannot be taken for it, be it empty or not.
fn not_meant(file: &File, path: &Path) -> io::Result<Option<&'static str>> {
    let (data, named) = (file.metadata()?, path.symlink_metadata()?);
    Ok(if (data.dev(), data.ino()) != (named.dev(), named.ino()) {
        Some("it is a symbolic link")
    } else if data.uid() != rustix::process::geteuid().as_raw() && data.len() == 0 {
        Some("it belongs to another user")
    } else if data.mode() & 0o002 != 0 && data.len() == 0 {
        Some("others may write to it")
    } else {
        None
    })
}

/// A raw file or block device to write.
#[derive(Debug)]
pub(crate) struct RawTarget {
    file: RawFile,
    blank: bool,
    folder: Option<File>,
}

impl RawTarget {
    /// Opens or makes the target at `path` for a disk of `size` bytes.
    ///
    /// A file gets exactly this size; a new one is made for its owner alone (mode 0600). Whether
    /// a block device is empty is for the caller to look at.
    pub(crate) fn open(
        path: &Path,
        name: &str,
        size: u64,
        existing: Existing,
        links: Links,
    ) -> Result<Self, DiskError> {
        let made =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let (file, is_new) = match made {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                (open_existing(path, name, existing, links)?, false)
            }
            Err(error) => return Err(open_error(name, error)),
        };
        let mut file = RawFile::of(file, name)?;
        let taken = locks::take(file.file());
        if !taken.map_err(|error| file.io_error("lock", error))? {
            let reason = locks::BY_A_MACHINE.to_owned();
            return Err(DiskError::Busy { disk: name.to_owned(), reason });
        }
        let was_empty = file.len() == 0;
        if file.is_device() {
            if file.len() < size {
                let disk = name.to_owned();
                return Err(DiskError::TooSmall { disk, have: file.len(), need: size });
            }
            return Ok(Self { file, blank: false, folder: None });
        }
        if !was_empty && existing == Existing::Refuse {
            return Err(DiskError::NotEmpty { disk: name.to_owned() });
        }
        if file.len() != size {
            file.set_len(size)?;
        }
        let folder = path.parent().filter(|_| is_new).map(|folder| {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder).map_err(|error| file.io_error("open its folder", error))
        });
        Ok(Self { file, blank: was_empty, folder: folder.transpose()? })
    }

    /// Whether it is a block device.
    pub(crate) const fn is_device(&self) -> bool {
        self.file.is_device()
    }

    fn write_zeros_plainly(&self, range: ByteRange) -> Result<(), DiskError> {
        let mut at = range.offset();
        while at < range.end() {
            let left = to_usize(range.end().saturating_sub(at));
            let part = ZEROS.get(..left.min(ZEROS.len())).unwrap_or_default();
            self.file.write(at, part)?;
            at = at.saturating_add(crate::num::to_u64(part.len()));
        }
        Ok(())
    }
}

impl DiskTarget for RawTarget {
    fn size(&self) -> u64 {
        self.file.len()
    }

    fn is_blank(&self) -> bool {
        self.blank
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.file.write(offset, data)
    }

    fn write_zeroes(&self, range: ByteRange) -> Result<(), DiskError> {
        if range.is_empty() {
            return Ok(());
        }
        for how in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
            let how = how | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(self.file.file(), how, range.offset(), range.len()) {
                Ok(()) => return Ok(()),
                // Not on this file system or device, or not at this alignment.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {}
                Err(error) => return Err(self.file.write_error(range, error.into())),
            }
        }
        self.write_zeros_plainly(range)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.file.read(offset, buf)
    }

    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        self.file.extents(range)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.file.sync()?;
        match &self.folder {
            Some(folder) => {
                folder.sync_all().map_err(|error| self.file.io_error("sync its folder of", error))
            }
            None => Ok(()),
        }
    }
}
