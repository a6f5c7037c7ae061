//! The store: folders and threads around the journal, the state and the data files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Sender, bounded};
use strongroom_base::{Clock, Entropy, EntropyExt as _, lock, start_thread};

use crate::{
    change::{Change, Done},
    commit::{Committer, Message, recover},
    journal::{Journal, JournalDamage, sync_folder},
    map::ApplyError,
    refusal::Refusal,
    slots::DataFiles,
    state::{State, StateError},
    view::View,
};

/// Changes that may wait for the committer; further callers wait for their turn.
const QUEUE: usize = 1024;

/// How a store works.
#[derive(Clone)]
pub struct Options {
    /// A checkpoint follows when the journal has grown by this, in bytes. It bounds what is applied again after a
    /// crash.
    pub checkpoint_size: u64,
    /// A checkpoint follows when changes are older than this.
    pub checkpoint_interval: Duration,
    /// The length of a segment of the journal, in bytes.
    pub segment_size: u64,
    /// Room that is kept free on the disk, in bytes: with less, changes that carry data are refused. A checkpoint, a
    /// deletion and the next opening need some.
    pub reserve_size: u64,
    /// Memory for the state, in bytes.
    pub cache_size: u64,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

impl Options {
    /// Checkpoints after 256 MiB or a minute, segments of 64 MiB, a reserve of 128 MiB, a cache of 64 MiB.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            checkpoint_size: 256 << 20,
            checkpoint_interval: Duration::from_mins(1),
            segment_size: 64 << 20,
            reserve_size: 128 << 20,
            cache_size: 64 << 20,
            clock,
            entropy,
        }
    }
}

/// Why a store cannot be created or opened, or why it stopped.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is a store already.
    #[error("{path} has a store already")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process has the store open.
    #[error("the store at {path} is open in another process")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder cannot be used.
    #[error("{path} cannot be used")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal misses changes that were acknowledged.
    #[error(transparent)]
    Journal(#[from] JournalDamage),
    /// A record of the journal cannot be applied.
    #[error("the journal cannot be applied")]
    Apply(#[from] ApplyError),
    /// The journal cannot be written.
    #[error("the journal cannot be written")]
    Append(#[source] io::Error),
    /// The data files cannot be written or made durable.
    #[error("the data files cannot be written")]
    Data(#[source] io::Error),
}

/// Where a store stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// How many changes it has recorded in its life.
    pub records: u64,
    /// How many checkpoints it has made.
    pub checkpoints: u64,
    /// Bytes of the journal that would be applied again after a crash.
    pub journal_bytes: u64,
    /// Why it stopped: it reads, and changes nothing until it is opened again.
    pub failure: Option<Arc<StoreError>>,
}

/// What the committer and readers share.
pub(crate) struct Shared {
    pub(crate) state: State,
    pub(crate) files: Arc<DataFiles>,
    /// Held for writing while slots and the state are not in step.
    pub(crate) in_step: RwLock<()>,
    pub(crate) failure: Mutex<Option<Arc<StoreError>>>,
    pub(crate) records: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) journal_bytes: AtomicU64,
    /// Dropped last, when the state is closed.
    pub(crate) _lock: FolderLock,
}

/// That no other store is open in the folder.
pub(crate) struct FolderLock(fs::File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // A process that is being started has the file open for a moment as well, and with it the lock.
        let _unlocked = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

/// A store of blobs, open.
///
/// Dropping it waits for the changes that were submitted, and makes a checkpoint. It is in use until its views are
/// dropped as well.
pub struct Store {
    shared: Arc<Shared>,
    changes: Sender<Message>,
    committer: Option<JoinHandle<()>>,
}

impl Store {
    /// Makes an empty store in a folder that is empty or does not exist.
    pub fn create(folder: &Path, options: &Options) -> Result<(), StoreError> {
        let at = |path: &Path| file_error(path);
        fs::create_dir_all(folder).map_err(at(folder))?;
        if fs::read_dir(folder).map_err(at(folder))?.next().is_some() {
            return Err(StoreError::Exists { path: folder.to_owned() });
        }
        for name in ["journal", "data"] {
            let path = folder.join(name);
            fs::create_dir(&path).map_err(at(&path))?;
        }
        // A store without its state is no store: it is made last, under another name.
        let unfinished = folder.join("state.unfinished");
        let id = options.entropy.array();
        let mut journal = Journal::new(folder.join("journal"), id, options.segment_size);
        journal.forget_before(1, &*options.entropy).map_err(at(folder))?;
        let state = State::open(&unfinished, options.cache_size, true)?;
        state.initialise(id)?;
        drop(state);
        fs::rename(&unfinished, folder.join("state.redb")).map_err(at(&unfinished))?;
        sync_folder(folder).map_err(at(folder))?;
        folder
            .parent()
            .map_or(Ok(()), |parent| {
                if parent.as_os_str().is_empty() {
                    sync_folder(Path::new("."))
                } else {
                    sync_folder(parent)
                }
            })
            .map_err(at(folder))
    }

    /// Opens a store. What the last checkpoint does not have is applied from the journal.
    pub fn open(folder: &Path, options: Options) -> Result<Self, StoreError> {
        let lock_path = folder.join("state.redb");
        let lock_file = fs::File::open(&lock_path).map_err(file_error(&lock_path))?;
        match rustix::fs::flock(&lock_file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::InUse { path: folder.to_owned() });
            }
            Err(error) => return Err(file_error(&lock_path)(error.into())),
        }
        let state = State::open(&lock_path, options.cache_size, false)?;
        let (id, counters) = state.identity()?;
        let shared = Arc::new(Shared {
            state,
            files: Arc::new(DataFiles::new(folder.join("data"))),
            in_step: RwLock::new(()),
            failure: Mutex::default(),
            records: AtomicU64::default(),
            checkpoints: AtomicU64::default(),
            journal_bytes: AtomicU64::default(),
            _lock: FolderLock(lock_file),
        });
        let folder = folder.join("journal");
        let recovered = recover(&shared, &folder, id, counters);
        let counters = recovered.inspect_err(|_| shared.state.gate.shut())?;
        let journal = Journal::new(folder, id, options.segment_size);
        let (changes, waiting) = bounded(QUEUE);
        let mut committer =
            Committer::new(Arc::clone(&shared), journal, counters, options, waiting)?;
        // The end of the old journal may be torn: nothing is written behind it.
        let ready = committer.checkpoint().and_then(|()| committer.sweep_leftovers());
        ready.inspect_err(|_| shared.state.gate.shut())?;
        let committer = start_thread("blob-committer", move || committer.run());
        Ok(Self { shared, changes, committer: Some(committer) })
    }

    /// Asks for a change. `reply` is called by the committer's thread when the change is durable or refused; it must be
    /// short. The call waits while 1,024 changes wait.
    pub fn submit(
        &self,
        change: Change,
        reply: impl FnOnce(Result<Done, Refusal>) + Send + 'static,
    ) {
        let message = Message::Change(Box::new(change), Box::new(reply));
        if let Err(unsent) = self.changes.send(message)
            && let Message::Change(_, reply) = unsent.into_inner()
        {
            reply(Err(Refusal::Stopped));
        }
    }

    /// Asks for a change and waits until it is durable.
    pub fn apply(&self, change: Change) -> Result<Done, Refusal> {
        let (sender, receiver) = bounded(1);
        self.submit(change, move |result| {
            // The caller waits below, so that there is always a receiver.
            let _sent = sender.send(result);
        });
        receiver.recv().unwrap_or(Err(Refusal::Stopped))
    }

    /// The state at this moment, as one.
    pub fn view(&self) -> Result<View, StateError> {
        View::new(Arc::clone(&self.shared))
    }

    /// Makes a checkpoint, after the changes that were submitted before, and waits for it.
    pub fn checkpoint(&self) {
        let (sender, receiver) = bounded(1);
        if self.changes.send(Message::Checkpoint(sender)).is_ok() {
            // It ends without an answer if the store stops, which its status says.
            let _done = receiver.recv();
        }
    }

    /// Waits until no background work is left: merged epochs, deleted containers, room given back.
    pub fn settle(&self) {
        let (sender, receiver) = bounded(1);
        if self.changes.send(Message::Settle(sender)).is_ok() {
            let _done = receiver.recv();
        }
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        use std::sync::atomic::Ordering::SeqCst;
        Status {
            records: self.shared.records.load(SeqCst),
            checkpoints: self.shared.checkpoints.load(SeqCst),
            journal_bytes: self.shared.journal_bytes.load(SeqCst),
            failure: lock(&self.shared.failure).clone(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(committer) = self.committer.take()
            && self.changes.send(Message::Close).is_ok()
        {
            // A committer that panicked has made nothing durable that the journal does not have.
            let _ended = committer.join();
        }
    }
}

pub(crate) fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::File { path, source }
}
