//! Measures Strongroom, its peers and the machine, and makes the data they are measured on.
//!
//! Nothing here is part of the product and the product uses none of it. The programs:
//!
//! | program | what it does |
//! |---|---|
//! | `bench` | makes the data and measures one thing at a time: `bench --help` |
//! | `load` | asks a real server for lists, 1,000 times a second, from a catalog with years in it |
//! | `machines` | runs Strongroom and virtnbdbackup on the same running machine and prints the table |
//! | `distant` | runs Strongroom and restic on a store that is 50 ms away and prints the table |
//! | `exports` | runs Strongroom's exports and mounts beside restic's and borg's mounts and prints the table |
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
