//! Whole machines: backed up while they run, restored as machines that boot.
//!
//! ```text
//!  lock ─▶ leftovers ─▶ plan: disks, bases ─▶ guard ─▶ [scripts, freeze ─▶ QEMU's job ─▶ thaw]
//!       ─▶ engine reads the job's exports ─▶ job ended ─▶ point ─▶ old checkpoint deleted
//! ```
//!
//! This crate joins the hypervisor's machines and the engine's recovery points. It decides how a
//! machine is backed up and restored; it must not know when that happens.

mod backup;
pub mod boot;
mod boots;
mod check;
mod configuration;
mod consistency;
mod discover;
pub mod drill;
mod error;
mod forget;
pub mod guard;
mod image;
mod layout;
mod live;
mod lock;
mod orphans;
mod request;
pub mod restore;
mod saved;
mod served;

pub use backup::{OnTaken, Taken, backup, backup_watched};
pub use boots::{Boot, boot, boots, boots_of, keep as keep_boot, newest_trace};
pub use check::{Checked, FindingReport, Verdict, check};
pub use configuration::{Configuration, DiskIdentity, MachineRecord, SavedSecret};
pub use consistency::Wish;
pub use discover::{DiscoveredDisk, DiscoveredMachine, describe, discover};
pub use error::MachineError;
pub use forget::{OurCheckpoint, checkpoints, delete_checkpoints};
pub use request::{EncryptedDisks, MachineBackup, Places};
pub use saved::refuse_saved_memory;
pub use strongroom_reports::MachineBackupReport;
