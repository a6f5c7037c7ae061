//! Vaults, how they are opened, and what was measured of them.

use serde::{Deserialize, Serialize};
use strongroom_api as api;
use strongroom_catalog::{Column, Document, Kind, Value};
use strongroom_orders::VaultAccess;

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

/// A measurement of a vault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageDoc {
    /// As the API shows it, without the forecast, which follows from all of them.
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
