//! A restore: the order that is given, and what becomes of the job.
//!
//! This module owns the choice of the vault that is read, the snapshot tier or the item's own. How a machine is put
//! together is the matter of the agent.

use strongroom_api::{self as api, ErrorBody, PointState, Trigger};
use strongroom_base::{Code, HostId, ItemId, JobId, PointId, codes};
use strongroom_orders::{RestoreDone, RestoreOrder, Watch};

use super::{
    boot::failed,
    outcome::{JobEvents, Outcome},
    progress::result,
    transfer::in_snapshot_tier,
};
use crate::{
    error::ControlError,
    jobs::Event,
    lookup::{named, vault_of},
    model::{HostDoc, ItemDoc},
    points::{point_doc, point_or_snapshot},
    service::Control,
    sources,
};

impl Control {
    #[allow(clippy::too_many_arguments, reason = "each is a part of what was asked for")]
    pub(super) async fn do_restore(
        &self,
        job: JobId,
        item: ItemId,
        point: PointId,
        host: HostId,
        restore: api::Restore,
        events: &JobEvents,
        watch: &Watch,
    ) -> Outcome {
        let (item, vault, host, point) = in_read!(self, tx => {
            let item = named::<ItemDoc>(tx, item).await?.doc;
            let vault = vault_of(tx, &item.item).await?;
            let host = named::<HostDoc>(tx, host).await?.doc.host;
            let point = point_or_snapshot(tx, item.item.id, point).await?.ok_or_else(|| {
                let message = "the recovery point was deleted meanwhile";
                ControlError::refused(&codes::POINT_NOT_FOUND, message)
            })?;
            Ok((item, vault, host, point.doc))
        })?;
        events.send(Event::Point(point.point.id));
        let not_booting = point.point.boot.as_ref();
        if let Some(warning) = not_booting.and_then(|boot| failed(&item.item, point.point.id, boot))
        {
            events.send(Event::Warning(warning));
        }
        // Named as somebody who looks for it will.
        let replaces = match &restore {
            api::Restore::Replace(replace) if !replace.dry_run => {
                let own = || sources::of(&item.item.source).replaced(&item.item);
                Some(replace.machine.clone().unwrap_or_else(own))
            }
            _ => None,
        };
        let order = RestoreOrder {
            job,
            vault: vault.access(),
            item: item.item.name.clone(),
            point: point.point.id,
            source: item.item.source.clone(),
            restore,
            limit_rate: self.settings.limit_rate,
        };
        // The copy near the source is the quickest, and the only one until it is transferred.
        let near = point.point.snapshot.as_ref().filter(|_| host.id == item.item.host);
        let near = match near {
            Some(copy) if self.active_vault(copy.vault).await?.is_some() => Some(copy),
            _ => None,
        };
        let mut in_near = None;
        let mut done = None;
        if let Some(copy) = near {
            match self.restore_snapshot(&item.item, &host, &order, copy, watch).await {
                Ok(restored) => {
                    in_near = Some(copy.vault);
                    done = Some(restored);
                }
                Err(error) if point.is_in_vault() && is_of_vault(&error) => {
                    events.send(Event::Warning(*error));
                }
                Err(error) => return Err(error),
            }
        }
        let done = match done {
            Some(done) => done,
            None => self.order_restore(&host, order, watch).await?,
        };
        for warning in &done.warnings {
            events.send(Event::Warning(warning.clone()));
        }
        if let Some(facts) = &done.safety_point {
            let state = PointState::Restorable;
            let mut doc = point_doc(&item.item, facts, state, Trigger::System, Some(job));
            if let Some(near) = in_near {
                in_snapshot_tier(&mut doc, near);
            }
            in_write!(self, tx => {
                tx.put(&doc).await?;
                Ok(())
            })?;
        }
        if let Some(machine) = replaces {
            let recovery_point = point.point.id;
            let (host, time) = (host.id, self.now());
            let replaced = api::Replaced { host, machine, recovery_point, job, time };
            self.set_replaced(item.item.id, Some(replaced)).await?;
        }
        let far = watch.progress.snapshot();
        events.send(result(far, far.stored_bytes));
        Ok(Some(done.report))
    }

    async fn restore_snapshot(
        &self,
        item: &api::Item,
        host: &api::Host,
        order: &RestoreOrder,
        copy: &api::SnapshotCopy,
        watch: &Watch,
    ) -> Result<RestoreDone, Box<ErrorBody>> {
        let place = self.snapshot_place(item, copy).await?;
        let order =
            RestoreOrder { vault: place.vault, item: place.item, point: copy.id, ..order.clone() };
        self.order_restore(host, order, watch).await
    }

    async fn order_restore(
        &self,
        host: &api::Host,
        order: RestoreOrder,
        watch: &Watch,
    ) -> Result<RestoreDone, Box<ErrorBody>> {
        let agent = self.agent(host)?;
        let follow = watch.clone();
        Self::blocking(move || agent.restore(&order, &follow)).await
    }
}

/// Whether an error says that a vault is away or damaged, and not that what is restored cannot be.
fn is_of_vault(error: &ErrorBody) -> bool {
    error.code.known().is_some_and(|code| OF_VAULTS.contains(&code))
}

/// What a vault that is away or damaged fails with.
const OF_VAULTS: [&Code; 19] = [
    &codes::VAULT_NOT_FOUND,
    &codes::VAULT_FORMAT,
    &codes::VAULT_BUSY,
    &codes::KEY_MISSING,
    &codes::KEY_WRONG,
    &codes::KEY_UNREADABLE,
    &codes::KEY_HSM,
    &codes::STORE_UNAVAILABLE,
    &codes::STORE_DENIED,
    &codes::STORE_FULL,
    &codes::STORE_READ_ONLY,
    &codes::STORE_MISSING,
    &codes::STORE_CORRUPT,
    &codes::STORE_DEGRADED,
    &codes::STORE_PROTOCOL,
    &codes::INDEX_INCOMPLETE,
    &codes::ITEM_NOT_FOUND,
    &codes::POINT_NOT_FOUND,
    &codes::POINT_DAMAGED,
];
