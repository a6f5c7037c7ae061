//! The capabilities of a host.
//!
//! Source: libvirt's `formatcaps.rst` and `formatdomaincaps.rst`.

use roxmltree::Node;

use crate::{
    error::Result,
    xml::{self, at, attribute, child, children, text_of, yes},
};

/// What a host can run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// For each architecture.
    pub guests: Vec<GuestArch>,
}

/// What a host can run of one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestArch {
    /// The architecture, such as `x86_64`.
    pub arch: String,
    /// The program that runs it.
    pub emulator: Option<String>,
    /// Ways to run it: `kvm`, `qemu`.
    pub kinds: Vec<String>,
    /// The mainboards that there are.
    pub machines: Vec<MachineType>,
}

/// A kind of mainboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineType {
    /// Its name.
    pub name: String,
    /// What it is short for.
    pub canonical: Option<String>,
}

/// What machines of one kind can have on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainCapabilities {
    /// The most processors.
    pub max_vcpus: Option<u32>,
    /// Firmware that libvirt can choose: `bios`, `efi`.
    pub firmware: Vec<String>,
    /// Files of firmware that libvirt knows.
    pub loaders: Vec<String>,
    /// Whether firmware can be kept from starting what is not signed.
    pub secure_boot: bool,
    /// Ways to choose a processor that work.
    pub cpu_modes: Vec<String>,
    /// Models of processors, and whether the host has what each needs.
    pub cpu_models: Vec<(String, bool)>,
    /// Models of TPMs.
    pub tpm_models: Vec<String>,
    /// What can be behind a TPM; none if this libvirt does not tell.
    pub tpm_backends: Vec<String>,
    /// Versions of TPMs that can be emulated; none if this libvirt does not tell.
    pub tpm_versions: Vec<String>,
    /// Encryptions of memory that work.
    pub launch_security: Vec<String>,
}

impl Capabilities {
    /// Reads what [`crate::Connection::capabilities_xml`] gives.
    pub fn parse(text: &str) -> Result<Self> {
        let document = xml::parse(text, "capabilities", "a host")?;
        let guests = children(document.root_element(), "guest");
        let is_full = |guest: &Node<'_, '_>| text_of(*guest, "os_type").as_deref() == Some("hvm");
        Ok(Self { guests: guests.filter(is_full).filter_map(guest).collect() })
    }

    /// What the host can run of an architecture.
    pub fn arch(&self, arch: &str) -> Option<&GuestArch> {
        self.guests.iter().find(|guest| guest.arch == arch)
    }
}

fn guest(node: Node<'_, '_>) -> Option<GuestArch> {
    let arch = child(node, "arch")?;
    let domains = || children(arch, "domain");
    // Those for one way to run it stand below that.
    let own = domains().flat_map(|domain| children(domain, "machine"));
    let mut machines: Vec<MachineType> = Vec::new();
    for node in children(arch, "machine").chain(own) {
        if let Some(name) = xml::text(node) {
            machines.push(MachineType { name, canonical: attribute(node, "canonical") });
        }
    }
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    machines.dedup_by(|a, b| a.name == b.name);
    Some(GuestArch {
        arch: attribute(arch, "name")?,
        emulator: text_of(arch, "emulator"),
        kinds: domains().filter_map(|domain| attribute(domain, "type")).collect(),
        machines,
    })
}

impl DomainCapabilities {
    /// Reads what [`crate::Connection::domain_capabilities_xml`] gives.
    pub fn parse(text: &str) -> Result<Self> {
        let document = xml::parse(text, "domainCapabilities", "a host's machines")?;
        let root = document.root_element();
        let node = |path: &[&'static str]| at(root, path);
        let modes = || node(&["cpu"]).into_iter().flat_map(|cpu| children(cpu, "mode"));
        let works = |mode: &Node<'_, '_>| yes(*mode, "supported");
        let name = |node: Node<'_, '_>| attribute(node, "name");
        let is_custom = |mode: &Node<'_, '_>| name(*mode).as_deref() == Some("custom");
        let models = modes().filter(is_custom).flat_map(|mode| children(mode, "model"));
        let loader = node(&["os", "loader"]);
        let features = node(&["features"]);
        let securities = [("sev", "sev"), ("s390-pv", "s390-pv"), ("tdx", "tdx")];
        let has = |(element, _): &(&'static str, _)| {
            features.and_then(|all| child(all, element)).is_some_and(|one| yes(one, "supported"))
        };
        let tpm = node(&["devices", "tpm"]);
        Ok(Self {
            max_vcpus: node(&["vcpu"]).and_then(|vcpu| xml::parsed(vcpu, "max")),
            firmware: values(node(&["os"]), "firmware"),
            loaders: loader.map(texts).unwrap_or_default(),
            secure_boot: values(loader, "secure").iter().any(|value| value == "yes"),
            cpu_modes: modes().filter(works).filter_map(name).collect(),
            cpu_models: models
                .filter_map(|model| Some((xml::text(model)?, attribute(model, "usable")? == "yes")))
                .collect(),
            tpm_models: values(tpm, "model"),
            tpm_backends: values(tpm, "backendModel"),
            tpm_versions: values(tpm, "backendVersion"),
            launch_security: securities
                .into_iter()
                .filter(has)
                .map(|(_, name)| name.to_owned())
                .chain(values(features.and_then(|all| child(all, "launchSecurity")), "sectype"))
                .collect(),
        })
    }
}

fn texts(node: Node<'_, '_>) -> Vec<String> {
    children(node, "value").filter_map(xml::text).collect()
}

/// The values of the `<enum>` of this name.
fn values(node: Option<Node<'_, '_>>, name: &str) -> Vec<String> {
    let lists = node.into_iter().flat_map(|node| children(node, "enum"));
    lists.filter(|list| attribute(*list, "name").as_deref() == Some(name)).flat_map(texts).collect()
}
