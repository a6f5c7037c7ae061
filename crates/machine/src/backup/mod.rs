//! Backing up a machine, running or not.
//!
//! Owns the order of the steps and the second attempt when the machine starts or stops meanwhile. The
//! files beside this one own the parts: which earlier point to build on (`base`), the machine's
//! configuration (`collect`), a running machine (`running`, `watch`), one that is off (`stopped`, `ciphertext`).
//!
//! Must not know when and why a backup is made, and how its data is kept: `engine` reads the disks and
//! writes the point.
//!
//! Invariants: one backup of a machine at a time, by its lock. A point is published only after its
//! disks are read and its configuration is collected. Whatever fails, the guard thaws the guest and ends
//! QEMU's job, and an unfinished checkpoint goes.

mod base;
mod ciphertext;
mod collect;
mod running;
mod stopped;
mod watch;

use std::{collections::BTreeMap, fs, io::ErrorKind::NotFound, sync::Arc, time::Duration};

use strongroom_base::{Cancel, Stage};
use strongroom_engine::{BackupDisk, BackupReport, BackupRequest, Progress};
use strongroom_format::{Consistency, ExcludedDisk};
use strongroom_hypervisor::{
    Connection, Disk, DiskChoice, Domain, Form, HypervisorError, JobKind, LeftOut, Machine,
    Selection, SkipReason, State, Uuid,
};
use strongroom_vault::Vault;

pub(crate) use self::base::item_in;
use self::{
    base::Base,
    collect::{Descriptions, Instantaneous},
};
use crate::{
    MachineBackup, MachineBackupReport, MachineError,
    configuration::DiskIdentity,
    consistency::Proof,
    error::Result,
    guard::{Leftovers, clear_leftovers, resume_halted},
    lock::Lock,
};

/// How often a backup begins again when the machine starts or stops meanwhile.
const ATTEMPTS: u32 = 4;

/// How long it is waited for a libvirt that is being restarted.
const LIBVIRT: Duration = Duration::from_secs(30);

/// How long it is waited for the agent of a machine that was started during its backup.
const AGENT: Duration = Duration::from_mins(1);

/// How long it is waited for a machine that is shutting down.
const SHUTDOWN: Duration = Duration::from_mins(1);

/// Backs up a machine and publishes a recovery point.
pub fn backup(
    vault: &Arc<Vault>,
    connection: &Connection,
    request: &MachineBackup,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<MachineBackupReport> {
    backup_watched(vault, connection, request, progress, cancel, &|_| {})
}

/// As [`backup`]; calls `taken` as soon as it is fixed which moment's data the point will have, and
/// how consistent it is. If the backup has to begin again after that, it calls `taken` once more.
pub fn backup_watched(
    vault: &Arc<Vault>,
    connection: &Connection,
    request: &MachineBackup,
    progress: &Progress,
    cancel: &Cancel,
    taken: OnTaken<'_>,
) -> Result<MachineBackupReport> {
    let domain = connection.domain(&request.machine)?;
    let lock = Lock::take(&request.places.run, &domain, connection.clock())?;
    let mut notes = Vec::new();
    let killed = "an earlier backup and its guard were killed";
    match clear_leftovers(connection, domain.uuid, lock.guard_file()) {
        Leftovers::None => {}
        Leftovers::Cleared => notes.push(format!("{killed}: what they left was cleaned up")),
        Leftovers::Remain => notes.push(format!(
            "{killed}, and the guest may still be frozen: its agent does not answer"
        )),
    }
    let mut attempt = 1_u32;
    loop {
        connection.wait_until_it_answers(LIBVIRT)?;
        // Each attempt sees the machine as it is then.
        let Some(domain) = connection.domain_by_uuid(domain.uuid)? else {
            return Err(MachineError::Changed {
                machine: domain.name,
                reason: "it is gone from this host".to_owned(),
            });
        };
        if attempt > 1 {
            wait_for_agent(connection, &domain, cancel)?;
        }
        let work = Work::begin(vault, connection, request, &lock, domain, progress, cancel)?;
        let work = Work { taken, ..work };
        match work.run(notes.clone()) {
            Err(MachineError::Changed { reason, .. }) if attempt < ATTEMPTS => {
                tracing::warn!(%reason, "the backup begins again");
                notes.push(format!("begun again, because {reason} during the backup"));
                attempt = attempt.saturating_add(1);
            }
            Err(MachineError::Hypervisor(error)) if error.is_lost() && attempt < ATTEMPTS => {
                tracing::warn!(%error, "the backup begins again");
                notes.push("begun again, because libvirt was restarted".to_owned());
                attempt = attempt.saturating_add(1);
            }
            other => return other,
        }
    }
}

/// It is fixed which moment's data a recovery point will have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What was proved.
    pub consistency: Consistency,
    /// For how long the guest's file systems were frozen; none if they were not.
    pub frozen: Option<Duration>,
}

/// Is called with that.
pub type OnTaken<'a> = &'a dyn Fn(&Taken);

/// One attempt: a machine as it is now, and what is wanted of it.
struct Work<'a> {
    vault: &'a Arc<Vault>,
    connection: &'a Connection,
    request: &'a MachineBackup,
    lock: &'a Lock,
    domain: Domain,
    state: State,
    machine: Machine,
    descriptions: Descriptions,
    item: String,
    /// The run of the machine that was started only for this backup.
    switch_off: Option<i32>,
    progress: &'a Progress,
    cancel: &'a Cancel,
    taken: OnTaken<'a>,
}

impl<'a> Work<'a> {
    fn begin(
        vault: &'a Arc<Vault>,
        connection: &'a Connection,
        request: &'a MachineBackup,
        lock: &'a Lock,
        domain: Domain,
        progress: &'a Progress,
        cancel: &'a Cancel,
    ) -> Result<Self> {
        if cancel.is_cancelled() {
            return Err(MachineError::Interrupted);
        }
        progress.set_stage(Stage::Preparing);
        let state = settled(connection, &domain, cancel)?;
        let domain = connection.domain_by_uuid(domain.uuid)?.unwrap_or(domain);
        let descriptions = Descriptions::read(connection, &domain)?;
        let mut machine = Machine::parse(&descriptions.present)?;
        connection.resolve_volumes(&mut machine);
        if let Some(manager) = machine.manager
            && !request.allow_managed
        {
            return Err(MachineError::Managed {
                machine: machine.name,
                manager: manager.to_string(),
            });
        }
        let item = match &request.item {
            Some(item) => item.clone(),
            None => base::item_of(vault, &machine.name, domain.uuid)?,
        };
        Ok(Self {
            vault,
            connection,
            request,
            lock,
            domain,
            state,
            machine,
            descriptions,
            item,
            switch_off: None,
            progress,
            cancel,
            taken: &|_| {},
        })
    }

    fn run(&self, notes: Vec<String>) -> Result<MachineBackupReport> {
        ciphertext::check(self)?;
        match self.state {
            State::Off if self.needs_qemu()?.is_some() && self.request.start_paused => {
                self.started_for_reading(notes)
            }
            State::Off => stopped::run(self, notes),
            State::Running | State::Paused | State::Suspended | State::Crashed => {
                self.check_not_busy()?;
                running::run(self, notes)
            }
            State::ShuttingDown | State::Unknown => Err(MachineError::State {
                machine: self.domain.name.clone(),
                state: self.state.name(),
                reason: "wait until it is off or running".to_owned(),
            }),
        }
    }

    /// Why a disk of a machine that is off cannot be read without QEMU, if there is such a disk.
    fn needs_qemu(&self) -> Result<Option<String>> {
        let selection = self.selection()?;
        Ok(selection.chosen.iter().find_map(|disk| stopped::needs_qemu(self, disk)))
    }

    /// Starts the machine with its processors standing still, and backs it up as one that runs.
    fn started_for_reading(&self, mut notes: Vec<String>) -> Result<MachineBackupReport> {
        let domain = self.connection.start(&self.domain, true)?;
        notes.push(
            "it was off, and was started for the backup with its processors standing still"
                .to_owned(),
        );
        let run = domain.run;
        let work = Work::begin(
            self.vault,
            self.connection,
            self.request,
            self.lock,
            domain,
            self.progress,
            self.cancel,
        );
        let result = work.and_then(|work| {
            running::run(&Work { switch_off: run, taken: self.taken, ..work }, notes)
        });
        switch_off(self.connection, self.domain.uuid, run)?;
        result
    }

    /// Refuses a backup that would wait for, or disturb, another program's operation.
    fn check_not_busy(&self) -> Result<()> {
        let busy = |reason: &str| {
            Err(MachineError::Busy { machine: self.domain.name.clone(), reason: reason.to_owned() })
        };
        if self.connection.backup_xml(&self.domain)?.is_some() {
            return busy("another program's backup job runs (virsh backup-dumpxml shows it)");
        }
        match self.connection.job(&self.domain)?.kind {
            JobKind::None => {}
            JobKind::Backup => return busy("another program's backup job runs"),
            JobKind::Migration => return busy("it is being migrated"),
            JobKind::Other => return busy("a snapshot, dump or save runs"),
        }
        for disk in &self.machine.disks {
            let job = self.connection.block_job(&self.domain, &disk.target).ok().flatten();
            if disk.mirror.is_some() || job.is_some() {
                return busy(&format!("a block job copies its disk {}", disk.target));
            }
        }
        Ok(())
    }

    fn selection(&self) -> Result<Selection<'_>> {
        let is_off_here = self.state == State::Off && self.connection.uri().is_local();
        Ok(select(&self.request.disks, &self.machine, is_off_here)?)
    }

    /// The last committed point, or why there is none to build on.
    fn base(&self) -> Result<std::result::Result<Base, String>> {
        base::find(self.vault, &self.item, self.domain.uuid, self.request.item.is_some())
    }

    /// What there is to build on; otherwise notes why there is nothing.
    fn base_or_note(&self, notes: &mut Vec<String>) -> Result<Option<Base>> {
        let reason = match self.base()? {
            Ok(base) => return Ok(Some(base)),
            Err(reason) => reason,
        };
        if reason == base::FIRST {
            let (vault, connection) = (self.vault, self.connection);
            for other in base::other_items(vault, connection, &self.domain, &self.item)? {
                notes.push(format!(
                    "this machine was backed up as {other}; to continue that item: --item '{other}'"
                ));
            }
        }
        notes.push(format!("everything is read and compared: {reason}"));
        Ok(None)
    }

    /// The engine's request.
    fn engine_request(
        &self,
        disks: Vec<BackupDisk>,
        selection: &Selection<'_>,
        base: Option<&Base>,
        proof: &Proof,
    ) -> BackupRequest {
        let excluded = selection.left_out.iter().map(|(disk, why)| ExcludedDisk {
            name: disk.target.clone(),
            reason: match why {
                LeftOut::NotChosen => "not chosen".to_owned(),
                LeftOut::Skipped(reason) => reason.to_string(),
            },
        });
        let request = self.request;
        BackupRequest {
            excluded: excluded.collect(),
            tags: request.tags.clone(),
            locked_until: request.locked_until,
            consistency: proof.consistency,
            best_consistency: proof.best,
            evidence: proof.evidence.clone(),
            parent: base.map(|base| base.point),
            skip_bad_blocks: request.skip_bad_blocks,
            deltas: request.deltas,
            threads: request.threads,
            limit_rate: request.limit_rate,
            ..BackupRequest::new(&self.item, &request.host, disks)
        }
    }

    /// Waits for libvirt, which may be restarting; QEMU runs on without it.
    fn await_libvirt(&self) -> Result<()> {
        Ok(self.connection.wait_until_it_answers(LIBVIRT)?)
    }

    /// Resumes the machine if QEMU has paused it because scratch space ran out.
    fn let_go_on(&self, domain: &Domain) -> Result<()> {
        if self.state == State::Running {
            resume_halted(self.connection, domain)?;
        }
        Ok(())
    }

    /// The archive of all that the point has besides disks.
    fn archive(
        &self,
        taken: Instantaneous,
        checkpoint: Option<(String, String)>,
        disks: Vec<DiskIdentity>,
    ) -> Result<Vec<u8>> {
        let configuration = collect::configuration(
            self.connection,
            &self.domain,
            &self.machine,
            self.state,
            self.descriptions.clone(),
            taken,
            checkpoint,
            disks,
            self.request.encrypted_disks,
        )?;
        configuration.to_archive().map_err(|source| MachineError::Local {
            action: "make the archive of",
            path: self.domain.name.clone(),
            source,
        })
    }

    /// Says that the data is fixed.
    fn report_instant(&self, proof: &Proof) {
        (self.taken)(&Taken { consistency: proof.consistency, frozen: proof.frozen });
    }

    fn report(&self, point: BackupReport, proof: Proof, notes: Vec<String>) -> MachineBackupReport {
        MachineBackupReport {
            machine: self.machine.name.clone(),
            uuid: self.domain.uuid.to_string(),
            state: self.state.name().to_owned(),
            consistency: proof.consistency,
            evidence: proof.evidence,
            frozen_seconds: proof.frozen.map(|frozen| frozen.as_secs_f64()),
            transaction_seconds: None,
            scratch_bytes: 0,
            checkpoint: None,
            notes,
            point,
        }
    }
}

/// Which disks are backed up. Of a machine that is off on this host, those that it starts without are
/// left out, as they are when it runs.
pub(crate) fn select<'a>(
    choice: &DiskChoice,
    machine: &'a Machine,
    is_off_here: bool,
) -> std::result::Result<Selection<'a>, HypervisorError> {
    let mut selection = choice.select(machine)?;
    let is_absent = |disk: &Disk| {
        let path = disk.source.path().filter(|_| is_off_here && disk.is_optional);
        path.is_some_and(|path| fs::metadata(path).is_err_and(|error| error.kind() == NotFound))
    };
    let (absent, chosen): (Vec<_>, Vec<_>) =
        selection.chosen.into_iter().partition(|disk| is_absent(disk));
    if chosen.is_empty() {
        return Err(HypervisorError::NoDisks { machine: machine.name.clone() });
    }
    selection.chosen = chosen;
    let left_out = absent.into_iter().map(|disk| (disk, LeftOut::Skipped(SkipReason::Absent)));
    selection.left_out.extend(left_out);
    Ok(selection)
}

/// Switches a machine off that was started only to be read, unless somebody has resumed it: then it
/// is theirs.
pub(crate) fn switch_off(
    connection: &Connection,
    machine: Uuid,
    run: Option<i32>,
) -> std::result::Result<(), HypervisorError> {
    let Some(now) = connection.domain_by_uuid(machine)? else { return Ok(()) };
    if run.is_some() && now.run == run && connection.state(&now)? == State::Paused {
        connection.power_off(&now)?;
    }
    Ok(())
}

/// Waits for the agent of a machine that has just been started. libvirt 9 does not take note of an
/// agent that appears while a backup runs: it would be without one until it is restarted.
fn wait_for_agent(connection: &Connection, domain: &Domain, cancel: &Cancel) -> Result<()> {
    let clock = connection.clock();
    let deadline = clock.monotonic().saturating_add(AGENT);
    while connection.state(domain)? == State::Running
        && clock.monotonic() < deadline
        && !cancel.is_cancelled()
    {
        let xml = connection.domain_xml(domain, Form::Present)?;
        let document = roxmltree::Document::parse(&xml).ok();
        let is_missing = document.is_some_and(|document| {
            let mut channels = document.descendants().filter(|node| node.has_tag_name("target"));
            channels.any(|target| {
                target.attribute("name") == Some("org.qemu.guest_agent.0")
                    && target.attribute("state") == Some("disconnected")
            })
        });
        if !is_missing {
            break;
        }
        clock.sleep(Duration::from_millis(250));
    }
    Ok(())
}

/// A machine's state; if it is shutting down, the one after that.
fn settled(connection: &Connection, domain: &Domain, cancel: &Cancel) -> Result<State> {
    let clock = connection.clock();
    let deadline = clock.monotonic().saturating_add(SHUTDOWN);
    loop {
        let state = connection.state(domain)?;
        let waits = state == State::ShuttingDown && clock.monotonic() < deadline;
        if !waits || cancel.is_cancelled() {
            return Ok(state);
        }
        clock.sleep(Duration::from_millis(100));
    }
}

/// Crash-consistent for a reason.
fn crash(reason: &str) -> Proof {
    let evidence = vec![reason.to_owned()];
    Proof { consistency: Consistency::Crash, best: None, evidence, frozen: None }
}

/// Notes of each disk, by target.
type DiskNotes = BTreeMap<String, Vec<String>>;
