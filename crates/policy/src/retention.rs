//! Retention: when each recovery point of an item expires, and which rules keep it.
//!
//! # How it is counted
//!
//! A point belongs to a **day**: the local date of the occurrence that it was made for, or of its own
//! time if it was made for none. The last point of a day is the day's point.
//!
//! A rule **tags** days: every day, Sundays, the first of every month. The **bearer** of a tagged
//! day is the day's point. If the tagged day has none, because that backup failed, the point of the
//! next day that has one becomes the bearer, unless the rule's next tagged day comes first: one
//! failed backup does not cost the year's point. Days before the item was protected have no bearer:
//! no backup failed there.
//!
//! A bearer is kept **through the date that lies the rule's time after the tagged day**, to the end
//! of that local day. Dates are counted on the calendar: a month from 31 January ends with February,
//! and twelve months are a year, not 372 days. The longest rule wins.
//!
//! # Why it is stable
//!
//! The expiry of a tag depends on the tagged day alone, not on the bearer. If the bearer has
//! expired and was removed, the point that becomes the bearer gets an expiry that has passed too.
//! So evaluation needs no memory: it gives the same answer for the remaining points as for all
//! points that ever existed. A later point never takes a tag from a point of an earlier day, so an
//! expiry never gets earlier. One exception: the tag of a day moves to a later point of the same
//! day.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{calendar::Day, policy::Policy, rule::Rule, tags::TagRule};

/// What retention has to know of a recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PointTimes {
    /// The moment whose content the point has.
    pub time: Timestamp,
    /// The occurrence that it was made for, if any: it decides the day that the point belongs to, so
    /// that a backup that is due at 23:30 and begins after midnight counts for its day.
    pub occurrence: Option<Timestamp>,
    /// Made on demand and kept until then: exactly so long, and it bears no tag. A point that is
    /// made on demand without this counts as a point of the schedule.
    pub on_demand_until: Option<Timestamp>,
    /// Whether it is believed to be restorable. Only a good point counts as the last one, and tags
    /// are also given as if the others were not there.
    pub good: bool,
}

impl PointTimes {
    /// A good point of that time that belongs to the schedule.
    pub fn at(time: Timestamp) -> Self {
        Self { time, occurrence: None, on_demand_until: None, good: true }
    }

    /// A good point that was made for an occurrence.
    pub fn scheduled(time: Timestamp, occurrence: Timestamp) -> Self {
        Self { occurrence: Some(occurrence), ..Self::at(time) }
    }

    /// A good point that was made on demand, to be kept until then.
    pub fn on_demand(time: Timestamp, until: Timestamp) -> Self {
        Self { on_demand_until: Some(until), ..Self::at(time) }
    }
}

/// The recovery points of one item, and what else their retention depends on.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// The points that exist, in any order.
    pub points: &'a [PointTimes],
    /// Since when the item has been protected. Tagged days before it have no stand-in.
    /// [`Timestamp::MIN`] if it is not known: then the first point stands in for days before it.
    pub protected_since: Timestamp,
    /// Whether points expire at all.
    pub keep: Keep,
}

/// Whether points expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// As the policy says, also when protection has been stopped with "retain as per policy": all
    /// but the last point expire.
    #[default]
    AsPerPolicy,
    /// Nothing expires: protection has been stopped with "retain for ever".
    ForEver,
}

/// A set of rules.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct KeptBy(u16);

impl KeptBy {
    /// Whether the rule is one of them.
    pub fn contains(self, rule: Rule) -> bool {
        self.0 & rule.bit() != 0
    }

    /// The rules, shortest first.
    pub fn iter(self) -> impl Iterator<Item = Rule> {
        Rule::ALL.into_iter().filter(move |rule| self.contains(*rule))
    }

    fn add(&mut self, rule: Rule) {
        self.0 |= rule.bit();
    }
}

impl std::fmt::Debug for KeptBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// How long a point is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The rules promise it until then; `None`: for ever. That the newest good point outlives its
    /// time is not a promise of time and not in here: see [`Kept::removable_from`].
    pub until: Option<Timestamp>,
    /// Until when it stays in the snapshot tier, if it is there. Never after `until`.
    pub snapshot_until: Timestamp,
    /// All rules that apply to it, including shorter and expired ones.
    pub rules: KeptBy,
}

impl Kept {
    /// From when on the point may be removed, as things stand. `None`: never.
    pub fn removable_from(&self) -> Option<Timestamp> {
        if self.rules.contains(Rule::LastPoint) { None } else { self.until }
    }

    /// Whether the point may be removed at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.removable_from().is_some_and(|from| from <= now)
    }
}

/// Until when each point of an item is kept. The result has one entry for each point, in their order.
pub fn evaluate(policy: &Policy, history: &History<'_>) -> Vec<Kept> {
    let zone = policy.zone();
    let points = history.points;
    let mut kept: Vec<Counted> = points.iter().map(|point| Counted::new(policy, point)).collect();

    let everything = days(policy, points, |_| true);
    let since = zone.day(history.protected_since);
    for rule in policy.tag_rules() {
        bear(rule, &everything, since, &mut kept);
    }
    if points.iter().any(|point| !point.good) {
        let good = days(policy, points, |point| point.good);
        for rule in policy.tag_rules() {
            bear(rule, &good, since, &mut kept);
        }
    }

    let newest = (0..).zip(points).max_by_key(|(index, point)| (point.good, point.time, *index));
    if let Some(last) = newest.and_then(|(index, _): (usize, _)| kept.get_mut(index)) {
        last.rules.add(Rule::LastPoint);
    }
    points
        .iter()
        .zip(kept)
        .map(|(point, counted)| counted.kept(policy, point, history.keep))
        .collect()
}

/// What has been found out about a point.
struct Counted {
    /// The last date on which it is kept.
    through: Day,
    snapshot_through: Day,
    rules: KeptBy,
}

impl Counted {
    /// What holds for every point by itself.
    fn new(policy: &Policy, point: &PointTimes) -> Self {
        let day = policy.zone().day(point.time);
        let mut rules = KeptBy::default();
        if point.on_demand_until.is_some() {
            rules.add(Rule::OnDemand);
        } else {
            rules.add(Rule::Snapshot);
            if policy.retention().hourly.is_some() {
                rules.add(Rule::Hourly);
            }
        }
        Self {
            through: day.plus(policy.every_point_days().into()),
            snapshot_through: day.plus(policy.snapshot_retention_days().into()),
            rules,
        }
    }

    fn kept(mut self, policy: &Policy, point: &PointTimes, keep: Keep) -> Kept {
        let until = match keep {
            Keep::AsPerPolicy => {
                Some(point.on_demand_until.unwrap_or_else(|| policy.zone().end_of(self.through)))
            }
            Keep::ForEver => {
                self.rules.add(Rule::ForEver);
                None
            }
        };
        let snapshot_until = policy.zone().end_of(self.snapshot_through);
        let snapshot_until = until.map_or(snapshot_until, |until| snapshot_until.min(until));
        Kept { until, snapshot_until, rules: self.rules }
    }
}

/// The days that have points, in order, each with the index of its last point.
fn days(
    policy: &Policy,
    points: &[PointTimes],
    counts: impl Fn(&PointTimes) -> bool,
) -> Vec<(Day, usize)> {
    let mut days: Vec<_> = (0..)
        .zip(points)
        .filter(|(_, point)| point.on_demand_until.is_none() && counts(point))
        .map(|(index, point)| {
            (policy.zone().day(point.occurrence.unwrap_or(point.time)), point.time, index)
        })
        .collect();
    days.sort_unstable();
    days.chunk_by(|(day, ..), (next, ..)| day == next)
        .filter_map(|points| points.last().map(|(day, _, index)| (*day, *index)))
        .collect()
}

/// Gives the rule's tags to their bearers.
fn bear(rule: &TagRule, days: &[(Day, usize)], since: Day, kept: &mut [Counted]) {
    // The first tagged day that has no bearer yet: nothing happens on days before it.
    let mut next = Some(Day::MIN);
    for (day, index) in days {
        if next.is_none_or(|next| *day < next) {
            continue;
        }
        next = rule.next(*day);
        let Some(tagged) = rule.newest(*day) else { continue };
        if (tagged == *day || tagged >= since)
            && let Some(bearer) = kept.get_mut(*index)
        {
            bearer.through = bearer.through.max(rule.keeps_through(tagged));
            bearer.rules.add(rule.rule);
        }
    }
}
