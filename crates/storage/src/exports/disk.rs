//! A page blob, or a snapshot of one, as an export of an NBD server.

use std::{
    io,
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use blobs::{
    Access, BlobChange, BlobKind, BlobName, Change, Done, Head, LeaseAction, LeaseId, ReadError,
    Refusal, SequenceConditions, SnapshotId, Store,
};
use strongroom_base::{Clock, lock, start_thread};
use strongroom_blobs as blobs;
use strongroom_nbd::server::{Allocation, Changed, Exported};

use super::cache::{Cache, PAGE, Run};

/// Memory for what was written and is not in the store yet, in bytes.
const MEMORY: usize = 16 << 20;
/// With so much a round begins at once.
const MUCH: usize = 4 << 20;
/// How long a write waits in memory at the most, if nobody flushes.
const WAIT: Duration = Duration::from_millis(50);
/// Seconds of the lease of a blob that is exported for writing.
const LEASE: u64 = 60;
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(15);
/// The most ranges of one answer.
const RANGES: usize = 4096;
/// How often a read looks again for an epoch that ended meanwhile.
const TRIES: usize = 3;

/// What is exported, and how.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The blob.
    pub(super) blob: BlobName,
    /// One of its snapshots, which is only read.
    pub(super) snapshot: Option<SnapshotId>,
    /// Changes since this snapshot are shown as a dirty bitmap.
    pub(super) since: Option<SnapshotId>,
    /// Whether the blob is only read.
    pub(super) read_only: bool,
    /// The lease under which it is written. Without one the export takes its own.
    pub(super) lease: Option<LeaseId>,
}

/// The name of the dirty bitmap of [`Wanted::since`].
pub(super) const BITMAP: &str = "since";

/// An exported blob. Dropping it without [`BlobDisk::close`] gives up what was written since the last flush.
pub(super) struct BlobDisk {
    shared: Arc<Shared>,
    size: u64,
    /// Of the blob when it was exported.
    generation: u64,
    worker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    wanted: Wanted,
    /// The lease, and whether it is the export's own.
    lease: Option<(LeaseId, bool)>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by a round or a clear from its begin to its end: one comes after the other.
    order: Mutex<()>,
    /// Held alone while a part of a page is read and written, and shared by other changes.
    parts: RwLock<()>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    /// A round is to begin now.
    urgent: bool,
    /// Rounds that have begun.
    begun: u64,
    /// Rounds that have ended.
    ended: u64,
    /// Why the last round failed; new writes are refused until one succeeds.
    failure: Option<Refusal>,
    closed: bool,
}

impl State {
    /// Whether a new write must wait.
    fn is_held_up(&self) -> bool {
        self.failure.is_some() || self.closed || self.cache.bytes() >= MEMORY
    }
}

impl BlobDisk {
    /// Opens a blob for export. A blob that is to be written is leased.
    pub(super) fn open(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        mut wanted: Wanted,
    ) -> Result<Self, ReadError> {
        wanted.read_only |= wanted.snapshot.is_some();
        let view = store.view().map_err(ReadError::State)?;
        let head = view.head(&wanted.blob, wanted.snapshot)?;
        if head.kind != BlobKind::Page {
            return Err(Refusal::InvalidBlobType.into());
        }
        if let Some(since) = wanted.since {
            view.diff(&head, since, 0..head.size.min(PAGE), 1)?;
        }
        let lease = match (&wanted.lease, wanted.read_only) {
            (_, true) => None,
            (Some(id), false) => {
                lease(&store, &wanted.blob, LeaseAction::Renew { id: id.clone() })?;
                Some((id.clone(), false))
            }
            (None, false) => Some((acquire(&store, &wanted.blob)?, true)),
        };
        let shared = Arc::new(Shared {
            store,
            clock,
            wanted,
            lease,
            state: Mutex::default(),
            changed: Condvar::new(),
            order: Mutex::default(),
            parts: RwLock::default(),
        });
        let worker = (!shared.wanted.read_only).then(|| {
            let shared = Arc::clone(&shared);
            start_thread("nbd-writes", move || shared.work())
        });
        let (size, generation) = (head.size, head.generation());
        Ok(Self { shared, size, generation, worker: Mutex::new(worker) })
    }

    /// Writes what waits to the store, and gives the lease back.
    ///
    /// # Errors
    ///
    /// If not all of it could be written: it is lost.
    pub(super) fn close(&self) -> io::Result<()> {
        let Some(worker) = lock(&self.worker).take() else { return Ok(()) };
        let flushed = self.flush();
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
        if worker.join().is_err() {
            return Err(io::Error::other("the thread that writes has panicked"));
        }
        if let Some((id, true)) = &self.shared.lease {
            let release = BlobChange::Lease(LeaseAction::Release { id: id.clone() });
            if let Err(refusal) = self.shared.store.apply(self.shared.change(release)) {
                tracing::warn!(%refusal, "the lease of an exported blob was not given back");
            }
        }
        flushed
    }

    /// What the blob is now; refused if it was deleted or created again since it was exported.
    fn head(&self, view: &blobs::View) -> Result<Head, ReadError> {
        let wanted = &self.shared.wanted;
        let head = view.head(&wanted.blob, wanted.snapshot)?;
        if head.generation() == self.generation {
            Ok(head)
        } else {
            Err(Refusal::BlobOverwritten.into())
        }
    }

    fn read_store(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let read = self.shared.store.view().map_err(ReadError::State).and_then(|view| {
                let head = self.head(&view)?;
                view.read(&head, offset, buf)
            });
            match read {
                // The epoch was the present one, and a snapshot of it was deleted meanwhile.
                Err(ReadError::Refused(Refusal::BlobNotFound)) if tries < TRIES => tries += 1,
                read => return read.map_err(read_failed),
            }
        }
    }

    fn look<T>(
        &self,
        look: impl FnOnce(&blobs::View, &Head) -> Result<T, ReadError>,
    ) -> io::Result<T> {
        let view = self.shared.store.view().map_err(|error| read_failed(error.into()))?;
        let head = self.head(&view).map_err(read_failed)?;
        look(&view, &head).map_err(read_failed)
    }

    /// Where there is something, by the store and by what waits in memory, up to where the store looked.
    fn marked(
        &self,
        range: Range<u64>,
        look: impl FnOnce(&blobs::View, &Head, Range<u64>) -> Result<blobs::Ranges, ReadError>,
    ) -> io::Result<Vec<(u64, bool)>> {
        let offset = range.start;
        // First what waits: it may be in the store before the store is asked.
        let noted = lock(&self.shared.state).cache.noted(offset, range.end);
        let ranges = self.look(|view, head| look(view, head, range.clone()))?;
        let end = range.end.min(ranges.next.unwrap_or(u64::MAX));
        let stored = ranges.ranges.iter().map(|range| (range.start, range.end));
        let mut all: Vec<(u64, u64)> = stored.chain(noted).collect();
        all.sort_unstable();
        let mut found = Vec::new();
        let mut at = offset;
        for (start, stop) in all {
            let (start, stop) = (start.clamp(at, end), stop.clamp(at, end));
            push(&mut found, start.saturating_sub(at), false);
            push(&mut found, stop.saturating_sub(start), true);
            at = stop.max(at);
        }
        push(&mut found, end.saturating_sub(at), false);
        Ok(found)
    }

    fn write_pages(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        let begun = state.begun;
        while state.is_held_up() {
            if state.closed {
                return Err(io::ErrorKind::NotConnected.into());
            }
            // After a failure the pages that wait are tried once more before a new write is refused.
            if state.cache.is_settled() {
                state.failure = None;
            }
            if let Some(refusal) = state.failure.as_ref().filter(|_| state.ended > begun) {
                return Err(refused(refusal));
            }
            if state.is_held_up() {
                state.urgent = true;
                self.shared.changed.notify_all();
                state = self.shared.wait(state);
            }
        }
        let was_empty = state.cache.is_settled();
        state.cache.write(offset, data);
        if was_empty || state.cache.bytes() >= MUCH {
            state.urgent |= state.cache.bytes() >= MUCH;
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// Writes whole pages; no part of a page is written meanwhile.
    fn write_whole(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _shared = self.shared.parts.read().unwrap_or_else(PoisonError::into_inner);
        self.write_pages(offset, data)
    }

    /// Writes a part of one page.
    fn write_part(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _alone = self.shared.parts.write().unwrap_or_else(PoisonError::into_inner);
        let start = offset / PAGE * PAGE;
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or(usize::MAX)];
        self.read(start, &mut page)?;
        let at = usize::try_from(offset - start).unwrap_or(usize::MAX);
        if let Some(target) = page.get_mut(at..at.saturating_add(data.len())) {
            target.copy_from_slice(data);
        }
        self.write_pages(start, &page)
    }

    /// Clears whole pages in the store; returns when that is durable. What waits of them is forgotten only then.
    fn clear_pages(&self, offset: u64, len: u64) -> io::Result<()> {
        let shared = &self.shared;
        let _shared = shared.parts.read().unwrap_or_else(PoisonError::into_inner);
        let _in_order = lock(&shared.order);
        lock(&shared.state).cache.begin_clear();
        let clear = BlobChange::Clear { offset, len, sequence: SequenceConditions::default() };
        shared.store.apply(shared.change(clear)).map_err(|refusal| refused(&refusal))?;
        let mut state = lock(&shared.state);
        state.cache.end_clear(offset, len);
        if state.cache.is_settled() {
            // All that could not be stored has been cleared since.
            state.failure = None;
        }
        drop(state);
        // A flush may wait for pages that need not be written any more.
        shared.changed.notify_all();
        Ok(())
    }
}

/// Adds a stretch to others, and joins it with the last one if they are alike.
fn push(found: &mut Vec<(u64, bool)>, len: u64, marked: bool) {
    match found.last_mut() {
        _ if len == 0 => {}
        Some((last, kind)) if *kind == marked => *last = last.saturating_add(len),
        _ => found.push((len, marked)),
    }
}

impl Shared {
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: BlobChange) -> Change {
        let lease = self.lease.as_ref().map(|(id, _)| id.clone());
        let access = Access { lease, ..Access::default() };
        Change::Blob { name: self.wanted.blob.clone(), access, change }
    }

    /// Carries out rounds and renews the lease until the export is closed.
    fn work(&self) {
        let mut renewed = self.clock.monotonic();
        let mut state = lock(&self.state);
        while !state.closed {
            let now = self.clock.monotonic();
            if now.saturating_sub(renewed) >= RENEW {
                renewed = now;
                drop(state);
                self.renew();
                state = lock(&self.state);
                continue;
            }
            if state.urgent && !state.cache.is_settled() {
                drop(state);
                self.round();
                state = lock(&self.state);
                continue;
            }
            let is_settled = state.cache.is_settled();
            let pause = if is_settled { RENEW } else { WAIT };
            let (guard, waited) =
                self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            // After a failure the pages wait for a flush or a new write.
            if waited.timed_out() && !is_settled && state.failure.is_none() {
                state.urgent = true;
            }
        }
    }

    /// Gives everything that waits to the store, and waits until it is durable.
    fn round(&self) {
        let (sender, receiver) = mpsc::channel();
        let _in_order = lock(&self.order);
        let runs = {
            let mut state = lock(&self.state);
            state.urgent = false;
            state.begun = state.begun.saturating_add(1);
            state.cache.begin_round()
        };
        for run in runs {
            let sender = sender.clone();
            let sequence = SequenceConditions::default();
            let (offset, data) = (run.offset, run.data.clone());
            let write = BlobChange::Write { offset, data, sequence };
            self.store.submit(self.change(write), move |result| {
                // The receiver waits below.
                sender.send((run, result.err())).ok();
            });
        }
        drop(sender);
        let failed: Vec<(Run, Refusal)> = receiver
            .into_iter()
            .filter_map(|(run, refusal)| refusal.map(|refusal| (run, refusal)))
            .collect();
        let (runs, refusals): (Vec<Run>, Vec<Refusal>) = failed.into_iter().unzip();
        let failure = refusals.into_iter().next();
        if let Some(refusal) = &failure {
            tracing::error!(%refusal, "writes of an NBD client cannot be stored");
        }
        let mut state = lock(&self.state);
        state.cache.end_round(&runs);
        state.failure = failure;
        state.ended = state.begun;
        self.changed.notify_all();
    }

    fn renew(&self) {
        let Some((id, true)) = &self.lease else { return };
        let renew = BlobChange::Lease(LeaseAction::Renew { id: id.clone() });
        if let Err(refusal) = self.store.apply(self.change(renew)) {
            tracing::error!(%refusal, "the lease of an exported blob cannot be renewed");
        }
    }
}

fn acquire(store: &Store, blob: &BlobName) -> Result<LeaseId, Refusal> {
    let acquire = LeaseAction::Acquire { id: None, duration: Some(LEASE) };
    let done = lease(store, blob, acquire)?;
    done.lease.and_then(|lease| lease.id).ok_or(Refusal::LeaseNotPresentWithLease)
}

fn lease(store: &Store, blob: &BlobName, action: LeaseAction) -> Result<Done, Refusal> {
    let change = BlobChange::Lease(action);
    store.apply(Change::Blob { name: blob.clone(), access: Access::default(), change })
}

fn refused(refusal: &Refusal) -> io::Error {
    let kind = match refusal {
        Refusal::Full => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, refusal.to_string())
}

fn read_failed(error: ReadError) -> io::Error {
    match error {
        ReadError::Refused(refusal) => refused(&refusal),
        ReadError::File(error) => error,
        ReadError::State(error) => io::Error::other(error.to_string()),
    }
}

/// The whole pages in a range, between the parts of pages at its ends: three ranges, each of which may be empty.
fn split(offset: u64, len: u64) -> [(u64, u64); 3] {
    let end = offset.saturating_add(len);
    let first = offset.next_multiple_of(PAGE).min(end);
    let last = (end / PAGE * PAGE).max(first);
    [(offset, first), (first, last), (last, end)]
}

impl Exported for BlobDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.shared.wanted.read_only
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.is_read_only() {
            return self.read_store(offset, buf);
        }
        // What waits now is at least as new as what the store gives, and may be in the store before it is read.
        let pieces = lock(&self.shared.state).cache.pieces(offset, buf.len());
        self.read_store(offset, buf)?;
        for piece in pieces {
            let at = usize::try_from(piece.offset - offset).unwrap_or(usize::MAX);
            if let Some(target) = buf.get_mut(at..at.saturating_add(piece.data.len())) {
                target.copy_from_slice(&piece.data);
            }
        }
        Ok(())
    }

    fn allocation(&self, offset: u64, len: u64) -> io::Result<Vec<Allocation>> {
        let range = offset..offset.saturating_add(len);
        let marked = self.marked(range, |view, head, range| view.ranges(head, range, RANGES))?;
        Ok(marked
            .into_iter()
            .map(|(len, has_pages)| Allocation { len, is_hole: !has_pages })
            .collect())
    }

    fn bitmaps(&self) -> Vec<String> {
        self.shared.wanted.since.iter().map(|_| BITMAP.to_owned()).collect()
    }

    fn changed(&self, bitmap: usize, offset: u64, len: u64) -> io::Result<Vec<Changed>> {
        let Some(since) = self.shared.wanted.since.filter(|_| bitmap == 0) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let range = offset..offset.saturating_add(len);
        let marked =
            self.marked(range, |view, head, range| view.diff(head, since, range, RANGES))?;
        Ok(marked.into_iter().map(|(len, is_dirty)| Changed { len, is_dirty }).collect())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let [head, whole, tail] = split(offset, len);
        for (start, end) in [head, whole, tail] {
            let at = |place: u64| usize::try_from(place - offset).unwrap_or(usize::MAX);
            let part = data.get(at(start)..at(end)).unwrap_or_default();
            match part {
                [] => {}
                part if (start, end) == whole => self.write_whole(start, part)?,
                // A part within one page, or at either side of whole ones.
                part => self.write_part(start, part)?,
            }
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _may_punch: bool) -> io::Result<()> {
        let [head, (start, end), tail] = split(offset, len);
        for (start, end) in [head, tail].into_iter().filter(|(start, end)| start < end) {
            let zeros = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
            self.write_part(start, &zeros)?;
        }
        if start < end { self.clear_pages(start, end - start) } else { Ok(()) }
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        // Parts of pages stay: what they read as is up to the export.
        let [_, (start, end), _] = split(offset, len);
        if start < end { self.clear_pages(start, end - start) } else { Ok(()) }
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        let waits = u64::from(!state.cache.is_settled());
        if waits == 0 && state.ended == state.begun {
            return Ok(());
        }
        let wanted = state.begun.saturating_add(waits);
        state.urgent = true;
        self.shared.changed.notify_all();
        while state.ended < wanted && !(state.cache.is_settled() && state.ended == state.begun) {
            if state.closed {
                return Err(io::ErrorKind::NotConnected.into());
            }
            state = self.shared.wait(state);
        }
        match &state.failure {
            Some(refusal) => Err(refused(refusal)),
            None => Ok(()),
        }
    }
}
