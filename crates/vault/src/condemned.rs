//! Condemnations: packs that reclaim is about to remove, which nothing new may rely on.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use strongroom_base::PackId;
use strongroom_format::{FormatError, sealed::SealedKind};
use strongroom_objects::StoreError;
use ulid::Ulid;

use crate::{Vault, VaultError, error::Result, layout};

/// One condemnation. It stays until all its packs are gone; a pack once condemned is never taken
/// back into use, its live content is copied out instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condemnation {
    /// The packs, as hexadecimal names.
    pub(crate) packs: Vec<String>,
}

impl Condemnation {
    pub(crate) fn new(packs: impl Iterator<Item = PackId>) -> Self {
        Self { packs: packs.map(|pack| pack.to_string()).collect() }
    }

    pub(crate) fn packs(&self) -> impl Iterator<Item = PackId> {
        self.packs.iter().filter_map(|pack| pack.parse().ok())
    }
}

impl Vault {
    /// All condemnations in force.
    pub(crate) fn condemnations(&self) -> Result<Vec<(Ulid, Condemnation)>> {
        let mut found = Vec::new();
        for entry in self.list(layout::CONDEMNED)? {
            let Some(id) = layout::parse_ulid(&entry.key) else { continue };
            match self.read_sealed(SealedKind::Condemned, &entry.key) {
                Ok(plain) => {
                    let condemnation = serde_json::from_slice(&plain).map_err(|error| {
                        let reason = error.to_string();
                        let source = FormatError::Text { what: "condemnation", reason };
                        VaultError::Object { object: entry.key.to_string(), source }
                    })?;
                    found.push((id, condemnation));
                }
                // Taken back between the list and the read: its packs are gone.
                Err(VaultError::Store(StoreError::Missing { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// All condemned packs.
    pub(crate) fn condemned_packs(&self) -> Result<HashSet<PackId>> {
        let all = self.condemnations()?;
        Ok(all.iter().flat_map(|(_, condemnation)| condemnation.packs()).collect())
    }
}
