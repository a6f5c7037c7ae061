//! Packs round-trip, refuse every damage, and keep their golden bytes.

use proptest::prelude::*;
use strongroom_base::{Digest, KeyId};

use super::*;

fn key() -> SealKey {
    SealKey::new(&[9; 32])
}

fn header() -> Header {
    Header { kind: PackKind::Data, key_id: KeyId::from_bytes([3; 16]), salt: [5; 32] }
}

fn sample() -> FinishedPack {
    let mut builder = PackBuilder::new(header(), key(), 1 << 20).expect("room");
    builder
        .append(RecordKind::BlockZstd, Digest::new([1; 32]), 65536, None, b"compressed bytes")
        .expect("fits");
    builder
        .append(
            RecordKind::BlockDelta,
            Digest::new([2; 32]),
            65536,
            Some(Digest::new([1; 32])),
            b"delta",
        )
        .expect("fits");
    builder.append(RecordKind::BlockStored, Digest::new([4; 32]), 3, None, b"abc").expect("fits");
    builder.finish().expect("finishes")
}

pub(crate) fn sample_contents() -> Contents {
    sample().contents
}

type Read = Vec<(Entry, Option<Digest>, Vec<u8>)>;

/// Reads everything in a pack as a reader would.
fn read(bytes: &[u8], key: &SealKey) -> Result<Read, FormatError> {
    let size = bytes.len().try_into().expect("small");
    Header::parse(bytes)?;
    let footer = Footer::parse(bytes, size)?;
    let start = usize::try_from(footer.trailer_offset).expect("small");
    let mut trailer = bytes[start..start + footer.trailer_len].to_vec();
    let (entries, _) = footer.open_trailer(key, &mut trailer)?;
    entries
        .into_iter()
        .map(|entry| {
            let start = usize::try_from(entry.offset).expect("small");
            let len = usize::try_from(entry.stored_len).expect("small");
            let mut sealed = bytes[start..start + len].to_vec();
            let payload = entry.open(key, &mut sealed)?;
            Ok((entry, payload.base, payload.bytes.to_vec()))
        })
        .collect()
}

#[test]
fn what_was_written_is_read() {
    let pack = sample();
    assert_eq!(Header::parse(&pack.bytes), Ok(header()));
    let records = read(&pack.bytes, &key()).expect("reads");
    assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), pack.contents.entries);
    assert_eq!(records[0].2, b"compressed bytes");
    assert_eq!((records[1].1, &*records[1].2), (Some(Digest::new([1; 32])), &b"delta"[..]));
    assert_eq!(records[2].2, b"abc");
    assert_eq!(
        pack.contents.deltas().map(|(e, b)| (e.ordinal, b)).collect::<Vec<_>>(),
        [(1, Digest::new([1; 32]))]
    );
    assert_eq!(pack_id(&pack.bytes), pack.contents.id);
    let shares: u64 = pack.contents.entries.iter().map(Contents::share_of).sum();
    assert_eq!(Contents::FRAME + shares, pack.contents.size);
}

#[test]
fn golden_bytes() {
    crate::golden::assert_golden("pack-v1.bin", &sample().bytes);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let pack = sample();
    let good = read(&pack.bytes, &key()).expect("reads");
    for byte in 0..pack.bytes.len() {
        for bit in 0..8 {
            let mut bad = pack.bytes.to_vec();
            bad[byte] ^= 1 << bit;
            assert_ne!(pack_id(&bad), pack.contents.id);
            // The key id and the salt decide which key is derived; this test's key is fixed.
            if !(16..64).contains(&byte) {
                assert!(read(&bad, &key()).is_err(), "byte {byte} bit {bit}");
            }
        }
    }
    assert!(read(&pack.bytes, &SealKey::new(&[8; 32])).is_err());
    assert_eq!(good.len(), 3);
}

#[test]
fn a_full_builder_refuses() {
    let mut builder = PackBuilder::new(header(), key(), 1000).expect("room");
    let mut records = 0;
    while builder.fits(100) {
        builder
            .append(RecordKind::BlockStored, Digest::new([7; 32]), 100, None, &[1; 100])
            .expect("fits");
        records += 1;
    }
    assert_eq!(records, 5);
    assert!(
        builder
            .append(RecordKind::BlockStored, Digest::new([7; 32]), 100, None, &[1; 100])
            .is_err()
    );
    assert!(builder.finish().expect("finishes").bytes.len() <= 1000);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Header::parse(&bytes).is_err());
        prop_assert!(Footer::parse(&bytes, 300).is_err());
    }

    #[test]
    fn foreign_trailers_never_panic(cut in 0_usize..400, flip in 0_usize..400) {
        let pack = sample();
        let mut bytes = pack.bytes.to_vec();
        let flip = flip % bytes.len();
        bytes[flip] ^= 0x55;
        bytes.truncate(bytes.len().saturating_sub(cut));
        let size = bytes.len().try_into().expect("small");
        if let (Ok(_), Ok(footer)) = (Header::parse(&bytes), Footer::parse(&bytes, size)) {
            prop_assert!(footer.trailer_len <= bytes.len());
        }
    }
}
