//! The client before real servers: operations, transfers, and backups that are killed at every request.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod azurite;
mod incremental;
mod kills;
mod operations;
mod proxy;
mod server;
mod transfers;
