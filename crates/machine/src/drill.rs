//! A drill: machines are started from their recovery points together, in a network of their own, and the time until each
//! works is compared with the time that is wanted.
//!
//! Owns the network, the order of the machines, and the report. How a machine is started and watched is [`boot`]'s.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use strongroom_base::{Cancel, Coded as _};
use strongroom_engine::Progress;
use strongroom_format::Manifest;
use strongroom_hypervisor::{Connection, Named, Uuid};
use strongroom_reports::{BootVerdict, DrillReport, DrilledMachine};
use strongroom_vault::Vault;

use crate::{
    Boot, MachineError,
    boot::{self, BootRequest, Together},
    boots,
    error::Result,
};

/// How often a machine looks whether those before it have come as far as they go.
const LOOK: Duration = Duration::from_millis(200);

/// Which network the machines are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillNetwork {
    /// One that is made for the drill, and removed at its end. The host has no address on it.
    Own,
    /// None: they do not reach each other.
    None,
    /// One of libvirt's, which must be closed.
    Named(String),
}

/// A drill.
#[derive(Clone, Debug)]
pub struct DrillRequest {
    /// The recovery points, in order.
    pub points: Vec<Manifest>,
    /// How each machine is started and watched; its network and its group do not count.
    pub boot: BootRequest,
    /// The network.
    pub network: DrillNetwork,
    /// Whether a machine starts only when those before it have come as far as they go.
    pub in_order: bool,
    /// The time that a machine may take until it works.
    pub wanted: Option<Duration>,
}

/// Carries a drill out. The verifications come with the report, to be kept; a machine that could not be
/// started has none.
pub fn drill(
    vault: &Arc<Vault>,
    connection: &Connection,
    request: &DrillRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<(DrillReport, Vec<Boot>)> {
    let clock = connection.clock();
    let (began, begun) = (clock.monotonic(), clock.now());
    let network = Network::make(vault, connection, request)?;
    let group = Together::of(request.points.len());
    let boot = BootRequest {
        network: network.name.clone(),
        together: Some(group),
        ..request.boot.clone()
    };
    let one = One { vault, connection, request, boot: &boot, progress, cancel };
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let start = |(place, point)| scope.spawn(move || one.run(place, point));
        let threads: Vec<_> = request.points.iter().enumerate().map(start).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    drop(network);
    if cancel.is_cancelled() {
        return Err(MachineError::Interrupted);
    }
    if outcomes.len() < request.points.len() {
        return Err(MachineError::Vault(strongroom_vault::VaultError::Bug(
            "a drill's thread panicked",
        )));
    }
    let (mut machines, mut kept) = (Vec::new(), Vec::new());
    for (outcome, point) in outcomes.into_iter().zip(&request.points) {
        let waited = outcome.began.saturating_sub(began).as_secs_f64();
        let age_seconds = begun.duration_since(point.time).as_secs_f64();
        let wanted = request.wanted.map(|wanted| wanted.as_secs_f64());
        machines.push(drilled(point, age_seconds, waited, wanted, &outcome.result));
        kept.extend(outcome.result.ok());
    }
    let is_well = |machine: &DrilledMachine| {
        machine.verdict == BootVerdict::Passed && machine.is_in_time != Some(false)
    };
    let is_all_well = machines.iter().all(is_well);
    let report = DrillReport {
        begun,
        host: connection.hostname()?,
        verdict: if is_all_well { BootVerdict::Passed } else { BootVerdict::Failed },
        wanted_seconds: request.wanted.map(|wanted| wanted.as_secs_f64()),
        machines,
        seconds: clock.monotonic().saturating_sub(began).as_secs_f64(),
    };
    Ok((report, kept))
}

/// What became of a machine.
struct Outcome {
    /// When its turn came.
    began: Duration,
    result: Result<Boot>,
}

/// What the machines have in common.
#[derive(Clone, Copy)]
struct One<'a> {
    vault: &'a Arc<Vault>,
    connection: &'a Connection,
    request: &'a DrillRequest,
    boot: &'a BootRequest,
    progress: &'a Progress,
    cancel: &'a Cancel,
}

impl One<'_> {
    fn run(self, place: usize, point: &Manifest) -> Outcome {
        let clock = self.connection.clock();
        let turn = self.wait(place);
        let began = clock.monotonic();
        let verify = || {
            let connection = self.connection.again()?;
            let history = boots(self.vault, &point.item)?;
            let Self { vault, boot, progress, cancel, .. } = self;
            boot::verify(vault, &connection, point, &history, boot, progress, cancel)
        };
        Outcome { began, result: turn.and_then(|()| verify()) }
    }

    /// Waits until it is the turn of the machine at this place.
    fn wait(&self, place: usize) -> Result<()> {
        let Some(group) = self.boot.together.as_ref().filter(|_| self.request.in_order) else {
            return Ok(());
        };
        let those_left = self.request.points.len().saturating_sub(place);
        while group.left() > those_left {
            if self.cancel.is_cancelled() {
                return Err(MachineError::Interrupted);
            }
            self.connection.clock().sleep(LOOK);
        }
        Ok(())
    }
}

fn drilled(
    point: &Manifest,
    age_seconds: f64,
    waited: f64,
    wanted: Option<f64>,
    result: &Result<Boot>,
) -> DrilledMachine {
    let report = result.as_ref().ok().map(|boot| boot.report.clone());
    let passed = report.as_ref().filter(|report| report.verdict == BootVerdict::Passed);
    let recovery_seconds = passed.and_then(|report| {
        let expected = report.rungs.iter().find(|one| one.rung == report.expected)?;
        Some(waited + report.start_seconds + expected.seconds?)
    });
    let error = result.as_ref().err();
    let reason = match (&report, error) {
        (Some(report), _) => report.reason.clone(),
        (None, error) => error.map(ToString::to_string),
    };
    DrilledMachine {
        item: point.item.clone(),
        recovery_point: point.id,
        point_time: point.time,
        age_seconds,
        verdict: if passed.is_some() { BootVerdict::Passed } else { BootVerdict::Failed },
        reason,
        code: error.map(|error| error.code().name.to_owned()),
        is_in_time: wanted.map(|wanted| recovery_seconds.is_some_and(|seconds| seconds <= wanted)),
        recovery_seconds,
        boot: report,
    }
}

/// What the names of networks that are made for drills begin with.
const PREFIX: &str = "strongroom-drill-";

/// The network of a drill. One that was made for it goes with it.
struct Network<'a> {
    name: Option<String>,
    made: Option<(&'a Connection, Named, PathBuf, File)>,
}

impl<'a> Network<'a> {
    fn make(vault: &Vault, connection: &'a Connection, request: &DrillRequest) -> Result<Self> {
        match &request.network {
            DrillNetwork::None => Ok(Self { name: None, made: None }),
            DrillNetwork::Named(name) => Ok(Self { name: Some(name.clone()), made: None }),
            DrillNetwork::Own => {
                let run = &request.boot.places.run;
                clean(connection, run);
                let name = format!("{PREFIX}{}", Uuid::random(&**vault.entropy()));
                let path = run.join(&name);
                let lock = fs::create_dir_all(run).and_then(|()| File::create(&path));
                let lock = lock.and_then(|file| file.lock().map(|()| file));
                let lock = lock.map_err(|source| MachineError::Local {
                    action: "lock",
                    path: path.display().to_string(),
                    source,
                })?;
                match connection.create_closed_network(&name) {
                    Ok(network) => {
                        let made = Some((connection, network, path, lock));
                        Ok(Self { name: Some(name), made })
                    }
                    Err(error) => {
                        fs::remove_file(&path).ok();
                        Err(MachineError::HostLacks {
                            host: connection.hostname().unwrap_or_else(|_| "the host".to_owned()),
                            machine: "a drill".to_owned(),
                            reason: format!(
                                "no network can be made for it: {error}; give --network none, or a closed network of \
                                 yours"
                            ),
                        })
                    }
                }
            }
        }
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let Some((connection, network, path, _lock)) = &self.made else { return };
        remove(connection, network, path);
    }
}

fn remove(connection: &Connection, network: &Named, path: &Path) {
    match connection.remove_network(network) {
        Ok(()) => drop(fs::remove_file(path)),
        Err(error) => {
            tracing::warn!(%error, network = network.name, "the network of a drill is left");
        }
    }
}

/// Removes the networks of drills that were killed.
fn clean(connection: &Connection, run: &Path) {
    for network in connection.networks().unwrap_or_default() {
        let path = run.join(&network.name);
        if !network.name.starts_with(PREFIX) {
            continue;
        }
        if File::open(&path).is_ok_and(|lock| lock.try_lock().is_ok()) {
            remove(connection, &network, &path);
        }
    }
}
