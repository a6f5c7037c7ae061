//! The server itself: whether it lives, how things are, what its API is.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use strongroom_api::{AccessRow, ErrorEntry, Health, Page, Status};
use strongroom_base::{CATALOG, message};
use strongroom_control::rights::Operation;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Done, Failure, status_of},
    extract::{NoParams, Params, Who},
    state::App,
};

pub(super) fn public() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(openapi))
        .routes(routes!(errors))
        .routes(routes!(access_table))
}

pub(super) fn signed_in() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(confirm_clock))
}

fn alive() -> Json<Health> {
    Json(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Say that the server is alive
#[utoipa::path(get, path = "/health", tag = "server",
    responses((status = 200, description = "The server is alive.", body = Health)))]
async fn health(_: Params<NoParams>) -> Json<Health> {
    alive()
}

/// Say whether the server can work
#[utoipa::path(get, path = "/ready", tag = "server",
    responses((status = 200, description = "The server can work.", body = Health)))]
async fn ready(State(app): State<App>, _: Params<NoParams>) -> Done<Json<Health>> {
    let reasons = crate::watch::not_ready(&app.control).await;
    if reasons.is_empty() {
        return Ok(alive());
    }
    let message = message!(
        SERVER_NOT_READY,
        "the server cannot work: {reasons}",
        reasons = reasons.join(", ")
    );
    Err(Failure::from(message))
}

/// Get the description of this API
#[utoipa::path(get, path = "/openapi.json", tag = "server", operation_id = "openapi",
    responses((status = 200, description = "The description, in OpenAPI 3.1.", body = Object)))]
async fn openapi(State(app): State<App>, _: Params<NoParams>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], app.document.to_string())
}

/// List all error codes
#[utoipa::path(get, path = "/errors", tag = "server",
    responses((status = 200, description = "The whole list.", body = Page<ErrorEntry>)))]
async fn errors(_: Params<NoParams>) -> Json<Page<ErrorEntry>> {
    let entries = CATALOG.iter().map(|code| ErrorEntry {
        code: (*code).into(),
        kind: code.kind,
        meaning: code.meaning.to_owned(),
        hint: code.hint.to_owned(),
        fault: code.fault(),
        retryable: code.is_retryable(),
        status: status_of(code).as_u16(),
        params: code.params().iter().map(|name| (*name).to_owned()).collect(),
        azure: code.azure().iter().map(|alias| (*alias).to_owned()).collect(),
    });
    Json(Page { items: entries.collect(), next_page_token: None })
}

/// Show which role may do what
#[utoipa::path(get, path = "/access-table", tag = "access",
    responses((status = 200, description = "The whole list.", body = Page<AccessRow>)))]
async fn access_table(_: Params<NoParams>) -> Json<Page<AccessRow>> {
    let rows = Operation::ALL.iter().map(|operation| AccessRow {
        operation: operation.name().to_owned(),
        role: operation.role(),
        reach: operation.reach().name().to_owned(),
        words: operation.words().to_owned(),
    });
    Json(Page { items: rows.collect(), next_page_token: None })
}

/// Show the status of everything on one screen
///
/// It covers only what you may see.
#[utoipa::path(get, path = "/status", tag = "server",
    responses((status = 200, description = "The status.", body = Status)))]
async fn status(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
) -> Done<Json<Status>> {
    Ok(Json(app.control.status(&caller).await?))
}

/// Confirm that the server's clock is right
///
/// After a jump of the clock, the service deletes nothing that may not have expired until the clock is
/// confirmed.
#[utoipa::path(post, path = "/server/confirm-clock", tag = "server",
    responses((status = 204, description = "The clock is confirmed.")),
    extensions(("x-operation" = json!("server.manage"))))]
async fn confirm_clock(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
) -> Done<StatusCode> {
    app.control.confirm_clock(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}
