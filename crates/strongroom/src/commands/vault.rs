//! `vault`: making, showing, checking and cleaning vaults.

use std::{path::Path, sync::Arc};

use clap::{Args, Subcommand};
use strongroom_format::Conditional;
use strongroom_objects::{Mirror, ObjectStore, Options, open, probe};
use strongroom_vault::{Vault, VaultError, keys};

use crate::{
    args::{KeyArgs, OpenArgs, VaultArgs},
    context::Context,
    error::Failure,
    open::{folder_url, identity, key_source, open_vault, vault_options},
    views::{ItemView, PointList, VaultShown, VaultView, all_readable},
};

use super::{
    vault_care::{RebuildIndexArgs, ReclaimArgs, UsageArgs, VerifyArgs},
    vault_key::KeyCommand,
};

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
    /// A further folder that holds a full copy, best on another disk; may be repeated
    #[arg(long, value_name = "DIR")]
    mirror: Vec<String>,

    /// Accept a store that cannot arbitrate between writers; never write to it from two places
    #[arg(long)]
    single_writer: bool,

    /// Words that tell this key from others in `vault key list`
    #[arg(long, value_name = "TEXT", default_value = "first key")]
    label: String,

    #[command(flatten)]
    vault: VaultArgs,

    #[command(flatten)]
    key: KeyArgs,
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
        Vault::check_vacant(&*store)?;
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
///
/// Ends with exit code 6 if the manifest of a recovery point is damaged; such points are named.
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
        let PointList { recovery_points, damaged } = vault.list_points(None)?.into();
        let shown = VaultShown {
            vault: VaultView::new(vault.config(), vault.store().name(), slots),
            items: ItemView::of(&recovery_points),
            damaged,
        };
        context.out.result(&shown)?;
        all_readable(&shown.damaged)
    }
}

/// Refuses mirrors that are one folder, whatever it is called.
fn refuse_same(mirrors: &[String]) -> Result<(), Failure> {
    let mut seen = Vec::new();
    let mut is_new = |mirror: &String| {
        let identity = identity(Path::new(mirror));
        let is_new = !seen.contains(&identity);
        seen.push(identity);
        is_new
    };
    match mirrors.iter().find(|mirror| !is_new(mirror)) {
        Some(twice) => Err(Failure::usage(format!("{twice} was given twice"))),
        None => Ok(()),
    }
}
