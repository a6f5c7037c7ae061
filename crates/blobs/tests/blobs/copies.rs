//! Copies to a blob, and incremental ones.

use strongroom_blobs::{
    Access, AccountKind, BlobChange, Change, Copy, CopyStatus, CopyStep, Done, LeaseAction,
    LeaseId, NewBlob, NewCopy, Refusal, SnapshotId, Store,
};

use crate::tools::{
    TestClock, blob, change, create, folder, refused, snapshot, store_in, take_snapshot, write,
};

fn begin(name: &str, source: &str, size: u64, incremental: Option<u64>) -> Change {
    let blob = NewBlob { size, sequence: 5, ..NewBlob::default() };
    let incremental = incremental.map(SnapshotId);
    let copy = NewCopy { source: source.to_owned(), blob, incremental };
    change(name, BlobChange::BeginCopy(Box::new(copy)))
}

fn step(name: &str, id: &str, step: CopyStep) -> Change {
    change(name, BlobChange::Copy { id: id.to_owned(), step })
}

fn pages(offset: u64, byte: u8, done: u64) -> CopyStep {
    CopyStep::Write { offset, data: vec![byte; 512].into(), done }
}

fn begun(store: &Store, change: Change) -> String {
    store.apply(change).expect("begins").copy.expect("an id")
}

fn content(store: &Store, name: &str, id: Option<SnapshotId>) -> (Vec<u8>, Option<Copy>) {
    let view = store.view().expect("a view");
    let head = view.head(&blob(name), id).expect("is there");
    let mut bytes = vec![0; usize::try_from(head.size).expect("small")];
    view.read(&head, 0, &mut bytes).expect("reads");
    (bytes.chunks(512).map(|page| page[0]).collect(), head.copy)
}

#[test]
fn a_copy_is_pending_until_it_is_finished() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", 2048)).expect("creates");
    store.apply(write("a", 0, vec![9; 2048])).expect("writes");
    let kept = take_snapshot(&store, "a");
    let id = begun(&store, begin("a", "http://source", 1024, None));
    for other in [
        write("a", 0, vec![1; 512]),
        snapshot("a"),
        begin("a", "http://source", 512, None),
        create("a", 512),
    ] {
        assert_eq!(refused(store.apply(other)), Refusal::PendingCopyOperation);
    }
    assert_eq!(
        refused(store.apply(step("a", "other", CopyStep::Finish { blocks: Vec::new() }))),
        Refusal::CopyIdMismatch
    );
    store.apply(step("a", &id, pages(512, 4, 1024))).expect("a step");
    let pending = content(&store, "a", None).1.expect("a copy");
    assert_eq!((pending.status, pending.done, pending.total), (CopyStatus::Pending, 1024, 1024));
    store.apply(step("a", &id, CopyStep::Finish { blocks: Vec::new() })).expect("finishes");
    let (bytes, copy) = content(&store, "a", None);
    assert_eq!(bytes, [0, 4]);
    assert_eq!(copy.map(|copy| copy.status), Some(CopyStatus::Success));
    assert_eq!(content(&store, "a", Some(kept)).0, [9; 4], "snapshots stay");
    let late = refused(store.apply(step("a", &id, CopyStep::Abort)));
    assert_eq!(late, Refusal::NoPendingCopyOperation);
}

#[test]
fn a_copy_that_ends_early_leaves_an_empty_blob() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    for (end, status) in [
        (CopyStep::Abort, CopyStatus::Aborted),
        (CopyStep::Fail { description: "gone".to_owned() }, CopyStatus::Failed),
    ] {
        let id = begun(&store, begin("a", "http://source", 1024, None));
        store.apply(step("a", &id, pages(0, 4, 512))).expect("a step");
        store.apply(step("a", &id, end)).expect("ends");
        let (bytes, copy) = content(&store, "a", None);
        assert!(bytes.is_empty());
        assert_eq!(copy.map(|copy| copy.status), Some(status));
    }
}

#[test]
fn a_copy_needs_an_infinite_lease_and_spares_premium_snapshots() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Premium);
    store.apply(create("a", 1024)).expect("creates");
    let lease = LeaseId("one".to_owned());
    let acquire = |duration| {
        let id = Some(lease.clone());
        change("a", BlobChange::Lease(LeaseAction::Acquire { id, duration }))
    };
    let leased = |change| {
        let Change::Blob { name, change, .. } = change else { panic!("of a blob") };
        let access = Access { lease: Some(lease.clone()), ..Access::default() };
        Change::Blob { name, access, change }
    };
    store.apply(acquire(Some(60))).expect("leases");
    let copy = || begin("a", "http://source", 512, None);
    assert_eq!(refused(store.apply(copy())), Refusal::LeaseIdMissing);
    assert_eq!(refused(store.apply(leased(copy()))), Refusal::InfiniteLeaseRequired);
    store.apply(acquire(None)).expect("leases");
    take_snapshot(&store, "a");
    assert_eq!(refused(store.apply(leased(copy()))), Refusal::SnapshotsPresent);
}

#[test]
fn incremental_copies_make_snapshots_of_one_source_in_order() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    let run = |source: u64, steps: &[CopyStep], size| -> Done {
        let id = begun(&store, begin("b", "http://source", size, Some(source)));
        for one in steps {
            store.apply(step("b", &id, one.clone())).expect("a step");
        }
        store.apply(step("b", &id, CopyStep::Finish { blocks: Vec::new() })).expect("finishes")
    };
    let first = run(10, &[pages(0, 1, 512), pages(512, 2, 1024)], 1024).snapshot;
    let clear = CopyStep::Clear { offset: 0, len: 512, done: 1024 };
    let second = run(20, &[clear, pages(1024, 3, 1536)], 1536).snapshot;
    assert_eq!(content(&store, "b", first).0, [1, 2]);
    assert_eq!(content(&store, "b", second).0, [0, 2, 3]);
    let copy = content(&store, "b", None).1.and_then(|copy| copy.incremental).expect("a memory");
    assert_eq!((copy.last_source, copy.snapshot), (Some(SnapshotId(20)), second));
    for earlier in [10, 20] {
        let refusal = refused(store.apply(begin("b", "http://source", 512, Some(earlier))));
        assert_eq!(refusal, Refusal::IncrementalCopyOfEarlierSnapshot);
    }
    let other = refused(store.apply(begin("b", "http://other", 512, Some(30))));
    assert_eq!(other, Refusal::IncrementalCopyBlobMismatch);
    for not_allowed in
        [write("b", 0, vec![1; 512]), snapshot("b"), begin("b", "http://source", 512, None)]
    {
        let refusal = refused(store.apply(not_allowed));
        assert_eq!(refusal, Refusal::OperationNotAllowedOnIncrementalCopyBlob);
    }
    // One that fails is done again from the last that did not.
    let id = begun(&store, begin("b", "http://source", 1536, Some(30)));
    store.apply(step("b", &id, pages(0, 7, 512))).expect("a step");
    let fail = CopyStep::Fail { description: "gone".to_owned() };
    store.apply(step("b", &id, fail)).expect("fails");
    let third = run(40, &[pages(0, 8, 512)], 1536).snapshot;
    assert_eq!(content(&store, "b", third).0, [8, 2, 3]);
    store.apply(create("c", 512)).expect("creates");
    let plain = refused(store.apply(begin("c", "http://source", 512, Some(10))));
    assert_eq!(plain, Refusal::IncrementalCopyBlobMismatch);
}
