//! Operations on a blob: those of every kind of blob, and the way to those of one kind.

use strongroom_base::ByteRange;

use super::{
    AbortCopy, AppendBlock, ClearPages, CopyBlob, GetBlockList, GetPageRanges, IncrementalCopy,
    Method, Parts, PutAppendBlob, PutBlobFromUrl, PutBlock, PutBlockBlob, PutBlockFromUrl,
    PutBlockList, PutPage, PutPageBlob, PutPageFromUrl, SequenceAction, Source,
    pages::{PutPages, blob_length},
};
use crate::{
    AccessTier, BlobHeaders, BlobType, Body, ChecksumKind, Code, Conditions, Headers, Lease,
    LeaseId, Metadata, RangeHeader, Refusal, SnapshotId, range::MAX_CHECKED_READ,
    structured::is_structured,
};

/// An operation on a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobOperation {
    /// Put Blob of a page blob.
    PutPageBlob(PutPageBlob),
    /// Put Blob of a block blob.
    PutBlockBlob(PutBlockBlob),
    /// Put Blob of an append blob.
    PutAppendBlob(PutAppendBlob),
    /// Put Blob From URL.
    PutBlobFromUrl(PutBlobFromUrl),
    /// Put Page, update.
    PutPage(PutPage),
    /// Put Page, clear.
    ClearPages(ClearPages),
    /// Put Page From URL.
    PutPageFromUrl(PutPageFromUrl),
    /// Get Page Ranges, and its difference to a snapshot.
    GetPageRanges(GetPageRanges),
    /// Put Block.
    PutBlock(PutBlock),
    /// Put Block From URL.
    PutBlockFromUrl(PutBlockFromUrl),
    /// Put Block List.
    PutBlockList(PutBlockList),
    /// Get Block List.
    GetBlockList(GetBlockList),
    /// Append Block.
    AppendBlock(AppendBlock<Body>),
    /// Append Block From URL.
    AppendBlockFromUrl(AppendBlock<Source>),
    /// Snapshot Blob.
    Snapshot(SnapshotBlob),
    /// Copy Blob, and Copy Blob From URL.
    Copy(CopyBlob),
    /// Abort Copy Blob.
    AbortCopy(AbortCopy),
    /// Incremental Copy Blob.
    IncrementalCopy(IncrementalCopy),
    /// Delete Blob.
    Delete(DeleteBlob),
    /// Set Blob Properties.
    SetProperties(SetBlobProperties),
    /// Set Blob Metadata.
    SetMetadata(SetBlobMetadata),
    /// Set Blob Tier.
    SetTier(SetBlobTier),
    /// Lease Blob.
    Lease(Lease),
    /// Get Blob.
    Get(GetBlob),
    /// Get Blob Properties: `HEAD`.
    GetProperties(ReadBlob),
    /// Get Blob Metadata.
    GetMetadata(ReadBlob),
    /// Get Account Information, addressed to a blob.
    GetAccountInformation,
}

/// What every change of a blob may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobWrite {
    /// The id of its lease.
    pub lease: Option<LeaseId>,
    /// Conditions.
    pub conditions: Conditions,
}

impl BlobWrite {
    pub(super) fn parse(headers: &Headers) -> Result<Self, Refusal> {
        Ok(Self { lease: LeaseId::of(headers)?, conditions: Conditions::parse(headers)? })
    }
}

/// What every read of a blob may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBlob {
    /// The snapshot; without one, the blob itself.
    pub snapshot: Option<SnapshotId>,
    /// The id of its lease, which must then be held.
    pub lease: Option<LeaseId>,
    /// Conditions.
    pub conditions: Conditions,
}

impl ReadBlob {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            snapshot: parts.query.parsed("snapshot", |value| value.parse().ok())?,
            lease: LeaseId::of(parts.headers)?,
            conditions: Conditions::parse(parts.headers)?,
        })
    }
}

/// Get Blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetBlob {
    /// What is read.
    pub read: ReadBlob,
    /// Which bytes; without a range, all.
    pub range: Option<RangeHeader>,
    /// The checksum of the range that the answer must have.
    pub checksum: Option<ChecksumKind>,
    /// Whether the answer's body must be structured.
    pub is_structured: bool,
}

impl GetBlob {
    fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        let range = RangeHeader::of(headers)?;
        let (md5, crc64) = ("x-ms-range-get-content-md5", "x-ms-range-get-content-crc64");
        let checksum = match (headers.flag(md5)?, headers.flag(crc64)?) {
            (true, true) => return Err(Code::BothCrc64AndMd5RangeHeaderPresent.into()),
            (true, false) => Some(ChecksumKind::Md5),
            (false, true) => Some(ChecksumKind::Crc64),
            (false, false) => None,
        };
        if checksum.is_some() && range.is_none() {
            return Err(Refusal::missing("x-ms-range"));
        }
        let form = headers.get("x-ms-structured-body");
        if let Some(form) = form.filter(|form| !is_structured(form)) {
            return Err(Refusal::header("x-ms-structured-body", form));
        }
        if form.is_some() && checksum.is_some() {
            return Err(Refusal::unsupported("x-ms-structured-body")
                .with("Reason", "A structured body has its own checksums."));
        }
        Ok(Self { read: ReadBlob::parse(parts)?, range, checksum, is_structured: form.is_some() })
    }

    /// The bytes that are answered from a blob of this length, and whether they are a part of it (206) or it (200).
    pub fn within(&self, length: u64) -> Result<(ByteRange, bool), Refusal> {
        let Some(range) = self.range else { return Ok((ByteRange::between(0, length), false)) };
        let range = range.within(length)?;
        if self.checksum.is_some() && range.len() > MAX_CHECKED_READ {
            return Err(Refusal::header("x-ms-range", &range.len().to_string())
                .with("Reason", "A range with a checksum has at most 4 MiB."));
        }
        Ok((range, true))
    }
}

/// Snapshot Blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotBlob {
    /// Lease and conditions. Without the id of a lease, a lease does not matter.
    pub write: BlobWrite,
    /// Metadata of the snapshot; that of the blob if it is empty.
    pub metadata: Metadata,
}

/// What is deleted besides the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteSnapshots {
    /// The snapshots, too.
    Include,
    /// The snapshots, and not the blob.
    Only,
}

/// Delete Blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteBlob {
    /// The snapshot; without one, the blob.
    pub snapshot: Option<SnapshotId>,
    /// What is done with snapshots; without it, a blob with snapshots is not deleted.
    pub snapshots: Option<DeleteSnapshots>,
    /// Lease and conditions.
    pub write: BlobWrite,
}

impl DeleteBlob {
    fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let name = "x-ms-delete-snapshots";
        let parse = |value: &str| match value.to_ascii_lowercase().as_str() {
            "include" => Some(DeleteSnapshots::Include),
            "only" => Some(DeleteSnapshots::Only),
            _ => None,
        };
        let delete = Self {
            snapshot: parts.query.parsed("snapshot", |value| value.parse().ok())?,
            snapshots: parts.headers.parsed(name, parse)?,
            write: BlobWrite::parse(parts.headers)?,
        };
        match (delete.snapshot, delete.snapshots) {
            (Some(snapshot), Some(_)) => Err(Refusal::parameter(
                "snapshot",
                &snapshot.to_string(),
                "A snapshot has no snapshots that could be deleted with it.",
            )),
            _ => Ok(delete),
        }
    }
}

/// Set Blob Properties: HTTP headers, the length of a page blob, its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetBlobProperties {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// The new HTTP headers, instead of all there are. They stay as they are if only the length or the sequence number
    /// is set.
    pub headers: Option<BlobHeaders>,
    /// The new length of a page blob.
    pub length: Option<u64>,
    /// What happens to the sequence number of a page blob.
    pub sequence: Option<SequenceAction>,
}

impl SetBlobProperties {
    fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        parts.no_body()?;
        let headers = BlobHeaders::parse(parts.headers)?;
        let length = blob_length(parts.headers)?;
        let sequence = SequenceAction::of(parts.headers)?;
        if sequence.is_none() && parts.headers.get("x-ms-blob-sequence-number").is_some() {
            return Err(Refusal::missing("x-ms-sequence-number-action"));
        }
        let keeps = headers.is_empty() && (length.is_some() || sequence.is_some());
        Ok(Self {
            write: BlobWrite::parse(parts.headers)?,
            headers: (!keeps).then_some(headers),
            length,
            sequence,
        })
    }
}

/// Set Blob Metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetBlobMetadata {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// The new metadata, instead of all there is.
    pub metadata: Metadata,
}

/// Set Blob Tier. `AccessTier::check` says which blobs of which accounts may have the tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetBlobTier {
    /// The snapshot; without one, the blob.
    pub snapshot: Option<SnapshotId>,
    /// The id of its lease.
    pub lease: Option<LeaseId>,
    /// The new tier.
    pub tier: AccessTier,
}

impl BlobOperation {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let (comp, restype) = (parts.comp(), parts.restype());
        match (restype.as_str(), comp.as_str(), parts.method) {
            ("", _, Method::Put) => Self::parse_put(parts, &comp),
            ("", "", Method::Delete) => Ok(Self::Delete(DeleteBlob::parse(parts)?)),
            ("", "", Method::Get) => Ok(Self::Get(GetBlob::parse(parts)?)),
            ("", "" | "metadata", Method::Head) => Ok(Self::GetProperties(ReadBlob::parse(parts)?)),
            ("", "metadata", Method::Get) => Ok(Self::GetMetadata(ReadBlob::parse(parts)?)),
            ("", "pagelist", Method::Get | Method::Head) => {
                Ok(Self::GetPageRanges(GetPageRanges::parse(parts)?))
            }
            ("", "blocklist", Method::Get | Method::Head) => {
                Ok(Self::GetBlockList(GetBlockList::parse(parts)?))
            }
            ("account", "properties", Method::Get | Method::Head) => {
                Ok(Self::GetAccountInformation)
            }
            ("", "" | "metadata" | "pagelist" | "blocklist", _) => Err(parts.unknown(true)),
            ("", comp, _) if PUT_ONLY.contains(&comp) => Err(parts.unknown(true)),
            _ => Err(parts.unknown(false)),
        }
    }

    fn parse_put(parts: &Parts<'_>, comp: &str) -> Result<Self, Refusal> {
        let headers = parts.headers;
        let snapshot = parts.query.parsed("snapshot", |value| value.parse().ok())?;
        if snapshot.is_some() && comp != "tier" {
            return Err(Code::InvalidOperation.into());
        }
        let has_source = headers.get("x-ms-copy-source").is_some();
        Ok(match comp {
            "" => return Self::parse_put_blob(parts, has_source),
            "page" => match PutPages::parse(parts)? {
                PutPages::Update(update) => Self::PutPage(update),
                PutPages::Clear(clear) => Self::ClearPages(clear),
                PutPages::FromUrl(from_url) => Self::PutPageFromUrl(from_url),
            },
            "block" if has_source => Self::PutBlockFromUrl(PutBlockFromUrl::parse(parts)?),
            "block" => Self::PutBlock(PutBlock::parse(parts)?),
            "blocklist" => Self::PutBlockList(PutBlockList::parse(parts)?),
            "appendblock" if has_source => {
                Self::AppendBlockFromUrl(AppendBlock::parse_from_url(parts)?)
            }
            "appendblock" => Self::AppendBlock(AppendBlock::parse(parts)?),
            "copy" => Self::AbortCopy(AbortCopy::parse(parts)?),
            "incrementalcopy" => Self::IncrementalCopy(IncrementalCopy::parse(parts)?),
            "properties" => Self::SetProperties(SetBlobProperties::parse(parts)?),
            "snapshot" => {
                parts.no_body()?;
                Self::Snapshot(SnapshotBlob {
                    write: BlobWrite::parse(headers)?,
                    metadata: Metadata::parse(headers)?,
                })
            }
            "metadata" => {
                parts.no_body()?;
                Self::SetMetadata(SetBlobMetadata {
                    write: BlobWrite::parse(headers)?,
                    metadata: Metadata::parse(headers)?,
                })
            }
            "lease" => {
                parts.no_body()?;
                Self::Lease(Lease::parse(headers)?)
            }
            "tier" => Self::SetTier(SetBlobTier {
                snapshot,
                lease: LeaseId::of(headers)?,
                tier: AccessTier::of(headers)?
                    .ok_or_else(|| Refusal::missing("x-ms-access-tier"))?,
            }),
            "pagelist" => return Err(parts.unknown(true)),
            _ => return Err(parts.unknown(false)),
        })
    }

    /// Put Blob of each kind, and the copies that have no `comp`.
    fn parse_put_blob(parts: &Parts<'_>, has_source: bool) -> Result<Self, Refusal> {
        let name = "x-ms-blob-type";
        let kind: Option<BlobType> = parts.headers.parsed(name, |value| value.parse().ok())?;
        Ok(match (kind, has_source) {
            (None, true) => Self::Copy(CopyBlob::parse(parts)?),
            (None, false) => return Err(Refusal::missing(name)),
            (Some(BlobType::Block), true) => Self::PutBlobFromUrl(PutBlobFromUrl::parse(parts)?),
            (Some(_), true) => return Err(Refusal::unsupported("x-ms-copy-source")),
            (Some(BlobType::Page), false) => Self::PutPageBlob(PutPageBlob::parse(parts)?),
            (Some(BlobType::Block), false) => Self::PutBlockBlob(PutBlockBlob::parse(parts)?),
            (Some(BlobType::Append), false) => Self::PutAppendBlob(PutAppendBlob::parse(parts)?),
        })
    }

    pub(super) fn body(&self) -> Option<&Body> {
        match self {
            Self::PutBlockBlob(PutBlockBlob { body, .. })
            | Self::PutPage(PutPage { body, .. })
            | Self::PutBlock(PutBlock { body, .. })
            | Self::PutBlockList(PutBlockList { body, .. })
            | Self::AppendBlock(AppendBlock { content: body, .. }) => Some(body),
            _ => None,
        }
    }

    pub(super) fn is_write(&self) -> bool {
        !matches!(
            self,
            Self::GetPageRanges(_)
                | Self::GetBlockList(_)
                | Self::Get(_)
                | Self::GetProperties(_)
                | Self::GetMetadata(_)
                | Self::GetAccountInformation
        )
    }
}

/// Values of `comp` that only `PUT` has.
const PUT_ONLY: [&str; 9] = [
    "page",
    "block",
    "appendblock",
    "copy",
    "incrementalcopy",
    "properties",
    "snapshot",
    "lease",
    "tier",
];
