//! From overlays to disks.

use std::{path::Path, time::Duration};

use strongroom_hypervisor::{Changes, DiskChange, Domain, Form, Machine, State};

use super::super::plan::PlannedDisk;
use super::{Instant, LOOK, overlay};
use crate::{MachineError, error::Result};

/// What a disk of the machine is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Overlay,
    Disk,
}

impl Instant<'_> {
    /// Changes the machine over to its disks, which lack only what the overlays have. How long it was
    /// paused for that.
    pub(super) fn pivot(&mut self) -> Result<Duration> {
        let mut paused = Duration::ZERO;
        loop {
            self.check_cancel()?;
            let connection = self.work.connection;
            let uuid = self.work.plan.machine.uuid;
            let Some(domain) = connection.domain_by_uuid(uuid)? else {
                return Err(self.lost("it was removed meanwhile".to_owned()));
            };
            let is_active = connection.state(&domain)?.is_active();
            let inactive = self.on_overlays(&domain, Form::Inactive)?;
            let present =
                if is_active { self.on_overlays(&domain, Form::Present)? } else { Vec::new() };
            match (is_active, present.is_empty(), inactive.is_empty()) {
                (_, true, true) => return Ok(paused),
                (true, false, _) => {
                    paused = paused.saturating_add(self.online(&domain, &present)?);
                }
                (true, true, false) => self.describe(&domain)?,
                (false, ..) => {
                    for disk in &inactive {
                        overlay::commit(disk)?;
                    }
                    self.describe(&domain)?;
                }
            }
        }
    }

    fn lost(&self, reason: String) -> MachineError {
        MachineError::Unfinished {
            machine: self.work.plan.machine.name.clone(),
            reason,
            note: self.work.plan.journal.0.display().to_string(),
        }
    }

    /// The disks that are on their overlays in a description.
    fn on_overlays(&self, domain: &Domain, form: Form) -> Result<Vec<PlannedDisk>> {
        let machine = Machine::parse(&self.work.connection.domain_xml(domain, form)?)?;
        let mut found = Vec::new();
        for disk in self.disks() {
            if self.on(disk, &machine)? == On::Overlay {
                found.push(disk.clone());
            }
        }
        Ok(found)
    }

    fn on(&self, disk: &PlannedDisk, machine: &Machine) -> Result<On> {
        let source = machine.disk(&disk.name).map(|found| &found.source);
        match source.and_then(|source| source.path()).map(Path::new) {
            Some(path) if path == disk.overlay() => Ok(On::Overlay),
            Some(path) if path == disk.path => Ok(On::Disk),
            // A snapshot, or somebody's edit.
            _ => {
                let now = source.map_or_else(|| "gone".to_owned(), ToString::to_string);
                Err(self.lost(format!(
                    "its disk {} is {now}, neither {} nor {}: give it back (a snapshot by `virsh blockcommit`), \
                     then the restore continues",
                    disk.name,
                    disk.overlay().display(),
                    disk.path.display()
                )))
            }
        }
    }

    /// The description of a machine that is off, or will be: its disks are complete.
    fn describe(&self, domain: &Domain) -> Result<()> {
        let connection = self.work.connection;
        let xml = connection.domain_xml(domain, Form::Inactive)?;
        let change = |disk: &PlannedDisk| {
            let path = disk.path.display().to_string();
            let format = disk.format.to_string();
            (disk.name.clone(), DiskChange::File { path, format, encrypted: false })
        };
        let disks = self.disks().iter().map(change).collect();
        let drivers_of = Some(self.work.plan.xml.clone());
        let changes = Changes { disks, drivers_of, ..Changes::default() };
        let xml = Machine::rewrite(&xml, &changes, &**self.work.vault.entropy())?;
        connection.define(&xml)?;
        Ok(())
    }

    /// Changes disks of a machine that runs.
    fn online(&mut self, domain: &Domain, disks: &[PlannedDisk]) -> Result<Duration> {
        let connection = self.work.connection;
        for disk in disks {
            self.end_earlier_copy(domain, disk)?;
            let (path, format) = (disk.path.display().to_string(), disk.format.to_string());
            connection.begin_shallow_copy(domain, &disk.name, &path, &format)?;
        }
        let result = self.change_over(domain, disks);
        if result.is_err() {
            for disk in disks {
                // Those that have changed over already have none, and a machine that is off has none either.
                self.end_earlier_copy(domain, disk).ok();
            }
        }
        result
    }

    /// Ends the copy of an earlier attempt, which nobody waits for. Another's job is not ours to end.
    fn end_earlier_copy(&self, domain: &Domain, disk: &PlannedDisk) -> Result<()> {
        let connection = self.work.connection;
        if connection.block_job(domain, &disk.name)?.is_none() {
            return Ok(());
        }
        let machine = Machine::parse(&connection.domain_xml(domain, Form::Present)?)?;
        let mirror = machine.disk(&disk.name).and_then(|found| found.mirror.as_ref());
        let to = mirror.and_then(|mirror| mirror.path.as_deref());
        if to.map(Path::new) != Some(disk.path.as_path()) {
            let machine = machine.name;
            let reason = format!("another job works on its disk {}", disk.name);
            return Err(MachineError::Busy { machine, reason });
        }
        connection.end_copy(domain, &disk.name)?;
        Ok(())
    }

    fn change_over(&mut self, domain: &Domain, disks: &[PlannedDisk]) -> Result<Duration> {
        let connection = self.work.connection;
        for disk in disks {
            self.wait_for_copy(domain, disk)?;
        }
        // What it was about to write would be tried again while its disks change.
        if connection.is_halted_by_an_error(domain)? {
            return Err(self.lost("it is stopped by an error of its disks".to_owned()));
        }
        let clock = connection.clock();
        let start = clock.monotonic();
        let was_running = self.hold(domain)?;
        let result = self.change(domain, disks);
        if was_running {
            self.release(domain)?;
        }
        result?;
        Ok(if was_running { clock.monotonic().saturating_sub(start) } else { Duration::ZERO })
    }

    /// Changes disks of a machine that does not write.
    fn change(&self, domain: &Domain, disks: &[PlannedDisk]) -> Result<()> {
        let connection = self.work.connection;
        if connection.state(domain)? == State::Running
            || connection.is_halted_by_an_error(domain)?
        {
            return Err(self.lost("it does not stay paused".to_owned()));
        }
        for disk in disks {
            self.wait_for_copy(domain, disk)?;
            connection.pivot(domain, &disk.name)?;
        }
        Ok(())
    }

    /// Waits until a copy has caught up with the guest.
    fn wait_for_copy(&self, domain: &Domain, disk: &PlannedDisk) -> Result<()> {
        let connection = self.work.connection;
        loop {
            self.check_cancel()?;
            match connection.block_job(domain, &disk.name)? {
                Some(job) if job.total > 0 && job.done >= job.total => return Ok(()),
                Some(_) => connection.clock().sleep(LOOK),
                None => {
                    return Err(self.lost(format!(
                        "the copy of disk {} to {} ended before it was complete (is there room?)",
                        disk.name,
                        disk.path.display()
                    )));
                }
            }
        }
    }
}
