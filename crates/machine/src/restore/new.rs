//! A new machine from a recovery point.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use strongroom_base::{Cancel, Stage};
use strongroom_disk::{DiskTarget, Existing, folder_in, make_anew, own_folder, pinned};
use strongroom_engine::{Overwrite, Progress, RestoreDisk, RestoreReport, RestoreRequest};
use strongroom_format::Manifest;
use strongroom_hypervisor::{Connection, Domain, HypervisorError, Machine};
use strongroom_reports::{
    InstantReport, MachineRestoreReport, PowerState, RestoreKind, RestoredDisk,
};
use strongroom_vault::Vault;

use super::{
    encrypted, image,
    journal::{How, Journal, sync_folder, write_whole},
    place::local,
    plan::{Maker, Plan, PlannedDisk},
    request::{Identity, MachineRestore, Power, Storage, or_not_started},
};
use crate::{Configuration, MachineError, error::Result, lock::Lock};

/// What a restore is made from.
pub(super) struct Parts<'a> {
    pub(super) vault: &'a Arc<Vault>,
    pub(super) connection: &'a Connection,
    pub(super) point: &'a Manifest,
    pub(super) configuration: &'a Configuration,
    pub(super) request: &'a MachineRestore,
}

/// What was done, beside what was planned.
#[derive(Default)]
pub(super) struct Done {
    /// What was written; none if an earlier attempt has done all.
    pub(super) restored: Option<RestoreReport>,
    /// Why the machine does not start.
    pub(super) not_started: Option<HypervisorError>,
    /// If it ran meanwhile.
    pub(super) instant: Option<InstantReport>,
    /// What the machine does now, if that may be something else than was asked for.
    pub(super) state: Option<PowerState>,
}

/// Plans a restore and has it carried out.
pub(super) fn run(
    parts: &Parts<'_>,
    how: How,
    progress: &Progress,
    carry_out: impl FnOnce(&Work<'_>) -> Result<Done>,
) -> Result<MachineRestoreReport> {
    let &Parts { vault, connection, point, configuration, request } = parts;
    let started = connection.clock().monotonic();
    progress.set_stage(Stage::Planning);
    let old = Machine::parse(&configuration.inactive)?;
    let name = request.name.as_deref().unwrap_or(&old.name);
    check_name(name)?;
    let maker = Maker { vault, connection, point, configuration, request, old: &old, how };
    let seconds = || connection.clock().monotonic().saturating_sub(started).as_secs_f64();
    if request.dry_run {
        let plan = maker.make(name)?;
        return Ok(report(connection, point, request, &plan, &Done::default(), seconds()));
    }
    // From before the plan until the end, so that what it found stays so.
    let _lock = Lock::take_name(&request.places.run, name)?;
    let plan = maker.make(name)?;
    let work = Work { vault, connection, point, configuration, request, plan: &plan, started };
    let done = carry_out(&work)?;
    let report = report(connection, point, request, &plan, &done, seconds());
    or_not_started(report, done.not_started)
}

/// libvirt names files after machines.
fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.len() > 200
        || name.starts_with('.')
        || name.chars().any(|c| c == '/' || c.is_control());
    if bad {
        return Err(MachineError::Choice {
            reason: format!(
                "{name:?} is no name for a machine: it has 1 to 200 bytes, no '/' and no control \
                 characters, and does not begin with '.'"
            ),
        });
    }
    Ok(())
}

/// A plan that is carried out.
pub(super) struct Work<'a> {
    pub(super) vault: &'a Arc<Vault>,
    pub(super) connection: &'a Connection,
    pub(super) point: &'a Manifest,
    configuration: &'a Configuration,
    pub(super) request: &'a MachineRestore,
    pub(super) plan: &'a Plan,
    /// When the restore began.
    pub(super) started: Duration,
}

impl Work<'_> {
    /// Restores the disks, and then makes a machine of them.
    pub(super) fn run(&self, progress: &Progress, cancel: &Cancel) -> Result<Done> {
        let plan = self.plan;
        let (path, note) = &plan.journal;
        let journal = Journal::write(path, note)?;
        let mut done = Done::default();
        if !plan.is_defined {
            done.restored = Some(self.disks(progress, cancel)?);
            progress.set_stage(Stage::Configuring);
            self.firmware()?;
            self.secrets()?;
            if cancel.is_cancelled() {
                return Err(MachineError::Interrupted);
            }
        }
        let domain = self.define(&plan.xml)?;
        self.connection.set_autostart(&domain, plan.autostart)?;
        self.refresh_pools();
        journal.remove()?;
        let power = self.request.power;
        if power != Power::Off && !self.connection.state(&domain)?.is_active() {
            progress.set_stage(Stage::Starting);
            let started = self.connection.start(&domain, power == Power::Paused);
            done.not_started = started.err();
        }
        Ok(done)
    }

    /// Restores the disks, whatever of them an earlier attempt has written.
    pub(super) fn disks(&self, progress: &Progress, cancel: &Cancel) -> Result<RestoreReport> {
        let clock = self.connection.clock();
        let (mut disks, mut served) = (Vec::new(), Vec::new());
        for disk in &self.plan.disks {
            // Complete, except what only a comparison shows.
            let is_complete = disk.path.exists();
            let (path, existing) = if is_complete {
                (disk.path.clone(), Existing::Keep)
            } else {
                (disk.partial(), Existing::Ours)
            };
            let (format, size, options) = (disk.written_as(), disk.size, &disk.options);
            let target = if let Some(key) = &disk.key {
                let run = &self.request.places.run;
                let open =
                    || encrypted::open(&path, format, size, options, existing, (key, run), clock);
                let (target, server) = image::patiently(clock, open)?;
                served.push((path, server));
                target
            } else {
                image::open(&path, format, size, options, &[], existing, clock)?
            };
            disks.push(to_restore(disk, target));
        }
        let request = RestoreRequest {
            item: self.point.item.clone(),
            point: self.point.id,
            disks,
            threads: self.request.threads,
            limit_rate: self.request.limit_rate,
        };
        let report = strongroom_engine::restore(self.vault, &request, progress, cancel)?;
        // Closed before they get their names.
        drop(request);
        for (path, server) in served {
            server.finish(&path, clock)?;
        }
        for disk in &self.plan.disks {
            let partial = disk.partial();
            if let Some(container) = disk.container {
                let complete = disk.path.exists();
                container.cut(if complete { &disk.path } else { &partial }, !complete)?;
            }
            if !disk.path.exists() {
                let named = fs::rename(&partial, &disk.path);
                named
                    .and_then(|()| sync_folder(&disk.path))
                    .map_err(|source| local("name", &disk.path, source))?;
            }
        }
        Ok(report)
    }

    /// Writes the firmware's variables and the TPM's state.
    pub(super) fn firmware(&self) -> Result<()> {
        if let (Some(path), Some(content)) = (&self.plan.nvram, &self.configuration.nvram) {
            write_whole(path, content)?;
        }
        if let Some(folder) = &self.plan.tpm {
            write_tpm(folder, &self.configuration.tpm)?;
            open_to_swtpm(folder)?;
        }
        Ok(())
    }

    pub(super) fn secrets(&self) -> Result<()> {
        for secret in &self.plan.secrets {
            let Some(value) = &secret.value else { continue };
            let known = self.connection.define_secret(&secret.xml)?;
            if let Err(error) = self.connection.set_secret_value(&known, value) {
                self.connection.remove_secret(&known).ok();
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Makes the machine known; if libvirt does not want it, its description is put to its disks.
    pub(super) fn define(&self, xml: &str) -> Result<Domain> {
        let plan = self.plan;
        if plan.is_defined
            && let Some(domain) = self.connection.domain_by_uuid(plan.machine.uuid)?
        {
            return Ok(domain);
        }
        match self.connection.define(xml) {
            Ok(domain) => Ok(domain),
            Err(error) if error.is_connection() => Err(error.into()),
            Err(source) => Err(self.not_defined(source)),
        }
    }

    fn not_defined(&self, source: HypervisorError) -> MachineError {
        let machine = self.plan.machine.name.clone();
        let folder = self.plan.journal.0.parent().unwrap_or(Path::new("/"));
        let path = folder.join(format!("{machine}.xml"));
        match write_whole(&path, self.plan.xml.as_bytes()) {
            Ok(()) => {
                let description = path.display().to_string();
                let source = Box::new(source);
                MachineError::NotDefined { machine, description, source }
            }
            Err(error) => error,
        }
    }

    /// Pools learn of their new volumes; that is only for the eyes.
    pub(super) fn refresh_pools(&self) {
        let pools = self.request.storage.iter().filter_map(|place| match &place.storage {
            Storage::Pool(name) => Some(name),
            Storage::Folder(_) => None,
        });
        let Ok(known) = self.connection.pools() else { return };
        for name in pools {
            if let Some(pool) = known.iter().find(|pool| pool.name == *name)
                && let Err(error) = self.connection.refresh_pool(pool)
            {
                tracing::debug!(%error, pool = name, "not refreshed");
            }
        }
    }
}

/// One disk for the engine: what an earlier attempt has written is compared.
pub(super) fn to_restore(disk: &PlannedDisk, target: Box<dyn DiskTarget>) -> RestoreDisk {
    let overwrite = if target.is_blank() { Overwrite::All } else { Overwrite::Differences };
    RestoreDisk {
        name: disk.name.clone(),
        location: disk.path.display().to_string(),
        target: Arc::from(target),
        overwrite,
    }
}

/// Writes the files of a TPM into a folder that is its own. What has its name and is not ours is refused,
/// and no link is followed: others may write to what it is in. (What is in it may be the TPM's process's.)
pub(crate) fn write_tpm(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    write_tpm_at(folder, files).map_err(|source| local("write", folder, source))
}

/// As [`write_tpm`], where the path is not what people know the folder by.
pub(super) fn write_tpm_at(folder: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let own = own_folder(&File::open(parent)?, name)?;
    for (name, content) in files {
        let mut below = own.try_clone()?;
        let mut parts = Path::new(name).iter().peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_some() {
                below = folder_in(&below, part)?;
                continue;
            }
            let mut file = make_anew(&pinned(&below).join(part))?;
            file.write_all(content)?;
            file.sync_all()?;
        }
    }
    Ok(())
}

/// As libvirt makes the folder: the TPM's process, which may be another user's, passes through it to
/// what libvirt gives to it below.
pub(crate) fn open_to_swtpm(folder: &Path) -> Result<()> {
    let mode = fs::Permissions::from_mode(0o711);
    fs::set_permissions(folder, mode).map_err(|source| local("change", folder, source))
}

fn report(
    connection: &Connection,
    point: &Manifest,
    request: &MachineRestore,
    plan: &Plan,
    done: &Done,
    seconds: f64,
) -> MachineRestoreReport {
    let disks = plan.disks.iter().map(|disk| {
        let restored = done.restored.as_ref();
        let written = restored.and_then(|r| r.disks.iter().find(|other| other.name == disk.name));
        RestoredDisk {
            name: disk.name.clone(),
            path: disk.path.display().to_string(),
            format: disk.format.to_string(),
            replaces: None,
            size_bytes: disk.size,
            data_bytes: disk.data,
            written_bytes: written.map_or(0, |written| written.written_bytes),
        }
    });
    let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    MachineRestoreReport {
        recovery_point: point.id,
        item: point.item.clone(),
        kind: match request.identity {
            Identity::New => RestoreKind::New,
            Identity::Same => RestoreKind::Same,
        },
        dry_run: request.dry_run,
        machine: plan.machine.name.clone(),
        uuid: plan.machine.uuid.to_string(),
        host: connection.uri().to_string(),
        state: done.state.unwrap_or_else(|| request.power.state()),
        autostart: plan.autostart,
        disks: disks.collect(),
        addresses: plan.machine.interfaces.iter().filter_map(|one| one.mac.clone()).collect(),
        nvram: text(&plan.nvram),
        tpm: text(&plan.tpm),
        secrets: plan.secrets.iter().map(|secret| secret.uuid.to_string()).collect(),
        left_behind: plan.left_behind.clone(),
        safety_point: None,
        notes: plan.notes.clone(),
        instant: done.instant.clone(),
        seconds,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_state_of_a_tpm_goes_where_nobody_else_has_a_hand() {
        let dir = tempfile::tempdir().expect("temp");
        let at = |name: &str| dir.path().join(name);
        let files = [("tpm2/tpm2-00.permall".to_owned(), b"state".to_vec())];
        let state = |folder: &str| fs::read(at(folder).join("tpm2/tpm2-00.permall"));
        // Also once more, and where its parent is not there yet.
        for _ in 0..2 {
            write_tpm(&at("swtpm/uuid"), &files).expect("written");
            assert_eq!(state("swtpm/uuid").expect("there"), b"state");
        }
        for made in ["swtpm/uuid", "swtpm/uuid/tpm2", "swtpm/uuid/tpm2/tpm2-00.permall"] {
            let mode = fs::metadata(at(made)).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{made}");
        }
        // Planted: the folder, the folder in it, the file; and a folder that others may write to.
        fs::create_dir_all(at("victim/tpm2")).expect("a folder");
        fs::write(at("victim/tpm2/tpm2-00.permall"), "precious").expect("a file");
        symlink(at("victim"), at("link")).expect("a link");
        write_tpm(&at("link"), &files).expect_err("a link");
        fs::create_dir(at("half")).expect("a folder");
        fs::set_permissions(at("half"), fs::Permissions::from_mode(0o700)).expect("its owner's");
        symlink(at("victim/tpm2"), at("half/tpm2")).expect("a link");
        write_tpm(&at("half"), &files).expect_err("a link");
        fs::create_dir(at("open")).expect("a folder");
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).expect("anybody's");
        write_tpm(&at("open"), &files).expect_err("anybody's");
        assert_eq!(state("victim").expect("there"), b"precious");
        fs::remove_file(at("half/tpm2")).expect("removed");
        fs::create_dir(at("half/tpm2")).expect("a folder");
        fs::set_permissions(at("half/tpm2"), fs::Permissions::from_mode(0o700))
            .expect("its owner's");
        symlink(at("victim/tpm2/tpm2-00.permall"), at("half/tpm2/tpm2-00.permall"))
            .expect("a link");
        write_tpm(&at("half"), &files).expect("in place of the link");
        assert_eq!(state("half").expect("there"), b"state");
        assert_eq!(state("victim").expect("there"), b"precious");
    }
}
