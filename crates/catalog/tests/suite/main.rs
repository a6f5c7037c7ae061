//! What a catalog must do, the same on SQLite and on a real PostgreSQL.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]

mod audit;
mod chaos;
mod documents;
mod dumps;
mod leases;
mod model;
mod pages;
mod schema;
mod world;
