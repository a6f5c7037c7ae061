//! The blocks of a resynchronization: which slot each version gets, and what of it is fetched.

use std::collections::{BTreeMap, BTreeSet};

use crc32c::crc32c;
use redb::{ReadTransaction, ReadableTable as _, WriteTransaction};

use super::{DURABLE, GROUP, Resync, ResyncError, STAGED, check_room};
use crate::{
    numbers::{size, wide},
    pages::{BLOCK, CELL, CELLS, pages_of_cell},
    replication::{
        tables::{KeyRange, block_key, block_value, read_block_key, read_block_value},
        wire::{Cells, Question, SLOTS, WantedSlot},
    },
    slots::{Place, Slot},
    state::{BLOCKS, FREED, GENERATIONS, Generation, StateError, Version},
    store::StoreError,
};

/// A version that the new state gets.
struct Incoming {
    generation: u64,
    block: u32,
    epoch: u32,
    /// Its slot is the one here.
    version: Version,
    /// The number of its slot at the primary.
    there: u64,
    /// Cells that its slot lacks.
    missing: u16,
    /// Versions that are here of the same block, for the cells that they have in common.
    alike: Vec<Version>,
}

/// What becomes of one block.
#[derive(Default)]
struct Plan {
    incoming: Vec<Incoming>,
    /// Rows of the new state that the primary does not have.
    gone: Vec<(u64, u32, u32)>,
    /// Slots of the new state that no row uses any more.
    freed: Vec<(u64, u64, u32)>,
    /// Homes that are used from now on.
    homes: Vec<(u64, u64, u32)>,
    /// How many slots the file `aside` of a generation has now.
    aside: Vec<(u64, u64)>,
}

impl<E: std::error::Error + 'static> Resync<'_, E> {
    /// Makes the blocks of a range what the primary has.
    pub(super) fn blocks(&mut self, range: &KeyRange) -> Result<(), ResyncError<E>> {
        let mut from = range.from.clone();
        loop {
            let (plan, next) = self.plan(&from, range.to.as_deref())?;
            self.carry_out(plan)?;
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Decides about some blocks of a range, and says where the rest begins.
    fn plan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<(Plan, Option<Vec<u8>>), ResyncError<E>> {
        let transaction = self.read()?;
        let range = KeyRange { from: from.to_vec(), to: to.map(<[u8]>::to_vec) };
        let bounds = typed(&range)?;
        let staged = transaction.open_table(STAGED)?;
        let local = transaction.open_table(BLOCKS)?;
        let mut incoming_rows = staged.range(bounds)?.peekable();
        let mut local_rows = local.range(bounds)?.peekable();
        let mut plan = Plan::default();
        let mut asides = BTreeMap::new();
        for _ in 0..GROUP {
            let first = |key: Option<(u64, u32, u32)>| {
                key.map(|(generation, block, _)| (generation, block))
            };
            let next_staged = peek(&mut incoming_rows)?;
            let next_local = peek(&mut local_rows)?;
            let group = match (first(next_staged), first(next_local)) {
                (Some(a), Some(b)) => a.min(b),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Ok((finished(plan, asides), None)),
            };
            let mut incoming = Vec::new();
            while first(peek(&mut incoming_rows)?) == Some(group)
                && let Some(row) = incoming_rows.next()
            {
                let (key, value) = row?;
                let (value, there) = value.value();
                let version = read_block_value(value).ok_or(ResyncError::Invalid)?;
                let (generation, block, epoch) = key.value();
                let (missing, alike) = (0, Vec::new());
                incoming.push(Incoming {
                    generation,
                    block,
                    epoch,
                    version,
                    there,
                    missing,
                    alike,
                });
            }
            let mut here = Vec::new();
            while first(peek(&mut local_rows)?) == Some(group)
                && let Some(row) = local_rows.next()
            {
                let (key, value) = row?;
                here.push((key.value().2, Version::decode(value.value())));
            }
            self.plan_block(group, incoming, &here, &mut plan, &mut asides, &transaction)?;
        }
        let next = match (peek(&mut incoming_rows)?, peek(&mut local_rows)?) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        let next = next.map(|(generation, block, _)| block_key(generation, block, 0));
        Ok((finished(plan, asides), next))
    }

    /// Decides about one block: which slot each version gets, and what of it is to be fetched.
    fn plan_block(
        &self,
        (generation, block): (u64, u32),
        mut incoming: Vec<Incoming>,
        here: &[(u32, Version)],
        plan: &mut Plan,
        asides: &mut BTreeMap<u64, u64>,
        transaction: &ReadTransaction,
    ) -> Result<(), ResyncError<E>> {
        let mut old_slots = BTreeSet::new();
        let old = self.old.open_table(BLOCKS)?;
        for row in old.range((generation, block, 0)..=(generation, block, u32::MAX))? {
            old_slots.insert(Version::decode(row?.1.value()).slot.number());
        }
        // A home that still waits to be given back is emptied then.
        let waits = self.old.open_table(FREED)?.get((generation, Slot::Home.number(), block))?;
        old_slots.extend(waits.map(|_| Slot::Home.number()));
        let mut claimed: Vec<bool> = here.iter().map(|_| false).collect();
        let mut claim = |wanted: &dyn Fn(&Version) -> bool| {
            let rows = here.iter().zip(claimed.iter_mut());
            let mut free = rows.filter(|((_, version), is_claimed)| {
                !**is_claimed && version.slot != Slot::None && wanted(version)
            });
            let ((_, version), is_claimed) = free.next()?;
            *is_claimed = true;
            Some(version.slot)
        };
        // Content that is here already, in whatever epoch.
        for one in &mut incoming {
            one.version.slot = Slot::None;
            if one.version.written == 0 {
                continue;
            }
            let content = block_value(&one.version);
            if let Some(slot) = claim(&|version| block_value(version) == content) {
                one.version.slot = slot;
                if self.thorough {
                    one.missing = self.wrong_cells(generation, block, &one.version);
                }
            }
        }
        for one in &mut incoming {
            if one.version.written == 0 || one.version.slot != Slot::None {
                continue;
            }
            let own = claim(&|version| !old_slots.contains(&version.slot.number()));
            let home_is_free = || {
                !old_slots.contains(&Slot::Home.number())
                    && !here.iter().any(|(_, version)| version.slot == Slot::Home)
                    && !plan.homes.contains(&(generation, Slot::Home.number(), block))
            };
            one.version.slot = match own {
                Some(slot) => slot,
                None if home_is_free() => {
                    plan.homes.push((generation, Slot::Home.number(), block));
                    Slot::Home
                }
                None => Slot::Aside(self.next_aside(generation, asides, transaction)?),
            };
            one.missing = written_cells(&one.version);
            one.alike = here.iter().map(|(_, version)| *version).collect();
        }
        for ((epoch, version), is_claimed) in here.iter().zip(claimed) {
            if !is_claimed && version.slot != Slot::None {
                plan.freed.push((generation, version.slot.number(), block));
            }
            if !incoming.iter().any(|one| one.epoch == *epoch) {
                plan.gone.push((generation, block, *epoch));
            }
        }
        plan.incoming.append(&mut incoming);
        Ok(())
    }

    /// A slot behind all that the file `aside` of a generation has.
    fn next_aside(
        &self,
        generation: u64,
        asides: &mut BTreeMap<u64, u64>,
        transaction: &ReadTransaction,
    ) -> Result<u64, ResyncError<E>> {
        let of = |transaction: &ReadTransaction| -> Result<u64, StateError> {
            let generations = transaction.open_table(GENERATIONS)?;
            let row = generations.get(generation)?;
            Ok(row.map_or(0, |row| Generation::decode(row.value()).aside))
        };
        let next = if let Some(next) = asides.get(&generation) {
            *next
        } else {
            // A generation of the same number may have had another life here.
            of(transaction)?.max(of(&self.old)?)
        };
        asides.insert(generation, next.saturating_add(1));
        Ok(next)
    }

    /// Cells that have content and not their checksums.
    fn wrong_cells(&self, generation: u64, block: u32, version: &Version) -> u16 {
        let Some(place) = Place::of(generation, block, version.slot) else { return 0 };
        let mut bytes = vec![0; size(BLOCK)];
        if self.files.read(place, 0, &mut bytes).is_err() {
            return written_cells(version);
        }
        let cells = version.checksums.iter().zip(bytes.chunks(size(CELL))).enumerate();
        let is_wrong =
            |(_, (checksum, bytes)): &(usize, (&u32, &[u8]))| crc32c(bytes) != **checksum;
        let wrong = cells.filter(is_wrong).fold(0_u16, |wrong, (cell, _)| wrong | (1 << cell));
        wrong & written_cells(version)
    }

    /// Fetches what a plan lacks, and writes its rows.
    fn carry_out(&mut self, mut plan: Plan) -> Result<(), ResyncError<E>> {
        for one in &mut plan.incoming {
            self.take_from_alike(one)?;
        }
        let mut missing: Vec<&mut Incoming> =
            plan.incoming.iter_mut().filter(|one| one.missing != 0).collect();
        for some in missing.chunks_mut(SLOTS) {
            check_room(&self.of, self.options, 0)?;
            let wanted = some.iter().map(|one| wanted_slot(one)).collect();
            let answer = self.asked(&Question::Slots(wanted))?;
            self.so_far.fetched = self.so_far.fetched.saturating_add(wide(answer.len()));
            self.since_durable = self.since_durable.saturating_add(wide(answer.len()));
            let cells = Cells::decode_all(answer, some.len())?;
            for (one, cells) in some.iter_mut().zip(cells) {
                self.write_cells(one, &cells)?;
            }
        }
        self.so_far.compared = self.so_far.compared.saturating_add(wide(plan.incoming.len()));
        let is_due = self.since_durable >= DURABLE;
        if is_due {
            self.files.sync().map_err(StoreError::Data)?;
            self.since_durable = 0;
        }
        let transaction = self.state.begin(is_due)?;
        write_plan(&transaction, &plan)?;
        transaction.commit().map_err(StateError::from)?;
        Ok(())
    }

    fn write(&self, place: Place, start: u64, content: &[u8]) -> Result<(), StoreError> {
        let write = || self.files.write(place, start, content).map_err(StoreError::Data);
        self.session.write(write)
    }

    /// Copies cells that other versions of the block have here. They have not been given back yet.
    fn take_from_alike(&self, one: &mut Incoming) -> Result<(), ResyncError<E>> {
        let to = Place::of(one.generation, one.block, one.version.slot);
        for version in std::mem::take(&mut one.alike) {
            let from = Place::of(one.generation, one.block, version.slot);
            let (Some(from), Some(to)) = (from, to) else { continue };
            let cells = one.version.checksums.iter().zip(version.checksums).enumerate();
            for (cell, (wanted, found)) in cells {
                let is_wanted = one.missing & written_cells(&version) & (1 << cell) != 0;
                if !is_wanted || *wanted != found || from == to {
                    continue;
                }
                let start = wide(cell).saturating_mul(CELL);
                let mut content = vec![0; size(CELL)];
                let read = self.files.read(from, start, &mut content);
                if read.is_ok() && crc32c(&content) == found {
                    self.write(to, start, &content)?;
                    one.missing &= !(1 << cell);
                }
            }
        }
        Ok(())
    }

    /// Writes cells that have come to their slot. The row of one that has not come has a wrong checksum until its record is
    /// applied, so that nobody takes it for true.
    fn write_cells(&self, one: &mut Incoming, cells: &Cells) -> Result<(), ResyncError<E>> {
        let Some(place) = Place::of(one.generation, one.block, one.version.slot) else {
            return Err(ResyncError::Invalid);
        };
        if cells.cells & !one.missing != 0 {
            return Err(ResyncError::Invalid);
        }
        let mut contents = cells.bytes.chunks(size(CELL));
        for (cell, checksum) in one.version.checksums.iter_mut().enumerate() {
            if one.missing & (1 << cell) == 0 {
                continue;
            }
            let content = if cells.cells & (1 << cell) == 0 { None } else { contents.next() };
            match content.filter(|content| crc32c(content) == *checksum) {
                Some(content) => {
                    let start = wide(cell).saturating_mul(CELL);
                    self.write(place, start, content)?;
                }
                None => *checksum = !*checksum,
            }
        }
        Ok(())
    }
}

type BlockBounds = (std::ops::Bound<(u64, u32, u32)>, std::ops::Bound<(u64, u32, u32)>);

/// A range of blocks.
fn typed<E: std::error::Error + 'static>(range: &KeyRange) -> Result<BlockBounds, ResyncError<E>> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let read = |key: &[u8]| read_block_key(key).ok_or(ResyncError::Invalid);
    let from = if range.from.is_empty() { Unbounded } else { Included(read(&range.from)?) };
    let to = match range.to.as_deref() {
        Some(to) => Excluded(read(to)?),
        None => Unbounded,
    };
    Ok((from, to))
}

/// The key of the next row.
fn peek<V: redb::Value + 'static>(
    rows: &mut std::iter::Peekable<redb::Range<'_, (u64, u32, u32), V>>,
) -> Result<Option<(u64, u32, u32)>, StateError> {
    match rows.peek() {
        None => Ok(None),
        Some(Ok((key, _))) => Ok(Some(key.value())),
        Some(Err(_)) => match rows.next() {
            Some(Err(error)) => Err(error.into()),
            _ => Ok(None),
        },
    }
}

fn finished(mut plan: Plan, asides: BTreeMap<u64, u64>) -> Plan {
    plan.aside = asides.into_iter().collect();
    plan
}

fn written_cells(version: &Version) -> u16 {
    (0..CELLS)
        .filter(|cell| version.written & pages_of_cell(*cell) != 0)
        .fold(0, |cells, cell| cells | (1 << cell))
}

fn wanted_slot(one: &Incoming) -> WantedSlot {
    let cells = (0..CELLS).filter(|cell| one.missing & (1 << cell) != 0);
    WantedSlot {
        generation: one.generation,
        block: one.block,
        slot: one.there,
        cells: one.missing,
        checksums: cells.filter_map(|cell| one.version.checksums.get(cell).copied()).collect(),
    }
}

fn write_plan(transaction: &WriteTransaction, plan: &Plan) -> Result<(), StateError> {
    let mut blocks = transaction.open_table(BLOCKS)?;
    let mut staged = transaction.open_table(STAGED)?;
    for key in &plan.gone {
        blocks.remove(key)?;
    }
    for one in &plan.incoming {
        let key = (one.generation, one.block, one.epoch);
        blocks.insert(key, &one.version.encode())?;
        staged.remove(key)?;
    }
    let mut freed = transaction.open_table(FREED)?;
    for key in &plan.freed {
        freed.insert(key, 0)?;
    }
    for key in &plan.homes {
        freed.remove(key)?;
    }
    let mut generations = transaction.open_table(GENERATIONS)?;
    for (generation, aside) in &plan.aside {
        let old = generations.get(generation)?.map(|row| Generation::decode(row.value()));
        let new = Generation { aside: *aside, ..old.unwrap_or_default() };
        generations.insert(generation, &new.encode())?;
    }
    Ok(())
}
