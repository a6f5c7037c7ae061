//! Disks of a recovery point as exports for QEMU on this host.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_base::{Cancel, Entropy, start_thread};
use strongroom_export::{
    BlockCache, Endpoint, Export, Owner, PointDisk, Serving, Trace, serve_disks,
};
use strongroom_hypervisor::Connection;

use crate::{MachineError, error::Result, live::qemu_user};

/// Disks, served to QEMU until it is stopped.
pub(crate) struct Served {
    serving: Serving,
    folder: PathBuf,
    /// Raised when nobody reads ahead any more.
    ended: Cancel,
}

impl Served {
    /// Serves disks at a socket in a folder that only QEMU and we may enter. A socket that an earlier attempt has
    /// left is replaced.
    pub(crate) fn start(
        connection: &Connection,
        folder: PathBuf,
        exports: Vec<Export>,
        entropy: &dyn Entropy,
    ) -> Result<Self> {
        let qemu = own_folder(connection, &folder)?;
        let path = folder.join("nbd");
        let owner = qemu.map(|(user, group)| Owner { user, group });
        let at = Endpoint::Socket { path: path.clone(), owner };
        let clock = Arc::clone(&connection.settings().clock);
        let serving = serve_disks(exports, at, clock, entropy);
        let serving = serving.map_err(|source| failed("listen at", &path, source))?;
        Ok(Self { serving, folder, ended: Cancel::new() })
    }

    /// Its socket file.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("nbd")
    }

    /// How QEMU names an export.
    pub(crate) fn url(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }

    /// Begins to read the blocks of a trace into memory, before anybody asks for them.
    pub(crate) fn read_first(
        &self,
        trace: Trace,
        disks: Vec<Arc<PointDisk>>,
        cache: Arc<BlockCache>,
    ) {
        let ended = self.ended.clone();
        start_thread("read-first", move || trace.read_first(&disks, &cache, &ended));
    }

    /// Ends it, and removes its folder.
    pub(crate) fn stop(self) {
        self.ended.cancel();
        // Nothing was written to it.
        if let Err(error) = self.serving.stop() {
            tracing::debug!(%error, "the export ended with an error");
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, folder = %self.folder.display(), "not removed");
        }
    }
}

/// Makes a folder, if it is not there, that only QEMU and we may enter. The user that QEMU runs as, if it is another.
pub(crate) fn own_folder(connection: &Connection, folder: &Path) -> Result<Option<(u32, u32)>> {
    let qemu = qemu_user(connection);
    let made = fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
        .and_then(|()| match qemu {
            Some((user, group)) => chown(folder, Some(user), Some(group)),
            None => Ok(()),
        });
    made.map_err(|source| failed("make the folder", folder, source))?;
    Ok(qemu)
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> MachineError {
    MachineError::Local { action, path: path.display().to_string(), source }
}
