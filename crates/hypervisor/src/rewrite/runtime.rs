//! Parts of a description that belong to one run of a machine only.

use roxmltree::Node;

use super::Editor;
use crate::xml::{attribute, attribute_of, child, children, yes};

pub(super) fn forget(editor: &mut Editor<'_>, root: Node<'_, '_>) {
    editor.remove_attribute(root, "id");
    for label in children(root, "seclabel") {
        // libvirt makes new labels for each run, unless they were chosen by hand.
        if attribute(label, "type").as_deref() == Some("dynamic") {
            children(label, "label").for_each(|node| editor.remove(node));
            children(label, "imagelabel").for_each(|node| editor.remove(node));
        }
    }
    let Some(devices) = child(root, "devices") else { return };
    for device in devices.children().filter(Node::is_element) {
        match device.tag_name().name() {
            "disk" => disk(editor, device),
            "interface" => interface(editor, device),
            "graphics" => graphics(editor, device),
            "serial" | "parallel" | "console" | "channel" => terminal(editor, device),
            _ => {}
        }
    }
}

fn disk(editor: &mut Editor<'_>, disk: Node<'_, '_>) {
    for node in disk.descendants().filter(Node::is_element) {
        if matches!(node.tag_name().name(), "source" | "backingStore") {
            editor.remove_attribute(node, "index");
        }
    }
    children(disk, "mirror").for_each(|node| editor.remove(node));
}

fn interface(editor: &mut Editor<'_>, interface: Node<'_, '_>) {
    let given =
        |name: &str| ["vnet", "macvtap", "macvlan"].iter().any(|start| name.starts_with(start));
    if let Some(target) = child(interface, "target")
        && attribute(target, "dev").is_some_and(|name| given(&name))
    {
        editor.remove(target);
    }
    let source = child(interface, "source");
    if let (Some(source), Some("network")) = (source, attribute(interface, "type").as_deref()) {
        ["portid", "bridge", "dev"].into_iter().for_each(|name| {
            editor.remove_attribute(source, name);
        });
    }
}

/// Ports that libvirt has chosen.
fn graphics(editor: &mut Editor<'_>, graphics: Node<'_, '_>) {
    if !yes(graphics, "autoport") {
        return;
    }
    for (name, none) in [("port", "-1"), ("tlsPort", "-1"), ("websocket", "-1")] {
        if attribute(graphics, name).is_some() {
            editor.set_attribute(graphics, name, none);
        }
    }
}

/// Terminals, and sockets in libvirt's own folders, which have the machine's name in their path.
fn terminal(editor: &mut Editor<'_>, device: Node<'_, '_>) {
    editor.remove_attribute(device, "tty");
    let Some(path) = attribute_of(device, "source", "path") else { return };
    let is_pty = attribute(device, "type").as_deref() == Some("pty");
    let is_libvirts = path.contains("/libvirt/qemu/") && path.contains("/channel/")
        || path.contains("/libvirt/qemu/channel/")
        || path.contains("/libvirt/qemu/run/channel/");
    if let (Some(source), true) = (child(device, "source"), is_pty || is_libvirts) {
        editor.remove(source);
    }
}
