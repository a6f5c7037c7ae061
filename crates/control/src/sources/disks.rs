//! Disks by path.

use std::collections::BTreeMap;

use strongroom_api::{Item, ProtectSource, ProtectableItem, Source};
use strongroom_orders::AllowedPlaces;

use super::kind::{Found, Kind, Machine, Protectable};
use crate::{error::Result, rights::not_allowed};

/// Disks by their names; what they are called together is their item's.
pub(super) struct Disks<'a>(pub(super) &'a BTreeMap<String, String>);

impl Kind for Disks<'_> {
    fn key(&self, item: &Item) -> String {
        format!("disks/{}", item.name)
    }

    fn described(&self) -> String {
        let disks: Vec<String> =
            self.0.iter().map(|(name, path)| format!("{name}={path}")).collect();
        disks.join(", ")
    }

    fn replaced(&self, item: &Item) -> String {
        item.name.clone()
    }

    fn machine(&self) -> Option<Machine<'_>> {
        None
    }
}

/// Disks where somebody says that they are.
pub(super) struct DisksByPath;

impl Protectable for DisksByPath {
    fn is_wanted(&self, source: &ProtectSource) -> bool {
        source.paths.is_some()
    }

    fn is_discovered(&self) -> bool {
        false
    }

    fn called(&self, source: &ProtectSource) -> String {
        let first = source.paths.as_ref().and_then(|paths| paths.keys().next().cloned());
        first.unwrap_or_else(|| "disks".to_owned())
    }

    fn find(
        &self,
        source: &ProtectSource,
        _: &[ProtectableItem],
        places: &dyn AllowedPlaces,
    ) -> Result<Found> {
        let disks = source.paths.clone().unwrap_or_default();
        for path in disks.values() {
            places.check_disk(path).map_err(|no| not_allowed(None, &no))?;
        }
        Ok(Found { source: Source::Disks { disks }, name: self.called(source) })
    }
}
