//! Files of disks: partitions, file systems, and the process that reads them.
//!
//! ```text
//!  ReadAt: a disk ─▶ FileReader ◀── a socket ──▶ the child: partitions, probe, trees of files
//!                        └─▶ Files: paths, entries, bytes ─▶ deliver: a folder
//! ```
//!
//! File systems come from strangers. They are parsed by a child process that has no files, no network and no keys,
//! bounded memory and time, and one socket, over which it asks for bytes of the disks. What it answers is checked
//! here. Which file systems are read is decided by lists of features ([`mod@probe`]), not by whether a reader opens them.
//!
//! What no reader here reads right is read by Linux itself, in a machine of its own ([`Machine`]) that answers the same
//! questions.
//!
//! This crate knows neither vaults nor recovery points: a disk is whatever can be read at offsets.

mod archive;
mod btrfs;
mod bytes;
mod child;
mod content;
mod deliver;
mod error;
mod exfat;
mod ext;
mod fat;
mod luks;
mod lvm;
mod machine;
mod md;
mod ntfs;
mod partitions;
mod probe;
mod reader;
mod sandbox;
mod secret;
mod signs;
mod source;
mod survey;
mod target;
mod tree;
mod units;
mod unpack;
mod walk;
mod wire;
mod xfs;
mod zip;

#[doc(hidden)]
pub mod fuzz;

pub use archive::archive;
pub use child::serve;
pub use content::content;
pub use deliver::{Delivered, Options, Problem, deliver};
pub use error::{FilesError, ReadFailure, shown};
pub use machine::{Machine, MachineLimits, guest, launch, machine_may_read};
pub use partitions::{Partition, Table, table};
pub use probe::{Found, Reader, probe};
pub use reader::{FileReader, Limits, NamedDisk, ReaderCommand, Stopper};
pub use secret::Secret;
pub use signs::{ReplacedFiles, SameName, Signs, signs};
pub use source::{Cached, Cursor, Part, ReadAt};
pub use survey::{Surveyed, Volume, open, survey};
pub use tree::{Attributes, Entry, Fault, FaultKind, Kind, Piece, Time, Tree, Xattr};
pub use unpack::unpack;
pub use walk::{Files, Located, Visited, Visitor};
pub use zip::zip;
