//! Checkpoints and bitmaps that no point needs any more.
//!
//! libvirt deletes a checkpoint with its bitmaps only if all of them are as they should be. Where
//! one is not, libvirt is made to forget the checkpoint, and then told of it again for one disk
//! after the other: what can be deleted is, and the others are not there.

use strongroom_hypervisor::{Connection, Domain, HypervisorError, Machine};

use crate::{image, live::escape};

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

/// Deletes bitmaps with the names of our checkpoints that libvirt does not know: of a machine whose
/// definition is made anew at each start, or after somebody made libvirt forget them.
pub(crate) fn sweep(
    connection: &Connection,
    domain: &Domain,
    machine: &Machine,
    description: &str,
    prefix: &str,
    wanted: Option<&str>,
) -> Result<(), HypervisorError> {
    let known = connection.checkpoints(domain)?;
    let is_orphan = |name: &str| {
        name.starts_with(prefix) && Some(name) != wanted && known.iter().all(|other| other != name)
    };
    for disk in machine.disks.iter().filter(|disk| disk.can_hold_bitmaps()) {
        let Some(path) = disk.source.path() else { continue };
        let chain = image::chain(path.as_ref(), "qcow2");
        let bitmaps = chain.first().map(|top| top.bitmaps.as_slice()).unwrap_or_default();
        for orphan in bitmaps.iter().filter(|bitmap| is_orphan(&bitmap.name)) {
            let xml = only(&orphan.name, &disk.target, machine, description);
            delete_redefined(connection, domain, &orphan.name, &xml);
        }
    }
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
    let disks: String = machine
        .disks
        .iter()
        .map(|disk| {
            let kind = if disk.target == target { "bitmap" } else { "no" };
            format!("<disk name='{}' checkpoint='{kind}'/>", escape(&disk.target))
        })
        .collect();
    format!(
        "<domaincheckpoint><name>{}</name><creationTime>1</creationTime><disks>{disks}</disks>\
         {domain}</domaincheckpoint>",
        escape(name)
    )
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
    let Some(list) = disks(xml) else { return xml.to_owned() };
    let kept: String = targets(xml)
        .iter()
        .map(|other| {
            let kind = if other == target { "bitmap" } else { "no" };
            format!("<disk name='{}' checkpoint='{kind}'/>", escape(other))
        })
        .collect();
    xml.replacen(list, &format!("<disks>{kept}"), 1)
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
