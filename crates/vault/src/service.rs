//! What a service keeps in a vault beside recovery points: a few sealed objects, each under a name.
//!
//! Objects are never changed, so what replaces another is a new generation of it:
//! `service/<name>/<id>`. It is put first, and what it replaces is deleted then; a reader takes
//! the newest generation that opens. A crash between any two steps leaves the old one, or both.
//! `docs/decisions/0013-service-objects.md` has the reasons.

use std::collections::BTreeMap;

use strongroom_format::{FormatError, check_plain_name, names, sealed::SealedKind};
use strongroom_objects::{Put, StoreError};
use ulid::Ulid;

use crate::{Vault, VaultError, error::Result, read::is_damage};

/// Something that a service keeps in a vault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceObject {
    /// Its name.
    pub name: String,
    /// Bytes of its newest generation, sealed.
    pub size: u64,
}

impl Vault {
    /// Most plain bytes of what a service keeps under one name.
    pub const MAX_SERVICE_OBJECT: usize = 64 * 1024 * 1024;

    /// Keeps something under a name, in place of what was there. The name is not hidden from the
    /// store; it is one that an item can have.
    pub fn save_service_object(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if bytes.len() > Self::MAX_SERVICE_OBJECT {
            let what = "an object of the service";
            return Err(VaultError::Format { what, source: FormatError::TooLarge { what } });
        }
        let older = self.generations(name)?;
        let mut id = self.new_ulid();
        // After all that there are, whatever the clocks say.
        if let Some(newest) = older.last().filter(|newest| **newest >= id) {
            id = Ulid::from_parts(newest.timestamp_ms().saturating_add(1), id.random());
        }
        match self.put_sealed(SealedKind::Service, &names::service(name, id), bytes)? {
            Put::Created => {}
            Put::Exists => return Err(VaultError::Bug("an id that was used before")),
        }
        for old in older {
            // What stays is deleted next time, and nobody reads it meanwhile.
            if let Err(error) = self.store.delete(&names::service(name, old)) {
                tracing::warn!(%error, name, "an older generation is left in the vault");
            }
        }
        Ok(())
    }

    /// A name for what is kept of one item, which does not say which item: `<kind>-<item>`, with the item as in the
    /// names of its recovery points.
    pub fn name_for_item(&self, kind: &str, item: &str) -> Result<String> {
        Ok(format!("{kind}-{}", self.item_key(item)?))
    }

    /// What is kept so, by name.
    pub fn service_objects(&self) -> Result<Vec<ServiceObject>> {
        let mut newest = BTreeMap::new();
        for entry in self.list(names::SERVICE)? {
            // Generations come in their order.
            if let Some((name, _)) = names::parse_service(&entry.key) {
                newest.insert(name.to_owned(), entry.size);
            }
        }
        Ok(newest.into_iter().map(|(name, size)| ServiceObject { name, size }).collect())
    }

    /// Reads what is kept under a name: the newest generation that opens.
    pub fn load_service_object(&self, name: &str) -> Result<Vec<u8>> {
        let mut damaged = None;
        // Twice, as all that were listed may have been replaced before they are read.
        for _ in 0..2 {
            for id in self.generations(name)?.into_iter().rev() {
                match self.read_sealed(SealedKind::Service, &names::service(name, id)) {
                    Ok(bytes) => return Ok(bytes),
                    Err(VaultError::Store(StoreError::Missing { .. })) => {}
                    Err(error) if is_damage(&error) => {
                        tracing::warn!(%error, name, "an older generation is looked for");
                        damaged.get_or_insert(error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Err(damaged.unwrap_or_else(|| VaultError::NothingKept { name: name.to_owned() }))
    }

    /// Removes what is kept under a name, if there is something. While a copy of the vault is away
    /// this fails, as it would come back with that.
    pub fn remove_service_object(&self, name: &str) -> Result<()> {
        let generations = self.generations(name)?;
        let copies = self.store.degraded();
        if !generations.is_empty() && !copies.is_empty() {
            return Err(VaultError::Degraded { copies });
        }
        // The oldest first: a reader meanwhile finds the newest or nothing.
        for id in generations {
            self.store.delete(&names::service(name, id))?;
        }
        Ok(())
    }

    /// The generations of a name, oldest first.
    fn generations(&self, name: &str) -> Result<Vec<Ulid>> {
        if !check_plain_name(name) {
            return Err(VaultError::Name { name: name.chars().take(80).collect() });
        }
        let listed = self.list(&format!("{}{name}/", names::SERVICE))?;
        let ids = listed.iter().filter_map(|entry| Some(names::parse_service(&entry.key)?.1));
        Ok(ids.collect())
    }
}
