//! A vault with many points and packs: as many backups of small disks, made over a short way.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use strongroom_base::BLOCK_SIZE;
use strongroom_bench::{Failure, Outcome, rng::Rng};
use strongroom_format::pack::RecordKind;
use strongroom_image::{Builder, Node};
use strongroom_keys::KeySource;
use strongroom_objects::{Options, open};
use strongroom_testing::{disk_record, manifest};
use strongroom_vault::{Vault, VaultOptions, Writer};

use crate::work::Shop;

/// Items that the points are of.
const ITEMS: usize = 20;

/// Backups at once.
const THREADS: usize = 8;

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

/// Makes so many points, each with a pack of data and a pack of nodes. Gives how many packs there are.
pub(crate) fn fill(shop: &Shop<'_>, points: usize) -> Outcome<usize> {
    let store = open(shop.near_url(), &Options::default()).map_err(failed)?;
    let options = VaultOptions { beats: false, ..VaultOptions::default() };
    let key = KeySource::File(shop.key());
    let vault = Arc::new(Vault::open(store, &key, options).map_err(failed)?);
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= points {
                        break;
                    }
                    if let Err(error) = add(&vault, number) {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        next.store(points, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut packs = 0;
    let mut count = |_| {
        packs += 1;
        std::ops::ControlFlow::Continue(())
    };
    vault.store().list("packs/", &mut count).map_err(failed)?;
    Ok(packs)
}

/// One point of a disk of two blocks, one of which is its own.
fn add(vault: &Arc<Vault>, number: usize) -> Outcome<()> {
    let item = format!("item-{}", number % ITEMS);
    let writer = Writer::begin(vault, &item, "bench").map_err(failed)?;
    let mut node = Node::empty();
    for (slot, seed) in [(0, number % ITEMS), (1, number + ITEMS)] {
        let mut block = vec![0; BLOCK_SIZE];
        Rng::new(u64::try_from(seed)? + 77).fill(&mut block);
        let digest = vault.hasher().block(&block);
        if writer.claim(&digest).map_err(failed)? {
            let stored = RecordKind::BlockStored;
            writer.store_block(stored, digest, BLOCK_SIZE, None, &block).map_err(failed)?;
        }
        node.set(slot, digest);
    }
    let sink = |digest, encoded: &[u8]| writer.store_node(digest, encoded);
    let size = u64::try_from(2 * BLOCK_SIZE)?;
    let mut builder = Builder::new(vault.hasher(), size, None, &**vault, sink).map_err(failed)?;
    builder.set_leaf(0, &node).map_err(failed)?;
    let image = builder.finish().map_err(failed)?;
    let id = writer.point().ok_or_else(|| Failure::new("a writer without a point"))?;
    let disks = vec![disk_record("root", &image)];
    let manifest = manifest(id, &item, vault.clock().now(), disks);
    writer.publish(&manifest).map_err(failed)
}
