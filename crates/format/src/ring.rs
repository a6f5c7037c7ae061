//! The key ring: which master keys and which slots a vault has, and the master keys themselves,
//! sealed.
//!
//! Every change of keys writes one new object, `keys/<vault id>/rings/<generation>.json`, with the
//! whole new state; the highest generation counts, and no ring is ever changed or removed. As
//! puts are create-only, of two changes made at once exactly one becomes the next generation: a
//! ring is at the same time the data, the order and the commit of a change.
//!
//! The current master key is sealed to each slot's public key, older ones under the current one.
//! Each ring is authenticated with the master key that was current *before* it (the first ring
//! with its own), and names the digest of its predecessor.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{KeyId, SlotId, VaultId};

use crate::{
    FormatError,
    text::{self, Frame},
};

const WHAT: &str = "key ring";
const KIND: &str = "strongroom key ring";

/// What a ring says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingHead {
    kind: String,
    format: u16,
    /// The vault.
    pub vault: VaultId,
    /// 1 for the first ring, one more with each change.
    pub generation: u32,
    /// SHA-256 of the ring object before this one; zeros in the first.
    #[serde(with = "text::bytes")]
    pub previous: [u8; 32],
    /// When the change was made, by the clock of its author.
    pub created: Timestamp,
    /// Former master keys, oldest first.
    pub older: Vec<OlderKey>,
    /// The master key for new data.
    pub current: KeyId,
    /// The slots, each with the current master key sealed to it; never empty.
    pub slots: Vec<RingSlot>,
    /// Slots whose objects are to be deleted because of this change.
    pub removed: Vec<SlotId>,
}

/// A former master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OlderKey {
    /// The key.
    pub key: KeyId,
    /// The key's 32 bytes and a tag, sealed under the current master key.
    #[serde(with = "text::bytes")]
    pub sealed: [u8; 48],
}

/// A slot as the ring knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingSlot {
    /// The slot.
    pub slot: SlotId,
    /// SHA-256 of the slot object.
    #[serde(with = "text::bytes")]
    pub digest: [u8; 32],
    /// The slot's public X25519 key: later master keys are sealed to this one.
    #[serde(with = "text::bytes")]
    pub public_key: [u8; 32],
    /// The sender's ephemeral public key.
    #[serde(with = "text::bytes")]
    pub enc: [u8; 32],
    /// The current master key's 32 bytes and a tag, sealed to the slot.
    #[serde(with = "text::bytes")]
    pub sealed: [u8; 48],
}

impl RingHead {
    /// The first ring of a vault, yet without slots.
    pub fn first(vault: VaultId, created: Timestamp, current: KeyId) -> Self {
        Self {
            kind: KIND.to_owned(),
            format: text::FORMAT,
            vault,
            generation: 1,
            previous: [0; 32],
            created,
            older: Vec::new(),
            current,
            slots: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// The ring after this one, yet without keys and slots. `digest` is that of this ring's object.
    #[must_use]
    pub fn next(&self, digest: [u8; 32], created: Timestamp, current: KeyId) -> Self {
        let generation = self.generation.saturating_add(1);
        Self { generation, previous: digest, ..Self::first(self.vault, created, current) }
    }

    /// The ids of all master keys, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.older.iter().map(|older| older.key).chain([self.current])
    }
}

/// A ring object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// What it says.
    pub head: RingHead,
    /// Its exact bytes, which the tag authenticates.
    pub head_text: String,
    /// HMAC-SHA256.
    pub tag: Vec<u8>,
}

impl Ring {
    /// Most bytes of the object.
    pub const MAX_LEN: u64 = 512 * 1024;
    /// Most slots of a vault.
    pub const MAX_SLOTS: usize = 32;
    /// Most former master keys.
    pub const MAX_OLDER: usize = 2000;
    /// Most slots that one change removes: all, and as many leftovers.
    pub const MAX_REMOVED: usize = 64;
    /// The last generation. As all rings are read when a vault is opened, this bounds the work.
    pub const MAX_GENERATION: u32 = 10_000;

    /// Makes a ring; `tag` is given the bytes to be authenticated.
    pub fn new(head: RingHead, tag: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<Self, FormatError> {
        let head_text = text::head_text(&head, WHAT)?;
        let tag = tag(head_text.as_bytes());
        Ok(Self { head, head_text, tag })
    }

    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let bytes = text::encode(&self.head_text, &self.tag, WHAT)?;
        // What is written must be readable.
        Self::decode(&bytes).map(|_| bytes)
    }

    /// Reads an object and checks what can be checked without a key.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let frame = Frame::decode(bytes, Self::MAX_LEN, WHAT)?;
        let head: RingHead = frame.head(KIND, WHAT)?;
        let unique = |mut ids: Vec<[u8; 16]>| {
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            ids.len() == all
        };
        let slots = head.slots.iter().map(|slot| slot.slot).chain(head.removed.iter().copied());
        let problem = if head.generation == 0 || head.generation > Self::MAX_GENERATION {
            "its generation is out of bounds"
        } else if head.older.len() > Self::MAX_OLDER {
            "too many master keys"
        } else if head.slots.is_empty() || head.slots.len() > Self::MAX_SLOTS {
            "no slots, or too many"
        } else if head.removed.len() > Self::MAX_REMOVED {
            "too many removed slots"
        } else if !unique(head.keys().map(KeyId::to_bytes).collect())
            || !unique(slots.map(SlotId::to_bytes).collect())
        {
            "an id occurs twice"
        } else {
            return Ok(Self { head, head_text: frame.head.to_owned(), tag: frame.seal });
        };
        Err(FormatError::Text { what: WHAT, reason: problem.to_owned() })
    }
}

/// For fuzzing: reads any bytes.
#[doc(hidden)]
pub fn fuzz_ring(bytes: &[u8]) {
    if let Ok(ring) = Ring::decode(bytes) {
        assert_eq!(ring.encode().ok().as_deref(), Some(bytes), "one spelling per object");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> RingHead {
        let vault = VaultId::from_bytes([1; 16]);
        let key = |n| KeyId::from_bytes([n; 16]);
        let mut head = RingHead::first(vault, Timestamp::UNIX_EPOCH, key(1)).next(
            [7; 32],
            Timestamp::UNIX_EPOCH,
            key(2),
        );
        head.older.push(OlderKey { key: key(1), sealed: [8; 48] });
        let slot = SlotId::from_bytes([3; 16]);
        let [digest, public_key, enc] = [[4; 32], [5; 32], [6; 32]];
        head.slots.push(RingSlot { slot, digest, public_key, enc, sealed: [9; 48] });
        head.removed.push(SlotId::from_bytes([4; 16]));
        head
    }

    fn encode(change: impl FnOnce(&mut RingHead)) -> Result<Vec<u8>, FormatError> {
        let mut head = head();
        change(&mut head);
        Ring::new(head, |_| vec![0; 32])?.encode()
    }

    #[test]
    fn rings_round_trip_and_impossible_ones_are_refused() {
        let bytes = encode(|_| ()).expect("encodes");
        assert_eq!(Ring::decode(&bytes).expect("decodes").head, head());
        for result in [
            encode(|head| head.generation = 0),
            encode(|head| head.generation = Ring::MAX_GENERATION + 1),
            encode(|head| head.slots.clear()),
            encode(|head| head.slots.push(head.slots[0].clone())),
            encode(|head| head.removed.push(head.slots[0].slot)),
            encode(|head| head.removed.push(head.removed[0])),
            encode(|head| head.current = head.older[0].key),
            encode(|head| head.slots = vec![head.slots[0].clone(); 33]),
        ] {
            assert!(matches!(result, Err(FormatError::Text { .. })), "{result:?}");
        }
    }

    #[test]
    fn the_largest_ring_fits() {
        let id = |n: u16| {
            let mut bytes = [0xff; 16];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            bytes[0] &= 0x7f;
            bytes
        };
        let bytes = encode(|head| {
            let older = |n| OlderKey { key: KeyId::from_bytes(id(n)), sealed: [0; 48] };
            head.older = (0..2000).map(older).collect();
            let slot = |n| RingSlot { slot: SlotId::from_bytes(id(n)), ..head.slots[0].clone() };
            head.slots = (0..32).map(slot).collect();
            head.removed = (32..96).map(|n| SlotId::from_bytes(id(n))).collect();
        });
        assert!(bytes.expect("fits").len() > 200_000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(at: usize, byte: u8) {
            let mut bytes = encode(|_| ()).expect("encodes");
            let at = at % bytes.len();
            bytes[at] = byte;
            fuzz_ring(&bytes);
        }
    }
}
