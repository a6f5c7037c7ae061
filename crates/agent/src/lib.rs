//! The hands of the service: what a host and a vault are asked to do.
//!
//! The service decides what happens and when, and never touches a disk, a hypervisor or a store
//! itself: it gives an [`Agent`] (one for each host) and a [`Keeper`] (of vaults) orders, which are
//! plain data, and gets plain data back. So an agent on another host is the same thing behind a
//! network, and tests put a whole fleet in their place.
//!
//! An order can be given again after any crash: whoever carries it out finds what the first time
//! has left, and goes on or begins anew. All of this blocks: it is called on threads that may.

mod keeper;
mod order;
mod watch;

pub use keeper::{Keeper, SavedObject, UsageFacts, VaultFacts, VaultMake};
pub use order::{
    Agent, BackupDone, BackupOrder, HostFacts, PointFacts, RestoreDone, RestoreOrder, VaultAccess,
};
pub use watch::{TaskEvent, Watch};

/// What comes back: errors are of the catalog, as data.
pub type Result<T, E = Box<strongroom_api::ErrorBody>> = std::result::Result<T, E>;
