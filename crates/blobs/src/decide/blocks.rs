//! Block blobs: content in one piece, blocks that are staged, and the list that makes a blob of them.

use std::{collections::HashMap, ops::Range};

use bytes::{Bytes, BytesMut};
use redb::ReadableTable as _;

use super::{Decider, Decision, Undecided, blobs::Present, blobs::done};
use crate::{
    change::{Access, BlockList, BlockPlace, Content, Done, NewBlob},
    extents::{self, BlockId, Blocks, Extent, Room, Staging, joined, whole_cells, without},
    lease::Lease,
    numbers::{narrow, size, wide},
    pages::{CELL, MAX_WRITE},
    record::Op,
    refusal::Refusal,
    rows::{self, Blob, BlobKind, Ticks, keys},
};

/// Blocks of a blob.
pub(super) const MAX_BLOCKS: usize = 50_000;
/// Blocks that wait.
const MAX_STAGED: u32 = 100_000;
/// How long blocks wait after the last one came, in seconds.
const STAGED: u64 = 7 * 24 * 3600;

/// A blob's place among the rows.
pub(super) struct At<'a> {
    pub(super) container: u64,
    pub(super) name: &'a str,
    pub(super) key: Vec<u8>,
}

impl Present {
    /// Where new blocks find place if none waits.
    fn room(&self) -> Room {
        let end = whole_cells(0, self.mark().size).end;
        self.blob.blocks.map_or(Room { end, ..Room::default() }, |blocks| blocks.room)
    }
}

impl Decider<'_, '_, '_> {
    pub(super) fn staging(&self, at: &At<'_>) -> Result<Option<Staging>, Undecided> {
        self.row(&keys::staging(at.container, at.name))
    }

    /// The end of a blob's present, and of all that waits under its name.
    pub(super) fn end_ops(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
    ) -> Result<Vec<Op>, Undecided> {
        let mut ops = Vec::new();
        if let Some(staging) = self.staging(at)? {
            let is_alone = present.is_none();
            ops.extend(staging_ops(at.container, at.name, &staging, is_alone));
        }
        let Some(present) = present else { return Ok(ops) };
        ops.push(present.end());
        if !present.blob.kind.is_page() {
            ops.push(remove_all(keys::of_generation(*b"u", present.blob.generation)));
            ops.extend(self.forget_list(at, &present.blob)?);
        }
        Ok(ops)
    }

    /// Removes the list of a present that ends, unless the newest snapshot has it.
    fn forget_list(&self, at: &At<'_>, blob: &Blob) -> Result<Option<Op>, Undecided> {
        let Some(list) = blob.blocks.map(|blocks| blocks.list) else { return Ok(None) };
        let newest = self.last_snapshots(at.container, at.name, 1)?;
        for id in newest {
            let key = keys::blob(at.container, at.name, Some(id));
            if self.row::<Blob>(&key)?.is_some_and(|snapshot| snapshot.list() == blob.list()) {
                return Ok(None);
            }
        }
        Ok(Some(remove_all(keys::content_list(blob.generation, list))))
    }

    /// Removes the list of a snapshot that is deleted, unless the snapshot before or what comes after has it.
    pub(super) fn forget_snapshot_list(
        &self,
        at: &At<'_>,
        snapshot: u64,
        blob: &Blob,
    ) -> Result<Option<Op>, Undecided> {
        let Some(list) = blob.blocks.map(|blocks| blocks.list) else { return Ok(None) };
        let key = keys::blob(at.container, at.name, Some(snapshot));
        let first = keys::blob(at.container, at.name, Some(0));
        let after = keys::blob(at.container, at.name, Some(snapshot.saturating_add(1)));
        let names = &self.applier.tables.names;
        let before = names.range(first.as_slice()..key.as_slice())?.next_back().transpose()?;
        let next = names.range(after.as_slice()..=at.key.as_slice())?.next().transpose()?;
        for (key, value) in [before, next].into_iter().flatten() {
            let neighbour: Blob = rows::decode(key.value(), value.value())?;
            if neighbour.list() == blob.list() {
                return Ok(None);
            }
        }
        Ok(Some(remove_all(keys::content_list(blob.generation, list))))
    }

    /// Put Blob: a block blob with all its content.
    pub(super) fn put_blob(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
        access: &Access,
        new: &NewBlob,
        content: &Content,
    ) -> Decision {
        self.admit_create(present, access)?;
        refuse_pending(present)?;
        let lease = present.and_then(|present| present.blob.lease.clone());
        let mut ops = self.end_ops(at, present)?;
        let mut blob = Blob { kind: BlobKind::Block, ..self.new_blob(new, lease) };
        blob.tier = blob.tier.or_else(|| present.and_then(|present| present.blob.tier));
        let mut write = None;
        let len = match content {
            Content::Bytes(data) => {
                let generation = self.next_generation;
                check_len(data, 0)?;
                ops.push(Op::Begin { generation });
                write = (!data.is_empty()).then(|| write_op(generation, 0, data));
                wide(data.len())
            }
            Content::Upload(id) => {
                let upload = self.upload(*id)?;
                if !upload.is_alone {
                    return Err(Refusal::UploadLost.into());
                }
                ops.push(Op::Remove { key: keys::upload(id.generation, id.place) });
                blob.generation = id.generation;
                upload.len
            }
        };
        let mark = self.marked(len, 0);
        ops.push(Op::Mark { generation: blob.generation, mark });
        ops.push(Op::Put { key: at.key.clone(), value: rows::encode(&blob) });
        ops.extend(write);
        Ok((ops, done(mark)))
    }

    /// Whether a block may be staged.
    pub(super) fn admit_staging(
        &self,
        present: Option<&Present>,
        access: &Access,
    ) -> Result<(), Refusal> {
        let Some(present) = present else {
            return if access.lease.is_some() { Err(Refusal::LeaseNotPresent) } else { Ok(()) };
        };
        present.check_kind(BlobKind::Block)?;
        refuse_pending(Some(present))?;
        Lease::admits(present.blob.lease.as_ref(), access.lease.as_ref(), self.moment.now)
    }

    /// The staging under a name, touched now, and what begins its generation if it is new.
    pub(super) fn staging_or_new(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
    ) -> Result<(Staging, Option<Op>), Undecided> {
        let touched = self.moment.now;
        if let Some(staging) = self.staging(at)? {
            return Ok((Staging { touched, ..staging }, None));
        }
        let mut staging = Staging {
            generation: self.next_generation,
            count: 0,
            id_len: 0,
            room: Room::default(),
            touched,
        };
        let begin = match present {
            Some(present) => {
                staging.generation = present.blob.generation;
                staging.room = present.room();
                None
            }
            None => Some(Op::Begin { generation: staging.generation }),
        };
        Ok((staging, begin))
    }

    pub(super) fn stage_block(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
        access: &Access,
        id: &BlockId,
        content: &Content,
    ) -> Decision {
        self.admit_staging(present, access)?;
        let (mut staging, begin) = self.staging_or_new(at, present)?;
        let generation = staging.generation;
        let id_len = narrow(wide(id.as_bytes().len()));
        if staging.count > 0 && staging.id_len != id_len {
            return Err(Refusal::InvalidBlock.into());
        }
        staging.id_len = id_len;
        let key = keys::staged(generation, id.as_bytes());
        let mut ops: Vec<Op> = begin.into_iter().collect();
        let old = self.applier.tables.names.get(key.as_slice())?;
        match old.map(|row| extents::decode_staged(&key, row.value())).transpose()? {
            Some(old) => ops.push(clear_op(generation, &old.cells())),
            None if staging.count >= MAX_STAGED => {
                return Err(Refusal::UncommittedBlockCountExceeded.into());
            }
            None => staging.count = staging.count.saturating_add(1),
        }
        let mut write = None;
        let (place, len) = match content {
            Content::Bytes(data) => {
                check_len(data, 1)?;
                let len = narrow(wide(data.len()));
                let place = staging.room.take(u64::from(len)).ok_or(Refusal::Full)?;
                write = Some(write_op(generation, place, data));
                (place, len)
            }
            Content::Upload(id) => {
                let upload = self.upload(*id)?;
                if upload.is_alone || id.generation != generation {
                    return Err(Refusal::UploadLost.into());
                }
                ops.push(Op::Remove { key: keys::upload(id.generation, id.place) });
                (id.place, narrow(upload.len))
            }
        };
        ops.push(put_staging(at, &staging));
        ops.push(Op::Put { key, value: extents::encode_staged(place, len) });
        ops.extend(write);
        Ok((ops, Done::default()))
    }

    pub(super) fn commit_blocks(
        &self,
        at: &At<'_>,
        present: Option<&Present>,
        access: &Access,
        list: &BlockList,
    ) -> Decision {
        if let Some(present) = present {
            present.check_kind(BlobKind::Block)?;
        }
        self.admit_create(present, access)?;
        refuse_pending(present)?;
        if list.blocks.len() > MAX_BLOCKS {
            return Err(Refusal::InvalidBlockList.into());
        }
        let (staging, begin) = self.staging_or_new(at, present)?;
        let generation = staging.generation;
        let staged = self.staged(generation)?;
        let committed = present.map(|present| self.content(present)).transpose()?;
        let committed = committed.unwrap_or_default();
        let extents = found(list, &staged, &committed)?;
        let uploads = self.uploads_of(generation)?;
        let kept = joined(extents.iter().map(Extent::cells).chain(uploads).collect());
        let all = staged.values().chain(&committed).map(Extent::cells);
        let gone = without(&joined(all.collect()), &kept);
        let len = extents.iter().fold(0_u64, |sum, e| sum.saturating_add(u64::from(e.len)));
        let mark = self.marked(len, 0);
        let mut ops: Vec<Op> = begin.into_iter().collect();
        ops.push(Op::Mark { generation, mark });
        if let Some(present) = present {
            ops.extend(self.forget_list(at, &present.blob)?);
        }
        ops.push(remove_all(keys::of_generation(*b"q", generation)));
        ops.push(Op::Remove { key: keys::staging(at.container, at.name) });
        let rows = extents::encode_list(generation, self.moment.stamp, &extents);
        ops.extend(rows.into_iter().map(|(key, value)| Op::Put { key, value }));
        let old = present.map(|present| &present.blob);
        let blob = Blob {
            generation,
            created: old.map_or(self.moment.now, |old| old.created),
            properties: list.properties.clone(),
            metadata: list.metadata.clone(),
            lease: old.and_then(|old| old.lease.clone()),
            copy: None,
            frozen: None,
            kind: BlobKind::Block,
            blocks: Some(Blocks {
                list: self.moment.stamp,
                count: narrow(wide(extents.len())),
                room: Room::beside(&kept),
            }),
            tier: list.tier.or_else(|| old.and_then(|old| old.tier)),
        };
        ops.push(Op::Put { key: at.key.clone(), value: rows::encode(&blob) });
        ops.extend(gone.iter().map(|range| clear_op(generation, range)));
        Ok((ops, done(mark)))
    }

    /// The blocks that wait in a generation, by their ids.
    fn staged(&self, generation: u64) -> Result<HashMap<Vec<u8>, Extent>, Undecided> {
        let from = keys::of_generation(*b"q", generation);
        let end = keys::behind(&from);
        let mut staged = HashMap::new();
        for row in self.applier.tables.names.range(from.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            let extent = extents::decode_staged(key.value(), value.value())?;
            staged.insert(extent.id.clone(), extent);
        }
        Ok(staged)
    }

    /// What a block blob is made of. Content without a list is one extent for every 4 GiB, without an id.
    fn content(&self, present: &Present) -> Result<Vec<Extent>, Undecided> {
        let Some(blocks) = present.blob.blocks else {
            let size = present.mark().size;
            let step = u64::from(u32::MAX);
            let starts = (0..size).step_by(crate::numbers::size(step));
            let extent = |place: u64| Extent {
                id: Vec::new(),
                place,
                len: narrow(size.saturating_sub(place).min(step)),
            };
            return Ok(starts.map(extent).collect());
        };
        let from = keys::content_list(present.blob.generation, blocks.list);
        let end = keys::behind(&from);
        let mut all = Vec::with_capacity(size(u64::from(blocks.count)));
        for row in self.applier.tables.names.range(from.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            all.extend(Extent::decode_row(key.value(), value.value())?);
        }
        Ok(all)
    }

    /// What drops the blocks that wait under a row of staging, if they have waited for too long.
    pub(super) fn expire(&self, key: &[u8]) -> Result<Vec<Op>, Undecided> {
        let Some(staging) = self.row::<Staging>(key)? else { return Ok(Vec::new()) };
        let Some((container, name)) = parse_staging(key) else { return Ok(Vec::new()) };
        if !is_old(&staging, self.moment.now) {
            return Ok(Vec::new());
        }
        let blob: Option<Blob> = self.row(&keys::blob(container, &name, None))?;
        let mut ops = staging_ops(container, &name, &staging, blob.is_none());
        if blob.is_some() {
            let cells =
                joined(self.staged(staging.generation)?.values().map(Extent::cells).collect());
            ops.extend(cells.iter().map(|range| clear_op(staging.generation, range)));
        }
        Ok(ops)
    }
}

impl Present {
    pub(super) fn check_kind(&self, kind: BlobKind) -> Result<(), Refusal> {
        if self.blob.kind == kind { Ok(()) } else { Err(Refusal::InvalidBlobType) }
    }
}

impl Blob {
    /// The list of blocks that it is made of, with its generation.
    pub(super) fn list(&self) -> Option<(u64, u64)> {
        self.blocks.map(|blocks| (self.generation, blocks.list))
    }
}

/// Whether blocks have waited for a week.
pub(crate) fn is_old(staging: &Staging, now: Ticks) -> bool {
    staging.touched.plus_seconds(STAGED) < now
}

/// The container and the name of a row of staging.
pub(crate) fn parse_staging(key: &[u8]) -> Option<(u64, String)> {
    let (container, name) = key.strip_prefix(b"s")?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*container), String::from_utf8(name.to_vec()).ok()?))
}

/// What forgets blocks that wait; their generation ends with them if it has no blob.
pub(super) fn staging_ops(
    container: u64,
    name: &str,
    staging: &Staging,
    is_alone: bool,
) -> Vec<Op> {
    let generation = staging.generation;
    let mut ops = vec![
        Op::Remove { key: keys::staging(container, name) },
        remove_all(keys::of_generation(*b"q", generation)),
    ];
    if is_alone {
        ops.push(remove_all(keys::of_generation(*b"u", generation)));
        ops.push(Op::End { generation, epoch: 0 });
    }
    ops
}

/// The extents that a list names.
fn found(
    list: &BlockList,
    staged: &HashMap<Vec<u8>, Extent>,
    committed: &[Extent],
) -> Result<Vec<Extent>, Refusal> {
    // The first of several blocks with one id is as good as another.
    let committed: HashMap<&[u8], &Extent> =
        committed.iter().rev().map(|extent| (extent.id.as_slice(), extent)).collect();
    let find = |(id, place): &(BlockId, BlockPlace)| {
        let id = id.as_bytes();
        let extent = match place {
            BlockPlace::Committed => committed.get(id).copied(),
            BlockPlace::Uncommitted => staged.get(id),
            BlockPlace::Latest => staged.get(id).or_else(|| committed.get(id).copied()),
        };
        extent.cloned().ok_or(Refusal::InvalidBlockList)
    };
    list.blocks.iter().map(find).collect()
}

pub(super) fn put_staging(at: &At<'_>, staging: &Staging) -> Op {
    Op::Put { key: keys::staging(at.container, at.name), value: rows::encode(staging) }
}

pub(super) fn refuse_pending(present: Option<&Present>) -> Result<(), Refusal> {
    if present.is_some_and(|present| present.blob.is_copy_pending()) {
        return Err(Refusal::PendingCopyOperation);
    }
    Ok(())
}

/// All rows that begin with `prefix` are gone.
pub(super) fn remove_all(prefix: Vec<u8>) -> Op {
    let end = keys::behind(&prefix);
    Op::RemoveRange { from: prefix, end }
}

pub(super) fn clear_op(generation: u64, cells: &Range<u64>) -> Op {
    Op::Clear { generation, offset: cells.start, len: cells.end.saturating_sub(cells.start) }
}

/// The write of bytes at the begin of a cell, which nothing else shares with them.
pub(super) fn write_op(generation: u64, place: u64, data: &Bytes) -> Op {
    let len = wide(data.len()).next_multiple_of(CELL);
    let data = if len == wide(data.len()) {
        data.clone()
    } else {
        let mut whole = BytesMut::zeroed(size(len));
        let target = whole.get_mut(..data.len()).unwrap_or_default();
        target.copy_from_slice(data.get(..target.len()).unwrap_or_default());
        whole.freeze()
    };
    Op::Write { generation, offset: place, len, data }
}

/// Checks how much a change carries.
pub(super) fn check_len(data: &Bytes, least: usize) -> Result<(), Refusal> {
    if wide(data.len()) > MAX_WRITE {
        return Err(Refusal::TooLarge { limit: MAX_WRITE });
    }
    if data.len() < least { Err(Refusal::InvalidBlock) } else { Ok(()) }
}
