//! `verify`: whether machines boot from their recovery points.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde::Serialize;
use strongroom_agent::boot_damage;
use strongroom_api::{BootWanted, NotAWord};
use strongroom_base::{Kind, PointId};
use strongroom_hypervisor::Scope;
use strongroom_machine::{
    Boot,
    boot::{self, BootRequest},
    boots, boots_of, keep_boot,
};
use strongroom_reports::{
    BootPicture, BootReport, BootSummary, BootVerdict, ExpectedBy, Rung, RungOutcome, RungReport,
};
use strongroom_vault::Vault;

use super::{
    recoverypoint::{OfServiceArgs, PointArgs},
    restore::not_through_server,
    restore_files,
    service::{boot as boots_of_service, common::WaitArgs},
};
use crate::{
    args::OpenArgs,
    complete,
    context::Context,
    error::{FaceError, Failure},
    hosts::{self, ConnectArgs},
    human::{self, printable},
    open::open_vault,
    out::Show,
    values,
    views::PointView,
};

/// `verify ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum VerifyCommand {
    Boot(Box<BootArgs>),
    Show(ShowArgs),
    List(ListArgs),
}

impl VerifyCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Boot(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::List(args) => args.run(context),
        }
    }
}

/// The least memory that a machine is given, and the least that it may write.
const MEMORY_MIN: u64 = 16 << 20;
const WRITES_MIN: u64 = 1 << 20;

/// How machines are started and watched.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The most memory of a machine [default: as much as it has]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) memory: Option<u64>,

    /// The number of processors of a machine [default: as many as it has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(super) processors: Option<u32>,

    /// How long a machine is watched at most
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = values::duration)]
    pub(super) timeout: Duration,

    /// How long a machine may do nothing: read, write or say nothing
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::duration)]
    idle: Duration,

    /// Folder for what the machines write, which is thrown away [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub(super) storage_dir: Option<PathBuf>,

    /// The most that a machine may write
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = values::size)]
    writes_max: u64,

    /// Read every block of the recovery point first, and check it
    #[arg(long)]
    pub(super) read_all: bool,
}

impl StartArgs {
    /// What is asked of one machine.
    pub(crate) fn request(&self, scope: Scope) -> Result<BootRequest, Failure> {
        let given = self.storage_dir.clone().unwrap_or_else(|| PathBuf::from("/var/tmp"));
        // QEMU is started elsewhere.
        let folder = given.canonicalize().map_err(|source| FaceError::Local {
            path: given,
            action: "find",
            source,
        })?;
        if self.memory.is_some_and(|memory| memory < MEMORY_MIN) {
            return Err(Failure::usage("--memory: no machine starts with less than 16 MiB"));
        }
        let least = Duration::from_secs(1);
        if self.timeout < least || self.idle < least {
            return Err(Failure::usage("--timeout and --idle are at least 1s"));
        }
        if self.writes_max < WRITES_MIN {
            return Err(Failure::usage("--writes-max is at least 1M"));
        }
        Ok(BootRequest {
            expect: None,
            timeout: self.timeout,
            idle: self.idle,
            memory: self.memory,
            processors: self.processors,
            network: None,
            services: Vec::new(),
            ports: Vec::new(),
            script: None,
            read_all: self.read_all,
            folder,
            writes_max: self.writes_max,
            together: None,
            job: None,
            reader: Some(restore_files::reader()?),
            places: hosts::places(scope),
        })
    }
}

/// Start a machine from a recovery point in isolation, and see how far it boots
///
/// Nothing is restored: the machine reads its disks straight from the recovery point, and what it
/// writes is thrown away. It has no network and no devices, folders or terminals of the host, another
/// name and another UUID, and the clock of the recovery point. It goes when the command ends, however
/// that happens.
///
/// The steps are: digests (every block read, with --read-all), file-systems, power-on, firmware,
/// kernel, login, agent, services, script. How far the machine has to come follows from its
/// earlier recovery points, or from whether its guest agent answered when it was backed up; say
/// otherwise with --expect. The report has every step: reached, missed, or not tried and why.
///
/// The result is kept in the vault with a picture of the screen, the text of the serial console, and
/// which blocks were read: `strongroom verify show` shows them, `recoverypoint show` and `restore`
/// mention them, and `restore vm --instant` reads those blocks first. The exit code is 7 if the machine
/// did not come as far as it has to.
///
/// With a server the item's host does it, and the server keeps the result too, unless you name a vault or
/// key: the command begins a job, and `strongroom job show` has its report. Without a server it works on a
/// vault directly, on a host with libvirt.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom verify boot --item web01 --recovery-point latest
  strongroom verify boot --item web01 --recovery-point yesterday --expect kernel --memory 1G
  strongroom verify boot --item db --recovery-point latest --service postgresql --port 5432
  strongroom verify boot --item db --recovery-point latest --script /usr/local/bin/check-db \\
      --network closed --screenshot db.png")]
pub(crate) struct BootArgs {
    #[command(flatten)]
    point: PointArgs,

    /// How far the machine has to come: power-on, firmware, kernel, login, agent
    #[arg(long, value_name = "STEP", value_parser = step)]
    expect: Option<Rung>,

    /// A service that has to run (systemd or Windows); may be repeated
    #[arg(long, value_name = "NAME", value_parser = service)]
    service: Vec<String>,

    /// A TCP port of the guest at which a program has to listen; may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,

    /// A program in the guest that has to end with 0
    #[arg(long, value_name = "PATH")]
    script: Option<String>,

    /// A network of libvirt without <forward> that the machine is connected to [default: none]
    #[arg(long, value_name = "NAME")]
    network: Option<String>,

    /// Also write the picture of the screen to this file
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,

    /// Also write the text of the console to this file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,

    /// Do not keep the result in the vault
    #[arg(long)]
    no_record: bool,

    #[command(flatten)]
    start: StartArgs,

    #[command(flatten)]
    connect: ConnectArgs,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    open: OpenArgs,
}

pub(super) fn step(text: &str) -> Result<Rung, String> {
    match text.parse::<Rung>() {
        Ok(rung) if (Rung::PowerOn..=Rung::Agent).contains(&rung) => Ok(rung),
        Ok(Rung::Digests) => Err("give --read-all".to_owned()),
        Ok(Rung::Services) => Err("give --service or --port".to_owned()),
        Ok(Rung::Script) => Err("give --script".to_owned()),
        _ => Err("it is one of power-on, firmware, kernel, login, agent".to_owned()),
    }
}

/// It becomes an argument of a program in the guest.
pub(super) fn service(text: &str) -> Result<String, String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.@:\\ ".contains(c);
    if text.is_empty() || text.starts_with('-') || !text.chars().all(is_good) {
        return Err("it is no name of a service".to_owned());
    }
    Ok(text.to_owned())
}

impl BootArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.point.of.is_direct(context, &self.open)? {
            let wanted = self.wanted()?;
            let PointArgs { item, of, recovery_point } = &self.point;
            let of = (item.as_str(), of.vault());
            return boots_of_service::begin(context, of, *recovery_point, &wanted, self.wait.wait);
        }
        if self.wait.wait {
            return Err(FaceError::NoServer.into());
        }
        context.stopping.with_terminal();
        let connection = self.connect.open()?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find_directly(&vault)?;
        let history = boots(&vault, &point.item)?;
        let request = BootRequest {
            expect: self.expect,
            services: self.service,
            ports: self.port,
            script: self.script,
            network: self.network.filter(|name| name != "none"),
            ..self.start.request(connection.uri().scope)?
        };
        let boot = context.watched(|progress| {
            let cancel = &context.cancel;
            boot::verify(&vault, &connection, &point, &history, &request, progress, cancel)
        });
        let boot = boot.map_err(starts_over)?;
        let kept = if self.no_record { Ok(()) } else { keep_boot(&vault, &boot) };
        context.out.result(&boot.report)?;
        warn_of_picture(context, &boot.report);
        let (screenshot, console) = (self.screenshot.as_deref(), self.console.as_deref());
        write_evidence(context, &boot, screenshot, console)?;
        kept?;
        ended(&boot.report)
    }
}

impl BootArgs {
    /// What a server is asked for.
    fn wanted(&self) -> Result<BootWanted, Failure> {
        not_through_server(&[
            ("--connect", self.connect.connect.is_some()),
            ("--screenshot", self.screenshot.is_some()),
            ("--console", self.console.is_some()),
            ("--no-record", self.no_record),
            ("--storage-dir", self.start.storage_dir.is_some()),
            ("--cache-dir", self.open.cache_dir.is_some()),
        ])?;
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        Ok(BootWanted {
            expect: self
                .expect
                .map(|rung| rung.name().parse())
                .transpose()
                .map_err(|error: NotAWord| Failure::usage(error.to_string()))?,
            services: self.service.clone(),
            ports: self.port.clone(),
            script: self.script.clone(),
            network: self.network.clone().filter(|name| name != "none"),
            memory_bytes: self.start.memory,
            processors: self.start.processors,
            timeout_seconds: Some(seconds(self.start.timeout)),
            idle_seconds: Some(seconds(self.start.idle)),
            writes_max_bytes: Some(self.start.writes_max),
            read_all: self.start.read_all,
        })
    }
}

/// How alike the screen is to that of an earlier verification, if there was one.
fn likeness(picture: &BootPicture) -> Option<String> {
    let (point, distance) = picture.compared_with.zip(picture.distance)?;
    let word = if picture.is_alike? { "like" } else { "unlike" };
    Some(format!("{word} that of {point} (they differ in {distance} of 128 bits)"))
}

/// Warns if the screen looks different from that of an earlier verification, which is no failure.
fn warn_of_picture(context: &Context, report: &BootReport) {
    let Some(picture) = report.picture.as_ref().filter(|it| it.is_alike == Some(false)) else {
        return;
    };
    if let Some(words) = likeness(picture) {
        context.out.say(&format!(
            "Warning: the picture of the screen is {words}: look at it with `strongroom verify show --screenshot`."
        ));
    }
}

/// The failure of a verification that did not pass.
pub(super) fn ended(report: &BootReport) -> Result<(), Failure> {
    if let Some(damage) = &report.damage {
        return Err(FaceError::Answered(Box::new(boot_damage(damage))).into());
    }
    match &report.reason {
        None => Ok(()),
        Some(reason) => Err(FaceError::Boot {
            item: report.item.clone(),
            point: report.recovery_point,
            reason: reason.clone(),
        }
        .into()),
    }
}

/// What to do when such work is stopped: nothing of it is kept.
pub(super) fn starts_over(failure: impl Into<Failure>) -> Failure {
    let failure = failure.into();
    if failure.code().kind == Kind::Interrupted {
        return failure
            .with_hint("Run the command again: it starts over. Nothing is left of this one.");
    }
    failure
}

/// Writes a file of evidence.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), FaceError> {
    let failed = |source| FaceError::Local { path: path.to_owned(), action: "write", source };
    std::fs::write(path, bytes).map_err(failed)
}

fn write_evidence(
    context: &Context,
    boot: &Boot,
    screenshot: Option<&Path>,
    console: Option<&Path>,
) -> Result<(), Failure> {
    if let Some(path) = console {
        write(path, &boot.console)?;
    }
    match (screenshot, &boot.screenshot) {
        (Some(path), Some(picture)) => write(path, &picture.bytes)?,
        (Some(_), None) => {
            context.out.say("There is no picture of the screen: the report says why.");
        }
        (None, _) => {}
    }
    Ok(())
}

/// Show the boot verification of a recovery point
///
/// With a server it shows one that the server knows, unless you name a vault or key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom verify show --item web01 --recovery-point latest
  strongroom verify show --item web01 --recovery-point latest --screenshot web01.png \\
      --console web01.log")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    point: PointArgs,

    /// Write the picture of the screen to this file
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,

    /// Write the text of the console to this file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,

    #[command(flatten)]
    open: OpenArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.point.of.is_direct(context, &self.open)? {
            let PointArgs { item, of, recovery_point } = &self.point;
            let files = (self.screenshot.as_deref(), self.console.as_deref());
            return boots_of_service::show(context, (item, of.vault()), *recovery_point, files);
        }
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find_directly(&vault)?;
        let Some(boot) = strongroom_machine::boot(&vault, point.id)? else {
            return Err(FaceError::NoBoot { item: point.item, point: point.id }.into());
        };
        context.out.result(&boot.report)?;
        write_evidence(context, &boot, self.screenshot.as_deref(), self.console.as_deref())
    }
}

/// List the boot verifications of an item's recovery points
///
/// With a server it lists those that the server knows, unless you name a vault or key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom verify list --item web01")]
pub(crate) struct ListArgs {
    /// The item
    #[arg(long, value_name = "NAME", value_parser = values::name, add = complete::items_of_any())]
    item: String,

    #[command(flatten)]
    of: OfServiceArgs,

    #[command(flatten)]
    open: OpenArgs,
}

#[derive(Serialize)]
struct BootList {
    item: String,
    boots: Vec<BootSummary>,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if !self.of.is_direct(context, &self.open)? {
            return boots_of_service::list(context, &self.item, self.of.vault());
        }
        let vault = open_vault(context, &self.open, None)?;
        let boots = boots(&vault, &self.item)?;
        if boots.is_empty() {
            // An item that is not there is an error.
            vault.list_points(Some(&self.item))?;
        }
        context.out.result(&BootList { item: self.item, boots })
    }
}

/// What people read of a verification in one line.
pub(crate) fn in_words(boot: &BootSummary) -> String {
    let reached = boot.reached.map_or("nothing", Rung::name);
    let when = human::time(boot.begun);
    match &boot.reason {
        None => format!("reached {reached} ({when})"),
        Some(reason) => format!("does not boot as expected: {} ({when})", printable(reason)),
    }
}

/// Adds to recovery points what is known of how they boot. A list without that is better than none.
pub(crate) fn add_boots(vault: &Vault, points: &mut [PointView]) {
    let items: BTreeSet<String> = points.iter().map(|point| point.item.clone()).collect();
    match boots_of(vault, &items) {
        Ok(all) => {
            for point in points {
                let boots = all.get(&point.item).map(Vec::as_slice).unwrap_or_default();
                point.boot = boots.iter().find(|boot| boot.recovery_point == point.id).cloned();
            }
        }
        Err(error) => tracing::warn!(%error, "boot verifications are not shown"),
    }
}

/// The newest recovery point of an item from which its machine is known to boot.
pub(super) fn newest_booted(vault: &Vault, item: &str) -> Result<PointId, Failure> {
    let boots = boots(vault, item)?;
    let newest = boots.iter().rev().find(|boot| boot.verdict == BootVerdict::Passed);
    let none = || FaceError::NoneBooted { item: item.to_owned() };
    newest.map(|boot| boot.recovery_point).ok_or_else(none).map_err(Failure::from)
}

/// Warns of a recovery point that did not boot when it was verified.
pub(crate) fn warn(context: &Context, vault: &Vault, item: &str, point: PointId) {
    match boots(vault, item) {
        Ok(boots) => {
            if let Some(warning) = warning(&boots, point) {
                context.out.say(&format!("Warning: {warning}"));
            }
        }
        Err(error) => tracing::warn!(%error, "it is not known whether the recovery point boots"),
    }
}

/// What somebody has to know who restores this point, if it did not boot: and which one does.
fn warning(boots: &[BootSummary], point: PointId) -> Option<String> {
    let failed = boots.iter().find(|boot| boot.recovery_point == point)?;
    if failed.verdict == BootVerdict::Passed {
        return None;
    }
    let good = boots.iter().rev().find(|boot| boot.verdict == BootVerdict::Passed);
    let other = match good {
        Some(boot) => {
            format!("the newest recovery point that is known to boot is {}", boot.recovery_point)
        }
        None => "no recovery point of the item is known to boot".to_owned(),
    };
    let reason = failed.reason.as_deref().unwrap_or("the verification failed");
    Some(format!(
        "the machine did not boot from this recovery point: {}; {other}",
        printable(reason)
    ))
}

impl Show for BootList {
    fn show(&self) -> String {
        if self.boots.is_empty() {
            return format!("No recovery point of {} was booted yet\n", self.item);
        }
        let rows = self.boots.iter().map(|boot| {
            [
                boot.recovery_point.to_string(),
                human::time(boot.begun),
                boot.verdict.name().to_owned(),
                boot.reached.map_or("none", Rung::name).to_owned(),
                boot.expected.name().to_owned(),
                boot.reached_seconds.map_or_else(String::new, human::seconds),
                boot.reason.as_deref().map(printable).unwrap_or_default(),
            ]
        });
        let head =
            ["RECOVERY POINT", "VERIFIED", "RESULT", "REACHED", "EXPECTED", "AFTER", "REASON"];
        human::table(head, &[5], rows)
    }
}

impl Show for BootReport {
    fn show(&self) -> String {
        let mut text = String::new();
        let because = match self.expected_by {
            ExpectedBy::Request => "asked for",
            ExpectedBy::History => "as its other recovery points",
            ExpectedBy::Agent => "its agent answered when it was backed up",
            ExpectedBy::Default => "the least",
        };
        let verdict = match self.verdict {
            BootVerdict::Passed => "boots",
            BootVerdict::Failed => "does not boot as expected",
        };
        writeln!(text, "{} {verdict} from recovery point {}", self.item, self.recovery_point).ok();
        writeln!(text, "Expected: {} ({because})", self.expected).ok();
        if let Some(reason) = &self.reason {
            writeln!(text, "Reason: {}", printable(reason)).ok();
        }
        let rows = self.rungs.iter().map(|one: &RungReport| {
            let outcome = match one.outcome {
                RungOutcome::Reached => "reached",
                RungOutcome::Missed => "MISSED",
                RungOutcome::NotTried => "not tried",
            };
            [
                one.rung.name().to_owned(),
                outcome.to_owned(),
                one.seconds.map_or_else(String::new, human::seconds),
                printable(&one.reason),
            ]
        });
        text.push_str(&human::table(["STEP", "RESULT", "AFTER", "REASON"], &[2], rows));
        let read = human::bytes(self.read_bytes);
        let wrote = human::bytes(self.written_bytes);
        let seconds = human::seconds(self.seconds);
        writeln!(text, "It read {read} and wrote {wrote}, in {seconds} on {}", self.host).ok();
        if let Some(words) = self.picture.as_ref().and_then(likeness) {
            writeln!(text, "Picture: {words}").ok();
        }
        for note in &self.notes {
            writeln!(text, "Note: {}", printable(note)).ok();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_services_are_checked() {
        assert_eq!(step("power-on"), Ok(Rung::PowerOn));
        assert_eq!(step("agent"), Ok(Rung::Agent));
        for (text, words) in [
            ("script", "--script"),
            ("digests", "--read-all"),
            ("services", "--port"),
            ("x", "one of"),
        ] {
            assert!(step(text).is_err_and(|error| error.contains(words)), "{text}");
        }
        assert_eq!(
            service("postgresql@16-main.service").as_deref(),
            Ok("postgresql@16-main.service")
        );
        for bad in ["", "--help", "a;b", "a\nb", "$(x)"] {
            assert!(service(bad).is_err(), "{bad:?}");
        }
    }
}
