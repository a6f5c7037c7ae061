//! Object stores as Strongroom needs them: create-only puts, gets, lists and deletes.
//!
//! A folder, several mirrored folders, S3, Azure Blob and GCS are all the same few operations
//! here ([`ObjectStore`]). This crate knows nothing of packs, keys or disks. Networks are
//! asynchronous inside it and blocking outside it, so that everything above is plain
//! sequential code; callers get concurrency from threads.
//!
//! ```text
//!  open(url) ─▶ Folder | Remote (S3, Azure Blob, GCS)        Memory   for tests
//!                  └─▶ Mirror of several                     Faulty   with the feature
//!                  └─▶ Limited in bytes per second           conformance   "testing"
//! ```
//!
//! Nothing above this crate names a kind of store: what differs between them is hidden here, or is an answer of the
//! trait.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
mod faulty;
mod folder;
mod limited;
mod memory;
mod mirror;
mod open;
mod probe;
mod remote;
mod store;

#[cfg(any(test, feature = "testing"))]
pub use faulty::{Faults, Faulty, Operations};
pub use folder::Folder;
pub use limited::{Limited, Rate};
pub use memory::Memory;
pub use mirror::Mirror;
pub use open::{Options, folder_of, open};
pub use probe::{Capabilities, ConditionalPut, PROBES, probe};
pub use remote::covers;
pub use store::{
    Entry, Heal, Key, KeyError, MAX_OBJECT_LEN, ObjectStore, Put, Refusal, StoreError,
};
