//! Retention: which recovery points go when, beside running backups.
//!
//! A reconciler: it compares the points with the rules and applies the difference; run again, it does
//! nothing. It marks an expired point for a purge. A point that would go earlier than any policy ever
//! promised (because a policy became shorter) is soft-deleted first, if its vault has soft delete. Purging
//! is a job, judged by trusted time.
//!
//! This module owns until when a point is kept and when its data may go. It must not know how data is removed.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{
    self as api, Immutability, PointState, ProtectionState, SoftDelete, SoftDeleteState,
};
use strongroom_base::ItemId;
use strongroom_catalog::{Filter, Query, ReadTx, Stored, Tx};
use strongroom_policy::{self as rules, History, Keep, PointTimes};

use crate::{
    error::Result,
    lookup::{policy_of, vault_of},
    model::{HostDoc, ItemDoc, JobDoc, PointDoc, SettingDoc, Spec, VaultDoc},
    service::Control,
};

/// Points are judged at least so often, whatever is due: about a day, and not all items at once.
fn at_least(item: ItemId) -> SignedDuration {
    let spread = item.to_bytes().last().copied().unwrap_or(0);
    SignedDuration::from_hours(20).saturating_add(SignedDuration::from_mins(i64::from(spread)))
}

/// What retention has to know of an item.
pub(crate) struct ItemHistory {
    times: Vec<PointTimes>,
    protected_since: Timestamp,
    keep: Keep,
}

impl ItemHistory {
    /// As the rules want it.
    pub(crate) fn history(&self) -> History<'_> {
        History { points: &self.times, protected_since: self.protected_since, keep: self.keep }
    }
}

/// The history of an item, in the order of its points.
pub(crate) fn history(item: &ItemDoc, points: &[PointDoc]) -> ItemHistory {
    let times = points.iter().map(|doc| PointTimes {
        time: doc.point.time,
        occurrence: doc.occurrence,
        on_demand_until: doc.point.retain_until,
        good: doc.point.state == PointState::Restorable,
    });
    ItemHistory {
        times: times.collect(),
        protected_since: item.item.created,
        keep: if item.item.state == ProtectionState::ProtectionStopped {
            Keep::ForEver
        } else {
            Keep::AsPerPolicy
        },
    }
}

/// The points of an item that are not deleted, oldest first.
pub(crate) async fn live_points(tx: &mut ReadTx, item: ItemId) -> Result<Vec<Stored<PointDoc>>> {
    let mut points = Vec::new();
    let mut token = None;
    loop {
        let filter =
            Filter::all().eq("item", item.to_string()).ne("state", PointState::SoftDeleted.name());
        let page = Query::new(filter).ascending("time").limit(1000).after(token);
        let page = tx.list::<PointDoc>(&page).await?;
        points.extend(page.items);
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(points),
        }
    }
}

/// The setting in which it is kept that all items of a vault or on a host are to be judged.
const JUDGE: &str = "judge/";

/// All items of a vault or on a host are to be judged again: the rules have changed.
pub(crate) async fn judge_all(
    tx: &mut Tx,
    column: &'static str,
    id: impl std::fmt::Display,
) -> Result<()> {
    Control::set(tx, &format!("{JUDGE}{column}/{id}"), &()).await
}

/// How an item's points were judged.
struct Judged {
    /// Those that are others now.
    changed: Vec<Stored<PointDoc>>,
    /// The item, if it is another now.
    item: Option<Stored<ItemDoc>>,
}

impl Control {
    /// Judges the points of all items of which something may be due, and begins the jobs that purge.
    pub(crate) async fn retain(&self) -> Result<()> {
        let all = Query::new(Filter::all().prefix("id", JUDGE)).limit(1000);
        for Stored { doc: wanted, version } in self.catalog.list::<SettingDoc>(&all).await?.items {
            if let Some((column @ ("vault" | "host"), id)) =
                wanted.name.strip_prefix(JUDGE).and_then(|name| name.split_once('/'))
            {
                self.retain_items(Filter::all().eq(column.to_owned(), id)).await?;
            }
            in_write!(self, tx => {
                // Somebody may want it again meanwhile.
                if tx.get::<SettingDoc>(&wanted.name).await?.is_some_and(|it| it.version == version) {
                    tx.delete::<SettingDoc>(&wanted.name, version).await?;
                }
                Ok(())
            })?;
        }
        self.retain_items(Filter::all().le("judge_at", self.trusted_now())).await?;
        self.begin_purges().await
    }

    async fn retain_items(&self, which: Filter) -> Result<()> {
        let filter = which.ne("state", PointState::SoftDeleted.name());
        let mut token = None;
        loop {
            let query = Query::new(filter.clone()).limit(200).after(token);
            let page = self.catalog.list::<ItemDoc>(&query).await?;
            for Stored { doc, .. } in page.items {
                self.retain_item(doc.item.id).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Judges the points of an item. Only what is another then is written.
    pub(crate) async fn retain_item(&self, item: ItemId) -> Result<()> {
        let found = in_read!(self, tx => { self.judge_item(tx, item).await })?;
        if found.is_none_or(|found| found.changed.is_empty() && found.item.is_none()) {
            return Ok(());
        }
        in_write!(self, tx => {
            let Some(Judged { changed, item }) = self.judge_item(tx, item).await? else {
                return Ok(());
            };
            for Stored { doc, version } in changed {
                tx.update(&doc, version).await?;
            }
            if let Some(Stored { doc, version }) = item {
                tx.update(&doc, version).await?;
            }
            Ok(())
        })
    }

    /// Until when a point of these times is locked, if its vault can never be made mutable again: as
    /// long as the rules promise it.
    pub(crate) async fn lock_until(
        &self,
        item: &ItemDoc,
        vault: &VaultDoc,
        times: PointTimes,
    ) -> Result<Option<Timestamp>> {
        if vault.vault.immutability != Immutability::Locked {
            return Ok(None);
        }
        in_read!(self, tx => {
            let Some((_, policy)) = policy_of(tx, &item.item).await? else {
                return Ok(times.on_demand_until);
            };
            let points = live_points(tx, item.item.id).await?;
            let docs: Vec<PointDoc> = points.into_iter().map(|stored| stored.doc).collect();
            let mut history = history(item, &docs);
            history.times.push(times);
            let kept = rules::evaluate(&policy, &history.history());
            Ok(kept.last().and_then(|kept| kept.until).filter(|until| *until < Timestamp::MAX))
        })
    }

    async fn judge_item(&self, tx: &mut ReadTx, item: ItemId) -> Result<Option<Judged>> {
        let (now, trusted) = (self.now(), self.trusted_now());
        let Some(mut stored) = tx.get::<ItemDoc>(&item.to_string()).await? else {
            return Ok(None);
        };
        if stored.doc.item.state == ProtectionState::SoftDeleted {
            return Ok(None);
        }
        let item = &stored.doc;
        let vault = vault_of(tx, &item.item).await?.vault;
        // One that is not validated yet is neither good nor bad.
        let mut points = live_points(tx, item.item.id).await?;
        points.retain(|stored| stored.doc.point.state != PointState::Pending);
        let docs: Vec<PointDoc> = points.iter().map(|stored| stored.doc.clone()).collect();
        let kept = match policy_of(tx, &item.item).await? {
            Some((_, policy)) => rules::evaluate(&policy, &history(item, &docs).history()),
            None => without_policy(&docs),
        };
        // The newest one near the source is what the next transfer starts from.
        let host = tx.get::<HostDoc>(&item.item.host.to_string()).await?;
        let near = host.and_then(|host| host.doc.host.snapshot_vault);
        let is_base = |doc: &&PointDoc| {
            let copy = doc.point.snapshot.as_ref();
            doc.is_in_vault() && near.is_some() && copy.map(|copy| copy.vault) == near
        };
        let newest = docs.iter().rev().find(is_base);
        let newest = newest.map(|doc| doc.point.id);
        let mut retention = stored.doc.retention;
        let mut next = trusted.checked_add(at_least(item.item.id)).unwrap_or(Timestamp::MAX);
        let mut changed = Vec::new();
        for (Stored { doc: before, version }, kept) in points.into_iter().zip(kept) {
            let mut doc = before.clone();
            judge(&mut doc, &kept, &vault, trusted, now);
            let stays = newest == Some(doc.point.id) || !doc.is_in_vault();
            if let Some(copy) = &mut doc.point.snapshot {
                copy.until = (!stays).then_some(kept.snapshot_until);
            }
            if doc.point.state != PointState::SoftDeleted {
                let times = [doc.point.expires, doc.promised].into_iter().flatten();
                next = times.filter(|time| *time > trusted).fold(next, Timestamp::min);
            } else if doc.cut {
                retention.edits = retention.edits.saturating_add(1);
            }
            if doc != before {
                changed.push(Stored { doc, version });
            }
        }
        // What was deleted now may change what keeps the others.
        let deleted = |stored: &Stored<PointDoc>| stored.doc.point.state == PointState::SoftDeleted;
        retention.judge_at = (!changed.iter().any(deleted)).then_some(next);
        // Later by less than the least pause is the same: nothing has happened.
        let same = stored.doc.retention.judge_at.is_some_and(|at| at > trusted && at <= next);
        if same && retention.edits == stored.doc.retention.edits && retention.judge_at.is_some() {
            return Ok(Some(Judged { changed, item: None }));
        }
        stored.doc.retention = retention;
        Ok(Some(Judged { changed, item: Some(stored) }))
    }

    /// Begins a job in each vault that has points to purge, unless one is at work, and one for each
    /// deleted item that has expired.
    async fn begin_purges(&self) -> Result<()> {
        let trusted = self.trusted_now();
        let all = Query::default().limit(1000);
        for Stored { doc: VaultDoc { vault, .. }, .. } in
            self.catalog.list::<VaultDoc>(&all).await?.items
        {
            let filter = purgeable(&vault, trusted);
            let snapshots = old_snapshots(&vault, trusted);
            let due = in_read!(self, tx => {
                let points = tx.count::<PointDoc>(&filter).await?;
                Ok(points.saturating_add(tx.count::<PointDoc>(&snapshots).await?))
            });
            if due? > 0 {
                self.begin_once(api::JobKind::Expire, &vault, Spec::Expire { vault: vault.id })
                    .await?;
            }
        }
        let over = Filter::all()
            .eq("state", ProtectionState::SoftDeleted.name())
            .le("purge_after", trusted);
        let items = self.catalog.list::<ItemDoc>(&Query::new(over).limit(200)).await?.items;
        for Stored { doc, .. } in items {
            if doc.item.job.is_none() {
                self.begin_item_purge(doc.item.id).await?;
            }
        }
        self.purge_vaults().await
    }

    /// Removes ended jobs, requests with their answers, and tokens that nobody needs any more.
    pub(crate) async fn forget_old(&self) -> Result<()> {
        use crate::model::{RequestDoc, TokenDoc};
        let now = self.now();
        let ago = |hours: i64| {
            now.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MIN)
        };
        let jobs = ago(i64::from(self.settings.job_history_days) * 24);
        let month = SignedDuration::from_hours(24 * 30);
        let month_ago = self.trusted_now().checked_sub(month).unwrap_or(Timestamp::MIN);
        let jobs = Filter::all().lt("ended", jobs);
        let requests = Filter::all().lt("time", ago(24));
        let tokens = Filter::all().lt("expires", month_ago);
        let old = in_read!(self, tx => {
            let of = [
                tx.count::<JobDoc>(&jobs).await?,
                tx.count::<RequestDoc>(&requests).await?,
                tx.count::<TokenDoc>(&tokens).await?,
            ];
            Ok(of.into_iter().any(|count| count > 0))
        })?;
        if old {
            in_write!(self, tx => {
                tx.delete_all::<JobDoc>(&jobs).await?;
                tx.delete_all::<RequestDoc>(&requests).await?;
                tx.delete_all::<TokenDoc>(&tokens).await?;
                Ok(())
            })?;
        }
        self.forget_notices().await
    }
}

/// The points of a vault that are to be purged by now.
pub(crate) fn purgeable(vault: &api::Vault, trusted: Timestamp) -> Filter {
    Filter::all()
        .eq("vault", vault.id.to_string())
        .eq("state", PointState::SoftDeleted.name())
        .le("purge_after", trusted)
}

/// The points of a vault whose copies near their sources are to go by now.
pub(crate) fn old_snapshots(vault: &api::Vault, trusted: Timestamp) -> Filter {
    Filter::all().eq("vault", vault.id.to_string()).le("snapshot_until", trusted)
}

/// Without a policy a point is kept as long as somebody said, else for ever; the last good one is
/// always kept.
fn without_policy(points: &[PointDoc]) -> Vec<rules::Kept> {
    // Rules that promise less than any: what is on demand is kept by itself, the rest for ever.
    let policy = rules::Policy::default_standard();
    let times: Vec<PointTimes> = points
        .iter()
        .map(|doc| PointTimes {
            time: doc.point.time,
            occurrence: None,
            on_demand_until: Some(doc.point.retain_until.unwrap_or(Timestamp::MAX)),
            good: doc.point.state == PointState::Restorable,
        })
        .collect();
    let history =
        History { points: &times, protected_since: Timestamp::MIN, keep: Keep::AsPerPolicy };
    rules::evaluate(&policy, &history)
}

/// What becomes of a point.
fn judge(
    doc: &mut PointDoc,
    kept: &rules::Kept,
    vault: &api::Vault,
    trusted: Timestamp,
    now: Timestamp,
) {
    let until = kept.until.filter(|until| *until < Timestamp::MAX);
    doc.point.expires = kept.removable_from().filter(|from| *from < Timestamp::MAX);
    doc.point.kept_by = kept_by(kept);
    // The longest that was ever promised; a point that is new was promised nothing yet.
    let new = doc.promised.is_none() && doc.point.kept_by.is_empty();
    doc.promised = if new { until } else { doc.promised.max(until) };
    if !kept.is_expired(trusted) {
        return;
    }
    let early = doc.promised.is_none_or(|promised| promised > trusted);
    if early && vault.immutability != Immutability::Disabled {
        return;
    }
    doc.point.state = PointState::SoftDeleted;
    doc.point.deleted = Some(now);
    doc.cut = early;
    doc.point.purge_after =
        Some(if early { purge_after(trusted, vault.soft_delete) } else { trusted });
}

/// When what is deleted now can no longer be undeleted.
pub(crate) fn purge_after(now: Timestamp, soft_delete: SoftDelete) -> Timestamp {
    if soft_delete.state == SoftDeleteState::Disabled {
        return now;
    }
    let days = SignedDuration::from_hours(i64::from(soft_delete.retention_days) * 24);
    now.checked_add(days).unwrap_or(Timestamp::MAX)
}

/// Words of retention's rules, for the API.
fn kept_by(kept: &rules::Kept) -> Vec<String> {
    let words: BTreeSet<String> = kept
        .rules
        .iter()
        .filter_map(|rule| serde_json::to_value(rule).ok()?.as_str().map(str::to_owned))
        .collect();
    words.into_iter().collect()
}
