//! Checks that every node and block of a parent image exists before a new point builds on it.
//!
//! What did not change since the parent point is not stored again, so a pack that somebody removed
//! from the store would be missed by every later point as well, without a word. This costs nothing
//! while all packs of the index exist and no verify has found damage in one; else one look into the
//! index for each block.

use std::collections::HashSet;

use strongroom_base::{Digest, PackId};
use strongroom_format::pack::RecordKind;
use strongroom_image::{Image, Visitor, visit};

use crate::{Vault, VaultError, error::Result, index::Trust, read::is_damage};

impl Vault {
    /// Whether every node and block of the images exists, as far as the index and the list of
    /// packs tell; the content of packs is not read, except the nodes. `trust` says what its writer
    /// saw when it began.
    pub(crate) fn holds(&self, images: &[Image], trust: &Trust) -> Result<bool> {
        let damaged = self.index.distrusted();
        if self.index.missing(trust).is_empty() && damaged.is_empty() {
            return Ok(true);
        }
        // Or were they written, or moved by a reclaim, while the writer looked?
        self.sync()?;
        let existing: HashSet<PackId> =
            self.list_packs()?.into_iter().map(|pack| pack.id).collect();
        let mut missing = self.index.missing(trust);
        missing.retain(|pack| !existing.contains(pack));
        if let Some(missing) = missing.first() {
            // A reclaim that broke off leaves such packs too; then nothing is lost.
            tracing::warn!(pack = %missing, "a pack of the index is not in the store");
        } else if let Some(damaged) = damaged.iter().next() {
            tracing::warn!(pack = %damaged, "a verify has found damage in a pack");
        } else {
            return Ok(true);
        }
        let existing = existing.difference(&damaged).copied().collect();
        let mut check = Check { vault: self, existing, seen: HashSet::new() };
        for image in images {
            match visit(*image, self, &mut check) {
                Ok(()) => {}
                Err(strongroom_image::Error::Store(error)) if !is_damage(&error) => {
                    return Err(error);
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

struct Check<'v> {
    vault: &'v Vault,
    existing: HashSet<PackId>,
    seen: HashSet<Digest>,
}

impl Check<'_> {
    fn find(&self, digest: &Digest, full: bool) -> Result<()> {
        let mut places = self.vault.places(digest)?;
        places.retain(|place| self.existing.contains(&place.pack));
        let is_delta = |kind: RecordKind| kind == RecordKind::BlockDelta;
        if places.iter().any(|place| !is_delta(place.entry.kind)) {
            return Ok(());
        }
        let bases =
            if full || places.is_empty() { Vec::new() } else { self.vault.bases_of(digest)? };
        if bases.is_empty() {
            let reason = "the packs that held it are gone".to_owned();
            return Err(VaultError::Lost { digest: *digest, reason });
        }
        bases.iter().try_for_each(|base| self.find(base, true))
    }
}

impl Visitor<VaultError> for Check<'_> {
    fn enter_node(&mut self, node: Digest) -> Result<bool> {
        self.find(&node, true)?;
        Ok(self.seen.insert(node))
    }

    fn block(&mut self, block: Digest) -> Result<()> {
        self.find(&block, false)
    }
}
