//! Packs round-trip, refuse every damage, and keep their golden bytes.

use proptest::prelude::*;
use strongroom_base::{Digest, KeyId};

use super::*;

fn key() -> SealKey {
    SealKey::new(&[9; 32])
}

fn header() -> Header {
    let packing = Packing::Single;
    Header { kind: PackKind::Data, key_id: KeyId::from_bytes([3; 16]), salt: [5; 32], packing }
}

/// A record, a unit of three blocks, a unit of two, a delta.
fn sample_of_units() -> FinishedPack {
    let header = Header { packing: Packing::Tight, ..header() };
    let mut builder = PackBuilder::new(header, key(), 1 << 20).expect("room");
    let digest = |n: u8| Digest::new([n; 32]);
    builder.append(RecordKind::BlockZstd, digest(1), 65536, None, b"one").expect("fits");
    builder.append_unit(&[digest(2), digest(3), digest(4)], b"three blocks").expect("fits");
    builder.append_unit(&[digest(5), digest(2)], b"two").expect("fits");
    let base = Some(digest(3));
    builder.append(RecordKind::BlockDelta, digest(6), 65536, base, b"delta").expect("fits");
    builder.finish().expect("finishes")
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
    crate::golden::assert_golden("pack-v2.bin", &sample_of_units().bytes);
}

#[test]
fn every_block_of_a_unit_is_found() {
    let pack = sample_of_units();
    assert_eq!(Header::parse(&pack.bytes).expect("reads").packing, Packing::Tight);
    let records = read(&pack.bytes, &key()).expect("reads");
    assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), pack.contents.entries);
    let payloads: Vec<&[u8]> = records.iter().map(|record| &*record.2).collect();
    let three = &b"three blocks"[..];
    assert_eq!(payloads, [b"one", three, three, three, b"two", b"two", b"delta"]);
    let parts: Vec<_> = records.iter().map(|(e, ..)| (e.part.at, e.part.of)).collect();
    assert_eq!(parts, [(0, 1), (0, 3), (1, 3), (2, 3), (0, 2), (1, 2), (0, 1)]);
    assert!(records.iter().all(|(entry, ..)| entry.plain_len == 65536));
    let shares: u64 = pack.contents.entries.iter().map(Contents::share_of).sum();
    assert_eq!(Contents::FRAME + shares, pack.contents.size);
    let of_index = crate::IndexObject { packs: vec![pack.contents] };
    let bytes = of_index.encode().expect("encodes");
    assert_eq!(crate::IndexObject::decode(&bytes), Ok(of_index));
}

#[test]
fn a_unit_that_is_not_complete_is_refused() {
    let pack = sample_of_units();
    let count = u32::try_from(pack.contents.entries.len()).expect("few");
    let good = |entries: &[Entry]| {
        let bases = &pack.contents.bases;
        let mut table = Vec::new();
        encode_table(entries, bases, &mut table);
        let footer = footer_of(pack.contents.size, count, 1).expect("counts");
        footer.decode_table(&table).is_ok()
    };
    let entries = &pack.contents.entries;
    assert!(good(entries));
    for at in 1..=5 {
        let change = |change: &dyn Fn(&mut Entry)| {
            let mut bad = entries.clone();
            change(&mut bad[at]);
            good(&bad)
        };
        assert!(!change(&|entry| entry.part.at += 1), "{at}");
        assert!(!change(&|entry| entry.part.of += 1), "{at}");
        assert!(!change(&|entry| entry.part.of = 17), "{at}");
        assert!(!change(&|entry| entry.part = Part::WHOLE), "{at}");
        assert!(!change(&|entry| entry.offset += 1), "{at}");
        assert!(!change(&|entry| entry.stored_len += 1), "{at}");
        assert!(!change(&|entry| entry.kind = RecordKind::BlockZstd), "{at}");
    }
}

#[test]
fn units_are_only_in_packs_that_say_so() {
    let digests = [Digest::new([1; 32]), Digest::new([2; 32])];
    let mut single = PackBuilder::new(header(), key(), 1 << 20).expect("room");
    assert!(single.append_unit(&digests, b"x").is_err());
    let units = Header { packing: Packing::Units, ..header() };
    let mut builder = PackBuilder::new(units, key(), 1 << 20).expect("room");
    assert!(builder.append_unit(&digests[..1], b"x").is_err());
    assert!(builder.append_unit(&[digests[0]; 17], b"x").is_err());
    assert!(builder.append_unit(&digests, b"x").is_ok());
    // Programs that know only version 1 say that the vault is newer than they are.
    assert_eq!(units.encode()[8..12], [2, 0, 1, 1]);
    let mut bad = units.encode();
    bad[11] = 3;
    assert!(Header::parse(&bad).is_err());
    bad[11] = 0;
    assert!(Header::parse(&bad).is_err(), "version 2 has no such packing");
    let node = Header { kind: PackKind::Node, ..units };
    assert!(Header::parse(&node.encode()).is_err());
    bad[8] = 3;
    let newer = FormatError::Version { what: "pack", found: 3, known: 2 };
    assert_eq!(Header::parse(&bad), Err(newer));
}

#[test]
fn every_flipped_bit_is_noticed() {
    every_flipped_bit_of(&sample());
    every_flipped_bit_of(&sample_of_units());
}

fn every_flipped_bit_of(pack: &FinishedPack) {
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
    assert_eq!(good.len(), pack.contents.entries.len());
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
    fn units_of_any_sizes_are_read_as_written(sizes in prop::collection::vec(1_usize..=16, 1..40)) {
        let header = Header { packing: Packing::Units, ..header() };
        let mut builder = PackBuilder::new(header, key(), 1 << 20).expect("room");
        let mut wanted = Vec::new();
        for (n, size) in (0_u8..).zip(sizes) {
            let digests: Vec<_> = (1..=16).map(|at| Digest::new([n + at; 32])).take(size).collect();
            let payload = vec![n; usize::from(n) * 7];
            let place = if size == 1 {
                let kind = RecordKind::BlockZstd;
                let added = builder.append(kind, digests[0], 65536, None, &payload);
                added.map(|entry| entry.stored_len)
            } else {
                builder.append_unit(&digests, &payload)
            };
            prop_assert_eq!(usize::try_from(place.expect("fits")).expect("small"), payload.len() + 16);
            wanted.extend(digests.into_iter().map(|digest| (digest, payload.clone())));
        }
        let pack = builder.finish().expect("finishes");
        let records = read(&pack.bytes, &key()).expect("reads");
        let found: Vec<_> = records.into_iter().map(|(e, _, payload)| (e.digest, payload)).collect();
        prop_assert_eq!(found, wanted);
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
