//! `storage copy ...`: copies of the storage accounts on other disks.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use strongroom_api::{StorageCopy, StorageCopyState};
use strongroom_storage::admin::{Command, Reply};

use super::{DataArgs, other_answer, shapes};
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
pub(super) fn sentence(copy: &StorageCopy) -> String {
    format!("{}: {}", copy.path, state(copy))
}

fn state(copy: &StorageCopy) -> String {
    let since = || copy.since.map(human::time).unwrap_or_default();
    let reason = copy.reason.as_deref().unwrap_or_default();
    match copy.state {
        StorageCopyState::Leading => "healthy, is read".to_owned(),
        StorageCopyState::Healthy => "healthy".to_owned(),
        StorageCopyState::Rebuilding => match (copy.done_bytes, copy.total_bytes) {
            (Some(done), Some(total)) if total > 0 => {
                format!("is being made, {}", human::of_bytes(done, total))
            }
            _ => "is being made".to_owned(),
        },
        StorageCopyState::LeftOut => format!("left out since {}: {reason}", since()),
        StorageCopyState::Missing => format!("missing, left out since {}: {reason}", since()),
    }
}

fn show(context: &Context, reply: Reply) -> Result<(), Failure> {
    let copies = shapes::copies(reply).ok_or_else(other_answer)?;
    let rows = copies.iter().map(|copy| row![&copy.path, state(copy)]);
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
