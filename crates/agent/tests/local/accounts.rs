//! Storage accounts that are served in this process, as a host serves them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, mpsc::channel},
    thread::JoinHandle,
};

use strongroom_agent::ServedAccounts;
use strongroom_azure::{
    BlobName, BlobPath, BlobWrite, ConnectionString, ContainerName, Metadata, SnapshotId,
};
use strongroom_base::{Cancel, SystemClock, SystemEntropy, start_thread};
use strongroom_orders::Result;
use strongroom_storage::{
    CopyFolders, Run, StorageError, Tuning,
    admin::{self, AccountKind, Command, Reply},
};
use strongroom_storage_client::{Client, NewPageBlob, Options};

/// The accounts `disks` and `backups`; they end with the test.
pub(crate) struct Accounts {
    folder: tempfile::TempDir,
    stop: Cancel,
    served: Option<JoinHandle<Result<(), StorageError>>>,
    pub(crate) strings: BTreeMap<&'static str, String>,
}

impl Accounts {
    pub(crate) fn serve() -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let stop = Cancel::new();
        let (say, said) = channel();
        let run = Run {
            data_dir: folder.path().to_owned(),
            folders: CopyFolders::default(),
            tuning: Tuning::default(),
            listen: ([127, 0, 0, 1], 0).into(),
            host: "here".to_owned(),
            tls: false,
            suffixes: Vec::new(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            stop: stop.clone(),
            announce: Box::new(move |address, _, _| say.send(address).expect("somebody waits")),
        };
        let served = start_thread("accounts", move || strongroom_storage::run(run));
        let address = said.recv().expect("it listens");
        let mut accounts = Self { folder, stop, served: Some(served), strings: BTreeMap::new() };
        for name in ["disks", "backups"] {
            let create = Command::Create {
                name: name.to_owned(),
                kind: AccountKind::Standard,
                redundancy: None,
                rules: true,
                endpoint: format!("http://{address}"),
            };
            let Reply::Keys(made) = accounts.ask(&create) else { panic!("no account") };
            accounts.strings.insert(name, made.connection_string.clone());
            let vms = ContainerName::new("vms").expect("a name");
            accounts.of(name).create_container(&vms, &Metadata::default()).expect("a container");
        }
        Arc::new(accounts)
    }

    fn ask(&self, command: &Command) -> Reply {
        let folder: PathBuf = self.folder.path().to_owned();
        let (clock, entropy): (Arc<dyn strongroom_base::Clock>, Arc<dyn strongroom_base::Entropy>) =
            (Arc::new(SystemClock), Arc::new(SystemEntropy));
        admin::run(&folder, command, &clock, &entropy).expect("a reply")
    }

    /// A client of an account.
    pub(crate) fn of(&self, account: &str) -> Client {
        let connection = ConnectionString::parse(&self.strings[account]).expect("a string");
        let options = Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy));
        Client::new(options).expect("a client")
    }

    /// Writes a block of 64 KiB of a blob of `disks`, which is made of 4 MiB if it is not there.
    pub(crate) fn write(&self, blob: &str, block: u64, byte: u8) {
        let (client, path) = (self.of("disks"), path(blob));
        if client.find(&path, None).expect("an answer").is_none() {
            let new = NewPageBlob { length: 4 << 20, ..NewPageBlob::default() };
            client.create_page_blob(&path, &new, &BlobWrite::default()).expect("a blob");
        }
        let noise: Vec<u8> = (0..65536_u32).map(|at| at.to_le_bytes()[0] ^ byte).collect();
        client.put_pages(&path, block << 16, noise.into(), &BlobWrite::default()).expect("writes");
    }

    /// The snapshots of a blob of `disks`, the oldest first.
    pub(crate) fn snapshots(&self, blob: &str) -> Vec<SnapshotId> {
        let taken = self.of("disks").snapshots(&path(blob)).expect("a list");
        taken.into_iter().map(|taken| taken.id).collect()
    }
}

/// A blob of the container `vms`.
pub(crate) fn path(blob: &str) -> BlobPath {
    let container = ContainerName::new("vms").expect("a name");
    BlobPath { container, name: BlobName::new(blob).expect("a name") }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            served.join().expect("ends").expect("well");
        }
    }
}

impl ServedAccounts for Accounts {
    fn client(&self, account: &str, cancel: &Cancel) -> Result<Client> {
        let connection = ConnectionString::parse(&self.strings[account]).expect("a string");
        let options = Options::new(connection, Arc::new(SystemClock), Arc::new(SystemEntropy));
        Ok(Client::new(Options { cancel: cancel.clone(), ..options }).expect("a client"))
    }

    fn snapshot(&self, blobs: &[(String, Metadata)]) -> Result<SnapshotId> {
        let pairs = |metadata: &Metadata| {
            metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let blobs = blobs.iter().map(|(blob, metadata)| (blob.clone(), pairs(metadata))).collect();
        match self.ask(&Command::Snapshot { blobs }) {
            Reply::Snapshot { snapshot } => Ok(snapshot.parse().expect("a snapshot")),
            other => panic!("{other:?}"),
        }
    }
}
