//! Why a change or a read is refused, in Azure's terms. The face maps each to a status and a code.

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The account does not exist.
    #[error("the account does not exist")]
    AccountNotFound,
    /// The account exists.
    #[error("the account exists")]
    AccountExists,
    /// A name is empty, too long, or has a character that no name may have.
    #[error("the name is not valid")]
    InvalidName,
    /// Another server is the primary of this store, or this one does not know yet whether it is.
    #[error("this server is not the primary")]
    NotPrimary {
        /// The part that it plays.
        role: crate::replication::Role,
    },
    /// The container does not exist.
    #[error("the container does not exist")]
    ContainerNotFound,
    /// The container exists.
    #[error("the container exists")]
    ContainerExists,
    /// The blob, or the snapshot, does not exist.
    #[error("the blob or the snapshot does not exist")]
    BlobNotFound,
    /// The blob exists, and the conditions ask that it does not.
    #[error("the blob exists")]
    BlobExists,
    /// A condition is not met.
    #[error("a condition is not met")]
    ConditionNotMet,
    /// A read was conditional on a change, and there was none.
    #[error("nothing has changed")]
    NotModified,
    /// A condition on the sequence number is not met.
    #[error("the condition on the sequence number is not met")]
    SequenceConditionNotMet,
    /// The sequence number cannot grow.
    #[error("the sequence number cannot be incremented")]
    SequenceNumberIncrementTooLarge,
    /// A sequence number is greater than 2^63 - 1.
    #[error("the sequence number is not valid")]
    InvalidSequenceNumber,
    /// A range is not aligned to 512 bytes, is empty, or reaches behind the blob's end.
    #[error("the page range is not valid")]
    InvalidPageRange,
    /// A range to read begins behind the blob's end.
    #[error("the range is not valid")]
    InvalidRange,
    /// A size is not a multiple of 512, or more than 8 TiB.
    #[error("the size is not valid")]
    InvalidSize,
    /// A write carries more than 4 MiB.
    #[error("the write carries more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// More than five policies, or an id of more than 64 characters.
    #[error("the stored access policies are not valid")]
    InvalidPolicies,
    /// A blob with snapshots is not deleted without them; a premium copy does not overwrite it.
    #[error("the blob has snapshots")]
    SnapshotsPresent,
    /// The deletion of one snapshot says what becomes of snapshots.
    #[error("the deletion of a snapshot cannot include others")]
    InvalidSnapshotDeletion,
    /// A premium blob has 100 snapshots.
    #[error("the blob has as many snapshots as it may have")]
    SnapshotCountExceeded,
    /// A premium blob had a snapshot within ten minutes.
    #[error("the last snapshot is too recent")]
    SnapshotRateExceeded,
    /// A set of snapshots is empty, too large, or names a blob twice.
    #[error("the set of snapshots is not valid")]
    InvalidSnapshotSet,
    /// The earlier snapshot of a difference does not exist.
    #[error("the previous snapshot does not exist")]
    PreviousSnapshotNotFound,
    /// The earlier snapshot of a difference is the newer one.
    #[error("the previous snapshot is newer")]
    PreviousSnapshotCannotBeNewer,
    /// The blob was created again between the two snapshots.
    #[error("the blob was overwritten after the previous snapshot")]
    BlobOverwritten,
    /// The blob is leased, and the change names no lease.
    #[error("the change needs the id of the lease")]
    LeaseIdMissing,
    /// The blob is leased by another id.
    #[error("the id of the lease is another one")]
    LeaseIdMismatch,
    /// The change names a lease, and there is none.
    #[error("there is no lease")]
    LeaseNotPresent,
    /// The lease that the change names has expired or was broken.
    #[error("the lease was lost")]
    LeaseLost,
    /// An action on a lease names another id.
    #[error("the action names another lease")]
    LeaseIdMismatchWithLease,
    /// An action on a lease, and there is none.
    #[error("there is no lease for the action")]
    LeaseNotPresentWithLease,
    /// Another holds the lease.
    #[error("there is a lease already")]
    LeaseAlreadyPresent,
    /// A lease that breaks cannot be acquired by its holder.
    #[error("the lease is breaking")]
    LeaseIsBreakingAndCannotBeAcquired,
    /// A lease that breaks cannot be changed.
    #[error("the lease is breaking and cannot be changed")]
    LeaseIsBreakingAndCannotBeChanged,
    /// A broken lease cannot be renewed.
    #[error("the lease is broken")]
    LeaseIsBrokenAndCannotBeRenewed,
    /// A duration is not 15 to 60 seconds or infinite.
    #[error("the duration of the lease is not valid")]
    LeaseDuration,
    /// A break period is more than 60 seconds.
    #[error("the break period is not valid")]
    LeaseBreakPeriod,
    /// A copy to a leased blob needs an infinite lease.
    #[error("the destination needs an infinite lease")]
    InfiniteLeaseRequired,
    /// A copy to the blob runs.
    #[error("a copy to the blob is pending")]
    PendingCopyOperation,
    /// No copy to the blob runs.
    #[error("no copy to the blob is pending")]
    NoPendingCopyOperation,
    /// The copy that runs has another id.
    #[error("the copy has another id")]
    CopyIdMismatch,
    /// The blob is changed only by incremental copies.
    #[error("the blob is changed only by incremental copies")]
    OperationNotAllowedOnIncrementalCopyBlob,
    /// The blob was not made by incremental copies of this source.
    #[error("the blob was not made by incremental copies of this source")]
    IncrementalCopyBlobMismatch,
    /// The snapshot is not newer than the one that was copied last.
    #[error("the snapshot is not newer than the one that was copied last")]
    IncrementalCopyOfEarlierSnapshot,
    /// The blob is of another kind than the operation is for.
    #[error("the blob is of another kind")]
    InvalidBlobType,
    /// A block has no content, too much of it, or an id of another length than the blocks that wait.
    #[error("the block is not valid")]
    InvalidBlock,
    /// A list names a block that is not there, or more than 50,000 blocks.
    #[error("the list of blocks is not valid")]
    InvalidBlockList,
    /// The blob has 50,000 blocks.
    #[error("the blob has as many blocks as it may have")]
    BlockCountExceeded,
    /// The blob has 100,000 blocks that are not committed.
    #[error("the blob has as many uncommitted blocks as it may have")]
    UncommittedBlockCountExceeded,
    /// The blob does not end where the append expects it.
    #[error("the blob has another length than the condition says")]
    AppendPositionConditionNotMet,
    /// The append would make the blob longer than the condition allows.
    #[error("the blob would be longer than the condition allows")]
    MaxBlobSizeConditionNotMet,
    /// The upload does not exist: the blob that it was for was overwritten or deleted meanwhile.
    #[error("the upload does not exist any more")]
    UploadLost,
    /// The blob has other content than when the read began.
    #[error("the blob was modified while it was read")]
    BlobModified,
    /// Bytes on the disk do not have their checksum.
    #[error("the blob's bytes at {offset} are damaged on the disk")]
    Damaged {
        /// Where: in bytes of a page blob, or of the pages that hold another one.
        offset: u64,
    },
    /// The disk has no room. Nothing was changed.
    #[error("the store has no room")]
    Full,
    /// The change could not be made durable; whether it is there after the next opening is not known.
    #[error("the change could not be made durable")]
    NotDurable,
    /// The store stopped after an error: it reads, and changes nothing until it is opened again.
    #[error("the store is read-only after an error")]
    Stopped,
}
