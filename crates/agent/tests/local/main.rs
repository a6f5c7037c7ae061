//! The agent of this host and the keeper of vaults: what [`strongroom_agent`] promises of them, on real
//! vaults in folders and real disks. Machines are with the other tests that need libvirt.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]

mod accounts;
mod blobs;
mod common;
mod disks;
mod keeper;
mod orders;
