//! The service: what everything else here works with.
//!
//! This module owns [`Control`] itself: its parts, settings and what it shares in memory. It decides nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use strongroom_api as api;
use strongroom_base::{Clock, Entropy, VaultId, message};
use strongroom_catalog::{Catalog, Lease, ReadTx, Tx};
use strongroom_orders::{
    Agents, AllowedPlaces, Keeper, OrderId, PointFiles, Result as WorkResult, StorageAccounts,
};
use tokio::sync::{Notify, broadcast};

use crate::{
    cause::Adopt,
    clock::Reading,
    error::{ControlError, Result},
    jobs::Limits,
    model::SettingDoc,
    notify::Channel,
    pulse::Pulse,
    readers::Readers,
    rights::{Caller, Operation, Target, forbidden},
    work::drivers::Drivers,
};

/// What the operator has set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many jobs run at once.
    pub limits: Limits,
    /// The folder for what the server makes: vaults without a place, their keys.
    pub data_dir: std::path::PathBuf,
    /// Days for which ended jobs are kept.
    pub job_history_days: u32,
    /// All of a disk is read and compared at least once in this number of backups; 0: only where needed.
    pub full_compare_every: u32,
    /// Bytes a second that one job reads or writes at most.
    pub limit_rate: Option<u64>,
    /// Hours between two reclaims of a vault; 0: only on demand.
    pub reclaim_every_hours: u32,
    /// Hours between two measurements of a vault; 0: only on demand.
    pub measure_every_hours: u32,
    /// Hours between two looks at the structure of a vault; 0: only on demand.
    pub verify_every_hours: u32,
    /// Days in which all of a vault is read; 0: only on demand.
    pub verify_all_days: u32,
    /// Minutes between two copies of the catalog in each vault, if something changed; 0: none.
    pub save_every_minutes: u32,
    /// Seconds that alerts wait for others, to be sent together.
    pub alert_bundle_seconds: u32,
    /// Seconds that the secondary of storage accounts may be behind, or out of contact.
    pub storage_lag_seconds: u32,
    /// How many processes read file systems of recovery points at once.
    pub file_readers: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            data_dir: "/var/lib/strongroom".into(),
            job_history_days: 400,
            full_compare_every: 30,
            limit_rate: None,
            reclaim_every_hours: 24,
            measure_every_hours: 24,
            verify_every_hours: 24,
            verify_all_days: 30,
            save_every_minutes: 60,
            alert_bundle_seconds: 30,
            storage_lag_seconds: 300,
            file_readers: 4,
        }
    }
}

/// What the service is made of.
pub struct Parts {
    /// What it knows.
    pub catalog: Catalog,
    /// Who works on hosts.
    pub agents: Arc<dyn Agents>,
    /// Who works on vaults.
    pub keeper: Arc<dyn Keeper>,
    /// Who reads files of recovery points.
    pub files: Arc<dyn PointFiles>,
    /// Who has the storage accounts open; none if this server serves none.
    pub accounts: Option<Arc<dyn StorageAccounts>>,
    /// What may be named.
    pub places: Arc<dyn AllowedPlaces>,
    /// The clock of schedules and retries.
    pub clock: Arc<dyn Clock>,
    /// Where readings of the system's clocks come from.
    pub readings: Arc<dyn Fn() -> Reading + Send + Sync>,
    /// The source of random ids and tokens.
    pub entropy: Arc<dyn Entropy>,
    /// How alerts reach people and programs outside.
    pub channels: Vec<Arc<dyn Channel>>,
    /// How a job's span becomes part of the trace of what asked for it.
    pub adopt: Adopt,
    /// What the operator has set.
    pub settings: Settings,
}

/// The service.
pub struct Control {
    pub(crate) catalog: Catalog,
    pub(crate) agents: Arc<dyn Agents>,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) files: Arc<dyn PointFiles>,
    pub(crate) accounts: Option<Arc<dyn StorageAccounts>>,
    pub(crate) places: Arc<dyn AllowedPlaces>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) readings: Arc<dyn Fn() -> Reading + Send + Sync>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) channels: Vec<Arc<dyn Channel>>,
    pub(crate) adopt: Adopt,
    pub(crate) settings: Settings,
    /// The lease under which everything is changed, if several servers can reach the catalog.
    fence: OnceLock<Lease>,
    pub(crate) started: Timestamp,
    /// Notified when there may be something to do.
    pub(crate) wake: Notify,
    /// Gets every change of a job.
    pub(crate) job_events: broadcast::Sender<api::Job>,
    /// The way to the owner of the jobs at work.
    pub(crate) drivers: Arc<Drivers>,
    /// It is being stopped: jobs that are left now did not fail.
    pub(crate) stopping: AtomicBool,
    /// A policy may want a recovery point booted since it was looked at last.
    pub(crate) boots_due: AtomicBool,
    pub(crate) progress: Mutex<crate::work::progress::Known>,
    pub(crate) trusted: Mutex<crate::time::Trusted>,
    pub(crate) sign_ins: crate::access::sign_in::SignIns,
    pub(crate) known: crate::access::known::Known,
    pub(crate) used: crate::access::used::Used,
    pub(crate) pulse: Pulse,
    /// Those who read files.
    pub(crate) readers: Readers,
    /// Figures of points, as they were counted last.
    pub(crate) points: Mutex<HashMap<VaultId, crate::figures::PointFigures>>,
    /// Vaults in which the catalog is to be saved.
    pub(crate) unsaved: Mutex<crate::saved::Unsaved>,
}

impl Control {
    /// The service, of these parts; nothing runs yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { catalog, agents, keeper, files, accounts, places, clock, readings, .. } = parts;
        let entropy = parts.entropy;
        let (channels, adopt, settings) = (parts.channels, parts.adopt, parts.settings);
        Arc::new(Self {
            started: clock.now(),
            catalog,
            agents,
            keeper,
            files,
            readers: Readers::new(settings.file_readers),
            accounts,
            places,
            clock,
            readings,
            entropy,
            channels,
            adopt,
            settings,
            fence: OnceLock::new(),
            wake: Notify::new(),
            job_events: broadcast::channel(1024).0,
            drivers: Arc::default(),
            stopping: AtomicBool::new(false),
            boots_due: AtomicBool::new(true),
            progress: Mutex::default(),
            unsaved: Mutex::default(),
            points: Mutex::default(),
            trusted: Mutex::default(),
            sign_ins: crate::access::sign_in::SignIns::default(),
            known: crate::access::known::Known::default(),
            used: crate::access::used::Used::default(),
            pulse: Pulse::default(),
        })
    }

    /// What it knows.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// From now on, everything is changed under this lease: once another server holds it, nothing is
    /// changed any more ([`strongroom_catalog::Error::LeaseLost`]).
    pub fn fence(&self, lease: Lease) {
        // The first stays: there is one lease in the life of a server.
        self.fence.set(lease).ok();
    }

    /// Fails if another server holds the lease.
    pub(crate) async fn check_fence(&self, tx: &mut Tx) -> Result<()> {
        match self.fence.get() {
            Some(lease) => Ok(tx.check_lease(lease).await?),
            None => Ok(()),
        }
    }

    /// What the operator has set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it counts of itself.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// When it was started.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// How long ago the last round of the scheduler ended well; none: no one did yet.
    pub fn since_round(&self) -> Option<std::time::Duration> {
        self.pulse.since_round(self.clock.monotonic())
    }

    /// The clock that it was given.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The chance that it was given.
    pub fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The id of an order of no job.
    pub(crate) fn order_once(&self) -> OrderId {
        OrderId::once(&*self.clock, &*self.entropy)
    }

    /// Every change of a job from now on. Who is too slow misses some.
    pub fn job_events(&self) -> broadcast::Receiver<api::Job> {
        self.job_events.subscribe()
    }

    /// Refuses what a caller may not do. What it may not even see does not exist.
    #[allow(clippy::unused_self, reason = "a step of the service")]
    pub(crate) fn check(
        &self,
        caller: &Caller,
        operation: Operation,
        target: Target,
        missing: impl FnOnce() -> ControlError,
    ) -> Result<()> {
        if caller.may(operation, target) {
            return Ok(());
        }
        let view = match target {
            Target::Server => Operation::ViewServer,
            Target::Host(_) => Operation::ViewHost,
            Target::Vault(_) => Operation::ViewVault,
            Target::Item(..) => Operation::ViewItem,
        };
        if caller.may(view, target) || matches!(target, Target::Server) {
            return Err(forbidden(caller, operation));
        }
        Err(missing())
    }

    /// Runs blocking work where it may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> WorkResult<T> + Send + 'static,
    ) -> WorkResult<T> {
        // What is logged there belongs to the same request or job.
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
            Ok(done) => done,
            Err(error) => {
                let words = message!(
                    BUG,
                    "a worker ended unexpectedly: {error}",
                    error = error.to_string()
                );
                Err(Box::new(api::ErrorBody::from(words)))
            }
        }
    }

    /// Something that the service remembers of itself.
    pub(crate) async fn setting<T: DeserializeOwned>(
        tx: &mut ReadTx,
        name: &str,
    ) -> Result<Option<T>> {
        let stored = tx.get::<SettingDoc>(name).await?;
        // What an earlier version wrote otherwise counts as not there.
        Ok(stored.and_then(|stored| serde_json::from_value(stored.doc.value).ok()))
    }

    /// Remembers it.
    pub(crate) async fn set<T: Serialize + Sync>(tx: &mut Tx, name: &str, value: &T) -> Result<()> {
        let value = serde_json::to_value(value).unwrap_or_default();
        tx.put(&SettingDoc { name: name.to_owned(), value }).await?;
        Ok(())
    }
}
