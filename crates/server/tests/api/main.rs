//! The API, asked over TLS on a real port: what is promised of it, over real vaults and disks.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says so by panicking, and waits for a real server"
)]

mod accounts;
mod alerts;
mod bed;
mod document;
mod metrics;
mod monitoring;
mod pages;
mod places;
mod requests;
mod rights;
mod sinks;
mod standby;
mod tokens;
mod traces;
mod work;
