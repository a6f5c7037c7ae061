//! Retention: which recovery points go when, beside running backups.
//!
//! A reconciler: it looks at what there is and at what the rules say, and brings the one to the
//! other; run again, it does nothing. A point whose time is over is marked to be purged; one that
//! goes before anything had promised it would (because a policy became shorter) is deleted softly
//! first, if its vault does so. Purging is a job, judged by time that no clock can hurry.

use jiff::Timestamp;
use strongroom_api::{self as api, Immutability, PointState, ProtectionState};
use strongroom_base::{ItemId, codes};
use strongroom_catalog::{Filter, Query, ReadTx, Stored};
use strongroom_policy::{self as rules, History, Keep, PointTimes};

use crate::{
    clock::{TRUSTED, TrustedTime},
    error::Result,
    model::{HostDoc, ItemDoc, JobDoc, PointDoc, Spec, VaultDoc},
    policies::{kept_by, policy_of, vault_of},
    service::Control,
    vaults::purge_after,
};

/// How far the clock may be set back before all schedules are looked at anew.
const WENT_BACK: jiff::SignedDuration = jiff::SignedDuration::from_mins(30);

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
        let filter = Filter::all().eq("item", item.to_string()).ne("state", "soft_deleted");
        let page = Query::new(filter).ascending("time").limit(1000).after(token);
        let page = tx.list::<PointDoc>(&page).await?;
        points.extend(page.items);
        match page.next {
            Some(next) => token = Some(next),
            None => return Ok(points),
        }
    }
}

impl Control {
    /// Goes on with the trusted time, and remembers it. Told of a jump: an alert.
    pub(crate) async fn advance_time(&self) -> Result<()> {
        let reading = (self.readings)();
        let now = self.now();
        let (time, went_back) = write!(self, tx => {
            let before: Option<TrustedTime> = Self::setting(tx, TRUSTED).await?;
            let went_back = before
                .as_ref()
                .is_some_and(|before| reading.wall.duration_since(before.wall()) < -WENT_BACK);
            let time = match before {
                Some(before) => before.advance(reading.clone()),
                None => TrustedTime::begin(reading.clone()),
            };
            Self::set(tx, TRUSTED, &time).await?;
            crate::alerts::clock(self, tx, time.behind(), now).await?;
            Ok((time, went_back))
        })?;
        if went_back {
            self.plan_all().await?;
        }
        *self.trusted.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(time);
        Ok(())
    }

    /// Believes the wall clock, because somebody says that it is right.
    pub async fn confirm_clock(&self, caller: &crate::access::Caller) -> Result<()> {
        use crate::access::{Operation, Target};
        self.check(caller, Operation::ManageServer, Target::Server, || {
            crate::ControlError::refused(&codes::REQUEST_NOT_FOUND, "there is nothing here")
        })?;
        self.advance_time().await?;
        write!(self, tx => {
            if let Some(time) = Self::setting::<TrustedTime>(tx, TRUSTED).await? {
                Self::set(tx, TRUSTED, &time.confirm()).await?;
            }
            let detail = serde_json::json!({ "wall": self.now() });
            crate::audit::record(tx, caller, Operation::ManageServer, "clock", detail).await
        })?;
        self.advance_time().await
    }

    /// Knows the trusted time before the service runs, or beside a server that does: nothing is written.
    pub async fn trust_time(&self) -> Result<()> {
        let known = || self.trusted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known().is_some() {
            return Ok(());
        }
        let before = read!(self, tx => { Self::setting::<TrustedTime>(tx, TRUSTED).await })?;
        let reading = (self.readings)();
        let time = match before {
            Some(before) => before.advance(reading),
            None => TrustedTime::begin(reading),
        };
        known().get_or_insert(time);
        Ok(())
    }

    /// The time that purges, and the ends of tokens, are judged by.
    pub(crate) fn trusted_now(&self) -> Timestamp {
        let trusted = self.trusted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        trusted.as_ref().map_or_else(|| self.now(), TrustedTime::now)
    }

    /// How far the wall clock is ahead of what has passed, if it has jumped.
    pub(crate) fn clock_is_ahead(&self) -> Option<jiff::SignedDuration> {
        let trusted = self.trusted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        trusted.as_ref().and_then(TrustedTime::behind)
    }

    /// Judges the points of all items, and begins the jobs that purge.
    pub(crate) async fn retain(&self) -> Result<()> {
        let mut token = None;
        loop {
            let filter = Filter::all().ne("state", "soft_deleted");
            let query = Query::new(filter).limit(200).after(token);
            let page = self.catalog.list::<ItemDoc>(&query).await?;
            for Stored { doc, .. } in page.items {
                self.retain_item(doc.item.id).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        self.begin_purges().await
    }

    /// Judges the points of an item.
    pub(crate) async fn retain_item(&self, item: ItemId) -> Result<()> {
        let trusted = self.trusted_now();
        let now = self.now();
        write!(self, tx => {
            let Some(Stored { doc: item, .. }) = tx.get::<ItemDoc>(&item.to_string()).await?
            else {
                return Ok(());
            };
            if item.item.state == ProtectionState::SoftDeleted {
                return Ok(());
            }
            let vault = vault_of(tx, &item.item).await?.vault;
            let points = live_points(tx, item.item.id).await?;
            // One that is not validated yet is neither good nor bad.
            let (pending, points): (Vec<_>, Vec<_>) =
                points.into_iter().partition(|p| p.doc.point.state == PointState::Pending);
            drop(pending);
            let docs: Vec<PointDoc> = points.iter().map(|stored| stored.doc.clone()).collect();
            let kept = match policy_of(tx, &item.item).await? {
                Some((_, policy)) => rules::evaluate(&policy, &history(&item, &docs).history()),
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
            for (Stored { doc: before, version }, kept) in points.into_iter().zip(kept) {
                let mut doc = before.clone();
                judge(&mut doc, &kept, &vault, trusted, now);
                let stays = newest == Some(doc.point.id) || !doc.is_in_vault();
                if let Some(copy) = &mut doc.point.snapshot {
                    copy.until = (!stays).then_some(kept.snapshot_until);
                }
                if doc != before {
                    tx.update(&doc, version).await?;
                }
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
        read!(self, tx => {
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

    /// Begins a job in each vault that has points to purge, unless one is at work, and one for each
    /// deleted item whose time is over.
    async fn begin_purges(&self) -> Result<()> {
        let trusted = self.trusted_now();
        let all = Query::default().limit(1000);
        for Stored { doc: VaultDoc { vault, .. }, .. } in
            self.catalog.list::<VaultDoc>(&all).await?.items
        {
            let filter = purgeable(&vault, trusted);
            let snapshots = old_snapshots(&vault, trusted);
            let due = read!(self, tx => {
                let points = tx.count::<PointDoc>(&filter).await?;
                Ok(points.saturating_add(tx.count::<PointDoc>(&snapshots).await?))
            });
            if due? > 0 {
                self.begin_once(api::JobKind::Expire, &vault, Spec::Expire { vault: vault.id })
                    .await?;
            }
        }
        let over = Filter::all().eq("state", "soft_deleted").le("purge_after", trusted);
        let items = self.catalog.list::<ItemDoc>(&Query::new(over).limit(200)).await?.items;
        for Stored { doc, .. } in items {
            if doc.item.job.is_none() {
                self.begin_item_purge(doc.item.id).await?;
            }
        }
        self.purge_vaults().await
    }

    /// Removes ended jobs, answers and tokens that nobody needs any more.
    pub(crate) async fn forget_old(&self) -> Result<()> {
        use crate::model::{AnswerDoc, TokenDoc};
        let now = self.now();
        let ago = |hours: i64| {
            now.checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MIN)
        };
        let jobs = ago(i64::from(self.settings.job_history_days) * 24);
        let month = jiff::SignedDuration::from_hours(24 * 30);
        let tokens = self.trusted_now().checked_sub(month).unwrap_or(Timestamp::MIN);
        write!(self, tx => {
            tx.delete_all::<JobDoc>(&Filter::all().lt("ended", jobs)).await?;
            tx.delete_all::<AnswerDoc>(&Filter::all().lt("time", ago(24))).await?;
            tx.delete_all::<TokenDoc>(&Filter::all().lt("expires", tokens)).await?;
            Ok(())
        })?;
        self.forget_notices().await
    }
}

/// The points of a vault that are to be purged by now.
pub(crate) fn purgeable(vault: &api::Vault, trusted: Timestamp) -> Filter {
    Filter::all()
        .eq("vault", vault.id.to_string())
        .eq("state", "soft_deleted")
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
