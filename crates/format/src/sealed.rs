//! Sealed metadata objects: manifests, voids, indexes, writers' notes, condemnations.
//!
//! ```text
//!  offset 0   header   64 bytes, plain: magic, version, kind, plain length, key id, salt
//!        64   body     AES-256-GCM of one encoding byte (0 stored, 1 zstd) and the encoded bytes
//! ```
//!
//! The key is derived from the master key and the header's salt for this one object. Kind, plain
//! length and the object's own name are associated data, so an object that a store swaps for
//! another, or moves to another name, is not authentic.

use strongroom_base::KeyId;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

use crate::{
    FormatError, SealKey,
    codec::{Decoder, Encoding},
};

/// What a sealed object is. The number is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedKind {
    /// 1: the manifest of a recovery point.
    Manifest,
    /// 2: consolidated pack trailers.
    Index,
    /// 3: who is writing.
    Writer,
    /// 4: packs that reclaim is about to remove.
    Condemned,
    /// 5: a recovery point that is to be removed by reclaim.
    Deleted,
    /// 6: the description of an item.
    Item,
    /// 7: a pack that cannot be read.
    Damaged,
    /// 8: something that a service keeps beside recovery points.
    Service,
    /// 10: until when a recovery point may not be deleted.
    Lock,
    /// 9: in place of a manifest: nobody will ever publish this point.
    Void,
}

impl SealedKind {
    const fn number(self) -> u8 {
        match self {
            Self::Manifest => 1,
            Self::Index => 2,
            Self::Writer => 3,
            Self::Condemned => 4,
            Self::Deleted => 5,
            Self::Item => 6,
            Self::Damaged => 7,
            Self::Service => 8,
            Self::Lock => 10,
            Self::Void => 9,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Index => "index object",
            Self::Writer => "writer's note",
            Self::Condemned => "condemnation",
            Self::Deleted => "deletion note",
            Self::Item => "item description",
            Self::Damaged => "damage note",
            Self::Service => "object of the service",
            Self::Lock => "lock",
            Self::Void => "void",
        }
    }
}

/// Most plain bytes of a sealed object.
pub const MAX_SEALED_PLAIN: usize = 96 * 1024 * 1024;
/// Most bytes of a sealed object in the store.
pub const MAX_SEALED: u64 = 97 * 1024 * 1024;

const MAGIC: [u8; 8] = *b"SRSEAL\r\n";
const VERSION: u16 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U16,
    kind: u8,
    /// Zero; refused otherwise.
    reserved: u8,
    plain_len: U32,
    key_id: [u8; 16],
    salt: [u8; 32],
}

const HEADER_LEN: usize = size_of::<RawHeader>();
const _: () = assert!(HEADER_LEN == 64);

/// What must be known to derive the key of a sealed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedHeader {
    /// Master key.
    pub key_id: KeyId,
    /// Salt of the object's own key.
    pub salt: [u8; 32],
}

impl SealedHeader {
    /// Reads it off the start of an object.
    pub fn parse(object: &[u8], kind: SealedKind) -> Result<Self, FormatError> {
        let raw = parse_header(object, kind)?;
        Ok(Self { key_id: KeyId::from_bytes(raw.key_id), salt: raw.salt })
    }
}

/// The kind that an object says it is of, where one of several may stand under a name. Nothing is
/// checked: [`open`] does that.
pub fn kind_of(object: &[u8]) -> Option<SealedKind> {
    let (raw, _) = RawHeader::read_from_prefix(object).ok()?;
    let kinds = [SealedKind::Manifest, SealedKind::Void];
    kinds.into_iter().find(|kind| raw.magic == MAGIC && raw.kind == kind.number())
}

fn parse_header(object: &[u8], kind: SealedKind) -> Result<RawHeader, FormatError> {
    let what = kind.what();
    let layout = |reason| FormatError::Layout { what, offset: 0, reason };
    let (raw, _) = RawHeader::read_from_prefix(object).map_err(|_| layout("too short"))?;
    if raw.magic != MAGIC {
        return Err(FormatError::Magic { what });
    }
    if raw.version.get() != VERSION {
        return Err(FormatError::Version { what, found: raw.version.get(), known: VERSION });
    }
    if raw.kind != kind.number() || raw.reserved != 0 {
        return Err(layout("it is another kind of object"));
    }
    Ok(raw)
}

fn associated(header: &RawHeader, name: &str) -> Vec<u8> {
    [header.as_bytes(), name.as_bytes()].concat()
}

/// Seals `plain` as the object `name`. The salt must be fresh and the key derived from it.
pub fn seal(
    kind: SealedKind,
    name: &str,
    header: SealedHeader,
    key: &SealKey,
    plain: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let too_large = || FormatError::TooLarge { what: kind.what() };
    if plain.len() > MAX_SEALED_PLAIN {
        return Err(too_large());
    }
    let raw = RawHeader {
        magic: MAGIC,
        version: VERSION.into(),
        kind: kind.number(),
        reserved: 0,
        plain_len: u32::try_from(plain.len()).map_err(|_| too_large())?.into(),
        key_id: header.key_id.to_bytes(),
        salt: header.salt,
    };
    let mut compressed = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    // An index is mostly digests, which nothing makes smaller: the fast level finds the rest as well.
    let level = if kind == SealedKind::Index { 1 } else { 3 };
    let smaller =
        zstd_safe::compress(&mut compressed, plain, level).is_ok_and(|len| len < plain.len());
    let (encoding, encoded) = if smaller { (1, compressed.as_slice()) } else { (0, plain) };
    let mut object =
        Vec::with_capacity(encoded.len().saturating_add(HEADER_LEN).saturating_add(32));
    object.extend_from_slice(raw.as_bytes());
    object.push(encoding);
    object.extend_from_slice(encoded);
    let aad = associated(&raw, name);
    let tag = object
        .get_mut(HEADER_LEN..)
        .and_then(|body| key.seal(0, &aad, body))
        .ok_or_else(too_large)?;
    object.extend_from_slice(&tag);
    Ok(object)
}

/// Opens the object `name` and returns its plain bytes.
pub fn open(
    kind: SealedKind,
    name: &str,
    key: &SealKey,
    mut object: Vec<u8>,
) -> Result<Vec<u8>, FormatError> {
    let what = kind.what();
    let raw = parse_header(&object, kind)?;
    let offset = u64::try_from(HEADER_LEN).unwrap_or(0);
    let layout = |reason| FormatError::Layout { what, offset, reason };
    let plain_len = usize::try_from(raw.plain_len.get()).unwrap_or(usize::MAX);
    if plain_len > MAX_SEALED_PLAIN {
        return Err(layout("it announces more bytes than are allowed"));
    }
    let body = object.get_mut(HEADER_LEN..).ok_or(layout("too short"))?;
    let opened =
        key.open(0, &associated(&raw, name), body).ok_or(FormatError::Forged { what, offset })?;
    let (encoding, encoded) = opened.split_first().ok_or(layout("empty"))?;
    let mut plain = vec![0; plain_len];
    let encoding = match encoding {
        0 => Encoding::Stored,
        1 => Encoding::Zstd,
        _ => return Err(layout("unknown encoding")),
    };
    Decoder::new()
        .decode(encoding, encoded, None, &mut plain)
        .map_err(|_| FormatError::Compression { what })?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SealedHeader {
        SealedHeader { key_id: KeyId::from_bytes([1; 16]), salt: [2; 32] }
    }

    fn key() -> SealKey {
        SealKey::new(&[7; 32])
    }

    #[test]
    fn opens_only_under_its_own_name_kind_and_key() {
        let plain = b"{\"format\":1}".repeat(50);
        let object =
            seal(SealedKind::Manifest, "points/a/b", header(), &key(), &plain).expect("seals");
        assert!(object.len() < 200, "compressed");
        assert_eq!(SealedHeader::parse(&object, SealedKind::Manifest), Ok(header()));
        let open_as = |kind, name, key| open(kind, name, &key, object.clone());
        assert_eq!(open_as(SealedKind::Manifest, "points/a/b", key()), Ok(plain));
        assert!(open_as(SealedKind::Manifest, "points/a/c", key()).is_err());
        assert!(open_as(SealedKind::Index, "points/a/b", key()).is_err());
        assert!(open_as(SealedKind::Manifest, "points/a/b", SealKey::new(&[8; 32])).is_err());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let object = seal(SealedKind::Writer, "w", header(), &key(), b"hello").expect("seals");
        for at in 0..object.len() {
            let mut bad = object.clone();
            bad[at] ^= 1;
            assert!(open(SealedKind::Writer, "w", &key(), bad).is_err(), "byte {at}");
            assert!(open(SealedKind::Writer, "w", &key(), object[..at].to_vec()).is_err());
        }
    }

    #[test]
    fn golden_bytes() {
        let object =
            seal(SealedKind::Deleted, "deleted/x", header(), &key(), b"golden").expect("seals");
        crate::golden::assert_golden("sealed-v1.bin", &object);
        let name = "service/catalog/00000000000000000000000000";
        let object = seal(SealedKind::Service, name, header(), &key(), b"golden").expect("seals");
        crate::golden::assert_golden("sealed-v1-service.bin", &object);
        let name = "locks/00000000000000000000000000000000/00000000000000000000000000-1795478400";
        let object = seal(SealedKind::Lock, name, header(), &key(), b"golden").expect("seals");
        crate::golden::assert_golden("sealed-v1-lock.bin", &object);
        let name = "points/00000000000000000000000000000000/00000000000000000000000000";
        let text = br#"{"time":"1970-01-01T00:00:00Z","writer":null}"#;
        let object = seal(SealedKind::Void, name, header(), &key(), text).expect("seals");
        crate::golden::assert_golden("sealed-v1-void.bin", &object);
        assert_eq!(kind_of(&object), Some(SealedKind::Void));
        assert_eq!(kind_of(&object[..63]), None);
        assert_eq!(kind_of(b""), None);
    }
}
