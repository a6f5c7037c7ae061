//! Disks outside Strongroom: raw files, block devices, NBD exports, qcow2, VHD, VHDX and VMDK.
//!
//! A disk to read is a [`DiskSource`], a disk to write is a [`DiskTarget`]. This crate knows
//! nothing of packs, vaults or jobs.

mod traits;

pub use traits::{DiskError, DiskSource, DiskTarget, Extent, ExtentKind};
