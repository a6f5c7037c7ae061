//! Alerts, and the log of who did what.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{AlertId, ItemId, JobId, NoticeId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, words};

words! {
    /// How bad it is.
    Severity {
        /// Security: data was or will be deleted, or protection of it was weakened. Never turned off.
        Critical = "critical",
        /// A backup or restore failed.
        Error = "error",
        /// It works, but less well.
        Warning = "warning",
        /// Good to know.
        Information = "information",
    }
}

words! {
    /// Whether an alert still holds.
    AlertState {
        /// It does.
        Firing = "firing",
        /// Somebody has seen it.
        Acknowledged = "acknowledged",
        /// It does no more.
        Resolved = "resolved",
    }
}

/// Something that somebody should look at. What happens again is counted, not told again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its id.
    pub id: AlertId,
    /// Which kind of thing it is, for scripts: `backup_failed`, `delete_backup_data`, ...
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it still holds.
    pub state: AlertState,
    /// What happened, in one line.
    pub title: String,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// What it is about, by name.
    pub subject: String,
    /// The vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultId>,
    /// The item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemId>,
    /// The job in which it happened last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// How often it happened.
    pub count: u64,
    /// When it happened first.
    pub first: Timestamp,
    /// When it happened last.
    pub last: Timestamp,
    /// When it was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Timestamp>,
}

/// Alerts that are told together: the body of a webhook, and what a mail is made of.
///
/// Each alert is as it was when it was told: raised if it is firing, over if it is resolved. What is
/// sent again because nobody has confirmed it has the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// Its id: whoever has received it can ignore it the next time.
    pub id: NoticeId,
    /// When it was written down.
    pub time: Timestamp,
    /// Whether somebody only tries the channel.
    #[serde(default)]
    pub test: bool,
    /// The alerts, each once, the worst first.
    pub alerts: Vec<Alert>,
}

/// Which channel is tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertTest {
    /// Its name in the server's configuration; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

/// How a channel did when it was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelTried {
    /// Its name in the server's configuration.
    pub channel: String,
    /// How it tells: `mail` or `webhook`.
    pub kind: String,
    /// Why it did not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// An entry of the audit log. Each carries the hash of the one before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number; without gaps.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// Who: a user's name, or `system`.
    pub actor: String,
    /// What was done: an operation of the table of rights.
    pub action: String,
    /// To what.
    pub target: String,
    /// `allowed`, `denied` or `failed`.
    pub outcome: String,
    /// More of it; never secrets.
    #[schema(value_type = Option<Object>)]
    pub detail: serde_json::Value,
    /// Hash of the entry before, hexadecimal.
    pub prev_hash: String,
    /// Hash of this entry, hexadecimal.
    pub hash: String,
}

/// Whether the audit log is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerified {
    /// Whether every entry is as it was written.
    pub intact: bool,
    /// How many entries there are.
    pub entries: u64,
    /// Hash of the last one: keep it elsewhere, and that the end was cut off is noticed too.
    pub head: String,
    /// The first entry that is not as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<u64>,
}
