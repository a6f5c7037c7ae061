//! Boot verifications as they are kept in the vault: the newest of each recovery point.
//!
//! Two service objects (decision 0013), both sealed: `boot-POINT` has all of one verification, `boots-ITEM` (by the
//! item's key) the summaries of all points of an item, so that a list reads one object. The first is written first. A summary
//! that is lost is made again from the others by the next verification of its point. With a point, its verification goes, when
//! the next one of the item is kept.
//!
//! `boot-POINT` is a tar archive: `report.json` ([`BootReport`]), `screen.png` or `screen.ppm`, `console.log`, `trace.json`
//! (docs/understand/overlay-format.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use serde::{Deserialize, Serialize};
use strongroom_base::PointId;
use strongroom_export::Trace;
use strongroom_hypervisor::Screenshot;
use strongroom_reports::{BootReport, BootSummary};
use strongroom_vault::{Vault, VaultError};

use crate::{MachineError, error::Result};

const FORMAT: u16 = 1;
/// The most bytes of one file.
const FILE_MAX: u64 = 48 << 20;
/// How often the summaries are written again, as somebody else has written them meanwhile.
const ATTEMPTS: usize = 5;

/// A boot verification, with what shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// What was found.
    pub report: BootReport,
    /// A picture of the screen at its end.
    pub screenshot: Option<Screenshot>,
    /// What the machine has written on its console; of a long text the middle is left out.
    pub console: Vec<u8>,
    /// Which blocks the machine has read, in order.
    pub trace: Option<Trace>,
}

/// The summaries of an item.
#[derive(Debug, Serialize, Deserialize)]
struct Summaries {
    format: u16,
    boots: Vec<BootSummary>,
}

/// Keeps a verification in the vault, in place of an earlier one of the same recovery point.
pub fn keep(vault: &Vault, boot: &Boot) -> Result<()> {
    let (item, point) = (&boot.report.item, boot.report.recovery_point);
    vault.save_service_object(&name(point), &archive(boot)?)?;
    let summary = boot.report.summary();
    for _ in 0..ATTEMPTS {
        let mut boots = boots(vault, item)?;
        boots.retain(|other| other.recovery_point != point);
        boots.push(summary.clone());
        let gone = without_deleted(vault, item, &mut boots)?;
        boots.sort_by_key(|boot| boot.recovery_point);
        let text = serde_json::to_vec(&Summaries { format: FORMAT, boots });
        let text = text.map_err(|error| damaged(point, &error.to_string()))?;
        vault.save_service_object(&list_name(vault, item)?, &text)?;
        gone.into_iter().for_each(|point| remove(vault, point));
        // Another host may have replaced it with one that does not have ours.
        let is_ours =
            |other: &BootSummary| other.recovery_point == point && other.begun == summary.begun;
        if self::boots(vault, item)?.iter().any(is_ours) {
            return Ok(());
        }
    }
    Err(MachineError::Busy {
        machine: item.clone(),
        reason: "the results of other boot verifications are being written".to_owned(),
    })
}

/// The verifications of an item's recovery points, oldest point first.
pub fn boots(vault: &Vault, item: &str) -> Result<Vec<BootSummary>> {
    let bytes = match vault.load_service_object(&list_name(vault, item)?) {
        Ok(bytes) => bytes,
        Err(VaultError::NothingKept { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    match serde_json::from_slice::<Summaries>(&bytes) {
        Ok(read) if read.format == FORMAT => Ok(read.boots),
        // Of a later version, which knows more.
        _ => Ok(Vec::new()),
    }
}

/// The verifications of several items; items without any are left out. Reads one list, and one object for each
/// item that has some.
pub fn boots_of(
    vault: &Vault,
    items: &BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<BootSummary>>> {
    let kept = vault.service_objects()?;
    let kept: BTreeSet<&str> = kept.iter().map(|object| object.name.as_str()).collect();
    let mut all = BTreeMap::new();
    for item in items {
        if kept.contains(list_name(vault, item)?.as_str()) {
            all.insert(item.clone(), boots(vault, item)?);
        }
    }
    Ok(all)
}

/// The newest verification of a recovery point, if it was ever verified.
pub fn boot(vault: &Vault, point: PointId) -> Result<Option<Boot>> {
    match vault.load_service_object(&name(point)) {
        Ok(bytes) => read(&bytes).map(Some).map_err(|reason| damaged(point, &reason)),
        Err(VaultError::NothingKept { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The trace of the verification of an item's newest recovery point that has one.
pub fn newest_trace(vault: &Vault, item: &str) -> Result<Option<Trace>> {
    for summary in boots(vault, item)?.iter().rev().take(3) {
        if let Some(Boot { trace: Some(trace), .. }) = boot(vault, summary.recovery_point)? {
            return Ok(Some(trace));
        }
    }
    Ok(None)
}

/// Drops the summaries of points that are no more, and gives those.
fn without_deleted(
    vault: &Vault,
    item: &str,
    boots: &mut Vec<BootSummary>,
) -> Result<Vec<PointId>> {
    let listed = vault.list_points(Some(item))?;
    let there = listed.points.iter().map(|point| point.id);
    let there: BTreeSet<_> = there.chain(listed.damaged.iter().map(|one| one.point)).collect();
    let gone = boots.iter().map(|boot| boot.recovery_point);
    let gone = gone.filter(|point| !there.contains(point)).collect();
    boots.retain(|boot| there.contains(&boot.recovery_point));
    Ok(gone)
}

fn remove(vault: &Vault, point: PointId) {
    // What stays is removed by nobody, and costs its place only.
    if let Err(error) = vault.remove_service_object(&name(point)) {
        tracing::warn!(%error, %point, "the boot verification of a deleted point is left in the vault");
    }
}

fn name(point: PointId) -> String {
    format!("boot-{point}")
}

fn list_name(vault: &Vault, item: &str) -> Result<String> {
    Ok(vault.name_for_item("boots", item)?)
}

fn damaged(point: PointId, reason: &str) -> MachineError {
    let reason = format!("its boot verification cannot be read: {reason}");
    MachineError::Configuration { point: point.to_string(), reason }
}

fn archive(boot: &Boot) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| damaged(boot.report.recovery_point, &error.to_string());
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_cksum();
        archive.append_data(&mut header, name, content)
    };
    let report = serde_json::to_vec_pretty(&boot.report).map_err(std::io::Error::from);
    report.and_then(|report| add("report.json", &report)).map_err(failed)?;
    if let Some(picture) = &boot.screenshot {
        add(picture_name(&picture.kind), &picture.bytes).map_err(failed)?;
    }
    add("console.log", &boot.console).map_err(failed)?;
    if let Some(trace) = &boot.trace {
        let bytes = trace.encode();
        let bytes =
            bytes.map_err(|error| damaged(boot.report.recovery_point, &error.to_string()))?;
        add("trace.json", &bytes).map_err(failed)?;
    }
    archive.into_inner().map_err(failed)
}

fn picture_name(kind: &str) -> &'static str {
    if kind == "image/png" { "screen.png" } else { "screen.ppm" }
}

fn read(bytes: &[u8]) -> std::result::Result<Boot, String> {
    let mut report = None;
    let (mut console, mut picture, mut trace) = (Vec::new(), None, None);
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let mut entry = entry.map_err(|error| error.to_string())?;
        let path = entry.path().map_err(|error| error.to_string())?.into_owned();
        let mut content = Vec::new();
        let read = entry.by_ref().take(FILE_MAX.saturating_add(1)).read_to_end(&mut content);
        read.map_err(|error| error.to_string())?;
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > FILE_MAX {
            return Err(format!("{} is too long", path.display()));
        }
        match path.to_str() {
            Some("report.json") => {
                let read = serde_json::from_slice::<BootReport>(&content);
                report = Some(read.map_err(|error| error.to_string())?);
            }
            Some("console.log") => console = content,
            Some("screen.png") => picture = Some(("image/png", content)),
            Some("screen.ppm") => picture = Some(("image/x-portable-pixmap", content)),
            // It is a hint.
            Some("trace.json") => trace = Trace::decode(&content).ok(),
            // Of a later version.
            _ => {}
        }
    }
    let screenshot = picture.map(|(kind, bytes)| Screenshot { kind: kind.to_owned(), bytes });
    let report = report.ok_or("it has no report")?;
    Ok(Boot { report, screenshot, console, trace })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use strongroom_reports::{BootPicture, BootVerdict, ExpectedBy, Rung, RungOutcome, RungReport};

    use super::*;

    fn example() -> Boot {
        let point = "01M81RBWN54SXY808JR31NMSKN".parse().expect("an id");
        let rung = RungReport {
            rung: Rung::Agent,
            outcome: RungOutcome::Reached,
            seconds: Some(6.5),
            reason: "the guest agent answered".to_owned(),
        };
        let report = BootReport {
            recovery_point: point,
            item: "web01".to_owned(),
            machine: "web01".to_owned(),
            host: "kvm1".to_owned(),
            job: None,
            begun: Timestamp::UNIX_EPOCH,
            verdict: BootVerdict::Passed,
            expected: Rung::Agent,
            expected_by: ExpectedBy::Agent,
            reached: Some(Rung::Agent),
            reason: None,
            damage: None,
            start_seconds: 0.5,
            rungs: vec![rung],
            screenshot: Some("image/png".to_owned()),
            picture: Some(BootPicture {
                hash: "00ff".repeat(8),
                compared_with: Some(point),
                distance: Some(3),
                is_alike: Some(true),
            }),
            console_bytes: 7,
            read_bytes: 65536,
            written_bytes: 0,
            notes: Vec::new(),
            seconds: 7.0,
        };
        let trace = br#"{"format":1,"block_size":65536,"disks":["vda"],"reads":[[0,0,1]]}"#;
        Boot {
            report,
            screenshot: Some(Screenshot { kind: "image/png".to_owned(), bytes: vec![1, 2, 3] }),
            console: b"a line\n".to_vec(),
            trace: Some(Trace::decode(trace).expect("a trace")),
        }
    }

    #[test]
    fn a_verification_is_an_archive_and_back() {
        let boot = example();
        let bytes = archive(&boot).expect("an archive");
        assert_eq!(read(&bytes), Ok(boot.clone()));
        let bare = Boot { screenshot: None, trace: None, console: Vec::new(), ..boot };
        assert_eq!(read(&archive(&bare).expect("an archive")), Ok(bare));
        assert!(read(b"").is_err_and(|error| error.contains("no report")));
        for cut in [1, 600, 1024, bytes.len() / 2] {
            // What is damaged is refused or has what was whole.
            drop(read(bytes.get(..cut).unwrap_or_default()));
        }
    }

    #[test]
    fn a_verification_of_an_earlier_version_is_read() {
        let mut report = serde_json::to_value(example().report).expect("JSON");
        let mut summary = serde_json::to_value(example().report.summary()).expect("JSON");
        for (object, names) in
            [(&mut report, ["picture", "damage"]), (&mut summary, ["picture_hash"; 2])]
        {
            names
                .iter()
                .for_each(|name| drop(object.as_object_mut().expect("an object").remove(*name)));
        }
        let report: BootReport = serde_json::from_value(report).expect("a report");
        assert_eq!((report.picture, report.damage), (None, None));
        let summary: BootSummary = serde_json::from_value(summary).expect("a summary");
        assert_eq!(summary.picture_hash, None);
    }

    #[test]
    fn a_summary_has_the_time_of_the_highest_rung() {
        let summary = example().report.summary();
        assert_eq!((summary.reached, summary.reached_seconds), (Some(Rung::Agent), Some(6.5)));
    }
}
