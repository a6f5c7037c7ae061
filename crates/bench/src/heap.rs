//! A database's table as it lies on a disk: 8 KiB pages of rows, as Postgres lays them out.
//!
//! A page has a header (log position, checksum, where the free space lies), a list of 4-byte line
//! pointers behind it, and rows from its end downwards. A row has a 24-byte header (the transactions
//! that made and ended it, its place), a number, a time, an amount, 16 random bytes and a sentence.
//!
//! Churn is what a day of transactions leaves: pages near a dozen busy places, and a few anywhere. Of
//! the touched pages, 60 % have one to four rows updated in place, 20 % lost rows and were compacted
//! (the others' bytes move), 20 % were filled with new rows.

use std::collections::BTreeSet;

use crate::{rng::Rng, text::Words};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 8192;

const PAGE_HEADER: usize = 24;
const LINE_POINTER: usize = 4;
const ROW_HEADER: usize = 24;

/// Makes pages and changes them.
#[derive(Debug)]
pub struct Heap {
    rng: Rng,
    words: Words,
    next_row: u64,
}

impl Heap {
    /// The heap of `seed`; rows are numbered from `first_row`.
    pub fn new(seed: u64, first_row: u64) -> Self {
        Self { rng: Rng::new(seed), words: Words::new(), next_row: first_row }
    }

    /// A page full of new rows, at `position` of the database's log.
    pub fn page(&mut self, position: u64) -> Vec<u8> {
        let mut rows = Vec::new();
        let mut used = PAGE_HEADER;
        loop {
            let row = self.row();
            used += row.len() + LINE_POINTER;
            if used > PAGE_SIZE {
                return self.encode(&rows, position);
            }
            self.next_row += 1;
            rows.push(row);
        }
    }

    /// Which of a file's `pages` the day touched.
    pub fn touched(&mut self, pages: u64, count: u64) -> BTreeSet<u64> {
        let centres: [u64; 12] = std::array::from_fn(|_| self.rng.below(pages));
        let mut touched = BTreeSet::new();
        while u64::try_from(touched.len()).unwrap_or(u64::MAX) < count.min(pages / 2) {
            touched.insert(if self.rng.chance(90) {
                let centre = self.rng.pick(&centres);
                self.rng.around(centre, pages / 80, pages)
            } else {
                self.rng.below(pages)
            });
        }
        touched
    }

    /// What the day made of `page`.
    pub fn churn(&mut self, page: &[u8], position: u64) -> Vec<u8> {
        let mut rows = decode(page);
        match self.rng.below(10) {
            0..6 => {
                for _ in 0..self.rng.between(1, 5) {
                    self.update(&mut rows);
                }
            }
            6..8 => {
                for _ in 0..self.rng.between(1, 4) {
                    if !rows.is_empty() {
                        rows.remove(self.index(rows.len()));
                    }
                }
            }
            _ => return self.page(position),
        }
        self.encode(&rows, position)
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.rng.below(u64::try_from(len).unwrap_or(0))).unwrap_or(0)
    }

    /// A new version takes a row's place: another transaction, time and amount, at times a new text.
    fn update(&mut self, rows: &mut [Vec<u8>]) {
        let index = self.index(rows.len());
        let fresh = self.row();
        let new_text = self.rng.chance(25);
        let Some(row) = rows.get_mut(index) else { return };
        for (at, (old, new)) in row.iter_mut().zip(fresh).enumerate() {
            let replaced = match at {
                0..8 | 32..48 => true,                     // the transactions; time and amount
                65.. => new_text && *old != 0 && new != 0, // the sentence
                _ => false,
            };
            if replaced {
                *old = new;
            }
        }
    }

    fn row(&mut self) -> Vec<u8> {
        let row = self.next_row;
        let count = self.rng.between(5, 23);
        let sentence = self.words.sentence(&mut self.rng, count);
        let text = sentence.as_bytes().get(..sentence.len().min(200)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(ROW_HEADER + 48 + text.len());
        bytes.extend((700 + row / 5000).to_le_bytes()); // made by, ended by (nobody)
        bytes.extend((row / 45).to_le_bytes()); // where
        bytes.extend([5, 0, 2, 9, 24, 0, 0, 0]); // columns, flags, header size
        bytes.extend(row.to_le_bytes());
        bytes.extend(
            (752_000_000_000_000 + row * 1_000_003 + self.rng.below(1 << 20)).to_le_bytes(),
        );
        bytes.extend(self.rng.below(1_000_000).to_le_bytes());
        bytes.extend(self.rng.bits().to_le_bytes());
        bytes.extend(self.rng.bits().to_le_bytes());
        bytes.push(u8::try_from(text.len()).unwrap_or(0));
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn encode(&mut self, rows: &[Vec<u8>], position: u64) -> Vec<u8> {
        let lower = PAGE_HEADER + rows.len() * LINE_POINTER;
        let upper = PAGE_SIZE - rows.iter().map(Vec::len).sum::<usize>();
        let short = |value: usize| u16::try_from(value).unwrap_or(0).to_le_bytes();
        let mut page = Vec::with_capacity(PAGE_SIZE);
        page.extend(position.to_le_bytes());
        page.extend(short(self.index(65_536))); // the checksum
        page.extend([4, 0]);
        page.extend(short(lower));
        page.extend(short(upper));
        page.extend([0, 32, 4, 32, 0, 0, 0, 0]);
        let mut offset = PAGE_SIZE;
        for row in rows {
            offset -= row.len();
            let pointer = offset | (1 << 15) | (row.len() << 17);
            page.extend(u32::try_from(pointer).unwrap_or(0).to_le_bytes());
        }
        page.resize(upper, 0);
        page.extend(rows.iter().rev().flatten());
        page
    }
}

/// The rows of `page`, in the order of their line pointers.
fn decode(page: &[u8]) -> Vec<Vec<u8>> {
    let lower = match page.get(12..14) {
        Some(&[low, high]) => usize::from(u16::from_le_bytes([low, high])),
        _ => 0,
    };
    let (pointers, _) = page.get(PAGE_HEADER..lower).unwrap_or_default().as_chunks::<4>();
    let row = |pointer: &[u8; 4]| {
        let pointer = usize::try_from(u32::from_le_bytes(*pointer)).ok()?;
        let (offset, len) = (pointer & 0x7fff, pointer >> 17);
        Some(page.get(offset..offset + len)?.to_vec())
    };
    pointers.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::{Heap, PAGE_SIZE, decode};

    #[test]
    fn pages_are_full_and_give_their_rows_back() {
        let mut heap = Heap::new(1, 1);
        for position in 0..200 {
            let page = heap.page(position);
            assert_eq!(page.len(), PAGE_SIZE);
            let rows = decode(&page);
            assert!(rows.len() > 20, "{} rows", rows.len());
            assert_eq!(heap.encode(&rows, position)[12..], page[12..]);
        }
        assert_eq!(Heap::new(5, 1).page(3), Heap::new(5, 1).page(3));
    }

    #[test]
    fn churn_changes_little_of_most_pages() {
        let mut heap = Heap::new(2, 1);
        let (mut same, mut all) = (0, 0);
        for position in 0..500 {
            let page = heap.page(position);
            let churned = heap.churn(&page, position + 1_000);
            assert_eq!(churned.len(), PAGE_SIZE);
            assert_ne!(churned, page);
            same += page.iter().zip(&churned).filter(|(a, b)| a == b).count();
            all += PAGE_SIZE;
        }
        let percent = same * 100 / all;
        assert!((55..85).contains(&percent), "{percent} % of the bytes stayed in their place");
    }

    #[test]
    fn touches_the_asked_number_of_pages() {
        assert_eq!(Heap::new(3, 1).touched(10_000, 1_000).len(), 1_000);
    }
}
