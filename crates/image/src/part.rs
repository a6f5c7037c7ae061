//! A part of an image by the digests of the subtrees that hold it.

use strongroom_base::{ByteRange, Digest};

use crate::{Error, Image, NodeReader, read::load};

/// A subtree of an image: a node, or a block on level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its level.
    pub level: u8,
    /// Its index among those of its level.
    pub index: u64,
    /// Its digest; a hole if it is all zeros.
    pub digest: Digest,
}

/// The largest subtrees that together have the blocks of a range, and no others: two ranges at the same place with the
/// same subtrees have the same content. Only nodes on the way to the ends of the range are read.
pub fn cover<R: NodeReader>(
    image: Image,
    reader: R,
    range: ByteRange,
) -> Result<Vec<Part>, Error<R::Error>> {
    let blocks = image.block_range(range);
    let mut found = Vec::new();
    let mut left = vec![(image.top(), image.root())];
    while let Some((place, digest)) = left.pop() {
        let (first, end) = (place.first_block(), place.end_block().min(image.blocks()));
        if end <= blocks.start || first >= blocks.end {
            continue;
        }
        if digest.is_hole() || place.level == 0 || (first >= blocks.start && end <= blocks.end) {
            found.push(Part { level: place.level, index: place.index, digest });
            continue;
        }
        let node = load(&image, &reader, digest, place)?;
        // The first comes last, to be looked at next.
        for slot in (0..=u8::MAX).rev().take(256) {
            left.push((place.child(slot), node.get(slot)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use strongroom_base::BLOCK_SIZE_U64;

    use super::*;
    use crate::{
        image::Place,
        testing::{Model, NodeStore, digest},
    };

    /// Three levels: five and a half nodes of the second.
    const BLOCKS: u64 = 256 * 256 * 5 + 256 * 100 + 7;

    fn blocks(first: u64, end: u64) -> ByteRange {
        ByteRange::between(first * BLOCK_SIZE_U64, end * BLOCK_SIZE_U64)
    }

    #[test]
    fn a_part_is_known_by_what_is_in_it_and_by_nothing_else() {
        let store = NodeStore::default();
        let size = BLOCKS * BLOCK_SIZE_U64;
        let model: Model = (0..BLOCKS).step_by(97).map(|block| (block, digest(block))).collect();
        let image = store.image_of(size, &model);
        let with = |block: u64| {
            let mut other = model.clone();
            other.insert(block, digest(u64::MAX - 1));
            store.image_of(size, &other)
        };
        for (first, end) in
            [(0, BLOCKS), (17, 300), (16, 256 * 256 * 2 + 17), (256 * 256, BLOCKS), (5, 6)]
        {
            let known = |image| cover(image, &store, blocks(first, end)).expect("read");
            store.take_reads();
            let parts = known(image);
            let reads = store.take_reads().len();
            assert!(reads <= 6, "{first}..{end}: {reads} nodes");
            // It has each block of the range once, and no other but of holes.
            let inside: u64 = parts
                .iter()
                .filter(|part| !part.digest.is_hole())
                .map(|part| {
                    let place = Place { level: part.level, index: part.index };
                    assert!(place.first_block() >= first, "{part:?}");
                    place.end_block().min(BLOCKS) - place.first_block()
                })
                .sum();
            assert!(inside <= end - first);
            for block in [first, first.midpoint(end), end - 1] {
                assert_ne!(known(with(block)), parts, "{block} of {first}..{end}");
            }
            for block in [first.wrapping_sub(1), end] {
                if block < BLOCKS {
                    assert_eq!(known(with(block)), parts, "{block} of {first}..{end}");
                }
            }
        }
    }

    #[test]
    fn a_hole_needs_no_reading() {
        let store = NodeStore::default();
        let image = store.image_of(BLOCKS * BLOCK_SIZE_U64, &Model::new());
        let parts = cover(image, &store, blocks(3, 9)).expect("read");
        assert_eq!(parts, [Part { level: 3, index: 0, digest: Digest::HOLE }]);
        assert!(store.take_reads().is_empty());
    }
}
