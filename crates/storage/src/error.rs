//! Why storage accounts cannot be served or administered.

use std::{io, path::PathBuf};

use strongroom_blobs as blobs;

/// Why storage accounts cannot be served or administered.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no store, and the command does not make one.
    #[error("there are no storage accounts at {}", path.display())]
    NoStore {
        /// The folder of the data.
        path: PathBuf,
    },
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
        kind: crate::admin::RefusedKind,
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
