//! `restore files cp`: files of a recovery point into a folder.

use std::{ffi::OsString, fmt::Write as _, path::PathBuf};

use clap::Args;
use serde::Serialize;
use strongroom_files::{Delivered, Files, Options, Volume, deliver, shown};

use crate::{
    context::Context,
    error::{FaceError, Failure},
    human::{self, printable},
    out::Show,
};

use super::{WhereArgs, path_of, path_parser};

/// Copy a file or folder of a recovery point into a folder of this machine
///
/// The file or folder keeps its name; of --path / everything in it is copied. Nothing that exists is
/// overwritten, and no link is followed. Files keep their holes, hard links, times, and, for root,
/// owners, modes, extended attributes and access control lists.
///
/// What could not be delivered, or not with all that it has, is listed, and the exit code is 7. A
/// file that cannot be read whole is left out.
///
/// Devices, set-user-id and set-group-id bits of files, and attributes of security give power over
/// this machine to those who could write to the disk. They are left out, unless you give --trusted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom restore files cp --item web01 --recovery-point latest --path /etc/nginx --to /tmp/w
  strongroom restore files cp --item web01 --recovery-point yesterday --disk vda --partition 1 \\
      --path /home/ann/report.odt --to .")]
pub(crate) struct CpArgs {
    #[command(flatten)]
    place: WhereArgs,

    /// The folder or file
    #[arg(long, value_name = "PATH", value_parser = path_parser())]
    path: OsString,

    /// The folder to copy into; it is made if its parent exists
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// Also deliver devices, set-user-id and set-group-id bits, and attributes of security
    #[arg(long)]
    trusted: bool,
}

/// What was copied, as JSON.
#[derive(Serialize)]
pub(super) struct Copied {
    disk: Option<String>,
    partition: Option<u32>,
    volume: Option<String>,
    path: String,
    to: String,
    files: u64,
    folders: u64,
    links: u64,
    others: u64,
    bytes: u64,
    notes: Vec<String>,
    /// The first of them.
    problems: Vec<ProblemView>,
    problem_count: u64,
}

#[derive(Serialize)]
struct ProblemView {
    path: String,
    code: Option<&'static str>,
    reason: String,
}

impl CpArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut opened = self.place.open(context)?;
        let volume = opened.choose(&self.place)?;
        let disk = volume.disk.map(|_| opened.disk(&volume).to_owned());
        let mut files = Files::open(&mut opened.reader, &volume)?;
        let found = files.locate(path_of(&self.path))?;
        for note in files.notes() {
            context.out.say(&format!("Note: {note}"));
        }
        let notes = files.notes().to_vec();
        let options = Options { trusted: self.trusted };
        let done = deliver(&mut files, &found, &self.to, options, &context.cancel)?;
        let problem_count = done.problem_count;
        let to = self.to.display().to_string();
        let copied = Copied::new(disk, &volume, &found.path, to, notes, done);
        context.out.result(&copied)?;
        if problem_count > 0 {
            let parts = human::count(problem_count, "problem");
            return Err(FaceError::FilesIncomplete(parts).into());
        }
        Ok(())
    }
}

impl Copied {
    pub(super) fn new(
        disk: Option<String>,
        volume: &Volume,
        path: &[u8],
        to: String,
        notes: Vec<String>,
        done: Delivered,
    ) -> Self {
        let Delivered { files, folders, links, others, bytes, problems, problem_count } = done;
        let problem = |problem: strongroom_files::Problem| ProblemView {
            path: shown(&problem.path),
            code: problem.code,
            reason: problem.reason,
        };
        Self {
            disk,
            partition: volume.partition,
            volume: volume.logical.clone(),
            path: shown(path),
            to,
            files,
            folders,
            links,
            others,
            bytes,
            notes,
            problems: problems.into_iter().map(problem).collect(),
            problem_count,
        }
    }
}

impl Show for Copied {
    fn show(&self) -> String {
        let mut text = format!(
            "Copied {} to {}: {}, {}, {}, {}\n",
            printable(&self.path),
            self.to,
            human::count(self.files, "file"),
            human::count(self.folders, "folder"),
            human::count(self.links.saturating_add(self.others), "link or special file"),
            human::bytes(self.bytes),
        );
        for problem in &self.problems {
            let path = printable(&problem.path);
            writeln!(text, "Not delivered: {path}: {}", printable(&problem.reason)).ok();
        }
        let listed = u64::try_from(self.problems.len()).unwrap_or(u64::MAX);
        let more = self.problem_count.saturating_sub(listed);
        if more > 0 {
            writeln!(text, "Not delivered: {} more", human::count(more, "part")).ok();
        }
        text
    }
}
