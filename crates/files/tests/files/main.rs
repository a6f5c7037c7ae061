//! Readers of file systems against the kernel's own: images made by the real tools, filled through the kernel, and
//! compared name by name, byte by byte, attribute by attribute.

mod btrfs;
mod ext;
mod fat;
mod fill;
mod partitions;
mod truth;
mod xfs;
