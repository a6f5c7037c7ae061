//! Hosts, and the machines that were found on them.

use serde::{Deserialize, Serialize};
use strongroom_api as api;
use strongroom_base::HostId;
use strongroom_catalog::{Column, Document, Kind, Value};

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
