//! What a caller can ask to change, and what is answered: the domain's words, without HTTP.

use bytes::Bytes;

use crate::{
    extents::BlockId,
    lease::{LeaseAction, LeaseDone, LeaseId},
    rows::{
        AccessPolicy, AccountKey, AccountKind, BlobKind, BlobName, ContainerName, Etag, Metadata,
        Properties, Redundancy, SnapshotId, Tier,
    },
};

/// A condition on an `ETag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtagCondition {
    /// `*`: what exists.
    Any,
    /// This one. A text that is no `ETag` of a store is `Etag(0)`, which nothing has.
    Is(Etag),
}

/// The conditions of a request; all that are given must be met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`.
    pub if_match: Option<EtagCondition>,
    /// `If-None-Match`.
    pub if_none_match: Option<EtagCondition>,
    /// `If-Modified-Since`, in seconds since 1970.
    pub if_modified_since: Option<u64>,
    /// `If-Unmodified-Since`, in seconds since 1970.
    pub if_unmodified_since: Option<u64>,
}

/// With what right a change comes: its conditions, and the lease that its caller holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The conditions.
    pub conditions: Conditions,
    /// The lease.
    pub lease: Option<LeaseId>,
}

/// Conditions on the sequence number of a page blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceConditions {
    /// At most this.
    pub at_most: Option<u64>,
    /// Less than this.
    pub less_than: Option<u64>,
    /// Exactly this.
    pub equal: Option<u64>,
}

/// How a sequence number changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceAction {
    /// The greater of this and the present one.
    Max(u64),
    /// This.
    Update(u64),
    /// One more.
    Increment,
}

/// What becomes of snapshots when a blob is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteSnapshots {
    /// The blob must have none.
    #[default]
    Refuse,
    /// They are deleted with the blob.
    Include,
    /// Only they are deleted.
    Only,
}

/// A new account.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// What it is made for.
    pub kind: AccountKind,
    /// Where its data is kept.
    pub redundancy: Redundancy,
    /// Its keys.
    pub keys: [AccountKey; 2],
    /// Whether the limits of its kind are enforced.
    pub rules: bool,
}

/// One of an account's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyNumber {
    /// `key1`.
    First,
    /// `key2`.
    Second,
}

/// A new blob: a page blob that is all zero, a block blob or an append blob without content.
#[derive(Clone, Debug, Default)]
pub struct NewBlob {
    /// Its kind.
    pub kind: BlobKind,
    /// Its size in bytes, a multiple of 512; of a copy, that of the source. Else 0, unless it is a page blob.
    pub size: u64,
    /// Its sequence number, if it is a page blob; of a copy of an append blob, the number of its blocks.
    pub sequence: u64,
    /// Its headers.
    pub properties: Properties,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its tier, if it is a block blob.
    pub tier: Option<Tier>,
}

/// The begin of a copy to a blob.
#[derive(Clone, Debug)]
pub struct NewCopy {
    /// The URL of the source, without secrets.
    pub source: String,
    /// What the destination is like.
    pub blob: NewBlob,
    /// Of an incremental copy: the snapshot of the source.
    pub incremental: Option<SnapshotId>,
}

/// A step of a copy that runs.
#[derive(Clone, Debug)]
pub enum CopyStep {
    /// Pages of the source, and how many bytes of the source are passed then.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Bytes,
        /// How far.
        done: u64,
    },
    /// Pages without content.
    Clear {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// How far.
        done: u64,
    },
    /// All is there. An incremental copy makes its snapshot.
    Finish {
        /// Of a block blob: the blocks of the source with their lengths, in order; none if it has no list.
        blocks: Vec<(BlockId, u32)>,
    },
    /// It cannot be completed.
    Fail {
        /// Why.
        description: String,
    },
    /// A user ends it.
    Abort,
}

/// What a change brings: bytes of its own, or those of an upload.
#[derive(Clone, Debug)]
pub enum Content {
    /// Up to 4 MiB.
    Bytes(Bytes),
    /// All that was uploaded before; the upload ends with the change.
    Upload(UploadId),
}

/// An upload: content of more than 4 MiB that is written in pieces, and that nobody sees until another change uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId {
    pub(crate) generation: u64,
    pub(crate) place: u64,
    /// Of the change that began it: another upload may have had its place.
    pub(crate) stamp: u64,
}

/// What an upload will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadTo {
    /// The whole content of a block blob.
    Blob,
    /// A block.
    Block,
    /// An append.
    Append,
}

/// A step of an upload.
#[derive(Clone, Debug)]
pub enum UploadStep {
    /// Bytes of it, up to 4 MiB.
    Write {
        /// Where, in bytes from the begin of the upload: a multiple of 4 KiB.
        offset: u64,
        /// What. Its length is a multiple of 4 KiB, but at the end of the upload.
        data: Bytes,
    },
    /// It is not wanted any more.
    Abandon,
}

/// Where a list of blocks takes a block from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPlace {
    /// The blocks of the blob.
    Committed,
    /// The blocks that wait.
    Uncommitted,
    /// Those that wait, or else those of the blob.
    Latest,
}

/// What a block blob is made of.
#[derive(Clone, Debug, Default)]
pub struct BlockList {
    /// The blocks, in order.
    pub blocks: Vec<(BlockId, BlockPlace)>,
    /// The blob's headers.
    pub properties: Properties,
    /// The blob's metadata.
    pub metadata: Metadata,
    /// The blob's tier.
    pub tier: Option<Tier>,
}

/// Conditions on the size of an append blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendConditions {
    /// The most bytes that the blob may have afterwards.
    pub max_size: Option<u64>,
    /// The bytes that the blob must have before.
    pub position: Option<u64>,
}

/// A change of one blob.
#[derive(Clone, Debug)]
pub enum BlobChange {
    /// Create it, or create it again: a new generation, of which earlier snapshots know nothing.
    Create(NewBlob),
    /// Create a block blob with this content.
    Put {
        /// What it is like.
        new: Box<NewBlob>,
        /// What is in it.
        content: Content,
    },
    /// Stage a block, instead of one that waits with the same id.
    StageBlock {
        /// Its id.
        id: BlockId,
        /// What is in it.
        content: Content,
    },
    /// Make the block blob of these blocks; those that wait and are not named are gone.
    CommitBlocks(BlockList),
    /// Append a block to an append blob.
    Append {
        /// What is in it.
        content: Content,
        /// Conditions.
        conditions: AppendConditions,
    },
    /// Begin an upload.
    BeginUpload {
        /// What it will be.
        to: UploadTo,
        /// How many bytes it has: at least one.
        len: u64,
    },
    /// Give a block blob another tier.
    SetTier(Tier),
    /// Give pages content: up to 4 MiB.
    Write {
        /// Where: a multiple of 512.
        offset: u64,
        /// What: a multiple of 512 bytes.
        data: Bytes,
        /// Conditions.
        sequence: SequenceConditions,
    },
    /// Take the content of pages.
    Clear {
        /// Where: a multiple of 512.
        offset: u64,
        /// How many bytes: a multiple of 512.
        len: u64,
        /// Conditions.
        sequence: SequenceConditions,
    },
    /// Change its size.
    Resize {
        /// The new size.
        size: u64,
    },
    /// Change its sequence number.
    SetSequence(SequenceAction),
    /// Change size, sequence number and headers at once, each if it is given.
    Set {
        /// The new size.
        size: Option<u64>,
        /// How the sequence number changes.
        sequence: Option<SequenceAction>,
        /// The new headers, instead of all there are.
        properties: Option<Properties>,
    },
    /// Replace its headers.
    SetProperties(Properties),
    /// Replace its metadata.
    SetMetadata(Metadata),
    /// Delete it, its snapshots, or one of them.
    Delete {
        /// Only this snapshot.
        snapshot: Option<SnapshotId>,
        /// What becomes of snapshots.
        snapshots: DeleteSnapshots,
    },
    /// Change its lease.
    Lease(LeaseAction),
    /// Begin a copy to it.
    BeginCopy(Box<NewCopy>),
    /// Continue a copy.
    Copy {
        /// The id of the copy.
        id: String,
        /// The step.
        step: CopyStep,
    },
}

/// One blob of a set of snapshots.
#[derive(Clone, Debug)]
pub struct SnapshotOf {
    /// The blob.
    pub blob: BlobName,
    /// With what right.
    pub access: Access,
    /// The snapshot's metadata instead of the blob's.
    pub metadata: Option<Metadata>,
}

/// A change of a container.
#[derive(Clone, Debug)]
pub enum ContainerChange {
    /// Create it.
    Create(Metadata),
    /// Delete it with its blobs.
    Delete,
    /// Replace its metadata.
    SetMetadata(Metadata),
    /// Replace its stored access policies.
    SetPolicies(Vec<AccessPolicy>),
    /// Change its lease.
    Lease(LeaseAction),
}

/// A change of an account.
#[derive(Clone, Debug)]
pub enum AccountChange {
    /// Create it.
    Create(NewAccount),
    /// Delete it with all that is in it.
    Delete,
    /// Replace one of its keys.
    SetKey(KeyNumber, AccountKey),
    /// Enforce the limits of its kind, or not.
    SetRules(bool),
    /// Keep its data elsewhere as well, or no longer.
    SetRedundancy(Redundancy),
}

/// A change of the store.
#[derive(Clone, Debug)]
pub enum Change {
    /// Of an account.
    Account {
        /// Its name.
        name: String,
        /// What changes.
        change: AccountChange,
    },
    /// Of a container.
    Container {
        /// Its name.
        name: ContainerName,
        /// With what right.
        access: Access,
        /// What changes.
        change: ContainerChange,
    },
    /// Of a blob.
    Blob {
        /// Its name.
        name: BlobName,
        /// With what right.
        access: Access,
        /// What changes.
        change: BlobChange,
    },
    /// A snapshot of each of these blobs at the same moment, of all or of none.
    Snapshot(Vec<SnapshotOf>),
    /// Of an upload.
    Upload {
        /// Which one.
        id: UploadId,
        /// What is done.
        step: UploadStep,
    },
}

impl Change {
    /// Bytes of data that it carries.
    pub(crate) fn data_len(&self) -> usize {
        match self {
            Self::Blob { change: BlobChange::Write { data, .. }, .. }
            | Self::Blob {
                change: BlobChange::Copy { step: CopyStep::Write { data, .. }, .. },
                ..
            }
            | Self::Blob {
                change:
                    BlobChange::Put { content: Content::Bytes(data), .. }
                    | BlobChange::StageBlock { content: Content::Bytes(data), .. }
                    | BlobChange::Append { content: Content::Bytes(data), .. },
                ..
            }
            | Self::Upload { step: UploadStep::Write { data, .. }, .. } => data.len(),
            _ => 0,
        }
    }
}

/// What a durable change left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The `ETag` of what was changed; of a snapshot its own.
    pub etag: Etag,
    /// The moment of its last change, in seconds since 1970.
    pub modified: u64,
    /// The blob's sequence number.
    pub sequence: u64,
    /// The blob's size.
    pub size: u64,
    /// The snapshots that were made; all blobs of a set share the id.
    pub snapshot: Option<SnapshotId>,
    /// The lease.
    pub lease: Option<LeaseDone>,
    /// The id of the copy that began.
    pub copy: Option<String>,
    /// The upload that began.
    pub upload: Option<UploadId>,
    /// Where an append begins in the blob, in bytes.
    pub appended: Option<u64>,
}
