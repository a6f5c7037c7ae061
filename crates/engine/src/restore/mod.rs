//! Restore: one recovery point in, disks out.
//!
//! ```text
//!  leaves ─▶ plan: a window of blocks, by pack ─spans─▶ fetchers ─▶ workers ─runs─▶ writers
//!            (and, to compare, what the target holds)              open, check     large writes
//! ```
//!
//! Packs are read in large spans in the order in which they lie, whatever the order of the blocks
//! on the disk. Every block is checked against its digest before it is written.

mod compare;
mod holes;
mod job;
mod plan;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use strongroom_base::{AlignedBuf, BLOCK_SIZE, ByteRange, Cancel, PackId, Stage};
use strongroom_disk::DiskError;
use strongroom_image::Image;
use strongroom_objects::Rate;
use strongroom_vault::{Location, Reader, Vault, is_damage};

use self::{
    job::Job,
    plan::{Filling, Span, bytes_of, plan_disk},
};
use crate::{
    Overwrite, Progress, RestoreReport, RestoreRequest,
    error::{EngineError, Result},
    failure::Failure,
};

/// Reads of packs in flight, and the bytes that one of them reads at most: of a local store, whose disk is busy
/// with a few, and of one that is far away, where as much must be under way as the way holds.
const LOCAL: (usize, u64) = (4, 2 << 20);
const FAR: (usize, u64) = (32, 1 << 20);
/// Writes to a target in flight.
const WRITERS: usize = 4;
/// Blocks written with one call: 2 MiB.
const RUN_BLOCKS: usize = 32;

/// A span of a pack whose bytes are in memory.
struct Fetched<'a> {
    job: &'a Job<'a>,
    span: Span,
    /// None: the span could not be read in one piece; its blocks are tried one by one.
    bytes: Option<Vec<u8>>,
    /// Stretches of packs with its deltas; those that could not be read are left out.
    deltas: Vec<(PackId, ByteRange, Vec<u8>)>,
}

impl Fetched<'_> {
    /// The sealed bytes of a delta, if they were fetched.
    fn delta(&self, place: &Location) -> Option<&[u8]> {
        let wanted = bytes_of(place);
        let (_, range, bytes) = self.deltas.iter().find(|(pack, range, _)| {
            *pack == place.pack && range.offset() <= wanted.offset() && wanted.end() <= range.end()
        })?;
        bytes.get(within(*range, place))
    }
}

/// Where the bytes of a record are in those of a stretch of its pack.
fn within(range: ByteRange, place: &Location) -> std::ops::Range<usize> {
    let start = u64::from(place.entry.offset).saturating_sub(range.offset());
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let len = usize::try_from(place.entry.stored_len).unwrap_or(usize::MAX);
    start..start.saturating_add(len)
}

/// Some neighbouring blocks, ready to be written: at the start of their buffer.
struct Run<'a> {
    job: &'a Job<'a>,
    block: u64,
    blocks: usize,
    data: AlignedBuf,
}

impl Run<'_> {
    /// The first block behind it.
    fn end(&self) -> u64 {
        self.block.saturating_add(u64::try_from(self.blocks).unwrap_or(u64::MAX))
    }
}

/// Restores disks of one recovery point.
pub fn restore(
    vault: &Arc<Vault>,
    request: &RestoreRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<RestoreReport> {
    let clock = Arc::clone(vault.clock());
    let started = clock.monotonic();
    progress.set_stage(Stage::Preparing);
    let manifest = vault.restorable_point(&request.item, request.point)?;
    let mut jobs = Vec::new();
    for disk in &request.disks {
        let record =
            manifest.disks.iter().find(|record| record.name == disk.name).ok_or_else(|| {
                EngineError::NoSuchDisk { point: request.point, name: disk.name.clone() }
            })?;
        let image = Image::new(record.size_bytes, record.root)
            .map_err(|source| EngineError::Size { name: disk.name.clone(), source })?;
        let job = Job {
            name: &disk.name,
            location: &disk.location,
            target: &*disk.target,
            image,
            overwrite: disk.overwrite,
            data_blocks: AtomicU64::new(0),
            compared_blocks: AtomicU64::new(0),
            written_blocks: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        };
        if job.target.size() < image.size() {
            let (have, need) = (job.target.size(), image.size());
            let disk = disk.location.clone();
            return Err(job.disk_error(DiskError::TooSmall { disk, have, need }));
        }
        progress.add_total(image.size());
        jobs.push(job);
    }
    let rate = Rate::limited(request.limit_rate, &clock);
    // First what must be right already: if it is not, nothing has been written.
    let (complete, others): (Vec<&Job<'_>>, Vec<_>) =
        jobs.iter().partition(|job| job.overwrite == Overwrite::Nothing);
    if !complete.is_empty() {
        progress.set_stage(Stage::Comparing);
        run(vault, &complete, request, &rate, progress, cancel)?;
    }
    progress.set_stage(Stage::Restoring);
    run(vault, &others, request, &rate, progress, cancel)?;
    progress.set_stage(Stage::Flushing);
    for job in &jobs {
        job.target.flush().map_err(|source| job.disk_error(source))?;
    }
    let seconds = clock.monotonic().saturating_sub(started).as_secs_f64();
    Ok(RestoreReport {
        recovery_point: request.point,
        item: request.item.clone(),
        seconds,
        disks: jobs.iter().map(|job| job.report(seconds)).collect(),
    })
}

fn run(
    vault: &Vault,
    jobs: &[&Job<'_>],
    request: &RestoreRequest,
    rate: &Rate,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    let failure = Failure::new(cancel);
    let threads = request.threads.clamp(1, 64);
    let (fetchers, span_max) = if vault.store().is_local() { LOCAL } else { FAR };
    let buffer_count = threads.saturating_add(WRITERS.saturating_mul(2));
    let (give, take) = bounded::<AlignedBuf>(buffer_count);
    for _ in 0..buffer_count {
        let capacity = RUN_BLOCKS.saturating_mul(BLOCK_SIZE);
        give.send(AlignedBuf::zeroed(capacity)).map_err(|_| EngineError::Bug("no pool"))?;
    }
    let (spans, to_fetch) = bounded::<(&Job<'_>, Span)>(fetchers);
    let (fetched, to_open) = bounded::<Fetched<'_>>(2);
    let (runs, to_write) = bounded::<Run<'_>>(buffer_count);
    std::thread::scope(|scope| {
        let failure = &failure;
        for job in jobs.iter().copied() {
            let spans = spans.clone();
            scope.spawn(move || {
                let send = |span| spans.send((job, span)).is_ok();
                failure.keep(plan_disk((vault, span_max), job, threads, progress, failure, &send));
            });
        }
        drop(spans);
        for _ in 0..fetchers {
            let (to_fetch, fetched) = (to_fetch.clone(), fetched.clone());
            scope.spawn(move || {
                for (job, span) in to_fetch {
                    if failure.go_on() {
                        failure.keep(fetch(vault, job, span, &fetched));
                    }
                }
            });
        }
        drop((to_fetch, fetched));
        for _ in 0..threads {
            let (to_open, runs, take) = (to_open.clone(), runs.clone(), take.clone());
            scope.spawn(move || {
                let mut reader = vault.reader();
                for fetched in to_open {
                    if failure.go_on() {
                        failure.keep(open(&mut reader, fetched, &take, &runs));
                    }
                }
            });
        }
        drop((to_open, runs, take));
        for _ in 0..WRITERS {
            let (to_write, give) = (to_write.clone(), give.clone());
            scope.spawn(move || {
                for run in to_write {
                    if failure.go_on() {
                        failure.keep(write(&run, rate, progress));
                    }
                    give.send(run.data).ok();
                }
            });
        }
        drop((to_write, give));
    });
    failure.into_result()
}

fn fetch<'a>(
    vault: &Vault,
    job: &'a Job<'a>,
    span: Span,
    fetched: &Sender<Fetched<'a>>,
) -> Result<()> {
    let fetch = |pack: &PackId, range: ByteRange| match vault.fetch(pack, range) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_damage(&error) => Ok(None),
        Err(error) => Err(error),
    };
    let bytes = fetch(&span.pack, span.range)?;
    let mut deltas = Vec::new();
    for (pack, range) in span.deltas() {
        deltas.extend(fetch(&pack, range)?.map(|bytes| (pack, range, bytes)));
    }
    // Nobody listens after a failure.
    fetched.send(Fetched { job, span, bytes, deltas }).ok();
    Ok(())
}

/// Opens the records of a span in the order of the blocks on the disk, and joins neighbours.
fn open<'a>(
    reader: &mut Reader<'_>,
    fetched: Fetched<'a>,
    buffers: &Receiver<AlignedBuf>,
    runs: &Sender<Run<'a>>,
) -> Result<()> {
    let mut fetched = fetched;
    let (job, mut bytes) = (fetched.job, fetched.bytes.take());
    let mut open: Option<Run<'a>> = None;
    for filling in fetched.span.targets() {
        let block = filling.block;
        let next = open.as_ref().is_some_and(|run| run.blocks < RUN_BLOCKS && run.end() == block);
        if !next {
            let Ok(data) = buffers.recv() else { return Ok(()) };
            if let Some(full) = open.replace(Run { job, block, blocks: 0, data }) {
                runs.send(full).ok();
            }
        }
        let Some(run) = &mut open else { continue };
        let start = run.blocks.saturating_mul(BLOCK_SIZE);
        let plain = run.data.get_mut(start..start.saturating_add(BLOCK_SIZE));
        let plain = plain.ok_or(EngineError::Bug("a run larger than its buffer"))?;
        open_block(reader, &filling, &fetched, bytes.as_deref_mut(), plain)?;
        run.blocks = run.blocks.saturating_add(1);
    }
    if let Some(run) = open {
        runs.send(run).ok();
    }
    Ok(())
}

fn open_block(
    reader: &mut Reader<'_>,
    filling: &Filling<'_>,
    fetched: &Fetched<'_>,
    span: Option<&mut [u8]>,
    plain: &mut [u8],
) -> Result<()> {
    let &Filling { place, base, shared, .. } = filling;
    if reader.is_at_hand(place, plain) {
        return Ok(());
    }
    let sealed = |place| span.and_then(|bytes| bytes.get_mut(within(fetched.span.range, place)));
    let opened = if let Some(base) = base {
        fetched.delta(place).map(|delta| {
            let base = sealed(base).map(|bytes| (base, &*bytes));
            reader.open_fetched(place, &mut delta.to_vec(), base, plain)
        })
    } else if shared || place.entry.part.of > 1 {
        // In a copy, as others are opened from these bytes as well.
        sealed(place).map(|bytes| reader.open_fetched(place, &mut bytes.to_vec(), None, plain))
    } else {
        sealed(place).map(|bytes| reader.open_fetched(place, bytes, None, plain))
    };
    match opened {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) if !is_damage(&error) => Err(error.into()),
        // From a mirror, or from another pack.
        Some(Err(_)) | None => Ok(reader.block(&place.entry.digest, plain)?),
    }
}

fn write(run: &Run<'_>, rate: &Rate, progress: &Progress) -> Result<()> {
    let job = run.job;
    let blocks = u64::try_from(run.blocks).unwrap_or(0);
    let range = job.range(run.block, blocks);
    rate.take(range.len());
    let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
    let data = run.data.get(..len).ok_or(EngineError::Bug("a run larger than its buffer"))?;
    job.target.write_at(range.offset(), data).map_err(|source| job.disk_error(source))?;
    job.written_blocks.fetch_add(blocks, Ordering::Relaxed);
    job.written_bytes.fetch_add(range.len(), Ordering::Relaxed);
    progress.add_stored(range.len());
    progress.advance(range.len());
    Ok(())
}
