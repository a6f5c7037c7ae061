//! `restore files tar`: files of a recovery point as an archive.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use clap::Args;
use strongroom_files::{Files, archive};

use crate::{
    context::Context,
    error::{FaceError, Failure},
    human,
    out::Show as _,
};

use super::{WhereArgs, cp::Copied, path_of};

/// Write a file or folder of a recovery point as a tar archive
///
/// The archive goes to standard output, or to a new file. It has the pax format: names of any length and
/// encoding, exact times, owners, hard links, devices, extended attributes and access control lists
/// (`tar --xattrs --acls -x` takes them). Holes are zeros in it.
///
/// What could not be read is listed on standard error, and the exit code is 7. If a large file
/// cannot be read to its end, the archive ends there with an error.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files tar --item web01 --recovery-point latest --path /etc > etc.tar
  strongroom restore files tar --item web01 --recovery-point latest --path /srv/www --to www.tar")]
pub(crate) struct TarArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The folder or file
    #[arg(long, value_name = "PATH")]
    path: OsString,

    /// The archive, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl TarArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut opened = self.place.open(context)?;
        let volume = opened.choose(&self.place)?;
        let disk = volume.disk.map(|_| opened.disk(&volume).to_owned());
        let mut files = Files::open(&mut opened.reader, &volume)?;
        let found = files.locate(path_of(&self.path))?;
        let out: Box<dyn Write> = match &self.to {
            Some(to) => {
                let file = File::options().write(true).create_new(true).mode(0o600).open(to);
                let failed = |source| FaceError::Local { path: to.clone(), action: "make", source };
                Box::new(file.map_err(failed)?)
            }
            None => Box::new(io::stdout().lock()),
        };
        for note in files.notes() {
            context.out.say(&format!("Note: {note}"));
        }
        let notes = files.notes().to_vec();
        let mut out = BufWriter::with_capacity(1 << 20, out);
        let done = archive(&mut files, &found, &mut out, &context.cancel)?;
        let problem_count = done.problem_count;
        let to =
            self.to.as_ref().map_or("standard output".to_owned(), |to| to.display().to_string());
        let copied = Copied::new(disk, &volume, &found.path, to, notes, done);
        if self.to.is_some() {
            context.out.result(&copied)?;
        } else {
            context.out.say(copied.show().trim_end());
        }
        if problem_count > 0 {
            let parts = human::count(problem_count, "problem");
            return Err(FaceError::FilesIncomplete(parts).into());
        }
        Ok(())
    }
}
