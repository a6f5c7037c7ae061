//! Records by digest, from whichever copy has them good, without the repairs that ordinary reads
//! make on the way.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use strongroom_base::{BLOCK_SIZE, ByteRange, Digest, PackId, Recently, lock};
use strongroom_format::{
    codec::Decoder,
    names,
    pack::{Contents, Entry, PackKind, RecordKind},
};
use strongroom_image::Node;
use ulid::Ulid;

use super::inspect::Inspector;
use strongroom_vault::{Index, Location, Vault, VaultError, is_damage, temporary_folder};

use crate::Result;

/// Nodes lie next to each other in the order in which they are asked for.
const WINDOW: u64 = 256 * 1024;

/// A pack and the number of a window in it.
type WindowId = (PackId, u64);

/// Reads for one verify.
pub(super) struct Reading<'a> {
    pub(super) vault: &'a Vault,
    inspector: &'a Inspector<'a>,
    /// Places in packs that the vault's index does not know.
    extra: Index,
    /// How often packs were added there.
    added: AtomicU64,
    needs_unindexed: AtomicBool,
    /// Records that are not what they should be, as far as is known.
    bad: RwLock<Bad>,
    /// Deltas whose base was not found while packs were read: it may have been moved.
    baseless: Mutex<Vec<Location>>,
    /// Those beyond what is remembered.
    beyond: AtomicU64,
    windows: Mutex<Recently<WindowId, Arc<Vec<u8>>>>,
    nodes: Mutex<Recently<Digest, Arc<Node>>>,
    dir: tempfile::TempDir,
}

/// What cannot be relied upon.
#[derive(Default)]
struct Bad {
    /// Packs that exist.
    present: HashSet<PackId>,
    /// Packs of which nothing can be read.
    packs: HashSet<PackId>,
    /// Packs of which the other records are good.
    records: HashMap<PackId, HashSet<Digest>>,
    /// Deltas whose base is lost, by the last look.
    baseless: HashMap<PackId, HashSet<Digest>>,
}

impl Bad {
    fn is_good(&self, pack: &PackId, digest: &Digest) -> bool {
        let bad = |records: &HashMap<PackId, HashSet<Digest>>| {
            records.get(pack).is_some_and(|bad| bad.contains(digest))
        };
        self.present.contains(pack)
            && !self.packs.contains(pack)
            && !bad(&self.records)
            && !bad(&self.baseless)
    }
}

/// Deltas without base that are looked at again; of more than these it is just said.
const MAX_BASELESS: usize = 100_000;

impl<'a> Reading<'a> {
    pub(super) fn new(vault: &'a Vault, inspector: &'a Inspector<'a>) -> Result<Self> {
        let dir = temporary_folder()?;
        let extra = Index::open(dir.path())
            .map_err(|source| VaultError::Local { path: dir.path().to_owned(), source })?;
        Ok(Self {
            vault,
            inspector,
            extra,
            added: AtomicU64::new(1),
            needs_unindexed: AtomicBool::new(false),
            bad: RwLock::default(),
            baseless: Mutex::default(),
            beyond: AtomicU64::new(0),
            windows: Mutex::new(Recently::new(128)),
            nodes: Mutex::new(Recently::new(4096)),
            dir,
        })
    }

    /// An index, which is a local file, failed.
    fn local_error(&self, source: std::io::Error) -> VaultError {
        VaultError::Local { path: self.dir.path().to_owned(), source }
    }

    fn bad(&self) -> std::sync::RwLockWriteGuard<'_, Bad> {
        self.bad.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Says which packs exist.
    pub(super) fn set_present(&self, packs: impl Iterator<Item = PackId>) {
        self.bad().present = packs.collect();
    }

    /// The packs that exist.
    pub(super) fn present(&self) -> HashSet<PackId> {
        self.bad().present.clone()
    }

    /// Whether a pack exists.
    pub(super) fn is_present(&self, pack: &PackId) -> bool {
        self.bad.read().unwrap_or_else(std::sync::PoisonError::into_inner).present.contains(pack)
    }

    /// Nothing of a pack can be read.
    pub(super) fn add_bad_pack(&self, pack: PackId) {
        self.bad().packs.insert(pack);
    }

    /// Some records of a pack cannot be read.
    pub(super) fn add_bad_records(&self, pack: PackId, records: impl Iterator<Item = Digest>) {
        self.bad().records.entry(pack).or_default().extend(records);
    }

    /// The base of a delta was not found.
    pub(super) fn add_baseless(&self, place: Location) {
        let mut baseless = lock(&self.baseless);
        if baseless.len() < MAX_BASELESS {
            baseless.push(place);
        } else {
            self.beyond.fetch_add(1, Ordering::Relaxed);
            self.add_bad_records(place.pack, [place.entry.digest].into_iter());
        }
    }

    /// Looks again for the bases that were not found, as the index is now. A delta whose base is lost
    /// is lost as well, although its own pack is good. Returns how many are.
    pub(super) fn judge_baseless(&self) -> Result<u64> {
        let mut decoder = Decoder::new();
        let mut lost: HashMap<PackId, HashSet<Digest>> = HashMap::new();
        let mut count = self.beyond.load(Ordering::Relaxed);
        for place in lock(&self.baseless).iter() {
            if !self.delta_is_good(place, &mut decoder)? {
                lost.entry(place.pack).or_default().insert(place.entry.digest);
                count = count.saturating_add(1);
            }
        }
        self.bad().baseless = lost;
        Ok(count)
    }

    /// Adds packs that are in no index object.
    pub(super) fn add_unindexed(&self, packs: &[Contents]) -> Result<()> {
        // The id only tells the additions apart.
        let id = Ulid(self.added.fetch_add(1, Ordering::Relaxed).into());
        self.extra.add(&[(id, packs)]).map_err(|error| self.local_error(error))
    }

    /// Whether something that points need was found only in packs that are in no index object.
    pub(super) fn needs_unindexed(&self) -> bool {
        self.needs_unindexed.load(Ordering::Relaxed)
    }

    /// Something that points need was found only there.
    pub(super) fn need_unindexed(&self) {
        self.needs_unindexed.store(true, Ordering::Relaxed);
    }

    /// Points are looked at again.
    pub(super) fn forget_unindexed(&self) {
        self.needs_unindexed.store(false, Ordering::Relaxed);
    }

    /// All places of something that a point needs.
    fn needed(&self, digest: &Digest) -> Result<Vec<Location>> {
        let places = self.places(digest)?;
        if !self.extra.is_empty() && !places.is_empty() {
            let known = self.vault.index().find(digest).map_err(|e| self.local_error(e))?;
            if known.is_empty() {
                self.needs_unindexed.store(true, Ordering::Relaxed);
            }
        }
        Ok(places)
    }

    /// All places that an index knows, full records first.
    fn places(&self, digest: &Digest) -> Result<Vec<Location>> {
        let find = |index: &Index| index.find(digest).map_err(|e| self.local_error(e));
        let mut places = find(self.vault.index())?;
        if !self.extra.is_empty() {
            places.extend(find(&self.extra)?);
        }
        places.sort_by_key(|place| place.entry.kind == RecordKind::BlockDelta);
        Ok(places)
    }

    /// Whether a good record has this digest, as far as packs were verified; of others it counts
    /// that they exist. What is only there as a delta needs its base as well.
    pub(super) fn is_there(&self, digest: &Digest, verified: bool) -> Result<bool> {
        for place in self.needed(digest)? {
            let good = {
                let bad = self.bad.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                bad.is_good(&place.pack, digest)
            };
            if !good {
                continue;
            }
            if place.entry.kind != RecordKind::BlockDelta || verified {
                return Ok(true);
            }
            // Its base was not looked at with its pack.
            if let Some(base) = self.base(&place)?
                && self.is_there_in_full(&base)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_there_in_full(&self, digest: &Digest) -> Result<bool> {
        let places = self.places(digest)?;
        let bad = self.bad.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(places.iter().any(|place| {
            place.entry.kind != RecordKind::BlockDelta && bad.is_good(&place.pack, digest)
        }))
    }

    /// The packs that should hold a digest.
    pub(super) fn packs_of(&self, digest: &Digest) -> Result<Vec<(PackKind, PackId)>> {
        let places = self.places(digest)?;
        Ok(places.iter().map(|place| (place.header.kind, place.pack)).collect())
    }

    /// The base that a delta record names; none if it cannot be read.
    fn base(&self, place: &Location) -> Result<Option<Digest>> {
        self.record(place, |entry, key, mut sealed| entry.open(key, &mut sealed).ok()?.base)
    }

    /// Reads a place's sealed record from each copy until `accept` likes it.
    fn record<T>(
        &self,
        place: &Location,
        mut accept: impl FnMut(&Entry, &strongroom_format::SealKey, Vec<u8>) -> Option<T>,
    ) -> Result<Option<T>> {
        let object = names::pack(place.header.kind, &place.pack);
        let key = match self.vault.audit().pack_key(&place.header, &object) {
            Ok(key) => key,
            Err(error) if is_damage(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (start, len) = (u64::from(place.entry.offset), u64::from(place.entry.stored_len));
        let range = ByteRange::between(start, start.saturating_add(len));
        if place.header.kind == PackKind::Node
            && let Some(sealed) = self.windowed(place, range)?
            && let Some(value) = accept(&place.entry, &key, sealed)
        {
            return Ok(Some(value));
        }
        self.inspector.copies.find(&object, range, |_, sealed| accept(&place.entry, &key, sealed))
    }

    /// A record by way of a larger read of the first copy that answers, if it lies within one
    /// window.
    fn windowed(&self, place: &Location, range: ByteRange) -> Result<Option<Vec<u8>>> {
        let number = range.offset().checked_div(WINDOW).unwrap_or(0);
        let first = number.saturating_mul(WINDOW);
        let last = first.saturating_add(WINDOW).min(place.pack_size);
        if range.end() > last {
            return Ok(None);
        }
        let id = (place.pack, number);
        let known = lock(&self.windows).get(&id);
        let window = if let Some(window) = known {
            window
        } else {
            let object = names::pack(place.header.kind, &place.pack);
            let whole = ByteRange::between(first, last);
            let Some(window) =
                self.inspector.copies.find(&object, whole, |_, bytes| Some(bytes))?
            else {
                return Ok(None);
            };
            let window = Arc::new(window);
            lock(&self.windows).put(id, Arc::clone(&window));
            window
        };
        let at = |offset: u64| usize::try_from(offset.saturating_sub(first)).unwrap_or(usize::MAX);
        Ok(window.get(at(range.offset())..at(range.end())).map(<[u8]>::to_vec))
    }

    /// A tree node; none if no copy of any pack has it good.
    pub(super) fn node(&self, digest: Digest) -> Result<Option<Arc<Node>>> {
        if let Some(node) = lock(&self.nodes).get(&digest) {
            return Ok(Some(node));
        }
        for place in self.needed(&digest)? {
            let node = self.record(&place, |entry, key, mut sealed| {
                let payload = entry.open(key, &mut sealed).ok()?;
                let same = entry.kind == RecordKind::Node
                    && self.vault.hasher().node(payload.bytes) == digest;
                if same { Node::decode(payload.bytes).ok() } else { None }
            })?;
            if let Some(node) = node {
                let node = Arc::new(node);
                lock(&self.nodes).put(digest, Arc::clone(&node));
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Reads a block that is not stored as a delta; whether it was found good.
    pub(super) fn full_block(
        &self,
        digest: &Digest,
        decoder: &mut Decoder,
        plain: &mut Vec<u8>,
    ) -> Result<bool> {
        plain.resize(BLOCK_SIZE, 0);
        for place in self.places(digest)? {
            if place.entry.kind.pack_kind() != PackKind::Data
                || place.entry.kind == RecordKind::BlockDelta
                || usize::try_from(place.entry.plain_len) != Ok(plain.len())
            {
                continue;
            }
            let read = self.record(&place, |entry, key, mut sealed| {
                let payload = entry.open(key, &mut sealed).ok()?;
                let whole = usize::try_from(entry.record_plain_len()).ok()?;
                if whole == plain.len() {
                    decoder.decode(entry.kind.encoding(), payload.bytes, None, plain).ok()?;
                } else {
                    let mut unit = vec![0; whole];
                    decoder.decode(entry.kind.encoding(), payload.bytes, None, &mut unit).ok()?;
                    let start = entry.plain_start();
                    let block = unit.get(start..start.saturating_add(plain.len()))?;
                    plain.copy_from_slice(block);
                }
                (self.vault.hasher().block(plain) == *digest).then_some(())
            })?;
            if read.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a delta and its base are good.
    pub(super) fn delta_is_good(&self, place: &Location, decoder: &mut Decoder) -> Result<bool> {
        let Some(base) = self.base(place)? else { return Ok(false) };
        let mut base_bytes = Vec::new();
        if !self.full_block(&base, decoder, &mut base_bytes)? {
            return Ok(false);
        }
        let mut plain = vec![0; BLOCK_SIZE];
        let read = self.record(place, |entry, key, mut sealed| {
            let payload = entry.open(key, &mut sealed).ok()?;
            let encoding = entry.kind.encoding();
            decoder.decode(encoding, payload.bytes, Some(&base_bytes), &mut plain).ok()?;
            (self.vault.hasher().block(&plain) == place.entry.digest).then_some(())
        })?;
        Ok(read.is_some())
    }
}
