//! `policy`: when items are backed up, and how long recovery points are kept.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use strongroom_api::{ConsistencyWanted, Policy, PolicyCreate, PolicyPreview, PolicyUpdate};
use strongroom_client::Client;
use strongroom_policy::{MonthDays, PolicyKind, PolicyRules, Schedule};

use crate::{
    columns::{Columns, row},
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human, values,
};

use super::{
    boot::{BootPolicyArgs, policy_words},
    common::{Gone, Listed, PolicyArgs, Thing, one_of, words},
    policy_rules::RulesArgs,
};

/// `policy ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    List(ListArgs),
    Show(ShowArgs),
    Create(Box<CreateArgs>),
    Set(Box<SetArgs>),
    Delete(DeleteArgs),
    Preview(Box<PreviewArgs>),
    GetDefault(GetDefaultArgs),
}

impl PolicyCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Create(args) => args.run(context),
            Self::Set(args) => args.run(context),
            Self::Delete(args) => args.run(context),
            Self::Preview(args) => args.run(context),
            Self::GetDefault(args) => args.run(context),
        }
    }
}

/// Names of days, weeks and months, as they are written.
fn list<T: Serialize>(values: impl IntoIterator<Item = T>) -> String {
    let name = |value: T| match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    };
    values.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The schedule, in words.
fn when(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Hourly { every_hours, window_start, window_hours } => {
            format!("every {every_hours} h from {window_start} for {window_hours} h")
        }
        Schedule::Daily { times } => format!("daily at {}", list(times)),
        Schedule::Weekly { weekdays, times } => {
            format!("{} at {}", list(weekdays), list(times))
        }
    }
}

fn days(on: &MonthDays) -> String {
    match on {
        MonthDays::Weekday { weekdays, weeks } => format!("{} {}", list(weeks), list(weekdays)),
        MonthDays::Day { days, last } => {
            let days = days.iter().map(ToString::to_string);
            days.chain(last.then(|| "last".to_owned())).collect::<Vec<_>>().join(", ")
        }
    }
}

/// The retention, in words.
fn kept(rules: &PolicyRules) -> Vec<(&'static str, String)> {
    let of = &rules.retention;
    let mut kept = Vec::new();
    let mut add = |label, words: Option<String>| kept.extend(words.map(|words| (label, words)));
    add("Keep all", of.hourly.map(|rule| format!("{} days", rule.days)));
    add("Keep daily", of.daily.map(|rule| format!("{} days", rule.days)));
    let weekly = of.weekly.as_ref();
    add(
        "Keep weekly",
        weekly.map(|rule| format!("{}: {} weeks", list(&rule.weekdays), rule.weeks)),
    );
    let monthly = of.monthly.as_ref();
    add("Keep monthly", monthly.map(|rule| format!("{}: {} months", days(&rule.on), rule.months)));
    add(
        "Keep yearly",
        of.yearly.as_ref().map(|rule| {
            format!("{} of {}: {} years", days(&rule.on), list(&rule.months), rule.years)
        }),
    );
    add(
        "Keep snapshots",
        rules.snapshot_retention_days.map(|days| format!("{days} days, if the host has a tier")),
    );
    kept
}

fn rules_facts(rules: &PolicyRules) -> Vec<(&'static str, String)> {
    let kind = match rules.kind {
        PolicyKind::Standard => "standard",
        PolicyKind::Enhanced => "enhanced",
    };
    let mut facts = vec![
        ("Kind", kind.to_owned()),
        ("Time zone", rules.time_zone.clone()),
        ("Back up", when(&rules.schedule)),
        ("Starts spread", format!("over {} min", rules.start_spread_minutes)),
    ];
    facts.extend(rules.blackouts.iter().map(|blackout| {
        let days = list(&blackout.weekdays);
        ("No start", format!("{days} from {} to {}", blackout.from, blackout.to))
    }));
    facts.extend(kept(rules));
    facts
}

fn shown(policy: &Policy) -> String {
    let required = if policy.consistency_required { ", less is a failure" } else { "" };
    let mut facts = vec![
        ("Policy", policy.name.clone()),
        ("Id", policy.id.to_string()),
        ("Consistency", format!("{}{required}", words(policy.consistency))),
    ];
    facts.extend(rules_facts(&policy.rules));
    facts.extend(policy.boot.as_ref().map(|boot| ("Boot", policy_words(boot))));
    human::facts(&facts)
}

/// List the policies of a vault
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy list
  strongroom policy list --vault-name main")]
pub(crate) struct ListArgs {
    /// The vault: its name or id [default: the only vault]
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: Option<String>,
}

/// The given vault, or the only one.
pub(super) fn one_vault(client: &Client, named: Option<String>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name);
    }
    let vaults = client.vaults().all()?;
    match vaults.as_slice() {
        [only] => Ok(only.id.to_string()),
        [] => Err(Failure::usage("there is no vault: create one with `strongroom vault create`")),
        more => {
            let names: Vec<&str> = more.iter().map(|vault| vault.name.as_str()).collect();
            Err(Failure::usage(format!("name the vault with --vault-name: {}", names.join(", "))))
        }
    }
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let policies = client.policies(&one_vault(&client, self.vault_name)?).all()?;
        let rows = policies.iter().map(|policy| {
            let keep = kept(&policy.rules).into_iter();
            let keep: Vec<String> = keep
                .map(|(label, words)| format!("{} {words}", label.trim_start_matches("Keep ")))
                .collect();
            row![
                &policy.name,
                when(&policy.rules.schedule),
                &policy.rules.time_zone,
                words(policy.consistency),
                keep.join("; "),
            ]
        });
        let head = ["POLICY", "BACK UP", "TIME ZONE", "CONSISTENCY", "KEEP"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("policies", policies, columns))
    }
}

/// Show a policy
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy show default --vault-name main
  strongroom policy show default --vault-name main --output json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    policy: PolicyArgs,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let policy = context.client()?.policy(&self.policy.vault_name, &self.policy.name)?;
        context.out.result(&Thing::new(policy, shown))
    }
}

/// The consistency of backups.
#[derive(Debug, Args)]
struct ConsistencyArgs {
    /// The best consistency to try for
    #[arg(long, value_name = "CONSISTENCY", value_parser = one_of!(ConsistencyWanted))]
    consistency: Option<ConsistencyWanted>,

    /// Whether a lower consistency fails the backup
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    consistency_required: Option<bool>,
}

/// Create a policy
///
/// `strongroom policy get-default` shows the defaults of all rules. docs/use/policies.md describes
/// the rules and their limits.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy create nightly --vault-name main --daily-at 02:00 --time-zone Europe/Berlin \\
      --keep-daily 30 --keep-weekly sun:12 --keep-monthly first-sun:12
  strongroom policy create often --vault-name main --enhanced --every-hours 4 --keep-all 7 \\
      --keep-daily 30
  strongroom policy create strict --vault-name main --file strict.toml --consistency application \\
      --consistency-required")]
pub(crate) struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = values::name)]
    name: String,

    /// Its vault
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: String,

    #[command(flatten)]
    consistency: ConsistencyArgs,

    #[command(flatten)]
    boot: BootPolicyArgs,

    #[command(flatten)]
    rules: RulesArgs,
}

impl CreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let rules = self.rules.rules(PolicyRules::default_standard())?;
        let request = PolicyCreate {
            name: self.name,
            rules,
            consistency: self.consistency.consistency,
            consistency_required: self.consistency.consistency_required.unwrap_or(false),
            boot: self.boot.policy(),
        };
        let policy = context.client()?.create_policy(&self.vault_name, &request)?;
        context.out.result(&Thing::new(policy, shown))
    }
}

/// Change a policy
///
/// Rules without an option stay as they are. If the new rules keep recovery points for a shorter
/// time, the command shows their number and asks; `strongroom policy preview` shows them item by
/// item.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy set nightly --vault-name main --keep-daily 60
  strongroom policy set nightly --vault-name main --keep-daily 7 --dry-run
  strongroom policy set nightly --vault-name main --keep-yearly none --new-name short
  strongroom policy set nightly --vault-name main --boot weekly --boot-expect agent")]
pub(crate) struct SetArgs {
    #[command(flatten)]
    policy: PolicyArgs,

    /// The new name
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    new_name: Option<String>,

    #[command(flatten)]
    consistency: ConsistencyArgs,

    #[command(flatten)]
    boot: BootPolicyArgs,

    #[command(flatten)]
    rules: RulesArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// The recovery points that a change of a policy keeps for a shorter time.
fn change_plan(name: &str, preview: Option<&PolicyPreview>) -> Plan {
    let plan = Plan::new(format!("Change the policy {name}"));
    match preview {
        Some(preview) if preview.removed_now.saturating_add(preview.removed_earlier) > 0 => {
            let (now, earlier) = (preview.removed_now, preview.removed_earlier);
            plan.with(format!("{} removed at once", human::count(now, "recovery point")))
                .with(format!(
                    "{} kept for a shorter time",
                    human::count(earlier, "recovery point")
                ))
                .with(preview.summary.trim_end_matches('.').to_owned())
        }
        Some(preview) => plan.with(preview.summary.trim_end_matches('.')).without_question(),
        None => plan.without_question(),
    }
}

impl SetArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let PolicyArgs { name, vault_name } = self.policy;
        let client = context.client()?;
        let rules = if self.rules.is_empty() {
            None
        } else {
            Some(self.rules.rules(client.policy(&vault_name, &name)?.rules)?)
        };
        if self.confirm.wants_plan() {
            let preview =
                rules.as_ref().map(|rules| client.preview_policy(&vault_name, &name, rules));
            if !self.confirm.go(context, &change_plan(&name, preview.transpose()?.as_ref()))? {
                return Ok(());
            }
        }
        let change = PolicyUpdate {
            name: self.new_name,
            rules,
            consistency: self.consistency.consistency,
            consistency_required: self.consistency.consistency_required,
            boot: self.boot.policy(),
        };
        if change == PolicyUpdate::default() {
            return Err(Failure::usage("nothing is to be changed"));
        }
        let policy = client.update_policy(&vault_name, &name, &change)?;
        context.out.result(&Thing::new(policy, shown))
    }
}

/// Delete a policy without items
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy delete nightly --vault-name main
  strongroom policy delete nightly --vault-name main --yes")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl DeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let PolicyArgs { name, vault_name } = self.policy;
        let plan = Plan::new(format!("Delete the policy {name} of the vault {vault_name}"))
            .with("no item has it, so no recovery point goes");
        if !self.confirm.go(context, &plan)? {
            return Ok(());
        }
        context.client()?.delete_policy(&vault_name, &name)?;
        context.out.result(&Gone { what: "policy", deleted: name })
    }
}

/// Show the effect of new rules on the recovery points of a policy's items
///
/// The options are those of `policy set`; the command changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy preview nightly --vault-name main --keep-daily 7")]
pub(crate) struct PreviewArgs {
    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    rules: RulesArgs,
}

impl PreviewArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let PolicyArgs { name, vault_name } = self.policy;
        let client = context.client()?;
        let rules = self.rules.rules(client.policy(&vault_name, &name)?.rules)?;
        let preview = client.preview_policy(&vault_name, &name, &rules)?;
        context.out.result(&Thing::new(preview, preview_text))
    }
}

fn preview_text(preview: &PolicyPreview) -> String {
    let mut text = human::printable(&preview.summary) + "\n";
    let mut facts = vec![
        ("Removed at once", preview.removed_now.to_string()),
        ("Kept for a shorter time", preview.removed_earlier.to_string()),
        ("Kept for a longer time", preview.kept_longer.to_string()),
        ("As before", preview.unchanged.to_string()),
    ];
    facts.extend(preview.first_removal.map(|moment| ("First removal", human::time(moment))));
    facts.extend(preview.last_removal.map(|moment| ("Last removal", human::time(moment))));
    text += &human::facts(&facts);
    let changed = preview.items.iter().filter(|item| item.removed_now + item.removed_earlier > 0);
    let rows: Vec<_> =
        changed.map(|item| row![&item.name, item.removed_now, item.removed_earlier]).collect();
    if !rows.is_empty() {
        let columns = Columns::new(["ITEM", "REMOVED AT ONCE", "KEPT SHORTER"], rows);
        write!(text, "\n{}", columns.to_text()).ok();
    }
    text
}

/// Print the default rules of a policy; needs no server
///
/// `policy create --file` reads the JSON output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom policy get-default
  strongroom policy get-default --enhanced --output json > rules.json")]
pub(crate) struct GetDefaultArgs {
    /// The rules of an enhanced policy
    #[arg(long)]
    enhanced: bool,
}

impl GetDefaultArgs {
    #[allow(clippy::needless_pass_by_value, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let rules = if self.enhanced {
            PolicyRules::default_enhanced()
        } else {
            PolicyRules::default_standard()
        };
        context.out.result(&Thing::new(rules, |rules| human::facts(&rules_facts(rules))))
    }
}
