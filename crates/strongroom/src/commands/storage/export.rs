//! `storage export`: a page blob as a disk over NBD, as long as the command runs.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgGroup, Args};
use strongroom_storage::{ExportAt, ExportRequest, ExportShown, admin};

use super::{DataArgs, Tls};
use crate::{
    commands::service::common::Thing,
    context::Context,
    error::{FaceError, Failure},
    human,
};

/// Export a page blob, or a snapshot, as a disk over NBD
///
/// Machines and NBD tools use the blob as a disk until the command ends (Ctrl-C, SIGTERM); then what they wrote is stored. A
/// blob that is written is leased, so that nobody else writes it; clients over HTTP read it and take snapshots meanwhile.
/// A write lasts when the flush after it is answered, as on any disk: what a machine has synced is in every later snapshot.
/// `storage serve` must run on the same folder: it does the work.
///
/// With --since, the changes since an earlier snapshot are the dirty bitmap qemu:dirty-bitmap:since.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(["socket", "listen"]), after_help = "\
Examples:
  strongroom storage export disks/vms/web01.vhd --socket /run/web01.sock
  strongroom storage export disks/vms/web01.vhd --socket /tmp/mon.sock \\
    --snapshot 2026-11-30T01:00:00.0000000Z
  strongroom storage export disks/vms/web01.vhd --listen 192.0.2.7:10809 --client-ca clients.pem

A machine uses it as:
  -drive file=nbd+unix:///?socket=/run/web01.sock,format=raw")]
pub(crate) struct ExportArgs {
    /// The blob: ACCOUNT/CONTAINER/BLOB
    #[arg(value_name = "BLOB")]
    blob: String,

    #[command(flatten)]
    data: DataArgs,

    /// Listen on this socket file, which is made; only the user of the server may connect
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Listen on this address and port, encrypted; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// File with the certificates (PEM) of those who vouch for clients; others cannot connect to --listen
    #[arg(long, value_name = "FILE", requires = "listen")]
    client_ca: Option<PathBuf>,

    /// Whether connections to --listen are encrypted; off only on a loopback address
    #[arg(long, value_enum, default_value = "on", requires = "listen")]
    tls: Tls,

    /// Export this snapshot, by the time that names it; it is only read
    #[arg(long, value_name = "TIME")]
    snapshot: Option<String>,

    /// Show the changes since this snapshot as a dirty bitmap
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only read the blob; it is not leased
    #[arg(long)]
    read_only: bool,

    /// Id of a lease that you have on the blob, instead of a lease of the export's own
    #[arg(long, value_name = "ID", conflicts_with_all = ["read_only", "snapshot"])]
    lease: Option<String>,
}

impl ExportArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let at = self.at()?;
        let request = ExportRequest {
            blob: self.blob,
            snapshot: self.snapshot,
            since: self.since,
            read_only: self.read_only,
            lease: self.lease,
            at,
        };
        let export = admin::export(&self.data.folder()?, &request)?;
        let shown = export.shown.clone();
        context.out.result(&Thing::new(shown, |shown| human::facts(&facts(shown))))?;
        Ok(export.wait(&context.cancel)?)
    }

    fn at(&self) -> Result<ExportAt, Failure> {
        let absolute = |path: &PathBuf| {
            let find = |source| FaceError::Local { path: path.clone(), action: "find", source };
            std::path::absolute(path).map_err(find)
        };
        match (&self.socket, self.listen, &self.client_ca) {
            (Some(socket), _, _) => Ok(ExportAt::Socket(absolute(socket)?)),
            (None, Some(address), None) if self.tls == Tls::Off => Ok(ExportAt::Clear(address)),
            (None, Some(address), Some(file)) if self.tls == Tls::On => {
                Ok(ExportAt::Tls { address, authorities: absolute(file)? })
            }
            (None, Some(_), Some(_)) => {
                Err(Failure::usage("without TLS no client can show a certificate"))
            }
            (None, Some(_), None) => Err(Failure::usage(
                "whoever can connect could read and write the disk: say with --client-ca whose clients may",
            )),
            // Prevented by the group of arguments.
            (None, None, _) => Err(Failure::usage("say where to listen: --socket or --listen")),
        }
    }
}

fn facts(shown: &ExportShown) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("NBD URL", shown.url.clone()),
        ("Blob", shown.blob.clone()),
        ("Size", human::bytes(shown.size_bytes)),
        ("Access", if shown.read_only { "read" } else { "read and write" }.to_owned()),
    ];
    facts.extend(shown.snapshot.iter().map(|it| ("Snapshot", it.clone())));
    facts.extend(shown.dirty_bitmap.iter().map(|it| ("Dirty bitmap", it.clone())));
    facts
}
