//! Random operations against plain maps of pages: create, write, clear, resize, snapshot, difference, delete, restart,
//! crash with data files of which only some sectors arrived.
//!
//! A seed that fails is run alone with `STRONGROOM_SEED`. With `STRONGROOM_LONG` there are many more.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use strongroom_base::SplitMix64;
use strongroom_blobs::{
    AccountKind, BlobChange, DeleteSnapshots, NewBlob, Options, PAGE, ReadError, Refusal, Role,
    SnapshotId, Store, StoreCopyState, StoreError, View,
};

use crate::tools::{
    Seeded, TestClock, blob, change, clear, copy_folder, create, folder, mix_sectors, options,
    page_of, snapshot, store_in, store_in_copies, write,
};

const NAMES: [&str; 3] = ["a", "a/b", "c"];
/// Pages of the largest blob of the model: five blocks and some pages.
const MAX_PAGES: u64 = 128 * 5 + 40;

type Pages = BTreeMap<u64, u64>;

/// A snapshot or a present.
#[derive(Clone, Debug, Default)]
struct State {
    generation: u64,
    size: u64,
    pages: Pages,
    /// Touched since the snapshot before.
    touched: BTreeSet<u64>,
}

#[derive(Clone, Debug, Default)]
struct Blob {
    present: State,
    snapshots: BTreeMap<SnapshotId, State>,
}

/// What a store should have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(BTreeMap<&'static str, Blob>);

pub(crate) struct World {
    seed: u64,
    random: SplitMix64,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) root: tempfile::TempDir,
    lives: u64,
    pub(crate) copies: u64,
    store: Option<Store>,
    blobs: BTreeMap<&'static str, Blob>,
    next: u64,
}

impl World {
    pub(crate) fn new(seed: u64, copies: u64) -> Self {
        let mut world = Self {
            seed,
            random: SplitMix64::new(seed),
            clock: TestClock::new(),
            root: folder(),
            lives: 0,
            copies,
            store: None,
            blobs: BTreeMap::new(),
            next: 0,
        };
        let options = world.options();
        let kind = AccountKind::Standard;
        world.store = Some(store_in_copies(&world.path(), options, kind));
        world.checkpoint();
        world
    }

    /// Options with the folders of all copies.
    pub(crate) fn options(&mut self) -> Options {
        let seed = self.fresh();
        Options {
            copies: (1..self.copies).map(|copy| self.folder(copy)).collect(),
            retry_interval: std::time::Duration::ZERO,
            entropy: Seeded::new(self.seed << 32 | seed),
            ..options(&self.clock)
        }
    }

    /// The folder of a copy.
    pub(crate) fn folder(&self, copy: u64) -> std::path::PathBuf {
        self.root.path().join(self.lives.to_string()).join(copy.to_string())
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("is open")
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder(0)
    }

    /// A checkpoint, and a copy of what the data files are then.
    pub(crate) fn checkpoint(&mut self) {
        self.store().checkpoint();
        let kept = self.root.path().join("checkpoint");
        if kept.exists() {
            std::fs::remove_dir_all(&kept).expect("removes");
        }
        for copy in 0..self.copies {
            let data = self.folder(copy).join("data");
            if is_whole(self.store(), &self.folder(copy)) && data.exists() {
                copy_folder(&data, &kept.join(copy.to_string()));
            }
        }
    }

    /// Opens the store. What is missing is left out by the owner's word.
    fn reopen(&mut self) {
        let mut options = self.options();
        let store = loop {
            match Store::open(&self.path(), options.clone()) {
                Ok(store) => break store,
                Err(StoreError::CopyMissing { path }) if self.copies > 1 => {
                    assert!(!options.without.contains(&path), "{} is missing", path.display());
                    options.without.push(path);
                }
                Err(error) => {
                    for copy in 0..self.copies {
                        let known = std::fs::read_to_string(self.folder(copy).join("copies.json"));
                        println!("copy {copy}: {known:?}");
                    }
                    panic!("{error:?}")
                }
            }
        };
        if store.standing().role == Role::Waiting {
            store.confirm().expect("is still the primary");
        }
        self.store = Some(store);
        self.checkpoint();
    }

    fn crash(&mut self) {
        let lives = self.lives + 1;
        let old = self.root.path().join(self.lives.to_string());
        let new = self.root.path().join(lives.to_string());
        let kept = self.root.path().join("checkpoint");
        for copy in 0..self.copies {
            let (from, to) = (self.folder(copy), new.join(copy.to_string()));
            if from.exists() {
                let was_whole = is_whole(self.store(), &from);
                copy_folder(&from, &to);
                let kept = kept.join(copy.to_string());
                // What was made again since then is more durable than that.
                if was_whole && kept.exists() && to.join("data").exists() {
                    mix_sectors(&kept, &to.join("data"), &mut self.random);
                }
            }
        }
        self.store = None;
        std::fs::remove_dir_all(old).expect("removes");
        self.lives = lives;
        self.reopen();
    }

    fn range(&mut self, size: u64) -> Option<(u64, u64)> {
        let pages = size / PAGE;
        if pages == 0 {
            return None;
        }
        let longest = [1, 3, 9, 130, 400][usize::try_from(self.below(5)).expect("small")];
        let first = self.below(pages);
        let len = 1 + self.below(longest.min(pages - first));
        Some((first, len))
    }

    /// A step in which the store stays open.
    pub(crate) fn calm_step(&mut self) {
        self.step_of(95);
    }

    pub(crate) fn step(&mut self) {
        self.step_of(100);
    }

    fn step_of(&mut self, kinds: u64) {
        let name = NAMES[usize::try_from(self.below(3)).expect("small")];
        if !self.blobs.contains_key(name) {
            return self.create(name);
        }
        match self.below(kinds) {
            0..40 => self.write(name),
            40..55 => self.clear(name),
            55..63 => self.resize(name),
            63..75 => self.snapshot(name),
            75..83 => self.delete_snapshot(name),
            83..86 => self.create(name),
            86..88 => self.delete(name),
            88..92 => self.checkpoint(),
            92..95 => {
                // It makes checkpoints of its own.
                self.store().settle();
                self.checkpoint();
            }
            95..97 => {
                self.store = None;
                self.reopen();
            }
            _ => self.crash(),
        }
    }

    fn create(&mut self, name: &'static str) {
        let size = self.below(MAX_PAGES + 1) * PAGE;
        self.store().apply(create(name, size)).expect("creates");
        let generation = self.fresh();
        let blob = self.blobs.entry(name).or_default();
        blob.present = State { generation, size, ..State::default() };
    }

    fn write(&mut self, name: &'static str) {
        let Some((first, len)) = self.range(self.blobs[name].present.size) else { return };
        let tags: Vec<u64> = (0..len).map(|_| self.fresh()).collect();
        let data: Vec<u8> = tags.iter().flat_map(|tag| page_of(*tag)).collect();
        self.store().apply(write(name, first * PAGE, data)).expect("writes");
        let present = &mut self.blobs.get_mut(name).expect("is there").present;
        for (page, tag) in (first..).zip(tags) {
            present.pages.insert(page, tag);
            present.touched.insert(page);
        }
    }

    fn clear(&mut self, name: &'static str) {
        let Some((first, len)) = self.range(self.blobs[name].present.size) else { return };
        self.store().apply(clear(name, first * PAGE, len * PAGE)).expect("clears");
        forget(&mut self.blobs.get_mut(name).expect("is there").present, first, first + len);
    }

    fn resize(&mut self, name: &'static str) {
        let size = self.below(MAX_PAGES + 1) * PAGE;
        self.store().apply(change(name, BlobChange::Resize { size })).expect("resizes");
        let present = &mut self.blobs.get_mut(name).expect("is there").present;
        forget(present, size / PAGE, MAX_PAGES + 1);
        present.size = size;
    }

    fn snapshot(&mut self, name: &'static str) {
        let id = self.store().apply(snapshot(name)).expect("a snapshot").snapshot.expect("an id");
        let blob = self.blobs.get_mut(name).expect("is there");
        assert!(blob.snapshots.keys().all(|earlier| *earlier < id));
        blob.snapshots.insert(id, blob.present.clone());
        blob.present.touched.clear();
    }

    fn some_snapshot(&mut self, name: &str) -> Option<SnapshotId> {
        let snapshots = self.blobs[name].snapshots.clone();
        self.one_of(&snapshots)
    }

    fn one_of(&mut self, snapshots: &BTreeMap<SnapshotId, State>) -> Option<SnapshotId> {
        let count = u64::try_from(snapshots.len()).expect("small");
        let index = usize::try_from(self.below(count.max(1))).expect("small");
        snapshots.keys().nth(index).copied()
    }

    fn delete_snapshot(&mut self, name: &'static str) {
        let Some(id) = self.some_snapshot(name) else { return };
        let snapshots = DeleteSnapshots::Refuse;
        let delete = BlobChange::Delete { snapshot: Some(id), snapshots };
        self.store().apply(change(name, delete)).expect("deletes");
        let blob = self.blobs.get_mut(name).expect("is there");
        let gone = blob.snapshots.remove(&id).expect("is there");
        let later = blob.snapshots.range_mut(id..).next().map(|(_, state)| state);
        let later = later.filter(|later| later.generation == gone.generation);
        let later = match later {
            Some(later) => Some(later),
            None if blob.present.generation == gone.generation => Some(&mut blob.present),
            None => None,
        };
        if let Some(later) = later {
            later.touched.extend(gone.touched);
        }
    }

    /// Deletes all blobs: everything is given back when nothing is there.
    pub(crate) fn empty(&mut self) {
        for name in NAMES {
            if self.blobs.contains_key(name) {
                self.delete(name);
            }
        }
        self.store().settle();
        for copy in 0..self.copies {
            let left = std::fs::read_dir(self.folder(copy).join("data")).expect("a folder").count();
            assert_eq!(left, 0, "data files of copy {copy} with seed {}", self.seed);
        }
    }

    fn delete(&mut self, name: &'static str) {
        let has_snapshots = !self.blobs[name].snapshots.is_empty();
        let delete = |snapshots| change(name, BlobChange::Delete { snapshot: None, snapshots });
        if has_snapshots {
            let refusal = self.store().apply(delete(DeleteSnapshots::Refuse));
            assert_eq!(refusal, Err(Refusal::SnapshotsPresent));
        }
        self.store().apply(delete(DeleteSnapshots::Include)).expect("deletes");
        self.blobs.remove(name);
    }

    pub(crate) fn check(&mut self) {
        let view = self.store().view().expect("a view");
        self.check_view(&view, &self.known());
    }

    /// What the store should have now.
    pub(crate) fn known(&self) -> Known {
        Known(self.blobs.clone())
    }

    /// Takes another folder for the store's, which has what is known of it.
    pub(crate) fn continue_with(&mut self, folder: &Path, known: &Known) {
        assert!(self.store.is_none(), "was closed");
        self.lives += 1;
        std::fs::create_dir_all(self.path().parent().expect("a folder")).expect("a folder");
        std::fs::rename(folder, self.path()).expect("moves");
        self.blobs.clone_from(&known.0);
        self.reopen();
    }

    /// Closes the store, and says where it is.
    pub(crate) fn close(&mut self) -> std::path::PathBuf {
        self.store = None;
        self.path()
    }

    /// Checks that a store has what is known.
    pub(crate) fn check_view(&mut self, view: &View, known: &Known) {
        for name in NAMES {
            let Some(model) = known.0.get(name).cloned() else {
                let missing = view.head(&blob(name), None).expect_err("is not there");
                assert!(matches!(missing, ReadError::Refused(Refusal::BlobNotFound)));
                continue;
            };
            check_state(view, name, None, &model.present);
            for (id, state) in &model.snapshots {
                check_state(view, name, Some(*id), state);
            }
            for _ in 0..3 {
                if let Some(earlier) = self.one_of(&model.snapshots) {
                    let later = self.one_of(&model.snapshots);
                    let later = later.filter(|_| self.random.bits().is_multiple_of(2));
                    check_diff(view, name, &model, earlier, later);
                }
            }
        }
    }
}

/// Whether a copy has every change.
pub(crate) fn is_whole(store: &Store, path: &Path) -> bool {
    let copies = store.status().copies;
    copies.iter().any(|copy| {
        copy.path == path && matches!(copy.state, StoreCopyState::Leading | StoreCopyState::Healthy)
    })
}

fn forget(state: &mut State, first: u64, end: u64) {
    for page in first..end {
        if state.pages.remove(&page).is_some() {
            state.touched.insert(page);
        }
    }
}

fn check_state(view: &View, name: &str, id: Option<SnapshotId>, state: &State) {
    let head = view.head(&blob(name), id).expect("is there");
    assert_eq!(head.size, state.size, "{name} {id:?}");
    let mut bytes = vec![1; usize::try_from(head.size).expect("small")];
    view.read(&head, 0, &mut bytes).expect("reads");
    for (page, content) in (0..).zip(bytes.chunks(512)) {
        let wanted = state.pages.get(&page).map_or([0; 512], |tag| page_of(*tag));
        assert!(content == wanted, "page {page} of {name} {id:?}");
    }
    let found = view.ranges(&head, 0..u64::MAX, usize::MAX).expect("ranges");
    let pages: BTreeSet<u64> =
        found.ranges.iter().flat_map(|range| range.start / PAGE..range.end / PAGE).collect();
    assert_eq!(pages, state.pages.keys().copied().collect(), "ranges of {name} {id:?}");
    assert!(found.ranges.is_sorted_by(|a, b| a.end < b.start), "merged");
}

fn check_diff(
    view: &View,
    name: &str,
    model: &Blob,
    earlier: SnapshotId,
    later: Option<SnapshotId>,
) {
    let head = view.head(&blob(name), later).expect("is there");
    let target = later.map_or(&model.present, |id| &model.snapshots[&id]);
    let found = view.diff(&head, earlier, 0..u64::MAX, usize::MAX);
    if later.is_some_and(|later| earlier > later) {
        let newer = found.expect_err("is newer");
        assert!(matches!(newer, ReadError::Refused(Refusal::PreviousSnapshotCannotBeNewer)));
        return;
    }
    if model.snapshots[&earlier].generation != target.generation {
        let overwritten = found.expect_err("was overwritten");
        assert!(matches!(overwritten, ReadError::Refused(Refusal::BlobOverwritten)));
        return;
    }
    let end = later.unwrap_or(SnapshotId(u64::MAX));
    let mut touched: BTreeSet<u64> = model
        .snapshots
        .iter()
        .filter(|(id, _)| **id > earlier && **id <= end)
        .flat_map(|(_, state)| state.touched.iter().copied())
        .collect();
    if later.is_none() {
        touched.extend(&model.present.touched);
    }
    touched.retain(|page| page * PAGE < target.size);
    let wanted: BTreeMap<u64, bool> =
        touched.into_iter().map(|page| (page, !target.pages.contains_key(&page))).collect();
    // The same in one piece and in small ones.
    for max in [usize::MAX, 3] {
        let mut all = BTreeMap::new();
        let mut from = 0;
        loop {
            let part = view.diff(&head, earlier, from..u64::MAX, max).expect("a difference");
            assert!(part.ranges.len() <= max);
            for range in part.ranges {
                all.extend(
                    (range.start / PAGE..range.end / PAGE).map(|page| (page, range.cleared)),
                );
            }
            match part.next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(all, wanted, "{name} from {earlier:?} to {later:?}");
    }
}

fn run(seed: u64, steps: u64) {
    println!("STRONGROOM_SEED={seed}");
    let mut world = World::new(seed, 1);
    for step in 0..steps {
        world.step();
        if step % 8 == 7 {
            world.check();
        }
    }
    world.check();
    world.empty();
}

#[test]
fn random_operations_agree_with_a_model() {
    if let Some(seed) = std::env::var_os("STRONGROOM_SEED") {
        let seed = seed.to_str().and_then(|seed| seed.parse().ok()).expect("a number");
        return run(seed, 400);
    }
    let is_long = std::env::var_os("STRONGROOM_LONG").is_some();
    for seed in 0..if is_long { 5000 } else { 12 } {
        run(seed, 400);
    }
}

#[test]
fn an_overwritten_blob_keeps_its_snapshots() {
    let root = folder();
    let clock = TestClock::new();
    let store = store_in(&root.path().join("s"), &clock, AccountKind::Standard);
    store.apply(create("a", 4096)).expect("creates");
    store.apply(write("a", 512, vec![3; 512])).expect("writes");
    let id = crate::tools::take_snapshot(&store, "a");
    let new = NewBlob { size: 1024, ..NewBlob::default() };
    store.apply(change("a", BlobChange::Create(new))).expect("creates again");
    store.settle();
    let view = store.view().expect("a view");
    let old = view.head(&blob("a"), Some(id)).expect("stays");
    let mut bytes = vec![0; 1024];
    view.read(&old, 0, &mut bytes).expect("reads");
    assert_eq!(bytes, [[0; 512], [3; 512]].concat());
    let head = view.head(&blob("a"), None).expect("is there");
    assert_eq!((head.size, old.size), (1024, 4096));
}
