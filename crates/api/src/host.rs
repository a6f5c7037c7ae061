//! Hosts, and what can be protected on them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{HostId, ItemId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, words};

words! {
    /// Whether a host answers.
    HostState {
        /// Nobody has asked it yet.
        New = "new",
        /// It answered the last request.
        Online = "online",
        /// It did not answer the last request.
        Unreachable = "unreachable",
    }
}

words! {
    /// The kind of source.
    SourceKind {
        /// A virtual machine of libvirt's.
        Machine = "machine",
        /// Disks by path: images, devices, NBD servers.
        Disks = "disks",
    }
}

words! {
    /// How bad a finding is.
    Level {
        /// Nothing is wrong; it is only good to know.
        Info = "info",
        /// It works, but less well or with something left out.
        Amber = "amber",
        /// It will fail.
        Red = "red",
    }
}

words! {
    /// The result of a check for obstacles to a backup.
    Verdict {
        /// No obstacle.
        Green = "green",
        /// A backup works, with limits.
        Amber = "amber",
        /// A backup fails.
        Red = "red",
    }
}

/// A host: a machine with a hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Its name, which no other host has.
    pub name: String,
    /// libvirt's address, without secrets; none if the host is only for disks by path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
    /// Whether it answers.
    pub state: HostState,
    /// When it last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// Maximum number of jobs that run on it at the same time.
    pub max_jobs: u32,
    /// The snapshot vault, near its disks, that gets new recovery points first; none if they go
    /// straight into the items' vaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_vault: Option<VaultId>,
    /// Number of machines at the last discovery.
    pub machines: u64,
    /// When it was added.
    pub created: Timestamp,
}

/// A new host. Until agents exist, the server reaches the libvirt of its own machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostCreate {
    /// Its name: 1 to 200 bytes of any script, without `/`, `\` and control characters.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// libvirt's address: `qemu:///system`, `qemu:///session`, `qemu+unix:///system?socket=PATH`. Another
    /// socket is one of the server's `libvirt_sockets`.
    #[serde(default)]
    pub connect: Option<String>,
    /// Maximum number of jobs that run on it at the same time; the default is 2.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub max_jobs: Option<u32>,
    /// The snapshot vault, near its disks, that gets new recovery points first, by name or id.
    #[serde(default)]
    pub snapshot_vault: Option<String>,
}

/// Changes of a host. Omitted fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostUpdate {
    /// Another address of libvirt. Another socket is one of the server's `libvirt_sockets`.
    #[serde(default)]
    pub connect: Option<String>,
    /// Another number of jobs.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub max_jobs: Option<u32>,
    /// Another snapshot vault, by name or id; empty: none.
    #[serde(default)]
    pub snapshot_vault: Option<String>,
}

/// A machine on a host that can be protected, as of its discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProtectableItem {
    /// The host.
    pub host: HostId,
    /// Its name there.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its state: `running`, `paused`, `off`, ...
    pub state: String,
    /// The guest agent: `connected`, `not_connected`, `no_channel` or `off`.
    pub agent: String,
    /// `bios`, `uefi` or `uefi_secure_boot`.
    pub firmware: String,
    /// The manager that owns it, if not libvirt's own tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// Its disks.
    pub disks: Vec<ProtectableDisk>,
    /// The item that protects it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected_by: Option<ItemId>,
    /// When it was last seen.
    pub discovered: Timestamp,
}

/// A disk of something that can be protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProtectableDisk {
    /// Its name in the machine: `vda`.
    pub name: String,
    /// Its file, device or address, without secrets.
    pub source: String,
    /// Its format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Bytes that the guest sees, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Whether its changes can be tracked.
    pub tracks_changes: bool,
    /// Whether the machine starts from it.
    pub os_disk: bool,
    /// Why it is never backed up; none if it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// The obstacles to a backup, and what to do about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// The checked machine or item.
    pub name: String,
    /// How well it can be backed up.
    pub verdict: Verdict,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// How bad it is: `red`, `amber` or `info`.
    #[schema(value_type = String)]
    pub level: Level,
    /// The kind of finding, for scripts.
    pub id: String,
    /// Description of the finding.
    pub what: String,
    /// What to do about it.
    pub what_to_do: String,
}

/// Disks by path, for an item that is not a machine: name and place of each.
pub type DiskPaths = BTreeMap<String, String>;
