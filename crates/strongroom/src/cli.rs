//! The command tree.

use clap::{Parser, Subcommand};

use crate::{
    args::GlobalArgs,
    commands::{
        backup::BackupArgs,
        blob::BlobCommand,
        container::ContainerCommand,
        drill::DrillArgs,
        errors::ErrorsArgs,
        export::ExportArgs,
        guard::GuardArgs,
        module::ModuleArgs,
        mount::MountCommand,
        recover::RecoverArgs,
        recoverypoint::RecoverypointCommand,
        reference::{CompletionsArgs, ManArgs},
        restore::RestoreCommand,
        serve::{DoctorArgs, ServeArgs},
        service::{
            access::AccessCommand,
            alert::AlertCommand,
            audit::AuditCommand,
            context::ContextCommand,
            host::{HostCommand, ProtectableCommand},
            item::ItemCommand,
            job::JobCommand,
            policy::PolicyCommand,
            protection::ProtectionCommand,
            status::{ServerCommand, StatusArgs},
        },
        storage::StorageCommand,
        vault::VaultCommand,
        verify::VerifyCommand,
        vm::VmCommand,
    },
    context::Context,
    error::Failure,
};

/// Backs up the disks of virtual machines into an encrypted vault, and restores them
///
/// A vault is a folder or a prefix in an object store (S3, Azure Blob, GCS). It holds recovery
/// points: the disks of an item (a machine, or any set of disks) at one moment. The first backup of
/// an item reads everything; every later one stores only what changed. Everything in a vault is
/// encrypted with a key that only you have. A restore needs only the vault and the key.
///
/// None of this needs a server. A server (`strongroom serve`) backs up machines by policies:
/// connect to it with `strongroom context add`; the commands `host`, `policy`, `protection`,
/// `item`, `job` and others then use it. Where a command works with and without a server, a vault's
/// NAME means a vault of the service, and --vault with a key means a vault without a server.
/// `recoverypoint` and `restore` use the server if a context is in use, unless the command line or
/// the environment names a vault or key.
///
/// Results go to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    bin_name = "strongroom",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  strongroom vault key generate ~/strongroom.key
  strongroom vault create --vault /backup/vault --key-file ~/strongroom.key
  export STRONGROOM_VAULT=/backup/vault STRONGROOM_KEY_FILE=~/strongroom.key
  strongroom backup --item web01 --disk system=/var/lib/libvirt/images/web01.qcow2
  strongroom recoverypoint list --item web01
  strongroom restore disks --item web01 --recovery-point latest --to /restore",
    after_long_help = "\
Examples:
  strongroom vault key generate ~/strongroom.key
  strongroom vault create --vault /backup/vault --key-file ~/strongroom.key
  export STRONGROOM_VAULT=/backup/vault STRONGROOM_KEY_FILE=~/strongroom.key
  strongroom backup --item web01 --disk system=/var/lib/libvirt/images/web01.qcow2
  strongroom recoverypoint list --item web01
  strongroom restore disks --item web01 --recovery-point latest --to /restore

Exit codes:
  0    done
  2    the request or the configuration is wrong
  3    the named object does not exist
  4    the present state does not allow it: the object exists, is in use, or has changed
  5    a store, disk or tool does not answer or has no room; try again
  6    stored data is damaged
  7    done, except for a part that is listed
  8    the key does not fit, or the rights are missing
  70   a defect of Strongroom
  130  stopped on request

Configuration file (TOML; every key is optional):
  vault = \"/backup/vault\"          # like --vault
  key_file = \"~/strongroom.key\"    # or passphrase_file, or pkcs11
  cache_dir = \"/var/cache/strongroom\"
  limit_rate = \"100M\"
  threads = 2
  output = \"table\"
The command line overrides the environment, the environment overrides the file."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The top-level commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, inspect and maintain vaults and their keys
    #[command(subcommand)]
    Vault(VaultCommand),
    /// List, show and check the machines of a host
    #[command(subcommand)]
    Vm(VmCommand),
    Backup(Box<BackupArgs>),
    /// List, show, compare and delete recovery points
    #[command(subcommand)]
    Recoverypoint(RecoverypointCommand),
    /// Restore machines and disks from recovery points
    #[command(subcommand)]
    Restore(RestoreCommand),
    Export(Box<ExportArgs>),
    /// Start machines from recovery points, and see how far they boot (`vault verify` checks vaults)
    #[command(subcommand)]
    Verify(VerifyCommand),
    Drill(Box<DrillArgs>),
    /// Use disks of recovery points as files, without a restore
    #[command(subcommand)]
    Mount(MountCommand),
    /// Protect machines and disks with the service, back them up now, stop and resume
    #[command(subcommand)]
    Protection(ProtectionCommand),
    /// List and show what the service protects
    #[command(subcommand)]
    Item(ItemCommand),
    /// List, create and change policies: when backups run, when recovery points expire
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// List, show, wait for and cancel the service's jobs
    #[command(subcommand)]
    Job(JobCommand),
    Status(StatusArgs),
    /// List, acknowledge and resolve alerts
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Add hosts to the service, and find their machines
    #[command(subcommand)]
    Host(HostCommand),
    /// List and check what can be protected on a host
    #[command(subcommand)]
    ProtectableItem(ProtectableCommand),
    /// Manage users, roles and tokens
    #[command(subcommand)]
    Access(AccessCommand),
    /// Read, export and verify the audit log: who did what
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Serve storage accounts to Azure's clients, export their disks, back them up, manage them
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Create, list and delete containers of storage accounts
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Upload, download, snapshot, compare and copy blobs of storage accounts
    #[command(subcommand)]
    Blob(Box<BlobCommand>),
    /// Maintain the server
    #[command(subcommand)]
    Server(ServerCommand),
    /// Connect to servers, sign in, choose a server
    #[command(subcommand)]
    Context(ContextCommand),
    Serve(ServeArgs),
    Recover(RecoverArgs),
    Doctor(DoctorArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    Errors(ErrorsArgs),
    #[command(hide = true)]
    VmGuard(GuardArgs),
    #[command(name = "pkcs11-module", hide = true)]
    Module(ModuleArgs),
}

impl Command {
    /// For commands of the server, `--config` names the server's file and not the user's.
    pub(crate) fn take_config(&mut self, global: &mut GlobalArgs) {
        let server = match self {
            Self::Serve(args) => &mut args.server,
            Self::Recover(args) => &mut args.server,
            Self::Doctor(args) => &mut args.server,
            Self::Server(command) => match command.server() {
                Some(server) => server,
                None => return,
            },
            _ => return,
        };
        server.file = global.config.take();
    }

    /// Runs the command.
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Vault(command) => command.run(context),
            Self::Vm(command) => command.run(context),
            Self::Backup(args) => args.run(context),
            Self::Recoverypoint(command) => command.run(context),
            Self::Restore(command) => command.run(context),
            Self::Export(args) => args.run(context),
            Self::Verify(command) => command.run(context),
            Self::Drill(args) => args.run(context),
            Self::Mount(command) => command.run(context),
            Self::Protection(command) => command.run(context),
            Self::Item(command) => command.run(context),
            Self::Policy(command) => command.run(context),
            Self::Job(command) => command.run(context),
            Self::Status(args) => args.run(context),
            Self::Alert(command) => command.run(context),
            Self::Host(command) => command.run(context),
            Self::ProtectableItem(command) => command.run(context),
            Self::Access(command) => command.run(context),
            Self::Audit(command) => command.run(context),
            Self::Server(command) => command.run(context),
            Self::Context(command) => command.run(context),
            Self::Serve(args) => args.run(context),
            Self::Recover(args) => args.run(context),
            Self::Doctor(args) => args.run(context),
            Self::Completions(args) => args.run(),
            Self::Man(args) => args.run(context),
            Self::Errors(args) => args.run(context),
            Self::Storage(command) => command.run(context),
            Self::Container(command) => command.run(context),
            Self::Blob(command) => command.run(context),
            Self::VmGuard(args) => args.run(context),
            Self::Module(args) => args.run(context),
        }
    }
}
