//! The manager that owns a machine, and its guest system.

use std::fmt;

use roxmltree::Node;

use crate::xml::{at, attribute, child, children, text};

/// Software that manages machines of its own. It creates their descriptions again at each start, so
/// what others change in them (checkpoints, restored machines) does not last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// oVirt, or Red Hat Virtualization.
    Ovirt,
    /// `OpenStack`.
    OpenStack,
    /// `OpenNebula`.
    OpenNebula,
    /// `KubeVirt`, or what is built on it.
    KubeVirt,
    /// `CloudStack`.
    CloudStack,
}

/// A kind of operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestFamily {
    /// Windows.
    Windows,
    /// Linux.
    Linux,
    /// Not known, or another.
    Unknown,
}

/// Beginnings of the namespaces in which managers keep their notes.
const NAMESPACES: [(&str, Manager); 7] = [
    ("http://ovirt.org/vm/", Manager::Ovirt),
    ("http://openstack.org/xmlns/libvirt/nova", Manager::OpenStack),
    ("http://opennebula.org/xmlns/libvirt", Manager::OpenNebula),
    ("http://kubevirt.io", Manager::KubeVirt),
    ("https://kubevirt.io", Manager::KubeVirt),
    ("http://cloudstack.apache.org", Manager::CloudStack),
    ("http://apache.org/cloudstack", Manager::CloudStack),
];

/// Beginnings of what managers tell guests that their hardware is.
const PRODUCTS: [(&str, Manager); 7] = [
    ("oVirt", Manager::Ovirt),
    ("RHEV", Manager::Ovirt),
    ("OpenStack", Manager::OpenStack),
    ("OpenNebula", Manager::OpenNebula),
    ("KubeVirt", Manager::KubeVirt),
    ("CloudStack", Manager::CloudStack),
    ("Red Hat Virtualization", Manager::Ovirt),
];

/// Linux distributions by their libosinfo domains.
const LINUX: [&str; 18] = [
    "debian.org",
    "ubuntu.com",
    "redhat.com",
    "fedoraproject.org",
    "centos.org",
    "rockylinux.org",
    "almalinux.org",
    "oracle.com",
    "suse.com",
    "opensuse.org",
    "archlinux.org",
    "alpinelinux.org",
    "gentoo.org",
    "libosinfo.org/linux",
    "nixos.org",
    "mageia.org",
    "linuxmint.com",
    "amazon.com",
];

pub(super) fn manager(root: Node<'_, '_>, name: &str) -> Option<Manager> {
    by_metadata(root).or_else(|| by_product(root)).or_else(|| by_name(name))
}

fn by_metadata(root: Node<'_, '_>) -> Option<Manager> {
    let metadata = child(root, "metadata")?;
    metadata.children().filter_map(|note| note.tag_name().namespace()).find_map(|namespace| {
        let starts = |(start, _): &&(&str, Manager)| namespace.starts_with(start);
        NAMESPACES.iter().find(starts).map(|(_, manager)| *manager)
    })
}

fn by_product(root: Node<'_, '_>) -> Option<Manager> {
    let system = at(root, &["sysinfo", "system"])?;
    let told = |entry: &Node<'_, '_>| {
        matches!(attribute(*entry, "name").as_deref(), Some("product" | "manufacturer" | "family"))
    };
    children(system, "entry").filter(told).filter_map(text).find_map(|words| {
        let starts = |(start, _): &&(&str, Manager)| words.starts_with(start);
        PRODUCTS.iter().find(starts).map(|(_, manager)| *manager)
    })
}

/// `CloudStack`'s names: `i-2-10-VM` of users, `r-4-VM`, `s-1-VM`, `v-2-VM` of its own.
fn by_name(name: &str) -> Option<Manager> {
    let words: Vec<&str> = name.split('-').collect();
    let number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let ours = match *words.as_slice() {
        ["i", account, id, "VM"] => number(account) && number(id),
        ["r" | "s" | "v", id, "VM"] => number(id),
        _ => false,
    };
    ours.then_some(Manager::CloudStack)
}

/// The operating system, as virt-install, Boxes and others note it for libosinfo.
pub(super) fn os(root: Node<'_, '_>) -> Option<String> {
    let metadata = child(root, "metadata")?;
    let note = metadata.descendants().find(|node| {
        let tag = node.tag_name();
        tag.name() == "os" && tag.namespace().is_some_and(|name| name.contains("libosinfo.org"))
    })?;
    attribute(note, "id")
}

pub(super) fn family(root: Node<'_, '_>, os: Option<&str>) -> GuestFamily {
    if let Some(os) = os {
        if os.contains("microsoft.com/") {
            return GuestFamily::Windows;
        }
        if LINUX.iter().any(|domain| os.contains(domain)) {
            return GuestFamily::Linux;
        }
        return GuestFamily::Unknown;
    }
    // All tools give only Windows these features and a clock of local time.
    let hyperv = at(root, &["features", "hyperv"]).is_some();
    let clock = child(root, "clock").and_then(|clock| attribute(clock, "offset"));
    if hyperv && clock.as_deref() != Some("utc") {
        return GuestFamily::Windows;
    }
    GuestFamily::Unknown
}

/// Whether there are options that libvirt hands to QEMU as they are.
pub(super) fn has_raw_qemu_options(root: Node<'_, '_>) -> bool {
    const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
    root.children().any(|node| node.tag_name().namespace() == Some(QEMU))
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ovirt => "oVirt",
            Self::OpenStack => "OpenStack",
            Self::OpenNebula => "OpenNebula",
            Self::KubeVirt => "KubeVirt",
            Self::CloudStack => "CloudStack",
        })
    }
}
