//! What NBD clients wrote and the store does not have yet: pages in memory, until the next flush at the latest.
//!
//! A disk promises that a write lasts only when a flush after it is answered. Between two flushes writes are gathered
//! here and reach the store together. A *round* is everything that waits at one moment; the next one begins when it
//! has ended. Pages of a round that failed wait again, with what was written to them meanwhile.
//!
//! Pure: it knows neither the store nor threads.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;
use strongroom_blobs::WriteBuffer;

/// Bytes of a page.
pub(super) const PAGE: u64 = 512;
/// Bytes of a cell, the unit of memory.
const CELL: u64 = 4096;
const CELL_LEN: usize = 4096;
const PAGE_LEN: usize = 512;
/// The most bytes of one write to the store.
const MOST: usize = 4 << 20;

/// Pages that the store does not have yet.
#[derive(Debug, Default)]
pub(super) struct Cache {
    cells: BTreeMap<u64, Cell>,
    /// How many of them have pages that wait.
    waiting: usize,
}

/// The newest content of some pages of 4 KiB.
#[derive(Debug)]
struct Cell {
    data: Box<[u8]>,
    /// Pages that wait.
    waiting: u8,
    /// Pages of the round that is under way.
    under_way: u8,
    /// Pages that were written since the last clear began.
    since_clear: u8,
}

/// Pages in a row, to be written to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where, in bytes.
    pub(super) offset: u64,
    /// What.
    pub(super) data: Bytes,
}

impl Cache {
    /// The memory that its pages take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.cells.len().saturating_mul(CELL_LEN)
    }

    /// Whether no page waits.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting == 0
    }

    /// Notes whole pages.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, start, part) in cells(offset, data.len()) {
            let source = data.get(part).unwrap_or_default();
            let cell = match self.cells.entry(index) {
                Entry::Vacant(entry) => entry.insert(Cell::with(start, source)),
                Entry::Occupied(entry) => {
                    let cell = entry.into_mut();
                    let end = start.saturating_add(source.len());
                    if let Some(target) = cell.data.get_mut(start..end) {
                        target.copy_from_slice(source);
                    }
                    cell
                }
            };
            self.waiting = self.waiting.saturating_add(usize::from(cell.waiting == 0));
            let written = pages(start, source.len());
            cell.waiting |= written;
            cell.since_clear |= written;
        }
    }

    /// Begins to clear pages in the store. What waits of them stays until that is done; no round may be under way.
    pub(super) fn begin_clear(&mut self) {
        self.cells.values_mut().for_each(|cell| cell.since_clear = 0);
    }

    /// Ends a clear that the store has carried out: forgets what waited of its whole pages when it began.
    pub(super) fn end_clear(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        for (index, cell) in self.cells.range_mut(offset / CELL..end.div_ceil(CELL)) {
            let base = index.saturating_mul(CELL);
            let start = within(offset.saturating_sub(base));
            let stop = within(end.saturating_sub(base)).min(CELL_LEN);
            let cleared = pages(start, stop.saturating_sub(start)) & !cell.since_clear;
            let had = cell.waiting != 0;
            cell.waiting &= !cleared;
            let lost = had && cell.waiting == 0;
            self.waiting = self.waiting.saturating_sub(usize::from(lost));
        }
        self.drop_empty();
    }

    /// The newest pages of a range, cut at its ends.
    pub(super) fn pieces(&self, offset: u64, len: usize) -> Vec<Run> {
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let mut found = Vec::new();
        for (index, cell) in self.cells.range(offset / CELL..end.div_ceil(CELL)) {
            let base = index.saturating_mul(CELL);
            for (start, stop) in runs(cell.waiting | cell.under_way) {
                let from = base.saturating_add(start).max(offset);
                let to = base.saturating_add(stop).min(end);
                if let Some(data) = cell.data.get(within(from - base)..within(to.max(from) - base))
                    && !data.is_empty()
                {
                    found.push(Run { offset: from, data: Bytes::copy_from_slice(data) });
                }
            }
        }
        found
    }

    /// Where pages are noted in a range: offsets of begins and ends.
    pub(super) fn noted(&self, offset: u64, end: u64) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for (index, cell) in self.cells.range(offset / CELL..end.div_ceil(CELL)) {
            let base = index.saturating_mul(CELL);
            for (start, stop) in runs(cell.waiting | cell.under_way) {
                let from = base.saturating_add(start).max(offset);
                let to = base.saturating_add(stop).min(end);
                match found.last_mut() {
                    Some((_, last)) if *last == from && from < to => *last = to,
                    _ if from < to => found.push((from, to)),
                    _ => {}
                }
            }
        }
        found
    }

    /// Begins a round: everything that waits, in order, in runs of at most 4 MiB.
    pub(super) fn begin_round(&mut self) -> Vec<Run> {
        let mut spans: Vec<(u64, usize)> = Vec::new();
        for (index, cell) in &self.cells {
            let base = index.saturating_mul(CELL);
            for (start, stop) in runs(cell.waiting) {
                let at = base.saturating_add(start);
                let len = within(stop.saturating_sub(start));
                match spans.last_mut() {
                    Some((offset, all)) if end_of(*offset, *all) == at && *all + len <= MOST => {
                        *all = all.saturating_add(len);
                    }
                    _ => spans.push((at, len)),
                }
            }
        }
        let run = |(offset, len)| Run { offset, data: self.gather(offset, len) };
        let found = spans.into_iter().map(run).collect();
        for cell in self.cells.values_mut() {
            cell.under_way = cell.waiting;
            cell.waiting = 0;
        }
        self.waiting = 0;
        found
    }

    /// The content of a range that is here, in one piece.
    fn gather(&self, offset: u64, len: usize) -> Bytes {
        let mut data = WriteBuffer::with_capacity(len);
        for (index, start, part) in cells(offset, len) {
            let cell = self.cells.get(&index).map(|cell| cell.data.as_ref()).unwrap_or_default();
            let end = start.saturating_add(part.len());
            data.extend_from_slice(cell.get(start..end).unwrap_or_default());
        }
        data.freeze()
    }

    /// Ends the round. The pages of the runs that failed wait again.
    pub(super) fn end_round(&mut self, failed: &[Run]) {
        for run in failed {
            for (index, start, part) in cells(run.offset, run.data.len()) {
                if let Some(cell) = self.cells.get_mut(&index) {
                    cell.waiting |= cell.under_way & pages(start, part.len());
                }
            }
        }
        self.cells.values_mut().for_each(|cell| cell.under_way = 0);
        self.waiting = self.cells.values().filter(|cell| cell.waiting != 0).count();
        self.drop_empty();
    }

    fn drop_empty(&mut self) {
        self.cells.retain(|_, cell| cell.waiting | cell.under_way != 0);
    }
}

impl Cell {
    /// A cell with this content from `start` on, and zeros.
    fn with(start: usize, content: &[u8]) -> Self {
        let data: Box<[u8]> = if content.len() == CELL_LEN {
            content.into()
        } else {
            let mut data = vec![0; CELL_LEN].into_boxed_slice();
            if let Some(target) = data.get_mut(start..start.saturating_add(content.len())) {
                target.copy_from_slice(content);
            }
            data
        };
        Self { data, waiting: 0, under_way: 0, since_clear: 0 }
    }
}

fn end_of(offset: u64, len: usize) -> u64 {
    offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX))
}

/// A number of bytes within a cell or a request, which fits.
fn within(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The cells of a range: the number of each, where the range begins in it, and which part of the range lies in it.
fn cells(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        let start = within(at % CELL);
        let part = done..len.min(done.saturating_add(CELL_LEN.saturating_sub(start)));
        done = part.end;
        Some((at / CELL, start, part))
    })
}

/// The pages of a cell that a range of it has, which begins and ends with pages.
fn pages(start: usize, len: usize) -> u8 {
    let first = start / PAGE_LEN;
    let behind = start.saturating_add(len).div_ceil(PAGE_LEN);
    (first..behind).fold(0, |pages, page| pages | 1_u8.checked_shl(narrow(page)).unwrap_or(0))
}

fn narrow(page: usize) -> u32 {
    u32::try_from(page).unwrap_or(u32::MAX)
}

/// The pages of a cell that are in a row: where each row begins and ends, in bytes.
fn runs(pages: u8) -> impl Iterator<Item = (u64, u64)> {
    let mut page = 0_u32;
    std::iter::from_fn(move || {
        let has = |page: u32| page < 8 && pages & (1 << page) != 0;
        while page < 8 && !has(page) {
            page += 1;
        }
        let first = page;
        while has(page) {
            page += 1;
        }
        (first < page).then(|| (u64::from(first) * PAGE, u64::from(page) * PAGE))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 64 << 10;

    fn wide(n: usize) -> u64 {
        u64::try_from(n).expect("small")
    }

    /// What a test does with a cache.
    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, usize, u8),
        /// Where, and what is written to the first page meanwhile; with an even byte the store refuses.
        Clear(usize, usize, Option<u8>),
        Begin,
        /// Ends the round; every n-th run fails.
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = SIZE / PAGE_LEN;
        let range = (0..pages, 1_usize..40);
        prop_oneof![
            4 => (range.clone(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write(at, len, byte)),
            2 => (range, any::<Option<u8>>())
                .prop_map(|((at, len), again)| Step::Clear(at, len, again)),
            2 => Just(Step::Begin),
            2 => (1_usize..4).prop_map(Step::End),
        ]
    }

    /// A disk of bytes behind a cache, and what a client must read.
    struct Model {
        cache: Cache,
        store: Vec<u8>,
        client: Vec<u8>,
        round: Option<Vec<Run>>,
    }

    impl Model {
        fn end(&mut self, every: usize) {
            let runs = self.round.take().unwrap_or_default();
            let failed: Vec<Run> = runs.iter().step_by(every).skip(1).cloned().collect();
            for run in runs.iter().filter(|run| !failed.contains(run)) {
                let at = usize::try_from(run.offset).expect("small");
                self.store[at..at + run.data.len()].copy_from_slice(&run.data);
            }
            self.cache.end_round(&failed);
        }

        fn apply(&mut self, step: &Step) {
            let bytes = |at: usize, len: usize| {
                let start = at * PAGE_LEN;
                start..(start + len * PAGE_LEN).min(SIZE)
            };
            match *step {
                Step::Write(at, len, byte) => {
                    let range = bytes(at, len);
                    let data = vec![byte; range.len()];
                    self.client[range.clone()].copy_from_slice(&data);
                    self.cache.write(wide(range.start), &data);
                }
                Step::Clear(at, len, again) => {
                    let range = bytes(at, len);
                    // A clear waits for the end of the round.
                    self.end(usize::MAX);
                    self.cache.begin_clear();
                    if let Some(byte) = again {
                        // Written while the store clears: the client reads it, before and after.
                        let page = range.start..range.start + PAGE_LEN;
                        self.cache.write(wide(page.start), &[byte; PAGE_LEN]);
                    }
                    if again.is_some_and(|byte| byte % 2 == 0) {
                        // The store refuses: nothing is lost but what was written over.
                        let byte = again.unwrap_or_default();
                        self.client[range.start..range.start + PAGE_LEN].fill(byte);
                    } else {
                        self.store[range.clone()].fill(0);
                        self.cache.end_clear(wide(range.start), wide(range.len()));
                        self.client[range.clone()].fill(0);
                        if let Some(byte) = again {
                            self.client[range.start..range.start + PAGE_LEN].fill(byte);
                        }
                    }
                }
                Step::Begin if self.round.is_none() => self.round = Some(self.cache.begin_round()),
                Step::Begin => {}
                Step::End(every) => self.end(every),
            }
            let mut read = self.store.clone();
            for piece in self.cache.pieces(0, SIZE) {
                let at = usize::try_from(piece.offset).expect("small");
                read[at..at + piece.data.len()].copy_from_slice(&piece.data);
            }
            assert_eq!(
                self.cache.is_settled(),
                self.cache.cells.values().all(|it| it.waiting == 0)
            );
            assert!(read == self.client, "{step:?}");
        }
    }

    proptest! {
        #[test]
        fn clients_read_what_they_wrote_and_a_flush_leaves_nothing(
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut model = Model {
                cache: Cache::default(),
                store: vec![0; SIZE],
                client: vec![0; SIZE],
                round: None,
            };
            steps.iter().for_each(|step| model.apply(step));
            model.end(usize::MAX);
            let last = model.cache.begin_round();
            model.round = Some(last);
            model.end(usize::MAX);
            prop_assert!(model.cache.is_settled() && model.cache.bytes() == 0);
            prop_assert!(model.store == model.client);
        }
    }

    #[test]
    fn a_round_joins_neighbours_up_to_four_mebibytes() {
        let mut cache = Cache::default();
        cache.write(512, &[1; 512]);
        cache.write(1024, &[2; 8192]);
        cache.write(1 << 20, &vec![3; MOST + 4096]);
        let runs = cache.begin_round();
        let shape: Vec<_> = runs.iter().map(|run| (run.offset, run.data.len())).collect();
        assert_eq!(shape, [(512, 8704), (1 << 20, MOST), ((1 << 20) + (4 << 20), 4096)]);
        assert!(cache.is_settled() && cache.bytes() > 0);
        assert_eq!(cache.noted(0, 4096), [(512, 4096)]);
    }
}
