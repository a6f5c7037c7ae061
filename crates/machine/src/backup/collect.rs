//! Collects everything that rebuilding a machine needs.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use strongroom_hypervisor::{
    Connection, Disk, Domain, Form, ImageInfo, Machine, Secret, SecretRef, SecretUse, Source,
    State, TpmBackend,
};

use crate::{
    Configuration, EncryptedDisks, Places,
    configuration::{DiskIdentity, MachineRecord, SavedSecret},
    error::Result,
};

/// The most bytes of firmware variables or of a TPM's file.
const MAX_FILE: u64 = 16 << 20;

/// The most files of a TPM.
const MAX_TPM_FILES: usize = 64;

/// What changes while a machine runs, and so is taken at the instant.
#[derive(Default)]
pub(super) struct Instantaneous {
    nvram: Option<Vec<u8>>,
    tpm: Vec<(String, Vec<u8>)>,
    missing: Vec<String>,
}

impl Instantaneous {
    /// Reads firmware variables and the TPM's state.
    pub(super) fn take(machine: &Machine, places: &Places, is_local: bool) -> Self {
        let mut taken = Self::default();
        let nvram = places.nvram_of(machine);
        match nvram.as_deref().filter(|_| is_local).map(|path| (path, read(path))) {
            Some((_, Ok(content))) => taken.nvram = Some(content),
            Some((path, Err(error))) => {
                taken.missing.push(format!("firmware variables {}: {error}", path.display()));
            }
            None if nvram.is_some() => {
                taken.missing.push("firmware variables: the host is another".to_owned());
            }
            None if machine.firmware.is_uefi && machine.firmware.loader.is_none() => {
                taken.missing.push("firmware variables: it was never started".to_owned());
            }
            None => {}
        }
        if let Some(tpm) = &machine.tpm {
            taken.tpm(&tpm.backend, machine, places, is_local);
        }
        taken
    }

    fn tpm(&mut self, backend: &TpmBackend, machine: &Machine, places: &Places, is_local: bool) {
        let TpmBackend::Emulator { state, .. } = backend else {
            self.missing
                .push("TPM: it is a device of the host, whose state cannot be copied".to_owned());
            return;
        };
        if !is_local {
            self.missing.push("TPM: the host is another".to_owned());
            return;
        }
        let usual = places.swtpm.join(machine.uuid.to_string());
        let folder = state.as_deref().map_or(usual.as_path(), Path::new);
        if let Err(error) = walk(folder, "", &mut self.tpm) {
            self.missing.push(format!("TPM state {}: {error}", folder.display()));
        }
    }
}

/// Reads the files below a folder.
fn walk(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), &format!("{prefix}{name}/"), files)?;
        } else if kind.is_file() && !name.starts_with('.') && files.len() < MAX_TPM_FILES {
            files.push((format!("{prefix}{name}"), read(&entry.path())?));
        }
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(std::io::Error::other(format!("it is longer than {MAX_FILE} bytes")));
    }
    Ok(content)
}

/// Who a disk is, whose image and those under it are `chain`.
pub(super) fn identity(
    disk: &Disk,
    size: Option<u64>,
    is_local: bool,
    chain: &[ImageInfo],
) -> DiskIdentity {
    let path = disk.source.path().filter(|_| is_local);
    let file = path.and_then(|path| fs::metadata(path).ok()).map(|file| {
        // A device gets a new inode at each boot; its number tells more, but not for ever.
        if file.rdev() == 0 { (file.dev(), file.ino()) } else { (0, file.rdev()) }
    });
    DiskIdentity {
        target: disk.target.clone(),
        source: disk.source.to_string(),
        format: disk.driver.format.clone().unwrap_or_else(|| "raw".to_owned()),
        size: size.unwrap_or(0),
        file,
        under: path.map(|path| under(Path::new(path), chain)).unwrap_or_default(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        tracked: false,
        changed_since: Vec::new(),
        runs_since_full: 0,
        image: None,
        ciphertext: None,
    }
}

/// The images under one, which nobody should write to, and the file of its data.
fn under(path: &Path, chain: &[ImageInfo]) -> Vec<String> {
    let folder = path.parent().unwrap_or(path);
    let (mut names, mut top) = (Vec::new(), true);
    for layer in chain {
        let place = folder.join(&layer.filename);
        let file = fs::metadata(&place).ok();
        if let Some(file) = file.filter(|_| !top) {
            // The same file may be named in several ways: by a header, and by a definition.
            let place = fs::canonicalize(&place).unwrap_or(place);
            let (seconds, nanos) = (file.mtime(), file.mtime_nsec());
            let (device, inode, size) = (file.dev(), file.ino(), file.len());
            names.push(format!(
                "{}: {device}:{inode}, {size} bytes, {seconds}.{nanos:09}",
                place.display()
            ));
        } else if !top {
            names.push(layer.filename.clone());
        }
        if let Some(data) = &layer.data_file {
            // It is written to all the time.
            let file = fs::metadata(folder.join(data)).ok();
            let file = file.map(|file| format!("{}:{}", file.dev(), file.ino()));
            names.push(format!("{data}: {}", file.unwrap_or_default()));
        }
        top = false;
    }
    names
}

/// What is asked of libvirt for the archive.
#[derive(Clone)]
pub(super) struct Descriptions {
    pub(super) present: String,
    pub(super) inactive: String,
}

impl Descriptions {
    pub(super) fn read(connection: &Connection, domain: &Domain) -> Result<Self> {
        Ok(Self {
            present: connection.domain_xml(domain, Form::Present)?,
            inactive: connection.domain_xml(domain, Form::Inactive)?,
        })
    }
}

/// Everything together.
#[allow(clippy::too_many_arguments, reason = "each is another part of one thing")]
pub(super) fn configuration(
    connection: &Connection,
    domain: &Domain,
    machine: &Machine,
    state: State,
    descriptions: Descriptions,
    taken: Instantaneous,
    checkpoint: Option<(String, String)>,
    disks: Vec<DiskIdentity>,
    encrypted: EncryptedDisks,
) -> Result<Configuration> {
    let mut missing = taken.missing;
    let secrets = secrets(connection, machine, encrypted, &mut missing)?;
    let snapshots = connection.snapshots(domain)?;
    let snapshots = snapshots.iter().map(|name| connection.snapshot_xml(domain, name));
    let (name, xml) = checkpoint.unzip();
    Ok(Configuration {
        record: MachineRecord {
            format: MachineRecord::FORMAT,
            name: machine.name.clone(),
            uuid: machine.uuid.to_string(),
            connection: connection.uri().to_string(),
            state: state.name().to_owned(),
            persistent: connection.is_persistent(domain)?,
            autostart: connection.autostart(domain).unwrap_or(false),
            checkpoint: name,
            disks,
            missing,
        },
        present: descriptions.present,
        inactive: descriptions.inactive,
        checkpoint: xml,
        nvram: taken.nvram,
        tpm: taken.tpm,
        secrets,
        snapshots: snapshots.collect::<std::result::Result<_, _>>()?,
    })
}

/// The secrets of encrypted disks and of the TPM. Of disks that are kept as ciphertext there are the
/// descriptions only: nobody who has the vault may be able to open them.
fn secrets(
    connection: &Connection,
    machine: &Machine,
    encrypted: EncryptedDisks,
    missing: &mut Vec<String>,
) -> Result<Vec<SavedSecret>> {
    let mut wanted: Vec<(String, &SecretRef, SecretUse)> = Vec::new();
    for disk in &machine.disks {
        if let Some(secret) = disk.encryption.as_ref().and_then(|found| found.secret.as_ref()) {
            wanted.push((disk.target.clone(), secret, SecretUse::Volume));
        }
        if let Source::Network(network) = &disk.source
            && let Some(secret) = &network.auth
        {
            let usage = if network.protocol == "rbd" { SecretUse::Ceph } else { SecretUse::Iscsi };
            wanted.push((disk.target.clone(), secret, usage));
        }
    }
    if let Some(tpm) = &machine.tpm
        && let TpmBackend::Emulator { secret: Some(secret), .. } = &tpm.backend
    {
        wanted.push(("TPM".to_owned(), secret, SecretUse::Vtpm));
    }
    let mut saved: Vec<SavedSecret> = Vec::new();
    for (what, reference, usage) in wanted {
        let found = match reference {
            SecretRef::Uuid(uuid) => connection.secret(*uuid)?,
            SecretRef::Usage { name, .. } => connection.secret_of(usage, name)?,
        };
        let is_kept_out = usage == SecretUse::Volume && encrypted == EncryptedDisks::Ciphertext;
        match found {
            None if is_kept_out => {}
            None => missing.push(format!("secret of {what}: libvirt does not have it")),
            Some(secret) if saved.iter().any(|other| other.uuid == secret.uuid) => {}
            Some(secret) if is_kept_out => {
                let (uuid, xml) = (secret.uuid, connection.secret_xml(&secret)?);
                saved.push(SavedSecret { uuid, xml, value: None });
            }
            Some(secret) => saved.push(save(connection, &secret, &what, missing)?),
        }
    }
    Ok(saved)
}

fn save(
    connection: &Connection,
    secret: &Secret,
    what: &str,
    missing: &mut Vec<String>,
) -> Result<SavedSecret> {
    let value = match connection.secret_value(secret) {
        Ok(value) => Some(value),
        Err(error) => {
            missing.push(format!("value of the secret of {what}: {error}"));
            None
        }
    };
    Ok(SavedSecret { uuid: secret.uuid, xml: connection.secret_xml(secret)?, value })
}
