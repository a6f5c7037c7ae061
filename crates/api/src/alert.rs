//! Alerts, and the audit log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{AlertId, ItemId, JobId, NoticeId, VaultId};
use utoipa::ToSchema;

use crate::{ErrorBody, words};

words! {
    /// The severity.
    Severity {
        /// Security: data was or will be deleted, or protection of it was weakened. Never turned off.
        Critical = "critical",
        /// A backup or restore failed.
        Error = "error",
        /// It works, with limits.
        Warning = "warning",
        /// Good to know.
        Information = "information",
    }
}

words! {
    /// The state of an alert.
    AlertState {
        /// Its cause lasts.
        Firing = "firing",
        /// Its cause lasts, and somebody has seen it.
        Acknowledged = "acknowledged",
        /// Its cause has ended.
        Resolved = "resolved",
    }
}

/// An event that an operator should look at. A repeated alert raises its counter and sends no new
/// notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its id.
    pub id: AlertId,
    /// Its rule, for scripts: `backup_failed`, `delete_backup_data`, ...
    pub rule: String,
    /// The severity.
    pub severity: Severity,
    /// Its state.
    pub state: AlertState,
    /// What happened, in one line.
    pub title: String,
    /// The error, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The object that it is about, by name.
    pub subject: String,
    /// The vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultId>,
    /// The item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemId>,
    /// The job of its last occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Number of occurrences.
    pub count: u64,
    /// Time of the first occurrence.
    pub first: Timestamp,
    /// Time of the last occurrence.
    pub last: Timestamp,
    /// When it was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Timestamp>,
}

/// Alerts that are sent together: the body of a webhook, and the content of a mail.
///
/// Each alert is as of the time of sending: firing or resolved. A message that is sent again,
/// because nobody has confirmed it, has the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// Its id: a receiver can ignore an id that it has seen before.
    pub id: NoticeId,
    /// When it was written into the catalog.
    pub time: Timestamp,
    /// Whether it is only a test of the channel.
    #[serde(default)]
    pub test: bool,
    /// The alerts, each once, the worst first.
    pub alerts: Vec<Alert>,
}

/// The channel to test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertTest {
    /// Its name in the server's configuration; none tests all channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

/// The result of the test of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChannelTried {
    /// Its name in the server's configuration.
    pub channel: String,
    /// Its kind: `mail` or `webhook`.
    pub kind: String,
    /// Why the test failed.
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
    /// Details; never secrets.
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
    /// Whether every entry is unchanged.
    pub intact: bool,
    /// Number of entries.
    pub entries: u64,
    /// Hash of the last entry: keep it elsewhere to notice a log whose end was cut off.
    pub head: String,
    /// The first changed entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken_at: Option<u64>,
}
