//! Restores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

words! {
    /// The state of a machine after its restore.
    PowerAfter {
        /// It stays off.
        Off = "off",
        /// It is started.
        Start = "start",
        /// It is started with its processors paused.
        Paused = "paused",
    }
}

words! {
    /// How a running machine is stopped for a replacement.
    StopFirst {
        /// Not at all: it must be off.
        Refuse = "refuse",
        /// Its guest is asked to shut down.
        ShutDown = "shut_down",
        /// It is switched off, like a power cut.
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
    /// The disks of an existing machine.
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
    /// Its name; the default is its old name.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it gets its old UUID and network addresses; the original must be gone.
    #[serde(default)]
    pub same_identity: bool,
    /// The disks; all if empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Folder of each disk on the host; `*` stands for all others; the default is the old folder.
    /// Each is below one of the server's `restore_dirs`.
    #[serde(default)]
    pub storage_dirs: BTreeMap<String, String>,
    /// Storage pool of each disk; `*` stands for all others.
    #[serde(default)]
    pub pools: BTreeMap<String, String>,
    /// The format of all disks; the default is their old format.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// Other networks: `network=OLD:NEW`, `bridge=OLD:NEW`, `network=OLD:bridge=NEW`.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Whether all network interfaces are disconnected.
    #[serde(default)]
    pub links_down: bool,
    /// Another mainboard.
    #[serde(default)]
    pub machine_type: Option<String>,
    /// Another kind of processor: `host-model`, `host-passthrough`, `maximum`.
    #[serde(default)]
    pub cpu: Option<String>,
    /// Whether the host gets the secrets that it lacks.
    #[serde(default)]
    pub with_secrets: bool,
    /// Whether the machine is started at once, and gets its disks while it runs. If the job is cancelled or ends by
    /// an error, the machine is paused; the same restore continues.
    #[serde(default)]
    pub instant: bool,
    /// The state of the machine after the restore.
    #[serde(default)]
    pub power: Option<PowerAfter>,
    /// Whether to plan only: nothing is written, and the job's report is the plan.
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
    /// The folder on the host for all disks without a target in `targets`, and for a machine's
    /// description; it is below one of the server's `restore_dirs`. Without a folder, only the
    /// disks in `targets` are restored, and no description is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub folder: Option<String>,
    /// The disks; all if empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Their format; the default is raw.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// Targets of single disks: a file or device on the host, by the disk's name. Each is below one
    /// of the server's `restore_dirs`, or is one of them.
    #[serde(default)]
    pub targets: BTreeMap<String, String>,
    /// Whether existing files and devices are overwritten where they differ.
    #[serde(default)]
    pub in_place: bool,
}

/// Gives an existing machine the disks of the recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreReplace {
    /// The machine: its name or UUID; that of the item if not given.
    #[serde(default)]
    pub machine: Option<String>,
    /// The disks; all if empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Folder of each disk's new image; `*` stands for all others; the default is beside the old
    /// image. Each is below one of the server's `restore_dirs`.
    #[serde(default)]
    pub storage_dirs: BTreeMap<String, String>,
    /// How to stop the machine if it runs.
    #[serde(default)]
    pub stop: Option<StopFirst>,
    /// Whether to skip the recovery point of the present state.
    #[serde(default)]
    pub no_safety_point: bool,
    /// The state of the machine after the restore.
    #[serde(default)]
    pub power: Option<PowerAfter>,
    /// Whether to plan only: nothing is written, and the job's report is the plan.
    #[serde(default)]
    pub dry_run: bool,
}
