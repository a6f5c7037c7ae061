//! The store's refusals as Azure's codes.

use azure::Code;
use strongroom_azure as azure;
use strongroom_blobs::Refusal;

use crate::storage::Failure;

/// What a request is about: some refusals have another code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A container, or the account.
    Container,
    /// A blob.
    Blob,
    /// The blob that a copy is made to.
    CopyTarget,
}

/// Why something failed, as the answer says it.
pub(crate) fn failure(failure: &Failure, subject: Subject) -> azure::Refusal {
    match failure {
        Failure::Refused(inner) => refusal(inner, subject),
        Failure::Busy => Code::ServerBusy.into(),
        Failure::Broken => Code::InternalError.into(),
    }
}

/// The code of a refusal, with the values that its variant has.
pub(crate) fn refusal(refusal: &Refusal, subject: Subject) -> azure::Refusal {
    if let Refusal::NotPrimary { role } = refusal {
        return crate::replication::not_primary(*role);
    }
    let plain = azure::Refusal::new(code(refusal, subject));
    match refusal {
        Refusal::TooLarge { limit } => plain.with("MaxLimit", limit.to_string()),
        Refusal::Full | Refusal::Damaged { .. } | Refusal::Stopped | Refusal::NotDurable => {
            plain.with("Reason", refusal.to_string())
        }
        _ => plain,
    }
}

/// The code of a refusal.
const fn code(refusal: &Refusal, subject: Subject) -> Code {
    let is_container = matches!(subject, Subject::Container);
    match refusal {
        Refusal::AccountNotFound => Code::AccountNotFound,
        Refusal::AccountExists => Code::ResourceAlreadyExists,
        Refusal::InvalidName => Code::InvalidResourceName,
        Refusal::ContainerNotFound => Code::ContainerNotFound,
        Refusal::ContainerExists => Code::ContainerAlreadyExists,
        Refusal::BlobNotFound => Code::BlobNotFound,
        Refusal::BlobExists => Code::BlobAlreadyExists,
        Refusal::ConditionNotMet => match subject {
            Subject::CopyTarget => Code::TargetConditionNotMet,
            Subject::Container | Subject::Blob => Code::ConditionNotMet,
        },
        Refusal::NotModified => Code::NotModified,
        Refusal::SequenceConditionNotMet => Code::SequenceNumberConditionNotMet,
        Refusal::SequenceNumberIncrementTooLarge => Code::SequenceNumberIncrementTooLarge,
        Refusal::InvalidSequenceNumber
        | Refusal::InvalidSize
        | Refusal::LeaseDuration
        | Refusal::LeaseBreakPeriod => Code::InvalidHeaderValue,
        Refusal::InvalidPageRange => Code::InvalidPageRange,
        Refusal::InvalidRange => Code::InvalidRange,
        Refusal::TooLarge { .. } => Code::RequestBodyTooLarge,
        Refusal::InvalidPolicies => Code::InvalidXmlNodeValue,
        Refusal::SnapshotsPresent => Code::SnapshotsPresent,
        Refusal::InvalidSnapshotDeletion => Code::InvalidQueryParameterValue,
        Refusal::SnapshotCountExceeded => Code::SnapshotCountExceeded,
        Refusal::SnapshotRateExceeded => Code::SnapshotOperationRateExceeded,
        Refusal::InvalidSnapshotSet => Code::InvalidInput,
        Refusal::PreviousSnapshotNotFound => Code::PreviousSnapshotNotFound,
        Refusal::PreviousSnapshotCannotBeNewer => Code::PreviousSnapshotCannotBeNewer,
        Refusal::BlobOverwritten => Code::BlobOverwritten,
        Refusal::LeaseIdMissing => Code::LeaseIdMissing,
        Refusal::LeaseIdMismatch if is_container => Code::LeaseIdMismatchWithContainerOperation,
        Refusal::LeaseIdMismatch => Code::LeaseIdMismatchWithBlobOperation,
        Refusal::LeaseNotPresent if is_container => Code::LeaseNotPresentWithContainerOperation,
        Refusal::LeaseNotPresent => Code::LeaseNotPresentWithBlobOperation,
        Refusal::LeaseLost => Code::LeaseLost,
        Refusal::LeaseIdMismatchWithLease => Code::LeaseIdMismatchWithLeaseOperation,
        Refusal::LeaseNotPresentWithLease => Code::LeaseNotPresentWithLeaseOperation,
        Refusal::LeaseAlreadyPresent => Code::LeaseAlreadyPresent,
        Refusal::LeaseIsBreakingAndCannotBeAcquired => Code::LeaseIsBreakingAndCannotBeAcquired,
        Refusal::LeaseIsBreakingAndCannotBeChanged => Code::LeaseIsBreakingAndCannotBeChanged,
        Refusal::LeaseIsBrokenAndCannotBeRenewed => Code::LeaseIsBrokenAndCannotBeRenewed,
        Refusal::InfiniteLeaseRequired => Code::InfiniteLeaseDurationRequired,
        Refusal::PendingCopyOperation => Code::PendingCopyOperation,
        Refusal::NoPendingCopyOperation => Code::NoPendingCopyOperation,
        Refusal::CopyIdMismatch => Code::CopyIdMismatch,
        Refusal::OperationNotAllowedOnIncrementalCopyBlob => {
            Code::OperationNotAllowedOnIncrementalCopyBlob
        }
        Refusal::IncrementalCopyBlobMismatch => Code::IncrementalCopyBlobMismatch,
        Refusal::IncrementalCopyOfEarlierSnapshot => {
            Code::IncrementalCopyOfEarlierSnapshotNotAllowed
        }
        Refusal::InvalidBlobType => Code::InvalidBlobType,
        Refusal::InvalidBlock => Code::InvalidBlobOrBlock,
        Refusal::InvalidBlockList => Code::InvalidBlockList,
        Refusal::BlockCountExceeded => Code::BlockCountExceedsLimit,
        Refusal::UncommittedBlockCountExceeded => Code::UncommittedBlockCountExceedsLimit,
        Refusal::AppendPositionConditionNotMet => Code::AppendPositionConditionNotMet,
        Refusal::MaxBlobSizeConditionNotMet => Code::MaxBlobSizeConditionNotMet,
        Refusal::BlobModified => Code::BlobModifiedWhileReading,
        // The client tries again: room may be made meanwhile, and it sends its content another time.
        Refusal::Full | Refusal::UploadLost => Code::ServerBusy,
        Refusal::NotPrimary { .. } => Code::AccountIsDisabled,
        Refusal::Damaged { .. } | Refusal::NotDurable | Refusal::Stopped => Code::InternalError,
    }
}
