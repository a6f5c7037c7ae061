//! Runs that are killed at every request, and continued.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use strongroom_azure::{BlobPath, BlobWrite, DeleteSnapshots, ReadBlob};
use strongroom_base::{ByteRange, Coded as _};
use strongroom_storage_client::{
    Client, StorageClientError,
    incremental::{Backup, Place, Restore, restore, run},
    transfer::Work,
};

use crate::{
    incremental::Pair,
    proxy::{Fate, Proxy},
    server::{at, content, path, ranges, snapshots},
};

const PAGE: u64 = 512;
/// Pages of the disk at its beginning.
const PAGES: u64 = 256;

/// A change of the source.
#[derive(Clone, Debug)]
enum Change {
    Write { at: u64, pages: u64, byte: u8 },
    Clear { at: u64, pages: u64 },
    Resize { pages: u64 },
}

impl Change {
    fn apply(&self, client: &Client, disk: &BlobPath) {
        let none = BlobWrite::default();
        let length = client.properties(disk, &ReadBlob::default()).expect("is there").length;
        let within = |at: u64, pages: u64| {
            ByteRange::between(
                (at * PAGE).min(length - PAGE),
                ((at + pages) * PAGE).min(length).max(PAGE),
            )
        };
        match *self {
            Self::Write { at, pages, byte } => {
                let range = within(at, pages);
                if !range.is_empty() {
                    let bytes = vec![byte; usize::try_from(range.len()).expect("fits")];
                    client.put_pages(disk, range.offset(), bytes.into(), &none).expect("writes");
                }
            }
            Self::Clear { at, pages } => {
                let range = within(at, pages);
                if !range.is_empty() {
                    client.clear_pages(disk, range, &none).expect("clears");
                }
            }
            Self::Resize { pages } => {
                client.resize(disk, pages * PAGE, &none).expect("resizes");
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..PAGES, 1..40_u64, 0..4_u8).prop_map(|(at, pages, byte)| Change::Write { at, pages, byte }),
        3 => (0..PAGES, 1..80_u64).prop_map(|(at, pages)| Change::Clear { at, pages }),
        1 => (1..2 * PAGES).prop_map(|pages| Change::Resize { pages }),
    ]
}

/// Proxies before both servers, which stop together at a request.
struct Cut {
    before: [Proxy; 2],
    clients: [Client; 2],
}

impl Cut {
    fn new(pair: &Pair) -> Self {
        let before = [Proxy::before(pair.from.address), Proxy::before(pair.to.address)];
        let source = pair.from.client_at("acct", before[0].address, 1);
        let target = pair.to.client_at("acct", before[1].address, 1);
        Self { before, clients: [source, target] }
    }

    /// From this request on nothing arrives; of the request itself, perhaps only the answer is lost.
    fn at(&self, cut: u64, arrives: bool) {
        let count = Arc::new(AtomicU64::new(0));
        for proxy in &self.before {
            let count = Arc::clone(&count);
            proxy.rule(move |_| match count.fetch_add(1, Ordering::SeqCst) {
                number if number < cut => Fate::Passes,
                number if number == cut && arrives => Fate::AnswerIsLost,
                _ => Fate::IsLost,
            });
        }
    }
}

fn work() -> Work {
    Work { wait: Duration::ZERO, parallel: 2, ..Work::default() }
}

/// A run that ends at a request; whether it came to its end.
fn killed(pair: &mut Pair, cut: &Cut, at: u64, arrives: bool) -> bool {
    cut.at(at, arrives);
    let source = Place { client: &cut.clients[0], blob: &pair.disk };
    let target = Place { client: &cut.clients[1], blob: &pair.backup };
    let made = run(source, target, Backup::default(), &work());
    // The lease of a run that was killed ends by itself.
    pair.clock.leap(Duration::from_secs(61));
    pair.observe();
    match made {
        Ok(_) => true,
        Err(StorageClientError::Unavailable { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// Changes that differ from call to call.
fn some_changes(seed: u64) -> Vec<Change> {
    let number = |salt: u64, below: u64| {
        (seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(salt * 1_442_695) >> 33) % below
    };
    let byte = u8::try_from(number(3, 250)).expect("is small") + 1;
    vec![
        Change::Write { at: number(1, PAGES), pages: 1 + number(2, 8), byte },
        Change::Clear { at: number(4, PAGES), pages: 1 + number(5, 30) },
        Change::Write { at: number(6, PAGES), pages: 1, byte: 0 },
        Change::Resize { pages: PAGES - number(7, 3) },
    ]
}

/// Deletes the snapshots of the source that are no backups yet: what the target has of them must be undone.
fn delete_pending(pair: &Pair) {
    if pair.target.find(&pair.backup, None).expect("asks").is_none() {
        return;
    }
    let backups = pair.backups();
    for id in snapshots(&pair.source, &pair.disk) {
        if backups.iter().all(|backup| backup.source_snapshot != id) {
            let none = BlobWrite::default();
            pair.source.delete(&pair.disk, Some(id), None, &none).expect("deletes");
        }
    }
}

#[test]
fn a_backup_that_is_killed_at_any_request_is_continued() {
    for arrives in [false, true] {
        let mut pair = Pair::new("acct", PAGES * PAGE);
        let cut = Cut::new(&pair);
        for number in 0.. {
            for change in some_changes(number * 2 + u64::from(arrives)) {
                change.apply(&pair.source, &pair.disk);
            }
            if killed(&mut pair, &cut, number, arrives) {
                assert!(number > 20, "a run has only {number} requests");
                break;
            }
            if pair.target.find(&pair.backup, None).expect("asks").is_some() {
                pair.check();
            }
            // Every other time the source changes before the run is continued.
            if number % 2 == 0 {
                Change::Clear { at: number, pages: 3 }.apply(&pair.source, &pair.disk);
                Change::Write { at: number + 1, pages: 1, byte: 77 }
                    .apply(&pair.source, &pair.disk);
            }
            if number % 3 == 0 {
                delete_pending(&pair);
            }
            let report = pair.run();
            let newest = report.backups.last().expect("a backup");
            assert_eq!(newest.reason, None, "killed at {number}: {newest:?}");
            let left = snapshots(&pair.source, &pair.disk);
            assert_eq!(left, [newest.backup.source_snapshot], "killed at {number}");
        }
    }
}

#[test]
fn a_first_backup_that_is_killed_at_any_request_is_continued() {
    for arrives in [false, true] {
        let mut pair = Pair::new("acct", PAGES * PAGE);
        let cut = Cut::new(&pair);
        for change in some_changes(7) {
            change.apply(&pair.source, &pair.disk);
        }
        for number in 0.. {
            pair.backup = path("backups", &format!("web-{number}-{arrives}"));
            let has_ended = killed(&mut pair, &cut, number, arrives);
            if pair.target.find(&pair.backup, None).expect("asks").is_some() {
                pair.check();
            }
            if has_ended {
                assert!(number > 15, "a run has only {number} requests");
                break;
            }
            pair.run();
        }
    }
}

#[test]
fn a_restore_that_is_killed_at_any_request_is_continued() {
    let mut pair = Pair::new("acct", PAGES * PAGE);
    for change in some_changes(3) {
        change.apply(&pair.source, &pair.disk);
    }
    let backup = pair.run().backups.remove(0).backup;
    let cut = Cut::new(&pair);
    let expected = content(&pair.target, &pair.backup, &at(backup.snapshot));
    for number in 0.. {
        let blob = path("disks", &format!("restored-{number}"));
        cut.at(number, number % 2 == 0);
        let from = Place { client: &cut.clients[1], blob: &pair.backup };
        let to = Place { client: &cut.clients[0], blob: &blob };
        let restored = restore(from, backup.snapshot, to, &Restore::default(), &work());
        pair.clock.leap(Duration::from_secs(61));
        if restored.is_err() {
            match pair.restore_to(backup.snapshot, &blob) {
                Ok(_) => {}
                // Only the last answer was lost.
                Err(error) => assert_eq!(error.code().name, "blob.exists", "{number}: {error:?}"),
            }
        }
        assert!(content(&pair.source, &blob, &ReadBlob::default()) == expected, "{number}");
        assert_eq!(snapshots(&pair.source, &blob).len(), 1, "killed at {number}");
        assert_eq!(
            ranges(&pair.source, &blob, &ReadBlob::default()),
            ranges(&pair.target, &pair.backup, &at(backup.snapshot))
        );
        if restored.is_ok() {
            assert!(number > 10, "a restore has only {number} requests");
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever is written between the runs, and wherever they are killed, every backup equals its snapshot.
    #[test]
    fn backups_equal_their_snapshots(
        rounds in prop::collection::vec(
            (prop::collection::vec(change(), 0..6), 0..70_u64, any::<bool>(), 0..8_u8),
            1..7,
        ),
    ) {
        let mut pair = Pair::new("acct", PAGES * PAGE);
        let cut = Cut::new(&pair);
        for (changes, number, arrives, delete) in rounds {
            for change in changes {
                change.apply(&pair.source, &pair.disk);
            }
            killed(&mut pair, &cut, number, arrives);
            match delete {
                0 => delete_pending(&pair),
                1 => {
                    let only = Some(DeleteSnapshots::Only);
                    let none = BlobWrite::default();
                    pair.source.delete(&pair.disk, None, only, &none).expect("deletes");
                }
                _ => {}
            }
        }
        pair.run();
        let backup = pair.backups().pop().expect("a backup");
        let restored = path("disks", "restored");
        pair.restore_to(backup.snapshot, &restored).expect("restores");
        prop_assert!(
            content(&pair.source, &restored, &ReadBlob::default())
                == content(&pair.source, &pair.disk, &ReadBlob::default())
        );
    }
}
