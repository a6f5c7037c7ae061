//! Policies of vaults.

use axum::{Json, extract::State, http::StatusCode};
use strongroom_api::{Page, Policy, PolicyCreate, PolicyPreview, PolicyTry, PolicyUpdate};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Done, Made, Tagged},
    extract::{Body, IfMatch, Names, NoParams, PageParams, Params, Who},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_policies, create_policy))
        .routes(routes!(get_policy, update_policy, delete_policy))
        .routes(routes!(preview_policy))
}

/// List the policies of a vault, by name
#[utoipa::path(get, path = "/vaults/{vault}/policies", tag = "policies", params(PageParams),
    responses((status = 200, description = "One page of the list.", body = Page<Policy>)),
    extensions(("x-operation" = json!("vault.view"))))]
async fn list_policies(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<Policy>>> {
    Ok(Json(app.control.policies(&caller, &vault, &at.page()?).await?))
}

/// Create a policy
#[utoipa::path(post, path = "/vaults/{vault}/policies", tag = "policies",
    request_body = PolicyCreate,
    responses((status = 201, description = "The new object.", body = Policy)),
    extensions(("x-operation" = json!("policy.create"))))]
async fn create_policy(
    State(app): State<App>,
    Who(caller): Who,
    Names(vault): Names<String>,
    _: Params<NoParams>,
    Body(request): Body<PolicyCreate>,
) -> Done<Made<Policy>> {
    let made = app.control.create_policy(&caller, &vault, request).await?;
    Ok(Made::at(|policy| format!("/v1/vaults/{}/policies/{}", policy.vault, policy.id), made))
}

/// Get a policy
#[utoipa::path(get, path = "/vaults/{vault}/policies/{policy}", tag = "policies",
    responses((status = 200, description = "The object.", body = Policy)),
    extensions(("x-operation" = json!("vault.view"))))]
async fn get_policy(
    State(app): State<App>,
    Who(caller): Who,
    Names((vault, policy)): Names<(String, String)>,
    _: Params<NoParams>,
) -> Done<Tagged<Policy>> {
    Ok(Tagged(app.control.policy(&caller, &vault, &policy).await?))
}

/// Change a policy
///
/// From then on the new rules decide how long the recovery points of its items are kept; `preview` shows
/// the effect beforehand.
#[utoipa::path(patch, path = "/vaults/{vault}/policies/{policy}", tag = "policies",
    request_body = PolicyUpdate,
    responses((status = 200, description = "The changed object.", body = Policy)),
    extensions(("x-operation" = json!("policy.update"))))]
async fn update_policy(
    State(app): State<App>,
    Who(caller): Who,
    Names((vault, policy)): Names<(String, String)>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
    Body(change): Body<PolicyUpdate>,
) -> Done<Tagged<Policy>> {
    Ok(Tagged(app.control.update_policy(&caller, &vault, &policy, expected, change).await?))
}

/// Delete a policy that no item uses
#[utoipa::path(delete, path = "/vaults/{vault}/policies/{policy}", tag = "policies",
    responses((status = 204, description = "The object is deleted.")),
    extensions(("x-operation" = json!("policy.delete"))))]
async fn delete_policy(
    State(app): State<App>,
    Who(caller): Who,
    Names((vault, policy)): Names<(String, String)>,
    IfMatch(expected): IfMatch,
    _: Params<NoParams>,
) -> Done<StatusCode> {
    app.control.delete_policy(&caller, &vault, &policy, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Show what other rules would do to the recovery points of a policy's items
///
/// It changes nothing.
#[utoipa::path(post, path = "/vaults/{vault}/policies/{policy}/preview", tag = "policies",
    request_body = PolicyTry,
    responses((status = 200, description = "The effect.", body = PolicyPreview)),
    extensions(("x-operation" = json!("vault.view"))))]
async fn preview_policy(
    State(app): State<App>,
    Who(caller): Who,
    Names((vault, policy)): Names<(String, String)>,
    _: Params<NoParams>,
    Body(request): Body<PolicyTry>,
) -> Done<Json<PolicyPreview>> {
    Ok(Json(app.control.preview_policy(&caller, &vault, &policy, request.rules).await?))
}
