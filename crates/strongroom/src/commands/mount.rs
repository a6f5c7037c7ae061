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
/// until it is stopped (Ctrl-C, SIGTERM, a terminal that closes) and nobody uses the files any more, the folder is
/// unmounted, or the process that started it ends; then the files are gone. A second signal does not wait for those who
/// use the files. Every block is checked against its digest; what cannot be read is an I/O error, never zeros.
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
        end_with_parent(context, &self.folder)?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find_directly(&vault)?;
        let disks = self.read.open(context, &vault, &point)?;
        let file = |name: &str, disk: &Arc<_>| DiskFile {
            name: name.to_owned(),
            disk: Arc::<dyn strongroom_disk::DiskSource>::clone(disk),
        };
        let files = disks.list.iter().map(|(record, disk)| file(&record.name, disk)).collect();
        let time = SystemTime::from(point.time);
        context.stopping.ends_itself();
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
        let stopped = serve(context, &self.folder, mount, || false);
        disks.end()?;
        stopped
    }
}

/// Ends the command with the terminal, and when the process that started it ends: a mount that nobody uses any more would
/// stay for ever.
pub(super) fn end_with_parent(context: &Context, folder: &Path) -> Result<(), Failure> {
    context.stopping.with_terminal();
    let asked = set_parent_process_death_signal(Some(Signal::TERM));
    Ok(asked.map_err(|error| FaceError::Local {
        path: folder.to_owned(),
        action: "watch over",
        source: error.into(),
    })?)
}

/// Waits until the command is to end, the folder is unmounted or nothing more can be read, and unmounts it.
pub(super) fn serve(
    context: &Context,
    folder: &Path,
    mount: Mount,
    is_over: impl Fn() -> bool,
) -> Result<(), Failure> {
    let failed =
        |source| FaceError::Local { path: folder.to_owned(), action: "unmount", source }.into();
    wait(context, || mount.is_gone() || is_over());
    let end = unmount(context, folder, &mount, &is_over);
    if matches!(end, End::Detach) {
        return mount.detach().map_err(failed);
    }
    match mount.stop() {
        // There is nothing left to unmount.
        Err(_) if matches!(end, End::Unmounted) => Ok(()),
        stopped => stopped.map_err(failed),
    }
}

/// How a mount ends.
enum End {
    /// It is unmounted.
    Unmounted,
    /// It is left to the mount itself.
    Stop,
    /// It is not waited for those who use it.
    Detach,
}

/// Unmounts when nobody uses the files any more: their users would lose the disks. It does not wait for them if nothing can
/// be read, or if somebody wants it to end at once.
fn unmount(context: &Context, folder: &Path, mount: &Mount, is_over: impl Fn() -> bool) -> End {
    let mut was_said = false;
    while !mount.is_gone() {
        match mount.try_unmount() {
            Ok(true) => return End::Unmounted,
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(%error, "not unmounted");
                return End::Stop;
            }
        }
        if context.stopping.is_urgent() || is_over() {
            return End::Detach;
        }
        if !was_said {
            let folder = folder.display();
            context.out.say(&format!(
                "{folder} is in use. It is unmounted when it is not; a second signal takes it from its users."
            ));
            was_said = true;
        }
        context.clock.sleep(LOOK);
    }
    End::Unmounted
}

fn show(shown: &Mounted) -> String {
    let rows = shown.files.iter().map(|file| {
        [file.disk.clone(), human::bytes(file.size_bytes), file.path.display().to_string()]
    });
    human::table(["DISK", "SIZE", "FILE"], &[1], rows)
}
