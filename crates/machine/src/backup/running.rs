//! A running machine: QEMU's backup job, read over NBD.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use strongroom_base::{EntropyExt as _, Stage};
use strongroom_disk::NbdConnections;
use strongroom_engine::{
    BackupDisk, CleanCheck, DiskBackupReport, DiskEnding, Ending, backup_with,
};
use strongroom_hypervisor::{
    Connection, Disk, Domain, HypervisorError, ImageInfo, ScratchImages, Selection, Source, State,
    agent::GuestAgent,
};

use super::{
    DiskNotes, Work,
    base::{self, Base},
    ciphertext,
    collect::{self, Instantaneous},
    watch::{Scratch, Watch, check},
};
use crate::{
    MachineBackupReport, MachineError,
    configuration::DiskIdentity,
    consistency::{Instant, Proof, Subject},
    error::Result,
    guard::{Guard, JobsOf, Libvirt, end_job_at, still_runs},
    image::{self, Asked},
    live::{CONNECTIONS, JobFiles, LiveDisk, checkpoint_xml, qemu_user},
    orphans,
};

/// How long libvirt may take to see that QEMU has ended. Usually it is a moment; but libvirt 9 waits
/// half a minute for the end of the backup before it looks at what QEMU and the agent say.
const ENDING: Duration = Duration::from_secs(75);

/// An error that comes as soon as this is of what was asked for, not of a machine that is busy.
const SOON: Duration = Duration::from_secs(1);

/// What came of the moment.
struct Begun {
    taken: Instantaneous,
    transaction: Duration,
    time: jiff::Timestamp,
}

/// Who a disk is, and `qemu-img` at work on what its image is.
type Identity = (DiskIdentity, Option<Asked>);

/// A backup of a running machine, from its plan to its point.
struct Run<'a> {
    work: &'a Work<'a>,
    selection: &'a Selection<'a>,
    prefix: String,
    base: Option<Base>,
    disks: Vec<LiveDisk>,
    /// The disks' images and those under them, as far as they are files here.
    chains: BTreeMap<String, Vec<ImageInfo>>,
    notes: Vec<String>,
    disk_notes: DiskNotes,
}

pub(super) fn run(work: &Work<'_>, mut notes: Vec<String>) -> Result<MachineBackupReport> {
    let selection = work.selection()?;
    let prefix = base::prefix(work.vault);
    let base = work.base_or_note(&mut notes)?;
    let since = base::reconcile(work, &prefix, base.as_ref(), &mut notes)?;
    let mut run = Run {
        work,
        selection: &selection,
        prefix,
        base,
        disks: Vec::new(),
        chains: BTreeMap::new(),
        notes,
        disk_notes: DiskNotes::new(),
    };
    run.plan(&since);
    run.warn_of_snapshots()?;
    loop {
        match run.attempt() {
            // Bitmaps that cannot be trusted are dropped, and everything is compared instead.
            Err(MachineError::Hypervisor(error))
                if error.is_bad_checkpoint()
                    && run.disks.iter().any(|disk| disk.since.is_some()) =>
            {
                run.give_up_bitmaps(&error)?;
            }
            Err(MachineError::Hypervisor(error))
                if error.is_no_place_for_bitmaps() && run.disks.iter().any(|disk| disk.tracks) =>
            {
                run.make_no_bitmaps(&error);
            }
            other => return other,
        }
    }
}

impl Run<'_> {
    /// Decides for each disk whether QEMU is asked what has changed.
    fn plan(&mut self, since: &std::result::Result<String, String>) {
        let is_local = self.work.connection.uri().is_local();
        for disk in &self.work.machine.disks {
            let chosen = self.selection.chosen.iter().any(|other| other.target == disk.target);
            let path = disk.source.path().filter(|_| chosen && is_local && disk.can_hold_bitmaps());
            let chain = path.map(|_| image::chain_of(disk)).unwrap_or_default();
            let is_old = chain.first().is_some_and(|top| top.qcow2_version == Some(2));
            self.chains.insert(disk.target.clone(), chain);
            let tracks = chosen && disk.can_hold_bitmaps() && !is_old;
            let mut planned = LiveDisk { target: disk.target.clone(), chosen, tracks, since: None };
            if chosen {
                match self.since(disk, tracks, is_local, since) {
                    Ok(since) => planned.since = Some(since),
                    // The first backup needs no reason.
                    Err(_) if self.base.is_none() => {}
                    Err(reason) => {
                        let words = format!("all of it was read and compared: {reason}");
                        self.disk_notes.entry(disk.target.clone()).or_default().push(words);
                    }
                }
            }
            self.disks.push(planned);
        }
    }

    fn since(
        &self,
        disk: &Disk,
        tracks: bool,
        is_local: bool,
        since: &std::result::Result<String, String>,
    ) -> std::result::Result<String, String> {
        if !tracks && self.chain(disk).first().is_some_and(|top| top.qcow2_version == Some(2)) {
            return Err(image::OLD.to_owned());
        }
        if !tracks {
            let format = disk.driver.format.as_deref().unwrap_or("raw");
            return Err(format!("a {format} disk holds no bitmap of changes"));
        }
        let base = self.base.as_ref().ok_or("there is no point to build on")?;
        let now = collect::identity(disk, None, is_local, self.chain(disk));
        base.same_disk(&now)?;
        since.clone()
    }

    fn chain(&self, disk: &Disk) -> &[ImageInfo] {
        self.chains.get(&disk.target).map(Vec::as_slice).unwrap_or_default()
    }

    fn chosen(&self) -> impl Iterator<Item = &LiveDisk> {
        self.disks.iter().filter(|disk| disk.chosen)
    }

    /// Deletes our checkpoints, whose bitmaps are of no use, and asks for no changes any more.
    fn give_up_bitmaps(&mut self, error: &HypervisorError) -> Result<()> {
        let (connection, domain) = (self.work.connection, &self.work.domain);
        let known = connection.checkpoints(domain)?;
        for name in known.iter().filter(|name| name.starts_with(&self.prefix)) {
            if self.is_of_another_item(name)? {
                continue;
            }
            if let Err(error) = orphans::delete(connection, domain, name) {
                self.notes.push(format!("checkpoint {name} cannot be deleted: {error}"));
            }
        }
        for disk in &mut self.disks {
            if disk.since.take().is_none() {
                continue;
            }
            let words = format!(
                "all of it was read and compared: its bitmap of changes is missing or was left \
                 inconsistent, as by a crash of QEMU or of the host ({error})"
            );
            self.disk_notes.entry(disk.target.clone()).or_default().push(words);
        }
        Ok(())
    }

    /// Says at the first backup what its checkpoint means for internal snapshots.
    fn warn_of_snapshots(&mut self) -> Result<()> {
        let (connection, domain) = (self.work.connection, &self.work.domain);
        if self.base.is_some() || !self.disks.iter().any(|disk| disk.tracks) {
            return Ok(());
        }
        for name in connection.snapshots(domain)? {
            let xml = connection.snapshot_xml(domain, &name)?;
            if !xml.contains("snapshot='external'") {
                let machine = &domain.name;
                self.notes.push(format!(
                    "it has internal snapshots ({name}): while the checkpoint of this backup exists, \
                     going back to them fails and turns the machine off; first: strongroom vm \
                     checkpoints '{machine}' --delete"
                ));
                break;
            }
        }
        Ok(())
    }

    /// Whether another item of this vault builds on a checkpoint.
    fn is_of_another_item(&self, checkpoint: &str) -> Result<bool> {
        let work = self.work;
        let (vault, connection) = (work.vault, work.connection);
        base::is_of_another_item(vault, connection, &work.domain, &work.item, checkpoint)
    }

    /// Makes the scratch images while the guest is not yet frozen.
    fn make_scratch(&self, files: &JobFiles, qemu: Option<(u32, u32)>) -> ScratchImages {
        let (connection, domain) = (self.work.connection, &self.work.domain);
        let size = |disk| Ok((disk, connection.block_sizes(domain, disk)?.capacity));
        let targets = self.chosen().map(|disk| disk.target.as_str());
        let sizes: std::result::Result<Vec<_>, HypervisorError> = targets.map(size).collect();
        sizes.map_or(ScratchImages::Made, |sizes| files.make_scratch(&sizes, qemu))
    }

    /// Begins no checkpoint: an image cannot hold a bitmap.
    fn make_no_bitmaps(&mut self, error: &HypervisorError) {
        self.notes.push(format!("the next backup has to read and compare everything: {error}"));
        for disk in &mut self.disks {
            disk.tracks = false;
        }
    }

    /// Makes the job's folders, starts the guard, and does the work between.
    fn attempt(&mut self) -> Result<MachineBackupReport> {
        let work = self.work;
        let scratch = self.scratch_folder();
        let limit = work.request.scratch_limit;
        let space = Scratch::plan(&scratch, limit, &work.domain.name)?;
        let id = ulid::Ulid::from_parts(
            u64::try_from(work.vault.clock().now().as_millisecond()).unwrap_or(0),
            u128::from_be_bytes(work.vault.entropy().array()),
        );
        let id = id.to_string().to_ascii_lowercase();
        let name = format!("{}{id}", self.prefix);
        let mut guard = Guard::start(
            &work.request.guard,
            work.connection,
            work.domain.uuid,
            agent_socket(work),
            work.lock.guard_file(),
        )?;
        let qemu = qemu_user(work.connection);
        let files = JobFiles::of(&work.request.places.run, &scratch, &id);
        let description = base::description(&work.item);
        let checkpoint = checkpoint_xml(&name, &description, &self.disks);
        let checkpoint = checkpoint.map(|xml| (name, xml));
        let name = checkpoint.as_ref().map(|(name, _)| name.as_str());
        if let Some(run) = work.switch_off {
            guard.switch_off(run)?;
        }
        guard.job(&files.socket(), name, &files.folders(), work.state == State::Running)?;
        let result = files.create(qemu).and_then(|()| {
            let scratch = self.make_scratch(&files, qemu);
            self.protect(&mut guard, &files, checkpoint.as_ref(), space, scratch)
        });
        match result {
            Ok(report) => {
                self.finish(guard, &files, name);
                Ok(report)
            }
            Err(error) => {
                self.abandon(guard, &files, name);
                Err(error)
            }
        }
    }

    /// The instant, the reading, the point.
    fn protect(
        &self,
        guard: &mut Guard,
        files: &JobFiles,
        checkpoint: Option<&(String, String)>,
        space: Scratch,
        scratch: ScratchImages,
    ) -> Result<MachineBackupReport> {
        let work = self.work;
        work.progress.set_stage(Stage::Freezing);
        let (begun, proof) = self.begin(guard, files, checkpoint, scratch)?;
        work.report_instant(&proof);
        let watch = Watch::new(&work.domain, work.state, Some(space), work.cancel);
        let result = watch.over(work.connection, || {
            let (sources, identities) = self.open(files)?;
            let base = self.base.as_ref();
            let mut request = work.engine_request(sources, self.selection, base, &proof);
            request.time = Some(begun.time);
            let (taken, proof) = (begun.taken, proof.clone());
            let finish = |reports: &[DiskBackupReport]| -> Result<Ending> {
                let ending =
                    self.conclude(&watch, files, checkpoint, taken, identities, reports)?;
                // If we die from now on, only the vault knows whether there is a point, and the next
                // backup asks it which checkpoint is to be kept.
                guard.committed(&[])?;
                Ok(ending)
            };
            let (vault, progress) = (work.vault, work.progress);
            let point = backup_with(vault, &request, progress, &watch.engine, finish)?;
            Ok((point, proof))
        });
        let (point, proof) = result.map_err(|error| self.explain(error, &watch, files))?;
        let name = checkpoint.map(|(name, _)| name.clone());
        let superseded = self.base.as_ref().and_then(Base::checkpoint).map(ToOwned::to_owned);
        let superseded: Vec<String> = superseded.filter(|_| name.is_some()).into_iter().collect();
        if let Err(error) = guard.committed(&superseded) {
            tracing::warn!(%error, "the guard does not know that the point is published");
        }
        Ok(MachineBackupReport {
            transaction_seconds: Some(begun.transaction.as_secs_f64()),
            scratch_bytes: watch.scratch_used(),
            checkpoint: name,
            ..work.report(point, proof, self.notes.clone())
        })
    }

    /// QEMU's transaction, in as consistent a state as can be had.
    fn begin(
        &self,
        guard: &mut Guard,
        files: &JobFiles,
        checkpoint: Option<&(String, String)>,
        scratch: ScratchImages,
    ) -> Result<(Begun, Proof)> {
        let work = self.work;
        let backup = files.backup_xml(&self.disks);
        let is_local = work.connection.uri().is_local();
        let at = || {
            let started = work.connection.clock().monotonic();
            let time = work.vault.clock().now();
            let checkpoint = checkpoint.map(|(_, xml)| xml.as_str());
            let begin =
                |scratch| work.connection.begin_backup(&work.domain, &backup, checkpoint, scratch);
            match begin(scratch) {
                Err(error)
                    if scratch == ScratchImages::AreThere
                        && !error.is_connection()
                        && !error.is_bad_checkpoint()
                        && !error.is_no_place_for_bitmaps()
                        && work.connection.clock().monotonic().saturating_sub(started) < SOON =>
                {
                    tracing::debug!(%error, "libvirt makes the scratch images itself");
                    files.remove_scratch();
                    begin(ScratchImages::Made)?;
                }
                other => other?,
            }
            let transaction = work.connection.clock().monotonic().saturating_sub(started);
            let taken = Instantaneous::take(&work.machine, &work.request.places, is_local);
            Ok(Begun { taken, transaction, time })
        };
        let wish = work.request.wish;
        let libvirt = (work.connection.uri().clone(), work.connection.settings().clone());
        let agent = agent_socket(work).map(Path::to_owned);
        let mut hands = Libvirt::new(libvirt, work.domain.uuid, agent, None);
        let machine = Subject {
            name: &work.domain.name,
            state: work.state,
            guest: &GuestAgent::new(work.connection, &work.domain),
            hands: &mut hands,
        };
        Instant::new(machine, guard, work.connection.clock(), wish).run(at)
    }

    /// Opens what QEMU serves.
    fn open(&self, files: &JobFiles) -> Result<(Vec<BackupDisk>, Vec<Identity>)> {
        let is_local = self.work.connection.uri().is_local();
        let (mut sources, mut identities) = (Vec::new(), Vec::new());
        let connections = NbdConnections::new(CONNECTIONS);
        for disk in self.chosen() {
            let Some(described) = self.work.machine.disk(&disk.target) else { continue };
            let format = described.driver.format.as_deref().unwrap_or("raw");
            let source = files.open(disk, format, &connections)?;
            let mut identity =
                collect::identity(described, Some(source.size()), is_local, self.chain(described));
            identity.tracked = disk.tracks;
            let path = described.source.path().filter(|_| is_local && identity.format != "raw");
            // The answer is not needed before all has been read.
            let image = path.and_then(|path| Asked::info(Path::new(path), &identity.format));
            let before = self.base.as_ref().and_then(|base| base.configuration.disk(&disk.target));
            let runs = before.map_or(0, |before| before.runs_since_full.saturating_add(1));
            let every = self.work.request.full_compare_every;
            let mut backup = BackupDisk::new(&disk.target, described.source.to_string(), source);
            (identity.runs_since_full, backup.clean) = match &disk.since {
                Some(_) if every > 0 && runs >= every => (0, CleanCheck::All),
                Some(_) => (runs, self.work.request.clean),
                None => (0, CleanCheck::Trust),
            };
            if let Some(before) = before.filter(|_| disk.since.is_some()) {
                backup.also_changed = before.also_changed();
            }
            backup.notes = self.disk_notes.get(&disk.target).cloned().unwrap_or_default();
            if described.encryption.is_some() {
                backup.notes.push(ciphertext::DECRYPTED.to_owned());
            }
            sources.push(backup);
            identities.push((identity, image));
        }
        Ok((sources, identities))
    }

    /// Runs when everything has been read: makes sure that it was of this machine all the time,
    /// ends the job, and collects what belongs to the point.
    fn conclude(
        &self,
        watch: &Watch<'_>,
        files: &JobFiles,
        checkpoint: Option<&(String, String)>,
        taken: Instantaneous,
        identities: Vec<Identity>,
        reports: &[DiskBackupReport],
    ) -> Result<Ending> {
        let work = self.work;
        if let Some(error) = watch.verdict() {
            return Err(error);
        }
        let whole = |(index, (mut identity, image)): (usize, Identity)| {
            identity.image = image.and_then(Asked::answer).as_ref().map(image::recipe);
            if reports.get(index).is_some_and(|report| report.unexpected_blocks > 0) {
                // All of it was read.
                identity.runs_since_full = 0;
            }
            identity
        };
        let identities = identities.into_iter().enumerate().map(whole).collect();
        work.await_libvirt()?;
        let connection = work.connection;
        check(connection, &work.domain, work.state)?;
        let checkpoint = match checkpoint {
            Some((name, _)) => Some((name.clone(), connection.checkpoint_xml(&work.domain, name)?)),
            None => None,
        };
        if !self.end_job(&work.domain, files)? {
            tracing::warn!("the backup job takes its time to end");
        }
        let name = checkpoint.as_ref().map(|(name, _)| name.clone());
        let archive = work.archive(taken, checkpoint, identities)?;
        let tracked = self.chosen().filter(|disk| disk.tracks);
        let ending = DiskEnding { checkpoint: name, notes: Vec::new() };
        let disks = tracked.map(|disk| (disk.target.clone(), ending.clone())).collect();
        Ok(Ending { disks, configuration: Some(archive), ..Ending::default() })
    }

    /// A failure of reading may only be the sign of something else: QEMU may be gone some time
    /// before libvirt says that the machine is off.
    fn explain(&self, error: MachineError, watch: &Watch<'_>, files: &JobFiles) -> MachineError {
        // The job may have ended since, because of us.
        if error.is_of_vault() {
            return error;
        }
        if let Some(verdict) = watch.verdict() {
            return verdict;
        }
        let work = self.work;
        work.await_libvirt().ok();
        let read_failed = matches!(error, MachineError::Engine(_) | MachineError::Disk(_));
        let deadline = work.connection.clock().monotonic().saturating_add(ENDING);
        loop {
            match check(work.connection, &work.domain, work.state) {
                Err(changed @ MachineError::Changed { .. }) => return changed,
                Ok(()) if read_failed && UnixStream::connect(files.socket()).is_err() => {}
                _ => return error,
            }
            if let Ok(None) = work.connection.backup_xml(&work.domain) {
                // Looked at again, as it may have ended in between.
                return match check(work.connection, &work.domain, work.state) {
                    Err(changed) => changed,
                    Ok(()) => MachineError::State {
                        machine: work.domain.name.clone(),
                        state: work.state.name(),
                        reason: "another program ended its backup job".to_owned(),
                    },
                };
            }
            if work.connection.clock().monotonic() >= deadline {
                return error;
            }
            work.connection.clock().sleep(Duration::from_millis(100));
        }
    }

    /// Ends the job; false if it has not ended in time.
    fn end_job(&self, domain: &Domain, files: &JobFiles) -> Result<bool> {
        let work = self.work;
        let mut jobs = JobsOf { connection: work.connection, domain };
        let socket = files.socket().display().to_string();
        Ok(end_job_at(&mut jobs, work.connection.clock(), &socket)?)
    }

    /// The point is published: what only its making needed goes.
    fn finish(&self, guard: Guard, files: &JobFiles, name: Option<&str>) {
        let work = self.work;
        let done = || -> Result<()> {
            work.await_libvirt()?;
            let connection = work.connection;
            if !self.end_job(&work.domain, files)? {
                return Err(still_runs().into());
            }
            work.let_go_on(&work.domain)?;
            self.delete_old(connection, name)?;
            files.remove();
            guard.done()
        };
        if let Err(error) = done() {
            tracing::warn!(%error, "cleaning up is left to the guard");
        }
    }

    /// Deletes what belonged to earlier points, or to none: all of ours but `name`.
    fn delete_old(&self, connection: &Connection, name: Option<&str>) -> Result<()> {
        let domain = &self.work.domain;
        for old in connection.checkpoints(domain)? {
            if old.starts_with(&self.prefix)
                && Some(old.as_str()) != name
                && !self.is_of_another_item(&old)?
            {
                orphans::delete(connection, domain, &old)?;
            }
        }
        let base = self.base.as_ref().and_then(Base::checkpoint);
        for (target, chain) in &self.chains {
            let bitmaps = chain.first().map(|top| top.bitmaps.as_slice()).unwrap_or_default();
            let names = bitmaps.iter().map(|bitmap| bitmap.name.as_str());
            // The base's was there when the image was looked at.
            let ours = names.filter(|other| {
                other.starts_with(&self.prefix) && Some(*other) != name && Some(*other) != base
            });
            for orphan in ours {
                orphans::delete_unknown(connection, domain, &self.work.machine, target, orphan)?;
            }
        }
        Ok(())
    }

    /// There is no point: the machine is left as it was.
    fn abandon(&self, guard: Guard, files: &JobFiles, checkpoint: Option<&str>) {
        let work = self.work;
        let done = || -> Result<()> {
            work.await_libvirt()?;
            let connection = work.connection;
            let Some(domain) = connection.domain_by_uuid(work.domain.uuid)? else { return Ok(()) };
            if !self.end_job(&domain, files)? {
                return Err(still_runs().into());
            }
            if connection.state(&domain)?.is_active() {
                if let Some(name) = checkpoint
                    && connection.checkpoints(&domain)?.iter().any(|known| known == name)
                {
                    // What its bitmap recorded goes back to the base's.
                    orphans::delete(connection, &domain, name)?;
                }
                work.let_go_on(&domain)?;
            }
            files.remove();
            guard.done()
        };
        if let Err(error) = done() {
            tracing::warn!(%error, "cleaning up is left to the guard");
        }
    }

    /// Where scratch files go: on storage as fast as the disks'.
    fn scratch_folder(&self) -> PathBuf {
        let work = self.work;
        if let Some(folder) = &work.request.scratch_dir {
            return folder.clone();
        }
        let files = self.selection.chosen.iter().filter_map(|disk| match &disk.source {
            Source::File { path } => Path::new(path).parent(),
            Source::Volume { path: Some(path), .. } if !path.starts_with("/dev/") => {
                Path::new(path).parent()
            }
            _ => None,
        });
        files.map(Path::to_owned).next().unwrap_or_else(|| PathBuf::from("/var/tmp"))
    }
}

/// The socket that QEMU has for the guest's agent, if it is on this host.
fn agent_socket<'a>(work: &'a Work<'_>) -> Option<&'a Path> {
    let agent = work.machine.agent.as_ref().filter(|_| work.connection.uri().is_local())?;
    agent.socket.as_deref().map(Path::new)
}
