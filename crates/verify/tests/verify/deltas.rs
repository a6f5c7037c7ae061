//! Deltas over a long time: the same blocks are stored again and again, in full or against any base,
//! by writers side by side; points go, packs are compacted and merged. Whatever a point needs, it can
//! read.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use strongroom_base::{BLOCK_SIZE, Cancel, Digest, PointId, SplitMix64, SystemEntropy};
use strongroom_format::{Conditional, Manifest, codec::Encoder, pack::RecordKind};
use strongroom_image::{Builder, Node};
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_vault::{ReclaimOptions, Vault, VaultOptions, Writer, reclaim};
use strongroom_verify::{VerifyOptions, verify};

use crate::common::{manifest, memory, options};

const DISK: u64 = 1 << 20;
const FAMILIES: u64 = 3;
const VERSIONS: u64 = 5;

/// A version of a block: any two of a family are worth a delta.
fn plain(family: u64, version: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_SIZE];
    blake3::Hasher::new().update(&family.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let at = usize::try_from(version).expect("small") * 1000;
    bytes[at..at + 8].copy_from_slice(b"changed!");
    bytes
}

/// Which version of each family's block a point has.
type Content = BTreeMap<u64, u64>;

/// A backup that has not been published yet.
struct Running {
    writer: Writer,
    manifest: Manifest,
    content: Content,
}

struct World {
    _dir: tempfile::TempDir,
    vault: Arc<Vault>,
    dice: SplitMix64,
    points: Vec<(PointId, Content)>,
    deltas: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("temp");
        let key = dir.path().join("key");
        generate_key_file(&key, &SystemEntropy).expect("key");
        let vault = Vault::create(
            memory(),
            &KeySource::File(key),
            "test",
            Conditional::Honoured,
            vec![],
            VaultOptions { pack_size: 1 << 18, ..options(dir.path()) },
        );
        let vault = Arc::new(vault.expect("vault"));
        Self { _dir: dir, vault, dice: SplitMix64::new(seed), points: vec![], deltas: 0 }
    }

    /// Stores what a backup would, with any base that can be relied upon, but does not publish.
    fn begin(&mut self) -> Running {
        let vault = Arc::clone(&self.vault);
        let writer = Writer::begin(&vault, "web01", "here").expect("begins");
        let mut content = Content::new();
        let mut leaf = Node::empty();
        let mut encoder = Encoder::new();
        let mut reader = vault.reader();
        for family in 0..FAMILIES {
            if self.dice.below(4) == 0 {
                continue;
            }
            let version = self.dice.below(VERSIONS);
            let new = plain(family, version);
            let digest = vault.hasher().block(&new);
            leaf.set(u8::try_from(family).expect("small"), digest);
            content.insert(family, version);
            if !writer.claim(&digest).expect("asks") {
                continue;
            }
            let previous = vault.hasher().block(&plain(family, self.dice.below(VERSIONS)));
            let mut base = Vec::new();
            let found = writer.delta_base(&mut reader, &previous, &mut base).expect("looks");
            let (kind, base, payload) = if let Some(previous) = found.filter(|it| *it != digest) {
                self.deltas += 1;
                let delta = encoder.delta(&new, &base, BLOCK_SIZE / 2).expect("small");
                (RecordKind::BlockDelta, Some(previous), delta)
            } else {
                let (encoding, payload) = encoder.full(&new);
                (RecordKind::of_block(encoding), None, payload)
            };
            writer.store_block(kind, digest, BLOCK_SIZE, base, payload).expect("stores");
        }
        let sink = |digest: Digest, encoded: &[u8]| writer.store_node(digest, encoded);
        let mut builder =
            Builder::new(vault.hasher(), DISK, None, &*vault, sink).expect("a builder");
        builder.set_leaf(0, &leaf).expect("sets");
        let image = builder.finish().expect("finishes");
        let point = writer.point().expect("a point");
        let manifest = manifest(point, "web01", &image, self.points.len());
        Running { writer, manifest, content }
    }

    fn publish(&mut self, running: Running) {
        let Running { writer, manifest, content } = running;
        writer.publish(&manifest).expect("publishes");
        self.points.push((manifest.id, content));
    }

    fn delete_some(&mut self) {
        while !self.points.is_empty() && self.dice.below(3) > 0 {
            let which = self.dice.below(u64::try_from(self.points.len()).expect("few"));
            let (id, _) = self.points.remove(usize::try_from(which).expect("small"));
            self.vault.delete_point("web01", id, "here").expect("deletes");
        }
    }

    fn reclaim(&self) {
        // So that nearly every reclaim copies what is left of some packs into new ones.
        let options = ReclaimOptions {
            wait: Duration::ZERO,
            compact_below: 95,
            merge_below: 100,
            ..ReclaimOptions::default()
        };
        let report = reclaim(&self.vault, &options, &Cancel::new()).expect("reclaims");
        assert_eq!(report.waiting_for, Vec::<String>::new());
    }

    fn check(&self) {
        let mut reader = self.vault.reader();
        let mut found = vec![0; BLOCK_SIZE];
        for (id, content) in self.points.iter().filter(|(_, content)| !content.is_empty()) {
            let manifest = self.vault.point("web01", *id).expect("a manifest");
            let leaf = self.vault.node(manifest.disks[0].root).expect("a leaf");
            for (family, version) in content {
                let digest = leaf.get(u8::try_from(*family).expect("small"));
                reader.block(&digest, &mut found).expect("a block");
                assert!(found == plain(*family, *version), "another block");
            }
        }
    }
}

#[test]
fn whatever_the_bases_every_point_reads() {
    let mut deltas = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..25 {
            let first = world.begin();
            // Another writer beside it knows nothing of what the first stores.
            if world.dice.below(2) == 0 {
                let second = world.begin();
                world.publish(second);
            }
            world.publish(first);
            world.delete_some();
            if world.dice.below(2) == 0 {
                world.reclaim();
            }
            world.check();
        }
        let verified = verify(&world.vault, &VerifyOptions::default(), &|_| {}, &Cancel::new());
        assert_eq!(verified.expect("verifies").lost_blocks, 0, "seed {seed}");
        deltas += world.deltas;
    }
    assert!(deltas > 1000, "only {deltas} deltas");
}
