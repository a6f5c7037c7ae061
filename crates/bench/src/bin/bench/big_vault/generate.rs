//! Makes the vault.
//!
//! Everything but the data packs is what the vault crate itself writes: keys, a writer for each point that
//! builds the image from its parent, packs of tree nodes, index objects, manifests. The data packs come
//! last and are [`hollow`]. The index is thrown away then: rebuilding it is measured.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use strongroom_base::{BLOCK_SIZE_U64, Digest, PointId, SystemEntropy};
use strongroom_bench::{Failure, Outcome, rng::Rng};
use strongroom_format::{Conditional, DiskRecord, Manifest};
use strongroom_image::{Builder, Image, Node};
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_objects::{Folder, ObjectStore};
use strongroom_testing::disk_record;
use strongroom_vault::{Vault, VaultOptions, Writer};

use super::{churn::Disk, failed, hollow, scale::Scale};

/// The item that the points are of.
pub(crate) const ITEM: &str = "big";
const HOST: &str = "big-vault";

/// Where the vault lies.
pub(crate) struct Place {
    folder: PathBuf,
    pub(crate) vault: PathBuf,
    pub(crate) key: PathBuf,
    /// The index cache of the program that is measured.
    pub(crate) cache: PathBuf,
}

impl Place {
    /// An empty place; what was there before is removed.
    pub(crate) fn new(folder: &Path) -> Outcome<Self> {
        let place = Self {
            folder: folder.to_owned(),
            vault: folder.join("vault"),
            key: folder.join("key"),
            cache: folder.join("cache"),
        };
        place.remove()?;
        fs::create_dir_all(folder).map_err(Failure::at(folder))?;
        Ok(place)
    }

    pub(crate) fn remove(&self) -> Outcome<()> {
        remove(&self.folder)
    }

    /// Removes index objects and cache.
    pub(crate) fn forget_index(&self) -> Outcome<()> {
        remove(&self.cache)?;
        remove(&self.vault.join("index"))
    }

    fn store(&self) -> Outcome<Arc<dyn ObjectStore>> {
        Ok(Arc::new(Folder::create(&self.vault, Arc::new(SystemEntropy)).map_err(failed)?))
    }

    fn options(&self) -> VaultOptions {
        // Nothing else writes, and packs of nodes are put as they are full.
        let cache_dir = Some(self.cache.clone());
        VaultOptions { cache_dir, uploaders: 0, beats: false, ..VaultOptions::default() }
    }

    /// Opens the vault with the cache of the program.
    pub(crate) fn open(&self) -> Outcome<Arc<Vault>> {
        let key = KeySource::File(self.key.clone());
        Ok(Arc::new(Vault::open(self.store()?, &key, self.options()).map_err(failed)?))
    }

    fn create(&self) -> Outcome<Arc<Vault>> {
        generate_key_file(&self.key, &SystemEntropy).map_err(failed)?;
        let key = KeySource::File(self.key.clone());
        let (store, options) = (self.store()?, self.options());
        Vault::create(store, &key, "bench", Conditional::Honoured, vec![], options)
            .map(Arc::new)
            .map_err(failed)
    }

    /// How many packs there are, and how long they are together.
    pub(crate) fn packs(&self) -> Outcome<(u64, u64)> {
        let mut sum = (0, 0);
        files(&self.vault.join("packs"), &mut |_, metadata| {
            sum = (sum.0 + 1, sum.1 + metadata.len());
            Ok(())
        })?;
        Ok(sum)
    }

    /// What everything takes on the disk.
    pub(crate) fn disk_bytes(&self) -> Outcome<u64> {
        let mut sum = 0;
        files(&self.folder, &mut |_, metadata| {
            sum += metadata.blocks() * 512;
            Ok(())
        })?;
        Ok(sum)
    }
}

fn remove(folder: &Path) -> Outcome<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::at(folder)(error))
        }
        _ => Ok(()),
    }
}

/// Visits all files below a folder.
pub(crate) fn files(
    folder: &Path,
    visit: &mut dyn FnMut(&Path, &fs::Metadata) -> Outcome<()>,
) -> Outcome<()> {
    for entry in fs::read_dir(folder).map_err(Failure::at(folder))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            files(&entry.path(), visit)?;
        } else {
            visit(&entry.path(), &metadata)?;
        }
    }
    Ok(())
}

/// What was made.
pub(crate) struct Made {
    /// Different tree nodes.
    pub(crate) nodes: u64,
}

/// Makes the vault with all its points and packs.
pub(crate) fn generate(place: &Place, scale: &Scale) -> Outcome<Made> {
    let vault = place.create()?;
    let mut disk = Disk::new(scale);
    let mut parent: Option<Image> = None;
    let mut made = Made { nodes: 0 };
    for point in 0..scale.points {
        let leaves = match parent {
            None => (0..scale.blocks.div_ceil(256)).collect(),
            Some(_) => disk.next(),
        };
        let writer = Writer::begin(&vault, ITEM, HOST).map_err(failed)?;
        let image = build(&vault, &writer, scale, &disk, parent, &leaves, &mut made)?;
        let id = writer.point().ok_or_else(|| Failure::new("a writer without a point"))?;
        writer.publish(&manifest(id, scale, &image, point)?).map_err(failed)?;
        parent = Some(image);
    }
    let mut rng = Rng::new(8);
    for point in 0..scale.points {
        hollow::put(&vault, &place.vault, Disk::fresh(scale, point), &mut rng)?;
    }
    Ok(made)
}

fn build(
    vault: &Arc<Vault>,
    writer: &Writer,
    scale: &Scale,
    disk: &Disk,
    parent: Option<Image>,
    leaves: &[u64],
    made: &mut Made,
) -> Outcome<Image> {
    let sink = |digest: Digest, encoded: &[u8]| {
        made.nodes += 1;
        writer.store_node(digest, encoded)
    };
    let mut builder =
        Builder::new(vault.hasher(), scale.disk_bytes, parent, &**vault, sink).map_err(failed)?;
    for leaf in leaves {
        let mut node = Node::empty();
        for (slot, content) in (0..=u8::MAX).zip(disk.leaf(*leaf)) {
            node.set(slot, hollow::digest(*content));
        }
        builder.set_leaf(*leaf, &node).map_err(failed)?;
    }
    builder.finish().map_err(failed)
}

/// A point a day.
fn manifest(id: PointId, scale: &Scale, image: &Image, point: u64) -> Outcome<Manifest> {
    let time =
        Timestamp::from_second(1_700_000_000 + i64::try_from(point)? * 86_400).map_err(failed)?;
    let changed = if point == 0 { scale.blocks } else { scale.changed };
    let disk = DiskRecord {
        changed_bytes: changed * BLOCK_SIZE_U64,
        read_bytes: changed * BLOCK_SIZE_U64,
        ..disk_record("root", image)
    };
    Ok(strongroom_testing::manifest(id, ITEM, time, vec![disk]))
}

/// Deletes the oldest points but the first, as schemes do that keep one of each year. The first one
/// keeps the packs of the first backup whole: what is left of a pack that reclaim compacts would have to be
/// real.
pub(crate) fn delete(place: &Place, scale: &Scale) -> Outcome<()> {
    let vault = place.open()?;
    let points = vault.points(Some(ITEM)).map_err(failed)?;
    for point in points.iter().skip(1).take(usize::try_from(scale.delete)?) {
        vault.delete_point(ITEM, point.id, HOST).map_err(failed)?;
    }
    Ok(())
}
