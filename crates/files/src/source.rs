//! Bytes at offsets: a disk, a part of one, a cache over one, and a position in one.
//!
//! Readers of file systems see disks only through [`ReadAt`]. This module knows neither file systems nor where the
//! bytes come from.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Read, Seek, SeekFrom, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use strongroom_base::lock;

/// A disk of fixed size that is read at offsets.
pub trait ReadAt: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`. What lies past the end is [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// The length of a buffer, as sizes of disks are counted.
pub(crate) fn length(buf: &[u8]) -> u64 {
    u64::try_from(buf.len()).unwrap_or(u64::MAX)
}

/// Whether these bytes lie within the size.
pub(crate) fn check_within(size: u64, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a read past the end of the disk")),
    }
}

/// Reads `len` bytes; none where the disk ends before.
pub(crate) fn bytes_at(disk: &dyn ReadAt, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut buf = vec![0; len];
    disk.read_at(offset, &mut buf).ok()?;
    Some(buf)
}

/// A part of a disk, as a disk.
pub struct Part {
    of: Arc<dyn ReadAt>,
    offset: u64,
    size: u64,
}

impl Part {
    /// `size` bytes of it from `offset`; fewer if it ends before.
    pub fn new(of: Arc<dyn ReadAt>, offset: u64, size: u64) -> Self {
        let size = size.min(of.size().saturating_sub(offset));
        Self { of, offset, size }
    }
}

impl Part {
    /// A disk without bytes.
    pub(crate) fn nothing() -> Self {
        struct Nothing;
        impl ReadAt for Nothing {
            fn size(&self) -> u64 {
                0
            }

            fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
                check_within(0, offset, length(buf))
            }
        }
        Self::new(Arc::new(Nothing), 0, 0)
    }
}

impl ReadAt for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size, offset, length(buf))?;
        self.of.read_at(self.offset.saturating_add(offset), buf)
    }
}

/// A disk of which it is known whether reading it has failed.
pub(crate) struct Watched {
    of: Arc<dyn ReadAt>,
    has_failed: AtomicBool,
}

impl Watched {
    pub(crate) fn new(of: Arc<dyn ReadAt>) -> Self {
        Self { of, has_failed: AtomicBool::new(false) }
    }

    /// Whether a part of it could not be read that it has.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }
}

impl ReadAt for Watched {
    fn size(&self) -> u64 {
        self.of.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let read = self.of.read_at(offset, buf);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        read
    }
}

/// Bytes of one block of the cache.
const BLOCK: u64 = 128 << 10;
/// Most blocks in the cache: 32 MiB.
const BLOCKS: usize = 256;

/// A disk whose small reads are answered from memory where that is possible.
pub struct Cached {
    of: Arc<dyn ReadAt>,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    kept: HashMap<u64, Arc<[u8]>>,
    /// In the order in which they came.
    order: VecDeque<u64>,
}

impl Cached {
    /// A cache over this disk.
    pub fn new(of: Arc<dyn ReadAt>) -> Self {
        Self { of, blocks: Mutex::default() }
    }

    fn block(&self, index: u64) -> io::Result<Arc<[u8]>> {
        if let Some(block) = lock(&self.blocks).kept.get(&index) {
            return Ok(Arc::clone(block));
        }
        let offset = index.saturating_mul(BLOCK);
        let len = BLOCK.min(self.of.size().saturating_sub(offset));
        let mut block = vec![0; usize::try_from(len).unwrap_or(0)];
        self.of.read_at(offset, &mut block)?;
        let block: Arc<[u8]> = block.into();
        let mut blocks = lock(&self.blocks);
        if blocks.order.len() >= BLOCKS
            && let Some(oldest) = blocks.order.pop_front()
        {
            blocks.kept.remove(&oldest);
        }
        blocks.order.push_back(index);
        blocks.kept.insert(index, Arc::clone(&block));
        Ok(block)
    }
}

impl ReadAt for Cached {
    fn size(&self) -> u64 {
        self.of.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_within(self.size(), offset, length(buf))?;
        if length(buf) >= BLOCK {
            return self.of.read_at(offset, buf);
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let block = self.block(at.checked_div(BLOCK).unwrap_or(0))?;
            let skip = usize::try_from(at.checked_rem(BLOCK).unwrap_or(0)).unwrap_or(0);
            let there = block.get(skip..).unwrap_or_default();
            let len = there.len().min(rest.len());
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(there.get(..len).unwrap_or_default());
            at = at.saturating_add(length(part));
            rest = after;
        }
        Ok(())
    }
}

/// A position in a disk, for readers that seek. Writing fails.
pub struct Cursor {
    of: Arc<dyn ReadAt>,
    at: u64,
}

impl Cursor {
    /// At the beginning of this disk.
    pub fn new(of: Arc<dyn ReadAt>) -> Self {
        Self { of, at: 0 }
    }
}

impl Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let there = self.of.size().saturating_sub(self.at);
        let len = buf.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let buf = buf.get_mut(..len).unwrap_or_default();
        self.of.read_at(self.at, buf)?;
        self.at = self.at.saturating_add(length(buf));
        Ok(len)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.of.size().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Cursor {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl ReadAt for Vec<u8> {
        fn size(&self) -> u64 {
            length(self)
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            check_within(self.size(), offset, length(buf))?;
            let start = usize::try_from(offset).expect("small");
            buf.copy_from_slice(&self[start..start + buf.len()]);
            Ok(())
        }
    }

    #[test]
    fn a_part_of_a_cached_disk_reads_as_the_disk() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|at| at.to_le_bytes()[1] ^ 7).collect();
        let cached: Arc<dyn ReadAt> = Arc::new(Cached::new(Arc::new(bytes.clone())));
        let part = Part::new(cached, 1000, 1 << 40);
        assert_eq!(part.size(), 699_000);
        for (offset, len) in [(0, 5), (130_000, 9_000), (0, 500_000), (698_990, 10), (3, 0)] {
            let mut buf = vec![0; len];
            part.read_at(offset, &mut buf).expect("reads");
            let start = 1000 + usize::try_from(offset).expect("small");
            assert_eq!(buf, bytes[start..start + len], "{offset} {len}");
        }
        assert!(part.read_at(698_991, &mut [0; 10]).is_err());
        assert!(part.read_at(u64::MAX, &mut [0; 10]).is_err());
    }
}
