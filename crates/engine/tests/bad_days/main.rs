//! Bad days: stores, disks, clocks and neighbours that misbehave. Nothing published may be lost,
//! nothing wrong may be restored without an error, and the next run has to succeed.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::result_large_err,
    reason = "a test fails by panicking and says what it did not try"
)]

#[path = "../common/mod.rs"]
mod common;

mod clean;
mod clocks;
mod clouds;
mod disks;
mod endings;
mod lost;
mod mirrors;
mod ranges;
mod sizes;
mod store;
mod targets;
mod together;
mod tools;
