//! `restore files zip`: files of a recovery point as a zip archive.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use strongroom_api::ArchiveFormat;

use crate::{context::Context, error::Failure};

use super::{WhereArgs, path_parser, tar::pack};

/// Write a file or folder of a recovery point as a zip archive
///
/// The archive goes to standard output, or to a new file. It has names, bytes, times and permissions, and
/// is not compressed. Links, devices, sockets and names that other systems take for paths are left
/// out; `restore files tar` has them.
///
/// What is left out is listed on standard error and in the archive, in "NOT IN THIS ARCHIVE.txt", and
/// the exit code is 7. If a large file cannot be read to its end, the archive ends there with an error.
/// A file gets its name when the archive is whole: until then it is FILE.partial, and it is removed
/// if that fails.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files zip --item web01 --recovery-point latest --path /home/ann > ann.zip
  strongroom restore files zip --item web01 --recovery-point latest --path /srv/www --to www.zip")]
pub(crate) struct ZipArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The folder or file
    #[arg(long, value_name = "PATH", value_parser = path_parser())]
    path: OsString,

    /// The archive, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl ZipArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        pack(context, &self.place, &self.path, self.to.as_deref(), ArchiveFormat::Zip)
    }
}
