//! A machine that is off: its images, read without keeping anybody from starting it.

use crate::{MachineBackupReport, error::Result};

use super::Work;

pub(super) fn run(_work: Work<'_>, _notes: Vec<String>) -> Result<MachineBackupReport> {
    Err(crate::MachineError::Interrupted)
}
