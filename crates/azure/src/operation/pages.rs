//! Operations on page blobs.

use strongroom_base::ByteRange;

use super::{BlobWrite, Parts, ReadBlob, Source, SourceUrl, max_results};
use crate::{
    AccessTier, BlobHeaders, Body, Code, Headers, Metadata, RangeHeader, Refusal,
    SequenceConditions, SnapshotId,
    range::{MAX_PAGE_BLOB, MAX_PUT_PAGE, PAGE, pages},
};

/// The most ranges in one answer.
const MAX_RANGES: u32 = 10_000;
/// The greatest sequence number.
const MAX_SEQUENCE: u64 = i64::MAX.cast_unsigned();

/// Put Blob of a page blob: its pages are all zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutPageBlob {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// Its length in bytes: whole pages, at most 8 TiB.
    pub length: u64,
    /// Its first sequence number.
    pub sequence_number: u64,
    /// Its HTTP headers.
    pub headers: BlobHeaders,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its tier.
    pub tier: Option<AccessTier>,
}

impl PutPageBlob {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        parts.no_body()?;
        let length =
            blob_length(headers)?.ok_or_else(|| Refusal::missing("x-ms-blob-content-length"))?;
        Ok(Self {
            write: BlobWrite::parse(headers)?,
            length,
            sequence_number: sequence_number(headers)?.unwrap_or(0),
            headers: BlobHeaders::parse_with_standard(headers)?,
            metadata: Metadata::parse(headers)?,
            tier: AccessTier::of(headers)?,
        })
    }
}

/// The length that a page blob gets.
pub(super) fn blob_length(headers: &Headers) -> Result<Option<u64>, Refusal> {
    let name = "x-ms-blob-content-length";
    let Some(length) = headers.number(name)? else { return Ok(None) };
    if length > MAX_PAGE_BLOB || !length.is_multiple_of(PAGE) {
        return Err(Refusal::header(name, &length.to_string()));
    }
    Ok(Some(length))
}

fn sequence_number(headers: &Headers) -> Result<Option<u64>, Refusal> {
    let name = "x-ms-blob-sequence-number";
    match headers.number(name)? {
        Some(number) if number > MAX_SEQUENCE => Err(Refusal::header(name, &number.to_string())),
        number => Ok(number),
    }
}

/// Put Page, update. Metadata that clients repeat here means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutPage {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// Conditions on the sequence number.
    pub sequence: SequenceConditions,
    /// The pages, at most 4 MiB.
    pub range: ByteRange,
    /// Their content, as long as the range.
    pub body: Body,
}

/// Put Page, clear: the pages become zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClearPages {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// Conditions on the sequence number.
    pub sequence: SequenceConditions,
    /// The pages, of any number.
    pub range: ByteRange,
}

/// Put Page From URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutPageFromUrl {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// Conditions on the sequence number.
    pub sequence: SequenceConditions,
    /// The pages, at most 4 MiB.
    pub range: ByteRange,
    /// The source.
    pub source: Source,
    /// The bytes of the source, as long as the range.
    pub source_range: ByteRange,
}

/// One of the three forms of Put Page.
pub(super) enum PutPages {
    Update(PutPage),
    Clear(ClearPages),
    FromUrl(PutPageFromUrl),
}

impl PutPages {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        let form = headers.required("x-ms-page-write")?;
        let write = BlobWrite::parse(headers)?;
        let sequence = SequenceConditions::parse(headers)?;
        let has_source = headers.get("x-ms-copy-source").is_some();
        match form.to_ascii_lowercase().as_str() {
            "clear" => {
                if has_source {
                    return Err(Refusal::unsupported("x-ms-copy-source"));
                }
                parts.no_body()?;
                Ok(Self::Clear(ClearPages { write, sequence, range: pages(headers)? }))
            }
            "update" if has_source => {
                parts.no_body()?;
                let range = at_most(pages(headers)?)?;
                let source = Source::parse(headers)?;
                let missing = || Refusal::missing("x-ms-source-range");
                let asked = source.range.ok_or_else(missing)?;
                let last = asked.last.ok_or_else(missing)?;
                if asked.length() != Some(range.len()) {
                    return Err(Refusal::new(Code::InvalidHeaderValue)
                        .with("HeaderName", "x-ms-source-range")
                        .with("Reason", "It is not as long as the range of pages."));
                }
                let source_range = ByteRange::between(asked.start, last.saturating_add(1));
                Ok(Self::FromUrl(PutPageFromUrl { write, sequence, range, source, source_range }))
            }
            "update" => {
                let body = parts.body(MAX_PUT_PAGE)?;
                let range = at_most(pages(headers)?)?;
                if body.length != range.len() {
                    return Err(Refusal::header("content-length", &body.length.to_string())
                        .with("Reason", "It is not the length of the range of pages."));
                }
                Ok(Self::Update(PutPage { write, sequence, range, body }))
            }
            _ => Err(Refusal::header("x-ms-page-write", form)),
        }
    }
}

fn at_most(range: ByteRange) -> Result<ByteRange, Refusal> {
    if range.len() > MAX_PUT_PAGE {
        return Err(
            Refusal::new(Code::RequestBodyTooLarge).with("MaxLimit", MAX_PUT_PAGE.to_string())
        );
    }
    Ok(range)
}

/// The earlier state of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviousSnapshot {
    /// A snapshot of the same blob.
    Id(SnapshotId),
    /// `x-ms-previous-snapshot-url`: a snapshot by its URL, as tools for managed disks send it.
    Url(SourceUrl, SnapshotId),
}

impl PreviousSnapshot {
    fn of(parts: &Parts<'_>) -> Result<Option<Self>, Refusal> {
        let name = "x-ms-previous-snapshot-url";
        let id = parts.query.parsed("prevsnapshot", |value| value.parse().ok())?;
        match (id, parts.headers.get(name)) {
            (Some(_), Some(_)) => Err(Refusal::unsupported(name)
                .with("Reason", "The previous snapshot is named in the query, too.")),
            (Some(id), None) => Ok(Some(Self::Id(id))),
            (None, None) => Ok(None),
            (None, Some(value)) => {
                let url = SourceUrl::parse(name, value)?;
                let bad = || Refusal::new(Code::InvalidHeaderValue).with("HeaderName", name);
                let id = url.snapshot().map_err(|_| bad())?.ok_or_else(bad)?;
                Ok(Some(Self::Url(url, id)))
            }
        }
    }

    /// The id of the snapshot.
    pub const fn id(&self) -> SnapshotId {
        match self {
            Self::Id(id) | Self::Url(_, id) => *id,
        }
    }
}

/// Get Page Ranges, and its difference to an earlier snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetPageRanges {
    /// What is read.
    pub read: ReadBlob,
    /// The earlier state; without one, every page that has content is listed.
    pub previous: Option<PreviousSnapshot>,
    /// The part of the blob that is asked for.
    pub range: Option<RangeHeader>,
    /// Where an earlier answer ended.
    pub marker: Option<String>,
    /// The most ranges, at most 10,000.
    pub max_results: Option<u32>,
}

impl GetPageRanges {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let ranges = Self {
            read: ReadBlob::parse(parts)?,
            previous: PreviousSnapshot::of(parts)?,
            range: RangeHeader::of(parts.headers)?,
            marker: parts.query.get("marker").map(str::to_owned),
            max_results: max_results(parts.query, MAX_RANGES)?,
        };
        let newer = ranges.previous.as_ref().zip(ranges.read.snapshot);
        if newer.is_some_and(|(previous, snapshot)| previous.id() > snapshot) {
            return Err(Code::PreviousSnapshotCannotBeNewer.into());
        }
        Ok(ranges)
    }

    /// The bytes that are asked for in a blob of this length. An empty blob has none.
    pub fn within(&self, length: u64) -> Result<ByteRange, Refusal> {
        match self.range {
            Some(RangeHeader { start: 0, last: None }) if length == 0 => {
                Ok(ByteRange::between(0, 0))
            }
            Some(range) => range.within(length),
            None => Ok(ByteRange::between(0, length)),
        }
    }
}

/// What happens to a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceAction {
    /// It becomes the greater of both.
    Max(u64),
    /// It becomes this.
    Update(u64),
    /// It becomes one more.
    Increment,
}

impl SequenceAction {
    pub(super) fn of(headers: &Headers) -> Result<Option<Self>, Refusal> {
        let name = "x-ms-sequence-number-action";
        let Some(action) = headers.get(name) else { return Ok(None) };
        let number = sequence_number(headers)?;
        let required = || number.ok_or_else(|| Refusal::missing("x-ms-blob-sequence-number"));
        Ok(Some(match action.to_ascii_lowercase().as_str() {
            "max" => Self::Max(required()?),
            "update" => Self::Update(required()?),
            "increment" => match number {
                None => Self::Increment,
                Some(number) => {
                    return Err(Refusal::header("x-ms-blob-sequence-number", &number.to_string()));
                }
            },
            _ => return Err(Refusal::header(name, action)),
        }))
    }

    /// The number after the action.
    pub fn apply(self, number: u64) -> Result<u64, Refusal> {
        match self {
            Self::Max(other) => Ok(number.max(other)),
            Self::Update(other) => Ok(other),
            Self::Increment if number >= MAX_SEQUENCE => {
                Err(Code::SequenceNumberIncrementTooLarge.into())
            }
            Self::Increment => Ok(number + 1),
        }
    }
}
