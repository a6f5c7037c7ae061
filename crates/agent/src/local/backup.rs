//! Backups: what those of all kinds of sources have in common.

use std::collections::BTreeMap;

use strongroom_api::{Report, TaskName, TaskState};
use strongroom_base::{PointId, words};
use strongroom_engine::{BackupReport, CleanCheck, Deltas, DiskBackupReport, SuspicionReport};
use strongroom_format::{DiskRecord, Manifest};
use strongroom_hypervisor::DiskChoice;
use strongroom_machine::{EncryptedDisks, MachineBackup, Wish};
use strongroom_orders::{BackupDone, BackupOrder, Result, Tier, Watch};

use super::{
    LocalAgent,
    sources::{self, Work},
};
use crate::{
    error::body,
    facts::{point_facts, sum, warning, warnings},
    vaults::OpenVault,
};

/// The tag that names a point's job.
pub(super) const JOB: &str = "job";

/// Points are looked for from this long before their job was made: clocks differ. Milliseconds.
const SLACK: u64 = 24 * 60 * 60 * 1000;

/// A recovery point that was made just now.
pub(crate) struct Made {
    /// The point.
    pub(super) point: PointId,
    /// Bytes that it added to the vault.
    pub(super) stored_bytes: u64,
    /// The report.
    pub(super) report: Report,
}

impl LocalAgent {
    /// Makes a recovery point, or finds that the job has made it already.
    pub(super) fn back_up(&self, order: &BackupOrder, watch: &Watch) -> Result<BackupDone> {
        watch.task(TaskName::Snapshot, TaskState::InProgress, None);
        let open = self.vaults.open(&order.vault).map_err(body)?;
        if let Some(point) = made_before(&open, order)? {
            let detail = || Some("the recovery point was made before".to_owned());
            watch.task(TaskName::Snapshot, TaskState::Completed, detail());
            if order.tier == Tier::Vault {
                watch.task(TaskName::Transfer, TaskState::Completed, detail());
            }
            return Ok(done(&open, order, &point, report_of(&point).into()));
        }
        let work = Work { agent: self, open: &open, order, watch };
        let made = sources::of(&order.source).back_up(&work)?;
        let Made { point: id, stored_bytes: stored, report } = made;
        let point = open.vault.point(&order.item, id).map_err(body)?;
        let (task, place) = match order.tier {
            Tier::Vault => (TaskName::Transfer, "the vault"),
            Tier::Snapshot => (TaskName::Snapshot, "the vault near the source"),
        };
        let detail = format!("{} added to {place}", words::bytes(stored));
        watch.task(task, TaskState::Completed, Some(detail));
        tracing::info!(point = %id, stored_bytes = stored, "a recovery point was made");
        Ok(done(&open, order, &point, report))
    }

    /// A backup of a machine, as it is made if nothing else is said.
    pub(super) fn machine_backup(&self, machine: &str) -> MachineBackup {
        MachineBackup {
            machine: machine.to_owned(),
            item: None,
            disks: DiskChoice::All,
            encrypted_disks: EncryptedDisks::Decrypted,
            wish: Wish::default(),
            start_paused: false,
            allow_managed: false,
            clean: CleanCheck::SAMPLE,
            full_compare_every: 0,
            scratch_dir: None,
            scratch_limit: None,
            tags: BTreeMap::new(),
            locked_until: None,
            host: self.host.name.clone(),
            skip_bad_blocks: false,
            deltas: Deltas::Auto,
            threads: self.host.threads,
            limit_rate: None,
            places: self.host.places.clone(),
            guard: self.host.guard.clone(),
        }
    }
}

/// The sources are as the point will have them; from now on they are only read.
pub(super) fn frozen_at(tier: Tier, detail: String, watch: &Watch) {
    match tier {
        Tier::Vault => {
            watch.task(TaskName::Snapshot, TaskState::Completed, Some(detail));
            watch.task(TaskName::Transfer, TaskState::InProgress, None);
        }
        Tier::Snapshot => watch.task(TaskName::Snapshot, TaskState::InProgress, Some(detail)),
    }
}

/// The tags of an order's point.
pub(super) fn tags(order: &BackupOrder) -> BTreeMap<String, String> {
    let mut tags = order.tags.clone();
    tags.insert(JOB.to_owned(), order.job.to_string());
    tags
}

/// The point that an earlier attempt of the job has published without reporting it.
fn made_before(open: &OpenVault, order: &BackupOrder) -> Result<Option<Manifest>> {
    let job = order.job.to_string();
    let since = order.job.millis().saturating_sub(SLACK);
    let is_it = |point: &Manifest| point.tags.get(JOB) == Some(&job);
    open.vault.find_point(&order.item, since, is_it).map_err(body)
}

fn done(open: &OpenVault, order: &BackupOrder, point: &Manifest, report: Report) -> BackupDone {
    let best = sources::of(&order.source).best(order);
    let mut found = warnings(point, Some(best));
    found.extend(open.warnings.iter().map(warning));
    BackupDone { point: point_facts(point), warnings: found, report }
}

/// The report of a point that was made before, as far as the point knows.
pub(super) fn report_of(point: &Manifest) -> BackupReport {
    let disk = |disk: &DiskRecord| DiskBackupReport {
        name: disk.name.clone(),
        size_bytes: disk.size_bytes,
        allocated_bytes: disk.allocated_bytes,
        changed_bytes: disk.changed_bytes,
        read_bytes: disk.read_bytes,
        deduplicated_bytes: disk.deduplicated_bytes,
        stored_bytes: disk.stored_bytes,
        new_bytes: disk.new_content.map(|new| new.bytes),
        incompressible_bytes: disk.new_content.map(|new| new.incompressible_bytes),
        delta_blocks: 0,
        changes_from: disk.source.changes_from.clone(),
        skipped: disk.skipped.clone(),
        checkpoint: disk.source.checkpoint.clone(),
        checked_blocks: 0,
        unexpected_blocks: disk.unexpected_blocks,
        notes: disk.notes.clone(),
        seconds: disk.seconds,
    };
    BackupReport {
        recovery_point: point.id,
        item: point.item.clone(),
        time: point.time,
        parent: point.parent,
        parent_time: None,
        stored_bytes: sum(point, |disk| disk.stored_bytes),
        configuration_bytes: point.configuration.map(|configuration| configuration.length),
        seconds: point.completed.duration_since(point.time).as_secs_f64(),
        disks: point.disks.iter().map(disk).collect(),
        suspicion: point
            .suspicion
            .clone()
            .map(|suspicion| SuspicionReport::new(suspicion, &point.item, point.id)),
        made_before: true,
    }
}
