//! Restores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

words! {
    /// What becomes of a machine when it is restored.
    PowerAfter {
        /// It stays off.
        Off = "off",
        /// It is started.
        Start = "start",
        /// It is started with its processors standing still.
        Paused = "paused",
    }
}

words! {
    /// How a machine that runs is brought to stand for a replacement.
    StopFirst {
        /// Not at all: it must be off.
        Refuse = "refuse",
        /// Its guest is asked to shut down.
        ShutDown = "shut_down",
        /// As by pulling its plug.
        PowerOff = "power_off",
    }
}

words! {
    /// A format of disk images.
    DiskFormat {
        /// As bytes.
        Raw = "raw",
        /// QEMU's.
        Qcow2 = "qcow2",
    }
}

/// A restore from a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Restore {
    /// A new machine.
    Machine(RestoreMachine),
    /// Disks, and a template to make a machine of them.
    Disks(RestoreDisks),
    /// The disks of the machine that is there.
    Replace(RestoreReplace),
}

/// Restores a machine as a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct RestoreMachine {
    /// The host: its name or id; that of the item if not given.
    #[serde(default)]
    pub host: Option<String>,
    /// Its name; that which it had if not given.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it has the UUID and network addresses that it had; the original must be gone.
    #[serde(default)]
    pub same_identity: bool,
    /// The disks; all if empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Folder of each disk, on the host; that of `*` for all others; where they were if not given. Each is
    /// below one of the server's `restore_dirs`.
    #[serde(default)]
    pub storage_dirs: BTreeMap<String, String>,
    /// Storage pool of each disk; that of `*` for all others.
    #[serde(default)]
    pub pools: BTreeMap<String, String>,
    /// The format of all disks; that which they had if not given.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// Other networks: `network=OLD:NEW`, `bridge=OLD:NEW`, `network=OLD:bridge=NEW`.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Whether all cables are pulled.
    #[serde(default)]
    pub links_down: bool,
    /// Another mainboard.
    #[serde(default)]
    pub machine_type: Option<String>,
    /// Another kind of processor: `host-model`, `host-passthrough`, `maximum`.
    #[serde(default)]
    pub cpu: Option<String>,
    /// Whether secrets that the host lacks are made known to it.
    #[serde(default)]
    pub with_secrets: bool,
    /// What becomes of it.
    #[serde(default)]
    pub power: Option<PowerAfter>,
    /// Whether it is only planned: nothing is written, and the job's report says what would become.
    #[serde(default)]
    pub dry_run: bool,
}

/// Restores disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreDisks {
    /// The host: its name or id; that of the item if not given.
    #[serde(default)]
    pub host: Option<String>,
    /// The folder on the host that gets the disks without a target of their own, and of a machine its
    /// description, below one of the server's `restore_dirs`. Without one, only the disks that have
    /// targets are restored, and no description is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub folder: Option<String>,
    /// The disks; all if empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Their format; raw if not given.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// Where single disks go, instead of the folder or without one: a file or device on the host, by the disk's name.
    /// Each is below one of the server's `restore_dirs`, or is one of them.
    #[serde(default)]
    pub targets: BTreeMap<String, String>,
    /// Whether files and devices that are there are overwritten where they differ.
    #[serde(default)]
    pub in_place: bool,
}

/// Gives the machine that is there the disks of the recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreReplace {
    /// The machine: its name or UUID; that of the item if not given.
    #[serde(default)]
    pub machine: Option<String>,
    /// The disks; all if empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Folder of each disk's new image; that of `*` for all others; beside the old ones if not given. Each
    /// is below one of the server's `restore_dirs`.
    #[serde(default)]
    pub storage_dirs: BTreeMap<String, String>,
    /// If it runs.
    #[serde(default)]
    pub stop: Option<StopFirst>,
    /// Whether no recovery point of the present state is made first.
    #[serde(default)]
    pub no_safety_point: bool,
    /// What becomes of it.
    #[serde(default)]
    pub power: Option<PowerAfter>,
    /// Whether it is only planned: nothing is written, and the job's report says what would become.
    #[serde(default)]
    pub dry_run: bool,
}
