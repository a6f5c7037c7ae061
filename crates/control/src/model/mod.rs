//! What the catalog holds: the words of the API, and what belongs to them that no caller sees.
//!
//! A document is kept as JSON; what lists filter and sort by is also in columns. Fields are only
//! added, with defaults, so that what an earlier version wrote can be read; what cannot be done so
//! takes a migration.

mod host;
mod item;
mod job;
mod notice;
mod people;
mod request;
mod vault;

use serde::{Deserialize, Serialize};
use strongroom_catalog::{Document, Kind, Migration, Schema, Value};

pub use self::{
    host::{HostDoc, MachineDoc},
    item::{GivenUpDoc, ItemDoc, ItemRetention, Planned, PointDoc, PolicyDoc},
    job::{AlertDoc, JobDoc, Spec},
    notice::NoticeDoc,
    people::{AssignmentDoc, TokenDoc, UserDoc},
    request::RequestDoc,
    vault::{UsageDoc, VaultDoc},
};

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
        NoticeDoc::KIND,
        UsageDoc::KIND,
        UserDoc::KIND,
        TokenDoc::KIND,
        AssignmentDoc::KIND,
        RequestDoc::KIND,
        SettingDoc::KIND,
    ],
    migrations: MIGRATIONS,
};

/// How each version of the schema came from the one before. What was released never changes.
static MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "the service",
    sqlite: include_str!("../migrations/1.sqlite.sql"),
    postgres: include_str!("../migrations/1.postgres.sql"),
    rewrite: None,
}];

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
