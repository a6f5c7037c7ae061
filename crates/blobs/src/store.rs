//! The store: folders and threads around the journal, the state and the data files.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use strongroom_base::{Clock, Entropy, EntropyExt as _, lock, start_thread};

use crate::{
    change::{Change, Done},
    commit::{Committer, CopyOrder, Message},
    copies::{
        hub::{Findings, Hub, StoreCopy},
        members::{CopyId, Member, Members, absolute},
        open,
    },
    engine::Shared,
    journal::{Journal, JournalDamage, Keep, sync_folder},
    map::ApplyError,
    refusal::Refusal,
    replication::{Role, Standing, StoreId},
    state::{State, StateError},
    usage::{Counted, Usage},
    view::{ReadError, View},
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
    /// Memory for the state of each copy, in bytes.
    pub cache_size: u64,
    /// Folders with further copies, besides those that the store knows. One that is empty becomes a copy, which is made
    /// in the background. Put them on disks that do not fail together.
    pub copies: Vec<PathBuf>,
    /// Folders of copies that may be missing: then the store is opened without them, and they lack changes from now on.
    /// Name a copy only if it did not continue without the others.
    pub without: Vec<PathBuf>,
    /// How long a change waits for a copy before the copy is left out.
    pub patience: Duration,
    /// How long after one another a copy that was left out is looked for.
    pub retry_interval: Duration,
    /// How long after one another all blocks of all copies are compared with their checksums.
    pub scrub_interval: Duration,
    /// How fast, in bytes in a second.
    pub scrub_rate: u64,
    /// How fast a copy is made again, in bytes in a second, so that clients keep most of the disks' speed.
    pub rebuild_rate: u64,
    /// How much of the journal is kept for a secondary that is behind, in bytes. One that is farther behind is
    /// resynchronized.
    pub replica_size: u64,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

impl Options {
    /// Checkpoints after 256 MiB or a minute, segments of 64 MiB, a reserve of 128 MiB, a cache of 64 MiB; copies are
    /// waited for a minute, looked for each minute, compared each day at 32 MiB in a second, and made again at 128 MiB in a
    /// second; 4 GiB of the journal are kept for a secondary.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            checkpoint_size: 256 << 20,
            checkpoint_interval: Duration::from_mins(1),
            segment_size: 64 << 20,
            reserve_size: 128 << 20,
            cache_size: 64 << 20,
            copies: Vec::new(),
            without: Vec::new(),
            patience: Duration::from_mins(1),
            retry_interval: Duration::from_mins(1),
            scrub_interval: Duration::from_hours(24),
            scrub_rate: 32 << 20,
            rebuild_rate: 128 << 20,
            replica_size: 4 << 30,
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
    /// A copy is not there, and may have changes that no other copy has.
    #[error("the copy at {path} is missing, and no other copy has noted that it lacks changes")]
    CopyMissing {
        /// Where it was last.
        path: PathBuf,
    },
    /// All copies that were found lack changes.
    #[error("the copy at {path} lacks changes, and no copy that has them was found")]
    CopyStale {
        /// The folder.
        path: PathBuf,
    },
    /// A folder has a copy of another store.
    #[error("{path} has a copy of another store")]
    OtherStore {
        /// The folder.
        path: PathBuf,
    },
    /// Copies went on without each other: which of them is right, only the owner can say.
    #[error("the copy at {path} and another one have gone on without each other")]
    Split {
        /// One of them.
        path: PathBuf,
    },
    /// The same copy is in two folders.
    #[error("{path} has the same copy as another folder")]
    SameCopy {
        /// One of them.
        path: PathBuf,
    },
    /// The store has no copy there.
    #[error("the store has no copy at {path}")]
    NoCopy {
        /// The folder.
        path: PathBuf,
    },
    /// No other copy has every change.
    #[error("the copy at {path} is the only one that has every change")]
    LastCopy {
        /// The folder.
        path: PathBuf,
    },
    /// The server plays another part than it should for what was asked.
    #[error("this server is {role}")]
    WrongRole {
        /// Its part.
        role: Role,
    },
    /// A copy did not say in time that a change is durable.
    #[error("the copy does not answer")]
    Slow,
    /// Work on a copy ended before it was done.
    #[error("the work on the copy ended early")]
    Ended,
    /// The last copy failed.
    #[error(transparent)]
    Copy(Arc<StoreError>),
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
    /// Its copies.
    pub copies: Vec<StoreCopy>,
    /// What was found when blocks were compared with their checksums.
    pub findings: Findings,
}

/// A store of blobs, open.
///
/// Dropping it waits for the changes that were submitted, and makes a checkpoint. It is in use until its views are
/// dropped as well.
pub struct Store {
    pub(crate) hub: Arc<Hub>,
    pub(crate) changes: Sender<Message>,
    pub(crate) options: Options,
    pub(crate) id: StoreId,
    counted: Counted,
    committer: Option<JoinHandle<()>>,
    /// Compares blocks while it has its other end.
    scrubber: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Store {
    /// Makes an empty store in a folder that is empty or does not exist, and its copies in the folders that the
    /// options name.
    pub fn create(folder: &Path, options: &Options) -> Result<(), StoreError> {
        create(folder, options, options.entropy.array(), None)
    }

    /// Opens a store: the copy in a folder, and all that are known or named by the options. What the last checkpoint
    /// does not have is applied from the journal.
    ///
    /// A copy that is missing is passed over only if another one has noted that it lacks changes, or if the options
    /// say so. One that is damaged is left out, and made again in the background.
    pub fn open(folder: &Path, options: Options) -> Result<Self, StoreError> {
        let opened = open::open(folder, &options)?;
        let hub = Arc::new(Hub::default());
        let (changes, waiting) = bounded(QUEUE);
        let (interval, rate) = (options.scrub_interval, options.scrub_rate);
        let id = StoreId(opened.lead.store);
        let queue = (changes.clone(), waiting);
        let mut committer = Committer::new(Arc::clone(&hub), opened, options.clone(), queue)?;
        let committer = start_thread("blob-committer", move || committer.run());
        let (stopper, stop) = bounded(0);
        let shared = Arc::clone(&hub);
        let scrubber = start_thread("blob-scrubber", move || {
            while stop.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                shared.scrub(rate, &stop);
            }
        });
        let scrubber = Some((stopper, scrubber));
        let counted = Counted::default();
        Ok(Self { hub, changes, options, id, counted, committer: Some(committer), scrubber })
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
        View::new(&self.hub)
    }

    /// Makes a checkpoint in each copy, after the changes that were submitted before, and waits for them.
    pub fn checkpoint(&self) {
        let (sender, receiver) = bounded(0);
        if self.changes.send(Message::Checkpoint(sender)).is_ok() {
            // Each copy drops its sender.
            let _done = receiver.recv();
        }
    }

    /// Makes a copy in a folder that is empty or does not exist, or looks at once after one that was left out. It
    /// returns when the work has begun; the status says how far it is.
    pub fn add_copy(&self, folder: &Path) -> Result<(), StoreError> {
        self.order(CopyOrder::Add(folder.to_owned()))
    }

    /// Gives a copy up. Its folder is left as it is, and never taken for a copy again.
    pub fn remove_copy(&self, folder: &Path) -> Result<(), StoreError> {
        self.order(CopyOrder::Remove(folder.to_owned()))
    }

    fn order(&self, order: CopyOrder) -> Result<(), StoreError> {
        let (sender, receiver) = bounded(1);
        drop(self.changes.send(Message::Copy(order, sender)));
        receiver.recv().unwrap_or(Err(StoreError::Ended))
    }

    /// Compares all blocks of all copies with their checksums, repairs what is wrong from another copy, and says what
    /// was found since the store was opened.
    pub fn scrub(&self) -> Findings {
        let (_running, stop) = bounded(0);
        self.hub.scrub(u64::MAX, &stop);
        self.hub.findings()
    }

    /// Waits until no background work is left: merged epochs, deleted containers, room given back.
    pub fn settle(&self) {
        let (sender, receiver) = bounded(0);
        if self.changes.send(Message::Settle(sender)).is_ok() {
            let _done = receiver.recv();
        }
    }

    /// How much is in the store. Of a large store this may be a while old, so that counting takes little of the time.
    pub fn usage(&self) -> Result<Usage, ReadError> {
        self.counted.usage(&self.hub, &*self.options.clock)
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        use std::sync::atomic::Ordering::SeqCst;
        let leading = self.hub.leading();
        let number = |read: fn(&Shared) -> &AtomicU64| {
            leading.as_ref().map_or(0, |copy| read(copy).load(SeqCst))
        };
        Status {
            records: number(|copy| &copy.next_record).saturating_sub(1),
            checkpoints: number(|copy| &copy.checkpoints),
            journal_bytes: number(|copy| &copy.journal_bytes),
            failure: lock(&self.hub.failure).clone(),
            copies: self.hub.board(),
            findings: self.hub.findings(),
        }
    }
}

/// Makes an empty store with an id, which has a part if there is another server.
pub(crate) fn create(
    folder: &Path,
    options: &Options,
    store: [u8; 16],
    standing: Option<Standing>,
) -> Result<(), StoreError> {
    let mut members: Option<Members> = None;
    let folders: Vec<&Path> =
        std::iter::once(folder).chain(options.copies.iter().map(PathBuf::as_path)).collect();
    let mut claims = Vec::new();
    for folder in &folders {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(file_error(folder))?;
        claims.push(claim(folder)?);
        remove_unfinished(folder).map_err(file_error(folder))?;
        if fs::read_dir(folder).map_err(file_error(folder))?.next().is_some() {
            return Err(StoreError::Exists { path: (*folder).to_owned() });
        }
        let id = CopyId::new(&*options.entropy);
        match &mut members {
            None => members = Some(Members::new(store, id, folder)),
            Some(members) if members.at(folder).is_some() => {
                return Err(StoreError::SameCopy { path: (*folder).to_owned() });
            }
            Some(members) => {
                members.copies.push(Member { id, path: absolute(folder), left_out: None });
            }
        }
    }
    let Some(mut members) = members else { return Ok(()) };
    if let Some(standing) = standing {
        members.set_standing(standing);
    }
    // The first folder is made last: without its state it is no store.
    for (folder, member) in folders.iter().zip(&members.copies).rev() {
        create_copy(folder, store, options)?;
        members.write(folder, member.id).map_err(file_error(folder))?;
        finish_copy(folder)?;
    }
    Ok(())
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some((stopper, scrubber)) = self.scrubber.take() {
            drop(stopper);
            drop(scrubber.join());
        }
        if let Some(committer) = self.committer.take()
            && self.changes.send(Message::Close).is_ok()
        {
            // A committer that panicked has made nothing durable that the journal does not have.
            let _ended = committer.join();
        }
    }
}

/// Nobody else makes a store in this folder while the claim is held.
fn claim(folder: &Path) -> Result<fs::File, StoreError> {
    use rustix::fs::{FlockOperation, flock};
    let claim = fs::File::open(folder).map_err(file_error(folder))?;
    match flock(&claim, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(claim),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse { path: folder.to_owned() }),
        Err(error) => Err(file_error(folder)(error.into())),
    }
}

/// Removes what a process has left that was killed while it made a store: no state has its name yet, and no data is there.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    let known = |name: &std::ffi::OsStr| {
        let names = [
            "journal",
            "data",
            "state.unfinished",
            "state.sums",
            "copies.json",
            "copies.unfinished",
        ];
        names.iter().any(|known| name == *known)
    };
    let names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    let data = folder.join("data");
    let has_data = data.exists() && fs::read_dir(&data)?.next().is_some();
    if has_data || !names.iter().all(|name| known(name)) {
        return Ok(());
    }
    for name in names {
        let path = folder.join(name);
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}

/// Makes an empty copy, whose state has another name yet.
fn create_copy(folder: &Path, store: [u8; 16], options: &Options) -> Result<(), StoreError> {
    for name in ["journal", "data"] {
        let path = folder.join(name);
        fs::create_dir(&path).map_err(file_error(&path))?;
    }
    let mut journal = Journal::new(folder.join("journal"), store, options.segment_size);
    let begun = journal.forget_before(1, Keep::NONE, &*options.entropy);
    begun.map_err(file_error(folder))?;
    let state = State::open(&folder.join("state.unfinished"), options.cache_size, true)?;
    Ok(state.initialise(store)?)
}

/// A copy without its state is none: it gets its name last.
fn finish_copy(folder: &Path) -> Result<(), StoreError> {
    let unfinished = folder.join("state.unfinished");
    let named = fs::rename(&unfinished, folder.join("state.redb"));
    named.map_err(file_error(&unfinished))?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(folder)
        .and_then(|()| sync_folder(parent.unwrap_or(Path::new("."))))
        .map_err(file_error(folder))
}

pub(crate) fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::File { path, source }
}
