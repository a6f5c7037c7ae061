//! Why work on a vault failed.
//!
//! This module owns the one error of the crate and its place in the catalog of codes. It must not know how an error
//! is shown.

use std::{io, path::PathBuf};

use strongroom_base::{Code, Coded, Digest, PackId, Params, PointId, codes, params};
use strongroom_format::FormatError;
use strongroom_objects::StoreError;

use strongroom_keys::KeyError;

/// Why work on a vault failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// There is no vault here.
    #[error("{store} holds no vault")]
    NotFound {
        /// Where.
        store: String,
    },
    /// There is something here already.
    #[error("{store} is not empty: it holds {what}")]
    Exists {
        /// Where.
        store: String,
        /// What was found.
        what: String,
    },
    /// The store cannot arbitrate between writers.
    #[error("{store} does not honour create-only puts")]
    Unsafe {
        /// Where.
        store: String,
    },
    /// A service keeps nothing under this name.
    #[error("the vault has no copy of a catalog under the name {name}")]
    NothingKept {
        /// The name.
        name: String,
    },
    /// Two copies of a vault would be one.
    #[error("{folder} was given twice")]
    SameFolder {
        /// The folder.
        folder: String,
    },
    /// Another writer in a vault that allows one only.
    #[error("another writer is active in {store}: {who}")]
    Busy {
        /// Where.
        store: String,
        /// Who.
        who: String,
    },
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is damaged.
    #[error("object {object} is damaged")]
    Object {
        /// The object.
        object: String,
        /// How.
        source: FormatError,
    },
    /// Something to be written does not fit the format.
    #[error("cannot write {what}")]
    Format {
        /// What.
        what: &'static str,
        /// Why.
        source: FormatError,
    },
    /// The keys failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A pack is sealed under a master key that this key ring does not have.
    #[error("object {object} is sealed under an unknown master key {key}")]
    UnknownKey {
        /// The object.
        object: String,
        /// The key's id.
        key: String,
    },
    /// A block or node is in no pack, or in damaged ones only.
    #[error("content {digest} is lost: {reason}")]
    Lost {
        /// Its address.
        digest: Digest,
        /// Where it was looked for.
        reason: String,
    },
    /// A block or node is in no pack of the index, but there are packs that the index does not list.
    #[error("content {digest} is not in the index, which lacks {packs} of the vault's packs")]
    NotIndexed {
        /// Its address.
        digest: Digest,
        /// How many packs the index lacks.
        packs: usize,
    },
    /// A pack does not have the bytes that its name says.
    #[error("pack {pack} is damaged")]
    Pack {
        /// The pack.
        pack: PackId,
    },
    /// A local file failed.
    #[error("local file {}", path.display())]
    Local {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No point of this item.
    #[error("the vault has no recovery points of item {item:?}")]
    ItemNotFound {
        /// The item's name.
        item: String,
    },
    /// The name cannot be an item's or a disk's.
    #[error("{name:?} cannot be a name")]
    Name {
        /// What was given.
        name: String,
    },
    /// No such point.
    #[error("item {item} has no recovery point {point}")]
    PointNotFound {
        /// The item.
        item: String,
        /// The point.
        point: PointId,
    },
    /// The manifest of a point cannot be read.
    #[error("recovery point {point} cannot be read")]
    PointDamaged {
        /// The point.
        point: PointId,
        /// Its manifest, and how it is damaged.
        source: Box<VaultError>,
    },
    /// Only a point that cannot be read is given up.
    #[error("recovery point {point} can be read: delete it normally")]
    PointReadable {
        /// The point.
        point: PointId,
    },
    /// It may not be deleted yet.
    #[error("recovery point {point} is locked until {until}")]
    Locked {
        /// The point.
        point: PointId,
        /// When the lock ends.
        until: jiff::Timestamp,
    },
    /// A reclaim stopped waiting for this writer.
    #[error("the backup of recovery point {point} paused for so long that it was given up")]
    Expired {
        /// The point that will not be.
        point: PointId,
    },
    /// A mirror's copy is missing: what is deleted now would come back with it.
    #[error("nothing is deleted while copies of the vault are missing: {}", copies.join(", "))]
    Degraded {
        /// The copies.
        copies: Vec<String>,
    },
    /// Another reclaim interfered.
    #[error("another reclaim worked on the vault at the same time")]
    ConcurrentReclaim,
    /// Stopped on request.
    #[error("stopped on request")]
    Interrupted,
    /// Other threads of this work failed first; their error is the one that counts.
    #[error("given up because another part of the work failed")]
    Aborted,
    /// Something happened that must not.
    #[error("{0}")]
    Bug(&'static str),
}

impl Coded for VaultError {
    fn code(&self) -> &'static Code {
        match self {
            Self::NotFound { .. } => &codes::VAULT_NOT_FOUND,
            Self::Exists { .. } => &codes::VAULT_EXISTS,
            Self::Unsafe { .. } => &codes::VAULT_STORE_UNSAFE,
            Self::NothingKept { .. } => &codes::VAULT_NOTHING_KEPT,
            Self::SameFolder { .. } | Self::PointReadable { .. } => &codes::USAGE_INVALID,
            Self::Busy { .. } => &codes::VAULT_BUSY,
            Self::Store(error) => error.code(),
            Self::Object { source, .. } | Self::Format { source, .. } => source.code(),
            Self::Key(error) => error.code(),
            Self::UnknownKey { .. } | Self::Lost { .. } | Self::Pack { .. } => {
                &codes::STORE_CORRUPT
            }
            Self::NotIndexed { .. } => &codes::INDEX_INCOMPLETE,
            Self::Local { .. } => &codes::LOCAL_IO,
            Self::ItemNotFound { .. } => &codes::ITEM_NOT_FOUND,
            Self::Name { .. } => &codes::ITEM_NAME,
            Self::PointNotFound { .. } => &codes::POINT_NOT_FOUND,
            // One of a newer format is not damaged.
            Self::PointDamaged { source, .. } if source.code() == &codes::VAULT_FORMAT => {
                &codes::VAULT_FORMAT
            }
            Self::PointDamaged { .. } => &codes::POINT_DAMAGED,
            Self::Locked { .. } => &codes::POINT_LOCKED,
            Self::Expired { .. } => &codes::BACKUP_EXPIRED,
            Self::Degraded { .. } => &codes::STORE_DEGRADED,
            Self::ConcurrentReclaim => &codes::RECLAIM_CONCURRENT,
            Self::Interrupted => &codes::INTERRUPTED,
            Self::Aborted | Self::Bug(_) => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::NotFound { store } => params!(VAULT_NOT_FOUND: store),
            Self::Exists { store, what } => params!(VAULT_EXISTS: store, what),
            Self::Unsafe { store } => params!(VAULT_STORE_UNSAFE: store),
            Self::NothingKept { name } => params!(VAULT_NOTHING_KEPT: name),
            Self::SameFolder { folder } => params!(USAGE_INVALID: folder),
            Self::Busy { store, who } => params!(VAULT_BUSY: store, who),
            Self::Store(error) => error.params(),
            Self::Object { object, source: _ } => {
                params!(VAULT_FORMAT | STORE_CORRUPT | BUG: object)
            }
            Self::Format { what, source: _ } => params!(VAULT_FORMAT | STORE_CORRUPT | BUG: what),
            Self::Key(error) => error.params(),
            Self::UnknownKey { object, key } => params!(STORE_CORRUPT: object, key),
            Self::Lost { digest, reason } => params!(STORE_CORRUPT: digest, reason),
            Self::NotIndexed { digest, packs } => params!(INDEX_INCOMPLETE: digest, packs),
            Self::Pack { pack } => params!(STORE_CORRUPT: pack),
            Self::Local { path, source: _ } => params!(LOCAL_IO: path),
            Self::ItemNotFound { item } => params!(ITEM_NOT_FOUND: item),
            Self::Name { name } => params!(ITEM_NAME: name),
            Self::PointNotFound { item, point } => params!(POINT_NOT_FOUND: item, point),
            Self::PointDamaged { point, source: _ } => params!(VAULT_FORMAT | POINT_DAMAGED: point),
            Self::PointReadable { point } => params!(USAGE_INVALID: point),
            Self::Locked { point, until } => params!(POINT_LOCKED: point, until),
            Self::Expired { point } => params!(BACKUP_EXPIRED: point),
            Self::Degraded { copies } => params!(STORE_DEGRADED: copies),
            Self::Bug(reason) => params!(BUG: reason),
            Self::ConcurrentReclaim | Self::Interrupted | Self::Aborted => Params::none(),
        }
    }
}

/// The usual result.
pub(crate) type Result<T, E = VaultError> = std::result::Result<T, E>;
