//! Reports of finished work; they are also the stable JSON of the command line.

use serde::Serialize;
use strongroom_engine::BackupReport;

/// A finished backup of a machine.
#[derive(Clone, Debug, Serialize)]
pub struct MachineBackupReport {
    /// The machine.
    pub machine: String,
    /// Its UUID.
    pub uuid: String,
    /// What it was doing.
    pub state: &'static str,
    /// What was proved: `application`, `file_system` or `crash`.
    pub consistency: strongroom_format::Consistency,
    /// How it was proved, step by step.
    pub evidence: Vec<String>,
    /// Seconds for which the guest's file systems were frozen; none if they were not.
    pub frozen_seconds: Option<f64>,
    /// Seconds that QEMU's transaction took; none if the machine was off.
    pub transaction_seconds: Option<f64>,
    /// The most bytes of scratch space that were seen in use.
    pub scratch_bytes: u64,
    /// The checkpoint that the next backup builds on, if there is one.
    pub checkpoint: Option<String>,
    /// What people should know.
    pub notes: Vec<String>,
    /// The recovery point.
    #[serde(flatten)]
    pub point: BackupReport,
}
