//! Secrets in memory: overwritten when dropped, never printed.
//!
//! [`MasterKey`] is the root of everything sealed in a vault. It never encrypts anything itself:
//! each use has its own key, derived under its own label.

use std::fmt;

use aws_lc_rs::hkdf;
use strongroom_base::{Entropy, EntropyExt as _};
use zeroize::{Zeroize as _, ZeroizeOnDrop};

/// 32 secret bytes: a key. Overwritten when dropped; its `Debug` form is empty.
///
/// Deliberately neither `Copy` nor comparable: compare tags made with keys, not keys.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Takes over a key. The caller's copy is the caller's to overwrite.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new random key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = entropy.array();
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The secret bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HKDF-SHA256 of this key, for one use.
    ///
    /// `label` names the use and must not contain a zero byte; `context` tells several keys of one
    /// use apart (a salt, an id). Keys of different pairs of label and context are independent.
    #[allow(clippy::expect_used, reason = "32 bytes are always within HKDF's limit")]
    #[must_use]
    pub fn derive(&self, label: &str, context: &[u8]) -> Self {
        let info = [label.as_bytes(), &[0], context];
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"strongroom 1").extract(&self.0);
        let mut key = Self([0; 32]);
        prk.expand(&info, hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key.0))
            .expect("HKDF-SHA256 yields 32 bytes");
        key
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// A master key of a vault: 256 random bits from which all keys of data and metadata derive.
#[derive(Clone, Debug, ZeroizeOnDrop)]
pub struct MasterKey(SecretKey);

impl MasterKey {
    /// Takes over a key.
    pub const fn new(key: SecretKey) -> Self {
        Self(key)
    }

    /// A new random master key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(SecretKey::generate(entropy))
    }

    /// The key for one use; see [`SecretKey::derive`].
    pub fn derive(&self, label: &str, context: &[u8]) -> SecretKey {
        self.0.derive(label, context)
    }

    /// The key itself, to be sealed to a slot or under another master key; for nothing else.
    pub const fn secret(&self) -> &SecretKey {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_keys_are_fixed_and_independent() {
        let key = MasterKey::new(SecretKey::new([7; 32]));
        // Computed with Python: HKDF(salt=b"strongroom 1", ikm=b"\7"*32, info=b"pack\0salt").
        let expected = strongroom_base::Digest::new(*key.derive("pack", b"salt").as_bytes());
        assert_eq!(
            expected.to_string(),
            "94b26e7f30310d0c778cff874d99ec2999c99dade9ffa6cc0954050b7d5b0f31"
        );
        let others =
            [key.derive("pack", b"tlas"), key.derive("packs", b"alt"), key.derive("pac", b"ksalt")];
        assert!(
            others.iter().all(|other| other.as_bytes() != key.derive("pack", b"salt").as_bytes())
        );
    }

    #[test]
    fn keys_are_wiped() {
        const fn is_wiped<T: ZeroizeOnDrop>() {}
        const { is_wiped::<SecretKey>() };
        const { is_wiped::<MasterKey>() };
    }

    #[test]
    fn debug_shows_nothing() {
        let key = MasterKey::new(SecretKey::new([0x41; 32]));
        assert_eq!(format!("{key:?}"), "MasterKey(SecretKey(..))");
    }
}
