//! Marking: which records do the recovery points need?
//!
//! A mark is one bit for each record of each index segment. Every needed digest marks one of its
//! records: one in a pack that exists and is not condemned, if there is one, and a full block
//! rather than a delta. A marked delta marks its base. Points of one disk are walked one after the
//! other, each only where it differs from the one before, so that the cost follows the distinct
//! nodes.
//!
//! Nodes are looked up one by one, because what is below one that is marked is not visited again.
//! Blocks, hundreds of times as many, are collected and looked up in order: then a page of the index
//! is read once for all digests on it, and not once for each.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use strongroom_base::{Cancel, Digest, PackId, PointId, Stage, Things};
use strongroom_format::{
    Manifest,
    names::ItemKey,
    pack::{Contents, Packing, RecordKind},
};
use strongroom_image::{Image, Node, NodeReader};

use super::{OnReclaim, ReclaimProgress, blocks::Blocks};
use crate::{
    Vault, VaultError,
    error::Result,
    images::{images, visit_images},
    index::{Loaded, RawRecord},
    read::is_damage,
    together::read_ahead,
    voids::Named,
    write::ListedPack,
};

/// Points whose manifests are read before the first of them is walked, over all items, where each costs a
/// round trip. Their roots must not push each other out of the memory of nodes.
const POINTS_AT_ONCE: usize = 1024;

/// How items are walked.
struct Walk<'a> {
    /// Requests for manifests of one item that are on their way at once.
    requests: usize,
    /// Points of one item whose manifests are read ahead.
    points: usize,
    is_marked: &'a (dyn Fn() + Sync),
    cancel: &'a Cancel,
}

/// Whether a record may serve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Its pack is not there, or the index forgot it.
    Gone,
    /// Somebody has found damage in its pack: it may be good or not.
    Doubtful,
    /// Its pack is condemned: it must be copied.
    Condemned,
    /// It can stay.
    Good,
}

struct Segment {
    loaded: Loaded,
    /// By pack row.
    uses: Vec<Use>,
    bits: Vec<AtomicU64>,
}

/// The marks over a fixed view of the index.
pub(super) struct Marks<'v> {
    vault: &'v Vault,
    segments: Vec<Segment>,
    nodes_read: AtomicU64,
}

/// Needed bytes of a pack.
pub(super) struct FullAndDelta {
    /// Of full blocks.
    pub(super) full: u64,
    /// Of deltas.
    pub(super) delta: u64,
    /// How the pack is packed.
    pub(super) packing: Packing,
}

/// A record that was found for a digest.
struct Instance {
    segment: usize,
    number: u64,
    record: RawRecord,
    pack: PackId,
    place: Use,
    packing: Packing,
}

impl Segment {
    /// What was found in this segment, the one of this number, and may serve.
    fn instances<'a>(
        &'a self,
        segment: usize,
        found: &'a mut Vec<(u64, RawRecord)>,
    ) -> impl Iterator<Item = Instance> + 'a {
        found.drain(..).filter_map(move |(number, record)| {
            let place = self.uses.get(record.row()).copied()?;
            let row = self.loaded.segment.packs.get(record.row())?;
            let (pack, packing) = (row.id, row.header.packing);
            let instance = Instance { segment, number, record, pack, place, packing };
            (place != Use::Gone).then_some(instance)
        })
    }
}

impl Instance {
    fn is_delta(&self) -> bool {
        self.record.entry().is_some_and(|entry| entry.kind == RecordKind::BlockDelta)
    }
}

impl<'v> Marks<'v> {
    pub(super) fn new(
        vault: &'v Vault,
        existing: &HashMap<PackId, ListedPack>,
        condemned: &HashSet<PackId>,
        damaged: &HashSet<PackId>,
    ) -> Self {
        let segments = vault.index.loaded().into_iter().map(|loaded| {
            let rows = loaded.segment.packs.iter().zip(loaded.alive.iter());
            let uses = rows.map(|(pack, alive)| match existing.contains_key(&pack.id) {
                true if *alive && condemned.contains(&pack.id) => Use::Condemned,
                true if *alive && damaged.contains(&pack.id) => Use::Doubtful,
                true if *alive => Use::Good,
                _ => Use::Gone,
            });
            let words = usize::try_from(loaded.segment.len().div_ceil(64)).unwrap_or(0);
            let mut bits = Vec::new();
            bits.resize_with(words, AtomicU64::default);
            Segment { uses: uses.collect(), bits, loaded }
        });
        Self { vault, segments: segments.collect(), nodes_read: AtomicU64::new(0) }
    }

    /// More packs are condemned now; what is marked stays marked.
    pub(super) fn set_condemned(&mut self, condemned: &HashSet<PackId>) {
        for segment in &mut self.segments {
            for (place, pack) in segment.uses.iter_mut().zip(&segment.loaded.segment.packs) {
                if *place != Use::Gone && condemned.contains(&pack.id) {
                    *place = Use::Condemned;
                }
            }
        }
    }

    pub(super) fn nodes_read(&self) -> u64 {
        self.nodes_read.load(Ordering::Relaxed)
    }

    /// All records of a digest that may serve.
    fn instances(&self, digest: &Digest) -> Result<Vec<Instance>> {
        let mut found = Vec::new();
        let mut instances = Vec::new();
        for (number, segment) in self.segments.iter().enumerate() {
            let looked = segment.loaded.segment.find(digest, &mut found);
            looked.map_err(|error| self.vault.local_error(error))?;
            instances.extend(segment.instances(number, &mut found));
        }
        Ok(instances)
    }

    fn bit(&self, instance: &Instance) -> Option<(&AtomicU64, u64)> {
        let word = usize::try_from(instance.number >> 6).ok()?;
        let bits = &self.segments.get(instance.segment)?.bits;
        Some((bits.get(word)?, 1 << (instance.number & 63)))
    }

    fn is_marked(&self, instance: &Instance) -> bool {
        self.bit(instance).is_some_and(|(word, mask)| word.load(Ordering::Relaxed) & mask != 0)
    }

    /// Marks a digest; false if it was marked before.
    pub(super) fn mark(&self, digest: &Digest) -> Result<bool> {
        self.mark_one(digest, false)
    }

    fn mark_one(&self, digest: &Digest, full: bool) -> Result<bool> {
        self.mark_among(digest, &self.instances(digest)?, full)
    }

    /// Marks one of the records of a digest, a full one if `full`.
    fn mark_among(&self, digest: &Digest, instances: &[Instance], full: bool) -> Result<bool> {
        // A full record, wherever it is, rather than a delta: a delta may have lost its base while
        // nobody needed it. Of equals the one that was packed best, in the pack of the highest name:
        // the same one next time, whatever the index looks like then, so that the others' packs become
        // free for good.
        let fulls = || instances.iter().filter(|instance| !instance.is_delta());
        let deltas = || instances.iter().filter(|instance| instance.is_delta());
        let (no_full, no_delta) = (fulls().next().is_none(), deltas().next().is_none());
        let best = fulls().max_by_key(|i| (i.place, i.packing, i.pack));
        if let Some(best) = best.filter(|best| best.place > Use::Doubtful) {
            if fulls().any(|instance| self.is_marked(instance)) {
                return Ok(false);
            }
            return self.set_mark(best);
        }
        if no_full && (full || no_delta) {
            let reason = "a recovery point needs it and no pack has it; nothing was reclaimed";
            return Err(self.vault.lost(digest, reason));
        }
        // Which of several deltas still has its base is not known here, nor which of several full
        // records in damaged packs is good: all stay.
        let mut new = false;
        for record in fulls() {
            new |= self.set_mark(record)?;
        }
        if full {
            return Ok(new);
        }
        for delta in deltas() {
            new |= self.set_mark(delta)?;
        }
        if new && !no_delta {
            match self.mark_bases(digest) {
                // Then it is one of the full records that counts.
                Err(error) if is_damage(&error) && !no_full => {}
                other => other?,
            }
        }
        Ok(new)
    }

    /// Marks blocks, whose order is changed.
    pub(super) fn mark_blocks(&self, blocks: &mut [Digest]) -> Result<()> {
        // The first bytes decide nearly always, and are compared faster.
        blocks.sort_unstable_by(|a, b| a.prefix().cmp(&b.prefix()).then_with(|| a.cmp(b)));
        let local = |error| self.vault.local_error(error);
        let mut readers: Vec<_> =
            self.segments.iter().map(|segment| segment.loaded.segment.ascending()).collect();
        let (mut found, mut instances) = (Vec::new(), Vec::new());
        let mut last = None;
        for block in blocks.iter() {
            if last.replace(block) == Some(block) {
                continue;
            }
            instances.clear();
            for ((number, segment), reader) in self.segments.iter().enumerate().zip(&mut readers) {
                reader.find(block, &mut found).map_err(local)?;
                if found.is_empty() {
                    continue;
                }
                instances.extend(segment.instances(number, &mut found));
            }
            self.mark_among(block, &instances, false)?;
        }
        Ok(())
    }

    /// Sets an instance's mark; false if it was set.
    fn set_mark(&self, instance: &Instance) -> Result<bool> {
        let (word, mask) =
            self.bit(instance).ok_or(VaultError::Bug("a record outside its segment"))?;
        Ok(word.fetch_or(mask, Ordering::Relaxed) & mask == 0)
    }

    fn bases_of(&self, digest: &Digest) -> Result<Vec<Digest>> {
        let mut bases = Vec::new();
        for segment in &self.segments {
            let found = segment.loaded.segment.bases_of(digest);
            bases.extend(found.map_err(|error| self.vault.local_error(error))?);
        }
        Ok(bases)
    }

    /// Marks the bases of a delta. The index does not say which of a digest's deltas has which
    /// base, where two writers have stored it against different ones: all that exist are kept.
    fn mark_bases(&self, digest: &Digest) -> Result<()> {
        let bases = self.bases_of(digest)?;
        let mut lost = None;
        let mut found = false;
        for base in bases {
            match self.mark_one(&base, true) {
                Ok(_) => found = true,
                // Of a delta that is gone as well.
                Err(error @ (VaultError::Lost { .. } | VaultError::NotIndexed { .. })) => {
                    lost = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match lost {
            Some(error) if !found => Err(error),
            None if !found => Err(VaultError::Bug("a delta without a base in the index")),
            _ => Ok(()),
        }
    }

    /// Marks everything that the points need. Items are walked side by side; the threads that
    /// are left help to look up their blocks.
    pub(super) fn mark_points(
        &self,
        points: &BTreeMap<ItemKey, Vec<PointId>>,
        threads: usize,
        progress: OnReclaim<'_>,
        cancel: &Cancel,
    ) -> Result<()> {
        let items: Vec<_> = points.iter().collect();
        let total = points.values().map(Vec::len).sum();
        let marked = AtomicUsize::new(0);
        let point_is_marked = || {
            let done = marked.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            progress(ReclaimProgress::new(Stage::Marking, Things::RecoveryPoints, done, total));
        };
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<VaultError>> = Mutex::default();
        // Where each node costs a round trip, walkers wait most of the time.
        let threads = if self.vault.store.is_local() { threads } else { threads.max(32) };
        let walkers = threads.min(items.len()).max(1);
        let share = |of: usize| of.checked_div(walkers).unwrap_or(1).max(1);
        let walk = Walk {
            requests: share(self.vault.at_once()),
            points: if self.vault.store.is_local() { 1 } else { share(POINTS_AT_ONCE) },
            is_marked: &point_is_marked,
            cancel,
        };
        let work = || {
            let mut blocks = Blocks::new(self, walkers, threads);
            let walked = (|| {
                while let Some((item, points)) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.mark_item(**item, points, &mut blocks, &walk)?;
                }
                blocks.mark_all()
            })();
            if let Err(error) = walked {
                next.store(items.len(), Ordering::Relaxed);
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..walkers {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn mark_item(
        &self,
        item: ItemKey,
        points: &[PointId],
        blocks: &mut Blocks<'_, 'v>,
        walk: &Walk<'_>,
    ) -> Result<()> {
        let mut before: HashMap<String, Image> = HashMap::new();
        let is_far = !self.vault.store.is_local();
        for points in points.chunks(walk.points) {
            if walk.cancel.is_cancelled() {
                return Err(VaultError::Interrupted);
            }
            // They come in any order, and are walked in their own.
            let mut manifests = BTreeMap::new();
            let read = |point: &PointId| self.manifest(item, *point, is_far);
            read_ahead(
                walk.requests,
                u64::MAX,
                points,
                |_| 0,
                read,
                |point, manifest| {
                    manifests.insert(*point, manifest);
                    Ok(())
                },
            )?;
            for point in points {
                if let Some(manifest) = manifests.remove(point).transpose()?.flatten() {
                    self.mark_manifest(&manifest, &mut before, blocks)?;
                }
                (walk.is_marked)();
            }
        }
        Ok(())
    }

    /// The manifest of a point; none if it is a void. With its roots, which are asked for next, `ahead`
    /// of that.
    fn manifest(&self, item: ItemKey, point: PointId, ahead: bool) -> Result<Option<Manifest>> {
        let named = self.vault.agreed(item, point).map_err(|error| {
            if is_damage(&error) {
                VaultError::PointDamaged { point, source: Box::new(error) }
            } else {
                error
            }
        })?;
        match named {
            Named::Point(manifest) => {
                for (_, image) in images(&manifest)?.into_iter().filter(|_| ahead) {
                    // What is the matter with it is found out when it is marked.
                    if !image.root().is_hole() {
                        drop(self.vault.node(image.root()));
                    }
                }
                Ok(Some(*manifest))
            }
            Named::Void => Ok(None),
            // Only a reclaim removes manifests: if it is gone now, another one is at work.
            Named::Nothing => Err(VaultError::ConcurrentReclaim),
        }
    }

    fn mark_manifest(
        &self,
        manifest: &Manifest,
        before: &mut HashMap<String, Image>,
        blocks: &mut Blocks<'_, 'v>,
    ) -> Result<()> {
        visit_images(manifest, before, &Nodes(self), blocks)
    }

    /// Needed bytes of every pack, with what the pack itself takes: of a pack that is needed
    /// altogether these are all its bytes, so that it is never taken for a sparse one.
    pub(super) fn live_by_pack(&self) -> Result<HashMap<PackId, u64>> {
        let mut live = HashMap::new();
        for segment in &self.segments {
            let mut by_row = vec![0_u64; segment.uses.len()];
            self.for_marked(segment, &mut |record| {
                let bytes = record.entry().map_or(0, |entry| Contents::share_of(&entry));
                if let Some(sum) = by_row.get_mut(record.row()) {
                    *sum = sum.saturating_add(bytes);
                }
                Ok(())
            })?;
            for (pack, bytes) in segment.loaded.segment.packs.iter().zip(by_row) {
                let sum: &mut u64 = live.entry(pack.id).or_default();
                if *sum == 0 && bytes > 0 {
                    *sum = Contents::FRAME;
                }
                *sum = sum.saturating_add(bytes);
            }
        }
        Ok(live)
    }

    /// Needed bytes of every pack that stays, by what they are.
    pub(super) fn full_by_pack(&self) -> Result<Vec<(PackId, FullAndDelta)>> {
        let mut found = Vec::new();
        for segment in &self.segments {
            let mut by_row = vec![(0_u64, 0_u64); segment.uses.len()];
            self.for_marked(segment, &mut |record| {
                let Some(entry) = record.entry() else { return Ok(()) };
                let Some((full, delta)) = by_row.get_mut(record.row()) else { return Ok(()) };
                let bytes = Contents::share_of(&entry);
                let sum = if entry.kind == RecordKind::BlockDelta { delta } else { full };
                *sum = sum.saturating_add(bytes);
                Ok(())
            })?;
            let rows = segment.loaded.segment.packs.iter().zip(&segment.uses).zip(by_row);
            found.extend(rows.filter(|((_, place), _)| **place == Use::Good).map(
                |((row, _), (full, delta))| {
                    (row.id, FullAndDelta { full, delta, packing: row.header.packing })
                },
            ));
        }
        Ok(found)
    }

    /// The needed full records of packs, in the order in which they lie.
    pub(super) fn full_records(
        &self,
        of: &HashSet<PackId>,
    ) -> Result<HashMap<PackId, Vec<RawRecord>>> {
        let mut records: HashMap<PackId, Vec<RawRecord>> = HashMap::new();
        for segment in &self.segments {
            self.for_marked(segment, &mut |record| {
                let pack = segment.loaded.segment.packs.get(record.row());
                let is_full =
                    record.entry().is_some_and(|entry| entry.kind != RecordKind::BlockDelta);
                if let Some(pack) = pack.filter(|pack| is_full && of.contains(&pack.id)) {
                    records.entry(pack.id).or_default().push(*record);
                }
                Ok(())
            })?;
        }
        for records in records.values_mut() {
            let place = |record: &RawRecord| record.entry().map(|e| (e.offset, e.part.at));
            records.sort_unstable_by_key(place);
            records.dedup_by_key(|record| place(record));
        }
        Ok(records)
    }

    /// Packs that are not condemned and that something needed is in.
    pub(super) fn relied_upon(&self) -> Result<HashSet<PackId>> {
        let live = self.live_by_pack()?;
        let good = self.segments.iter().flat_map(|segment| {
            let rows = segment.loaded.segment.packs.iter().zip(&segment.uses);
            let stays = |place: Use| matches!(place, Use::Good | Use::Doubtful);
            rows.filter(move |(_, place)| stays(**place)).map(|(pack, _)| pack.id)
        });
        Ok(good.filter(|pack| live.get(pack).is_some_and(|bytes| *bytes > 0)).collect())
    }

    /// Needed records that only condemned packs have, by pack. One full record of a digest is enough;
    /// of deltas it is not known which has its base.
    pub(super) fn to_copy(&self) -> Result<HashMap<PackId, Vec<RawRecord>>> {
        let mut wanted: HashMap<PackId, Vec<RawRecord>> = HashMap::new();
        // Only of those of which there are several: the others are many.
        let mut several = HashSet::new();
        for segment in &self.segments {
            self.for_marked(segment, &mut |record| {
                let row = record.row();
                let Some(pack) = segment.loaded.segment.packs.get(row) else { return Ok(()) };
                if segment.uses.get(row) != Some(&Use::Condemned) {
                    return Ok(());
                }
                let instances = self.instances(&record.digest())?;
                let fulls = || instances.iter().filter(|instance| !instance.is_delta());
                // A full record outside the condemned packs serves in its place. A delta cannot: its
                // base may be gone.
                if let Some(good) = fulls().find(|instance| instance.place == Use::Good) {
                    self.set_mark(good)?;
                    return Ok(());
                }
                let kind = record.entry().map(|entry| entry.kind);
                let is_one_of_several =
                    kind != Some(RecordKind::BlockDelta) && fulls().nth(1).is_some();
                if !is_one_of_several || several.insert(record.digest()) {
                    wanted.entry(pack.id).or_default().push(*record);
                }
                Ok(())
            })?;
        }
        Ok(wanted)
    }

    fn for_marked(
        &self,
        segment: &Segment,
        visit: &mut dyn FnMut(&RawRecord) -> Result<()>,
    ) -> Result<()> {
        let mut scan = segment.loaded.segment.scan();
        let local = |error| self.vault.local_error(error);
        let mut number = 0_u64;
        while let Some(record) = scan.next().map_err(local)? {
            let word = usize::try_from(number >> 6).ok().and_then(|word| segment.bits.get(word));
            let word = word.map_or(0, |word| word.load(Ordering::Relaxed));
            if word & (1 << (number & 63)) != 0 {
                visit(&record)?;
            }
            number = number.saturating_add(1);
        }
        Ok(())
    }
}

/// Reads nodes and counts them.
struct Nodes<'a, 'v>(&'a Marks<'v>);

impl NodeReader for Nodes<'_, '_> {
    type Error = VaultError;

    fn read_node(&self, digest: Digest) -> Result<Arc<Node>> {
        self.0.nodes_read.fetch_add(1, Ordering::Relaxed);
        self.0.vault.node(digest)
    }
}
