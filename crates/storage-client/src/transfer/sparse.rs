//! Files with holes: where they have data, and where data is zero.

use std::{fs::File, io, path::Path};

use rustix::{fs::SeekFrom, io::Errno};
use strongroom_base::ByteRange;

use crate::StorageClientError;

/// Zeros that are shorter than this are written with the data around them.
const GAP: usize = 64 << 10;
const PAGE: usize = 512;

/// The length of a file or device.
pub(super) fn length(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::End(0))?)
}

/// The ranges of a file that are not holes, ascending and on whole pages.
pub(super) struct Data<'a> {
    file: &'a File,
    path: &'a Path,
    length: u64,
    at: u64,
}

impl<'a> Data<'a> {
    pub(super) const fn new(file: &'a File, path: &'a Path, length: u64) -> Self {
        Self { file, path, length, at: 0 }
    }

    fn next_data(&self) -> io::Result<Option<ByteRange>> {
        let start = match rustix::fs::seek(self.file, SeekFrom::Data(self.at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // Devices and some file systems do not know holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                return Ok(Some(ByteRange::between(self.at, self.length)));
            }
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(self.file, SeekFrom::Hole(start))?;
        let page = 512;
        let start = start.saturating_sub(start % page).max(self.at);
        let end = end.next_multiple_of(page).min(self.length);
        Ok(Some(ByteRange::between(start, end)))
    }
}

impl Iterator for Data<'_> {
    type Item = Result<ByteRange, StorageClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.length {
            return None;
        }
        let found = self.next_data().map_err(StorageClientError::local("read", self.path));
        let range = match found.transpose()? {
            Ok(range) if !range.is_empty() => range,
            Ok(_) => return None,
            Err(error) => {
                self.at = self.length;
                return Some(Err(error));
            }
        };
        self.at = range.end();
        Some(Ok(range))
    }
}

/// The parts of bytes that are not zero, as offsets in them, on whole pages; short runs of zeros stay within.
pub(super) fn not_zero(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = index.saturating_mul(PAGE);
        let end = start.saturating_add(page.len());
        match parts.last_mut() {
            Some(last) if start.saturating_sub(last.end) < GAP => last.end = end,
            _ => parts.push(start..end),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_are_passed_over() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(4 << 20).expect("sets");
        file.as_file().write_all_at(b"x", 1 << 20).expect("writes");
        file.as_file().write_all_at(b"x", (4 << 20) - 1).expect("writes");
        let length = length(file.as_file()).expect("a length");
        let data: Vec<_> = Data::new(file.as_file(), file.path(), length)
            .map(|range| range.expect("a range"))
            .collect();
        let has = |at: u64| data.iter().any(|range| (range.offset()..range.end()).contains(&at));
        assert!(has(1 << 20) && has((4 << 20) - 1), "{data:?}");
        assert!(data.iter().map(ByteRange::len).sum::<u64>() <= 256 << 10, "{data:?}");
        assert!(data.iter().all(|range| range.offset() % 512 == 0 && range.end() % 512 == 0));
    }

    #[test]
    fn zeros_are_left_out_unless_they_are_short() {
        let mut bytes = vec![0; 1 << 20];
        assert_eq!(not_zero(&bytes), []);
        bytes[700] = 1;
        bytes[3000] = 1;
        bytes[900_000] = 1;
        assert_eq!(not_zero(&bytes), [512..3072, 899_584..900_096]);
    }
}
