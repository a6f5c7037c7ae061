//! Storage accounts.

use axum::{Json, extract::State, http::StatusCode};
use strongroom_api::{
    BlobSnapshots, BlobSnapshotsCreate, Page, StorageAccount, StorageAccountCreate,
    StorageAccountKeys, StorageFailOver, StorageFailedOver, StorageKeyRegenerate, StorageKeysRead,
    StorageRedundancySet, StorageReplication, StorageStatus,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Done, Made, Once},
    extract::{Body, BodyOrNone, Names, NoParams, PageParams, Params, Who},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_storage_accounts, create_storage_account))
        .routes(routes!(get_storage_account, delete_storage_account))
        .routes(routes!(read_storage_keys))
        .routes(routes!(regenerate_storage_key))
        .routes(routes!(set_storage_redundancy))
        .routes(routes!(get_storage))
        .routes(routes!(get_storage_replication))
        .routes(routes!(fail_storage_over))
        .routes(routes!(snapshot_blobs))
}

/// List the storage accounts, by name, without their keys
#[utoipa::path(get, path = "/storage-accounts", tag = "storage accounts", params(PageParams),
    responses((status = 200, description = "One page of the list.", body = Page<StorageAccount>)),
    extensions(("x-operation" = json!("storage_account.view"))))]
async fn list_storage_accounts(
    State(app): State<App>,
    Who(caller): Who,
    Params(at): Params<PageParams>,
) -> Done<Json<Page<StorageAccount>>> {
    Ok(Json(app.control.storage_accounts(&caller, &at.page()?).await?))
}

/// Create a storage account
///
/// The answer shows its keys and a connection string; the server does not store it for a repeated request.
#[utoipa::path(post, path = "/storage-accounts", tag = "storage accounts",
    request_body = StorageAccountCreate,
    responses((status = 201, description = "The new object, with its keys.", body = StorageAccountKeys)),
    extensions(("x-operation" = json!("storage_account.create"))))]
async fn create_storage_account(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<StorageAccountCreate>,
) -> Done<Once<Made<StorageAccountKeys>>> {
    let value = app.control.create_storage_account(&caller, request).await?;
    Ok(Once(Made { path: format!("/v1/storage-accounts/{}", value.name), version: None, value }))
}

/// Get a storage account, without its keys
#[utoipa::path(get, path = "/storage-accounts/{account}", tag = "storage accounts",
    responses((status = 200, description = "The object.", body = StorageAccount)),
    extensions(("x-operation" = json!("storage_account.view"))))]
async fn get_storage_account(
    State(app): State<App>,
    Who(caller): Who,
    Names(account): Names<String>,
    _: Params<NoParams>,
) -> Done<Json<StorageAccount>> {
    Ok(Json(app.control.storage_account(&caller, &account).await?))
}

/// Delete a storage account with its containers, blobs and snapshots
///
/// They cannot be restored.
#[utoipa::path(delete, path = "/storage-accounts/{account}", tag = "storage accounts",
    responses((status = 204, description = "The object is deleted.")),
    extensions(("x-operation" = json!("storage_account.delete"))))]
async fn delete_storage_account(
    State(app): State<App>,
    Who(caller): Who,
    Names(account): Names<String>,
    _: Params<NoParams>,
) -> Done<StatusCode> {
    app.control.delete_storage_account(&caller, &account).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read the keys of a storage account
///
/// The audit log has an entry of it, without the keys.
#[utoipa::path(post, path = "/storage-accounts/{account}/keys", tag = "storage accounts",
    request_body = Option<StorageKeysRead>,
    responses((status = 200, description = "The object, with its keys.", body = StorageAccountKeys)),
    extensions(("x-operation" = json!("storage_account.read_keys"))))]
async fn read_storage_keys(
    State(app): State<App>,
    Who(caller): Who,
    Names(account): Names<String>,
    _: Params<NoParams>,
    BodyOrNone(request): BodyOrNone<StorageKeysRead>,
) -> Done<Once<Json<StorageAccountKeys>>> {
    Ok(Once(Json(app.control.storage_account_keys(&caller, &account, request).await?)))
}

/// Replace a key of a storage account
///
/// Requests and shared access signatures by the old key are refused from then on. The answer shows both keys.
#[utoipa::path(post, path = "/storage-accounts/{account}/regenerate-key", tag = "storage accounts",
    request_body = StorageKeyRegenerate,
    responses((status = 200, description = "The object, with its keys.", body = StorageAccountKeys)),
    extensions(("x-operation" = json!("storage_account.regenerate_key"))))]
async fn regenerate_storage_key(
    State(app): State<App>,
    Who(caller): Who,
    Names(account): Names<String>,
    _: Params<NoParams>,
    Body(request): Body<StorageKeyRegenerate>,
) -> Done<Once<Json<StorageAccountKeys>>> {
    Ok(Once(Json(app.control.regenerate_storage_key(&caller, &account, request).await?)))
}

/// Show how the store of the storage accounts stands
#[utoipa::path(get, path = "/storage", tag = "storage accounts",
    responses((status = 200, description = "How it stands.", body = StorageStatus)),
    extensions(("x-operation" = json!("storage_account.view"))))]
async fn get_storage(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
) -> Done<Json<StorageStatus>> {
    Ok(Json(app.control.storage_status(&caller).await?))
}

/// Change where the data of a storage account is kept
///
/// Where the accounts are at two servers: whether it can be read at the second one.
#[utoipa::path(post, path = "/storage-accounts/{account}/set-redundancy", tag = "storage accounts",
    request_body = StorageRedundancySet,
    responses((status = 200, description = "The object.", body = StorageAccount)),
    extensions(("x-operation" = json!("storage_account.set_redundancy"))))]
async fn set_storage_redundancy(
    State(app): State<App>,
    Who(caller): Who,
    Names(account): Names<String>,
    _: Params<NoParams>,
    Body(request): Body<StorageRedundancySet>,
) -> Done<Json<StorageAccount>> {
    Ok(Json(app.control.set_storage_redundancy(&caller, &account, request).await?))
}

/// Show how the storage accounts are kept at a second server
#[utoipa::path(get, path = "/storage/replication", tag = "storage accounts",
    responses((status = 200, description = "How both servers stand.", body = StorageReplication)),
    extensions(("x-operation" = json!("storage_account.view"))))]
async fn get_storage_replication(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
) -> Done<Json<StorageReplication>> {
    Ok(Json(app.control.storage_replication(&caller).await?))
}

/// Make this server the primary of all its storage accounts
///
/// It must be the secondary. A primary that answers is stopped first, and nothing is lost.
#[utoipa::path(post, path = "/storage/failover", tag = "storage accounts",
    request_body = Option<StorageFailOver>,
    responses((status = 200, description = "The failover.", body = StorageFailedOver)),
    extensions(("x-operation" = json!("storage_account.fail_over"))))]
async fn fail_storage_over(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    BodyOrNone(request): BodyOrNone<StorageFailOver>,
) -> Done<Json<StorageFailedOver>> {
    Ok(Json(app.control.fail_storage_over(&caller, request).await?))
}

/// Take snapshots of several blobs at the same moment
///
/// Of all of them or of none; they may be in several containers and accounts.
#[utoipa::path(post, path = "/storage/snapshots", tag = "storage accounts",
    request_body = BlobSnapshotsCreate,
    responses((status = 200, description = "The snapshots.", body = BlobSnapshots)),
    extensions(("x-operation" = json!("storage_account.snapshot"))))]
async fn snapshot_blobs(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    Body(request): Body<BlobSnapshotsCreate>,
) -> Done<Json<BlobSnapshots>> {
    Ok(Json(app.control.snapshot_blobs(&caller, request).await?))
}
