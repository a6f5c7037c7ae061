//! Crashes of several copies: journals that end at different places, torn writes, and copies that rot or are lost.
//!
//! The copies have the same records, each with frames of the same lengths. After a crash the store must be what it was
//! after the most records that one of them has whole, which is at least what was acknowledged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use strongroom_base::SplitMix64;
use strongroom_blobs::{AccountKind, Options, Store};

use crate::{
    crash::{Seen, frame_ends, payload, same, seen, workload},
    redundancy::{is_whole, wait},
    tools::{
        TestClock, copy_folder, create, folder, mix_sectors, options, page_of, store_in_copies,
        write,
    },
};

const COPIES: [&str; 3] = ["0", "1", "2"];

/// Folders of a crash, and what was there after each record behind the checkpoint.
struct Image {
    root: tempfile::TempDir,
    clock: std::sync::Arc<TestClock>,
    /// After the checkpoint and after each change: what is seen.
    states: Vec<Seen>,
}

impl Image {
    fn new(work_before: usize) -> Self {
        let root = folder();
        let clock = TestClock::new();
        let live = |name: &str| root.path().join("live").join(name);
        let copies = COPIES[1..].iter().map(|name| live(name)).collect();
        let with_copies = Options { copies, ..options(&clock) };
        let store = store_in_copies(&live("0"), with_copies, AccountKind::Standard);
        let changes = workload();
        for change in &changes[..work_before] {
            store.apply(change.clone()).expect("applies");
        }
        store.settle();
        store.checkpoint();
        let mut states = Vec::new();
        let keep = |states: &mut Vec<Seen>, store: &Store| {
            // A follower may not have applied all of it: it has at most this.
            for name in COPIES {
                let data = root.path().join(format!("data-{name}-{}", states.len()));
                copy_folder(&live(name).join("data"), &data);
            }
            states.push(seen(store));
        };
        keep(&mut states, &store);
        for change in &changes[work_before..] {
            store.apply(change.clone()).expect("applies");
            keep(&mut states, &store);
        }
        for name in COPIES {
            copy_folder(&live(name), &root.path().join("image").join(name));
        }
        drop(store);
        fs::remove_dir_all(root.path().join("live")).expect("removes");
        Self { root, clock, states }
    }

    fn journal(&self, name: &str) -> PathBuf {
        let folder = self.root.path().join("image").join(name).join("journal");
        let entries = fs::read_dir(folder).expect("a folder");
        let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        all.sort();
        all.pop().expect("a segment")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join("try").join(name)
    }

    /// How many changes the first `frames` frames have; those of background work change nothing that is seen.
    fn changes(journal: &[u8], frames: usize) -> usize {
        let ends = frame_ends(journal);
        ends[..frames].iter().filter(|at| journal[payload(journal, **at).start + 12] != 7).count()
    }

    /// Makes a copy as a crash leaves it: its journal ends at `len`, slots have some sectors of what is durable.
    fn cut(&self, name: &str, len: usize, random: &mut SplitMix64) -> usize {
        let to = self.at(name);
        copy_folder(&self.root.path().join("image").join(name), &to);
        let path = self.journal(name);
        let journal = fs::read(&path).expect("reads");
        let ends = frame_ends(&journal);
        let mut bytes = journal[..len].to_vec();
        if random.below(2) == 0 {
            bytes.resize(journal.len(), 0);
        }
        // A frame is whole without the padding behind it, and zeros may be what it lacks.
        let is_whole = |at: &&usize| {
            let end = payload(&journal, **at).end;
            bytes.get(**at..end) == Some(&journal[**at..end])
        };
        let whole = ends[..ends.len() - 1].iter().take_while(is_whole).count();
        fs::write(to.join("journal").join(path.file_name().expect("a name")), &bytes)
            .expect("writes");
        let changes = Self::changes(&journal, whole);
        let data = |state: usize| self.root.path().join(format!("data-{name}-{state}"));
        fs::remove_dir_all(to.join("data")).expect("removes");
        copy_folder(&data(changes), &to.join("data"));
        mix_sectors(&data(0), &to.join("data"), random);
        whole
    }

    fn open(&self, without: &[&str]) -> Store {
        let there: Vec<&str> = COPIES.into_iter().filter(|name| !without.contains(name)).collect();
        let copies = there.iter().map(|name| self.at(name)).collect();
        // They know each other by the paths that they had.
        let live = self.root.path().join("live");
        let without = without.iter().map(|name| live.join(name)).collect();
        let options = Options {
            copies,
            without,
            retry_interval: std::time::Duration::ZERO,
            ..options(&self.clock)
        };
        let first = self.at(there[0]);
        Store::open(&first, options).unwrap_or_else(|error| panic!("{error:?}"))
    }
}

fn clean(path: &Path) {
    if path.exists() {
        fs::remove_dir_all(path).expect("removes");
    }
}

fn every_end(work_before: usize, seed: u64) {
    let image = Image::new(work_before);
    let mut random = SplitMix64::new(seed);
    let journal = fs::read(image.journal("0")).expect("reads");
    let ends = frame_ends(&journal);
    let is_long = std::env::var_os("STRONGROOM_LONG").is_some();
    for round in 0..if is_long { 2000 } else { 60 } {
        clean(&image.root.path().join("try"));
        // All have what was acknowledged; what they have behind it differs.
        let acknowledged = random.below(u64::try_from(ends.len()).expect("small"));
        let acknowledged = usize::try_from(acknowledged).expect("small");
        // One group was on its way: the next frames.
        let last = (acknowledged + 1 + usize::try_from(random.below(2)).expect("small"))
            .min(ends.len() - 1);
        let span = u64::try_from(ends[last] - ends[acknowledged]).expect("small");
        let wholes: Vec<usize> = COPIES
            .iter()
            .map(|name| {
                let more = usize::try_from(random.below(span + 1)).expect("small");
                image.cut(name, ends[acknowledged] + more, &mut random)
            })
            .collect();
        let lost = match random.below(3) {
            0 => Some(usize::try_from(random.below(3)).expect("small")),
            _ => None,
        };
        let without: Vec<&str> = lost.iter().map(|index| COPIES[*index]).collect();
        let there = (0..3).filter(|index| Some(*index) != lost);
        let whole = there.map(|index| wholes[index]).max().expect("some");
        assert!(whole >= acknowledged);
        let place = format!("round {round}: {wholes:?} of {acknowledged}, without {without:?}");
        let store = image.open(&without);
        let wanted = &image.states[Image::changes(&journal, whole)];
        same(&seen(&store), wanted, &place);
        assert!(lost.is_some() || is_whole(&store), "{place}: {:?}", store.status());
        store.apply(create("new", 512)).expect("creates");
        store.apply(write("new", 0, vec![5; 512])).expect("writes");
        let wanted = seen(&store);
        assert_eq!(store.scrub().lost, 0, "{place}");
        drop(store);
        // Each of them has all of it.
        for index in (0..3).filter(|index| Some(*index) != lost) {
            let name = COPIES[index];
            let others: Vec<PathBuf> = COPIES
                .iter()
                .filter(|other| **other != name)
                .map(|other| image.at(other))
                .collect();
            let moved = image.root.path().join("alone");
            clean(&moved);
            copy_folder(&image.at(name), &moved);
            let away = image.root.path().join("away");
            fs::rename(image.root.path().join("try"), &away).expect("moves");
            let live = image.root.path().join("live");
            let known = COPIES.iter().map(|name| live.join(name));
            let without = others.into_iter().chain(known).collect();
            let store = Store::open(&moved, Options { without, ..options(&image.clock) });
            same(&seen(&store.expect("opens alone")), &wanted, &place);
            fs::rename(&away, image.root.path().join("try")).expect("moves back");
        }
    }
}

#[test]
fn copies_whose_journals_end_at_different_places_become_equal() {
    every_end(0, 1);
    every_end(9, 2);
}

#[test]
fn a_journal_that_rots_is_made_again_from_another_copy() {
    let image = Image::new(4);
    let mut random = SplitMix64::new(7);
    for name in COPIES {
        let journal = fs::read(image.journal(name)).expect("reads");
        let ends = frame_ends(&journal);
        for frame in 0..ends.len() - 1 {
            clean(&image.root.path().join("try"));
            for other in COPIES {
                image.cut(other, *ends.last().expect("some"), &mut random);
            }
            let mut bytes = journal.clone();
            bytes[ends[frame] + 33] ^= 1 << random.below(8);
            let path = image.journal(name);
            let path = image.at(name).join("journal").join(path.file_name().expect("a name"));
            fs::write(path, bytes).expect("writes");
            let store = image.open(&[]);
            let wanted = image.states.last().expect("some");
            same(&seen(&store), wanted, &format!("frame {frame} of copy {name}"));
            store.apply(create("new", 512)).expect("creates");
            store.apply(write("new", 0, page_of(1).to_vec())).expect("writes");
            wait(&store, "it is made again", is_whole);
        }
    }
}

/// The files of the state in a folder, in another one.
fn state_files(from: &Path, to: &Path) {
    clean(to);
    fs::create_dir_all(to).expect("a folder");
    for name in ["state.redb", "state.sums"] {
        fs::copy(from.join(name), to.join(name)).expect("copies");
    }
}

#[test]
fn checksums_of_the_state_survive_a_crash_with_it() {
    let root = folder();
    let clock = TestClock::new();
    let live = root.path().join("live");
    // Little memory: pages go to the file before a checkpoint.
    let small = Options { cache_size: 64 << 10, ..options(&clock) };
    let store = store_in_copies(&live, small, AccountKind::Standard);
    store.apply(create("a", 1 << 26)).expect("creates");
    let touch = |from: u64| {
        for n in from..from + 1500 {
            store.apply(write("a", n * 7919 % 1024 * 65536, page_of(n).to_vec())).expect("writes");
        }
    };
    touch(0);
    store.checkpoint();
    let at = |name: &str| root.path().join(name);
    state_files(&live, &at("kept"));
    touch(1500);
    copy_folder(&live, &at("crash"));
    state_files(&live, &at("before"));
    let wanted = seen_pages(&store);
    drop(store);
    let mut random = SplitMix64::new(11);
    for round in 0..20 {
        // Some sectors of pages that came after the checkpoint are there; their checksums are not.
        state_files(&at("before"), &at("mixed"));
        mix_sectors(&at("kept"), &at("mixed"), &mut random);
        let place = at("try");
        clean(&place);
        copy_folder(&at("crash"), &place);
        for name in ["state.redb", "state.sums"] {
            fs::copy(at("mixed").join(name), place.join(name)).expect("copies");
        }
        let store = Store::open(&place, options(&clock));
        let store = store.unwrap_or_else(|error| panic!("{round}: {error:?}"));
        assert!(seen_pages(&store) == wanted, "{round}");
    }
}

/// The pages that were written, and their content.
fn seen_pages(store: &Store) -> Vec<(u64, Vec<u8>)> {
    let view = store.view().expect("a view");
    let head = view.head(&crate::tools::blob("a"), None).expect("is there");
    let ranges = view.ranges(&head, 0..u64::MAX, usize::MAX).expect("ranges").ranges;
    ranges
        .into_iter()
        .map(|range| {
            let len = usize::try_from(range.end - range.start).expect("small");
            let mut bytes = vec![0; len];
            view.read(&head, range.start, &mut bytes).expect("reads");
            (range.start, bytes)
        })
        .collect()
}
