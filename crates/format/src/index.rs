//! Index objects: the trailers of many packs in one sealed object, so that a vault opens fast.
//!
//! The index is a cache: everything in it can be read from the packs themselves.
//!
//! ```text
//!  count of packs (u32), then for each: PackRecord of 97 bytes, its entries, its bases
//! ```

use strongroom_base::{Digest, KeyId, PackId};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use crate::{
    FormatError,
    pack::{self, Contents, Header},
};

/// The plain content of an index object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexObject {
    /// Tables of contents.
    pub packs: Vec<Contents>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PackRecord {
    id: [u8; 32],
    /// The kind in the low 4 bits, the packing in the high 4.
    kind: u8,
    key_id: [u8; 16],
    salt: [u8; 32],
    size: U64,
    records: U32,
    bases: U32,
}
const _: () = assert!(size_of::<PackRecord>() == 97);

impl IndexObject {
    /// Records after which a writer starts another index object: about 24 MB.
    pub const TARGET_RECORDS: usize = 512 * 1024;

    /// Its bytes, before sealing.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let count = |len: usize| {
            u32::try_from(len).map_err(|_| FormatError::TooLarge { what: "index object" })
        };
        let mut bytes = count(self.packs.len())?.to_le_bytes().to_vec();
        for contents in &self.packs {
            let record = PackRecord {
                id: *contents.id.as_bytes(),
                kind: contents.header.kind_and_packing(),
                key_id: contents.header.key_id.to_bytes(),
                salt: contents.header.salt,
                size: contents.size.into(),
                records: count(contents.entries.len())?.into(),
                bases: count(contents.bases.len())?.into(),
            };
            bytes.extend_from_slice(record.as_bytes());
            pack::encode_table(&contents.entries, &contents.bases, &mut bytes);
        }
        Ok(bytes)
    }

    /// Reads and checks its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let error = |reason| FormatError::Layout { what: "index object", offset: 0, reason };
        let (count, mut rest) =
            U32::read_from_prefix(bytes).map_err(|_| error("shorter than its count"))?;
        let mut packs = Vec::new();
        for _ in 0..count.get() {
            let (record, after) =
                PackRecord::read_from_prefix(rest).map_err(|_| error("shorter than its packs"))?;
            let (kind, packing) =
                pack::kind_and_packing_of(record.kind).ok_or(error("unknown kind of pack"))?;
            let footer =
                pack::footer_of(record.size.get(), record.records.get(), record.bases.get())
                    .ok_or(error("impossible counts"))?;
            let (table, after) = after
                .split_at_checked(footer.table_len())
                .ok_or(error("shorter than its entries"))?;
            let (entries, bases) = footer.decode_table(table)?;
            rest = after;
            packs.push(Contents {
                id: PackId::new(record.id),
                header: Header {
                    kind,
                    key_id: KeyId::from_bytes(record.key_id),
                    salt: record.salt,
                    packing,
                },
                size: record.size.get(),
                entries,
                bases,
            });
        }
        if rest.is_empty() { Ok(Self { packs }) } else { Err(error("bytes after its end")) }
    }

    /// Every record's digest, with the pack it is in.
    pub fn digests(&self) -> impl Iterator<Item = (PackId, Digest)> {
        self.packs.iter().flat_map(|pack| pack.entries.iter().map(|entry| (pack.id, entry.digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::tests::sample_contents;
    use proptest::prelude::*;

    #[test]
    fn round_trip() {
        let index = IndexObject { packs: vec![sample_contents(), sample_contents()] };
        assert_eq!(IndexObject::decode(&index.encode().expect("encodes")), Ok(index));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(flip in 0_usize..1000, cut in 0_usize..1000, value in any::<u8>()) {
            let index = IndexObject { packs: vec![sample_contents()] };
            let mut bytes = index.encode().expect("encodes");
            let len = bytes.len();
            bytes[flip % len] ^= value;
            bytes.truncate(len - cut % len);
            if let Ok(decoded) = IndexObject::decode(&bytes) {
                prop_assert_eq!(decoded.encode().expect("encodes"), bytes);
            }
        }
    }
}
