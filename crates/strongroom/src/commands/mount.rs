//! `mount`: recovery points as files of this host, as long as the command runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;
use strongroom_base::{Clock as _, PointId};
use strongroom_export::{DiskFile, Mount};

use super::{
    export::{ReadArgs, wait},
    recoverypoint::PointArgs,
    service::common::Thing,
};
use crate::{
    args::OpenArgs,
    context::Context,
    error::{FaceError, Failure},
    human,
    open::open_vault,
};

/// How often it is looked whether the files are in use.
const LOOK: Duration = Duration::from_millis(200);

/// `mount ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum MountCommand {
    Disks(Box<DisksArgs>),
}

impl MountCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Disks(args) => args.run(context),
        }
    }
}

/// Mount the disks of a recovery point as files in an empty folder
///
/// Each disk is a file NAME.raw that can only be read, straight from the vault; nothing is restored. The command runs
/// until it is stopped (Ctrl-C, SIGTERM) and nobody uses the files any more, the folder is unmounted, or the process that started it ends; then the files are
/// gone. Every block is checked against its digest; what cannot be read is an I/O error, never zeros.
///
/// The superuser needs nothing else; other users need `fusermount3` (package fuse3).
/// Works on a vault directly, without a server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom mount disks --item web01 --recovery-point latest /mnt/web01
  strongroom mount disks --item web01 --recovery-point yesterday --disk vda /mnt/web01")]
pub(crate) struct DisksArgs {
    /// The folder: it must exist, and be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    #[command(flatten)]
    point: PointArgs,

    #[command(flatten)]
    read: ReadArgs,

    /// Let other users of this host read the files
    #[arg(long)]
    allow_other: bool,

    #[command(flatten)]
    open: OpenArgs,
}

/// What is mounted.
#[derive(Debug, Serialize)]
struct Mounted {
    item: String,
    recovery_point: PointId,
    files: Vec<MountedFile>,
}

#[derive(Debug, Serialize)]
struct MountedFile {
    disk: String,
    path: PathBuf,
    size_bytes: u64,
}

impl DisksArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        end_with_parent(&self.folder)?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find_directly(&vault)?;
        let disks = self.read.open(context, &vault, &point)?;
        let file = |name: &str, disk: &Arc<_>| DiskFile {
            name: name.to_owned(),
            disk: Arc::<dyn strongroom_disk::DiskSource>::clone(disk),
        };
        let files = disks.list.iter().map(|(record, disk)| file(&record.name, disk)).collect();
        let time = SystemTime::from(point.time);
        let mount = Mount::start(&self.folder, files, time, self.allow_other)?;
        let shown = Mounted {
            item: point.item.clone(),
            recovery_point: point.id,
            files: disks
                .list
                .iter()
                .map(|(record, _)| MountedFile {
                    disk: record.name.clone(),
                    path: self.folder.join(format!("{}.raw", record.name)),
                    size_bytes: record.size_bytes,
                })
                .collect(),
        };
        context.out.result(&Thing::new(shown, show))?;
        let stopped = serve(context, &self.folder, mount);
        disks.end()?;
        stopped
    }
}

/// Ends the command when the process that started it ends: a mount that nobody uses any more would stay for ever.
pub(super) fn end_with_parent(folder: &Path) -> Result<(), Failure> {
    let asked = set_parent_process_death_signal(Some(Signal::TERM));
    Ok(asked.map_err(|error| FaceError::Local {
        path: folder.to_owned(),
        action: "watch over",
        source: error.into(),
    })?)
}

/// Waits until the command is to end or the folder is unmounted, and unmounts it.
pub(super) fn serve(context: &Context, folder: &Path, mount: Mount) -> Result<(), Failure> {
    wait(context, || mount.is_gone());
    let is_gone = unmount(context, folder, &mount);
    match mount.stop() {
        // There is nothing left to unmount.
        Err(_) if is_gone => Ok(()),
        stopped => Ok(stopped.map_err(|source| FaceError::Local {
            path: folder.to_owned(),
            action: "unmount",
            source,
        })?),
    }
}

/// Unmounts when nobody uses the files any more: their users would lose the disks. Whether it is unmounted.
fn unmount(context: &Context, folder: &Path, mount: &Mount) -> bool {
    let mut was_said = false;
    while !mount.is_gone() {
        match mount.try_unmount() {
            Ok(true) => return true,
            Ok(false) => {}
            // Then it is left to the mount itself.
            Err(error) => {
                tracing::debug!(%error, "not unmounted");
                return false;
            }
        }
        if !was_said {
            let folder = folder.display();
            context.out.say(&format!("{folder} is in use. It is unmounted when it is not."));
            was_said = true;
        }
        context.clock.sleep(LOOK);
    }
    true
}

fn show(shown: &Mounted) -> String {
    let rows = shown.files.iter().map(|file| {
        [file.disk.clone(), human::bytes(file.size_bytes), file.path.display().to_string()]
    });
    human::table(["DISK", "SIZE", "FILE"], &[1], rows)
}
