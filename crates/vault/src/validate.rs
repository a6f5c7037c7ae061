//! Validation: can this recovery point be restored? At a cost that follows what it added.
//!
//! ```text
//!  manifest ──▶ read from the store
//!  trees ─────▶ every node read, every record found in a pack that is listed with its right size
//!  blocks ────▶ a sample: fetched, opened, decompressed, digest compared
//! ```
//!
//! What a point shares with the last point of its item that was validated here is not walked again,
//! as long as every pack of the index is there and none is known to be damaged: what that point
//! needed was there then, and packs never change. Else all of it is walked. Which point that was is
//! noted in the vault's cache folder; without one, everything is walked every time.
//!
//! Half of the sample is drawn from what was walked, half from the whole point: so blocks that were
//! stored long ago are looked at again, a few each time. That *every* byte is what was written only
//! the crate `verify` finds out.
//!
//! This module owns the verdict on one point. It repairs nothing and must not know who asks.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::PathBuf,
};

use strongroom_base::{
    BLOCK_SIZE, Cancel, Digest, EntropyExt as _, PackId, PointId, Recently, SplitMix64, Stage,
    Things,
};
use strongroom_format::{
    Manifest,
    names::{self, ItemKey},
    pack::RecordKind,
};
use strongroom_image::{Image, Visitor, visit_new};
use strongroom_objects::StoreError;

use crate::{
    Vault, VaultError,
    error::Result,
    files::write_whole,
    images::{images, title},
    read::is_damage,
};

/// Nodes that are not walked twice where several disks share them.
const SEEN: usize = 400_000;

/// How often damage is looked into again: reclaim may have moved what was not found.
const ROUNDS: usize = 3;

/// How a validation is done.
#[derive(Clone, Copy, Debug)]
pub struct ValidateOptions {
    /// Blocks that are read and checked, about.
    pub sample: usize,
}

impl Default for ValidateOptions {
    fn default() -> Self {
        Self { sample: 128 }
    }
}

/// How far a validation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidateProgress {
    /// Walking or sampling.
    pub stage: Stage,
    /// What is counted: disks or blocks.
    pub things: Things,
    /// How many of them are done.
    pub done: u64,
    /// How many there are.
    pub total: u64,
}

/// Gets the progress.
pub type OnValidate<'a> = &'a dyn Fn(ValidateProgress);

/// A recovery point that can be restored, as far as was looked.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// The point, as it is in the store.
    pub point: Manifest,
    /// The point whose trees were not walked again, if there was one.
    pub base: Option<PointId>,
    /// Tree nodes that were walked.
    pub nodes: u64,
    /// Blocks that were looked for in these nodes.
    pub blocks: u64,
    /// Blocks that were read and checked.
    pub sampled: u64,
}

impl Vault {
    /// Validates a recovery point. The error says what is wrong with it, or why nobody can tell.
    pub fn validate(
        &self,
        item: &str,
        point: PointId,
        options: ValidateOptions,
        progress: OnValidate<'_>,
        cancel: &Cancel,
    ) -> Result<Validated> {
        let _from_store = self.read_from_store();
        let key = self.item_key(item)?;
        self.sync()?;
        let mut round = 1;
        loop {
            // In each round: it may have been deleted meanwhile.
            let manifest = self.point(item, point)?;
            let packs = Packs::look(self)?;
            let base =
                if round == 1 && packs.complete { self.base(key, item, point) } else { None };
            let walk = Walk::new(self, &packs, options, progress, cancel);
            match walk.run(manifest, base.as_ref()) {
                Err(error) if is_damage(&error) && round < ROUNDS => {
                    tracing::warn!(%error, %point, "looked at once more");
                    self.sync_checked()?;
                    self.forget_nodes();
                    round += 1;
                }
                Ok(validated) => {
                    self.note_validated(key, point);
                    return Ok(validated);
                }
                failed => return failed,
            }
        }
    }

    /// The point of the item that was validated here last, unless it is this one or cannot be read.
    fn base(&self, key: ItemKey, item: &str, point: PointId) -> Option<Manifest> {
        let noted = fs::read_to_string(self.validated_note(key)?).ok()?;
        let noted: PointId = noted.trim().parse().ok().filter(|noted| *noted != point)?;
        self.point(item, noted).ok()
    }

    fn note_validated(&self, key: ItemKey, point: PointId) {
        let Some(path) = self.validated_note(key) else { return };
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            // A new file, as others may read it.
            write_whole(&path, point.to_string().as_bytes())
        };
        if let Err(error) = write() {
            tracing::warn!(%error, path = %path.display(), "the next validation walks everything");
        }
    }

    fn validated_note(&self, key: ItemKey) -> Option<PathBuf> {
        let folder = self.options.cache_dir.as_ref()?.join(self.config.vault_id.to_string());
        Some(folder.join("validated").join(key.to_string()))
    }
}

/// The packs in the store.
struct Packs {
    /// Those that are there, with the size that the index says.
    good: HashSet<PackId>,
    /// All that are there, with their sizes.
    listed: HashMap<PackId, u64>,
    /// In which somebody has found damage: what is only there is read.
    noted: HashSet<PackId>,
    /// Whether all packs of the index are good and not noted.
    complete: bool,
}

impl Packs {
    fn look(vault: &Vault) -> Result<Self> {
        let listed: HashMap<PackId, u64> =
            vault.list_packs()?.into_iter().map(|pack| (pack.id, pack.size)).collect();
        let noted = vault.damaged_packs()?;
        let indexed = vault.index.packs();
        let good = indexed.iter().filter(|(pack, (_, size))| listed.get(*pack) == Some(size));
        let good: HashSet<PackId> = good.map(|(pack, _)| *pack).collect();
        let complete = good.len() == indexed.len() && good.is_disjoint(&noted);
        Ok(Self { good, listed, noted, complete })
    }
}

struct Walk<'a> {
    vault: &'a Vault,
    packs: &'a Packs,
    options: ValidateOptions,
    progress: OnValidate<'a>,
    cancel: &'a Cancel,
    chance: SplitMix64,
    seen: Recently<Digest, ()>,
    nodes: u64,
    blocks: u64,
    /// A fair choice of the blocks that were walked.
    chosen: Vec<Digest>,
    plain: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn new(
        vault: &'a Vault,
        packs: &'a Packs,
        options: ValidateOptions,
        progress: OnValidate<'a>,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            vault,
            packs,
            options,
            progress,
            cancel,
            chance: SplitMix64::new(u64::from_le_bytes(vault.entropy().array())),
            seen: Recently::new(SEEN),
            nodes: 0,
            blocks: 0,
            chosen: Vec::new(),
            plain: vec![0; BLOCK_SIZE],
        }
    }

    fn run(mut self, point: Manifest, base: Option<&Manifest>) -> Result<Validated> {
        let of_base: BTreeMap<&str, Image> = match base {
            Some(base) => images(base)?.into_iter().collect(),
            None => BTreeMap::new(),
        };
        let images = images(&point)?;
        let total = count(images.len());
        for ((name, image), done) in images.iter().zip(0..) {
            let (stage, things) = (Stage::Walking, Things::Disks);
            (self.progress)(ValidateProgress { stage, things, done, total });
            let vault = self.vault;
            let walked = visit_new(of_base.get(name).copied(), *image, vault, &mut self);
            walked.map_err(|error| match error {
                strongroom_image::Error::Store(error) => error,
                _ => VaultError::Lost {
                    digest: image.root(),
                    reason: format!("the tree of {} is damaged", title(name)),
                },
            })?;
        }
        let sampled = self.sample(&images)?;
        let (nodes, blocks) = (self.nodes, self.blocks);
        let base = base.map(|base| base.id);
        Ok(Validated { point, base, nodes, blocks, sampled })
    }

    fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(VaultError::Interrupted) } else { Ok(()) }
    }

    /// Whether a record is in a pack that is there.
    fn find(&mut self, digest: &Digest, full: bool) -> Result<()> {
        let vault = self.vault;
        let places = vault.places(digest)?;
        let mut noted = None;
        let mut delta = false;
        for place in &places {
            let is_delta = place.entry.kind == RecordKind::BlockDelta;
            if !self.packs.good.contains(&place.pack) || (full && is_delta) {
                continue;
            }
            if self.packs.noted.contains(&place.pack) {
                noted = Some(place.entry.kind);
            } else if is_delta {
                delta = true;
            } else {
                return Ok(());
            }
        }
        if delta {
            let bases = vault.bases_of(digest)?;
            if bases.is_empty() {
                return Err(vault.lost(digest, "the base of its delta is unknown"));
            }
            return bases.iter().try_for_each(|base| self.find(base, true));
        }
        match noted {
            // Not all of such a pack is damaged.
            Some(RecordKind::Node) => vault.node(*digest).map(drop),
            Some(_) => self.read(digest),
            None => match places.iter().find(|place| !self.packs.good.contains(&place.pack)) {
                Some(place) => Err(self.missing(place)),
                None => Err(vault.lost(digest, "no pack of the index holds it as it is needed")),
            },
        }
    }

    /// The error for a pack that should be there.
    fn missing(&self, place: &crate::Location) -> VaultError {
        let key = names::pack(place.header.kind, &place.pack);
        let (store, need) = (self.vault.store.name(), place.pack_size);
        match self.packs.listed.get(&place.pack) {
            Some(have) => StoreError::Length { key, store, have: *have, need }.into(),
            None => StoreError::Missing { key, store }.into(),
        }
    }

    fn read(&mut self, block: &Digest) -> Result<()> {
        self.vault.reader().block(block, &mut self.plain)
    }

    /// Reads and checks some blocks. How many.
    fn sample(&mut self, images: &[(&str, Image)]) -> Result<u64> {
        let mut blocks: HashSet<Digest> = self.chosen.drain(..).collect();
        let of_each = self.half().div_ceil(images.len().max(1));
        for (_, image) in images {
            for _ in 0..of_each {
                self.go_on()?;
                blocks.extend(self.any_block(image)?);
            }
        }
        let total = count(blocks.len());
        for (block, done) in blocks.iter().zip(0..) {
            self.go_on()?;
            let (stage, things) = (Stage::Sampling, Things::Blocks);
            (self.progress)(ValidateProgress { stage, things, done, total });
            self.read(block)?;
        }
        Ok(total)
    }

    fn half(&self) -> usize {
        self.options.sample.div_ceil(2)
    }

    /// Some block of an image; none if all of it is zeros.
    fn any_block(&mut self, image: &Image) -> Result<Option<Digest>> {
        let mut digest = image.root();
        if digest.is_hole() {
            return Ok(None);
        }
        for _ in 0..image.depth() {
            let node = self.vault.node(digest)?;
            let nth = self.chance.below(count(node.count()));
            let nth = usize::try_from(nth).unwrap_or(0);
            let child = node.iter().nth(nth);
            digest = child.ok_or(VaultError::Bug("a node without a child"))?.1;
        }
        Ok(Some(digest))
    }
}

impl Visitor<VaultError> for Walk<'_> {
    fn enter_node(&mut self, node: Digest) -> Result<bool> {
        self.go_on()?;
        if self.seen.get(&node).is_some() {
            return Ok(false);
        }
        self.seen.put(node, ());
        self.nodes = self.nodes.saturating_add(1);
        self.find(&node, true)?;
        Ok(true)
    }

    fn block(&mut self, block: Digest) -> Result<()> {
        self.blocks = self.blocks.saturating_add(1);
        self.find(&block, false)?;
        if self.chosen.len() < self.half() {
            self.chosen.push(block);
        } else {
            let at = self.chance.below(self.blocks);
            let place = usize::try_from(at).ok().and_then(|at| self.chosen.get_mut(at));
            if let Some(place) = place {
                *place = block;
            }
        }
        Ok(())
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
