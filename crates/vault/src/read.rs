//! Reading records: from a digest to checked plain bytes.
//!
//! Every record is authenticated by its cipher and checked against its digest. What turns out
//! damaged or missing is repaired from a mirror on the spot where there is one, then looked for in
//! other packs; only then is it lost.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use jiff::Timestamp;
use strongroom_base::{BLOCK_SIZE, ByteRange, Digest, PackId, Recently};
use strongroom_format::{
    codec::{Decoder, Encoding},
    names,
    pack::{self, Entry, PackKind, RecordKind},
};
use strongroom_image::{Node, NodeReader};
use strongroom_objects::{Entry as Object, Heal, Key};

use crate::{Location, Vault, VaultError, error::Result, write::ListedPack};

/// Stretches of packs that were read around single records: neighbours are asked for next.
pub(crate) struct Windows {
    recent: Mutex<Recently<WindowId, Arc<Vec<u8>>>>,
    len: u64,
    /// How many read in order to learn what the store has.
    askers: AtomicUsize,
}

/// As long as it lives, nodes are read from the store, not from what this host keeps of it.
pub(crate) struct FromStore<'a>(&'a Vault);

impl Drop for FromStore<'_> {
    fn drop(&mut self) {
        self.0.windows.askers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A pack and the number of the window in it.
type WindowId = (PackId, u64);

impl Windows {
    pub(crate) fn new(local: bool) -> Self {
        let (len, count) = if local { (128 * 1024, 64) } else { (1024 * 1024, 32) };
        Self { recent: Mutex::new(Recently::new(count)), len, askers: AtomicUsize::new(0) }
    }
}

/// Under which name a window of a pack of nodes is kept. (What it holds is checked when it is read, and
/// whether the pack exists is not asked of it.)
fn window_entry(pack: &PackId, number: u64, size: u64) -> Option<Object> {
    let key = Key::new(format!("{}{number}", windows_of(pack))).ok()?;
    Some(Object { key, size, modified: Timestamp::UNIX_EPOCH })
}

/// How the names of all windows of a pack begin.
fn windows_of(pack: &PackId) -> String {
    format!("windows/{pack}-")
}

/// The sealed bytes of a record, and of its base if that was fetched.
struct Sealed<'a> {
    bytes: &'a mut [u8],
    base: Option<(&'a Location, &'a [u8])>,
}

/// Working memory of a thread that reads blocks.
pub struct Reader<'v> {
    vault: &'v Vault,
    decoder: Decoder,
    base: Vec<u8>,
    /// The units that were opened last: their other blocks are asked for next.
    units: Vec<Unit>,
}

/// The plain bytes of a unit that was opened. Its blocks are compared with their digests when they are
/// taken out.
struct Unit {
    pack: PackId,
    offset: u32,
    plain: Vec<u8>,
}

/// Opened units that a reader keeps.
const UNITS_KEPT: usize = 2;

impl Vault {
    /// A reader for the calling thread.
    pub fn reader(&self) -> Reader<'_> {
        Reader { vault: self, decoder: Decoder::new(), base: Vec::new(), units: Vec::new() }
    }

    /// The places of a block, the best first.
    pub fn places(&self, digest: &Digest) -> Result<Vec<Location>> {
        self.index.find(digest).map_err(|error| self.local_error(error))
    }

    /// Where the base of a delta is, if the index knows one; of several it is a guess.
    pub fn base_of(&self, place: &Location) -> Result<Option<Location>> {
        if place.entry.kind != RecordKind::BlockDelta {
            return Ok(None);
        }
        for base in self.bases_of(&place.entry.digest)? {
            let mut places = self.places(&base)?;
            places.retain(|place| place.entry.kind != RecordKind::BlockDelta);
            if let Some(place) = places.into_iter().next() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// The bases that a digest's deltas may have.
    pub(crate) fn bases_of(&self, digest: &Digest) -> Result<Vec<Digest>> {
        self.index.bases_of(digest).map_err(|error| self.local_error(error))
    }

    /// A stretch of a data pack, as it is.
    pub fn fetch(&self, pack: &PackId, range: ByteRange) -> Result<Vec<u8>> {
        Ok(self.store.get_range(&names::pack(PackKind::Data, pack), range)?)
    }

    /// The sealed bytes of one record.
    fn sealed_record(&self, place: &Location) -> Result<Vec<u8>> {
        let key = names::pack(place.header.kind, &place.pack);
        let (start, len) = (u64::from(place.entry.offset), u64::from(place.entry.stored_len));
        if place.header.kind == PackKind::Data {
            return Ok(self
                .store
                .get_range(&key, ByteRange::between(start, start.saturating_add(len)))?);
        }
        // Nodes lie next to each other in the order in which they are read again.
        let mut bytes = Vec::new();
        let end = start.saturating_add(len);
        let window_len = self.windows.len;
        let mut at = start;
        while at < end {
            let number = at.checked_div(window_len).unwrap_or(0);
            let first = number.saturating_mul(window_len);
            let window = self.window(place, &key, number, first)?;
            let from = usize::try_from(at.saturating_sub(first)).unwrap_or(usize::MAX);
            let to =
                usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX).min(window.len());
            let part = window.get(from..to).filter(|part| !part.is_empty());
            let part = part.ok_or(VaultError::Pack { pack: place.pack })?;
            bytes.extend_from_slice(part);
            at = first.saturating_add(window_len);
        }
        Ok(bytes)
    }

    /// Keeps a pack of nodes that was just put: what is built upon it reads them again.
    pub(crate) fn keep_windows(&self, pack: &PackId, bytes: &[u8]) {
        let Some(kept) = &self.kept else { return };
        let len = usize::try_from(self.windows.len).unwrap_or(usize::MAX);
        for (number, window) in (0..).zip(bytes.chunks(len)) {
            let size = u64::try_from(window.len()).unwrap_or(u64::MAX);
            if let Some(entry) = window_entry(pack, number, size) {
                kept.put(&entry, window);
            }
        }
    }

    /// A pack of nodes that is kept as a whole, as small ones are.
    pub(crate) fn kept_pack(&self, pack: &ListedPack) -> Option<Vec<u8>> {
        let entry =
            window_entry(&pack.id, 0, pack.size).filter(|_| pack.size <= self.windows.len)?;
        self.kept.as_ref()?.get(&entry)
    }

    fn window(&self, place: &Location, key: &Key, number: u64, first: u64) -> Result<Arc<Vec<u8>>> {
        let cache = || self.windows.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = cache().get(&(place.pack, number)) {
            return Ok(window);
        }
        let last = first.saturating_add(self.windows.len).min(place.pack_size);
        let range = ByteRange::between(first, last);
        let entry = window_entry(&place.pack, number, range.len());
        let kept = self.kept.as_ref().zip(entry);
        let asks_store = || self.windows.askers.load(Ordering::Acquire) > 0;
        let found = kept.as_ref().filter(|_| !asks_store());
        let found = found.and_then(|(kept, entry)| kept.get(entry));
        let window = if let Some(window) = found {
            if asks_store() {
                // Somebody has begun to ask the store meanwhile, and may not meet this.
                return Ok(Arc::new(window));
            }
            window
        } else {
            let window = self.store.get_range(key, range)?;
            if let Some((kept, entry)) = kept {
                kept.put(&entry, &window);
            }
            window
        };
        let window = Arc::new(window);
        cache().put((place.pack, number), Arc::clone(&window));
        Ok(window)
    }

    /// Opens one record; `look` sees its payload.
    fn with_record<T>(
        &self,
        place: &Location,
        look: impl FnOnce(&Entry, pack::Payload<'_>) -> Result<T>,
    ) -> Result<T> {
        let object = names::pack(place.header.kind, &place.pack);
        let key = self.pack_key(&place.header, &object)?;
        let mut sealed = self.sealed_record(place)?;
        let payload = place
            .entry
            .open(&key, &mut sealed)
            .map_err(|source| VaultError::Object { object: object.to_string(), source })?;
        look(&place.entry, payload)
    }

    /// Tries a digest's places one after the other, each once more after healing its pack.
    fn try_places<T>(
        &self,
        digest: &Digest,
        mut read: impl FnMut(&Location) -> Result<T>,
    ) -> Result<T> {
        let mut last = None;
        for round in 0..2 {
            for place in self.index.find(digest).map_err(|e| self.local_error(e))? {
                match read(&place) {
                    Ok(value) => return Ok(value),
                    Err(error) if is_damage(&error) => {
                        tracing::warn!(pack = %place.pack, %error, "reading a record failed");
                        last = Some(error);
                        let healed = self.heal_pack(place.header.kind, &place.pack);
                        if matches!(healed, Ok(Heal::Lost)) {
                            self.index.distrust(place.pack);
                            continue;
                        }
                        // A bad copy that cannot be replaced is read last from now on.
                        match read(&place) {
                            Err(error) if is_damage(&error) => {
                                healed?;
                                last = Some(error);
                            }
                            other => return other,
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            if round == 0 {
                self.look_again()?;
            }
        }
        match last {
            Some(error) => Err(error),
            None => Err(self.lost(digest, "no pack of the index holds it")),
        }
    }

    /// The error for what no pack of the index holds: it is lost, unless there are packs that the
    /// index does not know.
    pub fn lost(&self, digest: &Digest, reason: &str) -> VaultError {
        let indexed = self.index.packs();
        let unlisted = self
            .list_packs()
            .map_or(0, |packs| packs.iter().filter(|pack| !indexed.contains_key(&pack.id)).count());
        match unlisted {
            0 => VaultError::Lost { digest: *digest, reason: reason.to_owned() },
            packs => VaultError::NotIndexed { digest: *digest, packs },
        }
    }

    /// Brings the index up to date when something was not found: reclaim may have moved it since
    /// the index was read, or the cache is damaged, which is looked into once, or an index object is
    /// lost, so that the packs themselves are asked.
    pub fn look_again(&self) -> Result<()> {
        if self.checked.swap(true, Ordering::Relaxed) {
            self.sync()?;
        } else {
            self.sync_checked()?;
        }
        self.ask_unlisted()
    }

    /// Has the store check all copies of a pack and replace bad ones.
    pub(crate) fn heal_pack(&self, kind: PackKind, id: &PackId) -> Result<Heal> {
        let key = names::pack(kind, id);
        if let Some(kept) = &self.kept {
            kept.forget(&windows_of(id));
        }
        let healed = self.store.heal(&key, &|bytes| pack::pack_id(bytes) == *id)?;
        self.windows.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(healed)
    }

    /// Reads a tree node.
    pub fn node(&self, digest: Digest) -> Result<Arc<Node>> {
        let cache = || self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = cache().get(&digest) {
            return Ok(node);
        }
        let node = self.try_places(&digest, |place| {
            self.with_record(place, |entry, payload| {
                let damaged = || VaultError::Pack { pack: place.pack };
                if entry.kind != RecordKind::Node || self.hasher().node(payload.bytes) != digest {
                    return Err(damaged());
                }
                Node::decode(payload.bytes).map_err(|_| damaged())
            })
        })?;
        let node = Arc::new(node);
        cache().put(digest, Arc::clone(&node));
        Ok(node)
    }
}

impl Vault {
    /// Has nodes read from the store from now on: what is in memory, or kept on this host, says nothing
    /// about it.
    pub(crate) fn read_from_store(&self) -> FromStore<'_> {
        self.windows.askers.fetch_add(1, Ordering::AcqRel);
        self.forget_nodes();
        FromStore(self)
    }

    /// Gives back the memory of the nodes that were read.
    pub(crate) fn forget_nodes(&self) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.windows.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Whether another copy may be better.
pub fn is_damage(error: &VaultError) -> bool {
    use strongroom_objects::StoreError;
    matches!(
        error,
        VaultError::Object { .. }
            | VaultError::Pack { .. }
            | VaultError::Lost { .. }
            | VaultError::NotIndexed { .. }
            | VaultError::UnknownKey { .. }
            | VaultError::PointDamaged { .. }
            | VaultError::Store(StoreError::Missing { .. } | StoreError::Length { .. })
    )
}

impl NodeReader for Vault {
    type Error = VaultError;

    fn read_node(&self, digest: Digest) -> Result<Arc<Node>> {
        self.node(digest)
    }
}

impl Reader<'_> {
    /// Reads a block into `plain`, which must be [`BLOCK_SIZE`] long. A hole is all zeros.
    pub fn block(&mut self, digest: &Digest, plain: &mut [u8]) -> Result<()> {
        if digest.is_hole() {
            plain.fill(0);
            return Ok(());
        }
        let vault = self.vault;
        vault.try_places(digest, |place| self.block_at(place, digest, plain))
    }

    /// Reads a block from one place.
    fn block_at(&mut self, place: &Location, digest: &Digest, plain: &mut [u8]) -> Result<()> {
        let vault = self.vault;
        if self.take_of_unit(&place.pack, &place.entry, digest, plain) {
            return Ok(());
        }
        let object = names::pack(place.header.kind, &place.pack);
        let key = vault.pack_key(&place.header, &object)?;
        let mut sealed = vault.sealed_record(place)?;
        let sealed = Sealed { bytes: &mut sealed, base: None };
        self.open_block(&place.entry, &place.pack, &key, sealed, digest, plain)
    }

    /// Whether the block is in a unit that this reader has opened a moment ago: then it is in `plain`.
    pub fn is_at_hand(&self, place: &Location, plain: &mut [u8]) -> bool {
        self.take_of_unit(&place.pack, &place.entry, &place.entry.digest, plain)
    }

    /// Opens the sealed bytes of a block that were fetched in bulk, in place. For a delta, its base may
    /// have been fetched as well: where it is, and its sealed bytes. If it is another one, or
    /// damaged, the base is read.
    pub fn open_fetched(
        &mut self,
        place: &Location,
        sealed: &mut [u8],
        base: Option<(&Location, &[u8])>,
        plain: &mut [u8],
    ) -> Result<()> {
        let object = names::pack(place.header.kind, &place.pack);
        let key = self.vault.pack_key(&place.header, &object)?;
        let sealed = Sealed { bytes: sealed, base };
        self.open_block(&place.entry, &place.pack, &key, sealed, &place.entry.digest, plain)
    }

    /// Reads the base of a delta into this reader's memory: from what was fetched, if that is it.
    fn read_base(&mut self, base: &Digest, fetched: Option<(&Location, &[u8])>) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.base);
        bytes.resize(BLOCK_SIZE, 0);
        let fetched = fetched.filter(|(place, _)| {
            place.entry.digest == *base && place.entry.kind != RecordKind::BlockDelta
        });
        let opened = match fetched {
            Some((place, _)) if self.is_at_hand(place, &mut bytes) => Ok(()),
            Some((place, sealed)) => {
                self.open_fetched(place, &mut sealed.to_vec(), None, &mut bytes)
            }
            None => Err(VaultError::Bug("a base that was not fetched")),
        };
        let read = match opened {
            Ok(()) => Ok(()),
            Err(_) => self.full_block(base, &mut bytes),
        };
        self.base = bytes;
        read
    }

    fn open_block(
        &mut self,
        entry: &Entry,
        pack: &PackId,
        key: &strongroom_format::SealKey,
        Sealed { bytes: sealed, base: fetched }: Sealed<'_>,
        digest: &Digest,
        plain: &mut [u8],
    ) -> Result<()> {
        let damaged = || VaultError::Pack { pack: *pack };
        let object = || names::pack(PackKind::Data, pack).to_string();
        let is_block = entry.kind.pack_kind() == PackKind::Data;
        if !is_block || usize::try_from(entry.plain_len) != Ok(plain.len()) {
            return Err(damaged());
        }
        let payload = entry
            .open(key, sealed)
            .map_err(|source| VaultError::Object { object: object(), source })?;
        if entry.kind == RecordKind::BlockUnit {
            let mut unit = self.room_for_unit(entry);
            let decoded = self.decoder.decode(Encoding::Zstd, payload.bytes, None, &mut unit.plain);
            decoded.map_err(|source| VaultError::Object { object: object(), source })?;
            (unit.pack, unit.offset) = (*pack, entry.offset);
            // One that was opened before was another copy.
            self.units.retain(|old| (old.pack, old.offset) != (unit.pack, unit.offset));
            self.units.push(unit);
            let taken = self.take_of_unit(pack, entry, digest, plain);
            return if taken { Ok(()) } else { Err(damaged()) };
        }
        let base = match payload.base {
            Some(base) => {
                self.read_base(&base, fetched)?;
                Some(self.base.as_slice())
            }
            None => None,
        };
        self.decoder
            .decode(entry.kind.encoding(), payload.bytes, base, plain)
            .map_err(|source| VaultError::Object { object: object(), source })?;
        if self.vault.hasher().block(plain) == *digest { Ok(()) } else { Err(damaged()) }
    }

    /// Memory for the plain bytes of a unit: that of the one that was opened first, if there are enough.
    fn room_for_unit(&mut self, entry: &Entry) -> Unit {
        let mut unit = if self.units.len() < UNITS_KEPT {
            Unit { pack: PackId::new([0; 32]), offset: 0, plain: Vec::new() }
        } else {
            self.units.remove(0)
        };
        unit.plain.resize(usize::try_from(entry.record_plain_len()).unwrap_or(0), 0);
        unit
    }

    /// Takes a block out of a unit that was opened before; false if it was not, or is not that block.
    fn take_of_unit(
        &self,
        pack: &PackId,
        entry: &Entry,
        digest: &Digest,
        plain: &mut [u8],
    ) -> bool {
        if entry.kind != RecordKind::BlockUnit {
            return false;
        }
        let is_it = |unit: &Unit| unit.pack == *pack && unit.offset == entry.offset;
        let Some(unit) = self.units.iter().find(|unit| is_it(unit)) else { return false };
        let start = entry.plain_start();
        match unit.plain.get(start..start.saturating_add(plain.len())) {
            Some(block) if self.vault.hasher().block(block) == *digest => {
                plain.copy_from_slice(block);
                true
            }
            _ => false,
        }
    }

    /// Reads a block that is not a delta: the base of one.
    pub fn full_block(&mut self, digest: &Digest, plain: &mut Vec<u8>) -> Result<()> {
        plain.resize(BLOCK_SIZE, 0);
        let vault = self.vault;
        vault.try_places(digest, |place| {
            if place.entry.kind == RecordKind::BlockDelta {
                return Err(VaultError::Pack { pack: place.pack });
            }
            self.block_at(place, digest, plain)
        })
    }

    /// The base that a new version of `previous` can be a delta against, read into `plain`:
    /// `previous` itself if it is stored in full, else the block that it is a delta against. `find`
    /// says where something that may be relied upon is.
    pub(crate) fn delta_base(
        &mut self,
        previous: &Digest,
        plain: &mut Vec<u8>,
        find: &dyn Fn(&Digest) -> Result<Option<Location>>,
    ) -> Result<Option<Digest>> {
        let vault = self.vault;
        let Some(place) = find(previous)? else { return Ok(None) };
        if place.entry.kind != RecordKind::BlockDelta {
            plain.resize(BLOCK_SIZE, 0);
            self.block_at(&place, previous, plain)?;
            return Ok(Some(*previous));
        }
        let base = vault
            .with_record(&place, |_, payload| Ok(payload.base))?
            .ok_or(VaultError::Pack { pack: place.pack })?;
        match find(&base)? {
            Some(place) if place.entry.kind != RecordKind::BlockDelta => {
                plain.resize(BLOCK_SIZE, 0);
                self.block_at(&place, &base, plain)?;
                Ok(Some(base))
            }
            _ => Ok(None),
        }
    }
}
