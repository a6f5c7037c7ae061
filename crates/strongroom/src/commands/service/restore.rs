//! `restore` through the service.

use std::fmt::Write as _;

use serde_json::Value;
use strongroom_api::{Replaced, Restore, RestoreDecision};
use strongroom_base::message;

use crate::{
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human,
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
    let item = find_item(&client, item, vault)?;
    let point = find_point(&client, &item, point)?;
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

/// The result or the plan of a restore, from the report of its job.
pub(super) fn report_text(item: &str, report: &Value) -> String {
    let text = |value: &Value, key: &str| {
        let text = value.get(key).and_then(Value::as_str).unwrap_or_default();
        human::printable(text)
    };
    let bytes = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_u64).map(human::bytes).unwrap_or_default()
    };
    let list = |key: &str| report.get(key).and_then(Value::as_array).into_iter().flatten();
    let dry_run = report.get("dry_run").and_then(Value::as_bool) == Some(true);
    let replaced = text(report, "kind") == "replaced";
    let what = match (dry_run, replaced) {
        (true, true) => "Would replace disks of",
        (true, false) => "Would restore",
        (false, true) => "Replaced disks of",
        (false, false) => "Restored",
    };
    let mut found = String::new();
    if report.get("machine").is_some() {
        let (machine, uuid) = (text(report, "machine"), text(report, "uuid"));
        writeln!(found, "{what} machine {machine}, UUID {uuid}, {}", text(report, "state")).ok();
    } else {
        writeln!(found, "{what} disks").ok();
    }
    let path = |disk: &Value| {
        let path = text(disk, "path");
        if path.is_empty() { text(disk, "location") } else { path }
    };
    let rows: Vec<[String; 5]> = list("disks")
        .map(|disk| {
            [
                text(disk, "name"),
                bytes(disk, "size_bytes"),
                bytes(disk, "written_bytes"),
                text(disk, "format"),
                path(disk),
            ]
        })
        .collect();
    let head = ["DISK", "SIZE", "WRITTEN", "FORMAT", "PATH"];
    found.push_str(&human::table(head, &[1, 2], rows));
    for left in list("left_behind") {
        writeln!(found, "Disk {}: {}", text(left, "name"), text(left, "reason")).ok();
    }
    if let Some(point) = report.get("safety_point").and_then(Value::as_str) {
        writeln!(found, "The state before is recovery point {point}").ok();
    }
    for note in list("notes").filter_map(Value::as_str) {
        writeln!(found, "Note: {}", human::printable(note)).ok();
    }
    if replaced && !dry_run {
        writeln!(
            found,
            "To be decided, with the machine off: `strongroom restore accept --item {item}` or \
             `strongroom restore undo --item {item}`"
        )
        .ok();
    }
    found
}
