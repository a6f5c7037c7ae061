//! Every digest of an image: for reclaim's marking and for copying to another vault.

use std::sync::Arc;

use strongroom_base::Digest;

use crate::{Error, Image, Node, NodeReader, image::Place, read::load, side::Side};

/// What [`visit`] shows the digests of an image to.
pub trait Visitor<E> {
    /// A node, before what is below it. False: this node has been seen, and with it everything below
    /// it, so it is not entered.
    fn enter_node(&mut self, node: Digest) -> Result<bool, E>;

    /// A block of a leaf that was entered. A digest may come more than once.
    fn block(&mut self, block: Digest) -> Result<(), E>;
}

/// Shows a visitor every node and block of an image, reading the nodes that it enters.
///
/// Marking: where `enter_node` remembers what it has seen, many images of one disk are walked at the
/// cost of their distinct nodes.
pub fn visit<R: NodeReader>(
    image: Image,
    reader: R,
    visitor: &mut impl Visitor<R::Error>,
) -> Result<(), Error<R::Error>> {
    visit_new(None, image, reader, visitor)
}

/// As [`visit`], but passes over everything that `old` has at the same place: for a visitor that has
/// seen `old`. Differing nodes of both images are read, and the visitor is not asked about the many
/// children that they share.
pub fn visit_new<R: NodeReader>(
    old: Option<Image>,
    new: Image,
    reader: R,
    visitor: &mut impl Visitor<R::Error>,
) -> Result<(), Error<R::Error>> {
    let level = old.map_or(new.depth(), |old| old.depth().max(new.depth()));
    let sides = (Side::first_of(old.as_ref(), level), Side::first_of(Some(&new), level));
    Visit { old, new, reader, visitor }.at(Place::root(level), sides)
}

struct Visit<'a, R, V> {
    old: Option<Image>,
    new: Image,
    reader: R,
    visitor: &'a mut V,
}

impl<R: NodeReader, V: Visitor<R::Error>> Visit<'_, R, V> {
    /// Calls itself for the children: at most five deep, the height of a tree.
    fn at(&mut self, place: Place, (old, new): (Side, Side)) -> Result<(), Error<R::Error>> {
        if old == new {
            return Ok(());
        }
        match new {
            Side::Hole => return Ok(()),
            Side::Stored(block) if place.level == 0 => {
                return self.visitor.block(block).map_err(Error::Store);
            }
            Side::Stored(node) => {
                if !self.visitor.enter_node(node).map_err(Error::Store)? {
                    return Ok(());
                }
            }
            Side::AboveRoot => {}
        }
        let old = old.open(self.old.as_ref(), &self.reader, place)?;
        let new = new.open(Some(&self.new), &self.reader, place)?;
        let mut next = 0;
        while let Some(slot) = new.next_present(next) {
            next = usize::from(slot) + 1;
            self.at(place.child(slot), (old.child(slot), new.child(slot)))?;
        }
        Ok(())
    }
}

/// Something that a destination lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissingItem {
    /// A block.
    Block(Digest),
    /// A node; what is below it has come before it or is at the destination.
    Node(Digest, Arc<Node>),
}

/// What a destination lacks of an image: blocks and nodes, children before parents, so that whatever
/// is copied in this order never refers to something that is not there. Lazy; ends after an error.
///
/// `has` says whether the destination has a block or node; having a node means having all below it.
/// It is asked once for each place and not below nodes that are there. What occurs at several places
/// comes several times unless `has` comes to know of it meanwhile.
pub fn missing<R, H>(image: Image, reader: R, has: H) -> Missing<R, H>
where
    R: NodeReader,
    H: FnMut(Digest) -> Result<bool, R::Error>,
{
    let start = Some((image.top(), image.root()));
    Missing { image, reader, has, start, frames: Vec::new() }
}

/// See [`missing`].
#[derive(Debug)]
pub struct Missing<R, H> {
    image: Image,
    reader: R,
    has: H,
    /// The root, until it has been looked at.
    start: Option<(Place, Digest)>,
    /// Missing nodes, from the root down to where the walk is.
    frames: Vec<Frame>,
}

#[derive(Debug)]
struct Frame {
    place: Place,
    digest: Digest,
    node: Arc<Node>,
    /// The next child to look at.
    next: usize,
}

impl<R, H> Missing<R, H>
where
    R: NodeReader,
    H: FnMut(Digest) -> Result<bool, R::Error>,
{
    fn advance(&mut self) -> Result<Option<MissingItem>, Error<R::Error>> {
        loop {
            let (place, digest) = match (self.start.take(), self.frames.last_mut()) {
                (Some((_, Digest::HOLE)), _) | (None, None) => return Ok(None),
                (Some(root), _) => root,
                (None, Some(frame)) => {
                    let Some(slot) = frame.node.next_present(frame.next) else {
                        let done = self.frames.pop();
                        return Ok(done.map(|frame| MissingItem::Node(frame.digest, frame.node)));
                    };
                    frame.next = usize::from(slot) + 1;
                    (frame.place.child(slot), frame.node.get(slot))
                }
            };
            if (self.has)(digest).map_err(Error::Store)? {
                continue;
            }
            if place.level == 0 {
                return Ok(Some(MissingItem::Block(digest)));
            }
            let node = load(&self.image, &self.reader, digest, place)?;
            self.frames.push(Frame { place, digest, node, next: 0 });
        }
    }
}

impl<R, H> Iterator for Missing<R, H>
where
    R: NodeReader,
    H: FnMut(Digest) -> Result<bool, R::Error>,
{
    type Item = Result<MissingItem, Error<R::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if item.is_err() {
            self.frames.clear();
        }
        item.transpose()
    }
}
