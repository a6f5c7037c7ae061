//! What the orders of a backup need to know, and until when its point is locked.

use jiff::Timestamp;
use strongroom_api as api;
use strongroom_base::{ItemId, JobId};
use strongroom_policy::PointTimes;

use crate::{
    error::ControlError,
    lookup::{named, policy_of, vault_of},
    model::{HostDoc, ItemDoc, PointDoc, VaultDoc},
    service::Control,
};

/// What is to be backed up, and why.
pub(super) struct Wanted<'a> {
    pub(super) job: &'a api::Job,
    pub(super) item: ItemId,
    pub(super) occurrence: Option<Timestamp>,
    pub(super) retain_until: Option<Timestamp>,
}

/// All that an order needs to know.
pub(super) struct Known {
    /// The job that gives it.
    pub(super) job: JobId,
    pub(super) item: ItemDoc,
    pub(super) vault: VaultDoc,
    /// The vault near the source that the point goes into first, if there is one.
    pub(super) near: Option<VaultDoc>,
    pub(super) host: api::Host,
    pub(super) policy: Option<api::Policy>,
}

impl Control {
    /// Reads it.
    pub(super) async fn known(&self, job: JobId, item: ItemId) -> Result<Known, ControlError> {
        in_read!(self, tx => {
            let item = named::<ItemDoc>(tx, item).await?.doc;
            let vault = vault_of(tx, &item.item).await?;
            let host = named::<HostDoc>(tx, item.item.host).await?.doc.host;
            let near = host.snapshot_vault.filter(|near| *near != vault.vault.id);
            let near = match near {
                Some(near) => Some(named::<VaultDoc>(tx, near).await?.doc),
                None => None,
            };
            let policy = policy_of(tx, &item.item).await?.map(|(policy, _)| policy);
            Ok(Known { job, item, vault, near, host, policy })
        })
    }

    /// Until when a new point is locked, if its vault is immutable for ever: as long as it is promised.
    pub(super) async fn lock_of_new(
        &self,
        wanted: &Wanted<'_>,
        known: &Known,
    ) -> Result<Option<Timestamp>, ControlError> {
        let times = PointTimes {
            time: self.now(),
            occurrence: wanted.occurrence,
            on_demand_until: wanted.retain_until,
            good: true,
        };
        self.lock_until(&known.item, &known.vault, times).await
    }

    /// The same of a point that is transferred into its vault.
    pub(super) async fn lock_of(
        &self,
        known: &Known,
        point: &PointDoc,
    ) -> Result<Option<Timestamp>, ControlError> {
        let times = PointTimes {
            time: point.point.time,
            occurrence: point.occurrence,
            on_demand_until: point.point.retain_until,
            good: true,
        };
        self.lock_until(&known.item, &known.vault, times).await
    }
}
