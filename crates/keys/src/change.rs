//! Changes of keys. Each is one new ring, made from the newest one; if somebody else's change
//! comes first, it is made again from theirs.

use strongroom_base::{Clock, Entropy, KeyId, SlotId};
use strongroom_format::{
    ring::Ring,
    secret::MasterKey,
    slot::{Argon2Cost, Kek},
};
use strongroom_objects::{Key, ObjectStore, Put};

use super::{
    KeyError, KeyRing, KeySource, NewSlot,
    crypto::sha256,
    list_slots,
    objects::{self, Pair},
    source::Secret,
    state::{Draft, Holder, State, open_keys},
};

/// How often a change is tried again after somebody else's came first.
const MAX_TRIES: usize = 50;

/// Most passphrase slots: each costs a third of a second when a passphrase is tried.
const MAX_PASSPHRASE_SLOTS: usize = 4;

/// What [`KeyRing::check`] found among the key objects and their copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCheck {
    /// How many objects there should be.
    pub objects: usize,
    /// Objects that were missing or damaged while their other copy is good.
    pub repairable: Vec<Key>,
    /// Objects of which no copy is good.
    pub lost: Vec<Key>,
}

impl KeyRing {
    /// Adds a slot for another key.
    pub fn add_slot(
        &mut self,
        store: &dyn ObjectStore,
        source: &KeySource,
        label: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<SlotId, KeyError> {
        let slot = self.put_slot(store, source, label, None, (clock, entropy))?;
        Ok(slot.slot)
    }

    /// Replaces a slot by a new one with another key, in one step. If it is the slot that the
    /// vault was opened with, the ring continues with the new one.
    pub fn rotate_slot(
        &mut self,
        store: &dyn ObjectStore,
        slot: SlotId,
        source: &KeySource,
        label: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<SlotId, KeyError> {
        let old = slot;
        let new = self.put_slot(store, source, label, Some(old), (clock, entropy))?;
        let slot = new.slot;
        if old == self.holder.slot {
            self.holder = new;
        }
        self.sweep(store)?;
        Ok(slot)
    }

    /// Removes a slot and deletes its object, so that its key opens nothing any more. A process that
    /// had opened the vault with it may have kept the master keys: see
    /// [`rotate_master`](Self::rotate_master).
    pub fn remove_slot(
        &mut self,
        store: &dyn ObjectStore,
        slot: SlotId,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<(), KeyError> {
        self.refresh(store)?;
        let known = self.state.head.slots.iter().any(|entry| entry.slot == slot);
        if known {
            self.commit(store, None, (clock, entropy), &|_, draft| drop_slot(draft, slot))?;
        } else if !self.state.removed.contains(&slot) {
            return Err(KeyError::SlotNotFound { slot });
        }
        self.sweep(store)
    }

    /// Makes a new master key, sealed to every slot, for all data from now on. What was written
    /// before stays readable. Removed slots do not get it.
    pub fn rotate_master(
        &mut self,
        store: &dyn ObjectStore,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<KeyId, KeyError> {
        let id = KeyId::generate(clock, entropy);
        let key = MasterKey::generate(entropy);
        self.commit(store, None, (clock, entropy), &|_, draft| {
            if draft.keys.len() > Ring::MAX_OLDER {
                return Err(KeyError::Limit { what: "master keys", limit: Ring::MAX_OLDER });
            }
            draft.keys.push((id, key.clone()));
            Ok(())
        })?;
        self.sweep_later(store);
        Ok(id)
    }

    /// Compares all key objects and their copies with what the ring says of them, and, if
    /// `repair`, replaces bad ones by their good copy.
    pub fn check(&mut self, store: &dyn ObjectStore, repair: bool) -> Result<KeyCheck, KeyError> {
        self.refresh(store)?;
        let mut check = KeyCheck::default();
        for (pair, digest) in self.pairs()? {
            check.objects = check.objects.saturating_add(2);
            let good = |key| -> Result<Option<Vec<u8>>, KeyError> {
                let bytes = objects::read(store, key, pair.max_len)?;
                Ok(bytes.filter(|bytes| sha256(bytes) == digest))
            };
            let (bad, bytes) = match (good(&pair.main)?, good(&pair.copy)?) {
                (Some(_), Some(_)) => continue,
                (Some(bytes), None) => (&pair.copy, bytes),
                (None, Some(bytes)) => (&pair.main, bytes),
                (None, None) => {
                    check.lost.push(pair.main);
                    continue;
                }
            };
            if repair {
                store.replace(bad, &bytes)?;
            }
            check.repairable.push(bad.clone());
        }
        Ok(check)
    }

    /// Every object that should exist, with its digest.
    fn pairs(&self) -> Result<Vec<(Pair, [u8; 32])>, KeyError> {
        let vault = self.holder.vault;
        let rings = (1..=self.state.head.generation).zip(&self.state.digests);
        let rings = rings.map(|(number, digest)| Ok((objects::ring(vault, number)?, *digest)));
        let slots = self.state.head.slots.iter();
        let slots = slots.map(|slot| Ok((objects::slot(vault, slot.slot)?, slot.digest)));
        rings.chain(slots).collect()
    }

    /// Makes a slot, puts its object, and commits the ring that names it, with `old` removed.
    fn put_slot(
        &mut self,
        store: &dyn ObjectStore,
        source: &KeySource,
        label: &str,
        old: Option<SlotId>,
        (clock, entropy): (&dyn Clock, &dyn Entropy),
    ) -> Result<Holder, KeyError> {
        self.refresh(store)?;
        let secret = Secret::read(source)?;
        if matches!(secret, Secret::Passphrase(_)) {
            let infos = list_slots(store, self.holder.vault)?;
            let taken = infos.iter().filter(|info| Some(info.slot) != old).filter(|info| {
                info.head.as_ref().is_some_and(|head| matches!(head.kek, Kek::Passphrase { .. }))
            });
            if taken.count() >= MAX_PASSPHRASE_SLOTS {
                let what = "slots with a passphrase";
                return Err(KeyError::Limit { what, limit: MAX_PASSPHRASE_SLOTS });
            }
        }
        let first = (self.holder.first_key, self.oldest().clone());
        for _ in 0..MAX_TRIES {
            let made = NewSlot::make(
                (self.holder.vault, &first),
                (&secret, Argon2Cost::DEFAULT),
                label,
                clock,
                entropy,
            )?;
            store.put_new(&made.pair.main, &made.bytes)?;
            let edit = |state: &State, draft: &mut Draft| {
                // Another change took the object for a leftover and has removed it.
                if state.removed.contains(&made.entry.slot) {
                    return Err(KeyError::Busy);
                }
                draft.slots.push(made.entry.clone());
                match old {
                    Some(old) => drop_slot(draft, old),
                    None => Ok(()),
                }?;
                if draft.slots.len() > Ring::MAX_SLOTS {
                    return Err(KeyError::Limit { what: "key slots", limit: Ring::MAX_SLOTS });
                }
                Ok(())
            };
            match self.commit(store, Some(&made.holder), (clock, entropy), &edit) {
                Err(KeyError::Busy) => {}
                Ok(()) => {
                    self.sweep_later(store);
                    return Ok(made.holder);
                }
                Err(error) => return Err(error),
            }
        }
        Err(KeyError::Busy)
    }

    /// Publishes the next ring. `new` is a slot that the change adds.
    fn commit(
        &mut self,
        store: &dyn ObjectStore,
        new: Option<&Holder>,
        (clock, entropy): (&dyn Clock, &dyn Entropy),
        edit: &dyn Fn(&State, &mut Draft) -> Result<(), KeyError>,
    ) -> Result<(), KeyError> {
        let vault = self.holder.vault;
        for _ in 0..MAX_TRIES {
            self.refresh(store)?;
            let generation = self.state.head.generation;
            if generation >= Ring::MAX_GENERATION {
                let limit = usize::try_from(Ring::MAX_GENERATION).unwrap_or(usize::MAX);
                return Err(KeyError::Limit { what: "changes of keys", limit });
            }
            let mut draft = self.state.draft();
            edit(&self.state, &mut draft)?;
            let strays = self.strays(store)?.into_iter();
            let strays = strays.filter(|slot| new.is_none_or(|new| new.slot != *slot));
            let room = Ring::MAX_REMOVED.saturating_sub(draft.removed.len());
            draft.removed.extend(strays.take(room));

            let ring = draft.seal(vault, Some(&self.state), clock.now(), entropy)?;
            let bytes = readable(&ring, &self.holder, new)?;
            let pair = objects::ring(vault, ring.head.generation)?;
            if store.put_new(&pair.main, &bytes)? == Put::Created {
                self.state = self.state.after(ring.head, draft, sha256(&bytes));
                return Ok(());
            }
        }
        Err(KeyError::Busy)
    }

    /// Slot objects that no ring has ever named: leftovers of changes that did not come to their
    /// end, or slots that somebody is about to add.
    fn strays(&self, store: &dyn ObjectStore) -> Result<Vec<SlotId>, KeyError> {
        let present = objects::list(store, self.holder.vault)?;
        let known = |slot: &SlotId| {
            self.state.removed.contains(slot)
                || self.state.head.slots.iter().any(|entry| entry.slot == *slot)
        };
        let all = present.slots.union(&present.slot_copies);
        Ok(all.filter(|slot| !known(slot)).copied().collect())
    }

    /// Deletes what is left of removed slots, and makes copies that are missing.
    fn sweep(&self, store: &dyn ObjectStore) -> Result<(), KeyError> {
        let vault = self.holder.vault;
        let present = objects::list(store, vault)?;
        for slot in present.slots.union(&present.slot_copies) {
            let removed = self.state.removed.contains(slot);
            if removed && !self.state.head.slots.iter().any(|entry| entry.slot == *slot) {
                objects::delete(store, &objects::slot(vault, *slot)?)?;
            }
        }
        let generations = 1..=self.state.head.generation;
        let rings = generations.zip(&self.state.digests);
        for (generation, digest) in rings.filter(|(n, _)| !present.ring_copies.contains(n)) {
            copy(store, &objects::ring(vault, generation)?, digest)?;
        }
        let slots = self.state.head.slots.iter();
        for entry in slots.filter(|entry| !present.slot_copies.contains(&entry.slot)) {
            copy(store, &objects::slot(vault, entry.slot)?, &entry.digest)?;
        }
        Ok(())
    }

    /// Sweeps after a change that is complete without it: what fails now is done next time.
    fn sweep_later(&self, store: &dyn ObjectStore) {
        if let Err(error) = self.sweep(store) {
            tracing::warn!(%error, "the keys have been changed, but not tidied up");
        }
    }
}

/// Makes the copy of an object that is good; a bad one is a matter for [`KeyRing::check`].
fn copy(store: &dyn ObjectStore, pair: &Pair, digest: &[u8; 32]) -> Result<(), KeyError> {
    match objects::read(store, &pair.main, pair.max_len)? {
        Some(bytes) if sha256(&bytes) == *digest => objects::put_copy(store, pair, &bytes),
        _ => Ok(()),
    }
}

/// Takes a slot out of a draft.
fn drop_slot(draft: &mut Draft, slot: SlotId) -> Result<(), KeyError> {
    let Some(at) = draft.slots.iter().position(|entry| entry.slot == slot) else {
        return Err(KeyError::SlotNotFound { slot });
    };
    if draft.slots.len() == 1 {
        return Err(KeyError::LastSlot { slot });
    }
    draft.slots.remove(at);
    draft.removed.push(slot);
    Ok(())
}

/// The bytes of a ring, after a look at whether it opens again for the slots at hand.
fn readable(ring: &Ring, holder: &Holder, new: Option<&Holder>) -> Result<Vec<u8>, KeyError> {
    const BUG: KeyError = KeyError::Bug { what: "a new ring does not open" };
    let bytes = ring.encode().map_err(|_| BUG)?;
    let head = Ring::decode(&bytes).map_err(|_| BUG)?.head;
    for holder in [Some(holder), new].into_iter().flatten() {
        open_keys(&head, holder).map_err(|_| BUG)?;
    }
    Ok(bytes)
}
