//! The plain description of a vault, which is stored twice: as `strongroom.json`, and once more among
//! the keys. A vault of an earlier version gets the second one when it is next written to.

use std::{ops::ControlFlow, sync::atomic::Ordering};

use strongroom_format::{FormatError, VaultConfig, names, pack::Packing};
use strongroom_objects::{Key, ObjectStore, StoreError};

use crate::{Vault, VaultError, error::Result, read::is_damage};

fn read(store: &dyn ObjectStore, key: &Key) -> Result<VaultConfig> {
    let bytes = store.get(key, VaultConfig::MAX_LEN)?;
    VaultConfig::decode(&bytes)
        .map_err(|source| VaultError::Object { object: key.to_string(), source })
}

impl Vault {
    /// Reads the plain description of a vault; needs no key. One that is damaged or lost is read
    /// from its copy.
    pub fn describe(store: &dyn ObjectStore) -> Result<VaultConfig> {
        let first = match read(store, &names::config()) {
            Err(error) if is_damage(&error) => error,
            read => return read,
        };
        for copy in store.copies() {
            if let Ok(config) = read(&*copy, &names::config()) {
                return Ok(config);
            }
        }
        if let Some(config) = read_copy(store)? {
            tracing::warn!(error = %first, "the vault's description was read from its copy");
            return Ok(config);
        }
        Err(match first {
            VaultError::Store(StoreError::Missing { .. }) => {
                VaultError::NotFound { store: store.name() }
            }
            other => other,
        })
    }

    /// Puts the second copy of the description wherever it is not there: of a mirror in all copies. That it
    /// fails is no failure.
    pub(crate) fn describe_twice(&self) {
        // What nobody vouches for is not spread.
        if self.described.swap(true, Ordering::Relaxed) || !self.vouches_for(&self.config) {
            return;
        }
        let copy = names::config_copy(self.config.vault_id);
        // A look costs less than a put that waits for the disk to find it there.
        let is_single = self.store.is_local() && self.store.copies().is_empty();
        if is_single && read(&*self.store, &copy).is_ok_and(|config| config == self.config) {
            return;
        }
        let put = || -> Result<()> {
            self.store.put_new(&copy, &self.encoded_description()?)?;
            Ok(())
        };
        if let Err(error) = put() {
            tracing::warn!(%error, "the vault's description has no copy");
        }
    }

    /// Puts both objects of the description back as they must be.
    pub(crate) fn restore_description(&self, key: &Key) -> Result<()> {
        if !self.vouches_for(&self.config) {
            return Err(VaultError::Bug("a description that nobody vouches for was to be spread"));
        }
        Ok(self.store.replace(key, &self.encoded_description()?)?)
    }

    /// Lets blocks share a record of a pack from now on. Programs that know only the first format
    /// refuse the vault then.
    pub fn upgrade_format(&self) -> Result<()> {
        if self.packing() != Packing::Single {
            return Ok(());
        }
        if !self.vouches_for(&self.config) {
            let source = FormatError::Forged { what: "the vault's description", offset: 0 };
            return Err(VaultError::Object { object: names::config().to_string(), source });
        }
        self.format.store(VaultConfig::FORMAT, Ordering::Release);
        let keys = [names::config(), names::config_copy(self.config.vault_id)];
        let replaced = keys.iter().try_for_each(|key| self.restore_description(key));
        if replaced.is_err() {
            self.format.store(self.config.format, Ordering::Release);
        }
        replaced
    }

    /// Whether another description of the vault says the same, of whatever format it is.
    pub fn describes(&self, found: &VaultConfig) -> bool {
        let mut same = self.config.clone();
        (same.format, same.seal) = (found.format, found.seal.clone());
        same == *found
    }

    fn encoded_description(&self) -> Result<Vec<u8>> {
        let mut config = self.config.clone();
        let format = self.format.load(Ordering::Acquire);
        if config.format != format {
            config.format = format;
            config.seal = Some(self.seal_of(&config));
        }
        config
            .encode()
            .map_err(|source| VaultError::Format { what: "the vault's description", source })
    }
}

/// The description among the keys, if exactly one vault has one there.
fn read_copy(store: &dyn ObjectStore) -> Result<Option<VaultConfig>> {
    let mut names = Vec::new();
    store.list(names::KEYS, &mut |entry| {
        if entry.key.file_name() == VaultConfig::KEY {
            names.push(entry.key);
        }
        ControlFlow::Continue(())
    })?;
    let found = names.iter().filter_map(|name| {
        let config = read(store, name).ok()?;
        (*name == names::config_copy(config.vault_id)).then_some(config)
    });
    let found: Vec<_> = found.collect();
    Ok(if found.len() == 1 { found.into_iter().next() } else { None })
}
