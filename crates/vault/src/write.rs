//! Writing: blocks and nodes in, packs and at last one recovery point out.
//!
//! ```text
//!  begin ─▶ announce ─▶ condemnations, index, points ─▶ packs, newest manifest ─▶ adopt leftovers
//!  store_block, store_node ─▶ open packs ─full─▶ uploaders ─durable─▶ index
//!  publish ─▶ close packs ─▶ index object ─▶ manifest (create-only: the one step) ─▶ take leave
//! ```
//!
//! The order of the first line is what makes reclaim safe beside writers; see
//! `docs/decisions/0004-reclaim.md`. Dropping a writer that was not published keeps what landed,
//! for the next run to reuse.

use std::{
    collections::HashSet,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use strongroom_base::{AlignedBuf, Digest, PackId, PointId, WriterId, lock, start_thread};
use strongroom_format::{
    Conditional, FormatError, IndexObject, Manifest,
    names::{self, ItemKey},
    pack::{Contents, FinishedPack, Header, MAX_UNIT, PackBuilder, PackKind, Packing, RecordKind},
    sealed::SealedKind,
};
use strongroom_image::Image;
use strongroom_objects::{Entry, Put};

use crate::{
    DamagedManifest, Location, Reader, Vault, VaultError,
    condemned::Condemned,
    error::Result,
    index::Trust,
    read::is_damage,
    together::{Piece, ask, parts_for},
    voids::Named,
    writers::{Life, Seen, WriterNote},
};

/// Bytes after which a node pack is closed: small, as a run writes few nodes.
pub(crate) const NODE_PACK: usize = 8 * 1024 * 1024;
/// Blocks that share a record in a backup, at most. Twice as many store 0.7 % less, and reading one block
/// takes twice as long: see `docs/decisions/0003-compression.md`.
const BACKUP_UNIT: usize = 8;
/// Parts of the set of claims, so that threads seldom wait for each other.
const SHARDS: usize = 16;
/// Records that are in no index object yet, at most: they are in memory until then, and several times over while
/// an object is made of them. So an index object of a backup lists 2 GiB of blocks; reclaim joins small ones.
const INDEX_RECORDS: usize = IndexObject::TARGET_RECORDS / 16;
/// How often a writer shows that it lives.
const BEAT_EVERY: Duration = Duration::from_mins(1);

/// The newest readable point of an item, if there is one, and those newer ones that are damaged.
type Newest = (Option<Manifest>, Vec<DamagedManifest>);

/// Somebody who writes to a vault.
pub struct Writer {
    shared: Arc<Shared>,
    target: Option<(ItemKey, PointId)>,
    /// When its note was put, by the monotonic clock.
    put_at: Duration,
    /// The newest point of the item, until it is asked for.
    parent: Mutex<Option<Newest>>,
    data: Mutex<Option<PackBuilder>>,
    /// How new packs of data are packed.
    packing: Packing,
    nodes: Mutex<Option<PackBuilder>>,
    /// To those who put packs of data, and who put packs of nodes.
    uploads: Option<[Sender<FinishedPack>; 2]>,
    threads: Vec<JoinHandle<()>>,
    finished: bool,
}

/// What the writer's threads share.
struct Shared {
    vault: Arc<Vault>,
    id: WriterId,
    target: Option<(ItemKey, PointId)>,
    /// Bytes of durable packs.
    stored: AtomicU64,
    /// Bytes of durable index objects.
    indexed: AtomicU64,
    /// Contents of durable packs that are in no index object yet.
    landed: Mutex<Vec<Contents>>,
    /// Digests that this writer stores and that no index object lists yet. Of this writer alone:
    /// another one may fail before its packs are durable and listed.
    claims: [Mutex<HashSet<Digest>>; SHARDS],
    /// What may be relied upon.
    trust: Arc<Trust>,
    failure: Mutex<Option<VaultError>>,
    failed: std::sync::atomic::AtomicBool,
    beats: AtomicU64,
    stop: (Mutex<bool>, Condvar),
    /// Memory of packs that are durable, for the next ones.
    spare: Mutex<Vec<AlignedBuf>>,
    /// Packs of data that are being filled or put: they are most of a run's memory.
    data_packs: (Mutex<usize>, Condvar),
}

impl Writer {
    /// Announces a writer that will publish one recovery point of `item`.
    pub fn begin(vault: &Arc<Vault>, item: &str, host: &str) -> Result<Self> {
        let folder = vault.item_key(item)?;
        let mut writer = Self::announce(vault, host, "backup", Some(folder))?;
        let prepared = writer.prepare(Some((item, folder)))?;
        writer.parent = Mutex::new(prepared);
        writer.start_threads();
        Ok(writer)
    }

    /// Announces a writer that only copies packs.
    pub(crate) fn begin_copy(vault: &Arc<Vault>, host: &str) -> Result<Self> {
        Self::begin_without_point(vault, host, "reclaim")
    }

    /// Announces a writer that publishes nothing.
    pub(crate) fn begin_without_point(
        vault: &Arc<Vault>,
        host: &str,
        purpose: &str,
    ) -> Result<Self> {
        let mut writer = Self::announce(vault, host, purpose, None)?;
        writer.prepare(None)?;
        writer.start_threads();
        Ok(writer)
    }

    /// Announces a writer, which publishes a point of `item`, or nothing.
    fn announce(
        vault: &Arc<Vault>,
        host: &str,
        purpose: &str,
        item: Option<ItemKey>,
    ) -> Result<Self> {
        let mut fresh = vault.new_point();
        loop {
            let (target, mut newer) = (item.map(|item| (item, fresh)), None);
            let id = WriterId::generate(&*vault.options.clock, &*vault.options.entropy);
            let note = WriterNote::new(id, host, vault.options.clock.now(), purpose, target);
            let plain =
                serde_json::to_vec(&note).map_err(|_| VaultError::Bug("a note without text"))?;
            let put_at = vault.options.clock.monotonic();
            let name = names::writer_target(id, target);
            // If it is lost, its writer has ended with the machine.
            let put = || vault.put_sealed_passing(SealedKind::Writer, &name, &plain).map(drop);
            let mut pieces: Vec<Piece<'_>> = vec![Box::new(put)];
            if let Some((item, point)) = target {
                pieces.push(ask(&mut newer, move || vault.point_after(item, point)));
            }
            let announced = vault.together(pieces);
            if announced.is_ok() && newer.is_none() {
                return Ok(Self::new(vault, id, target, put_at));
            }
            // Nothing was written yet, and never will be under this name.
            let removed = vault.store.delete_passing(&name);
            announced?;
            removed?;
            // A point of a later time is there: a clock was ahead. The new one must be the newest.
            fresh = newer.map_or(fresh, |newer| vault.new_point_after(newer));
        }
    }

    fn new(
        vault: &Arc<Vault>,
        id: WriterId,
        target: Option<(ItemKey, PointId)>,
        put_at: Duration,
    ) -> Self {
        let shared = Arc::new(Shared {
            vault: Arc::clone(vault),
            id,
            target,
            stored: AtomicU64::new(0),
            indexed: AtomicU64::new(0),
            landed: Mutex::default(),
            claims: std::array::from_fn(|_| Mutex::default()),
            // After the note was put: see `Index::audience`.
            trust: vault.index.new_trust(),
            failure: Mutex::default(),
            failed: false.into(),
            beats: AtomicU64::new(0),
            stop: (Mutex::new(false), Condvar::new()),
            spare: Mutex::default(),
            data_packs: (Mutex::new(0), Condvar::new()),
        });
        Self {
            shared,
            target,
            put_at,
            parent: Mutex::default(),
            data: Mutex::default(),
            packing: vault.packing(),
            nodes: Mutex::default(),
            uploads: None,
            threads: Vec::new(),
            finished: false,
        }
    }

    /// Learns what may be relied upon, and what there is. Returns the newest point of the item, as
    /// [`Self::newest_readable`] has it.
    ///
    /// Everything here follows the note. The list of packs follows the condemnations: a pack that is
    /// condemned later waits for this writer; one whose condemnation was taken back before is gone
    /// from the list. The manifest follows the lists of points: one that is removed has no manifest.
    fn prepare(&self, of: Option<(&str, ItemKey)>) -> Result<Option<Newest>> {
        let vault = &self.shared.vault;
        let own = Some((self.shared.id, self.put_at));
        let (mut condemned, mut noted, mut others) = (Condemned::default(), HashSet::new(), vec![]);
        let mut names = None;
        let mut pieces: Vec<Piece<'_>> = vec![
            ask(&mut condemned, || vault.condemned_packs()),
            ask(&mut noted, || match vault.take_damaged_at_opening() {
                Some(noted) => Ok(noted),
                None => vault.damaged_packs(),
            }),
            ask(&mut others, || vault.writers_seen_by(own)),
            Box::new(|| vault.sync()),
        ];
        if let Some((_, folder)) = of {
            pieces.push(ask(&mut names, move || vault.newest_names(folder).map(Some)));
            pieces.push(Box::new(|| {
                vault.describe_twice();
                Ok(())
            }));
        }
        vault.together(pieces)?;
        let (mut existing, mut newest) = (HashSet::new(), None);
        let mut pieces: Vec<Piece<'_>> = vec![ask(&mut existing, || vault.pack_ids())];
        if let Some(((item, folder), names)) = of.zip(names) {
            let read = move || vault.newest_among(item, folder, names).map(Some);
            pieces.push(ask(&mut newest, read));
        }
        vault.together(pieces)?;
        let condemned = match condemned.unreadable.first() {
            None => condemned.packs,
            Some(error) => {
                tracing::warn!(%error, "a condemnation cannot be read: blocks are stored again even if the vault has them, unless the parent point has them");
                existing.clone()
            }
        };
        self.shared.trust.begin(existing.clone(), condemned);
        vault.index.set_noted(noted);
        let others = others.into_iter().filter(|writer| writer.id != self.shared.id);
        let (active, gone): (Vec<_>, Vec<_>) = others.partition(|w| w.life == Life::Active);
        if vault.config.create_only_puts == Conditional::Ignored
            && let Some(other) = active.first()
        {
            let who = other.note.as_ref().map_or("unknown".to_owned(), |note| {
                format!("{} on {} since {}", note.purpose, note.host, note.started)
            });
            return Err(VaultError::Busy { store: vault.store.name(), who });
        }
        if of.is_some() {
            self.adopt(&existing, gone, active.is_empty())?;
        }
        Ok(newest)
    }

    /// Takes over what interrupted runs have left, and gives up who is `gone`.
    fn adopt(&self, existing: &HashSet<PackId>, gone: Vec<Seen>, alone: bool) -> Result<()> {
        let vault = &self.shared.vault;
        // Packs that no index object lists: of an interrupted run, or the index object is lost.
        // While others write, they are more likely theirs.
        let is_unlisted = || {
            let indexed = vault.index.listed_packs();
            existing.iter().any(|pack| !indexed.contains(pack))
        };
        let mut unlisted = alone && is_unlisted();
        if unlisted {
            // The packs were listed after the index: somebody may have been done in between.
            vault.sync()?;
            unlisted = is_unlisted();
        }
        if gone.is_empty() && !unlisted {
            return Ok(());
        }
        let adopted = vault.adopt_leftovers()?;
        tracing::info!(packs = adopted, "found packs of an interrupted run");
        // While a copy is missing nobody may be declared dead, and nothing can be deleted.
        if vault.store.degraded().is_empty() {
            for writer in gone {
                vault.expire(&writer)?;
            }
        }
        Ok(())
    }

    /// The newest point of the item that was visible when this writer began, and those newer ones that
    /// cannot be read: as [`Vault::newest_readable`].
    pub fn newest_readable(&self) -> Result<Newest> {
        match lock(&self.parent).take() {
            Some(newest) => Ok(newest),
            None => Err(VaultError::Bug("a writer is asked for the newest point once")),
        }
    }

    fn start_threads(&mut self) {
        let options = &self.shared.vault.options;
        if options.uploaders > 0 {
            let of_data = self.shared.vault.data_uploaders();
            // Nobody queues: a pack that is handed on is being put, and what is full waits for that.
            let channels = [of_data, 1].map(|threads| (threads, bounded::<FinishedPack>(0)));
            self.uploads = Some(channels.map(|(threads, (sender, receiver))| {
                for _ in 0..threads {
                    let (shared, receiver): (_, Receiver<_>) =
                        (Arc::clone(&self.shared), receiver.clone());
                    self.threads.push(start_thread("uploads", move || {
                        for pack in receiver {
                            if let Err(error) = shared.upload(pack) {
                                shared.fail(error);
                            }
                        }
                    }));
                }
                sender
            }));
        }
        if options.beats {
            let shared = Arc::clone(&self.shared);
            self.threads.push(start_thread("beats", move || shared.beat_until_stopped()));
        }
    }

    /// Its id, by which others know it.
    pub fn id(&self) -> WriterId {
        self.shared.id
    }

    /// The point that will be published.
    pub fn point(&self) -> Option<PointId> {
        self.target.map(|(_, point)| point)
    }

    /// Sealed bytes made durable so far.
    pub fn stored_bytes(&self) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        load(&self.shared.stored).saturating_add(load(&self.shared.indexed))
    }

    /// Asks whether the caller must store this digest. True is given to one caller only; to the
    /// others the digest counts as known, as it will be when this writer publishes.
    pub fn claim(&self, digest: &Digest) -> Result<bool> {
        if lock(self.shared.claims_of(digest)).contains(digest) {
            return Ok(false);
        }
        let known = self.find_reliable(digest)?;
        Ok(known.is_none() && lock(self.shared.claims_of(digest)).insert(*digest))
    }

    fn find_reliable(&self, digest: &Digest) -> Result<Option<Location>> {
        let (vault, trust) = (&self.shared.vault, &self.shared.trust);
        vault.index.find_reliable(digest, trust).map_err(|error| vault.local_error(error))
    }

    /// The full block that a new version of `previous` may be a delta against, with its content in
    /// `plain`: `previous` itself, or its base. None if this writer may not rely on it.
    pub fn delta_base(
        &self,
        reader: &mut Reader<'_>,
        previous: &Digest,
        plain: &mut Vec<u8>,
    ) -> Result<Option<Digest>> {
        reader.delta_base(previous, plain, &|digest| self.find_reliable(digest))
    }

    /// Whether every node and block of the images exists: see `whole.rs`.
    pub fn holds(&self, images: &[Image]) -> Result<bool> {
        self.shared.vault.holds(images, &self.shared.trust)
    }

    /// Stores a block that [`Self::claim`] gave to the caller. Returns its sealed bytes.
    pub fn store_block(
        &self,
        kind: RecordKind,
        digest: Digest,
        plain_len: usize,
        base: Option<Digest>,
        payload: &[u8],
    ) -> Result<u32> {
        self.append(PackKind::Data, kind, digest, plain_len, base, payload)
    }

    /// How many new blocks should share a record: a reader of one of them opens the whole record. At
    /// least 1.
    pub fn unit_blocks(&self) -> usize {
        match self.packing {
            Packing::Single => 1,
            Packing::Units => BACKUP_UNIT,
            Packing::Tight => MAX_UNIT,
        }
    }

    /// Whether [`Self::store_unit`] may store a payload of this number of blocks: earlier programs may have
    /// put more of them together than [`Self::unit_blocks`]. With larger payloads packs would not become
    /// full.
    pub fn takes_unit(&self, blocks: usize, payload: &[u8]) -> bool {
        let most = if self.packing == Packing::Single { 1 } else { MAX_UNIT };
        blocks <= most && payload.len() <= self.shared.vault.options.pack_size / 2
    }

    /// Stores blocks that [`Self::claim`] gave to the caller as one record: `payload` is one frame with
    /// all of them. Returns its sealed bytes.
    pub fn store_unit(&self, digests: &[Digest], payload: &[u8]) -> Result<u32> {
        let fits = |builder: &PackBuilder| builder.fits_with(payload.len(), digests.len());
        self.append_by(PackKind::Data, fits, |builder| builder.append_unit(digests, payload))
    }

    /// Says how packs of data are packed from now on: in place of how the vault has them.
    pub(crate) fn set_packing(&mut self, packing: Packing) -> Result<()> {
        if self.packing != packing {
            self.packing = packing;
            let open = lock(&self.data).take();
            if let Some(builder) = open {
                self.close(builder)?;
            }
        }
        Ok(())
    }

    /// Stores a tree node unless the vault has it.
    pub fn store_node(&self, digest: Digest, encoded: &[u8]) -> Result<()> {
        if self.claim(&digest)? {
            self.append(PackKind::Node, RecordKind::Node, digest, encoded.len(), None, encoded)?;
        }
        Ok(())
    }

    pub(crate) fn append(
        &self,
        pack_kind: PackKind,
        kind: RecordKind,
        digest: Digest,
        plain_len: usize,
        base: Option<Digest>,
        payload: &[u8],
    ) -> Result<u32> {
        let fits = |builder: &PackBuilder| builder.fits(payload.len());
        let append = |builder: &mut PackBuilder| {
            let entry = builder.append(kind, digest, plain_len, base, payload)?;
            Ok(entry.stored_len)
        };
        self.append_by(pack_kind, fits, append)
    }

    /// Appends to the open pack, or to the next one if it does not fit.
    fn append_by(
        &self,
        pack_kind: PackKind,
        fits: impl FnOnce(&PackBuilder) -> bool,
        append: impl FnOnce(&mut PackBuilder) -> Result<u32, FormatError>,
    ) -> Result<u32> {
        self.check()?;
        let format = |source| VaultError::Format { what: "a record", source };
        let slot = match pack_kind {
            PackKind::Data => &self.data,
            PackKind::Node => &self.nodes,
        };
        let mut full = None;
        let stored = {
            let mut open = lock(slot);
            if open.as_ref().is_some_and(|builder| !fits(builder)) {
                full = open.take();
            }
            let builder = match &mut *open {
                Some(builder) => Ok(builder),
                None => self.new_pack(pack_kind).map(|new| open.insert(new)),
            };
            builder.and_then(|builder| append(builder).map_err(format))
        };
        match full {
            Some(full) if stored.is_ok() => self.close(full)?,
            // The run fails; nobody may wait for this pack.
            Some(_) => self.shared.pack_is_gone(pack_kind),
            None => {}
        }
        stored
    }

    /// How many packs of data may exist at once: one is filled while the others are being put.
    fn most_data_packs(&self) -> usize {
        self.shared.vault.data_uploaders().saturating_add(1)
    }

    /// Opens a pack. Waits while as many packs of data exist as may: that bounds the memory of a run.
    fn new_pack(&self, kind: PackKind) -> Result<PackBuilder> {
        let vault = &self.shared.vault;
        if kind == PackKind::Data {
            let (count, freed) = &self.shared.data_packs;
            let mut count = lock(count);
            while self.uploads.is_some() && *count >= self.most_data_packs() {
                count = freed.wait(count).unwrap_or_else(PoisonError::into_inner);
            }
            *count = count.saturating_add(1);
        }
        self.open_pack(vault, kind).inspect_err(|_| self.shared.pack_is_gone(kind))
    }

    fn open_pack(&self, vault: &Vault, kind: PackKind) -> Result<PackBuilder> {
        let (key_id, salt) = vault.fresh();
        let packing = match kind {
            PackKind::Data => self.packing,
            PackKind::Node => Packing::Single,
        };
        let header = Header { kind, key_id, salt, packing };
        let capacity = match kind {
            PackKind::Data => vault.options.pack_size,
            PackKind::Node => NODE_PACK.min(vault.options.pack_size),
        };
        let key = vault.new_pack_key(&header)?;
        let spare = {
            let mut spare = lock(&self.shared.spare);
            let at = spare.iter().position(|buf| buf.capacity() == capacity);
            at.map(|at| spare.swap_remove(at))
        };
        let memory = spare.unwrap_or_else(|| AlignedBuf::with_capacity(capacity));
        PackBuilder::within(header, key, memory)
            .map_err(|source| VaultError::Format { what: "a pack", source })
    }

    /// Names a full pack and hands it to the uploaders. Blocks while they are busy: that bounds
    /// the memory of a run.
    fn close(&self, builder: PackBuilder) -> Result<()> {
        let kind = builder.kind();
        let pack = builder.finish().map_err(|source| {
            self.shared.pack_is_gone(kind);
            VaultError::Format { what: "a pack", source }
        })?;
        match &self.uploads {
            Some([data, nodes]) => {
                let uploads = match pack.contents.header.kind {
                    PackKind::Data => data,
                    PackKind::Node => nodes,
                };
                uploads.send(pack).map_err(|_| VaultError::Aborted)
            }
            None => self.shared.upload(pack),
        }
    }

    fn check(&self) -> Result<()> {
        if self.shared.failed.load(Ordering::Relaxed) { Err(self.failure()) } else { Ok(()) }
    }

    fn failure(&self) -> VaultError {
        lock(&self.shared.failure).take().unwrap_or(VaultError::Aborted)
    }

    /// Closes the open packs and waits until everything is durable and indexed.
    pub fn finish_packs(&mut self) -> Result<()> {
        for slot in [&self.data, &self.nodes] {
            let open = lock(slot).take();
            if let Some(builder) = open.filter(|builder| !builder.is_empty()) {
                self.close(builder)?;
            }
        }
        self.stop_threads();
        self.check()?;
        lock(&self.shared.spare).clear();
        self.shared.flush_index()
    }

    fn stop_threads(&mut self) {
        self.uploads = None;
        *lock(&self.shared.stop.0) = true;
        self.shared.stop.1.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(VaultError::Bug("a thread of the writer panicked"));
            }
        }
    }

    /// Makes the recovery point visible: the one step after which it exists. Everything the
    /// manifest needs must have been stored; [`Self::finish_packs`] is called first.
    pub fn publish(mut self, manifest: &Manifest) -> Result<()> {
        self.finish_packs()?;
        let (item, point) =
            self.target.ok_or(VaultError::Bug("a writer without a point cannot publish"))?;
        let plain = manifest
            .encode()
            .map_err(|source| VaultError::Format { what: "the manifest", source })?;
        let vault = Arc::clone(&self.shared.vault);
        let put = vault.put_sealed(SealedKind::Manifest, &names::point(item, point), &plain);
        self.finished = true;
        let put = match put {
            // In a mirror it may be our own that exists: other copies had decided otherwise.
            Ok(Put::Exists) => match vault.manifest(item, point) {
                Ok(Some(_)) => Put::Created,
                Err(error) if !is_damage(&error) => return Err(error),
                _ => Put::Exists,
            },
            Ok(Put::Created) => Put::Created,
            Err(error) => self.decide(item, point, error)?,
        };
        // The point exists, or never will: a note that stays behind is swept up by others.
        if let Err(error) = self.shared.leave() {
            tracing::warn!(%error, "the writer's note stays for the next reclaim");
        }
        match put {
            Put::Created => Ok(()),
            Put::Exists => Err(VaultError::Expired { point }),
        }
    }

    /// After a put that failed, the manifest may be there, may still come, or never: a void decides.
    /// Without a decision the writer's note stays, and a process that expires it decides.
    fn decide(&self, item: ItemKey, point: PointId, error: VaultError) -> Result<Put> {
        let vault = &self.shared.vault;
        match vault.put_void(item, point, Some(self.shared.id)) {
            Ok(Put::Created) => {
                // What stays of the note is swept up by others.
                self.shared.leave().ok();
                Err(error)
            }
            Ok(Put::Exists) if vault.manifest(item, point)?.is_some() => Ok(Put::Created),
            Ok(Put::Exists) => Ok(Put::Exists),
            Err(_) => Err(error),
        }
    }

    /// Ends a writer that publishes nothing. Returns the bytes of its packs.
    pub fn end(mut self) -> Result<u64> {
        self.finish_packs()?;
        self.finished = true;
        self.shared.leave()?;
        Ok(self.shared.stored.load(Ordering::Relaxed))
    }
}

impl Drop for Writer {
    /// Keeps what landed for the next run, as far as the store still answers.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.stop_threads();
        let kept = self.shared.flush_index();
        let left = self.shared.leave();
        if let Err(error) = kept.and(left) {
            tracing::warn!(%error, "leftovers of a failed run stay for the next one");
        }
    }
}

impl Vault {
    /// How many packs of data a writer puts at once. A local disk is busy with one: a second one would only
    /// take memory.
    fn data_uploaders(&self) -> usize {
        let uploaders = self.options.uploaders;
        if self.store.is_local() { uploaders.min(1) } else { uploaders }
    }
}

impl Shared {
    fn claims_of(&self, digest: &Digest) -> &Mutex<HashSet<Digest>> {
        let number = usize::from(digest.as_bytes()[31] & 15);
        self.claims.get(number).unwrap_or(&self.claims[0])
    }

    fn fail(&self, error: VaultError) {
        let mut failure = lock(&self.failure);
        if !self.failed.swap(true, Ordering::Relaxed) {
            *failure = Some(error);
        }
    }

    /// Puts a pack, and makes room for the next one, also if that fails.
    fn upload(&self, pack: FinishedPack) -> Result<()> {
        let kind = pack.contents.header.kind;
        let put = self.put_pack(pack);
        self.pack_is_gone(kind);
        put
    }

    /// A pack is no longer in memory.
    fn pack_is_gone(&self, kind: PackKind) {
        if kind == PackKind::Data {
            let mut count = lock(&self.data_packs.0);
            *count = count.saturating_sub(1);
            self.data_packs.1.notify_all();
        }
    }

    fn put_pack(&self, pack: FinishedPack) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Ok(()); // the run has failed: drop what is queued
        }
        let FinishedPack { bytes, contents } = pack;
        let key = names::pack(contents.header.kind, &contents.id);
        let audience = self.vault.index.audience();
        self.vault.store.put_new(&key, &bytes)?;
        if contents.header.kind == PackKind::Node {
            self.vault.keep_windows(&contents.id, &bytes);
        }
        lock(&self.spare).push(bytes);
        self.stored.fetch_add(contents.size, Ordering::Relaxed);
        audience.landed(contents.id);
        let records = {
            let mut landed = lock(&self.landed);
            landed.push(contents);
            landed.iter().map(|contents| contents.entries.len()).sum::<usize>()
        };
        if records >= INDEX_RECORDS { self.flush_index() } else { Ok(()) }
    }

    /// Writes an index object for the packs that have none.
    fn flush_index(&self) -> Result<()> {
        let packs = std::mem::take(&mut *lock(&self.landed));
        if packs.is_empty() {
            return Ok(());
        }
        let digests: Vec<Digest> =
            packs.iter().flat_map(|pack| pack.entries.iter().map(|entry| entry.digest)).collect();
        let stored = self.vault.put_index(packs)?;
        self.indexed.fetch_add(stored, Ordering::Relaxed);
        // The index has them now.
        for digest in digests {
            lock(self.claims_of(&digest)).remove(&digest);
        }
        Ok(())
    }

    fn beat_until_stopped(&self) {
        let mut stopped = lock(&self.stop.0);
        loop {
            // The stop may have come before this thread began to wait.
            if *stopped {
                return;
            }
            let (guard, timeout) = self
                .stop
                .1
                .wait_timeout(stopped, BEAT_EVERY)
                .unwrap_or_else(PoisonError::into_inner);
            stopped = guard;
            if timeout.timed_out() && !*stopped {
                drop(stopped);
                if let Err(error) = self.beat() {
                    // One missed beat is no harm; a store that is gone shows at the next put.
                    tracing::warn!(%error, "could not renew the writer's beat");
                }
                stopped = lock(&self.stop.0);
            }
        }
    }

    /// Removes the writer's objects. One that never had to show that it lives has its note alone.
    fn leave(&self) -> Result<()> {
        if self.beats.load(Ordering::Relaxed) > 0 {
            return self.vault.remove_writer(self.id);
        }
        Ok(self.vault.store.delete_passing(&names::writer_target(self.id, self.target))?)
    }

    /// Shows that the writer lives, and learns whether it has been expired.
    fn beat(&self) -> Result<()> {
        let number = self.beats.fetch_add(1, Ordering::Relaxed);
        self.vault.store.put_passing(&names::writer_beat(self.id, number), b"")?;
        if let Some(last) = number.checked_sub(1) {
            self.vault.store.delete_passing(&names::writer_beat(self.id, last))?;
        }
        if let Some((item, point)) = self.target
            && matches!(self.vault.named(item, point)?, Named::Void)
        {
            self.fail(VaultError::Expired { point });
        }
        Ok(())
    }
}

/// A pack as the store lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPack {
    /// What it holds.
    pub kind: PackKind,
    /// Its name.
    pub id: PackId,
    /// Its bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: jiff::Timestamp,
}

impl Vault {
    /// The packs that exist.
    fn pack_ids(&self) -> Result<HashSet<PackId>> {
        Ok(self.list_packs()?.into_iter().map(|pack| pack.id).collect())
    }

    /// The objects that packs are, listed in parts: their names are spread evenly, and how many there
    /// are is known nearly.
    fn pack_objects(&self) -> Result<Vec<Entry>> {
        let mut counts = [(PackKind::Data, 0_usize), (PackKind::Node, 0)];
        if self.store.lists_by_name() {
            for (header, _) in self.index.packs().values() {
                let count = counts.iter_mut().filter(|(kind, _)| *kind == header.kind);
                count.for_each(|(_, count)| *count = count.saturating_add(1));
            }
        }
        let cuts = counts.into_iter().flat_map(|(kind, count)| {
            let parts = parts_for(count);
            (0..parts).map(move |part| {
                let at = part.saturating_mul(1 << 16).checked_div(parts).unwrap_or(0);
                let [high, low] = u16::try_from(at).unwrap_or(u16::MAX).to_be_bytes();
                let mut first = [0; 32];
                (first[0], first[1]) = (high, low);
                names::pack(kind, &PackId::new(first))
            })
        });
        // Nothing comes before the first.
        let cuts: Vec<_> = cuts.skip(1).collect();
        let cuts =
            if counts.iter().all(|(_, count)| parts_for(*count) == 1) { vec![] } else { cuts };
        self.list_in_parts(names::PACKS, &cuts)
    }

    /// All packs that exist.
    pub(crate) fn list_packs(&self) -> Result<Vec<ListedPack>> {
        Ok(self
            .pack_objects()?
            .into_iter()
            .filter_map(|entry| {
                let (kind, id) = names::parse_pack(&entry.key)?;
                Some(ListedPack { kind, id, size: entry.size, modified: entry.modified })
            })
            .collect())
    }

    /// Seals and puts an index object for packs, and adds them to the local index. Returns its
    /// bytes.
    pub(crate) fn put_index(&self, packs: Vec<Contents>) -> Result<u64> {
        let object = IndexObject { packs };
        let id = self.new_ulid();
        let plain =
            object.encode().map_err(|source| VaultError::Format { what: "the index", source })?;
        let name = names::index(id);
        let sealed = self.seal(SealedKind::Index, &name, &plain)?;
        drop(plain);
        self.store.put_new(&name, &sealed)?;
        let bytes = u64::try_from(sealed.len()).unwrap_or(u64::MAX);
        drop(sealed);
        self.index.add(&[(id, &object.packs)]).map_err(|error| self.local_error(error))?;
        Ok(bytes)
    }
}
