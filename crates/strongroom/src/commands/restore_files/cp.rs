//! `restore files cp`: files of a recovery point into a folder.

use std::{ffi::OsString, fmt::Write as _, path::PathBuf};

use clap::Args;
use serde::Serialize;
use strongroom_api::{ArchiveFormat, FileProblem, FileReport};
use strongroom_base::codes;
use strongroom_files::{Delivered, Files, Options, Volume, deliver, shown, unpack};

use crate::{
    context::Context,
    error::{FaceError, Failure},
    human::{self, printable},
    out::Show,
};

use super::{WhereArgs, path_of, path_parser, served::Served};

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
    code: Option<String>,
    reason: String,
}

impl CpArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let copied = match self.place.served(context)? {
            Some(served) => self.through(context, &served)?,
            None => self.directly(context)?,
        };
        copied.outcome(context)
    }

    /// From the vault.
    fn directly(&self, context: &Context) -> Result<Copied, Failure> {
        let (mut opened, volume) = self.place.open_volume(context)?;
        let disk = volume.disk.map(|_| opened.disk(&volume).to_owned());
        let mut files = Files::open(opened.reader(), &volume)?;
        let found = files.locate(path_of(&self.path))?;
        for note in files.notes() {
            context.out.say(&format!("Note: {note}"));
        }
        let notes = files.notes().to_vec();
        let options = Options { trusted: self.trusted };
        let done = deliver(&mut files, &found, &self.to, options, &context.cancel)?;
        let to = self.to.display().to_string();
        Ok(Copied::new(disk, &volume, &found.path, to, notes, done))
    }

    /// From an archive that a server sends.
    fn through(&self, context: &Context, served: &Served) -> Result<Copied, Failure> {
        let path = path_of(&self.path).to_vec();
        let mut download = served.archive(path, ArchiveFormat::Tar)?;
        let options = Options { trusted: self.trusted };
        let done = unpack(&mut download, &self.to, options, &context.cancel);
        let report = download.report().map_err(Failure::from);
        let (done, report) = match (done, report) {
            (Ok(done), report) => (done, report?),
            // It was given up here, before the server had ended it.
            (Err(error), Err(failure)) if failure.code() == &codes::REQUEST_NOT_FOUND => {
                return Err(error.into());
            }
            // If it broke off, the server knows why.
            (Err(_), Err(failure)) => return Err(failure),
            (Err(error), Ok(_)) => return Err(error.into()),
        };
        for note in &report.notes {
            context.out.say(&format!("Note: {note}"));
        }
        let to = self.to.display().to_string();
        let (files, folders, links) = (done.files, done.folders, done.links);
        let (others, bytes) = (done.others, done.bytes);
        let mut copied = Copied::of_report(report, to);
        // What was made here, not what was sent.
        (copied.files, copied.folders, copied.links) = (files, folders, links);
        (copied.others, copied.bytes) = (others, bytes);
        let above = copied.path.rsplit_once('/').map_or("", |(above, _)| above).to_owned();
        copied.problem_count = copied.problem_count.saturating_add(done.problem_count);
        copied.problems.extend(done.problems.into_iter().map(|problem| ProblemView {
            path: format!("{above}{}", shown(&problem.path)),
            code: problem.code.map(str::to_owned),
            reason: problem.reason,
        }));
        Ok(copied)
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
            code: problem.code.map(str::to_owned),
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

impl Copied {
    /// What a server has sent.
    pub(super) fn of_report(report: FileReport, to: String) -> Self {
        let problem = |problem: FileProblem| ProblemView {
            path: problem.path,
            code: problem.code,
            reason: problem.reason,
        };
        Self {
            disk: report.of.disk,
            partition: report.of.partition,
            volume: report.of.volume,
            path: report.path,
            to,
            files: report.files,
            folders: report.folders,
            links: report.links,
            others: report.others,
            bytes: report.file_bytes,
            notes: report.notes,
            problems: report.problems.into_iter().map(problem).collect(),
            problem_count: report.problem_count,
        }
    }

    /// Prints it, and fails if something is missing.
    fn outcome(&self, context: &Context) -> Result<(), Failure> {
        context.out.result(self)?;
        self.whole()
    }

    /// Fails if something is missing.
    pub(super) fn whole(&self) -> Result<(), Failure> {
        if self.problem_count > 0 {
            let parts = human::count(self.problem_count, "problem");
            return Err(FaceError::FilesIncomplete(parts).into());
        }
        Ok(())
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
