//! Content addresses of blocks and tree nodes.

use std::{fmt, str::FromStr};

/// The content address of one block or one tree node: keyed BLAKE3 of its plain bytes, 32 bytes.
///
/// The all-zero digest is [`Digest::HOLE`]: a block, or a whole subtree, of zeros, which is
/// never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// What stands for content that is all zero, at every level of the tree.
    pub const HOLE: Self = Self([0; 32]);

    /// Wraps the 32 bytes of a digest.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether this stands for all-zero content.
    pub fn is_hole(&self) -> bool {
        *self == Self::HOLE
    }

    /// The first eight bytes as a number. Digests are uniformly distributed, so this serves as a
    /// ready-made hash for filters, sharding and interpolation.
    #[inline]
    pub fn prefix(&self) -> u64 {
        self.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_hole() { f.write_str("hole") } else { fmt::Display::fmt(self, f) }
    }
}

/// Why a text is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} lower-case hexadecimal digits")]
pub struct ParseHexError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// How many digits are wanted.
    pub digits: usize,
}

impl FromStr for Digest {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, ParseHexError> {
        parse_hex(text).map(Self)
    }
}

/// Parses exactly 64 lower-case hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Result<[u8; 32], ParseHexError> {
    let error = || ParseHexError { text: text.chars().take(80).collect(), digits: 64 };
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return Err(error());
    }
    let mut bytes = [0; 32];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) else { return Err(error()) };
        *byte = (high << 4) | low;
    }
    Ok(bytes)
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest::new(std::array::from_fn(|i| u8::try_from(i * 7).expect("small")));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.prefix(), 0x0007_0e15_1c23_2a31);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "ab", &"g".repeat(64), &"A".repeat(64), &"a".repeat(63), &"é".repeat(32)]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
