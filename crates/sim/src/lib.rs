//! A deterministic simulator of the vault: the production code of writers, readers, deletions and
//! reclaims on a simulated store, clock and chance. One seed is one interleaving.
//!
//! ```text
//!  seed ─▶ run ─▶ actors (threads) ─▶ strongroom-vault ─▶ store ─▶ scheduler: who continues?
//!                    │                                      │      faults, pauses, clock jumps
//!                    └────────▶ world (oracle) ◀────────────┘
//! ```
//!
//! | module      | what it is |
//! |-------------|------------|
//! | `scheduler` | the baton: of all actors one runs; simulated time |
//! | `store`     | objects, handles, faults, the trace |
//! | `sabotage`  | broken stores, to see that the simulator would notice |
//! | `clock`     | each host's wrong clock |
//! | `content`   | model disks made of few different blocks |
//! | `actors`    | backup, deletion, restore, reclaim |
//! | `world`     | the oracle: what each recovery point must hold |
//! | `run`       | one run: from a seed to an outcome |
//! | `explore`   | many seeds |
//!
//! Must not know the bytes of the vault: it sees operations on objects. For tests only. How to use it when it finds something: `docs/understand/simulation.md`.

mod actors;
mod clock;
mod content;
mod explore;
mod rng;
mod run;
mod sabotage;
mod scheduler;
mod store;
mod world;

pub use explore::{Explored, explore};
pub use run::{Outcome, simulate};
pub use sabotage::Sabotage;
