//! Lists of blobs and containers, in parts.

use strongroom_blobs::{
    Access, AccountKind, Change, ContainerChange, ContainerName, Item, ListQuery, Metadata, Store,
};

use crate::tools::{TestClock, container, create, folder, store_in, take_snapshot};

fn names(store: &Store, query: &ListQuery) -> Vec<String> {
    let view = store.view().expect("a view");
    let mut query = query.clone();
    let mut all = Vec::new();
    loop {
        let part = view.list(&container(), &query).expect("lists");
        assert!(part.items.len() <= query.max);
        all.extend(part.items.into_iter().map(|item| match item {
            Item::Blob(head) if head.snapshot.is_some() => format!("{}@", head.name),
            Item::Blob(head) => head.name,
            Item::Prefix(prefix) => format!("[{prefix}]"),
        }));
        match part.next {
            Some(marker) => query.marker = Some(marker),
            None => return all,
        }
    }
}

#[test]
fn blobs_are_listed_with_prefix_delimiter_and_snapshots_in_parts() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    for name in ["b", "a/2", "a/1", "a", "a/1/x", "ab", "ü"] {
        store.apply(create(name, 512)).expect("creates");
    }
    take_snapshot(&store, "a");
    take_snapshot(&store, "a");
    take_snapshot(&store, "a/1");
    let query = |prefix: &str, delimiter: Option<&str>, snapshots, max| ListQuery {
        uncommitted: false,
        prefix: prefix.to_owned(),
        delimiter: delimiter.map(str::to_owned),
        marker: None,
        snapshots,
        max,
    };
    for max in [1, 2, 3, 100] {
        let all = names(&store, &query("", None, false, max));
        assert_eq!(all, ["a", "a/1", "a/1/x", "a/2", "ab", "b", "ü"], "{max}");
        let with_snapshots = names(&store, &query("a", None, true, max));
        assert_eq!(with_snapshots, ["a@", "a@", "a", "a/1@", "a/1", "a/1/x", "a/2", "ab"], "{max}");
        let folders = names(&store, &query("", Some("/"), false, max));
        assert_eq!(folders, ["a", "[a/]", "ab", "b", "ü"], "{max}");
        let inside = names(&store, &query("a/", Some("/"), false, max));
        assert_eq!(inside, ["a/1", "[a/1/]", "a/2"], "{max}");
    }
    assert!(names(&store, &query("zzz", None, true, 5)).is_empty());
}

#[test]
fn containers_are_listed_by_prefix_in_parts() {
    let root = folder();
    let store = store_in(&root.path().join("s"), &TestClock::new(), AccountKind::Standard);
    for name in ["disks-b", "disks-a", "other"] {
        let name = ContainerName::new("account", name);
        let change = ContainerChange::Create(Metadata::new());
        store
            .apply(Change::Container { name, access: Access::default(), change })
            .expect("creates");
    }
    let view = store.view().expect("a view");
    let list = |prefix: &str, marker: Option<&str>, max| {
        let part = view.containers("account", prefix, marker, max).expect("lists");
        let names: Vec<String> = part.items.into_iter().map(|(name, _)| name).collect();
        (names, part.next.map(|next| next.name))
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(list("", None, 9).0, owned(&["container", "disks-a", "disks-b", "other"]));
    assert_eq!(list("disks", None, 1), (owned(&["disks-a"]), Some("disks-b".to_owned())));
    assert_eq!(list("disks", Some("disks-b"), 1), (owned(&["disks-b"]), None));
    assert_eq!(list("disks", Some("z"), 1), (owned(&[]), None));
    assert_eq!(view.accounts().expect("lists").len(), 1);
}
