//! A vault's keys: how a vault is opened, and how its keys are changed.
//!
//! A vault has one or more *master keys*, from which all other keys derive, and one or more
//! *slots*, each a way to open it: a key file, a passphrase, a key in a PKCS#11 token.
//!
//! ```text
//!  key file ─┐            ┌ slot object ┐           ┌──── key ring, generation n ─────┐
//!  passphrase ─▶ KEK ────▶│ private key │──────────▶│ current master key, per slot    │
//!  token ────┘            │ first key   │──(psk)───▶│  └▶ older master keys           │
//!                         └─────────────┘           └── authenticated, names n-1 ─────┘
//! ```
//!
//! Invariants:
//! - Every change is one create-only put of the next ring: it happens as a whole or not at all, in
//!   one order, even if other processes change keys at the same moment. What a crash leaves behind (slot
//!   objects that no ring names) opens nothing and is removed by the next change.
//! - A master key becomes current only together with its being sealed to every slot.
//! - Nobody without a master key can make a ring, a slot or a master key that is accepted; nobody
//!   with a former master key only can make one that follows a ring they were excluded from.
//! - A slot may be removed, and a slot's key changed, without touching data.
//!
//! `docs/use/keys.md` explains the design and its limits. This crate knows the format and object stores, and
//! nothing of packs and points. Its methods block.

mod change;
mod crypto;
mod error;
mod module;
mod objects;
mod pkcs11;
mod secret_file;
mod source;
mod state;
mod uri;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use strongroom_base::{Clock, Entropy, KeyId, SlotId, VaultId};
use strongroom_format::{
    VaultConfig,
    ring::{Ring, RingHead, RingSlot},
    secret::{MasterKey, SecretKey},
    slot::{Argon2Cost, Slot, SlotHead, SlotSecret, label_is_valid},
};
use strongroom_objects::{ObjectStore, Put};

pub use change::KeyCheck;
pub use error::KeyError;
pub use module::{ModuleCommand, serve_module};
pub use secret_file::MAX_SECRET_FILE;
pub use source::{KeySource, MIN_KEY_FILE, Pkcs11Key, generate_key_file};
pub use uri::{PKCS11_HELP, Pkcs11Uri, fuzz_pkcs11_uri};

use crypto::sha256;
use objects::{Fault, Pair};
use source::Secret;
use state::{Draft, DraftSlot, Holder, State};

/// What a slot is, for listings. Read without any key, so a forger could have changed it; what
/// counts is checked when the slot is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// The slot.
    pub slot: SlotId,
    /// What its object says; `None` if the object and its copy are damaged or missing.
    pub head: Option<SlotHead>,
}

/// The opened keys of a vault.
#[derive(Debug)]
pub struct KeyRing {
    holder: Holder,
    state: State,
}

/// A slot that has been made but is in no ring yet.
struct NewSlot {
    pair: Pair,
    bytes: Vec<u8>,
    entry: DraftSlot,
    holder: Holder,
}

impl NewSlot {
    /// Makes a slot for a secret.
    fn make(
        (vault, first): (VaultId, &(KeyId, MasterKey)),
        (secret, cost): (&Secret, Argon2Cost),
        label: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Self, KeyError> {
        const BUG: KeyError = KeyError::Bug { what: "a slot cannot be sealed" };
        if !label_is_valid(label) {
            return Err(KeyError::Label);
        }
        let (kek, key) = secret.new_kek(cost, entropy)?;
        let slot = SlotId::generate(clock, entropy);
        let private_key = SecretKey::generate(entropy);
        let public_key = crypto::public_key(&private_key).ok_or(BUG)?;
        let secret = SlotSecret { private_key, first_key: first.1.clone() };
        let (head, head_text) =
            Slot::head((vault, slot, first.0), label, clock.now(), public_key, kek)
                .map_err(|_| BUG)?;
        let sealed = crypto::seal_once(&slot_key(&key), head_text.as_bytes(), &secret.encode());
        let object = Slot { head, head_text, sealed: sealed.ok_or(BUG)? };
        let bytes = object.encode().map_err(|_| BUG)?;
        // What is written must open again.
        unseal(&Slot::decode(&bytes).map_err(|_| BUG)?, &key).ok_or(BUG)?;
        Ok(Self {
            pair: objects::slot(vault, slot)?,
            entry: DraftSlot { slot, digest: sha256(&bytes), public_key },
            bytes,
            holder: Holder { vault, slot, first_key: first.0, secret },
        })
    }
}

fn slot_key(kek: &SecretKey) -> SecretKey {
    kek.derive("key slot", b"")
}

/// Opens a slot with a key-encryption key; `None` if it is the wrong one.
fn unseal(slot: &Slot, kek: &SecretKey) -> Option<SlotSecret> {
    let bytes = crypto::open_once(&slot_key(kek), slot.head_text.as_bytes(), &slot.sealed)?;
    let secret = SlotSecret::decode(&bytes)?;
    (crypto::public_key(&secret.private_key)? == slot.head.public_key).then_some(secret)
}

/// Reads the slot that a ring names.
fn read_slot(store: &dyn ObjectStore, vault: VaultId, entry: &RingSlot) -> Result<Slot, KeyError> {
    objects::read_good(store, &objects::slot(vault, entry.slot)?, |bytes| {
        objects::has_digest(bytes, &entry.digest)?;
        let slot = Slot::decode(bytes)?;
        if slot.head.vault == vault && slot.head.slot == entry.slot {
            Ok(slot)
        } else {
            Err(Fault::from("it is that of another vault or slot"))
        }
    })
}

/// Tries a secret on every slot of a ring that need not be authentic. `Ok(None)`: it opens none.
fn unlock(
    store: &dyn ObjectStore,
    vault: VaultId,
    ring: &RingHead,
    secret: &Secret,
) -> Result<Option<Holder>, KeyError> {
    let mut damaged = None;
    for entry in &ring.slots {
        let slot = match read_slot(store, vault, entry) {
            Ok(slot) => slot,
            Err(error @ KeyError::Damaged { .. }) => {
                damaged = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(kek) = secret.kek(&slot.head.kek)? else { continue };
        if let Some(secret) = unseal(&slot, &kek) {
            let first_key = slot.head.first_key;
            return Ok(Some(Holder { vault, slot: entry.slot, first_key, secret }));
        }
    }
    // The key may be that of the damaged slot.
    damaged.map_or(Ok(None), Err)
}

impl KeyRing {
    /// Makes the keys of a new vault: one master key and one slot.
    ///
    /// The keys of different vaults never meet, so that two attempts to create a vault at one
    /// place do not either. Nothing of it is a vault before `strongroom.json` names its id.
    pub fn create(
        store: &dyn ObjectStore,
        vault: VaultId,
        source: &KeySource,
        label: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Self, KeyError> {
        let secret = Secret::read(source)?;
        let first = (KeyId::generate(clock, entropy), MasterKey::generate(entropy));
        let made =
            NewSlot::make((vault, &first), (&secret, Argon2Cost::DEFAULT), label, clock, entropy)?;
        let draft =
            Draft { keys: vec![first], slots: vec![made.entry.clone()], removed: Vec::new() };
        let ring = draft.seal(vault, None, clock.now(), entropy)?;
        let bytes = ring.encode().map_err(|_| KeyError::Bug { what: "a ring is not readable" })?;
        let pair = objects::ring(vault, ring.head.generation)?;
        store.put_new(&made.pair.main, &made.bytes)?;
        objects::put_copy(store, &made.pair, &made.bytes)?;
        match store.put_new(&pair.main, &bytes)? {
            Put::Created => objects::put_copy(store, &pair, &bytes)?,
            Put::Exists => {
                objects::delete(store, &made.pair)?;
                return Err(KeyError::Exists { vault });
            }
        }
        let state = State::load(store, &made.holder, ring.head.generation)?;
        Ok(Self { holder: made.holder, state })
    }

    /// Removes all keys of a vault. What was sealed with them is lost for ever: only for a vault
    /// whose creation failed before anything was written to it.
    pub fn discard(store: &dyn ObjectStore, vault: VaultId) -> Result<(), KeyError> {
        let present = objects::list(store, vault)?;
        for slot in present.slots.union(&present.slot_copies) {
            objects::delete(store, &objects::slot(vault, *slot)?)?;
        }
        for generation in present.rings.union(&present.ring_copies) {
            objects::delete(store, &objects::ring(vault, *generation)?)?;
        }
        Ok(())
    }

    /// Opens a vault's keys.
    pub fn open(
        store: &dyn ObjectStore,
        vault: VaultId,
        source: &KeySource,
    ) -> Result<Self, KeyError> {
        let secret = Secret::read(source)?;
        let newest = objects::list(store, vault)?.newest().ok_or(KeyError::None { vault })?;
        let pair = objects::ring(vault, newest)?;
        let mut slots = None;
        let mut fault = Fault::from("it is missing");
        let mut failed = None;
        let mut seen: Option<Vec<u8>> = None;
        for key in [&pair.main, &pair.copy] {
            let Some(bytes) = objects::read(store, key, pair.max_len)? else { continue };
            if seen.as_ref() == Some(&bytes) {
                continue;
            }
            match Ring::decode(&bytes) {
                Ok(ring) => {
                    match unlock(store, vault, &ring.head, &secret) {
                        Ok(Some(holder)) => {
                            let state = State::load(store, &holder, newest)?;
                            return Ok(Self { holder, state });
                        }
                        Ok(None) => {}
                        Err(error) => failed = Some(error),
                    }
                    slots.get_or_insert(ring.head.slots.len());
                }
                Err(source) => fault = source.into(),
            }
            seen = Some(bytes);
        }
        match (failed, slots) {
            (Some(error), _) => Err(error),
            (None, Some(slots)) => Err(KeyError::Wrong { key: source.to_string(), slots }),
            (None, None) => Err(fault.of(&pair.main)),
        }
    }

    /// Looks for changes that others have made. Fails with [`KeyError::Removed`] if the slot that
    /// this vault was opened with is gone; the keys known so far stay usable.
    pub fn refresh(&mut self, store: &dyn ObjectStore) -> Result<(), KeyError> {
        let vault = self.holder.vault;
        let newest = objects::list(store, vault)?.newest().ok_or(KeyError::None { vault })?;
        if newest != self.state.head.generation {
            let state = State::load(store, &self.holder, newest)?;
            let digest = self.state.digests.last();
            let at = self.state.digests.len().checked_sub(1);
            if at.and_then(|at| state.digests.get(at)) != digest {
                let pair = objects::ring(vault, self.state.head.generation)?;
                return Err(Fault::from("it is not the one that was seen before").of(&pair.main));
            }
            self.state = state;
        }
        Ok(())
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        self.holder.vault
    }

    /// The slot that the vault was opened with.
    pub fn slot(&self) -> SlotId {
        self.holder.slot
    }

    /// The master key for new data.
    pub fn current(&self) -> (KeyId, &MasterKey) {
        self.state
            .keys
            .last()
            .map_or((self.holder.first_key, &self.holder.secret.first_key), |(id, key)| (*id, key))
    }

    /// The first master key: the digest keys derive from it for the vault's life.
    pub fn oldest(&self) -> &MasterKey {
        &self.holder.secret.first_key
    }

    /// A master key by its id; after `None`, [`refresh`](Self::refresh) may find it.
    pub fn get(&self, id: KeyId) -> Option<&MasterKey> {
        self.state.keys.iter().find(|(key, _)| *key == id).map(|(_, key)| key)
    }

    /// The ids of all master keys, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.state.keys.iter().map(|(id, _)| *id)
    }

    /// What says that somebody with a key of the vault wrote a description of it.
    pub fn seal_of(&self, config: &VaultConfig) -> String {
        let seal = crypto::hmac_sha256(&self.seal_key().as_bytes()[..], &[&config.sealed_text()]);
        blake3::Hash::from_bytes(*seal.as_bytes()).to_hex().to_string()
    }

    /// Whether somebody with a key of the vault wrote a description of it. (No secret is compared:
    /// who can make a description be tried has the store anyway.)
    pub fn vouches_for(&self, config: &VaultConfig) -> bool {
        config.vault_id == self.holder.vault
            && config.seal.as_ref().is_some_and(|seal| *seal == self.seal_of(config))
    }

    fn seal_key(&self) -> SecretKey {
        self.oldest().derive("vault description", &self.holder.vault.to_bytes())
    }

    /// How many changes of keys there have been, counting the creation.
    pub fn generation(&self) -> u32 {
        self.state.head.generation
    }

    /// When the keys were changed last, by the clock of the process that did it.
    pub fn changed(&self) -> Timestamp {
        self.state.head.created
    }
}

/// The slots of a vault, as far as can be seen without a key.
pub fn list_slots(store: &dyn ObjectStore, vault: VaultId) -> Result<Vec<SlotInfo>, KeyError> {
    let newest = objects::list(store, vault)?.newest().ok_or(KeyError::None { vault })?;
    let pair = objects::ring(vault, newest)?;
    let ring = objects::read_good(store, &pair, |bytes| Ok(Ring::decode(bytes)?))?;
    let info = |entry: &RingSlot| match read_slot(store, vault, entry) {
        Ok(slot) => Ok(SlotInfo { slot: entry.slot, head: Some(slot.head) }),
        Err(KeyError::Damaged { .. }) => Ok(SlotInfo { slot: entry.slot, head: None }),
        Err(error) => Err(error),
    };
    ring.head.slots.iter().map(info).collect()
}
