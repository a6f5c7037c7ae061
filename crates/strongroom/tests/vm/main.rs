//! Real machines: libvirt and QEMU in emulation, with a guest whose data can be checked after any
//! restore.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that fails says so by panicking"
)]

mod after;
mod agent;
mod backup;
mod bed;
#[path = "../e2e/blocks.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod blocks;
mod boot;
#[allow(dead_code, reason = "the bed offers more than is used now")]
mod check;
mod consistency;
#[path = "../e2e/documented.rs"]
mod documented;
mod encrypted;
mod files_machine;
#[allow(dead_code, reason = "the bed offers more than is used now")]
mod guest;
#[allow(dead_code, reason = "the bed offers more than is used now")]
mod harness;
mod instant;
mod killed;
#[path = "../e2e/harness.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod lab;
mod misfortune;
mod orders;
mod pageblobs;
mod pages;
mod pitfalls;
mod remote;
mod restore;
#[path = "../e2e/server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod server;
mod service;
#[path = "../e2e/session.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod session;
mod states;
#[path = "../e2e/store.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod store;
mod thaw;
mod under_way;
