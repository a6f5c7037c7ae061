//! UTF-16, in which Windows keeps names.

use crate::bytes::Le;

/// The units of a little-endian text.
pub(crate) fn units(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| Le(pair).u16(0))
}

/// A text as bytes: UTF-8, where half of a pair that stands alone is kept as if it were a character (WTF-8), so that
/// different names stay different.
pub(crate) fn wtf8(units: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut text = Vec::new();
    let low = |unit: u16| u8::try_from(unit & 0x3f).unwrap_or(0) | 0x80;
    for decoded in char::decode_utf16(units) {
        match decoded {
            Ok(character) => text.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let half = half.unpaired_surrogate();
                text.extend([0xed, low(half >> 6), low(half)]);
            }
        }
    }
    text
}

/// A name in capitals of this table, which has one for every unit that it knows; none of what is no text.
pub(crate) fn folded(name: &[u8], capitals: &[u16]) -> Option<Vec<u8>> {
    let name = std::str::from_utf8(name).ok()?;
    let capital = |unit: u16| *capitals.get(usize::from(unit)).unwrap_or(&unit);
    Some(wtf8(name.encode_utf16().map(capital)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_different() {
        let of = |units: &[u16]| wtf8(units.iter().copied());
        assert_eq!(of(&[0x41, 0x540d, 0xd83d, 0xdcc1]), "A名📁".as_bytes());
        assert_eq!(of(&[0xd83d]), b"\xed\xa0\xbd");
        assert_eq!(of(&[0xdcc1, 0xd83d]), b"\xed\xb3\x81\xed\xa0\xbd");
        let capitals: Vec<u16> =
            (0..128).map(|at| if (97..123).contains(&at) { at - 32 } else { at }).collect();
        assert_eq!(folded("Aé.txt".as_bytes(), &capitals).as_deref(), Some("Aé.TXT".as_bytes()));
        assert_eq!(folded(b"\xff", &capitals), None);
    }
}
