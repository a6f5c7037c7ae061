//! Answers: what a handler says, as HTTP.
//!
//! Every error is an [`ErrorAnswer`] with the id of its request; no other text is ever sent.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use strongroom_api::{CodeName, ErrorAnswer, ErrorBody, JobBegun};
use strongroom_base::{Code, JobId, Kind, Message, RequestId, codes};
use strongroom_control::{ControlError, Versioned};

/// The id of a request, in its answer.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a handler gives back.
pub(crate) type Done<T> = Result<T, Failure>;

/// Why a request is not done.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    body: Box<ErrorBody>,
    status: Option<StatusCode>,
    retry_after: Option<u64>,
    denied: Option<&'static str>,
}

impl Failure {
    /// An error of the catalog, in words without values.
    pub(crate) fn new(code: &'static Code, message: &'static str) -> Self {
        Message::new(code, message).into()
    }

    /// The request is not of the form that the API knows.
    pub(crate) fn invalid(message: &'static str) -> Self {
        Self::new(&codes::REQUEST_INVALID, message)
    }

    /// Its name in the catalog.
    pub(crate) fn code(&self) -> &CodeName {
        &self.body.code
    }

    /// The status that says it best.
    pub(crate) fn status(&self) -> StatusCode {
        if let Some(status) = self.status {
            return status;
        }
        self.body.code.known().map_or(StatusCode::INTERNAL_SERVER_ERROR, status_of)
    }
}

/// The status of answers with an error of the catalog.
pub fn status_of(code: &Code) -> StatusCode {
    for (special, status) in [
        (&codes::AUTH_REQUIRED, StatusCode::UNAUTHORIZED),
        (&codes::AUTH_FAILED, StatusCode::UNAUTHORIZED),
        (&codes::AUTH_TOKEN, StatusCode::UNAUTHORIZED),
        (&codes::AUTH_RATE, StatusCode::TOO_MANY_REQUESTS),
        (&codes::REQUEST_CHANGED, StatusCode::PRECONDITION_FAILED),
        (&codes::REQUEST_METHOD, StatusCode::METHOD_NOT_ALLOWED),
        (&codes::REQUEST_TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE),
        (&codes::REQUEST_RANGE, StatusCode::RANGE_NOT_SATISFIABLE),
        (&codes::REQUEST_MEDIA_TYPE, StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        if code.name == special.name {
            return status;
        }
    }
    match code.kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Unavailable | Kind::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Corrupt | Kind::Incomplete | Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let retry_after = match &error {
            ControlError::TooOften { seconds } => Some(*seconds),
            _ => None,
        };
        let denied = match &error {
            ControlError::Forbidden { operation, .. } => Some(*operation),
            _ => None,
        };
        let mut body = error.body();
        if let ControlError::Busy { job, .. } = &error {
            body.link = Some(job_path(*job));
        }
        Self { body: Box::new(body), status: None, retry_after, denied }
    }
}

impl From<strongroom_catalog::Error> for Failure {
    fn from(error: strongroom_catalog::Error) -> Self {
        ControlError::from(error).into()
    }
}

impl From<Message> for Failure {
    fn from(message: Message) -> Self {
        Box::<ErrorBody>::from(message).into()
    }
}

impl From<Box<ErrorBody>> for Failure {
    fn from(body: Box<ErrorBody>) -> Self {
        Self { body, status: None, retry_after: None, denied: None }
    }
}

/// What somebody may not do, for the record of refusals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied(pub(crate) &'static str);

/// The name of the error in an answer, for the log and for the record of refusals.
#[derive(Clone, Debug)]
pub(crate) struct ErrorCode(pub(crate) CodeName);

tokio::task_local! {
    /// The request that is worked on.
    pub(crate) static REQUEST: RequestId;
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status();
        let Self { body: mut error, retry_after, denied, .. } = self;
        error.request_id = REQUEST.try_with(ToString::to_string).ok();
        if status.is_server_error() {
            let id = error.request_id.as_deref();
            tracing::error!(request = id, code = error.code.as_str(), causes = ?error.causes, "{}", error.message);
        }
        let code = ErrorCode(error.code.clone());
        let mut answer = (status, Json(ErrorAnswer { error: *error })).into_response();
        answer.extensions_mut().insert(code);
        if let Some(operation) = denied {
            answer.extensions_mut().insert(Denied(operation));
        }
        let headers = answer.headers_mut();
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

/// One thing, with its version as `ETag`.
pub(crate) struct Tagged<T>(pub(crate) Versioned<T>);

fn etag(version: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(format!("\"{version}\"")) {
        headers.insert(header::ETAG, value);
    }
    headers
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let Versioned { value, version } = self.0;
        (etag(version), Json(value)).into_response()
    }
}

fn location(path: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(path) {
        headers.insert(header::LOCATION, value);
    }
    headers
}

/// Something that was made, with the path where it is.
pub(crate) struct Made<T> {
    /// The new object, as the API shows it.
    pub(crate) value: T,
    /// Its version, if it has one.
    pub(crate) version: Option<u64>,
    /// Where it is from now on.
    pub(crate) path: String,
}

impl<T> Made<T> {
    /// Something with a version, and its path.
    pub(crate) fn at(path: impl FnOnce(&T) -> String, made: Versioned<T>) -> Self {
        Self { path: path(&made.value), value: made.value, version: Some(made.version) }
    }
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let tag = self.version.map(etag).unwrap_or_default();
        (StatusCode::CREATED, tag, location(&self.path), Json(self.value)).into_response()
    }
}

/// An answer with a secret: it is given once, and never kept.
pub(crate) struct Once<T>(pub(crate) T);

/// Marks answers with a secret, for those who would keep them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HasSecret;

impl<T: IntoResponse> IntoResponse for Once<T> {
    fn into_response(self) -> Response {
        let mut answer = self.0.into_response();
        answer.extensions_mut().insert(HasSecret);
        answer
    }
}

/// The path of a job.
pub(crate) fn job_path(job: JobId) -> String {
    format!("/v1/jobs/{job}")
}

/// A job that was begun.
pub(crate) struct Begun(pub(crate) JobId);

impl Begun {
    /// The answer's content.
    pub(crate) fn body(&self) -> JobBegun {
        JobBegun { job: self.0, link: job_path(self.0) }
    }
}

impl IntoResponse for Begun {
    fn into_response(self) -> Response {
        let body = self.body();
        (StatusCode::ACCEPTED, location(&body.link), Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::CATALOG;

    use super::*;

    #[test]
    fn every_code_has_a_status_that_is_an_error() {
        for code in CATALOG {
            let status = status_of(code);
            assert!(status.is_client_error() || status.is_server_error(), "{}", code.name);
        }
        assert_eq!(status_of(&codes::AUTH_FORBIDDEN), StatusCode::FORBIDDEN);
        assert_eq!(status_of(&codes::REQUEST_CHANGED), StatusCode::PRECONDITION_FAILED);
    }
}
