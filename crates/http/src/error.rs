//! Why a face cannot serve.

use std::{io, net::SocketAddr, path::PathBuf};

use strongroom_base::{Code, Coded, Params, codes, params};

/// Why a face cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody can listen there.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A certificate or its key is of no use.
    #[error("{}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A name that no certificate can be for.
    #[error("tls_names: {0}")]
    Names(String),
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
    /// Something that cannot happen.
    #[error("{0}")]
    Bug(String),
}

impl HttpError {
    /// A file cannot be read or written.
    pub(crate) fn local(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Local { path, action, source }
    }
}

impl Coded for HttpError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Names(_) | Self::Certificate { .. } => &codes::CONFIG_INVALID,
            Self::Local { .. } | Self::Listen { .. } => &codes::LOCAL_IO,
            Self::Bug(_) => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Listen { address, source: _ } => params!(LOCAL_IO: address),
            Self::Certificate { path, reason } => params!(CONFIG_INVALID: path, reason),
            Self::Names(reason) => params!(CONFIG_INVALID: reason),
            Self::Local { path, action, source: _ } => params!(LOCAL_IO: path, action),
            Self::Bug(reason) => params!(BUG: reason),
        }
    }
}
