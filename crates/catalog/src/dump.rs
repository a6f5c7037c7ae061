//! The whole catalog as lines of JSON: to keep a copy elsewhere, to rebuild it, or to move it
//! from one database to the other.
//!
//! The first line is a header with the version of the documents' schema; then come documents
//! with their columns, leases with their epochs, the audit chain; the last line has the number
//! of lines before it and a hash of them, so that a copy that was cut off is not taken for
//! whole. A copy is loaded at the version of the schema it was made at and then upgraded, so a
//! copy of any earlier version can be loaded.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strongroom_base::{Clock, Digest, Entropy, EntropyExt as _};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter,
};

use crate::{
    AuditEntry, Catalog, CatalogUrl, ChainBreak, ChainReport, Error, Kind, ReadTx, Result, Schema,
    Tx, Value,
    audit::Checker,
    error::Cause,
    kind::is_word,
    migrate::{FoundColumn, columns},
    query::quoted,
    sql::{Begin, Bind, Row, Statement},
    value::text_fault,
};

/// The form of the lines.
const FORMAT: u32 = 1;

/// Documents that are read at once.
const BATCH: usize = 200;

/// The longest line that is read from a file.
const MAX_LINE: u64 = 64 << 20;

/// A line of a copy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first one.
    Header { format: u32, schema: u32, time: i64 },
    /// A document, as its row is.
    Document {
        table: String,
        id: String,
        version: u64,
        columns: BTreeMap<String, Value>,
        body: Box<RawValue>,
    },
    /// The latest epoch of a lease.
    Lease { name: String, owner: String, epoch: u64 },
    /// A record of the audit chain.
    Audit(AuditEntry),
    /// The last one: how many lines there are before, and their hash.
    End { lines: u64, hash: Digest },
}

/// What a copy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// Documents, by table.
    pub documents: BTreeMap<String, u64>,
    /// The audit chain.
    pub chain: ChainReport,
}

/// Makes the lines of a copy, some at a time. All of it is of one moment.
pub struct Dump {
    tx: ReadTx,
    schema: &'static Schema,
    at: At,
    lines: u64,
    hasher: blake3::Hasher,
}

/// What comes next.
enum At {
    Header,
    /// Documents of the kind of this number, after this id.
    Documents(usize, String),
    Leases,
    /// Records from this number on.
    Audit(i64),
    End,
    Done,
}

impl Dump {
    /// More lines, each with its end, or nothing after the last.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            let mut lines = Vec::new();
            match std::mem::replace(&mut self.at, At::Done) {
                At::Done => return Ok(None),
                At::Header => {
                    let schema = Schema::version_of(&mut self.tx.session).await?;
                    let time = self.tx.clock.now().as_microsecond();
                    lines.push(Line::Header { format: FORMAT, schema, time });
                    self.at = At::Documents(0, String::new());
                }
                At::Documents(number, after) => match self.schema.kinds.get(number) {
                    None => self.at = At::Leases,
                    Some(kind) => {
                        lines = self.documents(kind, &after).await?;
                        self.at = match lines.last() {
                            Some(Line::Document { id, .. }) => At::Documents(number, id.clone()),
                            _ => At::Documents(number.saturating_add(1), String::new()),
                        };
                    }
                },
                At::Leases => {
                    let sql = "SELECT name, owner, epoch FROM catalog_leases ORDER BY name";
                    for row in self.tx.session.fetch(Statement::new(sql)).await? {
                        let (name, owner) = (row.text(0)?.to_owned(), row.text(1)?.to_owned());
                        lines.push(Line::Lease { name, owner, epoch: row.count(2)? });
                    }
                    self.at = At::Audit(i64::MIN);
                }
                At::Audit(from) => {
                    for row in self.tx.audit_from(from).await? {
                        lines.push(Line::Audit(crate::audit::entry(&row)?));
                    }
                    self.at = match lines.last() {
                        Some(Line::Audit(entry)) => {
                            At::Audit(crate::audit::signed(entry.seq.saturating_add(1)))
                        }
                        _ => At::End,
                    };
                }
                At::End => {
                    let hash = Digest::new(*self.hasher.finalize().as_bytes());
                    lines.push(Line::End { lines: self.lines, hash });
                }
            }
            if !lines.is_empty() {
                return self.write(&lines).map(Some);
            }
        }
    }

    fn write(&mut self, lines: &[Line]) -> Result<String> {
        let mut text = String::new();
        for line in lines {
            let line = serde_json::to_string(line)
                .map_err(|source| Error::corrupt("a line of a copy", Some(source.into())))?;
            text.push_str(&line);
            text.push('\n');
            self.lines = self.lines.saturating_add(1);
        }
        self.hasher.update(text.as_bytes());
        Ok(text)
    }

    async fn documents(&mut self, kind: &'static Kind, after: &str) -> Result<Vec<Line>> {
        let mut sql = Statement::new("SELECT \"id\", \"version\", \"body\"");
        for column in kind.columns {
            sql.push(", ").push(&quoted(column));
        }
        sql.push(&format!(" FROM \"{}\" WHERE \"id\" > ", kind.table)).bind(after);
        sql.push(&format!(" ORDER BY \"id\" LIMIT {BATCH}"));
        let rows = self.tx.session.fetch(sql).await?;
        rows.iter().map(|row| document(kind, row)).collect()
    }
}

/// The line of a document.
fn document(kind: &'static Kind, row: &Row) -> Result<Line> {
    let id = row.text(0)?.to_owned();
    let body = RawValue::from_string(row.text(2)?.to_owned())
        .map_err(|source| Error::corrupt(format!("{} {id:?}", kind.table), Some(source.into())))?;
    let columns = kind.columns.iter().zip(3..);
    let columns =
        columns.map(|(column, at)| Ok((column.name.to_owned(), row.value(at, column.of)?)));
    let columns = columns.collect::<Result<_>>()?;
    Ok(Line::Document { table: kind.table.to_owned(), id, version: row.count(1)?, columns, body })
}

impl Catalog {
    /// Begins a copy of the whole catalog, of one moment.
    pub async fn dump(&self) -> Result<Dump> {
        Ok(Dump {
            tx: self.read().await?,
            schema: self.schema(),
            at: At::Header,
            lines: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Writes a copy of the whole catalog into a new file, which only its owner can read. The file gets its
    /// name when it is whole and on the disk: if its process is killed, the bytes are under a name that
    /// ends in `.new-` and 16 digits, and a next copy can be made.
    pub async fn backup_to(&self, path: &Path, entropy: &dyn Entropy) -> Result<()> {
        if tokio::fs::symlink_metadata(path).await.is_ok() {
            return Err(failed("create", path)(io::ErrorKind::AlreadyExists.into()));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{:016x}", u64::from_le_bytes(entropy.array())));
        let unfinished = path.with_file_name(name);
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&unfinished).await;
        let file = file.map_err(failed("create", path))?;
        let mut written = self.write_to(file, path).await;
        if written.is_ok() {
            // Unlike a rename, a link does not replace what has the name meanwhile.
            let linked = tokio::fs::hard_link(&unfinished, path).await;
            written = linked.map_err(failed("create", path));
        }
        // Why there is no copy is said already; beside a copy, a second name of it does no harm.
        tokio::fs::remove_file(&unfinished).await.ok();
        written?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = tokio::fs::File::open(folder.unwrap_or(Path::new("."))).await;
        let folder = folder.map_err(failed("store", path))?;
        folder.sync_all().await.map_err(failed("store", path))
    }

    async fn write_to(&self, file: tokio::fs::File, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(file);
        let mut dump = self.dump().await?;
        while let Some(lines) = dump.next().await? {
            file.write_all(lines.as_bytes()).await.map_err(failed("write", path))?;
        }
        file.flush().await.map_err(failed("write", path))?;
        file.into_inner().sync_all().await.map_err(failed("write", path))
    }

    /// Rebuilds a catalog from a copy in a file; see [`Load`].
    pub async fn restore_from(
        url: &CatalogUrl,
        schema: &'static Schema,
        clock: Arc<dyn Clock>,
        path: &Path,
    ) -> Result<(Self, Dumped)> {
        let file = tokio::fs::File::open(path).await.map_err(failed("open", path))?;
        let mut file = BufReader::new(file);
        let mut load = Load::begin(url, schema, clock).await?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut some = (&mut file).take(MAX_LINE);
            some.read_until(b'\n', &mut line).await.map_err(failed("read", path))?;
            if line.is_empty() {
                return load.finish().await;
            }
            load.line(&line).await?;
        }
    }
}

/// The error for the file of a copy.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Copy { action, path, source }
}

/// Fills an empty catalog with the lines of a copy. Nothing is there before
/// [`finish`](Load::finish) has found it whole and right.
pub struct Load {
    catalog: Catalog,
    tx: Tx,
    tables: BTreeMap<String, Vec<FoundColumn>>,
    checker: Checker,
    /// The first thing that is wrong with the chain.
    broken: Option<ChainBreak>,
    documents: BTreeMap<String, u64>,
    stage: Stage,
    lines: u64,
    hasher: blake3::Hasher,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Header,
    Lines,
    Ended,
}

impl Load {
    /// Begins; [`Error::NotEmpty`] if there is a catalog already.
    pub async fn begin(
        url: &CatalogUrl,
        schema: &'static Schema,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let catalog = Catalog::connect(url, schema, clock.clone()).await?;
        let session = catalog.begin(Begin::Migrate).await?;
        Ok(Self {
            tx: Tx::new(session, clock, Arc::clone(&catalog.inner.changes)),
            catalog,
            tables: BTreeMap::new(),
            checker: Checker::new(&[]),
            broken: None,
            documents: BTreeMap::new(),
            stage: Stage::Header,
            lines: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Takes the next line, with its end.
    pub async fn line(&mut self, text: &[u8]) -> Result<()> {
        let number = self.lines.saturating_add(1);
        let damaged = |source: Option<Cause>| {
            Error::corrupt(format!("line {number} of the copy is not what was written"), source)
        };
        if text.last() != Some(&b'\n') {
            return Err(damaged(None));
        }
        let line = serde_json::from_slice(text).map_err(|source| damaged(Some(source.into())))?;
        match (&self.stage, line) {
            (Stage::Header, Line::Header { format: FORMAT, schema, .. }) => {
                let known = self.catalog.schema();
                known.create(&mut self.tx.session, &*self.catalog.inner.clock, schema).await?;
                self.stage = Stage::Lines;
            }
            (Stage::Header, Line::Header { format, .. }) if format > FORMAT => {
                return Err(Error::Newer { found: format, known: FORMAT });
            }
            (Stage::Lines, Line::Document { table, id, version, columns, body }) => {
                if text_fault(&id).is_some() {
                    return Err(damaged(None));
                }
                self.document(table, id, version, columns, &body).await?;
            }
            (Stage::Lines, Line::Lease { name, owner, epoch }) => {
                let mut sql = Statement::new(
                    "INSERT INTO catalog_leases (name, owner, epoch, expires) VALUES (",
                );
                sql.bind(name).push(", ").bind(owner).push(", ").bind(signed(epoch)?).push(", 0)");
                self.tx.session.execute(sql).await?;
            }
            (Stage::Lines, Line::Audit(entry)) => {
                // A chain that is broken is kept as it is: its records are still worth having.
                let broken = self.checker.check(&entry);
                self.broken = self.broken.take().or(broken);
                self.tx.audit_insert(&entry).await?;
            }
            (Stage::Lines, Line::End { lines, hash }) => {
                let found = Digest::new(*self.hasher.finalize().as_bytes());
                if lines != self.lines || hash != found {
                    return Err(damaged(None));
                }
                self.stage = Stage::Ended;
            }
            _ => return Err(damaged(None)),
        }
        self.hasher.update(text);
        self.lines = number;
        Ok(())
    }

    async fn document(
        &mut self,
        table: String,
        id: String,
        version: u64,
        values: BTreeMap<String, Value>,
        body: &RawValue,
    ) -> Result<()> {
        let damaged = || Error::corrupt(format!("the copy's document {id:?} of {table:?}"), None);
        // The name is written into SQL.
        if !is_word(&table) || table.starts_with("catalog_") {
            return Err(damaged());
        }
        if !self.tables.contains_key(&table) {
            let found = columns(&mut self.tx.session, &table).await?;
            self.tables.insert(table.clone(), found);
        }
        let columns = self.tables.get(&table).filter(|columns| !columns.is_empty());
        let columns = columns.ok_or_else(damaged)?;
        let mut sql =
            Statement::new(format!("INSERT INTO \"{table}\" (\"id\", \"version\", \"body\""));
        let mut found = Vec::new();
        for (name, value) in values {
            let column = columns.iter().find(|column| column.name == name).ok_or_else(damaged)?;
            let fits = value.type_of().map_or(column.nullable, |of| of == column.of);
            if !fits || value.fault().is_some() {
                return Err(damaged());
            }
            sql.push(", \"").push(&column.name).push("\"");
            found.push(Bind::column(value, column.of));
        }
        sql.push(") VALUES (").bind(id).push(", ").bind(signed(version)?);
        sql.push(", ").bind(body.get());
        for value in found {
            sql.push(", ").bind(value);
        }
        sql.push(")");
        self.tx.session.execute(sql).await?;
        let count = self.documents.entry(table).or_default();
        *count = count.saturating_add(1);
        Ok(())
    }

    /// Makes the catalog of the lines, if they are all there, and brings it to the schema's
    /// version.
    pub async fn finish(self) -> Result<(Catalog, Dumped)> {
        if self.stage != Stage::Ended {
            return Err(Error::corrupt("the copy ends too early", None));
        }
        self.tx.commit().await?;
        let catalog = self.catalog;
        catalog.schema().upgrade(&catalog.inner.pools, &*catalog.inner.clock).await?;
        let mut chain = self.checker.end();
        chain.broken = self.broken.or(chain.broken);
        Ok((catalog, Dumped { documents: self.documents, chain }))
    }
}

/// A number as it is kept.
fn signed(number: u64) -> Result<i64> {
    i64::try_from(number)
        .map_err(|source| Error::corrupt("a number in the copy is too large", Some(source.into())))
}
