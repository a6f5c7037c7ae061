//! Everything on one screen.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{ItemId, JobId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, ProtectionState};

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
    /// How many jobs of the last 24 hours are in each state.
    pub jobs_24_hours: BTreeMap<String, u64>,
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
    /// Why it cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}
