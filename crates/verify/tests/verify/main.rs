//! Verify finds every damage and names it, repairs what a mirror has good, and says what damage
//! means for recovery points. Rebuilding the index, and usage.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails says so by panicking"
)]

mod beside;
mod common;
mod damage;
mod deltas;
mod mirrors;
mod places;
mod points;
mod rebuild;
mod runs;
mod service;
mod sharing;
mod validate;
