//! Blobs of pages, of blocks and of appends: accounts, containers, snapshots and differences, and the journal that
//! keeps them.
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
//! The content of block blobs and append blobs lies in pages as well: [`extents`] says where.
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
mod content;
mod copies;
mod decide;
mod direct;
mod engine;
mod extents;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod hang_tests;
mod journal;
mod lease;
mod leftovers;
#[cfg(test)]
mod limit_tests;
mod list;
mod map;
mod numbers;
mod pages;
mod record;
mod refusal;
mod replication;
mod rows;
mod slots;
mod state;
mod store;
mod sums;
mod usage;
mod view;

pub use change::{
    Access, AccountChange, AppendConditions, BlobChange, BlockList, BlockPlace, Change, Conditions,
    ContainerChange, Content, CopyStep, DeleteSnapshots, Done, EtagCondition, KeyNumber,
    NewAccount, NewBlob, NewCopy, SequenceAction, SequenceConditions, SnapshotOf, UploadId,
    UploadStep, UploadTo,
};
pub use copies::hub::{Findings, StoreCopy, StoreCopyState};
pub use direct::WriteBuffer;
pub use extents::{Block, BlockId};
pub use journal::JournalDamage;
pub use lease::{Lease, LeaseAction, LeaseDone, LeaseId, LeaseState};
pub use map::ApplyError;
pub use pages::{BLOCK, CELL, MAX_SIZE, MAX_WRITE, PAGE};
pub use record::BadRecord;
pub use refusal::Refusal;
pub use replication::{
    BadBatch, CompareProgress, Compared, Comparison, Difference, DifferenceKind, Era, Position,
    ResyncError, ResyncProgress, ResyncSource, Role, ServerId, ShipError, Shipper, Standing,
    StoreId, TakeError,
};
pub use rows::{
    AccessPolicy, Account, AccountKey, AccountKind, BlobKind, BlobName, Container, ContainerName,
    Copy, CopyStatus, Etag, IncrementalCopy, Metadata, Properties, Redundancy, SnapshotId, Ticks,
    Tier,
};
pub use state::StateError;
pub use store::{Options, Status, Store, StoreError};
pub use usage::Usage;
pub use view::{Head, Item, ListMarker, ListQuery, Listed, PageRange, Ranges, ReadError, View};
