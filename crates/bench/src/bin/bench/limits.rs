//! What this machine can do, one primitive at a time, on data of a measured disk.
//!
//! ```text
//! bench limits IMAGE --scratch DIR [--seconds 2]      prints one JSON object, in MB (10^6 bytes) a second
//! ```
//!
//! The primitives of the processor work on up to 512 MiB of the image's blocks that are not zero, taken
//! evenly from all over it, on one thread and on two. Reads and writes go through whole files.

use std::{
    fs::{self, File},
    io::{Write, stdout},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Map, Value, json};
use strongroom_base::{AlignedBuf, BLOCK_SIZE, BLOCK_SIZE_U64};
use strongroom_bench::{
    Failure, Outcome,
    image::{Extent, create, extents, open, pieces},
    pipeline::is_zero,
};
use zstd_safe::{CCtx, CParameter, DCtx};

const SAMPLE_BLOCKS: usize = 8192;
const FILE_PIECE: u64 = 1 << 20;
const WRITTEN_BYTES: u64 = 4 << 30;

/// Runs it.
pub(crate) fn run_program(arguments: Vec<String>) -> Outcome<()> {
    let mut arguments = arguments.into_iter();
    let (mut image, mut scratch, mut seconds) = (None, None, 2);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")));
        match argument.as_str() {
            "--scratch" => scratch = Some(PathBuf::from(value()?)),
            "--seconds" => seconds = value()?.parse()?,
            _ => image = Some(PathBuf::from(argument)),
        }
    }
    let (Some(image), Some(scratch)) = (image, scratch) else {
        return Err(Failure::new("usage: bench limits IMAGE --scratch DIR [--seconds N]"));
    };
    let budget = Duration::from_secs(seconds);
    let mut report = Map::new();
    report.insert("read_direct".into(), reads(&image, true, budget)?);
    report.insert("read_cached".into(), reads(&image, false, budget)?);
    report.insert("write_direct".into(), writes(&scratch)?);
    let sample = sample(&image)?;
    if sample.is_empty() {
        return Err(Failure::new("the image holds nothing but zeros"));
    }
    processor(&sample, budget, &mut report)?;
    writeln!(stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// Blocks of the image that are not zero, from all over it.
fn sample(path: &Path) -> Outcome<Vec<Vec<u8>>> {
    let image = open(path, false)?;
    let blocks = pieces(&extents(&image)?, BLOCK_SIZE_U64);
    let step = (blocks.len() / SAMPLE_BLOCKS).max(1);
    let mut sample = Vec::new();
    for extent in blocks.iter().step_by(step).take(SAMPLE_BLOCKS) {
        let mut block = vec![0; usize::try_from(extent.len)?];
        image.read_exact_at(&mut block, extent.offset)?;
        if block.len() == BLOCK_SIZE && !is_zero(&block) {
            sample.push(block);
        }
    }
    Ok(sample)
}

/// Runs `make()`'s worker on `threads` threads over items `0..count`, again and again until the time is
/// over, and says how many MB a second the bytes they return make.
fn rate<W>(
    threads: usize,
    count: usize,
    budget: Duration,
    make: impl Fn() -> Outcome<W> + Sync,
) -> Outcome<f64>
where
    W: FnMut(usize) -> Outcome<u64>,
{
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let bytes = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut worker = make()?;
                    let mut bytes = 0;
                    while started.elapsed() < budget {
                        bytes += worker(next.fetch_add(1, Ordering::Relaxed) % count.max(1))?;
                    }
                    Outcome::Ok(bytes)
                })
            })
            .collect();
        let mut bytes = 0;
        for worker in workers {
            bytes += worker.join().map_err(|_| Failure::new("a worker died"))??;
        }
        Outcome::Ok(bytes)
    })?;
    Ok(megabytes(bytes) / started.elapsed().as_secs_f64())
}

fn megabytes(bytes: u64) -> f64 {
    // Whole kilobytes of any measured amount fit 32 bits.
    f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1000.0
}

fn rounded(rate: f64) -> Value {
    json!((rate * 10.0).round() / 10.0)
}

/// One and two threads of the same work.
fn one_and_two<W>(
    count: usize,
    budget: Duration,
    make: impl Fn() -> Outcome<W> + Sync,
) -> Outcome<Map<String, Value>>
where
    W: FnMut(usize) -> Outcome<u64>,
{
    let mut rates = Map::new();
    for threads in [1, 2] {
        rates.insert(format!("threads_{threads}"), rounded(rate(threads, count, budget, &make)?));
    }
    Ok(rates)
}

fn processor(sample: &[Vec<u8>], budget: Duration, report: &mut Map<String, Value>) -> Outcome<()> {
    let block = |index: usize| sample.get(index).map_or(&[][..], Vec::as_slice);
    let len = |bytes: &[u8]| u64::try_from(bytes.len()).map_err(Failure::from);

    let blake3 = one_and_two(sample.len(), budget, || {
        Ok(|index| {
            std::hint::black_box(blake3::keyed_hash(&[7; 32], block(index)));
            len(block(index))
        })
    })?;
    report.insert("blake3".into(), blake3.into());

    let aes = one_and_two(sample.len(), budget, || {
        let key = UnboundKey::new(&AES_256_GCM, &[3; 32])
            .map_err(|_| Failure::new("the cipher refuses its key"))?;
        let key = LessSafeKey::new(key);
        let mut buffer = vec![0; BLOCK_SIZE];
        Ok(move |_| {
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut buffer);
            drop(tag.map_err(|_| Failure::new("the cipher failed"))?);
            len(&buffer)
        })
    })?;
    report.insert("aes_256_gcm".into(), aes.into());

    for level in [1, 2, 3] {
        let mut rates = one_and_two(sample.len(), budget, || {
            let mut compressor = compressor(level)?;
            let mut out = vec![0; zstd_safe::compress_bound(BLOCK_SIZE)];
            Ok(move |index| {
                compressor.compress2(out.as_mut_slice(), block(index)).map_err(zstd)?;
                len(block(index))
            })
        })?;
        let packed = pack(sample, level)?;
        let stored: usize = packed.iter().map(Vec::len).sum();
        let ratio = megabytes(len_u64(stored)?) / megabytes(len_u64(sample.len() * BLOCK_SIZE)?);
        rates.insert("ratio".into(), json!((ratio * 1000.0).round() / 1000.0));
        report.insert(format!("zstd_{level}"), rates.into());
        if level == 1 {
            let rates = one_and_two(packed.len(), budget, || {
                let mut decompressor = DCtx::create();
                let mut out = vec![0; BLOCK_SIZE];
                let packed = &packed;
                Ok(move |index: usize| {
                    let bytes = packed.get(index).map_or(&[][..], Vec::as_slice);
                    let len = decompressor.decompress(out.as_mut_slice(), bytes).map_err(zstd)?;
                    len_u64(len)
                })
            })?;
            report.insert("zstd_1_decompress".into(), rates.into());
        }
    }
    Ok(())
}

fn compressor(level: i32) -> Outcome<CCtx<'static>> {
    let mut compressor = CCtx::create();
    compressor.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd)?;
    Ok(compressor)
}

fn pack(sample: &[Vec<u8>], level: i32) -> Outcome<Vec<Vec<u8>>> {
    let mut compressor = compressor(level)?;
    let mut packed = Vec::with_capacity(sample.len());
    for block in sample {
        let mut out = vec![0; zstd_safe::compress_bound(block.len())];
        let len = compressor.compress2(out.as_mut_slice(), block).map_err(zstd)?;
        out.truncate(len);
        packed.push(out);
    }
    Ok(packed)
}

fn zstd(code: usize) -> Failure {
    Failure::new(zstd_safe::get_error_name(code))
}

fn len_u64(len: usize) -> Outcome<u64> {
    Ok(u64::try_from(len)?)
}

/// Sequential 1 MiB reads of the image's data: with 1 and 8 in flight past the page cache, with 1 and 2
/// threads out of it (after having read the part once).
fn reads(path: &Path, direct: bool, budget: Duration) -> Outcome<Value> {
    let image = open(path, direct)?;
    let mut wanted = pieces(&extents(&image)?, FILE_PIECE);
    if !direct {
        wanted.truncate(2048);
        let mut buffer = AlignedBuf::zeroed(usize::try_from(FILE_PIECE)?);
        for piece in &wanted {
            read_piece(&image, piece, &mut buffer)?;
        }
    }
    let mut rates = Map::new();
    for in_flight in if direct { [1, 8] } else { [1, 2] } {
        let rate = rate(in_flight, wanted.len(), budget, || {
            let mut buffer = AlignedBuf::zeroed(usize::try_from(FILE_PIECE)?);
            let (image, wanted) = (&image, &wanted);
            Ok(move |index| {
                let piece = wanted.get(index).ok_or_else(|| Failure::new("no data to read"))?;
                read_piece(image, piece, &mut buffer)?;
                Ok(piece.len)
            })
        })?;
        let name = if direct { "in_flight" } else { "threads" };
        rates.insert(format!("{name}_{in_flight}"), rounded(rate));
    }
    Ok(rates.into())
}

fn read_piece(image: &File, piece: &Extent, buffer: &mut AlignedBuf) -> Outcome<()> {
    buffer.resize(usize::try_from(piece.len)?);
    Ok(image.read_exact_at(buffer, piece.offset)?)
}

/// 4 GiB of 4 MiB writes past the page cache to a new file, synced, with 1 and 2 in flight.
fn writes(scratch: &Path) -> Outcome<Value> {
    let path = scratch.join("limits.scratch");
    let mut rates = Map::new();
    for in_flight in [1, 2] {
        let file = create(&path, true)?;
        let piece = 4 << 20;
        let count = WRITTEN_BYTES / piece;
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        let outcome: Outcome<()> = thread::scope(|scope| {
            let writers: Vec<_> = (0..in_flight)
                .map(|_| {
                    scope.spawn(|| {
                        let mut buffer = AlignedBuf::zeroed(usize::try_from(piece)?);
                        // A drive that recognises zeros must not win by it.
                        strongroom_bench::rng::Rng::new(1).fill(&mut buffer);
                        loop {
                            let index = len_u64(next.fetch_add(1, Ordering::Relaxed))?;
                            if index >= count {
                                return Outcome::Ok(());
                            }
                            file.write_all_at(&buffer, index * piece)?;
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().map_err(|_| Failure::new("a writer died"))??;
            }
            Ok(file.sync_data()?)
        });
        let seconds = started.elapsed().as_secs_f64();
        drop(file);
        fs::remove_file(&path).map_err(Failure::at(&path))?;
        outcome?;
        let rate = megabytes(WRITTEN_BYTES) / seconds;
        rates.insert(format!("in_flight_{in_flight}"), rounded(rate));
    }
    Ok(rates.into())
}
