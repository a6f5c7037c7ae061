//! Vaults.

use axum::{Json, extract::State};
use strongroom_api::{
    JobBegun, JobKind, KeyRotate, Page, Vault, VaultCreate, VaultUpdate, VaultUsage,
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
        .routes(routes!(save_catalog))
        .routes(routes!(rotate_key))
}

/// All vaults that the caller sees, by name
#[utoipa::path(get, path = "/vaults", tag = "vaults", params(PageParams),
    responses((status = 200, description = "A page of them.", body = Page<Vault>)))]
async fn list_vaults(
    State(app): State<App>,
    Who(caller): Who,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<Vault>>> {
    Ok(Json(app.control.vaults(&caller, &at.page()?).await?))
}

/// Makes a vault, or takes over one that is there
#[utoipa::path(post, path = "/vaults", tag = "vaults", request_body = VaultCreate,
    responses((status = 201, description = "It is there.", body = Vault)),
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

/// A vault
#[utoipa::path(get, path = "/vaults/{vault}", tag = "vaults",
    responses((status = 200, description = "It.", body = Vault)),
    extensions(("x-operation" = json!("vault.view"))))]
async fn get_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Tagged<Vault>> {
    Ok(Tagged(app.control.vault(&caller, &vault).await?))
}

/// Changes a vault
///
/// To weaken its protection takes `vault.weaken`; what cannot be undone takes `vault.lock`.
#[utoipa::path(patch, path = "/vaults/{vault}", tag = "vaults", request_body = VaultUpdate,
    responses((status = 200, description = "As it is now.", body = Vault)),
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

/// Deletes a vault
///
/// Softly, and only if it has no items but deleted ones. Its data stays in its store.
#[utoipa::path(delete, path = "/vaults/{vault}", tag = "vaults",
    responses((status = 200, description = "As it is now.", body = Vault)),
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

/// Brings a deleted vault back
#[utoipa::path(post, path = "/vaults/{vault}/undelete", tag = "vaults",
    responses((status = 200, description = "As it is now.", body = Vault)),
    extensions(("x-operation" = json!("vault.undelete"))))]
async fn undelete_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Tagged<Vault>> {
    Ok(Tagged(app.control.undelete_vault(&caller, &vault).await?))
}

/// What a vault held when it was measured last
#[utoipa::path(get, path = "/vaults/{vault}/usage", tag = "vaults",
    responses((status = 200, description = "What it held.", body = VaultUsage)),
    extensions(("x-operation" = json!("vault.view"))))]
async fn get_usage(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Json<VaultUsage>> {
    Ok(Json(app.control.usage(&caller, &vault).await?))
}

/// Measures what a vault holds
#[utoipa::path(post, path = "/vaults/{vault}/measure", tag = "vaults",
    responses((status = 202, description = "A job was begun.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.measure"))))]
async fn measure_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::MeasureUsage).await?))
}

/// Frees what no recovery point of a vault needs
#[utoipa::path(post, path = "/vaults/{vault}/reclaim", tag = "vaults",
    responses((status = 202, description = "A job was begun.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.reclaim"))))]
async fn reclaim_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::Reclaim).await?))
}

/// Verifies all that a vault holds
#[utoipa::path(post, path = "/vaults/{vault}/verify", tag = "vaults",
    responses((status = 202, description = "A job was begun.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.verify"))))]
async fn verify_vault(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::Verify).await?))
}

/// Writes what the service knows of a vault into it, sealed
#[utoipa::path(post, path = "/vaults/{vault}/save-catalog", tag = "vaults",
    responses((status = 202, description = "A job was begun.", body = JobBegun)),
    extensions(("x-operation" = json!("vault.save_catalog"))))]
async fn save_catalog(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
) -> Done<Begun> {
    Ok(Begun(app.control.begin_in_vault(&caller, &vault, JobKind::SaveCatalog).await?))
}

/// Changes a vault's key
#[utoipa::path(post, path = "/vaults/{vault}/rotate-key", tag = "vaults",
    request_body = Option<KeyRotate>,
    responses((status = 202, description = "A job was begun.", body = JobBegun)),
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
