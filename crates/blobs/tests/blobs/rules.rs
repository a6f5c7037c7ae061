//! Azure's rules: refusals and what changes leave.

use std::time::Duration;

use strongroom_blobs::{
    Access, AccountChange, AccountKey, AccountKind, BlobChange, Change, Conditions,
    ContainerChange, DeleteSnapshots, EtagCondition, KeyNumber, LeaseAction, LeaseId, Metadata,
    NewBlob, Properties, ReadError, Refusal, SequenceAction, SequenceConditions, SnapshotOf, Store,
};

use crate::tools::{
    TestClock, blob, change, clear, container, create, folder, refused, snapshot, store_in,
    take_snapshot, write,
};

fn with(name: &str, access: Access, change: BlobChange) -> Change {
    Change::Blob { name: blob(name), access, change }
}

fn on(conditions: Conditions) -> Access {
    Access { conditions, lease: None }
}

fn leased(id: &str) -> Access {
    Access { conditions: Conditions::default(), lease: Some(LeaseId(id.to_owned())) }
}

fn a_page(sequence: SequenceConditions) -> BlobChange {
    BlobChange::Write { offset: 0, data: vec![1; 512].into(), sequence }
}

fn plain_page() -> BlobChange {
    a_page(SequenceConditions::default())
}

#[test]
fn ranges_and_sizes_are_checked() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    for size in [513, (8 << 40) + 512] {
        assert_eq!(refused(store.apply(create("a", size))), Refusal::InvalidSize);
    }
    store.apply(create("a", 8 << 40)).expect("8 TiB");
    store.apply(change("a", BlobChange::Resize { size: 8 << 20 })).expect("8 MiB");
    for (offset, len) in [(1, 512), (0, 511), (0, 0), (8 << 20, 512), ((8 << 20) - 512, 1024)] {
        let data = vec![1; len];
        let refusal = refused(store.apply(write("a", offset, data)));
        assert_eq!(refusal, Refusal::InvalidPageRange, "{offset} {len}");
    }
    let refusal = refused(store.apply(clear("a", u64::MAX - 511, 512)));
    assert_eq!(refusal, Refusal::InvalidPageRange);
    let refusal = refused(store.apply(write("a", 0, vec![1; (4 << 20) + 512])));
    assert_eq!(refusal, Refusal::TooLarge { limit: 4 << 20 });
    store.apply(write("a", 512, vec![1; 4 << 20])).expect("4 MiB");
    store.apply(clear("a", 0, 8 << 20)).expect("any length");
    assert_eq!(refused(store.apply(write("b", 0, vec![1; 512]))), Refusal::BlobNotFound);
    for name in ["", "a\0b"] {
        assert_eq!(refused(store.apply(create(name, 512))), Refusal::InvalidName);
    }
}

#[test]
fn conditions_decide_every_change() {
    let root = folder();
    let clock = TestClock::new();
    let store = store_in(&root.path().join("s"), &clock, AccountKind::Standard);
    let none = on(Conditions { if_none_match: Some(EtagCondition::Any), ..Conditions::default() });
    let new = || BlobChange::Create(NewBlob { size: 1024, ..NewBlob::default() });
    let match_of = |etag| {
        let if_match = Some(EtagCondition::Is(etag));
        on(Conditions { if_match, ..Conditions::default() })
    };
    let first = store.apply(with("a", none.clone(), new())).expect("is new");
    assert_eq!(refused(store.apply(with("a", none, new()))), Refusal::BlobExists);
    // As upload_blob does: each write with the ETag of the one before.
    let second = store.apply(with("a", match_of(first.etag), plain_page())).expect("matches");
    assert!(second.etag > first.etag);
    let stale = refused(store.apply(with("a", match_of(first.etag), plain_page())));
    assert_eq!(stale, Refusal::ConditionNotMet);
    let missing = refused(store.apply(with("b", match_of(first.etag), new())));
    assert_eq!(missing, Refusal::ConditionNotMet);
    clock.advance(Duration::from_secs(100));
    let at = |since, until| {
        on(Conditions {
            if_modified_since: since,
            if_unmodified_since: until,
            ..Conditions::default()
        })
    };
    let seen = Some(second.modified);
    assert_eq!(
        refused(store.apply(with("a", at(seen, None), plain_page()))),
        Refusal::ConditionNotMet
    );
    store.apply(with("a", at(None, seen), plain_page())).expect("is unmodified");
    assert_eq!(
        refused(store.apply(with("a", at(None, seen), plain_page()))),
        Refusal::ConditionNotMet
    );
    let read =
        Conditions { if_none_match: Some(EtagCondition::Is(second.etag)), ..Conditions::default() };
    assert_eq!(read.check_read(second.etag, 0), Err(Refusal::NotModified));
    assert_eq!(read.check_read(first.etag, 0), Ok(()));
}

#[test]
fn sequence_numbers_order_writes() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", 1024)).expect("creates");
    let set = |action| change("a", BlobChange::SetSequence(action));
    assert_eq!(store.apply(set(SequenceAction::Update(7))).expect("sets").sequence, 7);
    assert_eq!(store.apply(set(SequenceAction::Max(3))).expect("keeps").sequence, 7);
    assert_eq!(store.apply(set(SequenceAction::Increment)).expect("adds").sequence, 8);
    let good = SequenceConditions { at_most: Some(8), less_than: Some(9), equal: Some(8) };
    assert_eq!(store.apply(change("a", a_page(good))).expect("is met").sequence, 8);
    for bad in [
        SequenceConditions { at_most: Some(7), ..SequenceConditions::default() },
        SequenceConditions { less_than: Some(8), ..SequenceConditions::default() },
        SequenceConditions { equal: Some(9), ..SequenceConditions::default() },
    ] {
        let refusal = refused(store.apply(change("a", a_page(bad))));
        assert_eq!(refusal, Refusal::SequenceConditionNotMet);
    }
    let most = (1 << 63) - 1;
    let refusal = refused(store.apply(set(SequenceAction::Update(most + 1))));
    assert_eq!(refusal, Refusal::InvalidSequenceNumber);
    store.apply(set(SequenceAction::Update(most))).expect("the greatest");
    let refusal = refused(store.apply(set(SequenceAction::Increment)));
    assert_eq!(refusal, Refusal::SequenceNumberIncrementTooLarge);
}

#[test]
fn a_leased_blob_is_changed_only_with_its_lease() {
    let root = folder();
    let clock = TestClock::new();
    let store = store_in(&root.path().join("s"), &clock, AccountKind::Standard);
    let created = store.apply(create("a", 1024)).expect("creates");
    let acquire = LeaseAction::Acquire { id: Some(LeaseId("one".to_owned())), duration: Some(15) };
    let done = store.apply(change("a", BlobChange::Lease(acquire))).expect("leases");
    assert_eq!(done.etag, created.etag, "a lease changes no ETag");
    for access in [Access::default(), leased("two")] {
        let wanted = match access.lease {
            None => Refusal::LeaseIdMissing,
            Some(_) => Refusal::LeaseIdMismatch,
        };
        let new = BlobChange::Create(NewBlob::default());
        let snapshots = DeleteSnapshots::Refuse;
        let delete = BlobChange::Delete { snapshot: None, snapshots };
        for change in [plain_page(), new, delete, BlobChange::SetMetadata(Metadata::new())] {
            let refusal = refused(store.apply(with("a", access.clone(), change)));
            assert_eq!(refusal, wanted);
        }
    }
    store.apply(with("a", leased("one"), plain_page())).expect("has the lease");
    // A snapshot needs no lease, but a wrong one is refused.
    store.apply(snapshot("a")).expect("a snapshot");
    let of = SnapshotOf { blob: blob("a"), access: leased("two"), metadata: None };
    assert_eq!(refused(store.apply(Change::Snapshot(vec![of]))), Refusal::LeaseIdMismatch);
    clock.advance(Duration::from_secs(15));
    let refusal = refused(store.apply(with("a", leased("one"), plain_page())));
    assert_eq!(refusal, Refusal::LeaseLost);
    store.apply(change("a", plain_page())).expect("has expired");
}

#[test]
fn premium_snapshots_are_counted_and_paced_unless_the_account_says_no() {
    let root = folder();
    let clock = TestClock::new();
    let store = store_in(&root.path().join("s"), &clock, AccountKind::Premium);
    store.apply(create("a", 1024)).expect("creates");
    for _ in 0..100 {
        clock.advance(Duration::from_mins(10));
        take_snapshot(&store, "a");
        assert_eq!(refused(store.apply(snapshot("a"))), {
            let head = store.view().expect("a view");
            let query = strongroom_blobs::ListQuery {
                snapshots: true,
                max: 1000,
                ..strongroom_blobs::ListQuery::default()
            };
            match head.list(&container(), &query).expect("lists").items.len() {
                101 => Refusal::SnapshotCountExceeded,
                _ => Refusal::SnapshotRateExceeded,
            }
        });
    }
    clock.advance(Duration::from_mins(10));
    assert_eq!(refused(store.apply(snapshot("a"))), Refusal::SnapshotCountExceeded);
    let rules = |rules| Change::Account {
        name: "account".to_owned(),
        change: AccountChange::SetRules(rules),
    };
    store.apply(rules(false)).expect("switches");
    let ids: Vec<_> = (0..20).map(|_| take_snapshot(&store, "a")).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "ids grow though the clock stands still");
}

#[test]
fn a_snapshot_keeps_what_its_blob_was() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", 1024)).expect("creates");
    let metadata: Metadata = [("disk".to_owned(), "vda".to_owned())].into();
    store.apply(change("a", BlobChange::SetMetadata(metadata.clone()))).expect("sets");
    let content_type = Some("text/plain".to_owned());
    let properties = Properties { content_type, ..Properties::default() };
    let set = store.apply(change("a", BlobChange::SetProperties(properties.clone())));
    let set = set.expect("sets");
    let plain = store.apply(snapshot("a")).expect("a snapshot");
    assert_eq!(plain.etag, set.etag, "it has its blob's ETag");
    let other: Metadata = [("kind".to_owned(), "backup".to_owned())].into();
    let of =
        SnapshotOf { blob: blob("a"), access: Access::default(), metadata: Some(other.clone()) };
    let named = store.apply(Change::Snapshot(vec![of])).expect("a snapshot");
    assert!(named.etag > set.etag, "other metadata, another ETag");
    store.apply(change("a", BlobChange::Resize { size: 512 })).expect("resizes");
    let view = store.view().expect("a view");
    let head = |id| view.head(&blob("a"), id).expect("is there");
    assert_eq!((head(None).size, head(None).metadata), (512, metadata.clone()));
    assert_eq!((head(plain.snapshot).size, head(plain.snapshot).metadata), (1024, metadata));
    assert_eq!(head(named.snapshot).metadata, other);
    assert_eq!(head(named.snapshot).properties, properties);
}

#[test]
fn a_set_of_snapshots_is_taken_of_all_or_of_none() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    for name in ["a", "b"] {
        store.apply(create(name, 1024)).expect("creates");
    }
    let set = |names: &[&str]| {
        let of = |name: &&str| SnapshotOf {
            blob: blob(name),
            access: Access::default(),
            metadata: None,
        };
        Change::Snapshot(names.iter().map(of).collect())
    };
    assert_eq!(refused(store.apply(set(&["a", "c"]))), Refusal::BlobNotFound);
    assert_eq!(refused(store.apply(set(&["a", "a"]))), Refusal::InvalidSnapshotSet);
    assert_eq!(refused(store.apply(set(&[]))), Refusal::InvalidSnapshotSet);
    let id = store.apply(set(&["a", "b"])).expect("both").snapshot.expect("an id");
    let view = store.view().expect("a view");
    for name in ["a", "b"] {
        view.head(&blob(name), Some(id)).expect("has the moment of the set");
    }
}

#[test]
fn snapshots_are_deleted_as_asked() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", 1024)).expect("creates");
    let first = take_snapshot(&store, "a");
    take_snapshot(&store, "a");
    let delete = |snapshot, snapshots| change("a", BlobChange::Delete { snapshot, snapshots });
    let both = refused(store.apply(delete(Some(first), DeleteSnapshots::Include)));
    assert_eq!(both, Refusal::InvalidSnapshotDeletion);
    store.apply(delete(Some(first), DeleteSnapshots::Refuse)).expect("one");
    let again = refused(store.apply(delete(Some(first), DeleteSnapshots::Refuse)));
    assert_eq!(again, Refusal::BlobNotFound);
    let present = refused(store.apply(delete(None, DeleteSnapshots::Refuse)));
    assert_eq!(present, Refusal::SnapshotsPresent);
    store.apply(delete(None, DeleteSnapshots::Only)).expect("the rest");
    store.apply(delete(None, DeleteSnapshots::Refuse)).expect("the blob");
}

#[test]
fn containers_and_accounts_have_their_rules() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    let on_container = |access, change| Change::Container { name: container(), access, change };
    let create_again = ContainerChange::Create(Metadata::new());
    let refusal = refused(store.apply(on_container(Access::default(), create_again)));
    assert_eq!(refusal, Refusal::ContainerExists);
    for name in ["ab", "Upper", "-a-b", "a--b", "a_b"] {
        let name = strongroom_blobs::ContainerName::new("account", name);
        let change = ContainerChange::Create(Metadata::new());
        let refusal =
            refused(store.apply(Change::Container { name, access: Access::default(), change }));
        assert_eq!(refusal, Refusal::InvalidName);
    }
    store.apply(create("a", 1024)).expect("creates");
    store.apply(write("a", 0, vec![1; 512])).expect("writes");
    let acquire = LeaseAction::Acquire { id: Some(LeaseId("one".to_owned())), duration: None };
    store.apply(on_container(Access::default(), ContainerChange::Lease(acquire))).expect("leases");
    let refusal = refused(store.apply(on_container(Access::default(), ContainerChange::Delete)));
    assert_eq!(refusal, Refusal::LeaseIdMissing);
    store.apply(on_container(leased("one"), ContainerChange::Delete)).expect("deletes");
    // It can be created again at once, and is empty.
    let create_again = ContainerChange::Create(Metadata::new());
    store.apply(on_container(Access::default(), create_again)).expect("creates");
    store.settle();
    let missing = store.view().expect("a view").head(&blob("a"), None);
    assert!(matches!(missing, Err(ReadError::Refused(Refusal::BlobNotFound))));
    let data = std::fs::read_dir(root.path().join("s/data")).expect("a folder").count();
    assert_eq!(data, 0, "the blobs of the deleted container are gone");
    account_rules(&store);
}

fn account_rules(store: &Store) {
    let change = |change| Change::Account { name: "account".to_owned(), change };
    let key = AccountKey::new(b"new".to_vec());
    store.apply(change(AccountChange::SetKey(KeyNumber::Second, key.clone()))).expect("sets");
    let account = store.view().expect("a view").account("account").expect("is there");
    assert!(account.keys[1] == key && account.keys[0] != key);
    assert_eq!(
        refused(store.apply(crate::tools::new_account(AccountKind::Premium))),
        Refusal::AccountExists
    );
    store.apply(change(AccountChange::Delete)).expect("deletes");
    let missing = store.view().expect("a view").container(&container());
    assert!(matches!(missing, Err(ReadError::Refused(Refusal::ContainerNotFound))));
    assert_eq!(refused(store.apply(change(AccountChange::Delete))), Refusal::AccountNotFound);
}
