//! Measures Strongroom, its peers and the machine, and makes the data they are measured on.
//!
//! Nothing here is part of the product and the product uses none of it. The programs:
//!
//! | program | what it does |
//! |---|---|
//! | `generate` | a table as Postgres stores it and its churn, logs, noise: the same bytes for the same seed |
//! | `patch` | how two disks differ, as changed ranges and as a patch in both directions |
//! | `limits` | what this machine can do: read, write, hash, compress, encrypt |
//! | `bare_pipeline` | the least a backup must do, without index, manifest or format: the ceiling |
//! | `big_vault` | a vault of 1 TB and 1,000 points without its data: opening, index, reclaim |
//! | `catalog` | how fast the catalog lists, reads, writes and counts, on SQLite and PostgreSQL |
//! | `fleet` | nights of 10,000 machines on 100 hosts, in simulated time |
//! | `load` | asks a real server for lists, 1,000 times a second, from a catalog with years in it |
//! | `machines` | runs Strongroom and virtnbdbackup on the same running machine and prints the table |
//! | `distant` | runs Strongroom and restic on a store that is 50 ms away and prints the table |
//! | `compare` | runs Strongroom and its peers on the same disks and prints the table |

#[allow(clippy::disallowed_methods, reason = "it delays real connections")]
pub mod distance;
pub mod failure;
pub mod figures;
pub mod fleet;
pub mod heap;
pub mod image;
pub mod pipeline;
pub mod place;
pub mod rng;
pub mod text;

pub use failure::{Failure, Outcome};
