//! The service's small state: documents, leases and the audit chain, in SQLite or PostgreSQL.
//!
//! This crate is the mechanism. It stores JSON documents of declared [`Kind`]s, a table for each
//! kind, with columns for filters and order; changes them in transactions that run strictly one
//! after the other ([`Catalog::write`]); lists them in pages; and upgrades a database of any
//! earlier version ([`Schema`]). It must not know what the documents mean. The same code, SQL and
//! tests serve both databases.
//!
//! ```text
//!  open(url, schema) ─▶ Catalog ─▶ read(): ReadTx   get, list, count, sum
//!                         │  └───▶ write(): Tx      insert, update, put, delete, leases, audit
//!                         └──────▶ check, verify the chain, dump and load
//! ```

mod audit;
mod catalog;
mod dump;
mod error;
mod kind;
mod lease;
mod migrate;
mod query;
mod sql;
#[cfg(feature = "testing")]
pub mod testing;
mod tx;
mod url;
mod value;

pub use audit::{
    AuditEntry, AuditHead, AuditQuery, AuditRecord, ChainBreak, ChainFault, ChainReport,
};
pub use catalog::{Catalog, Health};
pub use dump::{Dump, Dumped, Load};
pub use error::{Cause, Error, Result};
pub use kind::{Column, Dialect, Document, Kind};
pub use lease::Lease;
pub use migrate::{Migration, Rewrite, Rewritten, Schema};
pub use query::{Filter, MAX_PAGE, Page, PageToken, Query};
pub use tx::{MAX_BODY, RawDocument, ReadTx, Stored, Tx};
pub use url::CatalogUrl;
pub use value::{MAX_TEXT, Type, Value};
