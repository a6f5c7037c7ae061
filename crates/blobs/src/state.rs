//! The state: the tables of redb, how they are opened, and what a checkpoint writes.
//!
//! Every group of changes is one transaction without durability; a checkpoint is a durable one. The file is behind a
//! [`Gate`]: once the store has failed, redb cannot write to it any more, so that closing it makes nothing durable
//! whose data may be missing.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{
    Builder, Database, Durability, ReadableTable as _, StorageBackend, Table, TableDefinition,
    WriteTransaction, backends::FileBackend,
};
use strongroom_base::lock;

use crate::{
    numbers::size,
    pages::{CELLS, Checksums, Pages as Written},
    record::Mark,
    slots::Slot,
    sums::Sums,
};

/// Accounts, containers, blobs, snapshots: see [`rows`](crate::rows).
pub(crate) const NAMES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("names");
/// What the present of each generation says of itself.
pub(crate) const GENERATIONS: TableDefinition<'_, u64, &[u8; GENERATION]> =
    TableDefinition::new("generations");
/// The epochs of each generation, and who reads them.
pub(crate) const EPOCHS: TableDefinition<'_, (u64, u32), u8> = TableDefinition::new("epochs");
/// Generation, block, epoch: a version of the block.
pub(crate) const BLOCKS: TableDefinition<'_, (u64, u32, u32), &[u8; VERSION]> =
    TableDefinition::new("blocks");
/// Generation, epoch, block: the pages that were touched.
pub(crate) const CHANGED: TableDefinition<'_, (u64, u32, u32), u128> =
    TableDefinition::new("changed");
/// Generation, slot of `aside`: free to be used.
pub(crate) const FREE: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("free");
/// Generation, slot, block: given back; free when a checkpoint later than the value is durable.
pub(crate) const FREED: TableDefinition<'_, (u64, u64, u32), u64> = TableDefinition::new("freed");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The length of a row of [`GENERATIONS`].
pub(crate) const GENERATION: usize = 48;
/// The length of a row of [`BLOCKS`].
pub(crate) const VERSION: usize = 88;
/// In [`FREED`], instead of a slot: both files of the generation.
pub(crate) const ALL_SLOTS: u64 = u64::MAX;
/// The version of the tables and of the journal. Version 1 had page blobs only, and its rows are read as they are.
const FORMAT: u64 = 3;
/// The earliest version that is read; it becomes [`FORMAT`] when the store is opened.
const FIRST_FORMAT: u64 = 1;

/// Bytes of the file that are compared at once.
const COMPARED: u64 = 256 << 10;

/// Who reads an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpochUse {
    /// It is the present.
    Present,
    /// A snapshot.
    Snapshot,
    /// Nobody any more.
    Gone,
}

impl EpochUse {
    /// As it is in the table.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Present => 1,
            Self::Snapshot => 2,
            Self::Gone => 3,
        }
    }

    /// Reads it.
    pub(crate) fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Present,
            2 => Self::Snapshot,
            _ => Self::Gone,
        }
    }
}

/// A row of [`GENERATIONS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    /// What the present says of itself.
    pub(crate) mark: Mark,
    /// The present epoch.
    pub(crate) epoch: u32,
    /// How many slots `aside` has.
    pub(crate) aside: u64,
}

impl Generation {
    /// Its bytes.
    pub(crate) fn encode(&self) -> [u8; GENERATION] {
        let Mark { size, etag, modified, sequence } = self.mark;
        let epoch = u64::from(self.epoch);
        let numbers = [size, etag, modified, sequence, epoch, self.aside];
        let mut bytes = [0; GENERATION];
        fill(&mut bytes, numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes
    }

    /// Reads it.
    pub(crate) fn decode(bytes: &[u8; GENERATION]) -> Self {
        let mut numbers = bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut next = || numbers.next().unwrap_or(0);
        let mark = Mark { size: next(), etag: next(), modified: next(), sequence: next() };
        Self { mark, epoch: crate::numbers::narrow(next()), aside: next() }
    }
}

/// A row of [`BLOCKS`]: a version of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Where it lies.
    pub(crate) slot: Slot,
    /// Which pages have content.
    pub(crate) written: Written,
    /// Of each cell that has a written page, the checksum of its 4 KiB as they lie in the slot.
    pub(crate) checksums: Checksums,
}

impl Version {
    /// No pages.
    pub(crate) const EMPTY: Self = Self { slot: Slot::None, written: 0, checksums: [0; CELLS] };

    /// Its bytes.
    pub(crate) fn encode(&self) -> [u8; VERSION] {
        let mut bytes = [0; VERSION];
        let numbers = self.slot.number().to_le_bytes().into_iter();
        let written = self.written.to_le_bytes();
        let checksums = self.checksums.iter().flat_map(|checksum| checksum.to_le_bytes());
        fill(&mut bytes, numbers.chain(written).chain(checksums));
        bytes
    }

    /// Reads it.
    pub(crate) fn decode(bytes: &[u8; VERSION]) -> Self {
        let (slot, rest) = bytes.split_at(8);
        let (written, rest) = rest.split_at(16);
        let mut checksums = [0; CELLS];
        let words = rest.as_chunks::<4>().0;
        checksums.iter_mut().zip(words).for_each(|(to, word)| *to = u32::from_le_bytes(*word));
        Self {
            slot: Slot::from_number(u64::from_le_bytes(slot.try_into().unwrap_or_default())),
            written: u128::from_le_bytes(written.try_into().unwrap_or_default()),
            checksums,
        }
    }
}

fn fill(bytes: &mut [u8], from: impl Iterator<Item = u8>) {
    bytes.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}

/// Where the state stands in the journal, and the counters that records are made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The number of the next record.
    pub(crate) next_record: u64,
    /// The stamp of the last record.
    pub(crate) stamp: u64,
    /// The next generation.
    pub(crate) next_generation: u64,
    /// The number of the last checkpoint.
    pub(crate) checkpoint: u64,
}

/// Why the state cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// redb failed.
    #[error("the state file failed")]
    Redb(#[source] Box<redb::Error>),
    /// The file cannot be opened.
    #[error("the state file cannot be opened")]
    Open(#[source] io::Error),
    /// The file cannot be read or written, or has other bytes than were written.
    #[error("the state file is damaged or cannot be used")]
    File(#[source] io::Error),
    /// A row is not what this version writes.
    #[error("the row {row} of the state is damaged")]
    Row {
        /// Which one.
        row: String,
    },
    /// The store was made by another version.
    #[error("the store has format {found}, this program knows {known}")]
    Format {
        /// The store's.
        found: u64,
        /// The program's.
        known: u64,
    },
}

impl<E: Into<redb::Error>> From<E> for StateError {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

/// The file of redb, which can be shut, and tells of its errors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(AtomicBool, Mutex<Option<io::Error>>)>);

impl Gate {
    /// From now on every write fails.
    pub(crate) fn shut(&self) {
        self.0.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was shut.
    pub(crate) fn is_shut(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// The first error of the file that nobody has taken yet. redb does nothing more after an error.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        lock(&self.0.1).take()
    }

    /// Keeps an error for the committer; redb gets one like it.
    fn keep<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let same = io::Error::new(error.kind(), error.to_string());
            lock(&self.0.1).get_or_insert(error);
            same
        })
    }

    fn pass(&self) -> io::Result<()> {
        if self.is_shut() {
            return Err(io::Error::other("the store stopped after an error"));
        }
        Ok(())
    }
}

/// The file of redb, with the checksums of its pages.
#[derive(Debug)]
struct Pages {
    file: FileBackend,
    sums: Sums,
    gate: Gate,
}

#[derive(Debug)]
struct GatedFile(Arc<Pages>);

impl StorageBackend for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Pages { file, sums, gate } = &*self.0;
        let read = file.read(offset, out).and_then(|()| sums.check(offset, out));
        gate.keep(read)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let Pages { file, sums, gate } = &*self.0;
        gate.pass()?;
        sums.resize(len);
        gate.keep(file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let Pages { file, sums, gate } = &*self.0;
        gate.pass()?;
        gate.keep(sums.sync().and_then(|()| file.sync_data()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Pages { file, sums, gate } = &*self.0;
        gate.pass()?;
        gate.keep(sums.write(offset, data, || file.write(offset, data)))
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }
}

/// The open state.
pub(crate) struct State {
    /// The database.
    pub(crate) database: Database,
    /// Shuts it for writing.
    pub(crate) gate: Gate,
    pages: Arc<Pages>,
}

impl State {
    /// Opens the file, or makes it with empty tables.
    pub(crate) fn open(path: &Path, cache_size: u64, create: bool) -> Result<Self, StateError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(create).mode(0o600);
        let file = options.open(path).map_err(StateError::Open)?;
        let gate = Gate::default();
        let len = file.metadata().map_err(StateError::Open)?.len();
        let sums = Sums::open(&path.with_extension("sums"), len).map_err(StateError::Open)?;
        let pages = Arc::new(Pages { file: FileBackend::new(file)?, sums, gate: gate.clone() });
        let backend = GatedFile(Arc::clone(&pages));
        let database =
            Builder::new().set_cache_size(size(cache_size)).create_with_backend(backend)?;
        Ok(Self { database, gate, pages })
    }

    /// Compares the file with the checksums of its pages, some pages from `offset` on; returns how many bytes, 0 at the
    /// end. What a cache of memory hides is found before it is needed.
    pub(crate) fn compare(&self, offset: u64) -> Result<u64, StateError> {
        let Pages { file, sums, .. } = &*self.pages;
        let read = || {
            let rest = file.len()?.saturating_sub(offset);
            let mut bytes = vec![0; size(rest.min(COMPARED))];
            file.read(offset, &mut bytes)?;
            Ok(bytes)
        };
        sums.compare(offset, read).map(crate::numbers::wide).map_err(StateError::File)
    }

    /// Writes checksums again that are not as they were written.
    pub(crate) fn renew_sums(&self) -> Result<(), StateError> {
        self.pages.sums.renew().map_err(StateError::File)
    }

    /// Writes the first rows of a new store, durably.
    pub(crate) fn initialise(&self, store: [u8; 16]) -> Result<(), StateError> {
        let counters = Counters { next_record: 1, stamp: 0, next_generation: 1, checkpoint: 1 };
        self.initialise_at(store, &counters)
    }

    /// Writes the rows of a store that stands at `counters`, durably.
    pub(crate) fn initialise_at(
        &self,
        store: [u8; 16],
        counters: &Counters,
    ) -> Result<(), StateError> {
        let transaction = self.begin(true)?;
        {
            let _tables = Tables::open(&transaction)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert("store", store.as_slice())?;
        }
        write_counters(&transaction, counters)?;
        Ok(transaction.commit()?)
    }

    /// A transaction, durable when it commits or not before the next checkpoint.
    pub(crate) fn begin(&self, durable: bool) -> Result<WriteTransaction, StateError> {
        let mut transaction = self.database.begin_write()?;
        if durable {
            // The allocator's state is saved with each checkpoint, so that opening after a crash walks no tree.
            transaction.set_quick_repair(true);
        } else {
            transaction.set_durability(Durability::None)?;
        }
        Ok(transaction)
    }

    /// The store's id and the counters.
    pub(crate) fn identity(&self) -> Result<([u8; 16], Counters), StateError> {
        use redb::ReadableDatabase as _;
        identity(&self.database.begin_read()?)
    }
}

/// The store's id and the counters, as a transaction has them.
pub(crate) fn identity(
    transaction: &redb::ReadTransaction,
) -> Result<([u8; 16], Counters), StateError> {
    let meta = transaction.open_table(META)?;
    let read = |name: &str| -> Result<Vec<u8>, StateError> {
        let value = meta.get(name)?.map(|value| value.value().to_vec());
        value.ok_or_else(|| StateError::Row { row: name.to_owned() })
    };
    let number = |name: &str| -> Result<u64, StateError> {
        let bytes = read(name)?.try_into();
        bytes.map(u64::from_le_bytes).map_err(|_| StateError::Row { row: name.to_owned() })
    };
    let found = number("format")?;
    if !(FIRST_FORMAT..=FORMAT).contains(&found) {
        return Err(StateError::Format { found, known: FORMAT });
    }
    let store = read("store")?;
    let store = store.try_into().map_err(|_| StateError::Row { row: "store".to_owned() })?;
    let counters = Counters {
        next_record: number("next_record")?,
        stamp: number("stamp")?,
        next_generation: number("next_generation")?,
        checkpoint: number("checkpoint")?,
    };
    Ok((store, counters))
}

/// Writes the counters into a transaction.
pub(crate) fn write_counters(
    transaction: &WriteTransaction,
    counters: &Counters,
) -> Result<(), StateError> {
    let mut meta = transaction.open_table(META)?;
    for (name, number) in [
        ("format", FORMAT),
        ("next_record", counters.next_record),
        ("stamp", counters.stamp),
        ("next_generation", counters.next_generation),
        ("checkpoint", counters.checkpoint),
    ] {
        meta.insert(name, number.to_le_bytes().as_slice())?;
    }
    Ok(())
}

/// The tables of a transaction that changes them.
pub(crate) struct Tables<'t> {
    pub(crate) names: Table<'t, &'static [u8], &'static [u8]>,
    pub(crate) generations: Table<'t, u64, &'static [u8; GENERATION]>,
    pub(crate) epochs: Table<'t, (u64, u32), u8>,
    pub(crate) blocks: Table<'t, (u64, u32, u32), &'static [u8; VERSION]>,
    pub(crate) changed: Table<'t, (u64, u32, u32), u128>,
    pub(crate) free: Table<'t, (u64, u64), ()>,
    pub(crate) freed: Table<'t, (u64, u64, u32), u64>,
}

impl<'t> Tables<'t> {
    /// Opens all of them.
    pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, StateError> {
        Ok(Self {
            names: transaction.open_table(NAMES)?,
            generations: transaction.open_table(GENERATIONS)?,
            epochs: transaction.open_table(EPOCHS)?,
            blocks: transaction.open_table(BLOCKS)?,
            changed: transaction.open_table(CHANGED)?,
            free: transaction.open_table(FREE)?,
            freed: transaction.open_table(FREED)?,
        })
    }

    /// The row of a generation.
    pub(crate) fn generation(&self, generation: u64) -> Result<Option<Generation>, StateError> {
        let row = self.generations.get(generation)?;
        Ok(row.map(|row| Generation::decode(row.value())))
    }

    /// Writes the row of a generation.
    pub(crate) fn put_generation(
        &mut self,
        generation: u64,
        row: &Generation,
    ) -> Result<(), StateError> {
        self.generations.insert(generation, &row.encode())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_an_earlier_version_becomes_one_of_this_and_later_ones_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = State::open(&folder.path().join("s"), 1 << 20, true).expect("opens");
        state.initialise([7; 16]).expect("writes");
        let set = |format: u64| {
            let transaction = state.begin(false).expect("begins");
            let mut meta = transaction.open_table(META).expect("opens");
            meta.insert("format", format.to_le_bytes().as_slice()).expect("writes");
            drop(meta);
            transaction.commit().expect("commits");
        };
        for earlier in [1, 2] {
            set(earlier);
            let (store, counters) = state.identity().expect("is read");
            assert_eq!(store, [7; 16]);
            let transaction = state.begin(false).expect("begins");
            write_counters(&transaction, &counters).expect("writes");
            transaction.commit().expect("commits");
            set_is(&state, 3);
        }
        for other in [0, 4] {
            set(other);
            let refused = state.identity().expect_err("is another format");
            assert!(matches!(refused, StateError::Format { found, known: 3 } if found == other));
        }
    }

    fn set_is(state: &State, wanted: u64) {
        use redb::ReadableDatabase as _;
        let transaction = state.database.begin_read().expect("begins");
        let meta = transaction.open_table(META).expect("opens");
        let found = meta.get("format").expect("reads").map(|value| value.value().to_vec());
        assert_eq!(found, Some(wanted.to_le_bytes().to_vec()));
    }

    #[test]
    fn rows_keep_what_they_say() {
        let mark = Mark { size: 1, etag: 2, modified: 3, sequence: u64::MAX };
        let generation = Generation { mark, epoch: 7, aside: 9 };
        assert_eq!(Generation::decode(&generation.encode()), generation);
        let mut checksums = [0; CELLS];
        checksums.iter_mut().zip(1..).for_each(|(to, n)| *to = n);
        for slot in [Slot::None, Slot::Home, Slot::Aside(0), Slot::Aside(77)] {
            let version = Version { slot, written: 1 << 127 | 5, checksums };
            assert_eq!(Version::decode(&version.encode()), version);
        }
    }
}
