//! Reading content: from the bytes of a blob to its pages, their slots, and their checksums.
//!
//! Slots may change while they are read: every read looks the map up again, checks the checksums, and tries again if the
//! committer was faster.

use std::sync::PoisonError;

use crc32c::crc32c;
use redb::{ReadTransaction, ReadableDatabase as _};

use crate::{
    engine::Shared,
    extents::{Block, BlockId, Extent, Run, Staging, decode_staged},
    map::{version_at, zero_unwritten},
    numbers::{narrow, size, wide},
    pages::{BLOCK, CELL, block_start, pages_of_cell, parts},
    refusal::Refusal,
    rows::{self, Blob, BlobKind, BlobName, keys},
    slots::Place,
    state::{BLOCKS, EPOCHS, EpochUse, NAMES, StateError, Version},
    view::{Head, ReadError, View},
};

/// How often a read tries without holding the committer up.
const TRIES: usize = 3;

impl View {
    /// Reads bytes of a blob or a snapshot from `offset` on. Pages without content are zeros. Each block of a page blob
    /// is read as one change left it; two blocks may be of different moments if the blob is written meanwhile. Of other
    /// blobs all bytes are of the state that `head` was taken from, or the read is refused.
    pub fn read(&self, head: &Head, offset: u64, bytes: &mut [u8]) -> Result<(), ReadError> {
        let len = wide(bytes.len());
        if offset.checked_add(len).is_none_or(|end| end > head.size) {
            return Err(Refusal::InvalidRange.into());
        }
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            outcome = read_once(&self.shared, head, offset, bytes);
            match outcome {
                Err(ReadError::Refused(Refusal::Damaged { .. })) => {}
                Ok(()) | Err(ReadError::Refused(_)) => return outcome,
                Err(_) => break,
            }
        }
        if outcome.is_err() {
            // The committer may have been faster each time: what it cannot change meanwhile is the truth.
            let _in_step = self.shared.in_step.read().unwrap_or_else(PoisonError::into_inner);
            outcome = read_once(&self.shared, head, offset, bytes);
        }
        outcome.or_else(|error| self.read_again(head, offset, bytes, error))
    }

    /// Reads what could not be read: after a repair, or in another copy.
    fn read_again(
        &self,
        head: &Head,
        offset: u64,
        bytes: &mut [u8],
        mut error: ReadError,
    ) -> Result<(), ReadError> {
        for _ in 0..=bytes.len() / size(BLOCK) + TRIES {
            let is_right = match &error {
                ReadError::Refused(Refusal::Damaged { offset }) => {
                    self.hub.repair(&self.shared, head.generation, narrow(offset / BLOCK))
                }
                ReadError::File(_) => self
                    .blocks_of(head, offset, wide(bytes.len()))?
                    .into_iter()
                    .all(|block| self.hub.repair(&self.shared, head.generation, block)),
                ReadError::State(_) => false,
                ReadError::Refused(_) => return Err(error),
            };
            if !is_right {
                break;
            }
            match read_once(&self.shared, head, offset, bytes) {
                Ok(()) => return Ok(()),
                Err(other) => error = other,
            }
        }
        let wanted = self.shared.next_record.load(std::sync::atomic::Ordering::SeqCst);
        for copy in self.hub.others(&self.shared) {
            let applied = copy.next_record.load(std::sync::atomic::Ordering::SeqCst);
            if applied >= wanted && read_once(&copy, head, offset, bytes).is_ok() {
                return Ok(());
            }
        }
        Err(error)
    }

    /// The blocks of pages in which a range of the content lies.
    fn blocks_of(&self, head: &Head, offset: u64, len: u64) -> Result<Vec<u32>, ReadError> {
        let places = if head.kind.is_page() {
            vec![(offset, len)]
        } else {
            places(&self.transaction, head, offset, len)?
        };
        let parts = places.into_iter().flat_map(|(place, len)| parts(place, len));
        Ok(parts.map(|part| part.block).collect())
    }

    /// The blocks that a block blob or its snapshot is made of, in order. There are none where the content came in one
    /// piece.
    pub fn committed_blocks(&self, head: &Head) -> Result<Vec<Block>, ReadError> {
        if head.kind != BlobKind::Block {
            return Err(Refusal::InvalidBlobType.into());
        }
        let Some(list) = head.list else { return Ok(Vec::new()) };
        let names = self.transaction.open_table(NAMES)?;
        let from = keys::content_list(head.generation, list);
        let end = keys::behind(&from);
        let mut blocks = Vec::new();
        for row in names.range(from.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            let extents = Extent::decode_row(key.value(), value.value())?;
            blocks.extend(extents.iter().filter_map(block));
        }
        Ok(blocks)
    }

    /// The blocks that wait under a name, by their ids. The name is not found if neither a blob nor blocks are there.
    pub fn uncommitted_blocks(&self, name: &BlobName) -> Result<Vec<Block>, ReadError> {
        let container = self.container(&name.container)?.id;
        let blob: Option<Blob> = self.row(&keys::blob(container, &name.blob, None))?;
        let staging: Option<Staging> = self.row(&keys::staging(container, &name.blob))?;
        if blob.as_ref().is_some_and(|blob| blob.kind != BlobKind::Block) {
            return Err(Refusal::InvalidBlobType.into());
        }
        let Some(staging) = staging.filter(|staging| staging.count > 0 || blob.is_some()) else {
            return blob.map(|_| Vec::new()).ok_or_else(|| Refusal::BlobNotFound.into());
        };
        let names = self.transaction.open_table(NAMES)?;
        let from = keys::of_generation(*b"q", staging.generation);
        let end = keys::behind(&from);
        let mut blocks = Vec::new();
        for row in names.range(from.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            blocks.extend(block(&decode_staged(key.value(), value.value())?));
        }
        Ok(blocks)
    }
}

fn block(extent: &Extent) -> Option<Block> {
    Some(Block { id: BlockId::new(&extent.id)?, len: u64::from(extent.len) })
}

fn read_once(shared: &Shared, head: &Head, offset: u64, bytes: &mut [u8]) -> Result<(), ReadError> {
    let transaction = shared.state.database.begin_read()?;
    let epochs = transaction.open_table(EPOCHS)?;
    let kind = epochs.get((head.generation, head.epoch))?.map(|kind| kind.value());
    // An epoch without a reader is merged into the next one, and its pages are not where they were.
    if kind.map(EpochUse::from_number).is_none_or(|kind| kind == EpochUse::Gone) {
        return Err(Refusal::BlobNotFound.into());
    }
    if head.kind.is_page() {
        return read_pages(shared, &transaction, head, offset, bytes);
    }
    check_content(&transaction, head)?;
    let mut rest = bytes;
    for (place, len) in places(&transaction, head, offset, wide(rest.len()))? {
        let (now, later) = rest.split_at_mut_checked(size(len)).unwrap_or_default();
        rest = later;
        read_pages(shared, &transaction, head, place, now)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(list_damaged(head).into()) }
}

/// Reads bytes at a place of a generation.
fn read_pages(
    shared: &Shared,
    transaction: &ReadTransaction,
    head: &Head,
    place: u64,
    bytes: &mut [u8],
) -> Result<(), ReadError> {
    let blocks = transaction.open_table(BLOCKS)?;
    let mut rest = bytes;
    for part in parts(place, wide(rest.len())) {
        let len = size(part.end.saturating_sub(part.start));
        let (now, later) = rest.split_at_mut_checked(len).unwrap_or_default();
        rest = later;
        match version_at(&blocks, head.generation, part.block, head.epoch)? {
            Some((_, version)) if version.written & part.pages() != 0 => {
                read_part(shared, head.generation, part.block, &version, part.start, now)?;
            }
            _ => now.fill(0),
        }
    }
    Ok(())
}

/// A present that has other blocks now may have cleared those that the head names.
fn check_content(transaction: &ReadTransaction, head: &Head) -> Result<(), ReadError> {
    if head.snapshot.is_some() || head.kind == BlobKind::Append {
        return Ok(());
    }
    let names = transaction.open_table(NAMES)?;
    let key = keys::blob(head.container, &head.name, None);
    let row = names.get(key.as_slice())?;
    let row: Option<Blob> = row.map(|row| rows::decode(&key, row.value())).transpose()?;
    let row = row.ok_or(Refusal::BlobNotFound)?;
    if (row.generation, row.blocks.map(|blocks| blocks.list)) == (head.generation, head.list) {
        Ok(())
    } else {
        Err(Refusal::BlobModified.into())
    }
}

fn list_damaged(head: &Head) -> StateError {
    StateError::Row { row: format!("a list of content of generation {}", head.generation) }
}

/// The places of a range of the content, in order, with the length of each.
fn places(
    transaction: &ReadTransaction,
    head: &Head,
    offset: u64,
    len: u64,
) -> Result<Vec<(u64, u64)>, ReadError> {
    let list = match (head.kind, head.list) {
        (BlobKind::Append, _) => 0,
        (_, Some(list)) => list,
        (_, None) => return Ok(vec![(offset, len)]),
    };
    let end = offset.saturating_add(len);
    let names = transaction.open_table(NAMES)?;
    let (generation, first) = (head.generation, keys::content_list(head.generation, list));
    let at = keys::content(generation, list, offset);
    // The row that has the first byte begins at it or before it.
    let begin = match names.range(first.as_slice()..=at.as_slice())?.next_back() {
        Some(row) => row?.0.value().to_vec(),
        None => first,
    };
    let behind = keys::content(generation, list, end);
    let mut found = Found { from: offset, end, places: Vec::new() };
    // Where an append blob has no row, its content lies at its own offsets.
    let mut run = (0, 0);
    for row in names.range(begin.as_slice()..behind.as_slice())? {
        let (key, value) = row?;
        let start = keys::last_number(key.value()).unwrap_or(0);
        if head.kind == BlobKind::Append {
            found.add(run.0, run.1, start.saturating_sub(run.0));
            run = (start, Run::decode(key.value(), value.value())?.place);
            continue;
        }
        let mut start = start;
        for extent in Extent::decode_row(key.value(), value.value())? {
            found.add(start, extent.place, u64::from(extent.len));
            start = start.saturating_add(u64::from(extent.len));
        }
    }
    if head.kind == BlobKind::Append {
        found.add(run.0, run.1, end.saturating_sub(run.0));
    }
    Ok(found.places)
}

/// The places of a range, as they are found.
struct Found {
    from: u64,
    end: u64,
    places: Vec<(u64, u64)>,
}

impl Found {
    /// Adds what the range has of content that begins at `start` and lies at `place`.
    fn add(&mut self, start: u64, place: u64, len: u64) {
        let from = self.from.max(start);
        let end = self.end.min(start.saturating_add(len));
        if from < end {
            let within = from.saturating_sub(start);
            self.places.push((place.saturating_add(within), end.saturating_sub(from)));
        }
    }
}

/// Reads a part of a block, whole cells at a time, and checks them.
fn read_part(
    shared: &Shared,
    generation: u64,
    block: u32,
    version: &Version,
    start: u64,
    bytes: &mut [u8],
) -> Result<(), ReadError> {
    let Some(place) = Place::of(generation, block, version.slot) else {
        bytes.fill(0);
        return Ok(());
    };
    let end = start.saturating_add(wide(bytes.len()));
    let (first, behind) = crate::record::cells_around(start, end - start);
    let is_whole = (first, behind) == (start, end);
    let mut cells = if is_whole { Vec::new() } else { vec![0; size(behind - first)] };
    let target: &mut [u8] = if is_whole { &mut *bytes } else { &mut cells };
    shared.files.read(place, first, target).map_err(ReadError::File)?;
    for (cell, content) in (size(first / CELL)..).zip(target.chunks_mut(size(CELL))) {
        let written = version.written & pages_of_cell(cell);
        if written != 0 && version.checksums.get(cell) != Some(&crc32c(content)) {
            let at = wide(cell).saturating_mul(CELL);
            let offset = block_start(block).saturating_add(at);
            return Err(Refusal::Damaged { offset }.into());
        }
        if written != pages_of_cell(cell) {
            zero_unwritten(content, version.written, cell);
        }
    }
    if !is_whole {
        let from = start - first;
        bytes.copy_from_slice(crate::pages::span(&cells, from, from + (end - start)));
    }
    Ok(())
}
