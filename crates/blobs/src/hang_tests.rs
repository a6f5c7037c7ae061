//! A leading disk that neither fails nor answers: another copy leads, and nothing that was acknowledged is lost.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use strongroom_base::{Clock as _, SystemClock, SystemEntropy};

use crate::{
    Access, AccountChange, AccountKey, AccountKind, BlobChange, Change, ContainerChange,
    ContainerName, NewAccount, NewBlob, Options, Redundancy, SequenceConditions, Store,
    StoreCopyState, commit::Message,
};

fn options(root: &Path) -> Options {
    Options {
        copies: vec![root.join("b")],
        patience: Duration::from_millis(300),
        retry_interval: Duration::from_millis(50),
        segment_size: 1 << 20,
        reserve_size: 1 << 20,
        ..Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    }
}

fn change(change: BlobChange) -> Change {
    let name = ContainerName::new("account", "container").blob("disk");
    Change::Blob { name, access: Access::default(), change }
}

fn write(at: u64, value: u8) -> Change {
    let sequence = SequenceConditions::default();
    let data = Bytes::from(vec![value; 512]);
    change(BlobChange::Write { offset: at * 512, data, sequence })
}

fn content(store: &Store) -> Vec<u8> {
    let view = store.view().expect("a view");
    let name = ContainerName::new("account", "container").blob("disk");
    let head = view.head(&name, None).expect("is there");
    let mut bytes = vec![0; usize::try_from(head.size).expect("small")];
    view.read(&head, 0, &mut bytes).expect("reads");
    bytes
}

/// Lets the leading copy's disk hang; it answers again when the returned sender is dropped.
fn hang(store: &Store) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    let job = Box::new(move |_: &mut crate::engine::Engine| {
        let _answers_again = receiver.recv();
    });
    drop(store.changes.send(Message::Occupy(job)));
    sender
}

fn state_of(store: &Store, folder: &Path) -> StoreCopyState {
    let copies = store.status().copies.into_iter();
    copies.into_iter().find(|copy| copy.path == folder).expect("is known").state
}

fn since(begun: Duration) -> Duration {
    SystemClock.monotonic().saturating_sub(begun)
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let begun = SystemClock.monotonic();
    while !is_so() {
        assert!(since(begun) < Duration::from_secs(30), "{what}");
        SystemClock.sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_leading_disk_that_hangs_is_left_out_and_nothing_is_lost() {
    let root = tempfile::tempdir().expect("a folder");
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    Store::create(&a, &options(root.path())).expect("creates");
    let store = Store::open(&a, options(root.path())).expect("opens");
    let key = || AccountKey::new(vec![7; 64]);
    let account = NewAccount {
        kind: AccountKind::Standard,
        redundancy: Redundancy::Lrs,
        keys: [key(), key()],
        rules: true,
    };
    let account = AccountChange::Create(account);
    store.apply(Change::Account { name: "account".to_owned(), change: account }).expect("made");
    let container = ContainerName::new("account", "container");
    let create = ContainerChange::Create(crate::Metadata::new());
    let create = Change::Container { name: container, access: Access::default(), change: create };
    store.apply(create).expect("made");
    let blob = NewBlob { size: 64 << 10, ..NewBlob::default() };
    store.apply(change(BlobChange::Create(blob))).expect("made");
    assert_eq!(state_of(&store, &a), StoreCopyState::Leading);

    // Writes that come while it hangs are answered by the other copy, soon after the deadline.
    let mut wanted = vec![0; 64 << 10];
    let mut put = |store: &Store, at: u64, value: u8| {
        store.apply(write(at, value)).expect("is acknowledged");
        let start = usize::try_from(at * 512).expect("small");
        wanted[start..start + 512].fill(value);
    };
    put(&store, 0, 1);
    let hung = hang(&store);
    let begun = SystemClock.monotonic();
    for at in 1..20 {
        put(&store, at, 2);
    }
    let took = since(begun);
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(state_of(&store, &b), StoreCopyState::Leading);
    let StoreCopyState::LeftOut { reason, .. } = state_of(&store, &a) else {
        panic!("{:?}", store.status())
    };
    assert!(reason.contains("does not answer"), "{reason}");
    assert!(content(&store) == wanted);
    assert!(store.status().failure.is_none());

    // It answers again: it is made again, and leads when the other one hangs.
    drop(hung);
    wait("the first one is whole again", || state_of(&store, &a) == StoreCopyState::Healthy);
    let wanted = {
        store.apply(write(40, 3)).expect("is acknowledged");
        let hung = hang(&store);
        store.apply(write(41, 4)).expect("is acknowledged");
        assert_eq!(state_of(&store, &a), StoreCopyState::Leading);
        let mut wanted = wanted;
        wanted[40 * 512..41 * 512].fill(3);
        wanted[41 * 512..42 * 512].fill(4);
        assert!(content(&store) == wanted);
        drop(hung);
        wanted
    };
    drop(store);
    // After an opening the copy that was left out is no source.
    let store = Store::open(&b, options(root.path())).expect("opens");
    assert!(content(&store) == wanted);
}

#[test]
fn a_disk_that_hangs_at_a_checkpoint_does_not_hold_writes_up() {
    let root = tempfile::tempdir().expect("a folder");
    let a = root.path().join("a");
    Store::create(&a, &options(root.path())).expect("creates");
    let store = Store::open(&a, options(root.path())).expect("opens");
    let _hung = hang(&store);
    let begun = SystemClock.monotonic();
    store.checkpoint();
    let key = || AccountKey::new(vec![7; 64]);
    let (kind, redundancy) = (AccountKind::Standard, Redundancy::Lrs);
    let account = NewAccount { kind, redundancy, keys: [key(), key()], rules: true };
    let change = AccountChange::Create(account);
    store.apply(Change::Account { name: "account".to_owned(), change }).expect("made");
    assert!(since(begun) < Duration::from_secs(10), "{:?}", since(begun));
    assert_eq!(state_of(&store, &root.path().join("b")), StoreCopyState::Leading);
}
