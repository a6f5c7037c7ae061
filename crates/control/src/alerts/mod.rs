//! Alerts: what somebody should look at. A repeated alert raises its counter and is not sent again.
//!
//! An alert is raised in the transaction of what it is about. [`crate::notify`] sends it later.
//!
//! This part owns which alerts hold. It must not know channels.

mod promises;
mod purges;
mod rules;
mod storage;
mod suspect;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{self as api, Alert, AlertState, ErrorBody, Severity};
use strongroom_base::{AlertId, Code, JobId, Message, codes, message, words};
use strongroom_catalog::{Filter, Query, Stored, Tx};
use strongroom_orders::Absence;

use crate::{
    access::seen::seen,
    audit,
    error::{ControlError, Result},
    model::AlertDoc,
    page::{PageRequest, page},
    rights::{Caller, Operation, Target},
    service::Control,
};

pub(crate) use self::purges::{item_purged, points_purged, purged};
pub use self::rules::Rule;
pub(crate) use self::suspect::{suspect, warning as suspect_warning};

/// Something that happened.
pub(crate) struct Happening<'a> {
    /// Which kind of thing.
    pub(crate) rule: Rule,
    /// In one line.
    pub(crate) title: String,
    /// What went wrong.
    pub(crate) error: Option<ErrorBody>,
    /// What it is about, by name.
    pub(crate) subject: &'a str,
    /// The vault.
    pub(crate) vault: Option<strongroom_base::VaultId>,
    /// The item.
    pub(crate) item: Option<strongroom_base::ItemId>,
    /// The job.
    pub(crate) job: Option<JobId>,
}

impl Happening<'_> {
    /// What makes two of them the same.
    pub(crate) fn key(&self) -> String {
        key(self.rule, self.subject, self.vault, self.item)
    }
}

fn key(
    rule: Rule,
    subject: &str,
    vault: Option<strongroom_base::VaultId>,
    item: Option<strongroom_base::ItemId>,
) -> String {
    let rule = rule.name();
    match (vault, item) {
        (_, Some(item)) => format!("{rule}/item/{item}"),
        (Some(vault), None) => format!("{rule}/vault/{vault}/{subject}"),
        (None, None) => format!("{rule}/{subject}"),
    }
}

/// Raises an alert, or counts it if it holds already.
pub(crate) async fn raise(
    control: &Control,
    tx: &mut Tx,
    what: Happening<'_>,
    now: Timestamp,
) -> Result<()> {
    let key = what.key();
    let same = Query::new(Filter::all().eq("key", key.as_str())).limit(1);
    if let Some(Stored { mut doc, version }) = tx.first::<AlertDoc>(&same).await? {
        let alert = &mut doc.alert;
        alert.count = alert.count.saturating_add(1);
        alert.last = now;
        alert.error = what.error;
        alert.job = what.job.or(alert.job);
        alert.title = what.title;
        tx.update(&doc, version).await?;
        return Ok(());
    }
    let doc = AlertDoc {
        alert: Alert {
            id: AlertId::generate(&*control.clock, &*control.entropy),
            rule: what.rule.name().to_owned(),
            severity: what.rule.severity(),
            state: AlertState::Firing,
            title: what.title,
            error: what.error,
            subject: what.subject.to_owned(),
            vault: what.vault,
            item: what.item,
            job: what.job,
            count: 1,
            first: now,
            last: now,
            resolved: None,
        },
        key: Some(key),
        unsent: true,
    };
    tx.insert(&doc).await?;
    Ok(())
}

/// Resolves the alert of an item, if it holds.
pub(crate) async fn resolve(
    tx: &mut Tx,
    rule: Rule,
    item: &api::Item,
    now: Timestamp,
) -> Result<()> {
    resolve_key(tx, &key(rule, &item.name, Some(item.vault), Some(item.id)), now).await
}

/// Whether an alert holds.
pub(crate) async fn holds(tx: &mut strongroom_catalog::ReadTx, key: &str) -> Result<bool> {
    Ok(tx.count::<AlertDoc>(&Filter::all().eq("key", key)).await? > 0)
}

pub(crate) async fn resolve_key(tx: &mut Tx, key: &str, now: Timestamp) -> Result<()> {
    let same = Query::new(Filter::all().eq("key", key)).limit(1);
    if let Some(Stored { mut doc, version }) = tx.first::<AlertDoc>(&same).await? {
        settle(&mut doc, now);
        tx.update(&doc, version).await?;
    }
    Ok(())
}

/// An alert that holds no more; if it was sent, so is this.
fn settle(doc: &mut AlertDoc, now: Timestamp) {
    if doc.alert.state == AlertState::Resolved {
        return;
    }
    doc.unsent = !doc.unsent;
    doc.key = None;
    doc.alert.state = AlertState::Resolved;
    doc.alert.resolved = Some(now);
}

/// The protection of a vault was weakened.
pub(crate) async fn weakened(
    control: &Control,
    tx: &mut Tx,
    vault: &api::Vault,
    operation: Operation,
    now: Timestamp,
) -> Result<()> {
    let (rule, title) = match operation {
        Operation::DeleteVault => (Rule::VaultDeleted, format!("vault {} was deleted", vault.name)),
        Operation::LockVault => {
            (Rule::VaultLocked, format!("a setting of vault {} was made irreversible", vault.name))
        }
        _ => (Rule::VaultWeakened, format!("the protection of vault {} was weakened", vault.name)),
    };
    security(control, tx, rule, title, vault, None, now).await
}

/// A retention became shorter.
pub(crate) async fn shorter(
    control: &Control,
    tx: &mut Tx,
    vault: &api::Vault,
    policy: &str,
    now: Timestamp,
) -> Result<()> {
    let title = format!("policy {policy} of vault {} keeps points for a shorter time", vault.name);
    security(control, tx, Rule::ShorterRetention, title, vault, None, now).await
}

/// Something that nobody may do unseen: an alert of its own each time.
pub(crate) async fn security(
    control: &Control,
    tx: &mut Tx,
    rule: Rule,
    title: String,
    vault: &api::Vault,
    item: Option<&api::Item>,
    now: Timestamp,
) -> Result<()> {
    let doc = AlertDoc {
        alert: Alert {
            id: AlertId::generate(&*control.clock, &*control.entropy),
            rule: rule.name().to_owned(),
            severity: rule.severity(),
            state: AlertState::Firing,
            title,
            error: None,
            subject: item.map_or(&vault.name, |item| &item.name).clone(),
            vault: Some(vault.id),
            item: item.map(|item| item.id),
            job: None,
            count: 1,
            first: now,
            last: now,
            resolved: None,
        },
        key: None,
        unsent: true,
    };
    tx.insert(&doc).await?;
    Ok(())
}

/// Points are not in their vault any more, or have deletion notes there that the service has not put; if the
/// whole vault was looked through (`of_all`), or none are any more.
pub(crate) async fn absent(
    control: &Control,
    tx: &mut Tx,
    vault: &api::Vault,
    how: Absence,
    points: &[String],
    of_all: bool,
    now: Timestamp,
) -> Result<()> {
    let (count, name) = (points.len(), &vault.name);
    let counted = words::count_of(count, "recovery point");
    let (rule, code, title) = match how {
        Absence::Missing => {
            (Rule::PointsMissing, &codes::POINT_LOST, format!("vault {name} has lost {counted}"))
        }
        Absence::Hidden => (
            Rule::ForeignDeletion,
            &codes::POINT_FOREIGN_DELETION,
            format!("somebody else has deleted {counted} in vault {name}; the service keeps them"),
        ),
    };
    if count > 0 {
        let what = Happening {
            rule,
            title,
            error: Some(named(code, points).into()),
            subject: name,
            vault: Some(vault.id),
            item: None,
            job: None,
        };
        return raise(control, tx, what, now).await;
    }
    if of_all { resolve_key(tx, &key(rule, name, Some(vault.id), None), now).await } else { Ok(()) }
}

/// Points by name, the first of them.
fn named(code: &'static Code, points: &[String]) -> Message {
    const MOST: usize = 20;
    let more = points.len().saturating_sub(MOST);
    let points: Vec<String> = points.iter().take(MOST).cloned().collect();
    if more > 0 {
        message!((code), "recovery points {points}, and {more} more", points, more)
    } else {
        message!((code), "recovery points {points}", points)
    }
}

/// Alerts cannot be sent through a channel.
pub(crate) async fn undelivered(
    control: &Control,
    tx: &mut Tx,
    channel: &str,
    reason: &str,
    now: Timestamp,
) -> Result<()> {
    let title = format!("alerts cannot be sent through the channel {channel}");
    let what = Happening {
        rule: Rule::Undelivered,
        title,
        error: Some(ErrorBody::from(message!(
            ALERT_UNDELIVERED,
            "{channel}: {reason}",
            channel,
            reason
        ))),
        subject: channel,
        vault: None,
        item: None,
        job: None,
    };
    raise(control, tx, what, now).await
}

/// A channel works.
pub(crate) async fn delivered(tx: &mut Tx, channel: &str, now: Timestamp) -> Result<()> {
    resolve_key(tx, &key(Rule::Undelivered, channel, None, None), now).await
}

/// That the clock shows more time than has passed.
pub fn clock_is_ahead(ahead: SignedDuration) -> Message {
    let seconds = ahead.unsigned_abs().as_secs();
    message!(
        SERVER_CLOCK,
        "the clock is {seconds} ahead of the time that has passed",
        seconds = seconds => words::span(seconds)
    )
}

/// The clock has jumped, or runs well again.
pub(crate) async fn clock(
    control: &Control,
    tx: &mut Tx,
    ahead: Option<SignedDuration>,
    now: Timestamp,
) -> Result<()> {
    const RULE: Rule = Rule::ClockJumped;
    let Some(ahead) = ahead else {
        return resolve_key(tx, &key(RULE, "clock", None, None), now).await;
    };
    let same = Filter::all().eq("key", key(RULE, "clock", None, None));
    if tx.count::<AlertDoc>(&same).await? > 0 {
        return Ok(());
    }
    let message = clock_is_ahead(ahead);
    let title = message.text.clone();
    let error = Some(message.into());
    let what = Happening {
        rule: RULE,
        title,
        error,
        subject: "clock",
        vault: None,
        item: None,
        job: None,
    };
    raise(control, tx, what, now).await
}

/// Which alerts.
#[derive(Clone, Debug, Default)]
pub struct AlertFilter {
    /// Only those in this state.
    pub state: Option<AlertState>,
    /// Only those of this severity.
    pub severity: Option<Severity>,
    /// Only those of this kind.
    pub rule: Option<Rule>,
    /// Only those about this vault or something in it: its name or id.
    pub vault: Option<String>,
    /// Only those about this item: its name or id.
    pub item: Option<String>,
}

impl Control {
    /// Alerts that the caller sees, the newest first.
    pub async fn alerts(
        &self,
        caller: &Caller,
        which: &AlertFilter,
        at: &PageRequest,
    ) -> Result<api::Page<Alert>> {
        let mut filter = seen::<AlertDoc>(&caller.sight());
        for (column, word) in [
            ("state", which.state.map(AlertState::name)),
            ("severity", which.severity.map(Severity::name)),
            ("rule", which.rule.map(Rule::name)),
        ] {
            if let Some(word) = word {
                filter = filter.eq(column, word);
            }
        }
        if let Some(vault) = &which.vault {
            filter = filter.eq("vault", self.vault(caller, vault).await?.value.id.to_string());
        }
        if let Some(item) = &which.item {
            filter = filter.eq("item", self.item(caller, item).await?.value.id.to_string());
        }
        let query = at.of(Query::new(filter).descending("last"));
        Ok(page(self.catalog.list::<AlertDoc>(&query).await?, |stored| stored.doc.alert))
    }

    /// Acknowledges an alert, or resolves it.
    pub async fn set_alert(
        &self,
        caller: &Caller,
        id: AlertId,
        state: AlertState,
    ) -> Result<Alert> {
        let none = || ControlError::from(message!(ALERT_NOT_FOUND, "no alert {alert}", alert = id));
        in_write!(self, tx => {
            let stored = tx.get::<AlertDoc>(&id.to_string()).await?.ok_or_else(none)?;
            let Stored { mut doc, version } = stored;
            let target = match (doc.alert.vault, doc.alert.item) {
                (Some(vault), Some(item)) => Target::Item(vault, item),
                (Some(vault), None) => Target::Vault(vault),
                _ => Target::Server,
            };
            self.check(caller, Operation::AcknowledgeAlert, target, none)?;
            match state {
                AlertState::Resolved => settle(&mut doc, self.now()),
                // A resolved alert stays resolved.
                _ if doc.alert.state == AlertState::Resolved => {}
                other => doc.alert.state = other,
            }
            tx.update(&doc, version).await?;
            let detail = serde_json::json!({ "state": state });
            let operation = Operation::AcknowledgeAlert;
            audit::record(tx, caller, operation, &id.to_string(), detail).await?;
            Ok(doc.alert)
        })
    }
}
