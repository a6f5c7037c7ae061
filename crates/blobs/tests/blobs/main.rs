//! The store as its callers use it: against a model, through crashes, by Azure's rules, and at what cost.
#![allow(clippy::disallowed_methods, reason = "real time and real processes are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "test helpers fail by panicking, and the model prints its seed"
)]

mod blocks;
mod blocks_model;
mod copies;
mod costs;
mod crash;
mod full;
mod killed;
mod lists;
mod model;
mod readers;
mod redundancy;
mod redundancy_crash;
mod redundancy_killed;
mod redundancy_model;
mod replication;
mod replication_model;
mod rules;
mod tools;
