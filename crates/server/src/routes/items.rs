//! Protected items.

use axum::{Json, extract::State};
use serde::Deserialize;
use strongroom_api::{
    BackupNow, Check, Item, ItemUpdate, JobBegun, Page, Protect, ProtectionState, RestoreDecision,
    ResumeProtection, StopProtection,
};
use strongroom_control::ItemFilter;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Begun, Done, Tagged},
    extract::{Body, BodyOrNone, IfMatch, Names, NoParams, Params, Who, page},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_items, protect))
        .routes(routes!(get_item, update_item))
        .routes(routes!(check_item))
        .routes(routes!(backup_now))
        .routes(routes!(stop_protection))
        .routes(routes!(resume_protection))
        .routes(routes!(undelete_item))
        .routes(routes!(accept_restore))
        .routes(routes!(undo_restore))
}

/// Which items.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ItemParams {
    /// Only those of this vault: its name or id.
    vault: Option<String>,
    /// Only those in this state.
    state: Option<ProtectionState>,
    /// Only those with this policy: its id.
    policy: Option<String>,
    /// Only those whose names contain this text.
    name: Option<String>,
    /// Maximum number of entries on a page: 1 to 1000; 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next_page_token` of the page before.
    page_token: Option<String>,
}

/// List the items that you may see, by name
#[utoipa::path(get, path = "/items", tag = "items", params(ItemParams),
    responses((status = 200, description = "One page of the list.", body = Page<Item>)))]
async fn list_items(
    State(app): State<App>,
    Who(caller): Who,
    Params(params): Params<ItemParams>,
) -> Done<Json<Page<Item>>> {
    let ItemParams { vault, state, policy, name, limit, page_token } = params;
    let which = ItemFilter { vault, state, policy, name };
    Ok(Json(app.control.items(&caller, &which, &page(limit, page_token)?).await?))
}

/// Protect machines or disks
#[utoipa::path(post, path = "/items", tag = "items", request_body = Protect,
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("item.protect"))))]
async fn protect(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<Protect>,
) -> Done<Begun> {
    Ok(Begun(app.control.protect(&caller, request).await?))
}

/// Get an item
#[utoipa::path(get, path = "/items/{item}", tag = "items",
    responses((status = 200, description = "The object.", body = Item)),
    extensions(("x-operation" = json!("item.view"))))]
async fn get_item(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
) -> Done<Tagged<Item>> {
    Ok(Tagged(app.control.item(&caller, &item).await?))
}

/// Change an item
///
/// A change of the policy needs `item.set_policy`.
#[utoipa::path(patch, path = "/items/{item}", tag = "items", request_body = ItemUpdate,
    responses((status = 200, description = "The changed object.", body = Item)),
    extensions(("x-operation" = json!("item.update"))))]
async fn update_item(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
    Body(change): Body<ItemUpdate>,
) -> Done<Tagged<Item>> {
    Ok(Tagged(app.control.update_item(&caller, &item, expected, change).await?))
}

/// Check an item for obstacles to a backup
#[utoipa::path(get, path = "/items/{item}/check", tag = "items",
    responses((status = 200, description = "The findings.", body = Check)),
    extensions(("x-operation" = json!("item.check"))))]
async fn check_item(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
) -> Done<Json<Check>> {
    Ok(Json(app.control.check_item(&caller, &item).await?))
}

/// Back up an item now
#[utoipa::path(post, path = "/items/{item}/backup", tag = "items",
    request_body = Option<BackupNow>,
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("item.backup"))))]
async fn backup_now(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
    BodyOrNone(request): BodyOrNone<BackupNow>,
) -> Done<Begun> {
    Ok(Begun(app.control.backup_now(&caller, &item, request).await?))
}

/// Stop the protection of an item
///
/// Deleting the recovery points as well needs `item.delete_data`.
#[utoipa::path(post, path = "/items/{item}/stop", tag = "items", request_body = StopProtection,
    responses((status = 200, description = "The changed object.", body = Item)),
    extensions(("x-operation" = json!("item.stop"))))]
async fn stop_protection(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
    Body(request): Body<StopProtection>,
) -> Done<Tagged<Item>> {
    Ok(Tagged(app.control.stop_protection(&caller, &item, request).await?))
}

/// Resume the protection of an item
#[utoipa::path(post, path = "/items/{item}/resume", tag = "items",
    request_body = Option<ResumeProtection>,
    responses((status = 200, description = "The changed object.", body = Item)),
    extensions(("x-operation" = json!("item.resume"))))]
async fn resume_protection(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
    BodyOrNone(request): BodyOrNone<ResumeProtection>,
) -> Done<Tagged<Item>> {
    Ok(Tagged(app.control.resume_protection(&caller, &item, request).await?))
}

/// Restore a deleted item
///
/// Its protection stays stopped, and its recovery points are kept.
#[utoipa::path(post, path = "/items/{item}/undelete", tag = "items",
    responses((status = 200, description = "The changed object.", body = Item)),
    extensions(("x-operation" = json!("item.undelete"))))]
async fn undelete_item(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
) -> Done<Tagged<Item>> {
    Ok(Tagged(app.control.undelete_item(&caller, &item).await?))
}

/// Accept the restore that replaced the disks of an item's machine
///
/// The machine keeps the restored state. It must be off.
#[utoipa::path(post, path = "/items/{item}/restore/accept", tag = "items",
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("restore.finish"))))]
async fn accept_restore(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.finish_restore(&caller, &item, RestoreDecision::Accept).await?))
}

/// Undo the restore that replaced the disks of an item's machine
///
/// Restores the machine's state before the restore. It must be off.
#[utoipa::path(post, path = "/items/{item}/restore/undo", tag = "items",
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("restore.finish"))))]
async fn undo_restore(
    State(app): State<App>,
    Who(caller): Who,
    Names(item): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.finish_restore(&caller, &item, RestoreDecision::Undo).await?))
}
