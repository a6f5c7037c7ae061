//! The face over real connections: what goes over the wire, and what real clients make of it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::format_push_string,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod admin;
mod blocks;
mod client;
mod clients;
mod copies;
mod exports;
mod hostile;
mod object_store;
mod rclone;
mod requests;
mod server;
mod wire;
