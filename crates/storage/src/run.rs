//! A process that serves storage accounts and nothing else: its threads, its certificate, its end.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use strongroom_base::{Cancel, Clock, Entropy};
use strongroom_http::{self as http, CertificateFiles, Proxies, Shown};
use tokio::sync::watch;

use crate::{CopyFolders, Options, Serve, Storage, StorageError, Tuning, serve};

/// How often the certificate is looked after.
const CERTIFICATE: Duration = Duration::from_hours(1);

/// Gets the address at which a process listens, the fingerprint of its certificate, and the accounts, which end when
/// nobody holds them.
pub type Announce = Box<dyn FnOnce(SocketAddr, Option<&str>, &Arc<Storage>) + Send>;

/// What serves, and where.
pub struct Run {
    /// The folder of the data.
    pub data_dir: PathBuf,
    /// Where copies of it are.
    pub folders: CopyFolders,
    /// How the store works.
    pub tuning: Tuning,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The name of this machine, for its certificate.
    pub host: String,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// Names of domains below which `ACCOUNT.blob.NAME` is an account.
    pub suffixes: Vec<String>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Raised when it should stop.
    pub stop: Cancel,
    /// Called once it listens.
    pub announce: Announce,
}

/// Serves until it is to stop.
pub fn run(run: Run) -> Result<(), StorageError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(StorageError::local("start threads for", &run.data_dir))?;
    runtime.block_on(Box::pin(serve_until_stopped(run)))
}

async fn serve_until_stopped(run: Run) -> Result<(), StorageError> {
    let Run {
        data_dir,
        folders,
        tuning,
        listen,
        host,
        tls,
        suffixes,
        clock,
        entropy,
        stop,
        announce,
    } = run;
    let options = Options::new(Arc::clone(&clock), entropy);
    let options = Options { suffixes: suffixes.clone(), folders, tuning, ..options };
    let storage = Storage::open(&data_dir, options)?;
    let (listener, address) = http::listen(listen).await?;
    let certificate = if tls {
        let files = CertificateFiles::own(&data_dir);
        let more: Vec<String> = suffixes.iter().map(|suffix| format!("*.blob.{suffix}")).collect();
        let names = http::names(&host, listen.ip(), &more);
        http::ensure(&files, &names, clock.now())?;
        let shown = Shown::new(files.clone())?;
        tokio::spawn(renew(Arc::clone(&shown), files.clone(), names, clock));
        Some((shown, files))
    } else {
        None
    };
    let fingerprint = match &certificate {
        Some((_, files)) => Some(files.facts()?.fingerprint),
        None => None,
    };
    announce(address, fingerprint.as_deref(), &storage);
    let (stopper, stopped) = watch::channel(false);
    let serving = Serve {
        listener,
        certificate: certificate.map(|(shown, _)| shown),
        proxies: Proxies::default(),
    };
    let mut serving = tokio::spawn(serve(storage, serving, stopped));
    tokio::select! {
        ended = &mut serving => return joined(ended),
        () = stop.cancelled() => {}
    }
    stopper.send_replace(true);
    joined(serving.await)
}

fn joined(
    ended: Result<Result<(), StorageError>, tokio::task::JoinError>,
) -> Result<(), StorageError> {
    ended.unwrap_or(Err(StorageError::Bug("the task that serves panicked")))
}

/// Keeps the certificate fresh while the process lives.
async fn renew(
    shown: Arc<Shown>,
    files: CertificateFiles,
    names: Vec<String>,
    clock: Arc<dyn Clock>,
) {
    loop {
        tokio::time::sleep(CERTIFICATE).await;
        if let Err(error) = http::ensure(&files, &names, clock.now()) {
            tracing::error!(%error, "the certificate cannot be renewed");
        }
        shown.refresh();
    }
}
