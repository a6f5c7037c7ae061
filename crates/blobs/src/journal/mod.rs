//! The journal: segments of frames, each the record of one change, in order.
//!
//! It knows files and numbers of records; it does not know what records mean. A record is acknowledged when
//! [`Journal::append`] returns. Segments are preallocated, where the file system can do it.
//!
//! After an error of a write or of `fdatasync` the journal refuses everything until the store is opened again: what the
//! segment then holds is not known, and only a recovery, which reads it, may decide.

pub(crate) mod frame;
mod replay;
mod tail;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};
use strongroom_base::{Entropy, EntropyExt as _};

pub use self::replay::JournalDamage;
pub(crate) use self::{replay::replay, tail::Tail};

use self::frame::{Layout, SEGMENT_HEAD, SegmentHead, padded};
use crate::{
    direct::{ALIGN, DirectFile, LONG, is_aligned},
    numbers::{size, wide},
};

/// Zeros before and behind payloads.
const ZEROS: [u8; 4096] = [0; 4096];

/// Pieces that are shorter are joined before they are written, in bytes.
const JOINED: u64 = 64 << 10;

/// A record as it is written: its head, and the data of the write that ends it.
pub(crate) type Encoded = (Vec<u8>, bytes::Bytes);

/// The journal of an open store, at its end.
pub(crate) struct Journal {
    folder: PathBuf,
    store: [u8; 16],
    segment_size: u64,
    segment: Option<Segment>,
    /// Bytes of records since the last [`Journal::forget_before`].
    since: u64,
}

struct Segment {
    file: File,
    direct: DirectFile,
    head: SegmentHead,
    end: u64,
    size: u64,
}

impl Segment {
    /// Writes what follows its end. Long data is written from where it is, small pieces are joined.
    fn write<'a>(&self, slices: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut at = self.end;
        let mut small: Vec<u8> = Vec::new();
        for slice in slices {
            if wide(slice.len()) < JOINED {
                small.extend_from_slice(slice);
                continue;
            }
            self.file.write_all_at(&small, at)?;
            at = at.saturating_add(wide(small.len()));
            small.clear();
            let is_long = wide(slice.len()) >= LONG && at.is_multiple_of(ALIGN);
            if !(is_long && is_aligned(slice) && self.direct.write(at, &[slice])?) {
                self.file.write_all_at(slice, at)?;
            }
            at = at.saturating_add(wide(slice.len()));
        }
        self.file.write_all_at(&small, at)
    }

    /// Gives the room behind its end back, which was taken for records that go elsewhere now. It is best effort.
    fn give_back(&self) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = self.size.saturating_sub(self.end);
        if len > 0 {
            let _tried = fallocate(&self.file, flags, self.end, len);
        }
    }
}

/// Which records stay in the journal though the state has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// From this number on in any case.
    pub(crate) held: u64,
    /// From this number on, as far as `most` allows it.
    pub(crate) wanted: u64,
    /// Bytes of segments that may stay for that.
    pub(crate) most: u64,
}

impl Keep {
    /// None.
    pub(crate) const NONE: Self = Self { held: u64::MAX, wanted: u64::MAX, most: 0 };
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// No segment could be made. Nothing was written, and the next try may succeed.
    #[error("a new segment of the journal cannot be created")]
    Segment(#[source] io::Error),
    /// The records may be in the file or not.
    #[error("the journal cannot be written")]
    Write(#[source] io::Error),
}

impl Journal {
    /// A journal that continues with a new segment.
    pub(crate) fn new(folder: PathBuf, store: [u8; 16], segment_size: u64) -> Self {
        Self { folder, store, segment_size, segment: None, since: 0 }
    }

    /// Makes sure that records have room in the present segment: then writing them fails only with the disk.
    pub(crate) fn prepare(
        &mut self,
        first: u64,
        encoded: &[Encoded],
        entropy: &dyn Entropy,
    ) -> io::Result<()> {
        let fits = |segment: &Segment| end_of(encoded, segment.end) <= segment.size;
        if !self.segment.as_ref().is_some_and(fits) {
            let end = end_of(encoded, SEGMENT_HEAD);
            let ended = self.segment.replace(self.create(first, end, entropy)?);
            if let Some(ended) = ended {
                ended.give_back();
            }
        }
        Ok(())
    }

    /// Writes records, the first of them with the number `first`, and makes them durable by one `fdatasync`.
    pub(crate) fn append(
        &mut self,
        first: u64,
        encoded: &[Encoded],
        entropy: &dyn Entropy,
    ) -> Result<(), AppendError> {
        self.prepare(first, encoded, entropy).map_err(AppendError::Segment)?;
        // After an error the segment stays taken, and the journal is not continued in it.
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        let durable = first.saturating_sub(1);
        let mut end = segment.end;
        let frames = encoded.iter().zip(first..).map(|((head, data), number)| {
            let Layout { gap, end: len } = Layout::at(end, head.len(), data.len());
            let frame = segment.head.frame(number, durable, gap, (head, data));
            let behind = end.saturating_add(len);
            end = padded(behind);
            (frame, zeros(gap), head, data, zeros(end.saturating_sub(behind)))
        });
        let frames: Vec<_> = frames.collect();
        let slices = frames.iter().flat_map(|(frame, gap, head, data, pad)| {
            [frame.as_slice(), gap, head.as_slice(), data.as_ref(), pad]
        });
        segment
            .write(slices)
            .and_then(|()| segment.file.sync_data())
            .map_err(AppendError::Write)?;
        self.since = self.since.saturating_add(end.saturating_sub(segment.end));
        segment.end = end;
        self.segment = Some(segment);
        Ok(())
    }

    /// How much was appended since records were last forgotten, in bytes.
    pub(crate) fn bytes_since(&self) -> u64 {
        self.since
    }

    /// Deletes the segments that hold only records before `number`, which the next record gets, and that nobody keeps.
    pub(crate) fn forget_before(
        &mut self,
        number: u64,
        keep: Keep,
        entropy: &dyn Entropy,
    ) -> io::Result<()> {
        let old = segments(&self.folder)?;
        if self.segment.as_ref().is_none_or(|segment| segment.end > SEGMENT_HEAD) {
            let ended = self.segment.replace(self.create(number, SEGMENT_HEAD, entropy)?);
            if let Some(ended) = ended {
                ended.give_back();
            }
        }
        self.since = 0;
        // A segment ends where the next one begins.
        let ends = old.iter().skip(1).map(|(first, _)| *first).chain([number]);
        let mut room = keep.most;
        for ((first, path), end) in old.iter().zip(ends).collect::<Vec<_>>().into_iter().rev() {
            if *first >= number || end > keep.held {
                continue;
            }
            let len = fs::metadata(path)?.len();
            room = room.saturating_sub(len);
            if end <= keep.wanted || room == 0 {
                fs::remove_file(path)?;
            }
        }
        sync_folder(&self.folder)
    }

    /// A segment with room for records that end at `end`.
    fn create(&self, first: u64, end: u64, entropy: &dyn Entropy) -> io::Result<Segment> {
        let head = SegmentHead { store: self.store, first, salt: entropy.array() };
        let path = self.folder.join(file_name(first));
        let unfinished = path.with_extension("unfinished");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)?;
        // On a disk that is almost full a segment takes a part of the rest.
        let size = self.segment_size.min(free_room(&self.folder) / 4);
        let size = size.max(end);
        let made = reserve(&file, 0, size)
            .and_then(|()| file.write_all(&head.encode()))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, &path))
            .and_then(|()| sync_folder(&self.folder));
        if let Err(error) = made {
            // The room is wanted for what is there already; an unfinished segment is ignored if it stays.
            let _left = fs::remove_file(&unfinished);
            return Err(error);
        }
        let direct = DirectFile::open(&path);
        Ok(Segment { file, direct, head, end: SEGMENT_HEAD, size })
    }
}

/// Where the frames of records end that begin at `at`.
fn end_of(encoded: &[Encoded], at: u64) -> u64 {
    encoded.iter().fold(at, |at, (head, data)| {
        padded(at.saturating_add(Layout::at(at, head.len(), data.len()).end))
    })
}

/// This number of zeros, which is less than [`ALIGN`].
fn zeros(len: u64) -> &'static [u8] {
    ZEROS.get(..size(len)).unwrap_or(&ZEROS)
}

/// How many bytes the segments have from that of record `number` on.
pub(crate) fn bytes_from(folder: &Path, number: u64) -> io::Result<u64> {
    let all = segments(folder)?;
    let before = all.iter().skip(1).take_while(|(first, _)| *first <= number).count();
    all.iter().skip(before).try_fold(0_u64, |sum, (_, path)| {
        fs::metadata(path).map(|known| sum.saturating_add(known.len()))
    })
}

/// The segments of a journal, by the numbers of their first records.
pub(crate) fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == "journal");
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(first) = stem.and_then(|stem| u64::from_str_radix(stem, 16).ok())
            && is_segment
        {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(first: u64) -> String {
    format!("{first:016x}.journal")
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Takes room for a range of a file. A file system that cannot do it takes the room when it is written.
pub(crate) fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The room on the disk of a folder that the caller may use, in bytes.
pub(crate) fn free_room(folder: &Path) -> u64 {
    // A disk that does not say is taken for empty: its errors are heard when it is written.
    let known = rustix::fs::statvfs(folder);
    known.map_or(u64::MAX, |known| known.f_bavail.saturating_mul(known.f_frsize))
}
