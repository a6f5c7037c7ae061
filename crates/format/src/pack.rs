//! Packs: immutable objects that hold sealed records and list them themselves.
//!
//! ```text
//!  offset 0   PackHeader            64 bytes, plain: who can open it
//!             record 0              AES-256-GCM, nonce = ordinal
//!             record 1 ...
//!             trailer               sealed: one Entry of 44 bytes a record, then the bases of deltas
//!  end - 32   PackFooter            plain: where the trailer is
//! ```
//!
//! The object's name is the BLAKE3 of all its bytes, so that anybody can check it without a key.
//! A record is bound to its pack by the pack's own key and to its place by ordinal, kind and
//! plain length as associated data.
//!
//! A *unit* is one record that holds several blocks in one zstd frame. The trailer has an entry for
//! each of its blocks, all with the same place in the pack, so that every block is found by its digest
//! like any other.

use strongroom_base::{AlignedBuf, Digest, KeyId, PackId};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

use crate::{FormatError, SealKey, codec::Encoding};

mod builder;
#[cfg(test)]
pub(crate) mod tests;

pub use builder::{PackBuilder, closing};

/// No pack is larger.
pub const MAX_PACK: usize = 64 * 1024 * 1024;
/// No pack has more records.
pub const MAX_RECORDS: usize = 262_144;
/// No record has more plain bytes.
pub const MAX_PLAIN: usize = 64 * 1024;
/// Payload in front of a delta's zstd frame: the digest of its base.
pub const BASE_LEN: usize = 32;
/// No unit has more blocks.
pub const MAX_UNIT: usize = 16;

/// What a pack holds, so that tree nodes can be read without dragging data along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PackKind {
    /// Blocks.
    Data,
    /// Tree nodes.
    Node,
}

/// How a pack of blocks was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// Version 1: each block is a record of its own.
    #[default]
    Single,
    /// Version 2: blocks may share a record.
    Units,
    /// Version 2, packed once more as tightly as reclaim can: it need not be done again.
    Tight,
}

impl Packing {
    /// The number that it has in headers and index objects.
    pub const fn number(self) -> u8 {
        match self {
            Self::Single => 0,
            Self::Units => 1,
            Self::Tight => 2,
        }
    }

    /// The packing of this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Single,
            1 => Self::Units,
            2 => Self::Tight,
            _ => return None,
        })
    }

    const fn version(self) -> u16 {
        match self {
            Self::Single => 1,
            Self::Units | Self::Tight => 2,
        }
    }
}

/// What a record is. The number is part of the format. (5 was never used and stays free.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// 1: a block as it is.
    BlockStored,
    /// 2: a block, zstd.
    BlockZstd,
    /// 3: a block as a delta: the digest of its base, then zstd with that base as prefix.
    BlockDelta,
    /// 4: a tree node.
    Node,
    /// 6: several blocks in one zstd frame.
    BlockUnit,
}

impl RecordKind {
    const fn number(self) -> u8 {
        match self {
            Self::BlockStored => 1,
            Self::BlockZstd => 2,
            Self::BlockDelta => 3,
            Self::Node => 4,
            Self::BlockUnit => 6,
        }
    }

    /// The kind of this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::BlockStored,
            2 => Self::BlockZstd,
            3 => Self::BlockDelta,
            4 => Self::Node,
            6 => Self::BlockUnit,
            _ => return None,
        })
    }

    /// How its payload represents its plain bytes.
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::BlockStored | Self::Node => Encoding::Stored,
            Self::BlockZstd | Self::BlockUnit => Encoding::Zstd,
            Self::BlockDelta => Encoding::Delta,
        }
    }

    /// The kind of a block in this representation.
    pub const fn of_block(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Stored => Self::BlockStored,
            Encoding::Zstd => Self::BlockZstd,
            Encoding::Delta => Self::BlockDelta,
        }
    }

    /// Which packs hold it.
    pub const fn pack_kind(self) -> PackKind {
        match self {
            Self::BlockStored | Self::BlockZstd | Self::BlockDelta | Self::BlockUnit => {
                PackKind::Data
            }
            Self::Node => PackKind::Node,
        }
    }
}

/// The first 64 bytes of a pack. Little-endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PackHeader {
    /// [`HEADER_MAGIC`].
    magic: [u8; 8],
    /// 1, or 2 where blocks may share a record.
    version: U16,
    /// 1 data, 2 node.
    kind: u8,
    /// 0 in version 1; 1 or 2 in version 2: [`Packing`].
    packing: u8,
    /// Zero; refused otherwise.
    reserved: [u8; 4],
    /// The master key that the pack's key was derived from.
    key_id: [u8; 16],
    /// What the pack's key was derived with.
    salt: [u8; 32],
}

/// The last 32 bytes of a pack. Little-endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PackFooter {
    /// Where the sealed trailer starts.
    trailer_offset: U64,
    /// Bytes of the sealed trailer.
    trailer_len: U32,
    /// Records in the pack.
    records: U32,
    /// Deltas among them: digests at the trailer's end.
    bases: U32,
    /// Zero; refused otherwise.
    reserved: U16,
    /// [`VERSION`].
    version: U16,
    /// [`FOOTER_MAGIC`].
    magic: [u8; 8],
}

/// One record in the trailer. Little-endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    digest: [u8; 32],
    offset: U32,
    stored_len: U32,
    /// Plain length in the low 24 bits, kind in the high 8. Of a block of a unit, in place of the
    /// length: its place in the unit in the low 8 bits, the number of its blocks in the next 8.
    plain_and_kind: U32,
}

const HEADER_MAGIC: [u8; 8] = *b"SRPACK\r\n";
const FOOTER_MAGIC: [u8; 8] = *b"SRPKEND\n";
/// The newest version of the header.
const NEWEST: u16 = 2;
/// Version of the footer.
const VERSION: u16 = 1;
/// The trailer's nonce: beyond every record's ordinal.
const TRAILER_ORDINAL: u32 = u32::MAX;
/// Bytes of the header.
pub const HEADER_LEN: usize = size_of::<PackHeader>();
/// Bytes of the footer.
pub const FOOTER_LEN: usize = size_of::<PackFooter>();
const ENTRY_LEN: usize = size_of::<RawEntry>();
/// Plain bytes of a block of a unit.
const BLOCK_LEN: u32 = 64 * 1024;
const _: () = assert!(HEADER_LEN == 64 && FOOTER_LEN == 32 && ENTRY_LEN == 44);
const _: () = assert!(SealKey::OVERHEAD == 16 && BASE_LEN == 32);

/// What a pack's header says: enough to derive the pack's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it holds.
    pub kind: PackKind,
    /// Master key.
    pub key_id: KeyId,
    /// Salt of the pack's own key.
    pub salt: [u8; 32],
    /// How its blocks are packed; [`Packing::Single`] for nodes.
    pub packing: Packing,
}

/// What a pack's footer says: where the trailer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Start of the sealed trailer, bytes from the pack's start.
    pub trailer_offset: u64,
    /// Bytes of the sealed trailer.
    pub trailer_len: usize,
    records: u32,
    bases: u32,
}

/// Which of the blocks of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place, from 0.
    pub at: u8,
    /// How many blocks the record has.
    pub of: u8,
}

impl Part {
    /// The only one.
    pub const WHOLE: Self = Self { at: 0, of: 1 };

    /// A part of a unit; none if there is no such unit.
    pub fn of_unit(at: u8, of: u8) -> Option<Self> {
        (at < of && of >= 2 && usize::from(of) <= MAX_UNIT).then_some(Self { at, of })
    }
}

/// One record, or one block of a unit, as the trailer lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Content address of its plain bytes.
    pub digest: Digest,
    /// What it is.
    pub kind: RecordKind,
    /// Which entry of the pack, from 0.
    pub ordinal: u32,
    /// Start, bytes from the pack's start.
    pub offset: u32,
    /// Sealed bytes, tag included; of a unit all of them.
    pub stored_len: u32,
    /// Plain bytes; of a unit those of this block.
    pub plain_len: u32,
    /// Which block of its record it is.
    pub part: Part,
}

/// The table of contents of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The pack.
    pub id: PackId,
    /// Its header.
    pub header: Header,
    /// Its bytes.
    pub size: u64,
    /// Its records, in order.
    pub entries: Vec<Entry>,
    /// The bases of the deltas among the entries, in the same order.
    pub bases: Vec<Digest>,
}

impl Contents {
    /// Bytes of a pack without records. With the share of each record they are its size.
    pub const FRAME: u64 = 64 + 32 + 16;

    /// Bytes of a pack that are there because of this record; of a unit each block has its part.
    pub fn share_of(entry: &Entry) -> u64 {
        let base = if entry.kind == RecordKind::BlockDelta { 32 } else { 0 };
        entry.stored_share().saturating_add(44).saturating_add(base)
    }

    /// The delta records with their bases.
    pub fn deltas(&self) -> impl Iterator<Item = (&Entry, Digest)> {
        self.entries
            .iter()
            .filter(|entry| entry.kind == RecordKind::BlockDelta)
            .zip(self.bases.iter().copied())
    }
}

/// The name of a pack of these bytes.
pub fn pack_id(bytes: &[u8]) -> PackId {
    PackId::new(*blake3::hash(bytes).as_bytes())
}

/// The opposite of [`Header::kind_and_packing`].
pub fn kind_and_packing_of(byte: u8) -> Option<(PackKind, Packing)> {
    let packing = Packing::from_number(byte >> 4)?;
    match byte & 15 {
        1 => Some((PackKind::Data, packing)),
        2 if packing == Packing::Single => Some((PackKind::Node, packing)),
        _ => None,
    }
}

fn layout(offset: u64, reason: &'static str) -> FormatError {
    FormatError::Layout { what: "pack", offset, reason }
}

impl Header {
    /// Reads the header from the first bytes of a pack.
    pub fn parse(pack: &[u8]) -> Result<Self, FormatError> {
        let (raw, _) =
            PackHeader::read_from_prefix(pack).map_err(|_| layout(0, "shorter than its header"))?;
        if raw.magic != HEADER_MAGIC {
            return Err(FormatError::Magic { what: "pack" });
        }
        if !(1..=NEWEST).contains(&raw.version.get()) {
            return Err(FormatError::Version {
                what: "pack",
                found: raw.version.get(),
                known: NEWEST,
            });
        }
        let kind = match raw.kind {
            1 => PackKind::Data,
            2 => PackKind::Node,
            _ => return Err(layout(10, "unknown kind")),
        };
        let packing = Packing::from_number(raw.packing)
            .filter(|packing| packing.version() == raw.version.get())
            .filter(|packing| kind == PackKind::Data || *packing == Packing::Single)
            .ok_or(layout(11, "unknown packing"))?;
        if raw.reserved != [0; 4] {
            return Err(layout(12, "reserved bytes are not zero"));
        }
        Ok(Self { kind, key_id: KeyId::from_bytes(raw.key_id), salt: raw.salt, packing })
    }

    /// Kind and packing in one byte, as indexes have them: the kind in the low 4 bits.
    pub const fn kind_and_packing(&self) -> u8 {
        let kind = match self.kind {
            PackKind::Data => 1,
            PackKind::Node => 2,
        };
        kind | (self.packing.number() << 4)
    }

    /// The first bytes of a pack.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        zerocopy::transmute!(PackHeader {
            magic: HEADER_MAGIC,
            version: self.packing.version().into(),
            kind: match self.kind {
                PackKind::Data => 1,
                PackKind::Node => 2,
            },
            packing: self.packing.number(),
            reserved: [0; 4],
            key_id: self.key_id.to_bytes(),
            salt: self.salt,
        })
    }
}

impl Footer {
    /// Reads the footer of a pack of `size` bytes from its last bytes.
    pub fn parse(tail: &[u8], size: u64) -> Result<Self, FormatError> {
        let at = size.saturating_sub(32);
        let (_, raw) = PackFooter::read_from_suffix(tail)
            .map_err(|_| layout(at, "shorter than its footer"))?;
        if raw.magic != FOOTER_MAGIC {
            return Err(FormatError::Magic { what: "pack footer" });
        }
        if raw.version.get() != VERSION {
            return Err(FormatError::Version {
                what: "pack footer",
                found: raw.version.get(),
                known: VERSION,
            });
        }
        let footer = footer_of(size, raw.records.get(), raw.bases.get())
            .filter(|footer| {
                raw.reserved.get() == 0
                    && raw.trailer_offset.get() == footer.trailer_offset
                    && u32::try_from(footer.trailer_len) == Ok(raw.trailer_len.get())
            })
            .ok_or(layout(at, "the trailer does not end at the footer"))?;
        Ok(footer)
    }

    /// Opens the sealed trailer, in place, and checks every entry against the limits.
    pub fn open_trailer(
        &self,
        key: &SealKey,
        sealed: &mut [u8],
    ) -> Result<(Vec<Entry>, Vec<Digest>), FormatError> {
        if sealed.len() != self.trailer_len {
            return Err(layout(self.trailer_offset, "the trailer is cut short"));
        }
        let plain = key
            .open(TRAILER_ORDINAL, &trailer_aad(self.records, self.bases), sealed)
            .ok_or(FormatError::Forged { what: "pack trailer", offset: self.trailer_offset })?;
        self.decode_table(plain)
    }

    /// Bytes of the trailer's plain table.
    pub(crate) const fn table_len(&self) -> usize {
        self.trailer_len.saturating_sub(SealKey::OVERHEAD)
    }

    /// Reads the plain table of the trailer: entries, then bases.
    pub(crate) fn decode_table(
        &self,
        plain: &[u8],
    ) -> Result<(Vec<Entry>, Vec<Digest>), FormatError> {
        let table = usize::try_from(self.records).unwrap_or(0).saturating_mul(ENTRY_LEN);
        let (table, bases) =
            plain.split_at_checked(table).ok_or(layout(self.trailer_offset, "short"))?;
        let raw = <[RawEntry]>::ref_from_bytes(table)
            .map_err(|_| layout(self.trailer_offset, "short"))?;
        let entries = decode_entries(raw, self.trailer_offset)?;
        let bases: Vec<_> = bases.as_chunks().0.iter().map(|bytes| Digest::new(*bytes)).collect();
        let deltas = entries.iter().filter(|entry| entry.kind == RecordKind::BlockDelta).count();
        if deltas != bases.len() {
            return Err(layout(self.trailer_offset, "deltas and bases differ in number"));
        }
        Ok((entries, bases))
    }
}

/// The footer that a pack of this size and these counts must have.
pub(crate) fn footer_of(size: u64, records: u32, bases: u32) -> Option<Footer> {
    usize::try_from(size).ok().filter(|size| *size <= MAX_PACK)?;
    let count = usize::try_from(records).ok().filter(|count| *count <= MAX_RECORDS)?;
    let base_count = usize::try_from(bases).ok().filter(|bases| *bases <= count)?;
    let trailer_len = count
        .saturating_mul(ENTRY_LEN)
        .saturating_add(base_count.saturating_mul(BASE_LEN))
        .saturating_add(SealKey::OVERHEAD);
    let closing = u64::try_from(trailer_len.saturating_add(FOOTER_LEN)).ok()?;
    let trailer_offset = size.checked_sub(closing)?;
    Some(Footer { trailer_offset, trailer_len, records, bases })
}

/// Writes the plain table of a trailer: entries, then bases.
pub(crate) fn encode_table(entries: &[Entry], bases: &[Digest], out: &mut Vec<u8>) {
    for entry in entries {
        out.extend_from_slice(entry.raw().as_bytes());
    }
    for base in bases {
        out.extend_from_slice(base.as_bytes());
    }
}

fn decode_entries(raw: &[RawEntry], trailer_offset: u64) -> Result<Vec<Entry>, FormatError> {
    let bad = |reason| layout(trailer_offset, reason);
    let mut next = u32::try_from(HEADER_LEN).map_err(|_| bad("header"))?;
    let mut entries: Vec<Entry> = Vec::with_capacity(raw.len());
    for (ordinal, raw) in (0_u32..).zip(raw) {
        let packed = raw.plain_and_kind.get();
        let [a, b, c, kind] = packed.to_le_bytes();
        let kind = RecordKind::from_number(kind).ok_or(bad("unknown kind of record"))?;
        let (plain_len, part) = if kind == RecordKind::BlockUnit {
            let part = Part::of_unit(a, b).filter(|_| c == 0).ok_or(bad("no block of a unit"))?;
            (BLOCK_LEN, part)
        } else {
            (u32::from_le_bytes([a, b, c, 0]), Part::WHOLE)
        };
        let entry = Entry {
            digest: Digest::new(raw.digest),
            kind,
            ordinal,
            offset: raw.offset.get(),
            stored_len: raw.stored_len.get(),
            plain_len,
            part,
        };
        let sealed_max = usize::from(part.of)
            .saturating_mul(MAX_PLAIN)
            .saturating_add(BASE_LEN)
            .saturating_add(SealKey::OVERHEAD);
        let plain_fits = usize::try_from(entry.plain_len).is_ok_and(|len| len <= MAX_PLAIN);
        let sealed_fits = usize::try_from(entry.stored_len).is_ok_and(|len| len <= sealed_max);
        if !plain_fits || !sealed_fits || entry.digest.is_hole() {
            return Err(bad("a record does not fit"));
        }
        let unit = entries.last().filter(|last| !last.ends_record());
        if let Some(last) = unit {
            if !last.is_followed_by(&entry) {
                return Err(bad("a unit is not complete"));
            }
        } else {
            if entry.offset != next || part.at != 0 {
                return Err(bad("a record does not fit"));
            }
            next = next.checked_add(entry.stored_len).ok_or(bad("a record does not fit"))?;
        }
        entries.push(entry);
    }
    if entries.last().is_some_and(|last| !last.ends_record()) {
        return Err(bad("a unit is not complete"));
    }
    if u64::from(next) == trailer_offset {
        Ok(entries)
    } else {
        Err(bad("records do not end at the trailer"))
    }
}

impl Entry {
    /// Whether it is the last block of its record.
    pub const fn ends_record(&self) -> bool {
        self.part.at.saturating_add(1) >= self.part.of
    }

    /// Whether another entry is the next block of the same unit.
    fn is_followed_by(&self, next: &Self) -> bool {
        let place = |entry: &Self| (entry.kind, entry.offset, entry.stored_len, entry.part.of);
        place(self) == place(next) && next.part.at == self.part.at.saturating_add(1)
    }

    /// The plain bytes of the whole record.
    pub fn record_plain_len(&self) -> u32 {
        self.plain_len.saturating_mul(u32::from(self.part.of))
    }

    /// Where in the plain bytes of its record it begins.
    pub fn plain_start(&self) -> usize {
        usize::from(self.part.at).saturating_mul(MAX_PLAIN)
    }

    /// The sealed bytes that are there because of it: of a unit its part.
    pub fn stored_share(&self) -> u64 {
        let (all, of) = (u64::from(self.stored_len), u64::from(self.part.of));
        let each = all.checked_div(of).unwrap_or(all);
        let rest = all.saturating_sub(each.saturating_mul(of));
        if self.part.at == 0 { each.saturating_add(rest) } else { each }
    }

    /// The ordinal that its record was sealed with.
    fn record_ordinal(&self) -> u32 {
        self.ordinal.saturating_sub(u32::from(self.part.at))
    }

    fn raw(&self) -> RawEntry {
        let low = match self.kind {
            RecordKind::BlockUnit => u32::from(self.part.at) | (u32::from(self.part.of) << 8),
            _ => self.plain_len,
        };
        RawEntry {
            digest: *self.digest.as_bytes(),
            offset: self.offset.into(),
            stored_len: self.stored_len.into(),
            plain_and_kind: (low | (u32::from(self.kind.number()) << 24)).into(),
        }
    }

    /// Opens this record's sealed bytes in place; the result is its payload: of a unit, of all its
    /// blocks.
    pub fn open<'a>(
        &self,
        key: &SealKey,
        sealed: &'a mut [u8],
    ) -> Result<Payload<'a>, FormatError> {
        let offset = u64::from(self.offset);
        if u32::try_from(sealed.len()) != Ok(self.stored_len) {
            return Err(layout(offset, "a record is cut short"));
        }
        let ordinal = self.record_ordinal();
        let bytes = key
            .open(ordinal, &record_aad(self.kind, ordinal, self.record_plain_len()), sealed)
            .ok_or(FormatError::Forged { what: "record", offset })?;
        if self.kind != RecordKind::BlockDelta {
            return Ok(Payload { base: None, bytes });
        }
        let (base, bytes) =
            bytes.split_first_chunk::<BASE_LEN>().ok_or(layout(offset, "a delta without base"))?;
        Ok(Payload { base: Some(Digest::new(*base)), bytes })
    }
}

/// What is inside a record.
#[derive(Debug)]
pub struct Payload<'a> {
    /// The base, if the record is a delta.
    pub base: Option<Digest>,
    /// The encoded bytes.
    pub bytes: &'a [u8],
}

fn record_aad(kind: RecordKind, ordinal: u32, plain_len: u32) -> [u8; 12] {
    let aad = RawAad {
        kind: [kind.number(), b'r', b'e', b'c'],
        counts: [ordinal.into(), plain_len.into()],
    };
    zerocopy::transmute!(aad)
}

fn trailer_aad(records: u32, bases: u32) -> [u8; 12] {
    zerocopy::transmute!(RawAad {
        kind: [0, b't', b'o', b'c'],
        counts: [records.into(), bases.into()]
    })
}

/// What is bound to a sealed record or trailer. Little-endian.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct RawAad {
    /// The record's kind and `rec`, or zero and `toc`.
    kind: [u8; 4],
    /// Ordinal and plain length of a record; records and bases of a trailer.
    counts: [U32; 2],
}

/// A complete pack, ready to be put.
pub struct FinishedPack {
    /// Its bytes, aligned for direct I/O.
    pub bytes: AlignedBuf,
    /// Its table of contents.
    pub contents: Contents,
}
