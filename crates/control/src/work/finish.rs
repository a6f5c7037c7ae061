//! What follows a restore that has replaced a machine's disks: somebody accepts or undoes it.

use jiff::SignedDuration;
use serde_json::json;
use strongroom_api::{ErrorBody, Item, Replaced, RestoreDecision, TaskName, TaskState, Trigger};
use strongroom_base::{ItemId, JobId, message};
use strongroom_catalog::{Filter, Query, Stored};
use strongroom_orders::{FinishDone, FinishOrder, OrderId, Watch};

use super::outcome::{JobEvents, Outcome};
use crate::{
    alerts::{self, Happening, Rule},
    audit,
    error::{ControlError, Result},
    items::check_free,
    jobs::Event,
    lookup::{find_item, named, no_item},
    model::{HostDoc, ItemDoc, Spec},
    rights::{Caller, Operation, Target},
    service::Control,
};

/// When somebody is reminded.
const REMIND: SignedDuration = SignedDuration::from_hours(24);

/// There is no restore to decide on.
fn none_open(item: &Item) -> ControlError {
    let message = message!(
        REQUEST_NOT_FOUND,
        "no restore of {item} waits to be accepted or undone",
        item = item.name
    );
    ControlError::from(message)
}

impl Control {
    /// Begins to accept or undo the restore that has replaced the disks of an item's machine.
    pub async fn finish_restore(
        &self,
        caller: &Caller,
        item: &str,
        decision: RestoreDecision,
    ) -> Result<JobId> {
        let begun = in_write!(self, tx => {
            let Stored { mut doc, version } = find_item(tx, item).await?;
            let target = Target::Item(doc.item.vault, doc.item.id);
            self.check(caller, Operation::FinishRestore, target, || no_item(item))?;
            check_free(&doc.item)?;
            let replaced = doc.item.replaced.clone().ok_or_else(|| none_open(&doc.item))?;
            let spec = Spec::FinishRestore { item: doc.item.id, decision };
            let name = doc.item.name.clone();
            let begun = self
                .begin_for_item(tx, &mut doc, version, spec, Trigger::OnDemand, &caller.name)
                .await?;
            let detail = json!({ "decision": decision, "machine": replaced.machine });
            audit::record(tx, caller, Operation::FinishRestore, &name, detail).await?;
            Ok(begun)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    pub(super) async fn do_finish_restore(
        &self,
        job: JobId,
        item: ItemId,
        decision: RestoreDecision,
        events: &JobEvents,
        watch: &Watch,
    ) -> Outcome {
        watch.task(TaskName::Finish, TaskState::InProgress, None);
        let item = in_read!(self, tx => { named::<ItemDoc>(tx, item).await })?.doc.item;
        // A first try may have come to its end, and died before it was written down.
        let Some(replaced) = item.replaced else { return Ok(None) };
        let host = in_read!(self, tx => { named::<HostDoc>(tx, replaced.host).await })?.doc.host;
        let agent = self.agent(&host)?;
        let order = FinishOrder {
            order: OrderId::of_job(job, "finish"),
            machine: replaced.machine.clone(),
            decision,
        };
        let done = Self::blocking(move || agent.finish(&order)).await?;
        self.set_replaced(item.id, None).await?;
        let report = match done {
            FinishDone::Finished(report) => Some(report),
            FinishDone::DecidedBefore => {
                let message = message!(
                    VM_UNSUPPORTED,
                    "the decision about {machine} was made on the host itself",
                    machine = replaced.machine
                );
                events.send(Event::Warning(ErrorBody::from(message)));
                None
            }
        };
        watch.task(TaskName::Finish, TaskState::Completed, None);
        Ok(report)
    }

    /// Writes down whether a restore of an item waits to be accepted or undone.
    pub(super) async fn set_replaced(
        &self,
        item: ItemId,
        replaced: Option<Replaced>,
    ) -> Result<()> {
        let now = self.now();
        in_write!(self, tx => {
            let Stored { mut doc, version } = named::<ItemDoc>(tx, item).await?;
            doc.item.replaced.clone_from(&replaced);
            if replaced.is_none() {
                alerts::resolve(tx, Rule::RestoreOpen, &doc.item, now).await?;
            }
            tx.update(&doc, version).await?;
            Ok(())
        })
    }

    /// Reminds of restores that wait for a day to be accepted or undone.
    pub(crate) async fn alert_of_open_restores(&self) -> Result<()> {
        let now = self.now();
        let day = now.checked_sub(REMIND).unwrap_or(now);
        let open = Query::new(Filter::all().le("replaced", day)).ascending("replaced").limit(1000);
        for ItemDoc { item, .. } in
            self.catalog.list::<ItemDoc>(&open).await?.items.into_iter().map(|stored| stored.doc)
        {
            let Some(replaced) = &item.replaced else { continue };
            let what = || Happening {
                rule: Rule::RestoreOpen,
                title: format!("the restore over {} is to be accepted or undone", item.name),
                error: Some(ErrorBody::from(message!(
                    RESTORE_OPEN,
                    "the machine {machine} runs on layers over its old disks since {time}",
                    machine = replaced.machine,
                    time = format!("{:.0}", replaced.time)
                ))),
                subject: &item.name,
                vault: Some(item.vault),
                item: Some(item.id),
                job: Some(replaced.job),
            };
            let key = what().key();
            if !in_read!(self, tx => { alerts::holds(tx, &key).await })? {
                in_write!(self, tx => { alerts::raise(self, tx, what(), now).await })?;
            }
        }
        Ok(())
    }
}
