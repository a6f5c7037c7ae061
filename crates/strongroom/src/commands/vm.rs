//! `vm`: the machines of a host.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use strongroom_hypervisor::Connection;
use strongroom_machine::{Checked, DiscoveredMachine, OurCheckpoint, Verdict};

use crate::{
    columns::{Cell, Columns, row},
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::{FaceError, Failure},
    hosts::{self, ConnectArgs},
    human,
    out::Show,
};

/// `vm ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    List(ListArgs),
    Show(ShowArgs),
    Check(CheckArgs),
    Checkpoints(CheckpointsArgs),
}

impl VmCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Check(args) => args.run(context),
            Self::Checkpoints(args) => args.run(context),
        }
    }
}

/// List the machines of a host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vm list
  strongroom vm list --connect qemu+ssh://root@kvm2/system --output json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// The machines of a host.
#[derive(Debug, Serialize)]
struct VmList {
    machines: Vec<DiscoveredMachine>,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let connection = self.connect.open()?;
        let machines = strongroom_machine::discover(&connection)?;
        context.out.result(&VmList { machines })
    }
}

impl Show for VmList {
    fn show(&self) -> String {
        if self.machines.is_empty() {
            return "No machines\n".to_owned();
        }
        let mut text = self.columns().map(|table| table.to_text()).unwrap_or_default();
        for machine in &self.machines {
            if let Some(problem) = &machine.problem {
                writeln!(text, "{}: libvirt has no more details: {problem}", machine.name).ok();
            }
        }
        text
    }

    fn columns(&self) -> Option<Columns> {
        let rows = self.machines.iter().map(|machine| {
            let disks = || machine.disks.iter().filter(|disk| disk.left_out.is_none());
            let size = disks().filter_map(|disk| disk.size_bytes).fold(0, u64::saturating_add);
            let count = |number| u64::try_from(number).unwrap_or(u64::MAX);
            row![
                &machine.name,
                machine.state,
                count(disks().count()),
                Cell::Bytes(size),
                count(disks().filter(|disk| disk.tracks_changes).count()),
                machine.agent.replace('_', " "),
                machine.firmware.replace('_', " "),
                machine.tpm,
                machine.manager.clone(),
            ]
        });
        let head =
            ["NAME", "STATE", "DISKS", "SIZE", "TRACKED", "AGENT", "FIRMWARE", "TPM", "MANAGER"];
        Some(Columns::new(head, rows))
    }
}

/// Show a machine and its disks
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vm show web01")]
pub(crate) struct ShowArgs {
    /// The machine: its name or UUID
    #[arg(value_name = "NAME", add = complete::machines())]
    name: String,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// One machine.
#[derive(Debug, Serialize)]
struct VmShown(DiscoveredMachine);

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let connection = self.connect.open()?;
        let domain = connection.domain(&self.name)?;
        context.out.result(&VmShown(strongroom_machine::describe(&connection, &domain)?))
    }
}

impl Show for VmShown {
    fn show(&self) -> String {
        let machine = &self.0;
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        if let Some(problem) = &machine.problem {
            return format!("{}: libvirt has no more details: {problem}\n", machine.name);
        }
        let mut text = human::facts(&[
            ("Name", machine.name.clone()),
            ("UUID", machine.uuid.clone()),
            ("State", machine.state.to_owned()),
            ("Persistent", yes(machine.persistent)),
            ("Starts with host", yes(machine.autostart)),
            ("Processors", machine.vcpus.to_string()),
            ("Memory", human::bytes(machine.memory_bytes)),
            ("Firmware", machine.firmware.replace('_', " ")),
            ("TPM", machine.tpm.unwrap_or("none").to_owned()),
            ("Guest agent", machine.agent.replace('_', " ")),
            ("Manager", machine.manager.clone().unwrap_or_else(|| "none".to_owned())),
            ("Checkpoints", machine.checkpoints.to_string()),
            ("Snapshots", machine.snapshots.to_string()),
        ]);
        let rows = machine.disks.iter().map(|disk| {
            [
                disk.name.clone(),
                disk.size_bytes.map(human::bytes).unwrap_or_default(),
                disk.allocated_bytes.map(human::bytes).unwrap_or_default(),
                disk.format.clone().unwrap_or_default(),
                if disk.tracks_changes { "bitmap" } else { "-" }.to_owned(),
                match &disk.left_out {
                    Some(reason) => format!("no: {reason}"),
                    None if disk.os_disk => "yes (OS disk)".to_owned(),
                    None => "yes".to_owned(),
                },
                disk.source.clone(),
            ]
        });
        text.push('\n');
        let head = ["DISK", "SIZE", "ALLOCATED", "FORMAT", "CHANGES", "BACKED UP", "SOURCE"];
        text.push_str(&human::table(head, &[1, 2], rows));
        for disk in &machine.disks {
            for note in &disk.notes {
                writeln!(text, "Disk {}: {note}", disk.name).ok();
            }
        }
        text
    }
}

/// Check whether and how well machines can be backed up, and how to remove obstacles
///
/// green: no obstacle. amber: a backup works, but with limits or without some parts. red: a backup
/// fails. The exit code is 4 if a machine is red.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vm check
  strongroom vm check web01 db01")]
pub(crate) struct CheckArgs {
    /// The machines: names or UUIDs [default: all]
    #[arg(value_name = "NAME", add = complete::machines())]
    names: Vec<String>,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// What was found.
#[derive(Debug, Serialize)]
struct VmChecked {
    machines: Vec<Checked>,
}

impl CheckArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let connection = self.connect.open()?;
        let machines = self.check(&connection)?;
        let red = machines.iter().filter(|machine| machine.verdict == Verdict::Red);
        let red: Vec<_> = red.map(|machine| machine.name.clone()).collect();
        context.out.result(&VmChecked { machines })?;
        if red.is_empty() { Ok(()) } else { Err(FaceError::NotReady(red.join(", ")).into()) }
    }

    fn check(&self, connection: &Connection) -> Result<Vec<Checked>, Failure> {
        let domains = if self.names.is_empty() {
            connection.domains()?
        } else {
            let find = |name: &String| connection.domain(name);
            self.names.iter().map(find).collect::<Result<_, _>>()?
        };
        let check = |domain| strongroom_machine::check(connection, domain);
        Ok(domains.iter().map(check).collect::<Result<_, _>>()?)
    }
}

impl Show for VmChecked {
    fn show(&self) -> String {
        let mut text = String::new();
        for machine in &self.machines {
            writeln!(text, "{}: {}", machine.name, machine.verdict).ok();
            for finding in &machine.findings {
                writeln!(text, "  {:<6}{}", finding.level, finding.what).ok();
                writeln!(text, "        {}", finding.what_to_do).ok();
            }
        }
        text
    }
}

/// List or delete the checkpoints that backups have left for the next one
///
/// Each backup of a running machine leaves a checkpoint: bitmaps in its images, in which QEMU
/// records changed blocks. While a checkpoint exists, libvirt does not revert to internal
/// snapshots, refuses new snapshots of a machine that is off, and does not undefine it. --delete
/// deletes the checkpoints with their bitmaps, whether the machine runs or is off, also those of
/// lost vaults. Recovery points stay; the next backup reads everything and begins a new checkpoint.
/// The command asks before it deletes, or takes --yes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vm checkpoints web01
  strongroom vm checkpoints web01 --delete
  strongroom vm checkpoints web01 --delete --of-vault 0h2pta93 --yes")]
pub(crate) struct CheckpointsArgs {
    /// The machine: its name or UUID
    #[arg(value_name = "NAME")]
    name: String,

    /// Delete them, with their bitmaps
    #[arg(long)]
    delete: bool,

    /// Only checkpoints of the vault with this id, or with this end of its id
    #[arg(long, value_name = "ID", requires = "delete")]
    of_vault: Option<String>,

    #[command(flatten)]
    confirm: ConfirmArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// The checkpoints, existing or deleted.
#[derive(Debug, Serialize)]
struct VmCheckpoints {
    machine: String,
    checkpoints: Vec<OurCheckpoint>,
    deleted: bool,
}

impl CheckpointsArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let connection = self.connect.open()?;
        let domain = connection.domain(&self.name)?;
        if self.delete && self.confirm.wants_plan() {
            let of = |vault: &str| self.of_vault.as_ref().is_none_or(|end| vault.ends_with(end));
            let there = strongroom_machine::checkpoints(&connection, &domain)?;
            let going = there.into_iter().filter(|checkpoint| of(&checkpoint.vault));
            let plan =
                Plan::new(format!("Delete checkpoints of {}, with their bitmaps", domain.name));
            let plan = going.fold(plan, |plan, checkpoint| plan.with(checkpoint.name));
            let plan = plan.with("the next backup reads everything; recovery points stay");
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let checkpoints = if self.delete {
            let places = hosts::places(connection.uri().scope);
            let vault = self.of_vault.as_deref();
            strongroom_machine::delete_checkpoints(&connection, &places, &domain, vault)?
        } else {
            strongroom_machine::checkpoints(&connection, &domain)?
        };
        let (machine, deleted) = (domain.name, self.delete);
        context.out.result(&VmCheckpoints { machine, checkpoints, deleted })
    }
}

impl Show for VmCheckpoints {
    fn show(&self) -> String {
        if self.checkpoints.is_empty() {
            return format!("No checkpoints of Strongroom on {}\n", self.machine);
        }
        let rows = self.checkpoints.iter().map(|checkpoint| {
            [
                checkpoint.name.clone(),
                checkpoint.vault.clone(),
                checkpoint.item.clone().unwrap_or_else(|| "-".to_owned()),
                if checkpoint.known { "yes" } else { "no" }.to_owned(),
                checkpoint.disks.join(" "),
            ]
        });
        let head = ["CHECKPOINT", "VAULT", "ITEM", "LIBVIRT KNOWS IT", "DISKS"];
        let mut text = human::table(head, &[], rows);
        if self.deleted {
            text.push_str("Deleted; the next backup reads everything\n");
        }
        text
    }
}
