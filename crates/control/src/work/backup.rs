//! A backup: snapshot, transfer, validation; then it is a recovery point that can be restored.
//!
//! If the host has a vault near its disks, the snapshot goes there, and the transfer copies it into
//! the vault that keeps it. If only the transfer fails, there still is a recovery point: the job is
//! completed with warnings, and the item's next backup transfers it first.

use jiff::Timestamp;
use strongroom_api::{self as api, ErrorBody, PointState, TaskName, TaskState};
use strongroom_base::{Kind, PointId, message};
use strongroom_catalog::Stored;
use strongroom_orders::{BackupDone, BackupOrder, OrderId, Tier, ValidateOrder, Watch};

use super::{
    incremental::incremental_order,
    known::{Known, Wanted},
    outcome::{JobEvents, Outcome},
    progress::result,
    transfer::{in_snapshot_tier, is_final, snapshot_item},
};
use crate::{
    alerts,
    error::ControlError,
    jobs::Event,
    lookup::named,
    model::{ItemDoc, PointDoc},
    points::{point_doc, point_or_snapshot},
    service::Control,
    sources,
};

impl Control {
    pub(super) async fn do_backup(
        &self,
        wanted: Wanted<'_>,
        events: &JobEvents,
        watch: &Watch,
    ) -> Outcome {
        let known = self.known(wanted.job.id, wanted.item).await?;
        let source = &known.item.item.source;
        let rate = self.settings.limit_rate;
        let order = sources::of(source).incremental().map(|it| incremental_order(&known, it, rate));
        if let Some(order) = order {
            return self.do_incremental_backup(&known, order, events, watch).await;
        }
        let agent = self.agent(&known.host)?;
        // What is gone from the vault is to be known before a new point hides it. A vault that cannot
        // be asked says so when the backup opens it.
        if let Err(error) = self.compare_points(&known.vault, Some(&known.item.item)).await {
            tracing::warn!(
                error = error.message,
                "the item's points were not compared with its vault"
            );
        }
        let locked_until = match &known.near {
            Some(_) => None,
            None => self.lock_of_new(&wanted, &known).await?,
        };
        let order = self.backup_order(&wanted, &known, locked_until);
        let (follow, ordered) = (watch.clone(), order.clone());
        let done = Self::blocking(move || agent.backup(&ordered, &follow)).await?;
        let mut gone_through = watch.progress.snapshot();
        for warning in &done.warnings {
            events.send(Event::Warning(warning.clone()));
        }
        let mut point = self.keep_point(&wanted, &known, &done).await?;
        events.send(Event::Point(point.point.id));
        // Those that could not be transferred before come first.
        for waiting in self.waiting_snapshots(wanted.item).await? {
            let is_new = waiting.point.id == point.point.id;
            match self.transfer(&known, &waiting, watch).await {
                Ok(sent) if is_new => {
                    gone_through = watch.progress.snapshot();
                    events.send(Event::Point(sent.point.id));
                    point = sent;
                }
                Ok(sent) => self.finish_point(&known, &sent, watch).await?,
                // Stopped in the middle, it may fail with any error.
                Err(error) if watch.cancel.is_cancelled() => return Err(error),
                Err(error) if is_final(&error, wanted.job) => {
                    let said = Some(error.message.clone());
                    watch.task(TaskName::Transfer, TaskState::Failed, said);
                    // One that is lost or damaged holds up no other; a store that is away would.
                    let is_away = error.kind == Kind::Unavailable;
                    events.send(Event::Warning(*error));
                    if is_away {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        events.send(result(gone_through, point.point.stored_bytes));
        if let Some(warning) = alerts::suspect_warning(&known.item.item, &point.point) {
            events.send(Event::Warning(warning));
        }
        self.finish_point(&known, &point, watch).await?;
        // The next reclaim or measurement tries again.
        if let Err(error) = self.extend_locks(&known.vault, Some(&known.item.item)).await {
            events.send(Event::Warning(*error));
        }
        Ok(Some(done.report))
    }

    /// Validates a point where it is; then it can be restored.
    async fn finish_point(
        &self,
        known: &Known,
        point: &PointDoc,
        watch: &Watch,
    ) -> Result<(), Box<ErrorBody>> {
        self.validate(known, point, watch).await?;
        Ok(self.point_is_good(known, point.point.id).await?)
    }

    fn backup_order(
        &self,
        wanted: &Wanted<'_>,
        known: &Known,
        locked_until: Option<Timestamp>,
    ) -> BackupOrder {
        let item = &known.item.item;
        let policy = known.policy.as_ref();
        let (vault, tier, name) = match &known.near {
            Some(near) => (near.access(), Tier::Snapshot, snapshot_item(item.id)),
            None => (known.vault.access(), Tier::Vault, item.name.clone()),
        };
        BackupOrder {
            job: wanted.job.id,
            vault,
            tier,
            item: name,
            source: item.source.clone(),
            disks: item.disks.clone(),
            consistency: policy
                .map_or(api::ConsistencyWanted::Application, |policy| policy.consistency),
            consistency_required: policy.is_some_and(|policy| policy.consistency_required),
            full_compare_every: self.settings.full_compare_every,
            scratch_dir: None,
            limit_rate: self.settings.limit_rate,
            tags: [("item".to_owned(), item.id.to_string())].into(),
            locked_until,
        }
    }

    /// Writes a point down that was made and is not validated yet. Again after a crash it is there
    /// already, perhaps transferred.
    async fn keep_point(
        &self,
        wanted: &Wanted<'_>,
        known: &Known,
        done: &BackupDone,
    ) -> Result<PointDoc, ControlError> {
        let trigger = wanted.job.trigger;
        let item = &known.item.item;
        let mut doc =
            point_doc(item, &done.point, PointState::Pending, trigger, Some(wanted.job.id));
        doc.occurrence = wanted.occurrence;
        doc.point.retain_until = wanted.retain_until;
        if let Some(near) = &known.near {
            in_snapshot_tier(&mut doc, near.vault.id);
        }
        in_write!(self, tx => {
            if let Some(found) = point_or_snapshot(tx, item.id, done.point.id).await? {
                return Ok(found.doc);
            }
            tx.insert(&doc).await?;
            Ok(doc.clone())
        })
    }

    async fn validate(
        &self,
        known: &Known,
        point: &PointDoc,
        watch: &Watch,
    ) -> Result<(), Box<ErrorBody>> {
        watch.task(TaskName::Validate, TaskState::InProgress, None);
        let keeper = self.keeper.clone();
        let place = self.place_of(&known.vault, &known.item.item, point).await?;
        let point = point.point.id;
        let order = OrderId::of_job(known.job, format_args!("validate/{point}"));
        let order = ValidateOrder { order, vault: place.vault, item: place.item, point };
        let follow = watch.clone();
        let checked = Self::blocking(move || keeper.validate(&order, &follow)).await;
        match checked {
            Ok(notes) => {
                let detail = (!notes.is_empty()).then(|| notes.join("; "));
                watch.task(TaskName::Validate, TaskState::Completed, detail);
                Ok(())
            }
            Err(error) => {
                watch.task(TaskName::Validate, TaskState::Failed, Some(error.message.clone()));
                // Only damage says something of the point.
                if matches!(error.kind, Kind::Corrupt | Kind::NotFound) {
                    self.set_point_state(&known.item.item, point, PointState::Damaged).await?;
                }
                Err(error)
            }
        }
    }

    pub(super) async fn set_point_state(
        &self,
        item: &api::Item,
        point: PointId,
        state: PointState,
    ) -> Result<(), ControlError> {
        let id = PointDoc::id_of(item.id, point);
        in_write!(self, tx => {
            if let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(&id).await? {
                doc.point.state = state;
                tx.update(&doc, version).await?;
                // What keeps the others follows from which are good.
                let mut item = named::<ItemDoc>(tx, item.id).await?;
                item.doc.retention.judge_at = None;
                tx.update(&item.doc, item.version).await?;
            }
            Ok(())
        })
    }

    /// A point can be restored from now on.
    async fn point_is_good(&self, known: &Known, point: PointId) -> Result<(), ControlError> {
        let item = &known.item.item;
        in_write!(self, tx => {
            let id = PointDoc::id_of(item.id, point);
            let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(&id).await? else {
                let message = message!(POINT_NOT_FOUND, "the recovery point {point} is gone from the catalog", point);
                return Err(ControlError::from(message));
            };
            if doc.point.state != PointState::Restorable {
                alerts::suspect(self, tx, item, &doc.point, self.now()).await?;
            }
            doc.point.state = PointState::Restorable;
            tx.update(&doc, version).await?;
            let Stored { doc: mut of, version } = named::<ItemDoc>(tx, item.id).await?;
            of.item.last_point = Some(point);
            of.item.last_backup = Some(doc.point.time);
            tx.update(&of, version).await?;
            Ok(())
        })?;
        // Until when each point is kept follows from the new one.
        self.retain_item(item.id).await
    }
}
