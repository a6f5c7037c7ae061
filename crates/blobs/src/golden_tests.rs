//! Golden files: bytes that later versions must read. `STRONGROOM_BLESS=1` writes them.

use std::{fmt::Write as _, fs, path::Path};

use bytes::Bytes;

use crate::{
    AccessPolicy, Account, AccountKey, AccountKind, Copy, CopyStatus, Etag, Lease, LeaseId,
    Properties, Redundancy, SnapshotId, Ticks, Tier,
    extents::{self, Blocks, Extent, Room, Run, Staging, Upload},
    journal::frame::{Layout, SEGMENT_HEAD, SegmentHead},
    numbers::{size, wide},
    record::{Mark, Op, Record},
    rows::{self, Blob, BlobKind, Container, ContainerName, Frozen, keys},
    slots::Slot,
    state::{Generation, Version},
};

fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        fs::write(&path, bytes).expect("writes");
    }
    let kept = fs::read(&path).expect("the golden file");
    assert!(kept == bytes, "{name} is not what this version writes");
}

fn records() -> Vec<Record> {
    let data = Bytes::from((0..8192_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>());
    let mark = Mark { size: 1 << 20, etag: 17, modified: 1_700_000_000, sequence: 3 };
    let ops = [
        Op::Put { key: b"key".to_vec(), value: b"value".to_vec() },
        Op::Remove { key: b"key".to_vec() },
        Op::Begin { generation: 5 },
        Op::Mark { generation: 5, mark },
        Op::Seal { generation: 5 },
        Op::End { generation: 5, epoch: 2 },
        Op::Merge { generation: 5, epoch: 2, limit: 256 },
        Op::Clear { generation: 5, offset: 65536, len: 512 },
    ];
    let write = Op::Write { generation: 5, offset: 3584, len: 1024, data };
    let last = Record { stamp: 19, ops: vec![Op::Mark { generation: 5, mark }, write] };
    vec![Record { stamp: 18, ops: ops.to_vec() }, last]
}

#[test]
fn the_journal_is_what_it_was() {
    let head = SegmentHead { store: [7; 16], first: 41, salt: [9; 16] };
    let mut bytes = head.encode();
    for (number, record) in (41..).zip(records()) {
        let (payload, data) = record.encode();
        bytes.extend(head.frame(number, 40, 0, (&payload, &data)));
        bytes.extend(payload);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    golden("journal-v1.bin", &bytes);
    let bytes = Bytes::from(bytes);
    assert_eq!(SegmentHead::decode(&bytes), Some(head));
    let mut at = SEGMENT_HEAD;
    for (number, record) in (41..).zip(records()) {
        let frame = head.whole_frame(&bytes, at).expect("a frame");
        assert_eq!((frame.number, frame.durable), (number, 40));
        assert_eq!(Record::decode(&frame.payload), Ok(record));
        at = frame.end;
    }
    assert_eq!(at, wide(bytes.len()));
}

/// What version 3 added to frames: zeros before the payload, so that long data lies at a multiple of 4,096.
#[test]
fn long_data_lies_in_the_journal_as_it_did() {
    let head = SegmentHead { store: [7; 16], first: 41, salt: [9; 16] };
    let data = Bytes::from(vec![5; 256 << 10]);
    let write = Op::Write { generation: 5, offset: 0, len: 256 << 10, data };
    let records = [
        Record { stamp: 17, ops: vec![Op::Remove { key: b"key".to_vec() }] },
        Record { stamp: 18, ops: vec![write] },
        Record { stamp: 19, ops: vec![Op::Seal { generation: 5 }] },
    ];
    let mut bytes = head.encode();
    for (number, record) in (41..).zip(&records) {
        let (payload, data) = record.encode();
        let layout = Layout::at(wide(bytes.len()), payload.len(), data.len());
        bytes.extend(head.frame(number, 40, layout.gap, (&payload, &data)));
        bytes.resize(bytes.len() + size(layout.gap), 0);
        bytes.extend(payload);
        assert!(data.is_empty() || bytes.len().is_multiple_of(4096));
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    // The data is as dull as it is long: its length and the rest are kept.
    let (before, rest) = bytes.split_at(4096 + 64);
    let (data, behind) = rest.split_at((256 << 10) - 64);
    assert!(data.iter().all(|byte| *byte == 5));
    golden("journal-v3.bin", &[before, behind].concat());
    let bytes = Bytes::from(bytes);
    let mut at = SEGMENT_HEAD;
    for (number, record) in (41..).zip(&records) {
        let frame = head.whole_frame(&bytes, at).expect("a frame");
        assert_eq!((frame.number, frame.durable), (number, 40));
        assert_eq!(Record::decode(&frame.payload), Ok(record.clone()));
        at = frame.end;
    }
    assert_eq!(at, wide(bytes.len()));
}

/// What version 2 added to records.
#[test]
fn a_range_of_rows_is_removed_as_it_was() {
    let op = Op::RemoveRange { from: b"from".to_vec(), end: b"end".to_vec() };
    let record = Record { stamp: 18, ops: vec![op] };
    let (bytes, data) = record.encode();
    assert!(data.is_empty());
    golden("record-v2.bin", &bytes);
    assert_eq!(Record::decode(&Bytes::from(bytes)), Ok(record));
}

/// What version 2 added to rows.
#[test]
fn rows_of_blocks_are_what_they_were() {
    let room = Room { gap: 4096, gap_end: 8192, end: 12288 };
    let blocks = Blocks { list: 9, count: 2, room };
    let block_blob = Blob {
        kind: BlobKind::Block,
        blocks: Some(blocks),
        tier: Some(Tier::Cool),
        lease: None,
        copy: None,
        ..blob()
    };
    let append_blob =
        Blob { kind: BlobKind::Append, blocks: None, tier: None, ..block_blob.clone() };
    let staging = Staging { generation: 5, count: 3, id_len: 2, room, touched: Ticks(17) };
    let upload =
        Upload { len: 5 << 20, is_alone: false, stamp: 8, under: Some((7, "blocks".to_owned())) };
    let extents = [
        Extent { id: b"a1".to_vec(), place: 0, len: 4096 },
        Extent { id: b"a2".to_vec(), place: 8192, len: 7 },
    ];
    let run = Run { place: 12288, top: 16384 };
    let mut rows = extents::encode_list(5, 9, &extents);
    rows.extend([
        (keys::content(5, 0, 100), run.encode()),
        (keys::staged(5, b"a3"), extents::encode_staged(4096, 100)),
    ]);
    let mut text = String::new();
    for (key, value) in &rows {
        writeln!(text, "{} {}", hex(key), hex(value)).expect("text");
    }
    let named = [
        (keys::blob(7, "blocks", None), rows::encode(&block_blob)),
        (keys::blob(7, "log", None), rows::encode(&append_blob)),
        (keys::staging(7, "blocks"), rows::encode(&staging)),
        (keys::upload(5, 4096), rows::encode(&upload)),
    ];
    for (key, value) in &named {
        writeln!(text, "{} {}", hex(key), String::from_utf8_lossy(value)).expect("text");
    }
    golden("rows-v2.txt", text.as_bytes());
    let again: Blob = rows::decode(b"", &named[0].1).expect("reads");
    assert_eq!(again, block_blob);
    let again: Staging = rows::decode(b"", &named[2].1).expect("reads");
    assert_eq!(again, staging);
    let again: Upload = rows::decode(b"", &named[3].1).expect("reads");
    assert_eq!(again, upload);
    assert_eq!(Extent::decode_row(&rows[0].0, &rows[0].1).expect("reads"), extents);
    assert_eq!(Run::decode(&rows[1].0, &rows[1].1).expect("reads"), run);
    let staged = extents::decode_staged(&rows[2].0, &rows[2].1).expect("reads");
    assert_eq!(staged, Extent { id: b"a3".to_vec(), place: 4096, len: 100 });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn blob() -> Blob {
    Blob {
        generation: 5,
        created: Ticks(17_000_000_000_000_000),
        properties: Properties {
            content_type: Some("application/octet-stream".to_owned()),
            ..Properties::default()
        },
        metadata: [("disk".to_owned(), "vda".to_owned())].into(),
        lease: Some(Lease {
            id: LeaseId("one".to_owned()),
            duration: Some(15),
            expires: Some(Ticks(17_000_000_150_000_000)),
            breaks: None,
        }),
        copy: Some(Copy {
            id: "id".to_owned(),
            source: "http://source".to_owned(),
            status: CopyStatus::Success,
            done: 512,
            total: 512,
            completed: Some(Ticks(17_000_000_000_000_001)),
            description: None,
            incremental: None,
        }),
        frozen: None,
        kind: BlobKind::Page,
        blocks: None,
        tier: None,
    }
}

#[test]
fn rows_are_what_they_were() {
    let account = Account {
        kind: AccountKind::Premium,
        redundancy: Redundancy::RaGrs,
        keys: [AccountKey::new(vec![1; 4]), AccountKey::new(vec![2; 4])],
        rules: true,
        created: Ticks(17_000_000_000_000_000),
    };
    let container = Container {
        id: 17_000_000_000_000_001,
        etag: Etag(17_000_000_000_000_002),
        modified: 1_700_000_000,
        metadata: [("a".to_owned(), "b".to_owned())].into(),
        policies: vec![AccessPolicy {
            id: "policy".to_owned(),
            start: None,
            expiry: Some(Ticks(18_000_000_000_000_000)),
            permissions: Some("rw".to_owned()),
        }],
        lease: None,
    };
    let frozen =
        Frozen { epoch: 3, size: 512, etag: Etag(9), modified: 1_700_000_000, sequence: 0 };
    let snapshot = Blob { frozen: Some(frozen), lease: None, copy: None, ..blob() };
    let name = ContainerName::new("account", "container");
    let rows = [
        (keys::account("account"), rows::encode(&account)),
        (keys::container(&name), rows::encode(&container)),
        (keys::blob(7, "disk", Some(8)), rows::encode(&snapshot)),
        (keys::blob(7, "disk", None), rows::encode(&blob())),
        (keys::doomed(7), Vec::new()),
    ];
    let mut text = String::new();
    for (key, value) in &rows {
        writeln!(text, "{} {}", hex(key), String::from_utf8_lossy(value)).expect("text");
    }
    let mark = Mark { size: 512, etag: 9, modified: 1_700_000_000, sequence: 4 };
    let generation = Generation { mark, epoch: 3, aside: 6 };
    writeln!(text, "generation {}", hex(&generation.encode())).expect("text");
    let mut checksums = [0; 16];
    checksums[1] = 0x0102_0304;
    let version = Version { slot: Slot::Aside(5), written: 0b11 << 8, checksums };
    writeln!(text, "version {}", hex(&version.encode())).expect("text");
    golden("rows-v1.txt", text.as_bytes());
    let again: Blob = rows::decode(b"", &rows[3].1).expect("reads");
    assert_eq!(again, blob());
    let again: SnapshotId = rows::decode(b"", b"8").expect("reads");
    assert_eq!(again, SnapshotId(8));
}
