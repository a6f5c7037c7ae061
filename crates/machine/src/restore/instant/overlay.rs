//! The overlay of a disk: a qcow2 image with what the guest has written since the machine runs.

use std::{fs, io};

use super::super::{image, place::local, plan::PlannedDisk};
use crate::error::Result;

/// Clusters of the size of a recovery point's blocks: the first write to one reads one block of the point.
const CLUSTER: &str = "cluster_size=65536";

/// Makes an empty overlay above an export. One that is there was left before the machine was known to libvirt, so
/// nobody has written to it.
pub(super) fn create(disk: &PlannedDisk, url: &str) -> Result<()> {
    remove(disk)?;
    let options = [CLUSTER.to_owned()];
    image::create(&disk.overlay(), disk.size, &options, Some((url.as_ref(), "raw")))
}

/// Removes it, if it is there.
pub(super) fn remove(disk: &PlannedDisk) -> Result<()> {
    let path = disk.overlay();
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| local("remove", &path, source)),
    }
}

/// Writes what an overlay has to the image of its disk, which has the rest. Nobody may have either open.
///
/// The overlay stays as it is, so that this can be done again.
pub(super) fn commit(disk: &PlannedDisk) -> Result<()> {
    let overlay = disk.overlay();
    let (path, under) = (overlay.display().to_string(), disk.path.display().to_string());
    let format = disk.format.to_string();
    // What is under it has the same content as the export: nothing is compared.
    let rebase = ["rebase", "-u", "-f", "qcow2", "-F", &format, "-b", &under, &path];
    image::qemu_img(&overlay, &rebase.map(str::to_owned))?;
    image::qemu_img(&overlay, &["commit", "-q", "-d", "-f", "qcow2", &path].map(str::to_owned))
}
