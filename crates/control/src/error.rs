//! Why the service does not do what it was asked.

use strongroom_api::ErrorBody;
use strongroom_base::{Code, Coded, ItemId, JobId, codes, words};

/// The result of what the service was asked.
pub type Result<T, E = ControlError> = std::result::Result<T, E>;

/// Why the service does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It was asked for something that cannot be.
    #[error("{message}")]
    Refused {
        /// Its place in the catalog of errors.
        code: &'static Code,
        /// What exactly.
        message: String,
    },
    /// The caller lacks a right.
    #[error("{message}")]
    Forbidden {
        /// What it may not do: the operation's name.
        operation: &'static str,
        /// What exactly.
        message: String,
    },
    /// Another operation works on the item.
    #[error("the job {job} works on {name}")]
    Busy {
        /// The item.
        item: ItemId,
        /// Its name.
        name: String,
        /// The job.
        job: JobId,
    },
    /// Signing in failed too often.
    #[error("signing in failed too often: try again in {}", words::span(*seconds))]
    TooOften {
        /// How long to wait.
        seconds: u64,
    },
    /// The catalog failed.
    #[error("the catalog failed")]
    Catalog(#[source] strongroom_catalog::Error),
    /// A host or a vault failed.
    #[error("{}", .0.message)]
    Work(Box<ErrorBody>),
}

impl ControlError {
    /// It was asked for something that cannot be.
    pub(crate) fn refused(code: &'static Code, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    /// As the API tells it.
    pub fn body(&self) -> ErrorBody {
        match self {
            Self::Work(body) => (**body).clone(),
            Self::Busy { job, .. } => {
                let mut body = ErrorBody::of(self);
                body.link = Some(format!("/v1/jobs/{job}"));
                body
            }
            // Its own code and words say more than that it was the catalog.
            Self::Catalog(error) => ErrorBody::of(error),
            Self::Refused { .. } | Self::Forbidden { .. } | Self::TooOften { .. } => {
                ErrorBody::of(self)
            }
        }
    }
}

impl From<strongroom_catalog::Error> for ControlError {
    fn from(error: strongroom_catalog::Error) -> Self {
        use strongroom_catalog::Error as E;
        match error {
            E::Changed { .. } => {
                Self::refused(&codes::REQUEST_CHANGED, codes::REQUEST_CHANGED.meaning)
            }
            E::Query { reason, .. } => Self::refused(&codes::REQUEST_PAGE_TOKEN, reason),
            error => Self::Catalog(error),
        }
    }
}

impl From<Box<ErrorBody>> for ControlError {
    fn from(body: Box<ErrorBody>) -> Self {
        Self::Work(body)
    }
}

impl Coded for ControlError {
    fn code(&self) -> &'static Code {
        match self {
            Self::Refused { code, .. } => code,
            Self::Forbidden { .. } => &codes::AUTH_FORBIDDEN,
            Self::Busy { .. } => &codes::ITEM_BUSY,
            Self::TooOften { .. } => &codes::AUTH_RATE,
            Self::Catalog(error) => error.code(),
            Self::Work(body) => code_of(body),
        }
    }
}

/// The place in the catalog of an error that came as data.
pub(crate) fn code_of(body: &ErrorBody) -> &'static Code {
    let known = strongroom_base::CATALOG.iter().find(|code| code.name == body.code);
    known.copied().unwrap_or(&codes::BUG)
}
