//! A segment: one immutable local file of the index cache, sorted by digest.
//!
//! ```text
//!  header      64 bytes: magic, version, counts
//!  sources     16 bytes each: index objects whose packs are in here
//!  packs       93 bytes each
//!  filter      8 bytes a word
//!  fences      8 bytes each: the first bytes of the first digest of every page
//!  checksum    32 bytes: BLAKE3 of everything above, which has a checksum of what is below
//!  records     48 bytes each: digest, pack, place; sorted; 85 a page
//!  deltas      64 bytes each: digest, base; sorted
//! ```
//!
//! Only sources, packs, filter and fences are in memory: about 13 bits a record. A record is
//! found with one read of a page. A damaged file is thrown away and made again from the vault;
//! what is in memory is checked when a file is opened, the rest by [`Segment::is_sound`]: before it
//! decides what is deleted or goes into a new segment, and when something is not found.

mod ascending;

use std::{
    cmp::Ordering,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use strongroom_base::{BLOCK_SIZE, Digest, KeyId, PackId};
use strongroom_format::pack::{Contents, Header, Part, RecordKind, kind_and_packing_of};
use ulid::Ulid;
use zerocopy::{
    FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use self::ascending::Ascending;
use super::filter::Filter;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The pack's bytes.
    pub pack_size: u64,
    /// The pack's header, from which its key is derived.
    pub header: Header,
    /// The record as the pack's trailer lists it.
    pub entry: strongroom_format::pack::Entry,
}

/// A pack in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) id: PackId,
    pub(crate) header: Header,
    pub(crate) size: u64,
    /// Which of the segment's sources it came from.
    pub(crate) source: usize,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    sources: U32,
    packs: U32,
    words: U32,
    fences: U32,
    deltas: U64,
    records: U64,
    /// The first bytes of the BLAKE3 of records and deltas.
    below: [u8; 24],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPack {
    id: [u8; 32],
    kind: u8,
    key_id: [u8; 16],
    salt: [u8; 32],
    size: U64,
    source: U32,
}

/// A delta and its base.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub(crate) struct RawDelta {
    digest: [u8; 32],
    base: [u8; 32],
}

/// One record: sorted by digest, then by pack.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRecord {
    digest: [u8; 32],
    /// Row of the segment's pack table.
    pack: U32,
    offset: U32,
    /// From the low end: sealed length 21 bits, plain length 17, kind 3, ordinal 18. Of a block of a
    /// unit, in place of the plain length: its place in the unit 8 bits, the number of its blocks 8.
    place: U64,
}

const MAGIC: [u8; 8] = *b"SRINDEX4";
const HEADER_LEN: usize = size_of::<RawHeader>();
const RECORD_LEN: usize = size_of::<RawRecord>();
const RECORDS_A_PAGE: usize = 85;
const PAGE_LEN: usize = RECORDS_A_PAGE * RECORD_LEN;
const _: () = assert!(HEADER_LEN == 64 && RECORD_LEN == 48 && size_of::<RawPack>() == 93);

impl Ord for RawRecord {
    fn cmp(&self, other: &Self) -> Ordering {
        // The first bytes decide nearly always, and are compared faster.
        let prefixes = self.digest().prefix().cmp(&other.digest().prefix());
        prefixes.then_with(|| (self.digest, self.row()).cmp(&(other.digest, other.row())))
    }
}

impl PartialOrd for RawRecord {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RawRecord {
    pub(crate) fn digest(&self) -> Digest {
        Digest::new(self.digest)
    }

    pub(crate) fn row(&self) -> usize {
        usize::try_from(self.pack.get()).unwrap_or(usize::MAX)
    }

    fn new(entry: &strongroom_format::pack::Entry, row: u32) -> Self {
        let kind = match entry.kind {
            RecordKind::BlockStored => 1,
            RecordKind::BlockZstd => 2,
            RecordKind::BlockDelta => 3,
            RecordKind::Node => 4,
            RecordKind::BlockUnit => 6,
        };
        let plain = match entry.kind {
            RecordKind::BlockUnit => u64::from(entry.part.at) | (u64::from(entry.part.of) << 8),
            _ => u64::from(entry.plain_len),
        };
        let place = u64::from(entry.stored_len)
            | (plain << 21)
            | (kind << 38)
            | (u64::from(entry.ordinal) << 41);
        Self {
            digest: *entry.digest.as_bytes(),
            pack: row.into(),
            offset: entry.offset.into(),
            place: place.into(),
        }
    }

    pub(crate) fn with_row(mut self, row: u32) -> Self {
        self.pack = row.into();
        self
    }

    /// What the record says, if it makes sense.
    pub(crate) fn entry(&self) -> Option<strongroom_format::pack::Entry> {
        let place = self.place.get();
        let bits = |shift: u32, width: u32| {
            let mask = (1_u64 << width).saturating_sub(1);
            u32::try_from((place >> shift) & mask).unwrap_or(0)
        };
        let kind = RecordKind::from_number(u8::try_from(bits(38, 3)).ok()?)?;
        let small = |shift| u8::try_from(bits(shift, 8)).ok();
        let (plain_len, part) = if kind == RecordKind::BlockUnit {
            (u32::try_from(BLOCK_SIZE).ok()?, Part::of_unit(small(21)?, small(29)?)?)
        } else {
            (bits(21, 17), Part::WHOLE)
        };
        Some(strongroom_format::pack::Entry {
            digest: self.digest(),
            kind,
            ordinal: bits(41, 18),
            offset: self.offset.get(),
            stored_len: bits(0, 21),
            plain_len,
            part,
        })
    }
}

/// An open segment.
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    file: File,
    pub(crate) sources: Vec<Ulid>,
    pub(crate) packs: Vec<PackRow>,
    filter: Filter,
    fences: Vec<u64>,
    deltas: u64,
    records: u64,
    records_start: u64,
    /// Checksum of records and deltas.
    below: [u8; 24],
}

impl Segment {
    /// How many records.
    pub(crate) fn len(&self) -> u64 {
        self.records
    }

    /// Opens and checks a file; anything wrong is an error and the file is of no use.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "damaged index cache");
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut header = RawHeader::new_zeroed();
        file.read_exact(header.as_mut_bytes())?;
        let count = |value: U32| usize::try_from(value.get()).unwrap_or(usize::MAX);
        let front = [
            count(header.sources).saturating_mul(16),
            count(header.packs).saturating_mul(size_of::<RawPack>()),
            count(header.words).saturating_mul(8),
            count(header.fences).saturating_mul(8),
            32,
        ];
        let front_len = front.iter().fold(0_usize, |sum, len| sum.saturating_add(*len));
        let records_start =
            u64::try_from(front_len.saturating_add(HEADER_LEN)).map_err(|_| bad())?;
        let records_len = header.records.get().saturating_mul(48);
        let records_len = records_len.saturating_add(header.deltas.get().saturating_mul(64));
        if header.magic != MAGIC || records_start.saturating_add(records_len) != size {
            return Err(bad());
        }
        // The counts lie within the file, so memory is bounded by its size. Nothing is in it twice.
        let [sources, packs, words, fences, _] = front;
        let mut hasher = blake3::Hasher::new();
        hasher.update(header.as_bytes());
        let sources = read_bytes(&mut file, sources, &mut hasher)?;
        let packs = read_bytes(&mut file, packs, &mut hasher)?;
        let words = read_numbers(&mut file, words, &mut hasher)?;
        let fences = read_numbers(&mut file, fences, &mut hasher)?;
        let mut checksum = [0; 32];
        file.read_exact(&mut checksum)?;
        if hasher.finalize().as_bytes() != &checksum {
            return Err(bad());
        }
        let packs = <[RawPack]>::ref_from_bytes(&packs).map_err(|_| bad())?;
        Ok(Self {
            path: path.to_owned(),
            sources: sources.as_chunks().0.iter().map(|b| Ulid::from_bytes(*b)).collect(),
            packs: packs.iter().map(pack_row).collect::<Option<_>>().ok_or_else(bad)?,
            filter: Filter::from_words(words).ok_or_else(bad)?,
            fences,
            deltas: header.deltas.get(),
            records: header.records.get(),
            records_start,
            below: header.below,
            file,
        })
    }

    /// Writes a segment of sorted records and opens it. `path` appears only when complete.
    pub(crate) fn write(
        path: &Path,
        sources: &[Ulid],
        packs: &[PackRow],
        counts: Counts,
        records: &mut Stream<'_, RawRecord>,
        deltas: &mut Stream<'_, RawDelta>,
    ) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        // The records come as a stream, the filter over them lies in front of them: write them
        // first, at their place, then the front.
        let room = usize::try_from(counts.records).map_err(|_| invalid("too many records"))?;
        let mut filter = Filter::with_capacity(room);
        let pages = room.div_ceil(RECORDS_A_PAGE);
        let small = |len: usize| u32::try_from(len).map_err(|_| invalid("too many"));
        let mut header = RawHeader {
            magic: MAGIC,
            sources: small(sources.len())?.into(),
            packs: small(packs.len())?.into(),
            words: small(filter.words().len())?.into(),
            fences: small(pages)?.into(),
            deltas: counts.deltas.into(),
            records: counts.records.into(),
            below: [0; 24],
        };
        let front_len = sources
            .len()
            .saturating_mul(16)
            .saturating_add(packs.len().saturating_mul(size_of::<RawPack>()))
            .saturating_add(filter.words().len().saturating_mul(8))
            .saturating_add(pages.saturating_mul(8))
            .saturating_add(32);
        // Another process that shares the folder may make the same segment now.
        let temporary = crate::files::unfinished(path);
        let file = crate::files::make_anew(&temporary)?;
        let start = u64::try_from(front_len.saturating_add(HEADER_LEN)).unwrap_or(u64::MAX);
        let mut below = Below::new(&file, start);
        let mut fences = Vec::with_capacity(pages);
        let mut seen = 0_usize;
        while let Some(record) = records()? {
            if seen.is_multiple_of(RECORDS_A_PAGE) {
                fences.push(record.digest().prefix());
            }
            filter.insert(&record.digest());
            below.write(record.as_bytes())?;
            seen = seen.saturating_add(1);
        }
        let mut delta_count = 0_u64;
        while let Some(delta) = deltas()? {
            below.write(delta.as_bytes())?;
            delta_count = delta_count.saturating_add(1);
        }
        below.finish()?.finalize_xof().fill(&mut header.below);
        if seen != room || delta_count != counts.deltas {
            return Err(invalid("the number of records is wrong"));
        }
        let mut front = Below::new(&file, u64::try_from(HEADER_LEN).unwrap_or(0));
        front.hasher.update(header.as_bytes());
        sources.iter().try_for_each(|source| front.write(&source.to_bytes()))?;
        packs.iter().try_for_each(|row| front.write(raw_pack(row).as_bytes()))?;
        let mut numbers = filter.words().iter().chain(&fences);
        numbers.try_for_each(|number| front.write(&number.to_le_bytes()))?;
        let checksum = front.finish()?.finalize();
        file.write_all_at(checksum.as_bytes(), start.saturating_sub(32))?;
        file.write_all_at(header.as_bytes(), 0)?;
        std::fs::rename(&temporary, path)?;
        // What was just written is not read once more: the filter would be in memory twice.
        Ok(Self {
            path: path.to_owned(),
            file,
            sources: sources.to_vec(),
            packs: packs.to_vec(),
            filter,
            fences,
            deltas: counts.deltas,
            records: counts.records,
            records_start: start,
            below: header.below,
        })
    }

    /// Whether records and deltas are what was written. Reads the whole file.
    pub(crate) fn is_sound(&self) -> io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = self.records_start;
        let end = self.deltas_start().saturating_add(self.deltas.saturating_mul(64));
        while at < end {
            let len = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let len = len.min(buffer.len());
            let part = buffer.get_mut(..len).unwrap_or_default();
            match self.file.read_exact_at(part, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                other => other?,
            }
            hasher.update(part);
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        let mut below = [0; 24];
        hasher.finalize_xof().fill(&mut below);
        Ok(below == self.below)
    }

    /// All records of a digest, usually none or one, each with its number in the segment.
    pub(crate) fn find(
        &self,
        digest: &Digest,
        found: &mut Vec<(u64, RawRecord)>,
    ) -> io::Result<()> {
        if !self.filter.may_contain(digest) {
            return Ok(());
        }
        // The first page that can hold it is the last whose fence is below: records of an equal
        // prefix may start on the page before.
        let prefix = digest.prefix();
        let mut page = self.fences.partition_point(|fence| *fence < prefix).saturating_sub(1);
        let mut buffer = [0; PAGE_LEN];
        while self.fences.get(page).is_some_and(|fence| *fence <= prefix) {
            let records = self.read_page(page, &mut buffer)?;
            let start = records.partition_point(|record| record.digest() < *digest);
            let first = page.saturating_mul(RECORDS_A_PAGE).saturating_add(start);
            let mut end = start;
            for (number, record) in (first..).zip(records.get(start..).unwrap_or_default()) {
                if record.digest() != *digest {
                    break;
                }
                found.push((u64::try_from(number).unwrap_or(u64::MAX), *record));
                end = end.saturating_add(1);
            }
            if end < records.len() {
                break;
            }
            page = page.saturating_add(1);
        }
        Ok(())
    }

    fn read_page<'a>(&self, page: usize, buffer: &'a mut [u8]) -> io::Result<&'a [RawRecord]> {
        let first = u64::try_from(page.saturating_mul(RECORDS_A_PAGE)).unwrap_or(u64::MAX);
        let count = self.records.saturating_sub(first).min(85);
        let len = usize::try_from(count).unwrap_or(0).saturating_mul(RECORD_LEN);
        let bytes = buffer.get_mut(..len).unwrap_or_default();
        let offset = self.records_start.saturating_add(first.saturating_mul(48));
        self.file.read_exact_at(bytes, offset)?;
        as_records(bytes)
    }

    /// Looks up many digests in ascending order.
    pub(crate) fn ascending(&self) -> Ascending<'_> {
        Ascending::new(self)
    }

    /// All records in order of digest, with large reads.
    pub(crate) fn scan(&self) -> Scan<'_, RawRecord> {
        Scan::new(&self.file, self.records_start, self.records)
    }

    /// All deltas in order of digest, with large reads.
    pub(crate) fn scan_deltas(&self) -> Scan<'_, RawDelta> {
        Scan::new(&self.file, self.deltas_start(), self.deltas)
    }

    fn deltas_start(&self) -> u64 {
        self.records_start.saturating_add(self.records.saturating_mul(48))
    }

    /// How many deltas.
    pub(crate) fn deltas(&self) -> u64 {
        self.deltas
    }

    /// The bases that deltas of a digest have: nearly always one. Digests are uniformly distributed, so that its place is guessed well
    /// from the digest itself, and better from what was read there.
    pub(crate) fn bases_of(&self, digest: &Digest) -> io::Result<Vec<Digest>> {
        const WINDOW: u64 = 64;
        let (mut low, mut high) = ((0, 0), (self.deltas, u64::MAX));
        while low.0 < high.0 {
            let share = |part: u64| u128::from(part);
            let span = share(high.1.saturating_sub(low.1)).max(1);
            let into = share(digest.prefix().saturating_sub(low.1));
            let guess = into.saturating_mul(share(high.0.saturating_sub(low.0))).checked_div(span);
            let guess = u64::try_from(guess.unwrap_or(0)).unwrap_or(0).saturating_add(low.0);
            let start = guess.saturating_sub(WINDOW / 2).clamp(low.0, high.0.saturating_sub(1));
            let count = WINDOW.min(high.0.saturating_sub(start));
            let mut buffer = [RawDelta::new_zeroed(); 64];
            let window = buffer.get_mut(..usize::try_from(count).unwrap_or(0)).unwrap_or_default();
            let offset = self.deltas_start().saturating_add(start.saturating_mul(64));
            self.file.read_exact_at(window.as_mut_bytes(), offset)?;
            let at = window.partition_point(|delta| delta.digest < *digest.as_bytes());
            match window.get(at) {
                Some(delta) if delta.digest == *digest.as_bytes() => {
                    return self
                        .bases_from(start.saturating_add(u64::try_from(at).unwrap_or(0)), digest);
                }
                // Between two neighbours of the window, or before the first of all.
                Some(_) if at > 0 || start == low.0 => return Ok(Vec::new()),
                Some(delta) => high = (start, Digest::new(delta.digest).prefix()),
                None => {
                    let last = window.last().map_or(0, |last| Digest::new(last.digest).prefix());
                    low = (start.saturating_add(count), last);
                }
            }
        }
        Ok(Vec::new())
    }

    /// The bases of a digest whose deltas are at and around `at`.
    fn bases_from(&self, at: u64, digest: &Digest) -> io::Result<Vec<Digest>> {
        let mut bases = Vec::new();
        let mut read = |at: u64| {
            let mut delta = RawDelta::new_zeroed();
            let offset = self.deltas_start().saturating_add(at.saturating_mul(64));
            self.file.read_exact_at(delta.as_mut_bytes(), offset)?;
            let same = delta.digest == *digest.as_bytes();
            if same {
                bases.push(Digest::new(delta.base));
            }
            io::Result::Ok(same)
        };
        let mut next = at;
        while next < self.deltas && read(next)? {
            next = next.saturating_add(1);
        }
        let mut before = at;
        while let Some(last) = before.checked_sub(1).filter(|_| before > 0) {
            if !read(last)? {
                break;
            }
            before = last;
        }
        bases.sort_unstable();
        bases.dedup();
        Ok(bases)
    }
}

/// Reads the next bytes, which the checksum covers.
fn read_bytes(file: &mut File, len: usize, hasher: &mut blake3::Hasher) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes)?;
    hasher.update(&bytes);
    Ok(bytes)
}

/// As [`read_bytes`], numbers.
fn read_numbers(file: &mut File, len: usize, hasher: &mut blake3::Hasher) -> io::Result<Vec<u64>> {
    let mut numbers = vec![0_u64; len.div_euclid(8)];
    file.read_exact(numbers.as_mut_slice().as_mut_bytes())?;
    hasher.update(numbers.as_slice().as_bytes());
    numbers.iter_mut().for_each(|number| *number = u64::from_le(*number));
    Ok(numbers)
}

/// Writes a part of a segment, and hashes it, in large pieces: one by one takes several times as long.
struct Below<'a> {
    file: &'a File,
    at: u64,
    hasher: blake3::Hasher,
    piece: Vec<u8>,
}

impl<'a> Below<'a> {
    const PIECE: usize = 1 << 20;

    fn new(file: &'a File, at: u64) -> Self {
        Self { file, at, hasher: blake3::Hasher::new(), piece: Vec::with_capacity(Self::PIECE) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.piece.len().saturating_add(bytes.len()) > Self::PIECE {
            self.flush()?;
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.piece);
        self.file.write_all_at(&self.piece, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(self.piece.len()).unwrap_or(u64::MAX));
        self.piece.clear();
        Ok(())
    }

    /// What has seen everything.
    fn finish(mut self) -> io::Result<blake3::Hasher> {
        self.flush()?;
        Ok(self.hasher)
    }
}

/// How many of each a segment will have.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) deltas: u64,
}

/// Something that yields a segment's content in order.
pub(crate) type Stream<'a, T> = dyn FnMut() -> io::Result<Option<T>> + 'a;

/// A sequential reader of a segment's records or deltas.
pub(crate) struct Scan<'a, T> {
    file: &'a File,
    offset: u64,
    left: u64,
    buffer: Vec<T>,
    at: usize,
}

impl<'a, T: FromBytes + IntoBytes + Copy> Scan<'a, T> {
    fn new(file: &'a File, offset: u64, left: u64) -> Self {
        Self { file, offset, left, buffer: Vec::new(), at: 0 }
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> io::Result<Option<T>> {
        const BATCH: u64 = 4096;
        if self.at == self.buffer.len() {
            let count = self.left.min(BATCH);
            if count == 0 {
                return Ok(None);
            }
            self.buffer = vec![T::new_zeroed(); usize::try_from(count).unwrap_or(0)];
            let bytes = self.buffer.as_mut_slice().as_mut_bytes();
            self.file.read_exact_at(bytes, self.offset)?;
            self.offset = self.offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
            self.left = self.left.saturating_sub(count);
            self.at = 0;
        }
        let item = self.buffer.get(self.at).copied();
        self.at = self.at.saturating_add(1);
        Ok(item)
    }
}

fn as_records(bytes: &[u8]) -> io::Result<&[RawRecord]> {
    <[RawRecord]>::ref_from_bytes(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "damaged index cache"))
}

fn pack_row(raw: &RawPack) -> Option<PackRow> {
    let (kind, packing) = kind_and_packing_of(raw.kind)?;
    Some(PackRow {
        id: PackId::new(raw.id),
        header: Header { kind, packing, key_id: KeyId::from_bytes(raw.key_id), salt: raw.salt },
        size: raw.size.get(),
        source: usize::try_from(raw.source.get()).ok()?,
    })
}

fn raw_pack(row: &PackRow) -> RawPack {
    RawPack {
        id: *row.id.as_bytes(),
        kind: row.header.kind_and_packing(),
        key_id: row.header.key_id.to_bytes(),
        salt: row.header.salt,
        size: row.size.into(),
        source: u32::try_from(row.source).unwrap_or(u32::MAX).into(),
    }
}

/// Makes the parts of a segment from packs, each with the number of its source.
pub(crate) struct Draft {
    pub(crate) packs: Vec<PackRow>,
    pub(crate) records: Vec<RawRecord>,
    pub(crate) deltas: Vec<RawDelta>,
}

impl Draft {
    /// For this number of records.
    pub(crate) fn with_room(records: usize) -> Self {
        Self { packs: Vec::new(), records: Vec::with_capacity(records), deltas: Vec::new() }
    }

    pub(crate) fn add(&mut self, contents: &Contents, source: usize) {
        let row = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push(PackRow {
            id: contents.id,
            header: contents.header,
            size: contents.size,
            source,
        });
        self.records.extend(contents.entries.iter().map(|entry| RawRecord::new(entry, row)));
        self.deltas.extend(contents.deltas().map(|(entry, base)| RawDelta {
            digest: *entry.digest.as_bytes(),
            base: *base.as_bytes(),
        }));
    }

    pub(crate) fn write(mut self, path: &Path, sources: &[Ulid]) -> io::Result<Segment> {
        self.records.sort_unstable();
        self.deltas.sort_unstable();
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let counts =
            Counts { records: count(self.records.len()), deltas: count(self.deltas.len()) };
        let mut records = self.records.into_iter();
        let mut deltas = self.deltas.into_iter();
        let (mut records, mut deltas) = (|| Ok(records.next()), || Ok(deltas.next()));
        Segment::write(path, sources, &self.packs, counts, &mut records, &mut deltas)
    }
}
