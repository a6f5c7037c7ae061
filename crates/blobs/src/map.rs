//! The map of blocks: applying the operations of a record to the tables and to the waiting writes.
//!
//! It keeps the one rule that makes a crash simple: a slot that the last checkpoint uses for another version is
//! never written. A slot that is given back goes to `freed`, and is used again only when a later checkpoint is
//! durable. Applying depends on nothing but the tables, the record and the bytes of slots that the rule protects.

use std::{collections::BTreeSet, io};

use bytes::Bytes;
use crc32c::crc32c;
use redb::ReadableTable;

use crate::{
    numbers::{narrow, size, wide},
    pages::{BLOCK, CELL, CELLS, PAGE, Pages, Part, block_start, cells_of, pages_of_cell, parts},
    record::{Op, Record, cells_around},
    rows::keys,
    slots::{DataFiles, Pending, Place, Slot},
    state::{ALL_SLOTS, EpochUse, Generation, StateError, Tables, VERSION, Version},
};

/// How many rows a clear looks at in one piece.
const BATCH: usize = 1024;

/// Why a record was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A data file cannot be read.
    #[error("a data file cannot be read")]
    Read(#[source] io::Error),
    /// There is no room for the data.
    #[error("the data files cannot take more data")]
    Room(#[source] io::Error),
    /// A cell does not have its checksum.
    #[error("the blob's bytes at {offset} are damaged on the disk")]
    Damaged {
        /// The generation.
        generation: u64,
        /// Where, in bytes of the blob.
        offset: u64,
    },
    /// The record names a generation that does not exist.
    #[error("generation {generation} does not exist")]
    Generation {
        /// Which one.
        generation: u64,
    },
}

impl<E: Into<redb::Error>> From<E> for ApplyError {
    fn from(error: E) -> Self {
        Self::State(StateError::from(error))
    }
}

/// Which background work a group has made or done.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    /// Epochs that have no reader any more.
    pub(crate) ended: BTreeSet<(u64, u32)>,
    /// Of those, the ones that are merged.
    pub(crate) merged: BTreeSet<(u64, u32)>,
}

/// A transaction that records are applied to, with the writes that wait for the journal.
pub(crate) struct Applier<'a, 't> {
    /// The tables.
    pub(crate) tables: Tables<'t>,
    /// Where old bytes are read.
    pub(crate) files: &'a DataFiles,
    /// The writes.
    pub(crate) pending: Pending,
    /// The number of the last checkpoint.
    pub(crate) checkpoint: u64,
    /// Background work.
    pub(crate) chores: Chores,
}

/// The version of a block that a reader of `epoch` sees, and the epoch that made it.
pub(crate) fn version_at(
    blocks: &impl ReadableTable<(u64, u32, u32), &'static [u8; VERSION]>,
    generation: u64,
    block: u32,
    epoch: u32,
) -> Result<Option<(u32, Version)>, StateError> {
    let mut range = blocks.range((generation, block, 0)..=(generation, block, epoch))?;
    match range.next_back() {
        Some(row) => {
            let (key, value) = row?;
            Ok(Some((key.value().2, Version::decode(value.value()))))
        }
        None => Ok(None),
    }
}

impl Applier<'_, '_> {
    /// Applies a record.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        for op in &record.ops {
            self.apply_op(op)?;
        }
        self.pending.reserve(self.files).map_err(ApplyError::Room)
    }

    fn apply_op(&mut self, op: &Op) -> Result<(), ApplyError> {
        match op {
            Op::Put { key, value } => {
                self.tables.names.insert(key.as_slice(), value.as_slice())?;
            }
            Op::Remove { key } => {
                self.tables.names.remove(key.as_slice())?;
            }
            Op::RemoveRange { from, end } => {
                let range = from.as_slice()..end.as_slice();
                if !range.is_empty() {
                    self.tables.names.retain_in(range, |_, _| false)?;
                }
            }
            Op::Begin { generation } => {
                self.tables.put_generation(*generation, &Generation::default())?;
                self.tables.epochs.insert((*generation, 0), EpochUse::Present.number())?;
            }
            Op::Mark { generation, mark } => {
                let mut row = self.generation(*generation)?;
                row.mark = *mark;
                self.tables.put_generation(*generation, &row)?;
            }
            Op::Seal { generation } => {
                let mut row = self.generation(*generation)?;
                let epochs = &mut self.tables.epochs;
                epochs.insert((*generation, row.epoch), EpochUse::Snapshot.number())?;
                row.epoch = row.epoch.saturating_add(1);
                epochs.insert((*generation, row.epoch), EpochUse::Present.number())?;
                self.tables.put_generation(*generation, &row)?;
            }
            Op::End { generation, epoch } => {
                self.tables.epochs.insert((*generation, *epoch), EpochUse::Gone.number())?;
                self.chores.ended.insert((*generation, *epoch));
            }
            Op::Merge { generation, epoch, limit } => {
                self.merge(*generation, *epoch, *limit)?;
            }
            Op::Clear { generation, offset, len } => self.clear(*generation, *offset, *len)?,
            Op::Write { generation, offset, len, data } => {
                self.write(*generation, *offset, *len, data)?;
            }
        }
        Ok(())
    }

    fn generation(&self, generation: u64) -> Result<Generation, ApplyError> {
        self.tables.generation(generation)?.ok_or(ApplyError::Generation { generation })
    }

    /// One cell as it is, with its checksum checked; pages without content are zero.
    pub(crate) fn cell(
        &self,
        generation: u64,
        block: u32,
        version: &Version,
        cell: usize,
    ) -> Result<Vec<u8>, ApplyError> {
        let Some(place) = Place::of(generation, block, version.slot) else {
            return Ok(vec![0; size(CELL)]);
        };
        let mut bytes =
            self.pending.read_cell(self.files, place, cell).map_err(ApplyError::Read)?;
        if version.checksums.get(cell) != Some(&crc32c(&bytes)) {
            let offset = block_start(block).saturating_add(wide(cell).saturating_mul(CELL));
            return Err(ApplyError::Damaged { generation, offset });
        }
        zero_unwritten(&mut bytes, version.written, cell);
        Ok(bytes)
    }

    /// The whole cells around a write, with what is there already beside it.
    pub(crate) fn with_borders(
        &self,
        generation: u64,
        offset: u64,
        data: &Bytes,
    ) -> Result<Bytes, ApplyError> {
        let len = wide(data.len());
        let (start, end) = cells_around(offset, len);
        if (start, end) == (offset, offset.saturating_add(len)) {
            return Ok(data.clone());
        }
        let epoch = self.generation(generation)?.epoch;
        let mut whole = vec![0; size(end.saturating_sub(start))];
        for at in [start, end.saturating_sub(CELL)] {
            let block = narrow(at / BLOCK);
            let cell = size(at % BLOCK / CELL);
            let version = version_at(&self.tables.blocks, generation, block, epoch)?;
            if let Some((_, version)) = version
                && version.written & pages_of_cell(cell) != 0
            {
                let old = self.cell(generation, block, &version, cell)?;
                let from = at.saturating_sub(start);
                crate::pages::span_mut(&mut whole, from, from.saturating_add(CELL))
                    .copy_from_slice(&old);
            }
        }
        let from = offset.saturating_sub(start);
        crate::pages::span_mut(&mut whole, from, from.saturating_add(len)).copy_from_slice(data);
        Ok(Bytes::from(whole))
    }

    fn write(
        &mut self,
        generation: u64,
        offset: u64,
        len: u64,
        data: &Bytes,
    ) -> Result<(), ApplyError> {
        let mut row = self.generation(generation)?;
        let before = row;
        let (start, _) = cells_around(offset, len);
        for part in parts(offset, len) {
            let base = block_start(part.block);
            let (first, end) = cells_around(part.start, part.end.saturating_sub(part.start));
            let from = base.saturating_add(first).saturating_sub(start);
            let until = from.saturating_add(end.saturating_sub(first)).min(wide(data.len()));
            let bytes = data.slice(size(from.min(until))..size(until));
            self.write_block(generation, &mut row, part, first, &bytes)?;
        }
        if row != before {
            self.tables.put_generation(generation, &row)?;
        }
        Ok(())
    }

    /// Writes whole cells from byte `first` of a block on; `part` says which pages that makes.
    fn write_block(
        &mut self,
        generation: u64,
        row: &mut Generation,
        part: Part,
        first: u64,
        bytes: &Bytes,
    ) -> Result<(), ApplyError> {
        let Part { block, .. } = part;
        let pages = part.pages();
        let old = version_at(&self.tables.blocks, generation, block, row.epoch)?;
        // Carried cells are reserved where they are copied.
        let (mut version, had) = match old {
            Some((epoch, version)) if epoch == row.epoch && version.slot != Slot::None => {
                (version, cells_of(version.written))
            }
            Some((_, old)) => (self.new_version(generation, row, block, &old, pages)?, 0),
            None => (self.new_version(generation, row, block, &Version::EMPTY, pages)?, 0),
        };
        if let Some(place) = Place::of(generation, block, version.slot) {
            self.pending.write(place, first, bytes, !had);
        }
        for (cell, bytes) in (size(first / CELL)..).zip(bytes.chunks(size(CELL))) {
            if let Some(checksum) = version.checksums.get_mut(cell) {
                *checksum = crc32c(bytes);
            }
        }
        version.written |= pages;
        self.put_version(generation, block, row.epoch, &version)?;
        self.touch(generation, row.epoch, block, pages)
    }

    /// A slot for a new version, with the cells of the old one in which something besides `replaced` has content.
    fn new_version(
        &mut self,
        generation: u64,
        row: &mut Generation,
        block: u32,
        old: &Version,
        replaced: Pages,
    ) -> Result<Version, ApplyError> {
        let slot = self.take_slot(generation, row, block)?;
        let mut version = Version { slot, written: old.written, checksums: [0; CELLS] };
        let Some(place) = Place::of(generation, block, slot) else { return Ok(version) };
        for cell in 0..CELLS {
            let pages = pages_of_cell(cell);
            // A cell with a replaced page comes whole with the write.
            if old.written & pages == 0 || replaced & pages != 0 {
                continue;
            }
            let bytes = self.cell(generation, block, old, cell)?;
            if let Some(checksum) = version.checksums.get_mut(cell) {
                *checksum = crc32c(&bytes);
            }
            let start = wide(cell).saturating_mul(CELL);
            self.pending.write(place, start, &Bytes::from(bytes), u16::MAX);
        }
        version.written = old.written;
        Ok(version)
    }

    /// A slot that neither the state nor the last checkpoint uses: home if it is free.
    fn take_slot(
        &mut self,
        generation: u64,
        row: &mut Generation,
        block: u32,
    ) -> Result<Slot, ApplyError> {
        let home = Slot::Home.number();
        let mut is_home_taken = self.tables.freed.get((generation, home, block))?.is_some();
        if !is_home_taken {
            for version in
                self.tables.blocks.range((generation, block, 0)..=(generation, block, u32::MAX))?
            {
                is_home_taken |= Version::decode(version?.1.value()).slot == Slot::Home;
            }
        }
        if !is_home_taken {
            return Ok(Slot::Home);
        }
        let free = {
            let mut range = self.tables.free.range((generation, 0)..=(generation, u64::MAX))?;
            range.next().transpose()?.map(|(key, _)| key.value().1)
        };
        if let Some(index) = free {
            self.tables.free.remove((generation, index))?;
            return Ok(Slot::Aside(index));
        }
        let index = row.aside;
        row.aside = row.aside.saturating_add(1);
        Ok(Slot::Aside(index))
    }

    fn give_back(&mut self, generation: u64, block: u32, slot: Slot) -> Result<(), ApplyError> {
        if slot != Slot::None {
            let block = if slot == Slot::Home { block } else { 0 };
            let key = (generation, slot.number(), block);
            self.tables.freed.insert(key, self.checkpoint)?;
        }
        Ok(())
    }

    fn put_version(
        &mut self,
        generation: u64,
        block: u32,
        epoch: u32,
        version: &Version,
    ) -> Result<(), ApplyError> {
        self.tables.blocks.insert((generation, block, epoch), &version.encode())?;
        Ok(())
    }

    fn touch(
        &mut self,
        generation: u64,
        epoch: u32,
        block: u32,
        pages: Pages,
    ) -> Result<(), ApplyError> {
        let key = (generation, epoch, block);
        let before = self.tables.changed.get(key)?.map_or(0, |touched| touched.value());
        if before | pages != before {
            self.tables.changed.insert(key, before | pages)?;
        }
        Ok(())
    }

    fn clear(&mut self, generation: u64, offset: u64, len: u64) -> Result<(), ApplyError> {
        let mut row = self.generation(generation)?;
        let before = row;
        let end = offset.saturating_add(len);
        let last = narrow(end.saturating_sub(1) / BLOCK);
        let mut next = narrow(offset / BLOCK);
        if len == 0 {
            return Ok(());
        }
        loop {
            // The versions are gathered first: a table cannot change while it is read.
            let found = self.present_versions(generation, row.epoch, next, last)?;
            let Some((block, ..)) = found.last() else { break };
            next = block.saturating_add(1);
            for (block, epoch, version) in found {
                let base = block_start(block);
                let part = Part {
                    block,
                    start: offset.max(base) - base,
                    end: end.min(base.saturating_add(BLOCK)).saturating_sub(base),
                };
                self.clear_block(generation, &mut row, part, epoch, version)?;
            }
            if next > last {
                break;
            }
        }
        if row != before {
            self.tables.put_generation(generation, &row)?;
        }
        Ok(())
    }

    /// The newest versions of the first blocks from `block` on.
    fn present_versions(
        &self,
        generation: u64,
        epoch: u32,
        block: u32,
        last: u32,
    ) -> Result<Vec<(u32, u32, Version)>, ApplyError> {
        let mut found: Vec<(u32, u32, Version)> = Vec::new();
        for row in self.tables.blocks.range((generation, block, 0)..=(generation, last, epoch))? {
            let (key, value) = row?;
            let (_, block, made) = key.value();
            let version = Version::decode(value.value());
            let is_full = found.len() == BATCH;
            match found.last_mut() {
                Some(newest) if newest.0 == block => *newest = (block, made, version),
                _ if is_full => break,
                _ => found.push((block, made, version)),
            }
        }
        Ok(found)
    }

    fn clear_block(
        &mut self,
        generation: u64,
        row: &mut Generation,
        part: Part,
        made: u32,
        mut version: Version,
    ) -> Result<(), ApplyError> {
        let Part { block, .. } = part;
        let cleared = version.written & part.pages();
        if cleared == 0 {
            return Ok(());
        }
        let rest = version.written & !cleared;
        if rest == 0 {
            if made == row.epoch {
                self.give_back(generation, block, version.slot)?;
                self.tables.blocks.remove((generation, block, made))?;
            }
            let older = version_at(&self.tables.blocks, generation, block, row.epoch)?;
            if older.is_some_and(|(_, older)| older.written != 0) {
                self.put_version(generation, block, row.epoch, &Version::EMPTY)?;
            }
        } else if made == row.epoch {
            let emptied = cells_of(version.written) & !cells_of(rest);
            version.written = rest;
            self.put_version(generation, block, made, &version)?;
            if let Some(place) = Place::of(generation, block, version.slot) {
                self.pending.punch(place, emptied);
            }
        } else {
            let old = Version { written: rest, ..version };
            let new = self.new_version(generation, row, block, &old, 0)?;
            self.put_version(generation, block, row.epoch, &new)?;
        }
        self.touch(generation, row.epoch, block, cleared)
    }

    /// Moves rows of an ended epoch to the next one, or drops them if there is none.
    fn merge(&mut self, generation: u64, epoch: u32, limit: u32) -> Result<(), ApplyError> {
        let next = {
            let after = (generation, epoch.saturating_add(1))..=(generation, u32::MAX);
            self.tables.epochs.range(after)?.next().transpose()?.map(|(key, _)| key.value().1)
        };
        let is_only = {
            let all = self.tables.epochs.range((generation, 0)..=(generation, u32::MAX))?;
            all.take(2).count() < 2
        };
        if is_only && self.forget_names(generation, limit)? {
            return Ok(());
        }
        let rows = (generation, epoch, 0)..=(generation, epoch, u32::MAX);
        let mut found: Vec<(u32, Pages)> = Vec::new();
        for row in self.tables.changed.range(rows)?.take(size(u64::from(limit))) {
            let (key, touched) = row?;
            found.push((key.value().2, touched.value()));
        }
        let is_end = wide(found.len()) < u64::from(limit);
        for (block, touched) in found {
            self.tables.changed.remove((generation, epoch, block))?;
            if let Some(next) = next {
                self.touch(generation, next, block, touched)?;
            }
            self.merge_block(generation, epoch, next, block, is_only)?;
        }
        if is_end {
            self.tables.epochs.remove((generation, epoch))?;
            self.chores.merged.insert((generation, epoch));
            if is_only {
                self.tables.generations.remove(generation)?;
                self.tables.freed.insert((generation, ALL_SLOTS, 0), self.checkpoint)?;
            }
        }
        Ok(())
    }

    /// Removes rows of names that belong to a generation that ends, up to `limit`; says whether there may be more.
    fn forget_names(&mut self, generation: u64, limit: u32) -> Result<bool, ApplyError> {
        let mut found: Vec<Vec<u8>> = Vec::new();
        for kind in [*b"k", *b"q", *b"u"] {
            let from = keys::of_generation(kind, generation);
            let end = keys::behind(&from);
            let left = size(u64::from(limit)).saturating_sub(found.len());
            for row in self.tables.names.range(from.as_slice()..end.as_slice())?.take(left) {
                found.push(row?.0.value().to_vec());
            }
        }
        for key in &found {
            self.tables.names.remove(key.as_slice())?;
        }
        Ok(wide(found.len()) >= u64::from(limit))
    }

    fn merge_block(
        &mut self,
        generation: u64,
        epoch: u32,
        next: Option<u32>,
        block: u32,
        is_only: bool,
    ) -> Result<(), ApplyError> {
        let read = |blocks: &redb::Table<'_, (u64, u32, u32), &'static [u8; VERSION]>, epoch| {
            let row = blocks.get((generation, block, epoch))?;
            Ok::<_, StateError>(row.map(|row| Version::decode(row.value())))
        };
        let version = read(&self.tables.blocks, epoch)?;
        if version.is_some() {
            self.tables.blocks.remove((generation, block, epoch))?;
        }
        let newer = match next {
            Some(next) => read(&self.tables.blocks, next)?,
            None => None,
        };
        match (version, next, newer) {
            // The files are deleted whole.
            (Some(_), _, _) if is_only => {}
            (Some(version), Some(next), None) => {
                self.put_version(generation, block, next, &version)?;
            }
            (Some(version), _, _) => self.give_back(generation, block, version.slot)?,
            (None, _, _) => {}
        }
        // A version without pages only hides an older one.
        if let Some(next) = next
            && read(&self.tables.blocks, next)?.is_some_and(|version| version.slot == Slot::None)
            && version_at(&self.tables.blocks, generation, block, epoch)?
                .is_none_or(|(_, older)| older.written == 0)
        {
            self.tables.blocks.remove((generation, block, next))?;
        }
        Ok(())
    }
}

/// Pages without content are zeros, whatever lies in their place.
pub(crate) fn zero_unwritten(bytes: &mut [u8], written: Pages, cell: usize) {
    let first = wide(cell).saturating_mul(CELL / PAGE);
    for (page, bytes) in (first..).zip(bytes.chunks_mut(size(PAGE))) {
        if written & crate::pages::pages_between(page, page + 1) == 0 {
            bytes.fill(0);
        }
    }
}
