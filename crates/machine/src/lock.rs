//! The lock that allows one operation at a time on a machine.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use strongroom_base::Clock;
use strongroom_hypervisor::Domain;

use crate::{MachineError, error::Result};

/// How long the guard of an operation that died may take to clean up before the next one.
const GUARD: Duration = Duration::from_secs(20);

/// Held while something is done with a machine. The kernel lets it go when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    path: PathBuf,
    /// The file of its guard; none if it is the lock of a name.
    guard: Option<PathBuf>,
}

impl Lock {
    /// Takes the lock of a machine, and waits until no guard of an earlier operation is at work.
    pub(crate) fn take(folder: &Path, domain: &Domain, clock: &dyn Clock) -> Result<Self> {
        let machine = domain.uuid;
        let failed = |path: &Path, source| MachineError::Local {
            action: "lock",
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        let path = folder.join(format!("{machine}.lock"));
        let busy = |reason: &str| MachineError::Busy {
            machine: domain.name.clone(),
            reason: reason.to_owned(),
        };
        let Some(file) = lock_file(&path).map_err(|source| failed(&path, source))? else {
            return Err(busy("another backup or restore of it runs"));
        };
        let guard = folder.join(format!("{machine}.guard"));
        let file_of_guard = open(&guard).map_err(|source| failed(&guard, source))?;
        let deadline = clock.monotonic().saturating_add(GUARD);
        while !try_lock(&file_of_guard).map_err(|source| failed(&guard, source))? {
            if clock.monotonic() >= deadline {
                return Err(busy("an earlier backup died, and its guard still cleans up"));
            }
            clock.sleep(Duration::from_millis(100));
        }
        Ok(Self { _file: file, path, guard: Some(guard) })
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
        let Some(file) = lock_file(&path).map_err(failed)? else {
            let (machine, reason) = (name.to_owned(), "another restore of it runs".to_owned());
            return Err(MachineError::Busy { machine, reason });
        };
        Ok(Self { _file: file, path, guard: None })
    }

    /// The file that the guard holds.
    pub(crate) fn guard_file(&self) -> &Path {
        self.guard.as_deref().unwrap_or(&self.path)
    }
}

impl Drop for Lock {
    /// Of a machine with which nothing is done nothing is left. Who has opened a file before it goes
    /// notices that, once it has the lock.
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            // A guard that is still at work holds it.
            let is_free = File::open(guard).is_ok_and(|file| try_lock(&file).unwrap_or(false));
            if is_free {
                fs::remove_file(guard).ok();
            }
        }
        fs::remove_file(&self.path).ok();
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).write(true).truncate(false).open(path)
}

/// Makes a file and locks it; none if another process has the lock.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        if !try_lock(&file)? {
            return Ok(None);
        }
        // Its last holder may have removed it meanwhile.
        if is_at(&file, path) {
            return Ok(Some(file));
        }
    }
}

/// Whether an open file is still the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use strongroom_base::SystemClock;
    use strongroom_hypervisor::Uuid;

    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Domain { name: "web".to_owned(), uuid: Uuid([7; 16]), run: None };
        let take = || Lock::take(folder.path(), &machine, &SystemClock);
        for _ in 0..2 {
            let lock = take().expect("free");
            assert!(matches!(take(), Err(MachineError::Busy { .. })));
            drop(lock);
            assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        }
        let lock = Lock::take_name(folder.path(), "copy").expect("free");
        assert!(matches!(Lock::take_name(folder.path(), "copy"), Err(MachineError::Busy { .. })));
        drop(lock);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
