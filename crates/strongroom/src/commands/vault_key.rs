//! `vault key`: the slots that open a vault.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom_base::SlotId;

use crate::{
    args::{OpenArgs, VaultArgs},
    context::{Context, KeyChoice},
    error::Failure,
};

use super::vault::{not_yet, open};

/// `vault key ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    List(ListArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    Rotate(RotateArgs),
    Generate(GenerateArgs),
}

impl KeyCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Add(args) => args.run(context),
            Self::Remove(args) => args.run(context),
            Self::Rotate(args) => args.run(context),
            Self::Generate(args) => args.run(context),
        }
    }
}

/// A key to be added.
#[derive(Debug, Args)]
#[command(next_help_heading = "New key")]
#[group(id = "new_key", multiple = false)]
pub(crate) struct NewKeyArgs {
    /// Key file that shall open the vault
    #[arg(id = "new_key_file", long = "new-key-file", value_name = "FILE")]
    file: Option<PathBuf>,

    /// File with a passphrase that shall open the vault
    #[arg(id = "new_passphrase_file", long = "new-passphrase-file", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,

    /// Key of a PKCS#11 token that shall open the vault
    #[arg(id = "new_pkcs11", long = "new-pkcs11", value_name = "URI")]
    pkcs11: Option<String>,
}

impl NewKeyArgs {
    /// The new key.
    fn choice(&self) -> Result<KeyChoice, Failure> {
        let Self { file, passphrase_file, pkcs11 } = self;
        let given = KeyChoice::of(file.clone(), passphrase_file.clone(), pkcs11.clone());
        given.into_iter().next().ok_or_else(|| {
            Failure::usage(
                "no new key was given: name it with --new-key-file, --new-passphrase-file or \
                 --new-pkcs11",
            )
        })
    }
}

/// List the key slots of a vault; needs no key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key list --vault /backup/vault")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    vault: VaultArgs,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        context.vault_url(&self.vault)?;
        Err(not_yet("vault key list"))
    }
}

/// Add a key: from then on it opens the vault as well
///
/// Data is not touched. A second key, kept somewhere else, is the cheapest insurance there is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key add --new-passphrase-file ~/recovery-words --label \"in the safe\"
  strongroom vault key add --new-pkcs11 'pkcs11:token=hsm;object=strongroom?pin-source=/run/pin'")]
pub(crate) struct AddArgs {
    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    new: NewKeyArgs,

    /// Words that tell this key from others
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

impl AddArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let new = self.new.choice()?;
        open(context, &self.open)?;
        tracing::debug!(?new, self.label);
        Err(not_yet("vault key add"))
    }
}

/// Remove a key slot: its key no longer opens the vault
///
/// Whoever had the key before may have kept the master key that it opened: rotate the master
/// key too (`vault key rotate --master`) if the removed key has fallen into wrong hands. The last
/// slot cannot be removed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key list
  strongroom vault key remove --slot 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB")]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    open: OpenArgs,

    /// The slot's id, as `vault key list` shows it
    #[arg(long, value_name = "ID", value_parser = slot_id)]
    slot: SlotId,
}

impl RemoveArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        open(context, &self.open)?;
        tracing::debug!(%self.slot);
        Err(not_yet("vault key remove"))
    }
}

/// Replace a key by a new one, or begin a new master key for new data
///
/// With a new key: its slot takes the place of the slot that the present key opens (or of
/// --slot). With --master: what is written from now on is sealed under a new master key; what is
/// there stays as it is and stays readable. Neither touches stored data.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key rotate --key-file old.key --new-key-file new.key
  strongroom vault key rotate --master")]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    new: NewKeyArgs,

    /// The slot to replace [default: the slot that the present key opens]
    #[arg(long, value_name = "ID", value_parser = slot_id, conflicts_with = "master")]
    slot: Option<SlotId>,

    /// Begin a new master key
    #[arg(long, conflicts_with = "new_key")]
    master: bool,
}

impl RotateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let new = if self.master { None } else { Some(self.new.choice()?) };
        open(context, &self.open)?;
        tracing::debug!(?new, ?self.slot);
        Err(not_yet("vault key rotate"))
    }
}

/// Make a new key file: 32 random bytes as text, readable by its owner only
///
/// An existing file is never replaced.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key generate ~/strongroom.key")]
pub(crate) struct GenerateArgs {
    /// The file to make
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl GenerateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        tracing::debug!(?self.file);
        context.out.say("");
        Err(not_yet("vault key generate"))
    }
}

/// Parses a slot's id, in any case.
fn slot_id(text: &str) -> Result<SlotId, String> {
    let id = text.to_ascii_uppercase().parse();
    id.map_err(|_| format!("{text:?} is not the id of a key slot; see `strongroom vault key list`"))
}
