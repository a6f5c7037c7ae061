//! Operations on pages: writing, clearing, and listing them.

use axum::body::Body;
use azure::{
    Answer, ClearPages, Code, GetPageRanges, ListedRange, PageList, PutPage, PutPageFromUrl,
    Refusal, Written,
};
use blobs::{BlobChange, BlobName, Head, PageRange, Ranges, SnapshotId};
use bytes::Bytes;
use futures::stream;
use strongroom_azure as azure;
use strongroom_base::ByteRange;
use strongroom_blobs as blobs;

use super::bad_marker;
use crate::{
    bodies::Incoming,
    copies::Source,
    face::{Reply, Work},
    map::{self, Subject},
    numbers::{size, wide},
    storage::{Failure, Storage},
};

/// Ranges that are gathered at once. A client that names no maximum gets all of them, in as many parts.
const PART: usize = 10_000;

impl Work<'_> {
    pub(super) async fn put_page(
        &self,
        name: BlobName,
        put: &PutPage,
        incoming: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        let memory = self.storage.body_memory(put.body.wire_length).await;
        let _memory = memory.map_err(|failure| map::failure(&failure, Subject::Blob))?;
        let (data, received) = incoming.read(&put.body).await?;
        let change = BlobChange::Write {
            offset: put.range.offset(),
            data,
            sequence: map::sequence_conditions(put.sequence),
        };
        let done = self.change_blob(name, &put.write, change).await?;
        let written = Written {
            stamp: Some(map::stamp(done.etag, done.modified)),
            checksum: received.checksum,
            sequence_number: Some(done.sequence),
            is_structured: received.is_structured,
            ..Written::default()
        };
        Ok(written.answer())
    }

    pub(super) async fn clear_pages(
        &self,
        name: BlobName,
        clear: &ClearPages,
    ) -> Result<Answer, Refusal> {
        let change = BlobChange::Clear {
            offset: clear.range.offset(),
            len: clear.range.len(),
            sequence: map::sequence_conditions(clear.sequence),
        };
        let done = self.change_blob(name, &clear.write, change).await?;
        let written = Written {
            stamp: Some(map::stamp(done.etag, done.modified)),
            sequence_number: Some(done.sequence),
            ..Written::default()
        };
        Ok(written.answer())
    }

    pub(super) async fn put_page_from_url(
        &self,
        name: BlobName,
        put: &PutPageFromUrl,
    ) -> Result<Answer, Refusal> {
        let memory = self.storage.body_memory(put.range.len()).await;
        let _memory = memory.map_err(|failure| map::failure(&failure, Subject::Blob))?;
        let source = Source::find(self, &put.source.url).await?;
        let data = source.read_checked(self.storage, &put.source, put.source_range).await?;
        let kind = azure::Checksum::answered(put.source.checksum, self.request.version);
        let mut checksums = azure::Checksums::new([kind]);
        checksums.update(&data);
        let change = BlobChange::Write {
            offset: put.range.offset(),
            data,
            sequence: map::sequence_conditions(put.sequence),
        };
        let done = self.change_blob(name, &put.write, change).await?;
        let written = Written {
            stamp: Some(map::stamp(done.etag, done.modified)),
            checksum: checksums.get(kind),
            sequence_number: Some(done.sequence),
            ..Written::default()
        };
        Ok(written.answer())
    }

    /// Clients that name no maximum may not look whether more follows: Python's download (12.31.1) takes the first
    /// answer for all, and what is missing in it for zeros. They get every range, however many there are.
    pub(super) async fn get_page_ranges(
        &self,
        name: BlobName,
        get: &GetPageRanges,
    ) -> Result<Reply, Refusal> {
        let head = self.head(name, &get.read).await?;
        let properties = map::blob_properties(&head, self.now());
        if let Some(azure::PreviousSnapshot::Url(url, _)) = &get.previous {
            self.check_previous(url)?;
        }
        let asked = get.within(head.size)?;
        let start = match get.marker.as_deref().filter(|marker| !marker.is_empty()) {
            None => asked.offset(),
            Some(marker) => {
                let start: u64 = marker.parse().map_err(|_| bad_marker(marker))?;
                start.max(asked.offset())
            }
        };
        let list = Listing {
            head,
            previous: get.previous.as_ref().map(|previous| map::snapshot_id(previous.id())),
            end: asked.end(),
        };
        let max = get.max_results.map_or(PART, |max| size(u64::from(max)));
        let found = list.part(self.storage, start, max).await;
        let found = found.map_err(|failure| map::failure(&failure, Subject::Blob))?;
        let (stamp, length) = (properties.stamp, properties.length);
        if found.next.is_none() || get.max_results.is_some() {
            let listed = |range: &PageRange| ListedRange {
                range: ByteRange::between(range.start, range.end),
                is_clear: range.cleared,
            };
            let answer = PageList {
                ranges: found.ranges.iter().map(listed).collect(),
                next_marker: found.next.map(|next| next.to_string()),
            };
            return Ok(answer.answer(&stamp, length).into());
        }
        let mut answer = PageList::default().answer(&stamp, length);
        answer.body.clear();
        let content = list.stream(std::sync::Arc::clone(self.storage), found);
        Ok(Reply { answer, content: Some(content) })
    }

    /// The URL of a previous snapshot must name the blob that is asked for.
    fn check_previous(&self, url: &azure::SourceUrl) -> Result<(), Refusal> {
        let address = url.address(&self.storage.suffixes);
        let own = &self.request.address;
        match address {
            Ok(address) if address.account == own.account && address.resource == own.resource => {
                Ok(())
            }
            _ => Err(Code::PreviousSnapshotNotFound.into()),
        }
    }
}

/// A list of ranges that is made in parts.
struct Listing {
    head: Head,
    previous: Option<SnapshotId>,
    end: u64,
}

impl Listing {
    async fn part(&self, storage: &Storage, start: u64, max: usize) -> Result<Ranges, Failure> {
        let head = self.head.clone();
        let (previous, range) = (self.previous, start..self.end.max(start));
        let look = storage.look(move |view| match previous {
            None => view.ranges(&head, range, max),
            Some(previous) => view.diff(&head, previous, range, max),
        });
        look.await
    }

    /// The whole list as XML, part by part.
    fn stream(self, storage: std::sync::Arc<Storage>, first: Ranges) -> Body {
        let begin =
            Bytes::from_static(b"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>");
        let parts = stream::try_unfold(Some(first), move |part| {
            let list = Listing { head: self.head.clone(), previous: self.previous, end: self.end };
            let storage = std::sync::Arc::clone(&storage);
            async move {
                let Some(part) = part else { return Ok(None) };
                let text = Bytes::from(xml(&part.ranges));
                let Some(start) = part.next else { return Ok(Some((text, None))) };
                match list.part(&storage, start, PART).await {
                    Ok(next) => Ok(Some((text, Some(next)))),
                    // The connection ends before the list does, and the client sees that.
                    Err(failure) => Err(std::io::Error::other(format!("{failure:?}"))),
                }
            }
        });
        let whole = stream::once(async move { Ok(begin) });
        let end = stream::once(async { Ok(Bytes::from_static(b"</PageList>")) });
        Body::from_stream(futures::StreamExt::chain(futures::StreamExt::chain(whole, parts), end))
    }
}

fn xml(ranges: &[PageRange]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(size(wide(ranges.len()).saturating_mul(72)));
    for range in ranges {
        let name = if range.cleared { "ClearRange" } else { "PageRange" };
        let last = range.end.saturating_sub(1);
        // A string takes everything.
        write!(text, "<{name}><Start>{}</Start><End>{last}</End></{name}>", range.start).ok();
    }
    text
}
