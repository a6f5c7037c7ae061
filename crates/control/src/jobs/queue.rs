//! Whose turn it is: which of the waiting jobs are begun now.
//!
//! Restores come first, then what somebody asked for, then what a schedule wants, then the
//! service's own housekeeping, and boot verifications of policies; among equals, who has waited longest. A job that must wait for a busy host or
//! vault does not hold up those behind it. Some places are for restores alone, so that one never
//! waits for backups.

use std::collections::HashMap;

use jiff::Timestamp;
use strongroom_api::{JobKind, Trigger};
use strongroom_base::{HostId, JobId, VaultId};

/// What a job takes a place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it does.
    pub kind: JobKind,
    /// The host that it works on.
    pub host: Option<HostId>,
    /// The vault that it works on.
    pub vault: Option<VaultId>,
    /// The store that the vault is in: vaults in one bucket or on one disk share it.
    pub store: Option<u64>,
}

/// A job that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The job.
    pub id: JobId,
    /// Why it was begun.
    pub trigger: Trigger,
    /// What it would take.
    pub claim: Claim,
    /// Since when it could have been begun.
    pub since: Timestamp,
}

/// How many jobs run at once at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub total: u32,
    /// More than that, for restores alone.
    pub restores: u32,
    /// On a host that nothing else is said of.
    pub host: u32,
    /// On these hosts.
    pub hosts: HashMap<HostId, u32>,
    /// In a vault.
    pub vault: u32,
    /// In a store.
    pub store: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: 8, restores: 2, host: 2, hosts: HashMap::new(), vault: 8, store: 8 }
    }
}

/// What is taken.
#[derive(Default)]
struct Taken {
    total: u32,
    restores: u32,
    hosts: HashMap<HostId, u32>,
    boots: HashMap<HostId, u32>,
    vaults: HashMap<VaultId, u32>,
    stores: HashMap<u64, u32>,
}

impl Taken {
    fn take(&mut self, claim: &Claim) {
        let add = |count: &mut u32| *count = count.saturating_add(1);
        add(if claim.kind == JobKind::Restore { &mut self.restores } else { &mut self.total });
        if let Some(host) = claim.host {
            let boots = is_boot(claim.kind);
            add((if boots { &mut self.boots } else { &mut self.hosts }).entry(host).or_default());
        }
        if let Some(vault) = claim.vault {
            add(self.vaults.entry(vault).or_default());
        }
        if let Some(store) = claim.store {
            add(self.stores.entry(store).or_default());
        }
    }

    fn has_room(&self, claim: &Claim, limits: &Limits) -> bool {
        let restore = claim.kind == JobKind::Restore;
        // Restores use their own places first, then those of all.
        let over = self.restores.saturating_sub(limits.restores);
        let used = self.total.saturating_add(over);
        if used >= limits.total && !(restore && self.restores < limits.restores) {
            return false;
        }
        // A host, vault or store always has a place more for a restore.
        let extra = u32::from(restore);
        let room = |used: Option<&u32>, limit: u32| {
            used.copied().unwrap_or(0) < limit.max(1).saturating_add(extra)
        };
        let host = claim.host.is_none_or(|host| {
            // No backup waits for a machine that is booted, and one of these is enough for a host.
            if is_boot(claim.kind) {
                return room(self.boots.get(&host), 1);
            }
            let limit = limits.hosts.get(&host).copied().unwrap_or(limits.host);
            room(self.hosts.get(&host), limit)
        });
        let vault = claim.vault.is_none_or(|vault| room(self.vaults.get(&vault), limits.vault));
        let store = claim.store.is_none_or(|store| room(self.stores.get(&store), limits.store));
        host && vault && store
    }
}

/// The jobs to begin now, in order. `running` are those that run.
pub fn choose(waiting: &[Waiting], running: &[Claim], limits: &Limits) -> Vec<JobId> {
    let mut taken = Taken::default();
    for claim in running {
        taken.take(claim);
    }
    let mut order: Vec<&Waiting> = waiting.iter().collect();
    order.sort_by_key(|job| (rank(job), job.since, job.id));
    let mut chosen = Vec::new();
    for job in order {
        if taken.has_room(&job.claim, limits) {
            taken.take(&job.claim);
            chosen.push(job.id);
        }
    }
    chosen
}

/// Whether it starts machines in isolation.
fn is_boot(kind: JobKind) -> bool {
    matches!(kind, JobKind::VerifyBoot | JobKind::Drill)
}

fn rank(job: &Waiting) -> u8 {
    match (job.claim.kind, job.trigger) {
        (JobKind::Restore, _) => 0,
        (_, Trigger::OnDemand) => 1,
        (kind, Trigger::Scheduled) if is_boot(kind) => 4,
        (_, Trigger::Scheduled) => 2,
        (_, Trigger::System) => 3,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(n: u8) -> HostId {
        HostId::from_bytes([n; 16])
    }

    fn vault(n: u8) -> VaultId {
        VaultId::from_bytes([n; 16])
    }

    fn waiting(n: u8, kind: JobKind, trigger: Trigger, on: u8, since: i64) -> Waiting {
        let claim =
            Claim { kind, host: Some(host(on)), vault: Some(vault(on % 2)), store: Some(0) };
        let since = Timestamp::from_second(since).expect("a time");
        Waiting { id: JobId::from_bytes([n; 16]), trigger, claim, since }
    }

    fn ids(of: &[u8]) -> Vec<JobId> {
        of.iter().map(|n| JobId::from_bytes([*n; 16])).collect()
    }

    #[test]
    fn restores_first_then_people_then_schedules_then_who_waited_longest() {
        let jobs = [
            waiting(1, JobKind::Reclaim, Trigger::System, 1, 0),
            waiting(2, JobKind::Backup, Trigger::Scheduled, 2, 5),
            waiting(3, JobKind::Backup, Trigger::Scheduled, 3, 4),
            waiting(4, JobKind::Backup, Trigger::OnDemand, 4, 9),
            waiting(5, JobKind::Restore, Trigger::OnDemand, 5, 10),
        ];
        assert_eq!(choose(&jobs, &[], &Limits::default()), ids(&[5, 4, 3, 2, 1]));
        let two = Limits { total: 2, restores: 0, ..Limits::default() };
        assert_eq!(choose(&jobs, &[], &two), ids(&[5, 4]));
    }

    #[test]
    fn one_machine_at_a_time_is_booted_on_a_host_and_no_backup_waits_for_it() {
        let jobs = [
            waiting(1, JobKind::VerifyBoot, Trigger::Scheduled, 1, 0),
            waiting(2, JobKind::VerifyBoot, Trigger::OnDemand, 1, 5),
            waiting(3, JobKind::Backup, Trigger::Scheduled, 1, 7),
            waiting(4, JobKind::Reclaim, Trigger::System, 2, 9),
        ];
        let limits = Limits { host: 1, ..Limits::default() };
        assert_eq!(choose(&jobs, &[], &limits), ids(&[2, 3, 4]));
        let running = [jobs[1].claim];
        assert_eq!(choose(&jobs[..1], &running, &limits), ids(&[]));
        assert_eq!(choose(&jobs[2..3], &running, &limits), ids(&[3]));
    }

    #[test]
    fn a_busy_host_holds_up_nobody_else() {
        let jobs: Vec<_> = (1..=4)
            .map(|n| waiting(n, JobKind::Backup, Trigger::Scheduled, 1 + n / 4, n.into()))
            .collect();
        let limits = Limits { host: 1, ..Limits::default() };
        assert_eq!(choose(&jobs, &[], &limits), ids(&[1, 4]));
    }

    #[test]
    fn a_restore_never_waits_for_backups() {
        let running: Vec<_> =
            (0..8).map(|_| waiting(1, JobKind::Backup, Trigger::Scheduled, 1, 0).claim).collect();
        let jobs = [
            waiting(2, JobKind::Backup, Trigger::OnDemand, 3, 0),
            waiting(3, JobKind::Restore, Trigger::OnDemand, 3, 0),
        ];
        assert_eq!(choose(&jobs, &running, &Limits::default()), ids(&[3]));
    }

    proptest! {
        /// No limit is ever exceeded by other than restores, and nobody who fits is left waiting.
        #[test]
        fn limits_hold_and_no_place_stays_empty(
            jobs in proptest::collection::vec((0_u8..4, 0_u8..6, 0_i64..50), 0..60),
            total in 1_u32..6, of_host in 1_u32..3, of_vault in 1_u32..4,
        ) {
            let limits = Limits { total, restores: 1, host: of_host, vault: of_vault, ..Limits::default() };
            let jobs: Vec<_> = jobs.iter().enumerate().map(|(n, (kind, on, since))| {
                let kind = if *kind == 0 { JobKind::Restore } else { JobKind::Backup };
                waiting(u8::try_from(n).expect("few"), kind, Trigger::Scheduled, *on, *since)
            }).collect();
            let chosen = choose(&jobs, &[], &limits);
            let claims: Vec<_> = jobs.iter().filter(|job| chosen.contains(&job.id)).map(|job| job.claim).collect();
            let backups = claims.iter().filter(|claim| claim.kind == JobKind::Backup).count();
            prop_assert!(backups <= usize::try_from(total).expect("small"));
            prop_assert!(claims.len() <= usize::try_from(total + 1).expect("small"));
            for n in 0..6 {
                let of = claims.iter().filter(|claim| claim.host == Some(host(n)) && claim.kind == JobKind::Backup);
                prop_assert!(of.count() <= usize::try_from(of_host).expect("small") + 1);
            }
            prop_assert!(choose(&jobs.iter().copied().filter(|job| !chosen.contains(&job.id)).collect::<Vec<_>>(), &claims, &limits).is_empty());
        }
    }
}
