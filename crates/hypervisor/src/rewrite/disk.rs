//! The new locations of a machine's restored disks.

use std::collections::BTreeMap;

use roxmltree::Node;

use super::Editor;
use crate::{
    HypervisorError, Machine,
    error::Result,
    xml::{self, attribute, attribute_of, child, children},
};

/// What QEMU does for a disk that is an overlay, as attributes of its driver.
const STOPS: &str = " error_policy='stop' rerror_policy='stop' discard='ignore'";

/// What becomes of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskChange {
    /// It is a file of its own, with no others under it.
    File {
        /// The path.
        path: String,
        /// Its format: `qcow2` or `raw`.
        format: String,
        /// Whether the file is encrypted as the old one was.
        encrypted: bool,
    },
    /// It is a device of the host.
    Block {
        /// The path.
        path: String,
    },
    /// It is a qcow2 file that has an export of an NBD server under it. QEMU does not pass on errors to the
    /// guest but stops it, and discards do nothing.
    Overlay {
        /// The path.
        path: String,
        /// The socket file of the NBD server.
        socket: String,
        /// The name of the export.
        export: String,
    },
    /// The machine has it no more.
    Remove,
    /// The drive stays and is empty. For CD and floppy drives.
    Eject,
}

pub(super) fn edit(
    editor: &mut Editor<'_>,
    devices: Node<'_, '_>,
    machine: &Machine,
    changes: &BTreeMap<String, DiskChange>,
) -> Result<()> {
    for (target, change) in changes {
        let is_it = |node: &Node<'_, '_>| {
            attribute_of(*node, "target", "dev").as_deref() == Some(target.as_str())
        };
        let Some(disk) = children(devices, "disk").find(is_it) else {
            return Err(HypervisorError::no_disk(machine, target));
        };
        match change {
            DiskChange::Remove => editor.remove(disk),
            DiskChange::Eject => {
                editor.set_attribute(disk, "type", "file");
                children(disk, "source").for_each(|source| editor.remove(source));
                without_past(editor, disk);
            }
            DiskChange::File { path, format, encrypted } => {
                let place = Place { kind: "file", attribute: "file", path, format, policy: "" };
                put(editor, disk, &place, *encrypted);
            }
            DiskChange::Overlay { path, socket, export } => {
                let place =
                    Place { kind: "file", attribute: "file", path, format: "qcow2", policy: STOPS };
                put(editor, disk, &place, false);
                above(editor, disk, socket, export);
            }
            DiskChange::Block { path } => {
                let place =
                    Place { kind: "block", attribute: "dev", path, format: "raw", policy: "" };
                put(editor, disk, &place, false);
            }
        }
    }
    Ok(())
}

struct Place<'a> {
    kind: &'static str,
    attribute: &'static str,
    path: &'a str,
    format: &'a str,
    /// Further attributes of its driver, if it has none yet.
    policy: &'static str,
}

fn put(editor: &mut Editor<'_>, disk: Node<'_, '_>, place: &Place<'_>, encrypted: bool) {
    editor.set_attribute(disk, "type", place.kind);
    // Commands cannot be passed through to a file, and what was restored is no longer that device.
    if attribute(disk, "device").as_deref() == Some("lun") {
        editor.set_attribute(disk, "device", "disk");
    }
    ["sgio", "rawio"].into_iter().for_each(|name| editor.remove_attribute(disk, name));
    let source = source(editor, disk, place, encrypted);
    if let Some(driver) = child(disk, "driver") {
        editor.set_attribute(driver, "type", place.format);
    } else {
        let (format, policy) = (editor.escaped(place.format), place.policy);
        editor.append(disk, &format!("<driver name='qemu' type='{format}'{policy}/>"));
    }
    match child(disk, "source") {
        Some(node) => editor.replace(node, source),
        None => editor.append(disk, &source),
    }
    without_past(editor, disk);
    // libvirt refuses to share what is not raw, and a copy is nobody else's.
    if let (Some(node), true) = (child(disk, "shareable"), place.format != "raw") {
        editor.remove(node);
    }
    if !encrypted && let Some(node) = child(disk, "encryption") {
        editor.remove(node);
    }
}

/// Replaces the drivers of disks by those that another description has of them.
pub(super) fn edit_drivers(
    editor: &mut Editor<'_>,
    devices: Node<'_, '_>,
    other: &str,
) -> Result<()> {
    let document = xml::parse(other, "domain", "a machine")?;
    let Some(others) = child(document.root_element(), "devices") else { return Ok(()) };
    let target = |disk: Node<'_, '_>| attribute_of(disk, "target", "dev");
    for theirs in children(others, "disk") {
        let disk = children(devices, "disk").find(|disk| target(*disk) == target(theirs));
        let (Some(disk), Some(driver)) = (disk, child(theirs, "driver")) else { continue };
        let new = other.get(driver.range()).unwrap_or_default();
        match child(disk, "driver") {
            Some(node) => editor.replace(node, new.to_owned()),
            None => editor.append(disk, new),
        }
    }
    Ok(())
}

/// Puts an export of an NBD server under a disk whose source is an empty overlay.
///
/// QEMU up to 11.0.0 can corrupt an image if the guest discards while it writes to a cluster for the first time
/// ("Fix corruption on discard during write with COW", April 2026), and nearly all clusters are new here.
fn above(editor: &mut Editor<'_>, disk: Node<'_, '_>, socket: &str, export: &str) {
    let driver = child(disk, "driver");
    if let Some(driver) = driver {
        for name in ["error_policy", "rerror_policy"] {
            editor.set_attribute(driver, name, "stop");
        }
        editor.set_attribute(driver, "discard", "ignore");
        ["detect_zeroes", "copy_on_read"]
            .into_iter()
            .for_each(|name| editor.remove_attribute(driver, name));
        // A flush has to reach the disk, or the guest's latest writes are lost with the host.
        if attribute(driver, "cache").as_deref() == Some("unsafe") {
            editor.remove_attribute(driver, "cache");
        }
    }
    let (socket, export) = (editor.escaped(socket), editor.escaped(export));
    editor.append(
        disk,
        &format!(
            "<backingStore type='network'><format type='raw'/>\
             <source protocol='nbd' name='{export}'><host transport='unix' socket='{socket}'/></source>\
             <backingStore/></backingStore>"
        ),
    );
}

/// The new `<source>`. Of the old one's children only its encryption may still be true.
fn source(
    editor: &mut Editor<'_>,
    disk: Node<'_, '_>,
    place: &Place<'_>,
    encrypted: bool,
) -> String {
    let tag = format!("<source {}='{}'", place.attribute, editor.escaped(place.path));
    let encryption = child(disk, "source").and_then(|source| child(source, "encryption"));
    match encryption.filter(|_| encrypted) {
        Some(encryption) => format!("{tag}>{}</source>", editor.source(encryption)),
        None => format!("{tag}/>"),
    }
}

/// Removes what was true of the old source: images under it, jobs on it, its password's name.
fn without_past(editor: &mut Editor<'_>, disk: Node<'_, '_>) {
    for name in ["backingStore", "mirror", "auth"] {
        children(disk, name).for_each(|node| editor.remove(node));
    }
}
