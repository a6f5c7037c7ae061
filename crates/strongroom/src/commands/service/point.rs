//! `recoverypoint` of the service.

use std::fmt::Write as _;

use clap::Args;
use jiff::Timestamp;
use strongroom_api::{PointState, PointUpdate, RecoveryPoint};
use strongroom_base::{Clock as _, PointId, message};
use strongroom_client::{Client, ItemQuery};

use crate::{
    columns::{Cell, Columns, row},
    commands::recoverypoint::the_one,
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human, moments, suspect,
    values::{self, IdRange, Point},
};

use super::{
    boot::{in_short, in_words, newest_booted},
    common::{ItemArgs, Listed, Thing, find_item, refused, way_back, words},
};

/// The one recovery point of an item whose id has this beginning.
fn point_of_ids(client: &Client, item: &str, ids: IdRange) -> Result<PointId, Failure> {
    if let Some(id) = ids.whole() {
        return Ok(id);
    }
    let mut found = Vec::new();
    for point in client.points(item, None) {
        let point: RecoveryPoint = point?;
        if ids.contains(point.id) {
            found.push(point.id);
        }
    }
    the_one(item, ids, &found)
}

/// The name of a point in the API; for a time, the newest point made before it.
pub(crate) fn find_point(client: &Client, item: &str, point: Point) -> Result<String, Failure> {
    let before = match point {
        Point::Latest => return Ok("latest".to_owned()),
        Point::Booted => return newest_booted(client, item),
        Point::Ids(ids) => return Ok(point_of_ids(client, item, ids)?.to_string()),
        Point::At(moment) => moment,
    };
    let mut oldest: Option<RecoveryPoint> = None;
    for point in client.points(item, Some(PointState::Restorable)) {
        let point: RecoveryPoint = point?;
        if point.time <= before {
            return Ok(point.id.to_string());
        }
        oldest = Some(point);
    }
    let said = human::time(before);
    let failure = refused(message!(
        POINT_NOT_FOUND,
        "{item} has no recovery point of {time} or earlier that can be restored",
        item,
        time = said
    ));
    Err(match oldest {
        Some(oldest) => failure.with_hint(format!(
            "The oldest recovery point is {} of {}.",
            oldest.id,
            human::time(oldest.time)
        )),
        None => failure,
    })
}

/// Lists the points of an item, or of all.
pub(crate) fn list(
    context: &Context,
    item: Option<&str>,
    vault: Option<&str>,
) -> Result<(), Failure> {
    let client = context.client()?;
    let mut points = Vec::new();
    let mut rows = Vec::new();
    let items = if let Some(item) = item {
        vec![client.item(&find_item(&client, item, vault)?)?]
    } else {
        let which = ItemQuery { vault: vault.map(str::to_owned), ..ItemQuery::default() };
        client.items(which).all()?
    };
    for item in items {
        let mut found: Vec<RecoveryPoint> = client.points(&item.id.to_string(), None).all()?;
        // The oldest first, as in a vault.
        found.reverse();
        rows.extend(found.iter().map(|point| point_row(&item.name, point)));
        points.append(&mut found);
    }
    let head =
        ["ITEM", "TIME", "ID", "CONSISTENCY", "STATE", "BOOTS", "SIZE", "STORED", "KEPT UNTIL"];
    let columns = Columns::new(head, rows);
    context.out.result(&Listed::new("recovery_points", points, columns))
}

/// Whether it can be restored, and whether it is suspect.
fn state(point: &RecoveryPoint) -> String {
    let suspect = if point.suspicion.is_some() { ", suspect" } else { "" };
    words(point.state) + suspect
}

fn size(point: &RecoveryPoint) -> u64 {
    point.disks.iter().map(|disk| disk.size_bytes).fold(0, u64::saturating_add)
}

fn point_row(item: &str, point: &RecoveryPoint) -> [Cell; 9] {
    row![
        item,
        point.time,
        Cell::id(point.id),
        words(point.consistency),
        state(point),
        in_short(point.boot.as_ref()),
        Cell::Bytes(size(point)),
        Cell::Bytes(point.stored_bytes),
        point.expires.map_or(Cell::None, Cell::Day),
    ]
}

/// Shows a point.
pub(crate) fn show(
    context: &Context,
    item: &str,
    vault: Option<&str>,
    point: Point,
) -> Result<(), Failure> {
    let client = context.client()?;
    let item = find_item(&client, item, vault)?;
    let point = client.point(&item, &find_point(&client, &item, point)?)?;
    context.out.result(&Thing::new(point, shown))
}

fn shown(point: &RecoveryPoint) -> String {
    let mut facts = vec![
        ("Recovery point", point.id.to_string()),
        ("Time", human::time(point.time)),
        ("State", words(point.state)),
        ("Data", words(point.kind)),
        ("Consistency", words(point.consistency)),
        ("Made", words(point.trigger)),
        ("Completed", human::time(point.completed)),
        ("Stored", human::bytes(point.stored_bytes)),
        ("Expires", point.expires.map_or_else(|| "is kept".to_owned(), human::time)),
    ];
    let mut fact = |label, value: Option<String>| facts.extend(value.map(|value| (label, value)));
    fact("Kept by", (!point.kept_by.is_empty()).then(|| words(point.kept_by.join(", "))));
    fact("Kept on request until", point.retain_until.map(human::time));
    fact("Boot", point.boot.as_ref().map(in_words));
    fact("Suspect", point.suspicion.as_ref().map(suspect::words));
    fact("Job", point.job.map(|job| job.to_string()));
    fact("Deleted", point.deleted.map(human::time));
    fact("Can be restored until", point.purge_after.map(human::time));
    facts.extend(point.notes.iter().map(|note| ("Note", note.clone())));
    let mut text = human::facts(&facts);
    let rows = point.disks.iter().map(|disk| {
        let bytes = |bytes: Option<u64>| bytes.map_or(Cell::None, Cell::Bytes);
        row![
            &disk.name,
            Cell::Bytes(disk.size_bytes),
            Cell::Bytes(disk.changed_bytes),
            bytes(disk.new_bytes),
            bytes(disk.incompressible_bytes),
        ]
    });
    let head = ["DISK", "SIZE", "CHANGED", "NEW", "INCOMPRESSIBLE"];
    write!(text, "\n{}", Columns::new(head, rows).to_text()).ok();
    text
}

/// Deletes a point.
pub(crate) fn delete(
    context: &Context,
    (item, vault): (&str, Option<&str>),
    point: Point,
    confirm: ConfirmArgs,
) -> Result<(), Failure> {
    let client = context.client()?;
    let name = item;
    let item = find_item(&client, item, vault)?;
    let point = find_point(&client, &item, point)?;
    // `latest` is not to be another one when it is deleted.
    let point = client.point(&item, &point)?.id;
    if confirm.wants_plan() {
        let known = client.point(&item, &point.to_string())?;
        let vault = client.vault(&client.item(&item)?.vault.to_string())?;
        let plan = Plan::new(format!("Delete the recovery point {point} of {name}"))
            .with(format!("it holds the item as of {}", human::time(known.time)))
            .with(way_back(&vault, "recoverypoint keep-until"));
        if !confirm.go(context, &plan)? {
            return Ok(());
        }
    }
    let deleted = client.delete_point(&item, &point.to_string())?;
    context.out.result(&Thing::new(deleted, |deleted| {
        let until = deleted.as_ref().and_then(|point| point.purge_after).map(human::time);
        let until = until.map(|until| {
            format!("; `strongroom recoverypoint keep-until` brings it back until {until}")
        });
        format!("Deleted recovery point {point}{}\n", until.unwrap_or_default())
    }))
}

/// Set when a recovery point of the service expires, whatever its policy says
///
/// The command also restores a deleted or expired recovery point, while this is possible. It asks
/// before it shortens a time that was set before.
///
/// A time is 2027-12-31T18:00:00Z (RFC 3339); or in the local time zone "2027-12-31 18:00", or a
/// day (2027-12-31, tomorrow), which means its end; or a time from now: "in 12h" by the clock, "in
/// 90d" and "in 8w" by the calendar, the same time of day.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom recoverypoint keep-until 2027-12-31 --item web01 \\
      --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB
  strongroom recoverypoint keep-until \"in 90d\" --item web01 \\
      --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB
  strongroom recoverypoint keep-until policy --item web01 \\
      --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB --yes")]
pub(crate) struct KeepUntilArgs {
    /// The new expiry; `policy` leaves it to the policy
    #[arg(value_name = "TIME|policy", value_parser = until)]
    until: Until,

    #[command(flatten)]
    item: ItemArgs,

    /// The recovery point's id, or a unique beginning of it
    #[arg(long, value_name = "ID", value_parser = values::point_ids, add = complete::points())]
    recovery_point: IdRange,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// The new expiry.
#[derive(Clone, Copy, Debug)]
struct Until(Option<Timestamp>);

fn until(text: &str) -> Result<Until, String> {
    if text == "policy" {
        Ok(Until(None))
    } else {
        moments::ahead(text).map(|moment| Until(Some(moment)))
    }
}

/// The effect of the new expiry; the command asks if it shortens a time that somebody has set.
fn keep_plan(point: &RecoveryPoint, item: &str, until: Until, now: Timestamp) -> Plan {
    let as_policy = "for as long as the policy says";
    let wanted = match until.0 {
        Some(until) => format!("until {}", human::time(until)),
        None => as_policy.to_owned(),
    };
    let plan = Plan::new(format!("Keep the recovery point {} of {item} {wanted}", point.id));
    match point.retain_until {
        Some(before) if until.0 < Some(before) && before > now => {
            let before = human::time(before);
            plan.with(format!(
                "until now it was to be kept until {before}, whatever the policy says"
            ))
            .with("it is deleted once neither that time nor the policy keeps it")
        }
        Some(before) => {
            plan.with(format!("before it was until {}", human::time(before))).without_question()
        }
        None => plan.with(format!("before it was {as_policy}")).without_question(),
    }
}

impl KeepUntilArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let item = self.item.find(&client)?;
        let change = PointUpdate { retain_until: self.until.0 };
        let point = point_of_ids(&client, &item, self.recovery_point)?;
        if self.confirm.wants_plan() {
            let known = client.point(&item, &point.to_string())?;
            let plan = keep_plan(&known, &self.item.item, self.until, context.clock.now());
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let point = client.update_point(&item, &point.to_string(), &change)?;
        context.out.result(&Thing::new(point, shown))
    }
}
