//! Figures: how many there are of everything, in one look at the catalog.
//!
//! For monitoring. It names vaults, never items or people, so that what is shown
//! stays small and may be seen by those who may see nothing else.
//!
//! This module owns the counts. It must not know how metrics are named or shown.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{AlertState, JobKind, JobState, PointState, ProtectionState};
use strongroom_base::{VaultId, lock};
use strongroom_catalog::{Document as _, Filter, Query, ReadTx, Stored, Value};

use crate::{
    alerts::Rule,
    error::Result,
    jobs::service::open_jobs,
    model::{AlertDoc, ItemDoc, JobDoc, PointDoc, UsageDoc, VaultDoc},
    service::Control,
};

/// How many there are of everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// The vaults.
    pub vaults: Vec<VaultFigures>,
    /// Jobs that wait or run.
    pub jobs: BTreeMap<(JobKind, JobState), u64>,
    /// Since when the oldest job waits that could run.
    pub waiting_since: Option<Timestamp>,
    /// Items whose next backup should have begun.
    pub overdue: u64,
    /// When that of the latest should have.
    pub overdue_since: Option<Timestamp>,
    /// Items whose newest restorable point is older than their policy promises.
    pub behind: u64,
    /// Items that have no policy.
    pub unscheduled: u64,
    /// Alerts that hold and that nobody has acknowledged, by severity.
    pub alerts: BTreeMap<String, u64>,
}

/// How much there is in a vault.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VaultFigures {
    /// Its name.
    pub name: String,
    /// Its items, by state of protection.
    pub items: BTreeMap<String, u64>,
    /// Those whose last backup failed.
    pub failing: u64,
    /// Its recovery points, by state.
    pub points: BTreeMap<String, u64>,
    /// When the newest good one was made.
    pub newest_point: Option<Timestamp>,
    /// The last good backup of the item that has waited longest for one.
    pub stalest_item: Option<Timestamp>,
    /// What it held when it was measured last.
    pub stored_bytes: Option<u64>,
    /// What nobody needed of that.
    pub reclaimable_bytes: Option<u64>,
    /// When that was.
    pub measured: Option<Timestamp>,
    /// When its structure was verified last.
    pub verified: Option<Timestamp>,
    /// When all of its packs had been read last.
    pub whole: Option<Timestamp>,
}

/// States of items that are backed up.
const BACKED_UP: [ProtectionState; 3] =
    [ProtectionState::Protected, ProtectionState::ProtectionError, ProtectionState::SourceMissing];

/// Items that are backed up, but not by themselves.
pub(crate) fn unscheduled(filter: Filter) -> Filter {
    let active = [ProtectionState::InitialBackupPending].into_iter().chain(BACKED_UP);
    let active = active.map(ProtectionState::name);
    filter.one_of("state", active).is_null("policy")
}

impl Figures {
    /// Counts a job that waits or runs.
    fn count(&mut self, job: &strongroom_api::Job, now: Timestamp) {
        let count = self.jobs.entry((job.kind, job.state)).or_default();
        *count = count.saturating_add(1);
        let since = job.not_before.unwrap_or(job.created).max(job.created);
        if job.state == JobState::Queued && since <= now {
            self.waiting_since = Some(self.waiting_since.map_or(since, |it| it.min(since)));
        }
    }
}

impl Control {
    /// How many there are of everything.
    pub async fn figures(&self) -> Result<Figures> {
        let now = self.now();
        in_read!(self, tx => {
            let mut found = Figures::default();
            let mut token = None;
            loop {
                let page = tx.list::<JobDoc>(&open_jobs().after(token)).await?;
                for job in page.items.into_iter().map(|stored| stored.doc.job) {
                    found.count(&job, now);
                }
                match page.next {
                    Some(next) => token = Some(next),
                    None => break,
                }
            }
            let overdue = Filter::all().lt("next_backup", now).is_null("job");
            found.overdue = tx.count::<ItemDoc>(&overdue).await?;
            let latest = Query::new(overdue).ascending("next_backup").limit(1);
            found.overdue_since =
                tx.first::<ItemDoc>(&latest).await?.and_then(|stored| stored.doc.item.next_backup);
            let behind = Filter::all().eq("rule", Rule::RpoMissed.name()).not_null("key");
            found.behind = tx.count::<AlertDoc>(&behind).await?;
            found.unscheduled = tx.count::<ItemDoc>(&unscheduled(Filter::all())).await?;
            let firing = Filter::all().eq("state", AlertState::Firing.name());
            found.alerts = words(tx.count_by::<AlertDoc>("severity", &firing).await?);
            let vaults = Query::default().ascending("name").limit(1000);
            for Stored { doc: VaultDoc { vault, .. }, .. } in tx.list::<VaultDoc>(&vaults).await?.items {
                let points = self.point_figures(tx, vault.id).await?;
                found.vaults.push(vault_figures(tx, vault.id, vault.name, points).await?);
            }
            Ok(found)
        })
    }
}

/// The recovery points of a vault, by state, and when the newest good one was made.
#[derive(Clone, Debug)]
pub(crate) struct PointFigures {
    points: BTreeMap<String, u64>,
    newest: Option<Timestamp>,
    /// What the catalog had counted of changes of points, and when.
    counted: (u64, Timestamp),
}

/// How long figures of points are good enough while points change: counting goes over all of them.
const COUNTED: SignedDuration = SignedDuration::from_mins(1);

/// How long they are good enough while this server changes none.
const ANYWAY: SignedDuration = SignedDuration::from_mins(10);

impl Control {
    /// The points of a vault, counted again only if they may have changed.
    async fn point_figures(&self, tx: &mut ReadTx, vault: VaultId) -> Result<PointFigures> {
        let now = (self.catalog.changes(&[PointDoc::KIND]), self.now());
        let known = || lock(&self.points);
        if let Some(found) = known().get(&vault).cloned() {
            let age = now.1.duration_since(found.counted.1).abs();
            if age < COUNTED || (found.counted.0 == now.0 && age < ANYWAY) {
                return Ok(found);
            }
        }
        let all = Filter::all().eq("vault", vault.to_string());
        let good = all.clone().eq("state", PointState::Restorable.name());
        let newest = Query::new(good).descending("time").limit(1);
        let newest = tx.first::<PointDoc>(&newest).await?;
        let found = PointFigures {
            points: words(tx.count_by::<PointDoc>("state", &all).await?),
            newest: newest.map(|stored| stored.doc.point.time),
            counted: now,
        };
        known().insert(vault, found.clone());
        Ok(found)
    }
}

async fn vault_figures(
    tx: &mut ReadTx,
    id: VaultId,
    name: String,
    points: PointFigures,
) -> Result<VaultFigures> {
    let all = || Filter::all().eq("vault", id.to_string());
    let verified = Control::verified(tx, id).await?.unwrap_or_default();
    let backed_up =
        all().one_of("state", BACKED_UP.map(ProtectionState::name)).not_null("last_backup");
    let stalest = Query::new(backed_up).ascending("last_backup").limit(1);
    let stalest = tx.first::<ItemDoc>(&stalest).await?;
    let usage = Query::new(all()).descending("measured").limit(1);
    let usage = tx.first::<UsageDoc>(&usage).await?.map(|stored| stored.doc.usage);
    Ok(VaultFigures {
        name,
        items: words(tx.count_by::<ItemDoc>("state", &all()).await?),
        failing: tx.count::<ItemDoc>(&all().gt("failures", 0_i64)).await?,
        points: points.points,
        newest_point: points.newest,
        stalest_item: stalest.and_then(|stored| stored.doc.item.last_backup),
        stored_bytes: usage.as_ref().map(|usage| usage.stored_bytes),
        reclaimable_bytes: usage.as_ref().map(|usage| usage.reclaimable_bytes),
        measured: usage.map(|usage| usage.measured),
        verified: verified.structure,
        whole: verified.whole,
    })
}

fn words(counts: Vec<(Value, u64)>) -> BTreeMap<String, u64> {
    let word = |value: Value| value.as_text().unwrap_or_default().to_owned();
    counts.into_iter().map(|(value, count)| (word(value), count)).collect()
}
