//! A key slot: one way to open a vault.
//!
//! The object `keys/<vault id>/slots/<slot id>.json` says how a key-encryption key (KEK) is had,
//! and carries, sealed under it, the slot's private X25519 key and the vault's first master key.
//! Which slots a vault has, and the newer master keys, is in the key ring ([`crate::ring`]).
//!
//! This module knows the bytes. The crate `keys` decides which slot opens a vault.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{KeyId, SlotId, VaultId};
use zeroize::Zeroizing;

use crate::{
    FormatError,
    secret::{MasterKey, SecretKey},
    text::{self, Frame},
};

const WHAT: &str = "key slot";
const KIND: &str = "strongroom key slot";

/// The plain part of a slot object. Bound to its sealed part: nobody can change it unnoticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotHead {
    kind: String,
    format: u16,
    /// The vault that it opens.
    pub vault: VaultId,
    /// The slot.
    pub slot: SlotId,
    /// A name for people.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// The vault's first master key, which is sealed in this object.
    pub first_key: KeyId,
    /// The slot's public X25519 key.
    #[serde(with = "text::bytes")]
    pub public_key: [u8; 32],
    /// How the key-encryption key is had.
    pub kek: Kek,
}

/// How a slot's key-encryption key is had. Every slot has its own salt, so that no two slots have
/// the same key-encryption key, whatever the users do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Kek {
    /// Argon2id of a passphrase.
    Passphrase {
        /// What guessing costs.
        cost: Argon2Cost,
        /// Random.
        #[serde(with = "text::bytes")]
        salt: [u8; 32],
    },
    /// HKDF of a key file's content.
    KeyFile {
        /// Random.
        #[serde(with = "text::bytes")]
        salt: [u8; 32],
        /// Derived from the key file and the salt; tells a wrong file at once.
        #[serde(with = "text::bytes")]
        fingerprint: [u8; 16],
    },
    /// What a PKCS#11 token's AES key makes of a challenge.
    Pkcs11 {
        /// The token's label, for people.
        token: String,
        /// The key object's label or id within the token, for people.
        object: String,
        /// Random; encrypted by the token with AES-CBC.
        #[serde(with = "text::bytes")]
        challenge: [u8; 64],
    },
}

impl Kek {
    /// The kind's name in listings.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase",
            Self::KeyFile { .. } => "key_file",
            Self::Pkcs11 { .. } => "pkcs11",
        }
    }
}

/// Parameters of Argon2id, within limits that no stored object can exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Argon2CostText", into = "Argon2CostText")]
pub struct Argon2Cost {
    memory_kib: u32,
    passes: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Argon2CostText {
    memory_kib: u32,
    passes: u32,
}

impl Argon2Cost {
    /// What new slots get: about a third of a second of one core, and 128 MiB.
    pub const DEFAULT: Self = Self { memory_kib: 128 * 1024, passes: 3 };

    /// Checks parameters: 8 MiB to 1 GiB of memory, 1 to 16 passes, and at most as much work as
    /// 4 passes over 1 GiB.
    pub const fn new(memory_kib: u32, passes: u32) -> Option<Self> {
        let memory_fits = memory_kib >= 8 * 1024 && memory_kib <= 1024 * 1024;
        let passes_fit = passes >= 1 && passes <= 16;
        let work_fits = memory_kib.saturating_mul(passes) <= 4 * 1024 * 1024;
        if memory_fits && passes_fit && work_fits {
            Some(Self { memory_kib, passes })
        } else {
            None
        }
    }

    /// Memory, in KiB.
    pub const fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub const fn passes(self) -> u32 {
        self.passes
    }
}

impl TryFrom<Argon2CostText> for Argon2Cost {
    type Error = String;

    fn try_from(cost: Argon2CostText) -> Result<Self, String> {
        Self::new(cost.memory_kib, cost.passes).ok_or_else(|| {
            format!("Argon2 with {} KiB and {} passes is refused", cost.memory_kib, cost.passes)
        })
    }
}

impl From<Argon2Cost> for Argon2CostText {
    fn from(cost: Argon2Cost) -> Self {
        Self { memory_kib: cost.memory_kib, passes: cost.passes }
    }
}

/// What a slot keeps sealed under its key-encryption key: 64 bytes.
#[derive(Clone, Debug)]
pub struct SlotSecret {
    /// The slot's private X25519 key, for newer master keys.
    pub private_key: SecretKey,
    /// The vault's first master key. Here, and not only sealed to the public key, because
    /// anybody can seal to a public key, but only a holder of the KEK can have written this.
    pub first_key: MasterKey,
}

impl SlotSecret {
    /// The bytes to be sealed.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([*self.private_key.as_bytes(), *self.first_key.secret().as_bytes()].concat())
    }

    /// Takes unsealed bytes apart; `None` if they are not 64.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (private_key, first_key) = bytes.split_first_chunk::<32>()?;
        let first_key: &[u8; 32] = first_key.try_into().ok()?;
        Some(Self {
            private_key: SecretKey::new(*private_key),
            first_key: MasterKey::new(SecretKey::new(*first_key)),
        })
    }
}

/// A slot object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The plain part.
    pub head: SlotHead,
    /// The plain part's exact bytes: the associated data of the sealed part.
    pub head_text: String,
    /// [`SlotSecret`], encrypted, with its tag.
    pub sealed: Vec<u8>,
}

impl Slot {
    /// Most bytes of the object.
    pub const MAX_LEN: u64 = 16 * 1024;
    /// Most bytes of a label.
    pub const MAX_LABEL: usize = 200;

    /// Makes the plain part of a slot and returns it with its bytes, to be sealed together with
    /// the secret.
    pub fn head(
        (vault, slot, first_key): (VaultId, SlotId, KeyId),
        label: &str,
        created: Timestamp,
        public_key: [u8; 32],
        kek: Kek,
    ) -> Result<(SlotHead, String), FormatError> {
        let head = SlotHead {
            kind: KIND.to_owned(),
            format: text::FORMAT,
            vault,
            slot,
            label: label.to_owned(),
            created,
            first_key,
            public_key,
            kek,
        };
        let head_text = text::head_text(&head, WHAT)?;
        Ok((head, head_text))
    }

    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        text::encode(&self.head_text, &self.sealed, WHAT)
    }

    /// Reads and checks an object; what is sealed in it is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let frame = Frame::decode(bytes, Self::MAX_LEN, WHAT)?;
        let head: SlotHead = frame.head(KIND, WHAT)?;
        let texts = match &head.kek {
            Kek::Pkcs11 { token, object, .. } => [head.label.as_str(), token, object],
            Kek::Passphrase { .. } | Kek::KeyFile { .. } => [head.label.as_str(), "", ""],
        };
        if texts.iter().any(|text| !label_is_valid(text)) {
            let reason = "a label is too long or has control characters".to_owned();
            return Err(FormatError::Text { what: WHAT, reason });
        }
        Ok(Self { head, head_text: frame.head.to_owned(), sealed: frame.seal })
    }
}

/// Whether a text may label a slot: at most [`Slot::MAX_LABEL`] bytes, no control characters.
pub fn label_is_valid(label: &str) -> bool {
    label.len() <= Slot::MAX_LABEL && !label.chars().any(char::is_control)
}

/// For fuzzing: reads any bytes.
#[doc(hidden)]
pub fn fuzz_slot(bytes: &[u8]) {
    if let Ok(slot) = Slot::decode(bytes) {
        assert_eq!(slot.encode().ok().as_deref(), Some(bytes), "one spelling per object");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(label: &str, kek: Kek) -> Slot {
        let ids =
            (VaultId::from_bytes([1; 16]), SlotId::from_bytes([2; 16]), KeyId::from_bytes([3; 16]));
        let (head, head_text) =
            Slot::head(ids, label, Timestamp::UNIX_EPOCH, [4; 32], kek).expect("head");
        Slot { head, head_text, sealed: vec![5; 80] }
    }

    fn kek() -> Kek {
        Kek::Passphrase { cost: Argon2Cost::DEFAULT, salt: [6; 32] }
    }

    #[test]
    fn hostile_texts_are_refused() {
        let good = String::from_utf8(slot("x", kek()).encode().expect("encodes")).expect("text");
        assert!(Slot::decode(good.as_bytes()).is_ok());
        for (from, to) in [
            ("131072", "4294967295"),
            ("131072", "1"),
            ("\"passes\":3", "\"passes\":0"),
            ("\"passes\":3", "\"passes\":3,\"lanes\":9"),
            ("\"label\":\"x\"", "\"label\":\"x\",\"label\":\"y\""),
            ("\"label\":\"x\"", "\"label\":\"\\u0007\""),
            ("{\"head\"", "{ \"head\""),
            ("\"seal\"", "\"more\":1,\"seal\""),
            ("BQUFBQU=", "BQUFBQV="),
            ("passphrase", "retina"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good, "{from}");
            assert!(matches!(Slot::decode(bad.as_bytes()), Err(FormatError::Text { .. })), "{bad}");
        }
        let newer = good.replace("\"format\":1", "\"format\":2,\"more\":true");
        assert!(matches!(
            Slot::decode(newer.as_bytes()),
            Err(FormatError::Version { found: 2, .. })
        ));
        let other = good.replace("strongroom key slot", "strongroom key ring");
        assert!(matches!(Slot::decode(other.as_bytes()), Err(FormatError::Magic { .. })));
        let long = [good.as_bytes(), &vec![b' '; 20_000]].concat();
        assert!(Slot::decode(&long).is_err());
        assert!(Slot::decode("[".repeat(9000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn slots_round_trip(label in "\\PC{0,60}", salt: [u8; 32], challenge: [u8; 32]) {
            prop_assume!(label_is_valid(&label));
            let challenge = [challenge; 2].concat().try_into().expect("64 bytes");
            for kek in [
                Kek::KeyFile { salt, fingerprint: [9; 16] },
                Kek::Passphrase { cost: Argon2Cost::DEFAULT, salt },
                Kek::Pkcs11 { token: label.clone(), object: label.clone(), challenge },
            ] {
                let slot = slot(&label, kek);
                prop_assert_eq!(Slot::decode(&slot.encode().expect("encodes")), Ok(slot));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), at: usize, byte: u8) {
            fuzz_slot(&bytes);
            let mut text = slot("x", kek()).encode().expect("encodes");
            let at = at % text.len();
            text[at] = byte;
            fuzz_slot(&text);
            crate::ring::fuzz_ring(&bytes);
            crate::ring::fuzz_ring(&text);
        }
    }
}
