//! Rebuilding the index: what the packs say of themselves, written down once more.
//!
//! ```text
//!  list index objects (these are replaced) ─▶ list packs ─▶ read trailers, several at once
//!     ─▶ index objects of about 130,000 records, sealed and put one after the other
//!     ─▶ the old index objects are removed ─▶ the local cache holds the new ones
//! ```
//!
//! Invariants:
//! - New index objects are put before old ones are removed: at every moment readers find
//!   everything. Index objects that appeared after the first list are never touched, as they may
//!   speak of packs that appeared after the second.
//! - Condemned packs are indexed like others: reading may need them. Naming a pack that reclaim
//!   removes meanwhile does no harm, because writers rely only on packs that they have seen.
//! - A pack whose own trailer cannot be read any more keeps what an old index object says of it:
//!   its records may still be good.
//! - Memory: three index objects in the making, whatever the size of the vault: one that waits for
//!   more packs, one that is sealed, one that is added to the local index. One thread does each, as the
//!   allocator keeps for each thread what that has needed.
//!
//! It must not know what the records are for: points and trees are never read.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use crossbeam_channel::{Sender, bounded};
use serde::Serialize;
use strongroom_base::{Cancel, PackId, lock};
use strongroom_format::{
    IndexObject, names,
    pack::{Contents, PackKind},
    sealed::SealedKind,
};
use strongroom_objects::{Heal, MAX_OBJECT_LEN};
use ulid::Ulid;

use crate::{Vault, VaultError, error::Result, read::is_damage};

/// Records of an index object: fewer than such an object may have, as several are in memory at once.
const RECORDS: usize = IndexObject::TARGET_RECORDS / 4;

/// Packs named in a report; beyond that they are only counted.
const MAX_NAMED: usize = 1000;

/// What [`Vault::rebuild_index`] did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RebuildReport {
    /// Packs that are in the new index.
    pub packs: u64,
    /// Records in them.
    pub records: u64,
    /// Index objects written.
    pub index_objects_written: u64,
    /// Their bytes.
    pub index_bytes_written: u64,
    /// Old index objects removed.
    pub index_objects_removed: u64,
    /// Old index objects that could not be removed, for example because a mirror is away. They do
    /// no harm.
    pub index_objects_kept: u64,
    /// Packs whose trailer could not be read.
    pub unreadable_packs: u64,
    /// The first thousand of them.
    pub unreadable: Vec<UnreadablePack>,
    /// How long it took.
    pub seconds: f64,
}

/// A pack that does not say what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadablePack {
    /// The name of its object.
    pub object: String,
    /// What is wrong.
    pub reason: String,
    /// Whether an old index object said what is in it, so that it is in the new index.
    pub indexed: bool,
}

/// A pack to be read.
type Listed = (PackKind, PackId, u64);

struct Rebuild<'a> {
    vault: &'a Vault,
    packs: Vec<Listed>,
    next: AtomicUsize,
    done: AtomicU64,
    failed: AtomicBool,
    batch: Mutex<Batch>,
    report: Mutex<RebuildReport>,
    unreadable: Mutex<HashMap<PackId, (PackKind, String)>>,
}

/// Contents that wait for their index object.
#[derive(Default)]
struct Batch {
    packs: Vec<Contents>,
    records: usize,
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Vault {
    /// Rebuilds the index from the packs' own trailers, and replaces what index objects there
    /// were. `progress` gets the packs done and the packs in all, from several threads.
    ///
    /// Backups may run meanwhile. Packs that cannot be read are reported and are no failure.
    /// Stopping it, or a crash, loses nothing: old index objects go last.
    pub fn rebuild_index(
        &self,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &Cancel,
    ) -> Result<RebuildReport> {
        let started = self.options.clock.monotonic();
        let old: Vec<Ulid> =
            self.list(names::INDEX)?.iter().filter_map(|e| names::parse_ulid(&e.key)).collect();
        let packs = self.listed_packs()?;
        // The cache is filled with the new objects as they are made.
        self.index.clear().map_err(|error| self.local_error(error))?;
        let rebuild = Rebuild {
            vault: self,
            packs,
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            batch: Mutex::default(),
            report: Mutex::default(),
            unreadable: Mutex::default(),
        };
        let written = rebuild.run(&old, progress, cancel);
        if let Err(error) = written {
            // The old objects are all there still.
            if let Err(error) = self.sync() {
                tracing::warn!(%error, "the index cache is incomplete");
            }
            return Err(error);
        }
        let mut report = lock(&rebuild.report).clone();
        for id in old {
            match self.store.delete(&names::index(id)) {
                Ok(()) => {
                    report.index_objects_removed = report.index_objects_removed.saturating_add(1);
                }
                Err(error) => {
                    tracing::warn!(%error, "an old index object stays");
                    report.index_objects_kept = report.index_objects_kept.saturating_add(1);
                }
            }
        }
        self.sync()?;
        let took = self.options.clock.monotonic().saturating_sub(started);
        report.seconds = took.as_secs_f64();
        Ok(report)
    }

    fn listed_packs(&self) -> Result<Vec<Listed>> {
        let mut packs = Vec::new();
        self.store.list(names::PACKS, &mut |entry| {
            packs.extend(names::parse_pack(&entry.key).map(|(kind, id)| (kind, id, entry.size)));
            ControlFlow::Continue(())
        })?;
        packs.sort_unstable_by_key(|(kind, id, _)| (*kind, *id));
        packs.dedup_by_key(|(_, id, _)| *id);
        Ok(packs)
    }
}

impl Rebuild<'_> {
    fn run(
        &self,
        old: &[Ulid],
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &Cancel,
    ) -> Result<()> {
        // They mostly wait for small reads: of a disk, too, which answers several at once.
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let readers = if self.vault.store.is_local() { cores.max(8) } else { 16 };
        let (sender, receiver) = bounded(0);
        thread::scope(|scope| {
            let run = |work: &dyn Fn() -> Result<()>| {
                let done = work();
                if done.is_err() {
                    self.failed.store(true, Ordering::Relaxed);
                }
                done
            };
            let mut threads = Vec::new();
            for _ in 0..readers.min(self.packs.len()) {
                let sender = sender.clone();
                threads.push(
                    scope.spawn(move || run(&|| self.read_trailers(&sender, progress, cancel))),
                );
            }
            let (seal, sealed) = bounded(0);
            threads.push(scope.spawn(move || {
                run(&|| {
                    receiver.iter().try_for_each(|packs| {
                        seal.send(self.seal(packs)?).map_err(|_| VaultError::Aborted)
                    })
                })
            }));
            threads.push(
                scope.spawn(move || run(&|| sealed.iter().try_for_each(|done| self.index(&done)))),
            );
            drop(sender);
            let mut result = Ok(());
            for thread in threads {
                let done = thread.join();
                let done = done.unwrap_or(Err(VaultError::Bug("a thread of the rebuild panicked")));
                // The error that made the others give up counts.
                if matches!(result, Ok(()) | Err(VaultError::Aborted)) {
                    result = done.and(result);
                }
            }
            result
        })?;
        self.keep_what_was_known(old)?;
        let rest = std::mem::take(&mut *lock(&self.batch)).packs;
        if rest.is_empty() { Ok(()) } else { self.index(&self.seal(rest)?) }
    }

    fn read_trailers(
        &self,
        full: &Sender<Vec<Contents>>,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancel: &Cancel,
    ) -> Result<()> {
        while let Some((kind, id, size)) = self.packs.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            if cancel.is_cancelled() {
                return Err(VaultError::Interrupted);
            }
            if self.failed.load(Ordering::Relaxed) {
                return Err(VaultError::Aborted);
            }
            match self.contents(*kind, *id, *size) {
                Ok(contents) => {
                    self.add(contents, |packs| full.send(packs).map_err(|_| VaultError::Aborted))?;
                }
                Err(error) if is_damage(&error) => {
                    tracing::warn!(pack = %id, %error, "a pack's trailer cannot be read");
                    lock(&self.unreadable).insert(*id, (*kind, error.to_string()));
                }
                Err(error) => return Err(error),
            }
            let done = self.done.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            progress(done, count(self.packs.len()));
        }
        Ok(())
    }

    fn contents(&self, kind: PackKind, id: PackId, size: u64) -> Result<Contents> {
        match self.vault.read_contents(kind, id, size) {
            Err(error) if is_damage(&error) => {
                if self.vault.heal_pack(kind, &id)? == Heal::Lost {
                    return Err(error);
                }
                // The listed size may have been that of the damaged copy.
                let healed = self.vault.store.get(&names::pack(kind, &id), MAX_OBJECT_LEN)?;
                self.vault.read_contents(kind, id, count(healed.len()))
            }
            other => other,
        }
    }

    /// Adds to what waits for an index object, and hands it on when it is enough for one. Nobody else
    /// adds meanwhile, which bounds the memory.
    fn add(
        &self,
        contents: Contents,
        hand_on: impl FnOnce(Vec<Contents>) -> Result<()>,
    ) -> Result<()> {
        let mut batch = lock(&self.batch);
        batch.records = batch.records.saturating_add(contents.entries.len());
        batch.packs.push(contents);
        if batch.records < RECORDS {
            return Ok(());
        }
        hand_on(std::mem::take(&mut *batch).packs)
    }

    /// Makes an index object durable.
    fn seal(&self, packs: Vec<Contents>) -> Result<(Ulid, IndexObject)> {
        let object = IndexObject { packs };
        let plain =
            object.encode().map_err(|source| VaultError::Format { what: "the index", source })?;
        let id = self.vault.new_ulid();
        let name = names::index(id);
        let sealed = self.vault.seal(SealedKind::Index, &name, &plain)?;
        drop(plain);
        self.vault.store.put_new(&name, &sealed)?;
        {
            let mut report = lock(&self.report);
            let records = object.packs.iter().map(|pack| count(pack.entries.len())).sum::<u64>();
            report.packs = report.packs.saturating_add(count(object.packs.len()));
            report.records = report.records.saturating_add(records);
            report.index_objects_written = report.index_objects_written.saturating_add(1);
            report.index_bytes_written =
                report.index_bytes_written.saturating_add(count(sealed.len()));
        }
        Ok((id, object))
    }

    /// Adds an index object to the local index.
    fn index(&self, (id, object): &(Ulid, IndexObject)) -> Result<()> {
        let added = self.vault.index.add(&[(*id, &object.packs)]);
        added.map_err(|error| self.vault.local_error(error))
    }

    /// Takes over what old index objects say of packs that do not say it themselves any more.
    fn keep_what_was_known(&self, old: &[Ulid]) -> Result<()> {
        let mut missing = std::mem::take(&mut *lock(&self.unreadable));
        let total = count(missing.len());
        let mut named = Vec::new();
        let mut name = |id: PackId, (kind, reason): (PackKind, String), indexed| {
            if named.len() < MAX_NAMED {
                let object = names::pack(kind, &id).to_string();
                named.push(UnreadablePack { object, reason, indexed });
            }
        };
        for id in old {
            if missing.is_empty() {
                break;
            }
            let object = match self.vault.read_index_object(*id) {
                Ok(object) => object,
                Err(error) if is_damage(&error) => continue,
                Err(error) => return Err(error),
            };
            for contents in object.packs {
                if let Some(found) = missing.remove(&contents.id) {
                    name(contents.id, found, true);
                    self.add(contents, |packs| self.index(&self.seal(packs)?))?;
                }
            }
        }
        missing.into_iter().for_each(|(id, found)| name(id, found, false));
        named.sort_by(|a, b| a.object.cmp(&b.object));
        let mut report = lock(&self.report);
        report.unreadable_packs = total;
        report.unreadable = named;
        Ok(())
    }
}
