//! Answers about one blob: its properties, its content, and writes of it.

use jiff::Timestamp;
use strongroom_base::ByteRange;

use super::{Answer, Stamp};
use crate::{
    AccessTier, BlobHeaders, BlobType, Checksum, LeaseState, Metadata, Overrides, SnapshotId,
    structured::STRUCTURED, time::http_date,
};

/// How a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyStatus {
    /// It runs.
    Pending,
    /// It is whole.
    Success,
    /// It was aborted.
    Aborted,
    /// It failed.
    Failed,
}

impl CopyStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Success, Self::Aborted, Self::Failed];

    /// As headers have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// The last copy to a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyState {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub status: CopyStatus,
    /// The source's URL without its secrets.
    pub source: String,
    /// Bytes that are copied.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// When it ended.
    pub completed: Option<Timestamp>,
    /// Why it failed.
    pub description: Option<String>,
    /// Of an incremental copy: the newest snapshot that it has made.
    pub destination_snapshot: Option<SnapshotId>,
}

impl CopyState {
    /// As headers and lists have it: bytes that are copied, and in all.
    pub(super) fn progress(&self) -> String {
        format!("{}/{}", self.done_bytes, self.total_bytes)
    }
}

/// What is known of a blob or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobProperties {
    /// Its state.
    pub stamp: Stamp,
    /// When it was created.
    pub created: Timestamp,
    /// Its kind.
    pub kind: BlobType,
    /// Its length in bytes.
    pub length: u64,
    /// Its HTTP headers.
    pub headers: BlobHeaders,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its lease; a snapshot has none.
    pub lease: Option<LeaseState>,
    /// The sequence number of a page blob.
    pub sequence_number: Option<u64>,
    /// The number of blocks of an append blob.
    pub block_count: Option<u64>,
    /// The tier, and whether nobody has set it.
    pub tier: Option<(AccessTier, bool)>,
    /// The last copy to it.
    pub copy: Option<CopyState>,
    /// Whether it is made by incremental copies.
    pub is_incremental_copy: bool,
}

impl BlobProperties {
    /// The answer of `HEAD`: 200.
    pub fn answer(&self, overrides: &Overrides) -> Answer {
        let mut answer = Answer::new(200).with("content-length", self.length.to_string()).maybe(
            "content-md5",
            self.headers.content_md5.map(|md5| Checksum::Md5(md5).to_header().1),
        );
        if let Some((tier, is_inferred)) = self.tier {
            answer = answer.with("x-ms-access-tier", tier.name());
            if is_inferred {
                answer = answer.with("x-ms-access-tier-inferred", "true");
            }
        }
        if self.is_incremental_copy {
            answer = answer.with("x-ms-incremental-copy", "true");
            let newest = self.copy.as_ref().and_then(|copy| copy.destination_snapshot);
            answer =
                answer.maybe("x-ms-copy-destination-snapshot", newest.map(|id| id.to_string()));
        }
        self.add(answer, overrides)
    }

    /// The answer of Get Blob Metadata: 200.
    pub fn metadata_answer(&self) -> Answer {
        let mut answer = Answer::new(200).stamped(&self.stamp);
        answer.headers.extend(self.metadata.to_headers());
        answer
    }

    /// Headers that `HEAD` and `GET` have.
    fn add(&self, answer: Answer, overrides: &Overrides) -> Answer {
        let own = &self.headers;
        let pick = |set: &Option<String>, own: &Option<String>| set.clone().or_else(|| own.clone());
        let content_type = pick(&overrides.content_type, &own.content_type);
        let mut answer = answer
            .stamped(&self.stamp)
            .with(
                "content-type",
                content_type.unwrap_or_else(|| BlobHeaders::DEFAULT_TYPE.to_owned()),
            )
            .maybe("content-encoding", pick(&overrides.content_encoding, &own.content_encoding))
            .maybe("content-language", pick(&overrides.content_language, &own.content_language))
            .maybe(
                "content-disposition",
                pick(&overrides.content_disposition, &own.content_disposition),
            )
            .maybe("cache-control", pick(&overrides.cache_control, &own.cache_control))
            .with("accept-ranges", "bytes")
            .with("x-ms-blob-type", self.kind.name())
            .with("x-ms-creation-time", http_date(self.created))
            .with("x-ms-server-encrypted", "false")
            .maybe(
                "x-ms-blob-sequence-number",
                self.sequence_number.map(|number| number.to_string()),
            )
            .maybe(
                "x-ms-blob-committed-block-count",
                self.block_count.map(|count| count.to_string()),
            );
        if let Some(lease) = self.lease {
            answer = answer
                .with("x-ms-lease-status", lease.status())
                .with("x-ms-lease-state", lease.name())
                .maybe("x-ms-lease-duration", lease.duration());
        }
        if let Some(copy) = &self.copy {
            answer = answer
                .with("x-ms-copy-id", copy.id.as_str())
                .with("x-ms-copy-status", copy.status.name())
                .with("x-ms-copy-source", copy.source.as_str())
                .with("x-ms-copy-progress", copy.progress())
                .maybe("x-ms-copy-completion-time", copy.completed.map(http_date))
                .maybe("x-ms-copy-status-description", copy.description.clone());
        }
        answer.headers.extend(self.metadata.to_headers());
        answer
    }
}

/// What a read of a blob's content answers; the content is for the face to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRead<'a> {
    /// The blob.
    pub properties: &'a BlobProperties,
    /// The bytes, as `GetBlob::within` says.
    pub range: ByteRange,
    /// Whether they are a part of the blob: 206, else 200.
    pub is_partial: bool,
    /// The checksum of the bytes, if it was asked for.
    pub checksum: Option<Checksum>,
    /// The length of the structured body, if that was asked for.
    pub structured_length: Option<u64>,
}

impl BlobRead<'_> {
    /// Status and headers.
    pub fn answer(&self, overrides: &Overrides) -> Answer {
        let whole = self.properties.headers.content_md5.map(|md5| Checksum::Md5(md5).to_header().1);
        let wire = self.structured_length.unwrap_or(self.range.len());
        let mut answer = Answer::new(if self.is_partial { 206 } else { 200 })
            .with("content-length", wire.to_string());
        if self.is_partial {
            // The range is not empty: `RangeHeader::within` refuses empty ones.
            let last = self.range.end().saturating_sub(1);
            let total = self.properties.length;
            answer = answer
                .with("content-range", format!("bytes {}-{last}/{total}", self.range.offset()))
                .maybe("x-ms-blob-content-md5", whole);
        } else {
            answer = answer.maybe("content-md5", whole);
        }
        if let Some(checksum) = self.checksum {
            let (name, value) = checksum.to_header();
            answer = answer.with(name, value);
        }
        if self.structured_length.is_some() {
            answer = answer
                .with("x-ms-structured-body", STRUCTURED)
                .with("x-ms-structured-content-length", self.range.len().to_string());
        }
        self.properties.add(answer, overrides)
    }
}

/// What a write answers: Put Blob, Put Page, Put Block, Put Block List, Append Block and their forms with a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The state of the blob after it; an uncommitted block changes none.
    pub stamp: Option<Stamp>,
    /// The checksum of the content.
    pub checksum: Option<Checksum>,
    /// The sequence number of a page blob.
    pub sequence_number: Option<u64>,
    /// Where an appended block begins, and how many blocks there are.
    pub appended: Option<(u64, u64)>,
    /// Whether the request's body was structured.
    pub is_structured: bool,
}

impl Written {
    /// The answer: 201.
    pub fn answer(&self) -> Answer {
        let mut answer = Answer::new(201);
        if let Some(stamp) = &self.stamp {
            answer = answer.stamped(stamp);
        }
        if let Some(checksum) = self.checksum {
            let (name, value) = checksum.to_header();
            answer = answer.with(name, value);
        }
        if let Some((offset, blocks)) = self.appended {
            answer = answer
                .with("x-ms-blob-append-offset", offset.to_string())
                .with("x-ms-blob-committed-block-count", blocks.to_string());
        }
        if self.is_structured {
            answer = answer.with("x-ms-structured-body", STRUCTURED);
        }
        answer
            .maybe(
                "x-ms-blob-sequence-number",
                self.sequence_number.map(|number| number.to_string()),
            )
            .with("x-ms-request-server-encrypted", "false")
    }
}
