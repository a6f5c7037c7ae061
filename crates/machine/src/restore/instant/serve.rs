//! The recovery point as exports for the machine.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    sync::Arc,
};

use strongroom_export::{
    BlockCache, DEFAULT_CACHE, Endpoint, Export, Owner, PointDisk, Serving, Shown, serve_disks,
};
use strongroom_format::DiskRecord;

use super::super::{new::Work, place::local};
use crate::{MachineError, error::Result, live::qemu_user};

/// The disks of a point, served to QEMU until it is stopped.
pub(super) struct Served {
    serving: Serving,
    folder: PathBuf,
}

impl Served {
    /// Serves the disks that are restored, at a socket that only QEMU may connect to. One that an earlier attempt
    /// has left is replaced.
    pub(super) fn start(work: &Work<'_>) -> Result<Self> {
        let uuid = work.plan.machine.uuid;
        let folder = work.request.places.run.join(format!("instant-{uuid}"));
        let cache = BlockCache::new(DEFAULT_CACHE);
        let mut exports = Vec::new();
        for disk in &work.plan.disks {
            let record = work.point.disks.iter().find(|record| record.name == disk.name);
            let Some(record) = record else { continue };
            exports.push(export(work, record, &cache)?);
        }
        let qemu = qemu_user(work.connection);
        let failed = |source| local("make the folder", &folder, source);
        fs::create_dir_all(&folder).map_err(failed)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        if let Some((user, group)) = qemu {
            chown(&folder, Some(user), Some(group)).map_err(failed)?;
        }
        let path = folder.join("nbd");
        let owner = qemu.map(|(user, group)| Owner { user, group });
        let at = Endpoint::Socket { path: path.clone(), owner };
        let entropy = &**work.vault.entropy();
        let clock = Arc::clone(&work.connection.settings().clock);
        let serving = serve_disks(exports, at, clock, entropy);
        let serving = serving.map_err(|source| local("listen at", &path, source))?;
        Ok(Self { serving, folder })
    }

    /// Its socket file.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("nbd")
    }

    /// How QEMU names an export.
    pub(super) fn url(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }

    /// Ends it, and removes its files.
    pub(super) fn stop(self) {
        // Nothing was written to it.
        if let Err(error) = self.serving.stop() {
            tracing::debug!(%error, "the export ended with an error");
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, folder = %self.folder.display(), "not removed");
        }
    }
}

fn export(work: &Work<'_>, record: &DiskRecord, cache: &Arc<BlockCache>) -> Result<Export> {
    let disk = PointDisk::cached(work.vault, record, cache);
    let disk = disk.map_err(|error| MachineError::Configuration {
        point: work.point.id.to_string(),
        reason: error.to_string(),
    })?;
    Ok(Export { name: record.name.clone(), disk: Arc::new(Shown::new(Arc::new(disk))) })
}
