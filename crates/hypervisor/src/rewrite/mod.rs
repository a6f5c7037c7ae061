//! Changes of a machine's description, for a restore elsewhere or beside the original.
//!
//! All other bytes stay as they are: comments, the order of elements, and elements of newer libvirt
//! versions that this program does not know.

mod disk;
mod editor;
mod identity;
mod isolate;
mod network;
mod runtime;

pub use disk::DiskChange;
pub use isolate::Isolation;
pub use network::{MacChange, NetworkMapping, NetworkRef};

use std::collections::BTreeMap;

use roxmltree::Node;
use strongroom_base::Entropy;

use crate::{
    Machine, Uuid,
    error::Result,
    machine::devices::{host_files, is_terminal},
    xml::{self, at, attribute, child, wrong},
};
use editor::Editor;

/// What is to be different. By default, nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Another name.
    pub name: Option<String>,
    /// Another name for people.
    pub title: Option<String>,
    /// Another identity; also where the guest sees it in its firmware's tables.
    pub uuid: Option<Uuid>,
    /// Another generation identity, if the machine has one: the guest learns that it was copied or
    /// set back. A domain controller needs that.
    pub new_generation: bool,
    /// Other addresses of network interfaces.
    pub macs: MacChange,
    /// Other networks, for interfaces that are on the first of a mapping.
    pub networks: Vec<NetworkMapping>,
    /// All cables are pulled, for a machine that runs beside its original.
    pub links_down: bool,
    /// Other sources of disks, by target.
    pub disks: BTreeMap<String, DiskChange>,
    /// A description that says how QEMU drives the disks: its `<driver>` elements replace those of the disks with
    /// the same targets.
    pub drivers_of: Option<String>,
    /// Another file for the firmware's variables.
    pub nvram: Option<String>,
    /// Another file of the firmware's code.
    pub loader: Option<String>,
    /// Another program that runs it.
    pub emulator: Option<String>,
    /// Another kind of mainboard.
    pub machine_type: Option<String>,
    /// Run it by `kvm`, or without the processor's help by `qemu`.
    pub kind: Option<String>,
    /// Another processor: a whole `<cpu>` element.
    pub cpu: Option<String>,
    /// What the files and sockets of terminals end with, so that they are not those of another machine.
    pub own_terminals: Option<String>,
    /// What only belongs to one run goes: ids, ports, terminals, labels, jobs. Needed if the
    /// description is that of a running machine.
    pub forget_run: bool,
}

impl Machine {
    /// Makes `changes` to a description. What comes out is read again before it is given.
    pub fn rewrite(text: &str, changes: &Changes, entropy: &dyn Entropy) -> Result<String> {
        const WHAT: &str = "a machine";
        let machine = Self::parse(text)?;
        let document = xml::parse(text, "domain", WHAT)?;
        let root = document.root_element();
        let mut editor = Editor::new(text);
        identity::edit(&mut editor, root, changes, entropy);
        hardware(&mut editor, root, changes);
        let no_devices = || wrong(WHAT, "it has no devices");
        let devices = child(root, "devices");
        if let Some(devices) = devices {
            network::edit(&mut editor, devices, &machine, changes, entropy)?;
        }
        if !changes.disks.is_empty() {
            disk::edit(&mut editor, devices.ok_or_else(no_devices)?, &machine, &changes.disks)?;
        }
        if let (Some(other), Some(devices)) = (&changes.drivers_of, devices) {
            disk::edit_drivers(&mut editor, devices, other)?;
        }
        if let (Some(end), Some(devices)) = (&changes.own_terminals, devices) {
            for device in devices.children().filter(is_terminal) {
                for ((node, name), path) in host_files(device) {
                    editor.set_attribute(node, name, &format!("{path}.{end}"));
                }
            }
        }
        if changes.forget_run {
            runtime::forget(&mut editor, root);
        }
        let changed = editor.apply()?;
        Self::parse(&changed)?;
        Ok(changed)
    }
}

/// Program, mainboard, processor and firmware.
fn hardware(editor: &mut Editor<'_>, root: Node<'_, '_>, changes: &Changes) {
    if let Some(kind) = &changes.kind {
        editor.set_attribute(root, "type", kind);
    }
    if let (Some(name), Some(node)) = (&changes.machine_type, at(root, &["os", "type"])) {
        editor.set_attribute(node, "machine", name);
    }
    if let (Some(path), Some(node)) = (&changes.emulator, at(root, &["devices", "emulator"])) {
        editor.set_text(node, path);
    } else if let (Some(path), Some(devices)) = (&changes.emulator, child(root, "devices")) {
        let path = editor.escaped(path);
        editor.append(devices, &format!("<emulator>{path}</emulator>"));
    }
    match (&changes.cpu, child(root, "cpu"), child(root, "os")) {
        (Some(cpu), Some(node), _) => editor.replace(node, cpu.clone()),
        (Some(cpu), None, Some(os)) => editor.insert_after(os, cpu),
        _ => {}
    }
    let Some(os) = child(root, "os") else { return };
    if let (Some(path), Some(node)) = (&changes.loader, child(os, "loader")) {
        editor.set_text(node, path);
    }
    if let Some(path) = &changes.nvram {
        nvram(editor, os, path);
    }
}

fn nvram(editor: &mut Editor<'_>, os: Node<'_, '_>, path: &str) {
    let old = child(os, "nvram");
    // What it had besides a path says what the old file was.
    let mut attributes = String::new();
    for name in ["template", "templateFormat", "format"] {
        if let Some(value) = old.and_then(|node| attribute(node, name)) {
            let value = editor.escaped(&value);
            attributes.extend([" ", name, "='", &value, "'"]);
        }
    }
    let new = format!("<nvram{attributes}>{}</nvram>", editor.escaped(path));
    match old {
        Some(node) => editor.replace(node, new),
        None => editor.append(os, &new),
    }
}

#[cfg(test)]
mod tests;
