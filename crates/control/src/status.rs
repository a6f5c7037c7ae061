//! Everything on one screen, and what vaults hold and cost.
//!
//! This module owns the overview that the API answers. It only reads.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::json;
use strongroom_api::{
    self as api, AlertState, FailingItem, JobKind, JobState, KeyReference, Status, Trigger,
    VaultStatus, VaultUsage,
};
use strongroom_base::{JobId, message};
use strongroom_catalog::{Document, Filter, Query, ReadTx, Stored, Value};

use crate::{
    access::seen::seen,
    audit,
    error::{ControlError, Result},
    figures::unscheduled,
    lookup::{check_active, find_vault, no_vault},
    model::{AlertDoc, HostDoc, ItemDoc, JobDoc, PointDoc, Spec, UsageDoc, VaultDoc},
    rights::{Caller, Operation, Sight, Target, not_allowed},
    service::Control,
};

/// Failing items that are listed.
const FAILING: usize = 20;

async fn count_by<D: Document>(
    tx: &mut ReadTx,
    column: &str,
    filter: &Filter,
) -> Result<BTreeMap<String, u64>> {
    let counts = tx.count_by::<D>(column, filter).await?;
    let word = |value: Value| value.as_text().unwrap_or_default().to_owned();
    Ok(counts.into_iter().map(|(value, count)| (word(value), count)).collect())
}

impl Control {
    /// How things are, as far as the caller sees them.
    pub async fn status(&self, caller: &Caller) -> Result<Status> {
        let now = self.now();
        let sight = caller.sight();
        let day = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now);
        let all_seen = sight == Sight::All;
        let (in_sight, jobs_seen) = (seen::<ItemDoc>(&sight), seen::<JobDoc>(&sight));
        let hosts = match caller.hosts() {
            None => Filter::all(),
            Some(hosts) => Filter::all().one_of("id", hosts.iter().map(ToString::to_string)),
        };
        let mut status = in_read!(self, tx => {
            let items = count_by::<ItemDoc>(tx, "state", &in_sight).await?;
            // What the service does for itself is no answer to how backups go.
            let recent = jobs_seen.clone().ge("created", day).ne("triggered", "system");
            let next = Query::new(in_sight.clone().not_null("next_backup"));
            let next = tx.first::<ItemDoc>(&next.ascending("next_backup")).await?;
            let next = next.and_then(|Stored { doc: ItemDoc { item, .. }, .. }| {
                Some(api::NextBackup { time: item.next_backup?, item: item.name })
            });
            let jobs = count_by::<JobDoc>(tx, "state", &recent).await?;
            let running = jobs_seen.clone().one_of("state", [JobState::InProgress, JobState::Cancelling].map(JobState::name));
            let queued = jobs_seen.clone().eq("state", JobState::Queued.name());
            let failing = Query::new(in_sight.clone().gt("failures", 0_i64))
                .descending("failures")
                .limit(FAILING);
            let failing = tx.list::<ItemDoc>(&failing).await?.items;
            let firing = seen::<AlertDoc>(&sight).eq("state", AlertState::Firing.name());
            let open = Query::new(in_sight.clone().not_null("replaced")).limit(FAILING);
            let open = tx.list::<ItemDoc>(&open.ascending("replaced")).await?.items;
            let open = open.into_iter().filter_map(|Stored { doc: ItemDoc { item, .. }, .. }| {
                Some(api::OpenRestore { replaced: item.replaced?, item: item.name })
            });
            Ok(Status {
                time: now,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_seconds: u64::try_from(now.duration_since(self.started).as_secs()).unwrap_or(0),
                items,
                jobs_24_hours: jobs,
                next_backup: next,
                open_restores: open.collect(),
                jobs_running: tx.count::<JobDoc>(&running).await?,
                jobs_queued: tx.count::<JobDoc>(&queued).await?,
                failing: failing.into_iter().map(|stored| failing_item(stored.doc)).collect(),
                behind: self.behind_items(tx, &sight, FAILING).await?,
                unscheduled: tx.count::<ItemDoc>(&unscheduled(in_sight.clone())).await?,
                alerts: count_by::<AlertDoc>(tx, "severity", &firing).await?,
                vaults: Vec::new(),
                hosts: count_by::<HostDoc>(tx, "state", &hosts).await?,
                server: if all_seen { self.silent_channels(tx).await? } else { Vec::new() },
            })
        })?;
        status.vaults = self.vault_statuses(&sight).await?;
        if let Some(ahead) = self.clock_is_ahead().filter(|_| all_seen) {
            status.server.push(crate::alerts::clock_is_ahead(ahead).into());
        }
        Ok(status)
    }

    async fn vault_statuses(&self, sight: &Sight) -> Result<Vec<VaultStatus>> {
        let query = Query::default().ascending("name").limit(1000);
        let mut found = Vec::new();
        for Stored { doc, .. } in self.catalog.list::<VaultDoc>(&query).await?.items {
            if !sight.has(Some(doc.vault.id), None) {
                continue;
            }
            let in_vault = Filter::all().eq("vault", doc.vault.id.to_string());
            // Until it is measured, its backups know what they have added.
            let added = async |tx: &mut ReadTx, usage: &Option<Stored<UsageDoc>>| match usage {
                Some(stored) => Ok::<_, ControlError>(stored.doc.usage.stored_bytes),
                None => Ok(tx.sum::<PointDoc>("stored_bytes", &in_vault).await?.unsigned_abs()),
            };
            let (items, recovery_points, stored, verified) = in_read!(self, tx => {
                let newest = Query::new(in_vault.clone()).descending("measured").limit(1);
                let usage = tx.first::<UsageDoc>(&newest).await?;
                let stored = added(tx, &usage).await?;
                Ok((
                    tx.count::<ItemDoc>(&in_vault).await?,
                    tx.count::<PointDoc>(&in_vault).await?,
                    stored,
                    Self::verified(tx, doc.vault.id).await?,
                ))
            })?;
            let (keeper, access) = (self.keeper.clone(), doc.access());
            let facts = Self::blocking(move || keeper.facts(&access)).await;
            found.push(VaultStatus {
                id: doc.vault.id,
                name: doc.vault.name,
                url: doc.vault.url,
                items,
                recovery_points,
                stored_bytes: Some(stored),
                verified,
                free_bytes: facts.as_ref().ok().and_then(|facts| facts.free_bytes),
                error: facts.err().map(|error| *error),
            });
        }
        Ok(found)
    }

    /// What a vault held when it was measured last, and how it grows.
    pub async fn usage(&self, caller: &Caller, vault: &str) -> Result<VaultUsage> {
        let vault = self.vault(caller, vault).await?.value;
        let filter = Filter::all().eq("vault", vault.id.to_string());
        let query = Query::new(filter).descending("measured").limit(60);
        let found = self.catalog.list::<UsageDoc>(&query).await?.items;
        let mut all = found.into_iter().map(|stored| stored.doc.usage);
        let Some(mut usage) = all.next() else {
            let message = message!(
                REQUEST_NOT_FOUND,
                "the vault {vault} was not measured yet",
                vault = vault.name
            );
            return Err(ControlError::from(message));
        };
        let month = SignedDuration::from_hours(24 * 30);
        let oldest = all.take_while(|old| usage.measured.duration_since(old.measured) <= month);
        if let Some(old) = oldest.last() {
            forecast(&mut usage, &old);
        }
        Ok(usage)
    }

    /// Begins a piece of housekeeping in a vault: reclaim, verification of all of it, measurement, a copy
    /// of the catalog.
    pub async fn begin_in_vault(
        &self,
        caller: &Caller,
        vault: &str,
        kind: JobKind,
    ) -> Result<JobId> {
        let operation = match kind {
            JobKind::Reclaim => Operation::Reclaim,
            JobKind::Verify => Operation::VerifyVault,
            JobKind::SaveCatalog => Operation::SaveCatalog,
            _ => Operation::MeasureUsage,
        };
        let spec = |vault| match kind {
            JobKind::Reclaim => Spec::Reclaim { vault },
            JobKind::Verify => Spec::Verify { vault, all: true },
            JobKind::SaveCatalog => Spec::SaveCatalog { vault },
            _ => Spec::Measure { vault },
        };
        self.begin_vault_job(caller, vault, operation, spec).await
    }

    /// Begins to change a vault's key.
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        vault: &str,
        key: Option<KeyReference>,
    ) -> Result<JobId> {
        if let Some(key) = &key
            && !caller.is_system()
        {
            // A caller who may not rotate the key gets that error and no other.
            let place = self.vault(caller, vault).await?.value.id;
            self.check(caller, Operation::RotateKey, Target::Vault(place), || no_vault(vault))?;
            let checked = self.places.check_key(key);
            checked.map_err(|no| not_allowed(Some(caller), &no))?;
        }
        let spec = |vault| Spec::RotateKey { vault, key };
        self.begin_vault_job(caller, vault, Operation::RotateKey, spec).await
    }

    async fn begin_vault_job(
        &self,
        caller: &Caller,
        vault: &str,
        operation: Operation,
        spec: impl FnOnce(strongroom_base::VaultId) -> Spec,
    ) -> Result<JobId> {
        let begun = in_write!(self, tx => {
            let place = find_vault(tx, vault).await?.doc.vault;
            let target = Target::Vault(place.id);
            self.check(caller, operation, target, || no_vault(vault))?;
            check_active(&place)?;
            let job = self.new_job(spec(place.id), &place.name, Trigger::OnDemand, &caller.name);
            let open = Filter::all()
                .eq("kind", job.job.kind.name())
                .eq("vault", place.id.to_string())
                .is_null("ended");
            if let Some(same) = tx.first::<JobDoc>(&Query::new(open)).await? {
                // It is being done already.
                return Ok(same.doc.job.id);
            }
            let begun = self.begin(tx, job).await?;
            audit::record(tx, caller, operation, &place.name, json!({ "job": begun })).await?;
            Ok(begun)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }
}

fn failing_item(doc: ItemDoc) -> FailingItem {
    let item = doc.item;
    FailingItem {
        item: item.id,
        name: item.name,
        vault: item.vault,
        state: item.state,
        failures: item.failures,
        last_backup: item.last_backup,
        error: item.error,
        job: item.job,
    }
}

/// How a vault grows: a straight line through two measurements.
fn forecast(usage: &mut VaultUsage, old: &VaultUsage) {
    let hours = usage.measured.duration_since(old.measured).as_hours();
    let grown = i128::from(usage.stored_bytes).saturating_sub(i128::from(old.stored_bytes));
    if hours <= 0 {
        return;
    }
    let per_day = grown.saturating_mul(24).checked_div(i128::from(hours)).unwrap_or(0);
    let later = i128::from(usage.stored_bytes).saturating_add(per_day.saturating_mul(30)).max(0);
    usage.growth_bytes_per_day = i64::try_from(per_day).ok();
    usage.forecast_bytes_30_days = u64::try_from(later).ok();
}
