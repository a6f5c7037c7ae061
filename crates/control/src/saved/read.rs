//! Reads a copy of the catalog, and takes over the vault that it was found in.

use std::collections::{BTreeMap, HashMap, HashSet};

use strongroom_api::{PointState, Trigger};
use strongroom_base::{HostId, VaultId};
use strongroom_catalog::{Filter, Query, Tx};
use strongroom_orders::{PointFacts, VaultAccess};

use super::form::{KeptPoint, NAME, Saved, parse_chunk, parse_head};
use crate::{
    error::Result,
    model::{HostDoc, ItemDoc, PointDoc, VaultDoc},
    points::point_doc,
    service::Control,
};

/// What is in a vault that is taken over.
pub(crate) struct Found {
    /// What a service has kept there of itself, if one has.
    pub(crate) saved: Option<Saved>,
    /// The recovery points, oldest first.
    points: Vec<PointFacts>,
}

impl Control {
    /// Looks what is in a vault that is taken over.
    pub(crate) async fn look_into(&self, vault: &VaultDoc) -> Result<Found> {
        let (keeper, access) = (self.keeper.clone(), vault.access());
        let points = Self::blocking(move || {
            let (points, damaged) = keeper.points(&access, None)?;
            for error in damaged {
                tracing::warn!(
                    code = error.code.as_str(),
                    message = error.message,
                    "a recovery point is damaged"
                );
            }
            Ok(points)
        })
        .await?;
        Ok(Found { saved: self.saved_in(&vault.access(), vault.vault.id).await?, points })
    }

    /// The head of the copy that a service has kept in a vault, if one has.
    pub(crate) async fn saved_head(
        &self,
        access: &VaultAccess,
        vault: VaultId,
    ) -> Result<Option<Saved>> {
        let (keeper, at) = (self.keeper.clone(), access.clone());
        let bytes = Self::blocking(move || {
            let kept = keeper.saved(&at)?.iter().any(|object| object.name == NAME);
            if kept { keeper.load(&at, NAME).map(Some) } else { Ok(None) }
        });
        bytes.await?.map(|bytes| parse_head(&bytes, vault)).transpose()
    }

    /// What a service has kept of itself in a vault, if one has.
    pub(crate) async fn saved_in(
        &self,
        access: &VaultAccess,
        vault: VaultId,
    ) -> Result<Option<Saved>> {
        let Some(mut saved) = self.saved_head(access, vault).await? else { return Ok(None) };
        for name in std::mem::take(&mut saved.chunks) {
            let (keeper, at, asked) = (self.keeper.clone(), access.clone(), name.clone());
            let chunk = match Self::blocking(move || keeper.load(&at, &asked)).await {
                Ok(bytes) => parse_chunk(&bytes, &name),
                // What cannot be reached now is no reason to continue without it.
                Err(error) if error.retryable => return Err(error.into()),
                Err(error) => Err(error.into()),
            };
            match chunk {
                Ok(chunk) => {
                    saved.items.extend(chunk.items);
                    saved.points.extend(chunk.points);
                }
                Err(error) => {
                    let body = error.body();
                    tracing::warn!(
                        code = body.code.as_str(),
                        error = body.message,
                        name,
                        "a part of the catalog's copy is lost"
                    );
                    saved.lost = saved.lost.saturating_add(1);
                }
            }
        }
        Ok(Some(saved))
    }

    /// Makes known what is in a vault: items, policies and points as they were kept, and whatever
    /// points there are besides. Of a point, the vault says whether it exists; what was kept says
    /// how long it is wanted.
    pub(crate) async fn take_over(
        &self,
        tx: &mut Tx,
        vault: &VaultDoc,
        found: &Found,
    ) -> Result<()> {
        let mut hosts: HashMap<HostId, HostId> = HashMap::new();
        let (mut policies, mut items, mut kept) = (Vec::new(), Vec::new(), HashMap::new());
        if let Some(saved) = &found.saved {
            for doc in &saved.hosts {
                hosts.insert(doc.host.id, known_host(tx, doc).await?);
            }
            policies.clone_from(&saved.policies);
            items.clone_from(&saved.items);
            kept.extend(saved.points.iter().map(|point| ((point.item, point.id), point.clone())));
        }
        if policies.is_empty() {
            policies.push(self.default_policy(vault.vault.id));
        }
        for policy in &policies {
            tx.insert(policy).await?;
        }
        let any_host = tx.first::<HostDoc>(&Query::default().ascending("name")).await?;
        let any_host = any_host.map_or(HostId::from_bytes([0; 16]), |host| host.doc.host.id);
        let mut by_item: BTreeMap<&str, Vec<&PointFacts>> = BTreeMap::new();
        for point in &found.points {
            by_item.entry(point.item.as_str()).or_default().push(point);
        }
        let names: HashSet<String> = items.iter().map(|doc| doc.item.name.clone()).collect();
        for name in by_item.keys().filter(|name| !names.contains(**name)) {
            items.push(self.found_item(&vault.vault, any_host, name));
        }
        for mut doc in items {
            doc.item.job = None;
            doc.retention.judge_at = None;
            // It was read a moment before the policies.
            if doc.item.policy.is_some_and(|id| policies.iter().all(|it| it.policy.id != id)) {
                doc.item.policy = policies.first().map(|it| it.policy.id);
            }
            doc.item.host = hosts.get(&doc.item.host).copied().unwrap_or(doc.item.host);
            let points = by_item.remove(doc.item.name.as_str()).unwrap_or_default();
            doc.item.last_point = points.last().map(|point| point.id);
            doc.item.last_backup = points.last().map(|point| point.time);
            tx.insert(&doc).await?;
            for facts in points {
                tx.insert(&point_again(&doc, facts, kept.remove(&(doc.item.id, facts.id)))).await?;
            }
        }
        Ok(())
    }
}

/// The host of a name: that which is known here, or the one that was kept.
async fn known_host(tx: &mut Tx, doc: &HostDoc) -> Result<HostId> {
    if tx.get::<HostDoc>(&doc.host.id.to_string()).await?.is_some() {
        return Ok(doc.host.id);
    }
    let same = Query::new(Filter::all().eq("name", doc.host.name.as_str()));
    if let Some(here) = tx.first::<HostDoc>(&same).await? {
        return Ok(here.doc.host.id);
    }
    let mut doc = doc.clone();
    // A snapshot vault must be chosen again: the copy does not name one.
    doc.host.snapshot_vault = None;
    // Nobody here has asked it anything.
    doc.host.state = strongroom_api::HostState::New;
    (doc.host.seen, doc.host.error) = (None, None);
    tx.insert(&doc).await?;
    Ok(doc.host.id)
}

/// A point as it is in the vault, with what was kept of it.
fn point_again(item: &ItemDoc, facts: &PointFacts, kept: Option<KeptPoint>) -> PointDoc {
    let mut doc = point_doc(&item.item, facts, PointState::Restorable, Trigger::OnDemand, None);
    match kept {
        Some(kept) => kept.give(&mut doc),
        None => doc.point.notes.push("It was found in the vault.".to_owned()),
    }
    doc
}
