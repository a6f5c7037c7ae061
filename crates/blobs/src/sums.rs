//! Checksums of the state file: a page that is read must be what was written.
//!
//! redb trusts the bytes that it reads. This file beside it, `state.sums`, has a CRC-32C for each page of 4 KiB; it is
//! made durable before the state is. The first page, which redb writes in place and checks itself, has none.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Mutex,
};

use crc32c::crc32c;
use strongroom_base::lock;

use crate::numbers::{size, wide};

/// The length of a page of redb.
const PAGE: usize = 4096;
/// Checksums that are written at once.
const CHUNK: usize = 1024;

/// The checksums of an open state file.
#[derive(Debug)]
pub(crate) struct Sums {
    file: File,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// By page; 0 is not known.
    sums: Vec<u32>,
    /// Chunks that the file does not have yet.
    dirty: BTreeSet<usize>,
}

impl Sums {
    /// Opens the checksums of a state file of `len` bytes; none are known if there is no file.
    pub(crate) fn open(path: &Path, len: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let file = file.open(path)?;
        let pages = size(len).div_ceil(PAGE);
        let mut bytes = vec![0; pages.saturating_mul(4).min(size(file.metadata()?.len()))];
        file.read_exact_at(&mut bytes, 0)?;
        let mut sums: Vec<u32> =
            bytes.as_chunks::<4>().0.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        sums.resize(pages, 0);
        Ok(Self { file, table: Mutex::new(Table { sums, dirty: BTreeSet::new() }) })
    }

    /// Checks what was read at `offset`.
    pub(crate) fn check(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        lock(&self.table).check(offset, bytes)
    }

    /// Keeps the checksums of what `write` writes at `offset`.
    pub(crate) fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        write: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut table = lock(&self.table);
        table.note(offset, bytes);
        write()
    }

    /// Checks what `read` reads at `offset` while nothing is written.
    pub(crate) fn compare(
        &self,
        offset: u64,
        read: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> io::Result<usize> {
        let table = lock(&self.table);
        let bytes = read()?;
        table.check(offset, &bytes).map(|()| bytes.len())
    }

    /// Writes parts of the file again that are not what was written, with the next [`Sums::sync`].
    pub(crate) fn renew(&self) -> io::Result<()> {
        let mut table = lock(&self.table);
        let len = size(self.file.metadata()?.len());
        let mut file = vec![0; len];
        self.file.read_exact_at(&mut file, 0)?;
        let known = table.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<u8>>();
        let pairs = known.chunks(4 * CHUNK).zip(file.chunks(4 * CHUNK)).enumerate();
        let wrong: Vec<usize> = pairs
            .filter(|(_, (known, file))| known.iter().zip(*file).any(|(a, b)| a != b))
            .map(|(chunk, _)| chunk)
            .collect();
        table.dirty.extend(wrong);
        Ok(())
    }

    /// Forgets the checksums behind a new end of the state file.
    pub(crate) fn resize(&self, len: u64) {
        let mut table = lock(&self.table);
        let pages = size(len).div_ceil(PAGE);
        let first = pages.min(table.sums.len());
        let chunks = first / CHUNK..table.sums.len().div_ceil(CHUNK);
        for known in table.sums.iter_mut().skip(first) {
            *known = 0;
        }
        table.dirty.extend(chunks);
    }

    /// Makes them durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let chunks: Vec<(usize, Vec<u8>)> = {
            let mut table = lock(&self.table);
            let dirty = std::mem::take(&mut table.dirty);
            let bytes = |chunk: usize| {
                let sums = table.sums.iter().skip(chunk.saturating_mul(CHUNK)).take(CHUNK);
                sums.flat_map(|sum| sum.to_le_bytes()).collect()
            };
            dirty.into_iter().map(|chunk| (chunk, bytes(chunk))).collect()
        };
        if chunks.is_empty() {
            return Ok(());
        }
        for (chunk, bytes) in chunks {
            let at = wide(chunk).saturating_mul(wide(CHUNK)).saturating_mul(4);
            self.file.write_all_at(&bytes, at)?;
        }
        self.file.sync_data()
    }
}

impl Table {
    fn check(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (page, content) in pages(offset, bytes) {
            let known = self.sums.get(page).copied().unwrap_or(0);
            if known != 0 && content.is_none_or(|content| sum(content) != known) {
                let text = format!("page {page} of the state file is damaged");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(())
    }

    fn note(&mut self, offset: u64, bytes: &[u8]) {
        for (page, content) in pages(offset, bytes) {
            if self.sums.len() <= page {
                self.sums.resize(page.saturating_add(1), 0);
            }
            if let Some(known) = self.sums.get_mut(page) {
                *known = content.map_or(0, sum);
            }
            self.dirty.insert(page / CHUNK);
        }
    }
}

/// A checksum; never 0, which means that none is known.
fn sum(page: &[u8]) -> u32 {
    crc32c(page).max(1)
}

/// The pages that a range touches; without its content if the range has only a part of it. The first page is left out.
fn pages(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (usize, Option<&[u8]>)> {
    let offset = size(offset);
    let end = offset.saturating_add(bytes.len());
    (offset / PAGE..end.div_ceil(PAGE)).skip_while(|page| *page == 0).map(move |page| {
        let start = page.saturating_mul(PAGE);
        let content =
            start.checked_sub(offset).and_then(|from| bytes.get(from..from.saturating_add(PAGE)));
        (page, content)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_known_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sums");
        let mut page = vec![7; PAGE];
        {
            let sums = Sums::open(&path, 0).expect("opens");
            sums.write(8192, &page, || Ok(())).expect("is noted");
            sums.write(0, &page, || Ok(())).expect("is noted");
            sums.sync().expect("is written");
        }
        let sums = Sums::open(&path, 12288).expect("opens");
        sums.check(8192, &page).expect("is the same");
        sums.check(4096, &page).expect("is not known");
        page[5] ^= 1;
        sums.check(0, &page).expect("has no checksum");
        sums.check(8192, &page).expect_err("is another");
        sums.check(4096, &[vec![1; PAGE], page.clone()].concat()).expect_err("the second is");
        std::fs::write(&path, [9; 12]).expect("writes");
        sums.renew().and_then(|()| sums.sync()).expect("is written again");
        let again = Sums::open(&path, 12288).expect("opens");
        again.check(8192, &page).expect_err("is known");
        sums.resize(8192);
        sums.check(8192, &page).expect("is forgotten");
    }
}
