//! The common frame of the key objects: a JSON head and a seal over its exact bytes.
//!
//! ```text
//! {"head":{...},"seal":"<base64>"}\n
//! ```
//!
//! The seal authenticates the head's bytes as they are written, so that nothing depends on two
//! programs printing JSON alike; around the head and the seal there is exactly one spelling, so
//! that no byte of an object can change unnoticed.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::FormatError;

/// The format version of key objects.
pub(crate) const FORMAT: u16 = 1;

/// Bytes that are written as base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        bytes::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes::deserialize::<Vec<u8>, D>(deserializer).map(Self)
    }
}

/// For `#[serde(with)]`: byte vectors, and arrays of exactly their length, as base64.
pub(crate) mod bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(
        bytes: impl AsRef<[u8]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, T: TryFrom<Vec<u8>>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(|_| D::Error::custom("not base64"))?;
        let len = bytes.len();
        T::try_from(bytes).map_err(|_| D::Error::custom(format!("{len} bytes are too few or many")))
    }
}

/// An object taken apart, its head still text.
pub(crate) struct Frame<'a> {
    /// The head's bytes: what the seal authenticates.
    pub(crate) head: &'a str,
    /// Ciphertext or authentication tag.
    pub(crate) seal: Vec<u8>,
}

impl<'a> Frame<'a> {
    /// Takes an object apart. `what` names the structure in errors.
    pub(crate) fn decode(
        bytes: &'a [u8],
        max_len: u64,
        what: &'static str,
    ) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Outer<'a> {
            #[serde(borrow)]
            head: &'a RawValue,
            seal: Base64,
        }
        let odd = |reason: String| FormatError::Text { what, reason };
        if u64::try_from(bytes.len()).map_or(true, |len| len > max_len) {
            return Err(odd(format!("longer than {max_len} bytes")));
        }
        let outer: Outer<'a> =
            serde_json::from_slice(bytes).map_err(|error| odd(error.to_string()))?;
        let frame = Self { head: outer.head.get(), seal: outer.seal.0 };
        if encode(frame.head, &frame.seal, what)? != bytes {
            return Err(odd("unusual spelling".to_owned()));
        }
        Ok(frame)
    }

    /// Reads the head, after a look at its kind and version.
    pub(crate) fn head<T: DeserializeOwned>(
        &self,
        kind: &str,
        what: &'static str,
    ) -> Result<T, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            kind: String,
            format: u16,
        }
        let odd = |error: serde_json::Error| FormatError::Text { what, reason: error.to_string() };
        let version: Version = serde_json::from_str(self.head).map_err(odd)?;
        if version.kind != kind {
            return Err(FormatError::Magic { what });
        }
        if version.format != FORMAT {
            return Err(FormatError::Version { what, found: version.format, known: FORMAT });
        }
        serde_json::from_str(self.head).map_err(odd)
    }
}

/// The bytes of a head, as they are written and sealed.
pub(crate) fn head_text<T: Serialize>(head: &T, what: &'static str) -> Result<String, FormatError> {
    serde_json::to_string(head)
        .map_err(|error| FormatError::Text { what, reason: error.to_string() })
}

/// Puts an object together.
pub(crate) fn encode(head: &str, seal: &[u8], what: &'static str) -> Result<Vec<u8>, FormatError> {
    let seal = serde_json::to_string(&Base64(seal.to_vec()))
        .map_err(|error| FormatError::Text { what, reason: error.to_string() })?;
    Ok(format!("{{\"head\":{head},\"seal\":{seal}}}\n").into_bytes())
}
