//! Several copies: what is acknowledged is in each, one that fails is left out and made again, and rot is repaired.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use strongroom_base::SystemEntropy;
use strongroom_blobs::{
    AccountKind, Options, ReadError, Refusal, SnapshotId, Store, StoreCopyState, StoreError,
};

use crate::tools::{
    TestClock, blob, copy_folder, create, folder, options, page_of, snapshot, store_in_copies,
    take_snapshot, write,
};

/// Folders of a store, and its clock.
pub(crate) struct Place {
    pub(crate) root: tempfile::TempDir,
    pub(crate) clock: Arc<TestClock>,
}

impl Place {
    fn new() -> Self {
        Self { root: folder(), clock: TestClock::new() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn options(&self, copies: &[&str]) -> Options {
        let copies = copies.iter().map(|name| self.at(name)).collect();
        // Copies that are made later get ids of their own.
        let entropy = Arc::new(SystemEntropy);
        Options { copies, retry_interval: Duration::ZERO, entropy, ..options(&self.clock) }
    }

    /// A store with copies in `a` and so on.
    fn store(&self, copies: &[&str]) -> Store {
        store_in_copies(&self.at("a"), self.options(copies), AccountKind::Standard)
    }

    fn open(&self, name: &str) -> Result<Store, StoreError> {
        Store::open(&self.at(name), self.options(&[]))
    }

    /// What one copy has when the others are gone.
    fn alone(&self, name: &str, others: &[&str]) -> Store {
        let alone = self.at(&format!("alone-{name}"));
        drop(fs::remove_dir_all(&alone));
        copy_folder(&self.at(name), &alone);
        let away = self.at("away");
        fs::create_dir_all(&away).expect("a folder");
        for other in others {
            fs::rename(self.at(other), away.join(other)).expect("moves");
        }
        let without = others.iter().map(|name| self.at(name)).collect();
        let opened = Store::open(&alone, Options { without, ..self.options(&[]) });
        for other in others {
            fs::rename(away.join(other), self.at(other)).expect("moves back");
        }
        opened.unwrap_or_else(|error| panic!("{name}: {error:?}"))
    }
}

/// All bytes of a blob.
pub(crate) fn bytes_of(store: &Store, name: &str, id: Option<SnapshotId>) -> Vec<u8> {
    let view = store.view().expect("a view");
    let head = view.head(&blob(name), id).expect("is there");
    let mut bytes = vec![0; usize::try_from(head.size).expect("small")];
    view.read(&head, 0, &mut bytes).expect("reads");
    bytes
}

/// Waits until something is so; the committer looks after its copies meanwhile.
pub(crate) fn wait(store: &Store, what: &str, is_so: impl Fn(&Store) -> bool) {
    let start = Instant::now();
    while !is_so(store) {
        assert!(start.elapsed() < Duration::from_mins(1), "{what}: {:?}", store.status());
        store.checkpoint();
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn is_whole(store: &Store) -> bool {
    let is_whole =
        |state: &StoreCopyState| matches!(state, StoreCopyState::Leading | StoreCopyState::Healthy);
    store.status().copies.iter().all(|copy| is_whole(&copy.state))
}

fn state_of(store: &Store, path: &Path) -> StoreCopyState {
    let copies = store.status().copies;
    copies.into_iter().find(|copy| copy.path == path).expect("is known").state
}

/// Changes a byte of the homes of the first generation of a copy.
fn rot(copy: &Path, at: usize) {
    let file = copy.join("data/0000000000000001.home");
    let mut bytes = fs::read(&file).expect("reads");
    bytes[at] ^= 4;
    fs::write(&file, bytes).expect("writes");
}

#[test]
fn an_acknowledged_change_is_in_each_copy() {
    let place = Place::new();
    let store = place.store(&["b", "c"]);
    store.apply(create("a", 4 * 65536)).expect("creates");
    for n in 0..20 {
        store.apply(write("a", n * 4096, page_of(n).to_vec())).expect("writes");
        if n == 10 {
            store.apply(snapshot("a")).expect("a snapshot");
        }
    }
    let wanted = bytes_of(&store, "a", None);
    // As a crash leaves them, of which two copies are lost.
    let crashed = Place { root: folder(), clock: Arc::clone(&place.clock) };
    for name in ["a", "b", "c"] {
        copy_folder(&place.at(name), &crashed.at(name));
    }
    let states: Vec<_> = store.status().copies.into_iter().map(|copy| copy.state).collect();
    assert!(matches!(
        states[..],
        [StoreCopyState::Leading, StoreCopyState::Healthy, StoreCopyState::Healthy]
    ));
    drop(store);
    for name in ["a", "b", "c"] {
        let others = ["a", "b", "c"].into_iter().filter(|other| *other != name);
        let without = others.map(|other| place.at(other)).collect();
        // The paths that the copies know are those of before the crash.
        let moved: Vec<PathBuf> = ["a", "b", "c"].map(|name| place.at(name)).to_vec();
        for path in &moved {
            fs::rename(path, path.with_extension("moved")).expect("moves");
        }
        let store = Store::open(&crashed.at(name), Options { without, ..place.options(&[]) });
        for path in &moved {
            fs::rename(path.with_extension("moved"), path).expect("moves back");
        }
        let store = store.expect("opens");
        assert!(bytes_of(&store, "a", None) == wanted, "{name}");
        store.apply(write("a", 0, page_of(77).to_vec())).expect("goes on");
    }
}

#[test]
fn a_missing_copy_is_refused_until_another_one_knows_that_it_is_stale() {
    let place = Place::new();
    drop(place.store(&["b"]));
    fs::rename(place.at("b"), place.at("gone")).expect("moves");
    let refused = place.open("a").err().expect("is refused");
    assert!(matches!(&refused, StoreError::CopyMissing { path } if *path == place.at("b")));
    let without = vec![place.at("b")];
    let store = Store::open(&place.at("a"), Options { without, ..place.options(&[]) });
    let store = store.expect("opens by the owner's word");
    store.apply(create("a", 4096)).expect("creates");
    store.apply(write("a", 0, page_of(1).to_vec())).expect("writes");
    drop(store);
    // From now on it is known.
    let store = place.open("a").expect("opens");
    let state = state_of(&store, &place.at("b"));
    assert!(matches!(state, StoreCopyState::LeftOut { is_missing: true, .. }), "{state:?}");
    drop(store);
    // Alone it cannot know that it is stale, and counts on the other.
    fs::rename(place.at("a"), place.at("away")).expect("moves");
    fs::rename(place.at("gone"), place.at("b")).expect("moves back");
    let refused = place.open("b").err().expect("is refused");
    assert!(matches!(&refused, StoreError::CopyMissing { path } if *path == place.at("a")));
    fs::rename(place.at("away"), place.at("a")).expect("moves back");
    // Found together, the newer one decides, whichever is named.
    let store = place.open("b").expect("opens");
    assert!(bytes_of(&store, "a", None)[..512] == page_of(1));
    wait(&store, "the copy is made again", is_whole);
    drop(store);
    for (name, other) in [("a", "b"), ("b", "a")] {
        assert!(bytes_of(&place.alone(name, &[other]), "a", None)[..512] == page_of(1));
    }
}

#[test]
fn a_copy_that_was_left_out_is_never_a_source() {
    let place = Place::new();
    drop(place.store(&["b"]));
    let without = vec![place.at("b")];
    fs::rename(place.at("b"), place.at("gone")).expect("moves");
    drop(Store::open(&place.at("a"), Options { without, ..place.options(&[]) }).expect("opens"));
    fs::rename(place.at("gone"), place.at("b")).expect("moves back");
    // The newer one is damaged: the older one is no answer.
    fs::write(place.at("a").join("state.redb"), b"no database").expect("writes");
    let refused = place.open("b").err().expect("is refused");
    assert!(matches!(refused, StoreError::State(_)), "{refused:?}");
}

#[test]
fn a_copy_that_fails_is_left_out_and_made_again() {
    let place = Place::new();
    let store = place.store(&["b"]);
    store.apply(create("a", 65536)).expect("creates");
    store.checkpoint();
    // Its data file cannot be made.
    let data = place.at("b").join("data");
    fs::remove_dir_all(&data).expect("removes");
    fs::write(&data, b"in the way").expect("writes");
    for n in 0..10 {
        store.apply(write("a", n * 4096, page_of(n).to_vec())).expect("goes on");
    }
    wait(&store, "it is left out", |store| {
        matches!(state_of(store, &place.at("b")), StoreCopyState::LeftOut { .. })
    });
    assert!(store.status().failure.is_none());
    fs::remove_file(&data).expect("removes");
    wait(&store, "it is made again", is_whole);
    store.apply(write("a", 0, page_of(99).to_vec())).expect("writes");
    let wanted = bytes_of(&store, "a", None);
    drop(store);
    assert!(bytes_of(&place.alone("b", &["a"]), "a", None) == wanted);
}

#[test]
fn another_copy_leads_when_the_leading_one_fails() {
    let place = Place::new();
    let store = place.store(&["b", "c"]);
    store.apply(create("a", 65536)).expect("creates");
    store.apply(create("b", 65536)).expect("creates");
    store.apply(write("a", 0, page_of(1).to_vec())).expect("writes");
    let early = store.view().expect("a view");
    let head = early.head(&blob("a"), None).expect("is there");
    fs::remove_dir_all(place.at("a")).expect("removes");
    for n in 0..200 {
        store.apply(write("b", n % 16 * 4096, page_of(n).to_vec())).expect("goes on");
        store.apply(write("a", 8192, vec![3; 30_208])).expect("goes on");
    }
    wait(&store, "another one leads", |store| {
        matches!(state_of(store, &place.at("a")), StoreCopyState::LeftOut { is_missing: true, .. })
    });
    assert!(store.status().failure.is_none());
    assert!(bytes_of(&store, "a", None)[..512] == page_of(1));
    // Who began to read before reads on.
    let mut page = [0; 512];
    early.read(&head, 0, &mut page).expect("reads");
    assert!(page == page_of(1));
    drop((early, head));
    let wanted = bytes_of(&store, "b", None);
    drop(store);
    let store = place.open("b").expect("opens without it");
    assert!(bytes_of(&store, "b", None) == wanted);
    store.add_copy(&place.at("a")).expect("begins");
    wait(&store, "it is made again", is_whole);
    drop(store);
    for (name, others) in [("a", ["b", "c"]), ("b", ["a", "c"]), ("c", ["a", "b"])] {
        assert!(bytes_of(&place.alone(name, &others), "b", None) == wanted, "{name}");
    }
}

#[test]
fn rot_is_repaired_by_reads_writes_and_scrubs() {
    let place = Place::new();
    let store = place.store(&["b"]);
    store.apply(create("a", 2 * 65536)).expect("creates");
    store.apply(write("a", 0, vec![1; 65536])).expect("writes");
    let good = bytes_of(&store, "a", None);
    wait(&store, "both have it", |_| {
        fs::read_dir(place.at("b").join("data")).expect("a folder").count() == 1
    });
    // A read.
    rot(&place.at("a"), 5000);
    assert!(bytes_of(&store, "a", None) == good);
    assert_eq!(store.status().findings.repaired, 1);
    // A write that needs the rest of the cell.
    rot(&place.at("a"), 9000);
    store.apply(write("a", 8192, page_of(5).to_vec())).expect("writes");
    assert_eq!(store.status().findings.repaired, 2);
    // A write that the follower cannot apply: the whole block is written elsewhere.
    rot(&place.at("b"), 13_000);
    let id = take_snapshot(&store, "a");
    store.apply(write("a", 0, page_of(6).to_vec())).expect("writes");
    wait(&store, "the follower has applied it", |store| store.status().findings.repaired == 3);
    // What nobody reads.
    rot(&place.at("b"), 30_000);
    rot(&place.at("a"), 40_000);
    let findings = store.scrub();
    assert_eq!((findings.repaired, findings.lost, findings.passes), (5, 0, 1));
    assert!(findings.compared >= 4 * 65536);
    assert!(is_whole(&store), "{:?}", store.status());
    assert!(bytes_of(&store, "a", Some(id))[9000..65536] == good[9000..65536]);
    // In both copies: it is refused, and never wrong.
    rot(&place.at("a"), 50_000);
    rot(&place.at("b"), 50_000);
    let findings = store.scrub();
    assert_eq!((findings.repaired, findings.lost), (5, 2));
    let view = store.view().expect("a view");
    let head = view.head(&blob("a"), Some(id)).expect("is there");
    let damaged = view.read(&head, 49_152, &mut [0; 4096]).expect_err("is damaged");
    assert!(matches!(damaged, ReadError::Refused(Refusal::Damaged { offset: 49_152 })));
}

#[test]
fn a_state_that_rots_is_found_and_made_again() {
    for name in ["a", "b"] {
        let place = Place::new();
        let store = place.store(&["b"]);
        store.apply(create("a", 1 << 30)).expect("creates");
        for n in 0..300 {
            store.apply(write("a", n * 65536, page_of(n).to_vec())).expect("writes");
        }
        drop(store);
        let path = place.at(name).join("state.redb");
        let mut bytes = fs::read(&path).expect("reads");
        let len = bytes.len();
        for at in (8192 + 100..len).step_by(4096) {
            bytes[at] ^= 1;
        }
        fs::write(&path, bytes).expect("writes");
        let store = place.open("a").expect("opens");
        store.scrub();
        let view = store.view().expect("a view");
        let head = view.head(&blob("a"), None).expect("is there");
        for n in 0..300 {
            let mut page = [0; 512];
            view.read(&head, n * 65536, &mut page).expect("reads");
            assert!(page == page_of(n));
        }
        drop(view);
        wait(&store, "it is made again", is_whole);
        assert!(store.status().failure.is_none());
    }
}

#[test]
fn copies_are_added_and_removed_while_writers_write() {
    let place = Place::new();
    // Checkpoints come often, and the journal is long enough for several passes.
    let options = Options { checkpoint_size: 1 << 18, segment_size: 1 << 18, ..place.options(&[]) };
    let store = store_in_copies(&place.at("a"), options, AccountKind::Standard);
    store.apply(create("a", 1 << 24)).expect("creates");
    for n in 0..200 {
        store.apply(write("a", n * 65536, vec![9; 65536])).expect("writes");
    }
    let is_over = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    let sure = thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u64)
            .map(|thread| {
                let (store, is_over, count) = (&store, &is_over, &count);
                scope.spawn(move || {
                    let mut last = std::collections::BTreeMap::new();
                    for n in 0.. {
                        if is_over.load(Ordering::SeqCst) {
                            break;
                        }
                        let page = thread * 10_000 + n * 37 % 10_000;
                        let tag = thread << 32 | n;
                        store.apply(write("a", page * 512, page_of(tag).to_vec())).expect("writes");
                        last.insert(page, tag);
                        if thread == 0 && n % 50 == 0 {
                            store.apply(snapshot("a")).expect("a snapshot");
                        }
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    last
                })
            })
            .collect();
        for name in ["b", "c"] {
            store.add_copy(&place.at(name)).expect("begins");
            wait(&store, "it is made", is_whole);
        }
        let exists = store.add_copy(&place.at("b"));
        assert!(matches!(exists, Err(StoreError::Exists { .. })));
        store.remove_copy(&place.at("a")).expect("another one leads");
        let before = count.load(Ordering::SeqCst);
        wait(&store, "writers write", |_| count.load(Ordering::SeqCst) > before + 50);
        is_over.store(true, Ordering::SeqCst);
        let mut all = std::collections::BTreeMap::new();
        for writer in writers {
            all.extend(writer.join().expect("ends"));
        }
        all
    });
    let wanted = bytes_of(&store, "a", None);
    for (page, tag) in sure {
        let at = usize::try_from(page * 512).expect("small");
        assert!(wanted[at..at + 512] == page_of(tag), "page {page}");
    }
    store.settle();
    store.remove_copy(&place.at("c")).expect("is removed");
    let last = store.remove_copy(&place.at("b"));
    assert!(matches!(last, Err(StoreError::LastCopy { .. })));
    assert!(matches!(store.remove_copy(&place.at("c")), Err(StoreError::NoCopy { .. })));
    drop(store);
    let named = Store::open(&place.at("b"), place.options(&["c"]));
    let refused = named.err().expect("was removed");
    assert!(matches!(refused, StoreError::CopyStale { .. }), "{refused:?}");
    // A folder that was removed knows where the others are, and nothing more.
    for name in ["a", "c"] {
        let store = place.open(name).expect("finds the other");
        assert_eq!(store.status().copies.len(), 1);
        assert!(bytes_of(&store, "a", None) == wanted, "{name}");
        drop(store);
        fs::rename(place.at("b"), place.at("away")).expect("moves");
        let alone = place.open(name).err().expect("was removed");
        assert!(matches!(alone, StoreError::CopyMissing { .. }), "{alone:?}");
        let without = vec![place.at("b")];
        let alone = Store::open(&place.at(name), Options { without, ..place.options(&[]) });
        assert!(matches!(alone.err(), Some(StoreError::CopyStale { .. })));
        fs::rename(place.at("away"), place.at("b")).expect("moves back");
    }
    let store = place.open("b").expect("opens");
    assert!(bytes_of(&store, "a", None) == wanted);
    assert_eq!(store.scrub().lost, 0);
}

#[test]
fn a_new_folder_that_is_named_becomes_a_copy() {
    let place = Place::new();
    let store = place.store(&[]);
    store.apply(create("a", 65536)).expect("creates");
    store.apply(write("a", 0, page_of(3).to_vec())).expect("writes");
    drop(store);
    let store = Store::open(&place.at("a"), place.options(&["b"])).expect("opens");
    wait(&store, "it is made", is_whole);
    drop(store);
    // It is known now, and found without being named.
    let store = place.open("b").expect("opens");
    assert_eq!(store.status().copies.len(), 2);
    drop(store);
    assert!(bytes_of(&place.alone("b", &["a"]), "a", None)[..512] == page_of(3));
    let other = Place::new();
    drop(other.store(&[]));
    let options = Options { copies: vec![other.at("a")], ..place.options(&[]) };
    let refused = Store::open(&place.at("a"), options).err().expect("is another store");
    assert!(matches!(refused, StoreError::OtherStore { .. }));
}

/// Time for many writes of 4 KiB, 32 at once, to a store with some copies.
fn time_of_writes(copies: usize, count: u64) -> Duration {
    let root = folder();
    let at = |copy: usize| root.path().join(copy.to_string());
    let copies = (1..copies).map(at).collect();
    let options = Options { copies, ..options(&TestClock::new()) };
    let options = Options { segment_size: 64 << 20, checkpoint_size: 64 << 20, ..options };
    let store = store_in_copies(&at(0), options, AccountKind::Standard);
    store.apply(create("a", 1 << 30)).expect("creates");
    let (sender, receiver) = crossbeam_channel::unbounded();
    let start = Instant::now();
    for n in 0..count {
        if n >= 32 {
            receiver.recv().expect("an answer");
        }
        let sender = sender.clone();
        let page = write("a", n * 7919 % 262_144 * 4096, vec![7; 4096]);
        store.submit(page, move |result| {
            result.expect("writes");
            // The last ones are not awaited.
            let _sent = sender.send(());
        });
    }
    for _ in 0..32 {
        receiver.recv().expect("an answer");
    }
    start.elapsed()
}

#[test]
fn copies_are_written_beside_each_other() {
    let is_long = std::env::var_os("STRONGROOM_LONG").is_some();
    let count = if is_long { 40_000 } else { 2000 };
    let times = [1, 2, 3].map(|copies| time_of_writes(copies, count));
    for (copies, time) in (1..).zip(times) {
        let rate = f64::from(u32::try_from(count).expect("small")) / time.as_secs_f64();
        println!("{copies} copies: {rate:.0} writes of 4 KiB in a second");
    }
    // Three copies are three times the work, and no more waiting.
    assert!(times[2] < times[0] * 12, "{times:?}");
}

#[test]
fn copies_that_went_on_without_each_other_are_refused() {
    let place = Place::new();
    drop(place.store(&["b"]));
    for (name, other) in [("a", "b"), ("b", "a")] {
        fs::rename(place.at(other), place.at("away")).expect("moves");
        let without = vec![place.at(other)];
        let store = Store::open(&place.at(name), Options { without, ..place.options(&[]) });
        store.expect("opens").apply(create(name, 512)).expect("creates");
        fs::rename(place.at("away"), place.at(other)).expect("moves back");
    }
    let refused = place.open("a").err().expect("is refused");
    assert!(matches!(refused, StoreError::Split { .. }), "{refused:?}");
    // The owner gives one of them up.
    fs::remove_dir_all(place.at("b")).expect("removes");
    let store = place.open("a").expect("opens");
    store.add_copy(&place.at("b")).expect("begins");
    wait(&store, "it is made", is_whole);
}

#[test]
fn a_store_says_how_much_is_in_it() {
    let place = Place::new();
    let store = place.store(&[]);
    let empty = store.usage().expect("a count");
    assert_eq!((empty.accounts, empty.containers, empty.blobs), (1, 1, 0));
    assert!(empty.used > 0 && empty.free > 0, "{empty:?}");
    for name in ["one", "two"] {
        store.apply(create(name, 1 << 20)).expect("a blob");
        store.apply(write(name, 0, page_of(1).repeat(2048))).expect("is written");
    }
    take_snapshot(&store, "one");
    let full = store.usage().expect("a count");
    // A snapshot is no further blob.
    assert_eq!((full.accounts, full.containers, full.blobs), (1, 1, 2));
    assert!(full.used >= empty.used + (2 << 20), "{empty:?} {full:?}");
}

#[test]
fn a_copy_is_made_at_its_rate_and_the_work_ends_at_once() {
    let place = Place::new();
    let options = Options { rebuild_rate: 8 << 20, ..place.options(&[]) };
    let store = store_in_copies(&place.at("a"), options, AccountKind::Standard);
    store.apply(create("a", 24 << 20)).expect("creates");
    for n in 0..6 {
        store.apply(write("a", n << 22, vec![7; 4 << 20])).expect("writes");
    }
    let is_rebuilding = |store: &Store| {
        matches!(state_of(store, &place.at("b")), StoreCopyState::Rebuilding { .. })
    };
    // Given up in the middle.
    store.add_copy(&place.at("b")).expect("begins");
    thread::sleep(Duration::from_millis(300));
    assert!(is_rebuilding(&store), "{:?}", store.status());
    let begun = Instant::now();
    store.remove_copy(&place.at("b")).expect("is removed");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    fs::remove_dir_all(place.at("b")).expect("removes");
    // To the end: 24 MiB at 8 MiB in a second. What was in the pages of the first batch is not waited for.
    let begun = Instant::now();
    store.add_copy(&place.at("b")).expect("begins");
    wait(&store, "it is made", is_whole);
    assert!(begun.elapsed() > Duration::from_millis(2300), "{:?}", begun.elapsed());
    let wanted = bytes_of(&store, "a", None);
    drop(store);
    assert!(bytes_of(&place.alone("b", &["a"]), "a", None) == wanted);
}
