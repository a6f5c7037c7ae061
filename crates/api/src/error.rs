//! Errors: the same object in an answer, a job, an alert and the log.

use std::error::Error;

use serde::{Deserialize, Serialize};
use strongroom_base::{Code, Coded};
use utoipa::ToSchema;

/// An error, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable name, for scripts: one of `docs/use/errors.md`.
    pub code: String,
    /// The kind, which says what the caller can do in general: `invalid`, `not_found`, `conflict`,
    /// `unavailable`, `corrupt`, `incomplete`, `denied`, `interrupted` or `bug`.
    pub kind: String,
    /// What happened, with names and numbers.
    pub message: String,
    /// The causes, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: String,
    /// Who can remove the cause: `caller`, `environment`, `storage` or `strongroom`.
    pub fault: String,
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

impl ErrorBody {
    /// An error of the catalog, in its own words.
    pub fn new(code: &'static Code, message: impl Into<String>) -> Self {
        Self {
            code: code.name.to_owned(),
            kind: code.kind.name().to_owned(),
            message: message.into(),
            causes: Vec::new(),
            hint: code.hint.to_owned(),
            fault: code.fault().name().to_owned(),
            retryable: code.is_retryable(),
            doc: code.page(),
            link: None,
            request_id: None,
        }
    }

    /// Any error of the catalog, with its causes.
    pub fn of(error: &(dyn Coded + 'static)) -> Self {
        let mut body = Self::new(error.code(), error.to_string());
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

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorAnswer {
    /// The error.
    pub error: ErrorBody,
}
