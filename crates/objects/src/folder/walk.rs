//! Listing objects, and sweeping what killed writers have left.
//!
//! This module owns what counts as an object and what as a leftover. It deletes only unfinished files of the store's
//! own.

use std::{
    io::{self, ErrorKind},
    ops::ControlFlow,
};

use jiff::{SignedDuration, Timestamp};
use rustix::fs::{AtFlags, Dir, FileType, Stat};

use super::{Folder, TEMPORARY};
use crate::store::{Entry, Key};

const SWEEP_AGE: SignedDuration = SignedDuration::from_hours(24);

impl Folder {
    /// Visits the objects in the directory `path` and below. Files and directories that vanish
    /// meanwhile are passed over.
    pub(super) fn walk(
        &self,
        path: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let directory = match self.open_directory(&path) {
                Err(error) if gone(&error) && self.is_still_there() => continue,
                other => other?,
            };
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().to_str() else { continue };
                let below =
                    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                let Ok(key) = Key::new(below) else { continue };
                if entry.file_type() == FileType::Directory {
                    waiting.push(key.as_str().to_owned());
                    continue;
                }
                let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                };
                match FileType::from_raw_mode(stat.st_mode) {
                    // Some file systems do not say in the directory what an entry is.
                    FileType::Directory => waiting.push(key.as_str().to_owned()),
                    FileType::RegularFile => {
                        let size = u64::try_from(stat.st_size).unwrap_or(0);
                        let entry = Entry { key, size, modified: modified(&stat) };
                        if visit(entry).is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    _ => {}
                }
            }
        }
        // A folder that was removed under our feet looks empty, which would be a lie.
        if self.is_still_there() {
            Ok(ControlFlow::Continue(()))
        } else {
            Err(ErrorKind::NotFound.into())
        }
    }

    pub(super) fn sweep(&self) -> io::Result<u64> {
        let directory = match self.open_directory(TEMPORARY) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        let now = self.file_system_time()?;
        let mut swept: u64 = 0;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && now.duration_since(modified(&stat)) > SWEEP_AGE {
                rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
                swept = swept.saturating_add(1);
            }
        }
        Ok(swept)
    }

    /// The time as the file system dates a new file.
    fn file_system_time(&self) -> io::Result<Timestamp> {
        let mark = self.write_temporary(b"", false)?;
        let stat = rustix::fs::statat(&self.root, &mark.path, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(modified(&stat))
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn modified(stat: &Stat) -> Timestamp {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}
