//! Nodes in memory, and images built from plain models of disks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use strongroom_base::Digest;

use crate::{Builder, Error, Hasher, Image, Node, NodeReader};

pub(crate) static HASHER: Hasher = Hasher::new(&[1; 32], &[2; 32]);

/// Block index to digest, without holes.
pub(crate) type Model = BTreeMap<u64, Digest>;

/// A digest that is not a hole.
pub(crate) fn digest(value: u64) -> Digest {
    HASHER.block(&(value + 1).to_le_bytes())
}

/// What a leaf of a model holds.
pub(crate) fn leaf_of(model: &Model, leaf: u64) -> Node {
    let mut node = Node::empty();
    for (block, digest) in model.range(leaf << 8..(leaf + 1) << 8) {
        node.set(u8::try_from(block & 255).expect("a byte"), *digest);
    }
    node
}

/// A store of nodes that notes what is read from and written to it.
#[derive(Default)]
pub(crate) struct NodeStore {
    nodes: Mutex<HashMap<Digest, Arc<Node>>>,
    reads: Mutex<Vec<Digest>>,
    writes: Mutex<Vec<Digest>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node {0}")]
pub(crate) struct NoNode(pub(crate) Digest);

impl NodeReader for NodeStore {
    type Error = NoNode;

    fn read_node(&self, digest: Digest) -> Result<Arc<Node>, NoNode> {
        self.reads.lock().expect("sane").push(digest);
        self.nodes.lock().expect("sane").get(&digest).cloned().ok_or(NoNode(digest))
    }
}

impl NodeStore {
    /// Takes a node and checks what must be true of every one that is handed on.
    fn write(&self, digest: Digest, encoded: &[u8]) {
        assert_eq!(HASHER.node(encoded), digest);
        self.insert(digest, Node::decode(encoded).expect("a node"));
        self.writes.lock().expect("sane").push(digest);
    }

    pub(crate) fn insert(&self, digest: Digest, node: Node) {
        self.nodes.lock().expect("sane").insert(digest, Arc::new(node));
    }

    pub(crate) fn remove(&self, digest: Digest) {
        assert!(self.nodes.lock().expect("sane").remove(&digest).is_some());
    }

    /// The nodes read since the last call.
    pub(crate) fn take_reads(&self) -> Vec<Digest> {
        std::mem::take(&mut self.reads.lock().expect("sane"))
    }

    /// The nodes written since the last call.
    pub(crate) fn take_writes(&self) -> Vec<Digest> {
        std::mem::take(&mut self.writes.lock().expect("sane"))
    }

    /// Builds an image, setting the given leaves to what the model has there.
    pub(crate) fn build(
        &self,
        size: u64,
        parent: Option<Image>,
        model: &Model,
        leaves: impl IntoIterator<Item = u64>,
    ) -> Result<Image, Error<NoNode>> {
        let sink = |digest, encoded: &[u8]| {
            self.write(digest, encoded);
            Ok(())
        };
        let mut builder = Builder::new(&HASHER, size, parent, self, sink)?;
        for leaf in leaves {
            builder.set_leaf(leaf, &leaf_of(model, leaf))?;
        }
        builder.finish()
    }

    /// Builds an image of a whole model, without parent.
    pub(crate) fn image_of(&self, size: u64, model: &Model) -> Image {
        let leaves: BTreeSet<u64> = model.keys().map(|block| block >> 8).collect();
        self.build(size, None, model, leaves).expect("builds")
    }

    /// Every node of an image, found without the code under test.
    pub(crate) fn nodes_of(&self, image: Image) -> HashSet<Digest> {
        let nodes = self.nodes.lock().expect("sane");
        let mut level = HashSet::from([image.root()]);
        level.remove(&Digest::HOLE);
        let mut all = level.clone();
        for _ in 1..image.depth() {
            level = level
                .iter()
                .flat_map(|node| nodes[node].iter().map(|(_, child)| child).collect::<Vec<_>>())
                .collect();
            all.extend(&level);
        }
        all
    }
}
