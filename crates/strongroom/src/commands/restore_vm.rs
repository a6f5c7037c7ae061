//! `restore vm`: a machine back from a recovery point.

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};
use strongroom_disk::ImageFormat;
use strongroom_hypervisor::NetworkMapping;
use strongroom_machine::restore::{
    Identity, MachineRestore, MachineRestoreReport, Placement, Power, Storage,
};

use crate::{
    args::{OpenArgs, WorkArgs},
    context::Context,
    error::Failure,
    hosts::{self, ConnectArgs},
    human,
    open::open_vault,
    out::Show,
    values,
};

use super::{recoverypoint::PointArgs, restore::FormatChoice};

/// Restore a machine: a new one, or one that is lost
///
/// The disks are written to new files in the format that they had, NAME-DISK.FORMAT; firmware
/// variables and the state of the TPM come back with them; then the machine is defined. It has a
/// new UUID and new network addresses, so that it can run beside the original, unless
/// --same-identity is given. Machines that are there are never touched.
///
/// Everything that can be checked is checked before anything is written: names, identities, room,
/// and whether the host has the processor, mainboard, firmware, networks and files that the machine
/// needs. --dry-run stops there and shows the plan. If the restore is interrupted, the same command
/// goes on where it stopped.
///
/// Disks that the recovery point does not have are removed from the machine, drives whose media the
/// host lacks are emptied; the report names them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore vm --item web01 --recovery-point latest --name web01-copy --dry-run
  strongroom restore vm --item web01 --recovery-point latest --name web01-copy \\
      --storage-dir /var/lib/libvirt/images --links-down --start
  strongroom restore vm --item web01 --recovery-point latest --same-identity --pool fast \\
      --network network=office:default --network bridge=br0:br1
  strongroom restore vm --item db --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB \\
      --storage-dir vda=/fast --storage-dir /slow --disks vda,vdb")]
pub(crate) struct VmArgs {
    #[command(flatten)]
    point: PointArgs,

    /// Name of the machine [default: the name that it had]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Give the machine a new UUID and new network addresses (this is the default)
    #[arg(long, group = "identity")]
    new_identity: bool,

    /// Give the machine the UUID and network addresses that it had; the original must be gone
    #[arg(long, group = "identity")]
    same_identity: bool,

    /// Folder for the disks, or for one of them; may be repeated [default: where they were]
    #[arg(long, value_name = "[DISK=]DIR", value_parser = folder)]
    storage_dir: Vec<Placement>,

    /// Storage pool for the disks, or for one of them; may be repeated. It must be a pool of files
    #[arg(long, value_name = "[DISK=]POOL", value_parser = pool)]
    pool: Vec<Placement>,

    /// Restore these disks only; the machine will not have the others
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = values::name)]
    disks: Vec<String>,

    /// Format of the disks [default: raw for those that were raw, else qcow2]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatChoice>,

    /// Connect interfaces to another network: network=OLD:NEW, bridge=OLD:NEW,
    /// network=OLD:bridge=NEW; may be repeated
    #[arg(long, value_name = "MAP")]
    network: Vec<NetworkMapping>,

    /// Pull the cables of all network interfaces, for a machine that runs beside its original
    #[arg(long)]
    links_down: bool,

    /// Another mainboard, if the host does not have the machine's own
    #[arg(long, value_name = "TYPE")]
    machine_type: Option<String>,

    /// Another kind of processor, if the host does not have the machine's own
    #[arg(long, value_enum, value_name = "MODE")]
    cpu: Option<CpuChoice>,

    /// Make secrets (keys of encrypted disks, ...) known to libvirt that it does not have
    #[arg(long)]
    with_secrets: bool,

    /// Start the machine with the host [default: no; with --same-identity, as it was]
    #[arg(long)]
    autostart: bool,

    /// Start it when it is restored
    #[arg(long, group = "power")]
    start: bool,

    /// Start it with its processors standing still: `virsh resume` lets them go
    #[arg(long, group = "power")]
    paused: bool,

    /// Check everything and say what would be done, and do nothing
    #[arg(long, visible_alias = "plan")]
    dry_run: bool,

    #[command(flatten)]
    connect: ConnectArgs,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

/// `--cpu`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CpuChoice {
    /// The model that is most like the host's
    HostModel,
    /// The host's own, as it is
    HostPassthrough,
    /// All that QEMU can offer on the host
    Maximum,
}

impl CpuChoice {
    const fn mode(self) -> &'static str {
        match self {
            Self::HostModel => "host-model",
            Self::HostPassthrough => "host-passthrough",
            Self::Maximum => "maximum",
        }
    }
}

/// What is before the first `=` is a disk if it can be one.
fn placement(text: &str) -> (Option<String>, &str) {
    match text.split_once('=') {
        Some((disk, rest)) if values::name(disk).is_ok() => (Some(disk.to_owned()), rest),
        _ => (None, text),
    }
}

fn folder(text: &str) -> Result<Placement, String> {
    match placement(text) {
        (_, "") => Err("there is no folder".to_owned()),
        (disk, folder) => Ok(Placement { disk, storage: Storage::Folder(PathBuf::from(folder)) }),
    }
}

fn pool(text: &str) -> Result<Placement, String> {
    match placement(text) {
        (_, "") => Err("there is no name of a pool".to_owned()),
        (disk, pool) => Ok(Placement { disk, storage: Storage::Pool(pool.to_owned()) }),
    }
}

impl VmArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let storage = self.storage()?;
        let connection = self.connect.open()?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        let request = MachineRestore {
            disks: self.disks,
            name: self.name,
            identity: if self.same_identity { Identity::Same } else { Identity::New },
            storage,
            format: self.format.map(ImageFormat::from),
            networks: self.network,
            links_down: self.links_down,
            machine_type: self.machine_type,
            cpu: self.cpu.map(|choice| choice.mode().to_owned()),
            with_secrets: self.with_secrets,
            autostart: self.autostart.then_some(true),
            power: match (self.start, self.paused) {
                (true, _) => Power::Start,
                (_, true) => Power::Paused,
                _ => Power::Off,
            },
            dry_run: self.dry_run,
            threads: context.threads(&self.work),
            limit_rate: context.limit_rate(&self.work),
            places: hosts::places(connection.uri().scope),
        };
        let report = context.watched(|progress| {
            let cancel = &context.cancel;
            strongroom_machine::restore::restore(
                &vault,
                &connection,
                &point,
                &request,
                progress,
                cancel,
            )
        })?;
        context.out.result(&report)
    }

    /// `--storage-dir` and `--pool`, each disk once.
    fn storage(&self) -> Result<Vec<Placement>, Failure> {
        let all: Vec<Placement> = self.storage_dir.iter().chain(&self.pool).cloned().collect();
        for (index, one) in all.iter().enumerate() {
            if all.iter().take(index).any(|other| other.disk == one.disk) {
                let disk = one.disk.as_deref().unwrap_or("all disks");
                return Err(Failure::usage(format!("it is said twice where {disk} go(es)")));
            }
        }
        Ok(all)
    }
}

impl Show for MachineRestoreReport {
    fn show(&self) -> String {
        let rows = self.disks.iter().map(|disk| {
            [
                disk.name.clone(),
                human::bytes(disk.size_bytes),
                human::bytes(disk.data_bytes),
                human::bytes(disk.written_bytes),
                disk.format.clone(),
                disk.path.clone(),
            ]
        });
        let head = ["DISK", "SIZE", "DATA", "WRITTEN", "FORMAT", "PATH"];
        let what = match (self.dry_run, self.kind) {
            (true, "replaced") => "Would replace disks of",
            (true, _) => "Would restore",
            (false, "replaced") => "Replaced disks of",
            (false, _) => "Restored",
        };
        let mut text = format!(
            "{what} machine {machine} as of recovery point {point} of {item}\n{table}",
            machine = self.machine,
            point = self.recovery_point,
            item = self.item,
            table = human::table(head, &[1, 2, 3], rows),
        );
        let identity = match self.kind {
            "new" => " (new)",
            _ => "",
        };
        writeln!(text, "UUID {}{identity}, {}", self.uuid, self.state).ok();
        if !self.addresses.is_empty() {
            writeln!(text, "Network addresses: {}", self.addresses.join(", ")).ok();
        }
        for (what, path) in [("Firmware variables", &self.nvram), ("TPM state", &self.tpm)] {
            if let Some(path) = path {
                writeln!(text, "{what}: {path}").ok();
            }
        }
        if !self.secrets.is_empty() {
            writeln!(text, "Secrets made known to libvirt: {}", self.secrets.join(", ")).ok();
        }
        for left in &self.left_behind {
            writeln!(text, "Disk {}: {}", left.name, left.reason).ok();
        }
        if let Some(point) = &self.safety_point {
            writeln!(text, "The state before is recovery point {point}").ok();
        }
        for note in &self.notes {
            writeln!(text, "Note: {note}").ok();
        }
        writeln!(text, "Took {}", human::seconds(self.seconds)).ok();
        text
    }
}
