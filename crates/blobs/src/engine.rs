//! One copy of a store: its journal, its state and its data files, in one folder.
//!
//! Records come from a committer that has decided them, from a leading copy, or from a journal; they are made durable
//! and applied in the same way. It knows nothing of other copies.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use redb::{ReadableDatabase as _, ReadableTable as _, WriteTransaction};
use strongroom_base::{lock, start_thread};

use crate::{
    copies::members::CopyId,
    journal::{AppendError, Encoded, Journal, Keep, free_room, replay},
    map::{Applier, Chores},
    record::{Op, Record},
    replication::switch,
    slots::{DataFiles, Pending, Place, Slot},
    state::{ALL_SLOTS, Counters, GENERATIONS, State, StateError, Tables, write_counters},
    store::{Options, StoreError, file_error},
};

/// Slots that one step gives back; each is a call of the file system.
const RELEASE_STEP: usize = 32;
/// How often data files are written to the disk between two checkpoints.
const FLUSHES: u64 = 8;
/// Files that may wait for a checkpoint.
const MAX_DIRTY_FILES: usize = 512;
/// Records that are applied in one transaction, and their bytes, when many are there.
const REPLAY_BATCH: (usize, usize) = (512, 16 << 20);

/// Records that are made durable and applied together.
#[derive(Debug)]
pub(crate) struct Group {
    /// The number of the first.
    pub(crate) first: u64,
    /// The records.
    pub(crate) records: Vec<Record>,
    /// The same as bytes.
    pub(crate) encoded: Vec<Encoded>,
}

impl Group {
    /// Records from number `first` on.
    pub(crate) fn new(first: u64, records: Vec<Record>) -> Self {
        let encoded = records.iter().map(Record::encode).collect();
        Self { first, records, encoded }
    }
}

/// What the one who changes a copy and its readers share.
pub(crate) struct Shared {
    /// Which copy it is.
    pub(crate) id: CopyId,
    pub(crate) folder: PathBuf,
    pub(crate) state: State,
    pub(crate) files: Arc<DataFiles>,
    /// Held for writing while slots and the state are not in step.
    pub(crate) in_step: RwLock<()>,
    /// The number behind the last record that is applied.
    pub(crate) next_record: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) journal_bytes: AtomicU64,
    holds: Mutex<Holds>,
    /// Records from this number on stay in the journal for another server, as long as [`Options::replica_size`] allows
    /// it; `u64::MAX` for none.
    pub(crate) wanted: AtomicU64,
    failure: Mutex<Option<Arc<StoreError>>>,
    /// Dropped last, when the state is closed.
    lock: FolderLock,
}

impl Shared {
    /// A copy that is not in use yet.
    pub(crate) fn new(id: CopyId, folder: &Path, state: State, lock: FolderLock) -> Self {
        Self {
            id,
            folder: folder.to_owned(),
            state,
            files: Arc::new(DataFiles::new(folder.join("data"))),
            in_step: RwLock::new(()),
            next_record: AtomicU64::default(),
            checkpoints: AtomicU64::default(),
            journal_bytes: AtomicU64::default(),
            holds: Mutex::default(),
            wanted: AtomicU64::new(u64::MAX),
            failure: Mutex::default(),
            lock,
        }
    }

    /// From now on nothing is written to the state any more. The first error stays.
    pub(crate) fn fail(&self, error: impl Into<Arc<StoreError>>) {
        self.state.gate.shut();
        lock(&self.failure).get_or_insert(error.into());
    }

    /// Why it failed. An error of the state file may have come to a reader.
    pub(crate) fn failure(&self) -> Option<Arc<StoreError>> {
        if let Some(error) = self.state.gate.take_error() {
            self.fail(StoreError::State(StateError::File(error)));
        }
        lock(&self.failure).clone()
    }

    /// The folder of the journal.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// The room on its disk, in bytes.
    pub(crate) fn room(&self) -> u64 {
        free_room(&self.journal())
    }

    /// Keeps slots as they are from this moment on, and the records of the journal if `with_records` says so.
    pub(crate) fn hold(self: &Arc<Self>, with_records: bool) -> Hold {
        let record = if with_records { self.next_record.load(SeqCst) } else { u64::MAX };
        let mut holds = lock(&self.holds);
        let id = holds.next;
        holds.next = holds.next.wrapping_add(1);
        holds.held.insert(id, (self.checkpoints.load(SeqCst), record));
        Hold { shared: Arc::clone(self), id }
    }

    /// From which checkpoint on slots that were given back, and from which number on records are held.
    fn held(&self) -> (u64, u64) {
        let holds = lock(&self.holds);
        holds.held.values().fold((u64::MAX, u64::MAX), |(checkpoint, record), held| {
            (checkpoint.min(held.0), record.min(held.1))
        })
    }

    /// Whether the folder is still where it was: a file that is deleted can be written without an error.
    pub(crate) fn is_in_place(&self) -> io::Result<()> {
        let same = |known: fs::Metadata| {
            let own = self.lock.0.metadata()?;
            Ok::<_, io::Error>((own.dev(), own.ino()) == (known.dev(), known.ino()))
        };
        if fs::metadata(self.folder.join("state.redb")).and_then(same)? {
            return Ok(());
        }
        Err(io::Error::other("the folder was replaced"))
    }
}

/// What keeps slots and records of a copy as they are.
#[derive(Default)]
struct Holds {
    next: u64,
    /// A checkpoint and a record for each hold.
    held: BTreeMap<u64, (u64, u64)>,
}

/// Slots of a copy that were given back after this began stay as they are until it is dropped.
pub(crate) struct Hold {
    shared: Arc<Shared>,
    id: u64,
}

impl Hold {
    /// The copy.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.shared.holds).held.remove(&self.id);
    }
}

/// That no other store is open in the folder.
pub(crate) struct FolderLock(fs::File);

impl FolderLock {
    /// Locks the state file of a folder.
    pub(crate) fn take(folder: &Path) -> Result<Self, StoreError> {
        Self::take_as(folder, "state.redb")
    }

    /// Locks a state file that has another name yet.
    pub(crate) fn take_as(folder: &Path, name: &str) -> Result<Self, StoreError> {
        let path = folder.join(name);
        let file = fs::File::open(&path).map_err(file_error(&path))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(StoreError::InUse { path: folder.to_owned() })
            }
            Err(error) => Err(file_error(&path)(error.into())),
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // A process that is being started has the file open for a moment as well, and with it the lock.
        let _unlocked = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

/// A copy, and what changes it. Dropping it ends its threads; it makes no checkpoint.
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Counters,
    /// The id of the store.
    pub(crate) store: [u8; 16],
    journal: Journal,
    options: Options,
    /// Where the release of slots continues.
    release: Option<(u64, u64, u32)>,
    /// When changes began to wait for a checkpoint.
    oldest: Option<Duration>,
    sweeper: Sender<Sweep>,
    /// Asks for data files to be written to the disk before the next checkpoint.
    flusher: Sender<()>,
    /// How long the journal was then, in bytes since the last checkpoint.
    flushed: u64,
    /// Both helpers, and whether they are to end.
    helpers: Vec<JoinHandle<()>>,
    is_closing: Arc<AtomicBool>,
}

/// What the sweeper does. It deletes files, which may take minutes: some file systems discard each piece of a file.
enum Sweep {
    /// Both files of a generation.
    Generation(u64),
    /// Drop this when all before is done.
    Answer(Sender<()>),
}

fn sweep(files: &DataFiles, work: &Receiver<Sweep>, is_closing: &AtomicBool) {
    for one in work {
        match one {
            // What is left is found again when the store is opened.
            Sweep::Generation(_) if is_closing.load(SeqCst) => {}
            // The same holds for a file that cannot be deleted.
            Sweep::Generation(generation) => drop(files.remove(generation)),
            Sweep::Answer(settler) => drop(settler),
        }
    }
}

impl Counters {
    /// After a record.
    pub(crate) fn after(self, record: &Record) -> Self {
        let begun = record.ops.iter().filter_map(|op| match op {
            Op::Begin { generation } => Some(generation.saturating_add(1)),
            _ => None,
        });
        Self {
            next_record: self.next_record.saturating_add(1),
            stamp: record.stamp,
            next_generation: begun.fold(self.next_generation, u64::max),
            ..self
        }
    }
}

impl Record {
    fn data_len(&self) -> usize {
        self.ops.iter().fold(0, |sum, op| match op {
            Op::Write { data, .. } => data.len().saturating_add(sum),
            _ => sum,
        })
    }
}

impl Engine {
    /// Opens a folder and applies what its journal has behind its state. A checkpoint must follow: the end of the
    /// journal may be torn.
    pub(crate) fn open(folder: &Path, id: CopyId, options: &Options) -> Result<Self, StoreError> {
        switch::recover(folder)?;
        let lock = FolderLock::take(folder)?;
        let state = State::open(&folder.join("state.redb"), options.cache_size, false)?;
        let (store, counters) = state.identity()?;
        let shared = Arc::new(Shared::new(id, folder, state, lock));
        let mut engine = Self::new(shared, store, counters, options);
        let recovered = engine.recover();
        recovered.inspect_err(|_| engine.shared.state.gate.shut())?;
        Ok(engine)
    }

    /// A copy whose state stands at `counters`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        store: [u8; 16],
        counters: Counters,
        options: &Options,
    ) -> Self {
        let (sweeper, work) = unbounded();
        let files = Arc::clone(&shared.files);
        let is_closing = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_closing);
        let sweeps = start_thread("blob-sweeper", move || sweep(&files, &work, &ends));
        let (flusher, asked) = bounded(1);
        let files = Arc::clone(&shared.files);
        let flushes =
            start_thread("blob-flusher", move || asked.iter().for_each(|()| files.flush()));
        let journal = Journal::new(shared.journal(), store, options.segment_size);
        let engine = Self {
            shared,
            counters,
            store,
            journal,
            options: options.clone(),
            release: None,
            oldest: None,
            sweeper,
            flusher,
            flushed: 0,
            helpers: vec![sweeps, flushes],
            is_closing,
        };
        engine.publish();
        engine
    }

    /// Applies what the journal has behind the state.
    pub(crate) fn recover(&mut self) -> Result<(), StoreError> {
        let mut batch: Vec<Record> = Vec::new();
        let mut bytes = 0_usize;
        let (folder, store) = (self.shared.journal(), self.store);
        replay::<StoreError>(&folder, store, self.counters.next_record, |_, record| {
            bytes = bytes.saturating_add(record.data_len());
            batch.push(record);
            if batch.len() >= REPLAY_BATCH.0 || bytes >= REPLAY_BATCH.1 {
                bytes = 0;
                self.apply(&std::mem::take(&mut batch))?;
            }
            Ok(())
        })?;
        self.apply(&batch)
    }

    /// What applies records to the tables of a transaction.
    pub(crate) fn applier<'a, 't>(
        shared: &'a Shared,
        transaction: &'t WriteTransaction,
        checkpoint: u64,
    ) -> Result<Applier<'a, 't>, StateError> {
        Ok(Applier {
            tables: Tables::open(transaction)?,
            files: &shared.files,
            pending: Pending::default(),
            checkpoint,
            chores: Chores::default(),
        })
    }

    /// Applies records that are durable.
    pub(crate) fn apply(&mut self, records: &[Record]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let transaction = shared.state.begin(false)?;
        let pending = {
            let mut applier = Self::applier(&shared, &transaction, self.counters.checkpoint)?;
            records.iter().try_for_each(|record| applier.apply(record))?;
            applier.pending
        };
        let counters = records.iter().fold(self.counters, Counters::after);
        self.finish(transaction, pending, counters)
    }

    /// Makes room in the journal for a group, so that appending it fails only with the disk.
    pub(crate) fn prepare(&mut self, group: &Group) -> io::Result<()> {
        self.journal.prepare(group.first, &group.encoded, &*self.options.entropy)
    }

    /// Makes a group durable in the journal.
    pub(crate) fn append(&mut self, group: &Group) -> Result<(), StoreError> {
        let appended = self.journal.append(group.first, &group.encoded, &*self.options.entropy);
        appended.map_err(|error| match error {
            AppendError::Segment(error) | AppendError::Write(error) => StoreError::Append(error),
        })
    }

    /// Writes the slots of records that are durable and applied to `transaction`, and commits it.
    pub(crate) fn finish(
        &mut self,
        transaction: WriteTransaction,
        pending: Pending,
        counters: Counters,
    ) -> Result<(), StoreError> {
        write_counters(&transaction, &counters)?;
        {
            let in_step = &self.shared.in_step;
            let _apart = in_step.write().unwrap_or_else(PoisonError::into_inner);
            pending.flush(&self.shared.files).map_err(StoreError::Data)?;
            transaction.commit().map_err(StateError::from)?;
        }
        self.counters = counters;
        self.oldest.get_or_insert_with(|| self.options.clock.monotonic());
        let written = self.journal.bytes_since();
        if written.saturating_sub(self.flushed) >= self.options.checkpoint_size / FLUSHES {
            self.flushed = written;
            // A full queue asks for the same.
            let _asked = self.flusher.try_send(());
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.shared.next_record.store(self.counters.next_record, SeqCst);
        self.shared.checkpoints.store(self.counters.checkpoint, SeqCst);
        self.shared.journal_bytes.store(self.journal.bytes_since(), SeqCst);
    }

    /// When changes began to wait for a checkpoint.
    pub(crate) const fn oldest(&self) -> Option<Duration> {
        self.oldest
    }

    /// Makes the data files and the state durable, and deletes the journal before them.
    pub(crate) fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.shared.files.sync().map_err(StoreError::Data)?;
        let transaction = self.shared.state.begin(true)?;
        let mut counters = self.counters;
        counters.checkpoint = counters.checkpoint.saturating_add(1);
        write_counters(&transaction, &counters)?;
        transaction.commit().map_err(StateError::from)?;
        self.counters = counters;
        self.oldest = None;
        self.flushed = 0;
        let keep = Keep {
            held: self.shared.held().1,
            wanted: self.shared.wanted.load(SeqCst),
            most: self.options.replica_size,
        };
        // Old segments that stay for want of room for a new one do no harm, and the next checkpoint tries again.
        let _tried = self.journal.forget_before(counters.next_record, keep, &*self.options.entropy);
        self.release = Some((0, 0, 0));
        self.publish();
        Ok(())
    }

    /// Deletes files of generations that are no more. Only after a checkpoint: before it, the journal may need them.
    pub(crate) fn sweep_leftovers(&self) -> Result<(), StoreError> {
        if switch::is_unfinished(&self.shared.folder) {
            // They may be of the new state.
            return Ok(());
        }
        let transaction = self.shared.state.database.begin_read().map_err(StateError::from)?;
        let known = transaction.open_table(GENERATIONS).map_err(StateError::from)?;
        for generation in self.shared.files.generations().map_err(StoreError::Data)? {
            if known.get(generation).map_err(StateError::from)?.is_none() {
                self.ask_sweeper(Sweep::Generation(generation));
            }
        }
        Ok(())
    }

    fn ask_sweeper(&self, work: Sweep) {
        // It receives as long as this sender lives.
        drop(self.sweeper.send(work));
    }

    /// Drops `settler` when no slot and no file waits to be given back.
    pub(crate) fn settle(&mut self, settler: Sender<()>) -> Result<(), StoreError> {
        while self.is_releasing() {
            self.release_step()?;
        }
        self.ask_sweeper(Sweep::Answer(settler));
        Ok(())
    }

    /// Whether slots wait to be given back.
    pub(crate) fn is_releasing(&self) -> bool {
        self.release.is_some()
    }

    /// Gives some slots back that no checkpoint uses any more.
    pub(crate) fn release_step(&mut self) -> Result<(), StoreError> {
        if let Some(from) = self.release {
            self.release = self.release_from(from)?;
        }
        Ok(())
    }

    fn release_from(&self, from: (u64, u64, u32)) -> Result<Option<(u64, u64, u32)>, StoreError> {
        let shared = &self.shared;
        let before = self.counters.checkpoint.min(shared.held().0);
        let transaction = shared.state.begin(false)?;
        let mut next = None;
        {
            let mut tables = Tables::open(&transaction)?;
            let mut found = Vec::new();
            for row in tables.freed.range(from..).map_err(StateError::from)? {
                let (key, checkpoint) = row.map_err(StateError::from)?;
                if found.len() >= RELEASE_STEP {
                    next = Some(key.value());
                    break;
                }
                found.push((key.value(), checkpoint.value() < before));
            }
            if found.is_empty() {
                drop(tables);
                transaction.abort().map_err(StateError::from)?;
                return Ok(None);
            }
            for (key, is_free) in found {
                if is_free {
                    self.release_slot(&mut tables, key)?;
                }
            }
        }
        transaction.commit().map_err(StateError::from)?;
        Ok(next)
    }

    fn release_slot(
        &self,
        tables: &mut Tables<'_>,
        key: (u64, u64, u32),
    ) -> Result<(), StoreError> {
        let (generation, number, block) = key;
        if number == ALL_SLOTS {
            self.ask_sweeper(Sweep::Generation(generation));
            let slots = (generation, 0)..=(generation, u64::MAX);
            tables.free.retain_in(slots, |_, ()| false).map_err(StateError::from)?;
            let slots = (generation, 0, 0)..=(generation, u64::MAX, u32::MAX);
            tables.freed.retain_in(slots, |_, _| false).map_err(StateError::from)?;
            return Ok(());
        }
        let slot = Slot::from_number(number);
        if let Some(place) = Place::of(generation, block, slot) {
            let punched = self.shared.files.punch(place, 0, crate::pages::BLOCK);
            punched.map_err(StoreError::Data)?;
        }
        tables.freed.remove(key).map_err(StateError::from)?;
        if let Slot::Aside(index) = slot {
            tables.free.insert((generation, index), ()).map_err(StateError::from)?;
        }
        Ok(())
    }
}

/// Whether it is time for a checkpoint of a copy whose changes wait for one since a moment. A disk that is almost full gets
/// the journal's room back early.
pub(crate) fn is_checkpoint_due(
    shared: &Shared,
    options: &Options,
    oldest: Option<Duration>,
) -> bool {
    let age = oldest.map(|oldest| options.clock.monotonic().saturating_sub(oldest));
    let (reserve, journal) = (options.reserve_size, shared.journal_bytes.load(SeqCst));
    age.is_some_and(|age| age >= options.checkpoint_interval)
        || journal >= options.checkpoint_size
        || shared.files.dirty_files() >= MAX_DIRTY_FILES
        || journal > reserve / 8 && shared.room() < reserve
}

impl Drop for Engine {
    /// Waits for the file that is deleted now, and no other: nobody may touch the folder after the store is closed.
    fn drop(&mut self) {
        self.is_closing.store(true, SeqCst);
        self.sweeper = unbounded().0;
        self.flusher = bounded(1).0;
        for helper in self.helpers.drain(..) {
            // One that panicked has ended as well.
            drop(helper.join());
        }
    }
}
