//! Images, and the arithmetic of positions in their trees.

use std::ops::Range;

use strongroom_base::{
    BLOCK_SIZE_U64, ByteRange, Code, Coded, Digest, LEAF_SPAN, MAX_DISK_SIZE, Params, SECTOR_SIZE,
    codes, params,
};

/// The whole content of a disk: its size and the digest of its tree's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    size: u64,
    root: Digest,
}

/// A size that no disk has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a disk cannot have {size} bytes: sizes are multiples of 512 from 512 bytes to 256 TiB")]
pub struct SizeError {
    /// The size, in bytes.
    pub size: u64,
}

impl Coded for SizeError {
    fn code(&self) -> &'static Code {
        &codes::DISK_FORMAT
    }

    fn params(&self) -> Params {
        params!(DISK_FORMAT: size = self.size)
    }
}

impl Image {
    /// An image of `size` bytes. Whether the root is there, and is of a tree of this size, shows
    /// when it is read.
    pub fn new(size: u64, root: Digest) -> Result<Self, SizeError> {
        if size == 0 || size > MAX_DISK_SIZE || !size.is_multiple_of(SECTOR_SIZE) {
            return Err(SizeError { size });
        }
        Ok(Self { size, root })
    }

    /// The disk's size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The digest of the root node; a hole if the disk is all zeros.
    pub const fn root(&self) -> Digest {
        self.root
    }

    /// All bytes of the disk.
    pub const fn bytes(&self) -> ByteRange {
        ByteRange::between(0, self.size)
    }

    /// Levels of nodes above the blocks, 1 to 4.
    pub fn depth(&self) -> u8 {
        let mut depth = 1;
        while self.blocks() > Place::root(depth).end_block() {
            depth += 1;
        }
        depth
    }

    /// Blocks, counting a last one that is not full.
    pub const fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_SIZE_U64)
    }

    /// Leaves, counting a last one that is not full.
    pub const fn leaves(&self) -> u64 {
        self.size.div_ceil(LEAF_SPAN)
    }

    /// The indexes of the blocks that share a byte with `range`; those beyond the end are left out.
    pub fn block_range(&self, range: ByteRange) -> Range<u64> {
        self.units(range, BLOCK_SIZE_U64)
    }

    /// The indexes of the leaves that share a byte with `range`; those beyond the end are left out.
    pub fn leaf_range(&self, range: ByteRange) -> Range<u64> {
        self.units(range, LEAF_SPAN)
    }

    fn units(&self, range: ByteRange, unit: u64) -> Range<u64> {
        let range = range.intersect(self.bytes());
        if range.is_empty() {
            return 0..0;
        }
        range.offset() / unit..range.end().div_ceil(unit)
    }

    /// Where the root is.
    pub(crate) fn top(&self) -> Place {
        Place::root(self.depth())
    }

    /// How many children of the node at `place` begin before the disk's end, at most 256.
    pub(crate) fn children_at(&self, place: Place) -> usize {
        let blocks = self.blocks().saturating_sub(place.first_block());
        let children = blocks.div_ceil(1 << place.child(0).bits());
        usize::try_from(children).unwrap_or(usize::MAX).min(256)
    }
}

/// A place in a tree: the `index`-th node of a level, or the `index`-th block on level 0.
///
/// The index of the child of a node is the node's index with the child's slot behind it, so the slots
/// on the way down to a block are the bytes of the block's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) level: u8,
    pub(crate) index: u64,
}

impl Place {
    /// The first place of a level.
    pub(crate) const fn root(level: u8) -> Self {
        Self { level, index: 0 }
    }

    /// The place of a child of the node here.
    pub(crate) fn child(self, slot: u8) -> Self {
        Self { level: self.level.saturating_sub(1), index: (self.index << 8) | u64::from(slot) }
    }

    /// Which child of its node this place is.
    pub(crate) const fn slot(self) -> u8 {
        let [slot, ..] = self.index.to_le_bytes();
        slot
    }

    /// Which child of the node here leads to a block that it holds.
    pub(crate) fn slot_towards(self, block: u64) -> u8 {
        Self { level: 0, index: block >> self.child(0).bits() }.slot()
    }

    /// Whether a block is here or below.
    pub(crate) fn holds(self, block: u64) -> bool {
        block >> self.bits() == self.index
    }

    /// The first block here or below.
    pub(crate) fn first_block(self) -> u64 {
        self.index << self.bits()
    }

    /// The first block after those here or below.
    pub(crate) fn end_block(self) -> u64 {
        (self.index + 1) << self.bits()
    }

    /// The bits of a block's index that count the blocks below this place: 8 a level.
    fn bits(self) -> u32 {
        u32::from(self.level) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strongroom_base::BLOCK_SIZE_U64 as BLOCK;

    fn image(size: u64) -> Image {
        Image::new(size, Digest::HOLE).expect("a size of a disk")
    }

    #[test]
    fn sizes_are_checked() {
        for size in [0, 1, 511, 513, MAX_DISK_SIZE + 512, u64::MAX, u64::MAX - 511] {
            assert_eq!(Image::new(size, Digest::HOLE), Err(SizeError { size }));
        }
    }

    #[test]
    fn shape_follows_from_the_size() {
        for (size, depth, blocks, leaves) in [
            (512, 1, 1, 1),
            (BLOCK, 1, 1, 1),
            (BLOCK + 512, 1, 2, 1),
            (LEAF_SPAN, 1, 256, 1),
            (LEAF_SPAN + 512, 2, 257, 2),
            (4 << 30, 2, 1 << 16, 256),
            ((4 << 30) + 512, 3, (1 << 16) + 1, 257),
            (1 << 40, 3, 1 << 24, 1 << 16),
            ((1 << 40) + 512, 4, (1 << 24) + 1, (1 << 16) + 1),
            (MAX_DISK_SIZE, 4, 1 << 32, 1 << 24),
        ] {
            let image = image(size);
            assert_eq!((image.depth(), image.blocks(), image.leaves()), (depth, blocks, leaves));
        }
    }

    #[test]
    fn ranges_cover_what_they_touch() {
        let image = image(3 * LEAF_SPAN + 512);
        assert_eq!(image.block_range(image.bytes()), 0..769);
        assert_eq!(image.leaf_range(image.bytes()), 0..4);
        assert_eq!(image.block_range(ByteRange::between(BLOCK - 1, BLOCK + 1)), 0..2);
        assert_eq!(image.block_range(ByteRange::between(BLOCK, 2 * BLOCK)), 1..2);
        assert!(image.block_range(ByteRange::between(BLOCK, BLOCK)).is_empty());
        assert!(image.leaf_range(ByteRange::between(u64::MAX - 1, u64::MAX)).is_empty());
        assert_eq!(image.leaf_range(ByteRange::between(LEAF_SPAN, u64::MAX)), 1..4);
    }

    #[test]
    fn places_count_blocks() {
        let block = 0x0403_0201;
        let mut place = Place::root(4);
        for slot in [4, 3, 2, 1] {
            assert!(place.holds(block));
            assert_eq!(place.slot_towards(block), slot);
            place = place.child(slot);
            assert_eq!(place.slot(), slot);
        }
        assert_eq!(place, Place { level: 0, index: block });
        let leaf = Place { level: 1, index: 3 };
        assert_eq!((leaf.first_block(), leaf.end_block()), (768, 1024));
        assert!(!leaf.holds(767) && leaf.holds(768) && leaf.holds(1023) && !leaf.holds(1024));

        let image = image((256 * 256 + 256 * 3 + 7) * BLOCK);
        assert_eq!(image.children_at(Place::root(3)), 2);
        assert_eq!(image.children_at(Place { level: 2, index: 0 }), 256);
        assert_eq!(image.children_at(Place { level: 2, index: 1 }), 4);
        assert_eq!(image.children_at(Place { level: 1, index: 256 + 3 }), 7);
        assert_eq!(image.children_at(Place { level: 1, index: 256 + 4 }), 0);
    }
}
