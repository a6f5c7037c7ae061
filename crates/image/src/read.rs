//! Reading an image: from its root down to its blocks.

use std::{ops::Range, sync::Arc};

use strongroom_base::{ByteRange, Digest, FANOUT};

use crate::{Error, Image, Node, image::Place};

/// Where nodes are read from: usually a vault with a cache before it.
///
/// May be asked by several threads at once, and repeatedly for the same node.
pub trait NodeReader: Sync {
    /// Why a node cannot be read.
    type Error;

    /// The node with this digest, which is never a hole.
    ///
    /// The reader vouches that the node has this digest ([`Hasher::node`](crate::Hasher::node)); a
    /// node that is missing or has another digest is an error.
    fn read_node(&self, digest: Digest) -> Result<Arc<Node>, Self::Error>;
}

impl<R: NodeReader + ?Sized> NodeReader for &R {
    type Error = R::Error;

    fn read_node(&self, digest: Digest) -> Result<Arc<Node>, R::Error> {
        (**self).read_node(digest)
    }
}

impl<R: NodeReader + Send + ?Sized> NodeReader for Arc<R> {
    type Error = R::Error;

    fn read_node(&self, digest: Digest) -> Result<Arc<Node>, R::Error> {
        (**self).read_node(digest)
    }
}

/// Reads the node of an image at a place and checks that it can be there.
pub(crate) fn load<R: NodeReader>(
    image: &Image,
    reader: &R,
    digest: Digest,
    place: Place,
) -> Result<Arc<Node>, Error<R::Error>> {
    let node = reader.read_node(digest).map_err(Error::Store)?;
    let fits = node.last_present().is_some_and(|last| usize::from(last) < image.children_at(place));
    if fits {
        Ok(node)
    } else {
        let Place { level, index } = place;
        Err(Error::Damaged { digest, level, index, size: image.size() })
    }
}

/// A leaf of an image: the digests of the blocks of 16 MiB of disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its index: it begins at byte `index` · 16 MiB.
    pub index: u64,
    /// The digest of its node.
    pub digest: Digest,
    /// Its node; child `i` is block `index` · 256 + `i`.
    pub node: Arc<Node>,
}

/// Finds leaves and blocks of one image. Keeps the path to the last one, so that the next ones in
/// ascending order cost a read only where their paths part. Memory: at most four nodes.
#[derive(Debug)]
pub struct Cursor<R> {
    image: Image,
    reader: R,
    /// From the root downwards.
    path: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    place: Place,
    digest: Digest,
    node: Arc<Node>,
}

impl<R: NodeReader> Cursor<R> {
    /// A cursor that has read nothing yet.
    pub const fn new(image: Image, reader: R) -> Self {
        Self { image, reader, path: Vec::new() }
    }

    /// The image.
    pub const fn image(&self) -> Image {
        self.image
    }

    /// The leaf of an index; none if it is a hole or beyond the end.
    pub fn leaf(&mut self, index: u64) -> Result<Option<Leaf>, Error<R::Error>> {
        if index >= self.image.leaves() {
            return Ok(None);
        }
        let hole = self.descend(Place { level: 1, index }.first_block())?;
        Ok(if hole.is_none() { self.current() } else { None })
    }

    /// The first leaf at or after an index that is not a hole; none if there is no more.
    pub fn next_leaf(&mut self, from: u64) -> Result<Option<Leaf>, Error<R::Error>> {
        self.first_leaf(from..self.image.leaves())
    }

    /// The last leaf before an index that is not a hole; none if there is no such.
    pub fn last_leaf(&mut self, before: u64) -> Result<Option<Leaf>, Error<R::Error>> {
        let mut end = before.min(self.image.leaves());
        while let Some(index) = end.checked_sub(1) {
            let block = Place { level: 1, index }.first_block();
            let Some(hole) = self.descend(block)? else { return Ok(self.current()) };
            let Some(step) = self.path.last() else { return Ok(None) };
            let earlier = (0..hole.slot()).rev().find(|slot| !step.node.get(*slot).is_hole());
            let next = match earlier {
                Some(slot) => step.place.child(slot).end_block(),
                None => step.place.first_block(),
            };
            end = next >> 8;
        }
        Ok(None)
    }

    /// The first leaf of a range within the image that is not a hole. Reads nothing beyond the range.
    fn first_leaf(&mut self, range: Range<u64>) -> Result<Option<Leaf>, Error<R::Error>> {
        let mut from = range.start;
        while from < range.end {
            let block = Place { level: 1, index: from }.first_block();
            let Some(hole) = self.descend(block)? else { return Ok(self.current()) };
            let Some(step) = self.path.last() else { return Ok(None) };
            let next = match step.node.next_present(usize::from(hole.slot()) + 1) {
                Some(slot) => step.place.child(slot).first_block(),
                None => step.place.end_block(),
            };
            from = next >> 8;
        }
        Ok(None)
    }

    /// The digest of a block; a hole also beyond the end.
    pub fn block(&mut self, block: u64) -> Result<Digest, Error<R::Error>> {
        if block >= self.image.blocks() || self.descend(block)?.is_some() {
            return Ok(Digest::HOLE);
        }
        Ok(self
            .path
            .last()
            .map_or(Digest::HOLE, |leaf| leaf.node.get(leaf.place.slot_towards(block))))
    }

    /// Makes `path` lead to the leaf of a block within the image; or, if there is a hole on the way,
    /// to the node above the hole, whose place it returns.
    fn descend(&mut self, block: u64) -> Result<Option<Place>, Error<R::Error>> {
        while self.path.pop_if(|step| !step.place.holds(block)).is_some() {}
        loop {
            let (digest, place) = match self.path.last() {
                None => (self.image.root(), self.image.top()),
                Some(step) if step.place.level == 1 => return Ok(None),
                Some(step) => {
                    let slot = step.place.slot_towards(block);
                    (step.node.get(slot), step.place.child(slot))
                }
            };
            if digest.is_hole() {
                return Ok(Some(place));
            }
            let node = load(&self.image, &self.reader, digest, place)?;
            self.path.push(Step { place, digest, node });
        }
    }

    /// The leaf that `path` leads to.
    fn current(&self) -> Option<Leaf> {
        let step = self.path.last()?;
        Some(Leaf { index: step.place.index, digest: step.digest, node: Arc::clone(&step.node) })
    }
}

/// The leaves of an image that share a byte with `range`, ascending and without holes. Lazy; ends
/// after an error.
pub fn leaves<R: NodeReader>(image: Image, reader: R, range: ByteRange) -> Leaves<R> {
    Leaves { range: image.leaf_range(range), cursor: Cursor::new(image, reader) }
}

/// See [`leaves`].
#[derive(Debug)]
pub struct Leaves<R> {
    cursor: Cursor<R>,
    range: Range<u64>,
}

impl<R: NodeReader> Iterator for Leaves<R> {
    type Item = Result<Leaf, Error<R::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.cursor.first_leaf(self.range.clone()).transpose();
        self.range.start = match &found {
            Some(Ok(leaf)) => leaf.index + 1,
            _ => self.range.end,
        };
        found
    }
}

/// The blocks of an image that share a byte with `range`, as index and digest, ascending and without
/// holes. Lazy; ends after an error.
pub fn blocks<R: NodeReader>(image: Image, reader: R, range: ByteRange) -> Blocks<R> {
    let leaves = leaves(image, reader, range);
    Blocks { leaves, range: image.block_range(range), leaf: None }
}

/// See [`blocks`].
#[derive(Debug)]
pub struct Blocks<R> {
    leaves: Leaves<R>,
    range: Range<u64>,
    /// The leaf that is being read out.
    leaf: Option<Leaf>,
}

impl<R: NodeReader> Iterator for Blocks<R> {
    type Item = Result<(u64, Digest), Error<R::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.range.is_empty() {
            let Some(leaf) = &self.leaf else {
                match self.leaves.next()? {
                    Ok(leaf) => self.leaf = Some(leaf),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            let place = Place { level: 1, index: leaf.index };
            let from = self.range.start.saturating_sub(place.first_block());
            let from = usize::try_from(from).unwrap_or(FANOUT);
            let Some(slot) = leaf.node.next_present(from) else {
                self.leaf = None;
                continue;
            };
            let block = place.child(slot).index;
            if block >= self.range.end {
                return None;
            }
            self.range.start = block + 1;
            return Some(Ok((block, leaf.node.get(slot))));
        }
        None
    }
}
