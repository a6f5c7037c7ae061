//! The service's own work in vaults: purging, freeing, measuring, keys, copies of the catalog.
//!
//! This module owns the jobs that no item has. What may be purged is decided by `retention`; the keeper does the
//! work.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use strongroom_api::{
    self as api, JobKind, KeyReference, Measured, RemovedPoints, TaskName, TaskState, VaultUsage,
};
use strongroom_base::{ItemId, JobId, PointId, VaultId, codes, words};
use strongroom_catalog::{Document as _, Filter, Query, Stored};
use strongroom_orders::{OrderId, RotateOrder, Watch};

use super::{compare::forget_given_up, outcome::Outcome, transfer::snapshot_item};
use crate::{
    alerts, audit,
    error::{ControlError, Result},
    lookup::{named, vault_of},
    model::{ItemDoc, JobDoc, MachineDoc, PointDoc, Spec, UsageDoc, VaultDoc},
    retention::{old_snapshots, purgeable},
    rights::{Caller, Operation},
    service::Control,
    sources,
    vaults::key_words,
};

/// One unit of protected instances for this number of bytes, two up to ten times as many, two more for each
/// further ten times: as the articles on Azure's prices count.
const UNIT_BYTES: u64 = 50_000_000_000;

/// How long a new vault waits for its first figures at most.
const FIRST_FIGURES: SignedDuration = SignedDuration::from_hours(1);

/// Points that are deleted at once.
const AT_ONCE: usize = 500;

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Control {
    pub(super) async fn do_expire(&self, vault: VaultId, watch: &Watch) -> Outcome {
        watch.task(TaskName::Delete, TaskState::InProgress, None);
        let doc = self.work_vault(vault).await?;
        self.store_time().await?;
        let now = self.trusted_now();
        let (removed, late) = self.purge_all(&doc, purgeable(&doc.vault, now)).await?;
        let (mut snapshots, mut late, mut token) = (0_usize, late, None);
        loop {
            let query = Query::new(old_snapshots(&doc.vault, now)).limit(AT_ONCE).after(token);
            let page = self.catalog.list::<PointDoc>(&query).await.map_err(ControlError::from)?;
            let (gone, error) = self.delete_snapshots(page.items).await?;
            late = late.or(error);
            snapshots = snapshots.saturating_add(gone.len());
            in_write!(self, tx => {
                for Stored { doc: gone, .. } in &gone {
                    let found = tx.get::<PointDoc>(&gone.id()).await?;
                    if let Some(Stored { mut doc, version }) = found {
                        doc.forget_snapshot();
                        tx.update(&doc, version).await?;
                    }
                }
                Ok(())
            })?;
            match page.next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        let detail = format!(
            "{}, {} of others",
            words::count_of(removed, "recovery point"),
            words::count_of(snapshots, "snapshot")
        );
        match late {
            None => {
                watch.task(TaskName::Delete, TaskState::Completed, Some(detail));
                let snapshots_removed = Some(count(snapshots));
                let points_removed = count(removed);
                Ok(Some(RemovedPoints { points_removed, snapshots_removed }.into()))
            }
            Some(error) => {
                watch.task(TaskName::Delete, TaskState::Failed, Some(detail));
                Err(error)
            }
        }
    }

    /// Deletes the points of a vault that a filter finds: how many, and why others could not be. Those
    /// whose copy near the source cannot be reached wait, so that nothing deleted is left anywhere.
    async fn purge_all(
        &self,
        vault: &VaultDoc,
        filter: Filter,
    ) -> Result<(usize, Option<Box<api::ErrorBody>>), Box<api::ErrorBody>> {
        let (mut removed, mut late, mut token) = (0_usize, None, None);
        loop {
            let query = Query::new(filter.clone()).limit(AT_ONCE).after(token);
            let page = self.catalog.list::<PointDoc>(&query).await.map_err(ControlError::from)?;
            let (ready, error) = self.delete_snapshots(page.items).await?;
            late = late.or(error);
            removed = removed.saturating_add(ready.len());
            if !ready.is_empty() {
                self.purge_points(vault, ready).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok((removed, late)),
            }
        }
    }

    /// Deletes the copies of points that are near their sources. The points that have none any more, and
    /// why others still have. What is in a vault that was deleted counts as gone.
    async fn delete_snapshots(
        &self,
        points: Vec<Stored<PointDoc>>,
    ) -> Result<(Vec<Stored<PointDoc>>, Option<Box<api::ErrorBody>>), Box<api::ErrorBody>> {
        let (mut gone, mut late) = (Vec::new(), None);
        let mut by_vault: BTreeMap<(VaultId, ItemId), Vec<Stored<PointDoc>>> = BTreeMap::new();
        for point in points {
            match &point.doc.point.snapshot {
                None => gone.push(point),
                Some(copy) => {
                    by_vault.entry((copy.vault, point.doc.point.item)).or_default().push(point);
                }
            }
        }
        let now = self.trusted_now();
        for ((vault, item), points) in by_vault {
            if let Some(near) = self.active_vault(vault).await? {
                let copies = points.iter().filter_map(|point| point.doc.point.snapshot.as_ref());
                let ids: Vec<PointId> = copies.map(|copy| copy.id).collect();
                let (keeper, name) = (self.keeper.clone(), snapshot_item(item));
                let access = near.access();
                self.give_up(vault, &name, &ids).await?;
                // Nothing near a source is locked.
                let deleted =
                    Self::blocking(move || keeper.delete_points(&access, &name, &ids, now)).await;
                if let Err(error) = deleted {
                    late = Some(error);
                    continue;
                }
            }
            gone.extend(points);
        }
        Ok((gone, late))
    }

    /// Deletes points from their vault, then from the catalog.
    async fn purge_points(
        &self,
        vault: &VaultDoc,
        points: Vec<Stored<PointDoc>>,
    ) -> Result<(), Box<api::ErrorBody>> {
        let mut by_item: BTreeMap<ItemId, Vec<PointId>> = BTreeMap::new();
        for doc in points.iter().map(|stored| &stored.doc).filter(|doc| doc.is_in_vault()) {
            by_item.entry(doc.point.item).or_default().push(doc.point.id);
        }
        let now = self.trusted_now();
        let mut locked: BTreeMap<String, (String, PointId, Timestamp)> = BTreeMap::new();
        for (item, ids) in &by_item {
            let read = in_read!(self, tx => { named::<ItemDoc>(tx, *item).await });
            let name = read?.doc.item.name;
            self.give_up(vault.vault.id, &name, ids).await?;
            let (keeper, access, ids) = (self.keeper.clone(), vault.access(), ids.clone());
            let of = name.clone();
            let left =
                Self::blocking(move || keeper.delete_points(&access, &of, &ids, now)).await?;
            locked.extend(left.into_iter().map(|(point, until)| {
                (PointDoc::id_of(*item, point), (name.clone(), point, until))
            }));
        }
        let (points, stay): (Vec<_>, Vec<_>) =
            points.into_iter().partition(|stored| !locked.contains_key(&stored.doc.id()));
        in_write!(self, tx => {
            for Stored { doc, .. } in &points {
                let id = PointDoc::id_of(doc.point.item, doc.point.id);
                tx.delete::<PointDoc>(&id, None).await?;
            }
            // A locked point goes when its lock has expired.
            for Stored { doc, .. } in &stay {
                let Some((name, point, until)) = locked.get(&doc.id()) else { continue };
                forget_given_up(tx, vault.vault.id, name, *point).await?;
                if let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(&doc.id()).await? {
                    doc.point.locked_until = Some(*until);
                    doc.point.purge_after = Some(*until);
                    tx.update(&doc, version).await?;
                }
            }
            alerts::points_purged(self, tx, &vault.vault, &points).await?;
            let system = Caller::system();
            let detail = json!({ "points": by_item });
            audit::record(tx, &system, Operation::DeletePoint, &vault.vault.name, detail).await
        })?;
        Ok(())
    }

    pub(super) async fn do_delete_data(&self, item: ItemId, watch: &Watch) -> Outcome {
        watch.task(TaskName::Delete, TaskState::InProgress, None);
        self.store_time().await?;
        let (doc, vault) = in_read!(self, tx => {
            let item = named::<ItemDoc>(tx, item).await?.doc;
            let vault = vault_of(tx, &item.item).await?;
            Ok((item, vault))
        })?;
        let all = Filter::all().eq("item", item.to_string());
        let (removed, late) = self.purge_all(&vault, all).await?;
        if let Some(error) = late {
            return Err(error);
        }
        let locked = in_read!(self, tx => {
            let left = Filter::all().eq("item", item.to_string());
            Ok(tx.first::<PointDoc>(&Query::new(left).descending("purge_after").limit(1)).await?)
        })?;
        if let Some(Stored { doc: PointDoc { point, .. }, .. }) = locked {
            return self.keep_deleted_item(item, point.purge_after).await;
        }
        in_write!(self, tx => {
            if let Some(uuid) = sources::machine_uuid(&doc.item.source) {
                let id = MachineDoc::id_of(doc.item.host, &uuid);
                if let Some(Stored { doc: mut machine, version }) =
                    tx.get::<MachineDoc>(&id).await?
                {
                    machine.machine.protected_by = None;
                    tx.update(&machine, version).await?;
                }
            }
            alerts::item_purged(self, tx, &doc).await?;
            tx.delete::<ItemDoc>(&item.to_string(), None).await?;
            let system = Caller::system();
            let detail = json!({ "purged": true });
            audit::record(tx, &system, Operation::DeleteData, &doc.item.name, detail).await
        })?;
        watch.task(
            TaskName::Delete,
            TaskState::Completed,
            Some(words::count_of(removed, "recovery point")),
        );
        let points_removed = count(removed);
        Ok(Some(RemovedPoints { points_removed, snapshots_removed: None }.into()))
    }

    /// Points of a deleted item are locked: it goes when the last of them may.
    async fn keep_deleted_item(&self, item: ItemId, until: Option<Timestamp>) -> Outcome {
        in_write!(self, tx => {
            let Stored { mut doc, version } = named::<ItemDoc>(tx, item).await?;
            doc.item.purge_after = until.max(doc.item.purge_after);
            tx.update(&doc, version).await?;
            Ok(())
        })?;
        let message = "recovery points of the item are locked in their vault";
        Err(Box::new(api::ErrorBody::new(&codes::POINT_LOCKED, message)))
    }

    pub(super) async fn do_reclaim(&self, job: JobId, vault: VaultId, watch: &Watch) -> Outcome {
        watch.task(TaskName::Reclaim, TaskState::InProgress, None);
        let doc = self.work_vault(vault).await?;
        // First: what is gone, or deleted by others, is to be known before anything is freed.
        self.compare_points(&doc, None).await?;
        self.extend_locks(&doc, None).await?;
        let order = self.reclaim_order(job, &doc).await?;
        let (keeper, follow) = (self.keeper.clone(), watch.clone());
        let ordered = order.clone();
        let done = Self::blocking(move || keeper.reclaim(&ordered, &follow)).await?;
        if done.complete {
            self.reclaimed(&doc, &order, &done.held).await?;
        }
        watch.task(TaskName::Reclaim, TaskState::Completed, None);
        Ok(Some(done.report))
    }

    pub(super) async fn do_measure(&self, vault: VaultId, watch: &Watch) -> Outcome {
        watch.task(TaskName::Measure, TaskState::InProgress, None);
        let doc = self.work_vault(vault).await?;
        self.compare_points(&doc, None).await?;
        self.extend_locks(&doc, None).await?;
        let (keeper, follow, access) = (self.keeper.clone(), watch.clone(), doc.access());
        let mut facts = Self::blocking(move || keeper.usage(&access, &follow)).await?;
        let now = self.now();
        let usage = in_write!(self, tx => {
            let in_vault = Filter::all().eq("vault", vault.to_string());
            for usage in &mut facts.items {
                usage.instance_units = instance_units(usage.instance_bytes);
                let by_name = in_vault.clone().eq("name", usage.name.as_str());
                let item = tx.first::<ItemDoc>(&Query::new(by_name)).await?;
                usage.item = item.map(|stored| stored.doc.item.id);
            }
            let deleted = in_vault.clone().eq("state", api::PointState::SoftDeleted.name());
            let usage = VaultUsage {
                vault,
                measured: now,
                recovery_points: facts.recovery_points,
                soft_deleted_points: tx.count::<PointDoc>(&deleted).await?,
                protected_bytes: facts.protected_bytes,
                stored_bytes: facts.stored_bytes,
                reclaimable_bytes: facts.reclaimable_bytes,
                instance_units: facts.items.iter().map(|item| item.instance_units).sum(),
                growth_bytes_per_day: None,
                forecast_bytes_30_days: None,
                items: facts.items.clone(),
            };
            tx.put(&UsageDoc { usage: usage.clone() }).await?;
            // One a day is enough of what is long ago; here, what is older than 400 days goes.
            let old = now.checked_sub(SignedDuration::from_hours(24 * 400)).unwrap_or(now);
            tx.delete_all::<UsageDoc>(&in_vault.lt("measured", old)).await?;
            Ok(usage)
        })?;
        watch.task(TaskName::Measure, TaskState::Completed, None);
        Ok(Some(Measured { stored_bytes: usage.stored_bytes }.into()))
    }

    pub(super) async fn do_rotate_key(
        &self,
        job: JobId,
        vault: VaultId,
        key: Option<KeyReference>,
        watch: &Watch,
    ) -> Outcome {
        watch.task(TaskName::Rotate, TaskState::InProgress, None);
        let doc = self.work_vault(vault).await?;
        let order = OrderId::of_job(job, "rotate");
        let order = RotateOrder { order, vault: doc.access(), new: key.clone() };
        let keeper = self.keeper.clone();
        let facts = Self::blocking(move || keeper.rotate_key(&order)).await?;
        in_write!(self, tx => {
            let Stored { mut doc, version } = named::<VaultDoc>(tx, vault).await?;
            doc.vault.encryption.rotated = facts.key_changed;
            if let Some(key) = &key {
                doc.vault.encryption.key = key_words(key);
                doc.vault.encryption.management = api::KeyManagement::Customer;
                doc.key = key.clone();
            }
            tx.update(&doc, version).await?;
            Ok(())
        })?;
        watch.task(TaskName::Rotate, TaskState::Completed, None);
        Ok(None)
    }

    pub(super) async fn do_save_catalog(&self, vault: VaultId, watch: &Watch) -> Outcome {
        watch.task(TaskName::Save, TaskState::InProgress, None);
        let done = self.save_in(vault).await?;
        let (chunks, put) = done.chunks;
        let words = format!("{}, {put} of {chunks} parts", words::bytes(done.put));
        watch.task(TaskName::Save, TaskState::Completed, Some(words));
        Ok(None)
    }

    /// Begins what is due of a vault's housekeeping.
    pub(crate) async fn begin_housekeeping(&self) -> Result<()> {
        let vaults = self.catalog.list::<VaultDoc>(&Query::default().limit(1000)).await?.items;
        for Stored { doc, .. } in vaults {
            let vault = &doc.vault;
            if vault.state != api::VaultState::Active {
                continue;
            }
            let settings = &self.settings;
            let hours = |hours: u32| SignedDuration::from_hours(i64::from(hours));
            let minutes = SignedDuration::from_mins(i64::from(settings.save_every_minutes));
            let id = vault.id;
            for (kind, every, spec) in [
                (
                    JobKind::Reclaim,
                    hours(settings.reclaim_every_hours),
                    Spec::Reclaim { vault: id },
                ),
                (
                    JobKind::MeasureUsage,
                    hours(settings.measure_every_hours),
                    Spec::Measure { vault: id },
                ),
                (
                    JobKind::Verify,
                    hours(settings.verify_every_hours),
                    Spec::Verify { vault: id, all: false },
                ),
                (JobKind::SaveCatalog, minutes, Spec::SaveCatalog { vault: id }),
            ] {
                if every.is_zero() {
                    continue;
                }
                let begun = self.last_of(kind, id).await?;
                // The figures of a new vault are not put off until tomorrow.
                let every = match kind {
                    JobKind::MeasureUsage if begun.is_none() => every.min(FIRST_FIGURES),
                    _ => every,
                };
                let last = begun.unwrap_or(Timestamp::MIN);
                // What is not kept in the vault yet is kept at once.
                let last =
                    if kind == JobKind::SaveCatalog { last } else { last.max(vault.created) };
                if self.now().duration_since(last) >= every
                    && (kind != JobKind::SaveCatalog || self.is_to_be_saved(&doc).await?)
                {
                    self.begin_once(kind, vault, spec).await?;
                }
            }
        }
        Ok(())
    }

    /// When a job of a kind was begun last in a vault.
    pub(crate) async fn last_of(&self, kind: JobKind, vault: VaultId) -> Result<Option<Timestamp>> {
        Ok(self.last_job_of(kind, vault).await?.map(|job| job.created))
    }

    /// The job of a kind that was begun last in a vault.
    pub(crate) async fn last_job_of(
        &self,
        kind: JobKind,
        vault: VaultId,
    ) -> Result<Option<api::Job>> {
        let filter = Filter::all().eq("kind", kind.name()).eq("vault", vault.to_string());
        let query = Query::new(filter).descending("created").limit(1);
        let last = self.catalog.list::<JobDoc>(&query).await?.items.into_iter().next();
        Ok(last.map(|stored| stored.doc.job))
    }
}

/// How many units of protected instances an instance of this size is.
pub(crate) fn instance_units(bytes: u64) -> u64 {
    let ten = UNIT_BYTES.saturating_mul(10);
    match bytes {
        0 => 0,
        1..=UNIT_BYTES => 1,
        _ => bytes.div_ceil(ten).max(1).saturating_mul(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_counted_as_the_articles_count() {
        let gb = |n: u64| n * 1_000_000_000;
        for (size, units) in
            [(0, 0), (1, 1), (50, 1), (51, 2), (500, 2), (501, 4), (1000, 4), (1001, 6)]
        {
            assert_eq!(instance_units(gb(size)), units, "{size} GB");
        }
    }
}
