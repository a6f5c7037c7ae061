//! Records of one pack into another: as they are, or their blocks compressed anew.
//!
//! A unit of which every block is needed is copied as it is. Of one of which only some are, those are
//! compressed anew, together.

use std::collections::HashMap;

use strongroom_base::{BLOCK_SIZE, Digest, PackId};
use strongroom_format::{
    SealKey,
    codec::{Decoder, Effort, Encoder, Encoding},
    names,
    pack::{Entry, Header, PackKind, Packing, Payload, RecordKind},
};

use crate::{Vault, VaultError, Writer, error::Result, index::RawRecord, write::ListedPack};

/// How the packs of the index are packed.
pub(super) fn packing_by_pack(vault: &Vault) -> HashMap<PackId, Packing> {
    let packs = vault.index.packs().into_iter();
    packs.map(|(pack, (header, _))| (pack, header.packing)).collect()
}

/// Puts records into the packs of a writer.
pub(super) struct Repacker<'a> {
    vault: &'a Vault,
    writer: &'a Writer,
    encoder: Encoder,
    decoder: Decoder,
    /// Blocks that will share a record, one behind the other, and their digests.
    together: Vec<u8>,
    waiting: Vec<Digest>,
    unit: Vec<u8>,
}

/// A pack whose records are read.
struct Source<'a> {
    listed: &'a ListedPack,
    key: std::sync::Arc<SealKey>,
    bytes: &'a [u8],
}

/// A record that is open.
struct Record<'a> {
    source: &'a Source<'a>,
    /// Its first entry, which says how all of it is kept.
    first: &'a Entry,
    /// The needed entries that lie in it.
    blocks: &'a [Entry],
    payload: Payload<'a>,
}

impl<'a> Source<'a> {
    fn open(vault: &Vault, listed: &'a ListedPack, bytes: &'a [u8]) -> Result<Self> {
        let object = names::pack(listed.kind, &listed.id);
        let header = Header::parse(bytes)
            .map_err(|source| VaultError::Object { object: object.to_string(), source })?;
        let key = vault.pack_key(&header, &object)?;
        Ok(Self { listed, key, bytes })
    }

    fn damaged(&self, source: strongroom_format::FormatError) -> VaultError {
        let object = names::pack(self.listed.kind, &self.listed.id).to_string();
        VaultError::Object { object, source }
    }

    /// The sealed bytes of a record.
    fn sealed(&self, entry: &Entry) -> Result<Vec<u8>> {
        let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(entry.stored_len).unwrap_or(usize::MAX));
        let sealed = self.bytes.get(start..end);
        Ok(sealed.ok_or(VaultError::Pack { pack: self.listed.id })?.to_vec())
    }
}

impl<'a> Repacker<'a> {
    pub(super) fn new(vault: &'a Vault, writer: &'a Writer, effort: Effort) -> Self {
        Self {
            vault,
            writer,
            encoder: Encoder::with_effort(effort),
            decoder: Decoder::new(),
            together: Vec::new(),
            waiting: Vec::new(),
            unit: Vec::new(),
        }
    }

    /// Copies records of a pack, which come in the order in which they lie.
    pub(super) fn copy(
        &mut self,
        listed: &ListedPack,
        records: &[RawRecord],
        bytes: &[u8],
    ) -> Result<()> {
        self.open_records(listed, records, bytes, |this, record| {
            let Record { source, first, blocks, payload } = record;
            if first.kind != RecordKind::BlockUnit {
                let len = usize::try_from(first.plain_len).unwrap_or(usize::MAX);
                let (kind, digest) = (first.kind, first.digest);
                this.writer.append(listed.kind, kind, digest, len, payload.base, payload.bytes)?;
            } else if blocks.len() == usize::from(first.part.of)
                && this.writer.takes_unit(blocks.len(), payload.bytes)
            {
                let digests: Vec<Digest> = blocks.iter().map(|entry| entry.digest).collect();
                this.writer.store_unit(&digests, payload.bytes)?;
            } else {
                this.open_unit(source, first, payload.bytes)?;
                this.take_blocks(source, blocks)?;
                this.flush()?;
            }
            Ok(())
        })
    }

    /// Compresses full blocks of a pack again.
    pub(super) fn compress(
        &mut self,
        listed: &ListedPack,
        records: &[RawRecord],
        bytes: &[u8],
    ) -> Result<()> {
        self.open_records(listed, records, bytes, |this, record| {
            let Record { source, first, blocks, payload } = record;
            if payload.base.is_some() || first.kind.pack_kind() != PackKind::Data {
                return Err(VaultError::Bug("only full blocks are compressed anew"));
            }
            this.open_unit(source, first, payload.bytes)?;
            this.take_blocks(source, blocks)
        })?;
        self.flush()
    }

    /// Opens records of a pack, which come in the order in which they lie, and gives each to `take`.
    fn open_records(
        &mut self,
        listed: &ListedPack,
        records: &[RawRecord],
        bytes: &[u8],
        mut take: impl FnMut(&mut Self, Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let source = Source::open(self.vault, listed, bytes)?;
        let entries: Vec<Entry> = records.iter().filter_map(RawRecord::entry).collect();
        for blocks in entries.chunk_by(|a, b| a.offset == b.offset) {
            let Some(first) = blocks.first() else { continue };
            let mut sealed = source.sealed(first)?;
            let payload = first.open(&source.key, &mut sealed).map_err(|e| source.damaged(e))?;
            take(self, Record { source: &source, first, blocks, payload })?;
        }
        Ok(())
    }

    /// Decompresses the blocks of a record.
    fn open_unit(&mut self, source: &Source<'_>, first: &Entry, payload: &[u8]) -> Result<()> {
        // Limits were checked when the trailer was opened.
        self.unit.resize(usize::try_from(first.record_plain_len()).unwrap_or(0), 0);
        let encoding: Encoding = first.kind.encoding();
        let decoded = self.decoder.decode(encoding, payload, None, &mut self.unit);
        decoded.map_err(|error| source.damaged(error))
    }

    /// Takes blocks out of the record that was decompressed. What is not what its digest says is not
    /// spread.
    fn take_blocks(&mut self, source: &Source<'_>, blocks: &[Entry]) -> Result<()> {
        let damaged = || VaultError::Pack { pack: source.listed.id };
        for entry in blocks {
            let start = entry.plain_start();
            let end = start.saturating_add(usize::try_from(entry.plain_len).unwrap_or(usize::MAX));
            let block = self.unit.get(start..end).ok_or_else(damaged)?;
            if self.vault.hasher().block(block) != entry.digest {
                return Err(damaged());
            }
            if block.len() != BLOCK_SIZE {
                // No backup stores such a block.
                let kind = RecordKind::BlockStored;
                self.writer.store_block(kind, entry.digest, block.len(), None, block)?;
                continue;
            }
            self.together.extend_from_slice(block);
            self.waiting.push(entry.digest);
            if self.waiting.len() >= self.writer.unit_blocks() {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Stores the blocks that wait.
    fn flush(&mut self) -> Result<()> {
        if self.waiting.len() > 1
            && let Some(payload) = self.encoder.unit(&self.together)
            && self.writer.takes_unit(self.waiting.len(), payload)
        {
            self.writer.store_unit(&self.waiting, payload)?;
        } else {
            for (digest, block) in self.waiting.iter().zip(self.together.chunks(BLOCK_SIZE)) {
                let (encoding, payload) = self.encoder.full(block);
                let kind = RecordKind::of_block(encoding);
                self.writer.store_block(kind, *digest, BLOCK_SIZE, None, payload)?;
            }
        }
        self.together.clear();
        self.waiting.clear();
        Ok(())
    }
}
