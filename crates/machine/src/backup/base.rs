//! What a backup builds on: the last committed point, if it is of this very machine, and the
//! checkpoint that it recorded.

use std::sync::Arc;

use strongroom_base::PointId;
use strongroom_engine::read_configuration;
use strongroom_hypervisor::{Connection, Domain, Uuid};
use strongroom_vault::Vault;

use crate::{
    Configuration,
    configuration::DiskIdentity,
    error::Result,
    orphans::{delete, without_parent},
};

/// The last committed point of a machine.
pub(super) struct Base {
    pub(super) point: PointId,
    pub(super) configuration: Configuration,
}

impl Base {
    /// The checkpoint of the point.
    pub(super) fn checkpoint(&self) -> Option<&str> {
        self.configuration.record.checkpoint.as_deref()
    }

    /// What the point knows of a disk, if it has this very disk.
    pub(super) fn same_disk(
        &self,
        now: &DiskIdentity,
    ) -> std::result::Result<&DiskIdentity, String> {
        match self.configuration.disk(&now.target) {
            None => Err("the last point does not have this disk".to_owned()),
            Some(then) if !then.is_same(now) => Err(format!(
                "it is not the disk of the last point, which was {} ({})",
                then.source, then.format
            )),
            Some(then) if then.under != now.under => {
                Err("the images under it, or the file of its data, were changed or replaced"
                    .to_owned())
            }
            Some(then) if !then.tracked => Err("the last point has no checkpoint of it".to_owned()),
            Some(then) => Ok(then),
        }
    }
}

/// Finds the base of a machine's next backup; otherwise says why there is none.
pub(super) fn find(
    vault: &Arc<Vault>,
    item: &str,
    machine: Uuid,
) -> Result<std::result::Result<Base, String>> {
    let (newest, damaged) = vault.newest_readable(item)?;
    if !damaged.is_empty() {
        return Ok(Err("the newest point is damaged".to_owned()));
    }
    let Some(newest) = newest else { return Ok(Err("it is the first backup".to_owned())) };
    let archive = match read_configuration(vault, &newest) {
        Ok(Some(archive)) => archive,
        Ok(None) => return Ok(Err("the newest point is not of a machine".to_owned())),
        Err(error) => {
            return Ok(Err(format!("the newest point's configuration cannot be read: {error}")));
        }
    };
    let configuration = match Configuration::from_archive(&archive) {
        Ok(configuration) => configuration,
        Err(reason) => return Ok(Err(format!("the newest point's configuration: {reason}"))),
    };
    if configuration.record.uuid != machine.to_string() {
        let other = &configuration.record.uuid;
        return Ok(Err(format!("the newest point is of another machine ({other})")));
    }
    Ok(Ok(Base { point: newest.id, configuration }))
}

/// The beginning of the names of a vault's checkpoints: others' are never touched.
pub(super) fn prefix(vault: &Vault) -> String {
    let id = vault.config().vault_id.to_string().to_ascii_lowercase();
    let short: String = id.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
    format!("strongroom-{short}-")
}

/// Makes libvirt's checkpoints what they should be before a backup: ours but the base's are
/// deleted, and the base's is made known again if libvirt has forgotten it. Says whether changes
/// since the base can be asked for, and if not, why.
pub(super) fn reconcile(
    connection: &Connection,
    domain: &Domain,
    prefix: &str,
    base: Option<&Base>,
    notes: &mut Vec<String>,
) -> Result<std::result::Result<String, String>> {
    // Without a point to build on, it is not known which of them may be of use again: one that only
    // cannot be read now is a point nevertheless. They go when there is a new point.
    let Some(base) = base else { return Ok(Err("there is no point to build on".to_owned())) };
    let known = connection.checkpoints(domain)?;
    let wanted = base.checkpoint();
    for orphan in
        known.iter().filter(|name| name.starts_with(prefix) && Some(name.as_str()) != wanted)
    {
        match delete(connection, domain, orphan) {
            Ok(()) => {
                notes.push(format!("checkpoint {orphan}, which belonged to no point, was deleted"));
            }
            // It is in the way of nothing.
            Err(error) => notes.push(format!("checkpoint {orphan} cannot be deleted: {error}")),
        }
    }
    let Some(wanted) = wanted else {
        return Ok(Err("the last point has no checkpoint".to_owned()));
    };
    if known.iter().any(|name| name == wanted) {
        return Ok(Ok(wanted.to_owned()));
    }
    // A machine whose definition is made anew at each start has no checkpoints, but its images
    // still have the bitmaps.
    let Some(xml) = &base.configuration.checkpoint else {
        return Ok(Err(format!("libvirt does not know checkpoint {wanted} any more")));
    };
    match connection.redefine_checkpoint(domain, &without_parent(xml), true) {
        Ok(()) => {
            notes.push(format!(
                "libvirt had forgotten checkpoint {wanted}; it was made known again"
            ));
            Ok(Ok(wanted.to_owned()))
        }
        Err(error) if error.is_connection() => Err(error.into()),
        Err(error) => Ok(Err(format!(
            "libvirt does not know checkpoint {wanted} any more, and it cannot be made known \
             again: {error}"
        ))),
    }
}
