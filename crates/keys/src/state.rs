//! What a verified chain of rings says: the master keys and the slots.

use std::collections::BTreeSet;

use jiff::Timestamp;
use strongroom_base::{Entropy, KeyId, SlotId, VaultId};
use strongroom_format::{
    ring::{OlderKey, Ring, RingHead, RingSlot},
    secret::{MasterKey, SecretKey},
    slot::SlotSecret,
};
use strongroom_objects::ObjectStore;

use super::{
    KeyError,
    crypto::{self, Psk, sha256},
    objects::{self, Fault},
};

/// Who opens rings: an unlocked slot.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) vault: VaultId,
    pub(super) slot: SlotId,
    pub(super) first_key: KeyId,
    pub(super) secret: SlotSecret,
}

/// A master key with its id.
pub(super) type NamedKey = (KeyId, MasterKey);

/// The newest ring, verified, with its master keys opened.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) head: RingHead,
    /// All master keys, oldest first; the last is the current one.
    pub(super) keys: Vec<NamedKey>,
    /// Digest of each ring's object, from generation 1.
    pub(super) digests: Vec<[u8; 32]>,
    /// Every slot that was ever removed.
    pub(super) removed: BTreeSet<SlotId>,
}

/// A slot as a draft knows it.
#[derive(Clone, Debug)]
pub(super) struct DraftSlot {
    pub(super) slot: SlotId,
    pub(super) digest: [u8; 32],
    pub(super) public_key: [u8; 32],
}

/// A ring yet to be made.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// All master keys, oldest first; the last is to be the current one.
    pub(super) keys: Vec<NamedKey>,
    pub(super) slots: Vec<DraftSlot>,
    pub(super) removed: Vec<SlotId>,
}

fn context(vault: VaultId, ids: &[[u8; 16]]) -> Vec<u8> {
    [&[vault.to_bytes()], ids].concat().concat()
}

/// The key under which a former master key is sealed. It depends on everything that could differ
/// between two sealings, so that it only ever seals this one message.
fn older_key(current: &NamedKey, vault: VaultId, older: KeyId) -> SecretKey {
    let ids = context(vault, &[current.0.to_bytes(), older.to_bytes()]);
    current.1.derive("older master key", &ids)
}

fn ring_key(signer: &MasterKey, vault: VaultId) -> SecretKey {
    signer.derive("key ring", &vault.to_bytes())
}

/// The context in which the current master key is sealed to a slot.
struct SlotSeal {
    psk: SecretKey,
    psk_id: [u8; 16],
    info: Vec<u8>,
}

impl SlotSeal {
    fn new(vault: VaultId, first: &NamedKey, current: KeyId, slot: SlotId) -> Self {
        let info = [
            b"strongroom key ring 1\0".to_vec(),
            context(vault, &[current.to_bytes(), slot.to_bytes()]),
        ];
        Self {
            psk: first.1.derive("key ring to slots", &vault.to_bytes()),
            psk_id: first.0.to_bytes(),
            info: info.concat(),
        }
    }

    fn psk(&self) -> Psk<'_> {
        Psk { key: &self.psk, id: &self.psk_id, info: &self.info }
    }
}

fn master_key(bytes: &[u8]) -> Option<MasterKey> {
    Some(MasterKey::new(SecretKey::new(bytes.try_into().ok()?)))
}

/// Opens the master keys of a ring that need not be authentic as a whole: each key is.
/// `Ok(None)`: the ring does not know the holder's slot.
pub(super) fn open_keys(head: &RingHead, holder: &Holder) -> Result<Option<Vec<NamedKey>>, Fault> {
    let vault = holder.vault;
    let Some(entry) = head.slots.iter().find(|entry| entry.slot == holder.slot) else {
        return Ok(None);
    };
    let first = (holder.first_key, holder.secret.first_key.clone());
    let seal = SlotSeal::new(vault, &first, head.current, holder.slot);
    let current =
        crypto::hpke_open(&holder.secret.private_key, &entry.enc, &seal.psk(), b"", &entry.sealed)
            .and_then(|bytes| master_key(&bytes))
            .ok_or("the current master key is not sealed to the slot")?;
    let current = (head.current, current);
    let mut keys = Vec::with_capacity(head.older.len().saturating_add(1));
    for older in &head.older {
        let key = crypto::open_once(&older_key(&current, vault, older.key), b"", &older.sealed)
            .and_then(|bytes| master_key(&bytes))
            .ok_or("a former master key is not sealed under the current one")?;
        keys.push((older.key, key));
    }
    keys.push(current);
    let is_first = |(id, key): &NamedKey| {
        *id == first.0 && key.secret().as_bytes() == first.1.secret().as_bytes()
    };
    if keys.first().is_some_and(is_first) {
        Ok(Some(keys))
    } else {
        Err(Fault::from("its first master key is not the vault's"))
    }
}

/// Checks that `head` may follow `previous`, and names the key that must have authenticated it.
fn signer(previous: Option<&RingHead>, head: &RingHead, first: KeyId) -> Result<KeyId, Fault> {
    let Some(previous) = previous else {
        return if head.keys().eq([first]) {
            Ok(first)
        } else {
            Err(Fault::from("it does not begin with the vault's first master key"))
        };
    };
    let added = head.older.len().checked_sub(previous.older.len());
    if matches!(added, Some(0 | 1)) && previous.keys().zip(head.keys()).all(|(a, b)| a == b) {
        Ok(previous.current)
    } else {
        Err(Fault::from("its master keys do not continue those of the previous ring"))
    }
}

/// Checks one ring of the chain.
fn verify(
    bytes: &[u8],
    generation: u32,
    before: Option<(&RingHead, &[u8; 32])>,
    keys: &[NamedKey],
    holder: &Holder,
) -> Result<RingHead, Fault> {
    let ring = Ring::decode(bytes)?;
    if ring.head.vault != holder.vault || ring.head.generation != generation {
        return Err(Fault::from("it is that of another vault or generation"));
    }
    if ring.head.previous != before.map_or([0; 32], |(_, digest)| *digest) {
        return Err(Fault::from("it does not follow the ring before"));
    }
    let signer = signer(before.map(|(head, _)| head), &ring.head, holder.first_key)?;
    let (_, signer) =
        keys.iter().find(|(id, _)| *id == signer).ok_or("its master key is unknown")?;
    if !crypto::hmac_is(&ring_key(signer, holder.vault), ring.head_text.as_bytes(), &ring.tag) {
        return Err(Fault::from("it is not authentic"));
    }
    Ok(ring.head)
}

impl State {
    /// Reads and verifies all rings up to `newest`.
    pub(super) fn load(
        store: &dyn ObjectStore,
        holder: &Holder,
        newest: u32,
    ) -> Result<Self, KeyError> {
        let pair = objects::ring(holder.vault, newest)?;
        if newest > Ring::MAX_GENERATION {
            return Err(Fault::from("its generation is out of bounds").of(&pair.main));
        }
        let keys = objects::read_good(store, &pair, |bytes| {
            let keys = open_keys(&Ring::decode(bytes)?.head, holder)?;
            keys.ok_or(Fault::from(NOT_MY_SLOT))
        });
        let keys = match keys {
            Err(KeyError::Damaged { reason: NOT_MY_SLOT, .. }) => {
                return Err(KeyError::Removed { slot: holder.slot });
            }
            other => other?,
        };

        let mut digests: Vec<[u8; 32]> = Vec::new();
        let mut removed = BTreeSet::new();
        let mut last: Option<RingHead> = None;
        for generation in 1..=newest {
            let pair = objects::ring(holder.vault, generation)?;
            let (head, digest) = objects::read_good(store, &pair, |bytes| {
                let before = last.as_ref().zip(digests.last());
                let head = verify(bytes, generation, before, &keys, holder)?;
                Ok((head, sha256(bytes)))
            })?;
            removed.extend(head.removed.iter().copied());
            digests.push(digest);
            last = Some(head);
        }
        let head = last.ok_or(KeyError::None { vault: holder.vault })?;
        if !head.slots.iter().any(|entry| entry.slot == holder.slot) {
            return Err(KeyError::Removed { slot: holder.slot });
        }
        // The keys were taken before the ring was verified, possibly from its damaged copy.
        if !head.keys().eq(keys.iter().map(|(id, _)| *id)) {
            return Err(Fault::from("its copy has other keys").of(&pair.main));
        }
        Ok(Self { head, keys, digests, removed })
    }

    /// What the next ring says if nothing changes.
    pub(super) fn draft(&self) -> Draft {
        let slot = |slot: &RingSlot| DraftSlot {
            slot: slot.slot,
            digest: slot.digest,
            public_key: slot.public_key,
        };
        Draft {
            keys: self.keys.clone(),
            slots: self.head.slots.iter().map(slot).collect(),
            removed: Vec::new(),
        }
    }

    /// The state after `ring`, which was made from this one.
    pub(super) fn after(&self, head: RingHead, draft: Draft, digest: [u8; 32]) -> Self {
        let mut next = Self { head, keys: draft.keys, ..self.clone() };
        next.digests.push(digest);
        next.removed.extend(draft.removed);
        next
    }
}

/// [`State::load`] distinguishes it from damage.
const NOT_MY_SLOT: &str = "it does not know the slot";

impl Draft {
    /// Seals the master keys and makes the ring that follows `previous` (none: the first ring).
    pub(super) fn seal(
        &self,
        vault: VaultId,
        previous: Option<&State>,
        created: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Ring, KeyError> {
        const BUG: KeyError = KeyError::Bug { what: "a ring cannot be sealed" };
        let (Some(first), Some((current, older))) = (self.keys.first(), self.keys.split_last())
        else {
            return Err(BUG);
        };
        let (mut head, signer) = match previous.map(|state| (state, state.keys.last())) {
            None => (RingHead::first(vault, created, current.0), current),
            Some((state, Some(signer))) => {
                let digest = state.digests.last().ok_or(BUG)?;
                (state.head.next(*digest, created, current.0), signer)
            }
            Some((_, None)) => return Err(BUG),
        };
        for (id, key) in older {
            let sealed =
                crypto::seal_once(&older_key(current, vault, *id), b"", key.secret().as_bytes());
            let sealed = sealed.ok_or(BUG)?.try_into().map_err(|_| BUG)?;
            head.older.push(OlderKey { key: *id, sealed });
        }
        for DraftSlot { slot, digest, public_key } in &self.slots {
            let seal = SlotSeal::new(vault, first, current.0, *slot);
            let ephemeral = SecretKey::generate(entropy);
            let plain = current.1.secret().as_bytes();
            let (enc, sealed) =
                crypto::hpke_seal(&ephemeral, public_key, &seal.psk(), b"", plain).ok_or(BUG)?;
            head.slots.push(RingSlot {
                slot: *slot,
                digest: *digest,
                public_key: *public_key,
                enc,
                sealed: sealed.try_into().map_err(|_| BUG)?,
            });
        }
        head.removed.clone_from(&self.removed);
        let key = ring_key(&signer.1, vault);
        Ring::new(head, |text| crypto::hmac_sha256(key.as_bytes(), &[text]).as_bytes().to_vec())
            .map_err(|_| BUG)
    }
}
