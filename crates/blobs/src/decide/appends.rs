//! Append blobs, and uploads: content that comes in pieces before the change that uses it.
//!
//! The blocks of an append blob lie behind each other as long as nothing stands in the way, so that an append writes no
//! row but the mark, which counts the blocks in the place of the sequence number.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use redb::ReadableTable as _;

use super::{
    Decider, Decision, Undecided,
    blobs::{Present, done},
    blocks::{
        At, MAX_BLOCKS, check_len, clear_op, put_staging, refuse_pending, staging_ops, write_op,
    },
};
use crate::{
    change::{Access, AppendConditions, Content, Done, UploadId, UploadStep, UploadTo},
    extents::{Room, Run, Staging, Upload, whole_cells},
    map::version_at,
    numbers::{narrow, size, wide},
    pages::{BLOCK, CELL, MAX_WRITE, pages_of_cell},
    record::Op,
    refusal::Refusal,
    rows::{self, Blob, BlobKind, keys},
};

/// The one list of an append blob.
const LIST: u64 = 0;

impl Decider<'_, '_, '_> {
    pub(super) fn append(
        &self,
        present: &Present,
        access: &Access,
        content: &Content,
        conditions: AppendConditions,
    ) -> Decision {
        present.check_kind(BlobKind::Append)?;
        self.admit_blob(present, access)?;
        let (generation, old) = (present.blob.generation, present.mark());
        let len = match content {
            Content::Bytes(data) => {
                check_len(data, 1)?;
                wide(data.len())
            }
            Content::Upload(id) => {
                let upload = self.upload(*id)?;
                if upload.is_alone || id.generation != generation {
                    return Err(Refusal::UploadLost.into());
                }
                upload.len
            }
        };
        conditions.check(old.size, len)?;
        if old.sequence >= wide(MAX_BLOCKS) {
            return Err(Refusal::BlockCountExceeded.into());
        }
        let behind = self.behind(present)?;
        let mark = self.marked(old.size.saturating_add(len), old.sequence.saturating_add(1));
        let mut ops = vec![Op::Mark { generation, mark }];
        let (place, write) = match content {
            Content::Bytes(data) => {
                let place = self.place_behind(generation, behind, len)?;
                (place, Some(self.continued(generation, place, data)?))
            }
            Content::Upload(id) => {
                ops.push(Op::Remove { key: keys::upload(id.generation, id.place) });
                (id.place, None)
            }
        };
        let (end, top) = behind;
        if place != end {
            let value = Run { place, top: top.max(place.saturating_add(len)) }.encode();
            ops.push(Op::Put { key: keys::content(generation, LIST, old.size), value });
        }
        ops.extend(write);
        Ok((ops, Done { appended: Some(old.size), ..done(mark) }))
    }

    /// The place behind the last byte of an append blob, and the end of all places that it uses.
    fn behind(&self, present: &Present) -> Result<(u64, u64), Undecided> {
        let (generation, size) = (present.blob.generation, present.mark().size);
        let from = keys::content_list(generation, LIST);
        let end = keys::content(generation, LIST, size);
        let names = &self.applier.tables.names;
        let row = names.range(from.as_slice()..=end.as_slice())?.next_back().transpose()?;
        let Some((key, value)) = row else { return Ok((size, size)) };
        let offset = keys::last_number(key.value()).unwrap_or(0);
        let Run { place, top } = Run::decode(key.value(), value.value())?;
        let behind = place.saturating_add(size.saturating_sub(offset));
        Ok((behind, top.max(behind)))
    }

    /// The place for an append: behind the last byte, or in cells of its own if something stands there.
    fn place_behind(
        &self,
        generation: u64,
        (behind, top): (u64, u64),
        len: u64,
    ) -> Result<u64, Undecided> {
        let wanted = whole_cells(behind, len);
        let uploads = self.uploads_of(generation)?;
        let is_taken = |range: &Range<u64>| range.start < wanted.end && wanted.start < range.end;
        if behind < top || uploads.iter().any(is_taken) {
            return Ok(free_end(top, &uploads));
        }
        Ok(behind)
    }

    /// The write of bytes that continue a cell.
    fn continued(&self, generation: u64, place: u64, data: &Bytes) -> Result<Op, Undecided> {
        let within = place % CELL;
        if within == 0 {
            return Ok(write_op(generation, place, data));
        }
        let start = place.saturating_sub(within);
        let (block, cell) = (narrow(start / BLOCK), size(start % BLOCK / CELL));
        let tables = &self.applier.tables;
        let epoch = tables.generation(generation)?.map_or(0, |row| row.epoch);
        let mut whole = BytesMut::with_capacity(size(CELL).saturating_add(data.len()));
        if let Some((_, version)) = version_at(&tables.blocks, generation, block, epoch)?
            && version.written & pages_of_cell(cell) != 0
        {
            whole.extend_from_slice(&self.applier.cell(generation, block, &version, cell)?);
        }
        whole.resize(size(within), 0);
        whole.extend_from_slice(data);
        Ok(write_op(generation, start, &whole.freeze()))
    }

    /// An upload that exists.
    pub(super) fn upload(&self, id: UploadId) -> Result<Upload, Undecided> {
        let found: Option<Upload> = self.row(&keys::upload(id.generation, id.place))?;
        let found = found.filter(|upload| upload.stamp == id.stamp);
        found.ok_or_else(|| Refusal::UploadLost.into())
    }

    /// The cells that the uploads in a generation have.
    pub(super) fn uploads_of(&self, generation: u64) -> Result<Vec<Range<u64>>, Undecided> {
        let from = keys::of_generation(*b"u", generation);
        let end = keys::behind(&from);
        let mut found = Vec::new();
        for row in self.applier.tables.names.range(from.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            let upload: Upload = rows::decode(key.value(), value.value())?;
            found.push(upload.cells(keys::last_number(key.value()).unwrap_or(0)));
        }
        Ok(found)
    }

    pub(super) fn begin_upload(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
        access: &Access,
        to: UploadTo,
        len: u64,
    ) -> Decision {
        // A copy writes where it likes until it ends.
        refuse_pending(present)?;
        let mut ops = Vec::new();
        let mut under = None;
        let (generation, place, is_alone) = match to {
            UploadTo::Blob => {
                self.admit_create(present, access)?;
                let generation = self.next_generation;
                ops.push(Op::Begin { generation });
                (generation, Room::default().take(len), true)
            }
            UploadTo::Block => {
                self.admit_staging(present, access)?;
                let (mut staging, begin) = self.staging_or_new(at, present)?;
                if len > u64::from(u32::MAX) {
                    return Err(Refusal::InvalidBlock.into());
                }
                let place = staging.room.take(len);
                ops.extend(begin);
                ops.push(put_staging(at, &staging));
                under = Some((at.container, at.name.to_owned()));
                (staging.generation, place, false)
            }
            UploadTo::Append => {
                let present = present.ok_or(Refusal::BlobNotFound)?;
                present.check_kind(BlobKind::Append)?;
                self.admit_blob(present, access)?;
                let generation = present.blob.generation;
                let uploads = self.uploads_of(generation)?;
                let (_, top) = self.behind(present)?;
                let mut room = Room { end: free_end(top, &uploads), ..Room::default() };
                (generation, room.take(len), false)
            }
        };
        if len == 0 {
            return Err(Refusal::InvalidBlock.into());
        }
        let place = place.ok_or(Refusal::Full)?;
        let key = keys::upload(generation, place);
        let stamp = self.moment.stamp;
        ops.push(Op::Put { key, value: rows::encode(&Upload { len, is_alone, stamp, under }) });
        let id = UploadId { generation, place, stamp };
        Ok((ops, Done { upload: Some(id), ..Done::default() }))
    }

    pub(super) fn upload_step(&self, id: UploadId, step: &UploadStep) -> Decision {
        let upload = self.upload(id)?;
        let op = match step {
            UploadStep::Write { offset, data } => {
                let end = offset.saturating_add(wide(data.len()));
                let is_last = end == upload.len;
                let is_whole = wide(data.len()).is_multiple_of(CELL);
                if wide(data.len()) > MAX_WRITE {
                    return Err(Refusal::TooLarge { limit: MAX_WRITE }.into());
                }
                if data.is_empty()
                    || !offset.is_multiple_of(CELL)
                    || end > upload.len
                    || !(is_whole || is_last)
                {
                    return Err(Refusal::InvalidBlock.into());
                }
                vec![write_op(id.generation, id.place.saturating_add(*offset), data)]
            }
            UploadStep::Abandon => self.abandon_ops(id, &upload)?,
        };
        Ok((op, Done::default()))
    }

    /// What gives back what is behind a row that nobody needs any more: of an upload, or of blocks that wait.
    pub(crate) fn give_back(&self, key: &[u8]) -> Result<Vec<Op>, Undecided> {
        if key.starts_with(b"u") { self.abandon(key) } else { self.expire(key) }
    }

    fn abandon(&self, key: &[u8]) -> Result<Vec<Op>, Undecided> {
        let Some(upload) = self.row::<Upload>(key)? else { return Ok(Vec::new()) };
        let generation = key.get(1..).and_then(<[u8]>::first_chunk::<8>);
        let id = UploadId {
            generation: generation.map_or(0, |bytes| u64::from_be_bytes(*bytes)),
            place: keys::last_number(key).unwrap_or(0),
            stamp: upload.stamp,
        };
        self.abandon_ops(id, &upload)
    }

    fn abandon_ops(&self, id: UploadId, upload: &Upload) -> Result<Vec<Op>, Undecided> {
        let UploadId { generation, place, .. } = id;
        let mut ops = vec![Op::Remove { key: keys::upload(generation, place) }];
        if upload.is_alone {
            ops.push(Op::End { generation, epoch: 0 });
            return Ok(ops);
        }
        if let Some((container, name)) = &upload.under {
            let at = At { container: *container, name, key: keys::blob(*container, name, None) };
            let is_empty = |staging: &Staging| staging.count == 0;
            let staging = self.staging(&at)?.filter(|staging| staging.generation == generation);
            if let Some(staging) = staging.filter(is_empty)
                && self.row::<Blob>(&at.key)?.is_none()
                && self.uploads_of(generation)?.len() < 2
            {
                // It was begun for this upload alone.
                ops.extend(staging_ops(*container, name, &staging, true));
                return Ok(ops);
            }
        }
        ops.push(clear_op(generation, &upload.cells(place)));
        Ok(ops)
    }
}

/// The first whole cell behind a place and behind all uploads.
fn free_end(behind: u64, uploads: &[Range<u64>]) -> u64 {
    let end = uploads.iter().map(|range| range.end).max().unwrap_or(0);
    end.max(behind.next_multiple_of(CELL))
}

impl AppendConditions {
    fn check(self, size: u64, len: u64) -> Result<(), Refusal> {
        if self.position.is_some_and(|position| position != size) {
            return Err(Refusal::AppendPositionConditionNotMet);
        }
        if self.max_size.is_some_and(|most| size.saturating_add(len) > most) {
            return Err(Refusal::MaxBlobSizeConditionNotMet);
        }
        Ok(())
    }
}
