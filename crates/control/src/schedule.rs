//! Schedules: which items are to be backed up now.
//!
//! A reconciler. Each item remembers what of its schedule was dealt with and which backup comes next;
//! the next begins when its time has come, the item is free, and nothing newer replaces it. Runs that
//! were missed while the server was down become one run with a new random delay, so that they do not all start at once.
//!
//! This module owns when a backup is due. It must not know how a backup is made.

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{self as api, ProtectionState, Trigger};
use strongroom_base::{ItemId, codes};
use strongroom_catalog::{Filter, Query, Stored, Tx};
use strongroom_orders::CheckOrder;
use strongroom_policy::{Due, Policy};

use crate::{
    error::Result,
    lookup::{checked, named, policy_of},
    model::{HostDoc, ItemDoc, Planned, Spec},
    service::Control,
};

/// How late a start may be without the server having been down.
const LATE: SignedDuration = SignedDuration::from_mins(5);

impl Control {
    /// Begins the backups that are due. How many.
    pub(crate) async fn begin_scheduled(&self) -> Result<u64> {
        let now = self.now();
        let due = Filter::all().le("next_backup", now).is_null("job");
        let query = Query::new(due).ascending("next_backup").limit(500);
        let items = self.catalog.list::<ItemDoc>(&query).await?.items;
        let (mut begun, mut outcome) = (0_u64, Ok(()));
        for Stored { doc, .. } in items {
            // One that cannot be begun holds up no other.
            match self.begin_scheduled_item(&doc, now).await {
                Ok(true) => begun = begun.saturating_add(1),
                Ok(false) => {}
                Err(error) => {
                    let body = error.body();
                    let code = body.code.as_str();
                    tracing::error!(item = %doc.item.id, code, %error, "a backup that is due cannot be begun");
                    outcome = Err(error);
                }
            }
        }
        outcome.map(|()| begun)
    }

    async fn begin_scheduled_item(&self, doc: &ItemDoc, now: Timestamp) -> Result<bool> {
        let is_back = self.is_back(doc).await?;
        self.begin_if_due(doc.item.id, now, is_back).await
    }

    /// Looks at the schedules of all items, because the clock went back: what is planned may be far
    /// ahead of it.
    pub(crate) async fn plan_all(&self) -> Result<()> {
        let now = self.now();
        let mut token = None;
        loop {
            let planned = Filter::all().gt("next_backup", now);
            let query = Query::new(planned).limit(500).after(token);
            let page = self.catalog.list::<ItemDoc>(&query).await?;
            for Stored { doc, .. } in page.items {
                self.begin_if_due(doc.item.id, now, true).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Whether there is something to back up. A source that was gone is looked for first, so that it
    /// does not fail every night.
    async fn is_back(&self, doc: &ItemDoc) -> Result<bool> {
        if doc.item.state != ProtectionState::SourceMissing {
            return Ok(true);
        }
        let host = in_read!(self, tx => { named::<HostDoc>(tx, doc.item.host).await })?;
        let order = CheckOrder { order: self.order_once(), source: doc.item.source.clone() };
        let found = match self.agents.agent(&host.doc.host) {
            Ok(agent) => Self::blocking(move || agent.check(&order)).await.map(drop),
            Err(error) => Err(error),
        };
        Ok(!found.is_err_and(|error| error.code == codes::SOURCE_MISSING))
    }

    async fn begin_if_due(&self, item: ItemId, now: Timestamp, is_back: bool) -> Result<bool> {
        in_write!(self, tx => {
            let Some(Stored { mut doc, version }) =
                tx.get::<ItemDoc>(&item.to_string()).await?
            else {
                return Ok(false);
            };
            if doc.item.job.is_some() {
                return Ok(false);
            }
            let Some((_, policy)) = policy_of(tx, &doc.item).await? else {
                doc.item.next_backup = None;
                tx.update(&doc, version).await?;
                return Ok(false);
            };
            let Some(occurrence) = self.plan(&mut doc, &policy, now) else {
                tx.update(&doc, version).await?;
                return Ok(false);
            };
            if !is_back {
                tx.update(&doc, version).await?;
                return Ok(false);
            }
            let spec = Spec::Backup {
                item: doc.item.id,
                occurrence: Some(occurrence),
                retain_until: None,
            };
            self.begin_for_item(tx, &mut doc, version, spec, Trigger::Scheduled, "system")
                .await?;
            Ok(true)
        })
    }

    /// Looks at an item's schedule: the occurrence to back up for now, if one is due. What comes next
    /// is written down in the item.
    pub(crate) fn plan(
        &self,
        doc: &mut ItemDoc,
        policy: &Policy,
        now: Timestamp,
    ) -> Option<Timestamp> {
        if !doc.is_active() {
            doc.planned = None;
            doc.item.next_backup = None;
            return None;
        }
        let id = doc.item.id.to_bytes();
        // A start that the server has slept through gets a new random start, once: after that it is
        // remembered.
        let slept = doc.planned.is_some_and(|planned| {
            planned.start < self.started.checked_sub(LATE).unwrap_or(Timestamp::MIN)
        });
        let awake = if slept { self.started } else { Timestamp::MIN };
        let mut begin = None;
        match policy.due(doc.handled_until, awake, now, &id) {
            Due::Nothing => {}
            Due::ClockWentBack { handled_until } => doc.handled_until = handled_until,
            Due::Run { run, .. } => {
                let start = match doc.planned {
                    Some(planned) if planned.occurrence == run.occurrence && !slept => {
                        planned.start
                    }
                    _ => run.start,
                };
                if start > now {
                    doc.planned = Some(Planned { occurrence: run.occurrence, start });
                    doc.item.next_backup = Some(start);
                    return None;
                }
                doc.handled_until = run.occurrence;
                begin = Some(run.occurrence);
            }
        }
        let after = begin.unwrap_or(now).max(now);
        let next = policy.next_start(after, &id).filter(|run| run.occurrence > doc.handled_until);
        doc.planned = next.map(|run| Planned { occurrence: run.occurrence, start: run.start });
        doc.item.next_backup = next.map(|run| run.start);
        begin
    }

    /// Plans the items of a policy again, because its rules have changed.
    pub(crate) async fn replan(
        &self,
        tx: &mut Tx,
        policy: &api::Policy,
        now: Timestamp,
    ) -> Result<()> {
        let rules = checked(policy.rules.clone())?;
        let mut token = None;
        loop {
            let filter = Filter::all().eq("policy", policy.id.to_string());
            let query = Query::new(filter).limit(500).after(token);
            let page = tx.list::<ItemDoc>(&query).await?;
            for Stored { mut doc, version } in page.items {
                plan_from(&mut doc, Some(&rules), now);
                tx.update(&doc, version).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// An item comes under a policy now: what has passed of its schedule is no business of the item.
pub(crate) fn plan_from(doc: &mut ItemDoc, policy: Option<&Policy>, now: Timestamp) {
    doc.handled_until = now;
    doc.planned = None;
    doc.item.next_backup = None;
    // Its rules may be others now.
    doc.retention.judge_at = None;
    if let Some(policy) = policy.filter(|_| doc.is_active()) {
        let next = policy.next_start(now, &doc.item.id.to_bytes());
        let next = next.filter(|run| run.occurrence > now).or_else(|| {
            let run = policy.next_occurrence(now)?;
            let start = policy.start_of(run, &doc.item.id.to_bytes())?;
            Some(strongroom_policy::Run { occurrence: run, start })
        });
        doc.planned = next.map(|run| Planned { occurrence: run.occurrence, start: run.start });
        doc.item.next_backup = next.map(|run| run.start);
    }
}
