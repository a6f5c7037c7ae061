//! Two images side by side, also of different depth.
//!
//! Both trees are seen from the level of the deeper one's root. Above the root of the shallower one
//! there are no nodes, only the way down to it along the left edge.

use std::sync::Arc;

use strongroom_base::Digest;

use crate::{Error, Image, Node, NodeReader, image::Place, read::load};

/// What one image has at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Zeros, or nothing because the disk ends before.
    Hole,
    /// A block on level 0, a node on others.
    Stored(Digest),
    /// The root is further down along the left edge.
    AboveRoot,
}

/// The inside of a [`Side`].
#[derive(Debug)]
pub(crate) enum Inside {
    Hole,
    Node(Arc<Node>),
    /// The leftmost child.
    AboveRoot(Side),
}

impl Side {
    /// What an image has at the first place of a level at or above its root's.
    pub(crate) fn first_of(image: Option<&Image>, level: u8) -> Self {
        match image {
            Some(image) if image.root().is_hole() => Self::Hole,
            Some(image) if image.depth() < level => Self::AboveRoot,
            Some(image) => Self::Stored(image.root()),
            None => Self::Hole,
        }
    }

    /// Reads the node here, if there is one.
    pub(crate) fn open<R: NodeReader>(
        self,
        image: Option<&Image>,
        reader: &R,
        place: Place,
    ) -> Result<Inside, Error<R::Error>> {
        Ok(match (self, image) {
            (Self::Hole, _) | (_, None) => Inside::Hole,
            (Self::Stored(digest), Some(image)) => {
                Inside::Node(load(image, reader, digest, place)?)
            }
            (Self::AboveRoot, image) => {
                Inside::AboveRoot(Self::first_of(image, place.child(0).level))
            }
        })
    }

    /// The digest of the block here.
    pub(crate) const fn digest(self) -> Digest {
        match self {
            Self::Stored(digest) => digest,
            Self::Hole | Self::AboveRoot => Digest::HOLE,
        }
    }
}

impl Inside {
    /// One child.
    pub(crate) fn child(&self, slot: u8) -> Side {
        match self {
            Self::Node(node) => match node.get(slot) {
                Digest::HOLE => Side::Hole,
                digest => Side::Stored(digest),
            },
            Self::AboveRoot(first) if slot == 0 => *first,
            Self::Hole | Self::AboveRoot(_) => Side::Hole,
        }
    }

    /// The first child at or after `from` that is not a hole.
    pub(crate) fn next_present(&self, from: usize) -> Option<u8> {
        match self {
            Self::Hole => None,
            Self::Node(node) => node.next_present(from),
            Self::AboveRoot(_) => (from == 0).then_some(0),
        }
    }
}
