//! The machine's disks: read from those that were given, and what the machine writes kept beside them.
//!
//! Drivers write when they replay a journal or take a pool of volumes into use. That lands in a file without a name,
//! which is gone when the process ends, and has a bound for all disks together.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::{fs::FileExt as _, net::UnixStream},
    path::Path,
    sync::{Arc, Mutex},
};

use strongroom_base::{lock, start_thread};
use strongroom_nbd::server::{Encryption, Exported, Exports, Handshake, Heard};

use crate::{
    reader::{NamedDisk, Unread},
    source::length,
};

/// What is kept of a write at once.
const BLOCK: u64 = 4096;
const SECTOR: u32 = 512;

/// Where all disks of a machine keep what is written.
pub(super) struct Kept {
    file: File,
    most: u64,
    next: Mutex<u64>,
}

impl Kept {
    /// A file in this folder that nobody else sees.
    pub(super) fn new(folder: &Path, most: u64) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, most, next: Mutex::new(0) })
    }

    /// Room for a block.
    fn room(&self) -> io::Result<u64> {
        let mut next = lock(&self.next);
        let at = *next;
        let end = at.saturating_add(BLOCK);
        if end > self.most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *next = end;
        Ok(at)
    }
}

/// A disk that a machine may write to.
pub(super) struct Writable {
    of: NamedDisk,
    kept: Arc<Kept>,
    /// Blocks that were written, and where they are kept.
    written: Mutex<BTreeMap<u64, u64>>,
    unread: Unread,
}

impl Writable {
    pub(super) fn new(of: NamedDisk, kept: Arc<Kept>, unread: Unread) -> Self {
        Self { of, kept, written: Mutex::default(), unread }
    }

    /// Reads what was given, and zeros beyond its end.
    fn original(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let there = self.of.bytes.size().saturating_sub(offset).min(length(buf));
        let (data, beyond) = buf
            .split_at_mut_checked(usize::try_from(there).map_err(io::Error::other)?)
            .ok_or(io::ErrorKind::InvalidInput)?;
        beyond.fill(0);
        self.of.bytes.read_at(offset, data).map_err(|error| {
            let words = error.to_string();
            lock(&self.unread).get_or_insert_with(|| (self.of.name.clone(), error));
            io::Error::other(words)
        })
    }
}

/// The blocks that a stretch touches.
fn blocks(offset: u64, len: u64) -> impl Iterator<Item = u64> {
    let first = offset.checked_div(BLOCK).unwrap_or(0);
    let end = offset.saturating_add(len).div_ceil(BLOCK);
    first..end
}

/// The part of a block that a stretch has: where it begins in the block, in the stretch, and its length.
fn part(block: u64, offset: u64, len: u64) -> (u64, u64, u64) {
    let begin = block.saturating_mul(BLOCK);
    let from = begin.max(offset);
    let to = begin.saturating_add(BLOCK).min(offset.saturating_add(len));
    (from.saturating_sub(begin), from.saturating_sub(offset), to.saturating_sub(from))
}

fn slice(buf: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    buf.get(usize::try_from(at).ok()?..)?.get(..usize::try_from(len).ok()?)
}

fn slice_mut(buf: &mut [u8], at: u64, len: u64) -> Option<&mut [u8]> {
    buf.get_mut(usize::try_from(at).ok()?..)?.get_mut(..usize::try_from(len).ok()?)
}

impl Exported for Writable {
    fn size(&self) -> u64 {
        self.of.bytes.size().next_multiple_of(u64::from(SECTOR))
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn unit(&self) -> u32 {
        SECTOR
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.original(offset, buf)?;
        let written = lock(&self.written);
        let first = offset.checked_div(BLOCK).unwrap_or(0);
        let end = offset.saturating_add(length(buf)).div_ceil(BLOCK);
        let len = length(buf);
        for (block, at) in written.range(first..end) {
            let (skip, to, count) = part(*block, offset, len);
            if let Some(buf) = slice_mut(buf, to, count) {
                self.kept.file.read_exact_at(buf, at.saturating_add(skip))?;
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = lock(&self.written);
        for block in blocks(offset, length(data)) {
            let (skip, from, count) = part(block, offset, length(data));
            let data = slice(data, from, count).ok_or(io::ErrorKind::InvalidInput)?;
            if let Some(at) = written.get(&block) {
                self.kept.file.write_all_at(data, at.saturating_add(skip))?;
                continue;
            }
            let mut whole = vec![0; usize::try_from(BLOCK).map_err(io::Error::other)?];
            if count < BLOCK {
                self.original(block.saturating_mul(BLOCK), &mut whole)?;
            }
            let to = slice_mut(&mut whole, skip, count).ok_or(io::ErrorKind::InvalidInput)?;
            to.copy_from_slice(data);
            let at = self.kept.room()?;
            self.kept.file.write_all_at(&whole, at)?;
            written.insert(block, at);
        }
        Ok(())
    }
}

/// The one export of a conversation.
struct Only(Arc<dyn Exported>);

impl Exports for Only {
    fn names(&self) -> Vec<String> {
        vec![String::new()]
    }

    fn open(&self, _: &str) -> Result<Arc<dyn Exported>, String> {
        Ok(Arc::clone(&self.0))
    }
}

/// Serves a disk at a socket, until its other end is closed.
pub(super) fn serve(socket: UnixStream, disk: Writable) {
    let exports = Only(Arc::new(disk));
    start_thread("files-disk", move || {
        let heard = Handshake::start(socket, Encryption::None).and_then(|it| it.hear(&exports));
        if let Ok(Heard::Chosen(mut session)) = heard
            && let Err(error) = session.serve()
        {
            tracing::debug!(%error, "a disk of the machine that reads files is served no more");
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::ReadAt;

    fn writable(bytes: Vec<u8>, most: u64) -> Writable {
        let kept = Arc::new(Kept::new(&std::env::temp_dir(), most).expect("a file"));
        let of = NamedDisk { name: "vda".to_owned(), bytes: Arc::new(bytes) };
        Writable::new(of, kept, Unread::default())
    }

    #[test]
    fn what_is_written_has_a_bound_and_changes_no_disk() {
        let disk = writable(vec![1; 20_000], 2 * BLOCK);
        assert_eq!(disk.size(), 20_480);
        disk.write(4000, &[2; 200]).expect("two blocks");
        disk.write(4096, &[3; 512]).expect("the same block again");
        let full = disk.write(9000, &[4; 10]).expect_err("no room");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let mut buf = vec![9; 20_480];
        disk.read(0, &mut buf).expect("read");
        let mut expected = vec![1; 20_000];
        expected[4000..4200].fill(2);
        expected[4096..4608].fill(3);
        expected.resize(20_480, 0);
        assert_eq!(buf, expected);
    }

    #[test]
    fn the_first_part_that_cannot_be_read_is_kept() {
        struct Bad;
        impl ReadAt for Bad {
            fn size(&self) -> u64 {
                8192
            }
            fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
                Err(io::Error::other("rot"))
            }
        }
        let kept = Arc::new(Kept::new(&std::env::temp_dir(), 1 << 20).expect("a file"));
        let unread = Unread::default();
        let of = NamedDisk { name: "vdb".to_owned(), bytes: Arc::new(Bad) };
        let disk = Writable::new(of, kept, Arc::clone(&unread));
        assert!(disk.read(0, &mut [0; 512]).is_err());
        let (name, error) = lock(&unread).take().expect("kept");
        assert_eq!((name.as_str(), error.to_string().as_str()), ("vdb", "rot"));
    }

    proptest! {
        /// Reads see writes as those of a plain file would.
        #[test]
        fn reads_see_what_was_written(
            writes in prop::collection::vec((0..38_u64, 1..20_usize, any::<u8>()), 0..12),
            reads in prop::collection::vec((0..38_u64, 1..20_usize), 1..6),
        ) {
            let mut plain: Vec<u8> = (0..20_480_u32).map(|at| at.to_le_bytes()[0]).collect();
            let disk = writable(plain.clone(), 1 << 20);
            let stretch = |sector: u64, count: usize| {
                let offset = sector * 512;
                let len = (count * 512).min(20_480 - usize::try_from(offset).expect("small"));
                (offset, len)
            };
            for (sector, count, byte) in writes {
                let (offset, len) = stretch(sector, count);
                disk.write(offset, &vec![byte; len]).expect("written");
                let from = usize::try_from(offset).expect("small");
                plain[from..from + len].fill(byte);
            }
            for (sector, count) in reads {
                let (offset, len) = stretch(sector, count);
                let mut buf = vec![0; len];
                disk.read(offset, &mut buf).expect("read");
                let from = usize::try_from(offset).expect("small");
                prop_assert_eq!(&buf[..], &plain[from..from + len]);
            }
        }
    }
}
