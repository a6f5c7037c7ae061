//! The committer: the one thread that changes the store.
//!
//! It takes all changes that wait, decides each against the state as the earlier ones of the group left it, appends
//! their records, makes them durable by one `fdatasync`, writes the slots, commits the state without durability, and
//! replies. Between groups it makes checkpoints and does background work in small steps.
//!
//! After an error that leaves open what is on the disk the store stops: it reads, and refuses changes until it is
//! opened again. A want of room is none: the group is refused, and the next may succeed.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};
use redb::{ReadableDatabase as _, ReadableTable as _, WriteTransaction};
use strongroom_base::{lock, start_thread};

use crate::{
    change::{Change, Done},
    decide::{Decider, Moment, Undecided},
    journal::{AppendError, Journal, replay},
    leftovers::Leftovers,
    map::{Applier, ApplyError, Chores},
    record::{Op, Record},
    refusal::Refusal,
    rows::{Ticks, keys},
    slots::{DataFiles, Pending, Place, Slot},
    state::{
        ALL_SLOTS, Counters, EPOCHS, EpochUse, GENERATIONS, NAMES, StateError, Tables,
        write_counters,
    },
    store::{Options, Shared, StoreError},
};

/// The most changes of a group.
const MAX_GROUP: usize = 256;
/// The most data of a group, in bytes, unless its first change has more.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Rows that one step of background work looks at.
const STEP: u32 = 256;
/// Slots that one step gives back; each is a call of the file system.
const RELEASE_STEP: usize = 32;
/// How often data files are written to the disk between two checkpoints.
const FLUSHES: u64 = 8;
/// Files that may wait for a checkpoint.
const MAX_DIRTY_FILES: usize = 512;
/// How long the committer sleeps before it looks at the clock.
const IDLE: Duration = Duration::from_secs(1);
/// Records that recovery applies in one transaction, and their bytes.
const REPLAY_BATCH: (usize, usize) = (512, 16 << 20);

/// Called once with the result of a change.
pub(crate) type Reply = Box<dyn FnOnce(Result<Done, Refusal>) + Send>;

/// What the committer is asked.
pub(crate) enum Message {
    Change(Box<Change>, Reply),
    Checkpoint(Sender<()>),
    Settle(Sender<()>),
    Close,
}

/// What becomes a record.
enum Work {
    Change(Box<Change>, Reply),
    Merge {
        generation: u64,
        epoch: u32,
    },
    Empty {
        container: u64,
    },
    /// Give back what is behind a row that nobody needs.
    GiveBack {
        key: Vec<u8>,
    },
}

/// How one try of a group went.
enum Attempt {
    /// The records are durable and applied.
    Done(Vec<Result<Done, Refusal>>),
    /// One change cannot be applied; the others are tried again without it.
    Without(usize, Refusal),
    /// None is applied, and the store continues.
    Refused(Refusal),
}

/// The thread's own state.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    journal: Journal,
    counters: Counters,
    options: Options,
    waiting: Receiver<Message>,
    /// Epochs to merge.
    ended: BTreeSet<(u64, u32)>,
    /// Deleted containers to empty.
    doomed: BTreeSet<u64>,
    leftovers: Leftovers,
    /// Where the release of slots continues.
    release: Option<(u64, u64, u32)>,
    /// When changes began to wait for a checkpoint.
    oldest: Option<Duration>,
    settlers: Vec<Sender<()>>,
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
    /// Say that all before is done.
    Answer(Sender<()>),
}

fn sweep(files: &DataFiles, work: &Receiver<Sweep>, is_closing: &AtomicBool) {
    for one in work {
        match one {
            // What is left is found again when the store is opened.
            Sweep::Generation(_) if is_closing.load(Ordering::SeqCst) => {}
            // The same holds for a file that cannot be deleted.
            Sweep::Generation(generation) => drop(files.remove(generation)),
            // Who waited may have gone.
            Sweep::Answer(settler) => drop(settler.send(())),
        }
    }
}

/// Applies what the journal has behind the state, and returns the counters then.
pub(crate) fn recover(
    shared: &Shared,
    folder: &Path,
    store: [u8; 16],
    mut counters: Counters,
) -> Result<Counters, StoreError> {
    let checkpoint = counters.checkpoint;
    let from = counters.next_record;
    let mut batch: Vec<Record> = Vec::new();
    let mut bytes = 0_usize;
    replay::<StoreError>(folder, store, from, |_, record| {
        counters = counters.after(&record);
        bytes = bytes.saturating_add(record.data_len());
        batch.push(record);
        if batch.len() >= REPLAY_BATCH.0 || bytes >= REPLAY_BATCH.1 {
            bytes = 0;
            apply_batch(shared, checkpoint, &std::mem::take(&mut batch))?;
        }
        Ok(())
    })?;
    apply_batch(shared, checkpoint, &batch)?;
    Ok(counters)
}

fn apply_batch(shared: &Shared, checkpoint: u64, records: &[Record]) -> Result<(), StoreError> {
    let transaction = shared.state.begin(false)?;
    let pending = {
        let mut applier = applier(shared, &transaction, checkpoint)?;
        records.iter().try_for_each(|record| applier.apply(record))?;
        applier.pending
    };
    pending.flush(&shared.files).map_err(StoreError::Data)?;
    transaction.commit().map_err(StateError::from)?;
    Ok(())
}

fn applier<'a, 't>(
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

impl Counters {
    /// After a record.
    fn after(self, record: &Record) -> Self {
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

impl Committer {
    /// A committer of a store that is recovered.
    pub(crate) fn new(
        shared: Arc<Shared>,
        journal: Journal,
        counters: Counters,
        options: Options,
        waiting: Receiver<Message>,
    ) -> Result<Self, StateError> {
        let transaction = shared.state.database.begin_read()?;
        let mut ended = BTreeSet::new();
        for row in transaction.open_table(EPOCHS)?.iter()? {
            let (key, kind) = row?;
            if EpochUse::from_number(kind.value()) == EpochUse::Gone {
                ended.insert(key.value());
            }
        }
        let mut doomed = BTreeSet::new();
        let names = transaction.open_table(NAMES)?;
        for row in names.range(b"d".as_slice()..b"e".as_slice())? {
            let (key, _) = row?;
            let id = key.value().get(1..).and_then(|id| id.try_into().ok());
            doomed.extend(id.map(u64::from_be_bytes));
        }
        drop(names);
        drop(transaction);
        let leftovers = Leftovers::at_opening(&shared.state.database)?;
        let (sweeper, work) = unbounded();
        let files = Arc::clone(&shared.files);
        let is_closing = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_closing);
        let sweeps = start_thread("blob-sweeper", move || sweep(&files, &work, &ends));
        let (flusher, asked) = bounded(1);
        let files = Arc::clone(&shared.files);
        let flushes =
            start_thread("blob-flusher", move || asked.iter().for_each(|()| files.flush()));
        Ok(Self {
            shared,
            journal,
            counters,
            options,
            waiting,
            ended,
            doomed,
            leftovers,
            release: None,
            oldest: None,
            settlers: Vec::new(),
            sweeper,
            flusher,
            flushed: 0,
            helpers: vec![sweeps, flushes],
            is_closing,
        })
    }

    /// Deletes files of generations that are no more. Only after a checkpoint: before it, the journal may need them.
    pub(crate) fn sweep_leftovers(&self) -> Result<(), StoreError> {
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

    /// Works until the store is closed.
    pub(crate) fn run(&mut self) {
        loop {
            let message = if self.has_chores() {
                self.waiting.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            } else if self.settlers.is_empty() || self.is_stopped() || self.oldest.is_none() {
                for settler in std::mem::take(&mut self.settlers) {
                    self.ask_sweeper(Sweep::Answer(settler));
                }
                self.waiting.recv_timeout(IDLE)
            } else {
                // What the work gave back is free after a checkpoint.
                self.try_checkpoint();
                continue;
            };
            let mut group = Vec::new();
            let mut end = match message {
                Ok(Message::Change(change, reply)) => {
                    let len = change.data_len();
                    group.push(Work::Change(change, reply));
                    self.gather(&mut group, len)
                }
                Ok(other) => Some(other),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::Close),
            };
            self.look_for_leftovers();
            group.extend(self.next_chore());
            self.commit(group);
            self.release_step();
            if let Some(Message::Settle(settler)) = end {
                self.settlers.push(settler);
                end = None;
            }
            if end.is_some() || self.is_checkpoint_due() {
                self.try_checkpoint();
            }
            match end {
                Some(Message::Checkpoint(done)) => {
                    let _sent = done.send(());
                }
                Some(_) => break,
                None => {}
            }
        }
        self.end_helpers();
    }

    /// Waits for the file that is deleted now, and no other: nobody may touch the folder after the store is closed.
    fn end_helpers(&mut self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.sweeper = unbounded().0;
        self.flusher = bounded(1).0;
        for helper in self.helpers.drain(..) {
            // One that panicked has ended as well.
            drop(helper.join());
        }
    }

    /// Takes what waits already; returns the first message that is no change.
    fn gather(&self, group: &mut Vec<Work>, mut len: usize) -> Option<Message> {
        while group.len() < MAX_GROUP && len < MAX_GROUP_BYTES {
            match self.waiting.try_recv() {
                Ok(Message::Change(change, reply)) => {
                    len = len.saturating_add(change.data_len());
                    group.push(Work::Change(change, reply));
                }
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
        None
    }

    fn is_stopped(&self) -> bool {
        self.shared.state.gate.is_shut()
    }

    fn stop(&self, error: StoreError) {
        self.shared.state.gate.shut();
        lock(&self.shared.failure).get_or_insert_with(|| Arc::new(error));
    }

    fn has_chores(&self) -> bool {
        let has_work = !self.ended.is_empty()
            || !self.doomed.is_empty()
            || !self.leftovers.is_empty()
            || self.release.is_some();
        has_work && !self.is_stopped()
    }

    /// The newest ended epoch comes first: what has no later reader is dropped and not moved.
    fn next_chore(&mut self) -> Option<Work> {
        if self.is_stopped() {
            return None;
        }
        if let Some(key) = self.leftovers.next() {
            return Some(Work::GiveBack { key });
        }
        let merge = self.ended.last().map(|&(generation, epoch)| Work::Merge { generation, epoch });
        merge.or_else(|| self.doomed.first().map(|&container| Work::Empty { container }))
    }

    /// Finds leftovers, now and then.
    fn look_for_leftovers(&mut self) {
        if self.is_stopped() {
            return;
        }
        let (clock, database) = (&*self.options.clock, &self.shared.state.database);
        if let Err(error) = self.leftovers.look(database, clock.monotonic(), ticks(clock)) {
            self.stop(error.into());
        }
    }

    fn commit(&mut self, mut group: Vec<Work>) {
        while !group.is_empty() {
            let refusal = if self.is_stopped() {
                Refusal::Stopped
            } else {
                match self.attempt(&group) {
                    Ok(Attempt::Done(results)) => {
                        for (work, result) in group.into_iter().zip(results) {
                            work.reply(result);
                        }
                        return;
                    }
                    Ok(Attempt::Without(index, refusal)) => {
                        if index < group.len() {
                            group.remove(index).reply(Err(refusal));
                        }
                        continue;
                    }
                    Ok(Attempt::Refused(refusal)) => refusal,
                    Err(error) => {
                        self.stop(error);
                        Refusal::NotDurable
                    }
                }
            };
            for work in std::mem::take(&mut group) {
                work.reply(Err(refusal.clone()));
            }
        }
    }

    fn attempt(&mut self, group: &[Work]) -> Result<Attempt, StoreError> {
        let shared = Arc::clone(&self.shared);
        let now = ticks(&*self.options.clock);
        let transaction = shared.state.begin(false)?;
        let mut counters = self.counters;
        let mut records = Vec::new();
        let mut results = Vec::new();
        let (pending, chores) = {
            let mut applier = applier(&shared, &transaction, counters.checkpoint)?;
            let is_tight = self.is_tight();
            for (index, work) in group.iter().enumerate() {
                if is_tight && work.data_len() > 0 {
                    results.push(Err(Refusal::Full));
                    continue;
                }
                let stamp = counters.stamp.saturating_add(1).max(now.0);
                let decider = Decider {
                    applier: &applier,
                    moment: Moment { now, stamp },
                    next_generation: counters.next_generation,
                    entropy: &*self.options.entropy,
                };
                let (ops, done) = match work.decide(&decider) {
                    Ok(decision) => decision,
                    Err(Undecided::Refused(refusal)) => {
                        results.push(Err(refusal));
                        continue;
                    }
                    Err(Undecided::Failed(error)) => {
                        results.push(Err(alone(error)?));
                        continue;
                    }
                };
                let record = Record { stamp, ops };
                if let Err(error) = applier.apply(&record) {
                    return Ok(Attempt::Without(index, alone(error)?));
                }
                counters = counters.after(&record);
                records.push(record);
                results.push(Ok(done));
            }
            (applier.pending, applier.chores)
        };
        if records.is_empty() {
            transaction.abort().map_err(StateError::from)?;
            return Ok(Attempt::Done(results));
        }
        write_counters(&transaction, &counters)?;
        let first = self.counters.next_record;
        match self.journal.append(first, &records, &*self.options.entropy) {
            Ok(()) => {}
            Err(AppendError::Segment(_)) => {
                transaction.abort().map_err(StateError::from)?;
                return Ok(Attempt::Refused(Refusal::Full));
            }
            Err(AppendError::Write(error)) => return Err(StoreError::Append(error)),
        }
        {
            let _apart = shared.in_step.write().unwrap_or_else(PoisonError::into_inner);
            pending.flush(&shared.files).map_err(StoreError::Data)?;
            transaction.commit().map_err(StateError::from)?;
        }
        self.counters = counters;
        self.note(&records, chores);
        Ok(Attempt::Done(results))
    }

    /// Remembers the background work that a group has made or done.
    fn note(&mut self, records: &[Record], chores: Chores) {
        self.ended.extend(chores.ended);
        for merged in &chores.merged {
            self.ended.remove(merged);
        }
        for op in records.iter().flat_map(|record| &record.ops) {
            let (key, is_new) = match op {
                Op::Put { key, .. } => (key, true),
                Op::Remove { key } => (key, false),
                _ => continue,
            };
            let id = key.strip_prefix(b"d").and_then(|id| id.try_into().ok());
            match id.map(u64::from_be_bytes) {
                Some(id) if is_new => {
                    self.doomed.insert(id);
                }
                Some(id) => {
                    self.doomed.remove(&id);
                }
                None => {}
            }
        }
        self.oldest.get_or_insert_with(|| self.options.clock.monotonic());
        let written = self.journal.bytes_since();
        if written.saturating_sub(self.flushed) >= self.options.checkpoint_size / FLUSHES {
            self.flushed = written;
            // A full queue asks for the same.
            let _asked = self.flusher.try_send(());
        }
        self.publish();
    }

    fn publish(&self) {
        let records = self.counters.next_record.saturating_sub(1);
        self.shared.records.store(records, Ordering::SeqCst);
        self.shared.checkpoints.store(self.counters.checkpoint, Ordering::SeqCst);
        self.shared.journal_bytes.store(self.journal.bytes_since(), Ordering::SeqCst);
    }

    /// Whether what is left on the disk is needed for checkpoints and deletions.
    fn is_tight(&self) -> bool {
        self.journal.free_room() < self.options.reserve_size
    }

    fn is_checkpoint_due(&self) -> bool {
        let now = self.options.clock.monotonic();
        let age = self.oldest.map(|oldest| now.saturating_sub(oldest));
        age.is_some_and(|age| age >= self.options.checkpoint_interval)
            || self.journal.bytes_since() >= self.options.checkpoint_size
            || self.shared.files.dirty_files() >= MAX_DIRTY_FILES
            // The journal's room is the first that can be given back.
            || self.journal.bytes_since() > self.options.reserve_size / 8 && self.is_tight()
    }

    fn try_checkpoint(&mut self) {
        if !self.is_stopped()
            && let Err(error) = self.checkpoint()
        {
            self.stop(error);
        }
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
        // Old segments that stay for want of room for a new one do no harm, and the next checkpoint tries again.
        let _tried = self.journal.forget_before(counters.next_record, &*self.options.entropy);
        self.release = Some((0, 0, 0));
        self.publish();
        Ok(())
    }

    /// Gives some slots back that no checkpoint uses any more.
    fn release_step(&mut self) {
        let Some(from) = self.release else { return };
        if self.is_stopped() {
            return;
        }
        match self.release_from(from) {
            Ok(next) => self.release = next,
            Err(error) => self.stop(error),
        }
    }

    fn release_from(&self, from: (u64, u64, u32)) -> Result<Option<(u64, u64, u32)>, StoreError> {
        let shared = &self.shared;
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
                found.push((key.value(), checkpoint.value() < self.counters.checkpoint));
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

impl Work {
    fn reply(self, result: Result<Done, Refusal>) {
        if let Self::Change(_, reply) = self {
            reply(result);
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Change(change, _) => change.data_len(),
            _ => 0,
        }
    }

    fn decide(&self, decider: &Decider<'_, '_, '_>) -> Result<(Vec<Op>, Done), Undecided> {
        match self {
            Self::Change(change, _) => decider.decide(change),
            Self::Merge { generation, epoch } => {
                let merge = Op::Merge { generation: *generation, epoch: *epoch, limit: STEP };
                Ok((vec![merge], Done::default()))
            }
            Self::Empty { container } => {
                let mut ops = decider.some_of_container(*container, STEP)?;
                if ops.is_empty() {
                    ops.push(Op::Remove { key: keys::doomed(*container) });
                }
                Ok((ops, Done::default()))
            }
            Self::GiveBack { key } => Ok((decider.give_back(key)?, Done::default())),
        }
    }
}

/// What one change is refused with when it fails alone; other errors stop the store.
fn alone(error: ApplyError) -> Result<Refusal, StoreError> {
    match error {
        ApplyError::Damaged { offset } => Ok(Refusal::Damaged { offset }),
        ApplyError::Room(error) if is_room(&error) => Ok(Refusal::Full),
        other => Err(StoreError::Apply(other)),
    }
}

fn is_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The clock's moment.
fn ticks(clock: &dyn strongroom_base::Clock) -> Ticks {
    Ticks(u64::try_from(clock.now().as_nanosecond() / 100).unwrap_or(0))
}
