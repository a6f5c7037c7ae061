//! A machine's requirements on a host, checked before it is restored there.
//!
//! The check uses the description after [`Machine::rewrite`]: replaced parts are no longer
//! required.

mod capabilities;
mod machine_type;

pub use capabilities::{Capabilities, DomainCapabilities, GuestArch, MachineType};

use std::path::Path;

use crate::{
    BackupKind, CpuComparison, DirectBoot, Finding, HostDevice, InterfaceKind,
    Level::{Amber, Info, Red},
    Machine, SecretRef, Source, TpmBackend,
};

/// A host, as far as machines need it.
pub struct Host<'a> {
    /// What it can run.
    pub capabilities: &'a Capabilities,
    /// What machines of this kind can have, if libvirt could say.
    pub domain: Option<&'a DomainCapabilities>,
    /// How its processors compare with the machine's, if libvirt was asked.
    pub cpu: Option<CpuComparison>,
    /// Its networks.
    pub networks: &'a [String],
    /// Its storage pools.
    pub pools: &'a [String],
    /// Whether a path exists on it.
    pub exists: &'a dyn Fn(&str) -> bool,
    /// Whether its libvirt has a secret.
    pub has_secret: &'a dyn Fn(&SecretRef) -> bool,
}

impl Host<'_> {
    /// What it lacks of what `machine` needs.
    pub fn check(&self, machine: &Machine) -> Vec<Finding> {
        let mut check = Check { machine, host: self, found: Vec::new() };
        check.kind();
        check.cpu();
        check.firmware();
        check.tpm();
        check.networks();
        check.disks();
        check.files();
        check.devices();
        check.found
    }
}

struct Check<'a> {
    machine: &'a Machine,
    host: &'a Host<'a>,
    found: Vec<Finding>,
}

/// Names, for people.
fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Check<'_> {
    fn red(&mut self, id: &'static str, what: String, what_to_do: impl Into<String>) {
        self.found.push(Finding::new(Red, id, what, what_to_do));
    }

    fn amber(&mut self, id: &'static str, what: String, what_to_do: impl Into<String>) {
        self.found.push(Finding::new(Amber, id, what, what_to_do));
    }

    fn exists(&self, path: &str) -> bool {
        (self.host.exists)(path)
    }

    /// Architecture, program, mainboard.
    fn kind(&mut self) {
        let machine = self.machine;
        let Some(guest) = self.host.capabilities.arch(&machine.arch) else {
            let what = format!("the host runs no machines of architecture {}", machine.arch);
            return self.red("host.arch", what, "install QEMU for it, or choose another host");
        };
        if !guest.kinds.contains(&machine.kind) {
            let what = format!("the host has no {} (it has {})", machine.kind, list(&guest.kinds));
            let what_to_do = "switch virtualization on in the host's firmware and load the module \
                 kvm; or let the machine run as type qemu, which is many times slower";
            self.red("host.kind", what, what_to_do);
        }
        if let Some(emulator) = machine.emulator.as_ref().filter(|path| !self.exists(path)) {
            let what = format!("the host has no {emulator}");
            let other = guest.emulator.as_deref().unwrap_or("the host's own");
            self.red("host.emulator", what, format!("use {other} as the emulator"));
        }
        if let Some(wanted) = &machine.machine_type
            && !guest.has_machine(wanted)
        {
            let what = format!("the host has no mainboard {wanted}");
            let what_to_do = match guest.nearest_machine(wanted) {
                Some(nearest) => format!("use {nearest}, which is most like it"),
                None => "use a host with another QEMU".to_owned(),
            };
            self.red("host.machine_type", what, what_to_do);
        }
        if let Some(most) = self.host.domain.and_then(|domain| domain.max_vcpus)
            && machine.vcpus > most
        {
            let what = format!("it has {} processors, the host can give {most}", machine.vcpus);
            self.red("host.vcpus", what, "give it fewer, or choose another mainboard");
        }
        if machine.has_raw_qemu_options {
            let what = "it has options for QEMU that libvirt does not understand".to_owned();
            self.amber("host.raw_options", what, "check that they suit this host's QEMU");
        }
    }

    fn cpu(&mut self) {
        let Some(cpu) = &self.machine.cpu else { return };
        if self.host.cpu == Some(CpuComparison::Lacks) {
            let what = "the host's processor lacks something that the machine's has".to_owned();
            return self.red(
                "host.cpu",
                what,
                "use another host, or the processor mode host-model",
            );
        }
        let (Some(domain), mode) = (self.host.domain, cpu.mode.as_deref().unwrap_or("custom"))
        else {
            return;
        };
        if !domain.cpu_modes.is_empty() && !domain.cpu_modes.iter().any(|one| one == mode) {
            let modes = list(&domain.cpu_modes);
            let what = format!("the processor mode {mode} does not work on the host");
            return self.red("host.cpu_mode", what, format!("use another ({modes})"));
        }
        let Some(model) = cpu.model.as_ref().filter(|_| mode == "custom") else { return };
        let usable =
            domain.cpu_models.iter().find(|(name, _)| name == model).map(|(_, usable)| *usable);
        if domain.cpu_models.is_empty() || usable == Some(true) {
            return;
        }
        let what = format!("the host's processor is no {model}");
        let what_to_do = "use another host, or the processor mode host-model";
        if cpu.check.as_deref() == Some("none") && usable.is_some() {
            self.amber(
                "host.cpu_model",
                what,
                "it starts without the missing features; programs may need them",
            );
        } else {
            self.red("host.cpu_model", what, what_to_do);
        }
    }

    fn firmware(&mut self) {
        let firmware = &self.machine.firmware;
        let domain = self.host.domain;
        if firmware.is_chosen_by_libvirt && firmware.is_uefi {
            let offered =
                domain.is_none_or(|domain| domain.firmware.iter().any(|one| one == "efi"));
            if !offered {
                let what = "the host has no UEFI firmware for this mainboard".to_owned();
                self.red("host.firmware", what, "install it (the package ovmf or edk2-ovmf)");
            }
        }
        let path = firmware.loader.as_ref().and_then(|loader| loader.path.as_deref());
        if let Some(path) = path.filter(|path| !self.exists(path)) {
            let loaders = domain.map(|domain| list(&domain.loaders)).unwrap_or_default();
            let what = format!("the host has no firmware {path}");
            let what_to_do =
                format!("install it (the package ovmf or edk2-ovmf), or use another ({loaders})");
            self.red("host.firmware", what, what_to_do);
        }
        if firmware.secure_boot && domain.is_some_and(|domain| !domain.secure_boot) {
            let what = "the host cannot protect secure boot on this mainboard".to_owned();
            self.red("host.secure_boot", what, "install firmware with it; mainboards q35 have it");
        }
        let nvram = firmware.nvram.as_ref();
        if let Some(template) = nvram.and_then(|nvram| nvram.template.as_ref())
            && !self.exists(template)
        {
            let what = format!("the host has no {template}");
            let what_to_do = "the restored firmware variables do not need it; install it to be able to reset them";
            self.found.push(Finding::new(Info, "host.nvram_template", what, what_to_do));
        }
    }

    fn tpm(&mut self) {
        let Some(tpm) = &self.machine.tpm else { return };
        if let TpmBackend::Passthrough { .. } = tpm.backend {
            let what = "its TPM is the old host's own, and its content stays there".to_owned();
            self.amber("host.tpm_passthrough", what, "have recovery keys ready (BitLocker, LUKS)");
        }
        if let TpmBackend::Emulator { secret: Some(secret), .. } = &tpm.backend
            && !(self.host.has_secret)(secret)
        {
            let what = format!("the secret {secret} of its TPM is missing");
            self.red("host.secret", what, "restore the machine's secrets too, or define it");
        }
        let Some(domain) = self.host.domain else { return };
        let lacks = |offered: &[String], wanted: Option<&str>| {
            wanted.is_some_and(|wanted| !offered.iter().any(|one| one == wanted))
        };
        let (kind, version) = match &tpm.backend {
            TpmBackend::Emulator { version, .. } => ("emulator", version.as_deref()),
            TpmBackend::Passthrough { .. } => ("passthrough", None),
            TpmBackend::External { kind } => (kind.as_str(), None),
        };
        let untold = domain.tpm_backends.is_empty() && !domain.tpm_models.is_empty();
        if !untold && lacks(&domain.tpm_backends, Some(kind)) {
            let what = format!("the host has no TPM of kind {kind}");
            self.red("host.tpm", what, "install swtpm and swtpm-tools");
        } else if lacks(&domain.tpm_models, tpm.model.as_deref())
            || (!domain.tpm_versions.is_empty() && lacks(&domain.tpm_versions, version))
        {
            let what = "the host has not this model or version of TPM".to_owned();
            let models = list(&domain.tpm_models);
            self.red("host.tpm", what, format!("use another model ({models}) or another host"));
        }
    }

    fn networks(&mut self) {
        for interface in &self.machine.interfaces {
            let Some(name) = &interface.source else { continue };
            let device = || self.exists(&format!("/sys/class/net/{name}"));
            let (there, what) = match &interface.kind {
                InterfaceKind::Network => (self.host.networks.contains(name), "network"),
                InterfaceKind::Bridge => (device(), "bridge"),
                InterfaceKind::Direct => (device(), "network device"),
                InterfaceKind::User | InterfaceKind::Other(_) => continue,
            };
            if !there {
                let networks = list(self.host.networks);
                let what_to_do =
                    format!("create it, or map it to another (networks of the host: {networks})");
                self.red("host.network", format!("the host has no {what} {name}"), what_to_do);
            }
        }
    }

    fn disks(&mut self) {
        for disk in &self.machine.disks {
            let target = &disk.target;
            let (file, network) = match &disk.source {
                Source::Volume { pool, .. } if !self.host.pools.contains(pool) => {
                    let what = format!("the host has no storage pool {pool} (disk {target})");
                    let pools = list(self.host.pools);
                    let what_to_do =
                        format!("create it, or restore the disk elsewhere (pools: {pools})");
                    self.red("host.pool", what, what_to_do);
                    continue;
                }
                Source::Network(network) => (None, Some(network)),
                source => (source.path(), None),
            };
            // Those that are restored are not there yet.
            let is_restored = disk.backup_kind() == BackupKind::Protect;
            if let Some(path) = file.filter(|path| !is_restored && !self.exists(path)) {
                let what = format!("the host has no {path} (disk {target}), which is in no backup");
                self.red("host.disk", what, "empty the drive or leave the disk out");
            }
            let auth = network.and_then(|network| network.auth.as_ref());
            let secret = disk.encryption.as_ref().and_then(|one| one.secret.as_ref());
            for secret in auth.into_iter().chain(secret) {
                if !(self.host.has_secret)(secret) {
                    let what = format!("the secret {secret} of disk {target} is missing");
                    self.red(
                        "host.secret",
                        what,
                        "restore the machine's secrets too, or define it",
                    );
                }
            }
        }
    }

    fn files(&mut self) {
        let machine = self.machine;
        let boot = machine.direct_boot.iter().flat_map(DirectBoot::paths);
        for path in boot {
            if !self.exists(path) {
                let what = format!("the host has no {path}, which the machine starts from");
                self.red("host.kernel", what, "copy it there; it is in no disk");
            }
        }
        for path in machine.filesystems.iter().filter_map(|one| one.source.as_deref()) {
            if !self.exists(path) {
                let what = format!("the host has no {path}, which the machine shares");
                self.red("host.filesystem", what, "create the folder, or leave the device out");
            }
        }
        for path in &machine.terminals {
            let folder = Path::new(path).parent().and_then(Path::to_str).unwrap_or("/");
            if !self.exists(folder) {
                let what = format!("the host has no folder {folder}, for the terminal file {path}");
                self.red("host.terminal", what, "create the folder, or leave the device out");
            }
        }
        for path in &machine.lasting_memory {
            if !self.exists(path) {
                let what = format!("the host has no {path}, the machine's lasting memory");
                self.red("host.nvdimm", what, "copy it there; it is in no disk");
            }
        }
    }

    fn devices(&mut self) {
        for device in &self.machine.host_devices {
            let path = match device {
                HostDevice::Pci { address } => Some(format!("/sys/bus/pci/devices/{address}")),
                HostDevice::Mediated { uuid: Some(uuid) } => {
                    Some(format!("/sys/bus/mdev/devices/{uuid}"))
                }
                _ => None,
            };
            match path {
                Some(path) if !self.exists(&path) => {
                    let what = format!("the host has no {device}");
                    self.red("host.device", what, "name another, or leave the device out");
                }
                _ => {
                    let what = format!("it was given the {device} of its old host");
                    let what_to_do = "check that it is the same on this one";
                    self.amber("host.device", what, what_to_do);
                }
            }
        }
        if let (Some(kind), Some(domain)) = (&self.machine.launch_security, self.host.domain)
            && !domain.launch_security.contains(kind)
        {
            let what = format!("the host cannot encrypt memory by {kind}");
            self.red("host.launch_security", what, "use a host whose processor can");
        }
    }
}

#[cfg(test)]
mod tests;
