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
        /// It answered last time.
        Online = "online",
        /// It did not.
        Unreachable = "unreachable",
    }
}

words! {
    /// What kind of source can be protected.
    SourceKind {
        /// A virtual machine of libvirt's.
        Machine = "machine",
        /// Disks by path: images, devices, NBD servers.
        Disks = "disks",
    }
}

words! {
    /// How well something can be backed up.
    Verdict {
        /// As well as it can be.
        Green = "green",
        /// It works, but less well.
        Amber = "amber",
        /// It fails.
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
    /// libvirt's address there, without secrets; none if only disks are protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
    /// Whether it answers.
    pub state: HostState,
    /// When it answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Timestamp>,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// How many jobs run on it at once at most.
    pub max_jobs: u32,
    /// The vault near its disks that new recovery points go into first; none if they go straight into
    /// the vaults that keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_vault: Option<VaultId>,
    /// Machines that were found there last.
    pub machines: u64,
    /// When it was made known.
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
    /// How many jobs run on it at once at most; 2 if not given.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub max_jobs: Option<u32>,
    /// The vault near its disks that new recovery points go into first, by name or id.
    #[serde(default)]
    pub snapshot_vault: Option<String>,
}

/// Changes of a host. What is not given stays as it is.
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
    /// Another vault near its disks, by name or id; empty: none.
    #[serde(default)]
    pub snapshot_vault: Option<String>,
}

/// Something on a host that can be protected, as it was when it was discovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProtectableItem {
    /// The host.
    pub host: HostId,
    /// Its name there.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What it was doing: `running`, `paused`, `off`, ...
    pub state: String,
    /// The guest agent: `connected`, `not_connected`, `no_channel` or `off`.
    pub agent: String,
    /// `bios`, `uefi` or `uefi_secure_boot`.
    pub firmware: String,
    /// Whose it is, if not libvirt's own tools'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// Its disks.
    pub disks: Vec<ProtectableDisk>,
    /// The item that protects it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected_by: Option<ItemId>,
    /// When it was seen last.
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

/// What stands in the way of a backup, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How well it can be backed up.
    pub verdict: Verdict,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `red`, `amber` or `info`.
    pub level: String,
    /// Which kind of thing it is, for scripts.
    pub id: String,
    /// What is the case.
    pub what: String,
    /// What to do about it.
    pub what_to_do: String,
}

/// Disks by path, for an item that is not a machine: name and place of each.
pub type DiskPaths = BTreeMap<String, String>;
