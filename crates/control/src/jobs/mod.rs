//! Jobs: how one lives, and whose turn it is.
//!
//! `life` and `queue` are pure functions; `service` keeps the documents. This part must not know what a job does: that
//! is the matter of `work`.

mod life;
mod queue;
pub(crate) mod service;

pub use self::life::{Event, Retry, on};
pub use self::queue::{Claim, Limits, Waiting, choose};
pub use self::service::JobFilter;
