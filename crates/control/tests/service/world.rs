//! The service in a world of its own: time that is set by hand, and what there is outside, in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{self as api, HostCreate, Item, KeyReference, Vault, VaultCreate, Verdict};
use strongroom_base::{Clock, SystemEntropy};
use strongroom_catalog::testing::Bed;
use strongroom_control::{
    AlertFilter, Control, PageRequest, Parts, Settings, clock::Reading, model::SCHEMA,
    notify::Channel, rights::Caller,
};

use crate::{
    files::Files,
    outside::{Host, Machine, Named, Shared, Vaults},
};

pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;

/// A clock that is set by hand.
pub(crate) struct Hand(Mutex<Timestamp>);

impl Hand {
    pub(crate) fn at(time: &str) -> Self {
        Self(Mutex::new(time.parse().expect("a time")))
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("locks")
    }

    fn monotonic(&self) -> Duration {
        let since = self.now().duration_since(Timestamp::UNIX_EPOCH);
        Duration::try_from(since).expect("after 1970")
    }

    fn sleep(&self, _: Duration) {}
}

/// The service that runs; there is none while it is started again.
pub(crate) struct Served(Option<Arc<Control>>);

impl std::ops::Deref for Served {
    type Target = Arc<Control>;

    fn deref(&self) -> &Arc<Control> {
        self.0.as_ref().expect("the service runs")
    }
}

/// The service in its world.
pub(crate) struct World {
    pub(crate) control: Served,
    pub(crate) shared: Arc<Shared>,
    pub(crate) admin: Caller,
    bed: Bed,
    settings: Settings,
    boot: Arc<Mutex<SignedDuration>>,
}

impl World {
    /// A new one, on the first of March 2026, with a host and the vault `main`.
    pub(crate) async fn new(bed: Bed) -> Self {
        Self::with_channels(bed, Vec::new()).await
    }

    /// One that tells of its alerts.
    pub(crate) async fn with_channels(bed: Bed, channels: Vec<Arc<dyn Channel>>) -> Self {
        let clock = Arc::new(Hand::at("2026-03-01T12:00:00Z"));
        let shared = Arc::new(Shared {
            outside: Mutex::default(),
            accounts: Arc::default(),
            clock,
            channels,
        });
        let settings = Settings {
            reclaim_every_hours: 0,
            measure_every_hours: 0,
            verify_every_hours: 0,
            save_every_minutes: 0,
            ..Settings::default()
        };
        let boot = Arc::new(Mutex::new(SignedDuration::ZERO));
        let control = Self::start(&bed, &shared, &settings, &boot).await;
        let world = Self {
            control: Served(Some(control)),
            shared,
            admin: Caller::system(),
            bed,
            settings,
            boot,
        };
        let host = HostCreate {
            name: "here".to_owned(),
            connect: None,
            max_jobs: Some(50),
            snapshot_vault: None,
        };
        world.control.create_host(&world.admin, host).await.expect("a host");
        world.vault("main").await;
        world
    }

    async fn start(
        bed: &Bed,
        shared: &Arc<Shared>,
        settings: &Settings,
        boot: &Arc<Mutex<SignedDuration>>,
    ) -> Arc<Control> {
        // What the old process was doing may take a moment to end.
        let mut tries = 0;
        let catalog = loop {
            match bed.open(&SCHEMA).await {
                Err(strongroom_catalog::Error::InUse { .. }) if tries < 500 => tries += 1,
                opened => break opened.expect("opens"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let (clock, boot) = (Arc::clone(&shared.clock), Arc::clone(boot));
        let timer: Arc<dyn Clock> = clock.clone();
        Control::new(Parts {
            catalog,
            agents: Arc::new(Host(Arc::clone(shared))),
            keeper: Arc::new(Vaults(Arc::clone(shared))),
            files: Arc::new(Files),
            accounts: Some(shared.accounts.clone()),
            places: Arc::new(Named),
            clock: timer,
            readings: Arc::new(move || {
                let wall = clock.now();
                let jumped = *boot.lock().expect("locks");
                let real = wall.checked_sub(jumped).expect("a time");
                let up = real.duration_since(Timestamp::UNIX_EPOCH);
                let uptime = Duration::try_from(up).expect("after 1970");
                Reading { wall, boot: "boot".to_owned(), uptime }
            }),
            entropy: Arc::new(SystemEntropy),
            channels: shared.channels.clone(),
            adopt: |_, _| {},
            settings: settings.clone(),
        })
    }

    /// The server is started again with other settings.
    pub(crate) async fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.restart().await;
    }

    /// The server dies and is started again.
    pub(crate) async fn restart(&mut self) {
        let catalog = self.control.catalog().clone();
        self.control.0 = None;
        catalog.close().await;
        self.control.0 =
            Some(Self::start(&self.bed, &self.shared, &self.settings, &self.boot).await);
        self.control.recover().await.expect("recovers");
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Time passes.
    pub(crate) fn pass(&self, seconds: i64) {
        let mut now = self.shared.clock.0.lock().expect("locks");
        *now = now.checked_add(SignedDuration::from_secs(seconds)).expect("a time");
    }

    /// What another server on the same catalog does.
    pub(crate) async fn elsewhere(&self, sql: &str) {
        self.bed.run_sql(sql).await.expect("runs");
    }

    /// The clock is set, and no time passes.
    pub(crate) fn jump(&self, seconds: i64) {
        self.pass(seconds);
        let mut boot = self.boot.lock().expect("locks");
        *boot += SignedDuration::from_secs(seconds);
    }

    /// All that is due is done.
    pub(crate) async fn settle(&self) {
        self.control.settle().await.expect("settles");
        self.control.keep_house().await.expect("keeps house");
        self.control.settle().await.expect("settles");
    }

    /// So many days pass, hour by hour.
    pub(crate) async fn days(&self, days: i64) {
        for _ in 0..days * 24 {
            self.pass(HOUR);
            self.control.settle().await.expect("settles");
        }
        self.settle().await;
    }

    pub(crate) async fn vault(&self, name: &str) -> Vault {
        let request = VaultCreate {
            name: name.to_owned(),
            url: Some(format!("/vaults/{name}")),
            redundancy: None,
            mirrors: Vec::new(),
            key: Some(KeyReference::File("/key".to_owned())),
            soft_delete: None,
            immutability: None,
            recompress: None,
            single_writer: false,
            tags: BTreeMap::new(),
        };
        self.control.create_vault(&self.admin, request).await.expect("a vault").value
    }

    /// A machine of the host.
    pub(crate) fn machine(&self, name: &str) -> String {
        let uuid = format!("uuid-of-{name}");
        let machine = Machine { name: name.to_owned(), verdict: Verdict::Green };
        self.shared.outside().machines.insert(uuid.clone(), machine);
        uuid
    }

    /// A machine that is protected by the default policy of `main`.
    pub(crate) async fn protected(&self, name: &str) -> Item {
        self.machine(name);
        let protect = api::Protect {
            vault: "main".to_owned(),
            host: "here".to_owned(),
            policy: Some("default".to_owned()),
            sources: vec![source(name)],
            backup_now: false,
        };
        let begun = self.control.protect(&self.admin, protect).await.expect("begins");
        self.control.settle().await.expect("settles");
        let job = self.job(begun).await;
        assert_eq!(job.state, api::JobState::Completed, "{job:?}");
        self.item(name).await
    }

    pub(crate) async fn item(&self, name: &str) -> Item {
        self.control.item(&self.admin, name).await.expect("an item").value
    }

    pub(crate) async fn job(&self, id: strongroom_base::JobId) -> api::Job {
        self.control.job(&self.admin, &id.to_string()).await.expect("a job")
    }

    pub(crate) async fn jobs(&self, kind: api::JobKind) -> Vec<api::Job> {
        let which = strongroom_control::jobs::JobFilter { kind: Some(kind), ..Default::default() };
        let at = PageRequest { limit: Some(1000), token: None };
        self.control.jobs(&self.admin, &which, &at).await.expect("jobs").items
    }

    /// Backs an item up now, and waits for it.
    pub(crate) async fn backup(&self, name: &str) -> api::Job {
        let request = api::BackupNow::default();
        let begun = self.control.backup_now(&self.admin, name, request).await.expect("begins");
        self.control.settle().await.expect("settles");
        self.job(begun).await
    }

    pub(crate) async fn points(&self, name: &str) -> Vec<api::RecoveryPoint> {
        let at = PageRequest { limit: Some(1000), token: None };
        self.control.points(&self.admin, name, None, &at).await.expect("points").items
    }

    pub(crate) async fn alerts(&self) -> Vec<api::Alert> {
        let at = PageRequest { limit: Some(1000), token: None };
        self.control.alerts(&self.admin, &AlertFilter::default(), &at).await.expect("alerts").items
    }

    /// Points in the vault `main` itself.
    pub(crate) fn stored(&self) -> usize {
        self.shared.outside().stores["/vaults/main"].points.len()
    }
}

pub(crate) fn source(machine: &str) -> api::ProtectSource {
    api::ProtectSource {
        machine: Some(machine.to_owned()),
        paths: None,
        blobs: None,
        incremental_backup: None,
        name: None,
        disks: api::DiskSelection::All,
    }
}

/// The code of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(of: strongroom_control::Result<T>) -> String {
    of.expect_err("it is refused").body().code.as_str().to_owned()
}
