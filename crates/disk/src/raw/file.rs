//! Bytes of a file or block device, without disturbing the host's page cache.
//!
//! A backup reads every disk of a host once. Read the usual way, that would push everything
//! useful out of the page cache; read with `O_DIRECT` alone, it would not see that a disk is
//! there already. So each read looks first:
//!
//! ```text
//!  read ─▶ look at 4 KiB ─ hit ─▶ look at 8 KiB ─ hit ─▶ ... up to 256 KiB at a time
//!                │ miss                 │ miss: wait for the rest of these 8 KiB
//!                ▼                      ▼
//!        the rest with O_DIRECT, then forget the one page that the first look brought in
//! ```
//!
//! A look is a read with `RWF_NOWAIT` and `RWF_DONTCACHE`. The kernel answers a miss at once, but
//! starts reading what was asked for into the page cache. That is why the first look is one page,
//! and why later ones are no longer than the run of hits before them. Pages that a look brought in
//! go once they have been read, by `RWF_DONTCACHE`; nothing else in the cache is touched. A hit may
//! make the kernel read ahead, if the cache was filled by reading in order; so at most the device's
//! read-ahead stays where such a stretch ends. Without the flag (before Linux 6.14, or on some
//! file systems) there are no looks: everything comes with `O_DIRECT`.
//!
//! Where `O_DIRECT` is not supported, reads and writes go through the page cache and what they
//! brought in is dropped behind them.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IoSliceMut},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{Advice, OFlags, SeekFrom},
    io::{Errno, ReadWriteFlags},
};
use strongroom_base::{AlignedBuf, ByteRange, SECTOR_SIZE};

use crate::{
    DiskError, Extent, ExtentKind,
    num::{round_down, round_up, to_u64, to_usize},
    within::pinned,
};

/// What any device and file system accepts for `O_DIRECT`.
const DIRECT_ALIGNMENT: u64 = 4096;

/// The most that goes through a buffer of our own at once.
const BOUNCE: u64 = 1 << 20;

/// The first look into the page cache, bytes: one page.
const FIRST_LOOK: usize = 4096;

/// The longest look into the page cache, bytes.
const LONGEST_LOOK: usize = 256 << 10;

/// Extents in one answer.
const MAX_EXTENTS: usize = 1024;

/// `RWF_DONTCACHE`: what a read brings into the page cache goes once it has been read.
const UNCACHED: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// A read that takes what is cached and does not wait for more.
const LOOK: ReadWriteFlags = ReadWriteFlags::NOWAIT.union(UNCACHED);

/// A file or block device, open twice: through the page cache and past it.
#[derive(Debug)]
pub(crate) struct RawFile {
    name: String,
    cached: File,
    direct: Option<File>,
    device: bool,
    len: u64,
    looks: AtomicBool,
}

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// To read.
    Read,
    /// To read and write.
    Write,
    /// To read and write, as the only user of a block device.
    WriteAlone,
}

/// A failed system call on a file that could not be opened, in the words of this crate.
pub(crate) fn open_error(name: &str, error: io::Error) -> DiskError {
    let disk = name.to_owned();
    match error.kind() {
        ErrorKind::NotFound => DiskError::NotFound { disk },
        ErrorKind::PermissionDenied => DiskError::Denied { disk },
        ErrorKind::ResourceBusy => {
            DiskError::Busy { disk, reason: "it is mounted or held by another program".to_owned() }
        }
        _ => DiskError::Io { disk, action: "open", source: error },
    }
}

impl RawFile {
    /// Opens the existing file or block device at `path`; `name` is what errors call it.
    pub(crate) fn open(path: &Path, name: &str, access: Access) -> Result<Self, DiskError> {
        let cached = Self::open_file(path, access, OFlags::empty());
        Self::of(cached.map_err(|error| open_error(name, error))?, name)
    }

    /// Opens what is at `path`, without waiting for anybody.
    pub(crate) fn open_file(path: &Path, access: Access, flags: OFlags) -> io::Result<File> {
        let alone = if access == Access::WriteAlone { OFlags::EXCL } else { OFlags::empty() };
        let flags = i32::try_from((flags | alone | OFlags::NONBLOCK).bits()).unwrap_or(0);
        let write = access != Access::Read;
        OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)
    }

    /// An open file or block device.
    pub(crate) fn of(cached: File, name: &str) -> Result<Self, DiskError> {
        let kind = cached.metadata().map_err(|error| open_error(name, error))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Spec {
                disk: name.to_owned(),
                reason: "it is neither a file nor a block device".to_owned(),
            });
        }
        let write = rustix::fs::fcntl_getfl(&cached)
            .is_ok_and(|flags| flags.intersects(OFlags::WRONLY | OFlags::RDWR));
        // The same file again, whatever has its name now.
        let access = if write { Access::Write } else { Access::Read };
        let direct = Self::open_file(&pinned(&cached), access, OFlags::DIRECT).ok();
        let mut file = Self {
            name: name.to_owned(),
            cached,
            direct,
            device: kind.is_block_device(),
            len: 0,
            looks: AtomicBool::new(true),
        };
        // Without this advice a look into the cache would make the kernel read far ahead. A file
        // system that does not know the advice does not read ahead either.
        rustix::fs::fadvise(&file.cached, 0, None, Advice::Random).ok();
        file.len = rustix::fs::seek(&file.cached, SeekFrom::End(0))
            .map_err(|error| file.io_error("find the size", error.into()))?;
        Ok(file)
    }

    /// Bytes it had when it was opened, or has been resized to.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is a block device.
    pub(crate) const fn is_device(&self) -> bool {
        self.device
    }

    /// The descriptor that goes through the page cache.
    pub(crate) const fn file(&self) -> &File {
        &self.cached
    }

    /// An error of something other than reading or writing.
    pub(crate) fn io_error(&self, action: &'static str, source: io::Error) -> DiskError {
        DiskError::Io { disk: self.name.clone(), action, source }
    }

    /// Makes a file `len` bytes long.
    pub(crate) fn set_len(&mut self, len: u64) -> Result<(), DiskError> {
        self.cached.set_len(len).map_err(|error| {
            if is_full(&error) {
                DiskError::Full { disk: self.name.clone(), range: ByteRange::between(0, len) }
            } else {
                self.io_error("resize", error)
            }
        })?;
        self.len = len;
        Ok(())
    }

    /// Fills `buf` from `offset`; past the end are zeros.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let have = to_usize(self.len.saturating_sub(offset)).min(buf.len());
        let (buf, past_end) = buf.split_at_mut(have);
        past_end.fill(0);
        self.read_once(offset, buf).map_err(|source| {
            let range = ByteRange::between(offset, offset.saturating_add(to_u64(have)));
            let (range, source) = self.locate(range, source);
            DiskError::Read { disk: self.name.clone(), range, source }
        })
    }

    fn read_once(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (hit, dropped) = self.read_from_cache(offset, buf)?;
        let rest = buf.get_mut(hit..).unwrap_or_default();
        if !rest.is_empty() {
            self.read_past_cache(offset.saturating_add(to_u64(hit)), rest, DIRECT_ALIGNMENT)?;
            if let Some(range) = dropped {
                self.drop_pages(range);
            }
        }
        Ok(())
    }

    /// Fills the start of `buf` as far as the page cache has it; returns how far, and the pages
    /// that looking may have brought in.
    fn read_from_cache(
        &self,
        offset: u64,
        buf: &mut [u8],
    ) -> io::Result<(usize, Option<ByteRange>)> {
        let mut done = 0;
        let mut look = FIRST_LOOK;
        while done < buf.len() && self.looks.load(Ordering::Relaxed) {
            let at = offset.saturating_add(to_u64(done));
            let rest = buf.get_mut(done..).unwrap_or_default();
            // Looks end on page borders, so that each page is asked for once.
            let border = round_up(at.saturating_add(1), to_u64(FIRST_LOOK)).saturating_sub(at);
            let window = to_usize(border).saturating_add(look - FIRST_LOOK).min(rest.len());
            let window = rest.get_mut(..window).unwrap_or_default();
            let asked = window.len();
            let got = rustix::io::preadv2(&self.cached, &mut [IoSliceMut::new(window)], at, LOOK);
            let got = match got {
                Err(Errno::AGAIN) => Ok(0),
                other => other,
            };
            match got {
                Ok(got) if got == asked => {
                    done = done.saturating_add(asked);
                    look = look.saturating_mul(2).min(LONGEST_LOOK);
                }
                Ok(got) if look == FIRST_LOOK => {
                    let missed = ByteRange::between(at, at.saturating_add(to_u64(asked)));
                    return Ok((done.saturating_add(got), Some(missed)));
                }
                Ok(got) => {
                    // The kernel is reading what was missing of this window already.
                    let missing = window.get_mut(got..).unwrap_or_default();
                    self.read_in_passing(at.saturating_add(to_u64(got)), missing)?;
                    return Ok((done.saturating_add(asked), None));
                }
                Err(Errno::INTR) => {}
                // No such looking on this file system or kernel.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.looks.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((done, None))
    }

    /// Fills `buf` through the page cache; what was not in it does not stay.
    fn read_in_passing(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(to_u64(done));
            let into = &mut [IoSliceMut::new(rest)];
            match rustix::io::preadv2(&self.cached, into, at, UNCACHED) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(got) => done = done.saturating_add(got),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Forgets clean pages of the page cache. A hint: that it may fail is all right.
    fn drop_pages(&self, range: ByteRange) {
        let start = round_down(range.offset(), DIRECT_ALIGNMENT);
        let len = round_up(range.end(), DIRECT_ALIGNMENT).saturating_sub(start);
        if let Some(len) = std::num::NonZeroU64::new(len) {
            rustix::fs::fadvise(&self.cached, start, Some(len), Advice::DontNeed).ok();
        }
    }

    /// Fills `buf` from the disk itself; `unit` is the alignment to keep to.
    fn read_past_cache(&self, offset: u64, buf: &mut [u8], unit: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            match read_direct(direct, offset, buf, unit) {
                // This file system wants another alignment.
                Err(error) if is_refused(&error) => {}
                done => return done,
            }
        }
        self.cached.read_exact_at(buf, offset)?;
        self.drop_pages(ByteRange::between(offset, offset.saturating_add(to_u64(buf.len()))));
        Ok(())
    }

    /// The smallest unit that can be read alone.
    fn unit(&self) -> u64 {
        if self.device {
            return rustix::fs::ioctl_blksszget(&self.cached).map_or(DIRECT_ALIGNMENT, u64::from);
        }
        let accepts_sectors = self.direct.as_ref().is_none_or(|direct| {
            let mut sector = AlignedBuf::zeroed(to_usize(SECTOR_SIZE));
            !matches!(direct.read_at(&mut sector, 0), Err(error) if is_refused(&error))
        });
        if accepts_sectors { SECTOR_SIZE } else { DIRECT_ALIGNMENT }
    }

    /// The first stretch of `range` that cannot be read, after reading `range` failed with
    /// `error`.
    fn locate(&self, range: ByteRange, error: io::Error) -> (ByteRange, io::Error) {
        if error.kind() == ErrorKind::UnexpectedEof {
            let now = rustix::fs::seek(&self.cached, SeekFrom::End(0)).unwrap_or(0);
            let start = now.clamp(range.offset(), range.end());
            let reason = "the file has become shorter while it was read";
            let error = io::Error::new(ErrorKind::UnexpectedEof, reason);
            return (ByteRange::between(start, range.end()), error);
        }
        let unit = self.unit();
        crate::locate::first_failing(range, unit, error, |part| {
            let end = part.end().min(self.len);
            let len = end.saturating_sub(part.offset());
            let mut scratch = AlignedBuf::zeroed(to_usize(len));
            self.read_past_cache(part.offset(), &mut scratch, unit)
        })
    }

    /// Which parts of `range` are holes; see [`crate::DiskSource::extents`].
    pub(crate) fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError> {
        let mut found = Vec::new();
        let mut push = |from: u64, to: u64, kind| {
            if from < to {
                found.push(Extent { range: ByteRange::between(from, to), kind });
            }
            found.len() < MAX_EXTENTS
        };
        let len = range.end().min(self.len);
        let mut at = range.offset();
        while !self.device && at < len {
            let data = match rustix::fs::seek(&self.cached, SeekFrom::Data(at)) {
                Ok(data) => data.min(len),
                Err(Errno::NXIO) => len,
                // A file system that does not know its holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => break,
                Err(error) => return Err(self.io_error("list its holes", error.into())),
            };
            let data = data.max(at);
            if !push(at, data, ExtentKind::Zero) {
                return Ok(found);
            }
            at = data;
            if at >= len {
                break;
            }
            let hole = match rustix::fs::seek(&self.cached, SeekFrom::Hole(at)) {
                // A hole where data was said to be: somebody changes the file. Read it.
                Ok(hole) if hole <= at => len,
                Ok(hole) => hole.min(len),
                Err(Errno::NXIO) => len,
                Err(error) => return Err(self.io_error("list its holes", error.into())),
            };
            if !push(at, hole, ExtentKind::Data) {
                return Ok(found);
            }
            at = hole;
        }
        if push(at, len, ExtentKind::Data) {
            push(at.max(len), range.end(), ExtentKind::Zero);
        }
        Ok(found)
    }

    /// Writes `data` at `offset`.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.write_once(offset, data).map_err(|source| {
            let end = offset.saturating_add(to_u64(data.len()));
            self.write_error(ByteRange::between(offset, end), source)
        })
    }

    /// The error of a write.
    pub(crate) fn write_error(&self, range: ByteRange, source: io::Error) -> DiskError {
        let disk = self.name.clone();
        if is_full(&source) {
            DiskError::Full { disk, range }
        } else {
            DiskError::Write { disk, range, source }
        }
    }

    fn write_once(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(direct) = &self.direct else {
            return self.cached.write_all_at(data, offset);
        };
        // What does not fill whole pages goes through the page cache.
        let head = round_up(offset, DIRECT_ALIGNMENT).saturating_sub(offset);
        let (head, rest) = data.split_at(to_usize(head).min(data.len()));
        let straight = to_usize(round_down(to_u64(rest.len()), DIRECT_ALIGNMENT));
        let (straight, tail) = rest.split_at(straight);
        self.cached.write_all_at(head, offset)?;
        let mut at = offset.saturating_add(to_u64(head.len()));
        if is_aligned(straight) {
            direct.write_all_at(straight, at)?;
            at = at.saturating_add(to_u64(straight.len()));
        } else {
            let mut bounce = AlignedBuf::with_capacity(to_usize(BOUNCE).min(straight.len()));
            for part in straight.chunks(bounce.capacity().max(1)) {
                bounce.clear();
                if !bounce.append(part) {
                    return Err(ErrorKind::OutOfMemory.into());
                }
                direct.write_all_at(&bounce, at)?;
                at = at.saturating_add(to_u64(part.len()));
            }
        }
        self.cached.write_all_at(tail, at)
    }

    /// Makes what was written durable, and forgets the pages that writing left behind.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        self.cached.sync_data().map_err(|error| {
            if is_full(&error) {
                self.write_error(ByteRange::between(0, self.len), error)
            } else {
                self.io_error("flush", error)
            }
        })?;
        if self.direct.is_none() {
            self.drop_pages(ByteRange::between(0, self.len));
        }
        Ok(())
    }
}

/// Fills `buf` with `O_DIRECT` reads whose place and length are multiples of `unit`.
fn read_direct(direct: &File, offset: u64, buf: &mut [u8], unit: u64) -> io::Result<()> {
    let end = offset.saturating_add(to_u64(buf.len()));
    let mut straight = 0;
    if offset.is_multiple_of(unit) && is_aligned(buf) {
        straight = to_usize(round_down(to_u64(buf.len()), unit));
        let whole = buf.get_mut(..straight).unwrap_or_default();
        direct.read_exact_at(whole, offset)?;
    }
    let mut at = offset.saturating_add(to_u64(straight));
    let mut rest = buf.get_mut(straight..).unwrap_or_default();
    while !rest.is_empty() {
        let start = round_down(at, unit);
        let len = round_up(end, unit).saturating_sub(start).min(BOUNCE);
        let mut bounce = AlignedBuf::zeroed(to_usize(len));
        let skip = to_usize(at.saturating_sub(start));
        let wanted = rest.len().min(bounce.len().saturating_sub(skip));
        let got = read_up_to(direct, &mut bounce, start, skip.saturating_add(wanted))?;
        let (now, later) = rest.split_at_mut(wanted);
        let part = bounce.get(skip..got).and_then(|part| part.get(..wanted));
        now.copy_from_slice(part.ok_or(ErrorKind::UnexpectedEof)?);
        at = at.saturating_add(to_u64(wanted));
        rest = later;
    }
    Ok(())
}

/// Reads until `enough` bytes are there or the file ends; returns how many.
fn read_up_to(file: &File, buf: &mut [u8], offset: u64, enough: usize) -> io::Result<usize> {
    let mut done = 0;
    while done < enough {
        let rest = buf.get_mut(done..).unwrap_or_default();
        match file.read_at(rest, offset.saturating_add(to_u64(done))) {
            Ok(0) => break,
            Ok(got) => done = done.saturating_add(got),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(AlignedBuf::ALIGNMENT) == 0
}

/// Whether the kernel refuses the alignment rather than fails.
fn is_refused(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
