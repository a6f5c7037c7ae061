//! Vaults that are open: opening one costs a slow key and a look at its index, so it stays open.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use strongroom_base::lock;

use strongroom_api::KeyReference;
use strongroom_keys::{KeyError, KeySource, ModuleCommand, Pkcs11Key, Pkcs11Uri};
use strongroom_orders::VaultAccess;
use strongroom_vault::{
    Vault, VaultError, VaultOptions,
    place::{self, Identity, OpenKeys, Warning},
};

/// The vaults that an agent and a keeper use, kept open as long as they are used most.
///
/// A vault that is given out again was looked at before: it is still the same one, its keys and its
/// index are what they are now, and no copy of it is away. Else it is opened again.
#[derive(Debug)]
pub struct Vaults {
    cache_dir: Option<PathBuf>,
    tokens: Tokens,
    most: usize,
    /// The one that was used last comes last.
    places: Mutex<Vec<Place>>,
}

/// How keys in tokens are reached.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Modules by the names that the operator has given them. What else a key names was taken before there
    /// were such names, and is loaded as it says.
    pub modules: BTreeMap<String, PathBuf>,
    /// How the process of a module is started; without it, this process loads modules.
    pub process: Option<ModuleCommand>,
}

#[derive(Clone)]
struct Place {
    access: VaultAccess,
    /// Locked while it is opened, so that others wait for that and not open it as well.
    open: Arc<Mutex<Option<OpenVault>>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("url", &self.access.url).finish_non_exhaustive()
    }
}

/// A vault that is open.
#[derive(Clone)]
pub(crate) struct OpenVault {
    /// The vault.
    pub(crate) vault: Arc<Vault>,
    /// What is not as it should be.
    pub(crate) warnings: Vec<Warning>,
    /// The folder that it was, if it is in one.
    folder: Option<Identity>,
}

impl Vaults {
    /// How many vaults stay open, if nothing else is said.
    pub const MOST: usize = 16;

    /// None is open yet. The index of each is cached in a folder of its own in `cache_dir`; without
    /// one it is read again whenever a vault is opened, and nothing is known of past validations.
    pub fn new(cache_dir: Option<PathBuf>) -> Self {
        let tokens = Tokens::default();
        Self { cache_dir, tokens, most: Self::MOST, places: Mutex::default() }
    }

    /// Reaches keys in tokens so.
    #[must_use]
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { tokens, ..self }
    }

    /// Keeps at most this number open.
    #[must_use]
    pub fn with_most(self, most: usize) -> Self {
        Self { most: most.max(1), ..self }
    }

    /// How vaults are opened.
    pub(crate) fn options(&self) -> VaultOptions {
        VaultOptions { cache_dir: self.cache_dir.clone(), ..VaultOptions::default() }
    }

    /// A key as the vault takes it.
    pub(crate) fn key_source(&self, key: &KeyReference) -> Result<KeySource, KeyError> {
        Ok(match key {
            KeyReference::File(file) => KeySource::File(PathBuf::from(file)),
            KeyReference::Passphrase(file) => KeySource::Passphrase(PathBuf::from(file)),
            KeyReference::Pkcs11(uri) => {
                let uri: Pkcs11Uri = uri.parse()?;
                let named = uri.module_name().filter(|_| uri.module_path().is_none());
                let path = named.and_then(|name| self.tokens.modules.get(name)).cloned();
                let uri = match path {
                    Some(path) => uri.with_module(path),
                    None => uri,
                };
                let module = self.tokens.process.clone();
                KeySource::Pkcs11(Box::new(Pkcs11Key { uri, module }))
            }
        })
    }

    /// A vault, opened if need be.
    pub(crate) fn open(&self, access: &VaultAccess) -> Result<OpenVault, VaultError> {
        let place = self.place(access);
        let mut open = lock(&place);
        let folder = place::folder_of(&access.url).and_then(|folder| place::identity(&folder));
        if let Some(known) = open.take().filter(|open| open.folder == folder && is_good(open)) {
            return Ok(open.insert(known).clone());
        }
        let options = self.options();
        let cache_dir = options.cache_dir.as_deref();
        let OpenKeys { store, config, ring, early, warnings } =
            place::open_keys_early(&access.url, &self.key_source(&access.key)?, cache_dir)?;
        let vault = Arc::new(Vault::open_early(store, config, ring, early, options)?);
        Ok(open.insert(OpenVault { vault, warnings, folder }).clone())
    }

    /// Closes a vault, once nobody uses it.
    pub(crate) fn close(&self, url: &str) {
        let mut places = lock(&self.places);
        places.retain(|place| place.access.url != url);
    }

    fn place(&self, access: &VaultAccess) -> Arc<Mutex<Option<OpenVault>>> {
        let mut places = lock(&self.places);
        let known = places.iter().position(|place| place.access == *access);
        let place = match known {
            Some(at) => places.remove(at),
            None => Place { access: access.clone(), open: Arc::default() },
        };
        let open = Arc::clone(&place.open);
        places.push(place);
        let too_many = places.len().saturating_sub(self.most);
        places.drain(..too_many);
        open
    }
}

/// Whether a vault is still what it was when it was opened; its keys and index are read again.
fn is_good(open: &OpenVault) -> bool {
    let OpenVault { vault, warnings, .. } = open;
    let store = vault.store();
    if !warnings.is_empty() || !store.degraded().is_empty() {
        return false;
    }
    let look = || -> Result<bool, VaultError> {
        if Vault::describe(&**store)? != *vault.config() {
            return Ok(false);
        }
        vault.keys().write().unwrap_or_else(PoisonError::into_inner).refresh(&**store)?;
        vault.sync()?;
        Ok(true)
    };
    // Opening it again reports why it is not good.
    look().unwrap_or(false)
}
