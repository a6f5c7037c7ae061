//! Both databases behind one face: pools, transactions, statements, rows.
//!
//! The same SQL serves both where it can: `$1` for values, quoted names. This module knows
//! nothing of documents. A [`Session`] is one transaction; dropped, it is rolled back. After a
//! failed statement it refuses all others, as PostgreSQL does by itself.

use std::{
    fs::OpenOptions,
    io,
    ops::{Deref, DerefMut},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use sqlx::{
    Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Database, Postgres,
    Row as _, Sqlite, Transaction,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow},
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
        SqliteRow, SqliteSynchronous,
    },
};

use crate::{
    CatalogUrl, Error, Result,
    error::Cause,
    kind::Dialect,
    url::Place,
    value::{Type, Value},
};

/// Connections that read, on each database; each is a thread on SQLite.
const READERS: u32 = 4;

/// Connections to PostgreSQL of one server. All may have been cut since they were last used, so what
/// changes nothing is tried again so often.
pub(crate) const CONNECTIONS: u32 = 10;

/// How long a transaction waits for a connection or a lock.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to PostgreSQL that was not used for so long may be gone.
const RESTED: Duration = Duration::from_secs(1);

/// Statements whose plans each connection keeps.
const STATEMENTS: usize = 500;

/// Connections to a database.
#[derive(Clone, Debug)]
pub(crate) enum Pools {
    Sqlite { writer: SqlitePool, readers: SqlitePool },
    Postgres(PgPool),
}

/// How a transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// One statement, which is its own snapshot; this saves the two round trips of BEGIN and COMMIT.
    Single,
    /// Sees one state and changes nothing.
    Read,
    /// The only one that changes documents.
    Write,
    /// The only one that changes the schema; sees what others commit while it waits.
    Migrate,
}

impl Pools {
    /// Connects.
    pub(crate) async fn open(url: &CatalogUrl) -> Result<Self> {
        match &url.0 {
            Place::Sqlite(path) => Self::open_sqlite(path).await,
            Place::Postgres(options) => Self::open_postgres(options).await,
        }
    }

    async fn open_sqlite(path: &Path) -> Result<Self> {
        // Its owner's alone; SQLite gives the files beside it the same permissions.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Io { path: path.to_owned(), source });
            }
            _ => {}
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(false)
            .busy_timeout(PATIENCE)
            .statement_cache_capacity(STATEMENTS)
            .row_buffer_size(256)
            .pragma("trusted_schema", "OFF")
            .pragma("cell_size_check", "ON")
            .pragma("temp_store", "MEMORY")
            .pragma("journal_size_limit", "67108864")
            .disable_statement_logging();
        let pool = |count| {
            SqlitePoolOptions::new()
                .max_connections(count)
                .acquire_timeout(PATIENCE)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let doing = "opening the SQLite file";
        let failed = |source| Error::database(doing, source);
        let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
        let readers = pool(READERS).connect_with(options.pragma("query_only", "ON")).await;
        Ok(Self::Sqlite { writer, readers: readers.map_err(failed)? })
    }

    async fn open_postgres(options: &PgConnectOptions) -> Result<Self> {
        let patience = PATIENCE.as_millis().to_string();
        let options = options
            .clone()
            .application_name("strongroom")
            .statement_cache_capacity(STATEMENTS)
            .options([
                // A server that is gone must not keep the others from writing.
                ("idle_in_transaction_session_timeout", "60000"),
                ("tcp_keepalives_idle", "30"),
                ("lock_timeout", &patience),
                // Which index is best depends on what is filtered by; the statements are short.
                ("plan_cache_mode", "force_custom_plan"),
                ("jit", "off"),
            ]);
        // The pool would try again and again, and then not say why it gave up.
        let failed = |source| Error::database("connecting to PostgreSQL", source);
        options.connect().await.map_err(failed)?.close().await.map_err(failed)?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            // Each is tried when it is given back; asking once more is for those that have rested.
            .test_before_acquire(false)
            .before_acquire(|on, about| {
                async move {
                    if about.idle_for > RESTED {
                        on.ping().await?;
                    }
                    Ok(true)
                }
                .boxed()
            });
        Ok(Self::Postgres(pool.connect_with(options).await.map_err(failed)?))
    }

    /// Which SQL it speaks.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite { .. } => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Begins a transaction. Those that write come one after the other, on both databases.
    pub(crate) async fn begin(&self, how: Begin) -> Result<Session> {
        let doing = "beginning a transaction";
        let failed = |source| Error::database(doing, source);
        let inner = match self {
            Self::Sqlite { writer, readers } => Inner::Sqlite(match how {
                Begin::Single => On::Connection(readers.acquire().await.map_err(failed)?),
                Begin::Read => On::Transaction(readers.begin_with("BEGIN").await.map_err(failed)?),
                Begin::Write | Begin::Migrate => {
                    On::Transaction(writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?)
                }
            }),
            Self::Postgres(pool) => {
                let begin = match how {
                    Begin::Single => "",
                    Begin::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
                    Begin::Write => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE",
                    Begin::Migrate => "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
                };
                Inner::Postgres(if begin.is_empty() {
                    On::Connection(pool.acquire().await.map_err(failed)?)
                } else {
                    let mut tries = 0;
                    On::Transaction(loop {
                        match begin_whole(pool, begin).await.map_err(failed) {
                            Err(error) if error.is_cut() && tries < CONNECTIONS => tries += 1,
                            begun => break begun?,
                        }
                    })
                })
            }
        };
        let mut session = Session { inner, failed: false };
        if self.dialect() == Dialect::Postgres {
            match how {
                Begin::Single | Begin::Read => {}
                // Not an advisory lock: asking for that would already take the snapshot, so
                // that the transaction would not see what the one it waited for has done.
                Begin::Write => session.run("LOCK TABLE catalog_writer IN EXCLUSIVE MODE").await?,
                Begin::Migrate => session.run("SELECT pg_advisory_xact_lock(6001742305)").await?,
            }
        }
        Ok(session)
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// Begins a transaction on PostgreSQL in a task of its own, which continues if the caller is dropped.
///
/// sqlx 0.9.0 counts a transaction only once the server has confirmed its `BEGIN`. Dropped before that,
/// nothing ends it, and the pool hands the connection on: its next user reads what was so when that
/// transaction began. The task always has the answer, and a transaction that nobody takes is rolled back.
async fn begin_whole(
    pool: &PgPool,
    begin: &'static str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let task = tokio::spawn(async move { pool.begin_with(begin).await });
    match task.await {
        Ok(begun) => begun,
        Err(gone) => match gone.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(_) => Err(sqlx::Error::WorkerCrashed),
        },
    }
}

/// A value for a statement.
#[derive(Clone, Debug)]
pub(crate) enum Bind {
    Text(String),
    Integer(i64),
    Null(Type),
}

impl Bind {
    /// The value for a column of this type.
    pub(crate) fn column(value: Value, of: Type) -> Self {
        match value {
            Value::Null => Self::Null(of),
            Value::Integer(number) => Self::Integer(number),
            Value::Text(text) => Self::Text(text),
        }
    }
}

impl From<&str> for Bind {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Bind {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Bind {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// A statement with its values.
#[derive(Debug, Default)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) binds: Vec<Bind>,
}

impl Statement {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), binds: Vec::new() }
    }

    pub(crate) fn with(text: impl Into<String>, binds: Vec<Bind>) -> Self {
        Self { text: text.into(), binds }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a value.
    pub(crate) fn bind(&mut self, value: impl Into<Bind>) -> &mut Self {
        self.binds.push(value.into());
        let number = self.binds.len().to_string();
        self.push("$").push(&number)
    }
}

/// One transaction.
#[derive(Debug)]
pub(crate) struct Session {
    inner: Inner,
    /// Whether a statement has failed.
    failed: bool,
}

#[derive(Debug)]
enum Inner {
    Sqlite(On<Sqlite>),
    Postgres(On<Postgres>),
}

/// What statements run on: in a transaction, or each by itself.
#[derive(Debug)]
enum On<D: Database> {
    Transaction(Transaction<'static, D>),
    Connection(PoolConnection<D>),
}

impl<D: Database> Deref for On<D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        match self {
            Self::Transaction(on) => on,
            Self::Connection(on) => on,
        }
    }
}

impl<D: Database> DerefMut for On<D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        match self {
            Self::Transaction(on) => on,
            Self::Connection(on) => on,
        }
    }
}

impl<D: Database> On<D> {
    async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Transaction(on) => on.commit().await,
            Self::Connection(_) => Ok(()),
        }
    }

    async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Transaction(on) => on.rollback().await,
            Self::Connection(_) => Ok(()),
        }
    }
}

impl Session {
    pub(crate) fn dialect(&self) -> Dialect {
        match self.inner {
            Inner::Sqlite(_) => Dialect::Sqlite,
            Inner::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Runs statements that have no values and whose rows are of no interest.
    pub(crate) fn run<'a>(&'a mut self, sql: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let sql = sqlx::raw_sql(AssertSqlSafe(sql));
            let done = match &mut self.inner {
                Inner::Sqlite(on) => sql.execute(&mut **on).await.map(drop),
                Inner::Postgres(on) => sql.execute(&mut **on).await.map(drop),
            };
            self.note("running a statement", done)
        }
        .boxed()
    }

    /// Runs a statement; the number of rows that it changed.
    pub(crate) fn execute(&mut self, statement: Statement) -> BoxFuture<'_, Result<u64>> {
        async move {
            self.usable()?;
            let Statement { text, binds } = statement;
            let sql = AssertSqlSafe(text);
            let done = match &mut self.inner {
                Inner::Sqlite(on) => sqlx::query_with(sql, sqlite_values(binds)?)
                    .execute(&mut **on)
                    .await
                    .map(|done| done.rows_affected()),
                Inner::Postgres(on) => sqlx::query_with(sql, postgres_values(binds)?)
                    .execute(&mut **on)
                    .await
                    .map(|done| done.rows_affected()),
            };
            self.note("changing documents", done)
        }
        .boxed()
    }

    /// Runs a statement; its rows.
    pub(crate) fn fetch(&mut self, statement: Statement) -> BoxFuture<'_, Result<Vec<Row>>> {
        async move {
            self.usable()?;
            let Statement { text, binds } = statement;
            let sql = AssertSqlSafe(text);
            let rows = match &mut self.inner {
                Inner::Sqlite(on) => sqlx::query_with(sql, sqlite_values(binds)?)
                    .fetch_all(&mut **on)
                    .await
                    .map(|rows| rows.into_iter().map(Row::Sqlite).collect()),
                Inner::Postgres(on) => sqlx::query_with(sql, postgres_values(binds)?)
                    .fetch_all(&mut **on)
                    .await
                    .map(|rows| rows.into_iter().map(Row::Postgres).collect()),
            };
            self.note("reading", rows)
        }
        .boxed()
    }

    /// The first row of a statement's, if any.
    pub(crate) async fn first(&mut self, statement: Statement) -> Result<Option<Row>> {
        Ok(self.fetch(statement).await?.into_iter().next())
    }

    /// Makes the changes last.
    pub(crate) async fn commit(self) -> Result<()> {
        self.usable()?;
        let done = match self.inner {
            Inner::Sqlite(on) => on.commit().await,
            Inner::Postgres(on) => on.commit().await,
        };
        done.map_err(|source| match source {
            // The server said no: nothing is done.
            sqlx::Error::Database(_) => Error::database("committing", source),
            source => Error::Uncertain { source },
        })
    }

    /// Undoes the changes, now and not when the connection is next used.
    pub(crate) async fn rollback(self) -> Result<()> {
        let done = match self.inner {
            Inner::Sqlite(on) => on.rollback().await,
            Inner::Postgres(on) => on.rollback().await,
        };
        done.map_err(|source| Error::database("undoing a transaction", source))
    }

    fn usable(&self) -> Result<()> {
        if self.failed { Err(Error::Aborted) } else { Ok(()) }
    }

    fn note<T>(&mut self, doing: &'static str, done: Result<T, sqlx::Error>) -> Result<T> {
        done.map_err(|source| {
            self.failed = true;
            Error::database(doing, source)
        })
    }
}

fn sqlite_values(binds: Vec<Bind>) -> Result<SqliteArguments> {
    let mut values = SqliteArguments::default();
    for bind in binds {
        let done = match bind {
            Bind::Text(text) => values.add(text),
            Bind::Integer(number) => values.add(number),
            Bind::Null(_) => values.add(None::<i64>),
        };
        done.map_err(unwritable)?;
    }
    Ok(values)
}

fn postgres_values(binds: Vec<Bind>) -> Result<PgArguments> {
    let mut values = PgArguments::default();
    for bind in binds {
        let done = match bind {
            Bind::Text(text) => values.add(text),
            Bind::Integer(number) => values.add(number),
            Bind::Null(Type::Integer) => values.add(None::<i64>),
            Bind::Null(Type::Text) => values.add(None::<String>),
        };
        done.map_err(unwritable)?;
    }
    Ok(values)
}

fn unwritable(source: Cause) -> Error {
    Error::Unavailable { doing: "writing a value", source: sqlx::Error::Encode(source) }
}

/// A row that was read.
#[derive(Debug)]
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// The bytes of a text.
    pub(crate) fn bytes(&self, at: usize) -> Result<&[u8]> {
        // Unchecked: a text's bytes are taken as they are.
        match self {
            Self::Sqlite(row) => row.try_get_unchecked::<&[u8], _>(at),
            Self::Postgres(row) => row.try_get_unchecked::<&[u8], _>(at),
        }
        .map_err(|source| unreadable(at, source))
    }

    /// A text.
    pub(crate) fn text(&self, at: usize) -> Result<&str> {
        match self {
            Self::Sqlite(row) => row.try_get::<&str, _>(at),
            Self::Postgres(row) => row.try_get::<&str, _>(at),
        }
        .map_err(|source| unreadable(at, source))
    }

    /// A number.
    pub(crate) fn integer(&self, at: usize) -> Result<i64> {
        match self {
            Self::Sqlite(row) => row.try_get::<i64, _>(at),
            Self::Postgres(row) => row.try_get::<i64, _>(at),
        }
        .map_err(|source| unreadable(at, source))
    }

    /// A number that is not negative.
    pub(crate) fn count(&self, at: usize) -> Result<u64> {
        u64::try_from(self.integer(at)?).map_err(|source| {
            Error::corrupt(format!("column {at} is negative"), Some(source.into()))
        })
    }

    /// What a column of a type holds.
    pub(crate) fn value(&self, at: usize, of: Type) -> Result<Value> {
        let value = match (self, of) {
            (Self::Sqlite(row), Type::Integer) => {
                row.try_get::<Option<i64>, _>(at).map(Value::from)
            }
            (Self::Sqlite(row), Type::Text) => row.try_get::<Option<&str>, _>(at).map(Value::from),
            (Self::Postgres(row), Type::Integer) => {
                row.try_get::<Option<i64>, _>(at).map(Value::from)
            }
            (Self::Postgres(row), Type::Text) => {
                row.try_get::<Option<&str>, _>(at).map(Value::from)
            }
        };
        value.map_err(|source| unreadable(at, source))
    }
}

fn unreadable(at: usize, source: sqlx::Error) -> Error {
    Error::corrupt(format!("column {at} is not of its type"), Some(source.into()))
}
