//! The base of a backup: the last committed point, if it is of this very machine, and the
//! checkpoint that it recorded.

use std::{collections::BTreeSet, sync::Arc};

use strongroom_base::{PointId, check_name};
use strongroom_engine::read_configuration;
use strongroom_hypervisor::{Connection, Domain, Uuid};
use strongroom_vault::Vault;

use super::Work;
use crate::{
    Configuration, MachineError,
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
            Some(then) if then.under != now.under => Err(
                "the images under it, or the file of its data, were written to or replaced (the \
                     former also when an old bitmap of changes was deleted from one of them)"
                    .to_owned(),
            ),
            Some(then) if !then.tracked => Err("the last point has no checkpoint of it".to_owned()),
            Some(then) => Ok(then),
        }
    }
}

/// Finds the base of a machine's next backup; otherwise says why there is none. An item that is
/// another machine's is refused, unless it was `asked` for by name.
pub(super) fn find(
    vault: &Arc<Vault>,
    item: &str,
    machine: Uuid,
    asked: bool,
) -> Result<std::result::Result<Base, String>> {
    let (newest, damaged) = vault.newest_readable(item)?;
    if !damaged.is_empty() {
        return Ok(Err("the newest point is damaged".to_owned()));
    }
    let Some(newest) = newest else { return Ok(Err(FIRST.to_owned())) };
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
    let record = &configuration.record;
    if record.uuid == machine.to_string() {
        return Ok(Ok(Base { point: newest.id, configuration }));
    }
    let (name, uuid) = (record.name.clone(), record.uuid.clone());
    if asked {
        return Ok(Err(format!("the newest point is of another machine ({name}, {uuid})")));
    }
    Err(MachineError::Taken { item: item.to_owned(), machine: name, uuid })
}

/// Why there is nothing to build on in an item that has no points.
pub(super) const FIRST: &str = "it is the first backup";

/// The item of a machine if none was named: that of its name. Where that has no points, the item
/// continues that an earlier version, which knew fewer names, has made of it.
pub(super) fn item_of(vault: &Arc<Vault>, name: &str, machine: Uuid) -> Result<String> {
    let earlier = earlier_name(name);
    if !check_name(name) {
        return Ok(earlier);
    }
    let is_new = earlier != name && vault.newest_readable(name)?.0.is_none();
    let goes_on = is_new && find(vault, &earlier, machine, true)?.is_ok();
    Ok(if goes_on { earlier } else { name.to_owned() })
}

/// A machine's name in the letters that names of items had once.
fn earlier_name(machine: &str) -> String {
    let good =
        |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let first = if machine.starts_with(|c: char| c.is_ascii_alphanumeric()) { "" } else { "vm" };
    first.chars().chain(machine.chars().map(good)).take(200).collect()
}

/// What the checkpoints of a vault say of an item: it is in their descriptions.
pub(super) fn description(item: &str) -> String {
    format!("{DESCRIBES}{item}")
}

const DESCRIBES: &str = "Strongroom, item ";

/// The item of one of our checkpoints, by its description.
fn item_of_checkpoint(connection: &Connection, domain: &Domain, name: &str) -> Option<String> {
    let xml = connection.checkpoint_xml(domain, name).ok()?;
    item_in(&xml)
}

pub(crate) fn item_in(xml: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let mut inside = document.root_element().children();
    let description = inside.find(|node| node.has_tag_name("description"))?.text()?;
    description.strip_prefix(DESCRIBES).map(ToOwned::to_owned)
}

/// Whether another item of this vault builds on a checkpoint: the newest point of the item that it was
/// made for names it.
pub(super) fn is_of_another_item(
    vault: &Arc<Vault>,
    connection: &Connection,
    domain: &Domain,
    item: &str,
    name: &str,
) -> Result<bool> {
    let Some(other) = item_of_checkpoint(connection, domain, name).filter(|it| it != item) else {
        return Ok(false);
    };
    if !check_name(&other) {
        return Ok(false);
    }
    let newest = vault.newest_readable(&other)?.0;
    let mut disks = newest.iter().flat_map(|point| &point.disks);
    Ok(disks.any(|disk| disk.source.checkpoint.as_deref() == Some(name)))
}

/// The other items of this vault that the machine was backed up as, by its checkpoints.
pub(super) fn other_items(
    vault: &Arc<Vault>,
    connection: &Connection,
    domain: &Domain,
    item: &str,
) -> Result<Vec<String>> {
    let prefix = prefix(vault);
    let mut items = BTreeSet::new();
    for name in connection.checkpoints(domain)?.iter().filter(|name| name.starts_with(&prefix)) {
        let other = item_of_checkpoint(connection, domain, name);
        items.extend(other.filter(|other| other != item && check_name(other)));
    }
    let mut found = Vec::new();
    for item in items {
        if find(vault, &item, domain.uuid, true)?.is_ok() {
            found.push(item);
        }
    }
    Ok(found)
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
    work: &Work<'_>,
    prefix: &str,
    base: Option<&Base>,
    notes: &mut Vec<String>,
) -> Result<std::result::Result<String, String>> {
    // Without a point to build on, it is not known which of them may be of use again: one that only
    // cannot be read now is a point all the same. They go when there is a new point.
    let Some(base) = base else { return Ok(Err("there is no point to build on".to_owned())) };
    let (connection, domain) = (work.connection, &work.domain);
    let known = connection.checkpoints(domain)?;
    let wanted = base.checkpoint();
    for orphan in
        known.iter().filter(|name| name.starts_with(prefix) && Some(name.as_str()) != wanted)
    {
        if is_of_another_item(work.vault, connection, domain, &work.item, orphan)? {
            continue;
        }
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
    // A machine whose definition is created again at each start has no checkpoints, but its images
    // still have the bitmaps.
    let Some(xml) = &base.configuration.checkpoint else {
        return Ok(Err(format!("libvirt does not know checkpoint {wanted} any more")));
    };
    match connection.redefine_checkpoint(domain, &without_parent(xml), true) {
        Ok(()) => {
            notes.push(format!("libvirt had lost checkpoint {wanted}; it was defined again"));
            Ok(Ok(wanted.to_owned()))
        }
        Err(error) if error.is_connection() => Err(error.into()),
        Err(error) => Ok(Err(format!(
            "libvirt has lost checkpoint {wanted}, and it cannot be defined again: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_earlier_versions_gave() {
        assert_eq!(earlier_name("web-01"), "web-01");
        assert_eq!(earlier_name("Web Server (old)"), "Web_Server__old_");
        assert_eq!(earlier_name("-x"), "vm-x");
        assert!(check_name(&earlier_name(&"é".repeat(300))));
    }

    #[test]
    fn checkpoints_say_whose_they_are() {
        let xml = |text: &str| {
            format!(
                "<domaincheckpoint><name>c</name><description>{}</description><domain>\
                 <description>Strongroom, item no</description></domain></domaincheckpoint>",
                crate::live::escape(text)
            )
        };
        assert_eq!(item_in(&xml(&description("a <b> & c"))).as_deref(), Some("a <b> & c"));
        assert_eq!(item_in(&xml("another's")), None);
        assert_eq!(item_in("<domaincheckpoint/>"), None);
    }
}
