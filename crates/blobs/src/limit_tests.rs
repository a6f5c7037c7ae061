//! Limits that are too far to be reached by changes in a test: a row says that they are.

use std::sync::Arc;

use bytes::Bytes;
use redb::ReadableTable as _;
use strongroom_base::{SystemClock, SystemEntropy};

use crate::{
    Access, AccountChange, AccountKey, AccountKind, BlobChange, BlockId, BlockList, BlockPlace,
    Change, ContainerChange, ContainerName, Content, Done, Metadata, NewAccount, Options,
    Redundancy, Refusal, Store,
    extents::Staging,
    rows,
    state::{NAMES, State},
};

fn change(store: &Store, change: BlobChange) -> Result<Done, Refusal> {
    let name = ContainerName::new("account", "container").blob("a");
    store.apply(Change::Blob { name, access: Access::default(), change })
}

fn stage(store: &Store, id: &str) -> Result<Done, Refusal> {
    let id = BlockId::new(id.as_bytes()).expect("an id");
    let content = Content::Bytes(Bytes::from_static(b"content"));
    change(store, BlobChange::StageBlock { id, content })
}

#[test]
fn more_than_100_000_blocks_do_not_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let options = || Options {
        reserve_size: 0,
        ..Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
    };
    Store::create(&path, &options()).expect("creates");
    let store = Store::open(&path, options()).expect("opens");
    let key = || AccountKey::new(vec![7; 64]);
    let account = NewAccount {
        kind: AccountKind::Standard,
        redundancy: Redundancy::Lrs,
        keys: [key(), key()],
        rules: true,
    };
    let account = AccountChange::Create(account);
    store
        .apply(Change::Account { name: "account".to_owned(), change: account })
        .expect("an account");
    let name = ContainerName::new("account", "container");
    let create = ContainerChange::Create(Metadata::new());
    store
        .apply(Change::Container { name, access: Access::default(), change: create })
        .expect("a container");
    stage(&store, "one").expect("stages");
    drop(store);
    let state = State::open(&path.join("state.redb"), 1 << 20, false).expect("opens");
    let transaction = state.begin(true).expect("begins");
    {
        let mut names = transaction.open_table(NAMES).expect("opens");
        let (key, mut staging) = {
            let mut rows = names.range(b"s".as_slice()..b"t".as_slice()).expect("rows");
            let (key, value) = rows.next().expect("a row").expect("reads");
            let staging: Staging = rows::decode(key.value(), value.value()).expect("is one");
            (key.value().to_vec(), staging)
        };
        staging.count = 100_000;
        names.insert(key.as_slice(), rows::encode(&staging).as_slice()).expect("writes");
    }
    transaction.commit().expect("commits");
    drop(state);
    let store = Store::open(&path, options()).expect("opens");
    assert_eq!(stage(&store, "two"), Err(Refusal::UncommittedBlockCountExceeded));
    stage(&store, "one").expect("replaces one that waits");
    let one = (BlockId::new(b"one").expect("an id"), BlockPlace::Latest);
    let list = BlockList { blocks: vec![one], ..BlockList::default() };
    change(&store, BlobChange::CommitBlocks(list)).expect("commits");
    stage(&store, "two").expect("none waits");
}
