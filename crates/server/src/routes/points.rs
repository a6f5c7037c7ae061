//! Recovery points.

use axum::{Json, extract::State};
use serde::Deserialize;
use strongroom_api::{JobBegun, Page, PointState, PointUpdate, RecoveryPoint, Restore};
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
