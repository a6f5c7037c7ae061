//! `vault`: making, showing, checking and cleaning vaults.

use clap::{Args, Subcommand};
use strongroom_keys as keys;
use strongroom_vault::place::{self, NewVault};

use crate::{
    args::{KeyArgs, OpenArgs, VaultArgs},
    complete,
    context::Context,
    error::Failure,
    open::{key_source, open_vault, vault_options},
    values,
    views::{ItemView, PointList, VaultShown, VaultView, all_readable},
};

use super::{
    service::vault::{
        self as service, DeleteArgs, ListArgs, MeasureArgs, RotateKeyArgs, SafetyArgs,
        SaveCatalogArgs, UndeleteArgs, UpdateArgs,
    },
    vault_care::{RebuildIndexArgs, ReclaimArgs, UsageArgs, VerifyArgs},
    vault_key::KeyCommand,
};

/// `vault ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    Create(Box<CreateArgs>),
    List(ListArgs),
    Show(ShowArgs),
    Update(UpdateArgs),
    Delete(DeleteArgs),
    Undelete(UndeleteArgs),
    Usage(UsageArgs),
    Measure(MeasureArgs),
    Verify(VerifyArgs),
    Reclaim(ReclaimArgs),
    RebuildIndex(RebuildIndexArgs),
    RotateKey(RotateKeyArgs),
    SaveCatalog(SaveCatalogArgs),
    /// Manage the keys that open a vault
    #[command(subcommand)]
    Key(KeyCommand),
}

impl VaultCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(context),
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Update(args) => args.run(context),
            Self::Delete(args) => args.run(context),
            Self::Undelete(args) => args.run(context),
            Self::Usage(args) => args.run(context),
            Self::Measure(args) => args.run(context),
            Self::Verify(args) => args.run(context),
            Self::Reclaim(args) => args.run(context),
            Self::RebuildIndex(args) => args.run(context),
            Self::RotateKey(args) => args.run(context),
            Self::SaveCatalog(args) => args.run(context),
            Self::Key(command) => command.run(context),
        }
    }
}

/// Create a new, empty vault
///
/// The folder or prefix must be empty; a missing folder is created. The command tests the store
/// first: if the store does not honour create-only puts, two writers could overwrite each other,
/// and the command creates the vault only with --single-writer.
///
/// The given key opens the vault from now on. Without it nobody can read the recovery points: keep
/// a copy of it away from the vault.
///
/// With NAME, the service creates the vault, at --vault or in a folder of its own. The server
/// generates and keeps a key unless you name one, which must be a file on the server. If --vault
/// names an existing vault, the service takes it over with its recovery points.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key generate ~/strongroom.key
  strongroom vault create --vault /backup/vault --key-file ~/strongroom.key
  strongroom vault create --vault /disk1/vault --mirror /disk2/vault --key-file ~/strongroom.key
  strongroom vault create --vault s3://backups/strongroom --passphrase-file /run/secrets/vault
  strongroom vault create main --vault /backup/main --soft-delete always_on")]
pub(crate) struct CreateArgs {
    /// Create a vault of the service with this name
    #[arg(value_name = "NAME", value_parser = values::name)]
    name: Option<String>,

    /// Another folder for a full copy, best on another disk; may be repeated
    #[arg(long, value_name = "DIR")]
    mirror: Vec<String>,

    /// Accept a store that cannot arbitrate between writers; never write to it from two hosts at a
    /// time
    #[arg(long)]
    single_writer: bool,

    /// Label of this key in `vault key list`
    #[arg(long, value_name = "TEXT", default_value = "first key")]
    label: String,

    #[command(flatten)]
    vault: VaultArgs,

    #[command(flatten)]
    key: KeyArgs,

    #[command(flatten)]
    safety: SafetyArgs,
}

impl CreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(name) = self.name {
            let Self { mirror: mirrors, single_writer, key, safety, .. } = self;
            let url = self.vault.vault;
            let new = service::New { name, url, mirrors, single_writer, key, safety };
            return service::create(context, new);
        }
        if !self.safety.is_empty() {
            return Err(Failure::usage(
                "soft delete, immutability and tags are for vaults of the service: give a NAME",
            ));
        }
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

/// Show a vault: its format, its store, its keys and its items
///
/// The exit code is 6 if the manifest of a recovery point is damaged; the output names such points.
///
/// With NAME it shows the service's settings of the vault.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault show --vault /backup/vault --key-file ~/strongroom.key
  strongroom vault show main")]
pub(crate) struct ShowArgs {
    /// Show a vault of the service: its name or id
    #[arg(value_name = "NAME", add = complete::vaults())]
    name: Option<String>,

    #[command(flatten)]
    open: OpenArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(name) = self.name {
            direct_only(&self.open)?;
            return service::show(context, &name);
        }
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

/// Refuses options for a vault without a server if a NAME names a vault of the service.
pub(crate) fn direct_only(open: &OpenArgs) -> Result<(), Failure> {
    if open.is_given() {
        return Err(Failure::usage(
            "NAME is a vault of the service, --vault and a key one without a server: give one of \
             them",
        ));
    }
    Ok(())
}
