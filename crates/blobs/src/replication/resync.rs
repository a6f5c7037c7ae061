//! A resynchronization: a new state of the leading copy, equal to that of the primary at one moment.
//!
//! ```text
//!  copy     the state file is copied; the new one lies beside it
//!  rows     ranges of rows are compared by digests; those that differ are fetched
//!  blocks   each row of a block that differs gets a slot: that of a version that has the same content, or one that the old
//!           state does not use, whose content is fetched
//!  end      the new state is made durable; the committer puts it in the place of the old one
//! ```
//!
//! The old state stays as it is until the end, with all its slots. A row is written to the new state after its content: what
//! a crash leaves is a new state whose rows are true, and the next try compares it as if it were the old one.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use crc32c::crc32c;
use redb::{
    ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};

use super::{
    Era, StoreId, switch,
    wire::{
        BadMessage, Cells, Digester, KeyRange, Moment, Next, Question, RANGES, ROWS, Row, Rows,
        SLOTS, Table, WantedSlot, block_key, block_value, read_block_key, read_block_value,
        read_epoch_key, walk,
    },
};
use crate::{
    commit::Resynced,
    engine::{FolderLock, Shared},
    journal::sync_folder,
    numbers::{size, wide},
    pages::{BLOCK, CELL, CELLS, pages_of_cell},
    slots::{DataFiles, Place, Slot},
    state::{
        BLOCKS, CHANGED, Counters, EPOCHS, FREE, FREED, GENERATIONS, Generation, NAMES, State,
        StateError, Version, write_counters,
    },
    store::{Options, StoreError, file_error},
};

/// Rows of blocks that differ, with the numbers of the primary's slots, until they are written.
const STAGED: TableDefinition<'_, (u64, u32, u32), (&[u8], u64)> = TableDefinition::new("staged");
/// Blocks that are written in one transaction.
const GROUP: usize = 512;
/// Bytes that are fetched between two moments at which everything is made durable.
const DURABLE: u64 = 512 << 20;

/// Why a store of blobs was not brought to the state of another one.
#[derive(Debug, thiserror::Error)]
pub enum ResyncError<E: std::error::Error + 'static> {
    /// The other server could not be asked.
    #[error("the other server could not be asked")]
    Peer(#[source] E),
    /// It was ended.
    #[error("the work was ended")]
    Cancelled,
    /// The other server has answered something that cannot be.
    #[error("the other server's answer is not valid")]
    Invalid,
    /// This store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<E: std::error::Error + 'static> From<BadMessage> for ResyncError<E> {
    fn from(_: BadMessage) -> Self {
        Self::Invalid
    }
}

impl<E: std::error::Error + 'static> From<StateError> for ResyncError<E> {
    fn from(error: StateError) -> Self {
        Self::Store(error.into())
    }
}

impl<E: std::error::Error + 'static> From<redb::StorageError> for ResyncError<E> {
    fn from(error: redb::StorageError) -> Self {
        StateError::from(error).into()
    }
}

impl<E: std::error::Error + 'static> From<redb::TableError> for ResyncError<E> {
    fn from(error: redb::TableError) -> Self {
        StateError::from(error).into()
    }
}

/// How far a resynchronization is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResyncProgress {
    /// Rows of blocks that are known to be equal, or were made so.
    pub compared: u64,
    /// Rows of blocks that the other server has.
    pub rows: u64,
    /// Bytes of blocks that came from the other server.
    pub fetched: u64,
}

/// Makes the new state.
pub(super) fn build<E: std::error::Error + 'static>(
    of: &Arc<Shared>,
    store: StoreId,
    options: &Options,
    thorough: bool,
    ask: &mut dyn FnMut(Bytes) -> Result<Bytes, E>,
    progress: &mut dyn FnMut(ResyncProgress) -> bool,
) -> Result<Resynced, ResyncError<E>> {
    let folder = &of.folder;
    let (state, lock) = open_new(folder, store, options)?;
    let mut resync = Resync {
        files: DataFiles::new(folder.join("data")),
        old: of.state.database.begin_read().map_err(StateError::from)?,
        of: Arc::clone(of),
        state,
        thorough,
        ask,
        progress,
        so_far: ResyncProgress::default(),
        since_durable: 0,
    };
    let (counters, eras) = resync.run()?;
    let Resync { state, old, .. } = resync;
    drop(old);
    Ok(Resynced { of: Arc::clone(of), state, counters, eras, lock })
}

/// Opens the new state of an earlier try, or makes one that is the old state.
fn open_new(
    folder: &Path,
    store: StoreId,
    options: &Options,
) -> Result<(State, FolderLock), StoreError> {
    let path = folder.join(switch::NEW);
    let open = || {
        let lock = FolderLock::take_as(folder, switch::NEW)?;
        let state = State::open(&path, options.cache_size, false)?;
        let (found, _) = state.identity()?;
        if found != store.0 {
            return Err(StoreError::OtherStore { path: folder.to_owned() });
        }
        Ok((state, lock))
    };
    if switch::is_unfinished(folder) {
        match open() {
            Ok(opened) => return Ok(opened),
            // What an earlier try has left saves work, and is not needed.
            Err(_) => switch::abandon(folder)?,
        }
    }
    copy_file(&folder.join("state.sums"), &folder.join("resync.sums"))?;
    let unfinished = folder.join("resync.unfinished");
    copy_file(&folder.join("state.redb"), &unfinished)?;
    fs::rename(&unfinished, &path).map_err(file_error(&path))?;
    sync_folder(folder).map_err(file_error(folder))?;
    open()
}

/// Copies a file that nobody changes at the moment, durably; nothing is there if it is not.
fn copy_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut source = match fs::File::open(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(file_error(from))?,
    };
    let mut options = OpenOptions::new();
    let made = options.create(true).truncate(true).write(true).mode(0o600).open(to);
    let mut target = made.map_err(file_error(to))?;
    std::io::copy(&mut source, &mut target).map_err(file_error(to))?;
    target.sync_all().map_err(file_error(to))
}

struct Resync<'a, E> {
    of: Arc<Shared>,
    /// The old state, whose slots stay as they are.
    old: ReadTransaction,
    state: State,
    files: DataFiles,
    thorough: bool,
    ask: &'a mut dyn FnMut(Bytes) -> Result<Bytes, E>,
    progress: &'a mut dyn FnMut(ResyncProgress) -> bool,
    so_far: ResyncProgress,
    /// Bytes that were fetched since everything was made durable.
    since_durable: u64,
}

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
    fn run(&mut self) -> Result<(Counters, Vec<Era>), ResyncError<E>> {
        let moment = Moment::decode(self.asked(&Question::Begin)?)?;
        self.so_far.rows = moment.blocks;
        self.drop_staged()?;
        for table in [Table::Names, Table::Generations, Table::Epochs, Table::Changed] {
            for range in self.different(table)? {
                self.fetch(table, &range)?;
            }
        }
        let ranges = self.different(Table::Blocks)?;
        for range in &ranges {
            self.fetch(Table::Blocks, range)?;
        }
        self.asked(&Question::EndRows)?;
        for range in &ranges {
            self.blocks(range)?;
        }
        Ok((self.end(&moment)?, moment.eras))
    }

    fn asked(&mut self, question: &Question) -> Result<Bytes, ResyncError<E>> {
        if !(self.progress)(self.so_far) {
            return Err(ResyncError::Cancelled);
        }
        (self.ask)(question.encode()).map_err(ResyncError::Peer)
    }

    fn read(&self) -> Result<ReadTransaction, StateError> {
        Ok(self.state.database.begin_read()?)
    }

    /// Ranges of a table that differ from the primary's.
    fn different(&mut self, table: Table) -> Result<Vec<KeyRange>, ResyncError<E>> {
        let mut different = Vec::new();
        let mut from = Some(Vec::new());
        while from.is_some() {
            let mut ranges = Vec::new();
            let mut counts = Vec::new();
            while ranges.len() < RANGES
                && let Some(begin) = from.take()
            {
                let (range, digest, count) = self.local_range(table, begin)?;
                from.clone_from(&range.to);
                ranges.push((range, digest));
                counts.push(count);
            }
            let question = Question::Compare { table, ranges };
            let same = self.asked(&question)?;
            let Question::Compare { ranges, .. } = question else { continue };
            if same.len() != ranges.len() {
                return Err(ResyncError::Invalid);
            }
            for (((range, _), is_same), count) in ranges.into_iter().zip(same).zip(counts) {
                let must_look = self.thorough && table == Table::Blocks;
                if is_same == 0 || must_look {
                    different.push(range);
                } else if table == Table::Blocks {
                    self.so_far.compared = self.so_far.compared.saturating_add(count);
                }
            }
        }
        Ok(different)
    }

    /// The next rows that are here, as a range with its digest and how many they are. Ranges of blocks end between blocks.
    fn local_range(
        &self,
        table: Table,
        from: Vec<u8>,
    ) -> Result<(KeyRange, [u8; 32], u64), ResyncError<E>> {
        let mut digester = Digester::default();
        let (mut count, mut to) = (0_usize, None);
        let mut last: Option<Vec<u8>> = None;
        let block_of = |key: &[u8]| key.get(..12).map(<[u8]>::to_vec);
        let range = KeyRange { from, to: None };
        let mut add = |row: Row| {
            let is_block = table == Table::Blocks;
            let splits = is_block && last.as_deref().and_then(block_of) == block_of(&row.key);
            if count >= ROWS && !splits {
                to = Some(if is_block { cut_epoch(&row.key) } else { row.key });
                return Next::Stop;
            }
            digester.add(&row);
            count = count.saturating_add(1);
            last = Some(row.key);
            Next::Continue
        };
        walk(&self.read()?, table, &range, &mut add)??;
        Ok((KeyRange { to, ..range }, digester.finish(), wide(count)))
    }

    /// Makes the rows of a range what the primary has; those of blocks are put aside.
    fn fetch(&mut self, table: Table, range: &KeyRange) -> Result<(), ResyncError<E>> {
        let mut from = range.from.clone();
        loop {
            let question = Question::Rows {
                table,
                range: KeyRange { from: from.clone(), to: range.to.clone() },
            };
            let Rows { rows, next } = Rows::decode(self.asked(&question)?)?;
            let keys = rows.iter().map(|row| row.key.as_slice());
            let is_sorted = keys.clone().is_sorted_by(|a, b| a < b);
            let within = |key: &[u8]| {
                key >= from.as_slice() && range.to.as_deref().is_none_or(|to| key < to)
            };
            let end = next.as_deref().or(range.to.as_deref());
            let advances = next.as_deref().is_none_or(|next| {
                within(next) && next > from.as_slice() && keys.clone().all(|key| key < next)
            });
            if !is_sorted || !keys.clone().all(within) || !advances {
                return Err(ResyncError::Invalid);
            }
            let part = KeyRange { from: from.clone(), to: end.map(<[u8]>::to_vec) };
            let transaction = self.state.begin(false)?;
            put_rows(&self.read()?, &transaction, table, &part, &rows)?
                .map_err(|BadMessage| ResyncError::Invalid)?;
            transaction.commit().map_err(StateError::from)?;
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Makes the blocks of a range what the primary has.
    fn blocks(&mut self, range: &KeyRange) -> Result<(), ResyncError<E>> {
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
        let mut asides = std::collections::BTreeMap::new();
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
        asides: &mut std::collections::BTreeMap<u64, u64>,
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
        asides: &mut std::collections::BTreeMap<u64, u64>,
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
                    self.files.write(to, start, &content).map_err(StoreError::Data)?;
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
                    self.files.write(place, start, content).map_err(StoreError::Data)?;
                }
                None => *checksum = !*checksum,
            }
        }
        Ok(())
    }

    /// Removes what was put aside.
    fn drop_staged(&self) -> Result<(), ResyncError<E>> {
        let transaction = self.state.begin(false)?;
        transaction.delete_table(STAGED)?;
        drop(transaction.open_table(STAGED)?);
        Ok(transaction.commit().map_err(StateError::from)?)
    }

    /// Makes the new state and its slots durable.
    fn end(&mut self, moment: &Moment) -> Result<Counters, ResyncError<E>> {
        let (_, old) = self.of.state.identity()?;
        let counters = Counters {
            next_record: moment.next_record,
            stamp: moment.stamp,
            next_generation: moment.next_generation,
            checkpoint: old.checkpoint.saturating_add(1),
        };
        self.files.sync().map_err(StoreError::Data)?;
        let transaction = self.state.begin(true)?;
        transaction.delete_table(STAGED)?;
        forget_generations(&transaction)?;
        write_counters(&transaction, &counters)?;
        transaction.commit().map_err(StateError::from)?;
        Ok(counters)
    }
}

/// The key of a block's first epoch.
fn cut_epoch(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    key.truncate(12);
    key.extend([0; 4]);
    key
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

fn finished(mut plan: Plan, asides: std::collections::BTreeMap<u64, u64>) -> Plan {
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

/// Makes the rows of a range those that have come. Rows of blocks are put aside; generations keep their files.
fn put_rows(
    before: &ReadTransaction,
    transaction: &WriteTransaction,
    table: Table,
    range: &KeyRange,
    rows: &[Row],
) -> Result<Result<(), BadMessage>, StateError> {
    if table == Table::Blocks {
        let mut staged = transaction.open_table(STAGED)?;
        for row in rows {
            let Some(key) = read_block_key(&row.key) else { return Ok(Err(BadMessage)) };
            staged.insert(key, (row.value.as_slice(), row.slot))?;
        }
        return Ok(Ok(()));
    }
    let wanted: BTreeSet<&[u8]> = rows.iter().map(|row| row.key.as_slice()).collect();
    let mut gone = Vec::new();
    let mut look = |row: Row| {
        if !wanted.contains(row.key.as_slice()) {
            gone.push(row.key);
        }
        Next::Continue
    };
    if let Err(error) = walk(before, table, range, &mut look)? {
        return Ok(Err(error));
    }
    macro_rules! change {
        ($table:expr, $key:expr, $value:expr) => {{
            let mut table = transaction.open_table($table)?;
            for key in &gone {
                let Some(key) = $key(key) else { return Ok(Err(BadMessage)) };
                table.remove(key)?;
            }
            for row in rows {
                let Some(key) = $key(&row.key) else { return Ok(Err(BadMessage)) };
                let Some(value) = $value(&row.value) else { return Ok(Err(BadMessage)) };
                table.insert(key, value)?;
            }
        }};
    }
    let number = |key: &[u8]| key.try_into().ok().map(u64::from_be_bytes);
    match table {
        Table::Names => {
            let mut table = transaction.open_table(NAMES)?;
            for key in &gone {
                table.remove(key.as_slice())?;
            }
            for row in rows {
                table.insert(row.key.as_slice(), row.value.as_slice())?;
            }
        }
        Table::Generations => {
            let mut table = transaction.open_table(GENERATIONS)?;
            for key in &gone {
                let Some(key) = number(key) else { return Ok(Err(BadMessage)) };
                table.remove(key)?;
            }
            for row in rows {
                let Some(key) = number(&row.key) else { return Ok(Err(BadMessage)) };
                let Ok(value) = row.value.as_slice().try_into() else {
                    return Ok(Err(BadMessage));
                };
                let old = table.get(key)?.map(|old| Generation::decode(old.value()));
                let aside = old.map_or(0, |old| old.aside);
                let new = Generation { aside, ..Generation::decode(value) };
                table.insert(key, &new.encode())?;
            }
        }
        Table::Epochs => {
            change!(EPOCHS, |key: &[u8]| read_epoch_key(key), |value: &[u8]| value
                .first()
                .copied());
        }
        Table::Changed => change!(CHANGED, |key: &[u8]| read_block_key(key), |value: &[u8]| value
            .try_into()
            .ok()
            .map(u128::from_le_bytes)),
        Table::Blocks => {}
    }
    Ok(Ok(()))
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

/// Removes the slots of generations that are no more; their files are deleted when the new state is opened.
fn forget_generations(transaction: &WriteTransaction) -> Result<(), StateError> {
    let known: BTreeSet<u64> = {
        let generations = transaction.open_table(GENERATIONS)?;
        let keys = generations.iter()?.map(|row| row.map(|(key, _)| key.value()));
        keys.collect::<Result<_, _>>()?
    };
    transaction.open_table(FREE)?.retain(|(generation, _), ()| known.contains(&generation))?;
    transaction.open_table(FREED)?.retain(|(generation, ..), _| known.contains(&generation))?;
    Ok(())
}
