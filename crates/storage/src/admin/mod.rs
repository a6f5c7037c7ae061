//! Administering accounts: commands and replies as data, carried out on an open store.
//!
//! [`run`] does so wherever the store is: it opens the store if nobody has it, or asks the process that has it, over a
//! socket in the folder of the data that only the owner of the process may use. Keys are in the replies of
//! [`Command::Create`], [`Command::Keys`] and [`Command::RegenerateKey`] and nowhere else.

mod export;
mod socket;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use azure::{AccountName, ConnectionString, Endpoint, Secret};
use blobs::{
    Access, AccountChange, AccountKey, Change, KeyNumber, NewAccount, ReadError, Refusal,
    SnapshotOf, Store, StoreCopyState, StoreError,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_azure as azure;
use strongroom_base::{Clock, Entropy, EntropyExt as _};
use strongroom_blobs as blobs;

pub use export::{OpenExport, export};
pub use socket::Socket;
pub use strongroom_blobs::{AccountKind, Redundancy, Role};

use crate::{
    CopyFolders, FailoverShown, InvitationShown, ReplicationShown, Storage, StorageError, map,
    replication::{self, Replication},
    storage::open_store,
};

/// How often a store is asked for that another process has just taken or given back.
const TRIES: u32 = 50;
/// How long after one another.
const PAUSE: Duration = Duration::from_millis(100);

/// One of an account's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhichKey {
    /// `key1`.
    Key1,
    /// `key2`.
    Key2,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Create an account with two new keys.
    Create {
        /// Its name.
        name: String,
        /// What it is made for.
        kind: AccountKind,
        /// Where its data is kept; without it at this server, or at both of a pair.
        redundancy: Option<Redundancy>,
        /// Whether the limits of its kind are enforced.
        rules: bool,
        /// The URL of the server, for the connection string: `http://HOST:PORT`, or with `{account}` in its host.
        endpoint: String,
    },
    /// List the accounts.
    List,
    /// Show an account.
    Show {
        /// Its name.
        name: String,
    },
    /// Show the keys of an account.
    Keys {
        /// Its name.
        name: String,
        /// The URL of the server, as in [`Command::Create`].
        endpoint: String,
    },
    /// Replace a key of an account.
    RegenerateKey {
        /// Its name.
        name: String,
        /// Which key.
        key: WhichKey,
        /// The URL of the server, as in [`Command::Create`].
        endpoint: String,
    },
    /// Delete an account with everything in it.
    Delete {
        /// Its name.
        name: String,
    },
    /// Take a snapshot of each of these blobs at the same moment, of all or of none.
    Snapshot {
        /// Each blob, `ACCOUNT/CONTAINER/BLOB`, and the metadata of its snapshot.
        blobs: Vec<(String, BTreeMap<String, String>)>,
    },
    /// Say how the store stands.
    Status,
    /// Make a copy of the store in a folder, or look at once for one that lacks changes. While the store is served the
    /// work continues in the background; otherwise the command waits for it.
    CopyAdd {
        /// The folder: absolute, and empty or not there.
        path: PathBuf,
    },
    /// Give a copy of the store up; its folder stays as it is.
    CopyRemove {
        /// The folder, as the list shows it.
        path: PathBuf,
    },
    /// List the copies of the store.
    CopyList,
    /// Change where the data of an account is kept.
    SetRedundancy {
        /// Its name.
        name: String,
        /// Where its data is kept from now on.
        redundancy: Redundancy,
    },
    /// Give an invitation out, by which another server becomes the secondary.
    ReplicationInvite {
        /// Where the other server reaches this one.
        url: String,
    },
    /// Say how geo-redundancy stands.
    ReplicationShow,
    /// Note that a server is reached elsewhere now.
    ReplicationUpdate {
        /// Where the other server reaches this one.
        url: Option<String>,
        /// Where this server reaches the other one.
        peer_url: Option<String>,
    },
    /// Say that this server, which waits, is the primary.
    ReplicationConfirm,
    /// Let this server, which is fenced, become the secondary of the new primary.
    ReplicationRejoin {
        /// Give up what it has and the primary lacks.
        discard: bool,
    },
    /// End the pair at this server.
    ReplicationRemove,
    /// Compare this server, which is the secondary, with the primary by strong digests, in the background.
    ReplicationVerify {
        /// How many bytes are read in a second.
        rate: u64,
    },
    /// Make this server, which is the secondary, the primary.
    Failover {
        /// Also if the primary cannot be asked.
        accept_loss: bool,
    },
}

/// An account, without its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountShown {
    /// Its name.
    pub name: String,
    /// What it is made for.
    pub kind: AccountKind,
    /// Where its data is kept.
    pub redundancy: Redundancy,
    /// Whether the limits of its kind are enforced.
    pub rules: bool,
    /// When it was created.
    pub created: Timestamp,
}

/// A key of an account. It is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyShown {
    /// Which one.
    pub name: WhichKey,
    /// The key in base64.
    pub value: String,
    /// What clients need to reach the account with this key.
    pub connection_string: String,
}

impl std::fmt::Debug for KeyShown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyShown").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An account with its keys. The connection string is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountWithKeys {
    /// The account.
    #[serde(flatten)]
    pub account: AccountShown,
    /// Both keys.
    pub keys: Vec<KeyShown>,
    /// What clients need to reach the account: that of the first key.
    pub connection_string: String,
}

impl std::fmt::Debug for AccountWithKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { account, keys, connection_string: _ } = self;
        let mut shown = f.debug_struct("AccountWithKeys");
        shown.field("account", account).field("keys", keys).finish_non_exhaustive()
    }
}

/// How the store stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusShown {
    /// How many accounts there are.
    pub accounts: u64,
    /// How many containers.
    pub containers: u64,
    /// How many blobs, without their snapshots.
    pub blobs: u64,
    /// Bytes that the leading copy takes on its disk.
    pub used_bytes: u64,
    /// Bytes that are free on that disk.
    pub free_bytes: u64,
    /// Changes in the life of the store.
    pub records: u64,
    /// Checkpoints since it was opened.
    pub checkpoints: u64,
    /// Bytes of the journal that would be applied again after a crash.
    pub journal_bytes: u64,
    /// Why the store takes no changes.
    pub failure: Option<String>,
    /// Its copies.
    pub copies: Vec<CopyShown>,
    /// Pieces of 4 KiB that were damaged in a copy, and were repaired from another one, since the store was opened.
    pub repaired: u64,
    /// Pieces of 4 KiB that the last comparison found damaged in a copy, and could not repair.
    pub damaged: u64,
}

/// A copy of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyShown {
    /// Its folder.
    pub path: PathBuf,
    /// How it stands.
    #[serde(flatten)]
    pub state: CopyStateShown,
}

/// How a copy stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CopyStateShown {
    /// It has every change, and is read.
    Leading,
    /// It has every change.
    Healthy,
    /// It is being made from another one.
    Rebuilding {
        /// Bytes that are there.
        done_bytes: u64,
        /// Bytes that there will be; 0 until that is known.
        total_bytes: u64,
    },
    /// It lacks changes, and is made again when it can be.
    LeftOut {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// It lacks changes, and is not found.
    Missing {
        /// Since when it lacks changes.
        since: Timestamp,
        /// Why.
        reason: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// An account was created, a key replaced, or keys were asked for.
    Keys(AccountWithKeys),
    /// The accounts by name.
    Accounts {
        /// The accounts.
        accounts: Vec<AccountShown>,
    },
    /// An account.
    Account(AccountShown),
    /// An account was deleted.
    Deleted,
    /// Snapshots were taken, all of the same moment.
    Snapshot {
        /// The time that names each of them.
        snapshot: String,
    },
    /// How the store stands.
    Status(Box<StatusShown>),
    /// The copies of the store.
    Copies {
        /// The copies, in the order in which they were added.
        copies: Vec<CopyShown>,
    },
    /// An invitation.
    Invitation(InvitationShown),
    /// How geo-redundancy stands.
    Replication(Box<ReplicationShown>),
    /// This server has become the primary.
    FailedOver(FailoverShown),
    /// The command is refused.
    Refused {
        /// What kind of refusal it is.
        kind: RefusedKind,
        /// Why.
        message: String,
    },
}

/// What kind of refusal a command gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedKind {
    /// The account does not exist.
    NotFound,
    /// The account exists.
    Exists,
    /// The blob or the snapshot does not exist.
    BlobNotFound,
    /// Somebody else has a lease on the blob.
    Leased,
    /// A premium account has no room for the snapshot, or it comes too soon.
    SnapshotLimit,
    /// What is asked of an export is not valid.
    InvalidExport,
    /// Writes that nobody has flushed could not be stored.
    Lost,
    /// A name or a URL is not valid.
    Invalid,
    /// The store failed.
    Failed,
    /// A folder cannot become a copy, or is none.
    InvalidCopy,
    /// This server is not the primary.
    NotPrimary,
    /// What is asked of a pair of servers is not valid.
    InvalidReplication,
    /// The other server cannot be asked.
    PeerUnavailable,
    /// A failover would lose changes.
    Loses,
    /// This server may have changes that the primary lacks.
    Diverged,
    /// This server differs from the primary.
    Differs,
}

impl Reply {
    pub(crate) fn refused(kind: RefusedKind, message: impl Into<String>) -> Self {
        Self::Refused { kind, message: message.into() }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::AccountNotFound => RefusedKind::NotFound,
            Refusal::AccountExists => RefusedKind::Exists,
            Refusal::BlobNotFound
            | Refusal::ContainerNotFound
            | Refusal::PreviousSnapshotNotFound => RefusedKind::BlobNotFound,
            Refusal::SnapshotCountExceeded | Refusal::SnapshotRateExceeded => {
                RefusedKind::SnapshotLimit
            }
            Refusal::LeaseAlreadyPresent | Refusal::LeaseIsBreakingAndCannotBeAcquired => {
                RefusedKind::Leased
            }
            Refusal::LeaseNotPresentWithLease
            | Refusal::LeaseIdMismatchWithLease
            | Refusal::BlobOverwritten
            | Refusal::InvalidBlobType
            | Refusal::PreviousSnapshotCannotBeNewer => RefusedKind::InvalidExport,
            Refusal::InvalidName | Refusal::InvalidSnapshotSet => RefusedKind::Invalid,
            Refusal::NotPrimary { .. } => RefusedKind::NotPrimary,
            _ => RefusedKind::Failed,
        };
        Self::refused(kind, refusal.to_string())
    }
}

impl From<StoreError> for Reply {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Exists { .. }
            | StoreError::OtherStore { .. }
            | StoreError::SameCopy { .. }
            | StoreError::NoCopy { .. }
            | StoreError::LastCopy { .. }
            | StoreError::File { .. } => RefusedKind::InvalidCopy,
            StoreError::WrongRole { .. } => RefusedKind::InvalidReplication,
            _ => RefusedKind::Failed,
        };
        let text = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        Self::refused(kind, text)
    }
}

impl From<ReadError> for Reply {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Refused(refusal) => refusal.into(),
            error => Self::refused(RefusedKind::Failed, error.to_string()),
        }
    }
}

/// Carries a command out on the store in a folder of data, or has it carried out by the process that serves it. Only
/// [`Command::Create`] makes a store.
pub fn run(
    data_dir: &Path,
    command: &Command,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Reply, StorageError> {
    let create = matches!(command, Command::Create { .. });
    let mut tries = 0;
    loop {
        // A process that serves knows more than the folder: a copy that has just gone, for one.
        if let Some(reply) = socket::ask(data_dir, command)? {
            return refused(reply);
        }
        match open_store(data_dir, create, &CopyFolders::default(), clock, entropy) {
            Ok(store) => {
                let store = Arc::new(store);
                return refused(execute_alone(&store, data_dir, command, clock, entropy)?);
            }
            // The other process may be at its start or its end: soon there is a socket, or no lock.
            Err(StorageError::InUse { .. }) if tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
        clock.sleep(PAUSE);
    }
}

fn refused(reply: Reply) -> Result<Reply, StorageError> {
    match reply {
        Reply::Refused { kind, message } => Err(StorageError::Refused { kind, message }),
        reply => Ok(reply),
    }
}

/// Carries a command out on an open store, except what is about the pair of servers.
pub fn execute(store: &Store, command: &Command, entropy: &dyn Entropy) -> Reply {
    execute_near(store, command, None, entropy)
}

/// Carries a command out on an open store whose other server is reached at a URL.
fn execute_near(
    store: &Store,
    command: &Command,
    peer: Option<&str>,
    entropy: &dyn Entropy,
) -> Reply {
    match carry_out(store, command, peer, entropy) {
        Ok(reply) | Err(reply) => reply,
    }
}

fn carry_out(
    store: &Store,
    command: &Command,
    peer: Option<&str>,
    entropy: &dyn Entropy,
) -> Result<Reply, Reply> {
    let view = || store.view().map_err(|error| Reply::from(ReadError::State(error)));
    let change = |name: &str, change: AccountChange| {
        let change = Change::Account { name: name.to_owned(), change };
        store.apply(change).map(|_| ()).map_err(Reply::from)
    };
    match command {
        Command::Create { name, kind, redundancy, rules, endpoint } => {
            check_names(name, endpoint)?;
            let keys = [new_key(entropy), new_key(entropy)];
            let redundancy = replication::redundancy_of_new(store, *redundancy)?;
            let (kind, rules) = (*kind, *rules);
            let new = NewAccount { kind, redundancy, keys, rules };
            change(name, AccountChange::Create(new))?;
            keys_of(store, name, endpoint, peer)
        }
        Command::List => {
            let accounts = view()?.accounts()?;
            let accounts = accounts.iter().map(|(name, account)| shown(name, account)).collect();
            Ok(Reply::Accounts { accounts })
        }
        Command::Show { name } => Ok(Reply::Account(shown(name, &view()?.account(name)?))),
        Command::Keys { name, endpoint } => {
            check_names(name, endpoint)?;
            keys_of(store, name, endpoint, peer)
        }
        Command::RegenerateKey { name, key, endpoint } => {
            check_names(name, endpoint)?;
            let number = match key {
                WhichKey::Key1 => KeyNumber::First,
                WhichKey::Key2 => KeyNumber::Second,
            };
            change(name, AccountChange::SetKey(number, new_key(entropy)))?;
            keys_of(store, name, endpoint, peer)
        }
        Command::Delete { name } => {
            change(name, AccountChange::Delete)?;
            Ok(Reply::Deleted)
        }
        Command::Snapshot { blobs } => {
            let mut set = Vec::new();
            for (blob, metadata) in blobs {
                let blob = blob_name(blob)?;
                let metadata = Some(metadata.clone());
                set.push(SnapshotOf { blob, access: Access::default(), metadata });
            }
            let done = store.apply(Change::Snapshot(set)).map_err(Reply::from)?;
            let id = done.snapshot.and_then(map::snapshot_shown);
            let id = id.ok_or_else(|| Reply::refused(RefusedKind::Failed, "no snapshot"))?;
            Ok(Reply::Snapshot { snapshot: id.to_string() })
        }
        Command::Status => status_of(store),
        Command::CopyAdd { path } | Command::CopyRemove { path } if !path.is_absolute() => {
            Err(Reply::refused(RefusedKind::InvalidCopy, "the path of a copy is not absolute"))
        }
        Command::CopyAdd { path } => {
            store.add_copy(path)?;
            Ok(copies_of(store))
        }
        Command::CopyRemove { path } => {
            store.remove_copy(path)?;
            Ok(copies_of(store))
        }
        Command::CopyList => Ok(copies_of(store)),
        Command::SetRedundancy { name, redundancy } => {
            replication::change_redundancy(store, name, *redundancy)?;
            Ok(Reply::Account(shown(name, &view()?.account(name)?)))
        }
        Command::ReplicationInvite { .. }
        | Command::ReplicationShow
        | Command::ReplicationUpdate { .. }
        | Command::ReplicationConfirm
        | Command::ReplicationRejoin { .. }
        | Command::ReplicationRemove
        | Command::ReplicationVerify { .. }
        | Command::Failover { .. } => {
            Err(Reply::refused(RefusedKind::Failed, "the command is about the pair of servers"))
        }
    }
}

fn status_of(store: &Store) -> Result<Reply, Reply> {
    let (status, usage) = (store.status(), store.usage()?);
    Ok(Reply::Status(Box::new(StatusShown {
        accounts: usage.accounts,
        containers: usage.containers,
        blobs: usage.blobs,
        used_bytes: usage.used,
        free_bytes: usage.free,
        records: status.records,
        checkpoints: status.checkpoints,
        journal_bytes: status.journal_bytes,
        failure: status.failure.map(|failure| failure.to_string()),
        copies: status.copies.into_iter().map(copy_shown).collect(),
        repaired: status.findings.repaired,
        damaged: status.findings.lost,
    })))
}

impl Command {
    /// The account that it changes.
    pub(crate) fn changed_account(&self) -> Option<&str> {
        match self {
            Self::Create { name, .. }
            | Self::RegenerateKey { name, .. }
            | Self::SetRedundancy { name, .. }
            | Self::Delete { name } => Some(name),
            Self::List
            | Self::Show { .. }
            | Self::Keys { .. }
            | Self::Snapshot { .. }
            | Self::Status
            | Self::CopyAdd { .. }
            | Self::CopyRemove { .. }
            | Self::CopyList
            | Self::ReplicationInvite { .. }
            | Self::ReplicationShow
            | Self::ReplicationUpdate { .. }
            | Self::ReplicationConfirm
            | Self::ReplicationRejoin { .. }
            | Self::ReplicationRemove
            | Self::ReplicationVerify { .. }
            | Self::Failover { .. } => None,
        }
    }

    /// How long it may take.
    pub(crate) const fn patience(&self) -> Duration {
        match self {
            // The rest of the old primary's changes comes over a network.
            Self::Failover { .. } => Duration::from_hours(1),
            _ => socket::PATIENCE,
        }
    }

    /// Whether it is about the pair of servers.
    const fn is_of_pair(&self) -> bool {
        matches!(
            self,
            Self::ReplicationInvite { .. }
                | Self::ReplicationShow
                | Self::ReplicationUpdate { .. }
                | Self::ReplicationConfirm
                | Self::ReplicationRejoin { .. }
                | Self::ReplicationRemove
                | Self::ReplicationVerify { .. }
                | Self::Failover { .. }
        )
    }
}

/// Reads `ACCOUNT/CONTAINER/BLOB`.
pub(crate) fn blob_name(text: &str) -> Result<blobs::BlobName, Reply> {
    let mut parts = text.splitn(3, '/');
    if let (Some(account), Some(container), Some(blob)) = (parts.next(), parts.next(), parts.next())
    {
        Ok(blobs::ContainerName::new(account, container).blob(blob))
    } else {
        let reason = "a blob is named by ACCOUNT/CONTAINER/BLOB";
        Err(Reply::refused(RefusedKind::Invalid, reason))
    }
}

/// Carries a command out on a store that nobody serves: a new copy is waited for.
fn execute_alone(
    store: &Arc<Store>,
    data_dir: &Path,
    command: &Command,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Reply, StorageError> {
    let (own_clock, own_entropy) = (Arc::clone(clock), Arc::clone(entropy));
    let pair = Replication::open(Arc::clone(store), data_dir, own_clock, own_entropy)?;
    if command.is_of_pair() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(StorageError::local("start threads for", data_dir))?;
        return Ok(runtime.block_on(replication::execute(&Arc::new(pair), command, false)));
    }
    let reply = execute_near(store, command, pair.peer_url().as_deref(), &**entropy);
    let (Command::CopyAdd { .. }, Reply::Copies { .. }) = (command, &reply) else {
        return Ok(reply);
    };
    let is_being_made =
        |copy: blobs::StoreCopy| matches!(copy.state, StoreCopyState::Rebuilding { .. });
    while store.status().copies.into_iter().any(is_being_made) {
        clock.sleep(PAUSE);
    }
    Ok(copies_of(store))
}

/// Carries a command out on accounts that this process serves: requests notice it at once. It blocks; what is about the
/// pair of servers needs a thread of a runtime that may block.
pub fn execute_served(storage: &Arc<Storage>, command: &Command) -> Reply {
    if command.is_of_pair() {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return Reply::refused(RefusedKind::Failed, "there is no runtime");
        };
        return runtime.block_on(replication::execute(&storage.replication, command, true));
    }
    let peer = storage.replication.peer_url();
    let reply = execute_near(&storage.store, command, peer.as_deref(), &*storage.entropy);
    if let Some(name) = command.changed_account() {
        storage.forget_account(name);
    }
    reply
}

/// Carries any command out in the process that serves.
async fn execute_any(
    storage: &Arc<Storage>,
    command: Command,
) -> Result<Reply, tokio::task::JoinError> {
    if command.is_of_pair() {
        return Ok(replication::execute(&storage.replication, &command, true).await);
    }
    let storage = Arc::clone(storage);
    tokio::task::spawn_blocking(move || execute_served(&storage, &command)).await
}

fn copies_of(store: &Store) -> Reply {
    Reply::Copies { copies: store.status().copies.into_iter().map(copy_shown).collect() }
}

fn copy_shown(copy: blobs::StoreCopy) -> CopyShown {
    let state = match copy.state {
        StoreCopyState::Leading => CopyStateShown::Leading,
        StoreCopyState::Healthy => CopyStateShown::Healthy,
        StoreCopyState::Rebuilding { done, total } => {
            CopyStateShown::Rebuilding { done_bytes: done, total_bytes: total }
        }
        StoreCopyState::LeftOut { at, reason, is_missing, since: _ } => {
            let since = map::timestamp(at);
            if is_missing {
                CopyStateShown::Missing { since, reason }
            } else {
                CopyStateShown::LeftOut { since, reason }
            }
        }
    };
    CopyShown { path: copy.path, state }
}

fn new_key(entropy: &dyn Entropy) -> AccountKey {
    AccountKey::new(entropy.array::<64>().to_vec())
}

fn check_names(name: &str, endpoint: &str) -> Result<(), Reply> {
    let name = AccountName::new(name).map_err(|_| Refusal::InvalidName)?;
    endpoints(&name, endpoint)
        .map(|_| ())
        .ok_or_else(|| Reply::refused(RefusedKind::Invalid, "the endpoint is not valid"))
}

/// Primary and secondary of an account: by a host that has `{account}`, or by paths below any other host.
fn endpoints(name: &AccountName, endpoint: &str) -> Option<(Endpoint, Endpoint)> {
    let secondary = format!("{name}-secondary");
    let at = |account: &str| {
        let url = if endpoint.contains("{account}") {
            endpoint.replace("{account}", account)
        } else {
            format!("{}/{account}", endpoint.trim_end_matches('/'))
        };
        Endpoint::parse(&url)
    };
    Some((at(name.as_str())?, at(&secondary)?))
}

fn shown(name: &str, account: &blobs::Account) -> AccountShown {
    AccountShown {
        name: name.to_owned(),
        kind: account.kind,
        redundancy: account.redundancy,
        rules: account.rules,
        created: map::timestamp(account.created),
    }
}

/// The keys of an account. `peer` is where the other server is, if there is one: the account's readable secondary, or
/// its primary if this one is the secondary.
fn keys_of(store: &Store, name: &str, endpoint: &str, peer: Option<&str>) -> Result<Reply, Reply> {
    let view = store.view().map_err(ReadError::State)?;
    let account = view.account(name)?;
    let invalid = || Reply::from(Refusal::InvalidName);
    let account_name = AccountName::new(name).map_err(|_| invalid())?;
    let far = peer.unwrap_or(endpoint);
    let is_secondary = store.standing().role == Role::Secondary;
    let (of_primary, of_secondary) = if is_secondary { (far, endpoint) } else { (endpoint, far) };
    let (primary, _) = endpoints(&account_name, of_primary).ok_or_else(invalid)?;
    let (_, secondary) = endpoints(&account_name, of_secondary).ok_or_else(invalid)?;
    let is_readable = account.redundancy == Redundancy::RaGrs;
    let key = |which: WhichKey, key: azure::AccountKey| KeyShown {
        name: which,
        value: key.to_base64().to_string(),
        connection_string: ConnectionString {
            account: Some(account_name.clone()),
            secret: Secret::Key(key),
            primary: primary.clone(),
            secondary: is_readable.then(|| secondary.clone()),
        }
        .to_text()
        .to_string(),
    };
    let [first, second] = map::keys(&account);
    let first = key(WhichKey::Key1, first);
    Ok(Reply::Keys(AccountWithKeys {
        account: shown(name, &account),
        connection_string: first.connection_string.clone(),
        keys: vec![first, key(WhichKey::Key2, second)],
    }))
}
