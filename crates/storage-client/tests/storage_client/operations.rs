//! Each operation, and what comes back.

use strongroom_azure::{
    BlobEntry, BlobHeaders, BlobWrite, Code, Conditions, CopyStatus, DeleteSnapshots, LeaseAction,
    LeaseDuration, Metadata, ReadBlob, Tags,
};
use strongroom_base::{ByteRange, Coded as _};
use strongroom_storage_client::{BlobQuery, Client, Location, NewPageBlob, Options, RangeQuery};

use crate::server::{Server, at, container, content, path, put, ranges, take, with_disk};

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    Metadata::of(pairs.iter().copied()).expect("metadata")
}

#[test]
fn containers_are_created_listed_shown_and_deleted() {
    let server = Server::start();
    let client = server.client("acct");
    for name in ["one", "two", "other"] {
        client.create_container(&container(name), &metadata(&[("of", name)])).expect("creates");
    }
    let listed: Vec<_> = client
        .containers(Some("o"))
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.name, entry.properties.metadata.get("of").map(str::to_owned)))
        .collect();
    assert_eq!(listed, ["one", "other"].map(|name| (name.to_owned(), Some(name.to_owned()))));
    let again = client.create_container(&container("one"), &Metadata::default());
    let again = again.expect_err("is there");
    assert_eq!(
        (again.service(), again.code().name),
        (Some(Code::ContainerAlreadyExists), "container.exists")
    );
    let shown = client.container(&container("two")).expect("is there");
    assert_eq!(shown.metadata.get("of"), Some("two"));
    client.delete_container(&container("two")).expect("deletes");
    let gone = client.container(&container("two")).expect_err("is gone");
    assert_eq!(gone.code().name, "container.not_found");
    assert!(gone.to_string().contains("two"), "{gone}");
}

#[test]
fn pages_are_written_cleared_read_and_listed() {
    let server = Server::start();
    let client = server.client("acct");
    let disk = with_disk(&client, "a disk/with ü.vhd", 8 << 20);
    put(&client, &disk, 0, vec![1; 4 << 20]);
    let first = take(&client, &disk);
    let write = BlobWrite::default();
    client.clear_pages(&disk, ByteRange::between(512, 1024), &write).expect("clears");
    put(&client, &disk, 6 << 20, vec![2; 512]);
    client.resize(&disk, 7 << 20, &write).expect("resizes");
    assert_eq!(
        ranges(&client, &disk, &ReadBlob::default()),
        [(0, 512), (1024, 4 << 20), (6 << 20, (6 << 20) + 512)]
    );
    assert_eq!(ranges(&client, &disk, &at(first)), [(0, 4 << 20)]);
    let query = RangeQuery {
        previous: Some(first),
        page: std::num::NonZeroU32::new(1),
        ..RangeQuery::default()
    };
    let difference: Vec<_> = client
        .pages(&disk, query)
        .map(|listed| listed.expect("a range"))
        .map(|listed| (listed.range.offset(), listed.range.len(), listed.is_clear))
        .collect();
    assert_eq!(difference, [(512, 512, true), (6 << 20, 512, false)]);
    let bytes = client.get(&disk, &at(first), ByteRange::between(510, 514)).expect("bytes");
    assert_eq!(&bytes[..], [1; 4]);
    assert_eq!(content(&client, &disk, &ReadBlob::default()).len(), 7 << 20);
    let beyond = client.get(&disk, &ReadBlob::default(), ByteRange::between(8 << 20, 9 << 20));
    assert_eq!(beyond.expect_err("is beyond").code().name, "blob.refused");
}

#[test]
fn blobs_and_snapshots_are_listed_and_deleted() {
    let server = Server::start();
    let client = server.client("acct");
    let disk = with_disk(&client, "a/1", 512);
    with_disk(&client, "a/2", 512);
    with_disk(&client, "b", 512);
    let write = BlobWrite::default();
    client.set_metadata(&disk, &metadata(&[("of", "web")]), &write).expect("sets");
    let headers = BlobHeaders { content_type: Some("a/b".to_owned()), ..BlobHeaders::default() };
    client.set_headers(&disk, &headers, &write).expect("sets");
    let snapshot = take(&client, &disk);
    let list = |query: BlobQuery| -> Vec<String> {
        let entries = client.blobs(&disk.container, query);
        let shown = |entry: BlobEntry| match entry {
            BlobEntry::Prefix(name) => name,
            BlobEntry::Blob(blob) => {
                let of = blob.properties.metadata.get("of").unwrap_or_default().to_owned();
                format!("{} {} {of}", blob.name, blob.snapshot.is_some())
            }
        };
        entries.map(|entry| shown(entry.expect("an entry"))).collect()
    };
    let all = BlobQuery { snapshots: true, metadata: true, page: Some(1), ..BlobQuery::default() };
    assert_eq!(list(all), ["a/1 true web", "a/1 false web", "a/2 false ", "b false "]);
    let folders = BlobQuery { delimiter: Some("/".to_owned()), ..BlobQuery::default() };
    assert_eq!(list(folders), ["a/", "b false "]);
    let properties = client.properties(&disk, &at(snapshot)).expect("is there");
    assert_eq!(properties.headers.content_type.as_deref(), Some("a/b"));

    let refused = client.delete(&disk, None, None, &write).expect_err("has snapshots");
    assert_eq!(refused.code().name, "blob.conflict");
    client.delete(&disk, Some(snapshot), None, &write).expect("deletes the snapshot");
    assert_eq!(client.find(&disk, Some(snapshot)).expect("asks"), None);
    take(&client, &disk);
    client.delete(&disk, None, Some(DeleteSnapshots::Include), &write).expect("deletes all");
    let gone = client.properties(&disk, &ReadBlob::default()).expect_err("is gone");
    assert_eq!(gone.code().name, "blob.not_found");
}

#[test]
fn conditions_and_leases_protect_a_blob() {
    let server = Server::start();
    let client = server.client("acct");
    let disk = with_disk(&client, "disk", 512);
    let tag = client.properties(&disk, &ReadBlob::default()).expect("is there").stamp.etag;
    put(&client, &disk, 0, vec![1; 512]);
    let conditions = Conditions { if_match: Some(Tags::One(tag)), ..Conditions::default() };
    let read = ReadBlob { conditions: conditions.clone(), ..ReadBlob::default() };
    let changed = client.get(&disk, &read, ByteRange::between(0, 512)).expect_err("changed");
    assert_eq!(changed.code().name, "blob.changed");
    let write = BlobWrite { conditions, lease: None };
    let changed = client.put_pages(&disk, 0, vec![2; 512].into(), &write).expect_err("changed");
    assert_eq!(changed.code().name, "blob.changed");

    let duration = LeaseDuration::Seconds(15);
    let id = client.lease(&disk, LeaseAction::Acquire { duration, proposed: None }).expect("takes");
    let id = id.expect("an id");
    let refused = client.put_pages(&disk, 0, vec![2; 512].into(), &BlobWrite::default());
    assert_eq!(refused.expect_err("is leased").code().name, "blob.leased");
    let write = BlobWrite { lease: Some(id), ..BlobWrite::default() };
    client.put_pages(&disk, 0, vec![2; 512].into(), &write).expect("writes");
    client.lease(&disk, LeaseAction::Renew(id)).expect("renews");
    client.lease(&disk, LeaseAction::Release(id)).expect("releases");
    let held = client.hold(&disk, std::time::Duration::ZERO).expect("takes");
    let second = client.hold(&disk, std::time::Duration::ZERO).expect_err("is taken");
    assert_eq!(second.code().name, "blob.leased");
    drop(held);
    put(&client, &disk, 0, vec![3; 512]);
}

#[test]
fn the_service_copies_promotes_and_copies_incrementally() {
    let server = Server::start();
    let client = server.client("acct");
    let disk = with_disk(&client, "disk", 1 << 20);
    put(&client, &disk, 0, vec![1; 1024]);
    let first = take(&client, &disk);
    put(&client, &disk, 0, vec![2; 512]);
    let wait = |at: &strongroom_azure::BlobPath| {
        for _ in 0..500 {
            let copy = client.properties(at, &ReadBlob::default()).expect("is there").copy;
            match copy.expect("was copied").status {
                CopyStatus::Pending => {
                    std::thread::park_timeout(std::time::Duration::from_millis(20));
                }
                status => return status,
            }
        }
        panic!("the copy does not end")
    };
    let copy = path("disks", "copy");
    let source = client.signed_url(&disk, Some(first)).expect("a URL");
    let begun = client.copy(&source, &copy, &Metadata::default(), &BlobWrite::default());
    assert!(!begun.expect("begins").id.is_empty());
    assert_eq!(wait(&copy), CopyStatus::Success);
    assert_eq!(content(&client, &copy, &ReadBlob::default()), content(&client, &disk, &at(first)));
    let none = client.abort_copy(&copy, "no-such-copy", None).expect_err("is over");
    assert_eq!(none.code().name, "blob.conflict");

    let incremental = path("disks", "incremental");
    let source = client.incremental_url(&disk, first).expect("a URL");
    client.incremental_copy(&source, &incremental).expect("begins");
    assert_eq!(wait(&incremental), CopyStatus::Success);
    let made = client.properties(&incremental, &ReadBlob::default()).expect("is there");
    assert!(made.is_incremental_copy);

    let url = client.signed_url(&disk, None).expect("a URL");
    client
        .put_pages_from(&copy, ByteRange::between(0, 512), &url, &BlobWrite::default())
        .expect("copies pages");
    assert_eq!(
        content(&client, &copy, &ReadBlob::default()),
        content(&client, &disk, &ReadBlob::default())
    );

    client.promote(&disk, first, &BlobWrite::default()).expect("promotes");
    assert_eq!(wait(&disk), CopyStatus::Success);
    assert_eq!(content(&client, &disk, &ReadBlob::default()), content(&client, &disk, &at(first)));
}

#[test]
fn a_url_with_a_signature_is_enough_to_read() {
    let server = Server::start();
    let owner = server.client("acct");
    let disk = with_disk(&owner, "disk", 512);
    let url = owner.signed_url(&disk, None).expect("a URL");
    let location = Location::parse(url.as_str()).expect("a location");
    assert_eq!(location.resource, strongroom_azure::Resource::Blob(disk.clone()));
    let clock = server.clock.clone();
    let options = Options::new(
        location.connection,
        clock,
        std::sync::Arc::new(strongroom_base::SystemEntropy),
    );
    let guest = Client::new(options).expect("a client");
    assert_eq!(guest.properties(&disk, &ReadBlob::default()).expect("reads").length, 512);
    let denied = guest.put_pages(&disk, 0, vec![1; 512].into(), &BlobWrite::default());
    let denied = denied.expect_err("may only read");
    assert_eq!(denied.code().name, "storage.denied");
    let shown = format!("{denied} {denied:?} {guest:?}");
    assert!(!shown.contains("sig="), "{shown}");
}

#[test]
fn premium_limits_have_a_code_of_their_own() {
    let server = Server::start();
    let client = server.client("prem");
    let disk = with_disk(&client, "disk", 512);
    take(&client, &disk);
    let refused = client.snapshot(&disk, &Metadata::default(), &BlobWrite::default());
    assert_eq!(refused.expect_err("is too soon").code().name, "blob.snapshot_limit");
}

#[test]
fn a_blob_is_not_created_over_another() {
    let server = Server::start();
    let client = server.client("acct");
    let disk = with_disk(&client, "disk", 512);
    let conditions = Conditions { if_none_match: Some(Tags::Any), ..Conditions::default() };
    let write = BlobWrite { conditions, lease: None };
    let refused = client.create_page_blob(&disk, &NewPageBlob::default(), &write);
    assert_eq!(refused.expect_err("is there").code().name, "blob.exists");
}
