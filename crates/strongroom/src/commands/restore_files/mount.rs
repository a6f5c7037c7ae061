//! `restore files mount`: the files of a recovery point as a folder, as long as the command runs.

use std::{path::PathBuf, time::SystemTime};

use clap::Args;
use serde::Serialize;
use strongroom_base::PointId;
use strongroom_export::{FileTree, Mount};

use crate::{
    commands::{
        mount::{end_with_parent, serve},
        service::common::Thing,
    },
    context::Context,
    error::Failure,
    open::open_vault,
};

use super::WhereArgs;

/// Mount the files of a recovery point in an empty folder, to look at and copy from
///
/// The file system is not mounted by the kernel, which could be harmed by it: it is read by the same
/// locked-in process as with the other commands, and the kernel sees names, attributes and bytes only
/// (FUSE). Nothing can be written, run, or used as a device; set-user-id bits do nothing. What cannot be read
/// right is an error, never wrong bytes. Owners and modes are those of the file system: root, and the user who
/// mounts, read everything; with --allow-other, other users what the modes let them.
///
/// The command runs until it is stopped (Ctrl-C, SIGTERM, a terminal that closes) and nobody uses the files any more, the
/// folder is unmounted, or the process that started it ends. A second signal does not wait for those who use the files.
/// If the process that reads ends, so does the mount, with an error. Users other than root need `fusermount3` (package fuse3).
///
/// Works on a vault directly, without a server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files mount --item web01 --recovery-point latest /mnt/web01
  strongroom restore files mount --item web01 --recovery-point yesterday --partition 2 /mnt/web01")]
pub(crate) struct MountArgs {
    /// The folder: it must exist, and be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    #[command(flatten)]
    place: WhereArgs,

    /// Let other users of this host read the files that their modes let them
    #[arg(long)]
    allow_other: bool,
}

/// What is mounted.
#[derive(Debug, Serialize)]
struct Mounted {
    item: String,
    recovery_point: PointId,
    disk: Option<String>,
    partition: Option<u32>,
    volume: Option<String>,
    file_system: Option<String>,
    path: PathBuf,
    notes: Vec<String>,
}

impl MountArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        end_with_parent(context, &self.folder)?;
        self.place.refuse_server(context)?;
        let vault = open_vault(context, &self.place.open, None)?;
        let point = self.place.point.find(&vault)?;
        let (opened, volume) = self.place.opened_volume(context, &vault, &point)?;
        let disk = volume.disk.map(|_| opened.disk(&volume).to_owned());
        let mut reader = opened.into_reader();
        let (root, notes) = reader.open(&volume)?;
        let tree = FileTree::new(reader, root, SystemTime::from(point.time));
        let end = tree.end();
        context.stopping.ends_itself();
        let mount = Mount::start_tree(&self.folder, tree, self.allow_other)?;
        for note in &notes {
            context.out.say(&format!("Note: {note}"));
        }
        let mounted = Mounted {
            item: point.item,
            recovery_point: point.id,
            disk,
            partition: volume.partition,
            volume: volume.logical,
            file_system: volume.file_system,
            path: self.folder.clone(),
            notes,
        };
        context.out.result(&Thing::new(mounted, show))?;
        serve(context, &self.folder, mount, || end.is_there())?;
        // A mount that cannot be read any more has ended, which is no success.
        end.take().map_or(Ok(()), |error| Err(error.into()))
    }
}

fn show(mounted: &Mounted) -> String {
    let kind = mounted.file_system.as_deref().unwrap_or("file system");
    let place = match (&mounted.volume, &mounted.disk, mounted.partition) {
        (Some(volume), ..) => format!("volume {volume}"),
        (None, Some(disk), Some(number)) => format!("disk {disk}, partition {number}"),
        (None, disk, _) => format!("disk {}", disk.as_deref().unwrap_or("?")),
    };
    format!("{place} ({kind}) of {} is mounted at {}\n", mounted.item, mounted.path.display())
}
