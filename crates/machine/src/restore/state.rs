//! The note of a machine whose disks were replaced: where its old ones are, until it is decided
//! which of them stay.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use strongroom_base::PointId;
use strongroom_hypervisor::{DiskChange, Machine, Source, Uuid};

use super::{journal::write_whole, place::local};
use crate::error::Result;

/// How far a replacement has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The machine does not know of it yet.
    Preparing,
    /// The machine has the restored disks.
    Replaced,
    /// They are being written into the old images.
    Accepting,
    /// The machine gets its old ones back.
    Undoing,
}

/// One replaced disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplacedDisk {
    /// Its name in the machine.
    pub(super) name: String,
    /// The old image.
    pub(super) old: PathBuf,
    /// Whether that is a device.
    pub(super) is_device: bool,
    /// Its format.
    pub(super) old_format: String,
    /// Size of the restored disk, bytes.
    pub(super) size: u64,
    /// The new image, which has the old one under it.
    pub(super) overlay: PathBuf,
}

/// A file or folder that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Its path.
    pub(super) path: PathBuf,
    /// Where the old one is; none if there was none.
    pub(super) kept: Option<PathBuf>,
}

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Version of this structure: 1.
    pub(super) format: u16,
    /// The machine's UUID.
    pub(super) uuid: String,
    /// The item.
    pub(super) item: String,
    /// The point.
    pub(super) point: PointId,
    /// How far it has come.
    pub(super) stage: Stage,
    /// Disks.
    pub(super) disks: Vec<ReplacedDisk>,
    /// The firmware's variables.
    pub(super) nvram: Option<Kept>,
    /// The TPM's state.
    pub(super) tpm: Option<Kept>,
}

impl State {
    /// Where the note of a machine is, in this folder.
    pub(super) fn path(folder: &Path, machine: Uuid) -> PathBuf {
        folder.join(format!(".strongroom-replaced-{machine}.json"))
    }

    /// The note of a machine, beside any of its disks.
    pub(super) fn find(machine: &Machine) -> Result<Option<(PathBuf, Self)>> {
        let paths = machine.disks.iter().filter_map(|disk| disk.source.path());
        for folder in paths.filter_map(|path| Path::new(path).parent()) {
            let path = Self::path(folder, machine.uuid);
            match fs::read(&path) {
                Ok(content) => {
                    let state = serde_json::from_slice(&content);
                    let state = state.map_err(|error| local("read", &path, error.into()))?;
                    return Ok(Some((path, state)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(local("read", &path, error)),
            }
        }
        Ok(None)
    }

    /// Writes it.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let content = serde_json::to_vec_pretty(self);
        write_whole(path, &content.map_err(|error| local("write", path, error.into()))?)
    }
}

impl ReplacedDisk {
    /// The machine has the restored disk.
    pub(super) fn to_new(&self) -> DiskChange {
        DiskChange::File {
            path: self.overlay.display().to_string(),
            format: "qcow2".to_owned(),
            encrypted: false,
        }
    }

    /// The machine has the old disk.
    pub(super) fn to_old(&self) -> DiskChange {
        let path = self.old.display().to_string();
        if self.is_device && self.old_format == "raw" {
            return DiskChange::Block { path };
        }
        DiskChange::File { path, format: self.old_format.clone(), encrypted: false }
    }

    /// Whether the machine has the restored disk; none if it has neither.
    pub(super) fn is_in(&self, machine: &Machine) -> Option<bool> {
        let source = &machine.disk(&self.name)?.source;
        let path = match source {
            Source::File { path } | Source::Block { path } => Path::new(path),
            _ => return None,
        };
        if path == self.overlay { Some(true) } else { (path == self.old).then_some(false) }
    }
}
