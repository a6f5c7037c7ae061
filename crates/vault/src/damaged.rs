//! Damage notes: packs in which a verify found damage that it could not repair. What they hold is
//! stored again when a backup meets it.
//!
//! A note is advice, and everything is as safe without it: a writer that does not see it relies on
//! what is rotten, as it would have if nobody had looked. So nobody has to wait for anybody, and a
//! note may be put and removed at any time. (A condemnation would have the same effect on writers,
//! but reclaim has to copy what is needed out of condemned packs, which cannot be done with what
//! cannot be read: one lost block would keep space from being freed for ever.)

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use strongroom_base::PackId;
use strongroom_format::{names, sealed::SealedKind};
use strongroom_objects::Put;

use crate::{Vault, VaultError, error::Result, read::is_damage};

/// What a damage note says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DamageNote {
    /// When the damage was found.
    pub(crate) time: jiff::Timestamp,
    /// From which host.
    pub(crate) host: String,
}

impl Vault {
    /// Packs that have a damage note, whatever is in it.
    pub(crate) fn damaged_packs(&self) -> Result<HashSet<PackId>> {
        let notes = self.list(names::DAMAGED)?;
        Ok(notes.iter().filter_map(|entry| names::parse_damaged(&entry.key)).collect())
    }

    /// Puts a damage note, in place of one that cannot be read.
    pub(crate) fn put_damage_note(&self, pack: PackId, host: &str) -> Result<()> {
        let name = names::damaged(&pack);
        let note = DamageNote { time: self.options.clock.now(), host: host.to_owned() };
        let plain =
            serde_json::to_vec(&note).map_err(|_| VaultError::Bug("a note without text"))?;
        if self.put_sealed(SealedKind::Damaged, &name, &plain)? == Put::Created {
            return Ok(());
        }
        match self.read_sealed(SealedKind::Damaged, &name) {
            Err(error) if is_damage(&error) => {
                let sealed = self.seal(SealedKind::Damaged, &name, &plain)?;
                Ok(self.store.replace(&name, &sealed)?)
            }
            read => read.map(drop),
        }
    }

    /// Removes the damage note of a pack that is good again, or gone.
    pub(crate) fn remove_damage_note(&self, pack: &PackId) -> Result<()> {
        Ok(self.store.delete(&names::damaged(pack))?)
    }
}
