//! Machines of libvirt.

use strongroom_api::{Check, ConsistencyWanted, DiskSelection, Finding, Level, Verdict};
use strongroom_base::{Code, Message, codes, message};
use strongroom_hypervisor::{DiskChoice, Level as FoundLevel};
use strongroom_machine::{Checked, MachineBackup, Taken, Verdict as FoundVerdict, Wish};
use strongroom_orders::{BackupOrder, Result};

use super::{Kind, Work};
use crate::{
    error::of_source,
    facts::{consistency, proved},
    local::{
        LocalAgent,
        backup::{Made, frozen_at, tags},
    },
};

/// A machine.
pub(super) struct Machine<'a> {
    /// Its UUID.
    pub(super) uuid: &'a str,
    /// Its name.
    pub(super) name: &'a str,
}

impl Kind for Machine<'_> {
    fn check(&self, agent: &LocalAgent) -> Result<Check> {
        let connection = agent.connect()?;
        let checked = connection
            .domain(self.uuid)
            .and_then(|domain| strongroom_machine::check(&connection, &domain));
        Ok(check(checked.map_err(|error| of_source(self, error))?))
    }

    fn back_up(&self, work: &Work<'_>) -> Result<Made> {
        let Work { agent, open, order, watch } = *work;
        let connection = agent.connect()?;
        let request = MachineBackup {
            item: Some(order.item.clone()),
            disks: choice(&order.disks),
            wish: Wish {
                consistency: consistency(order.consistency),
                required: order.consistency_required,
                ..Wish::default()
            },
            full_compare_every: order.full_compare_every,
            scratch_dir: order.scratch_dir.clone(),
            limit_rate: order.limit_rate,
            tags: tags(order),
            locked_until: order.locked_until,
            ..agent.machine_backup(self.uuid)
        };
        let taken = |taken: &Taken| {
            let kind = proved(taken.consistency);
            let frozen = taken.frozen.map_or_else(String::new, |frozen| {
                format!(", frozen for {:.2} s", frozen.as_secs_f64())
            });
            frozen_at(order.tier, format!("{} consistent{frozen}", kind.in_words()), watch);
        };
        let (progress, cancel) = (&watch.progress, &watch.cancel);
        let report = strongroom_machine::backup_watched(
            &open.vault,
            &connection,
            &request,
            progress,
            cancel,
            &taken,
        );
        let report = report.map_err(|error| of_source(self, error))?;
        Ok(Made {
            point: report.point.recovery_point,
            stored_bytes: report.point.stored_bytes,
            report: report.into(),
        })
    }

    fn best(&self, order: &BackupOrder) -> ConsistencyWanted {
        order.consistency
    }

    fn gone(&self, code: &Code) -> Message {
        let machine = self.name;
        if *code == codes::VM_NOT_FOUND {
            message!(SOURCE_MISSING: machine, "machine {machine} is not on this host any more", machine)
        } else {
            message!(SOURCE_MISSING: machine_disk, "a disk of machine {machine} is not there any more", machine)
        }
    }

    fn machine(&self) -> Result<&str> {
        Ok(self.uuid)
    }
}

fn choice(disks: &DiskSelection) -> DiskChoice {
    match disks {
        DiskSelection::All => DiskChoice::All,
        DiskSelection::OsOnly => DiskChoice::OsOnly,
        DiskSelection::Include { disks } => DiskChoice::Include(disks.clone()),
        DiskSelection::Exclude { disks } => DiskChoice::Exclude(disks.clone()),
    }
}

fn check(checked: Checked) -> Check {
    let findings = checked.findings.into_iter().map(|finding| Finding {
        level: match finding.level {
            FoundLevel::Info => Level::Info,
            FoundLevel::Amber => Level::Amber,
            FoundLevel::Red => Level::Red,
        },
        id: finding.id.to_owned(),
        what: finding.what,
        what_to_do: finding.what_to_do,
    });
    Check {
        name: checked.name,
        verdict: match checked.verdict {
            FoundVerdict::Green => Verdict::Green,
            FoundVerdict::Amber => Verdict::Amber,
            FoundVerdict::Red => Verdict::Red,
        },
        findings: findings.collect(),
    }
}
