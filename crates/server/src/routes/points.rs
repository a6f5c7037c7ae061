//! Recovery points.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use strongroom_api::{
    BootWanted, JobBegun, Page, PointState, PointUpdate, RecoveryPoint, Report, Restore,
};
use strongroom_control::BootSight;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Begun, Done, Tagged},
    extract::{Body, IfMatch, Names, NoParams, Params, Who, page},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_recovery_points))
        .routes(routes!(get_recovery_point, update_recovery_point, delete_recovery_point))
        .routes(routes!(restore))
        .routes(routes!(verify_boot, get_boot))
        .routes(routes!(get_boot_screenshot))
        .routes(routes!(get_boot_console))
}

/// Which recovery points.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PointParams {
    /// Only those in this state.
    state: Option<PointState>,
    /// Maximum number of entries on a page: 1 to 1000; 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next_page_token` of the page before.
    page_token: Option<String>,
}

/// List the recovery points of an item, newest first
#[utoipa::path(get, path = "/items/{item}/recovery-points", tag = "recovery points",
    params(PointParams),
    responses((status = 200, description = "One page of the list.", body = Page<RecoveryPoint>)),
    extensions(("x-operation" = json!("item.view"))))]
async fn list_recovery_points(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    Params(params): Params<PointParams>,
) -> Done<Json<Page<RecoveryPoint>>> {
    let at = page(params.limit, params.page_token)?;
    Ok(Json(app.control.points(&caller, &item, params.state, &at).await?))
}

/// Get a recovery point
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}", tag = "recovery points",
    responses((status = 200, description = "The object.", body = RecoveryPoint)),
    extensions(("x-operation" = json!("item.view"))))]
async fn get_recovery_point(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    _: Params<NoParams>,
) -> Done<Tagged<RecoveryPoint>> {
    Ok(Tagged(app.control.point(&caller, &item, &point).await?))
}

/// Change until when a recovery point is kept
///
/// A time in the future restores a deleted recovery point.
#[utoipa::path(patch, path = "/items/{item}/recovery-points/{point}", tag = "recovery points",
    request_body = PointUpdate,
    responses((status = 200, description = "The changed object.", body = RecoveryPoint)),
    extensions(("x-operation" = json!("point.update"))))]
async fn update_recovery_point(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
    Body(change): Body<PointUpdate>,
) -> Done<Tagged<RecoveryPoint>> {
    Ok(Tagged(app.control.update_point(&caller, &item, &point, expected, change).await?))
}

/// Delete a recovery point
///
/// Softly, if the vault has soft delete. The last good recovery point of an item cannot be deleted.
#[utoipa::path(delete, path = "/items/{item}/recovery-points/{point}", tag = "recovery points",
    responses((status = 200, description = "The changed object.", body = RecoveryPoint)),
    extensions(("x-operation" = json!("point.delete"))))]
async fn delete_recovery_point(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
) -> Done<Tagged<RecoveryPoint>> {
    Ok(Tagged(app.control.delete_point(&caller, &item, &point, expected).await?))
}

/// Restore from a recovery point
#[utoipa::path(post, path = "/items/{item}/recovery-points/{point}/restore",
    tag = "recovery points", request_body = Restore,
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("item.restore"))))]
async fn restore(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    _: Params<NoParams>,
    Body(request): Body<Restore>,
) -> Done<Begun> {
    Ok(Begun(app.control.restore(&caller, &item, &point, request).await?))
}

/// Boot a machine from a recovery point, to see whether it works
///
/// The machine runs in isolation on the item's host: without a network, or in a closed one, and what it writes is thrown
/// away. The job is done when the machine has come as far as it has to, or cannot; if it does not come far enough, the job
/// is completed with a warning `boot.failed`. The result is kept in the vault, and on the recovery point.
#[utoipa::path(post, path = "/items/{item}/recovery-points/{point}/boot",
    tag = "recovery points", request_body = BootWanted,
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("item.verify_boot"))))]
async fn verify_boot(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    _: Params<NoParams>,
    Body(wanted): Body<BootWanted>,
) -> Done<Begun> {
    Ok(Begun(app.control.verify_boot(&caller, &item, &point, wanted).await?))
}

/// Get the report of the newest boot verification of a recovery point
///
/// The report is that of the command `strongroom verify boot`; see `docs/use/json.md`.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/boot", tag = "recovery points",
    responses((status = 200, description = "The report.", body = Object)),
    extensions(("x-operation" = json!("item.view"))))]
async fn get_boot(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    _: Params<NoParams>,
) -> Done<Json<Report>> {
    Ok(Json(app.control.boot_report(&caller, &item, &point).await?))
}

/// Get the picture of the screen at the end of a boot verification
///
/// It is recorded in the audit log who has seen it.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/boot/screenshot",
    tag = "recovery points",
    responses((status = 200, description = "The picture, as PNG or PPM.", content(
        (Vec<u8> = "image/png"), (Vec<u8> = "image/x-portable-pixmap")))),
    extensions(("x-operation" = json!("item.verify_boot"))))]
async fn get_boot_screenshot(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    _: Params<NoParams>,
) -> Done<Response> {
    Ok(sight(app.control.boot_sight(&caller, &item, &point, BootSight::Screenshot).await?))
}

/// Get the text of the console of a boot verification
///
/// Of a long text the middle is left out. It is recorded in the audit log who has seen it.
#[utoipa::path(get, path = "/items/{item}/recovery-points/{point}/boot/console",
    tag = "recovery points",
    responses((status = 200, description = "The text, as the machine has written it.", body = String,
        content_type = "text/plain")),
    extensions(("x-operation" = json!("item.verify_boot"))))]
async fn get_boot_console(
    State(app): State<App>,
    Who(caller): Who,
    Names((item, point)): Names<(String, String)>,
    _: Params<NoParams>,
) -> Done<Response> {
    Ok(sight(app.control.boot_sight(&caller, &item, &point, BootSight::Console).await?))
}

/// What a stranger's machine has shown: nothing that a browser would run.
fn sight((kind, bytes): (String, Vec<u8>)) -> Response {
    let mut answer = bytes.into_response();
    let kind = HeaderValue::from_str(&kind)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
