//! Errors of the engine.

use strongroom_base::{ByteRange, Code, Coded, Params, PointId, codes, params};
use strongroom_disk::DiskError;
use strongroom_image::SizeError;
use strongroom_vault::VaultError;

/// Why work of the engine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A disk failed.
    #[error("disk {name}")]
    Disk {
        /// The disk's name within the item.
        name: String,
        /// The cause.
        source: DiskError,
    },
    /// A part of a source disk cannot be read.
    #[error("disk {name}: {range} cannot be read")]
    SourceRead {
        /// The disk's name within the item.
        name: String,
        /// The part.
        range: ByteRange,
        /// The cause.
        source: DiskError,
    },
    /// A tree of the vault is damaged.
    #[error("the image of disk {name} is damaged")]
    Image {
        /// The disk's name within the item.
        name: String,
        /// The cause.
        source: strongroom_image::Error<VaultError>,
    },
    /// The tree of a configuration is damaged.
    #[error("the configuration is damaged")]
    Configuration(#[source] strongroom_image::Error<VaultError>),
    /// The configuration is too large.
    #[error("the configuration has {length} bytes; at most {limit} are kept")]
    ConfigurationSize {
        /// Its bytes.
        length: u64,
        /// The most.
        limit: u64,
    },
    /// The disk has an impossible size.
    #[error("disk {name}")]
    Size {
        /// The disk's name within the item.
        name: String,
        /// The cause.
        source: SizeError,
    },
    /// Disk names are wrong or not unique.
    #[error("the disks of item {item} need different names that are valid file names")]
    Names {
        /// The item.
        item: String,
    },
    /// Changed ranges lie outside the disk.
    #[error("disk {name} has {size} bytes; a changed range ends at {end}")]
    Ranges {
        /// The disk's name within the item.
        name: String,
        /// Its size.
        size: u64,
        /// Where the last range ends.
        end: u64,
    },
    /// The point has no disk of this name.
    #[error("recovery point {point} has no disk {name}")]
    NoSuchDisk {
        /// The point.
        point: PointId,
        /// The name asked for.
        name: String,
    },
    /// No point as old as that.
    #[error("item {item} has no recovery point at or before {time}")]
    NoneBefore {
        /// The item.
        item: String,
        /// The moment asked for.
        time: jiff::Timestamp,
    },
    /// Stopped on request.
    #[error("stopped on request")]
    Interrupted,
    /// Something happened that must not.
    #[error("{0}")]
    Bug(&'static str),
}

impl EngineError {
    /// Whether a disk failed, or the work was stopped, rather than the vault.
    pub const fn is_of_disk(&self) -> bool {
        matches!(self, Self::Disk { .. } | Self::SourceRead { .. } | Self::Interrupted)
    }
}

impl Coded for EngineError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Vault(error) => error.code(),
            Self::Disk { source, .. } => source.code(),
            Self::SourceRead { .. } => &codes::BACKUP_SOURCE_READ,
            Self::Image { source, .. } | Self::Configuration(source) => source.code(),
            Self::ConfigurationSize { .. } => &codes::BACKUP_CONFIGURATION_SIZE,
            Self::Size { source, .. } => source.code(),
            Self::Names { .. } => &codes::ITEM_NAME,
            Self::Ranges { .. } => &codes::RANGES_INVALID,
            Self::NoSuchDisk { .. } => &codes::POINT_DISK_NOT_FOUND,
            Self::NoneBefore { .. } => &codes::POINT_NONE_BEFORE,
            Self::Interrupted => &codes::INTERRUPTED,
            Self::Bug(_) => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Vault(error) => error.params(),
            Self::Disk { name, source: _ } => {
                params!(DISK_NOT_FOUND | URL_INVALID | DISK_FORMAT | DISK_UNSAFE | PLACE_NOT_ALLOWED | DISK_NEEDS_QEMU | DISK_DOUBTFUL | DISK_BUSY | DISK_DENIED | DISK_IO | DISK_FULL | DISK_TOO_SMALL | DISK_NOT_EMPTY | DISK_NBD | DISK_BITMAP | DISK_TOOL | RANGES_INVALID | STORE_CORRUPT | STORE_MISSING | STORE_UNAVAILABLE | STORE_DENIED | STORE_PROTOCOL | STORE_FULL | STORE_READ_ONLY | STORE_DEGRADED | INDEX_INCOMPLETE | VAULT_FORMAT | VAULT_NOT_FOUND | KEY_WRONG | LOCAL_IO | INTERRUPTED | BUG: disk = name)
            }
            Self::SourceRead { name, range, source: _ } => {
                params!(BACKUP_SOURCE_READ: disk = name, range)
            }
            Self::Image { name, source: _ } => {
                params!(STORE_CORRUPT | STORE_MISSING | STORE_UNAVAILABLE | STORE_DENIED | STORE_PROTOCOL | STORE_FULL | STORE_READ_ONLY | STORE_DEGRADED | INDEX_INCOMPLETE | VAULT_FORMAT | VAULT_NOT_FOUND | KEY_WRONG | LOCAL_IO | INTERRUPTED | BUG | DISK_FORMAT: disk = name)
            }
            Self::Configuration(_) => Params::none(),
            Self::ConfigurationSize { length, limit } => {
                params!(BACKUP_CONFIGURATION_SIZE: length, limit)
            }
            Self::Size { name, source: _ } => params!(DISK_FORMAT: disk = name),
            Self::Names { item } => params!(ITEM_NAME: item),
            Self::Ranges { name, size, end } => params!(RANGES_INVALID: disk = name, size, end),
            Self::NoSuchDisk { point, name } => params!(POINT_DISK_NOT_FOUND: point, disk = name),
            Self::NoneBefore { item, time } => params!(POINT_NONE_BEFORE: item, time),
            Self::Bug(reason) => params!(BUG: reason),
            Self::Interrupted => Params::none(),
        }
    }
}

/// The usual result.
pub(crate) type Result<T, E = EngineError> = std::result::Result<T, E>;
