//! `storage incremental-backup ...`: backups of a page blob to another, by snapshots of both.

use std::{fmt::Write as _, num::NonZeroU32};

use clap::{Args, Subcommand, ValueEnum};
use strongroom_azure::{BlobPath, Metadata, SnapshotId};
use strongroom_storage_client::{
    Client,
    incremental::{self, Backup, BackupReport, BackupSnapshot, Place, Restore, RestoreReport},
};

use super::DataArgs;
use crate::{
    columns::{Cell, Columns, row},
    commands::{
        blob::ParallelArgs,
        service::common::{Listed, Thing},
        storage_account::{CaArgs, blob_of_account, snapshot},
    },
    context::{Context, variable},
    error::Failure,
    human, values,
};

/// How the source's account is reached.
#[derive(Clone, Debug, Args)]
struct SourceArgs {
    /// Connection string of the source's account, or in the variable STRONGROOM_SOURCE_CONNECTION_STRING [default: an
    /// account that this machine serves from --data-dir]
    #[arg(long, value_name = "STRING")]
    source_connection_string: Option<String>,

    /// Believe the certificates in this file (PEM) for the source, instead of the system's
    #[arg(long, value_name = "FILE")]
    source_ca_file: Option<std::path::PathBuf>,
}

/// How the target's account is reached.
#[derive(Clone, Debug, Args)]
struct TargetArgs {
    /// Connection string of the target's account, or in the variable STRONGROOM_TARGET_CONNECTION_STRING [default: an
    /// account that this machine serves from --data-dir]
    #[arg(long, value_name = "STRING")]
    target_connection_string: Option<String>,

    /// Believe the certificates in this file (PEM) for the target, instead of the system's
    #[arg(long, value_name = "FILE")]
    target_ca_file: Option<std::path::PathBuf>,
}

impl SourceArgs {
    fn open(
        &self,
        context: &Context,
        text: &str,
        data: &DataArgs,
    ) -> Result<(Client, BlobPath), Failure> {
        let given = self.source_connection_string.clone();
        let given = given.or_else(|| variable("STRONGROOM_SOURCE_CONNECTION_STRING"));
        let trust = CaArgs::of(self.source_ca_file.clone());
        blob_of_account(context, text, given.as_deref(), data, &trust)
    }
}

impl TargetArgs {
    fn open(
        &self,
        context: &Context,
        text: &str,
        data: &DataArgs,
    ) -> Result<(Client, BlobPath), Failure> {
        let given = self.target_connection_string.clone();
        let given = given.or_else(|| variable("STRONGROOM_TARGET_CONNECTION_STRING"));
        let trust = CaArgs::of(self.target_ca_file.clone());
        blob_of_account(context, text, given.as_deref(), data, &trust)
    }
}

/// Who copies pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Through {
    /// This command: the two services need not reach each other
    #[default]
    Client,
    /// The target's service, which reads from the source by a signed URL
    Service,
}

impl From<Through> for incremental::Through {
    fn from(through: Through) -> Self {
        match through {
            Through::Client => Self::Client,
            Through::Service => Self::Service,
        }
    }
}

const fn at<'a>(client: &'a Client, blob: &'a BlobPath) -> Place<'a> {
    Place { client, blob }
}

/// Back a page blob up to another one, list and restore the backups
///
/// The source gets a snapshot; what differs from the last one is written to the target, cleared pages as well; then the
/// target gets a snapshot, which is the backup. Of the source's snapshots only the newest that the command took is kept.
/// The first backup copies everything. The command may be killed at any moment, and repeated: an unfinished backup is
/// finished first, once the lease of the killed command has ended, after a minute. Accounts may be those of any service that speaks Azure's dialect.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  strongroom storage incremental-backup --source prem/vms/disk.vhd --target backups/vms/disk.vhd
  strongroom storage incremental-backup --source prem/vms/disk.vhd \
      --target backups/vms/disk.vhd --keep 30 --limit-rate 100M
  strongroom storage incremental-backup list --target backups/vms/disk.vhd"
)]
pub(crate) struct IncrementalArgs {
    #[command(subcommand)]
    command: Option<IncrementalCommand>,

    #[command(flatten)]
    run: RunArgs,
}

/// `storage incremental-backup ...`.
#[derive(Debug, Subcommand)]
enum IncrementalCommand {
    List(ListArgs),
    Restore(RestoreArgs),
}

impl IncrementalArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Some(IncrementalCommand::List(args)) => args.run(context),
            Some(IncrementalCommand::Restore(args)) => args.run(context),
            None => self.run.run(context),
        }
    }
}

/// A backup.
#[derive(Debug, Args)]
struct RunArgs {
    /// The blob that is backed up: ACCOUNT/CONTAINER/BLOB, or its URL with a shared access signature
    #[arg(long, value_name = "BLOB", required = true)]
    source: Option<String>,

    /// The blob that is the backup: ACCOUNT/CONTAINER/BLOB, or its URL; it is created by the first backup
    #[arg(long, value_name = "BLOB", required = true)]
    target: Option<String>,

    /// Who copies pages
    #[arg(long, value_enum, default_value = "client")]
    through: Through,

    /// Keep this number of backups of the target, and delete older ones [default: all]
    #[arg(long, value_name = "NUMBER")]
    keep: Option<NonZeroU32>,

    /// Copy or compare this number of bytes a second at most: 100M, 1G [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    limit_rate: Option<u64>,

    #[command(flatten)]
    parallel: ParallelArgs,

    #[command(flatten)]
    from: SourceArgs,

    #[command(flatten)]
    to: TargetArgs,

    #[command(flatten)]
    data: DataArgs,
}

impl RunArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        // They are missing only beside a subcommand.
        let missing = || Failure::usage("say what to back up: --source and --target");
        let source = self.source.as_deref().ok_or_else(missing)?;
        let target = self.target.as_deref().ok_or_else(missing)?;
        let (source, source_blob) = self.from.open(context, source, &self.data)?;
        let (target, target_blob) = self.to.open(context, target, &self.data)?;
        let limit_rate = self.limit_rate;
        let options =
            Backup { through: self.through.into(), keep: self.keep, run: None, limit_rate };
        let report = self.parallel.watched(context, |work| {
            incremental::run(at(&source, &source_blob), at(&target, &target_blob), options, work)
        })?;
        context.out.result(&Thing::new(report, backup_text))
    }
}

fn backup_text(report: &BackupReport) -> String {
    let mut text = String::new();
    for made in &report.backups {
        let method = match made.method {
            incremental::Method::Full => "everything".to_owned(),
            incremental::Method::Incremental => "what has changed".to_owned(),
            incremental::Method::Compared => {
                let reason = made.reason.as_deref().unwrap_or("no difference can be listed");
                format!("both blobs compared: {reason}")
            }
        };
        writeln!(
            text,
            "Backup {} of {}: {method}\n  {} written, {} cleared",
            made.backup.snapshot,
            report.source,
            human::bytes(made.written_bytes),
            human::bytes(made.cleared_bytes),
        )
        .ok();
    }
    if report.was_too_soon {
        text.push_str("The source permits no new snapshot yet; run the command again later.\n");
    }
    for kept in &report.kept_snapshots {
        writeln!(text, "The old snapshot {kept} of the source could not be deleted.").ok();
    }
    if !report.deleted_backups.is_empty() {
        let deleted = report.deleted_backups.join(", ");
        writeln!(text, "Old backups that were deleted: {deleted}").ok();
    }
    text
}

/// List the backups that a blob has
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage incremental-backup list --target backups/vms/disk.vhd")]
struct ListArgs {
    /// The blob that is the backup: ACCOUNT/CONTAINER/BLOB, or its URL
    #[arg(long, value_name = "BLOB")]
    target: String,

    #[command(flatten)]
    to: TargetArgs,

    #[command(flatten)]
    data: DataArgs,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let (target, blob) = self.to.open(context, &self.target, &self.data)?;
        let found: Vec<BackupSnapshot> = incremental::list(at(&target, &blob))?;
        let rows = found.iter().map(|it| {
            let source_snapshot = it.source_snapshot.to_string();
            row![it.snapshot.to_string(), &it.source, source_snapshot, Cell::Bytes(it.size)]
        });
        let columns = Columns::new(["BACKUP", "SOURCE", "ITS SNAPSHOT", "SIZE"], rows);
        context.out.result(&Listed::new("backups", found, columns))
    }
}

/// Restore a backup to a new page blob
///
/// The next backup of the restored blob to the same target continues from there: it writes only what has changed. A
/// restore that was interrupted continues when the command is repeated.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage incremental-backup restore --target backups/vms/disk.vhd \\
    --snapshot 2026-11-30T01:00:00.0000000Z --to prem/vms/disk-restored.vhd")]
struct RestoreArgs {
    /// The blob that is the backup: ACCOUNT/CONTAINER/BLOB, or its URL
    #[arg(long, value_name = "BLOB")]
    target: String,

    /// The backup, by the time that names its snapshot
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    snapshot: SnapshotId,

    /// The new blob: ACCOUNT/CONTAINER/BLOB, or its URL; its account is reached as that of a source
    #[arg(long, value_name = "BLOB")]
    to: String,

    /// Who copies pages
    #[arg(long, value_enum, default_value = "client")]
    through: Through,

    /// Copy or compare this number of bytes a second at most: 100M, 1G [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    limit_rate: Option<u64>,

    #[command(flatten)]
    parallel: ParallelArgs,

    #[command(flatten)]
    target_account: TargetArgs,

    #[command(flatten)]
    source_account: SourceArgs,

    #[command(flatten)]
    data: DataArgs,
}

impl RestoreArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let (target, backup) = self.target_account.open(context, &self.target, &self.data)?;
        let (source, blob) = self.source_account.open(context, &self.to, &self.data)?;
        let (metadata, limit_rate) = (Metadata::default(), self.limit_rate);
        let options = Restore { through: self.through.into(), metadata, limit_rate };
        let report = self.parallel.watched(context, |work| {
            let from = at(&target, &backup);
            incremental::restore(from, self.snapshot, at(&source, &blob), &options, work)
        })?;
        context.out.result(&Thing::new(report, restore_text))
    }
}

fn restore_text(report: &RestoreReport) -> String {
    format!(
        "Restored the backup {} to {}: {}, {} with content\n",
        report.backup.snapshot,
        report.restored,
        human::bytes(report.backup.size),
        human::bytes(report.written_bytes),
    )
}
