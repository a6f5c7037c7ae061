//! The open store as operations use it: changes and reads that never block a task of the runtime, accounts that are
//! asked for with every request, and the memory that requests share.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use azure::Suffixes;
use blobs::{Account, Change, Done, ReadError, Refusal, Store, StoreError, View};
use jiff::Timestamp;
use strongroom_azure as azure;
use strongroom_base::{Clock, Entropy, EntropyExt as _, lock};
use strongroom_blobs as blobs;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    StorageError,
    bodies::{Budget, QUEUE},
    copies::Copies,
    replication::Replication,
};

/// Changes that are under way at once; the store's own queue is longer, so that it never blocks.
const CHANGES: usize = 768;
/// Reads that are under way at once; each has a thread.
const READS: usize = 32;
/// Bytes of bodies of requests in memory.
const BODIES: u64 = 64 << 20;
/// Bytes of small bodies, which do not wait behind large ones of slow clients.
const SMALL_BODIES: u64 = 8 << 20;
/// The largest small body.
const SMALL: u64 = 64 << 10;
/// Bytes of pieces of answers in memory.
const PIECES: u64 = 32 << 20;
/// How long an account is known without asking the store.
const KNOWN: Duration = Duration::from_secs(1);

/// How a secondary stands; asked when a client wants its statistics.
pub type SecondaryState = Arc<dyn Fn() -> azure::ServiceStats + Send + Sync>;

/// Folders with copies of a store, besides the one in the folder of the data. The store remembers its copies: they are
/// named when there is something new about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyFolders {
    /// Where copies are. A folder that is empty or does not exist becomes a new copy.
    pub copies: Vec<PathBuf>,
    /// Where copies were that are lost: the store is opened without them.
    pub without: Vec<PathBuf>,
}

/// How the store of the accounts works, where it is not as usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// How much of its journal a primary keeps for a secondary that is behind, in bytes; 4 GiB if not given. One that is
    /// farther behind is resynchronized.
    pub replica_journal: Option<u64>,
    /// How fast a copy on another disk is made again, in bytes in a second; 128 MiB if not given.
    pub rebuild_rate: Option<u64>,
}

impl Tuning {
    /// The least and the most of [`Tuning::replica_journal`]: less than a few segments of the journal would be nothing.
    pub const REPLICA_JOURNAL: std::ops::RangeInclusive<u64> = 256 << 20..=16 << 40;
    /// The least and the most of [`Tuning::rebuild_rate`].
    pub const REBUILD_RATE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;

    /// Says what is out of bounds.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.replica_journal.is_some_and(|bytes| !Self::REPLICA_JOURNAL.contains(&bytes)) {
            return Err("the journal for the secondary is 256 MiB to 16 TiB");
        }
        if self.rebuild_rate.is_some_and(|rate| !Self::REBUILD_RATE.contains(&rate)) {
            return Err("copies are made again at 1 MiB to 1 TiB in a second");
        }
        Ok(())
    }

    fn apply(self, options: blobs::Options) -> blobs::Options {
        blobs::Options {
            replica_size: self.replica_journal.unwrap_or(options.replica_size),
            rebuild_rate: self.rebuild_rate.unwrap_or(options.rebuild_rate),
            ..options
        }
    }
}

/// How storage accounts are served.
#[derive(Clone)]
pub struct Options {
    /// The names of domains below which `ACCOUNT.blob.NAME` is an account.
    pub suffixes: Vec<String>,
    /// Where copies of the store are.
    pub folders: CopyFolders,
    /// How the store works.
    pub tuning: Tuning,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// How a secondary stands that is kept in step by other means than a pair of servers: then `ACCOUNT-secondary` is
    /// answered whatever part this server plays.
    pub secondary: Option<SecondaryState>,
}

impl Options {
    /// Accounts below `localhost`, and no secondary.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let suffixes = vec!["localhost".to_owned()];
        Self {
            suffixes,
            folders: CopyFolders::default(),
            tuning: Tuning::default(),
            clock,
            entropy,
            secondary: None,
        }
    }
}

/// Why the store did not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// By its rules.
    Refused(Refusal),
    /// Too many others ask.
    Busy,
    /// It has failed; the log says why.
    Broken,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Refused(refusal) => Self::Refused(refusal),
            ReadError::State(_) | ReadError::File(_) => {
                tracing::error!(error = %Chain(&error), "the store of blobs cannot be read");
                Self::Broken
            }
        }
    }
}

/// An error with its causes, for the log.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Storage accounts, open.
pub struct Storage {
    pub(crate) store: Arc<Store>,
    pub(crate) suffixes: Suffixes,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    secondary: Option<SecondaryState>,
    bodies: Budget,
    small_bodies: Budget,
    pub(crate) pieces: Budget,
    pub(crate) copies: Copies,
    pub(crate) replication: Arc<Replication>,
    folder: PathBuf,
    accounts: Mutex<HashMap<String, (Duration, Arc<Account>)>>,
    changes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// The store's folder in the folder of the data.
pub(crate) fn store_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("blobs")
}

/// Opens the store in a folder of data. It is created with its copies if there is none and `create` says so.
pub(crate) fn open_store(
    data_dir: &Path,
    create: bool,
    folders: &CopyFolders,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Store, StorageError> {
    open_tuned(data_dir, create, folders, Tuning::default(), clock, entropy)
}

fn open_tuned(
    data_dir: &Path,
    create: bool,
    folders: &CopyFolders,
    tuning: Tuning,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Store, StorageError> {
    let folder = store_folder(data_dir);
    let options = blobs::Options {
        copies: folders.copies.clone(),
        without: folders.without.clone(),
        ..tuning.apply(blobs::Options::new(Arc::clone(clock), Arc::clone(entropy)))
    };
    // The folder of the data may be the copy that is lost.
    let has_store = |folder: &Path| folder.join("state.redb").exists();
    if !has_store(&folder) && !folders.copies.iter().any(|copy| has_store(copy)) {
        if !create {
            return Err(StorageError::NoStore { path: data_dir.to_owned() });
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
        made.map_err(StorageError::local("create", data_dir))?;
        Store::create(&folder, &options)?;
    }
    Ok(Store::open(&folder, options)?)
}

impl Storage {
    /// Opens the storage accounts in a folder, which is created if it does not exist.
    pub fn open(data_dir: &Path, options: Options) -> Result<Arc<Self>, StorageError> {
        let Options { folders, tuning, clock, entropy, .. } = &options;
        let store = open_tuned(data_dir, true, folders, *tuning, clock, entropy)?;
        Self::new(Arc::new(store), data_dir, options)
    }

    /// Serves a store that is open; `data_dir` has what belongs to the service and not to the store.
    pub fn new(
        store: Arc<Store>,
        data_dir: &Path,
        options: Options,
    ) -> Result<Arc<Self>, StorageError> {
        let Options { suffixes, clock, entropy, secondary, .. } = options;
        let (own_clock, own_entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
        let replication = Replication::open(Arc::clone(&store), data_dir, own_clock, own_entropy)?;
        Ok(Arc::new(Self {
            store,
            suffixes: Suffixes::new(suffixes.iter().map(String::as_str)),
            clock,
            entropy,
            secondary,
            bodies: Budget::new(BODIES),
            small_bodies: Budget::new(SMALL_BODIES),
            pieces: Budget::new(PIECES),
            copies: Copies::new(data_dir.join("copies"))?,
            replication: Arc::new(replication),
            folder: data_dir.to_owned(),
            accounts: Mutex::default(),
            changes: Arc::new(Semaphore::new(CHANGES)),
            reads: Arc::new(Semaphore::new(READS)),
        }))
    }

    /// The store.
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The folder with the data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How the secondary stands that this server is; none if it is something else.
    pub(crate) fn secondary_stats(&self) -> Option<azure::ServiceStats> {
        self.secondary.as_ref().map(|state| state()).or_else(|| self.replication.stats())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A random id in the form of a GUID.
    pub(crate) fn new_id(&self) -> String {
        let bytes: [u8; 16] = self.entropy.array();
        azure::LeaseId::from_bytes(bytes).to_string()
    }

    /// Memory for the body of a request.
    pub(crate) async fn body_memory(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Failure> {
        let budget = if bytes <= SMALL { &self.small_bodies } else { &self.bodies };
        budget.take(bytes).await.ok_or(Failure::Busy)
    }

    /// Asks for a change and waits until it is durable.
    pub(crate) async fn change(&self, change: Change) -> Result<Done, Failure> {
        let receiver = self.submit(change, ()).await?;
        receiver.await.unwrap_or(Err(Refusal::Stopped)).map_err(Failure::Refused)
    }

    /// Asks for a change; changes happen in the order of these calls. `held` is dropped when the change is durable or
    /// refused.
    pub(crate) async fn submit(
        &self,
        change: Change,
        held: impl Send + 'static,
    ) -> Result<oneshot::Receiver<Result<Done, Refusal>>, Failure> {
        let turn = tokio::time::timeout(QUEUE, Arc::clone(&self.changes).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Failure::Busy) };
        let (sender, receiver) = oneshot::channel();
        self.store.submit(change, move |result| {
            drop((turn, held));
            // Without a receiver the client is gone, and the change stays.
            sender.send(result).ok();
        });
        Ok(receiver)
    }

    /// Reads from the store, on a thread that may wait for the disk.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = tokio::time::timeout(QUEUE, Arc::clone(&self.reads).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Failure::Busy) };
        let store = Arc::clone(&self.store);
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let view = store.view().map_err(ReadError::State)?;
            read(&view)
        });
        match reading.await {
            Ok(read) => Ok(read?),
            Err(error) => {
                tracing::error!(%error, "a read of the store ended early");
                Err(Failure::Broken)
            }
        }
    }

    /// An account, as it was a second ago at the earliest.
    pub(crate) async fn account(&self, name: &str) -> Result<Arc<Account>, Failure> {
        let now = self.clock.monotonic();
        // At a secondary accounts change without a command here.
        if self.replication.role() != blobs::Role::Secondary
            && let Some((known, account)) = lock(&self.accounts).get(name)
            && now.saturating_sub(*known) < KNOWN
        {
            return Ok(Arc::clone(account));
        }
        let wanted = name.to_owned();
        let found = self.look(move |view| view.account(&wanted)).await;
        let mut accounts = lock(&self.accounts);
        match found {
            Ok(account) => {
                let account = Arc::new(account);
                accounts.insert(name.to_owned(), (now, Arc::clone(&account)));
                Ok(account)
            }
            Err(failure) => {
                accounts.remove(name);
                Err(failure)
            }
        }
    }

    /// Forgets what is known of an account that has changed.
    pub(crate) fn forget_account(&self, name: &str) {
        lock(&self.accounts).remove(name);
    }
}

impl From<StoreError> for StorageError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::InUse { path } => Self::InUse { path },
            error => Self::Store(error),
        }
    }
}
