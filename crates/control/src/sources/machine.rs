//! Machines of a host.

use strongroom_api::{Item, ProtectSource, ProtectableItem, Source};
use strongroom_base::message;
use strongroom_orders::AllowedPlaces;

use super::kind::{Found, Kind, Machine, Protectable};
use crate::error::Result;

impl Kind for Machine<'_> {
    fn key(&self, _: &Item) -> String {
        self.uuid.to_owned()
    }

    fn described(&self) -> String {
        format!("machine {}", self.uuid)
    }

    fn replaced(&self, _: &Item) -> String {
        self.uuid.to_owned()
    }

    fn machine(&self) -> Option<Machine<'_>> {
        Some(*self)
    }
}

/// A machine that the host has, by its name or UUID.
pub(super) struct Machines;

impl Protectable for Machines {
    fn is_wanted(&self, source: &ProtectSource) -> bool {
        source.machine.is_some()
    }

    fn is_discovered(&self) -> bool {
        true
    }

    fn called(&self, source: &ProtectSource) -> String {
        source.machine.clone().unwrap_or_default()
    }

    fn find(
        &self,
        source: &ProtectSource,
        found: &[ProtectableItem],
        _: &dyn AllowedPlaces,
    ) -> Result<Found> {
        let machine = self.called(source);
        let is_it = |found: &&ProtectableItem| found.name == machine || found.uuid == machine;
        let found = found.iter().find(is_it).ok_or_else(|| {
            message!(VM_NOT_FOUND, "the host has no machine {machine:?}", machine)
        })?;
        let source = Source::Machine { uuid: found.uuid.clone(), name: found.name.clone() };
        Ok(Found { source, name: item_name(&found.name) })
    }
}

/// A machine's or a blob's name as an item's: the same, except what names of items may not have, which becomes
/// `-`. Nobody else's item is taken for it: names of items are checked when one is added.
pub(super) fn item_name(machine: &str) -> String {
    if strongroom_base::check_name(machine) {
        return machine.to_owned();
    }
    let good = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = machine.chars().map(good).take(198).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { format!("vm{name}") }
}
