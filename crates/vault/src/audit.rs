//! What an auditor needs of a vault beyond what its users do: objects opened one copy at a time, notes
//! judged, and the few writes that put things right.
//!
//! The auditor itself is the crate `verify`. Nothing here decides what is damaged, and nothing here is
//! for backups, restores or the service: they use [`Vault`] itself.

use std::{collections::HashSet, sync::Arc};

use serde::de::DeserializeOwned;
use strongroom_base::{Key, PackId, PointId};
use strongroom_format::{SealKey, names::ItemKey, pack::Header, sealed::SealedKind};
use ulid::Ulid;

use crate::{
    Vault, Writer, condemned::Condemnation, damaged::DamageNote, error::Result, locks::LockNote,
    points::DeletionNote, writers::WriterNote,
};

pub use crate::{
    condemned::Condemned,
    files::make_anew,
    images::{CONFIGURATION, images},
    locks::Locks,
    points::PointNames,
    voids::Named,
    write::ListedPack,
};

/// An open vault as its auditor sees it.
#[derive(Clone, Copy)]
pub struct Audit<'a> {
    vault: &'a Vault,
}

impl Vault {
    /// The vault as its auditor sees it.
    pub fn audit(&self) -> Audit<'_> {
        Audit { vault: self }
    }
}

/// Whether the text of a note can be read; else what is wrong with it.
pub fn check_note(kind: SealedKind, plain: &[u8]) -> Result<(), String> {
    fn is<T: DeserializeOwned>(plain: &[u8]) -> Result<(), String> {
        serde_json::from_slice::<T>(plain).map(drop).map_err(|error| error.to_string())
    }
    match kind {
        SealedKind::Condemned => is::<Condemnation>(plain),
        SealedKind::Damaged => is::<DamageNote>(plain),
        SealedKind::Deleted => is::<DeletionNote>(plain),
        SealedKind::Lock => is::<LockNote>(plain),
        SealedKind::Writer => is::<WriterNote>(plain),
        _ => Ok(()),
    }
}

impl Audit<'_> {
    /// Opens the bytes of one copy of a sealed object. Nothing is repaired on the way.
    pub fn unseal(&self, kind: SealedKind, name: &Key, object: Vec<u8>) -> Result<Vec<u8>> {
        self.vault.unseal(kind, name, object)
    }

    /// Opens the bytes of one copy of what stands under a point's name.
    pub fn open_named(&self, item: ItemKey, point: PointId, object: Vec<u8>) -> Result<Named> {
        self.vault.open_named(item, point, object)
    }

    /// The key of a pack; `object` is named in errors.
    pub fn pack_key(&self, header: &Header, object: &Key) -> Result<Arc<SealKey>> {
        self.vault.pack_key(header, object)
    }

    /// The packs as the store lists them.
    pub fn list_packs(&self) -> Result<Vec<ListedPack>> {
        self.vault.list_packs()
    }

    /// The names of all points, and of their deletion notes.
    pub fn point_names(&self) -> Result<PointNames> {
        self.vault.point_names(None)
    }

    /// The locks of all points that are objects of their own.
    pub fn locks(&self) -> Result<Locks> {
        self.vault.locks(None)
    }

    /// All condemned packs.
    pub fn condemned_packs(&self) -> Result<Condemned> {
        self.vault.condemned_packs()
    }

    /// Packs that have a damage note.
    pub fn damaged_packs(&self) -> Result<HashSet<PackId>> {
        self.vault.damaged_packs()
    }

    /// Notes that a pack cannot be relied upon; `host` found it.
    pub fn put_damage_note(&self, pack: PackId, host: &str) -> Result<()> {
        self.vault.put_damage_note(pack, host)
    }

    /// Withdraws the damage note of a pack.
    pub fn remove_damage_note(&self, pack: &PackId) -> Result<()> {
        self.vault.remove_damage_note(pack)
    }

    /// Writes an object of the description as it must be. Fails if the vault's key does not vouch for
    /// the description that the vault was opened with.
    pub fn restore_description(&self, name: &Key) -> Result<()> {
        self.vault.restore_description(name)
    }

    /// Writes the content of a damaged index object again from the packs, under another name, and removes it.
    pub fn replace_damaged_index(&self, index: Ulid) -> Result<()> {
        self.vault.replace_damaged_index(index)
    }

    /// Writes index objects for packs that none lists. Returns how many packs.
    pub fn adopt_unlisted(&self) -> Result<usize> {
        self.vault.adopt_leftovers()
    }
}

/// Announces a writer that repairs and publishes nothing: others wait for it, and it sees what they
/// delete.
pub fn announce_repair(vault: &Arc<Vault>, host: &str) -> Result<Writer> {
    Writer::begin_without_point(vault, host, "repair")
}
