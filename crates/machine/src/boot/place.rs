//! The files of one boot verification, and those that a killed one has left.
//!
//! `FOLDER/strongroom-boot-UUID/` has the overlays and the firmware's variables, and a file that is locked as long as
//! somebody uses the folder. `RUN/boot-UUID/` has the sockets, whose paths must be short. The state of a TPM is where libvirt
//! looks for it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use strongroom_hypervisor::{Connection, Uuid};

use crate::{MachineError, Places, error::Result, served::own_folder};

const PREFIX: &str = "strongroom-boot-";
const LOCK: &str = "lock";

/// The files of one verification. They go with it.
#[derive(Debug)]
pub(super) struct Place {
    /// For overlays.
    pub(super) folder: PathBuf,
    /// For sockets.
    pub(super) run: PathBuf,
    /// The state of the TPM.
    pub(super) tpm: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes the folders for the machine with this UUID.
    pub(super) fn make(
        connection: &Connection,
        within: &Path,
        places: &Places,
        uuid: Uuid,
    ) -> Result<Self> {
        let folder = within.join(format!("{PREFIX}{uuid}"));
        own_folder(connection, &folder)?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(|source| local("lock", &path, source))?;
        let run = run_of(places, uuid);
        own_folder(connection, &run)?;
        Ok(Self { folder, run, tpm: tpm_of(places, uuid), _lock: lock })
    }

    /// The overlay of a disk.
    pub(super) fn overlay(&self, disk: &str) -> PathBuf {
        self.folder.join(format!("{disk}.qcow2"))
    }

    /// The socket of the console.
    pub(super) fn console(&self) -> PathBuf {
        self.run.join("console")
    }

    /// The variables of the firmware.
    pub(super) fn nvram(&self) -> PathBuf {
        self.folder.join("nvram.fd")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in [&self.run, &self.tpm, &self.folder] {
            remove(path);
        }
    }
}

/// Removes what verifications that were killed have left. libvirt has switched their machines off.
pub(super) fn clean(within: &Path, places: &Places) {
    let Ok(entries) = fs::read_dir(within) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let uuid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<Uuid>().ok());
        let Some(uuid) = uuid else { continue };
        let folder = entry.path();
        // One without a lock has just been made, or is just being removed.
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, folder = %folder.display(), "not looked at");
                continue;
            }
        }
        tracing::info!(folder = %folder.display(), "a killed boot verification has left it; it is removed");
        for path in [run_of(places, uuid), tpm_of(places, uuid), folder] {
            remove(&path);
        }
    }
}

fn run_of(places: &Places, uuid: Uuid) -> PathBuf {
    places.run.join(format!("boot-{uuid}"))
}

fn tpm_of(places: &Places, uuid: Uuid) -> PathBuf {
    places.swtpm.join(uuid.to_string())
}

fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "not removed");
        }
        _ => {}
    }
}

fn local(action: &'static str, path: &Path, source: io::Error) -> MachineError {
    MachineError::Local { action, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_uses_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let places = Places {
            run: dir.path().join("run"),
            swtpm: dir.path().join("swtpm"),
            nvram: dir.path().join("nvram"),
        };
        let within = dir.path().join("work");
        let make = |byte: u8, lock: bool| {
            let uuid = Uuid([byte; 16]);
            let folder = within.join(format!("{PREFIX}{uuid}"));
            for path in [&folder, &run_of(&places, uuid), &tpm_of(&places, uuid)] {
                fs::create_dir_all(path).expect("made");
            }
            let file = lock.then(|| File::create(folder.join(LOCK)).expect("made"));
            (uuid, folder, file)
        };
        let (dead, dead_folder, file) = make(1, true);
        drop(file);
        let (live, live_folder, file) = make(2, true);
        let file = file.expect("a lock");
        file.lock().expect("locked");
        let (_, new_folder, _) = make(3, false);
        let other = within.join("strongroom-boot-photos");
        fs::create_dir(&other).expect("made");
        clean(&within, &places);
        assert!(!dead_folder.exists() && !run_of(&places, dead).exists());
        assert!(!tpm_of(&places, dead).exists());
        assert!(live_folder.exists() && run_of(&places, live).exists());
        assert!(tpm_of(&places, live).exists() && new_folder.exists() && other.exists());
        clean(&dir.path().join("nothing"), &places);
    }
}
