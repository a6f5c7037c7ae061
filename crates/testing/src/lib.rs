//! What tests and benchmarks share.
//!
//! Only `[dev-dependencies]`, the benchmarks and the simulator use this crate; a test of the walls holds
//! that. A tool that one test program alone needs stays beside that program. What fails here panics: that is
//! how a test fails.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and says on standard output what it left out"
)]

mod bytes;
mod objects;
mod points;
mod processes;

pub use bytes::{folder_in_memory, noise};
pub use objects::{dump, flip, keys};
pub use points::{disk_record, manifest, put_points};
pub use processes::{Server, TemporaryMount, eventually, free_port, run, wait_until};
