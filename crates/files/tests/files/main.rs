//! Readers of file systems against the kernel's own: images made by the real tools, filled through the kernel, and
//! compared name by name, byte by byte, attribute by attribute.
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that fails says so by panicking"
)]

mod btrfs;
mod exfat;
mod ext;
mod fat;
mod fill;
mod lvm;
mod ntfs;
mod partitions;
mod truth;
mod xfs;
