//! `drill`: machines that are started together from their recovery points, and the report of it.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use strongroom_api::DrillWanted;
use strongroom_machine::{
    Boot,
    drill::{DrillNetwork, DrillRequest, drill},
    keep_boot,
    restore::configuration,
};
use strongroom_reports::{BootVerdict, DrillReport, DrilledMachine};

use super::{
    recoverypoint::{OfServiceArgs, find},
    restore::not_through_server,
    service::{boot as boots_of_service, common::WaitArgs},
    verify::{StartArgs, starts_over, write},
};
use crate::{
    args::OpenArgs,
    columns::{Cell, Columns, row},
    complete,
    context::Context,
    error::{FaceError, Failure},
    hosts::ConnectArgs,
    human::{self, printable},
    open::open_vault,
    out::Show,
    values::{self, Point},
};

/// Rehearse a recovery: start machines together from their recovery points, and see when each works
///
/// Nothing is restored, and nothing of the originals is touched: the machines are started as with
/// `verify boot`, each with its disks straight from the recovery point, on a closed network that is
/// made for the drill, so that they reach each other and nothing else. A machine that has come as far as it
/// has to stays until all have. Then everything is removed.
///
/// The report says of each machine how old its recovery point is, how far it came, and how long
/// that took since the drill began, beside the time that is wanted (--within). The results are kept with the
/// recovery points, as those of `verify boot`. --evidence writes the report, pictures of the screens and texts
/// of the consoles to a folder. The exit code is 7 if a machine did not come as far as it has to, or not in time.
///
/// With a server the machines' host does it, unless you name a vault or key: the command begins a job, and
/// `strongroom job show` has its report. Without a server it works on a vault directly, on a host with libvirt.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom drill --item db --item web01 --within 15m
  strongroom drill --item db --item web01 --in-order --recovery-point yesterday \\
      --memory 2G --evidence /srv/audit/drill
  strongroom drill --all --network none --output json
  strongroom drill --all --vault-name main --within 15m --wait")]
pub(crate) struct DrillArgs {
    /// An item; may be repeated. The machines start in this order
    #[arg(
        long,
        value_name = "NAME",
        value_parser = values::name,
        add = complete::items_of_vaults(),
        required_unless_present = "all"
    )]
    item: Vec<String>,

    /// All machines of the vault
    #[arg(long, conflicts_with = "item")]
    all: bool,

    /// The recovery points: `latest`, or a time, which selects each item's newest point at or before it
    #[arg(long, value_name = "latest|TIME", default_value = "latest")]
    recovery_point: Point,

    /// The time in which each machine has to work
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    within: Option<Duration>,

    /// Start each machine when those before it have come as far as they go
    #[arg(long)]
    in_order: bool,

    /// A network of libvirt without <forward>, or `none` [default: one that is made for the drill]
    #[arg(long, value_name = "NAME")]
    network: Option<String>,

    /// Write the report, pictures of the screens and texts of the consoles to this folder
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,

    #[command(flatten)]
    of: OfServiceArgs,

    /// With a server: the host, if the machines are of several
    #[arg(long, value_name = "NAME", add = complete::hosts())]
    on_host: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,

    /// Do not keep the results in the vault
    #[arg(long)]
    no_record: bool,

    #[command(flatten)]
    start: StartArgs,

    #[command(flatten)]
    connect: ConnectArgs,

    #[command(flatten)]
    open: OpenArgs,
}

impl DrillArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.of.is_direct(context, &self.open)? {
            let wanted = self.wanted()?;
            return boots_of_service::drill(context, self.of.vault(), &wanted, self.wait.wait);
        }
        if self.wait.wait || self.on_host.is_some() {
            return Err(FaceError::NoServer.into());
        }
        context.stopping.with_terminal();
        let connection = self.connect.open()?;
        let vault = open_vault(context, &self.open, None)?;
        let mut items = self.item.clone();
        if self.all {
            let list = vault.list_points(None)?;
            let machines = list.points.iter().filter(|point| point.configuration.is_some());
            items = machines.map(|point| point.item.clone()).collect();
            items.sort();
        }
        let mut seen = BTreeSet::new();
        items.retain(|item| seen.insert(item.clone()));
        let points = items.iter().map(|item| find(&vault, item, self.recovery_point));
        let points = points.collect::<Result<Vec<_>, _>>()?;
        // Of what is no machine it is said before others are started.
        points.iter().try_for_each(|point| configuration(&vault, point).map(drop))?;
        if points.is_empty() {
            return Err(Failure::usage("the vault has no recovery points of machines"));
        }
        if let Some(folder) = &self.evidence {
            fs::create_dir_all(folder).map_err(|source| FaceError::Local {
                path: folder.clone(),
                action: "make",
                source,
            })?;
        }
        let request = DrillRequest {
            points,
            boot: self.start.request(connection.uri().scope)?,
            network: match self.network.as_deref() {
                None => DrillNetwork::Own,
                Some("none") => DrillNetwork::None,
                Some(name) => DrillNetwork::Named(name.to_owned()),
            },
            in_order: self.in_order,
            wanted: self.within,
        };
        let work = |progress: &_| drill(&vault, &connection, &request, progress, &context.cancel);
        let (report, boots) = context.watched(work).map_err(starts_over)?;
        context.out.result(&report)?;
        if let Some(folder) = &self.evidence {
            write_evidence(folder, &report, &boots)?;
        }
        if !self.no_record {
            boots.iter().try_for_each(|boot| keep_boot(&vault, boot))?;
        }
        ended(&report)
    }
}

impl DrillArgs {
    /// What a server is asked for.
    fn wanted(&self) -> Result<DrillWanted, Failure> {
        not_through_server(&[
            ("--connect", self.connect.connect.is_some()),
            ("--evidence", self.evidence.is_some()),
            ("--no-record", self.no_record),
            ("--read-all", self.start.read_all),
            ("--storage-dir", self.start.storage_dir.is_some()),
            ("--cache-dir", self.open.cache_dir.is_some()),
        ])?;
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        Ok(DrillWanted {
            items: self.item.clone(),
            host: self.on_host.clone(),
            before: match self.recovery_point {
                Point::Latest => None,
                Point::At(moment) => Some(moment),
                Point::Booted | Point::Ids(_) => {
                    return Err(Failure::usage("a drill takes `latest` or a time"));
                }
            },
            in_order: self.in_order,
            within_seconds: self.within.map(seconds),
            network: self.network.clone(),
            memory_bytes: self.start.memory,
            processors: self.start.processors,
            timeout_seconds: Some(seconds(self.start.timeout)),
        })
    }
}

fn ended(report: &DrillReport) -> Result<(), Failure> {
    if report.verdict == BootVerdict::Passed {
        return Ok(());
    }
    let is_well = |machine: &DrilledMachine| {
        machine.verdict == BootVerdict::Passed && machine.is_in_time != Some(false)
    };
    let failed = report.machines.iter().filter(|machine| !is_well(machine));
    let machines: Vec<String> = failed.map(|machine| machine.item.clone()).collect();
    Err(FaceError::Drill { machines }.into())
}

fn write_evidence(folder: &Path, report: &DrillReport, boots: &[Boot]) -> Result<(), Failure> {
    let write = |name: &str, bytes: &[u8]| write(&folder.join(name), bytes);
    let json = serde_json::to_vec_pretty(report);
    let json = json.map_err(|error| FaceError::Bug(format!("a report is not JSON: {error}")))?;
    write("report.json", &json)?;
    write("report.txt", report.show().as_bytes())?;
    for boot in boots {
        // The name of an item is that of a file, too: it begins with no dot and has no slash.
        let item = &boot.report.item;
        write(&format!("{item}.console.log"), &boot.console)?;
        if let Some(picture) = &boot.screenshot {
            let end = if picture.kind == "image/png" { "png" } else { "ppm" };
            write(&format!("{item}.screen.{end}"), &picture.bytes)?;
        }
    }
    Ok(())
}

impl Show for DrillReport {
    fn show(&self) -> String {
        let mut text = String::new();
        let verdict = match self.verdict {
            BootVerdict::Passed => "passed",
            BootVerdict::Failed => "FAILED",
        };
        let (begun, seconds) = (human::time(self.begun), human::seconds(self.seconds));
        writeln!(text, "Drill of {begun} on {}: {verdict}, in {seconds}", self.host).ok();
        if let Some(wanted) = self.wanted_seconds {
            writeln!(text, "Each machine has to work within {}", human::seconds(wanted)).ok();
        }
        text.push_str(&table(self).to_text());
        for machine in &self.machines {
            let Some(boot) = &machine.boot else { continue };
            let steps = boot.rungs.iter().filter_map(|one| Some((one.rung, one.seconds?)));
            let steps = steps.map(|(rung, seconds)| format!("{rung} {}", human::seconds(seconds)));
            let steps: Vec<String> = steps.collect();
            let started = human::seconds(boot.start_seconds);
            writeln!(text, "{}: started after {started}, then {}", machine.item, steps.join(", "))
                .ok();
            for note in &boot.notes {
                writeln!(text, "{}: {}", machine.item, printable(note)).ok();
            }
        }
        text
    }

    fn columns(&self) -> Option<Columns> {
        Some(table(self))
    }
}

/// A row for each machine.
fn table(report: &DrillReport) -> Columns {
    let rows = report.machines.iter().map(|machine| {
        let result = match (machine.verdict, machine.is_in_time) {
            (BootVerdict::Failed, _) => "FAILED",
            (BootVerdict::Passed, Some(false)) => "TOO LATE",
            (BootVerdict::Passed, _) => "passed",
        };
        let reached = machine.boot.as_ref().and_then(|boot| boot.reached);
        row![
            &machine.item,
            Cell::id(machine.recovery_point),
            human::seconds(machine.age_seconds),
            result,
            reached.map_or("none", strongroom_reports::Rung::name),
            machine.recovery_seconds.map_or_else(String::new, human::seconds),
            machine.reason.as_deref().map(printable).unwrap_or_default(),
        ]
    });
    let head = ["ITEM", "RECOVERY POINT", "AGE", "RESULT", "REACHED", "WORKS AFTER", "REASON"];
    Columns::new(head, rows)
}
