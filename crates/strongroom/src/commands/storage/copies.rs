//! `storage copy ...`: copies of the storage accounts on other disks.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use strongroom_storage::admin::{Command, CopyShown, CopyStateShown, Reply};

use super::{DataArgs, other_answer};
use crate::{
    columns::{Columns, row},
    commands::service::common::Listed,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::{FaceError, Failure},
    human,
};

/// `storage copy ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum CopyCommand {
    List(ListArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
}

impl CopyCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Add(args) => args.run(context),
            Self::Remove(args) => args.run(context),
        }
    }
}

/// Paths as the store remembers them.
pub(super) fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    paths.iter().map(|path| absolute_one(path)).collect()
}

fn absolute_one(path: &Path) -> Result<PathBuf, Failure> {
    let find = |source| FaceError::Local { path: path.to_owned(), action: "find", source };
    Ok(std::path::absolute(path).map_err(find)?)
}

/// How a copy stands, in words.
pub(super) fn sentence(copy: &CopyShown) -> String {
    format!("{}: {}", copy.path.display(), state(&copy.state))
}

fn state(state: &CopyStateShown) -> String {
    match state {
        CopyStateShown::Leading => "healthy, is read".to_owned(),
        CopyStateShown::Healthy => "healthy".to_owned(),
        CopyStateShown::Rebuilding { done_bytes: _, total_bytes: 0 } => "is being made".to_owned(),
        CopyStateShown::Rebuilding { done_bytes, total_bytes } => {
            format!("is being made, {}", human::of_bytes(*done_bytes, *total_bytes))
        }
        CopyStateShown::LeftOut { since, reason } => {
            format!("left out since {}: {reason}", human::time(*since))
        }
        CopyStateShown::Missing { since, reason } => {
            format!("missing, left out since {}: {reason}", human::time(*since))
        }
    }
}

fn show(context: &Context, reply: Reply) -> Result<(), Failure> {
    let Reply::Copies { copies } = reply else { return Err(other_answer()) };
    let rows = copies.iter().map(|copy| row![copy.path.display().to_string(), state(&copy.state)]);
    let columns = Columns::new(["COPY", "STATE"], rows);
    context.out.result(&Listed::new("copies", copies, columns))
}

/// List the copies of the storage accounts, and how each stands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage copy list
  strongroom storage copy list --data-dir /disk1/storage --output json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    data: DataArgs,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        show(context, self.data.ask(context, &Command::CopyList)?)
    }
}

/// Make a copy of the storage accounts in a folder on another disk
///
/// While the accounts are served the copy is made in the background; `storage copy list` shows how far it is. A copy that
/// was left out because its disk had failed is made again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage copy add /disk2/storage
  strongroom storage copy add /disk2/storage --data-dir /disk1/storage --output json")]
pub(crate) struct AddArgs {
    /// The folder: empty, or not there
    folder: PathBuf,

    #[command(flatten)]
    data: DataArgs,
}

impl AddArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let path = absolute_one(&self.folder)?;
        show(context, self.data.ask(context, &Command::CopyAdd { path })?)
    }
}

/// Give a copy of the storage accounts up
///
/// Its folder stays as it is and can be deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom storage copy remove /disk2/storage
  strongroom storage copy remove /disk2/storage --yes")]
pub(crate) struct RemoveArgs {
    /// The folder, as the list shows it
    folder: PathBuf,

    #[command(flatten)]
    data: DataArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl RemoveArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let path = absolute_one(&self.folder)?;
        let plan = Plan::new(format!("Give up the copy in {}", path.display()))
            .with("Changes are no longer kept there");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        show(context, self.data.ask(context, &Command::CopyRemove { path })?)
    }
}
