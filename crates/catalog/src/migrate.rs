//! The schema and its versions.
//!
//! A schema is a list of numbered migrations that is only ever added to: the text of one that was
//! released is frozen, so that a catalog of any earlier version becomes the same by the rest of
//! the list. Each runs in a transaction of its own, under a lock that several servers starting
//! at once share; what was run is recorded with a digest of its text. The crate's own tables
//! have a list of their own, under the name `catalog`; the documents' is `documents`.

use std::collections::BTreeSet;

use strongroom_base::{Clock, Digest};

use crate::{
    Error, Kind, Result, Value,
    error::Cause,
    kind::{Dialect, is_word},
    sql::{Begin, Bind, Pools, Session, Statement},
    value::Type,
};

/// What a catalog holds, and how it came to.
#[derive(Debug)]
pub struct Schema {
    /// The documents of the latest version.
    pub kinds: &'static [&'static Kind],
    /// How each version came from the one before; numbered from 1, without gaps.
    pub migrations: &'static [Migration],
}

/// A step from one version of the schema to the next.
#[derive(Debug)]
pub struct Migration {
    /// The version that it makes.
    pub version: u32,
    /// What it is for, in a few words.
    pub name: &'static str,
    /// What is done on SQLite; several statements.
    pub sqlite: &'static str,
    /// What is done on PostgreSQL; several statements.
    pub postgres: &'static str,
    /// What is done to documents after that.
    pub rewrite: Option<Rewrite>,
}

/// A change of all documents of a table.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    /// The table.
    pub table: &'static str,
    /// Makes the new document of an old one's body. It must not use types that change later.
    pub change: fn(serde_json::Value) -> Result<Rewritten, Cause>,
}

/// What becomes of a document by a [`Rewrite`].
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// The body.
    pub body: serde_json::Value,
    /// The columns that change, by name.
    pub columns: Vec<(&'static str, Value)>,
}

impl Migration {
    fn sql(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Postgres => self.postgres,
        }
    }

    /// A digest of the text, as it is recorded.
    fn digest(&self, dialect: Dialect) -> String {
        Digest::new(*blake3::hash(self.sql(dialect).as_bytes()).as_bytes()).to_string()
    }
}

/// The tables of this crate itself.
static OWN: &[Migration] = &[Migration {
    version: 1,
    name: "leases and the audit chain",
    sqlite: include_str!("migrations/1.sqlite.sql"),
    postgres: include_str!("migrations/1.postgres.sql"),
    rewrite: None,
}];

/// A list of migrations by the name under which it is recorded.
#[derive(Clone, Copy)]
struct List {
    name: &'static str,
    migrations: &'static [Migration],
}

impl Schema {
    /// The latest version.
    pub fn version(&self) -> u32 {
        self.migrations.last().map_or(0, |last| last.version)
    }

    /// Checks what a mistake in the program would break.
    pub(crate) fn check(&self) -> Result<()> {
        let mut tables = BTreeSet::new();
        for kind in self.kinds {
            kind.check()?;
            if !tables.insert(kind.table) {
                let reason = "two kinds have this table".to_owned();
                return Err(Error::Document { kind: kind.table, reason });
            }
        }
        for (migration, number) in self.migrations.iter().zip(1..) {
            if migration.version != number {
                let reason = format!("migrations are not numbered 1, 2, 3: {}", migration.name);
                return Err(Error::Schema { reason });
            }
        }
        Ok(())
    }

    /// Brings a database to the latest version, from any earlier one or from nothing.
    pub(crate) async fn upgrade(&self, pools: &Pools, clock: &dyn Clock) -> Result<()> {
        for list in self.lists() {
            while step(pools, clock, list).await? {}
        }
        self.verify(pools).await
    }

    fn lists(&self) -> [List; 2] {
        [
            List { name: "catalog", migrations: OWN },
            List { name: "documents", migrations: self.migrations },
        ]
    }

    /// Makes a database of some version within a transaction: only the first `version`
    /// migrations. [`Error::NotEmpty`] if there is anything in it.
    pub(crate) async fn create(
        &self,
        session: &mut Session,
        clock: &dyn Clock,
        version: u32,
    ) -> Result<()> {
        if version > self.version() {
            return Err(Error::Newer { found: version, known: self.version() });
        }
        make_records(session).await?;
        for list in self.lists() {
            if !applied(session, list.name).await?.is_empty() {
                return Err(Error::NotEmpty);
            }
            let own = list.name == "catalog";
            for migration in list.migrations.iter().filter(|one| own || one.version <= version) {
                apply(session, clock, list.name, migration).await?;
            }
        }
        Ok(())
    }

    /// The version that a database has.
    pub(crate) async fn version_of(session: &mut Session) -> Result<u32> {
        Ok(applied(session, "documents").await?.last().map_or(0, |(version, _)| *version))
    }

    /// Checks that the tables are as the kinds say.
    async fn verify(&self, pools: &Pools) -> Result<()> {
        let mut session = pools.begin(Begin::Read).await?;
        let indexes = indexes(&mut session).await?;
        for kind in self.kinds {
            let found = columns(&mut session, kind.table).await?;
            for column in kind.all_columns() {
                let same = |other: &FoundColumn| {
                    (other.name.as_str(), other.of, other.nullable)
                        == (column.name, column.of, column.nullable)
                };
                if !found.iter().any(same) {
                    let reason = format!("{}.{} is not as its kind says", kind.table, column.name);
                    return Err(Error::Schema { reason });
                }
            }
            // A column that the kind does not know and that must have a value lets nothing in.
            let unknown = |found: &&FoundColumn| {
                !found.nullable && !kind.all_columns().any(|column| column.name == found.name)
            };
            if let Some(other) = found.iter().find(unknown) {
                let reason = format!("{}.{} is not known to its kind", kind.table, other.name);
                return Err(Error::Schema { reason });
            }
            for name in kind.index_names() {
                if !indexes.contains(&name) {
                    return Err(Error::Schema { reason: format!("the index {name} is missing") });
                }
            }
        }
        session.rollback().await
    }
}

/// Runs the next migration of a list, if there is one; whether there was.
async fn step(pools: &Pools, clock: &dyn Clock, list: List) -> Result<bool> {
    let mut session = pools.begin(Begin::Migrate).await?;
    make_records(&mut session).await?;
    let dialect = session.dialect();
    let applied = applied(&mut session, list.name).await?;
    for ((found, digest), number) in applied.iter().zip(1..) {
        let known = list.migrations.iter().find(|one| one.version == *found);
        let Some(known) = known else {
            let known = list.migrations.last().map_or(0, |last| last.version);
            let found = applied.last().map_or(*found, |(last, _)| *last);
            return Err(Error::Newer { found, known });
        };
        if *found != number || known.digest(dialect) != *digest {
            let reason =
                format!("migration {found} ({}) is not the one of this program", known.name);
            return Err(Error::Schema { reason });
        }
    }
    let Some(next) = list.migrations.get(applied.len()) else {
        session.commit().await?;
        return Ok(false);
    };
    apply(&mut session, clock, list.name, next).await?;
    session.commit().await?;
    tracing::info!(list = list.name, version = next.version, name = next.name, "schema upgraded");
    Ok(true)
}

/// The table that records what was run.
async fn make_records(session: &mut Session) -> Result<()> {
    let text = match session.dialect() {
        Dialect::Sqlite => "TEXT",
        Dialect::Postgres => "TEXT COLLATE \"C\"",
    };
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS catalog_schema (list {text} NOT NULL, version BIGINT NOT NULL, \
         name TEXT NOT NULL, digest TEXT NOT NULL, applied BIGINT NOT NULL, \
         PRIMARY KEY (list, version))"
    );
    // Asked first: PostgreSQL logs a notice, and wants the right to create, even if it is there.
    if exists(session, "catalog_schema").await? { Ok(()) } else { session.run(&sql).await }
}

/// Whether there is a table.
pub(crate) async fn exists(session: &mut Session, table: &str) -> Result<bool> {
    let sql = match session.dialect() {
        Dialect::Sqlite => "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1",
        Dialect::Postgres => {
            "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1"
        }
    };
    Ok(session.first(Statement::with(sql, vec![table.into()])).await?.is_some())
}

/// The versions that were run, and the digests of their texts, in order.
async fn applied(session: &mut Session, list: &str) -> Result<Vec<(u32, String)>> {
    let sql = "SELECT version, digest FROM catalog_schema WHERE list = $1 ORDER BY version";
    let rows = session.fetch(Statement::with(sql, vec![list.into()])).await?;
    rows.iter()
        .map(|row| {
            let version = u32::try_from(row.integer(0)?)
                .map_err(|source| Error::corrupt("a schema's version", Some(source.into())))?;
            Ok((version, row.text(1)?.to_owned()))
        })
        .collect()
}

/// Runs a migration and records it.
async fn apply(
    session: &mut Session,
    clock: &dyn Clock,
    list: &str,
    migration: &Migration,
) -> Result<()> {
    let dialect = session.dialect();
    session.run(migration.sql(dialect)).await?;
    if let Some(rewrite) = &migration.rewrite {
        rewrite.run(session).await?;
    }
    let sql = "INSERT INTO catalog_schema (list, version, name, digest, applied) \
               VALUES ($1, $2, $3, $4, $5)";
    let values = vec![
        list.into(),
        Bind::Integer(migration.version.into()),
        migration.name.into(),
        migration.digest(dialect).into(),
        clock.now().as_microsecond().into(),
    ];
    session.execute(Statement::with(sql, values)).await.map(drop)
}

impl Rewrite {
    /// Changes every document of the table.
    async fn run(&self, session: &mut Session) -> Result<()> {
        let table = self.table;
        let columns = columns(session, table).await?;
        let mut last = String::new();
        loop {
            let sql = format!(
                "SELECT \"id\", \"body\" FROM \"{table}\" WHERE \"id\" > $1 ORDER BY \"id\" LIMIT 500"
            );
            let rows = session.fetch(Statement::with(sql, vec![last.as_str().into()])).await?;
            let Some(end) = rows.last() else { return Ok(()) };
            end.text(0)?.clone_into(&mut last);
            for row in &rows {
                let id = row.text(0)?;
                let damaged = |source| Error::corrupt(format!("{table} {id:?}"), Some(source));
                let body = serde_json::from_slice(row.bytes(1)?);
                let body = body.map_err(|source| damaged(Cause::from(source)))?;
                let new = (self.change)(body).map_err(damaged)?;
                let mut sql = Statement::new(format!("UPDATE \"{table}\" SET \"body\" = "));
                sql.bind(new.body.to_string());
                for (name, value) in new.columns {
                    let Some(column) = columns.iter().find(|column| column.name == name) else {
                        let reason = format!("there is no {table}.{name}");
                        return Err(Error::Schema { reason });
                    };
                    sql.push(&format!(", \"{name}\" = ")).bind(Bind::column(value, column.of));
                }
                sql.push(" WHERE \"id\" = ").bind(id);
                session.execute(sql).await?;
            }
        }
    }
}

/// A column of a table, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundColumn {
    pub(crate) name: String,
    pub(crate) of: Type,
    pub(crate) nullable: bool,
}

/// The columns of a table, as the database has them.
pub(crate) async fn columns(session: &mut Session, table: &str) -> Result<Vec<FoundColumn>> {
    let sql = match session.dialect() {
        Dialect::Sqlite => {
            "SELECT name, type, CAST(\"notnull\" AS TEXT) FROM pragma_table_info($1)"
        }
        Dialect::Postgres => {
            "SELECT column_name::text, upper(data_type), \
             CASE is_nullable WHEN 'NO' THEN '1' ELSE '0' END \
             FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"
        }
    };
    let rows = session.fetch(Statement::with(sql, vec![table.into()])).await?;
    rows.iter()
        .map(|row| {
            let name = row.text(0)?.to_owned();
            let of = match row.text(1)? {
                "TEXT" => Type::Text,
                "BIGINT" => Type::Integer,
                other => {
                    let reason = format!("{table}.{name} is a {other}, not TEXT or BIGINT");
                    return Err(Error::Schema { reason });
                }
            };
            if !is_word(&name) {
                let reason = format!("{table} has a column that is no plain word");
                return Err(Error::Schema { reason });
            }
            Ok(FoundColumn { name, of, nullable: row.text(2)? == "0" })
        })
        .collect()
}

/// The names of all indexes.
async fn indexes(session: &mut Session) -> Result<BTreeSet<String>> {
    let sql = match session.dialect() {
        Dialect::Sqlite => "SELECT name FROM sqlite_schema WHERE type = 'index'",
        Dialect::Postgres => {
            "SELECT indexname::text FROM pg_indexes WHERE schemaname = current_schema()"
        }
    };
    let rows = session.fetch(Statement::new(sql)).await?;
    rows.iter().map(|row| row.text(0).map(str::to_owned)).collect()
}
