//! Operations on block blobs and append blobs.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{BlobWrite, Parts, ReadBlob, Source};
use crate::{
    AccessTier, AppendConditions, BlobHeaders, Body, Code, Headers, LeaseId, Metadata, Refusal,
    Version, xml::MAX_BLOCK_LIST_XML,
};

const MIB: u64 = 1 << 20;
/// The longest id of a block, in bytes before base64.
const MAX_BLOCK_ID: usize = 64;

/// The most bytes of Put Blob, by version.
fn max_put_blob(version: Version) -> u64 {
    match version {
        v if v >= Version::new(2019, 12, 12) => 5000 * MIB,
        v if v >= Version::new(2016, 5, 31) => 256 * MIB,
        _ => 64 * MIB,
    }
}

/// The most bytes of Put Block, by version.
fn max_put_block(version: Version) -> u64 {
    match version {
        v if v >= Version::new(2019, 12, 12) => 4000 * MIB,
        v if v >= Version::new(2016, 5, 31) => 100 * MIB,
        _ => 4 * MIB,
    }
}

/// The most bytes of Append Block, by version.
fn max_append_block(version: Version) -> u64 {
    if version >= Version::new(2022, 11, 2) { 100 * MIB } else { 4 * MIB }
}

/// The id of a block: up to 64 bytes. All ids of a blob have one length.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(Vec<u8>);

impl BlockId {
    /// The id with these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (1..=MAX_BLOCK_ID).contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// Reads base64.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_bytes(&STANDARD.decode(text).ok()?)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// In base64.
impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.0))
    }
}

fn block_id(parts: &Parts<'_>) -> Result<BlockId, Refusal> {
    let text = parts.query.required("blockid")?;
    BlockId::parse(text).ok_or_else(|| {
        Refusal::new(Code::InvalidBlockId)
            .with("QueryParameterName", "blockid")
            .with("QueryParameterValue", text)
    })
}

/// Put Blob of a block blob: its whole content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBlockBlob {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// Its HTTP headers.
    pub headers: BlobHeaders,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its tier.
    pub tier: Option<AccessTier>,
    /// Its content.
    pub body: Body,
}

impl PutBlockBlob {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        Ok(Self {
            write: BlobWrite::parse(headers)?,
            headers: BlobHeaders::parse_with_standard(headers)?,
            metadata: Metadata::parse(headers)?,
            tier: AccessTier::of(headers)?,
            body: Body::parse_blob(headers, parts.version, max_put_blob(parts.version))?,
        })
    }
}

/// Put Blob of an append blob: it is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutAppendBlob {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// Its HTTP headers.
    pub headers: BlobHeaders,
    /// Its metadata.
    pub metadata: Metadata,
}

impl PutAppendBlob {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        if parts.version < Version::new(2015, 2, 21) {
            return Err(Code::AppendBlobNeedsNewerVersion.into());
        }
        parts.no_body()?;
        Ok(Self {
            write: BlobWrite::parse(headers)?,
            headers: BlobHeaders::parse_with_standard(headers)?,
            metadata: Metadata::parse(headers)?,
        })
    }
}

/// Put Blob From URL: a block blob with the content of another blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBlobFromUrl {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// The source; always all of it.
    pub source: Source,
    /// HTTP headers instead of those of the source.
    pub headers: BlobHeaders,
    /// Whether HTTP headers that are not given are those of the source.
    pub copies_headers: bool,
    /// Metadata instead of that of the source.
    pub metadata: Metadata,
    /// Its tier.
    pub tier: Option<AccessTier>,
}

impl PutBlobFromUrl {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        parts.no_body()?;
        let name = "x-ms-copy-source-blob-properties";
        Ok(Self {
            write: BlobWrite::parse(headers)?,
            source: Source::parse(headers)?,
            headers: BlobHeaders::parse(headers)?,
            copies_headers: headers.get(name).is_none() || headers.flag(name)?,
            metadata: Metadata::parse(headers)?,
            tier: AccessTier::of(headers)?,
        })
    }
}

/// Put Block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBlock {
    /// The id of the block.
    pub id: BlockId,
    /// The id of the blob's lease.
    pub lease: Option<LeaseId>,
    /// Its content; not empty.
    pub body: Body,
}

impl PutBlock {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let body = parts.body(max_put_block(parts.version))?;
        if body.length == 0 {
            return Err(Refusal::header("content-length", "0"));
        }
        Ok(Self { id: block_id(parts)?, lease: LeaseId::of(parts.headers)?, body })
    }
}

/// Put Block From URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBlockFromUrl {
    /// The id of the block.
    pub id: BlockId,
    /// The id of the blob's lease.
    pub lease: Option<LeaseId>,
    /// The source; all of it if no range is named.
    pub source: Source,
}

impl PutBlockFromUrl {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        parts.no_body()?;
        Ok(Self {
            id: block_id(parts)?,
            lease: LeaseId::of(parts.headers)?,
            source: Source::parse(parts.headers)?,
        })
    }
}

/// Put Block List: makes the blob of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBlockList {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// The blob's HTTP headers.
    pub headers: BlobHeaders,
    /// The blob's metadata.
    pub metadata: Metadata,
    /// The blob's tier.
    pub tier: Option<AccessTier>,
    /// The list, read by `BlockLookup::parse_list`.
    pub body: Body,
}

impl PutBlockList {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        Ok(Self {
            write: BlobWrite::parse(headers)?,
            headers: BlobHeaders::parse(headers)?,
            metadata: Metadata::parse(headers)?,
            tier: AccessTier::of(headers)?,
            body: parts.body(MAX_BLOCK_LIST_XML)?,
        })
    }
}

/// Which blocks are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BlockListType {
    /// Those that make the blob.
    #[default]
    Committed,
    /// Those that wait to be committed.
    Uncommitted,
    /// Both.
    All,
}

/// Get Block List.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetBlockList {
    /// What is read.
    pub read: ReadBlob,
    /// Which blocks.
    pub kind: BlockListType,
}

impl GetBlockList {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let parse = |text: &str| match text.to_ascii_lowercase().as_str() {
            "committed" => Some(BlockListType::Committed),
            "uncommitted" => Some(BlockListType::Uncommitted),
            "all" => Some(BlockListType::All),
            _ => None,
        };
        let kind = parts.query.parsed("blocklisttype", parse)?.unwrap_or_default();
        Ok(Self { read: ReadBlob::parse(parts)?, kind })
    }
}

/// Append Block, and Append Block From URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendBlock<Content> {
    /// Lease and conditions.
    pub write: BlobWrite,
    /// Conditions on the length.
    pub append: AppendConditions,
    /// What is appended.
    pub content: Content,
}

impl<Content> AppendBlock<Content> {
    fn of(headers: &Headers, content: Content) -> Result<Self, Refusal> {
        Ok(Self {
            write: BlobWrite::parse(headers)?,
            append: AppendConditions::parse(headers)?,
            content,
        })
    }
}

impl AppendBlock<Body> {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let body = parts.body(max_append_block(parts.version))?;
        if body.length == 0 {
            return Err(Refusal::header("content-length", "0"));
        }
        Self::of(parts.headers, body)
    }
}

impl AppendBlock<Source> {
    pub(super) fn parse_from_url(parts: &Parts<'_>) -> Result<Self, Refusal> {
        parts.no_body()?;
        Self::of(parts.headers, Source::parse(parts.headers)?)
    }
}
