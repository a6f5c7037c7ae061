//! Boot verifications: what is asked of a machine that is started from a recovery point, and how far it came.
//!
//! Must not know how a machine is started or watched. The report of a verification is a [`Report`](crate::Report).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::JobId;
use utoipa::ToSchema;

use crate::words;

words! {
    /// A step of the way from bytes to a service that works.
    BootStep {
        /// Every block was read, and is what its digest says.
        Digests = "digests",
        /// The file systems that can be read were opened.
        FileSystems = "file_systems",
        /// QEMU ran the machine.
        PowerOn = "power_on",
        /// The firmware has found something to start on the disks.
        Firmware = "firmware",
        /// A kernel ran.
        Kernel = "kernel",
        /// The console asked for a login.
        Login = "login",
        /// The guest's agent answered.
        Agent = "agent",
        /// The services that were asked for run, and the ports are open.
        Services = "services",
        /// The script in the guest ended with success.
        Script = "script",
    }
}

words! {
    /// Whether a machine came as far as expected.
    BootOutcome {
        /// It did.
        Passed = "passed",
        /// It did not.
        Failed = "failed",
    }
}

words! {
    /// Which recovery points of an item the service boots by itself.
    BootWhen {
        /// None.
        Never = "never",
        /// Every new one, in order.
        EveryPoint = "every_point",
        /// The newest, as soon as it is there; points that a newer one overtakes are left out.
        Newest = "newest",
        /// The newest, once a week.
        Weekly = "weekly",
    }
}

/// What a boot verification asks of a machine. What is not given is as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BootWanted {
    /// How far the machine has to come: `power_on`, `firmware`, `kernel`, `login` or `agent`; if not given, as far as its
    /// earlier recovery points, or as its guest agent when it was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<BootStep>,
    /// Services of the guest that have to run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub services: Vec<String>,
    /// TCP ports of the guest at which a program has to listen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub ports: Vec<u16>,
    /// A program in the guest that has to end with 0: its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// A network of the host's libvirt without `<forward>` that the machine is connected to; none if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The most memory of the machine, in bytes, at least 16 MiB; as much as it has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The number of its processors, 1 to 512; as many as it has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<u32>,
    /// How long it is watched at most, in seconds; 600 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub timeout_seconds: Option<u32>,
    /// How long it may do nothing, in seconds; 60 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub idle_seconds: Option<u32>,
    /// The most that it may write, in bytes, at least 1 MiB; 4 GiB if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_max_bytes: Option<u64>,
    /// Whether every block is read first, and checked.
    #[serde(default)]
    pub read_all: bool,
}

/// Which recovery points the service boots by itself, and what it asks of the machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BootPolicy {
    /// Which.
    pub when: BootWhen,
    /// What is asked of each machine.
    #[serde(default)]
    pub wanted: BootWanted,
}

/// How far a machine came that was started from a recovery point: the newest verification of the point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointBoot {
    /// Whether it came as far as expected.
    pub outcome: BootOutcome,
    /// When the verification began.
    pub begun: Timestamp,
    /// How far it was expected to come.
    pub expected: BootStep,
    /// How far it came; none if QEMU did not even run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<BootStep>,
    /// Milliseconds from its start until it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_ms: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The job that verified it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// A drill: machines of a vault that are booted together from their recovery points, to see when each works. What is not
/// given is as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillWanted {
    /// The items, by name or id, in the order in which they start; all machines of the vault if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub items: Vec<String>,
    /// The host, by name or id; needed if the machines are of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The recovery points: each item's newest of this time or earlier; the newest if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
    /// Whether a machine starts only when those before it have come as far as they go.
    #[serde(default)]
    pub in_order: bool,
    /// Seconds in which each machine has to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub within_seconds: Option<u32>,
    /// A network of the host's libvirt without `<forward>`, or `none`; one that is made for the drill if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The most memory of each machine, in bytes, at least 16 MiB; as much as it has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The number of processors of each, 1 to 512; as many as it has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processors: Option<u32>,
    /// How long they are watched at most, in seconds; 600 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub timeout_seconds: Option<u32>,
}

/// A drill that the service carries out by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillPolicy {
    /// Days between two drills, 1 to 3660; 0: none.
    #[schema(maximum = 3660)]
    pub every_days: u32,
    /// What is asked; without items, all machines of the vault, with a drill for each host.
    #[serde(default)]
    pub wanted: DrillWanted,
}
