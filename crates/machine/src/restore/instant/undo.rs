//! The end of a machine whose instant restore is not wanted any more.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use strongroom_base::PointId;
use strongroom_hypervisor::{Connection, Domain, Form, Machine};
use strongroom_reports::{Decided, FinishReport, FinishedDisk};

use super::super::{
    journal::{How, Journal, Note},
    place::local,
};
use crate::{Places, error::Result, lock::Lock};

/// A machine that runs while its disks are restored, or whose restore was interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The machine.
    pub machine: String,
    /// The item that its disks are of.
    pub item: String,
    /// The recovery point.
    pub recovery_point: PointId,
    domain: Domain,
    note: Note,
    path: PathBuf,
}

/// The instant restore of the machine of this name or UUID, if it has not ended.
pub fn find(connection: &Connection, machine: &str) -> Result<Option<Running>> {
    let domain = connection.domain(machine)?;
    let described = Machine::parse(&connection.domain_xml(&domain, Form::Inactive)?)?;
    let folders = described.disks.iter().filter_map(|disk| disk.source.path());
    for folder in folders.filter_map(|path| Path::new(path).parent()) {
        let path = Note::path(folder, &described.name, How::Instant);
        let Some(note) = Note::find(&path)? else { continue };
        if note.uuid == domain.uuid.to_string() {
            let (item, recovery_point) = (note.item.clone(), note.point);
            let machine = described.name;
            return Ok(Some(Running { machine, item, recovery_point, domain, note, path }));
        }
    }
    Ok(None)
}

/// Removes the machine and all that its restore has made, with what the guest has written.
pub fn undo(connection: &Connection, places: &Places, running: &Running) -> Result<FinishReport> {
    // Refused while the restore is at work.
    let _lock = Lock::take_name(&places.run, &running.machine)?;
    let domain = &running.domain;
    let xml = connection.domain_xml(domain, Form::Inactive)?;
    let machine = Machine::parse(&xml)?;
    if connection.state(domain)?.is_active() {
        connection.power_off(domain)?;
    }
    connection.undefine(domain)?;
    for file in &running.note.files {
        remove(file)?;
    }
    remove(&places.run.join(format!("instant-{}", domain.uuid)))?;
    Journal::at(&running.path).remove()?;
    let disk = |disk: &strongroom_hypervisor::Disk| {
        let path = disk.source.path()?;
        Some(FinishedDisk { name: disk.target.clone(), path: path.to_owned() })
    };
    let is_ours = |disk: &FinishedDisk| running.note.files.contains(&PathBuf::from(&disk.path));
    Ok(FinishReport {
        machine: running.machine.clone(),
        uuid: domain.uuid.to_string(),
        decision: Decided::Removed,
        recovery_point: running.recovery_point,
        item: running.item.clone(),
        disks: machine.disks.iter().filter_map(disk).filter(is_ours).collect(),
    })
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| local("remove", path, source)),
    }
}
