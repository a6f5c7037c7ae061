//! What there is outside the service, in memory: a host with machines, and vaults. It does what orders
//! promise (`orders` tests that), and fails where a test wants it to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    path::{Component, Path},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::Timestamp;
use strongroom_api::{
    self as api, BootOutcome, BootStep, BootWanted, Check, ConsistencyProved, ErrorBody, Finding,
    ItemUsage, KeyReference, Level, PointBoot, PointDisk, ProtectableDisk, ProtectableItem,
    Restore, Source, TaskName, TaskState, Verdict,
};
use strongroom_base::{
    Clock, Code, HostId, JobId, PointId, Suspicion, SystemEntropy, VaultId, codes,
};
use strongroom_control::notify::Channel;
use strongroom_orders::{
    Absence, AbsentPoint, Agent, Agents, AllowedPlaces, BackupDone, BackupOrder, BootDone,
    BootEvidence, BootOrder, CheckOrder, DrillDone, DrillOrder, FinishDone, FinishOrder, HeldPoint,
    HostFacts, IncrementalDone, IncrementalOrder, Keeper, NotAllowed, ORDERS_VERSION, PointFacts,
    ReclaimDone, ReclaimOrder, RestoreDone, RestoreOrder, Result, RotateOrder, SavedObject, Tier,
    TransferOrder, UsageFacts, ValidateOrder, VaultAccess, VaultFacts, VaultMake, VerifyDepth,
    VerifyFacts, VerifyOrder, Watch,
};

use crate::{accounts::Stored, world::Hand};

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
    /// When that was changed last.
    pub(crate) key_changed: Option<Timestamp>,
    pub(crate) points: BTreeMap<PointId, PointFacts>,
    /// Points with deletion notes of the service, which wait for a reclaim.
    pub(crate) deleted: BTreeMap<PointId, PointFacts>,
    pub(crate) saved: BTreeMap<String, Vec<u8>>,
    /// How points boot.
    pub(crate) boots: BTreeMap<PointId, (PointBoot, BootEvidence)>,
    /// Points with deletion notes that somebody else has put.
    pub(crate) hidden: BTreeSet<PointId>,
    /// Until when points are locked.
    pub(crate) locks: BTreeMap<PointId, Timestamp>,
}

impl Store {
    /// A point of an item that is there for everybody to see.
    fn point(&self, item: &str, point: PointId) -> Result<&PointFacts> {
        let found = self.points.get(&point).filter(|found| found.item == item);
        let found = found.filter(|_| !self.hidden.contains(&point));
        found.ok_or_else(|| error(&codes::POINT_NOT_FOUND))
    }

    /// An id after those of all points, as a vault gives it: the clock of these tests may stand still.
    fn new_point(&self, clock: &dyn Clock) -> PointId {
        let fresh = PointId::generate(clock, &SystemEntropy);
        let after = |id: &PointId| {
            PointId::from_bytes(u128::from_be_bytes(id.to_bytes()).saturating_add(1).to_be_bytes())
        };
        self.points.keys().max().map(after).map_or(fresh, |after| after.max(fresh))
    }

    /// A point with this label.
    fn labelled(&self, label: &str, value: &str) -> Option<PointFacts> {
        let is_it = |point: &&PointFacts| point.tags.get(label).is_some_and(|it| it == value);
        self.points.values().find(is_it).cloned()
    }
}

/// What there is outside the service.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(crate) struct Outside {
    pub(crate) machines: BTreeMap<String, Machine>,
    /// Paths of disks that are not there.
    pub(crate) missing_disks: BTreeSet<String>,
    pub(crate) stores: HashMap<String, Store>,
    /// What the next backups fail with, in order; none is success.
    pub(crate) backups_fail: VecDeque<Option<&'static Code>>,
    /// What the next transfers fail with, in order; none is success.
    pub(crate) transfers_fail: VecDeque<Option<&'static Code>>,
    /// How many of the next transfers succeed, and whoever ordered them does not hear of it.
    pub(crate) transfers_unheard: u32,
    /// Why the next boots do not come far enough, in order; none is success.
    pub(crate) boots_fail: VecDeque<Option<&'static str>>,
    /// What the next boot finds damaged data with.
    pub(crate) boot_damage: Option<&'static Code>,
    /// What the boots of points were asked for, in order.
    pub(crate) booted: Vec<(PointId, BootWanted)>,
    /// What makes the next backup's point suspect.
    pub(crate) suspicion: Option<Suspicion>,
    /// Which vaults restores were made from, in order.
    pub(crate) restored_from: Vec<String>,
    /// What was restored, by job.
    restored: BTreeMap<JobId, RestoreDone>,
    /// Machines whose disks were replaced, which is to be accepted or undone.
    replaced: BTreeSet<String>,
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
    /// The host's version of orders, if it is not the service's.
    pub(crate) host_orders: Option<u32>,
    /// Whoever asks for a host's agent panics.
    pub(crate) panics: bool,
    /// Which blobs were backed up to which, by order.
    /// The rate of the last of them.
    pub(crate) incremental_rate: Option<u64>,
    pub(crate) incremental_backups: BTreeMap<String, (String, String, Timestamp)>,
    /// A backup dies after its point is in the vault, as if the server was killed.
    pub(crate) backups_made: u64,
    pub(crate) restores_made: u64,
}

impl Outside {
    /// A vault that can be reached and that the key opens.
    fn open(&mut self, vault: &VaultAccess) -> Result<&mut Store> {
        let store = self.stores.get_mut(&vault.url).filter(|store| store.id.is_some());
        let store = store.ok_or_else(|| error(&codes::VAULT_NOT_FOUND))?;
        opens(store, &vault.key)?;
        Ok(store)
    }

    /// Whether a vault can be reached.
    fn reach(&self, vault: &VaultAccess) -> Result<()> {
        let is_away = self.away.as_ref() == Some(&vault.url);
        if is_away { Err(error(&codes::STORE_UNAVAILABLE)) } else { Ok(()) }
    }
}

pub(crate) struct Shared {
    pub(crate) outside: Mutex<Outside>,
    pub(crate) accounts: Arc<Stored>,
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

/// A report of a kind that no version knows.
fn other(report: serde_json::Value) -> api::Report {
    match report {
        serde_json::Value::Object(fields) => api::Report::Other(fields),
        other => panic!("{other} is no object"),
    }
}

/// Whether an order may go on.
fn goes_on(watch: &Watch) -> Result<()> {
    if watch.cancel.is_cancelled() { Err(error(&codes::INTERRUPTED)) } else { Ok(()) }
}

fn opens(store: &Store, key: &KeyReference) -> Result<()> {
    let opens = store.key.as_ref().is_none_or(|own| own == key);
    if opens { Ok(()) } else { Err(error(&codes::KEY_WRONG)) }
}

fn disk(name: &str) -> PointDisk {
    PointDisk {
        name: name.to_owned(),
        size_bytes: 1 << 30,
        changed_bytes: 1 << 20,
        new_bytes: None,
        incompressible_bytes: None,
    }
}

/// The host.
pub(crate) struct Host(pub(crate) Arc<Shared>);

impl Agents for Host {
    fn agent(&self, _: &api::Host) -> Result<Arc<dyn Agent>> {
        let panics = self.0.outside().panics;
        assert!(!panics, "the world has it so");
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

impl Host {
    fn find(&self, source: &Source) -> Result<Machine> {
        let outside = self.0.outside();
        let found = match source {
            Source::Machine { uuid, name } => {
                let by_name = || outside.machines.values().find(|machine| machine.name == *name);
                outside.machines.get(uuid).or_else(by_name).cloned()
            }
            Source::Disks { disks } => {
                let gone = disks.values().any(|path| outside.missing_disks.contains(path));
                (!gone).then(|| Machine { name: String::new(), verdict: Verdict::Green })
            }
            Source::IncrementalBackup { from, .. } => {
                let gone = outside.missing_disks.contains(&from.blob);
                (!gone).then(|| Machine { name: String::new(), verdict: Verdict::Green })
            }
            Source::Blobs { disks, .. } => {
                let gone = disks.values().any(|blob| outside.missing_disks.contains(blob));
                (!gone).then(|| Machine { name: String::new(), verdict: Verdict::Green })
            }
        };
        found.ok_or_else(|| error(&codes::SOURCE_MISSING))
    }
}

impl Agent for Host {
    fn hello(&self) -> Result<HostFacts> {
        Ok(HostFacts {
            host: "here".to_owned(),
            version: "1".to_owned(),
            orders: self.0.outside().host_orders.unwrap_or(ORDERS_VERSION),
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
            disks: vec![ProtectableDisk {
                name: "vda".to_owned(),
                source: format!("/machines/{}.qcow2", machine.name),
                format: Some("qcow2".to_owned()),
                size_bytes: Some(1 << 30),
                tracks_changes: true,
                os_disk: true,
                left_out: None,
            }],
            protected_by: None,
            discovered: Timestamp::UNIX_EPOCH,
        };
        Ok(outside.machines.iter().map(item).collect())
    }

    fn check(&self, order: &CheckOrder) -> Result<Check> {
        let machine = match (self.find(&order.source), &order.source) {
            // Of disks by path, that one is gone is a finding.
            (
                Err(_),
                Source::Disks { .. } | Source::Blobs { .. } | Source::IncrementalBackup { .. },
            ) => Machine { name: String::new(), verdict: Verdict::Red },
            (found, _) => found?,
        };
        let finding = Finding {
            level: if machine.verdict == Verdict::Red { Level::Red } else { Level::Amber },
            id: "x".to_owned(),
            what: "it cannot be".to_owned(),
            what_to_do: "nothing".to_owned(),
        };
        let verdict = machine.verdict;
        let findings = if verdict == Verdict::Green { Vec::new() } else { vec![finding] };
        Ok(Check { name: machine.name, verdict, findings })
    }

    fn backup(&self, order: &BackupOrder, watch: &Watch) -> Result<BackupDone> {
        watch.task(TaskName::Snapshot, TaskState::InProgress, None);
        while self.0.outside().hold && !watch.cancel.is_cancelled() {
            #[allow(clippy::disallowed_methods, reason = "the world waits in real time")]
            std::thread::sleep(Duration::from_millis(5));
        }
        goes_on(watch)?;
        self.find(&order.source)?;
        let job = order.job.to_string();
        let mut outside = self.0.outside();
        if let Some(code) = outside.host_fails {
            return Err(error(code));
        }
        if let Some(code) = outside.backups_fail.pop_front().flatten() {
            return Err(error(code));
        }
        let suspicion = outside.suspicion.take();
        let store = outside.open(&order.vault)?;
        let point = store.labelled("job", &job).unwrap_or_else(|| {
            let mut tags = order.tags.clone();
            tags.insert("job".to_owned(), job);
            let now = self.0.clock.now();
            let (consistency, disks) = match &order.source {
                Source::Machine { .. } => (ConsistencyProved::FileSystem, vec![disk("vda")]),
                Source::IncrementalBackup { .. } => panic!("it makes no point"),
                Source::Disks { disks } | Source::Blobs { disks, .. } => {
                    (ConsistencyProved::Crash, disks.keys().map(|name| disk(name)).collect())
                }
            };
            PointFacts {
                id: store.new_point(&*self.0.clock),
                item: order.item.clone(),
                time: now,
                completed: now,
                consistency,
                disks,
                stored_bytes: 1 << 19,
                notes: Vec::new(),
                tags,
                locked_until: order.locked_until,
                suspicion,
            }
        });
        store.locks.extend(order.locked_until.map(|until| (point.id, until)));
        store.points.insert(point.id, point.clone());
        watch.progress.add_total(1 << 30);
        watch.progress.advance(3 << 29);
        outside.backups_made += 1;
        watch.task(TaskName::Snapshot, TaskState::Completed, None);
        if order.tier == Tier::Vault {
            watch.task(TaskName::Transfer, TaskState::Completed, None);
        }
        Ok(BackupDone { point, warnings: Vec::new(), report: api::Report::default() })
    }

    fn transfer(&self, order: &TransferOrder, watch: &Watch) -> Result<BackupDone> {
        watch.task(TaskName::Transfer, TaskState::InProgress, None);
        goes_on(watch)?;
        let mut outside = self.0.outside();
        if let Some(code) = outside.transfers_fail.pop_front().flatten() {
            return Err(error(code));
        }
        let of = order.point.to_string();
        let same = outside.open(&order.to)?.labelled("copy_of", &of);
        let point = if let Some(same) = same {
            same
        } else {
            if outside.away.as_ref() == Some(&order.from.url) {
                return Err(error(&codes::VAULT_NOT_FOUND));
            }
            let was = outside.open(&order.from)?.point(&order.from_item, order.point)?.clone();
            let mut tags = was.tags.clone();
            tags.insert("copy_of".to_owned(), of);
            let id = outside.open(&order.to)?.new_point(&*self.0.clock);
            let locked_until = order.locked_until;
            PointFacts { id, item: order.to_item.clone(), tags, locked_until, ..was }
        };
        let to = outside.open(&order.to)?;
        to.locks.extend(order.locked_until.map(|until| (point.id, until)));
        to.points.insert(point.id, point.clone());
        if outside.transfers_unheard > 0 {
            outside.transfers_unheard -= 1;
            return Err(error(&codes::STORE_UNAVAILABLE));
        }
        watch.task(TaskName::Transfer, TaskState::Completed, None);
        Ok(BackupDone { point, warnings: Vec::new(), report: api::Report::default() })
    }

    fn incremental_backup(
        &self,
        order: &IncrementalOrder,
        watch: &Watch,
    ) -> Result<IncrementalDone> {
        watch.task(TaskName::Transfer, TaskState::InProgress, None);
        goes_on(watch)?;
        let IncrementalOrder { order, from, to, keep, limit_rate } = order.clone();
        self.find(&Source::IncrementalBackup { from: from.clone(), to: to.clone(), keep })?;
        let mut outside = self.0.outside();
        outside.incremental_rate = limit_rate;
        if let Some(code) = outside.host_fails {
            return Err(error(code));
        }
        if let Some(code) = outside.backups_fail.pop_front().flatten() {
            return Err(error(code));
        }
        let made = (from.blob, to.blob, self.0.clock.now());
        let time = outside.incremental_backups.entry(order.to_string()).or_insert(made).2;
        watch.progress.add_total(1 << 20);
        watch.progress.advance(1 << 20);
        watch.task(TaskName::Transfer, TaskState::Completed, None);
        let report = api::Report::default();
        Ok(IncrementalDone { time, written_bytes: 1 << 16, warnings: Vec::new(), report })
    }

    fn restore(&self, order: &RestoreOrder, watch: &Watch) -> Result<RestoreDone> {
        watch.task(TaskName::Prepare, TaskState::InProgress, None);
        goes_on(watch)?;
        let mut outside = self.0.outside();
        outside.reach(&order.vault)?;
        outside.open(&order.vault)?.point(&order.item, order.point)?;
        watch.task(TaskName::Prepare, TaskState::Completed, None);
        watch.task(TaskName::Restore, TaskState::InProgress, None);
        let done = if let Some(done) = outside.restored.get(&order.job) {
            done.clone()
        } else {
            outside.restored_from.push(order.vault.url.clone());
            outside.restores_made += 1;
            let machine = match (&order.restore, &order.source) {
                (Restore::Machine(wanted), _) => wanted.name.clone(),
                (Restore::Replace(wanted), Source::Machine { uuid, .. }) => {
                    Some(wanted.machine.clone().unwrap_or_else(|| uuid.clone()))
                }
                _ => None,
            };
            if let (Restore::Replace(_), Some(machine)) = (&order.restore, &machine) {
                outside.replaced.insert(machine.clone());
            }
            let report = match (&order.restore, machine) {
                (Restore::Machine(_), Some(machine)) => api::Report::from(api::RestoredBefore {
                    recovery_point: order.point,
                    item: order.item.clone(),
                    machine,
                    uuid: "u".to_owned(),
                    host: "qemu:///system".to_owned(),
                    safety_point: None,
                    done_before: true,
                }),
                _ => other(serde_json::json!({ "recovery_point": order.point })),
            };
            let done = RestoreDone { warnings: Vec::new(), safety_point: None, report };
            outside.restored.insert(order.job, done.clone());
            done
        };
        watch.task(TaskName::Restore, TaskState::Completed, None);
        Ok(done)
    }

    fn verify_boot(&self, order: &BootOrder, watch: &Watch) -> Result<BootDone> {
        watch.task(TaskName::Boot, TaskState::InProgress, None);
        while self.0.outside().hold && !watch.cancel.is_cancelled() {
            #[allow(clippy::disallowed_methods, reason = "the world waits in real time")]
            std::thread::sleep(Duration::from_millis(5));
        }
        goes_on(watch)?;
        let mut outside = self.0.outside();
        if let Some(code) = outside.host_fails {
            return Err(error(code));
        }
        outside.open(&order.vault)?.point(&order.item, order.point)?;
        let kept = outside.open(&order.vault)?.boots.get(&order.point).cloned();
        let kept = kept.filter(|(boot, _)| boot.job == Some(order.job));
        let (boot, evidence) = if let Some(kept) = kept {
            kept
        } else {
            let reason = outside.boots_fail.pop_front().flatten();
            outside.booted.push((order.point, order.wanted.clone()));
            let is_good = reason.is_none();
            let expected = order.wanted.expect.unwrap_or(BootStep::Agent);
            let boot = PointBoot {
                outcome: if is_good { BootOutcome::Passed } else { BootOutcome::Failed },
                begun: self.0.clock.now(),
                expected,
                reached: Some(if is_good { expected } else { BootStep::PowerOn }),
                reached_ms: Some(6500),
                reason: reason.map(str::to_owned),
                job: Some(order.job),
            };
            let evidence = BootEvidence {
                report: other(serde_json::json!({ "recovery_point": order.point })),
                screenshot: is_good.then(|| ("image/png".to_owned(), vec![1, 2, 3])),
                console: b"a line\n".to_vec(),
            };
            let kept = (boot, evidence);
            outside.open(&order.vault)?.boots.insert(order.point, kept.clone());
            kept
        };
        watch.task(TaskName::Boot, TaskState::Completed, None);
        let damage = outside.boot_damage.take().map(|code| *error(code));
        Ok(BootDone { boot, damage, warnings: Vec::new(), report: evidence.report })
    }

    fn drill(&self, order: &DrillOrder, watch: &Watch) -> Result<DrillDone> {
        watch.task(TaskName::Drill, TaskState::InProgress, None);
        goes_on(watch)?;
        let (mut boots, mut failed) = (Vec::new(), Vec::new());
        for (item, point) in &order.points {
            let boot = BootOrder {
                job: order.job,
                vault: order.vault.clone(),
                item: item.clone(),
                point: *point,
                wanted: BootWanted::default(),
            };
            // Each drill boots anew.
            self.0.outside().open(&order.vault)?.boots.remove(point);
            let done = self.verify_boot(&boot, watch)?;
            if done.boot.outcome == BootOutcome::Failed {
                failed.push(item.clone());
            }
            boots.push((*point, done.boot));
        }
        watch.task(TaskName::Drill, TaskState::Completed, None);
        let report = other(serde_json::json!({ "machines": order.points.len() }));
        Ok(DrillDone { boots, failed, warnings: Vec::new(), report })
    }

    fn finish(&self, order: &FinishOrder) -> Result<FinishDone> {
        let mut outside = self.0.outside();
        if let Some(code) = outside.host_fails {
            return Err(error(code));
        }
        if outside.decided_there || !outside.replaced.remove(&order.machine) {
            return Ok(FinishDone::DecidedBefore);
        }
        outside.finished.push((order.machine.clone(), order.decision));
        Ok(FinishDone::Finished(other(serde_json::json!({ "machine": order.machine }))))
    }
}

/// The vaults.
pub(crate) struct Vaults(pub(crate) Arc<Shared>);

impl Vaults {
    fn facts_of(&self, store: &Store, existed: bool) -> VaultFacts {
        VaultFacts {
            id: store.id.expect("a vault"),
            mirrors: Vec::new(),
            existed,
            key_changed: store.key_changed.unwrap_or_else(|| self.0.clock.now()),
            free_bytes: Some(1 << 40),
            warnings: Vec::new(),
        }
    }
}

impl Keeper for Vaults {
    fn make(&self, order: &VaultMake) -> Result<VaultFacts> {
        let mut outside = self.0.outside();
        let now = self.0.clock.now();
        let store = outside.stores.entry(order.url.clone()).or_default();
        let existed = store.id.is_some();
        store.key.get_or_insert_with(|| order.key.clone());
        opens(store, &order.key)?;
        store.id.get_or_insert_with(|| VaultId::generate(&*self.0.clock, &SystemEntropy));
        store.key_changed.get_or_insert(now);
        Ok(self.facts_of(store, existed))
    }

    fn facts(&self, vault: &VaultAccess) -> Result<VaultFacts> {
        let mut outside = self.0.outside();
        let store = outside.open(vault)?;
        Ok(self.facts_of(store, true))
    }

    fn points(
        &self,
        vault: &VaultAccess,
        item: Option<&str>,
    ) -> Result<(Vec<PointFacts>, Vec<ErrorBody>)> {
        let mut outside = self.0.outside();
        let store = outside.open(vault)?;
        let seen = store.points.values().filter(|point| !store.hidden.contains(&point.id));
        let wanted = seen.filter(|point| item.is_none_or(|item| item == point.item));
        let mut points: Vec<_> = wanted.cloned().collect();
        points.sort_by_key(|point| (point.time, point.id));
        Ok((points, Vec::new()))
    }

    fn validate(&self, order: &ValidateOrder, watch: &Watch) -> Result<Vec<String>> {
        watch.task(TaskName::Validate, TaskState::InProgress, None);
        goes_on(watch)?;
        let mut outside = self.0.outside();
        if let Some(code) = outside.validation_fails {
            return Err(error(code));
        }
        outside.open(&order.vault)?.point(&order.item, order.point)?;
        watch.task(TaskName::Validate, TaskState::Completed, None);
        Ok(Vec::new())
    }

    fn delete_points(
        &self,
        vault: &VaultAccess,
        item: &str,
        points: &[PointId],
        now: Timestamp,
    ) -> Result<Vec<(PointId, Timestamp)>> {
        let mut outside = self.0.outside();
        outside.reach(vault)?;
        let store = outside.open(vault)?;
        let mut stay = Vec::new();
        for point in points {
            let locked = store.locks.get(point).copied().filter(|until| *until > now);
            let is_ours = store.points.get(point).is_some_and(|found| found.item == item);
            match locked {
                Some(until) if is_ours => stay.push((*point, until)),
                None if is_ours => store.deleted.extend(store.points.remove_entry(point)),
                _ => {}
            }
        }
        Ok(stay)
    }

    fn lock_points(
        &self,
        vault: &VaultAccess,
        _: &str,
        locks: &[(PointId, Timestamp)],
    ) -> Result<Vec<(PointId, Timestamp)>> {
        let mut outside = self.0.outside();
        let store = outside.open(vault)?;
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
        item: Option<&str>,
        expected: &[(String, PointId)],
    ) -> Result<Vec<AbsentPoint>> {
        let mut outside = self.0.outside();
        let store = outside.open(vault)?;
        let asked = expected.iter().filter(|(of, _)| item.is_none_or(|item| item == of));
        let absent = asked.filter_map(|(item, point)| {
            let is_hidden = store.hidden.contains(point) || store.deleted.contains_key(point);
            let how = match (store.points.contains_key(point), is_hidden) {
                (true, false) => return None,
                (_, true) => Absence::Hidden,
                (false, false) => Absence::Missing,
            };
            Some(AbsentPoint { item: item.clone(), point: *point, how })
        });
        Ok(absent.collect())
    }

    fn reclaim(&self, order: &ReclaimOrder, watch: &Watch) -> Result<ReclaimDone> {
        goes_on(watch)?;
        let mut outside = self.0.outside();
        let store = outside.open(&order.vault)?;
        let mut held = Vec::new();
        let noted: BTreeSet<_> = store.hidden.iter().chain(store.deleted.keys()).copied().collect();
        for point in noted {
            let found = store.points.get(&point).or_else(|| store.deleted.get(&point));
            let item = found.map(|point| point.item.clone());
            let locked = store.locks.get(&point).is_some_and(|until| *until > order.now);
            let name = (item.clone().unwrap_or_default(), point);
            if locked || !order.given_up.contains(&name) {
                held.push(HeldPoint { item, point, locked });
            } else {
                store.hidden.remove(&point);
                store.points.remove(&point);
                store.deleted.remove(&point);
            }
        }
        let report = other(serde_json::json!({ "freed_bytes": 1 }));
        Ok(ReclaimDone { complete: true, held, report })
    }

    fn verify(&self, order: &VerifyOrder, watch: &Watch) -> Result<VerifyFacts> {
        goes_on(watch)?;
        let depth = order.depth;
        let mut outside = self.0.outside();
        outside.reach(&order.vault)?;
        outside.open(&order.vault)?;
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
            report: api::Report::default(),
        })
    }

    fn boot(
        &self,
        vault: &VaultAccess,
        item: &str,
        point: PointId,
    ) -> Result<Option<BootEvidence>> {
        let mut outside = self.0.outside();
        let store = outside.open(vault)?;
        store.point(item, point)?;
        Ok(store.boots.get(&point).map(|(_, evidence)| evidence.clone()))
    }

    fn usage(&self, vault: &VaultAccess, watch: &Watch) -> Result<UsageFacts> {
        goes_on(watch)?;
        let mut outside = self.0.outside();
        let points = &outside.open(vault)?.points;
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
        let new = order.new.as_ref().unwrap_or(&order.vault.key).clone();
        let access = VaultAccess { url: order.vault.url.clone(), key: new.clone() };
        {
            let mut outside = self.0.outside();
            let now = self.0.clock.now();
            // A first try may have come to its end.
            let done = order.new.is_some() && outside.open(&access).is_ok();
            if !done {
                let store = outside.open(&order.vault)?;
                (store.key, store.key_changed) = (Some(new), Some(now));
            }
        }
        while self.0.outside().hold_rotation {
            #[allow(clippy::disallowed_methods, reason = "the world waits in real time")]
            std::thread::sleep(Duration::from_millis(5));
        }
        self.facts(&access)
    }

    fn make_key_file(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn save(&self, vault: &VaultAccess, name: &str, bytes: &[u8]) -> Result<()> {
        let mut outside = self.0.outside();
        if let Some(left) = &mut outside.saves_left {
            *left = left.checked_sub(1).ok_or_else(|| error(&codes::STORE_UNAVAILABLE))?;
        }
        outside.open(vault)?.saved.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn saved(&self, vault: &VaultAccess) -> Result<Vec<SavedObject>> {
        let mut outside = self.0.outside();
        let saved = outside.open(vault)?.saved.iter();
        let object = |(name, bytes): (&String, &Vec<u8>)| SavedObject {
            name: name.clone(),
            size_bytes: u64::try_from(bytes.len()).expect("small"),
        };
        Ok(saved.map(object).collect())
    }

    fn load(&self, vault: &VaultAccess, name: &str) -> Result<Vec<u8>> {
        let saved = self.0.outside().open(vault)?.saved.get(name).cloned();
        saved.ok_or_else(|| error(&codes::VAULT_NOTHING_KEPT))
    }

    fn unsave(&self, vault: &VaultAccess, name: &str) -> Result<()> {
        self.0.outside().open(vault)?.saved.remove(name);
        Ok(())
    }
}

/// What may be named: disks below `/disks`, and targets below `/restore`.
pub(crate) struct Named;

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

    fn check_blob(&self, blob: &str) -> Result<(), NotAllowed> {
        Self::below(&format!("/{blob}"), "/disks", "blob_accounts")
    }

    fn check_blob_target(&self, blob: &str) -> Result<(), NotAllowed> {
        Self::below(&format!("/{blob}"), "/backups", "blob_target_accounts")
    }

    fn check_target(&self, path: &str) -> Result<(), NotAllowed> {
        Self::below(path, "/restore", "restore_dirs")
    }
}
