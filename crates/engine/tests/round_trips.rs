//! How many round trips to a store behind a network have to follow one another. A store answers all
//! that is asked of it at one moment together, once nothing more is asked: that is one round trip.
//! So the count says how long work takes on a store that is far away, and no clock is involved in what it
//! says, as long as threads that begin together do so within [`QUIET`].

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use std::{
    fs::File,
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use strongroom_base::{BLOCK_SIZE, ByteRange, Cancel, RangeSet};
use strongroom_engine::{BackupRequest, Deltas, Progress, backup};
use strongroom_objects::{Entry, Folder, Key, Memory, ObjectStore, Put, StoreError};
use strongroom_testing::put_points;
use strongroom_vault::{ReclaimOptions, Vault, VaultOptions, reclaim};

use common::{Place, make_disk, noise, request};

/// How long nothing is asked before the answers come.
const QUIET: Duration = Duration::from_millis(60);

/// Objects on a page of a list.
const PAGE: usize = 1000;

/// A store that answers in waves.
#[derive(Clone, Default)]
struct Far {
    memory: Memory,
    waves: Arc<(Mutex<Waves>, Condvar)>,
}

#[derive(Default)]
struct Waves {
    number: u64,
    last_asked: Option<Instant>,
    requests: u64,
    /// Bytes read out of packs of data.
    read: u64,
}

impl Far {
    /// Waits for the answer to a request that is sent now.
    fn trip(&self) {
        let (waves, answered) = &*self.waves;
        let mut now = waves.lock().unwrap();
        let own = now.number;
        now.last_asked = Some(Instant::now());
        now.requests += 1;
        while now.number == own {
            let quiet = now.last_asked.map_or(Duration::ZERO, |asked| asked.elapsed());
            if quiet >= QUIET {
                now.number += 1;
                answered.notify_all();
                return;
            }
            now = answered.wait_timeout(now, QUIET.saturating_sub(quiet)).unwrap().0;
        }
    }

    /// Bytes read out of packs of data since [`Self::take`] was asked last.
    fn read(&self) -> u64 {
        self.waves.0.lock().unwrap().read
    }

    /// Round trips and requests since this was asked last.
    fn take(&self) -> (u64, u64) {
        let mut now = self.waves.0.lock().unwrap();
        let taken = (now.number, now.requests);
        *now = Waves::default();
        taken
    }
}

impl ObjectStore for Far {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        self.trip();
        self.memory.put_new(key, body)
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        self.trip();
        self.memory.get(key, max_len)
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.trip();
        if key.as_str().starts_with("packs/data/") {
            self.waves.0.lock().unwrap().read += range.len();
        }
        self.memory.get_range(key, range)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.list_between(prefix, None, None, visit)
    }

    fn list_between(
        &self,
        prefix: &str,
        after: Option<&Key>,
        until: Option<&Key>,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.trip();
        let mut shown = 0;
        self.memory.list(prefix, &mut |entry| {
            if after.is_some_and(|after| entry.key <= *after) {
                return ControlFlow::Continue(());
            }
            if until.is_some_and(|until| entry.key > *until) {
                return ControlFlow::Break(());
            }
            shown += 1;
            if shown > PAGE {
                shown = 1;
                self.trip();
            }
            visit(entry)
        })
    }

    fn lists_by_name(&self) -> bool {
        true
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.trip();
        self.memory.delete(key)
    }

    fn delete_all(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.trip();
        keys.iter().try_for_each(|key| self.memory.delete(key))
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.trip();
        self.memory.replace(key, body)
    }

    fn name(&self) -> String {
        "far".to_owned()
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// What the command line does when it opens a vault.
fn open(place: &Place, far: &Far) -> Arc<Vault> {
    let vault = Vault::open(Arc::new(far.clone()), &place.key(), place.options()).expect("opens");
    assert_eq!(vault.regressions().expect("looks"), []);
    Arc::new(vault)
}

/// Changes a block of the disk and backs it up. Returns how many round trips that took.
fn quiet_day(place: &Place, far: &Far, block: u64) -> (u64, u64) {
    let disk = File::options().write(true).open(place.path("a.raw")).expect("opens");
    let offset = block * 65536;
    disk.write_all_at(&noise(1000 + block, BLOCK_SIZE), offset).expect("writes");
    let changed = RangeSet::from_unsorted(vec![ByteRange::between(offset, offset + 65536)]);
    far.take();
    let vault = open(place, far);
    let report = place.backup(&vault, &[("a", Some(changed))]);
    drop(vault);
    let taken = far.take();
    assert_eq!(report.disks[0].changes_from, "ranges");
    assert_eq!(report.disks[0].changed_bytes, 65536);
    taken
}

/// Adds points of an item, each with a pack of data and one of nodes; their blocks are of these numbers.
fn crowd(place: &Place, far: &Far, item: &str, (first, points): (u64, u64)) {
    let options = VaultOptions {
        cache_dir: Some(place.path("crowd-cache")),
        beats: false,
        uploaders: 0,
        ..VaultOptions::default()
    };
    let vault = Vault::open(Arc::new(far.memory.clone()), &place.key(), options).expect("opens");
    let vault = Arc::new(vault);
    put_points(&vault, item, first..first + points);
}

#[test]
fn a_quiet_day_takes_eight_round_trips_however_much_the_vault_holds() {
    let place = Place::new();
    let far = Far::default();
    drop(place.create_in(Arc::new(far.clone())));
    make_disk(&place.path("a.raw"), 40 << 20);
    let vault = open(&place, &far);
    place.backup(&vault, &[("a", None)]);
    drop(vault);
    let (trips, requests) = quiet_day(&place, &far, 3);
    assert!(trips <= 8, "{trips} round trips, {requests} requests");

    // Points of the same item and of another, and packs and index objects with them: several pages of
    // each. The first backup after that learns of them, the next one knows.
    crowd(&place, &far, "web01", (1_000_000, 1100));
    crowd(&place, &far, "mail", (2_000_000, 1100));
    // What was made by another host is no base of what this one's hypervisor says.
    let vault = open(&place, &far);
    place.backup(&vault, &[("a", None)]);
    drop(vault);
    let (crowded, requests) = quiet_day(&place, &far, 5);
    assert!(crowded <= trips, "{crowded} round trips, {requests} requests; {trips} before");
    assert!(requests <= 40, "{requests} requests");

    // A list of the points, of which this host knows some.
    far.take();
    let vault = open(&place, &far);
    let points = vault.points(Some("mail")).expect("listed");
    assert_eq!(points.len(), 1100);
    let (first, _) = far.take();
    drop(vault);
    let vault = open(&place, &far);
    assert_eq!(vault.points(Some("mail")).expect("listed"), points);
    drop(vault);
    let (trips, requests) = far.take();
    assert!(trips <= 1, "{trips} round trips, {requests} requests; {first} the first time");
}

#[test]
fn a_first_reclaim_of_many_small_packs_asks_for_many_at_once() {
    let place = Place::new();
    let far = Far::default();
    drop(place.create_in(Arc::new(far.clone())));
    crowd(&place, &far, "web01", (1_000_000, 150));
    crowd(&place, &far, "mail", (2_000_000, 150));
    // It knows the index, as any host does that has made a backup.
    drop(open(&place, &far));
    far.take();
    // Packs as large as they are outside of tests.
    let options = VaultOptions { pack_size: 32 << 20, ..place.options() };
    let vault = Vault::open(Arc::new(far.clone()), &place.key(), options).expect("opens");
    let vault = Arc::new(vault);
    let options = ReclaimOptions::default();
    let report = reclaim(&vault, &options, &Cancel::new()).expect("reclaims");
    drop(vault);
    let (trips, requests) = far.take();
    assert_eq!((report.packs, report.packs_removed), (600, 600));
    // A manifest, a node and a pack of data for each point, and nothing else that grows.
    assert!(requests <= 3 * 300 + 60, "{trips} round trips, {requests} requests");
    assert!(trips <= 45, "{trips} round trips, {requests} requests");
    let vault = open(&place, &far);
    assert_eq!(vault.points(None).expect("listed").len(), 300);
    let again = reclaim(&vault, &options, &Cancel::new()).expect("marks everything once more");
    assert_eq!(again.packs_removed, 0);
}

#[test]
fn a_restore_is_on_its_way_after_a_few_round_trips() {
    let place = Place::new();
    let far = Far::default();
    drop(place.create_in(Arc::new(far.clone())));
    make_disk(&place.path("a.raw"), 40 << 20);
    let vault = open(&place, &far);
    let report = place.backup(&vault, &[("a", None)]);
    drop(vault);
    std::fs::remove_dir_all(place.path("cache")).expect("another host");
    far.take();
    let vault = open(&place, &far);
    let (opened, _) = far.take();
    assert!(opened <= 3, "{opened} round trips to open");
    let to = place.path("out.raw");
    Place::restore(&vault, report.recovery_point, "a", &to, false);
    let (trips, requests) = far.take();
    // Two of them are the test's own look at the point.
    assert!(trips <= 8, "{trips} round trips, {requests} requests");
    assert_eq!(std::fs::read(to).unwrap(), std::fs::read(place.path("a.raw")).unwrap());
}

#[test]
fn a_restore_of_many_deltas_reads_nothing_twice() {
    let place = Place::new();
    let far = Far::default();
    drop(place.create_in(Arc::new(far.clone())));
    let blocks = 256;
    let disk = File::create(place.path("a.raw")).expect("creates");
    for block in 0..blocks {
        // Compresses to a half, so that blocks share a record.
        let mut bytes = noise(block, BLOCK_SIZE / 2);
        bytes.resize(BLOCK_SIZE, b'-');
        disk.write_all_at(&bytes, block * 65536).expect("writes");
    }
    let vault = open(&place, &far);
    let back_up = || {
        let disks = vec![place.disk("a", None)];
        let request = BackupRequest { deltas: Deltas::Always, ..request("web01", disks) };
        backup(&vault, &request, &Progress::new(), &Cancel::new()).expect("backup")
    };
    back_up();
    for block in (0..blocks).step_by(3) {
        disk.write_all_at(b"changed", block * 65536 + 1000).expect("writes");
    }
    let report = back_up();
    let mut packs = 0;
    let mut count = |entry: Entry| {
        packs += entry.size;
        ControlFlow::Continue(())
    };
    far.memory.list("packs/data/", &mut count).expect("lists");
    assert!(report.stored_bytes < packs / 20, "deltas: {} of {packs}", report.stored_bytes);
    far.take();
    let to = place.path("out.raw");
    Place::restore(&vault, report.recovery_point, "a", &to, false);
    // Each unit is read once, for the blocks that stayed and as the base of those that changed; and nodes and manifests once.
    let mut all = packs;
    let mut add = |entry: Entry| {
        all += entry.size;
        ControlFlow::Continue(())
    };
    for others in ["packs/node/", "points/"] {
        far.memory.list(others, &mut add).expect("lists");
    }
    let read = far.read();
    assert!(all < packs + packs / 100, "nodes and manifests: {all} with {packs} of data");
    assert!(read > packs / 2 && read <= all, "{read} of {all} bytes");
    assert_eq!(std::fs::read(to).unwrap(), std::fs::read(place.path("a.raw")).unwrap());
}

#[test]
fn a_quiet_day_in_a_folder_waits_for_the_disk_ten_times() {
    let place = Place::new();
    make_disk(&place.path("a.raw"), 4 << 20);
    place.backup(&place.open(), &[("a", None)]);
    for block in 0..3 {
        let disk = File::options().write(true).open(place.path("a.raw")).expect("opens");
        disk.write_all_at(&noise(1000 + block, BLOCK_SIZE), block * 65536).expect("writes");
        // As a process of its own finds it.
        let folder = Arc::new(place.folder());
        let vault = place.open_in(Arc::<Folder>::clone(&folder));
        let report = place.backup(&vault, &[("a", None)]);
        assert_eq!(report.disks[0].changed_bytes, 65536);
        // The bytes and the name of: two packs, the index object, the manifest. Each pack mostly takes
        // a new directory.
        assert!((8..=10).contains(&folder.syncs()), "{} times", folder.syncs());
    }
}
