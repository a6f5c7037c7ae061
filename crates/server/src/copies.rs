//! Copies of the catalog in files: made beside a server that runs, loaded into a place where there is no
//! catalog yet.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use strongroom_base::{SystemClock, SystemEntropy};
use strongroom_catalog::Catalog;
use strongroom_control::model::SCHEMA;

use crate::{config::ServerConfig, error::ServerError, serve::prepare};

/// What a copy of the catalog has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogCopy {
    /// Vaults, items, jobs, users and whatever else the service stores.
    pub documents: u64,
    /// Records of the audit log, up to the first that does not follow the one before it.
    pub audit_records: u64,
    /// Whether every record of the audit log follows the one before it.
    pub audit_intact: bool,
}

/// Copies the catalog into a new file, whether the server runs or not.
pub fn dump_catalog(config: &ServerConfig, file: &Path) -> Result<(), ServerError> {
    wait(async {
        check_owner(&config.data_dir)?;
        let url = config.catalog_url()?;
        let catalog = Catalog::beside(&url, &SCHEMA, Arc::new(SystemClock)).await?;
        let copied = catalog.backup_to(file, &SystemEntropy).await;
        catalog.close().await;
        Ok(copied?)
    })
}

/// Fills the server's catalog from a copy. The server must not run, and there must be no catalog yet.
pub fn load_catalog(config: &ServerConfig, file: &Path) -> Result<CatalogCopy, ServerError> {
    wait(async {
        let _lock = prepare(&config.data_dir)?;
        let url = config.catalog_url()?;
        let clock = Arc::new(SystemClock);
        let (catalog, found) = Catalog::restore_from(&url, &SCHEMA, clock, file).await?;
        catalog.close().await;
        Ok(CatalogCopy {
            documents: found.documents.values().sum(),
            audit_records: found.chain.head.seq,
            audit_intact: found.chain.broken.is_none(),
        })
    })
}

/// Refuses a folder that is another user's.
pub(crate) fn check_owner(folder: &Path) -> Result<(), ServerError> {
    let found = fs::metadata(folder).map_err(ServerError::local("find", folder))?;
    let own = rustix::process::geteuid();
    if !own.is_root() && found.uid() != own.as_raw() {
        let denied = io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's");
        return Err(ServerError::local("use", folder)(denied));
    }
    Ok(())
}

fn wait<T>(work: impl Future<Output = Result<T, ServerError>>) -> Result<T, ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ServerError::Bug(format!("no threads: {error}")))?;
    runtime.block_on(Box::pin(work))
}
