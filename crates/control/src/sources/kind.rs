//! What the service must know of a kind of source.

use strongroom_api::{BlobPlace, Item, ProtectSource, ProtectableItem, Source};
use strongroom_orders::AllowedPlaces;

use crate::error::Result;

/// A source of a kind.
pub(crate) trait Kind {
    /// What no two items of a vault protect both, on one host.
    fn key(&self, item: &Item) -> String;

    /// What is protected, in words.
    fn described(&self) -> String;

    /// What a restore replaces, as somebody who looks for it names it.
    fn replaced(&self, item: &Item) -> String;

    /// The machine of the host that it is, if it is one: what the host says of its machines is said of
    /// it, and who may replace the machine is asked.
    fn machine(&self) -> Option<Machine<'_>>;

    /// How it is backed up without a vault, if it is.
    fn incremental(&self) -> Option<IncrementalBackup<'_>> {
        None
    }
}

/// A page blob that is backed up to another one.
#[derive(Clone, Copy)]
pub(crate) struct IncrementalBackup<'a> {
    /// The blob that is backed up.
    pub(crate) from: &'a BlobPlace,
    /// The blob that has the backups.
    pub(crate) to: &'a BlobPlace,
    /// The number of backups that are kept.
    pub(crate) keep: u32,
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

    /// Refuses what is not valid by itself, before it is written down anywhere.
    fn check(&self, _: &ProtectSource) -> Result<()> {
        Ok(())
    }

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
