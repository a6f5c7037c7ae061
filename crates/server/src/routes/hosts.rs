//! Hosts, and what can be protected on them.

use axum::{Json, extract::State, http::StatusCode};
use strongroom_api::{Check, Host, HostCreate, HostUpdate, JobBegun, Page, ProtectableItem};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Begun, Done, Made, Tagged},
    extract::{Body, IfMatch, Names, NoParams, PageParams, Params, Who},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_hosts, create_host))
        .routes(routes!(get_host, update_host, delete_host))
        .routes(routes!(discover_host))
        .routes(routes!(list_protectable_items))
        .routes(routes!(check_protectable_item))
}

/// List the hosts that you may see, by name
#[utoipa::path(get, path = "/hosts", tag = "hosts", params(PageParams),
    responses((status = 200, description = "One page of the list.", body = Page<Host>)))]
async fn list_hosts(
    State(app): State<App>,
    Who(caller): Who,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<Host>>> {
    Ok(Json(app.control.hosts(&caller, &at.page()?).await?))
}

/// Create a host
#[utoipa::path(post, path = "/hosts", tag = "hosts", request_body = HostCreate,
    responses((status = 201, description = "The new host.", body = Host)),
    extensions(("x-operation" = json!("host.create"))))]
async fn create_host(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<HostCreate>,
) -> Done<Made<Host>> {
    let made = app.control.create_host(&caller, request).await?;
    Ok(Made::at(|host| format!("/v1/hosts/{}", host.id), made))
}

/// Get a host
#[utoipa::path(get, path = "/hosts/{host}", tag = "hosts",
    responses((status = 200, description = "The object.", body = Host)),
    extensions(("x-operation" = json!("host.view"))))]
async fn get_host(
    State(app): State<App>,
    Who(caller): Who,
    Names(host): Names<String>,
    _: Params<NoParams>,
) -> Done<Tagged<Host>> {
    Ok(Tagged(app.control.host(&caller, &host).await?))
}

/// Change a host
#[utoipa::path(patch, path = "/hosts/{host}", tag = "hosts", request_body = HostUpdate,
    responses((status = 200, description = "The changed object.", body = Host)),
    extensions(("x-operation" = json!("host.update"))))]
async fn update_host(
    State(app): State<App>,
    Who(caller): Who,
    Names(host): Names<String>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
    Body(change): Body<HostUpdate>,
) -> Done<Tagged<Host>> {
    Ok(Tagged(app.control.update_host(&caller, &host, expected, change).await?))
}

/// Delete a host on which nothing is protected
#[utoipa::path(delete, path = "/hosts/{host}", tag = "hosts",
    responses((status = 204, description = "The host is deleted.")),
    extensions(("x-operation" = json!("host.delete"))))]
async fn delete_host(
    State(app): State<App>,
    Who(caller): Who,
    Names(host): Names<String>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
) -> Done<StatusCode> {
    app.control.delete_host(&caller, &host, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Discover the machines of a host
#[utoipa::path(post, path = "/hosts/{host}/discover", tag = "hosts",
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("host.discover"))))]
async fn discover_host(
    State(app): State<App>,
    Who(caller): Who,
    Names(host): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.discover(&caller, &host).await?))
}

/// List the machines that the last discovery found on a host, by name
#[utoipa::path(get, path = "/hosts/{host}/protectable-items", tag = "hosts", params(PageParams),
    responses((status = 200, description = "One page of the log.", body = Page<ProtectableItem>)),
    extensions(("x-operation" = json!("host.view"))))]
async fn list_protectable_items(
    State(app): State<App>,
    Who(caller): Who,
    Names(host): Names<String>,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<ProtectableItem>>> {
    Ok(Json(app.control.protectable_items(&caller, &host, &at.page()?).await?))
}

/// Check a machine for obstacles to a backup
#[utoipa::path(get, path = "/hosts/{host}/protectable-items/{machine}/check", tag = "hosts",
    responses((status = 200, description = "The findings.", body = Check)),
    extensions(("x-operation" = json!("host.view"))))]
async fn check_protectable_item(
    State(app): State<App>,
    Who(caller): Who,
    Names((host, machine)): Names<(String, String)>,
    _: Params<NoParams>,
) -> Done<Json<Check>> {
    Ok(Json(app.control.check_machine(&caller, &host, &machine).await?))
}
