//! Requests for restores, and their reports.

use std::path::PathBuf;

use strongroom_disk::ImageFormat;
use strongroom_hypervisor::{HypervisorError, NetworkMapping};
use strongroom_reports::{MachineRestoreReport, PowerState};

use crate::{MachineBackup, MachineError, Places, error::Result};

/// Whose identity a restored machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Its own: it can run beside the machine that it was made from.
    #[default]
    New,
    /// That of the machine in the point, which must be gone.
    Same,
}

/// Where disks go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A folder.
    Folder(PathBuf),
    /// A storage pool of libvirt's.
    Pool(String),
}

/// Where one disk goes, or all that nothing is said of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The disk; all others if not given.
    pub disk: Option<String>,
    /// Where.
    pub storage: Storage,
}

/// What becomes of the machine when it is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// It stays off.
    #[default]
    Off,
    /// It is started.
    Start,
    /// It is started with its processors standing still.
    Paused,
}

impl Power {
    /// The state that follows.
    pub(super) const fn state(self) -> PowerState {
        match self {
            Self::Off => PowerState::Off,
            Self::Start => PowerState::Running,
            Self::Paused => PowerState::Paused,
        }
    }
}

/// How a machine that runs is brought to stand for a replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// Not at all: it must be off.
    #[default]
    Refuse,
    /// Its guest is asked to shut down.
    ShutDown,
    /// As by pulling its plug.
    PowerOff,
}

/// A replacement of the disks of a machine that is there.
#[derive(Clone, Debug)]
pub struct Replace {
    /// The machine's name or UUID; that of the point if not given.
    pub machine: Option<String>,
    /// If it runs.
    pub stop: Stop,
    /// The backup of its present state that is made first; the machine, item and disks that it
    /// names do not count.
    pub safety: Option<Box<MachineBackup>>,
}

/// A restore of a machine.
#[derive(Clone, Debug)]
pub struct MachineRestore {
    /// The disks; all of the point if empty.
    pub disks: Vec<String>,
    /// Its name; the default is its old name.
    pub name: Option<String>,
    /// Whose identity.
    pub identity: Identity,
    /// Where disks go; if nothing is said, to the folders where they were.
    pub storage: Vec<Placement>,
    /// The format of all disks; the default is their old format.
    pub format: Option<ImageFormat>,
    /// Other networks.
    pub networks: Vec<NetworkMapping>,
    /// All cables are pulled.
    pub links_down: bool,
    /// Another kind of mainboard.
    pub machine_type: Option<String>,
    /// Another mode of processor: `host-model`, `host-passthrough`, `maximum`.
    pub cpu: Option<String>,
    /// Whether secrets that the host lacks are made known to it.
    pub with_secrets: bool,
    /// Whether it starts with the host; if not given, a copy does not, and others as they did.
    pub autostart: Option<bool>,
    /// What becomes of it.
    pub power: Power,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Threads for decompressing.
    pub threads: usize,
    /// Bytes a second to write at most.
    pub limit_rate: Option<u64>,
    /// Where things are.
    pub places: Places,
}

/// The report of a restore, or the error with it that says why the machine does not start.
pub(super) fn or_not_started(
    report: MachineRestoreReport,
    reason: Option<HypervisorError>,
) -> Result<MachineRestoreReport> {
    let Some(source) = reason else { return Ok(report) };
    let report = Box::new(MachineRestoreReport { state: PowerState::Off, ..report });
    Err(MachineError::NotStarted { report, source: Box::new(source) })
}
