//! Errors of the catalog.
//!
//! No message has a password or the content of a document; sources are kept and not printed.

use std::{io, path::PathBuf};

use strongroom_base::{Code, Coded, Params, codes, params};

/// The result of work on a catalog.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where an error came from, whatever its type.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why work on a catalog failed. A transaction that failed has changed nothing, except for
/// [`Error::Uncertain`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A URL is malformed.
    #[error("the catalog's URL cannot be used: {reason}")]
    Url {
        /// What is wrong with it; never a part of it that may be secret.
        reason: &'static str,
    },
    /// The database or its server does not do what it should.
    #[error("the catalog's database failed while {doing}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A transaction was used after one of its statements had failed.
    #[error("an earlier step of the same change of the catalog failed, so it was undone")]
    Aborted,
    /// The connection was lost while a change was being committed.
    #[error("the catalog's database was lost during a commit: the change may be done or not")]
    Uncertain {
        /// What the database said.
        source: sqlx::Error,
    },
    /// The database does not let this user in.
    #[error("the catalog's database denies access")]
    Denied {
        /// What the database said.
        source: sqlx::Error,
    },
    /// A file of the catalog cannot be read or written.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of a copy cannot be created, written or read.
    #[error("cannot {action} {}", path.display())]
    Copy {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the SQLite file open for service.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The SQLite file.
        path: PathBuf,
    },
    /// A document of this id is there already.
    #[error("{kind} {id:?} exists already")]
    Exists {
        /// The document's table.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// Another document has the same value where values are unique.
    #[error("{kind} {id:?} has the same {key} already")]
    Taken {
        /// The documents' table.
        kind: &'static str,
        /// The columns that are unique together, joined by `, `.
        key: String,
        /// The document that has the value.
        id: String,
    },
    /// A document is not of the version that was expected.
    #[error("{kind} {id:?} was changed or deleted meanwhile")]
    Changed {
        /// The document's table.
        kind: &'static str,
        /// Its id.
        id: String,
        /// The version that was expected.
        expected: u64,
        /// The version that is there, if any is.
        found: Option<u64>,
    },
    /// A lease that was to be relied upon has ended or has another holder.
    #[error("the lease {name:?} is no longer held")]
    LeaseLost {
        /// The lease.
        name: String,
    },
    /// The database's schema is of a later version than this program.
    #[error(
        "the catalog's schema is of version {found}, this program supports versions up to {known}"
    )]
    Newer {
        /// The version in the database.
        found: u32,
        /// The last version this program knows.
        known: u32,
    },
    /// The database's schema is not what this program made.
    #[error("the catalog's schema is wrong: {reason}")]
    Schema {
        /// What differs.
        reason: String,
    },
    /// The query for a list is not valid.
    #[error("this list of {kind} is not possible: {reason}")]
    Query {
        /// The documents' table.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A text cannot be kept.
    #[error("{what} of {kind} cannot be stored: {reason}")]
    Value {
        /// The document's table.
        kind: &'static str,
        /// The column.
        what: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A catalog was to be loaded where there is one already.
    #[error("the catalog to be loaded into is not empty")]
    NotEmpty,
    /// Something stored cannot be understood.
    #[error("the catalog is damaged: {what}")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// Why it cannot be understood.
        source: Option<Cause>,
    },
    /// A document cannot be written as JSON, or says nonsense about itself: a defect.
    #[error("a document of {kind} cannot be stored: {reason}")]
    Document {
        /// The document's table.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Something stored is not what was written.
    pub(crate) fn corrupt(what: impl Into<String>, source: Option<Cause>) -> Self {
        Self::Corrupt { what: what.into(), source }
    }

    /// What the database said while `doing` something.
    pub(crate) fn database(doing: &'static str, source: sqlx::Error) -> Self {
        match database_code(&source).as_deref() {
            // Wrong password, unknown user, no right to connect, to use a table or any schema; SQLite's
            // permission, read-only and authorization errors.
            Some("28000" | "28P01" | "42501" | "3F000" | "3" | "8" | "23") => {
                Self::Denied { source }
            }
            // SQLite: malformed, and not a database at all.
            Some("11" | "267" | "523" | "779" | "26" | "XX001" | "XX002") => {
                Self::corrupt(format!("found while {doing}"), Some(source.into()))
            }
            _ => Self::Unavailable { doing, source },
        }
    }

    /// Whether the connection was cut, so that another may do what this one could not.
    pub(crate) fn is_cut(&self) -> bool {
        let Self::Unavailable { source, .. } = self else { return false };
        // PostgreSQL's last words to those whom it shuts down.
        matches!(source, sqlx::Error::Io(_))
            || database_code(source).is_some_and(|code| code.starts_with("57P0"))
    }
}

/// The database's own code of an error: an SQLSTATE, or SQLite's extended result code.
fn database_code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

impl Coded for Error {
    fn code(&self) -> &'static Code {
        match self {
            Self::Url { .. } => &codes::CATALOG_URL,
            Self::Denied { .. } => &codes::CATALOG_DENIED,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                &codes::CATALOG_DENIED
            }
            Self::Io { .. } | Self::Unavailable { .. } | Self::Aborted | Self::Uncertain { .. } => {
                &codes::CATALOG_UNAVAILABLE
            }
            Self::Copy { .. } => &codes::LOCAL_IO,
            Self::InUse { .. } => &codes::CATALOG_IN_USE,
            Self::Exists { .. } | Self::Taken { .. } | Self::Changed { .. } => {
                &codes::CATALOG_CONFLICT
            }
            Self::LeaseLost { .. } => &codes::CATALOG_LEASE_LOST,
            Self::Newer { .. } | Self::Schema { .. } => &codes::CATALOG_SCHEMA,
            Self::Query { .. } => &codes::CATALOG_QUERY,
            Self::Value { .. } => &codes::CATALOG_VALUE,
            Self::NotEmpty => &codes::CATALOG_NOT_EMPTY,
            Self::Corrupt { .. } => &codes::CATALOG_CORRUPT,
            Self::Document { .. } => &codes::BUG,
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Url { reason } => params!(CATALOG_URL: reason),
            Self::Unavailable { doing, source: _ } => params!(CATALOG_UNAVAILABLE: doing),
            Self::Io { path, source: _ } => params!(CATALOG_DENIED | CATALOG_UNAVAILABLE: path),
            Self::Copy { action, path, source: _ } => params!(LOCAL_IO: action, path),
            Self::InUse { path } => params!(CATALOG_IN_USE: path),
            Self::Exists { kind, id } => params!(CATALOG_CONFLICT: kind, id),
            Self::Taken { kind, key, id } => params!(CATALOG_CONFLICT: kind, key, id),
            Self::Changed { kind, id, expected: _, found: _ } => {
                params!(CATALOG_CONFLICT: kind, id)
            }
            Self::LeaseLost { name } => params!(CATALOG_LEASE_LOST: name),
            Self::Newer { found, known } => params!(CATALOG_SCHEMA: found, known),
            Self::Schema { reason } => params!(CATALOG_SCHEMA: reason),
            Self::Query { kind, reason } => params!(CATALOG_QUERY: kind, reason),
            Self::Value { kind, what, reason } => params!(CATALOG_VALUE: kind, what, reason),
            Self::Corrupt { what, source: _ } => params!(CATALOG_CORRUPT: what),
            Self::Document { kind, reason } => params!(BUG: kind, reason),
            Self::Aborted
            | Self::Uncertain { source: _ }
            | Self::Denied { source: _ }
            | Self::NotEmpty => Params::none(),
        }
    }
}
