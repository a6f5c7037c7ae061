//! A disk that is full: what carries data is refused, what gives room back is not, and the store is opened again.

use std::{path::Path, process::Command};

use strongroom_blobs::{AccountKind, Options, Refusal, Store};

use crate::tools::{TestClock, blob, clear, create, folder, options, store_in, write};

/// A small disk in memory; only root can have one.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn new(size: &str) -> Option<Self> {
        let place = tempfile::tempdir().expect("a folder");
        let options = format!("size={size}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(place.path())
            .output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).output());
    }
}

fn fill(path: &Path) {
    let clock = TestClock::new();
    let with_reserve = || Options { reserve_size: 6 << 20, ..options(&clock) };
    drop(store_in(path, &clock, AccountKind::Standard));
    let store = Store::open(path, with_reserve()).expect("opens");
    store.apply(create("a", 1 << 30)).expect("creates");
    let page = |n: u64| vec![u8::try_from(n % 250).expect("small") + 1; 4096];
    let mut written = Vec::new();
    let mut refused = 0;
    for n in 0..100_000_u64 {
        match store.apply(write("a", n * 3 * 4096, page(n))) {
            Ok(_) => written.push(n),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::Full);
                refused += 1;
            }
        }
        if refused == 50 {
            break;
        }
    }
    assert!(written.len() > 1000, "{} writes", written.len());
    assert_eq!(refused, 50);
    let check = |store: &Store| {
        assert!(store.status().failure.is_none(), "{:?}", store.status());
        let view = store.view().expect("a view");
        let head = view.head(&blob("a"), None).expect("is there");
        let mut bytes = vec![0; 4096];
        for n in &written {
            view.read(&head, n * 3 * 4096, &mut bytes).expect("reads");
            assert!(bytes == page(*n));
        }
    };
    store.checkpoint();
    check(&store);
    drop(store);
    let store = Store::open(path, with_reserve()).expect("opens on a full disk");
    check(&store);
    store.apply(clear("a", 0, 1 << 30)).expect("clears");
    store.settle();
    store.apply(write("a", 0, page(1))).expect("there is room again");
}

#[test]
fn a_full_disk_refuses_data_and_nothing_else() {
    match SmallDisk::new("32m") {
        Some(disk) => fill(&disk.0.path().join("s")),
        None => println!("only root can make a small disk"),
    }
    // The same without a disk: nothing is ever free enough.
    let root = folder();
    let clock = TestClock::new();
    let path = root.path().join("s");
    drop(store_in(&path, &clock, AccountKind::Standard));
    let tight = Options { reserve_size: u64::MAX - 1, ..options(&clock) };
    let store = Store::open(&path, tight).expect("opens");
    store.apply(create("a", 4096)).expect("carries no data");
    assert_eq!(store.apply(write("a", 0, vec![1; 512])), Err(Refusal::Full));
    store.apply(clear("a", 0, 512)).expect("carries no data");
}
