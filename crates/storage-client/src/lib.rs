//! A client of Azure's blob service, and of every service that speaks its dialect: Azure itself, Azurite, and
//! `strongroom storage serve`.
//!
//! ```text
//!  transfer, incremental ─▶ Client: one method for each operation ─▶ http: signed, sent, tried again ─▶ the service
//!                                     azure: requests, answers, codes
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `location` | connection strings, URLs with a shared access signature, `CONTAINER/BLOB` |
//! | `trust`, `http` | [`Client`]: whose certificates are believed, requests, tries |
//! | `containers`, `blobs`, `pages`, `copies`, `leases`, `blocks` | the operations |
//! | [`transfer`] | files to page blobs and back |
//! | [`incremental`] | incremental backups of page blobs by snapshots, restores of them |
//! | [`snapshots`] | the snapshots of a blob, and who took them |
//! | `ranges`, `parallel` | lists of ranges side by side; work by several threads |
//! | `source` | a snapshot as a disk to read |
//! | `error` | [`StorageClientError`] |
//!
//! It blocks, because its callers do. It knows nothing of command lines, of where secrets are kept, or of vaults.
//! Requests that may be sent twice without harm are sent again when the service fails; all others only when it is
//! certain that they were not carried out.

mod blobs;
mod blocks;
mod containers;
mod copies;
mod error;
mod http;
pub mod incremental;
mod leases;
mod location;
mod pages;
mod parallel;
mod ranges;
pub mod snapshots;
mod source;
pub mod transfer;
mod trust;

pub use blobs::{BlobQuery, Blobs};
pub use containers::Containers;
pub use copies::Copied;
pub use error::{Refused, StorageClientError};
pub use http::{Client, Options, Patience};
pub use leases::Held;
pub use location::{Location, place};
pub use pages::{NewPageBlob, Pages, RangeQuery};
pub use source::SnapshotDisk;
pub use trust::Trust;
