//! Disk images as these programs see them: where they have data, and which ranges of them changed.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom},
    io::Errno,
};
use strongroom_base::{BLOCK_SIZE, BLOCK_SIZE_U64};

use crate::{Failure, Outcome, pipeline::is_zero};

/// A run of bytes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// Opens an image for reading, past the page cache if `direct`.
pub fn open(path: &Path, direct: bool) -> Outcome<File> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(Failure::at(path))
}

/// Makes a file for writing, past the page cache if `direct`.
pub fn create(path: &Path, direct: bool) -> Outcome<File> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(Failure::at(path))
}

/// Where `file` has data, in whole 64 KiB blocks.
pub fn extents(file: &File) -> Outcome<Vec<Extent>> {
    let size = file.metadata()?.len();
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        push_blocks(&mut extents, start, end, size);
        at = end;
    }
    Ok(extents)
}

/// Adds `start..end`, widened to whole blocks; joins it to the last extent where they meet.
pub fn push_blocks(extents: &mut Vec<Extent>, start: u64, end: u64, size: u64) {
    let mut start = start / BLOCK_SIZE_U64 * BLOCK_SIZE_U64;
    let end = end.next_multiple_of(BLOCK_SIZE_U64).min(size);
    if let Some(last) = extents.last_mut() {
        if last.offset + last.len >= start {
            last.len = last.len.max(end - last.offset);
            return;
        }
        start = start.max(last.offset + last.len);
    }
    if start < end {
        extents.push(Extent { offset: start, len: end - start });
    }
}

/// Cuts extents into pieces of at most `piece` bytes, aligned to multiples of it.
pub fn pieces(extents: &[Extent], piece: u64) -> Vec<Extent> {
    let mut pieces = Vec::new();
    for extent in extents {
        let (mut offset, end) = (extent.offset, extent.offset + extent.len);
        while offset < end {
            let next = ((offset / piece + 1) * piece).min(end);
            pieces.push(Extent { offset, len: next - offset });
            offset = next;
        }
    }
    pieces
}

/// Reads a file of `disk offset length` lines; the disks' names are not looked at.
pub fn read_ranges(path: &Path) -> Outcome<Vec<Extent>> {
    let reader = BufReader::new(File::open(path).map_err(Failure::at(path))?);
    let mut extents = Vec::new();
    for line in reader.lines() {
        let line = line?;
        let mut words = line.split_whitespace().skip(1);
        match (words.next(), words.next()) {
            (Some(offset), Some(len)) => {
                extents.push(Extent { offset: offset.parse()?, len: len.parse()? });
            }
            _ => return Err(Failure::new(format!("{}: not a range: {line}", path.display()))),
        }
    }
    Ok(extents)
}

/// Takes `disk` along the patch `prefix`, `forward` or `back`. Blocks of zeros become holes, so that a disk
/// that went to and fro has no more allocated than before.
pub fn apply(disk: &Path, prefix: &Path, direction: &str) -> Outcome<()> {
    let at = Failure::at(disk);
    let file = OpenOptions::new().write(true).open(disk).map_err(&at)?;
    let path = prefix.with_extension(direction);
    let mut bytes = BufReader::new(File::open(&path).map_err(Failure::at(&path))?);
    let mut buffer = Vec::new();
    let ranges = read_ranges(&prefix.with_extension("ranges"))?;
    for piece in pieces(&ranges, 16 << 20) {
        buffer.resize(usize::try_from(piece.len)?, 0);
        bytes.read_exact(&mut buffer).map_err(Failure::at(&path))?;
        file.write_all_at(&buffer, piece.offset).map_err(&at)?;
        let mut offset = piece.offset;
        for block in buffer.chunks(BLOCK_SIZE) {
            let len = u64::try_from(block.len())?;
            if is_zero(block) {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, hole, offset, len)?;
            }
            offset += len;
        }
    }
    file.sync_all().map_err(&at)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::FileExt};

    use super::{Extent, extents, pieces, push_blocks, read_ranges};

    #[test]
    fn finds_data_between_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 << 20).unwrap();
        file.write_all_at(&[1; 4096], 10 << 20).unwrap();
        file.write_all_at(&[1; 4096], 50 << 20).unwrap();
        let found = extents(&file).unwrap();
        assert_eq!(
            found,
            [Extent { offset: 10 << 20, len: 65536 }, Extent { offset: 50 << 20, len: 65536 }]
        );
    }

    #[test]
    fn joins_neighbours_and_cuts_aligned_pieces() {
        let mut extents = Vec::new();
        push_blocks(&mut extents, 1, 2, 1 << 30);
        push_blocks(&mut extents, 60_000, 70_000, 1 << 30);
        push_blocks(&mut extents, 1 << 20, (1 << 20) + 1, (1 << 20) + 100);
        assert_eq!(
            extents,
            [Extent { offset: 0, len: 131_072 }, Extent { offset: 1 << 20, len: 100 }]
        );
        let cut = pieces(&[Extent { offset: 65_536, len: 131_072 }], 131_072);
        assert_eq!(
            cut,
            [Extent { offset: 65_536, len: 65_536 }, Extent { offset: 131_072, len: 65_536 }]
        );
    }

    #[test]
    fn reads_lines_of_ranges_and_refuses_others() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"root 0 65536\nroot 131072 65536\n").unwrap();
        assert_eq!(read_ranges(file.path()).unwrap().len(), 2);
        file.write_all(b"root 12\n").unwrap();
        assert!(read_ranges(file.path()).is_err());
    }
}
