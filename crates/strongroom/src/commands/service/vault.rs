//! `vault` of the service.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::Args;
use strongroom_api::{
    Immutability, KeyManagement, KeyReference, KeyRotate, SoftDelete, SoftDeleteState, Vault,
    VaultCreate, VaultState, VaultUpdate, VaultUsage,
};
use strongroom_base::codes;
use strongroom_client::OfVault;

use crate::{
    args::KeyArgs,
    columns::{Cell, Columns, row},
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human, values,
};

use super::{
    boot::{DrillPolicyArgs, drill_words},
    common::{Listed, Thing, WaitArgs, map, one_of, way_back, words},
};

fn shown(vault: &Vault) -> String {
    let soft = vault.soft_delete;
    let soft = match soft.state {
        SoftDeleteState::Disabled => "disabled".to_owned(),
        state => format!("{}, for {} days", words(state), soft.retention_days),
    };
    let key = match vault.encryption.management {
        KeyManagement::Platform => "the server's",
        KeyManagement::Customer => "your own",
    };
    let mut facts = vec![
        ("Vault", vault.name.clone()),
        ("Id", vault.id.to_string()),
        ("Place", vault.url.clone()),
        ("State", words(vault.state)),
        ("Redundancy", words(vault.redundancy)),
        ("Key", format!("{key}: {}", vault.encryption.key)),
        ("Key changed", human::time(vault.encryption.rotated)),
        ("Soft delete", soft),
        ("Immutability", words(vault.immutability)),
        ("Recompression", if vault.recompress { "with each reclaim" } else { "no" }.to_owned()),
        ("Created", human::time(vault.created)),
    ];
    facts.extend(vault.drill.as_ref().map(|drill| ("Drill", drill_words(drill))));
    facts.extend(vault.mirrors.iter().map(|mirror| ("Mirror", mirror.clone())));
    facts.extend(vault.tags.iter().map(|(name, value)| ("Tag", format!("{name}={value}"))));
    facts.extend(vault.deleted.map(|moment| ("Deleted", human::time(moment))));
    let back = vault.purge_after.map(human::time);
    facts.extend(back.map(|until| ("Can be restored until", until)));
    human::facts(&facts)
}

/// Protection settings of a vault of the service.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "With NAME")]
pub(crate) struct SafetyArgs {
    /// Whether deleted data can be restored for some days
    #[arg(long, value_name = "STATE", value_parser = one_of!(SoftDeleteState))]
    soft_delete: Option<SoftDeleteState>,

    /// Days for which deleted data can be restored: 14 to 180
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(14..=180))]
    soft_delete_days: Option<u16>,

    /// Whether recovery points can be deleted before they expire
    #[arg(long, value_name = "STATE", value_parser = one_of!(Immutability))]
    immutability: Option<Immutability>,

    /// Whether each reclaim also compresses once more what the recovery points need, up to 64 GiB each
    /// time. Programs before format 2 cannot read the vault afterwards
    #[arg(long, value_name = "BOOL")]
    recompress: Option<bool>,

    /// A tag; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::tag)]
    tag: Vec<(String, String)>,
}

impl SafetyArgs {
    /// Whether nothing is said.
    pub(crate) fn is_empty(&self) -> bool {
        self.soft_delete.is_none()
            && self.soft_delete_days.is_none()
            && self.immutability.is_none()
            && self.recompress.is_none()
            && self.tag.is_empty()
    }

    fn soft_delete(&self, now: SoftDelete) -> Option<SoftDelete> {
        if self.soft_delete.is_none() && self.soft_delete_days.is_none() {
            return None;
        }
        Some(SoftDelete {
            state: self.soft_delete.unwrap_or(now.state),
            retention_days: self.soft_delete_days.unwrap_or(now.retention_days),
        })
    }

    /// The parts of a change that are irreversible.
    fn plan(&self, vault: &str) -> Plan {
        let mut words = Vec::new();
        match self.soft_delete {
            Some(SoftDeleteState::AlwaysOn) => {
                words.push("soft delete can never be switched off again");
            }
            Some(SoftDeleteState::Disabled) => {
                words.push("data that is deleted from then on cannot be restored");
            }
            _ => {}
        }
        if self.immutability == Some(Immutability::Locked) {
            words.push(
                "immutability can never be switched off again: nobody, not even you, can delete \
                 recovery points or shorten their time",
            );
        }
        let plan = Plan::new(format!("Change the vault {vault}"));
        if words.is_empty() {
            return plan.without_question();
        }
        words.into_iter().fold(plan, Plan::with)
    }

    fn tags(self) -> Result<BTreeMap<String, String>, Failure> {
        map(self.tag)
    }
}

/// The key, by its path on the server.
fn reference(key: KeyArgs) -> Option<KeyReference> {
    let path = |path: PathBuf| path.display().to_string();
    let KeyArgs { key_file, passphrase_file, pkcs11 } = key;
    let file = key_file.map(|file| KeyReference::File(path(file)));
    let passphrase = passphrase_file.map(|file| KeyReference::Passphrase(path(file)));
    file.or(passphrase).or(pkcs11.map(KeyReference::Pkcs11))
}

/// The options of `vault create` for a vault of the service.
pub(crate) struct New {
    /// Its name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) url: Option<String>,
    /// Folders that hold the same.
    pub(crate) mirrors: Vec<String>,
    /// Whether nobody else may write to it.
    pub(crate) single_writer: bool,
    /// The customer's own key.
    pub(crate) key: KeyArgs,
    /// How it protects what is in it.
    pub(crate) safety: SafetyArgs,
}

/// Makes a vault.
pub(crate) fn create(context: &Context, new: New) -> Result<(), Failure> {
    let request = VaultCreate {
        name: new.name,
        url: new.url,
        redundancy: None,
        mirrors: new.mirrors,
        key: reference(new.key),
        soft_delete: new.safety.soft_delete(SoftDelete::default()),
        immutability: new.safety.immutability,
        recompress: new.safety.recompress,
        single_writer: new.single_writer,
        tags: new.safety.tags()?,
    };
    let vault = context.client()?.create_vault(&request)?;
    if vault.encryption.management == KeyManagement::Platform {
        context.out.say(&format!(
            "The server keeps the vault's key. Keep a copy of {} away from the vault: without it \
             nobody can read the recovery points.",
            vault.encryption.key
        ));
    }
    context.out.result(&Thing::new(vault, shown))
}

/// Shows a vault.
pub(crate) fn show(context: &Context, name: &str) -> Result<(), Failure> {
    context.out.result(&Thing::new(context.client()?.vault(name)?, shown))
}

/// Shows the last measurement of a vault.
pub(crate) fn usage(context: &Context, name: &str) -> Result<(), Failure> {
    let usage = context.client()?.usage(name).map_err(|error| {
        let never = error.is(&codes::REQUEST_NOT_FOUND);
        match Failure::from(error) {
            failure if never => failure.with_hint(format!(
                "`strongroom vault measure {name} --wait` measures it now; the server does so daily."
            )),
            failure => failure,
        }
    })?;
    context.out.result(&Thing::new(usage, usage_text))
}

fn usage_text(usage: &VaultUsage) -> String {
    let mut facts = vec![
        ("Measured", human::time(usage.measured)),
        ("Recovery points", usage.recovery_points.to_string()),
        ("Deleted, still there", usage.soft_deleted_points.to_string()),
        ("Disks protected", human::bytes(usage.protected_bytes)),
        ("Held in all", human::bytes(usage.stored_bytes)),
        ("Reclaim could free", human::bytes(usage.reclaimable_bytes)),
        ("Instance units", usage.instance_units.to_string()),
    ];
    facts.extend(usage.growth_bytes_per_day.map(|growth| {
        let sign = if growth < 0 { "-" } else { "" };
        ("Growth a day", format!("{sign}{}", human::bytes(growth.unsigned_abs())))
    }));
    let then = usage.forecast_bytes_30_days;
    facts.extend(then.map(|bytes| ("In 30 days", human::bytes(bytes))));
    let mut text = human::facts(&facts);
    let rows = usage.items.iter().map(|item| {
        row![
            &item.name,
            item.recovery_points,
            Cell::Bytes(item.protected_bytes),
            Cell::Bytes(item.unique_bytes),
            Cell::Bytes(item.shared_bytes),
            item.instance_units,
        ]
    });
    let head = ["ITEM", "POINTS", "PROTECTED", "ALONE", "SHARED", "UNITS"];
    write!(text, "\n{}", Columns::new(head, rows).to_text()).ok();
    text
}

/// Begins a piece of housekeeping.
pub(crate) fn begin(
    context: &Context,
    name: &str,
    what: OfVault,
    wait: bool,
) -> Result<(), Failure> {
    let client = context.client()?;
    let begun = client.begin(name, what)?;
    context.begun(&client, &begun, wait)
}

/// List the vaults of the service
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault list
  strongroom vault list --deleted")]
pub(crate) struct ListArgs {
    /// Only deleted vaults that can be restored
    #[arg(long)]
    deleted: bool,
}

impl ListArgs {
    #[allow(clippy::needless_pass_by_value, reason = "as all commands")]
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut vaults = context.client()?.vaults().all()?;
        vaults.retain(|vault| !self.deleted || vault.state == VaultState::SoftDeleted);
        let rows = vaults.iter().map(|vault| {
            row![
                &vault.name,
                words(vault.state),
                words(vault.soft_delete.state),
                words(vault.immutability),
                &vault.url,
            ]
        });
        let head = ["VAULT", "STATE", "SOFT DELETE", "IMMUTABILITY", "PLACE"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("vaults", vaults, columns))
    }
}

/// Change a vault of the service
///
/// Only a vault admin can weaken the protection; `always_on` and `locked` are irreversible.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault update main --soft-delete-days 30
  strongroom vault update main --recompress true
  strongroom vault update main --drill-every-days 90 --drill-within 15m
  strongroom vault update main --immutability unlocked --tag site=berlin")]
pub(crate) struct UpdateArgs {
    /// The vault: its name or id
    #[arg(value_name = "NAME", add = complete::vaults())]
    name: String,

    /// Another name
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    new_name: Option<String>,

    /// Remove all tags
    #[arg(long, conflicts_with = "tag")]
    no_tags: bool,

    #[command(flatten)]
    safety: SafetyArgs,

    #[command(flatten)]
    drill: DrillPolicyArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl UpdateArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let drill = self.drill.policy();
        if self.safety.is_empty() && self.new_name.is_none() && !self.no_tags && drill.is_none() {
            return Err(Failure::usage("nothing is to be changed"));
        }
        let client = context.client()?;
        if !self.confirm.go(context, &self.safety.plan(&self.name))? {
            return Ok(());
        }
        let soft_delete = match (self.safety.soft_delete, self.safety.soft_delete_days) {
            (None, None) => None,
            _ => self.safety.soft_delete(client.vault(&self.name)?.soft_delete),
        };
        let immutability = self.safety.immutability;
        let recompress = self.safety.recompress;
        let tags = self.safety.tags()?;
        let change = VaultUpdate {
            name: self.new_name,
            redundancy: None,
            soft_delete,
            immutability,
            recompress,
            drill,
            tags: (self.no_tags || !tags.is_empty()).then_some(tags),
        };
        let vault = client.update_vault(&self.name, &change)?;
        context.out.result(&Thing::new(vault, shown))
    }
}

/// Delete a vault of the service
///
/// The vault must have no items, except soft-deleted ones. If the vault has soft delete, it can be
/// restored for some days. Its data stays in the store until somebody removes it there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault delete main --dry-run
  strongroom vault delete main --yes")]
pub(crate) struct DeleteArgs {
    /// The vault: its name or id
    #[arg(value_name = "NAME", add = complete::vaults())]
    name: String,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl DeleteArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        if self.confirm.wants_plan() {
            let vault = client.vault(&self.name)?;
            let plan = Plan::new(format!("Delete the vault {}", vault.name))
                .with(way_back(&vault, "vault undelete"))
                .with(format!("its data stays in {} until somebody removes it there", vault.url));
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let deleted = client.delete_vault(&self.name)?;
        context.out.result(&Thing::new(deleted, |deleted| {
            let until = deleted.as_ref().and_then(|vault| vault.purge_after).map(human::time);
            let until = until
                .map(|until| format!("; `strongroom vault undelete` brings it back until {until}"));
            format!("Deleted the vault {}{}\n", self.name, until.unwrap_or_default())
        }))
    }
}

/// Restore a deleted vault
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault undelete main")]
pub(crate) struct UndeleteArgs {
    /// The vault: its name or id
    #[arg(value_name = "NAME", add = complete::vaults())]
    name: String,
}

impl UndeleteArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let vault = context.client()?.undelete_vault(&self.name)?;
        context.out.result(&Thing::new(vault, shown))
    }
}

/// Measure what a vault of the service holds
///
/// `strongroom vault usage NAME` shows the result.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault measure main --wait")]
pub(crate) struct MeasureArgs {
    /// The vault: its name or id
    #[arg(value_name = "NAME", add = complete::vaults())]
    name: String,

    #[command(flatten)]
    wait: WaitArgs,
}

impl MeasureArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        begin(context, &self.name, OfVault::Measure, self.wait.wait)
    }
}

/// Save a sealed copy of the catalog in a vault
///
/// `strongroom recover` makes a new server from it if the server is lost. The service also saves
/// the catalog by itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault save-catalog main --wait")]
pub(crate) struct SaveCatalogArgs {
    /// The vault: its name or id
    #[arg(value_name = "NAME", add = complete::vaults())]
    name: String,

    #[command(flatten)]
    wait: WaitArgs,
}

impl SaveCatalogArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        begin(context, &self.name, OfVault::SaveCatalog, self.wait.wait)
    }
}

/// Change the key of a vault of the service
///
/// Without a key option only the master key changes. Keys are never sent: the paths are paths on
/// the server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom vault rotate-key main --wait
  strongroom vault rotate-key main --key-file /etc/strongroom/main.key")]
pub(crate) struct RotateKeyArgs {
    /// The vault: its name or id
    #[arg(value_name = "NAME", add = complete::vaults())]
    name: String,

    #[command(flatten)]
    wait: WaitArgs,

    // Last: its heading would go before what follows.
    #[command(flatten)]
    key: NewKeyArgs,
}

/// The key that opens the vault afterwards.
#[derive(Debug, Args)]
#[command(next_help_heading = "New key")]
#[group(id = "new_key", multiple = false)]
struct NewKeyArgs {
    /// Replace the vault's key with the key in this file of the server, which must exist
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Replace the vault's key with the passphrase in this file of the server
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,

    /// Replace the vault's key with this key of a PKCS#11 token that the server reaches
    #[arg(long, value_name = "URI")]
    pkcs11: Option<String>,
}

impl RotateKeyArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let NewKeyArgs { key_file, passphrase_file, pkcs11 } = self.key;
        let key = KeyArgs { key_file, passphrase_file, pkcs11 };
        let begun = client.rotate_key(&self.name, &KeyRotate { key: reference(key) })?;
        context.begun(&client, &begun, self.wait.wait)
    }
}
