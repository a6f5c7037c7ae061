//! `restore files tar`: files of a recovery point as an archive.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use strongroom_api::ArchiveFormat;
use strongroom_disk::DiskError;
use strongroom_files::{Files, archive, zip};

use crate::{
    context::Context,
    error::{FaceError, Failure},
    out::Show as _,
};

use super::{WhereArgs, cp::Copied, path_of, path_parser, served};

/// Write a file or folder of a recovery point as a tar archive
///
/// The archive goes to standard output, or to a new file. It has the pax format: names of any length and
/// encoding, exact times, owners, hard links, devices, extended attributes and access control lists
/// (`tar --xattrs --acls -x` takes them). Holes are zeros in it.
///
/// What could not be read is listed on standard error, and the exit code is 7. If a large file
/// cannot be read to its end, the archive ends there with an error. A file gets its name when the archive
/// is whole: until then it is FILE.partial, and it is removed if that fails.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files tar --item web01 --recovery-point latest --path /etc > etc.tar
  strongroom restore files tar --item web01 --recovery-point latest --path /srv/www --to www.tar")]
pub(crate) struct TarArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The folder or file
    #[arg(long, value_name = "PATH", value_parser = path_parser())]
    path: OsString,

    /// The archive, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// An archive that is being written, under a name of its own: nothing that has its last name is short.
struct Partial {
    path: PathBuf,
    to: PathBuf,
}

impl Partial {
    /// Makes the file, if neither it nor the archive is there.
    fn make(to: &Path) -> Result<(Self, File), Failure> {
        if to.symlink_metadata().is_ok() {
            return Err(exists(to));
        }
        let mut path = to.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok((Self { path, to: to.to_owned() }, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Err(source) => Err(FaceError::Local { path, action: "make", source }.into()),
        }
    }

    /// Gives it its last name, unless something has that by now.
    fn finish(self) -> Result<(), Failure> {
        use rustix::{
            fs::{CWD, RenameFlags, renameat_with},
            io::Errno,
        };
        let renamed = match renameat_with(CWD, &self.path, CWD, &self.to, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Err(exists(&self.to)),
            // Some file systems cannot look and rename at once.
            Err(Errno::INVAL | Errno::NOSYS) if self.to.symlink_metadata().is_err() => {
                fs::rename(&self.path, &self.to)
            }
            renamed => renamed.map_err(io::Error::from),
        };
        renamed.map_err(|source| {
            FaceError::Local { path: self.to.clone(), action: "make", source }.into()
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It is not there any more if it has its last name.
        fs::remove_file(&self.path).ok();
    }
}

fn exists(path: &Path) -> Failure {
    let failure = Failure::from(DiskError::NotEmpty { disk: path.display().to_string() });
    failure.with_hint("Nothing that exists is overwritten: name another file, or remove it first.")
}

impl TarArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        pack(context, &self.place, &self.path, self.to.as_deref(), ArchiveFormat::Tar)
    }
}

/// Writes an archive to a file or to standard output.
pub(super) fn pack(
    context: &Context,
    place: &WhereArgs,
    path: &OsString,
    to: Option<&Path>,
    format: ArchiveFormat,
) -> Result<(), Failure> {
    let named = to.map_or("standard output".to_owned(), |to| to.display().to_string());
    let copied = if let Some(served) = place.served(context)? {
        let download = served.archive(path_of(path).to_vec(), format)?;
        let (partial, out) = target(to)?;
        let mut out = BufWriter::with_capacity(1 << 20, out);
        let report = served::copy(download, &mut out, &named)?;
        partial.map_or(Ok(()), Partial::finish)?;
        for note in &report.notes {
            context.out.say(&format!("Note: {note}"));
        }
        Copied::of_report(report, named)
    } else {
        let (mut opened, volume) = place.open_volume(context)?;
        let disk = volume.disk.map(|_| opened.disk(&volume).to_owned());
        let mut files = Files::open(opened.reader(), &volume)?;
        let found = files.locate(path_of(path))?;
        let (partial, out) = target(to)?;
        for note in files.notes() {
            context.out.say(&format!("Note: {note}"));
        }
        let notes = files.notes().to_vec();
        let mut out = BufWriter::with_capacity(1 << 20, out);
        let done = match format {
            ArchiveFormat::Tar => archive(&mut files, &found, &mut out, &context.cancel)?,
            ArchiveFormat::Zip => zip(&mut files, &found, &mut out, &context.cancel)?,
        };
        partial.map_or(Ok(()), Partial::finish)?;
        Copied::new(disk, &volume, &found.path, named, notes, done)
    };
    if to.is_some() {
        context.out.result(&copied)?;
    } else {
        context.out.say(copied.show().trim_end());
    }
    copied.whole()
}

/// Where an archive goes, and its file under an unfinished name if it is one.
fn target(to: Option<&Path>) -> Result<(Option<Partial>, Box<dyn Write>), Failure> {
    match to {
        Some(to) => {
            let (partial, file) = Partial::make(to)?;
            Ok((Some(partial), Box::new(file)))
        }
        None => Ok((None, Box::new(io::stdout().lock()))),
    }
}
