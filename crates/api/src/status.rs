//! Everything on one screen.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{ItemId, JobId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, ProtectionState, Replaced};

/// The state of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When.
    pub time: Timestamp,
    /// Version of the server.
    pub version: String,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// Number of items in each state of protection.
    pub items: BTreeMap<String, u64>,
    /// Number of jobs of the last 24 hours in each state, without the service's own jobs.
    pub jobs_24_hours: BTreeMap<String, u64>,
    /// The next scheduled backup; none if no item has a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_backup: Option<NextBackup>,
    /// Number of running jobs.
    pub jobs_running: u64,
    /// Number of waiting jobs.
    pub jobs_queued: u64,
    /// Items whose backups fail, the longest first.
    pub failing: Vec<FailingItem>,
    /// Items whose newest restorable point is older than their policy promises, the longest first.
    #[serde(default)]
    pub behind: Vec<BehindItem>,
    /// Number of items without a policy, so without scheduled backups.
    #[serde(default)]
    pub unscheduled: u64,
    /// Restores that have replaced disks of a machine and that nobody has accepted or undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_restores: Vec<OpenRestore>,
    /// Number of firing alerts, by severity.
    pub alerts: BTreeMap<String, u64>,
    /// The vaults.
    pub vaults: Vec<VaultStatus>,
    /// Number of hosts, by state.
    pub hosts: BTreeMap<String, u64>,
    /// Problems of the server itself: its clock, its catalog.
    pub server: Vec<ErrorBody>,
}

/// An item whose newest restorable point is older than its policy promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BehindItem {
    /// The item.
    pub item: ItemId,
    /// Its name.
    pub name: String,
    /// Its vault.
    pub vault: VaultId,
    /// When its newest restorable point was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_point: Option<Timestamp>,
    /// When a newer one should have begun.
    pub due: Timestamp,
    /// The job that works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// A restore that has replaced disks of a machine and that nobody has accepted or undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenRestore {
    /// The item.
    pub item: String,
    /// What it did.
    pub replaced: Replaced,
}

/// The next backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextBackup {
    /// When it begins.
    pub time: Timestamp,
    /// The item.
    pub item: String,
}

/// An item whose backups fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailingItem {
    /// The item.
    pub item: ItemId,
    /// Its name.
    pub name: String,
    /// Its vault.
    pub vault: VaultId,
    /// The state of its protection.
    pub state: ProtectionState,
    /// Number of failed backups since the last good one.
    pub failures: u32,
    /// When the last good one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Timestamp>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The job that failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// The verification of a vault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// When its structure was last checked: everything except packs, and whether every recovery
    /// point has all that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structure: Option<Timestamp>,
    /// End of the last round that has read all its packs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Timestamp>,
    /// Start of the present round that reads its packs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Timestamp>,
    /// Damaged objects that are not repaired.
    #[serde(default)]
    pub damaged_objects: u64,
    /// Recovery points that cannot be restored whole.
    #[serde(default)]
    pub damaged_points: u64,
}

/// A vault at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VaultStatus {
    /// The vault.
    pub id: VaultId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Items in it.
    pub items: u64,
    /// Recovery points in it.
    pub recovery_points: u64,
    /// Bytes of one copy at the last measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// Bytes that are free where it is, if it is a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Its last verification; none if it was never verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Why it cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}
