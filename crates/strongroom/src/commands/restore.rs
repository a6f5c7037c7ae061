//! `restore`: disks and machines back from a recovery point.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use strongroom_api as api;
use strongroom_disk::{DiskSpec, ImageFormat};
use strongroom_engine::RestoreReport;
use strongroom_machine::restore::{self, DisksReport, DisksRestore};

use crate::{
    args::{OpenArgs, WorkArgs},
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::{FaceError, Failure},
    hosts, human,
    open::open_vault,
    out::Show,
    suspect,
    values::{self, NamedDisk, RestoreTo},
};

use super::{
    recoverypoint::PointArgs,
    restore_files::FilesCommand,
    restore_vm::{AcceptArgs, UndoArgs, VmArgs},
    service::{common::WaitArgs, restore as service},
};

/// `restore ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum RestoreCommand {
    Disks(Box<DisksArgs>),
    Vm(Box<VmArgs>),
    /// List, find and copy single files of recovery points
    #[command(subcommand)]
    Files(Box<FilesCommand>),
    Accept(AcceptArgs),
    Undo(UndoArgs),
}

impl RestoreCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Disks(args) => args.run(context),
            Self::Vm(args) => args.run(context),
            Self::Files(command) => command.run(context),
            Self::Accept(args) => args.run(context),
            Self::Undo(args) => args.run(context),
        }
    }
}

/// Restore disks of a recovery point to files, block devices or NBD exports
///
/// --to DIR writes every disk to DIR/NAME.raw or DIR/NAME.qcow2. --to NAME=TARGET writes one disk
/// to a file, a block device or an NBD URL, and may be repeated. A target that holds other data is
/// refused. --in-place overwrites an existing target where it differs; the command asks first, or
/// takes --yes. A file has the extension .partial until it is complete; to continue an interrupted
/// restore, give the same command again.
///
/// The restore checks every block against its digest before it writes the block.
///
/// If the item is a machine and --to names a folder, the restore also writes ITEM.xml there:
/// libvirt's description of a machine with these disks and a new identity, for `virsh define`, with
/// firmware variables and the state of the TPM beside it. The file may hold passwords; only its
/// owner can read it.
///
/// With a server it restores to a folder, files and devices on the item's host that the server's
/// configuration allows (restore_dirs), unless you name a vault or key. NBD exports and format
/// prefixes (qcow2:PATH) work only without a server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore disks --item web01 --recovery-point latest --to /restore
  strongroom restore disks --item web01 --recovery-point \"2026-11-22 18:00\" --to /restore \\
      --disks system --format qcow2
  strongroom restore disks --item db --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB \\
      --to data=/dev/vg0/data --in-place --yes
  strongroom restore disks --item web01 --recovery-point latest --to /restore --to-host kvm2 --wait")]
pub(crate) struct DisksArgs {
    #[command(flatten)]
    point: PointArgs,

    /// The target: a folder for all disks, or NAME=TARGET for one disk, which may be repeated
    #[arg(long, value_name = "DIR|NAME=TARGET", required = true)]
    to: Vec<RestoreTo>,

    /// Restore these disks only
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = values::name)]
    disks: Vec<String>,

    /// Format of the files in a folder, and of targets whose name does not show it
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatChoice>,

    /// Overwrite existing targets where they differ from the recovery point, and report how much
    #[arg(long)]
    in_place: bool,

    /// Do not write the description of the machine
    #[arg(long)]
    no_template: bool,

    #[command(flatten)]
    confirm: ConfirmArgs,

    #[command(flatten)]
    through: ThroughArgs,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatChoice {
    /// The disk's bytes, sparse
    Raw,
    /// QEMU's image format
    Qcow2,
}

impl From<FormatChoice> for ImageFormat {
    fn from(choice: FormatChoice) -> Self {
        match choice {
            FormatChoice::Raw => Self::Raw,
            FormatChoice::Qcow2 => Self::Qcow2,
        }
    }
}

impl From<FormatChoice> for api::DiskFormat {
    fn from(choice: FormatChoice) -> Self {
        match choice {
            FormatChoice::Raw => Self::Raw,
            FormatChoice::Qcow2 => Self::Qcow2,
        }
    }
}

/// Options of a restore through a server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Through a server")]
pub(crate) struct ThroughArgs {
    /// The host to restore to: its name or id [default: the item's host]
    #[arg(long, value_name = "NAME", add = complete::hosts())]
    pub(crate) to_host: Option<String>,

    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

impl ThroughArgs {
    /// Refuses options that need a server.
    pub(crate) fn check_unused(&self) -> Result<(), Failure> {
        if self.to_host.is_some() || self.wait.wait {
            return Err(FaceError::NoServer.into());
        }
        Ok(())
    }
}

/// Refuses options that a server does not know: each with whether it is given.
pub(crate) fn not_through_server(options: &[(&str, bool)]) -> Result<(), Failure> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Failure::usage(format!(
            "{option} works without a server only: name the vault with --vault"
        ))),
        None => Ok(()),
    }
}

impl DisksArgs {
    /// What a server is asked for.
    fn request(&self) -> Result<api::Restore, Failure> {
        not_through_server(&[
            ("--no-template", self.no_template),
            ("--limit-rate", self.work.limit_rate.is_some()),
            ("--threads", self.work.threads.is_some()),
            ("--cache-dir", self.open.cache_dir.is_some()),
        ])?;
        let (folder, named) = places(self.to.clone())?;
        let mut targets = BTreeMap::new();
        for (name, disk) in named {
            let DiskSpec::File { path, format: None } = disk else {
                return Err(Failure::usage(format!(
                    "through a server, --to {name}=PATH names a file or device on the host"
                )));
            };
            targets.insert(name, path.display().to_string());
        }
        Ok(api::Restore::Disks(api::RestoreDisks {
            host: self.through.to_host.clone(),
            folder: folder.map(|folder| folder.display().to_string()),
            disks: self.disks.clone(),
            format: self.format.map(Into::into),
            targets,
            in_place: self.in_place,
        }))
    }

    /// Asks before what is there is overwritten.
    fn go(&self, context: &Context) -> Result<bool, Failure> {
        let how = if self.in_place { "Overwrite, where they differ," } else { "Write" };
        let plan = Plan::new(format!("{how} disks from a recovery point of {}", self.point.item));
        let plan = self.to.iter().fold(plan, |plan, to| {
            plan.with(match to {
                RestoreTo::Folder(folder) => format!("files in {}", folder.display()),
                RestoreTo::Disk(NamedDisk { name, disk }) => format!("{disk} with disk {name}"),
            })
        });
        let plan = if self.in_place {
            plan.with("their present content is lost")
        } else {
            plan.with("existing disks stay as they are").without_question()
        };
        self.confirm.go(context, &plan)
    }

    fn run(self, context: &Context) -> Result<(), Failure> {
        let PointArgs { item, of, recovery_point } = &self.point;
        if !of.is_direct(context, &self.open)? {
            let (item, wait) = ((item.as_str(), of.vault()), self.through.wait.wait);
            let request = self.request()?;
            if !self.go(context)? {
                return Ok(());
            }
            return service::restore(context, item, *recovery_point, &request, wait);
        }
        self.through.check_unused()?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        suspect::warn_of_restore(context, &point);
        if !self.go(context)? {
            return Ok(());
        }
        let (folder, named) = places(self.to)?;
        if self.in_place
            && let Some(connection) = hosts::present()
        {
            let files = named.values().filter_map(|disk| match disk {
                DiskSpec::File { path, .. } => Some(path.clone()),
                DiskSpec::Nbd(_) => None,
            });
            strongroom_machine::refuse_saved_memory(&connection, &files.collect::<Vec<_>>())?;
        }
        let wanted = DisksRestore {
            folder,
            named,
            disks: self.disks,
            format: self.format.map(ImageFormat::from),
            in_place: self.in_place,
            within: None,
            template: (!self.no_template).then(|| hosts::places(hosts::usual_scope()).swtpm),
            threads: context.threads(&self.work),
            limit_rate: context.limit_rate(&self.work),
        };
        let prepared = restore::prepare_disks(&vault, &point, wanted)?;
        context.out.say(&format!(
            "Restoring {} of {} as of {}",
            human::count(u64::try_from(prepared.count()).unwrap_or(u64::MAX), "disk"),
            point.item,
            human::time(point.time)
        ));
        let report = context.watched(|progress| prepared.run(progress, &context.cancel))?;
        context.out.result(&report)
    }
}

/// The folder for all disks, and the places of single ones.
fn places(to: Vec<RestoreTo>) -> Result<(Option<PathBuf>, BTreeMap<String, DiskSpec>), Failure> {
    let mut folder = None;
    let mut named = BTreeMap::new();
    for to in to {
        match to {
            RestoreTo::Folder(dir) if folder.is_none() => folder = Some(dir),
            RestoreTo::Folder(dir) => {
                let dir = dir.display();
                return Err(Failure::usage(format!("--to names a second folder: {dir}")));
            }
            RestoreTo::Disk(NamedDisk { name, disk }) => {
                if named.contains_key(&name) {
                    return Err(Failure::usage(format!("--to names disk {name} twice")));
                }
                named.insert(name, disk);
            }
        }
    }
    Ok((folder, named))
}

impl Show for DisksReport {
    fn show(&self) -> String {
        let mut text = self.restored.show();
        if let Some(path) = &self.template {
            writeln!(text, "Description of a machine with these disks: {path}").ok();
        }
        for (what, path) in [("Firmware variables", &self.nvram), ("TPM state", &self.tpm)] {
            if let Some(path) = path {
                writeln!(text, "{what}: {path}").ok();
            }
        }
        for note in &self.notes {
            writeln!(text, "Note: {note}").ok();
        }
        text
    }
}

impl Show for RestoreReport {
    fn show(&self) -> String {
        let rows = self.disks.iter().map(|disk| {
            [
                disk.name.clone(),
                human::bytes(disk.size_bytes),
                human::bytes(disk.data_bytes),
                human::bytes(disk.written_bytes),
                disk.compared_blocks.to_string(),
                disk.written_blocks.to_string(),
                human::seconds(disk.seconds),
                human::rate(disk.data_bytes, disk.seconds),
                disk.location.clone(),
            ]
        });
        let head = [
            "DISK",
            "SIZE",
            "DATA",
            "WRITTEN",
            "BLOCKS COMPARED",
            "BLOCKS WRITTEN",
            "TIME",
            "RATE",
            "TARGET",
        ];
        format!(
            "Restored {item} as of recovery point {id}\n{table}",
            item = self.item,
            id = self.recovery_point,
            table = human::table(head, &[1, 2, 3, 4, 5, 6, 7], rows),
        )
    }
}
