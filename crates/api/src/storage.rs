//! Storage accounts of the server, their keys, and how their store stands.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

words! {
    /// The purpose of a storage account, which decides its limits.
    StorageAccountKind {
        /// Disks: at most 100 snapshots of a blob, one in ten minutes.
        Premium = "premium",
        /// Everything else.
        Standard = "standard",
    }
}

words! {
    /// Where the data of a storage account is kept.
    StorageAccountRedundancy {
        /// In the store of the server, with its copies.
        Lrs = "lrs",
        /// Also on a second server.
        Grs = "grs",
        /// The same, and it can be read there.
        RaGrs = "ra_grs",
    }
}

words! {
    /// One of the two keys of a storage account.
    StorageKeyName {
        /// The first key.
        Key1 = "key1",
        /// The second key.
        Key2 = "key2",
    }
}

words! {
    /// How a copy of the store stands.
    StorageCopyState {
        /// It has every change, and is read.
        Leading = "leading",
        /// It has every change.
        Healthy = "healthy",
        /// It is being made from another copy.
        Rebuilding = "rebuilding",
        /// It lacks changes, and is made again when its disk works.
        LeftOut = "left_out",
        /// It lacks changes, and its folder is not there.
        Missing = "missing",
    }
}

words! {
    /// The part of this server, if its storage accounts are at two servers.
    StorageRole {
        /// There is no second server.
        Alone = "alone",
        /// It takes changes.
        Primary = "primary",
        /// It was the primary when it was stopped, and does not know yet whether it still is: it takes no changes.
        Waiting = "waiting",
        /// It follows the primary.
        Secondary = "secondary",
        /// The other server has become the primary: it takes no changes.
        Fenced = "fenced",
    }
}

words! {
    /// How the two servers of the storage accounts stand.
    StoragePairState {
        /// There is no second server.
        Unpaired = "unpaired",
        /// The secondary is in step.
        Live = "live",
        /// The secondary gets its first state, or is resynchronized.
        Bootstrap = "bootstrap",
        /// The secondary takes changes, and is behind.
        CatchingUp = "catching_up",
        /// The other server does not answer, or its changes cannot be taken.
        Unavailable = "unavailable",
        /// The other server has become the primary.
        Fenced = "fenced",
        /// The primary does not know yet whether it still is.
        Waiting = "waiting",
        /// The primary lacks changes that the secondary has.
        Ahead = "ahead",
        /// The other server does not know this one any more.
        Removed = "removed",
    }
}

words! {
    /// A step of a failover.
    StorageFailoverStep {
        /// The old primary takes no changes any more.
        OldPrimaryFenced = "old_primary_fenced",
        /// The secondary has fetched the rest of the old primary's changes.
        ChangesFetched = "changes_fetched",
        /// The secondary is the primary.
        Promoted = "promoted",
    }
}

/// A failover that is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageFailoverProgress {
    /// The epoch that it begins.
    pub epoch: u64,
    /// What is done.
    pub done: Vec<StorageFailoverStep>,
    /// What is left.
    pub left: Vec<StorageFailoverStep>,
    /// The command that completes it, at this server; null if it is completed by itself.
    #[serde(default)]
    pub command: Option<String>,
}

/// How geo-redundancy of the storage accounts stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageReplication {
    /// The part of this server.
    pub role: StorageRole,
    /// How both servers stand.
    pub state: StoragePairState,
    /// Which failover the servers are at: each begins an epoch.
    pub epoch: u64,
    /// Where the other server is.
    #[serde(default)]
    pub peer_url: Option<String>,
    /// All writes that the primary answered before this moment are at the secondary.
    #[serde(default)]
    pub last_sync_time: Option<Timestamp>,
    /// Changes that the secondary lacks, as far as this server knows.
    #[serde(default)]
    pub lag_records: Option<u64>,
    /// About how many bytes of the primary's journal these are.
    #[serde(default)]
    pub lag_bytes: Option<u64>,
    /// How old the Last Sync Time is by the primary's clock, in seconds.
    #[serde(default)]
    pub lag_seconds: Option<u64>,
    /// When the other server asked or answered last, since this one was started.
    #[serde(default)]
    pub peer_seen: Option<Timestamp>,
    /// A failover that is not complete; null without one.
    #[serde(default)]
    pub failover: Option<StorageFailoverProgress>,
    /// Why it does not continue by itself; null while it does.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Changes where the data of a storage account is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageRedundancySet {
    /// Where it is kept from now on: `grs` or `ra_grs` where there is a second server, else `lrs`.
    pub redundancy: StorageAccountRedundancy,
}

/// Makes this server the primary of the storage accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageFailOver {
    /// Whether to do so although the primary does not answer: what it has not sent is lost. False if not given.
    #[serde(default)]
    pub accept_loss: Option<bool>,
}

/// A failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageFailedOver {
    /// The epoch that it began.
    pub epoch: u64,
    /// Whether the old primary was asked, so that nothing is lost.
    pub planned: bool,
    /// All writes that the old primary answered before this moment are here.
    #[serde(default)]
    pub last_sync_time: Option<Timestamp>,
    /// Changes of the old primary that are known to be lost; there may be more.
    pub lost_records: u64,
    /// Whether the old primary has said that it takes no changes any more. If not, it is asked until it does.
    pub old_primary_fenced: bool,
}

/// A storage account, without its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageAccount {
    /// Its name.
    pub name: String,
    /// Its purpose.
    pub kind: StorageAccountKind,
    /// Where its data is kept.
    pub redundancy: StorageAccountRedundancy,
    /// Whether the limits of its kind are enforced.
    pub rules: bool,
    /// When it was created.
    pub created: Timestamp,
}

/// A new storage account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageAccountCreate {
    /// Its name.
    #[schema(min_length = 3, max_length = 24, pattern = "^[a-z0-9]{3,24}$")]
    pub name: String,
    /// Its purpose: `standard` if not given.
    #[serde(default)]
    pub kind: Option<StorageAccountKind>,
    /// Where its data is kept. If not given: `grs` where the accounts are at two servers, else `lrs`.
    #[serde(default)]
    pub redundancy: Option<StorageAccountRedundancy>,
    /// Whether the limits of its kind are enforced: true if not given.
    #[serde(default)]
    pub rules: Option<bool>,
    /// The URL at which clients reach the accounts, for the connection strings; `{account}` stands for the account's
    /// name. The default is where the server serves them.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub endpoint: Option<String>,
}

/// Where the clients that get the keys of a storage account reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageKeysRead {
    /// The URL at which clients reach the accounts, for the connection strings; `{account}` stands for the account's
    /// name. The default is where the server serves them.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub endpoint: Option<String>,
}

/// Replaces a key of a storage account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageKeyRegenerate {
    /// Which key.
    pub key: StorageKeyName,
    /// The URL at which clients reach the accounts, for the connection strings; `{account}` stands for the account's
    /// name. The default is where the server serves them.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub endpoint: Option<String>,
}

/// A key of a storage account. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageKey {
    /// Which key.
    pub name: StorageKeyName,
    /// The key in base64.
    pub value: String,
    /// What clients need to reach the account with this key.
    pub connection_string: String,
}

impl std::fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A storage account with its keys. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageAccountKeys {
    /// Its name.
    pub name: String,
    /// Its purpose.
    pub kind: StorageAccountKind,
    /// Where its data is kept.
    pub redundancy: StorageAccountRedundancy,
    /// Whether the limits of its kind are enforced.
    pub rules: bool,
    /// When it was created.
    pub created: Timestamp,
    /// Both keys.
    pub keys: Vec<StorageKey>,
    /// What clients need to reach the account: that of the first key.
    pub connection_string: String,
}

impl StorageAccountKeys {
    /// The account without its keys.
    pub fn account(&self) -> StorageAccount {
        StorageAccount {
            name: self.name.clone(),
            kind: self.kind,
            redundancy: self.redundancy,
            rules: self.rules,
            created: self.created,
        }
    }
}

impl std::fmt::Debug for StorageAccountKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("StorageAccountKeys");
        shown.field("account", &self.account()).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// A blob of which a snapshot is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobToSnapshot {
    /// The storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// The blob's name in the container.
    pub blob: String,
    /// The metadata of the snapshot.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// Takes a snapshot of each of these blobs at the same moment, of all or of none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobSnapshotsCreate {
    /// The blobs.
    #[schema(min_items = 1, max_items = 64)]
    pub blobs: Vec<BlobToSnapshot>,
}

/// Snapshots of the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobSnapshots {
    /// The time that names the snapshot of each blob.
    pub snapshot: String,
}

/// A copy of the store of the storage accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageCopy {
    /// Its folder.
    pub path: String,
    /// How it stands.
    pub state: StorageCopyState,
    /// While it is being made: bytes that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_bytes: Option<u64>,
    /// While it is being made: bytes that there will be; 0 until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Since when it lacks changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why it lacks changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How the store of the storage accounts stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageStatus {
    /// Number of accounts.
    pub accounts: u64,
    /// Number of containers.
    #[serde(default)]
    pub containers: u64,
    /// Number of blobs, without their snapshots.
    #[serde(default)]
    pub blobs: u64,
    /// Bytes that the leading copy of the store takes on its disk.
    #[serde(default)]
    pub used_bytes: u64,
    /// Bytes that are free on that disk.
    #[serde(default)]
    pub free_bytes: u64,
    /// Changes in the life of the store.
    pub records: u64,
    /// Checkpoints since it was opened.
    pub checkpoints: u64,
    /// Bytes of the journal that would be applied again after a crash.
    pub journal_bytes: u64,
    /// Why the store takes no changes; null while it does.
    #[serde(default)]
    pub failure: Option<String>,
    /// Its copies.
    pub copies: Vec<StorageCopy>,
    /// Pieces of 4 KiB that were damaged in a copy, and were repaired from another copy since the store was opened.
    pub repaired: u64,
    /// Pieces of 4 KiB that the last comparison found damaged in a copy and could not repair.
    pub damaged: u64,
}
