//! `alert`: what somebody should look at.

use clap::{Args, Subcommand};
use strongroom_api::{Alert, AlertState, Severity};
use strongroom_client::{AlertQuery, Client};

use crate::{
    columns::{Cell, Columns, row},
    complete,
    context::Context,
    error::{FaceError, Failure},
    human,
};

use super::common::{Listed, Thing, cut, find_id, one_of, words};

/// `alert ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    List(ListArgs),
    Acknowledge(AcknowledgeArgs),
    Resolve(ResolveArgs),
    Test(TestArgs),
}

impl AlertCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(context),
            Self::Acknowledge(args) => args.run(context),
            Self::Resolve(args) => args.run(context),
            Self::Test(args) => args.run(context),
        }
    }
}

fn shown(alert: &Alert) -> String {
    let mut facts = vec![
        ("Alert", alert.id.to_string()),
        ("Severity", alert.severity.to_string()),
        ("State", alert.state.to_string()),
        ("What", alert.title.clone()),
        ("Subject", alert.subject.clone()),
        ("Rule", words(&alert.rule)),
        ("How often", alert.count.to_string()),
        ("First", human::time(alert.first)),
        ("Last", human::time(alert.last)),
    ];
    facts.extend(alert.job.map(|job| ("Job", job.to_string())));
    if let Some(error) = &alert.error {
        facts.push(("Error", error.message.clone()));
        facts.push(("What to do", error.hint.clone()));
    }
    human::facts(&facts)
}

/// A selection of alerts, whatever their state.
#[derive(Debug, Args)]
struct AboutArgs {
    /// Only alerts of this severity
    #[arg(long, value_name = "SEVERITY", value_parser = one_of!(Severity))]
    severity: Option<Severity>,

    /// Only alerts of this rule, such as backup_failed; docs/operate/monitoring.md lists the rules
    #[arg(long, visible_alias = "kind", value_name = "RULE")]
    rule: Option<String>,

    /// Only alerts about this item
    #[arg(long, value_name = "NAME", add = complete::items())]
    item: Option<String>,

    /// Only alerts about this vault or its items
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: Option<String>,
}

impl AboutArgs {
    fn query(&self, state: Option<AlertState>) -> AlertQuery {
        AlertQuery {
            state,
            severity: self.severity,
            rule: self.rule.clone(),
            vault: self.vault_name.clone(),
            item: self.item.clone(),
        }
    }

    fn is_given(&self) -> bool {
        let Self { severity, rule, item, vault_name } = self;
        severity.is_some() || rule.is_some() || item.is_some() || vault_name.is_some()
    }
}

/// List the alerts, the newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom alert list
  strongroom alert list --state firing --output tsv
  strongroom alert list --severity critical
  strongroom alert list --rule backup_failed --item web01")]
pub(crate) struct ListArgs {
    /// Only alerts in this state
    #[arg(long, value_name = "STATE", value_parser = one_of!(AlertState))]
    state: Option<AlertState>,

    #[command(flatten)]
    about: AboutArgs,

    /// Maximum number of entries; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

impl ListArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let alerts = cut(context, self.limit, "alerts", |limit| {
            Ok(context.client()?.alerts(self.about.query(self.state)).up_to(limit)?)
        })?;
        context.out.result(&listed(alerts))
    }
}

fn listed(alerts: Vec<Alert>) -> Listed<Alert> {
    let rows = alerts.iter().map(|alert| {
        row![
            Cell::id(alert.id),
            alert.severity.name(),
            alert.state.name(),
            alert.last,
            alert.count,
            &alert.subject,
            &alert.title,
        ]
    });
    let head = ["ALERT", "SEVERITY", "STATE", "LAST", "TIMES", "SUBJECT", "WHAT"];
    let columns = Columns::new(head, rows);
    Listed::new("alerts", alerts, columns)
}

/// The alert whose id has this beginning.
fn find_alert(client: &Client, id: &str) -> Result<String, Failure> {
    find_id("alerts", id, client.alerts(AlertQuery::default()), |alert: &Alert| {
        alert.id.to_string()
    })
}

/// Acknowledge an alert: somebody has seen it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom alert acknowledge 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB")]
pub(crate) struct AcknowledgeArgs {
    /// The alert's id, or a unique beginning of it
    #[arg(value_name = "ID")]
    id: String,
}

impl AcknowledgeArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let alert = client.acknowledge_alert(&find_alert(&client, &self.id)?)?;
        context.out.result(&Thing::new(alert, shown))
    }
}

/// Resolve one alert, or several
///
/// An alert whose cause lasts fires again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom alert resolve 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB
  strongroom alert resolve --all --rule job_failed
  strongroom alert resolve --all --item web01
  strongroom alert resolve --all --subject kvm1")]
pub(crate) struct ResolveArgs {
    /// The alert's id, or a unique beginning of it
    #[arg(value_name = "ID", required_unless_present = "all")]
    id: Option<String>,

    /// All firing alerts that you may see
    #[arg(long, conflicts_with = "id")]
    all: bool,

    #[command(flatten)]
    about: AboutArgs,

    /// With --all: only alerts about this item, host or vault
    #[arg(long, value_name = "NAME", requires = "all")]
    subject: Option<String>,
}

impl ResolveArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        if let Some(id) = &self.id {
            if self.about.is_given() {
                return Err(Failure::usage("options that select alerts need --all, not an ID"));
            }
            let alert = client.resolve_alert(&find_alert(&client, id)?)?;
            return context.out.result(&Thing::new(alert, shown));
        }
        let mut resolved = Vec::new();
        for state in [AlertState::Firing, AlertState::Acknowledged] {
            for alert in client.alerts(self.about.query(Some(state))).up_to(None)? {
                if self.subject.as_ref().is_none_or(|name| *name == alert.subject) {
                    resolved.push(client.resolve_alert(&alert.id.to_string())?);
                }
            }
        }
        context.out.result(&listed(resolved))
    }
}

/// Test whether alerts arrive by mail and webhook
///
/// The command sends a test alert through every configured channel, waits until each has confirmed
/// it, and reports each failure.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom alert test
  strongroom alert test --channel ops")]
pub(crate) struct TestArgs {
    /// Only this channel
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
}

impl TestArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let tried = context.client()?.test_alerts(self.channel)?;
        let failed: Vec<&str> =
            tried.iter().filter(|it| it.error.is_some()).map(|it| it.channel.as_str()).collect();
        let failed = failed.join(", ");
        let rows = tried.iter().map(|it| {
            let why = it.error.as_ref().map(|error| error.message.as_str());
            let arrived = if why.is_none() { "yes" } else { "no" };
            row![&it.channel, &it.kind, arrived, why]
        });
        let columns = Columns::new(["CHANNEL", "KIND", "ARRIVED", "WHY NOT"], rows);
        let any = !tried.is_empty();
        context.out.result(&Listed::new("channels", tried, columns))?;
        if !any {
            context
                .out
                .say("The server's configuration has no channels: [[mail]] and [[webhook]].");
        }
        if failed.is_empty() { Ok(()) } else { Err(FaceError::AlertsUndelivered(failed).into()) }
    }
}
