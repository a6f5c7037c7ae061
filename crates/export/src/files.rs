//! The files of a recovery point: its disks given to the process that reads file systems.
//!
//! Which volume somebody means, and what it is called, is decided here, so that all who read files say the same.

use std::{io, sync::Arc};

use strongroom_base::Coded;
use strongroom_disk::{DiskError, DiskSource as _};
use strongroom_files::{
    FaultKind, FileReader, FilesError, Limits, Machine, NamedDisk, ReadAt, ReadFailure,
    ReaderCommand, Secret, Volume,
};
use strongroom_format::Manifest;
use strongroom_vault::Vault;

use crate::point_disk::PointDisk;

/// A disk of a recovery point, for those who read files.
struct Bytes(PointDisk);

impl ReadAt for Bytes {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        match offset.checked_add(len) {
            Some(end) if end <= self.0.size() => {
                // The code of the cause stays that of the error.
                let failure = |error: DiskError| {
                    io::Error::other(ReadFailure { code: error.code(), cause: Box::new(error) })
                };
                self.0.read_at(offset, buf).map_err(failure)
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A recovery point whose files can be read. The thread that opens it must live as long as it does.
pub struct PointFiles {
    reader: FileReader,
    /// Names of the disks, as volumes count them.
    disks: Vec<String>,
    volumes: Vec<Volume>,
    /// Whether it was given secrets.
    is_unlocked: bool,
}

impl PointFiles {
    /// Starts the process for the disks of a point, or for one of them, and looks what is on them.
    pub fn open(
        vault: &Arc<Vault>,
        point: &Manifest,
        disk: Option<&str>,
        command: &ReaderCommand,
        limits: Limits,
    ) -> Result<Self, FilesError> {
        let (reader, disks) = Self::start(vault, point, disk, command, limits)?;
        Self::survey(reader, disks)
    }

    /// Starts the process, which has looked at nothing yet. It, and the names of the disks that it has.
    pub fn start(
        vault: &Arc<Vault>,
        point: &Manifest,
        disk: Option<&str>,
        command: &ReaderCommand,
        limits: Limits,
    ) -> Result<(FileReader, Vec<String>), FilesError> {
        let (disks, names) = named(vault, point, disk)?;
        Ok((FileReader::start(command, disks, limits)?, names))
    }

    /// Starts a machine for the disks of a point, or for one of them, and looks what is on them.
    pub fn open_in_machine(
        vault: &Arc<Vault>,
        point: &Manifest,
        disk: Option<&str>,
        machine: &Machine,
    ) -> Result<Self, FilesError> {
        let (disks, names) = named(vault, point, disk)?;
        Self::survey(FileReader::start_machine(machine, &disks)?, names)
    }

    /// Looks what is on the disks of a process that was started.
    pub fn survey(mut reader: FileReader, disks: Vec<String>) -> Result<Self, FilesError> {
        let volumes = reader.survey()?;
        Ok(Self { reader, disks, volumes, is_unlocked: false })
    }

    /// Opens encrypted volumes (LUKS) by these secrets, and looks again what is on the disks. What is listed after that is
    /// kept nowhere: who has the vault's key has not these secrets.
    pub fn unlock(
        &mut self,
        command: &ReaderCommand,
        secrets: Vec<Secret>,
        limits: Limits,
    ) -> Result<(), FilesError> {
        self.reader.unlock(command, secrets, limits)?;
        self.is_unlocked = true;
        self.volumes = self.reader.survey()?;
        Ok(())
    }

    /// Whether it was given secrets.
    pub(crate) const fn is_unlocked(&self) -> bool {
        self.is_unlocked
    }

    /// Whether a machine reads.
    pub(crate) const fn is_machine(&self) -> bool {
        self.reader.is_machine()
    }

    /// The process that reads, by itself.
    pub fn into_reader(self) -> FileReader {
        self.reader
    }

    /// The process that reads.
    pub fn reader(&mut self) -> &mut FileReader {
        &mut self.reader
    }

    /// What is on the disks.
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// The name of a volume's disk.
    pub fn disk(&self, volume: &Volume) -> &str {
        let index = volume.disk.and_then(|disk| usize::try_from(disk).ok());
        index.and_then(|index| self.disks.get(index)).map_or("", String::as_str)
    }

    /// Whether the process has the disk of this name.
    pub(crate) fn has(&self, disk: &str) -> bool {
        self.disks.iter().any(|name| name == disk)
    }

    /// What people call a volume.
    pub fn place(&self, volume: &Volume) -> String {
        match (volume.partition, &volume.logical) {
            (_, Some(name)) => format!("volume {name}"),
            (Some(number), None) => format!("disk {}, partition {number}", self.disk(volume)),
            (None, None) => format!("disk {}", self.disk(volume)),
        }
    }

    /// The one volume that is meant. If it cannot be known, or not be read, because the disk cannot be read, that is
    /// the error.
    pub fn choose(
        &mut self,
        partition: Option<u32>,
        logical: Option<&str>,
    ) -> Result<Volume, FilesError> {
        let missed = self.reader.missed();
        let named = |volume: &&Volume| {
            (partition.is_none() || volume.partition == partition)
                && (logical.is_none() || volume.logical.as_deref() == logical)
        };
        let named: Vec<&Volume> = self.volumes.iter().filter(named).collect();
        let may_be =
            |volume: &&Volume| volume.refusal.is_none() || (missed.is_some() && is_unread(volume));
        let candidates: Vec<&Volume> = named.iter().copied().filter(may_be).collect();
        let list = |volumes: &[&Volume]| {
            let names: Vec<String> = volumes.iter().map(|volume| self.place(volume)).collect();
            names.join("; ")
        };
        match (candidates.as_slice(), named.as_slice(), missed) {
            ([one], _, Some(error)) if is_unread(one) => Err(error),
            ([one], _, _) => Ok((*one).clone()),
            ([], [one], _) => {
                let reason = one.refusal.as_ref().map(ToString::to_string).unwrap_or_default();
                let kind = one.file_system.as_deref().unwrap_or("unknown");
                let reason = format!("{kind}: {reason}");
                Err(FilesError::Unsupported { path: self.place(one), reason })
            }
            // It may lie where the disk cannot be read.
            ([], _, Some(error)) => Err(error),
            ([], [], None) => {
                let reason = format!("there is no such partition; there are: {}", {
                    list(&self.volumes.iter().collect::<Vec<_>>())
                });
                Err(FilesError::Volume { reason })
            }
            ([], _, None) => {
                let reason = format!("none of these can be read: {}", list(&named));
                Err(FilesError::Volume { reason })
            }
            (several, _, _) => {
                let reason = format!(
                    "several file systems are there; name one by --disk, --partition or --volume: {}",
                    list(several)
                );
                Err(FilesError::Volume { reason })
            }
        }
    }
}

/// The disks of a point, or the named one, and their names.
fn named(
    vault: &Arc<Vault>,
    point: &Manifest,
    disk: Option<&str>,
) -> Result<(Vec<NamedDisk>, Vec<String>), FilesError> {
    let wanted = |name: &str| disk.is_none_or(|disk| disk == name);
    let records: Vec<_> = point.disks.iter().filter(|it| wanted(&it.name)).collect();
    if records.is_empty() {
        let names: Vec<&str> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
        let reason = match disk {
            Some(disk) => format!("there is no disk {disk}; there are {}", names.join(", ")),
            None => "the recovery point has no disks".to_owned(),
        };
        return Err(FilesError::Volume { reason });
    }
    let mut disks = Vec::new();
    for record in &records {
        let bytes = PointDisk::new(vault, record).map_err(|error| {
            let reason = format!("its recorded size: {error}");
            FilesError::Unsupported { path: format!("disk {}", record.name), reason }
        })?;
        disks.push(NamedDisk { name: record.name.clone(), bytes: Arc::new(Bytes(bytes)) });
    }
    Ok((disks, records.iter().map(|record| record.name.clone()).collect()))
}

/// Whether what is on it is not known, as the disk cannot be read there.
pub fn is_unread(volume: &Volume) -> bool {
    volume.refusal.as_ref().is_some_and(|fault| fault.kind == FaultKind::Disk)
}
