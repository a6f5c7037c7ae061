//! Fills the metrics: what the catalog, the pulse and the operating system say at this moment.

use std::time::Duration;

use jiff::Timestamp;
use strongroom_api::{Job, JobKind, JobState, Report};
use strongroom_control::{Control, Figures};

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
        answered
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
