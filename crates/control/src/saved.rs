//! What the service keeps of itself in each vault, sealed: items, policies, points, their settings.
//!
//! With the store and the key a new installation knows again what was protected, by which policies,
//! and how long each point is kept.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::PoisonError,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use strongroom_agent::{PointFacts, VaultAccess};
use strongroom_api::{JobKind, PointState, Trigger, VaultState};
use strongroom_base::{HostId, PointId, VaultId, codes};
use strongroom_catalog::{Document, Filter, Query, ReadTx, Stored, Tx};

use crate::{
    error::{ControlError, Result},
    model::{HostDoc, ItemDoc, PointDoc, PolicyDoc, Spec, VaultDoc},
    points::point_doc,
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

/// How long after a change the catalog is kept: others may follow.
const AFTER: SignedDuration = SignedDuration::from_secs(10);

/// How often at most, however much changes.
const SELDOM: SignedDuration = SignedDuration::from_mins(1);

impl Control {
    /// Items or policies of a vault have changed, or will in a moment.
    pub(crate) fn is_unsaved(&self, vault: VaultId) {
        let now = self.now();
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).insert(vault, now);
    }

    /// Begins to keep the catalog in the vaults whose part of it has changed.
    pub(crate) async fn save_unsaved(&self) -> Result<()> {
        if self.settings.save_every_minutes == 0 {
            return Ok(());
        }
        let now = self.now();
        let marks = || self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        let ripe = |at: &Timestamp| now.duration_since(*at).abs() >= AFTER;
        let due: Vec<VaultId> =
            marks().iter().filter(|(_, at)| ripe(at)).map(|(vault, _)| *vault).collect();
        for id in due {
            let last = self.last_of(JobKind::SaveCatalog, id).await?;
            if last.is_some_and(|last| now.duration_since(last).abs() < SELDOM) {
                continue;
            }
            marks().remove(&id);
            let found = self.catalog.get::<VaultDoc>(&id.to_string()).await?;
            if let Some(Stored { doc: VaultDoc { vault, .. }, .. }) = found
                && vault.state == VaultState::Active
                && !self
                    .begin_once(JobKind::SaveCatalog, &vault, Spec::SaveCatalog { vault: id })
                    .await?
            {
                // One is at work, which may have read before the change.
                self.is_unsaved(id);
            }
        }
        Ok(())
    }

    /// What is to be kept in a vault, as bytes.
    pub(crate) async fn snapshot_for(
        &self,
        vault: &VaultDoc,
    ) -> Result<Vec<u8>, Box<strongroom_api::ErrorBody>> {
        let read = read!(self, tx => { Saved::read(tx, vault.clone()).await });
        let saved = read?;
        serde_json::to_vec(&saved).map_err(|error| {
            let code = &codes::BUG;
            Box::new(strongroom_api::ErrorBody::new(code, error.to_string()))
        })
    }
}

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
                    code = error.code,
                    message = error.message,
                    "a recovery point is damaged"
                );
            }
            Ok(points)
        })
        .await?;
        Ok(Found { saved: self.saved_in(&vault.access(), vault.vault.id).await?, points })
    }

    /// What a service has kept of itself in a vault, if one has.
    pub(crate) async fn saved_in(
        &self,
        access: &VaultAccess,
        vault: VaultId,
    ) -> Result<Option<Saved>> {
        let (keeper, access) = (self.keeper.clone(), access.clone());
        let bytes = Self::blocking(move || {
            let kept = keeper.saved(&access)?.iter().any(|object| object.name == NAME);
            if kept { keeper.load(&access, NAME).map(Some) } else { Ok(None) }
        });
        bytes.await?.map(|bytes| read_saved(&bytes, vault)).transpose()
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
            kept.extend(saved.points.iter().map(|doc| (doc.point.id, doc.clone())));
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
            doc.item.host = hosts.get(&doc.item.host).copied().unwrap_or(doc.item.host);
            let points = by_item.remove(doc.item.name.as_str()).unwrap_or_default();
            doc.item.last_point = points.last().map(|point| point.id);
            doc.item.last_backup = points.last().map(|point| point.time);
            tx.insert(&doc).await?;
            for facts in points {
                tx.insert(&point_again(&doc, facts, kept.remove(&facts.id))).await?;
            }
        }
        Ok(())
    }
}

fn read_saved(bytes: &[u8], vault: VaultId) -> Result<Saved> {
    let damaged = |what: String| {
        let message = format!("what the service has kept of itself in the vault: {what}");
        ControlError::refused(&codes::CATALOG_CORRUPT, message)
    };
    let saved: Saved = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if saved.format != FORMAT {
        return Err(ControlError::refused(
            &codes::CATALOG_SCHEMA,
            format!("it was kept in format {}; this program reads {FORMAT}", saved.format),
        ));
    }
    if saved.vault.vault.id != vault {
        return Err(damaged("it is of another vault".to_owned()));
    }
    Ok(saved)
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
    // A vault near its disks is to be chosen anew: of that one nobody knows.
    doc.host.snapshot_vault = None;
    // Nobody here has asked it anything.
    doc.host.state = strongroom_api::HostState::New;
    (doc.host.seen, doc.host.error) = (None, None);
    tx.insert(&doc).await?;
    Ok(doc.host.id)
}

/// A point as it is in the vault, with what was kept of it.
fn point_again(item: &ItemDoc, facts: &PointFacts, kept: Option<PointDoc>) -> PointDoc {
    let id: PointId = facts.id;
    let mut doc = kept.unwrap_or_else(|| {
        let mut doc = point_doc(&item.item, facts, PointState::Restorable, Trigger::OnDemand, None);
        doc.point.notes.push("It was found in the vault.".to_owned());
        doc
    });
    // What was near the source is there no more, as far as anybody knows.
    doc.forget_snapshot();
    doc.point.id = id;
    doc.point.item = item.item.id;
    // What was being validated when it was kept is in the vault, and complete.
    if doc.point.state == PointState::Pending {
        doc.point.state = PointState::Restorable;
    }
    doc
}
