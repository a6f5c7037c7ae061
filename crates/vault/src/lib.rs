//! A vault: recovery points, and everything needed to read them, in an object store.
//!
//! ```text
//!  vault ──▶ write ──▶ packs, index objects, recovery points
//!       ╲─▶ read  ◀── index (a local cache)
//!        ╲▶ reclaim, rebuild-index, validate; audit, for the crate `verify`
//! ```
//!
//! This crate owns the protocol by which many writers, readers and one reclaim share a store without losing a point.
//! It knows object stores and the format. It must not know disks, jobs, policies or people. Its methods block;
//! concurrency comes from the caller's threads. Everything can be done with the store and the key alone: what is
//! kept locally is a cache.

pub mod audit;
mod beside;
mod condemned;
mod damaged;
mod describe;
mod early;
mod error;
mod files;
mod images;
mod index;
mod kept;
mod leftovers;
mod locks;
pub mod place;
mod points;
mod read;
mod rebuild;
mod reclaim;
mod seen;
mod service;
mod store_clock;
mod together;
mod usage;
mod validate;
mod vault;
mod voids;
mod whole;
mod write;
mod writers;

pub use early::Early;
pub use error::VaultError;
pub use index::{Index, Location};
pub use points::{DamagedManifest, PointList};
pub use read::{Reader, is_damage};
pub use rebuild::{RebuildReport, UnreadablePack};
pub use reclaim::{
    NotedPoints, Notes, OnReclaim, ReclaimOptions, ReclaimProgress, reclaim, reclaim_watched,
};
pub use seen::{Absence, AbsentPoint, Regression};
pub use service::ServiceObject;
pub use strongroom_reports::{HeldPoint, ReclaimReport, RemovedPoint, WhyHeld};
pub use usage::{ContentUsage, ItemUsage, UsageOptions, UsageReport};
pub use validate::{OnValidate, ValidateOptions, ValidateProgress, Validated};
pub use vault::{Vault, VaultOptions, temporary_folder};
pub use write::Writer;
pub use writers::{Life, STALE_AFTER, Seen, WriterNote};
