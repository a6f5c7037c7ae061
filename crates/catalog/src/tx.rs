//! Transactions: documents read and written, all or nothing.
//!
//! Values are checked here before they reach a database, so that both refuse the same. A
//! conflict that is reported is found by asking, never by a failed statement, so that the
//! transaction can continue after it.

use std::{
    collections::{BTreeSet, HashMap},
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_base::{Clock, lock};

use crate::{
    Document, Error, Filter, Kind, Page, Query, Result, Value,
    error::Cause,
    query::quoted,
    sql::{Bind, Row, Session, Statement},
    value::text_fault,
};

/// The largest body of a document, in bytes.
pub const MAX_BODY: usize = 16 << 20;

/// A transaction that keeps others from writing for longer is logged as a warning.
const SLOW: Duration = Duration::from_secs(5);

/// A document and its version, which counts its changes from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<D> {
    /// The document.
    pub doc: D,
    /// Its version, for who wants to change it only if nobody else has.
    pub version: u64,
}

/// A document as its JSON text, for who hands it on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDocument {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// JSON.
    pub body: String,
}

/// How often the documents of each table were changed.
pub(crate) type Changes = Arc<Mutex<HashMap<&'static str, u64>>>;

/// A transaction that reads: it sees one state of the catalog, whatever others write.
pub struct ReadTx {
    pub(crate) session: Session,
    pub(crate) clock: Arc<dyn Clock>,
    began: Duration,
}

/// A transaction that reads and writes. It is the only one that writes, on all servers.
pub struct Tx {
    read: ReadTx,
    /// Tables whose documents it has changed.
    touched: BTreeSet<&'static str>,
    changes: Changes,
    #[cfg(feature = "testing")]
    faults: Option<Arc<crate::testing::Faults>>,
}

impl Deref for Tx {
    type Target = ReadTx;

    fn deref(&self) -> &ReadTx {
        &self.read
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut ReadTx {
        &mut self.read
    }
}

impl ReadTx {
    pub(crate) fn new(session: Session, clock: Arc<dyn Clock>) -> Self {
        let began = clock.monotonic();
        Self { session, clock, began }
    }

    /// One document.
    pub async fn get<D: Document>(&mut self, id: &str) -> Result<Option<Stored<D>>> {
        if text_fault(id).is_some() {
            return Ok(None);
        }
        let sql =
            format!("SELECT \"version\", \"body\" FROM \"{}\" WHERE \"id\" = $1", D::KIND.table);
        match self.session.first(Statement::with(sql, vec![id.into()])).await? {
            Some(row) => stored(id, &row, 0, 1).map(Some),
            None => Ok(None),
        }
    }

    /// A page of documents.
    pub async fn list<D: Document>(&mut self, query: &Query) -> Result<Page<Stored<D>>> {
        let (rows, next) = self.page(D::KIND, query).await?;
        let items: Result<_> = rows.iter().map(|row| stored(row.text(0)?, row, 1, 2)).collect();
        Ok(Page { items: items?, next })
    }

    /// The same, as JSON texts.
    pub async fn list_raw<D: Document>(&mut self, query: &Query) -> Result<Page<RawDocument>> {
        let (rows, next) = self.page(D::KIND, query).await?;
        let item = |row: &Row| {
            let body = row.text(2)?.to_owned();
            Ok(RawDocument { id: row.text(0)?.to_owned(), version: row.count(1)?, body })
        };
        let items: Result<_> = rows.iter().map(item).collect();
        Ok(Page { items: items?, next })
    }

    /// The first document of a list, if it has any.
    pub async fn first<D: Document>(&mut self, query: &Query) -> Result<Option<Stored<D>>> {
        Ok(self.list(&query.clone().limit(1)).await?.items.into_iter().next())
    }

    async fn page(
        &mut self,
        kind: &'static Kind,
        query: &Query,
    ) -> Result<(Vec<Row>, Option<crate::PageToken>)> {
        let limit = query.checked_limit(kind)?;
        let column = query.order_column(kind)?;
        let mut rows = Vec::new();
        for statement in query.statements(kind, self.session.dialect())? {
            if rows.len() <= limit {
                rows.extend(self.session.fetch(statement).await?);
            }
        }
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if more => Some(query.token(kind, last.value(3, column.of)?, last.text(0)?)),
            _ => None,
        };
        Ok((rows, next))
    }

    /// How many documents meet a condition.
    pub async fn count<D: Document>(&mut self, filter: &Filter) -> Result<u64> {
        let row = self.aggregate(D::KIND, "COUNT(*)", filter).await?;
        row.map_or(Ok(0), |row| row.count(0))
    }

    /// The sum of a number over the documents that meet a condition; nulls count as 0.
    pub async fn sum<D: Document>(&mut self, column: &str, filter: &Filter) -> Result<i64> {
        let column = D::KIND.column(column)?;
        if column.of != crate::Type::Integer {
            let reason = format!("{:?} is no number", column.name);
            return Err(Error::Query { kind: D::KIND.table, reason });
        }
        let what = format!("CAST(COALESCE(SUM({}), 0) AS BIGINT)", quoted(column));
        self.aggregate(D::KIND, &what, filter).await?.map_or(Ok(0), |row| row.integer(0))
    }

    async fn aggregate(
        &mut self,
        kind: &'static Kind,
        what: &str,
        filter: &Filter,
    ) -> Result<Option<Row>> {
        let mut sql = Statement::new(format!("SELECT {what} FROM \"{}\"", kind.table));
        filter.write(kind, self.session.dialect(), &mut sql)?;
        self.session.first(sql).await
    }

    /// How many documents have each value of a column, of those that meet a condition; by value.
    pub async fn count_by<D: Document>(
        &mut self,
        column: &str,
        filter: &Filter,
    ) -> Result<Vec<(Value, u64)>> {
        let column = D::KIND.column(column)?;
        let name = quoted(column);
        let mut sql = Statement::new(format!("SELECT {name}, COUNT(*) FROM \"{}\"", D::KIND.table));
        filter.write(D::KIND, self.session.dialect(), &mut sql)?;
        sql.push(&format!(" GROUP BY {name}"));
        let rows = self.session.fetch(sql).await?;
        let counts = rows.iter().map(|row| Ok((row.value(0, column.of)?, row.count(1)?)));
        let mut counts = counts.collect::<Result<Vec<_>>>()?;
        counts.sort_unstable();
        Ok(counts)
    }
}

/// The document in a row.
fn stored<D: Document>(id: &str, row: &Row, version: usize, body: usize) -> Result<Stored<D>> {
    let doc = serde_json::from_slice(row.bytes(body)?).map_err(|source| {
        let what = format!("{} {id:?} is not what its kind should be", D::KIND.table);
        Error::corrupt(what, Some(Cause::from(source)))
    })?;
    Ok(Stored { doc, version: row.count(version)? })
}

/// A document in the form in which it is kept.
struct Written {
    id: String,
    columns: Vec<Bind>,
    values: Vec<Value>,
    body: String,
}

impl Written {
    fn new<D: Document>(doc: &D) -> Result<Self> {
        let kind = D::KIND;
        let fault = |reason: String| Error::Document { kind: kind.table, reason };
        let unkept = |what: &str, reason| {
            Err(Error::Value { kind: kind.table, what: what.to_owned(), reason })
        };
        let id = doc.id();
        if let Some(reason) = id.is_empty().then_some("it is empty").or(text_fault(&id)) {
            return unkept("id", reason);
        }
        let values = doc.columns();
        if values.len() != kind.columns.len() {
            return Err(fault("it does not give the values that its kind wants".to_owned()));
        }
        for (value, column) in values.iter().zip(kind.columns) {
            let fits = value.type_of().map_or(column.nullable, |of| of == column.of);
            if !fits {
                return Err(fault(format!("{} has a value of another type", column.name)));
            }
            if let Some(reason) = value.fault() {
                return unkept(column.name, reason);
            }
        }
        let columns = values.iter().zip(kind.columns);
        let columns = columns.map(|(value, column)| Bind::column(value.clone(), column.of));
        let body = serde_json::to_string(doc).map_err(|source| fault(source.to_string()))?;
        if body.len() > MAX_BODY {
            return unkept("the content", "it is larger than 16 MiB");
        }
        Ok(Self { id, columns: columns.collect(), values, body })
    }

    /// `INSERT INTO … VALUES …`, with version 1.
    fn insert(self, kind: &Kind) -> Statement {
        let mut sql =
            Statement::new(format!("INSERT INTO \"{}\" (\"id\", \"version\", ", kind.table));
        for column in kind.columns {
            sql.push(&quoted(column)).push(", ");
        }
        sql.push("\"body\") VALUES (");
        sql.bind(self.id).push(", 1, ");
        for value in self.columns {
            sql.bind(value).push(", ");
        }
        sql.bind(self.body).push(")");
        sql
    }
}

impl Tx {
    pub(crate) fn new(session: Session, clock: Arc<dyn Clock>, changes: Changes) -> Self {
        Self {
            read: ReadTx::new(session, clock),
            touched: BTreeSet::new(),
            changes,
            #[cfg(feature = "testing")]
            faults: None,
        }
    }

    /// With the faults that its commit may have.
    #[cfg(feature = "testing")]
    pub(crate) fn with_faults(mut self, faults: Arc<crate::testing::Faults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Makes the changes last. On an error nothing is changed, except that after
    /// [`Error::Uncertain`] nobody knows.
    pub async fn commit(self) -> Result<()> {
        #[cfg(feature = "testing")]
        let fault = self.faults.as_ref().and_then(|faults| faults.take());
        #[cfg(feature = "testing")]
        if fault == Some(crate::testing::Fault::Refused) {
            return Err(crate::testing::Fault::Refused.error());
        }
        let Self { read: ReadTx { session, clock, began }, touched, changes, .. } = self;
        let done = session.commit().await;
        #[cfg(feature = "testing")]
        let done = fault.map_or(done, |fault| Err(fault.error()));
        // Also if it failed: nobody may know.
        let mut counts = lock(&changes);
        for table in touched {
            let count = counts.entry(table).or_default();
            *count = count.saturating_add(1);
        }
        drop(counts);
        done?;
        let took = clock.monotonic().saturating_sub(began);
        if took > SLOW {
            tracing::warn!(?took, "a change of the catalog kept all others waiting");
        }
        Ok(())
    }

    /// Adds a document, of version 1. [`Error::Exists`] if there is one of its id,
    /// [`Error::Taken`] if another has a value that must be unique.
    pub async fn insert<D: Document>(&mut self, doc: &D) -> Result<u64> {
        let written = Written::new(doc)?;
        self.touched.insert(D::KIND.table);
        let (id, values) = (written.id.clone(), written.values.clone());
        let mut sql = written.insert(D::KIND);
        sql.push(" ON CONFLICT DO NOTHING");
        if self.session.execute(sql).await? == 1 {
            return Ok(1);
        }
        self.check_unique(D::KIND, &id, &values).await?;
        Err(Error::Exists { kind: D::KIND.table, id })
    }

    /// Replaces a document that is still of a version; its new version. [`Error::Changed`] if it
    /// is of another, [`Error::Taken`] if another document has a value that must be unique.
    pub async fn update<D: Document>(&mut self, doc: &D, expected: u64) -> Result<u64> {
        let written = Written::new(doc)?;
        self.touched.insert(D::KIND.table);
        self.check_unique(D::KIND, &written.id, &written.values).await?;
        let mut sql = Statement::new(format!("UPDATE \"{}\" SET ", D::KIND.table));
        for (column, value) in D::KIND.columns.iter().zip(written.columns) {
            sql.push(&quoted(column)).push(" = ").bind(value).push(", ");
        }
        sql.push("\"body\" = ").bind(written.body).push(", \"version\" = \"version\" + 1");
        sql.push(" WHERE \"id\" = ").bind(written.id.as_str());
        sql.push(" AND \"version\" = ").bind(version(expected));
        if self.session.execute(sql).await? == 1 {
            return Ok(expected.saturating_add(1));
        }
        self.changed(D::KIND, written.id, expected).await
    }

    /// Adds or replaces a document, whatever is there; its version. [`Error::Taken`] if another
    /// document has a value that must be unique.
    pub async fn put<D: Document>(&mut self, doc: &D) -> Result<u64> {
        let written = Written::new(doc)?;
        self.touched.insert(D::KIND.table);
        self.check_unique(D::KIND, &written.id, &written.values).await?;
        let mut sql = written.insert(D::KIND);
        sql.push(" ON CONFLICT (\"id\") DO UPDATE SET ");
        for column in D::KIND.columns {
            let name = quoted(column);
            sql.push(&format!("{name} = excluded.{name}, "));
        }
        let table = D::KIND.table;
        sql.push("\"body\" = excluded.\"body\", ");
        sql.push(&format!("\"version\" = \"{table}\".\"version\" + 1 RETURNING \"version\""));
        let row = self.session.first(sql).await?;
        row.map_or_else(|| Err(Error::corrupt("a document vanished", None)), |row| row.count(0))
    }

    /// Deletes a document, which must be of a version if one is given; whether it was there.
    /// [`Error::Changed`] if a version is given and it is of another, or gone.
    pub async fn delete<D: Document>(
        &mut self,
        id: &str,
        expected: impl Into<Option<u64>>,
    ) -> Result<bool> {
        let expected = expected.into();
        self.touched.insert(D::KIND.table);
        let mut sql = Statement::new(format!("DELETE FROM \"{}\" WHERE \"id\" = ", D::KIND.table));
        // An id that cannot be kept is not there; PostgreSQL would fail over a NUL.
        sql.bind(if text_fault(id).is_some() { "" } else { id });
        if let Some(expected) = expected {
            sql.push(" AND \"version\" = ").bind(version(expected));
        }
        match (self.session.execute(sql).await?, expected) {
            (1, _) => Ok(true),
            (_, None) => Ok(false),
            (_, Some(expected)) => {
                self.changed(D::KIND, id.to_owned(), expected).await.map(|_| false)
            }
        }
    }

    /// Deletes all documents that meet a condition; how many they were.
    pub async fn delete_all<D: Document>(&mut self, filter: &Filter) -> Result<u64> {
        self.touched.insert(D::KIND.table);
        let mut sql = Statement::new(format!("DELETE FROM \"{}\"", D::KIND.table));
        filter.write(D::KIND, self.session.dialect(), &mut sql)?;
        self.session.execute(sql).await
    }

    /// Says that a document is not of the version that was expected.
    async fn changed(&mut self, kind: &'static Kind, id: String, expected: u64) -> Result<u64> {
        let mut found = None;
        if text_fault(&id).is_none() {
            let sql = format!("SELECT \"version\" FROM \"{}\" WHERE \"id\" = $1", kind.table);
            let row = self.session.first(Statement::with(sql, vec![id.as_str().into()])).await?;
            found = row.map(|row| row.count(0)).transpose()?;
        }
        Err(Error::Changed { kind: kind.table, id, expected, found })
    }

    /// Refuses values that another document has and that must be unique.
    async fn check_unique(
        &mut self,
        kind: &'static Kind,
        id: &str,
        values: &[Value],
    ) -> Result<()> {
        for key in kind.unique {
            let mut sql =
                Statement::new(format!("SELECT \"id\" FROM \"{}\" WHERE \"id\" <> ", kind.table));
            sql.bind(id);
            let mut null = false;
            for name in *key {
                let column = kind.column(name)?;
                let value = kind.columns.iter().zip(values).find(|(of, _)| of.name == *name);
                let value = value.map_or_else(|| Value::from(id), |(_, value)| value.clone());
                null |= value == Value::Null;
                sql.push(&format!(" AND {} = ", quoted(column)))
                    .bind(Bind::column(value, column.of));
            }
            if null {
                continue;
            }
            if let Some(row) = self.session.first(sql).await? {
                let (key, id) = (key.join(", "), row.text(0)?.to_owned());
                return Err(Error::Taken { kind: kind.table, key, id });
            }
        }
        Ok(())
    }
}

/// A version as it is kept; one that cannot be is none that exists.
fn version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(-1)
}
