//! A simulated object store: one state, a handle for each process, faults and sabotage.
//!
//! ```text
//!  process A ─handle─┐                       ┌─ fate: fine, refused, answer lost, late, crash
//!  process B ─handle─┼─ step (baton) ─▶ fate ┤
//!  observer ─────────┘ (no step, no fate)    └─ effect on the shared objects ─▶ trace
//! ```
//!
//! An operation takes effect at one moment, after its step; a listing takes a step for every page
//! and each page shows the state of its own moment, which is all that
//! [`ObjectStore::list`] promises. What an error leaves open (done, done later, never) happens
//! here in all three ways.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    ops::{Bound, ControlFlow},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use strongroom_base::{ByteRange, PointId, lock};
use strongroom_format::sealed::{SealedKind, kind_of};
use strongroom_objects::{Entry, Key, ObjectStore, Put, StoreError};

use crate::{
    clock::{WrongBy, true_time},
    rng::Rng,
    sabotage::Sabotage,
    scheduler::{ActorId, Scheduler},
};

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    Deleter,
    Reader,
    Reclaim,
    /// Stands outside the interleaving: its operations take no step and never fail.
    Observer,
}

/// A process: what lives and dies together.
pub(crate) struct Process {
    pub(crate) actor: Option<ActorId>,
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Every operation fails from now on: of all actors that are threads of this process.
    pub(crate) crashed: Arc<AtomicBool>,
    /// Something went wrong in its store, so that it may fail.
    pub(crate) faulted: AtomicBool,
    pub(crate) wrong_by: WrongBy,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// An error, without effect.
    Refused,
    /// An error, but it was done.
    AnswerLost,
    /// An error, and it is done later.
    Late(Duration),
    /// The process ends before it.
    Crash,
    /// The process ends and it is done all the same.
    CrashDone,
    /// The process ends and it is done later.
    CrashLate(Duration),
}

/// How often things go wrong. Zero: never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Once in how many operations one goes wrong.
    pub(crate) one_in: u64,
    /// How many faults there are at most.
    pub(crate) left: u32,
    /// Whether a failed change may be made later.
    pub(crate) late: bool,
    /// Once in how many operations the process stands still for a while.
    pub(crate) pause_one_in: u64,
    /// Once in how many operations a host's clock jumps.
    pub(crate) jump_one_in: u64,
    /// Once in how many times a writer's note, or one of a condemnation's two objects, rots.
    pub(crate) rot_one_in: u64,
    /// Once in how many times an object below `points/` is put, one of them is cut, now or later.
    pub(crate) cut_one_in: u64,
}

#[derive(Clone)]
struct Object {
    body: Arc<[u8]>,
    modified: Timestamp,
    /// Who put it, if it was an actor.
    by: Option<ActorId>,
}

#[derive(Clone)]
enum Change {
    Put(Key, Arc<[u8]>, Option<ActorId>),
    Delete(Key),
    /// It loses its end: one part of this number is left.
    Cut(Key, usize),
}

#[derive(Default)]
struct Objects {
    present: BTreeMap<Key, Object>,
    /// Changes that are made later.
    later: Vec<(Duration, Change)>,
    /// What cut objects were before.
    whole: BTreeMap<Key, Arc<[u8]>>,
    /// All that were ever cut.
    ever_cut: HashSet<String>,
}

/// What is called after a pack has been deleted.
type Watcher = Box<dyn Fn() + Send + Sync>;

/// The store behind all handles of one run.
pub(crate) struct Shared {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) sabotage: Sabotage,
    objects: Mutex<Objects>,
    faults: Mutex<Faults>,
    /// Keys on a page of a listing.
    page: usize,
    /// Listings come in this order of hashes, or by name if 0.
    order: u64,
    trace: Mutex<Vec<String>>,
    watcher: OnceLock<Watcher>,
}

impl Shared {
    pub(crate) fn new(scheduler: Arc<Scheduler>, sabotage: Sabotage, rng: &mut Rng) -> Self {
        let page = usize::try_from(rng.choose([1_000, 1_000, 20, 3], 1_000)).unwrap_or(1_000);
        let order = if rng.once_in(2) { rng.next() } else { 0 };
        Self {
            scheduler,
            sabotage,
            objects: Mutex::default(),
            faults: Mutex::default(),
            page,
            order,
            trace: Mutex::default(),
            watcher: OnceLock::new(),
        }
    }

    /// Has something called after deletions of packs, at some of which it looks.
    pub(crate) fn watch(&self, watcher: Watcher) {
        self.watcher.set(watcher).ok();
    }

    /// From now on things go wrong.
    pub(crate) fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// Makes all changes that were to be made later, and puts back what was cut.
    pub(crate) fn settle(&self) {
        let mut objects = lock(&self.objects);
        let now = true_time(&self.scheduler);
        objects.apply(Duration::MAX, now);
        for (key, body) in std::mem::take(&mut objects.whole) {
            if let Some(object) = objects.present.get_mut(&key) {
                object.body = body;
            }
        }
    }

    /// The names of objects that have lost their end.
    pub(crate) fn cut(&self) -> HashSet<String> {
        lock(&self.objects).whole.keys().map(ToString::to_string).collect()
    }

    /// The names of objects that have lost their end at some time.
    pub(crate) fn ever_cut(&self) -> HashSet<String> {
        lock(&self.objects).ever_cut.clone()
    }

    /// Whether a point was forbidden.
    pub(crate) fn is_void(&self, point: PointId) -> bool {
        let objects = lock(&self.objects);
        let name = format!("/{point}");
        objects.present.iter().any(|(key, object)| {
            let body = objects.whole.get(key).unwrap_or(&object.body);
            let forbids = kind_of(body) == Some(SealedKind::Void);
            forbids && key.as_str().starts_with("points/") && key.as_str().ends_with(&name)
        })
    }

    /// Puts an object from outside the run.
    pub(crate) fn plant(&self, key: &Key, body: &[u8]) {
        let object = Object { body: body.into(), modified: true_time(&self.scheduler), by: None };
        lock(&self.objects).present.insert(key.clone(), object);
    }

    /// The names and sizes of all objects under a prefix.
    pub(crate) fn names(&self, prefix: &str) -> Vec<(String, usize)> {
        let objects = lock(&self.objects);
        let found = objects.present.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        found.map(|(key, object)| (key.to_string(), object.body.len())).collect()
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&self, who: &str, what: &str) {
        let seconds = self.scheduler.now().as_secs_f64();
        lock(&self.trace).push(format!("{seconds:>11.3} {who:<14} {what}"));
    }

    /// The trace so far.
    pub(crate) fn trace(&self) -> Vec<String> {
        lock(&self.trace).clone()
    }
}

impl Objects {
    fn put(&mut self, key: Key, object: Object) -> Put {
        if self.present.contains_key(&key) {
            return Put::Exists;
        }
        self.present.insert(key, object);
        Put::Created
    }

    fn apply(&mut self, until: Duration, modified: Timestamp) {
        self.later.sort_by_key(|(due, _)| *due);
        let due = self.later.partition_point(|(due, _)| *due <= until);
        for (_, change) in self.later.drain(..due).collect::<Vec<_>>() {
            match change {
                Change::Put(key, body, by) => {
                    self.put(key, Object { body, modified, by });
                }
                Change::Delete(key) => self.delete(&key),
                Change::Cut(key, parts) => self.cut(&key, parts),
            }
        }
    }

    fn delete(&mut self, key: &Key) {
        self.present.remove(key);
        self.whole.remove(key);
    }

    fn cut(&mut self, key: &Key, parts: usize) {
        if let Some(object) = self.present.get_mut(key) {
            let left = object.body.len().checked_div(parts).unwrap_or(0);
            let left = object.body.get(..left).unwrap_or_default().into();
            let body = std::mem::replace(&mut object.body, left);
            self.whole.entry(key.clone()).or_insert(body);
            self.ever_cut.insert(key.to_string());
        }
    }

    /// The next entries of a listing behind a position.
    fn page(&self, prefix: &str, after: Option<&Position>, order: u64, len: usize) -> Vec<Entry> {
        let start = Key::new(prefix.trim_end_matches('/'));
        let from = start.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found: Vec<_> = self
            .present
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix) || key.as_str() < prefix)
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, object)| (position(key, order), object))
            .filter(|(place, _)| after.is_none_or(|after| place > after))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let entry = |(place, object): (Position, &Object)| Entry {
            key: place.1,
            size: u64::try_from(object.body.len()).unwrap_or(u64::MAX),
            modified: object.modified,
        };
        found.into_iter().take(len).map(entry).collect()
    }
}

/// Where a key comes in a listing.
type Position = (u64, Key);

fn position(key: &Key, order: u64) -> Position {
    if order == 0 {
        return (0, key.clone());
    }
    let mix = key.as_str().bytes().fold(order, |sum, byte| sum.rotate_left(5) ^ u64::from(byte));
    (Rng::new(mix).next(), key.clone())
}

thread_local! {
    /// As what the actor of this thread works now.
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
}

/// From now on the actor of this thread works as this.
pub(crate) fn work_as(process: &Arc<Process>) {
    CURRENT.set(Some(Arc::clone(process)));
}

/// Who uses a handle of the store, or a clock.
#[derive(Clone)]
pub(crate) enum User {
    /// One actor.
    One(Arc<Process>),
    /// Several, who share an open vault: whichever runs on this thread.
    Whoever,
}

impl User {
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        match self {
            Self::One(process) => Some(Arc::clone(process)),
            Self::Whoever => CURRENT.with_borrow(Clone::clone),
        }
    }

    pub(crate) fn actor(&self) -> Option<ActorId> {
        self.process()?.actor
    }
}

/// One process's handle of the store.
pub(crate) struct SimStore {
    pub(crate) shared: Arc<Shared>,
    pub(crate) user: User,
}

/// Why the simulated store failed.
#[derive(Debug)]
struct Fault(&'static str);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Fault {}

impl SimStore {
    fn role(&self) -> Role {
        self.user.process().map_or(Role::Observer, |process| process.role)
    }

    fn who(&self) -> String {
        self.user.process().map_or_else(String::new, |process| process.name.clone())
    }

    fn unavailable(&self, action: &'static str, what: &str, why: &'static str) -> StoreError {
        StoreError::Unavailable {
            store: self.name(),
            action,
            what: what.to_owned(),
            source: Box::new(Fault(why)),
        }
    }

    fn missing(&self, key: &Key) -> StoreError {
        StoreError::Missing { key: key.clone(), store: self.name() }
    }

    /// Whether operations on this object take part in the interleaving. Descriptions and keys
    /// never change in a run.
    fn is_watched(&self, name: &str) -> bool {
        self.user.actor().is_some() && !name.starts_with("keys") && name != "strongroom.json"
    }

    /// Takes a step and learns the operation's fate.
    fn step(&self, name: &str, changes: bool) -> Fate {
        let scheduler = &self.shared.scheduler;
        let Some(actor) = self.user.actor() else { return Fate::Fine };
        let faults = *lock(&self.shared.faults);
        let pause = scheduler.random(|rng| {
            if rng.once_in(faults.jump_one_in) {
                let jump = rng.choose([-7_200, -1_200, 1_200, 7_200, 86_400], 0);
                if let Some(process) = self.user.process() {
                    process.wrong_by.fetch_add(jump, Ordering::Relaxed);
                }
            }
            let slow = self.shared.sabotage.slow_list(self.role(), name);
            if slow > 0 && rng.once_in(slow) {
                return Duration::from_secs(rng.between(1, 600));
            }
            if !rng.once_in(faults.pause_one_in) {
                return Duration::ZERO;
            }
            let longest = rng.choose([30, 600, 10_800], 30);
            Duration::from_secs(rng.between(1, longest))
        });
        if pause > Duration::ZERO {
            self.shared.note(&self.who(), &format!("pauses for {} s", pause.as_secs()));
        }
        scheduler.step(actor, pause);
        if scheduler.is_endless() {
            return Fate::Crash;
        }
        let mut faults = lock(&self.shared.faults);
        // The few operations that decide something fail more often.
        let decides = ["points/", "condemned/", "index/", "writers/"];
        let decides = changes && decides.iter().any(|prefix| name.starts_with(prefix));
        let one_in = if decides { faults.one_in.div_ceil(8) } else { faults.one_in };
        let fate = scheduler.random(|rng| {
            if faults.left == 0 || !rng.once_in(one_in) {
                return Fate::Fine;
            }
            let later = Duration::from_secs(rng.choose([1, 60, 7_200], 1));
            let later = Duration::from_secs(rng.between(0, later.as_secs()));
            match rng.below(if changes && faults.late { 9 } else { 7 }) {
                0 => Fate::Refused,
                1 | 2 => Fate::AnswerLost,
                3 | 4 => Fate::Crash,
                5 | 6 => Fate::CrashDone,
                7 => Fate::Late(later),
                _ => Fate::CrashLate(later),
            }
        });
        if fate != Fate::Fine {
            faults.left = faults.left.saturating_sub(1);
        }
        fate
    }

    /// One operation: its step, its fate and its effect. `change` is what it does if it does it
    /// later.
    fn operate<T>(
        &self,
        action: &'static str,
        name: &str,
        change: Option<Change>,
        effect: impl FnOnce(&mut Objects, Timestamp) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let process = self.user.process();
        if process.as_ref().is_some_and(|process| process.crashed.load(Ordering::Relaxed)) {
            return Err(self.unavailable(action, name, "the process has crashed"));
        }
        let watched = self.is_watched(name);
        let fate = if watched { self.step(name, change.is_some()) } else { Fate::Fine };
        let now = true_time(&self.shared.scheduler);
        let since = self.shared.scheduler.now();
        let mut objects = lock(&self.shared.objects);
        objects.apply(since, now);
        let result = match (fate, change) {
            (Fate::Fine | Fate::AnswerLost | Fate::CrashDone, _) => effect(&mut objects, now),
            (Fate::Late(by) | Fate::CrashLate(by), Some(change)) => {
                objects.later.push((since.saturating_add(by), change));
                Err(self.unavailable(action, name, "no answer"))
            }
            _ => Err(self.unavailable(action, name, "no answer")),
        };
        drop(objects);
        if let Some(process) = process.filter(|_| fate != Fate::Fine) {
            process.faulted.store(true, Ordering::Relaxed);
            if matches!(fate, Fate::Crash | Fate::CrashDone | Fate::CrashLate(_)) {
                process.crashed.store(true, Ordering::Relaxed);
            }
        }
        if watched {
            let why = match (&fate, &result) {
                (Fate::Fine, Err(StoreError::Missing { .. })) => " (missing)".to_owned(),
                (Fate::Fine, Err(_)) => " (error)".to_owned(),
                (Fate::Fine, Ok(_)) => String::new(),
                (fate, _) => format!("  <== {fate:?}"),
            };
            let line = format!("{action} {}{why}", short(name));
            self.shared.note(&self.who(), &line);
        }
        match fate {
            Fate::Fine => result,
            _ => Err(self.unavailable(action, name, "a simulated fault")),
        }
    }

    /// Spoils what has just been put, now and then: a writer's note, or of the two objects of a
    /// condemnation one.
    fn rot(&self, objects: &mut Objects, name: &str) {
        if name.starts_with("points/") {
            return self.cut(objects);
        }
        let one_in = lock(&self.shared.faults).rot_one_in;
        let twin = name.strip_prefix("condemned/copies/");
        if twin.is_none() && !name.contains("/for-") {
            return;
        }
        let scheduler = &self.shared.scheduler;
        let (rots, first) = scheduler.random(|rng| (rng.once_in(one_in), rng.once_in(2)));
        if !rots {
            return;
        }
        let spoilt = match twin.filter(|_| first) {
            Some(id) => format!("condemned/{id}"),
            None => name.to_owned(),
        };
        let key = Key::new(&spoilt).ok();
        if let Some(object) = key.and_then(|key| objects.present.get_mut(&key)) {
            let mut body = object.body.to_vec();
            if let Some(last) = body.last_mut() {
                *last ^= 1;
            }
            object.body = body.into();
            self.shared.note(&self.who(), &format!("{} rots", short(&spoilt)));
        }
    }

    /// Has an object below `points/` lose its end, now or later.
    fn cut(&self, objects: &mut Objects) {
        let one_in = lock(&self.shared.faults).cut_one_in;
        let points = || objects.present.keys().filter(|key| key.as_str().starts_with("points/"));
        let count = u64::try_from(points().count()).unwrap_or(0);
        let drawn = self.shared.scheduler.random(|rng| {
            let victim = rng.once_in(one_in).then(|| rng.below(count))?;
            let parts = rng.choose([0, 0, 2], 0);
            Some((victim, parts, rng.choose([0, 0, 60, 7_200], 0)))
        });
        let Some((victim, parts, after)) = drawn else { return };
        let victim = points().nth(usize::try_from(victim).unwrap_or(0)).cloned();
        let Some(victim) = victim else { return };
        self.shared.note(&self.who(), &format!("{} is cut", short(victim.as_str())));
        let due = self.shared.scheduler.now().saturating_add(Duration::from_secs(after));
        let parts = usize::try_from(parts).unwrap_or(0);
        objects.later.push((due, Change::Cut(victim, parts)));
    }

    /// Lets the watcher look after a pack has gone, now and then.
    fn look(&self, key: &Key) {
        if self.user.actor().is_some()
            && key.as_str().starts_with("packs/")
            && self.shared.scheduler.random(|rng| rng.once_in(12))
            && let Some(watcher) = self.shared.watcher.get()
        {
            watcher();
        }
    }
}

/// A name that can be read in a trace: of hashes the first digits, of ids the last.
pub(crate) fn short(name: &str) -> String {
    let parts = name.split('/').map(|part| match part.len() {
        64 => part.get(..8).unwrap_or(part),
        32 => part.get(..4).unwrap_or(part),
        26 => part.get(20..).unwrap_or(part),
        _ => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

impl ObjectStore for SimStore {
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<Put, StoreError> {
        let sabotage = self.shared.sabotage;
        let name = key.as_str();
        let body: Arc<[u8]> = body.into();
        let lost = sabotage == Sabotage::PutsAreForgotten
            && self.user.actor().is_some()
            && name.starts_with("packs/")
            && self.shared.scheduler.random(|rng| rng.once_in(20));
        if lost {
            return self.operate("forgets to put", name, None, |_, _| Ok(Put::Created));
        }
        let by = self.user.actor();
        let change = Change::Put(key.clone(), Arc::clone(&body), by);
        self.operate("put", name, Some(change), |objects, modified| {
            if sabotage == Sabotage::PutsOverwrite && name.starts_with("points/") {
                objects.present.remove(key);
            }
            let put = objects.put(key.clone(), Object { body, modified, by });
            if put == Put::Created && by.is_some() {
                self.rot(objects, name);
            }
            Ok(put)
        })
    }

    fn get(&self, key: &Key, max_len: u64) -> Result<Vec<u8>, StoreError> {
        self.operate("get", key.as_str(), None, |objects, _| {
            let object = objects.present.get(key).ok_or_else(|| self.missing(key))?;
            let have = u64::try_from(object.body.len()).unwrap_or(u64::MAX);
            if have <= max_len {
                return Ok(object.body.to_vec());
            }
            Err(StoreError::Length { key: key.clone(), store: self.name(), have, need: max_len })
        })
    }

    fn get_range(&self, key: &Key, range: ByteRange) -> Result<Vec<u8>, StoreError> {
        self.operate("read", key.as_str(), None, |objects, _| {
            let object = objects.present.get(key).ok_or_else(|| self.missing(key))?;
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            let part = object.body.get(place(range.offset())..place(range.end()));
            part.map(<[u8]>::to_vec).ok_or_else(|| StoreError::Length {
                key: key.clone(),
                store: self.name(),
                have: u64::try_from(object.body.len()).unwrap_or(u64::MAX),
                need: range.end(),
            })
        })
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let hidden = self.shared.sabotage.hides(self.role(), prefix);
        let own = self.shared.sabotage.hides_others(self.role(), prefix);
        let newest = self.shared.sabotage.newest_listed(self.role(), prefix);
        let smallest = self.shared.sabotage.smallest_listed(prefix);
        let (page, order) = (self.shared.page, self.shared.order);
        let mut after: Option<Position> = None;
        loop {
            let entries = self.operate("list", prefix, None, |objects, now| {
                let mut entries = objects.page(prefix, after.as_ref(), order, page);
                let old = |entry: &Entry| newest.is_none_or(|age| entry.modified < now - age);
                let full = entries.len() == page;
                let last = entries.last().map(|entry| position(&entry.key, order));
                let by = |key: &Key| objects.present.get(key).and_then(|object| object.by);
                let mine = |entry: &Entry| !own || by(&entry.key) == self.user.actor();
                let large = |entry: &Entry| entry.size >= smallest;
                entries.retain(|entry| !hidden && large(entry) && old(entry) && mine(entry));
                Ok((entries, last.filter(|_| full)))
            })?;
            let (entries, last) = entries;
            if entries.into_iter().try_for_each(&mut *visit).is_break() || last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let change = Change::Delete(key.clone());
        let late = self.shared.sabotage.deletes_late(key.as_str()) && self.user.actor().is_some();
        let due = late.then(|| {
            let by = self.shared.scheduler.random(|rng| rng.between(1, 3_600));
            self.shared.scheduler.now().saturating_add(Duration::from_secs(by))
        });
        self.operate("delete", key.as_str(), Some(change.clone()), |objects, _| {
            match due {
                Some(due) => objects.later.push((due, change)),
                None => objects.delete(key),
            }
            Ok(())
        })?;
        self.look(key);
        Ok(())
    }

    fn replace(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.operate("replace", key.as_str(), None, |objects, modified| {
            let by = self.user.actor();
            objects.present.insert(key.clone(), Object { body: body.into(), modified, by });
            Ok(())
        })
    }

    fn name(&self) -> String {
        "the simulated store".to_owned()
    }

    fn is_local(&self) -> bool {
        true
    }
}
