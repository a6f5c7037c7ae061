//! Two servers: what is shipped, who may decide, and what a secondary that is far behind asks for.

use std::{convert::Infallible, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use strongroom_blobs::{
    AccountKind, CompareProgress, Compared, Difference, DifferenceKind, Position, Refusal,
    ResyncError, ResyncProgress, Role, ShipError, Store, StoreError, TakeError,
};

use crate::{
    redundancy::{bytes_of, is_whole, wait},
    tools::{
        TestClock, change, copy_folder, create, folder, options, refused, store_in, take_snapshot,
        write,
    },
};

/// A primary with an empty secondary.
fn pair(root: &Path) -> (Store, Store, Arc<TestClock>) {
    let clock = TestClock::new();
    let primary = store_in(&root.join("a"), &clock, AccountKind::Standard);
    let standing = primary.pair(true).expect("is paired");
    let b = root.join("b");
    Store::create_secondary(&b, &options(&clock), primary.id(), standing.epoch).expect("creates");
    let secondary = Store::open(&b, options(&clock)).expect("opens");
    assert_eq!((standing.role, secondary.standing().role), (Role::Primary, Role::Secondary));
    (primary, secondary, clock)
}

/// Sends everything that the primary has.
fn send(primary: &Store, secondary: &Store) -> Position {
    let mut shipper = primary.shipper(secondary.position()).expect("continues");
    loop {
        let batch = shipper.next(1 << 20).expect("a batch");
        let position = secondary.take(&batch).expect("takes");
        assert_eq!(position, shipper.position());
        shipper.release(position.next_record);
        if position == primary.position() {
            return position;
        }
    }
}

fn resync(
    primary: &Store,
    secondary: &Store,
) -> (Result<Position, ResyncError<Infallible>>, ResyncProgress, u64) {
    let mut source = primary.resync_source().expect("a moment");
    let (mut last, mut sent) = (ResyncProgress::default(), 0_u64);
    let mut ask = |question: Bytes| {
        let answer = source.answer(&question).expect("an answer");
        sent += u64::try_from(question.len() + answer.len()).expect("small");
        Ok(answer)
    };
    let mut progress = |so_far| {
        last = so_far;
        true
    };
    let done = secondary.resync(false, &mut ask, &mut progress);
    (done, last, sent)
}

#[test]
fn a_secondary_takes_records_in_order_and_refuses_changes() {
    let root = folder();
    let (primary, secondary, _) = pair(root.path());
    primary.apply(create("a", 1 << 20)).expect("creates");
    primary.apply(write("a", 0, vec![1; 512])).expect("writes");
    send(&primary, &secondary);
    assert!(bytes_of(&secondary, "a", None) == bytes_of(&primary, "a", None));
    let refusal = refused(secondary.apply(write("a", 0, vec![2; 512])));
    assert_eq!(refusal, Refusal::NotPrimary { role: Role::Secondary });
    // A batch that was taken is not taken twice, one behind a gap not at all, and one of another store never.
    let mut shipper = primary
        .shipper(Position { next_record: 1, ..Position::default() })
        .expect("from the start");
    let batch = shipper.next(usize::MAX).expect("a batch");
    assert!(matches!(secondary.take(&batch), Err(TakeError::Position)));
    assert!(matches!(primary.take(&batch), Err(TakeError::NotSecondary)));
    assert!(matches!(secondary.take(&Bytes::from_static(b"no batch")), Err(TakeError::Bad(_))));
    let other = folder();
    let (foreign, _, _) = pair(other.path());
    let mut shipper =
        foreign.shipper(Position { next_record: 1, ..Position::default() }).expect("a batch");
    let batch = shipper.next(usize::MAX).expect("a batch");
    assert!(matches!(secondary.take(&batch), Err(TakeError::Position)));
}

#[test]
fn a_set_of_snapshots_arrives_whole_or_not_at_all() {
    let root = folder();
    let (primary, secondary, _) = pair(root.path());
    for name in ["a", "b"] {
        primary.apply(create(name, 1 << 20)).expect("creates");
        primary.apply(write(name, 0, vec![1; 512])).expect("writes");
    }
    let of = |name: &str| strongroom_blobs::SnapshotOf {
        blob: crate::tools::blob(name),
        access: strongroom_blobs::Access::default(),
        metadata: None,
    };
    let set = strongroom_blobs::Change::Snapshot(vec![of("a"), of("b")]);
    let id = primary.apply(set).expect("snapshots").snapshot.expect("an id");
    let mut shipper =
        primary.shipper(Position { next_record: 1, ..Position::default() }).expect("a batch");
    while secondary.position() != primary.position() {
        // One record at a time.
        let batch = shipper.next(1).expect("a batch");
        secondary.take(&batch).expect("takes");
        let view = secondary.view().expect("a view");
        let has = |name: &str| view.head(&crate::tools::blob(name), Some(id)).is_ok();
        assert_eq!(has("a"), has("b"));
    }
}

#[test]
fn roles_are_kept_and_a_primary_waits_for_its_word() {
    let root = folder();
    let (primary, secondary, clock) = pair(root.path());
    primary.apply(create("a", 1 << 20)).expect("creates");
    send(&primary, &secondary);
    drop(primary);
    let primary = Store::open(&root.path().join("a"), options(&clock)).expect("opens");
    assert_eq!(primary.standing().role, Role::Waiting);
    let refusal = refused(primary.apply(create("b", 512)));
    assert_eq!(refusal, Refusal::NotPrimary { role: Role::Waiting });
    assert_eq!(bytes_of(&primary, "a", None).len(), 1 << 20, "is read");
    assert_eq!(primary.confirm().expect("is confirmed").role, Role::Primary);
    primary.apply(create("b", 512)).expect("creates");
    let promoted = secondary.promote().expect("is promoted");
    assert_eq!((promoted.role, promoted.epoch), (Role::Primary, 2));
    // An epoch that is no later than its own is no news.
    assert_eq!(primary.fence(1).expect("nothing happens").role, Role::Primary);
    assert_eq!(primary.fence(2).expect("is fenced").role, Role::Fenced);
    drop(primary);
    let old = Store::open(&root.path().join("a"), options(&clock)).expect("opens");
    assert_eq!(old.standing().role, Role::Fenced);
    assert!(matches!(old.confirm(), Err(StoreError::WrongRole { role: Role::Fenced })));
    assert!(matches!(old.promote(), Err(StoreError::WrongRole { .. })));
    let refusal = refused(old.apply(create("c", 512)));
    assert_eq!(refusal, Refusal::NotPrimary { role: Role::Fenced });
    drop(secondary);
    let new = Store::open(&root.path().join("b"), options(&clock)).expect("opens");
    assert_eq!(new.standing().role, Role::Waiting);
    assert_eq!(new.confirm().expect("is confirmed").epoch, 2);
}

#[test]
fn a_server_with_records_of_its_own_is_found_and_only_what_differs_is_sent() {
    let root = folder();
    let (primary, secondary, clock) = pair(root.path());
    primary.apply(create("a", 64 << 20)).expect("creates");
    for n in 0..400 {
        primary
            .apply(write("a", n * 65536, vec![u8::try_from(n % 250 + 1).expect("small"); 65536]))
            .expect("writes");
    }
    take_snapshot(&primary, "a");
    primary.apply(write("a", 0, vec![251; 4096])).expect("writes");
    send(&primary, &secondary);
    // It is cut off: these are lost when the other one is promoted.
    primary.apply(write("a", 65536, vec![252; 4096])).expect("writes");
    primary.apply(create("lost", 1 << 20)).expect("creates");
    primary.apply(write("lost", 0, vec![9; 65536])).expect("writes");
    let epoch = secondary.promote().expect("is promoted").epoch;
    secondary.apply(write("a", 3 * 65536, vec![253; 8192])).expect("writes");
    secondary.apply(create("new", 1 << 20)).expect("creates");
    secondary.apply(write("new", 0, vec![8; 65536])).expect("writes");
    take_snapshot(&secondary, "a");
    secondary.apply(write("a", 5 * 65536, vec![254; 512])).expect("writes");
    primary.fence(epoch).expect("is fenced");
    primary.follow(epoch).expect("follows");
    let shipped = secondary.shipper(primary.position()).map(drop);
    assert!(matches!(shipped, Err(ShipError::TooFarBehind | ShipError::Ahead)), "{shipped:?}");
    let (done, progress, sent) = resync(&secondary, &primary);
    assert_eq!(done.expect("is made equal"), secondary.position());
    for name in ["a", "new"] {
        assert!(bytes_of(&primary, name, None) == bytes_of(&secondary, name, None), "{name}");
    }
    // Four cells of "a" and a block of "new" differ, of 400 blocks.
    assert!(progress.fetched < 200 << 10, "{progress:?}");
    assert!(sent < 1 << 20, "{sent} bytes");
    // It continues in order, also after it was opened again, and what nobody needs is given back.
    secondary.apply(write("a", 7 * 65536, vec![7; 65536])).expect("writes");
    send(&secondary, &primary);
    drop(primary);
    let primary = Store::open(&root.path().join("a"), options(&clock)).expect("opens");
    secondary.apply(write("a", 8 * 65536, vec![7; 65536])).expect("writes");
    send(&secondary, &primary);
    assert!(bytes_of(&primary, "a", None) == bytes_of(&secondary, "a", None));
    primary.settle();
    assert_eq!(primary.scrub().lost, 0);
    let names = |store: &str| {
        let entries = fs::read_dir(root.path().join(store).join("data")).expect("a folder");
        let stem = |entry: std::io::Result<fs::DirEntry>| {
            entry.expect("an entry").path().file_stem().expect("a name").to_owned()
        };
        entries.map(stem).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names("a"), names("b"));
}

#[test]
fn a_secondary_that_is_too_far_behind_is_resynchronized_and_stays_whole_until_then() {
    let root = folder();
    let clock = TestClock::new();
    let none = strongroom_blobs::Options { replica_size: 0, ..options(&clock) };
    let primary =
        crate::tools::store_in_copies(&root.path().join("a"), none, AccountKind::Standard);
    let epoch = primary.pair(true).expect("is paired").epoch;
    let b = root.path().join("b");
    Store::create_secondary(&b, &options(&clock), primary.id(), epoch).expect("creates");
    let secondary = Store::open(&b, options(&clock)).expect("opens");
    primary.apply(create("a", 8 << 20)).expect("creates");
    primary.apply(write("a", 0, vec![1; 65536])).expect("writes");
    send(&primary, &secondary);
    let before = bytes_of(&secondary, "a", None);
    for n in 0..100 {
        primary.apply(write("a", n * 65536, vec![2; 65536])).expect("writes");
        if n % 30 == 0 {
            primary.checkpoint();
        }
    }
    primary.checkpoint();
    let position = secondary.position();
    assert!(matches!(primary.shipper(position), Err(ShipError::TooFarBehind)));
    // Ended early at each question: it is what it was, and what a crash leaves of it is, too.
    for questions in 0.. {
        let mut source = primary.resync_source().expect("a moment");
        let mut left = questions;
        let mut ask =
            |question: Bytes| Ok::<_, Infallible>(source.answer(&question).expect("answers"));
        let mut progress = |_| {
            left -= 1;
            left >= 0
        };
        match secondary.resync(false, &mut ask, &mut progress) {
            Ok(reached) => {
                assert_eq!(reached, primary.position());
                assert!(questions > 5, "there are more questions than that");
                break;
            }
            Err(ResyncError::Cancelled) => {
                assert_eq!(secondary.position(), position);
                assert!(bytes_of(&secondary, "a", None) == before);
                let crashed = root.path().join("crashed");
                copy_folder(&b, &crashed);
                let store = Store::open(&crashed, options(&clock)).expect("opens");
                assert!(bytes_of(&store, "a", None) == before);
                drop(store);
                fs::remove_dir_all(&crashed).expect("removes");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(bytes_of(&secondary, "a", None) == bytes_of(&primary, "a", None));
}

#[test]
fn what_an_early_end_has_left_does_not_outlive_the_state_that_it_was_begun_with() {
    let root = folder();
    let (primary, secondary, _) = pair(root.path());
    primary.apply(create("a", 8 << 20)).expect("creates");
    send(&primary, &secondary);
    for n in 0..100 {
        primary.apply(write("a", n * 65536, vec![2; 65536])).expect("writes");
    }
    let mut source = primary.resync_source().expect("a moment");
    let mut ask = |question: Bytes| Ok::<_, Infallible>(source.answer(&question).expect("answers"));
    let mut progress = |so_far: ResyncProgress| so_far.fetched == 0;
    let ended = secondary.resync(false, &mut ask, &mut progress);
    assert!(matches!(ended, Err(ResyncError::Cancelled)));
    assert!(root.path().join("b/resync.redb").exists());
    // It takes records after all, into slots that the unfinished state uses as well.
    send(&primary, &secondary);
    assert!(!root.path().join("b/resync.redb").exists());
    primary.apply(write("a", 0, vec![3; 65536])).expect("writes");
    let (done, ..) = resync(&primary, &secondary);
    done.expect("is made equal");
    assert!(bytes_of(&secondary, "a", None) == bytes_of(&primary, "a", None));
}

#[test]
fn a_crash_in_the_middle_of_the_replacement_ends_it_when_the_store_is_opened() {
    let root = folder();
    let (primary, secondary, clock) = pair(root.path());
    primary.apply(create("a", 8 << 20)).expect("creates");
    primary.apply(write("a", 0, vec![1; 65536])).expect("writes");
    send(&primary, &secondary);
    // A history of its own: its journal must not be applied to the new state.
    secondary.promote().expect("is promoted");
    for _ in 0..5 {
        secondary.apply(write("a", 0, vec![9; 512])).expect("writes");
    }
    secondary.fence(9).expect("is fenced");
    secondary.follow(9).expect("follows");
    for n in 0..20 {
        primary.apply(write("a", n * 65536, vec![2; 65536])).expect("writes");
    }
    // The last moment before the replacement, with all that it needs.
    let b = root.path().join("b");
    let mut source = primary.resync_source().expect("a moment");
    let image = root.path().join("image");
    let mut questions = 0;
    let mut ask = |question: Bytes| {
        questions += 1;
        Ok::<_, Infallible>(source.answer(&question).expect("answers"))
    };
    secondary.resync(false, &mut ask, &mut |_| true).expect("is made equal");
    assert!(questions > 3);
    let wanted = bytes_of(&primary, "a", None);
    drop(secondary);
    // The new state under its first name, with the old journal beside it.
    for step in 0..3 {
        drop(fs::remove_dir_all(&image));
        copy_folder(&b, &image);
        fs::write(image.join("resync.ready"), b"").expect("writes");
        if step < 2 {
            fs::rename(image.join("journal"), image.join("resync.journal")).expect("moves");
            copy_folder(&root.path().join("a/journal"), &image.join("journal"));
            fs::rename(image.join("state.redb"), image.join("resync.redb")).expect("moves");
            fs::rename(image.join("state.sums"), image.join("resync.sums")).expect("moves");
            // The old state is there until the new one has its name.
            fs::copy(root.path().join("a/state.redb"), image.join("state.redb")).expect("copies");
        }
        if step == 1 {
            for entry in fs::read_dir(image.join("journal")).expect("a folder") {
                fs::remove_file(entry.expect("an entry").path()).expect("removes");
            }
        }
        let store = Store::open(&image, options(&clock)).expect("opens");
        assert!(bytes_of(&store, "a", None) == wanted, "step {step}");
        assert_eq!(store.position(), primary.position());
        assert!(!image.join("resync.ready").exists() && !image.join("resync.redb").exists());
        drop(store);
        drop(Store::open(&image, options(&clock)).expect("opens again"));
    }
}

#[test]
fn the_journal_is_kept_for_a_secondary_as_far_as_the_options_allow() {
    let root = folder();
    let clock = TestClock::new();
    let some = strongroom_blobs::Options { replica_size: 8 << 20, ..options(&clock) };
    let primary =
        crate::tools::store_in_copies(&root.path().join("a"), some.clone(), AccountKind::Standard);
    let epoch = primary.pair(true).expect("is paired").epoch;
    let b = root.path().join("b");
    Store::create_secondary(&b, &options(&clock), primary.id(), epoch).expect("creates");
    let secondary = Store::open(&b, options(&clock)).expect("opens");
    primary.apply(create("a", 1 << 30)).expect("creates");
    send(&primary, &secondary);
    let journal = || -> u64 {
        let entries = fs::read_dir(root.path().join("a/journal")).expect("a folder");
        entries.map(|entry| entry.expect("an entry").metadata().expect("its length").len()).sum()
    };
    for n in 0..64 {
        primary.apply(write("a", n * 65536, vec![2; 65536])).expect("writes");
        primary.checkpoint();
    }
    assert!(journal() > 4 << 20, "it is kept");
    drop(primary);
    let primary = Store::open(&root.path().join("a"), some).expect("opens");
    primary.confirm().expect("is confirmed");
    send(&primary, &secondary);
    primary.apply(write("a", 0, vec![3; 512])).expect("writes");
    send(&primary, &secondary);
    primary.checkpoint();
    assert!(primary.bytes_from(secondary.position().next_record) < 2 << 20);
    assert!(journal() < 2 << 20, "what the secondary has is forgotten: {}", journal());
    for n in 0..300 {
        primary.apply(write("a", n * 65536, vec![4; 65536])).expect("writes");
        if n % 4 == 0 {
            primary.checkpoint();
        }
    }
    primary.checkpoint();
    assert!(journal() < 10 << 20, "no more is kept than that: {}", journal());
    assert!(matches!(primary.shipper(secondary.position()), Err(ShipError::TooFarBehind)));
    // Without another server nothing is kept.
    primary.pair(false).expect("is alone");
    primary.apply(write("a", 0, vec![5; 512])).expect("writes");
    primary.checkpoint();
    assert!(journal() < 1 << 20, "{}", journal());
}

#[test]
fn a_secondary_with_copies_is_resynchronized_with_all_of_them() {
    let root = folder();
    let (primary, secondary, clock) = pair(root.path());
    drop(secondary);
    let b = root.path().join("b");
    let with_copy = strongroom_blobs::Options {
        copies: vec![root.path().join("b2")],
        retry_interval: Duration::ZERO,
        ..options(&clock)
    };
    let secondary = Store::open(&b, with_copy).expect("opens");
    wait(&secondary, "both are whole", is_whole);
    primary.apply(create("a", 8 << 20)).expect("creates");
    primary.apply(write("a", 0, vec![1; 65536])).expect("writes");
    send(&primary, &secondary);
    primary.apply(write("a", 65536, vec![2; 65536])).expect("writes");
    let (done, ..) = resync(&primary, &secondary);
    done.expect("is made equal");
    wait(&secondary, "both are whole again", is_whole);
    primary.apply(write("a", 0, vec![3; 65536])).expect("writes");
    send(&primary, &secondary);
    drop(secondary);
    fs::remove_dir_all(&b).expect("removes");
    let without = strongroom_blobs::Options { without: vec![b], ..options(&clock) };
    let alone = Store::open(&root.path().join("b2"), without).expect("opens");
    assert!(bytes_of(&alone, "a", None) == bytes_of(&primary, "a", None));
    assert_eq!(alone.standing().role, Role::Secondary);
    send(&primary, &alone);
}

#[test]
fn damage_at_a_secondary_is_mended_by_the_primary() {
    let root = folder();
    let (primary, secondary, clock) = pair(root.path());
    primary.apply(create("a", 1 << 20)).expect("creates");
    primary.apply(write("a", 0, vec![1; 65536])).expect("writes");
    send(&primary, &secondary);
    drop(secondary);
    let entries = fs::read_dir(root.path().join("b/data")).expect("a folder");
    for entry in entries {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("reads");
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(&path, bytes).expect("writes");
    }
    let secondary = Store::open(&root.path().join("b"), options(&clock)).expect("opens");
    // It needs the rest of a cell that is damaged: the record brings it. The rest of a block it copies.
    take_snapshot(&primary, "a");
    primary.apply(write("a", 512, vec![2; 512])).expect("writes");
    let mut shipper = primary.shipper(secondary.position()).expect("continues");
    let taken = secondary.take(&shipper.next(usize::MAX).expect("a batch"));
    assert!(matches!(taken, Err(TakeError::Refused(Refusal::Damaged { .. }))), "{taken:?}");
    let mut source = primary.resync_source().expect("a moment");
    let mut ask = |question: Bytes| Ok::<_, Infallible>(source.answer(&question).expect("answers"));
    secondary.resync(true, &mut ask, &mut |_| true).expect("is made equal");
    assert!(bytes_of(&secondary, "a", None) == bytes_of(&primary, "a", None));
    assert_eq!(secondary.scrub().lost, 0);
    let resize = change("a", strongroom_blobs::BlobChange::Resize { size: 2 << 20 });
    primary.apply(resize).expect("resizes");
    send(&primary, &secondary);
}

#[test]
fn what_a_killed_creation_has_left_is_made_anew_and_data_is_never_removed() {
    let root = folder();
    let clock = TestClock::new();
    let whole = root.path().join("whole");
    drop(store_in(&whole, &clock, AccountKind::Standard));
    let left = root.path().join("left");
    for names in [
        vec![],
        vec!["journal"],
        vec!["journal", "data"],
        vec!["journal", "data", "state.unfinished", "state.sums"],
        vec!["journal", "data", "state.unfinished", "copies.json"],
    ] {
        drop(fs::remove_dir_all(&left));
        fs::create_dir(&left).expect("a folder");
        for name in names {
            let path = left.join(name);
            if name.contains('.') {
                fs::write(&path, b"some").expect("writes");
            } else {
                fs::create_dir(&path).expect("a folder");
            }
        }
        Store::create(&left, &options(&clock)).expect("creates");
        drop(Store::open(&left, options(&clock)).expect("opens"));
        assert!(matches!(Store::create(&left, &options(&clock)), Err(StoreError::Exists { .. })));
    }
    // A store whose state is lost has data, and other folders have something else.
    fs::remove_file(left.join("state.redb")).expect("removes");
    fs::write(left.join("data/0000000000000001.home"), b"data").expect("writes");
    assert!(matches!(Store::create(&left, &options(&clock)), Err(StoreError::Exists { .. })));
    let other = root.path().join("other");
    fs::create_dir(&other).expect("a folder");
    fs::write(other.join("notes.txt"), b"mine").expect("writes");
    assert!(matches!(Store::create(&other, &options(&clock)), Err(StoreError::Exists { .. })));
    assert!(other.join("notes.txt").exists());
}

#[test]
fn what_a_killed_resynchronization_has_left_before_its_state_had_a_name_is_removed() {
    let root = folder();
    let (primary, secondary, clock) = pair(root.path());
    primary.apply(create("a", 1 << 20)).expect("creates");
    send(&primary, &secondary);
    drop(secondary);
    let b = root.path().join("b");
    fs::write(b.join("resync.unfinished"), b"half a state").expect("writes");
    fs::write(b.join("resync.sums"), b"its sums").expect("writes");
    fs::create_dir(b.join("resync.journal")).expect("a folder");
    let secondary = Store::open(&b, options(&clock)).expect("opens");
    let left = fs::read_dir(&b).expect("a folder");
    let names: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with("resync")), "{names:?}");
    send(&primary, &secondary);
    let (done, ..) = resync(&primary, &secondary);
    done.expect("is made equal");
}

#[test]
fn a_resynchronization_leaves_the_room_that_the_secondary_needs() {
    let Some(disk) = crate::full::SmallDisk::new("48m") else {
        println!("only root can make a small disk");
        return;
    };
    let root = folder();
    let clock = TestClock::new();
    let primary = store_in(&root.path().join("a"), &clock, AccountKind::Standard);
    let epoch = primary.pair(true).expect("is paired").epoch;
    let reserve = 8 << 20;
    let small = || strongroom_blobs::Options { reserve_size: reserve, ..options(&clock) };
    let b = disk.0.path().join("b");
    Store::create_secondary(&b, &small(), primary.id(), epoch).expect("creates");
    let secondary = Store::open(&b, small()).expect("opens");
    primary.apply(create("small", 1 << 20)).expect("creates");
    primary.apply(write("small", 0, vec![1; 65536])).expect("writes");
    send(&primary, &secondary);
    primary.apply(create("large", 1 << 30)).expect("creates");
    for n in 0..1000 {
        let content: Vec<u8> =
            (0..128).flat_map(|page| crate::tools::page_of(n * 128 + page)).collect();
        primary.apply(write("large", n * 65536, content)).expect("writes");
    }
    let before = secondary.position();
    for _ in 0..2 {
        let (done, progress, _) = resync(&primary, &secondary);
        let full = matches!(
            &done,
            Err(ResyncError::Store(StoreError::Append(error)))
                if error.kind() == std::io::ErrorKind::StorageFull
        );
        assert!(full, "{done:?}");
        assert!(progress.fetched < 48 << 20);
        let room = rustix::fs::statvfs(&b).expect("a disk");
        // One answer more than the reserve allows is on its way at most.
        assert!(room.f_bavail * room.f_frsize > reserve - (5 << 20), "{}", room.f_bavail);
        assert_eq!(secondary.position(), before);
        assert!(secondary.status().failure.is_none());
        assert!(bytes_of(&secondary, "small", None) == bytes_of(&primary, "small", None));
    }
    drop(secondary);
    let secondary = Store::open(&b, small()).expect("opens on a full disk");
    assert!(bytes_of(&secondary, "small", None) == bytes_of(&primary, "small", None));
    primary
        .apply(change(
            "large",
            strongroom_blobs::BlobChange::Clear {
                offset: 0,
                len: 1 << 30,
                sequence: strongroom_blobs::SequenceConditions::default(),
            },
        ))
        .expect("clears");
    let (done, ..) = resync(&primary, &secondary);
    assert_eq!(done.expect("nothing is fetched"), primary.position());
    secondary.settle();
    let room = rustix::fs::statvfs(&b).expect("a disk");
    assert!(room.f_bavail * room.f_frsize > 30 << 20, "the room is given back");
}

#[test]
fn a_pair_that_ends_during_a_resynchronization_ends_that_as_well() {
    let root = folder();
    let (primary, secondary, clock) = pair(root.path());
    primary.apply(create("a", 1 << 20)).expect("creates");
    primary.apply(write("a", 0, vec![1; 65536])).expect("writes");
    send(&primary, &secondary);
    let before = bytes_of(&secondary, "a", None);
    primary.apply(write("a", 0, vec![2; 65536])).expect("writes");
    let mut source = primary.resync_source().expect("a moment");
    let mut asked = 0;
    let mut ask = |question: Bytes| {
        asked += 1;
        if asked == 3 {
            secondary.pair(false).expect("is alone");
            secondary.apply(create("b", 4096)).expect("takes changes");
            // Into the slot that the new state would have taken.
            take_snapshot(&secondary, "a");
            secondary.apply(write("a", 0, vec![5; 65536])).expect("takes changes");
        }
        Ok::<_, Infallible>(source.answer(&question).expect("an answer"))
    };
    let ended = secondary.resync(false, &mut ask, &mut |_| true);
    assert!(matches!(ended, Err(ResyncError::Store(StoreError::Ended))), "{ended:?}");
    let mut wanted = before;
    wanted[..65536].fill(5);
    assert!(bytes_of(&secondary, "a", None) == wanted);
    secondary.apply(write("b", 0, vec![3; 4096])).expect("takes changes");
    secondary.checkpoint();
    assert!(secondary.status().failure.is_none());
    drop(secondary);
    let alone = Store::open(&root.path().join("b"), options(&clock)).expect("opens");
    assert_eq!(alone.standing().role, Role::Alone);
    assert!(bytes_of(&alone, "a", None) == wanted);
    assert!(bytes_of(&alone, "b", None) == [3; 4096]);
}

/// Compares from a key on. `between` is called when both servers keep their moment.
fn compare(
    primary: &Store,
    secondary: &Store,
    from: Option<Vec<u8>>,
    between: impl FnOnce(),
    go: &mut dyn FnMut(CompareProgress) -> bool,
) -> (Compared, CompareProgress) {
    let mut source = primary.comparison_source().expect("a moment");
    let mut ask =
        |question: Bytes| Ok::<_, Infallible>(source.answer(&question).expect("an answer"));
    let comparison = secondary.begin_comparison(&mut ask).expect("begins");
    between();
    let mut last = CompareProgress::default();
    let mut go = |so_far| {
        last = so_far;
        go(so_far)
    };
    let compared = comparison.run(from, &mut ask, &mut go).expect("compares");
    (compared, last)
}

/// Content that differs from what was there, and has the same CRC-32C: the polynomial itself is added to it.
fn collide(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("reads");
    let before = crc32c::crc32c(&bytes[at / 4096 * 4096..][..4096]);
    for (byte, add) in bytes[at..].iter_mut().zip([0xf1, 0x76, 0xec, 0x05, 0x01]) {
        *byte ^= add;
    }
    assert_eq!(crc32c::crc32c(&bytes[at / 4096 * 4096..][..4096]), before);
    fs::write(file, bytes).expect("writes");
}

#[test]
fn a_comparison_finds_what_checksums_do_not() {
    let root = folder();
    let (primary, secondary, _) = pair(root.path());
    for name in ["a", "b"] {
        primary.apply(create(name, 1 << 20)).expect("creates");
        primary.apply(write(name, 0, vec![7; 200 << 10])).expect("writes");
    }
    send(&primary, &secondary);
    let mut all = |_| true;
    let (same, progress) = compare(&primary, &secondary, None, || {}, &mut all);
    assert_eq!(same, Compared::default());
    assert_eq!((progress.bytes, progress.passed_over), (400 << 10, 0));
    assert_eq!((progress.blocks, progress.of_blocks), (8, 8));

    secondary.checkpoint();
    let file = root.path().join("b/data/0000000000000002.home");
    collide(&file, (64 << 10) + 4096 * 3 + 17);
    // Neither a comparison with checksums nor a resynchronization sees it.
    assert_eq!(secondary.scrub().lost, 0);
    let (done, _, _) = resync(&primary, &secondary);
    done.expect("is resynchronized");
    assert!(bytes_of(&secondary, "b", None) != bytes_of(&primary, "b", None));
    let (found, _) = compare(&primary, &secondary, None, || {}, &mut all);
    let start = (64 << 10) + 4096 * 3;
    let blob = Some(crate::tools::blob("b"));
    let kind = DifferenceKind::Content;
    let difference = Difference { kind, blob, start, end: start + 4096 };
    assert_eq!(found, Compared { differences: vec![difference], count: 1, next: None });
    // The primary is not changed by the questions, and ships on.
    primary.apply(write("b", start, vec![8; 4096])).expect("writes");
    send(&primary, &secondary);
    let (healed, _) = compare(&primary, &secondary, None, || {}, &mut all);
    assert_eq!(healed.count, 0);
}

#[test]
fn a_comparison_is_of_one_position_and_may_be_done_in_parts() {
    let root = folder();
    let (primary, secondary, _) = pair(root.path());
    primary.apply(create("a", 16 << 20)).expect("creates");
    for block in 0..256 {
        primary.apply(write("a", block << 16, vec![1; 4096])).expect("writes");
    }
    send(&primary, &secondary);
    // The primary is ahead when the comparison begins, and writes while it runs.
    primary.apply(write("a", 0, vec![2; 8192])).expect("writes");
    let at = primary.position();
    let mut pieces = 0;
    let mut one = |_| {
        pieces += 1;
        pieces < 1
    };
    let later = || {
        assert_eq!(secondary.position(), at);
        primary.apply(write("a", 0, vec![3; 512])).expect("writes");
        primary.apply(write("a", 255 << 16, vec![3; 4096])).expect("writes");
        send(&primary, &secondary);
    };
    let (part, progress) = compare(&primary, &secondary, None, later, &mut one);
    assert_eq!((part.count, progress.blocks), (0, 64));
    // One cell has been written since.
    assert_eq!((progress.passed_over, progress.bytes), (1, 64 * 4096));
    let next = part.next.expect("is not the end");
    let (rest, progress) = compare(&primary, &secondary, Some(next), || {}, &mut |_| true);
    assert_eq!((rest, progress.blocks), (Compared::default(), 192));
    assert_eq!((progress.passed_over, progress.bytes), (0, 192 * 4096));
}
