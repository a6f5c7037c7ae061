//! Images against a plain model of the disk: a map from block to digest.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use strongroom_base::{
    BLOCK_SIZE_U64 as BLOCK, ByteRange, Coded, Digest, LEAF_SPAN, MAX_DISK_SIZE,
};

use crate::{
    BlockDiff, Cursor, Error, Image, MissingItem, Node, NodeReader, Visitor, blocks, diff, leaves,
    missing,
    testing::{HASHER, Model, NoNode, NodeStore, digest, leaf_of},
    visit, visit_new,
};

/// Sizes of all depths, with the edges of each more often than chance would have them.
fn size() -> impl Strategy<Value = u64> {
    let span = prop::sample::select(vec![BLOCK, LEAF_SPAN, 4 << 30, 1 << 40, MAX_DISK_SIZE]);
    let unit = prop::sample::select(vec![512, BLOCK, LEAF_SPAN]);
    let edge = (span, 1_u64..4, -300_i64..300, unit).prop_map(|(span, times, delta, unit)| {
        let delta = delta * i64::try_from(unit).expect("small");
        (span * times).saturating_add_signed(delta).clamp(512, MAX_DISK_SIZE)
    });
    let any = (0_u32..40, any::<u64>()).prop_map(|(bits, raw)| (raw % (1 << bits) + 1) * 512);
    prop_oneof![edge, any]
}

/// Blocks as fractions of the disk, in clusters, so that paths are shared; few values, so that equal
/// subtrees occur. Value 0 clears.
type Writes = Vec<(u64, Vec<(u64, u64)>)>;

fn writes() -> impl Strategy<Value = Writes> {
    let start = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        (0_u64..4).prop_map(|n| n << 62),
        (0_u64..256).prop_map(|n| n << 56),
    ];
    let cluster = prop::collection::vec((0_u64..400, 0_u64..4), 0..12);
    prop::collection::vec((start, cluster), 0..6)
}

/// A 64-bit fraction of a whole.
fn scale(part: u64, whole: u64) -> u64 {
    u64::try_from((u128::from(part) * u128::from(whole)) >> 64).expect("fits")
}

/// Applies writes to a model; returns the leaves that were touched.
fn apply(model: &mut Model, size: u64, writes: &Writes) -> BTreeSet<u64> {
    let count = size.div_ceil(BLOCK);
    let mut touched = BTreeSet::new();
    for (start, cluster) in writes {
        let start = scale(*start, count);
        for (offset, value) in cluster {
            let block = (start + offset) % count;
            touched.insert(block >> 8);
            match value {
                0 => drop(model.remove(&block)),
                value => drop(model.insert(block, digest(*value))),
            }
        }
    }
    touched
}

/// Nodes on the paths from the root down to, but not including, the given leaves.
fn path_nodes(image: Image, leaves: &BTreeSet<u64>) -> usize {
    (1..image.depth())
        .map(|up| leaves.iter().map(|leaf| leaf >> (8 * up)).collect::<BTreeSet<_>>().len())
        .sum()
}

/// A disk, and a later state of it that may have another size.
#[derive(Clone, Debug)]
struct Story {
    sizes: [u64; 2],
    writes: [Writes; 2],
}

fn story() -> impl Strategy<Value = Story> {
    (size(), size(), any::<bool>(), writes(), writes()).prop_map(
        |(old, new, resized, first, second)| Story {
            sizes: [old, if resized { new } else { old }],
            writes: [first, second],
        },
    )
}

struct Written {
    store: NodeStore,
    images: [Image; 2],
    models: [Model; 2],
    touched: BTreeSet<u64>,
}

/// Builds both states, the second from the first.
fn write(story: &Story) -> Written {
    let store = NodeStore::default();
    let [old_size, new_size] = story.sizes;
    let mut model = Model::new();
    apply(&mut model, old_size, &story.writes[0]);
    let old = store.image_of(old_size, &model);
    let old_model = model.clone();
    model.retain(|block, _| *block < new_size.div_ceil(BLOCK));
    let touched = apply(&mut model, new_size, &story.writes[1]);
    store.take_reads();
    store.take_writes();
    let new = store.build(new_size, Some(old), &model, touched.iter().copied()).expect("builds");
    Written { store, images: [old, new], models: [old_model, model], touched }
}

fn model_diff(old: &Model, new: &Model, within: std::ops::Range<u64>) -> Vec<BlockDiff> {
    let keys: BTreeSet<u64> = old.keys().chain(new.keys()).copied().collect();
    let at = |model: &Model, block| model.get(&block).copied().unwrap_or(Digest::HOLE);
    keys.range(within)
        .map(|block| BlockDiff { block: *block, old: at(old, *block), new: at(new, *block) })
        .filter(|diff| diff.old != diff.new)
        .collect()
}

fn range_in(size: u64, (from, len): (u64, u64)) -> ByteRange {
    let from = scale(from, size);
    ByteRange::between(from, from + scale(len, size) + len % 3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn building_from_a_parent_is_canonical_and_touches_paths_only(story in story()) {
        let Written { store, images: [old, new], models: [_, model], touched } = write(&story);
        let (reads, writes) = (store.take_reads(), store.take_writes());

        // Another way to the same content gives the same root.
        let elsewhere = NodeStore::default();
        prop_assert_eq!(elsewhere.image_of(new.size(), &model), new);

        // Reads: each path once, of the parent's nodes above changed leaves; and the way to the new
        // end if the disk has shrunk, down to the last leaf itself.
        let mut paths = touched.clone();
        let shrunk = new.blocks() < old.blocks();
        if shrunk {
            paths.insert(new.leaves() - 1);
        }
        let extra = usize::from(shrunk) * usize::from(1 + old.depth() - new.depth().min(old.depth()));
        prop_assert!(reads.len() <= path_nodes(new, &paths) + extra);
        let distinct: HashSet<_> = reads.iter().collect();
        prop_assert!(distinct.is_subset(&store.nodes_of(old).iter().collect()));

        // Writes: what is new and no more, children first.
        let new_nodes = store.nodes_of(new);
        let old_nodes = store.nodes_of(old);
        let mut written = HashSet::new();
        for digest in &writes {
            prop_assert!(new_nodes.contains(digest));
            written.insert(*digest);
        }
        prop_assert!(new_nodes.difference(&old_nodes).all(|digest| written.contains(digest)));
        prop_assert!(writes.len() <= path_nodes(new, &paths) + paths.len() + usize::from(new.depth() - new.depth().min(old.depth())));
        if let Some(last) = writes.last() {
            prop_assert_eq!(*last, new.root());
        }
    }

    #[test]
    fn every_prefix_of_what_goes_to_the_sink_is_closed(story in story()) {
        let Written { store, images: [old, new], .. } = write(&story);
        let mut have = store.nodes_of(old);
        let leaf_level: HashSet<Digest> = leaves(new, &store, new.bytes()).map(|leaf| leaf.expect("reads").digest).collect();
        for digest in store.take_writes() {
            if !leaf_level.contains(&digest) {
                let node = store.read_node(digest).expect("stored");
                prop_assert!(node.iter().all(|(_, child)| have.contains(&child)));
            }
            have.insert(digest);
        }
    }

    #[test]
    fn setting_more_leaves_than_changed_changes_nothing(story in story(), more in prop::collection::btree_set(any::<u64>(), 0..20)) {
        let Written { store, images: [old, new], models: [_, model], touched } = write(&story);
        let mut touched = touched;
        touched.extend(more.iter().map(|leaf| leaf % new.leaves()));
        touched.extend(model.keys().map(|block| block >> 8));
        prop_assert_eq!(store.build(new.size(), Some(old), &model, touched.iter().copied()), Ok(new));
        store.take_writes();
        prop_assert_eq!(store.build(new.size(), Some(new), &model, touched), Ok(new));
        prop_assert_eq!(store.take_writes(), []);
        store.take_reads();
        prop_assert_eq!(store.build(new.size(), Some(new), &model, []), Ok(new));
        prop_assert_eq!(store.take_reads(), []);
    }

    #[test]
    fn leaves_and_blocks_are_the_model_s(story in story(), part in any::<(u64, u64)>()) {
        let Written { store, images: [_, image], models: [_, model], .. } = write(&story);
        for range in [image.bytes(), range_in(image.size(), part)] {
            let within = image.block_range(range);
            let want: Vec<_> = model.range(within.clone()).map(|(block, digest)| (*block, *digest)).collect();
            let got: Result<Vec<_>, _> = blocks(image, &store, range).collect();
            prop_assert_eq!(got, Ok(want));

            let within = image.leaf_range(range);
            let want: BTreeMap<u64, Node> = model.keys().map(|block| block >> 8).filter(|leaf| within.contains(leaf)).map(|leaf| (leaf, leaf_of(&model, leaf))).collect();
            store.take_reads();
            let got: Vec<_> = leaves(image, &store, range).collect::<Result<_, _>>().expect("reads");
            prop_assert!(got.iter().all(|leaf| leaf.digest == HASHER.node(&leaf.node.encode())));
            prop_assert!(got.is_sorted_by(|a, b| a.index < b.index));
            // One read a leaf, one for each node above; and the path to where the range begins, and
            // the one to where it ends.
            let paths: BTreeSet<u64> = want.keys().copied().collect();
            prop_assert!(store.take_reads().len() <= paths.len() + path_nodes(image, &paths) + 2 * usize::from(image.depth() - 1));
            prop_assert_eq!(got.into_iter().map(|leaf| (leaf.index, (*leaf.node).clone())).collect::<BTreeMap<_, _>>(), want);
        }
    }

    #[test]
    fn a_cursor_finds_what_the_model_has(story in story(), at in prop::collection::vec(any::<u64>(), 1..30), sorted in any::<bool>()) {
        let Written { store, images: [_, image], models: [_, model], .. } = write(&story);
        let mut at = at;
        if sorted {
            at.sort_unstable();
        }
        let mut cursor = Cursor::new(image, &store);
        let near = model.keys().flat_map(|block| [block.saturating_sub(300), *block, block + 1]).collect::<Vec<_>>();
        let scaled = at.iter().map(|at| range_in(image.size(), (*at, 0)).offset() / BLOCK);
        for block in scaled.chain(near).chain([image.blocks(), u64::MAX]) {
            let leaf = block >> 8;
            let want = model.get(&block).copied().unwrap_or(Digest::HOLE);
            prop_assert_eq!(cursor.block(block), Ok(want));
            let want = Some(leaf_of(&model, leaf % (1 << 50))).filter(|node| !node.is_empty());
            let got = cursor.leaf(leaf).expect("reads");
            prop_assert!(got.iter().all(|found| found.index == leaf));
            prop_assert_eq!(got.map(|leaf| (*leaf.node).clone()), want);
            let want = model.range(leaf << 8..).next().map(|(block, _)| block >> 8);
            let got = cursor.next_leaf(leaf).expect("reads");
            prop_assert_eq!(got.map(|leaf| leaf.index), want);
            let before = leaf % (1 << 50);
            let want = model.range(..before << 8).next_back().map(|(block, _)| block >> 8);
            let got = cursor.last_leaf(before).expect("reads");
            prop_assert_eq!(got.map(|leaf| leaf.index), want);
        }
    }

    #[test]
    fn diff_is_the_model_s_and_costs_the_difference(story in story(), part in any::<(u64, u64)>(), swap in any::<bool>()) {
        let Written { store, images: [mut old, mut new], models: [mut old_model, mut new_model], .. } = write(&story);
        if swap {
            std::mem::swap(&mut old, &mut new);
            std::mem::swap(&mut old_model, &mut new_model);
        }
        let shared: HashSet<Digest> = store.nodes_of(old).intersection(&store.nodes_of(new)).copied().collect();
        for range in [new.bytes(), range_in(new.size(), part)] {
            store.take_reads();
            let got: Result<Vec<_>, _> = diff(Some(old), new, &store, range).collect();
            let want = model_diff(&old_model, &new_model, new.block_range(range));
            prop_assert_eq!(got, Ok(want.clone()));

            let reads = store.take_reads();
            if old.size() == new.size() {
                let changed: BTreeSet<u64> = want.iter().map(BlockDiff::leaf).collect();
                // Within a node, differences before or after the range are not known in advance.
                let edges = if range == new.bytes() { 0 } else { 2 * usize::from(new.depth()) };
                let nodes = changed.len() + path_nodes(new, &changed) + edges;
                prop_assert!(reads.len() <= 2 * nodes);
            }
        }
        store.take_reads();
        let from_nothing: Result<Vec<_>, _> = diff(None, new, &store, new.bytes()).collect();
        prop_assert_eq!(from_nothing, Ok(model_diff(&Model::new(), &new_model, 0..u64::MAX)));
        if old == new {
            prop_assert!(!shared.is_empty() || new.root().is_hole());
            store.take_reads();
            prop_assert_eq!(diff(Some(old), new, &store, new.bytes()).count(), 0);
            prop_assert_eq!(store.take_reads(), []);
        }
    }

    #[test]
    fn marking_sees_every_digest_once_it_must(story in story()) {
        let Written { store, images: [old, new], models: [old_model, new_model], .. } = write(&story);
        let all = |images: &[(Image, &Model)]| {
            let mut all = HashSet::new();
            for (image, model) in images {
                all.extend(store.nodes_of(*image));
                all.extend(model.values());
            }
            all
        };
        let mut marks = Marks::default();
        visit(old, &store, &mut marks).expect("reads");
        prop_assert_eq!(&marks.seen, &all(&[(old, &old_model)]));

        // Each node is entered, and so read, once, however many images and places share it.
        store.take_reads();
        let mut twice = marks.clone();
        visit(new, &store, &mut twice).expect("reads");
        visit(old, &store, &mut twice).expect("reads");
        prop_assert_eq!(&twice.seen, &all(&[(old, &old_model), (new, &new_model)]));
        let fresh = store.nodes_of(new).difference(&store.nodes_of(old)).count();
        prop_assert_eq!(store.take_reads().len(), fresh);

        // What is equal at the same place is passed over, and nothing is missed.
        let mut relative = marks.clone();
        relative.asked = 0;
        visit_new(Some(old), new, &store, &mut relative).expect("reads");
        prop_assert_eq!(&relative.seen, &twice.seen);
        if old.size() == new.size() {
            let changed = model_diff(&old_model, &new_model, 0..u64::MAX);
            let leaves: BTreeSet<u64> = changed.iter().map(BlockDiff::leaf).collect();
            prop_assert!(relative.asked <= changed.len() + leaves.len() + path_nodes(new, &leaves));
        }
        visit_new(Some(new), new, &store, &mut Refuse).expect("nothing to ask");
    }

    #[test]
    fn copying_what_is_missing_makes_a_whole_image(story in story()) {
        let Written { store, images: [old, new], models: [old_model, new_model], .. } = write(&story);
        let there = std::cell::RefCell::new(HashSet::<Digest>::new());
        for (image, model) in [(old, &old_model), (new, &new_model)] {
            let before = there.borrow().clone();
            store.take_reads();
            let mut copied = HashSet::new();
            for item in missing(image, &store, |digest| Ok(there.borrow().contains(&digest))) {
                let digest = match item.expect("reads") {
                    MissingItem::Block(digest) => digest,
                    MissingItem::Node(digest, node) => {
                        prop_assert!(node.iter().all(|(_, child)| there.borrow().contains(&child)));
                        prop_assert_eq!(HASHER.node(&node.encode()), digest);
                        digest
                    }
                };
                prop_assert!(copied.insert(digest), "copied twice");
                there.borrow_mut().insert(digest);
            }
            let mut want: HashSet<Digest> = store.nodes_of(image);
            want.extend(model.values());
            prop_assert!(want.iter().all(|digest| there.borrow().contains(digest)));
            prop_assert!(copied.is_disjoint(&before));
            let fresh = store.nodes_of(image).difference(&before).count();
            prop_assert_eq!(store.take_reads().len(), fresh);
        }
    }
}

/// Remembers what it has seen.
#[derive(Clone, Default)]
struct Marks {
    seen: HashSet<Digest>,
    asked: usize,
}

impl Visitor<NoNode> for Marks {
    fn enter_node(&mut self, node: Digest) -> Result<bool, NoNode> {
        self.asked += 1;
        Ok(self.seen.insert(node))
    }

    fn block(&mut self, block: Digest) -> Result<(), NoNode> {
        self.asked += 1;
        self.seen.insert(block);
        Ok(())
    }
}

/// Fails when it is shown anything.
struct Refuse;

impl Visitor<NoNode> for Refuse {
    fn enter_node(&mut self, node: Digest) -> Result<bool, NoNode> {
        Err(NoNode(node))
    }

    fn block(&mut self, block: Digest) -> Result<(), NoNode> {
        Err(NoNode(block))
    }
}

fn model(blocks: &[u64]) -> Model {
    blocks.iter().map(|block| (*block, digest(*block))).collect()
}

#[test]
fn misuse_of_the_builder_is_refused() {
    let store = NodeStore::default();
    let size = 2 * LEAF_SPAN + BLOCK;
    let build =
        |size, leaves: &[u64]| store.build(size, None, &model(&[0, 256, 512]), leaves.to_vec());
    assert!(build(size, &[0, 1, 2]).is_ok());
    assert_eq!(build(size, &[1, 1]), Err(Error::OutOfOrder { index: 1, next: 2 }));
    assert_eq!(build(size, &[1, 0]), Err(Error::OutOfOrder { index: 0, next: 2 }));
    assert_eq!(build(size, &[3]), Err(Error::BeyondEnd { block: 768, blocks: 513 }));
    assert!(matches!(build(size, &[1 << 40]), Err(Error::BeyondEnd { .. })));
    assert!(matches!(build(100, &[]), Err(Error::Size(_))));
    let beyond = store.build(size, None, &model(&[512, 513]), [2]);
    assert_eq!(beyond, Err(Error::BeyondEnd { block: 513, blocks: 513 }));
}

#[test]
fn an_empty_disk_of_any_size_costs_nothing() {
    let store = NodeStore::default();
    for size in [512, LEAF_SPAN + 512, MAX_DISK_SIZE] {
        let image = store.build(size, None, &Model::new(), [0]).expect("builds");
        assert_eq!(image.root(), Digest::HOLE);
        assert_eq!(leaves(image, &store, image.bytes()).count(), 0);
        assert_eq!(missing(image, &store, |_| Ok(false)).count(), 0);
        let parent = Some(store.image_of(size, &model(&[0])));
        let cleared = store.build(size, parent, &Model::new(), [0]).expect("builds");
        assert_eq!(cleared, image);
    }
    assert_eq!(store.take_reads().len(), 1 + 3, "the parents' paths above their leaves");
}

#[test]
fn a_missing_node_is_reported_once_and_ends_the_iteration() {
    let store = NodeStore::default();
    let image = store.image_of(4 << 30, &model(&[0, 1, 256, 512]));
    let lost = leaves(image, &store, image.bytes()).nth(1).expect("three").expect("reads").digest;
    store.remove(lost);

    let error = Err(Error::Store(NoNode(lost)));
    let mut found = leaves(image, &store, image.bytes());
    assert_eq!(found.next().map(|leaf| leaf.map(|leaf| leaf.index)), Some(Ok(0)));
    assert_eq!(found.next().map(|leaf| leaf.map(|leaf| leaf.index)), Some(error.clone()));
    assert_eq!(found.next(), None);
    let found: Vec<_> = blocks(image, &store, image.bytes()).collect();
    assert_eq!(found.len(), 3);
    assert_eq!(found[2].as_ref().err(), error.as_ref().err());
    let found: Vec<_> = diff(None, image, &store, image.bytes()).collect();
    assert_eq!(found.len(), 3);
    assert_eq!(found[2].as_ref().err(), error.as_ref().err());
    let found: Vec<_> = missing(image, &store, |_| Ok(false)).collect();
    assert_eq!(found.len(), 4, "two blocks, their leaf, the error");
    assert_eq!(found[3].as_ref().err(), error.as_ref().err());
    assert_eq!(visit(image, &store, &mut Marks::default()).err(), error.err());
}

/// A vault cannot be trusted to hold a tree that fits the disk's size.
#[test]
fn nodes_that_do_not_fit_their_place_are_damaged() {
    let store = NodeStore::default();
    let tall = store.image_of(4 << 30, &model(&[0, 300]));
    for image in [
        Image::new(LEAF_SPAN + 20 * BLOCK, tall.root()),
        Image::new(LEAF_SPAN, store.image_of(LEAF_SPAN, &model(&[255])).root()),
        Image::new(MAX_DISK_SIZE, {
            store.insert(digest(1), Node::empty());
            digest(1)
        }),
    ] {
        let whole = image.expect("a size");
        let size = if whole.size() == MAX_DISK_SIZE { whole.size() } else { whole.size() - BLOCK };
        let image = Image::new(size, whole.root()).expect("a size");
        let errors = [
            leaves(image, &store, image.bytes()).find_map(Result::err),
            blocks(image, &store, image.bytes()).find_map(Result::err),
            diff(None, image, &store, image.bytes()).find_map(Result::err),
            missing(image, &store, |_| Ok(false)).find_map(Result::err),
            visit(image, &store, &mut Marks::default()).err(),
        ];
        for error in errors {
            let error = error.expect("damage is found");
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("does not fit its place"), "{error}");
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the store is full")]
struct Full;

impl Coded for Full {
    fn code(&self) -> &'static strongroom_base::Code {
        &strongroom_base::codes::STORE_FULL
    }

    fn params(&self) -> strongroom_base::Params {
        strongroom_base::Params::none()
    }
}

#[test]
fn errors_name_their_place_in_the_catalog() {
    let damaged = Error::<Full>::Damaged { digest: digest(0), level: 2, index: 3, size: 512 };
    assert_eq!(damaged.code().name, "store.corrupt");
    assert_eq!(Error::Store(Full).code().name, "store.full");
    assert_eq!(Error::Store(Full).to_string(), "the store is full");
    assert_eq!(Error::<Full>::OutOfOrder { index: 0, next: 1 }.code().name, "bug");
    let size = Image::new(7, Digest::HOLE).map_err(Error::<Full>::from).expect_err("refused");
    assert_eq!(size.code().name, "disk.format");
}

/// These digests are part of the format: a change would make every vault unreadable.
#[test]
fn roots_never_change() {
    let store = NodeStore::default();
    let roots: Vec<String> = [512, LEAF_SPAN + 512, (4 << 30) + 512, MAX_DISK_SIZE]
        .into_iter()
        .map(|size| {
            let last = size.div_ceil(BLOCK) - 1;
            store.image_of(size, &model(&[0, last / 2, last])).root().to_string()
        })
        .collect();
    assert_eq!(
        roots,
        [
            "041eb6a1ec91fdb6e09118750dddb9101b397d909ae05bcff42afc4c0ae0901e",
            "712580d6359629d7316ca659ff48e129aeca6382e2fd21742ae1ea750de83270",
            "4c590c34c998c9bcfd23f9eb2ae58591e7afe1e012e908b2eb58af0d147cbc90",
            "bf9e30920b0f8efdecd4feb73c7566d2a18fab9c09a00505c9ce833b9955e005",
        ]
    );
}
