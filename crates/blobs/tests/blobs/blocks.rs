//! The rules of block blobs and append blobs, one by one.

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use strongroom_blobs::{
    Access, AccountKind, AppendConditions, BlobChange, BlobKind, BlockId, BlockList, BlockPlace,
    Change, Conditions, ContainerChange, Content, CopyStep, EtagCondition, LeaseAction, LeaseId,
    NewBlob, NewCopy, Properties, ReadError, Refusal, Store, Tier, UploadStep, UploadTo,
};

use crate::tools::{
    TestClock, blob, change, container, copy_folder, create, folder, options, refused, store_in,
    take_snapshot,
};

struct Place {
    _root: tempfile::TempDir,
    path: std::path::PathBuf,
    clock: Arc<TestClock>,
}

fn open() -> (Place, Store) {
    let root = folder();
    let clock = TestClock::new();
    let path = root.path().join("s");
    let store = store_in(&path, &clock, AccountKind::Standard);
    (Place { _root: root, path, clock }, store)
}

fn id(text: &str) -> BlockId {
    BlockId::new(text.as_bytes()).expect("an id")
}

fn bytes(data: &[u8]) -> Content {
    Content::Bytes(Bytes::copy_from_slice(data))
}

fn put(data: &[u8]) -> BlobChange {
    BlobChange::Put { new: Box::default(), content: bytes(data) }
}

fn stage(name: &str, data: &[u8]) -> BlobChange {
    BlobChange::StageBlock { id: id(name), content: bytes(data) }
}

fn commit(ids: &[(&str, BlockPlace)]) -> BlobChange {
    let blocks = ids.iter().map(|(name, place)| (id(name), *place)).collect();
    BlobChange::CommitBlocks(BlockList { blocks, ..BlockList::default() })
}

fn append(data: &[u8]) -> BlobChange {
    BlobChange::Append { content: bytes(data), conditions: AppendConditions::default() }
}

fn log() -> BlobChange {
    BlobChange::Create(NewBlob { kind: BlobKind::Append, ..NewBlob::default() })
}

fn content(store: &Store, name: &str) -> Vec<u8> {
    let view = store.view().expect("a view");
    let head = view.head(&blob(name), None).expect("is there");
    let mut found = vec![0; usize::try_from(head.size).expect("small")];
    view.read(&head, 0, &mut found).expect("reads");
    found
}

use BlockPlace::{Committed, Latest, Uncommitted};

#[test]
fn a_list_takes_blocks_from_where_it_says() {
    let (_place, store) = open();
    store.apply(change("a", stage("one", b"old one"))).expect("stages");
    store.apply(change("a", stage("two", b"old two"))).expect("stages");
    store.apply(change("a", commit(&[("one", Latest), ("two", Uncommitted)]))).expect("commits");
    store.apply(change("a", stage("one", b"new one"))).expect("stages");
    let mixed = [("one", Uncommitted), ("two", Latest), ("one", Committed), ("one", Latest)];
    let missing = [[("two", Uncommitted)], [("six", Committed)], [("six", Latest)]];
    for list in &missing {
        let refusal = refused(store.apply(change("a", commit(list))));
        assert_eq!(refusal, Refusal::InvalidBlockList, "{list:?}");
    }
    store.apply(change("a", commit(&mixed))).expect("commits");
    assert_eq!(content(&store, "a"), b"new oneold twoold onenew one");
}

#[test]
fn a_commit_replaces_headers_and_keeps_lease_and_birth() {
    let (place, store) = open();
    let properties = Properties { content_type: Some("a/b".to_owned()), ..Properties::default() };
    let new = NewBlob { properties, tier: Some(Tier::Cold), ..NewBlob::default() };
    let whole = BlobChange::Put { new: Box::new(new), content: bytes(b"whole") };
    store.apply(change("a", whole)).expect("puts");
    let lease = LeaseId("one".to_owned());
    let acquire = LeaseAction::Acquire { id: Some(lease.clone()), duration: None };
    store.apply(change("a", BlobChange::Lease(acquire))).expect("acquires");
    let created = store.view().expect("a view").head(&blob("a"), None).expect("is there").created;
    place.clock.advance(Duration::from_mins(1));
    for step in [stage("one", b"1"), commit(&[])] {
        assert_eq!(refused(store.apply(change("a", step.clone()))), Refusal::LeaseIdMissing);
        let access = Access { lease: Some(lease.clone()), ..Access::default() };
        let with_lease = Change::Blob { name: blob("a"), access, change: step };
        store.apply(with_lease).expect("applies");
    }
    let head = store.view().expect("a view").head(&blob("a"), None).expect("is there");
    assert_eq!((head.size, head.created, head.tier), (0, created, Some(Tier::Cold)));
    assert_eq!(
        (head.properties, head.lease.map(|lease| lease.id)),
        (Properties::default(), Some(lease))
    );
}

#[test]
fn conditions_decide_puts_and_commits_and_not_stages() {
    let (_place, store) = open();
    let first = store.apply(change("a", put(b"1"))).expect("puts");
    let with = |conditions: Conditions, change: BlobChange| {
        let access = Access { conditions, ..Access::default() };
        store.apply(Change::Blob { name: blob("a"), access, change })
    };
    let new = Conditions { if_none_match: Some(EtagCondition::Any), ..Conditions::default() };
    let same =
        Conditions { if_match: Some(EtagCondition::Is(first.etag)), ..Conditions::default() };
    store.apply(change("a", stage("one", b"2"))).expect("stages");
    let list = || commit(&[("one", Latest)]);
    assert_eq!(refused(with(new, put(b"3"))), Refusal::BlobExists);
    assert_eq!(refused(with(new, list())), Refusal::BlobExists);
    let begin = BlobChange::BeginUpload { to: UploadTo::Blob, len: 9 };
    assert_eq!(refused(with(new, begin)), Refusal::BlobExists);
    let second = with(same, list()).expect("a stage changes no tag");
    assert!(second.etag > first.etag);
    assert_eq!(refused(with(same, put(b"3"))), Refusal::ConditionNotMet);
}

#[test]
fn ids_and_contents_of_blocks_are_checked() {
    let (_place, store) = open();
    assert_eq!(BlockId::new(&[0; 65]), None);
    assert_eq!(BlockId::new(b""), None);
    store.apply(change("a", stage("one", b"1"))).expect("stages");
    assert_eq!(refused(store.apply(change("a", stage("three", b"1")))), Refusal::InvalidBlock);
    assert_eq!(refused(store.apply(change("a", stage("two", b"")))), Refusal::InvalidBlock);
    let large = vec![1; (4 << 20) + 1];
    let too_large = Refusal::TooLarge { limit: 4 << 20 };
    assert_eq!(refused(store.apply(change("a", stage("two", &large)))), too_large);
    store.apply(change("a", commit(&[]))).expect("an empty blob");
    store.apply(change("a", stage("longer", b"1"))).expect("no other waits");
    assert_eq!(content(&store, "a"), b"");
}

#[test]
fn a_list_of_50_000_blocks_is_kept_and_one_more_is_refused() {
    let (_place, store) = open();
    store.apply(change("a", stage("one", b"1"))).expect("stages");
    store.apply(change("a", stage("two", b"22"))).expect("stages");
    let mut list: Vec<(&str, BlockPlace)> = vec![("one", Latest); 50_000];
    list[49_999] = ("two", Latest);
    list.push(("one", Latest));
    let refusal = refused(store.apply(change("a", commit(&list))));
    assert_eq!(refusal, Refusal::InvalidBlockList);
    list.pop();
    store.apply(change("a", commit(&list))).expect("commits");
    let view = store.view().expect("a view");
    let head = view.head(&blob("a"), None).expect("is there");
    assert_eq!(head.size, 50_001);
    assert_eq!(view.committed_blocks(&head).expect("blocks").len(), 50_000);
    let mut end = [0; 3];
    view.read(&head, 49_998, &mut end).expect("reads");
    assert_eq!(&end, b"122");
}

#[test]
fn appends_are_counted_and_conditional() {
    let (_place, store) = open();
    store.apply(change("a", log())).expect("creates");
    let with = |conditions: AppendConditions, data: &[u8]| {
        store.apply(change("a", BlobChange::Append { content: bytes(data), conditions }))
    };
    let done = store.apply(change("a", append(b"first"))).expect("appends");
    assert_eq!((done.appended, done.sequence, done.size), (Some(0), 1, 5));
    let at = |position| AppendConditions { position: Some(position), max_size: None };
    let most = |max_size| AppendConditions { position: None, max_size: Some(max_size) };
    assert_eq!(refused(with(at(4), b"x")), Refusal::AppendPositionConditionNotMet);
    assert_eq!(refused(with(most(6), b"xx")), Refusal::MaxBlobSizeConditionNotMet);
    with(at(5), b"!").expect("appends");
    let done = with(most(8), b"??").expect("appends");
    assert_eq!((done.appended, done.sequence), (Some(6), 3));
    assert_eq!(refused(with(at(8), b"")), Refusal::InvalidBlock);
    assert_eq!(content(&store, "a"), b"first!??");
}

#[test]
fn an_append_blob_has_50_000_blocks_and_each_costs_the_same() {
    let (_place, store) = open();
    let new = NewBlob { kind: BlobKind::Append, size: 3, sequence: 49_999, ..NewBlob::default() };
    // A copy of a blob with many blocks is a short way to one.
    let copy = NewCopy { source: "far".to_owned(), blob: new, incremental: None };
    let begun = store.apply(change("a", BlobChange::BeginCopy(Box::new(copy))));
    let copy = begun.expect("begins").copy.expect("an id");
    let step = |step| change("a", BlobChange::Copy { id: copy.clone(), step });
    let data = Bytes::from_static(b"abc");
    store.apply(step(CopyStep::Write { offset: 0, data, done: 3 })).expect("writes");
    assert_eq!(content(&store, "a"), b"", "it is seen when all is there");
    let begin = |to| change("a", BlobChange::BeginUpload { to, len: 9 });
    let steps = [begin(UploadTo::Append), begin(UploadTo::Blob), change("a", append(b"x"))];
    for other in steps {
        assert_eq!(refused(store.apply(other)), Refusal::PendingCopyOperation);
    }
    store.apply(step(CopyStep::Finish { blocks: Vec::new() })).expect("finishes");
    let before = store.status().journal_bytes;
    store.apply(change("a", append(b"d"))).expect("the last one");
    assert!(store.status().journal_bytes - before < 5000, "one cell and its mark");
    assert_eq!(refused(store.apply(change("a", append(b"e")))), Refusal::BlockCountExceeded);
    assert_eq!(content(&store, "a"), b"abcd");
}

#[test]
fn operations_are_for_their_kinds() {
    let (_place, store) = open();
    store.apply(create("page", 512)).expect("creates");
    store.apply(change("block", put(b"1"))).expect("puts");
    store.apply(change("log", log())).expect("creates");
    let upload = |to| BlobChange::BeginUpload { to, len: 9 };
    let of_pages = [BlobChange::Resize { size: 0 }, clear()];
    let of_blocks = [stage("one", b"1"), commit(&[]), upload(UploadTo::Block)];
    let of_appends = [append(b"1"), upload(UploadTo::Append)];
    for (kind, steps) in [("page", &of_pages[..]), ("block", &of_blocks), ("log", &of_appends)] {
        for name in ["page", "block", "log"] {
            for step in steps {
                let done = store.apply(change(name, step.clone()));
                let is_refused = done == Err(Refusal::InvalidBlobType);
                assert_eq!(is_refused, name != kind, "{step:?} of {name}: {done:?}");
            }
        }
    }
    for name in ["page", "log"] {
        let tier = store.apply(change(name, BlobChange::SetTier(Tier::Hot)));
        assert_eq!(refused(tier), Refusal::InvalidBlobType);
    }
    let view = store.view().expect("a view");
    let head = view.head(&blob("block"), None).expect("is there");
    let ranges = view.ranges(&head, 0..1, 1).expect_err("has no pages");
    assert!(matches!(ranges, ReadError::Refused(Refusal::InvalidBlobType)));
}

fn clear() -> BlobChange {
    let sequence = strongroom_blobs::SequenceConditions::default();
    BlobChange::Clear { offset: 0, len: 512, sequence }
}

#[test]
fn an_upload_is_seen_when_it_is_used_and_lost_with_its_blob() {
    let (place, store) = open();
    let data: Vec<u8> = (0..9000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let begin = |to| BlobChange::BeginUpload { to, len: 9000 };
    let write = |id, offset: u64, data: &[u8]| Change::Upload {
        id,
        step: UploadStep::Write { offset, data: Bytes::copy_from_slice(data) },
    };
    let begun = store.apply(change("a", begin(UploadTo::Block))).expect("begins");
    let upload = begun.upload.expect("an id");
    store.apply(write(upload, 0, &data[..8192])).expect("writes");
    for (offset, part) in [(8192, &data[..809]), (100, &data[..4096]), (0, &data[..100])] {
        assert_eq!(refused(store.apply(write(upload, offset, part))), Refusal::InvalidBlock);
    }
    store.apply(write(upload, 8192, &data[8192..])).expect("writes the end");
    let view = store.view().expect("a view");
    assert!(view.uncommitted_blocks(&blob("a")).is_err(), "nothing waits yet");
    let use_it = |id| BlobChange::StageBlock { id: self::id("one"), content: Content::Upload(id) };
    store.apply(change("a", use_it(upload))).expect("stages");
    assert_eq!(refused(store.apply(change("a", use_it(upload)))), Refusal::UploadLost);
    store.apply(change("a", commit(&[("one", Latest)]))).expect("commits");
    assert_eq!(content(&store, "a"), data);
    // Another blob comes while a block is on its way.
    let begun = store.apply(change("a", begin(UploadTo::Block))).expect("begins");
    let lost = begun.upload.expect("an id");
    store.apply(change("a", put(b"other"))).expect("puts");
    assert_eq!(refused(store.apply(write(lost, 0, &data[..4096]))), Refusal::UploadLost);
    assert_eq!(refused(store.apply(change("a", use_it(lost)))), Refusal::UploadLost);
    // A crash loses uploads, and their room is given back.
    let begun = store.apply(change("new", begin(UploadTo::Blob))).expect("begins");
    store.apply(write(begun.upload.expect("an id"), 0, &data[..8192])).expect("writes");
    store.settle();
    let crashed = place.path.with_extension("crashed");
    copy_folder(&place.path, &crashed);
    let files =
        |folder: &std::path::Path| fs::read_dir(folder.join("data")).expect("reads").count();
    assert_eq!(files(&crashed), 2);
    let again = Store::open(&crashed, options(&place.clock)).expect("opens");
    again.settle();
    assert_eq!(files(&crashed), 1);
    assert_eq!(content(&again, "a"), b"other");
}

#[test]
fn an_upload_that_is_abandoned_leaves_nothing_under_a_new_name() {
    let (place, store) = open();
    let begin = |len| {
        let begin = BlobChange::BeginUpload { to: UploadTo::Block, len };
        store.apply(change("new", begin)).expect("begins").upload.expect("an id")
    };
    let (first, second) = (begin(5000), begin(5000));
    for id in [first, second] {
        let step = UploadStep::Write { offset: 0, data: Bytes::from(vec![1; 5000]) };
        store.apply(Change::Upload { id, step }).expect("writes");
    }
    let files = || fs::read_dir(place.path.join("data")).expect("reads").count();
    for (id, left) in [(first, 1), (second, 0)] {
        store.apply(Change::Upload { id, step: UploadStep::Abandon }).expect("abandons");
        store.settle();
        assert_eq!(files(), left);
    }
    let again = Change::Upload { id: first, step: UploadStep::Abandon };
    assert_eq!(refused(store.apply(again)), Refusal::UploadLost);
}

#[test]
fn blocks_that_wait_for_a_week_are_dropped() {
    let (place, store) = open();
    store.apply(change("old", stage("one", &[1; 5000]))).expect("stages");
    store.apply(change("blob", put(b"stays"))).expect("puts");
    store.apply(change("blob", stage("one", &[1; 5000]))).expect("stages");
    let day = Duration::from_hours(24);
    place.clock.advance(day * 6);
    store.apply(change("young", stage("one", &[1; 5000]))).expect("stages");
    place.clock.advance(day + Duration::from_mins(1));
    store.apply(change("other", put(b""))).expect("puts");
    store.settle();
    let view = store.view().expect("a view");
    assert!(view.uncommitted_blocks(&blob("old")).is_err());
    assert!(view.uncommitted_blocks(&blob("blob")).expect("is there").is_empty());
    assert_eq!(view.uncommitted_blocks(&blob("young")).expect("waits").len(), 1);
    assert_eq!(content(&store, "blob"), b"stays");
    let names: Vec<String> = fs::read_dir(place.path.join("data"))
        .expect("reads")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_reader_of_blocks_that_are_gone_is_refused_and_never_misled() {
    let (_place, store) = open();
    store.apply(change("a", stage("one", &[1; 9000]))).expect("stages");
    store.apply(change("a", commit(&[("one", Latest)]))).expect("commits");
    let view = store.view().expect("a view");
    let head = view.head(&blob("a"), None).expect("is there");
    store.apply(change("a", stage("two", &[2; 9000]))).expect("stages");
    store.apply(change("a", commit(&[("two", Latest)]))).expect("commits");
    let mut found = vec![0; 9000];
    let modified = view.read(&head, 0, &mut found).expect_err("was modified");
    assert!(matches!(modified, ReadError::Refused(Refusal::BlobModified)), "{modified:?}");
    // A snapshot keeps its blocks whatever comes.
    let snapshot = take_snapshot(&store, "a");
    store.apply(change("a", stage("one", &[3; 9000]))).expect("stages");
    store.apply(change("a", commit(&[("one", Latest)]))).expect("commits");
    store.settle();
    let view = store.view().expect("a view");
    let old = view.head(&blob("a"), Some(snapshot)).expect("is there");
    view.read(&old, 0, &mut found).expect("reads");
    assert_eq!(found, [2; 9000]);
    assert_eq!(content(&store, "a"), [3; 9000]);
}

#[test]
fn a_container_is_deleted_with_all_that_waits_in_it() {
    let (place, store) = open();
    store.apply(change("a", put(b"1"))).expect("puts");
    store.apply(change("a", stage("one", b"1"))).expect("stages");
    store.apply(change("b", stage("one", b"1"))).expect("stages");
    let begin = BlobChange::BeginUpload { to: UploadTo::Block, len: 9000 };
    let upload = store.apply(change("b", begin)).expect("begins").upload.expect("an id");
    let delete = ContainerChange::Delete;
    let access = Access::default();
    let name = container();
    store.apply(Change::Container { name, access, change: delete }).expect("deletes");
    store.settle();
    assert_eq!(fs::read_dir(place.path.join("data")).expect("reads").count(), 0);
    let step = UploadStep::Write { offset: 0, data: Bytes::from_static(&[1; 4096]) };
    let refusal = refused(store.apply(Change::Upload { id: upload, step }));
    assert_eq!(refusal, Refusal::UploadLost);
}
