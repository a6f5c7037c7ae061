//! One operation at a time on a machine.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use strongroom_base::{Clock as _, SystemClock};
use strongroom_hypervisor::Uuid;

use crate::{MachineError, error::Result};

/// How long the guard of an operation that died may take to clean up before the next one.
const GUARD: Duration = Duration::from_secs(20);

/// Held while something is done with a machine. The kernel lets it go when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    guard: PathBuf,
}

impl Lock {
    /// Takes the lock of a machine, and waits until no guard of an earlier operation is at work.
    pub(crate) fn take(folder: &Path, machine: Uuid, name: &str) -> Result<Self> {
        let failed = |path: &Path, source| MachineError::Local {
            action: "lock",
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        let path = folder.join(format!("{machine}.lock"));
        let open =
            |path: &Path| File::options().create(true).write(true).truncate(false).open(path);
        let file = open(&path).map_err(|source| failed(&path, source))?;
        let busy = |reason: &str| MachineError::Busy {
            machine: name.to_owned(),
            reason: reason.to_owned(),
        };
        if !try_lock(&file).map_err(|source| failed(&path, source))? {
            return Err(busy("another backup or restore of it runs"));
        }
        let guard = folder.join(format!("{machine}.guard"));
        let file_of_guard = open(&guard).map_err(|source| failed(&guard, source))?;
        let deadline = SystemClock.monotonic().saturating_add(GUARD);
        while !try_lock(&file_of_guard).map_err(|source| failed(&guard, source))? {
            if SystemClock.monotonic() >= deadline {
                return Err(busy("an earlier backup died, and its guard still cleans up"));
            }
            SystemClock.sleep(Duration::from_millis(100));
        }
        Ok(Self { _file: file, guard })
    }

    /// Takes the lock of a name that a machine is to get.
    pub(crate) fn take_name(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("restore-{name}.lock"));
        let failed = |source| MachineError::Local {
            action: "lock",
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let file = File::options().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            let (machine, reason) = (name.to_owned(), "another restore of it runs".to_owned());
            return Err(MachineError::Busy { machine, reason });
        }
        Ok(Self { _file: file, guard: path })
    }

    /// The file that the guard holds.
    pub(crate) fn guard_file(&self) -> &Path {
        &self.guard
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
