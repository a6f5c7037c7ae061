//! `restore` through the service.

use std::fmt::Write as _;

use strongroom_api::{Replaced, Report, Restore, RestoreDecision};
use strongroom_base::{PointId, message};
use strongroom_reports::{DisksReport, MachineRestoreReport, RestoreKind};

use crate::{
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human, suspect,
    values::Point,
};

use super::{
    common::{find_item, refused, restore_words},
    point::find_point,
};

/// Begins a restore.
pub(crate) fn restore(
    context: &Context,
    (item, vault): (&str, Option<&str>),
    point: Point,
    restore: &Restore,
    wait: bool,
) -> Result<(), Failure> {
    let client = context.client()?;
    let (name, item) = (item, find_item(&client, item, vault)?);
    let point = find_point(&client, &item, point)?;
    // If it cannot be found, the restore says so, after what is wrong with the request.
    if let Ok(chosen) = client.point(&item, &point)
        && let Some(suspicion) = &chosen.suspicion
    {
        let message = suspicion.message(name, chosen.id).text;
        suspect::warn_with(context, &human::printable(&message), suspect::RESTORE_EARLIER);
    }
    let begun = client.restore(&item, &point, restore)?;
    context.out.say(&format!("The server restores {}", restore_words(restore)));
    context.begun(&client, &begun, wait)
}

/// Begins to accept or undo the restore that has replaced the disks of an item's machine.
pub(crate) fn finish(
    context: &Context,
    (item, vault): (&str, Option<&str>),
    decision: RestoreDecision,
    confirm: ConfirmArgs,
    plan: &dyn Fn(&str, &str) -> Plan,
    wait: bool,
) -> Result<(), Failure> {
    let client = context.client()?;
    let name = item;
    let item = find_item(&client, item, vault)?;
    if confirm.wants_plan() {
        let Some(replaced) = client.item(&item)?.replaced else {
            let message = message!(
                REQUEST_NOT_FOUND,
                "no restore of {item} is to be accepted or undone",
                item = name
            );
            return Err(refused(message));
        };
        let point = replaced.recovery_point.to_string();
        if !confirm.go(context, &plan(&format!("the machine of {name}"), &point))? {
            return Ok(());
        }
    }
    let begun = client.finish_restore(&item, decision)?;
    context.begun(&client, &begun, wait)
}

/// The decision that a restore with replaced disks waits for, by item.
pub(super) fn owed(item: &str, replaced: &Replaced) -> String {
    format!(
        "{} has the disks of {} since {}, as layers over its old ones. With the machine off, \
         `strongroom restore accept --item {item}` keeps them, `strongroom restore undo --item \
         {item}` brings the old ones back.",
        replaced.machine,
        replaced.recovery_point,
        human::time(replaced.time),
    )
}

/// The result or the plan of a restore, from the report of its job; empty if the report is of another version.
pub(super) fn report_text(item: &str, report: &Report) -> String {
    match report {
        Report::MachineRestore(report) => machine_text(item, report),
        Report::DisksRestore(report) => disks_text(report),
        Report::RestoredBefore(report) => {
            let (machine, uuid) =
                (human::printable(&report.machine), human::printable(&report.uuid));
            let mut found = format!("Restored machine {machine}, UUID {uuid}\n");
            add_safety_point(&mut found, report.safety_point);
            found
        }
        _ => String::new(),
    }
}

/// Name, size, written bytes, format and path of each disk.
fn disk_table(rows: impl Iterator<Item = [String; 5]>) -> String {
    human::table(["DISK", "SIZE", "WRITTEN", "FORMAT", "PATH"], &[1, 2], rows)
}

fn add_safety_point(found: &mut String, point: Option<PointId>) {
    if let Some(point) = point {
        writeln!(found, "The state before is recovery point {point}").ok();
    }
}

fn add_notes(found: &mut String, notes: &[String]) {
    for note in notes {
        writeln!(found, "Note: {}", human::printable(note)).ok();
    }
}

fn machine_text(item: &str, report: &MachineRestoreReport) -> String {
    let is_replaced = report.kind == RestoreKind::Replaced;
    let what = match (report.dry_run, is_replaced) {
        (true, true) => "Would replace disks of",
        (true, false) => "Would restore",
        (false, true) => "Replaced disks of",
        (false, false) => "Restored",
    };
    let (machine, uuid) = (human::printable(&report.machine), human::printable(&report.uuid));
    let mut found = format!("{what} machine {machine}, UUID {uuid}, {}\n", report.state.name());
    found += &disk_table(report.disks.iter().map(|disk| {
        [
            disk.name.clone(),
            human::bytes(disk.size_bytes),
            human::bytes(disk.written_bytes),
            disk.format.clone(),
            disk.path.clone(),
        ]
    }));
    for left in &report.left_behind {
        let (name, reason) = (human::printable(&left.name), human::printable(&left.reason));
        writeln!(found, "Disk {name}: {reason}").ok();
    }
    add_safety_point(&mut found, report.safety_point);
    add_notes(&mut found, &report.notes);
    if is_replaced && !report.dry_run {
        writeln!(
            found,
            "To be decided, with the machine off: `strongroom restore accept --item {item}` or \
             `strongroom restore undo --item {item}`"
        )
        .ok();
    }
    found
}

fn disks_text(report: &DisksReport) -> String {
    let mut found = "Restored disks\n".to_owned();
    found += &disk_table(report.restored.disks.iter().map(|disk| {
        [
            disk.name.clone(),
            human::bytes(disk.size_bytes),
            human::bytes(disk.written_bytes),
            String::new(),
            disk.location.clone(),
        ]
    }));
    add_notes(&mut found, &report.notes);
    found
}
