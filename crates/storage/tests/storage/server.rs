//! A server in this process.

use std::{collections::BTreeMap, ops::Deref, path::Path, sync::Arc, time::Duration};

use crate::client::Client;
use strongroom_azure as azure;
use strongroom_base::{SystemClock, SystemEntropy};
use strongroom_blobs::{AccountChange, AccountKind, Change, Redundancy};
use strongroom_http::Shown;
use strongroom_storage::{
    Options, Serve, Storage,
    admin::{Command, Reply, execute},
    serve,
};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};

/// A server with the accounts `acct` (standard), `prem` (premium) and `geo` (RA-GRS); it ends with the test.
pub(crate) struct Server {
    runtime: Option<Runtime>,
    serving: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    storage: Option<Arc<Storage>>,
    client: Client,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"))
    }

    fn start_in(folder: tempfile::TempDir) -> Self {
        Self::start_with(folder, None)
    }

    pub(crate) fn start_with(folder: tempfile::TempDir, certificate: Option<Arc<Shown>>) -> Self {
        let options = Options {
            secondary: Some(Arc::new(|| azure::ServiceStats {
                status: azure::GeoStatus::Live,
                last_sync: "2026-11-28T16:17:00Z".parse().ok(),
            })),
            ..Options::new(Arc::new(SystemClock), Arc::new(SystemEntropy))
        };
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
        for (name, kind, redundancy) in [
            ("acct", AccountKind::Standard, Redundancy::Lrs),
            ("prem", AccountKind::Premium, Redundancy::Lrs),
            ("geo", AccountKind::Standard, Redundancy::RaGrs),
        ] {
            let endpoint = format!("http://{address}");
            let create = Command::Create {
                name: name.to_owned(),
                kind,
                redundancy: None,
                rules: true,
                endpoint: endpoint.clone(),
            };
            let reply = match execute(storage.store(), &create, &SystemEntropy) {
                Reply::Refused { .. } => {
                    let keys = Command::Keys { name: name.to_owned(), endpoint };
                    execute(storage.store(), &keys, &SystemEntropy)
                }
                reply => reply,
            };
            let Reply::Keys(account) = reply else { panic!("{reply:?}") };
            keys.insert(name.to_owned(), account.keys[0].value.clone());
            // The secondary of this store is kept by other means.
            let change = AccountChange::SetRedundancy(redundancy);
            let change = Change::Account { name: name.to_owned(), change };
            storage.store().apply(change).expect("is changed");
        }
        let served = Arc::clone(&storage);
        let serving = runtime.spawn(async move {
            serve(served, serving, stopped).await.expect("serves");
        });
        Self {
            runtime: Some(runtime),
            serving: Some(serving),
            stop,
            storage: Some(storage),
            client: Client { address, keys },
            folder,
        }
    }

    /// Ends in order, and starts again on the same data at another port.
    pub(crate) fn restart(mut self) -> Self {
        self.end();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        Self::start_in(folder)
    }

    fn end(&mut self) {
        self.stop.send(true).ok();
        if let (Some(runtime), Some(serving)) = (self.runtime.take(), self.serving.take()) {
            runtime.block_on(serving).ok();
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        self.storage = None;
    }

    pub(crate) fn store(&self) -> &strongroom_blobs::Store {
        self.storage.as_ref().expect("is open").store()
    }

    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }
}

impl Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
