//! Machines: what an [`Agent`](crate::Agent) must do with them.

use strongroom_api::{
    BootOutcome, BootStep, BootWanted, Report, Restore, RestoreDecision, RestoreMachine, Source,
};
use strongroom_base::codes;

use super::{Checked, Failure, Suite};
use crate::{BackupOrder, BootOrder, CheckOrder, FinishDone, FinishOrder, RestoreOrder, Watch};

impl Suite<'_> {
    /// A machine is found, backed up once, and restored once.
    pub(super) fn machine(&self) -> Checked {
        let source = self.world.machine().ok_or_else(|| Failure("no machine".to_owned()))?;
        let Source::Machine { uuid, name } = &source else {
            return Err(Failure(format!("{source:?} is no machine")));
        };
        let found = self.agent().discover(&Watch::silent())?;
        let found = found.iter().find(|found| found.uuid == *uuid);
        let found = found.ok_or_else(|| Failure(format!("{name} was not discovered")))?;
        self.same(&found.name, name, "its name")?;
        self.holds(!found.disks.is_empty(), "a machine has disks")?;
        self.holds(found.disks.iter().all(|disk| disk.size_bytes.is_some()), "disks have sizes")?;
        let check = |source: &Source| {
            self.agent().check(&CheckOrder { order: Self::once(), source: source.clone() })
        };
        self.same(&check(&source)?.name, name, "what is checked")?;
        let gone = Source::Machine {
            uuid: "00000000-0000-4000-8000-00000000dead".to_owned(),
            name: "no-such-machine".to_owned(),
        };
        self.fails(check(&gone), &codes::SOURCE_MISSING, "checking what is gone")?;

        let vault = self.vault("machine")?;
        let of = |source: &Source| BackupOrder {
            source: source.clone(),
            ..self.backup_order(&vault, 1)
        };
        let missing = self.agent().backup(&of(&gone), &Watch::silent());
        self.fails(missing, &codes::SOURCE_MISSING, "backing up what is gone")?;
        let order = of(&source);
        let done = self.agent().backup(&order, &Watch::silent())?;
        let again = self.agent().backup(&order, &Watch::silent())?;
        self.same(&again.point, &done.point, "given again, it is the same point")?;
        self.same(&done.point.disks.len(), &found.disks.len(), "all its disks")?;

        let restore = RestoreOrder {
            job: Self::job(),
            vault: vault.clone(),
            item: done.point.item.clone(),
            point: done.point.id,
            source: source.clone(),
            restore: Restore::Machine(RestoreMachine {
                name: Some("conformance-copy".to_owned()),
                storage_dirs: [("*".to_owned(), self.world.target("machine"))].into(),
                ..RestoreMachine::default()
            }),
            limit_rate: None,
        };
        for _ in 0..2 {
            let done = self.agent().restore(&restore, &Watch::silent())?;
            let machine = match &done.report {
                Report::MachineRestore(report) => Some(&*report.machine),
                Report::RestoredBefore(report) => Some(&*report.machine),
                _ => None,
            };
            self.same(&machine, &Some("conformance-copy"), "the new machine")?;
        }
        let boot = BootOrder {
            job: Self::job(),
            vault: vault.clone(),
            item: done.point.item.clone(),
            point: done.point.id,
            wanted: BootWanted { expect: Some(BootStep::PowerOn), ..BootWanted::default() },
        };
        let kept = |point| self.keeper().boot(&vault, &done.point.item, point);
        self.holds(kept(done.point.id)?.is_none(), "a point that was never booted has no report")?;
        let booted = self.agent().verify_boot(&boot, &Watch::silent())?;
        self.same(&booted.boot.outcome, &BootOutcome::Passed, "QEMU runs the machine")?;
        let again = self.agent().verify_boot(&boot, &Watch::silent())?;
        self.same(&again.boot, &booted.boot, "given again, it is not booted again")?;
        let kept = kept(done.point.id)?;
        let other = BootOrder { job: Self::job(), ..boot.clone() };
        let anew = self.agent().verify_boot(&other, &Watch::silent())?;
        self.same(&anew.boot.job, &Some(other.job), "another order is carried out")?;
        self.same(&kept.map(|kept| kept.report), &Some(booted.report), "the report is kept")?;
        let decision = RestoreDecision::Accept;
        let finish = FinishOrder { order: Self::once(), machine: uuid.clone(), decision };
        let finished = self.agent().finish(&finish)?;
        self.same(&finished, &FinishDone::DecidedBefore, "nothing waits to be decided")
    }
}
