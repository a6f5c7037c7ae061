//! `restore files`: single files of a recovery point.
//!
//! Strangers' file systems are read by a process of their own (`strongroom_files`), which is this program again.

use std::{
    env, ffi::OsString, fs::File, io::Read as _, os::unix::ffi::OsStrExt as _, path::PathBuf,
    sync::Arc,
};

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use strongroom_base::Environment;
use strongroom_export::PointFiles;
use strongroom_files::{
    FilesError, Limits, Machine, MachineLimits, ReaderCommand, Secret, Volume, machine_may_read,
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

use self::served::Served;
use super::recoverypoint::{PointArgs, find};

mod cp;
mod diff;
mod find;
mod ls;
mod mount;
mod served;
mod signs;
mod tar;
mod zip;

/// The first argument of the process that reads file systems.
pub(crate) const READER: &str = "file-reader";
/// That of the process that becomes the machine which reads them.
pub(crate) const LAUNCHER: &str = "file-machine";
/// That of process 1 of this machine.
pub(crate) const GUEST: &str = "file-guest";

/// Most bytes of a file with the key of an encrypted volume.
const SECRET_MAX: usize = 64 << 10;

/// `restore files ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    Ls(ls::LsArgs),
    Cp(cp::CpArgs),
    Tar(tar::TarArgs),
    Zip(zip::ZipArgs),
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
            Self::Zip(args) => args.run(context),
            Self::Find(args) => args.run(context),
            Self::Diff(args) => args.run(context),
            Self::Mount(args) => args.run(context),
        }
    }
}

/// Who reads file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileSystemReader {
    /// The locked-in process, and the micro-VM if the process cannot read the named file system
    Auto,
    /// The locked-in process only
    Process,
    /// The micro-VM: QEMU with this host's kernel, whose drivers read it
    Machine,
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

    /// A file with the passphrase or key of encrypted volumes (LUKS); several are tried. Without a server
    #[arg(long, value_name = "FILE")]
    luks_key_file: Vec<PathBuf>,

    /// Who reads the file system. Without a server
    #[arg(long, value_name = "READER", value_enum, default_value = "auto")]
    reader: FileSystemReader,

    /// The kernel of the micro-VM [default: the running one, or else the newest in /boot]. Without a server
    #[arg(long, value_name = "FILE")]
    machine_kernel: Option<PathBuf>,

    #[command(flatten)]
    open: OpenArgs,
}

impl WhereArgs {
    /// Whether a volume is named.
    fn is_named(&self) -> bool {
        self.disk.is_some() || self.partition.is_some() || self.volume.is_some()
    }

    /// The server that is asked, if one is.
    fn served(&self, context: &Context) -> Result<Option<Served>, Failure> {
        if self.point.of.is_direct(context, &self.open)? {
            return Ok(None);
        }
        if !self.luks_key_file.is_empty() {
            return Err(Failure::usage(
                "--luks-key-file works on a vault directly, as no server gets the secret: name the vault with --vault",
            ));
        }
        if self.reader == FileSystemReader::Machine || self.machine_kernel.is_some() {
            return Err(Failure::usage(
                "--reader machine and --machine-kernel work on a vault directly: name the vault with --vault",
            ));
        }
        Served::new(context, self).map(Some)
    }

    /// Refuses a server, for what works on a vault only.
    fn refuse_server(&self, context: &Context) -> Result<(), Failure> {
        if self.point.of.is_direct(context, &self.open)? {
            return Ok(());
        }
        Err(Failure::usage("this works on a vault directly: name the vault with --vault"))
    }

    /// Opens the point and looks at its disks, by the reader that is named.
    fn open(&self, context: &Context) -> Result<PointFiles, Failure> {
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        self.opened(&vault, &point)
    }

    fn opened(&self, vault: &Arc<Vault>, point: &Manifest) -> Result<PointFiles, Failure> {
        if self.reader == FileSystemReader::Machine {
            return self.in_machine(vault, point);
        }
        let (disk, command, limits) = (self.disk.as_deref(), reader()?, Limits::default());
        let mut files = PointFiles::open(vault, point, disk, &command, limits)?;
        if !self.luks_key_file.is_empty() {
            files.unlock(&command, secrets(&self.luks_key_file)?, limits)?;
        }
        Ok(files)
    }

    /// The same in a machine.
    fn in_machine(&self, vault: &Arc<Vault>, point: &Manifest) -> Result<PointFiles, Failure> {
        if !self.luks_key_file.is_empty() {
            return Err(Failure::usage(
                "--luks-key-file works with --reader process only: the micro-VM opens no encrypted volumes",
            ));
        }
        let machine = self.machine()?;
        Ok(PointFiles::open_in_machine(vault, point, self.disk.as_deref(), &machine)?)
    }

    fn machine(&self) -> Result<Machine, Failure> {
        let command = ReaderCommand { arguments: vec![LAUNCHER.to_owned()], ..reader()? };
        Ok(Machine {
            command,
            guest: GUEST.to_owned(),
            kernel: self.machine_kernel.clone(),
            temporary: Environment::given().temporary_folder(),
            limits: MachineLimits::default(),
        })
    }

    /// Says that a machine may read what the process does not.
    fn name_machine(&self, context: &Context, opened: &PointFiles) {
        let is_process = self.reader != FileSystemReader::Machine;
        if is_process && opened.volumes().iter().any(machine_may_read) {
            context.out.say("Note: a micro-VM may read more of it: --reader machine");
        }
    }

    /// Opens a point and the one volume that is meant: by the process, and if that does not read it, by a machine.
    fn open_volume(&self, context: &Context) -> Result<(PointFiles, Volume), Failure> {
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        self.opened_volume(context, &vault, &point)
    }

    /// The same for a point.
    fn opened_volume(
        &self,
        context: &Context,
        vault: &Arc<Vault>,
        point: &Manifest,
    ) -> Result<(PointFiles, Volume), Failure> {
        let mut opened = self.opened(vault, point)?;
        let refused = match self.choose(&mut opened) {
            Ok(volume) => return Ok((opened, volume)),
            Err(error) => error,
        };
        if !self.may_try_machine(&refused, &opened) {
            return Err(refused.into());
        }
        drop(opened);
        context.out.say(&format!("Note: {refused}. A micro-VM tries it"));
        let mut opened = self.in_machine(vault, point)?;
        let volume = self.choose(&mut opened)?;
        Ok((opened, volume))
    }

    /// The one volume that is meant.
    fn choose(&self, opened: &mut PointFiles) -> Result<Volume, FilesError> {
        opened.choose(self.partition, self.volume.as_deref())
    }

    /// Whether a machine may read what the process does not: the volume that is named, or one of an array.
    fn may_try_machine(&self, refused: &FilesError, opened: &PointFiles) -> bool {
        let is_meant = |volume: &&Volume| {
            (self.partition.is_none() || volume.partition == self.partition)
                && (self.volume.is_none() || volume.logical == self.volume)
        };
        let is_of_array = self.volume.as_ref().is_some_and(|name| name.starts_with("md/"));
        let meant: Vec<&Volume> =
            opened.volumes().iter().filter(|it| is_of_array || is_meant(it)).collect();
        let may = matches!(refused, FilesError::Unsupported { .. } | FilesError::Volume { .. })
            && meant.iter().any(|volume| machine_may_read(volume))
            && (is_of_array || meant.iter().all(|volume| volume.refusal.is_some()));
        let is_free = self.reader == FileSystemReader::Auto && self.luks_key_file.is_empty();
        may && is_free && self.machine().is_ok_and(|machine| machine.check().is_ok())
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
pub(crate) fn reader() -> Result<ReaderCommand, Failure> {
    let program = env::current_exe().map_err(|source| FaceError::Local {
        path: "/proc/self/exe".into(),
        action: "find",
        source,
    })?;
    Ok(ReaderCommand { program, arguments: vec![READER.to_owned()] })
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
