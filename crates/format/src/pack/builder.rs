//! Writing a pack: records in, one finished object out.

use strongroom_base::{AlignedBuf, Digest};
use zerocopy::IntoBytes as _;

use super::{
    Contents, ENTRY_LEN, Entry, FOOTER_LEN, FOOTER_MAGIC, FinishedPack, HEADER_LEN, Header,
    MAX_PACK, MAX_RECORDS, PackFooter, RecordKind, TRAILER_ORDINAL, VERSION, encode_table, pack_id,
    record_aad, trailer_aad,
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

    /// Whether a record of so many payload bytes still fits.
    pub fn fits(&self, payload_len: usize) -> bool {
        let needed = payload_len
            .saturating_add(super::BASE_LEN)
            .saturating_add(SealKey::OVERHEAD)
            .saturating_add(self.closing_len(1, 1));
        self.entries.len() < MAX_RECORDS && needed <= self.buf.room()
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
        {
            return Err(too_large());
        }
        let start = self.buf.len();
        let ordinal = u32::try_from(self.entries.len()).map_err(|_| too_large())?;
        let offset = u32::try_from(start).map_err(|_| too_large())?;
        let plain_len = u32::try_from(plain_len).map_err(|_| too_large())?;
        let room =
            base.is_none_or(|base| self.buf.append(base.as_bytes())) && self.buf.append(payload);
        let aad = record_aad(kind, ordinal, plain_len);
        let sealed = self
            .buf
            .get_mut(start..)
            .and_then(|record| self.key.seal(ordinal, &aad, record))
            .is_some_and(|tag| self.buf.append(&tag));
        if !room || !sealed {
            return Err(too_large());
        }
        let stored_len =
            u32::try_from(self.buf.len().saturating_sub(start)).map_err(|_| too_large())?;
        let entry = Entry { digest, kind, ordinal, offset, stored_len, plain_len };
        self.entries.push(entry);
        self.bases.extend(base);
        Ok(entry)
    }

    /// Writes trailer and footer and names the pack.
    pub fn finish(mut self) -> Result<FinishedPack, FormatError> {
        let too_large = || FormatError::TooLarge { what: "pack" };
        let trailer_offset = self.buf.len();
        let records = u32::try_from(self.entries.len()).map_err(|_| too_large())?;
        let bases = u32::try_from(self.bases.len()).map_err(|_| too_large())?;
        let mut table = Vec::with_capacity(self.closing_len(0, 0));
        encode_table(&self.entries, &self.bases, &mut table);
        let mut fits = self.buf.append(&table);
        let tag = self
            .buf
            .get_mut(trailer_offset..)
            .and_then(|trailer| {
                self.key.seal(TRAILER_ORDINAL, &trailer_aad(records, bases), trailer)
            })
            .ok_or_else(too_large)?;
        fits &= self.buf.append(&tag);
        let trailer_len = self.buf.len().saturating_sub(trailer_offset);
        let footer = PackFooter {
            trailer_offset: u64::try_from(trailer_offset).map_err(|_| too_large())?.into(),
            trailer_len: u32::try_from(trailer_len).map_err(|_| too_large())?.into(),
            records: records.into(),
            bases: bases.into(),
            reserved: 0.into(),
            version: VERSION.into(),
            magic: FOOTER_MAGIC,
        };
        fits &= self.buf.append(footer.as_bytes());
        if !fits || trailer_offset < HEADER_LEN {
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
