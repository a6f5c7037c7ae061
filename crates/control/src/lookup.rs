//! Documents by the names that callers give them, what such a name may be, and the documents that others
//! name, with whether they may be worked with.
//!
//! What is not there is an error of its own for each kind of thing. Nothing here asks whether a caller may
//! see it.

use strongroom_api::{self as api, Assignment, Immutability, Policy, Vault, VaultState};
use strongroom_base::{HostId, ItemId, Message, PolicyId, UserId, VaultId, message};
use strongroom_catalog::{Document, Filter, Query, ReadTx, Stored};
use strongroom_policy as rules;

use crate::{
    error::{ControlError, Result},
    model::{AssignmentDoc, HostDoc, ItemDoc, PolicyDoc, UserDoc, VaultDoc},
};

/// Cuts a name that somebody has sent, for messages.
pub(crate) fn cut(name: &str) -> String {
    name.chars().take(80).collect()
}

/// Checks a name.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if strongroom_base::check_name(name) {
        return Ok(());
    }
    let message = message!(
        REQUEST_INVALID,
        "{what} {name:?} is not 1 to 200 bytes of letters and digits of any script, spaces and \
         punctuation without '/' and '\\', beginning with neither '.', '-' nor a space",
        what,
        name = cut(name)
    );
    Err(ControlError::from(message))
}

/// Checks the name of somebody: no two may look alike, so it is of ASCII.
pub(crate) fn check_user_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= 200 && name.chars().all(good) {
        return Ok(());
    }
    let message = message!(
        REQUEST_INVALID,
        "the user's name {name:?} is not 1 to 200 letters and digits of ASCII, '.', '_' and '-', \
         starting with a letter or digit",
        name = cut(name)
    );
    Err(ControlError::from(message))
}

/// A document by its id, or by its name if it is alone with it.
async fn by_id_or_name<D: Document>(
    tx: &mut ReadTx,
    id: Option<String>,
    filter: Filter,
    name: &str,
) -> Result<Option<Stored<D>>> {
    if let Some(id) = id
        && let Some(found) = tx.get::<D>(&id).await?
    {
        return Ok(Some(found));
    }
    let found = tx.list::<D>(&Query::new(filter.eq("name", name)).limit(2)).await?.items;
    Ok(if found.len() == 1 { found.into_iter().next() } else { None })
}

/// A vault by id or name.
pub(crate) async fn find_vault(tx: &mut ReadTx, name: &str) -> Result<Stored<VaultDoc>> {
    let id = name.parse::<VaultId>().ok().map(|id| id.to_string());
    let found = by_id_or_name(tx, id, Filter::all(), name).await?;
    found.ok_or_else(|| no_vault(name))
}

/// There is no such vault.
pub(crate) fn no_vault(name: impl std::fmt::Display) -> ControlError {
    let name = cut(&name.to_string());
    ControlError::from(message!(VAULT_UNKNOWN, "there is no vault {vault:?}", vault = name))
}

/// A host by id or name.
pub(crate) async fn find_host(tx: &mut ReadTx, name: &str) -> Result<Stored<HostDoc>> {
    let id = name.parse::<HostId>().ok().map(|id| id.to_string());
    let found = by_id_or_name(tx, id, Filter::all(), name).await?;
    found.ok_or_else(|| {
        ControlError::from(message!(HOST_UNKNOWN, "there is no host {host:?}", host = cut(name)))
    })
}

/// A policy of a vault by id or name.
pub(crate) async fn find_policy(
    tx: &mut ReadTx,
    vault: VaultId,
    name: &str,
) -> Result<Stored<PolicyDoc>> {
    let id = name.parse::<PolicyId>().ok().map(|id| id.to_string());
    let filter = Filter::all().eq("vault", vault.to_string());
    let found = by_id_or_name::<PolicyDoc>(tx, id, filter, name).await?;
    found.filter(|found| found.doc.policy.vault == vault).ok_or_else(|| {
        let message =
            message!(POLICY_NOT_FOUND, "the vault has no policy {policy:?}", policy = cut(name));
        ControlError::from(message)
    })
}

/// There is no such item.
pub(crate) fn no_item(name: impl std::fmt::Display) -> ControlError {
    let name = cut(&name.to_string());
    ControlError::from(message!(ITEM_UNKNOWN, "there is no item {item:?}", item = name))
}

/// An item by id, or by its name if only one vault has it.
pub(crate) async fn find_item(tx: &mut ReadTx, name: &str) -> Result<Stored<ItemDoc>> {
    let id = name.parse::<ItemId>().ok().map(|id| id.to_string());
    let found = by_id_or_name(tx, id, Filter::all(), name).await?;
    found.ok_or_else(|| no_item(name))
}

/// A document that another names: it must be there.
pub(crate) async fn named<D: Document>(
    tx: &mut ReadTx,
    id: impl std::fmt::Display,
) -> Result<Stored<D>> {
    let id = id.to_string();
    tx.get::<D>(&id).await?.ok_or_else(|| {
        let message = message!(REQUEST_CHANGED, "{kind} {id} is gone", kind = D::KIND.table, id);
        ControlError::from(message)
    })
}

/// There is no such user.
fn no_user(name: &str) -> ControlError {
    ControlError::from(message!(USER_NOT_FOUND, "there is no user {user:?}", user = cut(name)))
}

/// A user by id or name.
pub(crate) async fn find_user(tx: &mut ReadTx, name: &str) -> Result<Stored<UserDoc>> {
    if let Ok(id) = name.parse::<UserId>()
        && let Some(found) = tx.get::<UserDoc>(&id.to_string()).await?
    {
        return Ok(found);
    }
    let by_name = Query::new(Filter::all().eq("name", name));
    tx.first::<UserDoc>(&by_name).await?.ok_or_else(|| no_user(name))
}

/// The roles of a user.
pub(crate) async fn assignments_of(tx: &mut ReadTx, user: UserId) -> Result<Vec<Assignment>> {
    let query = Query::new(Filter::all().eq("owner", user.to_string())).limit(1000);
    let found = tx.list::<AssignmentDoc>(&query).await?;
    Ok(found.items.into_iter().map(|stored| stored.doc.assignment).collect())
}

/// The vault of an item.
pub(crate) async fn vault_of(tx: &mut ReadTx, item: &api::Item) -> Result<VaultDoc> {
    Ok(named::<VaultDoc>(tx, item.vault).await?.doc)
}

/// Refuses work in a deleted vault.
pub(crate) fn check_active(vault: &Vault) -> Result<()> {
    if vault.state == VaultState::Active {
        return Ok(());
    }
    let message = message!(VAULT_SOFT_DELETED, "the vault {vault} is deleted", vault = vault.name);
    Err(ControlError::from(message))
}

/// Refuses what an immutable vault blocks.
pub(crate) fn check_mutable(vault: &Vault, what: &str) -> Result<()> {
    if vault.immutability == Immutability::Disabled {
        return Ok(());
    }
    let message = message!(
        VAULT_IMMUTABLE,
        "the vault {vault} is immutable: {what} is refused",
        vault = vault.name,
        what
    );
    Err(ControlError::from(message))
}

/// Rules that keep to all limits.
pub(crate) fn checked(of: rules::PolicyRules) -> Result<rules::Policy> {
    rules::Policy::try_from(of).map_err(|error| Message::of(&error).into())
}

/// The policy of an item, checked.
pub(crate) async fn policy_of(
    tx: &mut ReadTx,
    item: &api::Item,
) -> Result<Option<(Policy, rules::Policy)>> {
    let Some(id) = item.policy else { return Ok(None) };
    let policy = named::<PolicyDoc>(tx, id).await?.doc.policy;
    let checked = checked(policy.rules.clone())?;
    Ok(Some((policy, checked)))
}
