//! Checksums of bodies: MD5 and CRC-64/NVME, as requests give them and as answers repeat them.

use base64::{Engine, engine::general_purpose::STANDARD};
use crc_fast::CrcAlgorithm;
use md5::{Digest, Md5};

use crate::{Code, Headers, Refusal, Version};

/// The version since which an answer has the CRC-64 of a body that came without MD5.
const CRC64_ANSWERS: Version = Version::new(2019, 2, 2);

/// A checksum that a request gives, or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// `Content-MD5`.
    Md5([u8; 16]),
    /// `x-ms-content-crc64`.
    Crc64(u64),
}

impl Checksum {
    /// The checksum that a request gives in these headers. Both together are refused.
    fn named(headers: &Headers, md5: &str, crc64: &str) -> Result<Option<Self>, Refusal> {
        let (md5, crc64) = (parse_md5(headers, md5)?, parse_crc64(headers, crc64)?);
        match (md5, crc64) {
            (Some(_), Some(_)) => Err(Code::BothCrc64AndMd5HeaderPresent.into()),
            (Some(md5), None) => Ok(Some(Self::Md5(md5))),
            (None, crc64) => Ok(crc64.map(Self::Crc64)),
        }
    }

    /// The checksum of a request's body.
    pub fn of_body(headers: &Headers) -> Result<Option<Self>, Refusal> {
        Self::named(headers, "content-md5", "x-ms-content-crc64")
    }

    /// The checksum of the source of a copy.
    pub fn of_source(headers: &Headers) -> Result<Option<Self>, Refusal> {
        Self::named(headers, "x-ms-source-content-md5", "x-ms-source-content-crc64")
    }

    /// The header with it.
    pub fn to_header(self) -> (&'static str, String) {
        match self {
            Self::Md5(md5) => ("content-md5", STANDARD.encode(md5)),
            Self::Crc64(crc) => ("x-ms-content-crc64", encode_crc64(crc)),
        }
    }

    /// The kind of checksum that an answer gives to a request with this one.
    pub fn answered(requested: Option<Self>, version: Version) -> ChecksumKind {
        match requested {
            Some(Self::Md5(_)) => ChecksumKind::Md5,
            _ if version < CRC64_ANSWERS => ChecksumKind::Md5,
            _ => ChecksumKind::Crc64,
        }
    }
}

/// A kind of checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// MD5.
    Md5,
    /// CRC-64/NVME.
    Crc64,
}

/// MD5 and CRC-64/NVME of bytes that come in parts; only those that are wanted are computed.
#[derive(Clone)]
pub struct Checksums {
    md5: Option<Md5>,
    crc64: Option<crc_fast::Digest>,
}

impl std::fmt::Debug for Checksums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wanted = (self.md5.is_some(), self.crc64.is_some());
        f.debug_struct("Checksums").field("wanted", &wanted).finish()
    }
}

impl Checksums {
    /// Computes what is asked for.
    pub fn new(kinds: impl IntoIterator<Item = ChecksumKind>) -> Self {
        let mut checksums = Self { md5: None, crc64: None };
        for kind in kinds {
            match kind {
                ChecksumKind::Md5 => checksums.md5 = Some(Md5::new()),
                ChecksumKind::Crc64 => {
                    checksums.crc64 = Some(crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme));
                }
            }
        }
        checksums
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(crc64) = &mut self.crc64 {
            crc64.update(bytes);
        }
    }

    /// The checksum of this kind, if it was asked for.
    pub fn get(&self, kind: ChecksumKind) -> Option<Checksum> {
        match kind {
            ChecksumKind::Md5 => Some(Checksum::Md5(self.md5.clone()?.finalize().into())),
            ChecksumKind::Crc64 => Some(Checksum::Crc64(self.crc64.as_ref()?.finalize())),
        }
    }

    /// Checks what a request gave. A kind that is not computed cannot be checked and is refused.
    pub fn check(&self, expected: Checksum) -> Result<(), Refusal> {
        let (kind, code) = match expected {
            Checksum::Md5(_) => (ChecksumKind::Md5, Code::Md5Mismatch),
            Checksum::Crc64(_) => (ChecksumKind::Crc64, Code::Crc64Mismatch),
        };
        let found = self.get(kind);
        if found == Some(expected) {
            return Ok(());
        }
        let shown = |checksum: Checksum| checksum.to_header().1;
        Err(Refusal::new(code)
            .with("UserSpecifiedChecksum", shown(expected))
            .with("ServerCalculatedChecksum", found.map(shown).unwrap_or_default()))
    }
}

/// CRC-64/NVME of bytes.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// MD5 of bytes.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// As headers have it: the eight bytes, the lowest first, in base64.
pub fn encode_crc64(crc: u64) -> String {
    STANDARD.encode(crc.to_le_bytes())
}

/// An MD5 in a header.
pub(crate) fn parse_md5(headers: &Headers, name: &str) -> Result<Option<[u8; 16]>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    parse_md5_text(value).map(Some).ok_or_else(|| {
        Refusal::new(Code::InvalidMd5).with("HeaderName", name).with("HeaderValue", value)
    })
}

/// An MD5 in base64.
pub(crate) fn parse_md5_text(text: &str) -> Option<[u8; 16]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// A CRC-64 in a header.
pub(crate) fn parse_crc64(headers: &Headers, name: &str) -> Result<Option<u64>, Refusal> {
    headers.parsed(name, |value| {
        STANDARD.decode(value).ok().and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_checksums_are_computed() {
        // The check value of CRC-64/NVME in the catalogue of CRC algorithms.
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(Checksum::Md5(md5(b"hello")).to_header().1, "XUFAKrxLKna5cZ2REBfFkg==");
        assert_eq!(encode_crc64(crc64(b"123456789")), "iJh5CoYUi64=");
    }

    #[test]
    fn a_checksum_of_a_request_is_checked_in_its_form() {
        let of = |headers: &[(&str, &str)]| {
            let headers = Headers::of(headers.iter().copied()).expect("headers");
            Checksum::of_body(&headers).map_err(|refusal| refusal.code())
        };
        let (md5, crc) = ("XUFAKrxLKna5cZ2REBfFkg==", "iJh5CoYUi64=");
        assert!(matches!(of(&[("content-md5", md5)]), Ok(Some(Checksum::Md5(_)))));
        assert!(matches!(of(&[("x-ms-content-crc64", crc)]), Ok(Some(Checksum::Crc64(_)))));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("content-md5", "abc")]), Err(Code::InvalidMd5));
        assert_eq!(of(&[("content-md5", crc)]), Err(Code::InvalidMd5));
        assert_eq!(of(&[("x-ms-content-crc64", md5)]), Err(Code::InvalidHeaderValue));
        let both = [("content-md5", md5), ("x-ms-content-crc64", crc)];
        assert_eq!(of(&both), Err(Code::BothCrc64AndMd5HeaderPresent));
    }

    #[test]
    fn a_mismatch_says_both_values() {
        let mut checksums = Checksums::new([ChecksumKind::Crc64]);
        checksums.update(b"12345");
        checksums.update(b"6789");
        assert_eq!(checksums.check(Checksum::Crc64(0xae8b_1486_0a79_9888)), Ok(()));
        let refusal = checksums.check(Checksum::Crc64(1)).expect_err("differs");
        assert_eq!(refusal.code(), Code::Crc64Mismatch);
        assert_eq!(refusal.details()[1], ("ServerCalculatedChecksum", "iJh5CoYUi64=".to_owned()));
        assert!(checksums.check(Checksum::Md5([0; 16])).is_err());
    }

    #[test]
    fn an_answer_has_md5_for_md5_and_for_old_clients() {
        let (old, new) = (Version::new(2018, 11, 9), Version::OURS);
        assert_eq!(Checksum::answered(None, old), ChecksumKind::Md5);
        assert_eq!(Checksum::answered(None, new), ChecksumKind::Crc64);
        assert_eq!(Checksum::answered(Some(Checksum::Md5([0; 16])), new), ChecksumKind::Md5);
        assert_eq!(Checksum::answered(Some(Checksum::Crc64(0)), new), ChecksumKind::Crc64);
    }

    proptest! {
        #[test]
        fn parts_make_the_checksum_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            at in 0..3000_usize,
        ) {
            let at = at.min(bytes.len());
            let mut checksums = Checksums::new([ChecksumKind::Md5, ChecksumKind::Crc64]);
            checksums.update(&bytes[..at]);
            checksums.update(&bytes[at..]);
            prop_assert_eq!(checksums.check(Checksum::Md5(md5(&bytes))), Ok(()));
            prop_assert_eq!(checksums.check(Checksum::Crc64(crc64(&bytes))), Ok(()));
        }
    }
}
