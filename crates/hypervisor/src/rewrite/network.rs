//! A machine's network interfaces: addresses, networks, cables.

use std::{collections::BTreeSet, fmt, str::FromStr};

use roxmltree::Node;
use strongroom_base::{Entropy, EntropyExt as _};

use super::{Changes, Editor};
use crate::{
    HypervisorError, Machine,
    error::Result,
    xml::{attribute, attribute_of, child, children, wrong},
};

/// Which interfaces get new addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MacChange {
    /// None.
    #[default]
    Keep,
    /// All.
    All,
    /// Those that have one of these.
    These(Vec<String>),
}

/// What an interface can be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkRef {
    /// One of libvirt's networks.
    Network(String),
    /// A bridge of the host.
    Bridge(String),
    /// A device of the host.
    Direct(String),
}

/// From where to where: `network=old:new`, `bridge=old:new`, `network=old:bridge=new`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMapping {
    /// What it is connected to.
    pub from: NetworkRef,
    /// What it will be connected to.
    pub to: NetworkRef,
}

impl NetworkRef {
    fn new(kind: &str, name: &str) -> Option<Self> {
        let name = (!name.is_empty()).then(|| name.to_owned())?;
        match kind {
            "network" => Some(Self::Network(name)),
            "bridge" => Some(Self::Bridge(name)),
            "direct" => Some(Self::Direct(name)),
            _ => None,
        }
    }

    /// The type of interface, the attribute of its source, and the name.
    fn parts(&self) -> (&'static str, &'static str, &str) {
        match self {
            Self::Network(name) => ("network", "network", name),
            Self::Bridge(name) => ("bridge", "bridge", name),
            Self::Direct(name) => ("direct", "dev", name),
        }
    }

    fn of(interface: Node<'_, '_>) -> Option<Self> {
        let kind = attribute(interface, "type")?;
        let name = if kind == "direct" { "dev" } else { kind.as_str() };
        Self::new(&kind, &attribute_of(interface, "source", name)?)
    }
}

impl FromStr for NetworkMapping {
    type Err = HypervisorError;

    fn from_str(text: &str) -> Result<Self> {
        let mapping = || {
            let (kind, names) = text.split_once('=')?;
            let (old, new) = names.split_once(':')?;
            let (new_kind, new) = new.split_once('=').unwrap_or((kind, new));
            Some(Self { from: NetworkRef::new(kind, old)?, to: NetworkRef::new(new_kind, new)? })
        };
        mapping().ok_or_else(|| HypervisorError::Mapping { text: text.to_owned() })
    }
}

impl fmt::Display for NetworkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, _, name) = self.parts();
        write!(f, "{kind} {name}")
    }
}

pub(super) fn edit(
    editor: &mut Editor<'_>,
    devices: Node<'_, '_>,
    machine: &Machine,
    changes: &Changes,
    entropy: &dyn Entropy,
) -> Result<()> {
    check_macs(machine, &changes.macs)?;
    let mut taken: BTreeSet<String> =
        machine.interfaces.iter().filter_map(|one| one.mac.clone()).map(lower).collect();
    for interface in children(devices, "interface") {
        if let Some(mac) = child(interface, "mac").filter(|mac| changes.macs.is_meant(*mac)) {
            let new = new_mac(&taken, entropy);
            editor.set_attribute(mac, "address", &new);
            taken.insert(new);
        }
        if let Some(from) = NetworkRef::of(interface) {
            let mapping = changes.networks.iter().find(|mapping| mapping.from == from);
            if let Some(NetworkMapping { to, .. }) = mapping {
                connect(editor, interface, &from, to);
            }
        }
        match (changes.links_down, child(interface, "link")) {
            (true, Some(link)) => editor.set_attribute(link, "state", "down"),
            (true, None) => editor.append(interface, "<link state='down'/>"),
            _ => {}
        }
    }
    Ok(())
}

fn lower(mut text: String) -> String {
    text.make_ascii_lowercase();
    text
}

impl MacChange {
    fn is_meant(&self, mac: Node<'_, '_>) -> bool {
        match (self, attribute(mac, "address")) {
            (Self::All, _) => true,
            (Self::These(these), Some(mac)) => {
                these.iter().any(|one| one.eq_ignore_ascii_case(&mac))
            }
            _ => false,
        }
    }
}

/// A machine that kept an address by mistake would take its original from the network.
fn check_macs(machine: &Machine, change: &MacChange) -> Result<()> {
    let MacChange::These(these) = change else { return Ok(()) };
    let has = |mac: &String| {
        let mut interfaces = machine.interfaces.iter().filter_map(|one| one.mac.as_ref());
        interfaces.any(|other| other.eq_ignore_ascii_case(mac))
    };
    match these.iter().find(|mac| !has(mac)) {
        Some(mac) => {
            let what = format!("machine {:?}", machine.name);
            Err(wrong(&what, format!("it has no interface with the address {mac:?}")))
        }
        None => Ok(()),
    }
}

/// An address of the range that QEMU has, which none of `taken` is.
fn new_mac(taken: &BTreeSet<String>, entropy: &dyn Entropy) -> String {
    let [a, b, c] = entropy.array();
    let start = u32::from_be_bytes([0, a, b, c]);
    let address = |step: u32| {
        let [_, a, b, c] = start.wrapping_add(step).to_be_bytes();
        format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
    };
    let mut addresses = (0..=u32::MAX).map(address);
    addresses.find(|address| !taken.contains(address)).unwrap_or_else(|| address(0))
}

fn connect(editor: &mut Editor<'_>, interface: Node<'_, '_>, from: &NetworkRef, to: &NetworkRef) {
    let (Some(source), (kind, name, value)) = (child(interface, "source"), to.parts()) else {
        return;
    };
    if from.parts().0 == kind {
        editor.set_attribute(source, name, value);
        // They belong to the run on the old one.
        editor.remove_attribute(source, "portid");
        if kind == "network" {
            editor.remove_attribute(source, "bridge");
        }
        return;
    }
    let mode = if kind == "direct" { " mode='bridge'" } else { "" };
    let value = editor.escaped(value);
    editor.set_attribute(interface, "type", kind);
    editor.replace(source, format!("<source {name}='{value}'{mode}/>"));
}
