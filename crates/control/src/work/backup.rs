//! A backup: snapshot, transfer, validation; then it is a recovery point that can be restored.

use jiff::Timestamp;
use strongroom_agent::{BackupDone, BackupOrder, Watch};
use strongroom_api::{self as api, ErrorBody, PointState, TaskState};
use strongroom_base::{ItemId, PointId, codes};
use strongroom_catalog::Stored;

use super::{Outcome, Teller};
use crate::{
    error::ControlError,
    jobs::Event,
    model::{HostDoc, ItemDoc, PointDoc, VaultDoc},
    points::point_doc,
    policies::{policy_of, vault_of},
    service::{Control, named},
};

/// What is to be backed up, and why.
pub(super) struct Wanted<'a> {
    pub(super) job: &'a api::Job,
    pub(super) item: ItemId,
    pub(super) occurrence: Option<Timestamp>,
    pub(super) retain_until: Option<Timestamp>,
}

/// All that an order needs to know.
struct Known {
    item: ItemDoc,
    vault: VaultDoc,
    host: api::Host,
    policy: Option<api::Policy>,
}

impl Control {
    async fn known(&self, item: ItemId) -> Result<Known, ControlError> {
        read!(self, tx => {
            let item = named::<ItemDoc>(tx, item).await?.doc;
            let vault = vault_of(tx, &item.item).await?;
            let host = named::<HostDoc>(tx, item.item.host).await?.doc.host;
            let policy = policy_of(tx, &item.item).await?.map(|(policy, _)| policy);
            Ok(Known { item, vault, host, policy })
        })
    }

    pub(super) async fn do_backup(
        &self,
        wanted: Wanted<'_>,
        teller: &Teller,
        watch: &Watch,
    ) -> Outcome {
        let known = self.known(wanted.item).await?;
        let agent = self.agents.agent(&known.host)?;
        let order = self.backup_order(&wanted, &known);
        let (follow, ordered) = (watch.clone(), order.clone());
        let done = Self::blocking(move || agent.backup(&ordered, &follow)).await?;
        for warning in &done.warnings {
            teller.tell(Event::Warning(warning.clone()));
        }
        self.keep_point(&wanted, &known, &done).await?;
        teller.tell(Event::Point(done.point.id));
        self.validate(&known, done.point.id, watch).await?;
        self.point_is_good(&known, done.point.id).await?;
        Ok(Some(done.report))
    }

    fn backup_order(&self, wanted: &Wanted<'_>, known: &Known) -> BackupOrder {
        let item = &known.item.item;
        let policy = known.policy.as_ref();
        BackupOrder {
            job: wanted.job.id,
            vault: known.vault.access(),
            item: item.name.clone(),
            source: item.source.clone(),
            disks: item.disks.clone(),
            consistency: policy
                .map_or(api::ConsistencyWanted::Application, |policy| policy.consistency),
            consistency_required: policy.is_some_and(|policy| policy.consistency_required),
            full_compare_every: self.settings.full_compare_every,
            scratch_dir: None,
            limit_rate: self.settings.limit_rate,
            tags: [("item".to_owned(), item.id.to_string())].into(),
        }
    }

    /// Writes a point down that is in the vault and not validated yet. Again after a crash it is there
    /// already.
    async fn keep_point(
        &self,
        wanted: &Wanted<'_>,
        known: &Known,
        done: &BackupDone,
    ) -> Result<(), ControlError> {
        let trigger = wanted.job.trigger;
        let item = &known.item.item;
        let mut doc =
            point_doc(item, &done.point, PointState::Pending, trigger, Some(wanted.job.id));
        doc.occurrence = wanted.occurrence;
        doc.point.retain_until = wanted.retain_until;
        write!(self, tx => {
            let id = PointDoc::id_of(item.id, done.point.id);
            if tx.get::<PointDoc>(&id).await?.is_none() {
                tx.insert(&doc).await?;
            }
            Ok(())
        })
    }

    async fn validate(
        &self,
        known: &Known,
        point: PointId,
        watch: &Watch,
    ) -> Result<(), Box<ErrorBody>> {
        watch.task("validate", TaskState::InProgress, None);
        let keeper = self.keeper.clone();
        let (access, name) = (known.vault.access(), known.item.item.name.clone());
        let follow = watch.clone();
        let checked = Self::blocking(move || keeper.validate(&access, &name, point, &follow)).await;
        match checked {
            Ok(notes) => {
                let detail = (!notes.is_empty()).then(|| notes.join("; "));
                watch.task("validate", TaskState::Completed, detail);
                Ok(())
            }
            Err(error) => {
                watch.task("validate", TaskState::Failed, Some(error.message.clone()));
                // Only damage says something of the point.
                if matches!(error.kind.as_str(), "corrupt" | "not_found") {
                    self.set_point_state(&known.item.item, point, PointState::Damaged).await?;
                }
                Err(error)
            }
        }
    }

    async fn set_point_state(
        &self,
        item: &api::Item,
        point: PointId,
        state: PointState,
    ) -> Result<(), ControlError> {
        let id = PointDoc::id_of(item.id, point);
        write!(self, tx => {
            if let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(&id).await? {
                doc.point.state = state;
                tx.update(&doc, version).await?;
            }
            Ok(())
        })
    }

    /// A point can be restored from now on.
    async fn point_is_good(&self, known: &Known, point: PointId) -> Result<(), ControlError> {
        let item = &known.item.item;
        write!(self, tx => {
            let id = PointDoc::id_of(item.id, point);
            let Some(Stored { mut doc, version }) = tx.get::<PointDoc>(&id).await? else {
                let message = format!("the recovery point {point} is gone from the catalog");
                return Err(ControlError::refused(&codes::POINT_NOT_FOUND, message));
            };
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
