//! The machines of a host, and the parts of them that can be backed up.

use std::time::Duration;

use serde::Serialize;
use strongroom_base::Clock;
use strongroom_hypervisor::{
    BackupKind, Connection, Disk, Domain, Form, HypervisorError, Machine, State, TpmBackend,
};

/// A machine of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiscoveredMachine {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What it is doing: `running`, `paused`, `off`, ...
    pub state: &'static str,
    /// Whether libvirt keeps its definition when it is off.
    pub persistent: bool,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Processors.
    pub vcpus: u32,
    /// Which operating system its makers said it has.
    pub os: Option<String>,
    /// `bios`, `uefi` or `uefi_secure_boot`.
    pub firmware: &'static str,
    /// Kind of its TPM: `emulator`, `passthrough` or `external`.
    pub tpm: Option<&'static str>,
    /// The guest agent: `connected`, `not_connected`, `no_channel`, or `off` with the machine.
    pub agent: &'static str,
    /// Whose it is, if not libvirt's own tools'.
    pub manager: Option<String>,
    /// Checkpoints that libvirt knows of.
    pub checkpoints: u64,
    /// Snapshots that libvirt knows of.
    pub snapshots: u64,
    /// Its disks.
    pub disks: Vec<DiscoveredDisk>,
    /// Why no more is known of it, if libvirt did not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiscoveredDisk {
    /// Its name in the machine: `vda`.
    pub name: String,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub device: String,
    /// What it is connected to.
    pub bus: Option<String>,
    /// Format on the host.
    pub format: Option<String>,
    /// Its file, device or address, without secrets.
    pub source: String,
    /// Bytes that the guest sees, if libvirt knows.
    pub size_bytes: Option<u64>,
    /// Bytes that it takes on the host, if libvirt knows.
    pub allocated_bytes: Option<u64>,
    /// Whether its changes can be tracked by bitmaps.
    pub tracks_changes: bool,
    /// Whether it is the disk that the machine starts from.
    pub os_disk: bool,
    /// Why it is not backed up; none if it is.
    pub left_out: Option<String>,
    /// What is to be known of it.
    pub notes: Vec<String>,
}

impl DiscoveredMachine {
    /// A machine of which libvirt tells no more than that it is there.
    fn unknown(domain: &Domain, error: &HypervisorError) -> Self {
        let mut problem = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            problem = format!("{problem}: {source}");
        }
        Self {
            name: domain.name.clone(),
            uuid: domain.uuid.to_string(),
            state: State::Unknown.name(),
            persistent: false,
            autostart: false,
            memory_bytes: 0,
            vcpus: 0,
            os: None,
            firmware: "unknown",
            tpm: None,
            agent: "unknown",
            manager: None,
            checkpoints: 0,
            snapshots: 0,
            disks: Vec::new(),
            problem: Some(problem),
        }
    }
}

/// How often, and how soon, a machine is asked for again of which libvirt did not tell all: it may be
/// in the midst of something.
const AGAIN: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// All machines of a host, by name. One that goes away meanwhile is left out; one of which libvirt
/// does not tell all is there with what is known.
pub fn discover(connection: &Connection) -> Result<Vec<DiscoveredMachine>, HypervisorError> {
    described(&connection.domains()?, connection.clock(), |domain| describe(connection, domain))
}

/// Asks for each of these.
fn described(
    domains: &[Domain],
    clock: &dyn Clock,
    mut describe: impl FnMut(&Domain) -> Result<DiscoveredMachine, HypervisorError>,
) -> Result<Vec<DiscoveredMachine>, HypervisorError> {
    let mut found = Vec::new();
    for domain in domains {
        let mut left = AGAIN;
        let described = loop {
            match describe(domain) {
                Err(error) if !error.is_connection() && !error.is_missing() && left > 0 => {
                    left = left.saturating_sub(1);
                    clock.sleep(PAUSE);
                }
                other => break other,
            }
        };
        match described {
            Ok(machine) => found.push(machine),
            Err(error) if error.is_missing() => {}
            Err(error) if error.is_lost() => return Err(error),
            Err(error) => found.push(DiscoveredMachine::unknown(domain, &error)),
        }
    }
    Ok(found)
}

/// One machine of a host.
pub fn describe(
    connection: &Connection,
    domain: &Domain,
) -> Result<DiscoveredMachine, HypervisorError> {
    let mut machine = Machine::parse(&connection.domain_xml(domain, Form::Present)?)?;
    connection.resolve_volumes(&mut machine);
    let state = connection.state(domain)?;
    let os_disk = machine.os_disk().map(|disk| disk.target.clone());
    let disk = |disk: &Disk| {
        let sizes = connection.block_sizes(domain, &disk.target).ok();
        DiscoveredDisk {
            name: disk.target.clone(),
            device: disk.device.to_string(),
            bus: disk.bus.clone(),
            format: disk.driver.format.clone(),
            source: disk.source.to_string(),
            size_bytes: sizes.map(|sizes| sizes.capacity),
            allocated_bytes: sizes.map(|sizes| sizes.allocated),
            tracks_changes: disk.can_hold_bitmaps(),
            os_disk: os_disk.as_ref() == Some(&disk.target),
            left_out: match disk.backup_kind() {
                BackupKind::Protect => None,
                BackupKind::Skip(reason) => Some(reason.to_string()),
            },
            notes: match disk.backup_kind() {
                BackupKind::Protect => disk.notes().iter().map(ToString::to_string).collect(),
                BackupKind::Skip(_) => Vec::new(),
            },
        }
    };
    let count = |list: Vec<String>| u64::try_from(list.len()).unwrap_or(u64::MAX);
    Ok(DiscoveredMachine {
        name: machine.name.clone(),
        uuid: machine.uuid.to_string(),
        state: state.name(),
        persistent: connection.is_persistent(domain)?,
        autostart: connection.autostart(domain).unwrap_or(false),
        memory_bytes: machine.memory_kib.saturating_mul(1024),
        vcpus: machine.vcpus,
        os: machine.os.clone(),
        firmware: match (machine.firmware.is_uefi, machine.firmware.secure_boot) {
            (false, _) => "bios",
            (true, false) => "uefi",
            (true, true) => "uefi_secure_boot",
        },
        tpm: machine.tpm.as_ref().map(|tpm| match tpm.backend {
            TpmBackend::Emulator { .. } => "emulator",
            TpmBackend::Passthrough { .. } => "passthrough",
            TpmBackend::External { .. } => "external",
        }),
        agent: match (&machine.agent, state) {
            (None, _) => "no_channel",
            (Some(_), State::Off) => "off",
            (Some(agent), _) if agent.connected == Some(true) => "connected",
            (Some(_), _) => "not_connected",
        },
        manager: machine.manager.map(|manager| manager.to_string()),
        checkpoints: count(connection.checkpoints(domain)?),
        snapshots: count(connection.snapshots(domain)?),
        disks: machine.disks.iter().map(disk).collect(),
        problem: None,
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) {}
    }

    fn domains(names: &[&str]) -> Vec<Domain> {
        let uuid = "0a1b2c3d-0001-4fff-8000-00000000000f".parse().expect("a UUID");
        names.iter().map(|name| Domain { name: (*name).to_owned(), uuid, run: None }).collect()
    }

    /// What libvirt says of a checkpoint that a backup is just making or deleting.
    fn busy() -> HypervisorError {
        HypervisorError::Libvirt {
            action: "listing checkpoints",
            number: 27,
            message: "name in virGetDomainCheckpoint must not be NULL".to_owned(),
        }
    }

    fn known(domain: &Domain) -> DiscoveredMachine {
        DiscoveredMachine { problem: None, ..DiscoveredMachine::unknown(domain, &busy()) }
    }

    #[test]
    fn one_machine_that_is_backed_up_does_not_spoil_the_list() {
        let mut asked = 0;
        let found = described(&domains(&["a", "busy", "gone", "stuck", "z"]), &Still, |domain| {
            let missing = || HypervisorError::NoDomain { uri: "x".to_owned(), name: "gone".into() };
            match domain.name.as_str() {
                "busy" if asked < 2 => {
                    asked += 1;
                    Err(busy())
                }
                "gone" => Err(missing()),
                "stuck" => Err(busy()),
                _ => Ok(known(domain)),
            }
        });
        let found = found.expect("a list");
        let problems: Vec<_> =
            found.iter().map(|it| (it.name.as_str(), it.problem.is_some())).collect();
        assert_eq!(problems, [("a", false), ("busy", false), ("stuck", true), ("z", false)]);
        assert!(found[2].problem.as_ref().is_some_and(|it| it.contains("must not be NULL")));
        assert_eq!(found[2].state, "unknown");
    }

    #[test]
    fn a_list_without_libvirt_is_none() {
        let lost = || HypervisorError::Lost {
            action: "listing checkpoints",
            source: io::Error::from(io::ErrorKind::BrokenPipe),
        };
        let found = described(&domains(&["a", "b"]), &Still, |_| Err(lost()));
        assert!(found.expect_err("it is not half a list").is_lost());
    }
}
