//! `restore files`: single files of a recovery point.
//!
//! Strangers' file systems are read by a process of their own (`strongroom_files`), which is this program again.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    sync::Arc,
};

use clap::{
    Args, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use strongroom_base::Coded as _;
use strongroom_disk::{DiskError, DiskSource};
use strongroom_export::PointDisk;
use strongroom_files::{
    FaultKind, FileReader, FilesError, Limits, NamedDisk, ReadAt, ReadFailure, ReaderCommand,
    Secret, Volume,
};
use strongroom_format::Manifest;
use strongroom_vault::Vault;

use crate::{
    args::OpenArgs,
    context::Context,
    error::{FaceError, Failure},
    open::open_vault,
    values,
};

use super::recoverypoint::{PointArgs, find};

mod cp;
mod diff;
mod find;
mod ls;
mod mount;
mod tar;

/// The first argument of the process that reads file systems.
pub(crate) const READER: &str = "file-reader";

/// Most bytes of a file with the key of an encrypted volume.
const SECRET_MAX: usize = 64 << 10;

/// `restore files ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    Ls(ls::LsArgs),
    Cp(cp::CpArgs),
    Tar(tar::TarArgs),
    Find(Box<find::FindArgs>),
    Diff(Box<diff::DiffArgs>),
    Mount(mount::MountArgs),
}

impl FilesCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Ls(args) => args.run(context),
            Self::Cp(args) => args.run(context),
            Self::Tar(args) => args.run(context),
            Self::Find(args) => args.run(context),
            Self::Diff(args) => args.run(context),
            Self::Mount(args) => args.run(context),
        }
    }
}

/// Which file system of which recovery point.
#[derive(Debug, Args)]
pub(crate) struct WhereArgs {
    #[command(flatten)]
    point: PointArgs,

    /// The disk [default: the only one with a file system that can be read]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    disk: Option<String>,

    /// The number of the partition [default: the only one that can be read]
    #[arg(long, value_name = "N")]
    partition: Option<u32>,

    /// A logical volume (LVM) instead of a partition
    #[arg(long, value_name = "GROUP/NAME", conflicts_with = "partition")]
    volume: Option<String>,

    /// A file with the passphrase or key of encrypted volumes (LUKS); several are tried
    #[arg(long, value_name = "FILE")]
    luks_key_file: Vec<PathBuf>,

    #[command(flatten)]
    open: OpenArgs,
}

/// A disk of a recovery point, for those who read files.
struct Bytes(PointDisk);

impl ReadAt for Bytes {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        match offset.checked_add(len) {
            Some(end) if end <= self.0.size() => {
                // The code of the cause stays that of the error.
                let failure = |error: DiskError| {
                    io::Error::other(ReadFailure { code: error.code(), cause: Box::new(error) })
                };
                self.0.read_at(offset, buf).map_err(failure)
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A recovery point whose files can be read.
struct Opened {
    reader: FileReader,
    /// Names of the disks, as volumes count them.
    disks: Vec<String>,
    volumes: Vec<Volume>,
}

impl WhereArgs {
    /// Whether a volume is named.
    fn is_named(&self) -> bool {
        self.disk.is_some() || self.partition.is_some() || self.volume.is_some()
    }

    fn refuse_server(&self, context: &Context) -> Result<(), Failure> {
        if self.point.of.is_direct(context, &self.open)? {
            return Ok(());
        }
        Err(Failure::usage(
            "restore files works without a server only: name the vault with --vault",
        ))
    }

    /// Opens the point and looks at its disks.
    fn open(&self, context: &Context) -> Result<Opened, Failure> {
        self.refuse_server(context)?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        self.opened(&vault, &point)
    }

    fn opened(&self, vault: &Arc<Vault>, point: &Manifest) -> Result<Opened, Failure> {
        let wanted = |name: &str| self.disk.as_deref().is_none_or(|disk| disk == name);
        let records: Vec<_> = point.disks.iter().filter(|disk| wanted(&disk.name)).collect();
        if records.is_empty() {
            let names: Vec<&str> = point.disks.iter().map(|disk| disk.name.as_str()).collect();
            let reason = match &self.disk {
                Some(disk) => format!("there is no disk {disk}; there are {}", names.join(", ")),
                None => "the recovery point has no disks".to_owned(),
            };
            return Err(FilesError::Volume { reason }.into());
        }
        let mut disks = Vec::new();
        for record in &records {
            let bytes = PointDisk::new(vault, record)
                .map_err(|error| FaceError::Bug(format!("a recorded size: {error}")))?;
            disks.push(NamedDisk { name: record.name.clone(), bytes: Arc::new(Bytes(bytes)) });
        }
        let (command, limits) = (reader()?, Limits::default());
        let mut reader = FileReader::start(&command, disks, limits)?;
        if !self.luks_key_file.is_empty() {
            let secrets = secrets(&self.luks_key_file)?;
            reader.unlock(&command, secrets, limits)?;
        }
        let volumes = reader.survey()?;
        let disks = records.iter().map(|record| record.name.clone()).collect();
        Ok(Opened { reader, disks, volumes })
    }
}

/// The secrets in some files.
fn secrets(files: &[PathBuf]) -> Result<Vec<Secret>, Failure> {
    let mut secrets = Vec::new();
    for path in files {
        let failed = |source| FaceError::Local { path: path.clone(), action: "read", source };
        let mut bytes = Vec::with_capacity(SECRET_MAX.saturating_add(64));
        let most = u64::try_from(SECRET_MAX).unwrap_or(u64::MAX).saturating_add(1);
        File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.is_empty() || bytes.len() > SECRET_MAX {
            let reason = format!("{}: a key of LUKS has 1 to {SECRET_MAX} bytes", path.display());
            return Err(Failure::usage(reason));
        }
        secrets.extend(Secret::in_file(bytes));
    }
    Ok(secrets)
}

/// How the process that reads is started: by our own program.
pub(super) fn reader() -> Result<ReaderCommand, Failure> {
    let program = env::current_exe().map_err(|source| FaceError::Local {
        path: "/proc/self/exe".into(),
        action: "find",
        source,
    })?;
    Ok(ReaderCommand { program, arguments: vec![READER.to_owned()] })
}

/// Whether what is on it is not known, as the disk cannot be read there.
fn is_unread(volume: &Volume) -> bool {
    volume.refusal.as_ref().is_some_and(|fault| fault.kind == FaultKind::Disk)
}

impl Opened {
    /// The name of a volume's disk.
    fn disk(&self, volume: &Volume) -> &str {
        let index = volume.disk.and_then(|disk| usize::try_from(disk).ok());
        index.and_then(|index| self.disks.get(index)).map_or("", String::as_str)
    }

    /// What people call a volume.
    fn place(&self, volume: &Volume) -> String {
        match (volume.partition, &volume.logical) {
            (_, Some(name)) => format!("volume {name}"),
            (Some(number), None) => format!("disk {}, partition {number}", self.disk(volume)),
            (None, None) => format!("disk {}", self.disk(volume)),
        }
    }

    /// The one volume that is meant. If it cannot be known, or not be read, because the disk cannot be read, that is
    /// the error.
    fn choose(&mut self, place: &WhereArgs) -> Result<Volume, FilesError> {
        let missed = self.reader.missed();
        let named = |volume: &&Volume| {
            (place.partition.is_none() || volume.partition == place.partition)
                && (place.volume.is_none() || volume.logical == place.volume)
        };
        let named: Vec<&Volume> = self.volumes.iter().filter(named).collect();
        let may_be =
            |volume: &&Volume| volume.refusal.is_none() || (missed.is_some() && is_unread(volume));
        let candidates: Vec<&Volume> = named.iter().copied().filter(may_be).collect();
        let list = |volumes: &[&Volume]| {
            let names: Vec<String> = volumes.iter().map(|volume| self.place(volume)).collect();
            names.join("; ")
        };
        match (candidates.as_slice(), named.as_slice(), missed) {
            ([one], _, Some(error)) if is_unread(one) => Err(error),
            ([one], _, _) => Ok((*one).clone()),
            ([], [one], _) => {
                let reason = one.refusal.as_ref().map(ToString::to_string).unwrap_or_default();
                let kind = one.file_system.as_deref().unwrap_or("unknown");
                let reason = format!("{kind}: {reason}");
                Err(FilesError::Unsupported { path: self.place(one), reason })
            }
            // It may lie where the disk cannot be read.
            ([], _, Some(error)) => Err(error),
            ([], [], None) => {
                let reason = format!("there is no such partition; there are: {}", {
                    list(&self.volumes.iter().collect::<Vec<_>>())
                });
                Err(FilesError::Volume { reason })
            }
            ([], _, None) => {
                let reason = format!("none of these can be read: {}", list(&named));
                Err(FilesError::Volume { reason })
            }
            (several, _, _) => {
                let reason = format!(
                    "several file systems are there; name one by --disk, --partition or --volume: {}",
                    list(several)
                );
                Err(FilesError::Volume { reason })
            }
        }
    }
}

/// Takes every path that names something.
fn path_parser() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|path| {
        if path.is_empty() {
            return Err("it is empty; the uppermost folder is /");
        }
        Ok(path)
    })
}

/// A path on the command line, as bytes.
fn path_of(path: &OsString) -> &[u8] {
    path.as_bytes()
}
