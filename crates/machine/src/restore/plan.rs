//! The plan of a restore of a machine, made before anything is written.
//!
//! Owns every decision of a restore: which disks, where they go, the new description, and what cannot be
//! as it was (the notes). It reads the point, the host and the files that exist, and refuses conflicts and
//! a lack of room.
//!
//! Must not write a file or define a machine: [`Plan`] is carried out elsewhere, and `--dry-run` only shows it.
//!
//! Invariants: a file of the plan either does not exist, or the journal of an earlier attempt at the same
//! restore names it. A continued attempt keeps the UUID of that journal.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_disk::ImageFormat;
use strongroom_engine::{EngineError, data_bytes};
use strongroom_format::{DiskRecord, Manifest};
use strongroom_hypervisor::{
    BackupKind, Changes, Connection, Device, Disk, DiskChange, MacChange, Machine, SecretRef,
    SkipReason, Source, TpmBackend, Uuid,
};
use strongroom_reports::LeftBehind;
use strongroom_vault::Vault;

use super::{
    ciphertext::{Container, container},
    encrypted::{self, Key},
    host, image,
    journal::{How, Note},
    place::{self, check_room, local},
    request::{Identity, MachineRestore, Power},
};
use crate::{Configuration, MachineError, SavedSecret, error::Result};

/// One disk.
#[derive(Clone)]
pub(super) struct PlannedDisk {
    /// Its name in the machine and in the point.
    pub(super) name: String,
    /// Size, bytes.
    pub(super) size: u64,
    /// Bytes that are not zeros.
    pub(super) data: u64,
    /// Its format.
    pub(super) format: ImageFormat,
    /// Where it will be.
    pub(super) path: PathBuf,
    /// How its image is made.
    pub(super) options: Vec<String>,
    /// What it is encrypted with.
    pub(super) key: Option<Key>,
    /// If the point has it as the encrypted image that it was, which comes back as it is.
    pub(super) container: Option<Container>,
}

impl PlannedDisk {
    /// The format in which its bytes are written.
    pub(super) fn written_as(&self) -> ImageFormat {
        if self.container.is_some() { ImageFormat::Raw } else { self.format }
    }

    /// Whether its image is encrypted.
    pub(super) const fn is_encrypted(&self) -> bool {
        self.key.is_some() || self.container.is_some()
    }

    /// Where it is until it is complete.
    pub(super) fn partial(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".partial");
        PathBuf::from(name)
    }

    /// What the machine writes to until its disk is complete, if it runs before.
    pub(super) fn overlay(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".overlay");
        PathBuf::from(name)
    }
}

/// A machine as it will be.
pub(super) struct Plan {
    /// The description that libvirt gets.
    pub(super) xml: String,
    /// The same, read.
    pub(super) machine: Machine,
    /// Its disks.
    pub(super) disks: Vec<PlannedDisk>,
    /// Firmware variables.
    pub(super) nvram: Option<PathBuf>,
    /// State of the TPM.
    pub(super) tpm: Option<PathBuf>,
    /// Secrets that the host gets.
    pub(super) secrets: Vec<SavedSecret>,
    /// What is no more.
    pub(super) left_behind: Vec<LeftBehind>,
    /// For people.
    pub(super) notes: Vec<String>,
    /// Where the journal is, and what it says.
    pub(super) journal: (PathBuf, Note),
    /// Whether an earlier attempt has defined the machine.
    pub(super) is_defined: bool,
    /// Whether it starts with the host.
    pub(super) autostart: bool,
}

/// What plans are made from.
pub(super) struct Maker<'a> {
    pub(super) vault: &'a Arc<Vault>,
    pub(super) connection: &'a Connection,
    pub(super) point: &'a Manifest,
    pub(super) configuration: &'a Configuration,
    pub(super) request: &'a MachineRestore,
    /// The machine as it was.
    pub(super) old: &'a Machine,
    /// Whether it runs meanwhile.
    pub(super) how: How,
}

impl Maker<'_> {
    /// Makes the plan of a new machine.
    pub(super) fn make(&self, name: &str) -> Result<Plan> {
        let (mut left_behind, mut notes) = (Vec::new(), Vec::new());
        let chosen = self.chosen()?;
        let mut changes = self.changes(name);
        let names: Vec<&str> = chosen.iter().map(|(record, _)| record.name.as_str()).collect();
        changes.disks = unchosen(self.old, self.point, &names, &mut left_behind);
        let disks = self.disks(&chosen, name)?;
        for disk in &disks {
            let change = DiskChange::File {
                path: disk.path.display().to_string(),
                format: disk.format.to_string(),
                encrypted: disk.is_encrypted(),
            };
            changes.disks.insert(disk.name.clone(), change);
        }
        let first = disks.first().and_then(|disk| disk.path.parent()).unwrap_or(Path::new("/"));
        let journal = Note::path(first, name, self.how);
        let earlier = self.earlier(&journal, name)?;
        self.check_kind(first, name)?;
        let uuid = match (&earlier, self.request.identity) {
            (Some(note), _) => parse_uuid(&note.uuid, name)?,
            (None, Identity::New) => Uuid::random(&**self.vault.entropy()),
            (None, Identity::Same) => self.old.uuid,
        };
        changes.uuid = Some(uuid);
        let nvram = self.nvram(first, name, &mut changes, &mut notes);
        let tpm = self.tpm(uuid, &mut notes)?;
        let xml =
            Machine::rewrite(&self.configuration.inactive, &changes, &**self.vault.entropy())?;
        let machine = Machine::parse(&xml)?;
        let secrets = self.secrets(&mut notes)?;
        let brought: Vec<String> = secrets.iter().map(|one| one.uuid.to_string()).collect();
        let later = self.opened_later(&disks, &mut notes);
        notes.extend(host::check(self.connection, &machine, &brought, &later)?);
        self.other_notes(&machine, &mut notes);
        let is_defined = self.check_conflicts(&machine, earlier.as_ref(), &mut notes)?;
        let mut files: Vec<PathBuf> =
            disks.iter().flat_map(|disk| [disk.path.clone(), disk.partial()]).collect();
        if self.how == How::Instant {
            self.check_instant(&disks)?;
            files.extend(disks.iter().map(PlannedDisk::overlay));
        }
        files.extend(nvram.clone());
        files.extend(tpm.clone());
        check_free(&files, earlier.as_ref(), name)?;
        if let Some(note) = earlier.as_ref().filter(|note| note.has_run && !is_defined) {
            return Err(removed(note, &journal, name));
        }
        if !is_defined {
            check_room(&room(&disks)?, name)?;
        }
        let note = Note {
            format: 1,
            item: self.point.item.clone(),
            point: self.point.id,
            name: name.to_owned(),
            uuid: uuid.to_string(),
            files,
            is_held: earlier.as_ref().is_some_and(|note| note.is_held),
            has_run: earlier.is_some_and(|note| note.has_run),
        };
        let as_before = self.request.identity == Identity::Same;
        let autostart = as_before && self.configuration.record.autostart;
        let autostart = self.request.autostart.unwrap_or(autostart);
        Ok(Plan {
            xml,
            machine,
            disks,
            nvram,
            tpm,
            secrets,
            left_behind,
            notes,
            journal: (journal, note),
            is_defined,
            autostart,
        })
    }

    /// The disks of the point that are restored, each with the machine's description of it.
    pub(super) fn chosen(&self) -> Result<Vec<(&DiskRecord, &Disk)>> {
        let wanted = &self.request.disks;
        for name in wanted {
            if !self.point.disks.iter().any(|disk| disk.name == *name) {
                let (point, name) = (self.point.id, name.clone());
                return Err(EngineError::NoSuchDisk { point, name }.into());
            }
        }
        let chosen =
            self.point.disks.iter().filter(|disk| wanted.is_empty() || wanted.contains(&disk.name));
        chosen
            .map(|record| match self.old.disk(&record.name) {
                Some(disk) => Ok((record, disk)),
                None => Err(MachineError::Configuration {
                    point: self.point.id.to_string(),
                    reason: format!("its description of the machine has no disk {}", record.name),
                }),
            })
            .collect()
    }

    fn changes(&self, name: &str) -> Changes {
        let request = self.request;
        let is_new = request.identity == Identity::New;
        Changes {
            name: Some(name.to_owned()),
            macs: if is_new { MacChange::All } else { MacChange::Keep },
            // Also one that takes the place of its original was set back.
            new_generation: true,
            networks: request.networks.clone(),
            links_down: request.links_down,
            own_terminals: is_new.then(|| name.to_owned()),
            machine_type: request.machine_type.clone(),
            cpu: request.cpu.as_ref().map(|mode| format!("<cpu mode='{mode}'/>")),
            forget_run: true,
            ..Changes::default()
        }
    }

    /// Where disks go, and how they are made.
    fn disks(&self, chosen: &[(&DiskRecord, &Disk)], name: &str) -> Result<Vec<PlannedDisk>> {
        for placement in &self.request.storage {
            if let Some(disk) = &placement.disk
                && !chosen.iter().any(|(record, _)| record.name == *disk)
            {
                let (point, name) = (self.point.id, disk.clone());
                return Err(EngineError::NoSuchDisk { point, name }.into());
            }
        }
        let plan = |(record, disk): &(&DiskRecord, &Disk)| {
            let folder =
                place::folder_of(self.connection, self.request, &record.name, &disk.source, name)?;
            let was = disk.driver.format.as_deref().unwrap_or("raw");
            // Formats that QEMU only reads well become the one that it writes best.
            let was = if was == "raw" { ImageFormat::Raw } else { ImageFormat::Qcow2 };
            let format = self.request.format.unwrap_or(was);
            let identity = self.configuration.disk(&record.name);
            let container = container(self.configuration, &record.name);
            if container.is_some() && format != was {
                return Err(self.not_converted(&record.name, was));
            }
            Ok(PlannedDisk {
                name: record.name.clone(),
                size: record.size_bytes,
                data: data_bytes(self.vault, record)?,
                format,
                path: folder.join(format!("{name}-{}.{format}", record.name)),
                options: image::options_of(identity.and_then(|identity| identity.image.as_ref())),
                key: if container.is_some() { None } else { self.key(disk)? },
                container,
            })
        };
        let disks: Vec<PlannedDisk> = chosen.iter().map(plan).collect::<Result<_>>()?;
        Ok(disks)
    }

    fn not_converted(&self, disk: &str, format: ImageFormat) -> MachineError {
        MachineError::Unsupported {
            machine: self.old.name.clone(),
            reason: format!(
                "disk {disk} was kept as ciphertext, which stays {format}: leave out --format"
            ),
        }
    }

    /// Disks that were kept as ciphertext need no key to be restored: the secrets that have to be
    /// there before the machine is started.
    fn opened_later(&self, disks: &[PlannedDisk], notes: &mut Vec<String>) -> Vec<SecretRef> {
        let mut later = Vec::new();
        for disk in disks.iter().filter(|disk| disk.container.is_some()) {
            notes.push(format!(
                "disk {} is the encrypted image that was backed up: its old passphrase opens it",
                disk.name
            ));
            let described = self.old.disk(&disk.name).and_then(|disk| disk.encryption.as_ref());
            later.extend(described.and_then(|encryption| encryption.secret.clone()));
        }
        // A machine that is to be started needs them now.
        if self.request.power == Power::Off { later } else { Vec::new() }
    }

    /// The passphrase of an encrypted disk.
    fn key(&self, disk: &Disk) -> Result<Option<Key>> {
        let Some(encryption) = &disk.encryption else { return Ok(None) };
        let may_bring = self.request.with_secrets;
        let key = encrypted::key(self.connection, self.configuration, encryption, may_bring);
        key.map(Some).map_err(|reason| MachineError::HostLacks {
            host: self.connection.hostname().unwrap_or_else(|_| "the host".to_owned()),
            machine: self.old.name.clone(),
            reason: format!(
                "disk {} was encrypted, and is not restored without encryption unless you ask for it: {reason} \
                 (`strongroom restore disks` restores what the guest sees)",
                disk.target
            ),
        })
    }

    /// The note of an earlier attempt, which must have been the same.
    fn earlier(&self, path: &Path, name: &str) -> Result<Option<Note>> {
        let Some(note) = Note::find(path)? else { return Ok(None) };
        if note.item == self.point.item && note.point == self.point.id && note.name == name {
            return Ok(Some(note));
        }
        let files = note.files.iter().filter(|file| file.exists());
        let files: Vec<String> = files.map(|file| file.display().to_string()).collect();
        Err(MachineError::Unfinished {
            machine: name.to_owned(),
            reason: format!(
                "a restore of it from recovery point {} of {} was not finished; run that one \
                 again, or delete the note and {}",
                note.point,
                note.item,
                files.join(", ")
            ),
            note: path.display().to_string(),
        })
    }

    /// A restore of the other kind that was not finished is not taken over.
    fn check_kind(&self, folder: &Path, name: &str) -> Result<()> {
        let path = Note::path(folder, name, self.how.other());
        let Some(note) = Note::find(&path)? else { return Ok(()) };
        let with = match self.how {
            How::Whole => "with --instant",
            How::Instant => "without --instant",
        };
        Err(MachineError::Unfinished {
            machine: name.to_owned(),
            reason: format!(
                "a restore of it {with} from recovery point {} of {} was not finished: run that one again",
                note.point, note.item
            ),
            note: path.display().to_string(),
        })
    }

    /// Writes of a guest whose disk is encrypted must not come into an overlay that is not, and libvirt shares no disk
    /// that is an overlay.
    fn check_instant(&self, disks: &[PlannedDisk]) -> Result<()> {
        let is_shared = |name: &str| self.old.disk(name).is_some_and(|disk| disk.shareable);
        for disk in disks {
            let reason = if disk.is_encrypted() {
                "is encrypted on the host, and its overlay would not be"
            } else if is_shared(&disk.name) {
                "is shared with other machines, and an overlay cannot be"
            } else {
                continue;
            };
            let reason = format!("disk {} {reason}: restore it without --instant", disk.name);
            let machine = self.old.name.clone();
            return Err(MachineError::Unsupported { machine, reason });
        }
        Ok(())
    }

    fn nvram(
        &self,
        folder: &Path,
        name: &str,
        changes: &mut Changes,
        notes: &mut Vec<String>,
    ) -> Option<PathBuf> {
        let described = self.old.firmware.nvram.is_some();
        let saved = self.configuration.nvram.is_some();
        if !described && !saved {
            return None;
        }
        let path = folder.join(format!("{name}-nvram.fd"));
        // Also if they are not in the point: the original's are not shared.
        changes.nvram = Some(path.display().to_string());
        if !saved {
            notes.push(
                "the point has no firmware variables: the firmware creates new boot entries"
                    .to_owned(),
            );
        }
        saved.then_some(path)
    }

    fn tpm(&self, uuid: Uuid, notes: &mut Vec<String>) -> Result<Option<PathBuf>> {
        let Some(tpm) = &self.old.tpm else { return Ok(None) };
        let TpmBackend::Emulator { state, .. } = &tpm.backend else { return Ok(None) };
        if self.configuration.tpm.is_empty() {
            notes.push(
                "the point has no state of the TPM: data that was sealed with the TPM stays sealed"
                    .to_owned(),
            );
            return Ok(None);
        }
        if let Some(state) = state {
            return Err(MachineError::Unsupported {
                machine: self.old.name.clone(),
                reason: format!(
                    "its TPM keeps its state in {state}, not where libvirt does; restore its disks \
                     with a template"
                ),
            });
        }
        Ok(Some(self.request.places.swtpm.join(uuid.to_string())))
    }

    /// Secrets that the host lacks and gets.
    fn secrets(&self, notes: &mut Vec<String>) -> Result<Vec<SavedSecret>> {
        let mut brought = Vec::new();
        for secret in &self.configuration.secrets {
            if self.connection.secret(secret.uuid)?.is_some() {
                continue;
            }
            match (self.request.with_secrets, &secret.value) {
                (true, Some(_)) => brought.push(secret.clone()),
                (_, None) => notes.push(format!(
                    "the host lacks secret {}, whose value is not in the point: set it with virsh secret-define and secret-set-value before you start the machine",
                    secret.uuid
                )),
                (false, Some(_)) => notes.push(format!(
                    "the host lacks secret {}; --with-secrets restores it",
                    secret.uuid
                )),
            }
        }
        Ok(brought)
    }

    fn other_notes(&self, machine: &Machine, notes: &mut Vec<String>) {
        for missing in &self.configuration.record.missing {
            notes.push(format!("not in the point: {missing}"));
        }
        if !self.configuration.snapshots.is_empty() {
            notes.push(format!(
                "{} snapshots of the machine are not restored",
                self.configuration.snapshots.len()
            ));
        }
        if machine.terminals != self.old.terminals && !machine.terminals.is_empty() {
            notes.push(format!(
                "its terminals have files of their own: {}",
                machine.terminals.join(", ")
            ));
        }
        if machine.direct_boot.is_some() {
            notes.push(
                "it starts from a kernel among the host's files, which is not in the point"
                    .to_owned(),
            );
        }
    }

    /// Whether a machine is in the way; or has an earlier attempt defined it?
    fn check_conflicts(
        &self,
        machine: &Machine,
        earlier: Option<&Note>,
        notes: &mut Vec<String>,
    ) -> Result<bool> {
        let exists = |name: String| MachineError::Exists {
            host: self.connection.hostname().unwrap_or_else(|_| "the host".to_owned()),
            name,
        };
        for domain in self.connection.domains()? {
            let is_it = domain.uuid == machine.uuid;
            if is_it && earlier.is_some() && domain.name == machine.name {
                return Ok(true);
            }
            if domain.name == machine.name {
                return Err(exists(domain.name));
            }
            if is_it {
                return Err(exists(format!("with the UUID {} ({})", domain.uuid, domain.name)));
            }
            // Others may go while they are looked at.
            let form = strongroom_hypervisor::Form::Inactive;
            let Ok(xml) = self.connection.domain_xml(&domain, form) else { continue };
            let Ok(other) = Machine::parse(&xml) else { continue };
            let macs = |machine: &Machine| {
                let macs = machine.interfaces.iter().filter_map(|one| one.mac.clone());
                macs.map(|mac| mac.to_ascii_lowercase()).collect::<Vec<_>>()
            };
            let others = macs(&other);
            for mac in macs(machine).iter().filter(|mac| others.contains(mac)) {
                notes.push(format!("{} has the same network address {mac}", domain.name));
            }
            shared_disks(&domain.name, &other, machine, notes);
        }
        Ok(false)
    }
}

/// What becomes of disks that are not restored.
pub(crate) fn unchosen(
    old: &Machine,
    point: &Manifest,
    chosen: &[&str],
    left_behind: &mut Vec<LeftBehind>,
) -> BTreeMap<String, DiskChange> {
    let mut changes = BTreeMap::new();
    for disk in &old.disks {
        if chosen.contains(&disk.target.as_str()) {
            continue;
        }
        let (change, reason) = match (disk.device, disk.backup_kind(), disk.source.path()) {
            (_, BackupKind::Skip(SkipReason::Empty), _) | (Device::Cdrom | Device::Floppy, ..)
                if disk.source == Source::None =>
            {
                continue;
            }
            (Device::Cdrom | Device::Floppy, _, Some(path)) => {
                if Path::new(path).exists() {
                    continue;
                }
                (DiskChange::Eject, format!("the drive is empty now: the host has no {path}"))
            }
            (Device::Cdrom | Device::Floppy, ..) => {
                (DiskChange::Eject, format!("the drive is empty now; it had {}", disk.source))
            }
            (_, BackupKind::Skip(SkipReason::ReadOnly), Some(path)) if Path::new(path).exists() => {
                continue;
            }
            _ => (DiskChange::Remove, why_not(point, &disk.target)),
        };
        changes.insert(disk.target.clone(), change);
        left_behind.push(LeftBehind { name: disk.target.clone(), reason });
    }
    changes
}

fn why_not(point: &Manifest, target: &str) -> String {
    if point.disks.iter().any(|disk| disk.name == target) {
        return "removed from the machine: it was not asked for".to_owned();
    }
    let excluded = point.excluded.iter().find(|disk| disk.name == target);
    match excluded.map_or("", |disk| disk.reason.as_str()) {
        "" => "removed from the machine: the recovery point does not have it".to_owned(),
        reason => format!("removed from the machine: not in the recovery point ({reason})"),
    }
}

/// Says which files both machines use.
fn shared_disks(name: &str, other: &Machine, machine: &Machine, notes: &mut Vec<String>) {
    let writable = |disk: &&Disk| !disk.readonly && !disk.shareable && disk.device == Device::Disk;
    for disk in machine.disks.iter().filter(writable) {
        let used = disk.source != Source::None
            && other.disks.iter().any(|theirs| theirs.source == disk.source);
        if used {
            notes.push(format!("{name} uses {} as well (disk {})", disk.source, disk.target));
        }
    }
}

/// A machine that somebody has removed while it got its disks: its overlays have what it has written.
fn removed(note: &Note, path: &Path, machine: &str) -> MachineError {
    let files = note.files.iter().filter(|file| file.exists());
    let files: Vec<String> = files.map(|file| file.display().to_string()).collect();
    MachineError::Unfinished {
        machine: machine.to_owned(),
        reason: format!(
            "it was removed from libvirt before its restore had ended, and what it has written is in its overlays: \
             define it again with the UUID {}, or delete the note and {}",
            note.uuid,
            files.join(", ")
        ),
        note: path.display().to_string(),
    }
}

pub(super) fn parse_uuid(text: &str, machine: &str) -> Result<Uuid> {
    text.parse().map_err(|_| MachineError::Unsupported {
        machine: machine.to_owned(),
        reason: format!("{text:?} is no UUID"),
    })
}

/// Refuses files that are not this restore's own.
fn check_free(files: &[PathBuf], earlier: Option<&Note>, machine: &str) -> Result<()> {
    for file in files {
        let ours = earlier.is_some_and(|note| note.files.contains(file));
        // A dangling link is in the way as well.
        if !ours && file.symlink_metadata().is_ok() {
            return Err(MachineError::InTheWay {
                machine: machine.to_owned(),
                path: file.display().to_string(),
            });
        }
    }
    Ok(())
}

/// How much each folder needs, less what earlier attempts have written.
fn room(disks: &[PlannedDisk]) -> Result<Vec<(PathBuf, u64)>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut needed = Vec::new();
    for disk in disks {
        let written = [disk.path.clone(), disk.partial()].into_iter();
        let written = written.filter_map(|path| path.metadata().ok());
        let written: u64 = written.map(|file| file.blocks().saturating_mul(512)).sum();
        let folder = disk.path.parent().unwrap_or(Path::new("/")).to_owned();
        if !folder.is_dir() {
            return Err(local("find", &folder, std::io::ErrorKind::NotFound.into()));
        }
        needed.push((folder, disk.data.saturating_sub(written)));
    }
    Ok(needed)
}
