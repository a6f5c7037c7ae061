//! Where a copy takes its pages from: this store, or another server by its URL.

use azure::{
    BlobProperties, BlobType, Caller, ChecksumKind, Checksums, Code, Credentials, Grant, Headers,
    LeaseId, ListedBlock, PageList, Refusal, SourceUrl, Stamp, State, Version,
};
use blobs::{BlobName, BlockId, ContainerName, NewBlob, PageRange, ReadError, SnapshotId};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use strongroom_azure as azure;
use strongroom_base::ByteRange;
use strongroom_blobs as blobs;

use super::new_blob;
use crate::{
    face::{self, Work},
    map::{self, Subject},
    numbers::{size, wide},
    storage::{Failure, Storage},
};

/// The most bytes of a list of ranges of another server.
const MAX_LIST: u64 = 32 << 20;
/// Ranges of one part of a list.
const RANGES: usize = 1000;

/// A source.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A blob or a snapshot of this store.
    Own { account: String, container: String, blob: String, snapshot: Option<SnapshotId> },
    /// A blob or a snapshot of another server: its URL, with its signature.
    Far { url: String, snapshot: Option<SnapshotId> },
}

/// What is known of a source.
#[derive(Clone, Debug)]
pub(crate) struct SourceHead {
    pub(super) stamp: Stamp,
    pub(super) kind: BlobType,
    pub(super) is_incremental: bool,
    /// What a copy of it begins as.
    pub(super) blob: NewBlob,
}

/// A part of a source's ranges.
pub(super) struct Part {
    pub(super) ranges: Vec<PageRange>,
    pub(super) next: Option<String>,
}

/// Why a source gives nothing.
pub(crate) enum Trouble {
    /// It will not give it later either.
    Refused(Refusal),
    /// It may give it later.
    Later(Refusal),
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(refusal) | Trouble::Later(refusal) => refusal,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let refusal = match &failure {
            Failure::Refused(blobs::Refusal::BlobNotFound | blobs::Refusal::ContainerNotFound) => {
                Code::CannotVerifyCopySource.into()
            }
            failure => map::failure(failure, Subject::Blob),
        };
        match failure {
            Failure::Refused(_) => Self::Refused(refusal),
            Failure::Busy | Failure::Broken => Self::Later(refusal),
        }
    }
}

impl Source {
    /// The source that a URL names, if the request may read it.
    pub(crate) async fn find(work: &Work<'_>, url: &SourceUrl) -> Result<Self, Refusal> {
        let suffixes = &work.storage.suffixes;
        let snapshot = url.snapshot().map_err(|_| Code::InvalidSourceBlobUrl)?;
        let snapshot = snapshot.map(map::snapshot_id);
        let own = url.address(suffixes).ok().filter(|address| {
            let authority = url.authority();
            authority == work.authority
                || (!address.is_path_style && port(&authority) == port(&work.authority))
        });
        let far = || Self::Far { url: url.as_str().to_owned(), snapshot };
        let Some(address) = own else { return Ok(far()) };
        let azure::Resource::Blob(path) = &address.resource else {
            return Err(Code::InvalidSourceBlobUrl.into());
        };
        let is_https = url.as_str().get(..5).is_some_and(|s| s.eq_ignore_ascii_case("https"));
        let caller = Caller { is_https, ..work.caller };
        let authority = url.authority();
        let rest = url.as_str().split_once("://").map_or("", |(_, rest)| rest);
        let target = rest.get(authority.len()..).unwrap_or_default().to_owned();
        let version = Version::OURS.to_string();
        let headers = Headers::of([("host", authority.as_str()), ("x-ms-version", &version)])?;
        let request = azure::Request::parse("GET", &target, headers, suffixes);
        let request = request.map_err(|refusal| match refusal.code().status() {
            403 => not_authorized(refusal),
            _ => refusal,
        })?;
        match &request.credentials {
            Credentials::Anonymous => {
                let is_same = address.account == work.request.address.account;
                if !is_same || work.grant != Grant::Owner {
                    return Err(Code::CannotVerifyCopySource.into());
                }
            }
            _ => {
                face::authorize(work.storage, &request, &caller).await.map_err(not_authorized)?;
            }
        }
        Ok(Self::Own {
            account: address.account.as_str().to_owned(),
            container: path.container.as_str().to_owned(),
            blob: path.name.as_str().to_owned(),
            snapshot,
        })
    }

    /// Whether it is a snapshot, which does not change.
    pub(super) const fn is_snapshot(&self) -> bool {
        self.snapshot().is_some()
    }

    const fn snapshot(&self) -> Option<SnapshotId> {
        match self {
            Self::Own { snapshot, .. } | Self::Far { snapshot, .. } => *snapshot,
        }
    }

    /// The source's name in this store, if it is there.
    fn own(&self) -> Option<BlobName> {
        match self {
            Self::Own { account, container, blob, .. } => {
                Some(ContainerName::new(account.as_str(), container.as_str()).blob(blob.as_str()))
            }
            Self::Far { .. } => None,
        }
    }

    /// What is known of it. A lease that is given must be held.
    pub(crate) async fn head(
        &self,
        storage: &Storage,
        lease: Option<LeaseId>,
        now: Timestamp,
    ) -> Result<SourceHead, Refusal> {
        let properties = match (self.own(), self) {
            (Some(name), _) => {
                let snapshot = self.snapshot();
                let head = storage.look(move |view| view.head(&name, snapshot)).await;
                let head = head.map_err(Trouble::from)?;
                map::check_read_lease(lease, head.lease.as_ref(), now, Subject::Blob)?;
                map::blob_properties(&head, now)
            }
            (None, Self::Far { url, .. }) => {
                let lease = lease.map(|lease| ("x-ms-lease-id", lease.to_string()));
                let answer =
                    ask(storage, Method::HEAD, url, "", lease.into_iter().collect()).await?;
                let headers = headers_of(&answer)?;
                BlobProperties::parse(&headers).map_err(|_| Code::InvalidSourceBlobType)?
            }
            (None, Self::Own { .. }) => return Err(Code::InternalError.into()),
        };
        Ok(SourceHead {
            stamp: properties.stamp.clone(),
            kind: properties.kind,
            is_incremental: properties.is_incremental_copy,
            blob: new_blob(&properties),
        })
    }

    /// Whether the differences to an earlier snapshot can be listed.
    pub(super) async fn check_since(
        &self,
        storage: &Storage,
        since: SnapshotId,
        head: &SourceHead,
    ) -> Result<(), Refusal> {
        let etag = head.stamp.etag.as_str();
        let part = self.part(storage, etag, Some(since), 0..head.blob.size, None).await;
        part.map(|_| ()).map_err(|trouble| {
            let refusal = Refusal::from(trouble);
            match refusal.code() {
                Code::PreviousSnapshotNotFound => {
                    Code::IncrementalCopyBlobPreviousSnapshotDoesNotExist.into()
                }
                _ => refusal,
            }
        })
    }

    /// A part of its ranges with content, or of its differences to an earlier snapshot.
    pub(super) async fn part(
        &self,
        storage: &Storage,
        etag: &str,
        since: Option<SnapshotId>,
        range: std::ops::Range<u64>,
        marker: Option<String>,
    ) -> Result<Part, Trouble> {
        if range.is_empty() {
            return Ok(Part { ranges: Vec::new(), next: None });
        }
        if let Some(name) = self.own() {
            let (snapshot, etag) = (self.snapshot(), etag.to_owned());
            let from = marker.and_then(|marker| marker.parse().ok()).unwrap_or(range.start);
            let found = storage.look(move |view| {
                let head = view.head(&name, snapshot)?;
                check_etag(&head, &etag)?;
                let range = from..range.end;
                match since {
                    None => view.ranges(&head, range, RANGES),
                    Some(since) => view.diff(&head, since, range, RANGES),
                }
            });
            let found = found.await?;
            let next = found.next.map(|next| next.to_string());
            return Ok(Part { ranges: found.ranges, next });
        }
        let Self::Far { url, .. } = self else {
            return Err(Trouble::Refused(Code::InternalError.into()));
        };
        let mut query = format!("comp=pagelist&maxresults={RANGES}");
        if let Some(since) = since.and_then(map::snapshot_shown) {
            query.push_str(&format!("&prevsnapshot={since}").replace(':', "%3A"));
        }
        if let Some(marker) = marker {
            query.push_str("&marker=");
            query.push_str(&escape(&marker));
        }
        let last = range.end.saturating_sub(1);
        let headers = vec![
            ("x-ms-range", format!("bytes={}-{last}", range.start)),
            ("if-match", format!("\"{etag}\"")),
        ];
        let answer = ask(storage, Method::GET, url, &query, headers).await?;
        let body = body_of(answer, MAX_LIST).await?;
        let list = PageList::parse(&body).map_err(Trouble::Refused)?;
        let ranges = list.ranges.into_iter().map(|listed| PageRange {
            start: listed.range.offset().max(range.start),
            end: listed.range.end().min(range.end),
            cleared: listed.is_clear,
        });
        let is_within = |listed: &PageRange| listed.start < listed.end;
        Ok(Part { ranges: ranges.filter(is_within).collect(), next: list.next_marker })
    }

    /// The blocks that it is made of, with the length of each.
    pub(super) async fn blocks(
        &self,
        storage: &Storage,
        etag: &str,
    ) -> Result<Vec<(BlockId, u32)>, Trouble> {
        if let Some(name) = self.own() {
            let (snapshot, etag) = (self.snapshot(), etag.to_owned());
            let found = storage.look(move |view| {
                let head = view.head(&name, snapshot)?;
                check_etag(&head, &etag)?;
                view.committed_blocks(&head)
            });
            let short = |block: blobs::Block| Some((block.id, u32::try_from(block.len).ok()?));
            return Ok(found.await?.into_iter().filter_map(short).collect());
        }
        let Self::Far { url, .. } = self else {
            return Err(Trouble::Refused(Code::InternalError.into()));
        };
        let headers = vec![("if-match", format!("\"{etag}\""))];
        let query = "comp=blocklist&blocklisttype=committed";
        let answer = ask(storage, Method::GET, url, query, headers).await?;
        let body = body_of(answer, MAX_LIST).await?;
        let (blocks, _) = ListedBlock::parse_lists(&body).map_err(Trouble::Refused)?;
        let short = |block: ListedBlock| {
            let id = BlockId::new(block.id.as_bytes())?;
            Some((id, u32::try_from(block.length).ok()?))
        };
        Ok(blocks.into_iter().filter_map(short).collect())
    }

    /// Bytes of it, in the state with this tag.
    pub(crate) async fn read(
        &self,
        storage: &Storage,
        etag: Option<&str>,
        range: ByteRange,
    ) -> Result<Bytes, Trouble> {
        if let Some(name) = self.own() {
            let (snapshot, etag) = (self.snapshot(), etag.map(str::to_owned));
            let reading = storage.look(move |view| {
                let head = view.head(&name, snapshot)?;
                let mut bytes = vec![0; size(range.len())];
                view.read(&head, range.offset(), &mut bytes)?;
                Ok((head, bytes, name, etag))
            });
            let (head, bytes, name, etag) = reading.await?;
            let Some(etag) = etag else { return Ok(bytes.into()) };
            // What was read is of that state if it is still the same one.
            let snapshot = head.snapshot;
            storage.look(move |view| check_etag(&view.head(&name, snapshot)?, &etag)).await?;
            return Ok(bytes.into());
        }
        let Self::Far { url, .. } = self else {
            return Err(Trouble::Refused(Code::InternalError.into()));
        };
        let mut headers = vec![(
            "x-ms-range",
            format!("bytes={}-{}", range.offset(), range.end().saturating_sub(1)),
        )];
        headers.extend(etag.map(|etag| ("if-match", format!("\"{etag}\""))));
        let answer = ask(storage, Method::GET, url, "", headers).await?;
        let body = body_of(answer, range.len()).await?;
        if wide(body.len()) != range.len() {
            return Err(Trouble::Later(
                Refusal::new(Code::CannotVerifyCopySource)
                    .with("Reason", "The source gave another number of bytes than was asked for."),
            ));
        }
        Ok(body)
    }

    /// Bytes of it, under the conditions and with the checksum of a request.
    pub(crate) async fn read_checked(
        &self,
        storage: &Storage,
        source: &azure::Source,
        range: ByteRange,
    ) -> Result<Bytes, Refusal> {
        let now = storage.now();
        let etag = if source.conditions.is_empty() {
            None
        } else {
            let stamp = self.head(storage, None, now).await?.stamp;
            let state = State { etag: &stamp.etag, last_modified: stamp.last_modified };
            source.conditions.check_source(state)?;
            Some(stamp.etag)
        };
        let read = self.read(storage, etag.as_ref().map(azure::ETag::as_str), range).await;
        let data = read.map_err(Refusal::from)?;
        if let Some(expected) = source.checksum {
            let mut checksums = Checksums::new([ChecksumKind::Md5, ChecksumKind::Crc64]);
            checksums.update(&data);
            checksums.check(expected)?;
        }
        Ok(data)
    }
}

fn port(authority: &str) -> Option<&str> {
    authority.rsplit_once(':').map(|(_, port)| port)
}

fn check_etag(head: &blobs::Head, wanted: &str) -> Result<(), ReadError> {
    if map::etag(head.etag).as_str() == wanted {
        Ok(())
    } else {
        Err(blobs::Refusal::ConditionNotMet.into())
    }
}

fn not_authorized(refusal: Refusal) -> Refusal {
    match refusal.code() {
        Code::InternalError | Code::ServerBusy => refusal,
        code => Refusal::new(Code::CopySourceNotAuthorized)
            .with("CopySourceStatusCode", code.status().to_string())
            .with("CopySourceErrorCode", code.name()),
    }
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let escaped = |byte: u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escaped).collect()
}

/// Asks another server; answers that say no are troubles.
async fn ask(
    storage: &Storage,
    method: Method,
    url: &str,
    query: &str,
    headers: Vec<(&'static str, String)>,
) -> Result<reqwest::Response, Trouble> {
    let joint = match (query.is_empty(), url.contains('?')) {
        (true, _) => "",
        (false, true) => "&",
        (false, false) => "?",
    };
    let mut request = storage
        .copies
        .client
        .request(method, format!("{url}{joint}{query}"))
        .header("x-ms-version", Version::OURS.to_string());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = request.send().await.map_err(|error| {
        // The error's text has the URL, which may have a signature.
        let refusal = if error.is_timeout() {
            Code::CopySourceUnreachable.into()
        } else {
            Refusal::new(Code::CannotVerifyCopySource)
                .with("Reason", "The server of the source cannot be reached.")
        };
        if error.is_builder() { Trouble::Refused(refusal) } else { Trouble::Later(refusal) }
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let code = answer.headers().get("x-ms-error-code").and_then(|value| value.to_str().ok());
    let name = code.unwrap_or_default().to_owned();
    let known = Code::find(&name, status.as_u16());
    let says = |code: Code| {
        Refusal::new(code)
            .with("CopySourceStatusCode", status.as_u16().to_string())
            .with("CopySourceErrorCode", name.as_str())
    };
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Trouble::Refused(says(Code::CopySourceNotAuthorized))
        }
        StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED => {
            Trouble::Refused(says(Code::SourceConditionNotMet))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Trouble::Refused(says(Code::InvalidRange)),
        StatusCode::CONFLICT if known == Some(Code::PreviousSnapshotNotFound) => {
            Trouble::Refused(Code::PreviousSnapshotNotFound.into())
        }
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Trouble::Later(says(Code::CannotVerifyCopySource))
        }
        _ => Trouble::Refused(says(Code::CannotVerifyCopySource)),
    })
}

fn headers_of(answer: &reqwest::Response) -> Result<Headers, Trouble> {
    let fields = answer.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Headers::new(fields).map_err(Trouble::Refused)
}

/// The body of an answer, of at most this number of bytes.
async fn body_of(mut answer: reqwest::Response, limit: u64) -> Result<Bytes, Trouble> {
    let broken = || {
        Trouble::Later(
            Refusal::new(Code::CannotVerifyCopySource)
                .with("Reason", "The answer of the source's server broke off or is too long."),
        )
    };
    let mut body = BytesMut::new();
    while let Some(bytes) = answer.chunk().await.map_err(|_| broken())? {
        if wide(body.len()).saturating_add(wide(bytes.len())) > limit {
            return Err(broken());
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body.freeze())
}
