//! Keys of accounts.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The most bytes of a key.
const MAX_KEY: usize = 1024;

/// A key of an account. It signs by HMAC-SHA256, and is never shown.
#[derive(Clone)]
pub struct AccountKey(Zeroizing<Vec<u8>>);

/// Not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key of the storage account is not in base64")]
pub struct BadKey;

impl AccountKey {
    /// The key with these bytes; Azure's have 64.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// Reads base64.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new).map_err(|_| BadKey)?;
        if bytes.is_empty() || bytes.len() > MAX_KEY { Err(BadKey) } else { Ok(Self(bytes)) }
    }

    /// The key in base64, as a connection string has it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(&*self.0))
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    /// The signature of text, in base64.
    pub fn sign(&self, text: &str) -> String {
        STANDARD.encode(hmac::sign(&self.hmac(), text.as_bytes()))
    }

    /// Whether this is the signature of text. Takes the same time for every signature of the same length.
    pub fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        hmac::verify(&self.hmac(), text.as_bytes(), signature).is_ok()
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(..)")
    }
}

/// A signature: base64 of 32 bytes.
pub(super) fn parse_signature(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok().filter(|bytes| bytes.len() == 32)
}
