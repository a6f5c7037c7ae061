//! Images: the content of a disk at one moment, as a hash tree over 64 KiB blocks.
//!
//! ```text
//!            Image { size, root }
//!                      │
//! level 2 (depth)   [ node ]            256 digests of nodes; covers 4 GiB
//!                   /   |  ╲
//! level 1      [leaf] hole [leaf]       256 digests of blocks; a leaf covers 16 MiB
//!              / | ╲        / | ╲
//! level 0   blk hole blk  blk …         64 KiB each; stored elsewhere, known here by digest
//! ```
//!
//! | module  | what it does |
//! |---------|--------------|
//! | `hash`  | [`Hasher`]: keyed digests of blocks and nodes; [`is_zero`] |
//! | `node`  | [`Node`]: 256 digests and their one encoding, the only parser of outside bytes here |
//! | `image` | [`Image`]: size and root, and all arithmetic of places in the tree |
//! | `read`  | [`NodeReader`], [`Cursor`], [`leaves`], [`blocks`]: from an image down to its blocks |
//! | `build` | [`Builder`]: a new image from a parent and changed leaves, in one ascending pass |
//! | `part`  | [`cover`]: the digests by which a part of an image is known |
//! | `diff`  | [`diff()`]: the blocks in which two images differ |
//! | `walk`  | [`visit`], [`visit_new`], [`missing`]: every digest, for marking and for copying |
//!
//! Invariants:
//! - **Canonical.** Equal size and equal content give an equal root, whatever route built them. So
//!   equal digests at one place mean equal content below it, and only differing subtrees are read.
//! - The depth follows from the disk's size: 1 up to 16 MiB, 2 to 4 GiB, 3 to 1 TiB, 4 to 256 TiB.
//!   Trees of different depth have their first byte in common: the root of the shallower one is the
//!   leftmost node of its level in the deeper one.
//! - [`Digest::HOLE`](strongroom_base::Digest::HOLE) stands for zeros at every level: a block of
//!   zeros, or a node whose children are all holes. Neither is ever stored.
//! - The last block of a disk whose size is no multiple of 64 KiB is hashed as if zeros followed it.
//! - Nothing beyond the disk's end is present in a node; a node that has something there is damaged.
//!
//! This crate is pure: it knows neither disks nor packs, does no I/O, starts no thread, and holds
//! no more than a path of nodes in memory, whatever the size of the disk.

mod build;
mod diff;
mod error;
mod hash;
mod image;
mod node;
mod part;
mod read;
mod side;
mod walk;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use build::Builder;
pub use diff::{BlockDiff, Diff, diff};
pub use error::Error;
pub use hash::{Hasher, is_zero};
pub use image::{Image, SizeError};
pub use node::{DecodeError, Node};
pub use part::{Part, cover};
pub use read::{Blocks, Cursor, Leaf, Leaves, NodeReader, blocks, leaves};
pub use walk::{Missing, MissingItem, Visitor, missing, visit, visit_new};
