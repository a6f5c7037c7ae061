//! `vault key`: the slots that open a vault.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use strongroom_base::SlotId;
use strongroom_keys::{self as keys, KeyRing};
use strongroom_objects::ObjectStore;

use crate::{
    args::{OpenArgs, VaultArgs},
    confirm::{ConfirmArgs, Plan},
    context::{Context, KeyChoice},
    error::Failure,
    open::{OpenKeys, OpenStore, key_source, open_keys, open_store},
    views::{KeyChanged, SlotList, SlotView},
};

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

/// A key to add.
#[derive(Debug, Args)]
#[command(next_help_heading = "New key")]
#[group(id = "new_key", multiple = false)]
pub(crate) struct NewKeyArgs {
    /// Key file to add
    #[arg(id = "new_key_file", long = "new-key-file", value_name = "FILE")]
    file: Option<PathBuf>,

    /// File with the passphrase to add
    #[arg(id = "new_passphrase_file", long = "new-passphrase-file", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,

    /// Key of a PKCS#11 token to add
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
        let OpenStore { store, config, .. } = open_store(context, &self.vault)?;
        let slots = keys::list_slots(&*store, config.vault_id)?;
        context.out.result(&SlotList { key_slots: slots.into_iter().map(SlotView::from).collect() })
    }
}

/// Add a key: from now on it opens the vault as well
///
/// The command does not touch stored data. Every vault should have a second key, kept in another
/// place.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key add --new-passphrase-file ~/recovery-words --label \"in the safe\"
  strongroom vault key add --new-pkcs11 'pkcs11:token=hsm;object=strongroom?pin-source=/run/pin'")]
pub(crate) struct AddArgs {
    /// Label of this key
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,

    #[command(flatten)]
    new: NewKeyArgs,

    #[command(flatten)]
    open: OpenArgs,
}

impl AddArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let new = key_source(self.new.choice()?)?;
        let (store, mut ring) = open_ring(context, &self.open)?;
        let Context { clock, entropy, .. } = context;
        let slot = ring.add_slot(&*store, &new, &self.label, clock, entropy)?;
        context.out.result(&KeyChanged::Added { slot })
    }
}

/// Remove a key slot: its key no longer opens the vault
///
/// A holder of the removed key may have kept the master key that it opened: if the key has fallen
/// into wrong hands, rotate the master key too (`vault key rotate --master`). The last slot cannot
/// be removed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key list
  strongroom vault key remove --slot 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB --yes")]
pub(crate) struct RemoveArgs {
    /// The slot's id, as `vault key list` shows it
    #[arg(long, value_name = "ID", value_parser = slot_id)]
    slot: SlotId,

    #[command(flatten)]
    confirm: ConfirmArgs,

    #[command(flatten)]
    open: OpenArgs,
}

impl RemoveArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let (store, mut ring) = open_ring(context, &self.open)?;
        let plan = Plan::new(format!("Remove the key slot {}", self.slot))
            .with("its key no longer opens the vault");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        ring.remove_slot(&*store, self.slot, &context.clock, &context.entropy)?;
        context.out.result(&KeyChanged::Removed { slot: self.slot })
    }
}

/// Replace a key by a new one, or begin a new master key for new data
///
/// A new key replaces the slot that the present key opens (or --slot). With --master, new data is
/// sealed under a new master key; existing data stays readable. Neither touches stored data.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key rotate --key-file old.key --new-key-file new.key
  strongroom vault key rotate --master")]
pub(crate) struct RotateArgs {
    /// The slot to replace [default: the slot that the present key opens]
    #[arg(long, value_name = "ID", value_parser = slot_id, conflicts_with = "master")]
    slot: Option<SlotId>,

    /// Label of the new key [default: the label of the slot that it replaces]
    #[arg(long, value_name = "TEXT", conflicts_with = "master")]
    label: Option<String>,

    /// Begin a new master key
    #[arg(long, conflicts_with = "new_key")]
    master: bool,

    #[command(flatten)]
    new: NewKeyArgs,

    #[command(flatten)]
    open: OpenArgs,
}

impl RotateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { clock, entropy, .. } = context;
        if self.master {
            let (store, mut ring) = open_ring(context, &self.open)?;
            let key = ring.rotate_master(&*store, clock, entropy)?;
            return context.out.result(&KeyChanged::NewMasterKey { key });
        }
        let new = key_source(self.new.choice()?)?;
        let (store, mut ring) = open_ring(context, &self.open)?;
        let old_slot = self.slot.unwrap_or(ring.slot());
        let label = match self.label {
            Some(label) => label,
            None => keys::list_slots(&*store, ring.vault())?
                .into_iter()
                .find(|info| info.slot == old_slot)
                .and_then(|info| Some(info.head?.label))
                .unwrap_or_default(),
        };
        let slot = ring.rotate_slot(&*store, old_slot, &new, &label, clock, entropy)?;
        context.out.result(&KeyChanged::Replaced { old_slot, slot })
    }
}

/// Generate a new key file: 32 random bytes as text, readable only by its owner
///
/// An existing file is never replaced.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault key generate ~/strongroom.key")]
pub(crate) struct GenerateArgs {
    /// The new file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl GenerateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        keys::generate_key_file(&self.file, &context.entropy)?;
        context.out.say(
            "Generated a key file. Keep a copy of it away from the vault: without the key nobody can \
             read the recovery points.",
        );
        context.out.result(&KeyChanged::Generated { file: self.file.display().to_string() })
    }
}

/// Opens the keys of a vault, and nothing else of it.
fn open_ring(
    context: &Context,
    args: &OpenArgs,
) -> Result<(Arc<dyn ObjectStore>, KeyRing), Failure> {
    let OpenKeys { store, ring, .. } = open_keys(context, args)?;
    Ok((store, ring))
}

/// Parses a slot's id, in any case.
fn slot_id(text: &str) -> Result<SlotId, String> {
    let id = text.to_ascii_uppercase().parse();
    id.map_err(|_| format!("{text:?} is not the id of a key slot; see `strongroom vault key list`"))
}
