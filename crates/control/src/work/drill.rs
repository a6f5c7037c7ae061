//! A drill: the order that is given, and what becomes of the job, of the points and of the vault's alert.

use strongroom_api::{self as api, DrillWanted, ErrorBody, PointState};
use strongroom_base::{HostId, ItemId, JobId, PointId, VaultId, message};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_orders::{DrillOrder, Watch};

use super::outcome::{JobEvents, Outcome};
use crate::{
    alerts::{self, Happening, Rule},
    error::{ControlError, Result},
    jobs::Event,
    lookup::named,
    model::{HostDoc, ItemDoc, PointDoc, VaultDoc},
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
                "{machines} did not work as they have to in the drill",
                machines = done.failed.join(", ")
            ))
        });
        self.alert_of_drill(&vault.vault, &host, failed.as_ref(), job).await?;
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
                None => alerts::resolve_key(tx, &what.key(), now).await,
            }
        })
    }
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
