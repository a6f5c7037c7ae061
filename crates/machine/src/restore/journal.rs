//! The note of an unfinished restore: its files, and the identity of its machine. The restore
//! writes it before anything else and deletes it when the machine is defined. So the same command
//! can continue after any interruption, and never treats another file as its own.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use strongroom_base::PointId;
use strongroom_disk::{make_anew, open_ours};

use super::place::local;
use crate::error::Result;

/// The most bytes of one.
const LONGEST: u64 = 1 << 20;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Version of this structure: 1.
    pub(super) format: u16,
    /// The item.
    pub(super) item: String,
    /// The point.
    pub(super) point: PointId,
    /// The machine's new name.
    pub(super) name: String,
    /// Its identity.
    pub(super) uuid: String,
    /// Files and folders that are made.
    pub(super) files: Vec<PathBuf>,
    /// Whether the restore has paused the machine, which is to run again.
    #[serde(default)]
    pub(super) is_held: bool,
    /// Whether the machine may have run while its disks were restored.
    #[serde(default)]
    pub(super) has_run: bool,
}

/// What kind of restore a note is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The machine starts when its disks are complete.
    Whole,
    /// The machine runs while its disks are restored.
    Instant,
}

impl How {
    /// The other kind.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Whole => Self::Instant,
            Self::Instant => Self::Whole,
        }
    }
}

impl Note {
    /// Where it is, for a machine whose first disk is in this folder.
    pub(super) fn path(folder: &Path, name: &str, how: How) -> PathBuf {
        match how {
            How::Whole => folder.join(format!(".{name}.strongroom-restore")),
            How::Instant => folder.join(format!(".{name}.strongroom-instant")),
        }
    }

    /// That of an earlier restore, if there is one.
    pub(super) fn find(path: &Path) -> Result<Option<Self>> {
        // Another's note would make its files ours.
        let read = || -> io::Result<Vec<u8>> {
            let mut content = Vec::new();
            open_ours(path, false)?.take(LONGEST).read_to_end(&mut content)?;
            Ok(content)
        };
        match read() {
            Ok(content) => serde_json::from_slice(&content)
                .map(Some)
                .map_err(|error| local("read", path, error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(local("read", path, error)),
        }
    }
}

/// A note that is written.
#[derive(Debug)]
pub(super) struct Journal(PathBuf);

impl Journal {
    /// Writes it; the caller holds the lock of the machine's name.
    pub(super) fn write(path: &Path, note: &Note) -> Result<Self> {
        let failed = |source| local("write", path, source);
        let content = serde_json::to_vec_pretty(note).map_err(|error| failed(error.into()))?;
        write_whole(path, &content)?;
        Ok(Self(path.to_owned()))
    }

    /// One that is there.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Writes it again.
    pub(super) fn rewrite(&self, note: &Note) -> Result<()> {
        Self::write(&self.0, note).map(drop)
    }

    /// All is done.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_file(&self.0).map_err(|source| local("remove", &self.0, source))
    }
}

/// Writes a file for its owner alone, so that it is there with all its content or not at all.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    write_at(path, content).map_err(|source| local("write", path, source))
}

/// As [`write_whole`], where the path is not what people know the file by.
pub(super) fn write_at(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = make_anew(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

/// Names of files in the folder of `path` outlive a power failure.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
