//! What the service keeps of itself in each vault, sealed: items, policies, points, their settings.
//!
//! With the store and the key a new installation knows again what was protected, by which policies,
//! and how long each point is kept.

use serde::{Deserialize, Serialize};
use strongroom_base::VaultId;
use strongroom_catalog::{Document, Filter, Query, ReadTx};

use crate::{
    error::Result,
    model::{HostDoc, ItemDoc, PointDoc, PolicyDoc, VaultDoc},
    service::Control,
};

/// The name under which it is kept.
pub(crate) const NAME: &str = "catalog";

/// Version of what is kept.
const FORMAT: u16 = 1;

/// What is kept of the catalog in a vault.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    /// Version of this structure.
    pub format: u16,
    /// The program that wrote it.
    pub software: String,
    /// The vault.
    pub vault: VaultDoc,
    /// Hosts of its items.
    pub hosts: Vec<HostDoc>,
    /// Its policies.
    pub policies: Vec<PolicyDoc>,
    /// Its items.
    pub items: Vec<ItemDoc>,
    /// Their points.
    pub points: Vec<PointDoc>,
}

async fn all<D: Document>(tx: &mut ReadTx, filter: Filter) -> Result<Vec<D>> {
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let query = Query::new(filter.clone()).limit(1000).after(token);
        let page = tx.list::<D>(&query).await?;
        found.extend(page.items.into_iter().map(|stored| stored.doc));
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(found),
        }
    }
}

impl Saved {
    async fn read(tx: &mut ReadTx, vault: VaultDoc) -> Result<Self> {
        let id: VaultId = vault.vault.id;
        let in_vault = Filter::all().eq("vault", id.to_string());
        let items: Vec<ItemDoc> = all(tx, in_vault.clone()).await?;
        let mut hosts: Vec<HostDoc> = all(tx, Filter::all()).await?;
        hosts.retain(|doc| items.iter().any(|item| item.item.host == doc.host.id));
        Ok(Self {
            format: FORMAT,
            software: format!("strongroom {}", env!("CARGO_PKG_VERSION")),
            hosts,
            policies: all(tx, in_vault.clone()).await?,
            points: all(tx, in_vault).await?,
            items,
            vault,
        })
    }
}

impl Control {
    /// What is to be kept in a vault, as bytes.
    pub(crate) async fn snapshot_for(
        &self,
        vault: &VaultDoc,
    ) -> Result<Vec<u8>, Box<strongroom_api::ErrorBody>> {
        let read = read!(self, tx => { Saved::read(tx, vault.clone()).await });
        let saved = read?;
        serde_json::to_vec(&saved).map_err(|error| {
            let code = &strongroom_base::codes::BUG;
            Box::new(strongroom_api::ErrorBody::new(code, error.to_string()))
        })
    }
}
