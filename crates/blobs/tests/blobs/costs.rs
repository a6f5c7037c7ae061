//! What things cost: snapshots nothing, differences what changed, lists of ranges what they give.

use std::time::Instant;

use crossbeam_channel::unbounded;
use strongroom_blobs::{AccountKind, BLOCK, SnapshotId, Store};

use crate::tools::{TestClock, blob, create, folder, snapshot, store_in, take_snapshot, write};

/// Blocks of the large blob.
const BLOCKS: u64 = 20_000;

/// Writes one page in each of these blocks, many at once.
fn touch(store: &Store, name: &str, blocks: impl Iterator<Item = u64>) {
    let (sender, receiver) = unbounded();
    let mut count = 0;
    for block in blocks {
        let sender = sender.clone();
        let page = write(name, block * BLOCK + 1024, vec![7; 512]);
        store.submit(page, move |result| sender.send(result).expect("is awaited"));
        count += 1;
    }
    for _ in 0..count {
        receiver.recv().expect("an answer").expect("writes");
    }
}

/// The journal's bytes of a snapshot, and its time.
fn cost_of_snapshot(store: &Store, name: &str) -> (u64, std::time::Duration) {
    let before = store.status().journal_bytes;
    let start = Instant::now();
    store.apply(snapshot(name)).expect("a snapshot");
    (store.status().journal_bytes - before, start.elapsed())
}

fn rows(store: &Store, from: SnapshotId, max: usize) -> (u64, usize) {
    let view = store.view().expect("a view");
    let head = view.head(&blob("large"), None).expect("is there");
    let part = view.diff(&head, from, 0..u64::MAX, max).expect("a difference");
    (part.rows, part.ranges.len())
}

#[test]
fn costs_follow_changes_and_not_the_size_of_a_blob() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    store.apply(create("small", BLOCK)).expect("creates");
    store.apply(create("large", 8 << 40)).expect("creates");
    touch(&store, "small", 0..1);
    touch(&store, "large", 0..BLOCKS);
    let (small, _) = cost_of_snapshot(&store, "small");
    let (large, time) = cost_of_snapshot(&store, "large");
    // The name is as long, and the size has more digits.
    assert!(large.abs_diff(small) <= 16, "{small} and {large} bytes");
    assert!(time.as_millis() < 100, "a snapshot of {BLOCKS} blocks took {time:?}");

    let first = take_snapshot(&store, "large");
    assert_eq!(rows(&store, first, usize::MAX), (0, 0));
    touch(&store, "large", (0..100).map(|n| n * 150));
    take_snapshot(&store, "large");
    touch(&store, "large", (0..100).map(|n| n * 150 + 50));
    let (read, found) = rows(&store, first, usize::MAX);
    assert_eq!(found, 200);
    assert!(read <= 3 * 200, "{read} rows for 200 changes of {BLOCKS} blocks");
    // A part of a list costs a part.
    let (read, found) = rows(&store, first, 10);
    assert_eq!(found, 10);
    assert!(read <= 40, "{read} rows for 10 ranges");
    let view = store.view().expect("a view");
    let head = view.head(&blob("large"), None).expect("is there");
    let part = view.ranges(&head, 5 * BLOCK..u64::MAX, 10).expect("ranges");
    assert_eq!((part.ranges.len(), part.ranges[0].start), (10, 5 * BLOCK + 1024));
    assert!(part.rows <= 30, "{} rows for 10 ranges", part.rows);
    assert_eq!(part.next, Some(15 * BLOCK + 1024));
}

#[test]
fn deleted_snapshots_give_their_space_back() {
    use std::os::unix::fs::MetadataExt as _;
    let root = folder();
    let path = root.path().join("s");
    let store = store_in(&path, &TestClock::new(), AccountKind::Standard);
    let size = 64 * BLOCK;
    store.apply(create("a", size)).expect("creates");
    let used = || -> u64 {
        let entries = std::fs::read_dir(path.join("data")).expect("a folder");
        entries.map(|entry| entry.expect("one").metadata().expect("its size").blocks() * 512).sum()
    };
    let data = || vec![3; usize::try_from(size).expect("small")];
    store.apply(write("a", 0, data())).expect("writes");
    assert_eq!(used(), size);
    for _ in 0..3 {
        store.apply(snapshot("a")).expect("a snapshot");
        store.apply(write("a", 0, data())).expect("writes");
    }
    assert_eq!(used(), 4 * size);
    let snapshots = strongroom_blobs::DeleteSnapshots::Only;
    let delete = strongroom_blobs::BlobChange::Delete { snapshot: None, snapshots };
    store.apply(crate::tools::change("a", delete)).expect("deletes");
    store.settle();
    assert_eq!(used(), size);
    // Slots that are free are used again: home first.
    store.apply(snapshot("a")).expect("a snapshot");
    store.apply(write("a", 0, data())).expect("writes");
    assert_eq!(used(), 2 * size);
    store.apply(crate::tools::clear("a", 0, size)).expect("clears");
    store.settle();
    assert_eq!(used(), size, "the snapshot's");
}

#[test]
fn files_of_no_generation_are_deleted_when_the_store_is_opened() {
    let root = folder();
    let clock = TestClock::new();
    let path = root.path().join("s");
    let store = store_in(&path, &clock, AccountKind::Standard);
    store.apply(create("a", BLOCK)).expect("creates");
    store.apply(write("a", 0, vec![3; 512])).expect("writes");
    drop(store);
    let left = path.join("data/00000000000000ff.aside");
    std::fs::write(&left, [1; 512]).expect("writes");
    let store = Store::open(&path, crate::tools::options(&clock)).expect("opens");
    store.settle();
    assert!(!left.exists());
    let view = store.view().expect("a view");
    let head = view.head(&blob("a"), None).expect("is there");
    let mut page = [0; 512];
    view.read(&head, 0, &mut page).expect("stays");
    assert_eq!(page, [3; 512]);
}
