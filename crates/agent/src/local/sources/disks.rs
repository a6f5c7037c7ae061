//! Disks by path: images, devices and servers that do not change meanwhile.

use std::sync::Arc;

use strongroom_api::{
    Check, ConsistencyWanted, DiskPaths, DiskSelection, ErrorBody, Finding, Level, Verdict,
};
use strongroom_base::{Code, Coded as _, Message, codes, message};
use strongroom_disk::{DiskError, DiskSource, DiskSpec, OpenOptions, open_source};
use strongroom_engine::{BackupDisk, BackupRequest, CleanCheck};
use strongroom_format::ExcludedDisk;
use strongroom_orders::{BackupOrder, Result};

use super::{Kind, Work};
use crate::{
    error::{body, of_source},
    local::{
        LocalAgent,
        backup::{Made, frozen_at, tags},
    },
};

/// Disks.
pub(super) struct Disks<'a> {
    /// Name and place of each.
    pub(super) disks: &'a DiskPaths,
}

impl Kind for Disks<'_> {
    fn back_up(&self, work: &Work<'_>) -> Result<Made> {
        let Work { agent, open, order, watch } = *work;
        if order.consistency_required && order.consistency != ConsistencyWanted::Crash {
            let message = "disks by path are read unprepared: nothing can freeze them";
            return Err(Box::new(ErrorBody::new(&codes::VM_CONSISTENCY, message)));
        }
        let (chosen, excluded) = choose(self.disks, &order.disks)?;
        let mut opened = Vec::new();
        for (name, place) in chosen {
            let disk = agent.open(place).map_err(|error| of_source(self, error))?;
            let location = disk.0.location();
            let clean = CleanCheck::SAMPLE;
            opened.push(BackupDisk { clean, ..BackupDisk::new(name, location, disk.1) });
        }
        let count = opened.len();
        let detail = if count == 1 {
            "1 disk as it is".to_owned()
        } else {
            format!("{count} disks as they are")
        };
        frozen_at(order.tier, detail, watch);
        let evidence = "disks by path, which were not to change meanwhile";
        let request = BackupRequest {
            excluded,
            tags: tags(order),
            locked_until: order.locked_until,
            evidence: vec![evidence.to_owned()],
            threads: agent.host.threads,
            limit_rate: order.limit_rate,
            ..BackupRequest::new(&order.item, &agent.host.name, opened)
        };
        let report =
            strongroom_engine::backup(&open.vault, &request, &watch.progress, &watch.cancel)
                .map_err(body)?;
        Ok(Made {
            point: report.recovery_point,
            stored_bytes: report.stored_bytes,
            report: report.into(),
        })
    }

    fn check(&self, agent: &LocalAgent) -> Result<Check> {
        let mut findings = Vec::new();
        for (name, place) in self.disks {
            if let Err(error) = agent.open(place) {
                findings.push(Finding {
                    level: Level::Red,
                    id: error.code().name.to_owned(),
                    what: format!("disk {name}: {error}"),
                    what_to_do: error.code().hint.to_owned(),
                });
            }
        }
        let verdict = if findings.is_empty() { Verdict::Green } else { Verdict::Red };
        findings.push(Finding {
            level: Level::Info,
            id: "disks.as_they_are".to_owned(),
            what: "Disks by path are read without freezing.".to_owned(),
            what_to_do: "Let nothing write to them during a backup: name snapshots, or stop the programs that use them."
                .to_owned(),
        });
        let names: Vec<&str> = self.disks.keys().map(String::as_str).collect();
        Ok(Check { name: names.join(", "), verdict, findings })
    }

    // Nobody can have more.
    fn best(&self, _: &BackupOrder) -> ConsistencyWanted {
        ConsistencyWanted::Crash
    }

    fn gone(&self, _: &Code) -> Message {
        message!(SOURCE_MISSING: disk, "a disk of the item is not there any more")
    }

    fn machine(&self) -> Result<&str> {
        let message = "an item of disks by path has no machine; name one";
        Err(Box::new(ErrorBody::new(&codes::REQUEST_INVALID, message)))
    }
}

impl LocalAgent {
    fn open(&self, place: &str) -> Result<(DiskSpec, Arc<dyn DiskSource>), DiskError> {
        let spec: DiskSpec = place.parse()?;
        let options = OpenOptions {
            allow_backing: self.host.allow_backing.clone(),
            within: self.host.disks.clone(),
            ..OpenOptions::default()
        };
        let source = open_source(&spec, &options)?;
        Ok((spec, Arc::from(source)))
    }
}

/// Disks and where they are.
pub(super) type Chosen<'a> = Vec<(&'a str, &'a str)>;

/// The disks that are chosen, and those that are not. A name that there is not is an error, so that
/// nobody believes a disk protected that is not.
pub(super) fn choose<'a>(
    disks: &'a DiskPaths,
    choice: &DiskSelection,
) -> Result<(Chosen<'a>, Vec<ExcludedDisk>)> {
    let named = match choice {
        // None of them is known to be what a machine starts from.
        DiskSelection::All | DiskSelection::OsOnly => &[][..],
        DiskSelection::Include { disks } | DiskSelection::Exclude { disks } => disks,
    };
    if let Some(unknown) = named.iter().find(|name| !disks.contains_key(*name)) {
        let message = message!(VM_DISK_NOT_FOUND, "the item has no disk {disk}", disk = unknown);
        return Err(Box::new(ErrorBody::from(message)));
    }
    let is_chosen = |name: &String| match choice {
        DiskSelection::All | DiskSelection::OsOnly => true,
        DiskSelection::Include { .. } => named.contains(name),
        DiskSelection::Exclude { .. } => !named.contains(name),
    };
    let (chosen, rest): (Vec<_>, Vec<_>) = disks.iter().partition(|(name, _)| is_chosen(name));
    let excluded = rest
        .into_iter()
        .map(|(name, _)| ExcludedDisk { name: name.clone(), reason: "not chosen".to_owned() });
    let chosen = chosen.into_iter().map(|(name, place)| (name.as_str(), place.as_str()));
    Ok((chosen.collect(), excluded.collect()))
}
