//! The blocks in which two images differ.

use std::ops::Range;

use strongroom_base::{ByteRange, Digest};

use crate::{
    Error, Image, NodeReader,
    image::Place,
    side::{Inside, Side},
};

/// A block that is not the same in two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDiff {
    /// The block's index: it begins at byte `block` · 64 KiB.
    pub block: u64,
    /// What it was; a hole if it was zeros or the old disk ended before it.
    pub old: Digest,
    /// What it is; a hole if it has been cleared to zeros.
    pub new: Digest,
}

impl BlockDiff {
    /// The index of the leaf that the block is in.
    pub const fn leaf(&self) -> u64 {
        self.block >> 8
    }
}

/// The blocks of `new` that share a byte with `range` and are not what they were in `old` (holes if
/// there is none), ascending. Lazy; ends after an error.
///
/// Reads only nodes that differ, so the cost follows the difference. The disks may have different
/// sizes; what `old` has beyond the end of `new` is not reported, and of a last block that is not
/// full only digests are compared, which cover the zeros behind it.
pub fn diff<R: NodeReader>(old: Option<Image>, new: Image, reader: R, range: ByteRange) -> Diff<R> {
    let top = old.map_or(new.depth(), |old| old.depth().max(new.depth()));
    Diff { old, new, reader, blocks: new.block_range(range), start: Some(top), frames: Vec::new() }
}

/// See [`diff`].
#[derive(Debug)]
pub struct Diff<R> {
    old: Option<Image>,
    new: Image,
    reader: R,
    blocks: Range<u64>,
    /// The level to start from, until that has happened.
    start: Option<u8>,
    /// Places that differ, from the top down to where the walk is.
    frames: Vec<Frame>,
}

#[derive(Debug)]
struct Frame {
    place: Place,
    old: Inside,
    new: Inside,
    /// The next child to look at.
    next: usize,
}

impl Frame {
    /// The next child that differs, within blocks.
    fn next_difference(&mut self, blocks: &Range<u64>) -> Option<(Place, Side, Side)> {
        loop {
            let old = self.old.next_present(self.next);
            let new = self.new.next_present(self.next);
            let slot = old.into_iter().chain(new).min()?;
            self.next = usize::from(slot) + 1;
            let place = self.place.child(slot);
            if place.first_block() >= blocks.end {
                return None;
            }
            let (old, new) = (self.old.child(slot), self.new.child(slot));
            if place.end_block() > blocks.start && old != new {
                return Some((place, old, new));
            }
        }
    }
}

impl<R: NodeReader> Diff<R> {
    fn enter(&mut self, place: Place, old: Side, new: Side) -> Result<(), Error<R::Error>> {
        let old = old.open(self.old.as_ref(), &self.reader, place)?;
        let new = new.open(Some(&self.new), &self.reader, place)?;
        self.frames.push(Frame { place, old, new, next: 0 });
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<BlockDiff>, Error<R::Error>> {
        if let Some(level) = self.start.take() {
            let old = Side::first_of(self.old.as_ref(), level);
            let new = Side::first_of(Some(&self.new), level);
            if old != new && !self.blocks.is_empty() {
                self.enter(Place::root(level), old, new)?;
            }
        }
        while let Some(frame) = self.frames.last_mut() {
            match frame.next_difference(&self.blocks) {
                Some((Place { level: 0, index }, old, new)) => {
                    let (old, new) = (old.digest(), new.digest());
                    return Ok(Some(BlockDiff { block: index, old, new }));
                }
                Some((place, old, new)) => self.enter(place, old, new)?,
                None => drop(self.frames.pop()),
            }
        }
        Ok(None)
    }
}

impl<R: NodeReader> Iterator for Diff<R> {
    type Item = Result<BlockDiff, Error<R::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if item.is_err() {
            self.frames.clear();
        }
        item.transpose()
    }
}
