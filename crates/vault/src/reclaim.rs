//! Reclaim: frees what no recovery point needs, beside running backups.
//!
//! ```text
//!  mark ─▶ choose ─▶ condemn ─▶ wait for writers ─▶ mark again ─▶ copy ─▶ check ─▶ delete
//! ```
//!
//! The protocol and why it loses nothing: `docs/decisions/0004-reclaim.md`. In short:
//! 1. A condemned pack is never relied upon by anything new, and a condemnation is taken back only
//!    when its packs are gone. So a reclaim that pauses and wakes later deletes nothing needed.
//! 2. Writers that may not have seen the condemnation are waited for, or expired.
//! 3. Before a pack is deleted, everything in it that any point needs has a copy in a pack that
//!    exists and that nobody has condemned.
//!
//! A crash between any two steps loses nothing; the next reclaim adopts the condemnations.
//!
//! This module owns the order of the steps; the modules below own a step each. Nothing else in the crate deletes a
//! pack or a manifest. It must not know who keeps a catalog of points: the caller says which deletion notes count.

mod blocks;
mod mark;
mod noted;
mod recompress;
mod repack;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_base::{Cancel, PackId, PointId, Stage, Things, WriterId};
use strongroom_format::{
    names::{self, ItemKey},
    pack::PackKind,
};
use strongroom_reports::ReclaimReport;
use ulid::Ulid;

use self::mark::Marks;
pub use self::noted::{NotedPoints, Notes};
use crate::{
    Vault, VaultError,
    condemned::Condemnation,
    error::Result,
    read::is_damage,
    together::{ask, cuts_of},
    voids::Named,
    write::ListedPack,
    writers::{Life, Seen},
};

/// Clocks that differ by less than this are not worth a word.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_mins(2);

/// How a reclaim is done.
#[derive(Clone, Debug)]
pub struct ReclaimOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long to wait for running backups before leaving the rest to the next reclaim.
    pub wait: Duration,
    /// How often to look whether they have finished.
    pub poll: Duration,
    /// Packs of which less than this share of the bytes is needed are compacted, in percent.
    pub compact_below: u8,
    /// Packs smaller than this share of a full pack are merged, in percent, where there are at
    /// least eight of a kind.
    pub merge_below: u8,
    /// Threads for marking; at least 1.
    pub threads: usize,
    /// Name of this host, for others to see who is at work.
    pub host: String,
    /// Which deletion notes are executed.
    pub notes: Notes,
    /// The time by which locks are judged; if not given, this host's or the store's, whichever is
    /// behind.
    pub now: Option<Timestamp>,
    /// First compress what is needed once more, with what takes longer and gains more: at most this
    /// number of bytes. What is left is for the next reclaim.
    pub recompress: Option<u64>,
}

impl ReclaimOptions {
    /// Bytes that one reclaim compresses once more, if nobody says otherwise: as long as they and their
    /// successors are both there, they take the space of both.
    pub const RECOMPRESS: u64 = 64 << 30;
}

impl Default for ReclaimOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            wait: Duration::from_hours(1),
            poll: Duration::from_secs(2),
            compact_below: 50,
            merge_below: 25,
            threads: 2,
            host: String::new(),
            notes: Notes::default(),
            now: None,
            recompress: None,
        }
    }
}

/// How far a reclaim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimProgress {
    /// Recompressing, marking, waiting, copying or deleting.
    pub stage: Stage,
    /// What is counted: recovery points, backups or packs.
    pub things: Things,
    /// How many of them are done.
    pub done: u64,
    /// How many there are; 0 if that is not known.
    pub total: u64,
}

impl ReclaimProgress {
    fn new(stage: Stage, things: Things, done: usize, total: usize) -> Self {
        let count = |number| u64::try_from(number).unwrap_or(u64::MAX);
        Self { stage, things, done: count(done), total: count(total) }
    }
}

/// Gets progress, from several threads.
pub type OnReclaim<'a> = &'a (dyn Fn(ReclaimProgress) + Sync);

/// What was fixed when the reclaim began.
struct Start {
    /// Deletion notes that this reclaim honours; others and later ones are for the next.
    tombstones: HashSet<(ItemKey, PointId)>,
    /// Condemnations of others that did not get to their end.
    adopted: Vec<(Ulid, Condemnation)>,
    /// Packs in which a verify has found damage. They are kept as long as something may need what
    /// is still good in them, and never copied, as that would fail.
    damaged: HashSet<PackId>,
}

/// What the vault holds at one moment.
struct View {
    packs: HashMap<PackId, ListedPack>,
    points: BTreeMap<ItemKey, Vec<PointId>>,
    sources: HashSet<Ulid>,
}

/// Frees what no recovery point needs.
pub fn reclaim(
    vault: &Arc<Vault>,
    options: &ReclaimOptions,
    cancel: &Cancel,
) -> Result<ReclaimReport> {
    reclaim_watched(vault, options, &|_| {}, cancel)
}

/// As [`reclaim`], and tells how far it has come.
pub fn reclaim_watched(
    vault: &Arc<Vault>,
    options: &ReclaimOptions,
    progress: OnReclaim<'_>,
    cancel: &Cancel,
) -> Result<ReclaimReport> {
    let copies = vault.store.degraded();
    if !options.dry_run && !copies.is_empty() {
        return Err(VaultError::Degraded { copies });
    }
    let mut report = ReclaimReport { dry_run: options.dry_run, ..ReclaimReport::default() };
    let emptied = match options.recompress {
        Some(most) if !options.dry_run => {
            recompress::recompress(vault, options, most, (progress, cancel), &mut report)?
        }
        _ => HashSet::new(),
    };
    // The index decides what is deleted: it must be what the vault says, to the bit.
    vault.sync_checked()?;
    let (mut ahead, mut begun) = (SignedDuration::ZERO, None);
    vault.together(vec![
        ask(&mut ahead, || vault.clock_ahead()),
        ask(&mut begun, || Start::and_view(vault, options).map(Some)),
    ])?;
    let (start, noted, mut view) = begun.ok_or(VaultError::Bug("a reclaim that did not begin"))?;
    if ahead.abs() > CLOCKS_AGREE {
        report.clock_ahead_seconds = Some(ahead.as_secs());
    }
    (report.held, report.removed) = (noted.held, noted.due);
    let mut condemned = start.condemned();
    view = view.with_leftovers(vault, &start, options)?;
    let mut marks = Marks::new(vault, &view.packs, &condemned, &start.damaged);
    let marked = marks.mark_points(&view.points, options.threads, progress, cancel);
    marked.or_else(|error| view.explain(vault, error))?;
    let kept = (&condemned, &start.damaged);
    let victims = choose(vault, options, &view, &marks, (kept, &emptied), &mut report)?;
    if options.dry_run {
        if let Some(most) = options.recompress {
            recompress::foresee(vault, &view, &marks, kept, most, &mut report)?;
        }
        return Ok(report);
    }
    let own = condemn(vault, &victims, &condemned)?;
    condemned.extend(victims);
    if condemned.is_empty() && start.tombstones.is_empty() {
        // Nobody waits for those that name nothing.
        for (id, _) in start.adopted.iter().filter(|(_, adopted)| adopted.packs.is_empty()) {
            vault.remove_condemnation(*id)?;
        }
        expire_gone(vault, &mut report)?;
        vault.store.sweep()?;
        return Ok(report);
    }
    progress(ReclaimProgress::new(Stage::Waiting, Things::Backups, 0, 0));
    wait_for_writers(vault, options, cancel, &mut report)?;
    if !report.waiting_for.is_empty() {
        report.removed.clear();
        return Ok(report);
    }
    // From here on nobody who has not seen the condemnation can publish.
    let known: BTreeSet<Ulid> = start.adopted.iter().map(|(id, _)| *id).chain(own).collect();
    sweep::check_alone(vault, &known)?;
    let mut later = View::of(vault, &start, Some(&view))?;
    later.forget_new_voids(vault, &view)?;
    if later.differs_from(&view) {
        report.nodes_read = marks.nodes_read();
        marks = Marks::new(vault, &later.packs, &condemned, &start.damaged);
        let marked = marks.mark_points(&later.points, options.threads, progress, cancel);
        marked.or_else(|error| later.explain(vault, error))?;
    } else {
        marks.set_condemned(&condemned);
    }
    report.nodes_read = report.nodes_read.saturating_add(marks.nodes_read());
    let watch = (progress, cancel);
    sweep::copy_live(vault, options, &marks, &later.packs, &condemned, watch, &mut report)?;
    sweep::check_alone(vault, &known)?;
    sweep::check_packs(vault, &marks)?;
    // They hold on to the index as it was; and nodes are not read any more.
    drop(marks);
    vault.forget_nodes();
    sweep::delete(vault, &later.packs, &condemned, &start.tombstones, progress, &mut report)?;
    for id in known {
        vault.remove_condemnation(id)?;
    }
    for pack in &start.damaged {
        if condemned.contains(pack) || !later.packs.contains_key(pack) {
            vault.remove_damage_note(pack)?;
        }
    }
    vault.store.sweep()?;
    vault.sync()?;
    report.freed_bytes = report.removed_bytes.saturating_sub(report.copied_bytes);
    Ok(report)
}

impl Start {
    /// What is fixed now, and then the first view.
    fn and_view(vault: &Vault, options: &ReclaimOptions) -> Result<(Self, NotedPoints, View)> {
        let mut noted = NotedPoints::default();
        let (mut adopted, mut damaged) = (Vec::new(), HashSet::new());
        vault.together(vec![
            ask(&mut noted, || vault.noted_points(&options.notes, options.now)),
            ask(&mut adopted, || vault.condemnations()),
            ask(&mut damaged, || vault.damaged_packs()),
        ])?;
        let start = Self { tombstones: std::mem::take(&mut noted.keys), adopted, damaged };
        let view = View::of(vault, &start, None)?;
        Ok((start, noted, view))
    }

    /// The packs that others have condemned.
    fn condemned(&self) -> HashSet<PackId> {
        self.adopted.iter().flat_map(|(_, condemnation)| condemnation.packs()).collect()
    }
}

impl View {
    /// The same with what interrupted runs have left, which is adopted.
    fn with_leftovers(
        self,
        vault: &Vault,
        start: &Start,
        options: &ReclaimOptions,
    ) -> Result<Self> {
        if !self.has_leftovers(vault) {
            return Ok(self);
        }
        if options.dry_run {
            vault.ask_unlisted()?;
        } else {
            vault.adopt_leftovers()?;
        }
        Self::of(vault, start, Some(&self))
    }

    /// Lists points, then packs, then index objects: what a listed point needs was stored before
    /// it, so both others show it, unless another reclaim moves it meanwhile. Where an earlier view has
    /// shown many points, their list is asked for in parts.
    fn of(vault: &Vault, start: &Start, earlier: Option<&Self>) -> Result<Self> {
        let names = earlier.map(|view| &view.points).into_iter().flatten();
        let names: Vec<_> = names
            .flat_map(|(item, points)| points.iter().map(|point| names::point(*item, *point)))
            .collect();
        let mut points: BTreeMap<ItemKey, Vec<PointId>> = BTreeMap::new();
        for entry in vault.list_in_parts(names::POINTS, &cuts_of(names.iter()))? {
            if let Some((item, point)) = names::parse_point(&entry.key)
                && !start.tombstones.contains(&(item, point))
            {
                points.entry(item).or_default().push(point);
            }
        }
        let packs = vault.list_packs()?.into_iter().map(|pack| (pack.id, pack)).collect();
        vault.sync()?;
        Ok(Self { packs, points, sources: vault.index.sources() })
    }

    /// Leaves out what has been forbidden since an earlier view, which nobody needs to mark.
    fn forget_new_voids(&mut self, vault: &Vault, earlier: &Self) -> Result<()> {
        for (item, points) in &mut self.points {
            let before = earlier.points.get(item).map_or(&[][..], Vec::as_slice);
            let (known, new): (Vec<_>, Vec<_>) =
                points.iter().copied().partition(|point| before.contains(point));
            *points = known;
            for point in new {
                match vault.named(*item, point) {
                    Ok(Named::Void) => {}
                    // What is damaged is reported when it is marked.
                    Err(error) if !is_damage(&error) => return Err(error),
                    _ => points.push(point),
                }
            }
        }
        self.points.retain(|_, points| !points.is_empty());
        Ok(())
    }

    fn differs_from(&self, other: &Self) -> bool {
        self.points != other.points || self.sources != other.sources
    }

    /// Why something needed was not found: another reclaim has moved it if packs have vanished
    /// since the view was taken, or removed it if a point has been deleted meanwhile.
    fn explain(&self, vault: &Vault, error: VaultError) -> Result<()> {
        if !is_damage(&error) {
            return Err(error);
        }
        let packs: HashSet<PackId> = vault.list_packs()?.into_iter().map(|pack| pack.id).collect();
        let visible = vault.point_names(None)?.visible;
        let deleted = self.points.iter().any(|(item, points)| {
            let left = visible.get(item);
            !points.iter().all(|point| left.is_some_and(|left| left.contains(point)))
        });
        // A list is no snapshot: one that took long may show neither where something was nor where
        // it was moved to. So packs that came count as much as packs that went.
        let same =
            packs.len() == self.packs.len() && self.packs.keys().all(|pack| packs.contains(pack));
        // Nor need a list of the index that took long show what another reclaim put in place of what.
        vault.sync()?;
        let same_index = vault.index.sources() == self.sources;
        let moved = deleted || !same || !same_index;
        Err(if moved { VaultError::ConcurrentReclaim } else { error })
    }

    /// Whether there are packs that no index object lists.
    fn has_leftovers(&self, vault: &Vault) -> bool {
        let indexed = vault.index.listed_packs();
        self.packs.keys().any(|pack| !indexed.contains(pack))
    }
}

/// Packs that are condemned, and damaged ones.
type Kept<'a> = (&'a HashSet<PackId>, &'a HashSet<PackId>);

/// Chooses packs to remove: with nothing needed, with little needed, and small ones to merge.
fn choose(
    vault: &Vault,
    options: &ReclaimOptions,
    view: &View,
    marks: &Marks<'_>,
    ((condemned, damaged), emptied): (Kept<'_>, &HashSet<PackId>),
    report: &mut ReclaimReport,
) -> Result<Vec<PackId>> {
    let live = marks.live_by_pack()?;
    // What a running backup has written looks dead until it publishes: left alone, to save the
    // copying. (Were it chosen, it would be copied out after the wait.)
    let writers = vault.writers()?;
    let active = writers.iter().filter(|writer| writer.life == Life::Active);
    let young = active.map(|writer| writer.first_heard).min();
    let percent = |part: u64, of: u64| part.saturating_mul(100).checked_div(of).unwrap_or(100);
    let full = |kind| match kind {
        PackKind::Data => vault.options.pack_size,
        PackKind::Node => crate::write::NODE_PACK.min(vault.options.pack_size),
    };
    let mut dead = Vec::new();
    let mut sparse: Vec<(u64, &ListedPack)> = Vec::new();
    let mut small: HashMap<PackKind, Vec<&ListedPack>> = HashMap::new();
    for pack in view.packs.values() {
        report.packs = report.packs.saturating_add(1);
        report.pack_bytes = report.pack_bytes.saturating_add(pack.size);
        let live_bytes = live.get(&pack.id).copied().unwrap_or(0);
        report.live_bytes = report.live_bytes.saturating_add(live_bytes);
        if condemned.contains(&pack.id) || young.is_some_and(|young| pack.modified >= young) {
            continue;
        }
        let full = u64::try_from(full(pack.kind)).unwrap_or(u64::MAX);
        if live_bytes == 0 {
            dead.push(pack.id);
        } else if damaged.contains(&pack.id) {
            // Not all of what is needed of it can be copied.
        } else if emptied.contains(&pack.id)
            || percent(live_bytes, pack.size) < u64::from(options.compact_below)
        {
            sparse.push((percent(live_bytes, pack.size), pack));
        } else if percent(pack.size, full) < u64::from(options.merge_below) {
            small.entry(pack.kind).or_default().push(pack);
        }
    }
    for packs in small.into_values().filter(|packs| packs.len() >= 8) {
        sparse.extend(packs.into_iter().map(|pack| (100, pack)));
    }
    sparse.sort_by_key(|(share, pack)| (*share, pack.id));
    // Bounded work and memory: the next reclaim continues.
    let mut budget = 64_u64 << 30;
    let mut chosen = Vec::new();
    for (_, pack) in sparse {
        let live_bytes = live.get(&pack.id).copied().unwrap_or(0);
        match budget.checked_sub(live_bytes) {
            Some(rest) => budget = rest,
            None => break,
        }
        chosen.push(pack.id);
    }
    dead.sort_unstable();
    report.packs_dead = u64::try_from(dead.len()).unwrap_or(u64::MAX);
    report.packs_compacted = u64::try_from(chosen.len()).unwrap_or(u64::MAX);
    let size = |pack: &PackId| view.packs.get(pack).map_or(0, |pack| pack.size);
    if options.dry_run {
        let removed = dead.iter().chain(&chosen).chain(condemned).map(size);
        report.removed_bytes = removed.fold(0, u64::saturating_add);
        let copied = chosen.iter().chain(condemned).filter_map(|pack| live.get(pack).copied());
        report.copied_bytes = copied.fold(0, u64::saturating_add);
        report.freed_bytes = report.removed_bytes.saturating_sub(report.copied_bytes);
    }
    dead.extend(chosen);
    Ok(dead)
}

/// Puts the condemnation of the victims, if there are any.
fn condemn(vault: &Vault, victims: &[PackId], condemned: &HashSet<PackId>) -> Result<Option<Ulid>> {
    if victims.is_empty() && condemned.is_empty() {
        return Ok(None);
    }
    let id = vault.new_ulid();
    let all = victims.iter().chain(condemned).copied();
    vault.put_condemnation(id, &Condemnation::new(all))?;
    Ok(Some(id))
}

/// Removes what writers left behind that are gone: there is nothing to wait for, so only for tidiness.
fn expire_gone(vault: &Vault, report: &mut ReclaimReport) -> Result<()> {
    for writer in vault.writers()?.iter().filter(|writer| writer.life != Life::Active) {
        give_up(vault, writer, report)?;
    }
    Ok(())
}

/// Stops a writer from publishing, and says whom.
fn give_up(vault: &Vault, writer: &Seen, report: &mut ReclaimReport) -> Result<()> {
    if vault.expire(writer)? {
        let why = match writer.life {
            Life::Dead => "its process is gone".to_owned(),
            Life::Silent | Life::Active => {
                format!("last heard of at {} by the store's clock", writer.last_heard)
            }
        };
        let who = format!("{}: {why}", writer.words());
        tracing::warn!("gave up the {who}");
        report.writers_expired = report.writers_expired.saturating_add(1);
        report.gave_up.push(who);
    }
    Ok(())
}

/// Waits until every writer that is there now has gone. Those that went silent are expired. The report
/// says who was still at work when the time was over.
fn wait_for_writers(
    vault: &Vault,
    options: &ReclaimOptions,
    cancel: &Cancel,
    report: &mut ReclaimReport,
) -> Result<()> {
    let mut waiting: HashSet<WriterId> =
        vault.writers()?.into_iter().map(|writer| writer.id).collect();
    let deadline = vault.options.clock.monotonic().saturating_add(options.wait);
    loop {
        if waiting.is_empty() {
            return Ok(());
        }
        if cancel.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        let mut present = HashSet::new();
        let mut names = Vec::new();
        for writer in vault.writers()? {
            if !waiting.contains(&writer.id) {
                continue;
            }
            if writer.life == Life::Active {
                present.insert(writer.id);
                names.push(writer.words());
            } else {
                give_up(vault, &writer, report)?;
            }
        }
        waiting = present;
        if !waiting.is_empty() {
            if vault.options.clock.monotonic() >= deadline {
                report.waiting_for = names;
                return Ok(());
            }
            vault.options.clock.sleep(options.poll);
        }
    }
}
