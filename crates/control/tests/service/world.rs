//! A world in memory: time, a host with machines, vaults.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    path::{Component, Path},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{
    self as api, Check, ConsistencyProved, ErrorBody, Finding, HostCreate, Item, ItemUsage,
    KeyReference, PointDisk, ProtectableItem, Source, TaskState, Vault, VaultCreate, Verdict,
};
use strongroom_base::{Clock, Code, HostId, PointId, SystemEntropy, VaultId, codes};
use strongroom_catalog::testing::Bed;
use strongroom_control::{
    AlertFilter, Control, PageRequest, Parts, Settings, access::Caller, clock::Reading,
    model::SCHEMA, telling::Channel,
};
use strongroom_orders::{
    Absence, AbsentPoint, Agent, Agents, AllowedPlaces, BackupDone, BackupOrder, CheckOrder,
    FinishDone, FinishOrder, HeldPoint, HostFacts, Keeper, NotAllowed, ORDERS_VERSION, PointFacts,
    ReclaimDone, ReclaimOrder, RestoreDone, RestoreOrder, Result, RotateOrder, SavedObject, Tier,
    TransferOrder, UsageFacts, ValidateOrder, VaultAccess, VaultFacts, VaultMake, VerifyDepth,
    VerifyFacts, VerifyOrder, Watch,
};

pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;

/// A clock that is set by hand.
pub(crate) struct Hand(Mutex<Timestamp>);

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

/// A machine of the host.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
}

/// A vault in memory.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) id: Option<VaultId>,
    /// What opens it.
    pub(crate) key: Option<KeyReference>,
    pub(crate) points: BTreeMap<PointId, PointFacts>,
    pub(crate) saved: BTreeMap<String, Vec<u8>>,
    /// Points with deletion notes that somebody else has put.
    pub(crate) hidden: BTreeSet<PointId>,
    /// Until when points are locked.
    pub(crate) locks: BTreeMap<PointId, Timestamp>,
}

/// What there is outside the service.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(crate) struct Outside {
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) stores: HashMap<String, Store>,
    /// What the next backups fail with, in order; none is success.
    pub(crate) backups_fail: VecDeque<Option<&'static Code>>,
    /// What the next transfers fail with, in order; none is success.
    pub(crate) transfers_fail: VecDeque<Option<&'static Code>>,
    /// How many of the next transfers succeed, and whoever ordered them does not hear of it.
    pub(crate) transfers_unheard: u32,
    /// Which vaults restores were made from, in order.
    pub(crate) restored_from: Vec<String>,
    /// How many more objects the service can save; none: as many as it likes.
    pub(crate) saves_left: Option<u32>,
    /// Which replacements were decided, and how.
    pub(crate) finished: Vec<(String, api::RestoreDecision)>,
    /// Replacements were decided on the host itself.
    pub(crate) decided_there: bool,
    /// How deep vaults were verified, in order.
    pub(crate) verified: Vec<VerifyDepth>,
    /// Whether reading packs finds damage.
    pub(crate) is_damaged: bool,
    /// A vault that cannot be reached.
    pub(crate) away: Option<String>,
    /// What validations fail with.
    pub(crate) validation_fails: Option<&'static Code>,
    /// Backups wait for this.
    pub(crate) hold: bool,
    /// Keys are changed, and whoever ordered it hears of it later.
    pub(crate) hold_rotation: bool,
    /// What hosts fail with, whatever they are asked.
    pub(crate) host_fails: Option<&'static Code>,
    /// Whoever asks for a host's agent panics.
    pub(crate) panics: bool,
    /// A backup dies after its point is in the vault, as if the server was killed.
    pub(crate) backups_made: u64,
    pub(crate) restores_made: u64,
}

pub(crate) struct Shared {
    pub(crate) outside: Mutex<Outside>,
    pub(crate) clock: Arc<Hand>,
    pub(crate) channels: Vec<Arc<dyn Channel>>,
}

impl Shared {
    pub(crate) fn outside(&self) -> MutexGuard<'_, Outside> {
        self.outside.lock().expect("locks")
    }
}

fn error(code: &'static Code) -> Box<ErrorBody> {
    Box::new(ErrorBody::new(code, "the world has it so"))
}

fn opens(store: &Store, key: &KeyReference) -> Result<()> {
    let opens = store.key.as_ref().is_none_or(|own| own == key);
    if opens { Ok(()) } else { Err(error(&codes::KEY_WRONG)) }
}

struct Host(Arc<Shared>);

impl Agents for Host {
    fn agent(&self, _: &api::Host) -> Result<Arc<dyn Agent>> {
        let panics = self.0.outside().panics;
        assert!(!panics, "the world has it so");
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

impl Host {
    fn find(&self, source: &Source) -> Result<Machine> {
        let Source::Machine { uuid, name } = source else {
            return Ok(Machine { name: String::new(), verdict: Verdict::Green });
        };
        let outside = self.0.outside();
        let by_name = || outside.machines.values().find(|machine| machine.name == *name);
        let found = outside.machines.get(uuid).or_else(by_name).cloned();
        found.ok_or_else(|| error(&codes::SOURCE_MISSING))
    }
}

impl Agent for Host {
    fn hello(&self) -> Result<HostFacts> {
        Ok(HostFacts {
            host: "here".to_owned(),
            version: "1".to_owned(),
            orders: ORDERS_VERSION,
            libvirt: None,
            qemu: None,
        })
    }

    fn discover(&self, _: &Watch) -> Result<Vec<ProtectableItem>> {
        if let Some(code) = self.0.outside().host_fails {
            return Err(error(code));
        }
        let outside = self.0.outside();
        let item = |(uuid, machine): (&String, &Machine)| ProtectableItem {
            host: HostId::from_bytes([0; 16]),
            name: machine.name.clone(),
            uuid: uuid.clone(),
            state: "running".to_owned(),
            agent: "connected".to_owned(),
            firmware: "bios".to_owned(),
            manager: None,
            disks: Vec::new(),
            protected_by: None,
            discovered: Timestamp::UNIX_EPOCH,
        };
        Ok(outside.machines.iter().map(item).collect())
    }

    fn check(&self, order: &CheckOrder) -> Result<Check> {
        let machine = self.find(&order.source)?;
        let finding = Finding {
            level: machine.verdict.name().to_owned(),
            id: "x".to_owned(),
            what: "it cannot be".to_owned(),
            what_to_do: "nothing".to_owned(),
        };
        let verdict = machine.verdict;
        let findings = if verdict == Verdict::Green { Vec::new() } else { vec![finding] };
        Ok(Check { name: machine.name, verdict, findings })
    }

    fn backup(&self, order: &BackupOrder, watch: &Watch) -> Result<BackupDone> {
        watch.task("snapshot", TaskState::InProgress, None);
        while self.0.outside().hold && !watch.cancel.is_cancelled() {
            #[allow(clippy::disallowed_methods, reason = "the world waits in real time")]
            std::thread::sleep(Duration::from_millis(5));
        }
        if watch.cancel.is_cancelled() {
            return Err(error(&codes::INTERRUPTED));
        }
        self.find(&order.source)?;
        let job = order.job.to_string();
        let mut outside = self.0.outside();
        if let Some(code) = outside.host_fails {
            return Err(error(code));
        }
        if let Some(code) = outside.backups_fail.pop_front().flatten() {
            return Err(error(code));
        }
        let store = outside
            .stores
            .get_mut(&order.vault.url)
            .ok_or_else(|| error(&codes::VAULT_NOT_FOUND))?;
        opens(store, &order.vault.key)?;
        let same = store.points.values().find(|point| point.tags.get("job") == Some(&job));
        let point = same.cloned().unwrap_or_else(|| {
            let mut tags = order.tags.clone();
            tags.insert("job".to_owned(), job);
            let now = self.0.clock.now();
            PointFacts {
                id: PointId::generate(&*self.0.clock, &SystemEntropy),
                item: order.item.clone(),
                time: now,
                completed: now,
                consistency: ConsistencyProved::FileSystem,
                disks: vec![PointDisk {
                    name: "vda".to_owned(),
                    size_bytes: 1 << 30,
                    changed_bytes: 1 << 20,
                }],
                stored_bytes: 1 << 19,
                notes: Vec::new(),
                tags,
                locked_until: order.locked_until,
            }
        });
        store.locks.extend(order.locked_until.map(|until| (point.id, until)));
        store.points.insert(point.id, point.clone());
        watch.progress.add_total(1 << 30);
        watch.progress.advance(3 << 29);
        outside.backups_made += 1;
        watch.task("snapshot", TaskState::Completed, None);
        if order.tier == Tier::Vault {
            watch.task("transfer", TaskState::Completed, None);
        }
        Ok(BackupDone { point, warnings: Vec::new(), report: serde_json::json!({}) })
    }

    fn transfer(&self, order: &TransferOrder, watch: &Watch) -> Result<BackupDone> {
        watch.task("transfer", TaskState::InProgress, None);
        let mut outside = self.0.outside();
        if let Some(code) = outside.transfers_fail.pop_front().flatten() {
            return Err(error(code));
        }
        if outside.away.as_ref() == Some(&order.from.url) {
            return Err(error(&codes::VAULT_NOT_FOUND));
        }
        let from = &outside.stores[&order.from.url].points;
        let was = from.get(&order.point).ok_or_else(|| error(&codes::POINT_NOT_FOUND))?.clone();
        assert_eq!(was.item, order.from_item);
        let to = outside.stores.get_mut(&order.to.url).expect("a vault");
        let of = order.point.to_string();
        let same = to.points.values().find(|point| point.tags.get("copy_of") == Some(&of));
        let point = same.cloned().unwrap_or_else(|| {
            let mut tags = was.tags.clone();
            tags.insert("copy_of".to_owned(), of);
            let id = PointId::generate(&*self.0.clock, &SystemEntropy);
            let locked_until = order.locked_until;
            PointFacts { id, item: order.to_item.clone(), tags, locked_until, ..was }
        });
        to.points.insert(point.id, point.clone());
        if outside.transfers_unheard > 0 {
            outside.transfers_unheard -= 1;
            return Err(error(&codes::STORE_UNAVAILABLE));
        }
        watch.task("transfer", TaskState::Completed, None);
        Ok(BackupDone { point, warnings: Vec::new(), report: serde_json::json!({}) })
    }

    fn restore(&self, order: &RestoreOrder, _: &Watch) -> Result<RestoreDone> {
        let mut outside = self.0.outside();
        if outside.away.as_ref() == Some(&order.vault.url) {
            return Err(error(&codes::STORE_UNAVAILABLE));
        }
        let store = outside.stores.get(&order.vault.url).expect("a vault");
        let point = store.points.get(&order.point).ok_or_else(|| error(&codes::POINT_NOT_FOUND))?;
        assert_eq!(point.item, order.item);
        outside.restored_from.push(order.vault.url.clone());
        outside.restores_made += 1;
        Ok(RestoreDone {
            warnings: Vec::new(),
            safety_point: None,
            report: serde_json::json!({ "recovery_point": order.point }),
        })
    }

    fn finish(&self, order: &FinishOrder) -> Result<FinishDone> {
        let mut outside = self.0.outside();
        if let Some(code) = outside.host_fails {
            return Err(error(code));
        }
        if outside.decided_there {
            return Ok(FinishDone::DecidedBefore);
        }
        outside.finished.push((order.machine.clone(), order.decision));
        Ok(FinishDone::Finished(serde_json::json!({ "machine": order.machine })))
    }
}

struct Vaults(Arc<Shared>);

impl Vaults {
    fn facts_of(&self, store: &Store, existed: bool) -> VaultFacts {
        VaultFacts {
            id: store.id.expect("a vault"),
            mirrors: Vec::new(),
            existed,
            key_changed: self.0.clock.now(),
            free_bytes: Some(1 << 40),
            warnings: Vec::new(),
        }
    }
}

impl Keeper for Vaults {
    fn make(&self, order: &VaultMake) -> Result<VaultFacts> {
        let mut outside = self.0.outside();
        let store = outside.stores.entry(order.url.clone()).or_default();
        let existed = store.id.is_some();
        store.key.get_or_insert_with(|| order.key.clone());
        opens(store, &order.key)?;
        store.id.get_or_insert_with(|| VaultId::generate(&*self.0.clock, &SystemEntropy));
        Ok(self.facts_of(store, existed))
    }

    fn facts(&self, vault: &VaultAccess) -> Result<VaultFacts> {
        let outside = self.0.outside();
        let store = outside.stores.get(&vault.url).ok_or_else(|| error(&codes::VAULT_NOT_FOUND))?;
        Ok(self.facts_of(store, true))
    }

    fn points(
        &self,
        vault: &VaultAccess,
        item: Option<&str>,
    ) -> Result<(Vec<PointFacts>, Vec<ErrorBody>)> {
        let outside = self.0.outside();
        let points = outside.stores[&vault.url].points.values();
        let wanted = points.filter(|point| item.is_none_or(|item| item == point.item));
        Ok((wanted.cloned().collect(), Vec::new()))
    }

    fn validate(&self, order: &ValidateOrder, _: &Watch) -> Result<Vec<String>> {
        let outside = self.0.outside();
        if let Some(code) = outside.validation_fails {
            return Err(error(code));
        }
        let found = outside.stores[&order.vault.url].points.contains_key(&order.point);
        if found { Ok(Vec::new()) } else { Err(error(&codes::POINT_NOT_FOUND)) }
    }

    fn delete_points(
        &self,
        vault: &VaultAccess,
        _: &str,
        points: &[PointId],
        now: Timestamp,
    ) -> Result<Vec<(PointId, Timestamp)>> {
        let mut outside = self.0.outside();
        if outside.away.as_ref() == Some(&vault.url) {
            return Err(error(&codes::STORE_UNAVAILABLE));
        }
        let store = outside.stores.get_mut(&vault.url).expect("a vault");
        let locked = |point: &PointId| store.locks.get(point).copied().filter(|it| *it > now);
        let stay: Vec<_> =
            points.iter().filter_map(|point| Some((*point, locked(point)?))).collect();
        let goes = |point: &PointId| points.contains(point) && locked(point).is_none();
        store.points.retain(|point, _| !goes(point));
        Ok(stay)
    }

    fn lock_points(
        &self,
        vault: &VaultAccess,
        _: &str,
        locks: &[(PointId, Timestamp)],
    ) -> Result<Vec<(PointId, Timestamp)>> {
        let mut outside = self.0.outside();
        let store = outside.stores.get_mut(&vault.url).expect("a vault");
        let mut locked = Vec::new();
        for (point, until) in locks {
            if store.points.contains_key(point) {
                let lock = store.locks.entry(*point).or_insert(*until);
                *lock = *until.max(lock);
                locked.push((*point, *lock));
            }
        }
        Ok(locked)
    }

    fn absent(
        &self,
        vault: &VaultAccess,
        _: Option<&str>,
        expected: &[(String, PointId)],
    ) -> Result<Vec<AbsentPoint>> {
        let outside = self.0.outside();
        let store = &outside.stores[&vault.url];
        let absent = expected.iter().filter_map(|(item, point)| {
            let is_there = store.points.contains_key(point);
            let how = match (is_there, store.hidden.contains(point)) {
                (true, false) => return None,
                (true, true) => Absence::Hidden,
                (false, _) => Absence::Missing,
            };
            Some(AbsentPoint { item: item.clone(), point: *point, how })
        });
        Ok(absent.collect())
    }

    fn reclaim(&self, order: &ReclaimOrder, _: &Watch) -> Result<ReclaimDone> {
        let mut outside = self.0.outside();
        let store = outside.stores.get_mut(&order.vault.url).expect("a vault");
        let mut held = Vec::new();
        for point in store.hidden.clone() {
            let item = store.points.get(&point).map(|point| point.item.clone());
            let locked = store.locks.get(&point).is_some_and(|until| *until > order.now);
            let name = (item.clone().unwrap_or_default(), point);
            if locked || !order.given_up.contains(&name) {
                held.push(HeldPoint { item, point, locked });
            } else {
                store.hidden.remove(&point);
                store.points.remove(&point);
            }
        }
        let report = serde_json::json!({ "freed_bytes": 1 });
        Ok(ReclaimDone { complete: true, held, report })
    }

    fn verify(&self, order: &VerifyOrder, _: &Watch) -> Result<VerifyFacts> {
        let depth = order.depth;
        let mut outside = self.0.outside();
        if outside.away.as_ref() == Some(&order.vault.url) {
            return Err(error(&codes::STORE_UNAVAILABLE));
        }
        outside.verified.push(depth);
        let damaged = u64::from(outside.is_damaged && depth != VerifyDepth::Structure);
        Ok(VerifyFacts {
            is_whole: matches!(depth, VerifyDepth::All | VerifyDepth::Part { of: 1 }),
            damaged_objects: damaged,
            damaged_points: 0,
            verified_packs: 1,
            packs: 1,
            read_bytes: 1,
            damaged: (0..damaged).map(|_| "a pack".to_owned()).collect(),
            report: serde_json::json!({}),
        })
    }

    fn usage(&self, vault: &VaultAccess, _: &Watch) -> Result<UsageFacts> {
        let outside = self.0.outside();
        let points = &outside.stores[&vault.url].points;
        let count = u64::try_from(points.len()).expect("few");
        let mut names: Vec<_> = points.values().map(|point| point.item.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let item = |name: String| ItemUsage {
            item: None,
            name,
            recovery_points: 1,
            protected_bytes: 1 << 30,
            instance_bytes: 60_000_000_000,
            instance_units: 0,
            unique_bytes: 1,
            shared_bytes: 1,
        };
        Ok(UsageFacts {
            recovery_points: count,
            protected_bytes: 1 << 30,
            stored_bytes: count << 20,
            reclaimable_bytes: 0,
            items: names.into_iter().map(item).collect(),
        })
    }

    fn rotate_key(&self, order: &RotateOrder) -> Result<VaultFacts> {
        if let Some(key) = &order.new {
            let mut outside = self.0.outside();
            outside.stores.get_mut(&order.vault.url).expect("a vault").key = Some(key.clone());
        }
        while self.0.outside().hold_rotation {
            #[allow(clippy::disallowed_methods, reason = "the world waits in real time")]
            std::thread::sleep(Duration::from_millis(5));
        }
        self.facts(&order.vault)
    }

    fn make_key_file(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn save(&self, vault: &VaultAccess, name: &str, bytes: &[u8]) -> Result<()> {
        let mut outside = self.0.outside();
        if let Some(left) = &mut outside.saves_left {
            *left = left.checked_sub(1).ok_or_else(|| error(&codes::STORE_UNAVAILABLE))?;
        }
        let store = outside.stores.get_mut(&vault.url).expect("a vault");
        store.saved.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn saved(&self, vault: &VaultAccess) -> Result<Vec<SavedObject>> {
        let outside = self.0.outside();
        let saved = outside.stores[&vault.url].saved.iter();
        let object = |(name, bytes): (&String, &Vec<u8>)| SavedObject {
            name: name.clone(),
            size_bytes: u64::try_from(bytes.len()).expect("small"),
        };
        Ok(saved.map(object).collect())
    }

    fn load(&self, vault: &VaultAccess, name: &str) -> Result<Vec<u8>> {
        let outside = self.0.outside();
        let saved = outside.stores[&vault.url].saved.get(name).cloned();
        saved.ok_or_else(|| error(&codes::STORE_MISSING))
    }

    fn unsave(&self, vault: &VaultAccess, name: &str) -> Result<()> {
        self.0.outside().stores.get_mut(&vault.url).expect("a vault").saved.remove(name);
        Ok(())
    }
}

/// What may be named: disks below `/disks`, and targets below `/restore`.
struct Named;

impl Named {
    fn below(path: &str, folder: &str, setting: &'static str) -> Result<(), NotAllowed> {
        let plain = !Path::new(path).components().any(|part| part == Component::ParentDir);
        if plain && Path::new(path).starts_with(folder) {
            return Ok(());
        }
        let allowed = vec![folder.to_owned()];
        Err(NotAllowed { named: path.to_owned(), setting, allowed })
    }
}

impl AllowedPlaces for Named {
    fn check_vault(&self, url: &str) -> Result<(), NotAllowed> {
        Self::below(url, "/vaults", "vault_dirs")
    }

    fn check_vault_folder(&self, url: &str) -> Result<(), NotAllowed> {
        Self::below(url, "/vaults", "vault_dirs")
    }

    fn check_key(&self, _: &KeyReference) -> Result<(), NotAllowed> {
        Ok(())
    }

    fn check_disk(&self, path: &str) -> Result<(), NotAllowed> {
        Self::below(path, "/disks", "disk_dirs")
    }

    fn check_target(&self, path: &str) -> Result<(), NotAllowed> {
        Self::below(path, "/restore", "restore_dirs")
    }
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
        Self::telling(bed, Vec::new()).await
    }

    /// One that tells of its alerts.
    pub(crate) async fn telling(bed: Bed, channels: Vec<Arc<dyn Channel>>) -> Self {
        let begin: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        let clock = Arc::new(Hand(Mutex::new(begin)));
        let shared = Arc::new(Shared { outside: Mutex::default(), clock, channels });
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
        let job = self.job(begun.job).await;
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
        self.job(begun.job).await
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
        name: None,
        disks: api::DiskSelection::All,
    }
}

/// The code of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(of: strongroom_control::Result<T>) -> String {
    of.expect_err("it is refused").body().code
}
