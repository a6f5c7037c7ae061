//! Files up and down.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::Arc,
};

use strongroom_azure::{BlobWrite, Metadata, ReadBlob};
use strongroom_base::{Cancel, Clock as _, Coded as _, SystemClock, SystemEntropy};
use strongroom_http::{CertificateFiles, Shown, ensure};
use strongroom_storage_client::{
    Client, Options, Patience, StorageClientError, Trust,
    transfer::{Download, Upload, Work, download, upload},
};

use crate::{
    proxy::{Fate, Proxy},
    server::{Server, at, content, path, put, ranges, take, with_disk},
};

const MIB: u64 = 1 << 20;

/// A file of 64 MiB with data in three places.
fn sparse(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("disk.raw");
    let file = File::create(&path).expect("creates");
    file.set_len(64 * MIB).expect("sets");
    for (at, length, byte) in [(0, 512, 1), (9 * MIB, 5 * MIB + 512, 2), (64 * MIB - 4096, 4096, 3)]
    {
        file.write_all_at(&vec![byte; usize::try_from(length).expect("fits")], at).expect("writes");
    }
    path
}

fn container(client: &Client) {
    client.create_container(&path("disks", "x").container, &Metadata::default()).expect("creates");
}

#[test]
fn a_sparse_file_goes_up_and_comes_down_as_it_was() {
    let server = Server::start();
    let client = server.client("acct");
    container(&client);
    let folder = tempfile::tempdir().expect("a folder");
    let file = sparse(folder.path());
    let disk = path("disks", "disk");
    let metadata = Metadata::of([("of", "web")]).expect("metadata");
    let options = Upload { metadata, ..Upload::default() };
    let sent = upload(&client, &file, &disk, &options, &Work::default()).expect("uploads");
    assert_eq!((sent.size, sent.was_continued), (64 * MIB, false));
    assert_eq!(sent.written_bytes, 512 + 5 * MIB + 512 + 4096);
    let found = client.properties(&disk, &ReadBlob::default()).expect("is there");
    assert_eq!(found.metadata.iter().collect::<Vec<_>>(), [("of", "web")]);
    assert_eq!(
        ranges(&client, &disk, &ReadBlob::default()),
        [(0, 512), (9 * MIB, 14 * MIB + 512), (64 * MIB - 4096, 64 * MIB)]
    );

    let output = folder.path().join("again.raw");
    let work = Work::default();
    let got = download(&client, &disk, &output, &Download::default(), &work).expect("downloads");
    assert_eq!(got.written_bytes, sent.written_bytes);
    assert_eq!(std::fs::read(&file).expect("reads"), std::fs::read(&output).expect("reads"));
    let blocks = output.metadata().expect("facts").blocks();
    assert!(blocks * 512 < 8 * MIB, "{blocks} blocks");
    assert!(!folder.path().join("again.raw.unfinished").exists());
    let refused = download(&client, &disk, &output, &Download::default(), &work);
    assert!(matches!(refused, Err(StorageClientError::Local { action: "create", .. })));
    let options = Download { overwrites: true, ..Download::default() };
    download(&client, &disk, &output, &options, &work).expect("replaces");
}

#[test]
fn an_upload_does_not_replace_what_is_there() {
    let server = Server::start();
    let client = server.client("acct");
    let folder = tempfile::tempdir().expect("a folder");
    let file = sparse(folder.path());
    let disk = with_disk(&client, "disk", 64 * MIB);
    let refused = upload(&client, &file, &disk, &Upload::default(), &Work::default());
    assert_eq!(refused.expect_err("is there").code().name, "blob.exists");
    put(&client, &disk, 30 * MIB, vec![9; 512]);
    let options = Upload { overwrites: true, ..Upload::default() };
    upload(&client, &file, &disk, &options, &Work::default()).expect("replaces");
    assert_eq!(content(&client, &disk, &ReadBlob::default()), std::fs::read(&file).expect("reads"));
    std::fs::write(&file, b"x").expect("writes");
    let refused =
        upload(&client, &file, &path("disks", "new"), &Upload::default(), &Work::default());
    assert_eq!(refused.expect_err("is no disk").code().name, "blob.type");
}

#[test]
fn an_upload_that_was_cut_continues() {
    let server = Server::start();
    let client = server.client("acct");
    container(&client);
    let folder = tempfile::tempdir().expect("a folder");
    let file = sparse(folder.path());
    let disk = path("disks", "disk");
    let proxy = Proxy::before(server.address);
    proxy.rule(|number| if number < 6 { Fate::Passes } else { Fate::IsLost });
    let cut = server.client_at("acct", proxy.address, 1);
    let work = Work { parallel: 1, ..Work::default() };
    upload(&cut, &file, &disk, &Upload::default(), &work).expect_err("is cut");
    let there = ranges(&client, &disk, &ReadBlob::default());
    assert!(!there.is_empty(), "nothing was written before the cut");
    // The lease of the first is still there: it is waited for.
    let sent = upload(&client, &file, &disk, &Upload::default(), &work).expect("continues");
    assert!(sent.was_continued);
    let written: u64 = there.iter().map(|(start, end)| end - start).sum();
    assert_eq!(sent.written_bytes + written, 5 * MIB + 1024 + 4096);
    assert_eq!(content(&client, &disk, &ReadBlob::default()), std::fs::read(&file).expect("reads"));
}

#[test]
fn lost_requests_lost_answers_and_a_busy_server_do_not_matter() {
    let server = Server::start();
    let client = server.client("acct");
    container(&client);
    let folder = tempfile::tempdir().expect("a folder");
    let file = sparse(folder.path());
    let disk = path("disks", "disk");
    let proxy = Proxy::before(server.address);
    let bad = |number: u64| match number % 7 {
        1 => Fate::IsLost,
        3 => Fate::AnswerIsLost,
        5 => Fate::IsBusy,
        _ => Fate::Passes,
    };
    proxy.rule(bad);
    let flaky = server.client_at("acct", proxy.address, 8);
    upload(&flaky, &file, &disk, &Upload::default(), &Work::default()).expect("uploads");
    let output = folder.path().join("again.raw");
    download(&flaky, &disk, &output, &Download::default(), &Work::default()).expect("downloads");
    assert_eq!(std::fs::read(&file).expect("reads"), std::fs::read(&output).expect("reads"));
}

#[test]
fn a_blob_that_changes_under_a_download_is_refused_and_a_snapshot_cannot_change() {
    let server = Server::start();
    let client = server.client("acct");
    let disk = with_disk(&client, "disk", 16 * MIB);
    put(&client, &disk, 0, vec![1; 4 << 20]);
    put(&client, &disk, 8 * MIB, vec![1; 4 << 20]);
    let snapshot = take(&client, &disk);
    let proxy = Proxy::before(server.address);
    let (writer, of) = (server.client("acct"), disk.clone());
    proxy.rule(move |number| {
        if number == 2 {
            put(&writer, &of, 8 * MIB, vec![2; 512]);
        }
        Fate::Passes
    });
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let through = server.client_at("acct", proxy.address, 1);
    let work = Work { parallel: 1, ..Work::default() };
    let changed = download(&through, &disk, &one, &Download::default(), &work);
    assert_eq!(changed.expect_err("changed").code().name, "blob.changed");
    assert_eq!(folder.path().read_dir().expect("lists").count(), 0);
    let options = Download { snapshot: Some(snapshot), ..Download::default() };
    download(&through, &disk, &two, &options, &work).expect("downloads");
    assert_eq!(std::fs::read(&two).expect("reads"), content(&client, &disk, &at(snapshot)));
}

#[test]
fn work_stops_on_request() {
    let server = Server::start();
    let client = server.client("acct");
    container(&client);
    let folder = tempfile::tempdir().expect("a folder");
    let file = sparse(folder.path());
    let cancel = Cancel::new();
    cancel.cancel();
    let work = Work { cancel, ..Work::default() };
    let stopped = upload(&client, &file, &path("disks", "disk"), &Upload::default(), &work);
    assert!(matches!(stopped, Err(StorageClientError::Interrupted)));
    // Its lease is gone: it was released.
    let blob = path("disks", "disk");
    client.set_metadata(&blob, &Metadata::default(), &BlobWrite::default()).expect("sets");
}

#[test]
fn the_certificate_of_a_server_is_trusted_when_it_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = CertificateFiles::own(folder.path());
    let certificate = folder.path().join("certificate.pem");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    ensure(&files, &names, SystemClock.now()).expect("makes a certificate");
    let shown = Shown::new(files).expect("reads it");
    let server = Server::start_with(Arc::default(), folder, Some(shown));
    let connection = server.connection("acct", &format!("https://{}/acct", server.address));
    let client = |trust: Trust| {
        let options =
            Options::new(connection.clone(), server.clock.clone(), Arc::new(SystemEntropy));
        let patience = Patience { tries: 1, ..Patience::default() };
        Client::new(Options { trust, patience, ..options }).expect("a client")
    };
    container(&client(Trust::CaFile(certificate)));
    let refused = client(Trust::System).container(&path("disks", "x").container);
    assert_eq!(refused.expect_err("is not trusted").code().name, "storage.untrusted");
}
