//! A comparison of a secondary with its primary by strong digests.
//!
//! ```text
//!  begin    the primary keeps the state of a moment; this store takes records up to exactly there, and keeps its own
//!  rows     names and maps are compared by digests of ranges of rows
//!  content  of each version of a block both servers take the BLAKE3 digest of the cells that are still as the moment had them
//! ```
//!
//! A resynchronization and a batch trust the CRC-32C of cells, which two different cells may share. This trusts nothing:
//! all content is read at both servers. Cells that were written since the moment are passed over; a later comparison
//! finds them. A large store is compared in parts, each of a moment of its own, because a moment that is kept for
//! long keeps pages and slots.
//!
//! Only the secondary asks, and nothing is changed at either server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase as _, ReadableTableMetadata as _};

use super::{
    BadBatch, Batch, ResyncError,
    tables::{KeyRange, Row, Table, read_block_key, read_block_value, take_range},
    wire::{DIGEST, Digests, Moment, Question, Records, Rows, SLOTS, WantedDigest},
};
use crate::{
    copies::hub::Hub,
    engine::{Hold, Shared},
    numbers::{size, wide},
    pages::{BLOCK, CELL, CELLS, pages_of_cell, span},
    rows::{self, Blob, BlobName, Container, ContainerName, keys},
    slots::{Place, Slot},
    state::{BLOCKS, NAMES, StateError, Version, identity},
    store::{Store, StoreError},
};

/// Differences that are named; further ones are counted.
const NAMED: usize = 1000;

/// How far a comparison is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareProgress {
    /// Versions of blocks that were compared.
    pub blocks: u64,
    /// Versions of blocks that there are.
    pub of_blocks: u64,
    /// Bytes of content whose digests were compared.
    pub bytes: u64,
    /// Cells that could not be compared: written since the moment, or damaged at one of the servers.
    pub passed_over: u64,
}

/// What differs between two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DifferenceKind {
    /// The bytes of a range.
    Content,
    /// Which pages of a range have content, or their checksums.
    Map,
    /// Names, properties, or other rows of the state.
    State,
}

/// A difference between two servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What differs.
    pub kind: DifferenceKind,
    /// The blob; none if the difference is of no blob, or of one that is deleted. Of a content that is not a page blob's the
    /// range is that of its pages.
    pub blob: Option<BlobName>,
    /// The first byte, in the blob or in one of its snapshots.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
}

/// What a part of a comparison has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// The first differences.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub count: u64,
    /// Where the rest begins; none at the end.
    pub next: Option<Vec<u8>>,
}

/// A moment that both servers keep, to be compared.
pub struct Comparison {
    hub: Arc<Hub>,
    hold: Hold,
    rows: ReadTransaction,
    /// What was found, by generations; their names are looked for at the end.
    found: BTreeSet<(DifferenceKind, u64, u64, u64)>,
    count: u64,
    so_far: CompareProgress,
}

type Go<'a> = &'a mut dyn FnMut(CompareProgress) -> bool;
type Ask<'a, E> = &'a mut dyn FnMut(Bytes) -> Result<Bytes, E>;

impl Store {
    /// Lets the primary keep a moment, and brings this secondary to exactly that moment. No batch may be taken meanwhile; when this
    /// returns, both may continue. `ask` carries a question to [`ResyncSource::answer`](super::ResyncSource::answer) of a
    /// source that was made by [`Store::comparison_source`] there.
    pub fn begin_comparison<E: std::error::Error + 'static>(
        &self,
        ask: Ask<'_, E>,
    ) -> Result<Comparison, ResyncError<E>> {
        let mut asked = |question: Question| ask(question.encode()).map_err(ResyncError::Peer);
        let moment = Moment::decode(asked(Question::Begin)?)?;
        loop {
            let here = self.position();
            let missing = moment.next_record.saturating_sub(here.next_record);
            if missing == 0 {
                break;
            }
            let next = here.next_record;
            let Records { batch, .. } = Records::decode(asked(Question::Records { next })?)?;
            let mut batch = Batch::decode(&batch).map_err(|BadBatch| ResyncError::Invalid)?;
            batch.records.truncate(size(missing));
            if batch.records.is_empty() || batch.first != next {
                return Err(ResyncError::Invalid);
            }
            self.take_batch(batch)?;
        }
        let here = self.position();
        if (here.next_record, here.stamp) != (moment.next_record, moment.stamp) {
            return Err(ResyncError::Invalid);
        }
        let shared = self.hub.leading().ok_or(StoreError::Ended)?;
        let hold = shared.hold(false);
        let rows = shared.state.database.begin_read().map_err(StateError::from)?;
        let (_, counters) = identity(&rows)?;
        if counters.next_record != moment.next_record {
            return Err(StoreError::Ended.into());
        }
        let of_blocks = rows.open_table(BLOCKS)?.len()?;
        let so_far = CompareProgress { of_blocks, ..CompareProgress::default() };
        let (hub, found) = (Arc::clone(&self.hub), BTreeSet::new());
        Ok(Comparison { hub, hold, rows, found, count: 0, so_far })
    }
}

impl Comparison {
    /// Compares from a key on, or from the beginning. `go` is called after each piece; the part ends when it returns false.
    pub fn run<E: std::error::Error + 'static>(
        mut self,
        from: Option<Vec<u8>>,
        ask: Ask<'_, E>,
        go: Go<'_>,
    ) -> Result<Compared, ResyncError<E>> {
        if from.is_none() {
            for table in [Table::Names, Table::Generations, Table::Epochs, Table::Changed] {
                self.tables(table, ask)?;
            }
        }
        let mut from = Some(from.unwrap_or_default());
        while let Some(begin) = from.take() {
            if self.hold.shared().failure().is_some() {
                return Err(StoreError::Ended.into());
            }
            let mut rows = Vec::new();
            let mut keep = |row: &Row| rows.push(row.clone());
            let (range, digest, _) = take_range(&self.rows, Table::Blocks, begin, &mut keep)??;
            if !Self::is_same(Table::Blocks, &range, digest, ask)? {
                self.map(&range, &rows, ask)?;
            }
            let end = range.to;
            let mut pieces = rows.chunks(SLOTS);
            for piece in pieces.by_ref() {
                self.content(piece, ask)?;
                if !go(self.so_far) {
                    let next = pieces.next().and_then(<[Row]>::first).map(|row| row.key.clone());
                    return self.finish(next.or(end));
                }
            }
            from = end;
        }
        self.finish(None)
    }

    fn is_same<E: std::error::Error + 'static>(
        table: Table,
        range: &KeyRange,
        digest: [u8; DIGEST],
        ask: Ask<'_, E>,
    ) -> Result<bool, ResyncError<E>> {
        let question = Question::Compare { table, ranges: vec![(range.clone(), digest)] };
        let same = ask(question.encode()).map_err(ResyncError::Peer)?;
        match same.as_ref() {
            [same] => Ok(*same != 0),
            _ => Err(ResyncError::Invalid),
        }
    }

    fn note(&mut self, kind: DifferenceKind, generation: u64, start: u64, end: u64) {
        self.count = self.count.saturating_add(1);
        if self.found.len() < NAMED {
            self.found.insert((kind, generation, start, end));
        }
    }

    /// Compares a table of which no bytes of blobs depend.
    fn tables<E: std::error::Error + 'static>(
        &mut self,
        table: Table,
        ask: Ask<'_, E>,
    ) -> Result<(), ResyncError<E>> {
        let mut from = Some(Vec::new());
        while let Some(begin) = from.take() {
            let (range, digest, _) = take_range(&self.rows, table, begin, &mut |_| {})??;
            if !Self::is_same(table, &range, digest, ask)? {
                self.note(DifferenceKind::State, 0, 0, 0);
            }
            from = range.to;
        }
        Ok(())
    }

    /// Finds the blocks of a range whose rows differ.
    fn map<E: std::error::Error + 'static>(
        &mut self,
        range: &KeyRange,
        here: &[Row],
        ask: Ask<'_, E>,
    ) -> Result<(), ResyncError<E>> {
        let mut there = BTreeMap::new();
        let mut from = Some(range.from.clone());
        while let Some(begin) = from.take() {
            let range = KeyRange { from: begin.clone(), to: range.to.clone() };
            let question = Question::Rows { table: Table::Blocks, range };
            let answer = ask(question.encode()).map_err(ResyncError::Peer)?;
            let Rows { rows, next } = Rows::decode(answer)?;
            if next.as_ref().is_some_and(|next| *next <= begin) {
                return Err(ResyncError::Invalid);
            }
            there.extend(rows.into_iter().map(|row| (row.key, row.value)));
            from = next;
        }
        let mut differ = BTreeSet::new();
        for row in here {
            if there.remove(&row.key).as_ref() != Some(&row.value) {
                differ.insert(row.key.clone());
            }
        }
        differ.extend(there.into_keys());
        for key in differ {
            let (generation, block, _) = read_block_key(&key).ok_or(ResyncError::Invalid)?;
            let start = u64::from(block).saturating_mul(BLOCK);
            self.note(DifferenceKind::Map, generation, start, start.saturating_add(BLOCK));
        }
        Ok(())
    }

    /// Compares the content of some versions.
    fn content<E: std::error::Error + 'static>(
        &mut self,
        rows: &[Row],
        ask: Ask<'_, E>,
    ) -> Result<(), ResyncError<E>> {
        let mut read = Vec::with_capacity(rows.len());
        for row in rows {
            let key = read_block_key(&row.key).ok_or(ResyncError::Invalid)?;
            let mut version = read_block_value(&row.value).ok_or(ResyncError::Invalid)?;
            version.slot = Slot::from_number(row.slot);
            let written = written_cells(&version);
            let (bytes, good) = good_cells(self.hold.shared(), key, &version, written);
            self.so_far.blocks = self.so_far.blocks.saturating_add(1);
            self.pass_over(written & !good);
            if good != 0 {
                read.push((WantedDigest { key, cells: good }, bytes));
            }
        }
        if read.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = read.iter().map(|(wanted, _)| *wanted).collect();
        let answers = digests(&wanted, ask)?;
        for ((WantedDigest { key, cells }, bytes), there) in read.iter().zip(answers) {
            if there.cells & !cells != 0 {
                return Err(ResyncError::Invalid);
            }
            self.pass_over(cells & !there.cells);
            let compared = u64::from(there.cells.count_ones()).saturating_mul(CELL);
            self.so_far.bytes = self.so_far.bytes.saturating_add(compared);
            if there.cells != 0 && digest_of(bytes, there.cells) != there.digest {
                self.cells(*key, there.cells, bytes, ask)?;
            }
        }
        Ok(())
    }

    fn pass_over(&mut self, cells: u16) {
        let count = u64::from(cells.count_ones());
        self.so_far.passed_over = self.so_far.passed_over.saturating_add(count);
    }

    /// Finds the cells of a version that differ.
    fn cells<E: std::error::Error + 'static>(
        &mut self,
        key: (u64, u32, u32),
        cells: u16,
        bytes: &[u8],
        ask: Ask<'_, E>,
    ) -> Result<(), ResyncError<E>> {
        let single = (0..CELLS).map(|cell| 1_u16 << cell).filter(|cell| cells & cell != 0);
        let wanted: Vec<_> = single.map(|cells| WantedDigest { key, cells }).collect();
        let answers = digests(&wanted, ask)?;
        for (wanted, there) in wanted.iter().zip(answers) {
            if there.cells == wanted.cells && digest_of(bytes, wanted.cells) != there.digest {
                let cell = u64::from(wanted.cells.trailing_zeros());
                let start = u64::from(key.1).saturating_mul(BLOCK);
                let start = start.saturating_add(cell.saturating_mul(CELL));
                self.note(DifferenceKind::Content, key.0, start, start.saturating_add(CELL));
            }
        }
        Ok(())
    }

    /// Names what was found.
    fn finish<E: std::error::Error + 'static>(
        self,
        next: Option<Vec<u8>>,
    ) -> Result<Compared, ResyncError<E>> {
        let generations: BTreeSet<u64> = self.found.iter().map(|found| found.1).collect();
        let names = self.names(&generations)?;
        let differences = self.found.into_iter().map(|(kind, generation, start, end)| {
            let blob = names.get(&generation).cloned();
            Difference { kind, blob, start, end }
        });
        // The leading copy is the one that was compared until here.
        drop(self.hub);
        Ok(Compared { differences: differences.collect(), count: self.count, next })
    }

    /// The names of the blobs of some generations.
    fn names(&self, generations: &BTreeSet<u64>) -> Result<BTreeMap<u64, BlobName>, StateError> {
        let mut found = BTreeMap::new();
        if generations.is_empty() {
            return Ok(found);
        }
        let names = self.rows.open_table(NAMES)?;
        let mut containers = BTreeMap::new();
        for row in names.range(b"c".as_slice()..b"d".as_slice())? {
            let (key, value) = row?;
            let text = String::from_utf8_lossy(key.value().get(1..).unwrap_or_default());
            let container: Container = rows::decode(key.value(), value.value())?;
            if let Some((account, name)) = text.split_once('/') {
                containers.insert(container.id, ContainerName::new(account, name));
            }
        }
        for row in names.range(b"b".as_slice()..b"c".as_slice())? {
            let (key, value) = row?;
            let blob: Blob = rows::decode(key.value(), value.value())?;
            if !generations.contains(&blob.generation) {
                continue;
            }
            let id = key.value().get(1..9).and_then(keys::last_number);
            let container = id.and_then(|id| containers.get(&id));
            let name = keys::parse_blob(key.value()).map(|(name, _)| name);
            if let (Some(container), Some(name)) = (container, name) {
                found.insert(blob.generation, container.blob(name));
            }
        }
        Ok(found)
    }
}

fn digests<E: std::error::Error + 'static>(
    wanted: &[WantedDigest],
    ask: Ask<'_, E>,
) -> Result<Vec<Digests>, ResyncError<E>> {
    let question = Question::Digests(wanted.to_vec());
    let answer = ask(question.encode()).map_err(ResyncError::Peer)?;
    Ok(Digests::decode_all(answer, wanted.len())?)
}

fn written_cells(version: &Version) -> u16 {
    let cells = (0..CELLS).filter(|cell| version.written & pages_of_cell(*cell) != 0);
    cells.fold(0, |cells, cell| cells | (1 << cell))
}

/// Reads the slot of a version: its bytes, and which of some cells are as the version wants them.
fn good_cells(
    shared: &Shared,
    (generation, block, _): (u64, u32, u32),
    version: &Version,
    cells: u16,
) -> (Vec<u8>, u16) {
    let Some(place) = Place::of(generation, block, version.slot) else { return (Vec::new(), 0) };
    let mut bytes = vec![0; size(BLOCK)];
    if shared.files.read(place, 0, &mut bytes).is_err() {
        return (Vec::new(), 0);
    }
    let contents = version.checksums.iter().zip(bytes.chunks(size(CELL))).enumerate();
    let good = contents
        .filter(|(_, (checksum, content))| crc32c::crc32c(content) == **checksum)
        .fold(0, |good, (cell, _)| good | (1 << cell));
    (bytes, good & cells)
}

/// The digest of some cells of a block, one after another.
fn digest_of(bytes: &[u8], cells: u16) -> [u8; DIGEST] {
    let mut digest = blake3::Hasher::new();
    for cell in (0..CELLS).filter(|cell| cells & (1 << cell) != 0) {
        let start = wide(cell).saturating_mul(CELL);
        digest.update(span(bytes, start, start.saturating_add(CELL)));
    }
    *digest.finalize().as_bytes()
}

/// The other end: the digest of those cells of a version that are still as a moment had them.
pub(super) fn answer(
    shared: &Shared,
    rows: &ReadTransaction,
    wanted: &WantedDigest,
) -> Result<Digests, StateError> {
    let WantedDigest { key, cells } = *wanted;
    let row = rows.open_table(BLOCKS)?.get(key)?;
    let Some(version) = row.map(|row| Version::decode(row.value())) else {
        return Ok(Digests { cells: 0, digest: [0; DIGEST] });
    };
    let (bytes, good) = good_cells(shared, key, &version, cells & written_cells(&version));
    Ok(Digests { cells: good, digest: digest_of(&bytes, good) })
}
