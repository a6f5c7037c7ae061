//! Why storage accounts cannot be served or administered.

use std::{io, path::PathBuf};

use strongroom_base::{Code, Coded, Params, codes, params};
use strongroom_blobs::{self as blobs, StateError};

use crate::admin::RefusedKind;

/// Why storage accounts cannot be served or administered.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no store, and the command does not make one.
    #[error("there are no storage accounts at {}", path.display())]
    NoStore {
        /// The folder of the data.
        path: PathBuf,
    },
    /// No process serves the store.
    #[error("the storage accounts at {} are not served", path.display())]
    NotServed {
        /// The folder of the data.
        path: PathBuf,
    },
    /// The process that exports a blob ended.
    #[error(
        "the process that exported the blob has ended; writes since the last flush may be lost"
    )]
    ExportBroken,
    /// Another process has the store open and does not answer.
    #[error("the storage accounts at {} are in use by a process that takes no commands", path.display())]
    InUse {
        /// The folder of the store.
        path: PathBuf,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(blobs::StoreError),
    /// A command is refused.
    #[error("{message}")]
    Refused {
        /// What kind of refusal it is.
        kind: RefusedKind,
        /// Why.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Local {
        /// The file or folder.
        path: PathBuf,
        /// The verb.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Other servers cannot be asked.
    #[error("the HTTP client of copies cannot be made")]
    Client(#[source] reqwest::Error),
    /// Connections cannot be accepted.
    #[error(transparent)]
    Http(#[from] strongroom_http::HttpError),
    /// The process that serves sent something that is no answer.
    #[error("the process that serves the storage accounts gave no answer that can be read")]
    BadAnswer,
    /// Something that cannot happen.
    #[error("{0}")]
    Bug(&'static str),
}

impl Coded for StorageError {
    fn code(&self) -> &'static Code {
        match self {
            Self::NoStore { .. } => &codes::STORAGE_NOT_FOUND,
            Self::NotServed { .. } => &codes::STORAGE_NOT_SERVED,
            Self::ExportBroken => &codes::STORAGE_EXPORT_BROKEN,
            Self::InUse { .. } | Self::BadAnswer => &codes::STORAGE_IN_USE,
            Self::Store(error) => code_of(error),
            Self::Refused { kind, .. } => match kind {
                RefusedKind::NotFound => &codes::ACCOUNT_NOT_FOUND,
                RefusedKind::Exists => &codes::ACCOUNT_EXISTS,
                RefusedKind::BlobNotFound => &codes::BLOB_NOT_FOUND,
                RefusedKind::Leased => &codes::BLOB_LEASED,
                RefusedKind::SnapshotLimit => &codes::BLOB_SNAPSHOT_LIMIT,
                RefusedKind::InvalidExport => &codes::STORAGE_EXPORT_INVALID,
                RefusedKind::Lost => &codes::STORAGE_EXPORT_LOST,
                RefusedKind::Invalid => &codes::ACCOUNT_INVALID,
                RefusedKind::Failed => &codes::STORAGE_STOPPED,
                RefusedKind::InvalidCopy => &codes::STORAGE_COPY_INVALID,
                RefusedKind::NotPrimary => &codes::STORAGE_NOT_PRIMARY,
                RefusedKind::InvalidReplication => &codes::STORAGE_REPLICATION_INVALID,
                RefusedKind::PeerUnavailable => &codes::STORAGE_PEER_UNAVAILABLE,
                RefusedKind::Loses => &codes::STORAGE_FAILOVER_LOSES,
                RefusedKind::Diverged => &codes::STORAGE_DIVERGED,
                RefusedKind::Differs => &codes::STORAGE_DAMAGED,
            },
            Self::Local { .. } => &codes::LOCAL_IO,
            Self::Http(error) => error.code(),
            Self::Client(_) | Self::Bug(_) => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::NoStore { path } => params!(STORAGE_NOT_FOUND: path),
            Self::NotServed { path } => params!(STORAGE_NOT_SERVED: path),
            Self::InUse { path } => params!(STORAGE_IN_USE: path),
            Self::Local { path, action, source: _ } => params!(LOCAL_IO: path, action),
            Self::Refused { kind, message: reason } => match kind {
                RefusedKind::NotFound => params!(ACCOUNT_NOT_FOUND: reason),
                RefusedKind::Exists => params!(ACCOUNT_EXISTS: reason),
                RefusedKind::BlobNotFound => params!(BLOB_NOT_FOUND: reason),
                RefusedKind::Leased => params!(BLOB_LEASED: reason),
                RefusedKind::SnapshotLimit => params!(BLOB_SNAPSHOT_LIMIT: reason),
                RefusedKind::InvalidExport => params!(STORAGE_EXPORT_INVALID: reason),
                RefusedKind::Lost => params!(STORAGE_EXPORT_LOST: reason),
                RefusedKind::Invalid => params!(ACCOUNT_INVALID: reason),
                RefusedKind::Failed => params!(STORAGE_STOPPED: reason),
                RefusedKind::InvalidCopy => params!(STORAGE_COPY_INVALID: reason),
                RefusedKind::NotPrimary => params!(STORAGE_NOT_PRIMARY: reason),
                RefusedKind::InvalidReplication => params!(STORAGE_REPLICATION_INVALID: reason),
                RefusedKind::PeerUnavailable => params!(STORAGE_PEER_UNAVAILABLE: reason),
                RefusedKind::Loses => params!(STORAGE_FAILOVER_LOSES: reason),
                RefusedKind::Diverged => params!(STORAGE_DIVERGED: reason),
                RefusedKind::Differs => params!(STORAGE_DAMAGED: reason),
            },
            Self::Store(error) => {
                let reason = error.to_string();
                params!(
                    STORAGE_DAMAGED
                        | STORAGE_FORMAT
                        | STORAGE_STOPPED
                        | STORAGE_IN_USE
                        | STORAGE_COPY_MISSING
                        | STORAGE_COPY_INVALID
                        | STORAGE_REPLICATION_INVALID: reason
                )
            }
            Self::Http(error) => error.params(),
            Self::Client(_) | Self::BadAnswer | Self::ExportBroken => Params::none(),
            Self::Bug(reason) => params!(BUG: reason),
        }
    }
}

/// What the state of a store that cannot be opened means to its owner.
fn code_of(error: &blobs::StoreError) -> &'static Code {
    match error {
        blobs::StoreError::InUse { .. } | blobs::StoreError::Exists { .. } => {
            &codes::STORAGE_IN_USE
        }
        blobs::StoreError::Journal(_)
        | blobs::StoreError::Apply(_)
        | blobs::StoreError::State(StateError::Row { .. }) => &codes::STORAGE_DAMAGED,
        blobs::StoreError::State(StateError::Format { .. }) => &codes::STORAGE_FORMAT,
        blobs::StoreError::CopyMissing { .. }
        | blobs::StoreError::CopyStale { .. }
        | blobs::StoreError::Split { .. } => &codes::STORAGE_COPY_MISSING,
        blobs::StoreError::OtherStore { .. }
        | blobs::StoreError::SameCopy { .. }
        | blobs::StoreError::NoCopy { .. }
        | blobs::StoreError::LastCopy { .. } => &codes::STORAGE_COPY_INVALID,
        blobs::StoreError::WrongRole { .. } => &codes::STORAGE_REPLICATION_INVALID,
        blobs::StoreError::Copy(error) => code_of(error),
        blobs::StoreError::Slow
        | blobs::StoreError::Ended
        | blobs::StoreError::File { .. }
        | blobs::StoreError::State(
            StateError::Redb(_) | StateError::Open(_) | StateError::File(_),
        )
        | blobs::StoreError::Append(_)
        | blobs::StoreError::Data(_) => &codes::STORAGE_STOPPED,
    }
}

impl StorageError {
    /// A file cannot be read or written.
    pub(crate) fn local(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Local { path, action, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_store_has_a_code() {
        let io = || io::Error::other("a test");
        let code = |error: blobs::StoreError| StorageError::Store(error).code().name;
        let state = |error| code(blobs::StoreError::State(error));
        assert_eq!(state(StateError::Format { found: 9, known: 1 }), "storage.format");
        assert_eq!(state(StateError::Row { row: "x".to_owned() }), "storage.damaged");
        assert_eq!(state(StateError::Open(io())), "storage.stopped");
        assert_eq!(code(blobs::StoreError::Data(io())), "storage.stopped");
        let full = StorageError::Refused { kind: RefusedKind::Failed, message: "full".to_owned() };
        assert_eq!(full.code().name, "storage.stopped");
        let lost = StorageError::Refused { kind: RefusedKind::Lost, message: "EIO".to_owned() };
        assert_eq!(lost.code().name, "storage.export_lost");
    }
}
