//! A recovery point as disks.
//!
//! ```text
//!  manifest ─▶ PointDisk ─▶ DiskSource: extents, read_at ─▶ a copy of the point, and what else reads disks
//!                │              ├─▶ Shown, Overlay: exports of an NBD server ─▶ serve_disks
//!                │              ├─▶ Mount: files, over FUSE
//!                │              └─▶ PointFiles: the process that reads file systems
//!                └─ BlockCache, read-ahead, Trace ◀── vault::Reader
//! ```
//!
//! Code that shows a point to others (over NBD, as a file system, as a machine's disk) reads it here. What could
//! not be read when the point was made cannot be read from it either: it is no zeros.
//!
//! This crate knows vaults and what a disk is; it knows neither jobs nor who reads.

mod ahead;
mod cache;
mod files;
mod listing;
mod load;
mod mount;
mod overlay;
mod point_disk;
mod serve;
mod shown;
mod trace;
mod tree;

pub use cache::{BlockCache, CacheFigures, DEFAULT_CACHE};
pub use files::{PointFiles, is_unread};
pub use listing::{Listed, OnListed};
pub use mount::{DiskFile, Mount, MountError};
pub use overlay::{Overlay, OverlayError, OverlayOf};
pub use point_disk::PointDisk;
pub use serve::{Endpoint, Export, Serving, serve_disks};
pub use shown::Shown;
pub use strongroom_nbd::server::Owner;
pub use trace::{Trace, TraceError, TraceRecorder};
pub use tree::{FileTree, ReaderEnd};
