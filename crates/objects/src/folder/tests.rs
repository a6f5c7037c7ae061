use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use strongroom_base::{Coded, SystemEntropy, codes};
use tempfile::TempDir;

use super::*;
use crate::conformance::{self, Extent};

fn folder() -> (TempDir, Folder) {
    let place = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::create(&place.path().join("a/store"), Arc::new(SystemEntropy));
    (place, folder.expect("a new store"))
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

fn keys(folder: &Folder) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut visit = |entry: Entry| {
        assert!(keys.insert(entry.key.as_str().to_owned()), "{entry:?} is listed twice");
        ControlFlow::Continue(())
    };
    folder.list("", &mut visit).expect("a list");
    keys
}

#[test]
fn conforms() {
    let (_place, folder) = folder();
    conformance::check(&folder, "suite/", Extent::default()).expect("a store");
    conformance::check(&folder, "", Extent { large: 1 << 20, ..Extent::default() })
        .expect("a store at its root");
}

#[test]
fn the_parent_of_a_top_level_name_is_the_folder() {
    assert_eq!((parent_of("a"), parent_of("a/b"), parent_of("a/b/c")), ("", "a", "a/b"));
}

#[test]
fn a_put_waits_for_the_disk_as_often_as_it_must() {
    let (_place, folder) = folder();
    let waits = |folder: &Folder, work: &dyn Fn(&Folder)| {
        let before = folder.syncs();
        work(folder);
        folder.syncs() - before
    };
    let put = |name: &'static str| move |folder: &Folder| drop(folder.put_new(&key(name), b"x"));
    // Three names of directories, the body, and the object's name.
    assert_eq!(waits(&folder, &put("a/b/c/1")), 5);
    assert_eq!(waits(&folder, &put("a/b/c/2")), 2);
    assert_eq!(waits(&folder, &put("a/b/c/2")), 1, "it may be another process that has put it");
    // To another process a directory with something in it is durable, an empty one is not.
    let other = Folder::open(folder.path(), Arc::new(SystemEntropy)).expect("a folder");
    assert_eq!(waits(&other, &put("a/b/c/3")), 2);
    fs::create_dir(folder.path().join("a/b/d")).expect("by one that was killed then");
    assert_eq!(waits(&other, &put("a/b/d/1")), 3);
    // What was removed and made again is synced again.
    fs::remove_dir_all(folder.path().join("a/b/d")).expect("removed");
    assert_eq!(waits(&folder, &put("a/b/d/1")), 3);
    assert_eq!(waits(&folder, &|folder| folder.delete(&key("a/b/d/1")).expect("gone")), 1);
    let all = ["a/b/c/1", "a/b/c/2", "a/b/c/3", "a/x"].map(key);
    put("a/x")(&folder);
    assert_eq!(waits(&folder, &|folder| folder.delete_all(&all).expect("gone")), 2);
    assert_eq!(keys(&folder), BTreeSet::new());
}

#[test]
fn what_passes_with_its_process_waits_for_nothing() {
    let (_place, folder) = folder();
    let local = folder.is_of_this_machine();
    let before = folder.syncs();
    assert_eq!(folder.put_passing(&key("writers/1/a"), b"x").expect("a put"), Put::Created);
    assert_eq!(folder.put_passing(&key("writers/1/a"), b"y").expect("a put"), Put::Exists);
    assert_eq!(folder.get(&key("writers/1/a"), 1).expect("a get"), b"x");
    folder.delete_passing(&key("writers/1/a")).expect("a delete");
    assert_eq!(folder.syncs() == before, local, "{} times", folder.syncs() - before);
    assert!(!folder.path().join("writers").exists());
}

#[test]
fn files_are_private_and_nothing_is_left_over() {
    let (_place, folder) = folder();
    let body = vec![7; 300_001];
    for name in ["strongroom.json", "packs/data/ab/abcdef"] {
        assert_eq!(folder.put_new(&key(name), &body).expect("a put"), Put::Created);
        assert_eq!(folder.put_new(&key(name), &body).expect("a put"), Put::Exists);
        let meta = fs::metadata(folder.path().join(name)).expect("a file");
        assert_eq!((meta.mode() & 0o7777, meta.len()), (0o600, 300_001));
    }
    let mode = |path: &str| fs::metadata(folder.path().join(path)).expect("it").mode() & 0o777;
    assert_eq!((mode("."), mode("packs/data"), mode(".tmp")), (0o700, 0o700, 0o700));
    assert_eq!(fs::read_dir(folder.path().join(".tmp")).expect("it").count(), 0);
    // An emptied directory goes with its last object, and comes back with the next.
    folder.delete(&key("packs/data/ab/abcdef")).expect("a delete");
    assert!(!folder.path().join("packs").exists());
    folder.put_new(&key("packs/data/ab/abcdef"), &body).expect("a put");
    assert_eq!(keys(&folder).len(), 2);
}

#[test]
fn a_missing_folder_is_never_made_by_opening_it() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let path = place.path().join("gone");
    let error = Folder::open(&path, Arc::new(SystemEntropy)).expect_err("no folder");
    assert!(matches!(&error, StoreError::Url { reason, .. } if reason.contains("mounted")));
    assert!(!path.exists());
    fs::write(&path, b"").expect("a file");
    for made in [Folder::open, Folder::create] {
        let error = made(&path, Arc::new(SystemEntropy)).expect_err("a file");
        assert!(
            matches!(&error, StoreError::Url { reason, .. } if reason.contains("not a folder"))
        );
    }
}

#[test]
fn a_folder_that_vanished_is_not_an_object_that_vanished() {
    let (place, folder) = folder();
    folder.put_new(&key("a/b"), b"1").expect("a put");
    fs::remove_dir_all(place.path().join("a")).expect("gone");
    for error in [
        folder.get(&key("a/c"), 1).expect_err("gone"),
        folder.put_new(&key("a/c"), b"").expect_err("gone"),
        folder.list("", &mut |_| ControlFlow::Continue(())).expect_err("gone"),
        folder.delete(&key("a/b")).expect_err("gone"),
    ] {
        assert_eq!(error.code(), &codes::STORE_UNAVAILABLE, "{error:?}");
    }
}

#[test]
fn foreign_files_and_links_are_not_objects() {
    let (place, folder) = folder();
    folder.put_new(&key("a/good"), b"1").expect("a put");
    let secret = place.path().join("secret");
    fs::create_dir(&secret).expect("it");
    fs::write(secret.join("inside"), b"secret").expect("it");
    for name in [".hidden", "with space", "lost+found", "a/.partial"] {
        fs::write(folder.path().join(name), b"foreign").expect("it");
    }
    symlink(&secret, folder.path().join("link")).expect("it");
    symlink(secret.join("inside"), folder.path().join("a/filelink")).expect("it");
    assert_eq!(keys(&folder), BTreeSet::from(["a/good".to_owned()]));
    for name in ["link/inside", "a/filelink"] {
        let error = folder.get(&key(name), 100).expect_err("a link");
        assert_eq!(error.code(), &codes::STORE_PROTOCOL, "{error:?}");
    }
    let error = folder.put_new(&key("link/planted"), b"x").expect_err("a link");
    assert_eq!(error.code(), &codes::STORE_PROTOCOL, "{error:?}");
    assert!(!secret.join("planted").exists());
    // A pipe must not make a reader wait for a writer that never comes.
    rustix::fs::mknodat(
        &folder.root,
        "a/pipe",
        rustix::fs::FileType::Fifo,
        FILE_MODE,
        rustix::fs::makedev(0, 0),
    )
    .expect("a pipe");
    folder.get(&key("a/pipe"), 100).expect_err("a pipe");
}

#[test]
fn only_old_unfinished_files_are_swept() {
    let (_place, folder) = folder();
    assert_eq!(folder.sweep_temporary().expect("a sweep"), 0);
    folder.put_new(&key("x"), b"x").expect("a put");
    let path = |name: &str| folder.path().join(".tmp").join(name);
    fs::write(path("young"), b"in use").expect("it");
    fs::write(path("old"), b"left over").expect("it");
    let old = fs::File::open(path("old")).expect("it");
    let hours = |n: u64| std::time::Duration::from_secs(n * 3600);
    let written = old.metadata().and_then(|m| m.modified()).expect("a time") - hours(25);
    old.set_modified(written).expect("it");
    assert_eq!(folder.sweep_temporary().expect("a sweep"), 1);
    assert!(path("young").exists() && !path("old").exists());
}

#[test]
fn a_file_that_was_replaced_or_removed_by_others_is_noticed() {
    let (_place, folder) = folder();
    let (a, body) = (key("a"), vec![1; 300_000]);
    folder.put_new(&a, &body).expect("a put");
    assert_eq!(folder.get(&a, 300_000).expect("a get"), body);
    fs::write(folder.path().join("new"), b"new").expect("it");
    fs::rename(folder.path().join("new"), folder.path().join("a")).expect("it");
    assert_eq!(folder.get(&a, 300_000).expect("a get"), b"new");
    fs::remove_file(folder.path().join("a")).expect("it");
    assert!(matches!(folder.get(&a, 9), Err(StoreError::Missing { .. })));
}

#[test]
fn many_threads_put_and_delete_in_one_directory() {
    let (_place, folder) = folder();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let folder = &folder;
            scope.spawn(move || {
                for round in 0..25 {
                    let key = key(&format!("d/e/{thread}-{round}"));
                    assert_eq!(folder.put_new(&key, b"x").expect("a put"), Put::Created);
                    folder.delete(&key).expect("a delete");
                }
            });
        }
    });
    assert_eq!(keys(&folder), BTreeSet::new());
    assert!(!folder.path().join("d").exists());
}

#[test]
fn rights_matter() {
    let (_place, folder) = folder();
    if rustix::process::geteuid().is_root() {
        println!("root has every right: the denied folder is not tried");
        return;
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).expect("it");
    let error = folder.put_new(&key("x"), b"x").expect_err("no right");
    assert_eq!(error.code(), &codes::STORE_DENIED);
}
