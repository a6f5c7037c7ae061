//! Fills the metrics: what the catalog, the pulse and the operating system say at this moment.

use std::time::Duration;

use jiff::Timestamp;
use strongroom_api::{
    Job, JobKind, JobState, Report, StorageCopyState, StoragePairState, StorageRole,
};
use strongroom_control::{Control, Figures, StorageFigures};

use super::{
    metrics::{Metrics, set, set_counter},
    process::Process,
};

/// A count, as pages have it: exact up to 2^53.
#[allow(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "what is shown may be rounded"
)]
fn number(count: u64) -> f64 {
    count as f64
}

fn unix(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

impl Metrics {
    /// Brings all values to this moment. Whether the catalog has answered.
    pub(super) async fn refresh(&self, control: &Control) -> bool {
        let none = Vec::new();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        set(&self.build_info, &vec![("version", version)], 1.0);
        set(&self.start_time, &none, unix(control.started()));
        let process = Process::here();
        set_counter(&self.process_cpu, &none, process.cpu_seconds);
        set(&self.process_memory, &none, process.memory_bytes);
        set(&self.process_fds, &none, process.open_fds);
        set(&self.process_max_fds, &none, process.max_fds);
        set(&self.process_threads, &none, process.threads);
        self.pulse(control);
        let begun = control.clock().monotonic();
        let (figures, notices) = (control.figures().await, control.notices().await);
        let took = control.clock().monotonic().saturating_sub(begun);
        set(&self.catalog_read, &none, took.as_secs_f64());
        let answered = figures.is_ok() && notices.is_ok();
        set(&self.catalog_up, &none, if answered { 1.0 } else { 0.0 });
        // What is not there any more is shown no more, neither is what is not known.
        for family in [
            &self.items,
            &self.items_failing,
            &self.items_overdue,
            &self.schedule_lag,
            &self.items_behind,
            &self.items_unscheduled,
            &self.points,
            &self.newest_point,
            &self.stalest_item,
            &self.vault_stored,
            &self.vault_reclaimable,
            &self.vault_measured,
            &self.vault_verified,
            &self.vault_whole,
            &self.jobs_open,
            &self.queue_age,
            &self.alerts,
            &self.notices,
        ] {
            family.clear();
        }
        if let (Ok(figures), Ok(notices)) = (figures, notices) {
            self.figures(&figures, control.now());
            for (channel, waiting, given_up) in notices {
                for (state, count) in [("waiting", waiting), ("given_up", given_up)] {
                    let labels = vec![("channel", channel.clone()), ("state", state.to_owned())];
                    set(&self.notices, &labels, number(count));
                }
            }
        }
        self.storage(control).await;
        answered
    }

    /// How the storage accounts stand, if this server has some.
    async fn storage(&self, control: &Control) {
        let none = Vec::new();
        // What is not known any more is shown no more.
        for family in [
            &self.storage_takes_changes,
            &self.storage_role,
            &self.storage_pair,
            &self.storage_epoch,
            &self.storage_synced,
            &self.storage_lag,
            &self.storage_lag_records,
            &self.storage_lag_bytes,
            &self.storage_peer_seen,
            &self.storage_copies,
            &self.storage_damaged,
            &self.storage_accounts,
            &self.storage_containers,
            &self.storage_blobs,
            &self.storage_used,
            &self.storage_free,
            &self.storage_journal,
        ] {
            family.clear();
        }
        match control.storage_figures().await {
            None => {}
            Some(Err(error)) => {
                tracing::warn!(error = %error.body().message, "metrics without the storage accounts'");
                set(&self.storage_up, &none, 0.0);
            }
            Some(Ok(figures)) => {
                set(&self.storage_up, &none, 1.0);
                self.storage_figures(&figures);
            }
        }
    }

    fn storage_figures(&self, figures: &StorageFigures) {
        let none = Vec::new();
        let StorageFigures { status, replication } = figures;
        let is = |is: bool| if is { 1.0 } else { 0.0 };
        let decides = matches!(replication.role, StorageRole::Alone | StorageRole::Primary);
        set(&self.storage_takes_changes, &none, is(decides && status.failure.is_none()));
        for role in StorageRole::ALL {
            let labels = vec![("role", role.name().to_owned())];
            set(&self.storage_role, &labels, is(*role == replication.role));
        }
        for state in StoragePairState::ALL {
            let labels = vec![("state", state.name().to_owned())];
            set(&self.storage_pair, &labels, is(*state == replication.state));
        }
        for state in StorageCopyState::ALL {
            let labels = vec![("state", state.name().to_owned())];
            let count = status.copies.iter().filter(|copy| copy.state == *state).count();
            set(&self.storage_copies, &labels, number(u64::try_from(count).unwrap_or(u64::MAX)));
        }
        set_counter(&self.storage_repaired, &none, number(status.repaired));
        for (family, value) in [
            (&self.storage_epoch, Some(number(replication.epoch))),
            (&self.storage_synced, replication.last_sync_time.map(unix)),
            (&self.storage_lag, replication.lag_seconds.map(number)),
            (&self.storage_lag_records, replication.lag_records.map(number)),
            (&self.storage_lag_bytes, replication.lag_bytes.map(number)),
            (&self.storage_peer_seen, replication.peer_seen.map(unix)),
            (&self.storage_damaged, Some(number(status.damaged))),
            (&self.storage_accounts, Some(number(status.accounts))),
            (&self.storage_containers, Some(number(status.containers))),
            (&self.storage_blobs, Some(number(status.blobs))),
            (&self.storage_used, Some(number(status.used_bytes))),
            (&self.storage_free, Some(number(status.free_bytes))),
            (&self.storage_journal, Some(number(status.journal_bytes))),
        ] {
            if let Some(value) = value {
                set(family, &none, value);
            }
        }
    }

    fn pulse(&self, control: &Control) {
        let none = Vec::new();
        let pulse = control.pulse();
        let (writes, took) = pulse.writes();
        set_counter(&self.catalog_writes, &none, number(writes));
        set_counter(&self.catalog_write_seconds, &none, took.as_secs_f64());
        let age = control.since_round().unwrap_or_else(|| {
            Duration::try_from(control.now().duration_since(control.started())).unwrap_or_default()
        });
        set(&self.round_age, &none, age.as_secs_f64());
        for ((channel, how), count) in pulse.deliveries() {
            let labels = vec![("channel", channel), ("outcome", how.name().to_owned())];
            set_counter(&self.deliveries, &labels, number(count));
        }
    }

    fn figures(&self, figures: &Figures, now: Timestamp) {
        let none = Vec::new();
        let age = |since: Option<Timestamp>| {
            since.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0))
        };
        set(&self.items_overdue, &none, number(figures.overdue));
        set(&self.schedule_lag, &none, age(figures.overdue_since));
        set(&self.items_behind, &none, number(figures.behind));
        set(&self.items_unscheduled, &none, number(figures.unscheduled));
        set(&self.queue_age, &none, age(figures.waiting_since));
        for kind in JobKind::ALL {
            for state in JobState::ALL.iter().filter(|state| !state.is_final()) {
                let count = figures.jobs.get(&(*kind, *state)).copied().unwrap_or(0);
                let labels =
                    vec![("kind", kind.name().to_owned()), ("state", state.name().to_owned())];
                set(&self.jobs_open, &labels, number(count));
            }
        }
        for severity in strongroom_api::Severity::ALL {
            let count = figures.alerts.get(severity.name()).copied().unwrap_or(0);
            set(&self.alerts, &vec![("severity", severity.name().to_owned())], number(count));
        }
        for vault in &figures.vaults {
            let of = || vec![("vault", vault.name.clone())];
            let with =
                |state: &str| vec![("vault", vault.name.clone()), ("state", state.to_owned())];
            for (state, count) in &vault.items {
                set(&self.items, &with(state), number(*count));
            }
            for (state, count) in &vault.points {
                set(&self.points, &with(state), number(*count));
            }
            set(&self.items_failing, &of(), number(vault.failing));
            for (family, value) in [
                (&self.newest_point, vault.newest_point.map(unix)),
                (&self.stalest_item, vault.stalest_item.map(unix)),
                (&self.vault_stored, vault.stored_bytes.map(number)),
                (&self.vault_reclaimable, vault.reclaimable_bytes.map(number)),
                (&self.vault_measured, vault.measured.map(unix)),
                (&self.vault_verified, vault.verified.map(unix)),
                (&self.vault_whole, vault.whole.map(unix)),
            ] {
                if let Some(value) = value {
                    set(family, &of(), value);
                }
            }
        }
    }

    /// A job has ended.
    pub(super) fn ended(&self, job: &Job) {
        let labels =
            vec![("kind", job.kind.name().to_owned()), ("outcome", job.state.name().to_owned())];
        self.jobs_ended.get_or_create(&labels).inc();
        if let (Some(started), Some(ended)) = (job.started, job.ended) {
            let took = ended.duration_since(started).as_secs_f64();
            self.job_seconds.get_or_create(&labels).observe(took.max(0.0));
        }
        if let (JobKind::Backup, Some(report)) =
            (job.kind, job.report.as_ref().and_then(Report::backup))
        {
            let read: f64 = report.disks.iter().map(|disk| number(disk.read_bytes)).sum();
            self.read_bytes.get_or_create(&Vec::new()).inc_by(read);
            self.stored_bytes.get_or_create(&Vec::new()).inc_by(number(report.stored_bytes));
        }
    }
}
