//! A drill: the order that is given, and what becomes of the job, of the points and of the vault's alert.

use strongroom_api::{self as api, DrillWanted, ErrorBody, JobKind, JobState, PointState};
use strongroom_base::{HostId, ItemId, JobId, PointId, VaultId, message};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_orders::{DrillOrder, Watch};

use super::outcome::{JobEvents, Outcome};
use crate::{
    alerts::{self, Happening, Rule},
    error::{ControlError, Result},
    jobs::Event,
    lookup::named,
    model::{HostDoc, ItemDoc, JobDoc, PointDoc, Spec, VaultDoc},
    service::Control,
};

/// A machine of a drill: its item, and the point.
type Machine = (api::Item, PointId);

impl Control {
    pub(super) async fn do_drill(
        &self,
        job: JobId,
        (vault, host): (VaultId, HostId),
        items: &[ItemId],
        wanted: DrillWanted,
        events: &JobEvents,
        watch: &Watch,
    ) -> Outcome {
        let (vault, host, machines) = in_read!(self, tx => {
            let vault = named::<VaultDoc>(tx, vault).await?.doc;
            let host = named::<HostDoc>(tx, host).await?.doc.host;
            let mut machines = Vec::new();
            for item in items {
                machines.push(machine(tx, *item, &wanted).await?);
            }
            Ok((vault, host, machines))
        })?;
        let points = machines.iter().map(|(item, point)| (item.name.clone(), *point)).collect();
        let order = DrillOrder { job, vault: vault.access(), points, wanted };
        let agent = self.agent(&host)?;
        let follow = watch.clone();
        let done = Self::blocking(move || agent.drill(&order, &follow)).await?;
        for warning in done.warnings {
            events.send(Event::Warning(warning));
        }
        for (point, boot) in &done.boots {
            if let Some((item, _)) = machines.iter().find(|(_, of)| of == point) {
                self.keep_boot(item, *point, boot).await?;
            }
        }
        let failed = (!done.failed.is_empty()).then(|| {
            ErrorBody::from(message!(
                DRILL_FAILED,
                "machines that did not work as they have to: {machines}",
                machines = done.failed.join(", ")
            ))
        });
        self.alert_of_drill(&vault.vault, &host, failed.as_ref(), job, items).await?;
        if let Some(warning) = failed {
            events.send(Event::Warning(warning));
        }
        Ok(Some(done.report))
    }

    async fn alert_of_drill(
        &self,
        vault: &api::Vault,
        host: &api::Host,
        failed: Option<&ErrorBody>,
        job: JobId,
        items: &[ItemId],
    ) -> Result<()> {
        let now = self.now();
        let subject = format!("{} on {}", vault.name, host.name);
        in_write!(self, tx => {
            let what = Happening {
                rule: Rule::DrillFailed,
                title: format!("the drill of {subject} failed"),
                error: failed.cloned(),
                subject: &subject,
                vault: Some(vault.id),
                item: None,
                job: Some(job),
            };
            match failed {
                Some(_) => alerts::raise(self, tx, what, now).await,
                None if retries_all(tx, vault.id, host.id, job, items).await? => {
                    alerts::resolve_key(tx, &what.key(), now).await
                }
                None => Ok(()),
            }
        })
    }
}

/// Whether a drill has all machines of the last one before it that failed, as far as they are protected still.
async fn retries_all(
    tx: &mut ReadTx,
    vault: VaultId,
    host: HostId,
    job: JobId,
    items: &[ItemId],
) -> Result<bool> {
    let filter = Filter::all()
        .eq("kind", JobKind::Drill.name())
        .eq("vault", vault.to_string())
        .eq("host", host.to_string())
        .eq("state", JobState::CompletedWithWarnings.name());
    let last = Query::new(filter).descending("created").limit(2);
    let last = tx.list::<JobDoc>(&last).await?.items.into_iter().map(|stored| stored.doc);
    let Some(last) = last.into_iter().find(|doc| doc.job.id != job) else { return Ok(true) };
    let Spec::Drill { items: before, .. } = last.spec else { return Ok(true) };
    for item in before {
        let found = tx.get::<ItemDoc>(&item.to_string()).await?;
        if found.is_some_and(|found| found.doc.is_active()) && !items.contains(&item) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An item and its newest point in the vault, of a time if one is wanted.
async fn machine(tx: &mut ReadTx, item: ItemId, wanted: &DrillWanted) -> Result<Machine> {
    let item = named::<ItemDoc>(tx, item).await?.doc.item;
    let mut good =
        Filter::all().eq("item", item.id.to_string()).eq("state", PointState::Restorable.name());
    if let Some(before) = wanted.before {
        good = good.le("time", before);
    }
    let newest = Query::new(good).descending("time").limit(100);
    let points = tx.list::<PointDoc>(&newest).await?.items;
    let mut points = points.into_iter().map(|Stored { doc, .. }| doc);
    let found = points.find(PointDoc::is_in_vault).map(|doc| doc.point.id);
    let found = found.ok_or_else(|| {
        ControlError::from(message!(
            POINT_NOT_FOUND,
            "{item} has no recovery point in the vault that can be booted",
            item = item.name
        ))
    })?;
    Ok((item, found))
}
