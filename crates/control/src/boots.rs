//! Boot verifications: asked for by somebody, begun by policies, and what is known of them.
//!
//! This module owns which recovery point is booted when, and who may see what its machine showed. How a machine is booted is
//! the matter of the agent, what follows from the result that of `work`.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use strongroom_api::{
    self as api, BootPolicy, BootWanted, BootWhen, JobKind, JobState, PointState, RecoveryPoint,
    Report, Trigger,
};
use strongroom_base::{HostId, JobId, PointId, message};
use strongroom_catalog::{Document as _, Filter, Query, Stored, Tx};
use strongroom_orders::BootEvidence;
use strongroom_policy::{BootRule, BootablePoint, to_boot};

use crate::{
    audit,
    error::{ControlError, Result},
    items::check_not_deleted,
    lookup::{check_active, find_item, no_item, vault_of},
    model::{ItemDoc, JobDoc, PointDoc, PolicyDoc, Spec},
    points::{check_restorable, find_point},
    rights::{Caller, Operation, Target},
    service::Control,
    sources,
    wanted::check_wanted,
};

/// How long a policy leaves an item alone whose verification could not be made, or was cancelled.
const PAUSE: SignedDuration = SignedDuration::from_hours(6);
/// How many points of an item a policy looks at: the newest.
const POINTS: usize = 100;

/// What is seen of a machine that was booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootSight {
    /// The picture of its screen.
    Screenshot,
    /// The text of its console.
    Console,
}

impl BootSight {
    const fn name(self) -> &'static str {
        match self {
            Self::Screenshot => "screenshot",
            Self::Console => "console",
        }
    }
}

/// What of an item is not booted yet.
enum Waits {
    /// A verification is at work.
    All,
    /// The verifications of these points could not be made a short time ago.
    Points(HashSet<PointId>),
}

/// An item whose policy wants a point booted.
struct Candidate {
    item: ItemDoc,
    point: PointId,
    wanted: BootWanted,
    /// When a point of the item was booted last.
    last: Option<Timestamp>,
}

impl Control {
    /// Boots a machine from a recovery point in isolation.
    pub async fn verify_boot(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
        wanted: BootWanted,
    ) -> Result<JobId> {
        let begun = in_write!(self, tx => {
            let Stored { doc, .. } = find_item(tx, item).await?;
            let target = Target::Item(doc.item.vault, doc.item.id);
            self.check(caller, Operation::VerifyBoot, target, || no_item(item))?;
            check_wanted(&wanted)?;
            check_not_deleted(&doc.item)?;
            if sources::machine_uuid(&doc.item.source).is_none() {
                let message = message!(
                    REQUEST_INVALID,
                    "the item {name} protects no machine, so nothing can be booted",
                    name = doc.item.name
                );
                return Err(ControlError::from(message));
            }
            check_active(&vault_of(tx, &doc.item).await?.vault)?;
            let point = find_point(tx, doc.item.id, point).await?.doc;
            check_point(&point)?;
            let detail = json!({ "point": point.point.id, "wanted": wanted });
            let asked = (Trigger::OnDemand, caller.name.as_str());
            let begun = self.begin_boot(tx, &doc, point.point.id, wanted.clone(), asked).await?;
            audit::record(tx, caller, Operation::VerifyBoot, &doc.item.name, detail).await?;
            Ok(begun)
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    /// The report of the newest boot verification of a recovery point.
    pub async fn boot_report(&self, caller: &Caller, item: &str, point: &str) -> Result<Report> {
        let of = self.item(caller, item).await?.value;
        let point = in_read!(self, tx => { find_point(tx, of.id, point).await })?.doc.point;
        Ok(self.boot_evidence(&of, &point).await?.report)
    }

    /// What a machine showed that was booted: its format and its bytes.
    pub async fn boot_sight(
        &self,
        caller: &Caller,
        item: &str,
        point: &str,
        sight: BootSight,
    ) -> Result<(String, Vec<u8>)> {
        let of = self.item(caller, item).await?.value;
        let target = Target::Item(of.vault, of.id);
        self.check(caller, Operation::VerifyBoot, target, || no_item(item))?;
        let point = in_read!(self, tx => { find_point(tx, of.id, point).await })?.doc.point;
        let evidence = self.boot_evidence(&of, &point).await?;
        let seen = match sight {
            BootSight::Screenshot => evidence.screenshot,
            BootSight::Console => Some(("text/plain; charset=utf-8".to_owned(), evidence.console)),
        };
        let seen = seen.ok_or_else(|| none_of(&of, point.id))?;
        let name = format!("{}/{}", of.name, point.id);
        let detail = json!({ "what": sight.name() });
        in_write!(self, tx => {
            audit::record(tx, caller, Operation::VerifyBoot, &name, detail.clone()).await
        })?;
        Ok(seen)
    }

    async fn boot_evidence(&self, item: &api::Item, point: &RecoveryPoint) -> Result<BootEvidence> {
        let access = in_read!(self, tx => { vault_of(tx, item).await })?.access();
        let (keeper, name, id) = (self.keeper.clone(), item.name.clone(), point.id);
        let found = Self::blocking(move || keeper.boot(&access, &name, id)).await?;
        found.ok_or_else(|| none_of(item, point.id))
    }

    /// Begins the boot verifications that policies want: one at a time on a host, and the item first whose last one is
    /// the longest ago. How many.
    pub(crate) async fn begin_boot_verifications(&self) -> Result<u64> {
        let now = self.now();
        let mut candidates = self.boot_candidates(now).await?;
        candidates.sort_by_key(|one| (one.last, one.item.item.id));
        let (mut begun, mut busy) = (0_u64, HashSet::<HostId>::new());
        for Candidate { item, point, wanted, .. } in candidates {
            if !busy.insert(item.item.host) {
                continue;
            }
            let is_begun = in_write!(self, tx => {
                let open = open_boots().eq("host", item.item.host.to_string());
                if tx.count::<JobDoc>(&open).await? > 0 {
                    return Ok(false);
                }
                let asked = (Trigger::Scheduled, "system");
                self.begin_boot(tx, &item, point, wanted.clone(), asked).await?;
                Ok(true)
            })?;
            begun = begun.saturating_add(u64::from(is_begun));
        }
        if begun > 0 {
            self.wake.notify_one();
        }
        Ok(begun)
    }

    async fn boot_candidates(&self, now: Timestamp) -> Result<Vec<Candidate>> {
        let (mut candidates, mut token) = (Vec::new(), None);
        loop {
            let query = Query::default().limit(500).after(token);
            let page = self.catalog.list::<PolicyDoc>(&query).await?;
            for Stored { doc: policy, .. } in page.items {
                let Some((rule, boot)) = rule_of(&policy) else { continue };
                self.candidates_of(&policy, rule, &boot.wanted, now, &mut candidates).await?;
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(candidates),
            }
        }
    }

    async fn candidates_of(
        &self,
        policy: &PolicyDoc,
        rule: BootRule,
        wanted: &BootWanted,
        now: Timestamp,
        candidates: &mut Vec<Candidate>,
    ) -> Result<()> {
        let by_policy = Filter::all().eq("policy", policy.id());
        let mut token = None;
        loop {
            let query = Query::new(by_policy.clone()).limit(500).after(token);
            let page = self.catalog.list::<ItemDoc>(&query).await?;
            for Stored { doc: item, .. } in page.items {
                let is_machine = sources::machine_uuid(&item.item.source).is_some();
                if !item.is_active() || !is_machine {
                    continue;
                }
                let Waits::Points(waiting) = self.boot_waits(&item, policy, now).await? else {
                    continue;
                };
                let good = Filter::all()
                    .eq("item", item.item.id.to_string())
                    .eq("state", PointState::Restorable.name());
                let newest = Query::new(good).descending("time").limit(POINTS);
                let points = self.catalog.list::<PointDoc>(&newest).await?.items;
                let points = points.iter().map(|stored| &stored.doc);
                let points: Vec<_> = points
                    .filter(|doc| doc.is_in_vault())
                    .map(|doc| bootable(&doc.point))
                    .collect();
                // One that waits does not hold up those after it; a newest one that waits is still the newest.
                let is_every = matches!(rule, BootRule::EveryPoint(_));
                let ready = points.iter().filter(|point| !is_every || !waiting.contains(&point.id));
                let ready: Vec<_> = ready.copied().collect();
                let chosen = to_boot(rule, &ready, now);
                if let Some(point) = chosen.filter(|point| !waiting.contains(point)) {
                    let last = points.iter().filter_map(|point| point.booted).max();
                    candidates.push(Candidate { item, point, wanted: wanted.clone(), last });
                }
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Whether the item's last verification has not ended, or is not to be repeated yet.
    async fn boot_waits(
        &self,
        item: &ItemDoc,
        policy: &PolicyDoc,
        now: Timestamp,
    ) -> Result<Waits> {
        let of_item = Filter::all()
            .eq("item", item.item.id.to_string())
            .eq("kind", JobKind::VerifyBoot.name());
        let last = Query::new(of_item).descending("created").limit(POINTS);
        let jobs = self.catalog.list::<JobDoc>(&last).await?.items;
        let mut points = HashSet::new();
        for Stored { doc: JobDoc { job, .. }, .. } in jobs {
            let Some(ended) = job.ended else { return Ok(Waits::All) };
            let is_bad = matches!(job.state, JobState::Failed | JobState::Cancelled);
            let is_fresh = now.duration_since(ended).abs() < PAUSE;
            // What was wrong may be right now.
            let is_as_asked = policy.boot_changed.is_none_or(|changed| changed <= job.created);
            if is_bad && is_fresh && is_as_asked {
                points.extend(job.recovery_point);
            }
        }
        Ok(Waits::Points(points))
    }

    /// Writes a verification down. It does not take the item's turn: a backup must not wait for it.
    async fn begin_boot(
        &self,
        tx: &mut Tx,
        item: &ItemDoc,
        point: PointId,
        wanted: BootWanted,
        (trigger, by): (Trigger, &str),
    ) -> Result<JobId> {
        let spec = Spec::VerifyBoot { item: item.item.id, point, wanted: Box::new(wanted) };
        let mut job = self.new_job(spec, &item.item.name, trigger, by);
        job.job.vault = Some(item.item.vault);
        job.job.host = Some(item.item.host);
        job.job.recovery_point = Some(point);
        self.begin(tx, job).await
    }
}

/// Verifications that have not ended.
fn open_boots() -> Filter {
    Filter::all().eq("kind", JobKind::VerifyBoot.name()).is_null("ended")
}

/// Which points a policy wants booted, if any.
fn rule_of(policy: &PolicyDoc) -> Option<(BootRule, &BootPolicy)> {
    let boot = policy.policy.boot.as_ref()?;
    let since = policy.boot_since.unwrap_or(policy.policy.created);
    let rule = match boot.when {
        BootWhen::Never => return None,
        BootWhen::EveryPoint => BootRule::EveryPoint(since),
        BootWhen::Newest => BootRule::Newest,
        BootWhen::Weekly => BootRule::Weekly,
    };
    Some((rule, boot))
}

fn bootable(point: &RecoveryPoint) -> BootablePoint {
    let booted = point.boot.as_ref().map(|boot| boot.begun);
    BootablePoint { id: point.id, completed: point.completed, booted }
}

fn none_of(item: &api::Item, point: PointId) -> ControlError {
    ControlError::from(message!(
        BOOT_NOT_FOUND,
        "recovery point {point} of {item} was never booted to verify it, or its screen was not seen",
        item = item.name,
        point
    ))
}

/// What is to be proved is what the vault has: a point that is only near its source is not booted.
fn check_point(doc: &PointDoc) -> Result<()> {
    let point = &doc.point;
    check_restorable(point)?;
    if !doc.is_in_vault() {
        let message = message!(
            POINT_SNAPSHOT_ONLY,
            "the recovery point {point} is not in the vault yet",
            point = point.id
        );
        return Err(ControlError::from(message));
    }
    Ok(())
}
