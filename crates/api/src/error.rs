//! Errors: the same object in an answer, a job, an alert and the log.

use std::{borrow::Cow, error::Error, fmt};

use serde::{Deserialize, Deserializer, Serialize};
use strongroom_base::{Code, Coded, Fault, Kind, Message, Params, codes};
use utoipa::ToSchema;

/// The name of an error: one of the catalog, or one of a newer server that this program does not know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodeName(Cow<'static, str>);

impl CodeName {
    /// The entry of the catalog, if this program knows it.
    pub fn known(&self) -> Option<&'static Code> {
        Code::named(&self.0)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&'static Code> for CodeName {
    fn from(code: &'static Code) -> Self {
        Self(Cow::Borrowed(code.name))
    }
}

// No comparison with a text: what is decided by a code is decided by one of the catalog.
impl PartialEq<Code> for CodeName {
    fn eq(&self, code: &Code) -> bool {
        self.0 == code.name
    }
}

impl fmt::Display for CodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for CodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An error, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable name, for scripts: one of `docs/use/errors.md`.
    #[schema(value_type = String)]
    pub code: CodeName,
    /// The kind, which says what the caller can do in general: `invalid`, `not_found`, `conflict`,
    /// `unavailable`, `corrupt`, `incomplete`, `denied`, `interrupted` or `bug`.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "kind_of")]
    pub kind: Kind,
    /// What happened, with names and numbers.
    pub message: String,
    /// The values that the message was composed of, by name, for a message in another language. The
    /// page of the code lists the names.
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub params: Params,
    /// The causes, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: String,
    /// Who can remove the cause: `caller`, `environment`, `storage` or `strongroom`.
    #[schema(value_type = String)]
    #[serde(deserialize_with = "fault_of")]
    pub fault: Fault,
    /// Whether the same request may succeed later, unchanged.
    pub retryable: bool,
    /// Its page in the documentation.
    pub doc: String,
    /// The path of the API object that blocks the request, such as a running job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The request that failed; also in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A kind of a newer server is taken for one that may pass.
fn kind_of<'de, D: Deserializer<'de>>(word: D) -> Result<Kind, D::Error> {
    let word = Cow::<'de, str>::deserialize(word)?;
    Ok(Kind::named(&word).unwrap_or(Kind::Unavailable))
}

fn fault_of<'de, D: Deserializer<'de>>(word: D) -> Result<Fault, D::Error> {
    let word = Cow::<'de, str>::deserialize(word)?;
    Ok(Fault::named(&word).unwrap_or(Fault::Environment))
}

impl ErrorBody {
    /// An error of the catalog, in words without values.
    pub fn new(code: &'static Code, message: &'static str) -> Self {
        Message::new(code, message).into()
    }

    /// The entry of the catalog; for a code that this program does not know, one of the same kind.
    pub fn known(&self) -> &'static Code {
        self.code.known().unwrap_or(match self.kind {
            Kind::Invalid => &codes::REQUEST_INVALID,
            Kind::NotFound => &codes::REQUEST_NOT_FOUND,
            Kind::Conflict => &codes::REQUEST_CHANGED,
            Kind::Denied => &codes::AUTH_FORBIDDEN,
            Kind::Corrupt => &codes::VERIFY_DAMAGED,
            Kind::Incomplete => &codes::JOB_WARNINGS,
            Kind::Interrupted => &codes::JOB_CANCELLED,
            Kind::Bug => &codes::BUG,
            Kind::Unavailable => &codes::SERVER_UNAVAILABLE,
        })
    }

    /// Any error of the catalog, with its causes.
    pub fn of(error: &(dyn Coded + 'static)) -> Self {
        let mut body = Self::from(Message::of(error));
        let mut last = body.message.clone();
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries print their source as part of themselves, some print nothing else.
            if !last.ends_with(&text) {
                body.causes.push(text.clone());
                last = text;
            }
            next = Error::source(cause);
        }
        body
    }

    /// Sets a better hint than the catalog's.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl From<Message> for ErrorBody {
    fn from(message: Message) -> Self {
        debug_assert!(message.faults().is_empty(), "{:?}", message.faults());
        let Message { code, text, params } = message;
        Self {
            code: code.into(),
            kind: code.kind,
            message: text,
            params,
            causes: Vec::new(),
            hint: code.hint.to_owned(),
            fault: code.fault(),
            retryable: code.is_retryable(),
            doc: code.page(),
            link: None,
            request_id: None,
        }
    }
}

impl From<Message> for Box<ErrorBody> {
    fn from(message: Message) -> Self {
        Self::new(message.into())
    }
}

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorAnswer {
    /// The error.
    pub error: ErrorBody,
}
