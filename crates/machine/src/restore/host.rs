//! The check whether a host can run a machine, before anything is written.

use std::path::Path;

use strongroom_hypervisor::{
    Capabilities, Connection, CpuComparison, DomainCapabilities, Finding, Host, Level, Machine,
    SecretRef, SecretUse,
};

use crate::{MachineError, error::Result};

/// Checks all that the machine needs; the error lists all that is missing. What is only good to
/// know is returned. The host gets the secrets that are `brought`, and others may come `later`.
pub(crate) fn check(
    connection: &Connection,
    machine: &Machine,
    brought: &[String],
    later: &[SecretRef],
) -> Result<Vec<String>> {
    let capabilities = Capabilities::parse(&connection.capabilities_xml()?)?;
    let emulator = machine.emulator.as_deref().filter(|path| Path::new(path).exists());
    let (arch, kind) = (Some(machine.arch.as_str()), Some(machine.kind.as_str()));
    let board = machine.machine_type.as_deref();
    // libvirt refuses to say anything of a mainboard that the host does not have.
    let domain = connection.domain_capabilities_xml(emulator, arch, board, kind).ok();
    let domain = domain.map(|xml| DomainCapabilities::parse(&xml)).transpose()?;
    let cpu = machine.cpu.as_ref().filter(|cpu| {
        cpu.model.is_some() && cpu.check.as_deref() != Some("none") && domain.is_some()
    });
    let cpu = cpu.map(|cpu| {
        let compared = connection.compare_cpu(emulator, arch, board, kind, &cpu.text);
        compared.unwrap_or(CpuComparison::Unknown)
    });
    let names = |list: Vec<strongroom_hypervisor::Named>| {
        list.into_iter().map(|one| one.name).collect::<Vec<_>>()
    };
    // A host may have no driver for either.
    let networks = names(connection.networks().unwrap_or_default());
    let pools = names(connection.pools().unwrap_or_default());
    let has_secret = |secret: &SecretRef| match secret {
        secret if later.contains(secret) => true,
        SecretRef::Uuid(uuid) => {
            brought.contains(&uuid.to_string())
                || connection.secret(*uuid).is_ok_and(|s| s.is_some())
        }
        SecretRef::Usage { name, .. } => {
            let uses = [SecretUse::Volume, SecretUse::Ceph, SecretUse::Iscsi, SecretUse::Vtpm];
            let mut uses = uses.into_iter().map(|usage| connection.secret_of(usage, name));
            uses.any(|found| found.is_ok_and(|secret| secret.is_some()))
        }
    };
    let host = Host {
        capabilities: &capabilities,
        domain: domain.as_ref(),
        cpu,
        networks: &networks,
        pools: &pools,
        exists: &|path| Path::new(path).exists(),
        has_secret: &has_secret,
    };
    let (lacks, notes): (Vec<Finding>, Vec<Finding>) =
        host.check(machine).into_iter().partition(|finding| finding.level == Level::Red);
    let words = |finding: &Finding| format!("{}: {}", finding.what, finding.what_to_do);
    if lacks.is_empty() {
        return Ok(notes.iter().map(words).collect());
    }
    Err(MachineError::HostLacks {
        host: connection.hostname().unwrap_or_else(|_| connection.uri().to_string()),
        machine: machine.name.clone(),
        reason: lacks.iter().map(words).collect::<Vec<_>>().join("; "),
    })
}
