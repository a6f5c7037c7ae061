//! Reading: names and maps as one moment had them, and pages as they are.
//!
//! A [`View`] is a read transaction of the state. Bytes are read outside of it: see [`content`](crate::content).

use std::{cmp::Reverse, collections::BinaryHeap, io, ops::Range, sync::Arc};

use redb::{ReadTransaction, ReadableDatabase as _};

use crate::{
    copies::hub::Hub,
    engine::Shared,
    lease::Lease,
    map::version_at,
    numbers::narrow,
    pages::{BLOCK, PAGE, Pages, block_start, runs},
    refusal::Refusal,
    rows::{
        self, Account, Blob, BlobKind, BlobName, Container, ContainerName, Copy, Etag, Metadata,
        Properties, SnapshotId, Ticks, Tier, keys,
    },
    state::{BLOCKS, CHANGED, EPOCHS, GENERATIONS, Generation, NAMES, StateError, Version},
};

/// Why something was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, or the question is not valid.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A data file failed.
    #[error("a data file cannot be read")]
    File(#[source] io::Error),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::State(StateError::from(error))
    }
}

/// The state at one moment.
pub struct View {
    pub(crate) hub: Arc<Hub>,
    /// The copy that is read.
    pub(crate) shared: Arc<Shared>,
    pub(crate) transaction: ReadTransaction,
}

/// What a blob or a snapshot is, without its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its name.
    pub name: String,
    /// Which snapshot it is.
    pub snapshot: Option<SnapshotId>,
    /// Its kind.
    pub kind: BlobKind,
    /// Its size in bytes.
    pub size: u64,
    /// Of its last change.
    pub etag: Etag,
    /// The moment of its last change, in seconds since 1970.
    pub modified: u64,
    /// Its sequence number, if it is a page blob; the number of its blocks, if it is an append blob.
    pub sequence: u64,
    /// When it was created.
    pub created: Ticks,
    /// Its headers.
    pub properties: Properties,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its lease.
    pub lease: Option<Lease>,
    /// The last copy to it.
    pub copy: Option<Copy>,
    /// The tier of a block blob, if somebody has set it.
    pub tier: Option<Tier>,
    /// Whether there are only blocks that wait under the name.
    pub is_uncommitted: bool,
    pub(crate) container: u64,
    pub(crate) generation: u64,
    pub(crate) epoch: u32,
    /// The list of blocks, if there is one.
    pub(crate) list: Option<u64>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// What was found, in order.
    pub items: Vec<T>,
    /// Where the list continues.
    pub next: Option<ListMarker>,
}

/// Where a list continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListMarker {
    /// The name.
    pub name: String,
    /// The snapshot of that name; without one the blob itself.
    pub snapshot: Option<SnapshotId>,
}

/// What a list is asked for.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// What names begin with.
    pub prefix: String,
    /// Names that continue with it are given once, up to it.
    pub delimiter: Option<String>,
    /// Where to continue.
    pub marker: Option<ListMarker>,
    /// Whether snapshots are listed.
    pub snapshots: bool,
    /// Whether names are listed under which only blocks wait.
    pub uncommitted: bool,
    /// The most items.
    pub max: usize,
}

/// An item of a list of blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A blob or a snapshot.
    Blob(Box<Head>),
    /// The common beginning of names.
    Prefix(String),
}

/// A range of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// Its first byte.
    pub start: u64,
    /// Behind its last byte.
    pub end: u64,
    /// In a difference: the pages have no content any more.
    pub cleared: bool,
}

/// A part of a list of ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The ranges, sorted and merged.
    pub ranges: Vec<PageRange>,
    /// The byte from which on to ask for more.
    pub next: Option<u64>,
    /// How many rows of the map were read.
    pub rows: u64,
}

impl Head {
    /// A number that the blob and its snapshots keep until the blob is created again.
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

impl View {
    /// What the copy that leads has; another one if it cannot be read.
    pub(crate) fn new(hub: &Arc<Hub>) -> Result<Self, StateError> {
        let mut outcome = Err(StateError::Row { row: "copies".to_owned() });
        for shared in hub.copies() {
            match shared.state.database.begin_read() {
                Ok(transaction) => return Ok(Self { hub: Arc::clone(hub), shared, transaction }),
                Err(error) => {
                    let error = StateError::from(error);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    pub(crate) fn row<T: for<'de> serde::Deserialize<'de>>(
        &self,
        key: &[u8],
    ) -> Result<Option<T>, ReadError> {
        let names = self.transaction.open_table(NAMES)?;
        let row = names.get(key)?;
        Ok(row.map(|row| rows::decode(key, row.value())).transpose()?)
    }

    /// An account.
    pub fn account(&self, name: &str) -> Result<Account, ReadError> {
        self.row(&keys::account(name))?.ok_or_else(|| Refusal::AccountNotFound.into())
    }

    /// All accounts, by name.
    pub fn accounts(&self) -> Result<Vec<(String, Account)>, ReadError> {
        let names = self.transaction.open_table(NAMES)?;
        let mut found = Vec::new();
        for row in names.range(b"a".as_slice()..b"b".as_slice())? {
            let (key, value) = row?;
            let name = key.value().get(1..).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            found.push((name, rows::decode(key.value(), value.value())?));
        }
        Ok(found)
    }

    /// A container.
    pub fn container(&self, name: &ContainerName) -> Result<Container, ReadError> {
        self.row(&keys::container(name))?.ok_or_else(|| Refusal::ContainerNotFound.into())
    }

    /// Containers of an account whose names begin with `prefix`, from `marker` on.
    pub fn containers(
        &self,
        account: &str,
        prefix: &str,
        marker: Option<&str>,
        max: usize,
    ) -> Result<Listed<(String, Container)>, ReadError> {
        let names = self.transaction.open_table(NAMES)?;
        let base = keys::container(&ContainerName::new(account, ""));
        let first = [base.as_slice(), marker.unwrap_or(prefix).max(prefix).as_bytes()].concat();
        let end = keys::behind(&[base.as_slice(), prefix.as_bytes()].concat());
        let mut items = Vec::new();
        if first >= end {
            return Ok(Listed { items, next: None });
        }
        for row in names.range(first.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            let name = key.value().get(base.len()..).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            if items.len() >= max {
                return Ok(Listed { items, next: Some(ListMarker { name, snapshot: None }) });
            }
            items.push((name, rows::decode(key.value(), value.value())?));
        }
        Ok(Listed { items, next: None })
    }

    /// What a blob is, or one of its snapshots.
    pub fn head(&self, name: &BlobName, snapshot: Option<SnapshotId>) -> Result<Head, ReadError> {
        let container = self.container(&name.container)?.id;
        self.head_in(container, &name.blob, snapshot)?.ok_or_else(|| Refusal::BlobNotFound.into())
    }

    fn head_in(
        &self,
        container: u64,
        name: &str,
        snapshot: Option<SnapshotId>,
    ) -> Result<Option<Head>, ReadError> {
        let key = keys::blob(container, name, snapshot.map(|id| id.0));
        let row: Option<Blob> = self.row(&key)?;
        row.map(|row| self.head_of(container, name, snapshot, row)).transpose()
    }

    pub(crate) fn head_of(
        &self,
        container: u64,
        name: &str,
        snapshot: Option<SnapshotId>,
        row: Blob,
    ) -> Result<Head, ReadError> {
        let (epoch, size, etag, modified, sequence) = if let Some(frozen) = row.frozen {
            (frozen.epoch, frozen.size, frozen.etag, frozen.modified, frozen.sequence)
        } else {
            let generations = self.transaction.open_table(GENERATIONS)?;
            let found = generations.get(row.generation)?;
            let damaged = || StateError::Row { row: format!("generation {}", row.generation) };
            let generation = Generation::decode(found.ok_or_else(damaged)?.value());
            let mark = generation.mark;
            (generation.epoch, mark.size, Etag(mark.etag), mark.modified, mark.sequence)
        };
        Ok(Head {
            name: name.to_owned(),
            snapshot,
            kind: row.kind,
            size,
            etag,
            modified,
            sequence,
            created: row.created,
            properties: row.properties,
            metadata: row.metadata,
            lease: row.lease,
            copy: row.copy,
            tier: row.tier,
            is_uncommitted: false,
            container,
            generation: row.generation,
            epoch,
            list: row.blocks.map(|blocks| blocks.list),
        })
    }

    /// The pages with content in a range: at most `max` runs.
    pub fn ranges(&self, head: &Head, range: Range<u64>, max: usize) -> Result<Ranges, ReadError> {
        let range = range.start..range.end.min(head.size);
        let mut found = Gathered::new(&range, max);
        check_pages(head)?;
        if range.is_empty() {
            return Ok(found.ranges);
        }
        let blocks = self.transaction.open_table(BLOCKS)?;
        let (generation, last) = (head.generation, narrow((range.end - 1) / BLOCK));
        let first = (generation, narrow(range.start / BLOCK), 0);
        let mut newest: Option<(u32, Version)> = None;
        for row in blocks.range(first..=(generation, last, u32::MAX))? {
            let (key, value) = row?;
            let (_, block, epoch) = key.value();
            found.ranges.rows = found.ranges.rows.saturating_add(1);
            if let Some((before, version)) = newest
                && before != block
            {
                newest = None;
                if !found.add(before, version.written, 0) {
                    return Ok(found.ranges);
                }
            }
            if epoch <= head.epoch {
                newest = Some((block, Version::decode(value.value())));
            }
        }
        if let Some((block, version)) = newest {
            found.add(block, version.written, 0);
        }
        Ok(found.ranges)
    }

    /// The pages that were written or cleared since the snapshot `previous`: at most `max` runs. What was written
    /// and cleared again counts as cleared.
    pub fn diff(
        &self,
        head: &Head,
        previous: SnapshotId,
        range: Range<u64>,
        max: usize,
    ) -> Result<Ranges, ReadError> {
        check_pages(head)?;
        if head.snapshot.is_some_and(|target| previous > target) {
            return Err(Refusal::PreviousSnapshotCannotBeNewer.into());
        }
        let before = self
            .head_in(head.container, &head.name, Some(previous))?
            .ok_or(Refusal::PreviousSnapshotNotFound)?;
        if before.generation != head.generation {
            return Err(Refusal::BlobOverwritten.into());
        }
        // Pages behind the end of the target are gone with its size, which the caller sees.
        let range = range.start..range.end.min(head.size);
        let mut found = Gathered::new(&range, max);
        if range.is_empty() || before.epoch >= head.epoch {
            return Ok(found.ranges);
        }
        let blocks = self.transaction.open_table(BLOCKS)?;
        let mut changes = self.changes(head.generation, before.epoch..head.epoch, &range)?;
        while let Some((block, touched)) = changes.next(&mut found.ranges.rows)? {
            let version = version_at(&blocks, head.generation, block, head.epoch)?;
            found.ranges.rows = found.ranges.rows.saturating_add(1);
            let written = version.map_or(0, |(_, version)| version.written);
            if !found.add(block, touched & written, touched & !written) {
                break;
            }
        }
        Ok(found.ranges)
    }

    /// What was touched in the epochs behind `epochs.start` up to `epochs.end`, by block.
    fn changes(
        &self,
        generation: u64,
        epochs: Range<u32>,
        range: &Range<u64>,
    ) -> Result<Changes, ReadError> {
        let table = self.transaction.open_table(EPOCHS)?;
        let changed = self.transaction.open_table(CHANGED)?;
        let first = narrow(range.start / BLOCK);
        let last = narrow((range.end - 1) / BLOCK);
        let mut changes = Changes { rows: Vec::new(), heap: BinaryHeap::new() };
        let after = epochs.start.saturating_add(1);
        for row in table.range((generation, after)..=(generation, epochs.end))? {
            let (key, _) = row?;
            let epoch = key.value().1;
            let rows = changed.range((generation, epoch, first)..=(generation, epoch, last))?;
            changes.rows.push(rows);
        }
        for index in 0..changes.rows.len() {
            changes.advance(index)?;
        }
        Ok(changes)
    }
}

/// Ranges are for blobs that are made of pages.
fn check_pages(head: &Head) -> Result<(), Refusal> {
    if head.kind.is_page() { Ok(()) } else { Err(Refusal::InvalidBlobType) }
}

/// Touched pages of several epochs, merged by block.
struct Changes {
    rows: Vec<redb::Range<'static, (u64, u32, u32), u128>>,
    heap: BinaryHeap<Reverse<(u32, usize, Pages)>>,
}

impl Changes {
    fn advance(&mut self, index: usize) -> Result<(), ReadError> {
        if let Some(row) = self.rows.get_mut(index).and_then(Iterator::next) {
            let (key, touched) = row?;
            self.heap.push(Reverse((key.value().2, index, touched.value())));
        }
        Ok(())
    }

    fn next(&mut self, rows: &mut u64) -> Result<Option<(u32, Pages)>, ReadError> {
        let Some(Reverse((block, ..))) = self.heap.peek() else { return Ok(None) };
        let block = *block;
        let mut all = 0;
        while let Some(Reverse((next, ..))) = self.heap.peek()
            && *next == block
            && let Some(Reverse((_, index, touched))) = self.heap.pop()
        {
            all |= touched;
            *rows = rows.saturating_add(1);
            self.advance(index)?;
        }
        Ok(Some((block, all)))
    }
}

/// Ranges as they are found.
struct Gathered {
    ranges: Ranges,
    bounds: Range<u64>,
    max: usize,
}

impl Gathered {
    fn new(bounds: &Range<u64>, max: usize) -> Self {
        Self { ranges: Ranges::default(), bounds: bounds.clone(), max }
    }

    /// Adds the pages of a block; says whether there is room for more.
    fn add(&mut self, block: u32, written: Pages, cleared: Pages) -> bool {
        let base = block_start(block);
        let kinds = [(written, false), (cleared, true)];
        let mut all: Vec<PageRange> = kinds
            .into_iter()
            .flat_map(|(pages, cleared)| {
                runs(pages).map(move |(first, end)| PageRange {
                    start: base.saturating_add(first.saturating_mul(PAGE)),
                    end: base.saturating_add(end.saturating_mul(PAGE)),
                    cleared,
                })
            })
            .collect();
        all.sort_unstable_by_key(|range| range.start);
        all.into_iter().all(|range| self.push(range))
    }

    fn push(&mut self, range: PageRange) -> bool {
        let start = range.start.max(self.bounds.start);
        let end = range.end.min(self.bounds.end);
        if start >= end {
            return true;
        }
        let is_full = self.ranges.ranges.len() >= self.max;
        match self.ranges.ranges.last_mut() {
            Some(last) if last.end == start && last.cleared == range.cleared => last.end = end,
            _ if is_full => {
                self.ranges.next = Some(start);
                return false;
            }
            _ => self.ranges.ranges.push(PageRange { start, end, ..range }),
        }
        true
    }
}
