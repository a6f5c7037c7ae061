//! Why the server cannot be started, or ends.

use std::{io, path::PathBuf};

use strongroom_base::{Code, Coded, Params, codes, params};

/// Why the server cannot be started, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error("{place}: {reason}")]
    Config {
        /// The file or the variable.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the server's cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Local {
        /// The file or folder.
        path: PathBuf,
        /// The verb.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Another server uses the folder.
    #[error("another server uses {}", .0.display())]
    Running(PathBuf),
    /// Another server serves from the catalog.
    #[error("the server {0} serves from this catalog")]
    Held(String),
    /// The face cannot serve.
    #[error(transparent)]
    Http(#[from] strongroom_http::HttpError),
    /// The service fails.
    #[error(transparent)]
    Control(#[from] strongroom_control::ControlError),
    /// The catalog fails.
    #[error(transparent)]
    Catalog(#[from] strongroom_catalog::Error),
    /// Something that cannot happen.
    #[error("{0}")]
    Bug(String),
}

impl ServerError {
    /// A file of the server's cannot be read or written.
    pub(crate) fn local(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Local { path, action, source }
    }
}

impl Coded for ServerError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Config { .. } => &codes::CONFIG_INVALID,
            Self::Local { .. } => &codes::LOCAL_IO,
            Self::Running(_) => &codes::SERVER_RUNNING,
            Self::Held(_) => &codes::CATALOG_IN_USE,
            Self::Http(error) => error.code(),
            Self::Control(error) => error.code(),
            Self::Catalog(error) => error.code(),
            Self::Bug(_) => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Config { place, reason } => params!(CONFIG_INVALID: place, reason),
            Self::Local { path, action, source: _ } => params!(LOCAL_IO: path, action),
            Self::Running(folder) => params!(SERVER_RUNNING: folder),
            Self::Held(server) => params!(CATALOG_IN_USE: server),
            Self::Http(error) => error.params(),
            Self::Control(error) => error.params(),
            Self::Catalog(error) => error.params(),
            Self::Bug(reason) => params!(BUG: reason),
        }
    }
}
