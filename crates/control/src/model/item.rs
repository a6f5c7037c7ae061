//! Policies, items and their recovery points, with what schedules and retention remember of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_api as api;
use strongroom_base::{HostId, ItemId, PointId, VaultId};
use strongroom_catalog::{Column, Document, Kind, Value};

use crate::sources;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDoc {
    /// As the API shows it.
    pub policy: api::Policy,
    /// Since when every new point is booted, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_since: Option<Timestamp>,
    /// When that was changed last, in whatever way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_changed: Option<Timestamp>,
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
    /// A new item that nothing is made of yet: without a policy, its protection stopped.
    pub(crate) fn new(
        id: ItemId,
        name: &str,
        (vault, host): (VaultId, HostId),
        source: api::Source,
        now: Timestamp,
    ) -> Self {
        Self {
            item: api::Item {
                id,
                name: name.to_owned(),
                vault,
                host,
                source,
                disks: api::DiskSelection::All,
                policy: None,
                state: api::ProtectionState::ProtectionStopped,
                error: None,
                failures: 0,
                job: None,
                last_backup: None,
                last_point: None,
                next_backup: None,
                replaced: None,
                created: now,
                deleted: None,
                purge_after: None,
            },
            handled_until: now,
            planned: None,
            before_deletion: None,
            active_since: None,
            retention: ItemRetention::default(),
        }
    }

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
        format!("{}/{}", item.host, sources::of(&item.source).key(item))
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
