//! Object stores as Strongroom needs them: create-only puts, gets, lists and deletes.
//!
//! A folder, several mirrored folders, S3, Azure Blob and GCS are all the same few operations
//! here ([`ObjectStore`]). This crate knows nothing of packs, keys or disks. Networks are
//! asynchronous inside it and blocking outside it, so that everything above is plain
//! sequential code; callers get concurrency from threads.

mod store;

pub use store::{Entry, Heal, Key, KeyError, ObjectStore, Put, StoreError};
