//! The note of a machine whose disks were replaced: the location of its old disks, until accept or
//! undo.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use strongroom_base::PointId;
use strongroom_disk::open_ours;
use strongroom_hypervisor::{DiskChange, Machine, Uuid};

use super::{journal::write_whole, place::local};
use crate::error::Result;

/// The most bytes of a note.
const LONGEST: u64 = 1 << 20;

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
            // Another's note would make its files ours.
            let read = || -> io::Result<Vec<u8>> {
                let mut content = Vec::new();
                open_ours(&path, false)?.take(LONGEST).read_to_end(&mut content)?;
                Ok(content)
            };
            match read() {
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
        let path = Path::new(machine.disk(&self.name)?.source.path()?);
        if path == self.overlay { Some(true) } else { (path == self.old).then_some(false) }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn machine(folder: &Path) -> Machine {
        let xml = format!(
            "<domain type='kvm'><name>web</name><uuid>8d6fbe7b-7a4e-4bd0-8d6c-53a9b06a5a01</uuid>\
             <memory unit='KiB'>1024</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{}/a.raw'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
            folder.display()
        );
        Machine::parse(&xml).expect("a machine")
    }

    #[test]
    fn a_note_that_somebody_else_may_have_put_there_is_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = machine(folder.path());
        assert_eq!(State::find(&machine).expect("looks"), None);
        let path = State::path(folder.path(), machine.uuid);
        // It would have a file of somebody else's choice overwritten, or deleted.
        let state = State {
            format: 1,
            uuid: machine.uuid.to_string(),
            item: "web".to_owned(),
            point: PointId::from_bytes([1; 16]),
            stage: Stage::Preparing,
            disks: Vec::new(),
            nvram: None,
            tpm: None,
        };
        state.write(&path).expect("writes");
        assert_eq!(State::find(&machine).expect("it is ours"), Some((path.clone(), state)));
        let refused = || {
            let error = State::find(&machine).expect_err("it is refused");
            let cause = std::error::Error::source(&error).expect("a cause").to_string();
            assert!(cause.contains("not left by an earlier run"), "{error}: {cause}");
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("changes");
        refused();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changes");
        let other = folder.path().join("other");
        fs::hard_link(&path, &other).expect("links");
        refused();
        fs::remove_file(&path).expect("removes");
        symlink(&other, &path).expect("links");
        refused();
    }
}
