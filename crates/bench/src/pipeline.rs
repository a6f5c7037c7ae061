//! The least that any backup must do to a block: skip zeros, hash with a key, skip what is known,
//! compress, encrypt, write. No index, no pack headers, no manifest: a ceiling, not a product.
//!
//! ```text
//!  cached:  worker ──pread──▶ block ──▶ zero? ─▶ digest ─▶ known? ─▶ zstd ─▶ AES-GCM ─▶ 4 MiB buffer ─▶ writer
//!  direct:  readers ─1 MiB buffers, several reads in flight─▶ worker ──▶ (the same)
//! ```
//!
//! Workers compress straight into the output buffer and encrypt in place there: a block's bytes are
//! moved once by the read, once by the compressor and never again.

use std::{
    collections::HashSet,
    fs::File,
    hash::{BuildHasherDefault, Hasher},
    os::unix::fs::FileExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;
use strongroom_base::{AlignedBuf, BLOCK_SIZE};
use zstd_safe::{CCtx, CParameter};

use crate::{Failure, Outcome, image::Extent};

/// How a run is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What to read, cut into pieces of at most [`DIRECT_PIECE`] bytes.
    pub pieces: Vec<Extent>,
    /// Threads that hash, compress and encrypt.
    pub threads: usize,
    /// Threads that read; none: the workers read by themselves.
    pub readers: usize,
    /// The compression level; none: hash only.
    pub level: Option<i32>,
}

/// Bytes of one read of a reader thread.
pub const DIRECT_PIECE: u64 = 1 << 20;
/// Bytes of one read of a worker: what fits a core's own cache, so that the copy is read back from there.
pub const CACHED_PIECE: u64 = 256 << 10;

const OUTPUT_BUFFER: usize = 4 << 20;
const TAG_LEN: usize = 16;
/// What zstd may need beyond a block's own size.
const SLACK: usize = 1024;

/// What a run did, in bytes.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Totals {
    /// Read from the image.
    pub read_bytes: u64,
    /// All zeros.
    pub zero_bytes: u64,
    /// Seen before in this run.
    pub duplicate_bytes: u64,
    /// Put out, compressed and encrypted.
    pub stored_bytes: u64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.read_bytes += other.read_bytes;
        self.zero_bytes += other.zero_bytes;
        self.duplicate_bytes += other.duplicate_bytes;
        self.stored_bytes += other.stored_bytes;
    }
}

/// A digest is already random: its own bits are its hash.
#[derive(Default)]
struct OwnBits(u64);

impl Hasher for OwnBits {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

type Shard = Mutex<HashSet<[u8; 32], BuildHasherDefault<OwnBits>>>;

/// The digests seen so far.
struct Known(Vec<Shard>);

impl Known {
    fn new() -> Self {
        Self((0..256).map(|_| Shard::default()).collect())
    }

    /// Remembers `digest`; false if it was known.
    fn insert(&self, digest: [u8; 32]) -> bool {
        let [.., last] = digest;
        let shard = self.0.get(usize::from(last));
        shard.is_some_and(|shard| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).insert(digest)
        })
    }
}

/// What all threads of a run share.
struct Shared<'a> {
    image: &'a File,
    setup: &'a Setup,
    known: Known,
    next_piece: AtomicUsize,
}

impl Shared<'_> {
    fn take_piece(&self) -> Option<Extent> {
        self.setup.pieces.get(self.next_piece.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

/// Runs the pipeline over `image`; what it stores goes to `output`, if there is one, or nowhere.
pub fn run(image: &File, output: Option<&File>, setup: &Setup) -> Outcome<Totals> {
    let shared = Shared { image, setup, known: Known::new(), next_piece: AtomicUsize::new(0) };
    let totals = thread::scope(|scope| {
        let (full, to_write) = bounded::<AlignedBuf>(setup.threads * 2);
        let (emptied, empty) = bounded::<AlignedBuf>(setup.threads * 4 + 2);
        let (read, to_process) = bounded::<AlignedBuf>(setup.readers);
        let (reusable, reuse) = bounded::<AlignedBuf>(setup.readers * 2 + setup.threads + 1);
        let shared = &shared;

        let mut plumbing = Vec::new();
        if let Some(output) = output {
            let end = std::sync::Arc::new(AtomicU64::new(0));
            for _ in 0..2 {
                let (to_write, emptied, end) = (to_write.clone(), emptied.clone(), end.clone());
                plumbing.push(scope.spawn(move || write_out(output, &to_write, &emptied, &end)));
            }
        } else {
            plumbing.push(scope.spawn(move || {
                for buffer in to_write {
                    drop(emptied.try_send(buffer));
                }
                Ok(())
            }));
        }
        for _ in 0..setup.readers {
            let (read, reuse) = (read.clone(), reuse.clone());
            plumbing.push(scope.spawn(move || read_in(shared, &read, &reuse)));
        }
        drop((read, reuse));

        let workers: Vec<_> = (0..setup.threads)
            .map(|_| {
                let (full, empty) = (full.clone(), empty.clone());
                let (to_process, reusable) = (to_process.clone(), reusable.clone());
                scope.spawn(move || {
                    let mut worker = Worker::new(shared, full, empty)?;
                    if shared.setup.readers == 0 {
                        worker.read_and_process()?;
                    } else {
                        for buffer in to_process {
                            worker.process(&buffer)?;
                            drop(reusable.try_send(buffer));
                        }
                    }
                    worker.finish()
                })
            })
            .collect();
        drop((full, to_process, reusable));

        let mut totals = Totals::default();
        for worker in workers {
            totals.add(worker.join().map_err(|_| Failure::new("a worker died"))??);
        }
        for thread in plumbing {
            thread.join().map_err(|_| Failure::new("a reader or writer died"))??;
        }
        Outcome::Ok(totals)
    })?;
    if let Some(output) = output {
        output.sync_data()?;
    }
    Ok(totals)
}

/// Reads pieces into buffers until there are none left.
fn read_in(
    shared: &Shared<'_>,
    read: &Sender<AlignedBuf>,
    reuse: &Receiver<AlignedBuf>,
) -> Outcome<()> {
    let capacity = usize::try_from(DIRECT_PIECE)?;
    while let Some(piece) = shared.take_piece() {
        let mut buffer = reuse.try_recv().unwrap_or_else(|_| AlignedBuf::zeroed(capacity));
        buffer.resize(usize::try_from(piece.len)?);
        shared.image.read_exact_at(&mut buffer, piece.offset)?;
        if read.send(buffer).is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes full buffers one after the other.
fn write_out(
    output: &File,
    full: &Receiver<AlignedBuf>,
    emptied: &Sender<AlignedBuf>,
    end: &AtomicU64,
) -> Outcome<()> {
    for buffer in full {
        let offset = end.fetch_add(u64::try_from(buffer.len())?, Ordering::Relaxed);
        output.write_all_at(&buffer, offset)?;
        drop(emptied.try_send(buffer));
    }
    Ok(())
}

/// One thread's share of the work.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    full: Sender<AlignedBuf>,
    empty: Receiver<AlignedBuf>,
    sealer: Option<Sealer>,
    hash_key: [u8; 32],
    out: AlignedBuf,
    out_len: usize,
    totals: Totals,
}

impl<'a> Worker<'a> {
    fn new(
        shared: &'a Shared<'a>,
        full: Sender<AlignedBuf>,
        empty: Receiver<AlignedBuf>,
    ) -> Outcome<Self> {
        Ok(Self {
            shared,
            full,
            empty,
            sealer: shared.setup.level.map(Sealer::new).transpose()?,
            hash_key: [7; 32],
            out: AlignedBuf::zeroed(OUTPUT_BUFFER),
            out_len: 0,
            totals: Totals::default(),
        })
    }

    fn read_and_process(&mut self) -> Outcome<()> {
        let capacity = usize::try_from(CACHED_PIECE)?;
        let mut buffer = AlignedBuf::zeroed(capacity);
        while let Some(piece) = self.shared.take_piece() {
            let (mut offset, end) = (piece.offset, piece.offset + piece.len);
            while offset < end {
                let len = (end - offset).min(CACHED_PIECE);
                buffer.resize(usize::try_from(len)?);
                self.shared.image.read_exact_at(&mut buffer, offset)?;
                self.process(&buffer)?;
                offset += len;
            }
        }
        Ok(())
    }

    fn process(&mut self, bytes: &[u8]) -> Outcome<()> {
        for block in bytes.chunks(BLOCK_SIZE) {
            let len = u64::try_from(block.len())?;
            self.totals.read_bytes += len;
            if is_zero(block) {
                self.totals.zero_bytes += len;
                continue;
            }
            let digest = *blake3::keyed_hash(&self.hash_key, block).as_bytes();
            if !self.shared.known.insert(digest) {
                self.totals.duplicate_bytes += len;
                continue;
            }
            self.store(block)?;
        }
        Ok(())
    }

    fn store(&mut self, block: &[u8]) -> Outcome<()> {
        if self.sealer.is_some() && self.out.len() - self.out_len < BLOCK_SIZE + SLACK + TAG_LEN {
            self.flush()?;
        }
        let Some(sealer) = &mut self.sealer else { return Ok(()) };
        let room = self.out.get_mut(self.out_len..).unwrap_or_default();
        let len = sealer.seal(block, room)?;
        self.out_len += len;
        self.totals.stored_bytes += u64::try_from(len)?;
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        let next = self.empty.try_recv().map(|mut buffer| {
            buffer.resize(OUTPUT_BUFFER);
            buffer
        });
        let next = next.unwrap_or_else(|_| AlignedBuf::zeroed(OUTPUT_BUFFER));
        let mut full = std::mem::replace(&mut self.out, next);
        full.resize(self.out_len.next_multiple_of(AlignedBuf::ALIGNMENT));
        self.out_len = 0;
        self.full.send(full).map_err(|_| Failure::new("the writer ended early"))
    }

    fn finish(mut self) -> Outcome<Totals> {
        if self.out_len > 0 {
            self.flush()?;
        }
        Ok(self.totals)
    }
}

/// True if every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];
    ZEROS.get(..bytes.len()) == Some(bytes)
}

/// Compresses and encrypts blocks.
pub struct Sealer {
    compressor: CCtx<'static>,
    key: LessSafeKey,
    sealed: u64,
}

impl Sealer {
    /// A sealer at a compression level, under a key of no secrecy.
    pub fn new(level: i32) -> Outcome<Self> {
        let mut compressor = CCtx::create();
        compressor
            .set_parameter(CParameter::CompressionLevel(level))
            .map_err(|code| Failure::new(zstd_safe::get_error_name(code)))?;
        let key = UnboundKey::new(&AES_256_GCM, &[3; 32])
            .map_err(|_| Failure::new("the cipher refuses its key"))?;
        Ok(Self { compressor, key: LessSafeKey::new(key), sealed: 0 })
    }

    /// Compresses `block` into `out`, encrypts it there, and says how long it is with its tag. A block
    /// that does not get smaller is stored as it is.
    pub fn seal(&mut self, block: &[u8], out: &mut [u8]) -> Outcome<usize> {
        let len = match self.compressor.compress2(out, block) {
            Ok(len) if len < block.len() => len,
            _ => {
                let whole = out.get_mut(..block.len());
                whole.ok_or_else(|| Failure::new("no room for a block"))?.copy_from_slice(block);
                block.len()
            }
        };
        let (body, rest) = out.split_at_mut(len);
        let mut nonce = [0; 12];
        if let Some(counter) = nonce.first_chunk_mut() {
            *counter = self.sealed.to_le_bytes();
        }
        self.sealed += 1;
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), body)
            .map_err(|_| Failure::new("the cipher failed"))?;
        let end = rest.get_mut(..TAG_LEN).ok_or_else(|| Failure::new("no room for a tag"))?;
        end.copy_from_slice(tag.as_ref());
        Ok(len + TAG_LEN)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::{DIRECT_PIECE, Setup, is_zero, run};
    use crate::image::{extents, pieces};

    #[test]
    fn counts_zeros_duplicates_and_what_it_stores_the_same_however_it_reads() {
        let image = tempfile::tempfile().unwrap();
        image.set_len(64 << 20).unwrap();
        image.write_all_at(&vec![0; 65_536], 0).unwrap();
        for index in 0..10_u8 {
            let block = vec![index / 2 + 1; 65_536];
            image.write_all_at(&block, (u64::from(index) + 1) << 20).unwrap();
        }
        for readers in [0, 3] {
            let setup = Setup {
                pieces: pieces(&extents(&image).unwrap(), DIRECT_PIECE),
                threads: 2,
                readers,
                level: Some(1),
            };
            let output = tempfile::tempfile().unwrap();
            let totals = run(&image, Some(&output), &setup).unwrap();
            assert_eq!(totals.read_bytes, 11 * 65_536);
            assert_eq!(totals.zero_bytes, 65_536);
            assert_eq!(totals.duplicate_bytes, 5 * 65_536);
            assert!(totals.stored_bytes > 0 && totals.stored_bytes < 5 * 200);
            assert!(output.metadata().unwrap().len() >= totals.stored_bytes);
        }
    }

    #[test]
    fn knows_zeros() {
        assert!(is_zero(&[0; 100]));
        assert!(!is_zero(&[0, 0, 1]));
    }
}
