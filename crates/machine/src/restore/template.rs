//! A description that makes a machine of restored disks, for use by hand.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use strongroom_base::Entropy;
use strongroom_disk::pinned;
use strongroom_format::Manifest;
use strongroom_hypervisor::{Changes, DiskChange, MacChange, Machine, Uuid};

use super::{
    journal::write_at,
    new::write_tpm_at,
    place::{absolute, local},
    plan::unchosen,
};
use crate::{Configuration, error::Result};

/// Where a restored disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateDisk {
    /// Its name in the machine.
    pub name: String,
    /// Its file or device; none if it is on a server.
    pub path: Option<PathBuf>,
    /// Its format.
    pub format: String,
    /// Whether it is the encrypted image that it was.
    pub encrypted: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The description, for `virsh define`.
    pub description: String,
    /// The UUID in it.
    pub uuid: String,
    /// Firmware variables, which the description names.
    pub nvram: Option<String>,
    /// State of the TPM.
    pub tpm: Option<String>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// Writes a description of the machine with these disks to a folder, with firmware variables and
/// the TPM's state beside it. The machine has a new identity. Secrets are not written; those that
/// the description itself holds make it a file for its owner alone. `opened` is the folder: another one
/// that gets its name meanwhile is not written to.
pub(super) fn template(
    configuration: &Configuration,
    point: &Manifest,
    (folder, opened): (&Path, &File),
    disks: &[TemplateDisk],
    swtpm: &Path,
    entropy: &dyn Entropy,
) -> Result<Option<Template>> {
    let folder = absolute(folder)?;
    let name = |end: &str| format!("{}{end}", point.item);
    // As it is called, and as what nobody can exchange.
    let file = |end: &str| folder.join(name(end));
    let held = |end: &str| pinned(opened).join(name(end));
    let description = file(".xml");
    let mark = format!("<!-- Strongroom: {} as of recovery point {} -->", point.item, point.id);
    match fs::read_to_string(held(".xml")) {
        // From an earlier run of the same restore.
        Ok(text) if text.starts_with(&mark) => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(local("read", &description, error)),
    }
    let old = Machine::parse(&configuration.inactive)?;
    let uuid = Uuid::random(entropy);
    let (mut left, mut notes) = (Vec::new(), Vec::new());
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    let mut changes = Changes {
        uuid: Some(uuid),
        new_generation: true,
        macs: MacChange::All,
        forget_run: true,
        disks: unchosen(&old, point, &names, &mut left),
        ..Changes::default()
    };
    for disk in disks.iter().filter(|disk| old.disk(&disk.name).is_some()) {
        changes.disks.insert(disk.name.clone(), change(disk, &mut notes));
    }
    let nvram = configuration.nvram.as_ref().map(|content| (file("-nvram.fd"), content));
    if nvram.is_some() || old.firmware.nvram.is_some() {
        changes.nvram = Some(file("-nvram.fd").display().to_string());
    }
    let xml = Machine::rewrite(&configuration.inactive, &changes, entropy)?;
    if let Some((path, content)) = &nvram {
        let written = write_at(&held("-nvram.fd"), content);
        written.map_err(|source| local("write", path, source))?;
    }
    let tpm = (!configuration.tpm.is_empty()).then(|| file("-tpm"));
    if let Some(path) = &tpm {
        let written = write_tpm_at(&held("-tpm"), &configuration.tpm);
        written.map_err(|source| local("write", path, source))?;
        notes.push(format!(
            "before the machine is started for the first time, copy {} to {}",
            path.display(),
            swtpm.join(uuid.to_string()).display()
        ));
    }
    if !configuration.secrets.is_empty() {
        notes.push(
            "its disks or TPM were encrypted: the keys are not written, and the disks are as the guest sees them, except disks kept as ciphertext"
                .to_owned(),
        );
    }
    notes.extend(left.iter().map(|left| format!("disk {}: {}", left.name, left.reason)));
    let written = write_at(&held(".xml"), format!("{mark}\n{xml}").as_bytes());
    written.map_err(|source| local("write", &description, source))?;
    Ok(Some(Template {
        description: description.display().to_string(),
        uuid: uuid.to_string(),
        nvram: nvram.map(|(path, _)| path.display().to_string()),
        tpm: tpm.map(|path| path.display().to_string()),
        notes,
    }))
}

fn change(disk: &TemplateDisk, notes: &mut Vec<String>) -> DiskChange {
    let Some(path) = &disk.path else {
        notes.push(format!("disk {} is on a server: add it to the description", disk.name));
        return DiskChange::Remove;
    };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let is_file = path.metadata().is_ok_and(|data| data.is_file());
    let path = path.display().to_string();
    if is_file {
        DiskChange::File { path, format: disk.format.clone(), encrypted: disk.encrypted }
    } else {
        DiskChange::Block { path }
    }
}
