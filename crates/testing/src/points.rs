//! Recovery points without a backup: their manifests, and vaults with many of them.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use jiff::Timestamp;
use strongroom_base::{BLOCK_SIZE, PointId};
use strongroom_format::{Consistency, DiskRecord, Manifest, SourceRecord, pack::RecordKind};
use strongroom_image::{Builder, Image, Node};
use strongroom_vault::{Vault, Writer};

use crate::noise;

/// The record of a disk with this content, of which nothing else is said.
#[must_use]
pub fn disk_record(name: &str, image: &Image) -> DiskRecord {
    DiskRecord {
        name: name.to_owned(),
        size_bytes: image.size(),
        root: image.root(),
        allocated_bytes: None,
        changed_bytes: 0,
        read_bytes: 0,
        deduplicated_bytes: 0,
        stored_bytes: 0,
        new_content: None,
        seconds: 0.0,
        source: SourceRecord {
            location: "nowhere".to_owned(),
            format: "raw".to_owned(),
            changes_from: "all".to_owned(),
            checkpoint: None,
        },
        skipped: Vec::new(),
        unexpected_blocks: 0,
        notes: Vec::new(),
    }
}

/// The manifest of a crash-consistent point with these disks, of which nothing else is said.
#[must_use]
pub fn manifest(id: PointId, item: &str, time: Timestamp, disks: Vec<DiskRecord>) -> Manifest {
    Manifest {
        format: Manifest::FORMAT,
        id,
        item: item.to_owned(),
        time,
        completed: time,
        consistency: Consistency::Crash,
        best_consistency: None,
        evidence: Vec::new(),
        host: "here".to_owned(),
        software: "test".to_owned(),
        parent: None,
        disks,
        excluded: Vec::new(),
        configuration: None,
        locked_until: None,
        suspicion: None,
        tags: BTreeMap::new(),
    }
}

/// Puts a point of `item` for each seed: each with one block of noise, so with packs and an index object of
/// its own, as small backups leave them.
///
/// # Panics
///
/// If the vault does not take a point.
pub fn put_points(vault: &Arc<Vault>, item: &str, seeds: Range<u64>) {
    for seed in seeds {
        let writer = Writer::begin(vault, item, "here").expect("a writer");
        let block = noise(seed, BLOCK_SIZE);
        let digest = vault.hasher().block(&block);
        assert!(writer.claim(&digest).expect("a claim"), "the block of seed {seed} is there");
        let stored = RecordKind::BlockStored;
        writer.store_block(stored, digest, BLOCK_SIZE, None, &block).expect("a block");
        let sink = |digest, encoded: &[u8]| writer.store_node(digest, encoded);
        let mut builder =
            Builder::new(vault.hasher(), 65536, None, &**vault, sink).expect("a tree");
        let mut node = Node::empty();
        node.set(0, digest);
        builder.set_leaf(0, &node).expect("a leaf");
        let image = builder.finish().expect("a tree");
        let id = writer.point().expect("a point");
        let disks = vec![disk_record("vda", &image)];
        writer.publish(&manifest(id, item, vault.clock().now(), disks)).expect("a point");
    }
}
