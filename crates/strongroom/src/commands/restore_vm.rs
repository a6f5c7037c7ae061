//! `restore vm`: a machine back from a recovery point.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};
use strongroom_api as api;
use strongroom_disk::ImageFormat;
use strongroom_engine::{CleanCheck, Deltas};
use strongroom_hypervisor::{DiskChoice, NetworkMapping, NetworkRef, Scope};
use strongroom_machine::{
    EncryptedDisks, MachineBackup, MachineError, Wish,
    restore::{
        self, Decision, Identity, MachineRestore, Placement, Power, Replace, Stop, Storage,
        Undecided,
    },
};
use strongroom_reports::{Decided, FinishReport, MachineRestoreReport, RestoreKind};

use crate::{
    args::{OpenArgs, WorkArgs},
    complete,
    confirm::{ConfirmArgs, Plan, YesArgs},
    context::{self, Context},
    error::Failure,
    hosts::{self, ConnectArgs},
    human,
    open::open_vault,
    out::Show,
    suspect, values,
};

use super::{
    recoverypoint::PointArgs,
    restore::{FormatChoice, ThroughArgs, not_through_server},
    service::restore as service,
    verify,
};

/// Restore a machine: as a new machine, in place of a lost one, or onto an existing machine
///
/// The restore writes the disks to new files in their old format, NAME-DISK.FORMAT, restores
/// firmware variables and the state of the TPM, and then defines the machine. The machine has a new
/// UUID and new network addresses, so that it can run beside the original, unless you give
/// --same-identity. Existing machines are not touched.
///
/// With --replace, an existing machine gets the disks of the recovery point. The command first
/// makes a recovery point of the machine's present state. It then writes only what differs, into
/// new images above the old ones. The old images stay until you decide with `strongroom restore
/// accept` or `strongroom restore undo`. The machine keeps its hardware, and the disks that the
/// recovery point does not have. The command asks first, or takes --yes.
///
/// The restore checks everything that it can before it writes anything: names, identities, room,
/// and whether the host has the processor, mainboard, firmware, networks and files that the machine
/// needs. --dry-run stops there and shows the plan. To continue an interrupted restore, give the
/// same command again.
///
/// With --instant the machine runs within seconds: it reads its disks from the recovery point while
/// the command restores them, and changes over to them at the end. What it writes meanwhile goes to
/// NAME-DISK.FORMAT.overlay beside the disk. The machine needs the command until then: if the
/// command is stopped or killed, or the store does not answer, the machine stands still at its next
/// read and loses nothing; the same command continues. `strongroom restore undo --vm NAME` removes
/// the machine instead. Disks that are encrypted on the host are restored without --instant.
///
/// The restore removes disks from the machine that the recovery point does not have, and empties
/// drives whose media the host lacks; the report names them.
///
/// With a server it restores to the item's host or to --to-host, unless you name a vault or key;
/// folders, pools and networks are those of that host.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore vm --item web01 --recovery-point latest --name web01-copy --dry-run
  strongroom restore vm --item web01 --recovery-point latest --name web01-copy \\
      --storage-dir /var/lib/libvirt/images --links-down --start
  strongroom restore vm --item web01 --recovery-point latest --same-identity --instant
  strongroom restore vm --item web01 --recovery-point latest --same-identity --pool fast \\
      --network network=office:default --network bridge=br0:br1
  strongroom restore vm --item db --recovery-point 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB \\
      --storage-dir vda=/fast --storage-dir /slow --disks vda,vdb
  strongroom restore vm --item web01 --recovery-point latest --replace --shut-down --start \\
      --yes
  strongroom restore vm --item web01 --recovery-point latest --replace --disks vdb
  strongroom restore vm --item web01 --recovery-point latest --name web01-copy --to-host kvm2 \\
      --links-down --wait")]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct VmArgs {
    #[command(flatten)]
    point: PointArgs,

    /// Name of the new machine [default: its old name]; with --replace, name or UUID of the machine
    /// that gets the disks [default: the machine that was backed up]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Start the machine at once, and restore its disks while it runs
    #[arg(long, conflicts_with_all = ["replace", "start"])]
    instant: bool,

    /// Give the machine a new UUID and new network addresses (this is the default)
    #[arg(long, group = "identity")]
    new_identity: bool,

    /// Give the machine its old UUID and network addresses; the original must be gone
    #[arg(long, group = "identity")]
    same_identity: bool,

    /// Give an existing machine the disks of the recovery point, and keep its old ones
    #[arg(
        long,
        group = "identity",
        conflicts_with_all = ["pool", "format", "network", "links_down", "machine_type", "cpu",
            "with_secrets", "autostart"]
    )]
    replace: bool,

    /// With --replace: ask the guest to shut down first, if it runs
    #[arg(long, requires = "replace", group = "stop")]
    shut_down: bool,

    /// With --replace: switch the machine off first, if it runs, like a power cut
    #[arg(long, requires = "replace", group = "stop")]
    power_off: bool,

    /// With --replace: make no recovery point of the present state first
    #[arg(long, requires = "replace")]
    no_safety_point: bool,

    /// Folder for the disks, or for one of them; may be repeated [default: where they were]
    #[arg(long, value_name = "[DISK=]DIR", value_parser = folder)]
    storage_dir: Vec<Placement>,

    /// Storage pool for the disks, or for one of them; may be repeated. It must be a pool of files
    #[arg(long, value_name = "[DISK=]POOL", value_parser = pool)]
    pool: Vec<Placement>,

    /// Restore only these disks; the machine will not have the others
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', value_parser = values::name)]
    disks: Vec<String>,

    /// Format of the disks [default: raw for those that were raw, else qcow2]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatChoice>,

    /// Connect interfaces to another network: network=OLD:NEW, bridge=OLD:NEW,
    /// network=OLD:bridge=NEW; may be repeated
    #[arg(long, value_name = "MAP")]
    network: Vec<NetworkMapping>,

    /// Disconnect all network interfaces, for a machine that runs beside its original
    #[arg(long)]
    links_down: bool,

    /// Another mainboard, if the host does not have the machine's own
    #[arg(long, value_name = "TYPE")]
    machine_type: Option<String>,

    /// Another kind of processor, if the host does not have the machine's own
    #[arg(long, value_enum, value_name = "MODE")]
    cpu: Option<CpuChoice>,

    /// Give libvirt the secrets that it lacks (keys of encrypted disks, ...)
    #[arg(long)]
    with_secrets: bool,

    /// Start the machine when the host starts [default: no; with --same-identity, as before]
    #[arg(long)]
    autostart: bool,

    /// Start the machine after the restore
    #[arg(long, group = "power")]
    start: bool,

    /// Start the machine with its processors paused: `virsh resume` starts them
    #[arg(long, group = "power")]
    paused: bool,

    /// Check everything and show the plan; change nothing
    #[arg(long, visible_alias = "plan")]
    dry_run: bool,

    #[command(flatten)]
    yes: YesArgs,

    #[command(flatten)]
    connect: ConnectArgs,

    #[command(flatten)]
    through: ThroughArgs,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,
}

/// `--cpu`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CpuChoice {
    /// The model that is closest to the host's
    HostModel,
    /// The host's own processor, unchanged
    HostPassthrough,
    /// Everything that QEMU supports on the host
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

/// The part before the first `=` is a disk if it can be one.
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

/// A mapping of networks, as it is written.
fn network_words(mapping: &NetworkMapping) -> String {
    let parts = |network: &NetworkRef| match network {
        NetworkRef::Network(name) => ("network", name.clone()),
        NetworkRef::Bridge(name) => ("bridge", name.clone()),
        NetworkRef::Direct(name) => ("direct", name.clone()),
    };
    let ((from_kind, from), (to_kind, to)) = (parts(&mapping.from), parts(&mapping.to));
    format!("{from_kind}={from}:{to_kind}={to}")
}

impl VmArgs {
    /// Asks before an existing machine is shut down and gets other disks.
    fn ask(&self, context: &Context) -> Result<(), Failure> {
        if !self.replace || self.dry_run {
            return Ok(());
        }
        let name = self.name.as_ref().unwrap_or(&self.point.item);
        let plan = Plan::new(format!("Give the machine {name} the disks of the recovery point"));
        let plan = match (self.shut_down, self.power_off) {
            (true, _) => plan.with("if it runs, it is shut down first"),
            (_, true) => plan.with("if it runs, it is switched off first, as by pulling its plug"),
            _ => plan.with("it must be off"),
        };
        let plan = if self.no_safety_point {
            plan.with("no recovery point of its present state is made first")
        } else {
            plan.with("a recovery point of its present state is made first")
        };
        let plan = plan.with("`strongroom restore undo` brings its present disks back");
        self.yes.ask(context, &plan)
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let storage = self.storage()?;
        let PointArgs { item, of, recovery_point } = &self.point;
        if !of.is_direct(context, &self.open)? {
            let (item, wait) = ((item.as_str(), of.vault()), self.through.wait.wait);
            let request = self.request(&storage)?;
            self.ask(context)?;
            return service::restore(context, item, *recovery_point, &request, wait);
        }
        self.through.check_unused()?;
        let connection = self.connect.open()?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        verify::warn(context, &vault, &point.item, point.id);
        suspect::warn_of_restore(context, &point);
        self.ask(context)?;
        let replace = self.replacement(context, connection.uri().scope)?;
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
            power: match (self.start || self.instant, self.paused) {
                (_, true) => Power::Paused,
                (true, _) => Power::Start,
                _ => Power::Off,
            },
            dry_run: self.dry_run,
            threads: context.threads(&self.work),
            limit_rate: context.limit_rate(&self.work),
            places: hosts::places(connection.uri().scope),
        };
        let report = context.watched(|progress| {
            let cancel = &context.cancel;
            match &replace {
                None if self.instant => {
                    restore::instant(&vault, &connection, &point, &request, progress, cancel)
                }
                Some(replace) => restore::replace(
                    &vault,
                    &connection,
                    &point,
                    &request,
                    replace,
                    progress,
                    cancel,
                ),
                None => restore::restore(&vault, &connection, &point, &request, progress, cancel),
            }
        });
        match report {
            Ok(report) => context.out.result(&report),
            // What is there is to be known all the more.
            Err(MachineError::NotStarted { report, source }) => {
                context.out.result(&*report)?;
                Err(MachineError::NotStarted { report, source }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a server is asked for.
    fn request(&self, storage: &[Placement]) -> Result<api::Restore, Failure> {
        not_through_server(&[
            ("--connect", self.connect.connect.is_some()),
            ("--autostart", self.autostart),
            ("--limit-rate", self.work.limit_rate.is_some()),
            ("--threads", self.work.threads.is_some()),
            ("--cache-dir", self.open.cache_dir.is_some()),
        ])?;
        let (mut storage_dirs, mut pools) = (BTreeMap::new(), BTreeMap::new());
        for placement in storage {
            let disk = placement.disk.clone().unwrap_or_else(|| "*".to_owned());
            match &placement.storage {
                Storage::Folder(folder) => {
                    drop(storage_dirs.insert(disk, folder.display().to_string()));
                }
                Storage::Pool(pool) => drop(pools.insert(disk, pool.clone())),
            }
        }
        let power = match (self.start, self.paused) {
            (true, _) => Some(api::PowerAfter::Start),
            (_, true) => Some(api::PowerAfter::Paused),
            _ => None,
        };
        let disks = self.disks.clone();
        if self.replace {
            if self.through.to_host.is_some() {
                return Err(Failure::usage("--replace is done on the item's own host"));
            }
            let stop = match (self.shut_down, self.power_off) {
                (true, _) => Some(api::StopFirst::ShutDown),
                (_, true) => Some(api::StopFirst::PowerOff),
                _ => None,
            };
            return Ok(api::Restore::Replace(api::RestoreReplace {
                machine: self.name.clone(),
                disks,
                storage_dirs,
                stop,
                no_safety_point: self.no_safety_point,
                power,
                dry_run: self.dry_run,
            }));
        }
        Ok(api::Restore::Machine(api::RestoreMachine {
            host: self.through.to_host.clone(),
            name: self.name.clone(),
            same_identity: self.same_identity,
            disks,
            storage_dirs,
            pools,
            format: self.format.map(Into::into),
            networks: self.network.iter().map(network_words).collect(),
            links_down: self.links_down,
            machine_type: self.machine_type.clone(),
            cpu: self.cpu.map(|choice| choice.mode().to_owned()),
            with_secrets: self.with_secrets,
            instant: self.instant,
            power,
            dry_run: self.dry_run,
        }))
    }

    /// `--replace` and what belongs to it.
    fn replacement(&self, context: &Context, scope: Scope) -> Result<Option<Replace>, Failure> {
        if !self.replace {
            return Ok(None);
        }
        let why = ("reason".to_owned(), "before-restore".to_owned());
        let safety = MachineBackup {
            encrypted_disks: EncryptedDisks::Decrypted,
            machine: String::new(),
            item: None,
            disks: DiskChoice::All,
            wish: Wish::default(),
            start_paused: true,
            allow_managed: false,
            clean: CleanCheck::SAMPLE,
            full_compare_every: 0,
            scratch_dir: None,
            scratch_limit: None,
            tags: [why].into(),
            locked_until: None,
            host: context::host(),
            skip_bad_blocks: false,
            deltas: Deltas::Auto,
            threads: context.threads(&self.work),
            limit_rate: context.limit_rate(&self.work),
            places: hosts::places(scope),
            guard: hosts::guard()?,
        };
        Ok(Some(Replace {
            machine: self.name.clone(),
            stop: match (self.shut_down, self.power_off) {
                (true, _) => Stop::ShutDown,
                (_, true) => Stop::PowerOff,
                _ => Stop::Refuse,
            },
            safety: (!self.no_safety_point).then(|| Box::new(safety)),
        }))
    }

    /// `--storage-dir` and `--pool`, each disk once.
    fn storage(&self) -> Result<Vec<Placement>, Failure> {
        let all: Vec<Placement> = self.storage_dir.iter().chain(&self.pool).cloned().collect();
        for (index, one) in all.iter().enumerate() {
            if all.iter().take(index).any(|other| other.disk == one.disk) {
                let disk = one.disk.as_deref().unwrap_or("all disks");
                return Err(Failure::usage(format!("two places are given for {disk}")));
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
            (true, RestoreKind::Replaced) => "Would replace disks of",
            (true, _) => "Would restore",
            (false, RestoreKind::Replaced) => "Replaced disks of",
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
            RestoreKind::New => " (new)",
            RestoreKind::Same | RestoreKind::Replaced => "",
        };
        writeln!(text, "UUID {}{identity}, {}", self.uuid, self.state.name()).ok();
        if !self.addresses.is_empty() {
            writeln!(text, "Network addresses: {}", self.addresses.join(", ")).ok();
        }
        for (what, path) in [("Firmware variables", &self.nvram), ("TPM state", &self.tpm)] {
            if let Some(path) = path {
                writeln!(text, "{what}: {path}").ok();
            }
        }
        if !self.secrets.is_empty() {
            writeln!(text, "Secrets given to libvirt: {}", self.secrets.join(", ")).ok();
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
        if let Some(instant) = &self.instant {
            if let Some(seconds) = instant.started_seconds {
                writeln!(text, "Ran after {}", human::seconds(seconds)).ok();
            }
            writeln!(
                text,
                "Changed to its disks with a pause of {}",
                human::seconds(instant.paused_seconds)
            )
            .ok();
            if instant.resumed > 0 {
                writeln!(
                    text,
                    "Resumed {} times after its disks could not be read or written",
                    instant.resumed
                )
                .ok();
            }
        }
        let phases = self.instant.iter().flat_map(|instant| &instant.phases);
        let phases = phases
            .map(|it| format!("{} {}", it.phase.name(), human::seconds(it.seconds)))
            .collect::<Vec<_>>();
        if !phases.is_empty() {
            writeln!(text, "Phases: {}", phases.join(", ")).ok();
        }
        writeln!(text, "Took {}", human::seconds(self.seconds)).ok();
        text
    }
}

/// The machine.
#[derive(Debug, Args)]
struct FinishArgs {
    /// The machine on this host: its name or UUID
    #[arg(long, value_name = "NAME", required_unless_present = "item", conflicts_with = "item",
        add = complete::machines())]
    vm: Option<String>,

    /// The item of the service whose machine it is
    #[arg(long, value_name = "NAME", add = complete::items())]
    item: Option<String>,

    /// The vault that the item is in
    #[arg(long, value_name = "NAME", requires = "item", add = complete::vaults())]
    vault_name: Option<String>,

    /// With --item: wait until the job has ended
    #[arg(long, requires = "item")]
    wait: bool,

    #[command(flatten)]
    confirm: ConfirmArgs,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// The loss that a decision about the disks of a machine causes.
fn decision_plan(machine: &str, point: &str, of: Option<&Undecided>, decision: Decision) -> Plan {
    let disks = of.map_or_else(String::new, |of| format!(": {}", of.disks.join(", ")));
    let (action, gone) = match decision {
        Decision::Accept => (
            format!("Keep the restored disks of {machine}{disks}"),
            "its disks from before the restore are then lost; the recovery point made of them remains",
        ),
        Decision::Undo => (
            format!("Restore the disks that {machine} had before the restore{disks}"),
            "the restored disks are deleted, with all that the machine has written to them since",
        ),
    };
    Plan::new(action)
        .with(format!("it has the disks of recovery point {point}"))
        .with(gone)
        .with("there is no way back")
}

/// What the end of an instant restore removes.
fn removal_plan(running: &restore::Running) -> Plan {
    let restore::Running { machine, item, recovery_point, .. } = running;
    Plan::new(format!("Remove {machine}, which gets its disks while it runs"))
        .with(format!("it is of recovery point {recovery_point} of {item}, which stays"))
        .with("if it runs, it is switched off, as by pulling its plug")
        .with("its disks are deleted, with all that it has written")
        .with("there is no way back")
}

impl FinishArgs {
    fn run(&self, context: &Context, decision: Decision) -> Result<(), Failure> {
        if let Some(item) = &self.item {
            let item = (item.as_str(), self.vault_name.as_deref());
            let plan = |machine: &str, point: &str| decision_plan(machine, point, None, decision);
            let decision = match decision {
                Decision::Accept => strongroom_api::RestoreDecision::Accept,
                Decision::Undo => strongroom_api::RestoreDecision::Undo,
            };
            return service::finish(context, item, decision, self.confirm, &plan, self.wait);
        }
        let machine = self.vm.as_deref().unwrap_or_default();
        let connection = self.connect.open()?;
        let places = hosts::places(connection.uri().scope);
        if let Some(running) = restore::find_instant(&connection, machine)? {
            if decision == Decision::Accept {
                return Err(Failure::usage(format!(
                    "{machine} gets its disks while it runs: give the same `restore vm --instant` \
                     again, which ends with them in place"
                )));
            }
            if self.confirm.wants_plan() && !self.confirm.go(context, &removal_plan(&running))? {
                return Ok(());
            }
            let report = restore::undo_instant(&connection, &places, &running)?;
            return context.out.result(&report);
        }
        if self.confirm.wants_plan() {
            let (name, open) = restore::to_decide(&connection, machine)?;
            let point = format!("{} of {}", open.recovery_point, open.item);
            if !self.confirm.go(context, &decision_plan(&name, &point, Some(&open), decision))? {
                return Ok(());
            }
        }
        let entropy = &context.entropy;
        context.out.result(&restore::finish(&connection, &places, machine, decision, entropy)?)
    }
}

/// Keep the disks that `restore vm --replace` has restored
///
/// The command writes the difference into the old images, which the machine then uses again. The
/// machine's later writes are kept. The state before the restore is lost; its recovery point
/// remains. The machine must be off. If the command is interrupted, run it again. It asks first, or
/// takes --yes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore accept --vm web01
  strongroom restore accept --vm web01 --dry-run
  strongroom restore accept --item web01 --yes --wait")]
pub(crate) struct AcceptArgs {
    #[command(flatten)]
    finish: FinishArgs,
}

impl AcceptArgs {
    pub(crate) fn run(&self, context: &Context) -> Result<(), Failure> {
        self.finish.run(context, Decision::Accept)
    }
}

/// Restore the disks that a machine had before `restore vm --replace`
///
/// The command deletes the restored disks, with all later writes of the machine. The machine must
/// be off. If the command is interrupted, run it again. It also ends an interrupted replacement. It
/// asks first, or takes --yes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore undo --vm web01
  strongroom restore undo --vm web01 --dry-run
  strongroom restore undo --item web01 --yes --wait")]
pub(crate) struct UndoArgs {
    #[command(flatten)]
    finish: FinishArgs,
}

impl UndoArgs {
    pub(crate) fn run(&self, context: &Context) -> Result<(), Failure> {
        self.finish.run(context, Decision::Undo)
    }
}

impl Show for FinishReport {
    fn show(&self) -> String {
        let what = match self.decision {
            Decided::Accepted => "stays with the disks",
            Decided::Removed => "was removed, with its disks,",
            Decided::Undone => {
                "has its disks from before the restore again; the restored disks were deleted:"
            }
        };
        let mut text = format!(
            "{} {what} of recovery point {} of {}\n",
            self.machine, self.recovery_point, self.item
        );
        for disk in &self.disks {
            writeln!(text, "Disk {}: {}", disk.name, disk.path).ok();
        }
        text
    }
}
