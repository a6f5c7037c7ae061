//! Incremental backups between two servers, and restores of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use strongroom_azure::{
    BlobPath, BlobWrite, DeleteSnapshots, LeaseAction, LeaseDuration, Metadata, ReadBlob,
    SnapshotId,
};
use strongroom_base::{ByteRange, Cancel, Coded as _};
use strongroom_storage_client::{
    Client, NewPageBlob, StorageClientError,
    incremental::{
        Backup, BackupReport, BackupSnapshot, Method, Place, Restore, Through, list, restore, run,
    },
    transfer::Work,
};

use crate::{
    proxy::{Fate, Proxy},
    server::{Leaping, Server, at, content, path, put, ranges, snapshots, take, wide, with_disk},
};

const MIB: u64 = 1 << 20;

/// What a snapshot has: its bytes, and its ranges.
type Seen = (Vec<u8>, Vec<(u64, u64)>);

/// A source on one server, a target on another, and what every snapshot of the source had.
pub(crate) struct Pair {
    pub(crate) clock: Arc<Leaping>,
    pub(crate) from: Server,
    pub(crate) to: Server,
    pub(crate) source: Client,
    pub(crate) target: Client,
    pub(crate) disk: BlobPath,
    pub(crate) backup: BlobPath,
    seen: BTreeMap<(BlobPath, SnapshotId), Seen>,
}

impl Pair {
    pub(crate) fn new(account: &str, length: u64) -> Self {
        let clock = Arc::<Leaping>::default();
        let (from, to) = (Server::start_at(clock.clone()), Server::start_at(clock.clone()));
        let (source, target) = (from.client(account), to.client("acct"));
        let disk = with_disk(&source, "web", length);
        let backup = path("backups", "web");
        target.create_container(&backup.container, &Metadata::default()).expect("creates");
        Self { clock, from, to, source, target, disk, backup, seen: BTreeMap::new() }
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place { client: &self.source, blob: &self.disk }
    }

    pub(crate) fn to_place(&self) -> Place<'_> {
        Place { client: &self.target, blob: &self.backup }
    }

    pub(crate) fn try_run(&mut self) -> Result<BackupReport, StorageClientError> {
        let work = Work { wait: Duration::ZERO, parallel: 3, ..Work::default() };
        let made = run(self.place(), self.to_place(), Backup::default(), &work);
        self.observe();
        made
    }

    /// Runs, and checks every backup that there is.
    pub(crate) fn run(&mut self) -> BackupReport {
        let report = self.try_run().expect("backs up");
        self.check();
        report
    }

    /// Remembers what new snapshots of the source have.
    pub(crate) fn observe(&mut self) {
        for id in snapshots(&self.source, &self.disk) {
            let key = (self.disk.clone(), id);
            if !self.seen.contains_key(&key) {
                let seen = look(&self.source, &self.disk, id);
                self.seen.insert(key, seen);
            }
        }
    }

    pub(crate) fn backups(&self) -> Vec<BackupSnapshot> {
        list(self.to_place()).expect("lists")
    }

    /// Every backup must equal its snapshot of the source, byte for byte and range for range.
    pub(crate) fn check(&self) {
        for backup in self.backups() {
            let name = backup.source.rsplit_once('/').expect("a name").1;
            let expected = self.seen.get(&(path("disks", name), backup.source_snapshot));
            let (bytes, ranges) = expected.expect("was seen");
            let (found, found_ranges) = look(&self.target, &self.backup, backup.snapshot);
            assert_eq!(&found_ranges, ranges, "the ranges of {backup:?}");
            assert!(&found == bytes, "the bytes of {backup:?} differ");
            assert_eq!(backup.size, wide(bytes.len()));
        }
    }

    pub(crate) fn restore_to(
        &self,
        snapshot: SnapshotId,
        blob: &BlobPath,
    ) -> Result<strongroom_storage_client::incremental::RestoreReport, StorageClientError> {
        let to = Place { client: &self.source, blob };
        restore(self.to_place(), snapshot, to, &Restore::default(), &Work::default())
    }
}

fn look(client: &Client, blob: &BlobPath, id: SnapshotId) -> Seen {
    (content(client, blob, &at(id)), ranges(client, blob, &at(id)))
}

fn clear(client: &Client, blob: &BlobPath, start: u64, end: u64) {
    let range = ByteRange::between(start, end);
    client.clear_pages(blob, range, &BlobWrite::default()).expect("clears");
}

#[test]
fn the_first_backup_is_full_and_the_next_ones_are_what_has_changed() {
    let mut pair = Pair::new("acct", 16 * MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 4 << 20]);
    put(&pair.source, &pair.disk, 9 * MIB, vec![2; 1 << 20]);
    let users = take(&pair.source, &pair.disk);
    let first = pair.run();
    assert_eq!(first.backups.len(), 1);
    assert_eq!((first.backups[0].method, first.backups[0].written_bytes), (Method::Full, 5 * MIB));

    put(&pair.source, &pair.disk, 512, vec![3; 512]);
    clear(&pair.source, &pair.disk, MIB, 2 * MIB);
    let second = pair.run();
    let made = &second.backups[0];
    assert_eq!(
        (made.method, made.written_bytes, made.cleared_bytes),
        (Method::Incremental, 512, MIB)
    );
    assert_eq!(made.reason, None);
    assert_eq!(second.deleted_snapshots, [first.backups[0].backup.source_snapshot.to_string()]);

    let third = pair.run();
    assert_eq!((third.backups[0].written_bytes, third.backups[0].cleared_bytes), (0, 0));
    assert_eq!(pair.backups().len(), 3);
    let left = snapshots(&pair.source, &pair.disk);
    assert_eq!(left, [users, third.backups[0].backup.source_snapshot]);

    let json = serde_json::to_string(&third).expect("is JSON");
    let again: BackupReport = serde_json::from_str(&json).expect("is a report");
    assert_eq!(again, third);
}

fn pairs(client: &Client, blob: &BlobPath, read: &ReadBlob) -> Vec<(String, String)> {
    let metadata = client.properties(blob, read).expect("is there").metadata;
    metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// As docs/understand/incremental-blob-backups.md says. Backups of today must be found by every later version.
#[test]
fn metadata_is_as_it_is_documented() {
    let mut pair = Pair::new("acct", MIB);
    let kept = Metadata::of([("of", "a user")]).expect("metadata");
    let made = pair.run().backups.remove(0).backup;
    let of_target = pairs(&pair.target, &pair.backup, &at(made.snapshot));
    let value = |pairs: &[(String, String)], name: &str| {
        let found = pairs.iter().find(|pair| pair.0 == name);
        found.unwrap_or_else(|| panic!("no {name} in {pairs:?}")).1.clone()
    };
    let (run, moment) =
        (value(&of_target, "strongroom_run"), value(&of_target, "strongroom_moment"));
    assert!(run.len() == 32 && run.bytes().all(|byte| byte.is_ascii_hexdigit()), "{run}");
    assert!(moment.len() == 20 && moment.ends_with('Z'), "{moment}");
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        of_target,
        [
            own("strongroom_moment", &moment),
            own("strongroom_run", &run),
            own("strongroom_snapshot", &made.source_snapshot.to_string()),
            own("strongroom_source", "acct/disks/web"),
            own("strongroom_state", "complete"),
        ]
    );
    let of_source = pairs(&pair.source, &pair.disk, &at(made.source_snapshot));
    let moment = value(&of_source, "strongroom_moment");
    assert_eq!(
        of_source,
        [
            own("strongroom_backup", "acct/backups/web"),
            own("strongroom_moment", &moment),
            own("strongroom_run", &run),
        ]
    );
    let base = [own("strongroom_run", &run), own("strongroom_source", "acct/disks/web")];
    assert_eq!(pairs(&pair.target, &pair.backup, &ReadBlob::default()), base);

    // The backup is found on blobs that were made by hand, with the metadata of the page.
    let (web, copy) = (with_disk(&pair.source, "hand", MIB), path("backups", "hand"));
    let new = NewPageBlob { length: MIB, metadata: kept, ..NewPageBlob::default() };
    let none = BlobWrite::default();
    pair.target.create_page_blob(&copy, &new, &none).expect("creates");
    let moment = strongroom_azure::iso_date(strongroom_base::Clock::now(&*pair.clock));
    let common =
        [("strongroom_run", "0123456789abcdef0123456789abcdef"), ("strongroom_moment", &moment)];
    let of_source =
        Metadata::of(common.into_iter().chain([("strongroom_backup", "acct/backups/hand")]));
    let of_source = of_source.expect("metadata");
    let taken = pair.source.snapshot(&web, &of_source, &none).expect("a snapshot").to_string();
    let of_target = [
        ("strongroom_state", "complete"),
        ("strongroom_source", "acct/disks/hand"),
        ("strongroom_snapshot", &taken),
    ];
    let of_target = Metadata::of(common.into_iter().chain(of_target)).expect("metadata");
    pair.target.snapshot(&copy, &of_target, &none).expect("a snapshot");
    (pair.disk, pair.backup) = (web, copy);
    pair.observe();
    put(&pair.source, &pair.disk, 0, vec![1; 512]);
    let report = pair.run();
    assert_eq!((report.backups.len(), report.backups[0].method), (1, Method::Incremental));
    assert_eq!(report.deleted_snapshots, [taken]);
    let base = pairs(&pair.target, &pair.backup, &ReadBlob::default());
    assert_eq!(value(&base, "of"), "a user");
}

/// The disk of a running machine has a lease without an end.
#[test]
fn a_disk_with_a_lease_is_backed_up() {
    let mut pair = Pair::new("acct", 4 * MIB);
    let action = LeaseAction::Acquire { duration: LeaseDuration::Infinite, proposed: None };
    let lease = pair.source.lease(&pair.disk, action).expect("takes");
    for byte in 1..4 {
        let write = BlobWrite { lease, ..BlobWrite::default() };
        let bytes = vec![byte; 512];
        pair.source.put_pages(&pair.disk, 0, bytes.into(), &write).expect("writes");
        let report = pair.run();
        assert_eq!(report.kept_snapshots, Vec::<String>::new());
        assert_eq!(snapshots(&pair.source, &pair.disk).len(), 1);
    }
}

#[test]
fn a_disk_grows_and_shrinks() {
    let mut pair = Pair::new("acct", 4 * MIB);
    put(&pair.source, &pair.disk, 3 * MIB, vec![1; 1 << 20]);
    pair.run();
    let write = BlobWrite::default();
    for (lengths, at) in [(vec![8 * MIB], 7 * MIB), (vec![2 * MIB], MIB), (vec![MIB, 4 * MIB], 0)] {
        for length in lengths {
            pair.source.resize(&pair.disk, length, &write).expect("resizes");
        }
        put(&pair.source, &pair.disk, at, vec![2; 512]);
        assert_eq!(pair.run().backups[0].method, Method::Incremental);
    }
}

#[test]
fn pages_are_copied_by_the_service_of_the_target() {
    let mut pair = Pair::new("acct", 16 * MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 4 << 20]);
    put(&pair.source, &pair.disk, 8 * MIB, vec![2; 512]);
    let options = Backup { through: Through::Service, ..Backup::default() };
    let report = run(pair.place(), pair.to_place(), options, &Work::default()).expect("backs up");
    assert_eq!((report.backups[0].read_bytes, report.backups[0].written_bytes), (0, 4 * MIB + 512));
    pair.observe();
    pair.check();
}

#[test]
fn a_backup_and_a_restore_keep_to_their_rate() {
    for through in [Through::Client, Through::Service] {
        let mut pair = Pair::new("acct", 16 * MIB);
        put(&pair.source, &pair.disk, 0, vec![1; 4 << 20]);
        put(&pair.source, &pair.disk, 8 * MIB, vec![1; 4 << 20]);
        let limit_rate = Some(MIB);
        let options = Backup { through, limit_rate, ..Backup::default() };
        let report = run(pair.place(), pair.to_place(), options, &Work::default());
        let report = report.expect("backs up");
        // 8 MiB at 1 MiB in a second, but for what may move ahead.
        assert!(report.duration_ms >= 7500, "{report:?}");
        pair.observe();
        pair.check();
        let restored = path("disks", "again");
        let to = Place { client: &pair.source, blob: &restored };
        let options = Restore { through, limit_rate, ..Restore::default() };
        let newest = pair.backups()[0].snapshot;
        let report = restore(pair.to_place(), newest, to, &options, &Work::default());
        assert!(report.expect("restores").duration_ms >= 7500);
    }
}

#[test]
fn a_disk_that_was_created_again_is_compared() {
    let mut pair = Pair::new("acct", 4 * MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 2 << 20]);
    pair.run();
    let new = NewPageBlob { length: 4 * MIB, ..NewPageBlob::default() };
    pair.source.create_page_blob(&pair.disk, &new, &BlobWrite::default()).expect("creates again");
    put(&pair.source, &pair.disk, 0, vec![1; 1 << 20]);
    put(&pair.source, &pair.disk, 512, vec![2; 512]);
    let report = pair.run();
    let made = &report.backups[0];
    assert_eq!(made.method, Method::Compared);
    assert!(made.reason.as_deref().expect("a reason").contains("BlobOverwritten"), "{made:?}");
    assert_eq!((made.written_bytes, made.cleared_bytes), (64 << 10, MIB));
    put(&pair.source, &pair.disk, 0, vec![3; 512]);
    assert_eq!(pair.run().backups[0].method, Method::Incremental);
}

#[test]
fn a_snapshot_of_the_source_that_is_gone_is_no_harm() {
    let mut pair = Pair::new("acct", 4 * MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 2 << 20]);
    pair.run();
    let only = Some(DeleteSnapshots::Only);
    pair.source.delete(&pair.disk, None, only, &BlobWrite::default()).expect("deletes");
    put(&pair.source, &pair.disk, MIB, vec![2; 512]);
    let made = pair.run().backups.remove(0);
    assert_eq!((made.method, made.read_bytes), (Method::Compared, 2 * MIB));
    assert!(made.reason.is_some());
}

#[test]
fn what_others_write_to_the_target_is_written_again() {
    let mut pair = Pair::new("acct", 4 * MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 2 << 20]);
    pair.run();
    put(&pair.target, &pair.backup, 0, vec![9; 512]);
    put(&pair.target, &pair.backup, 3 * MIB, vec![9; 512]);
    let made = pair.run().backups.remove(0);
    assert_eq!(
        (made.method, made.written_bytes, made.cleared_bytes),
        (Method::Incremental, 512, 512)
    );
    // A snapshot that a user takes of the target is no backup.
    take(&pair.target, &pair.backup);
    assert_eq!(pair.backups().len(), 2);
}

#[test]
fn a_second_run_and_a_target_of_something_else_are_refused() {
    let mut pair = Pair::new("acct", MIB);
    pair.run();
    let held = pair.target.hold(&pair.backup, Duration::ZERO, &Cancel::new()).expect("takes");
    assert_eq!(pair.try_run().expect_err("is busy").code().name, "blob.leased");
    drop(held);
    let other = with_disk(&pair.source, "other", MIB);
    let mine = std::mem::replace(&mut pair.disk, other);
    assert_eq!(pair.try_run().expect_err("is of web").code().name, "blob.foreign");
    pair.disk = mine;
    pair.backup = path("backups", "somebody");
    let new = NewPageBlob { length: MIB, ..NewPageBlob::default() };
    pair.target.create_page_blob(&pair.backup, &new, &BlobWrite::default()).expect("creates");
    assert_eq!(pair.try_run().expect_err("is foreign").code().name, "blob.foreign");
    pair.disk = path("disks", "missing");
    assert_eq!(pair.try_run().expect_err("is missing").code().name, "blob.not_found");
}

#[test]
fn a_premium_source_permits_a_backup_every_ten_minutes() {
    let mut pair = Pair::new("prem", MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 512]);
    pair.run();
    assert_eq!(pair.try_run().expect_err("is too soon").code().name, "blob.snapshot_limit");
    pair.clock.leap(Duration::from_mins(11));
    put(&pair.source, &pair.disk, 0, vec![2; 512]);
    let report = pair.run();
    assert_eq!(
        (report.backups[0].method, report.backups[0].written_bytes),
        (Method::Incremental, 512)
    );
}

#[test]
fn a_restored_disk_continues_the_backups() {
    let mut pair = Pair::new("acct", 8 * MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 4 << 20]);
    let first = pair.run().backups.remove(0).backup;
    put(&pair.source, &pair.disk, 0, vec![2; 1 << 20]);
    clear(&pair.source, &pair.disk, 2 * MIB, 3 * MIB);
    pair.source.resize(&pair.disk, 16 * MIB, &BlobWrite::default()).expect("resizes");
    put(&pair.source, &pair.disk, 12 * MIB, vec![2; 512]);
    pair.run();

    let restored = path("disks", "restored");
    let report = pair.restore_to(first.snapshot, &restored).expect("restores");
    assert_eq!((report.written_bytes, report.was_continued), (4 * MIB, false));
    let read = ReadBlob::default();
    let expected = content(&pair.target, &pair.backup, &at(first.snapshot));
    assert!(content(&pair.source, &restored, &read) == expected);
    assert_eq!(
        ranges(&pair.source, &restored, &read),
        ranges(&pair.target, &pair.backup, &at(first.snapshot))
    );
    let refused = pair.restore_to(first.snapshot, &restored).expect_err("is there");
    assert_eq!(refused.code().name, "blob.exists");
    let users = take(&pair.target, &pair.backup);
    let refused = pair.restore_to(users, &path("disks", "no")).expect_err("is no backup");
    assert_eq!(refused.code().name, "blob.no_backup");

    // From here the restored disk is the one that is used.
    pair.disk = restored;
    put(&pair.source, &pair.disk, 5 * MIB, vec![4; 512]);
    let made = pair.run().backups.remove(0);
    assert_eq!(made.method, Method::Incremental);
    // What the second backup had changed, and what the disk has changed since.
    assert_eq!(made.written_bytes, 2 * MIB + 512);
    let made = pair.run().backups.remove(0);
    assert_eq!((made.method, made.written_bytes), (Method::Incremental, 0));
    assert_eq!(pair.backups().len(), 4);
    assert_eq!(snapshots(&pair.source, &pair.disk).len(), 1);
}

#[test]
fn a_snapshot_that_cannot_be_read_is_copied_first() {
    let mut pair = Pair::new("prem", 8 * MIB);
    let proxy = Proxy::premium(pair.from.address);
    let direct = pair.source.clone();
    let premium = pair.from.client_at("prem", proxy.address, 1);
    put(&direct, &pair.disk, 0, vec![1; 4 << 20]);
    for round in 0..3_u8 {
        put(&direct, &pair.disk, 4 * MIB, vec![round + 1; 1 << 20]);
        pair.source = premium.clone();
        let source = pair.place();
        let through = if round == 2 { Through::Service } else { Through::Client };
        let made =
            run(source, pair.to_place(), Backup { through, ..Backup::default() }, &Work::default());
        made.expect("backs up");
        pair.source = direct.clone();
        pair.observe();
        pair.check();
        pair.clock.leap(Duration::from_mins(11));
    }
    let blobs = direct.blobs(&pair.disk.container, strongroom_storage_client::BlobQuery::default());
    assert_eq!(blobs.count(), 1, "the copy was not deleted");
    // A blob of somebody else is left alone.
    with_disk(&direct, "web.strongroom-staging", 512);
    pair.source = premium;
    let refused = run(pair.place(), pair.to_place(), Backup::default(), &Work::default());
    assert_eq!(refused.expect_err("is foreign").code().name, "blob.foreign");
}

#[test]
fn lost_requests_lost_answers_and_a_busy_server_do_not_matter() {
    let mut pair = Pair::new("acct", 4 * MIB);
    let proxies = [Proxy::before(pair.from.address), Proxy::before(pair.to.address)];
    for proxy in &proxies {
        proxy.rule(|number| match number % 5 {
            1 => Fate::IsLost,
            2 => Fate::AnswerIsLost,
            4 => Fate::IsBusy,
            _ => Fate::Passes,
        });
    }
    let direct = pair.source.clone();
    pair.source = pair.from.client_at("acct", proxies[0].address, 8);
    pair.target = pair.to.client_at("acct", proxies[1].address, 8);
    for round in 0..8_u8 {
        put(&direct, &pair.disk, u64::from(round) * 4096, vec![round + 1; 1 << 20]);
        clear(&direct, &pair.disk, u64::from(round) * 512, u64::from(round) * 512 + 512);
        pair.run();
        assert_eq!(snapshots(&direct, &pair.disk).len(), 1);
    }
    assert_eq!(pair.backups().len(), 8);
}

/// A blob that is made of a snapshot has its metadata, and hands it on to snapshots that users take.
#[test]
fn metadata_that_was_handed_on_proves_nothing() {
    let mut pair = Pair::new("acct", MIB);
    put(&pair.source, &pair.disk, 0, vec![1; 512]);
    let first = pair.run().backups.remove(0).backup;
    let restored = path("disks", "restored");
    let report = pair.restore_to(first.snapshot, &restored).expect("restores");
    let marked = report.restored_snapshot.parse().expect("an id");
    pair.source.promote(&restored, marked, &BlobWrite::default()).expect("promotes");
    pair.source
        .promote(&pair.disk, first.source_snapshot, &BlobWrite::default())
        .expect("promotes");
    let none = BlobWrite::default();
    for blob in [&restored, &pair.disk] {
        while pair.source.put_pages(blob, 1024, vec![7; 512].into(), &none).is_err() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    pair.clock.leap(Duration::from_hours(1));
    let users = take(&pair.source, &pair.disk);
    let of_restored = take(&pair.source, &restored);
    pair.run();
    assert!(snapshots(&pair.source, &pair.disk).contains(&users));
    pair.source.delete(&restored, Some(marked), None, &none).expect("deletes");
    put(&pair.source, &restored, 2048, vec![8; 512]);
    let web = std::mem::replace(&mut pair.disk, restored.clone());
    // Nothing links the restored disk to the backup any more, though a snapshot of it seems to.
    assert_eq!(pair.try_run().expect_err("is foreign").code().name, "blob.foreign");
    assert!(snapshots(&pair.source, &restored).contains(&of_restored));
    pair.disk = web;
    pair.run();
}
