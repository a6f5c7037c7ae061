//! Error codes: what a refusal is called, its HTTP status and Azure's message for it.

use std::fmt;

use crate::Version;

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $message:literal,)*) => {
        /// An error code of the blob service. A variant is one pair of a name and a message: some names have
        /// several messages or statuses, and so several variants.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $name, "`: ", $message)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            const fn entry(self) -> (&'static str, u16, &'static str) {
                match self {
                    $(Self::$variant => ($name, $status, $message),)*
                }
            }
        }
    };
}

/// The version since which a code has its new name.
const RENAMED: Version = Version::new(2026, 2, 6);
/// The name of [`Code::IncrementalCopyOfEarlierSnapshotNotAllowed`] before [`RENAMED`].
const OLD_NAME: &str = "IncrementalCopyOfEarlierVersionSnapshotNotAllowed";

impl Code {
    /// The name, as the newest version has it.
    pub const fn name(self) -> &'static str {
        self.entry().0
    }

    /// The name that a client of this version knows.
    pub fn name_at(self, version: Version) -> &'static str {
        if self == Self::IncrementalCopyOfEarlierSnapshotNotAllowed && version < RENAMED {
            OLD_NAME
        } else {
            self.name()
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.entry().1
    }

    /// Azure's message.
    pub const fn message(self) -> &'static str {
        self.entry().2
    }

    /// The code with this name and status; with this name and any status if there is none. Knows old names and a
    /// name that Azure's documentation misspells.
    pub fn find(name: &str, status: u16) -> Option<Self> {
        let name = match name {
            OLD_NAME | "IncrementalCopyOfEralierVersionSnapshotNotAllowed" => {
                "IncrementalCopyOfEarlierSnapshotNotAllowed"
            }
            "SnaphotOperationRateExceeded" => "SnapshotOperationRateExceeded",
            name => name,
        };
        let named = || Self::ALL.iter().copied().filter(|code| code.name() == name);
        named().find(|code| code.status() == status).or_else(|| named().next())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

codes! {
    // Of every service.
    AccountIsDisabled "AccountIsDisabled" 403 "The specified account is disabled.",
    AccountNotFound "AccountNotFound" 404 "The specified account does not exist.",
    AccountRequiresHttps "AccountRequiresHttps" 400 "The account being accessed does not support http.",
    AuthenticationFailed "AuthenticationFailed" 403
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed \
         correctly including the signature.",
    AuthorizationFailure "AuthorizationFailure" 403 "This request is not authorized to perform this operation.",
    AuthorizationPermissionMismatch "AuthorizationPermissionMismatch" 403
        "This request is not authorized to perform this operation using this permission.",
    AuthorizationProtocolMismatch "AuthorizationProtocolMismatch" 403
        "This request is not authorized to perform this operation using this protocol.",
    AuthorizationResourceTypeMismatch "AuthorizationResourceTypeMismatch" 403
        "This request is not authorized to perform this operation using this resource type.",
    AuthorizationServiceMismatch "AuthorizationServiceMismatch" 403
        "This request is not authorized to perform this operation using this service.",
    AuthorizationSourceIPMismatch "AuthorizationSourceIPMismatch" 403
        "This request is not authorized to perform this operation using this source IP.",
    BothCrc64AndMd5HeaderPresent "BothCrc64AndMd5HeaderPresent" 400
        "Both x-ms-content-crc64 header and Content-MD5 header are present.",
    BothCrc64AndMsMd5HeaderPresent "BothCrc64AndMsMd5HeaderPresent" 400
        "Both x-ms-content-crc64 header and x-ms-blob-content-md5 header are present.",
    BothCrc64AndMd5RangeHeaderPresent "BothCrc64AndMd5RangeHeaderPresent" 400
        "Both x-ms-range-get-content-crc64 header and x-ms-range-get-content-md5 header are present.",
    ConditionHeadersNotSupported "ConditionHeadersNotSupported" 400 "Condition headers are not supported.",
    ConditionNotMet "ConditionNotMet" 412 "The condition specified using HTTP conditional header(s) is not met.",
    NotModified "ConditionNotMet" 304 "The condition specified using HTTP conditional header(s) is not met.",
    CorsPreflightFailure "CorsPreflightFailure" 403 "CORS not enabled or no matching rule found for this request.",
    Crc64Mismatch "Crc64Mismatch" 400
        "The CRC64 value specified in the request did not match with the CRC64 value calculated by the \
         server.",
    EmptyMetadataKey "EmptyMetadataKey" 400 "The key for one of the metadata key-value pairs is empty.",
    FeatureVersionMismatch "FeatureVersionMismatch" 409
        "Stored access policy contains a permission that is not supported by this version.",
    HostInformationNotPresent "HostInformationNotPresent" 400
        "The Host information is not present in the request. You must send a non-empty Host header or include \
         the absolute URI in the request line.",
    InsufficientAccountPermissions "InsufficientAccountPermissions" 403
        "The account being accessed does not have sufficient permissions to execute this operation.",
    SecondaryReadDisabled "InsufficientAccountPermissions" 403 "Read operations are currently disabled.",
    SecondaryWriteNotAllowed "InsufficientAccountPermissions" 403 "Write operations are not allowed.",
    InternalError "InternalError" 500 "Server encountered an internal error. Please try again after some time.",
    InvalidAuthenticationInfo "InvalidAuthenticationInfo" 400
        "Authentication information is not given in the correct format. Check the value of Authorization \
         header.",
    TokenNotAccepted "InvalidAuthenticationInfo" 401
        "Server failed to authenticate the request. Please refer to the information in the www-authenticate \
         header.",
    InvalidHeaderValue "InvalidHeaderValue" 400 "The value for one of the HTTP headers is not in the correct format.",
    InvalidHttpVerb "InvalidHttpVerb" 400 "The HTTP verb specified is invalid - it is not recognized by the server.",
    InvalidInput "InvalidInput" 400 "One of the request inputs is not valid.",
    InvalidMd5 "InvalidMd5" 400
        "The MD5 value specified in the request is invalid. MD5 value must be 128 bits and base64 encoded.",
    InvalidMetadata "InvalidMetadata" 400
        "The metadata specified is invalid. It has characters that are not permitted.",
    InvalidQueryParameterValue "InvalidQueryParameterValue" 400
        "Value for one of the query parameters specified in the request URI is invalid.",
    InvalidRange "InvalidRange" 416 "The range specified is invalid for the current size of the resource.",
    InvalidResourceName "InvalidResourceName" 400 "The specified resource name contains invalid characters.",
    InvalidUri "InvalidUri" 400 "The requested URI does not represent any resource on the server.",
    InvalidXmlDocument "InvalidXmlDocument" 400 "XML specified is not syntactically valid.",
    InvalidXmlNodeValue "InvalidXmlNodeValue" 400 "The value for one of the XML nodes is not in the correct format.",
    Md5Mismatch "Md5Mismatch" 400
        "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
    MetadataTooLarge "MetadataTooLarge" 400 "The metadata specified exceeds the maximum permissible limit (8KB).",
    MissingContentLengthHeader "MissingContentLengthHeader" 411 "Content-Length HTTP header was not specified.",
    MissingRequiredHeader "MissingRequiredHeader" 400
        "An HTTP header that's mandatory for this request is not specified.",
    MissingRequiredQueryParameter "MissingRequiredQueryParameter" 400
        "A query parameter that's mandatory for this request is not specified.",
    MissingRequiredXmlNode "MissingRequiredXmlNode" 400
        "An XML node that's mandatory for this request is not specified.",
    MultipleConditionHeadersNotSupported "MultipleConditionHeadersNotSupported" 400
        "Multiple condition headers are not supported.",
    NoAuthenticationInformation "NoAuthenticationInformation" 401
        "Server failed to authenticate the request. Please refer to the information in the www-authenticate \
         header.",
    OperationTimedOut "OperationTimedOut" 500 "Operation could not be completed within the specified time.",
    OutOfRangeInput "OutOfRangeInput" 400 "One of the request inputs is out of range.",
    NameLengthOutOfRange "OutOfRangeInput" 400
        "The specified resource name length is not within the permissible limits.",
    OutOfRangeQueryParameterValue "OutOfRangeQueryParameterValue" 400
        "One of the query parameters specified in the request URI is outside the permissible range.",
    PublicAccessNotPermitted "PublicAccessNotPermitted" 409 "Public access is not permitted on this storage account.",
    RequestBodyTooLarge "RequestBodyTooLarge" 413
        "The request body is too large and exceeds the maximum permissible limit.",
    RequestUrlFailedToParse "RequestUrlFailedToParse" 400 "The url in the request could not be parsed.",
    ResourceAlreadyExists "ResourceAlreadyExists" 409 "The specified resource already exists.",
    ResourceNotFound "ResourceNotFound" 404 "The specified resource does not exist.",
    ResourceTypeMismatch "ResourceTypeMismatch" 409
        "The specified resource type does not match the type of the existing resource.",
    ServerBusy "ServerBusy" 503 "The server is busy.",
    UnsatisfiableCondition "UnsatisfiableCondition" 400
        "The request includes an unsatisfiable condition for this operation.",
    UnsupportedHeader "UnsupportedHeader" 400 "One of the HTTP headers specified in the request is not supported.",
    UnsupportedHttpVerb "UnsupportedHttpVerb" 405 "The resource doesn't support specified Http Verb.",
    UnsupportedQueryParameter "UnsupportedQueryParameter" 400
        "One of the query parameters specified in the request URI is not supported.",
    UnsupportedXmlNode "UnsupportedXmlNode" 400 "One of the XML nodes specified in the request is not supported.",

    // Containers.
    ContainerAlreadyExists "ContainerAlreadyExists" 409 "The specified container already exists.",
    ContainerBeingDeleted "ContainerBeingDeleted" 409 "The specified container is being deleted. Try operation later.",
    ContainerDisabled "ContainerDisabled" 409 "The specified container has been disabled by the administrator.",
    ContainerNotFound "ContainerNotFound" 404 "The specified container does not exist.",
    InvalidOperationOnRootContainer "InvalidOperationOnRootContainer" 400
        "The requested operation is not allowed on the root container.",
    LeaseIdMismatchWithContainerOperation "LeaseIdMismatchWithContainerOperation" 412
        "The lease ID specified did not match the lease ID for the container.",
    LeaseNotPresentWithContainerOperation "LeaseNotPresentWithContainerOperation" 412
        "There is currently no lease on the container.",

    // Blobs.
    AccessTierNotSupportedForBlobType "AccessTierNotSupportedForBlobType" 400
        "The access tier is not supported for this blob type.",
    BlobAccessTierNotSupportedForAccountType "BlobAccessTierNotSupportedForAccountType" 400
        "The access tier is not supported for this account type.",
    BlobAlreadyExists "BlobAlreadyExists" 409 "The specified blob already exists.",
    BlobArchived "BlobArchived" 409 "This operation is not permitted on an archived blob.",
    BlobBeingRehydrated "BlobBeingRehydrated" 409
        "This operation is not permitted because the blob is being rehydrated.",
    BlobGenerationMismatch "BlobGenerationMismatch" 409 "The previous snapshot is from a different blob generation.",
    BlobIsSealed "BlobIsSealed" 409
        "The specified blob is sealed, and its contents can't be modified unless the blob is re-created after \
         a delete.",
    BlobModifiedWhileReading "BlobModifiedWhileReading" 409 "The blob has been modified while being read.",
    BlobNotFound "BlobNotFound" 404 "The specified blob does not exist.",
    BlobOverwritten "BlobOverwritten" 409 "The blob has been recreated since the previous snapshot was taken.",
    BlobTierInadequateForContentLength "BlobTierInadequateForContentLength" 409
        "Specified blob tier size limit cannot be less than content length.",
    CannotChangeToLowerTier "CannotChangeToLowerTier" 409 "A higher blob tier has already been explicitly set.",
    ContentLengthLargerThanTierLimit "ContentLengthLargerThanTierLimit" 409
        "The blob's content length cannot exceed its tier limit.",
    InvalidBlobOrBlock "InvalidBlobOrBlock" 400 "The specified blob or block content is invalid.",
    InvalidBlobTier "InvalidBlobTier" 400 "The specified blob tier is invalid.",
    InvalidBlobType "InvalidBlobType" 409 "The blob type is invalid for this operation.",
    InvalidOperation "InvalidOperation" 400
        "Invalid operation against a blob snapshot. Snapshots are read-only. You can't modify them.",
    InvalidVersionForPageBlobOperation "InvalidVersionForPageBlobOperation" 400
        "All operations for PageBlob require at least version 2009-09-19.",
    AppendBlobNeedsNewerVersion "FeatureVersionMismatch" 409
        "The operation for AppendBlob requires at least version 2015-02-21.",
    SnapshotCountExceeded "SnapshotCountExceeded" 409 "The snapshot count against this blob has been exceeded.",
    SnapshotOperationRateExceeded "SnapshotOperationRateExceeded" 409
        "The rate of snapshot operations against this blob has been exceeded.",
    SnapshotsPresent "SnapshotsPresent" 409 "This operation is not permitted because the blob has snapshots.",
    SystemInUse "SystemInUse" 409 "This blob is in use by the system.",
    UnauthorizedBlobOverwrite "UnauthorizedBlobOverwrite" 403
        "This request is not authorized to perform blob overwrites.",

    // Pages.
    InvalidPageRange "InvalidPageRange" 416 "The page range specified is invalid.",
    PreviousSnapshotCannotBeNewer "PreviousSnapshotCannotBeNewer" 400
        "The prevsnapshot query parameter value cannot be newer than snapshot query parameter value.",
    PreviousSnapshotNotFound "PreviousSnapshotNotFound" 409 "The previous snapshot is not found.",
    PreviousSnapshotOperationNotSupported "PreviousSnapshotOperationNotSupported" 409
        "Differential Get Page Ranges is not supported on the previous snapshot.",
    SequenceNumberConditionNotMet "SequenceNumberConditionNotMet" 412
        "The sequence number condition specified was not met.",
    SequenceNumberIncrementTooLarge "SequenceNumberIncrementTooLarge" 409
        "The sequence number increment cannot be performed because it would result in overflow of the \
         sequence number.",

    // Blocks.
    AppendPositionConditionNotMet "AppendPositionConditionNotMet" 412
        "The append position condition specified was not met.",
    BlockCountExceedsLimit "BlockCountExceedsLimit" 409
        "The committed block count cannot exceed the maximum limit of 50,000 blocks.",
    UncommittedBlockCountExceedsLimit "BlockCountExceedsLimit" 409
        "The uncommitted block count cannot exceed the maximum limit of 100,000 blocks.",
    BlockListTooLong "BlockListTooLong" 400 "The block list may not contain more than 50,000 blocks.",
    InvalidBlockId "InvalidBlockId" 400 "The specified block ID is invalid. The block ID must be Base64-encoded.",
    InvalidBlockList "InvalidBlockList" 400 "The specified block list is invalid.",
    MaxBlobSizeConditionNotMet "MaxBlobSizeConditionNotMet" 412 "The max blob size condition specified was not met.",

    // Copies.
    CannotVerifyCopySource "CannotVerifyCopySource" 404 "The specified resource does not exist.",
    CopySourceNotAuthorized "CannotVerifyCopySource" 403 "This request is not authorized to perform this operation.",
    CopySourceUnreachable "CannotVerifyCopySource" 500 "Could not verify the copy source within the specified time.",
    CopyAcrossAccountsNotSupported "CopyAcrossAccountsNotSupported" 400
        "The copy source account and destination account must be the same.",
    CopyIdMismatch "CopyIdMismatch" 409
        "The specified copy ID did not match the copy ID for the pending copy operation.",
    CopySourceCannotBeIncrementalCopyBlob "CopySourceCannotBeIncrementalCopyBlob" 409
        "Source blob of a copy operation cannot be non-snapshot incremental copy blob.",
    IncrementalCopyBlobMismatch "IncrementalCopyBlobMismatch" 409
        "The specified source blob is different than the copy source of the existing incremental copy blob.",
    IncrementalCopyBlobPreviousSnapshotDoesNotExist "IncrementalCopyBlobPreviousSnapshotDoesNotExist" 409
        "The previously copied source snapshot does not exist.",
    IncrementalCopyOfEarlierSnapshotNotAllowed "IncrementalCopyOfEarlierSnapshotNotAllowed" 409
        "The specified snapshot is earlier than the last snapshot copied into the incremental copy blob.",
    IncrementalCopySourceMustBeSnapshot "IncrementalCopySourceMustBeSnapshot" 409
        "The source for incremental copy request must be a snapshot.",
    InvalidSourceBlobType "InvalidSourceBlobType" 409 "The copy source blob type is invalid for this operation.",
    InvalidSourceBlobUrl "InvalidSourceBlobUrl" 409
        "The source url for incremental copy request must be valid azure storage blob url.",
    NoPendingCopyOperation "NoPendingCopyOperation" 409 "There is currently no pending copy operation.",
    OperationNotAllowedOnIncrementalCopyBlob "OperationNotAllowedOnIncrementalCopyBlob" 409
        "The specified operation is not allowed on an incremental copy blob.",
    PendingCopyOperation "PendingCopyOperation" 409 "There is currently a pending copy operation.",
    SourceConditionNotMet "SourceConditionNotMet" 412
        "The source condition specified using HTTP conditional header(s) is not met.",
    TargetConditionNotMet "TargetConditionNotMet" 412
        "The target condition specified using HTTP conditional header(s) is not met.",

    // Leases.
    InfiniteLeaseDurationRequired "InfiniteLeaseDurationRequired" 412
        "The lease ID matched, but the specified lease must be an infinite-duration lease.",
    LeaseAlreadyBroken "LeaseAlreadyBroken" 409 "The lease has already been broken and cannot be broken again.",
    LeaseAlreadyPresent "LeaseAlreadyPresent" 409 "There is already a lease present.",
    LeaseIdMismatchWithBlobOperation "LeaseIdMismatchWithBlobOperation" 412
        "The lease ID specified did not match the lease ID for the blob.",
    LeaseIdMismatchWithLeaseOperation "LeaseIdMismatchWithLeaseOperation" 409
        "The lease ID specified did not match the lease ID for the blob/container.",
    LeaseIdMissing "LeaseIdMissing" 412
        "There is currently a lease on the blob/container and no lease ID was specified in the request.",
    LeaseIsBreakingAndCannotBeAcquired "LeaseIsBreakingAndCannotBeAcquired" 409
        "The lease ID matched, but the lease is currently in breaking state and cannot be acquired until it \
         is broken.",
    LeaseIsBreakingAndCannotBeChanged "LeaseIsBreakingAndCannotBeChanged" 409
        "The lease ID matched, but the lease is currently in breaking state and cannot be changed.",
    LeaseIsBrokenAndCannotBeRenewed "LeaseIsBrokenAndCannotBeRenewed" 409
        "The lease ID matched, but the lease has been broken explicitly and cannot be renewed.",
    LeaseLost "LeaseLost" 412 "A lease ID was specified, but the lease for the blob/container has expired.",
    LeaseNotPresentWithBlobOperation "LeaseNotPresentWithBlobOperation" 412 "There is currently no lease on the blob.",
    LeaseNotPresentWithLeaseOperation "LeaseNotPresentWithLeaseOperation" 409
        "There is currently no lease on the blob/container.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_code_has_the_name_that_the_version_knows() {
        let code = Code::IncrementalCopyOfEarlierSnapshotNotAllowed;
        assert_eq!(code.name_at(Version::new(2025, 11, 5)), OLD_NAME);
        assert_eq!(
            code.name_at(Version::new(2026, 10, 6)),
            "IncrementalCopyOfEarlierSnapshotNotAllowed"
        );
        assert_eq!(Code::find(OLD_NAME, 409), Some(code));
        assert_eq!(Code::find("IncrementalCopyOfEarlierSnapshotNotAllowed", 409), Some(code));
    }

    #[test]
    fn every_code_is_found_by_its_name_and_status() {
        for code in Code::ALL {
            let found = Code::find(code.name(), code.status()).expect("is there");
            assert_eq!((found.name(), found.status()), (code.name(), code.status()));
            assert!(
                code.message().ends_with('.') && (300..=599).contains(&code.status()),
                "{code}"
            );
        }
        assert_eq!(Code::find("ConditionNotMet", 304), Some(Code::NotModified));
        assert_eq!(Code::find("ConditionNotMet", 412), Some(Code::ConditionNotMet));
        assert_eq!(Code::find("BlobFrozen", 409), None);
    }

    /// Clients repeat a request for a status of the server and wait; a refusal must not look like one.
    #[test]
    fn only_the_failures_of_the_server_have_a_status_of_the_server() {
        let server: Vec<_> = Code::ALL.iter().filter(|code| code.status() >= 500).collect();
        let expected = [
            &Code::InternalError,
            &Code::OperationTimedOut,
            &Code::ServerBusy,
            &Code::CopySourceUnreachable,
        ];
        assert_eq!(server, expected);
    }
}
