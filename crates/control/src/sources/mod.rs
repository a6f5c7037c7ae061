//! Kinds of sources: what the service must know of what an item protects.
//!
//! A kind is one file below, and one line in [`of`] and in [`PROTECTABLE`]. Nothing else in this crate asks
//! which kind a source is. How it is checked and backed up is for the agent, which has a file for each kind, too.

mod blobs;
mod disks;
mod incremental;
mod kind;
mod machine;

use strongroom_api::{ProtectSource, Source};
use strongroom_base::codes;

pub(crate) use self::kind::IncrementalBackup;
use self::kind::{Kind, Machine, Protectable};
use crate::error::{ControlError, Result};

/// A source as one of its kind.
pub(crate) fn of(source: &Source) -> Box<dyn Kind + '_> {
    match source {
        Source::Machine { uuid, name } => Box::new(Machine { uuid, name }),
        Source::Disks { disks } => Box::new(disks::Disks(disks)),
        Source::Blobs { disks, access } => {
            Box::new(blobs::Blobs { disks, access: access.as_ref() })
        }
        Source::IncrementalBackup { from, to, keep } => {
            Box::new(IncrementalBackup { from, to, keep: *keep })
        }
    }
}

/// The machine that a source is, if it is one.
pub(crate) fn machine_uuid(source: &Source) -> Option<String> {
    of(source).machine().map(|machine| machine.uuid.to_owned())
}

/// Whether an item is backed up without a vault: it has no recovery points.
pub(crate) fn is_incremental(source: &Source) -> bool {
    of(source).incremental().is_some()
}

/// Whether two sources that no two items protect both are the same in all else. A machine's name may have changed.
pub(crate) fn are_same(one: &Source, other: &Source) -> bool {
    one == other || of(one).machine().is_some() && of(other).machine().is_some()
}

/// What a source is, in words.
pub(crate) fn described(source: &Source) -> String {
    of(source).described()
}

/// What somebody calls a machine, as a source; what it is, the host knows.
pub(crate) fn machine_called(name: String) -> Source {
    Source::Machine { uuid: name.clone(), name }
}

/// The source of an item of which only recovery points are known.
pub(crate) fn unknown() -> Source {
    Source::Disks { disks: std::collections::BTreeMap::new() }
}

/// All kinds.
const PROTECTABLE: [&dyn Protectable; 4] =
    [&machine::Machines, &disks::DisksByPath, &blobs::NamedBlobs, &incremental::IncrementalBackups];

/// The kind of what somebody wants to protect: exactly one.
pub(crate) fn wanted(source: &ProtectSource) -> Result<&'static dyn Protectable> {
    let mut wanted = PROTECTABLE.into_iter().filter(|kind| kind.is_wanted(source));
    if let (Some(kind), None) = (wanted.next(), wanted.next()) {
        return Ok(kind);
    }
    let message = "each source is a `machine`, or `paths`, or `blobs`, or a `incremental_backup`";
    Err(ControlError::refused(&codes::REQUEST_INVALID, message))
}
