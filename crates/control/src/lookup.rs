//! Documents by the names that callers give them, and what such a name may be.
//!
//! What is not there is an error of its own for each kind of thing. Nothing here asks whether a caller may
//! see it.

use strongroom_base::{HostId, ItemId, PolicyId, VaultId, message};
use strongroom_catalog::{Document, Filter, Query, ReadTx, Stored};

use crate::{
    error::{ControlError, Result},
    model::{HostDoc, ItemDoc, PolicyDoc, VaultDoc},
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
