//! The documents of these tests, and their schema in three versions.

use serde::{Deserialize, Serialize};
use strongroom_catalog::{Column, Document, Kind, Migration, Rewrite, Rewritten, Schema, Value};

/// Something with columns of all sorts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) host: Option<String>,
    pub(crate) started: Option<i64>,
    pub(crate) bytes: i64,
    #[serde(default)]
    pub(crate) note: String,
}

pub(crate) static JOBS: Kind = Kind {
    table: "jobs",
    columns: &[
        Column::text("state"),
        Column::text("host").nullable(),
        Column::integer("started").nullable(),
        Column::integer("bytes"),
    ],
    unique: &[],
    indexes: &[&["state", "started"], &["started"], &["host", "bytes"], &["bytes"]],
};

impl Document for Job {
    const KIND: &'static Kind = &JOBS;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.state.as_str().into(),
            self.host.clone().into(),
            self.started.into(),
            self.bytes.into(),
        ]
    }
}

pub(crate) fn job(id: impl Into<String>) -> Job {
    Job {
        id: id.into(),
        state: "new".to_owned(),
        host: None,
        started: None,
        bytes: 0,
        note: String::new(),
    }
}

/// Something with unique keys, in a table whose name is a word of SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) tenant: Option<String>,
    pub(crate) badge: Option<i64>,
}

pub(crate) static USERS: Kind = Kind {
    table: "user",
    columns: &[
        Column::text("name"),
        Column::text("tenant").nullable(),
        Column::integer("badge").nullable(),
    ],
    unique: &[&["tenant", "name"], &["badge"]],
    indexes: &[&["name"]],
};

impl Document for User {
    const KIND: &'static Kind = &USERS;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.name.as_str().into(), self.tenant.clone().into(), self.badge.into()]
    }
}

pub(crate) fn user(id: &str, tenant: Option<&str>, name: &str, badge: Option<i64>) -> User {
    let tenant = tenant.map(str::to_owned);
    User { id: id.to_owned(), name: name.to_owned(), tenant, badge }
}

/// The latest version.
pub(crate) static SCHEMA: Schema = Schema { kinds: &[&JOBS, &USERS], migrations: &MIGRATIONS };

/// What a program of two versions before knew.
pub(crate) static FIRST: Schema =
    Schema { kinds: &[], migrations: std::slice::from_ref(&MIGRATIONS[0]) };

/// A list of which an entry was changed after its release.
pub(crate) static FORGED: Schema = Schema {
    kinds: &[],
    migrations: &[Migration {
        version: 1,
        name: "jobs",
        sqlite: "CREATE TABLE jobs (id TEXT)",
        postgres: "CREATE TABLE jobs (id TEXT)",
        rewrite: None,
    }],
};

/// The program of a version whose kinds were changed without a migration.
pub(crate) static FORGOTTEN: Schema = Schema {
    kinds: &[&JOBS, &USERS, &Kind { table: "tokens", columns: &[], unique: &[], indexes: &[] }],
    migrations: &MIGRATIONS,
};

pub(crate) static MIGRATIONS: [Migration; 3] = [
    Migration {
        version: 1,
        name: "jobs",
        sqlite: include_str!("../schemas/1.sqlite.sql"),
        postgres: include_str!("../schemas/1.postgres.sql"),
        rewrite: None,
    },
    Migration {
        version: 2,
        name: "users",
        sqlite: include_str!("../schemas/2.sqlite.sql"),
        postgres: include_str!("../schemas/2.postgres.sql"),
        rewrite: None,
    },
    Migration {
        version: 3,
        name: "jobs have a size",
        sqlite: include_str!("../schemas/3.sql"),
        postgres: include_str!("../schemas/3.sql"),
        rewrite: Some(Rewrite {
            table: "jobs",
            change: |mut body| {
                let kib = body["kib"].as_i64().ok_or("no kib")?;
                let bytes = kib * 1024;
                let map = body.as_object_mut().ok_or("no object")?;
                map.remove("kib");
                map.insert("bytes".to_owned(), bytes.into());
                Ok(Rewritten { body, columns: vec![("bytes", bytes.into())] })
            },
        }),
    },
];
