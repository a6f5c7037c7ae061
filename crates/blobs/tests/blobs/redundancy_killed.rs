//! A real process, killed while it makes a copy and writers write; and a copy whose disk is full.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use strongroom_base::{SystemClock, SystemEntropy};
use strongroom_blobs::{AccountKind, Options, Store, StoreCopyState};

use crate::{
    full::SmallDisk,
    redundancy::{bytes_of, is_whole, wait},
    tools::{TestClock, copy_folder, create, options, page_of, store_in, store_in_copies, write},
};

/// Where the process that is killed finds its store.
const CHILD: &str = "STRONGROOM_BLOBS_REBUILD_KILLED";
/// Pages of the blob that are written while the copy is made.
const PAGES: u64 = 500;

fn open(path: &Path) -> Store {
    let options = Options {
        checkpoint_size: 1 << 20,
        segment_size: 1 << 20,
        reserve_size: 0,
        retry_interval: Duration::from_millis(1),
        ..Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    };
    Store::open(path, options).expect("opens")
}

/// Writes until it is killed, and says so after each change; `copy` is made meanwhile.
fn write_until_killed(path: &Path, from: u64) {
    let store = open(path);
    for n in from.. {
        store.apply(write("a", n * 7 % PAGES * 512, page_of(n).to_vec())).expect("writes");
        let is_whole = is_whole(&store);
        let mut out = std::io::stdout().lock();
        writeln!(out, "done {n} {is_whole}").and_then(|()| out.flush()).expect("says");
    }
}

#[test]
fn a_rebuild_that_is_killed_is_begun_again() {
    if let Some(path) = std::env::var_os(CHILD) {
        let from = std::env::var("STRONGROOM_BLOBS_FROM").expect("a step").parse();
        return write_until_killed(Path::new(&path), from.expect("a number"));
    }
    let root = tempfile::tempdir().expect("a folder");
    let (path, copy) = (root.path().join("a"), root.path().join("b"));
    let store = store_in(&path, &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", 1 << 26)).expect("creates");
    for n in 10..400 {
        store.apply(write("a", n * 65536, vec![7; 65536])).expect("writes");
    }
    store.add_copy(&copy).expect("begins");
    drop(store);
    let mut sure: BTreeMap<u64, u64> = BTreeMap::new();
    let mut from = 0;
    let mut was_whole = false;
    let mut early = 0;
    // Killed sooner and later, until the copy is whole.
    for round in 0..40 {
        let (last, is_whole) = killed(&path, from, if was_whole { 50 } else { 3 + round * 4 });
        for n in from..=last {
            sure.insert(n * 7 % PAGES, n);
        }
        from = last + 2;
        // The change after the last answer may be there as well.
        sure.remove(&((last + 1) * 7 % PAGES));
        if was_whole {
            break;
        }
        // It may have become whole after the last answer.
        let known = std::fs::read_to_string(path.join("copies.json")).expect("reads");
        was_whole = is_whole || !known.contains("left_out");
        if !was_whole {
            early += 1;
            // What is not whole is no copy.
            let alone = root.path().join("alone");
            drop(std::fs::remove_dir_all(&alone));
            copy_folder(&copy, &alone);
            let without = vec![path.clone(), copy.clone()];
            let away = root.path().join("away");
            std::fs::rename(&path, &away).expect("moves");
            let refused = Store::open(&alone, Options { without, ..options(&TestClock::new()) });
            std::fs::rename(&away, &path).expect("moves back");
            assert!(refused.is_err(), "round {round}");
        }
    }
    assert!(early > 0, "it was never killed before the copy was whole");
    let store = open(&path);
    wait(&store, "the copy is made", is_whole);
    let wanted = bytes_of(&store, "a", None);
    for (page, tag) in &sure {
        let at = usize::try_from(page * 512).expect("small");
        assert!(wanted[at..at + 512] == page_of(*tag), "page {page}");
    }
    drop(store);
    std::fs::remove_dir_all(&path).expect("removes");
    let options = Options { without: vec![path], ..options(&TestClock::new()) };
    let store = Store::open(&copy, options).expect("opens alone");
    assert!(bytes_of(&store, "a", None) == wanted);
}

/// Lets a process write, kills it after some answers, and returns the last one, and whether the copy was whole then.
fn killed(path: &Path, from: u64, answers: u64) -> (u64, bool) {
    let mut child = Command::new(std::env::current_exe().expect("a program"))
        .args([
            "redundancy_killed::a_rebuild_that_is_killed_is_begun_again",
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, path)
        .env("STRONGROOM_BLOBS_FROM", from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut found = (from, false);
    let mut count = 0;
    while let Some(Ok(line)) = lines.next() {
        let Some((n, is_whole)) = line.strip_prefix("done ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        if let (Ok(n), Ok(is_whole)) = (n.parse(), is_whole.parse()) {
            found = (n, is_whole);
        }
        count += 1;
        if count == answers {
            child.kill().expect("kills");
        }
    }
    child.wait().expect("ends");
    found
}

/// Fills the disk of one copy.
fn fill(first: &Path, second: &Path, is_first: bool) {
    let clock = TestClock::new();
    let options = Options {
        copies: vec![second.to_owned()],
        reserve_size: 6 << 20,
        retry_interval: Duration::from_mins(1),
        ..options(&clock)
    };
    let store = store_in_copies(first, options, AccountKind::Standard);
    store.apply(create("a", 1 << 30)).expect("creates");
    for n in 0..10_000_u64 {
        let data = vec![u8::try_from(n % 250).expect("small") + 1; 4096];
        store.apply(write("a", n * 3 * 4096, data)).expect("the other one has room");
    }
    let states: Vec<_> = store.status().copies.into_iter().map(|copy| copy.state).collect();
    let full = &states[usize::from(!is_first)];
    assert!(matches!(full, StoreCopyState::LeftOut { .. }), "{states:?}");
    assert!(states.contains(&StoreCopyState::Leading), "{states:?}");
    assert!(store.status().failure.is_none());
    let bytes = bytes_of(&store, "a", None);
    for n in 0..10_000 {
        assert!(bytes[n * 3 * 4096] == u8::try_from(n % 250).expect("small") + 1);
    }
}

#[test]
fn a_copy_whose_disk_is_full_is_left_out_while_the_other_has_room() {
    for is_first in [true, false] {
        let Some(disk) = SmallDisk::new("32m") else {
            println!("only root can make a small disk");
            return;
        };
        let roomy = crate::tools::folder();
        let (small, large) = (disk.0.path().join("s"), roomy.path().join("s"));
        let (first, second) = if is_first { (&small, &large) } else { (&large, &small) };
        fill(first, second, is_first);
    }
}
