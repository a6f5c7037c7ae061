//! The life of the server: from an empty folder to the last answer.
//!
//! ```text
//!  folder, lock ─▶ certificate ─▶ catalog, its lease ─▶ listen ─▶ first host and token ─▶ ready
//!  stop: no more connections ─▶ answers end ─▶ jobs stop, to resume later ─▶ catalog closed
//! ```

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use strongroom_agent::{
    Folders, LocalAgents, LocalKeeper, LocalPointFiles, ThisHost, Tokens, Vaults,
};
use strongroom_api::HostCreate;
use strongroom_base::{Cancel, Clock, SystemClock, SystemEntropy};
use strongroom_catalog::{Catalog, Error as CatalogError};
use strongroom_control::{
    Control, PageRequest, Parts, clock::Reading, model::SCHEMA, rights::Caller,
};
use strongroom_http::{self as http, CertificateFiles, Patience, Proxies, Serving, Shown};
use strongroom_orders::StorageAccounts;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::task::TaskTracker;

use crate::{
    config::ServerConfig,
    error::ServerError,
    first::{FirstToken, WayIn},
    idempotency, notify,
    router::router,
    standby,
    watch::{Metrics, channels, follow_jobs, page, traces},
};

/// How often it is looked whether the certificate has changed or must be generated again.
const CERTIFICATE: Duration = Duration::from_mins(1);

/// How long changes may take that are being made when the server stops.
const ENDING: Duration = Duration::from_secs(30);

/// Connections at once for those that collect numbers.
const PAGE_CONNECTIONS: usize = 16;

/// What the server is started with.
pub struct Serve {
    /// What the operator has set.
    pub config: ServerConfig,
    /// The machine that it runs on.
    pub here: ThisHost,
    /// The storage accounts that this process serves; none if it serves none.
    pub accounts: Option<Arc<dyn StorageAccounts>>,
    /// The socket of the system's manager (`NOTIFY_SOCKET`).
    pub notify: Option<OsString>,
    /// Raised when it should stop.
    pub stop: Cancel,
    /// Tells people something.
    pub announce: Box<dyn Fn(&str) + Send + Sync>,
}

/// Serves until it is to stop.
pub fn serve(serve: Serve) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ServerError::Bug(format!("no threads: {error}")))?;
    runtime.block_on(Box::pin(run(serve)))
}

async fn run(serve: Serve) -> Result<(), ServerError> {
    let Serve { config, here, accounts, notify, stop, announce } = serve;
    let _lock = prepare(&config.data_dir)?;
    let host = here.name.clone();
    let files = config.certificate();
    let shown = if config.tls {
        http::ensure(&files, &config.names(&host), SystemClock.now())?;
        Some(Shown::new(files.clone())?)
    } else {
        None
    };
    let encryption = shown.clone().map(http::encryption).transpose()?;
    let url = config.catalog_url()?;
    let catalog = Catalog::open(&url, &SCHEMA, Arc::new(SystemClock)).await?;
    let control = control(&config, here.clone(), catalog.clone(), accounts)?;
    let lease = if url.is_shared() {
        let id = standby::identity(&config.data_dir, &host, &SystemEntropy)?;
        let waits = |holder: &str| {
            // For the system's manager it is up: it does what it should.
            notify::send_state(notify.as_deref(), "READY=1\nSTATUS=Stands by\n");
            announce(&format!(
                "The server {holder} serves from this catalog. This one stands by, and serves when \
                 that one ends.\n"
            ));
        };
        let Some(lease) = standby::take(&catalog, (&id, &SystemEntropy), &stop, waits).await?
        else {
            catalog.close().await;
            return Ok(());
        };
        control.fence(lease.clone());
        Some(lease)
    } else {
        None
    };
    let mut holding =
        lease.clone().map(|lease| tokio::spawn(standby::keep(Arc::clone(&control), lease)));
    let (listener, address) = http::listen(config.listen).await?;
    let metrics = Arc::new(Metrics::new());
    // The process that carried them out is gone.
    idempotency::end_open(&control).await.map_err(|failure| {
        ServerError::Bug(format!("the catalog cannot be cleaned: {}", failure.code()))
    })?;
    begin(&control, &here).await?;
    let (stopper, stopped) = watch::channel(false);
    let watching = watch(&config, &control, Arc::clone(&metrics), &stopped).await?;
    let greeting = Greeting { config: &config, address, host: &host };
    let fingerprint = if config.tls { Some(files.facts()?.fingerprint) } else { None };
    let first = FirstToken::of(&config.data_dir);
    let way_in = first.way_in(&control).await?;
    announce(&greeting.words(fingerprint.as_deref(), &way_in));
    let removing = tokio::spawn(first.remove_in_time(Arc::clone(&control)));
    let tasks = TaskTracker::new();
    let serving = Serving {
        router: router(control.clone(), stopped.clone(), tasks.clone(), metrics),
        encryption,
        connections: usize::try_from(config.connections).unwrap_or(usize::MAX),
        patience: Patience::USUAL,
        proxies: Proxies::new(&config.trusted_proxies),
    };
    let renewing = shown.map(|shown| tokio::spawn(renew(shown, files, config.clone(), host)));
    // Where servers stand by, it says that this one does not.
    let ready = if lease.is_some() { "READY=1\nSTATUS=Serves\n" } else { "READY=1\n" };
    notify::send_state(notify.as_deref(), ready);
    let serving = live(listener, serving, control, (stopper, stopped), stop, notify, &mut holding);
    let done = serving.await;
    tasks.close();
    if tokio::time::timeout(ENDING, tasks.wait()).await.is_err() {
        tracing::warn!("changes are cut off that did not end");
    }
    let ended =
        watching.into_iter().chain(renewing).chain([removing]).map(|task| task.abort_handle());
    for task in ended.chain(holding.map(|task| task.abort_handle())) {
        task.abort();
    }
    if let Some(lease) = &lease
        && let Err(error) = catalog.release_lease(lease).await
    {
        tracing::warn!(%error, "the lease of the catalog was not released: it expires by itself");
    }
    catalog.close().await;
    done
}

/// Serves and works until it is to stop, the work fails, or the catalog is another server's.
async fn live(
    listener: TcpListener,
    serving: Serving,
    control: Arc<Control>,
    (stopper, stopped): (watch::Sender<bool>, watch::Receiver<bool>),
    stop: Cancel,
    notify: Option<OsString>,
    holding: &mut Option<JoinHandle<CatalogError>>,
) -> Result<(), ServerError> {
    let mut work = tokio::spawn(control.run(stopped.clone()));
    let answering = tokio::spawn(http::serve(listener, serving, stopped));
    let lost = async {
        match holding {
            Some(holding) => holding.await,
            None => std::future::pending().await,
        }
    };
    let (early, lost) = tokio::select! {
        () = stop.cancelled() => (None, None),
        ended = &mut work => (Some(ended), None),
        lost = lost => (None, Some(lost)),
    };
    if lost.is_some() {
        tracing::error!("another server has the catalog: this one stops");
    }
    tracing::info!("the server stops");
    notify::send_state(notify.as_deref(), "STOPPING=1\n");
    stopper.send_replace(true);
    let bug = |error: tokio::task::JoinError| ServerError::Bug(format!("the work ended: {error}"));
    answering.await.map_err(bug)?;
    let ended = match early {
        Some(ended) => ended,
        None => work.await,
    };
    if let Some(lost) = lost {
        return Err(lost.map_err(bug)?.into());
    }
    Ok(ended.map_err(bug)??)
}

/// Begins what is only looked at: numbers of jobs, and the page with all numbers.
async fn watch(
    config: &ServerConfig,
    control: &Arc<Control>,
    metrics: Arc<Metrics>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, ServerError> {
    let following = follow_jobs(Arc::clone(control), Arc::clone(&metrics), stop.clone());
    let mut tasks = vec![tokio::spawn(following)];
    if let Some(address) = config.metrics_listen {
        let (listener, bound) = http::listen(address).await?;
        tracing::info!("metrics are at http://{bound}/metrics");
        let router = page(Arc::clone(control), metrics);
        let serving = Serving {
            router,
            encryption: None,
            connections: PAGE_CONNECTIONS,
            patience: Patience::USUAL,
            proxies: Proxies::default(),
        };
        tasks.push(tokio::spawn(http::serve(listener, serving, stop.clone())));
    }
    Ok(tasks)
}

/// The vaults that the server has open.
pub(crate) fn vaults(config: &ServerConfig, here: &ThisHost) -> Vaults {
    let (modules, process) = (config.pkcs11_modules.clone(), Some(here.module.clone()));
    Vaults::new(Some(config.data_dir.join("cache"))).with_tokens(Tokens { modules, process })
}

/// The service, of this machine's parts.
pub(crate) fn control(
    config: &ServerConfig,
    here: ThisHost,
    catalog: Catalog,
    accounts: Option<Arc<dyn StorageAccounts>>,
) -> Result<Arc<Control>, ServerError> {
    let vaults = Arc::new(vaults(config, &here));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match usize::try_from(config.threads) {
        Ok(0) | Err(_) => processors.min(4),
        Ok(threads) => threads,
    };
    let keeper = LocalKeeper::new(Arc::clone(&vaults), here.name.clone(), threads);
    let files = LocalPointFiles::new(Arc::clone(&vaults), here.file_reader.clone());
    let place = "the configuration".to_owned();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let channels = channels(&config.mail, &config.webhook, &here.name, &clock)
        .map_err(|reason| ServerError::Config { place, reason })?;
    let folders = Folders {
        disks: config.disk_dirs.clone(),
        targets: config.restore_dirs.clone(),
        notes: config.data_dir.join("restores"),
        boots: config.boot_dir.clone(),
    };
    let agents = LocalAgents::new(here, vaults, folders, config.libvirt_sockets.clone(), threads);
    Ok(Control::new(Parts {
        catalog,
        agents: Arc::new(agents),
        keeper: Arc::new(keeper),
        files: Arc::new(files),
        accounts,
        places: Arc::new(config.allowed()),
        clock,
        readings: Arc::new(|| Reading::of_system(&SystemClock)),
        entropy: Arc::new(SystemEntropy),
        channels,
        adopt: traces::adopt,
        settings: config.settings(),
    }))
}

/// Makes the folders, and sees to it that no other server uses them.
pub(crate) fn prepare(data_dir: &Path) -> Result<fs::File, ServerError> {
    for folder in ["", "keys", "tls", "vaults", "cache"] {
        let path = data_dir.join(folder);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(ServerError::local("make", &path))?;
        if folder != "vaults" {
            let own = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&path, own).map_err(ServerError::local("protect", &path))?;
        }
    }
    let path = data_dir.join("lock");
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(ServerError::local("open", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServerError::Running(data_dir.to_owned())),
        Err(error) => Err(ServerError::local("lock", path)(error.into())),
    }
}

/// Before anybody has used the server: it knows the machine that it runs on.
pub(crate) async fn begin(control: &Control, here: &ThisHost) -> Result<(), ServerError> {
    let system = Caller::system();
    let one = PageRequest { limit: Some(1), token: None };
    let used = !control.users(&system, &one).await?.items.is_empty();
    if used || !control.hosts(&system, &one).await?.items.is_empty() {
        return Ok(());
    }
    let request = HostCreate {
        name: here.name.clone(),
        connect: here.connect.clone(),
        max_jobs: None,
        snapshot_vault: None,
    };
    control.create_host(&system, request).await?;
    Ok(())
}

/// Keeps the certificate fresh, for ever.
async fn renew(shown: Arc<Shown>, files: CertificateFiles, config: ServerConfig, host: String) {
    loop {
        tokio::time::sleep(CERTIFICATE).await;
        // The names that it has stay good while the server runs.
        let names = files.facts().map_or_else(|_| config.names(&host), |facts| facts.names);
        if let Err(error) = http::ensure(&files, &names, SystemClock.now()) {
            tracing::error!(%error, "the certificate cannot be renewed");
        }
        shown.refresh();
    }
}

/// What is announced at the start.
struct Greeting<'a> {
    config: &'a ServerConfig,
    address: SocketAddr,
    host: &'a str,
}

impl Greeting<'_> {
    fn url(&self) -> String {
        let scheme = if self.config.tls { "https" } else { "http" };
        if self.address.ip().is_unspecified() {
            format!("{scheme}://{}:{}", self.host, self.address.port())
        } else {
            format!("{scheme}://{}", self.address)
        }
    }

    fn words(&self, fingerprint: Option<&str>, way_in: &WayIn) -> String {
        let url = self.url();
        let shown = fingerprint.map(|it| format!("Its certificate's SHA-256 fingerprint: {it}\n"));
        let words = format!("Strongroom listens on {url}\n{}", shown.unwrap_or_default());
        let trust = fingerprint.map(|it| format!(" --fingerprint {it}")).unwrap_or_default();
        match way_in {
            WayIn::Users => words,
            WayIn::None => format!(
                "{words}\nNobody has a password yet, and no token is left. The owner of the server's folder makes one:\n\n  strongroom server new-token\n\n"
            ),
            WayIn::Token(file) => format!(
                "{words}\nNobody has a password yet. The user admin has all rights, with the token of the first start, which expires after 12 hours. It is in this file until a user is created:\n\n  {}\n\nSign \
                 in with it, here or on another machine, and make a user:\n\n  strongroom context add \
                 home --server {url} --token-file FILE{trust}\n  strongroom access user create \
                 NAME\n\nAnother token is made by `strongroom server new-token`. Programs send it as \
                 `Authorization: Bearer`; what can be asked is described at {url}/v1/openapi.json\n\n",
                file.display(),
            ),
        }
    }
}
