//! `recoverypoint forget`: retention by rules, without a server.

use std::path::PathBuf;

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use strongroom_base::{Clock as _, PointId};
use strongroom_format::Manifest;
use strongroom_policy::{
    DailyRetention, History, HourlyRetention, Keep, MonthlyRetention, PointTimes, Policy,
    PolicyKind, PolicyRules, Retention, Schedule, TimeOfDay, WeeklyRetention, YearlyRetention,
    evaluate,
};
use strongroom_vault::{Vault, VaultError};

use crate::{
    args::OpenArgs,
    complete,
    confirm::{ConfirmArgs, Plan},
    context::{self, Context},
    error::Failure,
    human,
    open::open_vault,
    out::Show,
    values,
    views::{DamagedPointView, all_readable},
};

use super::service::policy_rules::{Rule, monthly, read, weekly, yearly};

/// Delete recovery points by retention rules
///
/// This is retention for vaults without a server: run it from cron or a systemd timer, and then
/// `vault reclaim`, which frees the space. A server does this by its policies; this command always
/// works directly on a vault.
///
/// The rules are those of policies (docs/use/policies.md), from a policy file or given as options.
/// A day's rules apply to the last recovery point of the day; the longest rule wins. Ages are
/// counted from the item's newest recovery point, so neither a pause of backups nor a clock that is
/// ahead makes a point older. The command always keeps the newest recovery point of each item,
/// points that it cannot read, and locked points.
///
/// On a terminal the command shows what it would delete, and asks. Elsewhere it needs --yes.
#[derive(Debug, Args)]
#[command(
    visible_alias = "prune",
    group = clap::ArgGroup::new("rules").multiple(true).required(true),
    after_help = "\
Examples:
  strongroom recoverypoint forget --keep-daily 14 --keep-weekly sun:8 --dry-run
  strongroom recoverypoint forget --item web01 --keep-last 10
  strongroom recoverypoint forget --policy-file nightly.json --yes"
)]
pub(crate) struct ForgetArgs {
    /// The item [default: all]
    #[arg(long, value_name = "NAME", value_parser = values::name, add = complete::items_of_vaults())]
    item: Option<String>,

    #[command(flatten)]
    keep: KeepArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,

    #[command(flatten)]
    open: OpenArgs,
}

/// The retention rules.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rules")]
pub(crate) struct KeepArgs {
    /// Use the retention rules of a policy file, JSON or TOML; its schedule is ignored
    #[arg(long, value_name = "FILE", group = "rules", conflicts_with_all = [
        "keep_all", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "time_zone"
    ])]
    policy_file: Option<PathBuf>,

    /// Keep this number of newest recovery points of each item, whatever their age
    #[arg(long, value_name = "NUMBER", group = "rules", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: Option<u32>,

    /// Keep every recovery point for this number of days
    #[arg(long, value_name = "DAYS", group = "rules")]
    keep_all: Option<u16>,

    /// Keep the last recovery point of every day for this number of days
    #[arg(long, value_name = "DAYS", group = "rules")]
    keep_daily: Option<u16>,

    /// Keep the points of some weekdays for a number of weeks: sun:12
    #[arg(long, value_name = "DAY,DAY:WEEKS", group = "rules", value_parser = weekly)]
    keep_weekly: Option<Rule<WeeklyRetention>>,

    /// Keep the points of some days of the month for a number of months: first-sun:12, 1,15,last:6
    #[arg(long, value_name = "DAYS:MONTHS", group = "rules", value_parser = monthly)]
    keep_monthly: Option<Rule<MonthlyRetention>>,

    /// Keep the points of some days of some months for a number of years: jan/first-sun:10,
    /// jan,jul/1:5
    #[arg(long, value_name = "MONTHS/DAYS:YEARS", group = "rules", value_parser = yearly)]
    keep_yearly: Option<Rule<YearlyRetention>>,

    /// Time zone of the days: Europe/Berlin [default: this host's]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

impl KeepArgs {
    /// The rules by days, checked; none if only a number is kept.
    fn policy(&self) -> Result<Option<Policy>, Failure> {
        if let Some(file) = &self.policy_file {
            return Ok(Some(Policy::try_from(read(file)?)?));
        }
        let weekly = self.keep_weekly.as_ref().and_then(|rule| rule.0.clone());
        let retention = Retention {
            hourly: self.keep_all.map(|days| HourlyRetention { days }),
            daily: self.keep_daily.map(|days| DailyRetention { days }),
            weekly: weekly.clone(),
            monthly: self.keep_monthly.as_ref().and_then(|rule| rule.0.clone()),
            yearly: self.keep_yearly.as_ref().and_then(|rule| rule.0.clone()),
        };
        if retention == Retention::default() {
            return Ok(None);
        }
        // When backups are made plays no part, but rules are checked with a schedule.
        let times = [TimeOfDay::MIDNIGHT].into();
        let (schedule, snapshot_days) = match (weekly, self.keep_daily) {
            (Some(WeeklyRetention { weekdays, .. }), None) => {
                (Schedule::Weekly { weekdays, times }, None)
            }
            _ => (Schedule::Daily { times }, Some(1)),
        };
        let zone = || TimeZone::system().iana_name().unwrap_or("UTC").to_owned();
        let rules = PolicyRules {
            kind: PolicyKind::Enhanced,
            time_zone: self.time_zone.clone().unwrap_or_else(zone),
            schedule,
            snapshot_retention_days: snapshot_days,
            retention,
            ..PolicyRules::default_standard()
        };
        Ok(Some(Policy::try_from(rules)?))
    }
}

/// A recovery point that rules do not keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Forgotten {
    recovery_point: PointId,
    time: Timestamp,
}

/// The decision about the points of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ForgottenItem {
    item: String,
    kept: u64,
    /// The kept points that are kept only because they are locked.
    locked: u64,
    deleted: Vec<Forgotten>,
}

/// `recoverypoint forget`.
#[derive(Debug, Serialize)]
struct Forgetting {
    dry_run: bool,
    items: Vec<ForgottenItem>,
}

impl ForgetArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let policy = self.keep.policy()?;
        let last =
            self.keep.keep_last.map_or(1, |last| usize::try_from(last).unwrap_or(usize::MAX));
        let vault = open_vault(context, &self.open, None)?;
        let list = vault.list_points(self.item.as_deref())?;
        let damaged: Vec<_> = list.damaged.into_iter().map(DamagedPointView::from).collect();
        let now = context.clock.now();
        let mut items = Vec::new();
        for points in list.points.chunk_by(|one, next| one.item == next.item) {
            items.extend(judge(&vault, policy.as_ref(), last, points, now)?);
        }
        let mut result = Forgetting { dry_run: self.confirm.is_dry_run(), items };
        let count = result.count();
        if result.dry_run || count == 0 {
            context.out.result(&result)?;
            return all_readable(&damaged);
        }
        if self.confirm.wants_plan() {
            let points = human::count(count, "recovery point");
            let gone = result.items.iter().filter(|item| !item.deleted.is_empty());
            let plan = gone.fold(Plan::new(format!("Delete {points}")), |plan, item| {
                item.consequences().into_iter().fold(plan, Plan::with)
            });
            if !self.confirm.go(context, &plan.with("there is no way back"))? {
                return Ok(());
            }
        }
        let host = context::host();
        for item in &mut result.items {
            let mut deleted = Vec::new();
            for point in item.deleted.drain(..) {
                match vault.delete_point(&item.item, point.recovery_point, &host) {
                    Ok(()) | Err(VaultError::PointNotFound { .. }) => deleted.push(point),
                    // It was locked meanwhile.
                    Err(VaultError::Locked { .. }) => item.locked = item.locked.saturating_add(1),
                    Err(error) => return Err(error.into()),
                }
            }
            item.deleted = deleted;
        }
        context.out.result(&result)?;
        all_readable(&damaged)
    }
}

/// Applies the rules to an item's points, which come in the order in which they were made.
fn judge(
    vault: &Vault,
    policy: Option<&Policy>,
    last: usize,
    points: &[Manifest],
    now: Timestamp,
) -> Result<Option<ForgottenItem>, Failure> {
    let Some(newest) = points.last() else { return Ok(None) };
    let times: Vec<PointTimes> = points.iter().map(|point| PointTimes::at(point.time)).collect();
    let history =
        History { points: &times, protected_since: Timestamp::MIN, keep: Keep::AsPerPolicy };
    // A clock that is ahead makes nothing older than its newer points do.
    let as_of = now.min(newest.time);
    let expired: Vec<bool> = match policy {
        Some(policy) => {
            evaluate(policy, &history).iter().map(|kept| kept.is_expired(as_of)).collect()
        }
        None => vec![true; points.len()],
    };
    let newer = points.len().saturating_sub(last);
    let (mut kept, mut locked, mut deleted) = (0_u64, 0_u64, Vec::new());
    for (place, (point, expired)) in points.iter().zip(expired).enumerate() {
        if !expired || place >= newer {
            kept = kept.saturating_add(1);
        } else if vault.locked_until(point)?.is_some_and(|until| until > now) {
            kept = kept.saturating_add(1);
            locked = locked.saturating_add(1);
        } else {
            deleted.push(Forgotten { recovery_point: point.id, time: point.time });
        }
    }
    Ok(Some(ForgottenItem { item: newest.item.clone(), kept, locked, deleted }))
}

impl Forgetting {
    fn count(&self) -> u64 {
        let count = |item: &ForgottenItem| u64::try_from(item.deleted.len()).unwrap_or(u64::MAX);
        self.items.iter().map(count).fold(0, u64::saturating_add)
    }
}

impl ForgottenItem {
    /// In lines for a question.
    fn consequences(&self) -> Vec<String> {
        const MOST: usize = 20;
        let mut lines = vec![format!(
            "of {}: {} go, {} stay",
            self.item,
            self.deleted.len(),
            human::count(self.kept, "recovery point")
        )];
        let line = |point: &Forgotten| {
            format!("  {} of {}", point.recovery_point, human::time(point.time))
        };
        lines.extend(self.deleted.iter().take(MOST).map(line));
        if let Some(more) = self.deleted.len().checked_sub(MOST).filter(|more| *more > 0) {
            lines.push(format!("  and {more} more; --dry-run shows all"));
        }
        lines
    }
}

impl Show for Forgetting {
    fn show(&self) -> String {
        let rows = self.items.iter().flat_map(|item| {
            item.deleted.iter().map(|point| {
                [item.item.clone(), point.recovery_point.to_string(), human::time(point.time)]
            })
        });
        let rows: Vec<_> = rows.collect();
        let mut text = if rows.is_empty() {
            String::new()
        } else {
            human::table(["ITEM", "RECOVERY POINT", "TIME"], &[], rows) + "\n"
        };
        let sum =
            |of: fn(&ForgottenItem) -> u64| self.items.iter().map(of).fold(0, u64::saturating_add);
        let points = human::count(self.count(), "recovery point");
        let would = if self.dry_run { "Would delete" } else { "Deleted" };
        let (kept, locked) = (sum(|item| item.kept), sum(|item| item.locked));
        let of_these = if locked > 0 {
            format!(", of which {locked} only because they are locked")
        } else {
            String::new()
        };
        text = format!("{text}{would} {points}; {kept} stay{of_these}.\n");
        if !self.dry_run && self.count() > 0 {
            text += "`strongroom vault reclaim` frees their space.\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep() -> KeepArgs {
        KeepArgs {
            policy_file: None,
            keep_last: None,
            keep_all: None,
            keep_daily: None,
            keep_weekly: None,
            keep_monthly: None,
            keep_yearly: None,
            time_zone: Some("UTC".to_owned()),
        }
    }

    #[test]
    fn rules_are_those_of_policies() {
        assert!(keep().policy().expect("none").is_none());
        let daily = KeepArgs { keep_daily: Some(14), ..keep() };
        assert!(daily.policy().expect("good").is_some());
        let by_weeks = KeepArgs { keep_weekly: weekly("sun:8").ok(), ..keep() };
        assert!(by_weeks.policy().expect("good").is_some());
        let all = KeepArgs {
            keep_all: Some(2),
            keep_daily: Some(7),
            keep_weekly: weekly("sun:8").ok(),
            keep_monthly: monthly("1:12").ok(),
            keep_yearly: yearly("jan/1:5").ok(),
            ..keep()
        };
        assert!(all.policy().expect("good").is_some());
        let short = KeepArgs { keep_daily: Some(3), ..keep() };
        short.policy().expect_err("a policy keeps days for seven days at least");
    }
}
