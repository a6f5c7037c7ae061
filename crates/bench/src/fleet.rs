//! A night of many machines on many hosts, in simulated time: schedules and the queue are the
//! product's own, hosts and how long backups take are invented.
//!
//! ```text
//!  policy: starts, spread ─▶ waiting ─▶ choose (limits) ─▶ running ─▶ done
//!                               ▲ restores that somebody asks for
//! ```

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{JobKind, Trigger};
use strongroom_base::{HostId, JobId, VaultId};
use strongroom_control::jobs::{Claim, Limits, Waiting, choose};
use strongroom_policy::{Due, Policy, PolicyError, PolicyRules, Schedule, TimeOfDay};

use crate::rng::Rng;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Machines.
    pub machines: u32,
    /// Hosts, with the same number of machines each.
    pub hosts: u32,
    /// Vaults, each in a store of its own.
    pub vaults: u32,
    /// Jobs at once in all.
    pub total: u32,
    /// Jobs at once on a host.
    pub per_host: u32,
    /// Jobs at once in a vault.
    pub per_vault: u32,
    /// Over how many minutes starts are spread.
    pub spread_minutes: u16,
    /// The server is away from its first minute for so many hours.
    pub away_hours: u32,
    /// Restores that somebody asks for in the night.
    pub restores: u32,
    /// Seed of what is random.
    pub seed: u64,
}

impl Fleet {
    /// 10,000 machines on 100 hosts, of which two are backed up at once on each.
    pub const USUAL: Self = Self {
        machines: 10_000,
        hosts: 100,
        vaults: 10,
        total: 100,
        per_host: 2,
        per_vault: 20,
        spread_minutes: 240,
        away_hours: 0,
        restores: 50,
        seed: 1,
    };
}

/// How a night went. Times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Night {
    /// Backups that were made.
    pub backups: u64,
    /// Backups that had not ended when the next were due: windows that were missed.
    pub missed: u64,
    /// From the beginning of the window until the last backup ended.
    pub last_end: u64,
    /// How long backups waited for their turn: median, 99 of 100, the longest.
    pub waits: [u64; 3],
    /// The longest that a restore waited.
    pub restore_wait: u64,
    /// Most jobs that waited at once.
    pub most_waiting: u64,
    /// Most jobs that ran at once in all, on one host, in one vault.
    pub most_running: [u64; 3],
}

/// Ten at night, when the window begins. It is missed by what has not ended a day later.
const BEGIN: &str = "2026-11-22T22:00:00Z";

struct Job {
    claim: Claim,
    since: u64,
    seconds: u64,
}

/// Simulates a night. Fails if the fleet's spread is longer than a policy's may be.
#[allow(clippy::indexing_slicing, reason = "all numbers are of jobs that are in the list")]
pub fn night(fleet: &Fleet) -> Result<Night, PolicyError> {
    let mut rng = Rng::new(fleet.seed);
    let begin: Timestamp = BEGIN.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let jobs = jobs(fleet, &mut rng, begin)?;
    let limits = Limits {
        total: fleet.total,
        restores: 2,
        host: fleet.per_host,
        hosts: HashMap::new(),
        vault: fleet.per_vault,
        store: fleet.per_vault,
    };
    let mut starts: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, job) in jobs.iter().enumerate() {
        starts.entry(job.since).or_default().push(number);
    }
    let (mut waiting, mut running) = (Vec::<usize>::new(), HashMap::<usize, Claim>::new());
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut waits = Vec::new();
    let mut night = Night {
        backups: 0,
        missed: 0,
        last_end: 0,
        waits: [0; 3],
        restore_wait: 0,
        most_waiting: 0,
        most_running: [0; 3],
    };
    loop {
        let next_start = starts.first_key_value().map(|(time, _)| *time);
        let next_end = ends.peek().map(|Reverse((time, _))| *time);
        let Some(now) = next_start.into_iter().chain(next_end).min() else { break };
        while let Some(entry) = starts.first_entry().filter(|entry| *entry.key() <= now) {
            waiting.extend(entry.remove());
        }
        while let Some(Reverse((_, number))) = ends.peek().filter(|Reverse((end, _))| *end <= now) {
            running.remove(number);
            if jobs[*number].claim.kind == JobKind::Backup {
                night.backups += 1;
                night.last_end = now;
                night.missed += u64::from(now > 24 * 3600);
            }
            ends.pop();
        }
        night.most_waiting = night.most_waiting.max(count(waiting.len()));
        let line: Vec<Waiting> =
            waiting.iter().map(|number| asked(*number, &jobs[*number])).collect();
        let claims: Vec<Claim> = running.values().copied().collect();
        for id in choose(&line, &claims, &limits) {
            let number = number_of(id);
            let job = &jobs[number];
            waiting.retain(|other| *other != number);
            running.insert(number, job.claim);
            ends.push(Reverse((now + job.seconds, number)));
            if job.claim.kind == JobKind::Backup {
                waits.push(now - job.since);
            } else {
                night.restore_wait = night.restore_wait.max(now - job.since);
            }
        }
        let most = most_running(&running);
        for (most, now) in night.most_running.iter_mut().zip(most) {
            *most = (*most).max(now);
        }
    }
    waits.sort_unstable();
    let at = |part: usize| waits.get((waits.len().saturating_sub(1)) * part / 100).copied();
    night.waits = [50, 99, 100].map(|part| at(part).unwrap_or(0));
    Ok(night)
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn id(number: u64) -> [u8; 16] {
    u128::from(number + 1).to_be_bytes()
}

fn number_of(id: JobId) -> usize {
    usize::try_from(u128::from_be_bytes(id.to_bytes()) - 1).unwrap_or(usize::MAX)
}

fn asked(number: usize, job: &Job) -> Waiting {
    let trigger = match job.claim.kind {
        JobKind::Restore => Trigger::OnDemand,
        _ => Trigger::Scheduled,
    };
    let since = Timestamp::from_second(i64::try_from(job.since).unwrap_or(i64::MAX));
    Waiting {
        id: JobId::from_bytes(id(count(number))),
        trigger,
        claim: job.claim,
        since: since.unwrap_or(Timestamp::MAX),
    }
}

/// In all, on the busiest host, in the busiest vault.
fn most_running(running: &HashMap<usize, Claim>) -> [u64; 3] {
    let (mut hosts, mut vaults) = (HashMap::new(), HashMap::new());
    for claim in running.values().filter(|claim| claim.kind == JobKind::Backup) {
        *hosts.entry(claim.host).or_insert(0_u64) += 1;
        *vaults.entry(claim.vault).or_insert(0_u64) += 1;
    }
    let most = |counts: HashMap<_, u64>| counts.into_values().max().unwrap_or(0);
    let vaults = vaults.into_values().max().unwrap_or(0);
    [count(running.len()), most(hosts), vaults]
}

/// All jobs of the night: when each could begin, and how long it takes.
fn jobs(fleet: &Fleet, rng: &mut Rng, begin: Timestamp) -> Result<Vec<Job>, PolicyError> {
    let rules = PolicyRules {
        schedule: Schedule::Daily { times: TimeOfDay::new(22, 0).into_iter().collect() },
        start_spread_minutes: fleet.spread_minutes,
        ..PolicyRules::default_standard()
    };
    let policy = Policy::try_from(rules)?;
    let before = begin - SignedDuration::from_secs(1);
    let back = begin + SignedDuration::from_hours(fleet.away_hours.into());
    let seconds =
        |time: Timestamp| u64::try_from(time.duration_since(begin).as_secs()).unwrap_or(0);
    let claim = |kind, machine: u32| Claim {
        kind,
        host: Some(HostId::from_bytes(id(u64::from(machine % fleet.hosts.max(1))))),
        vault: Some(VaultId::from_bytes(id(u64::from(machine % fleet.vaults.max(1))))),
        store: Some(u64::from(machine % fleet.vaults.max(1))),
    };
    let mut jobs = Vec::new();
    for machine in 0..fleet.machines {
        let key = id(machine.into());
        let run = match policy.due(before, back, back, &key) {
            Due::Run { run, .. } if fleet.away_hours > 0 => Some(run),
            _ => policy.next_start(before, &key),
        };
        let Some(run) = run else { continue };
        jobs.push(Job {
            claim: claim(JobKind::Backup, machine),
            since: seconds(run.start.max(back)),
            seconds: backup_seconds(rng),
        });
    }
    for _ in 0..fleet.restores {
        let machine = u32::try_from(rng.below(fleet.machines.into())).unwrap_or(0);
        let since = rng.below(8 * 3600);
        let claim = claim(JobKind::Restore, machine);
        jobs.push(Job { claim, since, seconds: rng.between(60, 1800) });
    }
    Ok(jobs)
}

/// Ten seconds and what changed at 100 MB a second: mostly some gigabytes. One in fifty machines is
/// read and compared as a whole, at 200 MB a second.
fn backup_seconds(rng: &mut Rng) -> u64 {
    if rng.below(50) == 0 {
        return 10 + rng.between(20_000, 500_000) / 200;
    }
    10 + rng.skewed(60_000) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_machines_in_a_night() {
        let done = night(&Fleet::USUAL).expect("a night");
        assert_eq!((done.backups, done.missed), (10_000, 0), "{done:?}");
        assert!(done.last_end < 8 * 3600, "{done:?}");
        assert!(done.most_running[0] <= 102 && done.most_running[1] <= 2, "{done:?}");
        assert!(done.most_running[2] <= 20, "{done:?}");
        assert!(done.restore_wait <= 1800, "{done:?}");
    }

    #[test]
    fn after_hours_without_a_server_all_are_made_up_for_and_not_at_once() {
        let done = night(&Fleet { away_hours: 5, ..Fleet::USUAL }).expect("a night");
        assert_eq!((done.backups, done.missed), (10_000, 0), "{done:?}");
        // They are spread anew, so most find a place at once.
        assert!(done.most_waiting < 2_500, "{done:?}");
    }

    #[test]
    fn limits_that_cannot_do_it_are_seen() {
        let fleet = Fleet { machines: 2_000, hosts: 2, per_host: 1, total: 2, ..Fleet::USUAL };
        let done = night(&fleet).expect("a night");
        assert_eq!(done.backups, 2_000);
        assert!(done.missed > 0 && done.most_running[1] == 1, "{done:?}");
    }
}
