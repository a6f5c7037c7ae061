//! Deleting checkpoints, whatever has become of their bitmaps.

use std::fmt::Write as _;

use strongroom_hypervisor::{Connection, Domain, HypervisorError};

use crate::live::escape;

/// Deletes a checkpoint with its bitmaps. Where libvirt cannot, because the bitmap of a disk is
/// missing or broken, it is deleted disk by disk, so that no bitmap stays in an image.
pub(crate) fn delete(
    connection: &Connection,
    domain: &Domain,
    name: &str,
) -> Result<(), HypervisorError> {
    match connection.delete_checkpoint(domain, name, false) {
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) if error.is_bad_checkpoint() => {}
        other => return other,
    }
    let xml = connection.checkpoint_xml(domain, name)?;
    connection.delete_checkpoint(domain, name, true)?;
    for disk in disks(&xml) {
        // A bitmap that is not there needs no deleting; one that cannot be deleted is in the way
        // of nothing, as each backup has its own.
        let one = only(&without_parent(&xml), &disk);
        let deleted = connection
            .redefine_checkpoint(domain, &one, false)
            .and_then(|()| connection.delete_checkpoint(domain, name, false));
        match deleted {
            Err(error) if error.is_connection() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, disk, name, "a bitmap that is not deleted");
                connection.delete_checkpoint(domain, name, true).ok();
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The disks of which a checkpoint has bitmaps.
fn disks(xml: &str) -> Vec<String> {
    let Ok(document) = roxmltree::Document::parse(xml) else { return Vec::new() };
    let list = document.root_element().children().find(|node| node.has_tag_name("disks"));
    let disks = list.into_iter().flat_map(|list| list.children());
    disks
        .filter(|disk| disk.attribute("checkpoint") == Some("bitmap"))
        .filter_map(|disk| disk.attribute("name").map(ToOwned::to_owned))
        .collect()
}

/// A checkpoint's description with the bitmap of one disk only.
fn only(xml: &str, disk: &str) -> String {
    let Ok(document) = roxmltree::Document::parse(xml) else { return xml.to_owned() };
    let list = document.root_element().children().find(|node| node.has_tag_name("disks"));
    let Some(list) = list else { return xml.to_owned() };
    let (before, after) = (xml.get(..list.range().start), xml.get(list.range().end..));
    let mut text = before.unwrap_or_default().to_owned();
    text.push_str("<disks>");
    for other in list.children().filter(roxmltree::Node::is_element) {
        let name = other.attribute("name").unwrap_or_default();
        if name == disk {
            text.push_str(xml.get(other.range()).unwrap_or_default());
        } else {
            write!(text, "<disk name='{}' checkpoint='no'/>", escape(name)).ok();
        }
    }
    text.push_str("</disks>");
    text.push_str(after.unwrap_or_default());
    text
}

/// A checkpoint's description without its parent, which may be deleted by the time it is needed.
pub(crate) fn without_parent(xml: &str) -> String {
    match (xml.find("<parent>"), xml.find("</parent>")) {
        (Some(start), Some(end)) if start < end => {
            let rest = xml.get(end.saturating_add("</parent>".len())..).unwrap_or_default();
            format!("{}{rest}", xml.get(..start).unwrap_or_default())
        }
        _ => xml.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_go() {
        let xml = "<c><name>a</name><parent><name>p</name></parent><x/></c>";
        assert_eq!(without_parent(xml), "<c><name>a</name><x/></c>");
        assert_eq!(without_parent("<c/>"), "<c/>");
    }

    #[test]
    fn one_disk_after_the_other() {
        let xml = "<c><name>a</name><disks>\n<disk name='vda' checkpoint='bitmap' bitmap='a'/>\n\
                   <disk name='vdb' checkpoint='bitmap' bitmap='a'/>\
                   <disk name='vdc' checkpoint='no'/></disks><domain><disks/></domain></c>";
        assert_eq!(disks(xml), ["vda", "vdb"]);
        assert_eq!(
            only(xml, "vdb"),
            "<c><name>a</name><disks><disk name='vda' checkpoint='no'/>\
             <disk name='vdb' checkpoint='bitmap' bitmap='a'/>\
             <disk name='vdc' checkpoint='no'/></disks><domain><disks/></domain></c>"
        );
    }
}
