//! `restore files`: single files of a recovery point.
//!
//! Strangers' file systems are read by a process of their own (`strongroom_files`), which is this program again.

use std::{
    env, ffi::OsString, fs::File, io::Read as _, os::unix::ffi::OsStrExt as _, path::PathBuf,
    sync::Arc,
};

use clap::{
    Args, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use strongroom_export::PointFiles;
use strongroom_files::{FilesError, Limits, ReaderCommand, Secret, Volume};
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
        Served::new(context, self).map(Some)
    }

    /// Refuses a server, for what works on a vault only.
    fn refuse_server(&self, context: &Context) -> Result<(), Failure> {
        if self.point.of.is_direct(context, &self.open)? {
            return Ok(());
        }
        Err(Failure::usage("this works on a vault directly: name the vault with --vault"))
    }

    /// Opens the point and looks at its disks.
    fn open(&self, context: &Context) -> Result<PointFiles, Failure> {
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find(&vault)?;
        self.opened(&vault, &point)
    }

    fn opened(&self, vault: &Arc<Vault>, point: &Manifest) -> Result<PointFiles, Failure> {
        let (disk, command, limits) = (self.disk.as_deref(), reader()?, Limits::default());
        let mut files = PointFiles::open(vault, point, disk, &command, limits)?;
        if !self.luks_key_file.is_empty() {
            files.unlock(&command, secrets(&self.luks_key_file)?, limits)?;
        }
        Ok(files)
    }

    /// The one volume that is meant.
    fn choose(&self, opened: &mut PointFiles) -> Result<Volume, FilesError> {
        opened.choose(self.partition, self.volume.as_deref())
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
