//! A vault whose service is lost: found, opened, and looked after from now on.
//!
//! This module owns the steps of taking a vault over. The form of the copy in the vault is the matter of `saved`.

use strongroom_api::{KeyReference, Vault, VaultCreate};
use strongroom_base::VaultId;
use strongroom_catalog::{Filter, Query};
use strongroom_orders::VaultAccess;

use crate::{
    error::Result,
    model::{ItemDoc, PointDoc, PolicyDoc, VaultDoc},
    rights::Caller,
    service::Control,
};

/// What a vault was recovered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The vault.
    pub vault: Vault,
    /// Whether the service knew it before; then nothing was changed.
    pub known: bool,
    /// Its items.
    pub items: Vec<RecoveredItem>,
    /// Its policies.
    pub policies: u64,
    /// Of when the copy of the catalog is that it was recovered from; none: the vault had none, or an
    /// old one that does not say.
    pub saved: Option<jiff::Timestamp>,
}

/// An item of a vault that was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredItem {
    /// As the service knows it.
    pub item: strongroom_api::Item,
    /// Its recovery points.
    pub recovery_points: u64,
}

impl Control {
    /// Which vault there is at a place, if the key opens it. None is made.
    pub async fn find_vault_at(&self, url: &str, key: &KeyReference) -> Result<VaultId> {
        let access = VaultAccess { url: url.to_owned(), key: key.clone() };
        let keeper = self.keeper.clone();
        Ok(Self::blocking(move || keeper.facts(&access)).await?.id)
    }

    /// Takes a vault over that another service has looked after: its items, policies and points, and the
    /// name that it had unless another is given. One that is known already stays as it is.
    pub async fn recover_vault(
        &self,
        caller: &Caller,
        url: &str,
        key: &KeyReference,
        name: Option<&str>,
    ) -> Result<Recovered> {
        let id = self.find_vault_at(url, key).await?;
        if let Some(known) = self.catalog.get::<VaultDoc>(&id.to_string()).await? {
            return self.recovered(known.doc.vault, true).await;
        }
        let access = VaultAccess { url: url.to_owned(), key: key.clone() };
        let copy = self.saved_head(&access, id).await?;
        let name = match (name, &copy) {
            (Some(name), _) => name.to_owned(),
            (None, Some(copy)) => copy.vault.vault.name.clone(),
            (None, None) => "recovered".to_owned(),
        };
        let request = VaultCreate {
            name,
            url: Some(url.to_owned()),
            redundancy: None,
            mirrors: Vec::new(),
            key: Some(key.clone()),
            soft_delete: None,
            immutability: None,
            recompress: None,
            single_writer: false,
            tags: std::collections::BTreeMap::new(),
        };
        let vault = self.create_vault(caller, request).await?.value;
        let mut done = self.recovered(vault, false).await?;
        done.saved = copy.and_then(|copy| copy.saved);
        Ok(done)
    }

    async fn recovered(&self, vault: Vault, known: bool) -> Result<Recovered> {
        in_read!(self, tx => {
            let in_vault = Filter::all().eq("vault", vault.id.to_string());
            let mut items = Vec::new();
            let mut token = None;
            loop {
                let all = Query::new(in_vault.clone()).ascending("name").limit(1000).after(token);
                let page = tx.list::<ItemDoc>(&all).await?;
                for item in page.items.into_iter().map(|stored| stored.doc.item) {
                    let of = Filter::all().eq("item", item.id.to_string());
                    let recovery_points = tx.count::<PointDoc>(&of).await?;
                    items.push(RecoveredItem { item, recovery_points });
                }
                match page.next {
                    Some(next) => token = Some(next),
                    None => break,
                }
            }
            let policies = tx.count::<PolicyDoc>(&in_vault).await?;
            Ok(Recovered { vault, known, items, policies, saved: None })
        })
    }
}
