//! Reads of a blob: what it is, and its content in pieces.

use std::{io, sync::Arc};

use axum::body::Body;
use azure::{
    Answer, BlobRead, Checksums, Code, Encoder, GetBlob, Grant, Overrides, RangeHeader, ReadBlob,
    Refusal,
};
use blobs::{BlobName, Head};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use strongroom_azure as azure;
use strongroom_base::ByteRange;
use strongroom_blobs as blobs;

use crate::{
    bodies::counted,
    face::{Reply, Work},
    map::{self, Subject},
    numbers::{size, wide},
    storage::{Failure, Storage},
};

/// Bytes that are read at once.
const PIECE: u64 = 512 << 10;
/// How often a read begins again because the blob was modified.
const TRIES: usize = 5;
/// Pieces that are read ahead of the client.
const AHEAD: usize = 2;

impl Work<'_> {
    /// A blob or snapshot that a read is about, if lease and conditions admit the read.
    pub(super) async fn head(&self, name: BlobName, read: &ReadBlob) -> Result<Head, Refusal> {
        let snapshot = read.snapshot.map(map::snapshot_id);
        let found = self.storage.look(move |view| view.head(&name, snapshot)).await;
        let head = found.map_err(|failure| map::failure(&failure, Subject::Blob))?;
        admit(&head, read, self.now())?;
        Ok(head)
    }

    fn overrides(&self) -> Overrides {
        match &self.grant {
            Grant::Sas { overrides, .. } => overrides.clone(),
            Grant::Owner | Grant::Anonymous => Overrides::default(),
        }
    }

    pub(super) async fn get_properties(
        &self,
        name: BlobName,
        read: &ReadBlob,
    ) -> Result<Answer, Refusal> {
        let head = self.head(name, read).await?;
        Ok(map::blob_properties(&head, self.now()).answer(&self.overrides()))
    }

    pub(super) async fn get_metadata(
        &self,
        name: BlobName,
        read: &ReadBlob,
    ) -> Result<Answer, Refusal> {
        let head = self.head(name, read).await?;
        Ok(map::blob_properties(&head, self.now()).metadata_answer())
    }

    pub(super) async fn get_blob(&self, name: BlobName, get: &GetBlob) -> Result<Reply, Refusal> {
        let (head, range, is_partial, first) = self.begin(name, get).await?;
        let properties = map::blob_properties(&head, self.now());
        let reader = Reader { storage: Arc::clone(self.storage), head: Arc::new(head) };
        let answer = |checksum, structured_length| {
            let read = BlobRead {
                properties: &properties,
                range,
                is_partial,
                checksum,
                structured_length,
            };
            read.answer(&self.overrides())
        };
        if let Some(kind) = get.checksum {
            // At most 4 MiB, as `within` has checked.
            let content = reader.piece(range).await.map_err(|failure| refused(&failure))?;
            let mut checksums = Checksums::new([kind]);
            checksums.update(&content);
            let answer = answer(checksums.get(kind), None);
            return Ok(Reply { answer, content: Some(Body::from(content)) });
        }
        if get.is_structured {
            let length = azure::encoded_length(range.len()).ok_or(Code::InvalidRange)?;
            let content = structured(range.len(), reader.stream(range, first));
            return Ok(Reply { answer: answer(None, Some(length)), content: Some(content) });
        }
        let content = if wide(first.len()) == range.len() {
            Body::from(first)
        } else {
            Body::from_stream(reader.stream(range, first))
        };
        Ok(Reply { answer: answer(None, None), content: Some(content) })
    }

    /// The blob, the range that is read, whether it is a part, and the first piece of it, by one question to the store:
    /// what cannot be read is refused before the answer begins.
    async fn begin(
        &self,
        name: BlobName,
        get: &GetBlob,
    ) -> Result<(Head, ByteRange, bool, Bytes), Refusal> {
        for _ in 1..TRIES {
            match self.begin_once(name.clone(), get).await {
                // Another blob came while this one was read.
                Err(refusal) if refusal.code() == Code::BlobModifiedWhileReading => {}
                begun => return begun,
            }
        }
        self.begin_once(name, get).await
    }

    async fn begin_once(
        &self,
        name: BlobName,
        get: &GetBlob,
    ) -> Result<(Head, ByteRange, bool, Bytes), Refusal> {
        let asked = get.range.and_then(RangeHeader::length).unwrap_or(PIECE).min(PIECE);
        let memory = self.storage.pieces.take(asked).await.ok_or(Code::ServerBusy)?;
        let (get, now) = (get.clone(), self.now());
        let reading = self.storage.look(move |view| {
            let head = view.head(&name, get.read.snapshot.map(map::snapshot_id))?;
            let admitted = admit(&head, &get.read, now).and_then(|()| get.within(head.size));
            let (range, is_partial) = match admitted {
                Ok(within) => within,
                Err(refusal) => return Ok(Err(refusal)),
            };
            // A checksum stands before the content: all of it is read at once, later.
            let len = if get.checksum.is_some() { 0 } else { range.len().min(PIECE) };
            let mut bytes = vec![0; size(len)];
            if len > 0 {
                view.read(&head, range.offset(), &mut bytes)?;
            }
            Ok(Ok((head, range, is_partial, bytes)))
        });
        let read = reading.await.map_err(|failure| refused(&failure))?;
        let (head, range, is_partial, bytes) = read?;
        Ok((head, range, is_partial, counted(bytes, memory)))
    }
}

/// Whether lease and conditions admit a read.
pub(super) fn admit(head: &Head, read: &ReadBlob, now: Timestamp) -> Result<(), Refusal> {
    map::check_read_lease(read.lease, head.lease.as_ref(), now, Subject::Blob)?;
    map::check_read(&read.conditions, &map::stamp(head.etag, head.modified))
}

fn refused(failure: &Failure) -> Refusal {
    map::failure(failure, Subject::Blob)
}

/// Reads the content of a blob as it was when the request came, as far as the store keeps it.
#[derive(Clone)]
struct Reader {
    storage: Arc<Storage>,
    head: Arc<Head>,
}

impl Reader {
    /// Bytes of the blob, in one piece.
    async fn piece(&self, range: ByteRange) -> Result<Bytes, Failure> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let part = self.storage.pieces.take(range.len()).await.ok_or(Failure::Busy)?;
        let head = Arc::clone(&self.head);
        let reading = self.storage.look(move |view| {
            let mut bytes = vec![0; size(range.len())];
            view.read(&head, range.offset(), &mut bytes)?;
            Ok(bytes)
        });
        Ok(counted(reading.await?, part))
    }

    /// All pieces, of which the first is there already.
    fn stream(
        self,
        range: ByteRange,
        first: Bytes,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let end = range.end();
        let mut at = range.offset().saturating_add(wide(first.len()));
        let ranges = std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let next = at.saturating_add(PIECE).min(end);
            let range = ByteRange::between(at, next);
            at = next;
            Some(range)
        });
        let rest = stream::iter(ranges).map(move |range| {
            let reader = self.clone();
            // The connection ends before the content does, and the client sees that.
            async move {
                let piece = reader.piece(range).await;
                piece.map_err(|failure| io::Error::other(format!("{failure:?}")))
            }
        });
        stream::once(async move { Ok(first) }).chain(rest.buffered(AHEAD))
    }
}

/// The content as a structured body.
fn structured(
    length: u64,
    content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Body {
    let mut encoder = Some(Encoder::new(length));
    let mut left = length;
    Body::from_stream(content.map(move |piece| {
        let piece = piece?;
        let mut body = Vec::with_capacity(piece.len().saturating_add(64));
        if let Some(encoder) = &mut encoder {
            encoder.encode(&piece, &mut body);
        }
        left = left.saturating_sub(wide(piece.len()));
        if left == 0
            && let Some(encoder) = encoder.take()
            && !encoder.finish(&mut body)
        {
            return Err(io::Error::other("the content is shorter than it was"));
        }
        Ok(Bytes::from(body))
    }))
}
