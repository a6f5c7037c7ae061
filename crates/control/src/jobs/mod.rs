//! Jobs: how one lives, and whose turn it is.

mod life;
mod queue;
pub(crate) mod service;

pub use self::life::{Event, Retry, on};
pub use self::queue::{Claim, Limits, Waiting, choose};
pub use self::service::JobFilter;
