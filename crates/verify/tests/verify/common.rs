//! A small vault, written as a backup would, and ways to damage it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use strongroom_base::{BLOCK_SIZE, Cancel, Digest, PointId, SystemEntropy};
use strongroom_format::{Conditional, DiskRecord, Manifest, codec::Encoder, pack::RecordKind};
use strongroom_image::{Builder, Image, Node};
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_objects::{Key, MAX_OBJECT_LEN, Memory, Mirror, ObjectStore};
use strongroom_testing::disk_record;
pub(crate) use strongroom_testing::{dump, flip, keys};
use strongroom_vault::{Vault, VaultError, VaultOptions, Writer};
use strongroom_verify::{VerifyOptions, VerifyReport, verify};

pub(crate) const DISK: u64 = 40 << 20;

/// Blocks by their index.
pub(crate) type Content = BTreeMap<u64, Vec<u8>>;

/// A block of noise.
pub(crate) fn noise(seed: u64) -> Vec<u8> {
    strongroom_testing::noise(seed, BLOCK_SIZE)
}

/// Noise with a small change: worth a delta.
pub(crate) fn touched(seed: u64) -> Vec<u8> {
    let mut bytes = noise(seed);
    bytes[1000..1008].copy_from_slice(b"changed!");
    bytes
}

pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) points: Vec<PointId>,
}

pub(crate) fn options(dir: &Path) -> VaultOptions {
    VaultOptions {
        cache_dir: Some(dir.join("cache")),
        uploaders: 0,
        pack_size: 1 << 20,
        beats: false,
        ..VaultOptions::default()
    }
}

impl Place {
    /// A vault with two points of `web01` and one of `db01`, which share a block.
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        let dir = tempfile::tempdir().expect("temp");
        generate_key_file(&dir.path().join("key"), &SystemEntropy).expect("key");
        let vault = Vault::create(
            Arc::clone(&store),
            &KeySource::File(dir.path().join("key")),
            "test",
            Conditional::Honoured,
            vec![],
            options(dir.path()),
        )
        .expect("vault");
        let mut place = Self { dir, store, vault: Arc::new(vault), points: vec![] };
        // Two leaves; more than one data pack.
        let mut content: Content = (0..24).map(|n| (n * 20, noise(n))).collect();
        content.insert(500, b"the quick brown fox ".repeat(4000)[..BLOCK_SIZE].to_vec());
        place.backup("web01", &content);
        for n in [1, 2, 3] {
            content.insert(n * 20, touched(n));
        }
        place.backup("web01", &content);
        place.backup("db01", &Content::from([(7, noise(5)), (8, noise(100))]));
        place
    }

    pub(crate) fn key(&self) -> KeySource {
        KeySource::File(self.dir.path().join("key"))
    }

    pub(crate) fn options(&self) -> VaultOptions {
        options(self.dir.path())
    }

    /// Opens the vault as another process would, with another cache if `fresh`.
    pub(crate) fn open(&self, fresh: bool) -> Arc<Vault> {
        let mut options = self.options();
        if fresh {
            options.cache_dir = None;
        }
        Arc::new(Vault::open(Arc::clone(&self.store), &self.key(), options).expect("opens"))
    }

    pub(crate) fn backup(&mut self, item: &str, content: &Content) {
        let point = backup(&self.vault, item, content, self.points.len()).expect("backs up");
        self.points.push(point);
    }

    pub(crate) fn verify(&self, options: &VerifyOptions) -> VerifyReport {
        verify(&self.vault, options, &|_| {}, &Cancel::new()).expect("verifies")
    }

    pub(crate) fn full(&self) -> VerifyReport {
        self.verify(&VerifyOptions::default())
    }

    pub(crate) fn repair(&self) -> VerifyReport {
        self.verify(&VerifyOptions { repair: true, ..VerifyOptions::default() })
    }
}

/// A point with this content, which is the item's `nth`.
pub(crate) fn backup(
    vault: &Arc<Vault>,
    item: &str,
    content: &Content,
    nth: usize,
) -> Result<PointId, VaultError> {
    let writer = Writer::begin(vault, item, "here")?;
    let mut leaves: BTreeMap<u64, Node> = BTreeMap::new();
    let mut encoder = Encoder::new();
    for (block, plain) in content {
        let digest = vault.hasher().block(plain);
        let slot = u8::try_from(block % 256).expect("small");
        leaves.entry(block / 256).or_insert_with(Node::empty).set(slot, digest);
        if !writer.claim(&digest)? {
            continue;
        }
        let seed = block / 20;
        let base = (*plain == touched(seed)).then(|| noise(seed));
        let (kind, base, payload) = if let Some(base) = &base {
            let delta = encoder.delta(plain, base, BLOCK_SIZE / 2).expect("small");
            (RecordKind::BlockDelta, Some(vault.hasher().block(base)), delta)
        } else {
            let (encoding, payload) = encoder.full(plain);
            (RecordKind::of_block(encoding), None, payload)
        };
        writer.store_block(kind, digest, BLOCK_SIZE, base, payload)?;
    }
    let sink = |digest: Digest, encoded: &[u8]| writer.store_node(digest, encoded);
    let mut builder = Builder::new(vault.hasher(), DISK, None, &**vault, sink).expect("a builder");
    let of_vault = |error| match error {
        strongroom_image::Error::Store(error) => error,
        other => panic!("{other}"),
    };
    for (index, leaf) in &leaves {
        builder.set_leaf(*index, leaf).map_err(of_vault)?;
    }
    let image = builder.finish().map_err(of_vault)?;
    let point = writer.point().expect("a point");
    writer.publish(&manifest(point, item, &image, nth))?;
    Ok(point)
}

/// What a point holds.
pub(crate) fn content(vault: &Vault, point: &Manifest) -> Content {
    let disk = &point.disks[0];
    let image = Image::new(disk.size_bytes, disk.root).expect("an image");
    let mut reader = vault.reader();
    let mut plain = vec![0; BLOCK_SIZE];
    let blocks = strongroom_image::blocks(image, vault, image.bytes());
    let mut read = |block: Result<(u64, Digest), _>| {
        let (index, digest) = block.expect("a tree");
        reader.block(&digest, &mut plain).expect("a block");
        (index, plain.clone())
    };
    blocks.map(&mut read).collect()
}

pub(crate) fn manifest(point: PointId, item: &str, image: &Image, nth: usize) -> Manifest {
    let seconds = 1_700_000_000 + i64::try_from(nth).expect("few");
    let time = Timestamp::from_second(seconds).expect("a time");
    let disk = DiskRecord { stored_bytes: 1000, ..disk_record("vda", image) };
    strongroom_testing::manifest(point, item, time, vec![disk])
}

pub(crate) fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(Memory::default())
}

/// A mirror and its copies.
pub(crate) fn mirror() -> (Arc<dyn ObjectStore>, [Arc<dyn ObjectStore>; 2]) {
    let copies = [memory(), memory()];
    (Arc::new(Mirror::new(copies.to_vec(), vec![])), copies)
}

pub(crate) fn get(store: &dyn ObjectStore, key: &Key) -> Vec<u8> {
    store.get(key, MAX_OBJECT_LEN).expect("reads")
}

/// The names of what a report calls damaged.
pub(crate) fn names(report: &VerifyReport) -> Vec<String> {
    report.damaged.iter().map(|damaged| damaged.object.clone()).collect()
}

pub(crate) fn cache_of(place: &Place) -> PathBuf {
    place.dir.path().join("cache").join(place.vault.config().vault_id.to_string())
}
