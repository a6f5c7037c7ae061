//! The test bed: both databases for real, as fresh as a test wants them, and databases as
//! earlier versions left them.
//!
//! Only with the feature `testing`. Nothing here is skipped: without PostgreSQL's programs, what
//! needs them fails and says what to install.

mod faults;
mod postgres;

use std::{io, sync::Arc};

use strongroom_base::SystemClock;

use crate::{
    Catalog, CatalogUrl, Result, Schema,
    sql::{Begin, Pools},
};

pub use faults::{Fault, Faults};
pub use postgres::{Postgres, Settings};

/// A database of a test's own, empty. It goes when this is dropped or the test ends, in whatever
/// way.
#[derive(Debug)]
pub struct Bed {
    /// Where it is.
    pub url: CatalogUrl,
    _folder: Option<tempfile::TempDir>,
}

impl Bed {
    /// A SQLite file that is not there yet.
    pub fn sqlite() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self {
            url: CatalogUrl::sqlite(folder.path().join("catalog.db")),
            _folder: Some(folder),
        })
    }

    /// A database in this process's own PostgreSQL server.
    pub async fn postgres() -> io::Result<Self> {
        let url = Postgres::shared()?.database().await?;
        Ok(Self { url, _folder: None })
    }

    /// Opens the catalog.
    pub async fn open(&self, schema: &'static Schema) -> Result<Catalog> {
        Catalog::open(&self.url, schema, Arc::new(SystemClock)).await
    }

    /// Makes the database as the `version`th migration left it, and runs SQL on it, which fills
    /// it as a program of that version did.
    pub async fn make_older(
        &self,
        schema: &'static Schema,
        version: u32,
        seed: &str,
    ) -> Result<()> {
        let clock = Arc::new(SystemClock);
        let catalog = Catalog::connect(&self.url, schema, clock).await?;
        let mut session = catalog.begin(Begin::Migrate).await?;
        schema.create(&mut session, &SystemClock, version).await?;
        session.run(seed).await?;
        session.commit().await?;
        catalog.close().await;
        Ok(())
    }

    /// Runs SQL on the database behind the catalog's back.
    pub async fn run_sql(&self, sql: &str) -> Result<()> {
        let pools = Pools::open(&self.url).await?;
        // Nothing but a transaction: there may be no catalog.
        let mut session = pools.begin(Begin::Migrate).await?;
        session.run(sql).await?;
        session.commit().await?;
        pools.close().await;
        Ok(())
    }
}

/// Makes tests of functions that take a [`Bed`], one for each database. The crate that uses it
/// needs tokio with its macros.
///
/// ```text
/// on_both_databases! { documents_are_kept, names_are_unique }
/// async fn documents_are_kept(bed: Bed) { … }
/// ```
#[macro_export]
macro_rules! on_both_databases {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::testing::Bed::sqlite().expect("a folder")).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::testing::Bed::postgres().await.expect("PostgreSQL")).await;
            })*
        }
    };
}

pub use crate::on_both_databases;
