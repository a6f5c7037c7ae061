//! Page blobs: accounts, containers, blobs, snapshots and differences, and the journal that keeps them.
//!
//! It knows no HTTP and no XML: a face maps requests to a [`Change`] or to a question to a [`View`], and a
//! [`Refusal`] to a status and a code.
//!
//! # The path of one write, from `submit` to a difference
//!
//! ```text
//!  Store::submit ─▶ queue ─▶ commit::Committer          one thread; a group is all that waits
//!                              decide::Decider           rules: lease, conditions, range     ─▶ Refusal
//!                              record::Record            everything that time and chance decided
//!                              map::Applier              tables of redb; slots are chosen; writes wait
//!                              copies::follow::Link      the same records to each copy that follows
//!                              journal::Journal          frames, one fdatasync               the change is durable
//!                              slots::Pending            cells of 4 KiB to the data files
//!                              state                     redb commits without fsync          ─▶ reply
//!  View::read  ─▶ blocks: the newest version up to the epoch ─▶ slot ─▶ cells, checksums
//!  View::diff  ─▶ changed: pages touched in the epochs between ─▶ blocks: which of them have content
//! ```
//!
//! Each copy of the store is an [`engine`], which makes records durable and applies them; [`copies`] says how several
//! stay equal.
//!
//! A checkpoint makes data files and state durable and deletes the journal before it. After a crash the state is
//! that of the last checkpoint, and the journal from there on is applied again, by the same code. One rule makes
//! that right: *a slot that the last checkpoint uses for another version is never written* ([`map`]).
//!
//! Decision 0032 says why; `docs/understand/blob-format.md` has every byte.

mod change;
mod commit;
mod copies;
mod decide;
mod engine;
#[cfg(test)]
mod golden_tests;
mod journal;
mod lease;
mod map;
mod numbers;
mod pages;
mod record;
mod refusal;
mod rows;
mod slots;
mod state;
mod store;
mod sums;
mod view;

pub use change::{
    Access, AccountChange, BlobChange, Change, Conditions, ContainerChange, CopyStep,
    DeleteSnapshots, Done, EtagCondition, KeyNumber, NewAccount, NewBlob, NewCopy, SequenceAction,
    SequenceConditions, SnapshotOf,
};
pub use copies::hub::{Findings, StoreCopy, StoreCopyState};
pub use journal::JournalDamage;
pub use lease::{Lease, LeaseAction, LeaseDone, LeaseId, LeaseState};
pub use map::ApplyError;
pub use pages::{BLOCK, CELL, MAX_SIZE, MAX_WRITE, PAGE};
pub use record::BadRecord;
pub use refusal::Refusal;
pub use rows::{
    AccessPolicy, Account, AccountKey, AccountKind, BlobName, Container, ContainerName, Copy,
    CopyStatus, Etag, IncrementalCopy, Metadata, Properties, Redundancy, SnapshotId, Ticks,
};
pub use state::StateError;
pub use store::{Options, Status, Store, StoreError};
pub use view::{Head, Item, ListMarker, ListQuery, Listed, PageRange, Ranges, ReadError, View};
