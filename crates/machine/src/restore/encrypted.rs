//! Disks that QEMU encrypts on the host: they are restored encrypted.
//!
//! The vault has what the guest sees. A child `qemu-nbd` encrypts it again on the way into the new
//! image, with the passphrase that libvirt or the recovery point has. It reads the passphrase from
//! a file in a folder of our own; the file is deleted when it has been read.

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::json;
use strongroom_base::{Clock, Environment};
use strongroom_disk::{
    DiskError, DiskSpec, DiskTarget, Existing, ImageFormat, NbdUrl, OpenOptions, TargetOptions,
    make_anew, open_ours, open_target,
};
use strongroom_hypervisor::{Connection, Encryption, SecretRef, SecretUse};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{image, place::local};
use crate::{Configuration, MachineError, error::Result};

/// The program.
const QEMU_NBD: &str = "qemu-nbd";

/// How long it may take to open the image, which derives a key from the passphrase.
const START: Duration = Duration::from_mins(1);

/// How long it may take to write what it holds.
const END: Duration = Duration::from_mins(5);

/// How long it may take from its socket's being there until it listens.
const LISTEN: Duration = Duration::from_secs(5);

/// How often it is looked at.
const STEP: Duration = Duration::from_millis(5);

/// A passphrase.
#[derive(Clone)]
pub(super) struct Key(Zeroizing<Vec<u8>>);

/// Why a disk cannot be restored as encrypted as it was.
pub(super) type Reason = String;

/// Finds the passphrase of a disk: libvirt's, or that of the point if it may be brought.
pub(super) fn key(
    connection: &Connection,
    configuration: &Configuration,
    encryption: &Encryption,
    may_bring: bool,
) -> std::result::Result<Key, Reason> {
    if encryption.format != "luks" || encryption.engine.as_deref().is_some_and(|e| e != "qemu") {
        return Err(format!("its encryption ({}) cannot be created", encryption.format));
    }
    let known = match &encryption.secret {
        Some(SecretRef::Uuid(uuid)) => connection.secret(*uuid),
        Some(SecretRef::Usage { name, .. }) => connection.secret_of(SecretUse::Volume, name),
        None => return Err("its description names no secret".to_owned()),
    };
    let known = known.map_err(|error| error.to_string())?;
    if let Some(known) = known {
        let value = connection.secret_value(&known).map_err(|error| error.to_string())?;
        return Ok(Key(Zeroizing::new(value)));
    }
    let saved = configuration.secrets.iter().find(|saved| match &encryption.secret {
        Some(SecretRef::Uuid(uuid)) => saved.uuid == *uuid,
        Some(SecretRef::Usage { name, .. }) => saved.xml.contains(&format!(">{name}<")),
        None => false,
    });
    let value = saved.and_then(|saved| saved.value.clone());
    match (value, may_bring) {
        (Some(value), true) => Ok(Key(Zeroizing::new(value))),
        (Some(_), false) => Err("the host lacks its secret; the recovery point has it, and --with-secrets gives it to the host"
            .to_owned()),
        (None, _) => Err("neither the host nor the recovery point has its secret".to_owned()),
    }
}

/// An encrypted image that is being written. Its parts are dropped in this order.
pub(super) struct Served {
    child: Child,
    folder: TempDir,
}

/// Opens an encrypted image to restore into; it is made if it is not there.
pub(super) fn open(
    path: &Path,
    format: ImageFormat,
    size: u64,
    options: &[String],
    existing: Existing,
    (key, run): (&Key, &Path),
    clock: &dyn Clock,
) -> Result<(Box<dyn DiskTarget>, Served)> {
    let failed = |source| local("make a folder in", run, source);
    fs::create_dir_all(run).map_err(failed)?;
    let mut folder = tempfile::Builder::new();
    let folder = folder.prefix("key-").permissions(Permissions::from_mode(0o700));
    let folder = folder.tempdir_in(run).map_err(failed)?;
    let secret = folder.path().join("key");
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&secret)?;
        file.write_all(&key.0)
    };
    write().map_err(|source| local("write", &secret, source))?;
    // In QEMU's lists of options a comma is written twice.
    let secret_words = secret.display().to_string().replace(',', ",,");
    let object = format!("secret,id=key,file={secret_words}");
    if path.symlink_metadata().is_err() {
        create(path, format, size, options, &object)?;
    }
    if existing == Existing::Ours {
        drop(open_ours(path, true).map_err(|source| local("go on with", path, source))?);
    }
    let mut served = Served { child: serve(path, format, &object, folder.path())?, folder };
    let socket = served.folder.path().join("nbd");
    served.wait_for(&socket, path, clock)?;
    fs::remove_file(&secret).map_err(|source| local("remove", &secret, source))?;
    let spec = DiskSpec::Nbd(NbdUrl::unix(&socket, ""));
    let open = OpenOptions { patience: LISTEN, ..OpenOptions::default() };
    let keep = TargetOptions { existing: Existing::Keep, open, ..TargetOptions::default() };
    let target = open_target(&spec, size, &keep)?;
    Ok((target, served))
}

/// Makes an image under another name first: one that is there is whole.
fn create(
    path: &Path,
    format: ImageFormat,
    size: u64,
    options: &[String],
    object: &str,
) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    drop(make_anew(new).map_err(|source| local("make", new, source))?);
    let (kind, own) = match format {
        ImageFormat::Qcow2 => ("qcow2", ["encrypt.format=luks", "encrypt.key-secret=key"]),
        _ => ("luks", ["key-secret=key", "hash-alg=sha256"]),
    };
    let mut words = vec!["create".to_owned(), "-q".into(), "--object".into(), object.to_owned()];
    words.extend(["-f".to_owned(), kind.to_owned()]);
    let kept = if kind == "qcow2" { options } else { &[] };
    for option in own.into_iter().chain(kept.iter().map(String::as_str)) {
        words.extend(["-o".to_owned(), option.to_owned()]);
    }
    words.extend([new.display().to_string(), size.to_string()]);
    // QEMU measures how long a key's derivation takes, and gives up where the host counts the time of
    // processors in steps that are longer.
    let coarse = |error: &MachineError| error.to_string().contains("CPU usage");
    let mut result = image::qemu_img(path, &words);
    for _ in 0..20 {
        match &result {
            Err(error) if coarse(error) => result = image::qemu_img(path, &words),
            _ => break,
        }
    }
    if result.is_err() {
        fs::remove_file(new).ok();
        return result;
    }
    fs::rename(new, path).map_err(|source| local("name", path, source))
}

fn serve(path: &Path, format: ImageFormat, object: &str, folder: &Path) -> Result<Child> {
    let file = json!({"driver": "file", "filename": path.display().to_string()});
    let node = match format {
        ImageFormat::Qcow2 => json!({
            "driver": "qcow2", "file": file, "encrypt": {"format": "luks", "key-secret": "key"},
        }),
        _ => json!({"driver": "luks", "file": file, "key-secret": "key"}),
    };
    let said = folder.join("said");
    let said = File::create(&said).map_err(|source| local("make", &said, source))?;
    let child = Command::new(QEMU_NBD)
        .env_clear()
        .envs(Environment::given().path())
        .args(["--object", object, "--socket"])
        .arg(folder.join("nbd"))
        .args(["--shared=4", "--discard=unmap", "--cache=writeback"])
        .arg(format!("json:{node}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said)
        .spawn();
    child.map_err(|error| {
        let (tool, disk) = (QEMU_NBD, path.display().to_string());
        DiskError::Tool { tool, disk, reason: error.to_string() }.into()
    })
}

impl Served {
    fn wait_for(&mut self, socket: &Path, path: &Path, clock: &dyn Clock) -> Result<()> {
        let start = clock.monotonic();
        while !socket.exists() {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended || clock.monotonic().saturating_sub(start) > START {
                let said = fs::read_to_string(socket.with_file_name("said")).unwrap_or_default();
                let said: String =
                    said.trim().chars().filter(|c| !c.is_control()).take(500).collect();
                let (tool, disk) = (QEMU_NBD, path.display().to_string());
                return Err(DiskError::Tool { tool, disk, reason: said }.into());
            }
            clock.sleep(STEP);
        }
        Ok(())
    }

    /// Waits until all is written; the target must be closed.
    pub(super) fn finish(mut self, path: &Path, clock: &dyn Clock) -> Result<()> {
        let start = clock.monotonic();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(None) if clock.monotonic().saturating_sub(start) <= END => {
                    clock.sleep(STEP);
                }
                _ => {
                    let (tool, disk) = (QEMU_NBD, path.display().to_string());
                    let reason = "it did not end as it should".to_owned();
                    return Err(DiskError::Tool { tool, disk, reason }.into());
                }
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
