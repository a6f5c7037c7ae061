//! The two traits of this crate and their errors.
//!
//! This module owns the contract of every disk: sizes, extents, reads, writes, and what an error says of it. It must
//! not know any single kind of disk.

use strongroom_base::{ByteRange, Code, Coded, Params, RangeSet, codes, params};

/// A stretch of a disk that is alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// What.
    pub kind: ExtentKind,
}

/// Whether a stretch of a disk has to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// May hold anything.
    Data,
    /// Reads as zeros (a hole, a discarded or never written part); need not be read.
    Zero,
}

/// A disk that can be read. Its content must not change while it is used.
pub trait DiskSource: Send + Sync {
    /// Bytes, a multiple of 512 (a last partial sector of a file counts as filled with zeros).
    fn size(&self) -> u64;

    /// What is allocated in `range`: ascending extents without gaps, from `range`'s start. The
    /// answer may end before `range` does (a source bounds the work of one call); it has at least
    /// one extent unless `range` is empty. Ask again from its end.
    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError>;

    /// Fills `buf` from `offset`; what lies past the end of the disk reads as zeros. Many
    /// threads may read at once. Fastest if `offset` and the buffer are aligned to 4 KiB
    /// ([`strongroom_base::AlignedBuf`]). A part that cannot be read is [`DiskError::Read`] with
    /// the exact sectors that failed first.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError>;

    /// What changed since the state that the source's dirty bitmap was started at, if it has one
    /// and it was asked for. Everything outside may be taken from the parent point.
    fn changed(&self) -> Option<&RangeSet>;

    /// The disk's format for people and for the recovery point: `raw`, `qcow2`, `nbd`, ...
    fn format(&self) -> &str;
}

/// A disk that can be written.
pub trait DiskTarget: Send + Sync {
    /// Bytes it can hold.
    fn size(&self) -> u64;

    /// Whether everything not yet written is known to read as zeros (a fresh sparse file).
    fn is_blank(&self) -> bool;

    /// Writes `data` at `offset`. Many threads may write at once, to different places.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError>;

    /// Makes a range read as zeros, freeing its space where that is possible.
    fn write_zeroes(&self, range: ByteRange) -> Result<(), DiskError>;

    /// Fills `buf` from `offset`, to compare before writing.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError>;

    /// Like [`DiskSource::extents`], to compare before writing.
    fn extents(&self, range: ByteRange) -> Result<Vec<Extent>, DiskError>;

    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), DiskError>;
}

/// Why a disk cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// It does not exist.
    #[error("{disk} does not exist")]
    NotFound {
        /// Path or URL.
        disk: String,
    },
    /// The source or target is not of a form that is known.
    #[error("{disk:?} is not a disk: {reason}")]
    Spec {
        /// What was given.
        disk: String,
        /// Why.
        reason: String,
    },
    /// A damaged or hostile image.
    #[error("{disk} is not a usable {format} image: {reason}")]
    Format {
        /// Path.
        disk: String,
        /// Format.
        format: String,
        /// Why.
        reason: String,
    },
    /// The image refers to another file that was not allowed.
    #[error("{disk} refers to {reference}, which Strongroom opens only if you allow it")]
    Unsafe {
        /// Path.
        disk: String,
        /// What it refers to.
        reference: String,
    },
    /// A file to continue with is not one that an earlier attempt has left.
    #[error("{disk} was not left by an earlier run: {reason}")]
    Planted {
        /// Path.
        disk: String,
        /// How that is known.
        reason: &'static str,
    },
    /// A link leads out of the folders that are allowed.
    #[error("{disk} leads out of the allowed folders")]
    Outside {
        /// Path.
        disk: String,
    },
    /// Only a QEMU that gets all its options can read it.
    #[error("{disk} cannot be read without a machine's QEMU: {reason}")]
    NeedsQemu {
        /// Path.
        disk: String,
        /// Why.
        reason: String,
    },
    /// A file that was named without its format, and that is hardly a disk.
    #[error("{disk} does not look like a disk: {reason} (if it is one, write raw:{disk})")]
    Doubtful {
        /// Path.
        disk: String,
        /// Why.
        reason: String,
    },
    /// Somebody else uses it.
    #[error("{disk} is in use: {reason}")]
    Busy {
        /// Path or URL.
        disk: String,
        /// Who or how it is known.
        reason: String,
    },
    /// No right to open it.
    #[error("{disk} cannot be opened: permission denied")]
    Denied {
        /// Path or URL.
        disk: String,
    },
    /// A part cannot be read.
    #[error("{disk}: cannot read {range}")]
    Read {
        /// Path or URL.
        disk: String,
        /// The part.
        range: ByteRange,
        /// The cause.
        source: std::io::Error,
    },
    /// A part cannot be written.
    #[error("{disk}: cannot write {range}")]
    Write {
        /// Path or URL.
        disk: String,
        /// The part.
        range: ByteRange,
        /// The cause.
        source: std::io::Error,
    },
    /// Another operation on it failed.
    #[error("{disk}: cannot {action}")]
    Io {
        /// Path or URL.
        disk: String,
        /// The verb: open, resize, flush, ...
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// No room to write.
    #[error("{disk}: no room to write {range}")]
    Full {
        /// Path or URL.
        disk: String,
        /// The part.
        range: ByteRange,
    },
    /// The target is too small.
    #[error("{disk} holds {have} bytes, {need} are needed")]
    TooSmall {
        /// Path or URL.
        disk: String,
        /// Its size.
        have: u64,
        /// The size needed.
        need: u64,
    },
    /// The target holds data.
    #[error("{disk} is not empty")]
    NotEmpty {
        /// Path or URL.
        disk: String,
    },
    /// An NBD server refused or broke the protocol.
    #[error("NBD server of {disk}: {reason}")]
    Nbd {
        /// URL without secrets.
        disk: String,
        /// What happened.
        reason: String,
    },
    /// There is no dirty bitmap of this name, or it cannot be relied upon.
    #[error("{disk} has no usable dirty bitmap {bitmap:?}: {reason}")]
    Bitmap {
        /// Path or URL.
        disk: String,
        /// The bitmap.
        bitmap: String,
        /// Why.
        reason: String,
    },
    /// A helper program is missing or failed.
    #[error("{tool} cannot serve {disk}: {reason}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// Path.
        disk: String,
        /// What it said.
        reason: String,
    },
    /// The recovery point that the disk is of cannot be read.
    #[error("disk {disk} of the recovery point")]
    Point {
        /// The disk's name.
        disk: String,
        /// What it is in the catalog of errors.
        code: &'static Code,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A changed-ranges file is wrong.
    #[error("{file}, line {line}: {reason}")]
    Ranges {
        /// The file.
        file: String,
        /// Line number from 1.
        line: u64,
        /// Why.
        reason: String,
    },
}

impl Coded for DiskError {
    fn code(&self) -> &'static Code {
        match self {
            Self::NotFound { .. } => &codes::DISK_NOT_FOUND,
            Self::Spec { .. } => &codes::URL_INVALID,
            Self::Format { .. } => &codes::DISK_FORMAT,
            Self::Unsafe { .. } | Self::Planted { .. } => &codes::DISK_UNSAFE,
            Self::Outside { .. } => &codes::PLACE_NOT_ALLOWED,
            Self::NeedsQemu { .. } => &codes::DISK_NEEDS_QEMU,
            Self::Doubtful { .. } => &codes::DISK_DOUBTFUL,
            Self::Busy { .. } => &codes::DISK_BUSY,
            Self::Denied { .. } => &codes::DISK_DENIED,
            Self::Read { .. } | Self::Write { .. } | Self::Io { .. } => &codes::DISK_IO,
            Self::Full { .. } => &codes::DISK_FULL,
            Self::TooSmall { .. } => &codes::DISK_TOO_SMALL,
            Self::NotEmpty { .. } => &codes::DISK_NOT_EMPTY,
            Self::Nbd { .. } => &codes::DISK_NBD,
            Self::Bitmap { .. } => &codes::DISK_BITMAP,
            Self::Tool { .. } => &codes::DISK_TOOL,
            Self::Point { code, .. } => code,
            Self::Ranges { .. } => &codes::RANGES_INVALID,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::NotFound { disk } => params!(DISK_NOT_FOUND: disk),
            Self::Spec { disk, reason } => params!(URL_INVALID: disk, reason),
            Self::Format { disk, format, reason } => params!(DISK_FORMAT: disk, format, reason),
            Self::Unsafe { disk, reference } => params!(DISK_UNSAFE: disk, reference),
            Self::Planted { disk, reason } => params!(DISK_UNSAFE: disk, reason),
            Self::Outside { disk } => params!(PLACE_NOT_ALLOWED: disk),
            Self::NeedsQemu { disk, reason } => params!(DISK_NEEDS_QEMU: disk, reason),
            Self::Doubtful { disk, reason } => params!(DISK_DOUBTFUL: disk, reason),
            Self::Busy { disk, reason } => params!(DISK_BUSY: disk, reason),
            Self::Denied { disk } => params!(DISK_DENIED: disk),
            Self::Read { disk, range, source: _ } => params!(DISK_IO: disk, range),
            Self::Write { disk, range, source: _ } => params!(DISK_IO: disk, range),
            Self::Io { disk, action, source: _ } => params!(DISK_IO: disk, action),
            Self::Full { disk, range } => params!(DISK_FULL: disk, range),
            Self::TooSmall { disk, have, need } => params!(DISK_TOO_SMALL: disk, have, need),
            Self::NotEmpty { disk } => params!(DISK_NOT_EMPTY: disk),
            Self::Nbd { disk, reason } => params!(DISK_NBD: disk, reason),
            Self::Bitmap { disk, bitmap, reason } => params!(DISK_BITMAP: disk, bitmap, reason),
            Self::Tool { tool, disk, reason } => params!(DISK_TOOL: tool, disk, reason),
            Self::Point { disk, code: _, source: _ } => {
                params!(STORE_CORRUPT | STORE_MISSING | STORE_UNAVAILABLE | STORE_DENIED | STORE_PROTOCOL | STORE_FULL | STORE_READ_ONLY | STORE_DEGRADED | INDEX_INCOMPLETE | VAULT_FORMAT | VAULT_NOT_FOUND | KEY_WRONG | LOCAL_IO | INTERRUPTED | BUG: disk)
            }
            Self::Ranges { file, line, reason } => params!(RANGES_INVALID: file, line, reason),
        }
    }
}
