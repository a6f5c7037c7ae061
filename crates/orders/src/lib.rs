//! What hosts and vaults are asked to do: orders, facts, events, and the traits of those who carry them
//! out.
//!
//! The service decides what happens and when, and never touches a disk, a hypervisor or a store itself:
//! it gives an [`Agent`] (one for each host) and a [`Keeper`] (of vaults) orders, which are plain data,
//! and gets plain data back. So an agent on another host is the same thing behind a network, and tests put
//! a whole fleet in their place. This crate knows neither how orders are carried out nor why they are given.
//!
//! ```text
//!  control ─▶ order ─▶ Agent, Keeper ─▶ facts, or an error as data
//!     ▲                     │
//!     └── Watch: events, progress; cancel ──▶
//! ```
//!
//! There are three kinds of calls:
//!
//! - **Orders** change something or take long. Each has an [`OrderId`]. An order may be repeated with the same id
//!   after any crash or cut line: the agent finds the earlier result and continues, or repeats its answer.
//!   Two ids are two orders.
//! - **Questions** (`hello`, `discover`, `facts`, `points`, `absent`, `boot`, `usage`, `saved`, `load`) change nothing.
//! - **Wanted states** (`make`, `delete_points`, `lock_points`, `make_key_file`, `save`, `unsave`) say what is
//!   to be the case; a second time finds it so.
//!
//! All of this blocks: it is called on threads that may. An order that is cancelled ends soon, with the
//! error `interrupted`.
//!
//! Storage accounts are no order: they are in the process of the service or nowhere ([`StorageAccounts`]). Neither
//! is reading files of recovery points ([`PointFiles`]): who reads them sends their bytes while somebody waits.
//!
//! # Versions
//!
//! [`ORDERS_VERSION`] is that of all orders and facts together; a host says in [`HostFacts::orders`] which it
//! understands. The service refuses a host whose version it does not know: an error `host.version` at its discovery,
//! and no orders after it until it is asked again.
//!
//! - A new field that may be missing (`#[serde(default)]`) and means then what was the case before it keeps
//!   the version: an older reader ignores it, an older writer leaves it out.
//! - A new order, a new kind of source or restore, a new word of an enum, and a field that must not be
//!   ignored raise it. The service gives a host only orders of the host's own version or of an earlier one.
//! - A field never changes its meaning or type; a name that is gone is not used again. The shapes of this
//!   version are written down in `tests/orders.json`, and a test compares.

mod accounts;
#[cfg(feature = "testing")]
pub mod conformance;
mod files;
mod id;
mod keeper;
mod order;
mod places;
mod watch;

pub use accounts::StorageAccounts;
pub use files::{
    ByteAsk, FileAsk, FileHead, FileSink, FileStream, FilesOf, Leash, ListAsk, Part, PointFiles,
    SentFiles,
};
pub use id::OrderId;
pub use keeper::{
    Absence, AbsentPoint, BootEvidence, HeldPoint, Keeper, ReclaimDone, ReclaimOrder, RotateOrder,
    SavedObject, UsageFacts, ValidateOrder, VaultFacts, VaultMake, VerifyDepth, VerifyFacts,
    VerifyOrder,
};
pub use order::{
    Agent, Agents, BackupDone, BackupOrder, BootDone, BootOrder, CheckOrder, DrillDone, DrillOrder,
    FinishDone, FinishOrder, HostFacts, IncrementalDone, IncrementalOrder, PointFacts, RestoreDone,
    RestoreOrder, Tier, TransferOrder, VaultAccess,
};
pub use places::{AllowedPlaces, NotAllowed};
pub use watch::{TaskEvent, Watch};

/// The version of orders and facts.
pub const ORDERS_VERSION: u32 = 3;

/// What comes back: errors are of the catalog, as data.
pub type Result<T, E = Box<strongroom_api::ErrorBody>> = std::result::Result<T, E>;
