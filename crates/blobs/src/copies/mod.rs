//! Copies of a store (LRS): several folders that have the same records, and the same bytes.
//!
//! ```text
//!  commit::Committer ─▶ engine::Engine            the copy that leads: decides, is read
//!                    ╲▶ follow::Link ─▶ Engine    copies that follow: the same records, applied by the same code
//!  members::Members    copies.json in each folder: which copies there are, and which lack changes
//!  rebuild             a copy is made from another one while the store works
//!  repair              a cell that is wrong in one copy is read from another, and written again
//! ```
//!
//! It knows folders of this machine; what a record means it does not know.

pub(crate) mod follow;
pub(crate) mod hub;
pub(crate) mod members;
pub(crate) mod open;
pub(crate) mod rebuild;
pub(crate) mod repair;
