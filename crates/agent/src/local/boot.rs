//! Boot verifications and drills: machines started from recovery points in isolation, and what is kept of that.
//!
//! Owns how an order becomes a request, and a result an answer. How a machine is started and watched is the matter of
//! `strongroom_machine`.

use std::{sync::Arc, time::Duration};

use strongroom_api::{
    BootOutcome, BootStep, BootWanted, ErrorBody, PointBoot, TaskName, TaskState,
};
use strongroom_base::{Code, JobId, codes, message};
use strongroom_machine::{
    Boot, MachineError,
    boot::{self, BootRequest},
    drill::{DrillNetwork, DrillRequest, drill},
};
use strongroom_orders::{BootDone, BootEvidence, BootOrder, DrillDone, DrillOrder, Result, Watch};
use strongroom_reports::{BootDamage, BootReport, BootVerdict, DrilledMachine, Rung};
use strongroom_vault::Vault;

use super::LocalAgent;
use crate::{error::body, facts::warning};

/// How long a machine is watched at most, if nothing is said.
const TIMEOUT: Duration = Duration::from_mins(10);
/// How long it may do nothing, if nothing is said.
const IDLE: Duration = Duration::from_mins(1);
/// The most that it may write, if nothing is said.
const WRITES_MAX: u64 = 4 << 30;

impl LocalAgent {
    /// Starts a machine from a recovery point, unless an earlier try of the order has come to its end.
    pub(super) fn boot(&self, order: &BootOrder, watch: &Watch) -> Result<BootDone> {
        watch.task(TaskName::Boot, TaskState::InProgress, None);
        let open = self.vaults.open(&order.vault).map_err(body)?;
        let vault = &open.vault;
        let kept = strongroom_machine::boot(vault, order.point).map_err(body)?;
        let kept = kept.filter(|boot| boot.report.job == Some(order.job));
        let report = match kept {
            Some(boot) => boot.report,
            None => self.boot_now(vault, order, watch)?.report,
        };
        let boot = point_boot(&report, order.job);
        watch.task(TaskName::Boot, TaskState::Completed, Some(in_words(&boot)));
        let warnings = open.warnings.iter().map(warning).collect();
        let damage = report.damage.as_ref().map(damaged);
        Ok(BootDone { boot, damage, warnings, report: report.into() })
    }

    fn boot_now(&self, vault: &Arc<Vault>, order: &BootOrder, watch: &Watch) -> Result<Boot> {
        let connection = self.connect()?;
        let point = vault.restorable_point(&order.item, order.point).map_err(body)?;
        let history = strongroom_machine::boots(vault, &order.item).map_err(body)?;
        let request = self.boot_request(&order.wanted, order.job)?;
        let (progress, cancel) = (&watch.progress, &watch.cancel);
        let boot = boot::verify(vault, &connection, &point, &history, &request, progress, cancel);
        let boot = boot.map_err(body)?;
        strongroom_machine::keep_boot(vault, &boot).map_err(body)?;
        Ok(boot)
    }

    fn boot_request(&self, wanted: &BootWanted, job: JobId) -> Result<BootRequest> {
        let host = &self.host;
        // QEMU is started elsewhere.
        let folder = host.boots.canonicalize().map_err(|source| {
            let path = host.boots.display().to_string();
            body(MachineError::Local { action: "find", path, source })
        })?;
        let seconds = |given: Option<u32>, usual: Duration| {
            given.map_or(usual, |seconds| Duration::from_secs(seconds.into()))
        };
        Ok(BootRequest {
            expect: wanted.expect.map(rung).transpose()?,
            timeout: seconds(wanted.timeout_seconds, TIMEOUT),
            idle: seconds(wanted.idle_seconds, IDLE),
            memory: wanted.memory_bytes,
            processors: wanted.processors,
            network: wanted.network.clone(),
            services: wanted.services.clone(),
            ports: wanted.ports.clone(),
            script: wanted.script.clone(),
            read_all: wanted.read_all,
            folder,
            writes_max: wanted.writes_max_bytes.unwrap_or(WRITES_MAX),
            reader: host.file_reader.clone(),
            together: None,
            job: Some(job),
            places: host.places.clone(),
        })
    }
}

impl LocalAgent {
    /// Starts machines together, and keeps how each boots.
    pub(super) fn drill_now(&self, order: &DrillOrder, watch: &Watch) -> Result<DrillDone> {
        watch.task(TaskName::Drill, TaskState::InProgress, None);
        let open = self.vaults.open(&order.vault).map_err(body)?;
        let vault = &open.vault;
        let connection = self.connect()?;
        let points = order.points.iter();
        let points = points.map(|(item, point)| vault.restorable_point(item, *point));
        let points = points.collect::<std::result::Result<Vec<_>, _>>().map_err(body)?;
        let wanted = &order.wanted;
        let each = BootWanted {
            memory_bytes: wanted.memory_bytes,
            processors: wanted.processors,
            timeout_seconds: wanted.timeout_seconds,
            ..BootWanted::default()
        };
        let request = DrillRequest {
            points,
            boot: self.boot_request(&each, order.job)?,
            network: match wanted.network.as_deref() {
                None => DrillNetwork::Own,
                Some("none") => DrillNetwork::None,
                Some(name) => DrillNetwork::Named(name.to_owned()),
            },
            in_order: wanted.in_order,
            wanted: wanted.within_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        };
        let (progress, cancel) = (&watch.progress, &watch.cancel);
        let (report, boots) =
            drill(vault, &connection, &request, progress, cancel).map_err(body)?;
        for boot in &boots {
            strongroom_machine::keep_boot(vault, boot).map_err(body)?;
        }
        let is_well = |machine: &&DrilledMachine| {
            machine.verdict == BootVerdict::Passed && machine.is_in_time != Some(false)
        };
        let failed = report.machines.iter().filter(|machine| !is_well(machine));
        let failed = failed.map(|machine| machine.item.clone()).collect();
        let boots = boots
            .iter()
            .map(|boot| (boot.report.recovery_point, point_boot(&boot.report, order.job)));
        watch.task(TaskName::Drill, TaskState::Completed, None);
        let warnings = open.warnings.iter().map(warning).collect();
        Ok(DrillDone { boots: boots.collect(), failed, warnings, report: report.into() })
    }
}

/// The error of stored data that is damaged: that which a restore of it has.
pub fn damaged(damage: &BootDamage) -> ErrorBody {
    let BootDamage { step, disk, code, reason } = damage;
    let code = Code::named(code).unwrap_or(&codes::STORE_CORRUPT);
    let message =
        message!((code), "disk {disk} of the recovery point cannot be read", disk = disk.as_str());
    let mut body = ErrorBody::from(message);
    body.causes = vec![reason.clone(), format!("it was found at the step {step}")];
    body
}

/// The newest verification of a point, with what shows it.
pub(crate) fn evidence(boot: Boot) -> BootEvidence {
    BootEvidence {
        report: boot.report.into(),
        screenshot: boot.screenshot.map(|picture| (picture.kind, picture.bytes)),
        console: boot.console,
    }
}

fn point_boot(report: &BootReport, job: JobId) -> PointBoot {
    let summary = report.summary();
    let millis = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    let reached_ms = summary.reached_seconds.and_then(millis);
    PointBoot {
        outcome: match summary.verdict {
            BootVerdict::Passed => BootOutcome::Passed,
            BootVerdict::Failed => BootOutcome::Failed,
        },
        begun: summary.begun,
        expected: step(summary.expected),
        reached: summary.reached.map(step),
        reached_ms: reached_ms.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        reason: summary.reason,
        job: Some(job),
    }
}

fn in_words(boot: &PointBoot) -> String {
    match (&boot.reason, boot.reached) {
        (Some(reason), _) => reason.clone(),
        (None, Some(step)) => format!("it reached {}", step.in_words()),
        (None, None) => "it reached nothing".to_owned(),
    }
}

const fn step(rung: Rung) -> BootStep {
    match rung {
        Rung::Digests => BootStep::Digests,
        Rung::FileSystems => BootStep::FileSystems,
        Rung::PowerOn => BootStep::PowerOn,
        Rung::Firmware => BootStep::Firmware,
        Rung::Kernel => BootStep::Kernel,
        Rung::Login => BootStep::Login,
        Rung::Agent => BootStep::Agent,
        Rung::Services => BootStep::Services,
        Rung::Script => BootStep::Script,
    }
}

/// What may be expected without more being said.
fn rung(step: BootStep) -> Result<Rung> {
    match step {
        BootStep::PowerOn => Ok(Rung::PowerOn),
        BootStep::Firmware => Ok(Rung::Firmware),
        BootStep::Kernel => Ok(Rung::Kernel),
        BootStep::Login => Ok(Rung::Login),
        BootStep::Agent => Ok(Rung::Agent),
        BootStep::Digests | BootStep::FileSystems | BootStep::Services | BootStep::Script => {
            let message = "expect is power_on, firmware, kernel, login or agent";
            Err(Box::new(ErrorBody::new(&codes::REQUEST_INVALID, message)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_reports() {
        for (wanted, found) in BootStep::ALL.iter().zip(Rung::ALL) {
            assert_eq!(step(found), *wanted);
            assert_eq!(wanted.name(), found.name());
            match rung(*wanted) {
                Ok(back) => assert_eq!(back, found),
                Err(error) => assert_eq!(error.code.as_str(), "request.invalid"),
            }
        }
        assert_eq!(BootStep::ALL.len(), Rung::ALL.len());
    }
}
