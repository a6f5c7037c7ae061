//! Replacing the state of a copy by another one, which lies beside it: a resynchronization ends so.
//!
//! ```text
//!  resync.unfinished  the copy of the old state that the new one begins as
//!  resync.redb       the new state while it is made; its slots are none that the old state uses
//!  resync.journal/   the records that follow it
//!  resync.ready      from when on both count: what is missing of the replacement is done when the copy is opened
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::{
    engine::FolderLock,
    journal::{segments, sync_folder},
    store::{StoreError, file_error},
};

/// The new state.
pub(crate) const NEW: &str = "resync.redb";
const NEW_SUMS: &str = "resync.sums";
const READY: &str = "resync.ready";
/// The folder of its journal.
const NEW_JOURNAL: &str = "resync.journal";

/// The copy that a new state begins as.
pub(crate) const UNFINISHED: &str = "resync.unfinished";

/// Whether a new state is being made.
pub(crate) fn is_unfinished(folder: &Path) -> bool {
    folder.join(NEW).exists()
}

/// Makes an empty folder for the journal of a new state.
pub(crate) fn empty_journal(folder: &Path) -> Result<PathBuf, StoreError> {
    let journal = folder.join(NEW_JOURNAL);
    remove_journal(folder)?;
    let made = fs::DirBuilder::new().mode(0o700).create(&journal);
    made.map_err(file_error(&journal))?;
    sync(folder)?;
    Ok(journal)
}

fn remove_journal(folder: &Path) -> Result<(), StoreError> {
    let journal = folder.join(NEW_JOURNAL);
    match fs::remove_dir_all(&journal) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(&journal)(error)),
        _ => Ok(()),
    }
}

/// Gives an unfinished new state up: its slots are free for the old one.
pub(crate) fn abandon(folder: &Path) -> Result<(), StoreError> {
    if is_unfinished(folder) {
        remove_journal(folder)?;
        remove(&folder.join(NEW_SUMS))?;
        remove(&folder.join(NEW))?;
        sync(folder)?;
    }
    Ok(())
}

/// From now on the new state counts. It must be durable with its slots.
pub(crate) fn mark(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join(READY);
    fs::File::create(&path).and_then(|file| file.sync_all()).map_err(file_error(&path))?;
    sync(folder)
}

/// Puts a new state that counts, and its journal, in the place of the old ones. [`unmark`] ends this.
pub(crate) fn replace(folder: &Path) -> Result<(), StoreError> {
    let journal = folder.join("journal");
    if is_unfinished(folder) {
        // The journal belongs to the old state, and so do the checksums; without them a state has none that are known.
        for (_, path) in segments(&journal).map_err(file_error(&journal))? {
            remove(&path)?;
        }
        sync(&journal)?;
        remove(&folder.join("state.sums"))?;
        rename(&folder.join(NEW), &folder.join("state.redb"))?;
        sync(folder)?;
    }
    if folder.join(NEW_SUMS).exists() {
        rename(&folder.join(NEW_SUMS), &folder.join("state.sums"))?;
    }
    let new_journal = folder.join(NEW_JOURNAL);
    if new_journal.exists() {
        for (_, path) in segments(&new_journal).map_err(file_error(&new_journal))? {
            rename(&path, &journal.join(path.file_name().unwrap_or_default()))?;
        }
        sync(&journal)?;
        remove_journal(folder)?;
    }
    sync(folder)
}

/// The replacement is complete.
pub(crate) fn unmark(folder: &Path) -> Result<(), StoreError> {
    remove(&folder.join(READY))?;
    sync(folder)
}

/// Does what is missing of a replacement before a copy is opened. Nobody else may have it open.
pub(crate) fn recover(folder: &Path) -> Result<(), StoreError> {
    if !folder.join(READY).exists() {
        return remove_unfinished(folder);
    }
    let _lock = FolderLock::take(folder)?;
    replace(folder)?;
    unmark(folder)
}

/// Removes what was left before a new state had its name. Nobody makes one while a copy is opened.
fn remove_unfinished(folder: &Path) -> Result<(), StoreError> {
    remove(&folder.join(UNFINISHED))?;
    if !is_unfinished(folder) {
        remove(&folder.join(NEW_SUMS))?;
        remove_journal(folder)?;
    }
    Ok(())
}

/// Removes all of it from a copy that is made again.
pub(crate) fn clear(folder: &Path) -> Result<(), StoreError> {
    remove(&folder.join(READY))?;
    abandon(folder)?;
    remove_unfinished(folder)
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(file_error(from))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), StoreError> {
    sync_folder(folder).map_err(file_error(folder))
}
