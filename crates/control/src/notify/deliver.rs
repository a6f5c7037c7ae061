//! Delivery: each channel's oldest notice is tried until it is confirmed, refused or too old.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{Alert, AlertState, AlertTest, ChannelTried, ErrorBody, Notice};
use strongroom_base::{AlertId, NoticeId, message};
use strongroom_catalog::{Document as _, Filter, Query, ReadTx, Stored};
use tokio::{sync::watch, task::JoinSet};

use super::{Channel, GIVE_UP, NOTICED, PATIENCE, Undelivered, pause};
use crate::{
    alerts::{self, Rule},
    audit,
    error::{ControlError, Result},
    lookup::cut,
    model::{AlertDoc, NoticeDoc},
    pulse::Delivery,
    rights::{Caller, Operation, Target, forbidden},
    service::Control,
};

/// How often it is looked whether there is something to send.
const TICK: Duration = Duration::from_secs(1);

/// After something was sent, alerts wait this many times as long for others.
const LONGER: u32 = 10;

/// How long nothing is asked of the catalog though nothing has changed.
const ANYWAY: Duration = Duration::from_secs(30);

/// That there was nothing to send, so that an idle server does not ask the catalog each second.
#[derive(Debug, Default)]
struct Quiet {
    /// How many changes of alerts and notices there had been, and when.
    seen: Option<(u64, Duration)>,
}

impl Quiet {
    /// There is nothing to send. The changes were counted before that was looked up.
    fn begins(&mut self, changes: u64, now: Duration) {
        self.seen = Some((changes, now));
    }

    /// Whether that is still so.
    fn lasts(&self, changes: u64, now: Duration) -> bool {
        self.seen.is_some_and(|(before, at)| before == changes && now.saturating_sub(at) < ANYWAY)
    }
}

impl Control {
    /// Sends notices of alerts until the server stops.
    pub(crate) async fn keep_notifying(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let bundle = Duration::from_secs(self.settings.alert_bundle_seconds.into());
        let (mut since, mut sent) = (None, None::<Duration>);
        let mut quiet = Quiet::default();
        while !*stop.borrow() {
            let now = self.clock.monotonic();
            let changes = self.catalog.changes(&[AlertDoc::KIND, NoticeDoc::KIND]);
            if !quiet.lasts(changes, now) {
                let round: Result<()> = async {
                    let (unsent, waiting) = self.owed().await?;
                    if unsent > 0 {
                        let waited = now.saturating_sub(*since.get_or_insert(now));
                        let pause = sent.map(|sent| now.saturating_sub(sent));
                        let rested =
                            pause.is_none_or(|pause| pause >= bundle.saturating_mul(LONGER));
                        if waited >= bundle && rested {
                            self.gather().await?;
                            (since, sent) = (None, Some(now));
                        }
                    } else if waiting == 0 {
                        quiet.begins(changes, now);
                        return Ok(());
                    }
                    self.deliver().await
                }
                .await;
                if let Err(error) = round {
                    let body = error.body();
                    tracing::error!(
                        code = body.code.as_str(),
                        error = body.message,
                        "alerts cannot be sent"
                    );
                }
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Sends at once what is unsent, as far as it is time for another try. For callers with a clock
    /// of their own.
    pub async fn send_alerts(self: &Arc<Self>) -> Result<()> {
        self.gather().await?;
        self.deliver().await
    }

    /// Tries what is due, by all channels at once: none waits for another.
    async fn deliver(self: &Arc<Self>) -> Result<()> {
        let mut works = JoinSet::new();
        for channel in &self.channels {
            let (control, channel) = (Arc::clone(self), Arc::clone(channel));
            works.spawn(async move { control.deliver_by(&*channel).await });
        }
        let mut done = Ok(());
        while let Some(ended) = works.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(failed) => done = failed,
                Err(error) => tracing::error!(%error, "a channel met a defect"),
            }
        }
        done
    }

    /// Sends a channel's notices in order, until there is none or one fails.
    async fn deliver_by(&self, channel: &dyn Channel) -> Result<()> {
        while let Some(doc) = self.begin_try(channel.name()).await? {
            let sent = send(channel, &doc.notice).await;
            let name = channel.name();
            match sent {
                Ok(()) => {
                    tracing::info!(channel = name, notice = %doc.notice.id, alerts = doc.notice.alerts.len(), "alerts were sent");
                    self.pulse.delivered(name, Delivery::Delivered);
                    self.confirmed(&doc).await?;
                }
                Err(error) => {
                    let goes_on = self.failed(doc, &error).await?;
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// The oldest notice of a channel, if it is time to try it; that it is tried is written down.
    async fn begin_try(&self, channel: &str) -> Result<Option<NoticeDoc>> {
        let now = self.now();
        let waiting = Filter::all().eq("channel", channel).not_null("next");
        let oldest = Query::new(waiting).ascending("time").limit(1);
        // Most often there is nothing, which needs no turn among those that write.
        let found = in_read!(self, tx => { Ok(tx.first::<NoticeDoc>(&oldest).await?) })?;
        let due = |doc: &NoticeDoc| doc.next.is_some_and(|next| next <= now);
        if !found.is_some_and(|found| due(&found.doc)) {
            return Ok(None);
        }
        in_write!(self, tx => {
            let Some(Stored { mut doc, version }) = tx.first::<NoticeDoc>(&oldest).await? else {
                return Ok(None);
            };
            doc.tries = doc.tries.saturating_add(1);
            doc.next = Some(now.checked_add(pause(doc.tries)).unwrap_or(Timestamp::MAX));
            tx.update(&doc, version).await?;
            Ok(Some(doc))
        })
    }

    /// A notice has arrived: the channel works, and what was given up before is history.
    async fn confirmed(&self, doc: &NoticeDoc) -> Result<()> {
        let now = self.now();
        in_write!(self, tx => {
            tx.delete::<NoticeDoc>(&doc.notice.id.to_string(), None).await?;
            let given_up = Filter::all().eq("channel", doc.channel.as_str()).is_null("next");
            tx.delete_all::<NoticeDoc>(&given_up).await?;
            alerts::delivered(tx, &doc.channel, now).await
        })
    }

    /// A try has failed. Whether the next notice has its turn, because this one is given up.
    async fn failed(&self, mut doc: NoticeDoc, error: &Undelivered) -> Result<bool> {
        let now = self.now();
        let age = now.duration_since(doc.notice.time);
        let given_up = error.refused || age >= GIVE_UP;
        let (channel, notice, reason) = (&doc.channel, doc.notice.id, &error.reason);
        if given_up {
            tracing::error!(channel, %notice, tries = doc.tries, reason, "alerts are not sent: given up");
            self.pulse.delivered(channel, Delivery::GivenUp);
        } else {
            tracing::warn!(channel, %notice, tries = doc.tries, reason, "alerts could not be sent; trying again later");
            self.pulse.delivered(channel, Delivery::Failed);
        }
        doc.error = Some(reason.clone());
        if given_up {
            doc.next = None;
        }
        in_write!(self, tx => {
            tx.put(&doc).await?;
            if given_up || doc.tries == NOTICED {
                alerts::undelivered(self, tx, &doc.channel, reason, now).await?;
            }
            Ok(given_up)
        })
    }

    /// Forgets notices of channels that are no more, and what was given up long ago.
    pub(crate) async fn forget_notices(&self) -> Result<()> {
        let month = SignedDuration::from_hours(24 * 30);
        let old = self.now().checked_sub(month).unwrap_or(Timestamp::MIN);
        let old = Filter::all().lt("time", old);
        if in_read!(self, tx => { Ok(tx.count::<NoticeDoc>(&old).await?) })? == 0 {
            return Ok(());
        }
        in_write!(self, tx => {
            tx.delete_all::<NoticeDoc>(&old).await?;
            Ok(())
        })
    }

    /// Which channels do not work, and why.
    pub(crate) async fn silent_channels(&self, tx: &mut ReadTx) -> Result<Vec<ErrorBody>> {
        let mut found = Vec::new();
        for channel in &self.channels {
            let of = Filter::all().eq("channel", channel.name());
            let lost = of.clone().is_null("next");
            let given_up = tx.count::<NoticeDoc>(&lost).await?;
            let failing = of.ge("tries", i64::from(NOTICED));
            let mut last = tx.first::<NoticeDoc>(&Query::new(failing).descending("time")).await?;
            if last.is_none() {
                last = tx.first::<NoticeDoc>(&Query::new(lost).descending("time")).await?;
            }
            let Some(last) = last else { continue };
            let reason = last.doc.error.unwrap_or_else(|| "no answer".to_owned());
            let channel = channel.name();
            let message = if given_up > 0 {
                message!(
                    ALERT_UNDELIVERED,
                    "alerts cannot be sent through the channel {channel} ({given_up} given up): {reason}",
                    channel,
                    given_up,
                    reason
                )
            } else {
                message!(
                    ALERT_UNDELIVERED,
                    "alerts cannot be sent through the channel {channel}: {reason}",
                    channel,
                    reason
                )
            };
            found.push(message.into());
        }
        Ok(found)
    }

    /// How many notices wait and were given up, for each channel.
    pub async fn notices(&self) -> Result<Vec<(String, u64, u64)>> {
        in_read!(self, tx => {
            let mut found = Vec::new();
            for channel in &self.channels {
                let of = Filter::all().eq("channel", channel.name());
                let waiting = tx.count::<NoticeDoc>(&of.clone().not_null("next")).await?;
                let given_up = tx.count::<NoticeDoc>(&of.is_null("next")).await?;
                found.push((channel.name().to_owned(), waiting, given_up));
            }
            Ok(found)
        })
    }

    /// Tries one channel, or all, with an alert that is no more than that.
    pub async fn test_alerts(
        &self,
        caller: &Caller,
        request: AlertTest,
    ) -> Result<Vec<ChannelTried>> {
        let operation = Operation::TestAlerts;
        self.check(caller, operation, Target::Server, || forbidden(caller, operation))?;
        let wanted = |channel: &&Arc<dyn Channel>| {
            request.channel.as_ref().is_none_or(|name| name == channel.name())
        };
        let channels: Vec<_> = self.channels.iter().filter(wanted).cloned().collect();
        if let (true, Some(name)) = (channels.is_empty(), &request.channel) {
            let message = message!(
                ALERT_NO_CHANNEL,
                "there is no channel {channel:?} for alerts",
                channel = cut(name)
            );
            return Err(ControlError::from(message));
        }
        in_write!(self, tx => {
            let detail = serde_json::json!(request);
            audit::record(tx, caller, operation, "alerts", detail).await
        })?;
        let mut works = JoinSet::new();
        for (place, channel) in channels.into_iter().enumerate() {
            let notice = self.example(caller);
            works.spawn(async move { (place, tried(&*channel, &notice).await) });
        }
        let mut found: Vec<(usize, ChannelTried)> = works.join_all().await;
        found.sort_by_key(|(place, _)| *place);
        Ok(found.into_iter().map(|(_, tried)| tried).collect())
    }

    /// A notice that says that somebody tries.
    fn example(&self, caller: &Caller) -> Notice {
        let now = self.now();
        let alert = Alert {
            id: AlertId::generate(&*self.clock, &*self.entropy),
            rule: Rule::Test.name().to_owned(),
            severity: Rule::Test.severity(),
            state: AlertState::Firing,
            title: format!("{} tries whether alerts arrive: they do", caller.name),
            error: None,
            subject: "alerts".to_owned(),
            vault: None,
            item: None,
            job: None,
            count: 1,
            first: now,
            last: now,
            resolved: None,
        };
        let id = NoticeId::generate(&*self.clock, &*self.entropy);
        Notice { id, time: now, test: true, alerts: vec![alert] }
    }
}

async fn send(channel: &dyn Channel, notice: &Notice) -> Result<(), Undelivered> {
    let Ok(sent) = tokio::time::timeout(PATIENCE, channel.send(notice)).await else {
        let seconds = PATIENCE.as_secs();
        return Err(Undelivered::passing(format!("there was no answer for {seconds} s")));
    };
    sent
}

async fn tried(channel: &dyn Channel, notice: &Notice) -> ChannelTried {
    let failed = send(channel, notice).await.err();
    ChannelTried {
        channel: channel.name().to_owned(),
        kind: channel.kind().to_owned(),
        error: failed
            .map(|error| message!(ALERT_UNDELIVERED, "{reason}", reason = error.reason).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_until_something_changes_or_half_a_minute_is_over() {
        let at = Duration::from_secs;
        let mut quiet = Quiet::default();
        assert!(!quiet.lasts(0, at(0)), "nobody has looked yet");
        quiet.begins(7, at(100));
        assert!(quiet.lasts(7, at(129)));
        assert!(!quiet.lasts(8, at(101)));
        assert!(!quiet.lasts(7, at(130)));
        quiet.begins(7, at(130));
        assert!(quiet.lasts(7, at(159)));
    }
}
