//! `item`: what is protected.

use clap::{Args, Subcommand};
use strongroom_api::{DiskSelection, Item, ItemUpdate, ProtectionState, Source};
use strongroom_client::{Client, ItemQuery};

use crate::{
    columns::{Columns, row},
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human,
};

use super::{
    common::{Listed, Names, Thing, find_item, one_of, words},
    restore::owed,
};

/// `item ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ItemCommand {
    List(ListArgs),
    Show(ShowArgs),
    SetPolicy(SetPolicyArgs),
}

impl ItemCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::SetPolicy(args) => args.run(context),
        }
    }
}

/// Prints an item.
pub(crate) fn show_item(context: &Context, client: &Client, item: Item) -> Result<(), Failure> {
    let names = Names::load(client, context.out.shows_names());
    let names = match (&item.policy, context.out.shows_names()) {
        (Some(_), true) => names.with_policies(client, &[item.vault.to_string()]),
        _ => names,
    };
    context.out.result(&Thing::new(item, |item| shown(item, &names)))
}

fn shown(item: &Item, names: &Names) -> String {
    let source = match &item.source {
        Source::Machine { uuid, name } => format!("machine {name} ({uuid})"),
        Source::Disks { disks } => {
            let disks: Vec<_> = disks.iter().map(|(name, path)| format!("{name}={path}")).collect();
            format!("disks {}", disks.join(", "))
        }
        Source::Blobs { disks, access } => {
            let disks: Vec<_> = disks.iter().map(|(name, blob)| format!("{name}={blob}")).collect();
            let from = access.as_ref().map_or_else(String::new, |access| {
                format!(", by the connection string in {}", access.connection_string_file)
            });
            format!("page blobs {}{from}", disks.join(", "))
        }
        Source::IncrementalBackup { from, to, keep } => {
            format!("page blob {}, backed up to {}; {keep} backups are kept", from.blob, to.blob)
        }
    };
    let disks = match &item.disks {
        DiskSelection::All => "all".to_owned(),
        DiskSelection::OsOnly => "that from which it starts".to_owned(),
        DiskSelection::Include { disks } => disks.join(", "),
        DiskSelection::Exclude { disks } => format!("all but {}", disks.join(", ")),
    };
    let policy = item.policy.map_or_else(|| "none, on demand only".to_owned(), |id| names.of(id));
    let mut facts = vec![
        ("Item", item.name.clone()),
        ("Id", item.id.to_string()),
        ("Vault", names.of(item.vault)),
        ("Host", names.of(item.host)),
        ("Source", source),
        ("Disks", disks),
        ("Policy", policy),
        ("State", words(item.state)),
    ];
    let mut fact = |label, value: Option<String>| facts.extend(value.map(|value| (label, value)));
    fact("Error", item.error.as_ref().map(|error| error.message.clone()));
    fact("What to do", item.error.as_ref().map(|error| error.hint.clone()));
    fact("Failures", (item.failures > 0).then(|| item.failures.to_string()));
    fact("Job at work", item.job.map(|job| job.to_string()));
    fact("Last backup", item.last_backup.map(human::time));
    fact("Newest point", item.last_point.map(|point| point.to_string()));
    fact("Next backup", item.next_backup.map(human::time));
    fact("To be decided", item.replaced.as_ref().map(|replaced| owed(&item.name, replaced)));
    fact("Protected since", Some(human::time(item.created)));
    fact("Deleted", item.deleted.map(human::time));
    fact("Can be restored until", item.purge_after.map(human::time));
    human::facts(&facts)
}

/// List the protected items
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom item list
  strongroom item list --vault-name main --state protection_error")]
pub(crate) struct ListArgs {
    /// Only items of this vault
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: Option<String>,

    /// Only items in this state
    #[arg(long, value_name = "STATE", value_parser = one_of!(ProtectionState))]
    state: Option<ProtectionState>,

    /// Only items with this policy of the vault
    #[arg(long, value_name = "NAME", requires = "vault_name", add = complete::policies())]
    policy: Option<String>,

    /// Only items whose names contain this text
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let policy = match (&self.policy, &self.vault_name) {
            (Some(policy), Some(vault)) => Some(client.policy(vault, policy)?.id.to_string()),
            _ => None,
        };
        let Self { vault_name, state, name, .. } = self;
        let items = client.items(ItemQuery { vault: vault_name, state, policy, name }).all()?;
        let mut names = Names::load(&client, context.out.shows_names());
        if context.out.shows_names() {
            let vaults: Vec<String> = items.iter().map(|item| item.vault.to_string()).collect();
            names = names.with_policies(&client, &vaults);
        }
        let rows = items.iter().map(|item| {
            row![
                &item.name,
                names.of(item.vault),
                names.of(item.host),
                item.policy.map(|policy| names.of(policy)),
                words(item.state),
                item.last_backup,
                item.next_backup,
            ]
        });
        let head = ["ITEM", "VAULT", "HOST", "POLICY", "STATE", "LAST BACKUP", "NEXT BACKUP"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("items", items, columns))
    }
}

/// Show an item
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom item show web01")]
pub(crate) struct ShowArgs {
    /// The item: its name or id
    #[arg(value_name = "NAME", add = complete::items())]
    name: String,

    /// Its vault, if several have an item of this name
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: Option<String>,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let item = client.item(&find_item(&client, &self.name, self.vault_name.as_deref())?)?;
        show_item(context, &client, item)
    }
}

/// Give an item another policy of its vault
///
/// From then on the new policy decides when the item's recovery points expire. If it keeps some of
/// them for a shorter time, the command shows their number and asks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom item set-policy web01 --policy weekly --dry-run
  strongroom item set-policy web01 --policy weekly --yes")]
pub(crate) struct SetPolicyArgs {
    /// The item: its name or id
    #[arg(value_name = "NAME", add = complete::items())]
    name: String,

    /// The policy: its name or id
    #[arg(long, value_name = "NAME", add = complete::policies())]
    policy: String,

    /// The item's vault, if several have an item of this name
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: Option<String>,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// The recovery points that another policy keeps for a shorter time.
pub(crate) fn policy_plan(client: &Client, item: &str, policy: &str) -> Result<Plan, Failure> {
    let item = client.item(item)?;
    let vault = item.vault.to_string();
    let plan = Plan::new(format!("Give {} the policy {policy}", item.name));
    let Some(old) = item.policy else {
        return Ok(plan
            .with("it had none, so nothing is kept for a shorter time")
            .without_question());
    };
    let rules = client.policy(&vault, policy)?.rules;
    let preview = client.preview_policy(&vault, &old.to_string(), &rules)?;
    let of_item = preview.items.iter().find(|one| one.item == item.id);
    let (now, earlier) = of_item.map_or((0, 0), |one| (one.removed_now, one.removed_earlier));
    let points = |number| human::count(number, "recovery point");
    let plan = plan
        .with(format!("{} removed at once", points(now)))
        .with(format!("{} kept for a shorter time", points(earlier)));
    Ok(if now.saturating_add(earlier) == 0 { plan.without_question() } else { plan })
}

impl SetPolicyArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let item = find_item(&client, &self.name, self.vault_name.as_deref())?;
        if self.confirm.wants_plan() {
            let plan = policy_plan(&client, &item, &self.policy)?;
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let change = ItemUpdate { policy: Some(self.policy), disks: None };
        let item = client.update_item(&item, &change)?;
        show_item(context, &client, item)
    }
}
