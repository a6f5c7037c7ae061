//! The new locations of a machine's restored disks.

use std::collections::BTreeMap;

use roxmltree::Node;

use super::Editor;
use crate::{
    HypervisorError, Machine,
    error::Result,
    xml::{attribute, attribute_of, child, children},
};

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
                let place = Place { kind: "file", attribute: "file", path, format };
                put(editor, disk, &place, *encrypted);
            }
            DiskChange::Block { path } => {
                let place = Place { kind: "block", attribute: "dev", path, format: "raw" };
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
}

fn put(editor: &mut Editor<'_>, disk: Node<'_, '_>, place: &Place<'_>, encrypted: bool) {
    editor.set_attribute(disk, "type", place.kind);
    // Commands cannot be passed through to a file, and what was restored is no longer that device.
    if attribute(disk, "device").as_deref() == Some("lun") {
        editor.set_attribute(disk, "device", "disk");
    }
    ["sgio", "rawio"].into_iter().for_each(|name| editor.remove_attribute(disk, name));
    let source = source(editor, disk, place, encrypted);
    let driver = child(disk, "driver");
    if let Some(driver) = driver {
        editor.set_attribute(driver, "type", place.format);
    } else {
        let format = editor.escaped(place.format);
        editor.append(disk, &format!("<driver name='qemu' type='{format}'/>"));
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
