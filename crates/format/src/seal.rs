//! AES-256-GCM with a key that is used for one object only.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// A key for one object: one pack, or one sealed metadata object.
///
/// The nonce is the ordinal of the record within the object. One writer seals one object once,
/// under a key derived from a fresh random salt, so that a pair of key and nonce never repeats.
pub struct SealKey(LessSafeKey);

impl SealKey {
    /// Bytes that sealing adds: the authentication tag.
    pub const OVERHEAD: usize = 16;

    /// Wraps a derived key.
    #[allow(clippy::expect_used, reason = "a 32-byte key is always accepted")]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key")))
    }

    fn nonce(ordinal: u32) -> Nonce {
        let mut nonce = [0; 12];
        for (byte, value) in nonce.iter_mut().zip(ordinal.to_le_bytes()) {
            *byte = value;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `data` in place and returns the tag, which belongs behind it.
    pub(crate) fn seal(&self, ordinal: u32, aad: &[u8], data: &mut [u8]) -> Option<[u8; 16]> {
        let tag =
            self.0.seal_in_place_separate_tag(Self::nonce(ordinal), Aad::from(aad), data).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Decrypts `data` (ciphertext and tag) in place; `None` if it is not authentic.
    pub(crate) fn open<'a>(
        &self,
        ordinal: u32,
        aad: &[u8],
        data: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Self::nonce(ordinal), Aad::from(aad), data).ok()
    }
}
