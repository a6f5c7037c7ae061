//! What work did, as data: the reports of backups, restores, verifies and reclaims.
//!
//! A report is made where the work is done. The command line prints it, the service keeps it with the job and
//! answers it, and programs read it. So its fields are part of the interface: they are only added, and JSON
//! is their only form outside.
//!
//! ```text
//!  vault, verify, engine, machine ─▶ report ─┬─▶ strongroom: a command's result
//!                                            └─▶ agent ─▶ orders ─▶ control ─▶ api: a job's report
//! ```
//!
//! This crate owns the fields and their names. It must not know how the work is done, and composes no
//! sentences.

mod backup;
mod boot;
mod reclaim;
mod restore;
mod verify;

pub use backup::{BackupReport, DiskBackupReport, MachineBackupReport, SuspicionReport};
pub use boot::{
    BootDamage, BootPicture, BootReport, BootSummary, BootVerdict, DrillReport, DrilledMachine,
    ExpectedBy, NoRung, Rung, RungOutcome, RungReport,
};
pub use reclaim::{HeldPoint, ReclaimReport, RemovedPoint, WhyHeld};
pub use restore::{
    Decided, DiskRestoreReport, DisksReport, FinishReport, FinishedDisk, InstantPhase,
    InstantReport, LeftBehind, MachineRestoreReport, PhaseReport, PowerState, RestoreKind,
    RestoreReport, RestoredDisk,
};
pub use verify::{
    CopyState, DamagedDisk, DamagedObject, DamagedPoint, FailedRepair, LostRange, ObjectKind,
    UnsoundCopy, VerifyMode, VerifyReport,
};
