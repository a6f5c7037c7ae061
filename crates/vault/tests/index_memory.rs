//! How much memory filling a large index takes, by the kernel's own account. In a file of its own: the
//! peak is that of the process.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;

use strongroom_base::{Digest, KeyId, PackId};
use strongroom_format::pack::{Contents, Entry, Header, PackKind, Packing, Part, RecordKind};
use strongroom_vault::Index;
use ulid::Ulid;

/// Records of an index object, and how many such objects there are.
const RECORDS: u64 = 32 * 1024;
const OBJECTS: u64 = 128;

/// Bytes that a record may take of the peak, beside what one object takes that is being added: 12 bits in
/// the filter and a part of a fence, in the old segments and in the new one.
const BYTES_A_RECORD: u64 = 3;

/// Bytes of an object in memory: as it came, and sorted.
const AN_OBJECT: u64 = RECORDS * 160 + (2 << 20);

fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn pack(number: u64) -> Contents {
    let mut digests = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
    let mut digest = || {
        let mut bytes = [0; 32];
        digests.fill(&mut bytes);
        bytes
    };
    let (kind, key_id) = (PackKind::Data, KeyId::from_bytes([1; 16]));
    let header = Header { kind, key_id, salt: [2; 32], packing: Packing::Single };
    let id = PackId::new(digest());
    let entries = (0..1024_u32).map(|ordinal| Entry {
        digest: Digest::new(digest()),
        kind: RecordKind::BlockZstd,
        ordinal,
        offset: 65 + ordinal * 1000,
        stored_len: 1000,
        plain_len: 65536,
        part: Part::WHOLE,
    });
    Contents { id, header, size: 2 << 20, entries: entries.collect(), bases: vec![] }
}

#[test]
fn an_index_that_is_filled_is_in_memory_twice_at_most() {
    let dir = tempfile::tempdir().expect("temp");
    let index = Index::open(dir.path()).expect("opens");
    let before = status("VmHWM:");
    for object in 0..OBJECTS {
        let packs: Vec<_> = (0..RECORDS / 1024).map(|n| pack(object * 1000 + n)).collect();
        let id = Ulid::from_parts(object, u128::from(object));
        index.add(&[(id, packs.as_slice())]).expect("adds");
    }
    let records = RECORDS * OBJECTS;
    assert_eq!(index.len(), records);
    let grown = status("VmHWM:").saturating_sub(before);
    assert!(grown <= records * BYTES_A_RECORD + AN_OBJECT, "{grown} bytes for {records} records");
}
