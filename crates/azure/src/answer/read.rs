//! Properties of blobs and containers that another server answers, in headers.

use super::{BlobProperties, ContainerProperties, CopyState, CopyStatus, Stamp};
use crate::{
    AccessTier, BlobHeaders, BlobType, ETag, Headers, LeaseState, Metadata, Refusal,
    checksum::parse_md5, time::parse_http_date,
};

impl Stamp {
    /// Reads `ETag` and `Last-Modified` of an answer.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        let etag = headers.parsed("etag", ETag::parse)?.ok_or_else(|| Refusal::missing("etag"))?;
        let last_modified = headers.parsed("last-modified", parse_http_date)?;
        let last_modified = last_modified.ok_or_else(|| Refusal::missing("last-modified"))?;
        Ok(Self { etag, last_modified })
    }
}

impl ContainerProperties {
    /// Reads the answer of Get Container Properties.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        Ok(Self {
            stamp: Stamp::parse(headers)?,
            metadata: read_metadata(headers),
            lease: read_lease(headers).unwrap_or_default(),
            public_access: headers
                .get("x-ms-blob-public-access")
                .and_then(|value| value.parse().ok()),
        })
    }
}

fn read_metadata(headers: &Headers) -> Metadata {
    let pairs =
        headers.iter().filter_map(|(name, value)| Some((name.strip_prefix("x-ms-meta-")?, value)));
    Metadata::of_valid(pairs)
}

fn read_lease(headers: &Headers) -> Option<LeaseState> {
    let state = headers.get("x-ms-lease-state")?;
    LeaseState::from_names(state, headers.get("x-ms-lease-duration"))
}

impl BlobProperties {
    /// Reads the answer of `HEAD`.
    pub fn parse(headers: &Headers) -> Result<Self, Refusal> {
        let stamp = Stamp::parse(headers)?;
        let text = |name: &str| headers.get(name).map(str::to_owned);
        let kind: Option<BlobType> =
            headers.parsed("x-ms-blob-type", |value| value.parse().ok())?;
        let tier: Option<AccessTier> =
            headers.get("x-ms-access-tier").and_then(|tier| tier.parse().ok());
        Ok(Self {
            created: headers
                .parsed("x-ms-creation-time", parse_http_date)?
                .unwrap_or(stamp.last_modified),
            stamp,
            kind: kind.ok_or_else(|| Refusal::missing("x-ms-blob-type"))?,
            length: headers
                .number("content-length")?
                .ok_or_else(|| Refusal::missing("content-length"))?,
            headers: BlobHeaders {
                content_type: text("content-type"),
                content_encoding: text("content-encoding"),
                content_language: text("content-language"),
                content_disposition: text("content-disposition"),
                cache_control: text("cache-control"),
                content_md5: parse_md5(headers, "content-md5")?,
            },
            metadata: read_metadata(headers),
            lease: read_lease(headers),
            sequence_number: headers.number("x-ms-blob-sequence-number")?,
            block_count: headers.number("x-ms-blob-committed-block-count")?,
            tier: tier.map(|tier| (tier, headers.get("x-ms-access-tier-inferred") == Some("true"))),
            copy: parse_copy(headers)?,
            is_incremental_copy: headers.flag("x-ms-incremental-copy")?,
        })
    }
}

fn parse_copy(headers: &Headers) -> Result<Option<CopyState>, Refusal> {
    let Some(id) = headers.get("x-ms-copy-id") else { return Ok(None) };
    let status = |text: &str| CopyStatus::ALL.into_iter().find(|status| status.name() == text);
    let progress = |text: &str| {
        let (done, total) = text.split_once('/')?;
        Some((done.parse().ok()?, total.parse().ok()?))
    };
    let (done_bytes, total_bytes) =
        headers.parsed("x-ms-copy-progress", progress)?.unwrap_or((0, 0));
    let text = |name: &str| headers.get(name).map(str::to_owned);
    Ok(Some(CopyState {
        id: id.to_owned(),
        status: headers
            .parsed("x-ms-copy-status", status)?
            .ok_or_else(|| Refusal::missing("x-ms-copy-status"))?,
        source: text("x-ms-copy-source").unwrap_or_default(),
        done_bytes,
        total_bytes,
        completed: headers.parsed("x-ms-copy-completion-time", parse_http_date)?,
        description: text("x-ms-copy-status-description"),
        destination_snapshot: headers
            .parsed("x-ms-copy-destination-snapshot", |value| value.parse().ok())?,
    }))
}
