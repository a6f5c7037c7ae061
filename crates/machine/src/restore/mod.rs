//! Restoring a machine: its disks, and everything that makes a machine of them.
//!
//! ```text
//!  plan: conflicts, host, room ─▶ journal ─▶ disks ─▶ firmware's variables, TPM, secrets
//!                                                 ─▶ defined ─▶ journal goes ─▶ started
//! ```
//!
//! The restore makes all checks before it writes anything. The journal lists the files and the
//! identity of the restore, so the same command continues after any interruption, and never uses
//! other files. The restore defines the machine in libvirt when all its files are complete.

mod ciphertext;
mod disks;
mod encrypted;
mod files;
mod finish;
mod host;
mod image;
mod instant;
mod journal;
mod new;
mod place;
mod plan;
mod replace;
mod request;
mod state;
mod template;

use std::sync::Arc;

use strongroom_base::Cancel;
use strongroom_engine::{Progress, read_configuration};
use strongroom_format::Manifest;
use strongroom_hypervisor::Connection;
use strongroom_vault::Vault;

pub use self::ciphertext::{Container, container};
pub use self::disks::{DisksRestore, PreparedDisks, prepare_disks};
pub use self::finish::{Decision, Undecided, finish, to_decide, undecided};
pub use self::instant::{Running, find as find_instant, undo as undo_instant};
use self::journal::How;
pub use self::request::{Identity, MachineRestore, Placement, Power, Replace, Stop, Storage};
pub use self::template::{Template, TemplateDisk};
pub(crate) use self::{
    host::check as check_host,
    image::create as create_image,
    instant::watch::Watch,
    new::{open_to_swtpm, write_tpm},
    plan::unchosen,
};
use crate::{Configuration, MachineError, error::Result};
pub use strongroom_reports::{
    Decided, DisksReport, FinishReport, FinishedDisk, LeftBehind, MachineRestoreReport, PowerState,
    RestoreKind, RestoredDisk,
};

/// Restores a machine as a new one.
pub fn restore(
    vault: &Arc<Vault>,
    connection: &Connection,
    point: &Manifest,
    request: &MachineRestore,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<MachineRestoreReport> {
    check_local(connection)?;
    let configuration = &configuration(vault, point)?;
    let parts = new::Parts { vault, connection, point, configuration, request };
    new::run(&parts, How::Whole, progress, |work| work.run(progress, cancel))
}

/// Restores a machine as a new one that runs at once, while its disks are restored.
pub fn instant(
    vault: &Arc<Vault>,
    connection: &Connection,
    point: &Manifest,
    request: &MachineRestore,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<MachineRestoreReport> {
    check_local(connection)?;
    let configuration = &configuration(vault, point)?;
    let parts = new::Parts { vault, connection, point, configuration, request };
    new::run(&parts, How::Instant, progress, |work| instant::run(work, progress, cancel))
}

/// Gives a machine that is there the disks of a recovery point, and keeps its old ones.
pub fn replace(
    vault: &Arc<Vault>,
    connection: &Connection,
    point: &Manifest,
    request: &MachineRestore,
    replace: &Replace,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<MachineRestoreReport> {
    check_local(connection)?;
    let configuration = configuration(vault, point)?;
    replace::run(vault, connection, point, &configuration, request, replace, progress, cancel)
}

/// The configuration of a machine that is in a recovery point.
pub fn configuration(vault: &Vault, point: &Manifest) -> Result<Configuration> {
    let bad = |reason: String| MachineError::Configuration { point: point.id.to_string(), reason };
    let archive = read_configuration(vault, point)?;
    let archive = archive.ok_or_else(|| bad("it is not of a machine".to_owned()))?;
    Configuration::from_archive(&archive).map_err(bad)
}

/// We write files where libvirt is to find them.
pub(crate) fn check_local(connection: &Connection) -> Result<()> {
    if connection.uri().is_local() {
        return Ok(());
    }
    Err(MachineError::Unsupported {
        machine: connection.uri().to_string(),
        reason: "a machine is restored on the host that runs it: run strongroom there".to_owned(),
    })
}
