//! The geometry of a page blob: pages of 512 bytes, cells of 4 KiB with a checksum each, blocks of 64 KiB.
//!
//! Pure arithmetic. A [`Pages`] has one bit for each page of a block, the lowest for the first page.

use crate::numbers::{narrow, size};

/// The unit of writing, in bytes.
pub const PAGE: u64 = 512;
/// The unit of checksums and of writes to data files, in bytes.
pub const CELL: u64 = 4096;
/// The unit of the map, in bytes; a slot of a data file holds one block.
pub const BLOCK: u64 = 64 << 10;
/// The largest page blob, in bytes (8 TiB).
pub const MAX_SIZE: u64 = 8 << 40;
/// The most that one write may carry, in bytes (4 MiB).
pub const MAX_WRITE: u64 = 4 << 20;

/// Cells in a block.
pub(crate) const CELLS: usize = 16;
/// Pages in a block.
const PAGES: u64 = BLOCK / PAGE;

/// The pages of one block, one bit each.
pub(crate) type Pages = u128;

/// A checksum for each cell of a block.
pub(crate) type Checksums = [u32; CELLS];

/// The part of a range that lies in one block; offsets in bytes from the block's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which block.
    pub(crate) block: u32,
    /// The first byte within it.
    pub(crate) start: u64,
    /// Behind the last byte within it.
    pub(crate) end: u64,
}

impl Part {
    /// The pages that the part touches.
    pub(crate) fn pages(self) -> Pages {
        pages_between(self.start / PAGE, self.end.div_ceil(PAGE))
    }
}

/// The pages from `first` to before `end`.
pub(crate) fn pages_between(first: u64, end: u64) -> Pages {
    let below = |n: u64| {
        if n >= PAGES { Pages::MAX } else { (1_u128 << n).wrapping_sub(1) }
    };
    below(end) & !below(first)
}

/// The pages of one cell.
pub(crate) fn pages_of_cell(cell: usize) -> Pages {
    let first = crate::numbers::wide(cell).saturating_mul(CELL / PAGE);
    pages_between(first, first.saturating_add(CELL / PAGE))
}

/// The cells, one bit each, in which at least one of `pages` lies.
pub(crate) fn cells_of(pages: Pages) -> u16 {
    (0..CELLS)
        .filter(|&cell| pages & pages_of_cell(cell) != 0)
        .fold(0, |cells, cell| cells | (1 << cell))
}

/// A range of a blob, cut at the borders of blocks.
pub(crate) fn parts(offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let block = at / BLOCK;
        let base = block.saturating_mul(BLOCK);
        let stop = end.min(base.saturating_add(BLOCK));
        let part = Part { block: narrow(block), start: at - base, end: stop - base };
        at = stop;
        Some(part)
    })
}

/// The first byte of a block, in its blob.
pub(crate) fn block_start(block: u32) -> u64 {
    u64::from(block).saturating_mul(BLOCK)
}

/// The runs of set pages, as first page and the page behind the last.
pub(crate) fn runs(pages: Pages) -> impl Iterator<Item = (u64, u64)> {
    let mut rest = pages;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let first = u64::from(rest.trailing_zeros());
        let len = u64::from((rest >> first).trailing_ones());
        rest &= !pages_between(first, first + len);
        Some((first, first + len))
    })
}

/// The runs of set cells, as byte offsets within the slot.
pub(crate) fn cell_runs(cells: u16) -> impl Iterator<Item = (u64, u64)> {
    let mut rest = u32::from(cells);
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let first = rest.trailing_zeros();
        let end = first + (rest >> first).trailing_ones();
        rest &= !((1_u32 << end) - (1_u32 << first));
        Some((u64::from(first) * CELL, u64::from(end) * CELL))
    })
}

/// The bytes of `start..end` of a slot, if it has them.
pub(crate) fn span(bytes: &[u8], start: u64, end: u64) -> &[u8] {
    bytes.get(size(start)..size(end)).unwrap_or_default()
}

/// The same, to write.
pub(crate) fn span_mut(bytes: &mut [u8], start: u64, end: u64) -> &mut [u8] {
    bytes.get_mut(size(start)..size(end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_blocks() {
        let cut: Vec<Part> = parts(BLOCK - 512, 1024 + BLOCK).collect();
        assert_eq!(
            cut,
            [
                Part { block: 0, start: BLOCK - 512, end: BLOCK },
                Part { block: 1, start: 0, end: BLOCK },
                Part { block: 2, start: 0, end: 512 },
            ]
        );
        assert_eq!(cut.first().map(|part| part.pages()), Some(1 << 127));
    }

    #[test]
    fn runs_give_the_pages_back() {
        for pages in [0, 1, Pages::MAX, 0b1011 << 60, 1 << 127, (1 << 127) | 1] {
            let again = runs(pages).fold(0, |all, (first, end)| all | pages_between(first, end));
            assert_eq!(again, pages);
        }
        assert_eq!(
            cell_runs(0b1000_0000_0000_0110).collect::<Vec<_>>(),
            [(CELL, 3 * CELL), (15 * CELL, BLOCK)]
        );
        assert_eq!(cell_runs(u16::MAX).collect::<Vec<_>>(), [(0, BLOCK)]);
    }

    #[test]
    fn a_page_lies_in_one_cell() {
        assert_eq!(cells_of(1 << 8), 0b10);
        assert_eq!(cells_of(0), 0);
        assert_eq!(cells_of(Pages::MAX), u16::MAX);
    }
}
