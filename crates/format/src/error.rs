//! Why bytes are not what Strongroom wrote.

use strongroom_base::{Code, Coded, Params, codes, params};

/// Why bytes are not of a format that this program knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Not the kind of file it should be.
    #[error("{what} does not start with the right signature")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// A version this program cannot read.
    #[error("{what} is of format version {found}; this program reads version {known}")]
    Version {
        /// The structure.
        what: &'static str,
        /// Seen.
        found: u16,
        /// Readable.
        known: u16,
    },
    /// It ends too early, or a length in it does not fit.
    #[error("{what} at offset {offset}: {reason}")]
    Layout {
        /// The structure.
        what: &'static str,
        /// Where, in bytes from the start of the object.
        offset: u64,
        /// What does not fit.
        reason: &'static str,
    },
    /// The cipher says that somebody changed it, or that it was sealed with another key.
    #[error("{what} at offset {offset} is not authentic")]
    Forged {
        /// The structure.
        what: &'static str,
        /// Where, in bytes from the start of the object.
        offset: u64,
    },
    /// Its content does not decompress to what was announced.
    #[error("{what} does not decompress")]
    Compression {
        /// The structure.
        what: &'static str,
    },
    /// A text structure has wrong or unknown fields.
    #[error("{what}: {reason}")]
    Text {
        /// The structure.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// Something to be written exceeds a limit of the format.
    #[error("{what} is too large to be written")]
    TooLarge {
        /// The structure.
        what: &'static str,
    },
}

impl Coded for FormatError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Version { .. } => &codes::VAULT_FORMAT,
            Self::TooLarge { .. } => &codes::BUG,
            Self::Magic { .. }
            | Self::Layout { .. }
            | Self::Forged { .. }
            | Self::Compression { .. }
            | Self::Text { .. } => &codes::STORE_CORRUPT,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Magic { what } => params!(STORE_CORRUPT: what),
            Self::Version { what, found, known } => params!(VAULT_FORMAT: what, found, known),
            Self::Layout { what, offset, reason } => params!(STORE_CORRUPT: what, offset, reason),
            Self::Forged { what, offset } => params!(STORE_CORRUPT: what, offset),
            Self::Compression { what } => params!(STORE_CORRUPT: what),
            Self::Text { what, reason } => params!(STORE_CORRUPT: what, reason),
            Self::TooLarge { what } => params!(BUG: what),
        }
    }
}
