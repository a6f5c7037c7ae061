//! The plan of a restore: the parts of packs that a disk needs.

use std::collections::HashMap;

use strongroom_base::{BLOCK_SIZE_U64, ByteRange, Digest, LEAF_SPAN, PackId};
use strongroom_disk::ExtentKind;
use strongroom_image::{Cursor, Node};
use strongroom_vault::{Location, Vault};

use super::{
    compare::Comparer,
    holes::Holes,
    job::{Job, Wanted},
};
use crate::{Progress, error::Result, failure::Failure};

/// Leaves that are planned together: 512 MiB of disk.
const WINDOW_LEAVES: u64 = 32;
/// Unneeded bytes that are read along rather than starting another read.
const GAP_MAX: u64 = 64 * 1024;

/// A stretch of a pack and the records that are opened with it: those that lie in it, and the deltas
/// whose bases do. So a base is read and opened together with its neighbours, which the disk nearly
/// always needs as well.
pub(super) struct Span {
    pub(super) pack: PackId,
    pub(super) range: ByteRange,
    records: Vec<Record>,
}

/// A record, the blocks of the disk that it fills, and for a delta where its base is.
struct Record {
    place: Location,
    blocks: Vec<u64>,
    base: Option<Location>,
    /// What lies at its home is opened for another record as well.
    shared: bool,
}

impl Record {
    /// Where the span of this record is: for a delta at its base.
    fn home(&self) -> &Location {
        self.base.as_ref().unwrap_or(&self.place)
    }
}

/// A block of the disk and what fills it.
pub(super) struct Filling<'a> {
    pub(super) block: u64,
    pub(super) place: &'a Location,
    pub(super) base: Option<&'a Location>,
    /// Its bytes in the span are opened for others as well.
    pub(super) shared: bool,
}

impl Span {
    /// The blocks of the disk that the span fills, ascending.
    pub(super) fn targets(&self) -> Vec<Filling<'_>> {
        let mut targets: Vec<_> = self
            .records
            .iter()
            .flat_map(|Record { place, blocks, base, shared }| {
                let shared = *shared || blocks.len() > 1;
                blocks.iter().map(move |block| Filling {
                    block: *block,
                    place,
                    base: base.as_ref(),
                    shared,
                })
            })
            .collect();
        targets.sort_unstable_by_key(|filling| filling.block);
        targets
    }

    /// The stretches of packs in which its deltas are: those that lie together are read together.
    pub(super) fn deltas(&self) -> Vec<(PackId, ByteRange)> {
        let mut deltas: Vec<_> = self
            .records
            .iter()
            .filter(|record| record.base.is_some())
            .map(|record| (record.place.pack, bytes_of(&record.place)))
            .collect();
        deltas.sort_unstable_by_key(|(pack, range)| (*pack, range.offset()));
        deltas.dedup_by(|(pack, range), (before, joined)| {
            let near = pack == before && range.offset().saturating_sub(joined.end()) <= GAP_MAX;
            if near {
                let end = range.end().max(joined.end());
                *joined = ByteRange::between(joined.offset(), end);
            }
            near
        });
        deltas
    }
}

/// Where in its pack a record lies.
pub(super) fn bytes_of(place: &Location) -> ByteRange {
    let start = u64::from(place.entry.offset);
    ByteRange::between(start, start.saturating_add(u64::from(place.entry.stored_len)))
}

/// Plans a disk and hands on its spans, of at most this number of bytes; `send` says false when nobody wants
/// more.
pub(super) fn plan_disk(
    (vault, span_max): (&Vault, u64),
    job: &Job<'_>,
    threads: usize,
    progress: &Progress,
    failure: &Failure<'_>,
    send: &dyn Fn(Span) -> bool,
) -> Result<()> {
    let mut cursor = Cursor::new(job.image, vault);
    let comparer = Comparer::new(vault, job, threads);
    let blank = job.target.is_blank() && !job.compares();
    let error = |source| job.image_error(source);
    let mut first = 0;
    while first < job.image.leaves() && failure.go_on() {
        // Where the image has nothing, the target is not gone through leaf by leaf.
        let next = cursor.next_leaf(first).map_err(error)?.map(|leaf| leaf.index);
        let mut next = next.unwrap_or(job.image.leaves());
        if job.compares() {
            next = next.min(next_data_of_target(job, first, next)?);
        }
        if next > first {
            let gap = job.range(blocks_of(first), blocks_of(next.saturating_sub(first)));
            if job.compares() {
                let blocks = job.image.block_range(gap);
                let blocks = blocks.end.saturating_sub(blocks.start);
                job.compared_blocks.fetch_add(blocks, std::sync::atomic::Ordering::Relaxed);
            } else if !blank {
                job.clear_range(gap)?;
            }
            progress.advance(gap.len());
            first = next;
            continue;
        }
        let window = first..first.saturating_add(WINDOW_LEAVES).min(job.image.leaves());
        first = window.end;
        let mut leaves = Vec::new();
        let mut at = window.start;
        while let Some(leaf) = cursor.next_leaf(at).map_err(error)? {
            if leaf.index >= window.end {
                break;
            }
            at = leaf.index.saturating_add(1);
            leaves.push((leaf.index, leaf.node));
        }
        let blocks = window.end.saturating_sub(window.start);
        let bytes = job.range(blocks_of(window.start), blocks_of(blocks)).len();
        let mut wanted = Wanted::new();
        if job.compares() {
            comparer.window(window, &leaves, &mut wanted)?;
        } else {
            let mut holes = Holes::new(job);
            let mut nodes = leaves.iter().peekable();
            for index in window {
                let node = nodes.next_if(|(leaf, _)| *leaf == index).map(|(_, node)| &**node);
                want_leaf(job, index, node, &mut wanted, (!blank).then_some(&mut holes))?;
            }
            holes.close()?;
        }
        let blocks: usize = wanted.values().map(Vec::len).sum();
        let blocks = u64::try_from(blocks).unwrap_or(0);
        progress.advance(bytes.saturating_sub(blocks.saturating_mul(BLOCK_SIZE_U64)));
        for span in spans_of(vault, span_max, wanted)? {
            if !send(span) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The first leaf from `first` on, and before `end`, in which the target may have data.
fn next_data_of_target(job: &Job<'_>, first: u64, end: u64) -> Result<u64> {
    let bytes = |leaf: u64| leaf.saturating_mul(LEAF_SPAN).min(job.image.size());
    let mut rest = ByteRange::between(bytes(first), bytes(end));
    while !rest.is_empty() {
        let extents = job.target.extents(rest).map_err(|source| job.disk_error(source))?;
        let data = extents.iter().find(|extent| extent.kind == ExtentKind::Data);
        if let Some(data) = data {
            let at = data.range.offset().max(rest.offset());
            return Ok(at.checked_div(LEAF_SPAN).unwrap_or(0));
        }
        let done = extents.last().map_or(rest.end(), |extent| extent.range.end());
        rest = ByteRange::between(done, rest.end());
    }
    Ok(end)
}

const fn blocks_of(leaves: u64) -> u64 {
    leaves.saturating_mul(LEAF_SPAN / BLOCK_SIZE_U64)
}

fn want_leaf(
    job: &Job<'_>,
    index: u64,
    node: Option<&Node>,
    wanted: &mut Wanted,
    mut holes: Option<&mut Holes<'_>>,
) -> Result<()> {
    let first = blocks_of(index);
    for (block, slot) in (first..job.image.blocks()).zip(0_u8..=255) {
        let digest = node.map_or(Digest::HOLE, |node| node.get(slot));
        if digest.is_hole() {
            if let Some(holes) = &mut holes {
                holes.add(block)?;
            }
        } else {
            job.data_blocks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            wanted.entry(digest).or_default().push(block);
        }
    }
    Ok(())
}

/// Finds where the blocks are and groups them by pack.
fn spans_of(vault: &Vault, span_max: u64, wanted: Wanted) -> Result<Vec<Span>> {
    let mut packs: HashMap<PackId, Vec<Record>> = HashMap::new();
    for (digest, blocks) in wanted {
        let mut place = vault.places(&digest)?.into_iter().next();
        if place.is_none() {
            vault.look_again()?;
            place = vault.places(&digest)?.into_iter().next();
        }
        let place = place.ok_or_else(|| vault.lost(&digest, "no pack of the index holds it"))?;
        let base = vault.base_of(&place)?;
        let record = Record { place, blocks, base, shared: false };
        packs.entry(record.home().pack).or_default().push(record);
    }
    let mut spans = Vec::new();
    for (pack, mut records) in packs {
        records.sort_unstable_by_key(|record| record.home().entry.offset);
        let mut open: Option<Span> = None;
        // Bytes of deltas that the open span takes along.
        let mut along = 0_u64;
        for mut record in records {
            let range = bytes_of(record.home());
            let delta = record.base.map_or(0, |_| bytes_of(&record.place).len());
            match &mut open {
                Some(span)
                    if range.offset().saturating_sub(span.range.end()) <= GAP_MAX
                        && range
                            .end()
                            .saturating_sub(span.range.offset())
                            .saturating_add(along)
                            .saturating_add(delta)
                            <= span_max =>
                {
                    if let Some(before) = span.records.last_mut()
                        && before.home().entry.offset == record.home().entry.offset
                    {
                        (before.shared, record.shared) = (true, true);
                    }
                    let end = range.end().max(span.range.end());
                    span.range = ByteRange::between(span.range.offset(), end);
                    span.records.push(record);
                    along = along.saturating_add(delta);
                }
                _ => {
                    spans.extend(open.replace(Span { pack, range, records: vec![record] }));
                    along = delta;
                }
            }
        }
        spans.extend(open);
    }
    // Roughly in the order of the disk, so that writes are too.
    spans.sort_by_cached_key(|span| span.targets().first().map(|filling| filling.block));
    Ok(spans)
}
