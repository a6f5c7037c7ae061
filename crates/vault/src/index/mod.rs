//! The index: digest to place. A local cache that can be made again from the vault at any time.
//!
//! ```text
//!  index/<ulid> objects of the vault ──sync──▶ segments (sorted local files, few bits in memory)
//!  packs written by this run ──▶ index object ──▶ segment
//! ```
//!
//! A record counts only while the index object that it came from exists in the vault; reclaim
//! removes those objects before it forgets that it removed packs. Several processes may share
//! the cache folder: files are immutable and made under their final name in one step.
//!
//! This module owns the answer to "where is the record of this digest". It must not know why a record is wanted,
//! and must never decide what exists: only packs and points do.

mod filter;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak},
};

use strongroom_base::{Digest, PackId, lock};
use strongroom_format::pack::{Contents, Header, RecordKind};
use ulid::Ulid;

pub use segment::Location;
use segment::{Counts, Draft, PackRow, RawDelta, Stream};
pub(crate) use segment::{RawRecord, Segment};

/// Segments of about one size that are merged into one.
const MERGE_AT: usize = 8;

/// The index of one vault.
pub struct Index {
    dir: PathBuf,
    segments: RwLock<Vec<Loaded>>,
    /// Packs that are known to be damaged.
    damaged: RwLock<Damaged>,
    /// Sources that no index object stands for: packs that were asked themselves.
    assumed: Mutex<HashSet<Ulid>>,
    /// The writers of this process that are at work, and what each may rely on.
    trusts: Mutex<Vec<Weak<Trust>>>,
    /// Whether they all share one, which is wrong: see [`Self::share_trust`].
    #[cfg(feature = "sabotage")]
    shares_trust: std::sync::atomic::AtomicBool,
    /// Held while segments are added, merged or forgotten, so that no thread undoes or repeats
    /// what another does. Readers do not need it.
    changing: Mutex<()>,
}

/// In which packs damage was found.
#[derive(Default)]
struct Damaged {
    /// Packs that could not be read, as far as this process has tried.
    lost: HashSet<PackId>,
    /// Packs that have a damage note.
    noted: HashSet<PackId>,
}

impl Damaged {
    fn contains(&self, pack: &PackId) -> bool {
        self.lost.contains(pack) || self.noted.contains(pack)
    }
}

/// Which packs one writer may rely on: those that it saw in the store, after it had read the
/// condemnations, and that are not condemned. Each writer has its own, as what one of them saw
/// says nothing of what another one may have missed.
#[derive(Default)]
pub(crate) struct Trust(RwLock<Seen>);

#[derive(Default)]
struct Seen {
    existing: HashSet<PackId>,
    condemned: HashSet<PackId>,
}

impl Trust {
    /// What the writer saw when it began.
    pub(crate) fn begin(&self, existing: HashSet<PackId>, condemned: HashSet<PackId>) {
        let mut seen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        seen.existing.extend(existing);
        seen.condemned = condemned;
    }

    fn landed(&self, pack: PackId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).existing.insert(pack);
    }

    fn seen(&self) -> RwLockReadGuard<'_, Seen> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writers that were announced before a pack was put.
pub(crate) struct Audience(Vec<Arc<Trust>>);

impl Audience {
    /// The pack is durable.
    pub(crate) fn landed(&self, pack: PackId) {
        self.0.iter().for_each(|trust| trust.landed(pack));
    }
}

/// A segment and which of its packs count.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) segment: Arc<Segment>,
    /// By pack row: its source exists and no other segment speaks for it.
    pub(crate) alive: Arc<[bool]>,
}

impl Loaded {
    /// The sources that this segment speaks for.
    fn counting(&self) -> impl Iterator<Item = Ulid> {
        let rows = self.segment.packs.iter().zip(self.alive.iter()).filter(|(_, alive)| **alive);
        rows.filter_map(|(pack, _)| self.segment.sources.get(pack.source).copied())
    }
}

impl Index {
    /// Opens the cache in `dir`, which is created if need be. Damaged files are removed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "segment") {
                match Segment::open(&path) {
                    Ok(segment) => segments.push(Arc::new(segment)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "index cache file dropped");
                        fs::remove_file(&path)?;
                    }
                }
            }
        }
        segments.sort_by(|a, b| a.path.cmp(&b.path));
        let index = Self {
            dir: dir.to_owned(),
            segments: RwLock::new(Vec::new()),
            damaged: RwLock::default(),
            assumed: Mutex::default(),
            trusts: Mutex::default(),
            #[cfg(feature = "sabotage")]
            shares_trust: false.into(),
            changing: Mutex::default(),
        };
        let present = segments.iter().flat_map(|s| s.sources.iter().copied()).collect();
        index.install(segments, &present);
        Ok(index)
    }

    /// Index objects whose packs some segment has and speaks for.
    pub fn sources(&self) -> HashSet<Ulid> {
        self.loaded().iter().flat_map(Loaded::counting).collect()
    }

    /// The segments as they are now; they stay readable whatever happens to the index.
    pub(crate) fn loaded(&self) -> Vec<Loaded> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the segments; packs count while their source is among `present`.
    fn install(&self, segments: Vec<Arc<Segment>>, present: &HashSet<Ulid>) {
        let mut spoken_for = HashSet::new();
        let loaded = segments
            .into_iter()
            .map(|segment| {
                let counts: Vec<bool> = segment
                    .sources
                    .iter()
                    .map(|source| present.contains(source) && spoken_for.insert(*source))
                    .collect();
                let alive = segment
                    .packs
                    .iter()
                    .map(|pack| counts.get(pack.source).copied().unwrap_or(false))
                    .collect();
                Loaded { segment, alive }
            })
            .collect();
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    /// Says which index objects a list of the vault has shown; what came from others is forgotten,
    /// except those that were added after `known` was asked for, before the list: another thread
    /// may have put them since.
    pub(crate) fn set_present(
        &self,
        mut present: HashSet<Ulid>,
        known: &HashSet<Ulid>,
    ) -> io::Result<()> {
        let _changing = lock(&self.changing);
        present.extend(self.sources().difference(known));
        present.extend(&*lock(&self.assumed));
        self.set_present_now(&present)
    }

    /// Takes a source for present, in this process, that no index object stands for.
    pub(crate) fn assume(&self, source: Ulid) {
        lock(&self.assumed).insert(source);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let _changing = lock(&self.changing);
        lock(&self.assumed).clear();
        self.set_present_now(&HashSet::new())
    }

    /// Forgets what came from index objects that are gone now.
    pub(crate) fn forget(&self, gone: &[Ulid]) -> io::Result<()> {
        let _changing = lock(&self.changing);
        let mut present = self.sources();
        present.retain(|id| !gone.contains(id));
        self.set_present_now(&present)
    }

    /// As [`Self::set_present`], for callers that are changing the segments already.
    fn set_present_now(&self, present: &HashSet<Ulid>) -> io::Result<()> {
        let mut kept = Vec::new();
        for Loaded { segment, .. } in self.loaded() {
            if segment.sources.iter().any(|source| present.contains(source)) {
                kept.push(segment);
            } else {
                remove(&segment.path)?;
            }
        }
        self.install(kept, present);
        Ok(())
    }

    /// Drops segments whose records are damaged; the next sync makes them again. Returns how many.
    pub(crate) fn drop_damaged(&self) -> io::Result<usize> {
        let _changing = lock(&self.changing);
        self.drop_damaged_now()
    }

    /// As [`Self::drop_damaged`], for callers that are changing the segments already.
    fn drop_damaged_now(&self) -> io::Result<usize> {
        let mut damaged = HashSet::new();
        for Loaded { segment, .. } in self.loaded() {
            if !segment.is_sound()? {
                tracing::warn!(path = %segment.path.display(), "damaged index cache file dropped");
                remove(&segment.path)?;
                damaged.insert(segment.path.clone());
            }
        }
        if !damaged.is_empty() {
            let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
            segments.retain(|loaded| !damaged.contains(&loaded.segment.path));
        }
        Ok(damaged.len())
    }

    /// Adds the packs of index objects as one segment.
    pub fn add(&self, objects: &[(Ulid, &[Contents])]) -> io::Result<()> {
        let _changing = lock(&self.changing);
        let packs = objects.iter().flat_map(|(_, packs)| packs.iter());
        let mut draft = Draft::with_room(packs.map(|pack| pack.entries.len()).sum());
        for (source, (_, packs)) in objects.iter().enumerate() {
            packs.iter().for_each(|contents| draft.add(contents, source));
        }
        let sources: Vec<Ulid> = objects.iter().map(|(id, _)| *id).collect();
        let Some(name) = sources.iter().max() else { return Ok(()) };
        let segment = draft.write(&self.dir.join(format!("{name}.segment")), &sources)?;
        self.push(segment);
        self.merge()
    }

    fn push(&self, segment: Segment) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let known: HashSet<Ulid> = segments.iter().flat_map(Loaded::counting).collect();
        let alive = segment
            .packs
            .iter()
            .map(|pack| segment.sources.get(pack.source).is_some_and(|s| !known.contains(s)))
            .collect();
        segments.push(Loaded { segment: Arc::new(segment), alive });
    }

    /// Merges segments of about one size, so that a look-up asks few files.
    fn merge(&self) -> io::Result<()> {
        loop {
            let loaded = self.loaded();
            let tier = |loaded: &Loaded| loaded.segment.len().max(1).ilog2().div_euclid(3);
            let group = loaded.iter().map(tier).find_map(|wanted| {
                let group: Vec<_> = loaded.iter().filter(|l| tier(l) == wanted).cloned().collect();
                (group.len() >= MERGE_AT).then_some(group)
            });
            let Some(group) = group else { return Ok(()) };
            if self.drop_damaged_now()? > 0 {
                continue;
            }
            let merged = self.merge_group(&group)?;
            let gone: HashSet<&Path> = group.iter().map(|l| l.segment.path.as_path()).collect();
            {
                let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
                segments.retain(|loaded| !gone.contains(loaded.segment.path.as_path()));
            }
            let path = merged.path.clone();
            self.push(merged);
            for old in gone.into_iter().filter(|old| *old != path) {
                remove(old)?;
            }
        }
    }

    fn merge_group(&self, group: &[Loaded]) -> io::Result<Segment> {
        let mut sources: Vec<Ulid> = Vec::new();
        let mut packs: Vec<PackRow> = Vec::new();
        let mut rows: Vec<Vec<Option<u32>>> = Vec::new();
        for loaded in group {
            let mut new_rows = Vec::with_capacity(loaded.segment.packs.len());
            for (pack, alive) in loaded.segment.packs.iter().zip(loaded.alive.iter()) {
                // A source whose packs do not count is left out with them: the merged segment must
                // not speak for what it does not have.
                let id = loaded.segment.sources.get(pack.source).filter(|_| *alive);
                let row = id.and_then(|_| u32::try_from(packs.len()).ok());
                if let Some(id) = id {
                    if sources.last() != Some(id) {
                        sources.push(*id);
                    }
                    let source = sources.len().saturating_sub(1);
                    packs.push(PackRow { source, ..pack.clone() });
                }
                new_rows.push(row);
            }
            rows.push(new_rows);
        }
        let mut counts = Counts { records: 0, deltas: 0 };
        for (loaded, rows) in group.iter().zip(&rows) {
            counts.records = counts.records.saturating_add(count_kept(&loaded.segment, rows)?);
            counts.deltas = counts.deltas.saturating_add(loaded.segment.deltas());
        }
        let (mut records, mut deltas) = (merge_records(group, &rows)?, merge_deltas(group)?);
        let name = sources.iter().max().copied().unwrap_or_default();
        let path = self.dir.join(format!("{name}-{}.segment", group.len()));
        let (mut records, mut deltas) = (|| records.next(), || deltas.next());
        Segment::write(&path, &sources, &packs, counts, &mut records, &mut deltas)
    }

    /// What a new writer may rely on: nothing yet. Asked for after it was announced.
    pub(crate) fn new_trust(&self) -> Arc<Trust> {
        let trust = Arc::new(Trust::default());
        let mut trusts = lock(&self.trusts);
        trusts.retain(|trust| trust.strong_count() > 0);
        #[cfg(feature = "sabotage")]
        if self.shares_trust.load(std::sync::atomic::Ordering::Relaxed)
            && let Some(trust) = trusts.first().and_then(Weak::upgrade)
        {
            return trust;
        }
        trusts.push(Arc::downgrade(&trust));
        trust
    }

    /// From now on all writers share what the last of them saw: the fault that the simulator must
    /// find.
    #[cfg(feature = "sabotage")]
    pub(crate) fn share_trust(&self) {
        self.shares_trust.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Writers that may rely on a pack that is put now: if it is condemned later, reclaim waits for them.
    pub(crate) fn audience(&self) -> Audience {
        Audience(lock(&self.trusts).iter().filter_map(Weak::upgrade).collect())
    }

    /// Says in which packs somebody has found damage, beside those that this process has found.
    pub(crate) fn set_noted(&self, noted: HashSet<PackId>) {
        self.damaged.write().unwrap_or_else(PoisonError::into_inner).noted = noted;
    }

    fn damaged(&self) -> RwLockReadGuard<'_, Damaged> {
        self.damaged.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All places of a digest: those in damaged packs last, full blocks before deltas.
    pub fn find(&self, digest: &Digest) -> io::Result<Vec<Location>> {
        let mut places = self.find_stored(digest)?;
        if places.len() > 1 {
            let damaged = self.damaged();
            places.sort_by_key(|place| {
                let delta = place.entry.kind == RecordKind::BlockDelta;
                (damaged.contains(&place.pack), delta)
            });
        }
        Ok(places)
    }

    fn find_stored(&self, digest: &Digest) -> io::Result<Vec<Location>> {
        let mut places = Vec::new();
        let mut found = Vec::new();
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        for Loaded { segment, alive } in segments.iter().rev() {
            segment.find(digest, &mut found)?;
            places.extend(found.drain(..).filter_map(|(_, record)| {
                let row = record.row();
                let pack = segment.packs.get(row).filter(|_| alive.get(row) == Some(&true))?;
                Some(Location {
                    pack: pack.id,
                    pack_size: pack.size,
                    header: pack.header,
                    entry: record.entry()?,
                })
            }));
        }
        Ok(places)
    }

    /// The bases that a digest's deltas may have.
    pub(crate) fn bases_of(&self, digest: &Digest) -> io::Result<Vec<Digest>> {
        let mut bases = Vec::new();
        for Loaded { segment, .. } in self.loaded() {
            bases.extend(segment.bases_of(digest)?);
        }
        Ok(bases)
    }

    /// A place that a writer may rely on, if there is one. A delta may be relied upon if its base
    /// may.
    pub(crate) fn find_reliable(
        &self,
        digest: &Digest,
        trust: &Trust,
    ) -> io::Result<Option<Location>> {
        let reliable = |place: &Location| {
            let (seen, pack) = (trust.seen(), &place.pack);
            seen.existing.contains(pack)
                && !seen.condemned.contains(pack)
                && !self.damaged().contains(pack)
        };
        let mut places = self.find(digest)?;
        places.retain(reliable);
        match places.first() {
            Some(place) if place.entry.kind == RecordKind::BlockDelta => {}
            other => return Ok(other.copied()),
        }
        // Two deltas of one digest may have different bases: all must be there.
        for base in self.bases_of(digest)? {
            let is_full = |place: &Location| place.entry.kind != RecordKind::BlockDelta;
            if !self.find(&base)?.iter().any(|place| is_full(place) && reliable(place)) {
                return Ok(None);
            }
        }
        Ok(places.first().copied())
    }

    /// A pack turned out to be missing or damaged beyond repair: from now on what it holds is
    /// stored again.
    pub(crate) fn distrust(&self, pack: PackId) {
        self.damaged.write().unwrap_or_else(PoisonError::into_inner).lost.insert(pack);
    }

    /// Packs that count but that a writer did not see in the store when it began.
    pub(crate) fn missing(&self, trust: &Trust) -> Vec<PackId> {
        let packs = self.packs();
        let seen = trust.seen();
        packs.into_keys().filter(|pack| !seen.existing.contains(pack)).collect()
    }

    /// Packs that count but are known to be damaged.
    pub(crate) fn distrusted(&self) -> HashSet<PackId> {
        let packs = self.packs();
        let damaged = self.damaged();
        packs.into_keys().filter(|pack| damaged.contains(pack)).collect()
    }

    /// Packs that count, with their sizes.
    pub(crate) fn packs(&self) -> HashMap<PackId, (Header, u64)> {
        let mut packs = HashMap::new();
        for Loaded { segment, alive } in self.loaded() {
            let rows = segment.packs.iter().zip(alive.iter()).filter(|(_, alive)| **alive);
            packs.extend(rows.map(|(pack, _)| (pack.id, (pack.header, pack.size))));
        }
        packs
    }

    /// Packs that count and that index objects list.
    pub(crate) fn listed_packs(&self) -> HashSet<PackId> {
        self.listed_except(&HashSet::new())
    }

    /// Packs that count and that index objects other than these list.
    pub fn listed_except(&self, others: &HashSet<Ulid>) -> HashSet<PackId> {
        let assumed = lock(&self.assumed).clone();
        self.packs_from(|source| !assumed.contains(source) && !others.contains(source))
    }

    /// Packs that count and that came from one index object.
    pub(crate) fn packs_of(&self, source: Ulid) -> HashSet<PackId> {
        self.packs_from(|other| *other == source)
    }

    fn packs_from(&self, wanted: impl Fn(&Ulid) -> bool) -> HashSet<PackId> {
        let mut packs = HashSet::new();
        for Loaded { segment, alive } in self.loaded() {
            let rows = segment.packs.iter().zip(alive.iter()).filter(|(pack, alive)| {
                **alive && segment.sources.get(pack.source).is_some_and(&wanted)
            });
            packs.extend(rows.map(|(pack, _)| pack.id));
        }
        packs
    }

    /// Records in all segments.
    pub fn len(&self) -> u64 {
        self.loaded().iter().fold(0, |sum, loaded| sum.saturating_add(loaded.segment.len()))
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Several sorted streams as one.
struct Merge<'a, T> {
    streams: Vec<(Box<Stream<'a, T>>, Option<T>)>,
}

impl<'a, T: Ord + Copy> Merge<'a, T> {
    fn new(streams: Vec<Box<Stream<'a, T>>>) -> io::Result<Self> {
        let streams = streams.into_iter().map(|mut stream| {
            let first = stream()?;
            Ok((stream, first))
        });
        Ok(Self { streams: streams.collect::<io::Result<_>>()? })
    }

    fn next(&mut self) -> io::Result<Option<T>> {
        let waiting = self.streams.iter_mut().filter(|(_, next)| next.is_some());
        let Some((stream, next)) = waiting.min_by_key(|(_, next)| *next) else { return Ok(None) };
        Ok(std::mem::replace(next, stream()?))
    }
}

/// The records of segments whose packs are kept, under their packs' new rows.
fn merge_records<'a>(
    group: &'a [Loaded],
    rows: &'a [Vec<Option<u32>>],
) -> io::Result<Merge<'a, RawRecord>> {
    let streams = group.iter().zip(rows).map(|(loaded, rows)| {
        let mut scan = loaded.segment.scan();
        let stream: Box<Stream<'a, RawRecord>> = Box::new(move || {
            while let Some(record) = scan.next()? {
                if let Some(Some(row)) = rows.get(record.row()) {
                    return Ok(Some(record.with_row(*row)));
                }
            }
            Ok(None)
        });
        stream
    });
    Merge::new(streams.collect())
}

/// How many records are of packs that are kept.
fn count_kept(segment: &Segment, rows: &[Option<u32>]) -> io::Result<u64> {
    if rows.iter().all(Option::is_some) {
        return Ok(segment.len());
    }
    let mut kept = 0_u64;
    let mut scan = segment.scan();
    while let Some(record) = scan.next()? {
        kept = kept.saturating_add(u64::from(matches!(rows.get(record.row()), Some(Some(_)))));
    }
    Ok(kept)
}

/// The deltas of segments. Those of forgotten packs stay, as nobody looks for them.
fn merge_deltas(group: &[Loaded]) -> io::Result<Merge<'_, RawDelta>> {
    let streams = group.iter().map(|loaded| {
        let mut scan = loaded.segment.scan_deltas();
        let stream: Box<Stream<'_, RawDelta>> = Box::new(move || scan.next());
        stream
    });
    Merge::new(streams.collect())
}
