//! The real program, run as a user runs it, on real disks in temporary folders.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails says so by panicking"
)]

mod bad_days;
mod blocks;
mod circles;
mod codes;
mod crowd;
mod damage;
mod docs;
mod documented;
mod errors;
mod export;
mod files;
mod files_readers;
mod forget;
mod gauntlet;
mod harness;
mod json;
mod keys;
mod killed;
mod layers;
mod life;
mod mirrors;
mod packaging;
mod pages;
mod params;
mod people;
mod security;
mod server;
mod service;
mod service_blobs;
mod service_files;
mod service_killed;
mod service_saved;
mod service_stopped;
mod session;
mod storage;
mod storage_network;
mod storage_pair;
mod store;
mod stores;
mod suspect;
mod watch;
