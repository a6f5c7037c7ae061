//! `vault`: making, showing, checking and cleaning vaults.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use strongroom_format::{Conditional, VaultConfig};
use strongroom_objects::{Mirror, ObjectStore, Options, open, probe};
use strongroom_vault::{Vault, VaultError, keys};

use crate::{
    args::{KeyArgs, OpenArgs, VaultArgs, WorkArgs},
    context::Context,
    error::{FaceError, Failure},
    open::{folder_url, key_source, open_vault, vault_options},
    values,
    views::{ItemView, PointView, VaultShown, VaultView},
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
    mirror: Vec<String>,

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
        let key = key_source(context.key(&self.key)?)?;
        let options = Options { create: true, ..Options::default() };
        let mut store = open(&url, &options)?;
        let mut mirrors = Vec::new();
        if !self.mirror.is_empty() {
            let mut copies = vec![store];
            mirrors.push(folder_url(&url)?);
            for mirror in &self.mirror {
                copies.push(open(mirror, &options)?);
                mirrors.push(folder_url(mirror)?);
            }
            refuse_same(&mirrors)?;
            store = Arc::new(Mirror::new(copies, Vec::new()));
        }
        // The probe writes: nothing may be touched where something else is.
        refuse_occupied(&*store)?;
        let puts = if probe(&*store, &context.entropy)?.allow_several_writers() {
            Conditional::Honoured
        } else if self.single_writer {
            Conditional::Ignored
        } else {
            return Err(VaultError::Unsafe { store: store.name() }.into());
        };
        let vault = Vault::create(
            Arc::clone(&store),
            &key,
            &self.label,
            puts,
            mirrors,
            vault_options(context, None),
        )?;
        let slots = keys::list_slots(&*store, vault.config().vault_id)?;
        context.out.say(
            "Created a vault. Keep a copy of its key away from it: without the key nobody can \
             read the recovery points.",
        );
        context.out.result(&VaultView::new(vault.config(), store.name(), slots))
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
        let vault = open_vault(context, &self.open, None)?;
        let slots = keys::list_slots(&**vault.store(), vault.config().vault_id)?;
        let points: Vec<_> = vault.points(None)?.into_iter().map(PointView::from).collect();
        context.out.result(&VaultShown {
            vault: VaultView::new(vault.config(), vault.store().name(), slots),
            items: ItemView::of(&points),
        })
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
        open_vault(context, &self.open, None)?;
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
        open_vault(context, &self.open, None)?;
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
        open_vault(context, &self.open, None)?;
        Err(not_yet("vault rebuild-index"))
    }
}

/// Refuses to make a vault where something is.
fn refuse_occupied(store: &dyn ObjectStore) -> Result<(), Failure> {
    let mut found = None;
    store.list("", &mut |entry| {
        found = Some(entry.key);
        ControlFlow::Break(())
    })?;
    let Some(found) = found else { return Ok(()) };
    let is_vault = found.as_str() == VaultConfig::KEY || Vault::describe(store).is_ok();
    let what = if is_vault { "a vault".to_owned() } else { found.to_string() };
    Err(VaultError::Exists { store: store.name(), what }.into())
}

/// Refuses mirrors that are one folder.
fn refuse_same(mirrors: &[String]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    match mirrors.iter().find(|mirror| !seen.insert(*mirror)) {
        Some(twice) => Err(Failure::usage(format!("{twice} was given twice"))),
        None => Ok(()),
    }
}

pub(crate) fn not_yet(what: &str) -> Failure {
    FaceError::Bug(format!("{what} is not there yet")).into()
}
