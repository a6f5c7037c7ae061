//! An open catalog and its transactions.
//!
//! A SQLite file is served by one process, which holds a lock on a file beside it. PostgreSQL
//! serves several. On both, transactions that write come one after the other, so what one has
//! read is still so when it writes.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, PoisonError},
};

use rustix::fs::{FlockOperation, flock};
use strongroom_base::Clock;

use crate::{
    CatalogUrl, Document, Error, Kind, Page, Query, ReadTx, Result, Schema, Stored, Tx,
    kind::Dialect,
    sql::{Begin, CONNECTIONS, Pools, Session, Statement},
    tx::Changes,
    url::Place,
};

/// A catalog. Clones are the same one.
#[derive(Clone)]
pub struct Catalog {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) pools: Pools,
    pub(crate) schema: &'static Schema,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) changes: Changes,
    #[cfg(feature = "testing")]
    pub(crate) faults: Arc<crate::testing::Faults>,
    /// Held as long as the catalog is open.
    _lock: Option<File>,
}

/// What a check of a catalog has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The database and its version.
    pub database: String,
    /// The version of the documents' schema.
    pub schema: u32,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("schema", &self.inner.schema.version())
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens a catalog; makes it if it is not there, brings it to the schema's version if it is
    /// of an earlier one.
    pub async fn open(
        url: &CatalogUrl,
        schema: &'static Schema,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let catalog = Self::connect(url, schema, clock).await?;
        let Inner { pools, clock, .. } = &*catalog.inner;
        schema.upgrade(pools, &**clock).await?;
        if !url.is_shared() {
            // The holder of a lease was an earlier process, which is gone.
            catalog.end_leases().await?;
        }
        Ok(catalog)
    }

    /// Opens a catalog that is there, beside the server that serves from it, if one does: for a change
    /// that servers look up each time. It is neither made nor upgraded.
    pub async fn beside(
        url: &CatalogUrl,
        schema: &'static Schema,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        schema.check()?;
        if let Place::Sqlite(path) = &url.0
            && let Err(source) = std::fs::metadata(path)
        {
            return Err(Error::Io { path: path.clone(), source });
        }
        let catalog = Self::connected(url, schema, clock, None).await?;
        catalog.check().await?;
        Ok(catalog)
    }

    /// Opens a database without looking at what it holds.
    pub(crate) async fn connect(
        url: &CatalogUrl,
        schema: &'static Schema,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        schema.check()?;
        let lock = match &url.0 {
            Place::Sqlite(path) => Some(lock(path)?),
            Place::Postgres(_) => None,
        };
        Self::connected(url, schema, clock, lock).await
    }

    async fn connected(
        url: &CatalogUrl,
        schema: &'static Schema,
        clock: Arc<dyn Clock>,
        lock: Option<File>,
    ) -> Result<Self> {
        let pools = Pools::open(url).await?;
        let inner = Inner {
            pools,
            schema,
            clock,
            changes: Changes::default(),
            #[cfg(feature = "testing")]
            faults: Arc::default(),
            _lock: lock,
        };
        let catalog = Self { inner: Arc::new(inner) };
        catalog.check_encoding().await?;
        Ok(catalog)
    }

    /// Closes all connections, and waits for those in use.
    pub async fn close(self) {
        self.inner.pools.close().await;
    }

    /// The schema that the catalog is of.
    pub fn schema(&self) -> &'static Schema {
        self.inner.schema
    }

    /// Begins a transaction that reads. All that it reads is of one moment. It ends when it is
    /// dropped.
    pub async fn read(&self) -> Result<ReadTx> {
        let session = self.inner.pools.begin(Begin::Read).await?;
        Ok(ReadTx::new(session, self.inner.clock.clone()))
    }

    /// Begins a transaction that writes. Its changes last once it is committed
    /// ([`Tx::commit`]); if it is dropped before, nothing is changed.
    ///
    /// No other transaction writes meanwhile, on any server: what this one has read is still so
    /// when it commits, and it never has to be run again. The others wait, so do nothing
    /// between its beginning and its end but ask it, and end it soon.
    pub async fn write(&self) -> Result<Tx> {
        let session = self.inner.pools.begin(Begin::Write).await?;
        let inner = &self.inner;
        let tx = Tx::new(session, inner.clock.clone(), Arc::clone(&inner.changes));
        #[cfg(feature = "testing")]
        let tx = tx.with_faults(Arc::clone(&inner.faults));
        Ok(tx)
    }

    /// One document.
    pub async fn get<D: Document>(&self, id: &str) -> Result<Option<Stored<D>>> {
        let mut tries = 0;
        loop {
            match self.single().await?.get(id).await {
                Err(error) if error.is_cut() && tries < CONNECTIONS => tries += 1,
                done => return done,
            }
        }
    }

    /// A page of documents.
    pub async fn list<D: Document>(&self, query: &Query) -> Result<Page<Stored<D>>> {
        let dialect = self.inner.pools.dialect();
        let statements = query.statements(D::KIND, dialect)?.len();
        if statements != 1 {
            return self.read().await?.list(query).await;
        }
        let mut tries = 0;
        loop {
            match self.single().await?.list(query).await {
                Err(error) if error.is_cut() && tries < CONNECTIONS => tries += 1,
                done => return done,
            }
        }
    }

    /// For one statement that reads.
    async fn single(&self) -> Result<ReadTx> {
        let session = self.inner.pools.begin(Begin::Single).await?;
        Ok(ReadTx::new(session, self.inner.clock.clone()))
    }

    /// How often documents of some kinds were changed through this catalog since it was opened. A
    /// number that was asked for before they were read, and is still the same, says that what was
    /// read is still so; unless another server on the same database has changed it.
    pub fn changes(&self, kinds: &[&'static Kind]) -> u64 {
        let changes = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().filter_map(|kind| changes.get(kind.table)).sum()
    }

    /// Whether the database answers and is of the version that this program knows.
    pub async fn check(&self) -> Result<Health> {
        let mut session = self.inner.pools.begin(Begin::Read).await?;
        let sql = match session.dialect() {
            Dialect::Sqlite => "SELECT 'SQLite ' || sqlite_version()",
            Dialect::Postgres => "SELECT 'PostgreSQL ' || current_setting('server_version')",
        };
        let row = session.first(Statement::new(sql)).await?;
        let database = row.map_or(Ok(String::new()), |row| row.text(0).map(str::to_owned))?;
        let found = Schema::version_of(&mut session).await?;
        let known = self.inner.schema.version();
        session.rollback().await?;
        if found == known {
            Ok(Health { database, schema: found })
        } else {
            // A newer server has upgraded it while this one runs.
            Err(Error::Newer { found, known })
        }
    }

    /// Reads the whole database and checks that it is sound; on PostgreSQL, whose server does
    /// this, the same as [`Catalog::check`]. Takes long.
    pub async fn check_deeply(&self) -> Result<Health> {
        let mut session = self.inner.pools.begin(Begin::Read).await?;
        if session.dialect() == Dialect::Sqlite {
            let rows = session.fetch(Statement::new("PRAGMA integrity_check(10)")).await?;
            for row in &rows {
                let found = row.text(0)?;
                if found != "ok" {
                    return Err(Error::corrupt(found, None));
                }
            }
        }
        session.rollback().await?;
        self.check().await
    }

    /// Texts sort by bytes only in UTF-8.
    async fn check_encoding(&self) -> Result<()> {
        if self.inner.pools.dialect() == Dialect::Postgres {
            let mut session = self.inner.pools.begin(Begin::Read).await?;
            let sql = Statement::new("SELECT current_setting('server_encoding')");
            let row = session.first(sql).await?;
            let encoding = row.map_or(Ok(String::new()), |row| row.text(0).map(str::to_owned))?;
            session.rollback().await?;
            if encoding != "UTF8" {
                let reason = format!("the database's encoding is {encoding}, not UTF8");
                return Err(Error::Schema { reason });
            }
        }
        Ok(())
    }

    /// Faults that commits have in tests.
    #[cfg(feature = "testing")]
    pub fn faults(&self) -> &crate::testing::Faults {
        &self.inner.faults
    }

    /// Begins a transaction for work inside this crate.
    pub(crate) async fn begin(&self, how: Begin) -> Result<Session> {
        self.inner.pools.begin(how).await
    }
}

/// Locks a SQLite file for this process, by a file beside it that stays. SQLite's own locks do
/// not: they are held only as long as something is read or written.
fn lock(path: &Path) -> Result<File> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let failed = |source| Error::Io { path: beside.clone().into(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}
