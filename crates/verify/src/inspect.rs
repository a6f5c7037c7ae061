//! Judges an object by its copies, reports what is wrong, and has it repaired if that was asked
//! for and is safe.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_base::{Cancel, Clock, Coded as _, PackId, WriterId, lock};
use strongroom_format::{names, pack::PackKind};
use strongroom_objects::{Heal, Key, MAX_OBJECT_LEN, ObjectStore};
use strongroom_reports::{CopyState, DamagedObject, FailedRepair, ObjectKind, UnsoundCopy};
use ulid::Ulid;

use super::{Copies, VerifyOptions, VerifyReport, copies::Seen, report::MAX_NAMED, words::words};
use strongroom_vault::{Vault, VaultError, VaultOptions, Writer, audit::announce_repair};

use crate::Result;

/// A check of an object's bytes; the error is what is wrong with them.
pub(super) type CheckBytes<'a> = &'a dyn Fn(&[u8]) -> std::result::Result<(), String>;

/// Looks at objects and collects the report.
pub(super) struct Inspector<'a> {
    pub(super) copies: Copies,
    repairs: &'a Repairs<'a>,
    report: Mutex<VerifyReport>,
    clock: Arc<dyn Clock>,
    /// How long it may still wait in all for what is being written or deleted.
    patience: Mutex<Duration>,
    /// Packs that no index object listed when they were read.
    unindexed: Mutex<HashSet<PackId>>,
}

/// Pauses before a copy that is missing is believed to be, while others work on the vault: they put
/// and delete in one copy after the other.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// In all. Where much is missing, it is not for want of time.
const PATIENCE: Duration = Duration::from_secs(20);

impl<'a> Inspector<'a> {
    pub(super) fn new(
        store: &Arc<dyn ObjectStore>,
        vault: &VaultOptions,
        options: &VerifyOptions,
        repairs: &'a Repairs<'a>,
    ) -> Self {
        let copies = Copies::new(store, options.limit_rate, &vault.clock);
        let report = VerifyReport {
            mode: options.mode,
            sample_percent: options.sample,
            copies: copies.names().to_vec(),
            absent_copies: store.degraded(),
            ..VerifyReport::default()
        };
        Self {
            copies,
            repairs,
            report: Mutex::new(report),
            clock: Arc::clone(&vault.clock),
            patience: Mutex::new(PATIENCE),
            unindexed: Mutex::default(),
        }
    }

    /// Whether repairs were asked for.
    pub(super) fn wants_repair(&self) -> bool {
        self.repairs.wanted
    }

    /// The manifest of a point that has a deletion note and is locked until then.
    pub(super) fn promise(&self, manifest: &Key, until: Timestamp) {
        lock(&self.repairs.promised).insert(manifest.clone(), until);
    }

    /// Whether some copy has an object of this name, good or not.
    pub(super) fn is_there(&self, key: &Key) -> Result<bool> {
        self.copies.have(key)
    }

    /// The report so far, to be added to.
    pub(super) fn report(&self) -> MutexGuard<'_, VerifyReport> {
        lock(&self.report)
    }

    pub(super) fn into_report(self, took: Duration, cancel: &Cancel) -> VerifyReport {
        let mut report = self.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.interrupted = cancel.is_cancelled();
        report.clean = !report.interrupted
            && !report.undecided
            && report.absent_copies.is_empty()
            && report.damaged_objects == report.repaired_objects
            && report.damaged_recovery_points == 0
            && !report.index_incomplete;
        report.damaged.sort_by(|a, b| (a.kind, &a.object).cmp(&(b.kind, &b.object)));
        report.failed_repairs = self.repairs.failures();
        report.seconds = took.as_secs_f64();
        report
    }

    /// Looks at every copy. If one lacks the object while others work on the vault, looks again after
    /// a moment: it may be just about to come or to go.
    pub(super) fn look(&self, key: &Key, max_len: u64, check: CheckBytes<'_>) -> Result<Seen> {
        let mut seen = self.copies.look(key, max_len, check)?;
        for pause in PAUSES {
            let lacks = seen.unsound.iter().any(|copy| copy.state == CopyState::Missing);
            if !lacks || seen.is_gone() || !self.is_busy(key)? || !self.may_wait(pause) {
                break;
            }
            self.clock.sleep(pause);
            seen = self.copies.look(key, max_len, check)?;
        }
        Ok(seen)
    }

    fn may_wait(&self, pause: Duration) -> bool {
        let mut patience = lock(&self.patience);
        let left = patience.checked_sub(pause);
        *patience = left.unwrap_or_default();
        left.is_some()
    }

    /// Whether somebody may be putting or deleting this object: an announced writer, a reclaim that has
    /// condemned something, or anybody if it is a note.
    fn is_busy(&self, key: &Key) -> Result<bool> {
        if key.as_str().starts_with(names::WRITERS) {
            // A copy may lack it: see `is_spare`.
            return Ok(false);
        }
        let notes = [names::DELETED, names::CONDEMNED, names::DAMAGED];
        if notes.iter().any(|prefix| key.as_str().starts_with(prefix)) {
            return Ok(true);
        }
        let own = self.repairs.own();
        let mut busy = false;
        for prefix in [names::WRITERS, names::CONDEMNED] {
            self.copies.list(prefix, |_, entry| {
                busy |= own.is_none() || names::parse_writer(&entry.key) != own;
            })?;
        }
        Ok(busy)
    }

    /// No index object listed this pack.
    pub(super) fn unindexed(&self, pack: PackId) {
        lock(&self.unindexed).insert(pack);
    }

    /// Says how many packs no index object lists: not those that have got one since, are gone, or
    /// may be of a backup that is running. `bad` index objects list nothing.
    pub(super) fn count_unindexed(&self, vault: &Vault, bad: &HashSet<Ulid>) -> Result<()> {
        let mut unindexed = std::mem::take(&mut *lock(&self.unindexed));
        if unindexed.is_empty() {
            return Ok(());
        }
        let own = self.repairs.own();
        let writers = vault.writers()?;
        let others = writers.iter().filter(|writer| Some(writer.id) != own);
        let young = others.map(|writer| writer.first_heard).min();
        let packs = vault.audit().list_packs()?;
        vault.sync()?;
        let listed = vault.index().listed_except(bad);
        let counts = packs.iter().filter(|pack| {
            let theirs = young.is_some_and(|young| pack.modified >= young);
            unindexed.remove(&pack.id) && !theirs && !listed.contains(&pack.id)
        });
        self.report().unindexed_packs = u64::try_from(counts.count()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// No copy has an object that must be there.
    pub(super) fn lost(&self, kind: ObjectKind, key: &Key) {
        let copies = self.copies.names().iter().map(|copy| UnsoundCopy {
            copy: copy.clone(),
            state: CopyState::Missing,
            reason: "it is not there".to_owned(),
        });
        self.damaged(DamagedObject {
            object: key.to_string(),
            kind,
            copies: copies.collect(),
            good_copies: 0,
            repaired: false,
            readable_records: None,
            lost_records: None,
        });
    }

    /// An object that was reported is good again, or something else stands for it.
    pub(super) fn mended(&self, key: &Key) {
        let mut report = self.report();
        report.repaired_objects = report.repaired_objects.saturating_add(1);
        if let Some(found) = report.damaged.iter_mut().find(|found| found.object == key.as_str()) {
            found.repaired = true;
        }
    }

    /// Whether it is the note of this verify's own repairs, which is being put or taken back.
    pub(super) fn is_own(&self, key: &Key) -> bool {
        self.repairs.own().is_some_and(|own| names::parse_writer(key) == Some(own))
    }

    /// What was to repair an object failed.
    pub(super) fn not_repaired(&self, key: &Key, error: &VaultError) {
        self.repairs.failed(key, error);
    }

    /// Whether an object may be repaired or replaced.
    pub(super) fn may_repair(&self, key: &Key) -> Result<bool> {
        self.repairs.allows(key)
    }

    /// Looks at all copies of an object other than a pack, reports and repairs. The bytes of a
    /// good copy, if there is one.
    pub(super) fn object(
        &self,
        kind: ObjectKind,
        key: &Key,
        max_len: u64,
        check: CheckBytes<'_>,
    ) -> Result<Option<Vec<u8>>> {
        self.object_of(kind, key, max_len, &[check])
    }

    /// As [`Self::object`], where several kinds of objects may stand under the name: the copies are
    /// judged by the first check that any of them stands, or else by the first of all.
    pub(super) fn object_of(
        &self,
        kind: ObjectKind,
        key: &Key,
        max_len: u64,
        checks: &[CheckBytes<'_>],
    ) -> Result<Option<Vec<u8>>> {
        let first = *checks.first().ok_or(VaultError::Bug("an object without a check"))?;
        let mut check = first;
        let mut seen = self.look(key, max_len, first)?;
        for other in checks.iter().skip(1) {
            if seen.good.is_some() || seen.is_gone() {
                break;
            }
            let again = self.look(key, max_len, *other)?;
            if again.good.is_some() {
                (seen, check) = (again, *other);
            }
        }
        if seen.is_gone() {
            // It was deleted since it was listed.
            return Ok(None);
        }
        {
            let mut report = self.report();
            report.metadata_objects = report.metadata_objects.saturating_add(1);
        }
        self.judge(kind, key, &seen, check)?;
        Ok(seen.good)
    }

    /// Reports and repairs what is wrong with the copies that were seen.
    pub(super) fn judge(
        &self,
        kind: ObjectKind,
        key: &Key,
        seen: &Seen,
        check: CheckBytes<'_>,
    ) -> Result<()> {
        if seen.unsound.is_empty() || is_spare(kind, seen) || self.is_being_deleted(key, seen)? {
            return Ok(());
        }
        let repaired = seen.good.is_some() && self.repair(key, seen, check)?;
        self.damaged(DamagedObject {
            object: key.to_string(),
            kind,
            copies: seen.unsound.clone(),
            good_copies: seen.good_copies,
            repaired,
            readable_records: None,
            lost_records: None,
        });
        Ok(())
    }

    /// Whether copies are missing because reclaim deletes them one after the other.
    fn is_being_deleted(&self, key: &Key, seen: &Seen) -> Result<bool> {
        let only_missing = seen.unsound.iter().all(|copy| copy.state == CopyState::Missing);
        if !only_missing {
            return Ok(false);
        }
        if self.repairs.is_doomed(key)? {
            return Ok(true);
        }
        Ok(!self.is_there(key)?)
    }

    /// Has the store put good copies in place of bad ones. Whether all copies are good now.
    fn repair(&self, key: &Key, seen: &Seen, check: CheckBytes<'_>) -> Result<bool> {
        // Which of two authentic copies is the right one is not for a machine to guess, and what
        // cannot be read may be good.
        let repairable = |state| matches!(state, CopyState::Missing | CopyState::Damaged);
        if !seen.unsound.iter().all(|copy| repairable(copy.state)) || !self.repairs.allows(key)? {
            return Ok(false);
        }
        match self.repairs.store().heal(key, &|bytes| check(bytes).is_ok()) {
            Ok(Heal::Repaired) => {
                tracing::info!(object = %key, "repaired");
                Ok(true)
            }
            // A reader may have repaired it meanwhile; or its copy is not written any more.
            Ok(Heal::Healthy) => {
                Ok(self.copies.look(key, MAX_OBJECT_LEN, check)?.unsound.is_empty())
            }
            Ok(Heal::Lost) => Ok(false),
            Err(error) => {
                self.repairs.failed(key, &error.into());
                Ok(false)
            }
        }
    }

    /// Adds an object to the report.
    pub(super) fn damaged(&self, object: DamagedObject) {
        tracing::warn!(object = object.object, repaired = object.repaired, "damaged");
        let mut report = self.report();
        report.damaged_objects = report.damaged_objects.saturating_add(1);
        if object.repaired {
            report.repaired_objects = report.repaired_objects.saturating_add(1);
        }
        if report.damaged.len() < MAX_NAMED {
            report.damaged.push(object);
        }
    }
}

/// Whether all that is wrong is that some copies lack the note of a writer: it could not be put into
/// all of them, or not be deleted in all. Readers ask every copy for notes, so one is enough; it goes
/// when its writer is given up.
fn is_spare(kind: ObjectKind, seen: &Seen) -> bool {
    kind == ObjectKind::WriterNote
        && seen.good.is_some()
        && seen.unsound.iter().all(|copy| copy.state == CopyState::Missing)
}

/// Decides what may be repaired, so that nothing comes back that is being deleted.
pub(super) struct Repairs<'a> {
    wanted: bool,
    how: How<'a>,
    /// Manifests of points that are locked in spite of their deletion notes, and until when.
    promised: Mutex<HashMap<Key, Timestamp>>,
    /// Why the first one that failed did.
    failure: Mutex<Option<FailedRepair>>,
    /// Nothing can be repaired: the vault cannot be written to.
    given_up: AtomicBool,
}

/// A lock that ends within this time may have ended by the clocks of others: they may be removing the
/// point, and a repair would bring it back.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(24);

enum How<'a> {
    /// With the key: announced as a writer from the first repair on.
    Keyed { vault: &'a Arc<Vault>, host: &'a str, announced: Mutex<Option<Box<Announced>>> },
    /// Without: nothing is repaired while there are condemnations.
    Blind { store: &'a Arc<dyn ObjectStore> },
}

struct Announced {
    writer: Writer,
    /// What may be deleted at any moment.
    doomed: Doomed,
}

/// What reclaim may be deleting now, where its coming back would do harm: condemned packs, and
/// manifests of deleted points.
struct Doomed {
    keys: HashSet<Key>,
    /// A condemnation cannot be read: it may have named any pack.
    all_packs: bool,
}

impl Doomed {
    fn contains(&self, key: &Key) -> bool {
        self.keys.contains(key) || self.all_packs && names::parse_pack(key).is_some()
    }
}

impl<'a> Repairs<'a> {
    pub(super) fn keyed(vault: &'a Arc<Vault>, options: &'a VerifyOptions) -> Self {
        let how = How::Keyed { vault, host: &options.host, announced: Mutex::default() };
        Self::new(options.repair, how)
    }

    pub(super) fn blind(store: &'a Arc<dyn ObjectStore>, options: &VerifyOptions) -> Self {
        Self::new(options.repair, How::Blind { store })
    }

    fn new(wanted: bool, how: How<'a>) -> Self {
        Self {
            wanted,
            how,
            promised: Mutex::default(),
            failure: Mutex::default(),
            given_up: false.into(),
        }
    }

    /// A repair failed.
    fn failed(&self, key: &Key, error: &VaultError) {
        tracing::warn!(object = %key, %error, "not repaired");
        let (copy, code, reason) =
            (self.store().name(), error.code().name.to_owned(), words(error));
        lock(&self.failure).get_or_insert(FailedRepair { copy, code, reason });
    }

    /// Why repairs were not made: of a mirror, for each copy that is not written any more, be it since the
    /// note was put by which others know of the repair.
    fn failures(&self) -> Vec<FailedRepair> {
        if !self.wanted {
            return Vec::new();
        }
        let refused = self.store().refusals().into_iter().map(|refusal| FailedRepair {
            copy: refusal.copy,
            code: refusal.code.name.to_owned(),
            reason: refusal.reason,
        });
        let refused: Vec<_> = refused.collect();
        if refused.is_empty() { lock(&self.failure).take().into_iter().collect() } else { refused }
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        match &self.how {
            How::Keyed { vault, .. } => vault.store(),
            How::Blind { store } => store,
        }
    }

    /// Whether reclaim may be deleting it now.
    fn is_doomed(&self, key: &Key) -> Result<bool> {
        match &self.how {
            How::Keyed { vault, .. } => {
                let now = vault.clock().now();
                Ok(!self.is_promised(key, now) && doomed(vault)?.contains(key))
            }
            How::Blind { .. } => Ok(false),
        }
    }

    fn allows(&self, key: &Key) -> Result<bool> {
        if !self.wanted || self.given_up.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match &self.how {
            How::Blind { store } => {
                let mut condemned = false;
                store.list(names::CONDEMNED, &mut |_| {
                    condemned = true;
                    ControlFlow::Break(())
                })?;
                Ok(!condemned)
            }
            How::Keyed { vault, host, announced } => {
                let mut announced = lock(announced);
                let state = match &mut *announced {
                    Some(state) => state,
                    None => match Announced::new(vault, host) {
                        Ok(new) => announced.insert(Box::new(new)),
                        // The check continues without.
                        Err(error @ VaultError::Store(_)) => {
                            self.given_up.store(true, Ordering::Relaxed);
                            self.failed(key, &error);
                            return Ok(false);
                        }
                        Err(error) => return Err(error),
                    },
                };
                let sure = vault.clock().now().checked_add(CLOCKS_DIFFER);
                Ok(sure.is_ok_and(|sure| self.is_promised(key, sure))
                    || !state.doomed.contains(key))
            }
        }
    }

    /// Whether it is of a point that has a deletion note and is locked at that time.
    fn is_promised(&self, key: &Key, at: Timestamp) -> bool {
        lock(&self.promised).get(key).is_some_and(|until| *until > at)
    }

    /// As which writer a repair has announced itself.
    fn own(&self) -> Option<WriterId> {
        match &self.how {
            How::Keyed { announced, .. } => {
                lock(announced).as_ref().map(|announced| announced.writer.id())
            }
            How::Blind { .. } => None,
        }
    }

    /// Takes leave if a repair had to announce itself.
    pub(super) fn end(&self) {
        if let How::Keyed { announced, .. } = &self.how
            && let Some(announced) = lock(announced).take()
            && let Err(error) = announced.writer.end()
        {
            // What was found is worth more. Others give the note up after a while.
            tracing::warn!(%error, "the note of the repair stays for the next reclaim");
        }
    }
}

impl Announced {
    fn new(vault: &Arc<Vault>, host: &str) -> Result<Self> {
        let writer = announce_repair(vault, host)?;
        Ok(Self { writer, doomed: doomed(vault)? })
    }
}

fn doomed(vault: &Vault) -> Result<Doomed> {
    let mut doomed = HashSet::new();
    let condemned = vault.audit().condemned_packs()?;
    for pack in condemned.packs {
        doomed.extend([PackKind::Data, PackKind::Node].map(|kind| names::pack(kind, &pack)));
    }
    let deleted = vault.audit().point_names()?.deleted;
    doomed.extend(deleted.into_iter().map(|(item, point)| names::point(item, point)));
    Ok(Doomed { keys: doomed, all_packs: !condemned.unreadable.is_empty() })
}
