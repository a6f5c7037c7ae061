//! Sizes that are fixed for the life of format version 1.

/// Bytes in a block, the unit of hashing, deduplication and storage.
///
/// 64 KiB is the granularity of QEMU's dirty bitmaps and of qcow2 clusters, so changed ranges map
/// onto blocks without reading more than changed.
pub const BLOCK_SIZE: usize = 64 * 1024;

/// [`BLOCK_SIZE`] for arithmetic on disk offsets.
pub const BLOCK_SIZE_U64: u64 = 64 * 1024;

/// Children of a tree node.
pub const FANOUT: usize = 256;

/// Bytes of disk below one leaf node: 256 blocks, 16 MiB.
pub const LEAF_SPAN: u64 = 16 * 1024 * 1024;

/// The smallest addressable unit of a disk; every disk size is a multiple of it.
pub const SECTOR_SIZE: u64 = 512;

/// The largest disk: 256 TiB, a tree of depth 4.
pub const MAX_DISK_SIZE: u64 = 256 * 1024 * 1024 * 1024 * 1024;
