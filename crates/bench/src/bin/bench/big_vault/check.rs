//! Whether the vault is what it should be.

use std::path::{Path, PathBuf};

use serde_json::Value;
use strongroom_base::{Digest, PackId};
use strongroom_bench::{Failure, Outcome};
use strongroom_format::Manifest;
use strongroom_image::{Image, Visitor, visit};
use strongroom_vault::{Vault, VaultError};

use super::{
    failed,
    generate::{ITEM, Place},
};

/// Fails unless the program has listed so many points.
pub(crate) fn lists(said: &Value, points: u64) -> Outcome<()> {
    let listed = said.get("recovery_points").and_then(Value::as_array).map(Vec::len);
    if listed == Some(usize::try_from(points)?) {
        Ok(())
    } else {
        Err(Failure::new(format!("{points} points were expected, {listed:?} listed")))
    }
}

/// What was looked at.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) nodes: u64,
    pub(crate) blocks: u64,
}

/// Reads all nodes of the first and the last point, and looks for a part of their blocks: each must be in
/// the index, and its pack must exist.
pub(crate) fn check(place: &Place) -> Outcome<Checked> {
    let vault = place.open()?;
    let points = vault.points(Some(ITEM)).map_err(failed)?;
    let mut looking = Looking { vault: &vault, folder: &place.vault, checked: Checked::default() };
    for point in [points.first(), points.last()].into_iter().flatten() {
        looking.look_at(point)?;
    }
    Ok(looking.checked)
}

struct Looking<'a> {
    vault: &'a Vault,
    folder: &'a Path,
    checked: Checked,
}

impl Looking<'_> {
    fn look_at(&mut self, point: &Manifest) -> Outcome<()> {
        let vault = self.vault;
        for disk in &point.disks {
            let image = Image::new(disk.size_bytes, disk.root).map_err(failed)?;
            visit(image, vault, self).map_err(failed)?;
        }
        Ok(())
    }
}

impl Visitor<VaultError> for Looking<'_> {
    fn enter_node(&mut self, _: Digest) -> Result<bool, VaultError> {
        self.checked.nodes += 1;
        Ok(true)
    }

    fn block(&mut self, block: Digest) -> Result<(), VaultError> {
        // One of 64: nodes decide what is needed, and they are all read.
        if block.as_bytes().first().is_some_and(|byte| *byte % 64 != 0) {
            return Ok(());
        }
        self.checked.blocks += 1;
        let places = self.vault.places(&block)?;
        if places.iter().any(|place| path(self.folder, &place.pack).exists()) {
            return Ok(());
        }
        Err(VaultError::Lost { digest: block, reason: "its pack is gone".to_owned() })
    }
}

/// Where a data pack lies.
pub(crate) fn path(folder: &Path, pack: &PackId) -> PathBuf {
    let name = pack.to_string();
    folder.join("packs/data").join(name.get(..2).unwrap_or_default()).join(&name)
}
