//! `storage ...`: storage accounts, in Azure's dialect.

mod accounts;
mod copies;
mod export;
mod incremental;
mod replication;
mod served;
mod shapes;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use strongroom_api::{
    StorageAccount, StorageAccountCreate, StorageAccountKeys, StorageAccountKind,
    StorageAccountRedundancy, StorageKeyName, StorageStatus,
};
use strongroom_base::{Clock, Entropy};
use strongroom_storage::{
    CopyFolders, Run, StorageError, Tuning,
    admin::{self, Command, Reply},
};

use self::accounts::Accounts;
pub(super) use self::served::Served;
use super::service::common::{Gone, Listed, Thing};
use crate::{
    columns::{Columns, row},
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::{FaceError, Failure},
    hosts, human,
    out::Show,
    values,
};

/// The file that says where the accounts were served last.
const ENDPOINT: &str = "endpoint";
/// Where they are served unless something else is known.
const USUAL_ENDPOINT: &str = "https://127.0.0.1:10000";

/// `storage ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    Serve(StorageServeArgs),
    /// Create, list, show and delete storage accounts, and their keys
    #[command(subcommand)]
    Account(AccountCommand),
    /// List, add and remove copies of the storage accounts on other disks
    #[command(subcommand)]
    Copy(copies::CopyCommand),
    /// Keep the storage accounts at a second server as well: join, watch, return, end it
    #[command(subcommand)]
    Replication(replication::ReplicationCommand),
    Export(export::ExportArgs),
    IncrementalBackup(Box<incremental::IncrementalArgs>),
    Status(StatusArgs),
}

/// `storage account ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    Create(CreateArgs),
    List(ListArgs),
    Show(ShowArgs),
    Keys(KeysArgs),
    RegenerateKey(RegenerateKeyArgs),
    Update(replication::UpdateArgs),
    Replication(replication::AccountReplicationArgs),
    Failover(replication::FailoverArgs),
    Delete(DeleteArgs),
}

impl StorageCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Serve(args) => args.run(context),
            Self::Account(command) => match command {
                AccountCommand::Create(args) => args.run(context),
                AccountCommand::List(args) => args.run(context),
                AccountCommand::Show(args) => args.run(context),
                AccountCommand::Keys(args) => args.run(context),
                AccountCommand::RegenerateKey(args) => args.run(context),
                AccountCommand::Update(args) => args.run(context),
                AccountCommand::Replication(args) => args.run(context),
                AccountCommand::Failover(args) => args.run(context),
                AccountCommand::Delete(args) => args.run(context),
            },
            Self::Copy(command) => command.run(context),
            Self::Replication(command) => command.run(context),
            Self::Export(args) => args.run(context),
            Self::IncrementalBackup(args) => args.run(context),
            Self::Status(args) => args.run(context),
        }
    }
}

/// Where the accounts are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataArgs {
    /// Folder of the storage accounts [default: /var/lib/strongroom/storage for root, else
    /// ~/.local/share/strongroom/storage]
    #[arg(long, value_name = "FOLDER", env = "STRONGROOM_STORAGE_DIR")]
    data_dir: Option<PathBuf>,
}

impl DataArgs {
    /// The folder that the command line or the environment names.
    fn given(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    pub(super) fn folder(&self) -> Result<PathBuf, Failure> {
        let folder = match &self.data_dir {
            Some(folder) => folder.clone(),
            None => hosts::data_dir().join("storage"),
        };
        let find = |source| FaceError::Local { path: folder.clone(), action: "find", source };
        Ok(std::path::absolute(&folder).map_err(find)?)
    }

    pub(in crate::commands) fn ask(
        &self,
        context: &Context,
        command: &Command,
    ) -> Result<Reply, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(context.clock);
        let entropy: Arc<dyn Entropy> = Arc::new(context.entropy);
        Ok(admin::run(&self.folder()?, command, &clock, &entropy)?)
    }
}

/// Where clients reach the accounts.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct EndpointArgs {
    /// URL of the server, for the connection string; `{account}` stands for the account's name
    /// [default: where the accounts were served last, or https://127.0.0.1:10000]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

impl EndpointArgs {
    const fn given(endpoint: Option<String>) -> Self {
        Self { endpoint }
    }

    pub(super) fn of(&self, data: &DataArgs) -> Result<String, Failure> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        Ok(endpoint(&data.folder()?)?)
    }
}

/// Where the accounts of a folder were served last, or are served if nobody says anything else.
pub(super) fn endpoint(folder: &Path) -> Result<String, StorageError> {
    let path = folder.join(ENDPOINT);
    match fs::read_to_string(&path) {
        Ok(endpoint) => Ok(endpoint.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(USUAL_ENDPOINT.to_owned()),
        Err(source) => Err(StorageError::Local { path, action: "read", source }),
    }
}

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tls {
    /// Encrypted, with a certificate that the server makes.
    On,
    /// Not encrypted; only on a loopback address.
    Off,
}

/// Serve storage accounts to Azure's clients
///
/// The accounts of a folder are served in the dialect of Azure's blob service, so that its SDKs and tools work with
/// them unchanged: page, block and append blobs with snapshots, exact differences between snapshots, leases, copies and incremental
/// copies, by shared keys and shared access signatures. A write is acknowledged when it is durable, on the disk of every
/// copy. The server runs until it is stopped (Ctrl-C, SIGTERM). docs/use/storage.md has the operations and what is not supported.
///
/// Accounts are addressed by path (https://HOST:PORT/ACCOUNT) or by host (https://ACCOUNT.blob.SUFFIX:PORT). Other
/// clients find the server's certificate, certificate.pem, in the folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage serve
  strongroom storage serve --data-dir /srv/storage --listen 127.0.0.1:10000 --tls off
  strongroom storage serve --data-dir /disk1/storage --copy /disk2/storage --copy /disk3/storage
  strongroom storage serve --listen 192.0.2.7:443 --suffix storage.example.org
  strongroom storage serve --replica-journal 32G --rebuild-rate 64M")]
pub(crate) struct StorageServeArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10000")]
    listen: SocketAddr,

    /// Encrypt connections, with a certificate that the server makes and renews
    #[arg(long, value_enum, default_value = "on")]
    tls: Tls,

    /// Keep a copy of everything in this folder, on another disk; may be repeated. Copies are remembered: name one again
    /// when its disk has moved
    #[arg(long, value_name = "FOLDER")]
    copy: Vec<PathBuf>,

    /// Serve without this copy, which is lost for good; may be repeated. Changes that only it has are lost as well
    #[arg(long, value_name = "FOLDER")]
    without: Vec<PathBuf>,

    /// A domain: ACCOUNT.blob.DOMAIN is an account; may be repeated
    #[arg(long, value_name = "DOMAIN", default_value = "localhost")]
    suffix: Vec<String>,

    /// Keep this much of the journal for a second server that is behind, 256M to 16T; one that is farther behind is
    /// compared with this server and resynchronized [default: 4G]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    replica_journal: Option<u64>,

    /// Make a copy on another disk again at this number of bytes a second at most, 1M to 1T, so that clients keep most of the
    /// disks' speed [default: 128M]
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    rebuild_rate: Option<u64>,
}

impl StorageServeArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let tls = self.tls == Tls::On;
        if !tls && !self.listen.ip().is_loopback() {
            return Err(Failure::usage(format!(
                "without TLS everybody on the network can read keys and data: {} is no loopback address",
                self.listen
            )));
        }
        let tuning =
            Tuning { replica_journal: self.replica_journal, rebuild_rate: self.rebuild_rate };
        tuning.check().map_err(Failure::usage)?;
        let folder = self.data.folder()?;
        let announce = announce(context, &folder, tls);
        let folders = CopyFolders {
            copies: copies::absolute(&self.copy)?,
            without: copies::absolute(&self.without)?,
        };
        let run = Run {
            data_dir: folder,
            folders,
            tuning,
            listen: self.listen,
            host: crate::context::host(),
            tls,
            suffixes: self.suffix,
            clock: Arc::new(context.clock),
            entropy: Arc::new(context.entropy),
            stop: context.cancel.clone(),
            announce: Box::new(move |address, fingerprint, _| announce(address, fingerprint)),
        };
        Ok(strongroom_storage::run(run)?)
    }
}

/// Notes where accounts are served, for connection strings, and tells people.
pub(super) fn announce(
    context: &Context,
    folder: &Path,
    tls: bool,
) -> impl FnOnce(SocketAddr, Option<&str>) + Send + use<> {
    let said = context.out;
    let file = folder.join(ENDPOINT);
    move |address, fingerprint| {
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        // Without the file, commands that make connection strings need --endpoint.
        if let Err(error) = fs::write(&file, format!("{url}\n")) {
            tracing::warn!(%error, path = %file.display(), "cannot note where the accounts are served");
        }
        said.say(&format!("Storage accounts are served at {url}"));
        if let Some(fingerprint) = fingerprint {
            said.say(&format!("Its certificate's SHA-256 fingerprint: {fingerprint}"));
        }
    }
}

/// What an account is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Disks: at most 100 snapshots of a blob, one in ten minutes
    Premium,
    /// Everything else
    Standard,
}

/// How many copies of an account there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Copies {
    /// At this server, on one disk or several
    Lrs,
    /// Also at a second server
    Grs,
    /// The same, and clients may read it there
    RaGrs,
}

impl Copies {
    const fn of_api(self) -> StorageAccountRedundancy {
        match self {
            Self::Lrs => StorageAccountRedundancy::Lrs,
            Self::Grs => StorageAccountRedundancy::Grs,
            Self::RaGrs => StorageAccountRedundancy::RaGrs,
        }
    }
}

/// Create a storage account
///
/// The command works while the accounts are served, and before. It prints both keys and a connection string, which
/// clients take as it is. Keys are shown by this command, by `keys` and by `regenerate-key`, and nowhere else.
///
/// Without --data-dir, and with --context or a context in use, the server of the service creates the account; so it is
/// with all commands on accounts, and with `storage status`. docs/use/storage.md says which roles may do what.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account create disks
  strongroom storage account create disks --kind premium --data-dir /srv/storage --output json
  strongroom storage account create disks --context home")]
pub(crate) struct CreateArgs {
    /// Name of the account: 3 to 24 lower-case letters and digits
    name: String,

    #[command(flatten)]
    data: DataArgs,

    /// What the account is for; Azure's limits of the kind are enforced
    #[arg(long, value_enum, default_value = "standard")]
    kind: Kind,

    /// Where its data is kept [default: lrs, or grs where `storage replication` has joined a second server]
    #[arg(long, value_enum)]
    redundancy: Option<Copies>,

    /// Do not enforce the limits of the kind
    #[arg(long)]
    no_limits: bool,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

impl CreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let new = StorageAccountCreate {
            name: self.name,
            kind: Some(match self.kind {
                Kind::Premium => StorageAccountKind::Premium,
                Kind::Standard => StorageAccountKind::Standard,
            }),
            redundancy: self.redundancy.map(Copies::of_api),
            rules: Some(!self.no_limits),
            endpoint: self.endpoint.endpoint,
        };
        let made = Accounts::of(context, self.data)?.create(&new)?;
        context.out.result(&Keys(made))
    }
}

/// List the storage accounts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account list
  strongroom storage account list --context home
  strongroom storage account list --data-dir /srv/storage --output json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    data: DataArgs,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let accounts = Accounts::of(context, self.data)?.list()?;
        let rows = accounts.iter().map(|account| {
            row![
                &account.name,
                account.kind.name(),
                redundancy(account.redundancy),
                account.created
            ]
        });
        let columns = Columns::new(["ACCOUNT", "KIND", "REDUNDANCY", "CREATED"], rows);
        context.out.result(&Listed::new("accounts", accounts, columns))
    }
}

/// Show a storage account, without its keys
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account show disks")]
pub(crate) struct ShowArgs {
    /// The account
    name: String,

    #[command(flatten)]
    data: DataArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let account = Accounts::of(context, self.data)?.show(&self.name)?;
        show_account(context, account)
    }
}

/// Show the keys and connection strings of a storage account
///
/// A server of the service shows them to vault admins, and its audit log has an entry each time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account keys disks
  strongroom storage account keys disks --endpoint https://storage.example.org --output json")]
pub(crate) struct KeysArgs {
    /// The account
    name: String,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

impl KeysArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let keys = Accounts::of(context, self.data)?.keys(&self.name, &self.endpoint)?;
        context.out.result(&Keys(keys))
    }
}

/// One of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Key {
    /// The first key
    Key1,
    /// The second key
    Key2,
}

/// Replace a key of a storage account
///
/// Requests and shared access signatures by the old key are refused from then on. Give clients the other key first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account regenerate-key disks --key key2 --yes")]
pub(crate) struct RegenerateKeyArgs {
    /// The account
    name: String,

    /// Which key
    #[arg(long, value_enum)]
    key: Key,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    endpoint: EndpointArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl RegenerateKeyArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let key = match self.key {
            Key::Key1 => StorageKeyName::Key1,
            Key::Key2 => StorageKeyName::Key2,
        };
        let plan = Plan::new(format!("Replace a key of the storage account {}", self.name))
            .with("Clients and signatures that use the old key are refused");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        let accounts = Accounts::of(context, self.data)?;
        let keys = accounts.regenerate_key(&self.name, key, &self.endpoint)?;
        context.out.result(&Keys(keys))
    }
}

/// Delete a storage account with its containers, blobs and snapshots
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage account delete disks --dry-run
  strongroom storage account delete disks --yes")]
pub(crate) struct DeleteArgs {
    /// The account
    name: String,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl DeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        // One that does not exist is reported before the question.
        let accounts = Accounts::of(context, self.data)?;
        accounts.show(&self.name)?;
        let plan = Plan::new(format!("Delete the storage account {}", self.name))
            .with("All containers, blobs and snapshots in it are deleted for good");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        accounts.delete(&self.name)?;
        context.out.result(&Gone { what: "storage account", deleted: self.name })
    }
}

/// Show how the store of the storage accounts stands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage status
  strongroom storage status --context home
  strongroom storage status --output json")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    data: DataArgs,
}

impl StatusArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let status = Accounts::of(context, self.data)?.status()?;
        context.out.result(&Thing::new(status, |status: &StorageStatus| {
            let failure = status.failure.clone().unwrap_or_else(|| "no".to_owned());
            let mut facts = vec![
                ("Accounts", status.accounts.to_string()),
                ("Containers", status.containers.to_string()),
                ("Blobs", status.blobs.to_string()),
                ("Used on the disk", human::bytes(status.used_bytes)),
                ("Free on the disk", human::bytes(status.free_bytes)),
                ("Changes recorded", status.records.to_string()),
                ("Checkpoints", status.checkpoints.to_string()),
                ("Journal since the last", human::bytes(status.journal_bytes)),
                ("Stopped by a failure", failure),
            ];
            facts.extend(status.copies.iter().map(|it| ("Copy", copies::sentence(it))));
            facts.push(("Repaired pieces", status.repaired.to_string()));
            facts.push(("Damaged pieces", status.damaged.to_string()));
            human::facts(&facts)
        }))
    }
}

fn redundancy(redundancy: StorageAccountRedundancy) -> &'static str {
    match redundancy {
        StorageAccountRedundancy::Lrs => "lrs",
        StorageAccountRedundancy::Grs => "grs",
        StorageAccountRedundancy::RaGrs => "ra-grs",
    }
}

fn facts(account: &StorageAccount) -> [(&'static str, String); 5] {
    let limits = if account.rules { "enforced" } else { "not enforced" };
    [
        ("Account", account.name.clone()),
        ("Kind", account.kind.to_string()),
        ("Redundancy", redundancy(account.redundancy).to_owned()),
        ("Limits of the kind", limits.to_owned()),
        ("Created", human::time(account.created)),
    ]
}

fn show_account(context: &Context, account: StorageAccount) -> Result<(), Failure> {
    context.out.result(&Thing::new(account, |account| human::facts(&facts(account))))
}

/// An account with its keys, as it is printed.
#[derive(Serialize)]
#[serde(transparent)]
struct Keys(StorageAccountKeys);

impl Show for Keys {
    fn show(&self) -> String {
        let mut shown = facts(&self.0.account()).to_vec();
        let [first, second] = ["Key 1", "Key 2"];
        let keys = [first, second].into_iter().zip(&self.0.keys);
        shown.extend(keys.map(|(name, key)| (name, key.value.clone())));
        shown.push(("Connection string", self.0.connection_string.clone()));
        human::facts(&shown)
    }
}

pub(super) fn other_answer() -> Failure {
    FaceError::Bug("the answer is to another command".to_owned()).into()
}
