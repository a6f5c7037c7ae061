//! What happens and when: vaults, hosts, protection, policies, schedules, jobs, retention, access.
//!
//! This is the service without its network: code with a [`rights::Caller`] may ask [`Control`] for
//! what the API offers; the work itself is done by agents and keepers, to whom it gives
//! [`strongroom_orders`].
//!
//! ```text
//!  caller ─▶ Control: may it? ─▶ catalog: what is, what is wanted ─▶ jobs ─▶ agents, keeper
//!                                   ▲                                 │
//!            schedules, retention ──┘◀──────── what became of it ◀────┘
//! ```
//!
//! This crate owns every decision of the service and every document of the catalog. It must not know HTTP, disks,
//! hypervisors or stores, and links none of them. It never reads a clock or chance except through its [`Parts`].

#[macro_use]
mod transact;

mod access;
mod accounts;
mod alerts;
mod audit;
mod boots;
mod cause;
pub mod clock;
mod drills;
mod error;
mod figures;
mod files;
mod hosts;
mod items;
pub mod jobs;
mod lookup;
pub mod model;
pub mod notify;
mod once;
mod page;
mod points;
mod policies;
mod pulse;
mod readers;
mod recover;
mod retention;
pub mod rights;
mod saved;
mod schedule;
mod service;
mod sources;
mod status;
mod time;
mod vaults;
mod wanted;
mod work;

pub use accounts::StorageFigures;
pub use alerts::{AlertFilter, Rule, clock_is_ahead};
pub use boots::BootSight;
pub use cause::{Adopt, Cause};
pub use error::{ControlError, Result};
pub use figures::{Figures, VaultFigures};
pub use files::{FileDownload, Sending};
pub use items::ItemFilter;
pub use once::once;
pub use page::{PageRequest, Versioned};
pub use policies::DEFAULT_POLICY;
pub use pulse::{Delivery, Pulse};
pub use recover::{Recovered, RecoveredItem};
pub use saved::Saved;
pub use service::{Control, Parts, Settings};
pub use work::Rounds;
