//! `blob copy`, `blob promote`: copies by the service itself.

use clap::Args;
use strongroom_azure::{BlobPath, BlobWrite, CopyStatus, Metadata, SnapshotId, SourceUrl};
use strongroom_storage_client::{Client, Copied};

use super::{BlobArgs, blob, show, snapshot};
use crate::{
    commands::storage_account::AccountArgs,
    context::Context,
    error::{FaceError, Failure},
};

/// Copy a blob, in its account or from another server
///
/// The service copies; the command waits, unless --no-wait is given. The source is CONTAINER/BLOB of the same account, or
/// the URL of a blob anywhere, with a shared access signature.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob copy vms/web01.vhd vms/web01-copy.vhd --account disks
  strongroom blob copy vms/web01.vhd vms/backup.vhd --incremental \\
    --snapshot 2026-11-30T01:00:00.0000000Z
  strongroom blob copy 'https://other.example.org/disks/vms/a.vhd?sv=...&sig=...' vms/a.vhd")]
pub(crate) struct CopyArgs {
    /// The source: CONTAINER/BLOB, or a URL
    source: String,

    /// The blob that is made: CONTAINER/BLOB
    blob: String,

    /// This snapshot of the source
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    snapshot: Option<SnapshotId>,

    /// Copy only what has changed since the last copy; the copy gets a snapshot of its own
    #[arg(long)]
    incremental: bool,

    /// Return when the copy has begun
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    account: AccountArgs,
}

impl CopyArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let to = blob(&self.blob)?;
        let client = self.account.client(context)?;
        let is_url = ["http://", "https://"].iter().any(|it| self.source.starts_with(it));
        let source = match (is_url, self.incremental, self.snapshot) {
            (true, ..) => SourceUrl::parse("the source", &self.source)
                .map_err(|_| Failure::usage("the source is no valid URL"))?,
            (false, true, Some(snapshot)) => {
                client.incremental_url(&blob(&self.source)?, snapshot)?
            }
            (false, true, None) => {
                return Err(Failure::usage("an incremental copy is of a snapshot: --snapshot"));
            }
            (false, false, snapshot) => client.signed_url(&blob(&self.source)?, snapshot)?,
        };
        let copied = if self.incremental {
            client.incremental_copy(&source, &to)?
        } else {
            client.copy(&source, &to, &Metadata::default(), &BlobWrite::default())?
        };
        if !self.no_wait {
            wait(context, &client, &to, &copied)?;
        }
        show(context, &client, &to, None)
    }
}

/// Waits until a copy has ended, and fails if it has not succeeded. When the command is stopped, the copy continues.
fn wait(context: &Context, client: &Client, to: &BlobPath, copied: &Copied) -> Result<(), Failure> {
    let copy = context.watched(|progress| client.wait_for_copy(to, &context.cancel, progress))?;
    let reason = match copy.status {
        _ if copy.id != copied.id => "another copy to the blob was begun".to_owned(),
        CopyStatus::Success => return Ok(()),
        status => copy.description.unwrap_or_else(|| status.name().to_owned()),
    };
    Err(FaceError::CopyFailed { blob: to.to_string(), reason }.into())
}

/// Make a blob what one of its snapshots is
///
/// What was written after the snapshot is gone, unless a snapshot has it; snapshots stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob promote vms/web01.vhd --snapshot 2026-11-30T01:00:00.0000000Z --account disks")]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    blob: BlobArgs,

    /// The snapshot, by the time that names it
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    snapshot: SnapshotId,
}

impl PromoteArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (client, path) = self.blob.open(context)?;
        let copied = client.promote(&path, self.snapshot, &BlobWrite::default())?;
        wait(context, &client, &path, &copied)?;
        show(context, &client, &path, None)
    }
}
