//! Users, rights, tokens, signing in.

use axum::{Json, extract::State, http::StatusCode};
use strongroom_api::{
    Assignment, AssignmentCreate, Page, SignIn, Token, TokenCreate, TokenIssued, User, UserCreate,
    UserUpdate, WhoAmI,
};
use strongroom_base::{AssignmentId, TokenId};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Done, Made, Once},
    extract::{Body, Names, NoParams, Origin, PageParams, Params, Secret, Who},
    state::App,
};

pub(super) fn public() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(sign_in))
}

pub(super) fn signed_in() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(list_users, create_user))
        .routes(routes!(update_user, delete_user))
        .routes(routes!(list_assignments, create_assignment))
        .routes(routes!(delete_assignment))
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(delete_token))
}

/// Sign in
///
/// The token is valid for 12 hours. After five tries from one address for one name, each further try
/// has to wait.
#[utoipa::path(post, path = "/sign-in", tag = "access", request_body = SignIn,
    responses((status = 200, description = "The new token.", body = TokenIssued)))]
async fn sign_in(
    State(app): State<App>,
    Origin(address): Origin,
    _: Params<NoParams>,
    Body(request): Body<SignIn>,
) -> Done<Json<TokenIssued>> {
    Ok(Json(app.control.sign_in(request, address).await?))
}

/// Show who you are and what you may do
#[utoipa::path(get, path = "/me", tag = "access",
    responses((status = 200, description = "You, and your rights.", body = WhoAmI)))]
async fn me(State(app): State<App>, secret: Secret, _: Params<NoParams>) -> Done<Json<WhoAmI>> {
    Ok(Json(app.control.who_am_i(&secret.0).await?))
}

/// List all users, by name
#[utoipa::path(get, path = "/users", tag = "access", params(PageParams),
    responses((status = 200, description = "One page of the list.", body = Page<User>)),
    extensions(("x-operation" = json!("access.manage"))))]
async fn list_users(
    State(app): State<App>,
    Who(caller): Who,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<User>>> {
    Ok(Json(app.control.users(&caller, &at.page()?).await?))
}

/// Create a user, who has no rights yet
#[utoipa::path(post, path = "/users", tag = "access", request_body = UserCreate,
    responses((status = 201, description = "The new object.", body = User)),
    extensions(("x-operation" = json!("access.manage"))))]
async fn create_user(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<UserCreate>,
) -> Done<Made<User>> {
    let value = app.control.create_user(&caller, request).await?;
    Ok(Made { path: format!("/v1/users/{}", value.id), version: None, value })
}

/// Change a user
///
/// You may change your own password with the present one and a token that is not limited. A new password
/// revokes the user's other tokens, and so does disabling the user.
#[utoipa::path(patch, path = "/users/{user}", tag = "access", request_body = UserUpdate,
    responses((status = 200, description = "The changed object.", body = User)),
    extensions(("x-operation" = json!("access.manage"))))]
async fn update_user(
    State(app): State<App>,
    Who(caller): Who,
    Names(user): Names<String>,
    _: Params<NoParams>,
    Body(change): Body<UserUpdate>,
) -> Done<Json<User>> {
    Ok(Json(app.control.update_user(&caller, &user, change).await?))
}

/// Delete a user with their role assignments and tokens
#[utoipa::path(delete, path = "/users/{user}", tag = "access",
    responses((status = 204, description = "The object is deleted.")),
    extensions(("x-operation" = json!("access.manage"))))]
async fn delete_user(
    State(app): State<App>,
    Who(caller): Who,
    Names(user): Names<String>,
    _: Params<NoParams>,
) -> Done<StatusCode> {
    app.control.delete_user(&caller, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List all role assignments
#[utoipa::path(get, path = "/assignments", tag = "access", params(PageParams),
    responses((status = 200, description = "One page of the list.", body = Page<Assignment>)),
    extensions(("x-operation" = json!("access.manage"))))]
async fn list_assignments(
    State(app): State<App>,
    Who(caller): Who,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<Assignment>>> {
    Ok(Json(app.control.assignments(&caller, &at.page()?).await?))
}

/// Assign a role
#[utoipa::path(post, path = "/assignments", tag = "access", request_body = AssignmentCreate,
    responses((status = 201, description = "The new role assignment.", body = Assignment)),
    extensions(("x-operation" = json!("access.manage"))))]
async fn create_assignment(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<AssignmentCreate>,
) -> Done<Made<Assignment>> {
    let value = app.control.assign(&caller, request).await?;
    Ok(Made { path: format!("/v1/assignments/{}", value.id), version: None, value })
}

/// Delete a role assignment
#[utoipa::path(delete, path = "/assignments/{assignment}", tag = "access",
    responses((status = 204, description = "The object is deleted.")),
    extensions(("x-operation" = json!("access.manage"))))]
async fn delete_assignment(
    State(app): State<App>,
    Who(caller): Who,
    Names(id): Names<AssignmentId>,
    _: Params<NoParams>,
) -> Done<StatusCode> {
    app.control.unassign(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List your tokens, or all tokens if you may manage access
///
/// A limited token lists only itself and the tokens created with it.
#[utoipa::path(get, path = "/tokens", tag = "access", params(PageParams),
    responses((status = 200, description = "One page of the list.", body = Page<Token>)))]
async fn list_tokens(
    State(app): State<App>,
    Who(caller): Who,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<Token>>> {
    Ok(Json(app.control.tokens(&caller, &at.page()?).await?))
}

/// Create a token for yourself
///
/// It has at most the rights of the token that you send, and is revoked with it, unless you give your
/// password. The answer shows its secret, which is never shown again.
#[utoipa::path(post, path = "/tokens", tag = "access", request_body = TokenCreate,
    responses((status = 201, description = "The new object.", body = TokenIssued)))]
async fn create_token(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<TokenCreate>,
) -> Done<Once<Made<TokenIssued>>> {
    let value = app.control.create_token(&caller, request).await?;
    Ok(Once(Made { path: format!("/v1/tokens/{}", value.token.id), version: None, value }))
}

/// Revoke a token: your own, or anybody's if you may manage access
///
/// The tokens created with it are revoked, too. A limited token can revoke only itself and the tokens
/// created with it.
#[utoipa::path(delete, path = "/tokens/{token}", tag = "access",
    responses((status = 204, description = "The object is deleted.")))]
async fn delete_token(
    State(app): State<App>,
    Who(caller): Who,
    Names(id): Names<TokenId>,
    _: Params<NoParams>,
) -> Done<StatusCode> {
    app.control.delete_token(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
