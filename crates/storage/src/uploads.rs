//! Content on its way into the store: a small body is one change; a longer one, or another blob, is written in pieces that
//! nobody sees until the change that uses them.
//!
//! Memory is bounded by the pieces that wait to be durable, not by the length of the content.

use std::{collections::VecDeque, sync::Arc};

use azure::{ChecksumKind, Checksums, Received, Refusal, State};
use blobs::{Access, BlobChange, BlobName, Change, Content, Done, UploadId, UploadStep, UploadTo};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use strongroom_azure as azure;
use strongroom_base::ByteRange;
use strongroom_blobs as blobs;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    bodies::Incoming,
    copies::Source,
    face::Work,
    map::{self, Subject},
    numbers::{size, wide},
    storage::{Failure, Storage},
};

/// Bytes of a piece: whole cells of the store.
const PIECE: u64 = 1 << 20;
/// Pieces that wait to be durable.
const WAITING: usize = 8;
/// Pieces of a source that are read ahead.
const AHEAD: usize = 4;

/// Where content goes.
pub(crate) struct Target {
    pub(crate) name: BlobName,
    pub(crate) access: Access,
    pub(crate) to: UploadTo,
}

/// Content that has arrived. What is not used is given back when it is dropped.
pub(crate) struct Parcel {
    pub(crate) content: Content,
    upload: Option<Upload>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Parcel {
    /// The content is the store's now.
    pub(crate) fn used(mut self) {
        if let Some(upload) = &mut self.upload {
            upload.id = None;
        }
    }
}

/// An upload that is under way.
struct Upload {
    storage: Arc<Storage>,
    id: Option<UploadId>,
    at: u64,
    waiting: VecDeque<oneshot::Receiver<Result<Done, blobs::Refusal>>>,
}

impl Upload {
    async fn begin(storage: &Arc<Storage>, target: Target, len: u64) -> Result<Self, Failure> {
        let Target { name, access, to } = target;
        let change = BlobChange::BeginUpload { to, len };
        // It is not interrupted by a client that goes away: what has begun is given back when it is dropped.
        let storage = Arc::clone(storage);
        let begun = tokio::spawn(async move {
            let done = storage.change(Change::Blob { name, access, change }).await?;
            let id = Some(done.upload.ok_or(Failure::Broken)?);
            Ok(Self { storage, id, at: 0, waiting: VecDeque::new() })
        });
        begun.await.unwrap_or(Err(Failure::Broken))
    }

    async fn send(&mut self, data: Bytes, held: impl Send + 'static) -> Result<(), Failure> {
        let Some(id) = self.id else { return Err(Failure::Broken) };
        let offset = self.at;
        self.at = offset.saturating_add(wide(data.len()));
        let step = UploadStep::Write { offset, data };
        self.waiting.push_back(self.storage.submit(Change::Upload { id, step }, held).await?);
        while self.waiting.len() > WAITING {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the first piece to be durable.
    async fn settle(&mut self) -> Result<(), Failure> {
        let Some(first) = self.waiting.pop_front() else { return Ok(()) };
        first.await.unwrap_or(Err(blobs::Refusal::Stopped)).map(|_| ()).map_err(Failure::Refused)
    }

    async fn whole(mut self) -> Result<Parcel, Failure> {
        while !self.waiting.is_empty() {
            self.settle().await?;
        }
        let id = self.id.ok_or(Failure::Broken)?;
        Ok(Parcel { content: Content::Upload(id), upload: Some(self), _memory: None })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let storage = Arc::clone(&self.storage);
        let change = Change::Upload { id, step: UploadStep::Abandon };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Without room for it, the next start of the store gives it back.
                drop(storage.change(change).await);
            });
        }
    }
}

impl Work<'_> {
    /// Receives the body of a request.
    pub(crate) async fn receive(
        &self,
        target: Target,
        body: &azure::Body,
        incoming: &mut Incoming,
        refused: impl Fn(&Failure) -> Refusal,
    ) -> Result<(Parcel, Received), Refusal> {
        if body.length <= blobs::MAX_WRITE {
            let memory = self.storage.body_memory(body.wire_length).await;
            let memory = memory.map_err(|failure| refused(&failure))?;
            let (data, received) = incoming.read(body).await?;
            let content = Content::Bytes(data);
            return Ok((Parcel { content, upload: None, _memory: Some(memory) }, received));
        }
        let upload = Upload::begin(self.storage, target, body.length).await;
        let mut upload = upload.map_err(|failure| refused(&failure))?;
        let mut pieces = incoming.pieces(body)?;
        while upload.at < body.length {
            let len = PIECE.min(body.length.saturating_sub(upload.at));
            let memory = self.storage.body_memory(len.max(PIECE)).await;
            let memory = memory.map_err(|failure| refused(&failure))?;
            let piece = pieces.next(size(len)).await?;
            upload.send(piece, memory).await.map_err(|failure| refused(&failure))?;
        }
        let received = pieces.finish().await?;
        let parcel = upload.whole().await.map_err(|failure| refused(&failure))?;
        Ok((parcel, received))
    }

    /// Takes content from another blob. The checksum is that of the answer.
    pub(crate) async fn fetch(
        &self,
        target: Target,
        source: &Origin,
        asked: &azure::Source,
        refused: impl Fn(&Failure) -> Refusal,
    ) -> Result<(Parcel, Option<azure::Checksum>), Refusal> {
        let kind = azure::Checksum::answered(asked.checksum, self.request.version);
        let mut kinds = vec![kind];
        if asked.checksum.is_some() && kind == ChecksumKind::Crc64 {
            kinds.push(ChecksumKind::Md5);
        }
        let mut checksums = Checksums::new(kinds);
        let range = source.range;
        let mut whole = BytesMut::new();
        let is_small = range.len() <= blobs::MAX_WRITE;
        let mut memory = None;
        let mut upload = None;
        if is_small {
            let held = self.storage.body_memory(range.len()).await;
            memory = Some(held.map_err(|failure| refused(&failure))?);
        } else {
            let begun = Upload::begin(self.storage, target, range.len()).await;
            upload = Some(begun.map_err(|failure| refused(&failure))?);
        }
        let etag = source.etag.as_ref().map(azure::ETag::as_str);
        let pieces = stream::iter(cut(range)).map(|piece| async move {
            let held = if is_small {
                None
            } else {
                let memory = self.storage.body_memory(PIECE).await;
                Some(memory.map_err(|failure| map::failure(&failure, Subject::Blob))?)
            };
            let read = source.source.read(self.storage, etag, piece).await;
            read.map(|data| (data, held)).map_err(Refusal::from)
        });
        let mut pieces = std::pin::pin!(pieces.buffered(AHEAD));
        while let Some(piece) = pieces.next().await {
            let (data, held) = piece?;
            checksums.update(&data);
            match &mut upload {
                None => whole.extend_from_slice(&data),
                Some(upload) => {
                    upload.send(data, held).await.map_err(|failure| refused(&failure))?;
                }
            }
        }
        if let Some(expected) = asked.checksum {
            checksums.check(expected)?;
        }
        let parcel = match upload {
            Some(upload) => upload.whole().await.map_err(|failure| refused(&failure))?,
            None => {
                Parcel { content: Content::Bytes(whole.freeze()), upload: None, _memory: memory }
            }
        };
        Ok((parcel, checksums.get(kind)))
    }

    /// The source that a request names, the range of it, and the tag that it must keep.
    pub(crate) async fn origin(&self, asked: &azure::Source) -> Result<Origin, Refusal> {
        let source = Source::find(self, &asked.url).await?;
        let known = asked.range.filter(|range| range.length().is_some());
        if let Some(range) = known.filter(|_| asked.conditions.is_empty()) {
            let range = range.within(u64::MAX)?;
            if range.len() <= PIECE {
                return Ok(Origin { source, range, etag: None });
            }
        }
        let head = source.head(self.storage, None, self.now()).await?;
        let stamp = head.stamp();
        let state = State { etag: &stamp.etag, last_modified: stamp.last_modified };
        asked.conditions.check_source(state)?;
        let range = match asked.range {
            Some(range) => range.within(head.length())?,
            None => ByteRange::between(0, head.length()),
        };
        let etag = Some(stamp.etag.clone());
        Ok(Origin { source, range, etag })
    }
}

/// What content is taken from.
pub(crate) struct Origin {
    source: Source,
    pub(crate) range: ByteRange,
    etag: Option<azure::ETag>,
}

impl Origin {
    /// All of a source whose head is known.
    pub(crate) fn whole(source: Source, head: &crate::copies::SourceHead) -> Self {
        let range = ByteRange::between(0, head.length());
        Self { source, range, etag: Some(head.stamp().etag.clone()) }
    }
}

/// A range in pieces.
fn cut(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut at = range.offset();
    std::iter::from_fn(move || {
        let end = at.saturating_add(PIECE).min(range.end());
        let piece = ByteRange::between(at, end);
        at = end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The refusal of a change of a blob.
pub(crate) fn refused(failure: &Failure) -> Refusal {
    map::failure(failure, Subject::Blob)
}
