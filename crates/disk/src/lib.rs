//! Disks outside Strongroom: raw files, block devices, NBD exports, qcow2, VHD, VHDX and VMDK.
//!
//! A disk to read is a [`DiskSource`], a disk to write is a [`DiskTarget`]. [`open_source`] and
//! [`open_target`] make them from a [`DiskSpec`], which is what a user wrote.
//!
//! ```text
//!  DiskSpec ─┬─ file, device, raw ───────────────────────────▶ raw ─┐
//!            ├─ nbd URL ─────────────────────────────────▶ nbd ─────┼─▶ DiskSource, DiskTarget
//!            └─ qcow2, VHD, VHDX, VMDK ─▶ image: check, serve ─▶ nbd┘
//! ```
//!
//! This crate owns how each kind of disk is opened, read and written safely, also while other programs use it.
//! It must not know packs, vaults, machines or jobs.

mod changed;
mod image;
mod layout;
mod locate;
mod nbd;
mod num;
mod open;
mod raw;
mod spec;
mod traits;
mod within;

#[doc(hidden)]
pub mod fuzz;

pub use changed::ChangedRanges;
pub use layout::{Layer, Layout, Under};
pub use nbd::{NbdConnections, NbdServer, NbdTls, NbdUrl};
pub use open::{OpenOptions, TargetOptions, inspect_source, open_source, open_target};
pub use raw::{Existing, Links};
pub use spec::{DiskSpec, ImageFormat};
pub use traits::{DiskError, DiskSource, DiskTarget, Extent, ExtentKind};
pub use within::{Within, folder_in, make_anew, open_ours, own_folder, pinned, why_not_ours};
