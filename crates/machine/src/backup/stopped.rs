//! A machine that is off: the backup reads its images without blocking a start.
//!
//! No lock is taken on the images, as a lock would make a start fail. Instead the machine is
//! watched: if it starts, the backup begins again with the running machine. The bitmaps in the
//! images stay as they are; the point names the same checkpoint as the one before, since what has
//! changed after that checkpoint includes what will change after this point.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_disk::{DiskError, DiskSource, OpenOptions, open_source};
use strongroom_engine::{BackupDisk, CleanCheck, DiskBackupReport, Ending, backup_with};
use strongroom_format::Consistency;
use strongroom_hypervisor::{Disk, ImageInfo};

use super::{
    Work,
    base::Base,
    ciphertext,
    collect::{self, Instantaneous},
    crash,
    watch::{Watch, check},
};
use crate::{
    MachineBackupReport, MachineError, configuration::DiskIdentity, consistency, error::Result,
    image, layout,
};

/// A file as it was: another size, time or inode is another content.
pub(super) type Fingerprint = (u64, u64, u64, i64, i64);

/// A disk that was opened.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) fingerprint: Fingerprint,
    pub(super) backup: BackupDisk,
    pub(super) identity: DiskIdentity,
}

pub(super) fn run(work: &Work<'_>, mut notes: Vec<String>) -> Result<MachineBackupReport> {
    let wish = work.request.wish;
    if wish.required && wish.consistency != Consistency::Crash {
        return Err(MachineError::Consistency {
            machine: work.domain.name.clone(),
            wanted: consistency::name(wish.consistency),
            reason: "the machine is off, so nothing in it can prepare".to_owned(),
        });
    }
    let mut proof = crash("the machine was off: its disks are as its last run left them");
    if work.connection.has_saved_memory(&work.domain)? {
        proof.evidence.push("its memory is saved on the host, and is not in the point".to_owned());
    }
    let base = work.base_or_note(&mut notes)?;
    let selection = work.selection()?;
    let taken =
        Instantaneous::take(&work.machine, &work.request.places, work.connection.uri().is_local());
    let watch = Watch::new(&work.domain, work.state, None, work.cancel);
    let result = watch.over(work.connection, || {
        let opened: Vec<Opened> = selection
            .chosen
            .iter()
            .map(|disk| open(work, disk, base.as_ref()))
            .collect::<Result<_>>()?;
        work.report_instant(&proof);
        let mut disks = Vec::new();
        let mut identities = Vec::new();
        let mut files = Vec::new();
        for disk in opened {
            files.push((disk.path, disk.fingerprint));
            disks.push(disk.backup);
            identities.push(disk.identity);
        }
        let mut request = work.engine_request(disks, &selection, base.as_ref(), &proof);
        request.time = Some(work.vault.clock().now());
        let finish = |reports: &[DiskBackupReport]| {
            conclude(work, &watch, base.as_ref(), &files, taken, identities, reports)
        };
        backup_with(work.vault, &request, work.progress, &watch.engine, finish)
    });
    let point = match result {
        Ok(point) => point,
        Err(error) if error.is_of_vault() => return Err(error),
        Err(error) => return Err(watch.verdict().unwrap_or(error)),
    };
    let tracked = point.disks.iter().find_map(|disk| disk.checkpoint.clone());
    Ok(MachineBackupReport { checkpoint: tracked, ..work.report(point, proof, notes) })
}

/// Why a disk can only be read through QEMU, if that is so.
pub(super) fn needs_qemu(work: &Work<'_>, disk: &Disk) -> Option<String> {
    let target = &disk.target;
    match (disk.encryption.is_some(), ciphertext::is_kept(work, disk)) {
        (true, false) => {
            Some(format!("{target} is encrypted, and can only be read while the machine runs"))
        }
        (true, true) if disk.source.path().is_some() => None,
        _ => layout::needs_qemu(disk),
    }
}

/// Opens an image, with its bitmap if that can be trusted.
fn open(work: &Work<'_>, disk: &Disk, base: Option<&Base>) -> Result<Opened> {
    let unsupported = |reason: String| MachineError::Unsupported {
        machine: work.domain.name.clone(),
        reason: format!("disk {}: {reason}", disk.target),
    };
    if !work.connection.uri().is_local() {
        return Err(unsupported("the host is another: run Strongroom there".to_owned()));
    }
    if let Some(reason) = needs_qemu(work, disk) {
        let hint = match disk.encryption {
            Some(_) => "--start-paused, start the machine, or --encrypted-disks ciphertext",
            None => "--start-paused, or start the machine",
        };
        return Err(unsupported(format!("{reason} ({hint})")));
    }
    if ciphertext::is_kept(work, disk) {
        return ciphertext::open(work, disk);
    }
    let (spec, layout) = layout::of(disk).map_err(unsupported)?;
    let Some(path) = disk.source.path().map(PathBuf::from) else {
        return Err(unsupported("it has no path".to_owned()));
    };
    let name = disk.driver.format.as_deref().unwrap_or("raw");
    let fingerprint = fingerprint(&path)?;
    let whole = disk.slice.is_none() && name != "raw";
    let info = whole.then(|| image::info(&path, name)).flatten();
    let mut notes = Vec::new();
    let chain = image::chain_of(disk);
    let mut identity = collect::identity(disk, None, true, &chain);
    let since = match since(disk, &identity, base, chain.first()) {
        Ok(since) => Some(since),
        Err(reason) => {
            if base.is_some() {
                notes.push(format!("all of it was read and compared: {reason}"));
            }
            None
        }
    };
    let options =
        |bitmap: Option<String>| OpenOptions { bitmap, ..layout::options(layout.clone()) };
    let (source, since) = match open_source(&spec, &options(since.clone())) {
        Err(DiskError::Bitmap { reason, .. }) => {
            notes.push(format!("all of it was read and compared: {reason}"));
            (open_source(&spec, &options(None))?, None)
        }
        other => (other?, since),
    };
    let source: Arc<dyn DiskSource> = Arc::from(source);
    identity.size = source.size();
    identity.image = info.as_ref().map(image::recipe);
    identity.tracked = since.is_some();
    if let Some(changed) = source.changed() {
        identity.set_changed_since(changed);
    }
    let before = base.and_then(|base| base.configuration.disk(&disk.target));
    let runs = before.map_or(0, |before| before.runs_since_full.saturating_add(1));
    let every = work.request.full_compare_every;
    let mut backup = BackupDisk::new(&disk.target, disk.source.to_string(), source);
    (identity.runs_since_full, backup.clean) = match &since {
        Some(_) if every > 0 && runs >= every => (0, CleanCheck::All),
        Some(_) => (runs, work.request.clean),
        None => (0, CleanCheck::Trust),
    };
    if let Some(before) = before.filter(|_| since.is_some()) {
        backup.also_changed = before.also_changed();
    }
    backup.notes = notes;
    backup.checkpoint = since;
    Ok(Opened { path, fingerprint, backup, identity })
}

/// The checkpoint since which an image's bitmap tells what has changed.
fn since(
    disk: &Disk,
    identity: &DiskIdentity,
    base: Option<&Base>,
    info: Option<&ImageInfo>,
) -> std::result::Result<String, String> {
    if !disk.can_hold_bitmaps() {
        let format = disk.driver.format.as_deref().unwrap_or("raw");
        return Err(format!("a {format} disk holds no bitmap of changes"));
    }
    if info.is_some_and(|info| info.qcow2_version == Some(2)) {
        return Err(image::OLD.to_owned());
    }
    let base = base.ok_or("there is no point to build on")?;
    base.same_disk(identity)?;
    let checkpoint = base.checkpoint().ok_or("the last point has no checkpoint")?;
    image::check_bitmap(info.ok_or("qemu-img does not say which bitmaps it has")?, checkpoint)?;
    Ok(checkpoint.to_owned())
}

pub(super) fn fingerprint(path: &Path) -> Result<Fingerprint> {
    let file = fs::metadata(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => DiskError::NotFound { disk: path.display().to_string() }.into(),
        _ => MachineError::Local { action: "look at", path: path.display().to_string(), source },
    })?;
    Ok((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

/// Runs when everything has been read: makes sure that nobody has written meanwhile.
fn conclude(
    work: &Work<'_>,
    watch: &Watch<'_>,
    base: Option<&Base>,
    files: &[(PathBuf, Fingerprint)],
    taken: Instantaneous,
    mut identities: Vec<DiskIdentity>,
    reports: &[DiskBackupReport],
) -> Result<Ending> {
    if let Some(error) = watch.verdict() {
        return Err(error);
    }
    work.await_libvirt()?;
    let connection = work.connection;
    check(connection, &work.domain, work.state)?;
    for (path, before) in files {
        // A device has no time that tells; the watch has seen that the machine stayed off.
        if fingerprint(path)? != *before {
            return Err(MachineError::Changed {
                machine: work.domain.name.clone(),
                reason: format!("{} was written to", path.display()),
            });
        }
    }
    for (identity, report) in identities.iter_mut().zip(reports) {
        if report.unexpected_blocks > 0 {
            identity.runs_since_full = 0;
        }
    }
    let tracked = identities.iter().any(|identity| identity.tracked);
    let checkpoint = base.filter(|_| tracked).and_then(|base| {
        let xml = base.configuration.checkpoint.clone()?;
        Some((base.checkpoint()?.to_owned(), xml))
    });
    let archive = work.archive(taken, checkpoint, identities)?;
    Ok(Ending { configuration: Some(archive), ..Ending::default() })
}
