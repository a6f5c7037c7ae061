//! `protection`: protecting, backing up, stopping, resuming.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use strongroom_api::{
    BackupNow, BlobAccess, BlobPlace, DiskSelection, ItemUpdate, Protect, ProtectBlobs,
    ProtectIncrementalBackup, ProtectSource, RecoveryPoint, ResumeProtection, StopMode,
    StopProtection,
};
use strongroom_base::codes;
use strongroom_client::Client;

use crate::{
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human, moments, values,
};

use super::{
    common::{ItemArgs, WaitArgs, map, way_back},
    host::checked,
    item::{policy_plan, show_item},
};

/// `protection ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ProtectionCommand {
    EnableForVm(EnableForVmArgs),
    EnableForDisks(EnableForDisksArgs),
    EnableForBlobs(EnableForBlobsArgs),
    EnableIncrementalBackup(Box<EnableIncrementalBackupArgs>),
    UpdateForVm(UpdateForVmArgs),
    BackupNow(BackupNowArgs),
    Disable(DisableArgs),
    Resume(ResumeArgs),
    Undelete(UndeleteArgs),
    CheckVm(CheckVmArgs),
}

impl ProtectionCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::EnableForVm(args) => args.run(context),
            Self::EnableForDisks(args) => args.run(context),
            Self::EnableForBlobs(args) => args.run(context),
            Self::EnableIncrementalBackup(args) => args.run(context),
            Self::UpdateForVm(args) => args.run(context),
            Self::BackupNow(args) => args.run(context),
            Self::Disable(args) => args.run(context),
            Self::Resume(args) => args.run(context),
            Self::Undelete(args) => args.run(context),
            Self::CheckVm(args) => args.run(context),
        }
    }
}

/// The vault, the host and the policy.
#[derive(Debug, Args)]
struct WhereArgs {
    /// The vault for the recovery points: its name or id
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: String,

    /// The host: its name or id
    #[arg(long, value_name = "NAME", add = complete::hosts())]
    host: String,

    /// The policy: its name or id [default: the vault's policy `default`]
    #[arg(long, value_name = "NAME", add = complete::policies())]
    policy: Option<String>,

    /// Begin the first backup at once, not at the policy's scheduled time
    #[arg(long)]
    backup_now: bool,

    #[command(flatten)]
    wait: WaitArgs,
}

impl WhereArgs {
    fn protect(self, context: &Context, sources: Vec<ProtectSource>) -> Result<(), Failure> {
        let client = context.client()?;
        let host = self.host.clone();
        let unknown = |failure: Failure| {
            if failure.name() != codes::VM_NOT_FOUND.name {
                return failure;
            }
            failure.with_hint(format!(
                "`strongroom protectable-item list --host {host}` shows the host's machines; \
                 `strongroom host discover {host} --wait` updates the list."
            ))
        };
        let request = Protect {
            vault: self.vault_name,
            host: self.host,
            policy: self.policy,
            sources,
            backup_now: self.backup_now,
        };
        let begun = client.protect(&request).map_err(|error| unknown(error.into()))?;
        context.begun(&client, &begun, self.wait.wait).map_err(unknown)
    }
}

/// The disks of a machine.
#[derive(Debug, Args)]
#[group(id = "selection", multiple = false)]
struct SelectionArgs {
    /// Back up all disks, also disks that are added later (this is the default)
    #[arg(long)]
    all_disks: bool,

    /// Back up only the disk from which the machine starts
    #[arg(long)]
    os_disk_only: bool,

    /// Back up only these disks
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    disks: Vec<String>,

    /// Back up all disks except these
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    exclude_disks: Vec<String>,
}

impl SelectionArgs {
    fn given(self) -> Option<DiskSelection> {
        if self.all_disks {
            Some(DiskSelection::All)
        } else if self.os_disk_only {
            Some(DiskSelection::OsOnly)
        } else if !self.disks.is_empty() {
            Some(DiskSelection::Include { disks: self.disks })
        } else if !self.exclude_disks.is_empty() {
            Some(DiskSelection::Exclude { disks: self.exclude_disks })
        } else {
            None
        }
    }
}

/// Protect machines of a host
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection enable-for-vm --vm web01,web02 --host kvm1 --vault-name main \\
      --policy default
  strongroom protection enable-for-vm --vm db01 --host kvm1 --vault-name main --policy default \\
      --exclude-disks vdc --backup-now --wait")]
pub(crate) struct EnableForVmArgs {
    /// The machines: names or UUIDs
    #[arg(long, value_name = "NAME,NAME", required = true, value_delimiter = ',',
        add = complete::machines_of_host())]
    vm: Vec<String>,

    /// The item's name, for a single machine [default: the machine's name]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    item: Option<String>,

    #[command(flatten)]
    selection: SelectionArgs,

    #[command(flatten)]
    place: WhereArgs,
}

impl EnableForVmArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if self.item.is_some() && self.vm.len() > 1 {
            return Err(Failure::usage("--item names one item, and --vm several machines"));
        }
        let (disks, name) = (self.selection.given().unwrap_or_default(), self.item);
        let source = |machine| ProtectSource {
            machine: Some(machine),
            paths: None,
            blobs: None,
            incremental_backup: None,
            name: name.clone(),
            disks: disks.clone(),
        };
        self.place.protect(context, self.vm.into_iter().map(source).collect())
    }
}

/// Protect disks by path: images, devices, NBD servers
///
/// The service reads the disks without freezing the programs that write to them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection enable-for-disks --item data --host files --vault-name main \\
      --disk data=/srv/images/data.raw --policy default")]
pub(crate) struct EnableForDisksArgs {
    /// The item's name
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    item: String,

    /// A disk: its name within the item, and its path or URL on the host; may be repeated
    #[arg(long, value_name = "NAME=PATH", required = true, value_parser = values::tag)]
    disk: Vec<(String, String)>,

    #[command(flatten)]
    place: WhereArgs,
}

impl EnableForDisksArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let source = ProtectSource {
            machine: None,
            paths: Some(map(self.disk)?),
            blobs: None,
            incremental_backup: None,
            name: Some(self.item),
            disks: DiskSelection::All,
        };
        self.place.protect(context, vec![source])
    }
}

/// Protect page blobs of storage accounts, which are backed up by their snapshots
///
/// A backup takes a snapshot of each blob, reads only what has changed since the snapshot of the last recovery point, and
/// deletes that older snapshot. Blobs of accounts that the server serves get their snapshots at the same moment; the
/// server's configuration (blob_accounts) names the accounts. All other accounts, Azure's included, are reached by a
/// connection string that is in a file of the host, below the server's key_dirs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection enable-for-blobs --item web01 --host kvm1 --vault-name main \\
      --blob system=disks/vms/web01-system.vhd --blob data=disks/vms/web01-data.vhd
  strongroom protection enable-for-blobs --item web02 --host kvm1 --vault-name main \\
      --blob system=mypremiumaccount/vms/web02.vhd \\
      --connection-string-file /var/lib/strongroom/keys/mypremiumaccount --backup-now --wait")]
pub(crate) struct EnableForBlobsArgs {
    /// The item's name
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    item: String,

    /// A page blob: the disk's name within the item, and the blob; may be repeated
    #[arg(long, value_name = "NAME=ACCOUNT/CONTAINER/BLOB", required = true, value_parser = values::tag)]
    blob: Vec<(String, String)>,

    /// File of the host with the connection string of the blobs' account, or with its URL with a shared access signature
    /// [default: the accounts that the server serves]
    #[arg(long, value_name = "PATH")]
    connection_string_file: Option<String>,

    /// File of the host with certificates (PEM) that are believed instead of the system's
    #[arg(long, value_name = "PATH", requires = "connection_string_file")]
    ca_file: Option<String>,

    #[command(flatten)]
    place: WhereArgs,
}

impl EnableForBlobsArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let access = access(self.connection_string_file, self.ca_file);
        let source = ProtectSource {
            machine: None,
            paths: None,
            blobs: Some(ProtectBlobs { disks: map(self.blob)?, access }),
            incremental_backup: None,
            name: Some(self.item),
            disks: DiskSelection::All,
        };
        self.place.protect(context, vec![source])
    }
}

/// Back a page blob up to another one, by a policy's schedule
///
/// A backup takes a snapshot of the source, writes what has changed since the last one to the target, and takes a snapshot
/// of the target, which is the backup: as `storage incremental-backup` does, which also lists and restores the backups.
/// They are no recovery points of the vault: the vault has the item's policy, which says when backups are made, its rights
/// and its alerts. --keep says how many backups are kept. The server's configuration (blob_accounts, blob_target_accounts)
/// names accounts that the server serves; all others are reached by connection strings in files of the host.
///
/// `protection backup-now`, `item list` and `protection disable` work with the item as with all others. The target and its
/// snapshots stay when the protection is stopped, whatever becomes of the item.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection enable-incremental-backup --item web01-far --host kvm1 \\
      --vault-name main --source disks/vms/web01.vhd --target backups/vms/web01.vhd \\
      --keep 30 --policy default
  strongroom protection enable-incremental-backup --item prem --host kvm1 --vault-name main \\
      --source mypremiumaccount/vms/disk.vhd --target mystandardaccount/vms/disk.vhd \\
      --source-connection-string-file /var/lib/strongroom/keys/mypremiumaccount \\
      --target-connection-string-file /var/lib/strongroom/keys/mystandardaccount --wait")]
pub(crate) struct EnableIncrementalBackupArgs {
    /// The item's name [default: that of the source]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    item: Option<String>,

    /// The page blob that is backed up
    #[arg(long, value_name = "ACCOUNT/CONTAINER/BLOB")]
    source: String,

    /// The page blob that has the backups; the first one creates it
    #[arg(long, value_name = "ACCOUNT/CONTAINER/BLOB")]
    target: String,

    /// The number of backups that are kept
    #[arg(long, value_name = "NUMBER", default_value = "30")]
    keep: u32,

    /// File of the host with the connection string of the source's account [default: the accounts that the server serves]
    #[arg(long, value_name = "PATH")]
    source_connection_string_file: Option<String>,

    /// File of the host with certificates (PEM) that are believed for the source, instead of the system's
    #[arg(long, value_name = "PATH", requires = "source_connection_string_file")]
    source_ca_file: Option<String>,

    /// File of the host with the connection string of the target's account [default: the accounts that the server serves]
    #[arg(long, value_name = "PATH")]
    target_connection_string_file: Option<String>,

    /// File of the host with certificates (PEM) that are believed for the target, instead of the system's
    #[arg(long, value_name = "PATH", requires = "target_connection_string_file")]
    target_ca_file: Option<String>,

    #[command(flatten)]
    place: WhereArgs,
}

/// How an account is reached.
fn access(connection_string_file: Option<String>, ca_file: Option<String>) -> Option<BlobAccess> {
    connection_string_file
        .map(|connection_string_file| BlobAccess { connection_string_file, ca_file })
}

impl EnableIncrementalBackupArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let from = access(self.source_connection_string_file, self.source_ca_file);
        let to = access(self.target_connection_string_file, self.target_ca_file);
        let source = ProtectSource {
            machine: None,
            paths: None,
            blobs: None,
            incremental_backup: Some(ProtectIncrementalBackup {
                from: BlobPlace { blob: self.source, access: from },
                to: BlobPlace { blob: self.target, access: to },
                keep: self.keep,
            }),
            name: self.item,
            disks: DiskSelection::All,
        };
        self.place.protect(context, vec![source])
    }
}

/// Change how an item is protected: its policy, its disks
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection update-for-vm --item web01 --exclude-disks vdb
  strongroom protection update-for-vm --item web01 --policy weekly --all-disks")]
pub(crate) struct UpdateForVmArgs {
    #[command(flatten)]
    item: ItemArgs,

    /// The new policy: its name or id
    #[arg(long, value_name = "NAME", add = complete::policies())]
    policy: Option<String>,

    #[command(flatten)]
    selection: SelectionArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl UpdateForVmArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let change = ItemUpdate { policy: self.policy, disks: self.selection.given() };
        if change == ItemUpdate::default() {
            return Err(Failure::usage("nothing is to be changed: give --policy or disks"));
        }
        let client = context.client()?;
        let item = self.item.find(&client)?;
        if self.confirm.wants_plan() {
            let plan = match &change.policy {
                Some(policy) => policy_plan(&client, &item, policy)?,
                None => Plan::new("Change which disks are backed up").without_question(),
            };
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let item = client.update_item(&item, &change)?;
        show_item(context, &client, item)
    }
}

/// Back up an item now
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection backup-now --item web01 --wait
  strongroom protection backup-now --item web01 --retain-until 2027-01-31")]
pub(crate) struct BackupNowArgs {
    #[command(flatten)]
    item: ItemArgs,

    /// Keep the recovery point until this time: 2027-01-31, "in 90d" [default: for 30 days]
    #[arg(long, value_name = "TIME", value_parser = moments::ahead)]
    retain_until: Option<Timestamp>,

    #[command(flatten)]
    wait: WaitArgs,
}

impl BackupNowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let request = BackupNow { retain_until: self.retain_until };
        let begun = client.backup_now(&self.item.find(&client)?, &request)?;
        context.begun(&client, &begun, self.wait.wait)
    }
}

/// Stop an item's protection, and keep or delete its recovery points
///
/// --delete-backup-data asks first, or takes --yes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection disable --item web01 --retain-forever
  strongroom protection disable --item web01 --retain-as-per-policy
  strongroom protection disable --item web01 --delete-backup-data --dry-run
  strongroom protection disable --item web01 --delete-backup-data --yes")]
#[group(
    id = "mode", required = true, multiple = false,
    args = ["retain_forever", "retain_as_per_policy", "delete_backup_data"]
)]
pub(crate) struct DisableArgs {
    #[command(flatten)]
    item: ItemArgs,

    /// Keep the recovery points for ever
    #[arg(long)]
    retain_forever: bool,

    /// Let the recovery points expire as the policy says, except the last one
    #[arg(long)]
    retain_as_per_policy: bool,

    /// Delete the recovery points: if the vault has soft delete, `protection undelete` restores
    /// them within its days
    #[arg(long)]
    delete_backup_data: bool,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// The loss if an item's data is deleted.
fn deletion(client: &Client, item: &str) -> Result<Plan, Failure> {
    let item = client.item(item)?;
    let vault = client.vault(&item.vault.to_string())?;
    let points: Vec<RecoveryPoint> = client.points(&item.id.to_string(), None).all()?;
    let plan = Plan::new(format!(
        "Stop the protection of {} and delete its backup data in the vault {}",
        item.name, vault.name
    ));
    let number = u64::try_from(points.len()).unwrap_or(u64::MAX);
    let count = human::count(number, "recovery point");
    // The newest comes first.
    Ok(match (points.first(), points.last()) {
        (Some(newest), Some(oldest)) if number > 1 => plan.with(format!(
            "{count} of {} to {}",
            human::time(oldest.time),
            human::time(newest.time)
        )),
        (Some(only), _) => plan.with(format!("{count} of {}", human::time(only.time))),
        _ => plan.with("it has no recovery points"),
    }
    .with(way_back(&vault, "protection undelete")))
}

impl DisableArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let mode = match (self.retain_forever, self.retain_as_per_policy) {
            (true, _) => StopMode::RetainForever,
            (_, true) => StopMode::RetainAsPerPolicy,
            _ => StopMode::DeleteData,
        };
        let client = context.client()?;
        let item = self.item.find(&client)?;
        let plan = match mode {
            StopMode::DeleteData => deletion(&client, &item)?,
            StopMode::RetainAsPerPolicy => Plan::new(
                "Stop the protection; recovery points expire as the policy says, except the last one",
            )
            .without_question(),
            StopMode::RetainForever => {
                Plan::new("Stop the protection and keep all recovery points").without_question()
            }
        };
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        let item = client.stop_protection(&item, &StopProtection { mode })?;
        show_item(context, &client, item)
    }
}

/// Resume the stopped protection of an item
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection resume --item web01
  strongroom protection resume --item web01 --policy weekly")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    item: ItemArgs,

    /// The policy: its name or id [default: the item's last policy]
    #[arg(long, value_name = "NAME", add = complete::policies())]
    policy: Option<String>,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl ResumeArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let item = self.item.find(&client)?;
        if self.confirm.wants_plan() {
            let plan = match &self.policy {
                Some(policy) => policy_plan(&client, &item, policy)?,
                None => Plan::new("Resume the protection").without_question(),
            };
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let request = ResumeProtection { policy: self.policy };
        let item = client.resume_protection(&item, &request)?;
        show_item(context, &client, item)
    }
}

/// Restore a deleted item, with its recovery points
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection undelete --item web01")]
pub(crate) struct UndeleteArgs {
    #[command(flatten)]
    item: ItemArgs,
}

impl UndeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let item = client.undelete_item(&self.item.find(&client)?)?;
        context.out.say(&format!(
            "Its scheduled backups are still stopped: `strongroom protection resume --item {}` resumes them.",
            item.name
        ));
        show_item(context, &client, item)
    }
}

/// Check an item, or a machine that is not an item yet, for obstacles to a backup
///
/// The exit code is 4 if a backup would fail.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom protection check-vm --item web01
  strongroom protection check-vm --vm web02 --host kvm1")]
pub(crate) struct CheckVmArgs {
    /// The item: its name or id
    #[arg(long, value_name = "NAME", required_unless_present = "vm", add = complete::items())]
    item: Option<String>,

    /// The machine: its name or UUID
    #[arg(long, value_name = "NAME", requires = "host", conflicts_with = "item",
        add = complete::machines_of_host())]
    vm: Option<String>,

    /// The machine's host
    #[arg(long, value_name = "NAME", requires = "vm", add = complete::hosts())]
    host: Option<String>,
}

impl CheckVmArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let check = match (self.vm, self.host, self.item) {
            (Some(vm), Some(host), _) => client.check_machine(&host, &vm)?,
            (_, _, item) => client.check_item(&item.unwrap_or_default())?,
        };
        checked(context, check)
    }
}
