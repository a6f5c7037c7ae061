//! Jobs and what each is to do, and the alerts that come of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_api as api;
use strongroom_base::{HostId, ItemId, PointId, VaultId};
use strongroom_catalog::{Column, Document, Kind, Value};

use crate::cause::Cause;

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
    /// Start a machine from a recovery point in isolation, to see whether it boots.
    VerifyBoot {
        /// The item.
        item: ItemId,
        /// The point.
        point: PointId,
        /// What is asked of the machine.
        wanted: Box<api::BootWanted>,
    },
    /// Start machines together from their recovery points in isolation, to see when each works.
    Drill {
        /// The vault.
        vault: VaultId,
        /// The host that starts them.
        host: HostId,
        /// The items, in order.
        items: Vec<ItemId>,
        /// What is asked.
        wanted: Box<api::DrillWanted>,
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
    /// Whether it is still to be sent, by mail and webhook. Catalogs know it by its first name.
    #[serde(default, rename = "untold")]
    pub unsent: bool,
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
            self.unsent.into(),
        ]
    }
}
