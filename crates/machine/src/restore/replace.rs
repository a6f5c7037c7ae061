//! Replacing the disks of an existing machine by those of a recovery point.
//!
//! Each restored disk is a new image with the old one under it, and holds only what differs. The
//! old one is not written. Undo gives it back to the machine; accept writes the difference into it
//! ([`super::finish()`]).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use strongroom_base::{Cancel, Clock, PointId};
use strongroom_disk::{DiskTarget, Existing, ImageFormat};
use strongroom_engine::{
    EngineError, Overwrite, Progress, RestoreDisk, RestoreReport, RestoreRequest, data_bytes,
};
use strongroom_format::{DiskRecord, Manifest};
use strongroom_hypervisor::{
    Changes, Connection, Disk, DiskChoice, Domain, Form, HypervisorError, Machine, Source,
    TpmBackend,
};
use strongroom_reports::{LeftBehind, MachineRestoreReport, RestoreKind, RestoredDisk};
use strongroom_vault::Vault;

use super::{
    ciphertext::container,
    image,
    journal::write_whole,
    new::{open_to_swtpm, write_tpm},
    place::{self, local},
    request::{MachineRestore, Power, Replace, Stop, or_not_started},
    state::{Kept, ReplacedDisk, Stage, State},
};
use crate::{
    Configuration, EncryptedDisks, MachineBackup, MachineError, error::Result, image::chain,
    lock::Lock,
};

/// How long a guest may take to shut down.
const SHUT_DOWN: Duration = Duration::from_mins(5);

/// A machine and what it is to get.
struct Work<'a> {
    vault: &'a Arc<Vault>,
    connection: &'a Connection,
    point: &'a Manifest,
    configuration: &'a Configuration,
    request: &'a MachineRestore,
    domain: Domain,
    xml: String,
    machine: Machine,
    notes: Vec<String>,
}

#[allow(clippy::too_many_arguments, reason = "each is another part of one thing")]
pub(super) fn run(
    vault: &Arc<Vault>,
    connection: &Connection,
    point: &Manifest,
    configuration: &Configuration,
    request: &MachineRestore,
    replace: &Replace,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<MachineRestoreReport> {
    let started = connection.clock().monotonic();
    progress.set_stage(strongroom_base::Stage::Planning);
    let domain = find(connection, configuration, replace)?;
    let mut work = Work::new(vault, connection, point, configuration, request, domain)?;
    let was_running = work.check_state(replace.stop)?;
    let (path, state) = work.plan()?;
    let mut safety = None;
    let mut restored = None;
    if !request.dry_run {
        let result = (|| {
            work.stop(replace.stop, progress, cancel)?;
            safety = work.safety_point(replace, progress, cancel)?;
            let _lock = Lock::take(&request.places.run, &work.domain, connection.clock())?;
            // Until now others could do something with it.
            work.must_be_off()?;
            work.carry_out(&path, &state, progress, cancel)
        })();
        match result {
            Ok(report) => restored = Some(report),
            Err(error) => {
                work.start_again(was_running);
                return Err(error);
            }
        }
    }
    let not_started = if request.dry_run { None } else { work.power(progress) };
    let seconds = connection.clock().monotonic().saturating_sub(started).as_secs_f64();
    or_not_started(work.report(&state, restored.as_ref(), safety, seconds)?, not_started)
}

/// The machine that is meant.
fn find(
    connection: &Connection,
    configuration: &Configuration,
    replace: &Replace,
) -> Result<Domain> {
    if let Some(name) = &replace.machine {
        return Ok(connection.domain(name)?);
    }
    let uuid = super::plan::parse_uuid(&configuration.record.uuid, &configuration.record.name)?;
    match connection.domain_by_uuid(uuid)? {
        Some(domain) => Ok(domain),
        // Says so as well as can be.
        None => Ok(connection.domain(&configuration.record.uuid)?),
    }
}

impl<'a> Work<'a> {
    fn new(
        vault: &'a Arc<Vault>,
        connection: &'a Connection,
        point: &'a Manifest,
        configuration: &'a Configuration,
        request: &'a MachineRestore,
        domain: Domain,
    ) -> Result<Self> {
        let xml = connection.domain_xml(&domain, Form::Inactive)?;
        let mut machine = Machine::parse(&xml)?;
        connection.resolve_volumes(&mut machine);
        if let Some(manager) = machine.manager {
            let (machine, manager) = (machine.name, manager.to_string());
            return Err(MachineError::Managed { machine, manager });
        }
        Ok(Self {
            vault,
            connection,
            point,
            configuration,
            request,
            domain,
            xml,
            machine,
            notes: Vec::new(),
        })
    }

    fn unsupported(&self, reason: String) -> MachineError {
        MachineError::Unsupported { machine: self.machine.name.clone(), reason }
    }

    fn wrong_state(&self, state: &'static str, reason: &str) -> MachineError {
        let machine = self.machine.name.clone();
        MachineError::State { machine, state, reason: reason.to_owned() }
    }

    /// Whether it runs, if that can be ended.
    fn check_state(&self, stop: Stop) -> Result<bool> {
        let state = self.connection.state(&self.domain)?;
        if !self.connection.is_persistent(&self.domain)? {
            let reason = "libvirt forgets it when it is off, so its disks cannot be replaced";
            return Err(self.wrong_state(state.name(), reason));
        }
        if self.connection.has_saved_memory(&self.domain)? {
            let reason = "its memory is saved and belongs to its present disks: start it and shut \
                          it down, or throw the memory away with virsh managedsave-remove";
            return Err(self.wrong_state(state.name(), reason));
        }
        if state.is_active() && stop == Stop::Refuse {
            let reason = "it must be off: shut it down, or have it done with --shut-down or \
                          --power-off";
            return Err(self.wrong_state(state.name(), reason));
        }
        Ok(state.is_active())
    }

    fn must_be_off(&self) -> Result<()> {
        let state = self.connection.state(&self.domain)?;
        if state.is_active() {
            return Err(self.wrong_state(state.name(), "it was started meanwhile"));
        }
        Ok(())
    }

    /// Decides what is replaced, or finds what an earlier attempt has decided.
    fn plan(&mut self) -> Result<(PathBuf, State)> {
        if let Some((path, state)) = State::find(&self.machine)? {
            if state.stage == Stage::Preparing
                && state.point == self.point.id
                && state.item == self.point.item
            {
                self.check_unchanged(&path, &state)?;
                return Ok((path, state));
            }
            return Err(MachineError::Unfinished {
                machine: self.machine.name.clone(),
                reason: format!(
                    "its disks were replaced by those of recovery point {} of {}; decide on that \
                     first with `strongroom restore accept` or `strongroom restore undo`",
                    state.point, state.item
                ),
                note: path.display().to_string(),
            });
        }
        let disks: Vec<ReplacedDisk> = self
            .chosen()?
            .into_iter()
            .map(|(record, disk)| self.disk(record, disk))
            .collect::<Result<_>>()?;
        let Some(folder) = disks.first().and_then(|disk| disk.overlay.parent()) else {
            return Err(self.unsupported("the recovery point has no disks".to_owned()));
        };
        let path = State::path(folder, self.machine.uuid);
        self.look_around(&disks)?;
        let (nvram, tpm) =
            if self.request.disks.is_empty() { (self.nvram(), self.tpm()) } else { (None, None) };
        if self.request.disks.is_empty() {
            self.notes.extend(
                self.configuration
                    .record
                    .missing
                    .iter()
                    .map(|what| format!("not in the point: {what}")),
            );
        }
        let state = State {
            format: 1,
            uuid: self.machine.uuid.to_string(),
            item: self.point.item.clone(),
            point: self.point.id,
            stage: Stage::Preparing,
            disks,
            nvram,
            tpm,
        };
        Ok((path, state))
    }

    /// Refuses to continue an earlier attempt if the machine has got other disks since: those would be
    /// what an undo restores.
    fn check_unchanged(&self, path: &Path, state: &State) -> Result<()> {
        match state.disks.iter().find(|disk| disk.is_in(&self.machine).is_none()) {
            None => Ok(()),
            Some(disk) => Err(MachineError::Unfinished {
                machine: self.machine.name.clone(),
                reason: format!(
                    "its disk {} is not {} any more, as when the restore began: give it back, and \
                     end that with `strongroom restore undo`",
                    disk.name,
                    disk.old.display()
                ),
                note: path.display().to_string(),
            }),
        }
    }

    /// What people should know before.
    fn look_around(&mut self, disks: &[ReplacedDisk]) -> Result<()> {
        let snapshots = self.connection.snapshots(&self.domain)?.len();
        if snapshots > 0 {
            self.notes.push(format!(
                "do not go back to any of its {snapshots} snapshots before it is decided which \
                 disks stay"
            ));
        }
        let mut needed = Vec::new();
        for disk in disks {
            let record = self.point.disks.iter().find(|record| record.name == disk.name);
            if let (Some(record), Some(folder)) = (record, disk.overlay.parent()) {
                needed.push((folder.to_owned(), data_bytes(self.vault, record)?));
            }
        }
        // Only what differs takes room, and that is not known yet.
        if let Err(error) = place::check_room(&needed, &self.machine.name) {
            self.notes.push(format!("there may be too little room: {error}"));
        }
        Ok(())
    }

    /// The disks of the point that are restored, each as the machine has it now.
    fn chosen(&self) -> Result<Vec<(&'a DiskRecord, &Disk)>> {
        let wanted = &self.request.disks;
        if let Some(name) =
            wanted.iter().find(|name| !self.point.disks.iter().any(|disk| disk.name == **name))
        {
            let (point, name) = (self.point.id, name.clone());
            return Err(EngineError::NoSuchDisk { point, name }.into());
        }
        let chosen =
            self.point.disks.iter().filter(|disk| wanted.is_empty() || wanted.contains(&disk.name));
        chosen
            .map(|record| match self.machine.disk(&record.name) {
                Some(disk) => Ok((record, disk)),
                None => Err(self.unsupported(format!(
                    "it has no disk {} as the recovery point has; name those to be replaced with \
                     --disks, or restore the machine as a new one",
                    record.name
                ))),
            })
            .collect()
    }

    fn disk(&self, record: &DiskRecord, disk: &Disk) -> Result<ReplacedDisk> {
        let name = &record.name;
        let format = disk.driver.format.clone().unwrap_or_else(|| "raw".to_owned());
        let reason = if disk.shareable {
            Some("is shared with other machines")
        } else if disk.encryption.is_some() {
            Some("is encrypted on the host")
        } else if container(self.configuration, name).is_some() {
            Some("was kept as ciphertext")
        } else if disk.transient || disk.slice.is_some() {
            Some("is transient or a part of a file")
        } else if !matches!(format.as_str(), "raw" | "qcow2") {
            Some("is neither raw nor qcow2")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(self.unsupported(format!(
                "disk {name} {reason}, which is not replaced; restore it with `strongroom restore \
                 disks`"
            )));
        }
        let (old, is_device) = match &disk.source {
            Source::File { path } => (PathBuf::from(path), false),
            Source::Block { path } => (PathBuf::from(path), true),
            Source::Volume { path: Some(path), .. } => {
                (PathBuf::from(path), path.starts_with("/dev/"))
            }
            other => {
                return Err(self.unsupported(format!(
                    "disk {name} is {other}, which cannot be kept under its restored one; restore \
                     it with `strongroom restore disks`"
                )));
            }
        };
        if !old.exists() {
            return Err(self.unsupported(format!(
                "{} does not exist (disk {name}); restore the machine as a new one",
                old.display()
            )));
        }
        let was = if is_device { &Source::None } else { &disk.source };
        let folder =
            place::folder_of(self.connection, self.request, name, was, &self.machine.name)?;
        let file = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let overlay = folder.join(format!("{file}.{}.qcow2", self.point.id));
        if overlay.symlink_metadata().is_ok() {
            return Err(MachineError::InTheWay {
                machine: self.machine.name.clone(),
                path: overlay.display().to_string(),
            });
        }
        let (name, size) = (name.clone(), record.size_bytes);
        Ok(ReplacedDisk { name, old, is_device, old_format: format, size, overlay })
    }

    /// Firmware variables, if the machine and the point have them.
    fn nvram(&self) -> Option<Kept> {
        self.configuration.nvram.as_ref()?;
        Some(self.kept(self.request.places.nvram_of(&self.machine)?))
    }

    fn tpm(&mut self) -> Option<Kept> {
        let backend = &self.machine.tpm.as_ref()?.backend;
        let TpmBackend::Emulator { state, .. } = backend else { return None };
        if self.configuration.tpm.is_empty() {
            return None;
        }
        let usual = self.request.places.swtpm.join(self.machine.uuid.to_string());
        let folder = state.as_ref().map_or(usual, PathBuf::from);
        Some(self.kept(folder))
    }

    fn kept(&self, path: PathBuf) -> Kept {
        let mut kept = path.as_os_str().to_owned();
        kept.push(format!(".before-{}", self.point.id));
        let kept = path.exists().then(|| PathBuf::from(kept));
        Kept { path, kept }
    }

    /// Brings the machine to stand.
    fn stop(&self, stop: Stop, progress: &Progress, cancel: &Cancel) -> Result<()> {
        if !self.connection.state(&self.domain)?.is_active() {
            return Ok(());
        }
        progress.set_stage(strongroom_base::Stage::ShuttingDown);
        match stop {
            Stop::Refuse => return self.must_be_off(),
            Stop::ShutDown => self.connection.shutdown(&self.domain)?,
            Stop::PowerOff => self.connection.power_off(&self.domain)?,
        }
        let clock = self.connection.clock();
        let start = clock.monotonic();
        while self.connection.state(&self.domain)?.is_active() {
            if cancel.is_cancelled() {
                return Err(MachineError::Interrupted);
            }
            if clock.monotonic().saturating_sub(start) > SHUT_DOWN {
                let reason = "its guest does not shut down; nothing was changed";
                return Err(self.wrong_state("running", reason));
            }
            clock.sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Starts a machine again that we have shut down in vain.
    fn start_again(&self, was_running: bool) {
        let is_off = self.connection.state(&self.domain).is_ok_and(|state| !state.is_active());
        if was_running
            && is_off
            && let Err(error) = self.connection.start(&self.domain, false)
        {
            tracing::warn!(%error, machine = self.machine.name, "not started again");
        }
    }

    fn safety_point(
        &self,
        replace: &Replace,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Option<PointId>> {
        let Some(backup) = &replace.safety else { return Ok(None) };
        // All disks of the point, so that the next backup can build on all of them.
        let disks = self.point.disks.iter().map(|disk| disk.name.clone());
        let disks = disks.filter(|name| self.machine.disk(name).is_some());
        // The machine is off: what was kept without its key is so again.
        let as_ciphertext = self
            .configuration
            .record
            .disks
            .iter()
            .any(|disk| disk.ciphertext.is_some())
            .then_some(EncryptedDisks::Ciphertext);
        let backup = MachineBackup {
            encrypted_disks: as_ciphertext.unwrap_or(backup.encrypted_disks),
            machine: self.domain.uuid.to_string(),
            item: Some(self.point.item.clone()),
            disks: DiskChoice::Include(disks.collect()),
            ..(**backup).clone()
        };
        let report = crate::backup(self.vault, self.connection, &backup, progress, cancel)?;
        Ok(Some(report.point.recovery_point))
    }

    fn carry_out(
        &self,
        path: &Path,
        state: &State,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RestoreReport> {
        state.write(path)?;
        let restored = self.restore(state, progress, cancel)?;
        progress.set_stage(strongroom_base::Stage::Configuring);
        if let (Some(kept), Some(content)) = (&state.nvram, &self.configuration.nvram) {
            keep_file(kept)?;
            write_whole(&kept.path, content)?;
        }
        if let Some(kept) = &state.tpm {
            keep_folder(kept)?;
            write_tpm(&kept.path, &self.configuration.tpm)?;
            open_to_swtpm(&kept.path)?;
        }
        let changes = Changes {
            new_generation: true,
            disks: state.disks.iter().map(|disk| (disk.name.clone(), disk.to_new())).collect(),
            ..Changes::default()
        };
        let xml = Machine::rewrite(&self.xml, &changes, &**self.vault.entropy())?;
        self.connection.define(&xml)?;
        State { stage: Stage::Replaced, ..state.clone() }.write(path)?;
        Ok(restored)
    }

    /// Writes what differs into images above the old ones.
    fn restore(
        &self,
        state: &State,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RestoreReport> {
        let mut disks = Vec::new();
        for disk in &state.disks {
            let target = open_overlay(disk, self.connection.clock())?;
            disks.push(RestoreDisk {
                name: disk.name.clone(),
                location: disk.overlay.display().to_string(),
                target: Arc::from(target),
                overwrite: Overwrite::Differences,
            });
        }
        let request = RestoreRequest {
            item: self.point.item.clone(),
            point: self.point.id,
            disks,
            threads: self.request.threads,
            limit_rate: self.request.limit_rate,
        };
        Ok(strongroom_engine::restore(self.vault, &request, progress, cancel)?)
    }

    /// Starts the machine if that is wanted: why it does not start.
    fn power(&self, progress: &Progress) -> Option<HypervisorError> {
        let power = self.request.power;
        if power == Power::Off {
            return None;
        }
        progress.set_stage(strongroom_base::Stage::Starting);
        self.connection.start(&self.domain, power == Power::Paused).err()
    }

    fn report(
        &self,
        state: &State,
        restored: Option<&RestoreReport>,
        safety_point: Option<PointId>,
        seconds: f64,
    ) -> Result<MachineRestoreReport> {
        let mut disks = Vec::new();
        for disk in &state.disks {
            let record = self.point.disks.iter().find(|record| record.name == disk.name);
            let done = restored.and_then(|r| r.disks.iter().find(|d| d.name == disk.name));
            let data_bytes = match record {
                Some(record) => data_bytes(self.vault, record)?,
                None => 0,
            };
            disks.push(RestoredDisk {
                name: disk.name.clone(),
                path: disk.overlay.display().to_string(),
                format: "qcow2".to_owned(),
                replaces: Some(disk.old.display().to_string()),
                size_bytes: disk.size,
                data_bytes,
                written_bytes: done.map_or(0, |done| done.written_bytes),
            });
        }
        let untouched = self.machine.disks.iter().filter(|disk| {
            disk.backup_kind() == strongroom_hypervisor::BackupKind::Protect
                && !state.disks.iter().any(|other| other.name == disk.target)
        });
        let left_behind = untouched.map(|disk| LeftBehind {
            name: disk.target.clone(),
            reason: "kept: not in the recovery point, or not selected".to_owned(),
        });
        let mut notes = self.notes.clone();
        if !self.request.dry_run {
            notes.push(format!(
                "the old disks are kept until you decide: `strongroom restore accept --vm {name}` writes the difference into them, `strongroom restore undo --vm {name}` restores them",
                name = self.machine.name
            ));
        }
        let kept = |kept: &Option<Kept>| kept.as_ref().map(|kept| kept.path.display().to_string());
        Ok(MachineRestoreReport {
            recovery_point: self.point.id,
            item: self.point.item.clone(),
            kind: RestoreKind::Replaced,
            dry_run: self.request.dry_run,
            machine: self.machine.name.clone(),
            uuid: self.machine.uuid.to_string(),
            host: self.connection.uri().to_string(),
            state: self.request.power.state(),
            autostart: self.connection.autostart(&self.domain)?,
            disks,
            addresses: self.machine.interfaces.iter().filter_map(|one| one.mac.clone()).collect(),
            nvram: kept(&state.nvram),
            tpm: kept(&state.tpm),
            secrets: Vec::new(),
            left_behind: left_behind.collect(),
            safety_point,
            notes,
            instant: None,
            seconds,
        })
    }
}

/// Opens the new image of a disk: the one that an earlier attempt has left, if it is there.
fn open_overlay(disk: &ReplacedDisk, clock: &dyn Clock) -> Result<Box<dyn DiskTarget>> {
    let is_made = match disk.overlay.symlink_metadata() {
        // An earlier attempt ended before it had a header.
        Ok(file) if file.is_file() && file.len() == 0 => {
            let removed = fs::remove_file(&disk.overlay);
            removed.map_err(|source| local("remove", &disk.overlay, source))?;
            false
        }
        found => found.is_ok(),
    };
    if !is_made {
        let backing = Some((disk.old.as_path(), disk.old_format.as_str()));
        image::create(&disk.overlay, disk.size, &[], backing)?;
    }
    let below = chain(&disk.old, &disk.old_format);
    let below = below.iter().map(|image| Path::new(&image.filename));
    let folders = below.chain([disk.old.as_path()]).filter_map(Path::parent);
    let folders: Vec<PathBuf> = folders.map(Path::to_owned).collect();
    let qcow2 = ImageFormat::Qcow2;
    image::open(&disk.overlay, qcow2, disk.size, &[], &folders, Existing::Ours, clock)
}

/// Copies a file aside, once.
fn keep_file(kept: &Kept) -> Result<()> {
    let Some(aside) = kept.kept.as_ref().filter(|aside| !aside.exists()) else { return Ok(()) };
    let content = fs::read(&kept.path).map_err(|source| local("read", &kept.path, source))?;
    write_whole(aside, &content)
}

/// Moves a folder aside, once.
fn keep_folder(kept: &Kept) -> Result<()> {
    let Some(aside) = kept.kept.as_ref().filter(|aside| !aside.exists()) else { return Ok(()) };
    fs::rename(&kept.path, aside).map_err(|source| local("move", &kept.path, source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use strongroom_base::{Coded as _, SystemClock};

    use super::*;

    /// A disk of 1 MiB of ones, and where its restored one goes.
    fn disk(folder: &Path) -> ReplacedDisk {
        let old = folder.join("a.raw");
        fs::write(&old, vec![1; 1 << 20]).expect("writes");
        ReplacedDisk {
            name: "vda".to_owned(),
            old,
            is_device: false,
            old_format: "raw".to_owned(),
            size: 1 << 20,
            overlay: folder.join("a.raw.point.qcow2"),
        }
    }

    fn first(target: &dyn DiskTarget) -> u8 {
        let mut byte = [0];
        target.read_at(0, &mut byte).expect("reads");
        byte[0]
    }

    #[test]
    fn what_an_earlier_attempt_has_left_is_gone_on_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = disk(folder.path());
        // It had no header yet.
        fs::write(&disk.overlay, "").expect("writes");
        let target = open_overlay(&disk, &SystemClock).expect("opens");
        assert_eq!(first(&*target), 1);
        target.write_at(0, &vec![2; 65_536]).expect("writes");
        target.flush().expect("flushes");
        drop(target);
        assert_eq!(first(&*open_overlay(&disk, &SystemClock).expect("opens again")), 2);
    }

    #[test]
    fn what_an_earlier_attempt_cannot_have_left_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = disk(folder.path());
        drop(open_overlay(&disk, &SystemClock).expect("makes it"));
        // Somebody else's image, by whatever way it has the name.
        let other = folder.path().join("other.qcow2");
        let refused = || {
            let error = open_overlay(&disk, &SystemClock).map(drop).expect_err("it is refused");
            assert_eq!(error.code().name, "disk.unsafe", "{error}");
        };
        fs::hard_link(&disk.overlay, &other).expect("links");
        refused();
        fs::remove_file(&disk.overlay).expect("removes");
        symlink(&other, &disk.overlay).expect("links");
        refused();
        fs::remove_file(&disk.overlay).expect("removes");
        symlink(folder.path().join("nowhere"), &disk.overlay).expect("links");
        refused();
        assert!(!folder.path().join("nowhere").exists());
        fs::remove_file(&disk.overlay).expect("removes");
        fs::rename(&other, &disk.overlay).expect("moves");
        fs::set_permissions(&disk.overlay, fs::Permissions::from_mode(0o666)).expect("changes");
        refused();
    }
}
