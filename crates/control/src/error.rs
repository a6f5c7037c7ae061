//! Why the service does not do what it was asked.

use strongroom_api::ErrorBody;
use strongroom_base::{Code, Coded, ItemId, JobId, Message, Params, codes, message, params, words};

/// The result of what the service was asked.
pub type Result<T, E = ControlError> = std::result::Result<T, E>;

/// Why the service does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It was asked for something that cannot be.
    #[error("{}", .0.text)]
    Refused(Box<Message>),
    /// The caller lacks a right.
    #[error("{}", message.text)]
    Forbidden {
        /// What it may not do: the operation's name.
        operation: &'static str,
        /// What exactly.
        message: Box<Message>,
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
    /// It was asked for something that cannot be, in words without values.
    pub(crate) fn refused(code: &'static Code, message: &'static str) -> Self {
        Message::new(code, message).into()
    }

    /// As the API tells it.
    pub fn body(&self) -> ErrorBody {
        match self {
            Self::Work(body) => (**body).clone(),
            // Its own code and words say more than that it was the catalog.
            Self::Catalog(error) => ErrorBody::of(error),
            Self::Refused(_)
            | Self::Forbidden { .. }
            | Self::Busy { .. }
            | Self::TooOften { .. } => ErrorBody::of(self),
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
            E::Query { reason, .. } => message!(REQUEST_PAGE_TOKEN, "{reason}", reason).into(),
            error => Self::Catalog(error),
        }
    }
}

impl From<Message> for ControlError {
    fn from(message: Message) -> Self {
        Self::Refused(Box::new(message))
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
            Self::Refused(message) => message.code,
            Self::Forbidden { .. } => &codes::AUTH_FORBIDDEN,
            Self::Busy { .. } => &codes::ITEM_BUSY,
            Self::TooOften { .. } => &codes::AUTH_RATE,
            Self::Catalog(error) => error.code(),
            Self::Work(body) => body.known(),
        }
    }

    #[allow(clippy::match_same_arms, reason = "each variant says its own")]
    fn params(&self) -> Params {
        match self {
            Self::Refused(message) | Self::Forbidden { operation: _, message } => {
                message.params.clone()
            }
            Self::Busy { item: _, name, job } => params!(ITEM_BUSY: item = name, job),
            Self::TooOften { seconds } => params!(AUTH_RATE: seconds),
            Self::Catalog(_) => Params::none(),
            Self::Work(body) => body.params.clone(),
        }
    }
}
