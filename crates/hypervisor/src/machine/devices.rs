//! A machine's devices besides disks.

use std::fmt;

use roxmltree::Node;

use super::SecretRef;
use crate::{
    Uuid,
    xml::{at, attribute, attribute_of, child, children, text_of, yes},
};

/// The channel's name by which the guest agent is found.
const AGENT: &str = "org.qemu.guest_agent.0";

/// A TPM. What it keeps is in no disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm {
    /// `tpm-crb`, `tpm-tis`, ...
    pub model: Option<String>,
    /// What is behind it.
    pub backend: TpmBackend,
}

/// What is behind a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TpmBackend {
    /// A program (`swtpm`) that keeps its state in the host's files.
    Emulator {
        /// `1.2` or `2.0`.
        version: Option<String>,
        /// The secret that its state is encrypted with.
        secret: Option<SecretRef>,
        /// Whether the state outlives the machine's definition.
        persistent_state: bool,
        /// Where its state is, if not in the usual place.
        state: Option<String>,
    },
    /// The host's own.
    Passthrough {
        /// The device.
        path: Option<String>,
    },
    /// Another process.
    External {
        /// Its kind.
        kind: String,
    },
}

/// The channel of the guest agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentChannel {
    /// Whether the guest has opened it; only known of a running machine.
    pub connected: Option<bool>,
    /// The path of the socket at which QEMU listens for whom it leads to; only known of a running
    /// machine.
    pub socket: Option<String>,
}

/// The files and sockets that its terminals write to.
pub(super) fn terminals(devices: Node<'_, '_>) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for device in devices.children().filter(is_terminal) {
        for (_, path) in host_files(device) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths
}

/// Whether a device is a serial port, a console or the like.
pub(crate) fn is_terminal(device: &Node<'_, '_>) -> bool {
    matches!(device.tag_name().name(), "serial" | "parallel" | "console" | "channel")
}

/// The files and sockets that QEMU makes for a terminal, each with the element that names it in its
/// attribute `path` or `file`. Those in libvirt's own folders are not counted: they have the machine's name.
pub(crate) fn host_files<'a, 'input>(
    device: Node<'a, 'input>,
) -> Vec<((Node<'a, 'input>, &'static str), String)> {
    let kind = attribute(device, "type");
    let source = child(device, "source").filter(|source| match kind.as_deref() {
        Some("file") => true,
        Some("unix") => attribute(*source, "mode").as_deref() == Some("bind"),
        _ => false,
    });
    let places = [(source, "path"), (child(device, "log"), "file")];
    let named = places.into_iter().filter_map(|(node, name)| {
        let node = node?;
        Some(((node, name), attribute(node, name)?))
    });
    named.filter(|(_, path)| !path.contains("/libvirt/qemu/")).collect()
}

/// What a network interface is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// One of libvirt's networks.
    Network,
    /// A bridge of the host.
    Bridge,
    /// A device of the host.
    Direct,
    /// The host's own network, by a process of the user.
    User,
    /// Something else, as libvirt calls it.
    Other(String),
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its address.
    pub mac: Option<String>,
    /// What it is connected to.
    pub kind: InterfaceKind,
    /// Its name: of the network, bridge or device.
    pub source: Option<String>,
    /// The kind of card: `virtio`, `e1000e`, ...
    pub model: Option<String>,
    /// libvirt's name for the device on the host; only of a running machine, or if it was chosen.
    pub target: Option<String>,
}

/// A device of the host that a machine was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostDevice {
    /// A PCI device.
    Pci {
        /// `0000:01:00.0`.
        address: String,
    },
    /// A USB device.
    Usb {
        /// Vendor and product, or bus and device.
        id: String,
    },
    /// A part of a device, such as a virtual GPU.
    Mediated {
        /// Which.
        uuid: Option<Uuid>,
    },
    /// Something else, as libvirt calls it.
    Other {
        /// The kind.
        kind: String,
    },
}

/// A folder of the host that a machine sees. It is in no disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// How: `virtiofs`, `path` (9p), ...
    pub driver: Option<String>,
    /// The folder.
    pub source: Option<String>,
    /// The guest's name for it.
    pub target: Option<String>,
}

pub(super) fn tpm(devices: Node<'_, '_>) -> Option<Tpm> {
    let node = child(devices, "tpm")?;
    let backend = child(node, "backend")?;
    let backend = match attribute(backend, "type")?.as_str() {
        "emulator" => TpmBackend::Emulator {
            version: attribute(backend, "version"),
            secret: encryption(backend),
            persistent_state: yes(backend, "persistent_state"),
            state: attribute_of(backend, "source", "path"),
        },
        "passthrough" => TpmBackend::Passthrough { path: attribute_of(backend, "device", "path") },
        other => TpmBackend::External { kind: other.to_owned() },
    };
    Some(Tpm { model: attribute(node, "model"), backend })
}

/// The secret of a TPM, which is named by `secret` itself.
fn encryption(backend: Node<'_, '_>) -> Option<SecretRef> {
    let uuid = attribute_of(backend, "encryption", "secret")?;
    uuid.parse().ok().map(SecretRef::Uuid)
}

pub(super) fn agent(devices: Node<'_, '_>) -> Option<AgentChannel> {
    let is_agent =
        |channel: &Node<'_, '_>| attribute_of(*channel, "target", "name").as_deref() == Some(AGENT);
    let channel = children(devices, "channel").find(is_agent)?;
    let connected = attribute_of(channel, "target", "state").map(|state| state == "connected");
    // Only where QEMU listens can somebody else than libvirt connect.
    let listens = attribute_of(channel, "source", "mode").as_deref() == Some("bind");
    let socket = attribute_of(channel, "source", "path").filter(|_| listens);
    Some(AgentChannel { connected, socket })
}

pub(super) fn interfaces(devices: Node<'_, '_>) -> Vec<Interface> {
    children(devices, "interface").map(interface).collect()
}

fn interface(node: Node<'_, '_>) -> Interface {
    let kind = attribute(node, "type").unwrap_or_default();
    let (kind, source) = match kind.as_str() {
        "network" => (InterfaceKind::Network, Some("network")),
        "bridge" => (InterfaceKind::Bridge, Some("bridge")),
        "direct" => (InterfaceKind::Direct, Some("dev")),
        "user" => (InterfaceKind::User, None),
        "vhostuser" => (InterfaceKind::Other(kind), Some("path")),
        _ => (InterfaceKind::Other(kind), Some("dev")),
    };
    Interface {
        mac: attribute_of(node, "mac", "address"),
        kind,
        source: source.and_then(|name| attribute_of(node, "source", name)),
        model: attribute_of(node, "model", "type"),
        target: attribute_of(node, "target", "dev"),
    }
}

pub(super) fn host_devices(devices: Node<'_, '_>) -> Vec<HostDevice> {
    children(devices, "hostdev").map(host_device).collect()
}

fn host_device(node: Node<'_, '_>) -> HostDevice {
    let kind = attribute(node, "type").unwrap_or_default();
    let address = at(node, &["source", "address"]);
    let part = |name: &str| address.and_then(|address| attribute(address, name));
    match kind.as_str() {
        "pci" => HostDevice::Pci { address: pci_address(&part) },
        "usb" => HostDevice::Usb { id: usb_id(node) },
        "mdev" => HostDevice::Mediated { uuid: part("uuid").and_then(|text| text.parse().ok()) },
        _ => HostDevice::Other { kind },
    }
}

fn pci_address(part: &dyn Fn(&str) -> Option<String>) -> String {
    let hexadecimal = |name: &str, width: usize| {
        let text = part(name).unwrap_or_default();
        let number = u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default();
        format!("{number:0width$x}")
    };
    let (domain, bus) = (hexadecimal("domain", 4), hexadecimal("bus", 2));
    format!("{domain}:{bus}:{}.{}", hexadecimal("slot", 2), hexadecimal("function", 1))
}

fn usb_id(node: Node<'_, '_>) -> String {
    let Some(source) = child(node, "source") else { return "unknown".to_owned() };
    let pair = |(one, one_name): (&'static str, _), (two, two_name): (&'static str, _)| {
        let one = attribute_of(source, one, one_name)?;
        Some(format!("{one}:{}", attribute_of(source, two, two_name)?))
    };
    pair(("vendor", "id"), ("product", "id"))
        .or_else(|| pair(("address", "bus"), ("address", "device")))
        .unwrap_or_else(|| "unknown".to_owned())
}

pub(super) fn filesystems(devices: Node<'_, '_>) -> Vec<Filesystem> {
    let filesystem = |node| Filesystem {
        driver: attribute_of(node, "driver", "type"),
        source: attribute_of(node, "source", "dir")
            .or_else(|| attribute_of(node, "source", "socket")),
        target: attribute_of(node, "target", "dir"),
    };
    children(devices, "filesystem").map(filesystem).collect()
}

pub(super) fn lasting_memory(devices: Node<'_, '_>) -> Vec<String> {
    let lasts = |node: &Node<'_, '_>| {
        matches!(attribute(*node, "model").as_deref(), Some("nvdimm" | "virtio-pmem"))
    };
    let path = |node| child(node, "source").and_then(|source| text_of(source, "path"));
    children(devices, "memory").filter(lasts).filter_map(path).collect()
}

impl fmt::Display for HostDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci { address } => write!(f, "PCI device {address}"),
            Self::Usb { id } => write!(f, "USB device {id}"),
            Self::Mediated { uuid: Some(uuid) } => write!(f, "mediated device {uuid}"),
            Self::Mediated { uuid: None } => f.write_str("mediated device"),
            Self::Other { kind } => write!(f, "device of type {kind:?}"),
        }
    }
}
