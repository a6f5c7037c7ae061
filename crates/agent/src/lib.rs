//! The hands of the service: what a host and a vault are asked to do.
//!
//! The service decides what happens and when, and never touches a disk, a hypervisor or a store
//! itself: it gives an [`Agent`] (one for each host) and a [`Keeper`] (of vaults) orders, which are
//! plain data, and gets plain data back. So an agent on another host is the same thing behind a
//! network, and tests put a whole fleet in their place.
//!
//! An order can be given again after any crash: whoever carries it out finds what the first time
//! has left, and goes on or begins anew. All of this blocks: it is called on threads that may.
//!
//! [`LocalAgent`] and [`LocalKeeper`] carry orders out in this process, with the same libraries as
//! the command line; they share the [`Vaults`] that they have open.

mod allowed;
mod error;
mod facts;
mod keeper;
mod local;
mod local_keeper;
mod order;
mod vaults;
mod verify;
mod watch;

pub use allowed::{Allowed, NotAllowed, check_path};
pub use keeper::{
    HeldPoint, Keeper, ReclaimDone, ReclaimOrder, SavedObject, UsageFacts, VaultFacts, VaultMake,
    VerifyDepth, VerifyFacts,
};
pub use local::{LocalAgent, LocalHost};
pub use local_keeper::LocalKeeper;
pub use order::{
    Agent, BackupDone, BackupOrder, FinishDone, FinishOrder, HostFacts, PointFacts, RestoreDone,
    RestoreOrder, Tier, TransferOrder, VaultAccess,
};
pub use strongroom_disk::Within;
pub use strongroom_engine::Snapshot;
pub use strongroom_keys::ModuleCommand;
pub use strongroom_vault::{Absence, AbsentPoint, place::covers};
pub use vaults::{Tokens, Vaults};
pub use watch::{TaskEvent, Watch};

/// What comes back: errors are of the catalog, as data.
pub type Result<T, E = Box<strongroom_api::ErrorBody>> = std::result::Result<T, E>;
