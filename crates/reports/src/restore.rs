//! Restores: of disks, of whole machines, and what became of replaced disks.

use serde::{Deserialize, Serialize};
use strongroom_base::PointId;

/// One disk of a finished restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskRestoreReport {
    /// The disk's name.
    pub name: String,
    /// Where it is now.
    pub location: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of data in it (the rest is zero).
    pub data_bytes: u64,
    /// Blocks looked at to find what differs (in place only).
    pub compared_blocks: u64,
    /// Blocks written.
    pub written_blocks: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// A finished restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The recovery point.
    pub recovery_point: PointId,
    /// The item.
    pub item: String,
    /// Seconds in all.
    pub seconds: f64,
    /// Its disks.
    pub disks: Vec<DiskRestoreReport>,
}

/// Restored disks, and the description of a machine with them; also the stable JSON of the command
/// line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DisksReport {
    /// The disks.
    #[serde(flatten)]
    pub restored: RestoreReport,
    /// The description.
    pub template: Option<String>,
    /// The UUID in it.
    pub template_uuid: Option<String>,
    /// Firmware variables.
    pub nvram: Option<String>,
    /// State of the TPM.
    pub tpm: Option<String>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// A disk that is restored; also the stable JSON of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoredDisk {
    /// Its name in the machine.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// Its format.
    pub format: String,
    /// The old image, which a replaced disk's has under it.
    pub replaces: Option<String>,
    /// Size, bytes.
    pub size_bytes: u64,
    /// Bytes that are not zeros.
    pub data_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
}

/// A part of the machine that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    /// Which.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Whose identity a restored machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreKind {
    /// A machine beside the old one, with an identity of its own.
    New,
    /// The old machine again.
    Same,
    /// The machine that is there, with replaced disks.
    Replaced,
}

/// What a restored machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Nothing.
    Off,
    /// It runs.
    Running,
    /// It is started, and its processors stand still.
    Paused,
}

impl PowerState {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// A restored machine, or the plan of it; also the stable JSON of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineRestoreReport {
    /// The recovery point.
    pub recovery_point: PointId,
    /// Its item.
    pub item: String,
    /// Whose identity it has.
    pub kind: RestoreKind,
    /// Whether nothing was done yet.
    pub dry_run: bool,
    /// The machine.
    pub machine: String,
    /// Its UUID.
    pub uuid: String,
    /// Which libvirt has it.
    pub host: String,
    /// What it does now.
    pub state: PowerState,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Its disks.
    pub disks: Vec<RestoredDisk>,
    /// Addresses of its network interfaces.
    pub addresses: Vec<String>,
    /// The file of its firmware's variables, if it was restored.
    pub nvram: Option<String>,
    /// The folder of its TPM's state, if it was restored.
    pub tpm: Option<String>,
    /// Secrets that were made known to the host.
    pub secrets: Vec<String>,
    /// Disks that it has no more, drives that are empty now.
    pub left_behind: Vec<LeftBehind>,
    /// The point of the state before, of a replacement.
    pub safety_point: Option<PointId>,
    /// What people should know.
    pub notes: Vec<String>,
    /// If the machine ran while its disks were restored.
    #[serde(default)]
    pub instant: Option<InstantReport>,
    /// How long it took.
    pub seconds: f64,
}

/// How a machine ran while its disks were restored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstantReport {
    /// How long after the beginning libvirt had started it; none if an earlier attempt had.
    pub started_seconds: Option<f64>,
    /// How long it was paused to change to its disks; 0 if it was off or paused then.
    pub paused_seconds: f64,
    /// How often it was resumed after it had been stopped by an error of its disks.
    pub resumed: u64,
    /// What was done, in order, and how long each phase took; what an earlier attempt has done is not there.
    #[serde(default)]
    pub phases: Vec<PhaseReport>,
}

/// A phase of an instant restore.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Which.
    pub phase: InstantPhase,
    /// How long it took.
    pub seconds: f64,
}

/// What an instant restore does, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstantPhase {
    /// It plans, and serves the recovery point to the host.
    Connect,
    /// It makes the machine known, on overlays.
    Define,
    /// It starts the machine.
    Start,
    /// It writes the recovery point to the disks, while the machine runs.
    Fill,
    /// It copies what the machine has written meanwhile, and changes it over to the disks.
    Pivot,
    /// It removes what it has made besides.
    Finish,
}

impl InstantPhase {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Define => "define",
            Self::Start => "start",
            Self::Fill => "fill",
            Self::Pivot => "pivot",
            Self::Finish => "finish",
        }
    }
}

/// The decision about replaced disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// The restored state stays.
    Accepted,
    /// The old state is back.
    Undone,
    /// The machine, which was being restored while it ran, is gone.
    Removed,
}

/// What became of a machine whose disks were replaced; also the stable JSON of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishReport {
    /// The machine.
    pub machine: String,
    /// Its UUID.
    pub uuid: String,
    /// What was decided.
    pub decision: Decided,
    /// The recovery point that its disks were replaced from.
    pub recovery_point: PointId,
    /// Its item.
    pub item: String,
    /// Its disks, as it has them now.
    pub disks: Vec<FinishedDisk>,
}

/// A disk after the decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishedDisk {
    /// Its name in the machine.
    pub name: String,
    /// Where it is.
    pub path: String,
}
