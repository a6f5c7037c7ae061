//! A boot verification: the order that is given, and what becomes of the job, of the point and of the item's alert.
//!
//! This module owns what follows from a result. Which point is booted when is decided by `boots`.

use strongroom_api::{
    self as api, BootOutcome, BootStep, BootWanted, ErrorBody, PointBoot, PointState,
};
use strongroom_base::{ItemId, PointId, codes, message};
use strongroom_catalog::{Filter, Query, Stored, Tx};
use strongroom_orders::{BootOrder, Watch};

use super::outcome::{JobEvents, Outcome};
use crate::{
    alerts::{self, Happening, Rule},
    error::{ControlError, Result},
    jobs::Event,
    lookup::{named, vault_of},
    model::{HostDoc, ItemDoc, PointDoc},
    service::Control,
};

/// Points that are looked at for the newest one that was booted.
const POINTS: usize = 1000;

impl Control {
    pub(super) async fn do_verify_boot(
        &self,
        job: &api::Job,
        (item, point): (ItemId, PointId),
        wanted: BootWanted,
        events: &JobEvents,
        watch: &Watch,
    ) -> Outcome {
        let (item, vault, host) = in_read!(self, tx => {
            let item = named::<ItemDoc>(tx, item).await?.doc.item;
            let vault = vault_of(tx, &item).await?;
            let host = named::<HostDoc>(tx, item.host).await?.doc.host;
            let id = PointDoc::id_of(item.id, point);
            tx.get::<PointDoc>(&id).await?.ok_or_else(|| {
                let message = "the recovery point was deleted meanwhile";
                ControlError::refused(&codes::POINT_NOT_FOUND, message)
            })?;
            Ok((item, vault, host))
        })?;
        events.send(Event::Point(point));
        let order = BootOrder {
            job: job.id,
            vault: vault.access(),
            item: item.name.clone(),
            point,
            wanted,
        };
        let agent = self.agent(&host)?;
        let follow = watch.clone();
        let done = Self::blocking(move || agent.verify_boot(&order, &follow)).await?;
        for warning in done.warnings {
            events.send(Event::Warning(warning));
        }
        if let Some(damage) = done.damage {
            self.set_point_state(&item, point, PointState::Damaged).await?;
            events.send(Event::Warning(damage));
        }
        if let Some(warning) = failed(&item, point, &done.boot) {
            events.send(Event::Warning(warning));
        }
        self.keep_boot(&item, point, &done.boot).await?;
        Ok(Some(done.report))
    }

    /// Writes down how a point boots. The alert of the item follows from its newest point that was booted.
    pub(super) async fn keep_boot(
        &self,
        item: &api::Item,
        point: PointId,
        boot: &PointBoot,
    ) -> Result<()> {
        let now = self.now();
        in_write!(self, tx => {
            let id = PointDoc::id_of(item.id, point);
            // It may have been deleted meanwhile.
            let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(&id).await? else {
                return Ok(());
            };
            let before = doc.point.boot.replace(boot.clone());
            tx.update(&doc, version).await?;
            let is_protected = tx.get::<ItemDoc>(&item.id.to_string()).await?;
            let is_protected = is_protected.is_some_and(|found| found.doc.is_active());
            if !is_protected || doc.point.state == PointState::SoftDeleted {
                return Ok(());
            }
            let booted = booted(tx, item.id).await?;
            let Some((newest, boot)) = booted.first() else { return Ok(()) };
            if *newest != point {
                return Ok(());
            }
            let Some(error) = failed(item, point, boot) else {
                // One of which less was asked than another has failed at proves nothing.
                let others = booted.iter().skip(1).map(|(_, boot)| boot).chain(&before);
                return if is_as_good(boot, others) {
                    alerts::resolve(tx, Rule::BootFailed, item, now).await
                } else {
                    Ok(())
                };
            };
            let what = Happening {
                rule: Rule::BootFailed,
                title: format!("{} does not boot from its recovery point", item.name),
                error: Some(error),
                subject: &item.name,
                vault: Some(item.vault),
                item: Some(item.id),
                job: boot.job,
            };
            alerts::raise(self, tx, what, now).await
        })
    }
}

/// Whether a machine that passed came as far as the verification before it, which failed, had expected. What only a
/// request brings about does not count.
fn is_as_good<'a>(passed: &PointBoot, others: impl Iterator<Item = &'a PointBoot>) -> bool {
    let before = others.filter(|other| other.begun < passed.begun);
    let last = before.filter(|other| other.outcome == BootOutcome::Failed);
    let Some(last) = last.max_by_key(|other| other.begun) else { return true };
    passed.reached >= Some(last.expected.min(BootStep::Agent))
}

/// The points of an item that were booted, the newest first.
async fn booted(tx: &mut Tx, item: ItemId) -> Result<Vec<(PointId, PointBoot)>> {
    let of_item = Filter::all().eq("item", item.to_string());
    let query = Query::new(of_item).descending("time").limit(POINTS);
    let points = tx.list::<PointDoc>(&query).await?.items.into_iter();
    let booted = points.filter(|stored| stored.doc.point.state != PointState::SoftDeleted);
    let booted = booted.filter_map(|stored| {
        let point = stored.doc.point;
        point.boot.map(|boot| (point.id, boot))
    });
    Ok(booted.collect())
}

/// That a machine did not come as far as it has to, if it did not.
pub(super) fn failed(item: &api::Item, point: PointId, boot: &PointBoot) -> Option<ErrorBody> {
    if boot.outcome == BootOutcome::Passed {
        return None;
    }
    let reason = boot.reason.clone().unwrap_or_default();
    Some(ErrorBody::from(message!(
        BOOT_FAILED,
        "{item} did not boot from recovery point {point}: {reason}",
        item = item.name,
        point,
        reason
    )))
}
