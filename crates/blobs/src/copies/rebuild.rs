//! Making a copy from the one that leads, while the store works.
//!
//! ```text
//!  hold   the source keeps its slots and its journal as they are from record N on
//!  rows   the state of record N is written to a new state file
//!  slots  each slot that these rows name is copied, unless it is there already; checksums say so
//!  tail   the journal from record N on is applied, until little is left; the committer does the rest and lets it follow
//! ```
//!
//! A slot of the source may have later bytes than the rows of record N want. Those came by a record behind N, which
//! carries whole cells: they are left out here, and the journal brings them. While slots are copied the journal grows;
//! if it has grown long, rows are copied again, and of the slots only those that have changed. The copy counts for
//! nothing until the others have noted that it is whole, so a rebuild that ends early is begun again.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use crc32c::crc32c;
use redb::{ReadTransaction, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};

use super::{
    follow,
    hub::Hub,
    members::{CopyId, Members},
    repair::pause,
};
use crate::{
    engine::{Engine, FolderLock, Group, Hold, Shared},
    journal::{JournalDamage, Tail, bytes_from, segments},
    numbers::size,
    pages::{BLOCK, CELL, cell_runs, pages_of_cell, span},
    replication::switch,
    slots::{DataFiles, Place, Slot},
    state::{
        ALL_SLOTS, BLOCKS, CHANGED, Counters, EPOCHS, FREE, FREED, GENERATIONS, NAMES, State,
        StateError, Version, identity, write_counters,
    },
    store::{Options, StoreError, file_error},
};

/// Rows that are written in one transaction.
const ROWS: usize = 4096;
/// Versions whose slots are copied at once.
const BATCH: usize = 64;
/// How often rows and slots are copied at most.
const PASSES: u32 = 8;
/// How long a rebuild rests before it looks whether it is to end.
const STEP_OF_REST: Duration = Duration::from_millis(50);
/// Bytes of the journal that are applied at once.
const STEP: usize = 4 << 20;
/// Records that the committer may be left with.
const CLOSE: u64 = 64;
/// How often the journal is followed to its end before the committer takes over, however much is left.
const ROUNDS: u32 = 8;

/// How far a rebuild is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Whether the copy is there, so that it can be made.
    pub(crate) has_begun: AtomicBool,
    pub(crate) done: AtomicU64,
    pub(crate) total: AtomicU64,
}

/// A rebuild.
pub(crate) struct Rebuild {
    pub(crate) hub: Arc<Hub>,
    /// The copy to be made, and its folder.
    pub(crate) id: CopyId,
    pub(crate) folder: PathBuf,
    /// What the copies know, among it that this one lacks changes.
    pub(crate) members: Members,
    pub(crate) options: Options,
    pub(crate) progress: Arc<Progress>,
    /// Raised when it should end.
    pub(crate) cancel: Arc<AtomicBool>,
}

/// A copy that lacks only the last records.
pub(crate) struct Built {
    pub(crate) engine: Engine,
    /// Where the missing records are.
    pub(crate) tail: Tail,
    /// The copy that it was made from, which is held until this is whole.
    pub(crate) source: Hold,
}

impl Rebuild {
    /// Makes the copy. The source stays held if it could be made.
    pub(crate) fn run(&self) -> Result<Built, StoreError> {
        self.claim()?;
        let source = self.hub.leading().ok_or(StoreError::Ended)?;
        let (engine, tail, source) = self.build(&source)?;
        Ok(Built { engine, tail, source })
    }

    /// Looks whether the copy is where it was last, and lets it say of itself from now on that it lacks changes.
    fn claim(&self) -> Result<(), StoreError> {
        let read = Members::read(&self.folder);
        let is_there = matches!(read, Ok(Some((id, members)))
            if id == self.id && members.store == self.members.store);
        if !is_there {
            return Err(StoreError::NoCopy { path: self.folder.clone() });
        }
        self.progress.has_begun.store(true, SeqCst);
        self.members.write(&self.folder, self.id).map_err(file_error(&self.folder))
    }

    fn check(&self, source: &Shared) -> Result<(), StoreError> {
        if self.cancel.load(SeqCst) || source.failure().is_some() {
            return Err(StoreError::Ended);
        }
        Ok(())
    }

    fn build(&self, source: &Arc<Shared>) -> Result<(Engine, Tail, Hold), StoreError> {
        let lock = prepare(&self.folder)?;
        let mut pass = 0;
        let (state, store, counters, hold) = loop {
            let hold = source.hold(true);
            let (state, store, counters) = self.copy_rows(source)?;
            self.copy_slots(source, &state, &counters)?;
            pass += 1;
            let behind = bytes_from(&source.journal(), counters.next_record);
            let behind = behind.map_err(file_error(&source.journal()))?;
            if behind <= self.options.checkpoint_size.saturating_mul(2) || pass >= PASSES {
                break (state, store, counters, hold);
            }
        };
        let shared = Arc::new(Shared::new(self.id, &self.folder, state, lock));
        let mut engine = Engine::new(shared, store, counters, &self.options);
        let mut tail = Tail::new(&source.journal(), store, counters.next_record);
        for _ in 0..ROUNDS {
            let begun = tail.next();
            self.follow(source, &mut engine, &mut tail)?;
            // Most of what was written is on the disk when the committer has to wait for the rest.
            engine.checkpoint()?;
            if tail.next().saturating_sub(begun) <= CLOSE {
                break;
            }
        }
        Ok((engine, tail, hold))
    }

    /// Applies what the source has now.
    fn follow(
        &self,
        source: &Shared,
        engine: &mut Engine,
        tail: &mut Tail,
    ) -> Result<(), StoreError> {
        let end = source.next_record.load(SeqCst);
        while tail.next() < end {
            self.check(source)?;
            catch_up(engine, &self.hub, tail, end)?;
        }
        Ok(())
    }

    /// Writes the rows of one moment to a new state file.
    fn copy_rows(&self, source: &Shared) -> Result<(State, [u8; 16], Counters), StoreError> {
        let path = self.folder.join("state.redb");
        let emptied = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
        emptied.map_err(file_error(&path))?;
        remove(&path.with_extension("sums"))?;
        let state = State::open(&path, self.options.cache_size, false)?;
        let rows = source.state.database.begin_read().map_err(StateError::from)?;
        let (store, counters) = identity(&rows)?;
        state.initialise_at(store, &counters)?;
        self.copy_table(source, &rows, &state, NAMES)?;
        self.copy_table(source, &rows, &state, GENERATIONS)?;
        self.copy_table(source, &rows, &state, EPOCHS)?;
        self.copy_table(source, &rows, &state, BLOCKS)?;
        self.copy_table(source, &rows, &state, CHANGED)?;
        self.copy_table(source, &rows, &state, FREE)?;
        free_given_back(&rows, &state)?;
        let blocks = rows.open_table(BLOCKS).and_then(|table| Ok(table.len()?));
        let total = blocks.map_err(StateError::from)?.saturating_mul(BLOCK);
        self.progress.total.store(total, SeqCst);
        self.progress.done.store(0, SeqCst);
        Ok((state, store, counters))
    }

    fn copy_table<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        source: &Shared,
        from: &ReadTransaction,
        to: &State,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), StoreError> {
        let rows = from.open_table(table).map_err(StateError::from)?;
        let mut rows = rows.range::<K::SelfType<'_>>(..).map_err(StateError::from)?;
        loop {
            self.check(source)?;
            let transaction = to.begin(false)?;
            let mut count = 0_usize;
            {
                let mut target = transaction.open_table(table).map_err(StateError::from)?;
                for row in rows.by_ref().take(ROWS) {
                    let (key, value) = row.map_err(StateError::from)?;
                    target.insert(key.value(), value.value()).map_err(StateError::from)?;
                    count = count.saturating_add(1);
                }
            }
            transaction.commit().map_err(StateError::from)?;
            if count < ROWS {
                return Ok(());
            }
        }
    }

    /// Copies the slots that the rows name, and makes them and the rows durable.
    fn copy_slots(
        &self,
        source: &Shared,
        state: &State,
        counters: &Counters,
    ) -> Result<(), StoreError> {
        let files = DataFiles::new(self.folder.join("data"));
        let rows = state.database.begin_read().map_err(StateError::from)?;
        punch_free(&rows, &files)?;
        let blocks = rows.open_table(BLOCKS).map_err(StateError::from)?;
        // In the file of the present generation: the first block whose home may have to be emptied.
        let mut home = (0, 0);
        let mut copied = 0_u64;
        for (index, row) in
            blocks.range::<(u64, u32, u32)>(..).map_err(StateError::from)?.enumerate()
        {
            let (key, value) = row.map_err(StateError::from)?;
            let (generation, block, _) = key.value();
            let version = Version::decode(value.value());
            if index.is_multiple_of(BATCH) {
                self.check(source)?;
                self.rest(source, std::mem::take(&mut copied))?;
            }
            if home.0 != generation {
                home = (generation, 0);
            }
            if version.slot == Slot::Home {
                punch_homes(&files, generation, home.1..block)?;
                home.1 = block.saturating_add(1);
            }
            if self.copy_slot(source, &files, generation, block, &version)? {
                copied = copied.saturating_add(BLOCK);
            }
            self.progress.done.fetch_add(BLOCK, SeqCst);
        }
        drop(blocks);
        drop(rows);
        files.sync().map_err(StoreError::Data)?;
        let transaction = state.begin(true)?;
        write_counters(&transaction, counters)?;
        Ok(transaction.commit().map_err(StateError::from)?)
    }

    /// Waits as long as some bytes may take, unless the work is to end.
    fn rest(&self, source: &Shared, bytes: u64) -> Result<(), StoreError> {
        let rate = self.options.rebuild_rate.max(1);
        let mut left = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        while !left.is_zero() {
            let step = left.min(STEP_OF_REST);
            pause(step);
            left = left.saturating_sub(step);
            self.check(source)?;
        }
        Ok(())
    }

    /// Copies a slot, unless it is there; says whether the source was read for it.
    fn copy_slot(
        &self,
        source: &Shared,
        files: &DataFiles,
        generation: u64,
        block: u32,
        version: &Version,
    ) -> Result<bool, StoreError> {
        let Some(place) = Place::of(generation, block, version.slot) else { return Ok(false) };
        let mut bytes = vec![0; size(BLOCK)];
        files.read(place, 0, &mut bytes).map_err(StoreError::Data)?;
        let missing = wrong_cells(version, &bytes);
        if missing == 0 {
            return Ok(false);
        }
        let mut is_read = source.files.read(place, 0, &mut bytes).is_ok();
        if !is_read || wrong_cells(version, &bytes) & missing != 0 {
            // A later record has changed the slot, or it is damaged: then there is another copy perhaps.
            self.hub.repair(source, generation, block);
            is_read = source.files.read(place, 0, &mut bytes).is_ok();
        }
        let good = if is_read { missing & !wrong_cells(version, &bytes) } else { 0 };
        for (start, end) in cell_runs(good) {
            files.write(place, start, span(&bytes, start, end)).map_err(StoreError::Data)?;
        }
        Ok(true)
    }
}

/// Applies the next records of a journal before `end` to a copy that lacks them.
pub(crate) fn catch_up(
    engine: &mut Engine,
    hub: &Hub,
    tail: &mut Tail,
    end: u64,
) -> Result<(), StoreError> {
    let first = tail.next();
    let records = tail.read(end, STEP)?;
    if records.is_empty() || first != engine.counters.next_record {
        return Err(JournalDamage::Missing { number: first }.into());
    }
    follow::apply(engine, hub, &Group::new(first, records))
}

/// Cells that have content and not the checksum that a version wants.
fn wrong_cells(version: &Version, bytes: &[u8]) -> u16 {
    let cells = version.checksums.iter().zip(bytes.chunks(size(CELL))).enumerate();
    cells
        .filter(|(cell, (checksum, bytes))| {
            version.written & pages_of_cell(*cell) != 0 && crc32c(bytes) != **checksum
        })
        .fold(0, |wrong, (cell, _)| wrong | (1 << cell))
}

/// Makes what a folder needs to be a copy, locks it, and deletes the journal of its earlier life.
fn prepare(folder: &Path) -> Result<FolderLock, StoreError> {
    for name in ["journal", "data"] {
        let path = folder.join(name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(file_error(&path))?;
    }
    let path = folder.join("state.redb");
    let mut options = OpenOptions::new();
    let made = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
    drop(made.map_err(file_error(&path))?);
    let lock = FolderLock::take(folder)?;
    switch::clear(folder)?;
    let journal = folder.join("journal");
    for (_, path) in segments(&journal).map_err(file_error(&journal))? {
        remove(&path)?;
    }
    Ok(lock)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

/// Slots that wait for a checkpoint of the source are free at once in a copy whose rows do not name them.
fn free_given_back(from: &ReadTransaction, to: &State) -> Result<(), StateError> {
    let transaction = to.begin(false)?;
    {
        let mut free = transaction.open_table(FREE)?;
        for row in from.open_table(FREED)?.range::<(u64, u64, u32)>(..)? {
            let (generation, number, _) = row?.0.value();
            if let (false, Slot::Aside(index)) = (number == ALL_SLOTS, Slot::from_number(number)) {
                free.insert((generation, index), ())?;
            }
        }
    }
    Ok(transaction.commit()?)
}

/// Gives the room of free slots back, which an earlier life of the copy may have used.
fn punch_free(rows: &ReadTransaction, files: &DataFiles) -> Result<(), StoreError> {
    let free = rows.open_table(FREE).map_err(StateError::from)?;
    for row in free.range::<(u64, u64)>(..).map_err(StateError::from)? {
        let (generation, index) = row.map_err(StateError::from)?.0.value();
        if let Some(place) = Place::of(generation, 0, Slot::Aside(index)) {
            files.punch(place, 0, BLOCK).map_err(StoreError::Data)?;
        }
    }
    Ok(())
}

/// The same for the homes of blocks that are not at home.
fn punch_homes(
    files: &DataFiles,
    generation: u64,
    blocks: std::ops::Range<u32>,
) -> Result<(), StoreError> {
    let len = u64::from(blocks.end.saturating_sub(blocks.start)).saturating_mul(BLOCK);
    match Place::of(generation, blocks.start, Slot::Home) {
        Some(place) if len > 0 => files.punch(place, 0, len).map_err(StoreError::Data),
        _ => Ok(()),
    }
}
