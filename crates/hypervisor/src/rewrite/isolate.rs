//! A machine that reaches nothing but its own disks: for starting one only to see whether it boots.
//!
//! What it was given of the host goes: devices, folders, terminals, sound, the network. What the guest sees of its
//! hardware stays where that is possible, as its drivers depend on it.

use roxmltree::Node;

use super::Editor;
use crate::{
    Machine,
    error::Result,
    xml::{self, attribute, attribute_of, child, children, wrong},
};

/// The channel's name by which the guest agent is found.
const AGENT: &str = "org.qemu.guest_agent.0";

/// Elements of a machine that are about the host it ran on.
const OF_THE_HOST: [&str; 9] = [
    "cputune",
    "numatune",
    "memtune",
    "blkiotune",
    "memoryBacking",
    "resource",
    "perf",
    // QEMU's own arguments, which may be anything.
    "commandline",
    "override",
];

/// Devices that reach something of the host, or need a program for it.
const DEVICES_OF_THE_HOST: [&str; 13] = [
    "hostdev",
    "filesystem",
    "redirdev",
    "redirfilter",
    "smartcard",
    "shmem",
    "lease",
    "vsock",
    "graphics",
    "audio",
    "sound",
    "pstore",
    "hub",
];

/// The port of the discard protocol (RFC 863).
const DISCARD: u16 = 9;

/// What an isolated machine is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// The socket file at which QEMU listens for who reads the machine's first serial port.
    pub console: Option<String>,
    /// The network of libvirt that all interfaces are on; if not given, what they send is discarded.
    pub network: Option<String>,
    /// How far the guest's clock is from the host's, seconds.
    pub clock: Option<i64>,
    /// Another amount of memory, bytes.
    pub memory: Option<u64>,
    /// Another number of processors.
    pub processors: Option<u32>,
}

impl Machine {
    /// Takes away from a description all that reaches beyond the machine's own disks.
    pub fn isolate(text: &str, isolation: &Isolation) -> Result<String> {
        const WHAT: &str = "a machine";
        Self::parse(text)?;
        let document = xml::parse(text, "domain", WHAT)?;
        let root = document.root_element();
        let devices = child(root, "devices").ok_or_else(|| wrong(WHAT, "it has no devices"))?;
        let mut editor = Editor::new(text);
        for node in root.children().filter(Node::is_element) {
            if OF_THE_HOST.contains(&node.tag_name().name()) {
                editor.remove(node);
            }
        }
        life(&mut editor, root);
        clock(&mut editor, root, isolation.clock);
        limits(&mut editor, root, isolation);
        for device in devices.children().filter(Node::is_element) {
            self::device(&mut editor, device, isolation);
        }
        terminals(&mut editor, devices, isolation.console.as_deref());
        let isolated = editor.apply()?;
        Self::parse(&isolated)?;
        Ok(isolated)
    }
}

/// What becomes of it when its guest ends: after a crash it stays to be looked at.
fn life(editor: &mut Editor<'_>, root: Node<'_, '_>) {
    let devices = child(root, "devices");
    for (name, action) in
        [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "preserve")]
    {
        match (child(root, name), devices) {
            (Some(node), _) => editor.set_text(node, action),
            (None, Some(devices)) => {
                editor.insert_after(devices, &format!("<{name}>{action}</{name}>"));
            }
            (None, None) => {}
        }
    }
}

/// The guest's clock, by an offset from the host's. Guests that keep local time still do.
fn clock(editor: &mut Editor<'_>, root: Node<'_, '_>, offset: Option<i64>) {
    let Some(offset) = offset else { return };
    let Some(clock) = child(root, "clock") else {
        if let Some(devices) = child(root, "devices") {
            let new = format!("<clock offset='variable' adjustment='{offset}' basis='utc'/>");
            editor.insert_after(devices, &new);
        }
        return;
    };
    let was = attribute(clock, "offset").unwrap_or_default();
    let is_local = was == "localtime"
        || was == "timezone"
        || attribute(clock, "basis").as_deref() == Some("localtime");
    for name in ["timezone", "start"] {
        editor.remove_attribute(clock, name);
    }
    editor.set_attribute(clock, "offset", "variable");
    editor.set_attribute(clock, "adjustment", &offset.to_string());
    editor.set_attribute(clock, "basis", if is_local { "localtime" } else { "utc" });
}

fn limits(editor: &mut Editor<'_>, root: Node<'_, '_>, isolation: &Isolation) {
    if let Some(bytes) = isolation.memory {
        for name in ["memory", "currentMemory"] {
            if let Some(node) = child(root, name) {
                editor.replace(node, format!("<{name} unit='b'>{bytes}</{name}>"));
            }
        }
        if let Some(node) = child(root, "maxMemory") {
            editor.remove(node);
        }
    }
    if let Some(count) = isolation.processors {
        if let Some(node) = child(root, "vcpu") {
            editor.replace(node, format!("<vcpu>{count}</vcpu>"));
        }
        if let Some(node) = child(root, "vcpus") {
            editor.remove(node);
        }
    }
    let Some(cpu) = child(root, "cpu") else { return };
    let is_other = isolation.memory.is_some() || isolation.processors.is_some();
    for name in ["topology", "numa"] {
        if let (Some(node), true) = (child(cpu, name), is_other) {
            editor.remove(node);
        }
    }
}

fn device(editor: &mut Editor<'_>, device: Node<'_, '_>, isolation: &Isolation) {
    let name = device.tag_name().name();
    if DEVICES_OF_THE_HOST.contains(&name) {
        editor.remove(device);
        return;
    }
    let is_kind = |kinds: &[&str]| {
        attribute(device, "type").is_some_and(|kind| kinds.contains(&kind.as_str()))
    };
    match name {
        "interface" => interface(editor, device, isolation.network.as_deref()),
        "input" if is_kind(&["passthrough", "evdev"]) => editor.remove(device),
        // Memory that lasts is a file of the host; memory that is plugged in later needs room that the machine may no
        // longer have.
        "memory"
            if child(device, "source").is_some_and(|source| child(source, "path").is_some())
                || isolation.memory.is_some()
                || isolation.processors.is_some() =>
        {
            editor.remove(device);
        }
        "tpm" if attribute_of(device, "backend", "type").as_deref() != Some("emulator") => {
            editor.remove(device);
        }
        "rng" => {
            if let Some(backend) = child(device, "backend") {
                let source = "<backend model='random'>/dev/urandom</backend>";
                editor.replace(backend, source.to_owned());
            }
        }
        "video" => {
            // It needs a program that shows the screen.
            let model = child(device, "model");
            if let Some(node) = model.and_then(|model| child(model, "acceleration")) {
                editor.remove(node);
            }
        }
        _ => {}
    }
}

/// The card stays, with its address; its other end does not.
fn interface(editor: &mut Editor<'_>, interface: Node<'_, '_>, network: Option<&str>) {
    let kept = ["mac", "model", "address", "boot", "rom"];
    let kept: String = kept
        .into_iter()
        .filter_map(|name| child(interface, name))
        .map(|node| editor.source(node))
        .collect();
    let new = match network {
        Some(name) => {
            let name = editor.escaped(name);
            format!("<interface type='network'><source network='{name}'/>{kept}</interface>")
        }
        // What it sends goes to the port of this host that discards, and to nobody else. The guest has a carrier, so that
        // it keeps the addresses that were given to it.
        None => format!(
            "<interface type='udp'><source address='127.0.0.1' port='{DISCARD}'>\
             <local address='127.0.0.1' port='0'/></source>{kept}</interface>"
        ),
    };
    editor.replace(interface, new);
}

/// The first serial port, or console if there is none, leads to us; the others to nobody.
fn terminals(editor: &mut Editor<'_>, devices: Node<'_, '_>, console: Option<&str>) {
    // libvirt's second description of the first serial port.
    let is_serial_again = |node: &Node<'_, '_>| {
        attribute_of(*node, "target", "type").is_none_or(|kind| kind == "serial")
    };
    let consoles = children(devices, "console").filter(|node| !is_serial_again(node));
    let first = children(devices, "serial").chain(consoles).next();
    for device in children(devices, "console").filter(is_serial_again) {
        editor.remove(device);
    }
    for name in ["serial", "parallel", "console", "channel"] {
        for device in children(devices, name) {
            if name == "console" && is_serial_again(&device) {
                continue;
            }
            let is_agent = attribute_of(device, "target", "name").as_deref() == Some(AGENT);
            let is_first = first == Some(device);
            terminal(editor, device, if is_first { console } else { None }, is_agent);
        }
    }
}

fn terminal(editor: &mut Editor<'_>, device: Node<'_, '_>, socket: Option<&str>, is_agent: bool) {
    for name in ["source", "protocol", "log"] {
        children(device, name).for_each(|node| editor.remove(node));
    }
    if is_agent {
        // At the place that libvirt chooses.
        editor.set_attribute(device, "type", "unix");
        return;
    }
    match socket {
        Some(path) => {
            editor.set_attribute(device, "type", "unix");
            let path = editor.escaped(path);
            editor.append(device, &format!("<source mode='bind' path='{path}'/>"));
        }
        None => editor.set_attribute(device, "type", "null"),
    }
}

#[cfg(test)]
#[path = "isolate_tests.rs"]
mod tests;
