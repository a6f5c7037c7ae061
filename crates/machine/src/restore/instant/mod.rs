//! A machine that runs while its disks are restored.
//!
//! ```text
//!  recovery point ─▶ export (NBD) ◀─ overlay ◀─ the guest's writes          the machine runs from here on
//!        └─▶ disk.partial ─▶ disk: the whole of the point                     the engine fills it meanwhile
//!                              └─ the overlay's content is copied to it ─▶ pivot: the machine runs on the disk
//! ```
//!
//! The machine starts on an overlay for each disk, with an export of the recovery point under it. The engine writes the
//! point to the final image meanwhile. When it is complete, QEMU copies what the overlay has to it, and the machine
//! changes over. If it is off by then, `qemu-img` does that.
//!
//! Owns the order of these steps, and how they continue. At every moment the latest of the guest's writes are in the
//! image that libvirt's description of the machine names: an overlay is complete with the point under it, whatever has
//! become of the final image. The machine is paused while it changes over, so that both images are the same until
//! libvirt has written its description: a host that dies in between loses nothing.
//!
//! Must not know how a point is read ([`serve`]), or how disks are written ([`super::new`]).

mod overlay;
mod pivot;
mod serve;
mod undo;
pub(crate) mod watch;

use std::time::Duration;

use strongroom_base::{Cancel, Stage, Things};
use strongroom_engine::Progress;
use strongroom_hypervisor::{Changes, DiskChange, Domain, Form, Machine, State};
use strongroom_reports::{InstantPhase, InstantReport, PhaseReport, PowerState};

pub use self::undo::{Running, find, undo};
use self::watch::Watch;
use super::{
    journal::{Journal, Note},
    new::{Done, Work},
    plan::PlannedDisk,
    request::Power,
};
use crate::{MachineError, error::Result, served::Served};

/// How long after an error work is tried again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked whether the work is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Carries out a plan: the machine runs first, and then gets its disks.
pub(super) fn run(work: &Work<'_>, progress: &Progress, cancel: &Cancel) -> Result<Done> {
    let (path, note) = &work.plan.journal;
    let journal = Journal::write(path, note)?;
    progress.set_stage(Stage::Connecting);
    let served = serve::start(work)?;
    let phases = Phases { work, progress, began: work.started, ended: Vec::new() };
    let note = note.clone();
    let mut instant = Instant { work, journal, note, served, progress, cancel, phases };
    instant.phases.end(InstantPhase::Connect);
    let mut done = Done::default();
    progress.set_stage(Stage::Configuring);
    let domain = instant.define()?;
    let watch = Watch::start(work.connection, &domain)?;
    instant.phases.end(InstantPhase::Define);
    progress.set_stage(Stage::Starting);
    let has_started = instant.start(&domain)?;
    instant.phases.end(InstantPhase::Start);
    done.instant = Some(InstantReport {
        started_seconds: has_started.then(|| instant.seconds()),
        ..InstantReport::default()
    });
    match instant.complete(&domain, &mut done) {
        Ok(()) => {}
        Err(error) => {
            // Without the export it would stop at its next read.
            let held = instant.hold(&domain);
            watch.stop();
            held?;
            return Err(match error {
                MachineError::Interrupted => {
                    MachineError::Held { machine: work.plan.machine.name.clone() }
                }
                error => error,
            });
        }
    }
    let resumed = watch.stop();
    instant.journal.remove()?;
    instant.served.stop();
    instant.phases.end(InstantPhase::Finish);
    if let Some(report) = &mut done.instant {
        report.resumed = resumed;
        report.phases = instant.phases.ended;
    }
    // It may have been shut down or paused meanwhile.
    done.state = Some(match work.connection.state(&domain)? {
        State::Paused => PowerState::Paused,
        state if state.is_active() => PowerState::Running,
        _ => PowerState::Off,
    });
    Ok(done)
}

/// A restore under way.
struct Instant<'a> {
    work: &'a Work<'a>,
    journal: Journal,
    /// What the journal says now.
    note: Note,
    served: Served,
    progress: &'a Progress,
    cancel: &'a Cancel,
    phases: Phases<'a>,
}

/// The phases that have ended.
struct Phases<'a> {
    work: &'a Work<'a>,
    progress: &'a Progress,
    /// When the one at work began.
    began: Duration,
    ended: Vec<PhaseReport>,
}

impl Phases<'_> {
    /// This one has ended, and the next begins.
    fn end(&mut self, phase: InstantPhase) {
        let now = self.work.connection.clock().monotonic();
        let took = now.saturating_sub(std::mem::replace(&mut self.began, now));
        self.progress.pass(phase.name(), took);
        self.ended.push(PhaseReport { phase, seconds: took.as_secs_f64() });
    }
}

impl Instant<'_> {
    fn seconds(&self) -> f64 {
        let now = self.work.connection.clock().monotonic();
        now.saturating_sub(self.work.started).as_secs_f64()
    }

    fn disks(&self) -> &[PlannedDisk] {
        &self.work.plan.disks
    }

    fn check_cancel(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(MachineError::Interrupted) } else { Ok(()) }
    }

    /// Makes the machine known, on overlays.
    fn define(&self) -> Result<Domain> {
        let (work, plan) = (self.work, self.work.plan);
        if !plan.is_defined {
            work.firmware()?;
            work.secrets()?;
            for disk in self.disks() {
                overlay::create(disk, &self.served.url(&disk.name))?;
            }
        }
        let overlay = |disk: &PlannedDisk| {
            let change = DiskChange::Overlay {
                path: disk.overlay().display().to_string(),
                socket: self.served.socket().display().to_string(),
                export: disk.name.clone(),
            };
            (disk.name.clone(), change)
        };
        let changes =
            Changes { disks: self.disks().iter().map(overlay).collect(), ..Changes::default() };
        let xml = Machine::rewrite(&plan.xml, &changes, &**work.vault.entropy())?;
        work.define(&xml)
    }

    /// Starts it, or resumes it if an earlier attempt has paused it. Whether it was off.
    fn start(&mut self, domain: &Domain) -> Result<bool> {
        let connection = self.work.connection;
        self.note.has_run = true;
        self.journal.rewrite(&self.note)?;
        let is_off = !connection.state(domain)?.is_active();
        let stays_paused = self.work.request.power == Power::Paused;
        if is_off {
            connection.start(domain, stays_paused)?;
        } else if self.note.is_held && connection.state(domain)? == State::Paused {
            connection.resume(domain)?;
        }
        self.set_held(false)?;
        Ok(is_off)
    }

    /// Fills the disks and gives them to the machine.
    fn complete(&mut self, domain: &Domain, done: &mut Done) -> Result<()> {
        // A disk with its final name is whole, and may have writes of the guest already.
        if !self.disks().iter().all(|disk| disk.path.exists()) {
            let restored = self.patiently(domain, "the restore of its disks", |it| {
                it.progress.count(Stage::Restoring, Things::Bytes, 0, 0);
                it.work.disks(it.progress, it.cancel)
            })?;
            done.restored = Some(restored);
            self.phases.end(InstantPhase::Fill);
        }
        self.progress.set_stage(Stage::Pivoting);
        let paused = self.patiently(domain, "the change to its disks", Self::pivot)?;
        self.phases.end(InstantPhase::Pivot);
        if let Some(report) = &mut done.instant {
            report.paused_seconds = paused.as_secs_f64();
        }
        self.progress.set_stage(Stage::Finishing);
        self.finish(domain)
    }

    /// Its description gets what it had before the overlays, and they go.
    fn finish(&self, domain: &Domain) -> Result<()> {
        let (work, connection) = (self.work, self.work.connection);
        let xml = connection.domain_xml(domain, Form::Inactive)?;
        let drivers_of = Some(work.plan.xml.clone());
        let changes = Changes { drivers_of, ..Changes::default() };
        let xml = Machine::rewrite(&xml, &changes, &**work.vault.entropy())?;
        connection.define(&xml)?;
        connection.set_autostart(domain, work.plan.autostart)?;
        for disk in self.disks() {
            overlay::remove(disk)?;
        }
        work.refresh_pools();
        Ok(())
    }

    /// Does work until it succeeds: meanwhile the machine runs on what there is. It ends if it is to stop, or if
    /// the machine is no longer there.
    fn patiently<T>(
        &mut self,
        domain: &Domain,
        what: &str,
        mut work: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let connection = self.work.connection;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match work(self) {
                Ok(done) => return Ok(done),
                Err(MachineError::Interrupted) => return Err(MachineError::Interrupted),
                Err(error) => error,
            };
            self.check_cancel()?;
            // Somebody has removed the machine.
            if let Ok(None) = connection.domain_by_uuid(domain.uuid) {
                return Err(error);
            }
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(
                machine = domain.name, %error, cause, seconds = pause.as_secs(),
                "{what} failed and is tried again; the machine runs meanwhile",
            );
            self.wait(pause)?;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn wait(&self, pause: Duration) -> Result<()> {
        let clock = self.work.connection.clock();
        let end = clock.monotonic().saturating_add(pause);
        while clock.monotonic() < end {
            self.check_cancel()?;
            clock.sleep(LOOK);
        }
        Ok(())
    }

    fn set_held(&mut self, is_held: bool) -> Result<()> {
        if self.note.is_held != is_held {
            self.note.is_held = is_held;
            self.journal.rewrite(&self.note)?;
        }
        Ok(())
    }

    /// Pauses the machine if it runs; whether it did. The journal knows it before.
    fn hold(&mut self, domain: &Domain) -> Result<bool> {
        let connection = self.work.connection;
        let runs = connection.domain_by_uuid(domain.uuid)?.map_or(Ok(false), |domain| {
            Ok::<_, MachineError>(connection.state(&domain)? == State::Running)
        })?;
        if runs {
            self.set_held(true)?;
            connection.pause(domain)?;
        }
        Ok(runs)
    }

    /// Lets a machine run again that [`Self::hold`] has paused.
    fn release(&mut self, domain: &Domain) -> Result<()> {
        self.work.connection.resume(domain)?;
        self.set_held(false)
    }
}
