//! Everything on one screen.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{ItemId, JobId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, ProtectionState, Replaced};

/// How things are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When.
    pub time: Timestamp,
    /// Version of the server.
    pub version: String,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// How many items are in each state of protection.
    pub items: BTreeMap<String, u64>,
    /// How many jobs of the last 24 hours are in each state, without those that the service began for itself.
    pub jobs_24_hours: BTreeMap<String, u64>,
    /// When the next backup begins; none if no schedule wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_backup: Option<NextBackup>,
    /// How many jobs run.
    pub jobs_running: u64,
    /// How many jobs wait.
    pub jobs_queued: u64,
    /// Items whose backups fail, the longest first.
    pub failing: Vec<FailingItem>,
    /// Items whose newest restorable point is older than their policy promises, the longest first.
    #[serde(default)]
    pub behind: Vec<BehindItem>,
    /// How many items have no policy, so that they are never backed up by themselves.
    #[serde(default)]
    pub unscheduled: u64,
    /// Restores that have replaced disks of a machine and that nobody has accepted or undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_restores: Vec<OpenRestore>,
    /// How many alerts hold, by severity.
    pub alerts: BTreeMap<String, u64>,
    /// The vaults.
    pub vaults: Vec<VaultStatus>,
    /// How many hosts there are, by state.
    pub hosts: BTreeMap<String, u64>,
    /// What is wrong with the server itself: its clock, its catalog.
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
    /// When a newer one should have been begun.
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

/// The backup that comes next.
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
    /// How far it is protected.
    pub state: ProtectionState,
    /// How many backups failed since the last good one.
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

/// How a vault was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// When its structure was looked at last: everything but packs, and whether every recovery point has
    /// all that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structure: Option<Timestamp>,
    /// When the last of its packs was read, of a round in which all of them are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Timestamp>,
    /// When the round began in which its packs are read now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Timestamp>,
    /// Objects that were found damaged and are not repaired.
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
    /// Bytes of one copy, when it was measured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// Bytes that are free where it is, if it is a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// How it was verified last; none if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Why it cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}
