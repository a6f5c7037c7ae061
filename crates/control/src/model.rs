//! What the catalog holds: the words of the API, and what belongs to them that nobody else is told.
//!
//! A document is kept as JSON; what lists filter and sort by is also in columns. Fields are only
//! added, with defaults, so that what an earlier version wrote can be read; what cannot be done so
//! takes a migration.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_api as api;
use strongroom_base::{HostId, ItemId, JobId, PointId, VaultId};
use strongroom_catalog::{Column, Document, Kind, Migration, Schema, Value};
use strongroom_orders::VaultAccess;

use crate::cause::Cause;

/// The schema of the catalog.
pub static SCHEMA: Schema = Schema {
    kinds: &[
        VaultDoc::KIND,
        HostDoc::KIND,
        MachineDoc::KIND,
        PolicyDoc::KIND,
        ItemDoc::KIND,
        PointDoc::KIND,
        GivenUpDoc::KIND,
        JobDoc::KIND,
        AlertDoc::KIND,
        crate::telling::NoticeDoc::KIND,
        UsageDoc::KIND,
        UserDoc::KIND,
        TokenDoc::KIND,
        AssignmentDoc::KIND,
        AnswerDoc::KIND,
        SettingDoc::KIND,
    ],
    migrations: MIGRATIONS,
};

/// How each version of the schema came from the one before. What was released never changes.
static MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "the service",
    sqlite: include_str!("migrations/1.sqlite.sql"),
    postgres: include_str!("migrations/1.postgres.sql"),
    rewrite: None,
}];

/// The vault, and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultDoc {
    /// As the API shows it.
    pub vault: api::Vault,
    /// Where its key is.
    pub key: api::KeyReference,
}

impl VaultDoc {
    /// How it is reached and opened.
    pub fn access(&self) -> VaultAccess {
        VaultAccess { url: self.vault.url.clone(), key: self.key.clone() }
    }
}

impl Document for VaultDoc {
    const KIND: &'static Kind = &Kind {
        table: "vaults",
        columns: &[Column::text("name"), Column::text("state")],
        unique: &[&["name"]],
        indexes: &[&["name"]],
    };

    fn id(&self) -> String {
        self.vault.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.vault.name.as_str().into(), self.vault.state.name().into()]
    }
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDoc {
    /// As the API shows it.
    pub host: api::Host,
}

impl Document for HostDoc {
    const KIND: &'static Kind = &Kind {
        table: "hosts",
        columns: &[Column::text("name"), Column::text("state")],
        unique: &[&["name"]],
        indexes: &[&["name"]],
    };

    fn id(&self) -> String {
        self.host.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.host.name.as_str().into(), self.host.state.name().into()]
    }
}

/// A machine that was discovered on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDoc {
    /// As the API shows it.
    pub machine: api::ProtectableItem,
}

impl MachineDoc {
    /// The id of a machine of a host.
    pub fn id_of(host: HostId, uuid: &str) -> String {
        format!("{host}/{uuid}")
    }
}

impl Document for MachineDoc {
    const KIND: &'static Kind = &Kind {
        table: "machines",
        columns: &[
            Column::text("host"),
            Column::text("name"),
            Column::text("protected_by").nullable(),
        ],
        unique: &[],
        indexes: &[&["host", "name"], &["name"]],
    };

    fn id(&self) -> String {
        Self::id_of(self.machine.host, &self.machine.uuid)
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.machine.host.to_string().into(),
            self.machine.name.as_str().into(),
            self.machine.protected_by.map(|item| item.to_string()).into(),
        ]
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDoc {
    /// As the API shows it.
    pub policy: api::Policy,
}

impl Document for PolicyDoc {
    const KIND: &'static Kind = &Kind {
        table: "policies",
        columns: &[Column::text("vault"), Column::text("name")],
        unique: &[&["vault", "name"]],
        indexes: &[&["vault", "name"], &["name"]],
    };

    fn id(&self) -> String {
        self.policy.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.policy.vault.to_string().into(), self.policy.name.as_str().into()]
    }
}

/// A backup that a schedule wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The occurrence of the schedule that it is for.
    pub occurrence: Timestamp,
    /// When it begins.
    pub start: Timestamp,
}

/// An item, and what its schedule has to remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemDoc {
    /// As the API shows it.
    pub item: api::Item,
    /// What of its schedule has been dealt with.
    pub handled_until: Timestamp,
    /// The backup that comes next.
    #[serde(default)]
    pub planned: Option<Planned>,
    /// The state that it had before it was deleted.
    #[serde(default)]
    pub before_deletion: Option<api::ProtectionState>,
    /// Since when backups are made of it without a stop; none: since it is there.
    #[serde(default)]
    pub active_since: Option<Timestamp>,
    /// What retention has to remember.
    #[serde(default)]
    pub retention: ItemRetention,
}

/// What retention has to remember of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemRetention {
    /// When its points are to be judged again; none: at once.
    #[serde(default)]
    pub judge_at: Option<Timestamp>,
    /// How often somebody has changed what is kept of its points, or a rule cut one short.
    #[serde(default)]
    pub edits: u64,
}

impl ItemRetention {
    /// Somebody has changed what is kept of the points: they are judged at once.
    pub(crate) fn edited(&mut self) {
        *self = Self { judge_at: None, edits: self.edits.saturating_add(1) };
    }
}

impl ItemDoc {
    /// A digest of what the copy in the vault must have of it: all but what backups change. The sum
    /// over the items of a vault tells whether anything has changed.
    fn kept(&self) -> i64 {
        let mut doc = self.clone();
        doc.planned = None;
        doc.handled_until = Timestamp::UNIX_EPOCH;
        doc.retention.judge_at = None;
        if doc.is_active() {
            doc.item.state = api::ProtectionState::Protected;
        }
        let item = &mut doc.item;
        (item.job, item.error, item.failures) = (None, None, 0);
        (item.last_backup, item.last_point, item.next_backup) = (None, None, None);
        let json = serde_json::to_vec(&doc).unwrap_or_default();
        let digest = blake3::hash(&json);
        digest.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes).into())
    }

    /// What no two items of a vault protect both.
    pub fn source_key(item: &api::Item) -> String {
        match &item.source {
            api::Source::Machine { uuid, .. } => format!("{}/{uuid}", item.host),
            api::Source::Disks { .. } => format!("{}/disks/{}", item.host, item.name),
        }
    }

    /// Whether backups are made of it.
    pub fn is_active(&self) -> bool {
        use api::ProtectionState as P;
        matches!(
            self.item.state,
            P::InitialBackupPending | P::Protected | P::ProtectionError | P::SourceMissing
        )
    }
}

impl Document for ItemDoc {
    const KIND: &'static Kind = &Kind {
        table: "items",
        columns: &[
            Column::text("vault"),
            Column::text("name"),
            Column::text("host"),
            Column::text("source"),
            Column::text("policy").nullable(),
            Column::text("state"),
            Column::text("job").nullable(),
            Column::integer("next_backup").nullable(),
            Column::integer("last_backup").nullable(),
            Column::integer("failures"),
            Column::integer("purge_after").nullable(),
            Column::integer("replaced").nullable(),
            Column::integer("judge_at"),
            Column::integer("kept"),
        ],
        unique: &[&["vault", "name"], &["vault", "source"]],
        indexes: &[
            &["vault", "name"],
            &["name"],
            &["host", "name"],
            &["source"],
            &["policy", "name"],
            &["state", "name"],
            &["job"],
            &["next_backup"],
            &["failures"],
            &["replaced"],
            &["judge_at"],
        ],
    };

    fn id(&self) -> String {
        self.item.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        let item = &self.item;
        vec![
            item.vault.to_string().into(),
            item.name.as_str().into(),
            item.host.to_string().into(),
            Self::source_key(item).into(),
            item.policy.map(|policy| policy.to_string()).into(),
            item.state.name().into(),
            item.job.map(|job| job.to_string()).into(),
            item.next_backup.into(),
            item.last_backup.into(),
            item.failures.into(),
            item.purge_after.into(),
            item.replaced.as_ref().map(|replaced| replaced.time).into(),
            self.retention.judge_at.unwrap_or(Timestamp::UNIX_EPOCH).into(),
            self.kept().into(),
        ]
    }
}

/// A recovery point, and what retention has to remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDoc {
    /// As the API shows it.
    pub point: api::RecoveryPoint,
    /// The occurrence of the schedule that it was made for.
    #[serde(default)]
    pub occurrence: Option<Timestamp>,
    /// The longest that anything ever promised to keep it; none if for ever.
    #[serde(default)]
    pub promised: Option<Timestamp>,
    /// Whether it was deleted by itself, and not with its item.
    #[serde(default)]
    pub cut: bool,
}

impl Document for PointDoc {
    const KIND: &'static Kind = &Kind {
        table: "points",
        columns: &[
            Column::text("vault"),
            Column::text("item"),
            Column::text("state"),
            Column::text("kind"),
            Column::integer("time"),
            Column::integer("expires").nullable(),
            Column::integer("purge_after").nullable(),
            Column::text("snapshot").nullable(),
            Column::integer("snapshot_until").nullable(),
            Column::integer("stored_bytes"),
        ],
        unique: &[],
        indexes: &[
            &["item", "time"],
            &["vault", "time"],
            &["vault", "state", "purge_after"],
            &["item", "snapshot"],
            &["vault", "snapshot_until"],
        ],
    };

    fn id(&self) -> String {
        Self::id_of(self.point.item, self.point.id)
    }

    fn columns(&self) -> Vec<Value> {
        let point = &self.point;
        vec![
            point.vault.to_string().into(),
            point.item.to_string().into(),
            point.state.name().into(),
            point.kind.name().into(),
            point.time.into(),
            point.expires.into(),
            point.purge_after.into(),
            point.snapshot.as_ref().map(|copy| copy.id.to_string()).into(),
            point.snapshot.as_ref().and_then(|copy| copy.until).into(),
            point.stored_bytes.into(),
        ]
    }
}

impl PointDoc {
    /// Whether it is in the vault that keeps it.
    pub fn is_in_vault(&self) -> bool {
        self.point.kind != api::RecoveryPointType::Snapshot
    }

    /// It is near its source no more.
    pub fn forget_snapshot(&mut self) {
        self.point.snapshot = None;
        self.point.kind = api::RecoveryPointType::Vault;
    }

    /// The id of a point of an item.
    pub fn id_of(item: ItemId, point: PointId) -> String {
        format!("{item}/{point}")
    }
}

/// A point that the service has deleted for good: in its vault it has a deletion note, which a reclaim
/// executes because of this, and then this goes too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUpDoc {
    /// The vault that it was in.
    pub vault: VaultId,
    /// Its item's name there.
    pub item: String,
    /// The point.
    pub point: PointId,
}

impl Document for GivenUpDoc {
    const KIND: &'static Kind = &Kind {
        table: "given_up",
        columns: &[Column::text("vault")],
        unique: &[],
        indexes: &[&["vault"]],
    };

    fn id(&self) -> String {
        format!("{}/{}/{}", self.vault, self.item, self.point)
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.vault.to_string().into()]
    }
}

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Spec {
    /// List a host's machines.
    Discover {
        /// The host.
        host: HostId,
    },
    /// Protect machines and disks.
    Protect {
        /// The vault.
        vault: VaultId,
        /// The host.
        host: HostId,
        /// What was asked for.
        request: api::Protect,
    },
    /// Make a recovery point.
    Backup {
        /// The item.
        item: ItemId,
        /// The occurrence of the schedule that it is for.
        occurrence: Option<Timestamp>,
        /// Until when it is kept, if it was asked for by somebody.
        retain_until: Option<Timestamp>,
    },
    /// Restore.
    Restore {
        /// The item.
        item: ItemId,
        /// The point.
        point: PointId,
        /// The host.
        host: HostId,
        /// What was asked for.
        restore: Box<api::Restore>,
    },
    /// Accept or undo a restore that has replaced a machine's disks.
    FinishRestore {
        /// The item.
        item: ItemId,
        /// What becomes of the disks.
        decision: api::RestoreDecision,
    },
    /// Delete all points of an item, and forget it.
    DeleteData {
        /// The item.
        item: ItemId,
    },
    /// Remove the points of a vault that are to be purged.
    Expire {
        /// The vault.
        vault: VaultId,
    },
    /// Free what no point needs.
    Reclaim {
        /// The vault.
        vault: VaultId,
    },
    /// Verify what a vault holds.
    Verify {
        /// The vault.
        vault: VaultId,
        /// Whether all of it is read, and not the part whose turn it is.
        all: bool,
    },
    /// Measure what a vault holds.
    Measure {
        /// The vault.
        vault: VaultId,
    },
    /// Change a vault's key.
    RotateKey {
        /// The vault.
        vault: VaultId,
        /// The new key, if another is to open it.
        key: Option<api::KeyReference>,
    },
    /// Write what the service knows into a vault.
    SaveCatalog {
        /// The vault.
        vault: VaultId,
    },
    /// Nothing more: it was done when it was asked for, and is kept for the record.
    Record,
}

/// A job, and what it is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDoc {
    /// As the API shows it.
    pub job: api::Job,
    /// What it is to do.
    pub spec: Spec,
    /// The request that asked for it; none: the service itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

impl Document for JobDoc {
    const KIND: &'static Kind = &Kind {
        table: "jobs",
        columns: &[
            Column::text("state"),
            Column::text("kind"),
            Column::text("triggered"),
            Column::text("vault").nullable(),
            Column::text("item").nullable(),
            Column::text("host").nullable(),
            Column::integer("created"),
            Column::integer("ended").nullable(),
        ],
        unique: &[],
        indexes: &[
            &["created"],
            &["state", "created"],
            &["kind", "created"],
            &["vault", "created"],
            &["item", "created"],
            &["host", "created"],
            &["ended"],
        ],
    };

    fn id(&self) -> String {
        self.job.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        let job = &self.job;
        vec![
            job.state.name().into(),
            job.kind.name().into(),
            job.trigger.name().into(),
            job.vault.map(|vault| vault.to_string()).into(),
            job.item.map(|item| item.to_string()).into(),
            job.host.map(|host| host.to_string()).into(),
            job.created.into(),
            job.ended.into(),
        ]
    }
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertDoc {
    /// As the API shows it.
    pub alert: api::Alert,
    /// What makes two alerts the same, as long as they hold; none when it does not.
    pub key: Option<String>,
    /// Whether it is still to be told, by mail and webhook.
    #[serde(default)]
    pub untold: bool,
}

impl Document for AlertDoc {
    const KIND: &'static Kind = &Kind {
        table: "alerts",
        columns: &[
            Column::text("state"),
            Column::text("severity"),
            Column::text("rule"),
            Column::text("vault").nullable(),
            Column::text("item").nullable(),
            Column::text("key").nullable(),
            Column::integer("last"),
            Column::integer("untold"),
        ],
        unique: &[&["key"]],
        indexes: &[
            &["last"],
            &["state", "last"],
            &["item", "last"],
            &["vault", "last"],
            &["untold"],
        ],
    };

    fn id(&self) -> String {
        self.alert.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        let alert = &self.alert;
        vec![
            alert.state.name().into(),
            alert.severity.name().into(),
            alert.rule.as_str().into(),
            alert.vault.map(|vault| vault.to_string()).into(),
            alert.item.map(|item| item.to_string()).into(),
            self.key.clone().into(),
            alert.last.into(),
            self.untold.into(),
        ]
    }
}

/// A measurement of a vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageDoc {
    /// As the API shows it, but for the forecast, which follows from all of them.
    pub usage: api::VaultUsage,
}

impl Document for UsageDoc {
    const KIND: &'static Kind = &Kind {
        table: "usages",
        columns: &[Column::text("vault"), Column::integer("measured")],
        unique: &[],
        indexes: &[&["vault", "measured"]],
    };

    fn id(&self) -> String {
        format!("{}/{}", self.usage.vault, self.usage.measured.as_microsecond())
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.usage.vault.to_string().into(), self.usage.measured.into()]
    }
}

/// A user, and how its password is checked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDoc {
    /// As the API shows it.
    pub user: api::User,
    /// argon2id, as a PHC string.
    pub password: String,
}

impl Document for UserDoc {
    const KIND: &'static Kind = &Kind {
        table: "users",
        columns: &[Column::text("name")],
        unique: &[&["name"]],
        indexes: &[&["name"]],
    };

    fn id(&self) -> String {
        self.user.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.user.name.as_str().into()]
    }
}

/// A token, and how its secret is checked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDoc {
    /// As the API shows it.
    pub token: api::Token,
    /// BLAKE3 of the secret, hexadecimal: the secret is random, so nothing slower is needed.
    pub hash: String,
}

impl Document for TokenDoc {
    const KIND: &'static Kind = &Kind {
        table: "tokens",
        columns: &[Column::text("hash"), Column::text("owner"), Column::integer("expires")],
        unique: &[&["hash"]],
        indexes: &[&["hash"], &["owner", "expires"], &["expires"]],
    };

    fn id(&self) -> String {
        self.token.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.hash.as_str().into(),
            self.token.user.to_string().into(),
            self.token.expires.into(),
        ]
    }
}

/// A right that somebody has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentDoc {
    /// As the API shows it.
    pub assignment: api::Assignment,
}

impl Document for AssignmentDoc {
    const KIND: &'static Kind = &Kind {
        table: "assignments",
        columns: &[Column::text("owner"), Column::text("role"), Column::text("scope")],
        unique: &[&["owner", "role", "scope"]],
        indexes: &[&["owner"]],
    };

    fn id(&self) -> String {
        self.assignment.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        let scope = match self.assignment.scope {
            api::Scope::Server => "server".to_owned(),
            api::Scope::Vault(vault) => format!("vault/{vault}"),
            api::Scope::Item(item) => format!("item/{item}"),
            api::Scope::Host(host) => format!("host/{host}"),
        };
        vec![
            self.assignment.user.to_string().into(),
            self.assignment.role.name().into(),
            scope.into(),
        ]
    }
}

/// What was answered to a request that bore an idempotency key, to answer the same again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerDoc {
    /// Who asked, and the key.
    pub key: String,
    /// BLAKE3 of the request: method, path and body.
    pub request: String,
    /// Whether it has changed what it should.
    #[serde(default)]
    pub carried_out: bool,
    /// The job that it has begun.
    #[serde(default)]
    pub job: Option<JobId>,
    /// The status; none while the request is worked on.
    pub status: Option<u16>,
    /// The answer's headers that count.
    pub headers: Vec<(String, String)>,
    /// The answer's body.
    pub body: String,
    /// When it was asked.
    pub time: Timestamp,
}

impl Document for AnswerDoc {
    const KIND: &'static Kind = &Kind {
        table: "answers",
        columns: &[Column::integer("time")],
        unique: &[],
        indexes: &[&["time"]],
    };

    fn id(&self) -> String {
        self.key.clone()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.time.into()]
    }
}

/// Something that the service remembers of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettingDoc {
    /// Its name.
    pub name: String,
    /// What it is.
    pub value: serde_json::Value,
}

impl Document for SettingDoc {
    const KIND: &'static Kind =
        &Kind { table: "settings", columns: &[], unique: &[], indexes: &[] };

    fn id(&self) -> String {
        self.name.clone()
    }

    fn columns(&self) -> Vec<Value> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use strongroom_catalog::Dialect;

    use super::*;

    /// The first version's text is what the kinds were when it was frozen. Until the first release
    /// it follows them; `STRONGROOM_BLESS=1` writes it.
    #[test]
    fn the_first_version_makes_the_tables() {
        for (dialect, name) in [(Dialect::Sqlite, "sqlite"), (Dialect::Postgres, "postgres")] {
            let text: String =
                SCHEMA.kinds.iter().map(|kind| kind.ddl(dialect)).collect::<Vec<_>>().join("\n");
            let path = format!("{}/src/migrations/1.{name}.sql", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("STRONGROOM_BLESS").is_some() {
                std::fs::write(&path, &text).expect("writes");
            }
            assert_eq!(std::fs::read_to_string(&path).expect("reads"), text, "{path}");
        }
    }
}
