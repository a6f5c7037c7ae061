//! The outbox: which alerts are unsent, written down as notices in one transaction.

use std::collections::BTreeMap;

use jiff::Timestamp;
use strongroom_api::{Alert, Notice};
use strongroom_base::NoticeId;
use strongroom_catalog::{Filter, Query, Stored, Tx};

use super::{Channel, TOGETHER};
use crate::{
    alerts::Rule,
    error::Result,
    model::{AlertDoc, NoticeDoc},
    service::Control,
};

impl Control {
    /// How many alerts are in no notice yet, and how many notices wait for a channel.
    pub(super) async fn owed(&self) -> Result<(u64, u64)> {
        let unsent = Filter::all().eq("untold", true);
        let channels = self.channels.iter().map(|channel| channel.name());
        let waiting = Filter::all().one_of("channel", channels).not_null("next");
        in_read!(self, tx => {
            Ok((tx.count::<AlertDoc>(&unsent).await?, tx.count::<NoticeDoc>(&waiting).await?))
        })
    }

    /// Writes notices of all unsent alerts; without channels they count as sent.
    pub(super) async fn gather(&self) -> Result<()> {
        while self.gather_some().await? == TOGETHER {}
        Ok(())
    }

    async fn gather_some(&self) -> Result<usize> {
        let now = self.now();
        in_write!(self, tx => {
            let unsent = Query::new(Filter::all().eq("untold", true)).limit(TOGETHER);
            let unsent = tx.list::<AlertDoc>(&unsent).await?.items;
            for channel in &self.channels {
                let alerts = unsent.iter().map(|stored| &stored.doc.alert);
                let alerts: Vec<Alert> =
                    alerts.filter(|alert| concerns(channel.as_ref(), alert)).cloned().collect();
                if !alerts.is_empty() {
                    self.add(tx, channel.name(), alerts, now).await?;
                }
            }
            let count = unsent.len();
            for Stored { mut doc, version } in unsent {
                doc.unsent = false;
                tx.update(&doc, version).await?;
            }
            Ok(count)
        })
    }

    /// Adds alerts to the notice of a channel that was not tried yet, or to a new one.
    async fn add(
        &self,
        tx: &mut Tx,
        channel: &str,
        alerts: Vec<Alert>,
        now: Timestamp,
    ) -> Result<()> {
        let untried = Filter::all().eq("channel", channel).eq("tries", 0_i64).not_null("next");
        let untried = tx.first::<NoticeDoc>(&Query::new(untried).descending("time")).await?;
        let room = |stored: &Stored<NoticeDoc>| {
            stored.doc.notice.alerts.len().saturating_add(alerts.len()) <= TOGETHER
        };
        if let Some(Stored { mut doc, version }) = untried.filter(room) {
            doc.notice.alerts.extend(alerts);
            doc.notice.alerts = ordered(doc.notice.alerts);
            tx.update(&doc, version).await?;
            return Ok(());
        }
        let id = NoticeId::generate(&*self.clock, &*self.entropy);
        let notice = Notice { id, time: now, test: false, alerts: ordered(alerts) };
        let channel = channel.to_owned();
        tx.insert(&NoticeDoc { notice, channel, tries: 0, next: Some(now), error: None }).await?;
        Ok(())
    }
}

/// Whether an alert is sent through a channel. No channel sends its own failure.
fn concerns(channel: &dyn Channel, alert: &Alert) -> bool {
    let own = alert.rule == Rule::Undelivered.name() && alert.subject == channel.name();
    alert.severity <= channel.least() && !own
}

/// Each alert once, as it was last; the worst and oldest first.
fn ordered(alerts: Vec<Alert>) -> Vec<Alert> {
    let latest: BTreeMap<_, _> = alerts.into_iter().map(|alert| (alert.id, alert)).collect();
    let mut alerts: Vec<Alert> = latest.into_values().collect();
    alerts.sort_by_key(|alert| (alert.severity, alert.first));
    alerts
}
