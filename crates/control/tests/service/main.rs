//! The service with a clock of our own, and hosts and vaults that do what they are told: whatever the
//! real ones cannot be made to show. The real ones have tests of their own.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]

mod access;
mod accounts;
mod boots;
mod costs;
mod drills;
mod files;
mod jobs;
mod lost;
mod notify;
mod orders;
mod outside;
mod promises;
mod protection;
mod retention;
mod saved;
mod schedules;
mod sight;
mod snapshots;
mod suspect;
mod vaults;
mod world;
