//! Policies as a caller sees them: limits, schedules, starts, retention, previews, and ten years of
//! five hundred machines against a naive model.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails says so by panicking; the model test prints what it has counted"
)]

mod documented;
mod limits;
mod model;
mod naive;
mod preview;
mod retention;
mod schedule;
mod start;
mod suspect;
mod tools;
