//! Strongroom's checkpoints of a machine, of all vaults: list and delete.
//!
//! A checkpoint stays for the next backup. If there will be no next backup (the vault is lost,
//! Strongroom is no longer used), the checkpoint is useless and blocks snapshots.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

use serde::Serialize;
use strongroom_hypervisor::{Connection, Disk, Domain, Form, Machine, State};

use crate::{
    MachineError, Places, backup::item_in, check::OURS, error::Result, image, lock::Lock, orphans,
};

/// A checkpoint of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OurCheckpoint {
    /// Its name.
    pub name: String,
    /// The end of the id of the vault that it is of.
    pub vault: String,
    /// The item that it was made for, if libvirt still knows.
    pub item: Option<String>,
    /// Whether libvirt knows it; otherwise only its bitmaps are left.
    pub known: bool,
    /// The disks whose images have a bitmap of it.
    pub disks: Vec<String>,
}

/// A bitmap of ours: its disk, the image that it is in, and its name.
struct Place<'a> {
    disk: &'a Disk,
    image: String,
    name: String,
}

/// Our checkpoints of a machine.
pub fn checkpoints(connection: &Connection, domain: &Domain) -> Result<Vec<OurCheckpoint>> {
    let machine = machine(connection, domain)?;
    let mut found: BTreeMap<String, OurCheckpoint> = BTreeMap::new();
    let new = |name: &str| OurCheckpoint {
        name: name.to_owned(),
        vault: vault_of(name).to_owned(),
        item: None,
        known: false,
        disks: Vec::new(),
    };
    for name in connection.checkpoints(domain)?.iter().filter(|name| name.starts_with(OURS)) {
        let entry = found.entry(name.clone()).or_insert_with(|| new(name));
        entry.known = true;
        let xml = connection.checkpoint_xml(domain, name).ok();
        entry.item = xml.and_then(|xml| item_in(&xml));
    }
    for place in places(connection, &machine) {
        let entry = found.entry(place.name.clone()).or_insert_with(|| new(&place.name));
        if !entry.disks.contains(&place.disk.target) {
            entry.disks.push(place.disk.target.clone());
        }
    }
    Ok(found.into_values().collect())
}

/// Deletes our checkpoints of a machine with their bitmaps: all, or those of the vault whose id ends so.
/// Tells which went. Recovery points stay; the next backup reads everything.
pub fn delete_checkpoints(
    connection: &Connection,
    places_of_host: &Places,
    domain: &Domain,
    vault: Option<&str>,
) -> Result<Vec<OurCheckpoint>> {
    let lock = Lock::take(&places_of_host.run, domain, connection.clock())?;
    let chosen = |name: &str| {
        name.starts_with(OURS)
            && vault.is_none_or(|id| id.to_ascii_lowercase().ends_with(vault_of(name)))
    };
    let mut going = checkpoints(connection, domain)?;
    going.retain(|checkpoint| chosen(&checkpoint.name));
    let machine = machine(connection, domain)?;
    let is_off = connection.state(domain)? == State::Off;
    if is_off && !connection.uri().is_local() {
        return Err(MachineError::Unsupported {
            machine: machine.name,
            reason: "it is off, and its images are on another host: run Strongroom there"
                .to_owned(),
        });
    }
    for checkpoint in going.iter().filter(|checkpoint| checkpoint.known) {
        if is_off {
            connection.delete_checkpoint(domain, &checkpoint.name, true)?;
        } else {
            orphans::delete(connection, domain, &checkpoint.name)?;
        }
    }
    for place in places(connection, &machine).iter().filter(|place| chosen(&place.name)) {
        if is_off {
            remove_bitmap(&machine.name, place)?;
        } else {
            let (target, name) = (&place.disk.target, &place.name);
            orphans::delete_unknown(connection, domain, &machine, target, name)?;
        }
    }
    drop(lock);
    Ok(going)
}

fn machine(connection: &Connection, domain: &Domain) -> Result<Machine> {
    let mut machine = Machine::parse(&connection.domain_xml(domain, Form::Present)?)?;
    connection.resolve_volumes(&mut machine);
    Ok(machine)
}

/// `strongroom-VAULT-ID`.
fn vault_of(name: &str) -> &str {
    let rest = name.strip_prefix(OURS).unwrap_or_default();
    rest.split('-').next().unwrap_or_default()
}

/// Our bitmaps in the machine's images and in those under them.
fn places<'a>(connection: &Connection, machine: &'a Machine) -> Vec<Place<'a>> {
    let mut places = Vec::new();
    let disks = machine.disks.iter().filter(|disk| disk.can_hold_bitmaps());
    for disk in disks.filter(|_| connection.uri().is_local()) {
        for layer in image::chain_of(disk) {
            let ours = layer.bitmaps.iter().filter(|bitmap| bitmap.name.starts_with(OURS));
            places.extend(ours.map(|bitmap| Place {
                disk,
                image: layer.filename.clone(),
                name: bitmap.name.clone(),
            }));
        }
    }
    places
}

fn remove_bitmap(machine: &str, place: &Place<'_>) -> Result<()> {
    let failed = |source| MachineError::Local {
        action: "remove a bitmap from",
        path: place.image.clone(),
        source,
    };
    let output = Command::new("qemu-img")
        .args(["bitmap", "--remove", "-f", "qcow2", "--"])
        .arg(Path::new(&place.image))
        .arg(&place.name)
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("\" lock") {
        let machine = machine.to_owned();
        return Err(MachineError::Busy { machine, reason: said });
    }
    Err(failed(std::io::Error::other(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_vault() {
        assert_eq!(vault_of("strongroom-0h2pta93-01kb"), "0h2pta93");
        assert_eq!(vault_of("strongroom-"), "");
        assert_eq!(vault_of("other"), "");
    }
}
