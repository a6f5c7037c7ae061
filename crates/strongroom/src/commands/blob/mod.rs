//! `blob ...`: blobs of a storage account, here or anywhere else.

mod copy;
mod shown;
mod transfer;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use strongroom_azure::{
    BlobEntry, BlobPath, BlobWrite, DeleteSnapshots, Metadata, ReadBlob, SnapshotId,
};
use strongroom_storage_client::{BlobQuery, Client, RangeQuery};

pub(crate) use self::transfer::ParallelArgs;

use self::shown::{BlobShown, RangesShown};
use super::{
    service::common::{Gone, Listed, Thing},
    storage_account::{AccountArgs, blob, container, snapshot},
};
use crate::{
    columns::{Cell, Columns, row},
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
};

/// `blob ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum BlobCommand {
    Upload(transfer::UploadArgs),
    Download(transfer::DownloadArgs),
    List(ListArgs),
    Show(ShowArgs),
    Snapshot(SnapshotArgs),
    Copy(copy::CopyArgs),
    Promote(copy::PromoteArgs),
    Pages(PagesArgs),
    Diff(DiffArgs),
    Delete(DeleteArgs),
}

impl BlobCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Upload(args) => args.run(context),
            Self::Download(args) => args.run(context),
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Snapshot(args) => args.run(context),
            Self::Copy(args) => args.run(context),
            Self::Promote(args) => args.run(context),
            Self::Pages(args) => args.run(context),
            Self::Diff(args) => args.run(context),
            Self::Delete(args) => args.run(context),
        }
    }
}

/// A blob of an account.
#[derive(Clone, Debug, Args)]
struct BlobArgs {
    /// The blob: CONTAINER/BLOB
    blob: String,

    #[command(flatten)]
    account: AccountArgs,
}

impl BlobArgs {
    fn open(&self, context: &Context) -> Result<(Client, BlobPath), Failure> {
        let path = blob(&self.blob)?;
        Ok((self.account.client(context)?, path))
    }
}

fn read_of(snapshot: Option<SnapshotId>) -> ReadBlob {
    ReadBlob { snapshot, ..ReadBlob::default() }
}

/// Prints a blob as it is now.
fn show(
    context: &Context,
    client: &Client,
    path: &BlobPath,
    snapshot: Option<SnapshotId>,
) -> Result<(), Failure> {
    let properties = client.properties(path, &read_of(snapshot))?;
    let shown = BlobShown::new(path.to_string(), snapshot, &properties);
    context.out.result(&Thing::new(shown, BlobShown::text))
}

/// List the blobs of a container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob list vms --account disks
  strongroom blob list vms --prefix web --snapshots --output json")]
pub(crate) struct ListArgs {
    /// The container
    container: String,

    /// Only blobs whose names begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,

    /// Show names up to this text once, as folders
    #[arg(long, value_name = "TEXT", conflicts_with = "snapshots")]
    delimiter: Option<String>,

    /// List snapshots as well
    #[arg(long)]
    snapshots: bool,

    #[command(flatten)]
    account: AccountArgs,
}

/// A line of a list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry {
    Blob(Box<BlobShown>),
    Prefix { prefix: String },
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let name = container(&self.container)?;
        let client = self.account.client(context)?;
        let query = BlobQuery {
            prefix: self.prefix,
            delimiter: self.delimiter,
            snapshots: self.snapshots,
            metadata: true,
            ..BlobQuery::default()
        };
        let entry = |found: BlobEntry| match found {
            BlobEntry::Prefix(prefix) => Entry::Prefix { prefix },
            BlobEntry::Blob(found) => {
                let path = format!("{name}/{}", found.name);
                let shown = BlobShown::new(path, found.snapshot, &found.properties);
                Entry::Blob(Box::new(shown))
            }
        };
        let found: Vec<Entry> =
            client.blobs(&name, query).map(|it| it.map(entry)).collect::<Result<_, _>>()?;
        let rows = found.iter().map(|entry| match entry {
            Entry::Prefix { prefix } => {
                row![prefix, Cell::None, Cell::None, Cell::None, Cell::None]
            }
            Entry::Blob(it) => {
                let snapshot = it.snapshot.as_ref().map_or(Cell::None, Cell::from);
                row![&it.blob, snapshot, it.kind, Cell::Bytes(it.size_bytes), it.modified]
            }
        });
        let columns = Columns::new(["BLOB", "SNAPSHOT", "TYPE", "SIZE", "MODIFIED"], rows);
        context.out.result(&Listed::new("blobs", found, columns))
    }
}

/// Show a blob or a snapshot
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob show vms/web01.vhd --account disks
  strongroom blob show vms/web01.vhd --snapshot 2026-11-30T01:00:00.0000000Z --output json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    blob: BlobArgs,

    /// The snapshot, by the time that names it
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    snapshot: Option<SnapshotId>,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let (client, path) = self.blob.open(context)?;
        show(context, &client, &path, self.snapshot)
    }
}

/// Take a snapshot of a blob
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob snapshot vms/web01.vhd --account disks
  strongroom blob snapshot vms/web01.vhd --metadata reason=upgrade")]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    blob: BlobArgs,

    /// Metadata of the snapshot, instead of the blob's; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
}

impl SnapshotArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let (client, path) = self.blob.open(context)?;
        let id = client.snapshot(&path, &metadata(&self.metadata)?, &BlobWrite::default())?;
        show(context, &client, &path, Some(id))
    }
}

/// Reads `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn metadata(pairs: &[(String, String)]) -> Result<Metadata, Failure> {
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Metadata::of(pairs).map_err(|_| {
        Failure::usage("metadata has names of letters, digits and _, values of ASCII, 8 KiB in all")
    })
}

/// List the pages of a page blob that have content
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob pages vms/web01.vhd --account disks
  strongroom blob pages vms/web01.vhd --snapshot 2026-11-30T01:00:00.0000000Z --output json")]
pub(crate) struct PagesArgs {
    #[command(flatten)]
    blob: BlobArgs,

    /// Of this snapshot
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    snapshot: Option<SnapshotId>,
}

impl PagesArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        ranges(context, &self.blob, self.snapshot, None)
    }
}

/// List the pages that changed since a snapshot
///
/// Written and cleared pages are listed, exact to 512 bytes. It fails if the blob was created again after the snapshot.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob diff vms/web01.vhd --since 2026-11-30T01:00:00.0000000Z --account disks
  strongroom blob diff vms/web01.vhd --since 2026-11-30T01:00:00.0000000Z \\
    --until 2026-12-01T01:00:00.0000000Z")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    blob: BlobArgs,

    /// The earlier snapshot
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    since: SnapshotId,

    /// The later snapshot [default: the blob as it is now]
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    until: Option<SnapshotId>,
}

impl DiffArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        ranges(context, &self.blob, self.until, Some(self.since))
    }
}

fn ranges(
    context: &Context,
    blob: &BlobArgs,
    snapshot: Option<SnapshotId>,
    since: Option<SnapshotId>,
) -> Result<(), Failure> {
    let (client, path) = blob.open(context)?;
    let query = RangeQuery { read: read_of(snapshot), previous: since, ..RangeQuery::default() };
    let found = client.pages(&path, query).collect::<Result<Vec<_>, _>>()?;
    let shown = RangesShown::new(path.to_string(), snapshot, since, &found);
    context.out.result(&Thing::new(shown, RangesShown::text))
}

/// What becomes of a blob's snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Snapshots {
    /// They are deleted with the blob
    Include,
    /// Only they are deleted
    Only,
}

/// Delete a blob, its snapshots, or one of them
///
/// A blob that has snapshots is deleted only with --snapshots include.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob delete vms/old.vhd --account disks
  strongroom blob delete vms/old.vhd --snapshots include --yes
  strongroom blob delete vms/web01.vhd --snapshot 2026-11-30T01:00:00.0000000Z")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    blob: BlobArgs,

    /// Only this snapshot
    #[arg(long, value_name = "TIME", value_parser = snapshot, conflicts_with = "snapshots")]
    snapshot: Option<SnapshotId>,

    /// What becomes of the blob's snapshots
    #[arg(long, value_enum)]
    snapshots: Option<Snapshots>,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl DeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let (client, path) = self.blob.open(context)?;
        client.properties(&path, &read_of(self.snapshot))?;
        let action = match (self.snapshot, self.snapshots) {
            (Some(id), _) => format!("Delete the snapshot {id} of {path}"),
            (None, None) => format!("Delete the blob {path}"),
            (None, Some(Snapshots::Include)) => format!("Delete the blob {path} and its snapshots"),
            (None, Some(Snapshots::Only)) => format!("Delete all snapshots of {path}"),
        };
        if !self.confirm.go(context, &Plan::new(action).with("It cannot be restored"))? {
            return Ok(());
        }
        let snapshots = self.snapshots.map(|which| match which {
            Snapshots::Include => DeleteSnapshots::Include,
            Snapshots::Only => DeleteSnapshots::Only,
        });
        client.delete(&path, self.snapshot, snapshots, &BlobWrite::default())?;
        let what = match (self.snapshot, self.snapshots) {
            (Some(_), _) => "snapshot of",
            (None, Some(Snapshots::Only)) => "snapshots of",
            (None, _) => "blob",
        };
        context.out.result(&Gone { what, deleted: path.to_string() })
    }
}
