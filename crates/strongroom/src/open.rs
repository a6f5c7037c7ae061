//! Opening stores and vaults as the user named them.

use std::{fs, path::Path, sync::Arc};

use strongroom_format::VaultConfig;
use strongroom_objects::{Key, Limited, Mirror, ObjectStore, Options, Rate, StoreError, open};
use strongroom_vault::{
    Vault, VaultError, VaultOptions,
    keys::{KeyError, KeySource},
};

use crate::{
    args::{OpenArgs, VaultArgs},
    context::{Context, KeyChoice},
    error::{FaceError, Failure},
};

/// A vault's store, with its mirrors, and what it says about itself.
pub(crate) struct OpenStore {
    /// The store.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The vault's plain description.
    pub(crate) config: VaultConfig,
}

/// Opens the store of an existing vault, without a key.
pub(crate) fn open_store(context: &Context, args: &VaultArgs) -> Result<OpenStore, Failure> {
    let url = context.vault_url(args)?;
    let path = folder_of(&url);
    if path.is_some_and(|path| !path.exists()) {
        return Err(Failure::from(VaultError::NotFound { store: url }).with_hint(
            "The folder does not exist: check the path, and whether its disk is mounted.",
        ));
    }
    let store = open(&url, &Options::default())?;
    let config = Vault::describe(&*store)?;
    if config.mirrors.is_empty() {
        return Ok(OpenStore { store, config });
    }
    // Whichever copy was named: all of them belong to the vault.
    let (mut copies, mut absent) = (Vec::new(), Vec::new());
    for url in &config.mirrors {
        match open(url, &Options::default()) {
            Ok(copy) => copies.push(copy),
            Err(error) => {
                context.out.say(&format!("Warning: a copy of the vault is away: {error}"));
                absent.push(url.clone());
            }
        }
    }
    let mut mirror = Mirror::new(copies, absent);
    let marker = Key::new(VaultConfig::KEY)
        .map_err(|error| FaceError::Bug(format!("a fixed name: {error}")))?;
    for copy in mirror.set_aside_without(&marker) {
        context.out.say(&format!(
            "Warning: {copy} should hold a copy of the vault and does not; is its disk mounted?"
        ));
    }
    Ok(OpenStore { store: Arc::new(mirror), config })
}

/// Opens a vault with its key. With a rate, its store moves at most so many bytes a second.
pub(crate) fn open_vault(
    context: &Context,
    args: &OpenArgs,
    limit_rate: Option<u64>,
) -> Result<Arc<Vault>, Failure> {
    let key = key_source(context.key(&args.key)?)?;
    let OpenStore { store, .. } = open_store(context, &args.vault)?;
    let store = match limit_rate {
        Some(rate) => {
            let rate = Rate::new(rate, Arc::new(context.clock));
            Arc::new(Limited::new(store, rate))
        }
        None => store,
    };
    let options = vault_options(context, args.cache_dir.as_ref());
    Ok(Arc::new(Vault::open(store, &key, options)?))
}

/// How vaults are opened.
pub(crate) fn vault_options(
    context: &Context,
    cache_dir: Option<&std::path::PathBuf>,
) -> VaultOptions {
    VaultOptions { cache_dir: Some(context.cache_dir(cache_dir)), ..VaultOptions::default() }
}

/// A key as the vault takes it.
pub(crate) fn key_source(key: KeyChoice) -> Result<KeySource, KeyError> {
    Ok(match key {
        KeyChoice::File(file) => KeySource::File(file),
        KeyChoice::Passphrase(file) => KeySource::Passphrase(file),
        KeyChoice::Pkcs11(uri) => KeySource::Pkcs11(Box::new(uri.parse()?)),
    })
}

/// The folder that a vault's name means, if it means one.
fn folder_of(url: &str) -> Option<&Path> {
    match url.split_once("://") {
        None => Some(Path::new(url)),
        Some(("file", path)) => Some(Path::new(path)),
        Some(_) => None,
    }
}

/// The absolute path of a folder that is recorded in the vault as a mirror.
pub(crate) fn folder_url(url: &str) -> Result<String, Failure> {
    let path = folder_of(url).ok_or_else(|| StoreError::Url {
        url: url.to_owned(),
        reason: "mirrors are folders".to_owned(),
    })?;
    let failed = |source| FaceError::Local { path: path.to_owned(), action: "find", source };
    let absolute = fs::canonicalize(path).map_err(failed)?;
    match absolute.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => Err(StoreError::Url {
            url: path.to_string_lossy().into_owned(),
            reason: "it is not UTF-8".to_owned(),
        }
        .into()),
    }
}
