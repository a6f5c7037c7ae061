//! Folders on bad days: no room, read-only, and writers that are killed.

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it did not try"
)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    ops::ControlFlow,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use strongroom_base::{AlignedBuf, Coded, SystemEntropy, codes};
use strongroom_objects::{Folder, Key, ObjectStore, Put};
use strongroom_testing::TemporaryMount;

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

fn keys(folder: &Folder) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let visit = &mut |entry: strongroom_objects::Entry| {
        keys.insert(entry.key.as_str().to_owned());
        ControlFlow::Continue(())
    };
    folder.list("", visit).expect("a list");
    keys
}

#[test]
fn a_full_disk_is_said_to_be_full_and_keeps_what_it_has() {
    let Some(mount) = TemporaryMount::new(4) else { return };
    let folder = Folder::open(mount.path(), Arc::new(SystemEntropy)).expect("a folder");
    let mut body = AlignedBuf::zeroed(800_001);
    let mut stored = 0;
    let error = loop {
        body[0] = stored;
        match folder.put_new(&key(&format!("packs/{stored}")), &body) {
            Ok(put) => assert_eq!(put, Put::Created),
            Err(error) => break error,
        }
        stored += 1;
    };
    assert_eq!(error.code(), &codes::STORE_FULL, "{error:?}");
    assert_eq!(stored, 5);
    let error = folder.put_new(&key("small"), &vec![1; 200_000]).expect_err("hardly any room");
    assert_eq!(error.code(), &codes::STORE_FULL, "{error:?}");
    assert_eq!(keys(&folder).len(), 5);
    // What failed has given its room back, and what was there is whole.
    folder.put_new(&key("tiny"), &vec![1; 20_000]).expect("a little room");
    for nth in 0..stored {
        let read = folder.get(&key(&format!("packs/{nth}")), 800_001).expect("a get");
        assert_eq!((read.len(), read[0], read[1]), (800_001, nth, 0));
    }
    // Deletes need no room, and make some.
    folder.delete(&key("packs/0")).expect("a delete");
    folder.put_new(&key("packs/new"), &body).expect("room again");
}

#[test]
fn a_read_only_disk_can_be_read() {
    let Some(mount) = TemporaryMount::new(4) else { return };
    let folder = Folder::open(mount.path(), Arc::new(SystemEntropy)).expect("a folder");
    folder.put_new(&key("a/b"), b"body").expect("a put");
    mount.remount("ro");
    let folder = Folder::open(mount.path(), Arc::new(SystemEntropy)).expect("a folder");
    assert_eq!(folder.get(&key("a/b"), 4).expect("a get"), b"body");
    assert_eq!(keys(&folder).len(), 1);
    // What exists need not be written.
    assert_eq!(folder.put_new(&key("a/b"), b"body").expect("a put"), Put::Exists);
    for error in [
        folder.put_new(&key("a/c"), b"body").expect_err("read-only"),
        folder.put_new(&key("new/c"), &vec![0; 300_000]).expect_err("read-only"),
        folder.replace(&key("a/b"), b"body").expect_err("read-only"),
        folder.delete(&key("a/b")).expect_err("read-only"),
        folder.sweep_temporary().expect_err("read-only"),
        Folder::create(&mount.path().join("new"), Arc::new(SystemEntropy)).expect_err("read-only"),
    ] {
        assert_eq!(error.code(), &codes::STORE_READ_ONLY, "{error:?}");
    }
    mount.remount("rw");
    folder.put_new(&key("a/c"), b"body").expect("a put");
}

fn put_loop() -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let built = test.ancestors().nth(2).expect("the build folder").join("examples/put_loop");
    assert!(
        built.exists(),
        "{} is missing; `cargo test` without --test builds it",
        built.display()
    );
    built
}

#[test]
fn a_killed_writer_leaves_only_whole_objects() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let mut said = BTreeSet::new();
    for round in 0..12 {
        let mut writer = Command::new(put_loop())
            .arg(place.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the writer");
        let started = Instant::now();
        let lines = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        // At another moment of its work each time, but not before it has begun.
        let moment = Duration::from_millis(60 + 23 * round);
        std::thread::park_timeout(moment.saturating_sub(started.elapsed()));
        writer.kill().expect("kill -9");
        writer.wait().expect("an end");
        said.extend(reader.join().expect("lines"));
    }
    let folder = Folder::open(place.path(), Arc::new(SystemEntropy)).expect("a folder");
    let there = keys(&folder);
    assert!(said.len() > 12, "only {} objects were put", said.len());
    assert!(said.is_subset(&there), "a put that had returned was lost");
    // At most the one that was being put may be there without having been said.
    assert!(there.len() <= said.len() + 12);
    for name in &there {
        let key = key(name);
        let body = folder.get(&key, 10_000_000).expect("a get");
        assert_eq!(blake3::hash(&body).to_hex().as_str(), key.file_name(), "a torn object");
    }
    // What the killed writers left is young: it stays for a day, and hides from lists.
    let left = std::fs::read_dir(place.path().join(".tmp")).expect("it").count();
    println!("{} objects, {left} unfinished files after 12 kills", there.len());
    assert_eq!(folder.sweep_temporary().expect("a sweep"), 0);
}
