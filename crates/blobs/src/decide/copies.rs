//! Copies to a blob: begin, steps while they are pending, and their ends.

use bytes::Bytes;

use super::{
    Decider, Decision, Undecided,
    blobs::{Present, check_range, check_sequence, check_size, done, shrink},
    blocks::{At, MAX_BLOCKS, check_len, write_op},
};
use crate::{
    change::{Access, CopyStep, Done, NewBlob, NewCopy},
    extents::{self, BlockId, Blocks, Extent, Room, whole_cells},
    lease::{Lease, LeaseState},
    pages::CELL,
    record::{Mark, Op},
    refusal::Refusal,
    rows::{self, Blob, BlobKind, BlobName, Copy, CopyStatus, Etag, IncrementalCopy, SnapshotId},
};

impl Decider<'_, '_, '_> {
    pub(super) fn begin_copy(
        &self,
        name: &BlobName,
        at: &At<'_>,
        present: Option<Present>,
        access: &Access,
        new: &NewCopy,
    ) -> Decision {
        if new.blob.kind.is_page() {
            check_size(new.blob.size)?;
        }
        check_sequence(new.blob.sequence)?;
        self.admit_create(present.as_ref(), access)?;
        if let Some(present) = &present {
            present.check_kind(new.blob.kind)?;
            if present.blob.is_copy_pending() {
                return Err(Refusal::PendingCopyOperation.into());
            }
            let lease = present.blob.lease.as_ref();
            let is_held = Lease::state(lease, self.moment.now) == LeaseState::Leased;
            if is_held && lease.is_some_and(|lease| lease.duration.is_some()) {
                return Err(Refusal::InfiniteLeaseRequired.into());
            }
        }
        let copy = Copy {
            id: self.uuid(),
            source: new.source.clone(),
            status: CopyStatus::Pending,
            done: 0,
            total: new.blob.size,
            completed: None,
            description: None,
            incremental: None,
        };
        match (new.incremental, present) {
            (Some(source), Some(present)) => self.next_increment(&present, copy, source, new),
            (source, present) => {
                if let Some(present) = &present {
                    self.admit_overwrite(name, at.container, present)?;
                }
                let first = |source| IncrementalCopy { source, last_source: None, snapshot: None };
                let copy = Copy { incremental: source.map(first), ..copy };
                self.overwritten(at, present.as_ref(), copy, &new.blob)
            }
        }
    }

    fn admit_overwrite(
        &self,
        name: &BlobName,
        container: u64,
        present: &Present,
    ) -> Result<(), Undecided> {
        if present.blob.is_incremental() {
            return Err(Refusal::OperationNotAllowedOnIncrementalCopyBlob.into());
        }
        if self.has_premium_rules(&name.container.account)?
            && self.has_snapshots(container, &name.blob)?
        {
            return Err(Refusal::SnapshotsPresent.into());
        }
        Ok(())
    }

    /// A new generation that the copy fills.
    fn overwritten(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
        copy: Copy,
        new: &NewBlob,
    ) -> Decision {
        let generation = self.next_generation;
        // Blocks are seen when all of them are there.
        let size = if new.kind.is_page() { new.size } else { 0 };
        let mark = self.marked(size, new.sequence);
        let lease = present.and_then(|present| present.blob.lease.clone());
        let id = copy.id.clone();
        let blob = Blob { copy: Some(copy), ..self.new_blob(new, lease) };
        let mut ops = self.end_ops(at, present)?;
        ops.push(Op::Begin { generation });
        ops.push(Op::Mark { generation, mark });
        ops.push(Op::Put { key: at.key.clone(), value: rows::encode(&blob) });
        Ok((ops, Done { copy: Some(id), ..done(mark) }))
    }

    fn next_increment(
        &self,
        present: &Present,
        copy: Copy,
        source: SnapshotId,
        new: &NewCopy,
    ) -> Decision {
        let before = present.blob.copy.as_ref();
        let Some((before, memory)) = before.and_then(|b| b.incremental.map(|m| (b, m))) else {
            return Err(Refusal::IncrementalCopyBlobMismatch.into());
        };
        if before.source != new.source {
            return Err(Refusal::IncrementalCopyBlobMismatch.into());
        }
        if memory.last_source.is_some_and(|last| source <= last) {
            return Err(Refusal::IncrementalCopyOfEarlierSnapshot.into());
        }
        let generation = present.blob.generation;
        let mark = self.marked(new.blob.size, new.blob.sequence);
        let id = copy.id.clone();
        let copy = Copy { incremental: Some(IncrementalCopy { source, ..memory }), ..copy };
        let blob = Blob {
            copy: Some(copy),
            properties: new.blob.properties.clone(),
            metadata: new.blob.metadata.clone(),
            ..present.blob.clone()
        };
        let mut ops = vec![Op::Mark { generation, mark }, present.put(&blob)];
        let old = present.mark().size;
        match memory.last_source {
            // The first copy did not end well: nothing that it left may stay.
            None if old > 0 => ops.push(Op::Clear { generation, offset: 0, len: old }),
            _ => ops.extend(shrink(generation, old, new.blob.size)),
        }
        Ok((ops, Done { copy: Some(id), ..done(mark) }))
    }

    pub(super) fn copy_step(
        &self,
        container: u64,
        name: &BlobName,
        present: &Present,
        access: &Access,
        id: &str,
        step: &CopyStep,
    ) -> Decision {
        let Some(copy) = present.blob.copy.clone().filter(|_| present.blob.is_copy_pending())
        else {
            return Err(Refusal::NoPendingCopyOperation.into());
        };
        if copy.id != id {
            return Err(Refusal::CopyIdMismatch.into());
        }
        let old = present.mark();
        let mark = self.marked(old.size, old.sequence);
        let generation = present.blob.generation;
        let passed = |done: u64| {
            let copy = Copy { done: done.min(copy.total), ..copy.clone() };
            present.put(&Blob { copy: Some(copy), ..present.blob.clone() })
        };
        let marked = Op::Mark { generation, mark };
        let ops = match step {
            CopyStep::Write { offset, data, done } => {
                let write = if present.blob.kind.is_page() {
                    self.write_op(present, *offset, data)?
                } else {
                    check_piece(&copy, *offset, data)?;
                    Some(write_op(generation, *offset, data))
                };
                [marked, passed(*done)].into_iter().chain(write).collect()
            }
            CopyStep::Clear { offset, len, done } => {
                present.check_kind(BlobKind::Page)?;
                check_range(*offset, *len, old.size)?;
                let clear = Op::Clear { generation, offset: *offset, len: *len };
                vec![marked, passed(*done), clear]
            }
            CopyStep::Finish { blocks } => {
                return self.finish(container, name, present, copy, blocks);
            }
            CopyStep::Fail { description } => {
                let description = Some(description.clone());
                let copy = Copy { status: CopyStatus::Failed, description, ..copy };
                return Ok(self.ended(present, copy));
            }
            CopyStep::Abort => {
                Lease::admits(present.blob.lease.as_ref(), access.lease.as_ref(), self.moment.now)?;
                let copy = Copy { status: CopyStatus::Aborted, ..copy };
                return Ok(self.ended(present, copy));
            }
        };
        Ok((ops, done(mark)))
    }

    fn finish(
        &self,
        container: u64,
        name: &BlobName,
        present: &Present,
        copy: Copy,
        blocks: &[(BlockId, u32)],
    ) -> Decision {
        let old = present.mark();
        let size = if present.blob.kind.is_page() { old.size } else { copy.total };
        let mark = self.marked(size, old.sequence);
        let generation = present.blob.generation;
        let (blocks, rows) = self.copied_list(present, &copy, blocks)?;
        let snapshot = SnapshotId(self.moment.stamp);
        let incremental = copy.incremental.map(|memory| IncrementalCopy {
            source: memory.source,
            last_source: Some(memory.source),
            snapshot: Some(snapshot),
        });
        let copy = Copy {
            status: CopyStatus::Success,
            done: copy.total,
            completed: Some(self.moment.now),
            incremental,
            ..copy
        };
        let blob = Blob { copy: Some(copy), blocks, ..present.blob.clone() };
        let mut ops = vec![Op::Mark { generation, mark }, present.put(&blob)];
        ops.extend(rows);
        let mut answer = done(mark);
        if incremental.is_some() {
            let mut frozen = Self::frozen(present);
            frozen.etag = Etag(mark.etag);
            frozen.modified = mark.modified;
            ops.extend(self.snapshot_ops(container, name, blob, frozen));
            answer.snapshot = Some(snapshot);
        }
        Ok((ops, answer))
    }

    /// The list of a copied block blob: its blocks lie at their own offsets.
    fn copied_list(
        &self,
        present: &Present,
        copy: &Copy,
        blocks: &[(BlockId, u32)],
    ) -> Result<(Option<Blocks>, Vec<Op>), Refusal> {
        if blocks.is_empty() {
            return Ok((None, Vec::new()));
        }
        present.check_kind(BlobKind::Block)?;
        let mut place = 0_u64;
        let extent = |(id, len): &(BlockId, u32)| {
            let extent = Extent { id: id.as_bytes().to_vec(), place, len: *len };
            place = place.saturating_add(u64::from(*len));
            extent
        };
        let extents: Vec<Extent> = blocks.iter().map(extent).collect();
        let is_good = place == copy.total
            && extents.len() <= MAX_BLOCKS
            && extents.iter().all(|extent| extent.len > 0);
        if !is_good {
            return Err(Refusal::InvalidBlockList);
        }
        let list = self.moment.stamp;
        let end = whole_cells(0, place).end;
        let room = Room { end, ..Room::default() };
        let count = crate::numbers::narrow(crate::numbers::wide(extents.len()));
        let rows = extents::encode_list(present.blob.generation, list, &extents);
        let ops = rows.into_iter().map(|(key, value)| Op::Put { key, value }).collect();
        Ok((Some(Blocks { list, count, room }), ops))
    }

    /// A copy that ended without success leaves an empty blob. The base of incremental copies keeps its pages: the next
    /// one begins from the last snapshot that was copied, and writes or clears every page that this one touched.
    fn ended(&self, present: &Present, copy: Copy) -> (Vec<Op>, Done) {
        let copy = Copy { completed: Some(self.moment.now), ..copy };
        let blob = Blob { copy: Some(copy), ..present.blob.clone() };
        if blob.is_incremental() {
            let Mark { size, sequence, .. } = present.mark();
            let mark = self.marked(size, sequence);
            let generation = blob.generation;
            return (vec![Op::Mark { generation, mark }, present.put(&blob)], done(mark));
        }
        let generation = self.next_generation;
        let sequence = if blob.kind.is_page() { present.mark().sequence } else { 0 };
        let mark = self.marked(0, sequence);
        let blob = Blob { generation, ..blob };
        let ops = vec![
            present.end(),
            Op::Begin { generation },
            Op::Mark { generation, mark },
            present.put(&blob),
        ];
        (ops, done(mark))
    }
}

/// Checks a piece of a copy to a blob without pages: whole cells, but at the end.
fn check_piece(copy: &Copy, offset: u64, data: &Bytes) -> Result<(), Refusal> {
    check_len(data, 1)?;
    let len = crate::numbers::wide(data.len());
    let end = offset.saturating_add(len);
    let is_whole = len.is_multiple_of(CELL) || end == copy.total;
    if offset.is_multiple_of(CELL) && is_whole && end <= copy.total {
        Ok(())
    } else {
        Err(Refusal::InvalidRange)
    }
}
