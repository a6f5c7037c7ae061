//! Rows of the table of names: accounts, containers, blobs and snapshots, as JSON, and the keys that order them.
//!
//! The key of a blob begins with its container's id, so that deleting a container touches one row; its blobs are
//! deleted by a task. The snapshots of a blob come before it, oldest first, as a list gives them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{extents::Blocks, lease::Lease, numbers::size, state::StateError};

/// 100 ns ticks since 1970.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Ticks in a second.
    pub const SECOND: u64 = 10_000_000;

    /// Whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / Self::SECOND
    }

    /// This moment and some seconds more.
    pub(crate) fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(Self::SECOND)))
    }
}

/// The number that an `ETag` is made of: each change gets a greater one than all before it in the store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Etag(pub u64);

/// The moment that names a snapshot, in 100 ns ticks since 1970; unique in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub u64);

/// The names and values that a user attaches; the face checks their characters.
pub type Metadata = BTreeMap<String, String>;

/// A container's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName {
    /// The account.
    pub account: String,
    /// The container in it.
    pub container: String,
}

/// A blob's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobName {
    /// The container.
    pub container: ContainerName,
    /// The blob in it.
    pub blob: String,
}

impl ContainerName {
    /// A name.
    pub fn new(account: impl Into<String>, container: impl Into<String>) -> Self {
        Self { account: account.into(), container: container.into() }
    }

    /// The name of a blob in it.
    pub fn blob(&self, blob: impl Into<String>) -> BlobName {
        BlobName { container: self.clone(), blob: blob.into() }
    }
}

/// What an account is made for; it decides the rules for its blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// Disks: 100 snapshots of a blob, one in ten minutes.
    Premium,
    /// Everything else.
    Standard,
}

/// Where an account's data is kept besides its own server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redundancy {
    /// In copies on the server.
    Lrs,
    /// On a second server, too.
    Grs,
    /// On a second server that may be read.
    RaGrs,
}

/// A key of an account. It is wiped from memory when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountKey(Zeroizing<Vec<u8>>);

impl AccountKey {
    /// A key of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes.
    pub fn secret(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountKey")
    }
}

impl Serialize for AccountKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(STANDARD.encode(self.secret()));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for AccountKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(&text).map_err(|_| D::Error::custom("a key is no base64"));
        text.zeroize();
        bytes.map(Self::new)
    }
}

/// A kind of blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobKind {
    /// Made of pages of 512 bytes that are written and cleared in place.
    #[default]
    Page,
    /// Made of blocks that are staged, and committed as a list.
    Block,
    /// Made of what is appended to it.
    Append,
}

impl BlobKind {
    /// Whether it is made of pages.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(crate) fn is_page(&self) -> bool {
        *self == Self::Page
    }
}

/// A tier of a block blob. It is a word that is kept and shown: every tier is stored and read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Often read.
    Hot,
    /// Rarely read.
    Cool,
    /// Hardly ever read.
    Cold,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What it is made for.
    pub kind: AccountKind,
    /// Where its data is kept.
    pub redundancy: Redundancy,
    /// Both keys, of which either opens it.
    pub keys: [AccountKey; 2],
    /// Whether the limits of its kind are enforced.
    pub rules: bool,
    /// When it was created.
    pub created: Ticks,
}

/// A stored access policy; what it says is for those who check signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessPolicy {
    /// Its id, of up to 64 characters.
    pub id: String,
    /// From when on it is valid.
    pub start: Option<Ticks>,
    /// Until when.
    pub expiry: Option<Ticks>,
    /// Letters.
    pub permissions: Option<String>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id; a container that is created again has another one.
    pub id: u64,
    /// Of its last change.
    pub etag: Etag,
    /// The moment of its last change, in seconds since 1970.
    pub modified: u64,
    /// What the user attached.
    pub metadata: Metadata,
    /// Up to five policies.
    pub policies: Vec<AccessPolicy>,
    /// Its lease.
    pub lease: Option<Lease>,
}

/// The HTTP headers that a blob is served with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Properties {
    /// `Content-Type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// `Content-MD5`, as the user gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_md5: Option<String>,
    /// `Content-Disposition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyStatus {
    /// It runs.
    Pending,
    /// It is complete.
    Success,
    /// A user ended it.
    Aborted,
    /// It could not be completed.
    Failed,
}

/// The last copy to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Its id.
    pub id: String,
    /// The URL of the source, as it was given and without secrets.
    pub source: String,
    /// How far it is.
    pub status: CopyStatus,
    /// Bytes of the source that are passed.
    pub done: u64,
    /// Bytes of the source.
    pub total: u64,
    /// When it ended.
    pub completed: Option<Ticks>,
    /// Why it ended without success.
    pub description: Option<String>,
    /// Of an incremental copy: which snapshot of the source was asked for, and the snapshot that it made.
    pub incremental: Option<IncrementalCopy>,
}

/// What an incremental copy remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncrementalCopy {
    /// The snapshot of the source.
    pub source: SnapshotId,
    /// The snapshot of the source that was copied last with success.
    pub last_source: Option<SnapshotId>,
    /// The snapshot that the last successful copy made.
    pub snapshot: Option<SnapshotId>,
}

/// What a snapshot keeps of its blob besides pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frozen {
    pub(crate) epoch: u32,
    pub(crate) size: u64,
    pub(crate) etag: Etag,
    pub(crate) modified: u64,
    pub(crate) sequence: u64,
}

/// The row of a blob or of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    /// Where its pages are.
    pub(crate) generation: u64,
    pub(crate) created: Ticks,
    pub(crate) properties: Properties,
    pub(crate) metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copy: Option<Copy>,
    /// Of a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frozen: Option<Frozen>,
    #[serde(default, skip_serializing_if = "BlobKind::is_page")]
    pub(crate) kind: BlobKind,
    /// Of a block blob that is made of a list of blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blocks: Option<Blocks>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tier: Option<Tier>,
}

impl Blob {
    /// Whether only incremental copies may change it.
    pub(crate) fn is_incremental(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.incremental.is_some())
    }

    /// Whether a copy to it runs.
    pub(crate) fn is_copy_pending(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.status == CopyStatus::Pending)
    }
}

/// Keys of the table of names. The first byte is the kind.
pub(crate) mod keys {
    use super::{ContainerName, size};

    /// Of an account.
    pub(crate) fn account(name: &str) -> Vec<u8> {
        [b"a", name.as_bytes()].concat()
    }

    /// Of a container.
    pub(crate) fn container(name: &ContainerName) -> Vec<u8> {
        [b"c", name.account.as_bytes(), b"/", name.container.as_bytes()].concat()
    }

    /// Of a deleted container that still has blobs.
    pub(crate) fn doomed(container: u64) -> Vec<u8> {
        [b"d".as_slice(), &container.to_be_bytes()].concat()
    }

    /// Of the staged blocks of a name.
    pub(crate) fn staging(container: u64, name: &str) -> Vec<u8> {
        [b"s".as_slice(), &container.to_be_bytes(), name.as_bytes()].concat()
    }

    /// What the rows of one kind of a generation begin with: `k` content, `q` staged blocks, `u` uploads.
    pub(crate) fn of_generation(kind: [u8; 1], generation: u64) -> Vec<u8> {
        [kind.as_slice(), &generation.to_be_bytes()].concat()
    }

    /// Of a piece of a list of content.
    pub(crate) fn content(generation: u64, list: u64, offset: u64) -> Vec<u8> {
        let mut key = content_list(generation, list);
        key.extend(offset.to_be_bytes());
        key
    }

    /// What the pieces of a list of content begin with.
    pub(crate) fn content_list(generation: u64, list: u64) -> Vec<u8> {
        let mut key = of_generation(*b"k", generation);
        key.extend(list.to_be_bytes());
        key
    }

    /// Of a staged block.
    pub(crate) fn staged(generation: u64, id: &[u8]) -> Vec<u8> {
        let mut key = of_generation(*b"q", generation);
        key.extend(id);
        key
    }

    /// Of an upload.
    pub(crate) fn upload(generation: u64, place: u64) -> Vec<u8> {
        let mut key = of_generation(*b"u", generation);
        key.extend(place.to_be_bytes());
        key
    }

    /// The last eight bytes of a key as a number.
    pub(crate) fn last_number(key: &[u8]) -> Option<u64> {
        key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// What all blobs of a container with this beginning of a name begin with.
    pub(crate) fn blobs(container: u64, prefix: &str) -> Vec<u8> {
        [b"b".as_slice(), &container.to_be_bytes(), prefix.as_bytes()].concat()
    }

    /// Of a blob, or of its snapshot.
    pub(crate) fn blob(container: u64, name: &str, snapshot: Option<u64>) -> Vec<u8> {
        let mut key = blobs(container, name);
        key.push(0);
        key.extend(snapshot.unwrap_or(u64::MAX).to_be_bytes());
        key
    }

    /// Takes the key of a blob or a snapshot apart.
    pub(crate) fn parse_blob(key: &[u8]) -> Option<(String, Option<u64>)> {
        let (_, rest) = key.split_at_checked(size(9))?;
        let (name, end) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
        let id = u64::from_be_bytes(end.get(1..)?.try_into().ok()?);
        let name = String::from_utf8(name.to_vec()).ok()?;
        Some((name, (id != u64::MAX).then_some(id)))
    }

    /// The first key behind all that begin with `prefix`.
    pub(crate) fn behind(prefix: &[u8]) -> Vec<u8> {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        end
    }
}

/// A row's bytes.
pub(crate) fn encode(row: &impl Serialize) -> Vec<u8> {
    // Maps with text keys and numbers: nothing that JSON cannot say.
    serde_json::to_vec(row).unwrap_or_default()
}

/// Reads a row.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(
    key: &[u8],
    bytes: &[u8],
) -> Result<T, StateError> {
    serde_json::from_slice(bytes)
        .map_err(|_| StateError::Row { row: String::from_utf8_lossy(key).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_come_before_their_blob_and_blobs_by_name() {
        let order = [
            keys::blob(7, "a", Some(1)),
            keys::blob(7, "a", Some(2)),
            keys::blob(7, "a", None),
            keys::blob(7, "a\u{1}", None),
            keys::blob(7, "a/b", Some(9)),
            keys::blob(7, "b", None),
            keys::blob(8, "a", None),
        ];
        assert!(order.is_sorted());
        assert_eq!(keys::parse_blob(&order[0]), Some(("a".to_owned(), Some(1))));
        assert_eq!(keys::parse_blob(&order[5]), Some(("b".to_owned(), None)));
        assert!(order[5] < keys::behind(&keys::blobs(7, "b")));
        assert!(order[6] > keys::behind(&keys::blobs(7, "b")));
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = AccountKey::new(b"very secret".to_vec());
        assert_eq!(format!("{key:?}"), "AccountKey");
        let again: AccountKey = decode(b"", &encode(&key)).expect("reads");
        assert_eq!(again, key);
    }
}
