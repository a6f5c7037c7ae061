//! Writing a pack: records in, one finished object out.

use strongroom_base::{AlignedBuf, Digest};
use zerocopy::IntoBytes as _;

use super::{
    BLOCK_LEN, Contents, ENTRY_LEN, Entry, FOOTER_LEN, FOOTER_MAGIC, FinishedPack, HEADER_LEN,
    Header, MAX_PACK, MAX_RECORDS, PackFooter, PackKind, Packing, Part, RecordKind,
    TRAILER_ORDINAL, VERSION, encode_table, pack_id, record_aad, trailer_aad,
};
use crate::{FormatError, SealKey};

/// A pack that is being filled, in memory.
pub struct PackBuilder {
    header: Header,
    key: SealKey,
    buf: AlignedBuf,
    entries: Vec<Entry>,
    bases: Vec<Digest>,
}

impl PackBuilder {
    /// An empty pack of at most `capacity` bytes. The salt must never have been used before and
    /// the key must be derived from it.
    pub fn new(header: Header, key: SealKey, capacity: usize) -> Result<Self, FormatError> {
        Self::within(header, key, AlignedBuf::with_capacity(capacity.min(MAX_PACK)))
    }

    /// An empty pack in memory that is there already; its content is forgotten. Fresh memory costs
    /// a page fault every 4 KiB, which is a good part of what writing a pack costs.
    pub fn within(header: Header, key: SealKey, mut buf: AlignedBuf) -> Result<Self, FormatError> {
        buf.clear();
        if buf.append(&header.encode()) {
            Ok(Self { header, key, buf, entries: Vec::new(), bases: Vec::new() })
        } else {
            Err(FormatError::TooLarge { what: "pack" })
        }
    }

    /// What the pack is for.
    pub fn kind(&self) -> PackKind {
        self.header.kind
    }

    /// How it is packed.
    pub fn packing(&self) -> Packing {
        self.header.packing
    }

    /// Whether it has no records yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Records so far.
    pub fn records(&self) -> usize {
        self.entries.len()
    }

    /// Bytes it would have if it were finished now.
    pub fn size(&self) -> usize {
        self.buf.len().saturating_add(self.closing_len(0, 0))
    }

    fn closing_len(&self, more_records: usize, more_bases: usize) -> usize {
        let records = self.entries.len().saturating_add(more_records);
        let bases = self.bases.len().saturating_add(more_bases);
        records
            .saturating_mul(ENTRY_LEN)
            .saturating_add(bases.saturating_mul(super::BASE_LEN))
            .saturating_add(SealKey::OVERHEAD)
            .saturating_add(FOOTER_LEN)
    }

    /// Whether a record of this number of payload bytes still fits.
    pub fn fits(&self, payload_len: usize) -> bool {
        self.fits_with(payload_len, 1)
    }

    /// Whether a unit of this number of payload bytes and blocks still fits.
    pub fn fits_with(&self, payload_len: usize, blocks: usize) -> bool {
        let needed = payload_len
            .saturating_add(super::BASE_LEN)
            .saturating_add(SealKey::OVERHEAD)
            .saturating_add(self.closing_len(blocks, 1));
        self.entries.len().saturating_add(blocks) <= MAX_RECORDS && needed <= self.buf.room()
    }

    /// Seals a unit: blocks of these digests, in one frame. Returns the sealed bytes.
    pub fn append_unit(&mut self, digests: &[Digest], payload: &[u8]) -> Result<u32, FormatError> {
        let too_large = || FormatError::TooLarge { what: "unit" };
        let of = u8::try_from(digests.len()).map_err(|_| too_large())?;
        let limit = usize::from(of).saturating_mul(super::MAX_PLAIN);
        let shares = self.header.packing != Packing::Single && self.kind() == PackKind::Data;
        if !shares
            || Part::of_unit(0, of).is_none()
            || !self.fits_with(payload.len(), digests.len())
            || payload.len() > limit
        {
            return Err(too_large());
        }
        let first = u32::try_from(self.entries.len()).map_err(|_| too_large())?;
        let aad = record_aad(RecordKind::BlockUnit, first, BLOCK_LEN.saturating_mul(u32::from(of)));
        let (offset, stored_len) = self.seal(first, &aad, None, payload)?;
        for ((at, ordinal), digest) in (0..of).zip(first..).zip(digests) {
            self.entries.push(Entry {
                digest: *digest,
                kind: RecordKind::BlockUnit,
                ordinal,
                offset,
                stored_len,
                plain_len: BLOCK_LEN,
                part: Part { at, of },
            });
        }
        Ok(stored_len)
    }

    /// Appends sealed bytes. Returns where they are, and how many.
    fn seal(
        &mut self,
        ordinal: u32,
        aad: &[u8],
        base: Option<Digest>,
        payload: &[u8],
    ) -> Result<(u32, u32), FormatError> {
        let too_large = || FormatError::TooLarge { what: "record" };
        let start = self.buf.len();
        let offset = u32::try_from(start).map_err(|_| too_large())?;
        let room =
            base.is_none_or(|base| self.buf.append(base.as_bytes())) && self.buf.append(payload);
        let sealed = self
            .buf
            .get_mut(start..)
            .and_then(|record| self.key.seal(ordinal, aad, record))
            .is_some_and(|tag| self.buf.append(&tag));
        if !room || !sealed {
            return Err(too_large());
        }
        let stored_len =
            u32::try_from(self.buf.len().saturating_sub(start)).map_err(|_| too_large())?;
        Ok((offset, stored_len))
    }

    /// Seals a record. A `base` goes with [`RecordKind::BlockDelta`] and with nothing else.
    pub fn append(
        &mut self,
        kind: RecordKind,
        digest: Digest,
        plain_len: usize,
        base: Option<Digest>,
        payload: &[u8],
    ) -> Result<Entry, FormatError> {
        let too_large = || FormatError::TooLarge { what: "record" };
        if !self.fits(payload.len())
            || plain_len > super::MAX_PLAIN
            || base.is_some() != (kind == RecordKind::BlockDelta)
            || kind == RecordKind::BlockUnit
        {
            return Err(too_large());
        }
        let ordinal = u32::try_from(self.entries.len()).map_err(|_| too_large())?;
        let plain_len = u32::try_from(plain_len).map_err(|_| too_large())?;
        let aad = record_aad(kind, ordinal, plain_len);
        let (offset, stored_len) = self.seal(ordinal, &aad, base, payload)?;
        let part = Part::WHOLE;
        let entry = Entry { digest, kind, ordinal, offset, stored_len, plain_len, part };
        self.entries.push(entry);
        self.bases.extend(base);
        Ok(entry)
    }

    /// Writes trailer and footer and names the pack.
    pub fn finish(mut self) -> Result<FinishedPack, FormatError> {
        let too_large = || FormatError::TooLarge { what: "pack" };
        let closing = closing(&self.key, &self.entries, &self.bases)?;
        if !self.buf.append(&closing) {
            return Err(too_large());
        }
        let contents = Contents {
            id: pack_id(&self.buf),
            header: self.header,
            size: u64::try_from(self.buf.len()).map_err(|_| too_large())?,
            entries: self.entries,
            bases: self.bases,
        };
        Ok(FinishedPack { bytes: self.buf, contents })
    }
}

/// What stands behind the last record of a pack: the sealed trailer, and the footer.
pub fn closing(key: &SealKey, entries: &[Entry], bases: &[Digest]) -> Result<Vec<u8>, FormatError> {
    let too_large = || FormatError::TooLarge { what: "pack" };
    let records = u32::try_from(entries.len()).map_err(|_| too_large())?;
    let base_count = u32::try_from(bases.len()).map_err(|_| too_large())?;
    let trailer_offset = match entries.last() {
        Some(last) => u64::from(last.offset).saturating_add(u64::from(last.stored_len)),
        None => u64::try_from(HEADER_LEN).map_err(|_| too_large())?,
    };
    let mut bytes = Vec::new();
    encode_table(entries, bases, &mut bytes);
    let aad = trailer_aad(records, base_count);
    let tag = key.seal(TRAILER_ORDINAL, &aad, &mut bytes).ok_or_else(too_large)?;
    bytes.extend_from_slice(&tag);
    let footer = PackFooter {
        trailer_offset: trailer_offset.into(),
        trailer_len: u32::try_from(bytes.len()).map_err(|_| too_large())?.into(),
        records: records.into(),
        bases: base_count.into(),
        reserved: 0.into(),
        version: VERSION.into(),
        magic: FOOTER_MAGIC,
    };
    bytes.extend_from_slice(footer.as_bytes());
    Ok(bytes)
}
