//! A restore.

use strongroom_agent::{RestoreOrder, Watch};
use strongroom_api::{self as api, PointState, Trigger};
use strongroom_base::{HostId, ItemId, JobId, PointId};

use super::{Outcome, Teller};
use crate::{
    jobs::Event,
    model::{HostDoc, ItemDoc},
    points::point_doc,
    policies::vault_of,
    service::{Control, named},
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
        teller: &Teller,
        watch: &Watch,
    ) -> Outcome {
        let (item, vault, host) = read!(self, tx => {
            let item = named::<ItemDoc>(tx, item).await?.doc;
            let vault = vault_of(tx, &item.item).await?;
            let host = named::<HostDoc>(tx, host).await?.doc.host;
            Ok((item, vault, host))
        })?;
        teller.tell(Event::Point(point));
        let agent = self.agents.agent(&host)?;
        let order = RestoreOrder {
            job,
            vault: vault.access(),
            item: item.item.name.clone(),
            point,
            source: item.item.source.clone(),
            restore,
            limit_rate: self.settings.limit_rate,
        };
        let follow = watch.clone();
        let done = Self::blocking(move || agent.restore(&order, &follow)).await?;
        for warning in &done.warnings {
            teller.tell(Event::Warning(warning.clone()));
        }
        if let Some(facts) = &done.safety_point {
            let state = PointState::Restorable;
            let doc = point_doc(&item.item, facts, state, Trigger::System, Some(job));
            write!(self, tx => {
                tx.put(&doc).await?;
                Ok(())
            })?;
        }
        Ok(Some(done.report))
    }
}
