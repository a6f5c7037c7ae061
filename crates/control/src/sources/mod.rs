//! Kinds of sources: what the service must know of what an item protects.
//!
//! A kind is one file below, and one line in [`of`] and in [`PROTECTABLE`]. Nothing else in this crate asks
//! which kind a source is. How it is checked and backed up is for the agent, which has a file for each kind, too.

mod disks;
mod machine;

use strongroom_api::{Item, ProtectSource, ProtectableItem, Source};
use strongroom_base::codes;
use strongroom_orders::AllowedPlaces;

use crate::error::{ControlError, Result};

/// A source of a kind.
pub(crate) trait Kind {
    /// What no two items of a vault protect both, on one host.
    fn key(&self, item: &Item) -> String;

    /// What a restore replaces, as whoever looks for it names it.
    fn replaced(&self, item: &Item) -> String;

    /// The machine of the host that it is, if it is one: what the host says of its machines is said of
    /// it, and who may replace the machine is asked.
    fn machine(&self) -> Option<Machine<'_>>;
}

/// A machine of a host.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'a> {
    /// Its UUID.
    pub(crate) uuid: &'a str,
    /// Its name, as far as it is known.
    pub(crate) name: &'a str,
}

impl Machine<'_> {
    /// Whether it is called so.
    pub(crate) fn is(&self, name_or_uuid: &str) -> bool {
        self.uuid == name_or_uuid || self.name == name_or_uuid
    }
}

/// A source as one of its kind.
pub(crate) fn of(source: &Source) -> Box<dyn Kind + '_> {
    match source {
        Source::Machine { uuid, name } => Box::new(Machine { uuid, name }),
        Source::Disks { .. } => Box::new(disks::Disks),
    }
}

/// The machine that a source is, if it is one.
pub(crate) fn machine_uuid(source: &Source) -> Option<String> {
    of(source).machine().map(|machine| machine.uuid.to_owned())
}

/// What somebody calls a machine, as a source; what it is, the host knows.
pub(crate) fn machine_called(name: String) -> Source {
    Source::Machine { uuid: name.clone(), name }
}

/// The source of an item of which only recovery points are known.
pub(crate) fn unknown() -> Source {
    Source::Disks { disks: std::collections::BTreeMap::new() }
}

/// What somebody wants to protect, found.
pub(crate) struct Found {
    /// The source.
    pub(crate) source: Source,
    /// The item's name, if nobody gives it another.
    pub(crate) name: String,
}

/// A kind of source, as somebody wants it protected.
pub(crate) trait Protectable: Sync {
    /// Whether it is what the request is about.
    fn is_wanted(&self, source: &ProtectSource) -> bool;

    /// Whether the host must be asked what it has.
    fn is_discovered(&self) -> bool;

    /// What it is called until it is found.
    fn called(&self, source: &ProtectSource) -> String;

    /// Finds it among what the host has, or where it is said to be: what nobody may name is refused.
    fn find(
        &self,
        source: &ProtectSource,
        found: &[ProtectableItem],
        places: &dyn AllowedPlaces,
    ) -> Result<Found>;
}

/// All kinds.
const PROTECTABLE: [&dyn Protectable; 2] = [&machine::Machines, &disks::DisksByPath];

/// The kind of what somebody wants to protect: exactly one.
pub(crate) fn wanted(source: &ProtectSource) -> Result<&'static dyn Protectable> {
    let mut wanted = PROTECTABLE.into_iter().filter(|kind| kind.is_wanted(source));
    if let (Some(kind), None) = (wanted.next(), wanted.next()) {
        return Ok(kind);
    }
    let message = "each source is either a `machine` or `paths`";
    Err(ControlError::refused(&codes::REQUEST_INVALID, message))
}
