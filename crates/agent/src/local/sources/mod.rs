//! Kinds of sources: how each is checked and backed up.
//!
//! A kind is one file below, and one line in [`of`]. Nothing else in this crate asks which kind a source is.

mod blobs;
mod disks;
mod incremental;
mod machine;

use strongroom_api::{Check, ConsistencyWanted, Source};
use strongroom_base::{Code, Message};
use strongroom_orders::{BackupOrder, Result, Watch};

use super::{LocalAgent, backup::Made};
use crate::vaults::OpenVault;

/// An order for a backup with all that it needs.
pub(crate) struct Work<'a> {
    /// The agent that carries it out.
    pub(crate) agent: &'a LocalAgent,
    /// The vault that the point goes to.
    pub(crate) open: &'a OpenVault,
    /// The order.
    pub(crate) order: &'a BackupOrder,
    /// Who follows it.
    pub(crate) watch: &'a Watch,
}

/// A source of a kind.
pub(crate) trait Kind {
    /// What stands in the way of a backup.
    fn check(&self, agent: &LocalAgent) -> Result<Check>;

    /// Makes a recovery point.
    fn back_up(&self, work: &Work<'_>) -> Result<Made>;

    /// The best consistency that somebody who gives the order can have.
    fn best(&self, order: &BackupOrder) -> ConsistencyWanted;

    /// That it, or a part of it, is gone; `code` is what work on it failed with.
    fn gone(&self, code: &Code) -> Message;

    /// The machine whose disks a replacement replaces, if it names no other.
    fn machine(&self) -> Result<&str>;
}

/// A source as one of its kind.
pub(crate) fn of(source: &Source) -> Box<dyn Kind + '_> {
    match source {
        Source::Machine { uuid, name } => Box::new(machine::Machine { uuid, name }),
        Source::Disks { disks } => Box::new(disks::Disks { disks }),
        Source::Blobs { disks, access } => {
            Box::new(blobs::Blobs { disks, access: access.as_ref() })
        }
        Source::IncrementalBackup { from, to, .. } => {
            Box::new(incremental::IncrementalBackup { from, to })
        }
    }
}
