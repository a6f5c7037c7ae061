//! Checkpoints and bitmaps that no point needs any more.
//!
//! libvirt deletes a checkpoint with its bitmaps only if all of them are consistent. If one is not,
//! this module removes the checkpoint's metadata from libvirt, and then defines the checkpoint
//! again for one disk after the other. So every bitmap that exists and can be deleted is deleted.

use std::fmt::Write as _;

use strongroom_hypervisor::{Connection, Domain, Form, HypervisorError, Machine};

use crate::live::escape;

/// Deletes a checkpoint: its bitmaps wherever there are any, and what libvirt knows of it.
pub(crate) fn delete(
    connection: &Connection,
    domain: &Domain,
    name: &str,
) -> Result<(), HypervisorError> {
    match connection.delete_checkpoint(domain, name, false) {
        Err(error) if error.is_missing() => Ok(()),
        Err(error) if error.is_bad_checkpoint() => {
            let xml = connection.checkpoint_xml(domain, name);
            connection.delete_checkpoint(domain, name, true)?;
            match xml {
                Ok(xml) => one_by_one(connection, domain, name, &xml),
                Err(error) => tracing::debug!(%error, name, "its bitmaps stay"),
            }
            Ok(())
        }
        other => other,
    }
}

/// Deletes a disk's bitmap with the name of a checkpoint that libvirt does not know: of a machine
/// whose definition is created again at each start, or after somebody made libvirt forget it.
pub(crate) fn delete_unknown(
    connection: &Connection,
    domain: &Domain,
    machine: &Machine,
    target: &str,
    name: &str,
) -> Result<(), HypervisorError> {
    if connection.checkpoints(domain)?.iter().any(|known| known == name) {
        return Ok(());
    }
    let description = connection.domain_xml(domain, Form::Present)?;
    delete_redefined(connection, domain, name, &only(name, target, machine, &description));
    Ok(())
}

/// Deletes the bitmaps of a checkpoint that libvirt has forgotten, where there are any.
fn one_by_one(connection: &Connection, domain: &Domain, name: &str, xml: &str) {
    for target in targets(xml) {
        // A bitmap that is whole goes into the parent's; a broken one cannot, and the parent's is
        // then found to be incomplete.
        for xml in [xml, &without_parent(xml)] {
            if delete_redefined(connection, domain, name, &keep_only(xml, &target)) {
                break;
            }
        }
    }
}

/// Makes a checkpoint known and deletes it with its bitmaps; if that fails, it is forgotten again.
fn delete_redefined(connection: &Connection, domain: &Domain, name: &str, xml: &str) -> bool {
    if let Err(error) = connection.redefine_checkpoint(domain, xml, false) {
        tracing::debug!(%error, name, "not made known again");
        return false;
    }
    let Err(error) = connection.delete_checkpoint(domain, name, false) else { return true };
    tracing::debug!(%error, name, "not deleted");
    connection.delete_checkpoint(domain, name, true).ok();
    false
}

/// A checkpoint's description without its parent, which is deleted by the time it is needed.
pub(crate) fn without_parent(xml: &str) -> String {
    match (xml.find("<parent>"), xml.find("</parent>")) {
        (Some(start), Some(end)) if start < end => {
            let rest = xml.get(end.saturating_add("</parent>".len())..).unwrap_or_default();
            format!("{}{rest}", xml.get(..start).unwrap_or_default())
        }
        _ => xml.to_owned(),
    }
}

/// A checkpoint of one disk.
fn only(name: &str, target: &str, machine: &Machine, description: &str) -> String {
    let start = description.find("<domain").unwrap_or(0);
    let domain = description.get(start..).unwrap_or_default();
    let disks = list(machine.disks.iter().map(|disk| disk.target.as_str()), target);
    format!(
        "<domaincheckpoint><name>{}</name><creationTime>1</creationTime><disks>{disks}</disks>\
         {domain}</domaincheckpoint>",
        escape(name)
    )
}

/// Disks of a checkpoint that is of one of them only.
fn list<'a>(targets: impl Iterator<Item = &'a str>, only: &str) -> String {
    let mut list = String::new();
    for target in targets {
        let kind = if target == only { "bitmap" } else { "no" };
        write!(list, "<disk name='{}' checkpoint='{kind}'/>", escape(target)).ok();
    }
    list
}

/// The part of a checkpoint's description that lists its disks.
fn disks(xml: &str) -> Option<&str> {
    // The machine's own description comes after it.
    let start = xml.find("<disks>")?;
    let end = xml.find("</disks>").filter(|end| start < *end)?;
    xml.get(start..end)
}

/// The disks of which a checkpoint has bitmaps.
fn targets(xml: &str) -> Vec<String> {
    let Some(list) = disks(xml).map(|list| format!("{list}</disks>")) else { return Vec::new() };
    let Ok(document) = roxmltree::Document::parse(&list) else { return Vec::new() };
    let nodes =
        document.descendants().filter(|node| node.attribute("checkpoint") == Some("bitmap"));
    nodes.filter_map(|node| node.attribute("name")).map(ToOwned::to_owned).collect()
}

/// A checkpoint's description as if it were of one disk only.
fn keep_only(xml: &str, target: &str) -> String {
    let Some(old) = disks(xml) else { return xml.to_owned() };
    let targets = targets(xml);
    let kept = list(targets.iter().map(String::as_str), target);
    xml.replacen(old, &format!("<disks>{kept}"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domaincheckpoint><name>c</name><disks>\
        <disk name='vda' checkpoint='bitmap' bitmap='c'/><disk name='vdb' checkpoint='no'/>\
        <disk name='vdc' checkpoint='bitmap' bitmap='c'/></disks>\
        <domain><disks/></domain></domaincheckpoint>";

    #[test]
    fn parents_go() {
        let xml = "<c><name>a</name><parent><name>p</name></parent><x/></c>";
        assert_eq!(without_parent(xml), "<c><name>a</name><x/></c>");
        assert_eq!(without_parent("<c/>"), "<c/>");
    }

    #[test]
    fn one_disk_after_the_other() {
        assert_eq!(targets(XML), ["vda", "vdc"]);
        let vdc = keep_only(XML, "vdc");
        assert_eq!(targets(&vdc), ["vdc"]);
        assert!(vdc.ends_with("</disks><domain><disks/></domain></domaincheckpoint>"), "{vdc}");
        assert_eq!(targets("<domaincheckpoint/>"), Vec::<String>::new());
        assert_eq!(keep_only("<x/>", "vda"), "<x/>");
    }
}
