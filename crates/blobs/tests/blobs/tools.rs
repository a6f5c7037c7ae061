//! A clock that is set, chance from a seed, folders that crash, and short forms of changes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use strongroom_base::{Clock, Entropy, SplitMix64};
use strongroom_blobs::{
    Access, AccountChange, AccountKey, AccountKind, BlobChange, BlobName, Change, ContainerChange,
    ContainerName, Done, NewAccount, NewBlob, Options, Redundancy, Refusal, SequenceConditions,
    SnapshotId, SnapshotOf, Store,
};

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_700_000_000_000_000_000)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).expect("short"), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.0.load(Ordering::SeqCst))).expect("a time")
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}

/// Chance that is the same in each run.
pub(crate) struct Seeded(Mutex<SplitMix64>);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(SplitMix64::new(seed))))
    }
}

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let mut numbers = self.0.lock().expect("no panic");
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&numbers.bits().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Options under which nothing happens by itself.
pub(crate) fn options(clock: &Arc<TestClock>) -> Options {
    Options {
        checkpoint_size: 1 << 40,
        checkpoint_interval: Duration::from_secs(1 << 30),
        segment_size: 1 << 20,
        reserve_size: 0,
        cache_size: 8 << 20,
        ..Options::new(clock.clone(), Seeded::new(7))
    }
}

/// A folder in memory, where there is one: these tests write much and need no disk.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

pub(crate) fn container() -> ContainerName {
    ContainerName::new("account", "container")
}

pub(crate) fn blob(name: &str) -> BlobName {
    container().blob(name)
}

pub(crate) fn new_account(kind: AccountKind) -> Change {
    let key = || AccountKey::new(vec![7; 64]);
    let account =
        NewAccount { kind, redundancy: Redundancy::Lrs, keys: [key(), key()], rules: true };
    Change::Account { name: "account".to_owned(), change: AccountChange::Create(account) }
}

/// A new store with an account and a container, in a folder.
pub(crate) fn store_in(path: &Path, clock: &Arc<TestClock>, kind: AccountKind) -> Store {
    store_in_copies(path, options(clock), kind)
}

/// The same with the copies that the options name.
pub(crate) fn store_in_copies(path: &Path, options: Options, kind: AccountKind) -> Store {
    Store::create(path, &options).expect("creates");
    let store = Store::open(path, options).expect("opens");
    store.apply(new_account(kind)).expect("an account");
    let change = ContainerChange::Create(strongroom_blobs::Metadata::new());
    let name = container();
    store
        .apply(Change::Container { name, access: Access::default(), change })
        .expect("a container");
    store
}

pub(crate) fn change(name: &str, change: BlobChange) -> Change {
    Change::Blob { name: blob(name), access: Access::default(), change }
}

pub(crate) fn create(name: &str, size: u64) -> Change {
    change(name, BlobChange::Create(NewBlob { size, ..NewBlob::default() }))
}

pub(crate) fn write(name: &str, offset: u64, data: impl Into<Bytes>) -> Change {
    let sequence = SequenceConditions::default();
    change(name, BlobChange::Write { offset, data: data.into(), sequence })
}

pub(crate) fn clear(name: &str, offset: u64, len: u64) -> Change {
    change(name, BlobChange::Clear { offset, len, sequence: SequenceConditions::default() })
}

pub(crate) fn snapshot(name: &str) -> Change {
    let of = SnapshotOf { blob: blob(name), access: Access::default(), metadata: None };
    Change::Snapshot(vec![of])
}

pub(crate) fn take_snapshot(store: &Store, name: &str) -> SnapshotId {
    store.apply(snapshot(name)).expect("a snapshot").snapshot.expect("its id")
}

pub(crate) fn refused(result: Result<Done, Refusal>) -> Refusal {
    result.expect_err("is refused")
}

/// Copies a folder as a crash would leave it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            match fs::copy(entry.path(), target) {
                // Background work deletes what nobody needs, which a crash may see as well.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => drop(result.expect("copies")),
            }
        }
    }
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| PathBuf::from(entry.expect("an entry").file_name())).collect()
}

/// Makes the files of `later` what a disk may have of them when only some sectors arrived since `earlier`.
pub(crate) fn mix_sectors(earlier: &Path, later: &Path, random: &mut SplitMix64) {
    for name in files(later) {
        let old = fs::read(earlier.join(&name)).unwrap_or_default();
        let mut new = fs::read(later.join(&name)).expect("reads");
        // None, all, or some of them.
        let share = [0, 1, 2, 3, 4][usize::try_from(random.below(5)).expect("small")];
        for (index, sector) in new.chunks_mut(512).enumerate() {
            if random.below(4) < share {
                continue;
            }
            let start = index * 512;
            let before = old.get(start..(start + sector.len()).min(old.len())).unwrap_or_default();
            sector[..before.len()].copy_from_slice(before);
            sector[before.len()..].fill(0);
        }
        fs::write(later.join(&name), new).expect("writes");
    }
}

/// 512 bytes that a number makes; no two numbers make the same.
pub(crate) fn page_of(tag: u64) -> [u8; 512] {
    let mut page = [0; 512];
    for (index, word) in page.chunks_mut(8).enumerate() {
        let word_of =
            tag.wrapping_mul(0x9e37_79b9).wrapping_add(u64::try_from(index).expect("small"));
        word.copy_from_slice(&(word_of | 1 << 63).to_le_bytes());
    }
    page
}
