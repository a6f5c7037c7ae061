//! What the service keeps of itself in each vault, sealed: the vault's settings, hosts, policies, items,
//! and of points what the vault itself does not know.
//!
//! With the store and the key a new installation knows again what was protected, by which policies,
//! and how long each point is kept.
//!
//! ```text
//!  catalog ─▶ Mark: is it what was saved? ─▶ chunks of items, named by their content ─▶ head names all
//! ```
//!
//! | module   | what it does |
//! |----------|--------------|
//! | `form`   | the bytes: head, chunks, and the single object of format 1 |
//! | `chunks` | where a chunk ends |
//! | `write`  | puts the chunks that are new, then the head, then removes what no head names |
//! | `read`   | reads a copy, takes a vault over |
//!
//! Whether there is something to save follows from the catalog alone: a [`Mark`] of what is there
//! is compared with the mark of what was saved, which is in the catalog too. So a change that was
//! made just before a crash is saved after it.

mod chunks;
mod form;
mod read;
mod write;

use std::{collections::HashMap, sync::MutexGuard};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use strongroom_api::{JobKind, JobState, VaultState};
use strongroom_base::{VaultId, lock};
use strongroom_catalog::{Document, Filter, Query, ReadTx, Stored, Tx};

pub use self::form::Saved;
use crate::{
    error::Result,
    model::{HostDoc, ItemDoc, PointDoc, PolicyDoc, SettingDoc, Spec, VaultDoc},
    service::Control,
};

/// How long after a change the catalog is saved: others may follow.
const AFTER: SignedDuration = SignedDuration::from_secs(10);

/// How often at most, however much changes.
const SELDOM: SignedDuration = SignedDuration::from_mins(1);

/// How long after a save that failed it is tried again.
const FAILED: SignedDuration = SignedDuration::from_mins(15);

/// How often at least, so that what was lost in the vault is there again.
const AT_LEAST: SignedDuration = SignedDuration::from_hours(24);

/// What distinguishes a state of a vault's part of the catalog from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// A digest of all that people change: the vault, hosts, policies, items, what is kept of points.
    kept: String,
    /// How many points there are, and when the newest was made.
    points: (u64, Option<Timestamp>),
}

/// What was saved last of a vault.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LastSave {
    mark: Mark,
    time: Timestamp,
}

fn setting_of(vault: VaultId) -> String {
    format!("saved/{vault}")
}

impl Mark {
    /// The mark of what the catalog has of a vault.
    async fn read(tx: &mut ReadTx, vault: &VaultDoc) -> Result<Self> {
        let in_vault = Filter::all().eq("vault", vault.vault.id.to_string());
        let mut digest = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            digest.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(bytes);
        };
        add(&serde_json::to_vec(vault).unwrap_or_default());
        for policy in all::<PolicyDoc>(tx, in_vault.clone()).await? {
            add(&serde_json::to_vec(&policy).unwrap_or_default());
        }
        for HostDoc { host } in all(tx, Filter::all()).await? {
            add(format!("{}\n{}\n{:?}", host.id, host.name, host.connect).as_bytes());
        }
        add(&tx.count::<ItemDoc>(&in_vault).await?.to_le_bytes());
        add(&tx.sum::<ItemDoc>("kept", &in_vault).await?.to_le_bytes());
        let newest = Query::new(in_vault.clone()).descending("time");
        let newest = tx.first::<PointDoc>(&newest).await?.map(|stored| stored.doc.point.time);
        Ok(Self {
            kept: digest.finalize().to_hex().to_string(),
            points: (tx.count::<PointDoc>(&in_vault).await?, newest),
        })
    }
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

/// Which vaults have changes that are not saved, as they were seen last.
#[derive(Debug, Default)]
pub(crate) struct Unsaved {
    /// What the catalog counted of its changes then; none: nobody has looked yet.
    seen: Option<u64>,
    /// Since when each of these is known to have some.
    since: HashMap<VaultId, Timestamp>,
}

impl Control {
    fn unsaved(&self) -> MutexGuard<'_, Unsaved> {
        lock(&self.unsaved)
    }

    /// Whether a vault's part of the catalog is others than what was saved, and when that was.
    async fn is_changed(
        &self,
        vault: &VaultDoc,
        same: impl Fn(&Mark, &Mark) -> bool,
    ) -> Result<(bool, Option<Timestamp>)> {
        in_read!(self, tx => {
            let last: Option<LastSave> = Self::setting(tx, &setting_of(vault.vault.id)).await?;
            let now = Mark::read(tx, vault).await?;
            Ok((last.as_ref().is_none_or(|last| !same(&last.mark, &now)), last.map(|it| it.time)))
        })
    }

    /// Begins to save the catalog in the vaults whose part of it somebody has changed.
    pub(crate) async fn save_unsaved(&self) -> Result<()> {
        if self.settings.save_every_minutes == 0 {
            return Ok(());
        }
        let now = self.now();
        let kinds =
            [VaultDoc::KIND, HostDoc::KIND, PolicyDoc::KIND, ItemDoc::KIND, SettingDoc::KIND];
        let changes = self.catalog.changes(&kinds);
        if self.unsaved().seen != Some(changes) {
            for Stored { doc, .. } in self.active_vaults().await? {
                let (changed, _) = self.is_changed(&doc, |a, b| a.kept == b.kept).await?;
                let since = &mut self.unsaved().since;
                if changed {
                    since.entry(doc.vault.id).or_insert(now);
                } else {
                    since.remove(&doc.vault.id);
                }
            }
            self.unsaved().seen = Some(changes);
        }
        let ripe = |at: &Timestamp| now.duration_since(*at).abs() >= AFTER;
        let due: Vec<VaultId> = self
            .unsaved()
            .since
            .iter()
            .filter(|(_, at)| ripe(at))
            .map(|(vault, _)| *vault)
            .collect();
        for id in due {
            let last = self.last_job_of(JobKind::SaveCatalog, id).await?;
            let rest = |job: &strongroom_api::Job| {
                if job.state == JobState::Failed { FAILED } else { SELDOM }
            };
            if last.is_some_and(|job| now.duration_since(job.created).abs() < rest(&job)) {
                continue;
            }
            match self.active_vault(id).await? {
                Some(VaultDoc { vault, .. }) => {
                    let spec = Spec::SaveCatalog { vault: id };
                    self.begin_once(JobKind::SaveCatalog, &vault, spec).await?;
                }
                None => drop(self.unsaved().since.remove(&id)),
            }
        }
        Ok(())
    }

    async fn active_vaults(&self) -> Result<Vec<Stored<VaultDoc>>> {
        let active = Filter::all().eq("state", VaultState::Active.name());
        Ok(self.catalog.list::<VaultDoc>(&Query::new(active).limit(1000)).await?.items)
    }

    /// Whether the hourly save has something to do in a vault.
    pub(crate) async fn is_to_be_saved(&self, vault: &VaultDoc) -> Result<bool> {
        let (changed, last) = self.is_changed(vault, |a, b| a == b).await?;
        Ok(changed || last.is_none_or(|last| self.now().duration_since(last) >= AT_LEAST))
    }

    /// Writes down that a vault has what is marked.
    async fn set_saved(&self, tx: &mut Tx, vault: VaultId, mark: Mark) -> Result<()> {
        Self::set(tx, &setting_of(vault), &LastSave { mark, time: self.now() }).await
    }
}
