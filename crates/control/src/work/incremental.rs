//! A backup of a page blob to another one. It is no recovery point, and needs no vault: the vault of its item has its
//! policy, its rights and its alerts.

use strongroom_base::ItemId;
use strongroom_catalog::Stored;
use strongroom_orders::{IncrementalDone, IncrementalOrder, OrderId, Watch};

use super::{
    known::Known,
    outcome::{JobEvents, Outcome},
    progress::result,
};
use crate::{
    error::ControlError, jobs::Event, lookup::named, model::ItemDoc, service::Control,
    sources::IncrementalBackup,
};

/// The order for a backup.
pub(super) fn incremental_order(
    known: &Known,
    backup: IncrementalBackup<'_>,
    limit_rate: Option<u64>,
) -> IncrementalOrder {
    IncrementalOrder {
        order: OrderId::of_job(known.job, "incremental"),
        from: backup.from.clone(),
        to: backup.to.clone(),
        keep: backup.keep,
        limit_rate,
    }
}

impl Control {
    pub(super) async fn do_incremental_backup(
        &self,
        known: &Known,
        order: IncrementalOrder,
        events: &JobEvents,
        watch: &Watch,
    ) -> Outcome {
        let agent = self.agent(&known.host)?;
        let follow = watch.clone();
        let done = Self::blocking(move || agent.incremental_backup(&order, &follow)).await?;
        for warning in &done.warnings {
            events.send(Event::Warning(warning.clone()));
        }
        events.send(result(watch.progress.snapshot(), done.written_bytes));
        self.incremental_backup_was_made(known.item.item.id, &done).await?;
        Ok(Some(done.report))
    }

    async fn incremental_backup_was_made(
        &self,
        item: ItemId,
        done: &IncrementalDone,
    ) -> Result<(), ControlError> {
        in_write!(self, tx => {
            let Stored { mut doc, version } = named::<ItemDoc>(tx, item).await?;
            doc.item.last_backup = Some(done.time);
            tx.update(&doc, version).await?;
            Ok(())
        })
    }
}
