//! Locks: until when recovery points may not be deleted.
//!
//! A manifest may say so itself (`locked_until`). As manifests never change, a lock is extended by
//! an object of its own: `locks/<item>/<point>-<seconds>`, whose name says until when, as a name
//! does not rot. The latest of them all counts, so nothing ever shortens a lock. Deletions and
//! reclaims honour it. A deletion note does not hide a locked point from readers; but it
//! is nobody's parent any more, as no clock may decide what a new point relies on.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::PointId;
use strongroom_format::{
    Manifest,
    names::{self, ItemKey},
    sealed::SealedKind,
};

use crate::{Vault, VaultError, error::Result, points::PointNames, read::is_damage};

/// What a lock says besides its name: for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LockNote {
    /// When the lock was set.
    pub(crate) time: Timestamp,
    /// By which host.
    pub(crate) host: String,
}

/// The locks of a vault that are objects of their own.
#[derive(Debug, Default)]
pub struct Locks(HashMap<(ItemKey, PointId), Timestamp>);

impl Locks {
    /// Until when a point is locked; none if it is not.
    pub fn until(
        &self,
        point: (ItemKey, PointId),
        manifest: Option<&Manifest>,
    ) -> Option<Timestamp> {
        let own = manifest.and_then(|manifest| manifest.locked_until);
        self.0.get(&point).copied().max(own)
    }
}

impl Vault {
    /// The locks of the points of an item, or of all.
    pub(crate) fn locks(&self, item: Option<ItemKey>) -> Result<Locks> {
        let prefix = match item {
            Some(item) => format!("{}{item}/", names::LOCKS),
            None => names::LOCKS.to_owned(),
        };
        let mut locks = Locks::default();
        for entry in self.list(&prefix)? {
            if let Some((item, point, until)) = names::parse_lock(&entry.key) {
                let latest = locks.0.entry((item, point)).or_insert(until);
                *latest = until.max(*latest);
            }
        }
        Ok(locks)
    }

    /// Until when a visible point of an item is locked; none if it is not.
    pub fn locked_until(&self, manifest: &Manifest) -> Result<Option<Timestamp>> {
        let item = self.item_key(&manifest.item)?;
        Ok(self.locks(Some(item))?.until((item, manifest.id), Some(manifest)))
    }

    /// Locks a point until then at least; never shortens a lock. Says until when it is locked.
    pub fn lock_point(
        &self,
        item: &str,
        point: PointId,
        until: Timestamp,
        host: &str,
    ) -> Result<Timestamp> {
        let manifest = self.restorable_point(item, point)?;
        let key = self.item_key(item)?;
        // Names have whole seconds: the next one.
        let second = until.as_second().saturating_add(i64::from(until.subsec_nanosecond() > 0));
        let until = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        let had = self.locks(Some(key))?.until((key, point), Some(&manifest));
        if let Some(had) = had.filter(|had| *had >= until) {
            return Ok(had);
        }
        let note = LockNote { time: self.options.clock.now(), host: host.to_owned() };
        let plain =
            serde_json::to_vec(&note).map_err(|_| VaultError::Bug("a lock without text"))?;
        self.put_sealed(SealedKind::Lock, &names::lock(key, point, until), &plain)?;
        Ok(until)
    }

    /// Removes the locks of a point that was removed.
    pub(crate) fn remove_locks(&self, item: ItemKey, point: PointId) -> Result<()> {
        for entry in self.list(&format!("{}{item}/", names::LOCKS))? {
            if names::parse_lock(&entry.key).is_some_and(|(of, id, _)| (of, id) == (item, point)) {
                self.store.delete(&entry.key)?;
            }
        }
        Ok(())
    }

    /// The points with a deletion note that are locked: for readers they are there.
    pub(crate) fn locked_in_spite(
        &self,
        names: &PointNames,
        item: Option<ItemKey>,
    ) -> Result<Vec<(ItemKey, PointId)>> {
        if names.deleted.is_empty() {
            return Ok(Vec::new());
        }
        let (now, locks) = (self.options.clock.now(), self.locks(item)?);
        let mut locked = Vec::new();
        for (item, point) in names.deleted.iter().copied() {
            let manifest = match self.manifest(item, point) {
                Ok(Some(manifest)) => manifest,
                Ok(None) => continue,
                Err(error) if is_damage(&error) => continue,
                Err(error) => return Err(error),
            };
            if locks.until((item, point), Some(&manifest)).is_some_and(|until| until > now) {
                locked.push((item, point));
            }
        }
        Ok(locked)
    }

    /// Fails if a point is locked at `now`; if that is not given, by this host's clock and by the
    /// store's, whichever is behind.
    pub(crate) fn check_unlocked(&self, manifest: &Manifest, now: Option<Timestamp>) -> Result<()> {
        let Some(until) = self.locked_until(manifest)? else { return Ok(()) };
        let now = match now {
            Some(now) => now,
            None => self.cautious_now()?,
        };
        if until > now {
            return Err(VaultError::Locked { point: manifest.id, until });
        }
        Ok(())
    }

    /// This host's time, or the store's if that is behind.
    pub(crate) fn cautious_now(&self) -> Result<Timestamp> {
        Ok(self.store_now()?.min(self.options.clock.now()))
    }
}
