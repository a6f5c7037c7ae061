//! `host` and `protectable-item`: hosts, and what can be protected on them.

use clap::{Args, Subcommand};
use strongroom_api::{Check, Host, HostCreate, HostUpdate, ProtectableItem, Verdict};

use crate::{
    columns::{Cell, Columns, row},
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::{FaceError, Failure},
    human, values,
};

use super::common::{Gone, Listed, Thing, WaitArgs, words};

/// `host ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    List(ListArgs),
    Show(ShowArgs),
    Create(CreateArgs),
    Update(UpdateArgs),
    Delete(DeleteArgs),
    Discover(DiscoverArgs),
}

impl HostCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Create(args) => args.run(context),
            Self::Update(args) => args.run(context),
            Self::Delete(args) => args.run(context),
            Self::Discover(args) => args.run(context),
        }
    }
}

/// `protectable-item ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ProtectableCommand {
    List(ProtectableListArgs),
    Check(ProtectableCheckArgs),
}

impl ProtectableCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Check(args) => args.run(context),
        }
    }
}

fn shown(host: &Host) -> String {
    let mut facts = vec![
        ("Host", host.name.clone()),
        ("Id", host.id.to_string()),
        ("State", host.state.to_string()),
        ("libvirt", host.connect.clone().unwrap_or_else(|| "none".to_owned())),
        ("Machines", host.machines.to_string()),
        ("Jobs at once", host.max_jobs.to_string()),
        ("Known since", human::time(host.created)),
    ];
    facts.extend(host.snapshot_vault.map(|vault| ("Snapshots in", vault.to_string())));
    facts.extend(host.seen.map(|seen| ("Answered last", human::time(seen))));
    facts.extend(host.error.as_ref().map(|error| ("Error", error.message.clone())));
    human::facts(&facts)
}

/// List the hosts of the service
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom host list")]
pub(crate) struct ListArgs {}

impl ListArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let hosts = context.client()?.hosts().all()?;
        let rows = hosts.iter().map(|host| {
            let libvirt = host.connect.clone();
            row![&host.name, host.state.name(), host.machines, libvirt, host.seen]
        });
        let head = ["HOST", "STATE", "MACHINES", "LIBVIRT", "ANSWERED LAST"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("hosts", hosts, columns))
    }
}

/// Show a host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom host show kvm1")]
pub(crate) struct ShowArgs {
    /// The host: its name or id
    #[arg(value_name = "NAME", add = complete::hosts())]
    name: String,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        context.out.result(&Thing::new(context.client()?.host(&self.name)?, shown))
    }
}

/// Add a host to the service
///
/// The server can use the libvirt of its own machine. A host without libvirt is for disks by path.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom host create kvm1 --connect qemu:///system
  strongroom host create kvm2 --connect qemu:///system --snapshot-vault kvm2-near
  strongroom host create files")]
pub(crate) struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = values::name)]
    name: String,

    /// libvirt's address [default: none]
    #[arg(long, value_name = "URI")]
    connect: Option<String>,

    /// Maximum number of jobs that run on it at the same time [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    max_jobs: Option<u32>,

    /// The snapshot vault, near the host's disks, that gets new recovery points first [default:
    /// none]
    #[arg(long, value_name = "VAULT", add = complete::vaults())]
    snapshot_vault: Option<String>,
}

impl CreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let Self { name, connect, max_jobs, snapshot_vault } = self;
        let request = HostCreate { name, connect, max_jobs, snapshot_vault };
        let host = context.client()?.create_host(&request)?;
        context.out.result(&Thing::new(host, shown))
    }
}

/// Change a host
///
/// With a snapshot vault (a folder on fast storage of the host), a new recovery point is complete
/// as soon as the snapshot vault has it. The job then transfers it into the item's vault. The point
/// stays in the snapshot vault for the policy's snapshot retention; restores on the same host use
/// it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom host update kvm1 --max-jobs 4
  strongroom vault create kvm1-near --vault /fast/strongroom
  strongroom host update kvm1 --snapshot-vault kvm1-near
  strongroom host update kvm1 --no-snapshot-vault")]
#[group(id = "change", required = true, multiple = true,
    args = ["connect", "max_jobs", "snapshot_vault", "no_snapshot_vault"])]
pub(crate) struct UpdateArgs {
    /// The host: its name or id
    #[arg(value_name = "NAME", add = complete::hosts())]
    name: String,

    /// The new address of libvirt
    #[arg(long, value_name = "URI")]
    connect: Option<String>,

    /// The new maximum number of jobs at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    max_jobs: Option<u32>,

    /// The snapshot vault, near the host's disks, that gets new recovery points first
    #[arg(long, value_name = "VAULT", add = complete::vaults())]
    snapshot_vault: Option<String>,

    /// Use no snapshot vault: new recovery points go straight into the items' vaults
    #[arg(long, conflicts_with = "snapshot_vault")]
    no_snapshot_vault: bool,
}

impl UpdateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let none = self.no_snapshot_vault.then(String::new);
        let change = HostUpdate {
            connect: self.connect,
            max_jobs: self.max_jobs,
            snapshot_vault: self.snapshot_vault.or(none),
        };
        let host = context.client()?.update_host(&self.name, &change)?;
        context.out.result(&Thing::new(host, shown))
    }
}

/// Remove a host from the service
///
/// The host must have no items.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom host delete kvm1
  strongroom host delete kvm1 --yes")]
pub(crate) struct DeleteArgs {
    /// The host: its name or id
    #[arg(value_name = "NAME", add = complete::hosts())]
    name: String,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl DeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        if self.confirm.wants_plan() {
            let host = client.host(&self.name)?;
            let plan = Plan::new(format!("Forget the host {}", host.name))
                .with("recovery points stay; `strongroom host create` adds it again");
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        client.delete_host(&self.name)?;
        context.out.result(&Gone { what: "host", deleted: self.name })
    }
}

/// Update the list of a host's machines
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom host discover kvm1 --wait")]
pub(crate) struct DiscoverArgs {
    /// The host: its name or id
    #[arg(value_name = "NAME", add = complete::hosts())]
    name: String,

    #[command(flatten)]
    wait: WaitArgs,
}

impl DiscoverArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let begun = client.discover(&self.name)?;
        context.begun(&client, &begun, self.wait.wait)
    }
}

/// List the machines of the last discovery of a host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protectable-item list --host kvm1
  strongroom protectable-item list --host kvm1 --unprotected")]
pub(crate) struct ProtectableListArgs {
    /// The host: its name or id
    #[arg(long, value_name = "NAME", add = complete::hosts())]
    host: String,

    /// Only machines that no item protects
    #[arg(long)]
    unprotected: bool,
}

impl ProtectableListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let mut found = context.client()?.protectable_items(&self.host).all()?;
        found.retain(|item| !self.unprotected || item.protected_by.is_none());
        let columns = Columns::new(
            ["NAME", "STATE", "DISKS", "SIZE", "AGENT", "FIRMWARE", "PROTECTED", "MANAGER"],
            found.iter().map(protectable_row),
        );
        context.out.result(&Listed::new("protectable_items", found, columns))
    }
}

fn protectable_row(item: &ProtectableItem) -> [Cell; 8] {
    let disks = || item.disks.iter().filter(|disk| disk.left_out.is_none());
    let size = disks().filter_map(|disk| disk.size_bytes).fold(0, u64::saturating_add);
    row![
        &item.name,
        &item.state,
        u64::try_from(disks().count()).unwrap_or(u64::MAX),
        Cell::Bytes(size),
        words(&item.agent),
        words(&item.firmware),
        if item.protected_by.is_some() { "yes" } else { "no" },
        item.manager.clone(),
    ]
}

/// Check whether a machine of a host can be backed up, and how to remove obstacles
///
/// The exit code is 4 if a backup would fail.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protectable-item check --host kvm1 --vm web01")]
pub(crate) struct ProtectableCheckArgs {
    /// The host: its name or id
    #[arg(long, value_name = "NAME", add = complete::hosts())]
    host: String,

    /// The machine: its name or UUID
    #[arg(long, value_name = "NAME", add = complete::machines_of_host())]
    vm: String,
}

impl ProtectableCheckArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        checked(context, context.client()?.check_machine(&self.host, &self.vm)?)
    }
}

/// Prints the findings of a check, and fails if a backup would fail.
pub(crate) fn checked(context: &Context, check: Check) -> Result<(), Failure> {
    let (red, name) = (check.verdict == Verdict::Red, check.name.clone());
    context.out.result(&Thing::new(check, |check| {
        let findings = check.findings.iter().map(|finding| {
            format!("  {:<6}{}\n        {}\n", finding.level, finding.what, finding.what_to_do)
        });
        let findings: String = findings.collect();
        human::printable(&format!("{}: {}\n{findings}", check.name, check.verdict))
    }))?;
    if red { Err(FaceError::NotReady(name).into()) } else { Ok(()) }
}
