//! The report of a job: what it did, by the kind of work.
//!
//! The types of most reports are those of the crate `reports`, which the commands print as well. This module
//! owns which kinds there are, and the reports of what the service does by itself. It must not know how any
//! of it is done.

use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use serde_json::{Map, Value};
use strongroom_base::{ItemId, PointId};
use strongroom_reports::{
    BackupReport, BootReport, DisksReport, DrillReport, FinishReport, MachineBackupReport,
    MachineRestoreReport, ReclaimReport, VerifyReport,
};

use crate::StopMode;

/// The report of a job: one JSON object, as the command that does the same prints it.
///
/// The service decides nothing by it: what it decides by is in fields of their own beside it. Which kind a kept
/// report is follows from its fields, and what fits none, because another version has written it, is kept as it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Report {
    /// Nothing is said.
    Nothing(Nothing),
    /// A backup of a machine.
    MachineBackup(Box<MachineBackupReport>),
    /// A backup of disks, a transfer, or what is known of a recovery point that was made before.
    Backup(Box<BackupReport>),
    /// A backup of a page blob to another one.
    IncrementalBackup(Box<IncrementalReport>),
    /// A restored machine, or replaced disks of one.
    MachineRestore(Box<MachineRestoreReport>),
    /// A machine that an earlier run of the same job has restored.
    RestoredBefore(Box<RestoredBefore>),
    /// Restored disks.
    DisksRestore(Box<DisksReport>),
    /// An accepted or undone restore.
    Finish(Box<FinishReport>),
    /// A boot verification.
    Boot(Box<BootReport>),
    /// A drill.
    Drill(Box<DrillReport>),
    /// One part of a verification.
    Verify(Box<VerifyReport>),
    /// A verification, by its parts.
    Verified(Box<VerifiedParts>),
    /// A reclaim.
    Reclaim(Box<ReclaimReport>),
    /// Removed recovery points.
    Removed(RemovedPoints),
    /// A measured vault.
    Measured(Measured),
    /// What a host has.
    Discovered(Discovered),
    /// What is protected now.
    Protected(Protected),
    /// Stopped protection.
    Stopped(Stopped),
    /// Something that this version does not know.
    Other(Map<String, Value>),
}

/// Nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Backups of a page blob to another one: of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncrementalReport {
    /// The source: `ACCOUNT/CONTAINER/BLOB`, percent-encoded.
    pub source: String,
    /// The target.
    pub target: String,
    /// The backups, in the order in which they were made: one; two if an earlier run was finished first, none if an earlier
    /// try of the job has made it.
    pub backups: Vec<IncrementalSnapshot>,
    /// Whether the source's account did not permit a new snapshot yet.
    pub was_too_soon: bool,
    /// Old snapshots of the source that were deleted.
    pub deleted_snapshots: Vec<String>,
    /// Old snapshots of the source that could not be deleted.
    pub kept_snapshots: Vec<String>,
    /// Old backups that were deleted.
    pub deleted_backups: Vec<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// One backup of a page blob to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncrementalSnapshot {
    /// The snapshot of the target.
    pub snapshot: String,
    /// The blob that it is a backup of.
    pub source: String,
    /// The snapshot of the source that it equals.
    pub source_snapshot: String,
    /// Its length in bytes.
    pub size: u64,
    /// How it was found what to write: `full`, `incremental`, `compared`.
    pub method: String,
    /// Why both blobs were compared, if they were.
    pub reason: Option<String>,
    /// Whether an earlier run had begun it.
    pub was_continued: bool,
    /// Bytes that were read from the source.
    pub read_bytes: u64,
    /// Bytes that were written to the target.
    pub written_bytes: u64,
    /// Ranges that were written to the target.
    pub written_ranges: u64,
    /// Bytes of the target that were cleared.
    pub cleared_bytes: u64,
    /// Ranges of the target that were cleared.
    pub cleared_ranges: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A machine that an earlier run of the same job has restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredBefore {
    /// The recovery point.
    pub recovery_point: PointId,
    /// Its item.
    pub item: String,
    /// The machine.
    pub machine: String,
    /// Its UUID.
    pub uuid: String,
    /// Which libvirt has it.
    pub host: String,
    /// The point of the state before, of a replacement.
    pub safety_point: Option<PointId>,
    /// Always true.
    pub done_before: bool,
}

/// A verification, by its parts. Those that are there were done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifiedParts {
    /// The structure of the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structure: Option<Report>,
    /// The packs whose turn it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs: Option<Report>,
    /// All packs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<Report>,
}

/// Removed recovery points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovedPoints {
    /// Number of removed recovery points.
    pub points_removed: u64,
    /// Number of other points whose copy near the source was removed; missing where the whole item was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots_removed: Option<u64>,
}

/// A measured vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Bytes that it takes.
    pub stored_bytes: u64,
}

/// What a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discovered {
    /// The names of its machines.
    pub machines: Vec<String>,
}

/// What is protected now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protected {
    /// The items.
    pub items: Vec<ProtectedSource>,
}

/// A source that is protected now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectedSource {
    /// Its item.
    pub item: ItemId,
    /// The item's name.
    pub name: String,
}

/// Stopped protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {
    /// The fate of the points.
    pub mode: StopMode,
}

impl Default for Report {
    fn default() -> Self {
        Self::Nothing(Nothing {})
    }
}

impl Report {
    /// What was backed up, if it is the report of a backup, of a machine or of disks.
    pub fn backup(&self) -> Option<&BackupReport> {
        match self {
            Self::MachineBackup(report) => Some(&report.point),
            Self::Backup(report) => Some(report),
            _ => None,
        }
    }

    /// As JSON, whatever its kind is.
    pub fn to_json(&self) -> Result<Value, serde_json::Error> {
        match self {
            Self::Nothing(report) => serde_json::to_value(report),
            Self::MachineBackup(report) => serde_json::to_value(report),
            Self::Backup(report) => serde_json::to_value(report),
            Self::IncrementalBackup(report) => serde_json::to_value(report),
            Self::MachineRestore(report) => serde_json::to_value(report),
            Self::RestoredBefore(report) => serde_json::to_value(report),
            Self::DisksRestore(report) => serde_json::to_value(report),
            Self::Finish(report) => serde_json::to_value(report),
            Self::Boot(report) => serde_json::to_value(report),
            Self::Drill(report) => serde_json::to_value(report),
            Self::Verify(report) => serde_json::to_value(report),
            Self::Verified(report) => serde_json::to_value(report),
            Self::Reclaim(report) => serde_json::to_value(report),
            Self::Removed(report) => serde_json::to_value(report),
            Self::Measured(report) => serde_json::to_value(report),
            Self::Discovered(report) => serde_json::to_value(report),
            Self::Protected(report) => serde_json::to_value(report),
            Self::Stopped(report) => serde_json::to_value(report),
            Self::Other(fields) => Ok(Value::Object(fields.clone())),
        }
    }
}

/// The fields are in the order of their names, whatever the kind is.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().map_err(S::Error::custom)?.serialize(serializer)
    }
}

macro_rules! reports {
    ($($kind:ident($report:ty),)*) => {$(
        impl From<$report> for Report {
            fn from(report: $report) -> Self {
                Self::$kind(report.into())
            }
        }
    )*};
}
reports! {
    MachineBackup(MachineBackupReport),
    Backup(BackupReport),
    IncrementalBackup(IncrementalReport),
    MachineRestore(MachineRestoreReport),
    RestoredBefore(RestoredBefore),
    DisksRestore(DisksReport),
    Finish(FinishReport),
    Boot(BootReport),
    Drill(DrillReport),
    Verify(VerifyReport),
    Verified(VerifiedParts),
    Reclaim(ReclaimReport),
    Removed(RemovedPoints),
    Measured(Measured),
    Discovered(Discovered),
    Protected(Protected),
    Stopped(Stopped),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Is = fn(&Report) -> bool;

    fn incremental_backup() -> Value {
        let snapshot = "2026-01-01T00:00:00.0000000Z";
        json!({
            "source": "a/b/c", "target": "d/e/f", "was_too_soon": false, "deleted_snapshots": [snapshot],
            "kept_snapshots": [], "deleted_backups": [], "duration_ms": 1,
            "backups": [{
                "snapshot": snapshot, "source": "a/b/c", "source_snapshot": snapshot, "size": 512,
                "method": "full", "reason": null, "was_continued": false, "read_bytes": 1,
                "written_bytes": 1, "written_ranges": 1, "cleared_bytes": 0, "cleared_ranges": 0,
                "duration_ms": 1,
            }],
        })
    }

    fn booted(point: &str) -> Value {
        json!({
            "recovery_point": point, "item": "web", "machine": "web", "host": "kvm1", "job": null, "damage": null,
            "picture": null, "begun": "2026-01-01T00:00:00Z", "verdict": "failed", "expected": "agent", "expected_by": "history",
            "reached": "kernel", "reason": "r", "start_seconds": 0.5, "screenshot": "image/png", "console_bytes": 1,
            "read_bytes": 65536, "written_bytes": 0, "notes": [], "seconds": 2.5,
            "rungs": [{ "rung": "kernel", "outcome": "reached", "seconds": 1.5, "reason": "r" }],
        })
    }

    fn drilled(point: &str) -> Value {
        json!({
            "begun": "2026-01-01T00:00:00Z", "host": "kvm1", "verdict": "failed", "wanted_seconds": 900.0, "seconds": 40.5,
            "machines": [{
                "item": "web", "recovery_point": point, "point_time": "2026-01-01T00:00:00Z", "age_seconds": 1.5,
                "verdict": "failed", "reason": "r", "code": null, "recovery_seconds": null, "is_in_time": false,
                "boot": booted(point),
            }],
        })
    }

    fn restored_disks(point: &str) -> Value {
        json!({
            "recovery_point": point, "item": "web", "seconds": 1.0, "template": null,
            "template_uuid": null, "nvram": null, "tpm": null, "notes": [],
            "disks": [{
                "name": "vda", "location": "/a", "size_bytes": 1, "data_bytes": 1,
                "compared_blocks": 0, "written_blocks": 1, "written_bytes": 1, "seconds": 0.5,
            }],
        })
    }

    /// What a job has kept is read as the kind that it is, and written again as it was.
    #[test]
    fn a_kept_report_is_read_as_its_kind() {
        let disk = json!({
            "name": "vda", "size_bytes": 1, "allocated_bytes": null, "changed_bytes": 2, "read_bytes": 3,
            "deduplicated_bytes": 4, "stored_bytes": 5, "delta_blocks": 6, "changes_from": "bitmap",
            "skipped": [{ "offset": 0, "length": 512 }], "checkpoint": "c", "checked_blocks": 7,
            "unexpected_blocks": 0, "notes": [], "seconds": 0.5, "new_bytes": 8,
            "incompressible_bytes": null,
        });
        let point = "02081040G2081040G2081040G2";
        let backup = json!({
            "recovery_point": point, "item": "web", "time": "2026-01-01T00:00:00Z", "parent": null,
            "stored_bytes": 5, "configuration_bytes": null, "seconds": 1.5, "disks": [disk],
            "suspicion": {
                "code": "point.suspect", "message": "m", "last_before": { "id": point, "time": "2026-01-01T00:00:00Z" },
                "jumps": [{
                    "disk": "vda", "kind": "amount", "bytes": 3, "usual_bytes": 1, "most_bytes": 2, "points": 7,
                }],
            },
        });
        let with = |report: &Value, more: Value| {
            let mut report = report.clone();
            let more = more.as_object().expect("an object").clone();
            report.as_object_mut().expect("an object").extend(more);
            report
        };
        let machine = with(
            &backup,
            json!({
                "machine": "web", "uuid": "u", "state": "running", "consistency": "file_system",
                "evidence": [], "frozen_seconds": 0.1, "transaction_seconds": null, "scratch_bytes": 0,
                "checkpoint": null, "notes": [],
            }),
        );
        let restored = json!({
            "recovery_point": point, "item": "web", "kind": "new", "dry_run": false, "machine": "copy",
            "uuid": "u", "host": "qemu:///system", "state": "off", "autostart": false,
            "disks": [{
                "name": "vda", "path": "/a", "format": "raw", "replaces": null, "size_bytes": 1,
                "data_bytes": 1, "written_bytes": 1,
            }],
            "addresses": [], "nvram": null, "tpm": null, "secrets": [],
            "left_behind": [{ "name": "vdb", "reason": "r" }], "safety_point": null, "instant": null, "notes": [],
            "seconds": 2.0,
        });
        let disks = restored_disks(point);
        let before = json!({
            "recovery_point": point, "item": "web", "machine": "copy", "uuid": "u",
            "host": "qemu:///system", "safety_point": null, "done_before": true,
        });
        let finish = json!({
            "machine": "web", "uuid": "u", "decision": "accepted", "recovery_point": point,
            "item": "web", "disks": [{ "name": "vda", "path": "/a" }],
        });
        let incremental_backup = incremental_backup();
        let verify = serde_json::to_value(VerifyReport::default()).expect("JSON");
        let reclaim = serde_json::to_value(ReclaimReport::default()).expect("JSON");
        let item = ItemId::from_bytes([7; 16]);
        let cases: Vec<(Value, Is)> = vec![
            (json!({}), |it| matches!(it, Report::Nothing(_))),
            (machine.clone(), |it| matches!(it, Report::MachineBackup(_))),
            (backup.clone(), |it| matches!(it, Report::Backup(_))),
            (with(&backup, json!({ "made_before": true })), |it| matches!(it, Report::Backup(_))),
            (restored, |it| matches!(it, Report::MachineRestore(_))),
            (before, |it| matches!(it, Report::RestoredBefore(_))),
            (disks, |it| matches!(it, Report::DisksRestore(_))),
            (incremental_backup, |it| matches!(it, Report::IncrementalBackup(_))),
            (finish, |it| matches!(it, Report::Finish(_))),
            (booted(point), |it| matches!(it, Report::Boot(_))),
            (drilled(point), |it| matches!(it, Report::Drill(_))),
            (verify.clone(), |it| matches!(it, Report::Verify(_))),
            (json!({ "structure": verify, "packs": verify }), |it| {
                matches!(it, Report::Verified(_))
            }),
            (json!({ "all": verify }), |it| matches!(it, Report::Verified(_))),
            (reclaim, |it| matches!(it, Report::Reclaim(_))),
            (json!({ "points_removed": 1 }), |it| matches!(it, Report::Removed(_))),
            (json!({ "points_removed": 1, "snapshots_removed": 0 }), |it| {
                matches!(it, Report::Removed(_))
            }),
            (json!({ "stored_bytes": 1 }), |it| matches!(it, Report::Measured(_))),
            (json!({ "machines": ["web"] }), |it| matches!(it, Report::Discovered(_))),
            (json!({ "items": [{ "item": item, "name": "web" }] }), |it| {
                matches!(it, Report::Protected(_))
            }),
            (json!({ "mode": "delete_data" }), |it| matches!(it, Report::Stopped(_))),
        ];
        for (json, is) in cases {
            let report: Report = serde_json::from_value(json.clone()).expect("read");
            assert!(is(&report), "{json} is read as {report:?}");
            assert_eq!(serde_json::to_string(&report).expect("JSON"), json.to_string());
        }
    }

    #[test]
    fn what_no_kind_fits_is_kept_as_it_is() {
        for kept in [
            json!({ "stored_bytes": 1, "disks": [{ "name": "vda" }] }),
            json!({ "points_removed": 1, "more": true }),
            json!({ "machine": "web" }),
        ] {
            let report: Report = serde_json::from_value(kept.clone()).expect("read");
            assert!(matches!(report, Report::Other(_)), "{report:?}");
            assert_eq!(serde_json::to_string(&report).expect("JSON"), kept.to_string());
        }
    }
}
