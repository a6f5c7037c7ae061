//! `blob upload`, `blob download`: files to page blobs and back.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use strongroom_azure::SnapshotId;
use strongroom_storage_client::transfer::{
    Download, TransferReport, Upload, Work, download, upload,
};

use super::{BlobArgs, blob, metadata, pair, snapshot};
use crate::{
    commands::{service::common::Thing, storage_account::AccountArgs},
    context::Context,
    error::Failure,
    human,
};

/// How many requests there are at once.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ParallelArgs {
    /// How many requests there are at once, 1 to 64; each takes 4 MiB of memory
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
}

impl ParallelArgs {
    /// Carries out work that is shown while it runs.
    pub(crate) fn watched<T>(self, context: &Context, work: impl FnOnce(&Work) -> T) -> T {
        context.watched(|progress| {
            let work_of = Work {
                parallel: usize::from(self.parallel),
                cancel: context.cancel.clone(),
                progress: progress.clone(),
                ..Work::default()
            };
            work(&work_of)
        })
    }
}

/// A transfer, as it is printed.
#[derive(Debug, Serialize)]
struct Transferred {
    blob: String,
    snapshot: Option<String>,
    file: PathBuf,
    #[serde(flatten)]
    report: TransferReport,
}

impl Transferred {
    fn text(&self, verb: &str) -> String {
        let report = &self.report;
        let seconds = std::time::Duration::from_millis(report.duration_ms).as_secs_f64();
        format!(
            "{verb} {}: {}, {} with content, in {}{}\n",
            self.blob,
            human::bytes(report.size),
            human::bytes(report.written_bytes),
            human::seconds(seconds),
            if report.was_continued { ", continuing an earlier one" } else { "" },
        )
    }
}

/// Upload a file or a device to a page blob
///
/// Its length must be a multiple of 512 bytes; holes and zeros are not sent. Every request is checked by a checksum. An
/// upload that was interrupted continues when the command is repeated.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob upload web01.raw vms/web01.vhd --account disks
  strongroom blob upload web01.raw vms/web01.vhd --overwrite --metadata host=kvm7")]
pub(crate) struct UploadArgs {
    /// The file or device
    file: PathBuf,

    /// The blob: CONTAINER/BLOB
    blob: String,

    /// Replace a blob that is there
    #[arg(long)]
    overwrite: bool,

    /// Metadata of the blob; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,

    #[command(flatten)]
    parallel: ParallelArgs,

    #[command(flatten)]
    account: AccountArgs,
}

impl UploadArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let path = blob(&self.blob)?;
        let options = Upload {
            metadata: metadata(&self.metadata)?,
            overwrites: self.overwrite,
            ..Upload::default()
        };
        let client = self.account.client(context)?;
        let report = self
            .parallel
            .watched(context, |work| upload(&client, &self.file, &path, &options, work))?;
        let done = Transferred { blob: path.to_string(), snapshot: None, file: self.file, report };
        context.out.result(&Thing::new(done, |done| done.text("Uploaded")))
    }
}

/// Download a blob or a snapshot to a file
///
/// Only pages with content are read, and the file has holes elsewhere. Until it is whole it has the name FILE.unfinished.
/// A blob that is written meanwhile is an error: take a snapshot first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom blob download vms/web01.vhd web01.raw --account disks
  strongroom blob download vms/web01.vhd web01.raw --snapshot 2026-11-30T01:00:00.0000000Z")]
pub(crate) struct DownloadArgs {
    #[command(flatten)]
    blob: BlobArgs,

    /// The file
    file: PathBuf,

    /// This snapshot of the blob
    #[arg(long, value_name = "TIME", value_parser = snapshot)]
    snapshot: Option<SnapshotId>,

    /// Replace a file that is there
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    parallel: ParallelArgs,
}

impl DownloadArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (client, path) = self.blob.open(context)?;
        let options = Download { snapshot: self.snapshot, overwrites: self.overwrite };
        let report = self
            .parallel
            .watched(context, |work| download(&client, &path, &self.file, &options, work))?;
        let snapshot = self.snapshot.map(|id| id.to_string());
        let done = Transferred { blob: path.to_string(), snapshot, file: self.file, report };
        context.out.result(&Thing::new(done, |done| done.text("Downloaded")))
    }
}
