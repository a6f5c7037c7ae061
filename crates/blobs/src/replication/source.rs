//! The other end of a resynchronization: the state of one moment, kept while it is asked for.

use std::sync::Arc;

use bytes::Bytes;
use crc32c::crc32c;
use redb::{ReadTransaction, ReadableDatabase as _, ReadableTableMetadata as _};

use super::{
    Batch, StoreId, compare,
    tables::{Digester, KeyRange, Next, Row, Table, walk},
    wire::{ANSWER, Cells, Digests, Moment, Question, Records, Rows, SLOTS, WantedSlot},
};
use crate::{
    copies::hub::Hub,
    engine::Hold,
    journal::Tail,
    numbers::size,
    pages::{BLOCK, CELL, CELLS, span},
    slots::{Place, Slot},
    state::{BLOCKS, StateError, identity},
    store::StoreError,
};

/// The state of a primary at one moment, for a secondary that is too far behind. The moment is kept until this is
/// dropped: slots are not used again, and the journal keeps the records from there on as far as the options allow it.
pub struct ResyncSource {
    hub: Arc<Hub>,
    hold: Hold,
    /// Read until no more rows are asked for: a database keeps every page that somebody reads.
    rows: Option<ReadTransaction>,
    moment: Moment,
    store: StoreId,
    /// The journal, where it was read last.
    tail: Tail,
}

impl ResyncSource {
    /// A moment for a secondary that is to be brought to it.
    pub(crate) fn new(hub: &Arc<Hub>) -> Result<Self, StoreError> {
        let source = Self::of_now(hub)?;
        hub.want(Some(source.moment.next_record.saturating_sub(1)));
        Ok(source)
    }

    /// A moment for a secondary that follows meanwhile.
    pub(crate) fn of_now(hub: &Arc<Hub>) -> Result<Self, StoreError> {
        let shared = hub.leading().ok_or(StoreError::Ended)?;
        let hold = shared.hold(false);
        let rows = shared.state.database.begin_read().map_err(StateError::from)?;
        let (store, counters) = identity(&rows)?;
        let blocks = rows.open_table(BLOCKS).and_then(|table| Ok(table.len()?));
        let moment = Moment {
            next_record: counters.next_record,
            stamp: counters.stamp,
            next_generation: counters.next_generation,
            blocks: blocks.map_err(StateError::from)?,
            eras: hub.eras(),
        };
        let tail = Tail::new(&shared.journal(), store, counters.next_record);
        let store = StoreId(store);
        Ok(Self { hub: Arc::clone(hub), hold, rows: Some(rows), moment, store, tail })
    }

    /// Answers one question of a [`Store::resync`](crate::Store::resync) at the other server. `None` if the question is
    /// not valid, or if the copy that this is of has failed.
    pub fn answer(&mut self, question: &[u8]) -> Option<Bytes> {
        if self.hold.shared().failure().is_some() {
            return None;
        }
        match Question::decode(question).ok()? {
            Question::Begin => Some(self.moment.encode()),
            Question::Compare { table, ranges } => {
                let same = ranges.iter().map(|(range, digest)| {
                    let digester = self.digest(table, range)?;
                    Some(u8::from(digester.finish() == *digest))
                });
                same.collect::<Option<Vec<u8>>>().map(Bytes::from)
            }
            Question::Rows { table, range } => self.rows(table, &range).map(|rows| rows.encode()),
            Question::EndRows => {
                self.rows = None;
                Some(Bytes::new())
            }
            Question::Slots(slots) => {
                debug_assert!(slots.len() <= SLOTS, "longer questions are not read");
                let cells: Vec<Cells> = slots.iter().map(|slot| self.cells(slot)).collect();
                Some(Cells::encode_all(&cells))
            }
            Question::Digests(wanted) => {
                debug_assert!(wanted.len() <= SLOTS, "longer questions are not read");
                let (shared, rows) = (self.hold.shared(), self.rows.as_ref()?);
                let digests = wanted.iter().map(|one| compare::answer(shared, rows, one).ok());
                Some(Digests::encode_all(&digests.collect::<Option<Vec<_>>>()?))
            }
            Question::Records { next } => self.records(next).map(|records| records.encode()),
        }
    }

    /// `None` if the journal does not have them any more.
    fn records(&mut self, next: u64) -> Option<Records> {
        if self.tail.next() != next {
            self.tail = Tail::new(&self.hold.shared().journal(), self.store.0, next);
        }
        let end = self.hub.position().next_record;
        let records = self.tail.read(end, ANSWER).ok()?;
        let batch = Batch { store: self.store, first: next, eras: self.hub.eras(), records };
        Some(Records { end, batch: batch.encode() })
    }

    fn digest(&self, table: Table, range: &KeyRange) -> Option<Digester> {
        let mut digester = Digester::default();
        let mut add = |row: Row| {
            digester.add(&row);
            Next::Continue
        };
        walk(self.rows.as_ref()?, table, range, &mut add).ok()?.ok()?;
        Some(digester)
    }

    fn rows(&self, table: Table, range: &KeyRange) -> Option<Rows> {
        let (mut rows, mut next, mut bytes) = (Vec::new(), None, 0_usize);
        let mut add = |row: Row| {
            if bytes >= ANSWER {
                next = Some(row.key);
                return Next::Stop;
            }
            bytes = bytes.saturating_add(row.key.len()).saturating_add(row.value.len());
            rows.push(row);
            Next::Continue
        };
        walk(self.rows.as_ref()?, table, range, &mut add).ok()?.ok()?;
        Some(Rows { rows, next })
    }

    /// The cells of a slot that have their checksums. One that has not was changed by a later record, which carries it whole;
    /// or it is damaged, and another copy may have it.
    fn cells(&self, wanted: &WantedSlot) -> Cells {
        let mut found = self.read(wanted);
        if found.cells != wanted.cells {
            self.hub.repair(self.hold.shared(), wanted.generation, wanted.block);
            found = self.read(wanted);
        }
        found
    }

    fn read(&self, wanted: &WantedSlot) -> Cells {
        let slot = Slot::from_number(wanted.slot);
        let none = Cells { cells: 0, bytes: Bytes::new() };
        let Some(place) = Place::of(wanted.generation, wanted.block, slot) else { return none };
        let mut bytes = vec![0; size(BLOCK)];
        if self.hold.shared().files.read(place, 0, &mut bytes).is_err() {
            return none;
        }
        let mut cells = 0_u16;
        let mut good = Vec::new();
        let asked = (0..CELLS).filter(|cell| wanted.cells & (1 << cell) != 0);
        for (cell, checksum) in asked.zip(&wanted.checksums) {
            let start = crate::numbers::wide(cell).saturating_mul(CELL);
            let content = span(&bytes, start, start.saturating_add(CELL));
            if crc32c(content) == *checksum {
                cells |= 1 << cell;
                good.extend_from_slice(content);
            }
        }
        Cells { cells, bytes: Bytes::from(good) }
    }
}
