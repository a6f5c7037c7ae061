//! A machine by its description: identity, devices, owner.
//!
//! Source: libvirt's `formatdomain.rst`. Unknown parts of a description are ignored: a new libvirt
//! must not make backups fail. Passwords are never read from it.

pub(crate) mod devices;
mod disk;
mod firmware;
mod owner;
mod source;

pub use devices::{
    AgentChannel, Filesystem, HostDevice, Interface, InterfaceKind, Tpm, TpmBackend,
};
pub use disk::{
    BackupKind, Device, Disk, DiskNote, Driver, Encryption, Layer, Mirror, SkipReason, Slice,
};
pub use firmware::{DirectBoot, Firmware, Loader, Nvram};
pub use owner::{GuestFamily, Manager};
pub use source::{NetworkHost, NetworkSource, SecretRef, Source};

use roxmltree::Node;

use crate::{
    Uuid,
    error::Result,
    xml::{self, attribute, attribute_of, child, text_of, wrong},
};

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// A name for people.
    pub title: Option<String>,
    /// Words about it.
    pub description: Option<String>,
    /// Whether it has a generation identity, by which a guest learns that it was set back.
    pub has_generation_id: bool,
    /// What runs it: `kvm`, `qemu` (without the processor's help), ...
    pub kind: String,
    /// Its architecture, such as `x86_64`.
    pub arch: String,
    /// The kind of its mainboard, such as `pc-q35-7.2`.
    pub machine_type: Option<String>,
    /// The program that runs it.
    pub emulator: Option<String>,
    /// Its memory, KiB.
    pub memory_kib: u64,
    /// The most processors that it can have.
    pub vcpus: u32,
    /// Its kind of processor.
    pub cpu: Option<Cpu>,
    /// What it starts with.
    pub firmware: Firmware,
    /// A kernel from the host's files, that it starts with instead of a disk's.
    pub direct_boot: Option<DirectBoot>,
    /// Its TPM.
    pub tpm: Option<Tpm>,
    /// The channel of the guest agent.
    pub agent: Option<AgentChannel>,
    /// Its disks, in order.
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Devices of the host that it was given.
    pub host_devices: Vec<HostDevice>,
    /// Folders of the host that it sees.
    pub filesystems: Vec<Filesystem>,
    /// Paths of memory that lasts (NVDIMM), which are no disks.
    pub lasting_memory: Vec<String>,
    /// Files and sockets of the host that its terminals (serial ports, consoles, channels) write to, except
    /// those in libvirt's own folders.
    pub terminals: Vec<String>,
    /// Encryption of its memory by the processor: `sev`, `sev-snp`, `tdx`, ...
    pub launch_security: Option<String>,
    /// Whether it has options for QEMU that libvirt does not understand.
    pub has_raw_qemu_options: bool,
    /// Who manages it, if not libvirt's own tools.
    pub manager: Option<Manager>,
    /// Which operating system its makers said it has (a libosinfo URL).
    pub os: Option<String>,
    /// What kind of operating system that is.
    pub guest: GuestFamily,
}

/// A kind of processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// `custom`, `host-model`, `host-passthrough` or `maximum`.
    pub mode: Option<String>,
    /// The model of a custom one.
    pub model: Option<String>,
    /// Whether it is looked for at all that the host has it: `check='none'` does not.
    pub check: Option<String>,
    /// The whole element.
    pub text: String,
}

impl Machine {
    /// Reads a description, running or not.
    pub fn parse(text: &str) -> Result<Self> {
        let what = "a machine";
        let document = xml::parse(text, "domain", what)?;
        let root = document.root_element();
        let name = text_of(root, "name").ok_or_else(|| wrong(what, "it has no name"))?;
        let what = format!("machine {name:?}");
        let uuid = text_of(root, "uuid").ok_or_else(|| wrong(&what, "it has no UUID"))?;
        let uuid = uuid.parse().map_err(|_| wrong(&what, "its UUID is none"))?;
        let os_type = xml::at(root, &["os", "type"]);
        let os_type = os_type.ok_or_else(|| wrong(&what, "it does not say what it boots"))?;
        let devices = child(root, "devices");
        let os = owner::os(root);
        Ok(Self {
            uuid,
            title: text_of(root, "title"),
            description: text_of(root, "description"),
            has_generation_id: child(root, "genid").is_some(),
            kind: attribute(root, "type").ok_or_else(|| wrong(&what, "it has no type"))?,
            arch: attribute(os_type, "arch").unwrap_or_else(|| "x86_64".to_owned()),
            machine_type: attribute(os_type, "machine"),
            emulator: devices.and_then(|devices| text_of(devices, "emulator")),
            memory_kib: memory(root).ok_or_else(|| wrong(&what, "its memory size is not valid"))?,
            vcpus: text_of(root, "vcpu").and_then(|text| text.parse().ok()).unwrap_or(1),
            cpu: child(root, "cpu").map(|node| cpu(node, text)),
            firmware: firmware::parse(root),
            direct_boot: firmware::direct_boot(root),
            tpm: devices.and_then(devices::tpm),
            agent: devices.and_then(devices::agent),
            disks: devices
                .map(|devices| disk::parse(devices, &what))
                .transpose()?
                .unwrap_or_default(),
            interfaces: devices.map(devices::interfaces).unwrap_or_default(),
            host_devices: devices.map(devices::host_devices).unwrap_or_default(),
            filesystems: devices.map(devices::filesystems).unwrap_or_default(),
            lasting_memory: devices.map(devices::lasting_memory).unwrap_or_default(),
            terminals: devices.map(devices::terminals).unwrap_or_default(),
            launch_security: attribute_of(root, "launchSecurity", "type"),
            has_raw_qemu_options: owner::has_raw_qemu_options(root),
            manager: owner::manager(root, &name),
            guest: owner::family(root, os.as_deref()),
            os,
            name,
        })
    }

    /// The disk that it starts from: of those that can be backed up, the first in its order of
    /// booting, or the first if there is no such order.
    pub fn os_disk(&self) -> Option<&Disk> {
        let protected =
            || self.disks.iter().filter(|disk| disk.backup_kind() == BackupKind::Protect);
        let ordered = protected().filter(|disk| disk.boot_order.is_some());
        ordered.min_by_key(|disk| disk.boot_order).or_else(|| protected().next())
    }

    /// The disk of this target, such as `vda`.
    pub fn disk(&self, target: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.target == target)
    }

    /// The disk that is meant by a target, a serial number or a source, in this order.
    pub fn find_disk(&self, name: &str) -> Option<&Disk> {
        let by_serial = || self.disks.iter().find(|disk| disk.serial.as_deref() == Some(name));
        let by_source = || self.disks.iter().find(|disk| disk.source.is_called(name));
        self.disk(name).or_else(by_serial).or_else(by_source)
    }
}

fn cpu(node: Node<'_, '_>, text: &str) -> Cpu {
    Cpu {
        mode: attribute(node, "mode"),
        model: text_of(node, "model"),
        check: attribute(node, "check"),
        text: text.get(node.range()).unwrap_or_default().to_owned(),
    }
}

/// Memory in KiB, from any unit that libvirt knows.
fn memory(root: Node<'_, '_>) -> Option<u64> {
    let node = child(root, "memory")?;
    let amount: u64 = xml::text(node)?.parse().ok()?;
    let unit: u64 = match attribute(node, "unit").as_deref() {
        None | Some("KiB" | "k") => return Some(amount),
        Some("b" | "bytes") => 1,
        Some("KB") => 1_000,
        Some("MB") => 1_000_000,
        Some("M" | "MiB") => 1 << 20,
        Some("GB") => 1_000_000_000,
        Some("G" | "GiB") => 1 << 30,
        Some("TB") => 1_000_000_000_000,
        Some("T" | "TiB") => 1 << 40,
        Some(_) => return None,
    };
    // libvirt rounds up to whole KiB.
    Some(amount.checked_mul(unit)?.div_ceil(1024))
}

#[cfg(test)]
mod tests;
