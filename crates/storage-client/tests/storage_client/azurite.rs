//! The client before Azurite, where that is right. `scripts/lab/install` installs it.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use strongroom_azure::{
    BlobWrite, BlockId, ConnectionString, CopyStatus, DeleteSnapshots, LeaseAction, LeaseDuration,
    Metadata, ReadBlob,
};
use strongroom_base::{ByteRange, Coded as _, SystemClock, SystemEntropy};
use strongroom_storage_client::{
    Client, Location, Options, Patience, RangeQuery,
    incremental::{Backup, Method, Place, Restore, Through, list, restore, run},
    transfer::{Download, Upload, Work, download, upload, upload_blocks},
};

use crate::{
    proxy::Proxy,
    server::{Server, at, content, path, put, ranges, snapshots, take, wide, with_disk},
};

const MIB: u64 = 1 << 20;

/// Azurite, which ends with the test.
struct Azurite {
    child: Child,
    client: Client,
    connection: ConnectionString,
    _folder: tempfile::TempDir,
}

fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let lab = std::env::var_os("STRONGROOM_LAB");
    let lab = lab.map_or_else(|| root.join("target/lab"), PathBuf::from);
    let path = lab.join("node/node_modules/azurite/dist/src/blob/main.js");
    assert!(path.exists(), "{} is missing: run scripts/lab/install", path.display());
    path
}

impl Azurite {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new("node")
            .arg(program())
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck"])
            .args(["--silent", "--disableTelemetry", "--location"])
            .arg(folder.path())
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("listens on http://127.0.0.1:")
                    .map(|(_, port)| port.trim().to_owned())
            })
            .expect("says its port");
        // The emulator's own connection string, at another port.
        let emulated = Location::parse("UseDevelopmentStorage=true").expect("a connection string");
        let mut connection = emulated.connection;
        connection.primary.authority = format!("127.0.0.1:{port}");
        let options =
            Options::new(connection.clone(), Arc::new(SystemClock), Arc::new(SystemEntropy));
        let client = Client::new(options).expect("a client");
        Self { child, client, connection, _folder: folder }
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn azurite_understands_the_operations() {
    let azurite = Azurite::start();
    let client = &azurite.client;
    let disk = with_disk(client, "a disk.vhd", 8 * MIB);
    assert!(client.is_azurite());
    put(client, &disk, 0, vec![1; 4 << 20]);
    put(client, &disk, 6 * MIB, vec![2; 512]);
    let snapshot = take(client, &disk);
    let none = BlobWrite::default();
    client.clear_pages(&disk, ByteRange::between(0, MIB), &none).expect("clears");
    client.resize(&disk, 7 * MIB, &none).expect("resizes");
    let read = ReadBlob::default();
    assert_eq!(ranges(client, &disk, &read), [(MIB, 4 * MIB), (6 * MIB, 6 * MIB + 512)]);
    assert_eq!(ranges(client, &disk, &at(snapshot)), [(0, 4 * MIB), (6 * MIB, 6 * MIB + 512)]);
    assert_eq!(content(client, &disk, &at(snapshot)).len(), 8 << 20);
    assert_eq!(snapshots(client, &disk), [snapshot]);
    let query = RangeQuery { previous: Some(snapshot), ..RangeQuery::default() };
    let difference = client.pages(&disk, query).next().expect("an answer");
    assert_eq!(difference.expect_err("is no difference").code().name, "storage.protocol");
    let names: Vec<_> =
        client.containers(None).map(|entry| entry.expect("an entry").name).collect();
    assert_eq!(names, ["disks"]);

    let duration = LeaseDuration::Seconds(15);
    let id = client.lease(&disk, LeaseAction::Acquire { duration, proposed: None }).expect("takes");
    let refused = client.put_pages(&disk, 0, vec![2; 512].into(), &none).expect_err("is leased");
    assert_eq!(refused.code().name, "blob.leased");
    client.lease(&disk, LeaseAction::Release(id.expect("an id"))).expect("releases");

    let promoted = client.promote(&disk, snapshot, &none).expect("promotes");
    assert_eq!(promoted.status, CopyStatus::Success);
    assert!(content(client, &disk, &read) == content(client, &disk, &at(snapshot)));
    client.delete(&disk, None, Some(DeleteSnapshots::Include), &none).expect("deletes");
    assert_eq!(client.find(&disk, None).expect("asks"), None);
    client.delete_container(&disk.container).expect("deletes");
    let gone = client.container(&disk.container).expect_err("is gone");
    assert_eq!(gone.code().name, "container.not_found");
}

#[test]
fn azurite_takes_block_blobs() {
    let azurite = Azurite::start();
    let client = &azurite.client;
    let blob = path("files", "a file");
    client.create_container(&blob.container, &Metadata::default()).expect("creates");
    let none = (Metadata::default(), BlobWrite::default());
    client.put_block_blob(&blob, b"whole".to_vec().into(), &none.0, &none.1).expect("puts");
    assert_eq!(content(client, &blob, &ReadBlob::default()), b"whole");
    let ids = [b"1", b"2"].map(|id| BlockId::from_bytes(id).expect("an id"));
    for (id, text) in ids.iter().zip(["in ", "parts"]) {
        client.put_block(&blob, id, text.into()).expect("puts");
    }
    client.put_block_list(&blob, &ids, &none.0, &none.1).expect("lists");
    assert_eq!(content(client, &blob, &ReadBlob::default()), b"in parts");
}

#[test]
fn files_of_any_length_are_block_blobs() {
    let azurite = Azurite::start();
    let client = &azurite.client;
    let container = path("files", "x").container;
    client.create_container(&container, &Metadata::default()).expect("creates");
    let folder = tempfile::tempdir().expect("a folder");
    let (file, output) = (folder.path().join("file"), folder.path().join("output"));
    let work = Work::default();
    for length in [0, 1000, (9 << 20) + 7] {
        let bytes: Vec<u8> = (0..=255).cycle().take(length).collect();
        std::fs::write(&file, &bytes).expect("writes");
        let blob = path("files", &format!("file-{length}"));
        let sent = upload_blocks(client, &file, &blob, &Upload::default(), &work).expect("uploads");
        assert_eq!(sent.written_bytes, wide(length));
        let options = Download { overwrites: true, ..Download::default() };
        download(client, &blob, &output, &options, &work).expect("downloads");
        assert!(std::fs::read(&output).expect("reads") == bytes);
        let refused = upload_blocks(client, &file, &blob, &Upload::default(), &work);
        assert_eq!(refused.expect_err("is there").code().name, "blob.exists");
        let options = Upload { overwrites: true, ..Upload::default() };
        upload_blocks(client, &file, &blob, &options, &work).expect("replaces");
    }
}

#[test]
fn files_go_to_azurite_and_back() {
    let azurite = Azurite::start();
    let client = &azurite.client;
    let disk = path("disks", "disk");
    client.create_container(&disk.container, &Metadata::default()).expect("creates");
    let folder = tempfile::tempdir().expect("a folder");
    let (file, output) = (folder.path().join("disk"), folder.path().join("output"));
    let mut bytes = vec![0; 9 << 20];
    bytes[..1000].fill(1);
    bytes[5 << 20..6 << 20].fill(2);
    std::fs::write(&file, &bytes).expect("writes");
    let work = Work::default();
    let sent = upload(client, &file, &disk, &Upload::default(), &work).expect("uploads");
    assert_eq!(sent.written_bytes, MIB + 1024);
    download(client, &disk, &output, &Download::default(), &work).expect("downloads");
    assert!(std::fs::read(&output).expect("reads") == bytes);
}

/// The list of differences of a service that nobody knows to be wrong has all pages, and none that was cleared. The
/// lists of all pages show it before the backup is complete.
#[test]
fn a_difference_that_is_not_whole_is_found() {
    // It ignores the headers that it does not know, as CRC-64.
    let azurite = Azurite::start_with(&["--loose"]);
    let server = Server::start();
    let client = server.client("acct");
    let mut connection = azurite.connection.clone();
    let proxy = Proxy::hiding(connection.primary.authority.parse().expect("an address"));
    connection.primary.authority = proxy.address.to_string();
    let options = Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy));
    let patience = Patience { tries: 1, ..Patience::default() };
    let unknown = Client::new(Options { patience, ..options }).expect("a client");
    let disk = with_disk(&azurite.client, "web", 4 * MIB);
    let backup = path("backups", "web");
    client.create_container(&backup.container, &Metadata::default()).expect("creates");
    let source = Place { client: &unknown, blob: &disk };
    let target = Place { client: &client, blob: &backup };
    put(&azurite.client, &disk, 0, vec![1; 2 << 20]);
    run(source, target, Backup::default(), &Work::default()).expect("backs up");
    let cleared = ByteRange::between(MIB, MIB + 4096);
    azurite.client.clear_pages(&disk, cleared, &BlobWrite::default()).expect("clears");
    let report = run(source, target, Backup::default(), &Work::default()).expect("backs up");
    let made = &report.backups[0];
    assert_eq!((made.method, made.cleared_bytes), (Method::Incremental, 4096));
    assert_eq!(
        ranges(&client, &backup, &at(made.backup.snapshot)),
        ranges(&azurite.client, &disk, &ReadBlob::default())
    );
}

/// Azurite lists every page as different and none as cleared: such a list must not be believed.
#[test]
fn a_disk_of_azurite_is_compared_and_its_backups_are_right() {
    let azurite = Azurite::start();
    let server = Server::start();
    let client = server.client("acct");
    let disk = with_disk(&azurite.client, "web", 4 * MIB);
    let backup = path("backups", "web");
    client.create_container(&backup.container, &Metadata::default()).expect("creates");
    let (source, target) =
        (Place { client: &azurite.client, blob: &disk }, Place { client: &client, blob: &backup });
    let work = Work::default();
    put(&azurite.client, &disk, 0, vec![1; 2 << 20]);
    let first = run(source, target, Backup::default(), &work).expect("backs up");
    assert_eq!(first.backups[0].method, Method::Full);
    put(&azurite.client, &disk, 512, vec![2; 512]);
    let cleared = ByteRange::between(MIB, MIB + 4096);
    azurite.client.clear_pages(&disk, cleared, &BlobWrite::default()).expect("clears");
    let second = run(source, target, Backup::default(), &work).expect("backs up");
    let made = &second.backups[0];
    assert_eq!(
        (made.method, made.written_bytes, made.cleared_bytes),
        (Method::Compared, 64 << 10, 4096)
    );
    assert_eq!(list(target).expect("lists").len(), 2);
    let expected = content(&azurite.client, &disk, &ReadBlob::default());
    assert!(content(&client, &backup, &at(made.backup.snapshot)) == expected);
    assert_eq!(
        ranges(&client, &backup, &at(made.backup.snapshot)),
        ranges(&azurite.client, &disk, &ReadBlob::default())
    );

    let restored = path("disks", "restored");
    let to = Place { client: &azurite.client, blob: &restored };
    restore(target, made.backup.snapshot, to, &Restore::default(), &work).expect("restores");
    assert!(content(&azurite.client, &restored, &ReadBlob::default()) == expected);
    let by_service = Backup { through: Through::Service, ..Backup::default() };
    let refused =
        run(to, Place { client: &azurite.client, blob: &path("disks", "copy") }, by_service, &work);
    assert_eq!(
        refused.expect_err("cannot copy pages").refused().expect("refuses").failure.status,
        501
    );
}
