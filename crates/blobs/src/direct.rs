//! Writing long pieces past the page cache: the disk takes them from where they lie in memory, and nothing is copied.
//!
//! A copy into the page cache costs more of the processor than all else that is done with a large write. What is shorter
//! is copied: then the system may gather it, and a reader that follows finds it in memory. Where a file system, a disk
//! or the place of the bytes does not allow it, the bytes are copied as well.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use bytes::Bytes;
use rustix::{fs::OFlags, io::Errno};

use crate::numbers::{size, wide};

/// Places in memory and in files must be a multiple of it. No disk has larger sectors.
pub(crate) const ALIGN: u64 = 4096;
/// What is shorter is copied, in bytes.
pub(crate) const LONG: u64 = 256 << 10;
/// The most pieces of one call.
const PIECES: usize = 1024;

/// Memory for the data of a write, from which the disk can take it without a copy.
#[derive(Debug)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl WriteBuffer {
    /// Memory for `len` bytes. What is short, or becomes longer, is copied.
    pub fn with_capacity(len: usize) -> Self {
        if wide(len) < LONG {
            return Self { bytes: Vec::with_capacity(len), start: 0 };
        }
        let bytes: Vec<u8> = Vec::with_capacity(len.saturating_add(size(ALIGN)));
        let mut buffer = Self { start: bytes.as_ptr().align_offset(size(ALIGN)), bytes };
        buffer.bytes.resize(buffer.start, 0);
        buffer
    }

    /// Adds bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.start)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes, from now on shared.
    pub fn freeze(self) -> Bytes {
        Bytes::from(self.bytes).split_off(self.start)
    }
}

/// Whether the disk can take bytes from where they lie.
pub(crate) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(size(ALIGN)) == 0 && wide(bytes.len()).is_multiple_of(ALIGN)
}

/// A file that is written past the page cache, if its file system can do that.
#[derive(Debug)]
pub(crate) struct DirectFile(Option<File>);

impl DirectFile {
    /// Opens a file that is there.
    pub(crate) fn open(path: &Path) -> Self {
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        // Without it everything is copied, and errors of the file are heard there.
        Self(OpenOptions::new().write(true).custom_flags(flags).open(path).ok())
    }

    /// Writes pieces one behind the other, and says whether it did: if not, they are to be copied. All of them are
    /// aligned, and so is `offset`.
    pub(crate) fn write(&self, offset: u64, pieces: &[&[u8]]) -> io::Result<bool> {
        let Some(file) = &self.0 else { return Ok(false) };
        let mut at = offset;
        for pieces in pieces.chunks(PIECES) {
            let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|it| IoSlice::new(it)).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                match rustix::io::pwritev(file, rest, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    // Less than a sector is left of a piece: a disk that is full does that.
                    Ok(written) if !wide(written).is_multiple_of(ALIGN) => return Ok(false),
                    Ok(written) => {
                        at = at.saturating_add(wide(written));
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_buffer_has_what_it_was_given_where_a_disk_can_take_it() {
        for len in [0, 1, 4096, 262_144, 700_000] {
            let mut buffer = WriteBuffer::with_capacity(len);
            assert!(buffer.is_empty());
            let wanted: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
            wanted.chunks(1000).for_each(|part| buffer.extend_from_slice(part));
            assert_eq!(buffer.len(), len);
            let bytes = buffer.freeze();
            assert_eq!(bytes, wanted);
            assert!(len < 262_144 || bytes.as_ptr().align_offset(4096) == 0);
        }
        let mut buffer = WriteBuffer::with_capacity(1);
        buffer.extend_from_slice(&vec![3; 100_000]);
        assert_eq!(buffer.freeze(), vec![3; 100_000], "more than there was room for");
    }

    #[test]
    fn pieces_are_written_past_the_page_cache_where_that_is_possible() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        fs::write(&path, vec![9; 3 * 4096]).expect("writes");
        let mut buffer = WriteBuffer::with_capacity(1 << 20);
        buffer.extend_from_slice(&[1; 4096]);
        buffer.extend_from_slice(&[2; 4096]);
        let bytes = buffer.freeze();
        let pieces = [&bytes[4096..], &bytes[..4096]];
        assert!(pieces.iter().all(|piece| is_aligned(piece)));
        let direct = DirectFile::open(&path);
        if direct.write(4096, &pieces).expect("writes") {
            let wanted = [[9; 4096], [2; 4096], [1; 4096]].concat();
            assert_eq!(fs::read(&path).expect("reads"), wanted);
        } else {
            assert_eq!(fs::read(&path).expect("reads"), [9; 3 * 4096]);
        }
        // What does not lie right is left to a copy, and nothing is lost.
        let crooked = &bytes[1..4097];
        assert!(!is_aligned(crooked) && !is_aligned(&bytes[..100]));
        let none = DirectFile::open(&folder.path().join("none"));
        assert!(!none.write(0, &pieces).expect("does nothing"));
    }
}
