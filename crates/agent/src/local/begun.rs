//! Notes of started machine restores. With its note, a restore that was killed after its last step, before it
//! reported success, is recognised as done when the order is repeated.
//!
//! The note is written when it is sure that the order is the first to make what it makes: there is no
//! machine of that name, or none of its disks is replaced. If the order is given again, and that is
//! there now, then the order itself has made it. The note is removed when the order fails; that of
//! one that is done is of no use after some days. It survives a start of the host and a power failure, as
//! what was made does.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use strongroom_api::ErrorBody;
use strongroom_base::{Clock, JobId, message};
use strongroom_disk::make_anew;
use strongroom_orders::Result;

/// How long notes are kept.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The note of an order.
pub(super) struct Begun {
    path: PathBuf,
    /// Whether it was there already.
    pub(super) again: bool,
}

impl Begun {
    /// The note of a job's restore.
    pub(super) fn of(notes: &Path, job: JobId) -> Self {
        let path = notes.join(job.to_string());
        Self { again: path.exists(), path }
    }

    /// Notes that it is begun.
    pub(super) fn write(&self, clock: &dyn Clock) -> Result<()> {
        let write = || -> io::Result<()> {
            if let Some(folder) = self.path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                remove_old(folder, clock.now())?;
            }
            let folder = self.path.parent().unwrap_or(Path::new("/"));
            make_anew(&self.path)?.sync_all()?;
            // What follows must not be there after a power failure without it.
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|error| {
            let message = message!(LOCAL_IO, "cannot write {path}", path = self.path);
            let mut body = ErrorBody::from(message);
            body.causes.push(error.to_string());
            Box::new(body)
        })
    }

    /// Forgets it: it has failed.
    pub(super) fn forget(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "not removed");
            }
            _ => {}
        }
    }
}

fn remove_old(folder: &Path, now: Timestamp) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let written = entry.metadata().and_then(|data| data.modified()).map(Timestamp::try_from);
        if matches!(written, Ok(Ok(written)) if now.duration_since(written) > KEPT) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use strongroom_base::SystemClock;

    use super::*;

    /// The machine's clock, this many days later.
    struct Later(i64);

    impl Clock for Later {
        fn now(&self) -> Timestamp {
            SystemClock.now() + SignedDuration::from_hours(24 * self.0)
        }

        fn monotonic(&self) -> Duration {
            SystemClock.monotonic()
        }

        fn sleep(&self, _: Duration) {}
    }

    #[test]
    fn a_note_is_kept_for_a_week() {
        let run = tempfile::tempdir().expect("a folder");
        let of = |byte| Begun::of(run.path(), JobId::from_bytes([byte; 16]));
        of(1).write(&SystemClock).expect("written");
        of(2).write(&Later(6)).expect("written");
        assert!(of(1).again);
        of(3).write(&Later(8)).expect("written");
        assert!(!of(1).again && !of(2).again && of(3).again);
    }

    #[test]
    fn a_note_is_found_again() {
        let run = tempfile::tempdir().expect("a folder");
        let job = JobId::from_bytes([7; 16]);
        let first = Begun::of(run.path(), job);
        assert!(!first.again);
        first.write(&SystemClock).expect("written");
        assert!(Begun::of(run.path(), job).again);
        Begun::of(run.path(), JobId::from_bytes([8; 16])).write(&SystemClock).expect("written");
        first.forget();
        first.forget();
        assert!(!Begun::of(run.path(), job).again);
    }
}
