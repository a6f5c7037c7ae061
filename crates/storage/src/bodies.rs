//! Bodies of requests and pieces of answers: how much of them is in memory at once, and reading what comes.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use azure::{Code, Received, Refusal};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use strongroom_azure as azure;
use strongroom_blobs::WriteBuffer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::numbers::{size, wide};

/// How long a request waits for its turn before it is refused as one too many: a client that is refused waits much
/// longer before it tries again.
pub(crate) const QUEUE: Duration = Duration::from_secs(20);
/// How long a client may send nothing of a body.
const PAUSE: Duration = Duration::from_secs(30);
/// Bytes that a client must send in each second, after the first pause.
const RATE: u64 = 32 << 10;
/// The most bytes of a refused request that are read, so that the client sees the answer.
const DRAINED: u64 = 64 << 20;
/// How long that may take.
const DRAINING: Duration = Duration::from_secs(20);
/// The unit in which memory is counted, in bytes.
const UNIT: u64 = 1 << 10;

/// Memory that requests share.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    all: u32,
}

impl Budget {
    /// Memory of this many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX >> 4);
        Self { units: Arc::new(Semaphore::new(size(u64::from(all)))), all }
    }

    /// Waits for a part of it; none if that takes too long. What is larger than all of it gets all.
    pub(crate) async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(QUEUE, self.take_patiently(bytes)).await.ok()?
    }

    /// Waits for a part of it, however long that takes.
    pub(crate) async fn take_patiently(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.all);
        Arc::clone(&self.units).acquire_many_owned(units).await.ok()
    }
}

/// Bytes with the part of the budget that they take, until the last user drops them.
struct Counted {
    bytes: Vec<u8>,
    _part: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes that give their part of the budget back when they are sent.
pub(crate) fn counted(bytes: Vec<u8>, part: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Counted { bytes, _part: part })
}

/// A body that is read in pieces.
pub(crate) struct Pieces<'a> {
    incoming: &'a mut Incoming,
    reader: azure::BodyReader,
    /// What came with the piece before.
    rest: BytesMut,
}

impl Pieces<'_> {
    /// The next bytes of the content, as many as asked for. A body that ends before is refused.
    pub(crate) async fn next(&mut self, len: usize) -> Result<Bytes, Refusal> {
        let slowest = Duration::from_secs(wide(len) / RATE);
        let reading = self.next_at_any_rate(len);
        let read = tokio::time::timeout(PAUSE.saturating_add(slowest), reading).await;
        read.map_err(|_| Refusal::from(Code::OperationTimedOut))?
    }

    async fn next_at_any_rate(&mut self, len: usize) -> Result<Bytes, Refusal> {
        let mut piece = WriteBuffer::with_capacity(len);
        piece.extend_from_slice(&self.rest.split_to(len.min(self.rest.len())));
        while piece.len() < len {
            let Some(bytes) = self.incoming.next().await? else {
                return Err(Refusal::new(Code::InvalidInput)
                    .with("Reason", "The body is shorter than its Content-Length."));
            };
            let rest = &mut self.rest;
            self.reader.take(&bytes, |content| {
                let room = len.saturating_sub(piece.len()).min(content.len());
                let (now, later) = content.split_at_checked(room).unwrap_or_default();
                piece.extend_from_slice(now);
                rest.extend_from_slice(later);
            })?;
        }
        Ok(piece.freeze())
    }

    /// Reads what is behind the content, and checks the whole.
    pub(crate) async fn finish(mut self) -> Result<Received, Refusal> {
        while let Some(bytes) = self.incoming.next().await? {
            let rest = &mut self.rest;
            self.reader.take(&bytes, |content| rest.extend_from_slice(content))?;
        }
        if self.rest.is_empty() { self.reader.finish() } else { Err(Code::InvalidInput.into()) }
    }
}

/// The body of a request that is being served.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: Body,
    /// The client sends the body only when it is asked for.
    waits_for_continue: bool,
}

impl Incoming {
    /// A body; a client that `waits_for_continue` sends it when it is read.
    pub(crate) const fn new(body: Body, waits_for_continue: bool) -> Self {
        Self { body, waits_for_continue }
    }

    /// The next bytes; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.waits_for_continue = false;
        loop {
            let frame = tokio::time::timeout(PAUSE, self.body.frame()).await;
            match frame.map_err(|_| Refusal::from(Code::OperationTimedOut))? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                // Nobody reads the answer: the connection is gone.
                Some(Err(_)) => return Err(Code::InvalidInput.into()),
            }
        }
    }

    /// Reads the whole body of an operation, and checks it.
    pub(crate) async fn read(&mut self, body: &azure::Body) -> Result<(Bytes, Received), Refusal> {
        let slowest = Duration::from_secs(body.wire_length / RATE);
        let reading = self.read_at_any_rate(body);
        let read = tokio::time::timeout(PAUSE.saturating_add(slowest), reading).await;
        read.map_err(|_| Refusal::from(Code::OperationTimedOut))?
    }

    async fn read_at_any_rate(&mut self, body: &azure::Body) -> Result<(Bytes, Received), Refusal> {
        let mut reader = body.reader()?;
        let mut content = WriteBuffer::with_capacity(size(body.length));
        while let Some(bytes) = self.next().await? {
            reader.take(&bytes, |part| content.extend_from_slice(part))?;
        }
        let received = reader.finish()?;
        if wide(content.len()) != body.length {
            return Err(Code::InvalidInput.into());
        }
        Ok((content.freeze(), received))
    }

    /// Reads the content of a body in pieces.
    pub(crate) fn pieces(&mut self, body: &azure::Body) -> Result<Pieces<'_>, Refusal> {
        let reader = body.reader()?;
        Ok(Pieces { incoming: self, reader, rest: BytesMut::new() })
    }

    /// Reads and drops the rest, within limits: a client that still sends does not see an answer before its end.
    pub(crate) async fn drain(&mut self) {
        if self.waits_for_continue {
            return;
        }
        let draining = async {
            let mut left = DRAINED;
            while let Ok(Some(bytes)) = self.next().await {
                left = left.saturating_sub(wide(bytes.len()));
                if left == 0 {
                    return;
                }
            }
        };
        // A client that takes longer loses its connection, and that is all.
        tokio::time::timeout(DRAINING, draining).await.ok();
    }
}
