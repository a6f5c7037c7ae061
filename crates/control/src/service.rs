//! The service: what everything else here works with.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool},
};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use strongroom_api as api;
use strongroom_base::{Cancel, Clock, Entropy, HostId, ItemId, JobId, PolicyId, VaultId, codes};
use strongroom_catalog::{Catalog, Document, Filter, Lease, Query, ReadTx, Stored, Tx};
use strongroom_orders::{Agents, AllowedPlaces, Keeper, NotAllowed, OrderId, Result as WorkResult};
use tokio::sync::{Notify, broadcast};

use crate::{
    access::{Caller, Operation, Reach, Target},
    cause::Adopt,
    clock::Reading,
    error::{ControlError, Result},
    jobs::{Claim, Limits},
    model::{HostDoc, ItemDoc, PolicyDoc, SettingDoc, VaultDoc},
    pulse::Pulse,
    telling::Channel,
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
    /// All of a disk is read and compared at least once in so many backups; 0: only where needed.
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
    /// Seconds that alerts wait for others, to be told together.
    pub alert_bundle_seconds: u32,
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
    /// What may be named.
    pub places: Arc<dyn AllowedPlaces>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where readings of the system's clocks come from.
    pub readings: Arc<dyn Fn() -> Reading + Send + Sync>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// How people and programs outside are told of alerts.
    pub channels: Vec<Arc<dyn Channel>>,
    /// How a job's span becomes part of the trace of what asked for it.
    pub adopt: Adopt,
    /// What the operator has set.
    pub settings: Settings,
}

/// A job that runs in this process.
pub(crate) struct Running {
    pub(crate) claim: Claim,
    pub(crate) cancel: Cancel,
}

/// The service.
pub struct Control {
    pub(crate) catalog: Catalog,
    pub(crate) agents: Arc<dyn Agents>,
    pub(crate) keeper: Arc<dyn Keeper>,
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
    /// Told when there may be something to do.
    pub(crate) wake: Notify,
    /// Told of every change of a job.
    pub(crate) job_events: broadcast::Sender<api::Job>,
    pub(crate) running: Mutex<HashMap<JobId, Running>>,
    /// It is being stopped: jobs that are left now did not fail.
    pub(crate) stopping: AtomicBool,
    pub(crate) progress: Mutex<crate::work::progress::Known>,
    pub(crate) trusted: Mutex<crate::time::Trusted>,
    pub(crate) sign_ins: crate::access::sign_in::SignIns,
    pub(crate) known: crate::access::known::Known,
    pub(crate) used: crate::access::used::Used,
    pub(crate) pulse: Pulse,
    /// Figures of points, as they were counted last.
    pub(crate) points: Mutex<HashMap<VaultId, crate::figures::PointFigures>>,
    /// Vaults in which the catalog is to be saved.
    pub(crate) unsaved: Mutex<crate::saved::Unsaved>,
}

impl Control {
    /// The service, of these parts; nothing runs yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { catalog, agents, keeper, places, clock, readings, entropy, .. } = parts;
        let (channels, adopt, settings) = (parts.channels, parts.adopt, parts.settings);
        Arc::new(Self {
            started: clock.now(),
            catalog,
            agents,
            keeper,
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
            running: Mutex::default(),
            stopping: AtomicBool::new(false),
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

    pub(crate) fn running(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
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
                let words = format!("a worker ended unexpectedly: {error}");
                Err(Box::new(api::ErrorBody::new(&codes::BUG, words)))
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

/// The error of somebody who has named what the operator lets nobody name. What may be named is for those
/// who see the server.
pub(crate) fn not_allowed(caller: Option<&Caller>, no: &NotAllowed) -> ControlError {
    let sees = caller.is_none_or(|caller| caller.may(Operation::ViewServer, Target::Server));
    let words = if sees { no.all_words() } else { no.words() };
    ControlError::refused(&codes::PLACE_NOT_ALLOWED, words)
}

/// The error of somebody who lacks a right.
pub(crate) fn forbidden(caller: &Caller, operation: Operation) -> ControlError {
    let place = match operation.reach() {
        Reach::Server => "on the server",
        Reach::Vault => "in the vault",
        Reach::Item => "on the item",
        Reach::Host => "on the host",
    };
    let message = format!(
        "{} may not do this ({}): it takes the role {} {place}",
        caller.name,
        operation.name(),
        operation.role(),
    );
    ControlError::Forbidden { operation: operation.name(), message }
}

/// Cuts a name that somebody has sent, for messages.
pub(crate) fn cut(name: &str) -> String {
    name.chars().take(80).collect()
}

/// Checks a name.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if strongroom_base::check_name(name) {
        return Ok(());
    }
    let message = format!(
        "{what} {:?} is not 1 to 200 bytes of letters and digits of any script, spaces and \
         punctuation without '/' and '\\', beginning with neither '.', '-' nor a space",
        cut(name)
    );
    Err(ControlError::refused(&codes::REQUEST_INVALID, message))
}

/// Checks the name of somebody: no two may look alike, so it is of ASCII.
pub(crate) fn check_user_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= 200 && name.chars().all(good) {
        return Ok(());
    }
    let message = format!(
        "the user's name {:?} is not 1 to 200 letters and digits of ASCII, '.', '_' and '-', \
         starting with a letter or digit",
        cut(name)
    );
    Err(ControlError::refused(&codes::REQUEST_INVALID, message))
}

/// A document by its id, or by its name if it is alone with it.
async fn by_id_or_name<D: Document>(
    tx: &mut ReadTx,
    id: Option<String>,
    filter: Filter,
    name: &str,
) -> Result<Option<Stored<D>>> {
    if let Some(id) = id
        && let Some(found) = tx.get::<D>(&id).await?
    {
        return Ok(Some(found));
    }
    let found = tx.list::<D>(&Query::new(filter.eq("name", name)).limit(2)).await?.items;
    Ok(if found.len() == 1 { found.into_iter().next() } else { None })
}

/// A vault by id or name.
pub(crate) async fn find_vault(tx: &mut ReadTx, name: &str) -> Result<Stored<VaultDoc>> {
    let id = name.parse::<VaultId>().ok().map(|id| id.to_string());
    let found = by_id_or_name(tx, id, Filter::all(), name).await?;
    found.ok_or_else(|| no_vault(name))
}

/// There is no such vault.
pub(crate) fn no_vault(name: impl std::fmt::Display) -> ControlError {
    let name = cut(&name.to_string());
    ControlError::refused(&codes::VAULT_UNKNOWN, format!("there is no vault {name:?}"))
}

/// A host by id or name.
pub(crate) async fn find_host(tx: &mut ReadTx, name: &str) -> Result<Stored<HostDoc>> {
    let id = name.parse::<HostId>().ok().map(|id| id.to_string());
    let found = by_id_or_name(tx, id, Filter::all(), name).await?;
    found.ok_or_else(|| {
        ControlError::refused(&codes::HOST_UNKNOWN, format!("there is no host {:?}", cut(name)))
    })
}

/// A policy of a vault by id or name.
pub(crate) async fn find_policy(
    tx: &mut ReadTx,
    vault: VaultId,
    name: &str,
) -> Result<Stored<PolicyDoc>> {
    let id = name.parse::<PolicyId>().ok().map(|id| id.to_string());
    let filter = Filter::all().eq("vault", vault.to_string());
    let found = by_id_or_name::<PolicyDoc>(tx, id, filter, name).await?;
    found.filter(|found| found.doc.policy.vault == vault).ok_or_else(|| {
        let message = format!("the vault has no policy {:?}", cut(name));
        ControlError::refused(&codes::POLICY_NOT_FOUND, message)
    })
}

/// There is no such item.
pub(crate) fn no_item(name: impl std::fmt::Display) -> ControlError {
    let name = cut(&name.to_string());
    ControlError::refused(&codes::ITEM_UNKNOWN, format!("there is no item {name:?}"))
}

/// An item by id, or by its name if only one vault has it.
pub(crate) async fn find_item(tx: &mut ReadTx, name: &str) -> Result<Stored<ItemDoc>> {
    let id = name.parse::<ItemId>().ok().map(|id| id.to_string());
    let found = by_id_or_name(tx, id, Filter::all(), name).await?;
    found.ok_or_else(|| no_item(name))
}

/// A document that another names: it must be there.
pub(crate) async fn named<D: Document>(
    tx: &mut ReadTx,
    id: impl std::fmt::Display,
) -> Result<Stored<D>> {
    let id = id.to_string();
    tx.get::<D>(&id).await?.ok_or_else(|| {
        let message = format!("{} {id} is gone", D::KIND.table);
        ControlError::refused(&codes::REQUEST_CHANGED, message)
    })
}
