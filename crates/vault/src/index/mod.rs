//! The index: digest to place. A local cache that can be made again from the vault at any time.
//!
//! ```text
//!  index/<ulid> objects of the vault ──sync──▶ segments (sorted local files, few bits in memory)
//!  packs written by this run ──landed──▶ recent (in memory) ──flush──▶ index object + segment
//! ```
//!
//! A record counts only while the index object that it came from exists in the vault; reclaim
//! removes those objects before it forgets that it removed packs. Several processes may share
//! the cache folder: files are immutable and made under their final name in one step.

mod filter;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use strongroom_base::{Digest, PackId};
use strongroom_format::pack::{Contents, Entry, Header};
use ulid::Ulid;

pub use segment::Location;
pub(crate) use segment::Segment;
use segment::{Draft, PackRow, RawRecord};

/// Segments of about one size that are merged into one.
const MERGE_AT: usize = 8;

/// The index of one vault.
pub struct Index {
    dir: PathBuf,
    segments: RwLock<Vec<Loaded>>,
    condemned: RwLock<HashSet<PackId>>,
    recent: [Mutex<HashMap<Digest, Recent>>; SHARDS],
    recent_packs: Mutex<HashMap<PackId, Arc<PackInfo>>>,
}

const SHARDS: usize = 16;

/// A digest that this run has seen or written.
enum Recent {
    /// Claimed by a worker; its pack is not durable yet.
    Pending,
    /// In a durable pack that no segment has yet.
    Landed(Arc<PackInfo>, Entry),
}

/// A pack that no segment has yet.
struct PackInfo {
    id: PackId,
    size: u64,
    header: Header,
}

impl PackInfo {
    fn location(&self, entry: Entry) -> Location {
        Location { pack: self.id, pack_size: self.size, header: self.header, entry }
    }
}

/// A segment and which of its packs count.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(crate) segment: Arc<Segment>,
    /// By pack row: its source exists and no other segment speaks for it.
    pub(crate) alive: Arc<[bool]>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            condemned: RwLock::default(),
            recent: std::array::from_fn(|_| Mutex::default()),
            recent_packs: Mutex::default(),
        };
        let present = segments.iter().flat_map(|s| s.sources.iter().copied()).collect();
        index.install(segments, &present);
        Ok(index)
    }

    /// Index objects that the segments cover.
    pub(crate) fn sources(&self) -> HashSet<Ulid> {
        self.loaded().iter().flat_map(|loaded| loaded.segment.sources.clone()).collect()
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

    /// Says which index objects exist in the vault; what came from others is forgotten.
    pub(crate) fn set_present(&self, present: &HashSet<Ulid>) -> io::Result<()> {
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

    /// Adds the packs of index objects as one segment.
    pub(crate) fn add(&self, objects: &[(Ulid, &[Contents])]) -> io::Result<()> {
        let mut draft = Draft::new();
        for (source, (_, packs)) in objects.iter().enumerate() {
            packs.iter().for_each(|contents| draft.add(contents, source));
        }
        let sources: Vec<Ulid> = objects.iter().map(|(id, _)| *id).collect();
        let Some(name) = sources.iter().max() else { return Ok(()) };
        let segment = draft.write(&self.dir.join(format!("{name}.segment")), &sources)?;
        self.push(segment);
        let landed: HashSet<PackId> =
            objects.iter().flat_map(|(_, packs)| packs.iter().map(|pack| pack.id)).collect();
        for shard in &self.recent {
            lock(shard).retain(|_, recent| match recent {
                Recent::Pending => true,
                Recent::Landed(pack, _) => !landed.contains(&pack.id),
            });
        }
        lock(&self.recent_packs).retain(|id, _| !landed.contains(id));
        self.merge()
    }

    fn push(&self, segment: Segment) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let known: HashSet<Ulid> =
            segments.iter().flat_map(|loaded| loaded.segment.sources.clone()).collect();
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
        let mut deltas = Vec::new();
        let mut rows: Vec<Vec<Option<u32>>> = Vec::new();
        for loaded in group {
            let first = sources.len();
            sources.extend(&loaded.segment.sources);
            let new_rows = loaded.segment.packs.iter().zip(loaded.alive.iter());
            let new_rows = new_rows
                .map(|(pack, alive)| {
                    let row = u32::try_from(packs.len()).ok().filter(|_| *alive)?;
                    let source = first.saturating_add(pack.source);
                    packs.push(PackRow { source, ..pack.clone() });
                    Some(row)
                })
                .collect();
            rows.push(new_rows);
            deltas.extend(&loaded.segment.deltas);
        }
        deltas.sort_unstable();
        deltas.dedup();
        // Two passes: count what is kept, then write it.
        let mut count = 0_u64;
        let mut counting = Merge::new(group, &rows)?;
        while counting.next()?.is_some() {
            count = count.saturating_add(1);
        }
        let mut merge = Merge::new(group, &rows)?;
        let name = sources.iter().max().copied().unwrap_or_default();
        let path = self.dir.join(format!("{name}-{}.segment", group.len()));
        Segment::write(&path, &sources, &packs, &deltas, count, &mut || merge.next())
    }

    /// Packs that may be read but not be relied upon by anything new.
    pub(crate) fn set_condemned(&self, packs: HashSet<PackId>) {
        *self.condemned.write().unwrap_or_else(PoisonError::into_inner) = packs;
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, HashMap<Digest, Recent>> {
        let number = usize::from(digest.as_bytes()[31] & 15);
        let shard = self.recent.get(number).unwrap_or(&self.recent[0]);
        lock(shard)
    }

    /// All places of a digest: those that may be relied upon first, full blocks before deltas.
    pub fn find(&self, digest: &Digest) -> io::Result<Vec<Location>> {
        if let Some(Recent::Landed(pack, entry)) = self.shard(digest).get(digest) {
            return Ok(vec![pack.location(*entry)]);
        }
        let mut places = self.find_stored(digest)?;
        if places.len() > 1 {
            let condemned = self.condemned.read().unwrap_or_else(PoisonError::into_inner);
            places.sort_by_key(|place| {
                let delta = place.entry.kind == strongroom_format::pack::RecordKind::BlockDelta;
                (condemned.contains(&place.pack), delta)
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

    /// A place that something new may rely on, if there is one.
    pub fn find_reliable(&self, digest: &Digest) -> io::Result<Option<Location>> {
        let places = self.find(digest)?;
        let condemned = self.condemned.read().unwrap_or_else(PoisonError::into_inner);
        Ok(places.into_iter().find(|place| !condemned.contains(&place.pack)))
    }

    /// Asks whether the caller must store this digest. True is given to one caller only; to the
    /// others the digest counts as known, as it will be when the pack has landed.
    pub fn claim(&self, digest: &Digest) -> io::Result<bool> {
        if self.shard(digest).contains_key(digest) || self.find_reliable(digest)?.is_some() {
            return Ok(false);
        }
        let mut shard = self.shard(digest);
        if shard.contains_key(digest) {
            return Ok(false);
        }
        shard.insert(*digest, Recent::Pending);
        Ok(true)
    }

    /// A pack has become durable.
    pub(crate) fn landed(&self, contents: &Contents) {
        let pack =
            Arc::new(PackInfo { id: contents.id, size: contents.size, header: contents.header });
        lock(&self.recent_packs).insert(contents.id, Arc::clone(&pack));
        for entry in &contents.entries {
            let recent = Recent::Landed(Arc::clone(&pack), *entry);
            self.shard(&entry.digest).insert(entry.digest, recent);
        }
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

/// Several sorted scans as one.
struct Merge<'a> {
    scans: Vec<Source<'a>>,
}

/// A scan, the new rows of its packs, and the record it stands at.
type Source<'a> = (segment::Scan<'a>, &'a [Option<u32>], Option<RawRecord>);

impl<'a> Merge<'a> {
    fn new(group: &'a [Loaded], rows: &'a [Vec<Option<u32>>]) -> io::Result<Self> {
        let mut scans = Vec::new();
        for (loaded, rows) in group.iter().zip(rows) {
            let mut scan = (loaded.segment.scan(), rows.as_slice(), None);
            advance(&mut scan)?;
            scans.push(scan);
        }
        Ok(Self { scans })
    }

    fn next(&mut self) -> io::Result<Option<RawRecord>> {
        let least = self
            .scans
            .iter_mut()
            .filter(|scan| scan.2.is_some())
            .min_by_key(|scan| scan.2.map(|record| (record.digest(), record.row())));
        let Some(least) = least else { return Ok(None) };
        let record = least.2;
        advance(least)?;
        Ok(record)
    }
}

/// Steps to the next record whose pack is kept, under its new row.
fn advance(scan: &mut Source<'_>) -> io::Result<()> {
    scan.2 = loop {
        let Some(record) = scan.0.next()? else { break None };
        if let Some(Some(row)) = scan.1.get(record.row()) {
            break Some(record.with_row(*row));
        }
    };
    Ok(())
}
