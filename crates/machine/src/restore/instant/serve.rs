//! The recovery point as exports for the machine.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_base::SystemClock;
use strongroom_export::{PointDisk, Shown};
use strongroom_format::DiskRecord;
use strongroom_nbd::server::{
    Exported, Exports,
    listen::{Listener, Server},
};

use super::super::{new::Work, place::local};
use crate::{MachineError, error::Result, live::qemu_user};

/// The disks of a point, served to QEMU until it is stopped.
pub(super) struct Served {
    server: Server,
    folder: PathBuf,
}

impl Served {
    /// Serves the disks that are restored. A socket that an earlier attempt has left is replaced: the lock of the
    /// machine's name is held.
    pub(super) fn start(work: &Work<'_>) -> Result<Self> {
        let uuid = work.plan.machine.uuid;
        let folder = work.request.places.run.join(format!("instant-{uuid}"));
        let mut disks: BTreeMap<String, Arc<dyn Exported>> = BTreeMap::new();
        for disk in &work.plan.disks {
            let record = work.point.disks.iter().find(|record| record.name == disk.name);
            let Some(record) = record else { continue };
            drop(disks.insert(disk.name.clone(), shown(work, record)?));
        }
        let socket = folder.join("nbd");
        let listener = listen(&folder, &socket, qemu_user(work.connection));
        let listener = listener.map_err(|source| local("listen at", &socket, source))?;
        let exports = Arc::new(Disks(disks));
        let server = Server::start(Listener::Unix(listener), exports, Arc::new(SystemClock));
        Ok(Self { server, folder })
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
    pub(super) fn stop(mut self) {
        self.server.stop();
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, folder = %self.folder.display(), "not removed");
        }
    }
}

fn shown(work: &Work<'_>, record: &DiskRecord) -> Result<Arc<dyn Exported>> {
    let disk = PointDisk::new(work.vault, record).map_err(|error| MachineError::Configuration {
        point: work.point.id.to_string(),
        reason: error.to_string(),
    })?;
    Ok(Arc::new(Shown::new(Arc::new(disk))))
}

/// A socket that only QEMU may connect to.
fn listen(folder: &Path, socket: &Path, qemu: Option<(u32, u32)>) -> io::Result<UnixListener> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    if let Some((user, group)) = qemu {
        chown(socket, Some(user), Some(group))?;
        chown(folder, Some(user), Some(group))?;
    }
    Ok(listener)
}

struct Disks(BTreeMap<String, Arc<dyn Exported>>);

impl Exports for Disks {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> std::result::Result<Arc<dyn Exported>, String> {
        self.0.get(name).cloned().ok_or_else(|| format!("there is no disk {name}"))
    }
}
