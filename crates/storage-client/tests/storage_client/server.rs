//! A server in this process, and clients of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use strongroom_azure::{
    BlobEntry, BlobName, BlobPath, BlobWrite, ConnectionString, ContainerName, Metadata, ReadBlob,
    SnapshotId,
};
use strongroom_base::{Clock, SystemClock, SystemEntropy};
use strongroom_blobs::AccountKind;
use strongroom_storage::{
    Serve, Storage,
    admin::{Command, Reply, execute},
    serve,
};
use strongroom_storage_client::{BlobQuery, Client, NewPageBlob, Options, Patience, RangeQuery};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};

/// The system's clock, except that a pause passes at once.
#[derive(Debug, Default)]
pub(crate) struct Leaping(AtomicU64);

impl Leaping {
    pub(crate) fn ahead(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn leap(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).expect("is short");
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for Leaping {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::try_from(self.ahead()).expect("is short")
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + self.ahead()
    }

    fn sleep(&self, duration: Duration) {
        self.leap(duration);
    }
}

/// A server with the accounts `acct` (standard) and `prem` (premium); it ends with the test.
pub(crate) struct Server {
    runtime: Option<Runtime>,
    serving: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    pub(crate) address: SocketAddr,
    pub(crate) keys: BTreeMap<String, String>,
    pub(crate) clock: Arc<Leaping>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at(Arc::default())
    }

    pub(crate) fn start_at(clock: Arc<Leaping>) -> Self {
        Self::start_with(clock, tempfile::tempdir().expect("a folder"), None)
    }

    pub(crate) fn start_with(
        clock: Arc<Leaping>,
        folder: tempfile::TempDir,
        certificate: Option<Arc<strongroom_http::Shown>>,
    ) -> Self {
        let options = strongroom_storage::Options::new(clock.clone(), Arc::new(SystemEntropy));
        let storage = Storage::open(folder.path(), options).expect("opens");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (stop, stopped) = watch::channel(false);
        let (serving, address) =
            runtime.block_on(Serve::plain(([127, 0, 0, 1], 0).into())).expect("listens");
        let serving = Serve { certificate, ..serving };
        let mut keys = BTreeMap::new();
        for (name, kind) in [("acct", AccountKind::Standard), ("prem", AccountKind::Premium)] {
            let create = Command::Create {
                name: name.to_owned(),
                kind,
                redundancy: None,
                rules: true,
                endpoint: format!("http://{address}"),
            };
            let Reply::Keys(account) = execute(storage.store(), &create, &SystemEntropy) else {
                panic!("no account")
            };
            keys.insert(name.to_owned(), account.keys[0].value.clone());
        }
        let serving = runtime.spawn(async move {
            serve(storage, serving, stopped).await.expect("serves");
        });
        Self {
            runtime: Some(runtime),
            serving: Some(serving),
            stop,
            address,
            keys,
            clock,
            _folder: folder,
        }
    }

    /// A client of an account, at the server or at a proxy before it.
    pub(crate) fn client_at(&self, account: &str, address: SocketAddr, tries: u32) -> Client {
        let connection = self.connection(account, &format!("http://{address}/{account}"));
        client_of(connection, self.clock.clone(), tries)
    }

    pub(crate) fn connection(&self, account: &str, endpoint: &str) -> ConnectionString {
        let key = &self.keys[account];
        let text = format!("AccountName={account};AccountKey={key};BlobEndpoint={endpoint}");
        ConnectionString::parse(&text).expect("a connection string")
    }

    pub(crate) fn client(&self, account: &str) -> Client {
        self.client_at(account, self.address, 4)
    }
}

/// A client that tries so often.
pub(crate) fn client_of(connection: ConnectionString, clock: Arc<Leaping>, tries: u32) -> Client {
    let patience = Patience { tries, ..Patience::default() };
    let options = Options::new(connection, clock, Arc::new(SystemEntropy));
    Client::new(Options { patience, ..options }).expect("a client")
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send(true).ok();
        if let (Some(runtime), Some(serving)) = (self.runtime.take(), self.serving.take()) {
            runtime.block_on(serving).ok();
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

pub(crate) fn container(name: &str) -> ContainerName {
    ContainerName::new(name).expect("a name")
}

pub(crate) fn path(container_name: &str, blob: &str) -> BlobPath {
    BlobPath { container: container(container_name), name: BlobName::new(blob).expect("a name") }
}

/// A client of `acct` with the container `disks`, and a page blob in it.
pub(crate) fn with_disk(client: &Client, blob: &str, length: u64) -> BlobPath {
    let path = path("disks", blob);
    client.create_container(&path.container, &Metadata::default()).ok();
    let new = NewPageBlob { length, ..NewPageBlob::default() };
    client.create_page_blob(&path, &new, &BlobWrite::default()).expect("creates");
    path
}

pub(crate) fn put(client: &Client, path: &BlobPath, offset: u64, bytes: impl Into<Bytes>) {
    client.put_pages(path, offset, bytes.into(), &BlobWrite::default()).expect("writes");
}

pub(crate) fn take(client: &Client, path: &BlobPath) -> SnapshotId {
    client.snapshot(path, &Metadata::default(), &BlobWrite::default()).expect("a snapshot")
}

pub(crate) fn at(snapshot: SnapshotId) -> ReadBlob {
    ReadBlob { snapshot: Some(snapshot), ..ReadBlob::default() }
}

/// Ranges with content, those that touch as one.
pub(crate) fn ranges(client: &Client, path: &BlobPath, read: &ReadBlob) -> Vec<(u64, u64)> {
    let query = RangeQuery { read: read.clone(), ..RangeQuery::default() };
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for listed in client.pages(path, query) {
        let range = listed.expect("a range").range;
        match ranges.last_mut() {
            Some(last) if last.1 == range.offset() => last.1 = range.end(),
            _ => ranges.push((range.offset(), range.end())),
        }
    }
    ranges
}

/// All bytes.
pub(crate) fn content(client: &Client, path: &BlobPath, read: &ReadBlob) -> Vec<u8> {
    let length = client.properties(path, read).expect("is there").length;
    let mut bytes = Vec::new();
    while wide(bytes.len()) < length {
        let start = wide(bytes.len());
        let range = strongroom_base::ByteRange::between(start, length.min(start + (4 << 20)));
        bytes.extend_from_slice(&client.get(path, read, range).expect("bytes"));
    }
    bytes
}

/// The snapshots of a blob, the oldest first.
pub(crate) fn snapshots(client: &Client, blob: &BlobPath) -> Vec<SnapshotId> {
    let query = BlobQuery { snapshots: true, ..BlobQuery::default() };
    let listed = client.blobs(&blob.container, query).map(|entry| entry.expect("an entry"));
    let of_blob = |entry| match entry {
        BlobEntry::Blob(listed) if listed.name == blob.name.as_str() => listed.snapshot,
        _ => None,
    };
    listed.filter_map(of_blob).collect()
}

pub(crate) fn wide(length: usize) -> u64 {
    u64::try_from(length).expect("fits")
}
