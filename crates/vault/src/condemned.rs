//! Condemnations: packs that reclaim is about to remove, which nothing new may rely on.
//!
//! This module owns the notes and how they are read and written. When a pack may be condemned, and when a
//! condemnation is taken back, is the matter of `reclaim`; that nothing new relies on a condemned pack is the matter
//! of writers.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use strongroom_base::PackId;
use strongroom_format::{
    FormatError, names,
    sealed::{self, SealedKind},
};
use strongroom_objects::{Key, StoreError};
use ulid::Ulid;

use crate::{Vault, VaultError, error::Result, read::is_damage};

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

/// What may not be relied upon.
#[derive(Debug, Default)]
pub struct Condemned {
    /// Packs that are condemned.
    pub packs: HashSet<PackId>,
    /// Condemnations that cannot be read: they may have named any pack.
    pub unreadable: Vec<VaultError>,
}

impl Vault {
    /// All condemnations in force. Fails if one cannot be read: who removes packs must know all.
    pub(crate) fn condemnations(&self) -> Result<Vec<(Ulid, Condemnation)>> {
        let mut found = Vec::new();
        for id in self.condemnation_ids()? {
            match self.condemnation(id) {
                Ok(condemnation) => found.extend(condemnation.map(|read| (id, read))),
                // Its copy, which was put second, is all there is: it was taken back before, when
                // its packs were gone. It is adopted only to be removed.
                Err(error) if is_damage(&error) && self.is_first_gone(id)? => {
                    tracing::warn!(%error, "what is left of a condemnation cannot be read");
                    found.push((id, Condemnation { packs: Vec::new() }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn is_first_gone(&self, id: Ulid) -> Result<bool> {
        match self.store.get(&names::condemned(id), sealed::MAX_SEALED) {
            Ok(_) => Ok(false),
            Err(StoreError::Missing { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The condemnations of which the object or its copy is there.
    pub(crate) fn condemnation_ids(&self) -> Result<BTreeSet<Ulid>> {
        let listed = self.list(names::CONDEMNED)?;
        Ok(listed.iter().filter_map(|entry| names::parse_ulid(&entry.key)).collect())
    }

    /// Puts a condemnation. It is in force with the first object.
    pub(crate) fn put_condemnation(&self, id: Ulid, condemnation: &Condemnation) -> Result<()> {
        let plain = serde_json::to_vec(condemnation)
            .map_err(|_| VaultError::Bug("a condemnation without text"))?;
        for name in [names::condemned(id), names::condemned_copy(id)] {
            self.put_sealed(SealedKind::Condemned, &name, &plain)?;
        }
        Ok(())
    }

    /// Takes a condemnation back: of its two objects the one that can be read goes last, so that
    /// what a crash leaves behind is no riddle.
    pub(crate) fn remove_condemnation(&self, id: Ulid) -> Result<()> {
        let mut names = [names::condemned_copy(id), names::condemned(id)];
        match self.read_condemnation(&names[1]) {
            Err(error) if is_damage(&error) => names.reverse(),
            read => drop(read?),
        }
        names.iter().try_for_each(|name| Ok(self.store.delete(name)?))
    }

    /// One condemnation, from its object or the copy. None if it was taken back: its packs are gone.
    fn condemnation(&self, id: Ulid) -> Result<Option<Condemnation>> {
        let (name, copy) = (names::condemned(id), names::condemned_copy(id));
        let first = match self.read_condemnation(&name) {
            Err(error) if is_damage(&error) => error,
            Ok(None) => return self.read_condemnation(&copy),
            read => return read,
        };
        match self.read_condemnation(&copy) {
            Ok(condemnation @ Some(_)) => {
                tracing::warn!(error = %first, "a condemnation was read from its copy");
                Ok(condemnation)
            }
            // Taken back while it was read?
            Ok(None) if self.is_first_gone(id)? => Ok(None),
            Ok(None) => Err(first),
            Err(error) if is_damage(&error) => Err(first),
            Err(error) => Err(error),
        }
    }

    fn read_condemnation(&self, name: &Key) -> Result<Option<Condemnation>> {
        match self.read_sealed(SealedKind::Condemned, name) {
            Ok(plain) => serde_json::from_slice(&plain).map(Some).map_err(|error| {
                let reason = error.to_string();
                let source = FormatError::Text { what: "condemnation", reason };
                VaultError::Object { object: name.to_string(), source }
            }),
            Err(VaultError::Store(StoreError::Missing { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All condemned packs, and the condemnations of which that is not known.
    pub(crate) fn condemned_packs(&self) -> Result<Condemned> {
        let mut condemned = Condemned::default();
        for id in self.condemnation_ids()? {
            match self.condemnation(id) {
                Ok(found) => condemned.packs.extend(found.iter().flat_map(Condemnation::packs)),
                Err(error) if is_damage(&error) => condemned.unreadable.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(condemned)
    }
}
