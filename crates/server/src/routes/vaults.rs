//! Vaults.

use axum::{Json, extract::State};
use strongroom_api::{
    DrillWanted, JobBegun, JobKind, KeyRotate, Page, Vault, VaultCreate, VaultUpdate, VaultUsage,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Begun, Done, Made, Tagged},
    extract::{Body, BodyOrNone, IfMatch, Names, NoParams, PageParams, Params, Who},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_vaults, create_vault))
        .routes(routes!(get_vault, update_vault, delete_vault))
        .routes(routes!(undelete_vault))
        .routes(routes!(get_usage))
        .routes(routes!(measure_vault))
        .routes(routes!(reclaim_vault))
        .routes(routes!(verify_vault))
        .routes(routes!(drill_vault))
        .routes(routes!(save_catalog))
        .routes(routes!(rotate_key))
}

/// List the vaults that you may see, by name
#[utoipa::path(get, path = "/vaults", tag = "vaults", params(PageParams),
    responses((status = 200, description = "One page of the list.", body = Page<Vault>)))]
async fn list_vaults(
    State(app): State<App>,
    Who(caller): Who,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<Vault>>> {
    Ok(Json(app.control.vaults(&caller, &at.page()?).await?))
}

/// Create a vault, or take over an existing one
#[utoipa::path(post, path = "/vaults", tag = "vaults", request_body = VaultCreate,
    responses((status = 201, description = "The object is restored.", body = Vault)),
    extensions(("x-operation" = json!("vault.create"))))]
async fn create_vault(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<VaultCreate>,
) -> Done<Made<Vault>> {
    let made = app.control.create_vault(&caller, request).await?;
    Ok(Made::at(|vault| format!("/v1/vaults/{}", vault.id), made))
}

/// Get a vault
#[utoipa::path(get, path = "/vaults/{vault}", tag = "vaults",
    responses((status = 200, description = "The object.", body = Vault)),
    extensions(("x-operation" = json!("vault.view"))))]
async fn get_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Tagged<Vault>> {
    Ok(Tagged(app.control.vault(&caller, &vault).await?))
}

/// Change a vault
///
/// Weakening its protection needs `vault.weaken`; irreversible settings need `vault.lock`.
#[utoipa::path(patch, path = "/vaults/{vault}", tag = "vaults", request_body = VaultUpdate,
    responses((status = 200, description = "The changed object.", body = Vault)),
    extensions(("x-operation" = json!("vault.update"))))]
async fn update_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
    Body(change): Body<VaultUpdate>,
) -> Done<Tagged<Vault>> {
    Ok(Tagged(app.control.update_vault(&caller, &vault, expected, change).await?))
}

/// Delete a vault
///
/// Softly, and only if all its items are deleted. Its data stays in its store.
#[utoipa::path(delete, path = "/vaults/{vault}", tag = "vaults",
    responses((status = 200, description = "The changed object.", body = Vault)),
    extensions(("x-operation" = json!("vault.delete"))))]
async fn delete_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
) -> Done<Tagged<Vault>> {
    Ok(Tagged(app.control.delete_vault(&caller, &vault, expected).await?))
}

/// Restore a deleted vault
#[utoipa::path(post, path = "/vaults/{vault}/undelete", tag = "vaults",
    responses((status = 200, description = "The changed object.", body = Vault)),
    extensions(("x-operation" = json!("vault.undelete"))))]
async fn undelete_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Tagged<Vault>> {
    Ok(Tagged(app.control.undelete_vault(&caller, &vault).await?))
}

/// Show what a vault held at its last measurement
#[utoipa::path(get, path = "/vaults/{vault}/usage", tag = "vaults",
    responses((status = 200, description = "The measurement.", body = VaultUsage)),
    extensions(("x-operation" = json!("vault.view"))))]
async fn get_usage(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Json<VaultUsage>> {
    Ok(Json(app.control.usage(&caller, &vault).await?))
}

/// Measure what a vault holds
#[utoipa::path(post, path = "/vaults/{vault}/measure", tag = "vaults",
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.measure"))))]
async fn measure_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::MeasureUsage).await?))
}

/// Reclaim the space that no recovery point of a vault needs
#[utoipa::path(post, path = "/vaults/{vault}/reclaim", tag = "vaults",
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.reclaim"))))]
async fn reclaim_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::Reclaim).await?))
}

/// Verify everything that a vault holds
#[utoipa::path(post, path = "/vaults/{vault}/verify", tag = "vaults",
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.verify"))))]
async fn verify_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::Verify).await?))
}

/// Save the catalog of a vault in the vault, encrypted
#[utoipa::path(post, path = "/vaults/{vault}/save-catalog", tag = "vaults",
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.save_catalog"))))]
async fn save_catalog(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::SaveCatalog).await?))
}

/// Change the key of a vault
#[utoipa::path(post, path = "/vaults/{vault}/rotate-key", tag = "vaults",
    request_body = Option<KeyRotate>,
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.rotate_key"))))]
async fn rotate_key(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
    BodyOrNone(request): BodyOrNone<KeyRotate>,
) -> Done<Begun> {
    Ok(Begun(app.control.rotate_key(&caller, &vault, request.key).await?))
}

/// Boot machines of a vault together, to see when each works
///
/// The machines run in isolation on their host, on a closed network, and read their disks from the recovery points. The job's
/// report says of each how old its recovery point is and when it worked; if one does not, or not in time, the job is
/// completed with a warning `drill.failed`.
#[utoipa::path(post, path = "/vaults/{vault}/drill", tag = "vaults", request_body = DrillWanted,
    responses((status = 202, description = "The job that was started.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.drill"))))]
async fn drill_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
    Body(wanted): Body<DrillWanted>,
) -> Done<Begun> {
    Ok(Begun(app.control.drill(&caller, &vault, wanted).await?))
}
