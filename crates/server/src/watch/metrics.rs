//! The table of metrics: what each is called, what it means, and its values.
//!
//! One table makes the values, the page `/metrics` and the documentation. Nothing here knows where
//! numbers come from. No label names an item, a user or a token: there may be many, and they are
//! nobody's business.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The labels of one value.
pub(super) type Labels = Vec<(&'static str, String)>;

type Counters = Family<Labels, Counter<f64, AtomicU64>>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// A metric, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name on the page; a counter's ends with `_total`.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub words: &'static str,
}

/// From a hundredth of a second to half a minute: requests.
fn short() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

/// From a second to a day: jobs.
fn long() -> Histogram {
    Histogram::new([
        1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0,
    ])
}

macro_rules! family {
    (counter) => {
        Counters::default()
    };
    (gauge) => {
        Gauges::default()
    };
    (histogram $buckets:ident) => {
        Histograms::new_with_constructor($buckets)
    };
}

macro_rules! family_type {
    (counter) => {
        Counters
    };
    (gauge) => {
        Gauges
    };
    (histogram) => {
        Histograms
    };
}

macro_rules! metrics {
    ($($field:ident: $kind:ident $(($buckets:ident))? $name:literal [$($label:literal)*], $words:literal;)*) => {
        /// All metrics of a server.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(pub(super) $field: family_type!($kind),)*
        }

        impl Metrics {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Metric] = &[$(Metric {
                name: $name,
                kind: stringify!($kind),
                labels: &[$($label),*],
                words: $words,
            },)*];

            /// Without values yet.
            pub fn new() -> Self {
                let mut registry = Registry::default();
                $(
                    let $field = family!($kind $($buckets)?);
                    // The page adds this end to counters by itself, and a point to the words.
                    let name = $name.strip_suffix("_total").unwrap_or($name);
                    registry.register(name, $words.trim_end_matches('.'), $field.clone());
                )*
                Self { registry, $($field,)* }
            }
        }
    };
}

metrics! {
    build_info: gauge "strongroom_build_info" ["version"], "Always 1; the label is the version that runs.";
    start_time: gauge "strongroom_start_time_seconds" [], "Start of the server, as Unix time.";

    items: gauge "strongroom_items" ["vault" "state"], "Items, by vault and state of protection.";
    items_failing: gauge "strongroom_items_failing" ["vault"], "Items whose last backup failed.";
    items_overdue: gauge "strongroom_items_overdue" [], "Items whose scheduled backup is overdue.";
    schedule_lag: gauge "strongroom_schedule_lag_seconds" [], "Age in seconds of the most overdue scheduled backup.";
    items_behind: gauge "strongroom_items_behind" [], "Items whose newest restorable recovery point is older than their policy promises.";
    items_unscheduled: gauge "strongroom_items_unscheduled" [], "Items without a policy, so without scheduled backups.";
    points: gauge "strongroom_recovery_points" ["vault" "state"], "Recovery points, by vault and state.";
    newest_point: gauge "strongroom_vault_newest_point_timestamp_seconds" ["vault"], "Time of the newest good recovery point of a vault, as Unix time.";
    stalest_item: gauge "strongroom_vault_stalest_item_timestamp_seconds" ["vault"], "Last good backup of the protected item whose last good backup is the oldest, as Unix time.";
    vault_stored: gauge "strongroom_vault_stored_bytes" ["vault"], "Bytes in a vault at its last measurement.";
    vault_reclaimable: gauge "strongroom_vault_reclaimable_bytes" ["vault"], "Bytes that no recovery point of a vault needed at its last measurement.";
    vault_measured: gauge "strongroom_vault_measured_timestamp_seconds" ["vault"], "Time of a vault's last measurement, as Unix time.";

    vault_verified: gauge "strongroom_vault_verified_timestamp_seconds" ["vault"], "Time of the last verification of a vault's structure, as Unix time.";
    vault_whole: gauge "strongroom_vault_read_timestamp_seconds" ["vault"], "End of the last round that has read all packs of a vault, as Unix time.";

    jobs_open: gauge "strongroom_jobs_open" ["kind" "state"], "Jobs that wait or run.";
    queue_age: gauge "strongroom_queue_age_seconds" [], "Age in seconds of the oldest waiting job that could run.";
    jobs_ended: counter "strongroom_jobs_ended_total" ["kind" "outcome"], "Jobs that have ended since the start of the server.";
    job_seconds: histogram(long) "strongroom_job_duration_seconds" ["kind" "outcome"], "Duration of ended jobs in seconds.";
    read_bytes: counter "strongroom_backup_read_bytes_total" [], "Bytes that backups have read from disks.";
    stored_bytes: counter "strongroom_backup_stored_bytes_total" [], "Bytes that backups have added to vaults.";

    alerts: gauge "strongroom_alerts_firing" ["severity"], "Firing alerts that nobody has acknowledged.";
    deliveries: counter "strongroom_alert_deliveries_total" ["channel" "outcome"], "Tries to send alerts, by outcome: `delivered`, `failed` (and tried again), `given_up`.";
    notices: gauge "strongroom_alert_notices" ["channel" "state"], "Messages with alerts that wait, and that were given up.";

    storage_up: gauge "strongroom_storage_up" [], "1 if the storage accounts of this server answer, 0 if not. If they do not answer, their other metrics are missing.";
    storage_takes_changes: gauge "strongroom_storage_takes_changes" [], "1 if this server takes changes of storage accounts, 0 if not: it is the secondary, waits, is fenced, or its disks fail.";
    storage_role: gauge "strongroom_storage_role" ["role"], "1 for the part of this server for its storage accounts: `alone`, `primary`, `waiting`, `secondary`, `fenced`; 0 for the others.";
    storage_pair: gauge "strongroom_storage_replication_state" ["state"], "1 for how both servers of the storage accounts stand, such as `live` or `unavailable`; 0 for the others.";
    storage_epoch: gauge "strongroom_storage_epoch" [], "Epoch of the storage accounts: each failover begins one.";
    storage_synced: gauge "strongroom_storage_last_sync_timestamp_seconds" [], "Last Sync Time of the secondary, as Unix time.";
    storage_lag: gauge "strongroom_storage_lag_seconds" [], "Age of the Last Sync Time in seconds, by the primary's clock.";
    storage_lag_records: gauge "strongroom_storage_lag_changes" [], "Changes that the secondary lacks.";
    storage_lag_bytes: gauge "strongroom_storage_lag_bytes" [], "Bytes that wait for the secondary, about.";
    storage_peer_seen: gauge "strongroom_storage_peer_seen_timestamp_seconds" [], "Last contact with the other server, as Unix time.";
    storage_copies: gauge "strongroom_storage_copies" ["state"], "Copies of the storage accounts on this server: `leading`, `healthy`, `rebuilding`, `left_out`, `missing`.";
    storage_damaged: gauge "strongroom_storage_damaged_pieces" [], "Pieces of 4 KiB that the last comparison found damaged in a copy and could not repair.";
    storage_repaired: counter "strongroom_storage_repaired_pieces_total" [], "Pieces of 4 KiB that were damaged in a copy, and were repaired from another copy.";
    storage_accounts: gauge "strongroom_storage_accounts" [], "Storage accounts of this server.";
    storage_containers: gauge "strongroom_storage_containers" [], "Containers in storage accounts.";
    storage_blobs: gauge "strongroom_storage_blobs" [], "Blobs in storage accounts, without their snapshots.";
    storage_used: gauge "strongroom_storage_used_bytes" [], "Bytes that the storage accounts take on the disk of their leading copy.";
    storage_free: gauge "strongroom_storage_free_bytes" [], "Bytes that are free on that disk.";
    storage_journal: gauge "strongroom_storage_journal_bytes" [], "Bytes of the storage accounts' journal that would be applied again after a crash.";

    requests: counter "strongroom_http_requests_total" ["method" "route" "status"], "Answered requests; the route is the path's pattern in the API's description.";
    request_seconds: histogram(short) "strongroom_http_request_duration_seconds" ["method" "route"], "Seconds until the answer to a request began.";

    catalog_up: gauge "strongroom_catalog_up" [], "1 if the catalog answers, 0 if not. If it does not answer, metrics from the catalog are missing.";
    catalog_read: gauge "strongroom_catalog_read_seconds" [], "Seconds that the catalog took to answer the queries of this page.";
    catalog_writes: counter "strongroom_catalog_writes_total" [], "Changes of the catalog.";
    catalog_write_seconds: counter "strongroom_catalog_write_seconds_total" [], "Total seconds of all changes of the catalog, with the wait for their turn.";
    round_age: gauge "strongroom_scheduler_round_age_seconds" [], "Seconds since the scheduler's last round. If it is more than a few seconds, the scheduler is stuck.";

    process_cpu: counter "process_cpu_seconds_total" [], "Processor time that the server has used.";
    process_memory: gauge "process_resident_memory_bytes" [], "Memory that the server uses.";
    process_fds: gauge "process_open_fds" [], "Files that the server has open.";
    process_max_fds: gauge "process_max_fds" [], "Maximum number of files that the server may have open.";
    process_threads: gauge "process_threads" [], "Threads of the server.";
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The page, in the text format of `OpenMetrics`.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        encode(&mut text, &self.registry).ok();
        text
    }

    /// A request was answered.
    pub(crate) fn answered(&self, method: &str, route: &str, status: u16, seconds: f64) {
        // A client may invent methods, but no routes.
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let method = if known.contains(&method) { method } else { "other" };
        let labels = |more: Option<(&'static str, String)>| {
            let mut labels = vec![("method", method.to_owned()), ("route", route.to_owned())];
            labels.extend(more);
            labels
        };
        self.requests.get_or_create(&labels(Some(("status", status.to_string())))).inc();
        self.request_seconds.get_or_create(&labels(None)).observe(seconds);
    }
}

/// Sets a counter to what was counted elsewhere.
pub(super) fn set_counter(family: &Counters, labels: &Labels, value: f64) {
    let counter = family.get_or_create(labels);
    counter.inner().store(value.to_bits(), std::sync::atomic::Ordering::Relaxed);
}

/// Sets a gauge.
pub(super) fn set(family: &Gauges, labels: &Labels, value: f64) {
    family.get_or_create(labels).set(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let mut names: Vec<_> = Metrics::ALL.iter().map(|metric| metric.name).collect();
        for metric in Metrics::ALL {
            assert_eq!(metric.kind == "counter", metric.name.ends_with("_total"), "{metric:?}");
            assert!(metric.words.ends_with('.'), "{metric:?}");
            for label in metric.labels {
                assert!(!["item", "user", "token"].contains(label), "{metric:?}");
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metrics::ALL.len());
    }

    #[test]
    fn invented_methods_make_no_new_values() {
        let metrics = Metrics::new();
        for method in ["GET", "X1", "X2"] {
            metrics.answered(method, "/v1/vaults", 200, 0.1);
        }
        let text = metrics.text();
        let values = text.lines().filter(|line| line.starts_with("strongroom_http_requests_total"));
        assert_eq!(values.count(), 2, "{text}");
    }
}
