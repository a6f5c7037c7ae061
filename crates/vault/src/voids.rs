//! What stands under a point's name: its manifest, or a void.
//!
//! A void says that nobody will ever publish this point. It is a sealed object, so nothing that a
//! failing disk leaves behind is mistaken for one: an object of 0 bytes, or one that was cut, is a
//! damaged point. (Earlier programs wrote voids of 0 bytes. These are damage, too: nobody can tell
//! them from manifests that were lost. [`Vault::give_up_point`] settles it.)
//!
//! Among the copies of a mirror a manifest wins over a void: see `docs/decisions/0004-reclaim.md`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{PointId, WriterId};
use strongroom_format::{
    FormatError, Manifest,
    names::{self, ItemKey},
    sealed::{self, SealedKind},
};
use strongroom_objects::{Key, Put, StoreError};

use crate::{Vault, VaultError, error::Result, read::is_damage};

/// What a void says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VoidNote {
    /// When the point was given up.
    pub(crate) time: Timestamp,
    /// The writer that was given up; none if a person gave up a damaged point.
    pub(crate) writer: Option<WriterId>,
}

/// What a point's name stands for.
#[derive(Debug)]
pub enum Named {
    /// The point exists.
    Point(Box<Manifest>),
    /// It never will.
    Void,
    /// No object has the name.
    Nothing,
}

impl Vault {
    /// Forbids a point, unless something has its name already.
    pub(crate) fn put_void(
        &self,
        item: ItemKey,
        point: PointId,
        writer: Option<WriterId>,
    ) -> Result<Put> {
        let name = names::point(item, point);
        Ok(self.store.put_new(&name, &self.sealed_void(&name, writer)?)?)
    }

    fn sealed_void(&self, name: &Key, writer: Option<WriterId>) -> Result<Vec<u8>> {
        let note = VoidNote { time: self.options.clock.now(), writer };
        let plain =
            serde_json::to_vec(&note).map_err(|_| VaultError::Bug("a void without text"))?;
        self.seal(SealedKind::Void, name, &plain)
    }

    /// What stands under a point's name. In a mirror, a copy that is damaged, or a void where
    /// another copy has the manifest, is replaced by the manifest.
    pub(crate) fn named(&self, item: ItemKey, point: PointId) -> Result<Named> {
        let name = names::point(item, point);
        let bytes = match self.store.get(&name, sealed::MAX_SEALED) {
            Ok(bytes) => bytes,
            Err(StoreError::Missing { .. }) => return Ok(Named::Nothing),
            Err(error @ StoreError::Length { .. }) => {
                return self.named_by_copies(item, point, error.into());
            }
            Err(error) => return Err(error.into()),
        };
        match self.open_named(item, point, bytes) {
            Ok(Named::Void) if !self.store.copies().is_empty() => {
                self.named_by_copies(item, point, VaultError::Bug("a void that vanished"))
            }
            Err(error) if is_damage(&error) => self.named_by_copies(item, point, error),
            opened => opened,
        }
    }

    /// Asks every copy, and puts what counts in place of the others. `failed` is why the first
    /// one did not do.
    fn named_by_copies(&self, item: ItemKey, point: PointId, failed: VaultError) -> Result<Named> {
        let name = names::point(item, point);
        let Some((bytes, named)) = self.best_copy(item, point)? else { return Err(failed) };
        // A process that may only read continues without the repair.
        if let Err(error) = self.store.heal(&name, &|copy| copy == bytes) {
            tracing::warn!(object = %name, %error, "a copy of a recovery point was not repaired");
        }
        Ok(named)
    }

    /// The bytes of the copy that counts: of the first manifest, or else of the first void.
    fn best_copy(&self, item: ItemKey, point: PointId) -> Result<Option<(Vec<u8>, Named)>> {
        let name = names::point(item, point);
        let (mut void, mut failure) = (None, None);
        for copy in self.store.copies() {
            let bytes = match copy.get(&name, sealed::MAX_SEALED) {
                Ok(bytes) => bytes,
                Err(StoreError::Missing { .. } | StoreError::Length { .. }) => continue,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            match self.open_named(item, point, bytes.clone()) {
                Ok(Named::Void) => void = void.or(Some((bytes, Named::Void))),
                Ok(named) => return Ok(Some((bytes, named))),
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match failure {
            // The copy that cannot be asked may be the good one.
            Some(error) if void.is_none() => Err(error.into()),
            _ => Ok(void),
        }
    }

    /// As [`Self::named`], for callers that delete by what it says: fails if the copies of a mirror
    /// that have the object differ.
    pub(crate) fn agreed(&self, item: ItemKey, point: PointId) -> Result<Named> {
        let name = names::point(item, point);
        let mut first: Option<Vec<u8>> = None;
        for copy in self.store.copies() {
            let bytes = match copy.get(&name, sealed::MAX_SEALED) {
                Ok(bytes) => bytes,
                Err(StoreError::Missing { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            if first.as_ref().is_some_and(|first| *first != bytes) {
                let reason = "the copies of the vault differ".to_owned();
                let source = FormatError::Text { what: "manifest", reason };
                return Err(VaultError::Object { object: name.to_string(), source });
            }
            first = Some(bytes);
        }
        match first {
            Some(bytes) => self.open_named(item, point, bytes),
            None => self.named(item, point),
        }
    }

    /// Opens an object that has a point's name.
    pub(crate) fn open_named(
        &self,
        item: ItemKey,
        point: PointId,
        object: Vec<u8>,
    ) -> Result<Named> {
        let name = names::point(item, point);
        if sealed::kind_of(&object) == Some(SealedKind::Void) {
            return self.unseal(SealedKind::Void, &name, object).map(|_| Named::Void);
        }
        let plain = self.unseal(SealedKind::Manifest, &name, object)?;
        let damaged = |source| VaultError::Object { object: name.to_string(), source };
        let manifest = Manifest::decode(&plain).map_err(damaged)?;
        if manifest.id == point && self.item_key(&manifest.item).ok() == Some(item) {
            return Ok(Named::Point(Box::new(manifest)));
        }
        // Its seal is good, so some writer had the key and did this. Whichever it was: it is
        // input, and nothing of it may be used.
        let reason = "it is the manifest of another point".to_owned();
        Err(damaged(FormatError::Text { what: "manifest", reason }))
    }

    /// Gives up a point whose manifest is damaged in every copy, at a person's word: a void takes
    /// its place. Its data becomes free. Fails if the point can be read, or does not exist.
    pub fn give_up_point(&self, item: &str, point: PointId) -> Result<()> {
        let copies = self.store.degraded();
        if !copies.is_empty() {
            // One of them may have the manifest.
            return Err(VaultError::Degraded { copies });
        }
        let key = self.item_key(item)?;
        match self.named(key, point) {
            Err(error) if is_damage(&error) => {
                let name = names::point(key, point);
                Ok(self.store.replace(&name, &self.sealed_void(&name, None)?)?)
            }
            Err(error) => Err(error),
            Ok(Named::Point(_)) => Err(VaultError::PointReadable { point }),
            Ok(Named::Void | Named::Nothing) => {
                Err(VaultError::PointNotFound { item: item.to_owned(), point })
            }
        }
    }
}
