//! Copies: the source, and the operations that copy a whole blob.

use std::fmt;

use super::{BlobWrite, Parts};
use crate::{
    AccessTier, Address, Checksum, Code, Conditions, Headers, LeaseId, Metadata, Query,
    RangeHeader, Refusal, Resource, SnapshotId, Suffixes,
};

/// The longest URL of a source, in bytes.
const MAX_URL: usize = 2 << 10;
/// The longest id of a copy.
const MAX_COPY_ID: usize = 64;

/// The URL of a blob, as a header names it: here or on another server. Its query may have a snapshot, and a SAS,
/// which is a secret: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceUrl(String);

impl SourceUrl {
    /// Reads an absolute URL of HTTP or HTTPS.
    pub fn parse(name: &str, value: &str) -> Result<Self, Refusal> {
        let url = value.replace(' ', "%20");
        let is_absolute = ["http://", "https://"].iter().any(|scheme| {
            url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        });
        if !is_absolute || url.len() > MAX_URL || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::new(Code::InvalidHeaderValue).with("HeaderName", name));
        }
        Ok(Self(url))
    }

    fn required(headers: &Headers) -> Result<Self, Refusal> {
        Self::parse("x-ms-copy-source", headers.required("x-ms-copy-source")?)
    }

    /// The whole URL, with its secrets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL without its query: what a copy's properties may show, with the snapshot.
    pub fn shown(&self) -> String {
        let plain = self.0.split_once('?').map_or(self.0.as_str(), |(before, _)| before);
        match self.snapshot() {
            Ok(Some(snapshot)) => format!("{plain}?snapshot={snapshot}"),
            _ => plain.to_owned(),
        }
    }

    /// The name of the host with its port, in lower case.
    pub fn authority(&self) -> String {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase()
    }

    /// The query.
    pub fn query(&self) -> Result<Query, Refusal> {
        Query::parse(self.0.split_once('?').map_or("", |(_, query)| query))
    }

    /// The snapshot that it names.
    pub fn snapshot(&self) -> Result<Option<SnapshotId>, Refusal> {
        self.query()?.parsed("snapshot", |value| value.parse().ok())
    }

    /// What it addresses, if it is a blob of a service with these suffixes, or of one that has accounts in its paths.
    pub fn address(&self, suffixes: &Suffixes) -> Result<Address, Refusal> {
        let (address, _) = Address::parse(&self.0, None, suffixes)?;
        match address.resource {
            Resource::Blob(_) => Ok(address),
            Resource::Account | Resource::Container(_) => Err(Code::InvalidSourceBlobUrl.into()),
        }
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({})", self.shown())
    }
}

/// Where an operation takes its content from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The URL.
    pub url: SourceUrl,
    /// Which bytes of it; all if it is missing.
    pub range: Option<RangeHeader>,
    /// The checksum of those bytes.
    pub checksum: Option<Checksum>,
    /// Conditions of the source.
    pub conditions: Conditions,
}

impl Source {
    pub(super) fn parse(headers: &Headers) -> Result<Self, Refusal> {
        Ok(Self {
            url: SourceUrl::required(headers)?,
            range: RangeHeader::named(headers, "x-ms-source-range")?,
            checksum: Checksum::of_source(headers)?,
            conditions: Conditions::parse_source(headers)?,
        })
    }
}

/// Copy Blob, and Copy Blob From URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyBlob {
    /// The source.
    pub source: Source,
    /// The id of the source's lease: the copy is refused if it is not held.
    pub source_lease: Option<LeaseId>,
    /// Lease and conditions of the destination.
    pub write: BlobWrite,
    /// Metadata of the destination; that of the source if it is empty.
    pub metadata: Metadata,
    /// The tier of the destination.
    pub tier: Option<AccessTier>,
    /// Whether the answer comes only when the copy is whole: Copy Blob From URL.
    pub is_synchronous: bool,
}

impl CopyBlob {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let headers = parts.headers;
        Ok(Self {
            source: Source::parse(headers)?,
            source_lease: headers.parsed("x-ms-source-lease-id", |value| value.parse().ok())?,
            write: BlobWrite::parse(headers)?,
            metadata: Metadata::parse(headers)?,
            tier: AccessTier::of(headers)?,
            is_synchronous: headers.flag("x-ms-requires-sync")?,
        })
    }
}

/// Incremental Copy Blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncrementalCopy {
    /// The source.
    pub source: SourceUrl,
    /// Conditions of the destination.
    pub conditions: Conditions,
}

impl IncrementalCopy {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            source: SourceUrl::required(parts.headers)?,
            conditions: Conditions::parse(parts.headers)?,
        })
    }

    /// The snapshot that is copied: only snapshots can be.
    pub fn snapshot(&self) -> Result<SnapshotId, Refusal> {
        let snapshot = self.source.snapshot().map_err(|_| Code::InvalidSourceBlobUrl)?;
        snapshot.ok_or_else(|| Code::IncrementalCopySourceMustBeSnapshot.into())
    }
}

/// Abort Copy Blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbortCopy {
    /// The id of the copy.
    pub copy_id: String,
    /// The id of the destination's lease.
    pub lease: Option<LeaseId>,
}

impl AbortCopy {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, Refusal> {
        let action = parts.headers.required("x-ms-copy-action")?;
        if !action.eq_ignore_ascii_case("abort") {
            return Err(Refusal::header("x-ms-copy-action", action));
        }
        let copy_id = parts.query.required("copyid")?;
        if copy_id.len() > MAX_COPY_ID || !copy_id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::parameter("copyid", copy_id, "It is not the id of a copy."));
        }
        Ok(Self { copy_id: copy_id.to_owned(), lease: LeaseId::of(parts.headers)? })
    }
}
