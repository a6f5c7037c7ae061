//! The oracle: what every recovery point must hold, and whether the vault still says so.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
};

use strongroom_base::{BLOCK_SIZE, Digest, PointId, lock};
use strongroom_format::Manifest;
use strongroom_image::{Image, blocks};
use strongroom_vault::{PointList, Vault, VaultError};

use crate::content::{Alphabet, Disk, Letter};

/// How far the making or the deletion of a point has come, as its actor knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not asked for.
    No,
    /// Asked for; whether it was done is open.
    Open,
    /// Reported as done.
    Done,
    /// Reported as impossible.
    Never,
}

/// What is known of a point.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) item: String,
    pub(crate) disks: Vec<(String, Disk)>,
    pub(crate) published: Stage,
    pub(crate) deleted: Stage,
}

/// What is known of all points, and the first thing that went wrong.
pub(crate) struct World {
    /// The digests of all letters.
    digests: Vec<Digest>,
    points: Mutex<BTreeMap<PointId, Truth>>,
    failure: Mutex<Option<String>>,
}

impl World {
    pub(crate) fn new(digests: Vec<Digest>) -> Self {
        Self { digests, points: Mutex::default(), failure: Mutex::default() }
    }

    /// The digest of a letter.
    pub(crate) fn digest(&self, letter: Letter) -> Digest {
        self.digests.get(usize::from(letter)).copied().unwrap_or(Digest::HOLE)
    }

    /// Notes that something went wrong; the first one counts.
    pub(crate) fn fail(&self, what: String) {
        lock(&self.failure).get_or_insert(what);
    }

    /// What went wrong first.
    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Notes a point that is about to be published.
    pub(crate) fn expect(&self, point: PointId, item: &str, disks: Vec<(String, Disk)>) {
        let item = item.to_owned();
        let truth = Truth { item, disks, published: Stage::Open, deleted: Stage::No };
        lock(&self.points).insert(point, truth);
    }

    /// Changes what is known of a point.
    pub(crate) fn update(&self, point: PointId, change: impl FnOnce(&mut Truth)) {
        if let Some(truth) = lock(&self.points).get_mut(&point) {
            change(truth);
        }
    }

    /// What is known of a point.
    pub(crate) fn truth(&self, point: PointId) -> Option<Truth> {
        lock(&self.points).get(&point).cloned()
    }

    /// How many points were reported as published.
    pub(crate) fn published(&self) -> u64 {
        let points = lock(&self.points);
        let published = points.values().filter(|truth| truth.published == Stage::Done);
        u64::try_from(published.count()).unwrap_or(u64::MAX)
    }

    /// Checks, while nothing else runs, that the vault shows the points that it must and no
    /// others, and that all of them can be restored. Those whose manifests `cut` names must be shown
    /// as damaged.
    pub(crate) fn check(&self, vault: &Vault, cut: &dyn Fn() -> HashSet<String>, when: &str) {
        let PointList { points: manifests, damaged } = match vault.list_points(None) {
            Ok(list) => list,
            Err(error) => return self.fail(format!("{when}: points: {}", chain(&error))),
        };
        let cut = cut();
        for damaged in damaged.iter().filter(|damaged| !cut.contains(&damaged.object)) {
            self.fail(format!("{when}: {}: {}", damaged.object, chain(&damaged.error)));
        }
        let mut good = HashSet::new();
        for manifest in &manifests {
            let point = manifest.id;
            match self.truth(point) {
                None => self.fail(format!("{when}: nobody made point {point}")),
                Some(truth) if truth.deleted == Stage::Done => {
                    self.fail(format!("{when}: deleted point {point} is back"));
                }
                Some(truth) if truth.published == Stage::Never => {
                    self.fail(format!(
                        "{when}: point {point} exists, but its backup learned that it never would"
                    ));
                }
                Some(truth) => {
                    if let Err(error) = self.restore(vault, manifest, &truth, &mut good) {
                        self.fail(format!("{when}: point {point} of {}: {error}", truth.item));
                    }
                }
            }
        }
        let mut visible: HashSet<PointId> = manifests.iter().map(|manifest| manifest.id).collect();
        visible.extend(damaged.iter().map(|damaged| damaged.point));
        for (point, truth) in &*lock(&self.points) {
            let must = truth.published == Stage::Done && truth.deleted == Stage::No;
            if must && !visible.contains(point) {
                self.fail(format!("{when}: point {point} of {} has vanished", truth.item));
            }
        }
    }

    /// Reads all disks of a point and compares them with what they must hold. Blocks in `good` have
    /// been read before.
    pub(crate) fn restore(
        &self,
        vault: &Vault,
        manifest: &Manifest,
        truth: &Truth,
        good: &mut HashSet<Digest>,
    ) -> Result<(), Wrong> {
        let alphabet = Alphabet::get();
        let mut reader = vault.reader();
        let mut plain = vec![0; BLOCK_SIZE];
        for (disk, (name, expected)) in manifest.disks.iter().zip(&truth.disks) {
            let wrong = |what: String| Wrong::Content(format!("disk {name}: {what}"));
            let image = Image::new(disk.size_bytes, disk.root);
            let image = image.map_err(|error| wrong(error.to_string()))?;
            let mut expected = expected.iter();
            for block in blocks(image, vault, image.bytes()) {
                let (index, digest) = block.map_err(|error| match error {
                    strongroom_image::Error::Store(error) => Wrong::Vault(error),
                    other => wrong(other.to_string()),
                })?;
                let Some((place, letter)) = expected.next() else {
                    return Err(wrong(format!("block {index} must be zeros")));
                };
                let must = alphabet.block(*letter);
                if *place != index || self.digest(*letter) != digest {
                    return Err(wrong(format!("block {index} has other content")));
                }
                if good.insert(digest) {
                    reader.block(&digest, &mut plain).map_err(Wrong::Vault)?;
                    if plain != must {
                        return Err(wrong(format!("block {index} was read wrongly")));
                    }
                }
            }
            if let Some((place, _)) = expected.next() {
                return Err(wrong(format!("block {place} is missing")));
            }
        }
        let same = manifest.disks.len() == truth.disks.len() && manifest.item == truth.item;
        if same { Ok(()) } else { Err(Wrong::Content("other disks or another item".to_owned())) }
    }
}

/// Why a restore did not give what it must.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// An error of the vault.
    Vault(VaultError),
    /// Other content.
    Content(String),
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vault(error) => f.write_str(&chain(error)),
            Self::Content(what) => f.write_str(what),
        }
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
