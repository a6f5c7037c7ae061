//! `vault`: making, showing, checking and cleaning vaults.

use clap::{Args, Subcommand};
use strongroom_vault::{
    keys,
    place::{self, NewVault},
};

use crate::{
    args::{KeyArgs, OpenArgs, VaultArgs},
    context::Context,
    error::Failure,
    open::{key_source, open_vault, vault_options},
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
        let new = NewVault {
            url,
            mirrors: self.mirror,
            key,
            label: self.label,
            single_writer: self.single_writer,
        };
        let vault = place::create(&new, vault_options(context, None))?;
        let store = vault.store();
        let slots = keys::list_slots(&**store, vault.config().vault_id)?;
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
