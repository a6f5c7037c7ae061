//! `vault`: making, showing, checking and cleaning vaults.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::{
    args::{KeyArgs, OpenArgs, VaultArgs, WorkArgs},
    context::Context,
    error::{FaceError, Failure},
    values,
};

use super::vault_key::KeyCommand;

/// `vault ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    Create(CreateArgs),
    Show(ShowArgs),
    Usage(UsageArgs),
    Verify(VerifyArgs),
    Reclaim(ReclaimArgs),
    RebuildIndex(RebuildIndexArgs),
    /// Manage the keys that open a vault
    #[command(subcommand)]
    Key(KeyCommand),
}

impl VaultCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Usage(args) => args.run(context),
            Self::Verify(args) => args.run(context),
            Self::Reclaim(args) => args.run(context),
            Self::RebuildIndex(args) => args.run(context),
            Self::Key(command) => command.run(context),
        }
    }
}

/// Create a new, empty vault
///
/// The place must be empty; a folder is made if it does not exist. The store is probed first: if
/// it does not honour create-only puts, two writers could overwrite each other, and the vault is
/// only created with --single-writer.
///
/// The key that is named opens the vault from then on. Without it nobody can read the recovery
/// points: keep a copy of it away from the vault.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key generate ~/strongroom.key
  strongroom vault create --vault /backup/vault --key-file ~/strongroom.key
  strongroom vault create --vault /disk1/vault --mirror /disk2/vault --key-file ~/strongroom.key
  strongroom vault create --vault s3://backups/strongroom --passphrase-file /run/secrets/vault")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    vault: VaultArgs,

    #[command(flatten)]
    key: KeyArgs,

    /// A further folder that holds a full copy, best on another disk; may be repeated
    #[arg(long, value_name = "DIR")]
    mirror: Vec<PathBuf>,

    /// Accept a store that cannot arbitrate between writers; never write to it from two places
    #[arg(long)]
    single_writer: bool,

    /// Words that tell this key from others in `vault key list`
    #[arg(long, value_name = "TEXT", default_value = "first key")]
    label: String,
}

impl CreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let url = context.vault_url(&self.vault)?;
        let key = context.key(&self.key)?;
        tracing::debug!(?url, ?key, ?self.mirror, self.single_writer, self.label);
        Err(not_yet("vault create"))
    }
}

/// Show what a vault is: its format, its store, its keys and its items
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault show --vault /backup/vault --key-file ~/strongroom.key")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    open: OpenArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        open(context, &self.open)?;
        Err(not_yet("vault show"))
    }
}

/// Show how much a vault holds: in all and for each item
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault usage
  strongroom vault usage --output json")]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    open: OpenArgs,
}

impl UsageArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        open(context, &self.open)?;
        Err(not_yet("vault usage"))
    }
}

/// Check that what a vault holds is what was written
///
/// Without options everything that recovery points need is read, decrypted, decompressed and
/// compared with its digest. --blind compares every object with its name only, which needs no
/// key. --sample checks a random part. --repair replaces damaged and missing objects by good
/// copies, where a mirror has one.
///
/// Ends with exit code 6 if anything is damaged; the recovery points that need it are listed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault verify
  strongroom vault verify --sample 5 --limit-rate 50M
  strongroom vault verify --blind --vault /backup/vault
  strongroom vault verify --repair")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,

    /// Compare objects with their names only; needs no key
    #[arg(long)]
    blind: bool,

    /// Check a random part only: a whole percentage
    #[arg(long, value_name = "PERCENT", value_parser = values::percent)]
    sample: Option<u8>,

    /// Replace damaged and missing objects by good copies of a mirror
    #[arg(long)]
    repair: bool,

    /// Go on where an interrupted verify of this vault stopped
    #[arg(long, conflicts_with = "sample")]
    resume: bool,
}

impl VerifyArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let limit = context.limit_rate(&self.work);
        let threads = context.threads(&self.work);
        tracing::debug!(?limit, threads, self.blind, self.repair, self.resume, sample = ?self.sample);
        Err(not_yet("vault verify"))
    }
}

/// Free the space that no recovery point needs
///
/// Backups may run meanwhile. Objects that nothing needs are condemned first and deleted when
/// every backup that could still use them has ended. Objects that are mostly unneeded, and small
/// ones, are packed together.
///
/// Ends with exit code 7 if backups that started earlier are still running: run it again later,
/// it goes on where it stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault reclaim --dry-run
  strongroom vault reclaim --wait 2h")]
pub(crate) struct ReclaimArgs {
    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    work: WorkArgs,

    /// Say what would be freed, change nothing
    #[arg(long)]
    dry_run: bool,

    /// Wait so long for running backups
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "0")]
    wait: Duration,
}

impl ReclaimArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        open(context, &self.open)?;
        tracing::debug!(self.dry_run, ?self.wait);
        Err(not_yet("vault reclaim"))
    }
}

/// Rebuild a vault's index from its packs
///
/// The index only saves time: it can always be made again from what the packs say about
/// themselves. Needed after index objects were lost or damaged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault rebuild-index")]
pub(crate) struct RebuildIndexArgs {
    #[command(flatten)]
    open: OpenArgs,
}

impl RebuildIndexArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        open(context, &self.open)?;
        Err(not_yet("vault rebuild-index"))
    }
}

/// Opens a vault.
pub(crate) fn open(context: &Context, args: &OpenArgs) -> Result<(), Failure> {
    let url = context.vault_url(&args.vault)?;
    let key = context.key(&args.key)?;
    let cache_dir = context.cache_dir(args.cache_dir.as_ref());
    tracing::debug!(url, ?key, ?cache_dir);
    Ok(())
}

pub(crate) fn not_yet(what: &str) -> Failure {
    FaceError::Bug(format!("{what} is not there yet")).into()
}
