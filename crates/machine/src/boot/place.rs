//! The files of one boot verification, and those that a killed one has left.
//!
//! `FOLDER/strongroom-boot-UUID/` has the overlays and the firmware's variables. `RUN/boot-UUID/` has the sockets, whose paths
//! must be short, and a file that is locked as long as the verification runs, wherever its folder is. The state of a TPM is
//! where libvirt looks for it.
//!
//! A machine outlives its verification only if libvirt's daemon dies with it; then it is switched off here.

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
        let run = run_of(places, uuid);
        own_folder(connection, &run)?;
        let path = run.join(LOCK);
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(|source| local("lock", &path, source))?;
        let folder = within.join(format!("{PREFIX}{uuid}"));
        own_folder(connection, &folder)?;
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
        // The lock goes last.
        for path in [&self.tpm, &self.folder, &self.run] {
            remove(path);
        }
    }
}

/// Removes what verifications that were killed have left: machines, then files.
pub(super) fn clean(connection: &Connection, within: &Path, places: &Places) -> Result<()> {
    for domain in connection.domains()? {
        let uuid = uuid_of(&domain.name).filter(|uuid| !is_used(places, *uuid));
        if uuid.is_none() {
            continue;
        }
        tracing::warn!(
            machine = domain.name,
            "a killed boot verification has left it; it is switched off"
        );
        match connection.power_off(&domain) {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
    }
    clean_files(within, places);
    Ok(())
}

fn clean_files(within: &Path, places: &Places) {
    let Ok(entries) = fs::read_dir(within) else { return };
    for entry in entries.flatten() {
        let uuid = entry.file_name().to_str().and_then(uuid_of);
        let Some(uuid) = uuid.filter(|uuid| !is_used(places, *uuid)) else { continue };
        let folder = entry.path();
        tracing::info!(folder = %folder.display(), "a killed boot verification has left it; it is removed");
        for path in [tpm_of(places, uuid), folder, run_of(places, uuid)] {
            remove(&path);
        }
    }
}

/// The UUID in the name of a machine or folder of a verification.
fn uuid_of(name: &str) -> Option<Uuid> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether a verification with this UUID runs.
fn is_used(places: &Places, uuid: Uuid) -> bool {
    let lock = File::open(run_of(places, uuid).join(LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
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
        let make = |byte: u8| {
            let uuid = Uuid([byte; 16]);
            let folder = within.join(format!("{PREFIX}{uuid}"));
            for path in [&folder, &run_of(&places, uuid), &tpm_of(&places, uuid)] {
                fs::create_dir_all(path).expect("made");
            }
            let lock = run_of(&places, uuid).join(LOCK);
            (uuid, folder, File::create(lock).expect("made"))
        };
        let (dead, dead_folder, file) = make(1);
        drop(file);
        let (live, live_folder, file) = make(2);
        file.lock().expect("locked");
        let other = within.join("strongroom-boot-photos");
        fs::create_dir(&other).expect("made");
        clean_files(&within, &places);
        assert!(!dead_folder.exists() && !run_of(&places, dead).exists());
        assert!(!tpm_of(&places, dead).exists() && !is_used(&places, dead));
        assert!(live_folder.exists() && run_of(&places, live).exists());
        assert!(tpm_of(&places, live).exists() && is_used(&places, live) && other.exists());
        clean_files(&dir.path().join("nothing"), &places);
    }
}
