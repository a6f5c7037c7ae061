//! Checks that each item's newest restorable point is as new as its policy promises, whatever becomes of jobs, and
//! finds items without a schedule.
//!
//! A reconciler, like that of purges: it compares how things are with the alerts that hold. It asks
//! nothing of jobs, so it also finds what goes wrong in a way that nobody has thought of.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{BehindItem, PointState};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_policy::Policy;

use super::{Happening, Rule, key, raise, resolve_key};
use crate::{
    access::seen::seen,
    error::{ControlError, Result},
    lookup::policy_of,
    model::{AlertDoc, ItemDoc, PointDoc},
    rights::Sight,
    service::Control,
    sources,
};

/// How late a point may be: a quarter of the schedule's pause, but no less and no more than this.
const SHORTEST_GRACE: SignedDuration = SignedDuration::from_mins(30);
const LONGEST_GRACE: SignedDuration = SignedDuration::from_hours(6);

/// What is wrong with an item.
enum Broken {
    /// Its newest restorable point is older than promised.
    Behind(BehindItem),
    /// It has no policy.
    Unscheduled,
}

impl Control {
    /// Raises an alert for each item that is not backed up as promised, and resolves those of which that
    /// is so no more.
    pub(crate) async fn alert_of_promises(&self) -> Result<()> {
        let now = self.now();
        let mut wanted = BTreeMap::new();
        let mut token = None;
        loop {
            let query = Query::default().limit(500).after(token);
            let page = in_read!(self, tx => {
                let page = tx.list::<ItemDoc>(&query).await?;
                for Stored { doc, .. } in page.items {
                    let broken = match broken(tx, &doc, now).await {
                        // An item whose policy is gone, or is none, has no schedule either.
                        Err(ControlError::Refused(_)) => Some(Broken::Unscheduled),
                        broken => broken?,
                    };
                    if let Some(broken) = broken {
                        let rule = broken.rule();
                        let item = &doc.item;
                        let key = key(rule, &item.name, Some(item.vault), Some(item.id));
                        wanted.insert(key, (doc, broken));
                    }
                }
                Ok(page.next)
            });
            match page? {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        let holding = in_read!(self, tx => { holding(tx).await })?;
        let is_right = |key: &String| wanted.contains_key(key);
        if holding.iter().all(is_right) && holding.len() == wanted.len() {
            return Ok(());
        }
        in_write!(self, tx => {
            for key in holding.iter().filter(|key| !is_right(key)) {
                resolve_key(tx, key, now).await?;
            }
            for (key, (doc, broken)) in &wanted {
                if holding.contains(key) {
                    continue;
                }
                let what = Happening {
                    rule: broken.rule(),
                    title: broken.title(&doc.item.name),
                    error: doc.item.error.clone(),
                    subject: &doc.item.name,
                    vault: Some(doc.item.vault),
                    item: Some(doc.item.id),
                    job: doc.item.job,
                };
                raise(self, tx, what, now).await?;
            }
            Ok(())
        })
    }

    /// The first items of a filter whose newest restorable point is older than promised, by their alerts.
    pub(crate) async fn behind_items(
        &self,
        tx: &mut ReadTx,
        sight: &Sight,
        limit: usize,
    ) -> Result<Vec<BehindItem>> {
        let rule = seen::<AlertDoc>(sight).eq("rule", Rule::RpoMissed.name()).not_null("key");
        let alerts = tx.list::<AlertDoc>(&Query::new(rule).limit(limit)).await?.items;
        let mut found = Vec::new();
        for item in alerts.into_iter().filter_map(|stored| stored.doc.alert.item) {
            let Some(Stored { doc, .. }) = tx.get::<ItemDoc>(&item.to_string()).await? else {
                continue;
            };
            if let Some(Broken::Behind(item)) = broken(tx, &doc, self.now()).await? {
                found.push(item);
            }
        }
        found.sort_by_key(|item| item.due);
        Ok(found)
    }
}

impl Broken {
    const fn rule(&self) -> Rule {
        match self {
            Self::Behind(_) => Rule::RpoMissed,
            Self::Unscheduled => Rule::NoSchedule,
        }
    }

    fn title(&self, name: &str) -> String {
        match self {
            Self::Unscheduled => format!("{name} has no policy, so no scheduled backups"),
            Self::Behind(BehindItem { due, newest_point: Some(newest), .. }) => format!(
                "the newest recovery point of {name} is of {newest:.0}, older than its policy \
                 promises: a newer one was due {due:.0}"
            ),
            Self::Behind(BehindItem { due, .. }) => {
                format!("{name} has no recovery point that can be restored; one was due {due:.0}")
            }
        }
    }
}

/// The keys of the alerts of these kinds that hold.
async fn holding(tx: &mut ReadTx) -> Result<Vec<String>> {
    let (mut keys, mut token) = (Vec::new(), None);
    loop {
        let rules = [Rule::RpoMissed, Rule::NoSchedule].map(Rule::name);
        let query = Query::new(Filter::all().one_of("rule", rules).not_null("key"));
        let page = tx.list::<AlertDoc>(&query.limit(500).after(token)).await?;
        keys.extend(page.items.into_iter().filter_map(|stored| stored.doc.key));
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(keys),
        }
    }
}

async fn broken(tx: &mut ReadTx, doc: &ItemDoc, now: Timestamp) -> Result<Option<Broken>> {
    if !doc.is_active() {
        return Ok(None);
    }
    let item = &doc.item;
    let Some((_, policy)) = policy_of(tx, item).await? else {
        return Ok(Some(Broken::Unscheduled));
    };
    let newest = newest_restorable(tx, doc).await?;
    let begun = doc.active_since.unwrap_or(item.created);
    let since = newest.map_or(begun, |newest| newest.max(begun));
    Ok(late_since(&policy, &item.id.to_bytes(), since, now).map(|due| {
        Broken::Behind(BehindItem {
            item: item.id,
            name: item.name.clone(),
            vault: item.vault,
            newest_point: newest,
            due,
            job: item.job,
        })
    }))
}

/// When the point should have been begun that is newer than `since`, if it is late by more than it may.
fn late_since(policy: &Policy, item: &[u8], since: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let due = policy.next_start(since, item)?.start;
    if due > now {
        return None;
    }
    let pause = policy.next_start(due, item).map(|next| next.start.duration_since(due));
    let pause = pause.unwrap_or(LONGEST_GRACE);
    let grace = (pause / 4).clamp(SHORTEST_GRACE, LONGEST_GRACE);
    (now.duration_since(due) > grace).then_some(due)
}

/// When the newest point of an item was made that can be restored.
async fn newest_restorable(tx: &mut ReadTx, doc: &ItemDoc) -> Result<Option<Timestamp>> {
    let item = doc.item.id;
    if sources::is_incremental(&doc.item.source) {
        return Ok(doc.item.last_backup);
    }
    if let Some(last) = doc.item.last_point {
        let found = tx.get::<PointDoc>(&PointDoc::id_of(item, last)).await?;
        let good = |found: &Stored<PointDoc>| found.doc.point.state == PointState::Restorable;
        if let Some(Stored { doc, .. }) = found.filter(good) {
            return Ok(Some(doc.point.time));
        }
    }
    let good = Filter::all().eq("item", item.to_string());
    let good = good.eq("state", PointState::Restorable.name());
    let newest = tx.first::<PointDoc>(&Query::new(good).descending("time").limit(1)).await?;
    Ok(newest.map(|stored| stored.doc.point.time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_may_be_late_by_a_quarter_of_the_pause() {
        let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
        // Daily; six hours.
        let policy = Policy::default_standard();
        let since = at("2026-03-01T12:00:00Z");
        let due = policy.next_start(since, b"item").expect("a start").start;
        let after = |minutes: i64| {
            let now = due.checked_add(SignedDuration::from_mins(minutes)).expect("a time");
            late_since(&policy, b"item", since, now)
        };
        assert_eq!((after(-60), after(0), after(6 * 60)), (None, None, None));
        assert_eq!(after(6 * 60 + 1), Some(due));
        assert_eq!(after(30 * 24 * 60), Some(due));
    }
}
