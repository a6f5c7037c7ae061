//! Watches a machine and its scratch space while its disks are read.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use strongroom_base::{Cancel, lock, words};
use strongroom_hypervisor::{Connection, Domain, State};

use crate::{MachineError, error::Result};

/// How soon a request to stop is passed on.
const TICK: Duration = Duration::from_millis(50);

/// How often libvirt is asked.
const LOOK: Duration = Duration::from_millis(250);

/// Free space that is left on the scratch folder's file system, whatever happens: others live there.
const RESERVE: u64 = 256 << 20;

/// What scratch files may take.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    limit: u64,
}

impl Scratch {
    /// `limit` bytes, or the free space less a reserve.
    pub(super) fn plan(folder: &Path, limit: Option<u64>, machine: &str) -> Result<Self> {
        let (free, total) = space(folder)?;
        let reserve = RESERVE.min(total / 10);
        let most = free.saturating_sub(reserve);
        if most == 0 {
            return Err(MachineError::Scratch {
                machine: machine.to_owned(),
                folder: folder.display().to_string(),
                reason: format!(
                    "{} are free, {} have to stay free",
                    words::bytes(free),
                    words::bytes(reserve)
                ),
            });
        }
        let limit = limit.map_or(most, |limit| limit.min(most));
        Ok(Self { folder: folder.to_owned(), limit })
    }
}

fn space(folder: &Path) -> Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| MachineError::Local {
        action: "ask for free space of",
        path: folder.display().to_string(),
        source: error.into(),
    })?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Stops the work when it has to stop, and remembers why.
pub(super) struct Watch<'a> {
    pub(super) domain: &'a Domain,
    /// The state at the beginning: another is a reason to stop.
    pub(super) state: State,
    pub(super) scratch: Option<Scratch>,
    /// The caller's wish to stop.
    pub(super) cancel: &'a Cancel,
    /// What stops the engine.
    pub(super) engine: Cancel,
    ended: AtomicBool,
    verdict: Mutex<Option<MachineError>>,
    scratch_used: AtomicU64,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        domain: &'a Domain,
        state: State,
        scratch: Option<Scratch>,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            domain,
            state,
            scratch,
            cancel,
            engine: Cancel::new(),
            ended: AtomicBool::new(false),
            verdict: Mutex::default(),
            scratch_used: AtomicU64::new(0),
        }
    }

    /// Runs `work` and watches meanwhile, over a connection of its own.
    pub(super) fn over<T>(&self, connection: &Connection, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            scope.spawn(|| self.watch(connection));
            let _end = EndOnDrop(&self.ended);
            work()
        })
    }

    /// Why the work had to stop, if it had to.
    pub(super) fn verdict(&self) -> Option<MachineError> {
        lock(&self.verdict).take()
    }

    /// The most scratch space that was seen in use.
    pub(super) fn scratch_used(&self) -> u64 {
        self.scratch_used.load(Ordering::Relaxed)
    }

    fn watch(&self, connection: &Connection) {
        let mut own = connection.again().ok();
        let clock = connection.clock();
        let mut next = clock.monotonic();
        while !self.ended.load(Ordering::Relaxed) {
            if self.cancel.is_cancelled() {
                self.stop(MachineError::Interrupted);
                return;
            }
            if clock.monotonic() >= next {
                // libvirt may be restarted meanwhile: QEMU's job continues without it.
                if own.is_none() {
                    own = connection.again().ok();
                }
                if let Some(Err(error)) = own.as_ref().map(|own| self.look(own)) {
                    self.stop(error);
                    return;
                }
                next = clock.monotonic().saturating_add(LOOK);
            }
            clock.sleep(TICK);
        }
    }

    fn stop(&self, reason: MachineError) {
        lock(&self.verdict).get_or_insert(reason);
        self.engine.cancel();
    }

    fn look(&self, connection: &Connection) -> Result<()> {
        match check(connection, self.domain, self.state) {
            Err(MachineError::Hypervisor(error)) if error.is_connection() => return Ok(()),
            other => other?,
        }
        let Some(scratch) = &self.scratch else { return Ok(()) };
        let Ok(job) = connection.job(self.domain) else { return Ok(()) };
        self.scratch_used.fetch_max(job.scratch_used, Ordering::Relaxed);
        let (free, total) = space(&scratch.folder)?;
        let error = |reason: String| {
            Err(MachineError::Scratch {
                machine: self.domain.name.clone(),
                folder: scratch.folder.display().to_string(),
                reason,
            })
        };
        if job.scratch_used > scratch.limit {
            return error(format!(
                "the guest has overwritten {}, {} are allowed",
                words::bytes(job.scratch_used),
                words::bytes(scratch.limit)
            ));
        }
        if free < RESERVE.min(total / 10) / 2 {
            return error(format!("only {} are free on its file system", words::bytes(free)));
        }
        Ok(())
    }
}

/// Whether a machine is still in the run and state in which its backup began.
pub(super) fn check(connection: &Connection, domain: &Domain, state: State) -> Result<()> {
    let changed =
        |reason: String| Err(MachineError::Changed { machine: domain.name.clone(), reason });
    let Some(now) = connection.domain_by_uuid(domain.uuid)? else {
        return changed("it is gone from this host".to_owned());
    };
    let is_active = connection.state(&now)?.is_active();
    if is_active != state.is_active() {
        let how = if is_active { "started" } else { "stopped" };
        return changed(format!("it was {how}"));
    }
    if now.run != domain.run {
        return changed("it was stopped and started again".to_owned());
    }
    Ok(())
}

/// Ends the watch when the work ends, also by a panic.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
