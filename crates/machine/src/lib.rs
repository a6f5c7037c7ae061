//! Whole machines: backed up while they run, restored as machines that boot.
//!
//! ```text
//!  lock ─▶ leftovers ─▶ plan: disks, bases ─▶ guard ─▶ [scripts, freeze ─▶ QEMU's job ─▶ thaw]
//!       ─▶ engine reads the job's exports ─▶ job ended ─▶ point ─▶ old checkpoint deleted
//! ```
//!
//! This crate joins the hypervisor's machines and the engine's recovery points. It decides how a
//! machine is protected and got back; when that happens is for others to say.

mod backup;
mod checkpoint;
mod configuration;
mod consistency;
mod error;
pub mod guard;
mod image;
mod live;
mod lock;
mod report;
mod request;
mod scratch;

pub use backup::backup;
pub use configuration::{Configuration, DiskIdentity, MachineRecord, SavedSecret};
pub use consistency::Wish;
pub use error::MachineError;
pub use report::MachineBackupReport;
pub use request::{MachineBackup, Places};
