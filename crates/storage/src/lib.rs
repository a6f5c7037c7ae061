//! The HTTP face of storage accounts: it listens, reads requests in Azure's dialect, carries them out on a store of
//! blobs, and answers in that dialect.
//!
//! ```text
//!  http: listen, serve ─▶ face: read, authorize ─▶ operations, copies ─▶ storage: changes, reads ─▶ blobs::Store
//!                            azure                  map: both dialects
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `face` | the way of a request, and its answer |
//! | `storage` | the open store, without blocking the runtime |
//! | `operations` | what each operation does |
//! | `copies` | copies in the background, from this store and from other servers |
//! | `exports` | blobs as disks for NBD clients: a cache of writes, a lease, listening |
//! | `map` | words of the dialect and words of the store, each way in one place |
//! | `uploads` | content of any length on its way into the store |
//! | `bodies` | memory that requests share, and reading bodies |
//! | `replication` | the same store at a second server: following, failing over, what servers say to each other |
//! | `run`, `serve` | a process that serves, and the parts of serving |
//! | [`admin`] | accounts, administered on an open store or through the process that has it |
//!
//! It knows nothing of how pages are kept, and nothing of backups. What the store cannot do is refused by a code of
//! 4xx: clients repeat a request for minutes after a 5xx.

pub mod admin;

mod bodies;
mod copies;
mod error;
mod exports;
mod face;
mod map;
mod numbers;
mod operations;
mod replication;
mod run;
mod serve;
mod storage;
mod uploads;

pub use error::StorageError;
pub use exports::{ExportAt, ExportRequest, ExportShown};
pub use face::router;
pub use replication::{
    DifferenceIn, DifferenceShown, FailoverProgress, FailoverShown, FailoverStep, InvitationShown,
    PairState, ReplicationShown, ResyncShown, VerificationShown, VerificationState, join,
};
pub use run::{Announce, Run, run};
pub use serve::{Serve, serve};
pub use storage::{CopyFolders, Options, SecondaryState, Storage, Tuning};
