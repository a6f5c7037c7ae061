//! A new image from a parent and changed leaves.

use std::sync::Arc;

use strongroom_base::Digest;

use crate::{Error, Hasher, Image, Node, NodeReader, image::Place, read::load};

/// Builds an image in one ascending pass over its leaves. Leaves that are not set stay as they are
/// in the parent, or holes if there is none.
///
/// ```text
///  parent:      [ root ]            open:   [ root'          ]   at most one node a level,
///              /   |   ╲                     /    |              read from the parent when a
///          [leaf][leaf][leaf]           [leaf][leaf'] ◄─ set_leaf leaf below it is set
///                                                 └──► sink       closed when the pass leaves it
/// ```
///
/// Only the parent's nodes above leaves that are set are read; untouched subtrees are taken over by
/// their digests. Nodes go to the sink when they are complete, children before parents, and only if
/// they are not what the parent has at the same place. A node that occurs at several places goes to
/// the sink for each.
///
/// The parent may have another size. Where the disk has grown there are holes; where it has shrunk
/// everything beyond its new end is dropped. This works on whole blocks: if the new end lies within
/// a block, the block's content beyond it is not seen here, so a caller that shrinks a disk (or grows one,
/// where zeros cannot be taken for granted) must read, hash and set the leaf of its last block.
///
/// After an error the builder is of no more use.
pub struct Builder<'a, R, S> {
    hasher: &'a Hasher,
    image: Image,
    parent: Option<Image>,
    reader: R,
    sink: S,
    /// Nodes above the leaves that may still change, from the root downwards.
    open: Vec<Open>,
    /// The root's digest: what the parent has there, until the new one is known.
    root: Digest,
    /// The first leaf that may be set.
    next_leaf: u64,
    /// An encoding, for its memory.
    encoded: Vec<u8>,
}

struct Open {
    place: Place,
    node: Node,
    /// What the parent has here.
    old: Digest,
    /// Whether the node is another than the parent's.
    changed: bool,
}

impl<R, S> std::fmt::Debug for Builder<'_, R, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("size", &self.image.size())
            .field("parent", &self.parent)
            .field("next_leaf", &self.next_leaf)
            .finish_non_exhaustive()
    }
}

impl<'a, R, S> Builder<'a, R, S>
where
    R: NodeReader,
    S: FnMut(Digest, &[u8]) -> Result<(), R::Error>,
{
    /// Starts an image of `size` bytes. New nodes go to `sink` with their encoding.
    pub fn new(
        hasher: &'a Hasher,
        size: u64,
        parent: Option<Image>,
        reader: R,
        sink: S,
    ) -> Result<Self, Error<R::Error>> {
        let image = Image::new(size, Digest::HOLE)?;
        // Without content a parent is as good as none.
        let parent = parent.filter(|parent| !parent.root().is_hole());
        let mut builder = Self {
            hasher,
            image,
            parent,
            reader,
            sink,
            open: Vec::new(),
            root: Digest::HOLE,
            next_leaf: 0,
            encoded: Vec::new(),
        };
        if let Some(parent) = parent {
            builder.adopt(&parent)?;
        }
        Ok(builder)
    }

    /// Fits the parent's tree into the new one's depth.
    fn adopt(&mut self, parent: &Image) -> Result<(), Error<R::Error>> {
        // The disk has grown: new nodes lead down to the parent's root along the left edge.
        for level in (parent.depth() + 1..=self.image.depth()).rev() {
            let mut node = Node::empty();
            if level == parent.depth() + 1 {
                node.set(0, parent.root());
            }
            self.open.push(Open {
                place: Place::root(level),
                node,
                old: Digest::HOLE,
                changed: true,
            });
        }
        if !self.open.is_empty() {
            return Ok(());
        }
        // The disk has shrunk: the new root is what the parent has further down that edge.
        self.root = parent.root();
        for level in (self.image.depth() + 1..=parent.depth()).rev() {
            if !self.root.is_hole() {
                self.root = load(parent, &self.reader, self.root, Place::root(level))?.get(0);
            }
        }
        Ok(())
    }

    /// Sets a leaf; child `i` of `node` is block `index` · 256 + `i`, beyond the disk's end a hole.
    /// Indexes must ascend from call to call.
    pub fn set_leaf(&mut self, index: u64, node: &Node) -> Result<(), Error<R::Error>> {
        if index < self.next_leaf {
            return Err(Error::OutOfOrder { index, next: self.next_leaf });
        }
        let blocks = self.image.blocks();
        if index >= self.image.leaves() {
            return Err(Error::BeyondEnd { block: index.saturating_mul(256), blocks });
        }
        let place = Place { level: 1, index };
        let last = node.last_present().map_or(0, |slot| place.child(slot).index);
        if last >= blocks {
            return Err(Error::BeyondEnd { block: last, blocks });
        }
        let old = self.open_towards(place)?;
        let digest = self.emit(node, old)?;
        self.put(place, digest);
        self.next_leaf = index + 1;
        Ok(())
    }

    /// The image, once all leaves are set.
    pub fn finish(mut self) -> Result<Image, Error<R::Error>> {
        let last = self.image.leaves() - 1;
        if let Some(parent) = self.parent
            && parent.blocks() > self.image.blocks()
            && self.next_leaf <= last
        {
            self.trim(&parent, Place { level: 1, index: last })?;
        }
        while let Some(open) = self.open.pop() {
            self.close(&open)?;
        }
        Ok(Image::new(self.image.size(), self.root)?)
    }

    /// Drops what the parent has beyond the disk's end, which lies within or behind the last leaf.
    fn trim(&mut self, parent: &Image, last: Place) -> Result<(), Error<R::Error>> {
        let old = self.open_towards(last)?;
        if old.is_hole() {
            return Ok(());
        }
        let mut leaf = Arc::unwrap_or_clone(load(parent, &self.reader, old, last)?);
        if leaf.clear_from(self.image.children_at(last)) {
            let digest = self.emit(&leaf, old)?;
            self.put(last, digest);
        }
        Ok(())
    }

    /// Closes the nodes that are not above a leaf and opens those that are; returns what the parent
    /// has at the leaf.
    fn open_towards(&mut self, leaf: Place) -> Result<Digest, Error<R::Error>> {
        let block = leaf.first_block();
        while let Some(open) = self.open.pop_if(|open| !open.place.holds(block)) {
            self.close(&open)?;
        }
        loop {
            let (old, place) = match self.open.last() {
                None => (self.root, self.image.top()),
                Some(open) => {
                    let slot = open.place.slot_towards(block);
                    (open.node.get(slot), open.place.child(slot))
                }
            };
            if place.level <= leaf.level {
                return Ok(old);
            }
            let mut node = match &self.parent {
                Some(parent) if !old.is_hole() => {
                    Arc::unwrap_or_clone(load(parent, &self.reader, old, place)?)
                }
                _ => Node::empty(),
            };
            let changed = node.clear_from(self.image.children_at(place));
            self.open.push(Open { place, node, old, changed });
        }
    }

    /// Completes a node whose children are all final.
    fn close(&mut self, open: &Open) -> Result<(), Error<R::Error>> {
        let digest = if open.changed { self.emit(&open.node, open.old)? } else { open.old };
        self.put(open.place, digest);
        Ok(())
    }

    /// Sets the digest of a place in the node above it, which is open, or as the root.
    fn put(&mut self, place: Place, digest: Digest) {
        let Some(above) = self.open.last_mut() else {
            self.root = digest;
            return;
        };
        if above.node.get(place.slot()) != digest {
            above.node.set(place.slot(), digest);
            above.changed = true;
        }
    }

    /// The digest of a complete node, which goes to the sink if it is not the old one.
    fn emit(&mut self, node: &Node, old: Digest) -> Result<Digest, Error<R::Error>> {
        if node.is_empty() {
            return Ok(Digest::HOLE);
        }
        node.encode_into(&mut self.encoded);
        let digest = self.hasher.node(&self.encoded);
        if digest != old {
            (self.sink)(digest, &self.encoded).map_err(Error::Store)?;
        }
        Ok(digest)
    }
}
