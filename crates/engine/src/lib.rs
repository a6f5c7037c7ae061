//! Backup, restore and queries on recovery points: how the work is done.
//!
//! The engine joins disks and vaults; `blobs` takes and deletes the snapshots by which page blobs are disks. It must not know hypervisors or people: it prints nothing,
//! does not read the environment, and takes everything that it needs as arguments. Long work
//! reports through [`strongroom_base::Progress`] and stops at [`strongroom_base::Cancel`].
//!
//! ```text
//!  disk ─▶ plan (what to read) ─▶ readers ─▶ workers (zero? same? known? delta, zstd) ─▶ vault
//!  vault ─▶ walk (what to write) ─▶ fetchers ─▶ workers (open, decode, check) ─▶ disk
//! ```

mod backup;
mod blobs;
mod configuration;
mod copy;
mod error;
mod failure;
mod points;
mod report;
mod request;
mod restore;

pub use backup::{backup, backup_with};
pub use blobs::{BlobDisk, BlobDisks, BlobsError, LeftBehind};
pub use configuration::read_configuration;
pub use copy::{COPY_OF, CopyRequest, copy_point, find_copy};
pub use error::EngineError;
pub use points::{data_bytes, diff_points, select_point};
pub use report::{DiffReport, DiskDiffReport};
pub use request::{
    BackupDisk, BackupRequest, CleanCheck, Deltas, DiskEnding, Ending, Overwrite, PointSelector,
    RestoreDisk, RestoreRequest,
};
pub use restore::restore;
pub use strongroom_base::Progress;
pub use strongroom_reports::{
    BackupReport, DiskBackupReport, DiskRestoreReport, RestoreReport, SuspicionReport,
};
