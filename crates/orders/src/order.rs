//! What a host is asked to do.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_api::{
    BlobPlace, BootWanted, Check, ConsistencyProved, ConsistencyWanted, DiskSelection, DrillWanted,
    ErrorBody, Host, KeyReference, PointBoot, PointDisk, ProtectableItem, Report, Restore,
    RestoreDecision, Source,
};
use strongroom_base::{JobId, PointId, Suspicion};

use crate::{OrderId, Result, Watch};

/// How a vault is reached and opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultAccess {
    /// The path of a folder, or the URL of an object store.
    pub url: String,
    /// Where its key is.
    pub key: KeyReference,
}

/// Where a new recovery point goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Into the vault that keeps it.
    #[default]
    Vault,
    /// Into a vault near the source, from which it is transferred.
    Snapshot,
}

/// Makes a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOrder {
    /// The job; the point bears it as the tag `job`, so that it is found again after a crash.
    pub job: JobId,
    /// The vault.
    pub vault: VaultAccess,
    /// Which kind of vault that is.
    #[serde(default)]
    pub tier: Tier,
    /// The item's name in the vault.
    pub item: String,
    /// What is backed up.
    pub source: Source,
    /// Which disks of it.
    pub disks: DiskSelection,
    /// The best consistency that is tried for.
    pub consistency: ConsistencyWanted,
    /// Whether less than that is a failure.
    pub consistency_required: bool,
    /// All of a disk is read and compared at least once in this number of backups; 0: only where needed.
    pub full_compare_every: u32,
    /// Folder for what the guest overwrites meanwhile.
    pub scratch_dir: Option<PathBuf>,
    /// Bytes a second to read at most.
    pub limit_rate: Option<u64>,
    /// More tags for the point.
    pub tags: BTreeMap<String, String>,
    /// Until when nobody may delete the point.
    #[serde(default)]
    pub locked_until: Option<Timestamp>,
}

/// Copies a recovery point from the vault near its source to the one that keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferOrder {
    /// Which order it is.
    pub order: OrderId,
    /// The vault that the point is in.
    pub from: VaultAccess,
    /// The item's name there.
    pub from_item: String,
    /// The point.
    pub point: PointId,
    /// The vault that keeps it.
    pub to: VaultAccess,
    /// The item's name there.
    pub to_item: String,
    /// Until when nobody may delete the copy.
    #[serde(default)]
    pub locked_until: Option<Timestamp>,
    /// Bytes a second to read at most.
    pub limit_rate: Option<u64>,
}

/// A recovery point as it is in its vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointFacts {
    /// Its id.
    pub id: PointId,
    /// Its item's name in the vault.
    pub item: String,
    /// The moment whose data it is.
    pub time: Timestamp,
    /// When it was complete.
    pub completed: Timestamp,
    /// What was proved.
    pub consistency: ConsistencyProved,
    /// Its disks.
    pub disks: Vec<PointDisk>,
    /// Bytes that it added to the vault, as far as the point knows.
    pub stored_bytes: u64,
    /// What people should know.
    pub notes: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Until when nobody may delete it, as its manifest says.
    #[serde(default)]
    pub locked_until: Option<Timestamp>,
    /// Why ransomware may have encrypted the item before it, as its manifest says.
    #[serde(default)]
    pub suspicion: Option<Suspicion>,
}

/// A recovery point was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupDone {
    /// The point.
    pub point: PointFacts,
    /// What is not as good as it should be.
    pub warnings: Vec<ErrorBody>,
    /// The report, as the command of the same name prints it.
    pub report: Report,
}

/// Backs a page blob up to another one, by snapshots of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncrementalOrder {
    /// Which order it is; the backup bears it, so that it is found again after a crash.
    pub order: OrderId,
    /// The blob that is backed up.
    pub from: BlobPlace,
    /// The blob that has the backups.
    pub to: BlobPlace,
    /// The number of backups that are kept.
    pub keep: u32,
    /// Bytes per second at most.
    #[serde(default)]
    pub limit_rate: Option<u64>,
}

/// A page blob was backed up to another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncrementalDone {
    /// The moment whose content the newest backup has.
    pub time: Timestamp,
    /// Bytes that were written to the target.
    pub written_bytes: u64,
    /// What is not as good as it should be.
    pub warnings: Vec<ErrorBody>,
    /// The report, as the command of the same name prints it.
    pub report: Report,
}

/// Restores a machine or disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// The job.
    pub job: JobId,
    /// The vault.
    pub vault: VaultAccess,
    /// The item's name in the vault.
    pub item: String,
    /// The point.
    pub point: PointId,
    /// What the item protects: the machine whose disks a replacement replaces.
    pub source: Source,
    /// What to do.
    pub restore: Restore,
    /// Bytes a second to write at most.
    pub limit_rate: Option<u64>,
}

/// A restore is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreDone {
    /// What is not as it was.
    pub warnings: Vec<ErrorBody>,
    /// The point of the state before, of a replacement.
    pub safety_point: Option<PointFacts>,
    /// The report, as the command of the same name prints it.
    pub report: Report,
}

/// Starts a machine from a recovery point in isolation, to see whether it boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOrder {
    /// The job.
    pub job: JobId,
    /// The vault.
    pub vault: VaultAccess,
    /// The item's name in the vault.
    pub item: String,
    /// The point.
    pub point: PointId,
    /// What is asked of the machine.
    pub wanted: BootWanted,
}

/// A machine was started from a recovery point, and watched: whether it came as far as expected or not. The result is kept
/// in the vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootDone {
    /// How far it came.
    pub boot: PointBoot,
    /// The error that a restore of the point has, if stored data of it is damaged.
    #[serde(default)]
    pub damage: Option<ErrorBody>,
    /// What is not as good as it should be.
    pub warnings: Vec<ErrorBody>,
    /// The report, as the command of the same name prints it.
    pub report: Report,
}

/// Starts machines together from recovery points in isolation, to see when each works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillOrder {
    /// The job.
    pub job: JobId,
    /// The vault.
    pub vault: VaultAccess,
    /// The items' names in the vault and the points, in the order in which the machines start.
    pub points: Vec<(String, PointId)>,
    /// What is asked; its items, host and time do not count here.
    pub wanted: DrillWanted,
}

/// A drill came to its end, whatever became of the machines. How each boots is kept in the vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillDone {
    /// How far each machine came that was started.
    pub boots: Vec<(PointId, PointBoot)>,
    /// The items of machines that did not come as far as they have to, or not in time.
    pub failed: Vec<String>,
    /// What is not as good as it should be.
    pub warnings: Vec<ErrorBody>,
    /// The report, as the command of the same name prints it.
    pub report: Report,
}

/// Accepts or undoes a restore that has replaced a machine's disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishOrder {
    /// Which order it is.
    pub order: OrderId,
    /// The machine: its name or UUID.
    pub machine: String,
    /// What becomes of them.
    pub decision: RestoreDecision,
}

/// What became of a restore that has replaced a machine's disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishDone {
    /// It is as was decided: the report, as the command of the same name prints it.
    Finished(Report),
    /// Nothing waits to be decided: a first try of the order has come to its end, or somebody has decided
    /// on the host itself.
    DecidedBefore,
}

/// Looks for what stands in the way of a backup. It changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOrder {
    /// Which order it is.
    pub order: OrderId,
    /// What is to be backed up.
    pub source: Source,
}

impl BackupOrder {
    /// Which order it is: a job makes one recovery point.
    pub fn id(&self) -> OrderId {
        OrderId::of_job(self.job, "backup")
    }
}

impl RestoreOrder {
    /// Which order it is: a job restores one thing.
    pub fn id(&self) -> OrderId {
        OrderId::of_job(self.job, "restore")
    }
}

impl BootOrder {
    /// Which order it is: a job verifies one point.
    pub fn id(&self) -> OrderId {
        OrderId::of_job(self.job, "boot")
    }
}

impl DrillOrder {
    /// Which order it is: a job is one drill.
    pub fn id(&self) -> OrderId {
        OrderId::of_job(self.job, "drill")
    }
}

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its own name.
    pub host: String,
    /// Version of this program there.
    pub version: String,
    /// Which orders it understands ([`crate::ORDERS_VERSION`]).
    pub orders: u32,
    /// Version of libvirt, if it is asked.
    pub libvirt: Option<String>,
    /// Version of QEMU, if libvirt is asked.
    pub qemu: Option<String>,
}

/// Gives each host its agent.
pub trait Agents: Send + Sync {
    /// The agent of a host. It answers at once: nobody is asked yet.
    fn agent(&self, host: &Host) -> Result<Arc<dyn Agent>>;
}

/// A host's agent.
pub trait Agent: Send + Sync {
    /// Whether the host answers, and what it is.
    fn hello(&self) -> Result<HostFacts>;

    /// All machines of the host. `host`, `protected_by` and `discovered` of the answers are for the
    /// caller to fill in.
    fn discover(&self, watch: &Watch) -> Result<Vec<ProtectableItem>>;

    /// What stands in the way of a backup.
    fn check(&self, order: &CheckOrder) -> Result<Check>;

    /// Makes a recovery point. Tasks: `snapshot`, and if it goes straight into the vault that keeps it,
    /// `transfer`. A source that is gone is the error `source.missing`, and nothing else is.
    fn backup(&self, order: &BackupOrder, watch: &Watch) -> Result<BackupDone>;

    /// Copies a recovery point; the copy has an id of its own. A point that was copied before is not
    /// copied again. Task: `transfer`.
    fn transfer(&self, order: &TransferOrder, watch: &Watch) -> Result<BackupDone>;

    /// Backs a page blob up to another one. A backup that the same order has made before is not made again. Task:
    /// `transfer`. A source that is gone is the error `source.missing`, and nothing else is.
    fn incremental_backup(
        &self,
        order: &IncrementalOrder,
        watch: &Watch,
    ) -> Result<IncrementalDone>;

    /// Restores a machine or disks. Tasks: `prepare`, `restore`.
    fn restore(&self, order: &RestoreOrder, watch: &Watch) -> Result<RestoreDone>;

    /// Starts a machine from a recovery point in isolation, sees how far it comes, and removes it. That it does not come far
    /// enough is no error. A host without machines fails with `host.lacks`. Task: `boot`.
    fn verify_boot(&self, order: &BootOrder, watch: &Watch) -> Result<BootDone>;

    /// Starts machines together from recovery points in isolation, sees when each works, and removes them. That one does
    /// not work is no error. Given again it is carried out again: nothing but what is known of the points is changed by it. Task:
    /// `drill`.
    fn drill(&self, order: &DrillOrder, watch: &Watch) -> Result<DrillDone>;

    /// Accepts or undoes a restore that has replaced a machine's disks. A repeated order continues.
    fn finish(&self, order: &FinishOrder) -> Result<FinishDone>;
}
