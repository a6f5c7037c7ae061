//! A server whose predecessor is lost: it looks after a vault of which only the place and the key are
//! left.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use strongroom_agent::ThisHost;
use strongroom_api::KeyReference;
use strongroom_base::{SystemClock, SystemEntropy, VaultId};
use strongroom_catalog::Catalog;
use strongroom_control::{Recovered, model::SCHEMA, rights::Caller};

use crate::{
    config::ServerConfig,
    error::ServerError,
    serve::{begin, control, prepare},
    standby,
};

/// A vault to look after.
pub struct Recover {
    /// What the operator has set.
    pub config: ServerConfig,
    /// The machine that the server runs on.
    pub here: ThisHost,
    /// Where the vault is.
    pub url: String,
    /// What opens it. A file is copied to the server's own keys.
    pub key: KeyReference,
    /// Its name from now on; that which it had if not given.
    pub name: Option<String>,
}

/// Makes a vault known to the server of a folder, which must not run, with all that its service has
/// kept there of itself. Again it changes nothing.
pub fn recover(order: &Recover) -> Result<Recovered, ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ServerError::Bug(format!("no threads: {error}")))?;
    runtime.block_on(Box::pin(run(order)))
}

async fn run(order: &Recover) -> Result<Recovered, ServerError> {
    let Recover { config, here, url, key, name } = order;
    let _lock = prepare(&config.data_dir)?;
    let shared = config.catalog_url()?;
    let catalog = Catalog::open(&shared, &SCHEMA, Arc::new(SystemClock)).await?;
    let control = control(config, here.clone(), catalog.clone(), None)?;
    if shared.is_shared() {
        let id = standby::identity(&config.data_dir, &here.name, &SystemEntropy)?;
        let lease =
            standby::try_take(&catalog, &id, &SystemEntropy).await?.map_err(ServerError::Held)?;
        control.fence(lease);
    }
    let vault = control.find_vault_at(url, key).await?;
    let key = own_key(&config.data_dir.join("keys"), vault, key)?;
    begin(&control, here).await?;
    let done = control.recover_vault(&Caller::system(), url, &key, name.as_deref()).await;
    catalog.close().await;
    Ok(done?)
}

/// Copies the file of a key to the server's own: that which was named may be on a stick.
fn own_key(keys: &Path, vault: VaultId, key: &KeyReference) -> Result<KeyReference, ServerError> {
    let (file, kind) = match key {
        KeyReference::File(file) => (file, "key"),
        KeyReference::Passphrase(file) => (file, "passphrase"),
        KeyReference::Pkcs11(_) => return Ok(key.clone()),
    };
    let own = keys.join(format!("recovered-{vault}.{kind}"));
    copy_secret(Path::new(file), &own)?;
    let path = own.to_string_lossy().into_owned();
    Ok(match key {
        KeyReference::Passphrase(_) => KeyReference::Passphrase(path),
        _ => KeyReference::File(path),
    })
}

fn copy_secret(from: &Path, to: &Path) -> Result<(), ServerError> {
    let secret = fs::read(from).map_err(ServerError::local("read", from))?;
    let partial = PathBuf::from(format!("{}.new", to.display()));
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(ServerError::local("remove", &partial)(error));
        }
        _ => {}
    }
    // A new one, so that no link is followed and nobody else has it open.
    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&partial)
        .map_err(ServerError::local("make", &partial))?;
    let written = file.write_all(&secret).and_then(|()| file.sync_all());
    written.map_err(ServerError::local("write", &partial))?;
    fs::rename(&partial, to).map_err(ServerError::local("name", to))?;
    // Before the catalog refers to it.
    let folder = to.parent().unwrap_or(to);
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(ServerError::local("sync", folder))
}
