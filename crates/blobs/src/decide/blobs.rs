//! Changes of one blob of any kind, and those of pages.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Decider, Decision, Undecided,
    blocks::{At, refuse_pending, remove_all},
};
use crate::{
    change::{
        Access, BlobChange, DeleteSnapshots, Done, NewBlob, SequenceAction, SequenceConditions,
    },
    lease::{Lease, LeaseAction, LeaseId},
    numbers::wide,
    pages::{MAX_SIZE, MAX_WRITE, PAGE},
    record::{Mark, Op},
    refusal::Refusal,
    rows::{self, Blob, BlobKind, BlobName, Etag, Properties, SnapshotId, keys},
    state::{Generation, StateError},
};

/// The greatest sequence number.
pub(super) const MAX_SEQUENCE: u64 = (1 << 63) - 1;
/// The longest name of a blob in bytes: 1,024 characters of up to four bytes.
const MAX_NAME: usize = 4096;

/// A blob as it is before the change.
pub(super) struct Present {
    pub(super) key: Vec<u8>,
    pub(super) blob: Blob,
    pub(super) generation: Generation,
}

impl Present {
    pub(super) fn mark(&self) -> Mark {
        self.generation.mark
    }

    /// The end of its present; earlier snapshots stay.
    pub(super) fn end(&self) -> Op {
        Op::End { generation: self.blob.generation, epoch: self.generation.epoch }
    }

    pub(super) fn put(&self, blob: &Blob) -> Op {
        Op::Put { key: self.key.clone(), value: rows::encode(blob) }
    }
}

impl Decider<'_, '_, '_> {
    pub(super) fn blob(&self, name: &BlobName, access: &Access, change: &BlobChange) -> Decision {
        let container = self.container_row(&name.container)?.id;
        let key = keys::blob(container, &name.blob, None);
        let present = self.present(&key)?;
        let at = At { container, name: &name.blob, key };
        match (change, present) {
            (BlobChange::Create(new), present) => {
                check_name(&name.blob)?;
                self.create(&at, present.as_ref(), access, new)
            }
            (BlobChange::BeginCopy(new), present) => {
                check_name(&name.blob)?;
                self.begin_copy(name, &at, present, access, new)
            }
            (BlobChange::Put { new, content }, present) => {
                check_name(&name.blob)?;
                self.put_blob(&at, present.as_ref(), access, new, content)
            }
            (BlobChange::StageBlock { id, content }, present) => {
                check_name(&name.blob)?;
                self.stage_block(&at, present.as_ref(), access, id, content)
            }
            (BlobChange::CommitBlocks(list), present) => {
                check_name(&name.blob)?;
                self.commit_blocks(&at, present.as_ref(), access, list)
            }
            (BlobChange::BeginUpload { to, len }, present) => {
                check_name(&name.blob)?;
                self.begin_upload(&at, present.as_ref(), access, *to, *len)
            }
            (_, None) => Err(Refusal::BlobNotFound.into()),
            (BlobChange::Copy { id, step }, Some(present)) => {
                self.copy_step(container, name, &present, access, id, step)
            }
            (BlobChange::Lease(action), Some(present)) => self.lease(&present, access, action),
            (BlobChange::Delete { snapshot: Some(snapshot), snapshots }, Some(_)) => {
                self.delete_snapshot(&at, access, *snapshot, *snapshots)
            }
            (BlobChange::Delete { snapshot: None, snapshots }, Some(present)) => {
                self.admit_blob(&present, access)?;
                self.delete(&at, &present, *snapshots)
            }
            (change, Some(present)) => {
                if present.blob.is_incremental() {
                    return Err(Refusal::OperationNotAllowedOnIncrementalCopyBlob.into());
                }
                if present.blob.is_copy_pending() {
                    return Err(Refusal::PendingCopyOperation.into());
                }
                if let BlobChange::Append { content, conditions } = change {
                    return self.append(&present, access, content, *conditions);
                }
                // A tier disturbs no holder of a lease: only an id that is given must be right.
                if let (BlobChange::SetTier(_), None) = (change, &access.lease) {
                    return self.modify(&present, change);
                }
                self.admit_blob(&present, access)?;
                self.modify(&present, change)
            }
        }
    }

    pub(super) fn present(&self, key: &[u8]) -> Result<Option<Present>, Undecided> {
        let Some(blob) = self.row::<Blob>(key)? else { return Ok(None) };
        let damaged = || StateError::Row { row: format!("generation {}", blob.generation) };
        let generation = self.applier.tables.generation(blob.generation)?.ok_or_else(damaged)?;
        Ok(Some(Present { key: key.to_vec(), blob, generation }))
    }

    pub(super) fn admit_blob(&self, present: &Present, access: &Access) -> Result<(), Refusal> {
        let Mark { etag, modified, .. } = present.mark();
        self.admit(access, present.blob.lease.as_ref(), Etag(etag), modified)
    }

    /// A blob under a name where one may be already.
    pub(super) fn admit_create(
        &self,
        present: Option<&Present>,
        access: &Access,
    ) -> Result<(), Refusal> {
        match present {
            Some(_) if access.conditions.if_none_match == Some(crate::EtagCondition::Any) => {
                Err(Refusal::BlobExists)
            }
            Some(present) => self.admit_blob(present, access),
            None if access.conditions.if_match.is_some() => Err(Refusal::ConditionNotMet),
            None if access.lease.is_some() => Err(Refusal::LeaseNotPresent),
            None => Ok(()),
        }
    }

    /// What the present says of itself after this change.
    pub(super) fn marked(&self, size: u64, sequence: u64) -> Mark {
        Mark { size, sequence, etag: self.moment.stamp, modified: self.moment.now.seconds() }
    }

    pub(super) fn new_blob(&self, new: &NewBlob, lease: Option<Lease>) -> Blob {
        Blob {
            generation: self.next_generation,
            created: self.moment.now,
            properties: new.properties.clone(),
            metadata: new.metadata.clone(),
            lease,
            copy: None,
            frozen: None,
            kind: new.kind,
            blocks: None,
            tier: new.tier,
        }
    }

    fn create(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
        access: &Access,
        new: &NewBlob,
    ) -> Decision {
        check_size(new.size)?;
        check_sequence(new.sequence)?;
        if !new.kind.is_page() && (new.size, new.sequence) != (0, 0) {
            return Err(Refusal::InvalidSize.into());
        }
        self.admit_create(present, access)?;
        refuse_pending(present)?;
        let lease = present.and_then(|present| present.blob.lease.clone());
        let mut ops = self.end_ops(at, present)?;
        let mark = self.marked(new.size, new.sequence);
        let generation = self.next_generation;
        ops.push(Op::Begin { generation });
        ops.push(Op::Mark { generation, mark });
        ops.push(Op::Put { key: at.key.clone(), value: rows::encode(&self.new_blob(new, lease)) });
        Ok((ops, done(mark)))
    }

    fn modify(&self, present: &Present, change: &BlobChange) -> Decision {
        let old = present.mark();
        let generation = present.blob.generation;
        let row = |blob: Blob| present.put(&blob);
        let blob = || present.blob.clone();
        let mut mark = self.marked(old.size, old.sequence);
        let mut ops = Vec::new();
        if change.is_for_pages() {
            present.check_kind(BlobKind::Page)?;
        }
        match change {
            BlobChange::SetTier(tier) => {
                present.check_kind(BlobKind::Block)?;
                return Ok((vec![row(Blob { tier: Some(*tier), ..blob() })], done(old)));
            }
            BlobChange::Write { offset, data, sequence } => {
                sequence.check(old.sequence)?;
                ops.extend(self.write_op(present, *offset, data)?);
            }
            BlobChange::Clear { offset, len, sequence } => {
                check_range(*offset, *len, old.size)?;
                sequence.check(old.sequence)?;
                ops.push(Op::Clear { generation, offset: *offset, len: *len });
            }
            BlobChange::Resize { size } => {
                check_size(*size)?;
                ops.extend(shrink(generation, old.size, *size));
                mark.size = *size;
            }
            BlobChange::SetSequence(action) => mark.sequence = action.apply(old.sequence)?,
            BlobChange::Set { size, sequence, properties } => {
                if let Some(size) = *size {
                    check_size(size)?;
                    ops.extend(shrink(generation, old.size, size));
                    mark.size = size;
                }
                if let Some(action) = sequence {
                    mark.sequence = action.apply(old.sequence)?;
                }
                if let Some(properties) = properties {
                    let properties = properties.clone();
                    ops.push(row(Blob { properties, ..blob() }));
                }
            }
            BlobChange::SetProperties(properties) => {
                let properties: Properties = properties.clone();
                ops.push(row(Blob { properties, ..blob() }));
            }
            BlobChange::SetMetadata(metadata) => {
                ops.push(row(Blob { metadata: metadata.clone(), ..blob() }));
            }
            // The others were decided before.
            BlobChange::Create(_)
            | BlobChange::Put { .. }
            | BlobChange::StageBlock { .. }
            | BlobChange::CommitBlocks(_)
            | BlobChange::Append { .. }
            | BlobChange::BeginUpload { .. }
            | BlobChange::Delete { .. }
            | BlobChange::Lease(_)
            | BlobChange::BeginCopy(_)
            | BlobChange::Copy { .. } => {}
        }
        ops.insert(0, Op::Mark { generation, mark });
        Ok((ops, done(mark)))
    }

    /// The write of pages, with the borders of its cells.
    pub(super) fn write_op(
        &self,
        present: &Present,
        offset: u64,
        data: &Bytes,
    ) -> Result<Option<Op>, Undecided> {
        let len = wide(data.len());
        if len > MAX_WRITE {
            return Err(Refusal::TooLarge { limit: MAX_WRITE }.into());
        }
        check_range(offset, len, present.mark().size)?;
        let generation = present.blob.generation;
        let data = self.applier.with_borders(generation, offset, data)?;
        Ok(Some(Op::Write { generation, offset, len, data }))
    }

    fn lease(&self, present: &Present, access: &Access, action: &LeaseAction) -> Decision {
        let mark = present.mark();
        access.conditions.check(Etag(mark.etag), mark.modified)?;
        let old = present.blob.lease.as_ref();
        let new_id = || LeaseId(self.uuid());
        let (lease, lease_done) = Lease::act(old, action, self.moment.now, new_id)?;
        let blob = Blob { lease, ..present.blob.clone() };
        Ok((vec![present.put(&blob)], Done { lease: Some(lease_done), ..done(mark) }))
    }

    fn delete(&self, at: &At<'_>, present: &Present, snapshots: DeleteSnapshots) -> Decision {
        let mut ops = Vec::new();
        let mut lists = BTreeSet::new();
        for (snapshot, blob) in self.snapshots_of(at.container, at.name)? {
            if snapshots == DeleteSnapshots::Refuse {
                return Err(Refusal::SnapshotsPresent.into());
            }
            ops.extend(delete_ops(at.container, at.name, snapshot, &blob));
            lists.extend(blob.list());
        }
        if let Some(own) = present.blob.list() {
            lists.remove(&own);
        }
        // What its generation does not keep is removed with it.
        lists.retain(|(generation, _)| *generation == present.blob.generation);
        if snapshots == DeleteSnapshots::Only {
            let all = lists.into_iter();
            ops.extend(
                all.map(|(generation, list)| remove_all(keys::content_list(generation, list))),
            );
        } else {
            ops.extend(self.end_ops(at, Some(present))?);
            ops.push(Op::Remove { key: present.key.clone() });
        }
        Ok((ops, done(present.mark())))
    }

    fn delete_snapshot(
        &self,
        at: &At<'_>,
        access: &Access,
        snapshot: SnapshotId,
        snapshots: DeleteSnapshots,
    ) -> Decision {
        if snapshots != DeleteSnapshots::Refuse {
            return Err(Refusal::InvalidSnapshotDeletion.into());
        }
        let key = keys::blob(at.container, at.name, Some(snapshot.0));
        let blob: Blob = self.row(&key)?.ok_or(Refusal::BlobNotFound)?;
        if let Some(frozen) = blob.frozen {
            access.conditions.check(frozen.etag, frozen.modified)?;
        }
        let mut ops: Vec<Op> = delete_ops(at.container, at.name, snapshot, &blob).collect();
        ops.extend(self.forget_snapshot_list(at, snapshot.0, &blob)?);
        Ok((ops, Done::default()))
    }
}

/// What deletes a snapshot; its pages are merged by a task.
pub(crate) fn delete_ops(
    container: u64,
    name: &str,
    snapshot: SnapshotId,
    blob: &Blob,
) -> impl Iterator<Item = Op> {
    let key = keys::blob(container, name, Some(snapshot.0));
    let generation = blob.generation;
    let end = blob.frozen.map(|frozen| Op::End { generation, epoch: frozen.epoch });
    std::iter::once(Op::Remove { key }).chain(end)
}

/// What a smaller size takes away.
pub(super) fn shrink(generation: u64, old: u64, new: u64) -> Option<Op> {
    (new < old).then(|| Op::Clear { generation, offset: new, len: old - new })
}

pub(super) fn done(mark: Mark) -> Done {
    Done {
        etag: Etag(mark.etag),
        modified: mark.modified,
        sequence: mark.sequence,
        size: mark.size,
        ..Done::default()
    }
}

pub(super) fn check_size(size: u64) -> Result<(), Refusal> {
    if size > MAX_SIZE || !size.is_multiple_of(PAGE) { Err(Refusal::InvalidSize) } else { Ok(()) }
}

pub(super) fn check_sequence(number: u64) -> Result<(), Refusal> {
    if number > MAX_SEQUENCE { Err(Refusal::InvalidSequenceNumber) } else { Ok(()) }
}

pub(super) fn check_range(offset: u64, len: u64, size: u64) -> Result<(), Refusal> {
    let is_good = len > 0
        && offset.is_multiple_of(PAGE)
        && len.is_multiple_of(PAGE)
        && offset.checked_add(len).is_some_and(|end| end <= size);
    if is_good { Ok(()) } else { Err(Refusal::InvalidPageRange) }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err(Refusal::InvalidName);
    }
    Ok(())
}

impl BlobChange {
    fn is_for_pages(&self) -> bool {
        match self {
            Self::Set { size, sequence, .. } => size.is_some() || sequence.is_some(),
            change => matches!(
                change,
                Self::Write { .. }
                    | Self::Clear { .. }
                    | Self::Resize { .. }
                    | Self::SetSequence(_)
            ),
        }
    }
}

impl SequenceConditions {
    fn check(&self, number: u64) -> Result<(), Refusal> {
        let is_met = self.at_most.is_none_or(|most| number <= most)
            && self.less_than.is_none_or(|end| number < end)
            && self.equal.is_none_or(|wanted| number == wanted);
        if is_met { Ok(()) } else { Err(Refusal::SequenceConditionNotMet) }
    }
}

impl SequenceAction {
    fn apply(self, number: u64) -> Result<u64, Refusal> {
        match self {
            Self::Max(other) => check_sequence(other).map(|()| number.max(other)),
            Self::Update(other) => check_sequence(other).map(|()| other),
            Self::Increment if number >= MAX_SEQUENCE => {
                Err(Refusal::SequenceNumberIncrementTooLarge)
            }
            Self::Increment => Ok(number.saturating_add(1)),
        }
    }
}
