//! XDR (RFC 4506), as far as libvirt uses it.

/// libvirt's longest string or opaque value (`REMOTE_STRING_MAX`, `VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX`
/// and larger since): nothing longer is taken.
const MAX_LEN: usize = 32 << 20;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Writes values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn i32(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A fixed number of bytes, which is a multiple of 4.
    pub(crate) fn fixed(mut self, bytes: &[u8; 16]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes with their length.
    pub(crate) fn opaque(mut self, bytes: &[u8]) -> Self {
        self = self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        let padding = bytes.len().next_multiple_of(4).saturating_sub(bytes.len());
        self.0.extend(std::iter::repeat_n(0, padding));
        self
    }

    pub(crate) fn string(self, text: &str) -> Self {
        self.opaque(text.as_bytes())
    }

    pub(crate) fn optional_string(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.u32(1).string(text),
            None => self.u32(0),
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads values.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    pub(crate) fn fixed(&mut self) -> Result<[u8; 16], Malformed> {
        self.take()
    }

    pub(crate) fn opaque(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if len > MAX_LEN {
            return Err(Malformed);
        }
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        let padding = len.next_multiple_of(4).saturating_sub(len);
        self.0 = rest.get(padding..).ok_or(Malformed)?;
        Ok(bytes)
    }

    pub(crate) fn string(&mut self) -> Result<String, Malformed> {
        // Names of machines are not always UTF-8; what is shown need not be exact.
        Ok(String::from_utf8_lossy(self.opaque()?).into_owned())
    }

    pub(crate) fn optional_string(&mut self) -> Result<Option<String>, Malformed> {
        Ok(if self.u32()? == 0 { None } else { Some(self.string()?) })
    }

    /// A list; `item` reads one.
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        // Every item takes at least 4 bytes, so a lying count ends soon and takes no memory.
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

// The same as functions: a method's path is not general enough where a reader is asked for.

/// Reads a string.
pub(crate) fn text(answer: &mut Decoder<'_>) -> Result<String, Malformed> {
    answer.string()
}

/// Reads a string that may be missing.
pub(crate) fn optional_text(answer: &mut Decoder<'_>) -> Result<Option<String>, Malformed> {
    answer.optional_string()
}

/// Reads a number of 32 bits.
pub(crate) fn number(answer: &mut Decoder<'_>) -> Result<i32, Malformed> {
    answer.i32()
}

/// Reads a number of 64 bits.
pub(crate) fn number64(answer: &mut Decoder<'_>) -> Result<u64, Malformed> {
    answer.u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strings_are_padded() {
        let bytes = Encoder::default().string("abcde").optional_string(None).u32(7).into_bytes();
        assert_eq!(bytes, b"\0\0\0\x05abcde\0\0\0\0\0\0\0\0\0\0\x07");
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.string(), Ok("abcde".to_owned()));
        assert_eq!(decoder.optional_string(), Ok(None));
        assert_eq!(decoder.u32(), Ok(7));
        assert_eq!(decoder.u32(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(&bytes);
            let list = decoder.list(|item| Ok((item.optional_string()?, item.u64()?)));
            prop_assert!(list.map_or(0, |list| list.len()) <= bytes.len());
        }

        #[test]
        fn strings_come_back(texts in prop::collection::vec("\\PC{0,20}", 0..8)) {
            let encoder = Encoder::default().u32(u32::try_from(texts.len()).expect("small"));
            let bytes = texts.iter().fold(encoder, |encoder, text| encoder.string(text)).into_bytes();
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert_eq!(Decoder::new(&bytes).list(text), Ok(texts));
        }
    }
}
