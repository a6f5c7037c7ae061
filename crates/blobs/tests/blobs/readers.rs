//! Readers beside a writer, and stores that are open already.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use strongroom_blobs::{AccountKind, ReadError, Refusal, Store, StoreError};

use crate::tools::{
    TestClock, blob, change, create, folder, options, store_in, take_snapshot, write,
};

#[test]
fn a_reader_sees_each_block_as_one_change_left_it() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", 131_072)).expect("creates");
    store.apply(write("a", 0, vec![255; 131_072])).expect("writes");
    let is_over = AtomicBool::new(false);
    let reads: usize = thread::scope(|scope| {
        let reader = || {
            let mut reads = 0;
            let mut bytes = vec![0; 131_072];
            while !is_over.load(Ordering::SeqCst) {
                let view = store.view().expect("a view");
                let head = view.head(&blob("a"), None).expect("is there");
                match view.read(&head, 0, &mut bytes) {
                    Ok(()) => {}
                    // The epoch of the view ended meanwhile.
                    Err(ReadError::Refused(Refusal::BlobNotFound)) => continue,
                    Err(error) => panic!("{error:?}"),
                }
                for block in bytes.chunks(65536) {
                    assert!(block.iter().all(|byte| *byte == block[0]), "a torn block");
                }
                reads += 1;
            }
            reads
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        let mut snapshots = Vec::new();
        for n in 0..300_u64 {
            let byte = u8::try_from(n % 200).expect("small");
            store.apply(write("a", 0, vec![byte; 131_072])).expect("writes");
            if n % 10 == 0 {
                snapshots.push(take_snapshot(&store, "a"));
            }
            if n % 10 == 5
                && let Some(snapshot) = snapshots.pop()
            {
                let snapshots = strongroom_blobs::DeleteSnapshots::Refuse;
                let delete =
                    strongroom_blobs::BlobChange::Delete { snapshot: Some(snapshot), snapshots };
                store.apply(change("a", delete)).expect("deletes");
                store.checkpoint();
            }
        }
        is_over.store(true, Ordering::SeqCst);
        readers.map(|reader| reader.join().expect("ends")).iter().sum()
    });
    assert!(reads > 10, "{reads} reads");
}

#[test]
fn a_view_keeps_its_moment_and_says_when_its_pages_are_gone() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", 512)).expect("creates");
    store.apply(write("a", 0, vec![1; 512])).expect("writes");
    let view = store.view().expect("a view");
    let head = view.head(&blob("a"), None).expect("is there");
    let snapshots = strongroom_blobs::DeleteSnapshots::Refuse;
    let delete = strongroom_blobs::BlobChange::Delete { snapshot: None, snapshots };
    store.apply(change("a", delete)).expect("deletes");
    store.settle();
    assert_eq!(view.head(&blob("a"), None).expect("at its moment"), head);
    let gone = view.read(&head, 0, &mut [0; 512]).expect_err("the pages are gone");
    assert!(matches!(gone, ReadError::Refused(Refusal::BlobNotFound)));
    let outside = view.read(&head, 512, &mut [0; 1]).expect_err("behind the end");
    assert!(matches!(outside, ReadError::Refused(Refusal::InvalidRange)));
}

#[test]
fn a_store_is_opened_once_and_created_in_an_empty_folder() {
    let root = folder();
    let clock = TestClock::new();
    let path = root.path().join("s");
    let store = store_in(&path, &clock, AccountKind::Standard);
    let open = || Store::open(&path, options(&clock));
    assert!(matches!(open().err(), Some(StoreError::InUse { .. })));
    let view = store.view().expect("a view");
    drop(store);
    assert!(matches!(open().err(), Some(StoreError::InUse { .. })), "a view reads the state");
    drop(view);
    open().expect("opens again");
    let again = Store::create(&path, &options(&clock));
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    let nowhere = Store::open(&root.path().join("t"), options(&clock)).err();
    assert!(matches!(nowhere, Some(StoreError::File { .. })));
}
