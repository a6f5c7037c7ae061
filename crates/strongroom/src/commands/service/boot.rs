//! `verify boot`, `verify show` and `verify list` through the service.
//!
//! Must not know how a machine is booted: the service orders it, and keeps how far it came.

use std::path::Path;

use clap::Args;
use strongroom_api::{
    BootOutcome, BootPolicy, BootStep, BootWanted, BootWhen, DrillPolicy, DrillWanted, NotAWord,
    PointBoot, PointState, RecoveryPoint,
};
use strongroom_client::Client;

use crate::{
    columns::{Cell, Columns, row},
    commands::verify::{service as service_name, step},
    context::Context,
    error::{FaceError, Failure},
    human, values,
    values::Point,
};

use super::{
    common::{Listed, find_item, one_of, words},
    point::find_point,
    policy::one_vault,
};

/// Begins a boot verification.
pub(crate) fn begin(
    context: &Context,
    (item, vault): (&str, Option<&str>),
    point: Point,
    wanted: &BootWanted,
    wait: bool,
) -> Result<(), Failure> {
    let client = context.client()?;
    let item = find_item(&client, item, vault)?;
    let point = find_point(&client, &item, point)?;
    let begun = client.verify_boot(&item, &point, wanted)?;
    context.begun(&client, &begun, wait)
}

/// Shows the newest boot verification of a point, and writes down what its machine showed.
pub(crate) fn show(
    context: &Context,
    (item, vault): (&str, Option<&str>),
    point: Point,
    (screenshot, console): (Option<&Path>, Option<&Path>),
) -> Result<(), Failure> {
    let client = context.client()?;
    let item = find_item(&client, item, vault)?;
    let point = find_point(&client, &item, point)?;
    context.out.result(&client.boot_report(&item, &point)?)?;
    let write = |path: &Path, bytes: &[u8]| {
        let failed = |source| FaceError::Local { path: path.to_owned(), action: "write", source };
        std::fs::write(path, bytes).map_err(failed)
    };
    if let Some(path) = console {
        write(path, &client.boot_console(&item, &point)?)?;
    }
    if let Some(path) = screenshot {
        write(path, &client.boot_screenshot(&item, &point)?)?;
    }
    Ok(())
}

/// Lists the boot verifications of an item's points, oldest point first.
pub(crate) fn list(context: &Context, item: &str, vault: Option<&str>) -> Result<(), Failure> {
    let client = context.client()?;
    let item = find_item(&client, item, vault)?;
    let mut points: Vec<RecoveryPoint> = client.points(&item, None).all()?;
    points.retain(|point| point.boot.is_some());
    points.reverse();
    let rows = points.iter().filter_map(|point| {
        let boot = point.boot.as_ref()?;
        let after = boot.reached_ms.map(|ms| human::seconds(seconds(ms)));
        Some(row![
            Cell::id(point.id),
            boot.begun,
            words(boot.outcome),
            boot.reached.map_or_else(|| "none".to_owned(), words),
            words(boot.expected),
            after,
            boot.reason.clone(),
        ])
    });
    let head = ["RECOVERY POINT", "VERIFIED", "RESULT", "REACHED", "EXPECTED", "AFTER", "REASON"];
    let columns = Columns::new(head, rows);
    context.out.result(&Listed::new("recovery_points", points, columns))
}

/// Begins a drill.
pub(crate) fn drill(
    context: &Context,
    vault: Option<&str>,
    wanted: &DrillWanted,
    wait: bool,
) -> Result<(), Failure> {
    let client = context.client()?;
    let vault = one_vault(&client, vault.map(str::to_owned))?;
    let begun = client.drill(&vault, wanted)?;
    context.begun(&client, &begun, wait)
}

/// The newest point of an item from which its machine is known to boot.
pub(super) fn newest_booted(client: &Client, item: &str) -> Result<String, Failure> {
    for point in client.points(item, Some(PointState::Restorable)) {
        let point: RecoveryPoint = point?;
        if point.boot.as_ref().is_some_and(|boot| boot.outcome == BootOutcome::Passed) {
            return Ok(point.id.to_string());
        }
    }
    Err(FaceError::NoneBooted { item: item.to_owned() }.into())
}

/// What a list says of how a point boots.
pub(super) fn in_short(boot: Option<&PointBoot>) -> String {
    match boot.map(|boot| (boot.outcome, boot.reached)) {
        None => String::new(),
        Some((BootOutcome::Failed, _)) => "no".to_owned(),
        Some((BootOutcome::Passed, Some(step))) => words(step),
        Some((BootOutcome::Passed, None)) => "yes".to_owned(),
    }
}

/// The same in a sentence.
pub(super) fn in_words(boot: &PointBoot) -> String {
    let when = human::time(boot.begun);
    match &boot.reason {
        None => {
            let reached = boot.reached.map_or_else(|| "nothing".to_owned(), words);
            format!("reached {reached} ({when})")
        }
        Some(reason) => {
            format!("does not boot as expected: {} ({when})", human::printable(reason))
        }
    }
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

/// Which points a policy boots.
#[derive(Debug, Args)]
#[command(next_help_heading = "Boot verification")]
pub(super) struct BootPolicyArgs {
    /// Boot machines from their recovery points in isolation, and raise an alert if one does not come as far as it
    /// has to: every new point, the newest as soon as it is there, or the newest once a week
    #[arg(long, value_name = "WHEN", value_parser = one_of!(BootWhen))]
    boot: Option<BootWhen>,

    /// How far machines have to come: power-on, firmware, kernel, login, agent [default: as far as they did before]
    #[arg(long, value_name = "STEP", requires = "boot", value_parser = boot_step)]
    boot_expect: Option<BootStep>,

    /// A service that has to run in each of them; may be repeated
    #[arg(long, value_name = "NAME", requires = "boot", value_parser = service_name)]
    boot_service: Vec<String>,

    /// A TCP port at which a program has to listen in each of them; may be repeated
    #[arg(long, value_name = "PORT", requires = "boot", value_parser = clap::value_parser!(u16).range(1..))]
    boot_port: Vec<u16>,

    /// A program that has to end with 0 in each of them
    #[arg(long, value_name = "PATH", requires = "boot")]
    boot_script: Option<String>,

    /// A network of libvirt without <forward> that they are connected to [default: none]
    #[arg(long, value_name = "NAME", requires = "boot")]
    boot_network: Option<String>,

    /// The most memory of each of them [default: as much as it has]
    #[arg(long, value_name = "SIZE", requires = "boot", value_parser = values::size)]
    boot_memory: Option<u64>,
}

impl BootPolicyArgs {
    /// What is asked for; none if nothing is.
    pub(super) fn policy(self) -> Option<BootPolicy> {
        let wanted = BootWanted {
            expect: self.boot_expect,
            services: self.boot_service,
            ports: self.boot_port,
            script: self.boot_script,
            network: self.boot_network,
            memory_bytes: self.boot_memory,
            ..BootWanted::default()
        };
        self.boot.map(|when| BootPolicy { when, wanted })
    }
}

fn boot_step(text: &str) -> Result<BootStep, String> {
    let rung = step(text)
        .map_err(|_| "it is one of power-on, firmware, kernel, login, agent".to_owned())?;
    rung.name().parse().map_err(|error: NotAWord| error.to_string())
}

/// What a policy boots, for people.
pub(super) fn policy_words(boot: &BootPolicy) -> String {
    let mut parts = vec![match boot.when {
        BootWhen::Never => "never".to_owned(),
        BootWhen::EveryPoint => "every new recovery point".to_owned(),
        BootWhen::Newest => "the newest recovery point".to_owned(),
        BootWhen::Weekly => "the newest recovery point once a week".to_owned(),
    }];
    let wanted = &boot.wanted;
    parts.extend(wanted.expect.map(|step| format!("to {}", words(step))));
    parts.extend(wanted.services.iter().map(|name| format!("service {name}")));
    parts.extend(wanted.ports.iter().map(|port| format!("port {port}")));
    parts.extend(wanted.script.iter().map(|path| format!("script {path}")));
    parts.extend(wanted.network.iter().map(|name| format!("network {name}")));
    parts.extend(wanted.memory_bytes.map(|bytes| format!("{} of memory", human::bytes(bytes))));
    parts.join(", ")
}

/// The drill that a vault carries out by itself.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Drill")]
pub(crate) struct DrillPolicyArgs {
    /// Boot machines of the vault together, with this number of days between, and raise an alert if one does not work; 0: never
    #[arg(long = "drill-every-days", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=3660))]
    every_days: Option<u32>,

    /// A machine that takes part: its item; may be repeated, in the order of their start [default: all machines]
    #[arg(long = "drill-item", value_name = "ITEM", requires = "every_days", value_parser = values::name)]
    item: Vec<String>,

    /// The time in which each machine has to work
    #[arg(long = "drill-within", value_name = "TIME", requires = "every_days", value_parser = values::duration)]
    within: Option<std::time::Duration>,

    /// Start each machine when those before it have come as far as they go
    #[arg(long = "drill-in-order", requires = "every_days")]
    in_order: bool,

    /// A network of libvirt without <forward>, or `none` [default: one that is made for the drill]
    #[arg(long = "drill-network", value_name = "NAME", requires = "every_days")]
    network: Option<String>,

    /// The most memory of each machine [default: as much as it has]
    #[arg(long = "drill-memory", value_name = "SIZE", requires = "every_days", value_parser = values::size)]
    memory: Option<u64>,
}

impl DrillPolicyArgs {
    /// What is asked for; none if nothing is.
    pub(super) fn policy(self) -> Option<DrillPolicy> {
        let within = self.within.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        let wanted = DrillWanted {
            items: self.item,
            in_order: self.in_order,
            within_seconds: within,
            network: self.network,
            memory_bytes: self.memory,
            ..DrillWanted::default()
        };
        self.every_days.map(|every_days| DrillPolicy { every_days, wanted })
    }
}

/// The drill of a vault, for people.
pub(super) fn drill_words(drill: &DrillPolicy) -> String {
    let wanted = &drill.wanted;
    let mut parts = vec![format!("every {}", human::count(drill.every_days.into(), "day"))];
    parts.push(if wanted.items.is_empty() {
        "all machines".to_owned()
    } else {
        wanted.items.join(", ")
    });
    let within = wanted.within_seconds;
    parts.extend(within.map(|seconds| format!("within {}", human::seconds(seconds.into()))));
    parts.extend(wanted.in_order.then(|| "one after the other".to_owned()));
    parts.extend(wanted.network.iter().map(|name| format!("network {name}")));
    parts.extend(wanted.memory_bytes.map(|bytes| format!("{} of memory", human::bytes(bytes))));
    parts.join(", ")
}
