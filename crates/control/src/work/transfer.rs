//! The snapshot tier: recovery points near their sources, and their transfer into the vault that keeps
//! them.
//!
//! A host may have a vault near its disks. There, points are of items that are named by their id, as
//! items of several vaults may have one name. A transferred point has the id that it got in its vault;
//! the id of its copy near the source is known with it, and is understood as well.

use strongroom_api::{self as api, ErrorBody, Job, PointState, RecoveryPointType, SnapshotCopy};
use strongroom_base::{ItemId, Kind, VaultId, codes};
use strongroom_catalog::{Filter, Query, Stored};
use strongroom_orders::{OrderId, TransferOrder, VaultAccess, Watch};

use super::known::Known;
use crate::{
    error::ControlError,
    jobs::Retry,
    lookup::named,
    model::{HostDoc, ItemDoc, PointDoc, VaultDoc},
    points::{point_doc, point_or_snapshot},
    service::Control,
};

/// An item's name in a vault near its source.
pub(super) fn snapshot_item(item: ItemId) -> String {
    item.to_string()
}

/// Says of a new point that it is near its source, and nowhere else.
pub(super) fn in_snapshot_tier(doc: &mut PointDoc, near: VaultId) {
    doc.point.kind = RecoveryPointType::Snapshot;
    doc.point.snapshot = Some(SnapshotCopy { vault: near, id: doc.point.id, until: None });
}

/// Whether a transfer that failed so is given up, so that the job ends. The next one tries again.
pub(super) fn is_final(error: &ErrorBody, job: &Job) -> bool {
    let interrupted = error.kind == Kind::Interrupted;
    let again = error.retryable && job.current_try() < Retry::USUAL.attempts;
    !interrupted && !again
}

/// Where a point is.
pub(crate) struct Place {
    pub(crate) vault: VaultAccess,
    /// The item's name there.
    pub(crate) item: String,
}

impl Control {
    /// Where a point is: in the vault that keeps it, else near its source.
    pub(super) async fn place_of(
        &self,
        vault: &VaultDoc,
        item: &api::Item,
        point: &PointDoc,
    ) -> Result<Place, Box<ErrorBody>> {
        match &point.point.snapshot {
            Some(copy) if !point.is_in_vault() => self.snapshot_place(item, copy).await,
            _ => Ok(Place { vault: vault.access(), item: item.name.clone() }),
        }
    }

    /// Where the copy of a point is that is near its source.
    pub(crate) async fn snapshot_place(
        &self,
        item: &api::Item,
        copy: &SnapshotCopy,
    ) -> Result<Place, Box<ErrorBody>> {
        let vault = self.work_vault(copy.vault).await?.access();
        Ok(Place { vault, item: snapshot_item(item.id) })
    }

    /// The points of an item that are near its source only, oldest first.
    pub(super) async fn waiting_snapshots(
        &self,
        item: ItemId,
    ) -> Result<Vec<PointDoc>, ControlError> {
        let kind = RecoveryPointType::Snapshot.name();
        let waiting = Filter::all().eq("item", item.to_string()).eq("kind", kind);
        let waiting = waiting
            .one_of("state", [PointState::Pending, PointState::Restorable].map(PointState::name));
        let query = Query::new(waiting).ascending("time").limit(1000);
        let found = self.catalog.list::<PointDoc>(&query).await?.items;
        Ok(found.into_iter().map(|stored| stored.doc).collect())
    }

    /// Copies a point into the vault that keeps it, and gives it the id that it has there. It is to be
    /// validated there, but can be restored meanwhile if it could be before.
    pub(super) async fn transfer(
        &self,
        known: &Known,
        point: &PointDoc,
        watch: &Watch,
    ) -> Result<PointDoc, Box<ErrorBody>> {
        let item = &known.item.item;
        let copy = point.point.snapshot.as_ref().ok_or_else(|| {
            let message = "a point near its source that has no copy there";
            Box::new(ErrorBody::new(&codes::BUG, message))
        })?;
        let from = self.snapshot_place(item, copy).await?;
        let host = in_read!(self, tx => { named::<HostDoc>(tx, item.host).await })?.doc.host;
        let agent = self.agent(&host)?;
        let locked_until = self.lock_of(known, point).await?;
        let order = TransferOrder {
            order: OrderId::of_job(known.job, format_args!("transfer/{}", copy.id)),
            from: from.vault,
            from_item: from.item,
            point: copy.id,
            to: known.vault.access(),
            to_item: item.name.clone(),
            locked_until,
            limit_rate: self.settings.limit_rate,
        };
        let follow = watch.clone();
        let done = Self::blocking(move || agent.transfer(&order, &follow)).await?;
        let sent = in_write!(self, tx => {
            let found = point_or_snapshot(tx, item.id, copy.id).await?;
            let Stored { doc: old, version } = found.ok_or_else(|| {
                let message = "the recovery point was deleted while it was transferred";
                ControlError::refused(&codes::POINT_NOT_FOUND, message)
            })?;
            if old.is_in_vault() {
                return Ok(old);
            }
            let facts = &done.point;
            let fresh = point_doc(item, facts, old.point.state, old.point.trigger, old.point.job);
            let mut doc = PointDoc { point: fresh.point, ..old.clone() };
            doc.point.kind = RecoveryPointType::SnapshotAndVault;
            doc.point.snapshot = old.point.snapshot.clone();
            doc.point.retain_until = old.point.retain_until;
            doc.point.expires = old.point.expires;
            doc.point.kept_by.clone_from(&old.point.kept_by);
            tx.delete::<PointDoc>(&PointDoc::id_of(item.id, old.point.id), version).await?;
            tx.insert(&doc).await?;
            let Stored { doc: mut of, version } = named::<ItemDoc>(tx, item.id).await?;
            if of.item.last_point == Some(old.point.id) {
                of.item.last_point = Some(doc.point.id);
                tx.update(&of, version).await?;
            }
            Ok(doc)
        });
        Ok(sent?)
    }
}
