//! A resynchronization: a new state of the leading copy, equal to that of the primary at one moment.
//!
//! ```text
//!  copy     the state file is copied; the new one lies beside it
//!  rows     ranges of rows are compared by digests; those that differ are fetched
//!  blocks   each row of a block that differs gets a slot: that of a version that has the same content, or one that the old
//!           state does not use, whose content is fetched
//!  records  those that followed meanwhile are put into a journal: they bring the cells that were changed before they were fetched
//!  end      the new state is made durable; the committer puts both in the place of the old ones, and applies the journal
//! ```
//!
//! The old state stays as it is until the end, with all its slots. A row is written to the new state after its content: what
//! a crash leaves is a new state whose rows are true, and the next try compares it as if it were the old one.

mod blocks;
mod rows;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase as _, TableDefinition};
use strongroom_base::lock;

use self::rows::{forget_generations, put_rows};
use super::{
    BadBatch, Batch, Era, StoreId,
    ship::TakeError,
    switch,
    tables::{KeyRange, Table, take_range},
    wire::{BadMessage, Moment, Question, RANGES, Records, Rows},
};
use crate::{
    commit::Resynced,
    engine::{FolderLock, Group, Shared},
    journal::{AppendError, Journal, Keep, sync_folder},
    record::Record,
    slots::DataFiles,
    state::{Counters, State, StateError, write_counters},
    store::{Options, StoreError, file_error},
};

/// Rows of blocks that differ, with the numbers of the primary's slots, until they are written.
const STAGED: TableDefinition<'_, (u64, u32, u32), (&[u8], u64)> = TableDefinition::new("staged");
/// Blocks that are written in one transaction.
const GROUP: usize = 512;
/// Bytes that are fetched between two moments at which everything is made durable.
const DURABLE: u64 = 512 << 20;

/// A resynchronization at work. Once it has ended, nothing of it is written any more: its slots belong to the old state.
#[derive(Default)]
pub(crate) struct Session(Mutex<bool>);

impl Session {
    /// Ends it, after what is being written at this moment.
    pub(crate) fn end(&self) {
        *lock(&self.0) = true;
    }

    /// Writes, unless it has ended.
    fn write<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let has_ended = lock(&self.0);
        if *has_ended { Err(StoreError::Ended) } else { write() }
    }
}

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
    /// Records up to the moment could not be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
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
    session: &Session,
    store: StoreId,
    options: &Options,
    thorough: bool,
    ask: &mut dyn FnMut(Bytes) -> Result<Bytes, E>,
    progress: &mut dyn FnMut(ResyncProgress) -> bool,
) -> Result<Resynced, ResyncError<E>> {
    let folder = &of.folder;
    let (state, claim) = session.write(|| open_new(of, store, options))?;
    let mut resync = Resync {
        files: DataFiles::new(folder.join("data")),
        old: of.state.database.begin_read().map_err(StateError::from)?,
        of: Arc::clone(of),
        session,
        store,
        options,
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
    Ok(Resynced { of: Arc::clone(of), state, counters, eras, lock: claim })
}

/// Opens the new state of an earlier try, or makes one that is the old state.
fn open_new(
    of: &Shared,
    store: StoreId,
    options: &Options,
) -> Result<(State, FolderLock), StoreError> {
    let folder = &of.folder;
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
    let (state, unfinished) = (folder.join("state.redb"), folder.join(switch::UNFINISHED));
    let len = fs::metadata(&state).map_err(file_error(&state))?.len();
    check_room(of, options, len)?;
    copy_file(&folder.join("state.sums"), &folder.join("resync.sums"))?;
    copy_file(&state, &unfinished)?;
    fs::rename(&unfinished, &path).map_err(file_error(&path))?;
    sync_folder(folder).map_err(file_error(folder))?;
    open()
}

/// What the secondary needs for itself is left on its disk: it is not worth more to be up to date than to be there.
fn check_room(of: &Shared, options: &Options, bytes: u64) -> Result<(), StoreError> {
    if of.room() < options.reserve_size.saturating_add(bytes) {
        return Err(StoreError::Append(std::io::ErrorKind::StorageFull.into()));
    }
    Ok(())
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
    session: &'a Session,
    store: StoreId,
    options: &'a Options,
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
        let eras = self.records(moment.next_record)?;
        Ok((self.end(&moment)?, eras))
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
                let (range, digest, count) = take_range(&self.read()?, table, begin, &mut |_| {})??;
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

    /// Fetches the records behind the moment, as far as the primary stands now. They are in a journal of their own until
    /// the replacement.
    fn records(&mut self, first: u64) -> Result<Vec<Era>, ResyncError<E>> {
        let folder = self.session.write(|| switch::empty_journal(&self.of.folder))?;
        let mut journal = Journal::new(folder, self.store.0, self.options.segment_size);
        let entropy = &*self.options.entropy;
        let begun = journal.forget_before(first, Keep::NONE, entropy).map_err(StoreError::Append);
        begun?;
        let (mut next, mut until) = (first, None);
        loop {
            let answer = self.asked(&Question::Records { next })?;
            let Records { end, batch } = Records::decode(answer)?;
            let batch = Batch::decode(&batch).map_err(|BadBatch| ResyncError::Invalid)?;
            if batch.store != self.store || batch.first != next {
                return Err(ResyncError::Invalid);
            }
            let until = *until.get_or_insert(end);
            let group = Group::new(next, batch.records);
            if !group.records.is_empty() {
                if group.records.iter().any(Record::has_data) {
                    check_room(&self.of, self.options, 0)?;
                }
                journal.append(next, &group.encoded, entropy).map_err(|error| match error {
                    AppendError::Segment(error) | AppendError::Write(error) => {
                        StoreError::Append(error)
                    }
                })?;
            }
            next = group.records.iter().fold(next, |next, _| next.saturating_add(1));
            if next >= until {
                return Ok(batch.eras);
            }
            if group.records.is_empty() {
                return Err(ResyncError::Invalid);
            }
        }
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
