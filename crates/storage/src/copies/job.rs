//! One copy at work: pages are read ahead, and written in order, so that the bytes that the blob says it has passed are
//! there whenever the server stops.

use std::{collections::VecDeque, time::Duration};

use azure::Refusal;
use blobs::{BlobChange, BlobKind, BlobName, Change, CopyStep, Done, PageRange};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use strongroom_azure as azure;
use strongroom_base::ByteRange;
use strongroom_blobs as blobs;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{memory::Memory, source::Trouble};
use crate::storage::{Failure, Storage};

/// Bytes of one step.
const PIECE: u64 = 1 << 20;
/// Pieces that are read ahead.
const AHEAD: usize = 8;
/// Steps that wait to be durable.
const WAITING: usize = 32;
/// How often a source is asked that may give its answer later.
const TRIES: u32 = 6;

/// A copy at work.
pub(super) struct Job<'a> {
    pub(super) storage: &'a Storage,
    pub(super) name: &'a BlobName,
    pub(super) copy: &'a blobs::Copy,
    pub(super) memory: &'a Memory,
}

/// Why a copy does not continue.
enum End {
    /// It is aborted, or its blob is gone.
    Over,
    /// It has failed.
    Failed(String),
    /// The store takes no changes; the copy continues at the next start, or when it takes changes again.
    Stopped,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        use blobs::Refusal as R;
        match failure {
            Failure::Refused(
                R::NoPendingCopyOperation
                | R::CopyIdMismatch
                | R::BlobNotFound
                | R::ContainerNotFound
                | R::AccountNotFound,
            ) => Self::Over,
            Failure::Refused(R::Stopped | R::NotDurable | R::NotPrimary { .. })
            | Failure::Busy
            | Failure::Broken => Self::Stopped,
            Failure::Refused(refusal) => Self::Failed(refusal.to_string()),
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(format!("{} {}", refusal.code().status(), refusal))
    }
}

/// A range, with its bytes if it has content, and the memory that they take.
struct Piece {
    range: PageRange,
    data: Option<(Bytes, OwnedSemaphorePermit)>,
}

impl Job<'_> {
    /// Copies; says whether the copy has ended, so that nothing of it must be remembered.
    pub(super) async fn run(&self) -> bool {
        let Ok(_slot) = self.storage.copies.slots.acquire().await else { return false };
        let end = match self.pages().await {
            Ok(()) => self.finish().await,
            Err(end) => Err(end),
        };
        match end {
            Ok(()) | Err(End::Over) => true,
            Err(End::Stopped) => false,
            Err(End::Failed(description)) => {
                tracing::warn!(copy = self.copy.id, description, "a copy failed");
                !matches!(self.step(CopyStep::Fail { description }).await, Err(End::Stopped))
            }
        }
    }

    fn change(&self, step: CopyStep) -> Change {
        Change::Blob {
            name: self.name.clone(),
            access: blobs::Access::default(),
            change: BlobChange::Copy { id: self.copy.id.clone(), step },
        }
    }

    async fn step(&self, step: CopyStep) -> Result<Done, End> {
        self.storage.change(self.change(step)).await.map_err(End::from)
    }

    async fn finish(&self) -> Result<(), End> {
        let Memory { source, etag, kind, .. } = self.memory;
        let mut blocks = Vec::new();
        if *kind == BlobKind::Block {
            blocks = self.patiently(|| source.blocks(self.storage, etag)).await?;
            // A list that does not make the blob would be worse than none.
            let len = blocks.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add((*len).into()));
            if len != self.copy.total {
                blocks.clear();
            }
        }
        self.step(CopyStep::Finish { blocks }).await.map(|_| ())
    }

    async fn pages(&self) -> Result<(), End> {
        let mut pieces = std::pin::pin!(self.pieces());
        let mut waiting: VecDeque<oneshot::Receiver<Result<Done, blobs::Refusal>>> =
            VecDeque::new();
        while let Some(piece) = pieces.next().await {
            let Piece { range, data } = piece?;
            let (offset, done) = (range.start, range.end);
            let (step, held) = if let Some((data, held)) = data {
                (CopyStep::Write { offset, data, done }, Some(held))
            } else {
                let len = range.end.saturating_sub(range.start);
                (CopyStep::Clear { offset, len, done }, None)
            };
            waiting.push_back(self.storage.submit(self.change(step), held).await?);
            if waiting.len() >= WAITING
                && let Some(first) = waiting.pop_front()
            {
                durable(first).await?;
            }
        }
        for step in waiting {
            durable(step).await?;
        }
        Ok(())
    }

    /// The pieces of the source that are not copied yet, in order.
    fn pieces(&self) -> impl Stream<Item = Result<Piece, End>> {
        let ranges = stream::try_unfold(Some(None), move |marker: Option<Option<String>>| async {
            let Some(marker) = marker else { return Ok::<_, End>(None) };
            let part = self.patiently(|| self.part(marker.clone())).await?;
            Ok(Some((part.ranges, part.next.map(Some))))
        });
        let pieces = ranges.flat_map(|part| {
            let pieces: Vec<Result<PageRange, End>> = match part {
                Ok(ranges) => ranges.into_iter().flat_map(cut).map(Ok).collect(),
                Err(end) => vec![Err(end)],
            };
            stream::iter(pieces)
        });
        pieces.map(|range| self.piece(range)).buffered(AHEAD)
    }

    async fn part(&self, marker: Option<String>) -> Result<super::source::Part, Trouble> {
        let since = self.copy.incremental.and_then(|memory| memory.last_source);
        let Memory { source, etag, kind, .. } = self.memory;
        let range = self.copy.done..self.copy.total;
        if *kind != BlobKind::Page {
            let whole = PageRange { start: range.start, end: range.end, cleared: false };
            let ranges = if range.is_empty() { Vec::new() } else { vec![whole] };
            return Ok(super::source::Part { ranges, next: None });
        }
        source.part(self.storage, etag, since, range, marker).await
    }

    async fn piece(&self, range: Result<PageRange, End>) -> Result<Piece, End> {
        let range = range?;
        if range.cleared {
            return Ok(Piece { range, data: None });
        }
        let bytes = ByteRange::between(range.start, range.end);
        let held = self.storage.copies.budget.take_patiently(bytes.len()).await;
        let held = held.ok_or(End::Stopped)?;
        let Memory { source, etag, .. } = self.memory;
        let data = self.patiently(|| source.read(self.storage, Some(etag), bytes)).await?;
        Ok(Piece { range, data: Some((data, held)) })
    }

    /// Asks again what may be answered later.
    async fn patiently<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, End> {
        let mut pause = Duration::from_millis(500);
        for _ in 1..TRIES {
            match ask().await {
                Ok(found) => return Ok(found),
                Err(Trouble::Refused(refusal)) => return Err(refusal.into()),
                Err(Trouble::Later(_)) => tokio::time::sleep(pause).await,
            }
            pause = pause.saturating_mul(2);
        }
        ask().await.map_err(|trouble| Refusal::from(trouble).into())
    }
}

async fn durable(step: oneshot::Receiver<Result<Done, blobs::Refusal>>) -> Result<(), End> {
    let done = step.await.unwrap_or(Err(blobs::Refusal::Stopped));
    done.map(|_| ()).map_err(|refusal| Failure::Refused(refusal).into())
}

/// A range in pieces. Clearing costs the same for every length.
fn cut(range: PageRange) -> impl Iterator<Item = PageRange> {
    let step = if range.cleared { u64::MAX } else { PIECE };
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let end = at.saturating_add(step).min(range.end);
        let piece = PageRange { start: at, end, ..range };
        at = end;
        Some(piece)
    })
}
