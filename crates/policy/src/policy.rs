//! A checked policy: no invalid policy can exist.
//!
//! Invariants: the rules keep all [limits]; the zone is known; `snapshot_days` is what
//! the rules say or their kind's default. Serialises as its rules, and deserialises through the check.

use jiff::{SignedDuration, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{
    error::PolicyError,
    limits,
    rules::{PolicyKind, PolicyRules, Retention, Schedule},
    tags::TagRule,
    words::{TimeOfDay, Weekday},
    zone::Zone,
};

/// When a machine is backed up, and how long its recovery points are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "PolicyRules", into = "PolicyRules")]
pub struct Policy {
    rules: PolicyRules,
    zone: Zone,
    snapshot_days: u16,
    /// The days of the week that have occurrences, and their times on every such day.
    weekdays: Vec<Weekday>,
    times: Vec<TimeOfDay>,
    tag_rules: Vec<TagRule>,
}

impl PartialEq for Policy {
    /// Everything else follows from the rules.
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for Policy {}

impl TryFrom<PolicyRules> for Policy {
    type Error = PolicyError;

    fn try_from(rules: PolicyRules) -> Result<Self, PolicyError> {
        let Some(zone) = Zone::named(&rules.time_zone) else {
            return Err(PolicyError::UnknownTimeZone { name: rules.time_zone });
        };
        let snapshot_days = limits::check(&rules)?;
        Ok(Self::assemble(rules, zone, snapshot_days))
    }
}

impl From<Policy> for PolicyRules {
    fn from(policy: Policy) -> Self {
        policy.rules
    }
}

impl Policy {
    /// Azure's default policy; see [`PolicyRules::default_standard`].
    pub fn default_standard() -> Self {
        Self::assemble(PolicyRules::default_standard(), Zone::utc(), 2)
    }

    /// Azure's enhanced default; see [`PolicyRules::default_enhanced`].
    pub fn default_enhanced() -> Self {
        Self::assemble(PolicyRules::default_enhanced(), Zone::utc(), 7)
    }

    /// Makes a policy of rules that are known to be good.
    fn assemble(mut rules: PolicyRules, zone: Zone, snapshot_days: u16) -> Self {
        zone.name().clone_into(&mut rules.time_zone);
        rules.snapshot_retention_days = Some(snapshot_days);
        let (weekdays, times) = days_and_times(&rules.schedule);
        let tag_rules = TagRule::of(&rules.retention);
        Self { rules, zone, snapshot_days, weekdays, times, tag_rules }
    }

    /// The rules, complete: the zone's name as the database spells it, the snapshot retention filled
    /// in.
    pub fn rules(&self) -> &PolicyRules {
        &self.rules
    }

    /// Standard or enhanced.
    pub fn kind(&self) -> PolicyKind {
        self.rules.kind
    }

    /// When backups are due.
    pub fn schedule(&self) -> &Schedule {
        &self.rules.schedule
    }

    /// How long recovery points are kept.
    pub fn retention(&self) -> &Retention {
        &self.rules.retention
    }

    /// The zone of all days and times.
    pub fn time_zone(&self) -> &TimeZone {
        self.zone.time_zone()
    }

    /// How many days a point stays in the snapshot tier.
    pub fn snapshot_retention_days(&self) -> u16 {
        self.snapshot_days
    }

    /// Over how long starts are spread.
    pub fn start_spread(&self) -> SignedDuration {
        SignedDuration::from_mins(i64::from(self.rules.start_spread_minutes))
    }

    /// How many scheduled points of an item can be kept at once: an upper bound, in whole days.
    pub fn most_points(&self) -> u32 {
        limits::most_points(&self.rules, self.snapshot_days)
    }

    /// How many days every point is kept, whatever its tags: in the snapshot tier, and by hourly
    /// retention.
    pub(crate) fn every_point_days(&self) -> u16 {
        self.rules.retention.hourly.map_or(0, |hourly| hourly.days).max(self.snapshot_days)
    }

    pub(crate) fn zone(&self) -> &Zone {
        &self.zone
    }

    pub(crate) fn weekdays(&self) -> &[Weekday] {
        &self.weekdays
    }

    pub(crate) fn times(&self) -> &[TimeOfDay] {
        &self.times
    }

    pub(crate) fn tag_rules(&self) -> &[TagRule] {
        &self.tag_rules
    }
}

/// Every schedule is some times of day on some days of the week. An hourly window that crosses
/// midnight is too: since one opens every day, every day has what is left of the last one.
fn days_and_times(schedule: &Schedule) -> (Vec<Weekday>, Vec<TimeOfDay>) {
    match schedule {
        Schedule::Hourly { every_hours, window_start, window_hours } => {
            let hours = (0..u16::from(*window_hours)).step_by(usize::from((*every_hours).max(1)));
            let mut times: Vec<_> = hours.map(|hour| window_start.plus_hours(hour)).collect();
            times.sort_unstable();
            (Weekday::ALL.to_vec(), times)
        }
        Schedule::Daily { times } => (Weekday::ALL.to_vec(), times.iter().copied().collect()),
        Schedule::Weekly { weekdays, times } => {
            (weekdays.iter().copied().collect(), times.iter().copied().collect())
        }
    }
}
