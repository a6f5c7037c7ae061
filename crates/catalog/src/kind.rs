//! Kinds of documents, and the tables they are kept in.
//!
//! A document's body is JSON that only its type understands. The fields for filters and order are
//! also stored in columns. Names of tables and columns are written into SQL, so they are checked to
//! be plain words; values never are.

use std::fmt::Write as _;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, Type, Value};

/// A type of which documents are kept.
pub trait Document: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Where and how.
    const KIND: &'static Kind;

    /// What names this one among its kind: an id or a name, 1 to 512 bytes.
    fn id(&self) -> String;

    /// The values of the kind's columns, in their order.
    fn columns(&self) -> Vec<Value>;
}

/// How documents of one type are kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The table.
    pub table: &'static str,
    /// What is filtered and sorted by.
    pub columns: &'static [Column],
    /// Columns of which no two documents have the same values; documents with a null among them
    /// are exempt.
    pub unique: &'static [&'static [&'static str]],
    /// Columns by which documents are found: those compared for equality first, then the one
    /// that is sorted by. The id follows by itself.
    pub indexes: &'static [&'static [&'static str]],
}

/// A column beside the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub of: Type,
    /// Whether it may hold nothing.
    pub nullable: bool,
}

impl Column {
    /// A text.
    pub const fn text(name: &'static str) -> Self {
        Self { name, of: Type::Text, nullable: false }
    }

    /// A number.
    pub const fn integer(name: &'static str) -> Self {
        Self { name, of: Type::Integer, nullable: false }
    }

    /// The same, but it may hold nothing.
    #[must_use]
    pub const fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }
}

/// The id, as a column that can be filtered and sorted by.
const ID: Column = Column::text("id");

/// Columns that every table has.
static OWN: [Column; 3] = [ID, Column::integer("version"), Column::text("body")];

/// PostgreSQL cuts names after 63 bytes, and the names of indexes are made of these.
const MAX_NAME: usize = 40;

/// What speaks SQL, each a little differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Kind {
    /// The column of a name; also `id`.
    pub(crate) fn column(&self, name: &str) -> Result<&Column> {
        let column = self.columns.iter().find(|column| column.name == name);
        column.or(OWN.first().filter(|id| id.name == name)).ok_or_else(|| Error::Query {
            kind: self.table,
            reason: format!("there is no column {name:?}"),
        })
    }

    /// The columns, and those that every table has.
    pub(crate) fn all_columns(&self) -> impl Iterator<Item = &Column> {
        OWN.iter().chain(self.columns)
    }

    /// Checks that names are plain words and that keys and indexes name columns.
    pub(crate) fn check(&self) -> Result<()> {
        let fault = |reason: String| Err(Error::Document { kind: self.table, reason });
        if !is_word(self.table) || self.table.starts_with("catalog_") {
            return fault("its table's name is not a plain word, or reserved".to_owned());
        }
        for (at, column) in self.columns.iter().enumerate() {
            let again = self.columns.iter().skip(at + 1).any(|other| other.name == column.name);
            if !is_word(column.name) || OWN.iter().any(|own| own.name == column.name) || again {
                return fault(format!("the column's name {:?} cannot be used", column.name));
            }
        }
        for columns in self.unique.iter().chain(self.indexes) {
            let mut texts = 0;
            for name in *columns {
                texts += usize::from(self.column(name)?.of == Type::Text);
            }
            if columns.is_empty() || texts > 4 {
                return fault("an index has no column or more than four texts".to_owned());
            }
        }
        Ok(())
    }

    /// The name of the index over these columns.
    fn index_name(&self, columns: &[&str], unique: bool) -> String {
        let mut name = self.table.to_owned();
        for column in columns {
            name.push_str("__");
            name.push_str(column);
        }
        if unique {
            name.push_str("__unique");
        }
        if name.len() <= 60 {
            return name;
        }
        // PostgreSQL would cut it.
        let digest = blake3::hash(name.as_bytes()).to_hex();
        let start: String = name.chars().take(43).collect();
        format!("{start}_{}", digest.get(..16).unwrap_or_default())
    }

    /// The names of all indexes.
    pub(crate) fn index_names(&self) -> Vec<String> {
        let unique = self.unique.iter().map(|columns| self.index_name(columns, true));
        unique.chain(self.indexes.iter().map(|columns| self.index_name(columns, false))).collect()
    }

    /// The SQL that makes the table and its indexes.
    ///
    /// It is for writing a [`Migration`](crate::Migration), whose text is then frozen: a
    /// migration must not call this, or it would change whenever the kind does.
    pub fn ddl(&self, dialect: Dialect) -> String {
        let mut sql = format!("CREATE TABLE \"{}\" (\n", self.table);
        let text = match dialect {
            Dialect::Sqlite => "TEXT",
            // As SQLite compares: by bytes, whatever the database's language.
            Dialect::Postgres => "TEXT COLLATE \"C\"",
        };
        let _ = write!(sql, "  \"id\" {text} NOT NULL PRIMARY KEY");
        sql.push_str(",\n  \"version\" BIGINT NOT NULL");
        for Column { name, of, nullable } in self.columns {
            let of = if *of == Type::Text { text } else { "BIGINT" };
            let null = if *nullable { "" } else { " NOT NULL" };
            let _ = write!(sql, ",\n  \"{name}\" {of}{null}");
        }
        // Last, so that columns are found without reading over it.
        sql.push_str(",\n  \"body\" TEXT NOT NULL\n);\n");
        for (columns, unique) in self
            .unique
            .iter()
            .map(|columns| (columns, true))
            .chain(self.indexes.iter().map(|columns| (columns, false)))
        {
            let name = self.index_name(columns, unique);
            let word = if unique { "UNIQUE INDEX" } else { "INDEX" };
            let mut over: Vec<_> = columns.iter().map(|column| format!("\"{column}\"")).collect();
            if !unique && columns.last() != Some(&"id") {
                over.push("\"id\"".to_owned());
            }
            let over = over.join(", ");
            let _ = writeln!(sql, "CREATE {word} \"{name}\" ON \"{}\" ({over});", self.table);
        }
        sql
    }
}

/// Whether this can stand between quotes in SQL without a second thought.
pub(crate) fn is_word(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
