//! What to read of one disk: leaf by leaf, ascending, only what may have changed.
//!
//! ```text
//!  extents of the source ─┐
//!  changed ranges ────────┼─▶ for each leaf (16 MiB): every block is kept, zero, or to be read
//!  leaves of the parent ──┘
//! ```
//!
//! Costs follow the allocated or changed parts and the parent's leaves, never the disk's size.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, atomic::AtomicUsize},
};

use strongroom_base::{BLOCK_SIZE_U64, ByteRange, Digest, LEAF_SPAN, RangeSet};
use strongroom_disk::{DiskSource, Extent, ExtentKind};
use strongroom_image::{Cursor, Image, Leaf, Node};
use strongroom_vault::Vault;

use super::job::DiskWork;
use crate::error::{EngineError, Result};

/// Blocks that are read together: 2 MiB.
pub(super) const UNIT_BLOCKS: usize = 32;

/// A leaf that is being worked on.
pub(super) struct LeafWork {
    /// Position among the leaves of this disk that are set.
    pub(super) sequence: u64,
    /// Which leaf of the tree.
    pub(super) index: u64,
    /// What the parent has here.
    pub(super) parent: Option<Arc<Node>>,
    /// What it will be.
    pub(super) node: Mutex<Node>,
    /// Units that are not done yet.
    pub(super) left: AtomicUsize,
}

/// A run of blocks within a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First slot of the leaf.
    pub(super) slot: u8,
    /// How many blocks.
    pub(super) blocks: usize,
}

/// Some runs of one leaf, read into one buffer.
pub(super) struct Unit {
    pub(super) leaf: Arc<LeafWork>,
    pub(super) runs: Vec<Run>,
}

/// What becomes of one block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Zero,
    Read,
}

/// Hands out the units of one disk.
pub(super) struct Planner<'a> {
    work: &'a DiskWork,
    source: &'a dyn DiskSource,
    parent: Option<Cursor<&'a Vault>>,
    /// What may have changed, in whole blocks; none: all.
    changed: Option<RangeSet>,
    /// Extents of the source that were fetched and not passed yet.
    extents: VecDeque<Extent>,
    /// Where the next extents start.
    fetched_to: u64,
    next_leaf: u64,
    sequence: u64,
    ready: VecDeque<Unit>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        work: &'a DiskWork,
        source: &'a dyn DiskSource,
        vault: &'a Vault,
        parent: Option<Image>,
        changed: Option<&RangeSet>,
    ) -> Self {
        Self {
            work,
            source,
            parent: parent.map(|image| Cursor::new(image, vault)),
            changed: changed.cloned(),
            extents: VecDeque::new(),
            fetched_to: 0,
            next_leaf: 0,
            sequence: 0,
            ready: VecDeque::new(),
        }
    }

    /// The next unit to read; a unit without runs only completes its leaf.
    pub(super) fn next(&mut self) -> Result<Option<Unit>> {
        loop {
            if let Some(unit) = self.ready.pop_front() {
                return Ok(Some(unit));
            }
            let Some(leaf) = self.find_leaf()? else { return Ok(None) };
            self.plan_leaf(leaf)?;
            self.next_leaf = leaf.saturating_add(1);
        }
    }

    /// The next leaf in which anything may differ from the parent.
    fn find_leaf(&mut self) -> Result<Option<u64>> {
        let size = self.source.size();
        let from = self.next_leaf.saturating_mul(LEAF_SPAN);
        if from >= size {
            return Ok(None);
        }
        if let Some(changed) = &self.changed {
            let next = changed.within(ByteRange::between(from, size)).next();
            return Ok(next.map(|range| leaf_of(range.offset())));
        }
        let data = self.next_data(from)?.map(leaf_of);
        let parent = self.parent_leaf_from(self.next_leaf)?.map(|leaf| leaf.index);
        // A leaf of the parent beyond the new end is dropped by the builder.
        let parent = parent.filter(|leaf| leaf.saturating_mul(LEAF_SPAN) < size);
        let next = data.into_iter().chain(parent).min();
        // Nothing to read in between counts as gone through.
        let end = next.map_or(size, |leaf| leaf.saturating_mul(LEAF_SPAN));
        self.work.progress.advance(end.saturating_sub(from));
        Ok(next)
    }

    /// Where the first data at or after `from` starts.
    fn next_data(&mut self, from: u64) -> Result<Option<u64>> {
        loop {
            while let Some(extent) = self.extents.front() {
                if extent.range.end() <= from || extent.kind == ExtentKind::Zero {
                    self.extents.pop_front();
                } else {
                    return Ok(Some(extent.range.offset().max(from)));
                }
            }
            if !self.fetch(from)? {
                return Ok(None);
            }
        }
    }

    /// Gets more extents; false at the end of the disk.
    fn fetch(&mut self, from: u64) -> Result<bool> {
        let start = self.fetched_to.max(from);
        let size = self.source.size();
        if start >= size {
            return Ok(false);
        }
        let extents = self.extents_of(ByteRange::between(start, size))?;
        self.fetched_to = extents.last().map_or(size, |extent| extent.range.end());
        for extent in extents {
            if extent.kind == ExtentKind::Data {
                self.work.count_allocated(extent.range.len());
            }
            self.extents.push_back(extent);
        }
        Ok(true)
    }

    fn extents_of(&self, range: ByteRange) -> Result<Vec<Extent>> {
        let extents = self.source.extents(range).map_err(|source| self.work.disk_error(source))?;
        let mut at = range.offset();
        for extent in &extents {
            if extent.range.offset() != at || extent.range.is_empty() {
                return Err(EngineError::Bug(
                    "a disk listed extents that do not follow each other",
                ));
            }
            at = extent.range.end();
        }
        if extents.is_empty() {
            Err(EngineError::Bug("a disk listed no extents"))
        } else {
            Ok(extents)
        }
    }

    fn parent_leaf_from(&mut self, from: u64) -> Result<Option<Leaf>> {
        match &mut self.parent {
            Some(cursor) => cursor.next_leaf(from).map_err(|source| self.work.image_error(source)),
            None => Ok(None),
        }
    }

    fn parent_leaf(&mut self, index: u64) -> Result<Option<Leaf>> {
        match &mut self.parent {
            Some(cursor) => cursor.leaf(index).map_err(|source| self.work.image_error(source)),
            None => Ok(None),
        }
    }

    fn plan_leaf(&mut self, index: u64) -> Result<()> {
        let start = index.saturating_mul(LEAF_SPAN);
        let span =
            ByteRange::between(start, start.saturating_add(LEAF_SPAN).min(self.source.size()));
        let mut fates = [Fate::Keep; 256];
        match self.changed.take() {
            Some(changed) => {
                let result = self.mark_changed(&changed, span, &mut fates);
                self.changed = Some(changed);
                result?;
            }
            None => self.mark_all(span, &mut fates)?,
        }
        let parent = self.parent_leaf(index)?;
        let mut node = parent.as_ref().map_or_else(Node::empty, |leaf| (*leaf.node).clone());
        // Of a disk that shrank, the parent's leaf has blocks beyond the end.
        let blocks = span.len().div_ceil(BLOCK_SIZE_U64);
        for ((slot, number), fate) in (0_u8..=255).zip(0_u64..).zip(&fates) {
            if number >= blocks {
                node.set(slot, Digest::HOLE);
            } else if *fate == Fate::Zero && !node.get(slot).is_hole() {
                node.set(slot, Digest::HOLE);
                self.work.count_changed(index.saturating_mul(256).saturating_add(number));
            }
        }
        let units = units_of(&fates);
        let leaf = Arc::new(LeafWork {
            sequence: self.sequence,
            index,
            parent: parent.map(|leaf| leaf.node),
            node: Mutex::new(node),
            left: AtomicUsize::new(units.len()),
        });
        self.sequence = self.sequence.saturating_add(1);
        let units = units.into_iter().map(|runs| Unit { leaf: Arc::clone(&leaf), runs });
        self.ready.extend(units);
        Ok(())
    }

    /// Of the blocks that may have changed, those with data are read and the others are zero.
    fn mark_changed(
        &self,
        changed: &RangeSet,
        span: ByteRange,
        fates: &mut [Fate; 256],
    ) -> Result<()> {
        let mut last = None;
        for range in changed.within(span) {
            mark(fates, span, range, Fate::Zero);
            last = Some(
                last.map_or(range, |all: ByteRange| ByteRange::between(all.offset(), range.end())),
            );
        }
        let Some(mut rest) = last else { return Ok(()) };
        let mut data = [Fate::Keep; 256];
        while !rest.is_empty() {
            for extent in self.extents_of(rest)? {
                if extent.kind == ExtentKind::Data {
                    mark(&mut data, span, extent.range, Fate::Read);
                }
                rest = ByteRange::between(extent.range.end(), rest.end());
            }
        }
        for (fate, data) in fates.iter_mut().zip(&data) {
            if *fate == Fate::Zero && *data == Fate::Read {
                *fate = Fate::Read;
            } else if *fate == Fate::Zero {
                self.work.progress.advance(BLOCK_SIZE_U64);
            }
        }
        Ok(())
    }

    /// Blocks with data are read and all others are zero.
    fn mark_all(&mut self, span: ByteRange, fates: &mut [Fate; 256]) -> Result<()> {
        mark(fates, span, span, Fate::Zero);
        while self.fetched_to < span.end() && self.fetch(span.offset())? {}
        for extent in &self.extents {
            let part = extent.range.intersect(span);
            if extent.kind == ExtentKind::Data && !part.is_empty() {
                mark(fates, span, part, Fate::Read);
            }
        }
        let zeros = fates.iter().filter(|fate| **fate == Fate::Zero).count();
        let zeros = u64::try_from(zeros).unwrap_or(0).saturating_mul(BLOCK_SIZE_U64);
        self.work.progress.advance(zeros.min(span.len()));
        // What lies before the end of this leaf is not needed again.
        while self.extents.front().is_some_and(|extent| extent.range.end() <= span.end()) {
            self.extents.pop_front();
        }
        Ok(())
    }
}

pub(super) fn leaf_of(offset: u64) -> u64 {
    offset.checked_div(LEAF_SPAN).unwrap_or(0)
}

/// Marks every block of the leaf at `span` that `range` touches.
pub(super) fn mark<T: Copy>(blocks: &mut [T; 256], span: ByteRange, range: ByteRange, value: T) {
    let range = range.intersect(span);
    if range.is_empty() {
        return;
    }
    let slot = |offset: u64| {
        let blocks = offset.saturating_sub(span.offset()).checked_div(BLOCK_SIZE_U64);
        usize::try_from(blocks.unwrap_or(0)).unwrap_or(usize::MAX)
    };
    let (first, last) = (slot(range.offset()), slot(range.end().saturating_sub(1)));
    blocks.iter_mut().take(last.saturating_add(1)).skip(first).for_each(|old| *old = value);
}

/// Groups the blocks to read into runs, and runs into units. There is at least one unit.
fn units_of(fates: &[Fate; 256]) -> Vec<Vec<Run>> {
    let mut units = vec![Vec::new()];
    let mut room = UNIT_BLOCKS;
    let mut open: Option<Run> = None;
    for (slot, fate) in (0_u8..=255).zip(fates) {
        let read = *fate == Fate::Read;
        if let Some(run) = open.take() {
            if read && run.blocks < room {
                open = Some(Run { blocks: run.blocks.saturating_add(1), ..run });
                continue;
            }
            room = room.saturating_sub(run.blocks);
            if let Some(unit) = units.last_mut() {
                unit.push(run);
            }
            if room == 0 {
                units.push(Vec::new());
                room = UNIT_BLOCKS;
            }
        }
        if read {
            open = Some(Run { slot, blocks: 1 });
        }
    }
    if let (Some(run), Some(unit)) = (open, units.last_mut()) {
        unit.push(run);
    }
    if units.len() > 1 && units.last().is_some_and(Vec::is_empty) {
        units.pop();
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn units_cover_exactly_the_blocks_to_read(reads in prop::collection::vec(any::<bool>(), 256)) {
            let mut fates = [Fate::Keep; 256];
            fates.iter_mut().zip(&reads).filter(|(_, read)| **read).for_each(|(fate, _)| *fate = Fate::Read);
            let units = units_of(&fates);
            prop_assert!(!units.is_empty());
            prop_assert!(units.len() == 1 || units.iter().all(|unit| !unit.is_empty()));
            let mut covered = vec![false; 256];
            for unit in &units {
                prop_assert!(unit.iter().map(|run| run.blocks).sum::<usize>() <= UNIT_BLOCKS);
                for run in unit {
                    let first = usize::from(run.slot);
                    for slot in &mut covered[first..first + run.blocks] {
                        prop_assert!(!*slot);
                        *slot = true;
                    }
                }
            }
            prop_assert_eq!(covered, reads);
        }
    }

    #[test]
    fn ranges_mark_the_blocks_they_touch() {
        let mut fates = [Fate::Keep; 256];
        let span = ByteRange::between(LEAF_SPAN, LEAF_SPAN + 300_000);
        mark(
            &mut fates,
            span,
            ByteRange::between(LEAF_SPAN + 65_535, LEAF_SPAN + 65_537),
            Fate::Read,
        );
        mark(&mut fates, span, ByteRange::between(LEAF_SPAN + 299_999, u64::MAX), Fate::Zero);
        let marked: Vec<_> = (0..256).filter(|slot| fates[*slot] != Fate::Keep).collect();
        assert_eq!(marked, [0, 1, 4]);
    }
}
