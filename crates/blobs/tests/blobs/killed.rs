//! A real process, killed in the middle of writes by several threads.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use strongroom_base::{SystemClock, SystemEntropy};
use strongroom_blobs::{AccountKind, Options, Store};

use crate::tools::{TestClock, blob, create, page_of, snapshot, store_in, write};

/// Where the process that is killed finds its store.
const CHILD: &str = "STRONGROOM_BLOBS_KILLED";
const THREADS: u64 = 4;
/// Pages of a thread.
const PAGES: u64 = 200;
const ROUNDS: u64 = 4;
/// How many answers are waited for in each round.
const ANSWERS: usize = 300;

fn open(path: &Path) -> Store {
    let options = Options {
        // Checkpoints come in the middle.
        checkpoint_size: 1 << 20,
        segment_size: 1 << 20,
        reserve_size: 0,
        ..Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    };
    Store::open(path, options).expect("opens")
}

/// What a thread writes in its n-th step: a page, and the tag of its content.
fn step(thread: u64, n: u64) -> (u64, u64) {
    (thread * PAGES + n * 7 % PAGES, thread << 32 | n)
}

/// Writes from step `from` on until it is killed, and says so after each.
fn write_until_killed(path: &Path, from: u64) {
    let store = open(path);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                for n in from.. {
                    let (page, tag) = step(thread, n);
                    store.apply(write("a", page * 512, page_of(tag).to_vec())).expect("writes");
                    if thread == 0 && n % 16 == 0 {
                        store.apply(snapshot("a")).expect("a snapshot");
                    }
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "done {thread} {n}").and_then(|()| out.flush()).expect("says");
                }
            });
        }
    });
}

#[test]
fn a_killed_process_loses_no_acknowledged_change() {
    if let Some(path) = std::env::var_os(CHILD) {
        let from = std::env::var("STRONGROOM_BLOBS_FROM").expect("a step").parse();
        return write_until_killed(Path::new(&path), from.expect("a number"));
    }
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("s");
    let store = store_in(&path, &TestClock::new(), AccountKind::Standard);
    store.apply(create("a", THREADS * PAGES * 512)).expect("creates");
    drop(store);
    // Of each page the tag that was acknowledged last.
    let mut sure: BTreeMap<u64, u64> = BTreeMap::new();
    let mut from = 0;
    for _ in 0..ROUNDS {
        let done = killed(&path, from);
        let mut open_ended: BTreeMap<u64, u64> = BTreeMap::new();
        for thread in 0..THREADS {
            let last = done.get(&thread).copied();
            for n in from..last.map_or(from, |last| last + 1) {
                let (page, tag) = step(thread, n);
                sure.insert(page, tag);
            }
            let (page, tag) = step(thread, last.map_or(from, |last| last + 1));
            open_ended.insert(page, tag);
        }
        let store = open(&path);
        let view = store.view().expect("a view");
        let head = view.head(&blob("a"), None).expect("is there");
        for page in 0..THREADS * PAGES {
            let mut bytes = [0; 512];
            view.read(&head, page * 512, &mut bytes).expect("reads");
            let is = |tag: Option<&u64>| tag.is_some_and(|tag| bytes == page_of(*tag));
            if is(open_ended.get(&page)) {
                // It was not answered, and is there whole.
                sure.insert(page, open_ended[&page]);
                continue;
            }
            let is_empty = bytes == [0; 512] && !sure.contains_key(&page);
            assert!(is_empty || is(sure.get(&page)), "page {page} lost {:?}", sure.get(&page));
        }
        from = done.values().max().expect("some") + 2;
    }
}

/// Lets a process write, kills it, and returns the last step that each thread has finished.
fn killed(path: &Path, from: u64) -> BTreeMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "killed::a_killed_process_loses_no_acknowledged_change", "--nocapture"])
        .env(CHILD, path)
        .env("STRONGROOM_BLOBS_FROM", from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut done = BTreeMap::new();
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut count = 0;
    // What is still in the pipe was acknowledged as well.
    while let Some(Ok(line)) = lines.next() {
        // The last line may be cut; the harness says something first.
        let Some(numbers) = line.strip_prefix("done ") else { continue };
        if let Some((thread, n)) = numbers.split_once(' ')
            && let (Ok(thread), Ok(n)) = (thread.parse(), n.parse())
        {
            done.insert(thread, n);
        }
        count += 1;
        if count == ANSWERS {
            child.kill().expect("kills");
        }
    }
    child.wait().expect("ends");
    done
}
