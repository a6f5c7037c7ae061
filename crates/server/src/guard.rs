//! What happens to every request before and after its handler.
//!
//! ```text
//!  id, log, headers ─▶ time limit ─▶ no panic ─▶ who is it? ─▶ idempotency ─▶ handler
//!                                                    └─ what was refused is recorded
//! ```
//!
//! A change continues even if its client has hung up: it is a task of its own, and the
//! server waits for it before it ends.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::FutureExt as _;
use strongroom_base::{RequestId, codes};
use strongroom_control::{Cause, rights::Caller};
use strongroom_http::Guest;
use tracing::Instrument as _;

use crate::{
    answer::{Denied, Done, ErrorCode, Failure, REQUEST, REQUEST_ID},
    extract::{self, Secret, bearer},
    idempotency::{self, Known},
    state::App,
    watch::traces,
};

/// How long anybody waits for an answer to begin.
const TIME: Duration = Duration::from_secs(30);

/// Headers of every answer: it is data, of nobody else's business.
const SECURITY: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cache-control", "no-store"),
];

/// Every request.
pub(crate) async fn every(State(app): State<App>, request: Request, next: Next) -> Response {
    let clock = app.control.clock();
    let id = RequestId::generate(clock, app.control.entropy());
    let start = clock.monotonic();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    // Of the highest level, so that no filter of lines removes the id from them.
    let span = tracing::error_span!("request", request = %id);
    traces::adopt_request(&span, request.headers());
    let work = REQUEST.scope(id, limited(request, next));
    let mut answer = work.instrument(span.clone()).await;
    let headers = answer.headers_mut();
    for (name, value) in SECURITY {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID.clone(), value);
    }
    let code = answer.extensions().get::<ErrorCode>().map(|code| code.0.as_str());
    let user = answer.extensions().get::<Caller>().map(|caller| caller.name.as_str());
    let took = clock.monotonic().saturating_sub(start);
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let status = answer.status().as_u16();
    app.metrics.answered(method.as_str(), &route, status, took.as_secs_f64());
    traces::answered(&span, method.as_str(), &route, status);
    span.in_scope(|| tracing::info!(%method, path, status, millis, user, code, "answered"));
    answer
}

async fn limited(request: Request, next: Next) -> Response {
    // A text with this character is kept nowhere, so nothing is there.
    if request.uri().path_and_query().is_some_and(|text| text.as_str().contains("%00")) {
        return Failure::invalid("the path or a parameter has the character U+0000")
            .into_response();
    }
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(TIME, work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Failure::new(&codes::BUG, "the request met a defect").into_response(),
        Err(_) => too_slow().into_response(),
    }
}

fn too_slow() -> Failure {
    Failure::new(&codes::REQUEST_TIMEOUT, "the request takes longer than 30 s")
}

/// Requests of somebody.
pub(crate) async fn signed_in(State(app): State<App>, request: Request, next: Next) -> Response {
    let caller = match authenticate(&app, bearer(request.headers())).await {
        Ok(caller) => caller,
        Err(failure) => return failure.into_response(),
    };
    if let Some(guest) = request.extensions().get::<Guest>() {
        guest.mark_known();
    }
    let method = request.method().clone();
    if matches!(method, Method::GET | Method::HEAD) {
        return run(request, next, caller).await;
    }
    let path = request.uri().path().to_owned();
    let operation = operation(&app, &request);
    let tasks = app.tasks.clone();
    let id = REQUEST.try_with(|id| *id);
    let span = tracing::Span::current();
    let trace = traces::place_of(&span);
    let work = async move {
        let work = changed(app, caller, operation, path, request, next);
        match id {
            Ok(id) => {
                let cause = Cause { request: id.to_string(), trace };
                Box::pin(cause.scope(REQUEST.scope(id, work))).await
            }
            Err(_) => work.await,
        }
    };
    match tasks.spawn(work.instrument(span)).await {
        Ok(answer) => answer,
        Err(_) => Failure::new(&codes::BUG, "the request met a defect").into_response(),
    }
}

/// Makes a change, and records if it was refused.
async fn changed(
    app: App,
    caller: Caller,
    operation: String,
    path: String,
    request: Request,
    next: Next,
) -> Response {
    let answer = change(&app, caller.clone(), request, next).await;
    let forbidden = |code: &ErrorCode| code.0 == codes::AUTH_FORBIDDEN;
    let denied = answer.extensions().get::<Denied>().map(|denied| denied.0);
    let operation = denied.unwrap_or(&operation);
    if answer.extensions().get::<ErrorCode>().is_some_and(forbidden)
        && let Err(error) = app.control.record_refusal(&caller, operation, &path).await
    {
        let failure = Failure::from(error);
        tracing::error!(code = failure.code().as_str(), "a refusal cannot be recorded");
    }
    answer
}

async fn authenticate(app: &App, secret: Done<Secret>) -> Done<Caller> {
    Ok(app.control.caller(&secret?.0).await?)
}

/// The name of what is asked for, for the record.
fn operation(app: &App, request: &Request) -> String {
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let known = path.and_then(|path| app.operations.get(&(method.clone(), path)));
    known.cloned().unwrap_or_else(|| method.to_string())
}

async fn run(mut request: Request, next: Next, caller: Caller) -> Response {
    request.extensions_mut().insert(caller.clone());
    let mut answer = next.run(request).await;
    answer.extensions_mut().insert(caller);
    answer
}

/// The body of a change, which is a task that nobody's patience ends.
async fn read_in_time(request: Request) -> Done<Bytes> {
    tokio::time::timeout(TIME, extract::read(request)).await.unwrap_or_else(|_| Err(too_slow()))
}

/// A request that changes something.
async fn change(app: &App, caller: Caller, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let key = match parts.method {
        Method::POST => idempotency::key_of(&parts.headers),
        _ => Ok(None),
    };
    let key = match key {
        Ok(key) => key,
        Err(failure) => return failure.into_response(),
    };
    let bytes = match read_in_time(Request::from_parts(parts.clone(), body)).await {
        Ok(bytes) => bytes,
        Err(failure) => return failure.into_response(),
    };
    let Some(key) = key else {
        return run(Request::from_parts(parts, bytes.into()), next, caller).await;
    };
    match idempotency::begin(&app.control, &caller, &key, &parts, &bytes).await {
        Ok(Known::New(open)) => {
            let request = Request::from_parts(parts, bytes.into());
            let work = AssertUnwindSafe(run(request, next, caller)).catch_unwind();
            let work = work.map(|answer| {
                answer.unwrap_or_else(|_| {
                    Failure::new(&codes::BUG, "the request met a defect").into_response()
                })
            });
            open.carry_out(&app.control, work).await
        }
        Ok(Known::Answered(answer)) => answer,
        Err(failure) => failure.into_response(),
    }
}

/// Nothing is here.
pub(crate) async fn nothing() -> Failure {
    Failure::new(&codes::REQUEST_NOT_FOUND, codes::REQUEST_NOT_FOUND.meaning)
}

/// This is not done here.
pub(crate) async fn no_method() -> Failure {
    Failure::new(&codes::REQUEST_METHOD, codes::REQUEST_METHOD.meaning)
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_body_of_a_change_is_not_waited_for_for_ever() {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let begun = tokio::time::Instant::now();
        let read = read_in_time(Request::new(Body::from_stream(never))).await;
        assert_eq!(begun.elapsed(), TIME);
        assert_eq!(read.expect_err("it is refused").code().as_str(), "request.timeout");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let never = get(std::future::pending::<()>);
        let router = Router::new().route("/", never).layer(from_fn(limited));
        let begun = tokio::time::Instant::now();
        let answer = router.oneshot(Request::new(Body::empty())).await.expect("an answer");
        assert_eq!(begun.elapsed(), TIME);
        assert_eq!(answer.status().as_u16(), 503);
        let code = answer.extensions().get::<ErrorCode>().map(|code| code.0.to_string());
        assert_eq!(code.as_deref(), Some("request.timeout"));
    }
}
